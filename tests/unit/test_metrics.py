"""Metrics say what happened, under documented names; the HTTP server answers three paths and nothing else."""

from __future__ import annotations

import concurrent.futures
import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_daemon.errors import UnavailableError
from edge_daemon.line.link import PlcState
from edge_daemon.metrics import METRICS, Metrics, MetricsServer
from edge_daemon.records import Outcome


def read(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"station": "cell-1", **labels})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("cell-1", deadline_s=0.25)


def plc(**changes: object) -> PlcState:
    values: dict[str, object] = {
        "port_open": True, "connected": True, "heartbeat_age_s": 0.05, "gate_ready": True, "opened": 0, "permitted": 0,
        "open": 0, "overflowed": 0, "protocol_errors": 0, "refused": {}, "ended": {},
    }  # fmt: skip
    return PlcState(**{**values, **changes})  # type: ignore[arg-type]


#: Every method, and the sample that must then read 1 (or the value said).
HAPPENED: tuple[tuple[Callable[[Metrics], None], str, dict[str, str], float], ...] = (
    (lambda m: m.trigger(), "edge_triggers_total", {}, 1),
    (lambda m: m.part("FAIL"), "edge_parts_total", {"outcome": "FAIL"}, 1),
    (lambda m: m.record_stored(), "edge_records_stored_total", {}, 1),
    (lambda m: m.permitted(0.1), "edge_permits_total", {}, 1),
    (lambda m: m.permitted(0.1), "edge_decision_duration_seconds_count", {}, 1),
    (lambda m: m.permit_refused("LATE"), "edge_permits_refused_total", {"reason": "LATE"}, 1),
    (lambda m: m.stage("see", 0.02), "edge_stage_duration_seconds_sum", {"stage": "see"}, 0.02),
    (lambda m: m.deadline_missed(), "edge_deadline_missed_total", {}, 1),
    (lambda m: m.failsafe_reject("BUSY"), "edge_failsafe_rejects_total", {"reason": "BUSY"}, 1),
    (lambda m: m.unknown_type(), "edge_unknown_type_parts_total", {}, 1),
    (lambda m: m.outbox(3, 7.5), "edge_outbox_pending_messages", {}, 3),
    (lambda m: m.outbox(3, 7.5), "edge_outbox_oldest_age_seconds", {}, 7.5),
    (lambda m: m.connections(camera=True, plc=False, broker=True), "edge_camera_connected", {}, 1),
    (lambda m: m.connections(camera=True, plc=False, broker=True), "edge_plc_connected", {}, 0),
    (lambda m: m.connections(camera=True, plc=False, broker=True), "edge_broker_connected", {}, 1),
    (lambda m: m.heartbeat(True), "edge_ready", {}, 1),
    (lambda m: m.heartbeat(False), "edge_ready", {}, 0),
    (lambda m: m.plc(plc()), "edge_plc_heartbeat_age_seconds", {}, 0.05),
    (lambda m: m.plc(plc(open=2)), "edge_open_tickets", {}, 2),
    (lambda m: m.plc(plc(overflowed=1)), "edge_triggers_overflowed_total", {}, 1),
    (lambda m: m.plc(plc(protocol_errors=1)), "edge_line_protocol_errors_total", {}, 1),
    (lambda m: m.plc(plc(ended={"DEADLINE": 4})), "edge_tickets_ended_total", {"reason": "DEADLINE"}, 4),
    (lambda m: m.certificate(True, -2.5), "edge_certificate_valid", {}, 1),
    (lambda m: m.certificate(False, 7.1), "edge_drift_log_martingale", {}, 7.1),
    (lambda m: m.device(61.5, slowed=True), "edge_device_temperature_celsius", {}, 61.5),
    (lambda m: m.device(61.5, slowed=True), "edge_device_slowed", {}, 1),
    (lambda m: m.calibration_age(3600.0), "edge_calibration_age_seconds", {}, 3600.0),
    (lambda m: m.golden(True, 6.4), "edge_golden_part_held", {}, 1),
    (lambda m: m.golden(True, 6.4), "edge_golden_part_measured", {}, 6.4),
    (lambda m: m.engine("e", "ab", "onnx"), "edge_engine_info", {"name": "e", "sha256": "ab", "backend": "onnx"}, 1),
)


