"""Messages between the daemon and the line process: one JSON object per packet of a Unix-domain SOCK_SEQPACKET.

SEQPACKET keeps packet borders and order, and reports the death of the other side at once, also after SIGKILL. Both
sides are of one release; ``PROTOCOL`` is compared in the first packet, so that a forgotten old process is noticed.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..tickets import GateAnswer, Ticket
from .wire import ResultNote

__all__ = [
    "MAX_PACKET",
    "PROTOCOL",
    "BadMessage",
    "answer_from",
    "answer_to",
    "decode",
    "encode",
    "integer",
    "note_from",
    "note_to",
    "text",
    "texts",
    "ticket_from",
    "ticket_to",
    "truth",
]

PROTOCOL = 1
#: Bytes of one packet at most.
MAX_PACKET = 16_384

Message = dict[str, Any]


class BadMessage(ValueError):
    """A packet that no side of this release sends."""


def encode(kind: str, **values: Any) -> bytes:
    """One packet. Raises BadMessage when it would be too long."""
    packet = json.dumps({"m": kind, **values}, separators=(",", ":")).encode()
    if len(packet) > MAX_PACKET:
        raise BadMessage(f"message {kind} has {len(packet)} bytes, at most {MAX_PACKET} are allowed")
    return packet


def decode(packet: bytes) -> tuple[str, Message]:
    """Kind and fields of a packet. Raises BadMessage."""
    if len(packet) > MAX_PACKET:
        raise BadMessage(f"packet of {len(packet)} bytes")
    try:
        message = json.loads(packet)
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"packet is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise BadMessage("packet is not a JSON object")
    return text(message, "m"), message


def text(message: Message, key: str) -> str:
    """A text field. Raises BadMessage."""
    value = message.get(key)
    if not isinstance(value, str):
        raise BadMessage(f"field {key} is {value!r}, not text")
    return value


def texts(message: Message, key: str) -> list[str]:
    """A field that lists texts. Raises BadMessage."""
    value = message.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadMessage(f"field {key} is {value!r}, not a list of texts")
    return value


def integer(message: Message, key: str) -> int:
    """A whole number. Raises BadMessage."""
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadMessage(f"field {key} is {value!r}, not a whole number")
    return value


def truth(message: Message, key: str) -> bool:
    """true or false; nothing else counts as either. Raises BadMessage."""
    value = message.get(key)
    if not isinstance(value, bool):
        raise BadMessage(f"field {key} is {value!r}, not true or false")
    return value


def _object(message: Message, key: str) -> Message:
    value = message.get(key)
    if not isinstance(value, dict):
        raise BadMessage(f"field {key} is {value!r}, not an object")
    return value


def ticket_to(ticket: Ticket) -> Message:
    """A ticket as JSON."""
    return asdict(ticket)


def ticket_from(message: Message) -> Ticket:
    """The ticket of a message. Raises BadMessage."""
    item = _object(message, "ticket")
    return Ticket(
        text(item, "record_id"),
        integer(item, "part_id"),
        integer(item, "trigger_ns"),
        integer(item, "deadline_ns"),
        text(item, "trigger_utc"),
        integer(item, "recipe"),
    )


def answer_to(answer: GateAnswer) -> Message:
    """A gate answer as JSON."""
    return asdict(answer)


def answer_from(message: Message) -> GateAnswer:
    """The gate answer of a message. Raises BadMessage."""
    item = _object(message, "answer")
    return GateAnswer(truth(item, "permitted"), text(item, "reason"), integer(item, "at_ns"))


def note_to(note: ResultNote) -> Message:
    """A result note as JSON."""
    return asdict(note)


def note_from(message: Message) -> ResultNote:
    """The result note of a message. Raises BadMessage."""
    item = _object(message, "note")
    return ResultNote(
        text(item, "outcome"), text(item, "reason_code"), integer(item, "severity_x10"), truth(item, "unknown")
    )
