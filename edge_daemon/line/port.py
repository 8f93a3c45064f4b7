"""The serial port of the line process: exclusive, non-blocking, and back within a second after a cable pull.

pyserial opens and configures the port; reading and writing go straight to its descriptor, because pyserial 3.5 reports
a lost device in several ways (SerialException, bare OSError from ``in_waiting``, termios.error while opening) and
``write`` would wait. Nothing is queued here: a telegram that the kernel does not take at once as a whole means that the
port is stuck, and a permit that leaves later than it was given would be a lie. The port is then closed and reopened.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
import termios
from collections.abc import Callable
from typing import Any

import serial  # type: ignore[import-untyped]  # pyserial 3.5 carries no types

from .driver import ModemLines

__all__ = ["RETRY_S", "SerialPort", "open_port"]

RETRY_S = 0.25
_CHUNK_BYTES = 4096

_log = logging.getLogger("edge_daemon.line.port")


def open_port(path: str, *, lines: bool = False, **settings: Any) -> serial.Serial:
    """The port, exclusive and non-blocking. lines: with RTS and DTR off; one that has none is refused.

    Raises OSError, termios.error or ValueError. Linux itself switches both on for the moment of opening.
    """
    # Exclusive: a second program writing to this wire could answer for the gate.
    port = serial.Serial(None, exclusive=True, timeout=0, write_timeout=0, **settings)
    if lines:
        port.rts = port.dtr = False
    port.port = path
    port.open()
    if lines:
        try:
            _set_lines(port.fileno(), rts=False, dtr=False)
            _ = port.cts
        except OSError as error:
            port.close()
            raise OSError(f"{path} has no lines RTS, DTR, CTS and DSR ({error.strerror})") from None
    return port


def _set_lines(fd: int, rts: bool, dtr: bool) -> None:
    """RTS and DTR at once, all other bits as they are."""
    value = int.from_bytes(fcntl.ioctl(fd, termios.TIOCMGET, bytes(4)), sys.byteorder)
    value &= ~(termios.TIOCM_RTS | termios.TIOCM_DTR)
    value |= (termios.TIOCM_RTS if rts else 0) | (termios.TIOCM_DTR if dtr else 0)
    fcntl.ioctl(fd, termios.TIOCMSET, value.to_bytes(4, sys.byteorder))


class SerialPort:
    """One serial port on an asyncio loop; implements ``driver.Wire``.

    on_data(bytes): bytes arrived. on_change(connected): the port came (True) or went (False). Both are called from the
    loop and never from inside ``write``: a port found lost while writing is reported in the next turn of the loop.
    lines: RTS and DTR are the driver's, and off until it says otherwise; a port without them does not open.
    """

    def __init__(
        self,
        path: str,
        baudrate: int,
        parity: str,
        stopbits: int,
        on_data: Callable[[bytes], None],
        on_change: Callable[[bool], None],
        *,
        lines: bool = False,
    ) -> None:
        self._path = path
        self._settings = {"baudrate": baudrate, "parity": parity, "stopbits": stopbits}
        self._lines = lines
        self._on_data = on_data
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._serial: serial.Serial | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._complained = False
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether the port is open. A pulled RS-232 plug with its converter still there is not seen here."""
        return self._serial is not None

    def start(self) -> None:
        """Open the port now or as soon as it is there."""
        self._retry = None
        if self._closed or self._serial is not None:
            return
        try:
            port = open_port(self._path, lines=self._lines, **self._settings)
            try:
                port.reset_input_buffer()
                port.reset_output_buffer()
            except BaseException:
                port.close()
                raise
        except (OSError, termios.error, ValueError) as error:  # SerialException is an OSError
            if not self._complained:
                self._complained = True
                _log.error("serial port %s cannot be opened, trying on: %s", self._path, error)
            self._retry = self._loop.call_later(RETRY_S, self.start)
            return
        self._serial = port
        self._loop.add_reader(port.fileno(), self._readable)
        _log.log(
            logging.WARNING if self._complained else logging.INFO,
            "serial port %s is %s",
            self._path,
            "back" if self._complained else "open",
        )
        self._complained = False
        self._on_change(True)

    def write(self, data: bytes) -> bool:
        """All of ``data`` to the kernel at once, else False and the port is given up and reopened."""
        if self._serial is None:
            return False
        try:
            written = os.write(self._serial.fileno(), data)
        except BlockingIOError:
            written = 0
        except OSError as error:
            self._lost(f"write: {error}")
            return False
        if written != len(data):
            self._lost(f"stuck: {written} of {len(data)} bytes taken")
            return False
        return True

    def read_lines(self) -> ModemLines | None:
        """CTS and DSR now; None, and the port is given up and reopened, when it does not say."""
        if self._serial is None:
            return None
        try:
            return ModemLines(bool(self._serial.cts), bool(self._serial.dsr))
        except OSError as error:
            self._lost(f"lines: {error}")
            return None

    def set_lines(self, rts: bool, dtr: bool) -> bool:
        """Both outputs in one call of the kernel; False, and the port is given up and reopened, when it refuses."""
        if self._serial is None or not self._lines:
            return False
        try:
            _set_lines(self._serial.fileno(), rts, dtr)
        except OSError as error:
            self._lost(f"lines: {error}")
            return False
        return True

    def close(self) -> None:
        """Close for good; safe in any state."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._drop(discard=False)

    def _readable(self) -> None:
        if self._serial is None:
            return
        try:
            data = os.read(self._serial.fileno(), _CHUNK_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(f"read: {error}")
            return
        if data:
            self._on_data(data)
        else:
            self._lost("read: hung up")

    def _lost(self, why: str) -> None:
        self._drop(discard=True)
        if self._closed:
            return
        self._complained = True
        _log.error("serial port %s is lost (%s), trying on", self._path, why)
        self._loop.call_soon(self._on_change, False)
        self._retry = self._loop.call_later(RETRY_S, self.start)

    def _drop(self, *, discard: bool) -> None:
        port, self._serial = self._serial, None
        if port is None:
            return
        self._loop.remove_reader(port.fileno())
        try:
            if discard:
                port.reset_output_buffer()  # else the kernel may hold us in close for what a stuck port never takes
            port.close()
        except (OSError, termios.error) as error:
            _log.debug("letting go of %s: %s", self._path, error)
            with contextlib.suppress(OSError):
                port.close()
