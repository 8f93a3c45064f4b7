"""Video through OpenCV: live sources (V4L2 device, RTSP or HTTP stream) and recordings (a video file, for replay).

A live source is read by a thread that keeps only the newest frame. Such sources tell neither when a frame was exposed
nor how many were dropped: a frame counts as exposed ``latency_s`` before it was received, and ``lost_before`` is always
0. Frames that come in a rush after a pause (opening, a network that stalled, a stopped process) are old and dropped
until the source keeps its pace again. Not covered: a sender or decoder that falls behind evenly; measure the latency
(film a clock) before you trust a network stream with parts that move. Pixels are 8-bit RGB as decoded; network streams
and most V4L2 formats are lossy, which changes small defects.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import cv2

from ..errors import CameraError, GrabTimeout
from ..images import quiet_opencv
from ..records import Frame, Reason, read_only
from ..tickets import utc_now
from .options import VideoOptions
from .pixels import from_bgr
from .protocol import Camera
from .stream import Arrival, StreamCamera

__all__ = ["LiveVideoCamera", "Pace", "VideoFileCamera", "make_video_camera"]

_OPEN_TIMEOUT_S = 5.0


def make_video_camera(options: VideoOptions) -> Camera:
    """The camera for a source: ``/dev/...`` and addresses with ``://`` are live, anything else is a file."""
    if options.source.startswith("/dev/") or "://" in options.source:
        return LiveVideoCamera(options)
    return VideoFileCamera(options)


