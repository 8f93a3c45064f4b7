"""Tickets without a durable record, kept over a clean stop of the line process: ``<socket>.unsettled.json``.

The file is written whole or not at all (a new file, fsync, rename), in the folder of the socket, and only by the owner
of the socket's lock. It stays until every ticket in it is settled, so a kill at any instant delivers a ticket twice
rather than never; the daemon's store knows a record by its id. Not covered: a process that is killed writes nothing,
and where the socket's folder is in memory (``/run``), a reboot takes the file with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..tickets import GateAnswer, Ticket
from .messages import BadMessage, answer_from, answer_to, integer, text, ticket_from, ticket_to

__all__ = ["UnsettledFile"]

FORMAT = "edge-daemon unsettled tickets 1"
#: As many as the option ``capacity`` allows, and the bytes of one: everything beyond is not ours.
MAX_TICKETS = 1_000_000
MAX_TICKET_BYTES = 512
_MAX_TEXT = 64

_log = logging.getLogger("edge_daemon.line.unsettled")


class UnsettledFile:
    """The file beside ``socket_path``. boot_id: which run of the kernel CLOCK_MONOTONIC belongs to; None: ask it."""

    def __init__(self, socket_path: Path, boot_id: str | None = None) -> None:
        self.path = socket_path.with_name(socket_path.name + ".unsettled.json")
        self._boot_id = _boot_id() if boot_id is None else boot_id

    def load(self) -> list[tuple[Ticket, GateAnswer]]:
        """The tickets of the last clean stop, in trigger order, each with its final answer; none where no file is.

        A ticket without an answer was ended by the stop. After a reboot, or where the kernel does not say which boot
        this is, the times of another clock become 0. A damaged or foreign file is set aside as ``.bad`` with one error
        line.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                data = file.read(MAX_TICKETS * MAX_TICKET_BYTES + 1)
            return self._parse(data)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            self._set_aside(error.strerror if isinstance(error, OSError) else str(error))
            return []

    def save(self, tickets: Iterable[tuple[Ticket, GateAnswer | None]]) -> None:
        """Replace the file; durable on return. Raises OSError, and leaves the old file then."""
        entries = [
            {"ticket": ticket_to(ticket), "answer": None if answer is None else answer_to(answer)}
            for ticket, answer in tickets
        ]
        content = {"format": FORMAT, "boot_id": self._boot_id, "tickets": entries}
        partial = self.path.with_name(self.path.name + ".part")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "w", encoding="ascii") as file:
            file.write(json.dumps({**content, "crc32": _checksum(content)}))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self) -> None:
        """Every ticket in it is settled. A file that cannot be removed is read again at the next start: harmless."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("cannot remove %s: %s", self.path, error.strerror)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> list[tuple[Ticket, GateAnswer]]:
        if len(data) > MAX_TICKETS * MAX_TICKET_BYTES:
            raise BadMessage("it is too long")
        try:
            content = json.loads(data)
        except RecursionError:
            raise BadMessage("not JSON") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BadMessage(f"not of the format {FORMAT!r}")
        if content.pop("crc32", None) != _checksum(content):
            raise BadMessage("its checksum is wrong")
        entries = content.get("tickets")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise BadMessage("field tickets is not a list of objects")
        same_clock = text(content, "boot_id") == self._boot_id != ""
        found = [_entry(entry, same_clock) for entry in entries]
        if len({ticket.record_id for ticket, _ in found}) != len(found):
            raise BadMessage("one record id twice")
        return found

    def _set_aside(self, why: str | None) -> None:
        aside = self.path.with_name(self.path.name + ".bad")
        with contextlib.suppress(OSError):  # then it is read, and complained of, again
            self.path.replace(aside)
        _log.error("tickets without a record in %s are lost: %s; set aside as %s", self.path, why, aside.name)


def _entry(entry: dict[str, Any], same_clock: bool) -> tuple[Ticket, GateAnswer]:
    ticket = ticket_from(entry)
    answer = GateAnswer(False, "STOPPING", 0) if entry.get("answer") is None else answer_from(entry)
    for value in (ticket.record_id, ticket.trigger_utc, answer.reason):
        if len(value) > _MAX_TEXT:
            raise BadMessage(f"text of {len(value)} characters")
    if not ticket.record_id or answer.permitted == bool(answer.reason):
        raise BadMessage("a ticket without a record id, or with half an answer")
    for name in ("part_id", "recipe"):
        if not 0 <= integer(entry["ticket"], name) <= 0xFFFF:
            raise BadMessage(f"field {name} is no word")
    if not same_clock:
        return replace(ticket, trigger_ns=0, deadline_ns=0), replace(answer, at_ns=0)
    if not all(0 <= value < 2**63 for value in (ticket.trigger_ns, ticket.deadline_ns, answer.at_ns)):
        raise BadMessage("a time outside its range")
    return ticket, answer


def _checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""  # hidden, as by ProcSubset=pid of the unit: every file then counts as one of another boot
