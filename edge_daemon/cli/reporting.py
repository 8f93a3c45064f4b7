"""``report``: of a part or of a lot, made from stored records."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from . import add_common, emit

if TYPE_CHECKING:
    from ..memory import StoredRecord
    from ..station.report import Report

#: More records than this are a year's production, not a lot.
_MOST_RECORDS = 200_000


def register(commands: Any) -> None:
    """Add ``report``."""
    report = commands.add_parser(
        "report",
        help="the report of a stored part, or of a lot",
        description="Make report.html and report.pdf from stored records; the same record gives the same bytes.",
        epilog="example: edge-daemon report lot --database memory.db --since 2026-11-23 --out reports/",
    )
    verbs = report.add_subparsers(dest="verb", metavar="VERB", required=True)
    part = verbs.add_parser(
        "part", help="one part", epilog="example: edge-daemon report part results/casting --paper letter --out reports/"
    )
    part.add_argument(
        "record", metavar="RECORD|DIR", help="a record id (with --database), or a folder of inspect --out"
    )
    part.set_defaults(run=_part)
    lot = verbs.add_parser(
        "lot", help="many parts: counts, types, the worst, over time",
        epilog="example: edge-daemon report lot results/ --name L-2026-17 --out reports/",
    )  # fmt: skip
    lot.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="a folder of folders of inspect --out")
    lot.add_argument("--since", metavar="UTC", help="ISO 8601, or its beginning: 2026-01-31")
    lot.add_argument("--until", metavar="UTC", help="the last moment, or its beginning (2026-01-31 is the whole day)")
    lot.add_argument("--name", default="", metavar="LOT", help="of the lot, for the head of the report")
    lot.set_defaults(run=_lot)
    for verb in (part, lot):
        verb.add_argument("--database", type=Path, metavar="FILE", help="[memory] database of line.toml")
        verb.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to write (here)")
        verb.add_argument("--paper", choices=["a4", "letter"], default="a4")
        verb.add_argument("--language", choices=["en", "he"], default="en")
        add_common(verb)


def _bank(database: Path) -> Any:
    from ..memory import MemoryBank

    if not database.exists():
        raise UsageError(f"{database}: no such memory bank", hint="[memory] database of line.toml")
    return MemoryBank(database, read_only=True)


def _part(args: argparse.Namespace) -> int:
    from ..station.report import report_of
    from ..station.report.sources import record_of_folder, stored_pictures
    from ..station.words import Words

    if args.database is None:
        folder: Path | None = Path(args.record)
        document = record_of_folder(Path(args.record))
    else:
        with _bank(args.database) as bank:
            stored: StoredRecord | None = bank.get(args.record)
        if stored is None:
            raise UsageError(f"no record {args.record} in {args.database}", hint="edge-daemon memory history")
        document, folder = stored.document, None if stored.pictures is None else Path(stored.pictures)
    kept = stored_pictures(folder, document)
    report = report_of(document, pixels=kept.pixels, labels=kept.labels, drawn=kept.drawn, words=Words(args.language))
    return _write(args, report, f"report-{document['record_id']}", {"record_id": document["record_id"]})


def _lot(args: argparse.Namespace) -> int:
    from ..station.report.lot import lot_report
    from ..station.words import Words

    if (args.folder is None) == (args.database is None):
        raise UsageError("a lot is a folder of records or --database", hint="give one of both")
    documents = list(_of_bank(args) if args.database is not None else _of_folder(args))
    if not documents:
        raise UsageError("no record in this lot", hint="other --since or --until?")
    if len(documents) > _MOST_RECORDS:
        raise UsageError(f"more than {_MOST_RECORDS} records", hint="narrow the lot with --since and --until")
    report = lot_report(documents, name=args.name, words=Words(args.language))
    stem = "lot" + (f"-{re.sub(r'[^A-Za-z0-9._-]', '_', args.name)}" if args.name else "")
    return _write(args, report, stem, {"records": len(documents)})


def _of_bank(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with _bank(args.database) as bank:
        for one in bank.history(since=args.since, limit=_MOST_RECORDS + 1):
            if args.until is None or one.trigger_utc[: len(args.until)] <= args.until:
                yield one.document


def _of_folder(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from ..station.reading import recorded_utc
    from ..station.report.sources import record_of_folder

    for path in sorted(args.folder.glob("*/record.json")):
        document = record_of_folder(path.parent)
        when = recorded_utc(document) or ""
        if (args.since is None or when >= args.since) and (args.until is None or when[: len(args.until)] <= args.until):
            yield document


def _write(args: argparse.Namespace, report: Report, stem: str, document: dict[str, Any]) -> int:
    from ..images import make_folder, write_bytes_atomic

    folder = make_folder(args.out)
    html, pdf = folder / f"{stem}.html", folder / f"{stem}.pdf"
    write_bytes_atomic(html, report.html().encode())
    write_bytes_atomic(pdf, report.pdf(args.paper))
    emit({**document, "html": str(html), "pdf": str(pdf)}, f"{html}\n{pdf}", as_json=args.json)
    return 0
