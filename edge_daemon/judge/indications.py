"""Indications: the connected regions of one type, and the largest caliper distance of each.

Definitions (design: judging):

* 8-connected components of the pixels of one type.
* area: sum of coverage x sx x sy over the component's pixels; for a label image the pixel count takes coverage's place.
* feret_max: the largest distance between two points of the outline. For a label image the outline is made of pixel
  corners, so one pixel of 0.1 mm measures 0.1414 mm: high by 0.4 to 1.2 px on a smooth shape, never low on a sharp one.
  Where coverage is real the outline is the 0.5-contour, interpolated between pixel centres.
* gap: the smallest edge-to-edge distance to another indication of the same type, pixel squares taken as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Indication", "edge_length_mm", "feret_of_contour_px", "feret_of_pixels", "find_indications", "gaps_mm"]

_CONTOUR_LEVEL = 0.5
_PAIR_CHUNK = 4_000_000  # pairs compared at once: 32 MB of float64


@dataclass(frozen=True, slots=True)
class Indication:
    """One connected region of one type.

    component: its number in the component image. first_px: (x, y) of its first pixel, row by row.
    bbox_px: (x, y, w, h). centroid_px: (x, y) of the pixels' mean, the centre of pixel (0, 0) being (0.5, 0.5), so that
    a window [x, x + w) and a centroid share one geometry. counted: False below the rule's cut-off size.
    """

    component: int
    first_px: tuple[int, int]
    bbox_px: tuple[int, int, int, int]
    centroid_px: tuple[float, float]
    area_mm2: float
    perimeter_mm: float
    feret_max_mm: float
    counted: bool = True


def _largest_distance(points: NDArray[np.float64]) -> float:
    """Largest distance between any two of (n, 2) points; n is a convex hull's, so n x n is small."""
    best = 0.0
    step = max(1, _PAIR_CHUNK // len(points))
    for start in range(0, len(points), step):
        block = points[start : start + step]
        dx = block[:, 0, None] - points[None, :, 0]
        dy = block[:, 1, None] - points[None, :, 1]
        best = max(best, float((dx * dx + dy * dy).max()))
    return float(np.sqrt(best))


def feret_of_pixels(mask: NDArray[np.bool_], scale_mm: tuple[float, float]) -> float:
    """Largest caliper distance in mm over the pixel corners of a bool mask (h, w) that holds at least one pixel.

    scale_mm: mm per px in x and y. Only the outermost pixels of a row can reach the hull, so only they are looked at.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    occupied = mask[rows]
    left = occupied.argmax(axis=1)
    right = mask.shape[1] - occupied[:, ::-1].argmax(axis=1)
    x = np.concatenate([left, left, right, right])
    y = np.concatenate([rows, rows + 1, rows, rows + 1])
    # Integer coordinates: the hull is exact; scaling a hull by sx, sy leaves it a hull.
    hull = cv2.convexHull(np.stack([x, y], axis=1).astype(np.int32))[:, 0, :].astype(np.float64)
    return _largest_distance(hull * np.asarray(scale_mm, np.float64))


def _crossings(field: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """Points (n, 2) as (x, y) where the linear interpolation between neighbouring samples crosses the level."""
    above = field >= level
    y, x = np.nonzero(above[:, 1:] != above[:, :-1])
    share = (level - field[y, x]) / (field[y, x + 1] - field[y, x])
    across = np.stack([x + share, y.astype(np.float64)], axis=1)
    y, x = np.nonzero(above[1:] != above[:-1])
    share = (level - field[y, x]) / (field[y + 1, x] - field[y, x])
    down = np.stack([x.astype(np.float64), y + share], axis=1)
    return np.concatenate([across, down])


def feret_of_contour_px(coverage: NDArray[np.float64], scale_mm: tuple[float, float]) -> float | None:
    """Largest caliper distance in mm of the 0.5-contour of a coverage field (h, w); None where it never reaches 0.5."""
    points = _crossings(np.pad(coverage, 1), _CONTOUR_LEVEL)
    if len(points) == 0:
        return None
    hull = cv2.convexHull(points.astype(np.float32), returnPoints=False)[:, 0]
    return _largest_distance(points[hull] * np.asarray(scale_mm, np.float64))


def edge_length_mm(mask: NDArray[np.bool_], scale_mm: tuple[float, float]) -> float:
    """Length in mm of the pixel edges between mask and not mask: at most 4/pi longer than a smooth outline."""
    padded = np.pad(mask, 1)
    vertical = int((padded[:, 1:] != padded[:, :-1]).sum())
    horizontal = int((padded[1:] != padded[:-1]).sum())
    return vertical * scale_mm[1] + horizontal * scale_mm[0]


def find_indications(
    mask: NDArray[np.bool_],
    coverage: NDArray[np.float32] | None,
    scale_mm: tuple[float, float],
    *,
    offset_px: tuple[int, int] = (0, 0),
    min_indication_mm: float = 0.0,
) -> tuple[NDArray[np.int32], tuple[Indication, ...]]:
    """Connected regions of one type.

    Parameters
    ----------
    mask : bool (h, w), the pixels of the type; usually its bounding box cut out of the image.
    coverage : float32 (h, w) in [0, 1], or None for a bare label image.
    scale_mm : mm per px in x and y.
    offset_px : (x, y) of the cut-out in the image; added to every position reported.
    min_indication_mm : indications with a smaller feret_max_mm come back with ``counted`` False.

    Returns
    -------
    components : int32 (h, w), 0 outside, otherwise the number of the indication.
    indications : in the order of their first pixel, row by row.
    """
    count, components, stats, centroids = cv2.connectedComponentsWithStats(
        mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    areas_px: NDArray[np.float64]
    if coverage is None:
        areas_px = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    else:
        weights = coverage.ravel().astype(np.float64)
        areas_px = np.bincount(components.ravel(), weights=weights, minlength=count).astype(np.float64)
    found: list[Indication] = []
    height, width = mask.shape
    for number in range(1, count):
        x, y, w, h = (int(value) for value in stats[number, :4])
        own = components[y : y + h, x : x + w] == number
        feret = feret_of_pixels(own, scale_mm)
        if coverage is not None:
            # One pixel around the box: coverage below the label threshold shapes the contour. Neighbours stay out.
            top, left, bottom, right = max(y - 1, 0), max(x - 1, 0), min(y + h + 1, height), min(x + w + 1, width)
            around = components[top:bottom, left:right]
            field = np.where((around == number) | (around == 0), coverage[top:bottom, left:right], 0.0)
            contour = feret_of_contour_px(field.astype(np.float64), scale_mm)
            # A region that nowhere reaches 0.5 has no contour: its pixel corners stand for it (larger, never smaller).
            feret = feret if contour is None else contour
        found.append(
            Indication(
                component=number,
                first_px=(x + int(own[0].argmax()) + offset_px[0], y + offset_px[1]),
                bbox_px=(x + offset_px[0], y + offset_px[1], w, h),
                centroid_px=(
                    float(centroids[number, 0]) + 0.5 + offset_px[0],
                    float(centroids[number, 1]) + 0.5 + offset_px[1],
                ),
                area_mm2=float(areas_px[number]) * scale_mm[0] * scale_mm[1],
                perimeter_mm=edge_length_mm(own, scale_mm),
                feret_max_mm=feret,
                counted=feret >= min_indication_mm,
            )
        )
    # OpenCV numbers components block by block, which depends on where the cut-out starts; the first pixel does not.
    found.sort(key=lambda one: (one.first_px[1], one.first_px[0]))
    return components.astype(np.int32, copy=False), tuple(found)


def gaps_mm(components: NDArray[np.int32], scale_mm: tuple[float, float]) -> dict[int, float]:
    """Edge-to-edge distance in mm from each component to its nearest neighbour; infinite for a single one.

    components: int32 (h, w) as ``find_indications`` returns it. Distance between two pixels is that between their
    squares, so diagonal neighbours of different components cannot exist and the smallest gap is one pixel.
    """
    numbers = [int(number) for number in np.unique(components) if number]
    interior = components.copy()
    interior[1:-1, 1:-1] = np.where(
        (components[1:-1, 1:-1] == components[:-2, 1:-1]) & (components[1:-1, 1:-1] == components[2:, 1:-1])
        & (components[1:-1, 1:-1] == components[1:-1, :-2]) & (components[1:-1, 1:-1] == components[1:-1, 2:]),
        0, components[1:-1, 1:-1],
    )  # fmt: skip
    ys, xs = np.nonzero(interior)
    owner = interior[ys, xs]
    gaps = dict.fromkeys(numbers, float("inf"))
    for number in numbers:
        mine = owner == number
        others = ~mine
        if not others.any():
            continue
        other_x, other_y = xs[others], ys[others]
        best = float("inf")
        step = max(1, _PAIR_CHUNK // len(other_x))
        mine_x, mine_y = xs[mine], ys[mine]
        for start in range(0, len(mine_x), step):
            dx = np.maximum(np.abs(mine_x[start : start + step, None] - other_x[None]) - 1, 0) * scale_mm[0]
            dy = np.maximum(np.abs(mine_y[start : start + step, None] - other_y[None]) - 1, 0) * scale_mm[1]
            best = min(best, float((dx * dx + dy * dy).min()))
        gaps[number] = float(np.sqrt(best))
    return gaps
