"""The daemon's side of the line: takes its events, brings it back when it is lost, and settles what was left behind.

One thread. Whatever it meets, it goes on: a trigger that nobody takes from the link would have no record. Nothing here
opens the gate; permits go from the judge to the line process directly.
"""

from __future__ import annotations

import subprocess
import threading
import time
from subprocess import Popen

from .config import DaemonConfig
from .errors import LineError, StorageError
from .inspection import not_evaluable
from .line.link import LineClient, LineLost, LinkEvent, PlcState, TicketEnded, TicketOpened, Unsettled, connect_or_spawn
from .logs import log
from .memory import JournalEntry, MemoryBank
from .metrics import Metrics
from .pipeline import Pipeline
from .records import Outcome
from .tickets import Ticket

__all__ = ["Dispatcher"]

_CONNECT_S = 5.0
_RECONNECT_S = 0.2
_RECOVER_RETRY_S = 0.5
_DRAIN_S = 5.0  # how long the line process may take to end its tickets when the daemon stops
_CHILD_S = 3.0


class Dispatcher:
    """``connect``, then ``start`` with the pipeline that takes the tickets; ``stop`` ends the line process as well,
    where this daemon started it. ``line``: the link in use now."""

    def __init__(self, config: DaemonConfig, bank: MemoryBank, metrics: Metrics) -> None:
        self._config, self._bank, self._metrics = config, bank, metrics
        self._pipeline: Pipeline
        self._stopping = threading.Event()
        self._finished = False
        self._bug = ""
        self._lost = False
        self._reconnect_trouble = ""
        self._unrecovered: tuple[Unsettled, ...] | None = None
        self._recover_at_s = 0.0
        self._recover_trouble = ""
        self._child: Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="edge-dispatch", daemon=True)

    def connect(self) -> LineClient:
        """The first connection. Raises LineError when no line process can be reached or started."""
        self.line, self._child = self._connect()
        self._unrecovered = self.line.unsettled
        return self.line

    def start(self, pipeline: Pipeline) -> None:
        """Take events from now on; first of all, write the records that an earlier daemon left behind."""
        self._pipeline = pipeline
        pipeline.not_ours([item.ticket for item in self.line.unsettled])
        self._thread.start()

    def settle(self, ticket: Ticket) -> None:
        """This ticket's record is durable: the line process may forget it."""
        self.line.settle(ticket.record_id)

    def stop(self) -> None:
        """End the line process or leave it, take the last word on every ticket it knew, end the thread."""
        self._stopping.set()
        if self._child is None:
            self.line.close()
        else:
            self.line.stop_line()
        if self._thread.ident is not None:
            self._thread.join(_DRAIN_S)
        self.line.close()
        if self._thread.ident is not None:
            self._thread.join(_CHILD_S)
        if self._child is not None:
            try:
                self._child.wait(timeout=_CHILD_S)
            except subprocess.TimeoutExpired:
                log("line_killed", "the line process did not end when it was told to", level=30, pid=self._child.pid)
                self._child.kill()
                self._child.wait()

    def troubles(self) -> list[str]:
        """Why the station must not be Ready, as far as the line goes. Never blocks."""
        troubles = []
        if self._bug:
            troubles.append(self._bug)
        if self._thread.ident is not None and not self._thread.is_alive():
            troubles.append(f"THREAD_DEAD:{self._thread.name}")
        plc = self.line.state
        if self._lost or self.line.on_lost is not None:
            troubles.append("LINE_LOST")
        elif plc is None or not plc.port_open:
            troubles.append("PLC_PORT")
        if self._unrecovered is not None:
            troubles.append("RECOVERING")
        return troubles

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        while not self._finished:
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 - the station is not Ready from here on, but loses no ticket
                log("dispatch_bug", f"{type(error).__name__}: {error}", level=40, error=error)
                self._bug = "DISPATCH_BUG"
                time.sleep(0.05)

    def _step(self) -> None:
        if self._lost:
            if self._stopping.wait(_RECONNECT_S):
                self._finished = True
            else:
                self._bring_back()
            return
        if self._unrecovered is not None and time.monotonic() >= self._recover_at_s and not self._stopping.is_set():
            self._recover(self._unrecovered)
        event = self.line.next_event(0.2 if self._unrecovered is None else 0.05)
        if event is not None:
            self._take(event)

    def _take(self, event: LinkEvent) -> None:
        if isinstance(event, TicketOpened):
            self._metrics.trigger()
            self._pipeline.submit(event.ticket)
            try:
                self._bank.open_ticket(event.ticket, self._config.station)
            except StorageError as error:
                # The line process holds the ticket as well; the record itself will say what the disk does.
                log("journal_lost", str(error), level=30, record_id=event.ticket.record_id)
        elif isinstance(event, TicketEnded):
            self._pipeline.ended(event.ticket, event.answer)
            if not event.answer.permitted and event.answer.reason == "DEADLINE":
                self._metrics.deadline_missed()
        elif isinstance(event, PlcState):
            self._metrics.plc(event)
        elif isinstance(event, LineLost):
            self._lost = True
            if self._stopping.is_set():
                self._finished = True
            else:
                log("line_lost", event.reason, level=40)

    # ---------------------------------------------------------------- connecting

    def _connect(self) -> tuple[LineClient, Popen[bytes] | None]:
        line = self._config.line
        if line.spawn:
            return connect_or_spawn(line.options, _CONNECT_S)
        client = LineClient(line.options.socket_path)
        client.connect(_CONNECT_S)
        return client, None

    def _bring_back(self) -> None:
        try:
            client, child = self._connect()
        except (LineError, OSError, subprocess.SubprocessError) as error:
            if str(error) != self._reconnect_trouble:  # once, not five times a second
                self._reconnect_trouble = str(error)
                log("line_absent", str(error), level=40)
            return
        if child is not None:
            if self._child is not None:
                self._child.poll()  # the one before has ended: do not keep it as a zombie
            self._child = child
        self._pipeline.use_line(client)
        self.line = client
        self._unrecovered, self._recover_at_s = client.unsettled, 0.0
        self._lost, self._reconnect_trouble = False, ""
        log("line_back", "the line process answers again", pid=client.line_pid)

    # ---------------------------------------------------------------- what was left behind

    def _recover(self, unsettled: tuple[Unsettled, ...]) -> None:
        """Write the records that an earlier daemon, or an earlier line process, left behind.

        ``unsettled`` is what the line process still waits for; the journal knows tickets whose line process died too.
        Tried again until it is done; the station is not Ready meanwhile.
        """
        try:
            here = self._pipeline.on_their_way()
            journal = {entry.record_id: entry for entry in self._bank.unfinished_tickets()}
            for item in unsettled:
                entry = journal.pop(item.ticket.record_id, None)
                if item.ticket.record_id not in here:
                    self._recover_unsettled(item, entry)
            for record_id, entry in journal.items():
                if record_id not in here:
                    # The line process that knew what the gate did is gone as well: the part counts as not inspected.
                    ticket = Ticket(record_id, entry.part_id, 0, 0, entry.trigger_utc)
                    self._recover_one(ticket, entry, permitted=None if entry.draft is not None else False)
        except StorageError as error:
            if error.code != self._recover_trouble:
                log("recovery_waits", str(error), level=40, code=error.code)
            self._recover_trouble, self._recover_at_s = error.code, time.monotonic() + _RECOVER_RETRY_S
        else:
            self._unrecovered, self._recover_trouble = None, ""

    def _recover_unsettled(self, item: Unsettled, entry: JournalEntry | None) -> None:
        permitted = item.answer is not None and item.answer.permitted
        stored = self._bank.get(item.ticket.record_id)
        if stored is None:
            self._recover_one(item.ticket, entry, permitted)
            return
        if permitted and stored.outcome is not Outcome.PASS:
            # Written while nobody could say what the gate had done; the record itself says so.
            self._metrics.gate_disagreed()
            log("gate_disagrees", f"part {stored.part_id}: the gate opened, the record says {stored.outcome}", level=40,
                record_id=stored.record_id)  # fmt: skip
        self.line.settle(item.ticket.record_id)

    def _recover_one(self, ticket: Ticket, entry: JournalEntry | None, permitted: bool | None) -> None:
        """permitted: what the gate did; None where nobody can say."""
        draft = entry.draft if entry is not None else None
        if permitted and draft is not None:
            # The record was durable before the gate opened: it only lacked the gate's answer.
            outcome, document = Outcome.PASS, draft
            document["recovered"] = True
        else:
            told = {True: " although the gate opened for it", None: "; it is not known whether the gate opened"}
            text = f"the daemon ended while this part was on its way{told.get(permitted, '')}"
            verdict = not_evaluable("INTERRUPTED", text)
            outcome, document = verdict.outcome, self._pipeline.bare_document(ticket, verdict)
        document["gate"] = {"permitted": permitted, "reason": "" if permitted else "INTERRUPTED", "decision_ms": None}
        if self._pipeline.store_document(ticket, outcome, document):
            self._metrics.part(str(outcome))
            if outcome is Outcome.NOT_EVALUABLE:
                self._metrics.failsafe_reject("INTERRUPTED")
            if permitted and outcome is not Outcome.PASS:
                self._metrics.gate_disagreed()
        log("recovered", f"part {ticket.part_id}: {outcome}", record_id=ticket.record_id, permitted=permitted)
