"""What a bundle can do on the demo's conveyor; the counting itself is ``scoring.py``'s.

Not covered: real radiographs; ``evaluation.py`` takes those.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..segment.bundle import load
from ..segment.onnx import OnnxEngine
from ..segment.see import see
from ..simulator import conveyor_part
from .calibrate import FOUND_SHARE
from .figures import proportion
from .labelled import Labelled
from .scoring import names_of, score_picture
from .statistics import clopper_pearson

__all__ = ["clopper_pearson", "evaluate_conveyor", "machine"]


def evaluate_conveyor(folder: Path, seeds: Sequence[int], *, threads: int = 2) -> dict[str, Any]:
    """The demo's parts, four kinds in turn, one per seed: what an engine must do very well.

    sound: parts without any region. crack: parts whose crack is marked for at least a quarter, and called crack on at
    least a quarter of its pixels. acceptable, rejectable: pores found, and summed coverage in the regions over the true
    area (smallest, median, largest).
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
        part = conveyor_part(seed, kind)  # type: ignore[arg-type]
        begin = time.perf_counter()
        answer = see(engine, part.pixels, mm_per_px=(part.mm_per_px,), polarity="bright_void")
        times_ms.append(1e3 * (time.perf_counter() - begin))
        assert answer.coverage is not None, answer.refusals
        name = f"{kind} {seed}"
        picture = Labelled(name, kind, name, part.pixels, part.mm_per_px, "bright_void", part.labels, None)
        score = score_picture(engine.bundle, picture, answer)
        clean[kind][0] += not score.false
        clean[kind][1] += 1
        called_unknown += score.regions[1]
        truth = part.labels > 0
        if kind == "crack":
            label = names_of(engine.bundle).index("crack") + 1
            cracks[0] += 1
            cracks[1] += int((answer.labels[truth] > 0).mean() >= FOUND_SHARE)
            cracks[2] += int((answer.labels[truth] == label).mean() >= FOUND_SHARE)
        elif kind != "sound":
            pores[kind][0] += sum(one.found for one in score.indications)
            pores[kind][1] += len(score.indications)
            ratios[kind].append(float(answer.coverage[answer.labels > 0].sum()) / int(truth.sum()))
    engine.close()
    return {
        "parts": len(seeds),
        "seeds": [min(seeds), max(seeds)],
        "sound_without_region": proportion(*clean["sound"]),
        "parts_without_false_region": proportion(sum(c[0] for c in clean.values()), len(seeds)),
        "cracks_found": proportion(cracks[1], cracks[0]),
        "cracks_called_crack": proportion(cracks[2], cracks[0]),
        "pores_found": {kind: proportion(*pores[kind]) for kind in ("acceptable", "rejectable")},
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
