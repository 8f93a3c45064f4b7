"""What every Camera must do, as checks any implementation can be put through: ours, a plug-in's, a real device.

A *rig* is a camera together with the means to make it expose, and, where possible, to take it away and bring it back:

    class MyRig(CameraRig):
        def __init__(self): self.camera = MyCamera(...)
        def expose(self): press_the_button()

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_camera(check):
        with closing(MyRig()) as rig: check(rig)

Checks raise AssertionError. Each leaves the camera closed and needs a rig of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from itertools import pairwise

import numpy as np

from ..capture.protocol import Camera
from ..errors import CameraError, GrabTimeout
from ..records import Frame

__all__ = ["CHECKS", "CameraRig"]

#: A loaded machine may be this late.
_SLACK_S = 0.5


class CameraRig:
    """A closed camera and what a check may do around it. Subclass and set ``camera``.

    grab_s: time in which a healthy camera surely delivers. notice_s: time in which a loss is surely noticed.
    """

    camera: Camera
    grab_s = 5.0
    notice_s = 15.0
    can_lose = False

    def expose(self) -> None:
        """Make one exposure happen now; nothing to do where ``grab`` triggers or the camera runs by itself."""

    def exposed_ns(self, frame: Frame) -> int | None:
        """When this frame was really exposed (CLOCK_MONOTONIC), where the rig can tell."""

    def lose(self) -> None:
        """Take the camera away, as by pulling its cable. Only where ``can_lose``."""
        raise AssertionError("this rig cannot lose its camera")

    def restore(self) -> None:
        """Bring it back."""

    def close(self) -> None:
        """Put everything away."""
        self.camera.close()


def _grab_new(rig: CameraRig) -> Frame:
    after_ns = time.monotonic_ns()
    rig.expose()
    frame = rig.camera.grab(rig.grab_s, after_ns=after_ns)
    assert after_ns < frame.captured_ns <= time.monotonic_ns(), "captured_ns lies outside of the grab"
    exposed_ns = rig.exposed_ns(frame)
    assert exposed_ns is None or exposed_ns > after_ns, f"exposed {(after_ns - exposed_ns) / 1e6:.1f} ms too early"
    return frame


def _error_of(grab: Callable[[], Frame]) -> CameraError:
    try:
        frame = grab()
    except CameraError as error:
        return error
    raise AssertionError(f"no CameraError, but frame {frame.frame_id}")


def check_new_camera_is_closed(rig: CameraRig) -> None:
    """Before open: an identity, trouble CLOSED, grab refused at once."""
    assert isinstance(rig.camera, Camera)
    assert rig.camera.identity
    trouble = rig.camera.trouble()
    assert trouble is not None
    assert trouble.code == "CLOSED"
    started_s = time.monotonic()
    error = _error_of(lambda: rig.camera.grab(5.0, after_ns=time.monotonic_ns()))
    assert error.code == "CLOSED"
    assert time.monotonic() - started_s < _SLACK_S


def check_frames_are_sound(rig: CameraRig) -> None:
    """Pixels grey or RGB of 8 or 16 bit, read-only, each frame its own memory; ids rise; times are in order."""
    opening_ns = time.monotonic_ns()
    rig.camera.open()
    assert opening_ns <= rig.camera.opened_ns <= time.monotonic_ns()
    assert rig.camera.trouble() is None
    frames = [_grab_new(rig) for _ in range(4)]
    copies = [frame.pixels.copy() for frame in frames]
    frames += [_grab_new(rig) for _ in range(4)]
    for frame in frames:
        assert frame.pixels.dtype in (np.uint8, np.uint16)
        assert frame.pixels.ndim == 2 or frame.pixels.shape[2] == 3
        assert not frame.pixels.flags.writeable, "pixels can be written to"
        assert frame.pixels.flags.c_contiguous
        assert frame.lost_before >= 0
        assert frame.source
        assert datetime.fromisoformat(frame.captured_utc.replace("Z", "+00:00")).tzinfo is not None
    for earlier, later in pairwise(frames):
        assert later.frame_id > earlier.frame_id, "frame ids do not rise"
        assert later.captured_ns > earlier.captured_ns
        assert not np.shares_memory(earlier.pixels, later.pixels)
    for frame, copy in zip(frames, copies, strict=False):
        assert np.array_equal(frame.pixels, copy), "a later frame was written over an earlier one"
    rig.camera.close()


def check_old_frames_are_never_returned(rig: CameraRig) -> None:
    """Exposures nobody asked for, and a time-out's late one, are not handed out afterwards."""
    rig.camera.open()
    _grab_new(rig)
    for pause_s in (0.0, 0.03, 0.15):
        rig.expose()
        rig.expose()
        time.sleep(pause_s)
        _grab_new(rig)
        # A time-out leaves an exposure under way in a triggered camera.
        with suppress(GrabTimeout):
            rig.camera.grab(0.002, after_ns=time.monotonic_ns())
        _grab_new(rig)
    rig.camera.close()


