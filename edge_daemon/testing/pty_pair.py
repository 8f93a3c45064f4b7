"""A null-modem cable made of two pseudo-terminals, for tests and the demo; its plug can be pulled."""

from __future__ import annotations

import contextlib
import os
import select
import tempfile
import threading
import tty
from pathlib import Path
from types import TracebackType

__all__ = ["PtyPair"]


class PtyPair:
    """Two device paths joined like a null-modem cable, without socat: two pseudo-terminals and a relay thread.

    device_path, plc_path: symbolic links that keep their names through ``pull`` and ``plug``. Bytes for a side that
    nobody reads are dropped, as on a wire. Baud rate has no effect on a pseudo-terminal.
    """

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="edge-wire-")
        self.device_path = str(Path(self._directory.name) / "device")
        self.plc_path = str(Path(self._directory.name) / "plc")
        self._ends: list[tuple[int, int]] = []  # (master, slave) of device and PLC
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] = (-1, -1)
        self.plug()

    def plug(self) -> None:
        """Join the two ends (again)."""
        if self._ends:
            return
        for path in (self.device_path, self.plc_path):
            master, slave = os.openpty()
            tty.setraw(slave)  # the slave stays open here: else each close of the other side would be a hang-up
            os.set_blocking(master, False)
            self._ends.append((master, slave))
            Path(path).symlink_to(os.ttyname(slave))
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._relay, name="pty-wire", daemon=True)
        self._thread.start()

    def pull(self) -> None:
        """Pull the cable: both sides see their device vanish."""
        if not self._ends:
            return
        os.write(self._wake[1], b"x")
        if self._thread is not None:
            self._thread.join()
        for path in (self.device_path, self.plc_path):
            Path(path).unlink()
        for fd in (*(fd for end in self._ends for fd in end), *self._wake):
            os.close(fd)
        self._ends = []

    def inject(self, data: bytes, to: str = "device") -> None:
        """Put bytes on the wire towards ``device`` or ``plc``, as a disturbance would."""
        if self._ends:
            _write_what_fits(self._ends[0 if to == "device" else 1][0], data)

    def close(self) -> None:
        """Pull for good and remove the paths. Safe in any state."""
        self.pull()
        self._directory.cleanup()

    def __enter__(self) -> PtyPair:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _relay(self) -> None:
        (device, _), (plc, _) = self._ends
        other = {device: plc, plc: device}
        while True:
            readable, _, _ = select.select([device, plc, self._wake[0]], [], [])
            if self._wake[0] in readable:
                return
            for master in readable:
                _write_what_fits(other[master], os.read(master, 4096))


def _write_what_fits(fd: int, data: bytes) -> None:
    with contextlib.suppress(BlockingIOError):  # nobody reads there: the rest is lost, as on a wire
        while data:
            data = data[os.write(fd, data) :]
