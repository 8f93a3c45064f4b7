"""The worst window, over every position.

A grid of tiles would let a cluster that straddles a border through; so every integer position that lies fully inside
the image is looked at (stride 1), with one integral image per type and only around the pixels where the type occurs:
a window that touches none of them holds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import RuleError

__all__ = ["WorstWindow", "window_side_px", "worst_window"]


@dataclass(frozen=True, slots=True)
class WorstWindow:
    """The largest value over all positions, and the first position (smallest y, then x) that has it."""

    value: float
    at_px: tuple[int, int]


def window_side_px(side_mm: float, mm_per_px: float) -> int:
    """Nominal window side in pixels: round(L / s), at least 1 (not yet clipped to the image)."""
    if not (side_mm > 0 and np.isfinite(side_mm / mm_per_px)):
        raise RuleError(f"window side {side_mm} mm is not a positive length", hint="give a side such as 12.7 mm")
    return max(1, round(side_mm / mm_per_px))


def _integral(values: NDArray[Any]) -> NDArray[Any]:
    """(h + 1, w + 1) summed-area table: exact int32 for 8-bit input, float64 otherwise."""
    depth = cv2.CV_32S if values.dtype == np.uint8 else cv2.CV_64F
    table: NDArray[Any] = cv2.integral(values, sdepth=depth)
    return table


def _window_sums(
    table: NDArray[Any], origin: tuple[int, int], ys: NDArray[np.intp], xs: NDArray[np.intp], w: int, h: int
) -> NDArray[Any]:
    """Sums over the windows whose corners are ys x xs, from the table of a cut-out that lies at origin (x, y)."""
    top = np.clip(ys - origin[1], 0, table.shape[0] - 1)
    bottom = np.clip(ys + h - origin[1], 0, table.shape[0] - 1)
    left = np.clip(xs - origin[0], 0, table.shape[1] - 1)
    right = np.clip(xs + w - origin[0], 0, table.shape[1] - 1)
    strips = table[bottom] - table[top]
    sums: NDArray[Any] = np.take(strips, right, axis=1) - np.take(strips, left, axis=1)
    return sums


def worst_window(
    values: NDArray[Any],
    origin_px: tuple[int, int],
    image_px: tuple[int, int],
    side_px: tuple[int, int],
    *,
    region: NDArray[np.bool_] | None = None,
    divide_by_area: bool = False,
) -> WorstWindow:
    """Largest window sum of ``values`` (or that sum divided by the window's area) over every position.

    Parameters
    ----------
    values : uint8 or float (h, w), not negative: the cut-out outside of which everything is zero.
    origin_px : (x, y) of the cut-out in the image.
    image_px : (W, H) of the image.
    side_px : (w, h) of the window; an axis on which the image is shorter is clipped to it.
    region : bool (H, W), what belongs to the part; None = all of it. Only with ``divide_by_area``.
    divide_by_area : divide each sum by the number of region pixels in its window (0 where there are none).

    Returns
    -------
    value 0 at (0, 0) where nothing occurs. Label images are summed in integers, so ties are true ties.
    """
    width, height = image_px
    w, h = min(side_px[0], width), min(side_px[1], height)
    x0, y0 = origin_px
    # Corners of every window that shares at least one pixel with the cut-out; all others hold nothing.
    xs = np.arange(max(0, x0 - w + 1), min(width - w, x0 + values.shape[1] - 1) + 1)
    ys = np.arange(max(0, y0 - h + 1), min(height - h, y0 + values.shape[0] - 1) + 1)
    sums = _window_sums(_integral(values), origin_px, ys, xs, w, h)
    if divide_by_area and region is not None:
        inside = _window_sums(_integral(region.view(np.uint8)), (0, 0), ys, xs, w, h)
        with np.errstate(divide="ignore", invalid="ignore"):
            sums = np.where(inside > 0, sums / inside, 0.0)
    first = int(sums.argmax())
    iy, ix = divmod(first, sums.shape[1])
    value = float(sums[iy, ix])
    if value <= 0.0:
        return WorstWindow(0.0, (0, 0))
    if divide_by_area and region is None:
        value /= w * h
    return WorstWindow(value, (int(xs[ix]), int(ys[iy])))
