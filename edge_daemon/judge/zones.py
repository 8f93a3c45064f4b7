"""Zones: areas of a part that have rules of their own.

A pixel that lies in two zones is judged in both. An indication that touches a zone is judged there as a whole, its
pixels beyond the border included: a border never makes a defect smaller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .indications import find_marks
from .measure import Scale

__all__ = ["polygon_mask", "zone_region"]


def polygon_mask(
    polygon_mm: Sequence[tuple[float, float]], scale: Scale, size_px: tuple[int, int]
) -> NDArray[np.bool_] | None:
    """The pixels (bool (H, W)) whose centres lie in the polygon; corners (x, y) in mm from the top-left corner of the
    picture of ``size_px`` (W, H). None where the polygon is not wholly in the picture: it was not wholly seen."""
    width, height = size_px
    corners_px = np.array([(x / scale.x_mm_per_px, y / scale.y_mm_per_px) for x, y in polygon_mm])
    if (corners_px > np.array([width, height]) + 1e-6).any() or (corners_px < -1e-6).any():
        return None
    # Even-odd rule at the pixel centres, one edge after the other.
    xs, ys = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    inside = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(corners_px, np.roll(corners_px, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (ys >= min(y0, y1)) & (ys < max(y0, y1))
        inside ^= crosses & (xs[None, :] < x0 + (ys - y0) * (x1 - x0) / (y1 - y0))
    return inside


def zone_region(labels: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``inside`` (bool (H, W)), and all of each indication that touches it."""
    region: NDArray[np.bool_] = inside.copy()
    touched = labels[inside]
    for label in np.unique(touched[touched != 0]).tolist():
        ys, xs = np.nonzero(labels == label)
        marks = find_marks(ys, xs, labels.shape[::-1], None, (1.0, 1.0))
        touching = np.zeros(len(marks.indications) + 1, bool)
        touching[marks.owner[inside[ys, xs]]] = True
        whole = touching[marks.owner]
        region[ys[whole], xs[whole]] = True
    return region
