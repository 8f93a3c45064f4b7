"""A private MQTT broker on a free loopback port, for the demo and the tests.

``mosquitto`` where it is installed, else ``iotcore`` (rumqttd, compiled into a wheel without dependencies). It listens
on 127.0.0.1 only, keeps its configuration in a temporary folder, and ends with the ``with`` block:

    with Broker() as broker:
        options = MqttOptions(host=broker.host, port=broker.port, version=broker.mqtt_version, ...)

``python -m edge_daemon.testing.broker --port 18830`` runs one in the foreground until its standard input closes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import OutputError

__all__ = ["Broker", "broker_kinds"]

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 10.0

# connection_timeout is rumqttd's own time-out for a silent client; the largest message is a result with every defect.
_IOTCORE_CONFIG = """
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[{family}.1]
name = "loopback"
listen = "{host}:{port}"
next_connection_delay_ms = 1
    [{family}.1.connections]
    connection_timeout_ms = 60000
    max_payload_size = 1048576
    max_inflight_count = 100
    dynamic_filters = true
"""

# Not max_queued_messages 0 (no limit): with it mosquitto 2.0.11 ends the connection at every message its ACL forbids.
_MOSQUITTO_CONFIG = """
listener {port} {host}
persistence true
persistence_location {folder}/
autosave_interval 1
autosave_on_changes true
max_queued_messages 100000
log_dest stderr
log_type error
"""


def broker_kinds() -> tuple[str, ...]:
    """Which brokers this machine has, the best first: ``mosquitto``, ``iotcore``."""
    kinds = []
    if _mosquitto() is not None:
        kinds.append("mosquitto")
    # Before 0.4 the package had no listen address, and its broker was open to the whole network.
    if importlib.util.find_spec("iotcore") is not None and importlib.util.find_spec("iotcore.broker") is not None:
        kinds.append("iotcore")
    return tuple(kinds)


def _mosquitto() -> str | None:
    # Debian puts it into /usr/sbin, which is not on everybody's PATH.
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin")


class Broker:
    """One broker process; a context manager, or ``start`` / ``stop`` by hand (again and again, on the same port).

    Parameters
    ----------
    kind : ``mosquitto`` or ``iotcore``; None takes the first of ``broker_kinds()``.
    port : 0 takes a free one.
    mqtt_version : 5 or 311. mosquitto speaks both on one port; iotcore the one asked for.
    settings : more lines for mosquitto.conf (passwords, ACL, TLS); without them anybody on this machine may connect.

    Raises OutputError when there is no broker, or when it does not come up.
    """

    def __init__(
        self, *, kind: str | None = None, port: int = 0, mqtt_version: int = 5, settings: Sequence[str] = ()
    ) -> None:
        kinds = broker_kinds()
        if (kind is None and not kinds) or (kind is not None and kind not in kinds):
            raise OutputError(
                f"this machine has no MQTT broker {kind or ''}".rstrip(),
                code="NO_BROKER",
                hint="apt-get install mosquitto, or pip install iotcore",
            )
        self.host = _HOST
        self.port = port or _free_port()
        self.kind = kind or kinds[0]
        self.mqtt_version = mqtt_version
        self._settings = tuple(settings)
        if self._settings and self.kind != "mosquitto":
            raise ValueError("settings are lines of mosquitto.conf")
        self._folder = Path(tempfile.mkdtemp(prefix="edge-broker-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Broker:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The broker's process, None while it is stopped."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        errors = self._folder / "stderr.txt"
        with open(errors, "wb") as stderr:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                # Ctrl-C in a terminal goes to the whole group; the broker must outlive the daemon's last messages.
                start_new_session=True,
            )
        give_up_s = time.monotonic() + _START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < give_up_s:
            if _answers(self.port):
                return
            time.sleep(0.02)
        self.stop()
        said = errors.read_text(encoding="utf-8", errors="replace").strip() or "nothing"
        raise OutputError(f"{self.kind} did not start on {self.host}:{self.port}; it said: {said}", code="NO_BROKER")

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End it; with ``signal.SIGKILL`` as a power cut would. Safe when it is stopped already."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        process.send_signal(signal_number)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _command(self) -> list[str]:
        if self.kind == "iotcore":
            arguments = ["--port", str(self.port), "--mqtt-version", str(self.mqtt_version), "--kind", "iotcore"]
            return [sys.executable, "-m", __name__, *arguments]
        config = self._folder / "mosquitto.conf"
        text = _MOSQUITTO_CONFIG.format(host=self.host, port=self.port, folder=self._folder)
        # Started by root, mosquitto would change to a user who cannot read the folder.
        text += "user root\n" if os.geteuid() == 0 else ""
        text += "\n".join(self._settings or ("allow_anonymous true",)) + "\n"
        config.write_text(text, encoding="utf-8")
        return [str(_mosquitto()), "-c", str(config)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=0.5):
        return True
    return False


def _run_iotcore(port: int, mqtt_version: int) -> None:
    """Become the broker; rumqttd has no way to stop, so the process ends with its parent (standard input closes)."""

    def leave_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    native = importlib.import_module("iotcore.iotcore")
    family = "v5" if mqtt_version == 5 else "v4"
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as config:
        config.write(_IOTCORE_CONFIG.format(family=family, host=_HOST, port=port))
        config.flush()
        broker = native.IotCoreBroker(config_path=config.name)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    broker.run_forever()


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m edge_daemon.testing.broker``: a broker in the foreground until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m edge_daemon.testing.broker", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mqtt-version", type=int, choices=(5, 311), default=5)
    parser.add_argument("--kind", choices=("mosquitto", "iotcore"))
    options = parser.parse_args(arguments)
    if options.kind == "iotcore":
        _run_iotcore(options.port, options.mqtt_version)
        return
    with Broker(kind=options.kind, port=options.port, mqtt_version=options.mqtt_version):
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
