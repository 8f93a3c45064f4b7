"""From a station's bank into a plant's: records with all that is found through them, and what people said about them.

Records go in the order of storing, many to a transaction, each once: what the plant has by its id is passed over, so a
push that was cut short is simply run again. In the plant's bank a record gets its own place in the plant's audit chain;
its place in the station's is noted with each batch (``pushed``), so that one can be compared with the other. Corrected
label images go with the feedback; pictures do not: the paths of their folders are the station's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .backend import Backend
from .finding import Wanted, numbers, stored_records
from .storing import Appender, NewRecord

__all__ = ["push"]

_PAGE = 200
_WORD = (
    "record_id, position, verdict, correct_type, who, why, at_utc, mask_sha256, mask_types, rejudged, current, number"
)


def push(source: Backend, target: Backend, *, who: str, progress: Callable[[int], None]) -> tuple[int, int]:
    """Carry what the target does not have; (records, words of feedback). progress: how many records are done with."""
    (bank_id,) = source.query("SELECT value FROM meta WHERE name = 'bank_id'")[0]
    pushed = seen = after = 0
    while page := numbers(source, Wanted(), limit=_PAGE, after=after):
        after = page[-1]
        seen += len(page)
        pushed += _push_records(source, target, page, who, bank_id)
        progress(seen)
    return pushed, _push_feedback(source, target)


def _known(target: Backend, ids: list[str]) -> set[str]:
    marks = ", ".join("?" * len(ids))
    return {row[0] for row in target.query(f"SELECT record_id FROM records WHERE record_id IN ({marks})", tuple(ids))}


def _push_records(source: Backend, target: Backend, page: list[int], who: str, bank_id: str) -> int:
    records = stored_records(source, page)
    known = _known(target, [one.record_id for one in records])
    records = [one for one in records if one.record_id not in known]
    if not records:
        return 0
    contrasts = _contrasts(source, [one.number for one in records])
    with target.writing() as db:
        chain = Appender(db)
        for one in records:
            marked = contrasts.get(one.number, {})
            chain.record(
                NewRecord(
                    one.record_id, one.part_id, one.station, one.trigger_utc, str(one.outcome), one.result,
                    one.document, None, None, None, one.created_utc,
                    [marked.get(position) for position in range(max(marked, default=-1) + 1)],
                )
            )  # fmt: skip
        body = {"bank": bank_id, "first": records[0].number, "last": records[-1].number, "count": len(records),
                "sha256": records[-1].sha256}  # fmt: skip
        chain.note("pushed", records[0].station, who=who, why="memory push", body=body)
        chain.finish()
    return len(records)


def _contrasts(source: Backend, some: list[int]) -> dict[int, dict[int, float]]:
    marks = ", ".join("?" * len(some))
    found: dict[int, dict[int, float]] = {}
    for number, position, contrast in source.query(
        f"SELECT number, position, contrast FROM detections WHERE contrast IS NOT NULL AND number IN ({marks})",
        tuple(some),
    ):
        found.setdefault(number, {})[position] = contrast
    return found


def _push_feedback(source: Backend, target: Backend) -> int:
    """Words in their order; the same word (record, indication, who, when) once."""
    pushed = after = 0
    while True:
        rows = source.query(f"SELECT {_WORD} FROM feedback WHERE number > ? ORDER BY number LIMIT ?", (after, _PAGE))
        if not rows:
            return pushed
        after = rows[-1][-1]
        for row in rows:
            pushed += _push_word(source, target, row)


def _push_word(source: Backend, target: Backend, row: tuple[Any, ...]) -> bool:
    from .people import add_word

    record_id, position, verdict, correct_type, who, why, at_utc, mask_sha256, mask_types, rejudged, _, _ = row
    if not _known(target, [record_id]):
        return False  # retention has taken the record at one end or the other
    there = target.query(
        "SELECT position FROM feedback WHERE record_id = ? AND who = ? AND at_utc = ? AND verdict = ?",
        (record_id, who, at_utc, verdict),
    )
    if (position,) in [tuple(one) for one in there]:
        return False
    png = None
    if mask_sha256 is not None:
        png = bytes(source.query("SELECT png FROM masks WHERE sha256 = ?", (mask_sha256,))[0][0])
    add_word(
        target, record_id, verdict, who=who, why=why, position=position, correct_type=correct_type, png=png,
        mask_types=json.loads(mask_types), rejudged=rejudged, at_utc=at_utc,
    )  # fmt: skip
    return True
