"""MQTT delivery from the memory bank's outbox: at least once, in order, nothing dropped, nothing in the line's way.

Where it stands: at the far end. The line stores a record and its message in one transaction; one thread here carries
messages to the broker and removes a row only when the broker has acknowledged that very message (PUBACK).

Topics, ISA-95 shaped, under ``{enterprise}/{site}/{area}/{line}/{cell}/inspection/``:

    result          QoS 1, never retained, one message a record; ``result_schema.json`` describes it
    state           QoS 1, retained; the last will sets it to offline
    event           what happened beside the results: answers to commands, ``check``
    command         heard by ``commands.py``, where [commands] says so

What the broker may do to us, and what happens then:

    away, silent, hung   back-off and a new connection; everything without a PUBACK is sent again, in order
    refuses the login    visible in ``state().last_error``; tried again, and the password file is read anew each time
    refuses a message    MQTT 5: PUBACK with a failure code, e.g. not authorised. The row stays, the error is visible,
                         and it is tried again with back-off, one message at a time.

Each connection is a new paho client with nothing in its queue: paho's own queue lives in memory, keeps messages across
reconnects, and would send them with the age they had before the outage. The outbox is the only queue. For the same
reason the session is clean: a broker session keeps subscriptions and messages *to* a client, and this one has neither.

Not covered: MQTT 3.1.1 has no failure code in PUBACK, so a broker that forbids the topic by ACL (mosquitto does so)
acknowledges and drops, and nobody can tell. Use MQTT 5 where the broker has an ACL. After such a refusal under MQTT 5,
up to ``window`` later messages that were already on their way may arrive before the refused one; ``seq`` shows it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
from dataclasses import dataclass

from . import __version__
from .errors import ConfigError, OutputError, StorageError
from .memory import MemoryBank, OutboxMessage
from .mqtt import CONNECT_TIMEOUT_S, Connection, ConnectionOver, MqttOptions
from .records import Record
from .tickets import utc_now

__all__ = ["MqttOptions", "Publisher", "PublisherState", "probe", "result_payload", "stamped"]

_log = logging.getLogger(__name__)

_BACK_OFF_FIRST_S = 0.2
_BACK_OFF_LONGEST_S = 5.0
_BACK_OFF_REFUSED_S = 30.0  # a wrong password must not look like an attack
_STABLE_S = 10.0  # a connection that lasted this long starts the next back-off from the beginning
_STORAGE_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class PublisherState:
    """What metrics and ``check`` show. ``pending`` and ``oldest_age_s`` are None when the memory bank cannot be read.

    connected: the broker has accepted the login. last_error: what is wrong now, ``""`` when nothing is.
    delivered, refused, connections: since the start of this process.
    """

    connected: bool
    pending: int | None
    oldest_age_s: float | None
    last_error: str
    delivered: int
    refused: int
    connections: int


def result_payload(record: Record) -> bytes:
    """The message of a record as UTF-8 JSON, fixed when the record is stored; ``stamped`` completes it at sending."""
    document = record.document
    message = {
        "schema": 1,
        "record_id": record.record_id,
        "part_id": record.part_id,
        "station": record.station,
        "result": record.result,
        "outcome": str(record.outcome),
        "reasons": [{"code": reason["code"], "text": reason["text"]} for reason in document.get("reasons", ())],
        "message": document.get("message"),
        **({"notices": document["notices"]} if document.get("notices") else {}),
        "types": [
            {
                "type": entry["type"],
                "outcome": str(entry["outcome"]),
                "severity": entry.get("severity"),
                "severity_level": entry.get("severity_level"),
            }
            for entry in document.get("types", ())
        ],
        "event_time_utc": record.trigger_utc,
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def stamped(payload: bytes, seq: int, age_s: float | None) -> bytes:
    """A stored message with the two fields that are only known at sending: ``seq`` and ``age_s``.

    payload : a JSON object with at least one member. The fields go into the payload, not into MQTT 5 user properties,
    so that MQTT 3.1.1 consumers and everything behind a bridge see them too.
    """
    age = "null" if age_s is None else f"{age_s:.3f}"
    return payload[:-1] + f',"seq":{seq},"age_s":{age}}}'.encode()


def probe(options: MqttOptions) -> str:
    """Log in and have one message on the ``event`` topic acknowledged; a sentence about it. Disturbs no running daemon.

    Raises OutputError when the broker is away, refuses the login or the message; ConfigError for unusable secrets.
    """
    where = f"{options.host}:{options.port}"
    hint = "is the broker running, and do host, port, TLS, user and ACL fit?"
    message = json.dumps({"event": "check", "at_utc": utc_now(), "version": __version__}).encode()
    never, other_end = socket.socketpair()
    try:
        connection = Connection(
            options, None, ack_timeout_s=CONNECT_TIMEOUT_S, client_id=f"edge-daemon-check-{os.urandom(4).hex()}"
        )
        try:
            while not connection.accepted:
                connection.pump(0.1, never)
            began_s = time.monotonic()
            mid = connection.publish(options.topic("event"), message, retain=False)
            while mid in connection.in_flight:
                connection.pump(0.1, never)
            took_ms = 1e3 * (time.monotonic() - began_s)
        finally:
            connection.close(politely=True)
    except ConnectionOver as over:
        raise OutputError(f"{where}: {over}", hint=hint) from over
    except OSError as error:
        raise OutputError(f"cannot reach {where}: {error}", hint=hint) from error
    finally:
        never.close()
        other_end.close()
    if connection.refusals:
        raise OutputError(
            f"{where} refuses a message on {options.topic('event')}: {connection.refusals[0][1]}", hint=hint
        )
    version = "MQTT 5" if options.version == 5 else "MQTT 3.1.1, which cannot tell a forbidden topic"
    return f"{where} acknowledged a message in {took_ms:.1f} ms ({version}{', TLS' if options.ca_file else ''})"


class Publisher:
    """Carries the outbox to the broker from one thread of its own. ``start`` once, ``stop`` once.

    Parameters
    ----------
    bank : read for what is pending; rows are removed through its one writer.
    options : where to.
    station : named in the state message; None takes the cell, the last name of the topic root.
    window : messages on their way without a PUBACK, at most; less where the broker asks for less.
    poll_s : how often to look for messages although nobody said that there are any (another process may have stored).
    ack_timeout_s : how long a PUBACK may take before the connection counts as dead.

    Raises ConfigError at once when the password file or the certificates cannot be used. A broker that is away is no
    error: messages wait in the bank, and ``state`` says so.
    """

    def __init__(
        self,
        bank: MemoryBank,
        options: MqttOptions,
        station: str | None = None,
        *,
        window: int = 20,
        poll_s: float = 2.0,
        ack_timeout_s: float = 20.0,
    ) -> None:
        options.check_files()
        self._bank = bank
        self._options = options
        self._station = options.topic_root.rsplit("/", 1)[1] if station is None else station
        self._window = window
        self._poll_s = poll_s
        self._ack_timeout_s = ack_timeout_s
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._stop_at_s: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._announced = ("starting", utc_now())
        self._connected = False
        self._last_error = ""
        self._delivered = self._refused = self._connections = 0
        self._acknowledged: set[int] = set()  # PUBACK is here, the row not yet removed
        bank.listen(self.wake)

    def start(self) -> None:
        """Begin delivering."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Deliver what is pending for at most ``timeout_s``, say offline, and end; True if nothing is left behind.

        What is left stays in the outbox for the next start.
        """
        self._stop_at_s = time.monotonic() + timeout_s
        self._stopping.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout_s + CONNECT_TIMEOUT_S + 1.0)
        if not self._thread.is_alive():
            self._wake_read.close()
            self._wake_write.close()
        return self.state().pending == 0

    def wake(self) -> None:
        """Something was stored. Never blocks; any thread."""
        try:
            self._wake_write.send(b"x")
        except OSError:
            return  # full: it is awake already; closed: nobody is left to wake

    def announce(self, state: str) -> None:
        """Set the retained state message, e.g. ``running``; repeated after every reconnect. Any thread."""
        self._announced = (state, utc_now())
        self.wake()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the login. Touches no disk, unlike ``state``."""
        return self._connected

    def state(self) -> PublisherState:
        """What is going on, for metrics and people; reads the memory bank. Any thread."""
        error = self._last_error
        pending: int | None = None
        oldest_age_s: float | None = None
        try:
            pending, oldest_age_s = self._bank.outbox_state()
        except StorageError as trouble:
            error = str(trouble)
        return PublisherState(
            connected=self._connected,
            pending=pending,
            oldest_age_s=oldest_age_s,
            last_error=error,
            delivered=self._delivered,
            refused=self._refused,
            connections=self._connections,
        )

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        back_off_s = _BACK_OFF_FIRST_S
        while True:
            began_s = time.monotonic()
            longest_s = _BACK_OFF_LONGEST_S
            try:
                self._connect_and_deliver()
            except ConnectionOver as over:
                longest_s = _BACK_OFF_REFUSED_S if over.refused else _BACK_OFF_LONGEST_S
                self._note(str(over))
            except ConfigError as error:
                self._note(str(error))
            except OSError as error:
                self._note(f"cannot reach {self._options.host}:{self._options.port}: {error}")
            except Exception as error:  # noqa: BLE001 - whatever a broker sends must not end delivery for ever
                _log.exception("mqtt: unexpected trouble")
                self._note(f"unexpected trouble: {error!r}")
            else:
                return
            if time.monotonic() - began_s > _STABLE_S:
                back_off_s = _BACK_OFF_FIRST_S
            # Spread, so that many devices do not come back to a restarted broker in the same instant.
            if self._stopping.wait(back_off_s * random.uniform(0.7, 1.0)):  # noqa: S311 - no secret
                return  # the broker is away: what is pending stays for the next start
            back_off_s = min(2 * back_off_s, longest_s)

    def _connect_and_deliver(self) -> None:
        politely = False
        connection = Connection(self._options, self._state_message("offline", None), ack_timeout_s=self._ack_timeout_s)
        try:
            while not connection.accepted:
                if self._out_of_time():
                    raise ConnectionOver("stopped before the broker answered")
                connection.pump(0.2, self._wake_read)
            self._came_back()
            _Delivery(self, connection).serve()
            politely = True
        finally:
            self._connected = False
            connection.close(politely=politely)

    def _next(self, after: int, limit: int, skip: set[int]) -> list[OutboxMessage]:
        """The next messages that are neither on their way nor acknowledged; none while the bank cannot be read."""
        skip = skip | self._acknowledged
        try:
            messages = self._bank.pending(limit + len(skip), after=after)
        except StorageError as error:
            self._note(str(error))
            self._stopping.wait(_STORAGE_PAUSE_S)
            return []
        return [message for message in messages if message.seq not in skip][:limit]

    def _remove_acknowledged(self) -> None:
        if not self._acknowledged:
            return
        try:
            self._bank.delivered(*self._acknowledged)
        except StorageError as error:
            # Delivered but still listed: kept in mind here, so that this process does not send it again.
            self._note(str(error))
            return
        self._delivered += len(self._acknowledged)
        self._acknowledged.clear()

    def _out_of_time(self) -> bool:
        return self._stop_at_s is not None and time.monotonic() > self._stop_at_s

    def _state_message(self, state: str, since_utc: str | None) -> bytes:
        """since_utc is None in the last will: only the broker knows when it sends it."""
        message = {"state": state, "station": self._station, "since_utc": since_utc, "version": __version__}
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()

    # Said once when it goes away, once when it is back.

    def _came_back(self) -> None:
        self._connected = True
        self._connections += 1
        self._last_error = ""
        _log.info("mqtt: connected to %s:%d", self._options.host, self._options.port)

    def _note(self, why: str) -> None:
        if why != self._last_error:
            _log.warning("mqtt: %s; messages wait in the memory bank", why)
        self._last_error = why


