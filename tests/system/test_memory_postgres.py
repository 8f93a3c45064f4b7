"""The memory bank on a real PostgreSQL server: the same answers as on SQLite, question by question."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_daemon.cli import main
from edge_daemon.errors import MissingExtra, StorageError, UsageError
from edge_daemon.images import write_png_atomic
from edge_daemon.memory import MemoryBank, Policy
from edge_daemon.memory.postgres import PostgresBackend, is_url, postgres_statements
from edge_daemon.records import Outcome, Record
from edge_daemon.testing.postgres import PostgresServer
from edge_daemon.tickets import Ticket, new_record_id

pytestmark = [pytest.mark.needs("postgresql", "psycopg"), pytest.mark.timeout(180)]

TYPES = ("crack", "gas_hole", "scratches", "unknown")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as started:
        yield started


@pytest.fixture
def url(server: PostgresServer, request: pytest.FixtureRequest) -> str:
    """A database of this test's own."""
    return server.url(f"db_{abs(hash(request.node.name))}")


def records(count: int = 40, seed: int = 0) -> list[Record]:
    """Parts of two stations and two recipes over some weeks, some with indications."""
    rng = np.random.default_rng(seed)
    made = []
    for part_id in range(1, count + 1):
        outcome = list(Outcome)[int(rng.integers(4))]
        defects = [
            {"label": 1, "type": (name := TYPES[int(rng.integers(4))]), "known": name != "unknown",
             "nearest_type": "crack" if name == "unknown" else name, "confidence": float(rng.uniform(0.5, 1)),
             "p_known": float(rng.uniform()), "bbox_px": [int(one) for one in rng.integers(1, 40, 4)],
             "area_mm2": float(rng.uniform(0.1, 2)), "area_u_mm2": 0.01, "feret_max_mm": float(rng.uniform(0.5, 4)),
             "feret_u_mm": 0.02}
            for _ in range(int(rng.integers(4)))
        ]  # fmt: skip
        document = {
            "recipe": f"housing-{part_id % 2}", "reasons": [{"code": "SIZE", "text": "100 % too large? µ"}],
            "defects": defects, "working": {"size_px": [512, 512], "mm_per_px": [0.1, 0.1]},
            "engine": {"sha256": "e" * 64}, "timings_ms": {"segment": 60.5}, "advisory": part_id % 3 == 0,
        }  # fmt: skip
        utc = f"2026-0{1 + part_id % 3}-{1 + part_id % 28:02d}T08:00:00.{part_id:03d}Z"
        made.append(Record(new_record_id(), part_id, f"cell-{part_id % 3}", utc, outcome, outcome.result, document))
    return made


def fill(bank: MemoryBank, some: list[Record]) -> None:
    for one in some:
        bank.store(one, contrasts=[-0.1] * len(one.document["defects"]))


def without_place(found: list[Any]) -> list[Any]:
    """Records as they are on any bank: the time of storing and what follows from it aside."""
    return [replace(one, created_utc="", sha256="") for one in found]


def rounded(statistics: list[Any]) -> list[Any]:
    """Sums of floats depend on the order of adding, which is the database's own."""
    return [
        replace(
            one, area_mm2=round(one.area_mm2, 9),
            mean_confidence=None if one.mean_confidence is None else round(one.mean_confidence, 9),
        )
        for one in statistics
    ]  # fmt: skip


def test_every_question_has_the_same_answer_as_on_sqlite(url: str, tmp_path: Path) -> None:
    some = records()
    with MemoryBank(tmp_path / "memory.db") as lite, MemoryBank(url) as plant:
        for bank in (lite, plant):
            fill(bank, some)
        for wanted in (
            {}, {"limit": 7}, {"outcome": "FAIL"}, {"defect_type": "crack"}, {"recipe": "housing-1"},
            {"station": "cell-2", "outcome": "PASS"}, {"since": "2026-02"}, {"until": "2026-01-20"},
            {"since": "2026-02-05", "until": "2026-03-10T08", "defect_type": "unknown"}, {"part_id": 7},
            {"part_id": 7, "defect_type": "crack", "since": "2026"}, {"result": "FAIL", "before": 20, "limit": 5},
            {"since": "2027"}, {"defect_type": "cold_shut"},
        ):  # fmt: skip
            assert without_place(plant.history(**wanted)) == without_place(lite.history(**wanted)), wanted
        for by in ("day", "week", "line", "recipe", "engine", "type"):
            assert rounded(plant.statistics(by)) == rounded(lite.statistics(by))
            some_of_it = {"since": "2026-02", "recipe": "housing-0"}
            assert rounded(plant.statistics(by, **some_of_it)) == rounded(lite.statistics(by, **some_of_it))
        assert plant.counts() == lite.counts()
        assert plant.indications(3) == lite.indications(3)
        assert plant.stats().indications == lite.stats().indications
        marked = next(one for one in some if one.document["defects"])
        like = [(one.distance, one.record.record_id, one.indication) for one in lite.similar(marked.record_id, limit=9)]
        assert [
            (one.distance, one.record.record_id, one.indication) for one in plant.similar(marked.record_id, limit=9)
        ] == like
        for name in ("csv", "json", "parquet"):
            for table in ("records", "indications", "performance"):
                assert plant.export(tmp_path / f"p.{name}", table=table) == lite.export(tmp_path / "l", table=table)
        assert plant.patterns() == lite.patterns()


