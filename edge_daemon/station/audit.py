"""Who did what on the page, and why: lines that are only added, each with the hash of the one before.

One JSON object a line: ``number, at_utc, kind, subject, who, why, body, before, sha256``. ``verify`` finds a line that
was changed, removed or put in between; lines cut off at the end are found only against a head noted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import IntegrityError, StorageError
from ..tickets import utc_now

__all__ = ["AuditEntry", "AuditTrail"]

_START = "0" * 64


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line. subject: what it was done to (a record id, a user's name); body: what belongs to it."""

    number: int
    at_utc: str
    kind: str
    subject: str
    who: str
    why: str
    body: Mapping[str, Any]
    before: str
    sha256: str


class AuditTrail:
    """The file. One process writes; any thread. Raises StorageError when a line cannot be made durable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._cut_torn_line()
        self._number, self._head = 0, _START
        for line in self._lines():
            self._number, self._head = int(line["number"]), str(line["sha256"])

    def _cut_torn_line(self) -> None:
        """A line without its end was being written when the power went; nobody was told that it had been."""
        try:
            with self._path.open("r+b") as file:
                data = file.read()
                if data and not data.endswith(b"\n"):
                    file.truncate(data.rfind(b"\n") + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror}", hint="check its rights") from error

    @property
    def head(self) -> str:
        """Hash of the last line."""
        return self._head

    def note(self, kind: str, subject: str, *, who: str, why: str = "", body: Mapping[str, Any] | None = None) -> None:
        """Add a line, and have it on the disk before this returns."""
        with self._lock:
            line: dict[str, Any] = {
                "number": self._number + 1, "at_utc": utc_now(), "kind": kind, "subject": subject, "who": who,
                "why": why, "body": dict(body or {}), "before": self._head,
            }  # fmt: skip
            line["sha256"] = _sha256(line)
            data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
            try:
                handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                try:
                    os.write(handle, data)
                    os.fsync(handle)
                finally:
                    os.close(handle)
            except OSError as error:
                raise StorageError(
                    f"the audit trail {self._path} cannot be written: {error.strerror or error}", hint="make room"
                ) from error
            self._number, self._head = line["number"], line["sha256"]

    def newest(self, limit: int) -> list[AuditEntry]:
        """The last lines, the newest first."""
        lines = list(self._lines())[-limit:]
        return [AuditEntry(**line) for line in reversed(lines)]

    def verify(self) -> int:
        """How many lines there are; IntegrityError naming the first that is not what was written."""
        before, number = _START, 0
        for number, line in enumerate(self._lines(), start=1):
            stated = line.pop("sha256", None)
            if line.get("number") != number or line.get("before") != before or stated != _sha256(line):
                raise IntegrityError(f"{self._path}: line {number} is not what was written", hint="restore a copy")
            before = str(stated)
        return number

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            with self._path.open(encoding="utf-8") as file:
                for number, text in enumerate(file, start=1):
                    try:
                        line = json.loads(text)
                    except ValueError:
                        line = None
                    if not isinstance(line, dict):
                        raise IntegrityError(f"{self._path}: line {number} cannot be read", hint="restore a copy")
                    yield line
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{self._path} cannot be read: {error.strerror}", hint="check its rights") from error


def _sha256(line: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