class _Delivery:
    """What is on its way over one connection. Lives in the publisher's thread, and no longer than the connection.

    sent: message id -> message without an answer. refused: numbers the broker did not take; while there are any,
    messages go one at a time, the oldest first, after a pause that doubles.
    """

    def __init__(self, publisher: Publisher, connection: Connection) -> None:
        self._publisher = publisher
        self._connection = connection
        self._sent: dict[int, OutboxMessage] = {}
        self._sent_up_to = 0
        self._refused: set[int] = set()
        self._pause_s = 0.0
        self._pause_until_s = 0.0
        self._told = ("", "")

    def serve(self) -> None:
        """Deliver until the publisher is asked to stop and is done, or out of time. Raises ConnectionOver."""
        publisher = self._publisher
        while True:
            self._tell_state()
            self._send()
            if publisher._stopping.is_set() and (publisher._out_of_time() or self._nothing_left()):
                self._say_goodbye()
                return
            self._connection.pump(self._wait_s(), publisher._wake_read)
            self._take_answers()

    def _take_answers(self) -> None:
        publisher, connection = self._publisher, self._connection
        for mid in connection.acked:
            if mid in self._sent:
                seq = self._sent.pop(mid).seq
                publisher._acknowledged.add(seq)
                self._refused.discard(seq)
                if not self._refused:
                    self._pause_s, publisher._last_error = 0.0, ""
        for mid, why in connection.refusals:
            publisher._refused += 1
            message = self._sent.pop(mid, None)
            topic = publisher._options.topic("state") if message is None else message.topic
            publisher._note(f"the broker refuses a message on {topic}: {why}")
            if message is not None:
                self._refused.add(message.seq)
        if self._refused and any(connection.refusals):
            self._pause_s = min(max(2 * self._pause_s, _BACK_OFF_FIRST_S), _BACK_OFF_REFUSED_S)
            self._pause_until_s = time.monotonic() + self._pause_s
            self._sent_up_to = 0
        connection.acked.clear()
        connection.refusals.clear()
        publisher._remove_acknowledged()

    def _tell_state(self) -> None:
        publisher = self._publisher
        if self._told != publisher._announced:
            self._told = publisher._announced
            self._connection.publish(
                publisher._options.topic("state"), publisher._state_message(*self._told), retain=True
            )

    def _send(self) -> None:
        publisher = self._publisher
        window = 1 if self._refused else min(publisher._window, self._connection.window)
        # The state message takes a place too: a broker ends the connection when its receive maximum is exceeded.
        room = window - len(self._connection.in_flight)
        if room <= 0 or (self._refused and time.monotonic() < self._pause_until_s):
            return
        on_the_way = {message.seq for message in self._sent.values()}
        for message in publisher._next(self._sent_up_to, room, on_the_way):
            payload = stamped(message.payload, message.seq, message.age_s)
            self._sent[self._connection.publish(message.topic, payload, retain=False)] = message
            self._sent_up_to = message.seq

    def _wait_s(self) -> float:
        """How long nothing may happen: an answer or a stored record ends the wait at once."""
        longest_s = 0.05 if self._publisher._stopping.is_set() else self._publisher._poll_s
        if self._refused and not self._sent:
            return min(longest_s, max(0.0, self._pause_until_s - time.monotonic()) + 0.001)
        return longest_s

    def _nothing_left(self) -> bool:
        publisher = self._publisher
        return not self._sent and not publisher._acknowledged and not publisher._next(0, 1, set())

    def _say_goodbye(self) -> None:
        """Replace the retained state by offline, and give its PUBACK one second."""
        publisher, connection = self._publisher, self._connection
        offline = connection.publish(
            publisher._options.topic("state"), publisher._state_message("offline", utc_now()), retain=True
        )
        give_up_s = time.monotonic() + 1.0
        while offline in connection.in_flight and time.monotonic() < give_up_s:
            connection.pump(0.05, publisher._wake_read)
            self._take_answers()
