"""A Modbus RTU slave of its own making: bytes in, bytes out, holding registers in a list.

Written from the Modbus specification and without pymodbus, so that the driver ``modbus-client`` and its counterpart
share no code. Function codes 3, 6 and 16; anything else gets exception 1, an address outside exception 2.
"""

from __future__ import annotations

import struct
from collections.abc import MutableSequence

__all__ = ["RtuSlave", "crc"]


def crc(data: bytes) -> int:
    """CRC-16/MODBUS (polynomial A001 reflected, start FFFF)."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value


def _framed(body: bytes) -> bytes:
    return body + struct.pack("<H", crc(body))


class RtuSlave:
    """One slave. words: its holding registers from address 0. reads, writes, errors: requests by kind."""

    def __init__(self, unit_id: int, words: MutableSequence[int]) -> None:
        self.unit_id, self.words = unit_id, words
        self.reads = self.writes = self.errors = 0
        self._buffer = b""

    def clear(self) -> None:
        """Forget half requests."""
        self._buffer = b""

    def feed(self, data: bytes) -> bytes:
        """Bytes from the master, in any portions; returns the answers to the requests they complete."""
        self._buffer += data
        answers = b""
        while len(self._buffer) >= 4:
            size = self._size()
            if size and len(self._buffer) < size:
                break
            frame = self._buffer[:size]
            if not size or crc(frame[:-2]) != struct.unpack("<H", frame[-2:])[0]:
                self._buffer = self._buffer[1:]
                self.errors += 1
                continue
            self._buffer = self._buffer[size:]
            if frame[0] == self.unit_id:
                answers += _framed(bytes((self.unit_id,)) + self._serve(frame[1], frame[2:-2]))
        return answers

    def _size(self) -> int:
        """Length of the request that begins the buffer; 0: none begins here."""
        function = self._buffer[1]
        if self._buffer[0] > 247 or not 1 <= function <= 127:
            return 0
        if function == 16:
            return 9 + self._buffer[6] if len(self._buffer) > 6 else 9
        return 8

    def _serve(self, function: int, body: bytes) -> bytes:
        if function not in (3, 6, 16):
            return bytes((function | 0x80, 1))
        address, value = struct.unpack(">HH", body[:4])
        count = 1 if function == 6 else value
        if not 1 <= count <= 125 or address + count > len(self.words):
            return bytes((function | 0x80, 2))
        if function == 3:
            self.reads += 1
            values = [self.words[address + index] for index in range(count)]
            return struct.pack(f">BB{count}H", 3, 2 * count, *values)
        new = [value] if function == 6 else list(struct.unpack(f">{count}H", body[5:]))
        for index, word in enumerate(new):
            self.words[address + index] = word
        self.writes += 1
        return struct.pack(">BHH", function, address, value)
