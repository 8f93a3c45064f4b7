"""pylon's camera emulation, fed with frames whose every pixel is known."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_daemon.capture import BaslerOptions, CapturePolicy, ReconnectingCamera, open_camera
from edge_daemon.capture.basler import BaslerCamera
from edge_daemon.errors import CameraError, GrabTimeout
from edge_daemon.images import write_png_atomic

pytestmark = pytest.mark.needs("pypylon")

RNG = np.random.default_rng(3)


def _folder(path: Path, frames: list[np.ndarray]) -> Path:
    path.mkdir()
    for number, frame in enumerate(frames):
        write_png_atomic(path / f"{number:03d}.png", frame)
    return path


def _greys(count: int) -> list[np.ndarray]:
    return [np.full((48, 64), 10 * number, np.uint8) for number in range(count)]


def _grab_value(camera: BaslerCamera | ReconnectingCamera) -> int:
    return int(camera.grab(5.0, after_ns=time.monotonic_ns()).pixels[0, 0])


@pytest.mark.parametrize(
    "frame",
    [
        RNG.integers(0, 256, (48, 64), np.uint8),
        RNG.integers(0, 65536, (48, 64), np.uint16),
        RNG.integers(0, 256, (48, 64, 3), np.uint8),
        RNG.integers(0, 256, (1100, 1200), np.uint8),  # larger than the emulation's default region
    ],
    ids=["grey8", "grey16", "rgb8", "large"],
)
def test_pixels_arrive_bit_for_bit(tmp_path: Path, frame: np.ndarray) -> None:
    with ReconnectingCamera(BaslerCamera(BaslerOptions(emulation_folder=_folder(tmp_path / "f", [frame])))) as camera:
        got = camera.grab(5.0, after_ns=time.monotonic_ns())
    assert got.pixels.dtype == frame.dtype
    assert np.array_equal(got.pixels, frame)
    assert not got.pixels.flags.writeable


def test_every_trigger_shows_the_next_file_and_no_exposure_is_lost(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "f", _greys(5))
    with open_camera("basler", BaslerOptions(emulation_folder=folder, exposure_us=500.0)) as camera:
        frames = [camera.grab(5.0, after_ns=time.monotonic_ns()) for _ in range(12)]
    assert [int(frame.pixels[0, 0]) // 10 for frame in frames] == [n % 5 for n in range(12)]
    assert [frame.frame_id for frame in frames] == list(range(1, 13))
    assert [frame.lost_before for frame in frames] == [0] * 12


def test_the_late_frame_of_a_timed_out_trigger_is_never_taken_for_the_next(tmp_path: Path) -> None:
    camera = BaslerCamera(BaslerOptions(emulation_folder=_folder(tmp_path / "f", _greys(20)), exposure_us=60_000.0))
    camera.open()
    assert _grab_value(camera) == 0
    for _ in range(3):
        with pytest.raises(GrabTimeout):
            camera.grab(0.02, after_ns=time.monotonic_ns())
        started_s = time.monotonic()
        # Restarted, the emulation begins with its first file; the late second or third one never shows.
        assert _grab_value(camera) == 0
        assert time.monotonic() - started_s >= 0.055, "a picture faster than its exposure"
    camera.close()


def test_a_broken_frame_is_an_error_of_that_part_only(tmp_path: Path) -> None:
    camera = BaslerCamera(BaslerOptions(emulation_folder=_folder(tmp_path / "f", _greys(5)), exposure_us=500.0))
    with ReconnectingCamera(camera) as mended:
        assert _grab_value(mended) == 0
        nodes = camera._camera.GetNodeMap()
        nodes.GetNode("ForceFailedBufferCount").Value = 1
        nodes.GetNode("ForceFailedBuffer").Execute()
        with pytest.raises(CameraError) as caught:
            _grab_value(mended)
        assert caught.value.code == "FRAME_BROKEN"
        assert "incompletely grabbed" in caught.value.message
        following = mended.grab(5.0, after_ns=time.monotonic_ns())
        assert following.lost_before == 1
        assert following.frame_id == 3
        assert mended.trouble() is None


def test_an_unplugged_camera_is_taken_back_by_itself(tmp_path: Path) -> None:
    camera = BaslerCamera(BaslerOptions(emulation_folder=_folder(tmp_path / "f", _greys(5)), exposure_us=500.0))
    # Opened again, the emulation begins with the first file: the picture of before.
    with ReconnectingCamera(camera, CapturePolicy(retry_s=0.05, frozen_after=0)) as mended:
        before = mended.grab(5.0, after_ns=time.monotonic_ns())
        camera._camera.GetNodeMap().GetNode("FirePnPCallback").Execute()
        until_s = time.monotonic() + 5
        while camera.trouble() is None:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        after = None
        while after is None:
            assert time.monotonic() < until_s
            with contextlib.suppress(CameraError):  # it has not been noticed, or not been taken back yet
                after = mended.grab(5.0, after_ns=time.monotonic_ns())
            time.sleep(0.01)
        assert mended.trouble() is None
    assert after.frame_id > before.frame_id


def test_a_frozen_picture_is_refused(tmp_path: Path) -> None:
    same = [np.full((48, 64), 7, np.uint8)]
    with open_camera("basler", BaslerOptions(emulation_folder=_folder(tmp_path / "f", same))) as camera:
        assert _grab_value(camera) == 7
        with pytest.raises(CameraError) as caught:
            _grab_value(camera)
    assert caught.value.code == "FROZEN"


def test_another_size_than_expected_is_refused(tmp_path: Path) -> None:
    policy = CapturePolicy(expect_px=(65, 48))
    options = BaslerOptions(emulation_folder=_folder(tmp_path / "f", _greys(2)))
    with open_camera("basler", options, policy) as camera, pytest.raises(CameraError) as caught:
        _grab_value(camera)
    assert caught.value.code == "WRONG_SIZE"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pixel_format": "BayerRG12"}, "pixel format BayerRG12 is not supported"),
        ({"pixel_format": "Mono7"}, "PixelFormat = Mono7 is refused"),
        ({"exposure_us": 1.0}, "ExposureTimeAbs = 1.0 is refused"),
    ],
)
def test_options_the_camera_does_not_take(tmp_path: Path, options: dict[str, object], text: str) -> None:
    folder = _folder(tmp_path / "f", _greys(2))
    camera = BaslerCamera(BaslerOptions(emulation_folder=folder, **options))  # type: ignore[arg-type]
    with pytest.raises(CameraError, match=text) as caught:
        camera.open()
    assert caught.value.hint
    trouble = camera.trouble()
    assert trouble is not None
    assert trouble.code == "CLOSED"


@pytest.mark.parametrize("content", ["missing", "empty", "broken"])
def test_a_folder_without_frames(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "f"
    if content != "missing":
        folder.mkdir()
    if content == "broken":
        (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(CameraError) as caught:
        BaslerCamera(BaslerOptions(emulation_folder=folder)).open()
    assert caught.value.code == "CAMERA"
    assert str(folder) in caught.value.message


def test_an_absent_camera_is_asked_for_by_unicast_and_is_one_clear_error() -> None:
    camera = BaslerCamera(BaslerOptions(address="127.0.0.9"))
    with pytest.raises(CameraError, match=r"127\.0\.0\.9") as caught:
        camera.open()
    assert caught.value.code == "CAMERA"
    assert "address" in caught.value.hint


def test_pypylon_loads_where_warnings_are_errors(tmp_path: Path) -> None:
    """Its extension modules crash the interpreter when their deprecation warning becomes an exception."""
    code = (
        "from edge_daemon.capture import BaslerOptions, make_camera\n"
        "print(make_camera('basler', BaslerOptions(serial='1')).identity)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "basler 1\n"


def test_nothing_depends_on_the_alarm_signal(tmp_path: Path) -> None:
    """pylon's own timed waits end by SIGALRM; a handler of somebody else's would make them hang."""
    folder = _folder(tmp_path / "f", _greys(3))
    code = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "from edge_daemon.capture import BaslerOptions, open_camera\n"
        "camera = open_camera('basler', BaslerOptions(emulation_folder=Path(sys.argv[1])))\n"
        "signal.signal(signal.SIGALRM, lambda *_: print('alarm'))\n"
        "for _ in range(3):\n"
        "    time.sleep(0.2)\n"
        "    print(camera.grab(2.0, after_ns=time.monotonic_ns()).pixels[0, 0])\n"
        "camera.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["0", "10", "20"]
