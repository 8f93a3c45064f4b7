"""The seam to a PLC: what a driver gets from the wire and what it may put on it.

A driver speaks one protocol over a port it does not own. It has no clock (``now_ns`` comes in), starts no thread and
never blocks, so the same object runs in the line process, in the contract test and against random bytes. There is no
``reject``: a driver that does nothing rejects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..tickets import Ticket
from .wire import ResultNote

__all__ = ["Ack", "LineDriver", "LineEvent", "ModemLines", "PlcHeartbeat", "Trigger", "Wire"]


@dataclass(frozen=True, slots=True)
class Trigger:
    """The PLC announced a part. part_id, recipe: 0..65535. sequence: the telegram's number, 0 where there is none."""

    part_id: int
    recipe: int = 0
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Ack:
    """The PLC has read the result of this part."""

    part_id: int


@dataclass(frozen=True, slots=True)
class PlcHeartbeat:
    """The PLC's heartbeat changed. trigger_enable: the PLC means to send triggers."""

    trigger_enable: bool


LineEvent = Trigger | Ack | PlcHeartbeat


@dataclass(frozen=True, slots=True)
class ModemLines:
    """The two inputs of a serial port that the driver ``discrete`` uses."""

    cts: bool
    dsr: bool


class Wire(Protocol):
    """Where a driver's bytes go: the serial port of the line process, or a list in a test."""

    def write(self, data: bytes) -> bool:
        """All of ``data`` or nothing, at once; False when the port is not there (then nothing was promised)."""
        ...

    def read_lines(self) -> ModemLines | None:
        """The inputs as they are now; None when the port is not there or has none."""
        ...

    def set_lines(self, rts: bool, dtr: bool) -> bool:
        """Switch both outputs; False when the port is not there or has none."""
        ...


class LineDriver(Protocol):
    """One PLC protocol. All calls come from one thread; none may block or raise for what the wire brings."""

    @property
    def poll_s(self) -> float | None:
        """How often ``poll`` wants to be called while the port is there; None: never."""
        ...

    @property
    def protocol_errors(self) -> int:
        """Telegrams or requests that were not understood, since start."""
        ...

    def open(self, wire: Wire) -> None:
        """The port is there; called again after each reconnect. Starts from rest: no result shown, gate closed."""
        ...

    def close(self) -> None:
        """The port is gone or the process stops: forget half telegrams, shown results and pending triggers."""
        ...

    def received(self, data: bytes, now_ns: int) -> list[LineEvent]:
        """Bytes from the PLC, in any portions, possibly garbage; answers the protocol needs are written at once."""
        ...

    def poll(self, now_ns: int) -> list[LineEvent]:
        """Time has passed: ask the PLC, look at the lines, end what is over."""
        ...

    def accepted(self, trigger: Trigger, ticket: Ticket) -> None:
        """The trigger has its ticket: acknowledge it."""
        ...

    def refused(self, trigger: Trigger) -> None:
        """No ticket could be opened for the trigger: say so, or stay silent where the protocol has no word for it."""
        ...

    def permit(self, ticket: Ticket, note: ResultNote, now_ns: int) -> bool:
        """PASS for this ticket. Called at most once a ticket, only by the gate. False: nothing went out."""
        ...

    def inform(self, ticket: Ticket, note: ResultNote, now_ns: int) -> None:
        """Why no permit came. Display only: must be impossible to take for a permit. Best effort."""
        ...

    def ended(self, ticket: Ticket) -> None:
        """The ticket is over: the driver need not remember it any longer."""
        ...

    def take_never_shown(self, now_ns: int) -> list[Ticket]:
        """Permitted parts whose permit is over and certainly never reached the PLC; each is told once. What was cut or
        garbled on the wire is not known here."""
        ...

    def heartbeat(self, beat: bool, ready: bool, fault: bool) -> None:
        """``beat`` toggles while the dead-man lease is live, and stands still otherwise."""
        ...
