"""Retention: by age and by size, pictures before records, in batches so small that the line never waits for one.

What goes: pictures older than ``pictures_days``; records older than ``records_days``, with their pictures; and while
database and pictures together take more than ``most_bytes``, the oldest pictures, and when there are none left, the
oldest records. What never goes by itself: a record that is not delivered yet, and one that somebody has said something
about (with its pictures: they are what training learns from).

Order of storing decides what is old, not the stamp alone: a record stamped while the clock was wrong does not go before
its neighbours. A batch is one short transaction, sized by how long the last one held the writer, with a pause of at
least four times as long after it, in which the line has the writer for itself. Pages are read before the writer is
asked for, deletions are not flushed one by one, and the write-ahead log is emptied between batches.

Each batch leaves a row in the audit chain with the links at both ends of every stretch it removed; the run ends with a
row that says who let it run, by which settings, and what went. Freed pages of the database are used again; the file
itself does not shrink.

Not covered: a clock that is years ahead now makes everything look old; a station that cannot keep time should be kept
by size alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ..errors import StorageError, UsageError
from ..tickets import utc_now
from .backend import Backend
from .storing import Appender

__all__ = ["Cleaned", "Policy", "clean"]

_HOLD_S = 0.002  # how long a batch may hold the writer
_PAUSE_SHARE = 4.0  # pause after a batch, in times of its hold
_PAUSE_S = 0.005  # and at least this
_FIRST_BATCH, _LARGEST_BATCH = 20, 200
_CHECKPOINT_EVERY = 20
_SCAN = 500
_ANY = "~"  # in place of a time: any stamp is before it

#: What a record's folder may hold; nothing else is ever deleted.
_PICTURE_SUFFIXES = frozenset({".png", ".json", ".html", ".pdf", ".tif", ".tiff", ".dcm"})


@dataclass(frozen=True, slots=True)
class Policy:
    """What may stay; None: no limit. Raises UsageError for a limit that makes no sense."""

    records_days: float | None = None
    pictures_days: float | None = None
    most_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, days in (("records", self.records_days), ("pictures", self.pictures_days)):
            if days is not None and not days >= 1:
                raise UsageError(f"cleanup of {name} older than {days:g} days", code="DAYS", hint="give 1 or more days")
        if self.most_bytes is not None and self.most_bytes < 1_000_000:
            raise UsageError(f"keeping at most {self.most_bytes} bytes", hint="give 1 MB or more")

    @property
    def empty(self) -> bool:
        """Whether nothing is ever removed."""
        return self.records_days is None and self.pictures_days is None and self.most_bytes is None


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a run removed, or with ``dry_run`` would remove. used_bytes: of database and pictures, after it. folders:
    picture folders that are gone or, in a run that leaves files alone, that the caller may remove. failed: records
    that stay because their pictures cannot be deleted; trouble: the first of them, and why."""

    run: str
    dry_run: bool
    records: int
    pictures: int
    pictures_bytes: int
    used_bytes: int
    folders: tuple[str, ...] = ()
    failed: int = 0
    trouble: str = ""


def clean(
    db: Backend,
    policy: Policy,
    *,
    who: str,
    why: str,
    dry_run: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _: None,
    delete_files: bool = True,
) -> Cleaned:
    """One run. who, why: for the audit chain. stopped: asked between batches; True ends the run early, all in order.
    progress: told how many records are done with. Raises StorageError; what was done until then stays done."""
    if db.read_only and not dry_run:
        raise StorageError(f"memory bank {db.name} was opened for reading only", code="READ_ONLY")
    if policy.most_bytes is not None and not db.knows_use:
        raise UsageError("a size cannot be kept on this database", hint="keep by days; its server knows its disk")
    run = _Run(db, policy, who, why, dry_run, stopped, progress, delete_files)
    return run.go()


def _before(days: float) -> str:
    moment = datetime.now(timezone.utc) - timedelta(days=days)
    return moment.isoformat(timespec="milliseconds")[:23] + "Z"


def delete_pictures(folder: Path, record_id: str) -> int:
    """Delete a record's picture files and its folder; bytes freed. Touches no folder that is not named after the
    record, no link, no folder inside and no file of another kind, whatever the database says. Raises OSError for a file
    that cannot be deleted."""
    if folder.name != record_id or folder.is_symlink() or not folder.is_dir():
        return 0
    freed = 0
    for path in folder.iterdir():
        if path.suffix.lower() in _PICTURE_SUFFIXES and path.is_file() and not path.is_symlink():
            size = path.stat().st_size
            path.unlink(missing_ok=True)
            freed += size
    with contextlib.suppress(OSError):
        folder.rmdir()
        folder.parent.rmdir()  # the day's, once it is empty
    return freed


