"""What the memory bank hands out: frozen rows, plain values, no behaviour beyond their own arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..records import Outcome

__all__ = [
    "FEEDBACK_VERDICTS",
    "STATISTICS_BY",
    "Chained",
    "Counts",
    "Feedback",
    "Indication",
    "JournalEntry",
    "OutboxMessage",
    "Pattern",
    "Session",
    "Similar",
    "Statistic",
    "Stats",
    "StoredRecord",
]

#: What a person may say about a part or one of its indications.
FEEDBACK_VERDICTS = ("confirm", "wrong_type", "missed", "false_call")

#: What ``statistics`` can be grouped by.
STATISTICS_BY = ("day", "week", "line", "recipe", "engine", "type")


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A trigger that has no record yet.

    age_s: since the trigger, None after a reboot. draft: the record's document, if it was made durable by ``intend``.
    """

    record_id: str
    part_id: int
    station: str
    trigger_utc: str
    age_s: float | None
    draft: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """One message waiting for delivery. ``seq`` grows by one per message and is never used again.

    age_s: seconds from the trigger to this read, on CLOCK_MONOTONIC; None where the device has rebooted in between.
    """

    seq: int
    record_id: str
    topic: str
    payload: bytes = field(repr=False)
    created_utc: str
    age_s: float | None


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it lies in the bank.

    number: its place in the audit chain, which is the order of storing; it grows, with gaps where something else was
    chained. reasons, types: codes only. pictures: folder of its pictures, None where none were kept; ``pictures_gone``
    says that retention has removed them. indications: how many, also where only the largest are rows of their own.
    session: number of the session that stored it. sha256: its link in the chain.
    """

    number: int
    record_id: str
    part_id: int | None
    station: str
    trigger_utc: str
    outcome: Outcome
    result: str
    reasons: tuple[str, ...]
    types: tuple[str, ...]
    pictures: str | None
    created_utc: str
    document: dict[str, Any] = field(repr=False)
    recipe: str = ""
    advisory: bool = False
    indications: int = 0
    session: int | None = None
    pictures_gone: bool = False
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Indication:
    """One stored indication. ``position``: its place in the document's ``defects``, from 0; ``number``: of its record.

    confidence, p_known: in [0, 1]. Sizes in mm with their standard uncertainty (k = 1), None without a scale.
    coverage_pct: share of the inspected picture that it covers, in percent, None without a scale. contrast: how much
    brighter (above 0) or darker it is than what surrounds it, as a share of full scale, None where nobody looked.
    """

    number: int
    position: int
    type: str
    known: bool
    nearest_type: str
    confidence: float | None
    p_known: float | None
    area_mm2: float | None
    area_u_mm2: float | None
    feret_max_mm: float | None
    feret_u_mm: float | None
    coverage_pct: float | None
    contrast: float | None
    bbox_px: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Similar:
    """A stored indication like the one asked for; distance 0 is the same in every respect that is compared."""

    distance: float
    indication: Indication
    record: StoredRecord


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of what. ``passed`` + ``rejected`` = ``records``; ``by_outcome`` has all four outcomes as keys."""

    records: int
    passed: int
    rejected: int
    by_outcome: dict[str, int]
    open_tickets: int
    pending: int


@dataclass(frozen=True, slots=True)
class Stats:
    """What ``edge-daemon memory stats`` prints. first_utc, last_utc: trigger of the first and the last stored record.

    used_bytes: of the database, without pages that are free for reuse. indications: rows, not what documents list.
    pictures_bytes: as far as their sizes are known.
    """

    path: str
    schema_version: int
    size_bytes: int
    free_bytes: int
    first_utc: str | None
    last_utc: str | None
    oldest_age_s: float
    counts: Counts
    used_bytes: int = 0
    indications: int = 0
    pictures_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Statistic:
    """One line of statistics over everything ever stored, also where retention has removed the records since.

    key: the day (UTC, of the trigger), ISO week (``2026-W05``), line (station), recipe, engine (SHA-256) or type.
    parts: inspected; for a type, those with at least one indication of it. passed, rejected: by the gate. by_outcome:
    empty for a type. unknown_parts: with an indication of unknown type. mean_confidence: over all indications.
    mean_segment_ms: over the parts that were looked at. The last four count what people said; of several words about
    the same indication the latest counts.
    """

    key: str
    parts: int
    passed: int
    rejected: int
    by_outcome: dict[str, int]
    advisory: int
    unknown_parts: int
    indications: int
    area_mm2: float
    mean_confidence: float | None
    mean_segment_ms: float | None
    confirmed: int
    wrong_type: int
    missed: int
    false_calls: int


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a daemon with one recipe and engine. ended: ``stopped``, ``reloaded``, ``lost`` (it never said that
    it ended) or None while it runs."""

    number: int
    station: str
    started_utc: str
    ended_utc: str | None
    ended: str | None
    version: str
    recipe: str
    engine: str
    engine_sha256: str
    config_sha256: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a person said about a record, or about its indication ``position`` (None: the part as a whole).

    verdict: one of FEEDBACK_VERDICTS. correct_type: for ``wrong_type`` and ``missed``. mask_sha256, mask_types: of the
    corrected label image and the types its values 1..K stand for. rejudged: the document of judging again with that
    mask, None where nobody asked. current: no later word about the same indication exists.
    """

    number: int
    record_id: str
    position: int | None
    verdict: str
    correct_type: str | None
    who: str
    why: str
    at_utc: str
    mask_sha256: str | None
    mask_types: tuple[str, ...]
    rejudged: dict[str, Any] | None = field(repr=False)
    current: bool = True


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is known about a type of defect. edited_by, edited_utc: None while it is as shipped."""

    type: str
    title: str
    description: str
    causes: tuple[str, ...]
    severity: tuple[str, ...]
    edited_by: str | None = None
    edited_utc: str | None = None


@dataclass(frozen=True, slots=True)
class Chained:
    """A row of the audit chain that is no record: what was done, to what, by whom, why, with the details."""

    number: int
    kind: str
    subject: str
    who: str
    why: str
    at_utc: str
    body: dict[str, Any] = field(repr=False)
    sha256: str = ""
