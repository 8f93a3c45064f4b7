"""A file of the first schema opens, keeps everything, and is sealed as it was found."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_daemon.errors import StorageError
from edge_daemon.memory import MemoryBank, schema
from edge_daemon.records import Outcome, Record
from edge_daemon.tickets import new_record_id, utc_now

#: The tables of schema 1, as the first release made them.
SCHEMA_1 = """
CREATE TABLE tickets (record_id TEXT NOT NULL PRIMARY KEY, part_id INTEGER NOT NULL, station TEXT NOT NULL,
    trigger_utc TEXT NOT NULL, trigger_ns INTEGER NOT NULL, boot_id TEXT NOT NULL, draft TEXT) STRICT, WITHOUT ROWID;
CREATE TABLE records (number INTEGER PRIMARY KEY AUTOINCREMENT, record_id TEXT NOT NULL UNIQUE, part_id INTEGER,
    station TEXT NOT NULL, trigger_utc TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('PASS', 'INCONCLUSIVE', 'FAIL', 'NOT_EVALUABLE')),
    result TEXT NOT NULL CHECK (result IN ('PASS', 'FAIL')), reasons TEXT NOT NULL, document TEXT NOT NULL,
    pictures TEXT, created_utc TEXT NOT NULL, CHECK (result = 'FAIL' OR outcome = 'PASS')) STRICT;
CREATE INDEX records_by_outcome ON records (outcome, result);
CREATE INDEX records_by_trigger ON records (trigger_utc);
CREATE TABLE record_types (type TEXT NOT NULL, number INTEGER NOT NULL REFERENCES records (number) ON DELETE CASCADE,
    PRIMARY KEY (type, number)) STRICT, WITHOUT ROWID;
CREATE INDEX record_types_by_number ON record_types (number);
CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, record_id TEXT NOT NULL REFERENCES records (record_id),
    topic TEXT NOT NULL, payload BLOB NOT NULL, created_utc TEXT NOT NULL, event_ns INTEGER NOT NULL,
    boot_id TEXT NOT NULL) STRICT;
CREATE INDEX outbox_by_record ON outbox (record_id);
CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), written_utc TEXT NOT NULL) STRICT;
PRAGMA application_id = 0x45444745;
PRAGMA user_version = 1;
"""

DOCUMENT: dict[str, Any] = {
    "recipe": "housing-a", "outcome": "FAIL", "advisory": True, "message": "µ is kept",
    "reasons": [{"code": "SIZE", "text": "too large"}],
    "defects": [
        {"label": 1, "type": "crack", "known": True, "confidence": 0.9, "p_known": 0.5, "nearest_type": "crack",
         "bbox_px": [10, 20, 30, 4], "area_mm2": 0.8, "area_u_mm2": 0.05, "feret_max_mm": 3.1, "feret_u_mm": 0.04},
        {"label": 255, "type": "unknown", "known": False, "confidence": 0.6, "p_known": 0.001,
         "nearest_type": "gas_hole", "bbox_px": [1, 2, 3, 4], "area_mm2": None, "feret_max_mm": None},
    ],
    "working": {"size_px": [400, 200], "mm_per_px": [0.1, 0.1]},
    "engine": {"name": "castings", "sha256": "e" * 64}, "timings_ms": {"segment": 61.5},
}  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Five records (the fourth deleted since), one message waiting of three, an open ticket with its draft."""
    path = tmp_path / "old.db"
    db = sqlite3.connect(path)
    db.executescript(SCHEMA_1)
    db.execute("PRAGMA foreign_keys = ON")
    for number in range(1, 6):
        outcome = "PASS" if number % 2 else "FAIL"
        document = json.dumps(DOCUMENT if outcome == "FAIL" else {"recipe": "housing-a", "reasons": [], "defects": []})
        db.execute(
            "INSERT INTO records (record_id, part_id, station, trigger_utc, outcome, result, reasons, document,"
            " pictures, created_utc) VALUES (?, ?, 'cell-1', ?, ?, ?, ?, ?, ?, ?)",
            (f"record-{number}", number, f"2026-03-0{number}T08:00:00.000Z", outcome, outcome, "[]", document,
             f"/pictures/record-{number}", f"2026-03-0{number}T08:00:00.100Z"),
        )  # fmt: skip
        db.executemany(
            "INSERT INTO record_types VALUES (?, ?)", [("crack", number), ("unknown", number)] * (outcome == "FAIL")
        )
    db.execute("DELETE FROM records WHERE number = 4")
    for seq in range(1, 4):
        db.execute("INSERT INTO outbox VALUES (?, 'record-5', 't', x'7b7d', 'now', 5, 'boot')", (seq,))
    db.execute("DELETE FROM outbox WHERE seq <> 2")
    db.execute("INSERT INTO tickets VALUES ('open', 9, 'cell-1', 'then', 5, 'boot', '{\"a\": 1}')")
    db.commit()
    db.close()
    return path


