"""What must not happen to a daemon in trouble: a lost trigger, a stop not obeyed, a fault that nobody notices."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from edge_daemon import daemon as module
from edge_daemon.config import load_config
from edge_daemon.daemon import Daemon
from edge_daemon.errors import ConfigError, EngineError, StorageError, UnavailableError
from edge_daemon.images import write_png_atomic
from edge_daemon.memory import MemoryBank
from edge_daemon.pipeline import Pipeline
from edge_daemon.records import Outcome
from edge_daemon.resources import engine_folder
from edge_daemon.segment.bundle import seal
from edge_daemon.simulator import conveyor_part
from edge_daemon.testing.rig import Rig, eventually
from edge_daemon.tickets import Ticket, new_record_id, utc_now

RECIPE = files("edge_daemon.demo").joinpath("recipe.toml").read_text()


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    path = tmp_path_factory.mktemp("frames") / "0.png"
    write_png_atomic(path, conveyor_part(985_000, "sound").pixels)
    return [path]


@pytest.fixture
def rig(frames: list[Path], tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path / "station", frames, recipe=RECIPE, deadline_s=2.5, plc_deadline_s=2.8,
             settings={"camera": 'max_delay = "2400 ms"'}) as one:  # fmt: skip
        yield one


def parts(rig: Rig) -> dict[int, list[Any]]:
    with MemoryBank(rig.database, read_only=True) as bank:
        found: dict[int, list[Any]] = {}
        for one in bank.history(limit=1000):
            found.setdefault(one.part_id or 0, []).append(one)
    return found


class InThread:
    """The daemon in a thread of this process, so that a test can reach into it."""

    def __init__(self, rig: Rig) -> None:
        self.daemon = Daemon(load_config(rig.config_path))
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.code = self.daemon.run()

    def __enter__(self) -> InThread:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.daemon.stop()
        self.ended()

    def ended(self, timeout_s: float = 25.0) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


# ---------------------------------------------------------------- stopping


def test_a_trigger_that_was_acknowledged_has_its_record_whenever_the_daemon_is_stopped(rig: Rig) -> None:
    acknowledged = 0
    for delay_s in (0.0, 0.02, 0.05, 0.15):
        rig.start_daemon()
        with rig.plc() as plc:
            assert plc.wait_ready(15)
            plc.trigger()
            stopper = threading.Timer(delay_s, lambda: rig.signal_daemon(signal.SIGTERM))
            stopper.start()
            for _ in range(20):  # the PLC goes on while the daemon stops
                plc.trigger()
                time.sleep(0.03)
            stopper.join()
            # A second SIGTERM would meet an interpreter that is just leaving, and count as its end.
            assert eventually(rig.daemon_has_ended, 20)
            assert rig.stop_daemon() == 0
            assert eventually(lambda: len(plc.counts.rejected) + len(plc.counts.let_through) == plc.counts.triggers)
            acknowledged += plc.counts.triggers - plc.counts.unacknowledged
    rig.start_daemon()  # what the line process alone still knew
    assert eventually(lambda: sum(len(found) for found in parts(rig).values()) >= acknowledged)
    assert rig.stop_daemon() == 0
    assert sum(len(found) for found in parts(rig).values()) == acknowledged


def test_a_stop_does_not_wait_for_a_line_process_that_hangs(rig: Rig) -> None:
    rig.start_daemon()
    pid = rig.line_pid()
    os.kill(pid, signal.SIGSTOP)
    assert rig.stop_daemon() == 0
    with pytest.raises(UnavailableError):
        rig.line_pid()
    assert rig.events("line_killed")


def test_an_unfinished_journal_and_a_disk_that_takes_no_records(rig: Rig) -> None:
    """Not Ready, and SIGTERM is obeyed; when the disk is back the record is written."""
    ticket = Ticket(new_record_id(), 7, 1, 2, utc_now())
    with MemoryBank(rig.database) as bank:
        bank.open_ticket(ticket, "demo")
    with sqlite3.connect(rig.database) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON records BEGIN SELECT raise(ABORT, 'disk I/O error'); END")
    rig.start_daemon()
    assert eventually(lambda: bool(rig.events("recovery_waits")))
    assert not rig.ready()
    started_s = time.monotonic()
    assert rig.stop_daemon() == 0
    assert time.monotonic() - started_s < 8.0
    with sqlite3.connect(rig.database) as db:
        db.execute("DROP TRIGGER full")
    rig.start_daemon()
    assert eventually(lambda: 7 in parts(rig))
    assert parts(rig)[7][0].reasons == ("INTERRUPTED",)
    assert rig.samples("edge_parts_total")['{outcome="NOT_EVALUABLE",station="demo"}'] == 1


# ---------------------------------------------------------------- starting


def test_a_memory_bank_that_cannot_be_written_is_an_error_at_start(rig: Rig) -> None:
    with MemoryBank(rig.database):
        pass
    with sqlite3.connect(rig.database) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON probe BEGIN SELECT raise(ABORT, 'disk I/O error'); END")
    with pytest.raises(StorageError):
        Daemon(load_config(rig.config_path)).run()


def test_a_picture_folder_that_cannot_be_written_is_an_error_at_start(rig: Rig) -> None:
    (rig.folder / "pictures").rmdir()
    (rig.folder / "pictures").write_text("a file")
    with pytest.raises(StorageError, match="pictures cannot be written"):
        Daemon(load_config(rig.config_path)).run()


def test_a_rule_for_a_type_the_engine_cannot_name_is_an_error_at_start(rig: Rig) -> None:
    with (rig.folder / "recipe.toml").open("a") as recipe:
        recipe.write('\n[[rule]]\ntype = "scratches"\nkind = "NONE_PERMITTED"\n')
    with pytest.raises(ConfigError, match=r"recipe\.toml: the rule for scratches .* castings-xray"):
        Daemon(load_config(rig.config_path)).run()


def test_a_site_that_demands_verified_rows_does_not_start_with_others(rig: Rig) -> None:
    rig.config_path.write_text(rig.config_path.read_text().replace("[station]", "[station]\nrequire_verified = true"))
    assert "verified = false" in RECIPE
    with pytest.raises(ConfigError, match=r"require_verified: .*gas_porosity_round .* is not verified"):
        Daemon(load_config(rig.config_path)).run()


def test_a_site_that_demands_a_certificate_does_not_start_with_an_engine_without(rig: Rig) -> None:
    bundle = Path(shutil.copytree(engine_folder("castings-xray"), rig.folder / "uncertified"))
    certificate = json.loads((bundle / "certificate.json").read_text())
    del certificate["claims"]
    (bundle / "certificate.json").write_text(json.dumps(certificate))
    manifest = json.loads((bundle / "manifest.json").read_text())
    seal(bundle, {key: value for key, value in manifest.items() if key not in ("files", "seal")})
    recipe = rig.folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('engine = "castings-xray"', f'engine = "{bundle}"'))
    rig.config_path.write_text(
        rig.config_path.read_text().replace("[station]", "[station]\nrequire_certificate = true")
    )
    with pytest.raises(ConfigError, match=r"require_certificate: .*was never certified"):
        Daemon(load_config(rig.config_path)).run()


def test_a_start_that_fails_leaves_no_line_process(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: Pipeline) -> None:
        raise EngineError("the engine answered NaN")

    monkeypatch.setattr(Pipeline, "start", start)
    with pytest.raises(EngineError, match="NaN"):
        Daemon(load_config(rig.config_path)).run()
    with pytest.raises(UnavailableError):
        rig.line_pid()


# ---------------------------------------------------------------- running


def test_a_bank_that_is_locked_while_the_line_comes_back_delays_ready_and_nothing_else(rig: Rig) -> None:
    with InThread(rig) as one, rig.plc() as plc:
        assert plc.wait_ready(20)
        bank = one.daemon._bank
        real, calls = bank.unfinished_tickets, []

        def unfinished_tickets() -> Any:
            calls.append(1)
            if len(calls) <= 2:
                raise StorageError("locked", code="LOCKED")
            return real()

        bank.unfinished_tickets = unfinished_tickets  # type: ignore[method-assign]
        os.kill(rig.line_pid(), signal.SIGKILL)
        assert eventually(lambda: len(calls) == 3)
        assert plc.wait_ready(15)
        assert plc.wait_decided(plc.trigger(), 5) is True


def test_a_bug_in_the_dispatcher_ends_ready_and_after_a_while_the_daemon(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_INCURABLE_S", 1.0)
    with InThread(rig) as one, rig.plc() as plc:
        assert plc.wait_ready(20)

        def trigger() -> None:
            raise ZeroDivisionError("oh")

        one.daemon._metrics.trigger = trigger  # type: ignore[method-assign]
        part_id = plc.trigger()
        assert eventually(lambda: not plc.ready, 2.0)
        assert plc.wait_decided(part_id, 5) is False
        assert one.daemon._healthz()[0] is False
        assert one.ended()
    assert one.code == 70


def test_an_engine_that_never_answers_ends_the_daemon_with_its_code(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INCURABLE_S", 0.5)
    monkeypatch.setattr(module, "_STOP_S", 0.5)
    release = threading.Event()
    with InThread(rig) as one, rig.plc() as plc:
        assert plc.wait_ready(20)
        engine = one.daemon._pipeline.station.engine
        monkeypatch.setattr(type(engine), "infer", lambda self, batch: release.wait(30))
        try:
            assert plc.wait_decided(plc.trigger(), 5) is False
            assert one.ended()
        finally:
            release.set()
    assert one.code == 3


def test_a_main_loop_that_hangs_is_not_ready_and_not_healthy(rig: Rig) -> None:
    rig.start_daemon()
    with rig.plc() as plc:
        assert plc.wait_ready(15)
    one = Daemon(load_config(rig.config_path))
    one._ready_reasons, one._beaten_s = [], time.monotonic()
    assert one._readyz()[0]
    assert one._healthz()[0]
    one._beaten_s = time.monotonic() - 1.5
    assert one._readyz() == (False, "BEAT_SILENT")
    assert not one._healthz()[0]


def test_a_reload_keeps_the_seal_of_the_config_in_force(rig: Rig) -> None:
    """Records name the config they were made under, not a file that nobody has read yet."""
    rig.start_daemon()
    with rig.plc() as plc:
        assert plc.wait_ready(15)
        before = plc.trigger()
        assert plc.wait_decided(before, 5) is True
        with rig.config_path.open("a") as config:
            config.write("\n# another file now\n")
        rig.signal_daemon(signal.SIGHUP)
        assert eventually(lambda: len(rig.events("reloaded")) == 1)
        after = plc.trigger()
        assert plc.wait_decided(after, 5) is True
        assert eventually(lambda: after in parts(rig))
    seals = {parts(rig)[part_id][0].document["config_sha256"] for part_id in (before, after)}
    assert len(seals) == 1
    assert parts(rig)[after][0].outcome is Outcome.PASS


def test_a_recipe_the_plc_did_not_ask_for_is_not_judged(frames: list[Path], tmp_path: Path) -> None:
    with Rig(tmp_path, frames, recipe=RECIPE, deadline_s=2.5, plc_deadline_s=2.8,
             settings={"camera": 'max_delay = "2400 ms"', "station": "recipe_number = 9"}) as rig:  # fmt: skip
        rig.start_daemon()
        with rig.plc() as plc:
            assert plc.wait_ready(15)
            assert plc.wait_decided(plc.trigger(), 5) is False
            assert eventually(lambda: 1 in parts(rig))
        assert parts(rig)[1][0].reasons == ("RECIPE",)
