"""Ascii telegrams: exact bytes, garbage, and that nothing but a permit can be read as one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_daemon.line.ascii import (
    FIELDS,
    MAX_TELEGRAM,
    PASS_WORD,
    AsciiDriver,
    TelegramReader,
    crc16,
    encode,
    is_permit,
)
from edge_daemon.line.driver import Ack, PlcHeartbeat, Trigger
from edge_daemon.line.wire import ResultNote
from edge_daemon.tickets import Ticket

PERMIT = {
    "seq": 0x102,
    "trigger_seq": 0x11,
    "part_id": 0x2A,
    "not_part_id": 0xFFD5,
    "word": PASS_WORD,
    "not_word": 0x5A3C,
}


class Recorder:
    """A wire that keeps what is written; ``broken``: nothing goes out."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.broken = False

    def write(self, data: bytes) -> bool:
        if not self.broken:
            self.sent.append(data)
        return not self.broken

    def kinds(self) -> str:
        return "".join(chr(data[1]) for data in self.sent)


def telegrams(data: bytes) -> list[tuple[str, dict[str, int | str]]]:
    return list(TelegramReader().feed(data))


def bitwise_crc16(data: bytes) -> int:
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021) & 0xFFFF if crc & 0x8000 else crc << 1 & 0xFFFF
    return crc


@given(st.binary(max_size=100))
def test_crc_is_the_published_one(data: bytes) -> None:
    assert crc16(b"123456789") == 0x29B1  # check value of CRC-16/CCITT-FALSE
    assert crc16(data) == bitwise_crc16(data)


def test_every_telegram_comes_back_and_is_short_enough() -> None:
    for kind, fields in FIELDS.items():
        values: dict[str, int | str] = {name: 16**width - 1 if width else "A_9" * 10 for name, width in fields}
        data = encode(kind, **values)
        assert len(data) <= MAX_TELEGRAM
        assert telegrams(data) == [(kind, values)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("A", {"seq": 0x10000, "part_id": 1}),
        ("A", {"seq": -1, "part_id": 1}),
        ("A", {"seq": 1}),
        ("A", {"seq": 1, "part_id": 1, "more": 1}),
        ("A", {"seq": "0001", "part_id": 1}),
        (
            "I",
            {"seq": 1, "trigger_seq": 1, "part_id": 1, "outcome": 1, "unknown": 0, "severity_x10": 1, "reason": "a b"},
        ),
    ],
)
def test_what_does_not_fit_is_not_sent(kind: str, values: dict[str, int | str]) -> None:
    with pytest.raises(ValueError, match=f"telegram {kind}"):
        encode(kind, **values)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=120), max_size=6), st.integers(1, 40))
def test_in_step_again_after_any_garbage(noise: list[bytes], portion: int) -> None:
    """Whatever came before, the telegram behind a ``$`` is read; noise without a whole telegram yields none."""
    wanted = encode("T", seq=1, part_id=2, recipe=3)
    stream = b"".join(garbage + wanted for garbage in noise)
    reader = TelegramReader()
    found = []
    for start in range(0, len(stream), portion):
        found += list(reader.feed(stream[start : start + portion]))
        assert len(reader._buffer) < MAX_TELEGRAM
    assert [values for kind, values in found if kind == "T"].count({"seq": 1, "part_id": 2, "recipe": 3}) >= len(noise)


def test_endless_telegram_is_dropped() -> None:
    reader = TelegramReader()
    assert list(reader.feed(b"$" + b"A" * 1_000_000)) == []
    assert len(reader._buffer) < MAX_TELEGRAM
    assert reader.errors == 1


