"""Finding records among a million: the newest that meet every condition, a page at a time.

Records fall into a few groups (station, recipe, outcome, result), and each group is kept in the order of storing; so
any combination of conditions is a merge of some short streams, one a group, and never a walk over the whole bank. A
span of time becomes a span of numbers by the days that ``performance`` keeps; clocks that were stepped make it wider,
never wrong, because each trigger is compared as well.
"""

from __future__ import annotations

import difflib
import heapq
import json
import re
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..records import TYPE_IDS, UNKNOWN_TYPE, Outcome
from .backend import Backend
from .chain import unpacked
from .rows import Indication, StoredRecord

__all__ = ["SELECT_INDICATION", "Wanted", "indication_of", "numbers", "stored_records"]

_UTC = re.compile(r"\d{4}(-\d\d(-\d\d([T ]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?)?)?Z?\Z")
_SELECT = (
    "SELECT r.number, record_id, part_id, station, trigger_utc, outcome, result, reasons, types, pictures, created_utc,"
    " document, recipe, advisory, indications, session, pictures_removed, sha256"
    " FROM records r JOIN documents d ON d.number = r.number"
)
_CHUNK = 500

SELECT_INDICATION = (
    "SELECT number, position, type, known, nearest_type, confidence, p_known, area_mm2, area_u_mm2, feret_max_mm,"
    " feret_u_mm, coverage_pct, contrast, x_px, y_px, w_px, h_px FROM detections"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records: every condition that is given must hold. Checked when it is made; raises UsageError.

    outcome, result, station, recipe, part_id: exactly this. defect_type: at least one indication of this type.
    since, until: ISO 8601 UTC of the trigger, or the beginning of it; both ends belong to the span, so
    ``until="2026-01-31"`` is the whole of that day.
    """

    outcome: Outcome | str | None = None
    defect_type: str | None = None
    since: str | None = None
    until: str | None = None
    recipe: str | None = None
    station: str | None = None
    result: str | None = None
    part_id: int | None = None

    def __post_init__(self) -> None:
        _check_choice("outcome", None if self.outcome is None else str(self.outcome), tuple(map(str, Outcome)))
        _check_choice("result", self.result, ("PASS", "FAIL"))
        _check_choice("type of defect", self.defect_type, (*TYPE_IDS, UNKNOWN_TYPE))
        for name, value in (("since", self.since), ("until", self.until)):
            if value is not None and not _UTC.match(value):
                raise UsageError(
                    f"{name}: {value!r} is no time",
                    hint="ISO 8601 in UTC, or its beginning: 2026-01-31 or 2026-01-31T08",
                )

    def span(self) -> tuple[str, str]:
        """(lowest, highest) text of the triggers that are meant."""
        low, high = ((value or "").rstrip("Z").replace(" ", "T") for value in (self.since, self.until))
        return low, high + "~" if high else "~"


def _check_choice(what: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        near = difflib.get_close_matches(value, known, 1)
        hint = (f"did you mean {near[0]!r}? " if near else "") + "one of: " + ", ".join(known)
        raise UsageError(f"{what} {value!r} is not known", hint=hint)


def numbers(
    db: Backend, wanted: Wanted, *, limit: int, before: int | None = None, after: int | None = None
) -> list[int]:
    """Numbers of the records that meet every condition: the newest first, below ``before``; with ``after`` the oldest
    first, above it. At most ``limit``."""
    if limit < 1:
        return []
    low, high = _number_span(db, wanted)
    low = max(low, 0 if after is None else after + 1)
    high = high if before is None else min(high, before - 1)
    if high < low:
        return []
    newest_first = after is None
    streams = _streams(db, wanted, low, high, limit, "DESC" if newest_first else "ASC")
    merged = heapq.merge(*streams, reverse=newest_first)
    return [number for number, _ in zip(merged, range(limit), strict=False)]


def _number_span(db: Backend, wanted: Wanted) -> tuple[int, int]:
    if wanted.since is None and wanted.until is None:
        return 0, 2**62
    low, high = wanted.span()
    first, last = db.query(
        "SELECT min(first_number), max(last_number) FROM performance WHERE day >= ? AND day <= ?",
        (low[:10], f"{high.rstrip('~')[:10]}~" if high != "~" else high),
    )[0]
    return (1, 0) if first is None else (first, last)


def _streams(db: Backend, wanted: Wanted, low: int, high: int, limit: int, order: str) -> list[list[int]]:
    timed = ""
    span: tuple[str, ...] = ()
    if wanted.since is not None or wanted.until is not None:
        timed, span = " AND trigger_utc >= ? AND trigger_utc <= ?", wanted.span()
    tail = f" ORDER BY number {order} LIMIT ?"
    given = {name: value for name, value in (("station", wanted.station), ("recipe", wanted.recipe),
             ("outcome", None if wanted.outcome is None else str(wanted.outcome)), ("result", wanted.result))
             if value is not None}  # fmt: skip
    if wanted.part_id is not None:
        # A part's number comes round every 65,536 parts: few rows, and every other condition is compared on them.
        typed = " AND EXISTS (SELECT 1 FROM record_types t WHERE t.number = records.number AND t.group_id ="
        typed += " records.group_id AND t.type = ?)"
        sql = "SELECT number FROM records WHERE part_id = ? AND number BETWEEN ? AND ?"
        sql += "".join(f" AND {name} = ?" for name in given) + timed + (typed if wanted.defect_type else "") + tail
        values = (wanted.part_id, low, high, *given.values(), *span)
        values += (wanted.defect_type,) if wanted.defect_type else ()
        return [[row[0] for row in db.query(sql, (*values, limit))]]
    if not given and wanted.defect_type is None:
        sql = f"SELECT number FROM records WHERE number BETWEEN ? AND ?{timed}{tail}"
        return [[row[0] for row in db.query(sql, (low, high, *span, limit))]]
    where = " AND ".join(f"{name} = ?" for name in given) or "1 = 1"
    groups = db.query(f"SELECT group_id FROM record_groups WHERE records > 0 AND {where}", tuple(given.values()))
    if wanted.defect_type is None:
        one = f"SELECT number FROM records WHERE group_id = ? AND number BETWEEN ? AND ?{timed}"
        first: tuple[Any, ...] = ()
    else:
        one = "SELECT number FROM record_types WHERE type = ? AND group_id = ? AND number BETWEEN ? AND ?"
        first = (wanted.defect_type,)
        if timed:
            one += f" AND EXISTS (SELECT 1 FROM records r WHERE r.number = record_types.number{timed})"
    if db.lateral:
        sql = one.replace("group_id = ?", "group_id = g.group_id")
        sql = f"SELECT n.number FROM record_groups g CROSS JOIN LATERAL ({sql}{tail}) n WHERE records > 0 AND {where}"
        values = (*first, low, high, *span, limit, *given.values(), limit)
        return [[row[0] for row in db.query(sql + tail.replace("number", "n.number"), values)]]
    return [
        [row[0] for row in db.query(one + tail, (*first, group_id, low, high, *span, limit))] for (group_id,) in groups
    ]


def stored_records(db: Backend, wanted_numbers: list[int]) -> list[StoredRecord]:
    """The records of these numbers in their order; one that is gone by now is left out."""
    found: dict[int, StoredRecord] = {}
    for start in range(0, len(wanted_numbers), _CHUNK):
        some = wanted_numbers[start : start + _CHUNK]
        marks = ", ".join("?" * len(some))
        for row in db.query(f"{_SELECT} WHERE r.number IN ({marks})", tuple(some)):
            found[row[0]] = _stored(row)
    return [found[number] for number in wanted_numbers if number in found]


def stored_record(db: Backend, record_id: str) -> StoredRecord | None:
    """The record with this id, or None."""
    rows = db.query(f"{_SELECT} WHERE record_id = ?", (record_id,))
    return _stored(rows[0]) if rows else None


def indication_of(row: tuple[Any, ...]) -> Indication:
    """A row of SELECT_INDICATION."""
    values: Any = (*row[:3], bool(row[3]), *row[4:13], tuple(row[13:17]))
    return Indication(*values)


def _stored(row: tuple[Any, ...]) -> StoredRecord:
    (number, record_id, part_id, station, trigger_utc, outcome, result, reasons, types, pictures, created_utc, document,
     recipe, advisory, indications, session, removed, sha256) = row  # fmt: skip
    return StoredRecord(
        number=number,
        record_id=record_id,
        part_id=part_id,
        station=station,
        trigger_utc=trigger_utc,
        outcome=Outcome(outcome),
        result=result,
        reasons=tuple(json.loads(reasons)),
        types=tuple(json.loads(types)),
        pictures=None if removed is not None else pictures,
        created_utc=created_utc,
        document=json.loads(unpacked(document)),
        recipe=recipe,
        advisory=bool(advisory),
        indications=indications,
        session=session,
        pictures_gone=removed is not None,
        sha256=bytes(sha256).hex(),
    )
