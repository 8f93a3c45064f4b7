"""From a trained network to a bundle's thresholds, on pictures it has never seen.

1. coverage = sigmoid(logit / temperature + bias), by maximum likelihood over all pixels: summed coverage is area.
2. Hysteresis: of all (seed, grow, min_region_px) that raise at most a tenth of a false region per picture, the one with
   the best recall, mean over types, and overlap with the truth.
3. Known scores: what regions of known types look like, for the conformal "I was not trained on this".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..segment.bundle import Thresholds
from ..segment.prepare import prepare
from ..segment.protocol import Engine, Tensors
from ..segment.see import contrast_and_clipped_pct, coverage_from_logits, find_blobs
from ..segment.tiling import run_tiled
from ..simulator import Radiograph
from .pictures import IGNORED, draw_picture, visible_labels

__all__ = ["FOUND_SHARE", "Answer", "answer", "calibrate", "fit_sigmoid", "near_truth"]

_BINS = np.linspace(-24.0, 24.0, 2401)
#: An indication is found when this share of its visible pixels is marked.
FOUND_SHARE = 0.25

_SEEDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
_GROWS = (0.25, 0.3, 0.35, 0.4, 0.5)
_LEAST_PX = (3, 5, 8, 12)
_FALSE_PER_PICTURE = 0.1
# The image gate: a flat plate shows three grey levels of noise, and casting outlines stand in burnt-out air.
_MIN_CONTRAST, _MAX_CLIPPED_PCT = 0.012, 60.0
_KNOWN_PER_TYPE = 200
# Regions of one picture resemble each other; more of them would pretend to more independent scores than there are.
_KNOWN_PER_PICTURE = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """One picture, the raw logits for it, and what could be seen in it (uint8 (H, W), IGNORED where nothing could)."""

    picture: Radiograph
    tensors: Tensors
    visible: NDArray[np.uint8]


def answer(engine: Engine, picture: Radiograph) -> Answer:
    """Run the network as the line does, without thresholds."""
    spec = engine.bundle.input
    planes = prepare(picture.pixels, spec.views, spec.local_sigma_px)
    return Answer(picture, run_tiled(engine.infer, planes, spec), visible_labels(picture))


def _slim(one: Answer) -> Answer:
    """Without the type logits, which are most of it."""
    return Answer(one.picture, Tensors(one.tensors.defect, one.tensors.type[:, :0].copy()), one.visible)


def near_truth(picture: Radiograph, within_px: int = 2) -> NDArray[np.bool_]:
    """Pixels at most ``within_px`` from any discontinuity, visible or not: a region that touches them is not false."""
    side = 2 * within_px + 1
    return cv2.dilate((picture.labels > 0).astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)


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


def calibrate(engine: Engine, seeds: Sequence[int], known_seeds: Sequence[int]) -> dict[str, Any]:
    """The document thresholds.json for ``engine``, whose own thresholds do not matter.

    seeds: of the pictures for steps 1 and 2, all kept in memory (about 2 MB each). known_seeds: of other pictures for
    step 3, so that the scores come from regions the thresholds were not chosen on; read until every type has enough.
    """
    drawn = (draw_picture(seed) for seed in seeds)
    answers = [_slim(answer(engine, picture)) for picture in drawn if _passes_gate(picture)]
    temperature, bias = fit_sigmoid(*_histogram(answers))
    seed, grow, least_px = _hysteresis(answers, temperature, bias)
    thresholds = _thresholds(temperature, bias, seed, grow, least_px)
    return {
        "temperature": round(temperature, 5),
        "bias": round(bias, 5),
        "seed": seed,
        "grow": grow,
        "min_region_px": least_px,
        "unknown_alpha": 0.01,
        "known_scores": _known_scores(engine, known_seeds, thresholds),
        "gate": {"min_contrast": _MIN_CONTRAST, "max_clipped_pct": _MAX_CLIPPED_PCT},
    }


def _passes_gate(picture: Radiograph) -> bool:
    contrast, clipped_pct = contrast_and_clipped_pct(picture.pixels)
    return contrast >= _MIN_CONTRAST and clipped_pct <= _MAX_CLIPPED_PCT


def _thresholds(temperature: float, bias: float, seed: float, grow: float, least_px: int) -> Thresholds:
    return Thresholds(temperature, bias, seed, grow, least_px, 0.01, {}, 0.0, 100.0)


def _histogram(answers: Sequence[Answer]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    counts, defects = np.zeros(len(_BINS) - 1), np.zeros(len(_BINS) - 1)
    for one in answers:
        # Pixels at the border of something invisible are neither; all others count, sound pictures too.
        logits = np.clip(one.tensors.defect[0, 0], _BINS[0], _BINS[-1] - 1e-3)
        counts += np.histogram(logits[one.visible != IGNORED], _BINS)[0]
        defects += np.histogram(logits[(one.visible > 0) & (one.visible != IGNORED)], _BINS)[0]
    return counts, defects, (_BINS[1:] + _BINS[:-1]) / 2


@dataclass(frozen=True, slots=True)
class _Grown:
    """One picture cut at one grow threshold: what is needed to try any seed and least size without its pixels.

    Per component (0 is the background): peak coverage, area_px, near any truth, seen_px and counted_px on and off what
    is visible. Per visible spot: its type and size. shared: (spot, component, pixels) of their overlaps.
    """

    peak: NDArray[np.float32]
    area_px: NDArray[np.int64]
    near: NDArray[np.bool_]
    seen_px: NDArray[np.int64]
    counted_px: NDArray[np.int64]
    spot_type: NDArray[np.uint8]
    spot_px: NDArray[np.int64]
    shared: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _grown(one: Answer, coverage: NDArray[np.float32], grow: float) -> _Grown:
    count, image = cv2.connectedComponents((coverage >= grow).astype(np.uint8), connectivity=8)
    component = image.reshape(-1).astype(np.int64)
    visible = one.visible.reshape(-1)
    seen, counted = (visible > 0) & (visible != IGNORED), visible != IGNORED
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, component, coverage.reshape(-1))
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
        (pair // count, pair % count, shared_px),
    )


def _try(pictures: Sequence[_Grown], seed: float, least_px: int) -> tuple[float, float, float]:
    """(false regions per picture, mean over types of the recall of visible spots, overlap of defect or not)."""
    false = both = either = 0
    found, total = np.zeros(256), np.zeros(256)
    for one in pictures:
        keep = (one.peak >= seed) & (one.area_px >= least_px)
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
    return false / len(pictures), recall, both / max(either, 1)


def _hysteresis(answers: Sequence[Answer], temperature: float, bias: float) -> tuple[float, float, int]:
    best: tuple[float, tuple[float, float, int]] | None = None
    plain = _thresholds(temperature, bias, 0.5, 0.5, 1)
    for grow in _GROWS:
        pictures = [_grown(one, coverage_from_logits(one.tensors.defect[0, 0], plain), grow) for one in answers]
        for seed in _SEEDS:
            for least_px in _LEAST_PX:
                false, recall, overlap = _try(pictures, seed, least_px)
                value = recall + 0.5 * overlap
                if false <= _FALSE_PER_PICTURE and (best is None or value > best[0]):
                    best = (value, (seed, grow, least_px))
    # A network that raises too much at every threshold gets the strictest; its certificate will say so.
    return best[1] if best is not None else (_SEEDS[-1], _GROWS[-1], _LEAST_PX[-1])


def _known_scores(engine: Engine, seeds: Sequence[int], thresholds: Thresholds) -> dict[str, list[float]]:
    """Scores of the regions that lie on something visible, by the type the network gave them: the taxonomy under which
    the line asks the question."""
    rng = np.random.default_rng(0)
    types = engine.bundle.types
    scores: dict[str, list[float]] = {name: [] for name in types}
    for seed in seeds:
        if min(map(len, scores.values())) >= _KNOWN_PER_TYPE:
            break
        picture = draw_picture(seed)
        if not _passes_gate(picture):
            continue
        one = answer(engine, picture)
        coverage = coverage_from_logits(one.tensors.defect[0, 0], thresholds)
        blobs = find_blobs(coverage, one.tensors.type[0], thresholds)
        seen = ((one.visible > 0) & (one.visible != IGNORED)).reshape(-1)[blobs.pixels]
        on_truth = np.bincount(blobs.region_of_pixel[seen], minlength=len(blobs.type_share)) > 0
        taken = dict.fromkeys(types, 0)
        for region in rng.permutation(np.flatnonzero(on_truth)):
            share = blobs.type_share[region]
            name = types[int(share.argmax())]
            if taken[name] < _KNOWN_PER_PICTURE:
                taken[name] += 1
                scores[name].append(1.0 - float(share.max()))
    return {
        # Rounded up: a region exactly as strange as the strangest known one stays known.
        name: [float(np.ceil(score * 1e6) / 1e6) for score in sorted(_subset(rng, values))]
        for name, values in scores.items()
        if values
    }


def _subset(rng: np.random.Generator, values: list[float]) -> list[float]:
    return (
        values
        if len(values) <= _KNOWN_PER_TYPE
        else [values[k] for k in rng.permutation(len(values))[:_KNOWN_PER_TYPE]]
    )
