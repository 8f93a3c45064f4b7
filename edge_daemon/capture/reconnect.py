"""One policy for every camera: notice loss, reconnect in the background, refuse frozen and foreign frames.

The line must never wait for a camera to come back: while it is lost ``grab`` fails at once, the part is rejected, and a
thread of its own, the keeper, tries again every ``retry_s``. One log line when it goes, one when it is back.

A frozen camera is closed and opened too: it keeps the station from being Ready, so no trigger would ever show that it
moves again. The picture it froze on stays in mind, so that it is refused at once when it comes again.

Only the keeper asks a camera whether it is well, because the answer may need a disk or a network that hangs;
``trouble`` gives the last answer, and calls a camera lost whose answer is overdue.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from ..errors import CameraError, ConfigError, GrabTimeout
from ..records import Frame, Reason
from .protocol import Camera

__all__ = ["CapturePolicy", "ReconnectingCamera"]

_LOG = logging.getLogger("edge_daemon.capture")

#: After these the connection is still there: reconnecting would not help.
_CONNECTED = frozenset({"GRAB_TIMEOUT", "FRAME_BROKEN", "FROZEN", "WRONG_SIZE", "END"})
#: How much longer than two looks a busy machine may take until a camera's answer counts as overdue.
_OVERDUE_S = 1.0


@dataclass(frozen=True, slots=True)
class CapturePolicy:
    """What is asked of every camera.

    retry_s: time between two attempts to reconnect, and between two looks whether an idle camera is still there.
    frozen_after: the frame that is the n-th in a row, identical to the last bit, is refused, and so are those that
    follow; 0: never. With 2 no part is judged by the picture of the part before it. A real sensor's noise makes two
    identical frames all but impossible, also in the dark; a saturated or blank picture can repeat, and so can a file.
    reopen_s: least time between two attempts to wake a frozen camera by closing and opening it.
    lost_after_timeouts: that many grabs in a row without a frame are a lost camera; 0: never.
    expect_px: (width, height) every frame must have; expect_bits: 8 or 16; expect_channels: 1 or 3; None: any.
    """

    retry_s: float = 0.5
    frozen_after: int = 2
    reopen_s: float = 5.0
    lost_after_timeouts: int = 3
    expect_px: tuple[int, int] | None = None
    expect_bits: int | None = None
    expect_channels: int | None = None

    def __post_init__(self) -> None:
        if not 0.01 <= self.retry_s <= 600:
            raise ConfigError(f"camera retry interval {self.retry_s} s is out of range", hint="10 ms to 600 s")
        if not 0.01 <= self.reopen_s <= 3600:
            raise ConfigError(f"camera reopen interval {self.reopen_s} s is out of range", hint="10 ms to 1 h")
        if self.frozen_after < 0 or self.frozen_after == 1:
            raise ConfigError(f"frozen_after = {self.frozen_after} is out of range", hint="2 or more, or 0 for never")
        if self.lost_after_timeouts < 0:
            raise ConfigError(f"lost_after_timeouts = {self.lost_after_timeouts} is negative", hint="0 for never")


class ReconnectingCamera:
    """A Camera that mends itself; itself a ``Camera``. Usable as a context manager (opens, closes)."""

    def __init__(self, camera: Camera, policy: CapturePolicy | None = None) -> None:
        self._camera = camera
        self._policy = policy or CapturePolicy()
        self._control = threading.RLock()  # one thread at a time opens, closes
        self._state = threading.Condition()  # guards the writing of what follows; held for moments only
        self._keeper: threading.Thread | None = None
        self._stop = threading.Event()
        self._lost: CameraError | None = None
        self._frozen = False
        self._reopening = False
        self._connection = 0  # counts openings, so that the error of a grab can be told to belong to an earlier one
        self._timeouts = 0
        self._reported: Reason | None = None  # what the camera last said of itself, and when
        self._answered_s = 0.0
        self._last: Frame | None = None  # these two belong to the thread that grabs
        self._repeats = 1

    @property
    def identity(self) -> str:
        return self._camera.identity

    @property
    def discarded(self) -> int:
        return self._camera.discarded

    @property
    def opened_ns(self) -> int:
        return self._camera.opened_ns

    def open(self, *, wait: bool = False) -> None:
        """Open the camera. With ``wait`` an absent camera is no error: it is lost, and taken when it appears.

        Raises CameraError when it cannot be opened and ``wait`` is not set; then nothing keeps running.
        """
        with self._control:
            if self._keeper is not None:
                return
            lost: CameraError | None = None
            try:
                self._camera.open()
            except CameraError as error:
                if not wait:
                    raise
                lost = error
            with self._state:
                self._stop = threading.Event()
                self._connection += 1
                self._opened()
                self._keeper = threading.Thread(
                    target=self._keep, args=(self._stop,), name=f"keeper of {self.identity}", daemon=True
                )
            if lost is not None:
                self._lose(lost, self._connection)
            self._keeper.start()

    def __enter__(self) -> ReconnectingCamera:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._control:
            with self._state:
                keeper, self._keeper = self._keeper, None
                self._stop.set()
                self._state.notify_all()
            if keeper is not None:
                keeper.join()
            self._camera.close()

    def trouble(self) -> Reason | None:
        # Without the lock, from values read once: nothing that another thread is busy with can hold up the caller.
        lost, reported = self._lost, self._reported
        if self._keeper is None:
            return Reason("CLOSED", f"camera {self.identity} is not open")
        if lost is not None:
            return Reason("LOST", lost.message)
        if self._frozen:
            return Reason("FROZEN", f"camera {self.identity} shows the same picture again and again")
        silent_s = time.monotonic() - self._answered_s
        if silent_s > 2 * self._policy.retry_s + _OVERDUE_S:
            return Reason("LOST", f"camera {self.identity} has not said for {silent_s:.1f} s whether it is well")
        return reported

    def grab(self, timeout_s: float, *, after_ns: int) -> Frame:
        with self._state:
            if self._keeper is None:
                raise CameraError(f"camera {self.identity} is not open", code="CLOSED", hint="open it first")
            if self._lost is not None:
                raise CameraError(
                    f"camera {self.identity} is lost: {self._lost.message}",
                    code="LOST",
                    hint=self._lost.hint or "check cable and power; it is taken back by itself",
                )
            if self._reopening:
                raise self._being_reopened()
            connection = self._connection
        try:
            frame = self._camera.grab(timeout_s, after_ns=after_ns)
        except GrabTimeout as error:
            with self._state:
                self._timeouts += 1
                gone = 0 < self._policy.lost_after_timeouts <= self._timeouts
            if gone:
                self._lose(error, connection)
            raise
        except CameraError as error:
            if error.code == "END":
                self._reported = Reason(error.code, error.message)
            elif error.code not in _CONNECTED and not self._lose(error, connection):
                raise self._being_reopened() from error
            raise
        with self._state:
            self._timeouts = 0
        self._check_kind(frame)
        self._check_moving(frame)
        return frame

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _check_kind(self, frame: Frame) -> None:
        height_px, width_px = frame.pixels.shape[:2]
        channels = 1 if frame.pixels.ndim == 2 else frame.pixels.shape[2]
        bits = frame.pixels.dtype.itemsize * 8
        policy = self._policy
        for what, expected, found in (
            ("size (width, height) px", policy.expect_px, (width_px, height_px)),
            ("bits", policy.expect_bits, bits),
            ("channels", policy.expect_channels, channels),
        ):
            if expected is not None and expected != found:
                raise CameraError(
                    f"camera {self.identity}: {what} {found}, expected {expected}",
                    code="WRONG_SIZE",
                    hint="set the camera's region of interest and pixel format, or correct the configuration",
                )

    def _check_moving(self, frame: Frame) -> None:
        if not self._policy.frozen_after:
            return
        last, self._last = self._last, frame
        self._repeats = self._repeats + 1 if last is not None and _identical(last, frame) else 1
        frozen = self._repeats >= self._policy.frozen_after
        with self._state:
            changed, self._frozen = frozen != self._frozen, frozen
        if changed and frozen:
            _LOG.error("camera %s is frozen: %d identical frames in a row", self.identity, self._repeats)
        elif changed:
            _LOG.warning("camera %s moves again", self.identity)
        if frozen:
            raise CameraError(
                f"camera {self.identity} is frozen: {self._repeats} identical frames in a row",
                code="FROZEN",
                hint="restart the camera; for a source without noise set frozen_after = 0",
            )

    def _being_reopened(self) -> CameraError:
        return CameraError(
            f"camera {self.identity} is being closed and opened again",
            code="FROZEN" if self._frozen else "LOST",
            hint="the next part finds it open, or learns why not",
        )

    def _lose(self, error: CameraError, connection: int) -> bool:
        """Call it lost; False when the keeper has closed it since ``connection``: the error is the echo of that."""
        with self._state:
            if self._stop.is_set():
                return True
            if connection != self._connection:
                return False
            news, self._lost = self._lost is None, error
            self._state.notify_all()
        if news:
            _LOG.error("camera %s is lost: %s", self.identity, error)
        return True

    def _opened(self) -> None:
        """It has just been opened. ``_last`` and ``_repeats`` stay. Held: the state lock."""
        self._lost = self._reported = None
        self._frozen = self._reopening = False
        self._timeouts = 0
        self._answered_s = time.monotonic()

    def _keep(self, stop: threading.Event) -> None:
        """The keeper thread: reconnects, wakes a frozen camera, and looks after one that nobody grabs from."""
        reopened_s = -self._policy.reopen_s
        while not stop.is_set():
            with self._state:
                if self._lost is None:
                    self._state.wait(self._policy.retry_s)
                if stop.is_set():
                    return
                lost = self._lost is not None
                frozen = self._frozen and time.monotonic() - reopened_s >= self._policy.reopen_s
                if lost or frozen:
                    self._reopening = True
                    self._connection += 1
            if not (lost or frozen):
                self._look()
                continue
            self._camera.close()
            try:
                self._camera.open()
            except CameraError as error:
                self._lose(error, self._connection)
                stop.wait(self._policy.retry_s)
                continue
            reopened_s = time.monotonic()
            with self._state:
                self._opened()
            what = "is back" if lost else "was frozen; it has been closed and opened again"
            _LOG.warning("camera %s %s", self.identity, what)

    def _look(self) -> None:
        """Ask the camera how it is, and keep the answer."""
        trouble = self._camera.trouble()
        if trouble is not None and trouble.code not in _CONNECTED:
            self._lose(CameraError(trouble.text, code=trouble.code), self._connection)
        else:
            self._reported, self._answered_s = trouble, time.monotonic()


def _identical(one: Frame, other: Frame) -> bool:
    """Equal to the last bit; the first row decides at once for a sensor with noise."""
    a, b = one.pixels, other.pixels
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a[:1], b[:1]) and np.array_equal(a, b)
