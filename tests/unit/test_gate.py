"""The dead-man gate: by hand, exhaustively over a small world, and against a second opinion with random sequences."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_daemon.line.gate import ENDED_REASONS, REFUSED_REASONS, Gate
from edge_daemon.tickets import GateAnswer, Ticket

UTC = "2026-01-01T00:00:00.000Z"


def gate_at_work(now_ns: int = 0, *, deadline_ns: int = 100, lease_ns: int = 50, capacity: int = 10) -> Gate:
    gate = Gate(deadline_ns=deadline_ns, lease_ns=lease_ns, capacity=capacity)
    gate.attach(now_ns)
    gate.health(True, now_ns)
    return gate


def opened(gate: Gate, record_id: str, part_id: int, now_ns: int) -> Ticket:
    ticket = gate.open(record_id, part_id, 0, UTC, now_ns)
    assert ticket is not None
    return ticket


def test_permit_in_time_opens_once() -> None:
    gate = gate_at_work()
    ticket = opened(gate, "a", 7, 0)
    assert (ticket.trigger_ns, ticket.deadline_ns) == (0, 100)
    assert gate.permit("a", 7, 40) == GateAnswer(True, "", 40)
    assert gate.permit("a", 7, 41) == GateAnswer(False, "DUPLICATE", 41)
    [ended] = gate.take_ended()
    assert ended.answer.permitted
    assert gate.take_ended() == []


@pytest.mark.parametrize(("now_ns", "permitted"), [(99, True), (100, False), (101, False)])
def test_the_deadline_itself_is_late(now_ns: int, permitted: bool) -> None:
    gate = gate_at_work()
    opened(gate, "a", 7, 0)
    gate.health(True, now_ns)
    answer = gate.permit("a", 7, now_ns)
    assert answer.permitted is permitted
    assert answer.reason == ("" if permitted else "LATE")
    assert [ended.answer.reason for ended in gate.take_ended()] == [("" if permitted else "DEADLINE")]


def test_lease_lapses_exactly() -> None:
    gate = gate_at_work(lease_ns=50)
    opened(gate, "a", 1, 0)
    opened(gate, "b", 2, 0)
    assert gate.ready(49)
    assert gate.permit("a", 1, 49).permitted
    assert not gate.ready(50)
    assert gate.permit("b", 2, 50) == GateAnswer(False, "NOT_READY", 50)


def test_unfit_ends_the_lease_at_once() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    gate.health(False, 1)
    assert not gate.ready(1)
    assert gate.permit("a", 1, 2).reason == "NOT_READY"


def test_a_refused_permit_has_no_second_try() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    assert gate.permit("a", 2, 1).reason == "WRONG_PART"
    assert gate.permit("a", 1, 2).reason == "ALREADY_ENDED"
    assert [ended.answer.reason for ended in gate.take_ended()] == ["WRONG_PART"]


def test_no_pass_after_a_fail() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    assert gate.decline("a", 1)
    assert not gate.decline("a", 2)
    assert gate.permit("a", 1, 3).reason == "ALREADY_ENDED"
    [ended] = gate.take_ended()
    assert (ended.answer.reason, ended.declined) == ("NO_PASS", True)


def test_a_note_that_is_no_pass_never_opens() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    assert gate.permit("a", 1, 1, is_pass=False).reason == "NOT_PASS"
    assert gate.permit("a", 1, 2).reason == "ALREADY_ENDED"


def test_parts_pass_in_order() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    opened(gate, "b", 2, 1)
    opened(gate, "c", 3, 2)
    assert gate.permit("b", 2, 3).reason == "OUT_OF_ORDER"
    assert gate.permit("a", 1, 4).permitted
    assert gate.permit("c", 3, 5).permitted  # b has ended, so c is next


def test_declined_part_lets_the_next_take_its_turn() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    opened(gate, "b", 2, 1)
    gate.decline("a", 2)
    assert gate.permit("b", 2, 3).permitted


def test_two_open_parts_with_one_id_are_both_rejected() -> None:
    gate = gate_at_work()
    opened(gate, "a", 5, 0)
    opened(gate, "b", 5, 1)
    assert [(e.ticket.record_id, e.answer.reason) for e in gate.take_ended()] == [
        ("a", "AMBIGUOUS_PART"),
        ("b", "AMBIGUOUS_PART"),
    ]
    assert not gate.permit("a", 5, 2).permitted
    assert not gate.permit("b", 5, 2).permitted
    opened(gate, "c", 5, 3)  # neither is open any more
    assert gate.permit("c", 5, 4).permitted


def test_a_lost_daemon_ends_its_tickets_and_its_successor_cannot_permit_them() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    gate.detach(10)
    assert not gate.ready(10)
    orphan = opened(gate, "b", 2, 11)
    gate.attach(20)
    gate.health(True, 20)
    assert [(t.record_id, a.reason if a else None) for t, a in gate.unsettled()] == [("a", "DAEMON_LOST"), ("b", None)]
    assert gate.permit("a", 1, 21).reason == "RESTARTED"
    opened(gate, "c", 3, 22)
    assert gate.permit("c", 3, 23).permitted  # b does not stand in its way
    gate.expire(orphan.deadline_ns)
    assert [e.answer.reason for e in gate.take_ended()] == ["DAEMON_LOST", "", "NO_DAEMON"]
    assert gate.permit("b", 2, orphan.deadline_ns).reason == "RESTARTED"


def test_restarted_permit_of_an_open_orphan() -> None:
    gate = Gate(deadline_ns=100, lease_ns=50)
    opened(gate, "a", 1, 0)
    gate.attach(1)
    gate.health(True, 1)
    assert gate.permit("a", 1, 2).reason == "RESTARTED"


def test_attach_without_health_is_not_ready() -> None:
    gate = gate_at_work()
    gate.attach(1)
    assert not gate.ready(1)
    opened(gate, "a", 1, 1)
    assert gate.permit("a", 1, 2).reason == "NOT_READY"


def test_health_without_a_daemon_counts_for_nothing() -> None:
    gate = Gate(deadline_ns=100, lease_ns=50)
    gate.health(True, 0)
    gate.attach(1)
    assert not gate.ready(1)


def test_unsettled_until_settled() -> None:
    gate = gate_at_work(capacity=2)
    opened(gate, "a", 1, 0)
    gate.permit("a", 1, 1)
    opened(gate, "b", 2, 2)
    assert gate.open("c", 3, 0, UTC, 3) is None  # nowhere to keep it: not taken rather than lost
    assert gate.overflowed == 1
    assert gate.settle("a", 3)
    assert not gate.settle("a", 3)
    assert gate.permit("a", 1, 4).reason == "UNKNOWN_TICKET"
    opened(gate, "c", 3, 5)
    assert [ticket.record_id for ticket, _ in gate.unsettled()] == ["b", "c"]


def test_a_trigger_that_finds_no_room_ends_an_open_part_of_the_same_id() -> None:
    """The PLC waits for the new one, whatever the device could do with its trigger."""
    gate = gate_at_work(capacity=1)
    opened(gate, "a", 1, 0)
    assert gate.open("b", 1, 0, UTC, 1) is None
    assert [e.answer.reason for e in gate.take_ended()] == ["AMBIGUOUS_PART"]
    assert gate.permit("a", 1, 2).reason == "ALREADY_ENDED"


def test_settling_an_open_ticket_ends_it_without_a_permit() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    assert gate.settle("a", 1)
    assert [e.answer for e in gate.take_ended()] == [GateAnswer(False, "NO_PASS", 1)]
    assert gate.permit("a", 1, 2).reason == "UNKNOWN_TICKET"
    assert gate.unsettled() == []


def test_revoked_permit_counts_as_refused() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    assert gate.permit("a", 1, 1).permitted
    assert gate.revoke("a", 1) == GateAnswer(False, "PORT_LOST", 1)
    assert [e.answer.reason for e in gate.take_ended()] == ["PORT_LOST"]
    assert (gate.permitted, gate.refused["PORT_LOST"]) == (0, 1)
    with pytest.raises(ValueError, match="holds no permit"):
        gate.revoke("a", 2)


def test_an_announced_permit_cannot_be_revoked() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    gate.permit("a", 1, 1)
    gate.take_ended()
    with pytest.raises(ValueError, match="announced"):
        gate.revoke("a", 2)


def test_a_trigger_of_unknown_age_ends_at_once() -> None:
    gate = gate_at_work()
    assert gate.open("a", 1, 0, UTC, 0, fresh=False) is not None
    assert gate.permit("a", 1, 1).reason == "ALREADY_ENDED"
    assert [e.answer.reason for e in gate.take_ended()] == ["STALLED"]


def test_bugs_of_the_caller_are_refused() -> None:
    gate = gate_at_work()
    opened(gate, "a", 1, 0)
    with pytest.raises(ValueError, match="used before"):
        gate.open("a", 2, 0, UTC, 1)
    with pytest.raises(ValueError, match="outside"):
        gate.open("b", 65536, 0, UTC, 1)


# -- exhaustively ------------------------------------------------------------------------------------------------


@dataclass
class Opinion:
    """A second opinion, written from the design: keeps the whole history and asks it each time."""

    deadline_ns: int
    lease_ns: int
    session: int | None = None
    sessions: int = 0
    healthy_until_ns: int = -1
    order: list[str] = field(default_factory=list)
    born: dict[str, tuple[int, int, int | None]] = field(default_factory=dict)  # part id, trigger, session
    spoilt: set[str] = field(default_factory=set)

    def is_open(self, record_id: str, now_ns: int) -> bool:
        return record_id not in self.spoilt and now_ns < self.born[record_id][1] + self.deadline_ns

    def open(self, record_id: str, part_id: int, now_ns: int) -> None:
        twins = [other for other in self.order if self.born[other][0] == part_id and self.is_open(other, now_ns)]
        self.order.append(record_id)
        self.born[record_id] = (part_id, now_ns, self.session)
        if twins:
            self.spoilt |= {*twins, record_id}

    def may_pass(self, record_id: str, part_id: int, now_ns: int) -> bool:
        if record_id not in self.born or not self.is_open(record_id, now_ns):
            return False
        older = itertools.takewhile(lambda other: other != record_id, self.order)
        allowed = (
            self.session is not None
            and self.born[record_id][2] == self.session
            and self.born[record_id][0] == part_id
            and now_ns < self.healthy_until_ns
            and not any(self.is_open(o, now_ns) and self.born[o][2] == self.session for o in older)
        )
        self.spoilt.add(record_id)  # one word per ticket
        return allowed

    def leave(self) -> None:
        if self.session is not None:  # tickets of nobody's stay open until their deadline
            self.spoilt |= {record_id for record_id in self.order if self.born[record_id][2] == self.session}
        self.session, self.healthy_until_ns = None, -1


class Both:
    """The gate and the second opinion side by side; every step compares them and checks what must always hold."""

    def __init__(self, deadline_ns: int, lease_ns: int) -> None:
        self.gate = Gate(deadline_ns=deadline_ns, lease_ns=lease_ns)
        self.opinion = Opinion(deadline_ns, lease_ns)
        self.now_ns = 0
        self.passes: list[str] = []
        self.ended: list[str] = []

    def do(self, step: tuple[str, int]) -> None:
        name, value = step
        gate, opinion, now_ns = self.gate, self.opinion, self.now_ns
        record_ids = opinion.order
        if name == "wait":
            self.now_ns += value
        elif name == "open":
            record_id = f"r{len(record_ids)}"
            gate.open(record_id, value, 0, UTC, now_ns)
            opinion.open(record_id, value, now_ns)
        elif name in ("permit", "wrong", "decline") and value < len(record_ids):
            record_id = record_ids[value]
            part_id = opinion.born[record_id][0] + (name == "wrong")
            if name == "decline":
                gate.decline(record_id, now_ns)
                opinion.spoilt.add(record_id)
            else:
                expected = opinion.may_pass(record_id, part_id, now_ns)
                answer = gate.permit(record_id, part_id, now_ns)
                assert answer.permitted is expected, (record_id, answer)
                assert answer.permitted or answer.reason in REFUSED_REASONS
                if answer.permitted:
                    self.passes.append(record_id)
        elif name == "attach":
            gate.attach(now_ns)
            opinion.leave()
            opinion.sessions += 1
            opinion.session = opinion.sessions
        elif name == "detach":
            gate.detach(now_ns)
            opinion.leave()
        elif name == "health":
            gate.health(bool(value), now_ns)
            if opinion.session is not None:
                opinion.healthy_until_ns = now_ns + opinion.lease_ns if value else -1
        self.check()

    def check(self) -> None:
        self.gate.expire(self.now_ns)
        for ended in self.gate.take_ended():
            self.ended.append(ended.ticket.record_id)
            assert ended.answer.permitted is (ended.ticket.record_id in self.passes)
            assert ended.answer.permitted or ended.answer.reason in ENDED_REASONS
        assert len(self.passes) == len(set(self.passes)) == self.gate.permitted
        assert len(self.ended) == len(set(self.ended)), "a ticket ended twice"
        assert self.gate.ready(self.now_ns) is (self.now_ns < self.opinion.healthy_until_ns)
        still_open = {r for r in self.opinion.order if self.opinion.is_open(r, self.now_ns)}
        assert {t.record_id for t, answer in self.gate.unsettled() if answer is None} == still_open
        assert {*self.ended, *still_open} == set(self.opinion.order), "a trigger was lost"


STEPS: list[tuple[str, int]] = [
    ("open", 1),
    ("permit", 0),
    ("permit", 1),
    ("decline", 0),
    ("wrong", 0),
    ("wait", 2),
    ("health", 1),
    ("attach", 0),
    ("detach", 0),
    ("open", 2),
]


def test_every_short_sequence_agrees_with_the_second_opinion() -> None:
    """All 10^5 sequences of five steps after a daemon has attached and reported fit; deadline 3, lease 4."""
    count = passes = 0
    for steps in itertools.product(STEPS, repeat=5):
        both = Both(deadline_ns=3, lease_ns=4)
        both.gate.attach(0)
        both.opinion.session = both.opinion.sessions = 1
        both.gate.health(True, 0)
        both.opinion.healthy_until_ns = 4
        for step in steps:
            both.do(step)
        count += 1
        passes += len(both.passes)
    assert count == 100_000
    assert passes > 5_000  # the gate does open


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("wait"), st.integers(0, 7)),
            st.tuples(st.just("open"), st.integers(0, 3)),
            st.tuples(st.sampled_from(["permit", "wrong", "decline"]), st.integers(0, 9)),
            st.tuples(st.just("health"), st.integers(0, 1)),
            st.tuples(st.sampled_from(["attach", "detach"]), st.just(0)),
        ),
        max_size=60,
    )
)
def test_long_random_sequences_agree_with_the_second_opinion(steps: list[tuple[str, int]]) -> None:
    both = Both(deadline_ns=10, lease_ns=12)
    for step in steps:
        both.do(step)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["open", "expire", "health", "attach", "settle"]), st.integers(0, 5))))
def test_without_a_permit_nothing_is_ever_permitted(steps: list[tuple[str, int]]) -> None:
    gate = Gate(deadline_ns=3, lease_ns=5)
    now_ns = 0
    for index, (name, value) in enumerate(steps):
        now_ns += value
        if name == "open":
            gate.open(f"r{index}", value, 0, UTC, now_ns)
        elif name == "expire":
            gate.expire(now_ns)
        elif name == "health":
            gate.health(True, now_ns)
        elif name == "attach":
            gate.attach(now_ns)
        else:
            gate.settle(f"r{value}", now_ns)
    gate.expire(now_ns + 4)
    assert gate.permitted == 0
    assert not any(ended.answer.permitted for ended in gate.take_ended())
    assert gate.open_count == 0
