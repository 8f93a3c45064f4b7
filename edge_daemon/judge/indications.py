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

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, hypot, pi, sqrt
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Indication", "Marks", "find_indications", "find_marks", "outline_mm", "smallest_gap_mm"]

_CONTOUR_LEVEL = 0.5
_HULL_FROM = 64  # fewer points than this are compared pair by pair without a hull
_PAIR_CHUNK = 1_000_000  # pairs compared at once: 8 MB of float64, and three of them


@dataclass(frozen=True, slots=True)
class Indication:
    """One connected region of one type.

    component: its number, from 1. first_px: (x, y) of its first pixel, row by row.
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


def _largest_distance(points: NDArray[np.float64], scale_mm: tuple[float, float]) -> float:
    """Largest distance in mm between any two of (n, 2) points in px.

    Differences are taken in px and scaled afterwards, so that a chord between pixel corners has one length to the last
    bit wherever it lies.
    """
    best = 0.0
    if len(points) > _HULL_FROM:
        hull = cv2.convexHull(points.astype(np.float32), returnPoints=False)[:, 0]
        points = points[hull]
    step = max(1, _PAIR_CHUNK // len(points))
    for start in range(0, len(points), step):
        block = points[start : start + step]
        dx = (block[:, 0, None] - points[None, :, 0]) * scale_mm[0]
        dy = (block[:, 1, None] - points[None, :, 1]) * scale_mm[1]
        best = max(best, float((dx * dx + dy * dy).max()))
    return float(np.sqrt(best))


def _by_owner(owner: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Indices that put what belongs together side by side, each in its order; 16-bit numbers are sorted by radix."""
    return np.argsort(owner.astype(np.uint16) if count <= 0xFFFF else owner, kind="stable")


