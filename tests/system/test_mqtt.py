"""Delivery against a real broker, received by a process that is not ours (mosquitto_sub)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import edge_daemon
from edge_daemon.errors import ConfigError, OutputError, StorageError
from edge_daemon.memory import MemoryBank
from edge_daemon.publish import MqttOptions, Publisher, probe, result_payload, stamped
from edge_daemon.records import Outcome, Record
from edge_daemon.testing.broker import Broker, broker_kinds
from edge_daemon.tickets import Ticket, new_record_id, utc_now

ROOT = "acme/york/cast/line1/xray"
RESULT, STATE = f"{ROOT}/inspection/result", f"{ROOT}/inspection/state"
PACKAGE = Path(edge_daemon.__file__).parent
needs_broker = pytest.mark.needs("mosquitto", "mosquitto_sub")


def make_record(part_id: int = 1, outcome: Outcome = Outcome.PASS, **document: Any) -> Record:
    return Record(new_record_id(), part_id, "cell-1", utc_now(), outcome, outcome.result, document)


def store(bank: MemoryBank, part_id: int, age_s: float = 0.0) -> str:
    record = make_record(part_id)
    event_ns = time.monotonic_ns() - round(age_s * 1e9)
    bank.open_ticket(Ticket(record.record_id, part_id, event_ns, event_ns, record.trigger_utc), record.station)
    assert bank.store(record, RESULT, result_payload(record))
    return record.record_id


def until(condition: Callable[[], Any], timeout_s: float = 15.0) -> Any:
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"did not happen within {timeout_s} s")


class Subscriber:
    """``mosquitto_sub`` as a process; every line it prints, as it comes."""

    def __init__(self, broker: Broker, topic: str = RESULT, *extra: str) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-q", "1", "-t", topic, "-d",
             "-V", str(broker.mqtt_version), "-F", "MESSAGE %r %t %p", *extra],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        until(lambda: any("SUBACK" in line for line in self.lines))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        heard = [line.split(" ", 3) for line in list(self.lines) if line.startswith("MESSAGE ")]
        return [{"retained": retain == "1", "topic": topic, **json.loads(body)} for _, retain, topic, body in heard]

    @property
    def ids(self) -> list[str]:
        return [message["record_id"] for message in self.messages]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(5)
        self._thread.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def listening(broker: Broker, topic: str = RESULT, *extra: str) -> Iterator[Subscriber]:
    subscriber = Subscriber(broker, topic, *extra)
    try:
        yield subscriber
    finally:
        subscriber.close()


def options(broker: Broker, **more: Any) -> MqttOptions:
    return MqttOptions(host=broker.host, port=broker.port, topic_root=ROOT, version=broker.mqtt_version, **more)


@contextlib.contextmanager
def publishing(bank: MemoryBank, where: MqttOptions, **more: Any) -> Iterator[Publisher]:
    publisher = Publisher(bank, where, "cell-1", **more)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.stop(timeout_s=0.2)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[MemoryBank]:
    with MemoryBank(tmp_path / "memory.sqlite", busy_timeout_s=0.2) as opened:
        yield opened


@pytest.fixture(params=[5, 311])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    with Broker(kind="mosquitto", mqtt_version=request.param) as running:
        yield running


@needs_broker
def test_every_record_arrives_once_in_order_and_leaves_the_outbox(bank: MemoryBank, broker: Broker) -> None:
    with listening(broker) as heard, publishing(bank, options(broker)) as publisher:
        ids = [store(bank, n) for n in range(100)]
        until(lambda: len(heard.messages) >= 100)
        assert heard.ids == ids
        assert [m["seq"] for m in heard.messages] == list(range(1, 101))
        assert not any(m["retained"] for m in heard.messages)
        until(lambda: publisher.state().delivered == 100)
        state = publisher.state()
        assert (state.connected, state.pending, state.oldest_age_s, state.last_error) == (True, 0, 0.0, "")


@needs_broker
def test_a_stored_record_wakes_the_publisher(bank: MemoryBank, broker: Broker) -> None:
    with listening(broker) as heard, publishing(bank, options(broker), poll_s=60.0) as publisher:
        until(lambda: publisher.state().connected)
        time.sleep(0.3)
        store(bank, 1)
        until(lambda: heard.messages, timeout_s=2.0)


@needs_broker
def test_a_record_from_another_process_is_found_by_polling(bank: MemoryBank, broker: Broker) -> None:
    with listening(broker) as heard, publishing(bank, options(broker), poll_s=0.2) as publisher:
        until(lambda: publisher.state().connected)
        with MemoryBank(bank.path) as other:
            record_id = store(other, 1)
        until(lambda: heard.ids == [record_id], timeout_s=3.0)


@needs_broker
def test_a_late_result_is_not_retained_for_newcomers(bank: MemoryBank, broker: Broker) -> None:
    with publishing(bank, options(broker)) as publisher:
        store(bank, 1)
        until(lambda: publisher.state().delivered == 1)
        with listening(broker, f"{ROOT}/#") as heard:
            until(lambda: heard.messages)
            assert [(m["topic"], m["retained"]) for m in heard.messages] == [(STATE, True)]


@needs_broker
def test_broker_down_then_up_loses_nothing_and_says_how_old(bank: MemoryBank, broker: Broker) -> None:
    # A durable subscriber, so that the broker keeps for it what comes before it is back itself.
    durable = ["-c", "-i", "ear", *(["-x", "3600"] if broker.mqtt_version == 5 else [])]
    with listening(broker, RESULT, *durable) as heard, publishing(bank, options(broker)) as publisher:
        ids = [store(bank, n) for n in range(10)]
        until(lambda: publisher.state().delivered == 10 and len(heard.ids) == 10)
        broker.stop()
        until(lambda: not publisher.state().connected)
        ids += [store(bank, n, age_s=120.0) for n in range(10, 60)]
        down = until(lambda: publisher.state() if "cannot reach" in publisher.state().last_error else None)
        assert down.pending == 50
        assert down.oldest_age_s == pytest.approx(120.0, abs=5.0)
        broker.start()
        ids += [store(bank, n) for n in range(60, 70)]
        until(lambda: publisher.state().connected and publisher.state().pending == 0)
        until(lambda: len(set(heard.ids)) >= 70)
        # The broker may repeat to its durable subscriber what that one had not confirmed: count by id, as consumers do.
        ages = {message["record_id"]: message["age_s"] for message in heard.messages}
        assert list(ages) == ids, "exactly once by id, in order, nothing left out"
        ages_s = list(ages.values())
        assert all(age_s == pytest.approx(120.0, abs=15.0) for age_s in ages_s[10:60])
        assert max(ages_s[:10] + ages_s[60:]) < 15.0, "old and new are told apart"
        state = publisher.state()
        assert (state.delivered, state.connections, state.last_error) == (70, 2, "")


@needs_broker
def test_a_backlog_from_before_the_start_is_delivered_first(bank: MemoryBank, broker: Broker) -> None:
    ids = [store(bank, n, age_s=600.0) for n in range(120)]
    with listening(broker) as heard, publishing(bank, options(broker)):
        ids.append(store(bank, 120))
        until(lambda: len(heard.messages) >= 121)
        assert heard.ids == ids
        ages_s = [m["age_s"] for m in heard.messages]
        assert all(age_s == pytest.approx(600.0, abs=15.0) for age_s in ages_s[:120])
        assert ages_s[120] < 15.0, "old and new are told apart"


@needs_broker
@pytest.mark.parametrize("broker", [5], indirect=True)
def test_a_broker_that_hangs_counts_as_gone(bank: MemoryBank, broker: Broker) -> None:
    with publishing(bank, options(broker, keepalive_s=2), ack_timeout_s=1.0) as publisher, listening(broker) as heard:
        until(lambda: publisher.state().connected)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            ids = [store(bank, n) for n in range(3)]
            until(lambda: "not acknowledged" in publisher.state().last_error)
            assert publisher.state().pending == 3
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        until(lambda: publisher.state().pending == 0)
        until(lambda: set(heard.ids) == set(ids))
        first_time = list(dict.fromkeys(heard.ids))
        assert first_time == ids, "sent again, but in order"


_PUBLISHING_CHILD = """
import sys, time
from edge_daemon.memory import MemoryBank
from edge_daemon.publish import MqttOptions, Publisher, result_payload
from edge_daemon.records import Outcome, Record
from edge_daemon.tickets import new_record_id, utc_now
bank = MemoryBank({path!r})
publisher = Publisher(bank, MqttOptions(host={host!r}, port={port}, topic_root={root!r}, version={version}), "cell-1")
publisher.start()
while True:
    record = Record(new_record_id(), 1, "cell-1", utc_now(), Outcome.PASS, "PASS", {{}})
    bank.store(record, {topic!r}, result_payload(record))
    print(record.record_id, flush=True)
    time.sleep(0.003)
