"""Structured logs: one JSON object a line on stderr, for journald and anything that reads it.

Fields: ``time`` (UTC), ``level``, ``event`` (a stable word), ``text`` and whatever belongs to the event. A component
that goes away is logged once when it goes and once when it is back, never in between.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import IO, Any

from .tickets import utc_now

__all__ = ["log", "start_logging"]

_LOGGER = logging.getLogger("edge_daemon")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {"time": utc_now(), "level": record.levelname.lower(), **fields, "text": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def start_logging(stream: IO[str] | None = None, level: int = logging.INFO) -> None:
    """Send this process's logs to a stream (default stderr) as JSON lines. Call once, at the start of a command."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines())
    _LOGGER.handlers[:] = [handler]
    _LOGGER.setLevel(level)
    _LOGGER.propagate = False


def log(event: str, text: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """One log line. event: a stable lower-case word such as ``camera_lost``; fields: JSON values that belong to it."""
    _LOGGER.log(level, text, extra={"fields": {"event": event, **fields}}, exc_info=error)
