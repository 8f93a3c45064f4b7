"""Driver ``discrete``: edges, pulses, and no PASS that could be taken for another part's."""

from __future__ import annotations

from edge_daemon.line.discrete import DEBOUNCE_NS, DiscreteDriver
from edge_daemon.line.driver import LineEvent, ModemLines, PlcHeartbeat, Trigger
from edge_daemon.line.wire import ResultNote
from edge_daemon.tickets import Ticket

MS = 1_000_000
PULSE_NS = 50 * MS
PASS = ResultNote("PASS")


class Bench:
    """Lines of a port, and every change of RTS with its time."""

    def __init__(self, trigger_input: str = "cts") -> None:
        self.trigger, self.enable, self.there = False, True, True
        self.rts = self.dtr = False
        self.now_ns = 0
        self.changes: list[tuple[int, bool]] = []
        self.swapped = trigger_input == "dsr"
        self.driver = DiscreteDriver(trigger_input, pulse_ns=PULSE_NS)
        self.driver.open(self)

    def write(self, data: bytes) -> bool:
        raise AssertionError("no characters are sent")

    def read_lines(self) -> ModemLines | None:
        if not self.there:
            return None
        return ModemLines(self.enable, self.trigger) if self.swapped else ModemLines(self.trigger, self.enable)

    def set_lines(self, rts: bool, dtr: bool) -> bool:
        if not self.there:
            return False
        if rts != self.rts:
            self.changes.append((self.now_ns, rts))
        self.rts, self.dtr = rts, dtr
        return True

    def until(self, now_ns: int) -> list[LineEvent]:
        events: list[LineEvent] = []
        while self.now_ns < now_ns:
            self.now_ns += 2 * MS
            events += self.driver.poll(self.now_ns)
        return events

    def part(self) -> Ticket:
        """One trigger, 20 ms long, with 10 ms before and behind."""
        self.until(self.now_ns + 10 * MS)
        self.trigger = True
        [trigger] = [e for e in self.until(self.now_ns + 20 * MS) if isinstance(e, Trigger)]
        ticket = Ticket(f"r{trigger.part_id}", trigger.part_id, self.now_ns, self.now_ns + 300 * MS, "")
        self.driver.accepted(trigger, ticket)
        self.trigger = False
        self.until(self.now_ns + 10 * MS)
        return ticket


def test_a_permit_is_one_pulse_of_the_configured_length() -> None:
    for trigger_input in ("cts", "dsr"):
        bench = Bench(trigger_input)
        ticket = bench.part()
        assert bench.driver.permit(ticket, PASS, bench.now_ns)
        bench.driver.ended(ticket)
        begun_ns = bench.now_ns
        bench.until(bench.now_ns + 500 * MS)
        assert bench.changes == [(begun_ns, True), (begun_ns + PULSE_NS, False)]


def test_parts_are_numbered_and_a_standing_or_bouncing_trigger_is_one() -> None:
    bench = Bench()
    bench.trigger = True
    assert not any(isinstance(e, Trigger) for e in bench.until(100 * MS))  # it was on before we were there
    bench.trigger = False
    numbers = []
    for _ in range(3):
        ticket = bench.part()
        numbers.append(ticket.part_id)
        bench.driver.ended(ticket)
    assert numbers == [1, 2, 3]
    bench.until(bench.now_ns + 20 * MS)
    bounced: list[LineEvent] = []
    for level in (True, False, True, False, True):
        bench.trigger = level
        bounced += bench.until(bench.now_ns + DEBOUNCE_NS - 3 * MS)
    assert [e for e in bounced if isinstance(e, Trigger)] == [Trigger(4)]


def test_two_parts_at_once_both_fail() -> None:
    bench = Bench()
    first, second = bench.part(), bench.part()
    assert bench.driver.permit(first, PASS, bench.now_ns) is False
    bench.driver.ended(first)
    assert bench.driver.permit(second, PASS, bench.now_ns) is False
    bench.driver.ended(second)
    third = bench.part()
    assert bench.driver.permit(third, PASS, bench.now_ns)


def test_a_trigger_not_yet_looked_at_stops_the_permit_of_the_part_before() -> None:
    bench = Bench()
    ticket = bench.part()
    bench.trigger = True
    assert bench.driver.permit(ticket, PASS, bench.now_ns) is False
    assert bench.changes == []


def test_a_trigger_ends_the_pulse_of_the_part_before_and_the_next_pass_has_its_own_edge() -> None:
    bench = Bench()
    ticket = bench.part()
    assert bench.driver.permit(ticket, PASS, bench.now_ns)
    bench.driver.ended(ticket)
    begun_ns = bench.now_ns
    second = bench.part()
    assert bench.changes[1][1] is False
    assert bench.changes[1][0] < begun_ns + PULSE_NS
    assert bench.driver.permit(second, PASS, bench.now_ns)
    assert bench.rts is False  # PASS has to rest first
    bench.until(bench.now_ns + 200 * MS)
    assert [level for _, level in bench.changes] == [True, False, True, False]
    assert bench.changes[2][0] - bench.changes[1][0] >= PULSE_NS
    assert bench.driver.take_never_shown(bench.now_ns) == []


def test_a_permit_that_waited_too_long_is_told_and_not_shown() -> None:
    bench = Bench()
    first = bench.part()
    assert bench.driver.permit(first, PASS, bench.now_ns)
    bench.driver.ended(first)
    second = bench.part()
    assert bench.driver.permit(second, PASS, bench.now_ns)
    assert bench.driver.take_never_shown(second.deadline_ns) == [second]
    bench.until(second.deadline_ns + 200 * MS)
    assert [level for _, level in bench.changes] == [True, False]


def test_enable_off_takes_no_trigger_and_gives_no_pass() -> None:
    bench = Bench()
    assert any(isinstance(e, PlcHeartbeat) for e in bench.until(150 * MS))
    ticket = bench.part()
    bench.enable = False
    assert bench.driver.permit(ticket, PASS, bench.now_ns) is False
    bench.driver.ended(ticket)
    bench.trigger = True
    assert bench.until(bench.now_ns + 300 * MS) == []


def test_ready_is_alive_or_off() -> None:
    bench = Bench()
    seen = []
    for beat in (True, False, True):
        bench.driver.heartbeat(beat, ready=True, fault=False)
        seen.append(bench.dtr)
    bench.driver.heartbeat(True, ready=False, fault=True)
    assert [*seen, bench.dtr] == [True, False, True, False]


def test_a_lost_port_is_a_reject() -> None:
    bench = Bench()
    ticket = bench.part()
    bench.there = False
    assert bench.driver.permit(ticket, PASS, bench.now_ns) is False
    assert bench.driver.poll(bench.now_ns) == []
    bench.driver.close()
    bench.there = True
    bench.driver.open(bench)
    assert bench.driver.permit(ticket, PASS, bench.now_ns) is False
    assert (bench.rts, bench.dtr) == (False, False)
