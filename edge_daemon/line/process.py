"""The line process: serial port, gate and heartbeat, apart from camera, engine and everything that can hang.

One thread, one loop. The heartbeat on the wire changes every ``heartbeat_s`` only while the daemon's health lease is
live and the port is there; a daemon that dies, hangs or says that it is not fit stops it, and a kill or stop of this
process stops it as well. It outlives the daemon, gives every trigger its ticket also while there is none, and keeps
each ticket until the daemon says that the record is durable, over a clean stop as well (``unsettled``).

This is quality assurance on Linux, not a safety function (ISO 13849, IEC 62061).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import notify
from ..tickets import new_record_id, utc_now
from .ascii import AsciiDriver
from .discrete import DiscreteDriver
from .driver import LineDriver, LineEvent, PlcHeartbeat, Trigger
from .gate import Gate
from .messages import BadMessage, answer_to, integer, note_from, text, texts, ticket_to, truth
from .options import BEYOND_DEADLINE_S, LineOptions
from .port import SerialPort
from .server import LinkServer
from .unsettled import UnsettledFile
from .wire import ResultNote

__all__ = ["LineProcess", "make_driver", "run"]

#: How often the daemon is told the state of the PLC; a change is told at once.
STATE_S = 0.5
#: A loop this much later than its heartbeat has been stopped; what the wire brought meanwhile is of unknown age.
STALL_NS = 150_000_000
#: The kernel hands over what had piled up in portions: how long after a stall triggers still count as old.
DRAIN_NS = 50_000_000

_log = logging.getLogger("edge_daemon.line")


def make_driver(options: LineOptions) -> LineDriver:
    """The driver that ``options`` name."""
    if options.driver == "ascii":
        return AsciiDriver(repeat_ns=round((options.deadline_s + BEYOND_DEADLINE_S) * 1e9))
    if options.driver == "discrete":
        return DiscreteDriver(options.trigger_input, pulse_ns=round(options.pulse_s * 1e9))
    # pymodbus takes 10 MB and a tenth of a second: only where it is spoken.
    if options.driver == "modbus-client":
        from .modbus_client import ANSWER_NS, ModbusClientDriver

        wire_ns = round(12 * 40 / options.baudrate * 1e9)  # a request and its answer, 12 bits a byte at most
        return ModbusClientDriver(options.unit_id, options.base_address, ANSWER_NS + wire_ns)
    from .modbus import ModbusServerDriver

    return ModbusServerDriver(unit_id=options.unit_id)


class LineProcess:
    """Everything of one line process on the running loop. ``start`` once, ``stop`` once; ``done`` tells of the end."""

    def __init__(self, options: LineOptions, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._options = options
        self._now = clock_ns
        self._loop = asyncio.get_running_loop()
        self._gate = Gate(
            deadline_ns=round(options.deadline_s * 1e9),
            lease_ns=round(options.lease_s * 1e9),
            capacity=options.capacity,
        )
        self._driver = make_driver(options)
        self._port = SerialPort(
            options.port, options.baudrate, options.parity, options.stopbits, self._on_data, self._on_port,
            lines=options.driver == "discrete",
        )  # fmt: skip
        self._server = LinkServer(Path(options.socket_path), self._on_attach, self._on_message, self._on_detach)
        self._kept = UnsettledFile(Path(options.socket_path))
        self._adopted: set[str] = set()  # record ids in the file that are not settled yet
        self._never_shown = 0
        self._stopping = False
        self._beat = False
        self._was_ready = False
        self._reasons: list[str] = []
        self._plc_beat_ns: int | None = None
        self._plc_was_connected = False
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_ns: int | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._full = False
        self._tick_ns = clock_ns()
        self._stale_until_ns = 0
        self.done: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        """Listen for the daemon, open the port. Raises LineError when another line process owns the socket."""
        self._server.start()
        for ticket, answer in self._kept.load():
            self._gate.adopt(ticket, answer)
            self._adopted.add(ticket.record_id)
        if self._adopted:
            _log.warning("%d tickets of the line process before this one lack their record", len(self._adopted))
        self._tick_ns = self._now()
        self._port.start()
        self._every(self._options.heartbeat_s, self._tick)
        self._every(STATE_S, self._tell_state)
        if self._driver.poll_s is not None:
            self._every(self._driver.poll_s, self._poll)
        interval_s = notify.watchdog_interval_s()
        if interval_s is not None:
            self._every(interval_s, self._watchdog)
        notify.ready(f"{self._options.driver} on {self._options.port}, no daemon yet")

    def stop(self) -> None:
        """End cleanly: every open ticket ends, the wire says not ready, the daemon is told, what lacks its record is
        written down, the socket goes. Waits at most ``server.FLUSH_S``, and only for a daemon that does not read."""
        if self._stopping:
            return
        self._stopping = True
        notify.stopping()
        for timer in self._timers:
            timer.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        self._gate.end_all("STOPPING", self._now())
        self._announce()
        self._driver.heartbeat(self._beat, ready=False, fault=True)
        self._driver.close()
        self._port.close()
        self._tell_never_shown(self._now())
        self._server.finish()
        self._keep_unsettled()
        self._server.close()
        self.done.set_result(None)

    def _keep_unsettled(self) -> None:
        """Before the daemon is let go and the lock with it: a successor may read the file at once."""
        tickets = self._gate.unsettled()
        if not tickets:
            return
        try:
            self._kept.save(tickets)
        except OSError as error:
            _log.error(
                "%d tickets lack their record, and %s cannot be written: %s", len(tickets), self._kept.path, error
            )
        else:
            _log.warning("%d tickets lack their record and are kept in %s", len(tickets), self._kept.path)

    # -- the wire -------------------------------------------------------------------------------------------------

    def _on_data(self, data: bytes) -> None:
        now_ns = self._now()
        self._notice_stall(now_ns)
        self._take(self._driver.received(data, now_ns), now_ns)

    def _poll(self) -> None:
        if self._port.connected:
            now_ns = self._now()
            self._notice_stall(now_ns)
            self._take(self._driver.poll(now_ns), now_ns)

    def _take(self, events: list[LineEvent], now_ns: int) -> None:
        for event in events:
            if isinstance(event, Trigger):
                self._on_trigger(event, now_ns)
            elif isinstance(event, PlcHeartbeat):
                self._plc_beat_ns = now_ns
                if not self._plc_was_connected:
                    self._tell_state()
        self._tell_never_shown(now_ns)

    def _on_trigger(self, trigger: Trigger, now_ns: int) -> None:
        fresh = now_ns >= self._stale_until_ns
        ticket = self._gate.open(new_record_id(), trigger.part_id, trigger.recipe, utc_now(), now_ns, fresh=fresh)
        if ticket is None:
            self._driver.refused(trigger)
            if not self._full:
                self._full = True
                _log.error("%d tickets without a record: triggers are no longer taken", self._options.capacity)
            return
        self._full = False
        self._server.send("opened", ticket=ticket_to(ticket))
        self._driver.accepted(trigger, ticket)
        self._announce()
        self._arm()

    def _on_port(self, connected: bool) -> None:
        if connected:
            # The PLC may have raised a trigger long ago and repeat it until somebody takes it: its arrival says nothing
            # of its age, and its frame may be gone. Until each such trigger is beyond its deadline, none is fresh.
            held_ns = round(self._options.longest_held_s * 1e9)
            self._stale_until_ns = max(self._stale_until_ns, self._now() + held_ns)
            self._driver.open(self._port)
            self._was_ready = False
            self._driver.heartbeat(self._beat, ready=False, fault=True)
        else:
            self._driver.close()
            self._plc_beat_ns = None
            self._gate.end_all("PORT_LOST", self._now())
            self._announce()
            self._tell_never_shown(self._now())
        self._tell_state()

    # -- the daemon -----------------------------------------------------------------------------------------------

    def _on_attach(self) -> None:
        self._gate.attach(self._now())
        # What ended just now is among the unsettled below, with its answer: the new daemon hears of it once.
        self._announce(tell_daemon=False)
        self._server.send("welcome", pid=os.getpid(), options=asdict(self._options))
        for ticket, answer in self._gate.unsettled():
            self._server.send(
                "unsettled", ticket=ticket_to(ticket), answer=None if answer is None else answer_to(answer)
            )
        self._server.send("complete")
        self._tell_state()
        _log.info("daemon attached")
        notify.status(f"{self._options.driver} on {self._options.port}, daemon attached")

    def _on_detach(self) -> None:
        self._gate.detach(self._now())
        self._announce()
        self._show_ready(self._now())
        notify.status(f"{self._options.driver} on {self._options.port}, no daemon")

    def _on_message(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "settle":
            self._on_settle(text(message, "record_id"))
        elif self._stopping:
            return  # everything has its answer by now
        elif kind == "permit":
            self._on_permit(message)
        elif kind == "inform":
            self._on_inform(message)
        elif kind == "health":
            self._on_health(truth(message, "ready"), texts(message, "reasons"))
        elif kind == "stop":
            _log.info("told to stop by the daemon")
            self._loop.call_soon(self.stop)
        else:
            raise BadMessage(f"unknown message {kind}")

    def _on_permit(self, message: dict[str, Any]) -> None:
        number, record_id, part_id = integer(message, "id"), text(message, "record_id"), integer(message, "part_id")
        note = note_from(message)
        now_ns = self._now()
        answer = self._gate.permit(record_id, part_id, now_ns, is_pass=note.is_pass)
        if answer.permitted:
            ticket = self._gate.ticket(record_id)
            if ticket is None or not self._driver.permit(ticket, note, now_ns):
                answer = self._gate.revoke(record_id, now_ns)
        self._server.send("answer", id=number, answer=answer_to(answer))
        if not answer.permitted:
            _log.warning("permit for part %d refused: %s", part_id, answer.reason)
        self._announce()

    def _on_inform(self, message: dict[str, Any]) -> None:
        record_id, note = text(message, "record_id"), note_from(message)
        now_ns = self._now()
        ticket = self._gate.ticket(record_id)
        if self._gate.decline(record_id, now_ns) and ticket is not None:
            self._driver.inform(ticket, note, now_ns)
        self._announce()

    def _on_settle(self, record_id: str) -> None:
        self._gate.settle(record_id, self._now())
        self._announce()
        if record_id in self._adopted:
            self._adopted.discard(record_id)
            if not self._adopted:
                self._kept.remove()

    def _on_health(self, ready: bool, reasons: list[str]) -> None:
        now_ns = self._now()
        self._gate.health(ready, now_ns)
        if reasons != self._reasons:
            self._reasons = reasons
            _log.info("daemon is %s", "fit" if ready else "not fit: " + ", ".join(reasons))
        if not ready:
            self._show_ready(now_ns)

    # -- time -----------------------------------------------------------------------------------------------------

    def _notice_stall(self, now_ns: int) -> None:
        late_ns = now_ns - self._tick_ns - round(self._options.heartbeat_s * 1e9)
        if late_ns > STALL_NS:
            self._tick_ns = now_ns
            self._stale_until_ns = now_ns + DRAIN_NS
            _log.warning("this process stood still for %.0f ms", late_ns / 1e6)

    def _tick(self) -> None:
        now_ns = self._now()
        self._notice_stall(now_ns)
        self._tick_ns = now_ns
        self._tell_never_shown(now_ns)
        if self._fit(now_ns):
            self._beat = not self._beat
            self._driver.heartbeat(self._beat, ready=True, fault=False)
            self._was_ready = True
        else:
            self._show_ready(now_ns)

    def _fit(self, now_ns: int) -> bool:
        return self._gate.ready(now_ns) and self._port.connected and now_ns >= self._stale_until_ns

    def _show_ready(self, now_ns: int) -> None:
        """Tell the PLC once that readiness is over; the heartbeat stands still from then on."""
        if self._was_ready and not self._fit(now_ns):
            self._was_ready = False
            self._driver.heartbeat(self._beat, ready=False, fault=True)

    def _arm(self) -> None:
        """A timer for the next deadline. A late timer harms nobody: the gate looks at the time itself."""
        deadline_ns = self._gate.next_deadline_ns
        if deadline_ns == self._expiry_ns:
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry, self._expiry_ns = None, deadline_ns
        if deadline_ns is not None:
            self._expiry = self._loop.call_later(max(0.0, (deadline_ns - self._now()) / 1e9), self._expire)

    def _expire(self) -> None:
        self._expiry = self._expiry_ns = None
        self._gate.expire(self._now())
        self._announce()

    def _announce(self, *, tell_daemon: bool = True) -> None:
        """Tell driver and daemon which tickets have ended since."""
        for ended in self._gate.take_ended():
            ticket, answer = ended.ticket, ended.answer
            if not answer.permitted and not ended.declined:
                self._driver.inform(ticket, ResultNote("NOT_EVALUABLE", answer.reason), self._now())
            self._driver.ended(ticket)
            if tell_daemon:
                self._server.send("ended", ticket=ticket_to(ticket), answer=answer_to(answer))
        self._arm()

    def _tell_never_shown(self, now_ns: int) -> None:
        lost = self._driver.take_never_shown(now_ns)
        for ticket in lost:
            _log.warning(
                "part %d (record %s) was permitted, but the PLC did not fetch it in time: it has rejected the part",
                ticket.part_id,
                ticket.record_id,
            )
        if lost:
            self._never_shown += len(lost)
            self._tell_state()

    def _tell_state(self) -> None:
        now_ns = self._now()
        age_s = None if self._plc_beat_ns is None else (now_ns - self._plc_beat_ns) / 1e9
        connected = self._port.connected and age_s is not None and age_s < self._options.plc_silence_s
        if connected != self._plc_was_connected:
            self._plc_was_connected = connected
            _log.log(logging.INFO if connected else logging.WARNING, "PLC is %s", "there" if connected else "silent")
        self._server.send(
            "state",
            port_open=self._port.connected,
            connected=connected,
            heartbeat_age_s=age_s,
            gate_ready=self._gate.ready(now_ns),
            opened=self._gate.opened,
            permitted=self._gate.permitted,
            open=self._gate.open_count,
            overflowed=self._gate.overflowed,
            protocol_errors=self._driver.protocol_errors,
            refused=dict(self._gate.refused),
            ended=dict(self._gate.ended),
            never_shown=self._never_shown,
        )

    @staticmethod
    def _watchdog() -> None:
        notify.watchdog()

    def _every(self, period_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` on a fixed schedule; beats missed while this process was stopped are not made up for."""
        index = len(self._timers)

        def again(due_s: float) -> None:
            action()
            if self.done.done():
                return
            next_s = due_s + period_s
            if next_s <= self._loop.time():
                next_s = self._loop.time() + period_s
            self._timers[index] = self._loop.call_at(next_s, again, next_s)

        first_s = self._loop.time() + period_s
        self._timers.append(self._loop.call_at(first_s, again, first_s))


def run(options: LineOptions) -> None:
    """Run a line process until SIGTERM, SIGINT or the daemon's ``stop``. Raises LineError when it cannot start."""

    async def main() -> None:
        process = LineProcess(options)
        process.start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, process.stop)
        # All that lives as long as the process is out of the collector's way from here on.
        gc.collect()
        gc.freeze()
        await process.done

    asyncio.run(main())
