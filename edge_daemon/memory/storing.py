"""Writing rows of the audit chain and everything that is found through them, inside one running transaction.

One way for the line, for migration, for a plant's bank and for tests: whatever stores a record stores it through here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..records import UNKNOWN_TYPE
from ..tickets import utc_now
from .backend import Transaction
from .chain import canonical_json, document_sha256, link, packed, record_fields
from .indications import Figures, detection_rows, figures_of

__all__ = ["EVERYWHERE", "Appender", "NewRecord", "Prepared", "prepare"]

_OUTCOME_COLUMNS = {"PASS": "pass_parts", "INCONCLUSIVE": "inconclusive", "FAIL": "fail",
                    "NOT_EVALUABLE": "not_evaluable"}  # fmt: skip


#: Station and recipe of the rows of ``type_days`` that count all stations and recipes; no station has this name.
EVERYWHERE = ("", "")


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to be stored. pictures: folder; pictures_bytes: what it takes on disk, None where nobody measured.
    session: number of the session that stores it. created_utc: None for now. contrasts: by position of the defect."""

    record_id: str
    part_id: int | None
    station: str
    trigger_utc: str
    outcome: str
    result: str
    document: Mapping[str, Any] = field(repr=False)
    pictures: str | None = None
    pictures_bytes: int | None = None
    session: int | None = None
    created_utc: str | None = None
    contrasts: Sequence[float | None] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A record and everything about it that can be worked out before the writer is held. sha256: of its canonical
    JSON; packed: the same, compressed; detections: rows without the record's number."""

    new: NewRecord
    sha256: str
    packed: bytes = field(repr=False)
    figures: Figures
    detections: list[tuple[Any, ...]] = field(repr=False)


def prepare(new: NewRecord) -> Prepared:
    """The slow part of storing a record. Raises ValueError or TypeError when its document is not JSON."""
    document = canonical_json(new.document)
    rows = detection_rows(new.document, new.contrasts)
    return Prepared(new, document_sha256(document), packed(document), figures_of(new.document), rows)


