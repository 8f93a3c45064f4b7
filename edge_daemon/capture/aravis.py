"""GigE Vision cameras of any maker through Aravis 0.8 (GObject introspection).

The camera is opened at its address: the device object is built directly from our own address and the camera's, because
opening by name (``Aravis.Camera.new``) enumerates every bus and, where the camera does not answer, broadcasts a
discovery. The kernel's routing table says which of our addresses leads to the camera; no packet is sent for that.
A camera that vanishes is noticed at the next trigger, or by its missing heartbeat after about 6 s.
"""

from __future__ import annotations

import importlib
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import CameraError, MissingExtra
from .options import AravisOptions
from .pixels import arrange, channels_and_bits
from .stream import Arrival, StreamCamera

__all__ = ["AravisCamera"]

_LOG = logging.getLogger("edge_daemon.capture")
_GVCP_PORT = 3956


class AravisCamera(StreamCamera):
    """A Camera on top of ``Aravis.Camera``; raises MissingExtra (aravis) when PyGObject or Aravis is not installed."""

    def __init__(self, options: AravisOptions) -> None:
        try:
            importlib.import_module("gi").require_version("Aravis", "0.8")
            self._aravis: Any = importlib.import_module("gi.repository.Aravis")
            self._glib: Any = importlib.import_module("gi.repository.GLib")
            self._gio: Any = importlib.import_module("gi.repository.Gio")
        except (ImportError, ValueError) as error:  # ValueError: the typelib is not there
            raise MissingExtra("a GigE Vision camera (also gir1.2-aravis-0.8 of the system)", "aravis") from error
        self._options = options
        self._camera: Any = None
        self._stream: Any = None
        self._format = ""
        self._control_lost = threading.Event()
        super().__init__(
            f"aravis {options.address}",
            software_trigger=options.trigger == "software",
            queue_frames=1 if options.trigger == "freerun" else options.buffer_count,
            counter_wraps_at=65535,
        )

    # ---- connection ------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        options = self._options
        with self._errors("CAMERA"):
            ours = options.interface_address or self._route()
            address = self._gio.InetAddress.new_from_string
            theirs = address(options.address)
            if theirs is None or address(ours) is None:
                raise CameraError(f"camera {self._identity}: not an IPv4 address", hint="for example '192.168.10.20'")
            device = self._aravis.GvDevice.new(address(ours), theirs)
            self._camera = camera = self._aravis.Camera.new_with_device(device)
            self._control_lost = lost = threading.Event()
            device.connect("control-lost", lambda *_: lost.set())
            camera.stop_acquisition()  # left running by a client that died
            self._configure(camera)
            self._stream = stream = camera.create_stream(None, None)
            if stream is None:
                raise CameraError(f"camera {self._identity} gives no stream", hint="is another client receiving it?")
            stream.set_property("packet-timeout", round(options.packet_timeout_ms * 1000))
            for _ in range(options.buffer_count):
                stream.push_buffer(self._aravis.Buffer.new_allocate(camera.get_payload()))
            camera.start_acquisition()

    def _route(self) -> str:
        """Our address on the way to the camera, from the routing table; connecting a UDP socket sends nothing."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((self._options.address, _GVCP_PORT))
                return str(probe.getsockname()[0])
        except OSError as error:
            raise CameraError(
                f"camera {self._identity}: {error.strerror or error}",
                hint="check the address and this machine's network, or give interface_address",
            ) from error

    def _configure(self, camera: Any) -> None:
        options = self._options
        if options.pixel_format is not None:
            camera.set_pixel_format_from_string(options.pixel_format)
        self._format = str(camera.get_pixel_format_as_string())
        channels_and_bits(self._format, self._identity)
        if options.exposure_us is not None:
            camera.set_exposure_time(options.exposure_us)
        if options.gain_db is not None:
            camera.set_gain(options.gain_db)
        camera.set_acquisition_mode(self._aravis.AcquisitionMode.CONTINUOUS)
        if options.trigger == "freerun":
            camera.clear_triggers()
            self._lead_ns = round(camera.get_exposure_time() * 1000)
        else:
            camera.set_trigger("Software" if options.trigger == "software" else options.trigger_line)

    def _disconnect(self) -> None:
        camera, self._camera, self._stream = self._camera, None, None
        if camera is None or self._control_lost.is_set():
            return  # telling a lost camera to stop would only wait for answers; dropping the objects frees everything
        try:
            camera.stop_acquisition()
        except self._glib.Error as error:
            _LOG.info("camera %s did not take the stop: %s", self._identity, error.message)

    # ---- frames ----------------------------------------------------------------------------------------------------

    def _fetch(self, timeout_s: float) -> Arrival | None:
        if self._control_lost.is_set():
            raise CameraError(f"camera {self._identity} does not answer", code="LOST", hint="check cable and power")
        buffer = self._stream.timeout_pop_buffer(round(timeout_s * 1e6))
        if buffer is None:
            return None
        try:
            return self._arrival(buffer)
        finally:
            self._stream.push_buffer(buffer)

    def _arrival(self, buffer: Any) -> Arrival:
        counter = int(buffer.get_frame_id())
        status = buffer.get_status()
        if status != self._aravis.BufferStatus.SUCCESS:
            return Arrival(None, counter, status.value_nick)
        channels, bits = channels_and_bits(self._format, self._identity)
        width_px, height_px = buffer.get_image_width(), buffer.get_image_height()
        data = buffer.get_data()
        values = width_px * height_px * channels
        if len(data) < values * bits // 8:
            return Arrival(None, counter, f"{len(data)} bytes for {width_px} x {height_px} px")
        stored = np.frombuffer(data, f"<u{bits // 8}", values)
        shape = (height_px, width_px) if channels == 1 else (height_px, width_px, channels)
        return Arrival(arrange(stored.reshape(shape), self._format), counter)

    def _await_ready(self, timeout_s: float) -> bool:
        return True  # GigE Vision has no "ready" that every camera knows

    def _fire(self) -> None:
        camera = self._camera
        if camera is None:
            raise CameraError(f"camera {self._identity} is not open", code="CLOSED", hint="open it first")
        with self._errors("LOST"):
            camera.software_trigger()

    def _restart_stream(self) -> None:
        with self._errors("LOST"):
            self._camera.stop_acquisition()
            # Ends the receiving thread, so that a frame half received is dropped too.
            self._stream.stop_thread(False)
            while (buffer := self._stream.try_pop_buffer()) is not None:
                self._stream.push_buffer(buffer)
            self._stream.start_thread()
            self._camera.start_acquisition()

    @contextmanager
    def _errors(self, code: str) -> Iterator[None]:
        try:
            yield
        except self._glib.Error as error:
            raise CameraError(
                f"camera {self._identity}: {error.message}",
                code=code,
                hint="check power, cable and address, and that no other program controls the camera",
            ) from error
