"""From a kind of camera and its options to a Camera; libraries are imported only for the kind asked for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

from ..errors import ConfigError
from .options import AravisOptions, BaslerOptions, FolderOptions, VideoOptions
from .protocol import Camera
from .reconnect import CapturePolicy, ReconnectingCamera

__all__ = ["ENTRY_POINT_GROUP", "KINDS", "CameraOptions", "make_camera", "open_camera"]

#: A plug-in names a callable here: options as written in the configuration -> Camera (closed).
ENTRY_POINT_GROUP = "edge_daemon.cameras"

CameraOptions = BaslerOptions | AravisOptions | VideoOptions | FolderOptions

#: kind -> its options class.
KINDS: dict[str, type[CameraOptions]] = {
    "basler": BaslerOptions,
    "aravis": AravisOptions,
    "video": VideoOptions,
    "folder": FolderOptions,
}


def make_camera(kind: str, options: CameraOptions | Mapping[str, object]) -> Camera:
    """A closed Camera of a built-in kind (options of its class) or of a plug-in (options as a mapping).

    Raises ConfigError for an unknown kind or options of another kind, MissingExtra when its library is not installed.
    """
    if kind not in KINDS:
        return _plug_in(kind, options)
    if not isinstance(options, KINDS[kind]):
        raise ConfigError(f"camera kind {kind!r} does not take {type(options).__name__}", hint=KINDS[kind].__name__)
    if isinstance(options, BaslerOptions):
        from .basler import BaslerCamera

        return BaslerCamera(options)
    if isinstance(options, AravisOptions):
        from .aravis import AravisCamera

        return AravisCamera(options)
    if isinstance(options, VideoOptions):
        from .video import make_video_camera

        return make_video_camera(options)
    from .folder import FolderCamera

    return FolderCamera(options)


def _plug_in(kind: str, options: CameraOptions | Mapping[str, object]) -> Camera:
    plug_ins = {found.name: found for found in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
    if kind not in plug_ins:
        raise ConfigError(f"camera kind {kind!r} is unknown", hint=f"one of {', '.join([*KINDS, *sorted(plug_ins)])}")
    camera = plug_ins[kind].load()(options)
    if not isinstance(camera, Camera):
        raise ConfigError(f"camera plug-in {kind!r} gives no Camera", hint="see edge_daemon.capture.protocol")
    return camera


def open_camera(
    kind: str,
    options: CameraOptions | Mapping[str, object],
    policy: CapturePolicy | None = None,
    *,
    wait: bool = False,
) -> ReconnectingCamera:
    """Make a camera, wrap it in the reconnect policy, open it. See ``ReconnectingCamera.open`` for ``wait``.

    Raises what ``make_camera`` raises, and CameraError when it cannot be opened and ``wait`` is not set.
    """
    camera = ReconnectingCamera(make_camera(kind, options), policy)
    camera.open(wait=wait)
    return camera
