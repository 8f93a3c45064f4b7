"""What the station says about itself: Prometheus metrics, /healthz and /readyz.

Where it stands: beside the line; it is told, it never asks. ``METRICS`` is the complete list, and the metrics are made
from it, so that a name cannot exist without its explanation (alert rules, dashboard and documentation are tested
against it). One prefix ``edge_``, base units, no part ids in labels. Every metric carries the label ``station``.

A gauge has no sample before it is set for the first time: unknown is not zero. Memory and CPU come from
prometheus_client (``process_*``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOL_SOCKET, socket
from typing import TYPE_CHECKING, Any, Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from . import __version__
from .errors import UnavailableError
from .records import Outcome

if TYPE_CHECKING:
    from .line.link import PlcState

__all__ = ["METRICS", "MetricDoc", "Metrics", "MetricsServer"]

_log = logging.getLogger(__name__)

#: Upper bounds in seconds; the station's own deadline is added, so that "late" is exact and not interpolated.
DECISION_BUCKETS_S = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class MetricDoc:
    """One metric: its name as Prometheus stores it, its labels besides ``station``, and what it says."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str


METRICS: tuple[MetricDoc, ...] = (
    MetricDoc("edge_triggers_total", "counter", (), "Triggers taken; each ends in one record."),
    MetricDoc("edge_parts_total", "counter", ("outcome",), "Parts by final outcome; PASS only where the gate opened."),
    MetricDoc("edge_records_stored_total", "counter", (), "Records made durable in the memory bank."),
    MetricDoc("edge_permits_total", "counter", (), "Permits the gate has granted."),
    MetricDoc("edge_permits_refused_total", "counter", ("reason",), "Permits the gate has refused, by its reason."),
    MetricDoc(
        "edge_gate_disagreements_total", "counter", (), "Parts whose gate opened although their record is no PASS."
    ),
    MetricDoc("edge_decision_duration_seconds", "histogram", (), "From the trigger to the granted permit."),
    MetricDoc("edge_stage_duration_seconds", "histogram", ("stage",), "Time spent in one stage of the line, per part."),
    MetricDoc("edge_deadline_missed_total", "counter", (), "Tickets that ended because no permit came in time."),
    MetricDoc(
        "edge_failsafe_rejects_total", "counter", ("reason",), "Parts rejected without a judgement, by first reason."
    ),
    MetricDoc(
        "edge_unknown_type_parts_total", "counter", (), "Parts with a defect of a type the engine does not know."
    ),
    MetricDoc("edge_outbox_pending_messages", "gauge", (), "Messages the broker has not acknowledged."),
    MetricDoc("edge_outbox_oldest_age_seconds", "gauge", (), "Age of the oldest of them, from its trigger."),
    MetricDoc("edge_camera_connected", "gauge", (), "1 while the camera delivers, else 0."),
    MetricDoc("edge_plc_connected", "gauge", (), "1 while port and heartbeat of the PLC are alive, else 0."),
    MetricDoc("edge_broker_connected", "gauge", (), "1 while the broker accepts us, else 0; absent without a broker."),
    MetricDoc("edge_ready", "gauge", (), "1 while the gate may open, else 0."),
    MetricDoc("edge_heartbeat_timestamp_seconds", "gauge", (), "Unix time of the last renewal of Ready."),
    MetricDoc("edge_plc_heartbeat_age_seconds", "gauge", (), "Age of the PLC's heartbeat, absent before the first."),
    MetricDoc("edge_open_tickets", "gauge", (), "Tickets the line process holds open."),
    MetricDoc("edge_triggers_overflowed_total", "counter", (), "Triggers not taken, because too many were unsettled."),
    MetricDoc("edge_line_protocol_errors_total", "counter", (), "Broken telegrams or frames on the serial line."),
    MetricDoc("edge_permits_never_shown_total", "counter", (), "Permits granted that the PLC was never shown."),
    MetricDoc("edge_tickets_ended_total", "counter", ("reason",), "Tickets that ended without a permit, by reason."),
    MetricDoc("edge_engine_info", "gauge", ("name", "sha256", "backend"), "Always 1; the engine that serves now."),
    MetricDoc(
        "edge_drift_log_martingale", "gauge", (), "Evidence of drift since the certificate; 6.9 is the alarm at 1/1000."
    ),
    MetricDoc(
        "edge_certificate_valid",
        "gauge",
        (),
        "1 while the engine's claims hold, 0 withdrawn; absent if none is watched.",
    ),
    MetricDoc("edge_golden_part_held", "gauge", (), "1 while the golden part is rejected as it must be, else 0."),
    MetricDoc(
        "edge_golden_part_measured", "gauge", (), "Its severity (level, or largest size in mm) at the last check."
    ),
    MetricDoc("edge_calibration_age_seconds", "gauge", (), "Since the calibration was made; absent without one."),
    MetricDoc("edge_device_temperature_celsius", "gauge", (), "The hottest sensor of this device; absent without one."),
    MetricDoc("edge_device_slowed", "gauge", (), "1 while this device slows itself down (heat, power), else 0."),
    MetricDoc("edge_deadline_seconds", "gauge", (), "From a trigger to the last moment of a permit, as configured."),
    MetricDoc("edge_build_info", "gauge", ("version",), "Always 1; the release of this program."),
)


