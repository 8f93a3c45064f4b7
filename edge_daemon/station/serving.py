"""How the page is served: who holds a connection without asking for anything, or holds too many, loses it.

The server knows a limit for all connections together; without more, one machine that opens that many and says nothing
would keep everybody else out.
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


def protocol(*, head_timeout_s: float = _HEAD_TIMEOUT_S, of_an_address: int = _OF_AN_ADDRESS) -> type[H11Protocol]:
    """The protocol of one server: a request's head must be there in time, and an address has so many connections."""
    open_now: Counter[str] = Counter()

    class Impatient(H11Protocol):
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
