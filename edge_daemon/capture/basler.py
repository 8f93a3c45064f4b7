"""Basler cameras through pylon, real and emulated.

Nothing is ever broadcast on the network: a GigE camera is asked at its address (unicast), USB cameras and the emulation
are enumerated within their device class. Only formats in ``pixels.SUPPORTED_FORMATS`` are taken.

pylon's own waits with a time limit end by SIGALRM and hang, or end the process, where anything else in it handles that
signal; so this module only ever asks without waiting, and waits on pylon's file descriptor or sleeps.

The emulation (class BaslerCamEmu) shows the files of a folder in name order and starts over; stopping and starting the
stream (also after a time-out) begins with the first file again. It has no time stamps, no hardware trigger edges, and
stalls instead of dropping frames, so loss of single frames cannot be seen with it.
"""

from __future__ import annotations

import importlib
import logging
import os
import select
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CameraError, ImageError, MissingExtra
from ..images import PICTURE_SUFFIXES, load_picture
from .options import BaslerOptions
from .pixels import arrange, channels_and_bits
from .stream import Arrival, StreamCamera

__all__ = ["BaslerCamera"]

_LOG = logging.getLogger("edge_daemon.capture")
#: Name of the exposure time on older GigE cameras (and the emulation, which ignores the newer one), and of SFNC 2.
_EXPOSURE = ("ExposureTimeAbs", "ExposureTime")
#: pylon's value for "this frame has no block id".
_NO_BLOCK_ID = 2**64 - 1


