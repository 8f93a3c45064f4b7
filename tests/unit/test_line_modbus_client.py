"""Driver ``modbus-client`` against a slave that answers late, wrongly, not at all, or starts anew."""

from __future__ import annotations

import struct

import pytest

from edge_daemon.line.driver import Ack, LineEvent, ModemLines, PlcHeartbeat, Trigger
from edge_daemon.line.modbus_client import ANSWER_NS, REWRITE_NS, SILENCE_NS, ModbusClientDriver
from edge_daemon.line.registers import GAP_NS
from edge_daemon.line.wire import CLIENT_READS, CLIENT_WRITES, ResultNote
from edge_daemon.testing.rtu_slave import RtuSlave, crc
from edge_daemon.tickets import Ticket

MS = 1_000_000
PASS = ResultNote("PASS", "", 12)
ENABLE, TRIGGER, ACK = 2, 4, 8


class Bench:
    """Driver, wire and slave; ``turn`` carries one request there and, unless the slave is mute, one answer back."""

    def __init__(self) -> None:
        self.driver = ModbusClientDriver(unit_id=7)
        self.slave = RtuSlave(7, [0] * 9)
        self.sent: list[bytes] = []
        self.now_ns = 0
        self.driver.open(self)

    def write(self, data: bytes) -> bool:
        self.sent.append(data)
        return True

    def read_lines(self) -> ModemLines | None:
        return None

    def set_lines(self, rts: bool, dtr: bool) -> bool:
        return False

    def turn(self, *, answered: bool = True) -> list[LineEvent]:
        self.sent.clear()
        events = self.driver.poll(self.now_ns)
        for request in self.sent:
            answer = self.slave.feed(request)
            if answered:
                events += self.driver.received(answer, self.now_ns)
        return events

    def turns(self, count: int, step_ns: int = 5 * MS) -> list[LineEvent]:
        events = []
        for _ in range(count):
            self.now_ns += step_ns
            events += self.turn()
        return events

    def control(self, control: int, part_id: int = 0) -> list[LineEvent]:
        self.slave.words[6:9] = [control, part_id, 3]
        return self.turns(3)

    def ticket(self, part_id: int) -> Ticket:
        self.control(ENABLE)
        [trigger] = self.control(ENABLE | TRIGGER, part_id)
        assert trigger == Trigger(part_id, 3)
        ticket = Ticket(f"r{part_id}-{self.now_ns}", part_id, self.now_ns, self.now_ns + 300 * MS, "")
        self.driver.accepted(trigger, ticket)
        return ticket

    def bits(self) -> dict[str, int]:
        names = ("Heartbeat", "Ready", "TriggerAck", "Busy", "ResultToggle", "ResultValid", "Pass", "Reject")
        return {name: self.slave.words[0] >> bit & 1 for bit, name in enumerate(names)}


def test_one_handshake() -> None:
    bench = Bench()
    ticket = bench.ticket(42)
    bench.turns(2)
    assert (bench.bits()["TriggerAck"], bench.slave.words[1]) == (1, 42)
    before = bench.bits()["ResultToggle"]
    assert bench.driver.permit(ticket, PASS, bench.now_ns)
    bench.driver.ended(ticket)
    bench.turns(2)
    assert bench.bits()["Pass"] == 1
    assert bench.bits()["Reject"] == 0
    assert bench.bits()["ResultToggle"] != before
    assert bench.slave.words[2:6] == [42, 0, 12, 1]
    assert bench.control(ENABLE | ACK) == [Ack(42)]
    bench.turns(2)
    assert (bench.bits()["ResultValid"], bench.bits()["Pass"], bench.slave.words[2]) == (0, 0, 0)
    assert bench.driver.take_never_shown(bench.now_ns + 400 * MS) == []


def test_heartbeats_both_ways() -> None:
    bench = Bench()
    assert bench.control(ENABLE | 1) == [PlcHeartbeat(True)]
    assert bench.control(0) == [PlcHeartbeat(False)]
    for beat in (True, False, True):
        bench.driver.heartbeat(beat, ready=True, fault=False)
        bench.turns(2)
        assert bench.bits()["Heartbeat"] == beat
    assert bench.bits()["Ready"] == 1


