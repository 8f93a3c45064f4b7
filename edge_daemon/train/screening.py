"""Good frames of one part: laid over each other, what is normal in them, and which of them are not good.

A frame is compared with the golden image of the *others*: the pixel-wise median of the frames, each moved onto it. What
differs by far more than frames differ from each other at that place is shown, not learned. The engine's own opinion
counts as a second witness: where it sees something, a smaller difference is enough; alone it is not believed, because
what it does not know yet is exactly why it is being commissioned.

Not covered: a defect that most of the frames have in the same place is normal to this comparison (what the engine sees
in the same place of many frames is listed for a person to look at), parts that lie in several poses, and defects
fainter than the difference between good parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..segment.prepare import grey_from_pixels
from .overlay import (
    Map,
    Move,
    from_grid,
    inverse,
    laid_over,
    lit_everywhere,
    middle_of,
    overlaid,
    own_pixels,
    to_grid,
    warped,
)  # fmt: skip

__all__ = ["Common", "Normal", "Suspect", "learn_normal", "screen"]

# Larger frames are compared at a whole fraction of their resolution.
_LARGEST_PX = 1024
# Differences slower than this (in px) are exposure, not defects; for what is noise, slower than the other.
_SLOW_PX, _SLOW_NOISE_PX = 14.0, 6.0
# What is looked for is at least as wide as these Gaussians; the median removes dust and dead pixels before.
_WIDTHS_PX = (1.2, 2.5, 5.0)
_MEDIAN_PX = 5
# An edge that is off by this many pixels is no defect.
_EDGE_PX = 0.15
# In standard deviations between good frames: alone, and where the engine sees something as well.
_STRANGE, _STRANGE_WITH_ENGINE = 8.0, 4.0
# A fine line is lost to the median; this long, at this many standard deviations all along, it is no dust either.
_LONG_PX, _LONG_STRANGE = 16, 4.5
# A region of the engine that this share of the frames have in the same place belongs to the part.
_COMMON = 0.3
_BORDER_PX = 12
# Spread: this share of the values at a pixel is left aside, and what makes up for it where they are normal:
# 1 / sqrt(1 - 2 q phi(q) / 0.85) at the quantile q = 1.44 of |x|.
_TRIMMED, _TRIMMED_FACTOR = 0.15, 1.386
# The noise law: grey levels of 8 bits that are taken together, pixels that make a figure, the calm share of them, and
# the noise of rounding alone.
_LEVELS_A_BIN, _LEAST_PX_A_BIN, _CALM, _LEAST_NOISE = 8, 200, 0.3, 0.29


@dataclass(frozen=True, slots=True)
class Normal:
    """What good frames have in common.

    reference: the frame they are laid over. to_reference: float32 (2, 3) per frame, moves a point of the frame onto
    it; None where the frame does not fit. correlation: of each frame with the others. noise: float32 (256,), standard
    deviation of the noise at every grey level, both of an 8-bit picture.
    """

    reference: int
    to_reference: tuple[Move | None, ...]
    correlation: tuple[float, ...]
    noise: NDArray[np.float32]

    def noise_of(self, pixels: NDArray[Any]) -> Map:
        """Standard deviation of the noise at each pixel of a frame, in grey levels of an 8-bit picture."""
        level = cv2.GaussianBlur(grey_from_pixels(pixels), (0, 0), 2.0) * np.float32(255.0)
        return np.asarray(self.noise[np.clip(np.rint(level), 0, 255).astype(np.uint8)], np.float32)


@dataclass(frozen=True, slots=True)
class Suspect:
    """Why a frame is not learned. box_px: (x, y, width, height) of the place in the frame, None for the whole of it.
    strength: how many standard deviations between frames it differs by there."""

    index: int
    reason: str
    strength: float
    box_px: tuple[int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class Common:
    """Something that the engine sees in the same place of many frames: structure it does not know yet, or a defect that
    all of them have. box_px: in the reference frame. frames: how many show it."""

    box_px: tuple[int, int, int, int]
    frames: int


def learn_normal(frames: Sequence[NDArray[Any]]) -> Normal:
    """Register uint8 or uint16 (H, W) frames of the same size onto one of them, and measure how they differ.

    That one is the first; where most frames do not fit it, it is the odd one, and others are tried.
    """
    factor, smaller = _factor(frames[0].shape), [_shrunk(frame) for frame in frames]
    lit = lit_everywhere(smaller)
    for reference in (0, len(frames) // 3, 2 * len(frames) // 3):
        moves, correlations = laid_over(smaller, smaller[reference], lit)
        fitting = sum(move is not None for move in moves)
        if 2 * fitting > len(frames):
            break
    full = [None if move is None else from_grid(move, factor, (factor - 1) / 2) for move in moves]
    return Normal(reference, tuple(full), tuple(correlations), _noise(frames, full))


def screen(
    frames: Sequence[NDArray[Any]], normal: Normal, seen: Sequence[NDArray[np.bool_]]
) -> tuple[list[Suspect], list[Common]]:
    """Frames that are not like the others, and what the engine sees in many of them.

    seen: bool (H, W) per frame, the pixels the engine marks. Returned in the order of the frames, one Suspect a frame.
    """
    fitting = [index for index, move in enumerate(normal.to_reference) if move is not None]
    suspects = [
        Suspect(index, "does not show the same part in the same pose as most frames", 0.0, None)
        for index in range(len(frames)) if index not in fitting
    ]  # fmt: skip
    if len(fitting) < 3:
        return suspects, []
    factor = _factor(frames[0].shape)
    full = [normal.to_reference[index] for index in fitting]
    moves = [to_grid(move, factor, (factor - 1) / 2) for move in full if move is not None]
    greys = [_shrunk(frames[index]) for index in fitting]
    sharp = overlaid(greys, moves)
    calm = overlaid([np.asarray(cv2.medianBlur(grey, _MEDIAN_PX), np.float32) for grey in greys], moves)
    planes = [_shrunk(seen[index].astype(np.uint8) * np.uint8(255)) for index in fitting]
    marks = np.stack([warped(plane, inverse(move)) > 0.3 for plane, move in zip(planes, moves, strict=True)])
    inside = own_pixels(sharp.shape[1:], moves)
    common_px = marks.sum(axis=0) >= max(3.0, _COMMON * len(fitting))
    # Alone, a difference has to be larger than a speck of dust; the engine vouches for a small one.
    wide, narrow = _strangeness(calm, inside, _WIDTHS_PX), _strangeness(sharp, inside, _WIDTHS_PX[:1])
    near_common = cv2.dilate(common_px.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    for row, index in enumerate(fitting):
        found = _most_suspicious(wide[row], narrow[row], marks[row] & ~near_common)
        if found is not None:
            reason, strength, box = found
            place = _box_in_frame(box, moves[row], sharp.shape[1:])
            suspects.append(Suspect(index, reason, strength, _times(place, factor)))
    return sorted(suspects, key=lambda one: one.index), _commons(common_px, marks, factor)


# ---- large frames ---------------------------------------------------------------------------------------------------


def _factor(shape: tuple[int, ...]) -> int:
    """Frames are compared at one ``factor``-th of their resolution, so that dozens of them fit into memory."""
    return math.ceil(max(shape[:2]) / _LARGEST_PX)


def _shrunk(frame: NDArray[Any]) -> Map:
    grey, factor = grey_from_pixels(frame), _factor(frame.shape)
    size = (grey.shape[1] // factor, grey.shape[0] // factor)
    whole = grey[: size[1] * factor, : size[0] * factor]
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.float32) if factor > 1 else grey


def _times(box: tuple[int, int, int, int], factor: int) -> tuple[int, int, int, int]:
    x, y, width, height = (factor * value for value in box)
    return x, y, width, height


def _noise(frames: Sequence[NDArray[Any]], moves: Sequence[Move | None]) -> NDArray[np.float32]:
    """The noise law, from the middle of the frames at full resolution."""
    height, width = frames[0].shape
    side = min(height, width, _LARGEST_PX)
    top, left = (height - side) // 2, (width - side) // 2
    at = np.array([left, top], np.float64)
    windows = [grey_from_pixels(frame[top : top + side, left : left + side]) for frame in frames]
    inner = [
        None if move is None
        else np.asarray(np.column_stack([move[:, :2], move[:, :2] @ at + move[:, 2] - at]), np.float32)
        for move in moves
    ]  # fmt: skip
    stack = overlaid(windows, inner)
    middle = middle_of(stack)
    return _noise_law(middle, _robust_spread(np.stack([_without_slow(one - middle, _SLOW_NOISE_PX) for one in stack])))


# ---- what is left over ---------------------------------------------------------------------------------------------


def _without_slow(difference: Map, sigma_px: float = _SLOW_PX) -> Map:
    height, width = difference.shape
    small = cv2.resize(difference, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / 2)
    return np.asarray(difference - cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _robust_spread(rest: Map) -> Map:
    """Standard deviation over the frames at each pixel, without the largest 15 % of its values, and evened out over a
    few pixels: twenty values are few."""
    kept = len(rest) - math.ceil(_TRIMMED * len(rest))
    strips = (
        np.partition(np.abs(rest[:, row : row + 64]), kept - 1, axis=0)[:kept] for row in range(0, rest.shape[1], 64)
    )
    spread = np.concatenate([np.mean(strip * strip, axis=0) for strip in strips]) * np.float32(_TRIMMED_FACTOR**2)
    return np.sqrt(np.asarray(cv2.GaussianBlur(spread, (0, 0), 3.0), np.float32))


def _noise_law(middle: Map, spread: Map) -> NDArray[np.float32]:
    """Noise at every grey level of 8 bits: what frames differ by where nothing but noise makes them differ.

    At edges and in texture moving the frames leaves differences over, so of all pixels of a level the calmer count.
    """
    level = (middle * np.float32(255.0 / _LEVELS_A_BIN)).astype(np.intp).clip(0, 255 // _LEVELS_A_BIN)
    at, noise = [], []
    for one in np.unique(level).tolist():
        here = spread[level == one]
        if len(here) >= _LEAST_PX_A_BIN:
            at.append((one + 0.5) * _LEVELS_A_BIN)
            noise.append(float(np.quantile(here, _CALM)) * 255.0)
    if not at:
        at, noise = [0.0], [float(np.quantile(spread, _CALM)) * 255.0]
    return np.asarray(np.maximum(np.interp(np.arange(256.0), at, noise), _LEAST_NOISE), np.float32)


# ---- what is strange ------------------------------------------------------------------------------------------------


def _strangeness(stack: Map, inside: NDArray[np.bool_], widths_px: Sequence[float]) -> Map:
    """(n, H, W): each frame against the median of the others, in standard deviations, largest over the widths."""
    number = len(stack)
    ordered = np.sort(stack, axis=0)
    low, high = ordered[(number - 1) // 2], ordered[number // 2]
    rest = np.empty_like(stack)
    for row, one in enumerate(stack):
        rest[row] = _without_slow(one - _median_without(ordered, low, high, one, number))
    middle = np.asarray(cv2.GaussianBlur(low, (0, 0), 1.0), np.float32)
    edge = np.hypot(cv2.Sobel(middle, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(middle, cv2.CV_32F, 0, 1, scale=0.125))
    edge = cv2.dilate(edge, np.ones((3, 3), np.uint8)) * np.float32(_EDGE_PX)
    largest = np.zeros_like(rest)
    for width in widths_px:
        smooth = np.stack([cv2.GaussianBlur(one, (0, 0), width) for one in rest])
        spread = _robust_spread(smooth)
        # A place where twenty frames happen to agree is no reason to distrust the next one.
        floor = np.float32(0.7 * float(np.median(spread))) + np.float32(2e-4)
        spread = np.sqrt(np.maximum(spread, floor) ** 2 + edge * edge)
        np.maximum(largest, np.abs(smooth) / spread, out=largest)
    largest[~inside] = 0.0
    return np.asarray(largest, np.float32)


def _median_without(ordered: Map, low: Map, high: Map, one: Map, number: int) -> Map:
    """Median of the stack without one of its members, from the sorted stack."""
    if number % 2:  # an even number is left: leave out the member's own side of the middle
        below, above = ordered[number // 2 - 1], ordered[number // 2 + 1]
        first = np.where(one <= low, low, below)
        second = np.where(one < low, above, np.where(one > low, low, above))
        return np.asarray((first + second) / 2, np.float32)
    return np.asarray(np.where(one <= low, high, low), np.float32)


def _most_suspicious(
    wide: Map, narrow: Map, seen: NDArray[np.bool_]
) -> tuple[str, float, tuple[int, int, int, int]] | None:
    """(reason, strength, box) of the strongest place that is strange enough, None where there is none."""
    found: list[tuple[float, str, tuple[int, int, int, int]]] = []
    strength = float(wide.max())
    if strength >= _STRANGE:
        y, x = np.unravel_index(int(wide.argmax()), wide.shape)
        _, blobs, figures, _ = cv2.connectedComponentsWithStats((wide >= 0.5 * strength).astype(np.uint8))
        found.append((strength, "differs here from all other frames", _box(figures[blobs[y, x]])))
    lines = narrow >= _LONG_STRANGE
    for strength, box in _peaks(lines, narrow):
        if strength >= _STRANGE and max(box[2:]) >= _LONG_PX:
            found.append((strength, "has a line here that no other frame has", box))
    for strength, box in _peaks(seen, np.maximum(wide, narrow)):
        if strength >= _STRANGE_WITH_ENGINE:
            found.append((strength, "the engine sees something here that the other frames do not have", box))
    if not found:
        return None
    strength, reason, box = max(found)
    return reason, strength, box


def _peaks(mask: NDArray[np.bool_], strangeness: Map) -> list[tuple[float, tuple[int, int, int, int]]]:
    """Largest strangeness and box of every connected part of the mask."""
    count, blobs, figures, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, blobs.reshape(-1).astype(np.intp), strangeness.reshape(-1))
    return [(float(peak[number]), _box(figures[number])) for number in range(1, count)]


def _box(figures: Any) -> tuple[int, int, int, int]:
    x, y, width, height = (int(value) for value in figures[:4])
    return x, y, width, height


def _box_in_frame(
    box: tuple[int, int, int, int], to_first: Move | None, shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """The box around where a box of the first frame lies in the frame itself."""
    x, y, width, height = box
    corners = np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]], np.float32)
    back = inverse(to_first)
    moved = corners @ back[:, :2].T + back[:, 2]
    low = np.clip(np.floor(moved.min(axis=0)), 0, (shape[1] - 1, shape[0] - 1)).astype(int)
    high = np.clip(np.ceil(moved.max(axis=0)), low + 1, (shape[1], shape[0])).astype(int)
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def _commons(common_px: NDArray[np.bool_], marks: NDArray[np.bool_], factor: int) -> list[Common]:
    count, blobs, figures, _ = cv2.connectedComponentsWithStats(common_px.astype(np.uint8), connectivity=8)
    return [
        Common(_times(_box(figures[number]), factor), int((marks & (blobs == number)).any(axis=(1, 2)).sum()))
        for number in range(1, count)
    ]
