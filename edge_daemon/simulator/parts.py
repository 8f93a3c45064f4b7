"""What stands in the beam: thickness maps of castings, float32 (H, W) in mm of aluminium along each ray.

Everything that is *not* a defect but looks like an edge, a spot or a line is made here: ribs, bosses, bores, spokes,
fins, steps, tapering walls, raised letters, the outline into air. An engine that has not seen many of them calls them
defects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["HOUSING_WALL_MM", "PLATE_MM", "flat_plate", "housing", "random_casting"]

#: Thickness of the reference plates: a quarter of an inch.
PLATE_MM = 6.35
#: Wall of the conveyor's housing.
HOUSING_WALL_MM = 6.0

Map = NDArray[np.float32]


def flat_plate(size_px: tuple[int, int], thickness_mm: float = PLATE_MM) -> Map:
    """A plate of one thickness that fills the picture; size_px is (height, width)."""
    return np.full(size_px, thickness_mm, np.float32)


def _ramp(distance_mm: Map, width_mm: float) -> Map:
    """1 inside (negative distance), 0 outside, straight draft of ``width_mm`` between."""
    return np.asarray(np.clip(0.5 - distance_mm / np.float32(max(width_mm, 1e-3)), 0.0, 1.0), np.float32)


def _grid(size_px: tuple[int, int], mm_per_px: float) -> tuple[Map, Map]:
    """Coordinates (y, x) in mm of the pixel centres, origin in the middle of the picture."""
    height, width = size_px
    y = (np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2)) * np.float32(mm_per_px)
    x = (np.arange(width, dtype=np.float32)[None, :] - np.float32((width - 1) / 2)) * np.float32(mm_per_px)
    return y, x


def _box(y: Map, x: Map, half_y_mm: float, half_x_mm: float, radius_mm: float) -> Map:
    """Signed distance to a rectangle with rounded corners."""
    away_y = np.abs(y) - np.float32(half_y_mm - radius_mm)
    away_x = np.abs(x) - np.float32(half_x_mm - radius_mm)
    outside = np.hypot(np.maximum(away_y, 0.0), np.maximum(away_x, 0.0))
    return np.asarray(outside + np.minimum(np.maximum(away_y, away_x), 0.0) - np.float32(radius_mm), np.float32)


@lru_cache(maxsize=2)
def _housing_plan() -> Map:
    """The conveyor's part seen from above, drawn once at 0.05 mm/px: 54 x 54 mm, symmetrical enough to be a casting
    and crooked enough that a half turn can be seen."""
    y, x = _grid((1080, 1080), 0.05)
    outline = _ramp(_box(y, x, 23.5, 23.5, 5.0), 0.3)
    plan = np.full(outline.shape, np.float32(HOUSING_WALL_MM))
    # a rim stiffens the edge
    plan += 3.0 * (1.0 - _ramp(_box(y, x, 21.0, 21.0, 3.5), 0.8))
    # a cross of ribs, one arm wider than the other
    cross = np.maximum(_ramp(np.abs(x) - np.float32(1.4), 0.7), _ramp(np.abs(y) - np.float32(1.1), 0.7))
    radius = np.hypot(y, x)
    boss = _ramp(radius - np.float32(6.2), 0.9)
    plan += np.maximum(3.5 * cross, 5.0 * boss)
    for corner_y, corner_x in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        pillar = np.hypot(y - np.float32(corner_y * 19.2), x - np.float32(corner_x * 19.2))
        plan += 3.0 * _ramp(pillar - np.float32(3.3), 0.7)
        plan *= 1.0 - _ramp(pillar - np.float32(1.5), 0.15)
    # the bore, and a notch that marks which way is up
    plan *= 1.0 - _ramp(radius - np.float32(3.4), 0.15)
    plan *= 1.0 - _ramp(_box(y + np.float32(23.5), x - np.float32(9.0), 1.3, 1.3, 0.6), 0.2)
    return np.asarray(plan * outline, np.float32)


def housing(
    size_px: tuple[int, int], mm_per_px: float, *, shift_mm: tuple[float, float] = (0.0, 0.0), turn_deg: float = 0.0,
    zoom: float = 1.0
) -> Map:  # fmt: skip
    """The conveyor's part in a given pose: shift (x, y), turn about its bore, zoom of its size."""
    height, width = size_px
    scale = 0.05 * zoom / mm_per_px
    turn = np.deg2rad(turn_deg)
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    centre = 539.5
    move_x = (width - 1) / 2 + shift_mm[0] / mm_per_px
    move_y = (height - 1) / 2 + shift_mm[1] / mm_per_px
    matrix = np.array([[cos, -sin, move_x - centre * (cos - sin)], [sin, cos, move_y - centre * (cos + sin)]])
    # Wider than the plan itself is air. Blur first where the map is shrunk, so that nothing aliases.
    plan = _shrunk_plan(round(max(0.0, 0.45 / scale - 0.45), 2))
    return np.asarray(cv2.warpAffine(plan, matrix, (width, height), flags=cv2.INTER_LINEAR), np.float32)


