"""The audit chain: what is changed, deleted or put in is found and named; what retention removes is accounted for."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_daemon.errors import UsageError
from edge_daemon.memory import MemoryBank, Policy
from edge_daemon.memory.chain import canonical_json, packed
from edge_daemon.records import Outcome, Record
from edge_daemon.tickets import new_record_id, utc_now


def record(part_id: int, **document: Any) -> Record:
    defects = [{"label": 1, "type": "crack", "known": True, "confidence": 0.9, "bbox_px": [1, 2, 3, 4]}] * (part_id % 2)
    outcome = Outcome.FAIL if defects else Outcome.PASS
    whole = {"recipe": "housing", "reasons": [], "defects": defects, "part": part_id, **document}
    return Record(new_record_id(), part_id, "cell-1", utc_now(), outcome, outcome.result, whole)


@pytest.fixture
def bank(tmp_path: Path) -> Any:
    with MemoryBank(tmp_path / "memory.db") as opened:
        for part_id in range(1, 11):
            opened.store(record(part_id))
        yield opened


def tamper(bank: MemoryBank, *statements: str) -> None:
    db = sqlite3.connect(bank.path, isolation_level=None)
    for statement in statements:
        db.execute(statement)
    db.close()


def test_each_row_carries_the_hash_of_the_one_before(bank: MemoryBank) -> None:
    """Computed here a second time, from what the documentation says and nothing else."""
    db = sqlite3.connect(bank.path)
    previous = bytes(32)
    for row in db.execute(
        "SELECT r.number, previous_sha256, sha256, record_id, part_id, station, recipe, session, trigger_utc, outcome,"
        " result, advisory, reasons, types, indications, pictures, created_utc FROM records r ORDER BY number"
    ):
        names = ("record_id", "part_id", "station", "recipe", "session", "trigger_utc", "outcome", "result", "advisory",
                 "reasons", "types", "indications", "pictures", "created_utc")  # fmt: skip
        stored = bank.get(row[3])
        assert stored is not None
        text = json.dumps(stored.document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        said = {
            **dict(zip(names, row[3:], strict=True)), "kind": "record", "number": row[0],
            "previous_sha256": previous.hex(), "document_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }  # fmt: skip
        assert row[1] == previous
        line = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        previous = hashlib.sha256(line.encode()).digest()
        assert row[2] == previous
        assert stored.sha256 == previous.hex()
    db.close()
    assert bank.head() == f"10:{previous.hex()}"


def test_an_untouched_bank_holds(bank: MemoryBank) -> None:
    seen: list[tuple[int, int]] = []
    verified = bank.verify(progress=lambda *at: seen.append(at))
    assert (verified.ok, verified.rows, verified.records, verified.removed_records) == (True, 10, 10, 0)
    assert verified.head == bank.head()
    assert seen[-1] == (10, 10)
    with MemoryBank(bank.path, read_only=True) as reader:
        assert reader.verify().ok


def _forged_document(bank: MemoryBank) -> None:
    db = sqlite3.connect(bank.path, isolation_level=None)
    stored = bank.history(before=6, limit=1)[0].document
    db.execute("UPDATE documents SET document = ? WHERE number = 5", (packed(canonical_json({**stored, "part": 99})),))
    db.close()


CHANGES: dict[str, tuple[Callable[[MemoryBank], None], int, str]] = {
    "outcome": (lambda b: tamper(b, "UPDATE records SET outcome = 'INCONCLUSIVE' WHERE number = 5"), 5, "changed"),
    "part": (lambda b: tamper(b, "UPDATE records SET part_id = 77 WHERE number = 1"), 1, "changed"),
    "last": (lambda b: tamper(b, "UPDATE records SET station = 'x' WHERE number = 10"), 10, "changed"),
    "pictures": (lambda b: tamper(b, "UPDATE records SET pictures = '/x' WHERE number = 4"), 4, "changed"),
    "document": (_forged_document, 5, "changed"),
    "no document": (lambda b: tamper(b, "DELETE FROM documents WHERE number = 6"), 6, "changed"),
    "damaged document": (lambda b: tamper(b, "UPDATE documents SET document = x'00' WHERE number = 6"), 6, "changed"),
    "its own hash": (lambda b: tamper(b, "UPDATE records SET sha256 = zeroblob(32) WHERE number = 5"), 5, "changed"),
    "one row": (lambda b: tamper(b, "DELETE FROM records WHERE number = 5"), 5, "deleted"),
    "three rows": (lambda b: tamper(b, "DELETE FROM records WHERE number IN (5, 6, 7)"), 5, "deleted"),
    "first row": (lambda b: tamper(b, "DELETE FROM records WHERE number = 1"), 1, "deleted"),
    "last row": (lambda b: tamper(b, "DELETE FROM records WHERE number = 10"), 10, "deleted"),
    "all rows": (lambda b: tamper(b, "DELETE FROM records"), 1, "deleted"),
    "beyond": (
        lambda b: tamper(
            b,
            "INSERT INTO records SELECT 11, 'forged', part_id, station, recipe, group_id, session, trigger_utc,"
            " outcome, result, advisory, reasons, types, indications, pictures, pictures_bytes, pictures_removed,"
            " created_utc, previous_sha256, sha256 FROM records WHERE number = 10",
        ),
        11,
        "inserted",
    ),
    "the end": (lambda b: tamper(b, "UPDATE chain SET sha256 = zeroblob(32)"), 10, "end"),
    "an indication": (lambda b: tamper(b, "UPDATE detections SET type = 'scratches' WHERE number = 5"), 5, "derived"),
    "an indication gone": (lambda b: tamper(b, "DELETE FROM detections WHERE number = 5"), 5, "derived"),
    "a foreign indication": (
        lambda b: tamper(b, "UPDATE detections SET number = 6 WHERE number = 5"), 5, "derived"
    ),
    "a type": (lambda b: tamper(b, "UPDATE record_types SET type = 'fray' WHERE number = 5"), 0, "derived"),
    "a group": (lambda b: tamper(b, "UPDATE record_groups SET records = records + 1"), 0, "derived"),
    "totals": (lambda b: tamper(b, "UPDATE chain SET records = 9"), 0, "derived"),
    "a marker": (lambda b: tamper(b, "UPDATE records SET pictures_removed = 3 WHERE number = 5"), 3, "derived"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found_and_the_first_row_is_named(bank: MemoryBank, name: str) -> None:
    change, number, what = CHANGES[name]
    change(bank)
    verified = bank.verify()
    assert not verified.ok
    assert (verified.faults[0].number, verified.faults[0].what) == (number, what), verified.faults


def test_a_forger_who_mends_one_hash_is_found_at_the_next(bank: MemoryBank) -> None:
    """The row is consistent in itself; that it is another one shows in what follows from it."""
    with MemoryBank(bank.path.with_name("other.db")) as other:
        for one in reversed(bank.history()):
            document = one.document if one.number != 5 else {**one.document, "part": 99}
            other.store(
                Record(one.record_id, one.part_id, one.station, one.trigger_utc, one.outcome, one.result, document)
            )
    tamper(
        bank,
        f"ATTACH '{bank.path.with_name('other.db')}' AS other",
        "UPDATE documents SET document = (SELECT document FROM other.documents WHERE number = 5) WHERE number = 5",
        "UPDATE records SET created_utc = (SELECT created_utc FROM other.records o WHERE o.number = 5),"
        " previous_sha256 = (SELECT previous_sha256 FROM other.records o WHERE o.number = 5),"
        " sha256 = (SELECT sha256 FROM other.records o WHERE o.number = 5) WHERE number = 5",
    )
    faults = bank.verify().faults
    assert faults[0].number in (4, 5)
    assert faults[0].what == "changed"


def test_a_whole_new_chain_is_found_by_an_end_that_was_noted(bank: MemoryBank, tmp_path: Path) -> None:
    noted = bank.head()
    assert bank.verify(expect=noted).ok
    with MemoryBank(tmp_path / "forged.db") as forged:
        for part_id in range(1, 12):
            forged.store(record(part_id))
        assert forged.verify().ok, "without an end noted elsewhere nobody can tell"
        (fault,) = forged.verify(expect=noted).faults
        assert (fault.number, fault.what) == (10, "changed")
    with pytest.raises(UsageError, match="no end of a chain"):
        bank.verify(expect="10:zz")


@pytest.fixture
def aged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Records 1 to 6 and 8 to 10 of long ago, 7 with a word of feedback, then a note, then two of today."""
    with MemoryBank(tmp_path / "aged.db") as bank:
        with monkeypatch.context() as then:
            then.setattr("edge_daemon.memory.journal.utc_now", lambda: "2001-01-01T00:00:00.000Z")
            for part_id in range(1, 11):
                one = record(part_id)
                object.__setattr__(one, "trigger_utc", "2001-01-01T00:00:00.000Z")
                bank.store(one, pictures=f"/pictures/{part_id}", pictures_bytes=100)
        bank.feedback(bank.history(part_id=7)[0].record_id, "confirm", who="Ada")
        bank.store(record(11))
        bank.store(record(12))
        yield bank