class BaslerCamera(StreamCamera):
    """A Camera on top of ``pylon.InstantCamera``; raises MissingExtra (basler) when pypylon is not installed."""

    def __init__(self, options: BaslerOptions) -> None:
        self._pylon, self._genicam = _libraries()
        self._options = options
        self._camera: Any = None
        self._format = ""
        self._arrived = select.poll()
        which = options.emulation_folder or options.address or options.serial
        super().__init__(
            f"basler {'emulation ' if options.emulation_folder else ''}{which}",
            software_trigger=options.trigger == "software",
            queue_frames=1 if options.trigger == "freerun" else options.buffer_count,
            # Block ids of GigE Vision 1 have 16 bits; USB3 Vision and the emulation never wrap.
            counter_wraps_at=65535 if options.address else None,
        )

    # ---- connection ------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        options = self._options
        with self._errors("CAMERA"):
            self._camera = camera = self._pylon.InstantCamera(self._device())
            camera.Open()
            serial = camera.GetDeviceInfo().GetSerialNumber()
            if options.address and options.serial and serial != options.serial:
                raise CameraError(
                    f"camera {self._identity} has serial number {serial}, expected {options.serial}",
                    hint="correct the address or the serial number",
                )
            self._configure()
            camera.MaxNumBuffer.Value = options.buffer_count
            camera.StartGrabbing(self._pylon.GrabStrategy_OneByOne)
            self._arrived = select.poll()
            self._arrived.register(camera.GetGrabResultWaitObject().GetFd(), select.POLLIN)

    def _device(self) -> Any:
        factory = self._pylon.TlFactory.GetInstance()
        wanted = self._pylon.DeviceInfo()
        if self._options.emulation_folder is not None:
            os.environ.setdefault("PYLON_CAMEMU", "1")
            wanted.SetDeviceClass("BaslerCamEmu")
            return factory.CreateFirstDevice(wanted)
        if self._options.address is not None:
            wanted.SetDeviceClass("BaslerGigE")
            wanted.SetIpAddress(self._options.address)
            return factory.CreateDevice(wanted)
        wanted.SetDeviceClass("BaslerUsb")
        wanted.SetSerialNumber(self._options.serial)
        return factory.CreateFirstDevice(wanted)

    def _configure(self) -> None:
        options = self._options
        pixel_format = options.pixel_format
        if options.emulation_folder is not None:
            pixel_format = self._show_folder(options.emulation_folder, pixel_format)
        if pixel_format is not None:
            self._set(("PixelFormat",), pixel_format)
        self._format = str(self._camera.PixelFormat.Value)
        channels_and_bits(self._format, self._identity)
        if options.exposure_us is not None:
            self._set(_EXPOSURE, options.exposure_us)
        if options.gain_db is not None:
            self._set(("Gain",), options.gain_db)
        self._set(("AcquisitionMode",), "Continuous")
        self._set(("TriggerSelector",), "FrameStart")
        if options.trigger == "freerun":
            self._set(("TriggerMode",), "Off")
            exposure_us = float(self._node(*_EXPOSURE).Value)
            self._lead_ns = round(exposure_us * 1000)
        else:
            self._set(("TriggerSource",), "Software" if options.trigger == "software" else options.trigger_line)
            if options.trigger == "hardware":
                self._set(("TriggerActivation",), "RisingEdge")
            self._set(("TriggerMode",), "On")

    def _show_folder(self, folder: Path, pixel_format: str | None) -> str:
        """Point the emulation at a folder; returns the pixel format to use. It crops what exceeds Width x Height."""
        try:
            names = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
            first = load_picture(names[0]).pixels
        except (OSError, IndexError) as error:
            raise CameraError(
                f"camera {self._identity}: no picture files there", hint="fill the folder with frames of one size"
            ) from error
        except ImageError as error:
            raise CameraError(f"camera {self._identity}: {error.message}", hint=error.hint) from error
        if first.ndim == 3 and first.dtype.itemsize == 2:
            raise CameraError(f"camera {self._identity}: 16-bit colour cannot be emulated", hint="use 8-bit colour")
        camera = self._camera
        camera.ImageFilename.Value = str(folder)
        camera.ImageFileMode.Value = "On"
        camera.TestImageSelector.Value = "Off"
        camera.Width.Value, camera.Height.Value = first.shape[1], first.shape[0]
        if pixel_format is not None:
            return pixel_format
        return "RGB8Packed" if first.ndim == 3 else "Mono16" if first.dtype.itemsize == 2 else "Mono8"

    def _node(self, *names: str) -> Any:
        """The first of these features that the camera has."""
        nodes = self._camera.GetNodeMap()
        for name in names:
            node = nodes.GetNode(name)
            if node is not None and self._genicam.IsImplemented(node):
                return node
        raise CameraError(f"camera {self._identity} has no feature {names[0]}", hint="leave that option out")

    def _set(self, names: tuple[str, ...], value: object) -> None:
        try:
            self._node(*names).Value = value
        except self._genicam.GenericException as error:
            raise CameraError(
                f"camera {self._identity}: {names[0]} = {value} is refused: {_first_line(error)}",
                hint="see the camera's manual for the values it takes",
            ) from error

    def _disconnect(self) -> None:
        camera, self._camera = self._camera, None
        if camera is None:
            return
        for step in (camera.StopGrabbing, camera.Close, camera.DestroyDevice):
            try:
                step()
            except self._genicam.GenericException as error:  # a lost device refuses each of these
                _LOG.info("camera %s: %s", self._identity, _first_line(error))

    # ---- frames ----------------------------------------------------------------------------------------------------

    def _fetch(self, timeout_s: float) -> Arrival | None:
        pylon, camera = self._pylon, self._camera
        with self._errors("LOST"):
            # The removal is only a flag: the emulation goes on delivering after it.
            if camera.IsCameraDeviceRemoved():
                raise CameraError(f"camera {self._identity} was unplugged", code="LOST", hint="check cable and power")
            if timeout_s > 0 and not self._arrived.poll(timeout_s * 1000):
                return None
            result = camera.RetrieveResult(0, pylon.TimeoutHandling_Return)
            if not result.IsValid():
                return None
            with result:  # releases the buffer; everything is copied before
                counter = int(result.BlockID)
                known = None if counter == _NO_BLOCK_ID else counter
                if not result.GrabSucceeded():
                    return Arrival(None, known, result.ErrorDescription or "grab failed")
                with result.GetArrayZeroCopy() as stored:
                    return Arrival(arrange(stored, self._format), known)

    def _await_ready(self, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        camera = self._opened()
        with self._errors("LOST"):
            while not camera.WaitForFrameTriggerReady(0, self._pylon.TimeoutHandling_Return):
                if time.monotonic() > deadline_s or self._stop.wait(0.001):
                    return False
        return True

    def _fire(self) -> None:
        with self._errors("LOST"):
            self._opened().ExecuteSoftwareTrigger()

    def _restart_stream(self) -> None:
        with self._errors("LOST"):
            self._camera.StopGrabbing()
            self._camera.StartGrabbing(self._pylon.GrabStrategy_OneByOne)

    def _opened(self) -> Any:
        """The device, also while another thread is closing it (pylon then raises); CameraError when it is closed."""
        camera = self._camera
        if camera is None:
            raise CameraError(f"camera {self._identity} is not open", code="CLOSED", hint="open it first")
        return camera

    @contextmanager
    def _errors(self, code: str) -> Iterator[None]:
        """pylon's errors as ours; those of a camera closed meanwhile by another thread have code CLOSED."""
        try:
            yield
        except self._genicam.GenericException as error:
            raise CameraError(
                f"camera {self._identity}: {_first_line(error)}",
                code="CLOSED" if code == "LOST" and self._stop.is_set() else code,
                hint="check power, cable, address or serial number, and that no other program holds the camera",
            ) from error


def _libraries() -> tuple[Any, Any]:
    """pypylon's modules pylon and genicam."""
    with warnings.catch_warnings():
        # Its types lack __module__, which Python deprecates; where warnings are errors the import would crash.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return importlib.import_module("pypylon.pylon"), importlib.import_module("pypylon.genicam")
        except ImportError as error:
            raise MissingExtra("a Basler camera", "basler") from error


def _first_line(error: BaseException) -> str:
    """pylon ends its messages with source file and line: of no use to a reader."""
    return str(error).split(" : ", maxsplit=1)[0].strip()