@lru_cache(maxsize=16)
def _shrunk_plan(sigma_px: float) -> Map:
    plan = _housing_plan()
    return np.asarray(cv2.GaussianBlur(plan, (0, 0), sigma_px), np.float32) if sigma_px > 0.0 else plan


def random_casting(rng: np.random.Generator, size_px: tuple[int, int], mm_per_px: float) -> tuple[Map, float]:
    """A casting that nobody designed, and the thickness of its thin wall in mm."""
    y, x = _grid(size_px, mm_per_px)
    span = max(size_px) * mm_per_px
    wall = float(rng.uniform(3.0, 16.0))
    direction = rng.uniform(0, 2 * np.pi)
    slope = float(rng.uniform(0.0, 0.5)) * wall / span
    downhill = x * np.float32(np.cos(direction)) + y * np.float32(np.sin(direction))
    part = np.asarray(np.float32(wall) + np.float32(slope) * downhill, np.float32)
    if rng.random() < 0.5:
        part += _waves(rng, size_px, 0.03 * wall, mm_per_px)
    site = _Site(part, y, x, wall, span, mm_per_px)
    features = (_rib, _rib, _boss, _step, _spokes, _letters, _fins, _fillet, _hole, _hole)
    for index in rng.permutation(len(features))[: rng.integers(0, 6)]:
        features[index](rng, site)
    if rng.random() < 0.4:
        _outline(rng, site)
    return np.maximum(part, 0.0), wall


@dataclass(frozen=True, slots=True)
class _Site:
    """A casting under construction. part: thickness in mm, changed in place; y, x: coordinates in mm; wall, span: of
    the thin wall and of the picture, in mm."""

    part: Map
    y: Map
    x: Map
    wall: float
    span: float
    mm_per_px: float


