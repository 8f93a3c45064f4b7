"""The register picture that both Modbus drivers keep: what the PLC is shown, and what its control word means.

No protocol: ``modbus.py`` answers a PLC's polls from it, ``modbus_client.py`` writes it into a PLC. Pure: no clock.

One result is shown at a time. It goes when the PLC has acknowledged it (ResultAck 0 -> 1) or, for a permit, at the
deadline of its ticket; the next is shown when ResultAck is 0 again. A permit that is never acknowledged is therefore
gone from the wire when it is no longer true. After a result that was not acknowledged nothing is shown for GAP_NS, so
that a PLC that reads bits and words in two requests cannot join Pass of one part with ResultPartId of another. A new
trigger with a part id withdraws what is shown or waits for an earlier part of that id: a PLC that starts its numbers
anew must not find an old permit for its first part.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ..tickets import Ticket
from .driver import Ack, LineEvent, PlcHeartbeat, Trigger, Wire
from .wire import COILS, DISCRETE_INPUTS, INPUT_REGISTERS, ResultNote, outcome_word, reason_word, severity_word

__all__ = ["GAP_NS", "INFORM_NS", "MAX_INFORMING", "MAX_WAITING", "RegisterDriver", "Registers"]

GAP_NS = 100_000_000
#: A result that only informs gives way to a waiting one after this long without an acknowledgement.
INFORM_NS = 100_000_000
#: Results that wait behind the shown one: permits beyond are refused, of results that only inform the oldest goes.
MAX_WAITING = 32
MAX_INFORMING = 4


@dataclass(frozen=True, slots=True)
class _Result:
    ticket: Ticket
    note: ResultNote
    permit: bool


@dataclass(slots=True)
class Registers:
    """Words in both directions. control, part_id, recipe: as the PLC last wrote them."""

    control: int = 0
    plc_part_id: int = 0
    plc_recipe: int = 0
    _trigger_known: bool = False  # Trigger was seen at 0 since the port is there
    _trigger_ack: bool = False
    _part_id: int = 0
    _open: set[str] = field(default_factory=set)
    _beat: bool = False
    _ready: bool = False
    _fault: bool = True
    _toggle: bool = False
    _shown: _Result | None = None
    _read: bool = False  # the PLC may have seen the shown result
    _never_shown: list[Ticket] = field(default_factory=list)
    _shown_ns: int = 0
    _blank_until_ns: int = 0
    _waiting: deque[_Result] = field(default_factory=deque)

    # -- what the driver is told ----------------------------------------------------------------------------------

    def clear(self) -> None:
        """The port is gone: nothing is shown, no ticket is known, a Trigger has to be seen at 0 first."""
        self._hide()
        self._never_shown += [result.ticket for result in self._waiting if result.permit]
        self._waiting.clear()
        self._open.clear()
        self._trigger_known = False
        self._trigger_ack = False

    def accepted(self, ticket: Ticket) -> None:
        """A trigger has its ticket."""
        self._withdraw(ticket.part_id)
        self._part_id = ticket.part_id
        self._open.add(ticket.record_id)
        self._trigger_ack = bool(self.control >> COILS["Trigger"] & 1)

    def refused(self, part_id: int) -> None:
        """A trigger has found no ticket; there is no word for it, TriggerAck stays 0."""
        self._withdraw(part_id)

    def permit(self, ticket: Ticket, note: ResultNote, now_ns: int) -> bool:
        """Show the permit now or when its turn comes; False where it cannot be."""
        if not note.is_pass or ticket.record_id not in self._open:
            return False
        if now_ns >= ticket.deadline_ns or len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(_Result(ticket, note, permit=True))
        self.refresh(now_ns)
        return True

    def inform(self, ticket: Ticket, note: ResultNote, now_ns: int) -> None:
        """Show why no permit came."""
        informing = [result for result in self._waiting if not result.permit]
        if len(informing) >= MAX_INFORMING:
            self._waiting.remove(informing[0])
        self._waiting.append(_Result(ticket, note.without_pass(), permit=False))
        self.refresh(now_ns)

    def ended(self, ticket: Ticket) -> None:
        """The ticket is over."""
        self._open.discard(ticket.record_id)

    def take_never_shown(self, now_ns: int) -> list[Ticket]:
        """Permits whose time is over and that the PLC cannot have seen; each once."""
        # The registers stay as they are: only a poll sees a result go, so that it sees the gap behind it as well.
        self._drop_late(now_ns)
        shown = self._shown
        if shown is not None and shown.permit and not self._read and now_ns >= shown.ticket.deadline_ns:
            self._never_shown.append(shown.ticket)
            self._read = True  # told once
        lost, self._never_shown = self._never_shown, []
        return lost

    def heartbeat(self, beat: bool, ready: bool, fault: bool) -> None:
        """The three bits as they are from now on."""
        self._beat, self._ready, self._fault = beat, ready, fault

    # -- what the PLC is shown ------------------------------------------------------------------------------------

    def input_words(self) -> list[int]:
        """The words of INPUT_REGISTERS, in their order."""
        words = dict.fromkeys(INPUT_REGISTERS, 0)
        shown = self._shown
        is_pass = shown is not None and shown.permit
        bits = {
            "Heartbeat": self._beat,
            "Ready": self._ready,
            "TriggerAck": self._trigger_ack,
            "Busy": bool(self._open),
            "ResultToggle": self._toggle,
            "ResultValid": shown is not None,
            "Pass": is_pass,
            "Reject": not is_pass,
            "Unknown": shown is not None and shown.note.unknown,
            "Fault": self._fault,
        }
        words["Status"] = sum(1 << DISCRETE_INPUTS[name] for name, value in bits.items() if value)
        words["PartId"] = self._part_id
        if shown is not None:
            words["ResultPartId"] = shown.ticket.part_id
            words["Reason"] = reason_word(shown.note.reason_code)
            words["Severity x 10"] = severity_word(shown.note.severity_x10)
            words["Outcome"] = outcome_word(shown.note.outcome)
        return [words[name] for name in INPUT_REGISTERS]

    def carried(self) -> None:
        """What ``input_words`` said has gone to the PLC."""
        self._read = True

    def refresh(self, now_ns: int) -> None:
        """Let go of what is over, and show the next."""
        self._drop_late(now_ns)
        shown = self._shown
        if shown is not None and self._is_over(shown, now_ns):
            self._hide()
            self._blank_until_ns = now_ns + GAP_NS
        acknowledging = self.control >> COILS["ResultAck"] & 1
        if self._shown is None and self._waiting and not acknowledging and now_ns >= self._blank_until_ns:
            self._shown = self._waiting.popleft()
            self._read = False
            self._shown_ns = now_ns
            self._toggle = not self._toggle

    def _drop_late(self, now_ns: int) -> None:
        """Permits that waited past their deadline are never shown: late is reject."""
        for result in list(self._waiting):
            if result.permit and now_ns >= result.ticket.deadline_ns:
                self._waiting.remove(result)
                self._never_shown.append(result.ticket)

    def _hide(self) -> None:
        if self._shown is not None and self._shown.permit and not self._read:
            self._never_shown.append(self._shown.ticket)
        self._shown = None

    def _withdraw(self, part_id: int) -> None:
        """Nothing that is or would be shown for an earlier part of this id may be taken for the new one's."""
        if self._shown is not None and self._shown.ticket.part_id == part_id:
            self._hide()
        for result in [one for one in self._waiting if one.ticket.part_id == part_id]:
            self._waiting.remove(result)
            if result.permit:
                self._never_shown.append(result.ticket)

    def _is_over(self, shown: _Result, now_ns: int) -> bool:
        if shown.permit:
            return now_ns >= shown.ticket.deadline_ns
        return bool(self._waiting) and now_ns - self._shown_ns >= INFORM_NS

    # -- what the PLC says ----------------------------------------------------------------------------------------

    def written(self, control: int, part_id: int, recipe: int, now_ns: int) -> list[LineEvent]:
        """The PLC's words are these now; what their changes mean."""
        before, self.control = self.control, control & (1 << len(COILS)) - 1
        self.plc_part_id, self.plc_recipe = part_id, recipe
        rising = self.control & ~before
        events: list[LineEvent] = []
        enabled = bool(self.control >> COILS["TriggerEnable"] & 1)
        if (self.control ^ before) >> COILS["Heartbeat"] & 1:
            events.append(PlcHeartbeat(enabled))
        if rising >> COILS["ResultAck"] & 1 and self._shown is not None:
            events.append(Ack(self._shown.ticket.part_id))
            self._hide()
        if not self.control >> COILS["Trigger"] & 1:
            self._trigger_known = True
            self._trigger_ack = False
        elif rising >> COILS["Trigger"] & 1 and self._trigger_known and enabled:
            events.append(Trigger(part_id, recipe))
        self.refresh(now_ns)
        return events


@dataclass(slots=True)
class RegisterDriver:
    """The half of a line driver that both Modbus drivers share: what the line decides goes into the register picture.

    Nothing is shown without a wire, so a permit without one is refused.
    """

    _wire: Wire | None = field(default=None, init=False)
    _registers: Registers = field(default_factory=Registers, init=False)

    def accepted(self, trigger: Trigger, ticket: Ticket) -> None:
        self._registers.accepted(ticket)

    def refused(self, trigger: Trigger) -> None:
        self._registers.refused(trigger.part_id)

    def permit(self, ticket: Ticket, note: ResultNote, now_ns: int) -> bool:
        return self._wire is not None and self._registers.permit(ticket, note, now_ns)

    def inform(self, ticket: Ticket, note: ResultNote, now_ns: int) -> None:
        if self._wire is not None:
            self._registers.inform(ticket, note, now_ns)

    def ended(self, ticket: Ticket) -> None:
        self._registers.ended(ticket)

    def take_never_shown(self, now_ns: int) -> list[Ticket]:
        return self._registers.take_never_shown(now_ns)

    def heartbeat(self, beat: bool, ready: bool, fault: bool) -> None:
        self._registers.heartbeat(beat, ready, fault)
