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

__all__ = ["is_simple", "polygon_mask", "zone_region"]


def is_simple(polygon: Sequence[tuple[float, float]]) -> bool:
    """Whether a polygon has an area and no two of its edges cross or touch, neighbours at their corner aside."""
    count = len(polygon)
    edges = [(polygon[one], polygon[(one + 1) % count]) for one in range(count)]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in edges)
    if abs(area) < 1e-9 or any(a == b for a, b in edges):
        return False
    for one in range(count):
        for other in range(one + 2, count):
            if (other + 1) % count != one and _touch(*edges[one], *edges[other]):
                return False
    return True


Point = tuple[float, float]


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _touch(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether two segments share a point."""

    def on(p: Point, q: Point, r: Point) -> bool:
        return min(p[0], q[0]) <= r[0] <= max(p[0], q[0]) and min(p[1], q[1]) <= r[1] <= max(p[1], q[1])

    s1, s2, s3, s4 = _side(a, b, c), _side(a, b, d), _side(c, d, a), _side(c, d, b)
    if s1 * s2 < 0 and s3 * s4 < 0:
        return True
    return (
        (s1 == 0 and on(a, b, c)) or (s2 == 0 and on(a, b, d)) or (s3 == 0 and on(c, d, a)) or (s4 == 0 and on(c, d, b))
    )


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
