"""What people add to the bank: feedback on records, their own words about defects; and what they did, in the chain.

A record never changes. A word of feedback is a row of its own, with who, when and why, and a link in the audit chain;
a later word about the same indication makes the earlier one no longer current, and both stay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import StorageError, UsageError
from ..records import TYPE_IDS, UNKNOWN_LABEL, UNKNOWN_TYPE
from ..tickets import utc_now
from .backend import Backend, Transaction
from .chain import canonical_json
from .finding import stored_record
from .rows import FEEDBACK_VERDICTS, Chained, Feedback, Pattern, StoredRecord
from .storing import EVERYWHERE, Appender

__all__ = [
    "OWN_KINDS",
    "add_feedback",
    "add_word",
    "edit_pattern",
    "feedback_rows",
    "mask_of",
    "notes",
    "patterns",
    "said",
]

#: Kinds of chained rows that the bank writes by itself.
OWN_KINDS = frozenset(
    {"record", "feedback", "pattern", "removed", "pictures_removed", "retention", "migrated", "pushed",
     "session_started", "session_ended"}
)  # fmt: skip

_LONGEST = 2000
_FEEDBACK_COLUMNS = (
    "number, record_id, position, verdict, correct_type, who, why, at_utc, mask_sha256, mask_types, rejudged, current"
)
_IGNORED = 254


def said(what: str, text: str, *, needed: bool = True) -> str:
    """A person's words: stripped, not empty where needed, not too long. Raises UsageError."""
    text = text.strip()
    if needed and not text:
        raise UsageError(f"{what} is missing", hint="every change is kept with who made it and why")
    if len(text) > _LONGEST:
        raise UsageError(f"{what} has {len(text)} characters", hint=f"at most {_LONGEST}")
    return text


# ---------------------------------------------------------------- feedback


def add_feedback(
    db: Backend, record_id: str, verdict: str, *, who: str, why: str, position: int | None, correct_type: str | None,
    mask: NDArray[np.uint8] | None, mask_types: Sequence[str], rejudged: Mapping[str, Any] | None,
) -> Feedback:  # fmt: skip
    """Store one word of feedback; see MemoryBank.feedback."""
    record = stored_record(db, record_id)
    if record is None:
        raise UsageError(f"there is no record {record_id}", code="NOT_FOUND", hint="'memory history' lists the records")
    who, why = said("who", who), said("why", why, needed=verdict != "confirm")
    _check(record, verdict, position, correct_type, mask)
    png = None
    if mask is not None:
        import cv2

        _check_mask(record, mask, mask_types)
        png = cv2.imencode(".png", mask)[1].tobytes()
    return add_word(
        db, record_id, verdict, who=who, why=why, position=position, correct_type=correct_type, png=png,
        mask_types=list(mask_types) if mask is not None else [],
        rejudged=None if rejudged is None else canonical_json(rejudged), at_utc=utc_now(),
    )  # fmt: skip


def add_word(
    db: Backend, record_id: str, verdict: str, *, who: str, why: str, position: int | None, correct_type: str | None,
    png: bytes | None, mask_types: list[str], rejudged: str | None, at_utc: str,
) -> Feedback:  # fmt: skip
    """Store a word that makes sense. png: the corrected label image; rejudged: canonical JSON."""
    record = stored_record(db, record_id)
    mask_sha256 = None if png is None else hashlib.sha256(png).hexdigest()
    body = {
        "position": position, "verdict": verdict, "correct_type": correct_type, "mask_sha256": mask_sha256,
        "mask_types": mask_types, "record_sha256": None if record is None else record.sha256,
        "rejudged_sha256": None if rejudged is None else hashlib.sha256(rejudged.encode()).hexdigest(),
    }  # fmt: skip
    with db.writing() as transaction:
        # The record could have gone since: retention holds the same writer.
        there = transaction.execute("SELECT 1 FROM records WHERE record_id = ?", (record_id,)).fetchone()
        if there is None or record is None:
            raise UsageError(f"record {record_id} has just been removed by retention", code="NOT_FOUND")
        chain = Appender(transaction)
        number = chain.note("feedback", record_id, who=who, why=why, body=body, at_utc=at_utc)
        chain.finish()
        _replace_earlier(transaction, record, position)
        if png is not None:
            transaction.execute("INSERT INTO masks VALUES (?, ?) ON CONFLICT (sha256) DO NOTHING", (mask_sha256, png))
        transaction.execute(
            f"INSERT INTO feedback ({_FEEDBACK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
            (number, record_id, position, verdict, correct_type, who, why, at_utc, mask_sha256, json.dumps(mask_types),
             rejudged),
        )  # fmt: skip
        _count(transaction, record, position, verdict, correct_type, 1)
    return feedback_rows(db, "number = ?", (number,))[0]


