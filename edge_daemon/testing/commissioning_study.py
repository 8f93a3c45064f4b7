"""Does commissioning help where the base engine has never been, and does it harm anywhere else?

    python -m edge_daemon.testing.commissioning_study --engine castings-xray [--minutes 4] [--seeds 1 2 3] [--out DIR]

Per seed one line: a geometry family and an imaging mode that no training picture shows. Twenty good frames of it go
through the very steps of ``train commission``. Three networks are compared: the base, the commissioned one, and a
control that got the same fine-tuning (minutes, or steps where the machine is shared) from plain simulation, without the
frames; thresholds of all three (grow, least region, seed) come from the same held-out frames by the same rule.

Then fresh frames of the line, with planted physical defects (missing metal, through the whole imaging chain) and sound
ones: the share of visible indications missed at equal false alarms a picture, counted on all fresh frames alike. And
pictures of the modes and families that were trained on: recall at equal false alarms must not fall by more than two
points. Lines whose frames the image gate refuses, or on which hardly anything planted can be seen, are passed over and
named.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..resources import engine_folder
from ..segment import bundle as bundles
from ..segment.bundle import Bundle
from ..segment.onnx import OnnxEngine
from ..segment.protocol import Engine
from ..segment.see import image_gate
from ..simulator import MODES, UNSEEN_FAMILIES, Radiograph, simulate
from ..simulator.lines import Line
from ..train.commission import Frames, Tuning, fine_tune, screen_frames, split
from ..train.commission_bundle import as_thresholds, draft_bundle, line_thresholds
from ..train.figures import proportion
from ..train.operating import Levels, at_equal_alarms, at_seed, levels, look_at
from ..train.pictures import EXPERIMENT_SEEDS_FROM, IGNORED, MM_PER_PX, visible_labels

__all__ = ["fresh_frames", "main", "one_seed", "usable_line"]

#: False alarms a picture at which misses are compared; the first one is the headline.
RATES = (0.05, 0.1, 0.25)
_GOOD, _FRESH_FROM = 20, 1000
_GROW_ELSEWHERE = 0.4
_LEAST_VISIBLE = 0.5
_MODE = "film"


def usable_line(seed: int, bundle: Bundle, size_px: int, log: list[str]) -> Line:
    """The first line from this seed on that can be inspected at all; what was passed over goes into ``log``."""
    families = tuple(UNSEEN_FAMILIES)
    for number in range(seed * 100, seed * 100 + 100):
        line_seed = EXPERIMENT_SEEDS_FROM + 20_000 + number
        rng = np.random.default_rng([line_seed, 41])
        scale = float(np.exp(rng.uniform(*np.log(MM_PER_PX))))
        line = Line(line_seed, families[seed % len(families)], _MODE, (size_px, size_px), scale)
        if image_gate(bundle, line.frame(0).pixels):
            log.append(f"{line_seed}: refused by the image gate")
            continue
        spots = sum(_visible(line.frame(_FRESH_FROM + k, None, at_least=1)) for k in range(12))
        if spots < 12 * _LEAST_VISIBLE:
            log.append(f"{line_seed}: {spots} of 12 spoilt frames show anything visible")
            continue
        return line
    raise AssertionError(f"no usable line from seed {seed} on")


def _visible(picture: Radiograph) -> bool:
    labels = visible_labels(picture)
    return bool(((labels > 0) & (labels != IGNORED)).any())


def fresh_frames(line: Line, count: int) -> tuple[list[Radiograph], list[Radiograph]]:
    """(spoilt, sound) frames of the line that nobody has seen, ``count`` of each."""
    spoilt = [line.frame(_FRESH_FROM + k, None, at_least=1) for k in range(count)]
    return spoilt, [line.frame(2 * _FRESH_FROM + k) for k in range(count)]


def _trained_modes(count: int) -> Iterator[Radiograph]:
    """Pictures of every mode that was trained on, in turn, with random castings of the trained families."""
    for number in range(count):
        seed = EXPERIMENT_SEEDS_FROM + 10_000 + number
        rng = np.random.default_rng([seed, 42])
        scale = float(np.exp(rng.uniform(*np.log(MM_PER_PX))))
        yield simulate(seed, size_px=(384, 384), mm_per_px=scale, structure="casting", mode=MODES[number % len(MODES)])


def one_seed(
    base: Bundle, seed: int, work: Path, tuning: Tuning, *, size_px: int = 384, fresh: int = 100, trained: int = 150
) -> dict[str, Any]:
    """The whole experiment for one line. Networks and checkpoints are left in ``work``."""
    passed_over: list[str] = []
    line = usable_line(seed, base, size_px, passed_over)
    good = [line.frame(k).pixels for k in range(_GOOD)]
    frames = Frames(
        tuple(f"{k:02d}" for k in range(_GOOD)), tuple(good), tuple(f"{seed:08x}{k:056x}" for k in range(_GOOD))
    )
    old = OnnxEngine(base, threads=tuning.threads)
    screened = screen_frames(frames, old, mm_per_px=line.mm_per_px)
    learn, held = split(screened.good, seed)
    grounds = [screened.grounds[k] for k in held]
    tuning = replace(tuning, seed=seed)
    engines: dict[str, Engine] = {"base": old}
    for name, own in (("commissioned", [screened.grounds[k] for k in learn]), ("control", [])):
        network = fine_tune(base, own, work / name, tuning, pool_folder=work / "pool")
        folder = work / f"{name}-bundle"
        draft_bundle(folder, base, network, f"{base.name}-{name}", {"study": seed})
        engines[name] = OnnxEngine(bundles.load(folder), threads=tuning.threads)
    spoilt, sound = fresh_frames(line, fresh)
    elsewhere = list(_trained_modes(trained))
    networks = {}
    for name, engine in engines.items():
        thresholds = as_thresholds(line_thresholds(engine, base, grounds, 0.02), base)
        on_line = levels(look_at(engine, [*spoilt, *sound]), thresholds)
        # Elsewhere nobody sets thresholds: regions as large as the base's, of every network's own probability.
        general = replace(base.thresholds, temperature=1.0, bias=0.0, grow=_GROW_ELSEWHERE)
        at_home = levels(look_at(engine, elsewhere), general)
        networks[name] = {
            "at_equal_alarms": {str(rate): at_equal_alarms(on_line, rate) for rate in RATES},
            "as_set": at_seed(on_line, thresholds.seed),
            "trained_modes": {str(rate): _recall(at_home, rate) for rate in RATES},
        }
        engine.close()
    exposure = line.exposure
    return {
        "seed": seed, "line": line.seed, "family": line.family, "mode": line.mode,
        "mm_per_px": round(line.mm_per_px, 4), "wall_grey": round(exposure.wall_grey, 3), "passed_over": passed_over,
        "screened_of_sound": len(screened.suspects), "networks": networks,
    }  # fmt: skip


def _recall(seen: Levels, rate: float) -> dict[str, Any]:
    missed = at_equal_alarms(seen, rate)["missed"]
    return proportion(missed["n"] - missed["k"], missed["n"])


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds: misses at each rate, how much of the base's and the control's misses is gone, and the
    change of recall on trained modes in points, worst seed beside it."""
    rows: dict[str, Any] = {}
    for rate in map(str, RATES):
        missed = {
            name: [run["networks"][name]["at_equal_alarms"][rate]["missed"]["value"] for run in runs]
            for name in ("base", "control", "commissioned")
        }
        home = {
            name: [run["networks"][name]["trained_modes"][rate]["value"] for run in runs]
            for name in ("base", "commissioned")
        }
        change = [100 * (b - a) for a, b in zip(home["base"], home["commissioned"], strict=True)]
        mean = {name: float(np.mean(values)) for name, values in missed.items()}
        rows[rate] = {
            "missed_mean": {name: round(value, 4) for name, value in mean.items()},
            "cut_against_base": round(1.0 - mean["commissioned"] / max(mean["base"], 1e-9), 3),
            "cut_against_control": round(1.0 - mean["commissioned"] / max(mean["control"], 1e-9), 3),
            "recall_on_trained_modes_points": {
                "mean": round(float(np.mean(change)), 2),
                "worst": round(min(change), 2),
            },
        }
    return {"seeds": [run["seed"] for run in runs], "by_false_alarms_a_picture": rows}


