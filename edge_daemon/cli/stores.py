"""``memory``: what was found, how it was judged, and the upkeep of the bank. What people say about it: speaking.py."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from . import add_common, emit, say

if TYPE_CHECKING:
    from ..memory import MemoryBank, StoredRecord

__all__ = ["add_filters", "add_verb", "bank_of", "counting", "register", "user_name"]

_OUTCOMES = ("PASS", "FAIL", "INCONCLUSIVE", "NOT_EVALUABLE")
_EXIT_INTEGRITY = 4


def register(commands: Any) -> None:
    """Add ``memory``."""
    from . import speaking

    memory = commands.add_parser(
        "memory",
        help="the memory bank: history, statistics, feedback, retention, proof",
        epilog="example: edge-daemon memory history --database memory.db --type crack --since 2026-01",
    )
    verbs = memory.add_subparsers(dest="verb", metavar="VERB", required=True)
    add_verb(verbs, "init", _init, "make an empty memory bank")
    add_verb(verbs, "upgrade", _upgrade, "bring a bank of an older program up to date (the daemon does so by itself)")
    verb = add_verb(verbs, "stats", _stats, "totals, or with --by statistics", more="--by week")
    verb.add_argument("--by", choices=["day", "week", "line", "recipe", "engine", "type"])
    add_filters(verb, records=False)
    verb = add_verb(verbs, "history", _history, "the newest records", more="--outcome FAIL --since 2026-01-31")
    add_filters(verb)
    verb.add_argument("--part", type=int, metavar="N", help="only the part with the PLC's number N")
    verb.add_argument("--before", type=int, metavar="NUMBER", help="records before this one (its 'number')")
    verb.add_argument("--limit", type=int, default=20)
    verb = add_verb(verbs, "export", _export, "write records to a file, or a data set for training", more="all.csv")
    verb.add_argument("file", type=Path, help=".csv, .parquet, .json, else JSON lines; with --data-set a new folder")
    verb.add_argument(
        "--table",
        choices=["records", "indications", "feedback", "performance"],
        default="records",
        help="what (records)",
    )
    verb.add_argument("--data-set", action="store_true", help="confirmed and corrected parts, as training reads them")
    add_filters(verb)
    verb = add_verb(
        verbs, "cleanup", _cleanup, "remove old records and their pictures; never one that is not delivered"
    )
    verb.add_argument("--days", type=float, required=True, metavar="N", help="keep the last N days")
    verb = add_verb(verbs, "clean", _clean, "remove by age and size, pictures before records", more="--keep-days 730")
    verb.add_argument("--keep-days", type=float, metavar="N", help="records of the last N days stay")
    verb.add_argument("--keep-pictures-days", type=float, metavar="N", help="pictures of the last N days stay")
    verb.add_argument("--keep-gb", type=float, metavar="N", help="database and pictures together take N GB at most")
    verb.add_argument("--dry-run", action="store_true", help="change nothing, say what would go")
    verb.add_argument("--who", metavar="NAME", default=user_name(), help="for the audit chain (%(default)s)")
    verb.add_argument("--why", metavar="TEXT", default="memory clean", help="for the audit chain (%(default)s)")
    verb = add_verb(verbs, "verify", _verify, "prove that no row was changed, deleted or put in, or name the first one")
    verb.add_argument("--quick", action="store_true", help="the audit chain only, not what is found through it")
    verb.add_argument("--expect", metavar="NUMBER:SHA256", help="an end of the chain that was noted earlier")
    verb = add_verb(
        verbs, "push", _push, "carry records and feedback into a plant's bank", more="--to postgresql://..."
    )
    verb.add_argument(
        "--to", type=_place, required=True, metavar="URL", help="the plant's bank, made where it is not there"
    )
    speaking.register(verbs)


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, *, more: str = ""
) -> argparse.ArgumentParser:
    """A verb of ``memory`` with what all of them have."""
    example = f"example: edge-daemon memory {name} {more + ' ' if more else ''}--database memory.db"
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, epilog=example)
    where = verb.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--database", type=_place, metavar="FILE", help="[memory] database of line.toml, or a plant's postgresql://..."
    )
    where.add_argument("--config", type=Path, metavar="FILE", help="line.toml, which names the database")
    add_common(verb)
    verb.set_defaults(run=run)
    return verb


def _place(text: str) -> Path | str:
    from ..memory import is_url

    return text if is_url(text) else Path(text)


def add_filters(verb: argparse.ArgumentParser, *, records: bool = True) -> None:
    """Which records: the conditions of ``MemoryBank.history``."""
    if records:
        verb.add_argument("--outcome", choices=_OUTCOMES)
        verb.add_argument("--type", metavar="TYPE", help="only records with this defect type")
    verb.add_argument("--since", metavar="UTC", help="ISO 8601, or its beginning: 2026-01-31")
    verb.add_argument("--until", metavar="UTC", help="the same; that day, month or year is included")
    verb.add_argument("--recipe", metavar="NAME", help="only this recipe")
    verb.add_argument("--station", metavar="NAME", help="only this station")


def user_name() -> str:
    """Who runs this command, as far as the system knows."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


