"""The memory bank: one transaction per record, one record per trigger, and errors that leave nothing half-written."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edge_daemon import memory
from edge_daemon.errors import StorageError, UsageError
from edge_daemon.memory import MemoryBank
from edge_daemon.records import Outcome, Record
from edge_daemon.tickets import Ticket, new_record_id, utc_now


def make_ticket(part_id: int = 7, age_s: float = 0.0) -> Ticket:
    now_ns = time.monotonic_ns() - round(age_s * 1e9)
    return Ticket(new_record_id(), part_id, now_ns, now_ns + 10**9, utc_now())


def make_record(ticket: Ticket, outcome: Outcome = Outcome.PASS, **document: Any) -> Record:
    return Record(
        ticket.record_id, ticket.part_id, "cell-1", ticket.trigger_utc, outcome, outcome.result,
        {"record_id": ticket.record_id, "reasons": [], "defects": [], **document},
    )  # fmt: skip


@pytest.fixture
def bank(tmp_path: Path) -> Any:
    with MemoryBank(tmp_path / "memory.sqlite", busy_timeout_s=0.2) as opened:
        yield opened


def test_a_ticket_lives_until_its_record_is_stored(bank: MemoryBank) -> None:
    ticket = make_ticket(age_s=2.0)
    assert bank.open_ticket(ticket, "cell-1") is True
    assert bank.open_ticket(ticket, "cell-1") is False
    (entry,) = bank.unfinished_tickets()
    assert (entry.record_id, entry.part_id, entry.station) == (ticket.record_id, 7, "cell-1")
    assert entry.age_s == pytest.approx(2.0, abs=0.5)

    assert bank.store(make_record(ticket), "a/result", b"{}") is True
    assert bank.unfinished_tickets() == []
    assert bank.open_ticket(ticket, "cell-1") is False, "a stored trigger must not be opened again"


def test_what_was_intended_survives_until_it_is_stored(bank: MemoryBank) -> None:
    """The draft is durable before the gate may open, whether or not the ticket was noted first."""
    noted, early = make_ticket(1), make_ticket(2)
    bank.open_ticket(noted, "cell-1")
    assert bank.unfinished_tickets()[0].draft is None
    for ticket in (noted, early):
        assert bank.intend(ticket, "cell-1", {"part_id": ticket.part_id, "outcome": "PASS"}) is True
    assert bank.open_ticket(early, "cell-1") is False, "the draft must not be lost to the late note"
    drafts = [entry.draft for entry in bank.unfinished_tickets()]
    assert sorted(draft["part_id"] for draft in drafts if draft is not None) == [1, 2]
    bank.store(make_record(noted), "a", b"x")
    assert [entry.record_id for entry in bank.unfinished_tickets()] == [early.record_id]
    assert bank.intend(noted, "cell-1", {}) is False
    assert bank.counts().open_tickets == 1
    with pytest.raises(ValueError, match="JSON"):
        bank.intend(early, "cell-1", {"x": float("nan")})


def test_storing_twice_changes_nothing(bank: MemoryBank) -> None:
    ticket = make_ticket()
    assert bank.store(make_record(ticket), "a", b"first") is True
    assert bank.store(make_record(ticket, Outcome.FAIL), "a", b"second") is False
    assert [m.payload for m in bank.pending(10)] == [b"first"]
    stored = bank.get(ticket.record_id)
    assert stored is not None
    assert stored.outcome is Outcome.PASS
    assert bank.counts().records == 1


def test_messages_come_in_order_and_only_an_acknowledged_one_goes(bank: MemoryBank) -> None:
    tickets = [make_ticket(n) for n in range(5)]
    for ticket in tickets:
        bank.store(make_record(ticket), "a", ticket.record_id.encode())
    first = bank.pending(2)
    assert [m.record_id for m in first] == [t.record_id for t in tickets[:2]]
    assert [m.record_id for m in bank.pending(10, after=first[-1].seq)] == [t.record_id for t in tickets[2:]]
    assert bank.delivered(first[0].seq, first[0].seq) == 1
    assert [m.record_id for m in bank.pending(10)] == [t.record_id for t in tickets[1:]]
    bank.delivered(*(m.seq for m in bank.pending(10)))
    bank.store(make_record(make_ticket()), "a", b"x")
    assert bank.pending(1)[0].seq == 6, "a number is never used twice, also when the table was empty in between"


def test_the_age_of_a_message_counts_from_its_trigger(bank: MemoryBank) -> None:
    assert bank.outbox_state() == (0, 0.0)
    ticket = make_ticket(age_s=30.0)
    bank.open_ticket(ticket, "cell-1")
    bank.store(make_record(ticket), "a", b"x")
    assert bank.pending(1)[0].age_s == pytest.approx(30.0, abs=1.0)
    pending, oldest_age_s = bank.outbox_state()
    assert pending == 1
    assert oldest_age_s == pytest.approx(30.0, abs=1.0)


def test_after_a_reboot_the_age_is_unknown_not_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory.sqlite"
    with monkeypatch.context() as before, MemoryBank(path) as bank:
        before.setattr(bank, "_boot_id", "the boot before")
        ticket, open_one = make_ticket(), make_ticket()
        bank.open_ticket(ticket, "cell-1")
        bank.open_ticket(open_one, "cell-1")
        bank.store(make_record(ticket), "a", b"x")
    with MemoryBank(path) as bank:
        assert bank.pending(1)[0].age_s is None
        assert bank.unfinished_tickets()[0].age_s is None
        assert 0 <= bank.outbox_state()[1] < 60


def test_history_filters(bank: MemoryBank) -> None:
    crack = make_record(make_ticket(1), Outcome.FAIL, defects=[{"type": "crack"}, {"type": "crack"}])
    both = make_record(make_ticket(2), Outcome.FAIL, defects=[{"type": "crack"}, {"type": "gas_hole"}])
    unsure = make_record(make_ticket(3), Outcome.INCONCLUSIVE, reasons=[{"code": "UNKNOWN_TYPE", "text": "x"}])
    for record in (crack, both, unsure):
        bank.store(record, pictures=f"/pictures/{record.part_id}")
    parts = lambda **wanted: [item.part_id for item in bank.history(**wanted)]  # noqa: E731
    assert parts() == [3, 2, 1]
    assert parts(limit=1) == [3]
    assert parts(outcome=Outcome.FAIL) == [2, 1]
    assert parts(defect_type="gas_hole") == [2]
    assert parts(defect_type="crack", outcome=Outcome.INCONCLUSIVE) == []
    assert parts(since="2000-01-01") == [3, 2, 1]
    assert parts(since="2999") == []
    newest = bank.history(limit=2)
    assert newest[0].reasons == ("UNKNOWN_TYPE",)
    assert newest[1].types == ("crack", "gas_hole")
    assert newest[1].pictures == "/pictures/2"
    assert newest[1].document == both.document
    assert bank.get("nobody") is None


def test_counts_add_up(bank: MemoryBank) -> None:
    late = make_ticket()
    outcomes = [Outcome.PASS, Outcome.PASS, Outcome.FAIL, Outcome.NOT_EVALUABLE]
    for outcome in outcomes:
        bank.store(make_record(make_ticket(), outcome))
    # Judged PASS, but the permit came too late: the outcome stays, the result is what the gate did.
    bank.store(Record(late.record_id, 1, "cell-1", late.trigger_utc, Outcome.PASS, "FAIL", {}), "a", b"x")
    bank.open_ticket(make_ticket(), "cell-1")
    counts = bank.counts()
    assert (counts.records, counts.passed, counts.rejected) == (5, 2, 3)
    assert counts.by_outcome == {"PASS": 3, "FAIL": 1, "INCONCLUSIVE": 0, "NOT_EVALUABLE": 1}
    assert (counts.open_tickets, counts.pending) == (1, 1)
    assert bank.stats().counts == counts
    assert bank.stats().size_bytes > 0


def test_the_file_itself_refuses_pass_for_anything_but_pass(bank: MemoryBank) -> None:
    record = make_record(make_ticket(), Outcome.FAIL)
    object.__setattr__(record, "result", "PASS")
    with pytest.raises(StorageError, match="CHECK constraint"):
        bank.store(record)
    assert bank.counts().records == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object()])
def test_a_document_that_is_not_json_writes_nothing(bank: MemoryBank, bad: object) -> None:
    ticket = make_ticket()
    bank.open_ticket(ticket, "cell-1")
    with pytest.raises((ValueError, TypeError)):
        bank.store(make_record(ticket, severity=bad), "a", b"x")
    assert bank.counts().open_tickets == 1
    assert bank.counts().records == bank.counts().pending == 0


def test_many_threads_one_writer(bank: MemoryBank) -> None:
    woken: list[int] = []
    bank.listen(lambda: woken.append(1))

    def work(part_id: int) -> None:
        for _ in range(20):
            ticket = make_ticket(part_id)
            bank.open_ticket(ticket, "cell-1")
            bank.store(make_record(ticket), "a", b"x")
            assert bank.get(ticket.record_id) is not None

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bank.counts().records == bank.counts().pending == len(woken) == 80
    assert [m.seq for m in bank.pending(100)] == list(range(1, 81))


def test_a_writing_transaction_does_not_hold_up_a_reader(bank: MemoryBank) -> None:
    bank.store(make_record(make_ticket()))
    other = sqlite3.connect(bank.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert bank.counts().records == 1
        started = time.monotonic()
        with pytest.raises(StorageError) as caught:
            bank.store(make_record(make_ticket()))
        assert caught.value.code == "LOCKED"
        assert time.monotonic() - started < 2.0
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert bank.store(make_record(make_ticket())) is True


def test_a_failure_in_the_middle_undoes_all_of_it(bank: MemoryBank) -> None:
    """Record, types, message and ticket are one transaction: break its last statement and look for leftovers."""
    ticket = make_ticket()
    bank.open_ticket(ticket, "cell-1")
    saboteur = sqlite3.connect(bank.path)
    saboteur.executescript("CREATE TRIGGER t BEFORE DELETE ON tickets BEGIN SELECT RAISE(ABORT, 'sabotage'); END")
    record = make_record(ticket, Outcome.FAIL, defects=[{"type": "crack"}])
    with pytest.raises(StorageError, match="sabotage"):
        bank.store(record, "a", b"x")
    assert bank.counts().records == bank.counts().pending == 0
    assert bank.counts().open_tickets == 1
    assert saboteur.execute("SELECT count(*) FROM record_types").fetchone() == (0,)
    saboteur.executescript("DROP TRIGGER t")
    saboteur.close()
    assert bank.store(record, "a", b"x") is True
    assert bank.counts().open_tickets == 0


_FILL = """
import resource, signal, sys, time
from edge_daemon.errors import StorageError
from edge_daemon.memory import MemoryBank
from edge_daemon.records import Outcome, Record
from edge_daemon.tickets import new_record_id, utc_now

