"""Driver ``discrete``: four modem lines of a serial port, for a PLC with nothing but digital inputs and outputs.

RTS is PASS: a pulse, energised to pass. DTR is READY: it changes every heartbeat while the device is fit, else it is
off. One of CTS and DSR is Trigger (rising edge), the other is Enable (on while the PLC runs and means its triggers; a
cable that is out is off). ``WIRE.md`` holds what the PLC has to do with them.

No line carries a part id, so one part at a time: two tickets open at once are both refused. Part ids are counted here.
A line that stays on is no permit, its rising edge is: a stopped process leaves its lines as they are. There is no word
for why a part was rejected, nor an acknowledgement: a pulse that nobody saw is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..tickets import Ticket
from .driver import LineEvent, PlcHeartbeat, Trigger, Wire
from .wire import ResultNote

__all__ = ["DEBOUNCE_NS", "DiscreteDriver"]

#: Trigger has to be off for this long before it can rise again: contacts bounce.
DEBOUNCE_NS = 5_000_000
_ALIVE_NS = 100_000_000


@dataclass(slots=True)
class DiscreteDriver:
    """Driver ``discrete``. trigger_input: ``cts`` or ``dsr``; the other one is Enable. pulse_ns: length of PASS, and
    least rest between two of them."""

    trigger_input: str
    pulse_ns: int
    poll_s: float | None = 0.002
    protocol_errors: int = 0
    _wire: Wire | None = None
    _level: bool = True  # Trigger as last seen; True at first, so that one that was on before is no edge
    _off_since_ns: int | None = None
    _alive_ns: int | None = None
    _part_id: int = 0
    _open: set[str] = field(default_factory=set)
    _spoilt: set[str] = field(default_factory=set)
    _spoil_next: bool = False
    _pass_until_ns: int | None = None
    _rest_until_ns: int = 0
    _pending: Ticket | None = None
    _never_shown: list[Ticket] = field(default_factory=list)
    _ready: bool = False

    def open(self, wire: Wire) -> None:
        self.close()
        self._wire = wire
        wire.set_lines(False, False)

    def close(self) -> None:
        if self._wire is not None:
            self._wire.set_lines(False, False)
        self._wire = None
        self._level, self._off_since_ns, self._alive_ns = True, None, None
        self._open.clear()
        self._spoilt.clear()
        self._spoil_next = False
        self._pass_until_ns = None
        self._drop_pending()
        self._ready = False

    def received(self, data: bytes, now_ns: int) -> list[LineEvent]:
        return []  # characters mean nothing here

    def poll(self, now_ns: int) -> list[LineEvent]:
        lines = self._lines()
        if lines is None:
            return []
        trigger, enable = lines
        events: list[LineEvent] = []
        if not enable:
            self._alive_ns = None
        elif self._alive_ns is None or now_ns - self._alive_ns >= _ALIVE_NS:
            self._alive_ns = now_ns
            events.append(PlcHeartbeat(True))
        if self._is_edge(trigger, now_ns) and enable:
            self._end_pass(now_ns)  # it belongs to the part before
            self._drop_pending()
            if self._open:
                self._spoilt |= self._open
                self._spoil_next = True
                self.protocol_errors += 1
            self._part_id = self._part_id % 0xFFFF + 1
            events.append(Trigger(self._part_id))
        if self._pass_until_ns is not None and now_ns >= self._pass_until_ns:
            self._end_pass(now_ns)
        pending = self._pending
        if pending is not None and not events and now_ns >= self._rest_until_ns:
            self._pending = None
            if not self._begin_pass(pending, now_ns):
                self._never_shown.append(pending)
        return events

    def accepted(self, trigger: Trigger, ticket: Ticket) -> None:
        self._open.add(ticket.record_id)
        if self._spoil_next:
            self._spoilt.add(ticket.record_id)
            self._spoil_next = False

    def refused(self, trigger: Trigger) -> None:
        """No line for it."""
        self._spoil_next = False

    def permit(self, ticket: Ticket, note: ResultNote, now_ns: int) -> bool:
        known = ticket.record_id in self._open and ticket.record_id not in self._spoilt
        if self._wire is None or not note.is_pass or not known or now_ns >= ticket.deadline_ns:
            return False
        if self._pass_until_ns is not None or self._pending is not None:
            return False  # the PLC triggers only once the part before is decided and its pulse is over
        if now_ns < self._rest_until_ns:
            self._pending = ticket
            return True
        return self._begin_pass(ticket, now_ns)

    def inform(self, ticket: Ticket, note: ResultNote, now_ns: int) -> None:
        """No line for it."""

    def ended(self, ticket: Ticket) -> None:
        self._open.discard(ticket.record_id)
        self._spoilt.discard(ticket.record_id)

    def take_never_shown(self, now_ns: int) -> list[Ticket]:
        if self._pending is not None and now_ns >= self._pending.deadline_ns:
            self._drop_pending()
        lost, self._never_shown = self._never_shown, []
        return lost

    def heartbeat(self, beat: bool, ready: bool, fault: bool) -> None:
        self._ready = ready and not fault and beat
        self._set()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _lines(self) -> tuple[bool, bool] | None:
        """Trigger and Enable now; None: the port is gone."""
        lines = None if self._wire is None else self._wire.read_lines()
        if lines is None:
            return None
        return (lines.cts, lines.dsr) if self.trigger_input == "cts" else (lines.dsr, lines.cts)

    def _is_edge(self, trigger: bool, now_ns: int) -> bool:
        before, self._level = self._level, trigger
        if not trigger:
            if before or self._off_since_ns is None:
                self._off_since_ns = now_ns
            return False
        return not before and self._off_since_ns is not None and now_ns - self._off_since_ns >= DEBOUNCE_NS

    def _begin_pass(self, ticket: Ticket, now_ns: int) -> bool:
        lines = self._lines()
        if now_ns >= ticket.deadline_ns or lines is None:
            return False
        trigger, enable = lines
        if not enable or (trigger and not self._level):
            return False  # the PLC has triggered again since the last look, or has gone
        self._pass_until_ns = now_ns + self.pulse_ns
        if not self._set():
            self._pass_until_ns = None
            return False
        return True

    def _end_pass(self, now_ns: int) -> None:
        if self._pass_until_ns is not None:
            self._pass_until_ns = None
            self._rest_until_ns = now_ns + self.pulse_ns
            self._set()

    def _drop_pending(self) -> None:
        if self._pending is not None:
            self._never_shown.append(self._pending)
            self._pending = None

    def _set(self) -> bool:
        return self._wire is not None and self._wire.set_lines(self._pass_until_ns is not None, self._ready)
