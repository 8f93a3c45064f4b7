"""The reconnect policy, on a camera whose every answer is scripted; counters, options and the factory."""

from __future__ import annotations

import importlib.metadata
import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge_daemon.capture import (
    KINDS,
    AravisOptions,
    BaslerOptions,
    Camera,
    CapturePolicy,
    FolderOptions,
    FrameCounter,
    ReconnectingCamera,
    VideoOptions,
    make_camera,
    open_camera,
)
from edge_daemon.capture.video import Pace
from edge_daemon.errors import CameraError, ConfigError, GrabTimeout, MissingExtra
from edge_daemon.records import Frame, Reason


def _frame(value: int, *, shape: tuple[int, ...] = (20, 30), dtype: type = np.uint8) -> Frame:
    return Frame(np.full(shape, value, dtype), 1, 1, "2026-01-01T00:00:00.000Z", "script")


class Scripted:
    """Gives the frames or raises the errors of ``script`` in turn; ``present`` says whether it can be opened."""

    identity = "scripted"
    discarded = opened_ns = 0

    def __init__(self, *script: Frame | CameraError) -> None:
        self.script = list(script)
        self.present = True
        self.opened = 0
        self.is_open = False
        self.reported: Reason | None = None

    def open(self) -> None:
        self.opened += 1
        if not self.present:
            raise CameraError("nobody there")
        self.is_open, self.reported = True, None

    def grab(self, timeout_s: float, *, after_ns: int) -> Frame:
        answer = self.script.pop(0)
        if isinstance(answer, CameraError):
            raise answer
        return answer

    def close(self) -> None:
        self.is_open = False

    def trouble(self) -> Reason | None:
        return self.reported


LOST = CameraError("cable pulled", code="LOST")
QUICK = CapturePolicy(retry_s=0.02)


