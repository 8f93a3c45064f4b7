"""A thread with an MQTT connection of its own, for what is said and heard beside the results.

Results have ``publish.py`` and a connection that nothing else uses, so nothing here can slow, block or lose one. A
subclass says what its connection is and what it does over it; being away, refused or hung is met here.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from abc import ABC, abstractmethod

from .errors import ConfigError, StorageError
from .mqtt import CONNECT_TIMEOUT_S, Connection, ConnectionOver, MqttOptions

__all__ = ["MqttThread"]

_log = logging.getLogger(__name__)

_BACK_OFF_FIRST_S = 0.2
_BACK_OFF_LONGEST_S = 5.0
_BACK_OFF_REFUSED_S = 30.0  # a wrong password must not look like an attack
_STABLE_S = 10.0  # a connection that lasted this long starts the next back-off from the beginning


class MqttThread(ABC):
    """``start`` once, ``stop`` once. ``connected``: the broker has accepted the login; ``last_error``: "" when well."""

    def __init__(self, name: str, options: MqttOptions) -> None:
        self._name, self._options = name, options
        self.connected = False
        self.last_error = ""
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"edge-{name}", daemon=True)

    def start(self) -> None:
        """Connect, and connect again whenever that ends."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Say goodbye and end. What is not delivered stays where it is kept."""
        self._stopping.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout_s + CONNECT_TIMEOUT_S)
        if not self._thread.is_alive():
            self._wake_read.close()
            self._wake_write.close()

    def wake(self) -> None:
        """There is something to do. Never blocks; any thread."""
        try:
            self._wake_write.send(b"x")
        except OSError:
            return  # full: it is awake already; closed: nobody is left to wake

    # ---------------------------------------------------------------- what a subclass says

    @abstractmethod
    def _open(self) -> Connection:
        """A new connection with its will and client id."""

    @abstractmethod
    def _serve(self, connection: Connection) -> None:
        """Called once the broker has accepted the login; returns after ``_stopping`` was set and goodbye said."""

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        back_off_s = _BACK_OFF_FIRST_S
        while True:
            began_s, longest_s = time.monotonic(), _BACK_OFF_LONGEST_S
            try:
                self._connect_and_serve()
            except ConnectionOver as over:
                longest_s = _BACK_OFF_REFUSED_S if over.refused else _BACK_OFF_LONGEST_S
                self._note(str(over))
            except (ConfigError, StorageError) as error:
                self._note(str(error))
            except OSError as error:
                self._note(f"cannot reach {self._options.host}:{self._options.port}: {error}")
            except Exception as error:  # noqa: BLE001 - whatever a broker sends must not end this for ever
                _log.exception("%s: unexpected trouble", self._name)
                self._note(f"unexpected trouble: {error!r}")
            else:
                return
            if time.monotonic() - began_s > _STABLE_S:
                back_off_s = _BACK_OFF_FIRST_S
            # Spread, so that many devices do not come back to a restarted broker in the same instant.
            if self._stopping.wait(back_off_s * random.uniform(0.7, 1.0)):  # noqa: S311 - no secret
                return
            back_off_s = min(2 * back_off_s, longest_s)

    def _connect_and_serve(self) -> None:
        politely = False
        connection = self._open()
        try:
            while not connection.accepted:
                if self._stopping.is_set():
                    raise ConnectionOver("stopped before the broker answered")
                connection.pump(0.2, self._wake_read)
            self.connected, self.last_error = True, ""
            _log.info("%s: connected to %s:%d", self._name, self._options.host, self._options.port)
            self._serve(connection)
            politely = True
        finally:
            self.connected = False
            connection.close(politely=politely)

    def _note(self, why: str) -> None:
        """Said once when it goes away."""
        if why != self.last_error:
            _log.warning("%s: %s", self._name, why)
        self.last_error = why
