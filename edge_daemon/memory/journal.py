"""The line's side of the memory bank: triggers, records, messages.

A trigger opens a row in ``tickets`` (the journal); storing the record writes the record and its outgoing message and
closes the ticket in ONE transaction, so a crash at any instant leaves either an open ticket (answered with
NOT_EVALUABLE at the next start) or a complete record with its message, never half of it. The same transaction appends
the record to the audit chain (``chain.py``) and counts it (``aggregates.py``).

Age: wall clocks are stepped, so the age of a message is measured on CLOCK_MONOTONIC since its trigger and kept with the
boot it belongs to. After a reboot that age is not known (None), and only the wall time of the event remains.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..records import Record
from ..tickets import Ticket, utc_now
from . import sessions
from .backend import Backend
from .chain import canonical_json
from .rows import JournalEntry, OutboxMessage
from .storing import Appender, NewRecord, prepare

__all__ = ["Journal"]


class Journal:
    """What the line needs of the bank; ``MemoryBank`` is this and everything that is read from it."""

    def __init__(self, backend: Backend) -> None:
        self._db = backend
        self._boot_id = _boot_id()
        self._session: int | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def name(self) -> str:
        """Where the bank is, for people: a path, or a URL without its password."""
        return self._db.name

    def close(self) -> None:
        """Close every connection. Safe to call twice; every later call on the bank raises StorageError (CLOSED)."""
        self._db.close()

    def listen(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called after each commit that added a message, in the storing thread: be short."""
        self._listeners.append(callback)

    # ---------------------------------------------------------------- sessions

    def begin_session(
        self, *, station: str, version: str, recipe: str, engine: str, engine_sha256: str, config_sha256: str
    ) -> int:
        """Note that a daemon starts to work with this recipe and engine; records stored from now on belong to it.

        An earlier session of this station that never ended is ``lost`` from now on. The session's number.
        """
        facts = {
            "station": station, "version": version, "recipe": recipe, "engine": engine,
            "engine_sha256": engine_sha256, "config_sha256": config_sha256,
        }  # fmt: skip
        self._session = sessions.begin(self._db, facts)
        return self._session

    def end_session(self, how: str = "stopped") -> str:
        """Note that the session ends; the end of the audit chain after it (``number:sha256``), to be logged."""
        session, self._session = self._session, None
        return self.head() if session is None else sessions.end(self._db, session, how)

    def head(self) -> str:
        """The end of the audit chain, ``number:sha256``: noted elsewhere, it proves what was here at that time."""
        number, sha256 = self._db.query("SELECT number, sha256 FROM chain")[0]
        return f"{number}:{bytes(sha256).hex()}"

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
        return self._note_ticket(ticket, station, canonical_json(document))

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
        self,
        record: Record,
        topic: str | None = None,
        payload: bytes | None = None,
        *,
        pictures: str | None = None,
        pictures_bytes: int | None = None,
        contrasts: Sequence[float | None] = (),
    ) -> bool:
        """Write a record, its message and the end of its ticket in one transaction.

        topic, payload : the message to deliver; both or neither. pictures : folder of the record's pictures, and how
        many bytes it takes on disk. contrasts : of the document's defects, by position (``contrasts_of``).

        Idempotent by ``record_id``: the second store of an id changes nothing and returns False.
        Raises StorageError (nothing is written then), ValueError when the document is not JSON (NaN, foreign types).
        """
        if (topic is None) != (payload is None):
            raise ValueError("a message needs both a topic and a payload")
        now_utc = utc_now()
        new = NewRecord(
            record.record_id, record.part_id, record.station, record.trigger_utc, str(record.outcome), record.result,
            record.document, pictures, pictures_bytes, self._session, now_utc, contrasts,
        )  # fmt: skip
        prepared = prepare(new)
        with self._db.writing() as db:
            if db.execute("SELECT 1 FROM records WHERE record_id = ?", (record.record_id,)).fetchone() is not None:
                return False
            chain = Appender(db)
            chain.record(prepared)
            chain.finish()
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

    def checkpoint(self) -> None:
        """Empty the write-ahead log as far as possible, so that no ``store`` has to. Holds up no other thread; call it
        every few seconds from one that may wait for the disk."""
        self._db.checkpoint()

    # ---------------------------------------------------------------- reading: the line

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

    def _age_s(self, event_ns: int, boot_id: str) -> float | None:
        if boot_id != self._boot_id:
            return None
        return max(0.0, (time.monotonic_ns() - event_ns) / 1e9)


def _boot_id() -> str:
    """Which run of the kernel CLOCK_MONOTONIC belongs to; a random name where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return os.urandom(16).hex()
