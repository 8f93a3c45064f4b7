"""Runs of the daemon: which recipe, engine and configuration stored which records, and how each run ended."""

from __future__ import annotations

from typing import Any

from ..tickets import utc_now
from .backend import Backend
from .rows import Session
from .storing import Appender

__all__ = ["begin", "end", "sessions"]

_COLUMNS = "number, station, started_utc, ended_utc, ended, version, recipe, engine, engine_sha256, config_sha256"


def begin(db: Backend, facts: dict[str, Any]) -> int:
    """Note the start of a run; one of the same station that never said how it ended is ``lost``. Its number."""
    now_utc = utc_now()
    with db.writing() as transaction:
        chain = Appender(transaction)
        station = facts["station"]
        for (number,) in transaction.execute(
            "SELECT number FROM sessions WHERE station = ? AND ended IS NULL", (station,)
        ).fetchall():
            transaction.execute("UPDATE sessions SET ended = 'lost' WHERE number = ?", (number,))
            chain.note(
                "session_ended", station, who="edge-daemon", why="lost", body={"session": number}, at_utc=now_utc
            )
        number = chain.note("session_started", station, who="edge-daemon", why="start", body=facts, at_utc=now_utc)
        transaction.execute(
            f"INSERT INTO sessions ({_COLUMNS}) VALUES (?, ?, ?, NULL, NULL, ?, ?, ?, ?, ?)",
            (number, station, now_utc, facts["version"], facts["recipe"], facts["engine"], facts["engine_sha256"],
             facts["config_sha256"]),
        )  # fmt: skip
        chain.finish()
    return number


def end(db: Backend, number: int, how: str) -> str:
    """Note the end of a run; the end of the chain after it, to be logged (``number:sha256``)."""
    now_utc = utc_now()
    with db.writing() as transaction:
        chain = Appender(transaction)
        transaction.execute(
            "UPDATE sessions SET ended_utc = ?, ended = ? WHERE number = ? AND ended IS NULL", (now_utc, how, number)
        )
        chain.note("session_ended", str(number), who="edge-daemon", why=how, body={"session": number}, at_utc=now_utc)
        chain.finish()
        return f"{chain.number}:{chain.sha256.hex()}"


def sessions(db: Backend, *, station: str | None, limit: int) -> list[Session]:
    """Runs, the newest first."""
    where, values = ("", ()) if station is None else (" WHERE station = ?", (station,))
    rows = db.query(f"SELECT {_COLUMNS} FROM sessions{where} ORDER BY number DESC LIMIT ?", (*values, limit))
    return [Session(*row) for row in rows]
