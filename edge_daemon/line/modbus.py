"""Driver ``modbus-server``: the device is the RTU slave that the PLC polls. ``WIRE.md`` holds the register map.

Frames and PDUs are pymodbus' own; its serial server is not used, because it answers requests meant for other slaves of
the bus (DEVICE_FAILURE, pymodbus 3.16.1), knows no silent interval (half a request stays in front of the next ones),
re-opens a lost port only after one second, and takes three event-loop turns per request. Here a request is answered
inside the call that brought its last byte, from one state: a poll sees one result or another, never parts of both.

Which result is shown, and what the PLC's bits mean, is ``registers.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU

from .driver import LineEvent, Wire
from .registers import GAP_NS, MAX_INFORMING, RegisterDriver
from .wire import COILS, DISCRETE_INPUTS, HOLDING_REGISTERS, INPUT_REGISTERS

__all__ = ["GAP_NS", "MAX_INFORMING", "ModbusServerDriver", "is_intact"]

#: Silence after which a half request is dropped: above the 16 ms latency timer of common USB converters.
SILENCE_NS = 40_000_000
MAX_FRAME = 256

_FUNCTION_CODES = frozenset({1, 2, 3, 4, 5, 6, 15, 16, 22, 23})


@dataclass(slots=True)
class ModbusServerDriver(RegisterDriver):
    """Driver ``modbus-server``. unit_id: 1..247; requests to any other unit, broadcasts included, stay unanswered."""

    unit_id: int
    poll_s: float | None = None
    protocol_errors: int = 0
    _buffer: bytearray = field(default_factory=bytearray)
    _last_byte_ns: int = 0
    _now_ns: int = 0
    _framer: FramerRTU = field(default_factory=lambda: FramerRTU(DecodePDU(True)))

    # -- LineDriver -----------------------------------------------------------------------------------------------

    def open(self, wire: Wire) -> None:
        self.close()
        self._wire = wire

    def close(self) -> None:
        self._wire = None
        self._buffer.clear()
        self._registers.clear()

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

    def poll(self, now_ns: int) -> list[LineEvent]:
        return []  # the PLC asks

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
            elif not is_intact(bytes(data[:size])):
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
            return len(data) if data[0] == self.unit_id and len(data) <= MAX_FRAME and is_intact(data) else None
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
                if size and start + size <= len(data) and is_intact(data[start : start + size]):
                    self.protocol_errors += 1
                    return True
        return False

    def _serve(self, frame: bytes) -> list[LineEvent]:
        memory = _Memory(self)
        response: ModbusPDU
        self._registers.refresh(self._now_ns)
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


def is_intact(frame: bytes) -> bool:
    """Whether the frame's CRC is right."""
    return bool(FramerRTU.check_CRC(frame[:-2], int.from_bytes(frame[-2:], "big")))


class _Memory:
    """The datastore that pymodbus' requests read and write, for the length of one request. It never suspends."""

    def __init__(self, driver: ModbusServerDriver) -> None:
        self._driver = driver
        self.events: list[LineEvent] = []

    async def async_getValues(  # noqa: N802  # pymodbus' name
        self, _device_id: int, function_code: int, address: int, count: int = 1
    ) -> list[int] | list[bool] | ExcCodes:
        registers = self._driver._registers
        words: list[int]
        if function_code == 4:
            words = registers.input_words()
        elif function_code == 2:
            status = registers.input_words()[INPUT_REGISTERS["Status"]]
            words = [status >> bit & 1 for bit in range(len(DISCRETE_INPUTS))]
        elif function_code in (1, 5, 15):
            words = [registers.control >> bit & 1 for bit in range(len(COILS))]
        else:
            words = [registers.control, registers.plc_part_id, registers.plc_recipe]
        if address + count > len(words):
            return ExcCodes.ILLEGAL_ADDRESS
        values = words[address : address + count]
        verdict = {4: INPUT_REGISTERS["Status"], 2: DISCRETE_INPUTS["Pass"]}.get(function_code)
        if verdict is not None and address <= verdict < address + count:
            registers.carried()
        return [bool(value) for value in values] if function_code in (1, 2, 5, 15) else values

    async def async_setValues(  # noqa: N802  # pymodbus' name
        self, _device_id: int, function_code: int, address: int, values: list[int] | list[bool]
    ) -> ExcCodes | None:
        registers, now_ns = self._driver._registers, self._driver._now_ns
        if function_code in (5, 15):
            if address + len(values) > len(COILS):
                return ExcCodes.ILLEGAL_ADDRESS
            control = registers.control
            for bit, value in enumerate(values, address):
                control = control | 1 << bit if value else control & ~(1 << bit)
            self.events += registers.written(control, registers.plc_part_id, registers.plc_recipe, now_ns)
            return None
        if address + len(values) > len(HOLDING_REGISTERS):
            return ExcCodes.ILLEGAL_ADDRESS
        words = [registers.control, registers.plc_part_id, registers.plc_recipe]
        words[address : address + len(values)] = [int(value) for value in values]
        self.events += registers.written(words[0], words[1], words[2], now_ns)
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
