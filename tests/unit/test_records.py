"""What travels along the line: records, outcomes and tickets."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
import uuid
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from edge_daemon import records, tickets
from edge_daemon.records import (
    TYPE_IDS,
    UNKNOWN_LABEL,
    UNKNOWN_MESSAGE,
    UNKNOWN_TYPE,
    Frame,
    Outcome,
    Reason,
    Record,
    Region,
    Segmentation,
    read_only,
)
from edge_daemon.tickets import GateAnswer, Ticket, new_record_id, utc_now


def record(outcome: Outcome, result: str) -> Record:
    return Record("id", 7, "station 1", utc_now(), outcome, result, {"a": 1})


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_the_outcome_pass_is_pass_on_the_wire(outcome: Outcome) -> None:
    assert outcome.result == ("PASS" if outcome is Outcome.PASS else "FAIL")
    assert str(outcome) == outcome.value == f"{outcome}"


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.PASS])
def test_a_record_cannot_say_pass_for_anything_else(outcome: Outcome) -> None:
    assert record(outcome, "FAIL").result == "FAIL"
    with pytest.raises(ValueError, match="result PASS"):
        record(outcome, "PASS")


def test_a_record_that_passed_may_still_have_been_rejected_by_the_gate() -> None:
    assert record(Outcome.PASS, "PASS").result == "PASS"
    assert record(Outcome.PASS, "FAIL").result == "FAIL"


@pytest.mark.parametrize("result", ["", "pass", "Pass", "OK", "INCONCLUSIVE", "NOT_EVALUABLE"])
def test_a_result_is_one_of_two_words(result: str) -> None:
    with pytest.raises(ValueError, match="result"):
        record(Outcome.PASS, result)


def test_a_record_does_not_print_its_document() -> None:
    assert "'a'" not in repr(record(Outcome.PASS, "PASS"))


def test_labels_have_names() -> None:
    seen = Segmentation(np.zeros((2, 2), np.uint8), None, ("crack", "gas_hole"))
    assert [seen.name_of(label) for label in (1, 2, UNKNOWN_LABEL)] == ["crack", "gas_hole", UNKNOWN_TYPE]


@pytest.mark.parametrize("label", [0, -1, 3, 254])
def test_a_label_without_a_name_gets_none(label: int) -> None:
    """Sound (0) is no type; counting from the end of the list would call it by the last one."""
    seen = Segmentation(np.zeros((2, 2), np.uint8), None, ("crack", "gas_hole"))
    with pytest.raises((ValueError, IndexError, KeyError)):
        seen.name_of(label)


def test_type_identifiers_are_those_of_the_contract() -> None:
    assert len(set(TYPE_IDS)) == len(TYPE_IDS)
    assert UNKNOWN_TYPE not in TYPE_IDS
    contract = """gas_hole gas_porosity_round gas_porosity_elongated shrinkage_cavity shrinkage_sponge
        shrinkage_dendritic shrinkage_filamentary foreign_less_dense foreign_more_dense crack cold_shut
        crazing inclusion patches pitted_surface rolled_in_scale scratches blowhole break crack fray uneven"""
    assert set(TYPE_IDS) == set(contract.split())
    assert UNKNOWN_MESSAGE == "I was not trained on this type of defect"
    assert UNKNOWN_LABEL == 255


@pytest.mark.parametrize("one", [Frame, Segmentation, Region, Record, Reason, Ticket, GateAnswer])
def test_what_is_handed_over_cannot_be_changed(one: type) -> None:
    assert dataclasses.is_dataclass(one)
    assert one.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__dict__" not in dir(one)  # slotted: a misspelt name is an error and not a new attribute


def test_read_only_hands_back_the_same_array_closed_for_writing() -> None:
    array = np.zeros(3)
    assert read_only(array) is array
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize("module", [records, tickets])
def test_all_names_exist(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        assert hasattr(module, name)


# --- record ids -------------------------------------------------------------------------------------------------------


def test_a_record_id_is_a_version_7_uuid_of_this_moment() -> None:
    before = time.time_ns() // 1_000_000
    text = new_record_id()
    after = time.time_ns() // 1_000_000
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before <= parsed.int >> 80 <= after


def test_record_ids_never_repeat_within_one_millisecond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets.time, "time_ns", lambda: 1_800_000_000_000_000_000)
    made = {new_record_id() for _ in range(20_000)}
    assert len(made) == 20_000
    assert {uuid.UUID(text).int >> 80 for text in made} == {1_800_000_000_000}
    assert all(uuid.UUID(text).version == 7 and uuid.UUID(text).variant == uuid.RFC_4122 for text in made)


def test_every_random_bit_of_a_record_id_takes_both_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets.time, "time_ns", lambda: 1_800_000_000_000_000_000)
    some_one, some_zero = 0, 0
    for _ in range(200):
        value = uuid.UUID(new_record_id()).int
        some_one |= value
        some_zero |= ~value & (2**128 - 1)
    varying = some_one & some_zero
    assert varying == (2**76 - 1) ^ (0b11 << 62)  # 74 bits: all below the version, except the variant


def test_record_ids_sort_by_time_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for ms in (0, 1, 2**32, 1_700_000_000_000, 1_700_000_000_001, 2**44, 2**48 - 1):
        monkeypatch.setattr(tickets.time, "time_ns", lambda ms=ms: ms * 1_000_000 + 999_999)
        made.append(new_record_id())
    assert made == sorted(made)


def test_utc_now_is_iso_8601_with_milliseconds_in_utc() -> None:
    text = utc_now()
    assert len(text) == len("2026-01-31T08:15:30.250Z")
    assert text.endswith("Z")
    parsed = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    assert abs(datetime.now(timezone.utc) - parsed) < timedelta(seconds=5)


def test_utc_now_keeps_its_milliseconds_on_the_full_second(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullSecond(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2026, 1, 31, 8, 15, 30, tzinfo=timezone.utc)

    monkeypatch.setattr(tickets, "datetime", FullSecond)
    assert utc_now() == "2026-01-31T08:15:30.000Z"


def test_tickets_load_without_numpy() -> None:
    """The line process lives on tickets and errors; it must not carry an image library along."""
    code = (
        "import sys, edge_daemon.tickets, edge_daemon.errors; sys.exit('numpy' in sys.modules or 'cv2' in sys.modules)"
    )
    path = str(next(iter(__import__("edge_daemon").__path__)))[: -len("/edge_daemon")]
    assert subprocess.run([sys.executable, "-c", code], cwd=path, check=False).returncode == 0