@pytest.mark.parametrize(("what", "name", "labels", "value"), HAPPENED)
def test_what_happened_is_what_is_shown(
    metrics: Metrics, what: Callable[[Metrics], None], name: str, labels: dict[str, str], value: float
) -> None:
    before = read(metrics, name, **labels)
    assert before in (None, 0.0)
    what(metrics)
    assert read(metrics, name, **labels) == value


def test_every_documented_metric_is_set_by_something(metrics: Metrics) -> None:
    for what, *_ in HAPPENED:
        what(metrics)
    metrics.heartbeat(True)
    shown = {family.name for family in metrics.registry.collect() if family.samples and family.name.startswith("edge_")}
    assert shown == {doc.name.removesuffix("_total") for doc in METRICS}
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name.startswith("edge_"):
                assert sample.labels["station"] == "cell-1"


def test_names_follow_the_rules() -> None:
    assert len({doc.name for doc in METRICS}) == len(METRICS)
    for doc in METRICS:
        assert re.fullmatch(r"edge_[a-z][a-z0-9_]*", doc.name)
        assert doc.name.endswith("_total") == (doc.kind == "counter"), doc.name
        assert not re.search(r"_(ms|us|milliseconds|minutes|percent|mb)(_|$)", doc.name), "base units only"
        assert doc.text.endswith(".")
        assert not {"part_id", "record_id"} & set(doc.labels)


def test_every_outcome_is_there_from_the_start_and_unknown_gauges_are_not(metrics: Metrics) -> None:
    for outcome in Outcome:
        assert read(metrics, "edge_parts_total", outcome=str(outcome)) == 0
    assert read(metrics, "edge_deadline_missed_total") == 0
    for gauge in ("edge_camera_connected", "edge_outbox_pending_messages", "edge_heartbeat_timestamp_seconds"):
        assert read(metrics, gauge) is None, "unknown is not zero"
    metrics.connections(camera=True, plc=True, broker=None)
    assert read(metrics, "edge_broker_connected") is None, "no broker is configured"


def test_the_deadline_is_a_bucket_border(metrics: Metrics) -> None:
    for decision_s in (0.004, 0.249, 0.25, 0.2501):
        metrics.permitted(decision_s)
    assert read(metrics, "edge_decision_duration_seconds_bucket", le="0.25") == 3
    assert read(metrics, "edge_decision_duration_seconds_bucket", le="0.005") == 1
    assert read(metrics, "edge_decision_duration_seconds_bucket", le="+Inf") == 4
    Metrics("cell-1", deadline_s=0.1)  # a deadline that is a border already


def test_only_a_ready_beat_renews_the_heartbeat(metrics: Metrics) -> None:
    metrics.heartbeat(True)
    first = read(metrics, "edge_heartbeat_timestamp_seconds")
    assert first == pytest.approx(time.time(), abs=5)
    time.sleep(0.01)
    metrics.heartbeat(False)
    assert read(metrics, "edge_heartbeat_timestamp_seconds") == first
    metrics.heartbeat(True)
    assert (read(metrics, "edge_heartbeat_timestamp_seconds") or 0) > (first or 0)


def test_counters_of_the_line_process_survive_its_restart(metrics: Metrics) -> None:
    for count in (2, 5, 5, 1, 3):  # it restarted after the third
        metrics.plc(plc(protocol_errors=count, ended={"DEADLINE": count, "PORT_LOST": 0}))
    assert read(metrics, "edge_line_protocol_errors_total") == 8
    assert read(metrics, "edge_tickets_ended_total", reason="DEADLINE") == 8
    assert read(metrics, "edge_tickets_ended_total", reason="PORT_LOST") == 0
    metrics.plc(plc(heartbeat_age_s=None))
    assert read(metrics, "edge_plc_heartbeat_age_seconds") is None


def test_a_new_engine_replaces_the_old_one(metrics: Metrics) -> None:
    metrics.engine("castings", "aa", "onnxruntime")
    metrics.engine("castings", "bb", "tensorrt")
    assert read(metrics, "edge_engine_info", name="castings", sha256="aa", backend="onnxruntime") is None
    assert read(metrics, "edge_engine_info", name="castings", sha256="bb", backend="tensorrt") == 1


def test_counting_is_cheap_and_exact_from_many_threads(metrics: Metrics) -> None:
    def count() -> None:
        for _ in range(2000):
            metrics.stage("see", 0.01)
            metrics.part("PASS")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(metrics, "edge_parts_total", outcome="PASS") == 8000
    assert read(metrics, "edge_stage_duration_seconds_count", stage="see") == 8000


