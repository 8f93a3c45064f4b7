"""Rules, their tests, dashboard and /metrics, held against each other and against promtool."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from edge_daemon.line.link import PlcState
from edge_daemon.metrics import METRICS, Metrics, MetricsServer
from edge_daemon.resources import data_folder

MONITORING = data_folder("systemd") / "monitoring"
RULES = MONITORING / "edge.rules.yml"
SUFFIXES = ("_bucket", "_sum", "_count")
#: What is not ours: Prometheus itself, and prometheus_client's view of the process.
FOREIGN = {"up", "ALERTS", "process_resident_memory_bytes", "process_cpu_seconds_total"}
needs_promtool = pytest.mark.needs("promtool")


def promtool(*arguments: str, stdin: str | None = None, cwd: Path = MONITORING) -> str:
    done = subprocess.run(
        ["promtool", *arguments], input=stdin, cwd=cwd, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[tuple[str, str]]:
    """(name, expression) of every rule; promtool itself checks that the file is YAML of the right form."""
    found = []
    for block in re.split(r"^ +- (?=alert:|record:)", RULES.read_text(encoding="utf-8"), flags=re.M)[1:]:
        name = re.match(r"(?:alert|record): (\S+)", block)
        expression = re.search(r"^ +expr: (?:\|\n((?: {10,}.*\n)+)|(.+)\n)", block, flags=re.M)
        assert name, block
        assert expression, block
        found.append((name.group(1), expression.group(1) or expression.group(2)))
    return found


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((MONITORING / "grafana" / "edge-daemon.json").read_text(encoding="utf-8"))
    return loaded


def panels() -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def metric_names(expression: str) -> set[str]:
    """Every word of a PromQL expression that can only be a metric."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    words = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\(|[a-zA-Z0-9_:])", bare)
    return set(words) - {"and", "or", "unless", "by", "without", "on", "bool", "offset"}


def base(name: str) -> str:
    """The documented name behind a sample's name."""
    histograms = {doc.name for doc in METRICS if doc.kind == "histogram"}
    for suffix in SUFFIXES:
        if name.removesuffix(suffix) in histograms:
            return name.removesuffix(suffix)
    return name


def test_the_word_finder_finds_metrics_and_nothing_else() -> None:
    expression = (
        'sum by (le, station) (rate(edge_a_bucket{x="edge_no", y=~"z"}[5m])) > on (station) 0.8 * edge_b and up == 1'
    )
    assert metric_names(expression) == {"edge_a_bucket", "edge_b", "up"}
    assert metric_names("abs(a:b:c - d) > clamp_min(e, 0.001)") == {"a:b:c", "d", "e"}


@pytest.mark.parametrize("where", [rules, panels])
def test_every_metric_that_is_used_exists(where: Any) -> None:
    documented = {doc.name for doc in METRICS}
    recorded = {name for name, _ in rules() if ":" in name}
    for title, expression in where():
        used = metric_names(expression)
        assert used, title
        for name in used:
            assert base(name) in documented | recorded | FOREIGN, f"{title}: {name} does not exist"
            histogram = next((doc for doc in METRICS if doc.name == base(name) and doc.kind == "histogram"), None)
            assert histogram is None or name.endswith(SUFFIXES), f"{title}: {name} has no samples of its own"


@pytest.mark.parametrize("where", [rules, panels])
def test_every_label_that_is_used_exists(where: Any) -> None:
    known = {"station", "le", "job", "instance", "alertname", "alertstate", "severity"}
    known |= {label for doc in METRICS for label in doc.labels}
    for title, expression in where():
        selected = re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', expression)
        grouped = re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expression)
        used = {*selected, *(label.strip() for group in grouped for label in group.split(",") if label.strip())}
        assert used <= known, f"{title}: {used - known}"


def test_every_metric_is_looked_at_somewhere() -> None:
    """A metric nobody looks at is a cost; a dashboard or a rule shows each."""
    used = {base(name) for _, expression in [*rules(), *panels()] for name in metric_names(expression)}
    assert {doc.name for doc in METRICS} <= used


