"""The real units under a real systemd: a container over this machine's own files, booted and powered off.

Its writes go to memory; its network is a loopback of its own. Skips where containers or overlays are not allowed.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_daemon.images import write_png_atomic
from edge_daemon.resources import data_folder
from edge_daemon.simulator import conveyor_part

PASSWORD = "only-systemd-knows"
ROOT = Path(__file__).resolve().parents[2]
LINE = """[station]
name = "cell-1"
recipe = "recipe.toml"
[camera]
kind = "folder"
folder = "/var/lib/edge-daemon/frames"
after = "delete"
settle = "0 ms"
max_delay = "1500 ms"
max_early = "40 ms"
frozen_after = 0
[line]
driver = "ascii"
port = "@PORT@"
deadline = "3 s"
spawn = false
[memory]
database = "/var/lib/edge-daemon/memory.db"
pictures = "/var/lib/edge-daemon/pictures"
min_free = "20 MB"
keep = "all"
[mqtt]
host = "127.0.0.1"
topic_root = "a/b/c/d/e"
username = "cell"
password_file = "credential:edge_mqtt-password"
"""
RECIPE = 'name = "one"\nengine = "castings-xray"\nmm_per_px = "0.1 mm"\nmetal = "aluminum"\nothers = "NONE_PERMITTED"\n'


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs overlay mounts: {done.stderr.strip()}")


@pytest.fixture
def container() -> Iterator[Path]:
    """A folder on a tmpfs with ``root``: this machine's files, to be written over without changing them."""
    for program in ("systemd-nspawn", "mosquitto", "mosquitto_passwd", "mosquitto_sub", "journalctl"):
        if shutil.which(program) is None and shutil.which(program, path="/usr/sbin") is None:
            pytest.skip(f"needs {program}: apt-get install systemd-container mosquitto mosquitto-clients")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory(prefix="edge-container-") as name:
        folder = Path(name)
        _mount("-t", "tmpfs", "-o", "size=1g", "tmpfs", name)
        try:
            for part in ("up", "work", "root", "out"):
                (folder / part).mkdir()
            # On / itself: what is mounted below it (and this machine's own /run, /tmp, /proc) stays outside.
            _mount(
                "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={name}/up,workdir={name}/work", f"{name}/root"
            )
            try:
                yield folder
            finally:
                subprocess.run(["umount", f"{name}/root"], check=True)
        finally:
            subprocess.run(["umount", name], check=True)


def _install(folder: Path) -> list[str]:
    """Units and program as systemd/README.md says; the binds that stand in for ``pip install``."""
    root, units = folder / "root", data_folder("systemd")
    for name in ("edge-line.service", "edge-daemon.service", "edge-station.service"):
        shutil.copy(units / name, root / "etc/systemd/system" / name)
    shutil.copytree(units / "edge-station.service.d", root / "opt/edge-station.service.d")
    shutil.copytree(units / "edge-daemon.service.d", root / "opt/edge-daemon.service.d")
    for kind in ("sysusers.d", "tmpfiles.d"):
        (root / f"etc/{kind}").mkdir(exist_ok=True)
        shutil.copy(units / kind / "edge-daemon.conf", root / f"etc/{kind}/edge-daemon.conf")
    home = root / "opt/edge-daemon"
    for part in ("bin", "src", "site"):
        (home / part).mkdir(parents=True, exist_ok=True)
    binds = [f"--bind-ro={ROOT}:/opt/edge-daemon/src", f"--bind-ro={site.getsitepackages()[0]}:/opt/edge-daemon/site",
             f"--bind={folder}/out:/out"]  # fmt: skip
    python = f"/opt/python/bin/{Path(os.path.realpath(sys.executable)).name}"
    (root / "opt/python").mkdir(exist_ok=True)
    binds.append(f"--bind-ro={sys.base_prefix}:/opt/python")
    (home / "bin/edge-daemon").write_text(
        "#!/bin/sh\n"
        # Of this very Python: its own folder may be in a home that the units cannot see.
        "export LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1\n"
        "export PYTHONPATH=/opt/edge-daemon/src:/opt/edge-daemon/site\n"
        f'exec {python} -m edge_daemon "$@"\n'
    )
    (home / "bin/edge-daemon").chmod(0o755)
    config = root / "etc/edge-daemon"
    config.mkdir(exist_ok=True)
    (config / "line.toml").write_text(LINE)
    (config / "recipe.toml").write_text(RECIPE)
    (config / "recipe.toml").chmod(0o644)
    (config / "password").write_text(PASSWORD + "\n")
    (config / "password").chmod(0o600)
    passwords = config / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "cell", PASSWORD], check=True, capture_output=True)
    passwords.chmod(0o644)
    (config / "mosquitto.conf").write_text(
        "listener 1883 127.0.0.1\nallow_anonymous false\npassword_file /etc/edge-daemon/passwords\nuser root\n"
    )
    write_png_atomic(config / "frame.png", conveyor_part(985_000, "sound").pixels)
    (root / "var/log/journal").mkdir(parents=True, exist_ok=True)
    for name in ("etc/machine-id", "etc/systemd/system/default.target"):
        (root / name).unlink(missing_ok=True)
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "etc/systemd/system/driver.service").write_text(
        "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nTimeoutStartSec=220\n"
        "Environment=PYTHONPATH=/opt/edge-daemon/src:/opt/edge-daemon/site PYTHONDONTWRITEBYTECODE=1\n"
        f"ExecStart={python} /opt/edge-daemon/src/tests/system/container_driver.py\n"
    )
    (root / "etc/systemd/system/driver.target").write_text(
        "[Unit]\nRequires=basic.target\nWants=driver.service\nAfter=basic.target\n"
    )
    return binds


