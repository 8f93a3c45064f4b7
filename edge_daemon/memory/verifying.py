"""``memory verify``: walk the audit chain from its first row to its end and name the first row that does not hold.

Then compare what is found through the records with what the records say: indications, types, groups, totals, words of
feedback, label images, sessions, pictures marked as removed. Reads page by page and changes nothing; the line may go on
storing, and rows that come after the start are left for the next time.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import StorageError, UsageError
from .backend import Backend
from .chain import document_sha256, link, record_fields, unpacked
from .indications import detection_rows

__all__ = ["Fault", "Removed", "Verified", "verify"]

_PAGE = 400
_MOST_FAULTS = 20
_COMPARED = frozenset({"feedback", "pattern", "session_started"})
_COLUMNS = (
    "r.number, previous_sha256, sha256, record_id, part_id, station, recipe, session, trigger_utc, outcome, result,"
    " advisory, reasons, types, indications, pictures, created_utc, document, group_id, pictures_removed"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """What does not hold. number: of the row, or of the one beside the gap. what: ``changed``, ``deleted``,
    ``inserted``, ``end`` (of the chain) or ``derived`` (what is found through a record differs from the record)."""

    number: int
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Removed:
    """What one retention run has taken away. why: as given; policy: its limits, empty where the run did not end."""

    run: str
    at_utc: str
    who: str
    why: str
    records: int
    pictures: int
    policy: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verified:
    """Outcome of a walk. rows: links checked; records: of them, records; removed_records: gone by retention and
    accounted for. head: ``number:sha256`` of the end, to be noted elsewhere."""

    ok: bool
    rows: int
    records: int
    removed_records: int
    removed: tuple[Removed, ...]
    head: str
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class _Link:
    """One row of the chain as stored. holds: its link is that of what it says."""

    number: int
    kind: str
    previous: bytes
    sha256: bytes
    holds: bool
    row: tuple[Any, ...]
    document: str = ""


def verify(
    db: Backend,
    *,
    derived: bool = True,
    expect: str | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Verified:
    """Walk the chain. derived: compare indications, types and totals with the documents as well. expect: a ``head``
    noted earlier, which must still be in the chain. progress: (rows done, rows in all)."""
    return _Walk(db, derived, expect, progress).go()


class _Walk:
    def __init__(self, db: Backend, derived: bool, expect: str | None, progress: Callable[[int, int], None]) -> None:
        self._db, self._derived, self._progress = db, derived, progress
        self._faults: list[Fault] = []
        self._derived_faults: list[Fault] = []
        self._expect = None if expect is None else _expected(expect)
        self._groups: Counter[int] = Counter()
        self._types: dict[tuple[str, int], list[int]] = {}
        self._marked: set[int] = set()
        self._notes: dict[int, tuple[Any, ...]] = {}
        self._head_number, self._head, self._totals = 0, b"", (0, 0)
        self._removed_records = 0
        self._expected_seen = expect is None

    def go(self) -> Verified:
        number, sha256, records, indications = self._db.query("SELECT number, sha256, records, indications FROM chain")[
            0
        ]
        self._head_number, self._head, self._totals = number, bytes(sha256), (records, indications)
        spans, rows, found = self._spans(), 0, 0
        current, last = bytes(32), 0
        links = self._links()
        here = next(links, None)
        while here is not None and len(self._faults) < _MOST_FAULTS:
            following = next(links, None)
            current, last = self._follow(spans, current, last, here.previous)
            if here.previous != current:
                spans = self._spans()  # retention may have run since
                current, last = self._follow(spans, current, last, here.previous)
            inserted = self._is_in_a_gap(here, spans.get(current)) or self._check_link(here, following, current, last)
            rows += 1
            found += here.kind == "record"
            if not inserted:
                current, last = here.sha256, here.number
            self._check_expected(here.number, here.sha256)
            if rows % _PAGE == 0:
                self._progress(here.number, self._head_number)
            here = following
        current, last = self._follow(spans, current, last, self._head)
        self._check_end(current, last)
        self._check_derived(found, records)
        self._progress(self._head_number, self._head_number)
        # Where the chain itself is broken, everything else only repeats it.
        faults = tuple(sorted(self._faults or self._derived_faults, key=lambda one: one.number)[:_MOST_FAULTS])
        return Verified(not faults, rows, found, self._removed_records, self._removals(),
                        f"{self._head_number}:{self._head.hex()}", faults)  # fmt: skip

    def _fault(self, number: int, what: str, text: str) -> None:
        (self._derived_faults if what == "derived" else self._faults).append(Fault(number, what, text))

    # ---------------------------------------------------------------- the chain

    def _spans(self) -> dict[bytes, dict[str, Any]]:
        """Removed stretches by the link of the row before them."""
        rows = self._db.query("SELECT number, body FROM audit WHERE kind = 'removed' ORDER BY number")
        spans: dict[bytes, dict[str, Any]] = {}
        for number, body in rows:
            try:
                for span in json.loads(body)["spans"]:
                    spans[bytes.fromhex(span["previous_sha256"])] = span
            except (ValueError, KeyError, TypeError):
                self._fault(number, "changed", f"row {number} says what was removed, and cannot be read")
        return spans

    def _follow(self, spans: dict[bytes, dict[str, Any]], current: bytes, last: int, until: bytes) -> tuple[bytes, int]:
        """Go over the stretches that retention has removed between ``current`` and the row that states ``until``."""
        at, number, gone = current, last, 0
        while at != until and at in spans and spans[at]["first"] > number:
            span = spans[at]
            at, number, gone = bytes.fromhex(span["sha256"]), span["last"], gone + span["count"]
            self._check_expected(number, at, between=span["first"])
        if at != until:
            return current, last
        self._removed_records += gone
        return at, number

    def _is_in_a_gap(self, here: _Link, span: dict[str, Any] | None) -> bool:
        """Whether this row stands where retention has removed all; not one that was removed just after it was read."""
        if span is None or not span["first"] <= here.number <= span["last"]:
            return False
        table = "records" if here.kind == "record" else "audit"
        if not self._db.query(f"SELECT 1 FROM {table} WHERE number = ?", (here.number,)):
            return False
        self._fault(here.number, "inserted", f"row {here.number} was put in where retention has removed all")
        return True

    def _check_link(self, here: _Link, following: _Link | None, current: bytes, last: int) -> bool:
        """Whether this row holds and follows from the one before; True when it does not belong here at all."""
        what = f"{'record' if here.kind == 'record' else here.kind} row {here.number}"
        if here.kind == "record":
            what += f" ({here.row[3]})"
        if here.previous == current:
            if not here.holds:
                self._fault(here.number, "changed", f"{what} is not what was stored")
            return False
        if following is not None and following.previous == current:
            self._fault(here.number, "inserted", f"{what} was put in between")
            return True
        if not here.holds:
            self._fault(here.number, "changed", f"{what} is not what was stored")
        elif here.number == last + 1:
            self._fault(last, "changed", f"row {last} is not what row {here.number} follows from")
        else:
            gone = f"row {last + 1} is" if here.number == last + 2 else f"rows {last + 1} to {here.number - 1} are"
            self._fault(last + 1, "deleted", f"{gone} gone, and no retention run has removed them")
        return False

    def _check_end(self, current: bytes, last: int) -> None:
        if self._faults or (current == self._head and last == self._head_number):
            return
        if last < self._head_number:
            gone = (
                f"row {last + 1} is" if self._head_number == last + 1 else f"rows {last + 1} to {self._head_number} are"
            )
            self._fault(last + 1, "deleted", f"{gone} gone at the end of the chain")
        else:
            self._fault(last, "end", f"the end of the chain is not row {last}")

    def _check_expected(self, number: int, sha256: bytes, between: int | None = None) -> None:
        if self._expect is None or self._expected_seen:
            return
        wanted, expected = self._expect
        if number == wanted:
            self._expected_seen = True
            if sha256 != expected:
                self._fault(number, "changed", f"row {number} is another one than was noted")
        elif between is not None and between <= wanted < number:
            self._expected_seen = True  # inside a stretch that is gone: its ends hold, nothing more can be said

    def _links(self) -> Iterator[_Link]:
        return heapq.merge(self._records(), self._audit(), key=lambda one: one.number)

    def _records(self) -> Iterator[_Link]:
        last = 0
        while True:
            page = self._db.query(
                f"SELECT {_COLUMNS} FROM records r LEFT JOIN documents d ON d.number = r.number"
                " WHERE r.number > ? AND r.number <= ? ORDER BY r.number LIMIT ?",
                (last, self._head_number, _PAGE),
            )
            links = [self._record(row) for row in page]
            if self._derived:
                self._compare_indications(last, page[-1][0] if page else self._head_number, links)
            yield from links
            if not page:
                break
            last = page[-1][0]
        beyond = self._db.query("SELECT min(number) FROM records WHERE number > ?", (self._head_number,))[0][0]
        (now,) = self._db.query("SELECT number FROM chain")[0]
        if beyond is not None and beyond > now:
            self._fault(beyond, "inserted", f"record row {beyond} lies beyond the end of the chain")

    def _record(self, row: tuple[Any, ...]) -> _Link:
        (number, previous, sha256, record_id, part_id, station, recipe, session, trigger_utc, outcome, result, advisory,
         reasons, types, indications, pictures, created_utc, stored, group_id, removed) = row  # fmt: skip
        ends = bytes(previous), bytes(sha256)
        self._groups[group_id] += 1
        if removed is not None:
            self._marked.add(removed)
        try:
            document = unpacked(stored or b"")
        except StorageError:
            return _Link(number, "record", *ends, False, row)
        fields = record_fields(
            record_id=record_id, part_id=part_id, station=station, recipe=recipe, session=session,
            trigger_utc=trigger_utc, outcome=outcome, result=result, advisory=advisory, reasons=reasons, types=types,
            indications=indications, pictures=pictures, created_utc=created_utc,
            document_sha256=document_sha256(document),
        )  # fmt: skip
        return _Link(number, "record", *ends, link("record", number, ends[0], fields) == ends[1], row, document)

    def _audit(self) -> Iterator[_Link]:
        last = 0
        while True:
            page = self._db.query(
                "SELECT number, kind, previous_sha256, sha256, subject, who, why, at_utc, body FROM audit"
                " WHERE number > ? AND number <= ? ORDER BY number LIMIT ?",
                (last, self._head_number, _PAGE),
            )
            if not page:
                return
            for row in page:
                number, kind, previous, sha256, *rest = row
                fields = dict(zip(("subject", "who", "why", "at_utc", "body"), rest, strict=True))
                # Of what people said the words are compared later; of the rest only that it is there.
                self._notes[number] = row if kind in _COMPARED else row[:2]
                holds = link(kind, number, bytes(previous), fields) == bytes(sha256)
                yield _Link(number, kind, bytes(previous), bytes(sha256), holds, row)
            last = page[-1][0]

    # ---------------------------------------------------------------- what is found through it

    def _compare_indications(self, after: int, upto: int, links: list[_Link]) -> None:
        """The rows of ``detections`` between two records, against what the documents say."""
        stored: dict[int, list[tuple[Any, ...]]] = {}
        rows = self._db.query(
            "SELECT number, position, type, known, nearest_type, confidence, p_known, area_mm2, area_u_mm2,"
            " feret_max_mm, feret_u_mm, coverage_pct, x_px, y_px, w_px, h_px FROM detections"
            " WHERE number > ? AND number <= ? ORDER BY number, position",
            (after, upto),
        )
        for row in rows:
            stored.setdefault(row[0], []).append(tuple(row))
        for one in links:
            if not one.holds:
                stored.pop(one.number, None)
                continue
            document = json.loads(one.document)
            said = [(one.number, *row[:11], *row[12:16]) for row in detection_rows(document)]
            if stored.pop(one.number, []) != said:
                self._fault(one.number, "derived", f"the indications of record {one.row[3]} are not its document's")
            for name in json.loads(one.row[13]):
                sums = self._types.setdefault((name, one.row[18]), [0, 0])
                sums[0] += 1
                sums[1] += one.number
        for number in stored:
            self._fault(number, "derived", f"indications of a record {number} that is not there")

    def _check_derived(self, records: int, total: int) -> None:
        if self._faults:
            return
        (now,) = self._db.query("SELECT number FROM chain")[0]
        if now == self._head_number and records != total:
            self._fault(0, "derived", f"{records} records are here, the totals say {total}")
        for number in sorted(self._marked - {n for n, note in self._notes.items() if note[1] == "pictures_removed"}):
            if number <= self._head_number:
                self._fault(
                    number, "derived", f"pictures are marked as removed by row {number}, which says nothing of it"
                )
        self._check_feedback()
        self._check_words()
        if self._derived and now == self._head_number:
            groups = {row[0]: row[1] for row in self._db.query("SELECT group_id, records FROM record_groups")}
            for group_id in sorted({*groups, *self._groups}):
                if groups.get(group_id, 0) != self._groups[group_id]:
                    self._fault(0, "derived", f"group {group_id} counts {groups.get(group_id, 0)} records,"
                                              f" there are {self._groups[group_id]}")  # fmt: skip
            listed = {
                (row[0], row[1]): [int(row[2]), int(row[3])]
                for row in self._db.query(
                    "SELECT type, group_id, count(*), sum(number) FROM record_types GROUP BY 1, 2"
                )
            }
            if listed != self._types:
                odd = sorted(key for key in {*listed, *self._types} if listed.get(key) != self._types.get(key))
                self._fault(
                    0, "derived", f"records are listed under the type {odd[0][0]} that have none, or are missing"
                )

    def _check_feedback(self) -> None:
        """Words of feedback and label images, against the rows of the chain that made them."""
        said = {number: note for number, note in self._notes.items() if note[1] == "feedback"}
        rows = self._db.query(
            "SELECT number, record_id, position, verdict, correct_type, who, why, at_utc, mask_sha256, mask_types,"
            " rejudged FROM feedback WHERE number <= ?",
            (self._head_number,),
        )
        there = {row[0]: row for row in rows}
        for number in sorted({*said, *there}):
            row, note = there.get(number), said.get(number)
            if row is None or note is None:
                self._fault(number, "derived", f"feedback {number} is in the chain or in its table, not in both")
                continue
            body = json.loads(note[8])
            rejudged = None if row[10] is None else hashlib.sha256(row[10].encode()).hexdigest()
            names = ("position", "verdict", "correct_type", "mask_sha256", "mask_types", "rejudged_sha256")
            columns = [*row[2:5], row[8], json.loads(row[9]), rejudged]
            if [body.get(name) for name in names] != columns or (row[1], *row[5:8]) != tuple(note[4:8]):
                self._fault(number, "derived", f"feedback {number} is not what the chain says")
        for sha256, png in self._db.query("SELECT sha256, png FROM masks"):
            if hashlib.sha256(bytes(png)).hexdigest() != sha256:
                self._fault(0, "derived", f"label image {sha256} is not what was handed in")

    def _check_words(self) -> None:
        """Sessions and the user's own patterns, against the rows of the chain that made them."""
        started = {number: json.loads(note[8]) for number, note in self._notes.items() if note[1] == "session_started"}
        names = ("station", "version", "recipe", "engine", "engine_sha256", "config_sha256")
        for number, *facts in self._db.query(f"SELECT number, {', '.join(names)} FROM sessions"):
            if number <= self._head_number and [started.get(number, {}).get(name) for name in names] != facts:
                self._fault(number, "derived", f"session {number} is not what the chain says")
        latest = {note[4]: json.loads(note[8]) for _, note in sorted(self._notes.items()) if note[1] == "pattern"}
        wanted = {
            name: [body["title"], body["description"], body["causes"], body["severity"]]
            for name, body in latest.items()
            if not body["reset"]
        }
        rows = self._db.query("SELECT type, title, description, causes, severity FROM patterns")
        there = {row[0]: [row[1], row[2], json.loads(row[3]), json.loads(row[4])] for row in rows}
        (now,) = self._db.query("SELECT number FROM chain")[0]
        if now == self._head_number and there != wanted:
            odd = sorted(name for name in {*there, *wanted} if there.get(name) != wanted.get(name))
            self._fault(0, "derived", f"the pattern of {odd[0]} is not what the chain says")

    def _removals(self) -> tuple[Removed, ...]:
        """What the retention runs say they took."""
        runs: dict[str, list[Any]] = {}
        for subject, kind, who, why, at_utc, text in self._db.query(
            "SELECT subject, kind, who, why, at_utc, body FROM audit"
            " WHERE kind IN ('removed', 'pictures_removed', 'retention') ORDER BY number"
        ):
            body = json.loads(text)
            one = runs.setdefault(subject, [at_utc, who, why, 0, 0, {}])
            if kind == "removed":
                one[3] += sum(span["count"] for span in body["spans"])
            elif kind == "retention":
                one[4], one[5] = body["pictures"], body["policy"]
        return tuple(Removed(run, *values) for run, values in runs.items())


def _expected(text: str) -> tuple[int, bytes]:
    match = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text)
    if match is None:
        raise UsageError(
            f"{text!r} is no end of a chain", hint="NUMBER:SHA256, as an earlier 'memory verify' printed it"
        )
    return int(match.group(1)), bytes.fromhex(match.group(2))