def _until(condition: object, timeout_s: float = 5.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until_s, "did not happen"
        time.sleep(0.005)


def _grab(camera: Camera) -> Frame:
    return camera.grab(1.0, after_ns=time.monotonic_ns())


def _code(camera: Camera) -> str:
    with pytest.raises(CameraError) as caught:
        _grab(camera)
    return caught.value.code


def test_it_is_a_camera_itself() -> None:
    assert isinstance(ReconnectingCamera(Scripted()), Camera)


def test_a_lost_camera_fails_at_once_and_comes_back_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    inner = Scripted(_frame(1), LOST, _frame(2))
    with caplog.at_level(logging.WARNING), ReconnectingCamera(inner, QUICK) as camera:
        assert _grab(camera).pixels[0, 0] == 1
        inner.present = False
        assert _code(camera) == "LOST"
        started_s = time.monotonic()
        assert [_code(camera) for _ in range(5)] == ["LOST"] * 5
        assert time.monotonic() - started_s < 0.5
        trouble = camera.trouble()
        assert trouble is not None
        assert trouble.code == "LOST"
        _until(lambda: inner.opened > 4)
        inner.present = True
        _until(lambda: camera.trouble() is None)
        assert _grab(camera).pixels[0, 0] == 2
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "scripted is lost: cable pulled" in lines[0]
    assert "scripted is back" in lines[1]
    assert not inner.is_open


def test_an_idle_camera_is_looked_after() -> None:
    inner = Scripted(_frame(3))
    with ReconnectingCamera(inner, QUICK) as camera:
        inner.reported = Reason("LOST", "heartbeat missing")
        _until(lambda: inner.opened == 2)
        _until(lambda: camera.trouble() is None)
        assert _grab(camera).pixels[0, 0] == 3


def test_opening_an_absent_camera_is_an_error_or_a_wait() -> None:
    inner = Scripted(_frame(1))
    inner.present = False
    camera = ReconnectingCamera(inner, QUICK)
    with pytest.raises(CameraError, match="nobody there"):
        camera.open()
    assert _code(camera) == "CLOSED"
    camera.open(wait=True)
    assert _code(camera) == "LOST"
    inner.present = True
    _until(lambda: camera.trouble() is None)
    assert _grab(camera).pixels[0, 0] == 1
    camera.close()


def test_close_is_safe_in_any_state_and_stops_the_attempts() -> None:
    inner = Scripted(LOST)
    camera = ReconnectingCamera(inner, QUICK)
    camera.close()
    camera.open()
    inner.present = False
    assert _code(camera) == "LOST"
    camera.close()
    camera.close()
    attempts = inner.opened
    time.sleep(0.1)
    assert inner.opened == attempts
    assert _code(camera) == "CLOSED"
    trouble = camera.trouble()
    assert trouble is not None
    assert trouble.code == "CLOSED"
    assert not [thread for thread in threading.enumerate() if "scripted" in thread.name]


@pytest.mark.parametrize("code", ["GRAB_TIMEOUT", "FRAME_BROKEN", "END"])
def test_trouble_with_one_frame_is_no_loss(code: str) -> None:
    error = GrabTimeout("late") if code == "GRAB_TIMEOUT" else CameraError("bad", code=code)
    inner = Scripted(error, _frame(1))
    with ReconnectingCamera(inner, QUICK) as camera:
        assert _code(camera) == code
        assert _grab(camera).pixels[0, 0] == 1
    assert inner.opened == 1


def test_time_outs_in_a_row_are_a_loss() -> None:
    late = GrabTimeout("late")
    inner = Scripted(late, late, _frame(1), late, late, late, _frame(2))
    with ReconnectingCamera(inner, CapturePolicy(retry_s=0.02, lost_after_timeouts=3)) as camera:
        assert [_code(camera), _code(camera)] == ["GRAB_TIMEOUT"] * 2
        assert _grab(camera).pixels[0, 0] == 1
        assert inner.opened == 1
        assert [_code(camera) for _ in range(3)] == ["GRAB_TIMEOUT"] * 3
        _until(lambda: inner.opened == 2 and camera.trouble() is None)
        assert _grab(camera).pixels[0, 0] == 2


def test_the_nth_identical_frame_is_frozen_until_it_moves(caplog: pytest.LogCaptureFixture) -> None:
    moved = _frame(5)
    moved.pixels[19, 29] = 6  # one bit in the last pixel
    inner = Scripted(*(_frame(5) for _ in range(4)), moved, _frame(5))
    policy = CapturePolicy(frozen_after=3, retry_s=30)
    with caplog.at_level(logging.WARNING), ReconnectingCamera(inner, policy) as camera:
        _grab(camera)
        _grab(camera)
        assert [_code(camera), _code(camera)] == ["FROZEN", "FROZEN"]
        trouble = camera.trouble()
        assert trouble is not None
        assert trouble.code == "FROZEN"
        assert _grab(camera) is not None
        assert camera.trouble() is None
        assert _grab(camera).pixels[19, 29] == 5
    assert len(caplog.records) == 2
    assert inner.opened == 1


def test_no_part_is_judged_by_the_picture_of_the_part_before() -> None:
    inner = Scripted(_frame(5), _frame(5), _frame(6))
    with ReconnectingCamera(inner, CapturePolicy(retry_s=30)) as camera:
        _grab(camera)
        assert _code(camera) == "FROZEN"
        assert _grab(camera).pixels[0, 0] == 6


def test_a_frozen_camera_is_opened_again_and_its_old_picture_refused_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner = Scripted(_frame(5), _frame(5), _frame(5), _frame(6))
    policy = CapturePolicy(retry_s=0.02, reopen_s=0.2)
    with caplog.at_level(logging.WARNING), ReconnectingCamera(inner, policy) as camera:
        _grab(camera)
        for opened in (2, 3):
            assert _code(camera) == "FROZEN"
            frozen_s = time.monotonic()
            assert camera.trouble() is not None
            _until(lambda: camera.trouble() is None)
            assert inner.opened == opened
        # Not more often than asked: the second time it waited.
        assert 0.1 < time.monotonic() - frozen_s < 1.0
        assert _grab(camera).pixels[0, 0] == 6
        time.sleep(0.3)
        assert inner.opened == 3
    again = [record.getMessage() for record in caplog.records if "opened again" in record.getMessage()]
    assert len(again) == 2


def test_a_frozen_camera_that_cannot_be_opened_again_is_lost_and_taken_back() -> None:
    inner = Scripted(_frame(5), _frame(5), _frame(5), _frame(6))
    with ReconnectingCamera(inner, QUICK) as camera:
        _grab(camera)
        inner.present = False
        assert _code(camera) == "FROZEN"
        _until(lambda: inner.opened > 3)
        assert _code(camera) == "LOST"
        inner.present = True
        _until(lambda: camera.trouble() is None)
        assert _code(camera) == "FROZEN"


class Slow(Scripted):
    """``grab`` and ``trouble`` hang while told to; a waiting grab ends when the camera is closed, as every one does."""

    def __init__(self, *script: Frame | CameraError) -> None:
        super().__init__(*script)
        self.holding = threading.Event()
        self.silent = threading.Event()
        self.closed = 0
        self.asked_by: set[str] = set()

    def close(self) -> None:
        super().close()
        self.closed += 1

    def grab(self, timeout_s: float, *, after_ns: int) -> Frame:
        closed = self.closed
        until_s = time.monotonic() + 10
        while self.holding.is_set() and time.monotonic() < until_s:
            if self.closed != closed:
                raise CameraError("not open", code="CLOSED")
            time.sleep(0.001)
        return super().grab(timeout_s, after_ns=after_ns)

    def trouble(self) -> Reason | None:
        self.asked_by.add(threading.current_thread().name)
        until_s = time.monotonic() + 10
        while self.silent.is_set() and time.monotonic() < until_s:
            time.sleep(0.005)
        return super().trouble()


def test_a_grab_that_the_reopening_ends_is_no_loss() -> None:
    inner = Slow(_frame(5), _frame(5), _frame(6))
    with ReconnectingCamera(inner, CapturePolicy(retry_s=0.1)) as camera:
        _grab(camera)
        assert _code(camera) == "FROZEN"
        inner.holding.set()
        assert _code(camera) in ("FROZEN", "LOST")
        inner.holding.clear()
        _until(lambda: camera.trouble() is None)
        assert _grab(camera).pixels[0, 0] == 6
        time.sleep(0.3)
        assert inner.opened == 2


def test_only_the_keeper_asks_the_camera_and_trouble_waits_for_nobody() -> None:
    inner = Slow(_frame(1))
    with ReconnectingCamera(inner, CapturePolicy(retry_s=0.1)) as camera:
        _until(lambda: inner.asked_by)
        assert camera.trouble() is None
        inner.silent.set()
        codes, longest_s = set(), 0.0
        until_s = time.monotonic() + 2.0
        while time.monotonic() < until_s:
            started_s = time.monotonic()
            trouble = camera.trouble()
            longest_s = max(longest_s, time.monotonic() - started_s)
            codes.add(None if trouble is None else trouble.code)
            time.sleep(0.01)
        inner.silent.clear()
        assert longest_s < 0.5
        # An answer that does not come is no good answer.
        assert codes == {None, "LOST"}
        _until(lambda: camera.trouble() is None)
        assert inner.opened == 1
    assert inner.asked_by == {"keeper of scripted"}


def test_what_the_camera_says_is_known_within_the_interval() -> None:
    inner = Scripted()
    with ReconnectingCamera(inner, CapturePolicy(retry_s=0.1)) as camera:
        inner.reported = Reason("END", "over")
        started_s = time.monotonic()
        _until(lambda: camera.trouble() is not None)
        assert time.monotonic() - started_s < 2.0
        trouble = camera.trouble()
        assert trouble is not None
        assert trouble.code == "END"
        assert inner.opened == 1


def test_the_end_of_a_recording_is_known_with_the_grab_that_finds_it() -> None:
    inner = Scripted(CameraError("over", code="END"))
    with ReconnectingCamera(inner, CapturePolicy(retry_s=30)) as camera:
        assert _code(camera) == "END"
        trouble = camera.trouble()
        assert trouble is not None
        assert trouble.code == "END"


def test_frozen_detection_can_be_turned_off() -> None:
    inner = Scripted(*(_frame(5) for _ in range(6)))
    with ReconnectingCamera(inner, CapturePolicy(frozen_after=0)) as camera:
        assert {int(_grab(camera).pixels[0, 0]) for _ in range(6)} == {5}


@pytest.mark.parametrize(
    ("policy", "wrong", "text"),
    [
        (CapturePolicy(expect_px=(30, 20)), _frame(1, shape=(30, 20)), r"\(20, 30\), expected \(30, 20\)"),
        (CapturePolicy(expect_bits=8), _frame(1, dtype=np.uint16), "bits 16, expected 8"),
        (CapturePolicy(expect_channels=1), _frame(1, shape=(20, 30, 3)), "channels 3, expected 1"),
    ],
)
def test_a_foreign_frame_is_refused_and_the_next_right_one_taken(
    policy: CapturePolicy, wrong: Frame, text: str
) -> None:
    with ReconnectingCamera(Scripted(wrong, _frame(7)), policy) as camera:
        with pytest.raises(CameraError, match=text) as caught:
            _grab(camera)
        assert caught.value.code == "WRONG_SIZE"
        assert _grab(camera).pixels[0, 0] == 7


@pytest.mark.parametrize(
    "arguments", [{"retry_s": 0.0}, {"reopen_s": 0.0}, {"frozen_after": 1}, {"lost_after_timeouts": -1}]
)
def test_a_policy_without_sense_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        CapturePolicy(**arguments)  # type: ignore[arg-type]


# ---- counters ------------------------------------------------------------------------------------------------------


def test_gaps_are_counted_and_repeats_refused() -> None:
    counter = FrameCounter()
    assert [counter.advance(raw) for raw in (10, 11, 11, 14)] == [True, True, False, True]
    assert (counter.frame_id, counter.lost_total) == (5, 2)


def test_a_wrapping_counter_goes_from_its_end_to_one() -> None:
    counter = FrameCounter(65535)
    for raw in (65533, 65534, 65535, 1, 2, 4):
        assert counter.advance(raw)
    assert (counter.frame_id, counter.lost_total) == (7, 1)


@pytest.mark.parametrize("wraps_at", [None, 65535])
def test_a_counter_that_begins_anew_goes_on_rising(wraps_at: int | None) -> None:
    counter = FrameCounter(wraps_at)
    for raw in (500, 501, 1, 2):
        assert counter.advance(raw)
    counter.restart()
    assert counter.advance(1)
    assert (counter.frame_id, counter.lost_total) == (5, 0)


# ---- options and factory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (BaslerOptions, "serial number or address"),
        (lambda: BaslerOptions(serial="1", emulation_folder=Path(".")), "serial number or address"),
        (lambda: BaslerOptions(serial="1", trigger="laser"), "trigger 'laser'"),
        (lambda: BaslerOptions(serial="1", exposure_us=0), "exposure"),
        (lambda: BaslerOptions(serial="1", buffer_count=1), "buffer count"),
        (lambda: AravisOptions(""), "address"),
        (lambda: AravisOptions("10.0.0.1", gain_db=-1), "gain"),
        (lambda: AravisOptions("10.0.0.1", packet_timeout_ms=0), "packet timeout"),
        (lambda: VideoOptions(""), "source"),
        (lambda: VideoOptions("/dev/video0", latency_s=-1), "latency"),
        (lambda: FolderOptions(Path("."), after="burn"), "burn"),
        (lambda: FolderOptions(Path("."), poll_s=0), "poll"),
        (lambda: make_camera("polaroid", {}), "polaroid"),
        (lambda: make_camera("folder", VideoOptions("x.avi")), "VideoOptions"),
    ],
)
def test_what_makes_no_sense_is_a_config_error_with_a_remedy(make: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        make()  # type: ignore[operator]
    assert caught.value.hint


def test_the_kinds_are_listed_for_an_unknown_one() -> None:
    with pytest.raises(ConfigError) as caught:
        make_camera("polaroid", {})
    assert all(kind in caught.value.hint for kind in KINDS)


@pytest.mark.parametrize(
    ("options", "module", "extra"),
    [
        (BaslerOptions(serial="1"), "pypylon.pylon", "basler"),
        (AravisOptions("10.0.0.1"), "gi", "aravis"),
    ],
)
def test_a_missing_library_names_its_extra(
    options: BaslerOptions | AravisOptions, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def import_module(name: str) -> object:
        if name == module:
            raise ModuleNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(MissingExtra) as caught:
        make_camera(extra, options)
    assert caught.value.extra == extra
    assert f"edge-daemon[{extra}]" in caught.value.hint


def test_a_plug_in_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    class Found:
        name = "mine"

        def load(self) -> object:
            return lambda options: given.append(options) or Scripted(_frame(9))

    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: [Found()] * (group == "edge_daemon.cameras")
    )
    camera = open_camera("mine", {"speed": 3})
    assert given == [{"speed": 3}]
    assert _grab(camera).pixels[0, 0] == 9
    camera.close()


def test_a_plug_in_that_makes_no_camera_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        name = "mine"

        def load(self) -> object:
            return lambda options: object()

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [Found()])
    with pytest.raises(ConfigError, match="gives no Camera"):
        make_camera("mine", {})


