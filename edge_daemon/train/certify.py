"""What a bundle can do, measured through the line's own path on pictures nobody tuned anything on.

Intervals are Clopper-Pearson at 95 % over *independent* draws: from each picture and type one visible indication
counts, drawn at random, since the pores of one field are found or missed together. Not covered: real radiographs.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..judge.indications import outline_mm
from ..records import Segmentation
from ..segment.bundle import load
from ..segment.onnx import OnnxEngine
from ..segment.protocol import Engine
from ..segment.see import see
from ..simulator import CASTING_TYPES, Radiograph, conveyor_part
from .calibrate import FOUND_SHARE, near_truth
from .pictures import IGNORED, draw_picture, visible_labels

__all__ = ["clopper_pearson", "evaluate_bundle", "evaluate_conveyor", "machine"]


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a proportion (Clopper & Pearson, Biometrika 26 (1934) 404); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    tail = (1.0 - confidence) / 2.0

    def at_most(k: int, p: float) -> float:
        """P(X <= k) of Binomial(trials, p)."""
        if k < 0 or p >= 1.0:
            return 0.0 if k < trials else 1.0
        if k >= trials or p <= 0.0:
            return 1.0
        log_n = math.lgamma(trials + 1)
        logs = [
            log_n - math.lgamma(i + 1) - math.lgamma(trials - i + 1) + i * math.log(p) + (trials - i) * math.log1p(-p)
            for i in range(k + 1)
        ]
        top = max(logs)
        return min(1.0, math.exp(top) * math.fsum(math.exp(value - top) for value in logs))

    def solve(k: int, level: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if at_most(k, middle) > level:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    lower = 0.0 if successes == 0 else solve(successes - 1, 1.0 - tail)
    upper = 1.0 if successes == trials else solve(successes, tail)
    return lower, upper


def _proportion(successes: int, trials: int) -> dict[str, Any]:
    low, high = clopper_pearson(successes, trials)
    value = successes / trials if trials else None
    return {"n": trials, "k": successes, "value": None if value is None else round(value, 4),
            "ci95": [round(low, 4), round(high, 4)]}  # fmt: skip


def evaluate_bundle(folder: Path, seeds: Sequence[int], *, threads: int = 2) -> dict[str, Any]:
    """Figures of the bundle on the mixture of pictures, one per seed.

    Per type: ``recall`` of visible indications, ``named_right`` of those found, ``iou`` of its pixels. Over all: mean
    and worst type, false regions per picture, overlap of defect or not, coverage summed within 3 px of what is
    visible over its area (missed or not).
    """
    engine = OnnxEngine(load(folder), threads=threads)
    try:
        return _evaluate(engine, seeds)
    finally:
        engine.close()


def _evaluate(engine: Engine, seeds: Sequence[int]) -> dict[str, Any]:
    types = engine.bundle.types
    hits = {name: [0, 0, 0] for name in types}
    pixels = {name: [0, 0] for name in types}
    false_regions = pictures_with_false = refused = known = unknown = 0
    both = either = true_px = 0
    summed = 0.0
    edges: dict[str, list[float]] = {name: [] for name in types}
    for seed in seeds:
        picture = draw_picture(seed)
        answer = see(engine, picture.pixels, mm_per_px=(picture.mm_per_px,), polarity="bright_void")
        if answer.refusals or answer.coverage is None:
            refused += 1
            continue
        visible = visible_labels(picture)
        counted = visible != IGNORED
        seen, marked = (visible > 0) & counted, answer.labels > 0
        false = _false_regions(picture, answer)
        false_regions += false
        pictures_with_false += int(false > 0)
        known += sum(region.known for region in answer.regions)
        unknown += sum(not region.known for region in answer.regions)
        both += int((seen & marked).sum())
        either += int(((seen | marked) & counted).sum())
        true_px += int(seen.sum())
        around = cv2.dilate(seen.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & counted
        summed += float(answer.coverage[around].sum())
        for name in types:
            label, own = CASTING_TYPES.index(name) + 1, types.index(name) + 1
            truth, given = visible == label, answer.labels == own
            pixels[name][0] += int((truth & given).sum())
            pixels[name][1] += int(((truth | given) & counted).sum())
            error_px = _edge_error_px(truth, visible > 0, answer)
            if error_px is not None:
                edges[name].append(error_px)
            found = _one_indication(seed, truth, answer, own)
            if found is not None:
                for index, value in enumerate((True, *found)):
                    hits[name][index] += value
    count = len(seeds) - refused
    per_type: dict[str, dict[str, Any]] = {
        name: {"recall": _proportion(found, total), "named_right": _proportion(right, found),
               "iou": round(pixels[name][0] / max(pixels[name][1], 1), 4)}
        for name, (total, found, right) in hits.items()
    }  # fmt: skip
    recalls: dict[str, float] = {
        name: figures["recall"]["value"] for name, figures in per_type.items() if figures["recall"]["n"]
    }
    ious: dict[str, float] = {name: figures["iou"] for name, figures in per_type.items()}
    return {
        "pictures": len(seeds),
        "seeds": [min(seeds), max(seeds)],
        "refused": refused,
        "recall_mean": round(float(np.mean(list(recalls.values()))), 4),
        "recall_worst": min(recalls.items(), key=lambda item: item[1]),
        "type_iou_mean": round(float(np.mean(list(ious.values()))), 4),
        "type_iou_worst": min(ious.items(), key=lambda item: item[1]),
        "defect_iou": round(both / max(either, 1), 4),
        "summed_coverage_over_visible_area": round(summed / max(true_px, 1), 4),
        "false_regions_per_picture": round(false_regions / max(count, 1), 4),
        "pictures_with_false_region": _proportion(pictures_with_false, count),
        "regions_called_unknown": _proportion(unknown, known + unknown),
        "types": per_type,
        "edge_px": {name: _edge_figures(errors) for name, errors in edges.items()},
    }


def _edge_error_px(truth: Any, anything: Any, answer: Segmentation) -> float | None:
    """How far out the edges of one type's indications lie in one picture: (measured - true area) / true outline, over
    all that were found and have no other indication within 3 px; None where there is none. Negative: too far in."""
    count, spots = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
    coverage = answer.coverage
    surplus = outline = 0.0
    for number in range(1, count):
        spot = spots == number
        if coverage is None or float((answer.labels[spot] > 0).mean()) < FOUND_SHARE:
            continue
        near = cv2.dilate(spot.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)
        if (anything & near & ~spot).any():
            continue
        surplus += float(coverage[near & (answer.labels > 0)].sum()) - float(spot.sum())
        outline += outline_mm(spot, (1.0, 1.0))
    return surplus / outline if outline else None


def _edge_figures(errors_px: list[float]) -> dict[str, Any]:
    """bias: cancels where a reference is measured by the same engine. std: between pictures, None below five."""
    few = len(errors_px) < 5
    return {
        "n": len(errors_px),
        "bias": None if few else round(float(np.mean(errors_px)), 4),
        "std": None if few else round(float(np.std(errors_px, ddof=1)), 4),
    }


def _one_indication(seed: int, truth: Any, answer: Segmentation, own: int) -> tuple[bool, bool] | None:
    """(found, named right) of one visible indication of a type, drawn at random; None where there is none."""
    count, spots = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
    if count == 1:
        return None
    spot = spots == int(np.random.default_rng([seed, 3, own]).integers(1, count))
    given = answer.labels[spot]
    found = float((given > 0).mean()) >= FOUND_SHARE
    return found, found and int(np.bincount(given[given > 0]).argmax()) == own


def _false_regions(picture: Radiograph, answer: Segmentation) -> int:
    """Marked regions that touch no discontinuity, visible or not."""
    count, components = cv2.connectedComponents((answer.labels > 0).astype(np.uint8), connectivity=8)
    return count - 1 - len(np.unique(components[near_truth(picture) & (components > 0)]))


def evaluate_conveyor(folder: Path, seeds: Sequence[int], *, threads: int = 2) -> dict[str, Any]:
    """The demo's parts, four kinds in turn, one per seed: what the first bundle must do very well.

    sound: parts without any region. crack: parts whose crack is marked for at least a quarter and called crack.
    acceptable, rejectable: pores found, and summed coverage in the regions over the true area (smallest, median,
    largest).
    """
    engine = OnnxEngine(load(folder), threads=threads)
    kinds = ("sound", "acceptable", "rejectable", "crack")
    clean = {kind: [0, 0] for kind in kinds}
    pores = {kind: [0, 0] for kind in kinds}
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    cracks, called_unknown = [0, 0, 0], 0
    times_ms: list[float] = []
    for index, seed in enumerate(seeds):
        kind = kinds[index % 4]
        picture = conveyor_part(seed, kind)  # type: ignore[arg-type]
        begin = time.perf_counter()
        answer = see(engine, picture.pixels, mm_per_px=(picture.mm_per_px,), polarity="bright_void")
        times_ms.append(1e3 * (time.perf_counter() - begin))
        assert answer.coverage is not None, answer.refusals
        clean[kind][0] += int(_false_regions(picture, answer) == 0)
        clean[kind][1] += 1
        called_unknown += sum(not region.known for region in answer.regions)
        truth = picture.labels > 0
        if kind == "crack":
            label = answer.type_names.index("crack") + 1
            cracks[0] += 1
            cracks[1] += int((answer.labels[truth] > 0).mean() >= FOUND_SHARE)
            cracks[2] += int((answer.labels[truth] == label).mean() >= FOUND_SHARE)
        elif kind != "sound":
            count, spots = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
            pores[kind][0] += len(np.unique(spots[truth & (answer.labels > 0)]))
            pores[kind][1] += count - 1
            ratios[kind].append(float(answer.coverage[answer.labels > 0].sum()) / int(truth.sum()))
    engine.close()
    return {
        "parts": len(seeds),
        "seeds": [min(seeds), max(seeds)],
        "sound_without_region": _proportion(*clean["sound"]),
        "parts_without_false_region": _proportion(sum(c[0] for c in clean.values()), len(seeds)),
        "cracks_found": _proportion(cracks[1], cracks[0]),
        "cracks_called_crack": _proportion(cracks[2], cracks[0]),
        "pores_found": {kind: _proportion(*pores[kind]) for kind in ("acceptable", "rejectable")},
        "area_ratio_min_median_max": {
            kind: [round(float(np.quantile(ratios[kind], q)), 3) for q in (0.0, 0.5, 1.0)]
            for kind in ("acceptable", "rejectable")
        },
        "regions_called_unknown": called_unknown,
        "see_ms_p50_p90": [round(float(np.quantile(times_ms, q)), 1) for q in (0.5, 0.9)],
    }


def machine() -> str:
    """The processor this ran on, for the certificate."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name}, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
