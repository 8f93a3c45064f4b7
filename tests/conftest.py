"""What every test shares: the ``needs`` marker.

A test that needs something beyond the ``dev`` extra says so with ``@pytest.mark.needs("mosquitto", ...)``. Where it is
absent the test skips and says why; with ``REQUIRE_ALL=1`` (as in CI) the absence is a failure instead.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
from collections.abc import Callable

import pytest


def _program(name: str) -> Callable[[], bool]:
    return lambda: shutil.which(name) is not None


def _module(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


def _aravis() -> bool:
    if importlib.util.find_spec("gi") is None:
        return False
    import gi

    try:
        gi.require_version("Aravis", "0.8")
    except ValueError:
        return False
    return True


def _postgresql() -> bool:
    from edge_daemon.testing.postgres import server_programs

    return server_programs() is not None


#: name -> (is it here?, how to get it)
NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "mosquitto": (_program("mosquitto"), "apt-get install mosquitto"),
    "mosquitto_sub": (_program("mosquitto_sub"), "apt-get install mosquitto-clients"),
    "socat": (_program("socat"), "apt-get install socat"),
    "libmodbus": (lambda: ctypes.util.find_library("modbus") is not None, "apt-get install libmodbus5"),
    "gcc": (_program("gcc"), "apt-get install gcc"),
    "strace": (_program("strace"), "apt-get install strace"),
    "promtool": (_program("promtool"), "apt-get install prometheus"),
    "postgresql": (_postgresql, "apt-get install postgresql"),
    "psycopg": (_module("psycopg"), "pip install 'edge-daemon[postgres]'"),
    "systemd-analyze": (_program("systemd-analyze"), "apt-get install systemd"),
    "ip": (_program("ip"), "apt-get install iproute2"),
    "root": (lambda: os.geteuid() == 0, "run as root"),
    "pdftotext": (_program("pdftotext"), "apt-get install poppler-utils"),
    "openssl": (_program("openssl"), "apt-get install openssl"),
    "axe": (_module("axe_playwright_python"), "pip install 'edge-daemon[dev]'"),
    "chromium": (_program("chromium"), "apt-get install chromium"),
    "playwright": (_module("playwright"), "pip install 'edge-daemon[dev]'"),
    "aravis": (_aravis, "apt-get install gir1.2-aravis-0.8 and pip install 'edge-daemon[aravis]'"),
    "pypylon": (_module("pypylon"), "pip install 'edge-daemon[basler]'"),
    "torch": (_module("torch"), "pip install 'edge-daemon[train]'"),
    "tensorrt_rtx": (_module("tensorrt_rtx"), "pip install 'edge-daemon[rtx-check]'"),
    "gvxr": (_module("gvxrPython3"), "pip install 'edge-daemon[simulator-check]' and apt-get install libegl1"),
    "xraydb": (_module("xraydb"), "pip install 'edge-daemon[simulator-check]'"),
    "spekpy": (_module("spekpy"), "pip install 'edge-daemon[simulator-check]'"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("needs"):
            for name in mark.args:
                present, remedy = NEEDS[name]
                if present():
                    continue
                if os.environ.get("REQUIRE_ALL") == "1":
                    item.add_marker(pytest.mark.usefixtures("_required_but_absent"))
                    item.stash.setdefault(_ABSENT, []).append(f"{name}: {remedy}")
                else:
                    item.add_marker(pytest.mark.skip(reason=f"needs {name}: {remedy}"))


_ABSENT = pytest.StashKey[list[str]]()


@pytest.fixture
def _required_but_absent(request: pytest.FixtureRequest) -> None:
    pytest.fail("required but absent: " + "; ".join(request.node.stash[_ABSENT]))
