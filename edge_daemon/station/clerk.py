"""The clerk: a small process that writes what people say on the page into the bank of the line.

A bank has one writer at a time, and while the page writes, the line waits. So what the page does there must be over in
milliseconds however busy the page is: the clerk is a process of its own, started before the page steps back, with the
priority of the line. Nothing that the page does (its locks, its threads, its low priority) can come between the
beginning and the end of its transaction, in which all has been worked out before.

It can do two things, add feedback and edit a pattern; records, tickets and messages are out of its reach. It never
migrates a bank: an older one is refused until the line or ``memory upgrade`` has brought it up to date.

    request   {"do": "feedback" | "edit_pattern", ...arguments, "mask": base64 of a PNG or null}     a line of JSON
    answer    {"done": true}  or  {"error": {"kind", "code", "message", "hint"}}                     a line of JSON
"""

from __future__ import annotations

import base64
import contextlib
import json
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeError, StorageError, UsageError
from ..memory import MemoryBank

__all__ = ["Clerk", "main"]

_ANSWER_S = 20.0
_BUSY_S = 5.0
_ALLOWED = ("feedback", "edit_pattern")


class Clerk:
    """The page's end of it. Any thread; one request at a time. ``start`` before anything is made nicer."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, if it does not run."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End it: it stops when nobody can ask it any more."""
        with self._lock:
            self._end()

    def feedback(
        self, record_id: str, verdict: str, *, who: str, why: str = "", position: int | None = None,
        correct_type: str | None = None, mask: NDArray[np.uint8] | None = None, mask_types: Sequence[str] = (),
        rejudged: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """As ``MemoryBank.feedback``. Raises what that raises; StorageError where there is no answer."""
        self._ask("feedback", record_id=record_id, verdict=verdict, who=who, why=why, position=position,
                  correct_type=correct_type, mask=None if mask is None else _text_of(mask),
                  mask_types=list(mask_types), rejudged=rejudged)  # fmt: skip

    def edit_pattern(
        self, type: str, *, who: str, why: str, title: str | None = None,  # noqa: A002 - as the bank calls it
        description: str | None = None, causes: Sequence[str] | None = None, severity: Sequence[str] | None = None,
        reset: bool = False,
    ) -> None:  # fmt: skip
        """As ``MemoryBank.edit_pattern``."""
        self._ask("edit_pattern", type=type, who=who, why=why, title=title, description=description, causes=causes,
                  severity=severity, reset=reset)  # fmt: skip

    # ---------------------------------------------------------------- the process

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge_daemon.station.clerk", str(self._database)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_BUSY_S + 1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _ask(self, do: str, **arguments: Any) -> None:
        line = json.dumps({"do": do, **arguments}, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        with self._lock:
            try:
                answer = self._answer(self._running(), line)
            except OSError:
                answer = None
            if answer is None:
                self._end()
                raise StorageError(
                    f"the memory bank {self._database} did not answer", code="LOCKED",
                    hint="look at the record again before you repeat it",
                )  # fmt: skip
        _raise(answer)

    @staticmethod
    def _answer(process: subprocess.Popen[bytes], line: bytes) -> dict[str, Any] | None:
        """The answer to a line; None where none comes."""
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(line)
        process.stdin.flush()
        until_s = time.monotonic() + _ANSWER_S
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, until_s - time.monotonic())):
                return None
        text = process.stdout.readline()  # an answer is one short line, written at once
        found: dict[str, Any] | None = json.loads(text) if text.endswith(b"\n") else None
        return found


def _raise(answer: Mapping[str, Any]) -> None:
    error = answer.get("error")
    if error is None:
        return
    kinds: dict[str, type[EdgeError]] = {"UsageError": UsageError, "StorageError": StorageError}
    raise kinds.get(error["kind"], StorageError)(error["message"], code=error["code"], hint=error["hint"])


def _text_of(mask: NDArray[np.uint8]) -> str:
    import cv2

    return base64.b64encode(cv2.imencode(".png", mask)[1].tobytes()).decode()


# ---------------------------------------------------------------- in the other process


def main(argv: Sequence[str] | None = None) -> int:
    """Answer lines from standard input until it ends."""
    (database,) = sys.argv[1:] if argv is None else argv
    bank: MemoryBank | None = None
    for line in sys.stdin.buffer:
        try:
            bank = bank or _opened(Path(database))
            _do(bank, json.loads(line))
            answer: dict[str, Any] = {"done": True}
        except EdgeError as error:
            kind = "UsageError" if isinstance(error, UsageError) else "StorageError"
            answer = {"error": {"kind": kind, "code": error.code, "message": error.message, "hint": error.hint}}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    if bank is not None:
        bank.close()
    return 0


def _opened(database: Path) -> MemoryBank:
    """The bank for writing, once reading it has shown that it needs no migration."""
    MemoryBank(database, read_only=True).close()
    return MemoryBank(database, busy_timeout_s=_BUSY_S)


def _do(bank: MemoryBank, request: dict[str, Any]) -> None:
    do = request.pop("do")
    if do not in _ALLOWED:
        raise UsageError(f"{do!r} is not for the clerk")
    if request.get("mask") is not None:
        import cv2

        data = np.frombuffer(base64.b64decode(request["mask"]), np.uint8)
        request["mask"] = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    getattr(bank, do)(**request)


if __name__ == "__main__":
    sys.exit(main())
