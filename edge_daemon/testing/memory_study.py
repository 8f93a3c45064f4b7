"""A memory bank of a million records, and how fast it answers: the tables of BENCHMARKS.md.

    python -m edge_daemon.testing.memory_study --database million.db --records 1000000    # builds it where it is absent
    python -m edge_daemon.testing.memory_study --database million.db --remove 100000      # and removes from it, at last

Documents come from real inspections of simulated castings, varied in types, sizes and places; records go through the
same code as on the line, many to a transaction. The bank covers a year on four stations with eight recipes. Figures
are medians and quantiles of repeated calls of the Python API with everything that a caller gets, documents included;
where the machine is shared, the time of one core says more than the clock.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from .. import demo
from ..inspection import document_of, prepare_station
from ..memory import MemoryBank, Policy
from ..memory.storing import Appender, NewRecord
from ..recipe import load_recipe
from ..records import TYPE_IDS, UNKNOWN_TYPE, Outcome, Record
from ..resources import engine_folder
from ..segment.bundle import load
from ..segment.registry import open_engine
from ..simulator import conveyor_part
from ..tickets import Ticket, new_record_id, utc_now
from .benchmark import quantiles_ms

__all__ = ["build", "main", "templates"]

_STATIONS = tuple(f"cell-{number}" for number in range(1, 5))
_RECIPES = tuple(f"housing-{letter}" for letter in "abcdefgh")
_CASTING = TYPE_IDS[:11]
_PER_TRANSACTION = 2000


def templates(count: int = 8) -> list[dict[str, Any]]:
    """Documents of real inspections, some without an indication and some with many."""
    recipe = load_recipe(Path(demo.__file__).with_name("recipe.toml"))
    engine = open_engine(load(engine_folder(recipe.engine)), "onnxruntime", threads=1)
    station = prepare_station(engine, recipe)
    made = []
    for number in range(count):
        planted = ("sound", "acceptable", "rejectable", "crack")[number % 4]
        pixels = conveyor_part(970_000 + number, planted).pixels  # type: ignore[arg-type]
        inspection = station.inspect(pixels)
        made.append(document_of(station, inspection, record_id="", image=None, image_sha256=None))
    engine.close()
    return made


def _varied(found: dict[str, Any], rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
    """``count`` defects like this one, of any type, size and place."""
    defects = []
    for _ in range(count):
        unknown = rng.random() < 0.02
        nearest = "scratches" if rng.random() < 0.01 else _CASTING[int(rng.integers(len(_CASTING)))]
        size = float(np.exp(rng.normal(0.0, 0.8)))
        x, y = (int(one) for one in rng.integers(0, 480, 2))
        w, h = (max(1, int(one)) for one in rng.integers(1, 30, 2))
        defects.append(
            {**found, "type": UNKNOWN_TYPE if unknown else nearest, "known": not unknown, "nearest_type": nearest,
             "confidence": round(float(rng.uniform(0.5, 1.0)), 4), "p_known": round(float(rng.uniform(0.02, 1.0)), 4),
             "bbox_px": [x, y, w, h], "area_mm2": round(0.6 * size * size, 5), "area_u_mm2": round(0.02 * size, 5),
             "feret_max_mm": round(1.2 * size, 5), "feret_u_mm": 0.02}
        )  # fmt: skip
    return defects


def _records(count: int, seed: int) -> Iterator[NewRecord]:
    rng = np.random.default_rng(seed)
    made = templates()
    plain = [one for one in made if not one["defects"]]
    marked = [one for one in made if one["defects"]]
    found = marked[0]["defects"][0]
    start, step = datetime(2026, 1, 1, tzinfo=timezone.utc), timedelta(days=365) / count
    for number in range(count):
        drawn = rng.random()
        outcome = (
            "PASS" if drawn < 0.8 else "FAIL" if drawn < 0.95 else "INCONCLUSIVE" if drawn < 0.985 else "NOT_EVALUABLE"
        )
        indications = 0 if outcome == "NOT_EVALUABLE" else int(rng.geometric(0.5)) - 1 + (outcome != "PASS")
        base = marked[number % len(marked)] if indications else plain[number % len(plain)]
        record_id, part_id = new_record_id(), number % 65536
        utc = (start + number * step).isoformat(timespec="milliseconds")[:23] + "Z"
        document = {
            **base, "record_id": record_id, "part_id": part_id, "outcome": outcome, "trigger_utc": utc,
            "recipe": _RECIPES[int(rng.integers(len(_RECIPES)))], "defects": _varied(found, rng, indications),
            "result": "PASS" if outcome == "PASS" else "FAIL", "timings_ms": {"segment": float(rng.uniform(55, 80))},
        }  # fmt: skip
        station = _STATIONS[int(rng.integers(len(_STATIONS)))]
        yield NewRecord(
            record_id, part_id, station, utc, outcome, document["result"], document,
            created_utc=utc, contrasts=[float(one) for one in rng.uniform(-0.3, 0.05, indications)],
        )  # fmt: skip


def build(path: Path, count: int, *, seed: int = 0, progress: Callable[[int], None] = lambda _: None) -> None:
    """Make a bank of ``count`` records; several hundred microseconds each."""
    with MemoryBank(path) as bank:
        batch: list[NewRecord] = []
        for number, new in enumerate(_records(count, seed), start=1):
            batch.append(new)
            if len(batch) == _PER_TRANSACTION or number == count:
                with bank._db.writing(durable=False) as db:
                    chain = Appender(db)
                    for one in batch:
                        chain.record(one)
                    chain.finish()
                bank.checkpoint()
                batch = []
                progress(number)


# ---------------------------------------------------------------- measuring


def _row(name: str, samples_s: Sequence[tuple[float, float]]) -> str:
    wall, cpu = (quantiles_ms(list(one)) for one in zip(*samples_s, strict=True))
    return f"| {name} | {len(samples_s)} | {wall['p50']:.1f} | {wall['p99']:.1f} | {cpu['p50']:.1f} |"


def _timed(call: Callable[[], object], runs: int) -> list[tuple[float, float]]:
    """(seconds by the clock, seconds of this thread) of each run."""
    return [_once(call) for _ in range(runs)]


def _once(call: Callable[[], object]) -> tuple[float, float]:
    started_s, cpu_s = time.perf_counter(), time.thread_time()
    call()
    return time.perf_counter() - started_s, time.thread_time() - cpu_s


def questions(bank: MemoryBank) -> dict[str, Callable[[], object]]:
    """What people ask, easy and hard: dense and empty answers, the first page and one far down."""
    newest = bank.history(outcome="FAIL", limit=1)[0]
    middle = newest.number // 2
    return {
        "history: the newest 50": lambda: bank.history(limit=50),
        "history: 50 from the middle": lambda: bank.history(limit=50, before=middle),
        "history: 50 FAIL of one recipe": lambda: bank.history(outcome="FAIL", recipe="housing-c", limit=50),
        "history: 50 with scratches since June": lambda: bank.history(
            defect_type="scratches", since="2026-06", limit=50
        ),
        "history: a day in February, one station": lambda: bank.history(
            since="2026-02-11", until="2026-02-11", station="cell-2", limit=50
        ),
        "history: no such thing (scratches, NOT_EVALUABLE)": lambda: bank.history(
            defect_type="scratches", outcome="NOT_EVALUABLE", limit=50
        ),
        "history: a part number": lambda: bank.history(part_id=4711, limit=50),
        "statistics by day, the whole year": lambda: bank.statistics("day"),
        "statistics by week": lambda: bank.statistics("week"),
        "statistics by line": lambda: bank.statistics("line"),
        "statistics by recipe": lambda: bank.statistics("recipe"),
        "statistics by type": lambda: bank.statistics("type"),
        "similar: the 10 nearest of all": lambda: bank.similar(newest.record_id, limit=10),
        "similar: the 10 nearest of one type": lambda: bank.similar(
            newest.record_id, limit=10, defect_type="shrinkage_sponge"
        ),
        "totals (stats)": bank.stats,
    }


def _store(
    bank: MemoryBank, document: dict[str, Any], pause_s: float, stop: Callable[[], bool]
) -> list[tuple[float, float]]:
    """Store one record after another, as a line would, until told to stop; how long each took."""
    samples = []
    while not stop():
        ticket = Ticket(new_record_id(), 1, time.monotonic_ns(), 0, utc_now())
        bank.open_ticket(ticket, "cell-1")
        record = Record(
            ticket.record_id, 1, "cell-1", ticket.trigger_utc, Outcome.FAIL, "FAIL",
            {**document, "record_id": ticket.record_id},
        )  # fmt: skip
        samples.append(_once(lambda record=record: bank.store(record, "t", b"{}")))  # type: ignore[misc]
        bank.delivered(*(message.seq for message in bank.pending(10)))
        time.sleep(pause_s)
    return samples


def measure_removal(bank: MemoryBank, count: int, *, alone_s: float = 30.0, pause_s: float = 0.05) -> list[str]:
    """Remove the oldest ``count`` records while others are stored; rows of a table, before and during."""
    document = next(one for one in templates(4) if len(one["defects"]) > 5)
    until_s = time.monotonic() + alone_s
    before = _store(bank, document, pause_s, lambda: time.monotonic() > until_s)
    (cut,) = bank._db.query("SELECT created_utc FROM records ORDER BY number LIMIT 1 OFFSET ?", (count,))[0]
    age = datetime.now(timezone.utc) - datetime.fromisoformat(cut.replace("Z", "+00:00"))
    done: list[Any] = []
    remover = threading.Thread(
        target=lambda: done.append(bank.clean(Policy(records_days=age.total_seconds() / 86400), who="study"))
    )
    started_s = time.perf_counter()
    remover.start()
    during = _store(bank, document, pause_s, lambda: not remover.is_alive())
    remover.join()
    took_s = time.perf_counter() - started_s
    return [
        _row("store a record, nothing else going on", before),
        _row(f"store a record while {done[0].records} are removed ({took_s:.0f} s)", during),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Build what is not there, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m edge_daemon.testing.memory_study", description=__doc__)
    parser.add_argument("--database", type=Path, help="a scratch file where it is left out")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--remove", type=int, default=0, metavar="N", help="at last remove the oldest N while storing")
    parser.add_argument("--verify", action="store_true", help="walk the audit chain as well (minutes)")
    args = parser.parse_args(argv)

    def progress(number: int) -> None:
        print(f"\r{number}", end="", file=sys.stderr, flush=True)  # noqa: T201

    with tempfile.TemporaryDirectory() as folder:
        path = args.database or Path(folder) / "memory.db"
        if not path.exists():
            started_s = time.perf_counter()
            build(path, args.records, progress=progress)
            print(f" records stored in {time.perf_counter() - started_s:.0f} s", file=sys.stderr)  # noqa: T201
        with MemoryBank(path) as bank:
            stats = bank.stats()
            print(  # noqa: T201
                f"{stats.counts.records} records, {stats.indications} indications, {stats.used_bytes / 1e9:.2f} GB\n"
            )
            print("| what | runs | p50 ms | p99 ms | p50 ms of one core |\n|---|---|---|---|---|")  # noqa: T201
            for name, call in questions(bank).items():
                print(_row(name, _timed(call, args.runs)), flush=True)  # noqa: T201
            if args.verify:
                print(_row("verify, all of it", _timed(bank.verify, 1)), flush=True)  # noqa: T201
            if args.remove:
                for row in measure_removal(bank, args.remove):
                    print(row, flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
