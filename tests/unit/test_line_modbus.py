"""Driver modbus-server: handshakes, atomic results and RTU framing, by bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_daemon.line.driver import Ack, LineEvent, PlcHeartbeat, Trigger
from edge_daemon.line.modbus import GAP_NS, MAX_INFORMING, SILENCE_NS, ModbusServerDriver
from edge_daemon.line.wire import ResultNote
from edge_daemon.tickets import Ticket

MS = 1_000_000
HEARTBEAT, ENABLE, TRIGGER, ACK = 1, 2, 4, 8
TRIGGER_ACK, BUSY, TOGGLE, VALID, PASSED, REJECT, UNKNOWN = (1 << n for n in range(2, 9))
PASS = ResultNote("PASS", "", 12)
FAIL = ResultNote("FAIL", "LIMIT_EXCEEDED", 46)


def crc(frame: bytes) -> bytes:
    """Modbus CRC, bit by bit (Modbus over serial line V1.02, 6.2.2)."""
    value = 0xFFFF
    for byte in frame:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return struct.pack("<H", value)


def rtu(*parts: int, unit: int = 1) -> bytes:
    frame = bytes([unit, *parts])
    return frame + crc(frame)


def write_block(control: int, part_id: int, recipe: int = 0) -> bytes:
    return rtu(16, 0, 0, 0, 3, 6, *struct.pack(">HHH", control, part_id, recipe))


READ_ALL = rtu(4, 0, 0, 0, 6)


class Plc:
    def __init__(self, unit_id: int = 1) -> None:
        self.driver = ModbusServerDriver(unit_id=unit_id)
        self.driver.open(self)
        self.sent = bytearray()
        self.now_ns = 0
        self.send(write_block(ENABLE, 0))

    def write(self, data: bytes) -> bool:
        self.sent += data
        return True

    def send(self, data: bytes) -> list[LineEvent]:
        self.sent.clear()
        return self.driver.received(data, self.now_ns)

    def words(self) -> list[int]:
        self.send(READ_ALL)
        assert self.sent[:3] == b"\x01\x04\x0c"
        assert bytes(self.sent[-2:]) == crc(bytes(self.sent[:-2]))
        return list(struct.unpack(">6H", self.sent[3:-2]))

    def part(self, part_id: int) -> Ticket:
        self.send(write_block(ENABLE, part_id))
        [event] = self.send(write_block(ENABLE | TRIGGER, part_id, 5))
        assert event == Trigger(part_id, 5)
        ticket = Ticket(f"r{part_id}", part_id, self.now_ns, self.now_ns + 300 * MS, "")
        self.driver.accepted(event, ticket)
        return ticket

    def acknowledge(self) -> list[LineEvent]:
        events = self.send(write_block(ENABLE | ACK, 0))
        self.send(write_block(ENABLE, 0))
        return events


def test_trigger_handshake() -> None:
    plc = Plc()
    assert plc.words() == [REJECT | 1 << 9, 0, 0, 0, 0, 0]  # at rest: Reject, and Fault until a daemon is fit
    plc.part(42)
    status, part_id, *_ = plc.words()
    assert status & TRIGGER_ACK
    assert status & BUSY
    assert part_id == 42
    assert plc.send(write_block(ENABLE | TRIGGER, 42)) == []  # still up: no second ticket
    assert plc.words()[0] & TRIGGER_ACK
    plc.send(write_block(ENABLE, 42))
    assert not plc.words()[0] & TRIGGER_ACK


def test_trigger_without_enable_is_none() -> None:
    plc = Plc()
    plc.send(write_block(0, 1))
    assert plc.send(write_block(TRIGGER, 1)) == []
    assert not plc.words()[0] & TRIGGER_ACK
    assert plc.send(write_block(ENABLE | TRIGGER, 1)) == []  # the edge is past


def test_trigger_that_was_up_before_is_none() -> None:
    driver = ModbusServerDriver(unit_id=1)
    plc = Plc()
    plc.driver = driver
    driver.open(plc)
    assert plc.send(write_block(ENABLE | TRIGGER, 1)) == []
    plc.part(2)


def test_trigger_by_coils_after_the_words() -> None:
    plc = Plc()
    assert plc.send(rtu(6, 0, 1, 0, 42)) == []
    assert plc.send(rtu(5, 0, 2, 0xFF, 0)) == [Trigger(42, 0)]
    assert bytes(plc.sent) == rtu(5, 0, 2, 0xFF, 0)  # a write is answered by its echo
    assert plc.send(rtu(15, 0, 0, 0, 4, 1, HEARTBEAT | ENABLE)) == [PlcHeartbeat(True)]


def test_result_until_acknowledged() -> None:
    plc = Plc()
    ticket = plc.part(42)
    toggle = plc.words()[0] & TOGGLE
    assert plc.driver.permit(ticket, PASS, 1)
    plc.driver.ended(ticket)
    status, _, result_part_id, reason, severity_x10, outcome = plc.words()
    assert status & (VALID | PASSED | REJECT) == VALID | PASSED
    assert status & TOGGLE != toggle
    assert (result_part_id, reason, severity_x10, outcome) == (42, 0, 12, 1)
    assert plc.acknowledge() == [Ack(42)]
    status, _, *rest = plc.words()
    assert status & (VALID | PASSED | REJECT) == REJECT
    assert rest == [0, 0, 0, 0]


def test_permit_is_withdrawn_at_the_deadline() -> None:
    plc = Plc()
    ticket = plc.part(42)
    plc.driver.permit(ticket, PASS, 1)
    plc.now_ns = ticket.deadline_ns - 1
    assert plc.words()[0] & PASSED
    plc.now_ns = ticket.deadline_ns
    status, _, result_part_id, *_ = plc.words()
    assert not status & (PASSED | VALID)
    assert result_part_id == 0


def test_second_result_waits_for_the_acknowledgement_and_its_release() -> None:
    plc = Plc()
    first, second = plc.part(1), plc.part(2)
    plc.driver.inform(first, FAIL, 1)
    plc.driver.permit(second, PASS, 2)
    assert plc.words()[2:] == [1, 40, 46, 2]
    plc.send(write_block(ENABLE | ACK, 0))
    assert not plc.words()[0] & VALID
    plc.send(write_block(ENABLE, 0))
    assert plc.words()[2:] == [2, 0, 12, 1]


def test_unacknowledged_information_gives_way_after_a_gap() -> None:
    """A PLC reading bits and words apart must not join the Pass of one part with the id of another."""
    plc = Plc()
    first, second = plc.part(1), plc.part(2)
    plc.driver.inform(first, FAIL, 0)
    plc.driver.permit(second, PASS, 0)
    assert plc.words()[2] == 1
    plc.now_ns = 100 * MS
    assert not plc.words()[0] & VALID
    plc.now_ns += GAP_NS - 1
    assert not plc.words()[0] & VALID
    plc.now_ns += 1
    assert plc.words()[2] == 2


def test_late_permit_in_the_queue_is_never_shown() -> None:
    plc = Plc()
    first, second = plc.part(1), plc.part(2)
    plc.driver.permit(first, PASS, 0)
    plc.driver.permit(second, PASS, 0)
    assert plc.words()[2] == 1
    plc.now_ns = second.deadline_ns + GAP_NS
    for _ in range(5):
        assert not plc.words()[0] & (VALID | PASSED)
        plc.now_ns += GAP_NS


def never_shown(plc: Plc) -> list[int]:
    return [ticket.part_id for ticket in plc.driver.take_never_shown(plc.now_ns)]


def test_permit_dropped_from_the_queue_is_told_once() -> None:
    plc = Plc()
    first, second = plc.part(1), plc.part(2)
    plc.driver.permit(first, PASS, 0)
    plc.driver.permit(second, PASS, 0)
    assert plc.words()[2] == 1
    plc.now_ns = second.deadline_ns - 1
    assert never_shown(plc) == []
    plc.now_ns = second.deadline_ns
    assert never_shown(plc) == [2]  # nobody needs to poll for it
    assert never_shown(plc) == []
    plc.words()
    assert never_shown(plc) == []  # and part 1 was read


def test_late_permit_behind_waiting_information_is_told_too() -> None:
    plc = Plc()
    first, second, third = plc.part(1), plc.part(2), plc.part(3)
    plc.driver.inform(first, FAIL, 0)
    plc.driver.inform(second, FAIL, 0)
    plc.driver.permit(third, PASS, 0)
    plc.now_ns = third.deadline_ns
    assert never_shown(plc) == [3]


@pytest.mark.parametrize(
    "read", [rtu(2, 0, 0, 0, 6), rtu(2, 0, 7, 0, 3), rtu(4, 0, 1, 0, 5), rtu(1, 0, 0, 0, 4), rtu(4, 0, 0, 0, 7), b""]
)
def test_permit_that_no_answer_carried_is_told(read: bytes) -> None:
    """It stood in the registers, but whatever the PLC read meanwhile did not have Pass in it."""
    plc = Plc()
    ticket = plc.part(1)
    plc.driver.permit(ticket, PASS, 0)
    if read:
        plc.send(read)
    plc.now_ns = ticket.deadline_ns
    assert never_shown(plc) == [1]
    assert not plc.words()[0] & (VALID | PASSED)
    plc.now_ns += GAP_NS
    plc.words()
    assert never_shown(plc) == []


@pytest.mark.parametrize("read", [rtu(2, 0, 0, 0, 7), rtu(2, 0, 6, 0, 1), rtu(4, 0, 0, 0, 1), READ_ALL])
def test_permit_that_was_read_is_not_told(read: bytes) -> None:
    plc = Plc()
    ticket = plc.part(1)
    plc.driver.permit(ticket, PASS, 0)
    plc.send(read)
    plc.now_ns = ticket.deadline_ns
    assert never_shown(plc) == []
    plc.driver.close()
    assert never_shown(plc) == []


def test_permit_acknowledged_unread_is_told() -> None:
    """The acknowledgement was meant for the result before."""
    plc = Plc()
    plc.driver.permit(plc.part(1), PASS, 0)
    assert plc.acknowledge() == [Ack(1)]
    assert never_shown(plc) == [1]


def test_permits_of_a_lost_port_are_told() -> None:
    plc = Plc()
    first, second, third = plc.part(1), plc.part(2), plc.part(3)
    plc.driver.permit(first, PASS, 0)
    plc.driver.permit(second, PASS, 0)
    plc.driver.inform(third, FAIL, 0)
    plc.driver.close()
    plc.driver.open(plc)
    assert never_shown(plc) == [1, 2]


def test_asking_changes_no_register() -> None:
    """Between two polls nothing may come and go: only a poll moves on, so that it sees the gap as well."""
    plc, asked = Plc(), Plc()
    for each in (plc, asked):
        first, second = each.part(1), each.part(2)
        each.driver.inform(first, FAIL, 0)
        each.driver.inform(second, FAIL, 0)
        each.driver.permit(each.part(3), PASS, 0)
    seen = []
    for now_ms in range(0, 1000, 37):
        for each in (plc, asked):
            each.now_ns = now_ms * MS
        for earlier_ms in range(36, -1, -4):
            asked.driver.take_never_shown((now_ms - earlier_ms) * MS)
        words = asked.words()
        assert plc.words() == words
        seen.append(words[2])
    assert {0, 1, 2} <= set(seen)


def test_information_nobody_reads_does_not_pile_up() -> None:
    plc = Plc()
    for part_id in range(1, 50):
        plc.driver.inform(Ticket(f"r{part_id}", part_id, 0, 1, ""), FAIL, 0)
    shown = []
    for _ in range(60):
        words = plc.words()
        if words[0] & VALID:
            shown.append(words[2])
            plc.acknowledge()
    assert shown == [1, *range(50 - MAX_INFORMING, 50)]


def test_unknown_and_flags() -> None:
    plc = Plc()
    plc.driver.heartbeat(True, ready=True, fault=False)
    assert plc.words()[0] & 0b10_0000_0011 == 0b11
    plc.driver.inform(Ticket("r", 9, 0, 1, ""), ResultNote("INCONCLUSIVE", "UNKNOWN_TYPE", unknown=True), 0)
    status, _, part_id, reason, severity_x10, outcome = plc.words()
    assert status & (UNKNOWN | VALID | PASSED) == UNKNOWN | VALID
    assert (part_id, reason, severity_x10, outcome) == (9, 41, 65535, 3)


def test_discrete_inputs_are_the_status_word() -> None:
    plc = Plc()
    ticket = plc.part(42)
    plc.driver.permit(ticket, PASS, 1)
    status = plc.words()[0]
    plc.send(rtu(2, 0, 0, 0, 10))
    assert plc.sent[:3] == b"\x01\x02\x02"
    assert int.from_bytes(plc.sent[3:5], "little") == status
    plc.send(rtu(3, 0, 0, 0, 3))
    assert struct.unpack(">3H", plc.sent[3:9]) == (ENABLE | TRIGGER, 42, 5)
    plc.send(rtu(1, 0, 0, 0, 4))
    assert plc.sent[3] == ENABLE | TRIGGER


@pytest.mark.parametrize(
    ("request_frame", "exception"),
    [
        (rtu(4, 0, 0, 0, 7), 2),
        (rtu(2, 0, 9, 0, 2), 2),
        (rtu(3, 0, 3, 0, 1), 2),
        (rtu(6, 0, 3, 0, 1), 2),
        (rtu(5, 0, 4, 0xFF, 0), 2),
        (rtu(8, 0, 0, 0, 0), 1),
        (rtu(17), 1),
    ],
)
def test_exceptions(request_frame: bytes, exception: int) -> None:
    plc = Plc()
    assert plc.send(request_frame) == []
    assert bytes(plc.sent) == rtu(request_frame[1] | 0x80, exception)


def test_other_units_and_broadcasts_stay_unanswered() -> None:
    plc = Plc()
    for unit in (0, 2, 247):
        assert plc.send(rtu(16, 0, 0, 0, 3, 6, 0, ENABLE | TRIGGER, 0, 1, 0, 0, unit=unit)) == []
        assert plc.sent == b""
    # the answer of another slave, and then a request to us
    assert plc.send(rtu(4, 4, 0, 1, 0, 2, unit=2) + READ_ALL) == []
    assert plc.sent[:3] == b"\x01\x04\x0c"


def test_half_a_request_is_dropped_after_silence() -> None:
    plc = Plc()
    plc.send(b"\x01\x10\x00\x00\x00\x7b\xf6")  # the head of a request of 255 bytes
    plc.now_ns += SILENCE_NS + 1
    assert plc.send(READ_ALL) == []
    assert plc.sent[:2] == b"\x01\x04"
    assert plc.driver.protocol_errors == 1


def test_request_right_behind_half_a_request_is_served_at_once() -> None:
    plc = Plc()
    plc.send(b"\x01\x10\x00\x00\x00\x7b\xf6" + READ_ALL)
    assert plc.sent[:3] == b"\x01\x04\x0c"


def test_request_in_single_bytes() -> None:
    plc = Plc()
    events = []
    for byte in write_block(ENABLE | TRIGGER, 77):
        events += plc.send(bytes([byte]))
        plc.now_ns += MS
    assert events == [Trigger(77, 0)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_an_intact_request_behind_garbage_is_served(noise: bytes) -> None:
    """Either at once, or (garbage that looks like the head of a longer request) after silence."""
    plc = Plc()
    plc.send(noise)
    plc.now_ns += SILENCE_NS + 1
    plc.send(READ_ALL)
    assert plc.sent[:3] == b"\x01\x04\x0c"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_poll_never_sees_parts_of_two_results(data: st.DataObject) -> None:
    """Random results, polls and acknowledgements: Pass only ever stands beside a part that was permitted."""
    plc = Plc()
    permitted = set()
    for part_id in range(1, 12):
        ticket = plc.part(part_id)
        if data.draw(st.booleans()):
            if plc.driver.permit(ticket, ResultNote("PASS", "", part_id), plc.now_ns):
                permitted.add(part_id)
        else:
            plc.driver.inform(ticket, ResultNote("FAIL", "GUARD_BAND", part_id), plc.now_ns)
        plc.driver.ended(ticket)
        for _ in range(data.draw(st.integers(0, 3))):
            plc.now_ns += data.draw(st.integers(0, 120)) * MS
            status, _, result_part_id, reason, severity_x10, outcome = plc.words()
            assert bool(status & PASSED) != bool(status & REJECT)
            if status & VALID:
                assert severity_x10 == result_part_id
                assert bool(status & PASSED) == (result_part_id in permitted)
                assert (outcome, reason) == ((1, 0) if status & PASSED else (2, 42))
            else:
                assert not status & PASSED
                assert (result_part_id, outcome) == (0, 0)
            if data.draw(st.booleans()):
                plc.acknowledge()