def test_what_retention_removes_is_accounted_for(aged: MemoryBank) -> None:
    noted = aged.head()
    done = aged.clean(Policy(records_days=30), who="Ada", why="the disk is small")
    assert done.records == 9
    assert [one.part_id for one in aged.history()] == [12, 11, 7]
    verified = aged.verify()
    assert verified.ok, verified.faults
    assert (verified.records, verified.removed_records) == (3, 9)
    (run,) = verified.removed
    assert (run.run, run.who, run.why, run.records, run.pictures) == (done.run, "Ada", "the disk is small", 9, 9)
    assert run.policy["records_days"] == 30
    assert aged.verify(expect=noted).ok, "an end from before the run still holds"
    assert aged.stats().counts.records == 3
    assert aged.stats().indications == 2, "those of 7 and 11"
    assert aged.clean(Policy(records_days=30), who="Ada").records == 0
    assert aged.store(record(13))
    assert aged.verify().ok


def test_a_removal_cannot_be_made_up_or_hidden(aged: MemoryBank) -> None:
    aged.clean(Policy(records_days=30), who="Ada")
    tamper(aged, "DELETE FROM records WHERE record_id = (SELECT record_id FROM records WHERE part_id = 11)")
    fault = aged.verify().faults[0]
    assert fault.what == "deleted"
    body = json.loads(sqlite3.connect(aged.path).execute("SELECT body FROM audit WHERE kind = 'removed'").fetchone()[0])
    assert sum(span["count"] for span in body["spans"]) == 9
    assert [(span["first"], span["last"]) for span in body["spans"]] == [(1, 6), (8, 10)]
    body["spans"][1]["last"] = 12
    tamper(aged, f"UPDATE audit SET body = '{json.dumps(body)}' WHERE kind = 'removed'")
    assert not aged.verify().ok


