"""What the network learns from: simulated radiographs, prepared as on the line, and crops drawn from them.

No torch here. Training, tuning and evaluation draw from seed ranges that never meet:

    0 .. 799,999         training pictures
    800,000 .. 849,999   temperature, thresholds and the known scores of the bundle
    850,000 .. 899,999   free for experiments
    900,000 ..           evaluation and demo only; refused here
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..records import read_only
from ..segment.prepare import VIEWS, prepare
from ..simulator import CASTING_TYPES, UNSEEN_FAMILIES, Radiograph, conveyor_part, reference_plate, simulate

__all__ = ["EVALUATION_SEEDS_FROM", "EXPERIMENT_SEEDS_FROM", "IGNORED", "LOCAL_SIGMA_PX", "MM_PER_PX",
           "TUNING_SEEDS_FROM", "UNTYPED", "GrowingPool", "Pool", "draw_examination", "draw_picture", "draw_sound",
           "join_pools", "make_pool", "prepare_picture", "sample_batch", "scale_of", "visible_labels"]  # fmt: skip

TUNING_SEEDS_FROM = 800_000
EXPERIMENT_SEEDS_FROM = 850_000
EVALUATION_SEEDS_FROM = 900_000
#: Scales the pictures are simulated at, and so the scales the engine is qualified for.
MM_PER_PX = (0.05, 0.50)
LOCAL_SIGMA_PX = 12.0
#: Label of pixels that count neither as sound nor as defect: something is there that nobody can see.
IGNORED = 254
#: Label of defect pixels that belong to no type, or to one that nobody stated.
UNTYPED = 253

# Below these a discontinuity cannot be seen, so neither calling nor missing it teaches anything.
_LEAST_SNR = 10.0
_LEAST_GREY = 4.0
_SPOTS = 24
# Pictures that one worker makes at a time.
_CHUNK = 50


@dataclass(frozen=True, slots=True)
class Pool:
    """Prepared pictures. grey: uint8 (N, S, S). local: float16 (N, S, S). labels: uint8 (N, S, S), 0 sound, k + 1 of
    CASTING_TYPES, IGNORED. spots: defect pixels to aim crops at, int16 (N, types, _SPOTS, 2): y, x; spot_count: uint8
    (N, types), how many of them there are."""

    grey: NDArray[np.uint8]
    local: NDArray[np.float16]
    labels: NDArray[np.uint8]
    spots: NDArray[np.int16]
    spot_count: NDArray[np.uint8]

    def first(self, count: int) -> Pool:
        """The first ``count`` pictures, without copying."""
        return Pool(self.grey[:count], self.local[:count], self.labels[:count], self.spots[:count],
                    self.spot_count[:count])  # fmt: skip


def visible_labels(picture: Radiograph) -> NDArray[np.uint8]:
    """The labels, with every connected spot below the visible limit set to IGNORED: integrated signal-to-noise below 10
    or largest change below 4 grey levels of 255.

    Integrated signal-to-noise is that of the matched filter, r = signal / noise being its template:
    sum(r r) / sqrt(sum(r C r)), with C the correlation of the noise between two pixels (``Radiograph.grain``). In white
    noise it is sqrt(sum(r r)); taking coarse grain for white would call visible what nobody can see.
    Source: Barrett, Myers, Foundations of Image Science (2004), ch. 13 (non-prewhitening matched filter).
    """
    labels: NDArray[np.uint8] = picture.labels.copy()
    count, components = cv2.connectedComponents((labels > 0).view(np.uint8), connectivity=8)
    if count == 1:
        return labels
    at = np.flatnonzero(labels)
    spot = components.reshape(-1)[at].astype(np.intp)
    ratio = (picture.signal.reshape(-1)[at] / picture.noise.reshape(-1)[at]).astype(np.float64)
    power = np.asarray(np.bincount(spot, ratio * ratio, minlength=count), np.float64)
    spread = power
    share, sigma_px = picture.grain
    if share > 0.0:
        template = np.zeros(labels.shape, np.float32)
        template.reshape(-1)[at] = ratio
        kernel = _correlation(sigma_px)
        felt = cv2.sepFilter2D(template, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
        alike = np.asarray(np.bincount(spot, ratio * felt.reshape(-1)[at], minlength=count), np.float64)
        spread = (1.0 - share) * power + share * np.maximum(alike, power)
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, spot, np.abs(picture.signal.reshape(-1)[at]))
    hidden = (power < _LEAST_SNR * np.sqrt(spread)) | (peak < _LEAST_GREY)
    hidden[0] = False
    labels[hidden[components]] = IGNORED
    return labels


def _correlation(sigma_px: float) -> NDArray[np.float64]:
    """Correlation along one axis of white noise blurred by a Gaussian, 1 at its middle."""
    kernel = cv2.getGaussianKernel(2 * round(4 * sigma_px) + 1, sigma_px).reshape(-1)
    both = np.convolve(kernel, kernel)
    return np.asarray(both / both.max(), np.float64)


def draw_picture(seed: int, side_px: int = 384) -> Radiograph:
    """One picture of the mixture: most of it random castings, some conveyor housings, some reference plates.

    The scale is log-uniform over MM_PER_PX; conveyor parts and plates are at 0.1 mm/px, the former of 512 px. Seeds of
    the evaluation draw from the same mixture; ``draw_examination`` draws from geometry that nobody trained on.
    """
    rng = np.random.default_rng([seed, 1])
    share = rng.random()
    if share < 0.08:
        kind = ("sound", "acceptable", "rejectable", "crack")[int(rng.integers(0, 4))]
        return conveyor_part(seed, kind)  # type: ignore[arg-type]
    if share < 0.13:
        kind = CASTING_TYPES[int(rng.integers(0, len(CASTING_TYPES)))]
        # Plate seed 0 is the one that gets installed as a reference; it stays unseen.
        return reference_plate(kind, int(rng.integers(1, 9)), seed + 1, size_px=(side_px, side_px))
    return simulate(seed, size_px=(side_px, side_px), mm_per_px=_some_scale(rng))


def draw_examination(seed: int, side_px: int = 512, *, sound: bool = False, mode: str | None = None) -> Radiograph:
    """One picture of a geometry that no training picture shows (``castings.UNSEEN_FAMILIES``).

    sound: without any discontinuity. mode: an imaging mode, by default one of those trained on. Raises UsageError for a
    seed below EXPERIMENT_SEEDS_FROM.
    """
    if seed < EXPERIMENT_SEEDS_FROM:
        raise UsageError(f"seed {seed} belongs to training or tuning", hint=f"seeds from {EXPERIMENT_SEEDS_FROM} on")
    rng = np.random.default_rng([seed, 4])
    families = tuple(UNSEEN_FAMILIES)
    return simulate(
        seed, size_px=(side_px, side_px), mm_per_px=_some_scale(rng), defects=() if sound else None, mode=mode,
        structure=families[int(rng.integers(0, len(families)))],  # type: ignore[arg-type]
    )  # fmt: skip


def draw_sound(seed: int, side_px: int = 384) -> Radiograph:
    """One picture of the training mixture's geometry without any discontinuity."""
    rng = np.random.default_rng([seed, 5])
    if rng.random() < 0.1:
        return conveyor_part(seed, "sound")
    return simulate(seed, size_px=(side_px, side_px), mm_per_px=_some_scale(rng), defects=())


