"""How the virtual PLC speaks: ascii, Modbus master (for modbus-server) and Modbus slave (for modbus-client)."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import serial  # type: ignore[import-untyped]  # pyserial 3.5 carries no types
from pymodbus.client import ModbusSerialClient
from pymodbus.exceptions import ModbusException

from ..line.ascii import TelegramReader, encode
from .rtu_slave import RtuSlave

if TYPE_CHECKING:
    from .virtual_plc import VirtualPlc

__all__ = [
    "HEARTBEAT_MAX_AGE_S",
    "PLC_DRIVERS",
    "AsciiWire",
    "ModbusMasterWire",
    "ModbusProgram",
    "ModbusSlaveWire",
    "Part",
    "PlcWire",
    "Result",
]

#: Drivers of the line process that a virtual PLC can answer.
PLC_DRIVERS = ("ascii", "modbus-server", "modbus-client")
#: A heartbeat older than this is dead.
HEARTBEAT_MAX_AGE_S = 0.3
HEARTBEAT_S = 0.1
#: A trigger telegram that is not acknowledged is repeated after this long (ascii).
ACKNOWLEDGE_S = 0.1


@dataclass(slots=True)
class Part:
    part_id: int
    trigger_ns: int
    deadline_ns: int
    sequence: int = 0
    acknowledged: bool = False
    sent_ns: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """One result as read from the wire."""

    part_id: int
    valid: bool
    is_pass: bool
    is_reject: bool
    is_new: bool
    sequence: int | None = None


class PlcWire(Protocol):
    """The PLC's end of one protocol. ``open``, ``turn`` and ``close`` run in the I/O thread and may raise OSError."""

    @property
    def protocol_errors(self) -> int: ...
    def open(self) -> None: ...
    def turn(self) -> None: ...
    def close(self) -> None: ...
    def trigger(self, part: Part, recipe: int) -> None: ...


class AsciiWire:
    def __init__(self, plc: VirtualPlc, port: str, baudrate: int) -> None:
        self._plc = plc
        self._path = port
        self._baudrate = baudrate
        self._serial: serial.Serial | None = None
        self._reader = TelegramReader()
        self._sequence = itertools.count(1)  # next() is atomic: two threads send
        self._last_sequence: int | None = None
        self._recipe = 0
        self._beat_ns = 0
        self._lock = threading.Lock()

    @property
    def protocol_errors(self) -> int:
        return self._reader.errors

    def open(self) -> None:
        port = serial.Serial(self._path, self._baudrate, timeout=0, write_timeout=0.2, exclusive=True)
        port.reset_input_buffer()
        self._reader.clear()
        self._serial = port

    def close(self) -> None:
        with self._lock:
            port, self._serial = self._serial, None
            if port is not None:
                port.close()

    def trigger(self, part: Part, recipe: int) -> None:
        self._recipe = recipe
        part.sequence = next(self._sequence) & 0xFFFF
        part.sent_ns = time.monotonic_ns()
        self._send_trigger(part)

    def turn(self) -> None:
        port = self._serial
        if port is None:
            raise OSError("the port was closed")
        now_ns = time.monotonic_ns()
        if now_ns - self._beat_ns >= HEARTBEAT_S * 1e9:
            self._beat_ns = now_ns
            self._send("B", trigger_enable=1)
            for part in list(self._plc._waiting.values()):
                if not part.acknowledged and now_ns - part.sent_ns >= ACKNOWLEDGE_S * 1e9:
                    part.sent_ns = now_ns
                    self._send_trigger(part)
        if not select.select([port.fileno()], [], [], 0.01)[0]:
            return
        data = os.read(port.fileno(), 4096)
        if not data:
            raise OSError("hung up")
        now_ns = time.monotonic_ns()
        for kind, values in self._reader.feed(data):
            self._obey(kind, values, now_ns)

    def _obey(self, kind: str, values: dict[str, Any], now_ns: int) -> None:
        is_new = values["seq"] != self._last_sequence
        self._last_sequence = values["seq"]
        if kind == "H":
            self._plc._see_heartbeat(values["beat"], bool(values["ready"]), bool(values["fault"]), now_ns)
        elif kind == "K":
            part = self._plc._waiting.get(values["part_id"])
            if part is not None and part.sequence == values["trigger_seq"] and values["status"] == 0:
                part.acknowledged = True
        elif kind == "P":
            whole = (
                values["word"] == 0xA5C3
                and values["not_word"] == 0x5A3C
                and values["part_id"] + values["not_part_id"] == 0xFFFF
            )
            self._plc._consider(
                Result(values["part_id"], whole, whole, not whole, is_new, values["trigger_seq"]), now_ns
            )
            self._send("A", part_id=values["part_id"])
        elif kind == "I":
            self._plc.details[values["part_id"]] = values
            self._send("A", part_id=values["part_id"])

    def _send_trigger(self, part: Part) -> None:
        # The sequence number stays when a trigger is repeated: that is how the device knows it for a repetition.
        self._write(encode("T", seq=part.sequence, part_id=part.part_id, recipe=self._recipe))

    def _send(self, kind: str, **values: int | str) -> None:
        self._write(encode(kind, seq=next(self._sequence) & 0xFFFF, **values))

    def _write(self, data: bytes) -> None:
        with self._lock:
            if self._serial is not None:
                # A cable that is out takes nothing; the reading side finds out and reopens.
                with contextlib.suppress(OSError, termios.error):
                    self._serial.write(data)


