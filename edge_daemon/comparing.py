"""Part against reference when both are label images: what ``judge`` does, without any engine. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .inspection import type_document
from .judge import Measurement, Rule, RuleKind, Scale, TypeMeasurement, judge, limits_of, measure
from .records import UNKNOWN_LABEL

__all__ = ["judge_labels"]

_NAMES = tuple(f"label_{label}" for label in range(1, UNKNOWN_LABEL))


def _averaged(
    labels: NDArray[np.uint8], label: int, scale: Scale, coarse_mm_per_px: float
) -> tuple[NDArray[Any], Scale]:
    """Share of each coarse pixel that the label covers, float32, and the exact scale of the whole-pixel size."""
    height, width = labels.shape
    new_w = max(1, round(width * scale.x_mm_per_px / coarse_mm_per_px))
    new_h = max(1, round(height * scale.y_mm_per_px / coarse_mm_per_px))
    share = cv2.resize((labels == label).astype(np.float32), (new_w, new_h), interpolation=cv2.INTER_AREA)
    sx, sy = scale.x_mm_per_px * width / new_w, scale.y_mm_per_px * height / new_h
    return np.clip(share, 0.0, 1.0), Scale(sx, sy, scale.relative_u * min(sx, sy))


def _measured(
    labels: NDArray[np.uint8], scale: Scale, windows_mm: Sequence[float], coarse_mm_per_px: float
) -> Measurement:
    """Sizes from the label image as it is; windows at the coarser scale of the two, where this one is finer."""
    windows: Mapping[str, Sequence[float]] = dict.fromkeys(_NAMES, windows_mm)
    native = measure(labels, None, _NAMES, scale, windows)
    if scale.x_mm_per_px >= coarse_mm_per_px * (1.0 - 1e-6):
        return native
    types: dict[str, TypeMeasurement] = {}
    image_px = native.image_px
    for name, found in native.types.items():
        share, coarse = _averaged(labels, found.label, scale, coarse_mm_per_px)
        image_px = share.shape[1], share.shape[0]
        marked = np.where(share > 0, np.uint8(1), np.uint8(0))
        averaged = measure(marked, share, (name,), coarse, windows).types.get(name)
        types[name] = found if averaged is None else replace(found, windows=averaged.windows)
    return Measurement(types, image_px, native.scale)


def judge_labels(
    part: NDArray[np.uint8],
    part_scale: Scale,
    reference: NDArray[np.uint8],
    reference_scale: Scale,
    *,
    windows_mm: Sequence[float],
    tolerance: float = 0.0,
    guard: float = 1.0,
) -> dict[str, Any]:
    """Judge a label image against another; returns the object of ``judge --json``.

    part, reference: uint8 (H, W), 0 sound, 1..254 types, 255 unknown (INCONCLUSIVE at best in the part; sets no limit
    in the reference). Sizes may differ. A type without reference pixels has limit 0 and ratio null: any of it fails.
    """
    coarse = max(*part_scale.both, *reference_scale.both)
    known_reference = np.where(reference == UNKNOWN_LABEL, np.uint8(0), reference).astype(np.uint8)
    part_measured = _measured(part, part_scale, windows_mm, coarse)
    limits_measured = _measured(known_reference, reference_scale, windows_mm, coarse)
    labels = sorted(int(one) for one in np.union1d(np.unique(part), np.unique(known_reference)) if 0 < one < 255)
    rules = [
        Rule(_NAMES[label - 1], RuleKind.LEVEL, 1, windows_mm=tuple(windows_mm), tolerance=tolerance, guard=guard)
        for label in labels
    ]
    limits = {rule.type: limits_of(limits_measured.of(rule.type, windows_mm)) for rule in rules}
    if not rules and not (part == UNKNOWN_LABEL).any():
        # Nothing in the part and nothing in the reference: nothing can be exceeded.
        return {"result": "PASS", "outcome": "PASS", "reasons": [], "types": []}
    # A part of unknown marks only still needs a rule set that is not empty to be judged at all.
    verdict = judge(part_measured, rules or [Rule(_NAMES[0], RuleKind.NONE_PERMITTED)], limits)
    types = []
    for one in verdict.types:
        if not rules and one.type == _NAMES[0]:
            continue
        label = UNKNOWN_LABEL if one.type == "unknown" else _NAMES.index(one.type) + 1
        reasons = [{"code": reason.code, "text": reason.text} for reason in one.reasons]
        types.append({**type_document(one), "label": label, "reasons": reasons})
    return {
        "result": verdict.result,
        "outcome": str(verdict.outcome),
        "reasons": [{"code": reason.code, "text": reason.text} for reason in verdict.reasons],
        "types": types,
    }
