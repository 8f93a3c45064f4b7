"""What the network learns from: simulated radiographs, prepared as on the line, and crops drawn from them.

No torch here. Training, tuning and evaluation draw from seed ranges that never meet:

    0 .. 799,999         training pictures
    800,000 .. 849,999   temperature, thresholds and the known scores of the bundle
    850,000 .. 899,999   free for experiments
    900,000 ..           evaluation and demo only; refused here
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..records import read_only
from ..segment.prepare import VIEWS, prepare
from ..simulator import CASTING_TYPES, Radiograph, conveyor_part, reference_plate, simulate

__all__ = ["EVALUATION_SEEDS_FROM", "EXPERIMENT_SEEDS_FROM", "IGNORED", "LOCAL_SIGMA_PX", "MM_PER_PX",
           "TUNING_SEEDS_FROM", "Pool", "draw_picture", "make_pool", "sample_batch", "visible_labels"]  # fmt: skip

TUNING_SEEDS_FROM = 800_000
EXPERIMENT_SEEDS_FROM = 850_000
EVALUATION_SEEDS_FROM = 900_000
#: Scales the pictures are simulated at, and so the scales the engine is qualified for.
MM_PER_PX = (0.08, 0.20)
LOCAL_SIGMA_PX = 12.0
#: Label of pixels that count neither as sound nor as defect: something is there that nobody can see.
IGNORED = 254

# Below these a discontinuity cannot be seen, so neither calling nor missing it teaches anything.
_LEAST_SNR = 10.0
_LEAST_GREY = 4.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Prepared pictures, read-only. grey: uint8 (N, S, S). local: float16 (N, S, S). labels: uint8 (N, S, S), 0 sound,
    k + 1 of CASTING_TYPES, IGNORED. spots: per type the defect pixels to aim crops at, int32 (M, 3): picture, y, x."""

    grey: NDArray[np.uint8]
    local: NDArray[np.float16]
    labels: NDArray[np.uint8]
    spots: tuple[NDArray[np.int32], ...]


def visible_labels(picture: Radiograph) -> NDArray[np.uint8]:
    """The labels, with every connected spot below the visible limit set to IGNORED: integrated signal-to-noise below 10
    or largest change below 4 grey levels of 255."""
    labels: NDArray[np.uint8] = picture.labels.copy()
    count, components = cv2.connectedComponents((labels > 0).view(np.uint8), connectivity=8)
    if count == 1:
        return labels
    at = np.flatnonzero(labels)
    spot = components.reshape(-1)[at].astype(np.intp)
    ratio = (picture.signal.reshape(-1)[at] / picture.noise.reshape(-1)[at]).astype(np.float64)
    power = np.bincount(spot, ratio * ratio, minlength=count)
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, spot, np.abs(picture.signal.reshape(-1)[at]))
    hidden = (np.sqrt(power) < _LEAST_SNR) | (peak < _LEAST_GREY)
    hidden[0] = False
    labels[hidden[components]] = IGNORED
    return labels


def draw_picture(seed: int, side_px: int = 352) -> Radiograph:
    """One picture of the mixture: most of it random castings, some conveyor housings, some reference plates.

    The scale is log-uniform over MM_PER_PX; every fifth picture is a conveyor part or plate at 0.1 mm/px. Seeds of the
    evaluation draw from the same mixture.
    """
    rng = np.random.default_rng([seed, 1])
    mm_per_px = float(np.exp(rng.uniform(*np.log(MM_PER_PX))))
    share = rng.random()
    if share < 0.12:
        kind = ("sound", "acceptable", "rejectable", "crack")[int(rng.integers(0, 4))]
        return conveyor_part(seed, kind)  # type: ignore[arg-type]
    if share < 0.18:
        kind = CASTING_TYPES[int(rng.integers(0, len(CASTING_TYPES)))]
        # Plate seed 0 is the one that gets installed as a reference; it stays unseen.
        return reference_plate(kind, int(rng.integers(1, 9)), seed + 1, size_px=(side_px, side_px))
    return simulate(seed, size_px=(side_px, side_px), mm_per_px=mm_per_px)


