"""Retention: what may go goes, what must stay stays, whatever the clock or the database say."""

from __future__ import annotations

import sqlite3
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edge_daemon.errors import StorageError, UsageError
from edge_daemon.memory import MemoryBank, Policy, size_of_pictures
from edge_daemon.memory.retention import delete_pictures
from edge_daemon.records import Outcome, Record
from edge_daemon.tickets import new_record_id, utc_now

CRACK = {"label": 1, "type": "crack", "known": True, "confidence": 0.9, "bbox_px": [1, 2, 3, 4]}


def days_ago(days: float) -> str:
    moment = datetime.now(timezone.utc) - timedelta(days=days)
    return moment.isoformat(timespec="milliseconds")[:23] + "Z"


class Line:
    """Stores records as if it were another day."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.bank = MemoryBank(folder / "memory.db")
        self.part_id = 0

    def store(self, days: float, *, picture_bytes: int | None = 1000, padding: int = 0, measured: bool = True) -> str:
        """A record of ``days`` ago (negative: from the future), with a picture of this size where it is given."""
        self.part_id += 1
        record_id, utc = new_record_id(), days_ago(days)
        pictures = None
        if picture_bytes is not None:
            pictures = self.folder / "pictures" / utc[:10] / record_id
            pictures.mkdir(parents=True)
            (pictures / "frame.png").write_bytes(b"\x89" * picture_bytes)
        # Random text, so that it takes room in spite of being compressed.
        text = "".join(new_record_id() for _ in range(padding // 36))
        document = {"recipe": "r", "reasons": [], "defects": [CRACK] * (self.part_id % 2), "padding": text}
        record = Record(record_id, self.part_id, "cell-1", utc, Outcome.FAIL, "FAIL", document)
        with self._monkeypatch.context() as then:
            then.setattr("edge_daemon.memory.journal.utc_now", lambda: utc)
            self.bank.store(
                record, pictures=None if pictures is None else str(pictures),
                pictures_bytes=picture_bytes if measured else None,
            )  # fmt: skip
        return record_id

    def left(self) -> list[int | None]:
        return [one.part_id for one in reversed(self.bank.history(limit=10_000))]

    def with_pictures(self) -> list[int | None]:
        return [one.part_id for one in reversed(self.bank.history(limit=10_000)) if one.pictures is not None]


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Line(tmp_path, monkeypatch)
    yield made
    made.bank.close()


def test_pictures_go_before_records(line: Line) -> None:
    for days in (400, 200, 50, 5):
        line.store(days)
    done = line.bank.clean(Policy(records_days=365, pictures_days=30), who="test")
    assert (done.records, done.pictures, done.pictures_bytes) == (1, 3, 3000)
    assert line.left() == [2, 3, 4]
    assert line.with_pictures() == [4]
    gone = line.bank.history(limit=3)[1]
    assert (gone.pictures, gone.pictures_gone) == (None, True)
    assert sorted(path.name for path in (line.folder / "pictures").iterdir()) == [days_ago(5)[:10]]
    assert line.bank.stats().pictures_bytes == 1000
    assert line.bank.verify().ok
    assert line.bank.clean(Policy(records_days=365, pictures_days=30), who="test").pictures == 0


@pytest.mark.parametrize("measured", [True, False])
def test_by_size_the_oldest_pictures_go_first_and_then_the_oldest_records(line: Line, measured: bool) -> None:
    for days in range(40, 0, -1):
        line.store(days, picture_bytes=100_000, padding=80_000, measured=measured)
    used = line.bank.stats().used_bytes
    dry = line.bank.clean(Policy(most_bytes=used + 1_000_000), who="test", dry_run=True)
    done = line.bank.clean(Policy(most_bytes=used + 1_000_000), who="test")
    assert done.records == 0
    assert 29 <= done.pictures <= 32, "10 folders of 100 kB have room"
    assert done.used_bytes <= used + 1_000_000
    assert line.with_pictures() == list(range(done.pictures + 1, 41))
    if measured:
        assert abs(dry.pictures - done.pictures) <= 1
    done = line.bank.clean(Policy(most_bytes=1_000_000), who="test")
    assert line.with_pictures() == []
    assert done.used_bytes <= 1_000_000
    assert 0 < done.records < 40
    assert line.left() == list(range(done.records + 1, 41))
    assert line.bank.verify().ok


def test_a_dry_run_says_what_a_run_does_and_changes_nothing(line: Line) -> None:
    for days in (400, 300, 100, 40, 20, 5):
        line.store(days)
    policy = Policy(records_days=150, pictures_days=30)
    before = [one.document for one in line.bank.history()]
    would = line.bank.clean(policy, who="test", dry_run=True)
    assert [one.document for one in line.bank.history()] == before
    assert line.bank.notes() == []
    assert line.with_pictures() == [1, 2, 3, 4, 5, 6]
    done = line.bank.clean(policy, who="test")
    assert (would.records, would.pictures, would.pictures_bytes) == (done.records, done.pictures, done.pictures_bytes)
    assert (done.records, done.pictures) == (2, 4)


def test_what_is_not_delivered_stays(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.store(100)
    with monkeypatch.context() as then:
        then.setattr("edge_daemon.memory.journal.utc_now", lambda: days_ago(99))
        record = Record(new_record_id(), 77, "cell-1", days_ago(99), Outcome.FAIL, "FAIL", {})
        line.bank.store(record, "t", b"{}")
    line.store(98)
    assert line.bank.clean(Policy(records_days=30), who="test").records == 2
    assert line.left() == [77]
    line.bank.delivered(1)
    assert line.bank.clean(Policy(records_days=30), who="test").records == 1
    assert line.bank.verify().ok


def test_a_wrong_clock_does_not_make_a_young_record_old(line: Line) -> None:
    """The device booted in 1970, found the time, and had been in the future before that."""
    line.store(100)
    line.store(-3650)  # a clock ten years ahead
    line.store(90)
    line.store(20)
    line.store(20_000)  # stamped 1970, but stored after one that is 20 days old
    line.store(1)
    done = line.bank.clean(Policy(records_days=30), who="test")
    assert done.records == 3, "the old ones, and the one from the future that lies between them"
    assert line.left() == [4, 5, 6]
    assert line.bank.clean(Policy(records_days=10), who="test").records == 2
    assert line.left() == [6]


def test_nothing_is_young_enough(line: Line) -> None:
    for days in (300, 200, 100):
        line.store(days)
    assert line.bank.clean(Policy(records_days=30), who="test").records == 3
    assert line.left() == []
    assert line.bank.clean(Policy(records_days=30), who="test").records == 0
    assert line.bank.verify().ok
    assert [one.parts for one in line.bank.statistics("line")] == [3], "what was counted stays counted"
    assert line.bank.counts().records == 0


def test_only_a_records_own_pictures_are_deleted(line: Line, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "frame.png").write_bytes(b"mine")
    folder = tmp_path / "pictures" / "some-record"
    folder.mkdir(parents=True)
    (folder / "frame.png").write_bytes(b"12345")
    (folder / "notes.txt").write_text("a person's")
    (folder / "link.png").symlink_to(precious / "frame.png")
    (folder / "inner").mkdir()
    assert delete_pictures(precious, "some-record") == 0, "not named after the record"
    assert delete_pictures(folder, "some-record") == 5
    assert sorted(path.name for path in folder.iterdir()) == ["inner", "link.png", "notes.txt"]
    assert (precious / "frame.png").read_bytes() == b"mine"
    link = tmp_path / "linked"
    link.symlink_to(precious, target_is_directory=True)
    assert delete_pictures(link, "linked") == 0
    assert delete_pictures(tmp_path / "nowhere", "nowhere") == 0
    assert size_of_pictures(tmp_path / "nowhere") == 0

    record_id = line.store(100, picture_bytes=None)
    db = sqlite3.connect(line.bank.path)
    db.execute("UPDATE records SET pictures = ? WHERE record_id = ?", (str(precious), record_id))
    db.commit()
    db.close()
    assert line.bank.clean(Policy(records_days=30), who="test").records == 1
    assert (precious / "frame.png").read_bytes() == b"mine", "whatever the database says"


def test_a_run_can_be_stopped_and_goes_on_later(line: Line) -> None:
    for _ in range(60):
        line.store(100)
    asked: list[int] = []
    done = line.bank.clean(Policy(records_days=30), who="test", stopped=lambda: len(asked) > 0, progress=asked.append)
    assert 0 < done.records < 60
    assert len(line.left()) == 60 - done.records
    assert line.bank.verify().ok
    assert line.bank.clean(Policy(records_days=30), who="test").records == 60 - done.records


def test_pictures_that_cannot_be_deleted_keep_their_record(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's file must not be forgotten on the disk; the others go all the same."""
    ids = [line.store(100) for _ in range(3)]
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == ids[1]:
            raise PermissionError(13, "Permission denied")
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    for policy in (Policy(pictures_days=30), Policy(records_days=30)):
        done = line.bank.clean(policy, who="test")
        assert done.failed == 1
        assert "Permission denied" in done.trouble
    assert line.with_pictures() == [2]
    assert line.left() == [2]
    monkeypatch.setattr(Path, "unlink", real)
    assert line.bank.clean(Policy(records_days=30), who="test").records == 1
    assert line.bank.verify().ok