def size_of_pictures(folder: str | os.PathLike[str]) -> int:
    """Bytes of the files in a record's folder; 0 where it is not there."""
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
    except OSError:
        return 0


_Excess = Callable[[], float]  # bytes that are still too many


def _unbounded() -> float:
    return float("inf")


def _as_many_as(rows: list[tuple[Any, ...]], need: float, per_record: float) -> list[tuple[Any, ...]]:
    """The first rows that together free ``need`` bytes, at least one: what fits stays."""
    freed = 0.0
    for number, row in enumerate(rows, start=1):
        freed += per_record + (row[3] or 0)
        if freed >= need:
            return rows[:number]
    return rows


class _Run:
    def __init__(
        self, db: Backend, policy: Policy, who: str, why: str, dry_run: bool, stopped: Callable[[], bool],
        progress: Callable[[int], None], delete_files: bool,
    ) -> None:  # fmt: skip
        self._db, self._policy, self._who, self._why, self._dry_run = db, policy, who, why, dry_run
        self._stopped, self._progress, self._delete_files = stopped, progress, delete_files
        self._id = str(uuid.uuid4())
        self._records = self._pictures = self._pictures_bytes = 0
        self._folders: list[str] = []
        self._failed, self._trouble = 0, ""
        self._batch, self._batches = _LARGEST_BATCH if dry_run else _FIRST_BATCH, 0
        self._would_go: set[int] = set()  # of a dry run, which must count nothing twice
        self._would_lose_pictures: set[int] = set()

    def go(self) -> Cleaned:
        policy = self._policy
        if policy.records_days is not None:
            self._drop_records(_before(policy.records_days))
        if policy.pictures_days is not None:
            self._drop_pictures(_before(policy.pictures_days))
        if policy.most_bytes is not None:
            self._measure_pictures()
            self._shrink(policy.most_bytes)
        if (self._records or self._pictures) and not self._dry_run:
            self._finish()
        return Cleaned(self._id, self._dry_run, self._records, self._pictures, self._pictures_bytes, self._used_bytes(),
                       tuple(self._folders), self._failed, self._trouble)  # fmt: skip

    def _finish(self) -> None:
        body = {
            "run": self._id, "policy": asdict(self._policy), "records": self._records, "pictures": self._pictures,
            "pictures_bytes": self._pictures_bytes,
        }  # fmt: skip
        with self._db.writing() as db:
            chain = Appender(db)
            chain.note("retention", self._id, who=self._who, why=self._why, body=body)
            chain.finish()

    # ---------------------------------------------------------------- what

    def _cut(self, before: str) -> int:
        """The first number that must stay: that of the oldest record, in the order of storing, that is young enough.
        One stamped in the future says nothing about the age of those before it."""
        now = datetime.now(timezone.utc)
        now_utc = now.isoformat(timespec="milliseconds")[:23] + "Z"
        # A day early: a record is stored after its trigger, by which the days are counted.
        early = (datetime.fromisoformat(before[:10]) - timedelta(days=1)).isoformat()[:10]
        (first,) = self._db.query(
            "SELECT min(first_number) FROM performance WHERE day >= ? AND day <= ?", (early, now_utc[:10])
        )[0]
        after = 2**62 - 1 if first is None else first - 1
        while True:
            rows = self._db.query(
                "SELECT number, created_utc FROM records WHERE number > ? ORDER BY number LIMIT ?", (after, _SCAN)
            )
            for number, created_utc in rows:
                if before <= created_utc <= now_utc:
                    return int(number)
            if len(rows) < _SCAN:
                return 2**62
            after = rows[-1][0]

    def _removable(self, after: int, below: int, before: str, *, with_pictures: bool) -> list[tuple[Any, ...]]:
        """(number, record_id, pictures, bytes) of the next records that may go. before: stamped before this, or in the
        future; ``~`` for any."""
        there = " AND pictures IS NOT NULL AND pictures_removed IS NULL" if with_pictures else ""
        return self._db.query(
            "SELECT number, record_id, CASE WHEN pictures_removed IS NULL THEN pictures END, pictures_bytes"
            f" FROM records r WHERE number > ? AND number < ?{there} AND (created_utc < ? OR created_utc > ?)"
            " AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.record_id = r.record_id)"
            " AND NOT EXISTS (SELECT 1 FROM feedback f WHERE f.record_id = r.record_id) ORDER BY number LIMIT ?",
            (after, below, before, utc_now(), self._batch),
        )

    def _drop_records(self, before: str, excess: _Excess = _unbounded, per_record: float = 0.0) -> None:
        """Records stamped before this; with ``excess``, until it is 0, where a record is worth ``per_record`` bytes."""
        after, below = 0, 2**62 if before == _ANY else self._cut(before)
        while not self._stopped() and (need := excess()) > 0:
            rows = self._removable(after, below, before, with_pictures=False)
            if not rows:
                return
            rows = _as_many_as(rows, need, per_record)
            after = rows[-1][0]
            rows = [row for row in rows if row[0] not in self._would_go]
            there = [row for row in rows if row[2] is not None and row[0] not in self._would_lose_pictures]
            kept = self._drop_files(there)
            rows = [row for row in rows if row[0] not in kept]
            self._records += len(rows)
            if self._dry_run:
                self._would_go.update(row[0] for row in rows)
            elif rows:
                self._delete(rows)
            self._progress(self._records)

    def _drop_pictures(self, before: str, excess: _Excess = _unbounded) -> None:
        """Pictures of records stamped before this; with ``excess``, until it is 0."""
        after, below = 0, 2**62 if before == _ANY else self._cut(before)
        while not self._stopped() and (need := excess()) > 0:
            rows = self._removable(after, below, before, with_pictures=True)
            if not rows:
                return
            rows = _as_many_as(rows, need, 0.0)
            after = rows[-1][0]
            rows = [row for row in rows if row[0] not in self._would_go | self._would_lose_pictures]
            kept = self._drop_files(rows)
            rows = [row for row in rows if row[0] not in kept]
            if self._dry_run:
                self._would_lose_pictures.update(row[0] for row in rows)
            elif rows:
                self._mark(rows)
            self._progress(self._pictures)

    def _drop_files(self, rows: list[tuple[Any, ...]]) -> set[int]:
        """Files first: a crash leaves a record without pictures, which the next run sees, and no forgotten folder. The
        numbers of those whose files cannot be deleted; they stay as they are, and the run goes on."""
        kept = set()
        for number, record_id, folder, size in rows:
            known = size_of_pictures(folder) if size is None else size
            try:
                if not self._dry_run and self._delete_files:
                    delete_pictures(Path(folder), record_id)
            except OSError as error:
                kept.add(number)
                self._failed += 1
                self._trouble = self._trouble or f"{folder}: {error.strerror or error}"
                continue
            self._folders.append(folder)
            self._pictures += 1
            self._pictures_bytes += known
        return kept

    # ---------------------------------------------------------------- size

    def _used_bytes(self) -> int:
        (pictures_bytes,) = self._db.query("SELECT pictures_bytes FROM chain")[0]
        removed = self._pictures_bytes if self._dry_run else 0
        return self._db.sizes()[1] + int(pictures_bytes) - removed

    def _shrink(self, most_bytes: int) -> None:
        used = self._used_bytes()
        (count,) = self._db.query("SELECT records FROM chain")[0]
        per_record = max(1.0, self._db.sizes()[1] / max(1, count))
        gone, records = self._pictures_bytes, self._records

        def excess() -> float:
            if not self._dry_run:
                return self._used_bytes() - most_bytes
            # Nothing goes: pictures count by their size, records by what one takes on the average.
            freed = self._pictures_bytes - gone + (self._records - records) * per_record
            return float(used - most_bytes - freed)

        self._drop_pictures(_ANY, excess)
        self._drop_records(_ANY, excess, per_record)

    def _measure_pictures(self) -> None:
        """Fill in the sizes of picture folders that nobody measured when they were stored."""
        after = 0
        while not self._stopped() and not self._dry_run:
            rows = self._db.query(
                "SELECT number, pictures FROM records WHERE number > ? AND pictures IS NOT NULL AND pictures_bytes IS"
                " NULL AND pictures_removed IS NULL ORDER BY number LIMIT ?",
                (after, self._batch),
            )
            if not rows:
                return
            after = rows[-1][0]
            sizes = [(size_of_pictures(folder), number) for number, folder in rows]

            def write(chain: Appender, db: Any, sizes: list[tuple[int, int]] = sizes) -> None:
                db.executemany("UPDATE records SET pictures_bytes = ? WHERE number = ?", sizes)
                chain.removed(pictures_bytes=-sum(size for size, _ in sizes))

            self._short(write)

    # ---------------------------------------------------------------- one batch

    def _short(self, write: Callable[[Appender, Any], None]) -> None:
        """Run one short transaction, learn from how long it held the writer, and leave the writer alone for longer."""
        with self._db.writing(durable=False) as db:
            started_s = time.perf_counter()
            chain = Appender(db)
            write(chain, db)
            chain.finish()
            held_s = time.perf_counter() - started_s
        self._batch = int(min(_LARGEST_BATCH, max(5.0, self._batch * min(2.0, _HOLD_S / max(held_s, 1e-6)))))
        time.sleep(max(_PAUSE_S, _PAUSE_SHARE * held_s))
        self._batches += 1
        if self._batches % _CHECKPOINT_EVERY == 0:
            self._db.checkpoint()

    def _mark(self, rows: list[tuple[Any, ...]]) -> None:
        """Note that these pictures are gone."""

        def write(chain: Appender, db: Any) -> None:
            body = {"run": self._id, "numbers": [row[0] for row in rows]}
            number = chain.note("pictures_removed", self._id, who=self._who, why=self._why, body=body)
            db.executemany(
                "UPDATE records SET pictures_removed = ? WHERE number = ?", [(number, row[0]) for row in rows]
            )
            chain.removed(pictures_bytes=sum(row[3] or 0 for row in rows))

        self._short(write)

    def _delete(self, rows: list[tuple[Any, ...]]) -> None:
        """Delete these records and all that is found through them, and leave what keeps the chain whole."""
        marks = ", ".join("?" * len(rows))
        numbers = tuple(row[0] for row in rows)
        # Read what will be deleted now, so that nothing has to come from the disk while the writer is held.
        self._db.query(f"SELECT sum(length(document)) FROM documents WHERE number IN ({marks})", numbers)
        counted = self._db.query(
            f"SELECT number, count(*) FROM detections WHERE number IN ({marks}) GROUP BY number", numbers
        )
        indications = dict(counted)

        def write(chain: Appender, db: Any) -> None:
            # Asked again inside: a word of feedback may have come in between, and then the record stays.
            held = db.execute(
                "SELECT number, group_id, types, previous_sha256, sha256, pictures_bytes, pictures_removed, record_id"
                f" FROM records r WHERE number IN ({marks})"
                " AND NOT EXISTS (SELECT 1 FROM feedback f WHERE f.record_id = r.record_id) ORDER BY number",
                numbers,
            ).fetchall()
            body = {"run": self._id, "spans": _spans(held)}
            chain.note("removed", self._id, who=self._who, why=self._why, body=body)
            _delete_rows(db, held)
            freed = sum(row[5] or 0 for row in held if row[6] is None)
            gone = sum(indications.get(row[0], 0) for row in held)
            chain.removed(records=len(held), indications=gone, pictures_bytes=freed)

        self._short(write)


