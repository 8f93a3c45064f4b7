"""``edge-daemon run``: start every part of the station, watch it, mend it, stop it.

The main thread is the one whose hanging must stop the line: every 100 ms it renews the line process's lease (or ends
it, with the reasons), feeds systemd's watchdog and updates the gauges. It does no I/O that can block.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from subprocess import Popen
from types import FrameType
from typing import Any

from . import __version__, notify
from .capture import CapturePolicy, ReconnectingCamera, make_camera
from .config import DaemonConfig, load_config
from .errors import EdgeError, LineError, StorageError
from .inspection import Station, document_of, not_evaluable, prepare_station
from .line.link import LineClient, LineLost, PlcState, TicketEnded, TicketOpened, Unsettled, connect_or_spawn
from .logs import log
from .memory import JournalEntry, MemoryBank
from .metrics import Metrics, MetricsServer
from .pipeline import Pipeline
from .publish import Publisher
from .recipe import load_recipe
from .records import Outcome
from .resources import engine_folder
from .segment.bundle import load
from .segment.registry import open_engine
from .tickets import Ticket

__all__ = ["Daemon", "build_station"]

_BEAT_S = 0.1
_HOUSEKEEPING_S = 2.0
_DISK_SILENCE_S = 15.0  # a disk check older than this counts as a disk that hangs
_STOP_S = 10.0


def build_station(config: DaemonConfig) -> Station:
    """Load recipe, engine and references, and measure the limits; nothing is returned that was not verified."""
    recipe = load_recipe(config.recipe)
    bundle = load(engine_folder(recipe.engine, recipe.engine_base))
    engine = open_engine(bundle, config.engine.backend, threads=config.engine.threads, cache_dir=config.engine.cache)
    return prepare_station(engine, recipe, config=config.sha256)


class Daemon:
    """One station. ``run`` blocks until a signal or ``stop``."""

    def __init__(self, config: DaemonConfig) -> None:
        self._config = config
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._ready_reasons: list[str] = ["STARTING"]
        self._disk_trouble = ""
        self._disk_checked_s = time.monotonic()
        self._line_child: Popen[bytes] | None = None
        self.metrics_port: int | None = None

    # ---------------------------------------------------------------- life

    def run(self) -> int:
        """Start, serve, stop; 0 after a clean stop. Raises EdgeError when something needed is not there at start."""
        config = self._config
        self._catch_signals()
        self._bank = MemoryBank(config.memory.database)
        try:
            self._metrics = Metrics(config.station, deadline_s=config.line.options.deadline_s)
            station = build_station(config)
            self._metrics.engine(station.engine.name, station.seals.engine, station.engine.backend)
            camera = make_camera(config.camera.kind, config.camera.options)
            policy = CapturePolicy(frozen_after=config.camera.frozen_after, expect_px=config.camera.size_px)
            self._camera = ReconnectingCamera(camera, policy)
            with MetricsServer(
                config.watch.host, config.watch.port, self._metrics.registry, healthz=self._healthz, readyz=self._readyz
            ) as server:
                self.metrics_port = server.port
                self._serve(station)
        finally:
            self._bank.close()
        return 0

    def stop(self) -> None:
        """Ask for a clean stop; safe from a signal handler and from any thread."""
        self._stop.set()

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop.set()

        def reload(number: int, frame: FrameType | None) -> None:
            self._reload.set()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, reload)

    def _serve(self, station: Station) -> None:
        config = self._config
        self._publisher = Publisher(self._bank, config.mqtt, config.station) if config.mqtt is not None else None
        self._line, self._line_child = self._connect_line()
        self._pipeline = Pipeline(
            config, station, self._camera, self._bank, self._line, self._metrics, self._record_is_durable
        )
        helpers = [
            threading.Thread(target=target, name=f"edge-{target.__name__.strip('_')}", daemon=True)
            for target in (self._dispatch, self._housekeep)
        ]
        try:
            self._camera.open(wait=True)
            self._pipeline.start()
            self._recover(self._line.unsettled)
            if self._publisher is not None:
                self._publisher.start()
            for helper in helpers:
                helper.start()
            log("started", f"station {config.station} is running", version=__version__, engine=station.engine.name,
                backend=station.engine.backend, recipe=station.name, config_sha256=config.sha256,
                metrics_port=self.metrics_port)  # fmt: skip
            notify.ready(f"{config.station}: {station.name} on {station.engine.name} ({station.engine.backend})")
            self._beat()
        finally:
            self._shut_down(helpers)

    def _shut_down(self, helpers: list[threading.Thread]) -> None:
        notify.stopping()
        self._stop.set()
        self._line.health(False, ["STOPPING"])
        if not self._pipeline.stop(_STOP_S):
            log("stop_incomplete", "some parts are still on their way; the next start writes their records", level=30)
        for helper in helpers:
            if helper.ident is not None:
                helper.join(2.0)
        if self._line_child is not None:
            self._line.stop_line()
        self._line.close()
        if self._line_child is not None:
            self._line_child.wait(timeout=5.0)
        self._camera.close()
        if self._publisher is not None:
            self._publisher.stop(2.0)
        log("stopped", f"station {self._config.station} has stopped")

    # ---------------------------------------------------------------- the beat

    def _beat(self) -> None:
        """The main loop: lease, watchdog, gauges. Whatever stops this loop stops the heartbeat on the wire."""
        next_s = time.monotonic()
        while not self._stop.is_set():
            reasons = self._troubles()
            self._line.health(not reasons, reasons)
            notify.watchdog()
            if reasons != self._ready_reasons:
                log("not_ready" if reasons else "ready", ", ".join(reasons) or "the gate may open", reasons=reasons)
                notify.status("ready" if not reasons else "not ready: " + ", ".join(reasons))
                if self._publisher is not None:
                    self._publisher.announce("not ready" if reasons else "ready")
                self._ready_reasons = reasons
            self._gauges(not reasons)
            if self._reload.is_set():
                self._reload.clear()
                threading.Thread(target=self._reload_recipe, name="edge-reload", daemon=True).start()
            next_s = max(next_s + _BEAT_S, time.monotonic())
            self._stop.wait(next_s - time.monotonic())

    def _troubles(self) -> list[str]:
        troubles = self._pipeline.troubles()
        camera = self._camera.trouble()
        if camera is not None:
            troubles.append(f"CAMERA_{camera.code}")
        if self._disk_trouble:
            troubles.append(self._disk_trouble)
        elif time.monotonic() - self._disk_checked_s > _DISK_SILENCE_S:
            troubles.append("DISK_SILENT")
        plc = self._line.state
        if self._line.on_lost is not None:
            troubles.append("LINE_LOST")
        elif plc is None or not plc.port_open:
            troubles.append("PLC_PORT")
        return troubles

    def _gauges(self, ready: bool) -> None:
        plc = self._line.state
        self._metrics.heartbeat(ready)
        self._metrics.connections(
            camera=self._camera.trouble() is None,
            plc=plc is not None and plc.connected and self._line.on_lost is None,
            broker=None if self._publisher is None else self._publisher.connected,
        )

    def _healthz(self) -> tuple[bool, str]:
        return not self._stop.is_set(), "running"

    def _readyz(self) -> tuple[bool, str]:
        reasons = self._ready_reasons
        return not reasons, "ready" if not reasons else "\n".join(reasons)

    # ---------------------------------------------------------------- the line process

    def _connect_line(self) -> tuple[LineClient, Popen[bytes] | None]:
        line = self._config.line
        if line.spawn:
            return connect_or_spawn(line.options)
        client = LineClient(line.options.socket_path)
        client.connect(5.0)
        return client, None

    def _dispatch(self) -> None:
        """Events of the line process; also the one who brings it back."""
        while not self._stop.is_set():
            event = self._line.next_event(0.2)
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
                log("line_lost", event.reason, level=40)
                self._bring_line_back()

    def _bring_line_back(self) -> None:
        while not self._stop.wait(0.2):
            try:
                client, child = self._connect_line()
            except LineError:
                continue  # said once, by line_lost; the beat keeps the station not Ready meanwhile
            if child is not None:
                self._line_child = child
            self._pipeline.use_line(client)
            self._line = client
            self._recover(client.unsettled)
            log("line_back", "the line process answers again", pid=client.line_pid)
            return

    def _record_is_durable(self, ticket: Ticket) -> None:
        self._line.settle(ticket.record_id)

    def _recover(self, unsettled: tuple[Unsettled, ...]) -> None:
        """Write the records that an earlier daemon, or an earlier line process, left behind.

        ``unsettled`` is what the line process still waits for; the journal knows tickets whose line process died too.
        """
        journal = {entry.record_id: entry for entry in self._bank.unfinished_tickets()}
        here = self._pipeline.on_their_way()
        for item in unsettled:
            entry = journal.pop(item.ticket.record_id, None)
            if item.ticket.record_id in here:
                continue
            if self._bank.get(item.ticket.record_id) is not None:
                self._line.settle(item.ticket.record_id)
                continue
            permitted = item.answer is not None and item.answer.permitted
            self._recover_one(item.ticket, entry, permitted)
        for record_id, entry in journal.items():
            if record_id not in here:
                # The line process that knew what the gate did is gone as well: the part counts as not inspected.
                ticket = Ticket(record_id, entry.part_id, trigger_ns=0, deadline_ns=0, trigger_utc=entry.trigger_utc)
                self._recover_one(ticket, entry, permitted=False)

    def _recover_one(self, ticket: Ticket, entry: JournalEntry | None, permitted: bool) -> None:
        draft = entry.draft if entry is not None else None
        if permitted and draft is not None:
            # The record was durable before the gate opened: it only lacked the gate's answer.
            outcome, document = Outcome.PASS, draft
            document["recovered"] = True
        else:
            told = " although the gate opened for it" if permitted else ""
            verdict = not_evaluable("INTERRUPTED", f"the daemon ended while this part was on its way{told}")
            outcome = verdict.outcome
            document = self._bare_document(ticket, verdict)
        document["gate"] = {"permitted": permitted, "reason": "" if permitted else "INTERRUPTED", "decision_ms": None}
        self._pipeline.store_document(ticket, outcome, outcome.result, document)
        log("recovered", f"part {ticket.part_id}: {outcome}", record_id=ticket.record_id, permitted=permitted)

    def _bare_document(self, ticket: Ticket, verdict: Any) -> dict[str, Any]:
        document = document_of(
            self._pipeline.station, None, record_id=ticket.record_id, image=None, image_sha256=None, verdict=verdict
        )
        document.update(part_id=ticket.part_id, station=self._config.station, trigger_utc=ticket.trigger_utc)
        return document

    # ---------------------------------------------------------------- far from the line

    def _housekeep(self) -> None:
        """Disk and outbox, in a thread of its own: a disk that hangs must not hang the beat."""
        while not self._stop.is_set():
            try:
                self._bank.check_writable()
                free = shutil.disk_usage(self._config.memory.database.parent).free
                trouble = "DISK_FULL" if free < self._config.memory.min_free_bytes else ""
                self._metrics.outbox(*self._bank.outbox_state())
            except (StorageError, OSError) as error:
                trouble = error.code if isinstance(error, StorageError) else "STORAGE"
            if trouble and not self._disk_trouble:
                log("disk_lost", f"the memory bank cannot be written safely: {trouble}", level=40)
            elif self._disk_trouble and not trouble:
                log("disk_back", "the memory bank can be written again")
            self._disk_trouble, self._disk_checked_s = trouble, time.monotonic()
            self._stop.wait(_HOUSEKEEPING_S)

    def _reload_recipe(self) -> None:
        """SIGHUP: prove the new recipe, then swap it in; the old one serves until then, and stays if it fails."""
        try:
            config = load_config(self._config.path)
            if config.recipe != self._config.recipe:
                log("reload", "the recipe's path changes now; everything else in the file waits for a restart")
            station = build_station(config)
        except EdgeError as error:
            log("reload_refused", f"the old recipe stays: {error}", level=40, code=error.code)
            return
        self._pipeline.station = station
        self._metrics.engine(station.engine.name, station.seals.engine, station.engine.backend)
        log("reloaded", f"recipe {station.name} is in use", recipe=station.name, table_sha256=station.seals.table)
