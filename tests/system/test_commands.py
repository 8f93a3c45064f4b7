"""Commands over a real broker: only signed, fresh and once; a pause drops Ready, a recipe is proven first."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edge_daemon.commands import Command, CommandListener, CommandOptions, RecipeChoice, make_command, read_command
from edge_daemon.errors import ConfigError, StorageError, UsageError
from edge_daemon.images import write_png_atomic
from edge_daemon.memory import MemoryBank
from edge_daemon.mqtt import MqttOptions
from edge_daemon.signing import make_key
from edge_daemon.simulator import conveyor_part
from edge_daemon.testing.broker import Broker
from edge_daemon.testing.rig import TOPIC_ROOT, Rig
from edge_daemon.tickets import utc_now


def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        if condition():
            return
        time.sleep(0.02)
    pytest.fail(f"did not happen within {timeout_s} s")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "ann.pem")
    return tmp_path / "ann.pem"


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[MemoryBank]:
    with MemoryBank(tmp_path / "memory.db") as opened:
        yield opened


class Station:
    """What a daemon does at a command, in a list."""

    made: ClassVar[list[Station]] = []

    def __init__(self, bank: MemoryBank, key: Path, tmp_path: Path, config_sha256: str = "c1") -> None:
        self.made.append(self)
        self.done: list[str] = []
        from edge_daemon.signing import public_key_of

        recipes = tuple(RecipeChoice(name, tmp_path / f"{name}.toml", None) for name in ("housing-a", "broken"))
        self.listener = CommandListener(
            bank, MqttOptions(host="127.0.0.1", topic_root=TOPIC_ROOT),
            CommandOptions((public_key_of(key),), recipes, window_s=60.0),
            station="cell-1", config_sha256=config_sha256,
            apply_pause=lambda paused: self.done.append("pause" if paused else "resume"), apply_recipe=self._recipe,
        )  # fmt: skip

    def _recipe(self, choice: RecipeChoice, before: Callable[[], None]) -> None:
        if choice.name == "broken":
            raise ConfigError("broken.toml:1: no")
        before()
        self.done.append(choice.name)

    def take(self, payload: bytes) -> dict[str, Any] | None:
        self.listener.take(payload)
        if self.listener._changing is not None:
            self.listener._changing.join(10)
        return None if self.listener._answers.empty() else self.listener._answers.get()


@pytest.fixture(autouse=True)
def _stations_end() -> Iterator[None]:
    yield
    while Station.made:
        Station.made.pop().listener.stop()


def command(key: Path, what: str = "pause", **more: str) -> bytes:
    words = {"station": "cell-1", "by": "Ann Example", "why": "tool change", **more}
    return make_command(what, key_file=key, **words)


def test_signed_commands_are_obeyed_noted_and_answered(bank: MemoryBank, key: Path, tmp_path: Path) -> None:
    station = Station(bank, key, tmp_path)
    for what, more in (("pause", {}), ("resume", {}), ("recipe", {"recipe": "housing-a"})):
        time.sleep(0.002)
        answer = station.take(command(key, what, **more))
        assert answer is not None and answer["accepted"] is True and answer["command"] == what
    assert station.done == ["pause", "resume", "housing-a"]
    noted = bank.notes(kind="command")
    assert [(one.subject, one.who, one.why) for one in noted] == [
        (what, "Ann Example", "tool change") for what in ("recipe", "resume", "pause")
    ]
    assert noted[0].body["recipe"] == "housing-a"
    assert bank.verify().ok


def test_what_is_not_signed_by_a_trusted_key_is_not_even_answered(bank: MemoryBank, key: Path, tmp_path: Path) -> None:
    station = Station(bank, key, tmp_path)
    make_key(tmp_path / "mallory.pem")
    good = command(key)
    forged = [command(tmp_path / "mallory.pem")]
    document = json.loads(good)
    for name, value in (("command", "resume"), ("station", "cell-2"), ("by", "Bob"), ("why", "x"),
                        ("issued_utc", "2026-01-01T00:00:00.000Z"), ("id", "another-id"),
                        ("key", json.loads(forged[0])["key"])):  # fmt: skip
        forged.append(json.dumps({**document, name: value}).encode())
    forged += [json.dumps({**document, "more": 1}).encode(), json.dumps([document]).encode(), b"", b"\xff", b"[" * 8000,
               b"x" * 9000, json.dumps({**document, "id": 5}).encode(), good[:-3]]  # fmt: skip
    for payload in forged:
        assert station.take(payload) is None, payload
    assert station.done == [] and bank.notes(kind="command") == []
    assert station.listener.refused == len(forged)


def test_a_recorded_command_is_never_obeyed_twice(bank: MemoryBank, key: Path, tmp_path: Path) -> None:
    station = Station(bank, key, tmp_path)
    pause = command(key)
    time.sleep(0.002)
    resume = command(key, "resume")
    assert station.take(pause)["accepted"] and station.take(resume)["accepted"]  # type: ignore[index]
    for again in (pause, resume):
        answer = station.take(again)
        assert answer is not None and (answer["accepted"], answer["code"]) == (False, "REPLAY")
    restarted = Station(bank, key, tmp_path)
    answer = restarted.take(resume)
    assert answer is not None and answer["code"] == "REPLAY"
    assert station.done == ["pause", "resume"] and restarted.done == []


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"station": "cell-2"}, "OTHER_STATION"),
        ({"issued_utc": "2026-01-01T00:00:00.000Z"}, "STALE"),
        ({"issued_utc": "2126-01-01T00:00:00.000Z"}, "STALE"),
    ],
)
def test_what_is_meant_for_others_or_old_changes_nothing(
    bank: MemoryBank, key: Path, tmp_path: Path, more: dict[str, str], code: str
) -> None:
    station = Station(bank, key, tmp_path)
    answer = station.take(command(key, "resume", **more))
    assert answer is not None and answer["code"] == code
    assert station.done == [] and bank.notes(kind="command") == []


def test_a_recipe_that_cannot_be_proven_or_is_not_listed_leaves_all_as_it_was(
    bank: MemoryBank, key: Path, tmp_path: Path
) -> None:
    station = Station(bank, key, tmp_path)
    for name, code in (("broken", "CONFIG"), ("../../etc/passwd", "UNKNOWN_RECIPE")):
        time.sleep(0.002)
        answer = station.take(command(key, "recipe", recipe=name))
        assert answer is not None and answer["code"] == code
    assert station.listener.recipe is None and bank.notes(kind="command") == []


def test_a_pause_needs_no_audit_trail_a_resume_does(
    bank: MemoryBank, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    station = Station(bank, key, tmp_path)

    def full(*args: object, **more: object) -> None:
        raise StorageError("no room", code="DISK_FULL")

    monkeypatch.setattr(bank, "note", full)
    answer = station.take(command(key))
    assert answer is not None and answer["accepted"] and station.listener.paused
    time.sleep(0.002)
    for what, more in (("resume", {}), ("recipe", {"recipe": "housing-a"})):
        time.sleep(0.002)
        answer = station.take(command(key, what, **more))
        assert answer is not None and answer["code"] == "DISK_FULL"
    assert station.done == ["pause"] and station.listener.paused


def test_what_was_commanded_outlives_a_restart_until_line_toml_changes(
    bank: MemoryBank, key: Path, tmp_path: Path
) -> None:
    station = Station(bank, key, tmp_path)
    station.take(command(key))
    time.sleep(0.002)
    station.take(command(key, "recipe", recipe="housing-a"))
    again = Station(bank, key, tmp_path).listener
    assert again.paused and again.recipe is not None and again.recipe.name == "housing-a"
    edited = Station(bank, key, tmp_path, config_sha256="c2").listener
    assert edited.paused and edited.recipe is None


def test_commands_are_read_strictly(key: Path) -> None:
    read = read_command(command(key, "recipe", recipe="housing-b"))
    assert isinstance(read, Command) and read.recipe == "housing-b" and read.issued_utc <= utc_now()
    for what, more in (("stop", {}), ("pause", {"recipe": "x"}), ("recipe", {}), ("pause", {"why": " "}),
                       ("pause", {"by": "x" * 501}), ("pause", {"issued_utc": "yesterday"}),
                       ("pause", {"issued_utc": "2026-13-01T00:00:00.000Z"})):  # fmt: skip
        with pytest.raises(UsageError):
            command(key, what, **more)


@pytest.mark.needs("mosquitto", "mosquitto_sub", "socat")
def test_a_whole_station_is_paused_resumed_and_given_another_recipe(tmp_path: Path, key: Path) -> None:
    from importlib.resources import files

    from edge_daemon.signing import public_key_of

    recipe = files("edge_daemon.demo").joinpath("recipe.toml").read_text()
    frames = [tmp_path / "0.png"]
    write_png_atomic(frames[0], conveyor_part(985_000, "sound").pixels)
    settings = {
        "camera": 'max_delay = "1000 ms"', "sparkplug": 'group = "acme"',
        "commands": f'trusted_keys = ["{public_key_of(key)} Ann"]\n[[commands.recipe]]\nfile = "other.toml"\n'
        '[[commands.recipe]]\nfile = "bad.toml"',
    }  # fmt: skip
    with Broker(kind="mosquitto") as broker, Rig(tmp_path / "station", frames, recipe=recipe, broker=broker,
        deadline_s=3.0, plc_deadline_s=3.3, settings=settings) as rig:  # fmt: skip
        (rig.folder / "other.toml").write_text(recipe.replace('name = "', 'name = "other-', 1))
        (rig.folder / "bad.toml").write_text(recipe.replace("kind", "kin", 1))

        def send(what: str, recipe: str = "") -> dict[str, Any]:
            done = subprocess.run(
                [sys.executable, "-m", "edge_daemon", "command", what, *([recipe] if recipe else []),
                 "--station", "demo", "--key", str(key), "--by", "Ann Example", "--why", "test"],
                capture_output=True, check=True,
            )  # fmt: skip
            made = json.loads(done.stdout)
            with subprocess.Popen(
                ["mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-t",
                 f"{TOPIC_ROOT}/inspection/event",
                 "-C", "1", "-W", "30"], stdout=subprocess.PIPE,
            ) as listener:  # fmt: skip
                time.sleep(0.3)
                subprocess.run(["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-s",
                                "-t", f"{TOPIC_ROOT}/inspection/command"], input=done.stdout, check=True)  # fmt: skip
                assert listener.stdout is not None
                answer: dict[str, Any] = json.loads(listener.stdout.read())
            assert answer["id"] == made["id"]
            return answer

        rig.start_daemon()
        with rig.plc() as plc:
            assert plc.wait_ready(20)
            assert plc.wait_decided(plc.trigger(), 5) is True
            assert send("pause")["accepted"] is True
            until(lambda: not rig.ready())
            assert plc.wait_decided(plc.trigger(), 6) is False, "paused: no part passes"
            rig.kill_daemon()
            rig.start_daemon()
            time.sleep(1.0)
            assert not rig.ready(), "a pause outlives kill -9"
            assert send("resume")["accepted"] is True
            assert plc.wait_ready(20)
            refused = send("recipe", "bad")
            assert (refused["accepted"], refused["code"]) == (False, "CONFIG")
            assert plc.wait_decided(plc.trigger(), 5) is True
            assert send("recipe", "other")["accepted"] is True
            assert plc.wait_decided(plc.trigger(), 5) is True
        assert rig.stop_daemon() == 0
        with MemoryBank(rig.database, read_only=True) as bank:
            stored = bank.history()
            assert stored[0].recipe.startswith("other-") and not stored[-1].recipe.startswith("other-")
            assert [one.subject for one in bank.notes(kind="command")] == ["recipe", "resume", "pause"]
            assert {one.who for one in bank.notes(kind="command")} == {"Ann Example"}