def test_no_one_or_two_flipped_bits_make_another_permit() -> None:
    """All single and double bit errors of a permit: either it is refused, or (never) it is the same one."""
    good = encode("P", **PERMIT)
    bits = range(len(good) * 8)
    permits = 0
    for flips in itertools.chain(((a,) for a in bits), itertools.combinations(bits, 2)):
        broken = bytearray(good)
        for bit in flips:
            broken[bit // 8] ^= 1 << bit % 8
        if broken[0] != 0x24 or broken[-2:] != b"\r\n":
            continue
        permits += any(is_permit(kind, values) for kind, values in telegrams(bytes(broken)))
    assert permits == 0


def test_no_other_telegram_becomes_a_permit_even_with_the_right_crc() -> None:
    """The CRC is set right after up to two flipped bits of the body: word and complements still refuse it."""
    others = [
        encode("I", seq=1, trigger_seq=2, part_id=3, outcome=2, unknown=0, severity_x10=46, reason="LIMIT_EXCEEDED"),
        encode("K", seq=1, trigger_seq=2, part_id=3, status=0),
        encode("H", seq=1, beat=1, ready=1, fault=0, busy=0),
        encode("P", **{**PERMIT, "word": 0, "not_word": 0}),
        encode("P", **{**PERMIT, "not_part_id": 0x2A}),
        encode("P", **{**PERMIT, "not_word": PASS_WORD}),
    ]
    tried = 0
    for good in others:
        body = good[1:-7]
        bits = range(len(body) * 8)
        for flips in itertools.chain(((a,) for a in bits), itertools.combinations(bits, 2)):
            broken = bytearray(body)
            for bit in flips:
                broken[bit // 8] ^= 1 << bit % 8
            line = b"$%s*%04X\r\n" % (bytes(broken), bitwise_crc16(bytes(broken)) if tried % 97 == 0 else crc16(broken))
            tried += 1
            assert not any(is_permit(kind, values) for kind, values in telegrams(line))
    assert tried > 50_000


@settings(max_examples=500)
@given(st.text(alphabet="$PAHIK0123456789ABCDEF,*\r\n", max_size=80))
def test_random_text_is_no_permit(text: str) -> None:
    assert not any(is_permit(kind, values) for kind, values in telegrams(text.encode()))


def test_several_parts_repeated_in_turns_open_one_ticket_each() -> None:
    """A line process that stood still finds the triggers of three parts, each repeated several times."""
    driver, wire = AsciiDriver(repeat_ns=1000), Recorder()
    driver.open(wire)
    telegrams = [encode("T", seq=number, part_id=40 + number, recipe=0) for number in (1, 2, 3)]
    events = driver.received(b"".join(telegrams * 4), 0)
    assert events == [Trigger(40 + number, 0, number) for number in (1, 2, 3)]
    assert driver.received(telegrams[0], 999) == []
    assert driver.received(telegrams[0], 1000) == [Trigger(41, 0, 1)]  # so late it is another one: numbers wrap
    driver.refused(Trigger(42, 0, 2))
    assert driver.received(telegrams[1], 999) == [Trigger(42, 0, 2)]  # it had no ticket


def at_work() -> tuple[AsciiDriver, Recorder]:
    driver, wire = AsciiDriver(repeat_ns=100), Recorder()
    driver.open(wire)
    return driver, wire


def test_trigger_and_its_repetition() -> None:
    driver, wire = at_work()
    data = encode("T", seq=9, part_id=7, recipe=2)
    [trigger] = driver.received(data, 0)
    assert trigger == Trigger(7, 2, 9)
    driver.accepted(trigger, Ticket("r", 7, 0, 100, ""))
    assert driver.received(data, 99) == []  # the PLC missed the acknowledgement
    assert wire.kinds() == "KK"
    assert driver.received(data, 100) == [trigger]  # too late for a repetition: a new part
    other = encode("T", seq=10, part_id=7, recipe=2)
    assert driver.received(other, 101) == [Trigger(7, 2, 10)]


def test_a_trigger_that_was_refused_may_come_again() -> None:
    driver, wire = at_work()
    data = encode("T", seq=9, part_id=7, recipe=0)
    [trigger] = driver.received(data, 0)
    assert isinstance(trigger, Trigger)
    driver.refused(trigger)
    assert telegrams(wire.sent[-1])[0][1]["status"] == 1
    assert driver.received(data, 1) == [trigger]


def test_permit_carries_part_trigger_and_details() -> None:
    driver, wire = at_work()
    ticket = Ticket("r", 0x2A, 0, 100, "")
    driver.accepted(Trigger(0x2A, 0, 0x11), ticket)
    assert driver.permit(ticket, ResultNote("PASS", "", 12), 50)
    kind, values = telegrams(wire.sent[1])[0]
    assert is_permit(kind, values)
    assert (values["part_id"], values["trigger_seq"]) == (0x2A, 0x11)
    kind, values = telegrams(wire.sent[2])[0]
    assert (kind, values["outcome"], values["severity_x10"]) == ("I", 1, 12)


def test_heartbeat_and_acknowledgement_and_echo() -> None:
    driver, _ = at_work()
    data = encode("B", seq=1, trigger_enable=1) + encode("A", seq=2, part_id=5) + encode("P", **PERMIT)
    assert driver.received(data, 0) == [PlcHeartbeat(True), Ack(5)]
    assert driver.protocol_errors == 1  # our own telegram, echoed


def test_reason_that_cannot_stand_on_the_wire_is_made_to_fit() -> None:
    driver, wire = at_work()
    driver.inform(Ticket("r", 1, 0, 9, ""), ResultNote("FAIL", "größe-x\r\n$P" + "Y" * 50), 1)
    [(kind, values)] = telegrams(wire.sent[0])
    assert (kind, values["reason"]) == ("I", "GR_SSE_X___P" + "Y" * 20)
