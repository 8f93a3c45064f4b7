"""The watched folder: unfinished, old and renamed files, and a wall clock that is set meanwhile."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_daemon.capture import CapturePolicy, FolderOptions, ReconnectingCamera
from edge_daemon.capture.folder import FolderCamera
from edge_daemon.errors import CameraError, GrabTimeout
from edge_daemon.images import write_png_atomic


def _picture(value: int) -> np.ndarray:
    return np.full((20, 30), value, np.uint8)


def _png(value: int) -> bytes:
    return cv2.imencode(".png", _picture(value))[1].tobytes()


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[FolderCamera]:
    made = FolderCamera(FolderOptions(tmp_path))
    made.open()
    yield made
    made.close()


def _now_ns() -> int:
    """A moment that a file written from now on surely comes after, also by its own coarser clock."""
    now_ns = time.monotonic_ns()
    time.sleep(0.02)
    return now_ns


def test_what_was_there_at_open_is_old(tmp_path: Path) -> None:
    write_png_atomic(tmp_path / "old.png", _picture(1))
    camera = FolderCamera(FolderOptions(tmp_path))
    camera.open()
    (tmp_path / "old.png").touch()
    (tmp_path / "old.png").write_bytes(_png(2))  # in place: the same file
    with pytest.raises(GrabTimeout):
        camera.grab(0.1, after_ns=0)
    write_png_atomic(tmp_path / "old.png", _picture(3))  # renamed onto the name: another file
    assert camera.grab(2.0, after_ns=0).pixels[0, 0] == 3
    camera.close()


def test_files_come_in_the_order_of_their_names(tmp_path: Path, camera: FolderCamera) -> None:
    after_ns = _now_ns()
    for value in (3, 1, 2):
        write_png_atomic(tmp_path / f"{value}.png", _picture(value))
    time.sleep(0.03)
    assert [int(camera.grab(2.0, after_ns=after_ns).pixels[0, 0]) for _ in range(3)] == [1, 2, 3]


def test_an_unfinished_file_is_waited_for_and_not_overtaken(tmp_path: Path, camera: FolderCamera) -> None:
    after_ns = _now_ns()
    data = _png(1)

    def slowly() -> None:
        with (tmp_path / "a.png").open("wb") as file:
            for start in range(0, len(data), 16):
                file.write(data[start : start + 16])
                file.flush()
                time.sleep(0.03)

    writer = threading.Thread(target=slowly)
    writer.start()
    time.sleep(0.01)
    write_png_atomic(tmp_path / "b.png", _picture(2))
    first = camera.grab(10.0, after_ns=after_ns)
    assert not writer.is_alive() or first.pixels[0, 0] == 1
    writer.join()
    assert first.pixels[0, 0] == 1
    assert camera.grab(2.0, after_ns=after_ns).pixels[0, 0] == 2


def test_a_broken_file_is_named_by_the_time_out_and_stops_only_its_own_part(
    tmp_path: Path, camera: FolderCamera
) -> None:
    after_ns = _now_ns()
    (tmp_path / "a.png").write_bytes(_png(1)[:-20])
    with pytest.raises(GrabTimeout, match=r"a\.png: is damaged or cut short"):
        camera.grab(0.2, after_ns=after_ns)
    after_ns = _now_ns()
    write_png_atomic(tmp_path / "b.png", _picture(2))
    assert camera.grab(2.0, after_ns=after_ns).pixels[0, 0] == 2
    assert camera.discarded == 1


def test_files_that_came_before_the_trigger_are_discarded_and_counted(tmp_path: Path, camera: FolderCamera) -> None:
    write_png_atomic(tmp_path / "a.png", _picture(1))
    write_png_atomic(tmp_path / "b.png", _picture(2))
    time.sleep(0.02)
    after_ns = _now_ns()
    write_png_atomic(tmp_path / "c.png", _picture(3))
    frame = camera.grab(2.0, after_ns=after_ns)
    assert frame.pixels[0, 0] == 3
    assert frame.captured_ns > after_ns
    assert camera.discarded == 2


def test_hidden_and_foreign_files_are_not_looked_at(tmp_path: Path, camera: FolderCamera) -> None:
    for name in (".hidden.png", "notes.txt", "picture.png.part"):
        (tmp_path / name).write_bytes(_png(1))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(GrabTimeout, match="is a folder"):
        camera.grab(0.1, after_ns=0)


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_a_set_clock_makes_no_old_file_fresh(
    tmp_path: Path, camera: FolderCamera, step_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_png_atomic(tmp_path / "old.png", _picture(1))
    time.sleep(0.05)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + step_s * 10**9)
    after_ns = time.monotonic_ns()
    with pytest.raises(GrabTimeout):
        camera.grab(0.1, after_ns=after_ns)
    assert camera.discarded == 1
    # Files seen while waiting are timed by our own scans, so the camera goes on working after the step.
    threading.Timer(0.1, write_png_atomic, (tmp_path / "new.png", _picture(2))).start()
    assert camera.grab(2.0, after_ns=time.monotonic_ns()).pixels[0, 0] == 2


def test_delete_removes_a_file_only_when_the_next_is_asked_for(tmp_path: Path) -> None:
    camera = FolderCamera(FolderOptions(tmp_path, after="delete"))
    write_png_atomic(tmp_path / "before.png", _picture(9))
    camera.open()
    after_ns = _now_ns()
    write_png_atomic(tmp_path / "a.png", _picture(1))
    camera.grab(2.0, after_ns=after_ns)
    assert (tmp_path / "a.png").exists()
    with pytest.raises(GrabTimeout):
        camera.grab(0.05, after_ns=after_ns)
    assert os.listdir(tmp_path) == ["before.png"]
    write_png_atomic(tmp_path / "b.png", _picture(2))
    camera.grab(2.0, after_ns=after_ns)
    camera.close()
    assert os.listdir(tmp_path) == ["before.png"]


def test_a_folder_that_is_gone_is_noticed_by_the_keeper_and_taken_back(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with ReconnectingCamera(FolderCamera(FolderOptions(folder)), CapturePolicy(retry_s=0.1)) as camera:
        folder.rename(tmp_path / "away")
        gone_s = time.monotonic()
        while (trouble := camera.trouble()) is None:
            assert time.monotonic() - gone_s < 3.0
            time.sleep(0.005)
        assert trouble.code == "LOST"
        (tmp_path / "away").rename(folder)
        while camera.trouble() is not None:
            assert time.monotonic() - gone_s < 5.0
            time.sleep(0.005)
        after_ns = _now_ns()
        write_png_atomic(folder / "a.png", _picture(1))
        assert camera.grab(2.0, after_ns=after_ns).pixels[0, 0] == 1


def test_the_same_picture_in_another_file_is_refused_also_after_reopening(tmp_path: Path) -> None:
    policy = CapturePolicy(retry_s=0.05)
    with ReconnectingCamera(FolderCamera(FolderOptions(tmp_path, settle_s=0)), policy) as camera:
        after_ns = _now_ns()
        write_png_atomic(tmp_path / "0.png", _picture(7))
        camera.grab(2.0, after_ns=after_ns)
        for number in (1, 2):
            after_ns = _now_ns()
            write_png_atomic(tmp_path / f"{number}.png", _picture(7))
            with pytest.raises(CameraError) as caught:
                camera.grab(2.0, after_ns=after_ns)
            assert caught.value.code == "FROZEN"
            until_s = time.monotonic() + 10
            while camera.trouble() is not None:
                assert time.monotonic() < until_s, "it stays frozen for ever"
                time.sleep(0.01)
        after_ns = _now_ns()
        write_png_atomic(tmp_path / "3.png", _picture(8))
        assert camera.grab(2.0, after_ns=after_ns).pixels[0, 0] == 8


def test_no_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="No such file or directory") as caught:
        FolderCamera(FolderOptions(tmp_path / "nowhere")).open()
    assert caught.value.code == "CAMERA"
    assert caught.value.hint


def test_a_folder_of_thousands_is_not_listed_at_every_poll(
    tmp_path: Path, camera: FolderCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[object] = []
    real = os.scandir

    def scandir(path: Path) -> object:
        listed.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(GrabTimeout):
        camera.grab(1.2, after_ns=time.monotonic_ns())
    assert tmp_path in listed
    listed.clear()
    # Quiet for longer than its clock's tick: from now on the folder's own time stamp tells.
    with pytest.raises(GrabTimeout):
        camera.grab(0.3, after_ns=time.monotonic_ns())
    assert tmp_path not in listed
    threading.Timer(0.1, write_png_atomic, (tmp_path / "new.png", _picture(2))).start()
    assert camera.grab(2.0, after_ns=time.monotonic_ns()).pixels[0, 0] == 2


def test_a_file_is_handed_out_within_settle_time_and_a_few_polls(tmp_path: Path, camera: FolderCamera) -> None:
    taken_s = []
    for number in range(15):
        written: list[float] = []

        def write(number: int = number, written: list[float] = written) -> None:
            write_png_atomic(tmp_path / f"{number:03d}.png", _picture(number))
            written.append(time.monotonic())

        threading.Timer(0.02, write).start()
        camera.grab(5.0, after_ns=time.monotonic_ns())
        taken_s.append(time.monotonic() - written[0])
    assert statistics.median(taken_s) < 0.15  # 20 ms settle + 2 polls of 5 ms + decoding, on a busy machine