def _largest_distances(
    points: NDArray[np.float64], owner: NDArray[np.intp], count: int, scale_mm: tuple[float, float]
) -> NDArray[np.float64]:
    """Largest distance in mm among the points of each owner 0..count - 1; 0 where an owner has none.

    Thousands of specks have few points each: owners with the same small number of points are compared together.
    """
    order = _by_owner(owner, count)
    points, sizes = points[order], np.bincount(owner, minlength=count)
    starts = np.cumsum(sizes) - sizes
    largest = np.zeros(count)
    for size in np.unique(sizes[sizes > 0]):
        own = np.flatnonzero(sizes == size)
        if size > _HULL_FROM:
            for number in own:
                largest[number] = _largest_distance(points[starts[number] : starts[number] + size], scale_mm)
            continue
        step = max(1, _PAIR_CHUNK // int(size * size))
        for first in range(0, len(own), step):
            some = own[first : first + step]
            block = points[starts[some, None] + np.arange(size)]
            dx = (block[:, :, None, 0] - block[:, None, :, 0]) * scale_mm[0]
            dy = (block[:, :, None, 1] - block[:, None, :, 1]) * scale_mm[1]
            largest[some] = np.sqrt((dx * dx + dy * dy).max(axis=(1, 2)))
    return largest


def _crofton_mm(crossings: Sequence[NDArray[Any]], scale_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Length of an outline from how often it crosses the pixel lines of four directions (Cauchy-Crofton formula).

    crossings: along rows, columns and the two diagonals. Each direction stands for the angles nearer to it than to its
    neighbours. Right for outlines of every direction; 11 % short for one that runs along the pixels, where counting
    pixel edges is up to 27 % long for all others.
    """
    across, down, *diagonals = crossings
    sx, sy = scale_mm
    slope, diagonal = atan2(sy, sx), hypot(sx, sy)
    length: NDArray[np.float64] = 0.5 * (
        slope * sy * across
        + (pi / 2 - slope) * sx * down
        + (pi / 4) * (sx * sy / diagonal) * (diagonals[0] + diagonals[1])
    )
    return length


def outline_mm(mask: NDArray[np.bool_], scale_mm: tuple[float, float]) -> float:
    """Length in mm of the outline of a mask (bool (h, w)); where it touches the border the border counts as outline.
    Never shorter than the outline of a disc of the same area."""
    padded = np.pad(mask, 1)
    crossings = (
        (padded[:, 1:] != padded[:, :-1]).sum(),
        (padded[1:] != padded[:-1]).sum(),
        (padded[1:, 1:] != padded[:-1, :-1]).sum(),
        (padded[1:, :-1] != padded[:-1, 1:]).sum(),
    )
    smallest = 2.0 * sqrt(pi * float(mask.sum()) * scale_mm[0] * scale_mm[1])
    return max(float(_crofton_mm([np.asarray(one) for one in crossings], scale_mm)), smallest)


@dataclass(frozen=True, slots=True)
class Marks:
    """The marked pixels of one type, and what they make up.

    ys, xs: int (n,), row by row. owner: int (n,), the number of each pixel's indication; numbers count from 1 in the
    order of the first pixel, row by row, as ``indications`` do.
    """

    ys: NDArray[np.intp]
    xs: NDArray[np.intp]
    owner: NDArray[np.intp]
    indications: tuple[Indication, ...]


def _components(ys: NDArray[np.intp], xs: NDArray[np.intp], width: int) -> tuple[NDArray[np.intp], int]:
    """Number of each pixel's 8-connected component, from 0 in the order of the first pixel; how many there are.

    Runs of neighbouring pixels are the nodes, runs that touch in the row above the edges; each node then takes the
    smallest number it is connected to, by hooking and pointer jumping (Shiloach and Vishkin 1982): the work grows with
    the marks, not with the image.
    """
    stride = width + 2  # so that the end of one row and the start of the next are no neighbours
    flat = ys * stride + xs
    begins = np.flatnonzero(np.diff(flat, prepend=-2) != 1)
    ends = np.append(begins[1:], len(flat)) - 1
    first, last = flat[begins], flat[ends]
    # Runs of the row above that overlap this one, diagonal neighbours included.
    low = np.searchsorted(last, first - stride - 1)
    high = np.searchsorted(first, last - stride + 1, side="right")
    touching = np.maximum(high - low, 0)
    below = np.repeat(np.arange(len(first)), touching)
    above = np.arange(touching.sum()) - np.repeat(np.cumsum(touching) - touching, touching) + np.repeat(low, touching)
    root = np.arange(len(first))
    while True:
        one, other = root[below], root[above]
        smaller, larger = np.minimum(one, other), np.maximum(one, other)
        if (smaller == larger).all():
            break
        np.minimum.at(root, larger, smaller)
        while (jumped := root[root]).tobytes() != root.tobytes():
            root = jumped
    names, of_run = np.unique(root, return_inverse=True)
    return np.repeat(of_run, ends - begins + 1), len(names)


def find_marks(
    ys: NDArray[np.intp],
    xs: NDArray[np.intp],
    size_px: tuple[int, int],
    coverage: NDArray[np.float32] | None,
    scale_mm: tuple[float, float],
    *,
    min_indication_mm: float = 0.0,
) -> Marks:
    """Connected regions of one type.

    Parameters
    ----------
    ys, xs : int (n,), the pixels of the type, row by row.
    size_px : (W, H) of the image.
    coverage : float32 (H, W) in [0, 1], or None for a bare label image.
    scale_mm : mm per px in x and y.
    min_indication_mm : indications with a smaller feret_max_mm come back with ``counted`` False.
    """
    if not len(ys):
        return Marks(ys, xs, ys, ())
    width, height = size_px
    owner, count = _components(ys, xs, width)
    # One free pixel around the image; everything below looks at marked pixels and their neighbours only.
    stride = width + 2
    at = (ys + 1) * stride + xs + 1
    steps = {"left": -1, "right": 1, "up": -stride, "down": stride}
    marked = np.zeros(stride * (height + 2), bool)
    marked[at] = True
    # 8-connected: a marked neighbour is of the same component.
    exposed = {side: ~marked[at + step] for side, step in steps.items()}
    shares = None if coverage is None else _Shares(coverage, ys, xs)
    weights = None if shares is None else shares.here
    sizes = np.bincount(owner, minlength=count)
    areas_px = sizes if weights is None else np.bincount(owner, weights, minlength=count)
    perimeters_mm = _outlines_mm(marked, at, owner, weights, sizes, areas_px, stride, scale_mm)
    order = _by_owner(owner, count)
    starts = np.cumsum(sizes) - sizes
    left, right = np.minimum.reduceat(xs[order], starts), np.maximum.reduceat(xs[order], starts)
    top, bottom = ys[order][starts], ys[order][starts + sizes - 1]
    first_x = xs[order][starts]
    centre_x, centre_y = np.bincount(owner, xs) / sizes + 0.5, np.bincount(owner, ys) / sizes + 0.5
    # Points relative to the component's own box: what lies elsewhere, and where, never changes a bit.
    places = np.stack([xs - left[owner], ys - top[owner]], axis=1)
    ferets_mm = _corner_ferets_mm(places, owner, exposed, count, scale_mm)
    if shares is not None:
        contour_mm = _contour_ferets_mm(places, owner, shares, marked, at, steps, count, scale_mm)
        # A region that nowhere reaches the level has no contour: its pixel corners stand for it (larger, not smaller).
        ferets_mm = np.where(np.isnan(contour_mm), ferets_mm, contour_mm)
    columns = zip(
        first_x.tolist(), left.tolist(), top.tolist(), (right - left + 1).tolist(), (bottom - top + 1).tolist(),
        centre_x.tolist(), centre_y.tolist(), (areas_px * scale_mm[0] * scale_mm[1]).tolist(),
        perimeters_mm.tolist(), ferets_mm.tolist(), strict=True,
    )  # fmt: skip
    found = tuple(
        Indication(number, (x0, y), (x, y, w, h), (cx, cy), area, perimeter, feret, feret >= min_indication_mm)
        for number, (x0, x, y, w, h, cx, cy, area, perimeter, feret) in enumerate(columns, start=1)
    )
    return Marks(ys, xs, owner + 1, found)


def _outlines_mm(
    marked: NDArray[np.bool_],
    at: NDArray[np.intp],
    owner: NDArray[np.intp],
    weights: NDArray[np.float64] | None,
    sizes: NDArray[np.intp],
    areas_px: NDArray[Any],
    stride: int,
    scale_mm: tuple[float, float],
) -> NDArray[np.float64]:
    """Outline of each component: of its pixels at or above half coverage, or of all where none is."""
    count = len(sizes)
    if weights is not None:
        core = weights >= _CONTOUR_LEVEL
        core |= (np.bincount(owner, core, minlength=count) == 0)[owner]
        at, owner, marked = at[core], owner[core], np.zeros(len(marked), bool)
        marked[at] = True
    crossings = []
    for step in (1, stride, stride + 1, stride - 1):
        leaving = np.concatenate([owner[~marked[at + step]], owner[~marked[at - step]]])
        crossings.append(np.bincount(leaving, minlength=count))
    smallest = 2.0 * np.sqrt(pi * areas_px * scale_mm[0] * scale_mm[1])
    return np.maximum(_crofton_mm(crossings, scale_mm), smallest)


class _Shares:
    """Coverage at the marked pixels and at their neighbours; 0 outside the image."""

    def __init__(self, coverage: NDArray[np.float32], ys: NDArray[np.intp], xs: NDArray[np.intp]) -> None:
        self._coverage, self._ys, self._xs = coverage, ys, xs
        self.here = coverage[ys, xs].astype(np.float64)

    def beside(self, side: str) -> NDArray[np.float64]:
        """Coverage of the neighbour on this side."""
        height, width = self._coverage.shape
        dx, dy = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[side]
        ys, xs = self._ys + dy, self._xs + dx
        inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
        found = self._coverage[np.clip(ys, 0, height - 1), np.clip(xs, 0, width - 1)].astype(np.float64)
        return np.where(inside, found, 0.0)


def find_indications(
    mask: NDArray[np.bool_],
    coverage: NDArray[np.float32] | None,
    scale_mm: tuple[float, float],
    *,
    min_indication_mm: float = 0.0,
) -> tuple[NDArray[np.int32], tuple[Indication, ...]]:
    """``find_marks`` of a whole mask (bool (H, W)), and the component image: int32 (H, W), 0 outside."""
    ys, xs = np.nonzero(mask)
    marks = find_marks(ys, xs, mask.shape[::-1], coverage, scale_mm, min_indication_mm=min_indication_mm)
    components = np.zeros(mask.shape, np.int32)
    components[ys, xs] = marks.owner
    return components, marks.indications


def _corner_ferets_mm(
    places: NDArray[np.intp],
    owner: NDArray[np.intp],
    exposed: dict[str, NDArray[np.bool_]],
    count: int,
    scale_mm: tuple[float, float],
) -> NDArray[np.float64]:
    """Largest caliper distance over pixel corners, by component; only corners with both edges free reach the hull."""
    points, owners = [], []
    for across, dx in (("left", 0), ("right", 1)):
        for along, dy in (("up", 0), ("down", 1)):
            free = exposed[across] & exposed[along]
            points.append(places[free] + (dx, dy))
            owners.append(owner[free])
    return _largest_distances(np.concatenate(points).astype(np.float64), np.concatenate(owners), count, scale_mm)


def _crossing(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the contour crosses between two pixel centres, as a share of the way from the one above the level.

    Coverage is a mean over a pixel, not a sample at its centre: between 0.75 and 0 the edge lies a quarter of the way,
    not a third. With u and v the distances from one half, [u / (1 - u)] to [v / (1 - v)] divides the way as an edge
    along the pixels does exactly, an oblique one to 0.01 px, and a soft one as linear interpolation. Grows with both.
    """
    u, v = above - _CONTOUR_LEVEL, _CONTOUR_LEVEL - below
    near, far = u / (1.0 - u), v / (1.0 - v)
    return near / (near + far)


def _contour_ferets_mm(
    places: NDArray[np.intp],
    owner: NDArray[np.intp],
    shares: _Shares,
    marked: NDArray[np.bool_],
    at: NDArray[np.intp],
    steps: dict[str, int],
    count: int,
    scale_mm: tuple[float, float],
) -> NDArray[np.float64]:
    """Largest caliper distance of the 0.5-contour, by component; NaN where coverage nowhere reaches the level.

    The contour crosses the line from the centre of a marked pixel at or above the level to that of a neighbour below.
    """
    here = shares.here
    inside = here >= _CONTOUR_LEVEL
    points, owners = [], []
    for side in steps:
        there = shares.beside(side)
        # A neighbour as likely that is not marked belongs to something else: this indication ends at the pixel's edge.
        foreign = ~marked[at + steps[side]] & (there >= _CONTOUR_LEVEL)
        crossing = np.flatnonzero(inside & ((there < _CONTOUR_LEVEL) | foreign))
        share = np.where(foreign[crossing], 0.5, _crossing(here[crossing], np.minimum(there[crossing], 0.5 - 1e-12)))
        towards = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[side]
        points.append(places[crossing] + share[:, None] * towards)
        owners.append(owner[crossing])
    crossed = np.zeros(count, bool)
    crossed[np.concatenate(owners)] = True
    # A marked pixel below the level next to the contour is its soft edge; one farther out belongs to a faint part of
    # the indication, and the outline goes at least through its centre: a likelier pixel never makes a long crack short.
    marked[at[~inside]] = False  # from here on: the marked pixels at or above the level
    soft = inside.copy()
    for dy in (steps["up"], 0, steps["down"]):
        for dx in (-1, 0, 1):
            soft |= marked[at + dy + dx]
    faint = crossed[owner] & ~soft
    points.append(places[faint].astype(np.float64))
    owners.append(owner[faint])
    ferets_mm = _largest_distances(np.concatenate(points), np.concatenate(owners), count, scale_mm)
    return np.where(crossed, ferets_mm, np.nan)


def smallest_gap_mm(marks: Marks, scale_mm: tuple[float, float]) -> tuple[float, int]:
    """Smallest edge-to-edge distance in mm between two counted indications, and the number of the earlier one.

    Infinite, and 0, where there are not two. Distance between two pixels is that between their squares; indications
    touch nowhere (8-connected), so the smallest gap is one pixel. Pairs are looked at in the order of the distance of
    their boxes, which no pair of their pixels undercuts: most pairs are never looked at.
    """
    counted = [one for one in marks.indications if one.counted]
    if len(counted) < 2:
        return float("inf"), 0
    boxes = np.array([one.bbox_px for one in counted], np.float64)
    is_outer = _is_outer(marks)
    owner, places = marks.owner[is_outer], np.stack([marks.xs, marks.ys], axis=1)[is_outer]
    places = places[np.argsort(owner, kind="stable")]
    ends = np.cumsum(np.bincount(owner, minlength=len(marks.indications) + 1))
    outer = [places[ends[one.component - 1] : ends[one.component]] for one in counted]
    best, found = float("inf"), 0
    nearest: list[tuple[float, int, int]] = []
    for index in range(len(counted) - 1):
        left, top, w, h = boxes[index]
        others = boxes[index + 1 :]
        dx = np.maximum(np.maximum(others[:, 0] - left - w, left - others[:, 0] - others[:, 2]), 0) * scale_mm[0]
        dy = np.maximum(np.maximum(others[:, 1] - top - h, top - others[:, 1] - others[:, 3]), 0) * scale_mm[1]
        apart = np.sqrt(dx * dx + dy * dy)
        # Only what may still be the nearest: the distance of two corners of the boxes bounds the gap from above.
        close = np.flatnonzero(apart <= best)
        far = np.sqrt(
            (np.maximum(others[close, 0] + others[close, 2], left + w) - np.minimum(others[close, 0], left)) ** 2
            * scale_mm[0] ** 2
            + (np.maximum(others[close, 1] + others[close, 3], top + h) - np.minimum(others[close, 1], top)) ** 2
            * scale_mm[1] ** 2
        )
        nearest += [(float(apart[one]), index, index + 1 + int(one)) for one in close]
        best = min(best, float(far.min())) if len(far) else best
    best = float("inf")
    for apart_mm, one, other in sorted(nearest):
        if apart_mm >= best:
            break
        gap = _gap_mm(outer[one], outer[other], scale_mm)
        if gap < best:
            best, found = gap, counted[one].component
    return best, found


def _is_outer(marks: Marks) -> NDArray[np.bool_]:
    """Whether a pixel lacks a marked neighbour on one of its four sides: no other can be nearest to what is outside."""
    stride = int(marks.xs.max()) + 3
    flat = marks.ys * stride + marks.xs + 1
    inner = np.ones(len(flat), bool)
    for step in (-1, 1, -stride, stride):
        inner &= np.isin(flat + step, flat)
    return ~inner


def _gap_mm(one: NDArray[np.intp], other: NDArray[np.intp], scale_mm: tuple[float, float]) -> float:
    best = float("inf")
    step = max(1, _PAIR_CHUNK // len(other))
    for start in range(0, len(one), step):
        block = one[start : start + step]
        dx = np.maximum(np.abs(block[:, None, 0] - other[None, :, 0]) - 1, 0) * scale_mm[0]
        dy = np.maximum(np.abs(block[:, None, 1] - other[None, :, 1]) - 1, 0) * scale_mm[1]
        best = min(best, float((dx * dx + dy * dy).min()))
    return float(np.sqrt(best))
