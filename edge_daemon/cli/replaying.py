"""``replay``: whose verdict would change."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import add_common, emit, say
from .inspecting import not_negative


def register(commands: Any) -> None:
    """Add ``replay``."""
    parser = commands.add_parser(
        "replay",
        help="judge stored parts again, with another recipe, tolerance, guard or engine",
        description="Judge the stored frames of the memory bank again and list whose verdict changes, and why. "
        "Exit code 0: no verdict changes; 1: at least one does.",
        epilog="example: edge-daemon replay --config line.toml --tolerance 0 --since 2026-01-31",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="line.toml: memory bank and recipe of the station")
    parser.add_argument("--database", type=Path, metavar="FILE", help="memory bank (in place of the config's)")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="another recipe")
    parser.add_argument("--engine", metavar="NAME|FOLDER", help="another engine bundle")
    parser.add_argument("--backend", default="auto", choices=["auto", "onnxruntime", "tensorrt"])
    parser.add_argument("--tolerance", type=not_negative, metavar="t", help="another tolerance, in every rule")
    parser.add_argument("--guard", type=not_negative, metavar="g", help="another guard factor, in every rule")
    parser.add_argument("--since", metavar="UTC", help="ISO 8601, or its beginning: 2026-01-31")
    parser.add_argument("--limit", type=int, default=100_000, metavar="N", help="at most the newest N records")
    parser.add_argument("--all", action="store_true", help="list the parts whose verdict stays, too")
    parser.add_argument("--exit-zero", action="store_true", help="exit 0 also when a verdict changes")
    add_common(parser)
    parser.set_defaults(run=_replay)


def _replay(args: argparse.Namespace) -> int:
    from ..config import load_config
    from ..inspection import prepare_station
    from ..memory import MemoryBank
    from ..recipe import load_recipe
    from ..references import default_cache_folder
    from ..replay import changed_recipe, replay
    from ..resources import engine_folder
    from ..segment.bundle import load
    from ..segment.registry import open_engine

    config = None if args.config is None else load_config(args.config)
    database = args.database or (config.memory.database if config is not None else None)
    recipe_path = args.recipe or (config.recipe if config is not None else None)
    if database is None or recipe_path is None:
        raise UsageError("no memory bank, or no recipe", hint="give --config, or --database and --recipe")
    if not database.exists():
        raise UsageError(f"{database}: no such memory bank")
    trust = None if config is None else config.trust
    recipe = changed_recipe(load_recipe(recipe_path, trust), tolerance=args.tolerance, guard=args.guard)
    folder = engine_folder(args.engine) if args.engine else engine_folder(recipe.engine, recipe.engine_base)
    engine = open_engine(load(folder, trust=trust), args.backend, trust=trust)
    station = prepare_station(engine, recipe, cache=default_cache_folder())
    counts: Counter[str] = Counter()
    with MemoryBank(database, read_only=True) as bank:
        records = bank.history(since=args.since, limit=args.limit)
    for number, one in enumerate(replay(station, reversed(records)), start=1):
        if sys.stderr.isatty():
            print(f"\r{number}/{len(records)}", end="", file=sys.stderr, flush=True)  # noqa: T201
        counts["not judged again" if one.after is None else "changed" if one.changed else "same verdict"] += 1
        counts["identical to the last bit"] += one.identical
        if one.changed or args.all:
            after = str(one.after) if one.after is not None else "not judged again"
            document = {
                "record_id": one.record.record_id, "part_id": one.record.part_id,
                "trigger_utc": one.record.trigger_utc, "before": str(one.before),
                "after": None if one.after is None else after, "changed": one.changed,
                "identical": one.identical, "why": one.why,
            }  # fmt: skip
            text = f"part {one.record.part_id} {one.record.trigger_utc} {one.record.record_id}: {one.before} -> {after}"
            emit(document, f"{text}\n  {one.why}", as_json=args.json)
    say(f"{len(records)} records: " + (", ".join(f"{count} {what}" for what, count in counts.items()) or "none"))
    engine.close()
    return 1 if counts["changed"] and not args.exit_zero else 0
