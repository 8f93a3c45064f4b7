"""Driver ``ascii``: framed telegrams with sequence and CRC for PLCs without Modbus. ``WIRE.md`` holds the formats.

A telegram is ``$`` type ``,`` fields ``*`` CRC CR LF; printable ASCII, numbers in upper-case hexadecimal of fixed
width. The CRC is CRC-16/CCITT-FALSE (polynomial 1021, start FFFF) over what stands between ``$`` and ``*``. ``$``
always begins a telegram, so the parser is in step again with the next one whatever came before, and never keeps more
than MAX_TELEGRAM bytes.

A permit additionally carries its part id and the word A5C3, each with its complement: no other telegram can become one
by flipped bits that happen to keep the CRC right.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..tickets import Ticket
from .driver import Ack, LineEvent, PlcHeartbeat, Trigger, Wire
from .wire import ResultNote, outcome_word, severity_word

__all__ = ["FIELDS", "MAX_TELEGRAM", "PASS_WORD", "AsciiDriver", "TelegramReader", "crc16", "encode", "is_permit"]

#: Longest telegram including ``$`` and CR LF.
MAX_TELEGRAM = 96
PASS_WORD = 0xA5C3

#: Type -> its fields and their width in hexadecimal digits (0: text of A-Z, 0-9 and _). Every type starts with seq.
FIELDS: dict[str, tuple[tuple[str, int], ...]] = {
    # from the PLC
    "T": (("seq", 4), ("part_id", 4), ("recipe", 4)),
    "B": (("seq", 4), ("trigger_enable", 1)),
    "A": (("seq", 4), ("part_id", 4)),
    # to the PLC
    "K": (("seq", 4), ("trigger_seq", 4), ("part_id", 4), ("status", 1)),
    "P": (
        ("seq", 4),
        ("trigger_seq", 4),
        ("part_id", 4),
        ("not_part_id", 4),
        ("word", 4),
        ("not_word", 4),
    ),
    "I": (
        ("seq", 4),
        ("trigger_seq", 4),
        ("part_id", 4),
        ("outcome", 1),
        ("unknown", 1),
        ("severity_x10", 4),
        ("reason", 0),
    ),
    "H": (("seq", 4), ("beat", 1), ("ready", 1), ("fault", 1), ("busy", 1)),
}
MAX_REASON = 32

_HEX = frozenset(b"0123456789ABCDEF")
_TEXT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def crc16(data: bytes) -> int:
    """CRC-16/CCITT-FALSE; 0x29B1 for ``b"123456789"``."""
    return binascii.crc_hqx(data, 0xFFFF)


def encode(kind: str, **values: int | str) -> bytes:
    """One telegram. Raises ValueError when a field is missing, unknown or outside its width."""
    fields = FIELDS[kind]
    if values.keys() != {name for name, _ in fields}:
        raise ValueError(f"telegram {kind} has the fields {[name for name, _ in fields]}, not {list(values)}")
    parts = [kind]
    for name, width in fields:
        value = values[name]
        if isinstance(value, str) != (width == 0):
            raise ValueError(f"field {name} of telegram {kind} is {'text' if width == 0 else 'a number'}")
        text = value if isinstance(value, str) else f"{value:0{width}X}"
        if width == 0 and not (len(text) <= MAX_REASON and set(text.encode()) <= _TEXT):
            raise ValueError(f"field {name} of telegram {kind} cannot hold {text!r}")
        if width and (len(text) != width or text[0] == "-"):
            raise ValueError(f"field {name} of telegram {kind} cannot hold {value!r}")
        parts.append(text)
    body = ",".join(parts).encode("ascii")
    return b"$%s*%04X\r\n" % (body, crc16(body))


def decode(line: bytes) -> tuple[str, dict[str, int | str]] | None:
    """One telegram without ``$`` and CR LF; None when anything about it is not exactly right."""
    if len(line) < 5 or line[-5:-4] != b"*":
        return None
    body, crc = line[:-5], line[-4:]
    if not _HEX.issuperset(crc) or crc16(body) != int(crc, 16):
        return None
    kind, *texts = body.split(b",")
    fields = FIELDS.get(kind.decode("ascii", "replace"))
    if fields is None or len(fields) != len(texts):
        return None
    values: dict[str, int | str] = {}
    for (name, width), text in zip(fields, texts, strict=True):
        if width == 0:
            if len(text) > MAX_REASON or not _TEXT.issuperset(text):
                return None
            values[name] = text.decode("ascii")
        else:
            if len(text) != width or not _HEX.issuperset(text):
                return None
            values[name] = int(text, 16)
    return kind.decode("ascii"), values


def is_permit(kind: str, values: dict[str, int | str]) -> bool:
    """Whether a decoded telegram is a whole permit: type, word, part id and both complements."""
    if kind != "P":
        return False
    numbers = {name: value for name, value in values.items() if isinstance(value, int)}
    return (
        numbers["word"] == PASS_WORD
        and numbers["word"] ^ numbers["not_word"] == 0xFFFF
        and numbers["part_id"] ^ numbers["not_part_id"] == 0xFFFF
    )


@dataclass(slots=True)
class TelegramReader:
    """Bytes in any portions -> telegrams. Garbage is skipped and counted once per broken telegram in ``errors``."""

    errors: int = 0
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[tuple[str, dict[str, int | str]]]:
        """The whole telegrams that ``data`` completes, as (type, fields)."""
        for byte in data:
            if byte == 0x24:  # $
                self.errors += bool(self._buffer)
                self._buffer[:] = b"$"
            elif not self._buffer:
                continue  # between telegrams
            elif byte == 0x0A:
                line = bytes(self._buffer[1:-1]) if self._buffer[-1] == 0x0D else b""
                self._buffer.clear()
                telegram = decode(line)
                if telegram is None:
                    self.errors += 1
                else:
                    yield telegram
            elif len(self._buffer) >= MAX_TELEGRAM - 1:
                self.errors += 1
                self._buffer.clear()
            else:
                self._buffer.append(byte)

    def clear(self) -> None:
        """Forget a half telegram."""
        self._buffer.clear()


@dataclass(slots=True)
class AsciiDriver:
    """Driver ``ascii``.

    repeat_ns: a trigger telegram with the sequence number, part id and recipe of an earlier one within this time is the
    PLC repeating itself because it missed the acknowledgement: it is acknowledged again and opens no second ticket.
    Several parts may be repeated in turns.
    """

    repeat_ns: int
    poll_s: float | None = None
    _wire: Wire | None = None
    _reader: TelegramReader = field(default_factory=TelegramReader)
    _sequence: int = 0
    _trigger_sequence: dict[str, int] = field(default_factory=dict)  # record id -> sequence of its trigger, open only
    _known: dict[Trigger, int] = field(default_factory=dict)  # when it came first, the oldest in front

    @property
    def protocol_errors(self) -> int:
        """Broken telegrams since start."""
        return self._reader.errors

    def open(self, wire: Wire) -> None:
        self.close()
        self._wire = wire

    def close(self) -> None:
        self._wire = None
        self._reader.clear()
        self._trigger_sequence.clear()

    def received(self, data: bytes, now_ns: int) -> list[LineEvent]:
        events: list[LineEvent] = []
        for kind, values in self._reader.feed(data):
            number = {name: value for name, value in values.items() if isinstance(value, int)}
            if kind == "T":
                trigger = Trigger(number["part_id"], number["recipe"], number["seq"])
                self._forget(now_ns)
                if trigger in self._known:
                    self._acknowledge(trigger, 0)
                    continue
                self._known[trigger] = now_ns
                events.append(trigger)
            elif kind == "B":
                events.append(PlcHeartbeat(bool(number["trigger_enable"])))
            elif kind == "A":
                events.append(Ack(number["part_id"]))
            else:
                self._reader.errors += 1  # a telegram of our own, echoed by the wire
        return events

    def poll(self, now_ns: int) -> list[LineEvent]:
        return []  # the PLC speaks by itself

    def accepted(self, trigger: Trigger, ticket: Ticket) -> None:
        self._trigger_sequence[ticket.record_id] = trigger.sequence
        self._acknowledge(trigger, 0)

    def refused(self, trigger: Trigger) -> None:
        self._known.pop(trigger, None)
        self._acknowledge(trigger, 1)

    def permit(self, ticket: Ticket, note: ResultNote, now_ns: int) -> bool:
        sequence = self._trigger_sequence.get(ticket.record_id)
        if sequence is None or not note.is_pass or now_ns >= ticket.deadline_ns:
            return False
        sent = self._send(
            "P",
            trigger_seq=sequence,
            part_id=ticket.part_id,
            not_part_id=ticket.part_id ^ 0xFFFF,
            word=PASS_WORD,
            not_word=PASS_WORD ^ 0xFFFF,
        )
        if sent:
            self._inform(ticket, note, sequence)
        return sent

    def inform(self, ticket: Ticket, note: ResultNote, now_ns: int) -> None:
        self._inform(ticket, note.without_pass(), self._trigger_sequence.get(ticket.record_id, 0))

    def ended(self, ticket: Ticket) -> None:
        self._trigger_sequence.pop(ticket.record_id, None)

    def take_never_shown(self, now_ns: int) -> list[Ticket]:
        return []  # a permit leaves when it is given, or is refused

    def heartbeat(self, beat: bool, ready: bool, fault: bool) -> None:
        self._send("H", beat=int(beat), ready=int(ready), fault=int(fault), busy=int(bool(self._trigger_sequence)))

    def _forget(self, now_ns: int) -> None:
        while self._known and now_ns - next(iter(self._known.values())) >= self.repeat_ns:
            del self._known[next(iter(self._known))]

    def _acknowledge(self, trigger: Trigger, status: int) -> None:
        self._send("K", trigger_seq=trigger.sequence, part_id=trigger.part_id, status=status)

    def _inform(self, ticket: Ticket, note: ResultNote, sequence: int) -> None:
        reason = "".join(c if ord(c) in _TEXT else "_" for c in note.reason_code.upper()[:MAX_REASON])
        self._send(
            "I",
            trigger_seq=sequence,
            part_id=ticket.part_id,
            outcome=outcome_word(note.outcome),
            unknown=int(note.unknown),
            severity_x10=severity_word(note.severity_x10),
            reason=reason,
        )

    def _send(self, kind: str, **values: int | str) -> bool:
        if self._wire is None:
            return False
        self._sequence = (self._sequence + 1) & 0xFFFF
        return self._wire.write(encode(kind, seq=self._sequence, **values))
