"""``make bench``: where the time goes, stage by stage and from trigger to permit. Prints the tables of BENCHMARKS.md.

    python -m edge_daemon.testing.benchmark [--runs 200] [--parts 600] [--rate 300/min]

Stages are timed alone in this process; the end-to-end figures come from a demo run with the real processes, as the PLC
sees them. Quantiles are of all runs after a warm-up; the machine is named, and a shared one is noisy: compare medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from .. import __version__, demo, units
from ..inspection import document_of, prepare_station
from ..judge import Scale, measure
from ..judge.windows import worst_window
from ..memory import MemoryBank
from ..recipe import load_recipe
from ..records import Outcome, Record
from ..resources import engine_folder
from ..segment.bundle import load
from ..segment.registry import open_engine
from ..segment.see import see
from ..simulator import conveyor_part
from ..tickets import Ticket, new_record_id, utc_now

__all__ = ["main", "quantiles_ms"]

_WARM_UP = 5


def quantiles_ms(samples_s: Sequence[float]) -> dict[str, float]:
    """p50, p99 and p99.9 in milliseconds (nearest rank)."""
    ordered = sorted(samples_s)
    last = len(ordered) - 1
    return {f"p{100 * share:g}": 1000.0 * ordered[min(last, int(share * len(ordered)))] for share in (0.5, 0.99, 0.999)}


def _time(call: Callable[[], object], runs: int) -> list[float]:
    samples = []
    for number in range(runs + _WARM_UP):
        started_s = time.perf_counter()
        call()
        if number >= _WARM_UP:
            samples.append(time.perf_counter() - started_s)
    return samples


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()},"
        f" NumPy {np.__version__}, OpenCV {cv2.__version__}, edge-daemon {__version__}"
    )


def _row(name: str, samples_s: Sequence[float], count: int) -> str:
    figures = quantiles_ms(samples_s)
    return f"| {name} | {count} | " + " | ".join(f"{value:.2f}" for value in figures.values()) + " |"


def _stages(runs: int, folder: Path) -> list[str]:
    recipe = load_recipe(Path(demo.__file__).with_name("recipe.toml"))
    engine = open_engine(load(engine_folder(recipe.engine)), "onnxruntime", threads=2)
    station = prepare_station(engine, recipe)
    part = conveyor_part(960_000, "rejectable")
    seen = see(engine, part.pixels)
    inspection = station.inspect(part.pixels)
    document = document_of(station, inspection, record_id=new_record_id(), image=None, image_sha256=None)
    png = cv2.imencode(".png", part.pixels)[1]
    large = np.zeros((2048, 2448), np.uint8)
    random = np.random.default_rng(0)
    for x, y, r in random.integers([20, 20, 3], [2428, 2028, 20], (120, 3)):
        cv2.circle(large, (int(x), int(y)), int(r), int(1 + x % 3), -1)
    types = ("gas_hole", "gas_porosity_round", "crack")
    windows = dict.fromkeys(types, (6.35, 12.7, 25.4, 50.8))
    rows = [
        _row("decode a 512 x 512 PNG", _time(lambda: cv2.imdecode(png, cv2.IMREAD_UNCHANGED), runs), runs),
        _row("segment 512 x 512 (gate, network, regions)", _time(lambda: see(engine, part.pixels), runs), runs),
        _row(
            "measure 512 x 512, two window sides",
            _time(
                lambda: measure(
                    seen.labels,
                    seen.coverage,
                    seen.type_names,
                    Scale(0.1, 0.1, 0.0005),
                    {rule.type: rule.windows_mm for rule in station.rules},
                ),
                runs,
            ),
            runs,
        ),
        _row("inspect 512 x 512 (all of it)", _time(lambda: station.inspect(part.pixels), runs), runs),
        _row(
            "measure 2448 x 2048, three types, four sides",
            _time(lambda: measure(large, None, types, Scale(0.1, 0.1), windows), max(10, runs // 10)),
            max(10, runs // 10),
        ),
        _row(
            "one worst window, 2448 x 2048 full of marks",
            _time(lambda: worst_window(large, (0, 0), (2448, 2048), (127, 127)), max(10, runs // 10)),
            max(10, runs // 10),
        ),
    ]
    with MemoryBank(folder / "bench.db") as bank:

        def commit(intent_only: bool) -> None:
            ticket = Ticket(new_record_id(), 1, time.monotonic_ns(), 0, utc_now())
            if intent_only:
                bank.intend(ticket, "bench", document)
                return
            record = Record(ticket.record_id, 1, "bench", ticket.trigger_utc, Outcome.FAIL, "FAIL", document)
            bank.store(record, "t", b"{}")

        rows.append(_row("make a PASS durable (commit before the permit)", _time(lambda: commit(True), runs), runs))
        rows.append(_row("store record and message (one transaction)", _time(lambda: commit(False), runs), runs))
    engine.close()
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m edge_daemon.testing.benchmark", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--parts", type=int, default=600)
    parser.add_argument("--rate", default="300/min")
    args = parser.parse_args(argv)
    print(f"Machine: {_machine()}\n", flush=True)  # noqa: T201
    print("| stage | runs | p50 ms | p99 ms | p99.9 ms |\n|---|---|---|---|---|", flush=True)  # noqa: T201
    with tempfile.TemporaryDirectory() as folder:
        for row in _stages(args.runs, Path(folder)):
            print(row, flush=True)  # noqa: T201
        if args.parts:
            report = demo.run(
                parts=args.parts,
                rate_per_min=units.rate_per_min(args.rate),
                driver="ascii",
                camera="auto",
                out=Path(folder) / "demo",
                show=lambda text: None,
            )
            figures = report.latency_ms
            print(  # noqa: T201
                f"| trigger to permit at the PLC, {args.rate}, {report.setup} | {report.plc.passed}"
                f" | {figures['p50']:.2f} | {figures['p99']:.2f} | {figures['p99.9']:.2f} |"
            )
            print(f"\nThe four counts {'agree' if report.agrees else 'DO NOT AGREE'}: {report.plc}.")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
