"""Options of each kind of camera: frozen, checked when made, importable without any camera library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError

__all__ = ["TRIGGERS", "AravisOptions", "BaslerOptions", "FolderOptions", "VideoOptions"]

#: software: grab fires it. hardware: the camera's input line, rising edge. freerun: the camera runs on its own.
TRIGGERS = ("software", "hardware", "freerun")


def _check_industrial(trigger: str, exposure_us: float | None, gain_db: float | None, buffer_count: int) -> None:
    if trigger not in TRIGGERS:
        raise ConfigError(f"camera trigger {trigger!r} is unknown", hint=f"one of {', '.join(TRIGGERS)}")
    if exposure_us is not None and not 0 < exposure_us <= 10e6:
        raise ConfigError(f"camera exposure {exposure_us} us is out of range", hint="above 0 us, at most 10 s")
    if gain_db is not None and not 0 <= gain_db <= 60:
        raise ConfigError(f"camera gain {gain_db} dB is out of range", hint="0 dB to 60 dB")
    if not 2 <= buffer_count <= 50:
        raise ConfigError(f"camera buffer count {buffer_count} is out of range", hint="2 to 50, each holds one frame")


@dataclass(frozen=True, slots=True)
class BaslerOptions:
    """Basler camera through pylon.

    Exactly one of: ``serial`` (USB camera), ``address`` (IPv4 of a GigE camera, asked by unicast; with ``serial`` too,
    the serial number is checked), ``emulation_folder`` (pylon's camera emulation showing the PNG, TIFF or BMP files of
    a folder in name order, again and again, one per trigger; all of one size and kind).
    pixel_format: GenICam name; None keeps the camera's (emulation: that of the first file). exposure_us, gain_db: None
    keeps the camera's. trigger_line: input of the hardware trigger.
    """

    serial: str | None = None
    address: str | None = None
    emulation_folder: Path | None = None
    trigger: str = "software"
    trigger_line: str = "Line1"
    pixel_format: str | None = None
    exposure_us: float | None = None
    gain_db: float | None = None
    buffer_count: int = 5

    def __post_init__(self) -> None:
        _check_industrial(self.trigger, self.exposure_us, self.gain_db, self.buffer_count)
        real = self.serial is not None or self.address is not None
        if real == (self.emulation_folder is not None):
            raise ConfigError(
                "a Basler camera needs its serial number or address, or an emulation folder",
                hint="give serial (USB), address (GigE, e.g. '192.168.10.20') or emulation_folder",
            )


@dataclass(frozen=True, slots=True)
class AravisOptions:
    """GigE Vision camera of any maker through Aravis, by IPv4 ``address``; nothing is broadcast.

    interface_address: our own address on the camera's network; None takes the one the route to the camera leaves from.
    pixel_format, exposure_us, gain_db: None keeps the camera's. packet_timeout_ms: a packet missing for this long is
    asked for again. trigger_line: input of the hardware trigger.
    """

    address: str
    interface_address: str | None = None
    trigger: str = "software"
    trigger_line: str = "Line1"
    pixel_format: str | None = None
    exposure_us: float | None = None
    gain_db: float | None = None
    buffer_count: int = 5
    packet_timeout_ms: float = 20.0

    def __post_init__(self) -> None:
        _check_industrial(self.trigger, self.exposure_us, self.gain_db, self.buffer_count)
        if not self.address:
            raise ConfigError("a GigE Vision camera needs its address", hint="for example '192.168.10.20'")
        if not 1 <= self.packet_timeout_ms <= 1000:
            raise ConfigError(f"packet timeout {self.packet_timeout_ms} ms is out of range", hint="1 ms to 1 s")


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """Video through OpenCV: ``/dev/video0`` (V4L2), a ``rtsp://`` or ``http://`` address, or a video file.

    latency_s: the longest time from exposure to arrival here; a live frame counts as taken that long before it was
    received. Measure it for a network stream (often 0.1 s to 2 s). size_px: asked of a V4L2 device; None keeps its own.
    fps: likewise; of a stream it says the true rate where the stream's own claim is wrong. read_timeout_s: a network
    stream silent for longer is lost. grey: reduce to one channel (V4L2 and streams deliver colour also for grey
    sensors).
    """

    source: str
    latency_s: float = 0.0
    size_px: tuple[int, int] | None = None
    fps: float | None = None
    read_timeout_s: float = 3.0
    grey: bool = False

    def __post_init__(self) -> None:
        if not self.source:
            raise ConfigError("a video camera needs its source", hint="'/dev/video0', 'rtsp://...' or a video file")
        if not 0 <= self.latency_s <= 60:
            raise ConfigError(f"video latency {self.latency_s} s is out of range", hint="0 s to 60 s")
        if self.fps is not None and not 1 <= self.fps <= 1000:
            raise ConfigError(f"video rate {self.fps} frames/s is out of range", hint="1 to 1000 frames/s")
        if not 0.1 <= self.read_timeout_s <= 60:
            raise ConfigError(f"video read timeout {self.read_timeout_s} s is out of range", hint="0.1 s to 60 s")


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """Watched folder: each new picture file is one exposure.

    after: ``keep`` leaves a processed file in place, ``delete`` removes it when the next one is asked for. settle_s: a
    file must not have changed for this long before it is read (0 for writers that rename into the folder). poll_s: how
    often the folder is looked at.
    """

    folder: Path
    after: str = "keep"
    settle_s: float = 0.02
    poll_s: float = 0.005

    def __post_init__(self) -> None:
        if self.after not in ("keep", "delete"):
            raise ConfigError(f"after = {self.after!r} is unknown", hint="one of keep, delete")
        if not 0 <= self.settle_s <= 60:
            raise ConfigError(f"settle time {self.settle_s} s is out of range", hint="0 s to 60 s")
        if not 0.001 <= self.poll_s <= 10:
            raise ConfigError(f"poll interval {self.poll_s} s is out of range", hint="1 ms to 10 s")
