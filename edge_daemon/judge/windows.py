"""The worst window, over every position.

A grid of tiles would let a cluster that straddles a border through; so every integer position that lies fully inside
the image counts (stride 1). Few of them need looking at: the sum over a window is at most the sum over the coarse
blocks it touches, and a group of positions whose bound lies below a value already found cannot hold the worst window
(branch and bound). What is left is evaluated exactly, from one integral image per group. The answer is that of the full
scan, ties included.

Coverage is summed in units of 2**-30 of a pixel: sums of whole numbers below 2**53 are exact in float64, so that equal
windows tie truly and translation changes no bit. Rounding to that unit costs at most 5e-10 of a pixel area a pixel, and
nothing from a coverage of 1/64 upwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import RuleError

__all__ = ["RegionArea", "WindowScan", "WorstWindow", "window_side_px", "worst_window"]

_UNIT = float(2**30)
_BLOCKS_PX = (8, 64)  # smallest and largest block; between them a quarter of the window's shorter side


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


def _rectangles(
    table: NDArray[Any], y0: NDArray[np.intp], y1: NDArray[np.intp], x0: NDArray[np.intp], x1: NDArray[np.intp]
) -> NDArray[Any]:
    """Sums over [y0, y1) x [x0, x1) for every pair of a row and a column; empty rectangles give 0."""
    strips = table[np.maximum(y1, y0)] - table[y0]
    sums: NDArray[Any] = np.take(strips, np.maximum(x1, x0), axis=1) - np.take(strips, x0, axis=1)
    return sums


class RegionArea:
    """How many pixels of the part lie in a rectangle. region: bool (H, W). Made once, used for every type and side.

    least_share: windows of which less than this share belongs to the part are left out, unless none has as much; the
    share of a window that holds two pixels of the part says nothing.
    """

    def __init__(self, region: NDArray[np.bool_], least_share: float = 0.0) -> None:
        self.table = _integral(np.ascontiguousarray(region).view(np.uint8))
        self._least_share = least_share
        self._least: dict[tuple[int, int], int] = {}

    def least_px(self, w: int, h: int) -> int:
        """Pixels of the part that a window of this size must hold to count, at least 1."""
        if self._least_share <= 0.0:
            return 1
        if (w, h) not in self._least:
            table = self.table
            most = int((table[h:, w:] - table[:-h, w:] - table[h:, :-w] + table[:-h, :-w]).max())
            self._least[w, h] = max(1, min(int(np.ceil(self._least_share * w * h)), most))
        return self._least[w, h]

    def inside(self, x: int, y: int, w: int, h: int) -> int:
        """Pixels of the part in the window whose top-left corner is (x, y)."""
        table = self.table
        return int(table[y + h, x + w] - table[y, x + w] - table[y + h, x] + table[y, x])


@dataclass(frozen=True, slots=True)
class _Window:
    """One window size and the blocks that positions are grouped by. nx, ny: number of positions."""

    w: int
    h: int
    nx: int
    ny: int
    block: int


class WindowScan:
    """Marked pixels of one type, ready to be asked for their worst window of any size.

    Parameters
    ----------
    ys, xs : int (n,), positions of the marks, row by row; several marks may share a pixel where there are no weights.
    weights : float (n,) in [0, 1], the share of each pixel that is defect; None: each mark counts 1.
    image_px : (W, H).
    """

    def __init__(
        self, ys: NDArray[np.intp], xs: NDArray[np.intp], weights: NDArray[Any] | None, image_px: tuple[int, int]
    ) -> None:
        self._ys, self._xs = ys, xs
        self._weights = None if weights is None else np.rint(weights.astype(np.float64) * _UNIT)
        self._image_px = image_px
        # Whether no two marks share a pixel.
        self._unique = weights is not None or bool(((np.diff(ys) != 0) | (np.diff(xs) != 0)).all())
        self._blocks: dict[int, NDArray[Any]] = {}

    def worst(self, side_px: tuple[int, int], *, region: RegionArea | None = None, share: bool = False) -> WorstWindow:
        """The largest window sum of the marks; with ``share`` divided by the window's pixels (of the part).

        side_px: (w, h) of the window; an axis on which the image is shorter is clipped to it. region: what belongs to
        the part; only with ``share``, and only where no mark lies outside it. (0, (0, 0)) where nothing is marked.
        """
        if not len(self._ys):
            return WorstWindow(0.0, (0, 0))
        width, height = self._image_px
        w, h = int(min(side_px[0], width)), int(min(side_px[1], height))
        low, high = _BLOCKS_PX
        block = min(max(1 << (max(1, min(w, h) // 4).bit_length() - 1), low), high)
        window = _Window(w, h, width - w + 1, height - h + 1, block)
        area = region if share else None
        best, at = self._search(window, area)
        value = best if self._weights is None else best / _UNIT
        if share and region is None:
            value /= w * h
        return WorstWindow(value, at) if value > 0.0 else WorstWindow(0.0, (0, 0))

    # ---------------------------------------------------------------- inside

    def _search(self, window: _Window, area: RegionArea | None) -> tuple[float, tuple[int, int]]:
        """Largest score and its first (x, y). A score is a window's sum, or with ``area`` sum per pixel of the part."""
        bounds = self._bounds(window, area)
        row, column = divmod(int(bounds.argmax()), bounds.shape[1])
        best, at = self._exact(window, area, (row, row + 1, column, column + 1))
        rows, columns = np.nonzero(bounds >= max(best, np.finfo(float).tiny))
        highest = bounds[rows, columns]
        # One run of blocks after the other, the most promising first: what it finds spares most of the others.
        run = np.cumsum((np.diff(rows, prepend=-1) != 0) | (np.diff(columns, prepend=-2) != 1)) - 1
        begins = np.flatnonzero(np.diff(run, prepend=-1))
        ends = np.append(begins[1:], len(run))
        for number in np.argsort(-np.maximum.reduceat(highest, begins), kind="stable").tolist() if len(run) else ():
            own = np.s_[begins[number] : ends[number]]
            row = int(rows[begins[number]])
            # A block that can only tie is of interest where it begins before the position found.
            ahead = (row * window.block, columns[own] * window.block)
            hopeful = highest[own] > best
            if ahead[0] <= at[1]:
                hopeful |= (highest[own] == best) & ((ahead[0] < at[1]) | (ahead[1] < at[0]))
            left = columns[own][hopeful]
            if not len(left):
                continue
            found, where = self._exact(window, area, (row, row + 1, int(left.min()), int(left.max()) + 1))
            if found > best or (found == best and (where[1], where[0]) < (at[1], at[0])):
                best, at = found, where
        return best, at

    def _bounds(self, window: _Window, area: RegionArea | None) -> NDArray[np.float64]:
        """For each block of positions a score that none of them exceeds."""
        b = window.block
        coarse = self._block_sums(b)
        table = _integral(coarse.astype(np.float64))
        rows, columns = np.arange(-(-window.ny // b)), np.arange(-(-window.nx // b))
        # Windows that begin in block i reach at most to pixel i b + b + w - 2.
        bottom = np.minimum(rows + (b + window.h - 2) // b + 1, coarse.shape[0])
        right = np.minimum(columns + (b + window.w - 2) // b + 1, coarse.shape[1])
        sums: NDArray[np.float64] = _rectangles(table, rows, bottom, columns, right)
        full = window.w * window.h * (1.0 if self._weights is None else _UNIT)
        if area is None:
            # No window holds more than itself, if a pixel holds one mark at most.
            return np.minimum(sums, full) if self._unique else sums
        # All windows of a block share the pixels from its last position to the end of its first window.
        last_y, last_x = np.minimum(rows * b + b, window.ny) - 1, np.minimum(columns * b + b, window.nx) - 1
        shared = _rectangles(area.table, last_y, rows * b + window.h, last_x, columns * b + window.w)
        scores = sums / np.maximum(shared, area.least_px(window.w, window.h))
        return np.where(sums > 0, np.minimum(scores, full / (window.w * window.h)), 0.0)

    def _block_sums(self, b: int) -> NDArray[Any]:
        if b not in self._blocks:
            width, height = self._image_px
            across, down = -(-width // b), -(-height // b)
            sums = np.bincount((self._ys // b) * across + self._xs // b, self._weights, minlength=across * down)
            self._blocks[b] = sums.reshape(down, across)
        return self._blocks[b]

    def _exact(
        self, window: _Window, area: RegionArea | None, box: tuple[int, int, int, int]
    ) -> tuple[float, tuple[int, int]]:
        """Largest score, and its first (x, y), over the positions in these blocks (rows, columns, half open)."""
        b = window.block
        top, left = box[0] * b, box[2] * b
        bottom, right = min(box[1] * b, window.ny), min(box[3] * b, window.nx)  # of the positions
        ny, nx = bottom - top, right - left
        first, last = np.searchsorted(self._ys, (top, bottom + window.h - 1))
        ys, xs = self._ys[first:last], self._xs[first:last]
        here = (xs >= left) & (xs < right + window.w - 1)
        ys, xs = ys[here] - top, xs[here] - left
        shape = (ny + window.h - 1, nx + window.w - 1)
        if self._weights is not None:
            values: NDArray[Any] = np.zeros(shape, np.float64)
            values[ys, xs] = self._weights[first:last][here]
        elif self._unique:
            values = np.zeros(shape, np.uint8)
            values[ys, xs] = 1
        else:
            values = np.zeros(shape, np.float64)
            np.add.at(values, (ys, xs), 1.0)
        table = _integral(values)
        w, h = window.w, window.h
        sums = table[h:, w:] - table[:-h, w:] - table[h:, :-w] + table[:-h, :-w]
        if area is not None:
            part = area.table[top : bottom + h, left : right + w]
            pixels = part[h:, w:] - part[:-h, w:] - part[h:, :-w] + part[:-h, :-w]
            counts = pixels >= area.least_px(w, h)
            sums = np.where(counts, sums / np.maximum(pixels, 1), 0.0)
        y, x = divmod(int(sums.argmax()), nx)
        return float(sums[y, x]), (left + x, top + y)


def worst_window(
    values: NDArray[Any],
    origin_px: tuple[int, int],
    image_px: tuple[int, int],
    side_px: tuple[int, int],
    *,
    region: NDArray[np.bool_] | None = None,
    divide_by_area: bool = False,
) -> WorstWindow:
    """``WindowScan`` for one window size of a picture: values uint8 (0 or 1) or float in [0, 1], (h, w), the cut-out at
    ``origin_px`` (x, y) outside of which everything is zero. region: bool (H, W), only with ``divide_by_area``."""
    ys, xs = np.nonzero(values)
    weights = None if values.dtype == np.uint8 else values[ys, xs]
    scan = WindowScan(ys + origin_px[1], xs + origin_px[0], weights, image_px)
    area = None if region is None or not divide_by_area else RegionArea(region)
    return scan.worst(side_px, region=area, share=divide_by_area)
