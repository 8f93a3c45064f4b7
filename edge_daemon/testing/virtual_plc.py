"""A virtual PLC: trigger, gate and PASS rule as the real one has them, over a real serial port or a pseudo-terminal.

It is the observer of the line: its PASS rule is written from the design (ResultValid AND Pass AND NOT Reject AND
ResultPartId = PartId AND ResultToggle changed AND heartbeat age < 300 ms AND before its own deadline), not from the
gate, and it counts what it let through. It is also a worked example of the PLC program that ``line/WIRE.md`` asks for.

    with PtyPair() as wire, VirtualPlc(wire.plc_path, "ascii", deadline_s=0.35) as plc:
        ...                                    # start a line process on wire.device_path
        plc.wait_ready(5)
        counts = plc.run(parts=60, rate_per_min=60)

Its deadline must be longer than the device's by the wire time and, for Modbus, one poll: a permit given at the last
instant still has to arrive. What it does not do: actuate anything.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import select
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import serial  # type: ignore[import-untyped]  # pyserial 3.5 carries no types
from pymodbus.client import ModbusSerialClient
from pymodbus.exceptions import ModbusException

from ..errors import LineError, UsageError
from ..line.ascii import TelegramReader, encode
from .pty_pair import PtyPair

__all__ = ["PlcCounts", "PtyPair", "VirtualPlc", "main"]

#: A heartbeat older than this is dead.
HEARTBEAT_MAX_AGE_S = 0.3
HEARTBEAT_S = 0.1
#: A trigger telegram that is not acknowledged is repeated after this long (ascii).
ACKNOWLEDGE_S = 0.1
RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class PlcCounts:
    """What the PLC counted.

    let_through and rejected: part ids in the order of decision, disjoint; together every trigger whose deadline has
    passed. late_ignored: permits for a part that was no longer waiting. stale_ignored: permits that came while the
    device's heartbeat was older than 300 ms. latencies_s: from sending the trigger to the permit that was obeyed, one
    per part let through. unacknowledged: triggers the device never confirmed.
    """

    triggers: int
    let_through: tuple[int, ...]
    rejected: tuple[int, ...]
    late_ignored: int
    stale_ignored: int
    protocol_errors: int
    unacknowledged: int
    latencies_s: tuple[float, ...] = field(repr=False)


@dataclass(slots=True)
class _Part:
    part_id: int
    trigger_ns: int
    deadline_ns: int
    sequence: int = 0
    acknowledged: bool = False
    sent_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Result:
    """One result as read from the wire."""

    part_id: int
    valid: bool
    is_pass: bool
    is_reject: bool
    is_new: bool
    sequence: int | None = None


class VirtualPlc:
    """A PLC with one inspection station.

    port, driver, baudrate, unit_id: as in LineOptions. deadline_s: its own, from sending a trigger.
    on_trigger(part_id): called before the trigger is sent, when the part stands before the camera.
    on_decided(part_id, let_through): called from the I/O thread. poll_s: pause between Modbus polls.
    Threads: one for I/O; ``trigger`` and ``run`` use the caller's.
    """

    def __init__(
        self,
        port: str | Path,
        driver: str = "ascii",
        *,
        deadline_s: float,
        baudrate: int = 115_200,
        unit_id: int = 1,
        recipe: int = 0,
        first_part_id: int = 1,
        poll_s: float = 0.005,
        on_trigger: Callable[[int], None] | None = None,
        on_decided: Callable[[int, bool], None] | None = None,
    ) -> None:
        if driver not in ("ascii", "modbus-server"):
            raise UsageError(f"the virtual PLC has no driver {driver!r}", hint="use ascii or modbus-server")
        self._deadline_ns = round(deadline_s * 1e9)
        self._next_part_id = first_part_id
        self._recipe = recipe
        self._on_trigger = on_trigger
        self._on_decided = on_decided
        self._changed = threading.Condition()
        self._waiting: dict[int, _Part] = {}
        self._decided: dict[int, bool] = {}
        self._let_through: list[int] = []
        self._rejected: list[int] = []
        self._latencies_s: list[float] = []
        self._triggers = 0
        self._late_ignored = 0
        self._stale_ignored = 0
        self._unacknowledged = 0
        self._beat: int | None = None
        self._beat_ns: int | None = None
        self._ready = False
        self._fault = True
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.details: dict[int, dict[str, int | str]] = {}  #: part id -> what the device told beside its last result
        self._master: _Master = (
            _AsciiMaster(self, str(port), baudrate)
            if driver == "ascii"
            else _ModbusMaster(self, str(port), baudrate, unit_id, poll_s)
        )

    # -- use ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the port (or keep trying) and begin heartbeats and reading."""
        self._thread = threading.Thread(target=self._run_io, name="virtual-plc", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; parts still waiting are rejected. Safe in any state."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None
        for part in list(self._waiting.values()):
            self._decide(part, let_through=False)

    def __enter__(self) -> VirtualPlc:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def trigger(self, part_id: int | None = None) -> int:
        """Put a part before the camera and send its trigger; returns its id. Raises UsageError if it is waiting."""
        if part_id is None:
            part_id = self._next_part_id
            self._next_part_id = (self._next_part_id + 1) & 0xFFFF
        if part_id in self._waiting:
            raise UsageError(f"part {part_id} is waiting already", hint="the same part cannot be at the station twice")
        if self._on_trigger is not None:
            self._on_trigger(part_id)
        with self._changed:
            now_ns = time.monotonic_ns()
            part = _Part(part_id, now_ns, now_ns + self._deadline_ns)
            self._decided.pop(part_id, None)
            self._waiting[part_id] = part
            self._triggers += 1
            self._master.trigger(part, self._recipe)
        return part_id

    def wait_decided(self, part_id: int, timeout_s: float | None = None) -> bool:
        """Whether the part was let through; waits for the decision. Raises TimeoutError."""
        if timeout_s is None:
            timeout_s = self._deadline_ns / 1e9 + 5
        with self._changed:
            if not self._changed.wait_for(lambda: part_id in self._decided, timeout_s):
                raise TimeoutError(f"part {part_id} was not decided within {timeout_s:g} s")
            return self._decided[part_id]

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether the device shows Ready with a fresh heartbeat, within ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ready, timeout_s)

    def run(
        self,
        parts: int,
        rate_per_min: float,
        *,
        in_flight: int | None = None,
        stop: threading.Event | None = None,
    ) -> PlcCounts:
        """Trigger ``parts`` parts at a constant rate and wait until all are decided.

        The n-th trigger is due at start + n / rate, however late the one before was. in_flight: at most so many parts
        wait at once; a trigger then is late rather than too many. stop: set it to end early.
        """
        stop = stop or threading.Event()
        period_s = 60 / rate_per_min
        start_s = time.monotonic()
        for index in range(parts):
            if stop.wait(max(0.0, start_s + index * period_s - time.monotonic())):
                break
            if in_flight is not None:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._waiting) < in_flight)
            self.trigger()
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, self._deadline_ns / 1e9 + 5)
        return self.counts

    @property
    def counts(self) -> PlcCounts:
        """The counts so far."""
        with self._changed:
            return PlcCounts(
                self._triggers,
                tuple(self._let_through),
                tuple(self._rejected),
                self._late_ignored,
                self._stale_ignored,
                self._master.protocol_errors,
                self._unacknowledged,
                tuple(self._latencies_s),
            )

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the device's heartbeat last changed; infinite before the first change."""
        beat_ns = self._beat_ns
        return float("inf") if beat_ns is None else (time.monotonic_ns() - beat_ns) / 1e9

    @property
    def ready(self) -> bool:
        """Ready, no fault, and a fresh heartbeat."""
        return self._ready and not self._fault and self.heartbeat_age_s < HEARTBEAT_MAX_AGE_S

    # -- the PLC program ------------------------------------------------------------------------------------------

    def _consider(self, result: _Result, now_ns: int) -> None:
        """The PASS rule. Everything that is not a PASS by it leaves the part to its deadline."""
        with self._changed:
            part = self._waiting.get(result.part_id)
            if not (result.valid and result.is_pass and not result.is_reject and result.is_new):
                return
            if part is None or now_ns >= part.deadline_ns:
                self._late_ignored += 1
                return
            if result.sequence is not None and result.sequence != part.sequence:
                self._late_ignored += 1
                return
            if self._beat_ns is None or now_ns - self._beat_ns >= HEARTBEAT_MAX_AGE_S * 1e9:
                self._stale_ignored += 1
                return
            self._latencies_s.append((now_ns - part.trigger_ns) / 1e9)
        self._decide(part, let_through=True)

    def _decide(self, part: _Part, *, let_through: bool) -> None:
        with self._changed:
            if self._waiting.pop(part.part_id, None) is None:
                return
            (self._let_through if let_through else self._rejected).append(part.part_id)
            self._unacknowledged += not part.acknowledged
            self._decided[part.part_id] = let_through
            self._changed.notify_all()
        if self._on_decided is not None:
            self._on_decided(part.part_id, let_through)

    def _see_heartbeat(self, beat: int, ready: bool, fault: bool, now_ns: int) -> None:
        with self._changed:
            if self._beat is not None and beat != self._beat:
                self._beat_ns = now_ns
            self._beat, self._ready, self._fault = beat, ready, fault
            self._changed.notify_all()

    def _run_io(self) -> None:
        retry_s = 0.0
        while not self._stop.wait(retry_s):
            try:
                self._master.open()
                while not self._stop.is_set():
                    self._master.turn()
                    self._expire()
            except (OSError, termios.error, ModbusException) as error:  # the cable is out, or was never in
                logging.getLogger(__name__).debug("virtual PLC: %s", error)
                retry_s = RETRY_S
            finally:
                self._master.close()
            self._expire()

    def _expire(self) -> None:
        now_ns = time.monotonic_ns()
        for part in list(self._waiting.values()):
            if now_ns >= part.deadline_ns:
                self._decide(part, let_through=False)