@contextmanager
def bank_of(args: argparse.Namespace, *, read_only: bool) -> Iterator[MemoryBank]:
    """The bank that --database or --config names."""
    from ..config import load_config
    from ..memory import MemoryBank

    database = args.database if args.config is None else load_config(args.config).memory.database
    if isinstance(database, Path) and not database.exists():
        raise UsageError(f"{database}: no such memory bank", hint="edge-daemon memory init makes one")
    with MemoryBank(database, read_only=read_only, busy_timeout_s=5.0) as bank:
        yield bank


@contextmanager
def counting(what: str) -> Iterator[Callable[..., None]]:
    """A progress line on a terminal; called with how many, or with how many of how many."""
    shown = False

    def show(done: int, total: int | None = None) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            shown = True
            text = f"{done}" if total is None else f"{done}/{total}"
            print(f"\r{text} {what}", end="", file=sys.stderr, flush=True)  # noqa: T201

    try:
        yield show
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)  # noqa: T201


def _init(args: argparse.Namespace) -> int:
    from ..config import load_config
    from ..memory import MemoryBank

    database = args.database if args.config is None else load_config(args.config).memory.database
    if isinstance(database, Path) and database.exists():
        raise UsageError(f"{database} exists already", hint="name a new file")
    with MemoryBank(database) as bank:
        name = bank.name
    emit({"database": name}, f"made {name}", as_json=args.json)
    return 0


def _upgrade(args: argparse.Namespace) -> int:
    with bank_of(args, read_only=False) as bank:
        stats = bank.stats()
    document = {"database": stats.path, "schema_version": stats.schema_version, "records": stats.counts.records}
    emit(document, f"{stats.path} has schema {stats.schema_version}", as_json=args.json)
    return 0


def _stats(args: argparse.Namespace) -> int:
    given = {"since": args.since, "until": args.until, "recipe": args.recipe, "station": args.station}
    with bank_of(args, read_only=True) as bank:
        if args.by is None:
            if any(given.values()):
                raise UsageError("totals cover the whole bank", hint="--by day, week, line, recipe, engine or type")
            document = asdict(bank.stats())
            emit(document, json.dumps(document, indent=1, default=str), as_json=args.json)
            return 0
        lines = bank.statistics(args.by, **given)
    if not args.json:
        heads = ("parts", "passed", "rejected", "indications", "false calls", "missed")
        emit(text=f"{args.by:24}" + "".join(f"{head:>12}" for head in heads))
    for one in lines:
        figures = (one.parts, one.passed, one.rejected, one.indications, one.false_calls, one.missed)
        emit(asdict(one), f"{one.key or '-':24.24}" + "".join(f"{n:12}" for n in figures), as_json=args.json)
    return 0


def summary(one: StoredRecord) -> str:
    """One record on one line."""
    reasons = ", ".join(one.reasons)
    advisory = " ADVISORY" if one.advisory else ""
    return f"{one.trigger_utc} part {one.part_id} {one.outcome}{advisory} {reasons} {one.record_id}"


def _history(args: argparse.Namespace) -> int:
    with bank_of(args, read_only=True) as bank:
        found = bank.history(
            outcome=args.outcome, defect_type=args.type, since=args.since, until=args.until, recipe=args.recipe,
            station=args.station, part_id=args.part, before=args.before, limit=args.limit,
        )  # fmt: skip
        for one in found:
            emit({"number": one.number, **one.document}, summary(one), as_json=args.json)
    if len(found) == args.limit and not args.json:
        say(f"more: --before {found[-1].number}")
    return 0