def test_the_lines_side_works_as_well(url: str) -> None:
    ticket = Ticket(new_record_id(), 7, 1, 2, "2026-01-01T08:00:00.000Z")
    with MemoryBank(url) as bank:
        assert bank.open_ticket(ticket, "cell-1") is True
        assert bank.open_ticket(ticket, "cell-1") is False
        assert bank.intend(ticket, "cell-1", {"a": 1}) is True
        assert bank.unfinished_tickets()[0].draft == {"a": 1}
        record = Record(ticket.record_id, 7, "cell-1", ticket.trigger_utc, Outcome.PASS, "PASS", {})
        assert bank.store(record, "t", b"\x00\xff") is True
        assert bank.store(record, "t", b"x") is False
        assert bank.unfinished_tickets() == []
        assert [message.payload for message in bank.pending(9)] == [b"\x00\xff"]
        assert bank.outbox_state()[0] == 1
        assert bank.delivered(bank.pending(1)[0].seq) == 1
        bank.check_writable()
        object.__setattr__(record, "record_id", "other")
        object.__setattr__(record, "outcome", Outcome.FAIL)
        with pytest.raises(StorageError, match="check"):
            bank.store(record)
        assert bank.counts().records == 1


def test_people_and_proof(url: str, tmp_path: Path) -> None:
    some = records(12)
    with MemoryBank(url) as bank:
        fill(bank, some)
        number = bank.begin_session(
            station="s", version="1", recipe="r", engine="e", engine_sha256="a", config_sha256="b"
        )
        marked = next(one for one in some if one.document["defects"])
        bank.feedback(marked.record_id, "false_call", who="Ada", why="dust", position=0)
        bank.feedback(marked.record_id, "confirm", who="Ada", position=0)
        bank.edit_pattern("crack", who="Bo", why="w", title="Hairline")
        bank.note("recipe_changed", "r", who="Cy", why="w", body={"µ": [1.5, None]})
        bank.end_session()
        assert bank.sessions()[0].number == number
        noted = bank.head()
        verified = bank.verify()
        assert verified.ok, verified.faults
        assert (verified.records, verified.rows) == (12, 18)
        with bank._db.writing() as db:
            db.execute("UPDATE records SET created_utc = '2001-01-01T00:00:00.000Z' WHERE number < 5")
        assert bank.verify().faults[0].number == 1, "changed behind the bank's back"
        assert noted == bank.head()


