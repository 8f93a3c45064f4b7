"""Boxes found against boxes drawn: average precision, and hits at a stated rate of false alarms.

Types do not matter here: a defect found under a wrong name is found. Boxes are (x, y, width, height) in px.

* A prediction **matches** a box for average precision when their intersection over union reaches the level; each box
  takes one prediction only, the one with the highest confidence, further ones are false (as PASCAL VOC and COCO count).
* A prediction **hits** a box when its centre lies in the box or their intersection over union is at least 0.25; several
  may hit one box and none of them is false. This is the question a line asks, and boxes drawn with a margin ask for.
* What matches or hits only an ignored box is neither right nor false.

Not covered: outlines; a box hit says nothing about how well the area is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..segment.bundle import Thresholds
from ..segment.see import find_blobs

__all__ = ["HIT_IOU", "LOWEST", "Detections", "average_precision", "candidates", "froc", "hits", "overlaps"]

#: A prediction whose centre lies outside the box still hits it from this intersection over union on.
HIT_IOU = 0.25
#: Regions whose coverage stays below this are not ranked at all.
LOWEST = 0.05

Boxes = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Detections:
    """One picture. found: (N, 4), with confidence (N,). truth: (M, 4). ignored: (J, 4)."""

    found: Boxes
    confidence: NDArray[np.float64]
    truth: Boxes
    ignored: Boxes


def overlaps(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Intersection over union of every pair, (N, M) in [0, 1]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum((first[:, :2] + first[:, 2:])[:, None], (second[:, :2] + second[:, 2:])[None])
    both = np.clip(high - low, 0.0, None).prod(axis=2)
    either = first[:, 2:].prod(axis=1)[:, None] + second[:, 2:].prod(axis=1)[None] - both
    return np.asarray(both / np.maximum(either, 1e-12))


def _centre_inside(found: Boxes, truth: Boxes) -> NDArray[np.bool_]:
    centre = (found[:, :2] + found[:, 2:] / 2.0)[:, None]
    inside = (centre >= truth[None, :, :2]) & (centre <= (truth[:, :2] + truth[:, 2:])[None])
    return np.asarray(inside.all(axis=2))


def hits(found: Boxes, truth: Boxes) -> NDArray[np.bool_]:
    """Which prediction hits which box, (N, M); the rule stands at the top of this file."""
    return np.asarray(_centre_inside(found, truth) | (overlaps(found, truth) >= HIT_IOU))


def _any(pairs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(pairs.any(axis=1))


def candidates(coverage: NDArray[np.float32], thresholds: Thresholds) -> tuple[Boxes, NDArray[np.float64]]:
    """(boxes, confidences) of everything that could be called a region if the seed threshold were lowered to LOWEST.

    Above the grow threshold: its connected regions, whatever their peak. Below: regions at LOWEST that never reach it.
    Confidence is the mean coverage of a region, as on the line. coverage: float32 (H, W).
    """
    no_types = np.zeros((1, *coverage.shape), np.float32)
    grow = thresholds.grow
    blobs = find_blobs(coverage, no_types, replace(thresholds, seed=grow))
    boxes, confidence = [blobs.bbox_px], [blobs.confidence]
    if grow > LOWEST:
        weak = find_blobs(coverage, no_types, replace(thresholds, seed=LOWEST, grow=LOWEST))
        peak = np.zeros(len(weak.confidence), np.float32)
        np.maximum.at(peak, weak.region_of_pixel, coverage.reshape(-1)[weak.pixels])
        below = peak < np.float32(grow)
        boxes.append(weak.bbox_px[below])
        confidence.append(weak.confidence[below])
    return np.concatenate(boxes).astype(np.float64).reshape(-1, 4), np.concatenate(confidence).astype(np.float64)


def average_precision(pictures: Sequence[Detections], iou: float) -> float | None:
    """Area under precision over recall, precision made monotone, at every recall reached (VOC 2010 and later, COCO
    without its 101-point grid). None where there is nothing to find."""
    total = sum(len(one.truth) for one in pictures)
    if not total:
        return None
    ranked = sorted(
        ((-score, number, index) for number, one in enumerate(pictures) for index, score in enumerate(one.confidence))
    )
    shared = [overlaps(one.found, one.truth) for one in pictures]
    excused = [
        _any(_centre_inside(one.found, one.ignored) | (overlaps(one.found, one.ignored) >= iou)) for one in pictures
    ]
    free = [np.ones(len(one.truth), bool) for one in pictures]
    right: list[bool] = []
    for _, number, index in ranked:
        value = np.where(free[number], shared[number][index], -1.0)
        best = int(value.argmax()) if len(value) else -1
        if best >= 0 and value[best] >= iou:
            free[number][best] = False
            right.append(True)
        elif not excused[number][index]:
            right.append(False)
    if not right:
        return 0.0
    correct = np.cumsum(right)
    precision = correct / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[np.array(right)].sum() / total)


def froc(pictures: Sequence[Detections], false_per_picture: float) -> tuple[int, int]:
    """(boxes hit, boxes) at the lowest confidence threshold with at most this many false alarms a picture, pictures
    without a defect included. Predictions of equal confidence stand or fall together."""
    best: list[float] = []
    false: list[float] = []
    for one in pictures:
        hit = hits(one.found, one.truth)
        best += np.where(hit, one.confidence[:, None], -np.inf).max(axis=0, initial=-np.inf).tolist()
        wrong = ~_any(hit) & ~_any(hits(one.found, one.ignored))
        false += one.confidence[wrong].tolist()
    false.sort(reverse=True)
    allowed = int(false_per_picture * len(pictures) + 1e-9)
    above = false[allowed] if len(false) > allowed else 0.0
    return sum(score > above for score in best), len(best)
