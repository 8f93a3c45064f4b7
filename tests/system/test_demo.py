"""The demo as a stranger runs it: four counts, planted truth, Ctrl-C, and out of a wheel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edge_daemon import demo as the_demo
from edge_daemon.cli import main
from edge_daemon.errors import UnavailableError
from edge_daemon.testing.rig import Rig

ROOT = Path(__file__).resolve().parents[2]


def environment(*first: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, first), *sys.path])}


def demo(tmp_path: Path, *arguments: str, first: tuple[Path, ...] = (), before: tuple[str, ...] = ()) -> dict:
    done = subprocess.run(
        [*before, sys.executable, "-m", "edge_daemon", "demo", "--json", "--out", str(tmp_path / "out"), *arguments],
        capture_output=True, text=True, timeout=58, cwd=tmp_path, env=environment(*first), check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["ok"] else 1)
    return document


def check(document: dict, parts: int) -> None:
    assert document["ok"], document
    for place in ("device", "plc", "broker", "metrics"):
        assert document[place] == {"parts": parts, "passed": document["plc"]["passed"]}, document
    assert document["late_permits"] == document["doubled"] == 0
    # No cracked and no rejectable part is ever let through; sound ones are not turned away without a reason.
    assert set(document["truth"]["rejectable"]) == {"FAIL"}
    assert set(document["truth"]["crack"]) == {"FAIL"}
    assert document["truth"]["sound"].get("PASS", 0) >= 0.9 * sum(document["truth"]["sound"].values())
    for path in document["highlights"]:
        assert Path(path).is_file()


@pytest.mark.needs("pypylon", "mosquitto")
def test_basler_emulation_ascii_plc_and_mosquitto_at_300_a_minute(tmp_path: Path) -> None:
    document = demo(tmp_path, "--parts", "40", "--rate", "300", "--camera", "basler")
    check(document, 40)
    assert "basler camera, mosquitto broker" in document["setup"]
    assert 0 < document["latency_ms"]["p50"] < 400


def test_watched_folder_and_modbus(tmp_path: Path) -> None:
    document = demo(tmp_path, "--parts", "16", "--rate", "90", "--camera", "folder", "--driver", "modbus-server")
    check(document, 16)


@pytest.mark.needs("root")
def test_the_embedded_broker_takes_over_where_mosquitto_is_missing(tmp_path: Path) -> None:
    mosquitto = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin")
    if mosquitto is None:
        hide: tuple[str, ...] = ()
    else:
        # In a mount namespace of its own, where the program is a device that nobody can run.
        script = 'mount --bind /dev/null "$0" && exec "$@"'
        hide = ("unshare", "--mount", "sh", "-c", script, os.path.realpath(mosquitto))
        if subprocess.run([*hide, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no mount namespace here")
    document = demo(tmp_path, "--parts", "8", "--rate", "60", "--camera", "folder", before=hide)
    check(document, 8)
    assert "iotcore broker" in document["setup"]


def test_a_daemon_that_does_not_stop_cleanly_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = Rig.stop_daemon

    def killed(rig: Rig) -> int | None:
        rig.kill_daemon()
        return stop(rig)

    monkeypatch.setattr(Rig, "stop_daemon", killed)
    arguments = ["demo", "--parts", "2", "--rate", "120", "--camera", "folder", "--out", str(tmp_path)]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "the four counts agree" in said
    assert "THE DAEMON DID NOT STOP AS IT SHOULD: exit code -9" in said


def test_the_belt_stops_when_the_daemon_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong beside the belt ends it; it would run for an hour."""

    def dies(rig: Rig) -> float:
        rig.kill_daemon()
        return ask(rig)

    class Belt:
        class Counts:
            triggers = 100

        counts = Counts()

        def run(self, parts: int, rate_per_min: float, *, stop: threading.Event) -> Counts:
            assert stop.wait(30), "nobody stops the belt"
            return self.counts

    ask = the_demo._rss_mb
    monkeypatch.setattr(the_demo, "_rss_mb", dies)
    recipe = (ROOT / "edge_daemon" / "demo" / "recipe.toml").read_text()
    with Rig(tmp_path, the_demo._render_parts(tmp_path, 1), recipe=recipe) as rig:
        rig.start_daemon()
        started_s = time.monotonic()
        with pytest.raises(UnavailableError, match="does not answer"):
            the_demo._run_belt(Belt(), rig, 100, 60, print)  # type: ignore[arg-type]
        assert time.monotonic() - started_s < 10
        assert not [thread for thread in threading.enumerate() if thread.name == "belt"]


def test_ctrl_c_ends_the_belt_and_still_counts(tmp_path: Path) -> None:
    with (tmp_path / "answer.json").open("wb") as answer, (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_daemon", "demo", "--json", "--parts", "500", "--rate", "120", "--camera",
             "folder", "--out", str(tmp_path / "out")],
            stdout=answer, stderr=log, env=environment(), start_new_session=True,
        )  # fmt: skip
        until_s = time.monotonic() + 40
        while "     8 " not in (tmp_path / "log.txt").read_text() and time.monotonic() < until_s:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
        assert process.wait(timeout=30) == 0, (tmp_path / "log.txt").read_text()
    document = json.loads((tmp_path / "answer.json").read_text())
    assert 8 <= document["parts"] < 500
    assert document["agrees"]


@pytest.mark.slow
def test_the_wheel_runs_the_demo_outside_the_checkout(tmp_path: Path) -> None:
    """Built without the checkout's own build folder, unpacked elsewhere, and found there before anything else."""
    source = tmp_path / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of what belongs into the wheel")
    for name in filter(None, listed.stdout.split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)]
    done = subprocess.run([sys.executable, *build], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True, timeout=50)
    where = subprocess.run(
        [sys.executable, "-c", "import edge_daemon; print(edge_daemon.__file__)"],
        capture_output=True, text=True, env=environment(site), cwd=tmp_path, check=True, timeout=50,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(site)
    check(demo(tmp_path, "--parts", "8", "--rate", "60", "--camera", "folder", first=(site,)), 8)