def _waves(rng: np.random.Generator, size_px: tuple[int, int], height_mm: float, mm_per_px: float) -> Map:
    """A cast surface is not flat: slow waves of a few per cent of the wall."""
    cells = max(3, round(max(size_px) * mm_per_px / 12.0))
    coarse = rng.standard_normal((cells, cells), np.float32) * np.float32(height_mm)
    return np.asarray(cv2.resize(coarse, size_px[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _turned(rng: np.random.Generator, site: _Site) -> tuple[Map, Map]:
    """Coordinates of a random place and direction."""
    angle = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along = site.x * cos + site.y * sin - np.float32(rng.uniform(-0.4, 0.4) * site.span)
    across = site.y * cos - site.x * sin - np.float32(rng.uniform(-0.4, 0.4) * site.span)
    return across, along


def _rib(rng: np.random.Generator, site: _Site) -> None:
    across, along = _turned(rng, site)
    long = rng.uniform(0.15, 1.2) * site.span if rng.random() < 0.5 else 3 * site.span
    width = rng.uniform(0.8, 6.0)
    site.part[:] += np.float32(rng.uniform(0.15, 0.9) * site.wall) * _ramp(
        _box(across, along, width / 2, long / 2, width / 2.1), rng.uniform(0.15, 1.5)
    )


def _boss(rng: np.random.Generator, site: _Site) -> None:
    for _ in range(rng.integers(1, 4)):
        radius = rng.uniform(1.5, 7.0)
        away = np.hypot(
            site.y - np.float32(rng.uniform(-0.45, 0.45) * site.span),
            site.x - np.float32(rng.uniform(-0.45, 0.45) * site.span),
        )
        site.part[:] += np.float32(rng.uniform(0.2, 0.9) * site.wall) * _ramp(
            away - np.float32(radius), rng.uniform(0.15, 1.5)
        )
        if rng.random() < 0.7:
            _drill(rng, site.part, away, radius * rng.uniform(0.3, 0.8))


def _drill(rng: np.random.Generator, part: Map, away: Map, radius: float) -> None:
    """A bore is round, bright and harmless: sharp-edged, and through or to a flat bottom."""
    depth = 1.0 if rng.random() < 0.6 else rng.uniform(0.3, 0.9)
    part *= 1.0 - np.float32(depth) * _ramp(away - np.float32(radius), rng.uniform(0.1, 0.4))


def _hole(rng: np.random.Generator, site: _Site) -> None:
    for _ in range(rng.integers(1, 4)):
        place = rng.uniform(-0.45, 0.45, 2) * site.span
        _drill(
            rng,
            site.part,
            np.hypot(site.y - np.float32(place[0]), site.x - np.float32(place[1])),
            rng.uniform(1.2, 5.0),
        )


def _step(rng: np.random.Generator, site: _Site) -> None:
    across, _ = _turned(rng, site)
    site.part[:] += np.float32(rng.uniform(0.15, 1.2) * site.wall) * _ramp(across, rng.uniform(0.15, 4.0))


def _spokes(rng: np.random.Generator, site: _Site) -> None:
    """Part of a wheel: hub, spokes, and a thinner web or windows between them."""
    y = site.y - np.float32(rng.uniform(-0.5, 0.5) * site.span)
    x = site.x - np.float32(rng.uniform(-0.5, 0.5) * site.span)
    away, angle = np.hypot(y, x), np.arctan2(y, x)
    number, hub = int(rng.integers(3, 8)), rng.uniform(4.0, 9.0)
    phase = (angle * np.float32(number / (2 * np.pi)) + np.float32(rng.random())) % 1.0 - 0.5
    sideways = np.abs(phase) * np.float32(2 * np.pi / number) * away - np.float32(rng.uniform(1.0, 3.0))
    solid = np.maximum(_ramp(sideways, 0.6), _ramp(away - np.float32(hub), 0.6))
    web = 0.0 if rng.random() < 0.3 else rng.uniform(0.4, 0.9)
    site.part[:] *= np.float32(web) + np.float32(1.0 - web) * solid
    site.part[:] += np.float32(rng.uniform(0.2, 0.8) * site.wall) * _ramp(away - np.float32(hub), 0.8)


def _letters(rng: np.random.Generator, site: _Site) -> None:
    """A raised or sunk casting number: fine lines of constant width, and no crack."""
    text = "".join(rng.choice(list("0123456789ABEHKLRX"), int(rng.integers(1, 6))))
    height, width = site.part.shape
    canvas = np.zeros((height, width), np.uint8)
    size = rng.uniform(2.0, 6.0) / site.mm_per_px / 21.0
    at = (int(rng.uniform(0.0, 0.6) * width), int(rng.uniform(0.2, 0.95) * height))
    cv2.putText(
        canvas, text, at, int(rng.choice([0, 2, 3])), size, 255, max(1, round(0.5 / site.mm_per_px)), cv2.LINE_AA
    )
    if rng.random() < 0.5:
        canvas = np.rot90(canvas) if height == width else canvas[::-1, ::-1]
    lift = float(rng.choice([-0.5, 0.7, 1.0]) * rng.uniform(0.3, 1.0))
    site.part[:] += np.float32(lift / 255.0) * cv2.GaussianBlur(np.ascontiguousarray(canvas), (0, 0), 0.7)


def _fins(rng: np.random.Generator, site: _Site) -> None:
    """Cooling fins or a thread: the same thin line many times over."""
    across, along = _turned(rng, site)
    pitch = rng.uniform(1.6, 6.0)
    inside = _ramp(_box(across, along, rng.uniform(0.1, 0.3) * site.span, rng.uniform(0.1, 0.3) * site.span, 0.5), 0.6)
    wave = np.abs((along / np.float32(pitch)) % 1.0 - 0.5) * np.float32(pitch)
    site.part[:] += np.float32(rng.uniform(0.1, 0.5) * site.wall) * inside * _ramp(wave - np.float32(pitch * 0.2), 0.35)


def _fillet(rng: np.random.Generator, site: _Site) -> None:
    """A wide soft hump or hollow, such as a feeder's foot."""
    away = np.hypot(
        site.y - np.float32(rng.uniform(-0.5, 0.5) * site.span), site.x - np.float32(rng.uniform(-0.5, 0.5) * site.span)
    )
    width = np.float32(rng.uniform(3.0, 12.0))
    site.part[:] += np.float32(rng.uniform(-0.25, 0.8) * site.wall) * np.exp(-((away / width) ** 2))


def _outline(rng: np.random.Generator, site: _Site) -> None:
    """The edge of the casting into air: a rounded block, or a straight side."""
    if rng.random() < 0.5:
        half = rng.uniform(0.3, 0.48, 2) * site.span
        outline = _box(site.y, site.x, half[0], half[1], rng.uniform(1.0, 10.0))
    else:
        angle = rng.uniform(0, 2 * np.pi)
        outward = site.x * np.float32(np.cos(angle)) + site.y * np.float32(np.sin(angle))
        outline = np.asarray(outward - np.float32(rng.uniform(0.2, 0.45) * site.span), np.float32)
    site.part[:] *= _ramp(np.asarray(outline, np.float32), rng.uniform(0.1, 1.0))
