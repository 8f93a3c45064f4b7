"""``check`` and a start that cannot succeed: one line each, the documented exit code, nothing half-written."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from edge_daemon import check
from edge_daemon.config import load_config
from edge_daemon.images import write_png_atomic
from edge_daemon.simulator import conveyor_part
from edge_daemon.testing.rig import Rig

RECIPE = files("edge_daemon.demo").joinpath("recipe.toml").read_text()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    write_png_atomic(tmp_path / "part.png", conveyor_part(986_000, "sound").pixels)
    with Rig(tmp_path / "station", [tmp_path / "part.png"], recipe=RECIPE) as one:
        yield one


def edge(*arguments: object, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "edge_daemon", *map(str, arguments)],
        capture_output=True, text=True, timeout=50, env=environment, preexec_fn=limit, check=False,
    )  # fmt: skip


def findings(answer: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    return {one["what"]: one for one in map(json.loads, answer.stdout.splitlines())}


def test_without_a_config_the_installation_is_checked() -> None:
    answer = edge("check", "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    found = findings(answer)
    assert set(found) == {"installation", "engine bundles", "reference sets"}
    assert "castings-xray" in found["engine bundles"]["text"]


def test_a_whole_station_is_tried_and_each_trouble_named(rig: Rig) -> None:
    answer = edge("check", "--config", rig.config_path, "--json")
    assert answer.returncode == 0, answer.stdout
    found = findings(answer)
    assert {"recipe and engine", "camera", "serial port", "broker", "memory bank", "watch"} <= set(found)
    assert "8 plates measured" in found["recipe and engine"]["text"]
    assert "can be made" in found["memory bank"]["text"]
    left = {path.name for path in (rig.folder, *rig.folder.rglob("*")) if path.is_file()}
    assert left == {"line.toml", "recipe.toml"}, "the check has left something behind"

    text = rig.config_path.read_text()
    text = text.replace(str(rig.wire.device_path), "/dev/absent").replace('folder = "camera"', 'folder = "nowhere"')
    text += '[mqtt]\nhost = "127.0.0.1"\nport = 1\ntopic_root = "a/b/c/d/e"\n'
    rig.config_path.write_text(text.replace('min_free = "50 MB"', 'min_free = "900000 GB"'))
    answer = edge("check", "--config", rig.config_path, "--json")
    assert answer.returncode == 3
    found = findings(answer)
    for what in ("camera", "serial port", "broker", "memory bank"):
        assert found[what]["ok"] is False, what
        assert found[what]["hint"], what
    assert found["recipe and engine"]["ok"] is True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("fixed_port", [False, True])
def test_a_running_station_is_left_alone(rig: Rig, fixed_port: bool) -> None:
    if fixed_port:
        text = rig.config_path.read_text()
        rig.config_path.write_text(text.replace("port = 0", f"port = {_free_port()}"))
    rig.start_daemon()
    config = load_config(rig.config_path)
    dropped = rig.folder / "camera" / "part.png"

    def drop() -> None:
        shutil.copyfile(rig.frames[0], rig.folder / "camera" / ".part")
        (rig.folder / "camera" / ".part").rename(dropped)

    # A frame of the running line that comes while the check would look at the camera.
    timer = threading.Timer(0.4, drop)
    timer.start()
    said = check._camera(config)
    timer.join()
    time.sleep(0.2)
    assert said == "folder camera: in use by the running station, not tried"
    assert dropped.exists()
    assert "held by a running line process" in check._serial_port(config)
    assert "can be written" in check._disk(config)
    if fixed_port:
        assert "by the running station" in check._watch(config)
    if fixed_port:
        # The gate may run without the daemon (two units): then nobody uses the camera.
        rig.kill_daemon()
        assert "no frame within 2 s" in check._camera(config)
        assert "held by a running line process" in check._serial_port(config)


@contextlib.contextmanager
def another_user(user_id: int) -> Iterator[None]:
    os.seteuid(user_id)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.needs("root")
def test_what_this_user_may_not_do_is_no_success(rig: Rig) -> None:
    config = load_config(rig.config_path)
    # A folder everybody can look into and only root can write to.
    memory = dataclasses.replace(config.memory, database=Path("/usr/bank.db"), pictures=Path("/usr"), min_free_bytes=0)
    config = dataclasses.replace(config, memory=memory)
    with another_user(65534):
        disk = check._try("memory bank", lambda: check._disk(config))
        camera = check._try("camera", lambda: check._camera(config))
    assert (disk.ok, disk.exit_code) == (False, 3)
    assert "cannot be written" in disk.text
    assert (camera.ok, camera.exit_code) == (False, 3)
    assert "runuser" in camera.hint


def test_a_secret_that_cannot_be_used_stops_the_start_and_is_found_by_the_check(rig: Rig) -> None:
    mqtt = '[mqtt]\nhost = "127.0.0.1"\ntopic_root = "a/b/c/d/e"\nusername = "u"\npassword_file = "absent"\n'
    rig.config_path.write_text(rig.config_path.read_text() + mqtt)
    line = rig.config_path.read_text().splitlines().index('password_file = "absent"') + 1
    answer = edge("run", "--config", rig.config_path)
    assert answer.returncode == 2
    assert f"line.toml:{line}: [mqtt] password_file: " in answer.stderr
    assert "Traceback" not in answer.stderr
    answer = edge("check", "--config", rig.config_path, "--json")
    assert answer.returncode == 2
    found = findings(answer)
    assert f"line.toml:{line}: [mqtt] password_file: " in found["broker"]["text"]
    assert found["memory bank"]["ok"] is True


def test_the_check_gives_way_to_a_running_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_daemon.cli import main

    asked: list[int] = []
    monkeypatch.setattr(os, "nice", asked.append)
    monkeypatch.setattr(check, "run_checks", lambda config: iter(()))
    assert main(["check"]) == 0
    assert asked == [19]


def test_a_port_in_use_stops_the_start_with_one_sentence(rig: Rig) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        rig.config_path.write_text(rig.config_path.read_text().replace("port = 0", f"port = {port}"))
        answer = edge("run", "--config", rig.config_path)
    assert answer.returncode == 3
    assert f"127.0.0.1:{port}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_broken_seal_stops_the_start_with_exit_code_4(rig: Rig, tmp_path: Path) -> None:
    from edge_daemon.resources import engine_folder

    bundle = Path(shutil.copytree(engine_folder("castings-xray"), tmp_path / "bundle"))
    (bundle / "thresholds.json").write_text((bundle / "thresholds.json").read_text() + " ")
    recipe = rig.folder / "recipe.toml"
    recipe.write_text(RECIPE.replace('engine = "castings-xray"', f'engine = "{bundle}"'))
    answer = edge("run", "--config", rig.config_path)
    assert answer.returncode == 4, answer.stderr
    assert "thresholds.json" in answer.stderr


def test_no_room_for_the_result_is_exit_code_3_and_leaves_no_half_file(tmp_path: Path) -> None:
    write_png_atomic(tmp_path / "part.png", conveyor_part(986_001, "crack").pixels)
    answer = edge("inspect", tmp_path / "part.png", "--mm-per-px", "0.1", "--out", tmp_path / "out", limit_bytes=20_000)
    assert answer.returncode == 3, answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert all(path.name == "labels.png" for path in left), left


def test_a_full_disk_takes_ready_away_and_gives_it_back(rig: Rig) -> None:
    rig.config_path.write_text(rig.config_path.read_text().replace('min_free = "50 MB"', 'min_free = "900000 GB"'))
    rig.start_daemon()
    with rig.plc() as plc:
        assert not plc.wait_ready(3)
        part_id = plc.trigger()
        assert plc.wait_decided(part_id, 5) is False
    assert rig.ready() is False
    assert any("DISK_FULL" in line["reasons"] for line in rig.events("not_ready"))
