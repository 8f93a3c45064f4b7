"""The SQLite file under the memory bank: schema, versions, one writer, one reader, and errors people can act on.

Where it stands: below ``memory.py``, which says what the rows mean. WAL with ``synchronous=FULL``: a commit that
returned survives a power cut as far as the disk keeps its promises. Exactly one writing connection, used under one
lock; reads go over a second, read-only connection and never wait for the writer.

Not covered: what a disk that lies about fsync loses; two devices writing one file over a network file system.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import StorageError

__all__ = ["SCHEMA_VERSION", "Database"]

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x45444745  # "EDGE", so that a foreign SQLite file is never taken for a memory bank

_SCHEMA_1 = """
CREATE TABLE tickets (
    record_id   TEXT NOT NULL PRIMARY KEY,
    part_id     INTEGER NOT NULL,
    station     TEXT NOT NULL,
    trigger_utc TEXT NOT NULL,
    trigger_ns  INTEGER NOT NULL,
    boot_id     TEXT NOT NULL,
    draft       TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE records (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    record_id   TEXT NOT NULL UNIQUE,
    part_id     INTEGER,
    station     TEXT NOT NULL,
    trigger_utc TEXT NOT NULL,
    outcome     TEXT NOT NULL CHECK (outcome IN ('PASS', 'INCONCLUSIVE', 'FAIL', 'NOT_EVALUABLE')),
    result      TEXT NOT NULL CHECK (result IN ('PASS', 'FAIL')),
    reasons     TEXT NOT NULL,
    document    TEXT NOT NULL,
    pictures    TEXT,
    created_utc TEXT NOT NULL,
    CHECK (result = 'FAIL' OR outcome = 'PASS')
) STRICT;
CREATE INDEX records_by_outcome ON records (outcome, result);
CREATE INDEX records_by_trigger ON records (trigger_utc);

CREATE TABLE record_types (
    type   TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES records (number) ON DELETE CASCADE,
    PRIMARY KEY (type, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX record_types_by_number ON record_types (number);

CREATE TABLE outbox (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    record_id   TEXT NOT NULL REFERENCES records (record_id),
    topic       TEXT NOT NULL,
    payload     BLOB NOT NULL,
    created_utc TEXT NOT NULL,
    event_ns    INTEGER NOT NULL,
    boot_id     TEXT NOT NULL
) STRICT;
CREATE INDEX outbox_by_record ON outbox (record_id);

CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), written_utc TEXT NOT NULL) STRICT;
"""

# Message fragments of SQLite (sqlite3ErrStr), because the numeric code is not on the exception before Python 3.11.
_TROUBLE: tuple[tuple[str, str, str, str], ...] = (
    ("disk is full", "DISK_FULL", "the disk is full", "free space or run 'edge-daemon memory cleanup --days N'"),
    ("readonly", "READ_ONLY", "it is read-only", "make the file and its folder writable for this user"),
    ("is locked", "LOCKED", "another process keeps it locked", "close the other program that has this file open"),
    ("disk i/o error", "DISK_IO", "the disk refuses", "check free space, quota and the health of the disk"),
    ("unable to open", "CANNOT_OPEN", "it cannot be opened", "check that the folder exists and is writable"),
    ("not a database", "NOT_A_BANK", "it is not a SQLite file", "name another file"),
    ("malformed", "CORRUPT", "the file is damaged", "move it away and restore a copy; a new bank is made at start"),
)


class Database:
    """One SQLite file, opened for one writer and one reader; made and brought to the newest schema when writable.

    Parameters
    ----------
    path : the file; its folder must exist.
    read_only : never write; the file must exist.
    busy_timeout_s : how long a write waits for another process before it gives up.

    Raises StorageError with a code: CANNOT_OPEN, NOT_A_BANK, SCHEMA_NEWER, READ_ONLY, DISK_FULL, DISK_IO, LOCKED,
    CORRUPT, CLOSED, SQLITE_OLD. May be used from any thread.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool, busy_timeout_s: float) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self._busy_timeout_s = busy_timeout_s
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._closed = False
        self._check_surroundings()
        try:
            if read_only:
                with self._reading() as db:
                    self._check_version(db)
            else:
                with self.writing() as db:
                    self._migrate(db)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close both connections. Safe to call twice; every later use raises StorageError (CLOSED)."""
        self._closed = True
        with self._read_lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
        with self._write_lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction on the one writing connection: committed as a whole or undone as a whole."""
        if self.read_only:
            raise StorageError(f"memory bank {self.path} was opened for reading only", code="READ_ONLY")
        with self._write_lock:
            try:
                if self._writer is None:
                    self._writer = self._connect("rwc")
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

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock:
            try:
                if self._reader is None:
                    self._reader = self._connect("ro")
                yield self._reader
            except sqlite3.Error as error:
                raise self._trouble(error, "read") from error

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
        # check_same_thread: both connections are used under their own lock only.
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
            elif _is_bank(db) or _is_empty(db):
                # A foreign file must not even be switched to WAL; _migrate refuses it.
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
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

    def _check_version(self, db: sqlite3.Connection) -> int:
        if not _is_bank(db) and (self.read_only or not _is_empty(db)):
            raise StorageError(
                f"{self.path} is not a memory bank",
                code="NOT_A_BANK",
                hint="name another file; this one is left as it is",
            )
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"memory bank {self.path} has schema {version}, this program knows up to {SCHEMA_VERSION}",
                code="SCHEMA_NEWER",
                hint="install the newer edge-daemon that wrote it; the file is left as it is",
            )
        return version

    def _migrate(self, db: sqlite3.Connection) -> None:
        """Bring the file to the newest schema inside the running transaction, so that a crash leaves the old one."""
        if self._check_version(db) < 1:
            for statement in _SCHEMA_1.split(";"):
                if statement.strip():
                    db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _trouble(self, error: sqlite3.Error, doing: str) -> StorageError:
        text = str(error)
        for fragment, code, what, hint in _TROUBLE:
            if fragment in text.lower():
                return StorageError(f"cannot {doing} memory bank {self.path}: {what}", code=code, hint=hint)
        return StorageError(f"cannot {doing} memory bank {self.path}: {text}")


def _is_bank(db: sqlite3.Connection) -> bool:
    return bool(db.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID)


def _is_empty(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0)