def check_timeout_is_kept(rig: CameraRig) -> None:
    """Nothing young enough: GrabTimeout, not before and not long after the time given; then it works again."""
    rig.camera.open()
    _grab_new(rig)
    for timeout_s in (0.02, 0.2):
        started_s = time.monotonic()
        error = _error_of(lambda: rig.camera.grab(timeout_s, after_ns=time.monotonic_ns() + 3_600_000_000_000))  # noqa: B023
        taken_s = time.monotonic() - started_s
        assert isinstance(error, GrabTimeout)
        assert error.code == "GRAB_TIMEOUT"
        assert timeout_s * 0.99 <= taken_s < timeout_s + _SLACK_S
    _grab_new(rig)
    rig.camera.close()


def check_close_in_any_state(rig: CameraRig) -> None:
    """Close before open, twice, in the middle; grab afterwards is refused; open brings it back and ids go on rising."""
    rig.camera.close()
    rig.camera.close()
    rig.camera.open()
    rig.camera.open()
    first = _grab_new(rig)
    rig.camera.close()
    rig.camera.close()
    assert _error_of(lambda: rig.camera.grab(5.0, after_ns=time.monotonic_ns())).code == "CLOSED"
    rig.camera.open()
    assert _grab_new(rig).frame_id > first.frame_id
    rig.camera.close()


def check_close_ends_a_waiting_grab(rig: CameraRig) -> None:
    """Another thread's close ends a grab at once, with CameraError."""
    rig.camera.open()
    caught: list[CameraError] = []
    far_ns = time.monotonic_ns() + 3_600_000_000_000
    waiting = threading.Thread(
        target=lambda: caught.append(_error_of(lambda: rig.camera.grab(30.0, after_ns=far_ns))), daemon=True
    )
    waiting.start()
    time.sleep(0.1)
    started_s = time.monotonic()
    rig.camera.close()
    waiting.join(timeout=10)
    assert not waiting.is_alive(), "grab goes on waiting after close"
    assert time.monotonic() - started_s < 3.0
    assert [error.code for error in caught] == ["CLOSED"]


def check_loss_is_noticed_and_mended(rig: CameraRig) -> None:
    """Gone: CameraError within ``notice_s`` and never an old frame; back: ``open`` reconnects, ids go on rising."""
    if not rig.can_lose:
        return
    rig.camera.open()
    first = _grab_new(rig)
    rig.lose()
    until_s = time.monotonic() + rig.notice_s
    error: CameraError | None = None
    while error is None or isinstance(error, GrabTimeout):
        assert time.monotonic() < until_s, "the loss is not noticed"
        started_s = time.monotonic()
        try:
            frame = rig.camera.grab(0.2, after_ns=time.monotonic_ns())
        except CameraError as caught:
            error = caught
        else:
            # What the driver had taken before may still be handed out, as long as it is fresh.
            assert frame.frame_id > first.frame_id
        assert time.monotonic() - started_s < 0.2 + _SLACK_S, "grab did not keep its time while the camera was lost"
    trouble = rig.camera.trouble()
    assert trouble is not None
    rig.restore()
    rig.camera.open()
    assert rig.camera.trouble() is None
    assert _grab_new(rig).frame_id > first.frame_id
    rig.camera.close()


#: Every check, in the order in which it is easiest to mend what fails.
CHECKS: tuple[Callable[[CameraRig], None], ...] = (
    check_new_camera_is_closed,
    check_frames_are_sound,
    check_timeout_is_kept,
    check_old_frames_are_never_returned,
    check_close_in_any_state,
    check_close_ends_a_waiting_grab,
    check_loss_is_noticed_and_mended,
)
