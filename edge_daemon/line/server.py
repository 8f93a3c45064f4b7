"""The line process' end of the link: one socket, one daemon at a time, never a wait.

The socket's owner holds a lock beside it (``<socket>.lock``, flock), so a socket file left by a killed process is told
from a live one and replaced without a race. A daemon that sends nonsense, or does not read what it is told, is cut off:
it finds every ticket it missed when it connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import LineError
from .messages import MAX_PACKET, PROTOCOL, BadMessage, decode, encode, integer

__all__ = ["LinkServer"]

#: A connection has this long to say who it is.
HELLO_S = 1.0
#: A daemon that takes nothing for this long while something waits for it is cut off.
STALL_S = 2.0
#: At a clean stop the daemon has this long to read what still waits for it.
FLUSH_S = 0.5

_log = logging.getLogger("edge_daemon.line.server")


class LinkServer:
    """Listens on ``path``; on_attach(), on_message(kind, message), on_detach() are called from the loop."""

    def __init__(
        self,
        path: Path,
        on_attach: Callable[[], None],
        on_message: Callable[[str, dict[str, Any]], None],
        on_detach: Callable[[], None],
    ) -> None:
        self._path = path
        self._on_attach = on_attach
        self._on_message = on_message
        self._on_detach = on_detach
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._lock_fd: int | None = None
        self._strangers: dict[socket.socket, asyncio.TimerHandle] = {}
        self._daemon: socket.socket | None = None
        self._outbox: deque[bytes] = deque()
        self._stall: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take the lock, replace a stale socket, listen. Raises LineError when another line process is there."""
        self._lock_fd = self._take_lock()
        try:
            self._listener = self._listen()
        except OSError as error:
            self.close()
            raise LineError(
                f"cannot listen on {self._path}: {error.strerror}", hint="check the directory and its owner"
            ) from None
        self._loop.add_reader(self._listener, self._accept)

    def send(self, kind: str, **values: Any) -> None:
        """To the daemon, if one is attached; without one the message is dropped (tickets are resent on attach)."""
        if self._daemon is None:
            return
        packet = encode(kind, **values)
        if self._outbox:
            self._outbox.append(packet)
            return
        try:
            self._daemon.send(packet)
        except BlockingIOError:
            self._outbox.append(packet)
            self._loop.add_writer(self._daemon, self._flush)
            self._stall = self._loop.call_later(STALL_S, self._cut, "it does not read")
        except (BrokenPipeError, ConnectionResetError):
            return  # it has gone: the reader takes what it said before, then sees the end
        except OSError as error:
            # Seen as end of file as well; not here, because the caller is in the middle of something.
            self._loop.call_soon(self._cut, f"send: {error}")

    def finish(self, flush_s: float = FLUSH_S) -> None:
        """Before ``close``: take nobody new, give the daemon what still waits for it, hear what it has sent by now.

        Waits at most ``flush_s``, and only for a daemon that has not read all of it. Calls on_message for what the
        daemon had sent; whatever it sends from here on fails at its end.
        """
        self._stop_listening()
        end_s = time.monotonic() + flush_s
        while self._daemon is not None and self._outbox:
            try:
                self._daemon.send(self._outbox[0])
                self._outbox.popleft()
            except (BlockingIOError, InterruptedError):
                left_s = end_s - time.monotonic()
                if left_s <= 0 or not select.select([], [self._daemon], [], left_s)[1]:
                    _log.warning("the daemon did not read its last %d messages", len(self._outbox))
                    break
            except OSError:
                break  # it has gone: the next one is told
        self._hear_out()

    def close(self) -> None:
        """Stop listening, remove the socket, let go of everyone. Safe in any state; calls no callback."""
        self._stop_listening()
        self._drop_daemon()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _stop_listening(self) -> None:
        for stranger in list(self._strangers):
            self._dismiss(stranger)
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _hear_out(self) -> None:
        """Read all that the daemon has sent. A socket closed with something unread would report a reset to the other
        side in front of what we have sent last."""
        if self._daemon is None:
            return
        try:
            self._daemon.shutdown(socket.SHUT_RD)
            while packet := self._daemon.recv(MAX_PACKET + 1):
                self._on_message(*decode(packet))
        except (OSError, BadMessage) as error:
            _log.warning("the last words of the daemon are lost: %s", error)

    # -- listening ------------------------------------------------------------------------------------------------

    def _take_lock(self) -> int:
        lock = self._path.with_name(self._path.name + ".lock")
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise LineError(
                f"cannot create {lock}: {error.strerror}", hint="check the directory and its owner"
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise LineError(
                f"another line process owns {self._path}", code="LINE_TWICE", hint="stop it, or use its socket"
            ) from None
        return fd

    def _listen(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise FileExistsError(17, "it exists and is no socket")
            self._path.unlink()  # we hold the lock: nobody listens on it any more
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            mask = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(mask)
            listener.listen(4)
        except BaseException:
            listener.close()
            raise
        return listener

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            stranger, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            _log.error("cannot accept a connection: %s", error)
            return
        stranger.setblocking(False)
        self._strangers[stranger] = self._loop.call_later(HELLO_S, self._dismiss, stranger)
        self._loop.add_reader(stranger, self._greet, stranger)

    def _greet(self, stranger: socket.socket) -> None:
        try:
            packet = stranger.recv(MAX_PACKET + 1)
            if not packet:
                self._dismiss(stranger)
                return
            kind, message = decode(packet)
            if kind != "hello":
                raise BadMessage(f"first message is {kind}")  # noqa: TRY301  # handled with the other bad messages
            protocol = integer(message, "protocol")
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, BadMessage) as error:
            _log.warning("connection dismissed: %s", error)
            self._dismiss(stranger)
            return
        reason = "PROTOCOL" if protocol != PROTOCOL else "BUSY" if self._daemon is not None else ""
        if reason:
            with contextlib.suppress(OSError):  # it may be gone already
                stranger.send(encode("refused", reason=reason))
            self._dismiss(stranger)
            return
        self._strangers.pop(stranger).cancel()
        self._daemon = stranger
        self._loop.remove_reader(stranger)
        self._loop.add_reader(stranger, self._receive)
        self._on_attach()

    def _dismiss(self, stranger: socket.socket) -> None:
        timer = self._strangers.pop(stranger, None)
        if timer is not None:
            timer.cancel()
        self._loop.remove_reader(stranger)
        stranger.close()

    # -- the daemon -----------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        if self._daemon is None:
            return
        try:
            packet = self._daemon.recv(MAX_PACKET + 1)
        except (BlockingIOError, InterruptedError, ConnectionResetError):
            # Reset: it closed with something of ours unread. Said once, in front of what it had sent before.
            return
        except OSError as error:
            self._cut(f"receive: {error}")
            return
        if not packet:
            self._cut("it closed the link")
            return
        try:
            self._on_message(*decode(packet))
        except BadMessage as error:
            self._cut(f"it sent nonsense: {error}")

    def _flush(self) -> None:
        if self._daemon is None:
            return
        try:
            while self._outbox:
                self._daemon.send(self._outbox[0])
                self._outbox.popleft()
                self._set_stall(self._loop.call_later(STALL_S, self._cut, "it does not read"))
        except (BlockingIOError, InterruptedError):
            return
        except (BrokenPipeError, ConnectionResetError):
            self._outbox.clear()  # as in ``send``
        except OSError as error:
            self._cut(f"send: {error}")
            return
        self._set_stall(None)
        self._loop.remove_writer(self._daemon)

    def _set_stall(self, timer: asyncio.TimerHandle | None) -> None:
        if self._stall is not None:
            self._stall.cancel()
        self._stall = timer

    def _cut(self, why: str) -> None:
        if self._daemon is None:
            return
        _log.warning("daemon detached: %s", why)
        self._drop_daemon()
        self._on_detach()

    def _drop_daemon(self) -> None:
        daemon, self._daemon = self._daemon, None
        self._outbox.clear()
        self._set_stall(None)
        if daemon is not None:
            self._loop.remove_reader(daemon)
            self._loop.remove_writer(daemon)
            daemon.close()