class Pace:
    """Tells whether frames come as they are taken, or in a rush after a pause.

    interval_s: time between two frames of the source. Where that is wrong by more than a factor of two, frames of a
    faster source are never taken for new; a slower one is recognised by two long gaps in a row.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._behind = True  # what a source has buffered before it is opened is old
        self._after_long_gap = False
        self._ended_s: float | None = None

    def keeps(self, started_s: float, ended_s: float) -> bool:
        """Whether the frame whose read ran from ``started_s`` to ``ended_s`` is new.

        After a gap of more than 2.5 intervals everything is old until a read has waited for at least half of one.
        """
        long_gap = self._ended_s is not None and ended_s - self._ended_s > 2.5 * self._interval_s
        if long_gap and not self._after_long_gap:
            self._behind = True
        elif ended_s - started_s >= self._interval_s / 2:
            self._behind = False
        self._after_long_gap, self._ended_s = long_gap, ended_s
        return not self._behind


class LiveVideoCamera(StreamCamera):
    """Newest frame of a running source; its frames are counted here, in the order they were received."""

    def __init__(self, options: VideoOptions) -> None:
        super().__init__(f"video {_without_password(options.source)}", software_trigger=False, queue_frames=1)
        self._options = options
        self._capture: cv2.VideoCapture | None = None
        self._pace = Pace(0.04)
        self._received = 0
        self._lead_ns = round(options.latency_s * 1e9)

    def _connect(self) -> None:
        options = self._options
        _quiet()
        if "://" in options.source:
            timeouts = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(_OPEN_TIMEOUT_S * 1000),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(options.read_timeout_s * 1000),
            ]  # fmt: skip
            self._capture = cv2.VideoCapture(options.source, cv2.CAP_FFMPEG, timeouts)
        else:
            # By number: OpenCV's V4L2 takes no names. A link such as /dev/v4l/by-id/... leads to /dev/videoN.
            device = re.fullmatch(r"/dev/video([0-9]+)", str(Path(options.source).resolve()))
            if device is None:
                raise CameraError(f"camera {self._identity} is no video device", hint="for example /dev/video0")
            self._capture = cv2.VideoCapture(int(device[1]), cv2.CAP_V4L2)
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
            if options.size_px is not None:
                self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.size_px[0])
                self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.size_px[1])
            if options.fps is not None:
                self._capture.set(cv2.CAP_PROP_FPS, options.fps)
        if not self._capture.isOpened():
            raise CameraError(
                f"camera {self._identity} cannot be opened",
                hint="check device or address, the right to read it, and that no other program holds it",
            )
        fps = options.fps or self._capture.get(cv2.CAP_PROP_FPS)
        self._pace = Pace(1 / fps if 1 <= fps <= 1000 else 0.04)

    def _disconnect(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def _fetch(self, timeout_s: float) -> Arrival | None:
        if timeout_s == 0 or self._capture is None:
            return None  # OpenCV cannot look without waiting; the pace tells what was there already
        started_s = time.monotonic()
        try:
            done, stored = self._capture.read()
        except cv2.error as error:
            raise CameraError(f"camera {self._identity}: {error}", code="LOST") from error
        if not done:
            raise CameraError(f"camera {self._identity} delivers no more", code="LOST", hint="check cable and network")
        if not self._pace.keeps(started_s, time.monotonic()):
            self._discarded += 1
            return None
        self._received += 1
        return Arrival(from_bgr(stored, grey=self._options.grey), self._received)

    def _await_ready(self, timeout_s: float) -> bool:
        raise CameraError(f"camera {self._identity} has no trigger ({timeout_s} s)")

    def _fire(self) -> None:
        raise CameraError(f"camera {self._identity} has no trigger")

    def _restart_stream(self) -> None:
        self._disconnect()
        self._connect()


class VideoFileCamera:
    """A recording, frame after frame: each grab is the moment at which the next frame is taken to be exposed.

    ``frame_id`` counts from 1. After the last frame: CameraError, code END; closing and opening starts over.
    """

    def __init__(self, options: VideoOptions) -> None:
        self._options = options
        self._identity = f"video {options.source}"
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._stop.set()
        self._capture: cv2.VideoCapture | None = None
        self._frame_id = 0
        self._opened_ns = 0
        self._ended = False

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def discarded(self) -> int:
        return 0

    @property
    def opened_ns(self) -> int:
        return self._opened_ns

    def open(self) -> None:
        with self._lock:
            if not self._stop.is_set():
                return
            _quiet()
            if not Path(self._options.source).is_file():
                raise CameraError(f"camera {self._identity}: no such file", hint="check the path")
            capture = cv2.VideoCapture(self._options.source)
            if not capture.isOpened():
                capture.release()
                raise CameraError(
                    f"camera {self._identity} is no video that can be read", hint="convert it to AVI MJPG"
                )
            self._capture = capture
            self._ended = False
            self._opened_ns = time.monotonic_ns()
            self._stop.clear()

    def close(self) -> None:
        self._stop.set()
        with self._lock:
            capture, self._capture = self._capture, None
            if capture is not None:
                capture.release()

    def trouble(self) -> Reason | None:
        if self._stop.is_set():
            return Reason("CLOSED", f"camera {self._identity} is not open")
        return Reason("END", f"camera {self._identity} is over") if self._ended else None

    def grab(self, timeout_s: float, *, after_ns: int) -> Frame:
        deadline_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        with self._lock:
            # Strictly after: not in the same nanosecond either.
            if after_ns >= deadline_ns:
                self._stop.wait(timeout_s)
            elif (wait_ns := after_ns + 1 - time.monotonic_ns()) > 0:
                self._stop.wait(wait_ns / 1e9)
            if self._stop.is_set() or self._capture is None:
                raise CameraError(f"camera {self._identity} is not open", code="CLOSED", hint="open it first")
            captured_ns, captured_utc = time.monotonic_ns(), utc_now()
            if captured_ns <= after_ns:
                raise GrabTimeout(f"camera {self._identity}: no frame wanted within {timeout_s * 1000:.0f} ms")
            try:
                done, stored = (False, None) if self._ended else self._capture.read()
            except cv2.error as error:
                raise CameraError(f"camera {self._identity} cannot be decoded: {error}", code="FRAME_BROKEN") from error
            if not done or stored is None:
                self._ended = True
                raise CameraError(f"camera {self._identity} is over", code="END", hint="close and open to start over")
            self._frame_id += 1
            pixels = read_only(from_bgr(stored, grey=self._options.grey))
            return Frame(pixels, self._frame_id, captured_ns, captured_utc, self._identity)


def _quiet() -> None:
    """Keep OpenCV and FFmpeg from writing to stderr what our errors say."""
    quiet_opencv()
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET


def _without_password(source: str) -> str:
    """``rtsp://user:secret@host/x`` without what stands before the @: this text goes into records and logs."""
    scheme, mark, rest = source.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else source
