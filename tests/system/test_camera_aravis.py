"""GigE Vision for real: Aravis' fake camera in another process, in a network that holds nothing but these two."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from edge_daemon.capture import AravisOptions, CapturePolicy, ReconnectingCamera, make_camera
from edge_daemon.errors import CameraError, GrabTimeout
from edge_daemon.images import write_png_atomic
from edge_daemon.records import Frame
from edge_daemon.testing.aravis_fake import exposed_ns, number
from edge_daemon.testing.camera_contract import (
    CHECKS,
    CameraRig,
    check_frames_are_sound,
    check_old_frames_are_never_returned,
)

pytestmark = pytest.mark.needs("root", "ip", "aravis")

_CLONE_NEWNET = 0x40000000


@pytest.fixture(scope="module", autouse=True)
def _own_network() -> Iterator[None]:
    """This thread, and every thread and process it starts, in a network namespace with nothing but ``lo``."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before:
        if libc.unshare(_CLONE_NEWNET) != 0:
            reason = f"no network namespace: {os.strerror(ctypes.get_errno())}"
            if os.environ.get("REQUIRE_ALL") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            Fake.kill()
            assert libc.setns(before.fileno(), _CLONE_NEWNET) == 0


class Fake:
    """The fake camera as a process. Starting one takes a second, so the last is kept for the next test it suits."""

    _last: ClassVar[Fake | None] = None

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self.arguments = arguments
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_daemon.testing.aravis_fake", *arguments], stdout=subprocess.PIPE, text=True
        )

    @classmethod
    def serve(cls, *arguments: str) -> Fake:
        """A running fake camera with these arguments; no other is left running."""
        fake = cls._last
        if fake is None or fake.arguments != arguments:
            cls.kill()
            fake = cls._last = cls(arguments)
            assert fake.process.stdout is not None
            assert fake.process.stdout.readline() == "ready\n"
        return fake

    @classmethod
    def kill(cls) -> None:
        fake, cls._last = cls._last, None
        if fake is not None:
            fake.process.kill()
            fake.process.wait()
            assert fake.process.stdout is not None
            fake.process.stdout.close()


class AravisRig(CameraRig):
    can_lose = True
    notice_s = 20.0

    def __init__(self, trigger: str) -> None:
        Fake.serve("--size", "320x240")
        self.camera = make_camera("aravis", AravisOptions("127.0.0.1", trigger=trigger))

    def exposed_ns(self, frame: Frame) -> int:
        return exposed_ns(frame.pixels)

    def lose(self) -> None:
        Fake.kill()

    def restore(self) -> None:
        Fake.serve("--size", "320x240")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_contract(check: object) -> None:
    with closing(AravisRig("software")) as rig:
        check(rig)  # type: ignore[operator]


@pytest.mark.parametrize("check", [check_frames_are_sound, check_old_frames_are_never_returned])
def test_contract_of_a_camera_that_runs_by_itself(check: object) -> None:
    with closing(AravisRig("freerun")) as rig:
        check(rig)  # type: ignore[operator]


def test_pixels_arrive_bit_for_bit(tmp_path: Path) -> None:
    shown = [np.random.default_rng(seed).integers(0, 256, (200, 300), np.uint8) for seed in range(3)]
    for place, picture in enumerate(shown):
        write_png_atomic(tmp_path / f"{place}.png", picture)
    Fake.serve("--frames", str(tmp_path))
    camera = make_camera("aravis", AravisOptions("127.0.0.1"))
    camera.open()
    frames = [camera.grab(5.0, after_ns=time.monotonic_ns()) for _ in range(4)]
    camera.close()
    places = [next(k for k, picture in enumerate(shown) if np.array_equal(frame.pixels, picture)) for frame in frames]
    assert [(later - earlier) % 3 for earlier, later in pairwise(places)] == [1, 1, 1]


def test_lost_packets_break_a_frame_or_are_sent_again_and_every_gap_is_counted() -> None:
    Fake.serve("--size", "320x240", "--lost-ratio", "0.01")
    camera = make_camera("aravis", AravisOptions("127.0.0.1"))
    camera.open()
    good, errors = [], []
    for _ in range(25):
        try:
            good.append(camera.grab(1.0, after_ns=time.monotonic_ns()))
        except GrabTimeout:
            continue
        except CameraError as error:
            errors.append((len(good), error.code))
    camera.close()
    assert good
    assert {code for _, code in errors} == {"FRAME_BROKEN"}
    # A good frame is whole: the gradient of the fake, everywhere but in its stamp.
    expected = (np.add.outer(np.arange(240), np.arange(320)) % 251).astype(np.uint8)
    for frame in good:
        assert np.array_equal(frame.pixels[1:], expected[1:])
    for place, frame in enumerate(good):
        assert frame.lost_before >= sum(before == place for before, _ in errors)


def test_frames_that_arrived_while_the_process_was_stopped_are_never_fresh() -> None:
    Fake.serve("--size", "320x240")
    camera = make_camera("aravis", AravisOptions("127.0.0.1", trigger="hardware", trigger_line="Software"))
    # A hardware edge cannot be had here: the fake runs freely and the camera keeps every frame, as with a line trigger.
    camera._options = AravisOptions("127.0.0.1", trigger="freerun")  # type: ignore[attr-defined]
    camera.open()
    camera.grab(5.0, after_ns=time.monotonic_ns())
    for pause_s in (0.3, 0.6):
        # Another process stops this one, all its threads, and lets it go on.
        script = f"sleep 0.1; kill -STOP {os.getpid()}; sleep {pause_s}; kill -CONT {os.getpid()}"
        stopper = subprocess.Popen(["sh", "-c", script])
        until_s = time.monotonic() + 0.1 + pause_s + 0.3
        taken = 0
        while time.monotonic() < until_s:
            after_ns = time.monotonic_ns()
            frame = camera.grab(5.0, after_ns=after_ns)
            # The fake stamps a frame up to 45 ms (its cycle) before it is received; older than that, it had waited.
            assert exposed_ns(frame.pixels) > after_ns - 50_000_000
            assert frame.captured_ns > after_ns
            taken += 1
        assert stopper.wait() == 0
        assert taken > 3
    camera.close()