class _Master(Protocol):
    """The PLC's end of one protocol. ``open``, ``turn`` and ``close`` run in the I/O thread and may raise OSError."""

    @property
    def protocol_errors(self) -> int: ...
    def open(self) -> None: ...
    def turn(self) -> None: ...
    def close(self) -> None: ...
    def trigger(self, part: _Part, recipe: int) -> None: ...


class _AsciiMaster:
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

    def trigger(self, part: _Part, recipe: int) -> None:
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
                _Result(values["part_id"], whole, whole, not whole, is_new, values["trigger_seq"]), now_ns
            )
            self._send("A", part_id=values["part_id"])
        elif kind == "I":
            self._plc.details[values["part_id"]] = values
            self._send("A", part_id=values["part_id"])

    def _send_trigger(self, part: _Part) -> None:
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


class _ModbusMaster:
    """Polls input registers 0..5 in one request; writes control word, PartId and Recipe in one request."""

    HEARTBEAT, ENABLE, TRIGGER, ACK = 1, 2, 4, 8

    def __init__(self, plc: VirtualPlc, port: str, baudrate: int, unit_id: int, poll_s: float) -> None:
        self._plc = plc
        # pymodbus' defaults (3 s, 3 retries) are longer than any part waits.
        self._client = ModbusSerialClient(port, baudrate=baudrate, timeout=0.1, retries=0)
        self._unit_id = unit_id
        self._poll_s = poll_s
        self._wake = threading.Event()
        self._queue: deque[tuple[_Part, int]] = deque()
        self._shaking: _Part | None = None  # the part whose Trigger bit is up
        self._control = self.ENABLE
        self._written: list[int] | None = None
        self._words = [0, 0]
        self._beat_ns = 0
        self._toggle: int | None = None
        self.protocol_errors = 0

    def open(self) -> None:
        if not self._client.connect():
            raise OSError("the port cannot be opened")
        self._written = None
        self._toggle = None
        self._control &= ~(self.TRIGGER | self.ACK)
        self._shaking = None
        self._write()

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call]  # pymodbus 3.16 has no annotation here

    def trigger(self, part: _Part, recipe: int) -> None:
        self._queue.append((part, recipe))
        self._wake.set()

    def turn(self) -> None:
        now_ns = time.monotonic_ns()
        if now_ns - self._beat_ns >= HEARTBEAT_S * 1e9:
            self._beat_ns = now_ns
            self._control ^= self.HEARTBEAT
        if self._shaking is None and self._queue:
            part, recipe = self._queue.popleft()
            if part.part_id in self._plc._waiting:  # else it was decided while the cable was out
                self._shaking = part
                part.sent_ns = now_ns
                self._control |= self.TRIGGER
                self._words = [part.part_id, recipe]
        self._write()
        self._read()
        self._write()
        if not self._queue and self._wake.wait(self._poll_s):
            self._wake.clear()

    def _write(self) -> None:
        values = [self._control, *self._words]
        if values != self._written and self._ask(
            lambda: self._client.write_registers(0, values, device_id=self._unit_id)
        ):
            self._written = values

    def _read(self) -> None:
        answer = self._ask(lambda: self._client.read_input_registers(0, count=6, device_id=self._unit_id))
        if answer is None or len(answer.registers) != 6:
            return
        now_ns = time.monotonic_ns()
        status, part_id, result_part_id, reason, severity_x10, outcome = answer.registers
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
            result = _Result(result_part_id, bool(bit[5]), bool(bit[6]), bool(bit[7]), is_new)
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