def test_pictures_that_are_gone_already_are_marked(line: Line) -> None:
    """A crash after the files were deleted and before that was noted."""
    line.store(100)
    folder = Path(line.bank.history()[0].pictures or "")
    delete_pictures(folder, folder.name)
    done = line.bank.clean(Policy(pictures_days=30), who="test")
    assert done.pictures == 1
    assert line.bank.history()[0].pictures_gone


def test_the_line_stores_on_while_others_go(line: Line) -> None:
    """No batch is long, the writer is free in between, and what is stored meanwhile is whole."""
    for _ in range(400):
        line.store(100, picture_bytes=None)
    done: list[Any] = []
    remover = threading.Thread(target=lambda: done.append(line.bank.clean(Policy(records_days=30), who="test")))
    remover.start()
    stored = 0
    while remover.is_alive() or stored < 5:
        record = Record(new_record_id(), 1000 + stored, "cell-1", utc_now(), Outcome.FAIL, "FAIL", {"defects": [CRACK]})
        assert line.bank.store(record)
        stored += 1
        time.sleep(0.002)
    remover.join()
    assert done[0].records == 400
    assert line.left() == list(range(1000, 1000 + stored))
    assert line.bank.verify().ok
    bodies = [note.body for note in line.bank.notes(kind="removed", limit=1000)]
    assert sum(span["count"] for body in bodies for span in body["spans"]) == 400
    assert max(sum(span["count"] for span in body["spans"]) for body in bodies) <= 200
    db = sqlite3.connect(line.bank.path)
    for table in ("documents", "records"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (stored,)
    assert db.execute("SELECT count(*) FROM detections").fetchone() == (stored,)
    assert db.execute("SELECT count(*) FROM record_types").fetchone() == (stored,)
    assert db.execute("SELECT sum(records) FROM record_groups").fetchone() == (stored,)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_word_that_comes_in_between_keeps_its_record(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody confirms a part after it was chosen and before it was removed."""
    ids = [line.store(100, picture_bytes=None) for _ in range(3)]
    from edge_daemon.memory import retention

    real = retention._Run._short

    def short(self: Any, write: Any) -> None:
        monkeypatch.setattr(retention._Run, "_short", real)
        line.bank.feedback(ids[1], "confirm", who="Ada")
        real(self, write)

    monkeypatch.setattr(retention._Run, "_short", short)
    line.bank.clean(Policy(records_days=30), who="test")
    assert line.left() == [2]
    verified = line.bank.verify()
    assert verified.ok
    assert verified.removed_records == 2


@pytest.mark.parametrize("bad", [{"records_days": 0.5}, {"pictures_days": float("nan")}, {"most_bytes": 10}])
def test_limits_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Policy(**bad)
    assert Policy().empty


def test_a_reader_cannot_clean(line: Line) -> None:
    line.store(100)
    with MemoryBank(line.bank.path, read_only=True) as reader:
        assert reader.clean(Policy(records_days=30), who="test", dry_run=True).records == 1
        with pytest.raises(StorageError) as caught:
            reader.clean(Policy(records_days=30), who="test")
        assert caught.value.code == "READ_ONLY"
    assert line.left() == [1]


def test_the_settings_of_line_toml(tmp_path: Path) -> None:
    import re

    from edge_daemon.config import load_config
    from edge_daemon.errors import ConfigError

    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    text = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)[0]
    path = tmp_path / "line.toml"
    path.write_text(text)
    assert load_config(path).memory.retention.empty
    path.write_text(text + 'keep_records = "730 d"\nkeep_pictures = "90 d"\nkeep_size = "50 GB"\n')
    assert load_config(path).memory.retention == Policy(730, 90, 50_000_000_000)
    for lines, says in (
        ('keep_records = "12 h"', "keep_records"),
        ("keep_records = 30", "no unit"),
        ('keep_records = "30 d"\nkeep_pictures = "60 d"', "longer than keep_records"),
        ('keep_size = "5 kB"', "1 MB"),
    ):
        path.write_text(text + lines + "\n")
        with pytest.raises(ConfigError, match=says):
            load_config(path)
