"""``edge-daemon demo``: the whole line on one machine, with nothing to plug in.

Real are the daemon and the line process (started as ``edge-daemon run`` starts them), the serial protocol over a
pseudo-terminal, the broker, the memory bank, /metrics, the page. Played are the conveyor (simulated castings), the
camera (Basler emulation where pypylon is installed, else a folder into which frames fall) and the PLC. Four independent
counts are compared at the end: the device's records, what the PLC let through, what a broker subscriber received,
/metrics.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from ..errors import EdgeError, OutputError, UnavailableError
from ..images import make_folder, write_png_atomic
from ..memory import MemoryBank
from ..simulator import conveyor_part
from ..testing.broker import Broker
from ..testing.rig import TOPIC_ROOT, Rig
from ..testing.virtual_plc import PlcCounts, VirtualPlc
from .page import DemoPage

__all__ = ["DemoReport", "run"]

#: What lies on the belt, again and again: planted, so that a person can compare.
_Planted = Literal["sound", "acceptable", "rejectable", "crack"]
_BELT: tuple[_Planted, ...] = (
    "sound", "acceptable", "sound", "rejectable", "sound", "acceptable", "crack", "sound",
)  # fmt: skip
_DIFFERENT_PARTS = 24
_FIRST_SEED = 950_000
_DEADLINE_S = 0.4
_DRAIN_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Counts:
    """One place's view of the run."""

    parts: int
    passed: int


@dataclass(slots=True)
class DemoReport:
    """What the four places counted, and how long the answer took. agrees: all four say the same.

    daemon_exit: exit code of the daemon when it was told to stop, negative for the signal that ended it. ok: the counts
    agree and the daemon stopped as it should.
    """

    parts: int
    device: Counts
    plc: Counts
    broker: Counts
    metrics: Counts
    outcomes: dict[str, int]
    latency_ms: dict[str, float]
    doubled: int
    late_permits: int
    stale_permits: int
    rss_mb: dict[str, float]
    setup: str
    truth: dict[str, dict[str, int]]
    daemon_exit: int
    highlights: list[str] = field(default_factory=list)
    folder: str = ""

    @property
    def agrees(self) -> bool:
        """Four equal counts, one message a record, no permit after a deadline."""
        same = self.device == self.plc == self.broker == self.metrics
        return same and self.device.parts == self.parts and self.doubled == 0 and self.late_permits == 0

    @property
    def ok(self) -> bool:
        """Nothing to complain of."""
        return self.agrees and self.daemon_exit == 0

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {**asdict(self), "agrees": self.agrees, "ok": self.ok}

    def text(self) -> str:
        """The report for people."""
        rows = [("device (memory bank)", self.device), ("PLC (let through)", self.plc),
                ("broker subscriber", self.broker), ("/metrics", self.metrics)]  # fmt: skip
        lines = ["", f"{'':24}{'parts':>8}{'passed':>8}{'rejected':>10}"]
        lines += [f"{name:24}{c.parts:8}{c.passed:8}{c.parts - c.passed:10}" for name, c in rows]
        lines.append("the four counts agree" if self.agrees else "THE FOUR COUNTS DO NOT AGREE")
        if self.daemon_exit != 0:
            lines.append(f"THE DAEMON DID NOT STOP AS IT SHOULD: exit code {self.daemon_exit}, see its daemon.log")
        lines.append("outcomes: " + ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items())))
        for planted, found in self.truth.items():
            lines.append(f"  planted {planted}: " + ", ".join(f"{name} {n}" for name, n in sorted(found.items())))
        if self.latency_ms:
            figures = ", ".join(f"{name} {value:.1f} ms" for name, value in self.latency_ms.items())
            lines.append(f"trigger to permit, seen by the PLC: {figures} (deadline {1000 * _DEADLINE_S:g} ms)")
        lines.append(
            f"permits the PLC ignored: {self.late_permits} late, {self.stale_permits} without a fresh heartbeat;"
            f" messages doubled by id: {self.doubled}"
        )
        if len(self.rss_mb) > 1:
            lines.append("daemon memory: " + ", ".join(f"{at} {mb:.0f} MB" for at, mb in self.rss_mb.items()))
        lines.append(self.setup)
        if self.highlights:
            lines.append("highlighted pictures of rejected parts:")
            lines += [f"  {path}" for path in self.highlights]
        lines.append(f"everything else: {self.folder}")
        return "\n".join(lines)


def _planted(index: int) -> _Planted:
    return _BELT[index % _DIFFERENT_PARTS % len(_BELT)]


def _render_parts(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{index:03d}.png" for index in range(min(count, _DIFFERENT_PARTS))]
    for index, path in enumerate(paths):
        write_png_atomic(path, conveyor_part(_FIRST_SEED + index, _planted(index)).pixels)
    return paths


class _Subscriber:
    """An independent listener: counts results by record id."""

    def __init__(self, broker: Broker, on_result: Callable[[dict[str, Any]], None]) -> None:
        self.results: dict[str, dict[str, Any]] = {}
        self.doubled = 0
        self._on_result = on_result
        protocol = MQTTProtocolVersion.MQTTv5 if broker.mqtt_version == 5 else MQTTProtocolVersion.MQTTv311
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="demo-subscriber", protocol=protocol)
        self._subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe(f"{TOPIC_ROOT}/inspection/result", qos=1)
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


