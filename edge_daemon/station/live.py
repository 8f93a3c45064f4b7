"""What the line beside the page says of itself: /metrics and /readyz, read at most once a second, never asked of it
otherwise. A line that does not answer is shown as not answering."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["LineState", "LineWatch", "line_state"]

_EVERY_S = 1.0
_TIMEOUT_S = 1.0
_MOST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class LineState:
    """One look at the line. None: not said. decided_p50_s, decided_p99_s: from trigger to permit, upper bounds from the
    histogram. margin_s: from there to the deadline. reasons: why it is not ready."""

    reachable: bool
    ready: bool = False
    reasons: tuple[str, ...] = ()
    station: str = ""
    version: str = ""
    camera: bool | None = None
    plc: bool | None = None
    broker: bool | None = None
    engine: str = ""
    engine_sha256: str = ""
    backend: str = ""
    certificate: bool | None = None
    drift: float | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    triggers: int = 0
    permits: int = 0
    missed: int = 0
    unknown: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    pending: int | None = None
    oldest_s: float | None = None
    deadline_s: float | None = None
    decided_p50_s: float | None = None
    decided_p99_s: float | None = None
    open_tickets: int | None = None
    rss_bytes: float | None = None

    @property
    def margin_s(self) -> float | None:
        """Deadline less the time that 99 % of the permits took; negative where they came too late."""
        if self.deadline_s is None or self.decided_p99_s is None:
            return None
        return self.deadline_s - self.decided_p99_s


class LineWatch:
    """Looks at a line, at most once a second however many pages ask. Any thread. url: None where there is no line."""

    def __init__(self, url: str | None) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._state = LineState(False)
        self._looked_s = float("-inf")

    def state(self) -> LineState:
        """The newest look; waits at most about two seconds."""
        if self.url is None:
            return LineState(False)
        with self._lock:
            if time.monotonic() - self._looked_s >= _EVERY_S:
                self._state = self._look(self.url.rstrip("/"))
                self._looked_s = time.monotonic()
            return self._state

    @staticmethod
    def _look(url: str) -> LineState:
        try:
            _, metrics = _get(f"{url}/metrics")
            status, ready = _get(f"{url}/readyz")
            return line_state(metrics, ready=status == 200, readyz=ready)
        except (OSError, ValueError):
            return LineState(False)


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - the address is the operator's own
            return answer.status, answer.read(_MOST_BYTES).decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_MOST_BYTES).decode()


def line_state(metrics: str, *, ready: bool, readyz: str) -> LineState:
    """The state that the text of /metrics and /readyz describes. Raises ValueError for text that is no /metrics."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((dict(sample.labels), float(sample.value)))

    def one(name: str) -> float | None:
        found = samples.get(name)
        return None if not found else found[0][1]

    def yes(name: str) -> bool | None:
        value = one(name)
        return None if value is None else value == 1.0

    def label(name: str, key: str) -> str:
        found = samples.get(name)
        return "" if not found else found[0][0].get(key, "")

    def by(name: str, key: str) -> dict[str, int]:
        return {labels[key]: int(value) for labels, value in samples.get(name, ()) if value}

    buckets = [
        (float(labels["le"]), value) for labels, value in samples.get("edge_decision_duration_seconds_bucket", ())
    ]
    pending = one("edge_outbox_pending_messages")
    open_tickets = one("edge_open_tickets")
    return LineState(
        reachable=True,
        ready=ready,
        reasons=() if ready else tuple(line for line in readyz.splitlines() if line)[:12],
        station=label("edge_deadline_seconds", "station"),
        version=label("edge_build_info", "version"),
        camera=yes("edge_camera_connected"),
        plc=yes("edge_plc_connected"),
        broker=yes("edge_broker_connected"),
        engine=label("edge_engine_info", "name"),
        engine_sha256=label("edge_engine_info", "sha256"),
        backend=label("edge_engine_info", "backend"),
        certificate=yes("edge_certificate_valid"),
        drift=one("edge_drift_log_martingale"),
        outcomes=by("edge_parts_total", "outcome"),
        triggers=int(one("edge_triggers_total") or 0),
        permits=int(one("edge_permits_total") or 0),
        missed=int(one("edge_deadline_missed_total") or 0),
        unknown=int(one("edge_unknown_type_parts_total") or 0),
        refused=by("edge_failsafe_rejects_total", "reason"),
        pending=None if pending is None else int(pending),
        oldest_s=one("edge_outbox_oldest_age_seconds"),
        deadline_s=one("edge_deadline_seconds"),
        decided_p50_s=_quantile(buckets, 0.5),
        decided_p99_s=_quantile(buckets, 0.99),
        open_tickets=None if open_tickets is None else int(open_tickets),
        rss_bytes=one("process_resident_memory_bytes"),
    )


def _quantile(buckets: list[tuple[float, float]], share: float) -> float | None:
    """The border that at least this share of all lies below; None where nothing was counted, or it lies beyond them."""
    buckets = sorted(buckets)
    if not buckets or buckets[-1][1] <= 0:
        return None
    wanted = share * buckets[-1][1]
    border: Any = next(le for le, count in buckets if count >= wanted)
    return None if border == float("inf") else float(border)