def _delete_rows(db: Any, held: list[tuple[Any, ...]]) -> None:
    numbers = [(row[0],) for row in held]
    db.executemany(
        "DELETE FROM record_types WHERE type = ? AND group_id = ? AND number = ?",
        [(name, row[1], row[0]) for row in held for name in json.loads(row[2])],
    )
    for table in ("detections", "documents", "records"):
        db.executemany(f"DELETE FROM {table} WHERE number = ?", numbers)
    groups = Counter(row[1] for row in held)
    db.executemany(
        "UPDATE record_groups SET records = records - ? WHERE group_id = ?",
        [(count, group_id) for group_id, count in groups.items()],
    )


def _spans(held: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Unbroken stretches of the chain among these rows: each row's ``previous`` is the link of the one before it."""
    spans: list[dict[str, Any]] = []
    last = b""
    for number, _, _, previous, sha256, *_, record_id in held:
        if spans and bytes(previous) == last:
            spans[-1].update(last=number, count=spans[-1]["count"] + 1, sha256=bytes(sha256).hex(), last_id=record_id)
        else:
            spans.append(
                {"first": number, "last": number, "count": 1, "previous_sha256": bytes(previous).hex(),
                 "sha256": bytes(sha256).hex(), "first_id": record_id, "last_id": record_id}
            )  # fmt: skip
        last = bytes(sha256)
    return spans
