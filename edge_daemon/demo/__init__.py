"""``edge-daemon demo``: the whole line on one machine, with nothing to plug in.

Real are the daemon and the line process (started as ``edge-daemon run`` starts them), the serial protocol over a
pseudo-terminal, the broker, the memory bank, /metrics. Played are the conveyor (simulated castings), the camera (Basler
emulation where pypylon is installed, else a folder into which frames fall) and the PLC. Four independent counts are
compared at the end: the device's records, what the PLC let through, what a broker subscriber received, /metrics.
"""

from __future__ import annotations

import contextlib
import importlib.util
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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from ..errors import EdgeError, OutputError, UnavailableError
from ..images import make_folder, write_png_atomic
from ..memory import MemoryBank
from ..simulator import conveyor_part
from ..testing.broker import Broker
from ..testing.virtual_plc import PlcCounts, PtyPair, VirtualPlc

__all__ = ["DemoReport", "run"]

#: What lies on the belt, again and again: planted, so that a person can compare.
_BELT = ("sound", "acceptable", "sound", "rejectable", "sound", "acceptable", "crack", "sound")
_DIFFERENT_PARTS = 24
_FIRST_SEED = 950_000
_DEADLINE_MS = 400
_PLC_DEADLINE_S = 0.45
_TOPIC_ROOT = "demo/works/casting/line1/xray"
_START_TIMEOUT_S = 60.0
_DRAIN_TIMEOUT_S = 20.0
_CAMERA_DELAY_S = 0.005


@dataclass(frozen=True, slots=True)
class Counts:
    """One place's view of the run."""

    parts: int
    passed: int


@dataclass(slots=True)
class DemoReport:
    """What the four places counted, and how long the answer took. agrees: all four say the same."""

    parts: int
    device: Counts
    plc: Counts
    broker: Counts
    metrics: Counts
    outcomes: dict[str, int]
    latency_ms: dict[str, float]
    doubled: int
    late_permits: int
    rss_mb: dict[str, float]
    camera: str
    broker_kind: str
    engine: str
    truth: dict[str, dict[str, int]]
    highlights: list[str] = field(default_factory=list)
    folder: str = ""

    @property
    def agrees(self) -> bool:
        """Four equal counts, one message a record, no permit after a deadline."""
        same = self.device == self.plc == self.broker == self.metrics
        return same and self.device.parts == self.parts and self.doubled == 0 and self.late_permits == 0

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {**asdict(self), "agrees": self.agrees}

    def text(self) -> str:
        """The report for people."""
        rows = [("device (memory bank)", self.device), ("PLC (let through)", self.plc),
                ("broker subscriber", self.broker), ("/metrics", self.metrics)]  # fmt: skip
        lines = ["", f"{'':24}{'parts':>8}{'passed':>8}{'rejected':>10}"]
        lines += [f"{name:24}{c.parts:8}{c.passed:8}{c.parts - c.passed:10}" for name, c in rows]
        lines.append("the four counts agree" if self.agrees else "THE FOUR COUNTS DO NOT AGREE")
        lines.append("outcomes: " + ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items())))
        for planted, found in self.truth.items():
            lines.append(f"  planted {planted}: " + ", ".join(f"{name} {n}" for name, n in sorted(found.items())))
        if self.latency_ms:
            figures = ", ".join(f"{name} {value:.1f} ms" for name, value in self.latency_ms.items())
            lines.append(f"trigger to permit, seen by the PLC: {figures} (deadline {_DEADLINE_MS} ms)")
        lines.append(f"late permits obeyed or sent: {self.late_permits}; messages doubled by id: {self.doubled}")
        if len(self.rss_mb) > 1:
            lines.append("daemon memory: " + ", ".join(f"{at} {mb:.0f} MB" for at, mb in self.rss_mb.items()))
        lines.append(f"camera: {self.camera}; engine: {self.engine}; broker: {self.broker_kind}")
        if self.highlights:
            lines.append("highlighted pictures of rejected parts:")
            lines += [f"  {path}" for path in self.highlights]
        lines.append(f"everything else: {self.folder}")
        return "\n".join(lines)


