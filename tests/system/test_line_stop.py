"""Stopping the line process: what is on its way arrives, what lacks its record is kept, and only that."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import minimalmodbus
import pytest

from edge_daemon.line.ascii import encode as telegram
from edge_daemon.line.link import LineClient, LineLost, LinkEvent, ResultNote, TicketEnded, TicketOpened
from edge_daemon.line.link import spawn_line_process as spawn
from edge_daemon.line.messages import encode as packet
from edge_daemon.line.options import LineOptions
from edge_daemon.line.unsettled import UnsettledFile
from edge_daemon.resources import data_folder
from edge_daemon.testing.pty_pair import PtyPair

PASS = ResultNote("PASS", "", 12)


def until(condition: Callable[[], bool], timeout_s: float = 5) -> bool:
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= end_s:
            return False
        time.sleep(0.005)
    return True


class Line:
    """A wire, and one line process after the other on it."""

    def __init__(self, folder: Path, wire: PtyPair) -> None:
        self.wire = wire
        self.options = LineOptions("ascii", wire.device_path, str(folder / "line.sock"), 5.0, held_s=0.001)
        self.file = folder / "line.sock.unsettled.json"
        self.log = folder / "line.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> LineClient:
        with self.log.open("ab") as log:
            self.process = spawn(self.options, stderr=log)
        client = LineClient(self.options.socket_path)
        client.connect(10)
        assert until(lambda: client.state is not None and client.state.port_open)
        return client

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(5)

    def trigger(self, part_id: int) -> None:
        self.wire.inject(telegram("T", seq=part_id, part_id=part_id, recipe=0))

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    with PtyPair() as wire:
        made = Line(tmp_path, wire)
        try:
            yield made
        finally:
            if made.process is not None and made.process.poll() is None:
                made.process.kill()
                made.process.wait(5)


def next_of(client: LineClient, kind: type[TicketOpened] | type[TicketEnded]) -> TicketOpened | TicketEnded:
    end_s = time.monotonic() + 5
    while time.monotonic() < end_s:
        event = client.next_event(0.1)
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__}")


def rest_of(client: LineClient) -> list[LinkEvent]:
    """Everything up to LineLost."""
    events: list[LinkEvent] = []
    while not events or not isinstance(events[-1], LineLost):
        event = client.next_event(5)
        assert event is not None, "the link stays open"
        events.append(event)
    return events


def found(client: LineClient) -> dict[int, tuple[bool, str]]:
    return {
        item.ticket.part_id: (item.answer.permitted, item.answer.reason) for item in client.unsettled if item.answer
    }


def three_without_a_record(line: Line) -> None:
    """Part 1 permitted, part 2 open when its daemon went, part 3 without a daemon; nothing settled, then SIGTERM."""
    client = line.start()
    client.health(True, [])
    line.trigger(1)
    assert client.permit(next_of(client, TicketOpened).ticket, PASS).permitted
    line.trigger(2)
    next_of(client, TicketOpened)
    client.close()
    assert until(lambda: "daemon detached" in line.said())
    wire = os.open(line.wire.plc_path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        line.trigger(3)
        assert until(lambda: b",0003,0*" in os.read(wire, 10_000) if select.select([wire], [], [], 0)[0] else False)
    finally:
        os.close(wire)
    assert line.stop() == 0


EXPECTED = {1: (True, ""), 2: (False, "DAEMON_LOST"), 3: (False, "STOPPING")}


def test_unsettled_tickets_outlive_a_clean_stop(line: Line) -> None:
    three_without_a_record(line)
    assert line.file.exists()
    client = line.start()
    assert found(client) == EXPECTED
    assert [item.ticket.part_id for item in client.unsettled] == [1, 2, 3]
    client.health(True, [])
    assert client.permit(client.unsettled[2].ticket, PASS).reason == "ALREADY_ENDED"
    assert client.permit(client.unsettled[0].ticket, PASS).reason == "DUPLICATE"
    for item in client.unsettled[:2]:
        client.settle(item.ticket.record_id)
    client.close()
    assert line.stop(signal.SIGKILL) == -signal.SIGKILL

    client = line.start()  # killed: what was settled comes again rather than anything never
    assert found(client) == EXPECTED
    for item in client.unsettled[:2]:
        client.settle(item.ticket.record_id)
    client.close()
    assert line.stop() == 0

    client = line.start()
    assert found(client) == {3: EXPECTED[3]}
    client.settle(client.unsettled[0].ticket.record_id)
    assert until(lambda: not line.file.exists())
    line.trigger(4)  # and the line goes on
    client.health(True, [])
    assert client.permit(next_of(client, TicketOpened).ticket, PASS).permitted
    client.settle(next_of(client, TicketEnded).ticket.record_id)
    client.close()
    assert line.stop() == 0
    assert not line.file.exists()  # only when there is something to keep
    assert "Traceback" not in line.said()


def test_times_of_another_boot_mean_nothing(line: Line) -> None:
    three_without_a_record(line)
    client = line.start()
    assert all(item.ticket.deadline_ns > item.ticket.trigger_ns > 0 for item in client.unsettled)
    client.close()
    assert line.stop() == 0
    content = json.loads(line.file.read_bytes())
    line.file.unlink()
    tickets = [(item.ticket, item.answer) for item in client.unsettled]
    UnsettledFile(Path(line.options.socket_path), "another boot").save(tickets)
    assert json.loads(line.file.read_bytes())["tickets"] == content["tickets"]
    client = line.start()
    assert found(client) == EXPECTED
    assert {(item.ticket.trigger_ns, item.ticket.deadline_ns) for item in client.unsettled} == {(0, 0)}
    client.close()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: data.replace(b"true", b"false"), lambda _: b"x"]
)
def test_a_damaged_file_is_set_aside(line: Line, damage: Callable[[bytes], bytes]) -> None:
    three_without_a_record(line)
    line.file.write_bytes(damaged := damage(line.file.read_bytes()))
    line.log.write_text("")
    client = line.start()
    assert client.unsettled == ()
    errors = [entry for entry in map(json.loads, line.said().splitlines()) if entry["level"] == "error"]
    assert len(errors) == 1
    assert str(line.file) in errors[0]["text"]
    assert not line.file.exists()
    assert line.file.with_name(line.file.name + ".bad").read_bytes() == damaged
    line.trigger(4)
    client.health(True, [])
    assert client.permit(next_of(client, TicketOpened).ticket, PASS).permitted
    client.close()


def test_a_folder_that_cannot_be_written_is_said(line: Line) -> None:
    client = line.start()
    line.trigger(1)
    next_of(client, TicketOpened)
    line.file.with_name(line.file.name + ".part").mkdir()
    assert line.stop() == 0
    assert "1 tickets lack their record, and" in line.said()
    client.close()


def test_stop_gives_a_slow_daemon_all_it_has_to_say(line: Line) -> None:
    """More than the kernel takes at once: opened and ended of every ticket arrive before the socket closes."""
    line.start().close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5)
        sock.connect(line.options.socket_path)
        sock.send(packet("hello", protocol=1, pid=1))
        assert until(lambda: line.said().count("daemon attached") == 2)
        for part_id in range(1, 501):
            line.trigger(part_id)
            time.sleep(0.001)
        assert line.process is not None
        line.process.terminate()
        time.sleep(0.1)  # it reads nothing meanwhile
        told: dict[str, list[str]] = {}
        order = []
        while data := sock.recv(20_000):
            message = json.loads(data)
            order.append(message["m"])
            if message["m"] in ("opened", "ended"):
                told.setdefault(message["ticket"]["record_id"], []).append(
                    message["m"] if message["m"] == "opened" else message["answer"]["reason"]
                )
    assert line.process.wait(5) == 0
    assert len(told) == 500
    assert set(map(tuple, told.values())) == {("opened", "STOPPING")}
    client = line.start()  # and nobody said that their records are durable
    assert {item.ticket.record_id for item in client.unsettled} == told.keys()
    client.close()


def test_stop_does_not_wait_for_a_daemon_that_never_reads(line: Line) -> None:
    line.start().close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(line.options.socket_path)
        sock.send(packet("hello", protocol=1, pid=1))
        assert until(lambda: line.said().count("daemon attached") == 2)
        for part_id in range(1, 501):
            line.trigger(part_id)
            time.sleep(0.001)
        began_s = time.monotonic()
        assert line.stop() == 0
        assert time.monotonic() - began_s < 2.0
    assert "did not read its last" in line.said()
    assert len(json.loads(line.file.read_bytes())["tickets"]) == 500


def test_words_the_line_process_never_read_do_not_hide_its_last_ones(line: Line) -> None:
    """A socket that closes with unread data reports a reset: the daemon still gets STOPPING, not LINE_LOST."""
    client = line.start()
    line.trigger(1)
    ticket = next_of(client, TicketOpened).ticket
    assert line.process is not None
    line.process.send_signal(signal.SIGSTOP)
    for _ in range(50):
        assert client.health(True, [])
    line.process.send_signal(signal.SIGTERM)
    line.process.send_signal(signal.SIGCONT)
    events = rest_of(client)
    assert line.process.wait(5) == 0
    [ended] = [event for event in events if isinstance(event, TicketEnded)]
    assert (ended.ticket, ended.answer.reason) == (ticket, "STOPPING")
    client.close()


def test_a_busy_daemon_that_asks_for_the_stop_hears_everything(line: Line) -> None:
    client = line.start()
    line.trigger(1)
    ticket = next_of(client, TicketOpened).ticket
    assert client.stop_line()
    while client.health(False, ["STOPPING"]):  # a daemon in the middle of its beat, until the line process is going
        time.sleep(0.0005)
    events = rest_of(client)
    [ended] = [event for event in events if isinstance(event, TicketEnded)]
    assert (ended.ticket, ended.answer.reason) == (ticket, "STOPPING")
    assert line.process is not None
    assert line.process.wait(5) == 0
    client.close()


def test_stop_and_gone_at_once_stops(line: Line) -> None:
    """A daemon that says stop and closes with something unread: its last words count."""
    line.start().close()
    assert line.process is not None
    line.process.send_signal(signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(line.options.socket_path)
        sock.send(packet("hello", protocol=1, pid=1))
        line.process.send_signal(signal.SIGCONT)
        assert until(lambda: line.said().count("daemon attached") == 2)
        line.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, line.process.pid, os.WSTOPPED | os.WNOWAIT)
        for _ in range(20):
            sock.send(packet("settle", record_id="unknown"))
        sock.send(packet("stop"))
    line.process.send_signal(signal.SIGCONT)
    assert line.process.wait(5) == 0
    assert "told to stop by the daemon" in line.said()


def test_permit_that_the_plc_never_fetched_is_counted_and_said(line: Line) -> None:
    line.options = replace(line.options, driver="modbus-server", deadline_s=0.4)
    client = line.start()
    client.health(True, [])
    master = minimalmodbus.Instrument(line.wire.plc_path, 1, close_port_after_each_call=False)
    assert master.serial is not None
    with closing(master.serial):
        master.serial.baudrate = 115_200
        master.serial.timeout = 0.5
        master.write_bits(0, [0, 1, 0, 0])
        master.write_registers(1, [4711, 0])
        master.write_bit(2, 1)
        ticket = next_of(client, TicketOpened).ticket
        assert client.permit(ticket, PASS).permitted
        assert until(lambda: client.state is not None and client.state.never_shown == 1)  # and nobody polls
        assert time.monotonic_ns() >= ticket.deadline_ns
    answer = next_of(client, TicketEnded)
    assert isinstance(answer, TicketEnded)
    assert answer.answer.permitted  # the record says PASS: that is why it is counted
    assert f"part 4711 (record {ticket.record_id}) was permitted, but the PLC did not fetch it in time" in line.said()
    client.close()


def test_the_unit_keeps_the_folder_of_the_file() -> None:
    unit = (data_folder("systemd") / "edge-line.service").read_text(encoding="utf-8")
    assert "\nRuntimeDirectory=edge-daemon\n" in unit
    assert "\nRuntimeDirectoryPreserve=yes\n" in unit
