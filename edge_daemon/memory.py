"""Memory bank: one SQLite file that holds every record, every open ticket and every message not yet delivered.

Where it stands: behind the verdict. A trigger opens a row in ``tickets`` (the journal); storing the record writes the
record and its outgoing message and closes the ticket in ONE transaction, so a crash at any instant leaves either an
open ticket (answered with NOT_EVALUABLE at the next start) or a complete record with its message, never half of it.

One writer: see ``database.py``. Any thread may call any method; reads never wait for a write.

Age: wall clocks are stepped, so the age of a message is measured on CLOCK_MONOTONIC since its trigger and kept with the
boot it belongs to. After a reboot that age is not known (None), and only the wall time of the event remains.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

from .database import SCHEMA_VERSION, Database
from .errors import UsageError
from .records import Outcome, Record
from .tickets import Ticket, utc_now

__all__ = ["Counts", "JournalEntry", "MemoryBank", "OutboxMessage", "Stats", "StoredRecord"]


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A trigger that has no record yet.

    age_s: since the trigger, None after a reboot. draft: the record's document, if it was made durable by ``intend``.
    """

    record_id: str
    part_id: int
    station: str
    trigger_utc: str
    age_s: float | None
    draft: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """One message waiting for delivery. ``seq`` grows by one per message and is never used again.

    age_s: seconds from the trigger to this read, on CLOCK_MONOTONIC; None where the device has rebooted in between.
    """

    seq: int
    record_id: str
    topic: str
    payload: bytes = field(repr=False)
    created_utc: str
    age_s: float | None


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it lies in the bank. ``number`` is the order of storing; ``reasons`` and ``types`` are codes only."""

    number: int
    record_id: str
    part_id: int | None
    station: str
    trigger_utc: str
    outcome: Outcome
    result: str
    reasons: tuple[str, ...]
    types: tuple[str, ...]
    pictures: str | None
    created_utc: str
    document: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of what. ``passed`` + ``rejected`` = ``records``; ``by_outcome`` has all four outcomes as keys."""

    records: int
    passed: int
    rejected: int
    by_outcome: dict[str, int]
    open_tickets: int
    pending: int


@dataclass(frozen=True, slots=True)
class Stats:
    """What ``edge-daemon memory stats`` prints."""

    path: str
    schema_version: int
    size_bytes: int
    free_bytes: int
    first_utc: str | None
    last_utc: str | None
    oldest_age_s: float
    counts: Counts


