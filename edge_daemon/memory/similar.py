"""Which stored indications are like this one: exact nearest neighbours over the feature vectors of all of them.

The vectors (``features_of``) lie in the bank as 16-bit floats. Comparing a million of them through SQL would take
seconds, so they are kept a second time as one plain array of 32-bit floats in a file beside the bank,
``<bank>-similar``, mapped into memory: one product of matrix and vector gives every distance. The file is a cache:
indications stored since are appended at the next question, it may be deleted at any time, and where it cannot be
written the array is made in memory (a second or two per million). What retention has removed is dropped from answers.

    header   64 bytes: magic, identity of the bank
    row      37 x 4 bytes: 32 components, squared norm, record number (low, high 24 bits), position, type
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..records import TYPE_IDS, UNKNOWN_TYPE
from .backend import Backend
from .finding import SELECT_INDICATION, Wanted, indication_of, stored_record, stored_records
from .indications import FEATURES, features_of
from .rows import Similar

__all__ = ["SimilarIndex"]

_MAGIC = b"EDGESIM1"
_HEADER = 64
_DIMS = len(FEATURES)
_ROW = _DIMS + 5
_POSITION, _TYPE = _DIMS + 3, _DIMS + 4
_PAGE = 10_000
_SLACK = 16
_CODES = {name: code for code, name in enumerate((*TYPE_IDS, UNKNOWN_TYPE))}
_OTHER = 255
_HALF = 24  # a number is kept in two halves that a 32-bit float holds exactly


class SimilarIndex:
    """The array of one bank, brought up to date at each question. May be used from any thread."""

    def __init__(self, db: Backend, cache: Path | None) -> None:
        """cache: the file beside the bank; None: in memory only."""
        self._db = db
        self._cache = cache if cache is not None and _may_write(cache) else None
        self._lock = threading.Lock()
        self._memory = np.empty((0, _ROW), np.float32)

    def like_record(self, record_id: str, position: int, *, limit: int, defect_type: str | None) -> list[Similar]:
        """Indications like a stored one, which itself is left out. Raises UsageError where it is not stored."""
        record = stored_record(self._db, record_id)
        if record is None:
            raise UsageError(f"there is no record {record_id}", code="NOT_FOUND", hint="'memory history' lists them")
        rows = self._db.query(
            "SELECT features FROM detections WHERE number = ? AND position = ?", (record.number, position)
        )
        if not rows:
            count = record.indications
            hint = f"it has {count}, counted from 0; the largest of them can be compared" if count else "it has none"
            raise UsageError(f"record {record_id} has no indication {position}", code="NOT_FOUND", hint=hint)
        vector = np.frombuffer(bytes(rows[0][0]), np.float16)
        return self._like(vector, limit, defect_type, leave_out=(record.number, position))

    def like(
        self, defect: Mapping[str, Any], document: Mapping[str, Any], contrast: float | None, *, limit: int,
        defect_type: str | None,
    ) -> list[Similar]:  # fmt: skip
        """Indications like one that is not stored: ``defect`` of ``document``."""
        return self._like(features_of(defect, document, contrast), limit, defect_type, leave_out=(-1, -1))

    # ---------------------------------------------------------------- search

    def _like(
        self, vector: NDArray[np.float16], limit: int, defect_type: str | None, *, leave_out: tuple[int, int]
    ) -> list[Similar]:
        Wanted(defect_type=defect_type)  # refuses a type that there cannot be
        if limit < 1:
            return []
        with self._lock:
            array = self._up_to_date()
        wanted = vector.astype(np.float32)
        # |x - q|^2 - |q|^2 of every row in one product.
        distances = array[:, : _DIMS + 1] @ np.append(-2.0 * wanted, np.float32(1.0)).astype(np.float32)
        if defect_type is not None:
            distances[array[:, _TYPE] != _CODES[defect_type]] = np.inf
        candidates = limit + _SLACK
        while True:
            found = self._nearest(array, wanted, distances, candidates, leave_out)
            if len(found) >= limit or candidates >= len(array):
                break
            candidates *= 4  # retention has removed many of them
        records = {one.number: one for one in stored_records(self._db, sorted({item[1] for item in found[:limit]}))}
        return [
            Similar(distance, indication, records[number])
            for distance, number, _, indication in found[:limit]
            if number in records
        ]

    def _nearest(
        self, array: NDArray[np.float32], wanted: NDArray[np.float32], distances: NDArray[np.float32], count: int,
        leave_out: tuple[int, int],
    ) -> list[tuple[float, int, int, Any]]:  # fmt: skip
        """(distance, number, position, indication) of the nearest rows that are still stored, nearest first."""
        count = min(count, len(distances))
        at = np.argpartition(distances, count - 1)[:count] if 0 < count < len(distances) else np.arange(count)
        at = at[np.isfinite(distances[at])]
        rows = np.array(array[at])
        exact = np.linalg.norm(rows[:, :_DIMS].astype(np.float64) - wanted, axis=1)
        keys = list(zip(exact.tolist(), _numbers(rows).tolist(), rows[:, _POSITION].astype(int).tolist(), strict=True))
        keys = [key for key in keys if key[1:] != leave_out]
        there = {}
        for start in range(0, len(keys), 200):
            some = keys[start : start + 200]
            where = " OR ".join(["(number = ? AND position = ?)"] * len(some))
            values = tuple(value for _, number, position in some for value in (number, position))
            for row in self._db.query(f"{SELECT_INDICATION} WHERE {where}", values):
                there[row[0], row[1]] = indication_of(row)
        return [(*key, there[key[1:]]) for key in sorted(keys) if key[1:] in there]

    # ---------------------------------------------------------------- the array

    def _up_to_date(self) -> NDArray[np.float32]:
        number, indications = self._db.query("SELECT number, indications FROM chain")[0]
        if self._cache is None:
            if len(self._memory) > 2 * indications + _PAGE:
                self._memory = np.empty((0, _ROW), np.float32)
            pages = [self._memory, *self._newer(self._memory)]
            self._memory = np.concatenate(pages) if len(pages) > 1 else self._memory
            return self._memory
        try:
            with _opened(self._cache) as handle:
                self._append(handle, number, indications)
                return _mapped(handle)
        except OSError:  # full or read-only all of a sudden: the question is answered from memory
            self._cache = None
            return self._up_to_date()

    def _append(self, handle: int, last_number: int, indications: int) -> None:
        """Make the file hold every indication of now."""
        (bank_id,) = self._db.query("SELECT value FROM meta WHERE name = 'bank_id'")[0]
        header = (_MAGIC + bank_id.encode()).ljust(_HEADER, b"\0")
        rows = (os.fstat(handle).st_size - _HEADER) // (4 * _ROW)
        array = _mapped(handle) if rows > 0 else np.empty((0, _ROW), np.float32)
        stale = len(array) > 2 * indications + _PAGE or (
            len(array) > 0 and not 0 < _numbers(array[-1:])[0] <= last_number
        )
        if os.pread(handle, _HEADER, 0) != header or stale:
            os.ftruncate(handle, 0)
            os.pwrite(handle, header, 0)
            array = array[:0]
        end = _HEADER + 4 * _ROW * len(array)
        os.ftruncate(handle, end)  # a row that was cut short by a crash
        for page in self._newer(array):
            end += os.pwrite(handle, page.tobytes(), end)

    def _newer(self, array: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Rows for the indications stored after the last one of ``array``."""
        last = int(_numbers(array[-1:])[0]) if len(array) else 0
        position = int(array[-1, _POSITION]) if len(array) else -1
        while True:
            page = self._db.query(
                "SELECT number, position, type, features FROM detections WHERE number = ? AND position > ?"
                " ORDER BY number, position",
                (last, position),
            ) + self._db.query(
                "SELECT number, position, type, features FROM detections WHERE number > ?"
                " ORDER BY number, position LIMIT ?",
                (last, _PAGE),
            )  # fmt: skip
            if not page:
                return
            rows = np.zeros((len(page), _ROW), np.float32)
            raw = b"".join(bytes(row[3]) for row in page)
            rows[:, :_DIMS] = np.frombuffer(raw, np.float16).reshape(len(page), _DIMS)
            rows[:, _DIMS] = (rows[:, :_DIMS].astype(np.float64) ** 2).sum(axis=1)
            numbers = np.array([row[0] for row in page], np.int64)
            rows[:, _DIMS + 1], rows[:, _DIMS + 2] = numbers & (2**_HALF - 1), numbers >> _HALF
            rows[:, _POSITION] = [row[1] for row in page]
            rows[:, _TYPE] = [_CODES.get(row[2], _OTHER) for row in page]
            yield rows
            last, position = page[-1][:2]


def _numbers(rows: NDArray[np.float32]) -> NDArray[np.int64]:
    low, high = rows[:, _DIMS + 1].astype(np.int64), rows[:, _DIMS + 2].astype(np.int64)
    return low + (high << _HALF)


def _mapped(handle: int) -> NDArray[np.float32]:
    rows = (os.fstat(handle).st_size - _HEADER) // (4 * _ROW)
    if rows <= 0:
        return np.empty((0, _ROW), np.float32)
    with open(os.dup(handle), "rb") as file:
        return np.memmap(file, np.float32, "r", offset=_HEADER, shape=(rows, _ROW))


def _may_write(cache: Path) -> bool:
    """Only the owner of the bank keeps the file: one that belongs to somebody else would be stale for ever."""
    try:
        return os.geteuid() == cache.parent.joinpath(cache.name.removesuffix("-similar")).stat().st_uid
    except OSError:
        return False


@contextmanager
def _opened(cache: Path) -> Iterator[int]:
    """The file, locked against other processes that want to append."""
    handle = os.open(cache, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)
