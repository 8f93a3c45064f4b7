"""The station as a Sparkplug B edge node beside the plain topics: births, deaths, data, and rebirth on request.

    spBv1.0/{group}/NBIRTH/{node}            who we are; seq 0, bdSeq as in the will
    spBv1.0/{group}/DBIRTH/{node}/{device}   every metric with name, alias, type and value
    spBv1.0/{group}/DDATA/{node}/{device}    what changed, by alias; one message a record
    spBv1.0/{group}/DDEATH/{node}/{device}   the line process or its serial port is gone: no part can be decided
    spBv1.0/{group}/NDEATH/{node}            the last will, or said at a clean stop
    spBv1.0/{group}/NCMD/{node}              heard: ``Node Control/Rebirth``

The specification wants data at QoS 0, of which no broker says that it came. So what was sent counts as sent only when
the broker has answered a subscription made after it (a broker works in order); until then it is sent again after a
reconnect. A SCADA system therefore sees a record at least once and tells a repetition by its Record Id. The records
come from the memory bank itself, by number; the outbox and its connection are not touched. What happened before the
last birth, or more than a few seconds ago, is flagged historical.

Not covered: primary host applications (STATE), templates, writing to metrics.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from . import __version__
from .errors import ConfigError, StorageError, UsageError
from .memory import MemoryBank, StoredRecord
from .mqtt import Connection, MqttOptions
from .mqtt_thread import MqttThread
from .segment.sealed import write_atomically
from .sparkplug import MAX_PAYLOAD_BYTES, DataType, Metric, Value, decode, encode, require_protobuf

__all__ = ["METRICS", "SparkplugNode", "SparkplugOptions"]

REBIRTH = "Node Control/Rebirth"

_LATE_S = 5.0  # a record that is sent later than this after its trigger is history
_BATCH = 50
_MOST_UNCONFIRMED = 200
_CONFIRM_S = 0.5  # how often the broker is asked whether it has everything
_REBIRTH_S = 1.0  # a storm of requests is answered once a second
_POLL_S = 2.0

#: Metrics of the device in the order of their aliases (from 1): name, type. Record Id to Message change with each part.
METRICS: tuple[tuple[str, int], ...] = (
    ("Ready", DataType.BOOLEAN),
    ("Not Ready Reasons", DataType.STRING),
    ("Part/Record Id", DataType.STRING),
    ("Part/Id", DataType.UINT64),
    ("Part/Trigger Time", DataType.DATE_TIME),
    ("Part/Result", DataType.STRING),
    ("Part/Outcome", DataType.STRING),
    ("Part/Reasons", DataType.STRING),
    ("Part/Types", DataType.STRING),
    ("Part/Severity", DataType.DOUBLE),
    ("Part/Advisory", DataType.BOOLEAN),
    ("Part/Recipe", DataType.STRING),
    ("Part/Message", DataType.STRING),
)
_ALIAS = {name: number for number, (name, _) in enumerate(METRICS, start=1)}
_TYPE = dict(METRICS)


@dataclass(frozen=True, slots=True)
class SparkplugOptions:
    """The ids of the topics. state_file: keeps bdSeq and the last confirmed record. ConfigError names the key."""

    group: str
    node: str
    device: str
    state_file: Path

    def __post_init__(self) -> None:
        for key in ("group", "node", "device"):
            value = getattr(self, key)
            if not value or any(letter in value for letter in "/+#\0") or len(value) > 100:
                raise ConfigError(
                    f"sparkplug.{key} = {value!r} is no Sparkplug id", hint="up to 100 characters, none of / + #"
                )
        require_protobuf()

    def topic(self, kind: str) -> str:
        """The topic of NBIRTH, NDEATH, NCMD (of the node) or DBIRTH, DDATA, DDEATH (of the device)."""
        tail = f"/{self.device}" if kind[0] == "D" else ""
        return f"spBv1.0/{self.group}/{kind}/{self.node}{tail}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _part_values(record: StoredRecord) -> dict[str, Value]:
    document = record.document
    severities = [entry.get("severity") for entry in document.get("types", ())]
    known = [float(one) for one in severities if isinstance(one, int | float)]
    return {
        "Part/Record Id": record.record_id,
        "Part/Id": record.part_id,
        "Part/Trigger Time": _utc_ms(record.trigger_utc),
        "Part/Result": record.result,
        "Part/Outcome": str(record.outcome),
        "Part/Reasons": ",".join(record.reasons),
        "Part/Types": ",".join(record.types),
        "Part/Severity": max(known) if known else None,
        "Part/Advisory": record.advisory,
        "Part/Recipe": record.recipe,
        "Part/Message": document.get("message"),
    }


def _utc_ms(text: str) -> int:
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


class SparkplugNode(MqttThread):
    """``start`` once, ``stop`` once; ``ready`` and ``device`` whenever that changes.

    Raises StorageError where its state file cannot be used.
    """

    def __init__(self, bank: MemoryBank, mqtt: MqttOptions, options: SparkplugOptions) -> None:
        self._bank, self._ids = bank, options
        self._bd_seq, self._confirmed = self._read_state()
        super().__init__("sparkplug", mqtt)
        self._seq = 0
        self._born_at_s = 0.0
        self._born_number = 0
        self._device_wanted = self._device_alive = False
        self._reasons: tuple[str, ...] = ("STARTING",)
        self._told_reasons: tuple[str, ...] = ()
        self._values: dict[str, Value] = dict.fromkeys(_TYPE)
        self._sent_up_to = self._confirmed
        bank.listen(self.wake)

    def ready(self, reasons: list[str]) -> None:
        """Whether the gate may open; empty reasons: it may. Any thread."""
        self._reasons = tuple(reasons)
        self.wake()

    def device(self, alive: bool) -> None:
        """Whether parts can be decided at all (line process and serial port are there). Any thread."""
        if alive != self._device_wanted:
            self._device_wanted = alive
            self.wake()

    # ---------------------------------------------------------------- what outlives a kill

    def _read_state(self) -> tuple[int, int]:
        """bdSeq of the last connection (-1: none yet) and number of the last record that the broker surely has."""
        try:
            document = json.loads(self._ids.state_file.read_text(encoding="utf-8"))
            return int(document["bd_seq"]) % 256, int(document["confirmed"])
        except FileNotFoundError:
            newest = self._bank.history(limit=1)
            return -1, newest[0].number if newest else 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{self._ids.state_file} cannot be used: {error}", hint="remove it: what was stored so far is not sent"
            ) from None

    def _write_state(self) -> None:
        document = {"bd_seq": self._bd_seq, "confirmed": self._confirmed}
        write_atomically(self._ids.state_file, (json.dumps(document) + "\n").encode())

    # ---------------------------------------------------------------- one connection

    def _open(self) -> Connection:
        self._bd_seq = (self._bd_seq + 1) % 256
        self._write_state()  # before the will with it exists, so that no later session has the same
        client_id = self._options.client_id or "edge-daemon-" + self._options.topic_root.replace("/", "-")
        return Connection(
            self._options, self._death(), will_topic=self._ids.topic("NDEATH"), ack_timeout_s=20.0,
            client_id=f"{client_id}-sparkplug", receive_bytes=MAX_PAYLOAD_BYTES,
        )  # fmt: skip

    def _death(self) -> bytes:
        return encode([self._bd_seq_metric()], timestamp_ms=_now_ms(), seq=None)

    def _bd_seq_metric(self) -> Metric:
        return Metric("bdSeq", DataType.INT64, self._bd_seq, _now_ms())

    def _serve(self, connection: Connection) -> None:
        self._sent_up_to = self._confirmed
        self._ask(connection)
        while not connection.subscribed:
            connection.pump(0.2, self._wake_read)
        connection.subscribed.clear()
        self._birth(connection)
        asked: tuple[int, int] | None = None  # (id, number up to which everything was sent before it)
        asked_at_s = 0.0
        while True:
            self._listen(connection)
            self._follow_device(connection)
            more = self._device_alive and self._send(connection)
            if asked is not None and asked[0] in connection.subscribed:
                self._confirmed, asked = asked[1], None
                self._write_state()
            connection.subscribed.clear()
            now_s = time.monotonic()
            if asked is None and self._sent_up_to > self._confirmed and now_s - asked_at_s >= _CONFIRM_S:
                asked, asked_at_s = (self._ask(connection), self._sent_up_to), now_s
            if self._stopping.is_set():
                self._say_goodbye(connection)
                return
            waiting = self._sent_up_to > self._confirmed
            connection.pump(0.0 if more else 0.1 if waiting else _POLL_S, self._wake_read)

    def _ask(self, connection: Connection) -> int:
        """Subscribe to commands (again): the answer also says that everything sent so far has arrived."""
        return connection.subscribe(self._ids.topic("NCMD"))

    def _listen(self, connection: Connection) -> None:
        """Answer requests for a rebirth; several at once, or within a second, are one."""
        asked = False
        for topic, payload, retained in connection.received:
            if retained or topic != self._ids.topic("NCMD"):
                continue  # a command that was kept is an old one
            try:
                heard = decode(payload)
            except UsageError as error:
                self._note(f"a command makes no sense: {error.message}")
                continue
            asked |= any(one.name == REBIRTH and one.value is True for one in heard.metrics)
        if asked and time.monotonic() - self._born_at_s < _REBIRTH_S:
            return  # left in ``received`` for the next round
        connection.received.clear()
        if asked:
            self._birth(connection)

    # ---------------------------------------------------------------- what is said

    def _say(self, connection: Connection, kind: str, metrics: list[Metric]) -> None:
        self._seq = 0 if kind == "NBIRTH" else (self._seq + 1) % 256
        connection.send(self._ids.topic(kind), encode(metrics, timestamp_ms=_now_ms(), seq=self._seq))

    def _birth(self, connection: Connection) -> None:
        now_ms = _now_ms()
        newest = self._bank.history(limit=1)
        self._born_number = newest[0].number if newest else 0
        self._born_at_s = time.monotonic()
        self._say(connection, "NBIRTH", [
            self._bd_seq_metric(),
            Metric(REBIRTH, DataType.BOOLEAN, False, now_ms),
            Metric("Properties/Product", DataType.STRING, "edge-daemon", now_ms),
            Metric("Properties/Version", DataType.STRING, __version__, now_ms),
        ])  # fmt: skip
        self._device_alive = False
        self._follow_device(connection)

    def _follow_device(self, connection: Connection) -> None:
        """Birth and death of the device; between them, readiness when it changes."""
        if self._device_alive and not self._device_wanted:
            self._say(connection, "DDEATH", [])
            self._device_alive = False
        elif self._device_wanted and not self._device_alive:
            newest = self._bank.history(limit=1)
            self._born_number = newest[0].number if newest else 0
            self._remember_ready()
            self._say(connection, "DBIRTH", [self._metric(name, with_name=True) for name in _TYPE])
            self._device_alive = True
        elif self._device_alive and self._told_reasons != self._reasons:
            self._remember_ready()
            self._say(connection, "DDATA", [self._metric("Ready"), self._metric("Not Ready Reasons")])

    def _remember_ready(self) -> None:
        self._told_reasons = self._reasons
        self._values["Ready"] = not self._told_reasons
        self._values["Not Ready Reasons"] = ",".join(self._told_reasons)

    def _metric(self, name: str, *, with_name: bool = False) -> Metric:
        metric = Metric(None, _TYPE[name], self._values[name], _now_ms(), _ALIAS[name])
        return replace(metric, name=name) if with_name else metric

    def _send(self, connection: Connection) -> bool:
        """The next records, each a DDATA; True when there may be more."""
        if self._sent_up_to - self._confirmed > _MOST_UNCONFIRMED:
            return False
        try:
            records = self._bank.after(self._sent_up_to, limit=_BATCH)
        except StorageError as error:
            self._note(str(error))
            return False
        for record in records:
            values, at_ms = _part_values(record), _utc_ms(record.trigger_utc)
            historical = record.number <= self._born_number or _now_ms() - at_ms > 1000 * _LATE_S
            metrics = [
                Metric(None, _TYPE[name], value, at_ms, _ALIAS[name], historical) for name, value in values.items()
            ]
            self._say(connection, "DDATA", metrics)
            if not historical:
                self._values.update(values)
            self._sent_up_to = record.number
        return len(records) == _BATCH

    def _say_goodbye(self, connection: Connection) -> None:
        """DDEATH and NDEATH before the disconnect, because a polite one keeps the broker from sending the will."""
        if self._device_alive:
            self._say(connection, "DDEATH", [])
        mid = connection.publish(self._ids.topic("NDEATH"), self._death(), retain=False, content="")
        give_up_s = time.monotonic() + 1.0
        while mid in connection.in_flight and time.monotonic() < give_up_s:
            connection.pump(0.05, self._wake_read)
