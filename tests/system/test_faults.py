"""The fault campaign, short: on simulated time, and a few faults at real processes. ``make faults`` is the long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_daemon.line.gate import Gate
from edge_daemon.line.registers import Registers
from edge_daemon.line.wire import ResultNote
from edge_daemon.testing import faults
from edge_daemon.testing.fault_kinds import KINDS
from edge_daemon.testing.fault_report import percentile, report, totals
from edge_daemon.testing.fault_simulation import simulate
from edge_daemon.tickets import GateAnswer, Ticket


@pytest.mark.slow
def test_parts_on_simulated_time() -> None:
    found = simulate(3_000, seed=5, parts_a_fault=60)
    assert (found["wrong"], found["missing"], found["doubled"]) == (0, 0, 0)
    assert found["let_through"] > 1_000
    assert sum(found["faults"].values()) > 25


def test_a_gate_without_scruples_and_its_driver_are_found_on_simulated_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The campaign can fail. One of the two alone does no harm: the other one refuses."""
    real_permit, real_show = Gate.permit, Registers.permit

    def permit(gate: Gate, record_id: str, part_id: int, now_ns: int, *, is_pass: bool = True) -> GateAnswer:
        entry = gate._entries.get(record_id)
        if entry is not None and entry.answer is not None:
            entry.answer = None
            gate._open[record_id] = entry
        return real_permit(gate, record_id, part_id, now_ns, is_pass=is_pass)

    def show(registers: Registers, ticket: Ticket, note: ResultNote, now_ns: int) -> bool:
        registers._open.add(ticket.record_id)
        return real_show(registers, ticket, note, now_ns)

    monkeypatch.setattr(Gate, "permit", permit)
    monkeypatch.setattr(Gate, "_objection", lambda *_: "")
    monkeypatch.setattr(Registers, "permit", show)
    assert simulate(2_000, seed=5, parts_a_fault=60)["wrong"] > 0


@pytest.mark.slow
@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("driver", ["ascii"])
def test_a_few_faults_at_real_processes(tmp_path: Path, driver: str) -> None:
    kinds = ["daemon SIGKILL", "line SIGSTOP", "engine returns NaN", "cable pulled", "database locked"]
    only = [word for kind in kinds for word in ("--only", kind)]
    arguments = ["--out", str(tmp_path), "--faults", "5", "--seconds", "40", "--seed", "7", "--driver", driver, *only]
    assert faults.main(arguments) == 0, (tmp_path / "report.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert sum("kind" in line for line in lines) >= 3
    found = totals(tmp_path, lines)
    assert found["let_through"] >= 3
    assert found["records"] >= found["triggers"] - found["unnoted"] - 5


def test_the_report_counts_what_must_not_be(tmp_path: Path) -> None:
    fault = {"kind": "cable pulled", "held_s": 1.0, "ready_s": 0.5, "passed_s": 0.75, "wrong": 1, "missing": 0,
             "doubled": 0, "unproven": 2, "unnoted": 0, "parts": 4, "first_part": 1}  # fmt: skip
    shift = {"shift": True, "triggers": 4, "let_through": 1, "records": 4, "wrong": 1, "missing": 0, "doubled": 0,
             "unproven": 2, "unnoted": 0, "messages_lost": 0, "messages_doubled": 0, "messages_strange": 0,
             "messages_repeated": 1, "pending": 0, "daemon_starts": 1, "chain_faults": []}  # fmt: skip
    text = report(tmp_path, [fault, shift])
    assert "| cable pulled | 1 | 1 | 0 / 0 | 2 | 0 | 0.50 / 0.50 | 0.75 / 0.75 | 0 |" in text
    assert totals(tmp_path, [fault, shift])["bad"] == 1
    assert totals(tmp_path, [{**fault, "passed_s": None, "wrong": 0}, {**shift, "wrong": 0}])["bad"] == 1
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]


def test_every_kind_of_the_list_is_there() -> None:
    words = " ".join(KINDS)
    for word in ("unplugged", "frozen", "wrong size", "hangs", "NaN", "bundle", "broker down", "refuses login", "slow",
                 "cable", "garbage", "silent", "full", "refuses writes", "locked", "clock", "SIGKILL", "SIGSTOP",
                 "memory", "config", "power cut"):  # fmt: skip
        assert word in words
