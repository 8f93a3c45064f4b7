"""Simulated discontinuities on real pictures: what commissioning learns defects from where nobody has any.

A discontinuity changes the path through the metal, so it multiplies the transmitted intensity: I' = I exp(contrast),
the log domain of Beer and Lambert. The contrast at its deepest place is drawn log-uniformly (what the part's metal and
tube would make of a depth in mm is not known, and need not be), falls off with the path as the shape does, and is
blurred as the picture itself is. Saturated pixels keep their value: nothing can be seen in burnt-out air or in black.

Not covered: scatter, the change of quantum noise inside the discontinuity, and display curves far from a power law,
for which a contrast means something else in the dark than in the light.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..records import read_only
from ..simulator import CASTING_TYPES, PlacedDefect, Radiograph
from ..simulator.discontinuities import Piece, draw, random_size_mm

__all__ = ["CONTRAST", "Ground", "Shadow", "draw_shadow", "planted", "saturated", "superimpose"]

#: Smallest and largest contrast at the deepest place of a discontinuity, ln(I' / I).
CONTRAST = (0.015, 0.6)
# Scales at which the discontinuities' own measures (pores of half a millimetre) fill a plausible number of pixels.
_DRAWN_AT_MM_PER_PX = (0.07, 0.22)
_BLUR_PX = (0.5, 1.5)
# Grey values this close to black or white, as a share of full range, are clipped.
_CLIPPED = 1.5 / 255.0

Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ground:
    """A good frame to plant on. pixels: uint8 or uint16 (H, W). noise: float32 (H, W), its standard deviation in grey
    levels of an 8-bit picture. mm_per_px: its scale. brighter: +1 where a void is brighter than sound metal, -1 where
    it is darker."""

    pixels: NDArray[Any]
    noise: Map
    mm_per_px: float
    brighter: int = 1


@dataclass(frozen=True, slots=True)
class Shadow:
    """The pieces of one discontinuity, in pixels: paths between 0 and 1 (negative where it is denser than the metal),
    a contrast, and the (x, y) of its centre."""

    type: str
    size_px: float
    pieces: tuple[Piece, ...]
    contrast: float
    at_px: tuple[int, int]


def saturated(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a picture is black or white to within 1.5 grey levels of 255."""
    top = float(np.iinfo(pixels.dtype).max)
    return np.asarray((pixels <= _CLIPPED * top) | (pixels >= (1.0 - _CLIPPED) * top))


def draw_shadow(rng: np.random.Generator, at_px: tuple[int, int], type_id: str | None = None) -> Shadow:
    """A discontinuity of any type, in the sizes and shapes of simulated castings, half of them faint."""
    kind = type_id or CASTING_TYPES[int(rng.integers(0, len(CASTING_TYPES)))]
    drawn_at = float(np.exp(rng.uniform(*np.log(_DRAWN_AT_MM_PER_PX))))
    size, depth = random_size_mm(kind, rng)
    # A wall for the shape's own proportions (a bubble is no deeper than it is wide); the contrast comes afterwards.
    pieces = draw(kind, rng, size, depth * float(np.exp(rng.uniform(np.log(1.5), np.log(12.0)))), drawn_at)
    deepest = max(1e-6, *(float(np.abs(piece.path_mm).max()) for piece in pieces))
    scaled = tuple(
        Piece(np.asarray(piece.path_mm / np.float32(deepest), np.float32), piece.mask, piece.y_px, piece.x_px)
        for piece in pieces
    )
    return Shadow(kind, size / drawn_at, scaled, float(np.exp(rng.uniform(*np.log(CONTRAST)))), at_px)


