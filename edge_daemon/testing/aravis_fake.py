"""A GigE Vision camera to connect to without hardware: Aravis' GvFakeCamera as a process of its own.

    python -m edge_daemon.testing.aravis_fake --interface 127.0.0.1 [--lost-ratio 0.002] [--frames FOLDER]

Speaks the real protocol (GVCP and GVSP over UDP): registers, heartbeat, software trigger, packets, loss of packets.
Without ``--frames`` each picture carries in its first 16 bytes the CLOCK_MONOTONIC time of its exposure and its number
(little-endian uint64 each), so that a test can tell when it was really taken: ``exposed_ns`` and ``number`` read them.

Run it in a network namespace of its own (``unshare -n`` and ``ip link set lo up``): it also answers discovery. Prints
``ready`` when it serves; ends on SIGTERM or Ctrl-C. Needs PyGObject and Aravis 0.8.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import itertools
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images import PICTURE_SUFFIXES, load_picture

__all__ = ["exposed_ns", "main", "number"]

#: Registers of Aravis' fake camera (arvfakecamera.h): width and height, px.
_WIDTH_REGISTER, _HEIGHT_REGISTER = 0x100, 0x104
_FILL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32)


def exposed_ns(pixels: NDArray[Any]) -> int:
    """When a stamped picture was exposed, CLOCK_MONOTONIC."""
    return int.from_bytes(pixels.ravel()[:8].tobytes(), "little")


def number(pixels: NDArray[Any]) -> int:
    """The number of a stamped picture, from 0."""
    return int.from_bytes(pixels.ravel()[8:16].tobytes(), "little")


def _stamped(width_px: int, height_px: int) -> Callable[[], NDArray[np.uint8]]:
    """A diagonal gradient with time and number in its first 16 bytes."""
    gradient = (np.add.outer(np.arange(height_px), np.arange(width_px)) % 251).astype(np.uint8)
    numbers = itertools.count()

    def make() -> NDArray[np.uint8]:
        stamp = time.monotonic_ns().to_bytes(8, "little") + next(numbers).to_bytes(8, "little")
        gradient[0, :16] = np.frombuffer(stamp, np.uint8)
        return gradient

    return make


def _from_folder(folder: Path) -> Callable[[], NDArray[np.uint8]]:
    """The grey pictures of a folder in name order, again and again."""
    frames = [load_picture(path).pixels for path in sorted(folder.iterdir()) if path.suffix in PICTURE_SUFFIXES]
    if not frames or any(frame.shape != frames[0].shape or frame.dtype != np.uint8 for frame in frames):
        raise SystemExit(f"{folder} must hold 8-bit grey pictures of one size")
    return itertools.cycle(frames).__next__


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Exit code 3 when Aravis is not there or the address is taken."""
    parser = argparse.ArgumentParser(description="A GigE Vision camera without hardware (Aravis).")
    parser.add_argument("--interface", default="127.0.0.1", help="our address to serve on (%(default)s)")
    parser.add_argument("--serial", default="GV01", help="serial number (%(default)s)")
    parser.add_argument("--size", default="512x512", help="WIDTHxHEIGHT in px, at most 2048x2048 (%(default)s)")
    parser.add_argument("--frames", type=Path, help="folder of 8-bit grey pictures to show instead of stamped ones")
    parser.add_argument("--lost-ratio", type=float, default=0.0, help="share of packets that are lost")
    chosen = parser.parse_args(arguments)
    try:
        gi = importlib.import_module("gi")
        gi.require_version("Aravis", "0.8")
        aravis: Any = importlib.import_module("gi.repository.Aravis")
        glib: Any = importlib.import_module("gi.repository.GLib")
    except (ImportError, ValueError) as error:
        print(f"Aravis is not installed: {error}", file=sys.stderr)  # noqa: T201
        return 3
    width_px, height_px = (int(side) for side in chosen.size.split("x"))
    make = _from_folder(chosen.frames) if chosen.frames else _stamped(width_px, height_px)
    if chosen.frames:
        height_px, width_px = make().shape

    server = aravis.GvFakeCamera.new(chosen.interface, chosen.serial)
    if not server.is_running():
        print(f"cannot serve on {chosen.interface}: address or port taken", file=sys.stderr)  # noqa: T201
        return 3
    server.set_property("gvsp-lost-ratio", chosen.lost_ratio)
    fake = server.get_fake_camera()
    fake.write_register(_WIDTH_REGISTER, width_px)
    fake.write_register(_HEIGHT_REGISTER, height_px)

    # GObject introspection does not call a Python fill pattern back: it is set through the C interface.
    library = ctypes.CDLL("libaravis-0.8.so.0")
    library.arv_buffer_get_data.restype = ctypes.c_void_p
    library.arv_buffer_get_data.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)]
    library.arv_fake_camera_set_fill_pattern.argtypes = [ctypes.c_void_p, _FILL, ctypes.c_void_p]

    def fill(buffer: int, _data: int, _exposure_us: int, _gain: int, _pixel_format: int) -> None:
        picture = np.ascontiguousarray(make())
        target = library.arv_buffer_get_data(buffer, ctypes.byref(ctypes.c_size_t()))
        ctypes.memmove(target, picture.ctypes.data, picture.nbytes)

    callback = _FILL(fill)
    library.arv_fake_camera_set_fill_pattern(hash(fake), callback, None)

    loop = glib.MainLoop()
    for name in (signal.SIGTERM, signal.SIGINT):
        glib.unix_signal_add(glib.PRIORITY_HIGH, name, loop.quit)
    print("ready", flush=True)  # noqa: T201
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