def test_a_killed_camera_never_holds_up_a_grab_and_is_taken_back() -> None:
    Fake.serve("--size", "320x240")
    policy = CapturePolicy(retry_s=0.1)
    with ReconnectingCamera(make_camera("aravis", AravisOptions("127.0.0.1")), policy) as camera:
        first = camera.grab(5.0, after_ns=time.monotonic_ns())
        Fake.kill()
        until_s = time.monotonic() + 20
        while (trouble := camera.trouble()) is None or trouble.code != "LOST":
            assert time.monotonic() < until_s
            started_s = time.monotonic()
            with pytest.raises(CameraError):
                camera.grab(0.1, after_ns=time.monotonic_ns())
            assert time.monotonic() - started_s < 1.0  # a trigger that nobody answers takes Aravis 2.5 s
        Fake.serve("--size", "320x240")
        until_s = time.monotonic() + 25
        while camera.trouble() is not None:
            assert time.monotonic() < until_s
            time.sleep(0.02)
        after_ns = time.monotonic_ns()
        frame = camera.grab(5.0, after_ns=after_ns)
        assert exposed_ns(frame.pixels) > after_ns
        assert frame.frame_id > first.frame_id
        assert number(frame.pixels) < 100  # of the new camera


def test_a_trigger_repeated_into_the_void_answers_nobody() -> None:
    """GVCP repeats an unanswered trigger for 2.5 s; a camera started meanwhile takes it, and exposes before our own."""
    Fake.serve("--size", "320x240")
    for _ in range(3):
        with ReconnectingCamera(
            make_camera("aravis", AravisOptions("127.0.0.1")), CapturePolicy(retry_s=0.1)
        ) as camera:
            camera.grab(5.0, after_ns=time.monotonic_ns())
            Fake.kill()
            until_s = time.monotonic() + 20
            while (trouble := camera.trouble()) is None or trouble.code != "LOST":
                assert time.monotonic() < until_s
                with pytest.raises(CameraError):
                    camera.grab(0.1, after_ns=time.monotonic_ns())
            Fake.serve("--size", "320x240")
            until_s = time.monotonic() + 25
            while camera.trouble() is not None:
                assert time.monotonic() < until_s
                time.sleep(0.001)
            time.sleep(0.5)  # in which a trigger of the dead connection would have been exposed and delivered
            before = camera.discarded
            after_ns = time.monotonic_ns()
            assert exposed_ns(camera.grab(5.0, after_ns=after_ns).pixels) > after_ns
            assert camera.discarded == before == 0


class Listener:
    """Everything sent in this network, seen from below IP: destination addresses of UDP packets."""

    def __init__(self) -> None:
        self.destinations: set[str] = set()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                packet = self._socket.recv(65535)
            except TimeoutError:
                continue
            if struct.unpack_from("!H", packet, 12)[0] == 0x0800 and packet[23] == socket.IPPROTO_UDP:
                self.destinations.add(socket.inet_ntoa(packet[30:34]))

    def close(self) -> None:
        time.sleep(0.2)
        self._stop.set()
        self._thread.join()
        self._socket.close()


def test_nothing_is_ever_broadcast_present_or_absent() -> None:
    with closing(Listener()) as listener:
        Fake.serve("--size", "320x240")
        camera = make_camera("aravis", AravisOptions("127.0.0.1"))
        camera.open()
        camera.grab(5.0, after_ns=time.monotonic_ns())
        camera.close()
        started_s = time.monotonic()
        with pytest.raises(CameraError) as caught:
            make_camera("aravis", AravisOptions("127.0.0.3")).open()
        assert time.monotonic() - started_s < 5
    assert caught.value.code == "CAMERA"
    assert listener.destinations == {"127.0.0.1", "127.0.0.3"}


def test_the_listener_would_have_seen_a_broadcast() -> None:
    with closing(Listener()) as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        sender.sendto(b"x", ("255.255.255.255", 3956))
    assert "255.255.255.255" in listener.destinations


@pytest.mark.parametrize("address", ["camera-7", "300.1.1.1", "10.1.2.3"])
def test_an_address_that_leads_nowhere_is_one_clear_error(address: str) -> None:
    with pytest.raises(CameraError) as caught:
        make_camera("aravis", AravisOptions(address)).open()
    assert caught.value.code == "CAMERA"
    assert address in caught.value.message
    assert caught.value.hint


def test_a_format_the_line_does_not_take_is_refused() -> None:
    Fake.serve("--size", "320x240")
    for pixel_format in ("BayerRG16", "Nonsense"):
        with pytest.raises(CameraError) as caught:
            make_camera("aravis", AravisOptions("127.0.0.1", pixel_format=pixel_format)).open()
        assert caught.value.code == "CAMERA"


def test_the_fake_ends_when_told_to() -> None:
    fake = Fake.serve()
    fake.process.send_signal(signal.SIGTERM)
    assert fake.process.wait(timeout=20) == 0