class MemoryBank:
    """The memory bank in one SQLite file; made if it is not there.

    Parameters
    ----------
    path : the file; its folder must exist.
    read_only : open an existing bank for reading only; every writing method then raises StorageError (READ_ONLY).
    busy_timeout_s : how long a write waits for another process before it gives up with StorageError (LOCKED).

    Every method raises StorageError when the disk is full, read-only, locked or damaged; the transaction is then
    undone as a whole, and the bank can be used again as soon as the cause is gone.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False, busy_timeout_s: float = 1.0) -> None:
        self.path = Path(path)
        self._boot_id = _boot_id()
        self._listeners: list[Callable[[], None]] = []
        self._db = Database(self.path, read_only=read_only, busy_timeout_s=busy_timeout_s)

    def __enter__(self) -> MemoryBank:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close both connections. Safe to call twice; every later call on the bank raises StorageError (CLOSED)."""
        self._db.close()

    def listen(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called after each commit that added a message, in the storing thread: be short."""
        self._listeners.append(callback)

    # ---------------------------------------------------------------- writing

    def open_ticket(self, ticket: Ticket, station: str) -> bool:
        """Note a trigger before anything else is done about it; False where it is known already (nothing changes)."""
        return self._note_ticket(ticket, station, None)

    def intend(self, ticket: Ticket, station: str, document: dict[str, Any]) -> bool:
        """Make the document of a PASS durable before the gate may open: no record, no permit.

        ``store`` replaces it by the final record; after a crash in between ``unfinished_tickets`` hands it out. Opens
        the ticket where that has not been done. False (nothing changes) where the record is stored already.
        Raises StorageError, ValueError when the document is not JSON.
        """
        return self._note_ticket(ticket, station, _to_json(document))

    def _note_ticket(self, ticket: Ticket, station: str, draft: str | None) -> bool:
        """A row of the journal, or the draft of a row that is there already."""
        values = (
            ticket.record_id,
            ticket.part_id,
            station,
            ticket.trigger_utc,
            ticket.trigger_ns,
            self._boot_id,
            draft,
        )
        with self._db.writing() as db:
            cursor = db.execute(
                "INSERT INTO tickets SELECT ?, ?, ?, ?, ?, ?, ?"
                " WHERE NOT EXISTS (SELECT 1 FROM records WHERE record_id = ?)"
                " ON CONFLICT (record_id) DO UPDATE SET draft = excluded.draft WHERE excluded.draft IS NOT NULL",
                (*values, ticket.record_id),
            )
            return cursor.rowcount > 0

    def store(
        self, record: Record, topic: str | None = None, payload: bytes | None = None, *, pictures: str | None = None
    ) -> bool:
        """Write a record, its message and the end of its ticket in one transaction.

        topic, payload : the message to deliver; both or neither. pictures : folder of the record's pictures.

        Idempotent by ``record_id``: the second store of an id changes nothing and returns False.
        Raises StorageError (nothing is written then), ValueError when the document is not JSON (NaN, foreign types).
        """
        if (topic is None) != (payload is None):
            raise ValueError("a message needs both a topic and a payload")
        document = _to_json(record.document)
        reasons = json.dumps([reason["code"] for reason in record.document.get("reasons", ())])
        types = {defect["type"] for defect in record.document.get("defects", ())}
        now_utc = utc_now()
        with self._db.writing() as db:
            cursor = db.execute(
                "INSERT INTO records (record_id, part_id, station, trigger_utc, outcome, result, reasons, document,"
                " pictures, created_utc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (record_id) DO NOTHING",
                (record.record_id, record.part_id, record.station, record.trigger_utc, str(record.outcome),
                 record.result, reasons, document, pictures, now_utc),
            )  # fmt: skip
            if cursor.rowcount == 0:
                return False
            number = cursor.lastrowid
            db.executemany("INSERT INTO record_types (type, number) VALUES (?, ?)", [(t, number) for t in types])
            if topic is not None:
                # The journal knows when the trigger was; a record without a ticket counts from now.
                event = db.execute("SELECT trigger_ns, boot_id FROM tickets WHERE record_id = ?", (record.record_id,))
                event_ns, boot_id = event.fetchone() or (time.monotonic_ns(), self._boot_id)
                db.execute(
                    "INSERT INTO outbox (record_id, topic, payload, created_utc, event_ns, boot_id)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (record.record_id, topic, payload, now_utc, event_ns, boot_id),
                )
            db.execute("DELETE FROM tickets WHERE record_id = ?", (record.record_id,))
        if topic is not None:
            for callback in self._listeners:
                callback()
        return True

    def delivered(self, *seqs: int) -> int:
        """Remove messages the broker has acknowledged; how many of them were still there."""
        with self._db.writing() as db:
            return sum(db.execute("DELETE FROM outbox WHERE seq = ?", (seq,)).rowcount for seq in seqs)

    def check_writable(self) -> None:
        """Prove that a commit reaches the disk now; StorageError otherwise. Part of what keeps the heartbeat alive."""
        with self._db.writing() as db:
            db.execute(
                "INSERT INTO probe VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET written_utc = excluded.written_utc",
                (utc_now(),),
            )

    def cleanup(self, days: float) -> tuple[int, tuple[str, ...]]:
        """Delete records stored more than ``days`` days ago (at least 1) by the wall clock, unless still undelivered.

        Returns how many were deleted, and the picture folders nobody refers to any more (the caller removes them).
        Works in short transactions, so that a running daemon is never held up for long.
        """
        if not days >= 1:
            raise UsageError(f"cleanup of records older than {days:g} days", code="DAYS", hint="give 1 or more days")
        before = (datetime.now(timezone.utc) - timedelta(days=days)).isoformat(timespec="milliseconds")[:23] + "Z"
        deleted, pictures = 0, []
        while True:
            with self._db.writing() as db:
                rows = db.execute(
                    "SELECT number, pictures FROM records r WHERE created_utc < ?"
                    " AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.record_id = r.record_id) LIMIT 500",
                    (before,),
                ).fetchall()
                db.executemany("DELETE FROM records WHERE number = ?", [(number,) for number, _ in rows])
            deleted += len(rows)
            pictures += [path for _, path in rows if path is not None]
            if not rows:
                return deleted, tuple(pictures)

    # ---------------------------------------------------------------- reading

    def unfinished_tickets(self) -> list[JournalEntry]:
        """Triggers that never got a record, oldest first (record ids sort by time). Read it at start."""
        rows = self._db.query(
            "SELECT record_id, part_id, station, trigger_utc, trigger_ns, boot_id, draft FROM tickets ORDER BY 1"
        )
        return [
            JournalEntry(
                record_id,
                part_id,
                station,
                trigger_utc,
                self._age_s(trigger_ns, boot_id),
                None if draft is None else json.loads(draft),
            )
            for record_id, part_id, station, trigger_utc, trigger_ns, boot_id, draft in rows
        ]

    def pending(self, limit: int, *, after: int = 0) -> list[OutboxMessage]:
        """The next ``limit`` messages to deliver with ``seq`` above ``after``, in order."""
        rows = self._db.query(
            "SELECT seq, record_id, topic, payload, created_utc, event_ns, boot_id FROM outbox"
            " WHERE seq > ? ORDER BY seq LIMIT ?",
            (after, limit),
        )
        return [
            OutboxMessage(seq, record_id, topic, payload, created_utc, self._age_s(event_ns, boot_id))
            for seq, record_id, topic, payload, created_utc, event_ns, boot_id in rows
        ]

    def outbox_state(self) -> tuple[int, float]:
        """Messages waiting, and the age of the oldest in seconds (0.0 when none waits)."""
        rows = self._db.query(
            "SELECT (SELECT count(*) FROM outbox), event_ns, boot_id, created_utc FROM outbox ORDER BY seq LIMIT 1"
        )
        if not rows:
            return 0, 0.0
        count, event_ns, boot_id, created_utc = rows[0]
        age_s = self._age_s(event_ns, boot_id)
        if age_s is None:
            # After a reboot only the wall clock is left; a clock set back must not show a negative age.
            created = datetime.fromisoformat(created_utc.replace("Z", "+00:00"))
            age_s = max(0.0, (datetime.now(timezone.utc) - created).total_seconds())
        return count, age_s

    def get(self, record_id: str) -> StoredRecord | None:
        """The record with this id, or None."""
        rows = self._db.query(f"{_SELECT} WHERE record_id = ?", (record_id,))
        return _stored(rows[0]) if rows else None

    def history(
        self,
        *,
        outcome: Outcome | None = None,
        defect_type: str | None = None,
        since: str | None = None,
        limit: int = 100,
    ) -> list[StoredRecord]:
        """The newest ``limit`` records that meet every condition given, newest first.

        since : ISO 8601 UTC, or the beginning of it (``2026-01-31``); compares the trigger's wall time.
        """
        where, values = _conditions(outcome, defect_type, since)
        return [
            _stored(row) for row in self._db.query(f"{_SELECT}{where} ORDER BY number DESC LIMIT ?", (*values, limit))
        ]

    def counts(self) -> Counts:
        """Totals over the whole bank, in one consistent read."""
        rows = self._db.query(
            "SELECT outcome, result, count(*) FROM records GROUP BY 1, 2"
            " UNION ALL SELECT 'tickets', '', count(*) FROM tickets UNION ALL SELECT 'outbox', '', count(*) FROM outbox"
        )
        extra = {what: count for what, result, count in rows if not result}
        records = [(outcome, result, count) for outcome, result, count in rows if result]
        return Counts(
            records=sum(count for _, _, count in records),
            passed=sum(count for _, result, count in records if result == "PASS"),
            rejected=sum(count for _, result, count in records if result == "FAIL"),
            by_outcome={str(o): sum(n for outcome, _, n in records if outcome == str(o)) for o in Outcome},
            open_tickets=extra["tickets"],
            pending=extra["outbox"],
        )

    def stats(self) -> Stats:
        """Size, span and totals for people."""
        first_utc, last_utc = self._db.query("SELECT min(trigger_utc), max(trigger_utc) FROM records")[0]
        files = [self.path, self.path.with_name(self.path.name + "-wal")]
        return Stats(
            path=str(self.path),
            schema_version=SCHEMA_VERSION,
            size_bytes=sum(file.stat().st_size for file in files if file.exists()),
            free_bytes=shutil.disk_usage(self.path.parent).free,
            first_utc=first_utc,
            last_utc=last_utc,
            oldest_age_s=self.outbox_state()[1],
            counts=self.counts(),
        )

    def export(self, path: str | os.PathLike[str], *, since: str | None = None) -> int:
        """Write records, oldest first, to ``path``: CSV where the name ends in .csv, else JSON lines; how many.

        The file appears complete or not at all; an existing one is replaced. Raises UsageError if it cannot be written.
        """
        target = Path(path)
        try:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        except OSError as error:
            raise UsageError(f"cannot write {target}: {error.strerror}", code="EXPORT") from error
        try:
            with open(handle, "w", encoding="utf-8", newline="") as stream:
                written = self._export_rows(stream, as_csv=target.suffix.lower() == ".csv", since=since)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, target)
        except OSError as error:
            raise UsageError(f"cannot write {target}: {error.strerror}", code="EXPORT") from error
        finally:
            Path(name).unlink(missing_ok=True)
        return written

    def _export_rows(self, stream: IO[str], *, as_csv: bool, since: str | None) -> int:
        columns = ("number", "record_id", "part_id", "station", "trigger_utc", "outcome", "result", "reasons", "types")
        table = csv.writer(stream)
        if as_csv:
            table.writerow(columns)
        written, last = 0, 0
        while True:
            # Page by page: one long read would keep the write-ahead log from being emptied.
            where, values = _conditions(None, None, since)
            where = f"{where} AND number > ?" if where else " WHERE number > ?"
            page = [
                _stored(row) for row in self._db.query(f"{_SELECT}{where} ORDER BY number LIMIT 500", (*values, last))
            ]
            for item in page:
                if as_csv:
                    cells = (getattr(item, column) for column in columns)
                    table.writerow(["; ".join(cell) if isinstance(cell, tuple) else cell for cell in cells])
                else:
                    stream.write(json.dumps(item.document, ensure_ascii=False) + "\n")
            if not page:
                return written
            written, last = written + len(page), page[-1].number

    def _age_s(self, event_ns: int, boot_id: str) -> float | None:
        if boot_id != self._boot_id:
            return None
        return max(0.0, (time.monotonic_ns() - event_ns) / 1e9)


_SELECT = (
    "SELECT number, record_id, part_id, station, trigger_utc, outcome, result, reasons,"
    " (SELECT json_group_array(type) FROM record_types t WHERE t.number = r.number), pictures, created_utc, document"
    " FROM records r"
)


def _to_json(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _conditions(outcome: Outcome | None, defect_type: str | None, since: str | None) -> tuple[str, tuple[str, ...]]:
    wanted = {
        "outcome = ?": None if outcome is None else str(outcome),
        "number IN (SELECT number FROM record_types WHERE type = ?)": defect_type,
        "trigger_utc >= ?": since,
    }
    given = {clause: value for clause, value in wanted.items() if value is not None}
    return (" WHERE " + " AND ".join(given) if given else ""), tuple(given.values())


def _stored(row: tuple[Any, ...]) -> StoredRecord:
    number, record_id, part_id, station, trigger_utc, outcome, result, reasons, types, pictures, created_utc, doc = row
    return StoredRecord(
        number=number,
        record_id=record_id,
        part_id=part_id,
        station=station,
        trigger_utc=trigger_utc,
        outcome=Outcome(outcome),
        result=result,
        reasons=tuple(json.loads(reasons)),
        types=tuple(sorted(json.loads(types))),
        pictures=pictures,
        created_utc=created_utc,
        document=json.loads(doc),
    )


def _boot_id() -> str:
    """Which run of the kernel CLOCK_MONOTONIC belongs to; a random name where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return os.urandom(16).hex()
