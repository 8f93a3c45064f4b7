"""For people: the same values on a fixed grid of tiles, and as a curve over the window side. Nothing here decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .measure import Scale
from .windows import WindowScan, window_side_px

__all__ = ["TileMap", "curve_sides_mm", "tile_map", "window_curve"]


@dataclass(frozen=True, slots=True)
class TileMap:
    """Area share on non-overlapping tiles. xs_px, ys_px: borders, one more than tiles. area_pct: float64 (rows,
    columns); a tile cut off by the right or lower border counts by its own area."""

    xs_px: NDArray[np.intp]
    ys_px: NDArray[np.intp]
    area_pct: NDArray[np.float64]


def tile_map(
    labels: NDArray[np.uint8], coverage: NDArray[np.float32] | None, label: int, scale: Scale, side_mm: float
) -> TileMap:
    """Tiles of ``side_mm`` from the top-left corner on. Parameters as in ``measure``."""
    height, width = labels.shape
    values: NDArray[Any] = (labels == label).astype(np.float64)
    if coverage is not None:
        values *= coverage
    w, h = (window_side_px(side_mm, one) for one in scale.both)
    xs, ys = np.append(np.arange(0, width, w), width), np.append(np.arange(0, height, h), height)
    sums = np.add.reduceat(np.add.reduceat(values, ys[:-1], axis=0), xs[:-1], axis=1)
    return TileMap(xs, ys, 100.0 * sums / np.outer(np.diff(ys), np.diff(xs)))


def curve_sides_mm(scale: Scale, image_px: tuple[int, int], count: int = 24) -> tuple[float, ...]:
    """Window sides from two pixels to the shorter side of the image, evenly spaced on a logarithmic scale."""
    longest = min(image_px[0] * scale.x_mm_per_px, image_px[1] * scale.y_mm_per_px)
    shortest = min(2.0 * max(scale.both), longest)
    return tuple(float(side) for side in np.geomspace(shortest, longest, count))


def window_curve(
    labels: NDArray[np.uint8],
    coverage: NDArray[np.float32] | None,
    label: int,
    scale: Scale,
    sides_mm: Sequence[float],
) -> tuple[float, ...]:
    """area_pct of the worst window of each side: a concentrated defect stands out at small sides, a spread one keeps
    its share at large ones. Indications of every size count."""
    ys, xs = np.nonzero(labels == label)
    scan = WindowScan(ys, xs, None if coverage is None else coverage[ys, xs], (labels.shape[1], labels.shape[0]))
    sides_px = ((window_side_px(side, scale.x_mm_per_px), window_side_px(side, scale.y_mm_per_px)) for side in sides_mm)
    return tuple(100.0 * scan.worst(side, share=True).value for side in sides_px)
