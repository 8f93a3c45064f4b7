"""What the record says when judge and gate disagree."""

from __future__ import annotations

import pytest

from edge_daemon.inspection import not_evaluable
from edge_daemon.judge import Verdict
from edge_daemon.pipeline import final_verdict
from edge_daemon.records import Outcome, Record
from edge_daemon.tickets import GateAnswer

PASSED = Verdict(Outcome.PASS, (), ())


def test_pass_is_pass_only_when_the_gate_opened() -> None:
    assert final_verdict(PASSED, GateAnswer(True, "", 1)).outcome is Outcome.PASS


@pytest.mark.parametrize("answer", [None, GateAnswer(False, "LATE", 1), GateAnswer(False, "LINE_LOST", 1)])
def test_a_pass_the_gate_did_not_obey_is_not_evaluable_with_its_reason(answer: GateAnswer | None) -> None:
    verdict = final_verdict(PASSED, answer)
    assert verdict.outcome is Outcome.NOT_EVALUABLE
    assert verdict.result == "FAIL"
    assert verdict.reasons[0].code == (answer.reason if answer else "NO_ANSWER")


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.NOT_EVALUABLE])
def test_nothing_turns_another_outcome_into_pass(outcome: Outcome) -> None:
    verdict = Verdict(outcome, (), ())
    assert final_verdict(verdict, GateAnswer(True, "", 1)).outcome is outcome


def test_a_record_cannot_say_pass_without_the_outcome() -> None:
    with pytest.raises(ValueError, match="result PASS"):
        Record("r", 1, "s", "t", Outcome.FAIL, "PASS", {})
    assert not_evaluable("X", "y").result == "FAIL"
