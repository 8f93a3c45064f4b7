"""Thresholds of a surface engine, on held pictures: what counts as a mark, how sure it is, what is known.

1. Hysteresis: grow threshold and least size for all, a seed threshold for each type: under which each marks at most
   ``sound_marked`` of the sound crops, those with the best overlap, mean over types. For what is unknown, of which
   there are no pictures, the lowest seed under which all together mark at most ``any_marked`` of them. A sound crop is
   a square of 64 px without any truth in or beside it, in a picture with a mask; beside boxes lies much that their
   author left out.
2. coverage = sigmoid(logit / temperature + bias), by maximum likelihood over the pixels near what is marked.
3. What the surroundings of known types look like (``looks``), from the pictures it learned from; and known scores for
   "I was not trained on this", from regions that lie on truth: of the parts that step 1 did not use, and of the others
   too for a type that has too few of them.

Thresholds are chosen on the logits and written down as coverage, so that step 2 moves no region.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..records import UNKNOWN_TYPE
from ..segment.bundle import Thresholds
from ..segment.protocol import Engine, Tensors
from ..segment.see import coverage_from_logits, known_p, named_blobs, split_types
from ..segment.texture import describe, strangeness, weighed
from .calibrate import dilated, fit_sigmoid, logit, sigmoid
from .looks import learn_texture, ran, texture_document
from .pictures import IGNORED
from .surface_pictures import Surface

__all__ = ["SurfaceLimits", "calibrate_surface", "sound_crops"]

_SEEDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)
_GROWS = (0.2, 0.3, 0.4, 0.5, 0.6)
_LEAST_PX = (6, 12, 20, 32)
_BINS = np.linspace(-24.0, 24.0, 2401)
_WRITTEN = ("temperature", "bias", "seed", "grow", "min_region_px", "unknown_alpha")
_CROP_PX, _CLEAR_PX = 64, 5
_NEAR_PX = 8
_ON_TRUTH = 0.3
_KNOWN_PER_TYPE, _KNOWN_PER_PICTURE = 200, 6
_ENOUGH = 60


@dataclass(frozen=True, slots=True)
class SurfaceLimits:
    """sound_marked: share of sound crops that each type may mark. any_marked: that all types and what is unknown may
    mark together. unknown_alpha: share of known defects
    that may be called unknown. min_contrast, max_clipped_pct: the image gate."""

    sound_marked: float = 0.01
    any_marked: float = 0.05
    unknown_alpha: float = 0.05
    min_contrast: float = 0.012
    max_clipped_pct: float = 60.0


@dataclass(frozen=True, slots=True)
class _Seen:
    surface: Surface
    tensors: Tensors


def calibrate_surface(
    engine: Engine, pictures: Sequence[Surface], limits: SurfaceLimits, learned: Sequence[Surface]
) -> dict[str, Any]:
    """The document thresholds.json for ``engine``, whose own thresholds do not matter. learned: what it was trained
    on."""
    seen = [_Seen(one, ran(engine, one.grey)) for one in pictures]
    first = [one for one in seen if not _second_half(one.surface.part)]
    second = [one for one in seen if _second_half(one.surface.part)] or first
    first = first or second
    rough = fit_sigmoid(*_histogram(first, None))
    types = engine.bundle.types
    marked = Thresholds(*rough, 0.5, 0.5, _LEAST_PX[1], limits.unknown_alpha, {}, 0.0, 100.0)
    marked = replace(marked, texture=learn_texture(engine, learned, marked))
    scores = _two_halves(types, seen, second, marked)
    marked = replace(marked, known_scores={name: tuple(values) for name, values in scores.items()})
    grow, least_px, seeds = _choose(seen, rough, limits, types, marked)
    temperature, bias = fit_sigmoid(*_histogram(first, grow))

    def share(value: float) -> float:
        return min(round(sigmoid(value / temperature + bias), 7), 1.0 - 1e-6)

    thresholds = Thresholds(
        round(temperature, 5), round(bias, 5), share(min(seeds.values())), share(grow), least_px, limits.unknown_alpha,
        {}, limits.min_contrast, limits.max_clipped_pct,
        {name: share(seeds[kind]) for kind, name in enumerate((*types, UNKNOWN_TYPE))}, marked.texture,
    )  # fmt: skip
    return {
        **{key: getattr(thresholds, key) for key in _WRITTEN}, "type_seeds": dict(thresholds.type_seeds),
        "known_scores": _two_halves(types, seen, second, thresholds),
        **({"texture": texture_document(marked.texture)} if marked.texture is not None else {}),
        "gate": {"min_contrast": limits.min_contrast, "max_clipped_pct": limits.max_clipped_pct},
    }  # fmt: skip


def _two_halves(
    types: tuple[str, ...], seen: Sequence[_Seen], second: Sequence[_Seen], thresholds: Thresholds
) -> dict[str, list[float]]:
    """Known scores of the second half, and of all for a type that has too few of them there."""
    own = _known_scores(types, second, thresholds)
    return {**_known_scores(types, seen, thresholds), **{k: v for k, v in own.items() if len(v) >= _ENOUGH}}


def _second_half(part: str) -> bool:
    return zlib.crc32(f"second {part}".encode()) % 2 == 1


def sound_crops(labels: NDArray[np.uint8]) -> list[tuple[slice, slice]]:
    """The squares of 64 px of a picture, edge to edge from its upper left corner, with nothing known in or beside."""
    bad = dilated(labels > 0, _CLEAR_PX)
    height, width = labels.shape
    tops, lefts = (range(0, side - _CROP_PX + 1, _CROP_PX) for side in (height, width))
    windows = [np.s_[y : y + _CROP_PX, x : x + _CROP_PX] for y in tops for x in lefts]
    return [window for window in windows if not bad[window].any()]


def _histogram(
    seen: Sequence[_Seen], grow: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(pixels, defect pixels, logit) of each bin, of what counts near truth and near marks."""
    counts, defects = np.zeros(len(_BINS) - 1), np.zeros(len(_BINS) - 1)
    for one in seen:
        labels, logits = one.surface.labels, one.tensors.defect[0, 0]
        true = (labels > 0) & (labels != IGNORED)
        near = dilated(true, _NEAR_PX) | dilated(logits >= (grow if grow is not None else 0.0), 3)
        near &= labels != IGNORED
        values = np.clip(logits[near], _BINS[0], _BINS[-1] - 1e-3)
        counts += np.histogram(values, _BINS)[0]
        defects += np.histogram(np.clip(logits[near & true], _BINS[0], _BINS[-1] - 1e-3), _BINS)[0]
    return counts, defects, (_BINS[:-1] + _BINS[1:]) / 2


