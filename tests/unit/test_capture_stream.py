"""The reader and shooter threads, on a driver whose queue and delays are in the test's hands."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest

from edge_daemon.capture.stream import Arrival, StreamCamera
from edge_daemon.errors import CameraError, GrabTimeout


class Driver(StreamCamera):
    """A driver with a queue. ``hold`` stops every call inside it, as a stopped process or a dead camera would."""

    def __init__(self, *, software_trigger: bool = False, queue_frames: int = 4) -> None:
        super().__init__("scripted", software_trigger=software_trigger, queue_frames=queue_frames)
        self.waiting: deque[Arrival | BaseException] = deque()
        self.came = threading.Condition()
        self.count = 0
        self.holding = {"look": threading.Event(), "wait": threading.Event(), "fire": threading.Event()}
        self.held = threading.Event()
        self.exposure_s = 0.0
        self.ready = True
        self.restarts = 0

    def expose(self, counter: int | None = None, fault: str = "") -> None:
        self.count = self.count + 1 if counter is None else counter
        pixels = None if fault else np.full((4, 5), self.count % 256, np.uint8)
        self.put(Arrival(pixels, self.count, fault))

    def put(self, arrival: Arrival | BaseException) -> None:
        with self.came:
            self.waiting.append(arrival)
            self.came.notify_all()

    def _hold(self, where: str) -> None:
        while self.holding[where].is_set():
            self.held.set()
            time.sleep(0.005)

    def _connect(self) -> None:
        self.waiting.clear()

    def _disconnect(self) -> None:
        self.waiting.clear()

    def _fetch(self, timeout_s: float) -> Arrival | None:
        with self.came:
            if not self.waiting:
                self.came.wait(timeout_s)
        self._hold("wait" if timeout_s else "look")
        with self.came:
            arrival = self.waiting.popleft() if self.waiting else None
        if isinstance(arrival, BaseException):
            raise arrival
        return arrival

    def _await_ready(self, timeout_s: float) -> bool:
        return self.ready

    def _fire(self) -> None:
        self._hold("fire")
        if self.exposure_s:
            threading.Timer(self.exposure_s, self.expose).start()
        else:
            self.expose()

    def _restart_stream(self) -> None:
        self.restarts += 1
        self.waiting.clear()


@pytest.fixture
def driver() -> Iterator[Driver]:
    made = Driver()
    made.open()
    yield made
    for event in made.holding.values():
        event.clear()
    made.close()


def _shooter(**options: object) -> Driver:
    made = Driver(software_trigger=True)
    for name, value in options.items():
        setattr(made, name, value)
    made.open()
    assert made.restarts == 1, "nothing begun before may answer the first trigger"
    made.restarts = 0
    return made


@pytest.mark.parametrize("where", ["look", "wait"])
def test_a_frame_that_came_while_the_reader_was_held_up_is_not_fresh(driver: Driver, where: str) -> None:
    driver.holding[where].set()
    assert driver.held.wait(5)
    for _ in range(3):
        driver.expose()
    time.sleep(0.15)  # longer than a slice and what a busy machine may take
    after_ns = time.monotonic_ns()
    driver.holding[where].clear()
    with pytest.raises(GrabTimeout):
        driver.grab(0.2, after_ns=after_ns)
    assert driver.discarded == 3
    driver.expose()
    assert driver.grab(2.0, after_ns=after_ns).pixels[0, 0] == 4


def test_frames_of_a_line_trigger_come_in_order_and_none_is_skipped(driver: Driver) -> None:
    after_ns = time.monotonic_ns()
    for _ in range(3):
        driver.expose()
        time.sleep(0.01)
    frames = [driver.grab(2.0, after_ns=after_ns) for _ in range(3)]
    assert [int(frame.pixels[0, 0]) for frame in frames] == [1, 2, 3]


def test_a_source_that_runs_by_itself_gives_its_newest_frame() -> None:
    driver = Driver(queue_frames=1)
    driver.open()
    after_ns = time.monotonic_ns()
    for _ in range(5):
        driver.expose()
        time.sleep(0.01)
    time.sleep(0.1)
    assert driver.grab(2.0, after_ns=after_ns).pixels[0, 0] == 5
    driver.expose(fault="bad")
    driver.expose()
    assert driver.grab(2.0, after_ns=after_ns).pixels[0, 0] == 7
    driver.close()


def test_gaps_in_the_counter_are_reported_once_also_across_discarded_frames(driver: Driver) -> None:
    driver.expose(10)
    driver.grab(2.0, after_ns=0)
    driver.expose(13)  # 11 and 12 are missing; this one will be too old
    time.sleep(0.1)
    after_ns = time.monotonic_ns()
    driver.expose(15)  # 14 is missing
    driver.expose(16)
    frames = [driver.grab(2.0, after_ns=after_ns) for _ in range(2)]
    assert [frame.lost_before for frame in frames] == [3, 0]


def test_a_frame_delivered_twice_is_handed_out_once(driver: Driver) -> None:
    driver.expose(7)
    driver.grab(2.0, after_ns=0)
    driver.expose(7)
    with pytest.raises(GrabTimeout):
        driver.grab(0.1, after_ns=0)


def test_a_broken_exposure_is_an_error_at_once(driver: Driver) -> None:
    driver.expose(fault="missing packets")
    started_s = time.monotonic()
    with pytest.raises(CameraError, match="missing packets") as caught:
        driver.grab(5.0, after_ns=0)
    assert caught.value.code == "FRAME_BROKEN"
    assert time.monotonic() - started_s < 1


def test_a_dead_camera_holds_up_the_shooter_but_not_the_grab() -> None:
    driver = _shooter()
    driver.holding["fire"].set()
    for _ in range(3):
        started_s = time.monotonic()
        with pytest.raises(GrabTimeout):
            driver.grab(0.1, after_ns=time.monotonic_ns())
        assert time.monotonic() - started_s < 1.0
    driver.holding["fire"].clear()
    # The shot that was stuck is fired now; its frame belongs to no one.
    time.sleep(0.2)
    assert driver.grab(2.0, after_ns=time.monotonic_ns()).pixels[0, 0] == driver.count
    assert driver.restarts == 1
    driver.close()


def test_a_late_exposure_is_dropped_by_restarting_the_stream() -> None:
    driver = _shooter(exposure_s=0.15)
    with pytest.raises(GrabTimeout):
        driver.grab(0.05, after_ns=time.monotonic_ns())
    driver.exposure_s = 0.0
    time.sleep(0.2)
    assert driver.grab(2.0, after_ns=time.monotonic_ns()).pixels[0, 0] == 2
    assert driver.restarts == 1
    driver.close()


def test_a_camera_that_is_not_ready_is_not_fired() -> None:
    driver = _shooter(ready=False)
    with pytest.raises(GrabTimeout):
        driver.grab(0.05, after_ns=time.monotonic_ns())
    assert driver.count == 0
    driver.close()


def test_the_trigger_waits_for_its_time() -> None:
    driver = _shooter()
    after_ns = time.monotonic_ns() + 100_000_000
    frame = driver.grab(2.0, after_ns=after_ns)
    assert frame.captured_ns > after_ns
    driver.close()


def test_loss_ends_a_waiting_grab_at_once_and_open_mends_it(driver: Driver) -> None:
    threading.Timer(0.1, driver.put, (CameraError("pulled", code="LOST"),)).start()
    started_s = time.monotonic()
    with pytest.raises(CameraError, match="pulled") as caught:
        driver.grab(10.0, after_ns=0)
    assert caught.value.code == "LOST"
    assert time.monotonic() - started_s < 2
    driver.open()
    driver.expose()
    assert driver.grab(2.0, after_ns=0).frame_id == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_driver_is_a_lost_camera_and_no_silence(driver: Driver) -> None:
    driver.put(ZeroDivisionError("a bug"))
    with pytest.raises(CameraError, match="ended unexpectedly") as caught:
        driver.grab(5.0, after_ns=0)
    assert caught.value.code == "LOST"
    trouble = driver.trouble()
    assert trouble is not None
    assert trouble.code == "LOST"


def test_a_camera_that_cannot_be_opened_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()

    def nobody() -> None:
        raise CameraError("nobody there")

    monkeypatch.setattr(driver, "_connect", nobody)
    with pytest.raises(CameraError, match="nobody there"):
        driver.open()
    trouble = driver.trouble()
    assert trouble is not None
    assert trouble.code == "CLOSED"
    driver.close()
