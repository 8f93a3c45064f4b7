"""What all cameras with a driver queue share: a reader thread that knows when each frame arrived.

A frame that has lain in a driver's queue looks as new as any other. So one thread per camera empties the queue at once
and stamps each frame with the time of its arrival; ``grab`` then takes the first that is young enough. Where the reader
itself came late (the process was stopped, the machine overloaded) the frames it finds have waited for an unknown time:
they are stamped with the last moment at which the queue was known to be empty, so they can only look too old.

With a software trigger three things more are needed. After a time-out the late frame of the old trigger would arrive
after the new trigger was fired, so the stream is stopped and started (which drops exposures under way) before the next
one is fired. A trigger command repeated into the void may reach a camera that has just been started again, and its
frame would pass for the answer to the next trigger: a stream that has just been opened is watched until it is quiet,
and restarted, before it takes a trigger. And a dead camera holds up the one who fires for seconds (GigE Vision repeats
its commands), so a second thread fires and ``grab`` keeps its time.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CameraError, GrabTimeout
from ..records import Frame, Reason, read_only
from ..tickets import utc_now
from .protocol import FrameCounter

__all__ = ["Arrival", "StreamCamera"]

_LOG = logging.getLogger("edge_daemon.capture")
#: The longest a driver call may block: within this time close, signals and loss are noticed.
_SLICE_S = 0.05
#: A driver call that took this much longer than asked was held up, not waiting.
_HELD_UP_NS = 50_000_000
#: So long must a triggered stream be quiet after it was opened: a camera begins a trigger it still holds within this.
_QUIET_S = 0.25
#: The most a stream that is never quiet may deliver before its trigger must be taken for switched off.
_STRAY_FRAMES = 16


@dataclass(frozen=True, slots=True)
class Arrival:
    """One delivery of the driver. pixels: an own copy, or None when the exposure is broken, with ``fault`` saying how.

    counter: the camera's own frame counter, None when it has none for this delivery.
    """

    pixels: NDArray[Any] | None
    counter: int | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class _Stamped:
    pixels: NDArray[Any] | None
    fault: str
    frame_id: int
    lost_total: int
    received_ns: int
    received_utc: str


@dataclass(slots=True)
class _Shot:
    """One software trigger asked for; fired_ns: when it was fired, None until then."""

    deadline_ns: int
    fired_ns: int | None = None


class StreamCamera(ABC):
    """A Camera on top of a driver queue; see ``protocol.Camera`` for what is promised.

    A subclass connects (``_connect``), waits for one delivery (``_fetch``), fires (``_await_ready``, ``_fire``),
    restarts the stream (``_restart_stream``) and lets go (``_disconnect``); it turns its library's errors into
    CameraError. ``_connect`` and ``_disconnect`` run in the thread that opens or closes, ``_fetch`` and
    ``_restart_stream`` in the reader thread (for a triggered stream just opened: in the opening one, before there is a
    reader), ``_await_ready`` and ``_fire`` in the shooter thread.
    """

    def __init__(
        self,
        identity: str,
        *,
        software_trigger: bool,
        queue_frames: int,
        counter_wraps_at: int | None = None,
    ) -> None:
        """queue_frames: how many arrived frames wait for ``grab``; when more come the oldest go. 1: the newest only."""
        self._identity = identity
        self._software_trigger = software_trigger
        #: How long before its arrival a frame was exposed at the latest (free-running and live sources), ns.
        self._lead_ns = 0
        self._control = threading.RLock()  # one thread at a time opens, closes
        self._state = threading.Condition()  # guards everything below
        self._queue: deque[_Stamped] = deque(maxlen=queue_frames)
        self._counter = FrameCounter(counter_wraps_at)
        self._lost_reported = 0
        self._discarded = 0
        self._opened_ns = 0
        self._failure: CameraError | None = None
        self._shot: _Shot | None = None
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._flush = threading.Event()

    # ---- for subclasses --------------------------------------------------------------------------------------------

    @abstractmethod
    def _connect(self) -> None:
        """Open the device and start its stream; CameraError when that fails (``_disconnect`` is then called)."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Let go of everything, also half-opened and after a loss; raises nothing."""

    @abstractmethod
    def _fetch(self, timeout_s: float) -> Arrival | None:
        """Wait at most ``timeout_s`` for one delivery; None when there was none; CameraError when it is lost.

        With 0 only what is there already.
        """

    @abstractmethod
    def _await_ready(self, timeout_s: float) -> bool:
        """Wait until the camera takes a software trigger; False when it did not in time; CameraError when lost."""

    @abstractmethod
    def _fire(self) -> None:
        """Fire the software trigger; CameraError when lost."""

    @abstractmethod
    def _restart_stream(self) -> None:
        """Stop and start the stream, so that no exposure fired before can be delivered; CameraError when lost."""

    # ---- Camera ----------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def discarded(self) -> int:
        return self._discarded

    @property
    def opened_ns(self) -> int:
        return self._opened_ns

    def open(self) -> None:
        with self._control:
            if self._threads:
                if self.trouble() is None:
                    return
                self.close()
            try:
                self._connect()
                if self._software_trigger:
                    self._quieten()
            except BaseException:
                self._disconnect()
                raise
            with self._state:
                self._queue.clear()
                self._counter.restart()
                self._failure = None
                self._shot = None
                self._discarded = 0
                self._opened_ns = time.monotonic_ns()
                # New events for each connection: a thread that hangs in its driver can never come back to life.
                self._stop, self._flush = threading.Event(), threading.Event()
                jobs = [self._read, self._shoot] if self._software_trigger else [self._read]
                self._threads = [
                    threading.Thread(target=self._run, args=(job, self._stop), name=self._identity, daemon=True)
                    for job in jobs
                ]
            for thread in self._threads:
                thread.start()
            # A process that ends with threads inside a driver is aborted by it.
            atexit.register(self.close)

    def close(self) -> None:
        self._stop.set()
        with self._state:
            self._state.notify_all()
        with self._control:
            if not self._threads:
                return
            self._stop.set()
            for thread in self._threads:
                thread.join(timeout=10)
            if any(thread.is_alive() for thread in self._threads):
                # Taking the device away under a driver that is inside it crashes the process.
                _LOG.error("camera %s: its driver does not return; it is left as it is", self._identity)
            else:
                self._disconnect()
            atexit.unregister(self.close)
            with self._state:
                self._threads = []
                self._queue.clear()
                self._state.notify_all()

    def trouble(self) -> Reason | None:
        with self._state:
            if self._failure is not None:
                return Reason(self._failure.code, self._failure.message)
            if not self._threads or self._stop.is_set():
                return Reason("CLOSED", f"camera {self._identity} is not open")
            return None

    def grab(self, timeout_s: float, *, after_ns: int) -> Frame:
        deadline_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        with self._state:
            self._raise_if_down()
        shot = self._ask_for_shot(deadline_ns, after_ns) if self._software_trigger else None
        with self._state:
            while True:
                if shot is None:
                    frame = self._take(after_ns)
                else:
                    frame = None if shot.fired_ns is None else self._take(max(after_ns, shot.fired_ns))
                if frame is not None:
                    return frame
                self._raise_if_down()
                left_s = (deadline_ns - time.monotonic_ns()) / 1e9
                if left_s <= 0:
                    if self._software_trigger:
                        self._flush.set()
                    raise GrabTimeout(
                        f"camera {self._identity}: no fresh frame within {timeout_s * 1000:.0f} ms",
                        hint="check trigger, exposure time and cable",
                    )
                self._state.wait(left_s)

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _quieten(self) -> None:
        """Leave nothing in a stream just opened that another trigger than ours has begun; CameraError where it streams.

        When nothing came for a while, no trigger waits in the camera; the restart then drops an exposure under way.
        """
        for _ in range(_STRAY_FRAMES):
            until_ns = time.monotonic_ns() + round(_QUIET_S * 1e9)
            while (left_s := (until_ns - time.monotonic_ns()) / 1e9) > 0:
                if self._fetch(min(left_s, _SLICE_S)) is not None:
                    _LOG.info("camera %s: a frame nobody asked for, while opening", self._identity)
                    break
            else:
                self._restart_stream()
                return
        raise CameraError(
            f"camera {self._identity} delivers frames without being triggered",
            code="CAMERA",
            hint="switch its trigger mode on, let no other program trigger it, or configure it as free-running",
        )

    def _raise_if_down(self) -> None:
        if self._failure is not None:
            raise CameraError(self._failure.message, code=self._failure.code, hint=self._failure.hint)
        if not self._threads or self._stop.is_set():
            raise CameraError(f"camera {self._identity} is not open", code="CLOSED", hint="open it first")

    def _ask_for_shot(self, deadline_ns: int, after_ns: int) -> _Shot:
        """Have the shooter fire, not before ``after_ns`` and on a stream that can deliver nothing older."""
        with self._state:
            while True:
                self._raise_if_down()
                now_ns = time.monotonic_ns()
                busy = self._flush.is_set() or self._shot is not None
                if not busy and now_ns > after_ns:
                    break
                if now_ns >= deadline_ns:
                    raise GrabTimeout(f"camera {self._identity}: not ready to be triggered in time")
                until_ns = deadline_ns if busy else min(deadline_ns, after_ns + 1)
                self._state.wait((until_ns - now_ns) / 1e9)
            self._discarded += len(self._queue)  # frames nobody asked for
            self._queue.clear()
            self._shot = _Shot(deadline_ns)
            self._state.notify_all()
            return self._shot

    def _take(self, after_ns: int) -> Frame | None:
        """The first young enough frame of the queue; CameraError when that exposure is broken."""
        while self._queue:
            item = self._queue.popleft()
            if item.received_ns - self._lead_ns <= after_ns:
                self._discarded += 1
                continue
            if item.pixels is None:
                raise CameraError(
                    f"camera {self._identity}: frame {item.frame_id} is broken: {item.fault}",
                    code="FRAME_BROKEN",
                    hint="check cable, packet size and network load",
                )
            lost_before = item.lost_total - self._lost_reported
            self._lost_reported = item.lost_total
            return Frame(
                pixels=item.pixels,
                frame_id=item.frame_id,
                captured_ns=item.received_ns,
                captured_utc=item.received_utc,
                source=self._identity,
                lost_before=lost_before,
            )
        return None

    def _run(self, job: Callable[[threading.Event], None], stop: threading.Event) -> None:
        """Body of each thread: whatever ends it while the camera is open is a lost camera."""
        failure = CameraError(f"camera {self._identity}: its thread ended unexpectedly", code="LOST")
        try:
            job(stop)
        except CameraError as error:
            # Not the exception itself: its frames hold the driver's objects, and whoever drops the last of them waits
            # for a camera that is gone (2.5 s with GigE Vision). That must be this thread, never the one that grabs.
            failure = CameraError(error.message, code=error.code, hint=error.hint)
        finally:
            with self._state:
                # Not after close, and not when a new connection has taken over.
                if not stop.is_set() and stop is self._stop and self._failure is None:
                    self._failure = failure
                self._state.notify_all()

    def _shoot(self, stop: threading.Event) -> None:
        """The shooter thread."""
        while True:
            with self._state:
                while self._shot is None:
                    if stop.is_set() or self._failure is not None:
                        return
                    self._state.wait()
                shot = self._shot
            ready = self._await_ready(max(0.001, (shot.deadline_ns - time.monotonic_ns()) / 1e9))
            now_ns = time.monotonic_ns()
            if ready and now_ns < shot.deadline_ns:
                shot.fired_ns = now_ns
                self._fire()
            with self._state:
                self._shot = None
                self._state.notify_all()

    def _read(self, stop: threading.Event) -> None:
        """The reader thread."""
        empty_ns = time.monotonic_ns()
        while not stop.is_set():
            # A shot on its way would land behind the restart.
            if self._flush.is_set() and self._shot is None:
                self._restart_stream()
                with self._state:
                    self._discarded += len(self._queue)
                    self._queue.clear()
                    self._counter.restart()
                    self._flush.clear()
                    self._state.notify_all()
            # A look without waiting first: what is there already came after the queue was last known to be empty.
            arrival, received_ns = self._fetch(0.0), empty_ns
            if arrival is None:
                started_ns = time.monotonic_ns()
                arrival = self._fetch(_SLICE_S)
                received_ns = time.monotonic_ns()
                if received_ns - started_ns > _SLICE_S * 1e9 + _HELD_UP_NS:
                    received_ns = started_ns
                empty_ns = received_ns
            if arrival is not None:
                # A triggered stream holds nothing older than its trigger, so there being late is no reason for doubt.
                self._receive(arrival, time.monotonic_ns() if self._software_trigger else received_ns)

    def _receive(self, arrival: Arrival, received_ns: int) -> None:
        received_utc = utc_now()
        pixels = None if arrival.pixels is None else read_only(np.ascontiguousarray(arrival.pixels))
        with self._state:
            if arrival.counter is not None and not self._counter.advance(arrival.counter):
                self._discarded += 1
                return
            if pixels is None:
                # Without a counter the gap before the next frame will count it.
                self._counter.lost_total += arrival.counter is not None
                if self._queue.maxlen == 1:
                    return  # a source that runs by itself: the next frame will do
            if 1 < len(self._queue) == self._queue.maxlen:
                self._discarded += 1  # nobody has asked for it; of a source that runs by itself that is the rule
            self._queue.append(
                _Stamped(
                    pixels, arrival.fault, self._counter.frame_id, self._counter.lost_total, received_ns, received_utc
                )
            )
            self._state.notify_all()