def _line_of(run: dict[str, Any]) -> str:
    cells = []
    for name, figures in run["networks"].items():
        missed = figures["at_equal_alarms"][str(RATES[0])]["missed"]
        low, high = missed["ci95"]
        cells.append(f"{name} {100 * missed['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f}, n {missed['n']})")
    home = [
        run["networks"][name]["trained_modes"][str(RATES[0])]["value"] for name in ("base", "control", "commissioned")
    ]
    return (f"seed {run['seed']}, {run['family']} on {run['mode']}: missed at {RATES[0]} false alarms a picture: "
            f"{'; '.join(cells)}; recall on trained modes base, control, commissioned: "
            f"{', '.join(f'{100 * value:.1f} %' for value in home)}")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; one JSON object with every figure goes to stdout, a line a seed to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="castings-xray", metavar="NAME|FOLDER")
    parser.add_argument("--minutes", type=float, default=9.0, help="of fine-tuning, for each of the two")
    parser.add_argument("--steps", type=int, default=200_000, help="at most so many; equal work on a shared machine")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--pictures", type=int, default=700, help="simulated ones, for both")
    parser.add_argument("--learning-rate", type=float, default=Tuning().learning_rate)
    parser.add_argument("--fresh", type=int, default=100, help="fresh frames with defects, and as many without")
    parser.add_argument("--trained", type=int, default=150, help="pictures of the modes that were trained on")
    parser.add_argument("--size-px", type=int, default=384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("commissioning-study"))
    options = parser.parse_args(arguments)
    base = bundles.load(engine_folder(options.engine))
    tuning = Tuning(minutes=options.minutes, steps=options.steps, threads=options.threads, pictures=options.pictures,
                    learning_rate=options.learning_rate)  # fmt: skip
    runs = []
    for seed in options.seeds:
        run = one_seed(base, seed, options.out / str(seed), tuning, size_px=options.size_px, fresh=options.fresh,
                       trained=options.trained)  # fmt: skip
        print(_line_of(run), file=sys.stderr, flush=True)  # noqa: T201
        runs.append(run)
    document = {"engine": base.name, "sha256": base.sha256, "minutes": options.minutes, "steps": options.steps,
                "summary": summary(runs), "runs": runs}  # fmt: skip
    print(json.dumps(document))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