def _quantiles_ms(latencies_s: tuple[float, ...]) -> dict[str, float]:
    if not latencies_s:
        return {}
    ordered = sorted(latencies_s)

    def quantile(share: float) -> float:
        return 1000.0 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {"p50": quantile(0.5), "p99": quantile(0.99), "p99.9": quantile(0.999), "max": 1000.0 * ordered[-1]}


def _metrics_counts(rig: Rig) -> Counts:
    by_outcome = rig.samples("edge_parts_total")
    passed = sum(value for labels, value in by_outcome.items() if 'outcome="PASS"' in labels)
    return Counts(int(sum(by_outcome.values())), int(passed))


def _rss_mb(rig: Rig) -> float:
    return sum(rig.samples("process_resident_memory_bytes").values()) / 1e6


def _choose_camera(asked: str) -> str:
    if asked != "auto":
        return asked
    return "basler" if importlib.util.find_spec("pypylon") is not None else "folder"


def run(
    *, parts: int, rate_per_min: float, driver: str, camera: str, out: Path, show: Callable[[str], None],
    page: bool = True, stay: bool = False,
) -> DemoReport:  # fmt: skip
    """Run the line for ``parts`` parts and compare the four counts. Ctrl-C ends it cleanly at any moment.

    out: a folder; each run gets its own inside. show: takes the lines of the live table. page: start the page as well;
    stay: keep line and page running after the last part until Ctrl-C. Raises EdgeError.
    """
    camera = _choose_camera(camera)
    work = make_folder((out / datetime.now().strftime("run-%Y%m%d-%H%M%S")).resolve())
    show(f"rendering {min(parts, _DIFFERENT_PARTS)} simulated castings ...")
    frames = _render_parts(make_folder(work / "frames"), parts)
    recipe = files(__package__).joinpath("recipe.toml").read_text()
    with (
        Broker() as broker,
        Rig(work, frames, recipe=recipe, broker=broker, driver=driver, camera=camera, deadline_s=_DEADLINE_S) as rig,
    ):
        show(f"starting the daemon: {camera} camera, {driver} PLC, {broker.kind} broker on port {broker.port} ...")
        rig.start_daemon()
        table = _Table(show)
        beside = DemoPage(rig.config_path, f"http://127.0.0.1:{rig.metrics_port}", work / "page") if page else None
        with (
            beside or contextlib.nullcontext(),
            contextlib.closing(_Subscriber(broker, table.result)) as subscriber,
            rig.plc() as plc,
        ):
            if not plc.wait_ready(15.0):
                raise UnavailableError("the device did not become Ready", hint=f"see {rig.log_path}")
            engine = next(iter(rig.samples("edge_engine_info")), "")
            show(f"running {parts} parts at {rate_per_min:g} a minute; see http://127.0.0.1:{rig.metrics_port}/metrics")
            if beside is not None:
                show(f"the page: {beside.url}" if beside.url else beside.why)
            table.head()
            rss_mb, counts = _run_belt(plc, rig, parts, rate_per_min, show)
            _drain(rig, subscriber, counts)
            metrics = _metrics_counts(rig)
            if stay and beside is not None and beside.url:
                _wait_for_ctrl_c(show, beside.url)
            daemon_exit = rig.stop_daemon()
        setup = f"{camera} camera, {broker.kind} broker, {engine}"
        # None: it was never started, which cannot be here; no reason to call it a clean stop.
        return _report(work, counts, subscriber, metrics, rss_mb, setup, -1 if daemon_exit is None else daemon_exit)


def _wait_for_ctrl_c(show: Callable[[str], None], url: str) -> None:
    """The belt stands still, the line and the page run on."""
    show(f"all parts are done; the page stays at {url} until Ctrl-C")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def _run_belt(
    plc: VirtualPlc, rig: Rig, parts: int, rate_per_min: float, show: Callable[[str], None]
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
                rss_mb["after 100 parts"] = _rss_mb(rig)
    except KeyboardInterrupt:
        show("stopping the belt; parts on their way are finished ...")
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
    rss_mb[f"after {plc.counts.triggers} parts"] = _rss_mb(rig)
    return rss_mb, plc.counts


def _drain(rig: Rig, subscriber: _Subscriber, counts: PlcCounts) -> None:
    """Wait until every record has been stored and delivered, or say nothing: the counts will."""
    until_s = time.monotonic() + _DRAIN_TIMEOUT_S
    while time.monotonic() < until_s:
        if len(subscriber.results) >= counts.triggers and _metrics_counts(rig).parts >= counts.triggers:
            return
        time.sleep(0.1)


def _report(
    work: Path,
    counts: PlcCounts,
    subscriber: _Subscriber,
    metrics: Counts,
    rss_mb: dict[str, float],
    setup: str,
    daemon_exit: int,
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
        stale_permits=counts.stale_ignored,
        rss_mb=rss_mb,
        setup=setup,
        truth={planted: dict(found) for planted, found in sorted(truth.items())},
        daemon_exit=daemon_exit,
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
