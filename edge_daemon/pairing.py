"""Frames and triggers of a camera that exposes once a trigger pair up one to one, or nothing may pass.

Frames carry no part number. What says that a frame is a part's own is that it came after the part's trigger, and that
each trigger before had one. A trigger that the wire or the PLC held up finds its own frame there already, too old, and
would take the next part's. Its own frame is what gives it away: a frame for which no trigger was there.

So a frame left over puts the pairing in doubt for as long as a PLC may hold a trigger up; each further one begins that
time anew. What was exposed while the camera was not open cannot be left over, so after an opening it is in doubt as
well. Time alone ends the doubt: a frame that nobody ever asks for (a test shot, a paused line) blocks nothing for ever.

Not covered: a trigger held up whose own frame was lost as well; triggers that are all held up by about the same whole
number of part intervals for longer than that time; cameras that expose when we say, or by themselves.
"""

from __future__ import annotations

import threading
import time

from .capture.protocol import Camera
from .logs import log

__all__ = ["Pairing"]


class Pairing:
    """Counts the frames that are left over. ``trouble`` may be asked from any thread; the rest is the capturing one's.

    held_s: how long a trigger may be on its way, from the exposure of its part.
    """

    def __init__(self, camera: Camera, held_s: float) -> None:
        self._camera, self._held_ns = camera, round(1e9 * held_s)
        self._last_captured_ns = -1
        self._discarded = camera.discarded
        self._lock = threading.Lock()  # guards the two below
        self._ungrabbed: list[int] = []  # when the parts were triggered whose frame nobody has asked the camera for
        self._doubt_until_ns = 0

    def not_grabbed(self, trigger_ns: int) -> None:
        """This trigger's part was refused without a look at the camera: its frame will be left over, rightly."""
        with self._lock:
            if trigger_ns <= time.monotonic_ns():  # not of the time before a reboot
                self._ungrabbed.append(trigger_ns)

    def frame_is_taken(self, earliest_ns: int) -> bool:
        """Whether the part before has taken the frame that came after ``earliest_ns``.

        To wait for another would take the next part's, and so on: each part judged by its successor's, for ever.
        """
        return self._last_captured_ns >= earliest_ns

    def grabbed(self, captured_ns: int | None) -> None:
        """After each ``grab``; captured_ns: of the frame it gave, None where it gave none."""
        if captured_ns is not None:
            self._last_captured_ns = captured_ns
        discarded, before = self._camera.discarded, self._discarded
        left_over = discarded - before if discarded >= before else discarded  # it counts anew after an opening
        self._discarded = discarded
        with self._lock:
            # One that was triggered before the opening cannot have left a frame.
            excused = sum(trigger_ns >= self._camera.opened_ns for trigger_ns in self._ungrabbed)
            self._ungrabbed.clear()
            if left_over <= excused:
                return
            in_step, now_ns = time.monotonic_ns() >= self._doubt_until_ns, time.monotonic_ns()
            self._doubt_until_ns = now_ns + self._held_ns
        if in_step:
            log("out_of_step", f"{left_over - excused} frames came for which there was no trigger: a trigger was held "
                "up, or the camera was triggered by somebody else, or max_early is too short", level=30,
                frames=left_over - excused)  # fmt: skip

    def trouble(self) -> str:
        """Why no frame is surely its part's, ``""`` where each is."""
        now_ns = time.monotonic_ns()
        with self._lock:
            if now_ns < self._doubt_until_ns:
                return "frames and triggers were out of step just now: this frame may be another part's"
            over, self._doubt_until_ns = self._doubt_until_ns != 0, 0
        if over:
            log("in_step", "each frame has its trigger again")
        opened_ns = self._camera.opened_ns
        if opened_ns and now_ns < opened_ns + self._held_ns:
            return "the camera was opened just now: a trigger held up since before may be given another part's frame"
        return ""
