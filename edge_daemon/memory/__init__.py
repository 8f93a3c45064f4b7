"""The memory bank: what was found, how it was judged, what people said about it, and proof that nobody changed it.

    with MemoryBank("memory.db") as bank:
        for record in bank.history(defect_type="scratches", since="2026-01"):
            print(record.trigger_utc, record.outcome, record.record_id)

Behind the verdict: the line stores through one writer and never waits for a reader. ``bank.py`` is the door; the other
modules of this room are behind it.
"""

from __future__ import annotations

from .bank import MemoryBank
from .indications import contrasts_of
from .postgres import is_url
from .retention import Cleaned, Policy, size_of_pictures
from .rows import (
    FEEDBACK_VERDICTS,
    STATISTICS_BY,
    Chained,
    Counts,
    Feedback,
    Indication,
    JournalEntry,
    OutboxMessage,
    Pattern,
    Session,
    Similar,
    Statistic,
    Stats,
    StoredRecord,
)

__all__ = [
    "FEEDBACK_VERDICTS",
    "STATISTICS_BY",
    "Chained",
    "Cleaned",
    "Counts",
    "Feedback",
    "Indication",
    "JournalEntry",
    "MemoryBank",
    "OutboxMessage",
    "Pattern",
    "Policy",
    "Session",
    "Similar",
    "Statistic",
    "Stats",
    "StoredRecord",
    "contrasts_of",
    "is_url",
    "size_of_pictures",
]