def scale_of(seed: int) -> float:
    """A scale in mm/px, log-uniform over MM_PER_PX, that belongs to a seed."""
    return _some_scale(np.random.default_rng([seed, 1]))


def _some_scale(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(MM_PER_PX))))


def prepare_picture(seed: int, picture: Radiograph, side_px: int) -> Pool:
    """One picture as a pool of one: cut to a square after the views were made on the whole of it, aimed at a defect."""
    local = prepare(picture.pixels, ("local",), LOCAL_SIGMA_PX)[0].astype(np.float16)
    labels = visible_labels(picture)
    height, width = labels.shape
    rng = np.random.default_rng([seed, 2])
    marked = np.argwhere(labels > 0)
    y, x = marked[int(rng.integers(0, len(marked)))] if len(marked) else (height // 2, width // 2)
    top = int(np.clip(y - side_px // 2 + rng.integers(-40, 41), 0, height - side_px))
    left = int(np.clip(x - side_px // 2 + rng.integers(-40, 41), 0, width - side_px))
    cut = np.s_[top : top + side_px, left : left + side_px]
    spots, count = _spots(rng, labels[cut])
    grey = picture.pixels if picture.pixels.dtype == np.uint8 else (picture.pixels >> 8).astype(np.uint8)
    return Pool(grey[cut][None], local[cut][None], labels[cut][None], spots[None], count[None])


def _spots(rng: np.random.Generator, labels: NDArray[np.uint8]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Per type at most _SPOTS defect pixels, so that a large discontinuity is not aimed at more often."""
    spots = np.zeros((len(CASTING_TYPES), _SPOTS, 2), np.int16)
    count = np.zeros(len(CASTING_TYPES), np.uint8)
    for label in np.unique(labels[(labels > 0) & (labels != IGNORED)]).tolist():
        at = np.argwhere(labels == label)
        at = at[rng.permutation(len(at))[:_SPOTS]]
        spots[label - 1, : len(at)], count[label - 1] = at, len(at)
    return spots, count


def _shapes(count: int, side_px: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    types = len(CASTING_TYPES)
    return {
        "grey": (np.uint8, (count, side_px, side_px)), "local": (np.float16, (count, side_px, side_px)),
        "labels": (np.uint8, (count, side_px, side_px)), "spots": (np.int16, (count, types, _SPOTS, 2)),
        "spot_count": (np.uint8, (count, types)),
    }  # fmt: skip


def _fill(folder: Path, seeds: Sequence[int], side_px: int, start: int, stop: int) -> int:
    """Simulate pictures ``start`` to ``stop`` into the files of a pool. Runs in a process of its own."""
    cv2.setNumThreads(1)
    planes = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+") for name in _shapes(len(seeds), side_px)
    }
    for index in range(start, stop):
        one = prepare_picture(seeds[index], draw_picture(seeds[index], side_px), side_px)
        for name, plane in planes.items():
            plane[index] = getattr(one, name)[0]
    return stop


class GrowingPool:
    """A pool on disk that grows while training goes on, and that a resumed run finds again.

    folder: of its files. seeds: of the pictures, in the order they are made. ``first(n)`` waits until n of them are
    there. Raises UsageError for a seed that evaluation owns, or for files of another pool.
    """

    def __init__(self, folder: Path, seeds: Sequence[int], side_px: int = 384, workers: int = 1) -> None:
        if any(seed >= EVALUATION_SEEDS_FROM for seed in seeds):
            raise UsageError(
                f"seeds from {EVALUATION_SEEDS_FROM} on are for evaluation", hint="train and tune on smaller seeds"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._ready_path = folder / "ready.json"
        identity = {"seeds": [seeds[0], seeds[-1], len(seeds)], "side_px": side_px}
        ready: dict[str, Any] = {**identity, "chunks": []}
        if self._ready_path.exists():
            ready = json.loads(self._ready_path.read_text(encoding="utf-8"))
            if {key: ready[key] for key in identity} != identity:
                raise UsageError(f"{folder} holds pictures of another run", hint="choose an empty folder")
        else:
            for name, (dtype, shape) in _shapes(len(seeds), side_px).items():
                np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        self._ready = ready
        self.count = len(seeds)
        self._pool = Pool(**{
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r") for name in _shapes(len(seeds), side_px)
        })  # fmt: skip
        self._executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        self._chunks: dict[int, Future[int] | None] = {}
        for start in range(0, len(seeds), _CHUNK):
            stop = min(start + _CHUNK, len(seeds))
            done = start in ready["chunks"]
            self._chunks[start] = (
                None if done else self._executor.submit(_fill, folder, tuple(seeds), side_px, start, stop)
            )

    def first(self, count: int) -> Pool:
        """The first ``count`` pictures (at most all), waiting for them if they are still being made."""
        count = min(count, self.count)
        for start in range(0, count, _CHUNK):
            future = self._chunks[start]
            if future is not None:
                future.result()
                self._chunks[start] = None
                self._ready["chunks"].append(start)
                self._ready_path.write_text(json.dumps(self._ready) + "\n", encoding="utf-8")
        return self._pool.first(count)

    def close(self) -> None:
        """Stop making pictures; those that are ready stay."""
        self._executor.shutdown(cancel_futures=True)


def make_pool(seeds: Sequence[int], side_px: int = 384) -> Pool:
    """Simulate and prepare one picture per seed in memory. Raises UsageError for a seed that evaluation owns."""
    if any(seed >= EVALUATION_SEEDS_FROM for seed in seeds):
        raise UsageError(
            f"seeds from {EVALUATION_SEEDS_FROM} on are for evaluation", hint="train and tune on smaller seeds"
        )
    parts = [prepare_picture(seed, draw_picture(seed, side_px), side_px) for seed in seeds]
    return join_pools(parts)


def join_pools(parts: Sequence[Pool]) -> Pool:
    """Pools of the same side, one after the other."""
    return Pool(*(
        read_only(np.concatenate([getattr(part, name) for part in parts]))
        for name in ("grey", "local", "labels", "spots", "spot_count")
    ))  # fmt: skip


def sample_batch(
    rng: np.random.Generator, pool: Pool, batch: int, crop_px: int, aimed: float = 0.55
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Crops for one step: views float32 (batch, 2, crop, crop) and labels uint8 (batch, crop, crop).

    A share ``aimed`` of them shows a defect of an evenly drawn type, the rest lies anywhere; each is turned and
    mirrored at random, half of them change their brightness and contrast.
    """
    count, side_px, _ = pool.grey.shape
    views = np.empty((batch, len(VIEWS), crop_px, crop_px), np.float32)
    labels = np.empty((batch, crop_px, crop_px), np.uint8)
    types = np.flatnonzero(pool.spot_count.any(axis=0))
    for n in range(batch):
        if len(types) and rng.random() < aimed:
            kind = types[int(rng.integers(0, len(types)))]
            having = np.flatnonzero(pool.spot_count[:, kind])
            index = int(having[int(rng.integers(0, len(having)))])
            y, x = pool.spots[index, kind, int(rng.integers(0, pool.spot_count[index, kind]))].tolist()
            top, left = (int(v) - int(rng.integers(crop_px // 8, crop_px - crop_px // 8)) for v in (y, x))
        else:
            index = int(rng.integers(0, count))
            top, left = (int(v) for v in rng.integers(0, side_px - crop_px + 1, 2))
        top, left = min(max(top, 0), side_px - crop_px), min(max(left, 0), side_px - crop_px)
        cut = np.s_[index, top : top + crop_px, left : left + crop_px]
        turns, mirror = int(rng.integers(0, 4)), bool(rng.integers(0, 2))
        grey = pool.grey[cut] * np.float32(1.0 / 255.0)
        if rng.random() < 0.5:
            gain, offset = rng.uniform(0.8, 1.2), rng.uniform(-0.1, 0.1)
            grey = np.clip(grey * np.float32(gain) + np.float32(offset), 0.0, 1.0)
        turned = [
            np.rot90(plane[:, ::-1] if mirror else plane, turns) for plane in (grey, pool.local[cut], pool.labels[cut])
        ]
        views[n, 0], views[n, 1], labels[n] = turned
    return views, labels
