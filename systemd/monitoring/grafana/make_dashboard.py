"""Write the Grafana dashboard edge-daemon.json beside this file: ``python make_dashboard.py``.

The panels are listed here because a list can be read and reviewed; the JSON is what Grafana provisions. A test compares
the two, and holds every expression against the metrics that exist. Standard library only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_S = 'station=~"$station"'
_SOURCE = {"type": "prometheus", "uid": "${source}"}

# (title, kind, unit, width of 24, [(expression, legend)], thresholds or None)
Panel = tuple[str, str, str, int, list[tuple[str, str]], list[tuple[float | None, str]] | None]
_YES_NO: list[tuple[float | None, str]] = [(None, "red"), (1, "green")]
_WAIT: list[tuple[float | None, str]] = [(None, "green"), (60, "orange"), (3600, "red")]

ROWS: list[tuple[str, list[Panel]]] = [
    (
        "Now",
        [
            ("Ready", "stat", "bool_yes_no", 4, [(f"edge_ready{{{_S}}}", "{{station}}")], _YES_NO),
            ("Camera", "stat", "bool_yes_no", 4, [(f"edge_camera_connected{{{_S}}}", "{{station}}")], _YES_NO),
            ("PLC", "stat", "bool_yes_no", 4, [(f"edge_plc_connected{{{_S}}}", "{{station}}")], _YES_NO),
            ("Broker", "stat", "bool_yes_no", 4, [(f"edge_broker_connected{{{_S}}}", "{{station}}")], _YES_NO),
            (
                "Oldest result not delivered", "stat", "s", 4,
                [(f"edge_outbox_oldest_age_seconds{{{_S}}}", "{{station}}")], _WAIT,
            ),
            (
                "Engine", "stat", "string", 4,
                [(f"max by (station, name, backend) (edge_engine_info{{{_S}}})", "{{name}} on {{backend}}")], None,
            ),
        ],
    ),
    (
        "Parts",
        [
            (
                "Parts a minute by outcome", "timeseries", "short", 12,
                [(f"60 * sum by (station, outcome) (rate(edge_parts_total{{{_S}}}[$__rate_interval]))",
                  "{{station}} {{outcome}}")], None,
            ),
            (
                "Share rejected, last hour against the week", "timeseries", "percentunit", 12,
                [(f"station:edge_reject_share:ratio1h{{{_S}}}", "{{station}} hour"),
                 (f"station:edge_reject_share:ratio7d{{{_S}}}", "{{station}} week")], None,
            ),
            (
                "Evidence of drift (the alarm is at 6.9) and the certificate", "timeseries", "short", 12,
                [(f"edge_drift_log_martingale{{{_S}}}", "{{station}} ln martingale"),
                 (f"edge_certificate_valid{{{_S}}}", "{{station}} certificate holds")], None,
            ),
            (
                "Golden part: rejected as it must be, and its measured severity", "timeseries", "short", 12,
                [(f"edge_golden_part_held{{{_S}}}", "{{station}} held"),
                 (f"edge_golden_part_measured{{{_S}}}", "{{station}} measured")], None,
            ),
            (
                "Share with a defect of unknown type", "timeseries", "percentunit", 12,
                [(f"station:edge_unknown_share:ratio1h{{{_S}}}", "{{station}} hour"),
                 (f"station:edge_unknown_share:ratio7d{{{_S}}}", "{{station}} week")], None,
            ),
            (
                "Rejected without a judgement, per hour", "timeseries", "short", 12,
                [(f"sum by (station, reason) (increase(edge_failsafe_rejects_total{{{_S}}}[1h]))",
                  "{{station}} {{reason}}")], None,
            ),
        ],
    ),
    (
        "Time",
        [
            (
                "Trigger to permit", "timeseries", "s", 12,
                [(f"histogram_quantile({q}, sum by (le, station)"
                  f" (rate(edge_decision_duration_seconds_bucket{{{_S}}}[$__rate_interval])))",
                  f"{{{{station}}}} {name}")
                 for q, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))]
                + [(f"edge_deadline_seconds{{{_S}}}", "{{station}} deadline")], None,
            ),
            (
                "p99 by stage", "timeseries", "s", 12,
                [(f"histogram_quantile(0.99, sum by (le, station, stage)"
                  f" (rate(edge_stage_duration_seconds_bucket{{{_S}}}[$__rate_interval])))", "{{station}} {{stage}}")],
                None,
            ),
            (
                "Too late, per hour", "timeseries", "short", 12,
                [(f"increase(edge_deadline_missed_total{{{_S}}}[1h])", "{{station}} deadline missed"),
                 (f"sum by (station, reason) (increase(edge_permits_refused_total{{{_S}}}[1h]))",
                  "{{station}} permit refused: {{reason}}")], None,
            ),
            (
                "Age of Ready at the scrape", "timeseries", "s", 12,
                [(f"timestamp(edge_heartbeat_timestamp_seconds{{{_S}}}) - edge_heartbeat_timestamp_seconds{{{_S}}}",
                  "{{station}}")], None,
            ),
        ],
    ),
    (
        "Line and records",
        [
            (
                "Triggers, permits and records a minute", "timeseries", "short", 12,
                [(f"60 * rate(edge_triggers_total{{{_S}}}[$__rate_interval])", "{{station}} triggers"),
                 (f"60 * rate(edge_permits_total{{{_S}}}[$__rate_interval])", "{{station}} permits"),
                 (f"60 * rate(edge_records_stored_total{{{_S}}}[$__rate_interval])", "{{station}} records")], None,
            ),
            (
                "Tickets that ended without a permit, per hour", "timeseries", "short", 12,
                [(f"sum by (station, reason) (increase(edge_tickets_ended_total{{{_S}}}[1h]))",
                  "{{station}} {{reason}}")], None,
            ),
            (
                "PLC heartbeat and serial errors", "timeseries", "short", 12,
                [(f"edge_plc_heartbeat_age_seconds{{{_S}}}", "{{station}} age of the heartbeat, s"),
                 (f"increase(edge_line_protocol_errors_total{{{_S}}}[5m])", "{{station}} broken telegrams in 5 min"),
                 (f"increase(edge_triggers_overflowed_total{{{_S}}}[5m])", "{{station}} triggers not taken in 5 min")],
                None,
            ),
            (
                "Results waiting, open tickets", "timeseries", "short", 12,
                [(f"edge_outbox_pending_messages{{{_S}}}", "{{station}} results waiting"),
                 (f"edge_open_tickets{{{_S}}}", "{{station}} open tickets")], None,
            ),
        ],
    ),
    (
        "Device",
        [
            (
                "Memory of the daemon", "timeseries", "bytes", 12,
                [('process_resident_memory_bytes{job="edge-daemon"}', "{{instance}}")], None,
            ),
            (
                "Processors used by the daemon", "timeseries", "short", 12,
                [('rate(process_cpu_seconds_total{job="edge-daemon"}[$__rate_interval])', "{{instance}}")], None,
            ),
            (
                "Temperature, and whether the device slows itself down", "timeseries", "short", 12,
                [(f"edge_device_temperature_celsius{{{_S}}}", "{{station}} hottest sensor, C"),
                 (f"edge_device_slowed{{{_S}}}", "{{station}} slowed down")], None,
            ),
            (
                "Age of the calibration", "timeseries", "s", 12,
                [(f"edge_calibration_age_seconds{{{_S}}}", "{{station}}")], None,
            ),
            (
                "Release", "stat", "string", 12,
                [(f"max by (station, version) (edge_build_info{{{_S}}})", "{{station}} {{version}}")], None,
            ),
            (
                "Parts with a defect of unknown type, today", "stat", "short", 12,
                [(f"sum by (station) (increase(edge_unknown_type_parts_total{{{_S}}}[24h]))", "{{station}}")], None,
            ),
        ],
    ),
]  # fmt: skip


def _panel(number: int, panel: Panel, x: int, y: int, height: int) -> dict[str, Any]:
    title, kind, unit, width, targets, thresholds = panel
    defaults: dict[str, Any] = {"unit": unit, "min": 0}
    if thresholds is not None:
        steps = [{"value": value, "color": color} for value, color in thresholds]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}}
    if kind == "stat":
        text = "name" if unit == "string" else "value_and_name"
        options = {
            "colorMode": "background" if thresholds else "none",
            "textMode": text,
            "reduceOptions": {"calcs": ["lastNotNull"]},
        }
    return {
        "id": number,
        "type": kind,
        "title": title,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(targets)
        ],
    }


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it (schema 39, Grafana 11)."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
             "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        )  # fmt: skip
        y, x = y + 1, 0
        height = 4 if row[0][1] == "stat" else 8
        for panel in row:
            if x + panel[3] > 24:
                x, y = 0, y + height
            panels.append(_panel(len(panels) + 1, panel, x, y, height))
            x += panel[3]
        y += height
    return {
        "uid": "edge-daemon",
        "title": "Edge inspection",
        "tags": ["edge-daemon"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus", "current": {}},
                {"name": "station", "label": "Station", "type": "query", "datasource": _SOURCE, "refresh": 2,
                 "query": {"query": "label_values(edge_build_info, station)", "refId": "station"},
                 "includeAll": True, "multi": True, "current": {"text": "All", "value": "$__all"}},
            ]
        },
        "annotations": {
            "list": [
                {"name": "Alerts", "enable": True, "iconColor": "red", "datasource": _SOURCE,
                 "titleFormat": "{{alertname}}", "expr": 'ALERTS{alertstate="firing", alertname=~"Edge.+"}'}
            ]
        },
        "panels": panels,
    }  # fmt: skip


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("edge-daemon.json").write_text(text(), encoding="utf-8")
