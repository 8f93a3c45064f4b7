"""Sparkplug B against a real broker, judged by the specification's rules with a decoder that is not the product's."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_daemon.errors import ConfigError, StorageError, UsageError
from edge_daemon.memory import MemoryBank
from edge_daemon.mqtt import MqttOptions
from edge_daemon.publish import Publisher, result_payload
from edge_daemon.records import Outcome, Record
from edge_daemon.sparkplug import DataType, Metric, decode, encode
from edge_daemon.sparkplug_node import METRICS, SparkplugNode, SparkplugOptions
from edge_daemon.testing.broker import Broker
from edge_daemon.tickets import Ticket, new_record_id, utc_now

ROOT = "acme/york/cast/line1/xray"
needs_broker = pytest.mark.needs("mosquitto", "mosquitto_sub")


# ---- a decoder of its own ------------------------------------------------------------------------------------------


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 0x80:
            return value, at


def fields(data: bytes) -> list[tuple[int, int, Any]]:
    """(number, wire type, value) of a protobuf message."""
    found, at = [], 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 1:
            value, at = data[at : at + 8], at + 8
        elif wire == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        elif wire == 5:
            value, at = data[at : at + 4], at + 4
        else:
            raise AssertionError(f"wire type {wire}")
        found.append((number, wire, value))
    return found


def read_metric(data: bytes) -> dict[str, Any]:
    names = {1: "name", 2: "alias", 3: "timestamp", 4: "datatype", 5: "historical", 7: "null"}
    metric: dict[str, Any] = {"value": None}
    for number, _, value in fields(data):
        if number in names:
            metric[names[number]] = value.decode() if number == 1 else value
        elif number == 13:
            metric["value"] = struct.unpack("<d", value)[0]
        elif number == 14:
            metric["value"] = bool(value)
        elif number == 15:
            metric["value"] = value.decode()
        elif number in (10, 11):
            metric["value"] = value
        else:
            raise AssertionError(f"field {number} of a metric")
    return metric


def read_payload(data: bytes) -> dict[str, Any]:
    payload: dict[str, Any] = {"metrics": []}
    for number, _, value in fields(data):
        if number == 2:
            payload["metrics"].append(read_metric(value))
        else:
            payload[{1: "timestamp", 3: "seq"}[number]] = value
    return payload


def write_command(name: str, value: bool) -> bytes:
    """An NCMD with one Boolean metric, by hand."""
    metric = b"\x0a" + bytes([len(name)]) + name.encode() + b"\x20\x0b" + b"\x70" + bytes([value])
    return b"\x08\x01" + b"\x12" + bytes([len(metric)]) + metric


# ---- a host application that knows the rules -----------------------------------------------------------------------


@dataclass
class Host:
    """What a SCADA host makes of the messages; every broken rule is an assertion."""

    aliases: dict[int, str] = field(default_factory=dict)
    alive: bool = False
    device: bool = False
    seq: int = -1
    bd_seq: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    parts: list[tuple[str, bool]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def take(self, topic: str, qos: int, retained: bool, data: bytes) -> None:
        space, group, kind, node, *device = topic.split("/")
        assert (space, group, node) == ("spBv1.0", "acme", "cell-1")
        if kind == "NCMD":
            return
        payload = read_payload(data)
        self.kinds.append(kind)
        assert not retained and abs(payload["timestamp"] / 1000 - time.time()) < 60
        assert device == (["inspection"] if kind[0] == "D" else [])
        if kind == "NDEATH":
            (metric,) = payload["metrics"]
            assert "seq" not in payload and qos == 1
            assert metric["name"] == "bdSeq" and metric["value"] == self.bd_seq[-1]
            self.alive = self.device = False
            return
        assert qos == 0
        if kind == "NBIRTH":
            assert payload["seq"] == 0
            by_name = {metric["name"]: metric for metric in payload["metrics"]}
            assert by_name["bdSeq"]["datatype"] == 4 and 0 <= by_name["bdSeq"]["value"] <= 255
            rebirth = by_name["Node Control/Rebirth"]
            assert (rebirth["datatype"], rebirth["value"], "alias" in rebirth) == (11, False, False)
            assert all("timestamp" in one and "datatype" in one for one in payload["metrics"])
            if self.alive:
                assert by_name["bdSeq"]["value"] == self.bd_seq[-1], "a rebirth keeps its bdSeq"
            self.bd_seq.append(by_name["bdSeq"]["value"])
            self.alive, self.device, self.seq, self.aliases = True, False, 0, {}
            return
        assert self.alive, f"{kind} before NBIRTH"
        self.seq = (self.seq + 1) % 256
        assert payload["seq"] == self.seq
        if kind == "DBIRTH":
            assert not self.device
            for metric in payload["metrics"]:
                assert metric["alias"] not in self.aliases and "timestamp" in metric and "datatype" in metric
                assert ("null" in metric) == (metric["value"] is None)
                self.aliases[metric["alias"]] = metric["name"]
                self.values[metric["name"]] = metric["value"]
            assert len(self.aliases) == len(METRICS)
            self.device = True
        elif kind == "DDEATH":
            assert self.device and payload["metrics"] == []
            self.device, self.aliases = False, {}
        else:
            assert kind == "DDATA" and self.device
            assert all("name" not in one and "timestamp" in one for one in payload["metrics"])
            told = {self.aliases[one["alias"]]: one for one in payload["metrics"]}
            history = {one.get("historical", 0) for one in payload["metrics"]}
            assert len(history) == 1
            if "Part/Record Id" in told:
                self.parts.append((told["Part/Record Id"]["value"], bool(history.pop())))
            if not any(one.get("historical") for one in told.values()):
                self.values.update({name: one["value"] for name, one in told.items()})


class Subscriber:
    """``mosquitto_sub`` with a session that outlives the broker; a rule that is broken is kept in ``broken``."""

    def __init__(self, broker: Broker) -> None:
        self.host, self.broken = Host(), ""
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-c",
             "-i", "scada", "-t", "spBv1.0/#", "-d", "-F", "MESSAGE %t %q %r %x"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.subscribed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.subscribed.wait(10)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "SUBACK" in line:
                self.subscribed.set()
            if line.startswith("MESSAGE ") and not self.broken:
                _, topic, qos, retained, *text = line.split()
                try:
                    self.host.take(topic, int(qos), retained == "1", bytes.fromhex("".join(text)))
                except Exception as error:  # noqa: BLE001 - whatever does not fit is a broken rule
                    self.broken = f"{topic}: {error!r} after {self.host.kinds[-5:]}"

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(5)
        self._thread.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert not self.broken


@contextlib.contextmanager
def listening(broker: Broker) -> Iterator[Host]:
    subscriber = Subscriber(broker)
    try:
        yield subscriber.host
    finally:
        subscriber.close()


def until(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        if condition():
            return
        time.sleep(0.02)
    pytest.fail(f"did not happen within {timeout_s} s")


def store(bank: MemoryBank, part_id: int) -> str:
    types = [{"type": "crack", "outcome": Outcome.FAIL, "severity": 4.5}]
    document = {"types": types, "message": "I was not trained on this type of defect", "reasons": [], "recipe": "r"}
    record = Record(new_record_id(), part_id, "cell-1", utc_now(), Outcome.FAIL, "FAIL", document)
    now_ns = time.monotonic_ns()
    bank.open_ticket(Ticket(record.record_id, part_id, now_ns, now_ns, record.trigger_utc), record.station)
    assert bank.store(record, f"{ROOT}/inspection/result", result_payload(record))
    return record.record_id


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[MemoryBank]:
    with MemoryBank(tmp_path / "memory.db") as opened:
        yield opened


@pytest.fixture(params=[5, 311])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    with Broker(
        kind="mosquitto", mqtt_version=request.param, settings=["allow_anonymous true", "queue_qos0_messages true"]
    ) as running:
        yield running


def node(bank: MemoryBank, broker: Broker) -> SparkplugNode:
    mqtt = MqttOptions(host=broker.host, port=broker.port, topic_root=ROOT, version=broker.mqtt_version)
    ids = SparkplugOptions("acme", "cell-1", "inspection", bank.path.with_name("memory-sparkplug.json"))
    return SparkplugNode(bank, mqtt, ids)


def request_rebirth(broker: Broker, value: bool = True, *, retain: bool = False) -> None:
    subprocess.run(
        ["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-t", "spBv1.0/acme/NCMD/cell-1", "-s",
         *(["-r"] if retain else [])], input=write_command("Node Control/Rebirth", value), check=True,
    )  # fmt: skip


@needs_broker
def test_birth_data_rebirth_and_death_by_the_rules(bank: MemoryBank, broker: Broker) -> None:
    store(bank, 0)  # before this node ever was: not its business
    with listening(broker) as host:
        one = node(bank, broker)
        one.ready([])
        one.device(True)
        one.start()
        until(lambda: host.device)
        assert host.values["Ready"] is True and host.values["Part/Result"] is None
        ids = [store(bank, n) for n in range(1, 301)]
        until(lambda: len(host.parts) == 300)
        assert host.parts == [(one, False) for one in ids], "once, in order, live; seq went round"
        assert host.values["Part/Severity"] == 4.5 and host.values["Part/Id"] == 300
        assert host.values["Part/Message"] == "I was not trained on this type of defect"
        one.ready(["PAUSED", "DISK_FULL"])
        until(lambda: host.values["Not Ready Reasons"] == "PAUSED,DISK_FULL")
        assert host.values["Ready"] is False
        time.sleep(1.0)  # a rebirth within a second of the birth waits for it
        request_rebirth(broker, False)
        request_rebirth(broker, retain=False)
        until(lambda: host.kinds.count("NBIRTH") == 2)
        until(lambda: host.device)
        assert host.values["Part/Record Id"] == ids[-1], "the birth tells the last values"
        assert host.bd_seq == [0, 0]
        one.device(False)
        until(lambda: host.kinds[-1] == "DDEATH")
        late = store(bank, 301)
        one.device(True)
        until(lambda: host.parts[-1] == (late, True))
        one.stop()
        until(lambda: host.kinds[-2:] == ["DDEATH", "NDEATH"])


@needs_broker
def test_a_storm_of_rebirths_and_nonsense_is_answered_once_a_second(bank: MemoryBank, broker: Broker) -> None:
    with listening(broker) as host:
        one = node(bank, broker)
        one.device(True)
        one.start()
        until(lambda: host.device)
        time.sleep(1.0)
        began_s = time.monotonic()
        for _ in range(8):
            request_rebirth(broker)
        for junk in (b"\xff" * 40, b"\x12\x05\x0a\x20abc", b"A" * 70_000):
            subprocess.run(["mosquitto_pub", "-h", broker.host, "-p", str(broker.port), "-s",
                            "-t", "spBv1.0/acme/NCMD/cell-1"], input=junk, check=True)  # fmt: skip
        record = store(bank, 1)
        until(lambda: (record, False) in host.parts or (record, True) in host.parts)
        assert host.kinds.count("NBIRTH") <= 2 + (time.monotonic() - began_s)
        assert one.connected
        one.stop()


@needs_broker
def test_nothing_is_lost_across_a_broker_restart_and_what_is_late_is_history(bank: MemoryBank, broker: Broker) -> None:
    with listening(broker) as host:
        one = node(bank, broker)
        one.device(True)
        one.start()
        until(lambda: host.device)
        before = [store(bank, n) for n in range(20)]
        until(lambda: len(host.parts) == 20)
        broker.stop()
        until(lambda: not one.connected)
        late = [store(bank, n) for n in range(20, 40)]
        broker.start()
        until(lambda: {name for name, _ in host.parts} == {*before, *late})
        assert all(historical for name, historical in host.parts if name in late)
        assert host.bd_seq[-1] > host.bd_seq[0]
        live = store(bank, 40)
        until(lambda: host.parts[-1] == (live, False))
        one.stop()
        until(lambda: not host.alive)
    state = node(bank, broker)
    assert state._confirmed >= bank.get(before[-1]).number  # type: ignore[union-attr]
    state.stop()


@needs_broker
def test_a_node_that_dies_comes_back_with_the_next_number(bank: MemoryBank, broker: Broker) -> None:
    """The socket goes away without a word, as with kill -9; the broker says NDEATH, the next node knows what is new."""
    with listening(broker) as host:
        first = node(bank, broker)
        first.device(True)
        first.start()
        until(lambda: host.device)
        known = [store(bank, n) for n in range(5)]
        until(lambda: len(host.parts) == 5)
        time.sleep(1.2)  # the broker's answer that it has them all
        first._say_goodbye = lambda connection: (_ for _ in ()).throw(OSError("killed"))  # type: ignore[method-assign]
        first._stopping.set()
        first.wake()
        until(lambda: host.kinds[-1] == "NDEATH")
        missed = [store(bank, n) for n in range(5, 9)]
        second = node(bank, broker)
        second.device(True)
        second.start()
        until(lambda: len(host.parts) >= 9)
        second.stop()
        assert host.bd_seq == [0, 1]
        assert [name for name, _ in host.parts] == known + missed
        assert all(historical for name, historical in host.parts if name in missed)
        first.stop()


@needs_broker
def test_the_plain_topics_do_not_wait_for_it(bank: MemoryBank, broker: Broker, tmp_path: Path) -> None:
    """A node that cannot store its state says so; results are delivered all the same."""
    one = node(bank, broker)
    one._write_state = lambda: (_ for _ in ()).throw(StorageError("no room"))  # type: ignore[method-assign]
    one.start()
    mqtt = MqttOptions(host=broker.host, port=broker.port, topic_root=ROOT, version=broker.mqtt_version)
    publisher = Publisher(bank, mqtt, "cell-1")
    publisher.start()
    try:
        for n in range(50):
            store(bank, n)
        until(lambda: publisher.state().delivered == 50)
        assert one.last_error == "no room"
    finally:
        publisher.stop()
        one.stop()


def test_payloads_are_read_as_they_were_written() -> None:
    metrics = [
        Metric("a", DataType.INT64, -5, 1, alias=7), Metric(None, DataType.STRING, "x" * 300, 2, alias=2**40),
        Metric("n", DataType.DOUBLE, None, 3), Metric("d", DataType.DOUBLE, float("nan"), 3, historical=True),
        Metric("b", DataType.BOOLEAN, True, 4), Metric("u", DataType.UINT64, 2**63, 5),
    ]  # fmt: skip
    data = encode(metrics, timestamp_ms=99, seq=255)
    read = decode(data)
    assert (read.timestamp_ms, read.seq) == (99, 255)
    assert [one.value for one in read.metrics] == [-5, "x" * 300, None, None, True, 2**63]
    by_hand = read_payload(data)
    assert by_hand["metrics"][0]["value"] == 2**64 - 5 and by_hand["metrics"][3]["historical"] == 1
    assert [one.get("alias") for one in by_hand["metrics"]] == [7, 2**40, None, None, None, None]
    for junk in (b"\xff", b"\x12\x05\x0a", b"x" * 100_000):
        with pytest.raises(UsageError):
            decode(junk)


@pytest.mark.parametrize(("key", "value"), [("group", "a/b"), ("node", "+"), ("device", ""), ("group", "x" * 101)])
def test_ids_that_topics_cannot_hold_are_refused(key: str, value: str, tmp_path: Path) -> None:
    ids = {"group": "g", "node": "n", "device": "d", key: value}
    with pytest.raises(ConfigError, match=f"sparkplug.{key}"):
        SparkplugOptions(**ids, state_file=tmp_path / "s.json")


def test_a_state_file_that_cannot_be_read_is_said(bank: MemoryBank, tmp_path: Path) -> None:
    ids = SparkplugOptions("g", "n", "d", tmp_path / "s.json")
    ids.state_file.write_text("{}")
    with pytest.raises(StorageError, match=r"s\.json cannot be used"):
        SparkplugNode(bank, MqttOptions(host="127.0.0.1", topic_root=ROOT), ids)
