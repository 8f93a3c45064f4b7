"""The units: accepted by systemd without a word, exposed as little as promised, and fitting the program they start."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edge_daemon.resources import data_folder

UNITS = data_folder("systemd")
SERVICES = ("edge-line.service", "edge-daemon.service", "edge-station.service")
PROGRAM = "/opt/edge-daemon/bin/edge-daemon"
needs_systemd = pytest.mark.needs("systemd-analyze")


def settings(name: str) -> dict[str, list[str]]:
    """Keys of a unit with all their values, in order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def run(*command: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, **more)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with a program that exists on this machine."""
    for name in SERVICES:
        text = (UNITS / name).read_text(encoding="utf-8")
        assert text.count(f"ExecStart={PROGRAM} ") == 1
        (tmp_path / name).write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
    return tmp_path


@needs_systemd
def test_systemd_has_nothing_to_say(installed: Path) -> None:
    done = run(
        "systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", *(str(installed / s) for s in SERVICES)
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_verify_would_notice_a_misspelt_key(installed: Path) -> None:
    unit = installed / "edge-line.service"
    unit.write_text(unit.read_text(encoding="utf-8").replace("PrivateNetwork=", "PrivateNetwrok="), encoding="utf-8")
    done = run("systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", str(unit))
    assert "PrivateNetwrok" in done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize(
    ("name", "limit"), [("edge-line.service", 0.5), ("edge-daemon.service", 1.5), ("edge-station.service", 1.5)]
)
def test_exposure(installed: Path, name: str, limit: float) -> None:
    done = run("systemd-analyze", "security", "--offline=yes", "--no-pager", str(installed / name))
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert score, done.stdout + done.stderr
    assert float(score.group(1)) <= limit
    assert f"{name.removesuffix('.service')} {score.group(1)}" in (UNITS / "README.md").read_text(encoding="utf-8")


def test_the_gate_has_no_network_and_no_devices_but_serial_ports() -> None:
    line = settings("edge-line.service")
    assert line["PrivateNetwork"] == ["yes"]
    assert line["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert line["DevicePolicy"] == ["closed"]
    assert all(value.startswith("char-tty") for value in line["DeviceAllow"])
    assert line["Restart"] == ["always"]
    assert line["User"] != settings("edge-daemon.service")["User"]


def test_what_the_units_start_exists() -> None:
    for name in SERVICES:
        program, *arguments = shlex.split(settings(name)["ExecStart"][0])
        assert program == PROGRAM
        assert "%" not in settings(name)["ExecStart"][0]
        done = run(sys.executable, "-m", "edge_daemon", *arguments)
        assert done.returncode == 2, "the command is known; its config is not on this machine"
        assert "/etc/edge-daemon/line.toml" in done.stderr
        if name != "edge-station.service":  # nobody waits for the page, and a page that hangs holds nobody up
            assert settings(name)["Type"] == ["notify"]
            assert settings(name)["WatchdogSec"]
    assert settings("edge-daemon.service")["ExecReload"] == ['/bin/sh -c "kill -HUP $MAINPID"']


def test_the_page_is_neither_the_gate_nor_the_daemon_and_cannot_reach_their_secrets() -> None:
    page, daemon, line = (settings(f"edge-{name}.service") for name in ("station", "daemon", "line"))
    assert len({page["User"][0], daemon["User"][0], line["User"][0]}) == 3
    assert page["Group"] == daemon["Group"] and page["UMask"] == ["0077"] and daemon["UMask"] == ["0027"]
    hidden = {path.lstrip("-") for path in page["InaccessiblePaths"]}
    tmpfiles = (UNITS / "tmpfiles.d/edge-daemon.conf").read_text(encoding="utf-8")
    secrets = {one.split()[1] for one in tmpfiles.splitlines() if re.search("password|key|credentials", one[1:])}
    secrets = {one for one in secrets if one.startswith("/etc/edge-daemon")} - {"/etc/edge-daemon/line.toml"}
    assert {*secrets, "/run/edge-daemon"} == hidden, "the socket of the gate as well"
    assert "ReadWritePaths" not in page and page["ProtectSystem"] == ["strict"]
    assert page["IPAddressDeny"] == ["any"] and page["IPAddressAllow"] == ["localhost"]
    assert not {"Requires", "Wants", "BindsTo", "PartOf"} & set(page), "it neither starts nor stops the line"
    weights = [int(one["CPUWeight"][0]) for one in (page, daemon, line)]
    assert weights == sorted(weights) and weights[0] * 10 <= weights[1]


@needs_systemd
@pytest.mark.parametrize("name", ["plant-network", "line-feedback"])
def test_the_drop_ins_of_the_page_are_accepted(installed: Path, name: str) -> None:
    example = UNITS / f"edge-station.service.d/{name}.conf.example"
    folder = installed / "edge-station.service.d"
    folder.mkdir()
    text = example.read_text(encoding="utf-8").replace(PROGRAM, sys.executable)
    (folder / f"{name}.conf").write_text(text, encoding="utf-8")
    unit = str(installed / "edge-station.service")
    done = run("systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    if name == "plant-network":
        (command,) = (one for one in text.splitlines() if one.startswith(f"ExecStart={sys.executable}"))
        words = shlex.split(command)
        for credential in ("page.pem", "page.key"):
            assert f"LoadCredential={credential}:/etc/edge-station/{credential}" in text
            assert f"%d/{credential}" in words, "the key is named, and lies in no folder that the page's user reads"
        from edge_daemon.cli import build_parser

        parsed = build_parser().parse_args(words[words.index("station") :])
        assert parsed.host == "192.0.2.20" and parsed.users == Path("/var/lib/edge-station/users.json")


def test_folders_of_the_units_are_the_defaults_of_the_program() -> None:
    from edge_daemon import config

    source = Path(config.__file__).read_text(encoding="utf-8")
    assert settings("edge-line.service")["RuntimeDirectory"] == ["edge-daemon"]
    assert "/run/edge-daemon/line.sock" in source
    assert settings("edge-daemon.service")["CacheDirectory"] == ["edge-daemon"]
    assert "/var/cache/edge-daemon/engines" in source
    assert settings("edge-daemon.service")["StateDirectory"] == ["edge-daemon edge-daemon/pictures"]


@pytest.mark.needs("root")
def test_the_daemon_may_use_the_socket_of_the_gate() -> None:
    """Two users, one group: refused as the program makes the socket, allowed after what the unit does to it."""
    line, daemon = settings("edge-line.service"), settings("edge-daemon.service")
    assert line["Group"] == daemon["Group"]
    post = line["ExecStartPost"][0]
    # Of the system, because nobody else may look into a virtual environment in root's home.
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    knock = "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])"
    with (
        tempfile.TemporaryDirectory(prefix="edge-") as name,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        folder = Path(name)
        folder.chmod(int(line["RuntimeDirectoryMode"][0], 8))
        path = folder / "line.sock"
        options = {"driver": "ascii", "port": "/dev/does-not-exist", "deadline_s": 0.3, "socket_path": str(path)}
        (folder / "options.json").write_text(json.dumps(options), encoding="utf-8")
        notify.bind(str(folder / "notify"))
        notify.settimeout(20)
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_daemon.line", "--options", str(folder / "options.json")],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")},
        )
        try:
            assert b"READY=1" in notify.recv(4096)
            # Another user (nobody), in the group of the gate (here root's).
            other = {"user": 65534, "group": 0, "extra_groups": ()}
            before = run(python, "-c", knock, str(path), **other)
            assert "PermissionError" in before.stderr
            assert run(*shlex.split(post.replace("/run/edge-daemon", name))).returncode == 0
            after = run(python, "-c", knock, str(path), **other)
            assert after.returncode == 0, after.stderr
            stranger = run(python, "-c", knock, str(path), user=65534, group=65534, extra_groups=())
            assert "PermissionError" in stranger.stderr
        finally:
            process.terminate()
            process.wait(10)


@needs_systemd
@pytest.mark.needs("root")
def test_users_and_folders_can_be_made(tmp_path: Path) -> None:
    """systemd-sysusers and systemd-tmpfiles on an empty root: users, groups, members, folder modes."""
    root = tmp_path / "root"
    for folder in ("etc", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d"):
        (root / folder).mkdir(parents=True)
    (root / "etc/group").write_text("root:x:0:\ndialout:x:20:\nvideo:x:44:\nrender:x:105:\n", encoding="utf-8")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="utf-8")
    done = run("systemd-sysusers", f"--root={root}", str(UNITS / "sysusers.d/edge-daemon.conf"))
    assert done.returncode == 0, done.stderr
    users = {line.split(":")[0] for line in (root / "etc/passwd").read_text(encoding="utf-8").splitlines()}
    assert {settings(name)["User"][0] for name in SERVICES} <= users
    groups = {
        line.split(":")[0]: line.split(":")[3].split(",")
        for line in (root / "etc/group").read_text(encoding="utf-8").splitlines()
    }
    assert "edge-line" in groups["dialout"]
    assert "edge-line" in groups["edge-daemon"]
    for group in ("video", "render", "plugdev"):
        assert "edge-daemon" in groups[group]
    assert groups["dialout"] == ["edge-line"], "only the gate may open the serial port"
    assert "edge-station" in groups["edge-daemon"]

    (root / "etc/edge-daemon").mkdir()
    for name in ("line.toml", "mqtt-password"):
        (root / "etc/edge-daemon" / name).write_text("x", encoding="utf-8")
    done = run("systemd-tmpfiles", f"--root={root}", "--create", str(UNITS / "tmpfiles.d/edge-daemon.conf"))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((root / "etc/edge-daemon").stat().st_mode) == 0o750
    assert stat.S_IMODE((root / "etc/edge-daemon/mqtt-password").stat().st_mode) == 0o640


def test_udev_rules_are_well_formed() -> None:
    text = (UNITS / "udev/70-edge-daemon.rules").read_text(encoding="utf-8")
    item = re.compile(r'(?:[A-Z_]+|(?:ATTRS?|ENV)\{[\w/]+\})(?:==|!=|\+=|:=|=)"[^"]*"\Z')
    rules = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert any('SYMLINK+="edge-plc"' in rule for rule in rules)
    for rule in rules:
        parts = [part.strip() for part in rule.split(",")]
        assert all(item.match(part) for part in parts), rule
        assert any("==" in part for part in parts), f"matches everything: {rule}"