# ---- pace of live video --------------------------------------------------------------------------------------------


def test_frames_that_come_in_a_rush_are_old_until_one_is_waited_for() -> None:
    pace = Pace(0.04)
    # (read begins, read ends) in ms: three buffered before opening, then the true pace of 40 ms.
    opening = [pace.keeps(a / 1e3, b / 1e3) for a, b in ((0, 1), (1, 2), (2, 3), (3, 30), (31, 70), (71, 110))]
    assert opening == [False, False, False, True, True, True]
    # 500 ms of silence, then what had piled up, then the pace again.
    stall = [pace.keeps(a / 1e3, b / 1e3) for a, b in ((111, 610), (610, 611), (611, 612), (612, 650), (651, 690))]
    assert stall == [False, False, False, True, True]


def test_a_long_rush_does_not_become_the_pace() -> None:
    pace = Pace(0.04)
    assert [pace.keeps(0.0, 0.04), pace.keeps(0.04, 4.0)] == [True, False]
    rush = [pace.keeps(4.0 + n * 0.01, 4.0 + (n + 1) * 0.01) for n in range(100)]
    assert rush == [False] * 100
    assert pace.keeps(5.0, 5.03)


def test_a_source_slower_than_it_says_is_taken_from_its_second_long_gap_on() -> None:
    pace = Pace(0.04)
    assert [pace.keeps(n * 0.2, (n + 1) * 0.2) for n in range(4)] == [True, False, True, True]


def test_a_stopped_process_is_a_pause_too() -> None:
    pace = Pace(0.04)
    assert [pace.keeps(0.0, 0.04), pace.keeps(0.04, 0.08)] == [True, True]
    # Stopped between two reads: the next read itself takes no time.
    assert [pace.keeps(5.0, 5.001), pace.keeps(5.001, 5.002), pace.keeps(5.002, 5.03)] == [False, False, True]
