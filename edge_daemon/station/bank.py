"""The seam between the page and the memory bank: all that the page ever reads of one, and the one thing it adds.

Two banks stand behind it: ``line``, the daemon's own, opened for reading only, and ``page``, where the page keeps what
was inspected on it. A record is named by its bank and its id. Who may see a record of the page: whoever submitted it,
and administrators; records of the line are everybody's who may log in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StorageError
from ..images import make_folder
from ..memory import MemoryBank, StoredRecord
from ..records import Outcome, Record
from ..tickets import utc_now
from .sessions import Session
from .users import may

__all__ = ["BANKS", "Banks", "Filter", "Found", "Shelf"]

BANKS = ("line", "page")
_RECORD_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PAGE = 200
_STATION = "page"


@dataclass(frozen=True, slots=True)
class Filter:
    """What is looked for; None: whatever. since, until: ISO 8601 UTC or its beginning, both inclusive."""

    outcome: Outcome | None = None
    defect_type: str | None = None
    since: str | None = None
    until: str | None = None
    recipe: str | None = None
    part_id: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Some records, newest first; before: pass it on to get the next ones, None where there are no more."""

    records: tuple[StoredRecord, ...]
    before: int | None


class Shelf:
    """One bank, for reading. Any thread."""

    def __init__(self, bank: MemoryBank) -> None:
        self._bank = bank

    def get(self, record_id: str) -> StoredRecord | None:
        """The record of that id; None for anything that is no record id, too."""
        return self._bank.get(record_id) if _RECORD_ID.fullmatch(record_id) else None

    def find(self, wanted: Filter, *, limit: int, before: int | None = None, owner: str | None = None) -> Found:
        """The next ``limit`` records that meet the filter, newest first. owner: only what this user submitted."""
        found: list[StoredRecord] = []
        for one in self._newest_first(wanted, before):
            if _meets(one, wanted, owner):
                found.append(one)
            if len(found) > limit:
                return Found(tuple(found[:limit]), found[limit - 1].number)
        return Found(tuple(found), None)

    def documents(self, wanted: Filter, most: int) -> Iterator[Mapping[str, Any]]:
        """The documents of at most ``most`` records that meet the filter, newest first."""
        for number, one in enumerate(one for one in self._newest_first(wanted, None) if _meets(one, wanted, None)):
            if number >= most:
                return
            yield one.document

    def _newest_first(self, wanted: Filter, before: int | None) -> Iterator[StoredRecord]:
        """What the bank itself can filter. It cannot begin below a number yet, so what is above is passed over."""
        limit = _PAGE
        seen: int | None = before
        while True:
            rows = self._bank.history(
                outcome=wanted.outcome, defect_type=wanted.defect_type, since=wanted.since, limit=limit
            )
            yield from (one for one in rows if seen is None or one.number < seen)
            if len(rows) < limit:
                return
            seen = rows[-1].number if seen is None else min(seen, rows[-1].number)
            limit *= 4

    def counts(self) -> Any:
        """Totals (``memory.Counts``)."""
        return self._bank.counts()

    def stats(self) -> Any:
        """Size, span and totals (``memory.Stats``)."""
        return self._bank.stats()


def _meets(one: StoredRecord, wanted: Filter, owner: str | None) -> bool:
    """What the bank cannot filter yet."""
    return (
        (wanted.until is None or one.trigger_utc[: len(wanted.until)] <= wanted.until)
        and (wanted.recipe is None or one.document.get("recipe") == wanted.recipe)
        and (wanted.part_id is None or one.part_id == wanted.part_id)
        and (owner is None or one.document.get("submitted_by") == owner)
    )


class Banks:
    """Both banks. Raises StorageError when the page's own cannot be made."""

    def __init__(self, data: Path, line_database: Path | None) -> None:
        self.data = make_folder(data)
        self._line_database = line_database
        self._line: Shelf | None = None
        self._page_bank = MemoryBank(data / "page.db")
        self.page = Shelf(self._page_bank)

    def close(self) -> None:
        """Close both."""
        self._page_bank.close()

    @property
    def line(self) -> Shelf | None:
        """The daemon's bank; None where there is none (yet): it is looked for again at every call."""
        if self._line is None and self._line_database is not None and self._line_database.is_file():
            try:
                self._line = Shelf(MemoryBank(self._line_database, read_only=True))
            except StorageError:
                return None  # being made at this moment, or not readable: the page says that there is none
        return self._line

    def shelf(self, name: str) -> Shelf | None:
        """``line`` or ``page``; None for another name, or where that bank is not there."""
        return self.line if name == "line" else self.page if name == "page" else None

    def record(self, name: str, record_id: str, session: Session) -> StoredRecord | None:
        """A record that this session may see, else None: what one may not see does not exist."""
        shelf = self.shelf(name)
        found = None if shelf is None else shelf.get(record_id)
        if found is None or name == "line":
            return found
        mine = found.document.get("submitted_by") == session.user
        return found if mine or may(session.role, "administrator") else None

    def pictures_folder(self, found: StoredRecord) -> Path | None:
        """Where a record's pictures lie, None where none were kept."""
        folder = None if found.pictures is None else Path(found.pictures)
        return folder if folder is not None and folder.is_dir() else None

    def folder_for(self, record_id: str) -> Path:
        """Where the pictures of a new record of the page go."""
        return make_folder(self.data / "pictures" / utc_now()[:10] / record_id)

    def keep(self, document: Mapping[str, Any], folder: Path) -> None:
        """Store a record of the page. Raises StorageError."""
        record = Record(
            document["record_id"], None, _STATION, document["trigger_utc"], Outcome(document["outcome"]),
            document["result"], dict(document),
        )  # fmt: skip
        self._page_bank.store(record, pictures=str(folder))
