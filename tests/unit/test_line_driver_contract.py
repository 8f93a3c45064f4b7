"""The contract every LineDriver keeps, seen through the eyes of a PLC that only knows the wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.register_message import ReadInputRegistersRequest, WriteMultipleRegistersRequest

from edge_daemon.line.ascii import AsciiDriver, TelegramReader, encode, is_permit
from edge_daemon.line.discrete import DEBOUNCE_NS, DiscreteDriver
from edge_daemon.line.driver import LineDriver, LineEvent, ModemLines, Trigger
from edge_daemon.line.modbus import ModbusServerDriver
from edge_daemon.line.modbus_client import ANSWER_NS, SILENCE_NS, ModbusClientDriver
from edge_daemon.line.wire import ResultNote
from edge_daemon.testing.rtu_slave import RtuSlave
from edge_daemon.tickets import Ticket

MS = 1_000_000
DEADLINE_NS = 300 * MS
FRAMER = FramerRTU(DecodePDU(False))


class Recorder:
    def __init__(self) -> None:
        self.data = bytearray()
        self.broken = False

    def write(self, data: bytes) -> bool:
        if not self.broken:
            self.data += data
        return not self.broken

    def read_lines(self) -> ModemLines | None:
        return None

    def set_lines(self, rts: bool, dtr: bool) -> bool:
        return False

    def take(self) -> bytes:
        data = bytes(self.data)
        self.data.clear()
        return data


class Eye(Protocol):
    """A PLC: sends triggers, and says which permits it sees."""

    driver: LineDriver
    wire: Recorder

    def trigger(self, part_id: int, now_ns: int) -> Trigger: ...
    def permits(self, now_ns: int) -> set[int]: ...


class AsciiEye:
    def __init__(self) -> None:
        self.driver: LineDriver = AsciiDriver(repeat_ns=DEADLINE_NS)
        self.wire = Recorder()
        self.driver.open(self.wire)
        self.sequence = 0

    def trigger(self, part_id: int, now_ns: int) -> Trigger:
        self.sequence += 1
        [event] = self.driver.received(encode("T", seq=self.sequence, part_id=part_id, recipe=0), now_ns)
        assert isinstance(event, Trigger)
        return event

    def permits(self, now_ns: int) -> set[int]:
        found = TelegramReader().feed(self.wire.take())
        return {int(values["part_id"]) for kind, values in found if is_permit(kind, values)}


class ModbusEye:
    """Reads input registers 0..5 in one request, and acknowledges what it has read."""

    ENABLE, TRIGGER, ACK = 2, 4, 8

    def __init__(self) -> None:
        self.driver: LineDriver = ModbusServerDriver(unit_id=1)
        self.wire = Recorder()
        self.driver.open(self.wire)
        self.write(self.ENABLE, 0, 0)

    def ask(self, request: ModbusPDU, now_ns: int) -> tuple[ModbusPDU, list[object]]:
        self.wire.take()
        events = list(self.driver.received(FRAMER.buildFrame(request), now_ns))
        _, answer = FRAMER.handleFrame(self.wire.take(), 1, 0)
        assert answer is not None
        assert not answer.isError()
        return answer, events

    def write(self, control: int, part_id: int, now_ns: int) -> list[object]:
        request = WriteMultipleRegistersRequest(address=0, registers=[control, part_id, 0], dev_id=1)
        return self.ask(request, now_ns)[1]

    def words(self, now_ns: int) -> list[int]:
        return list(self.ask(ReadInputRegistersRequest(address=0, count=6, dev_id=1), now_ns)[0].registers)

    def trigger(self, part_id: int, now_ns: int) -> Trigger:
        self.write(self.ENABLE, 0, now_ns)
        [event] = self.write(self.ENABLE | self.TRIGGER, part_id, now_ns)
        assert isinstance(event, Trigger)
        return event

    def permits(self, now_ns: int) -> set[int]:
        found = set()
        for _ in range(8):
            status, _, result_part_id, _, _, outcome = self.words(now_ns)
            bit = [status >> n & 1 for n in range(10)]
            assert bit[6] != bit[7], "Pass and Reject are complementary"
            assert bit[6] == (outcome == 1), "Outcome PASS stands beside Pass only"
            assert bit[5] or not bit[6], "no Pass without ResultValid"
            if not bit[5]:
                break
            if bit[6]:
                found.add(result_part_id)
            self.write(self.ENABLE | self.ACK, 0, now_ns)
            self.write(self.ENABLE, 0, now_ns)
        return found


class ClientEye:
    """A PLC that is the slave: its registers are written by the driver, and it acknowledges what it finds there."""

    ENABLE, TRIGGER, ACK = 2, 4, 8
    BASE = 40

    def __init__(self) -> None:
        self.driver: LineDriver = ModbusClientDriver(unit_id=1, base_address=self.BASE)
        self.wire = Recorder()
        self.driver.open(self.wire)
        self.slave = RtuSlave(1, [0] * (self.BASE + 9))
        self.control(self.ENABLE, 0, 0)

    def turn(self, now_ns: int) -> list[LineEvent]:
        """One request of the driver and its answer."""
        events = self.driver.poll(now_ns)
        return events + self.driver.received(self.slave.feed(self.wire.take()), now_ns)

    def control(self, control: int, part_id: int, now_ns: int) -> list[LineEvent]:
        self.slave.words[self.BASE + 6 :] = [control, part_id, 0]
        return [event for _ in range(3) for event in self.turn(now_ns)]

    def trigger(self, part_id: int, now_ns: int) -> Trigger:
        now_ns += 2 * ANSWER_NS
        for _ in range(3):  # an answer that never came, and the silence behind it
            now_ns += SILENCE_NS
            self.control(self.ENABLE, 0, now_ns)
        [event] = self.control(self.ENABLE | self.TRIGGER, part_id, now_ns)
        assert isinstance(event, Trigger)
        return event

    def permits(self, now_ns: int) -> set[int]:
        found = set()
        for _ in range(8):
            for _ in range(3):
                self.turn(now_ns)
            status, _, result_part_id, _, _, outcome = self.slave.words[self.BASE : self.BASE + 6]
            bit = [status >> n & 1 for n in range(10)]
            assert not (bit[6] and bit[7])
            assert bit[6] == (outcome == 1)
            assert bit[5] or not bit[6]
            if not bit[5]:
                break
            if bit[6]:
                found.add(result_part_id)
            self.control(self.ENABLE | self.ACK, 0, now_ns)
            self.control(self.ENABLE, 0, now_ns)
        return found


class Lines(Recorder):
    """The four lines between a port and a PLC; a PASS is a rising edge of RTS."""

    def __init__(self) -> None:
        super().__init__()
        self.trigger = False
        self.rts = False
        self.edges = 0

    def read_lines(self) -> ModemLines | None:
        return None if self.broken else ModemLines(cts=self.trigger, dsr=True)

    def set_lines(self, rts: bool, dtr: bool) -> bool:
        if not self.broken:
            self.edges += rts and not self.rts
            self.rts = rts
        return not self.broken


class DiscreteEye:
    """A PLC with inputs and outputs only: the rising edge of PASS after its trigger is for the part it triggered."""

    PULSE_NS = 20 * MS

    def __init__(self) -> None:
        self.driver: LineDriver = DiscreteDriver("cts", pulse_ns=self.PULSE_NS)
        self.lines = Lines()
        self.wire: Recorder = self.lines
        self.driver.open(self.lines)
        self.part_id = 0

    def trigger(self, part_id: int, now_ns: int) -> Trigger:
        self.lines.trigger = False
        self.driver.poll(now_ns)
        self.lines.edges = 0
        self.lines.trigger = True
        [event] = [e for e in self.driver.poll(now_ns + DEBOUNCE_NS) if isinstance(e, Trigger)]
        self.part_id = part_id
        return replace(event, part_id=part_id)  # the number is only in the device's mind

    def permits(self, now_ns: int) -> set[int]:
        self.driver.poll(now_ns)
        self.driver.poll(now_ns + self.PULSE_NS)
        self.driver.poll(now_ns + 2 * self.PULSE_NS)
        edges, self.lines.edges = self.lines.edges, 0
        assert edges <= 1
        return {self.part_id} if edges else set()


@pytest.fixture(params=[AsciiEye, ModbusEye, ClientEye, DiscreteEye])
def eye(request: pytest.FixtureRequest) -> Eye:
    made: Callable[[], Eye] = request.param
    return made()


PASS = ResultNote("PASS", "", 12)
FAIL = ResultNote("FAIL", "LIMIT_EXCEEDED", 46)


def accepted(eye: Eye, part_id: int, now_ns: int = 0) -> Ticket:
    trigger = eye.trigger(part_id, now_ns)
    assert trigger.part_id == part_id
    ticket = Ticket(f"r{part_id}-{now_ns}", part_id, now_ns, now_ns + DEADLINE_NS, "")
    eye.driver.accepted(trigger, ticket)
    return ticket


def test_permit_is_seen_once_for_its_part(eye: Eye) -> None:
    ticket = accepted(eye, 42)
    assert eye.permits(1) == set()
    assert eye.driver.permit(ticket, PASS, 2) is True
    eye.driver.ended(ticket)
    assert eye.permits(3) == {42}
    assert eye.permits(4) == set()


@pytest.mark.parametrize("note", [FAIL, PASS, ResultNote("INCONCLUSIVE", "UNKNOWN_TYPE", unknown=True)])
def test_information_is_never_a_permit(eye: Eye, note: ResultNote) -> None:
    ticket = accepted(eye, 42)
    eye.driver.inform(ticket, note, 1)
    eye.driver.ended(ticket)
    assert eye.permits(2) == set()


@pytest.mark.parametrize("note", [FAIL, ResultNote("PASS", unknown=True), ResultNote("")])
def test_a_permit_beside_a_note_that_is_no_pass_is_refused(eye: Eye, note: ResultNote) -> None:
    ticket = accepted(eye, 42)
    assert eye.driver.permit(ticket, note, 1) is False
    assert eye.permits(2) == set()


def test_a_permit_needs_an_open_ticket(eye: Eye) -> None:
    assert eye.driver.permit(Ticket("never", 1, 0, DEADLINE_NS, ""), PASS, 1) is False
    ticket = accepted(eye, 2)
    eye.driver.ended(ticket)
    assert eye.driver.permit(ticket, PASS, 1) is False
    late = accepted(eye, 3)
    assert eye.driver.permit(late, PASS, late.deadline_ns) is False
    assert eye.permits(2) == set()


def test_a_permit_that_was_seen_is_not_told_as_never_shown(eye: Eye) -> None:
    ticket = accepted(eye, 42)
    assert eye.driver.permit(ticket, PASS, 1)
    assert eye.permits(2) == {42}
    other = accepted(eye, 43, 3)
    eye.driver.inform(other, FAIL, 4)
    eye.driver.close()
    assert eye.driver.take_never_shown(2 * DEADLINE_NS) == []


def test_nothing_survives_a_lost_port(eye: Eye) -> None:
    parts = [accepted(eye, part_id) for part_id in ((2,) if isinstance(eye, DiscreteEye) else (1, 9, 2))]
    second = parts.pop()
    for ticket in parts:
        eye.driver.permit(ticket, PASS, 1)
    eye.wire.take()
    eye.driver.close()
    assert eye.driver.permit(second, PASS, 2) is False
    eye.driver.open(eye.wire)
    if isinstance(eye, ModbusEye):
        eye.write(eye.ENABLE, 0, 3)
    assert eye.permits(3) == set()
    assert eye.driver.permit(second, PASS, 4) is False
    third = accepted(eye, 3, 5)
    assert eye.driver.permit(third, PASS, 6) is True
    assert eye.permits(7) == {3}


@pytest.mark.parametrize("kind", [AsciiEye, ModbusEye, ClientEye])  # discrete: one part at a time
def test_parts_in_flight_do_not_mix(kind: Callable[[], Eye]) -> None:
    eye = kind()
    tickets = [accepted(eye, part_id) for part_id in range(1, 7)]
    for ticket in tickets:
        if ticket.part_id % 2:
            assert eye.driver.permit(ticket, PASS, 1)
        else:
            eye.driver.inform(ticket, FAIL, 1)
        eye.driver.ended(ticket)
    assert eye.permits(2) == {1, 3, 5}


def test_heartbeat_alone_is_no_permit(eye: Eye) -> None:
    accepted(eye, 1)
    for beat in range(10):
        eye.driver.heartbeat(bool(beat % 2), ready=True, fault=False)
        assert eye.permits(beat * 100 * MS) == set()


@pytest.mark.parametrize("kind", [AsciiEye, ModbusEye, ClientEye])
@settings(max_examples=150, deadline=None)
@given(
    noise=st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"$", b"\x01\x10", b"\x01\x04\x00", b"\r\n"])))
)
def test_garbage_opens_nothing_and_the_next_part_is_served(kind: Callable[[], Eye], noise: list[bytes]) -> None:
    eye = kind()
    now_ns = 0
    for data in noise:
        now_ns += 10 * MS
        eye.driver.received(data, now_ns)
    now_ns += 100 * MS
    assert eye.permits(now_ns) == set()
    if isinstance(eye, ModbusEye):
        eye.write(0, 0, now_ns)
    ticket = accepted(eye, 7, now_ns)
    assert eye.permits(now_ns) == set()
    assert eye.driver.permit(ticket, PASS, now_ns)
    assert eye.permits(now_ns) == {7}