"""


@needs_broker
def test_sigkill_of_the_publishing_process(tmp_path: Path, broker: Broker) -> None:
    """Killed four times in the middle of it: every stored record arrives, and exactly one remains of each id."""
    path = tmp_path / "memory.sqlite"
    script = textwrap.dedent(_PUBLISHING_CHILD).format(
        path=str(path), host=broker.host, port=broker.port, root=ROOT, version=broker.mqtt_version, topic=RESULT
    )
    stored: list[str] = []
    with listening(broker) as heard:
        for _ in range(4):
            child = subprocess.Popen(
                [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
            )  # fmt: skip
            assert child.stdout is not None
            stored += [child.stdout.readline().strip() for _ in range(30)]
            os.kill(child.pid, signal.SIGKILL)
            stored += [line.strip() for line in child.stdout if line.endswith("\n")]
            child.stdout.close()
            child.wait()
        with MemoryBank(path) as bank, publishing(bank, options(broker)) as publisher:
            until(lambda: publisher.state().connected and publisher.state().pending == 0)
            in_bank = [item.record_id for item in reversed(bank.history(limit=10**6))]
            until(lambda: set(in_bank) <= set(heard.ids))
        assert set(stored) <= set(in_bank)
        assert list(dict.fromkeys(heard.ids)) == in_bank, "each id once, in order, none that was not stored"


@needs_broker
def test_retained_state_and_last_will(bank: MemoryBank, broker: Broker, tmp_path: Path) -> None:
    with listening(broker, STATE) as heard:
        publisher = Publisher(bank, options(broker), "cell-1")
        publisher.start()
        until(lambda: [m["state"] for m in heard.messages] == ["starting"])
        publisher.announce("running")
        until(lambda: heard.messages[-1]["state"] == "running")
        with listening(broker, STATE) as newcomer:
            until(lambda: newcomer.messages)
            assert newcomer.messages[0]["retained"] is True
            assert newcomer.messages[0]["state"] == "running"
        assert publisher.stop() is True
        until(lambda: heard.messages[-1]["state"] == "offline")
        assert heard.messages[-1]["since_utc"] is not None, "said by us, not by the will"

        script = textwrap.dedent(_PUBLISHING_CHILD).format(
            path=str(tmp_path / "other.sqlite"), host=broker.host, port=broker.port, root=ROOT,
            version=broker.mqtt_version, topic=RESULT,
        )  # fmt: skip
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        )  # fmt: skip
        until(lambda: heard.messages[-1]["state"] == "starting")
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        until(lambda: heard.messages[-1]["state"] == "offline")
        assert heard.messages[-1]["since_utc"] is None, "the broker sent the last will"
    with listening(broker, STATE) as newcomer:
        until(lambda: newcomer.messages)
        assert newcomer.messages[0]["state"] == "offline"


@contextlib.contextmanager
def guarded_broker(tmp_path: Path, version: int, acl: str = f"user cell\ntopic {ROOT}/#\n") -> Iterator[Broker]:
    """A broker with the user ``cell`` / ``right`` and an ACL, and ``ear`` / ``ear`` who may read everything."""
    passwords, rules = tmp_path / "passwords", tmp_path / "acl"
    passwords.write_text("cell:right\near:ear\n", encoding="utf-8")
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    rules.write_text(f"{acl}user ear\ntopic read #\n", encoding="utf-8")
    settings = ["allow_anonymous false", f"password_file {passwords}", f"acl_file {rules}"]
    with Broker(kind="mosquitto", mqtt_version=version, settings=settings) as broker:
        yield broker


@needs_broker
@pytest.mark.parametrize("version", [5, 311])
def test_a_refused_login_is_visible_and_heals(bank: MemoryBank, tmp_path: Path, version: int) -> None:
    secret = tmp_path / "secret"
    secret.write_text("wrong\n", encoding="utf-8")
    secret.chmod(0o600)
    with guarded_broker(tmp_path, version) as broker, listening(broker, RESULT, "-u", "ear", "-P", "ear") as heard:
        record_id = store(bank, 1)
        with publishing(bank, options(broker, username="cell", password_file=str(secret))) as publisher:
            refused = until(lambda: publisher.state() if "refuses" in publisher.state().last_error else None)
            assert "uthori" in refused.last_error
            assert (refused.connected, refused.pending, refused.delivered) == (False, 1, 0)
            secret.write_text("right\n", encoding="utf-8")
            until(lambda: heard.ids == [record_id])
            until(lambda: publisher.state().delivered == 1)
            assert publisher.state().last_error == ""


@needs_broker
def test_a_message_the_acl_forbids_is_not_delivered(bank: MemoryBank, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("right", encoding="utf-8")
    secret.chmod(0o600)
    acl = f"user cell\ntopic {STATE}\n"
    with guarded_broker(tmp_path, 5, acl) as broker, listening(broker, RESULT, "-u", "ear", "-P", "ear") as heard:
        ids = [store(bank, n) for n in range(5)]
        with publishing(bank, options(broker, username="cell", password_file=str(secret))) as publisher:
            until(lambda: publisher.state().refused >= 5)
            state = publisher.state()
            assert (state.connected, state.pending, state.delivered) == (True, 5, 0)
            assert RESULT in state.last_error
            assert "uthori" in state.last_error
            time.sleep(1.0)
            assert publisher.state().refused < 15, "tried again with back-off, not in a tight loop"
            assert heard.messages == []

            (tmp_path / "acl").write_text(f"user cell\ntopic {ROOT}/#\nuser ear\ntopic read #\n", encoding="utf-8")
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGHUP)
            until(lambda: publisher.state().pending == 0)
            until(lambda: len(heard.messages) == 5)
            assert heard.ids == ids
            assert publisher.state().last_error == ""


@needs_broker
def test_probe_says_yes_or_why_not(bank: MemoryBank, tmp_path: Path, broker: Broker) -> None:
    with publishing(bank, options(broker)) as publisher, listening(broker, f"{ROOT}/#") as heard:
        until(lambda: publisher.state().connected)
        assert "acknowledged" in probe(options(broker))
        until(lambda: any(message.get("event") == "check" for message in heard.messages))
        assert {m["topic"] for m in heard.messages} == {STATE, f"{ROOT}/inspection/event"}
        assert [m["state"] for m in heard.messages if m["topic"] == STATE] == ["starting"], "the daemon is undisturbed"
        assert publisher.state().connections == 1
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = MqttOptions(host="127.0.0.1", port=unused.getsockname()[1], topic_root=ROOT)
        with pytest.raises(OutputError, match="cannot reach"):
            probe(nobody)
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    with guarded_broker(tmp_path, broker.mqtt_version, f"user cell\ntopic {STATE}\n") as guarded:
        who = options(guarded, username="cell", password_file=str(secret))
        secret.write_text("wrong", encoding="utf-8")
        with pytest.raises(OutputError, match="refuses the login"):
            probe(who)
        secret.write_text("right", encoding="utf-8")
        if broker.mqtt_version == 5:
            with pytest.raises(OutputError, match=r"refuses a message on .*event"):
                probe(who)
        else:
            assert "cannot tell a forbidden topic" in probe(who)


@needs_broker
@pytest.mark.parametrize("broker", [5], indirect=True)
def test_a_row_that_cannot_be_removed_is_not_sent_again(bank: MemoryBank, broker: Broker) -> None:
    """The disk refuses the removal after the PUBACK (here: another process holds the lock)."""
    import sqlite3

    with listening(broker) as heard, publishing(bank, options(broker), poll_s=0.1) as publisher:
        until(lambda: publisher.state().connected)
        ids = [store(bank, n) for n in range(3)]
        until(lambda: publisher.state().delivered == 3)
        record = make_record(9)
        with contextlib.closing(sqlite3.connect(bank.path, isolation_level=None)) as other:
            # One transaction of the other process adds a message and keeps the lock while it is delivered.
            other.execute("PRAGMA busy_timeout = 2000")
            bank.store(record, RESULT, result_payload(record))
            other.execute("BEGIN IMMEDIATE")
            until(lambda: record.record_id in heard.ids)
            time.sleep(0.8)
            other.execute("ROLLBACK")
        until(lambda: publisher.state().pending == 0)
        assert heard.ids == [*ids, record.record_id]


@needs_broker
@pytest.mark.filterwarnings(
    # paho-mqtt 2.2 drops its socket without closing it when the handshake fails.
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
def test_tls_with_client_certificates(bank: MemoryBank, tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=test ca", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    for name, extension in (("server", "subjectAltName=IP:127.0.0.1"), ("client", "subjectAltName=DNS:cell")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        (tmp_path / f"{name}.ext").write_text(extension + "\n", encoding="utf-8")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
    file = lambda name: str(tmp_path / name)  # noqa: E731
    settings = ["allow_anonymous true", f"cafile {file('ca.pem')}", f"certfile {file('server.pem')}",
                f"keyfile {file('server.key')}", "require_certificate true"]  # fmt: skip
    client = {"ca_file": file("ca.pem"), "cert_file": file("client.pem"), "key_file": file("client.key")}
    flags = ["--cafile", client["ca_file"], "--cert", client["cert_file"], "--key", client["key_file"]]
    with Broker(kind="mosquitto", settings=settings) as broker:
        with listening(broker, RESULT, *flags) as heard, publishing(bank, options(broker, **client)):
            ids = [store(bank, n) for n in range(60)]
            until(lambda: len(heard.messages) >= 60)
            assert heard.ids == ids
        store(bank, 60)
        for wrong in ({"ca_file": client["ca_file"]}, {**client, "ca_file": "system"}):
            with publishing(bank, options(broker, **wrong)) as publisher:
                until(lambda publisher=publisher: publisher.state().last_error)
                assert publisher.state().pending == 1
    with pytest.raises(ConfigError, match=r"mqtt\.ca_file .*server\.key cannot be used"):
        Publisher(bank, MqttOptions(host="127.0.0.1", topic_root=ROOT, ca_file=file("server.key")), "cell-1")


@pytest.mark.parametrize("version", [5, 311])
def test_the_embedded_broker_does_as_well(bank: MemoryBank, version: int) -> None:
    """The demo runs on it where mosquitto is not installed."""
    if "iotcore" not in broker_kinds():
        pytest.skip("needs iotcore: pip install iotcore (x86_64)")
    with Broker(kind="iotcore", mqtt_version=version) as broker, publishing(bank, options(broker)) as publisher:
        for n in range(50):
            store(bank, n)
        until(lambda: publisher.state().delivered == 50)
        assert publisher.state().pending == 0
        assert publisher.stop() is True
    with socket.socket() as probe:
        assert probe.connect_ex((broker.host, broker.port)) != 0, "ended with its block"


def test_no_broker_of_that_kind_is_said_clearly() -> None:
    with pytest.raises(OutputError, match="no MQTT broker nats") as caught:
        Broker(kind="nats")
    assert caught.value.exit_code == 3


@needs_broker
def test_a_taken_port_is_said_clearly() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OutputError, match="did not start"), Broker(kind="mosquitto", port=taken.getsockname()[1]):
            pass


def test_stop_without_a_broker_is_quick_and_keeps_everything(bank: MemoryBank) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        where = MqttOptions(host="127.0.0.1", port=unused.getsockname()[1], topic_root=ROOT)
        publisher = Publisher(bank, where, "cell-1")
        publisher.start()
        store(bank, 1)
        until(lambda: "cannot reach" in publisher.state().last_error)
        started_s = time.monotonic()
        assert publisher.stop(timeout_s=3.0) is False
        assert time.monotonic() - started_s < 3.0
        assert bank.outbox_state()[0] == 1
    bank.close()
    assert publisher.state().pending is None, "unknown is unknown, not zero"


# ---------------------------------------------------------------- payload and options: no broker needed


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((PACKAGE / "result_schema.json").read_text(encoding="utf-8"))
    return loaded


def test_payload_follows_the_published_schema() -> None:
    Draft202012Validator.check_schema(schema())
    validator = Draft202012Validator(schema())
    full = make_record(
        7, Outcome.FAIL, reasons=[{"code": "OVER_LIMIT", "text": "too large", "private": 1}], message="µ",
        types=[{"type": "crack", "outcome": Outcome.FAIL, "severity": 4.6, "severity_level": 5, "windows": []},
               {"type": "unknown", "outcome": "INCONCLUSIVE"}],
        notices=[{"code": "CERTIFICATE_WITHDRAWN", "text": "the pictures have drifted"}],
    )  # fmt: skip
    for record in (full, make_record()):
        for age_s in (0.0, 1234.5, None):
            message = json.loads(stamped(result_payload(record), 3, age_s))
            validator.validate(message)
            # every field is documented, and every documented one is there; notices only where there are any
            documented = set(schema()["properties"])
            assert set(message) == (documented if record is full else documented - {"notices"})
            assert (message["seq"], message["age_s"]) == (3, age_s)
    message = json.loads(stamped(result_payload(full), 1, 0.0))
    assert message["types"] == [
        {"type": "crack", "outcome": "FAIL", "severity": 4.6, "severity_level": 5},
        {"type": "unknown", "outcome": "INCONCLUSIVE", "severity": None, "severity_level": None},
    ]
    assert message["reasons"] == [{"code": "OVER_LIMIT", "text": "too large"}]
    message["result"] = "PASS"
    assert not validator.is_valid(message), "PASS needs outcome PASS"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"topic_root": "acme/line"}, "five names"),
        ({"topic_root": "a/b/c/d/+"}, "five names"),
        ({"topic_root": "a/b//d/e"}, "five names"),
        ({"topic_root": "$SYS/b/c/d/e"}, "five names"),
        ({"host": ""}, "host is empty"),
        ({"port": 0}, "port"),
        ({"port": 70000}, "port"),
        ({"version": 4}, "version"),
        ({"keepalive_s": 0}, "keepalive"),
        ({"password_file": "x"}, "without mqtt.username"),
        ({"cert_file": "x"}, "belong together"),
        ({"cert_file": "x", "key_file": "y"}, "without mqtt.ca_file"),
        ({"host": "broker.example"}, "plain text"),
        ({"host": "192.0.2.1"}, "plain text"),
        ({"host": "127.evil.example"}, "plain text"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        MqttOptions(**{"host": "127.0.0.1", "topic_root": ROOT, **wrong})
    assert caught.value.exit_code == 2
    assert caught.value.hint


@pytest.mark.parametrize(
    "right", [{"host": "::1"}, {"host": "localhost"}, {"host": "192.0.2.1", "insecure": True},
              {"host": "192.0.2.1", "ca_file": "ca.pem"}],
)  # fmt: skip
def test_plain_text_is_for_loopback_or_for_those_who_say_so(right: dict[str, Any]) -> None:
    assert MqttOptions(**{"topic_root": ROOT, **right}).topic("result") == RESULT


def test_a_password_everybody_can_read_is_refused(bank: MemoryBank, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x", encoding="utf-8")
    secret.chmod(0o644)
    for path, says in ((secret, "read by everybody"), (tmp_path / "none", "cannot be read")):
        where = MqttOptions(host="127.0.0.1", topic_root=ROOT, username="u", password_file=str(path))
        with pytest.raises(ConfigError, match=says):
            Publisher(bank, where, "cell-1")


def test_a_closed_bank_cannot_be_stored_to(bank: MemoryBank) -> None:
    bank.close()
    with pytest.raises(StorageError):
        store(bank, 1)
