"""The page beside the demo's line: a process of its own, as on a device."""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

__all__ = ["DemoPage"]

_FIRST_PORT, _PORTS = 7860, 40
_START_S, _STOP_S = 30.0, 15.0


class DemoPage:
    """``edge-daemon station`` on port 7860 or the next free one; a context manager. The demo runs without it as well.

    config: line.toml of the line. watch_url: where its /metrics are. data: folder of the page's own records. url: the
    address that opens the page, "" where it could not be started; ``why`` then says the reason.
    """

    def __init__(self, config: Path, watch_url: str, data: Path) -> None:
        self._config, self._watch_url, self._data = config, watch_url, data
        self._process: subprocess.Popen[bytes] | None = None
        self.url, self.why = "", ""

    def __enter__(self) -> DemoPage:
        missing = [name for name in ("starlette", "uvicorn", "multipart") if importlib.util.find_spec(name) is None]
        if missing:
            self.why = "the page needs: pip install 'edge-daemon[station]'"
            return self
        command = [
            sys.executable, "-m", "edge_daemon", "station", "--config", str(self._config), "--watch", self._watch_url,
            "--data", str(self._data), "--port", str(_free_port()), "--backend", "onnxruntime", "--json",
        ]  # fmt: skip
        log_path = self._data.with_name("page.log")
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        self.url = self._said_url()
        if not self.url:
            self.why = f"the page did not start: see {log_path}"
        return self

    def _said_url(self) -> str:
        """The address from the page's first line, "" where none comes."""
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            until_s = time.monotonic() + _START_S
            while time.monotonic() < until_s:
                if selector.select(0.2):
                    line = self._process.stdout.readline()
                    return str(json.loads(line)["url"]) if line.strip() else ""
        return ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def _free_port() -> int:
    """7860, or the next that nobody listens on; 0 (any) where forty in a row are taken."""
    for port in range(_FIRST_PORT, _FIRST_PORT + _PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return 0
