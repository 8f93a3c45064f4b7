"""Memory bank: every record, every open ticket, every message not yet delivered, and what people said about them.

Where it stands: behind the verdict. The line writes through ``journal.py``; everything else reads, or adds to what is
there without changing it. One writer at a time: see ``backend.py``. Any thread may call any method; reads never wait
for a write.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..records import Outcome
from . import aggregates, exporting, finding, people, pushing, retention, sessions, verifying
from .finding import SELECT_INDICATION, Wanted, indication_of
from .journal import Journal
from .postgres import PostgresBackend, is_url
from .retention import Cleaned, Policy
from .rows import Chained, Counts, Feedback, Indication, Pattern, Session, Similar, Statistic, Stats, StoredRecord
from .schema import SCHEMA_VERSION
from .similar import SimilarIndex
from .sqlite import SqliteBackend
from .storing import Appender
from .verifying import Verified

if TYPE_CHECKING:
    from .dataset import DataSet

__all__ = ["MemoryBank"]


class MemoryBank(Journal):
    """The memory bank in one SQLite file, or of a plant in a PostgreSQL database; made if it is not there.

    Parameters
    ----------
    path : the file; its folder must exist. Or ``postgresql://...``, with the extra ``postgres``.
    read_only : open an existing bank for reading only; every writing method then raises StorageError (READ_ONLY).
    busy_timeout_s : how long a write waits for another process before it gives up with StorageError (LOCKED).

    Every method raises StorageError when the disk is full, read-only, locked or damaged; the transaction is then
    undone as a whole, and the bank can be used again as soon as the cause is gone.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False, busy_timeout_s: float = 1.0) -> None:
        self.path = Path(path)
        if is_url(path):
            super().__init__(PostgresBackend(str(path), read_only=read_only, busy_timeout_s=busy_timeout_s))
            self._similar = SimilarIndex(self._db, None)
        else:
            super().__init__(SqliteBackend(self.path, read_only=read_only, busy_timeout_s=busy_timeout_s))
            self._similar = SimilarIndex(self._db, self.path.with_name(self.path.name + "-similar"))

    def __enter__(self) -> MemoryBank:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---------------------------------------------------------------- records

    def get(self, record_id: str) -> StoredRecord | None:
        """The record with this id, or None."""
        return finding.stored_record(self._db, record_id)

    def history(
        self,
        *,
        outcome: Outcome | str | None = None,
        defect_type: str | None = None,
        since: str | None = None,
        until: str | None = None,
        recipe: str | None = None,
        station: str | None = None,
        result: str | None = None,
        part_id: int | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> list[StoredRecord]:
        """The newest ``limit`` records that meet every condition given, newest first.

        since, until : ISO 8601 UTC of the trigger, or the beginning of it (``2026-01-31`` is that whole day in both).
        before : only records with a smaller ``number``; the last one of a page gives the next page.
        Raises UsageError for a type, outcome or time that there cannot be.
        """
        wanted = Wanted(outcome, defect_type, since, until, recipe, station, result, part_id)
        return finding.stored_records(self._db, finding.numbers(self._db, wanted, limit=limit, before=before))

    def count(
        self,
        *,
        most: int,
        outcome: Outcome | str | None = None,
        defect_type: str | None = None,
        since: str | None = None,
        until: str | None = None,
        recipe: str | None = None,
        station: str | None = None,
        result: str | None = None,
        part_id: int | None = None,
    ) -> int:
        """How many records meet every condition given; counting stops at ``most``. Reads no documents."""
        wanted = Wanted(outcome, defect_type, since, until, recipe, station, result, part_id)
        return len(finding.numbers(self._db, wanted, limit=most))

    def after(self, number: int, *, limit: int = 100) -> list[StoredRecord]:
        """The oldest ``limit`` records stored after the one with this number, oldest first."""
        return finding.stored_records(self._db, finding.numbers(self._db, Wanted(), limit=limit, after=number))

    def indications(self, number: int) -> list[Indication]:
        """The stored indications of the record with this number, in the order of its document's ``defects``."""
        rows = self._db.query(f"{SELECT_INDICATION} WHERE number = ? ORDER BY position", (number,))
        return [indication_of(row) for row in rows]

    def similar(
        self, record_id: str, position: int = 0, *, limit: int = 10, defect_type: str | None = None
    ) -> list[Similar]:
        """Past indications most like the one at ``position`` of this record's ``defects``, nearest first.

        defect_type : only indications of this type. What is compared is said at ``indications.features_of``; distances
        mean something beside each other only. The picture folder of each is in its record, as long as it is kept.
        Raises UsageError where that indication is not stored.
        """
        return self._similar.like_record(record_id, position, limit=limit, defect_type=defect_type)

    def similar_to(
        self,
        defect: Mapping[str, Any],
        document: Mapping[str, Any],
        *,
        contrast: float | None = None,
        limit: int = 10,
        defect_type: str | None = None,
    ) -> list[Similar]:
        """The same for an indication that is not stored: ``defect`` is one of the ``document``'s defects."""
        return self._similar.like(defect, document, contrast, limit=limit, defect_type=defect_type)

    def statistics(
        self,
        by: str,
        *,
        since: str | None = None,
        until: str | None = None,
        recipe: str | None = None,
        station: str | None = None,
    ) -> list[Statistic]:
        """What was found and how it was judged, by ``day``, ``week``, ``line``, ``recipe``, ``engine`` or ``type``.

        since, until : UTC days (or months, years), both inclusive. Covers all that was ever stored, also what retention
        has removed since. Raises UsageError for a key or a time that there cannot be.
        """
        return aggregates.statistics(self._db, by, since=since, until=until, recipe=recipe, station=station)

    def counts(self) -> Counts:
        """Totals over the records that are here now, in one consistent read."""
        rows = self._db.query(
            "SELECT outcome, result, records FROM record_groups"
            " UNION ALL SELECT 'tickets', '', count(*) FROM tickets UNION ALL SELECT 'outbox', '', count(*) FROM outbox"
        )
        extra = {what: count for what, result, count in rows if not result}
        records = [(outcome, result, count) for outcome, result, count in rows if result]
        return Counts(
            records=sum(count for _, _, count in records),
            passed=sum(count for _, result, count in records if result == "PASS"),
            rejected=sum(count for _, result, count in records if result == "FAIL"),
            by_outcome={str(o): sum(n for outcome, _, n in records if outcome == str(o)) for o in Outcome},
            open_tickets=extra["tickets"],
            pending=extra["outbox"],
        )

    def stats(self) -> Stats:
        """Size, span and totals for people."""
        first_utc, last_utc, indications, pictures_bytes = self._db.query(
            "SELECT (SELECT trigger_utc FROM records ORDER BY number LIMIT 1),"
            " (SELECT trigger_utc FROM records ORDER BY number DESC LIMIT 1), indications, pictures_bytes FROM chain"
        )[0]
        size, used, free = self._db.sizes()
        return Stats(
            path=self._db.name,
            schema_version=SCHEMA_VERSION,
            size_bytes=size,
            free_bytes=free,
            first_utc=first_utc,
            last_utc=last_utc,
            oldest_age_s=self.outbox_state()[1],
            counts=self.counts(),
            used_bytes=used,
            indications=indications,
            pictures_bytes=pictures_bytes,
        )

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = "records",
        outcome: Outcome | str | None = None,
        defect_type: str | None = None,
        since: str | None = None,
        until: str | None = None,
        recipe: str | None = None,
        station: str | None = None,
    ) -> int:
        """Write what meets the conditions, oldest first, to ``path``: ``.csv``, ``.parquet``, ``.json``, else JSON
        lines. table : ``records``, ``indications``, ``feedback`` or ``performance``. How many rows.

        The file appears complete or not at all; an existing one is replaced. Raises UsageError if it cannot be written,
        MissingExtra where Parquet's package is not installed.
        """
        wanted = Wanted(outcome, defect_type, since, until, recipe, station)
        return exporting.export(self._db, Path(path), wanted, table)

    def export_data_set(
        self,
        folder: str | os.PathLike[str],
        *,
        since: str | None = None,
        until: str | None = None,
        recipe: str | None = None,
        station: str | None = None,
    ) -> DataSet:
        """Write confirmed and corrected parts as a data set that ``edge-daemon train`` reads; see dataset.py.

        since, until : of the feedback. Raises UsageError where the folder is there already or nothing can be written.
        """
        from .dataset import export_data_set

        wanted = Wanted(since=since, until=until, recipe=recipe, station=station)
        return export_data_set(self._db, Path(folder), wanted)

    # ---------------------------------------------------------------- people

    def feedback(
        self,
        record_id: str,
        verdict: str,
        *,
        who: str,
        why: str = "",
        position: int | None = None,
        correct_type: str | None = None,
        mask: NDArray[np.uint8] | None = None,
        mask_types: Sequence[str] = (),
        rejudged: Mapping[str, Any] | None = None,
    ) -> Feedback:
        """Keep what a person says about a record; the record itself stays as it is.

        verdict : ``confirm`` (right as it is), ``wrong_type``, ``missed`` (a defect that was not marked) or
        ``false_call`` (marked, and none). position : which of the document's ``defects``, from 0; None for the part.
        correct_type : what it is, for ``wrong_type`` and ``missed``. mask : corrected label image of the stored frame,
        uint8 (H, W): 0 sound, 1..K of ``mask_types``, 254 cannot be said, 255 unknown. rejudged : the document of
        judging again with it (``replay.rejudge``). why may be empty only for ``confirm``.

        The record and its pictures are kept by retention from now on. Raises UsageError for what makes no sense.
        """
        return people.add_feedback(
            self._db, record_id, verdict, who=who, why=why, position=position, correct_type=correct_type, mask=mask,
            mask_types=mask_types, rejudged=rejudged,
        )  # fmt: skip

    def feedback_of(self, record_id: str) -> list[Feedback]:
        """Everything people said about this record, the newest first."""
        return people.feedback_rows(self._db, "record_id = ?", (record_id,))

    def feedback_history(self, *, limit: int = 100, before: int | None = None) -> list[Feedback]:
        """The newest words of feedback on any record; ``before``: only those with a smaller number."""
        return people.feedback_rows(self._db, "number < ?", (2**62 if before is None else before,), limit=limit)

    def mask(self, sha256: str) -> NDArray[np.uint8]:
        """A corrected label image that came with feedback, uint8 (H, W). Raises UsageError where there is none."""
        return people.mask_of(self._db, sha256)

    def patterns(self, *, language: str = "en") -> dict[str, Pattern]:
        """What is known about each type of defect, by type: description, typical causes, indicators of severity.

        A site's own words as they were written; the shipped ones in ``language``, ``en`` or ``he``. Raises UsageError
        for another language.
        """
        return people.patterns(self._db, language)

    def edit_pattern(
        self,
        type: str,  # noqa: A002 - it is called so everywhere else
        *,
        who: str,
        why: str,
        title: str | None = None,
        description: str | None = None,
        causes: Sequence[str] | None = None,
        severity: Sequence[str] | None = None,
        reset: bool = False,
        language: str = "en",
    ) -> Pattern:
        """Put own words in place of the shipped ones, or with ``reset`` the shipped ones back; kept in the audit chain.
        What is None stays; where it was as shipped, it becomes own words as shipped in ``language``. Raises UsageError.
        """
        return people.edit_pattern(
            self._db, type, who=who, why=why, title=title, description=description, causes=causes, severity=severity,
            reset=reset, language=language,
        )  # fmt: skip

    def note(self, kind: str, subject: str, *, who: str, why: str, body: Mapping[str, Any] | None = None) -> Chained:
        """Put a change made elsewhere (a table, a recipe, a user) into the audit chain: what, to what, who and why.

        kind : a word of your own such as ``recipe_changed``; body : JSON. Raises UsageError for a kind that the bank
        writes itself, or where who or why is missing.
        """
        if kind in people.OWN_KINDS or not kind.isidentifier():
            raise UsageError(f"{kind!r} cannot be noted", hint="a word of its own, such as 'recipe_changed'")
        who, why, subject = people.said("who", who), people.said("why", why), people.said("the subject", subject)
        with self._db.writing() as db:
            chain = Appender(db)
            number = chain.note(kind, subject, who=who, why=why, body=dict(body or {}))
            chain.finish()
        return people.notes(self._db, kind=kind, subject=subject, limit=1, before=number + 1)[0]

    def notes(
        self, *, kind: str | None = None, subject: str | None = None, limit: int = 100, before: int | None = None
    ) -> list[Chained]:
        """Rows of the audit chain that are no records, the newest first."""
        return people.notes(self._db, kind=kind, subject=subject, limit=limit, before=before)

    def sessions(self, *, station: str | None = None, limit: int = 100) -> list[Session]:
        """Runs of the daemon, the newest first."""
        return sessions.sessions(self._db, station=station, limit=limit)

    # ---------------------------------------------------------------- upkeep

    def verify(
        self,
        *,
        derived: bool = True,
        expect: str | None = None,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> Verified:
        """Prove that no row was changed, deleted or put in, or name the first that was; see ``chain.py``.

        derived : compare what is found through the records with the records as well (slower). expect : an end of the
        chain noted earlier (``head``). progress : (row, of how many). Changes nothing and holds up nobody.
        """
        return verifying.verify(self._db, derived=derived, expect=expect, progress=progress)

    def push(
        self, target: MemoryBank, *, who: str, progress: Callable[[int], None] = lambda _: None
    ) -> tuple[int, int]:
        """Carry the records and the feedback that ``target`` (a plant's bank) does not have; how many of each.

        May be cut short and run again; see pushing.py for what goes and what does not.
        """
        return pushing.push(self._db, target._db, who=who, progress=progress)

    def clean(
        self,
        policy: Policy,
        *,
        who: str,
        why: str = "retention",
        dry_run: bool = False,
        stopped: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Cleaned:
        """Remove what the policy does not keep, pictures before records, without holding up the line; see retention.py.

        who, why : for the audit chain. dry_run : change nothing, say what would go. stopped : asked between batches.
        """
        return retention.clean(
            self._db, policy, who=who, why=why, dry_run=dry_run, stopped=stopped, progress=progress
        )  # fmt: skip

    def cleanup(self, days: float) -> tuple[int, tuple[str, ...]]:
        """Delete records stored more than ``days`` days ago (at least 1) by the wall clock, unless still undelivered.

        Returns how many were deleted, and the picture folders nobody refers to any more (the caller removes them);
        ``clean`` removes them itself.
        """
        policy = Policy(records_days=days)
        done = retention.clean(self._db, policy, who="cleanup", why=f"older than {days:g} days", delete_files=False)
        return done.records, done.folders
