"""Drivers ``modbus-client`` and ``discrete`` in the real line process, against a PLC that shares no code with them.

modbus-client: libmodbus is the slave. discrete: a pseudo-terminal has no modem lines; a preloaded library gives it the
word that the test reads and writes as the PLC. What is not reached: the kernel's serial driver and a real converter.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
import mmap
import os
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_daemon.check import _serial_port
from edge_daemon.line.link import LineClient, LineLost, ResultNote, TicketEnded, TicketOpened, spawn_line_process
from edge_daemon.line.options import LineOptions
from edge_daemon.testing.plc_wires import ModbusProgram
from edge_daemon.testing.virtual_plc import PtyPair, VirtualPlc
from edge_daemon.tickets import Ticket

PASS = ResultNote("PASS", "", 12)
FAIL = ResultNote("FAIL", "LIMIT_EXCEEDED", 46)


def until(condition: Callable[[], bool], timeout_s: float = 5) -> bool:
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= end_s:
            return False
        time.sleep(0.002)
    return True


class Station:
    """A line process and a daemon without camera and engine; even parts pass."""

    def __init__(self, options: LineOptions, log: Path) -> None:
        self.ended: dict[int, TicketEnded] = {}
        self.hold_s = 0.0
        self.log = log
        self._stop = threading.Event()
        with log.open("wb") as file:
            self.process = spawn_line_process(options, stderr=file)
        self.client = LineClient(options.socket_path)
        self.client.connect(10)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due_s = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + 0.1
                self.client.health(True, [])
            event = self.client.next_event(0.02)
            if isinstance(event, TicketOpened):
                self._judge(event.ticket)
            elif isinstance(event, TicketEnded):
                self.ended[event.ticket.part_id] = event
                self.client.settle(event.ticket.record_id)
            elif isinstance(event, LineLost):
                return

    def _judge(self, ticket: Ticket) -> None:
        time.sleep(self.hold_s)
        if ticket.part_id % 2:
            self.client.inform(ticket, FAIL)
        else:
            self.client.permit(ticket, PASS)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(5)


@contextmanager
def station(options: LineOptions, folder: Path) -> Iterator[Station]:
    one = Station(options, folder / "line.log")
    try:
        yield one
    finally:
        one.close()


# -- modbus-client -----------------------------------------------------------------------------------------------


class _Mapping(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("nb_b", "at_b", "nb_ib", "at_ib", "nb_ir", "at_ir", "nb_r", "at_r")),
        ("bits", ctypes.c_void_p),
        ("input_bits", ctypes.c_void_p),
        ("input_registers", ctypes.c_void_p),
        ("registers", ctypes.POINTER(ctypes.c_uint16)),
    )


class Libmodbus:
    """The PLC's end for VirtualPlc: libmodbus receives and replies, ModbusProgram makes of the registers what a PLC
    does. Nine registers from ``base`` on."""

    protocol_errors = 0

    def __init__(self, plc: VirtualPlc, port: str, unit_id: int, base: int) -> None:
        self._library = ctypes.CDLL(ctypes.util.find_library("modbus") or "", use_errno=True)
        self._library.modbus_new_rtu.restype = ctypes.c_void_p
        self._library.modbus_mapping_new.restype = ctypes.POINTER(_Mapping)
        self._port, self._unit_id, self._base = port.encode(), unit_id, base
        self._program = ModbusProgram(plc)
        self._context: Any = None
        self._mapping: Any = None

    def open(self) -> None:
        library = self._library
        self._context = ctypes.c_void_p(library.modbus_new_rtu(self._port, 115_200, ctypes.c_char(b"N"), 8, 1))
        library.modbus_set_slave(self._context, self._unit_id)
        library.modbus_set_indication_timeout(self._context, 0, 20_000)
        if library.modbus_connect(self._context):
            raise OSError(ctypes.get_errno(), "modbus_connect")
        self._mapping = library.modbus_mapping_new(0, 0, self._base + 9, 0)
        self._program.restart()

    def turn(self) -> None:
        words = self._mapping.contents.registers
        for index, value in enumerate(self._program.step(time.monotonic_ns())):
            words[self._base + 6 + index] = value
        query = ctypes.create_string_buffer(260)
        size = self._library.modbus_receive(self._context, query)
        if size > 0:
            self._library.modbus_reply(self._context, query, size, self._mapping)
            if query.raw[1] == 3:
                self._program.delivered(words[self._base + 6])
            elif query.raw[1] == 16:
                self._program.see(words[self._base : self._base + 6], time.monotonic_ns())

    def close(self) -> None:
        if self._context is not None:
            self._library.modbus_close(self._context)
            self._library.modbus_free(self._context)
            if self._mapping is not None:
                self._library.modbus_mapping_free(self._mapping)
            self._context = self._mapping = None

    def trigger(self, part: Any, recipe: int) -> None:
        self._program.queue.append((part, recipe))


@pytest.mark.needs("socat", "libmodbus")
def test_libmodbus_as_the_plc(tmp_path: Path) -> None:
    ends = [str(tmp_path / name) for name in ("device", "plc")]
    socat = subprocess.Popen(["socat", *(f"pty,raw,echo=0,link={end}" for end in ends)])
    try:
        assert until(lambda: all(os.path.exists(end) for end in ends))
        options = LineOptions("modbus-client", ends[0], str(tmp_path / "s"), 1.0, unit_id=17, base_address=100)
        plc = VirtualPlc(ends[1], "modbus-client", deadline_s=1.2)
        plc._master = Libmodbus(plc, ends[1], unit_id=17, base=100)
        with plc, station(options, tmp_path) as one:
            assert plc.wait_ready(5)
            counts = plc.run(parts=16, rate_per_min=480)
            assert until(lambda: len(one.ended) == 16)
            assert counts.let_through == tuple(range(2, 17, 2))
            assert sorted(counts.rejected) == list(range(1, 17, 2))
            assert counts.unacknowledged == 0
            assert plc.details[3]["severity_x10"] == 46
            # the device stands still: the PLC's registers keep what they were last told, and nothing passes by it
            one.process.send_signal(signal.SIGSTOP)
            assert plc.wait_decided(plc.trigger(40)) is False
            one.process.send_signal(signal.SIGCONT)
            assert plc.wait_ready(5)
            assert plc.wait_decided(plc.trigger(42)) is True
    finally:
        socat.terminate()
        socat.wait(5)


# -- discrete ----------------------------------------------------------------------------------------------------


class DiscretePlc:
    """The PLC that WIRE.md asks for, on the shared word: rising edge of PASS after its own trigger, before its own
    deadline, while READY has been changing."""

    def __init__(self, path: Path, deadline_s: float) -> None:
        path.write_bytes(struct.pack("=i", termios.TIOCM_DSR))
        self._file = path.open("r+b")
        self._word = mmap.mmap(self._file.fileno(), 4)
        self._deadline_s = deadline_s
        self._changes: list[float] = []
        self._stop = threading.Event()
        self.let_through: list[int] = []
        self.rejected: list[int] = []
        self.ignored = 0
        self.pulses_s: list[float] = []
        self._waiting: tuple[int, float] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _level(self, bit: int) -> bool:
        return bool(struct.unpack("=i", self._word[:4])[0] & bit)

    def set(self, bit: int, on: bool) -> None:
        # Only this side changes its two bits, and the device's are never both written at once with them in practice:
        # a lost change of READY would show as a heartbeat that is late once.
        value = struct.unpack("=i", self._word[:4])[0]
        self._word[:4] = struct.pack("=i", value | bit if on else value & ~bit)

    @property
    def alive(self) -> bool:
        changes = [*self._changes[-4:], time.monotonic()]
        return len(changes) == 5 and all(b - a < 0.3 for a, b in itertools.pairwise(changes))

    def _run(self) -> None:
        ready = passing = False
        rose_s = 0.0
        while not self._stop.wait(0.001):
            now_s = time.monotonic()
            alive = self.alive
            if self._level(termios.TIOCM_DTR) != ready:
                ready = not ready
                self._changes.append(now_s)
            level = self._level(termios.TIOCM_RTS)
            waiting = self._waiting
            if level and not passing:
                rose_s = now_s
                if waiting is not None and now_s < waiting[1] and alive:
                    self.let_through.append(waiting[0])
                    self._waiting = None
                else:
                    self.ignored += 1
            elif passing and not level:
                self.pulses_s.append(now_s - rose_s)
            passing = level
            if waiting is not None and waiting is self._waiting and now_s >= waiting[1]:
                self.rejected.append(waiting[0])
                self._waiting = None

    def part(self, part_id: int) -> bool:
        """Whether this part was let through."""
        self._waiting = (part_id, time.monotonic() + self._deadline_s)
        self.set(termios.TIOCM_CTS, True)
        time.sleep(0.02)
        self.set(termios.TIOCM_CTS, False)
        assert until(lambda: part_id in self.let_through or part_id in self.rejected)
        time.sleep(0.1)  # its pulse, and a rest
        return part_id in self.let_through

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self._word.close()
        self._file.close()


@pytest.mark.needs("gcc")
def test_discrete_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "modem_lines.so"
    source = Path(__file__).with_name("modem_lines.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True)
    plc = DiscretePlc(tmp_path / "lines", deadline_s=0.7)
    with PtyPair() as wire, monkeypatch.context() as patch:
        options = LineOptions("discrete", wire.device_path, str(tmp_path / "s"), 0.6, pulse_s=0.04)
        patch.setenv("LD_PRELOAD", str(library))
        patch.setenv("EDGE_TEST_LINES", str(tmp_path / "lines"))
        try:
            with station(options, tmp_path) as one:
                assert until(lambda: plc.alive)
                found = [plc.part(number) for number in range(1, 9)]
                assert found == [number % 2 == 0 for number in range(1, 9)]
                assert until(lambda: sorted(one.ended) == list(range(1, 9)))
                assert all(0.03 < pulse_s < 0.3 for pulse_s in plc.pulses_s), plc.pulses_s

                plc.set(termios.TIOCM_DSR, False)  # the PLC's Enable is off: its triggers are none
                time.sleep(0.1)
                assert plc.part(10) is False
                plc.set(termios.TIOCM_DSR, True)
                assert sorted(one.ended) == list(range(1, 9))

                one.hold_s = 0.02
                assert plc.part(9) is False
                plc._waiting = (10, time.monotonic() + 0.7)
                plc.set(termios.TIOCM_CTS, True)
                assert until(lambda: one.client.state is not None and one.client.state.opened == 10)
                one.process.kill()  # between trigger and permit, or with PASS on: no further edge comes
                one.process.wait(5)
                time.sleep(0.4)
                assert not plc.alive
            assert plc.let_through[:4] == [2, 4, 6, 8]
        finally:
            plc.close()


def test_a_port_without_modem_lines_is_refused_and_says_so(tmp_path: Path) -> None:
    with PtyPair() as wire:
        options = LineOptions("discrete", wire.device_path, str(tmp_path / "s"), 0.3)
        with station(options, tmp_path) as one:
            assert until(lambda: "has no lines RTS, DTR, CTS and DSR" in one.log.read_text())
            assert one.client.state is None or not one.client.state.port_open

        class Config:
            class line:
                pass

        Config.line.options = options  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="has no lines RTS, DTR, CTS and DSR"):
            _serial_port(Config)  # type: ignore[arg-type]
