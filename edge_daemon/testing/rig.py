"""A whole station on one machine: real daemon and line processes, a played camera, a PLC's end of the wire.

    with Broker() as broker, Rig(folder, frames, broker=broker) as rig:
        rig.start_daemon()
        with rig.plc() as plc:
            plc.wait_ready(10)
            plc.run(parts=8, rate_per_min=60)

``frames`` are pictures in the order of the parts, again and again. The camera is pylon's emulation of them, or a folder
into which each part's frame falls a few milliseconds after its trigger. Used by the demo, the benchmark and the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UnavailableError
from ..images import load_picture, make_folder, write_png_atomic
from .broker import Broker
from .virtual_plc import PtyPair, VirtualPlc

__all__ = ["Rig", "eventually"]

TOPIC_ROOT = "demo/works/casting/line1/xray"
_CAMERA_DELAY_S = 0.005
_APART_S = 0.1
_STOP_TIMEOUT_S = 20.0


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Whether it comes true in that time."""
    until_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.02)
    return condition()


class Rig:
    """One station in a folder of its own. A context manager; what it started, it ends.

    folder: config, memory bank, pictures and logs. frames: the camera's pictures. recipe: text of the recipe file.
    driver, camera (``basler`` or ``folder``), deadline_s, plc_deadline_s: of the station. broker: None: no MQTT.
    settings: further lines by table, e.g. ``{"memory": 'keep = "none"'}``. module: what is run as the daemon.
    environment: of the daemon, and with it of the line process it starts, beside this process's own.
    """

    def __init__(
        self,
        folder: Path,
        frames: Sequence[Path],
        *,
        recipe: str,
        broker: Broker | None = None,
        driver: str = "ascii",
        camera: str = "folder",
        deadline_s: float = 0.4,
        plc_deadline_s: float = 0.45,
        settings: dict[str, str] | None = None,
        module: str = "edge_daemon",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder = make_folder(folder.resolve())
        self.frames = list(frames)
        self.config_path = self.folder / "line.toml"
        self.database = self.folder / "memory.db"
        self.log_path = self.folder / "daemon.log"
        self._recipe, self._broker, self._driver, self._camera = recipe, broker, driver, camera
        self._deadline_s, self._plc_deadline_s = deadline_s, plc_deadline_s
        self._settings = settings or {}
        self._module, self._environment = module, environment or {}
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.metrics_port: int | None = None

    def __enter__(self) -> Rig:
        with contextlib.ExitStack() as stack:
            self._sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-rig-")))
            self.wire = stack.enter_context(PtyPair())
            for name in ("pictures", "camera"):
                make_folder(self.folder / name)
            (self.folder / "recipe.toml").write_text(self._recipe)
            self.config_path.write_text(self._config_text())
            self._exposer = stack.enter_context(_Exposer(self.folder / "camera", self.frames))
            self._free_s = 0.0
            stack.callback(self._end_line_process)
            stack.callback(self.stop_daemon)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def socket_path(self) -> Path:
        """The socket between daemon and line process."""
        return self._sockets / "line.sock"

    def _config_text(self) -> str:
        if self._camera == "basler":
            # The emulator exposes as long as it is told to: 100 us is a strobe's time.
            camera = f'kind = "basler"\nemulation_folder = "{self.frames[0].parent}"\nexposure = "100 us"'
        else:
            camera = 'kind = "folder"\nfolder = "camera"\nafter = "delete"\nsettle = "0 ms"\npoll = "2 ms"'
            camera += '\nmax_early = "40 ms"'
        tables = {
            "station": 'name = "demo"\nrecipe = "recipe.toml"',
            "camera": f"{camera}\nfrozen_after = 0",
            "engine": 'backend = "auto"\nthreads = 2\ncache = "engine-cache"',
            "line": f'driver = "{self._driver}"\nport = "{self.wire.device_path}"\n'
            f'deadline = "{1000 * self._deadline_s:g} ms"\nsocket = "{self.socket_path}"',
            "memory": 'database = "memory.db"\npictures = "pictures"\nmin_free = "50 MB"',
            "watch": "port = 0",
        }
        if self._broker is not None:
            version = "5" if self._broker.mqtt_version == 5 else "3.1.1"
            tables["mqtt"] = (
                f'host = "{self._broker.host}"\nport = {self._broker.port}\ntopic_root = "{TOPIC_ROOT}"\n'
                f'version = "{version}"'
            )
        for name, lines in self._settings.items():
            tables[name] = f"{tables.get(name, '')}\n{lines}"
        return "".join(f"[{name}]\n{lines}\n\n" for name, lines in tables.items())

    # -- the device -----------------------------------------------------------------------------------------------

    def start_daemon(self, timeout_s: float = 60.0) -> int:
        """Start ``edge-daemon run`` and wait until it says so; returns its process id. Raises UnavailableError."""
        already = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, "run", "--config", str(self.config_path)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment},
            )  # fmt: skip
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s and self._process.poll() is None:
            for line in self.log_path.read_bytes()[already:].decode(errors="replace").splitlines():
                if '"event": "started"' in line:
                    self.metrics_port = int(json.loads(line)["metrics_port"])
                    return self._process.pid
            time.sleep(0.02)
        raise UnavailableError(f"the daemon did not start: {' / '.join(self.log()[-3:])}", hint=f"see {self.log_path}")

    def log(self) -> list[str]:
        """Lines of the daemon's log so far."""
        return self.log_path.read_text(errors="replace").splitlines()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        lines = [json.loads(line) for line in self.log() if line.startswith("{")]
        return [line for line in lines if line.get("event") == name]

    def line_pid(self) -> int:
        """Process id of the line process that holds this rig's serial port. Raises UnavailableError."""
        wanted = f"{self.socket_path}.json"
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # it has just ended
                    arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if "edge_daemon.line" in arguments and wanted in arguments:
                        return int(entry.name)
        raise UnavailableError("no line process runs for this rig")

    def signal_daemon(self, number: int) -> None:
        """Send a signal to the daemon."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill_daemon(self) -> None:
        """SIGKILL, and wait until it is gone. The line process lives on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def daemon_has_ended(self) -> bool:
        """Whether no daemon is running."""
        return self._process is None or self._process.poll() is not None

    def stop_daemon(self) -> int | None:
        """SIGTERM; its exit code, None when none was running. SIGKILL after 20 s."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _end_line_process(self) -> None:
        """A line process that outlived a killed daemon, as it should, ends with the rig."""
        with contextlib.suppress(UnavailableError, ProcessLookupError):  # none is left
            os.kill(self.line_pid(), signal.SIGTERM)
            until_s = time.monotonic() + _STOP_TIMEOUT_S
            while time.monotonic() < until_s:
                self.line_pid()
                time.sleep(0.05)

    def get(self, path: str) -> str:
        """Body of a page of the daemon's server. Raises urllib.error.HTTPError; UnavailableError: nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5.0) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            raise UnavailableError(f"the daemon does not answer: {error}", hint=f"see {self.log_path}") from error

    def ready(self) -> bool:
        """Whether /readyz says so."""
        try:
            return bool(self.get("/readyz"))
        except urllib.error.HTTPError:
            return False

    def samples(self, name: str) -> dict[str, float]:
        """Samples of one metric from /metrics: labels as text -> value."""
        found = {}
        for line in self.get("/metrics").splitlines():
            if line.startswith((name + "{", name + " ")):
                labels, _, value = line.rpartition(" ")
                found[labels[len(name) :]] = float(value)
        return found

    # -- the PLC --------------------------------------------------------------------------------------------------

    def camera_fault(self, fault: str) -> None:
        """What is wrong with the folder camera from now on: ``silent`` (no frames), ``frozen`` (the last one again and
        again), ``small`` (of another size), ``broken`` (half a file); ``""``: nothing."""
        self._exposer.fault = fault

    def plc(self, **options: Any) -> VirtualPlc:
        """A PLC at the other end of the wire; not started yet. Its triggers also expose the folder camera."""
        expose = self._expose_apart if self._camera == "folder" else None
        options.setdefault("on_trigger", expose)
        options.setdefault("deadline_s", self._plc_deadline_s)
        return VirtualPlc(self.wire.plc_path, self._driver, **options)

    def _expose_apart(self, part_id: int) -> None:
        """As on a belt: the next part stands there when the one before has gone, later than ``max_early`` reaches."""
        time.sleep(max(0.0, self._free_s - time.monotonic()))
        self._free_s = time.monotonic() + _APART_S
        self._exposer.trigger(part_id)


