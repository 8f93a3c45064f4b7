"""What every camera promises, and the counting of its frames.

First station of the line: trigger -> Ticket -> **Frame**. Error codes of CameraError, for machines:

    CAMERA         cannot be opened: absent, busy, wrong options
    LOST           was open and is gone; ``open`` reconnects
    CLOSED         not open (yet, any more)
    GRAB_TIMEOUT   no fresh frame in time (class GrabTimeout)
    FRAME_BROKEN   this exposure arrived incomplete; the camera itself may be well
    FROZEN         the same picture again and again
    WRONG_SIZE     another size, depth or number of channels than expected
    END            a recording is over
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..records import Frame, Reason

__all__ = ["Camera", "FrameCounter"]


@runtime_checkable
class Camera(Protocol):
    """A source of fresh frames.

    One thread grabs; ``close`` and ``trouble`` may be called from any. A new Camera is closed.
    """

    @property
    def identity(self) -> str:
        """Which camera this is, for people and records: kind and serial number, address or path. Known before open."""
        ...

    @property
    def discarded(self) -> int:
        """Frames taken from the driver and thrown away since ``open``, because they were older than asked for."""
        ...

    @property
    def opened_ns(self) -> int:
        """CLOCK_MONOTONIC when it was last opened, 0 before. What was exposed earlier cannot be delivered."""
        ...

    def open(self) -> None:
        """Connect and make ready to grab. Does nothing on an open, healthy camera; reconnects a lost one.

        May block for seconds (a GigE camera). Raises CameraError (code CAMERA); then the camera is closed.
        """
        ...

    def grab(self, timeout_s: float, *, after_ns: int) -> Frame:
        """The next frame that was exposed after ``after_ns`` (CLOCK_MONOTONIC), within ``timeout_s`` (> 0).

        Older frames still in the driver's queue are discarded and counted. With a software trigger this call fires it,
        not before ``after_ns``. ``frame_id`` is the camera's own counter, made to rise for ever (wraps undone, carried
        on across a reconnect); ``lost_before`` counts the exposures missing in it since the frame handed out before.
        Raises GrabTimeout when no such frame came in time, CameraError with another code at once when none can come.
        """
        ...

    def close(self) -> None:
        """Let go of the device. Safe in any state, any number of times, from any thread; ends a waiting ``grab``."""
        ...

    def trouble(self) -> Reason | None:
        """Why the next grab would fail as far as is known without trying; None when all is well.

        Waits for no frame and no lock that ``grab`` or ``open`` holds for long. It may look at a disk; whoever must not
        wait even for that asks a ``ReconnectingCamera``, which never blocks here.
        """
        ...


class FrameCounter:
    """Turns a camera's own counter into one that only rises, and counts what is missing in it.

    wraps_at: the largest value before the counter starts again at 1 (GigE Vision block ids: 65535); None: never.
    """

    def __init__(self, wraps_at: int | None = None) -> None:
        self._wraps_at = wraps_at
        self._raw: int | None = None
        self.frame_id = 0
        self.lost_total = 0

    def restart(self) -> None:
        """The camera begins to count anew; what was lost meanwhile is unknown and not counted."""
        self._raw = None

    def advance(self, raw: int) -> bool:
        """Take the counter of the next frame; False when it is that of the frame before (delivered twice).

        A step back (for a wrapping counter: of less than half its range) means that the camera began anew.
        """
        step = 1 if self._raw is None else raw - self._raw
        if self._wraps_at is not None:
            step %= self._wraps_at
            if step > self._wraps_at // 2:
                step = -1
        if step == 0:
            return False
        self._raw = raw
        self.frame_id += max(step, 1)
        self.lost_total += max(step, 1) - 1
        return True