class ModbusProgram:
    """The PLC program for both Modbus drivers: what it makes of the device's six words, and the three it sends."""

    HEARTBEAT, ENABLE, TRIGGER, ACK = 1, 2, 4, 8

    def __init__(self, plc: VirtualPlc) -> None:
        self._plc = plc
        self.queue: deque[tuple[Part, int]] = deque()
        self._shaking: Part | None = None  # the part whose Trigger bit is up
        self._control = self.ENABLE
        self._delivered = self._control  # the control word the device has had
        self._words = [0, 0]
        self._beat_ns = 0
        self._toggle: int | None = None

    def restart(self) -> None:
        """After the cable was out: Trigger and ResultAck are down, and what the device shows now is not new."""
        self._toggle = None
        self._control &= ~(self.TRIGGER | self.ACK)
        self._shaking = None

    def step(self, now_ns: int) -> list[int]:
        """Control, PartId and Recipe as they are to be now."""
        if now_ns - self._beat_ns >= HEARTBEAT_S * 1e9:
            self._beat_ns = now_ns
            self._control ^= self.HEARTBEAT
        while self._shaking is None and self.queue and not self._delivered & self.TRIGGER:
            part, recipe = self.queue.popleft()
            if part.part_id in self._plc._waiting:  # else it was decided while the cable was out
                self._shaking = part
                part.sent_ns = now_ns
                self._control |= self.TRIGGER
                self._words = [part.part_id, recipe]
        return [self._control, *self._words]

    def delivered(self, control: int) -> None:
        """The device has had this control word: only behind a Trigger that it saw at 0 is the next one an edge."""
        self._delivered = control

    def see(self, registers: Sequence[int], now_ns: int) -> None:
        """The device's six words, read as one picture."""
        status, part_id, result_part_id, reason, severity_x10, outcome = registers
        bit = [status >> number & 1 for number in range(10)]
        self._plc._see_heartbeat(bit[0], bool(bit[1]), bool(bit[9]), now_ns)
        shaking = self._shaking
        if shaking is not None:
            if bit[2] and part_id == shaking.part_id:
                shaking.acknowledged = True
            if shaking.acknowledged or shaking.part_id not in self._plc._waiting:
                self._control &= ~self.TRIGGER
                self._shaking = None
        is_new = self._toggle is not None and bit[4] != self._toggle
        self._toggle = bit[4]
        if bit[5]:
            result = Result(result_part_id, bool(bit[5]), bool(bit[6]), bool(bit[7]), is_new)
            self._plc._consider(result, now_ns)
            if is_new:
                self._plc.details[result_part_id] = {
                    "outcome": outcome,
                    "reason": reason,
                    "severity_x10": severity_x10,
                    "unknown": bit[8],
                }
            self._control |= self.ACK
        else:
            self._control &= ~self.ACK


