"""Driver ``modbus-client``: the device is the RTU master and works in the holding registers of a PLC that is a slave.

It reads the PLC's three words every few milliseconds and writes its own six whenever one has changed, at least every
REWRITE_NS (a PLC that was switched on again has forgotten them). ``WIRE.md`` holds the map, ``registers.py`` says what
the words mean; one write of all six is one consistent picture. Frames are pymodbus' own. Its client is not used: it
waits (3 s, three tries, up to 300 s between two), and a request in a reject path may not wait for anything. Here one
request is under way at a time; without an answer after ``answer_ns`` it is given up, and asked anew after a silence.
A write that was repeated because its answer was lost changes nothing: the toggle in it is the same.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, WriteMultipleRegistersRequest

from .driver import LineEvent, Wire
from .modbus import is_intact
from .registers import RegisterDriver
from .wire import CLIENT_READS, CLIENT_WRITES

__all__ = ["ANSWER_NS", "REWRITE_NS", "ModbusClientDriver"]

#: How long the PLC has for its answer, beyond the time on the wire.
ANSWER_NS = 100_000_000
#: The six words are written at least this often.
REWRITE_NS = 100_000_000
#: Nothing is asked for this long after an answer that did not come: what still arrives belongs to the request before.
SILENCE_NS = 20_000_000
_MAX_BUFFER = 256
_READ, _WRITE = 3, 16


@dataclass(slots=True)
class ModbusClientDriver(RegisterDriver):
    """Driver ``modbus-client``. unit_id: of the PLC, 1..247. base_address: of its first register here, counted from 0.
    answer_ns: without an answer after this long the request is given up."""

    unit_id: int
    base_address: int = 0
    answer_ns: int = ANSWER_NS
    poll_s: float | None = 0.005
    protocol_errors: int = 0
    _buffer: bytearray = field(default_factory=bytearray)
    _asked: int = 0  # function code under way, 0: none
    _asked_ns: int = 0
    _quiet_until_ns: int = 0
    _unanswered: bool = False
    _last: int = _READ
    _sent: list[int] = field(default_factory=list)
    _confirmed: list[int] | None = None  # the words the PLC has answered for
    _confirmed_ns: int = 0
    _framer: FramerRTU = field(default_factory=lambda: FramerRTU(DecodePDU(False)))

    # -- LineDriver -----------------------------------------------------------------------------------------------

    def open(self, wire: Wire) -> None:
        self.close()
        self._wire = wire
        self._quiet_until_ns = 0

    def close(self) -> None:
        self._registers.clear()
        if self._wire is not None:
            self._send_words()  # best effort: the PLC sees the heartbeat stand still anyway
        self._wire = None
        self._buffer.clear()
        self._asked = 0
        self._confirmed = None

    def received(self, data: bytes, now_ns: int) -> list[LineEvent]:
        if not self._asked:
            return []  # noise, or an answer that was given up
        self._buffer += data
        answer = self._answer()
        if answer is None:
            return []
        asked, self._asked = self._asked, 0
        self._buffer.clear()
        self._unanswered = False
        if answer[1] != asked:
            self.protocol_errors += 1
            self._quiet_until_ns = now_ns + SILENCE_NS
            return []
        if asked == _WRITE:
            self._confirmed, self._confirmed_ns = self._sent, now_ns
            return []
        control, part_id, recipe = struct.unpack(">3H", answer[3:9])
        return self._registers.written(control, part_id, recipe, now_ns)

    def poll(self, now_ns: int) -> list[LineEvent]:
        if self._asked and now_ns - self._asked_ns >= self.answer_ns:
            self._asked = 0
            self._buffer.clear()
            self._quiet_until_ns = now_ns + SILENCE_NS
            self.protocol_errors += not self._unanswered  # a PLC that is off is one error
            self._unanswered = True
        if self._wire is None or self._asked or now_ns < self._quiet_until_ns:
            return []
        self._registers.refresh(now_ns)
        words = self._registers.input_words()
        due = words != self._confirmed or now_ns - self._confirmed_ns >= REWRITE_NS
        self._buffer.clear()
        self._asked_ns = now_ns
        # In turns: a PLC that answers no write is still heard, and what it says comes between two of our pictures.
        if due and self._last == _READ:
            self._asked = self._last = _WRITE
            self._send_words()
        else:
            self._asked = self._last = _READ
            self._send(
                ReadHoldingRegistersRequest(
                    address=self.base_address + CLIENT_READS["Control"], count=len(CLIENT_READS)
                )
            )
        return []

    # -- requests -------------------------------------------------------------------------------------------------

    def _send_words(self) -> None:
        self._sent = self._registers.input_words()
        address = self.base_address + CLIENT_WRITES["Status"]
        if self._send(WriteMultipleRegistersRequest(address=address, registers=self._sent)):
            self._registers.carried()

    def _send(self, request: ModbusPDU) -> bool:
        request.dev_id = self.unit_id
        return self._wire is not None and self._wire.write(self._framer.buildFrame(request))

    def _answer(self) -> bytes | None:
        """The answer to the request under way, wherever it begins behind noise; None: not there yet."""
        data = bytes(self._buffer)
        if self._asked == _READ:
            head = bytes((self.unit_id, _READ, 2 * len(CLIENT_READS)))
            size = 5 + 2 * len(CLIENT_READS)
        else:
            address = self.base_address + CLIENT_WRITES["Status"]
            head, size = struct.pack(">BBHH", self.unit_id, _WRITE, address, len(CLIENT_WRITES)), 8
        refusal = bytes((self.unit_id, self._asked | 0x80))
        for start in range(len(data)):
            for begin, length in ((head, size), (refusal, 5)):
                frame = data[start : start + length]
                if len(frame) == length and frame.startswith(begin) and is_intact(frame):
                    return frame
        if len(data) > _MAX_BUFFER:
            self.protocol_errors += 1
            del self._buffer[:-size]
        return None