def _boot(folder: Path, binds: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-nspawn", "-q", "-D", str(folder / "root"), "--register=no", "--keep-unit", "--private-network",
         "--boot", "--console=pipe", *binds, "--", "systemd.unit=driver.target"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=260, check=False,
        env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_units_under_a_real_systemd(container: Path) -> None:
    """Notify, a pass, watchdog, reload, gate killed, stop, power off; users, folders, credential, journal."""
    done = _boot(container, _install(container))
    if not (container / "out/seen.json").exists():
        pytest.skip(f"needs a container that boots systemd: {(done.stderr or done.stdout)[-300:]}")
    seen: dict[str, Any] = json.loads((container / "out/seen.json").read_text())
    assert "error" not in seen, f"{seen['journal']}\n{seen['error']}"
    assert seen["ready"] and seen["passed"]
    assert "cell-1" in seen["status"] or "ready" in seen["status"]
    assert seen["modes"] == {
        "/var/lib/edge-daemon": "edge-daemon:edge-daemon 750",
        "/var/lib/edge-daemon/pictures": "edge-daemon:edge-daemon 750",
        "/run/edge-daemon": "edge-line:edge-daemon 750",
        "/run/edge-daemon/line.sock": "edge-line:edge-daemon 660",
        "/etc/edge-daemon/credentials": "root:root 700",
    }
    assert seen["secret_in_process"] is False
    assert json.loads(seen["delivered"])["state"], "logged in with the credential"
    assert seen["watchdog_s"] <= 10 and seen["watchdog_restarts"] == 1 and seen["passed_after_watchdog"]
    assert seen["reload_kept_the_process"] and seen["daemon_outlived_the_gate"] and seen["passed_after_gate"]
    assert seen["stop"] == ["success", "0"]
    page = seen["page"]
    assert page["record"] == 200 and page["picture"] == 200 and page["listed"], "the page reads the line's bank"
    assert page["engines"], "and opens an engine with no memory that is both written and run"
    assert page["scheduling"] == "idle", "it may make itself nicer"
    assert page["hidden"] == ["/run/edge-daemon", "/etc/edge-daemon/credentials"]
    assert page["feedback_refused"] == 503 and page["feedback_allowed"] == 303 and page["clerk_harmless"]
    assert page["tls"] == {"login": 200, "logged_in": 303, "history": 200, "plain": "refused"}
    assert page["modes"] == {"/var/lib/edge-station": "edge-station:edge-daemon 700",
                             "/var/lib/edge-station/users.json": "edge-station:edge-daemon 600",
                             "/var/lib/edge-daemon/memory.db": "edge-daemon:edge-daemon 660",
                             "/etc/edge-station": "root:root 700"}  # fmt: skip
    assert page["stop"] == ["success", "0"] and page["line_untouched"]
    journal = subprocess.run(
        ["journalctl", "-D", str(container / "root/var/log/journal"), "-o", "json", "--no-pager"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines = [json.loads(line) for line in journal.splitlines()]
    said = [(one.get("UNIT", ""), str(one.get("MESSAGE", ""))) for one in lines]
    assert any(unit == "edge-daemon.service" and "Watchdog timeout" in text for unit, text in said)
    last = {
        unit: max(n for n, (one, text) in enumerate(said) if one == unit and text.startswith("Stopped"))
        for unit in ("edge-daemon.service", "edge-line.service")
    }
    assert last["edge-daemon.service"] < last["edge-line.service"], "the gate goes last"
    assert PASSWORD not in journal