def test_a_plc_that_was_switched_on_again_gets_everything_anew_and_its_standing_trigger_is_none() -> None:
    bench = Bench()
    bench.driver.heartbeat(False, ready=True, fault=False)
    bench.turns(2)
    bench.slave.words[:] = [0] * 9
    bench.turns(1 + REWRITE_NS // (5 * MS))
    assert bench.bits()["Ready"] == 1
    fresh = Bench()
    assert fresh.control(ENABLE | TRIGGER, 5) == []  # it was up before we were there


def test_an_old_permit_is_not_shown_to_a_new_part_of_the_same_number() -> None:
    bench = Bench()
    old = bench.ticket(1)
    assert bench.driver.permit(old, PASS, bench.now_ns)
    bench.driver.ended(old)
    bench.turns(2)
    assert bench.bits()["Pass"] == 1  # never acknowledged: the PLC was switched off and counts from 1 again
    bench.ticket(1)
    bench.turns(2)
    assert (bench.bits()["Pass"], bench.bits()["ResultValid"]) == (0, 0)


def test_nor_where_the_new_part_finds_no_ticket() -> None:
    bench = Bench()
    old = bench.ticket(1)
    assert bench.driver.permit(old, PASS, bench.now_ns)
    bench.control(ENABLE)
    [trigger] = bench.control(ENABLE | TRIGGER, 1)
    assert isinstance(trigger, Trigger)
    bench.driver.refused(trigger)
    bench.turns(2)
    assert bench.bits()["Pass"] == 0


def test_a_permit_is_withdrawn_at_the_deadline_and_the_gap_is_kept() -> None:
    bench = Bench()
    first, second = bench.ticket(1), bench.ticket(2)
    for ticket in (first, second):
        assert bench.driver.permit(ticket, PASS, bench.now_ns)
    bench.turns(2)
    assert bench.slave.words[2] == 1
    bench.now_ns = first.deadline_ns
    bench.turn()
    bench.turn()
    assert bench.slave.words[2] == 0
    while bench.now_ns < first.deadline_ns + GAP_NS - 5 * MS:
        bench.turns(1)
        assert bench.slave.words[2] == 0
    assert bench.driver.take_never_shown(second.deadline_ns) == [second]


def test_no_answer_is_given_up_and_what_comes_late_is_not_taken() -> None:
    bench = Bench()
    bench.control(ENABLE)
    bench.slave.words[6:9] = [ENABLE | TRIGGER, 9, 0]
    while True:  # a read whose answer is late
        bench.now_ns += MS
        bench.sent.clear()
        bench.driver.poll(bench.now_ns)
        late = bench.slave.feed(bench.sent[0])
        if bench.sent[0][1] == 3:
            break
        bench.driver.received(late, bench.now_ns)
    bench.now_ns += ANSWER_NS
    assert bench.turn(answered=False) == []
    assert bench.sent == []  # silence first
    assert bench.driver.received(late, bench.now_ns) == []
    assert bench.driver.protocol_errors == 1
    bench.now_ns += SILENCE_NS
    events = bench.turns(3)
    assert events == [Trigger(9, 0)]
    for _ in range(5):  # a PLC that is off is one error, not one a poll
        bench.turn(answered=False)
        bench.now_ns += ANSWER_NS + SILENCE_NS
    assert bench.driver.protocol_errors <= 2


def test_a_repeated_write_has_the_same_toggle() -> None:
    bench = Bench()
    ticket = bench.ticket(4)
    assert bench.driver.permit(ticket, PASS, bench.now_ns)
    bench.now_ns += 5 * MS
    while bench.turn(answered=False) or bench.slave.words[2] != 4:
        bench.now_ns += ANSWER_NS + SILENCE_NS
    shown = list(bench.slave.words[:6])
    bench.now_ns += ANSWER_NS
    bench.turn()
    bench.turns(4, SILENCE_NS)
    assert bench.slave.words[:6] == shown
    assert bench.driver.take_never_shown(ticket.deadline_ns) == []  # nobody knows, so nothing is claimed


@pytest.mark.parametrize("noise", [b"\x07", b"\x07\x03\x06", b"\x07\x10" * 40, bytes(300)])
def test_an_answer_behind_noise_is_found(noise: bytes) -> None:
    bench = Bench()
    bench.slave.words[6:9] = [ENABLE, 0, 0]
    bench.turns(4)
    bench.slave.words[6:9] = [ENABLE | TRIGGER, 5, 0]
    for _ in range(4):
        bench.now_ns += 5 * MS
        bench.sent.clear()
        events = bench.driver.poll(bench.now_ns)
        for request in bench.sent:
            answer = noise + bench.slave.feed(request)
            events += [e for byte in answer for e in bench.driver.received(bytes([byte]), bench.now_ns)]
        if events:
            break
    assert events == [Trigger(5, 0)]


def test_a_refusal_and_a_foreign_answer_are_errors_and_no_news() -> None:
    bench = Bench()
    bench.slave.words[:] = [0] * 4  # a PLC with too few registers: exception 2
    for _ in range(4):
        assert bench.turns(1, SILENCE_NS) == []
    assert bench.driver.protocol_errors == 4
    other = struct.pack(">BBB3H", 8, 3, 6, ENABLE | TRIGGER, 1, 0)
    bench.now_ns += SILENCE_NS
    bench.driver.poll(bench.now_ns)
    assert bench.driver.received(other + struct.pack("<H", crc(other)), bench.now_ns) == []


def test_the_map_has_no_hole_and_no_overlap() -> None:
    assert sorted([*CLIENT_WRITES.values(), *CLIENT_READS.values()]) == list(range(9))
