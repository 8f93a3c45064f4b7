"""The SQLite file under the memory bank: versions, one writer, readers, and errors people can act on.

Where it stands: below ``bank.py``, which says what the rows mean. WAL with ``synchronous=FULL``: a commit that
returned survives a power cut as far as the disk keeps its promises. Exactly one writing connection, used under one
lock; reads go over read-only connections of their own and wait neither for the writer nor for each other.

The write-ahead log is emptied by ``checkpoint``, on a connection of its own, so that no commit of the line has to do
it; only where nobody calls that for long does a commit do it after all.

Not covered: what a disk that lies about fsync loses; two devices writing one file over a network file system.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import StorageError
from . import schema
from .backend import Transaction

__all__ = ["SqliteBackend"]

_APPLICATION_ID = 0x45444745  # "EDGE", so that a foreign SQLite file is never taken for a memory bank

#: Pages of the write-ahead log after which a commit empties it itself: 32 MB, far behind ``checkpoint``.
_LAST_RESORT_PAGES = 8000
_CHECKPOINT_BYTES = 2 << 20
_MOST_READERS = 8

# Message fragments of SQLite (sqlite3ErrStr), because the numeric code is not on the exception before Python 3.11.
_TROUBLE: tuple[tuple[str, str, str, str], ...] = (
    ("disk is full", "DISK_FULL", "the disk is full", "free space or run 'edge-daemon memory clean --keep-days N'"),
    ("readonly", "READ_ONLY", "it is read-only", "make the file and its folder writable for this user"),
    ("is locked", "LOCKED", "another process keeps it locked", "close the other program that has this file open"),
    ("disk i/o error", "DISK_IO", "the disk refuses", "check free space, quota and the health of the disk"),
    ("unable to open", "CANNOT_OPEN", "it cannot be opened", "check that the folder exists and is writable"),
    ("not a database", "NOT_A_BANK", "it is not a SQLite file", "name another file"),
    ("malformed", "CORRUPT", "the file is damaged", "move it away and restore a copy; a new bank is made at start"),
)


class SqliteBackend:
    """One SQLite file, opened for one writer and some readers; made and brought to the newest schema when writable.

    Parameters
    ----------
    path : the file; its folder must exist.
    read_only : never write; the file must exist.
    busy_timeout_s : how long a write waits for another process before it gives up.

    Raises StorageError with a code: CANNOT_OPEN, NOT_A_BANK, SCHEMA_NEWER, SCHEMA_OLDER, READ_ONLY, DISK_FULL,
    DISK_IO, LOCKED, CORRUPT, CLOSED, SQLITE_OLD. May be used from any thread.
    """

    lateral = False
    knows_use = True

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool, busy_timeout_s: float) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.read_only = read_only
        self._busy_timeout_s = busy_timeout_s
        self._write_lock = threading.Lock()
        self._readers_lock = threading.Lock()
        self._checkpoint_lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._check_surroundings()
        try:
            if read_only:
                with self._reading() as db:
                    self._refuse_older(self._check_version(db))
            else:
                with self.writing() as db:
                    self._migrate(db)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection. Safe to call twice; every later use raises StorageError (CLOSED)."""
        with self._readers_lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.close()
        with self._write_lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Transaction]:
        """One transaction on the one writing connection: committed as a whole or undone as a whole.

        durable: flushed to the disk when this returns; False leaves that to the next durable one.
        """
        if self.read_only:
            raise StorageError(f"memory bank {self.path} was opened for reading only", code="READ_ONLY")
        with self._write_lock:
            try:
                if self._writer is None:
                    self._writer = self._connect("rwc")
                self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except sqlite3.Error as error:
                self._undo()
                raise self._trouble(error, "write") from error
            except BaseException:
                self._undo()
                raise

    def query(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of one SELECT: one consistent snapshot, taken without waiting for the writer."""
        with self._reading() as db:
            return db.execute(sql, values).fetchall()

    def sizes(self) -> tuple[int, int, int]:
        """(bytes on disk, bytes in use, free bytes where it lies)."""
        files = [self.path, self.path.with_name(self.path.name + "-wal")]
        on_disk = sum(file.stat().st_size for file in files if file.exists())
        with self._reading() as db:
            pages, free, size = (db.execute(f"PRAGMA {what}").fetchone()[0] for what in
                                 ("page_count", "freelist_count", "page_size"))  # fmt: skip
        return on_disk, (pages - free) * size, shutil.disk_usage(self.path.parent).free

    def checkpoint(self) -> None:
        """Move what was committed from the write-ahead log into the file; waits for no lock and holds up nobody.

        Call it now and then from a thread that may wait for the disk. Does nothing while there is little to move.
        """
        log = self.path.with_name(self.path.name + "-wal")
        if self.read_only or not log.exists() or log.stat().st_size < _CHECKPOINT_BYTES:
            return
        if not self._checkpoint_lock.acquire(blocking=False):
            return
        try:
            db = self._connect("rw")
            try:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                db.close()
        except sqlite3.Error as error:
            raise self._trouble(error, "write") from error
        finally:
            self._checkpoint_lock.release()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A reading connection for one use: an idle one, else a new one."""
        reader: sqlite3.Connection | None = None
        try:
            with self._readers_lock:
                reader = self._idle.pop() if self._idle else None
            if reader is None:
                reader = self._connect("ro")
            yield reader
        except BaseException as error:
            if reader is not None:
                reader.close()
            if isinstance(error, sqlite3.Error):
                raise self._trouble(error, "read") from error
            raise
        with self._readers_lock:
            if not self._closed and len(self._idle) < _MOST_READERS:
                self._idle.append(reader)
                return
        reader.close()

    def _undo(self) -> None:
        """Roll back; a connection that cannot even do that is closed, and the next write opens a new one."""
        if self._writer is None:
            return
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            self._writer.close()
            self._writer = None

    def _connect(self, mode: str) -> sqlite3.Connection:
        if self._closed:
            raise StorageError(f"memory bank {self.path} is closed", code="CLOSED")
        # check_same_thread: a connection is used by one thread at a time.
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            db.execute("PRAGMA foreign_keys = ON")
            if mode == "ro":
                db.execute("PRAGMA query_only = ON")
                db.execute("PRAGMA cache_size = -8000")
            elif _is_bank(db) or _is_empty(db):
                # A foreign file must not even be switched to WAL; _migrate refuses it.
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.execute("PRAGMA cache_size = -16000")
                db.execute(f"PRAGMA wal_autocheckpoint = {_LAST_RESORT_PAGES}")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _check_surroundings(self) -> None:
        if sqlite3.sqlite_version_info < (3, 37):
            raise StorageError(
                f"this Python brings SQLite {sqlite3.sqlite_version}; the memory bank needs 3.37 or newer",
                code="SQLITE_OLD",
                hint="use a Python that is linked to a newer SQLite",
            )
        if not self.path.parent.is_dir():
            raise StorageError(
                f"memory bank {self.path}: the folder does not exist", code="CANNOT_OPEN", hint="make the folder first"
            )
        if self.read_only and not self.path.is_file():
            raise StorageError(
                f"memory bank {self.path}: there is no such file",
                code="CANNOT_OPEN",
                hint="run 'edge-daemon memory init' or the daemon first",
            )

    def _check_version(self, db: Transaction) -> int:
        if not _is_bank(db) and (self.read_only or not _is_empty(db)):
            raise StorageError(
                f"{self.path} is not a memory bank",
                code="NOT_A_BANK",
                hint="name another file; this one is left as it is",
            )
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if version > schema.SCHEMA_VERSION:
            raise StorageError(
                f"memory bank {self.path} has schema {version}, this program knows up to {schema.SCHEMA_VERSION}",
                code="SCHEMA_NEWER",
                hint="install the newer edge-daemon that wrote it; the file is left as it is",
            )
        return version

    def _refuse_older(self, version: int) -> None:
        if version < schema.SCHEMA_VERSION:
            raise StorageError(
                f"memory bank {self.path} has schema {version} and was opened for reading only",
                code="SCHEMA_OLDER",
                hint="'edge-daemon memory upgrade', or the daemon at its next start, brings it up to date",
            )

    def _migrate(self, db: Transaction) -> None:
        """Bring the file to the newest schema inside the running transaction, so that a crash leaves the old one."""
        version = self._check_version(db)
        if version == schema.SCHEMA_VERSION:
            return
        if version == 0:
            schema.create(db, schema.statements())
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        else:
            schema.migrate_1(db)
        db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")

    def _trouble(self, error: sqlite3.Error, doing: str) -> StorageError:
        text = str(error)
        for fragment, code, what, hint in _TROUBLE:
            if fragment in text.lower():
                return StorageError(f"cannot {doing} memory bank {self.path}: {what}", code=code, hint=hint)
        return StorageError(f"cannot {doing} memory bank {self.path}: {text}")


def _is_bank(db: Transaction) -> bool:
    return bool(db.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID)


def _is_empty(db: Transaction) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0)
