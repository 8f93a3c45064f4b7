"""Defects of no type: what is planted on sound surface so that an engine learns that odd is not sound.

A network that has seen only its own types takes every other defect for background: of unknown types it marks a few
pictures in a hundred. So half-transparent blots, streaks, roughened and smoothed spots, foreign texture and speckle of
any contrast and either sign are planted on sound surface; their pixels are defect, and of no type. They resemble no
type on purpose, and some resemble one by chance: then the type is a matter of context, as on the line.

Source of the idea: outlier exposure (Hendrycks, Mazeika, Dietterich, 2019) and synthetic anomalies in surface
inspection (DRAEM: Zavrtanik, Kristan, Skocaj, 2021).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["plant_stranger"]

Grey = NDArray[np.float32]

# Extent in px, and change in grey as a share of full scale: from just visible to glaring.
_EXTENT_PX = (6.0, 90.0)
_CONTRAST = (0.04, 0.45)
# A stranger is where its cover is at least so opaque, if what it does to its surroundings exceeds the texture of the
# surface by so much; what is fainter can be told from the surface by nobody, and counts neither way.
_OPAQUE = 0.35
_TEXTURE_PX = 6.0
_CLEAR = 2.0
_FAINT = 0.7
_LEAST_CHANGE = 0.014
_LEAST_PX = 16


def plant_stranger(
    rng: np.random.Generator, grey: Grey, free: NDArray[np.bool_], other: Grey
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:  # fmt: skip
    """Change ``grey`` in place and return bool (H, W) twice: where it now shows a stranger, and where it changed too
    little for anybody to say so. Both empty if there was no room.

    grey: float32 (H, W) in [0, 1]. free: bool (H, W), sound surface; only there anything is changed. other: a picture
    to take foreign texture from, at least as large.
    """
    height, width = grey.shape
    nothing = np.zeros(grey.shape, bool)
    places = np.flatnonzero(free)
    if not len(places):
        return nothing, nothing
    y, x = divmod(int(places[int(rng.integers(len(places)))]), width)
    cover = _COVERS[int(rng.choice(len(_COVERS), p=_COVER_SHARES))](rng, (height, width), (float(x), float(y)))
    cover = np.asarray(cv2.GaussianBlur(cover, (0, 0), _log(rng, 0.5, 2.5)) * free, np.float32)
    texture = grey - cv2.GaussianBlur(grey, (0, 0), _TEXTURE_PX)
    spread = max(1.4826 * float(np.median(np.abs(texture[free]))), 0.006)
    before = grey.copy()
    grey += _fill(rng, grey, other, cover, spread)
    np.clip(grey, 0.0, 1.0, out=grey)
    # Under the grain lies the change that a look at the place would show; roughness shows in its own size.
    change = grey - before
    felt = np.maximum(np.abs(cv2.GaussianBlur(change, (0, 0), 1.5)),
                      0.6 * np.sqrt(cv2.GaussianBlur(change * change, (0, 0), 3.0)))  # fmt: skip
    limit = max(spread, _LEAST_CHANGE)
    shown = (cover > _OPAQUE) & (felt > _FAINT * limit)
    count, component, statistics, _ = cv2.connectedComponentsWithStats(shown.view(np.uint8), connectivity=8)
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, component.reshape(-1), felt.reshape(-1))
    clear = (peak > _CLEAR * limit) & (statistics[:, cv2.CC_STAT_AREA] >= _LEAST_PX)
    clear[0] = False
    marked = clear[component]
    return marked, (cover > 0.02) & ~marked & (felt > 0.2 * limit)


def _log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _noise(rng: np.random.Generator, shape: tuple[int, int], scale_px: float, stretch: float = 1.0) -> Grey:
    """Smooth noise of unit variance with features of ``scale_px`` across and ``stretch`` times that down."""
    rows, columns = max(3, round(shape[0] / (scale_px * stretch)) + 2), max(3, round(shape[1] / scale_px) + 2)
    coarse = rng.standard_normal((rows, columns), np.float32)
    wide = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(wide / max(float(wide.std()), 1e-6), np.float32)


def _within(shape: tuple[int, int], at: tuple[float, float], radius_px: float, aspect: float, turn: float) -> Grey:
    """1 at the middle, 0 at an ellipse, negative outside."""
    y = np.arange(shape[0], dtype=np.float32)[:, None] - np.float32(at[1])
    x = np.arange(shape[1], dtype=np.float32)[None, :] - np.float32(at[0])
    along = x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))
    across = (y * np.float32(np.cos(turn)) - x * np.float32(np.sin(turn))) / np.float32(aspect)
    return np.asarray(1.0 - np.hypot(along, across) / np.float32(radius_px), np.float32)


def _blot(rng: np.random.Generator, shape: tuple[int, int], at: tuple[float, float]) -> Grey:
    radius = _log(rng, *_EXTENT_PX) / 2
    inside = _within(shape, at, 1.5 * radius, float(rng.uniform(0.3, 1.0)), float(rng.uniform(0, np.pi)))
    ragged = inside + np.float32(rng.uniform(0.0, 0.5)) * _noise(rng, shape, max(3.0, radius * rng.uniform(0.3, 1.0)))
    return np.asarray((ragged > 0.33).astype(np.float32) * (inside > -0.3))


def _streak(rng: np.random.Generator, shape: tuple[int, int], at: tuple[float, float]) -> Grey:
    """One to four lines, straight or bent, thick or thin."""
    cover = np.zeros(shape, np.float32)
    heading, bend = rng.uniform(0, 2 * np.pi), rng.normal(0.0, 0.12)
    for _ in range(int(rng.integers(1, 5))):
        count, step = int(rng.integers(5, 30)), 5.0
        turns = heading + np.cumsum(np.full(count, bend) + rng.normal(0.0, 0.1, count)) + rng.normal(0.0, 0.05)
        start = np.array(at) + rng.normal(0.0, 8.0, 2)
        points = start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * step, axis=0)
        fixed = np.round(points * 8).astype(np.int32)
        cv2.polylines(cover, [fixed], False, 1.0, round(_log(rng, 1, 9)), cv2.LINE_8, 3)
    return cover


def _speckle(rng: np.random.Generator, shape: tuple[int, int], at: tuple[float, float]) -> Grey:
    """A field of specks: thresholded noise inside an ellipse."""
    radius = _log(rng, 15.0, _EXTENT_PX[1])
    inside = _within(shape, at, radius, float(rng.uniform(0.3, 1.0)), float(rng.uniform(0, np.pi)))
    noise = _noise(rng, shape, _log(rng, 3.0, 10.0), _log(rng, 0.5, 2.5))
    return np.asarray(((noise > rng.uniform(0.3, 1.3)) & (inside > 0)).astype(np.float32))


_COVERS: tuple[Callable[[np.random.Generator, tuple[int, int], tuple[float, float]], Grey], ...] = (
    _blot, _streak, _speckle,
)  # fmt: skip
_COVER_SHARES = (0.45, 0.3, 0.25)


def _fill(rng: np.random.Generator, grey: Grey, other: Grey, cover: Grey, spread: float) -> Grey:
    """What the cover does to the picture."""
    kind = rng.random()
    opaque = np.float32(rng.uniform(0.5, 1.0))
    sign = 1.0 if rng.random() < 0.5 else -1.0
    if kind < 0.45:  # darker or brighter, evenly or mottled
        depth = max(_log(rng, *_CONTRAST), 2.0 * spread)
        mottle = 1.0 + np.float32(rng.uniform(0.0, 0.5)) * _noise(rng, grey.shape, _log(rng, 2.0, 15.0))
        return np.asarray(cover * np.float32(sign * depth) * mottle, np.float32)
    if kind < 0.7:  # foreign texture, with its own brightness or with the surface's
        top = int(rng.integers(0, other.shape[0] - grey.shape[0] + 1))
        left = int(rng.integers(0, other.shape[1] - grey.shape[1] + 1))
        patch = other[top : top + grey.shape[0], left : left + grey.shape[1]]
        if grey.shape[0] == grey.shape[1]:
            patch = np.rot90(patch, int(rng.integers(0, 4)))
        if rng.random() < 0.5:
            patch = patch - float(patch.mean()) + float(grey.mean())
        return np.asarray(cover * opaque * (patch - grey), np.float32)
    if kind < 0.85:  # rougher
        rough = _noise(rng, grey.shape, _log(rng, 1.0, 5.0), _log(rng, 0.3, 3.0))
        return np.asarray(cover * rough * np.float32(max(2.5 * spread, _log(rng, 0.04, 0.2))), np.float32)
    # smoothed away, darker or brighter
    smooth = cv2.GaussianBlur(grey, (0, 0), _log(rng, 3.0, 9.0))
    return np.asarray(cover * opaque * (smooth + np.float32(sign * rng.uniform(2.0, 4.0) * spread) - grey), np.float32)
