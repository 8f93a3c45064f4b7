"""sd_notify against a real datagram socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_daemon import notify


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name if request.param == "abstract" else name)
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", ("@" if request.param == "abstract" else "") + name)
        yield sock


def test_messages(systemd: socket.socket) -> None:
    assert notify.ready("two\nlines")
    assert notify.watchdog()
    assert notify.status("all\nwell")
    assert notify.stopping()
    assert [systemd.recv(100) for _ in range(4)] == [
        b"READY=1\nSTATUS=two lines",
        b"WATCHDOG=1",
        b"STATUS=all well",
        b"STOPPING=1",
    ]


@pytest.mark.parametrize("address", [None, "", "not-a-path", "/nowhere/at/all"])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify.ready() is False


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [("3000000", None, 1.5), (None, None, None), ("0", None, None), ("x", None, None), ("3000000", "1", None)],
)
def test_watchdog_interval(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, interval_s: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert notify.watchdog_interval_s() == interval_s