class _Exposer:
    """What a triggered camera with a folder does: a few milliseconds after the trigger the frame falls into it."""

    def __init__(self, folder: Path, frames: Sequence[Path]) -> None:
        self._folder, self._frames = folder, frames
        self._part_ids: list[int] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._count = 0
        self.fault = ""
        self._thread = threading.Thread(target=self._run, name="exposer", daemon=True)

    def trigger(self, part_id: int) -> None:
        with self._wake:
            self._part_ids.append(part_id)
            self._wake.notify()

    def _run(self) -> None:
        last: Path | None = None
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._part_ids or self._stopping)
                if self._stopping:
                    return
                part_id = self._part_ids.pop(0)
            time.sleep(_CAMERA_DELAY_S)
            if self.fault == "silent":
                continue
            if self.fault != "frozen" or last is None:
                last = self._frames[(part_id - 1) % len(self._frames)]
            self._count += 1
            with contextlib.suppress(OSError):  # its folder is away: a camera that is not there delivers nothing
                self._deliver(last)

    def _deliver(self, frame: Path) -> None:
        partial = self._folder / f".{self._count:09d}.part"
        shutil.copyfile(frame, partial)
        if self.fault == "broken":
            os.truncate(partial, partial.stat().st_size // 2)
        elif self.fault == "small":
            write_png_atomic(partial, load_picture(frame).pixels[::2, ::2])
        partial.rename(self._folder / f"{self._count:09d}{frame.suffix}")

    def __enter__(self) -> _Exposer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()