def _prepared(job: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.uint8]]:
    """Grey, local view and labels of one picture, cut to a square after the views were made on the whole of it."""
    seed, side_px = job
    picture = draw_picture(seed, side_px)
    local = prepare(picture.pixels, ("local",), LOCAL_SIGMA_PX)[0].astype(np.float16)
    labels = visible_labels(picture)
    height, width = labels.shape
    rng = np.random.default_rng([seed, 2])
    marked = np.argwhere(labels > 0)
    y, x = marked[int(rng.integers(0, len(marked)))] if len(marked) else (height // 2, width // 2)
    top = int(np.clip(y - side_px // 2 + rng.integers(-40, 41), 0, height - side_px))
    left = int(np.clip(x - side_px // 2 + rng.integers(-40, 41), 0, width - side_px))
    cut = np.s_[top : top + side_px, left : left + side_px]
    return picture.pixels[cut], local[cut], labels[cut]


def make_pool(seeds: Iterable[int], side_px: int = 352, workers: int = 1) -> Pool:
    """Simulate and prepare one picture per seed. Raises UsageError for a seed that evaluation owns."""
    jobs = [(seed, side_px) for seed in seeds]
    if any(seed >= EVALUATION_SEEDS_FROM for seed, _ in jobs):
        raise UsageError(
            f"seeds from {EVALUATION_SEEDS_FROM} on are for evaluation", hint="train and tune on smaller seeds"
        )
    shape = (len(jobs), side_px, side_px)
    grey, local = np.empty(shape, np.uint8), np.empty(shape, np.float16)
    labels = np.empty(shape, np.uint8)

    def fill(results: Iterable[Any]) -> None:
        for index, result in enumerate(results):
            grey[index], local[index], labels[index] = result

    if workers == 1:
        fill(map(_prepared, jobs))
    else:
        with ProcessPoolExecutor(workers) as pool:
            fill(pool.map(_prepared, jobs, chunksize=8))
    return Pool(read_only(grey), read_only(local), read_only(labels), _spots(labels))


def _spots(labels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], ...]:
    """Per type at most 24 defect pixels of each picture, so that a large one is not aimed at more often."""
    rng = np.random.default_rng(0)
    found: list[list[NDArray[np.int32]]] = [[] for _ in CASTING_TYPES]
    for index, plane in enumerate(labels):
        for label in np.unique(plane[(plane > 0) & (plane != IGNORED)]).tolist():
            at = np.argwhere(plane == label).astype(np.int32)
            at = at[rng.permutation(len(at))[:24]]
            found[label - 1].append(np.column_stack([np.full(len(at), index, np.int32), at]))
    return tuple(np.concatenate(group) if group else np.empty((0, 3), np.int32) for group in found)


def sample_batch(
    rng: np.random.Generator, pool: Pool, batch: int, crop_px: int, aimed: float = 0.65
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Crops for one step: views float32 (batch, 2, crop, crop) and labels uint8 (batch, crop, crop).

    A share ``aimed`` of them shows a defect of an evenly drawn type, the rest lies anywhere; each is turned and
    mirrored at random.
    """
    count, side_px, _ = pool.grey.shape
    views = np.empty((batch, len(VIEWS), crop_px, crop_px), np.float32)
    labels = np.empty((batch, crop_px, crop_px), np.uint8)
    types = [spots for spots in pool.spots if len(spots)]
    for n in range(batch):
        if types and rng.random() < aimed:
            spots = types[int(rng.integers(0, len(types)))]
            index, y, x = spots[int(rng.integers(0, len(spots)))].tolist()
            top, left = (int(v) - int(rng.integers(crop_px // 8, crop_px - crop_px // 8)) for v in (y, x))
        else:
            index = int(rng.integers(0, count))
            top, left = (int(v) for v in rng.integers(0, side_px - crop_px + 1, 2))
        top, left = min(max(top, 0), side_px - crop_px), min(max(left, 0), side_px - crop_px)
        cut = np.s_[index, top : top + crop_px, left : left + crop_px]
        turns, mirror = int(rng.integers(0, 4)), bool(rng.integers(0, 2))
        planes = (pool.grey[cut] * np.float32(1.0 / 255.0), pool.local[cut], pool.labels[cut])
        turned = [np.rot90(plane[:, ::-1] if mirror else plane, turns) for plane in planes]
        views[n, 0], views[n, 1], labels[n] = turned
    return views, labels
