"""Cameras: from a trigger to a fresh frame.

``open_camera("folder", FolderOptions(Path("in")))`` gives a camera that mends itself; ``grab(timeout_s, after_ns=...)``
never returns a frame older than asked for. Kinds: basler (pylon), aravis (GigE Vision), video (OpenCV), folder, and
plug-ins of the entry-point group ``edge_daemon.cameras``.
"""

from __future__ import annotations

from .factory import ENTRY_POINT_GROUP, KINDS, CameraOptions, make_camera, open_camera
from .options import TRIGGERS, AravisOptions, BaslerOptions, FolderOptions, VideoOptions
from .protocol import Camera, FrameCounter
from .reconnect import CapturePolicy, ReconnectingCamera

__all__ = [
    "ENTRY_POINT_GROUP",
    "KINDS",
    "TRIGGERS",
    "AravisOptions",
    "BaslerOptions",
    "Camera",
    "CameraOptions",
    "CapturePolicy",
    "FolderOptions",
    "FrameCounter",
    "ReconnectingCamera",
    "VideoOptions",
    "make_camera",
    "open_camera",
]
