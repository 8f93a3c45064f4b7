"""Castings that nobody designed: thickness maps, float32 (H, W) in mm, drawn from families of geometry.

Everything that is *not* a defect but looks like an edge, a spot, a line or a cloud is made here, because an engine that
has not seen many of them calls them defects. Six families are there to learn from (``FAMILIES``); two more
(``UNSEEN_FAMILIES``) are composed differently and are kept for examinations.

Lateral sizes are drawn in pixels, not in millimetres: what a network sees of a part is its shadow on the detector, and
the same shadow belongs to a small part seen closely and to a large one seen from afar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["FAMILIES", "UNSEEN_FAMILIES", "random_casting"]

Map = NDArray[np.float32]
Mask = NDArray[np.uint8]

#: Thickness of the thin wall in pixels of its own shadow: so many times thicker than a pixel is wide.
_WALL_PX = (18.0, 140.0)
_WALL_MM = (1.2, 45.0)
# Smallest diameter of a designed hollow that does not go through.
_LEAST_HOLLOW_PX = 30.0


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A casting under construction. part: thickness in mm, changed in place. wall_mm: of the thin wall."""

    rng: np.random.Generator
    part: Map
    wall_mm: float

    @property
    def height(self) -> int:
        return int(self.part.shape[0])

    @property
    def width(self) -> int:
        return int(self.part.shape[1])

    @property
    def span(self) -> int:
        return int(max(self.part.shape))

    def log(self, low: float, high: float) -> float:
        """Log-uniform between two positive numbers."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def place(self, margin: float = 0.1) -> tuple[float, float]:
        """(x, y) anywhere in the picture or a little outside."""
        return (float(self.rng.uniform(-margin, 1 + margin) * self.width),
                float(self.rng.uniform(-margin, 1 + margin) * self.height))  # fmt: skip

    def coordinates(self, x0: float, y0: float) -> tuple[Map, Map]:
        """(y, x) of every pixel from a point, as a column and a row."""
        return (np.arange(self.height, dtype=np.float32)[:, None] - np.float32(y0),
                np.arange(self.width, dtype=np.float32)[None, :] - np.float32(x0))  # fmt: skip


def random_casting(
    rng: np.random.Generator, size_px: tuple[int, int], mm_per_px: float, family: str | None = None
) -> tuple[Map, float]:
    """A casting and the thickness of its thin wall in mm. family: one of FAMILIES or UNSEEN_FAMILIES, None draws one
    of FAMILIES."""
    if family is None:
        family = tuple(FAMILIES)[int(rng.choice(len(FAMILIES), p=_SHARES))]
    wall = float(np.clip(np.exp(rng.uniform(*np.log(_WALL_PX))) * mm_per_px, *_WALL_MM))
    sheet = _Sheet(rng, np.full(size_px, np.float32(wall)), wall)
    _tilt(sheet)
    (FAMILIES | UNSEEN_FAMILIES)[family](sheet)
    if rng.random() < 0.3:  # a body whose edges are rounded in all three dimensions
        cv2.GaussianBlur(sheet.part, (0, 0), sheet.log(1.5, 9.0), dst=sheet.part)
    _texture(sheet)
    _furniture(sheet)
    np.clip(sheet.part, 0.0, 12.0 * wall + 10.0, out=sheet.part)
    return sheet.part, wall


# --- shapes: masks, and how far inside them a pixel lies


def _signed(mask: Mask) -> Map:
    """Distance in pixels to the outline, positive inside."""
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    # The outline of a pixel mask is a staircase; a drawn edge is not.
    return np.asarray(cv2.GaussianBlur(inside - outside, (0, 0), 0.9), np.float32)


def _edge(rng: np.random.Generator, inside_px: Map, width_px: float, kind: str | None = None) -> Map:
    """0 outside to 1 inside across an edge ``width_px`` wide: straight draft, S-shaped, or a fillet of either sense."""
    kind = kind or ("straight", "smooth", "convex", "concave")[int(rng.choice(4, p=[0.35, 0.3, 0.2, 0.15]))]
    t = np.clip(inside_px * np.float32(1.0 / max(width_px, 0.3)) + np.float32(0.5), 0.0, 1.0)
    if kind == "smooth":
        t = t * t * (3.0 - 2.0 * t)
    elif kind == "convex":
        t = np.sqrt(t * (2.0 - t))
    elif kind == "concave":
        t = 1.0 - np.sqrt(1.0 - t * t)
    return np.asarray(t, np.float32)


def _dome(inside_px: Map, radius_px: float) -> Map:
    """Path through a round bar or ball of that radius, 1 on its axis; flat beyond it."""
    t = np.clip(inside_px * np.float32(1.0 / max(radius_px, 0.5)), 0.0, 1.0)
    return np.asarray(np.sqrt(t * (2.0 - t)), np.float32)


def _canvas(sheet: _Sheet) -> Mask:
    return np.zeros((sheet.height, sheet.width), np.uint8)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(points * 16).astype(np.int32)


def _polygon(sheet: _Sheet, points: NDArray[np.float64]) -> Mask:
    mask = _canvas(sheet)
    cv2.fillPoly(mask, [_fixed(points)], 1, cv2.LINE_8, 4)
    return mask


def _blob(sheet: _Sheet, at: tuple[float, float], radius_px: float) -> Mask:
    """A rounded outline that no ruler drew."""
    turns = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.ones(72)
    for order in range(2, 6):
        radius += sheet.rng.normal(0.0, 0.22 / order) * np.cos(order * turns + sheet.rng.uniform(0, 2 * np.pi))
    stretch, angle = sheet.rng.uniform(0.4, 1.0), sheet.rng.uniform(0, np.pi)
    x, y = radius_px * radius * np.cos(turns), radius_px * stretch * radius * np.sin(turns)
    return _polygon(sheet, np.stack([at[0] + x * np.cos(angle) - y * np.sin(angle),
                                     at[1] + x * np.sin(angle) + y * np.cos(angle)], 1))  # fmt: skip


def _angle(sheet: _Sheet) -> float:
    """Parts mostly lie straight."""
    return float(sheet.rng.choice([0.0, np.pi / 2, sheet.rng.uniform(0, np.pi)]))


def _box(sheet: _Sheet, at: tuple[float, float], half: tuple[float, float], angle: float, corner: float) -> Map:
    """Distance into a turned rectangle with rounded corners, positive inside."""
    y, x = sheet.coordinates(*at)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    corner = min(corner, 0.95 * min(half))
    away_x = np.abs(x * cos + y * sin) - np.float32(half[0] - corner)
    away_y = np.abs(y * cos - x * sin) - np.float32(half[1] - corner)
    out = np.hypot(np.maximum(away_x, 0.0), np.maximum(away_y, 0.0)) + np.minimum(np.maximum(away_x, away_y), 0.0)
    return np.asarray(np.float32(corner) - out, np.float32)


def _disc(sheet: _Sheet, at: tuple[float, float], radius_px: float, stretch: float = 1.0) -> Map:
    y, x = sheet.coordinates(*at)
    return np.asarray(np.float32(radius_px) - np.hypot(y * np.float32(1.0 / stretch), x), np.float32)


def _curve(sheet: _Sheet, bend: float) -> NDArray[np.float64]:
    """A smooth line across the picture: points (n, 2) of x, y."""
    start = np.array(sheet.place(0.3))
    heading = sheet.rng.uniform(0, 2 * np.pi)
    number, step = 40, sheet.span / 22.0
    drift = np.cumsum(sheet.rng.normal(0.0, bend, number)) * 0.5 + sheet.rng.normal(0.0, bend) * np.arange(number) * 0.3
    turns = heading + drift
    return np.asarray(start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * step, axis=0), np.float64)


def _band(sheet: _Sheet, points: NDArray[np.float64], width_px: float) -> Mask:
    mask = _canvas(sheet)
    cv2.polylines(mask, [_fixed(points)], False, 1, max(1, round(width_px)), cv2.LINE_8, 4)
    return mask


def _any_shape(sheet: _Sheet, size_px: float) -> Map:
    """Distance into some outline of about that size."""
    rng, at = sheet.rng, sheet.place()
    kind = int(rng.integers(0, 7))
    if kind in (0, 2, 5):  # a single small hollow in a wall *is* a discontinuity to whoever looks at its shadow
        size_px = max(size_px, 1.5 * _LEAST_HOLLOW_PX)
    if kind == 0:
        return _signed(_blob(sheet, at, size_px / 2))
    if kind == 1:
        half = (size_px / 2, size_px / 2 * rng.uniform(0.15, 1.0))
        return _box(sheet, at, half, _angle(sheet), sheet.log(1, size_px / 4 + 2))
    if kind == 2:
        return _disc(sheet, at, size_px / 2, float(rng.choice([1.0, rng.uniform(0.4, 1.0)])))
    if kind == 3:  # a bar
        return _box(sheet, at, (3.0 * sheet.span, max(1.5, size_px * rng.uniform(0.03, 0.25))), _angle(sheet), 1.0)
    if kind == 4:  # a ring or part of one
        radius, width = size_px / 2, max(1.5, size_px * rng.uniform(0.03, 0.2))
        ring = np.float32(width) - np.abs(_disc(sheet, at, radius))
        return np.asarray(ring, np.float32)
    if kind == 5:  # a slot
        narrow = max(1.5, size_px * rng.uniform(0.06, 0.25))
        return _box(sheet, at, (size_px / 2, narrow), _angle(sheet), narrow)
    return _signed(_band(sheet, _curve(sheet, 0.12), max(3.0, size_px * rng.uniform(0.05, 0.3))))


# --- what can be done to the metal


def _raise(sheet: _Sheet, inside_px: Map, walls: float, width_px: float, kind: str | None = None) -> None:
    sheet.part[:] += np.float32(walls * sheet.wall_mm) * _edge(sheet.rng, inside_px, width_px, kind)


def _cut(sheet: _Sheet, inside_px: Map, share: float, width_px: float, kind: str | None = None) -> None:
    sheet.part[:] *= 1.0 - np.float32(share) * _edge(sheet.rng, inside_px, width_px, kind)


def _edge_width(sheet: _Sheet) -> float:
    """Edges along the beam are sharp, drafts and fillets wide."""
    return sheet.log(0.7, 3.0) if sheet.rng.random() < 0.5 else sheet.log(2.5, 45.0)


def _tilt(sheet: _Sheet) -> None:
    """A wall that tapers, and a surface that is not quite flat."""
    rng = sheet.rng
    turn, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.6) * (rng.random() < 0.7)
    y, x = sheet.coordinates(sheet.width / 2, sheet.height / 2)
    sheet.part[:] *= 1.0 + np.float32(slope / sheet.span) * (
        x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))
    )
    for _ in range(int(rng.integers(0, 3))):
        scale_px = sheet.log(40, 400)
        # A wall waves by much over a long way only; a steep dent as small as a discontinuity is one.
        depth = sheet.log(0.003, min(0.25, 0.02 * (scale_px / 40.0) ** 1.2))
        sheet.part[:] *= np.maximum(1.0 + np.float32(depth) * _clouds(sheet, scale_px), 0.2)


def _clouds(sheet: _Sheet, scale_px: float) -> Map:
    """Smooth noise of about unit variance with features of ``scale_px``."""
    rows, columns = (max(3, round(side / scale_px) + 2) for side in (sheet.height, sheet.width))
    coarse = sheet.rng.standard_normal((rows, columns), np.float32)
    return np.asarray(cv2.resize(coarse, (sheet.width, sheet.height), interpolation=cv2.INTER_CUBIC), np.float32)


@dataclass(frozen=True, slots=True)
class _Drill:
    """One design of a round hole along the beam, bright and harmless: all holes of a pattern are of the same design.

    stretch: minor over major axis. rim_px, rim_walls, rim_edge_px: of a raised rim, 0 walls for none. depth: share of
    the metal that is taken away, 1 for a through hole. wall_px: width of its edge. counter: (how much wider in px,
    depth, edge) of a counterbore.
    """

    radius_px: float
    stretch: float
    rim_px: float
    rim_walls: float
    rim_edge_px: float
    depth: float
    wall_px: float
    counter: tuple[float, float, float] | None


def _drill(sheet: _Sheet, radius_px: float) -> _Drill:
    """Draw a design. Most holes go through; a blind one is wide, deep and flat at its ground, or nobody could tell it
    from a gas hole."""
    rng = sheet.rng
    rim = (radius_px * rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.8), _edge_width(sheet))
    blind = rng.random() < 0.3
    counter = (radius_px * rng.uniform(0.2, 0.6), rng.uniform(0.15, 0.5), sheet.log(0.6, 3.0))
    return _Drill(
        radius_px=max(radius_px, _LEAST_HOLLOW_PX / 2) if blind else radius_px,
        stretch=1.0 if rng.random() < 0.75 else float(rng.uniform(0.5, 1.0)),
        rim_px=float(rim[0]), rim_walls=float(rim[1]) if rng.random() < 0.4 else 0.0, rim_edge_px=rim[2],
        depth=float(rng.uniform(0.3, 0.9)) if blind else 1.0, wall_px=sheet.log(0.6, 2.0 if blind else 4.0),
        counter=counter if rng.random() < 0.2 else None,
    )  # fmt: skip


def _bore(sheet: _Sheet, at: tuple[float, float], hole: _Drill) -> None:
    inside = _disc(sheet, at, hole.radius_px, hole.stretch)
    if hole.rim_walls:
        _raise(sheet, inside + np.float32(hole.rim_px), hole.rim_walls, hole.rim_edge_px, "smooth")
    _cut(sheet, inside, hole.depth, hole.wall_px, "straight")
    if hole.counter is not None:
        wider, depth, edge = hole.counter
        _cut(sheet, inside + np.float32(wider), depth, edge, "straight")


def _bores(sheet: _Sheet, number: int) -> None:
    for _ in range(number):
        _bore(sheet, sheet.place(0.0), _drill(sheet, sheet.log(5.0, 60.0)))


def _row_of(sheet: _Sheet, draw: Callable[[tuple[float, float]], None]) -> None:
    """The same thing several times along a line or a circle."""
    rng = sheet.rng
    number = int(rng.integers(2, 9))
    if rng.random() < 0.5:
        start, turn, pitch = sheet.place(), rng.uniform(0, np.pi), sheet.log(16, 140)
        for k in range(number):
            draw((start[0] + k * pitch * np.cos(turn), start[1] + k * pitch * np.sin(turn)))
    else:
        centre, radius, phase = sheet.place(0.3), sheet.log(30, 260), rng.uniform(0, 2 * np.pi)
        for k in range(number):
            turn = phase + 2 * np.pi * k / number
            draw((centre[0] + radius * np.cos(turn), centre[1] + radius * np.sin(turn)))


# --- families


def _block(sheet: _Sheet) -> None:
    """Ribs, bosses, steps, pockets and bores on a wall, one upon the other."""
    rng = sheet.rng
    for _ in range(int(rng.integers(1, 9))):
        inside = _any_shape(sheet, sheet.log(10, 420))
        choice = rng.random()
        if choice < 0.5:
            _raise(sheet, inside, sheet.log(0.06, 1.6), _edge_width(sheet))
        elif choice < 0.85:
            _cut(sheet, inside, sheet.log(0.04, 0.95), _edge_width(sheet))
        else:
            sheet.part[:] += np.float32(sheet.log(0.1, 1.5) * sheet.wall_mm) * _dome(inside, sheet.log(3, 60))
    if rng.random() < 0.5:
        _bores(sheet, int(rng.integers(1, 5)))
    if rng.random() < 0.3:
        hole = _drill(sheet, sheet.log(4, 22))
        _row_of(sheet, lambda at: _bore(sheet, at, hole))
    if rng.random() < 0.4:
        _outline(sheet)


def _wheel(sheet: _Sheet) -> None:
    """Part of a wheel: beads and flanges, spokes with a profile, windows into air or a thin web, a hub with bolts."""
    rng = sheet.rng
    cx, cy = sheet.place(0.7)
    y, x = sheet.coordinates(cx, cy)
    away = np.hypot(y, x)
    turn = np.arctan2(y, x)
    farthest = float(np.hypot(max(cx, sheet.width - cx), max(cy, sheet.height - cy)))
    hub = sheet.log(20, 150)
    rim = rng.uniform(0.45, 1.05) * farthest
    number = int(rng.integers(3, 15))
    swirl = rng.normal(0.0, 0.003)
    phase = (turn + np.float32(swirl) * away) * np.float32(number / (2 * np.pi)) + np.float32(rng.random())
    sideways = np.abs(phase - np.round(phase)) * np.float32(2 * np.pi / number) * away
    half = np.float32(sheet.log(8, 70)) * (1.0 + np.float32(rng.uniform(-0.6, 1.0)) * away / np.float32(rim))
    spoke = np.asarray(np.maximum(half, 3.0) - sideways, np.float32)
    body = np.maximum(_edge(rng, spoke, _edge_width(sheet)), _edge(rng, np.float32(hub) - away, _edge_width(sheet)))
    body = np.maximum(body, _edge(rng, away - np.float32(rim), _edge_width(sheet)))
    web = 0.0 if rng.random() < 0.55 else rng.uniform(0.15, 0.9)
    sheet.part[:] *= np.float32(web) + np.float32(1 - web) * body
    if rng.random() < 0.6:  # U- or roof-shaped cross-section of the spokes
        profile = _dome(spoke, sheet.log(5, 60)) if rng.random() < 0.5 else 1.0 - _dome(spoke, sheet.log(5, 40))
        sheet.part[:] *= 1.0 + np.float32(rng.uniform(0.2, 1.6)) * profile * body
    for _ in range(int(rng.integers(1, 6))):  # beads, flanges, drop centre
        ring = np.float32(sheet.log(3, 60)) - np.abs(away - np.float32(rng.uniform(0.2, 1.1) * rim))
        where = body if rng.random() < 0.8 else np.float32(1.0)
        grown = _dome(ring, sheet.log(3, 40)) if rng.random() < 0.4 else _edge(rng, ring, _edge_width(sheet))
        sheet.part[:] += np.float32(rng.uniform(-0.35, 1.6) * sheet.wall_mm) * grown * where
    sheet.part[:] += np.float32(rng.uniform(0.0, 2.5) * sheet.wall_mm) * _edge(
        rng, np.float32(hub) - away, _edge_width(sheet)
    )
    if rng.random() < 0.7:
        _bore(sheet, (cx, cy), _drill(sheet, hub * rng.uniform(0.2, 0.7)))
        bolts, circle, hole = int(rng.integers(3, 8)), hub * rng.uniform(0.75, 1.3), _drill(sheet, sheet.log(5, 26))
        shift = rng.uniform(0, 2 * np.pi)
        for k in range(bolts):
            turn_k = shift + 2 * np.pi * k / bolts
            _bore(sheet, (cx + circle * np.cos(turn_k), cy + circle * np.sin(turn_k)), hole)
    if rng.random() < 0.3:
        sheet.part[:] *= _edge(rng, np.float32(rng.uniform(0.7, 1.2) * farthest) - away, _edge_width(sheet))
    for _ in range(int(rng.integers(0, 3))):
        _raise(sheet, _any_shape(sheet, sheet.log(10, 200)), sheet.log(0.05, 0.8), _edge_width(sheet))


def _arms(sheet: _Sheet) -> None:
    """A knuckle or bracket: round arms that run into each other, bores across and along, air around."""
    rng = sheet.rng
    body = np.zeros_like(sheet.part)
    for _ in range(int(rng.integers(2, 7))):
        width = sheet.log(30, 300)
        inside = _signed(_band(sheet, _curve(sheet, 0.16), width)) if rng.random() < 0.6 else _any_shape(sheet, width)
        arm = _dome(inside, width * rng.uniform(0.2, 0.55)) * np.float32(rng.uniform(0.5, 2.6))
        body = np.maximum(body, arm) if rng.random() < 0.5 else body + arm
    if rng.random() < 0.5:
        body = np.asarray(cv2.GaussianBlur(body, (0, 0), sheet.log(1, 14)), np.float32)
    floor = 0.0 if rng.random() < 0.45 else rng.uniform(0.3, 1.0)
    sheet.part[:] *= body + np.float32(floor)
    for _ in range(int(rng.integers(0, 4))):
        _tube(sheet, hollow_only=True)
    _bores(sheet, int(rng.integers(0, 4)))
    for _ in range(int(rng.integers(0, 4))):
        _cut(sheet, _any_shape(sheet, sheet.log(15, 200)), sheet.log(0.05, 0.7), _edge_width(sheet))


def _tube(sheet: _Sheet, *, hollow_only: bool = False) -> None:
    """A bar, pipe or cross bore seen from the side: two dark or bright flanks, round between them."""
    rng = sheet.rng
    half = sheet.log(5, 110)
    if rng.random() < 0.75:
        angle, at = _angle(sheet), sheet.place()
        long = 3.0 * sheet.span if rng.random() < 0.5 else sheet.log(20, 300)
        inside = _box(sheet, at, (long, half), angle, 0.5)
        y, x = sheet.coordinates(*at)
        axis = np.asarray(
            np.float32(half) - np.abs(y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))), np.float32
        )
        window = _edge(rng, inside + np.float32(1.0), sheet.log(0.8, 6.0), "straight")
    else:
        axis = _signed(_band(sheet, _curve(sheet, 0.1), 2 * half))
        window = np.float32(1.0)
    height = np.float32(rng.uniform(0.3, 1.4) * sheet.wall_mm)
    bar = _dome(axis, half) * window
    if hollow_only or rng.random() < 0.35:
        sheet.part[:] = np.maximum(sheet.part - height * bar, np.minimum(sheet.part, 0.1 * sheet.wall_mm))
        return
    wall = half * rng.uniform(0.1, 0.7)
    inner = _dome(axis - np.float32(wall), half - wall) * np.float32((half - wall) / half)
    share = np.float32(rng.uniform(0.0, 1.0) if rng.random() < 0.7 else 0.0)
    sheet.part[:] += height * (bar - share * inner * window)
    if rng.random() < 0.25:  # a thread
        pitch = sheet.log(4, 18)
        y, x = sheet.coordinates(0.0, 0.0)
        lean = rng.uniform(0, np.pi)
        wave = np.sin((x * np.float32(np.cos(lean)) + y * np.float32(np.sin(lean))) * np.float32(2 * np.pi / pitch))
        sheet.part[:] += np.float32(sheet.log(0.02, 0.2) * sheet.wall_mm) * wave * bar


def _tubes(sheet: _Sheet) -> None:
    rng = sheet.rng
    sheet.part[:] *= np.float32(0.0 if rng.random() < 0.3 else rng.uniform(0.3, 1.2))
    for _ in range(int(rng.integers(1, 6))):
        _tube(sheet)
    for _ in range(int(rng.integers(0, 5))):
        _raise(sheet, _any_shape(sheet, sheet.log(10, 300)), sheet.log(0.1, 1.2), _edge_width(sheet))
    _bores(sheet, int(rng.integers(0, 3)))


def _lattice(sheet: _Sheet) -> None:
    """Fins, grids, honeycombs, hole fields and wire meshes: one small thing many times over."""
    rng = sheet.rng
    for _ in range(int(rng.integers(1, 3))):
        pitch, turn = sheet.log(7, 90), _angle(sheet)
        y, x = sheet.coordinates(*sheet.place())
        u = x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))
        v = y * np.float32(np.cos(turn)) - x * np.float32(np.sin(turn))
        line = pitch * rng.uniform(0.1, 0.4)
        over_u = np.abs(u / np.float32(pitch) - np.round(u / np.float32(pitch))) * np.float32(pitch)
        kind = int(rng.integers(0, 4))
        if kind == 0:
            inside = np.float32(line) - over_u
        else:
            second = pitch * rng.uniform(0.6, 1.6)
            shift = np.round(u / np.float32(pitch)) * np.float32(second / 2) if kind == 2 else np.float32(0.0)
            w = (v + shift) / np.float32(second)
            over_v = np.abs(w - np.round(w)) * np.float32(second)
            if kind == 1:
                inside = np.float32(line) - np.minimum(over_u, over_v)
            else:
                inside = np.float32(min(pitch, second) * rng.uniform(0.12, 0.42)) - np.hypot(over_u, over_v)
        where = (
            _edge(rng, _any_shape(sheet, sheet.log(120, 900)), _edge_width(sheet))
            if rng.random() < 0.6
            else np.float32(1.0)
        )
        grid = _edge(rng, np.asarray(inside, np.float32), sheet.log(0.8, max(2.0, pitch / 4))) * where
        if rng.random() < 0.65:
            sheet.part[:] += np.float32(sheet.log(0.05, 1.2) * sheet.wall_mm) * grid
        else:
            sheet.part[:] *= 1.0 - np.float32(sheet.log(0.05, 1.0)) * grid
    _block(sheet)


def _pockets(sheet: _Sheet) -> None:
    """A housing from above: a thin floor, walls seen on edge, ribs between them, bosses with screw holes."""
    rng = sheet.rng
    sheet.part[:] *= np.float32(rng.uniform(0.4, 1.0))
    for _ in range(int(rng.integers(1, 5))):
        at, half = sheet.place(0.0), (sheet.log(40, 330), sheet.log(40, 330))
        inside = _box(sheet, at, half, _angle(sheet), sheet.log(4, 60))
        rim = np.float32(sheet.log(2, 14)) - np.abs(inside)
        _raise(sheet, np.asarray(rim, np.float32), sheet.log(0.6, 6.0), _edge_width(sheet))
        if rng.random() < 0.5:
            _cut(sheet, inside, rng.uniform(0.1, 0.6), _edge_width(sheet))
        if rng.random() < 0.6:
            radius = sheet.log(7, 30)
            hole = _drill(sheet, radius * rng.uniform(0.3, 0.7)) if rng.random() < 0.8 else None
            for sx, sy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
                corner = (at[0] + sx * half[0], at[1] + sy * half[1])
                _raise(sheet, _disc(sheet, corner, radius), rng.uniform(0.5, 4.0), _edge_width(sheet))
                if hole is not None:
                    _bore(sheet, corner, hole)
    for _ in range(int(rng.integers(0, 7))):
        bar = _box(sheet, sheet.place(), (sheet.log(30, 700), sheet.log(1.5, 9)), _angle(sheet), 1.0)
        _raise(sheet, bar, sheet.log(0.2, 3.0), _edge_width(sheet))
    _bores(sheet, int(rng.integers(0, 4)))
    if rng.random() < 0.4:
        _outline(sheet)


def _valve_body(sheet: _Sheet) -> None:
    """Crossing channels in a thick block, flanges with bolt holes, a seat: composed only for examinations."""
    rng = sheet.rng
    sheet.part[:] *= np.float32(rng.uniform(1.5, 3.0))
    at = (sheet.width * rng.uniform(0.3, 0.7), sheet.height * rng.uniform(0.3, 0.7))
    turn = rng.uniform(0, np.pi)
    for k in range(int(rng.integers(2, 4))):
        lean = turn + k * rng.uniform(0.8, 1.6)
        half = sheet.log(18, 70)
        y, x = sheet.coordinates(*at)
        across = np.float32(half) - np.abs(y * np.float32(np.cos(lean)) - x * np.float32(np.sin(lean)))
        sheet.part[:] = np.maximum(
            sheet.part - np.float32(1.3 * sheet.wall_mm) * _dome(across, half), 0.25 * sheet.wall_mm
        )
    seat = sheet.log(40, 110)
    ring = np.float32(seat * 0.25) - np.abs(_disc(sheet, at, seat))
    _raise(sheet, np.asarray(ring, np.float32), rng.uniform(0.5, 1.5), 2.0, "smooth")
    _bore(sheet, at, _drill(sheet, seat * 0.5))
    flange, hole = rng.uniform(0.32, 0.48) * sheet.span, _drill(sheet, 9.0)
    for k in range(8):
        angle = turn + k * np.pi / 4
        spot = (at[0] + flange * np.cos(angle), at[1] + flange * np.sin(angle))
        _raise(sheet, _disc(sheet, spot, 20.0), 0.8, 1.5, "straight")
        _bore(sheet, spot, hole)
    sheet.part[:] *= _edge(rng, _disc(sheet, at, flange * 1.25), 1.5, "convex")


def _gear(sheet: _Sheet) -> None:
    """A gear blank: toothed outline, lightening holes, a keyed bore, a turned step: composed only for examinations."""
    rng = sheet.rng
    at = (sheet.width * rng.uniform(0.2, 0.8), sheet.height * rng.uniform(0.2, 0.8))
    y, x = sheet.coordinates(*at)
    away, turn = np.hypot(y, x), np.arctan2(y, x)
    teeth, radius = int(rng.integers(14, 40)), rng.uniform(0.35, 0.65) * sheet.span
    tooth = np.clip(np.sin(turn * np.float32(teeth)) * 2.0, -1.0, 1.0) * np.float32(0.045 * radius)
    sheet.part[:] += np.float32(rng.uniform(0.3, 1.2) * sheet.wall_mm) * _edge(
        rng, away - np.float32(0.8 * radius), 4.0
    )
    sheet.part[:] += np.float32(rng.uniform(0.5, 1.5) * sheet.wall_mm) * _edge(
        rng, np.float32(0.3 * radius) - away, 3.0
    )
    holes, circle, hole = int(rng.integers(4, 8)), 0.55 * radius, _drill(sheet, 0.13 * radius)
    for k in range(holes):
        angle = 2 * np.pi * k / holes
        _bore(sheet, (at[0] + circle * np.cos(angle), at[1] + circle * np.sin(angle)), hole)
    key = _box(sheet, (at[0] + 0.14 * radius, at[1]), (0.05 * radius, 0.03 * radius), 0.0, 1.0)
    _cut(sheet, np.maximum(_disc(sheet, at, 0.14 * radius), key), 1.0, 1.0, "straight")
    sheet.part[:] *= _edge(rng, np.asarray(np.float32(radius) + tooth - away, np.float32), 2.0, "straight")


#: Geometry to learn from, with how often each is drawn.
FAMILIES: dict[str, Callable[[_Sheet], None]] = {
    "block": _block, "wheel": _wheel, "arms": _arms, "tubes": _tubes, "lattice": _lattice, "pockets": _pockets,
}  # fmt: skip
_SHARES = (0.28, 0.28, 0.20, 0.08, 0.05, 0.11)
#: Geometry that no training picture shows.
UNSEEN_FAMILIES: dict[str, Callable[[_Sheet], None]] = {"valve_body": _valve_body, "gear": _gear}


def _outline(sheet: _Sheet) -> None:
    """The edge of the casting into air."""
    rng = sheet.rng
    if rng.random() < 0.5:
        inside = _signed(_blob(sheet, sheet.place(-0.2), sheet.span * rng.uniform(0.3, 0.7)))
    else:
        at, turn = sheet.place(-0.15), rng.uniform(0, 2 * np.pi)
        y, x = sheet.coordinates(*at)
        inside = np.asarray(x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn)), np.float32)
    sheet.part[:] *= _edge(rng, inside, _edge_width(sheet))


# --- what lies on it


def _texture(sheet: _Sheet) -> None:
    """Cast skin, tool marks and the mottle of coarse grain: a few thousandths of the wall, everywhere."""
    rng = sheet.rng
    if rng.random() < 0.5:
        sheet.part[:] *= 1.0 + np.float32(sheet.log(0.0008, 0.006)) * _clouds(sheet, sheet.log(2.5, 40))
    if rng.random() < 0.12:
        pitch, turn = sheet.log(3, 14), rng.uniform(0, np.pi)
        y, x = sheet.coordinates(*sheet.place(1.0))
        at = np.hypot(y, x) if rng.random() < 0.5 else x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))
        sheet.part[:] *= 1.0 + np.float32(sheet.log(0.001, 0.006)) * np.sin(at * np.float32(2 * np.pi / pitch))


def _furniture(sheet: _Sheet) -> None:
    """Numbers, steel inserts, screws, lead letters, wires and fixtures: in the beam, and no discontinuity."""
    rng = sheet.rng
    if rng.random() < 0.16:
        _letters(sheet)
    if rng.random() < 0.14:  # threaded steel inserts and screws, each in a boss or a hole of the casting
        radius, steel = sheet.log(6, 24), np.float32(rng.uniform(1.0, 12.0) * sheet.wall_mm)
        screw, boss = rng.random() < 0.4, rng.uniform(0.3, 2.0)

        def insert(at: tuple[float, float]) -> None:
            disc = _disc(sheet, at, radius)
            _raise(sheet, disc + np.float32(0.6 * radius), boss, 2.0, "smooth")
            if not screw:
                _cut(sheet, disc, 1.0, 1.0, "straight")
            ring = disc if screw else np.asarray(np.float32(radius * 0.3) - np.abs(disc), np.float32)
            sheet.part[:] += steel * _edge(rng, ring, 1.0, "straight")

        _row_of(sheet, insert)
    if rng.random() < 0.08:  # an image quality indicator: parallel wires of equal length, each thicker than the last
        start, turn, long = sheet.place(), _angle(sheet), sheet.log(40, 300)
        width, metal = sheet.log(0.4, 1.5), sheet.log(0.02, 0.6) * sheet.wall_mm
        for k in range(int(rng.integers(4, 8))):
            at = (start[0] - k * 16 * np.sin(turn), start[1] + k * 16 * np.cos(turn))
            bar = _box(sheet, at, (long, width * 1.25**k), turn, 0.4)
            sheet.part[:] += np.float32(metal * 1.25**k) * _dome(bar, width * 1.25**k)
    if rng.random() < 0.05:  # a cable or a pin
        bar = _box(sheet, sheet.place(), (sheet.log(100, 900), width := sheet.log(3.0, 9.0)), _angle(sheet), 0.4)
        sheet.part[:] += np.float32(sheet.log(0.2, 3.0) * sheet.wall_mm) * _dome(bar, width)
    if rng.random() < 0.1:  # a fixture or diaphragm: opaque
        half = (3.0 * sheet.span, sheet.log(10, 120))
        edge = (rng.uniform(0, 1) * sheet.width, float(rng.choice([0.0, sheet.height])))
        bar = _box(sheet, edge, half, _angle(sheet), 1.0)
        sheet.part[:] += np.float32(20.0 * sheet.wall_mm) * _edge(rng, bar, sheet.log(1, 8))


def _letters(sheet: _Sheet) -> None:
    """Raised, sunk or leaden characters: fine lines of constant width, and no crack."""
    rng = sheet.rng
    text = "".join(rng.choice(list("0123456789ABCDEFGHKLMNPRSTUVXYZ-./"), int(rng.integers(2, 9))))
    canvas = _canvas(sheet)
    size, stroke = sheet.log(0.5, 2.6), int(rng.integers(1, 6))
    at = (int(rng.uniform(-0.05, 0.75) * sheet.width), int(rng.uniform(0.1, 0.98) * sheet.height))
    cv2.putText(canvas, text, at, int(rng.choice([0, 1, 2, 3, 4, 6])), size, 255, stroke, cv2.LINE_AA)
    if rng.random() < 0.6:
        matrix = cv2.getRotationMatrix2D((sheet.width / 2, sheet.height / 2), rng.uniform(0, 360), 1.0)
        canvas = np.asarray(cv2.warpAffine(canvas, matrix, (sheet.width, sheet.height)), np.uint8)
    shade = cv2.GaussianBlur(canvas, (0, 0), sheet.log(0.5, 2.0)).astype(np.float32) * np.float32(1.0 / 255.0)
    kind = rng.random()
    lift = 8.0 if kind < 0.2 else sheet.log(0.03, 0.35) * (1.0 if kind < 0.65 else -1.0)
    grown = sheet.part + np.float32(lift * sheet.wall_mm) * shade
    np.maximum(grown, 0.0, out=sheet.part)
