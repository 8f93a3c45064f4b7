"""The hand-over between daemons, packet by packet, with the line process on a loop of the test."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_daemon.errors import LineError
from edge_daemon.line.driver import Trigger
from edge_daemon.line.link import LineClient, LineLost, TicketEnded, TicketOpened
from edge_daemon.line.messages import PROTOCOL, answer_to, encode, ticket_to
from edge_daemon.line.options import LineOptions
from edge_daemon.line.process import LineProcess
from edge_daemon.resources import data_folder
from edge_daemon.testing.pty_pair import PtyPair
from edge_daemon.tickets import GateAnswer, Ticket

MS = 1_000_000
DEADLINE_S = 0.2


class Clock:
    now_ns = 10_000 * MS

    def __call__(self) -> int:
        return self.now_ns


def on_a_loop(folder: Path, act: Callable[[LineProcess, Clock, Callable[[], socket.socket]], Any]) -> list[Any]:
    """Run ``act``; what the daemons it made were told, kind and packet, until the line process had stopped."""
    daemons: list[socket.socket] = []

    async def main() -> list[Any]:
        clock = Clock()
        options = LineOptions("ascii", wire.device_path, str(folder / "s"), DEADLINE_S, held_s=0.001)
        process = LineProcess(options, clock)
        process.start()
        await turns()
        clock.now_ns += 2 * MS

        def daemon() -> socket.socket:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            daemons.append(sock)
            sock.settimeout(5)
            sock.connect(str(folder / "s"))
            sock.send(encode("hello", protocol=PROTOCOL, pid=1))
            return sock

        await act(process, clock, daemon)
        process.stop()
        await process.done
        told = []
        for sock in daemons:
            while sock.fileno() >= 0 and (packet := sock.recv(20_000)):
                told.append(json.loads(packet))
            sock.close()
        return told

    with PtyPair() as wire:
        return asyncio.run(main())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0.01)


def test_a_ticket_that_ends_during_the_hand_over_comes_once(tmp_path: Path) -> None:
    """Its deadline passes just before the daemon's hello is read: welcome first, and its end among the unsettled."""

    async def act(process: LineProcess, clock: Clock, daemon: Callable[[], socket.socket]) -> None:
        process._on_trigger(Trigger(7), clock())
        daemon()
        clock.now_ns += round(1e9 * DEADLINE_S)  # no timer has run yet
        await turns()

    told = on_a_loop(tmp_path, act)
    assert [message["m"] for message in told if message["m"] != "state"] == ["welcome", "unsettled", "complete"]
    [unsettled] = [message for message in told if message["m"] == "unsettled"]
    assert unsettled["ticket"]["part_id"] == 7
    assert unsettled["answer"]["reason"] == "NO_DAEMON"


def test_a_ticket_still_open_at_the_hand_over_ends_once_after_it(tmp_path: Path) -> None:
    async def act(process: LineProcess, clock: Clock, daemon: Callable[[], socket.socket]) -> None:
        process._on_trigger(Trigger(7), clock())
        daemon()
        await turns()

    told = [message for message in on_a_loop(tmp_path, act) if message["m"] != "state"]
    assert [message["m"] for message in told] == ["welcome", "unsettled", "complete", "ended"]
    assert told[1]["answer"] is None
    assert told[3]["answer"]["reason"] == "STOPPING"


def test_a_ticket_opened_and_open_at_the_stop_is_opened_and_ended(tmp_path: Path) -> None:
    async def act(process: LineProcess, clock: Clock, daemon: Callable[[], socket.socket]) -> None:
        daemon()
        await turns()
        process._on_trigger(Trigger(7), clock())

    told = [message for message in on_a_loop(tmp_path, act) if message["m"] != "state"]
    assert [message["m"] for message in told] == ["welcome", "complete", "opened", "ended"]
    assert told[3]["answer"]["reason"] == "STOPPING"


def test_settled_in_the_last_packets_is_not_kept(tmp_path: Path) -> None:
    """What the daemon had sent before the stop counts, although the loop had not come to it."""
    records: list[str] = []

    async def act(process: LineProcess, clock: Clock, daemon: Callable[[], socket.socket]) -> None:
        for part_id in (1, 2):
            process._on_trigger(Trigger(part_id), clock())
        records.extend(ticket.record_id for ticket, _ in process._gate.unsettled())
        sock = daemon()
        await turns()
        sock.send(encode("health", ready=True, reasons=[]))
        sock.send(encode("settle", record_id=records[0]))

    on_a_loop(tmp_path, act)
    kept = json.loads((tmp_path / "s.unsettled.json").read_bytes())["tickets"]
    assert [entry["ticket"]["record_id"] for entry in kept] == records[1:]


def test_what_a_daemon_said_before_it_went_counts(tmp_path: Path) -> None:
    """Telling it something fails first; what it had sent is read all the same."""
    left = []

    async def act(process: LineProcess, clock: Clock, daemon: Callable[[], socket.socket]) -> None:
        process._on_trigger(Trigger(1), clock())
        [(ticket, _)] = process._gate.unsettled()
        sock = daemon()
        await turns()
        sock.send(encode("health", ready=True, reasons=[]))
        sock.send(encode("settle", record_id=ticket.record_id))
        sock.close()
        process._tell_state()
        await turns()
        left.extend(process._gate.unsettled())

    assert on_a_loop(tmp_path, act) == []
    assert left == []


TICKET = Ticket("r", 7, 1, 2, "")
GRANTED = GateAnswer(True, "", 2)


@pytest.mark.parametrize("speaks", ["before", "after", "never"])
def test_what_the_line_process_said_before_it_died_counts(speaks: str) -> None:
    """Whether the daemon's own words are left unread (a reset) or come too late (a broken pipe)."""
    line, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = LineClient("nowhere")
    client._sock = ours
    if speaks == "before":
        assert client.health(True, [])
    line.send(encode("opened", ticket=ticket_to(TICKET)))
    line.send(encode("ended", ticket=ticket_to(TICKET), answer=answer_to(GRANTED)))
    line.close()
    if speaks == "after":
        assert not client.health(True, [])
        assert not client.settle("r")
    client._read()
    events = [client.next_event(0) for _ in range(4)]
    assert events[:2] == [TicketOpened(TICKET), TicketEnded(TICKET, GRANTED)]
    assert isinstance(events[2], LineLost)
    assert events[3] is None
    assert client.on_lost == events[2].reason


def test_the_hint_names_the_unit_that_exists(tmp_path: Path) -> None:
    with pytest.raises(LineError) as caught:
        LineClient(tmp_path / "s").connect(0)
    assert caught.value.code == "LINE_ABSENT"
    assert caught.value.hint.endswith("systemctl start edge-line")
    assert (data_folder("systemd") / "edge-line.service").is_file()