def _check(
    record: StoredRecord, verdict: str, position: int | None, correct_type: str | None, mask: NDArray[np.uint8] | None
) -> None:
    if verdict not in FEEDBACK_VERDICTS:
        raise UsageError(f"feedback {verdict!r} is not known", hint="one of: " + ", ".join(FEEDBACK_VERDICTS))
    defects = record.document.get("defects") or ()
    if position is not None and not 0 <= position < len(defects):
        raise UsageError(
            f"record {record.record_id} has no indication {position}", hint=f"it lists {len(defects)}, counted from 0"
        )
    if verdict == "missed" and position is not None:
        raise UsageError("what was missed is none of the indications", hint="leave the indication out")
    if verdict == "wrong_type" and mask is None and (position is None or correct_type is None):
        raise UsageError(
            "wrong_type needs the indication and its right type, or a corrected label image",
            hint="the indication's place in 'defects', from 0, and one of the type identifiers",
        )
    if verdict == "confirm" and mask is not None:
        raise UsageError("a corrected label image does not confirm", hint="wrong_type, missed or false_call")
    if correct_type is not None:
        if verdict not in ("wrong_type", "missed"):
            raise UsageError(f"{verdict} has no right type", hint="wrong_type or missed")
        if correct_type not in TYPE_IDS:
            raise UsageError(f"{correct_type!r} is no type of defect", hint="one of: " + ", ".join(TYPE_IDS))
        if position is not None and defects[position]["type"] == correct_type:
            raise UsageError(f"indication {position} was named {correct_type} already", hint="confirm it")


def _check_mask(record: StoredRecord, mask: NDArray[np.uint8], mask_types: Sequence[str]) -> None:
    """A label image of the record's own frame, whose every value has a meaning."""
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise UsageError(
            "a corrected label image is uint8 (H, W)", hint="0 sound, 1..K types, 254 ignored, 255 unknown"
        )
    strange = [name for name in mask_types if name not in TYPE_IDS]
    if strange:
        raise UsageError(f"{strange[0]!r} is no type of defect", hint="one of: " + ", ".join(TYPE_IDS))
    values = set(np.unique(mask).tolist()) - {0, _IGNORED, UNKNOWN_LABEL}
    if values and max(values) > len(mask_types):
        raise UsageError(
            f"the corrected label image holds the value {max(values)}, but names {len(mask_types)} types",
            hint="name the type of each value 1..K, in their order",
        )
    shape = _frame_shape(record)
    if shape != mask.shape:
        raise UsageError(
            f"the corrected label image is {mask.shape[1]} x {mask.shape[0]} px, the record's picture {shape[1]} x"
            f" {shape[0]} px",
            hint="correct the labels of this very picture",
        )


def _frame_shape(record: StoredRecord) -> tuple[int, int]:
    if record.pictures is None:
        raise UsageError(
            f"the picture of record {record.record_id} is not kept", hint="a label image belongs to a stored picture"
        )
    from ..images import load_labels, load_picture

    folder = Path(record.pictures)
    labels = folder / "labels.png"
    shape = load_labels(labels).shape if labels.is_file() else load_picture(folder / "frame.png").pixels.shape
    return int(shape[0]), int(shape[1])


def _replace_earlier(db: Transaction, record: StoredRecord, position: int | None) -> None:
    """What was said before about the same indication no longer counts."""
    same = "record_id = ? AND current = 1 AND position " + ("IS NULL" if position is None else "= ?")
    values = (record.record_id,) if position is None else (record.record_id, position)
    for number, verdict, correct_type in db.execute(
        f"SELECT number, verdict, correct_type FROM feedback WHERE {same}", values
    ).fetchall():
        db.execute("UPDATE feedback SET current = 0 WHERE number = ?", (number,))
        _count(db, record, position, verdict, correct_type, -1)


def _count(
    db: Transaction, record: StoredRecord, position: int | None, verdict: str, correct_type: str | None, step: int
) -> None:
    column = {"confirm": "confirmed", "wrong_type": "wrong_type", "missed": "missed", "false_call": "false_calls"}[
        verdict
    ]
    day = record.trigger_utc[:10]
    engine = (record.document.get("engine") or {}).get("sha256") or ""
    db.execute(
        f"UPDATE performance SET {column} = {column} + ? WHERE day = ? AND station = ? AND recipe = ? AND engine = ?",
        (step, day, record.station, record.recipe, engine),
    )
    named = correct_type if position is None else record.document["defects"][position]["type"]
    if named is not None:
        db.executemany(
            f"INSERT INTO type_days (day, station, recipe, type, parts, passed, advisory, indications, area_mm2,"
            f" confidence_sum, confidence_n, {column}) VALUES (?, ?, ?, ?, 0, 0, 0, 0, 0, 0, 0, ?)"
            " ON CONFLICT (day, station, recipe, type)"
            f" DO UPDATE SET {column} = type_days.{column} + excluded.{column}",
            [(day, *whose, named, step) for whose in ((record.station, record.recipe), EVERYWHERE)],
        )


