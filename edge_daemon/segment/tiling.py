"""Pictures larger than the network's input: where tiles lie, and how their logits are joined.

Along each axis tiles of at most ``tile_px`` start every ``tile_px - overlap_px``; the last is moved back to end with
the picture. Starts are multiples of ``multiple_of_px``, so a strided network sees each pixel in the phase it would
have without tiling. Where two tiles overlap, the outer quarter of the overlap of each (whose context is cut off) does
not count, and a raised cosine leads from one to the other: a network that looks at most ``overlap_px / 4`` around a
pixel answers exactly as without tiling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .bundle import InputSpec
from .protocol import Tensors

__all__ = ["Axis", "pad_to_multiple", "run_tiled", "split_axis"]

# Tiles handed to the engine per call: enough to keep a GPU busy, few enough to bound memory.
_TILES_PER_CALL = 4

Infer = Callable[[NDArray[np.float32]], Tensors]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a tiling. starts: first pixel of each tile. side_px: of every tile. weights: float32
    (tiles, side_px), how much each tile counts at each of its pixels; over all tiles they sum to 1 at every pixel."""

    starts: tuple[int, ...]
    side_px: int
    weights: NDArray[np.float32]

    def window(self, tile: int) -> slice:
        """The pixels of one tile."""
        return slice(self.starts[tile], self.starts[tile] + self.side_px)


def split_axis(size_px: int, tile_px: int, overlap_px: int) -> Axis:
    """Tiles that cover an axis of ``size_px``; one tile of that size where it fits into ``tile_px``."""
    if size_px <= tile_px:
        return Axis((0,), size_px, np.ones((1, size_px), np.float32))
    last = size_px - tile_px
    starts = (*range(0, last, tile_px - overlap_px), last)
    margin = overlap_px // 4
    ramp_px = overlap_px - 2 * margin
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(ramp_px) + 0.5) / max(ramp_px, 1))
    edge = np.concatenate([np.zeros(margin), rise, np.ones(margin)])
    weights = np.ones((len(starts), tile_px), np.float64)
    weights[1:, :overlap_px] = edge
    weights[:-1, tile_px - overlap_px :] *= edge[::-1]
    total = np.zeros(size_px)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile_px] += weight
    shares = [weight / total[start : start + tile_px] for start, weight in zip(starts, weights, strict=True)]
    return Axis(starts, tile_px, np.array(shares, np.float32))


def pad_to_multiple(planes: NDArray[np.float32], multiple_of_px: int) -> NDArray[np.float32]:
    """(C, H, W) grown at the bottom and right to multiples of ``multiple_of_px`` by reflection; itself if it fits."""
    _, height, width = planes.shape
    bottom, right = -height % multiple_of_px, -width % multiple_of_px
    if not bottom and not right:
        return planes
    padded = np.empty((len(planes), height + bottom, width + right), np.float32)
    for source, target in zip(planes, padded, strict=True):
        target[:] = cv2.copyMakeBorder(source, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
    return padded


def run_tiled(infer: Infer, planes: NDArray[np.float32], spec: InputSpec) -> Tensors:
    """Logits of a whole picture: planes float32 (C, H, W) -> defect (1, 1, H, W) and type, see ``Tensors``.

    Deterministic: tiles are always run and added in the same order. Needs 4 (1 + K) bytes per pixel besides the tiles.
    """
    _, height, width = planes.shape
    padded = pad_to_multiple(planes, spec.multiple_of_px)
    rows = split_axis(padded.shape[1], spec.tile_px, spec.overlap_px)
    columns = split_axis(padded.shape[2], spec.tile_px, spec.overlap_px)
    if len(rows.starts) == len(columns.starts) == 1:
        whole = infer(padded[None])
        return _cut(whole, height, width)

    defect = np.zeros((1, 1, *padded.shape[1:]), np.float32)
    types: NDArray[np.float32] | None = None
    stride = 1
    for cells in _batches(len(rows.starts) * len(columns.starts)):
        places = [divmod(cell, len(columns.starts)) for cell in cells]
        windows = [(rows.window(i), columns.window(j)) for i, j in places]
        answer = infer(np.stack([padded[:, y, x] for y, x in windows]))
        if types is None:
            stride = answer.type_stride_px
            types = np.zeros((1, answer.type.shape[1], *(side // stride for side in padded.shape[1:])), np.float32)
        for n, ((i, j), (y, x)) in enumerate(zip(places, windows, strict=True)):
            weight = rows.weights[i][:, None] * columns.weights[j]
            defect[0, :, y, x] += answer.defect[n] * weight
            down, across = (slice(side.start // stride, side.stop // stride) for side in (y, x))
            # Weights that add up to 1 at every pixel do so at every stride-th.
            types[0, :, down, across] += answer.type[n] * weight[::stride, ::stride]
    assert types is not None
    return _cut(Tensors(defect, types, stride), height, width)


def _cut(whole: Tensors, height: int, width: int) -> Tensors:
    stride = whole.type_stride_px
    return Tensors(
        whole.defect[:, :, :height, :width], whole.type[:, :, : -(-height // stride), : -(-width // stride)], stride
    )


def _batches(count: int) -> Iterator[range]:
    for first in range(0, count, _TILES_PER_CALL):
        yield range(first, min(first + _TILES_PER_CALL, count))
