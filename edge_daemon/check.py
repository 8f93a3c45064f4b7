"""``edge-daemon check``: try everything a station needs, a line each, before the first part comes.

It tries the real thing (opens the camera, sends a message to the broker, writes to the disk) and never stops at the
first trouble. What it must not do is disturb a running line, or leave anything behind that the daemon would trip over:
a camera or a serial port in use is reported as such and not touched, and no memory bank is made. Run it as the user
the daemon runs as, else it says what another user may do.
"""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .errors import EdgeError, GrabTimeout
from .resources import data_folder

if TYPE_CHECKING:
    from .config import DaemonConfig

__all__ = ["Finding", "run_checks"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the preflight. exit_code: 0 when ok, else that of the error behind it."""

    what: str
    ok: bool
    text: str
    hint: str = ""
    exit_code: int = 0


def _try(what: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, attempt())
    except EdgeError as error:
        return Finding(what, False, error.message, error.hint, error.exit_code)
    except OSError as error:
        return Finding(what, False, str(error), "see the message", 3)


def _packages() -> str:
    names = ("numpy", "opencv-python-headless", "onnxruntime", "paho-mqtt", "pyserial", "pymodbus", "prometheus-client")
    optional = ("pypylon", "pygobject", "tensorrt", "pycuda", "openvino", "torch")
    found = [f"{name} {version(name)}" for name in names]
    for name in optional:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"edge-daemon {__version__}, Python {sys.version.split()[0]}, " + ", ".join(found)


def _bundles() -> str:
    from .segment.registry import list_bundles

    listed = list_bundles(data_folder("engines"))
    for one in listed:
        if one.error is not None:
            raise one.error
    return ", ".join(f"{one.bundle.name} {one.bundle.version}" for one in listed if one.bundle) or "none installed"


def _references() -> str:
    from .references import load_reference_set

    root = data_folder("references")
    manifests = sorted(root.rglob("manifest.json"))
    for manifest in manifests:
        load_reference_set(manifest.parent)
    return f"{len(manifests)} sets, seals hold"


def _engine(config: DaemonConfig) -> str:
    from .daemon import build_station

    station = build_station(config)
    try:
        started_s = time.perf_counter()
        for reference in station.references.values():
            for image in reference.images.values():
                station.inspect(image.pixels)
        looked_s = time.perf_counter() - started_s
        plates = sum(len(reference.images) for reference in station.references.values())
        timing = f", {1000 * looked_s / plates:.0f} ms a picture" if plates else ""
        engine = f"{station.engine.name} ({station.engine.backend})"
        golden = ""
        if station.golden is not None:
            golden = f"; golden part rejected: {station.golden.check(station.inspect(station.golden.pixels).verdict)}"
        return f"recipe {station.name} on {engine}{timing}; {plates} plates measured{golden}"
    finally:
        station.engine.close()


def _camera(config: DaemonConfig) -> str:
    from .capture import make_camera

    if _daemon_may_run(config):
        return f"{config.camera.kind} camera: in use by the running station, not tried"
    camera = make_camera(config.camera.kind, config.camera.options)
    try:
        camera.open()
        try:
            frame = camera.grab(2.0, after_ns=time.monotonic_ns())
        except GrabTimeout:
            return f"{camera.identity} is there; no frame within 2 s (normal when it waits for a trigger or a file)"
        height, width = frame.pixels.shape[:2]
        return f"{camera.identity} delivered {width} x {height} px, {8 * frame.pixels.dtype.itemsize} bit"
    finally:
        camera.close()


def _daemon_may_run(config: DaemonConfig) -> bool:
    """Whether the camera may be in the daemon's hands.

    The daemon serves [watch] from before it opens the camera until after it has closed it. Where the port is any free
    one, nobody can tell, and a line process that answers counts as a daemon.
    """
    watch = config.watch
    if watch.port == 0:
        return _line_process_answers(config)
    return _answers(socket.AF_INET6 if ":" in watch.host else socket.AF_INET, (watch.host, watch.port))


def _line_process_answers(config: DaemonConfig) -> bool:
    from .errors import LineError

    path = config.line.options.socket_path
    try:
        return _answers(socket.AF_UNIX, path)
    except PermissionError:
        raise LineError(
            f"{path}: this user may not ask whether the station is running",
            hint="run the check as the daemon's user: runuser -u edge-daemon -- edge-daemon check --config ...",
        ) from None


def _answers(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    """Whether somebody listens there; also True for one who is too busy to take the connection."""
    kind = socket.SOCK_SEQPACKET if family == socket.AF_UNIX else socket.SOCK_STREAM
    with socket.socket(family, kind) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(address)
        except (TimeoutError, BlockingIOError):
            return True
        except PermissionError:
            raise
        except OSError:
            return False
        return True


def _serial_port(config: DaemonConfig) -> str:
    import termios

    from .errors import LineError
    from .line.options import LineOptions
    from .line.port import open_port

    options: LineOptions = config.line.options
    if _line_process_answers(config):
        return f"{options.port} is held by a running line process"
    try:
        open_port(options.port, lines=options.driver == "discrete", baudrate=options.baudrate).close()
    except (OSError, termios.error, ValueError) as error:
        raise LineError(
            f"{options.port}: {error}", hint="is the adapter plugged in, and this user in the group dialout?"
        ) from None
    return f"{options.port} can be opened ({options.driver}, {options.baudrate} baud)"


def _broker(config: DaemonConfig) -> str:
    from .config import check_mqtt_files
    from .publish import probe

    if config.mqtt is None:
        return "no [mqtt]: results stay in the memory bank"
    check_mqtt_files(config)
    return probe(config.mqtt)


def _disk(config: DaemonConfig) -> str:
    from .errors import StorageError
    from .memory import MemoryBank

    memory = config.memory
    for folder in (memory.database.parent, memory.pictures):
        if not folder.is_dir():
            raise StorageError(f"{folder} does not exist", hint=f"mkdir -p {folder}, owned by the daemon's user")
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".edge-daemon-check-") as trial:
                trial.write(bytes(4096))
                trial.flush()
                os.fsync(trial.fileno())
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be written: {error.strerror}", hint="does it belong to the daemon's user?"
            ) from error
    free = shutil.disk_usage(memory.database.parent).free
    if free < memory.min_free_bytes:
        raise StorageError(f"{memory.database.parent}: {free / 1e6:.0f} MB free, less than min_free", hint="make room")
    if not memory.database.exists():
        # Not made here: a bank that belongs to whoever ran the check would stop the daemon.
        return f"{memory.database} does not exist yet and can be made, {free / 1e9:.1f} GB free"
    try:
        MemoryBank(memory.database, read_only=True).close()
    except StorageError as error:
        if error.code != "SCHEMA_OLDER":
            raise
        # Not upgraded here: a daemon of the older program may be using it at this moment.
        return f"{memory.database} is of an older program; the daemon brings it up to date at its start"
    with MemoryBank(memory.database) as bank:
        bank.check_writable()
    return f"{memory.database} can be written, {free / 1e9:.1f} GB free"


def _watch(config: DaemonConfig) -> str:
    watch = config.watch
    with socket.socket(socket.AF_INET6 if ":" in watch.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((watch.host, watch.port))
        except OSError as error:
            from .errors import UnavailableError

            if error.errno == errno.EADDRINUSE and _serves_this_station(config):
                return f"/metrics is served on {watch.host}:{watch.port} by the running station"
            raise UnavailableError(
                f"{watch.host}:{watch.port} cannot be used for /metrics: {error.strerror}",
                hint="choose another [watch] port, or stop what uses this one",
            ) from None
    return f"/metrics can be served on {watch.host}:{watch.port}"


def _serves_this_station(config: DaemonConfig) -> bool:
    host = f"[{config.watch.host}]" if ":" in config.watch.host else config.watch.host
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://{host}:{config.watch.port}/metrics", timeout=2.0) as answer:
            return f'station="{config.station}"' in answer.read(10_000_000).decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException):
        return False  # something else uses the port


def run_checks(config_path: Path | None) -> Iterator[Finding]:
    """The findings, one after the other, as they are made. Without a config only the installation is looked at."""
    yield _try("installation", _packages)
    yield _try("engine bundles", _bundles)
    yield _try("reference sets", _references)
    if config_path is None:
        return
    from .config import load_config

    try:
        config = load_config(config_path)
    except EdgeError as error:
        yield Finding("config", False, error.message, error.hint, error.exit_code)
        return
    yield Finding("config", True, f"{config_path}: station {config.station}")
    checks: tuple[tuple[str, Callable[[DaemonConfig], str]], ...] = (
        ("recipe and engine", _engine),
        ("camera", _camera),
        ("serial port", _serial_port),
        ("broker", _broker),
        ("memory bank", _disk),
        ("watch", _watch),
    )
    for what, check in checks:
        yield _try(what, lambda check=check: check(config))  # type: ignore[misc]