def feedback_rows(db: Backend, where: str, values: tuple[Any, ...], *, limit: int = 10_000) -> list[Feedback]:
    """Words of feedback, the newest first. where: a condition of our own making."""
    rows = db.query(
        f"SELECT {_FEEDBACK_COLUMNS} FROM feedback WHERE {where} ORDER BY number DESC LIMIT ?", (*values, limit)
    )
    found = []
    for *plain, types, rejudged, current in rows:
        again = None if rejudged is None else json.loads(rejudged)
        fields: Any = (*plain, tuple(json.loads(types)), again, bool(current))
        found.append(Feedback(*fields))
    return found


def mask_of(db: Backend, sha256: str) -> NDArray[np.uint8]:
    """A stored corrected label image, uint8 (H, W). Raises UsageError where there is none, StorageError if damaged."""
    rows = db.query("SELECT png FROM masks WHERE sha256 = ?", (sha256,))
    if not rows:
        raise UsageError(f"there is no label image {sha256}", code="NOT_FOUND")
    import cv2

    labels = cv2.imdecode(np.frombuffer(bytes(rows[0][0]), np.uint8), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.dtype != np.uint8 or labels.ndim != 2:
        raise StorageError(f"label image {sha256} cannot be read", code="CORRUPT", hint="'memory verify' says more")
    return np.asarray(labels, np.uint8)


# ---------------------------------------------------------------- patterns


#: Languages that the shipped words exist in: one file each under patterns/.
LANGUAGES = ("en", "he")


@cache
def _shipped(language: str) -> dict[str, Pattern]:
    if language not in LANGUAGES:
        raise UsageError(f"there are no words in the language {language!r}", hint="one of: " + ", ".join(LANGUAGES))
    file = files("edge_daemon.memory") / "patterns" / f"{language}.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    return {
        name: Pattern(name, one["title"], one["description"], tuple(one["causes"]), tuple(one["severity"]))
        for name, one in document["types"].items()
    }


def patterns(db: Backend, language: str) -> dict[str, Pattern]:
    """What is known about every type of defect: the user's own words where there are any, in whatever language they
    are, else the shipped ones of ``language``."""
    rows = db.query("SELECT type, title, description, causes, severity, edited_by, edited_utc FROM patterns")
    own = {row[0]: Pattern(row[0], row[1], row[2], tuple(json.loads(row[3])), tuple(json.loads(row[4])), row[5], row[6])
           for row in rows}  # fmt: skip
    return {**_shipped(language), **own}


def edit_pattern(
    db: Backend, type_: str, *, who: str, why: str, title: str | None, description: str | None,
    causes: Sequence[str] | None, severity: Sequence[str] | None, reset: bool, language: str,
) -> Pattern:  # fmt: skip
    """Put the user's own words in place of the shipped ones, or with ``reset`` the shipped ones back."""
    if type_ not in (*TYPE_IDS, UNKNOWN_TYPE):
        raise UsageError(f"{type_!r} is no type of defect", hint="one of: " + ", ".join((*TYPE_IDS, UNKNOWN_TYPE)))
    who, why = said("who", who), said("why", why)
    at_utc = utc_now()
    before = _shipped(language)[type_] if reset else patterns(db, language)[type_]
    given: dict[str, Any] = {
        "title": None if title is None else said("the title", title),
        "description": None if description is None else said("the description", description),
        "causes": None if causes is None else tuple(said("a cause", one) for one in causes),
        "severity": None if severity is None else tuple(said("an indicator", one) for one in severity),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes and not reset:
        raise UsageError("nothing was changed", hint="a title, a description, causes or severity indicators")
    after = replace(before, **changes, edited_by=None if reset else who, edited_utc=None if reset else at_utc)
    body = {"reset": reset, "title": after.title, "description": after.description, "causes": list(after.causes),
            "severity": list(after.severity)}  # fmt: skip
    with db.writing() as transaction:
        chain = Appender(transaction)
        chain.note("pattern", type_, who=who, why=why, body=body, at_utc=at_utc)
        chain.finish()
        transaction.execute("DELETE FROM patterns WHERE type = ?", (type_,))
        if not reset:
            transaction.execute(
                "INSERT INTO patterns VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    type_,
                    after.title,
                    after.description,
                    json.dumps(after.causes),
                    json.dumps(after.severity),
                    who,
                    at_utc,
                ),
            )
    return after


# ---------------------------------------------------------------- the trail


def notes(db: Backend, *, kind: str | None, subject: str | None, limit: int, before: int | None) -> list[Chained]:
    """Rows of the chain that are no records, the newest first."""
    given = {"kind = ?": kind, "subject = ?": subject, "number < ?": before}
    where = " AND ".join(clause for clause, value in given.items() if value is not None) or "1 = 1"
    rows = db.query(
        "SELECT number, kind, subject, who, why, at_utc, body, sha256 FROM audit"
        f" WHERE {where} ORDER BY number DESC LIMIT ?",
        (*(value for value in given.values() if value is not None), limit),
    )
    found = []
    for *plain, body, sha256 in rows:
        fields: Any = (*plain, json.loads(body), bytes(sha256).hex())
        found.append(Chained(*fields))
    return found
