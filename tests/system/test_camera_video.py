"""Recordings frame by frame, and a live stream over HTTP whose frames carry the time of their exposure."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_daemon.capture import CapturePolicy, ReconnectingCamera, VideoOptions, make_camera
from edge_daemon.errors import CameraError
from edge_daemon.records import Frame
from edge_daemon.testing.camera_contract import CHECKS, CameraRig

# ---- recordings ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames without loss (FFV1), of colours that tell RGB from BGR."""
    path = tmp_path_factory.mktemp("video") / "parts.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), (200 - number, 100, 10 * number), np.uint8))  # blue, green, red
    writer.release()
    return path


def test_a_recording_gives_its_frames_in_order_then_ends(recording: Path) -> None:
    with ReconnectingCamera(make_camera("video", VideoOptions(str(recording)))) as camera:
        frames = [camera.grab(1.0, after_ns=time.monotonic_ns()) for _ in range(5)]
        with pytest.raises(CameraError) as caught:
            camera.grab(1.0, after_ns=time.monotonic_ns())
        assert caught.value.code == "END"
        trouble = camera.trouble()
        assert trouble is not None
        assert trouble.code == "END"
    assert [frame.frame_id for frame in frames] == [1, 2, 3, 4, 5]
    for number, frame in enumerate(frames):
        assert np.abs(frame.pixels[24, 32].astype(int) - (10 * number, 100, 200 - number)).max() <= 2


def test_grey_gives_one_channel(tmp_path: Path) -> None:
    path = tmp_path / "grey.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 25, (64, 48))
    writer.write(np.full((48, 64, 3), 77, np.uint8))
    writer.release()
    camera = make_camera("video", VideoOptions(str(path), grey=True))
    camera.open()
    frame = camera.grab(1.0, after_ns=time.monotonic_ns())
    camera.close()
    assert frame.pixels.shape == (48, 64)
    assert np.abs(frame.pixels.astype(int) - 77).max() <= 1


@pytest.mark.parametrize("content", [None, b"", b"this is no video"])
def test_a_file_that_is_no_video_is_one_clear_error(
    tmp_path: Path, content: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.avi"
    if content is not None:
        path.write_bytes(content)
    camera = make_camera("video", VideoOptions(str(path)))
    with pytest.raises(CameraError) as caught:
        camera.open()
    assert caught.value.code == "CAMERA"
    assert str(path) in caught.value.message
    assert capfd.readouterr().err == ""


def test_an_absent_device_is_one_clear_error(capfd: pytest.CaptureFixture[str]) -> None:
    camera = make_camera("video", VideoOptions("/dev/video97"))
    with pytest.raises(CameraError, match="/dev/video97") as caught:
        camera.open()
    assert caught.value.code == "CAMERA"
    assert capfd.readouterr().err == ""


def test_a_password_in_the_address_stays_out_of_records_and_messages() -> None:
    assert make_camera("video", VideoOptions("rtsp://me:secret@10.0.0.7/live")).identity == "video rtsp://10.0.0.7/live"


# ---- live ----------------------------------------------------------------------------------------------------------


def _stamped(ns: int) -> np.ndarray:
    """64 bits of time as 8 x 8 blocks of black and white, which survive JPEG."""
    bits = np.array([(ns >> place) & 1 for place in range(64)], np.uint8).reshape(8, 8)
    return np.kron(bits * 255, np.ones((16, 16), np.uint8))


def _stamp_of(pixels: np.ndarray) -> int:
    bits = pixels[8::16, 8::16, 1] > 127
    return sum(int(bit) << place for place, bit in enumerate(bits.ravel()))


class Streamer(ThreadingHTTPServer):
    """A network camera: motion JPEG over HTTP, 25 frames/s, each stamped when it is made."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Stream)
        self.running = threading.Event()
        self.running.set()
        self.ended = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/live.mjpg"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def end(self) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


class _Stream(BaseHTTPRequestHandler):
    server: Streamer

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        backlog: list[bytes] = []
        try:
            while not self.server.ended.is_set():
                picture = cv2.imencode(".jpg", _stamped(time.monotonic_ns()))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                backlog.append(head.encode() + picture + b"\r\n")
                if self.server.running.is_set():
                    self.wfile.write(b"".join(backlog))
                    backlog.clear()
                time.sleep(0.04)
        except OSError:
            return  # the viewer has gone


class LiveRig(CameraRig):
    can_lose = True

    def __init__(self) -> None:
        self.streamer = Streamer()
        self.camera = make_camera("video", VideoOptions(self.streamer.url, latency_s=0.02, read_timeout_s=1.0))

    def exposed_ns(self, frame: Frame) -> int:
        return _stamp_of(frame.pixels)

    def lose(self) -> None:
        self.streamer.end()

    def restore(self) -> None:
        self.streamer = Streamer(self.streamer.server_port)

    def close(self) -> None:
        self.camera.close()
        self.streamer.end()


@pytest.fixture
def live() -> Iterator[LiveRig]:
    with closing(LiveRig()) as rig:
        yield rig


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_live_stream_keeps_the_contract(check: object, live: LiveRig) -> None:
    check(live)  # type: ignore[operator]


def test_what_piled_up_while_the_network_stalled_is_never_taken_for_fresh(live: LiveRig) -> None:
    live.camera.open()
    live.camera.grab(5.0, after_ns=time.monotonic_ns())
    for _ in range(3):
        live.streamer.running.clear()
        time.sleep(0.3)
        after_ns = time.monotonic_ns()
        live.streamer.running.set()
        frame = live.camera.grab(5.0, after_ns=after_ns)
        assert _stamp_of(frame.pixels) > after_ns
    assert live.camera.discarded > 10


def test_a_lost_stream_is_taken_back_by_itself(live: LiveRig) -> None:
    with ReconnectingCamera(live.camera, CapturePolicy(retry_s=0.1, frozen_after=0)) as camera:
        first = camera.grab(5.0, after_ns=time.monotonic_ns())
        live.lose()
        until_s = time.monotonic() + 15
        while (trouble := camera.trouble()) is None or trouble.code != "LOST":
            assert time.monotonic() < until_s
            time.sleep(0.01)
        live.restore()
        while camera.trouble() is not None:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        assert camera.grab(5.0, after_ns=time.monotonic_ns()).frame_id > first.frame_id
