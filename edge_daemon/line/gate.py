"""The dead-man gate: closed unless told, for one ticket, once, before its deadline.

Pure: no I/O, no clock, no threads. Time comes in as ``now_ns`` (CLOCK_MONOTONIC). There is no reject: a ticket that is
never permitted ends in reject by itself. Whatever is doubtful ends the ticket:

- the first ``permit`` that names an open ticket ends it, granted or refused; there is no second try;
- ``decline`` (the daemon said why no PASS will come) ends it, so a PASS after a FAIL is refused;
- parts pass in order: a permit while an older ticket of the same daemon is open is refused, because then an answer and
  a part may have been mixed up;
- a ticket opened while another daemon, or none, was attached cannot be permitted: nobody knows which frame is its;
- two open tickets with one part id cannot be told apart by the PLC: both end, also where the second finds no room.

A ticket that has ended is kept until the daemon says that its record is durable (``settle``), so one trigger gives one
record even if the daemon is killed at any instant. A clean stop hands them on (``unsettled``, ``adopt``). What is not
covered: a kill of this process loses them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..tickets import GateAnswer, Ticket

__all__ = ["ENDED_REASONS", "REFUSED_REASONS", "Ended", "Gate"]

#: Why a ticket ended without a permit.
ENDED_REASONS = (
    "DEADLINE",  # no permit came in time
    "NO_DAEMON",  # the trigger came while no daemon was attached
    "DAEMON_LOST",  # the daemon went away before it answered
    "PORT_LOST",  # the serial port went away
    "STOPPING",  # the line process was told to stop
    "NO_PASS",  # the daemon said that no PASS will come
    "STALLED",  # the trigger had lain unread for nobody knows how long
    "AMBIGUOUS_PART",  # another open ticket had the same part id
    "NOT_PASS",  # a permit came whose note is no PASS
    "WRONG_PART",  # a permit came with another part id than the ticket's
    "OUT_OF_ORDER",  # a permit came before its turn
    "NOT_READY",  # a permit came while the health lease was not live
    "RESTARTED",  # a permit came from a daemon that was not attached when the ticket was opened
)

#: Why a permit was refused.
REFUSED_REASONS = (
    "LATE",  # after the deadline
    "UNKNOWN_TICKET",  # never opened here, or already settled
    "DUPLICATE",  # permitted before
    "ALREADY_ENDED",  # ended without a permit before
    "NOT_PASS",
    "WRONG_PART",
    "OUT_OF_ORDER",
    "NOT_READY",
    "RESTARTED",
    "PORT_LOST",
)


@dataclass(frozen=True, slots=True)
class Ended:
    """A ticket and its final answer; ``declined``: the daemon itself said so and has told the PLC already."""

    ticket: Ticket
    answer: GateAnswer
    declined: bool = False


@dataclass(slots=True)
class _Entry:
    ticket: Ticket
    session: int | None
    answer: GateAnswer | None = None


@dataclass(slots=True)
class Gate:
    """State of the gate.

    deadline_ns: from trigger to the last instant at which a permit is accepted (exclusive).
    lease_ns: how long one ``health`` message keeps the gate ready. capacity: tickets kept at most; when that many are
    unsettled no further trigger is taken (``open`` returns None), since a ticket that cannot be kept has no record.
    """

    deadline_ns: int
    lease_ns: int
    capacity: int = 65_536
    refused: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    permitted: int = 0
    overflowed: int = 0
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _open: dict[str, _Entry] = field(default_factory=dict)  # in the order of their triggers
    _news: list[Ended] = field(default_factory=list)
    _session: int | None = None
    _sessions: int = 0
    _healthy: bool = False
    _lease_until_ns: int = 0

    # -- daemon ---------------------------------------------------------------------------------------------------

    def attach(self, now_ns: int) -> None:
        """A daemon has connected. It is not ready before its first ``health``."""
        self.detach(now_ns)
        self._sessions += 1
        self._session = self._sessions

    def detach(self, now_ns: int) -> None:
        """The daemon has gone: its open tickets end now, and the lease with them."""
        self.expire(now_ns)
        if self._session is not None:
            for entry in [e for e in self._open.values() if e.session == self._session]:
                self._end(entry, "DAEMON_LOST", now_ns)
        self._session = None
        self._healthy = False

    def health(self, ready: bool, now_ns: int) -> None:
        """The daemon says whether it is fit to judge; True holds for ``lease_ns``. Nobody attached: ignored."""
        self._healthy = ready and self._session is not None
        self._lease_until_ns = now_ns + self.lease_ns

    def ready(self, now_ns: int) -> bool:
        """Whether the dead-man lease is live."""
        return self._session is not None and self._healthy and now_ns < self._lease_until_ns

    @property
    def lease_until_ns(self) -> int | None:
        """When the lease lapses unless refreshed; None when there is none."""
        return self._lease_until_ns if self._healthy and self._session is not None else None

    # -- tickets --------------------------------------------------------------------------------------------------

    def open(
        self, record_id: str, part_id: int, recipe: int, trigger_utc: str, now_ns: int, *, fresh: bool = True
    ) -> Ticket | None:
        """A trigger: a new ticket, closed. None when ``capacity`` unsettled tickets are kept already (counted).

        fresh: ``now_ns`` is when it was sent, give or take the wire. Otherwise its deadline is not known and the
        camera may see another part by now: the ticket ends at once.

        Raises ValueError when the record id was used before, or the part id is no word: both are bugs of the caller.
        """
        if record_id in self._entries:
            raise ValueError(f"record id {record_id} was used before")
        if not 0 <= part_id <= 0xFFFF:
            raise ValueError(f"part id {part_id} is outside 0..65535")
        self.expire(now_ns)
        twins = [other for other in self._open.values() if other.ticket.part_id == part_id]
        if len(self._entries) >= self.capacity:
            self.overflowed += 1
            for twin in twins:  # the PLC waits for the new part: what opens for this number would open for that one
                self._end(twin, "AMBIGUOUS_PART", now_ns)
            return None
        ticket = Ticket(record_id, part_id, now_ns, now_ns + self.deadline_ns, trigger_utc, recipe)
        entry = _Entry(ticket, self._session)
        self._entries[record_id] = entry
        self._open[record_id] = entry
        self.opened += 1
        if twins:
            for twin in (*twins, entry):
                self._end(twin, "AMBIGUOUS_PART", now_ns)
        elif not fresh:
            self._end(entry, "STALLED", now_ns)
        return ticket

    def adopt(self, ticket: Ticket, answer: GateAnswer) -> None:
        """A ticket of an earlier line process that still lacks its record: over, never to be permitted, no news.

        Not counted, and taken beyond ``capacity`` as well. Raises ValueError when the record id is known already.
        """
        if ticket.record_id in self._entries:
            raise ValueError(f"record id {ticket.record_id} was used before")
        self._entries[ticket.record_id] = _Entry(ticket, None, answer)

    def permit(self, record_id: str, part_id: int, now_ns: int, *, is_pass: bool = True) -> GateAnswer:
        """PASS for one ticket. Granted at most once, before its deadline, in order, while the lease is live.

        A permit that names an open ticket ends it either way. ``is_pass``: the note beside it says PASS as well.
        """
        self.expire(now_ns)
        entry = self._entries.get(record_id)
        if entry is None:
            return self._refuse("UNKNOWN_TICKET", now_ns)
        if entry.answer is not None:
            return self._refuse(self._why_closed(entry), now_ns)
        reason = self._objection(entry, part_id, is_pass, now_ns)
        if reason:
            self._end(entry, reason, now_ns)
            return self._refuse(reason, now_ns)
        self.permitted += 1
        answer = GateAnswer(True, "", now_ns)
        self._close(entry, answer)
        return answer

    def revoke(self, record_id: str, now_ns: int) -> GateAnswer:
        """The permit just granted could not be handed to the driver: it counts as refused, reason PORT_LOST.

        Must follow its ``permit`` at once, before ``take_ended``. Raises ValueError otherwise.
        """
        entry = self._entries.get(record_id)
        if entry is None or entry.answer is None or not entry.answer.permitted:
            raise ValueError(f"record {record_id} holds no permit to revoke")
        if not self._news or self._news[-1].ticket.record_id != record_id:
            raise ValueError(f"the permit of record {record_id} has been announced already")
        self._news.pop()
        self.permitted -= 1
        self.ended["PORT_LOST"] += 1
        self._close(entry, GateAnswer(False, "PORT_LOST", now_ns))
        return self._refuse("PORT_LOST", now_ns)

    def decline(self, record_id: str, now_ns: int) -> bool:
        """The daemon says that no PASS will come: the ticket ends now. False when it had ended before."""
        self.expire(now_ns)
        entry = self._open.get(record_id)
        if entry is None:
            return False
        self._end(entry, "NO_PASS", now_ns, declined=True)
        return True

    def expire(self, now_ns: int) -> None:
        """End what is past its deadline. A ticket ends exactly at its deadline: ``now_ns == deadline_ns`` is late."""
        for entry in list(self._open.values()):
            if now_ns >= entry.ticket.deadline_ns:
                self._end(entry, "DEADLINE" if entry.session is not None else "NO_DAEMON", now_ns)

    def end_all(self, reason: str, now_ns: int) -> None:
        """The port was lost or the process stops: every open ticket ends now."""
        self.expire(now_ns)
        for entry in list(self._open.values()):
            self._end(entry, reason, now_ns)

    def settle(self, record_id: str, now_ns: int) -> bool:
        """The record is durable: forget the ticket; False when it is unknown. An open one ends first, without a
        permit: what its record says is final."""
        entry = self._entries.get(record_id)
        if entry is None:
            return False
        if entry.answer is None:
            self._end(entry, "NO_PASS", now_ns)
        del self._entries[record_id]
        return True

    # -- what is there --------------------------------------------------------------------------------------------

    def take_ended(self) -> list[Ended]:
        """The tickets that ended since the last call, in the order in which they ended; each comes exactly once."""
        news, self._news = self._news, []
        return news

    def ticket(self, record_id: str) -> Ticket | None:
        """The ticket of this record, open or unsettled."""
        entry = self._entries.get(record_id)
        return None if entry is None else entry.ticket

    def unsettled(self) -> list[tuple[Ticket, GateAnswer | None]]:
        """Every ticket the daemon has not settled, in trigger order; None: still open."""
        return [(entry.ticket, entry.answer) for entry in self._entries.values()]

    @property
    def open_count(self) -> int:
        """How many tickets are open."""
        return len(self._open)

    @property
    def next_deadline_ns(self) -> int | None:
        """The earliest deadline of an open ticket."""
        return min((entry.ticket.deadline_ns for entry in self._open.values()), default=None)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _objection(self, entry: _Entry, part_id: int, is_pass: bool, now_ns: int) -> str:
        if entry.session is None or entry.session != self._session:
            return "RESTARTED"
        if not is_pass:
            return "NOT_PASS"
        if part_id != entry.ticket.part_id:
            return "WRONG_PART"
        if not self.ready(now_ns):
            return "NOT_READY"
        for older in self._open.values():
            if older is entry:
                break
            if older.session == self._session:
                return "OUT_OF_ORDER"
        return ""

    @staticmethod
    def _why_closed(entry: _Entry) -> str:
        answer = entry.answer
        if answer is None:
            raise ValueError(f"record {entry.ticket.record_id} is open")
        if answer.permitted:
            return "DUPLICATE"
        return {"DEADLINE": "LATE", "DAEMON_LOST": "RESTARTED", "NO_DAEMON": "RESTARTED"}.get(
            answer.reason, "ALREADY_ENDED"
        )

    def _end(self, entry: _Entry, reason: str, now_ns: int, *, declined: bool = False) -> None:
        self.ended[reason] += 1
        self._close(entry, GateAnswer(False, reason, now_ns), declined=declined)

    def _close(self, entry: _Entry, answer: GateAnswer, *, declined: bool = False) -> None:
        entry.answer = answer
        self._open.pop(entry.ticket.record_id, None)
        self._news.append(Ended(entry.ticket, answer, declined))

    def _refuse(self, reason: str, now_ns: int) -> GateAnswer:
        self.refused[reason] += 1
        return GateAnswer(False, reason, now_ns)