def test_retention_keeps_the_chain_whole(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    some = records(30)
    with MemoryBank(url) as bank:
        with monkeypatch.context() as then:
            then.setattr("edge_daemon.memory.journal.utc_now", lambda: "2026-01-01T08:00:00.000Z")
            fill(bank, [replace(one, trigger_utc="2026-01-01T08:00:00.000Z") for one in some[:20]])
        fill(bank, some[20:])
        bank.feedback(some[4].record_id, "confirm", who="Ada")
        assert bank.clean(Policy(records_days=30), who="Ada", dry_run=True).records == 19
        assert bank.clean(Policy(records_days=30), who="Ada").records == 19
        assert bank.counts().records == 11
        verified = bank.verify()
        assert verified.ok, verified.faults
        assert verified.removed_records == 19
        with pytest.raises(UsageError, match="keep by days"):
            bank.clean(Policy(most_bytes=10**9), who="Ada")


def test_two_writers_make_one_chain(url: str) -> None:
    """Two programs store at once; every record has its own place, and no link is missing."""
    batches = [records(25, seed) for seed in (1, 2, 3)]

    def work(batch: list[Record]) -> None:
        with MemoryBank(url, busy_timeout_s=20) as bank:
            fill(bank, batch)

    MemoryBank(url).close()
    threads = [threading.Thread(target=work, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with MemoryBank(url, read_only=True) as bank:
        assert [one.number for one in bank.history(limit=100)] == list(range(75, 0, -1))
        assert bank.verify().ok


def test_a_station_pushes_into_the_plant(url: str, tmp_path: Path) -> None:
    some = records(30)
    marked = next(one for one in some if one.document["defects"])
    with MemoryBank(tmp_path / "a.db") as station:
        for one in some:
            folder = tmp_path / "pictures" / one.record_id
            folder.mkdir(parents=True)
            write_png_atomic(folder / "frame.png", np.zeros((20, 20), np.uint8))
            station.store(one, pictures=str(folder), contrasts=[0.25] * len(one.document["defects"]))
        mask = np.eye(20, dtype=np.uint8)
        word = station.feedback(marked.record_id, "missed", who="Ada", why="w", mask=mask, mask_types=["crack"])
        with MemoryBank(url) as plant:
            assert station.push(plant, who="Bo") == (30, 1)
            assert station.push(plant, who="Bo") == (0, 0), "a second time there is nothing left to do"
            assert [one.record_id for one in plant.history(limit=99)] == [
                one.record_id for one in station.history(limit=99)
            ]
            there, here = plant.get(marked.record_id), station.get(marked.record_id)
            assert there is not None
            assert here is not None
            assert (there.document, there.created_utc, there.pictures) == (here.document, here.created_utc, None)
            assert [replace(one, number=0) for one in plant.indications(there.number)] == [
                replace(one, number=0) for one in station.indications(here.number)
            ]
            (copied,) = plant.feedback_of(marked.record_id)
            assert (copied.who, copied.at_utc, copied.mask_sha256) == ("Ada", word.at_utc, word.mask_sha256)
            assert np.array_equal(plant.mask(copied.mask_sha256 or ""), mask)
            assert rounded(plant.statistics("type")) == rounded(station.statistics("type"))
            (note,) = plant.notes(kind="pushed")
            assert (note.body["count"], note.body["sha256"]) == (30, station.history(limit=1)[0].sha256)
            assert plant.verify().ok


def test_the_command_line_speaks_to_it(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MemoryBank(tmp_path / "a.db") as station:
        fill(station, records(5))
    assert main(["memory", "push", "--database", str(tmp_path / "a.db"), "--to", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 5
    assert main(["memory", "history", "--database", url, "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert main(["memory", "verify", "--database", url]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert main(["memory", "stats", "--database", url.replace("edge@", "nobody-there:secret@")]) == 3
    err = capsys.readouterr().err
    assert "secret" not in err
    assert "Traceback" not in err


def test_what_is_not_ours_is_left_alone(server: PostgresServer, url: str) -> None:
    import psycopg

    with psycopg.connect(url) as db:
        db.execute("CREATE TABLE records (theirs TEXT)")
    with pytest.raises(StorageError) as caught:
        MemoryBank(url)
    assert caught.value.code == "NOT_A_BANK"
    with psycopg.connect(url) as db:
        assert db.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (1,)
    empty = server.url("nothing_here")
    with pytest.raises(StorageError, match="is not a memory bank"):
        MemoryBank(empty, read_only=True)
    with pytest.raises(StorageError, match='"nowhere" does not exist') as caught:
        MemoryBank(empty.replace("nothing_here", "nowhere"))
    assert caught.value.code == "CANNOT_OPEN"


def test_a_newer_schema_and_a_reader(url: str) -> None:
    with MemoryBank(url) as bank, MemoryBank(url, read_only=True) as reader:
        fill(bank, records(2))
        assert reader.counts().records == 2
        with pytest.raises(StorageError) as caught:
            reader.check_writable()
        assert caught.value.code == "READ_ONLY"
        with bank._db.writing() as db:
            db.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    for read_only in (False, True):
        with pytest.raises(StorageError, match="schema 99") as caught:
            MemoryBank(url, read_only=read_only)
        assert caught.value.code == "SCHEMA_NEWER"
    with pytest.raises(StorageError) as caught:
        bank.counts()
    assert caught.value.code == "CLOSED"


def test_a_server_that_goes_away_and_comes_back(server: PostgresServer, url: str) -> None:
    some = records(3)
    with MemoryBank(url) as bank:
        fill(bank, some[:1])
        assert bank.counts().records == 1
        server.restart()
        troubles = 0
        for one in some[1:]:
            try:
                bank.store(one)
            except StorageError:
                troubles += 1
                assert bank.store(one) is True
        assert troubles <= 1
        assert len(bank.history()) == 3, "a reader whose connection was cut takes a new one"
        assert bank.verify().ok


def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("edge_daemon.memory.postgres.import_module", absent)
    with pytest.raises(MissingExtra, match=r"edge-daemon\[postgres\]"):
        PostgresBackend("postgresql://a@b/c", read_only=True, busy_timeout_s=1)


def test_one_schema_in_two_dialects() -> None:
    text = "\n".join(postgres_statements())
    assert not any(word in text for word in ("STRICT", "WITHOUT ROWID", "INTEGER", "BLOB", " REAL", "AUTOINCREMENT"))
    assert is_url("postgresql://host/db")
    assert not is_url("memory.db")
    assert not is_url(Path("postgresql:/x"))
