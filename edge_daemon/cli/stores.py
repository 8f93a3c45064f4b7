"""``memory``: what was found."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import add_common, emit


def register(commands: Any) -> None:
    """Add ``memory``."""
    memory = commands.add_parser(
        "memory", help="the memory bank", epilog="example: edge-daemon memory stats --database m.db"
    )
    verbs = memory.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, run, text in (
        ("init", _init, "make an empty memory bank"),
        ("stats", _stats, "totals"),
        ("history", _history, "the newest records"),
        ("export", _export, "write every record to a .jsonl or .csv file"),
        ("cleanup", _cleanup, "remove old records and their pictures; never one that is not delivered"),
    ):
        verb = verbs.add_parser(name, help=text, epilog=f"example: edge-daemon memory {name} --database memory.db")
        verb.add_argument("--database", type=Path, required=True, metavar="FILE", help="[memory] database of line.toml")
        if name == "history":
            verb.add_argument("--outcome", choices=["PASS", "FAIL", "INCONCLUSIVE", "NOT_EVALUABLE"])
            verb.add_argument("--type", metavar="TYPE", help="only records with this defect type")
            verb.add_argument("--since", metavar="UTC", help="ISO 8601, or its beginning: 2026-01-31")
            verb.add_argument("--limit", type=int, default=20)
        if name == "export":
            verb.add_argument("file", type=Path)
            verb.add_argument("--since", metavar="UTC")
        if name == "cleanup":
            verb.add_argument("--days", type=float, required=True, metavar="N", help="keep the last N days")
        add_common(verb)
        verb.set_defaults(run=run)


def _bank(args: argparse.Namespace, *, read_only: bool) -> Any:
    from ..memory import MemoryBank

    if not args.database.exists():
        raise UsageError(f"{args.database}: no such memory bank", hint="edge-daemon memory init makes one")
    return MemoryBank(args.database, read_only=read_only)


def _init(args: argparse.Namespace) -> int:
    from ..memory import MemoryBank

    if args.database.exists():
        raise UsageError(f"{args.database} exists already", hint="name a new file")
    MemoryBank(args.database).close()
    emit({"database": str(args.database)}, f"made {args.database}", as_json=args.json)
    return 0


def _stats(args: argparse.Namespace) -> int:
    with _bank(args, read_only=True) as bank:
        document = asdict(bank.stats())
    emit(document, json.dumps(document, indent=1, default=str), as_json=args.json)
    return 0


def _history(args: argparse.Namespace) -> int:
    from ..records import Outcome

    outcome = None if args.outcome is None else Outcome(args.outcome)
    with _bank(args, read_only=True) as bank:
        for one in bank.history(outcome=outcome, defect_type=args.type, since=args.since, limit=args.limit):
            reasons = ", ".join(reason["code"] for reason in one.document.get("reasons", ()))
            text = f"{one.trigger_utc} part {one.part_id} {one.outcome} {reasons} {one.record_id}"
            emit(one.document, text, as_json=args.json)
    return 0


def _export(args: argparse.Namespace) -> int:
    with _bank(args, read_only=True) as bank:
        count = bank.export(args.file, since=args.since)
    emit({"file": str(args.file), "records": count}, f"{count} records written to {args.file}", as_json=args.json)
    return 0


def _cleanup(args: argparse.Namespace) -> int:
    with _bank(args, read_only=False) as bank:
        count, folders = bank.cleanup(args.days)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    document = {"records": count, "picture_folders": len(folders)}
    emit(document, f"{count} records and {len(folders)} picture folders removed", as_json=args.json)
    return 0