# ---------------------------------------------------------------- HTTP


@pytest.fixture
def state() -> dict[str, tuple[bool, str]]:
    return {"health": (True, "running"), "ready": (False, "CAMERA_LOST")}


@pytest.fixture
def server(metrics: Metrics, state: dict[str, tuple[bool, str]]) -> Iterator[MetricsServer]:
    with MetricsServer(
        "127.0.0.1", 0, metrics.registry, healthz=lambda: state["health"], readyz=lambda: state["ready"]
    ) as running:
        yield running


def ask(server: MetricsServer, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def test_metrics_page(server: MetricsServer, metrics: Metrics) -> None:
    metrics.part("FAIL")
    status, body, headers = ask(server, "/metrics?x=1")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    values = {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    assert values["edge_parts_total", "FAIL"] == 1
    assert values["process_resident_memory_bytes", None] > 1e6
    assert "Python" not in headers["server"]
    assert headers["x-content-type-options"] == "nosniff"


def test_health_and_readiness(server: MetricsServer, state: dict[str, tuple[bool, str]]) -> None:
    assert ask(server, "/healthz")[:2] == (200, "running\n")
    assert ask(server, "/readyz")[:2] == (503, "CAMERA_LOST\n")
    state["ready"] = (True, "ready")
    assert ask(server, "/readyz")[:2] == (200, "ready\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../etc/passwd", "/%2e%2e/x", "/METRICS"])
def test_other_paths_are_not_there(server: MetricsServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_written(server: MetricsServer, method: str) -> None:
    status, _, headers = ask(server, "/metrics", method)
    assert status == 405
    assert headers["allow"] == "GET, HEAD"


def test_head_has_no_body(server: MetricsServer) -> None:
    status, body, headers = ask(server, "/healthz", "HEAD")
    assert (status, body, headers["content-length"]) == (200, "", "8")


def test_a_probe_that_breaks_is_not_ready(metrics: Metrics) -> None:
    def broken() -> tuple[bool, str]:
        raise RuntimeError("secret detail")

    with MetricsServer("127.0.0.1", 0, metrics.registry, healthz=broken, readyz=broken) as server:
        assert ask(server, "/readyz")[:2] == (503, "cannot tell\n")


def test_garbage_and_silent_callers_do_not_stop_the_others(
    server: MetricsServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as garbage:
        garbage.sendall(b"\x00\xff\r\n\r\n")
        garbage.settimeout(5)
        assert b"400" in garbage.recv(4096)
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(7)]
    try:
        assert ask(server, "/healthz")[0] == 200
    finally:
        for caller in silent:
            caller.close()
    out, err = capfd.readouterr()
    assert out == err == "", "requests are not logged"


def test_too_many_callers_are_turned_away_not_queued(server: MetricsServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(30)]
    try:
        time.sleep(0.2)
        busy = [thread for thread in threading.enumerate() if "process_request_thread" in thread.name]
        assert len(busy) <= 8
    finally:
        for caller in silent:
            caller.close()

    def answered() -> bool:
        try:
            return ask(server, "/healthz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    give_up_s = time.monotonic() + 5
    while not answered():
        assert time.monotonic() < give_up_s, "their places must come free"
        time.sleep(0.02)


def test_many_scrapes_at_once(server: MetricsServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert {status for status, *_ in pool.map(lambda _: ask(server, "/metrics"), range(20))} == {200}


def test_a_taken_port_is_said_clearly(metrics: Metrics, server: MetricsServer) -> None:
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{server.port} cannot be used") as caught:
        MetricsServer("127.0.0.1", server.port, metrics.registry, healthz=lambda: (True, ""), readyz=lambda: (True, ""))
    assert caught.value.code == "PORT"
    assert caught.value.exit_code == 3
    with pytest.raises(UnavailableError, match="cannot be used"):
        MetricsServer("192.0.2.1", 0, metrics.registry, healthz=lambda: (True, ""), readyz=lambda: (True, ""))


def test_the_port_is_free_again_after_the_block(metrics: Metrics) -> None:
    def serve(port: int) -> int:
        with MetricsServer(
            "127.0.0.1", port, metrics.registry, healthz=lambda: (True, ""), readyz=lambda: (True, "")
        ) as server:
            assert ask(server, "/healthz")[0] == 200
            return server.port

    port = serve(0)
    assert serve(port) == port