def main(arguments: list[str] | None = None) -> int:
    """``python -m edge_daemon.testing.virtual_plc``: exit code 0 done, 2 wrong use, 3 the device never became ready."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_daemon.testing.virtual_plc",
        description="Play the PLC: trigger parts at a constant rate, obey permits, print the counts as JSON.",
        epilog="example: python -m edge_daemon.testing.virtual_plc --port /dev/ttyUSB1 --parts 60 --rate 60",
    )
    parser.add_argument("--port", required=True, help="serial device")
    parser.add_argument("--driver", choices=("ascii", "modbus-server"), default="ascii")
    parser.add_argument("--baudrate", type=int, default=115_200)
    parser.add_argument("--unit-id", type=int, default=1)
    parser.add_argument("--parts", type=int, default=60)
    parser.add_argument("--rate", type=float, default=60, help="parts per minute")
    parser.add_argument("--in-flight", type=int, help="at most so many parts wait at once")
    parser.add_argument("--deadline-s", type=float, default=0.35, help="the PLC's own deadline")
    parser.add_argument("--wait-s", type=float, default=10, help="how long to wait for Ready")
    given = parser.parse_args(arguments)
    if given.parts < 1 or given.rate <= 0 or given.deadline_s <= 0:
        parser.error("--parts, --rate and --deadline-s must be positive")
    plc = VirtualPlc(
        given.port,
        given.driver,
        deadline_s=given.deadline_s,
        baudrate=given.baudrate,
        unit_id=given.unit_id,
    )
    with plc:
        if not plc.wait_ready(given.wait_s):
            error = LineError(
                f"no device on {given.port} became ready within {given.wait_s:g} s",
                hint="is the daemon running and fit?",
            )
            sys.stderr.write(f"virtual PLC: {error}\n")
            return error.exit_code
        counts = plc.run(given.parts, given.rate, in_flight=given.in_flight)
    sys.stdout.write(json.dumps(asdict(counts)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