def superimpose(rng: np.random.Generator, ground: Ground, shadows: list[Shadow], blur_px: float = 0.0) -> Radiograph:
    """The frame with the shadows on it, and the truth as the simulator gives it.

    I' = I exp(brighter * sum of contrast * path), paths blurred by a Gaussian of ``blur_px``; overlapping pieces add
    up, to at most twice the largest contrast. Pixels that are saturated stay as they are and carry no label. rng: of
    the rounding (a faint shadow on few grey levels would otherwise become a contour line).
    """
    height, width = ground.pixels.shape
    shift = np.zeros((height, width), np.float32)
    labels = np.zeros((height, width), np.uint8)
    blind = saturated(ground.pixels)
    placed: list[PlacedDefect] = []
    for shadow in shadows:
        label = CASTING_TYPES.index(shadow.type) + 1
        own = np.zeros((height, width), bool)
        for piece in shadow.pieces:
            top, left = shadow.at_px[1] + piece.y_px, shadow.at_px[0] + piece.x_px
            y0, x0 = max(top, 0), max(left, 0)
            y1, x1 = min(top + piece.path_mm.shape[0], height), min(left + piece.path_mm.shape[1], width)
            if y0 >= y1 or x0 >= x1:
                continue
            inner = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            shift[y0:y1, x0:x1] += np.float32(shadow.contrast) * piece.path_mm[inner]
            own[y0:y1, x0:x1] |= piece.mask[inner]
        own &= ~blind
        if own.any():
            labels[own] = label
            left, top, wide, high = cv2.boundingRect(own.view(np.uint8))
            area = int(own.sum()) * ground.mm_per_px**2
            size = shadow.size_px * ground.mm_per_px
            placed.append(PlacedDefect(shadow.type, size, float("nan"), (left, top, wide, high), area))
    np.clip(shift, -2.0 * CONTRAST[1], 2.0 * CONTRAST[1], out=shift)
    if blur_px > 0.0:
        shift = np.asarray(cv2.GaussianBlur(shift, (0, 0), blur_px), np.float32)
    shift[blind] = 0.0
    pixels, change = _changed(rng, ground, shift)
    return Radiograph(read_only(pixels), read_only(labels), ground.mm_per_px, tuple(placed), read_only(change),
                      ground.noise)  # fmt: skip


def _changed(rng: np.random.Generator, ground: Ground, shift: Map) -> tuple[NDArray[Any], Map]:
    """(pixels, noise-free change in grey levels of 8 bit)."""
    top = np.iinfo(ground.pixels.dtype).max
    where = np.flatnonzero(shift)
    old = ground.pixels.reshape(-1)[where].astype(np.float32)
    factor = np.exp(np.float32(ground.brighter) * shift.reshape(-1)[where])
    dither = rng.random(len(where), np.float32) - np.float32(0.5)
    new = np.clip(np.rint((old + dither) * factor), 0, top)
    pixels = ground.pixels.copy()
    pixels.reshape(-1)[where] = new.astype(pixels.dtype)
    change = np.zeros(shift.shape, np.float32)
    change.reshape(-1)[where] = (np.clip(old * factor, 0, top) - old) * np.float32(255.0 / top)
    return pixels, change


def planted(seed: int, ground: Ground, *, most: int = 6, side_px: int | None = None) -> Radiograph:
    """The frame, or a random square window of ``side_px`` of it, with one to ``most`` random discontinuities where it
    is not saturated; the same for the same seed and frame."""
    rng = np.random.default_rng([seed, 21])
    if side_px is not None:
        height, width = ground.pixels.shape
        # Windows start on the grid of the local view, so that it comes out as it does on the whole frame.
        top, left = (4 * int(rng.integers(0, max(side - side_px, 0) // 4 + 1)) for side in (height, width))
        cut = np.s_[top : top + side_px, left : left + side_px]
        ground = Ground(ground.pixels[cut], ground.noise[cut], ground.mm_per_px, ground.brighter)
    open_px = np.flatnonzero(~saturated(ground.pixels))
    shadows: list[Shadow] = []
    if len(open_px):
        width = ground.pixels.shape[1]
        places = open_px[rng.integers(0, len(open_px), int(rng.integers(1, most + 1)))].tolist()
        shadows = [draw_shadow(rng, (place % width, place // width)) for place in places]
    return superimpose(rng, ground, shadows, float(rng.uniform(*_BLUR_PX)))
