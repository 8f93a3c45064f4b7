"""The real daemon and line process: kills, lost links, full records. The PLC counts; the memory bank must agree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from edge_daemon.images import write_png_atomic
from edge_daemon.memory import MemoryBank
from edge_daemon.simulator import conveyor_part
from edge_daemon.testing.broker import Broker
from edge_daemon.testing.rig import TOPIC_ROOT, Rig

RECIPE = files("edge_daemon.demo").joinpath("recipe.toml").read_text()
PLANTED = ("sound", "crack", "acceptable", "rejectable")


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("frames")
    for number, planted in enumerate(PLANTED):
        write_png_atomic(folder / f"{number}.png", conveyor_part(985_000 + number, planted).pixels)
    return sorted(folder.iterdir())


@pytest.fixture
def rig(frames: list[Path], tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path / "station", frames, recipe=RECIPE, deadline_s=2.5, plc_deadline_s=2.8,
             settings={"camera": 'max_delay = "2400 ms"'}) as one:  # fmt: skip
        yield one


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def records(rig: Rig) -> dict[int, list[dict]]:
    """Documents by part id."""
    with MemoryBank(rig.database, read_only=True) as bank:
        found: dict[int, list[dict]] = {}
        for one in bank.history(limit=10_000):
            found.setdefault(one.part_id or 0, []).append(one.document)
        assert not [entry for entry in bank.unfinished_tickets() if entry.part_id in found]
    return found


@pytest.mark.parametrize("driver", ["ascii", "modbus-server"])
def test_the_planted_verdicts_reach_the_plc_and_the_memory(frames: list[Path], tmp_path: Path, driver: str) -> None:
    with Rig(tmp_path, frames, recipe=RECIPE, driver=driver, deadline_s=5.0, plc_deadline_s=5.5,
             settings={"camera": 'max_delay = "4 s"'}) as rig:  # fmt: skip
        rig.start_daemon()
        with rig.plc() as plc:
            assert plc.wait_ready(15)
            decided = [plc.wait_decided(plc.trigger(), 8) for _ in range(8)]
        assert decided == [True, False, True, False] * 2
        assert eventually(lambda: len(records(rig)) == 8)
        assert rig.stop_daemon() == 0
    for part_id, documents in records(rig).items():
        (document,) = documents
        assert document["outcome"] == ("PASS" if decided[part_id - 1] else "FAIL"), document["reasons"]
        assert document["station"] == "demo"
        assert document["trigger_utc"]
        if document["outcome"] == "PASS":
            assert document["gate"]["permitted"] is True
            assert 0 < document["gate"]["decision_ms"] < 5000
        else:
            folder = next((tmp_path / "pictures").glob(f"*/{document['record_id']}"))
            assert {path.name for path in folder.iterdir()} == {"frame.png", "labels.png", "highlight.png"}
    with MemoryBank(rig.database, read_only=True) as bank:
        (session,) = bank.sessions()
        assert (session.ended, session.recipe, session.station) == ("stopped", documents[0]["recipe"], "demo")
        stored = bank.history()
        assert {one.session for one in stored} == {session.number}
        marked = next(one for one in stored if one.types == ("crack",))
        (crack,) = bank.indications(marked.number)
        assert crack.contrast is not None
        assert 0 < abs(crack.contrast) < 0.5
        assert bank.stats().pictures_bytes > 10_000
        verified = bank.verify()
        assert verified.ok, verified.faults
        assert rig.events("session_end")[0]["chain"] == verified.head, "the journal knows the end of the chain"


def test_a_daemon_killed_in_the_middle_of_a_part_rejects_it_and_records_it_later(rig: Rig) -> None:
    rig.start_daemon()
    with rig.plc() as plc:
        assert plc.wait_ready(15)
        assert plc.wait_decided(plc.trigger(), 5) is True
        victim = plc.trigger()
        time.sleep(0.03)
        rig.kill_daemon()
        assert plc.wait_decided(victim, 5) is False
        orphan = plc.trigger()  # a trigger while no daemon is there
        assert plc.wait_decided(orphan, 5) is False
        assert victim not in records(rig)
        rig.start_daemon()
        assert plc.wait_ready(15)
        assert eventually(lambda: len(records(rig)) == 3)
        # The belt goes on: part 4 is planted "rejectable", part 5 "sound".
        assert plc.wait_decided(plc.trigger(), 5) is False
        assert plc.wait_decided(plc.trigger(), 5) is True
        assert eventually(lambda: len(records(rig)) == 5)
    found = records(rig)
    assert all(len(documents) == 1 for documents in found.values())
    for part_id in (victim, orphan):
        (document,) = found[part_id]
        assert (document["result"], document["outcome"]) == ("FAIL", "NOT_EVALUABLE")
        assert document["reasons"][0]["code"] == "INTERRUPTED"


def test_every_moment_of_a_kill_leaves_one_record_that_agrees_with_the_plc(rig: Rig) -> None:
    rig.start_daemon()
    with rig.plc() as plc:
        for delay_s in (0.0, 0.01, 0.06, 0.12, 0.2, 0.3):
            assert plc.wait_ready(15)
            part_id = plc.trigger()
            time.sleep(delay_s)
            rig.kill_daemon()
            plc.wait_decided(part_id, 5)
            rig.start_daemon()
        assert plc.wait_ready(15)
        assert eventually(lambda: len(records(rig)) == plc.counts.triggers)
        let_through = set(plc.counts.let_through)
    for part_id, documents in records(rig).items():
        assert len(documents) == 1
        assert (documents[0]["result"] == "PASS") == (part_id in let_through), documents[0]


def test_a_killed_line_process_rejects_and_comes_back(rig: Rig) -> None:
    rig.start_daemon()
    with rig.plc() as plc:
        assert plc.wait_ready(15)
        pid = rig.line_pid()
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not plc.ready, 2.0)
        assert plc.wait_ready(15)
        assert rig.line_pid() != pid
        assert plc.wait_decided(plc.trigger(), 5) is True
    assert len(rig.events("line_lost")) == 1
    assert len(rig.events("line_back")) == 1


def test_a_stopped_daemon_is_not_ready_and_its_part_is_rejected(rig: Rig) -> None:
    rig.start_daemon()
    with rig.plc() as plc:
        assert plc.wait_ready(15)
        rig.signal_daemon(signal.SIGSTOP)
        try:
            assert eventually(lambda: not plc.ready, 2.0)
            part_id = plc.trigger()
            assert plc.wait_decided(part_id, 5) is False
        finally:
            rig.signal_daemon(signal.SIGCONT)
        assert plc.wait_ready(15)
        assert eventually(lambda: part_id in records(rig))
    (document,) = records(rig)[part_id]
    assert document["result"] == "FAIL"


def test_a_camera_without_frames_rejects_with_the_reason(frames: list[Path], tmp_path: Path) -> None:
    with Rig(tmp_path, frames, recipe=RECIPE, settings={"camera": 'max_delay = "100 ms"'}) as rig:
        rig.start_daemon()
        with rig.plc(on_trigger=None) as plc:
            assert plc.wait_ready(15)
            part_id = plc.trigger()
            assert plc.wait_decided(part_id, 5) is False
            assert eventually(lambda: part_id in records(rig))
        (document,) = records(rig)[part_id]
        assert document["outcome"] == "NOT_EVALUABLE"
        assert document["reasons"][0]["code"] == "GRAB_TIMEOUT"
        assert sum(rig.samples("edge_failsafe_rejects_total").values()) == 1


def test_two_triggers_at_once_give_two_records(rig: Rig) -> None:
    rig.start_daemon()
    with rig.plc() as plc:
        assert plc.wait_ready(15)
        ids = [plc.trigger() for _ in range(4)]
        for part_id in ids:
            plc.wait_decided(part_id, 5)
        assert eventually(lambda: len(records(rig)) == 4)
        let_through = set(plc.counts.let_through)
    assert not {2, 4} & let_through
    for part_id, documents in records(rig).items():
        assert len(documents) == 1
        assert (documents[0]["result"] == "PASS") == (part_id in let_through)


def test_a_reload_takes_a_proven_recipe_and_refuses_a_broken_one(rig: Rig) -> None:
    rig.start_daemon()
    recipe = rig.folder / "recipe.toml"
    with rig.plc() as plc:
        assert plc.wait_ready(15)
        recipe.write_text(RECIPE.replace("level = 5", "level = 55"))
        rig.signal_daemon(signal.SIGHUP)
        assert eventually(lambda: len(rig.events("reload_refused")) == 1)
        assert plc.wait_decided(plc.trigger(), 5) is True
        recipe.write_text(RECIPE.split("[[rule]]")[0].replace('name = "demo-housing"', 'name = "stricter"'))
        rig.signal_daemon(signal.SIGHUP)
        assert eventually(lambda: len(rig.events("reloaded")) == 1)
        plc.wait_decided(plc.trigger(), 5)
        assert plc.wait_decided(plc.trigger(), 5) is False, "light porosity, and now nothing is permitted"
        assert eventually(lambda: len(records(rig)) == 3)
    assert [records(rig)[part_id][0]["recipe"] for part_id in (1, 3)] == ["demo-housing", "stricter"]


@pytest.mark.needs("mosquitto", "mosquitto_sub")
def test_what_was_recorded_before_a_kill_reaches_the_broker_once(frames: list[Path], tmp_path: Path) -> None:
    heard = tmp_path / "heard.jsonl"

    def received() -> list[dict]:
        return [json.loads(line) for line in heard.read_text().splitlines()]

    with Broker(kind="mosquitto") as broker, heard.open("wb") as sink:
        # An independent listener, which reconnects and subscribes again by itself.
        listener = subprocess.Popen(
            ["mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-V", "5", "-i", "listener",
             "-t", f"{TOPIC_ROOT}/inspection/result"],
            stdout=sink, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with Rig(tmp_path / "s", frames, recipe=RECIPE, broker=broker, deadline_s=2.5, plc_deadline_s=2.8,
                     settings={"camera": 'max_delay = "2400 ms"'}) as rig:  # fmt: skip
                rig.start_daemon()
                with rig.plc() as plc:
                    assert plc.wait_ready(15)
                    for _ in range(3):
                        plc.wait_decided(plc.trigger(), 5)
                    assert eventually(lambda: len(received()) == 3)
                    broker.stop()
                    for _ in range(3):
                        plc.wait_decided(plc.trigger(), 5)
                    assert eventually(lambda: len(records(rig)) == 6)
                    rig.kill_daemon()
                    broker.start()
                    time.sleep(2.5)  # mosquitto_sub tries again after a second or two
                    rig.start_daemon()
                    assert plc.wait_ready(15)
                    assert eventually(lambda: len({one["record_id"] for one in received()}) == 6)
                ids = {documents[0]["record_id"] for documents in records(rig).values()}
        finally:
            listener.terminate()
            listener.wait()
    messages = received()
    assert {one["record_id"] for one in messages} == ids
    assert len(messages) == 6, "once by id"
