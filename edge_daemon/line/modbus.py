"""Driver ``modbus-server``: the device is the RTU slave that the PLC polls. ``WIRE.md`` holds the register map.

Frames and PDUs are pymodbus' own; its serial server is not used, because it answers requests meant for other slaves of
the bus (DEVICE_FAILURE, pymodbus 3.16.1), knows no silent interval (half a request stays in front of the next ones),
re-opens a lost port only after one second, and takes three event-loop turns per request. Here a request is answered
inside the call that brought its last byte, from one state: a poll sees one result or another, never parts of both.

One result is shown at a time. It goes when the PLC has acknowledged it (ResultAck 0 -> 1) or, for a permit, at the
deadline of its ticket; the next is shown when ResultAck is 0 again. A permit that is never acknowledged is therefore
gone from the wire when it is no longer true. After a result that was not acknowledged nothing is shown for GAP_NS, so
that a PLC that reads bits and words in two requests cannot join Pass of one part with ResultPartId of another.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU

from ..tickets import Ticket
from .driver import Ack, LineEvent, PlcHeartbeat, Trigger, Wire
from .wire import (
    COILS,
    DISCRETE_INPUTS,
    HOLDING_REGISTERS,
    INPUT_REGISTERS,
    ResultNote,
    outcome_word,
    reason_word,
    severity_word,
)

__all__ = ["GAP_NS", "ModbusServerDriver"]

GAP_NS = 100_000_000
#: A result that only informs gives way to a waiting one after this long without an acknowledgement.
INFORM_NS = 100_000_000
#: Silence after which a half request is dropped: above the 16 ms latency timer of common USB converters.
SILENCE_NS = 40_000_000
MAX_FRAME = 256
#: Results that wait behind the shown one: permits beyond are refused, of results that only inform the oldest goes.
MAX_WAITING = 32
MAX_INFORMING = 4

_FUNCTION_CODES = frozenset({1, 2, 3, 4, 5, 6, 15, 16, 22, 23})


@dataclass(frozen=True, slots=True)
class _Result:
    ticket: Ticket
    note: ResultNote
    permit: bool


@dataclass(slots=True)
class ModbusServerDriver:
    """Driver ``modbus-server``. unit_id: 1..247; requests to any other unit, broadcasts included, stay unanswered."""

    unit_id: int
    protocol_errors: int = 0
    _wire: Wire | None = None
    _buffer: bytearray = field(default_factory=bytearray)
    _last_byte_ns: int = 0
    _now_ns: int = 0
    _control: int = 0  # what the PLC writes: bits of COILS
    _plc_part_id: int = 0
    _plc_recipe: int = 0
    _trigger_known: bool = False  # Trigger was seen at 0 since the port is there
    _trigger_ack: bool = False
    _part_id: int = 0
    _open: set[str] = field(default_factory=set)
    _beat: bool = False
    _ready: bool = False
    _fault: bool = True
    _toggle: bool = False
    _shown: _Result | None = None
    _read: bool = False  # an answer to the PLC has carried the shown result
    _never_shown: list[Ticket] = field(default_factory=list)
    _shown_ns: int = 0
    _blank_until_ns: int = 0
    _waiting: deque[_Result] = field(default_factory=deque)
    _framer: FramerRTU = field(default_factory=lambda: FramerRTU(DecodePDU(True)))

    # -- LineDriver -----------------------------------------------------------------------------------------------

    def open(self, wire: Wire) -> None:
        self.close()
        self._wire = wire

    def close(self) -> None:
        self._wire = None
        self._buffer.clear()
        self._hide()
        self._never_shown += [result.ticket for result in self._waiting if result.permit]
        self._waiting.clear()
        self._open.clear()
        self._trigger_known = False
        self._trigger_ack = False

    def received(self, data: bytes, now_ns: int) -> list[LineEvent]:
        self._now_ns = now_ns
        if self._buffer and now_ns - self._last_byte_ns > SILENCE_NS:
            self.protocol_errors += 1
            self._buffer.clear()
        self._last_byte_ns = now_ns
        self._buffer += data
        events: list[LineEvent] = []
        while (frame := self._next_frame()) is not None:
            events += self._serve(frame)
        return events

    def accepted(self, trigger: Trigger, ticket: Ticket) -> None:
        self._part_id = ticket.part_id
        self._open.add(ticket.record_id)
        self._trigger_ack = bool(self._control >> COILS["Trigger"] & 1)

    def refused(self, trigger: Trigger) -> None:
        """No word for it: TriggerAck stays 0."""

    def permit(self, ticket: Ticket, note: ResultNote, now_ns: int) -> bool:
        if self._wire is None or not note.is_pass or ticket.record_id not in self._open:
            return False
        if now_ns >= ticket.deadline_ns or len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(_Result(ticket, note, permit=True))
        self._refresh(now_ns)
        return True

    def inform(self, ticket: Ticket, note: ResultNote, now_ns: int) -> None:
        if self._wire is None:
            return
        informing = [result for result in self._waiting if not result.permit]
        if len(informing) >= MAX_INFORMING:
            self._waiting.remove(informing[0])
        self._waiting.append(_Result(ticket, note.without_pass(), permit=False))
        self._refresh(now_ns)

    def ended(self, ticket: Ticket) -> None:
        self._open.discard(ticket.record_id)

    def take_never_shown(self, now_ns: int) -> list[Ticket]:
        # The registers stay as they are: only a poll sees a result go, so that it sees the gap behind it as well.
        self._drop_late(now_ns)
        shown = self._shown
        if shown is not None and shown.permit and not self._read and now_ns >= shown.ticket.deadline_ns:
            self._never_shown.append(shown.ticket)
            self._read = True  # told once
        lost, self._never_shown = self._never_shown, []
        return lost

    def heartbeat(self, beat: bool, ready: bool, fault: bool) -> None:
        self._beat, self._ready, self._fault = beat, ready, fault

    # -- which result is shown ------------------------------------------------------------------------------------

    def _refresh(self, now_ns: int) -> None:
        self._drop_late(now_ns)
        shown = self._shown
        if shown is not None and self._is_over(shown, now_ns):
            self._hide()
            self._blank_until_ns = now_ns + GAP_NS
        acknowledging = self._control >> COILS["ResultAck"] & 1
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

    def _is_over(self, shown: _Result, now_ns: int) -> bool:
        if shown.permit:
            return now_ns >= shown.ticket.deadline_ns
        return bool(self._waiting) and now_ns - self._shown_ns >= INFORM_NS

    def _input_registers(self) -> list[int]:
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

    # -- what the PLC writes --------------------------------------------------------------------------------------

    def _written(self, control: int, part_id: int, recipe: int) -> list[LineEvent]:
        before, self._control = self._control, control & (1 << len(COILS)) - 1
        self._plc_part_id, self._plc_recipe = part_id, recipe
        rising = self._control & ~before
        events: list[LineEvent] = []
        enabled = bool(self._control >> COILS["TriggerEnable"] & 1)
        if (self._control ^ before) >> COILS["Heartbeat"] & 1:
            events.append(PlcHeartbeat(enabled))
        if rising >> COILS["ResultAck"] & 1 and self._shown is not None:
            events.append(Ack(self._shown.ticket.part_id))
            self._hide()
        if not self._control >> COILS["Trigger"] & 1:
            self._trigger_known = True
            self._trigger_ack = False
        elif rising >> COILS["Trigger"] & 1 and self._trigger_known and enabled:
            events.append(Trigger(part_id, recipe))
        self._refresh(self._now_ns)
        return events

    # -- requests -------------------------------------------------------------------------------------------------

    def _next_frame(self) -> bytes | None:
        """Take the next whole request to this unit out of the buffer; what cannot begin one is dropped."""
        data = self._buffer
        while len(data) >= FramerRTU.MIN_SIZE:
            size = self._frame_size(bytes(data))
            if size is None:  # no request begins here
                del data[0]
            elif size == 0 or len(data) < size:
                if not self._holds_request_later(bytes(data)):
                    return None
                del data[0]
            elif not _is_intact(bytes(data[:size])):
                self.protocol_errors += 1
                del data[0]
            else:
                frame = bytes(data[:size])
                del data[:size]
                if frame[0] == self.unit_id:
                    return frame
        return None

    def _frame_size(self, data: bytes) -> int | None:
        """Length of the request that begins here; 0: not known yet; None: none can begin here."""
        if data[0] > 247:
            return None
        if data[1] not in _FUNCTION_CODES:
            # Its length is not ours to know; alone and intact it is one for us and gets its exception.
            return len(data) if data[0] == self.unit_id and len(data) <= MAX_FRAME and _is_intact(data) else None
        request_class = self._framer.decoder.lookupPduClass(data)
        if request_class is None:
            return None
        size = int(request_class.calculateRtuFrameSize(data))
        return None if size > MAX_FRAME else size

    def _holds_request_later(self, data: bytes) -> bool:
        """Whether a whole, intact request to this unit follows behind the one that never became whole."""
        for start in range(1, len(data) - FramerRTU.MIN_SIZE + 1):
            if data[start] == self.unit_id and data[start + 1] in _FUNCTION_CODES:
                size = self._frame_size(data[start:])
                if size and start + size <= len(data) and _is_intact(data[start : start + size]):
                    self.protocol_errors += 1
                    return True
        return False

    def _serve(self, frame: bytes) -> list[LineEvent]:
        memory = _Memory(self)
        response: ModbusPDU
        self._refresh(self._now_ns)
        if frame[1] not in _FUNCTION_CODES:
            response = ExceptionResponse(frame[1] & 0x7F, ExcCodes.ILLEGAL_FUNCTION)
        elif (request := self._framer.decoder.decode(frame[1:-2])) is None:
            self.protocol_errors += 1
            response = ExceptionResponse(frame[1], ExcCodes.ILLEGAL_VALUE)
        else:
            try:
                response = _run(request.datastore_update(memory, self.unit_id))  # type: ignore[arg-type]  # duck-typed
            except (ModbusException, ValueError, IndexError, struct.error):
                self.protocol_errors += 1
                response = ExceptionResponse(frame[1], ExcCodes.ILLEGAL_VALUE)
        response.dev_id = self.unit_id
        if self._wire is not None:
            self._wire.write(self._framer.buildFrame(response))
        return memory.events


def _is_intact(frame: bytes) -> bool:
    return bool(FramerRTU.check_CRC(frame[:-2], int.from_bytes(frame[-2:], "big")))


class _Memory:
    """The datastore that pymodbus' requests read and write, for the length of one request. It never suspends."""

    def __init__(self, driver: ModbusServerDriver) -> None:
        self._driver = driver
        self.events: list[LineEvent] = []

    async def async_getValues(  # noqa: N802  # pymodbus' name
        self, _device_id: int, function_code: int, address: int, count: int = 1
    ) -> list[int] | list[bool] | ExcCodes:
        driver = self._driver
        words: list[int]
        if function_code == 4:
            words = driver._input_registers()
        elif function_code == 2:
            status = driver._input_registers()[INPUT_REGISTERS["Status"]]
            words = [status >> bit & 1 for bit in range(len(DISCRETE_INPUTS))]
        elif function_code in (1, 5, 15):
            words = [driver._control >> bit & 1 for bit in range(len(COILS))]
        else:
            words = [driver._control, driver._plc_part_id, driver._plc_recipe]
        if address + count > len(words):
            return ExcCodes.ILLEGAL_ADDRESS
        values = words[address : address + count]
        verdict = {4: INPUT_REGISTERS["Status"], 2: DISCRETE_INPUTS["Pass"]}.get(function_code)
        if verdict is not None and address <= verdict < address + count:
            driver._read = True
        return [bool(value) for value in values] if function_code in (1, 2, 5, 15) else values

    async def async_setValues(  # noqa: N802  # pymodbus' name
        self, _device_id: int, function_code: int, address: int, values: list[int] | list[bool]
    ) -> ExcCodes | None:
        driver = self._driver
        if function_code in (5, 15):
            if address + len(values) > len(COILS):
                return ExcCodes.ILLEGAL_ADDRESS
            control = driver._control
            for bit, value in enumerate(values, address):
                control = control | 1 << bit if value else control & ~(1 << bit)
            self.events += driver._written(control, driver._plc_part_id, driver._plc_recipe)
            return None
        if address + len(values) > len(HOLDING_REGISTERS):
            return ExcCodes.ILLEGAL_ADDRESS
        words = [driver._control, driver._plc_part_id, driver._plc_recipe]
        words[address : address + len(values)] = [int(value) for value in values]
        self.events += driver._written(*words)
        return None


def _run(update: Coroutine[Any, Any, ModbusPDU]) -> ModbusPDU:
    """Finish a coroutine that never suspends (``_Memory`` awaits nothing): the request is answered in one go."""
    try:
        update.send(None)
    except StopIteration as done:
        response: ModbusPDU = done.value
        return response
    update.close()
    raise ModbusException("a request suspended although its datastore never does")
