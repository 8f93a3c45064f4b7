"""Folder, recording and pylon's emulation through the public camera contract (others: their own files)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_daemon.capture import (
    BaslerOptions,
    CapturePolicy,
    FolderOptions,
    ReconnectingCamera,
    VideoOptions,
    make_camera,
)
from edge_daemon.images import write_png_atomic
from edge_daemon.records import Frame
from edge_daemon.testing.camera_contract import CHECKS, CameraRig

Check = Callable[[CameraRig], None]
all_checks = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))


class FolderRig(CameraRig):
    """Each exposure is a file named after its time."""

    can_lose = True

    def __init__(self, folder: Path, **options: object) -> None:
        self.folder = folder
        folder.mkdir()
        self.camera = make_camera("folder", FolderOptions(folder, **options))  # type: ignore[arg-type]
        self.count = 0

    def expose(self) -> None:
        time.sleep(0.02)  # a file's own time may be a kernel tick (up to 10 ms) behind
        self.count += 1
        write_png_atomic(self.folder / f"{time.monotonic_ns():020d}.png", np.full((20, 30), self.count % 256, np.uint8))

    def exposed_ns(self, frame: Frame) -> int | None:
        return int(Path(frame.source).stem)

    def lose(self) -> None:
        self.folder.rename(self.folder.with_name("away"))

    def restore(self) -> None:
        self.folder.with_name("away").rename(self.folder)


@all_checks
@pytest.mark.parametrize("options", [{}, {"settle_s": 0.0, "after": "delete"}], ids=["keep", "delete"])
def test_folder(check: Check, options: dict[str, object], tmp_path: Path) -> None:
    with closing(FolderRig(tmp_path / "in", **options)) as rig:
        check(rig)


@all_checks
def test_folder_that_mends_itself(check: Check, tmp_path: Path) -> None:
    with closing(FolderRig(tmp_path / "in")) as rig:
        rig.camera = ReconnectingCamera(rig.camera, CapturePolicy(retry_s=0.05))
        if check.__name__ == "check_loss_is_noticed_and_mended":
            # Its open() does not wait for the keeper, which has 50 ms between its attempts.
            rig.restore = lambda: (FolderRig.restore(rig), time.sleep(0.5))  # type: ignore[method-assign]
        check(rig)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "parts.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for number in range(60):
        writer.write(np.full((48, 64, 3), number * 4, np.uint8))
    writer.release()
    return path


@all_checks
def test_video_file(check: Check, recording: Path) -> None:
    rig = CameraRig()
    rig.camera = make_camera("video", VideoOptions(str(recording)))
    with closing(rig):
        check(rig)


class EmulationRig(CameraRig):
    """pylon's emulation. Its removal is a flag that it raises itself; opening again makes a new device."""

    can_lose = True

    def __init__(self, folder: Path, trigger: str) -> None:
        self.camera = make_camera("basler", BaslerOptions(emulation_folder=folder, trigger=trigger, exposure_us=1000.0))

    def lose(self) -> None:
        self.camera._camera.GetNodeMap().GetNode("FirePnPCallback").Execute()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for number in range(7):
        write_png_atomic(folder / f"part-{number}.png", np.full((48, 64), number * 30, np.uint8))
    return folder


@all_checks
@pytest.mark.needs("pypylon")
@pytest.mark.parametrize("trigger", ["software", "freerun"])
def test_basler_emulation(check: Check, trigger: str, parts: Path) -> None:
    with closing(EmulationRig(parts, trigger)) as rig:
        check(rig)