class Metrics:
    """All metrics of one station; methods are named after what has happened. Any thread.

    Parameters
    ----------
    station : the value of the label ``station``.
    deadline_s : from trigger to the last moment of a permit; becomes a bucket border.
    registry : where to register; a fresh one by default, with the process's own memory and CPU added.
    """

    def __init__(self, station: str, *, deadline_s: float, registry: CollectorRegistry | None = None) -> None:
        # Creation times of counters are samples of their own, which nobody documented.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
        self.registry = registry
        self._station = station
        self._metrics: dict[str, Any] = {}
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._last: dict[tuple[str, tuple[str, ...]], int] = {}
        self._last_lock = threading.Lock()
        buckets_s = tuple(sorted({*DECISION_BUCKETS_S, deadline_s}))
        for doc in METRICS:
            labels = ("station", *doc.labels)
            if doc.kind == "histogram":
                self._metrics[doc.name] = Histogram(
                    doc.name, doc.text, labels, registry=registry, buckets=(*buckets_s, float("inf"))
                )
            else:
                make = Counter if doc.kind == "counter" else Gauge
                self._metrics[doc.name] = make(doc.name, doc.text, labels, registry=registry)
            if doc.kind != "gauge" and not doc.labels:
                self._child(doc.name)  # a counter that has not counted is 0, and is there from the start
        for outcome in Outcome:
            self._child("edge_parts_total", str(outcome))
        self._child("edge_build_info", __version__).set(1)
        self._child("edge_deadline_seconds").set(deadline_s)

    def _child(self, name: str, *labels: str) -> Any:
        """The metric with its labels filled in; kept, because looking it up costs more than counting."""
        child = self._children.get((name, labels))
        if child is None:
            child = self._children[name, labels] = self._metrics[name].labels(self._station, *labels)
        return child

    def _forget(self, name: str) -> None:
        if self._children.pop((name, ()), None) is not None:
            self._metrics[name].remove(self._station)

    def _show(self, name: str, value: float | None) -> None:
        """A gauge, or nothing where there is nothing to show."""
        if value is None:
            self._forget(name)
        else:
            self._child(name).set(value)

    def trigger(self) -> None:
        """A trigger has been taken."""
        self._child("edge_triggers_total").inc()

    def part(self, outcome: str) -> None:
        """A part has its final outcome."""
        self._child("edge_parts_total", outcome).inc()

    def record_stored(self) -> None:
        """A record is durable."""
        self._child("edge_records_stored_total").inc()

    def permitted(self, decision_s: float) -> None:
        """The gate has opened, so long after the trigger."""
        self._child("edge_permits_total").inc()
        self._child("edge_decision_duration_seconds").observe(decision_s)

    def permit_refused(self, reason: str) -> None:
        """The gate has refused a permit (``line.gate.REFUSED_REASONS``)."""
        self._child("edge_permits_refused_total", reason).inc()

    def stage(self, name: str, duration_s: float) -> None:
        """A part has left a stage."""
        self._child("edge_stage_duration_seconds", name).observe(duration_s)

    def deadline_missed(self) -> None:
        """A ticket has ended because no permit came in time."""
        self._child("edge_deadline_missed_total").inc()

    def failsafe_reject(self, reason: str) -> None:
        """A part was rejected without a judgement; ``reason`` is a code, never free text."""
        self._child("edge_failsafe_rejects_total", reason).inc()

    def gate_disagreed(self) -> None:
        """The gate opened for a part whose record could only be written without knowing that."""
        self._child("edge_gate_disagreements_total").inc()

    def unknown_type(self) -> None:
        """A part showed a defect of unknown type."""
        self._child("edge_unknown_type_parts_total").inc()

    def outbox(self, pending: int, oldest_age_s: float) -> None:
        """What waits for the broker (``MemoryBank.outbox_state``)."""
        self._child("edge_outbox_pending_messages").set(pending)
        self._child("edge_outbox_oldest_age_seconds").set(oldest_age_s)

    def connections(self, *, camera: bool, plc: bool, broker: bool | None) -> None:
        """Who is there; ``broker`` is None where none is configured."""
        self._child("edge_camera_connected").set(camera)
        self._child("edge_plc_connected").set(plc)
        if broker is not None:
            self._child("edge_broker_connected").set(broker)

    def certificate(self, valid: bool | None, log_martingale: float | None) -> None:
        """Whether the engine's claims hold and how strong the evidence of drift is; None where nothing is watched."""
        self._show("edge_certificate_valid", valid)
        self._show("edge_drift_log_martingale", log_martingale)

    def golden(self, held: bool | None, measured: float | None) -> None:
        """The golden part has been judged; None where there is none, or nothing was measured."""
        self._show("edge_golden_part_held", held)
        self._show("edge_golden_part_measured", measured)

    def device(self, temperature_c: float | None, *, slowed: bool) -> None:
        """How hot this device is, None where no sensor answers, and whether it slows itself down."""
        self._show("edge_device_temperature_celsius", temperature_c)
        self._show("edge_device_slowed", slowed)

    def calibration_age(self, age_s: float | None) -> None:
        """Age of the calibration in use; None where there is none."""
        self._show("edge_calibration_age_seconds", age_s)

    def heartbeat(self, ready: bool) -> None:
        """One beat of the main loop; only a ready one renews the time stamp."""
        self._child("edge_ready").set(ready)
        if ready:
            self._child("edge_heartbeat_timestamp_seconds").set_to_current_time()

    def plc(self, state: PlcState) -> None:
        """What the line process sees and has counted. It may restart: its counters then begin at 0, ours go on."""
        if state.heartbeat_age_s is None:
            self._forget("edge_plc_heartbeat_age_seconds")
        else:
            self._child("edge_plc_heartbeat_age_seconds").set(state.heartbeat_age_s)
        self._child("edge_open_tickets").set(state.open)
        self._follow("edge_triggers_overflowed_total", state.overflowed)
        self._follow("edge_line_protocol_errors_total", state.protocol_errors)
        self._follow("edge_permits_never_shown_total", state.never_shown)
        for reason, count in state.ended.items():
            self._follow("edge_tickets_ended_total", count, reason)

    def _follow(self, name: str, count: int, *labels: str) -> None:
        key = (name, labels)
        with self._last_lock:
            before = self._last.get(key, 0)
            self._last[key] = count
        self._child(name, *labels).inc(count - before if count >= before else count)

    def engine(self, name: str, sha256: str, backend: str) -> None:
        """The engine that serves from now on; the one before disappears."""
        info = self._metrics["edge_engine_info"]
        info.clear()
        info.labels(self._station, name, sha256, backend).set(1)