def _export(args: argparse.Namespace) -> int:
    given = {"since": args.since, "until": args.until, "recipe": args.recipe, "station": args.station}
    with bank_of(args, read_only=True) as bank:
        if args.data_set:
            made = bank.export_data_set(args.file, **given)
            document = {**asdict(made), "folder": str(made.folder), "left_out": dict(made.left_out)}
            lines = [
                f"{made.pictures} pictures in {made.folder}: {made.corrected} drawn, {made.edited} edited,"
                f" {made.confirmed} as they were"
            ]
            lines += [f"  left out {record_id}: {why}" for record_id, why in made.left_out]
            emit(document, "\n".join(lines), as_json=args.json)
            return 0
        count = bank.export(args.file, table=args.table, outcome=args.outcome, defect_type=args.type, **given)
    emit({"file": str(args.file), "records": count}, f"{count} {args.table} written to {args.file}", as_json=args.json)
    return 0


def _cleanup(args: argparse.Namespace) -> int:
    from ..memory import Policy

    with bank_of(args, read_only=False) as bank:
        done = bank.clean(Policy(records_days=args.days), who=user_name(), why="memory cleanup")
    document = {"records": done.records, "picture_folders": done.pictures}
    text = f"{done.records} records and {done.pictures} picture folders removed"
    emit(document, text, as_json=args.json)
    return 0


def _clean(args: argparse.Namespace) -> int:
    from ..config import load_config
    from ..memory import Policy

    given = (args.keep_days, args.keep_pictures_days, args.keep_gb)
    if any(one is not None for one in given):
        policy = Policy(
            args.keep_days, args.keep_pictures_days, None if args.keep_gb is None else int(1e9 * args.keep_gb)
        )
    elif args.config is not None:
        policy = load_config(args.config).memory.retention
    else:
        raise UsageError(
            "nothing says what is to stay", hint="--keep-days, --keep-pictures-days, --keep-gb, or --config"
        )
    if policy.empty:
        raise UsageError(f"{args.config}: [memory] keeps everything", hint="keep_records, keep_pictures or keep_size")
    with bank_of(args, read_only=args.dry_run) as bank, counting("removed") as show:
        done = bank.clean(policy, who=args.who, why=args.why, dry_run=args.dry_run, progress=show)
    document = asdict(done)
    del document["folders"]
    would = "would be" if args.dry_run else "were"
    pictures = f"the pictures of {done.pictures} ({done.pictures_bytes / 1e6:.1f} MB)"
    if done.failed:
        say(f"{done.failed} records stay because their pictures cannot be deleted: {done.trouble}")
    emit(document, f"{done.records} records and {pictures} {would} removed", as_json=args.json)
    return 0


def _push(args: argparse.Namespace) -> int:
    from ..memory import MemoryBank

    with bank_of(args, read_only=True) as bank, MemoryBank(args.to, busy_timeout_s=30.0) as plant:
        with counting("records") as show:
            records, words = bank.push(plant, who=user_name(), progress=show)
        document = {"to": plant.name, "records": records, "feedback": words}
    emit(document, f"{records} records and {words} words of feedback carried to {document['to']}", as_json=args.json)
    return 0


def _verify(args: argparse.Namespace) -> int:
    with bank_of(args, read_only=True) as bank, counting("rows") as show:
        found = bank.verify(derived=not args.quick, expect=args.expect, progress=show)
    lines = [f"{fault.what} at row {fault.number}: {fault.text}" for fault in found.faults]
    lines += [
        f"removed by {one.who} at {one.at_utc} ({one.why}): {one.records} records, pictures of {one.pictures},"
        f" run {one.run}"
        for one in found.removed
    ]
    lines.append(f"{found.rows} rows, {found.records} records, {found.removed_records} removed and accounted for")
    lines.append(f"end of the chain: {found.head}")
    lines.append("nothing was changed" if found.ok else "THE BANK IS NOT AS IT WAS STORED")
    emit(asdict(found), "\n".join(lines), as_json=args.json)
    return 0 if found.ok else _EXIT_INTEGRITY