class Appender:
    """The end of the audit chain inside one transaction: append records and notes, then ``finish``.

    Until ``finish`` the stored end of the chain is the old one; a transaction without it must be rolled back.
    """

    def __init__(self, db: Transaction) -> None:
        self._db = db
        head = db.execute("SELECT number, sha256, records, indications, pictures_bytes FROM chain").fetchone()
        self.number: int = head[0]
        self.sha256: bytes = bytes(head[1])
        self._records, self._indications, self._pictures_bytes = head[2:]

    def skip_to(self, number: int) -> None:
        """Let the next row have this number, where it is not taken yet."""
        self.number = max(self.number, number - 1)

    def record(self, record: NewRecord | Prepared) -> int:
        """Store a record with all that is found through it; its number. ValueError, TypeError: it is not JSON."""
        db, number, previous = self._db, self.number + 1, self.sha256
        prepared = record if isinstance(record, Prepared) else prepare(record)
        new, figures = prepared.new, prepared.figures
        columns: dict[str, Any] = {
            "record_id": new.record_id, "part_id": new.part_id, "station": new.station, "recipe": figures.recipe,
            "session": new.session, "trigger_utc": new.trigger_utc, "outcome": new.outcome, "result": new.result,
            "advisory": int(figures.advisory), "reasons": json.dumps(figures.reasons),
            "types": json.dumps(figures.types), "indications": figures.indications, "pictures": new.pictures,
            "created_utc": new.created_utc or utc_now(),
        }  # fmt: skip
        sha256 = link("record", number, previous, record_fields(document_sha256=prepared.sha256, **columns))
        (group_id,) = db.execute(
            "INSERT INTO record_groups (station, recipe, outcome, result, records) VALUES (?, ?, ?, ?, 1)"
            " ON CONFLICT (station, recipe, outcome, result) DO UPDATE SET records = record_groups.records + 1"
            " RETURNING group_id",
            (new.station, figures.recipe, new.outcome, new.result),
        ).fetchall()[0]
        db.execute(
            "INSERT INTO records (record_id, part_id, station, recipe, session, trigger_utc, outcome, result, advisory,"
            " reasons, types, indications, pictures, created_utc, number, group_id, pictures_bytes, previous_sha256,"
            " sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*columns.values(), number, group_id, new.pictures_bytes, previous, sha256),
        )
        db.execute("INSERT INTO documents VALUES (?, ?)", (number, prepared.packed))
        rows = [(number, *row) for row in prepared.detections]
        if rows:
            types = [(name, group_id, number) for name in figures.types]
            db.executemany("INSERT INTO record_types VALUES (?, ?, ?)", types)
            db.executemany(f"INSERT INTO detections VALUES ({', '.join('?' * len(rows[0]))})", rows)
        self._count(number, new, figures)
        self.number, self.sha256 = number, sha256
        self._records += 1
        self._indications += len(rows)
        self._pictures_bytes += new.pictures_bytes or 0
        return number

    def _count(self, number: int, new: NewRecord, figures: Figures) -> None:
        """Add one record to what is counted per day."""
        day, passed = new.trigger_utc[:10], int(new.result == "PASS")
        sums = [sum(one[at] for one in figures.by_type.values()) for at in (1, 2, 3)]
        counted = {
            "parts": 1, "passed": passed, **{name: int(key == new.outcome) for key, name in _OUTCOME_COLUMNS.items()},
            "advisory": int(figures.advisory), "unknown_parts": int(UNKNOWN_TYPE in figures.types),
            "indications": figures.indications, "area_mm2": sums[0], "confidence_sum": sums[1],
            "confidence_n": sums[2], "segment_ms_sum": figures.segment_ms or 0.0,
            "segment_ms_n": int(figures.segment_ms is not None),
        }  # fmt: skip
        self._db.execute(
            _upsert("performance", ("day", "station", "recipe", "engine", "first_number", "last_number"),
                    tuple(counted), "last_number = excluded.last_number"),
            (day, new.station, figures.recipe, figures.engine, number, number, *counted.values()),
        )  # fmt: skip
        if figures.by_type:
            self._db.executemany(
                _upsert("type_days", ("day", "station", "recipe", "type"),
                        ("parts", "passed", "advisory", "indications", "area_mm2", "confidence_sum", "confidence_n")),
                [(day, *whose, name, 1, passed, int(figures.advisory), *sums_of)
                 for name, sums_of in sorted(figures.by_type.items())
                 for whose in ((new.station, figures.recipe), EVERYWHERE)],
            )  # fmt: skip

    def note(
        self, kind: str, subject: str, *, who: str, why: str, body: Mapping[str, Any], at_utc: str | None = None
    ) -> int:
        """Append a row that is no record; its number."""
        number, previous = self.number + 1, self.sha256
        fields = {
            "subject": subject, "who": who, "why": why, "at_utc": at_utc or utc_now(), "body": canonical_json(body),
        }  # fmt: skip
        sha256 = link(kind, number, previous, fields)
        self._db.execute(
            "INSERT INTO audit (kind, subject, who, why, at_utc, body, number, previous_sha256, sha256)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (kind, *fields.values(), number, previous, sha256),
        )
        self.number, self.sha256 = number, sha256
        return number

    def removed(self, *, records: int = 0, indications: int = 0, pictures_bytes: int = 0) -> None:
        """Take what retention has removed out of the totals."""
        self._records -= records
        self._indications -= indications
        self._pictures_bytes = max(0, self._pictures_bytes - pictures_bytes)

    def finish(self) -> None:
        """Write the end of the chain and the totals."""
        self._db.execute(
            "UPDATE chain SET number = ?, sha256 = ?, records = ?, indications = ?, pictures_bytes = ?",
            (self.number, self.sha256, self._records, self._indications, self._pictures_bytes),
        )


def _upsert(table: str, keys: tuple[str, ...], counted: tuple[str, ...], also: str = "") -> str:
    columns = (*keys, *counted)
    sets = ", ".join([f"{name} = {table}.{name} + excluded.{name}" for name in counted] + [also] * bool(also))
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        f" ON CONFLICT ({', '.join(keys[:4])}) DO UPDATE SET {sets}"
    )
