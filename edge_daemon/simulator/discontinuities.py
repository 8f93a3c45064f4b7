"""The eleven casting discontinuities as missing metal: path-length changes in mm of aluminium along the ray.

Shapes by their physics: gas is smooth and round because surface tension made it; shrinkage is ragged because dendrites
bound it; a crack is a thin jagged sheet; a cold shut is a smooth seam, sharp on one side; foreign matter is angular.
A positive path is less metal (bright); foreign matter denser than the casting counts negative (dark).

Each discontinuity is a list of pieces on the pixel grid. ``Piece.mask`` is its exact shadow: the pixels where the path
reaches a tenth of the piece's own largest. Drawn on a finer grid and averaged over each pixel, as a detector does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..records import TYPE_IDS

__all__ = ["CASTING_TYPES", "Piece", "ball", "draw", "random_size_mm"]

#: The casting discontinuities of the contract; the label of type k in a label image is k + 1.
CASTING_TYPES: tuple[str, ...] = TYPE_IDS[:11]

Map = NDArray[np.float32]
_MASK_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Piece:
    """path_mm: float32 (h, w). mask: bool (h, w). y_px, x_px: of the upper left pixel, from the discontinuity's centre
    pixel."""

    path_mm: Map
    mask: NDArray[np.bool_]
    y_px: int
    x_px: int


def draw(type_id: str, rng: np.random.Generator, size_mm: float, depth_mm: float, mm_per_px: float) -> list[Piece]:
    """The pieces of one discontinuity.

    size_mm: largest extent across the ray (of the whole field for porosity). depth_mm: largest path change it may
    make. Raises UsageError for a type that is none of castings'.
    """
    make = _MAKERS.get(type_id)
    if make is None:
        raise UsageError(
            f"{type_id!r} is no casting discontinuity", code="TYPE", hint=f"one of {', '.join(CASTING_TYPES)}"
        )
    return make(rng, size_mm, depth_mm, mm_per_px)


def random_size_mm(type_id: str, rng: np.random.Generator) -> tuple[float, float]:
    """A plausible (size in mm, depth as a share of the wall): log-normal, half of them near the limit of visibility."""
    median, spread, low, high, shallow, deep = _SIZES[type_id]
    size = float(np.clip(median * np.exp(spread * rng.standard_normal()), low, high))
    return size, float(rng.uniform(shallow, deep))


# type: median size mm, sigma of its logarithm, smallest, largest; depth as a share of the wall from .. to
_SIZES: dict[str, tuple[float, float, float, float, float, float]] = {
    "gas_hole": (2.6, 0.40, 1.4, 7.0, 0.15, 0.70),
    "gas_porosity_round": (9.0, 0.50, 2.5, 26.0, 0.10, 0.60),
    "gas_porosity_elongated": (10.0, 0.45, 4.0, 26.0, 0.10, 0.50),
    "shrinkage_cavity": (5.0, 0.45, 2.5, 14.0, 0.15, 0.60),
    "shrinkage_sponge": (7.0, 0.45, 3.0, 18.0, 0.10, 0.45),
    "shrinkage_dendritic": (8.0, 0.40, 3.5, 18.0, 0.08, 0.35),
    "shrinkage_filamentary": (9.0, 0.40, 4.0, 20.0, 0.08, 0.35),
    "foreign_less_dense": (2.6, 0.45, 1.0, 8.0, 0.12, 0.50),
    "foreign_more_dense": (1.6, 0.50, 0.5, 6.0, 0.30, 3.00),
    "crack": (10.0, 0.45, 4.0, 26.0, 0.12, 0.50),
    "cold_shut": (11.0, 0.40, 5.0, 28.0, 0.10, 0.40),
}  # fmt: skip


def _fine(extent_mm: float, mm_per_px: float) -> int:
    """Sub-pixels per pixel: many for small things, where the outline matters most."""
    extent_px = extent_mm / mm_per_px
    return 4 if extent_px < 48 else 3 if extent_px < 120 else 2


def _piece(fine_path: Map, fine: int, y_px: float = 0.0, x_px: float = 0.0) -> Piece:
    """Average the fine drawing, whose middle is the centre, over the pixels of the grid."""
    height, width = fine_path.shape[0] // fine, fine_path.shape[1] // fine
    path = np.asarray(cv2.resize(fine_path, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    sign = np.float32(-1.0 if path.min() < -path.max() else 1.0)
    magnitude = path * sign
    mask = magnitude >= np.float32(_MASK_SHARE) * max(float(magnitude.max()), 1e-6)
    return Piece(path, mask, round(y_px - (height - 1) / 2), round(x_px - (width - 1) / 2))


def _canvas(extent_mm: float, mm_per_px: float, fine: int) -> tuple[Map, Map, Map]:
    """An empty fine drawing for ``extent_mm`` and the coordinates (y, x) in mm of its points from its middle."""
    side = max(3, int(np.ceil(extent_mm / mm_per_px)) + 4) * fine
    axis = (np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)) * np.float32(mm_per_px / fine)
    return np.zeros((side, side), np.float32), axis[:, None], axis[None, :]


def ball(
    rng: np.random.Generator, long_mm: float, short_mm: float, depth_mm: float, turn: float, mm_per_px: float,
    y_px: float = 0.0, x_px: float = 0.0,
) -> Piece:  # fmt: skip
    """One smooth ellipsoid: the path through it is 2 c sqrt(1 - r2). Its middle lies anywhere inside its pixel."""
    fine = _fine(long_mm, mm_per_px)
    _, y, x = _canvas(long_mm, mm_per_px, fine)
    inside = rng.uniform(-0.5, 0.5, 2) * mm_per_px
    y, x = y - np.float32(inside[0]), x - np.float32(inside[1])
    along = (x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))) * np.float32(2.0 / long_mm)
    across = (y * np.float32(np.cos(turn)) - x * np.float32(np.sin(turn))) * np.float32(2.0 / short_mm)
    path = np.float32(depth_mm) * np.sqrt(np.maximum(1.0 - along * along - across * across, 0.0))
    return _piece(path, fine, y_px, x_px)


def _gas_hole(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """A blowhole: one smooth void, sometimes with a second bubble grown into it."""
    short = size * rng.uniform(0.7, 1.0)
    pieces = [ball(rng, size, short, min(depth, short), rng.uniform(0, np.pi), px)]
    if rng.random() < 0.25:
        away, turn = size * rng.uniform(0.35, 0.5), rng.uniform(0, 2 * np.pi)
        small = size * rng.uniform(0.4, 0.7)
        pieces.append(ball(rng, small, small, min(depth * 0.7, small), 0.0, px,
                           float(away * np.sin(turn) / px), float(away * np.cos(turn) / px)))  # fmt: skip
    return pieces


def _scatter(rng: np.random.Generator, size: float, number: int, gap_mm: float) -> list[tuple[float, float]]:
    """Places (y, x) in mm in a round field, denser inside, at least ``gap_mm`` apart as far as there is room."""
    places: list[tuple[float, float]] = []
    for _ in range(number * 3):
        if len(places) == number:
            break
        radius, turn = size / 2 * rng.random() ** 0.6, rng.uniform(0, 2 * np.pi)
        y, x = float(radius * np.sin(turn)), float(radius * np.cos(turn))
        if all((y - other[0]) ** 2 + (x - other[1]) ** 2 >= gap_mm**2 for other in places):
            places.append((y, x))
    return places


def _porosity_round(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """A field of small round pores."""
    median = rng.uniform(0.4, 0.95)
    number = int(np.clip(size**2 * rng.uniform(0.06, 0.35) / median, 3, 110))
    pieces = []
    for y, x in _scatter(rng, size, number, median * rng.uniform(1.0, 1.6)):
        pore = float(np.clip(median * np.exp(0.22 * rng.standard_normal()), 0.28, 1.4))
        # Pores are as deep as they are wide, unless the wall or the wish for a faint one flattens them.
        pieces.append(ball(rng, pore, pore * rng.uniform(0.85, 1.0), min(depth * rng.uniform(0.7, 1.2), pore * 1.1),
                           rng.uniform(0, np.pi), px, y / px, x / px))  # fmt: skip
    return pieces


def _porosity_elongated(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """A field of worm-like pores that the solidification front drew out in about the same direction."""
    length = rng.uniform(1.2, 3.2)
    number = int(np.clip(size**2 * rng.uniform(0.03, 0.14) / length, 2, 60))
    turn = rng.uniform(0, np.pi)
    pieces = []
    for y, x in _scatter(rng, size, number, length * 0.7):
        long = float(length * np.exp(0.25 * rng.standard_normal()))
        short = max(0.25, long / rng.uniform(3.5, 6.5))
        pieces.append(ball(rng, long, short, min(depth, short * 1.3), turn + 0.3 * rng.standard_normal(), px,
                           y / px, x / px))  # fmt: skip
    return pieces


def _smooth_noise(rng: np.random.Generator, side: int, scale_px: float) -> Map:
    """Gaussian noise of unit variance with features of about ``scale_px`` points."""
    coarse = max(4, round(side / max(scale_px, 1.0)) + 3)
    noise = rng.standard_normal((coarse, coarse), np.float32)
    wide = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(wide / max(float(wide.std()), 1e-6), np.float32)


def _envelope(rng: np.random.Generator, y: Map, x: Map, size: float, raggedness: float) -> Map:
    """1 in the middle, falling through 0 at an irregular outline of about ``size`` mm across."""
    turn, aspect = rng.uniform(0, np.pi), rng.uniform(0.45, 1.0)
    along = x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))
    across = (y * np.float32(np.cos(turn)) - x * np.float32(np.sin(turn))) / np.float32(aspect)
    side = along.shape[0]
    radius2 = (along * along + across * across) * np.float32(4.0 / size**2)
    return np.asarray(1.0 - radius2 * 1.35 + np.float32(raggedness) * _smooth_noise(rng, side, side / 5), np.float32)


def _cavity(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """One open void with ragged walls: thresholded noise of several scales."""
    fine = _fine(size, px)
    path, y, x = _canvas(size, px, fine)
    side = path.shape[0]
    field = _envelope(rng, y, x, size, 0.45) - np.float32(0.12)
    for scale_mm, weight in ((1.0, 0.22), (0.4, 0.16)):
        field += np.float32(weight) * _smooth_noise(rng, side, scale_mm / px * fine)
    field *= (y * y + x * x) < np.float32((size * 0.52) ** 2)
    path = np.sqrt(np.clip(field, 0.0, 1.0))
    path = path * np.float32(depth / max(float(path.max()), 1e-6))
    return [_piece(path, fine)]


def _sponge(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """A mottled nest of fine voids between dendrites: layers of thresholded noise, seen on top of each other."""
    fine = _fine(size, px)
    path, y, x = _canvas(size, px, fine)
    envelope = np.clip(_envelope(rng, y, x, size, 0.3), 0.0, 1.0)
    envelope *= (y * y + x * x) < np.float32((size * 0.52) ** 2)
    scale = rng.uniform(0.35, 0.7) / px * fine
    for _ in range(2):
        path += np.maximum(_smooth_noise(rng, path.shape[0], scale) - np.float32(rng.uniform(0.45, 0.8)), 0.0)
    path *= np.sqrt(envelope)
    return [_piece(path * np.float32(depth / max(float(path.max()), 1e-6)), fine)]


def _line(path: Map, points_mm: NDArray[np.float64], width_mm: Map, value_mm: Map, fine: int, px: float) -> None:
    """Draw a polyline on the fine grid, each stretch with its own width and path; crossings keep the longer path."""
    middle = (path.shape[0] - 1) / 2
    grid = points_mm * (fine / px) + middle
    reach = float(np.max(width_mm)) * fine / px + 2
    low = np.clip(np.floor(grid.min(axis=0) - reach), 0, path.shape[0] - 1).astype(int)
    high = np.clip(np.ceil(grid.max(axis=0) + reach), 1, path.shape[0]).astype(int)
    window = path[low[0] : high[0], low[1] : high[1]]
    layer = np.zeros(window.shape, np.float32)
    # 1/8 of a fine point is far below what any detector shows.
    fixed = np.round((grid - low)[:, ::-1] * 8).astype(np.int64)
    order = np.argsort(value_mm[:-1], kind="stable")
    for i in order.tolist():
        start, end = fixed[i], fixed[i + 1]
        width = max(1, round(float(width_mm[i]) * fine / px))
        cv2.line(layer, (int(start[0]), int(start[1])), (int(end[0]), int(end[1])), float(value_mm[i]), width,
                 cv2.LINE_8, 3)  # fmt: skip
    np.maximum(window, layer, out=window)


def _walk(rng: np.random.Generator, length: float, step: float, jag: float, bend: float) -> NDArray[np.float64]:
    """A line of ``length`` mm from steps that jump by ``jag`` rad and drift by ``bend`` rad: (n, 2) in mm, centred."""
    number = max(4, int(length / step))
    drift = np.cumsum(rng.normal(0.0, bend, number))
    turn = rng.uniform(0, 2 * np.pi) + drift - drift.mean() + rng.normal(0.0, jag, number)
    points = np.cumsum(np.stack([np.sin(turn), np.cos(turn)], 1) * step, axis=0)
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    reach = float(np.hypot(*np.ptp(points, axis=0)))
    return np.asarray(points * (length / max(reach, 1e-6)), np.float64)


def _taper(number: int, ends: float) -> Map:
    """1 in the middle, falling towards both ends; ``ends`` is the exponent."""
    at = np.linspace(-1.0, 1.0, number)
    return np.asarray(np.maximum(1.0 - np.abs(at) ** 4, 0.0) ** ends * 0.9 + 0.1, np.float32)


def _crack(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """A thin jagged sheet, nearly along the ray: sharp, tapering, sometimes forked."""
    fine = _fine(size, px)
    path, _, _ = _canvas(size * 1.15, px, fine)
    points = _walk(rng, size, 0.45, rng.uniform(0.3, 0.6), 0.09)
    opening = max(rng.uniform(0.14, 0.36), 1.1 * px)
    strength = _taper(len(points), 0.6) * np.clip(1.0 + 0.25 * rng.standard_normal(len(points)), 0.4, 1.5)
    _line(path, points, np.asarray(opening * _taper(len(points), 0.4), np.float32),
          np.asarray(depth * strength / 1.5, np.float32), fine, px)  # fmt: skip
    if rng.random() < 0.35:
        start = int(rng.integers(len(points) // 4, 3 * len(points) // 4))
        branch = _walk(rng, size * rng.uniform(0.15, 0.3), 0.4, 0.45, 0.09)
        branch += points[start] - branch[0]
        fade = np.linspace(1.0, 0.2, len(branch))
        _line(path, branch, np.asarray(opening * fade, np.float32), np.asarray(0.6 * depth * fade, np.float32),
              fine, px)  # fmt: skip
    return [_piece(path, fine)]


def _cold_shut(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """Two streams of metal that met too cold: a smooth curved seam, sharp on one side and fading on the other."""
    fine = min(_fine(size, px), 3)
    path, _, _ = _canvas(size * 1.1, px, fine)
    points = _walk(rng, size, 0.5, 0.0, rng.uniform(0.02, 0.07))
    tangent = np.gradient(points, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.maximum(np.hypot(*tangent.T), 1e-9)[:, None]
    broad = rng.uniform(0.6, 1.5)
    step = px / fine
    strength = _taper(len(points), 0.3)
    for offset in np.arange(0.0, broad, step):
        fade = (1.0 - offset / broad) ** 0.6
        line = points + normal * (offset * strength[:, None])
        _line(path, line, np.full(len(points), 2.2 * step, np.float32),
              np.asarray(depth * fade * strength, np.float32), fine, px)  # fmt: skip
    return [_piece(np.asarray(cv2.GaussianBlur(path, (0, 0), 0.15 / px * fine), np.float32), fine)]


def _dendritic(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """Feathery: a stem with side arms at a steep angle, and arms on those, as the crystals grew."""
    fine = _fine(size, px)
    path, _, _ = _canvas(size * 1.1, px, fine)
    arm = rng.uniform(0.9, 1.5)
    turn = rng.uniform(0, 2 * np.pi)

    def grow(start: NDArray[np.float64], heading: float, length: float, order: int) -> None:
        number = max(3, int(length / 0.35))
        turns = heading + np.cumsum(rng.normal(0.0, 0.06, number))
        points = start + np.cumsum(np.stack([np.sin(turns), np.cos(turns)], 1) * (length / number), axis=0)
        fade = np.linspace(1.0, 0.35, number)
        weight = (1.0, 0.85, 0.7)[order] * rng.uniform(0.75, 1.0)
        _line(path, points, np.asarray((0.34 - 0.06 * order) * fade, np.float32),
              np.asarray(depth * weight * fade, np.float32), fine, px)  # fmt: skip
        if order == 2:
            return
        for at in np.arange(0.12, 0.92, (0.75 if order == 0 else 0.55) / max(length, 1e-3)):
            point = points[int(at * (number - 1))]
            for side in (-1.0, 1.0):
                reach = length * (0.38 if order == 0 else 0.3) * (1.0 - 0.6 * at) * rng.uniform(0.4, 1.1)
                if reach > 0.35:
                    grow(point, heading + side * arm + rng.normal(0.0, 0.12), reach, order + 1)

    for stem in range(int(rng.integers(1, 3))):
        length = size * (0.95 if stem == 0 else rng.uniform(0.4, 0.7))
        heading = turn + stem * rng.uniform(0.7, 1.4)
        grow(-0.5 * length * np.array([np.sin(heading), np.cos(heading)]), heading, length, 0)
    return [_piece(path, fine)]


def _filamentary(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """A tangle of winding threads that join each other."""
    fine = _fine(size, px)
    path, _, _ = _canvas(size * 1.1, px, fine)
    main = _walk(rng, size * 0.95, 0.4, 0.25, 0.22)
    for index in range(int(rng.integers(3, 7))):
        if index == 0:
            points = main
        else:
            points = _walk(rng, size * rng.uniform(0.25, 0.6), 0.4, 0.2, 0.28)
            points += main[int(rng.integers(0, len(main)))] - points[int(rng.integers(0, len(points)))]
        points = np.clip(points, -size * 0.54, size * 0.54)
        strength = _taper(len(points), 0.7) * np.clip(1.0 + 0.3 * rng.standard_normal(len(points)), 0.3, 1.4) / 1.4
        width = np.full(len(points), rng.uniform(0.16, 0.32), np.float32) * _taper(len(points), 0.4)
        _line(path, points, np.maximum(width, np.float32(px)), np.asarray(depth * strength, np.float32), fine, px)
    return [_piece(path, fine)]


def _polygon(rng: np.random.Generator, size: float, px: float, bevel_mm: float) -> tuple[Map, int]:
    """An angular grain, 1 inside with bevelled edges, on a fine grid."""
    fine = _fine(size, px)
    path, _, _ = _canvas(size, px, fine)
    turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 8))) + rng.uniform(0, 2 * np.pi))
    spread = np.linspace(0, 2 * np.pi, len(turns), endpoint=False)
    turns = 0.45 * turns + 0.55 * (spread + turns[0])
    radius = size / 2 * rng.uniform(0.6, 1.0, len(turns)) * fine / px
    middle = (path.shape[0] - 1) / 2
    aspect = rng.uniform(0.5, 1.0)
    corners = np.stack([middle + radius * np.cos(turns), middle + aspect * radius * np.sin(turns)], 1)
    cv2.fillPoly(path, [np.round(corners * 8).astype(np.int32)], 1.0, cv2.LINE_8, 3)
    return np.asarray(cv2.GaussianBlur(path, (0, 0), max(bevel_mm / px * fine, 0.3)), np.float32), fine


def _less_dense(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """Oxide, dross or sand: an angular grain that attenuates less than the casting, with some texture."""
    grain, fine = _polygon(rng, size, px, 0.06)
    texture = 1.0 + 0.12 * _smooth_noise(rng, grain.shape[0], 0.35 / px * fine)
    return [_piece(grain * np.clip(texture, 0.5, 1.4) * np.float32(depth), fine)]


def _more_dense(rng: np.random.Generator, size: float, depth: float, px: float) -> list[Piece]:
    """Iron, a chaplet or heavy segregation: angular and dark, now and then several grains."""
    pieces = []
    for index in range(1 if rng.random() < 0.65 else int(rng.integers(2, 6))):
        own = size * (1.0 if index == 0 else rng.uniform(0.3, 0.6))
        grain, fine = _polygon(rng, own, px, 0.05)
        away = rng.uniform(-1.6, 1.6, 2) * size * (index > 0)
        pieces.append(_piece(grain * np.float32(-depth * rng.uniform(0.8, 1.0)), fine,
                             float(away[0] / px), float(away[1] / px)))  # fmt: skip
    return pieces


_MAKERS: dict[str, Callable[[np.random.Generator, float, float, float], list[Piece]]] = {
    "gas_hole": _gas_hole,
    "gas_porosity_round": _porosity_round,
    "gas_porosity_elongated": _porosity_elongated,
    "shrinkage_cavity": _cavity,
    "shrinkage_sponge": _sponge,
    "shrinkage_dendritic": _dendritic,
    "shrinkage_filamentary": _filamentary,
    "foreign_less_dense": _less_dense,
    "foreign_more_dense": _more_dense,
    "crack": _crack,
    "cold_shut": _cold_shut,
}
