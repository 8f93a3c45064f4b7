"""The designed parts: flat plates and the conveyor's housing, as thickness maps, float32 (H, W) in mm along each ray.

Castings that nobody designed are drawn in ``castings``.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["HOUSING_WALL_MM", "PLATE_MM", "flat_plate", "housing"]

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