class MetricsServer:
    """/metrics, /healthz and /readyz over HTTP, in threads of its own; a context manager.

    Parameters
    ----------
    host, port : where to listen; port 0 takes a free one (``server.port``). Nothing here is secret, nothing can be
        changed, and there is no login: listen on loopback, or on the network of the Prometheus server.
    registry : what /metrics shows.
    healthz, readyz : called for each request; False answers 503. The text is shown, so no secrets in it.

    Raises UnavailableError (PORT) when the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        *,
        healthz: Callable[[], tuple[bool, str]],
        readyz: Callable[[], tuple[bool, str]],
    ) -> None:
        handler = type("_BoundHandler", (_Handler,), {"registry": registry, "probes": {}})
        handler.probes = {"/healthz": healthz, "/readyz": readyz}  # type: ignore[attr-defined]
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise UnavailableError(
                f"{host}:{port} cannot be used for /metrics: {error.strerror or error}",
                code="PORT",
                hint="is the daemon running already? Else choose another [watch] port",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="metrics", daemon=True
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> MetricsServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening. Safe to call when it was never started."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join(2.0)
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """At most eight requests at a time, so that nobody can fill the device with threads."""

    request_queue_size = 32
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        self._places = threading.BoundedSemaphore(8)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Not HTTPServer's own, which asks the name server for a name that nobody needs.
        self.socket.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)  # a restart need not wait for TIME_WAIT
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("metrics: request from %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    probes: dict[str, Callable[[], tuple[bool, str]]]
    timeout = 5.0  # seconds without a byte; a caller that says nothing must not keep its place
    server_version = "edge-daemon"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, generate_latest(self.registry), CONTENT_TYPE_LATEST)
        elif path in self.probes:
            try:
                good, text = self.probes[path]()
            except Exception:  # noqa: BLE001 - not knowing is not ready
                _log.exception("metrics: %s failed", path)
                good, text = False, "cannot tell"
            self._answer(200 if good else 503, f"{text}\n".encode())
        else:
            self._answer(404, b"there is /metrics, /healthz and /readyz\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _refuse(self) -> None:
        self._answer(405, b"only GET and HEAD\n", extra=(("Allow", "GET, HEAD"),))

    def _answer(
        self,
        status: int,
        body: bytes,
        content_type: str = "text/plain; charset=utf-8",
        extra: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *extra,
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        _log.debug("metrics: " + format, *args)


for _method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"):
    setattr(_Handler, f"do_{_method}", _Handler._refuse)
