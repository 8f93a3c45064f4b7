"""The seam between the page and the memory banks: what it reads of them, and the little that people add.

Two banks stand behind it: ``line``, the daemon's own, which this process opens for reading only, and ``page``, where
the page keeps what was inspected on it. A record is named by its bank and its id. Records of the page belong to whoever
submitted them: each user is a station of their own there (``page:ann``), so the bank itself keeps them apart; others
see them only as administrators. Records of the line are everybody's who may log in.

What people say (feedback, their own words about defects) is written where the record is: by this process into the
page's bank, by the clerk (``clerk.py``) into the line's.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import StorageError, UnavailableError
from ..images import make_folder
from ..memory import Chained, MemoryBank, StoredRecord
from ..records import Outcome, Record
from ..tickets import utc_now
from .clerk import Clerk
from .sessions import Session
from .users import may

__all__ = ["BANKS", "Banks", "Filter", "Found", "Writer", "station_of"]

BANKS = ("line", "page")
_RECORD_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CHUNK = 500


def station_of(user: str) -> str:
    """The name under which the page's bank keeps what this user submitted."""
    return f"page:{user}"


@dataclass(frozen=True, slots=True)
class Filter:
    """What is looked for; None: whatever. since, until: ISO 8601 UTC or its beginning, both inclusive."""

    outcome: Outcome | None = None
    defect_type: str | None = None
    since: str | None = None
    until: str | None = None
    recipe: str | None = None
    station: str | None = None
    part_id: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Some records, newest first; before: pass it on to get the next ones, None where there are no more."""

    records: tuple[StoredRecord, ...]
    before: int | None


class Writer(Protocol):
    """What people may add to a bank: the same words for the page's own and for the line's."""

    def feedback(
        self, record_id: str, verdict: str, *, who: str, why: str = "", position: int | None = None,
        correct_type: str | None = None, mask: NDArray[np.uint8] | None = None, mask_types: Sequence[str] = (),
        rejudged: Mapping[str, Any] | None = None,
    ) -> object:  # fmt: skip
        """As ``MemoryBank.feedback``."""

    def edit_pattern(
        self, type: str, *, who: str, why: str, title: str | None = None,  # noqa: A002 - as the bank calls it
        description: str | None = None, causes: Sequence[str] | None = None, severity: Sequence[str] | None = None,
        reset: bool = False,
    ) -> object:  # fmt: skip
        """As ``MemoryBank.edit_pattern``."""


def find(bank: MemoryBank, wanted: Filter, *, limit: int, before: int | None = None) -> Found:
    """The next ``limit`` records that meet the filter, newest first."""
    records = bank.history(**asdict(wanted), limit=limit + 1, before=before)
    more = len(records) > limit
    return Found(tuple(records[:limit]), records[limit - 1].number if more else None)


def documents(bank: MemoryBank, wanted: Filter) -> Iterator[Mapping[str, Any]]:
    """The documents of all records that meet the filter, newest first; few at a time in memory and in one read."""
    before: int | None = None
    while True:
        found = find(bank, wanted, limit=_CHUNK, before=before)
        for one in found.records:
            yield one.document
        if found.before is None:
            return
        before = found.before


class Banks:
    """Both banks. Raises StorageError when the page's own cannot be made. Any thread."""

    def __init__(self, data: Path, line_database: Path | None) -> None:
        self.data = make_folder(data)
        self._line_database = line_database
        self._line: MemoryBank | None = None
        self._lock = threading.Lock()
        self.page = MemoryBank(data / "page.db")
        self.clerk = None if line_database is None else Clerk(line_database)

    def close(self) -> None:
        """Close both."""
        self.page.close()
        if self.clerk is not None:
            self.clerk.close()
        with self._lock:
            if self._line is not None:
                self._line.close()

    @property
    def line(self) -> MemoryBank | None:
        """The daemon's bank; None where there is none (yet): it is looked for again at every call."""
        with self._lock:
            if self._line is None and self._line_database is not None and self._line_database.is_file():
                try:
                    self._line = MemoryBank(self._line_database, read_only=True)
                except StorageError:
                    return None  # being made at this moment, or not readable: the page says that there is none
            return self._line

    def get(self, name: str) -> MemoryBank | None:
        """``line`` or ``page``; None for another name, or where that bank is not there."""
        return self.line if name == "line" else self.page if name == "page" else None

    def writer(self, name: str) -> Writer:
        """Who writes what people say into this bank. Raises UnavailableError where there is none."""
        writer: Writer | None = self.page if name == "page" else self.clerk if name == "line" else None
        if writer is None:
            raise UnavailableError("there is no memory bank of a line here", hint="--config or --database name it")
        return writer

    @property
    def main(self) -> str:
        """The bank that knowledge belongs to: the line's where there is one."""
        return "line" if self.line is not None else "page"

    def note(
        self, kind: str, subject: str, *, who: str, why: str = "", body: Mapping[str, Any] | None = None
    ) -> Chained:
        """Put what somebody did on the page into the audit chain of the page's bank. Raises EdgeError."""
        return self.page.note(kind, subject, who=who, why=why or "asked for on the page", body=body)

    # ---------------------------------------------------------------- whose is what

    @staticmethod
    def own_station(name: str, session: Session) -> str | None:
        """The only station whose records this session may see in a bank; None: all of them."""
        return None if name == "line" or may(session.role, "administrator") else station_of(session.user)

    def record(self, name: str, record_id: str, session: Session) -> StoredRecord | None:
        """A record that this session may see, else None: what one may not see does not exist."""
        bank = self.get(name)
        found = bank.get(record_id) if bank is not None and _RECORD_ID.fullmatch(record_id) else None
        own = self.own_station(name, session)
        return found if found is not None and own in (None, found.station) else None

    def pictures_folder(self, found: StoredRecord) -> Path | None:
        """Where a record's pictures lie, None where none were kept."""
        folder = None if found.pictures is None else Path(found.pictures)
        return folder if folder is not None and folder.is_dir() else None

    def folder_for(self, record_id: str) -> Path:
        """Where the pictures of a new record of the page go."""
        return make_folder(self.data / "pictures" / utc_now()[:10] / record_id)

    def keep(self, document: Mapping[str, Any], folder: Path, contrasts: Sequence[float | None]) -> None:
        """Store a record of the page. Raises StorageError."""
        record = Record(
            document["record_id"], None, document["station"], document["trigger_utc"], Outcome(document["outcome"]),
            document["result"], dict(document),
        )  # fmt: skip
        self.page.store(record, pictures=str(folder), contrasts=contrasts)