def _stem(index: int) -> str:
    return f"{index % _DIFFERENT_PARTS:03d}"


def _planted(index: int) -> str:
    return _BELT[index % _DIFFERENT_PARTS % len(_BELT)]


def _render_parts(folder: Path, count: int) -> None:
    for index in range(min(count, _DIFFERENT_PARTS)):
        part = conveyor_part(_FIRST_SEED + index, _planted(index))  # type: ignore[arg-type]
        write_png_atomic(folder / f"{_stem(index)}.png", part.pixels)


class _Subscriber:
    """An independent listener: counts results by record id."""

    def __init__(self, broker: Broker, on_result: Callable[[dict[str, Any]], None]) -> None:
        self.results: dict[str, dict[str, Any]] = {}
        self.doubled = 0
        self._on_result = on_result
        protocol = MQTTProtocolVersion.MQTTv5 if broker.mqtt_version == 5 else MQTTProtocolVersion.MQTTv311
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="demo-subscriber", protocol=protocol)
        self._subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe(f"{_TOPIC_ROOT}/inspection/result", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._message
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        if not self._subscribed.wait(5.0):
            raise OutputError("the demo's subscriber could not subscribe", hint="see the broker's log")

    def _message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        result = json.loads(message.payload)
        if result["record_id"] in self.results:
            self.doubled += 1
            return
        self.results[result["record_id"]] = result
        self._on_result(result)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def _config_text(work: Path, sockets: Path, wire: PtyPair, broker: Broker, driver: str, camera: str) -> str:
    frames = work / "frames"
    camera_lines = (
        f'kind = "basler"\nemulation_folder = "{frames}"\ntrigger = "software"'
        if camera == "basler"
        else f'kind = "folder"\nfolder = "{work / "camera"}"\nafter = "delete"\nsettle = "0 ms"\npoll = "2 ms"'
    )
    return f"""# Written by edge-daemon demo.
[station]
name = "demo"
recipe = "recipe.toml"

[camera]
{camera_lines}
frozen_after = 0

[engine]
backend = "auto"
threads = 2

[line]
driver = "{driver}"
port = "{wire.device_path}"
deadline = "{_DEADLINE_MS} ms"
socket = "{sockets / "line.sock"}"

[mqtt]
host = "{broker.host}"
port = {broker.port}
topic_root = "{_TOPIC_ROOT}"
version = "{"5" if broker.mqtt_version == 5 else "3.1.1"}"

[memory]
database = "memory.db"
pictures = "pictures"
keep = "not_pass"
min_free = "50 MB"

[watch]
port = 0
"""


class _Device:
    """The daemon as its own process, watched through its log and /metrics."""

    def __init__(self, work: Path) -> None:
        self._log_path = work / "daemon.log"
        self._log = self._log_path.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edge_daemon", "run", "--config", str(work / "line.toml")],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.port: int | None = None

    def wait_started(self, timeout_s: float) -> None:
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if self._process.poll() is not None:
                break
            for line in self._log_path.read_text(errors="replace").splitlines():
                if '"event": "started"' in line:
                    self.port = int(json.loads(line)["metrics_port"])
                    return
            time.sleep(0.05)
        tail = "\n".join(self._log_path.read_text(errors="replace").splitlines()[-5:])
        raise UnavailableError(f"the daemon did not start: {tail}", hint=f"see {self._log_path}")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5.0) as answer:
            return str(answer.read().decode())

    def ready(self) -> bool:
        try:
            return bool(self.get("/readyz"))
        except urllib.error.HTTPError:
            return False

    def samples(self, name: str) -> dict[str, float]:
        """Samples of one metric: labels as text -> value."""
        found = {}
        for line in self.get("/metrics").splitlines():
            if line.startswith((name + "{", name + " ")):
                labels, _, value = line.rpartition(" ")
                found[labels[len(name) :]] = float(value)
        return found

    def stop(self) -> int:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(timeout=20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._log.close()
        return code


@contextlib.contextmanager
def _folder_camera(work: Path) -> Iterator[Callable[[int], None]]:
    """What a triggered camera with a folder does: a few milliseconds after the trigger the frame falls into it."""
    triggers: list[int] = []
    wake = threading.Condition()
    stopping = False

    def trigger(index: int) -> None:
        with wake:
            triggers.append(index)
            wake.notify()

    def expose() -> None:
        while True:
            with wake:
                wake.wait_for(lambda: triggers or stopping)
                if stopping:
                    return
                index = triggers.pop(0)
            time.sleep(_CAMERA_DELAY_S)
            partial = work / "camera" / f".{index:09d}.part"
            shutil.copyfile(work / "frames" / f"{_stem(index)}.png", partial)
            partial.rename(work / "camera" / f"{index:09d}.png")

    (work / "camera").mkdir()
    thread = threading.Thread(target=expose, daemon=True)
    thread.start()
    try:
        yield trigger
    finally:
        with wake:
            stopping = True
            wake.notify()
        thread.join()


def _quantiles_ms(latencies_s: tuple[float, ...]) -> dict[str, float]:
    if not latencies_s:
        return {}
    ordered = sorted(latencies_s)

    def quantile(share: float) -> float:
        return 1000.0 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {"p50": quantile(0.5), "p99": quantile(0.99), "p99.9": quantile(0.999), "max": 1000.0 * ordered[-1]}


def _metrics_counts(device: _Device) -> Counts:
    by_outcome = device.samples("edge_parts_total")
    passed = sum(value for labels, value in by_outcome.items() if 'outcome="PASS"' in labels)
    return Counts(int(sum(by_outcome.values())), int(passed))


def _rss_mb(device: _Device) -> float:
    return sum(device.samples("process_resident_memory_bytes").values()) / 1e6


def _choose_camera(asked: str) -> str:
    if asked != "auto":
        return asked
    return "basler" if importlib.util.find_spec("pypylon") is not None else "folder"


def run(
    *, parts: int, rate_per_min: float, driver: str, camera: str, out: Path, show: Callable[[str], None]
) -> DemoReport:
    """Run the line for ``parts`` parts and compare the four counts. Ctrl-C ends it cleanly at any moment.

    out: a folder; each run gets its own inside. show: takes the lines of the live table. Raises EdgeError.
    """
    camera = _choose_camera(camera)
    work = (out / datetime.now().strftime("run-%Y%m%d-%H%M%S")).resolve()
    for folder in ("pictures", "frames"):
        make_folder(work / folder)
    (work / "recipe.toml").write_bytes(files(__package__).joinpath("recipe.toml").read_bytes())
    show(f"rendering {min(parts, _DIFFERENT_PARTS)} simulated castings ...")
    _render_parts(work / "frames", parts)
    with contextlib.ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-demo-")))
        broker = stack.enter_context(Broker())
        wire = stack.enter_context(PtyPair())
        (work / "line.toml").write_text(_config_text(work, sockets, wire, broker, driver, camera))
        show(f"starting the daemon: {camera} camera, {driver} PLC, {broker.kind} broker on port {broker.port} ...")
        device = _Device(work)
        stack.callback(device.stop)
        expose = stack.enter_context(_folder_camera(work)) if camera == "folder" else None
        device.wait_started(_START_TIMEOUT_S)
        table = _Table(show)
        subscriber = _Subscriber(broker, table.result)
        stack.callback(subscriber.close)
        plc = stack.enter_context(
            VirtualPlc(
                wire.plc_path,
                driver,
                deadline_s=_PLC_DEADLINE_S,
                on_trigger=None if expose is None else lambda part_id: expose(part_id - 1),
            )
        )
        if not plc.wait_ready(10.0):
            raise UnavailableError("the device did not become Ready", hint=f"see {work / 'daemon.log'}")
        engine = next(iter(device.samples("edge_engine_info")), "")
        show(f"running {parts} parts at {rate_per_min:g} a minute; metrics on http://127.0.0.1:{device.port}/metrics")
        table.head()
        rss_mb, counts = _run_belt(plc, device, parts, rate_per_min, show)
        _drain(device, subscriber, counts)
        metrics = _metrics_counts(device)
        late = sum(device.samples("edge_deadline_missed_total").values())
        device.stop()
        subscriber.close()
        return _report(work, counts, subscriber, metrics, int(late), rss_mb, camera, broker.kind, engine)


def _run_belt(
    plc: VirtualPlc, device: _Device, parts: int, rate_per_min: float, show: Callable[[str], None]
) -> tuple[dict[str, float], PlcCounts]:
    """The belt moves; memory is looked at after the first hundred parts and at the end."""
    rss_mb: dict[str, float] = {}
    stop = threading.Event()
    done: list[PlcCounts] = []
    errors: list[BaseException] = []

    def belt() -> None:
        try:
            done.append(plc.run(parts, rate_per_min, stop=stop))
        except EdgeError as error:
            errors.append(error)

    thread = threading.Thread(target=belt, name="belt")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
            if not rss_mb and plc.counts.triggers >= 100:
                rss_mb["after 100 parts"] = _rss_mb(device)
    except KeyboardInterrupt:
        show("stopping the belt; parts on their way are finished ...")
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
    rss_mb[f"after {plc.counts.triggers} parts"] = _rss_mb(device)
    return rss_mb, plc.counts


def _drain(device: _Device, subscriber: _Subscriber, counts: PlcCounts) -> None:
    """Wait until every record has been stored and delivered, or say nothing: the counts will."""
    until_s = time.monotonic() + _DRAIN_TIMEOUT_S
    while time.monotonic() < until_s:
        if len(subscriber.results) >= counts.triggers and _metrics_counts(device).parts >= counts.triggers:
            return
        time.sleep(0.1)


def _report(
    work: Path,
    counts: PlcCounts,
    subscriber: _Subscriber,
    metrics: Counts,
    late: int,
    rss_mb: dict[str, float],
    camera: str,
    broker_kind: str,
    engine: str,
) -> DemoReport:
    with MemoryBank(work / "memory.db", read_only=True) as bank:
        records = bank.history(limit=counts.triggers + 100)
    outcomes = Counter(str(one.outcome) for one in records)
    truth: dict[str, Counter[str]] = {}
    for one in records:
        truth.setdefault(_planted((one.part_id or 1) - 1), Counter())[str(one.outcome)] += 1
    pictures = [Path(one.pictures) / "highlight.png" for one in records if one.pictures is not None]
    passed = sum(result["result"] == "PASS" for result in subscriber.results.values())
    return DemoReport(
        parts=counts.triggers,
        device=Counts(len(records), sum(one.result == "PASS" for one in records)),
        plc=Counts(counts.triggers, len(counts.let_through)),
        broker=Counts(len(subscriber.results), passed),
        metrics=metrics,
        outcomes=dict(outcomes),
        latency_ms=_quantiles_ms(counts.latencies_s),
        doubled=subscriber.doubled,
        late_permits=counts.late_ignored,
        rss_mb=rss_mb,
        camera=camera,
        broker_kind=broker_kind,
        engine=engine,
        truth={planted: dict(found) for planted, found in sorted(truth.items())},
        highlights=[str(path) for path in pictures if path.is_file()][:6],
        folder=str(work),
    )


class _Table:
    """The live table: a line a part, as its result reaches the broker's subscriber."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._lock = threading.Lock()

    def head(self) -> None:
        self._show(f"{'part':>6}  {'planted':<11} {'outcome':<14} {'why'}")

    def result(self, result: dict[str, Any]) -> None:
        reasons = result.get("reasons") or [{"text": ""}]
        planted = _planted(int(result["part_id"]) - 1)
        with self._lock:
            self._show(f"{result['part_id']:>6}  {planted:<11} {result['outcome']:<14} {reasons[0]['text'][:90]}")
