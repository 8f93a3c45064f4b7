"""The daemon's end of the link to the line process.

    client, child = connect_or_spawn(options)          # child: Popen, or None when a line process was there already
    for item in client.unsettled: ...                  # triggers of earlier daemons that still need their record
    event = client.next_event(0.1)                     # TicketOpened, TicketEnded, PlcState, LineLost or None
    answer = client.permit(ticket, note)               # only for outcome PASS
    client.inform(ticket, note)                        # everything else, before the next part's permit
    client.settle(record_id)                           # the record is durable
    client.health(True, [])                            # at least every lease_s, from the loop that would hang

Each ticket ends exactly once: every ``TicketOpened`` is followed by one ``TicketEnded`` with the line's final answer,
permitted or not, also when the line process dies (reason LINE_LOST). The record takes its gate answer from there.
Nothing on this path raises once connected: a lost link answers "not permitted".
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import LineError
from ..tickets import GateAnswer, Ticket
from .messages import (
    MAX_PACKET,
    PROTOCOL,
    BadMessage,
    answer_from,
    decode,
    encode,
    integer,
    note_to,
    text,
    ticket_from,
)
from .options import LineOptions
from .wire import ResultNote

__all__ = [
    "LineClient",
    "LineLost",
    "PlcState",
    "ResultNote",
    "TicketEnded",
    "TicketOpened",
    "Unsettled",
    "connect_or_spawn",
    "spawn_line_process",
]

#: How much longer than the deadline ``permit`` waits for its answer.
ANSWER_MARGIN_NS = 50_000_000
HANDSHAKE_S = 2.0
MAX_REASONS = 32


@dataclass(frozen=True, slots=True)
class TicketOpened:
    """A trigger arrived."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class TicketEnded:
    """The final answer of the line to one trigger."""

    ticket: Ticket
    answer: GateAnswer


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A trigger from before this daemon connected. answer None: still open, a TicketEnded will follow; it cannot be
    permitted any more (RESTARTED), because nobody knows which frame is its."""

    ticket: Ticket
    answer: GateAnswer | None


@dataclass(frozen=True, slots=True)
class PlcState:
    """What the line process sees and has counted since its start; about every 0.5 s and at once on a change.

    connected: the port is open and the PLC's heartbeat is fresh. heartbeat_age_s: None before the first one.
    refused, ended: counts by reason (gate.REFUSED_REASONS, gate.ENDED_REASONS). overflowed: triggers not taken.
    never_shown: permits granted that no answer to the PLC ever carried: its record says PASS, the PLC rejected.
    """

    port_open: bool
    connected: bool
    heartbeat_age_s: float | None
    gate_ready: bool
    opened: int
    permitted: int
    open: int
    overflowed: int
    protocol_errors: int
    refused: dict[str, int]
    ended: dict[str, int]
    never_shown: int = 0


@dataclass(frozen=True, slots=True)
class LineLost:
    """The link is gone; the last event of its client. The heartbeat on the wire has stopped by itself."""

    reason: str


LinkEvent = TicketOpened | TicketEnded | PlcState | LineLost


class LineClient:
    """One connection to the line process. Methods may be called from any thread; ``connect`` once."""

    def __init__(self, socket_path: str | Path) -> None:
        self._path = str(socket_path)
        self._sock: socket.socket | None = None
        self._events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        self._open: dict[str, Ticket] = {}
        self._answers: dict[int, queue.SimpleQueue[GateAnswer]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._lost: str | None = None
        self._thread: threading.Thread | None = None
        self._state: PlcState | None = None
        self.unsettled: tuple[Unsettled, ...] = ()
        self.line_pid = 0
        self.line_options: dict[str, Any] = {}

    # -- connecting -----------------------------------------------------------------------------------------------

    def connect(self, timeout_s: float) -> tuple[Unsettled, ...]:
        """Connect and take over what earlier daemons left; waits up to ``timeout_s`` while nobody listens or another
        daemon is still attached. A process that listens has 2 s for each step of the hand-over besides.

        Raises LineError: LINE_ABSENT (nobody listens), LINE_BUSY (another daemon), LINE_PROTOCOL (another release),
        LINE_SILENT (it does not answer).
        """
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                unsettled = self._connect_once()
                break
            except LineError as error:
                if error.code not in ("LINE_ABSENT", "LINE_BUSY") or time.monotonic() + 0.02 >= end_s:
                    raise
                time.sleep(0.02)
        self.unsettled = unsettled
        self._thread = threading.Thread(target=self._read, name="line-link", daemon=True)
        self._thread.start()
        return unsettled

    def _connect_once(self) -> tuple[Unsettled, ...]:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(HANDSHAKE_S)
            try:
                sock.connect(self._path)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                raise LineError(
                    f"no line process listens on {self._path}: {error.strerror}",
                    code="LINE_ABSENT",
                    hint="start python -m edge_daemon.line, or systemctl start edge-line",
                ) from None
            sock.send(encode("hello", protocol=PROTOCOL, pid=os.getpid()))
            unsettled = self._handshake(sock)
        except TimeoutError:
            sock.close()
            raise LineError(
                f"the line process on {self._path} does not answer", code="LINE_SILENT", hint="is it stopped?"
            ) from None
        except (OSError, BadMessage) as error:
            sock.close()
            raise LineError(
                f"the link to {self._path} broke: {error}", code="LINE_SILENT", hint="see the log of the line process"
            ) from None
        except BaseException:
            sock.close()
            raise
        sock.settimeout(None)
        self._sock = sock
        return unsettled

    def _handshake(self, sock: socket.socket) -> tuple[Unsettled, ...]:
        unsettled: list[Unsettled] = []
        while True:
            packet = sock.recv(MAX_PACKET + 1)
            if not packet:
                raise BadMessage("it closed the link")
            kind, message = decode(packet)
            if kind == "refused":
                raise self._refusal(text(message, "reason"))
            if kind == "welcome":
                self.line_pid = integer(message, "pid")
                self.line_options = dict(message["options"])
            elif kind == "unsettled":
                answer = None if message.get("answer") is None else answer_from(message)
                ticket = ticket_from(message)
                unsettled.append(Unsettled(ticket, answer))
                if answer is None:
                    self._open[ticket.record_id] = ticket
            elif kind == "complete":
                return tuple(unsettled)
            else:
                # A trigger that arrives during the hand-over comes after "complete"; nothing else is due.
                raise BadMessage(f"unexpected {kind}")

    def _refusal(self, reason: str) -> LineError:
        if reason == "BUSY":
            return LineError(
                f"another daemon is attached to {self._path}", code="LINE_BUSY", hint="only one daemon serves a line"
            )
        return LineError(
            f"the line process on {self._path} is of another release", code="LINE_PROTOCOL", hint="restart it"
        )

    # -- events ---------------------------------------------------------------------------------------------------

    def next_event(self, timeout_s: float) -> LinkEvent | None:
        """The next event, or None after ``timeout_s``."""
        with contextlib.suppress(queue.Empty):
            return self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait()
        return None

    @property
    def on_lost(self) -> str | None:
        """Why the link is lost; None while it is there."""
        return self._lost

    @property
    def state(self) -> PlcState | None:
        """The latest PlcState; None before the first."""
        return self._state

    # -- the daemon speaks ----------------------------------------------------------------------------------------

    def permit(self, ticket: Ticket, note: ResultNote) -> GateAnswer:
        """PASS for this ticket; waits for the gate's answer, at most until the deadline and 50 ms.

        Not permitted with reason NO_ANSWER when none came (the later TicketEnded says what became of it), LINE_LOST
        when the link is gone, NOT_PASS when the note is no PASS, or one of gate.REFUSED_REASONS.
        """
        if not note.is_pass:
            return GateAnswer(False, "NOT_PASS", time.monotonic_ns())
        number = next(self._numbers)
        mailbox: queue.SimpleQueue[GateAnswer] = queue.SimpleQueue()
        self._answers[number] = mailbox
        try:
            sent = self._send(
                "permit", id=number, record_id=ticket.record_id, part_id=ticket.part_id, note=note_to(note)
            )
            if not sent:
                return GateAnswer(False, "LINE_LOST", time.monotonic_ns())
            wait_ns = max(0, ticket.deadline_ns - time.monotonic_ns()) + ANSWER_MARGIN_NS
            return mailbox.get(timeout=wait_ns / 1e9)
        except queue.Empty:
            return GateAnswer(False, "NO_ANSWER", time.monotonic_ns())
        finally:
            self._answers.pop(number, None)

    def inform(self, ticket: Ticket, note: ResultNote) -> bool:
        """No PASS will come for this ticket, and why: ends it, and shows the note on the PLC. False: link lost."""
        return self._send("inform", record_id=ticket.record_id, note=note_to(note))

    def settle(self, record_id: str) -> bool:
        """The record of this trigger is durable: the line process may forget it. False: link lost, do it again."""
        return self._send("settle", record_id=record_id)

    def health(self, ready: bool, reasons: list[str]) -> bool:
        """Refresh the dead-man lease, or end it with the reasons. Call it from the loop whose hanging must stop the
        line, never from a thread of its own. False: link lost."""
        short = [reason[:200] for reason in reasons[:MAX_REASONS]]
        return self._send("health", ready=ready, reasons=short)

    def stop_line(self) -> bool:
        """Tell the line process to end cleanly (a daemon that spawned it and stops). False: link lost.

        Every ticket still open ends with STOPPING; read events until LineLost to get them all.
        """
        return self._send("stop")

    def close(self) -> None:
        """Detach. The heartbeat stops at once, open tickets end in reject. Safe in any state."""
        self._lose("closed", None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _send(self, kind: str, **values: Any) -> bool:
        sock = self._sock
        if sock is None or self._lost is not None:
            return False
        try:
            # Never wait for a stopped line process: it takes some 200 packets, then the link counts as lost.
            sock.send(encode(kind, **values), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            return False  # it has ended: the reader takes what it said before, then tells that the link is lost
        except OSError as error:
            self._lose(f"the line process does not take messages: {error.strerror or error}", sock)
            return False
        return True

    def _read(self) -> None:
        sock = self._sock
        if sock is None:
            return
        try:
            while self._lost is None:
                try:
                    packet = sock.recv(MAX_PACKET + 1)
                except ConnectionResetError:
                    # It closed with something of ours unread. Said once, in front of what it had sent before.
                    packet = sock.recv(MAX_PACKET + 1)
                if not packet:
                    self._lose("the line process closed the link", sock)
                    return
                self._dispatch(*decode(packet))
        except OSError as error:
            self._lose(f"receive: {error.strerror or error}", sock)
        except (BadMessage, TypeError) as error:
            self._lose(f"the line process sent nonsense: {error}", sock)

    def _dispatch(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "opened":
            ticket = ticket_from(message)
            with self._lock:
                if self._lost is None:
                    self._open[ticket.record_id] = ticket
                    self._events.put(TicketOpened(ticket))
        elif kind == "ended":
            ticket = ticket_from(message)
            answer = answer_from(message)
            with self._lock:  # after a loss it has been ended already
                if self._open.pop(ticket.record_id, None) is not None:
                    self._events.put(TicketEnded(ticket, answer))
        elif kind == "answer":
            mailbox = self._answers.get(integer(message, "id"))
            if mailbox is not None:
                mailbox.put(answer_from(message))
        elif kind == "state":
            self._state = PlcState(**{key: value for key, value in message.items() if key != "m"})
            self._events.put(self._state)
        else:
            raise BadMessage(f"unknown message {kind}")

    def _lose(self, reason: str, sock: socket.socket | None) -> None:
        with self._lock:
            if self._lost is not None:
                return
            self._lost = reason
            lost = GateAnswer(False, "LINE_LOST", time.monotonic_ns())
            for ticket in self._open.values():
                self._events.put(TicketEnded(ticket, lost))
            self._open.clear()
            self._events.put(LineLost(reason))
            for mailbox in list(self._answers.values()):
                mailbox.put(lost)
        sock = sock or self._sock
        if sock is not None:
            with contextlib.suppress(OSError):  # the other side may have gone first
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def spawn_line_process(options: LineOptions, *, stderr: int | IO[Any] | None = None) -> subprocess.Popen[bytes]:
    """Start a line process in a session of its own: a signal to the daemon's group, or its death, leaves it running.

    Writes the options beside the socket (``<socket>.json``). stderr: where its log goes; never a pipe that nobody
    reads. Raises LineError when that file cannot be written.
    """
    path = Path(options.socket_path + ".json")
    try:
        options.save(path)
    except OSError as error:
        raise LineError(f"cannot write {path}: {error.strerror}", hint="check the directory and its owner") from None
    return subprocess.Popen(
        [sys.executable, "-m", "edge_daemon.line", "--options", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )


def connect_or_spawn(
    options: LineOptions, timeout_s: float = 5.0, *, stderr: int | IO[Any] | None = None
) -> tuple[LineClient, subprocess.Popen[bytes] | None]:
    """The line process on ``options.socket_path``: the one that is there, else a new one (then also its Popen).

    Raises LineError: LINE_OPTIONS when the one that is there runs with other options, LINE_START when the new one
    ended at once, and what ``LineClient.connect`` raises.
    """
    client = LineClient(options.socket_path)
    child: subprocess.Popen[bytes] | None = None
    try:
        client.connect(0.0)
    except LineError as error:
        if error.code == "LINE_BUSY":
            client.connect(timeout_s)
        elif error.code == "LINE_ABSENT":
            child = spawn_line_process(options, stderr=stderr)
            client = _connect_to_child(options, child, timeout_s)
        else:
            raise
    if client.line_options != asdict(options):
        wanted = asdict(options)
        changed = sorted(key for key in wanted if client.line_options.get(key) != wanted[key])
        client.close()
        raise LineError(
            f"line process {client.line_pid} on {options.socket_path} runs with other options: {', '.join(changed)}",
            code="LINE_OPTIONS",
            hint=f"stop it (kill {client.line_pid}) and start again",
        )
    return client, child


def _connect_to_child(options: LineOptions, child: subprocess.Popen[bytes], timeout_s: float) -> LineClient:
    end_s = time.monotonic() + timeout_s
    while child.poll() is None:
        client = LineClient(options.socket_path)
        try:
            client.connect(0.0)
        except LineError as error:
            if error.code != "LINE_ABSENT" or time.monotonic() >= end_s:
                child.terminate()
                child.wait(timeout=5)
                raise
            time.sleep(0.02)
        else:
            return client
    raise LineError(
        f"the line process ended at once with exit code {child.returncode}",
        code="LINE_START",
        hint=f"run: python -m edge_daemon.line --options {options.socket_path}.json",
    )