@pytest.mark.parametrize("consistent", [True, False])
def test_a_record_put_into_a_gap_is_named(aged: MemoryBank, consistent: bool) -> None:
    """Retention has left a gap; somebody fills it, even with a row that follows from the one before."""
    before = sqlite3.connect(aged.path).execute("SELECT * FROM records WHERE number = 1").fetchone()
    document = sqlite3.connect(aged.path).execute("SELECT document FROM documents WHERE number = 1").fetchone()[0]
    aged.clean(Policy(records_days=30), who="Ada")
    db = sqlite3.connect(aged.path, isolation_level=None)
    row = before if consistent else (3, *before[1:])
    db.execute(f"INSERT INTO records VALUES ({', '.join('?' * len(row))})", row)
    db.execute("INSERT INTO documents VALUES (?, ?)", (row[0], document))
    db.close()
    (fault,) = aged.verify().faults
    assert (fault.number, fault.what) == (row[0], "inserted")


def test_words_of_people_are_in_the_chain(bank: MemoryBank) -> None:
    one = bank.history(part_id=5)[0]
    bank.feedback(one.record_id, "false_call", who="Ada", why="a mark of the fixture", position=0)
    bank.edit_pattern("crack", who="Bo", why="our castings", title="Hairline")
    bank.note("recipe_changed", "housing.toml", who="Cy", why="new customer", body={"level": [5, 4]})
    verified = bank.verify()
    assert (verified.ok, verified.rows, verified.records) == (True, 13, 10)
    kinds = [note.kind for note in bank.notes()]
    assert kinds == ["recipe_changed", "pattern", "feedback"]
    assert bank.notes(kind="recipe_changed")[0].body == {"level": [5, 4]}
    for statement, number in (
        ("UPDATE feedback SET who = 'Eve'", 11),
        ("UPDATE feedback SET verdict = 'confirm'", 11),
        ("DELETE FROM feedback", 11),
        ("UPDATE patterns SET title = 'nothing'", 0),
        ("UPDATE audit SET why = 'no reason' WHERE number = 13", 13),
    ):
        copy = bank.path.with_name(f"copy-{abs(hash(statement))}.db")
        source = sqlite3.connect(bank.path)
        target = sqlite3.connect(copy, isolation_level=None)
        source.backup(target)
        target.execute(statement)
        target.close()
        source.close()
        with MemoryBank(copy, read_only=True) as forged:
            faults = forged.verify().faults
            assert faults and faults[0].number == number, statement


@pytest.mark.parametrize("kind", ["feedback", "record", "no word", ""])
def test_nobody_notes_what_the_bank_writes_itself(bank: MemoryBank, kind: str) -> None:
    with pytest.raises(UsageError, match="cannot be noted"):
        bank.note(kind, "x", who="Eve", why="because")
    assert bank.notes() == []


def test_storing_goes_on_while_somebody_verifies(bank: MemoryBank) -> None:
    stored: list[bool] = []
    verified = bank.verify(progress=lambda *_: stored.append(bank.store(record(len(stored)))))
    assert verified.ok
    assert verified.rows == 10
    assert stored == [True]