# ---- hysteresis -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Marks:
    """The regions of all pictures above one grow threshold. named: index of the type, the one after the last for what
    would be called unknown. peak: largest logit. counted_px: pixels that count, both_px: those on truth of the same
    name. crops: (n, 2), region and the sound crop it reaches into, numbered over all pictures."""

    named: NDArray[np.int64]
    peak: NDArray[np.float32]
    size_px: NDArray[np.int64]
    counted_px: NDArray[np.int64]
    both_px: NDArray[np.int64]
    crops: NDArray[np.int64]

    def kept(self, kind: int, seed: float, least_px: int) -> NDArray[np.bool_]:
        """The regions of that name that such thresholds leave."""
        return np.asarray((self.named == kind) & (self.peak >= seed) & (self.size_px >= least_px))

    def crops_of(self, keep: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The sound crops that these regions reach into."""
        return np.unique(self.crops[keep[self.crops[:, 0]], 1])


def _marks(seen: Sequence[_Seen], types: tuple[str, ...], grow: float, thresholds: Thresholds) -> _Marks:
    columns: list[list[NDArray[Any]]] = [[] for _ in range(6)]
    regions = sound = 0
    for one in seen:
        labels, logits = one.surface.labels, one.tensors.defect[0, 0]
        count, component, boxes, _ = cv2.connectedComponentsWithStats((logits >= grow).view(np.uint8), connectivity=8)
        flat = np.asarray(component, np.intp).reshape(-1)
        peak = np.full(count, -np.inf, np.float32)
        np.maximum.at(peak, flat, logits.reshape(-1))
        named = _names(one, flat, boxes, types, thresholds)
        true = named[flat] + 1 == labels.reshape(-1)
        columns[0].append(named[1:])
        columns[1].append(peak[1:])
        columns[2].append(np.bincount(flat, minlength=count)[1:])
        columns[3].append(np.bincount(flat, (labels != IGNORED).reshape(-1), minlength=count)[1:])
        columns[4].append(np.bincount(flat, true, minlength=count)[1:])
        windows = [] if one.surface.weak else sound_crops(labels)
        crops = [(regions + region - 1, sound + index) for index, window in enumerate(windows)
                 for region in np.unique(component[window]).tolist() if region]  # fmt: skip
        columns[5].append(np.array(crops, np.int64).reshape(-1, 2))
        regions, sound = regions + count - 1, sound + len(windows)
    return _Marks(*(np.concatenate(column) for column in columns))


def _names(
    one: _Seen, component: NDArray[np.intp], boxes: NDArray[np.int32], types: tuple[str, ...], thresholds: Thresholds
) -> NDArray[np.int64]:
    """Index of the likeliest type of each component, the background's too; ``len(types)`` for what is unknown."""
    logits, texture = split_types(one.tensors.type[0], len(types))
    count, stride = len(boxes), one.tensors.type_stride_px
    marked = np.flatnonzero(component)
    y, x = np.divmod(marked, one.surface.labels.shape[1])
    some = logits[:, y // stride, x // stride].astype(np.float64)
    share = np.exp(some - some.max(axis=0))
    share /= share.sum(axis=0)
    summed = np.stack([np.bincount(component[marked], plane, minlength=count) for plane in share])
    if texture is None or thresholds.texture is None:
        return np.asarray(np.minimum(summed.argmax(axis=0), len(types)), np.int64)
    named = np.asarray(summed[: len(types)].argmax(axis=0), np.int64)
    large = np.flatnonzero(boxes[1:, cv2.CC_STAT_AREA] >= min(_LEAST_PX)) + 1
    if len(large):
        areas_px = boxes[large, cv2.CC_STAT_AREA].tolist()
        distances = thresholds.texture.squared_distances(describe(texture, boxes[large, :4], areas_px, stride))
        own = summed[: len(types), large].T
        named[large] = weighed(own / own.sum(axis=1, keepdims=True), distances).argmax(axis=1)
        for region, score in zip(large.tolist(), strangeness(distances).tolist(), strict=True):
            if known_p(score, thresholds.known_scores.get(types[named[region]], ())) < thresholds.unknown_alpha:
                named[region] = len(types)
    return named


def _choose(
    seen: Sequence[_Seen], rough: tuple[float, float], limits: SurfaceLimits, names: tuple[str, ...],
    thresholds: Thresholds,
) -> tuple[float, int, dict[int, float]]:  # fmt: skip
    """(grow, least size, seed of each type and of what is unknown), logits: the best overlap, mean over types."""
    temperature, bias = rough
    types = len(names)
    true_px = np.bincount(np.concatenate([one.surface.labels.reshape(-1) for one in seen]), minlength=256)[
        1 : types + 1
    ]
    sound = max(1, sum(len(sound_crops(one.surface.labels)) for one in seen if not one.surface.weak))
    best: tuple[float, tuple[float, int, dict[int, float]]] | None = None
    for grow_share in _GROWS:
        grow = (logit(grow_share) - bias) * temperature
        marks = _marks(seen, names, grow, thresholds)
        tried_seeds = [(logit(share) - bias) * temperature for share in _SEEDS if share >= grow_share]
        for least_px in _LEAST_PX:
            seeds: dict[int, float] = {}
            overlaps, crops = [], np.empty(0, np.int64)
            for kind in range(types):
                tried = []
                for seed in tried_seeds:
                    keep = marks.kept(kind, seed, least_px)
                    both = int(marks.both_px[keep].sum())
                    either = int(true_px[kind]) + int(marks.counted_px[keep].sum()) - both
                    tried.append((both / max(1, either), seed, marks.crops_of(keep)))
                allowed = [one for one in tried if len(one[2]) <= limits.sound_marked * sound] or [tried[-1]]
                overlap, seeds[kind], own = max(allowed, key=lambda one: one[0])
                overlaps.append(overlap)
                crops = np.union1d(crops, own)
            for seed in reversed(tried_seeds):
                own = marks.crops_of(marks.kept(types, seed, least_px))
                if types not in seeds or len(np.union1d(crops, own)) <= limits.any_marked * sound:
                    seeds[types] = seed
            value = float(np.mean(overlaps))
            if best is None or value > best[0]:
                best = (value, (grow, least_px, seeds))
    assert best is not None
    return best[1]


# ---- known scores ---------------------------------------------------------------------------------------------------


def _known_scores(types: tuple[str, ...], seen: Sequence[_Seen], thresholds: Thresholds) -> dict[str, list[float]]:
    """Strangeness of the regions that lie on truth, by the name they were given, rounded up."""
    rng = np.random.default_rng(0)
    scores: dict[str, list[float]] = {name: [] for name in types}
    for one in seen:
        coverage = coverage_from_logits(one.tensors.defect[0, 0], thresholds)
        blobs, names = named_blobs(coverage, one.tensors, types, thresholds)
        labels = one.surface.labels.reshape(-1)[blobs.pixels]
        number = len(blobs.type_share)
        true = np.bincount(blobs.region_of_pixel, (labels > 0) & (labels != IGNORED), minlength=number)
        size = np.bincount(blobs.region_of_pixel, minlength=number)
        kept = [blobs.peak[n] >= thresholds.type_seeds.get(types[kind], 0.0) for n, (kind, _, _) in enumerate(names)]
        taken = dict.fromkeys(types, 0)
        for region in rng.permutation(
            np.flatnonzero((true >= _ON_TRUTH * np.maximum(size, 1)) & np.array(kept, bool))
        ).tolist():
            kind, _, strangeness = names[region]
            if taken[types[kind]] < _KNOWN_PER_PICTURE:
                taken[types[kind]] += 1
                scores[types[kind]].append(strangeness)
    found = {}
    for name, values in scores.items():
        if values:
            drawn = [values[k] for k in rng.permutation(len(values))[:_KNOWN_PER_TYPE].tolist()]
            found[name] = [min(1.0, float(np.ceil(value * 1e9) / 1e9)) for value in sorted(max(v, 0.0) for v in drawn)]
    return found
