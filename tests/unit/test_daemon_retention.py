"""The daemon's retention thread: what it removes it says once, and trouble never ends it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_daemon import daemon as module
from edge_daemon.daemon import Daemon
from edge_daemon.errors import StorageError
from edge_daemon.memory import MemoryBank, Policy
from edge_daemon.records import Outcome, Record
from edge_daemon.tickets import new_record_id


def eventually(condition: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + 20
    while time.monotonic() < until_s and not condition():
        time.sleep(0.01)
    return condition()


def test_old_records_go_and_trouble_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_RETENTION_S", 0.02)
    with MemoryBank(tmp_path / "memory.db") as bank:
        with monkeypatch.context() as then:
            then.setattr("edge_daemon.memory.journal.utc_now", lambda: "2001-01-01T00:00:00.000Z")
            for _ in range(3):
                bank.store(Record(new_record_id(), 1, "s", "2001-01-01T00:00:00.000Z", Outcome.FAIL, "FAIL", {}))
        daemon = Daemon(SimpleNamespace(sha256="", memory=SimpleNamespace(retention=Policy(records_days=30))))  # type: ignore[arg-type]
        daemon._bank = bank
        real, calls = bank.clean, []

        def clean(*args: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) <= 3:
                raise StorageError("the disk is full", code="DISK_FULL")
            return real(*args, **options)

        monkeypatch.setattr(bank, "clean", clean)
        with caplog.at_level(logging.INFO, logger="edge_daemon"):
            thread = threading.Thread(target=daemon._retain)
            thread.start()
            assert eventually(lambda: bank.counts().records == 0)
            assert eventually(lambda: len(calls) > 6)
            daemon.stop()
            thread.join(5)
        assert not thread.is_alive()
        events = [record.fields["event"] for record in caplog.records]  # type: ignore[attr-defined]
        assert events == ["retention_lost", "retention_back", "retention"]
        assert caplog.records[2].fields["records"] == 3  # type: ignore[attr-defined]
        assert bank.notes(kind="retention")[0].why == "[memory] of line.toml"
        assert bank.verify().ok


def test_a_session_that_cannot_be_noted_does_not_stop_the_new_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with MemoryBank(tmp_path / "memory.db") as bank:
        daemon = Daemon(SimpleNamespace(sha256="", station="cell-1"))  # type: ignore[arg-type]
        daemon._bank = bank
        seals = SimpleNamespace(engine="e", config=None)
        station = SimpleNamespace(name="housing-b", engine=SimpleNamespace(name="castings"), seals=seals)
        daemon._begin_session(station)  # type: ignore[arg-type]

        def full(*_: Any, **__: Any) -> Any:
            raise StorageError("the disk is full", code="DISK_FULL")

        with monkeypatch.context() as broken, caplog.at_level(logging.INFO, logger="edge_daemon"):
            broken.setattr(bank, "begin_session", full)
            daemon._change_session(station)  # type: ignore[arg-type]
        assert [record.fields["event"] for record in caplog.records] == ["session_end", "session_lost"]  # type: ignore[attr-defined]
        daemon._change_session(station)  # type: ignore[arg-type]
        assert [(one.recipe, one.ended) for one in bank.sessions()] == [("housing-b", None), ("housing-b", "reloaded")]
        assert bank.sessions()[0].config_sha256 == ""
