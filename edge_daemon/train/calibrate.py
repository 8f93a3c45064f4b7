"""From a trained network to a bundle's thresholds, on pictures it has never seen.

1. Hysteresis: of all (seed, grow, min_region_px) that stay under the allowed false regions, on pictures with defects
   and on sound parts, the one with the best recall, mean over types, and overlap with the truth. Then a seed for each
   type: from the strictest, the type whose lower seed gains most for the false regions it costs is lowered, as
   long as the limits hold.
2. coverage = sigmoid(logit / temperature + bias), by maximum likelihood over the pixels near what is marked, which are
   the ones that get measured; then the bias is moved until summed coverage meets the true area of what was found.
3. Known scores: what regions of known types look like, for the conformal "I was not trained on this".

Thresholds are chosen on the logits and written down as coverage, so that step 2 moves no region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..segment.bundle import Thresholds
from ..segment.prepare import prepare
from ..segment.protocol import Engine, Tensors
from ..segment.see import contrast_and_clipped_pct, coverage_from_logits, find_blobs, name_regions
from ..segment.tiling import run_tiled
from ..simulator import Radiograph
from .pictures import IGNORED, visible_labels

__all__ = [
    "FOUND_SHARE",
    "MAX_CLIPPED_PCT",
    "MIN_CONTRAST",
    "Answer",
    "Limits",
    "answer",
    "calibrate",
    "dilated",
    "fit_sigmoid",
    "known_scores",
    "logit",
    "near_truth",
    "passes_gate",
    "sigmoid",
    "thresholds_document",
]  # fmt: skip

#: An indication is found when this share of its visible pixels is marked.
FOUND_SHARE = 0.25
#: The image gate: a flat plate shows three grey levels of noise, and casting outlines stand in burnt-out air.
MIN_CONTRAST, MAX_CLIPPED_PCT = 0.012, 70.0

_BINS = np.linspace(-24.0, 24.0, 2401)
_SEEDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995)
# A low one: the faint rim of a mark belongs to its area.
_GROWS = (0.15, 0.2, 0.3)
_LEAST_PX = (4, 8, 12)
# How far the bias may move for the area; what lacks then lies outside the marks and is not made up inside them.
_MOST_SHIFT = 0.7
_NEAR_PX = 3
_KNOWN_PER_TYPE = 200
# Regions of one picture resemble each other; more of them would pretend to more independent scores than there are.
_KNOWN_PER_PICTURE = 4
_UNKNOWN_ALPHA = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """What false alarms are allowed: regions per picture with defects, share of sound pictures with any region."""

    false_per_picture: float = 0.04
    false_per_sound: float = 0.005


@dataclass(frozen=True, slots=True)
class Answer:
    """One picture, the raw logits for it, what could be seen in it (uint8 (H, W), IGNORED where nothing could), and the
    likeliest type of each cell of the type logits."""

    picture: Radiograph
    tensors: Tensors
    visible: NDArray[np.uint8]
    named: NDArray[np.uint8] | None = None


def answer(engine: Engine, picture: Radiograph) -> Answer:
    """Run the network as the line does, without thresholds."""
    spec = engine.bundle.input
    planes = prepare(picture.pixels, spec.views, spec.local_sigma_px)
    tensors = run_tiled(engine.infer, planes, spec)
    return Answer(picture, tensors, visible_labels(picture), tensors.type[0].argmax(axis=0).astype(np.uint8))


def near_truth(picture: Radiograph, within_px: int = 2) -> NDArray[np.bool_]:
    """Pixels at most ``within_px`` from any discontinuity, visible or not: a region that touches them is not false."""
    return dilated(picture.labels > 0, within_px)


def dilated(mask: NDArray[np.bool_], by_px: int) -> NDArray[np.bool_]:
    """bool (H, W): the pixels at most ``by_px`` away, by the larger of the two directions."""
    side = 2 * by_px + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)), bool)


def passes_gate(picture: Radiograph) -> bool:
    """Whether the image gate written into the bundle lets this picture through."""
    contrast, clipped_pct = contrast_and_clipped_pct(picture.pixels)
    return contrast >= MIN_CONTRAST and clipped_pct <= MAX_CLIPPED_PCT


def fit_sigmoid(
    counts: NDArray[np.float64], defects: NDArray[np.float64], logits: NDArray[np.float64]
) -> tuple[float, float]:
    """(temperature, bias) of maximum likelihood for binned logits, by Newton's method in (slope, bias).

    counts, defects: pixels and defect pixels per bin; logits: the bins' centres.
    """
    slope, bias = 1.0, 0.0
    for _ in range(60):
        p = 1.0 / (1.0 + np.exp(-np.clip(slope * logits + bias, -60, 60)))
        miss = defects - counts * p
        weight = counts * p * (1.0 - p)
        gradient = np.array([np.sum(miss * logits), np.sum(miss)])
        hessian = np.array(
            [[np.sum(weight * logits**2), np.sum(weight * logits)], [np.sum(weight * logits), np.sum(weight)]]
        )
        move = np.linalg.solve(hessian + 1e-9 * np.eye(2), gradient)
        move *= min(1.0, 0.5 / max(float(np.abs(move).max()), 1e-12))
        slope, bias = max(slope + float(move[0]), 0.05), bias + float(move[1])
        if float(np.abs(move).max()) < 1e-7:
            break
    return 1.0 / slope, bias


def calibrate(
    engine: Engine, pictures: Iterable[Radiograph], sound: Iterable[Radiograph], known: Iterable[Radiograph],
    *, limits: Limits = Limits(), groups: Sequence[Sequence[str]] = (),
) -> dict[str, Any]:  # fmt: skip
    """The document thresholds.json for ``engine``, whose own thresholds do not matter.

    pictures: with defects, for steps 1 and 2, kept in memory (about 1 MB each). sound: without; only their regions are
    kept. known: others for step 3, so that the scores come from regions the thresholds were not chosen on; read until
    every type has enough. Pictures that the gate refuses are passed over.
    """
    answers = [_slim(answer(engine, picture)) for picture in pictures if passes_gate(picture)]
    quiet = [_defect_logits(engine, picture) for picture in sound if passes_gate(picture)]
    rough = fit_sigmoid(*_histogram(answers, lambda one: one.visible != IGNORED))
    cut = _hysteresis(answers, [logits for logits, _ in quiet], rough, limits)
    cut = _own_seeds(answers, quiet, rough, limits, cut, len(engine.bundle.types))
    temperature, bias = fit_sigmoid(*_histogram(answers, lambda one: _near_marks(one, cut)))
    bias = _balanced(answers, cut, temperature, bias)
    return thresholds_document(engine, temperature, bias, cut, known, groups)


def thresholds_document(
    engine: Engine, temperature: float, bias: float, cut: Cut, known: Iterable[Radiograph],
    groups: Sequence[Sequence[str]] = (),
) -> dict[str, Any]:  # fmt: skip
    """thresholds.json for a calibration and a cut, with known scores from the pictures ``known``."""
    document: dict[str, Any] = {
        "temperature": round(temperature, 5),
        "bias": round(bias, 5),
        # Below 1 however large the logit: a threshold of exactly 1 is none, and the bundle's reader refuses it.
        "seed": min(round(sigmoid(cut.seed / temperature + bias), 7), 1.0 - 1e-6),
        "grow": min(round(sigmoid(cut.grow / temperature + bias), 7), 1.0 - 1e-6),
        "min_region_px": cut.least_px,
        "unknown_alpha": _UNKNOWN_ALPHA,
    }
    if cut.seeds:
        document["type_seeds"] = {
            name: min(round(sigmoid(seed / temperature + bias), 7), 1.0 - 1e-6)
            for name, seed in zip(engine.bundle.types, cut.seeds, strict=True)
        }
    thresholds = Thresholds(
        document["temperature"], document["bias"], document["seed"], document["grow"], cut.least_px, _UNKNOWN_ALPHA,
        {}, 0.0, 100.0, document.get("type_seeds", {}),
    )  # fmt: skip
    gate = {"min_contrast": MIN_CONTRAST, "max_clipped_pct": MAX_CLIPPED_PCT}
    return {**document, "known_scores": known_scores(engine, known, thresholds, groups), "gate": gate}


def sigmoid(value: float) -> float:
    """The share in (0, 1) of a logit."""
    return 1.0 / (1.0 + math.exp(-value))


def logit(p: float) -> float:
    """The logit of a share in (0, 1)."""
    return math.log(p / (1.0 - p))


def _slim(one: Answer) -> Answer:
    """Without the type logits, which are most of it."""
    slim = Tensors(one.tensors.defect, one.tensors.type[:, :0].copy(), one.tensors.type_stride_px)
    return Answer(one.picture, slim, one.visible, one.named)


def _defect_logits(engine: Engine, picture: Radiograph) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """(defect logits, likeliest type of each cell)."""
    spec = engine.bundle.input
    planes = prepare(picture.pixels, spec.views, spec.local_sigma_px)
    tensors = run_tiled(engine.infer, planes, spec)
    return np.asarray(tensors.defect[0, 0], np.float16), tensors.type[0].argmax(axis=0).astype(np.uint8)


def _histogram(
    answers: Sequence[Answer], counted: Callable[[Answer], NDArray[np.bool_]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    counts, defects = np.zeros(len(_BINS) - 1), np.zeros(len(_BINS) - 1)
    for one in answers:
        # Pixels at the border of something invisible are neither; all others count, sound pictures too.
        logits = np.clip(one.tensors.defect[0, 0], _BINS[0], _BINS[-1] - 1e-3)
        here = counted(one)
        counts += np.histogram(logits[here], _BINS)[0]
        defects += np.histogram(logits[here & (one.visible > 0) & (one.visible != IGNORED)], _BINS)[0]
    return counts, defects, (_BINS[1:] + _BINS[:-1]) / 2


@dataclass(frozen=True, slots=True)
class Cut:
    """From logits to regions: seed and grow as logits, and the least size of a region. seeds: of each type, where they
    have their own; ``seed`` is then the lowest of them."""

    seed: float
    grow: float
    least_px: int
    seeds: tuple[float, ...] = ()

    def marks(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """bool (H, W): the pixels of the regions."""
        count, components = cv2.connectedComponents((logits >= self.grow).astype(np.uint8), connectivity=8)
        flat = np.asarray(components, np.intp).reshape(-1)
        peak = np.full(count, -np.inf, np.float32)
        np.maximum.at(peak, flat, logits.reshape(-1))
        keep = (peak >= self.seed) & (np.bincount(flat, minlength=count) >= self.least_px)
        keep[0] = False
        return np.asarray(keep[flat].reshape(logits.shape), np.bool_)


def _near_marks(one: Answer, cut: Cut) -> NDArray[np.bool_]:
    near = dilated(cut.marks(one.tensors.defect[0, 0]), _NEAR_PX)
    return np.asarray(near & (one.visible != IGNORED), np.bool_)


def _balanced(answers: Sequence[Answer], cut: Cut, temperature: float, bias: float) -> float:
    """The bias at which the summed coverage of what is marked meets the true area, on average over the indications that
    were found, have a radius of at least 3 px and no other within 3 px."""
    spots: list[tuple[NDArray[np.float32], int]] = []
    for one in answers:
        logits = one.tensors.defect[0, 0]
        marks = cut.marks(logits)
        seen = (one.visible > 0) & (one.visible != IGNORED)
        count, image, statistics, _ = cv2.connectedComponentsWithStats(seen.astype(np.uint8), connectivity=8)
        for number in range(1, count):
            area = int(statistics[number, cv2.CC_STAT_AREA])
            if area < math.pi * 9.0:
                continue
            window = _around(statistics[number], 2 * _NEAR_PX, seen.shape)
            spot = image[window] == number
            near = dilated(spot, _NEAR_PX)
            if (one.picture.labels[window] > 0)[near & ~spot].any() or marks[window][spot].mean() < FOUND_SHARE:
                continue
            spots.append((logits[window][near & marks[window]], area))
    if len(spots) < 20:
        return bias

    def surplus(at: float) -> float:
        return float(np.mean([np.sum(1.0 / (1.0 + np.exp(-(z / temperature + at)))) / area - 1.0 for z, area in spots]))

    low, high = bias - _MOST_SHIFT, bias + _MOST_SHIFT
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if surplus(middle) > 0 else (middle, high)
    return (low + high) / 2


def _around(statistics: NDArray[np.int32], margin_px: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    x, y, width, height = (int(value) for value in statistics[:4])
    return (slice(max(y - margin_px, 0), min(y + height + margin_px, shape[0])),
            slice(max(x - margin_px, 0), min(x + width + margin_px, shape[1])))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Grown:
    """One picture cut at one grow threshold: what is needed to try any seed and least size without its pixels.

    Per component (0 is the background): peak logit, area_px, near any truth, seen_px and counted_px on and off what
    is visible, the likeliest type. Per visible spot: its type and size. shared: (spot, component, pixels) of their
    overlaps.
    """

    peak: NDArray[np.float32]
    area_px: NDArray[np.int64]
    near: NDArray[np.bool_]
    seen_px: NDArray[np.int64]
    counted_px: NDArray[np.int64]
    spot_type: NDArray[np.uint8]
    spot_px: NDArray[np.int64]
    kind: NDArray[np.int64]
    shared: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _grown(one: Answer, grow: float) -> _Grown:
    logits = one.tensors.defect[0, 0]
    count, image = cv2.connectedComponents((logits >= grow).astype(np.uint8), connectivity=8)
    component = image.reshape(-1).astype(np.int64)
    visible = one.visible.reshape(-1)
    seen, counted = (visible > 0) & (visible != IGNORED), visible != IGNORED
    peak = np.full(count, -np.inf, np.float32)
    np.maximum.at(peak, component, logits.reshape(-1))
    spots, spot_image = cv2.connectedComponents(seen.reshape(image.shape).astype(np.uint8), connectivity=8)
    spot = spot_image.reshape(-1)[seen].astype(np.int64) - 1
    spot_type = np.zeros(spots - 1, np.uint8)
    spot_type[spot] = visible[seen]
    pair, shared_px = np.unique(spot * count + component[seen], return_counts=True)
    return _Grown(
        peak,
        np.bincount(component, minlength=count),
        np.bincount(component[near_truth(one.picture).reshape(-1)], minlength=count) > 0,
        np.bincount(component[seen], minlength=count),
        np.bincount(component[counted], minlength=count),
        spot_type,
        np.bincount(spot, minlength=spots - 1),
        _kinds(component, image.shape[1], count, one.named),
        (pair // count, pair % count, shared_px),
    )


def _kinds(
    component: NDArray[np.int64], width: int, count: int, named: NDArray[np.uint8] | None
) -> NDArray[np.int64]:  # fmt: skip
    """The type that most pixels of each component are likeliest to be."""
    if named is None:
        return np.zeros(count, np.int64)
    marked = np.flatnonzero(component)
    y, x = np.divmod(marked, width)
    stride = -(-width // named.shape[1])
    types = int(named.max()) + 1
    votes = np.bincount(component[marked] * types + named[y // stride, x // stride], minlength=count * types)
    return np.asarray(votes.reshape(count, types).argmax(axis=1), np.int64)


def _try(pictures: Sequence[_Grown], seed: float | NDArray[np.float64], least_px: int) -> tuple[float, float, float]:
    """(false regions per picture, mean over types of the recall of visible spots, overlap of defect or not)."""
    false = both = either = 0
    found, total = np.zeros(256), np.zeros(256)
    for one in pictures:
        own = seed if isinstance(seed, float) else seed[one.kind]
        keep = (one.peak >= own) & (one.area_px >= least_px)
        keep[0] = False
        false += int((keep & ~one.near).sum())
        hit = int(one.seen_px[keep].sum())
        both += hit
        either += int(one.seen_px.sum()) + int(one.counted_px[keep].sum()) - hit
        spot, component, shared_px = one.shared
        marked_px = np.bincount(spot, shared_px * keep[component], minlength=len(one.spot_px))
        found += np.bincount(one.spot_type, marked_px >= FOUND_SHARE * one.spot_px, minlength=256)
        total += np.bincount(one.spot_type, minlength=256)
    recall = float(np.mean(found[total > 0] / total[total > 0])) if total.any() else 0.0
    return false / max(len(pictures), 1), recall, both / max(either, 1)


def _loudest(logits: NDArray[np.float16], grow: float) -> list[tuple[float, int]]:
    """(peak logit, size in px) of the regions of a sound picture."""
    values = logits.astype(np.float32)
    count, image, statistics, _ = cv2.connectedComponentsWithStats((values >= grow).astype(np.uint8), connectivity=8)
    peak = np.full(count, -np.inf, np.float32)
    np.maximum.at(peak, image.reshape(-1).astype(np.intp), values.reshape(-1))
    return [(float(peak[k]), int(statistics[k, cv2.CC_STAT_AREA])) for k in range(1, count)]


def _hysteresis(
    answers: Sequence[Answer], quiet: Sequence[NDArray[np.float16]], rough: tuple[float, float], limits: Limits
) -> Cut:
    """The best cut within the limits; rough: (temperature, bias) that turn the grid of coverages into logits."""
    temperature, bias = rough
    best: tuple[float, Cut] | None = None
    for grow_share in _GROWS:
        grow = (logit(grow_share) - bias) * temperature
        pictures = [_grown(one, grow) for one in answers]
        regions = [_loudest(logits, grow) for logits in quiet]
        for least_px in _LEAST_PX:
            loud = np.array([max((peak for peak, px in one if px >= least_px), default=-np.inf) for one in regions])
            for seed_share in _SEEDS:
                seed = (logit(seed_share) - bias) * temperature
                if seed < grow or (len(loud) and (loud >= seed).mean() > limits.false_per_sound):
                    continue
                false, recall, overlap = _try(pictures, seed, least_px)
                value = recall + 0.5 * overlap
                if false <= limits.false_per_picture and (best is None or value > best[0]):
                    best = (value, Cut(seed, grow, least_px))
    if best is not None:
        return best[1]
    # A network that raises too much at every threshold gets the strictest; its certificate will say so.
    strictest = [(logit(share) - bias) * temperature for share in (_SEEDS[-1], _GROWS[-1])]
    return Cut(strictest[0], strictest[1], _LEAST_PX[-1])


def _own_seeds(
    answers: Sequence[Answer], quiet: Sequence[tuple[NDArray[np.float16], NDArray[np.uint8]]],
    rough: tuple[float, float], limits: Limits, cut: Cut, types: int,
) -> Cut:  # fmt: skip
    """The cut with a seed for each type, if that gains anything within the same limits."""
    temperature, bias = rough
    pictures = [_grown(one, cut.grow) for one in answers]
    sound = [_quiet_regions(logits, named, cut) for logits, named in quiet]
    grid = sorted({(logit(share) - bias) * temperature for share in _SEEDS} | {cut.seed})
    grid = [seed for seed in grid if seed >= cut.grow]

    def figures(places: NDArray[np.intp]) -> tuple[float, float]:
        """(gain, cost as a share of what is allowed) of a place in the grid for each type."""
        seeds = np.array(grid)[places]
        false, recall, overlap = _try(pictures, seeds, cut.least_px)
        loud = sum(bool((peak >= seeds[kind]).any()) for peak, kind in sound) / max(len(sound), 1)
        cost = max(false / max(limits.false_per_picture, 1e-9), loud / max(limits.false_per_sound, 1e-9))
        return recall + 0.5 * overlap, cost

    places = np.full(types, len(grid) - 1)
    gain, cost = figures(places)
    while True:
        best: tuple[float, int, int, float, float] | None = None
        for kind in range(types):
            # A step may cost without gaining what the next ones gain.
            for down in range(1, int(places[kind]) + 1):
                tried = places.copy()
                tried[kind] -= down
                value, price = figures(tried)
                if price > 1.0:
                    break  # the lower the seed, the more false regions
                ratio = (value - gain) / max(price - cost, 1e-4)
                if best is None or ratio > best[0]:
                    best = (ratio, kind, down, value, price)
        if best is None or best[0] <= 0.0:
            break
        _, kind, down, gain, cost = best
        places[kind] -= down
    _, recall, overlap = _try(pictures, cut.seed, cut.least_px)
    if gain <= recall + 0.5 * overlap:
        return cut
    seeds = tuple(float(grid[place]) for place in places)
    return Cut(min(seeds), cut.grow, cut.least_px, seeds)


def _quiet_regions(
    logits: NDArray[np.float16], named: NDArray[np.uint8], cut: Cut
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:  # fmt: skip
    """(peak, likeliest type) of the regions of a sound picture that are large enough."""
    values = logits.astype(np.float32)
    count, image = cv2.connectedComponents((values >= cut.grow).astype(np.uint8), connectivity=8)
    component = image.reshape(-1).astype(np.int64)
    peak = np.full(count, -np.inf, np.float32)
    np.maximum.at(peak, component, values.reshape(-1))
    large = np.bincount(component, minlength=count) >= cut.least_px
    large[0] = False
    return peak[large], _kinds(component, values.shape[1], count, named)[large]


def known_scores(
    engine: Engine, pictures: Iterable[Radiograph], thresholds: Thresholds, groups: Sequence[Sequence[str]] = ()
) -> dict[str, list[float]]:
    """Scores of the regions that lie on something visible, by the type the network gave them: the taxonomy under which
    the line asks the question. Reads pictures until every type has enough, or they end."""
    rng = np.random.default_rng(0)
    types = engine.bundle.types
    scores: dict[str, list[float]] = {name: [] for name in types}
    for picture in _until(pictures, lambda: min(map(len, scores.values())) >= _KNOWN_PER_TYPE):
        if not passes_gate(picture):
            continue
        one = answer(engine, picture)
        coverage = coverage_from_logits(one.tensors.defect[0, 0], thresholds)
        blobs = find_blobs(coverage, one.tensors.type[0], thresholds, one.tensors.type_stride_px)
        seen = ((one.visible > 0) & (one.visible != IGNORED)).reshape(-1)[blobs.pixels]
        on_truth = np.bincount(blobs.region_of_pixel[seen], minlength=len(blobs.type_share)) > 0
        names = name_regions(blobs.type_share, types, groups)
        own = [thresholds.type_seeds.get(types[kind], 0.0) for kind, _, _ in names]
        on_truth &= blobs.peak >= np.array(own)
        taken = dict.fromkeys(types, 0)
        for region in rng.permutation(np.flatnonzero(on_truth)):
            kind, _, strangeness = names[int(region)]
            name = types[kind]
            if taken[name] < _KNOWN_PER_PICTURE:
                taken[name] += 1
                scores[name].append(max(strangeness, 0.0))
    return {
        # Rounded up: a region exactly as strange as the strangest known one stays known.
        name: [float(np.ceil(score * 1e6) / 1e6) for score in sorted(_subset(rng, values))]
        for name, values in scores.items()
        if values
    }


def _until(pictures: Iterable[Radiograph], enough: Callable[[], bool]) -> Iterator[Radiograph]:
    for picture in pictures:
        yield picture
        if enough():
            return


def _subset(rng: np.random.Generator, values: list[float]) -> list[float]:
    return (
        values
        if len(values) <= _KNOWN_PER_TYPE
        else [values[k] for k in rng.permutation(len(values))[:_KNOWN_PER_TYPE]]
    )