class ModbusMasterWire:
    """Polls input registers 0..5 in one request; writes control word, PartId and Recipe in one request."""

    def __init__(self, plc: VirtualPlc, port: str, baudrate: int, unit_id: int, poll_s: float) -> None:
        # pymodbus' defaults (3 s, 3 retries) are longer than any part waits.
        self._client = ModbusSerialClient(port, baudrate=baudrate, timeout=0.1, retries=0)
        self._unit_id = unit_id
        self._poll_s = poll_s
        self._wake = threading.Event()
        self._program = ModbusProgram(plc)
        self._written: list[int] | None = None
        self.protocol_errors = 0

    def open(self) -> None:
        if not self._client.connect():
            raise OSError("the port cannot be opened")
        self._written = None
        self._program.restart()
        self._write()

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]  # pymodbus 3.16 has no annotation here

    def trigger(self, part: Part, recipe: int) -> None:
        self._program.queue.append((part, recipe))
        self._wake.set()

    def turn(self) -> None:
        self._write()
        answer = self._ask(lambda: self._client.read_input_registers(0, count=6, device_id=self._unit_id))
        if answer is not None and len(answer.registers) == 6:
            self._program.see(answer.registers, time.monotonic_ns())
        self._write()
        if not self._program.queue and self._wake.wait(self._poll_s):
            self._wake.clear()

    def _write(self) -> None:
        values = self._program.step(time.monotonic_ns())
        if values != self._written and self._ask(
            lambda: self._client.write_registers(0, values, device_id=self._unit_id)
        ):
            self._written = values
            self._program.delivered(values[0])

    def _ask(self, request: Callable[[], Any]) -> Any:
        try:
            answer = request()
        except ModbusException:
            self.protocol_errors += 1
            if not self._client.connected:
                raise
            return None
        if answer.isError():
            self.protocol_errors += 1
            return None
        return answer


class ModbusSlaveWire:
    """The PLC as slave, for the driver modbus-client: nine holding registers that the device writes and reads."""

    def __init__(self, plc: VirtualPlc, port: str, baudrate: int, unit_id: int) -> None:
        self._path, self._baudrate = port, baudrate
        self._serial: serial.Serial | None = None
        self._program = ModbusProgram(plc)
        self._slave = RtuSlave(unit_id, [0] * 9)
        self._seen = 0

    @property
    def protocol_errors(self) -> int:
        return self._slave.errors

    def open(self) -> None:
        self._serial = serial.Serial(self._path, self._baudrate, timeout=0, write_timeout=0.2, exclusive=True)
        self._serial.reset_input_buffer()
        self._slave.clear()
        self._slave.words[:] = [0] * 9  # switched on again
        self._program.restart()

    def close(self) -> None:
        port, self._serial = self._serial, None
        if port is not None:
            port.close()

    def trigger(self, part: Part, recipe: int) -> None:
        self._program.queue.append((part, recipe))

    def turn(self) -> None:
        port = self._serial
        if port is None:
            raise OSError("the port was closed")
        self._slave.words[6:9] = self._program.step(time.monotonic_ns())
        if not select.select([port.fileno()], [], [], 0.005)[0]:
            return
        data = os.read(port.fileno(), 4096)
        if not data:
            raise OSError("hung up")
        reads = self._slave.reads
        answer = self._slave.feed(data)
        if self._slave.reads != reads:
            self._program.delivered(self._slave.words[6])
        if self._slave.writes != self._seen:
            self._seen = self._slave.writes
            self._program.see(self._slave.words[:6], time.monotonic_ns())
            self._slave.words[6:9] = self._program.step(time.monotonic_ns())
        if answer:
            os.write(port.fileno(), answer)