def test_everything_is_still_there(old: Path) -> None:
    with MemoryBank(old) as bank:
        records = bank.history()
        assert [(one.number, one.record_id, one.part_id) for one in records] == [
            (5, "record-5", 5), (3, "record-3", 3), (2, "record-2", 2), (1, "record-1", 1),
        ]  # fmt: skip
        two = records[2]
        assert two.document == DOCUMENT
        assert (two.types, two.recipe, two.advisory, two.indications) == (("crack", "unknown"), "housing-a", True, 2)
        assert (two.created_utc, two.pictures) == ("2026-03-02T08:00:00.100Z", "/pictures/record-2")
        crack, unknown = bank.indications(2)
        assert (crack.type, crack.area_mm2, crack.feret_u_mm, crack.bbox_px) == ("crack", 0.8, 0.04, (10, 20, 30, 4))
        assert crack.coverage_pct == pytest.approx(100 * 0.8 / (40 * 20))
        assert (unknown.known, unknown.nearest_type, unknown.coverage_pct) == (False, "gas_hole", None)
        assert bank.unfinished_tickets()[0].draft == {"a": 1}
        assert [message.seq for message in bank.pending(10)] == [2]
        assert [one.key for one in bank.statistics("day")] == ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-05"]


def test_no_number_is_used_again(old: Path) -> None:
    with MemoryBank(old) as bank:
        bank.store(Record(new_record_id(), 1, "cell-1", utc_now(), Outcome.FAIL, "FAIL", {}), "t", b"{}")
        assert bank.pending(10)[-1].seq == 4
        assert bank.history(limit=1)[0].number > 6, "5 records, one deleted, and the row that says so"


def test_the_chain_seals_what_was_found(old: Path) -> None:
    with MemoryBank(old) as bank:
        verified = bank.verify()
        assert verified.ok
        assert (verified.records, verified.rows) == (4, 5)
        (note,) = bank.notes(kind="migrated")
        assert note.body == {"records": 4}
    with MemoryBank(old, read_only=True) as bank:
        assert bank.counts().records == 4, "the second opening finds nothing left to do"


def test_a_fresh_file_and_a_migrated_one_have_the_same_tables(old: Path, tmp_path: Path) -> None:
    MemoryBank(old).close()
    MemoryBank(tmp_path / "new.db").close()
    found = []
    for path in (old, tmp_path / "new.db"):
        db = sqlite3.connect(path)
        found.append(sorted(db.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")))
        assert db.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA_VERSION,)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()
    assert found[0] == found[1]


def test_a_reader_does_not_migrate_and_says_who_does(old: Path) -> None:
    before = old.read_bytes()
    with pytest.raises(StorageError, match="schema 1") as caught:
        MemoryBank(old, read_only=True)
    assert caught.value.code == "SCHEMA_OLDER"
    assert old.read_bytes() == before


def test_the_preflight_leaves_it_to_the_daemon(old: Path) -> None:
    """``check`` may run beside a daemon of the older program, under which the tables must not be changed."""
    from edge_daemon.check import _disk

    before = old.read_bytes()
    memory = SimpleNamespace(database=old, pictures=old.parent, min_free_bytes=0)
    assert "brings it up to date" in _disk(SimpleNamespace(memory=memory))  # type: ignore[arg-type]
    assert old.read_bytes() == before
    MemoryBank(old).close()
    assert "can be written" in _disk(SimpleNamespace(memory=memory))  # type: ignore[arg-type]


def test_a_migration_that_fails_leaves_the_old_file(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = sqlite3.connect(old)
    db.execute("UPDATE records SET document = 'no JSON' WHERE number = 5")
    db.commit()
    rows = db.execute("SELECT * FROM records").fetchall()
    db.close()
    with pytest.raises(StorageError, match="record-5") as caught:
        MemoryBank(old)
    assert caught.value.code == "CORRUPT"
    db = sqlite3.connect(old)
    assert db.execute("SELECT * FROM records").fetchall() == rows
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    db.execute("UPDATE records SET document = '{}' WHERE number = 5")
    db.commit()
    db.close()
    with MemoryBank(old) as bank:
        assert bank.verify().records == 4


def test_every_table_is_described() -> None:
    tables = [statement.split()[2] for statement in schema.statements() if statement.startswith("CREATE TABLE")]
    assert len(tables) == 17
    for table in tables:
        assert re.search(rf"^    .*\b{table}\b", schema.__doc__ or "", re.MULTILINE), table