def test_every_alert_says_how_bad_and_what_to_do() -> None:
    text = RULES.read_text(encoding="utf-8")
    alerts = [name for name, _ in rules() if ":" not in name]
    assert len(alerts) == len(set(alerts)) == text.count("alert: ")
    for block in text.split("- alert: ")[1:]:
        name = block.split("\n")[0]
        assert re.search(r"severity: (page|warn)}", block), name
        assert "summary: " in block, name
        assert "action: " in block, name
    tested = "".join(path.read_text(encoding="utf-8") for path in MONITORING.glob("*.test.yml"))
    assert [name for name in alerts if name not in tested] == [], "every alert has a test that sees it fire"


@needs_promtool
def test_rules_are_valid() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "--lint-fatal", RULES.name)


@needs_promtool
@pytest.mark.parametrize("name", ["edge.rules.test.yml", "edge.shares.test.yml"])
def test_rules_fire_when_they_should_and_only_then(name: str) -> None:
    assert "SUCCESS" in promtool("test", "rules", name)


@needs_promtool
def test_the_example_configuration_is_valid() -> None:
    assert "is valid prometheus config file" in promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_every_panel_is_a_valid_expression(tmp_path: Path) -> None:
    """Each becomes a recording rule, with Grafana's variables filled in."""
    lines = ["groups:", "  - name: panels", "    rules:"]
    for number, (title, expression) in enumerate(panels()):
        filled = expression.replace("$__rate_interval", "1m").replace("$station", ".*")
        assert "$" not in filled, title
        lines += [f"      - record: panel:{number}", f"        expr: {json.dumps(filled)}"]
    (tmp_path / "panels.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert f"{len(panels())} rules found" in promtool("check", "rules", "panels.yml", cwd=tmp_path)


def test_the_dashboard_is_what_its_script_writes() -> None:
    path = MONITORING / "grafana" / "make_dashboard.py"
    spec = importlib.util.spec_from_file_location("make_dashboard", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.text() == path.with_name("edge-daemon.json").read_text(encoding="utf-8")


def test_the_dashboard_fits_grafana() -> None:
    board = dashboard()
    assert board["uid"] == "edge-daemon"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    places = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & places, f"{panel['title']} lies on another panel"
        places |= cells
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
    assert {"source", "station"} == {variable["name"] for variable in board["templating"]["list"]}


@needs_promtool
def test_what_is_served_has_no_lint() -> None:
    metrics = Metrics("cell-1", deadline_s=0.25)
    metrics.trigger()
    metrics.part("PASS")
    metrics.permitted(0.02)
    metrics.permit_refused("LATE")
    metrics.stage("see", 0.01)
    metrics.failsafe_reject("BUSY")
    metrics.outbox(1, 2.0)
    metrics.connections(camera=True, plc=True, broker=True)
    metrics.heartbeat(True)
    metrics.certificate(True, -3.0)
    metrics.golden(True, 6.4)
    metrics.device(45.0, slowed=False)
    metrics.calibration_age(3600.0)
    metrics.engine("castings-xray", "ab" * 32, "onnxruntime")
    metrics.plc(PlcState(True, True, 0.01, True, 1, 1, 0, 0, 0, {}, {"DEADLINE": 1}))
    with (
        MetricsServer(
            "127.0.0.1", 0, metrics.registry, healthz=lambda: (True, ""), readyz=lambda: (True, "")
        ) as server,
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer,
    ):
        page = answer.read().decode()
    assert promtool("check", "metrics", stdin=page) == ""
    shown = set(re.findall(r"^# TYPE (edge_\S+)", page, flags=re.M))
    assert shown == {doc.name for doc in METRICS}
    with_samples = {base(name) for name in re.findall(r"^(edge_[a-z0-9_]+)[{ ]", page, flags=re.M)}
    assert with_samples == shown
