"""Tickets: one trigger, one part, one deadline, one record.

Standard library only, because the line process lives on this and little else. ``_ns`` is CLOCK_MONOTONIC, which all
processes of one Linux machine share and no clock change moves; ``_utc`` is ISO 8601 wall time, for people only.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone

__all__ = ["GateAnswer", "Ticket", "new_record_id", "utc_now"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """One trigger, one part, one deadline. Opened by the line process, closed into reject unless permitted.

    part_id: the PLC's number, 0..65535, wraps. record_id: ours, unique for ever, made when the trigger arrives so
    that a restart on either side can never produce two records for one trigger.
    """

    record_id: str
    part_id: int
    trigger_ns: int
    deadline_ns: int
    trigger_utc: str
    recipe: int = 0


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """What became of a ticket at the gate.

    permitted: the gate was told PASS for this part before its deadline. reason: why not, or ``""``.
    at_ns: when the permit was handed to the serial driver (or refused).
    """

    permitted: bool
    reason: str
    at_ns: int


def utc_now() -> str:
    """Wall time as ISO 8601 in UTC with milliseconds (``2026-01-31T08:15:30.250Z``): for people, never for order."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_record_id() -> str:
    """A new UUID version 7 (RFC 9562): sorts by wall time, unique by 74 random bits even when the clock is stepped."""
    unix_ms = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (unix_ms & (2**48 - 1)) << 80 | 0x7 << 76 | (random >> 68 & 0xFFF) << 64 | 0b10 << 62 | random & (2**62 - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
