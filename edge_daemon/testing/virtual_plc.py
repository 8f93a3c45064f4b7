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
import json
import logging
import sys
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from pymodbus.exceptions import ModbusException

from ..errors import LineError, UsageError
from .plc_wires import (
    HEARTBEAT_MAX_AGE_S,
    PLC_DRIVERS,
    AsciiWire,
    ModbusMasterWire,
    ModbusSlaveWire,
    Part,
    PlcWire,
    Result,
)
from .pty_pair import PtyPair

__all__ = ["PlcCounts", "PtyPair", "VirtualPlc", "main"]

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
        if driver not in PLC_DRIVERS:
            raise UsageError(f"the virtual PLC has no driver {driver!r}", hint=f"use {', '.join(PLC_DRIVERS)}")
        self._deadline_ns = round(deadline_s * 1e9)
        self._next_part_id = first_part_id
        self._recipe = recipe
        self._on_trigger = on_trigger
        self._on_decided = on_decided
        self._changed = threading.Condition()
        self._waiting: dict[int, Part] = {}
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
        self.silent = False  #: True: its side of the wire is dead, while parts and deadlines go on
        self._thread: threading.Thread | None = None
        self.acknowledged: set[int] = set()  #: part ids whose trigger the device has confirmed
        self.details: dict[int, dict[str, int | str]] = {}  #: part id -> what the device told beside its last result
        self._master: PlcWire = (
            AsciiWire(self, str(port), baudrate)
            if driver == "ascii"
            else ModbusMasterWire(self, str(port), baudrate, unit_id, poll_s)
            if driver == "modbus-server"
            else ModbusSlaveWire(self, str(port), baudrate, unit_id)
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
            part = Part(part_id, now_ns, now_ns + self._deadline_ns)
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

    def _consider(self, result: Result, now_ns: int) -> None:
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

    def _decide(self, part: Part, *, let_through: bool) -> None:
        with self._changed:
            if self._waiting.pop(part.part_id, None) is None:
                return
            (self._let_through if let_through else self._rejected).append(part.part_id)
            self._unacknowledged += not part.acknowledged
            if part.acknowledged:
                self.acknowledged.add(part.part_id)
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
                    if self.silent:
                        time.sleep(0.005)
                    else:
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


def main(arguments: list[str] | None = None) -> int:
    """``python -m edge_daemon.testing.virtual_plc``: exit code 0 done, 2 wrong use, 3 the device never became ready."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_daemon.testing.virtual_plc",
        description="Play the PLC: trigger parts at a constant rate, obey permits, print the counts as JSON.",
        epilog="example: python -m edge_daemon.testing.virtual_plc --port /dev/ttyUSB1 --parts 60 --rate 60",
    )
    parser.add_argument("--port", required=True, help="serial device")
    parser.add_argument("--driver", choices=PLC_DRIVERS, default="ascii")
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
