"""One policy for every camera: notice loss, reconnect in the background, refuse frozen and foreign frames.

The line must never wait for a camera to come back: while it is lost ``grab`` fails at once, the part is rejected, and a
thread of its own tries again every ``retry_s``. One log line when it goes, one when it is back.
"""

from __future__ import annotations

import logging
import threading
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


@dataclass(frozen=True, slots=True)
class CapturePolicy:
    """What is asked of every camera.

    retry_s: time between two attempts to reconnect, and between two looks whether an idle camera is still there.
    frozen_after: that many frames in a row, identical to the last bit, are a frozen camera; 0: never. A real sensor's
    noise makes two identical frames all but impossible, also in the dark; a saturated or blank picture can repeat.
    lost_after_timeouts: that many grabs in a row without a frame are a lost camera; 0: never.
    expect_px: (width, height) every frame must have; expect_bits: 8 or 16; expect_channels: 1 or 3; None: any.
    """

    retry_s: float = 0.5
    frozen_after: int = 3
    lost_after_timeouts: int = 3
    expect_px: tuple[int, int] | None = None
    expect_bits: int | None = None
    expect_channels: int | None = None

    def __post_init__(self) -> None:
        if not 0.01 <= self.retry_s <= 600:
            raise ConfigError(f"camera retry interval {self.retry_s} s is out of range", hint="10 ms to 600 s")
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
        self._state = threading.Condition()  # guards everything below
        self._lost: CameraError | None = None
        self._keeper: threading.Thread | None = None
        self._stop = threading.Event()
        self._timeouts = 0
        self._last: Frame | None = None
        self._repeats = 1
        self._frozen = False

    @property
    def identity(self) -> str:
        return self._camera.identity

    @property
    def discarded(self) -> int:
        return self._camera.discarded

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
                self._lost = None
                self._timeouts = 0
                if lost is not None:
                    self._lose(lost)
                self._keeper = threading.Thread(
                    target=self._keep, args=(self._stop,), name=f"keeper of {self.identity}", daemon=True
                )
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
        with self._state:
            if self._keeper is None:
                return Reason("CLOSED", f"camera {self.identity} is not open")
            if self._lost is not None:
                return Reason("LOST", self._lost.message)
            if self._frozen:
                return Reason("FROZEN", f"camera {self.identity} shows the same picture again and again")
        return self._camera.trouble()

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
        try:
            frame = self._camera.grab(timeout_s, after_ns=after_ns)
        except GrabTimeout as error:
            with self._state:
                self._timeouts += 1
                if self._policy.lost_after_timeouts and self._timeouts >= self._policy.lost_after_timeouts:
                    self._lose(error)
            raise
        except CameraError as error:
            if error.code not in _CONNECTED:
                with self._state:
                    self._lose(error)
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
        if frozen != self._frozen:
            self._frozen = frozen
            if frozen:
                _LOG.error("camera %s is frozen: %d identical frames in a row", self.identity, self._repeats)
            else:
                _LOG.warning("camera %s moves again", self.identity)
        if frozen:
            raise CameraError(
                f"camera {self.identity} is frozen: {self._repeats} identical frames in a row",
                code="FROZEN",
                hint="restart the camera; for a source without noise set frozen_after = 0",
            )

    def _lose(self, error: CameraError) -> None:
        """Held: the state lock."""
        if self._lost is None and not self._stop.is_set():
            self._lost = error
            _LOG.error("camera %s is lost: %s", self.identity, error)
            self._state.notify_all()

    def _keep(self, stop: threading.Event) -> None:
        """The keeper thread: reconnects, and looks after a camera nobody grabs from."""
        while not stop.is_set():
            with self._state:
                if self._lost is None:
                    self._state.wait(self._policy.retry_s)
                lost = self._lost is not None
            if stop.is_set():
                return
            if not lost:
                trouble = self._camera.trouble()
                if trouble is not None and trouble.code not in _CONNECTED:
                    with self._state:
                        self._lose(CameraError(trouble.text, code=trouble.code))
                continue
            self._camera.close()
            try:
                self._camera.open()
            except CameraError as error:
                with self._state:
                    self._lost = error
                stop.wait(self._policy.retry_s)
                continue
            with self._state:
                self._lost = None
                self._timeouts = 0
            _LOG.warning("camera %s is back", self.identity)


def _identical(one: Frame, other: Frame) -> bool:
    """Equal to the last bit; the first row decides at once for a sensor with noise."""
    a, b = one.pixels, other.pixels
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a[:1], b[:1]) and np.array_equal(a, b)
