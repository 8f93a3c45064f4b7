"""``edge-daemon run``: start every part of the station, watch it, mend it, stop it.

The main thread is the one whose hanging must stop the line: every 100 ms it renews the line process's lease (or ends
it, with the reasons), feeds systemd's watchdog and updates the gauges. It does no I/O that can block. What cannot be
mended from inside (a thread that hangs or is dead) ends the daemon after a few seconds, so that it is started anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from . import __version__, notify
from .capture import CapturePolicy, ReconnectingCamera, make_camera
from .commands import CommandListener, RecipeChoice
from .config import DaemonConfig, load_config
from .device import DeviceWatch
from .dispatch import Dispatcher
from .errors import ConfigError, EdgeError, StorageError
from .inspection import Station, prepare_station
from .logs import log
from .memory import MemoryBank
from .metrics import Metrics, MetricsServer
from .pipeline import Pipeline
from .publish import Publisher
from .recipe import load_recipe
from .resources import engine_folder
from .segment.bundle import load
from .segment.claim_watch import ClaimWatch, require_claims
from .segment.registry import open_engine
from .sparkplug_node import SparkplugNode
from .tickets import utc_now

__all__ = ["Daemon", "build_station"]

_BEAT_S = 0.1
_BEAT_SILENT_S = 1.0  # a beat older than this: the main loop hangs
_HOUSEKEEPING_S = 2.0
_RETENTION_S = 300.0
_DISK_SILENCE_S = 15.0  # a disk check older than this counts as a disk that hangs
_STOP_S = 10.0
_FINISH_S = 1.0  # beyond the deadline, for parts on their way when the daemon is told to stop

#: Troubles that nothing inside mends, and the exit code they end in once they have lasted ``_INCURABLE_S``.
_INCURABLE = {"ENGINE_STALLED": 3, "THREAD_DEAD": 70, "DISPATCH_BUG": 70, "STORE_BUG": 70}
_INCURABLE_S = 5.0


def build_station(config: DaemonConfig, *, cache: Path | None = None) -> Station:
    """Load recipe, engine and references, and measure the limits; nothing is returned that was not verified.

    cache: folder for the measured limits; None measures them now and leaves nothing behind.
    """
    recipe = load_recipe(config.recipe, config.trust)
    if config.require_verified:
        unverified = [rule.row_id for zone in recipe.zones for rule in zone.rules if rule.advisory]
        if unverified:
            raise ConfigError(
                f"{config.path}: [station] require_verified: {unverified[0]} of {config.recipe} is not verified"
                + (f", nor are {len(unverified) - 1} others" if len(unverified) > 1 else ""),
                hint="edge-daemon standards verify ROW --by NAME, by a second person; a demonstration never is",
            )
    bundle = load(engine_folder(recipe.engine, recipe.engine_base), trust=config.trust)
    if config.require_certificate:
        require_claims(bundle, f"{config.path}: [station]")
    engine = open_engine(
        bundle, config.engine.backend, threads=config.engine.threads, cache_dir=config.engine.cache, trust=config.trust
    )
    return prepare_station(engine, recipe, config=config.sha256, cache=cache)


class Daemon:
    """One station. ``run`` blocks until a signal or ``stop``."""

    def __init__(self, config: DaemonConfig) -> None:
        self._config = config
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._reloading: threading.Thread | None = None
        self._changing = threading.Lock()  # one change of the recipe at a time, asked for by whom it may be
        self._paused = False
        self._read_sha256 = config.sha256
        self._commands: CommandListener | None = None
        self._sparkplug: SparkplugNode | None = None
        self._ready_reasons: list[str] = ["STARTING"]
        self._beaten_s: float | None = None
        self._incurable_since_s: float | None = None
        self._exit_code = 0
        self._disk_trouble = ""
        self._disk_checked_s = time.monotonic()
        self.metrics_port: int | None = None

    # ---------------------------------------------------------------- life

    def run(self) -> int:
        """Start, serve, stop. Returns 0 after a clean stop, else the exit code of what could not be mended.

        Raises EdgeError when something needed is not there at start.
        """
        config = self._config
        self._catch_signals()
        watch = config.watch
        self._device = DeviceWatch(watch.max_temperature_c, stop_when_slowed=watch.stop_when_slowed)
        _prove_writable(config.memory.pictures)
        self._bank = MemoryBank(config.memory.database)
        try:
            self._bank.check_writable()
            self._metrics = Metrics(config.station, deadline_s=config.line.options.deadline_s)
            config = self._listen_for_commands(config)
            camera = make_camera(config.camera.kind, config.camera.options)
            policy = CapturePolicy(frozen_after=config.camera.frozen_after, expect_px=config.camera.size_px)
            self._camera = ReconnectingCamera(camera, policy)
            with (
                MetricsServer(
                    config.watch.host, config.watch.port, self._metrics.registry,
                    healthz=self._healthz, readyz=self._readyz,
                ) as server,
                contextlib.closing(self._camera),
            ):  # fmt: skip
                self.metrics_port = server.port
                # Before the engine, which takes its time: what the camera needs to be trusted runs meanwhile.
                self._camera.open(wait=True)
                station = build_station(config, cache=config.engine.cache)
                self._metrics.engine(station.engine.name, station.seals.engine, station.engine.backend)
                self._serve(config, station)
        finally:
            self._bank.close()
        return self._exit_code

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

    def _serve(self, config: DaemonConfig, station: Station) -> None:
        self._publisher = Publisher(self._bank, config.mqtt, config.station) if config.mqtt is not None else None
        if config.mqtt is not None and config.sparkplug is not None:
            self._sparkplug = SparkplugNode(self._bank, config.mqtt, config.sparkplug)
        self._housekeeper = threading.Thread(target=self._housekeep, name="edge-housekeep", daemon=True)
        self._keeper = threading.Thread(target=self._retain, name="edge-retention", daemon=True)
        self._begin_session(station)
        self._dispatcher = Dispatcher(config, self._bank, self._metrics)
        line = self._dispatcher.connect()
        self._pipeline = Pipeline(
            config, station, self._camera, self._bank, line, self._metrics, self._dispatcher.settle, self._watch_claims
        )
        try:
            self._pipeline.start()
            self._dispatcher.start(self._pipeline)
            if self._publisher is not None:
                self._publisher.start()
            if self._sparkplug is not None:
                self._sparkplug.start()
            if self._commands is not None:
                self._commands.start()
            self._housekeeper.start()
            if not config.memory.retention.empty:
                self._keeper.start()
            log("started", f"station {config.station} is running", version=__version__, engine=station.engine.name,
                backend=station.engine.backend, recipe=station.name, config_sha256=config.sha256,
                metrics_port=self.metrics_port)  # fmt: skip
            notify.ready(f"{config.station}: {station.name} on {station.engine.name} ({station.engine.backend})")
            self._beat()
        finally:
            self._shut_down()

    def _watch_claims(self, station: Station) -> ClaimWatch:
        """The keeper of the certificate that this station's engine brings, and what it says at the start."""
        database = self._config.memory.database
        claims = ClaimWatch(station.engine.bundle, database.with_name(f"{database.stem}-withdrawn.json"))
        withdrawn = claims.notice()
        if claims.why_off:
            log("drift_off", f"no certificate is watched over: {claims.why_off}")
        elif withdrawn is not None:
            log("certificate_withdrawn", withdrawn.text, level=40, code=withdrawn.code)
        if station.sensitivity is not None:
            log("max_recall", station.sensitivity.text())
        return claims

    def _shut_down(self) -> None:
        """Each step by itself: whatever fails, the line process is told and the records are written."""
        notify.stopping()
        self._stop.set()
        deadline_s = self._config.line.options.deadline_s
        steps: list[tuple[str, Callable[[], object]]] = [
            ("not ready", lambda: self._dispatcher.line.health(False, ["STOPPING"])),
            ("parts", lambda: self._finish_parts(deadline_s + _FINISH_S)),
            ("line", self._dispatcher.stop),
            ("records", self._finish_records),
            ("camera", self._camera.close),
        ]
        if self._housekeeper.ident is not None:
            steps.append(("housekeeper", lambda: self._housekeeper.join(2.0)))
        if self._keeper.ident is not None:
            steps.append(("retention", lambda: self._keeper.join(2.0)))
        for name, spoken in (("commands", self._commands), ("sparkplug", self._sparkplug)):
            if spoken is not None:
                steps.append((name, spoken.stop))
        publisher = self._publisher
        if publisher is not None:
            steps.append(("publisher", lambda: publisher.stop(2.0)))
        steps.append(("session", lambda: self._end_session("stopped")))
        for name, step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - a step that fails must not keep the others from their turn
                log("stop_bug", f"{name}: {type(error).__name__}: {error}", level=40, error=error)
        log("stopped", f"station {self._config.station} has stopped")

    def _begin_session(self, station: Station) -> None:
        """What records are stored with from now on, in the memory bank and in the log."""
        number = self._bank.begin_session(
            station=self._config.station, version=__version__, recipe=station.name, engine=station.engine.name,
            engine_sha256=station.seals.engine, config_sha256=station.seals.config or "",
        )  # fmt: skip
        log("session", f"session {number}: {station.name} on {station.engine.name}", session=number,
            chain=self._bank.head())  # fmt: skip

    def _end_session(self, how: str) -> None:
        # The end of the audit chain in the journal: who rewrites the bank would have to rewrite the journal as well.
        log("session_end", f"the session has ended: {how}", chain=self._bank.end_session(how))

    def _change_session(self, station: Station) -> None:
        try:
            self._end_session("reloaded")
            self._begin_session(station)
        except StorageError as error:  # the recipe is in use all the same; its records say which
            log("session_lost", f"the new session could not be noted: {error}", level=30, code=error.code)

    def _finish_parts(self, timeout_s: float) -> None:
        self._pipeline.refuse()
        self._pipeline.wait_idle(timeout_s)

    def _finish_records(self) -> None:
        if not self._pipeline.stop(_STOP_S):
            log("stop_incomplete", "some parts are still on their way; the next start writes their records", level=30)

    # ---------------------------------------------------------------- the beat

    def _beat(self) -> None:
        """The main loop: lease, watchdog, gauges. Whatever stops this loop stops the heartbeat on the wire."""
        next_s = time.monotonic()
        while not self._stop.is_set():
            reasons = self._troubles()
            self._dispatcher.line.health(not reasons, reasons)
            notify.watchdog()
            if reasons != self._ready_reasons:
                log("not_ready" if reasons else "ready", ", ".join(reasons) or "the gate may open", reasons=reasons)
                notify.status("ready" if not reasons else "not ready: " + ", ".join(reasons))
                if self._publisher is not None:
                    self._publisher.announce("not ready" if reasons else "ready")
                self._ready_reasons = reasons
            if self._sparkplug is not None:
                self._sparkplug.ready(reasons)
                self._sparkplug.device(not {"LINE_LOST", "PLC_PORT"}.intersection(reasons))
            self._beaten_s = time.monotonic()
            self._gauges(not reasons)
            self._give_up_on(reasons)
            self._start_reload()
            next_s = max(next_s + _BEAT_S, time.monotonic())
            self._stop.wait(next_s - time.monotonic())

    def _troubles(self) -> list[str]:
        troubles = self._pipeline.troubles() + self._dispatcher.troubles()
        if not self._housekeeper.is_alive():
            troubles.append(f"THREAD_DEAD:{self._housekeeper.name}")
        camera = self._camera.trouble()
        if camera is not None:
            troubles.append(f"CAMERA_{camera.code}")
        if self._paused:
            troubles.append("PAUSED")
        if self._device.trouble:
            troubles.append(self._device.trouble)
        if self._disk_trouble:
            troubles.append(self._disk_trouble)
        elif time.monotonic() - self._disk_checked_s > _DISK_SILENCE_S:
            troubles.append("DISK_SILENT")
        return troubles

    def _give_up_on(self, reasons: list[str]) -> None:
        """End the daemon over what only a new start cures; what starts it again is systemd, or whoever ran it."""
        incurable = [reason for reason in reasons if reason.split(":")[0] in _INCURABLE]
        if not incurable:
            self._incurable_since_s = None
            return
        if self._incurable_since_s is None:
            self._incurable_since_s = time.monotonic()
        if time.monotonic() - self._incurable_since_s >= _INCURABLE_S:
            self._exit_code = max(_INCURABLE[reason.split(":")[0]] for reason in incurable)
            log("giving_up", f"only a new start cures {', '.join(incurable)}", level=50, reasons=incurable)
            self._stop.set()

    def _gauges(self, ready: bool) -> None:
        line = self._dispatcher.line
        self._metrics.heartbeat(ready)
        self._metrics.connections(
            camera=self._camera.trouble() is None,
            plc=line.state is not None and line.state.connected and line.on_lost is None,
            broker=None if self._publisher is None else self._publisher.connected,
        )

        claims = self._pipeline.claims
        self._metrics.certificate(
            None if claims is None else claims.valid, None if claims is None else claims.log_martingale
        )

    def _beat_is_silent(self) -> bool:
        return self._beaten_s is not None and time.monotonic() - self._beaten_s > _BEAT_SILENT_S

    def _healthz(self) -> tuple[bool, str]:
        if self._beat_is_silent() or self._incurable_since_s is not None:
            return False, "\n".join(self._ready_reasons) or "the main loop hangs"
        return not self._stop.is_set(), "running"

    def _readyz(self) -> tuple[bool, str]:
        reasons = ["BEAT_SILENT"] if self._beat_is_silent() else self._ready_reasons
        return not reasons, "ready" if not reasons else "\n".join(reasons)

    # ---------------------------------------------------------------- far from the line

    def _housekeep(self) -> None:
        """Disk, outbox and device, in a thread of its own: a disk that hangs must not hang the beat."""
        memory = self._config.memory
        while not self._stop.is_set():
            try:
                self._bank.check_writable()
                free = min(shutil.disk_usage(folder).free for folder in (memory.database.parent, memory.pictures))
                trouble = "DISK_FULL" if free < memory.min_free_bytes else ""
                self._metrics.outbox(*self._bank.outbox_state())
                self._bank.checkpoint()
            except (StorageError, OSError) as error:
                trouble = error.code if isinstance(error, StorageError) else "STORAGE"
            if trouble and not self._disk_trouble:
                log("disk_lost", f"records or pictures cannot be written safely: {trouble}", level=40)
            elif self._disk_trouble and not trouble:
                log("disk_back", "records and pictures can be written again")
            self._disk_trouble, self._disk_checked_s = trouble, time.monotonic()
            self._metrics.device(self._device.look().temperature_c, slowed=self._device.slowed)
            calibration = self._pipeline.station.calibration
            self._metrics.calibration_age(None if calibration is None else calibration.age_s(utc_now()))
            self._stop.wait(_HOUSEKEEPING_S)

    def _retain(self) -> None:
        """Now and then remove what [memory] does not keep, in a thread of its own and in steps nobody notices."""
        memory, trouble = self._config.memory, ""
        while not self._stop.wait(_RETENTION_S):
            try:
                done = self._bank.clean(memory.retention, who="edge-daemon", why="[memory] of line.toml",
                                        stopped=self._stop.is_set)  # fmt: skip
                now = done.trouble
            except Exception as error:  # noqa: BLE001 - whatever ails it, the line goes on and it is tried again
                now = f"{type(error).__name__}: {error}"
                if now != trouble:
                    log("retention_lost", f"old records and pictures cannot be removed: {now}", level=40, error=error)
            else:
                if now and now != trouble:
                    log("retention_lost", f"old pictures cannot be removed: {now}", level=40)
                if trouble and not now:
                    log("retention_back", "old records and pictures are removed again")
                if done.records or done.pictures:
                    log("retention", f"{done.records} records and {done.pictures} folders of pictures were removed",
                        run=done.run, records=done.records, pictures=done.pictures,
                        used_bytes=done.used_bytes)  # fmt: skip
            trouble = now

    def _start_reload(self) -> None:
        """One reload at a time; a SIGHUP during one starts another when it is done."""
        if self._reload.is_set() and (self._reloading is None or not self._reloading.is_alive()):
            self._reload.clear()
            self._reloading = threading.Thread(target=self._reload_recipe, name="edge-reload", daemon=True)
            self._reloading.start()

    def _reload_recipe(self) -> None:
        """SIGHUP: prove the new recipe, then swap it in; the old one serves until then, and stays if it fails."""
        try:
            found = load_config(self._config.path)
            if found.sha256 != self._config.sha256:
                log("reload", "of this file only the recipe changes now; everything else waits for a restart")
            with self._changing:
                self._read_recipe_again(found)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the new recipe, the old one serves
            code = error.code if isinstance(error, EdgeError) else "BUG"
            log("reload_refused", f"the old recipe stays: {error}", level=40, code=code, error=error)

    def _read_recipe_again(self, found: DaemonConfig) -> None:
        """A recipe that a command asked for stays until somebody changes line.toml; then that says the recipe."""
        commanded = None if self._commands is None else self._commands.recipe
        if commanded is not None and found.sha256 == self._read_sha256:
            self._change_over(commanded.path, None)
            return
        # The PLC's number for line.toml's recipe is no part of what changes live.
        number = None if commanded is None else (self._config.recipe_number,)
        self._change_over(found.recipe, number)
        self._read_sha256 = found.sha256
        if self._commands is not None:
            self._commands.recipe = None
            self._commands.follow(found.sha256)

    def _change_over(
        self, recipe: Path, other_recipe: tuple[int | None] | None, before: Callable[[], None] | None = None
    ) -> None:
        """Prove a recipe, then judge by it. Raises what is wrong with it; the old one serves until then."""
        # The seal in the records stays that of the config in force.
        config = replace(self._config, recipe=recipe)
        station = build_station(config, cache=config.engine.cache)
        try:
            self._pipeline.use_station(station, other_recipe=other_recipe, before=before)
        except BaseException:
            station.engine.close()
            raise
        self._change_session(station)
        self._metrics.engine(station.engine.name, station.seals.engine, station.engine.backend)
        log("reloaded", f"recipe {station.name} is in use", recipe=station.name, table_sha256=station.seals.table)

    # ---------------------------------------------------------------- commands

    def _listen_for_commands(self, config: DaemonConfig) -> DaemonConfig:
        """Make the listener, and take from the audit trail what was commanded before: a pause, another recipe."""
        if config.mqtt is None or config.commands is None:
            return config
        commands = self._commands = CommandListener(
            self._bank, config.mqtt, config.commands, station=config.station, config_sha256=config.sha256,
            apply_pause=self._pause, apply_recipe=self._take_recipe,
        )  # fmt: skip
        if commands.paused:
            log("paused", "the line was paused by a command before this start and stays so until it is resumed")
        self._paused = commands.paused
        if commands.recipe is None:
            return config
        log(
            "recipe", f"recipe {commands.recipe.name} was asked for by a command and stays", recipe=commands.recipe.name
        )
        return replace(config, recipe=commands.recipe.path, recipe_number=commands.recipe.number)

    def _pause(self, paused: bool) -> None:
        self._paused = paused  # the beat tells the gate within 100 ms

    def _take_recipe(self, choice: RecipeChoice, before: Callable[[], None]) -> None:
        with self._changing:
            self._change_over(choice.path, (choice.number,), before)


def _prove_writable(folder: Path) -> None:
    """Write, flush and remove a small file. Raises StorageError."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(mode=0o750, exist_ok=True)
        with probe.open("wb") as stream:
            stream.write(b"edge")
            stream.flush()
            os.fsync(stream.fileno())
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"{folder}: pictures cannot be written: {error.strerror}", hint="check the folder's owner and free space"
        ) from None
