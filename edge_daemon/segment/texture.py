"""How strange the surroundings of a region look: a fixed filter bank, and a cloud of descriptions for each known type.

What a network learns to tell its types apart by says little about a type it never saw: it was never asked. Texture in
general says more. So the exported network also answers with the responses of a filter bank that nobody trained, as
planes of its type output (``train.network``): brightness and contrast, and at four scales the energy of the gradient,
its direction, and bright and dark ridges. A region is described by means and spreads of these over its box and a margin
around it, by how large it is, how long, and how full its box is. Its strangeness is the Mahalanobis distance to the
nearest known type, each with its own covariance. A conformal p-value makes a statement of it (``see.known_p``).

Source of the score: Lee, Lee, Lee, Shin, "A simple unified framework for detecting out-of-distribution samples" (2018),
eq. 2, with a covariance for each class, on the structure tensor (Bigun, Granlund, 1987) and Laplacian of an image
pyramid in place of learned features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "GREY_SCALE",
    "LEVELS",
    "MARGIN_PX",
    "SIZE",
    "TEXTURE_KEYS",
    "TEXTURE_PLANES",
    "Texture",
    "describe",
    "strangeness",
    "texture_from",
    "weighed",
]

#: Scales of the filter bank: each half the resolution of the one before.
LEVELS = 4
_FIRST = 4
_PER_LEVEL = 5
#: Mean of grey, of the locally normalised view, of the square of either; then for each scale: squared gradient, its two
#: components of direction, squared bright and dark parts of the Laplacian.
TEXTURE_PLANES = _FIRST + _PER_LEVEL * LEVELS
#: Length of a description.
SIZE = TEXTURE_PLANES + 3
#: Fields of a ``Texture``, as ``thresholds.json`` names them.
TEXTURE_KEYS = ("mean", "scale", "centres", "whitening")
#: Grey in [0, 1] is multiplied by this before it is filtered: squares of faint gradients survive half precision.
GREY_SCALE = 64.0
#: So much around the box of a region belongs to its description.
MARGIN_PX = 32

# Below these nothing is texture any more but rounding: squared gradients, variances of grey and of the local view.
_LEAST_ENERGY = 1e-7 * GREY_SCALE**2
_LEAST_GREY = 1e-5
_LEAST_LOCAL = 1e-3
# How much the surroundings say about the type, beside the network: chosen on held parts, flat from 0.05 to 0.2.
_WEIGHT = 0.1
_LEAST_SHARE = 1e-3
# A description lies within so many standard deviations of all that is known, in each of its values.
_LIMIT = 5.0


@dataclass(frozen=True, slots=True)
class Texture:
    """The known types as clouds of descriptions. mean, scale: float64 (SIZE,), of all together. centres: float64
    (K, SIZE), whitening: float64 (K, SIZE, SIZE), so that whitening @ (z - centre) has unit covariance."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    centres: NDArray[np.float64]
    whitening: NDArray[np.float64]

    def squared_distances(self, descriptions: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 (R, K) of descriptions (R, SIZE): squared Mahalanobis distance to each type."""
        z = np.clip((descriptions - self.mean) / self.scale, -_LIMIT, _LIMIT)
        every = zip(self.centres, self.whitening, strict=True)
        return np.stack([(((z - centre) @ whitening.T) ** 2).sum(axis=1) for centre, whitening in every], axis=1)


def strangeness(squared_distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (R,) in [0, 1) of (R, K): d2 / (d2 + SIZE), d the distance to the nearest type."""
    nearest = squared_distances.min(axis=1)
    return np.asarray(nearest / (nearest + SIZE))


def weighed(type_share: NDArray[np.float64], squared_distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the network and the surroundings say together, float64 (R, K), rows sum to 1: shares times a likelihood
    that falls with the distance, much more slowly than a normal distribution's, whose tails nobody believes."""
    log = np.log(type_share + _LEAST_SHARE) - _WEIGHT * squared_distances
    together = np.exp(log - log.max(axis=1, keepdims=True))
    return np.asarray(together / together.sum(axis=1, keepdims=True))


def describe(
    planes: NDArray[np.float32], boxes_px: NDArray[np.int32], areas_px: Sequence[int], stride_px: int
) -> NDArray[np.float64]:
    """float64 (R, SIZE), one description of each region.

    planes: float32 (TEXTURE_PLANES, h, w), one value for a square of ``stride_px`` a side. boxes_px: int (R, 4), x, y,
    width, height. areas_px: marked pixels of each.
    """
    height, width = planes.shape[1:]
    found = np.empty((len(boxes_px), SIZE))
    for row, (x, y, across, down), area in zip(found, boxes_px.tolist(), areas_px, strict=True):
        top, left = (max(0, (side - MARGIN_PX) // stride_px) for side in (y, x))
        bottom = min(height, -(-(y + down + MARGIN_PX) // stride_px))
        right = min(width, -(-(x + across + MARGIN_PX) // stride_px))
        window = planes[:, top:bottom, left:right].reshape(TEXTURE_PLANES, -1)
        mean, spread = window.mean(axis=1, dtype=np.float64), window.std(axis=1, dtype=np.float64)
        row[0], row[1] = mean[0], 0.5 * np.log(max(mean[2] - mean[0] ** 2, 0.0) + _LEAST_GREY)
        row[2], row[3] = mean[1], 0.5 * np.log(max(mean[3] - mean[1] ** 2, 0.0) + _LEAST_LOCAL)
        energy, one, other, bright, dark = mean[_FIRST:].reshape(LEVELS, _PER_LEVEL).T
        energy = energy + _LEAST_ENERGY
        levels = row[_FIRST:TEXTURE_PLANES].reshape(LEVELS, _PER_LEVEL).T
        levels[0] = 0.5 * np.log(energy)
        levels[1] = np.hypot(one, other) / energy
        levels[2] = 0.5 * np.log((bright + _LEAST_ENERGY) / energy)
        levels[3] = 0.5 * np.log((dark + _LEAST_ENERGY) / energy)
        levels[4] = np.log((spread[_FIRST::_PER_LEVEL] + _LEAST_ENERGY) / energy)
        row[-3:] = np.log(area), np.log((max(across, down) + 1.0) / (min(across, down) + 1.0)), area / (across * down)
    return found


def texture_from(document: Mapping[str, Sequence[object]], types: int) -> Texture | None:
    """The texture of a ``thresholds.json``; None if its shapes do not fit or a value is not finite."""
    try:
        arrays = [np.asarray(document[key], np.float64) for key in TEXTURE_KEYS]
    except (TypeError, ValueError):
        return None
    wanted = [(SIZE,), (SIZE,), (types, SIZE), (types, SIZE, SIZE)]
    if [one.shape for one in arrays] != wanted or not all(np.isfinite(one).all() for one in arrays):
        return None
    if (arrays[1] <= 0).any():
        return None
    for one in arrays:
        one.setflags(write=False)
    return Texture(*arrays)
