"""The search over gate, line process and registers holds, and finds what it must when one of them is broken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edge_daemon.line.gate import Gate
from edge_daemon.line.process import LineProcess
from edge_daemon.line.registers import Registers
from edge_daemon.line.wire import ResultNote
from edge_daemon.testing import model_check
from edge_daemon.testing.model_check import Violation, check
from edge_daemon.tickets import Ticket

QUICK = 6_000


@pytest.mark.slow
def test_every_state_within_reach_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert model_check.main(["--states", str(QUICK), "--json"]) == 4  # not complete: that takes longer than a test may
    found = json.loads(capsys.readouterr().out)
    assert found["states"] >= QUICK
    assert found["depth"] >= 5
    assert found["openings"] > 20  # the gate does open


def test_one_part_after_another_behind_a_full_queue_holds() -> None:
    found = check(2, QUICK // 4, begin=FULL_QUEUE)
    assert found.states >= QUICK // 4


FULL_QUEUE = ("trigger of part 2", "the PLC polls", "decline of ticket 1", "ticket 1 is settled", "trigger of part 1")


BEHIND_IT = (*FULL_QUEUE, "the PLC restarts", "the PLC polls")
NO_ROOM = (
    "trigger of part 2", "the PLC polls", "decline of ticket 1", "trigger of part 1", "the PLC restarts",
    "permit for ticket 2",
)  # fmt: skip
ORPHAN = ("the daemon dies", "trigger of part 1")


def _nothing(*_: Any, **__: Any) -> None:
    """A step that is left out."""


def _always(*_: Any) -> bool:
    return True


def _without(reason: str) -> Any:
    """Gate._objection that does not know one reason."""
    real = Gate._objection

    def objection(gate: Gate, *arguments: Any) -> str:
        found = real(gate, *arguments)
        return "" if found == reason else found

    return objection


def _accepted_without_withdrawing(registers: Registers, ticket: Ticket) -> None:
    registers._part_id = ticket.part_id
    registers._open.add(ticket.record_id)
    registers._trigger_ack = True


@pytest.mark.parametrize(
    ("where", "name", "broken", "words", "begin"),
    [
        (Gate, "ready", _always, "granted that must not be", ()),
        (Gate, "_objection", _without("OUT_OF_ORDER"), "granted that must not be", ()),
        (Gate, "_objection", _without("WRONG_PART"), "granted that must not be", ()),
        (
            Gate,
            "_objection",
            _without("RESTARTED"),
            "granted that must not be",
            ("the daemon dies", "trigger of part 1"),
        ),
        (Gate, "detach", lambda gate, now_ns: setattr(gate, "_session", None), "without an answer|must not be", ()),
        (Gate, "end_all", _nothing, "without an answer|must not be", ()),
        (LineProcess, "_announce", _nothing, "answer", ()),
        (Registers, "refused", _nothing, "never had a ticket", NO_ROOM),
        (Registers, "accepted", _accepted_without_withdrawing, "without its own PASS", BEHIND_IT),
    ],
)
def test_what_is_broken_is_found_with_a_way_to_it(
    monkeypatch: pytest.MonkeyPatch, where: type, name: str, broken: Any, words: str, begin: Sequence[str]
) -> None:
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(Violation, match=words) as caught:
        check(2, QUICK, begin=begin)
    assert 0 < len(caught.value.trace) <= 8


def _permit_unseen(registers: Registers, ticket: Ticket, note: ResultNote, now_ns: int) -> bool:
    """Registers.permit without its own look at deadline and note: the gate stands alone then."""
    return REAL_PERMIT(registers, replace(ticket, deadline_ns=now_ns + 1), ResultNote("PASS"), now_ns)


REAL_PERMIT = Registers.permit


@pytest.mark.parametrize(
    ("name", "broken", "last"),
    [
        ("expire", _nothing, "permit for ticket 1"),
        ("_objection", _without("NOT_PASS"), "permit for ticket 1 as a FAIL"),
    ],
)
def test_deadline_and_note_are_looked_at_twice_and_the_loss_of_both_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, broken: Any, last: str
) -> None:
    monkeypatch.setattr(Gate, name, broken)
    monkeypatch.setattr(Registers, "permit", _permit_unseen)
    assert model_check.main(["--states", str(QUICK)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("VIOLATION: ")
    assert lines[-1].endswith(f". {last}")