def fill(bank):
    stored = []
    for _ in range(400):
        record_id = new_record_id()
        document = {"defects": [{"type": "crack"}], "filler": "x" * 20_000}
        try:
            bank.store(Record(record_id, 1, "s", utc_now(), Outcome.FAIL, "FAIL", document), "a", b"y" * 2000)
        except StorageError as error:
            return stored, error
        stored.append(record_id)
    raise SystemExit("the limit never bit")

def check(bank, stored):
    counts = bank.counts()
    assert counts.records == counts.pending == len(stored), (counts, len(stored))
    assert all(bank.get(record_id) is not None for record_id in stored)
"""


def _run(script: str, *command: str) -> str:
    done = subprocess.run(
        [*command, sys.executable, "-c", _FILL + textwrap.dedent(script)],
        capture_output=True, text=True, timeout=50, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(memory.__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_room_for_the_file_to_grow(tmp_path: Path) -> None:
    """The kernel refuses the write in the middle of a commit (file size limit); then the limit is lifted."""
    out = _run(f"""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        bank = MemoryBank({str(tmp_path / "m.sqlite")!r})
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        stored, error = fill(bank)
        check(bank, stored)
        try:
            bank.check_writable()
        except StorageError as second:
            error = second
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        bank.check_writable()
        record_id = new_record_id()
        assert bank.store(Record(record_id, 1, "s", utc_now(), Outcome.PASS, "PASS", {{}}), "a", b"z")
        check(bank, [*stored, record_id])
        print(error.code, len(stored) > 5)
    """)
    assert out == "DISK_IO True"


@pytest.mark.needs("root")
def test_a_full_disk(tmp_path: Path) -> None:
    """A real file system of one megabyte, in a mount namespace of its own; room is made afterwards."""
    trial = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True, check=False
    )
    if trial.returncode != 0:
        pytest.skip("this container does not let root mount a file system")
    script = f"""
        import os, subprocess
        folder = {str(tmp_path)!r}
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
        with open(folder + "/ballast", "wb") as ballast:
            ballast.write(b"0" * 200_000)
        bank = MemoryBank(folder + "/m.sqlite")
        stored, error = fill(bank)
        check(bank, stored)
        os.unlink(folder + "/ballast")
        assert bank.delivered(*(message.seq for message in bank.pending(2))) == 2
        assert bank.counts().pending == len(stored) - 2
        print(error.code, len(stored) > 5)
    """
    assert _run(script, "unshare", "-m") == "DISK_FULL True"


def test_sigkill_at_any_instant_leaves_whole_records(tmp_path: Path) -> None:
    """A child stores as fast as it can and is killed, six times: every part is open or complete, none is lost."""
    path = tmp_path / "m.sqlite"
    script = f"""
        from edge_daemon.tickets import Ticket
        bank = MemoryBank({str(path)!r})
        while True:
            ticket = Ticket(new_record_id(), 1, time.monotonic_ns(), 0, utc_now())
            bank.open_ticket(ticket, "s")
            print(ticket.record_id, flush=True)
            document = {{"defects": [{{"type": "crack"}}]}}
            record = Record(ticket.record_id, 1, "s", ticket.trigger_utc, Outcome.FAIL, "FAIL", document)
            bank.store(record, "a", ticket.record_id.encode())
    """
    announced: list[str] = []
    for round_ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", _FILL + textwrap.dedent(script)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(memory.__file__).parents[2])},
        )  # fmt: skip
        assert child.stdout is not None
        announced.append(child.stdout.readline().strip())
        time.sleep(0.011 * round_)
        os.kill(child.pid, signal.SIGKILL)
        announced += [line.strip() for line in child.stdout if line.endswith("\n")]
        child.stdout.close()
        child.wait()
    with MemoryBank(path) as bank:
        open_ids = {entry.record_id for entry in bank.unfinished_tickets()}
        stored = bank.history(limit=10**6)
        stored_ids = {item.record_id for item in stored}
        assert open_ids.isdisjoint(stored_ids)
        assert set(announced) <= open_ids | stored_ids
        assert len(open_ids) <= 6
        assert len(stored_ids) > 6
        assert all(item.types == ("crack",) for item in stored)
        assert [m.record_id for m in bank.pending(10**6)] == [item.record_id for item in reversed(stored)]
        assert bank._db.query("PRAGMA integrity_check") == [("ok",)]


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    MemoryBank(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    for read_only in (False, True):
        with pytest.raises(StorageError, match="schema 99") as caught:
            MemoryBank(path, read_only=read_only)
        assert caught.value.code == "SCHEMA_NEWER"
        assert caught.value.exit_code == 3
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (99,)
    db.close()


def test_a_foreign_database_is_refused_byte_for_byte_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "foreign.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(StorageError) as caught:
        MemoryBank(path)
    assert caught.value.code == "NOT_A_BANK"
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["foreign.sqlite"]


def test_not_sqlite_at_all(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"these are notes\n" * 400)
    with pytest.raises(StorageError) as caught:
        MemoryBank(path)
    assert caught.value.code == "NOT_A_BANK"
    assert path.read_bytes() == b"these are notes\n" * 400


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="folder does not exist"):
        MemoryBank(tmp_path / "nowhere" / "m.sqlite")
    with pytest.raises(StorageError, match="no such file"):
        MemoryBank(tmp_path / "m.sqlite", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_beside_the_daemon(bank: MemoryBank) -> None:
    with MemoryBank(bank.path, read_only=True) as reader:
        assert reader.counts().records == 0
        bank.store(make_record(make_ticket()), "a", b"x")
        assert reader.counts().records == 1
        for write in (lambda: reader.delivered(1), reader.check_writable, lambda: reader.cleanup(1)):
            with pytest.raises(StorageError) as caught:
                write()
            assert caught.value.code == "READ_ONLY"
    assert bank.counts().pending == 1


def test_a_closed_bank_says_so(tmp_path: Path) -> None:
    bank = MemoryBank(tmp_path / "m.sqlite")
    bank.close()
    bank.close()
    for use in (bank.counts, bank.check_writable):
        with pytest.raises(StorageError) as caught:
            use()
        assert caught.value.code == "CLOSED"


def test_commits_are_flushed(bank: MemoryBank) -> None:
    with bank._db.writing() as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,), "2 is FULL: flushed at every commit"


def test_cleanup_never_touches_what_is_undelivered(bank: MemoryBank) -> None:
    old_sent, old_pending, fresh = (make_ticket(n) for n in (1, 2, 3))
    for ticket in (old_sent, old_pending, fresh):
        bank.store(
            make_record(ticket, Outcome.FAIL, defects=[{"type": "crack"}]), "a", b"x", pictures=f"p{ticket.part_id}"
        )
    bank.delivered(bank.pending(1)[0].seq)
    with bank._db.writing() as db:
        db.execute("UPDATE records SET created_utc = '2001-01-01T00:00:00.000Z' WHERE part_id < 3")
    assert bank.cleanup(30) == (1, ("p1",))
    assert [item.part_id for item in bank.history()] == [3, 2]
    assert [item.part_id for item in bank.history(defect_type="crack")] == [3, 2]
    assert bank.cleanup(30) == (0, ())
    with pytest.raises(UsageError, match="older than 0 days"):
        bank.cleanup(0)


def test_export(bank: MemoryBank, tmp_path: Path) -> None:
    records = [make_record(make_ticket(n), Outcome.FAIL, defects=[{"type": "crack"}], note="µ, \n;") for n in range(3)]
    for record in records:
        bank.store(record)
    assert bank.export(tmp_path / "all.jsonl") == 3
    lines = (tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [record.document for record in records]

    assert bank.export(tmp_path / "all.csv") == 3
    with open(tmp_path / "all.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["record_id"] for row in rows] == [record.record_id for record in records]
    assert {(row["outcome"], row["types"]) for row in rows} == {("FAIL", "crack")}

    assert bank.export(tmp_path / "none.csv", since="2999") == 0
    with pytest.raises(UsageError, match="cannot write"):
        bank.export(tmp_path / "no" / "folder.csv")
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("memory")) == [
        "all.csv", "all.jsonl", "none.csv",
    ]  # fmt: skip
