"""How the page is served: who holds a connection without asking for anything, or holds too many, loses it; and
everybody else can read the answer that they got.

The server knows a limit for all connections together; without more, one machine that opens that many and says nothing
would keep everybody else out.

A connection that is closed while something that was sent on it lies unread is reset by the kernel, and a reset may
throw away the answer that is on its way. So where a request is answered before its end was read (refused for its
length, its origin or its rate), what follows is read and thrown away, for some seconds, before the connection is
closed. And told to stop, the server first answers what is under way on connections that are open.

Not covered: a request that leaves its browser after the connection was closed; a browser sends it again by itself.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["CONNECTIONS", "Server", "protocol"]

#: All together; of one address.
CONNECTIONS, _OF_AN_ADDRESS = 200, 60
_HEAD_TIMEOUT_S = 10.0
#: How long the rest of a request that was answered already is read and thrown away: on a connection that goes on, and
#: on one that is to be closed.
_REST_S, _LINGER_S = 60.0, 5.0
#: How long a connection without a request outlives the order to stop.
_LAST_CALL_S = 0.25


class Server(uvicorn.Server):
    """Told to stop, it stops and is done; uvicorn's own would end the process by that very signal afterwards."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Lingering:
    """A transport that its protocol closes when the rest of the request is there; all else as the one within."""

    def __init__(self, inner: Any, protocol: _Patient) -> None:
        self._inner, self._protocol = inner, protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def is_closing(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._protocol.lingers or bool(self._inner.is_closing())

    def close(self) -> None:
        """Close, now or when what was answered too early has been read."""
        if not self._protocol.linger():
            self._inner.close()


class _Patient(H11Protocol):
    """Closes no connection over unread words."""

    rest_s, linger_s, last_call_s = _REST_S, _LINGER_S, _LAST_CALL_S
    lingers = False
    _inner: Any = None
    _stopping = False
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self._inner = transport
        super().connection_made(transport)
        self.transport = _Lingering(transport, self)  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._no_end()
        super().connection_lost(exc)

    def linger(self) -> bool:
        """Begin to wait for the rest of a request, where there is one; False where there is nothing to wait for."""
        if self.lingers:
            return True
        if self.cycle is not None and not self.cycle.response_complete:  # whoever still works on it is told to stop
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        # ERROR: what came is no HTTP, and nobody knows where it ends.
        if self._inner.is_closing() or self.conn.their_state not in (h11.SEND_BODY, h11.ERROR):
            return False
        self.lingers = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self._end_in(self.linger_s)
        return True

    def data_received(self, data: bytes) -> None:
        if self.lingers:
            self._throw_away(data)
            return
        super().data_received(data)
        if self.transport.is_closing():  # or lingers since just now
            return
        if self._stopping:
            self._last_one()
        elif self.conn.their_state is not h11.SEND_BODY:
            self._no_end()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._end_in(self.rest_s)  # uvicorn throws the rest away, however long it takes

    def shutdown(self) -> None:
        """Told to stop: what has been sent to us, read or not, is answered; then the connection is closed."""
        self._stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self._unset_keepalive_if_required()
            self._end_in(self.last_call_s)
        else:
            self._last_one()

    def _last_one(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self._no_end()

    def _throw_away(self, data: bytes) -> None:
        if self.conn.their_state is h11.ERROR:
            return
        try:
            self.conn.receive_data(data)
            while isinstance(self.conn.next_event(), h11.Data):
                pass
        except h11.RemoteProtocolError:
            self._close_now()
            return
        if self.conn.their_state is not h11.SEND_BODY:
            self._close_now()

    def _end_in(self, seconds: float) -> None:
        self._no_end()
        self._end = self.loop.call_later(seconds, self._close_now)

    def _no_end(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _close_now(self) -> None:
        self._no_end()
        self._inner.close()


def protocol(*, head_timeout_s: float = _HEAD_TIMEOUT_S, of_an_address: int = _OF_AN_ADDRESS) -> type[H11Protocol]:
    """The protocol of one server: a request's head must be there in time, and an address has so many connections."""
    open_now: Counter[str] = Counter()

    class Impatient(_Patient):
        _address = ""
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            open_now[self._address] += 1
            if open_now[self._address] > of_an_address:
                transport.close()
                return
            self._wait_for_a_head()

        def connection_lost(self, exc: Exception | None) -> None:
            open_now[self._address] -= 1
            if open_now[self._address] <= 0:
                del open_now[self._address]
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop_waiting()
            elif self._patience is None:
                self._wait_for_a_head()

        def _wait_for_a_head(self) -> None:
            self._patience = self.loop.call_later(head_timeout_s, self._give_up)

        def _stop_waiting(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

        def _give_up(self) -> None:
            self._patience = None
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                self.transport.close()

    return Impatient
