"""What the memory bank asks of a database, so that one bank works on SQLite and on PostgreSQL.

SQL is written once: parameters as ``?``, no function that only one of them knows.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

__all__ = ["Backend", "Rows", "Transaction"]


class Rows(Protocol):
    """What ``execute`` gives: rows as tuples."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class Transaction(Protocol):
    """A running transaction; parameters are written ``?``."""

    def execute(self, sql: str, values: Any = ..., /) -> Rows: ...
    def executemany(self, sql: str, rows: Any, /) -> Rows: ...


class Backend(Protocol):
    """One database with one writer at a time. May be used from any thread."""

    #: Where it is, for people, without a password.
    name: str
    read_only: bool
    #: Whether a SELECT may contain LATERAL.
    lateral: bool
    #: Whether it can say how many bytes are in use, apart from those that are free to be used again.
    knows_use: bool

    def writing(self, *, durable: bool = True) -> AbstractContextManager[Transaction]:
        """One transaction: committed as a whole or undone as a whole. durable: a commit that returned survives a power
        cut; False: the database stays whole, but the last such commits may be lost."""

    def query(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of one SELECT: one consistent snapshot, taken without waiting for the writer."""

    def sizes(self) -> tuple[int, int, int]:
        """(bytes on disk, bytes in use, free bytes where it lies); free is 0 where nobody can say."""

    def checkpoint(self) -> None:
        """Move what was committed into the main file, where the database has such a thing; never waits for a lock."""

    def close(self) -> None:
        """Close every connection. Safe to call twice."""
