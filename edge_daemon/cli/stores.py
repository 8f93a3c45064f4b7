"""``memory`` and ``references``: what was found, and what it is compared with."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import StorageError, UsageError
from . import add_common, emit


def register(commands: Any) -> None:
    """Add ``memory`` and ``references``."""
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

    references = commands.add_parser(
        "references",
        help="reference sets 1 to 8",
        epilog="example: edge-daemon references verify demo/aluminum/6.35mm/crack",
    )
    verbs = references.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser(
        "list", help="every set of this installation", epilog="example: edge-daemon references list"
    )
    add_common(listing)
    listing.set_defaults(run=_references_list)
    verify = verbs.add_parser("verify", help="check every picture against its seal",
                              epilog="example: edge-daemon references verify my-set/")  # fmt: skip
    verify.add_argument("set", metavar="NAME|FOLDER")
    add_common(verify)
    verify.set_defaults(run=_references_verify)
    make = verbs.add_parser(
        "make",
        help="make a demonstration set of eight plates with the simulator",
        epilog="example: edge-daemon references make --discontinuity gas_porosity_round --out my-set/",
    )
    make.add_argument("--discontinuity", required=True, metavar="TYPE")
    make.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    make.add_argument("--seed", type=int, default=0)
    add_common(make)
    make.set_defaults(run=_references_make)


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


def _references_list(args: argparse.Namespace) -> int:
    from ..errors import EdgeError
    from ..recipe import load_reference_set
    from ..resources import data_folder

    worst, root = 0, data_folder("references")
    for manifest in sorted(root.rglob("manifest.json")):
        name = str(manifest.parent.relative_to(root))
        try:
            found = load_reference_set(manifest.parent)
        except EdgeError as error:
            emit({"set": name, "ok": False, "error": str(error)}, f"{name}: {error}", as_json=args.json)
            worst = max(worst, error.exit_code)
            continue
        levels = sorted(found.images)
        emit(
            {"set": name, "ok": True, "levels": levels, "sha256": found.sha256},
            f"{name} levels {levels}",
            as_json=args.json,
        )
    return worst


def _references_verify(args: argparse.Namespace) -> int:
    from ..recipe import load_reference_set
    from ..resources import reference_folder

    found = load_reference_set(reference_folder(args.set))
    document = {
        "set": args.set,
        "ok": True,
        "levels": sorted(found.images),
        "mm_per_px": found.scale.x_mm_per_px,
        "sha256": found.sha256,
    }
    emit(document, f"{args.set}: {len(found.images)} plates, seals hold, {found.scale.x_mm_per_px:g} mm per px",
         as_json=args.json)  # fmt: skip
    return 0


def _references_make(args: argparse.Namespace) -> int:
    from ..plates import make_plates
    from ..records import TYPE_IDS

    if args.discontinuity not in TYPE_IDS[:11]:
        raise UsageError(f"{args.discontinuity!r} is no casting discontinuity", hint=", ".join(TYPE_IDS[:11]))
    if args.out.exists() and any(args.out.iterdir()):
        raise StorageError(f"{args.out} is not empty", hint="name a new folder")
    sha256 = make_plates(args.out, args.discontinuity, seed=args.seed)
    emit({"folder": str(args.out), "sha256": sha256}, f"eight plates in {args.out}", as_json=args.json)
    return 0
