"""WIRE.md is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import edge_daemon.line
from edge_daemon.line.ascii import FIELDS, MAX_TELEGRAM, PASS_WORD, TelegramReader, encode, is_permit
from edge_daemon.line.gate import ENDED_REASONS
from edge_daemon.line.wire import (
    CLIENT_READS,
    CLIENT_WRITES,
    COILS,
    DISCRETE_INPUTS,
    HOLDING_REGISTERS,
    INPUT_REGISTERS,
    OUTCOMES,
    REASON_OTHER,
    REASONS,
    SEVERITY_NONE,
    ResultNote,
    reason_word,
    severity_word,
)

TEXT = (Path(edge_daemon.line.__file__).parent / "WIRE.md").read_text(encoding="utf-8")


def table(heading: str) -> dict[str, str]:
    """First two columns of the table that follows the line starting with ``heading``: second -> first."""
    lines = iter(TEXT.splitlines())
    next(line for line in lines if line.startswith(heading))
    rows: dict[str, str] = {}
    for line in lines:
        if line.startswith("|"):
            first, second, *_ = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
            rows[second] = first
        elif rows:
            break
    return {second: first for second, first in rows.items() if first != "---" and first.isdigit()}


def test_register_map() -> None:
    for heading, names in (
        ("Discrete inputs (", DISCRETE_INPUTS),
        ("Input registers (", INPUT_REGISTERS),
        ("Coils (", COILS),
        ("Holding registers (", HOLDING_REGISTERS),
    ):
        assert {name: int(address) for name, address in table(heading).items()} == names
        assert list(names.values()) == list(range(len(names)))  # the driver answers by position


def test_registers_of_the_client() -> None:
    found = {name: int(at) for name, at in table("| offset | word").items()}
    assert found == {**CLIENT_WRITES, "Control": 6, "PartId (of the trigger)": 7, "Recipe": 8}
    assert CLIENT_READS == {"Control": 6, "PartId": 7, "Recipe": 8}


def test_outcomes_and_reasons() -> None:
    assert {code: int(number) for code, number in table("## Outcomes").items()} == OUTCOMES
    assert {code: int(number) for code, number in table("## Reasons").items()} == REASONS
    assert f"{REASON_OTHER} any other" in TEXT
    assert len(set(REASONS.values())) == len(REASONS)
    assert set(ENDED_REASONS) <= REASONS.keys()
    assert {"INTERRUPTED", "RECIPE", "BUG", "SELF_TEST"} <= REASONS.keys()
    assert reason_word("RECIPE") == 31
    assert f"{SEVERITY_NONE} = not measured" in TEXT


def test_telegram_formats() -> None:
    rows = re.findall(r"^\| ([A-Z]) \| (seq \(4\).*?) \|", TEXT, re.MULTILINE)
    described = {
        kind: tuple(
            (name, 0 if width == "text" else int(width)) for name, width in re.findall(r"(\w+) \((\d|text)\)", fields)
        )
        for kind, fields in rows
    }
    assert described == FIELDS
    assert f"at most {MAX_TELEGRAM} bytes" in TEXT
    assert f"word is {PASS_WORD:04X}, not_word its complement {PASS_WORD ^ 0xFFFF:04X}" in TEXT


def test_examples() -> None:
    examples = re.findall(r"^    (\$.*)$", TEXT, re.MULTILINE)
    found = list(TelegramReader().feed("".join(f"{line}\r\n" for line in examples).encode()))
    assert {kind for kind, _ in found} == FIELDS.keys()
    assert [encode(kind, **values).decode().strip() for kind, values in found] == examples
    assert [kind for kind, values in found if is_permit(kind, values)] == ["P"]


def test_words() -> None:
    assert reason_word("") == 0
    assert reason_word("SOMETHING_NEW") == REASON_OTHER
    assert [severity_word(value) for value in (-1, 0, 46, 65534, 65535, 70000)] == [65535, 0, 46, 65534, 65535, 65534]


def test_a_note_beside_a_reject_never_says_pass() -> None:
    assert ResultNote("PASS").is_pass
    assert not ResultNote("PASS", unknown=True).is_pass
    assert not ResultNote("FAIL").is_pass
    assert ResultNote("PASS", "", 12).without_pass() == ResultNote("NOT_EVALUABLE", "NO_PASS", 12)
    assert ResultNote("FAIL", "X").without_pass() == ResultNote("FAIL", "X")
