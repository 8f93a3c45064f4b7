"""Pictures in and out of files: read strictly, write all or nothing.

Stands before the line (folder camera, ``inspect``, ``judge``) and behind it (highlighted picture, memory bank). A
picture that would have to be guessed at is refused: pixels stored turned, transparency, palettes, floating point.
What is accepted reaches the caller bit for bit as stored; only the channel order becomes RGB.

Accepted: PNG (grey or RGB, 8 or 16 bit), JPEG (grey or colour), TIFF (one page, grey or RGB, unsigned 8 or 16 bit),
BMP (8 bit grey or 24 bit). The header is read and every property checked before a single pixel is decoded, so a
decompression bomb costs nothing. A palette picture is refused (it is a label image, or a picture that has lost grey
levels). An alpha channel that is opaque everywhere is dropped. Not covered: colour profiles and gamma are ignored;
a JPEG carries no checksum, so only its truncation is found, not a flipped bit.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import stat
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from .errors import ImageError, StorageError
from .records import read_only

__all__ = [
    "PICTURE_SUFFIXES",
    "Picture",
    "dicom_troubles",
    "highlight",
    "load_labels",
    "load_picture",
    "make_folder",
    "write_bytes_atomic",
    "write_png_atomic",
]

#: File name endings (lower case) under which pictures are looked for in folders.
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})

_ORIENTATION_TAG = 274
_ACCEPTED = "accepted are PNG, JPEG, TIFF and BMP, grey or RGB, 8 or 16 bit"
#: What Pillow's and our own parsers raise on damaged headers.
_PARSE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, struct.error)
#: The warning filters belong to the whole process: one thread at a time may change them.
_WARNINGS_LOCK = threading.Lock()


def quiet_opencv() -> None:
    """Stop OpenCV's own lines on stderr about a bad file or camera: our errors say it, once.

    For the whole process; the environment variable OPENCV_LOG_LEVEL overrules it.
    """
    # Older releases of OpenCV have no such setting in Python; they talk.
    logging = getattr(cv2.utils, "logging", None)
    if logging is not None and "OPENCV_LOG_LEVEL" not in os.environ:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)


quiet_opencv()


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as stored.

    pixels: (H, W) grey or (H, W, 3) RGB, uint8 or uint16, read-only. sha256: of the file's bytes. bits: 8 or 16.
    """

    pixels: NDArray[Any]
    sha256: str
    bits: int
    path: Path


@dataclass(frozen=True, slots=True)
class _Header:
    """What the file says about itself. channels: 1 grey, 3 RGB; 2 and 4: the same with alpha."""

    kind: str
    width_px: int
    height_px: int
    channels: int
    bits: int
    orientation: int = 1
    palette: bool = False


class _Refused(Exception):
    """Why a picture cannot be used, and how to put it right; turned into ImageError where the file name is known."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint


def load_picture(path: str | os.PathLike[str], *, max_px: int = 200_000_000, min_side_px: int = 16) -> Picture:
    """Read a picture from ``path`` strictly; see the module for what is accepted.

    max_px: most pixels (width x height) that are decoded. min_side_px: shortest side that can be inspected.
    A grey picture stored as RGB stays RGB. Raises ImageError naming the file, the property and the remedy.
    """
    path = Path(path)
    try:
        data = _read(path, max_px)
        header = _header(data)
        _check_size(header, max_px, min_side_px)
        _check_picture(header)
        pixels = _decode(data, header)
    except _Refused as refused:
        raise ImageError(f"picture {path}: {refused.text}", hint=refused.hint) from None
    return Picture(read_only(pixels), hashlib.sha256(data).hexdigest(), header.bits, path)


def load_labels(path: str | os.PathLike[str], *, max_px: int = 200_000_000) -> NDArray[np.uint8]:
    """Read a label image: uint8 (H, W), 0 sound, 1..K types, 255 unknown; read-only, from 1 x 1 px.

    Accepted: 8-bit grey PNG, TIFF or BMP as stored, and palette PNG of any depth, where the index is the label (its
    colours are ignored). Raises ImageError for anything else: JPEG changes labels, 16 bit and colour are ambiguous.
    """
    path = Path(path)
    try:
        data = _read(path, max_px)
        header = _header(data)
        _check_size(header, max_px, 1)
        _check_labels(header)
        return read_only(_decode_indices(data, header) if header.palette else _decode(data, header))
    except _Refused as refused:
        raise ImageError(f"label image {path}: {refused.text}", hint=refused.hint) from None


def highlight(pixels: NDArray[Any], labels: NDArray[np.uint8]) -> NDArray[Any]:
    """The yellow picture: (H, W, 3) RGB of the input's depth, (max, max, 0) exactly where ``labels`` > 0.

    pixels: (H, W) or (H, W, 3), uint8 or uint16, unchanged. Every other pixel keeps its value to the last bit (grey is
    repeated into three channels). Raises ImageError when labels and picture differ in size.
    """
    if labels.shape != pixels.shape[:2]:
        (height, width), (of_height, of_width) = labels.shape[:2], pixels.shape[:2]
        raise ImageError(
            f"labels of {width} x {height} px do not belong to a picture of {of_width} x {of_height} px",
            hint="labels must be of the size of the picture they mark",
        )
    # The conversion only repeats the value; NumPy's own repeat takes ten times as long.
    rgb = (
        np.array(pixels)
        if pixels.ndim == 3
        else np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_GRAY2RGB))
    )
    top = np.iinfo(pixels.dtype).max
    rgb[labels > 0] = (top, top, 0)
    return rgb


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made with its parents where it is not there yet. Raises StorageError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make the folder {folder}: {error.strerror or error}",
            hint="name one that may be made and written to",
        ) from error
    return folder


def write_png_atomic(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write (H, W) grey or (H, W, 3) RGB, uint8 or uint16, as PNG: the whole file or none.

    Raises StorageError when it cannot be written, ValueError for another shape or type.
    """
    if array.dtype not in (np.uint8, np.uint16) or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"PNG takes (H, W) or (H, W, 3) of uint8 or uint16, not {array.shape} of {array.dtype}")
    # OpenCV's own default (one filter, run-length strategy) is the fastest; naming a level selects a slower strategy.
    done, encoded = cv2.imencode(".png", array if array.ndim == 2 else np.ascontiguousarray(array[:, :, ::-1]))
    if not done:
        raise StorageError(f"picture for {os.fspath(path)} could not be encoded as PNG")
    write_bytes_atomic(path, encoded.tobytes())


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, a crash or a power cut sees the old file or the whole new one.

    Written beside the target under a dotted name, flushed to the disk, then renamed; the folder must exist.
    Raises StorageError (disk full, read-only, no such folder); nothing half-written stays behind.
    """
    path = Path(path)
    scratch = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        # 0o666 leaves the rights to the umask, unlike tempfile's 0o600.
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}",
            hint="make room, or give a folder that exists and may be written to",
        ) from error


# ---- reading -------------------------------------------------------------------------------------------------------


def _read(path: Path, max_px: int) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _Refused("is a folder", "name a picture inside it")
        if not stat.S_ISREG(status.st_mode):
            raise _Refused("is not a regular file", "name a picture file")
        # Three channels of 16 bit, uncompressed, plus generous metadata: nothing acceptable is longer.
        if status.st_size > 6 * max_px + (64 << 20):
            raise _Refused(f"its {status.st_size} bytes are more than {max_px} px can take", "give a smaller picture")
        data = path.read_bytes()
    except FileNotFoundError:
        raise _Refused("does not exist", "check the path") from None
    except PermissionError:
        raise _Refused("may not be read", "give this user the right to read it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        text = getattr(error, "strerror", None) or str(error)
        raise _Refused(f"cannot be read: {text}", "check the path and the disk") from None
    if not data:
        raise _Refused("is empty", "save or copy it again")
    return data


def _header(data: bytes) -> _Header:
    """What the file says about itself, without decoding a pixel."""
    for magic, read in _READERS:
        if data.startswith(magic):
            try:
                with _WARNINGS_LOCK, warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Pillow warns about metadata that is not used here
                    return read(data)
            except _PARSE_ERRORS:
                raise _damaged() from None
    raise _Refused("is not a picture in a known format", _ACCEPTED)


def _damaged(detail: str = "") -> _Refused:
    return _Refused(f"is damaged or cut short{detail and f' ({detail})'}", "save or copy it again")


def _header_png(data: bytes) -> _Header:
    header: tuple[int, ...] = ()
    orientation, ended, offset = 1, False, 8
    while not ended:
        length, name = struct.unpack_from(">I4s", data, offset)
        body = data[offset + 8 : offset + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, offset + 8 + length)
        if zlib.crc32(body, zlib.crc32(name)) != checksum:
            raise _damaged(f"checksum of PNG chunk {name.decode('latin-1')}")
        if name == b"IHDR":
            header = struct.unpack(">IIBBBBB", body)
        elif name == b"tRNS" and header[3] != 3:
            raise _Refused("has a transparent colour", "save it without transparency")
        elif name == b"acTL":
            raise _Refused("is an animation", "save the one picture that is to be inspected")
        elif name == b"eXIf":
            exif = Image.Exif()
            exif.load(b"Exif\0\0" + body)
            orientation = int(exif.get(_ORIENTATION_TAG, 1))
        ended = name == b"IEND"
        offset += 12 + length
    width_px, height_px, bits, colour = header[:4]
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return _Header("PNG", width_px, height_px, channels, bits, orientation, palette=colour == 3)


def _header_jpeg(data: bytes) -> _Header:
    # 0xFF inside the coded pixels is always followed by 0x00 or a restart marker: an end must follow the last scan.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise _damaged()
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
        width_px, height_px = image.size
        if image.mode not in ("L", "RGB"):
            raise _Refused(f"has {image.mode} colours", "save it as grey or RGB")
        orientation = int(image.getexif().get(_ORIENTATION_TAG, 1))
        return _Header("JPEG", width_px, height_px, 1 if image.mode == "L" else 3, 8, orientation)


def _header_tiff(data: bytes) -> _Header:
    # Pillow opens no 16-bit RGB TIFF, but reads the tags of any.
    file = io.BytesIO(data)
    ifd = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if data[2] == 43 or data[3] == 43 else data[:8])
    file.seek(ifd.next)
    ifd.load(file)
    if not {256, 257, 262} <= set(ifd):
        raise _damaged()
    if ifd.next != 0:
        raise _Refused("has more than one page", "save the one picture that is to be inspected")

    def tag(number: int, default: int) -> tuple[int, ...]:
        value = ifd.get(number, default)
        return tuple(int(v) for v in value) if isinstance(value, tuple) else (int(value),)

    (width_px,), (height_px,), (samples,), (photometric,) = tag(256, 0), tag(257, 0), tag(277, 1), tag(262, -1)
    bits, sample_format = set(tag(258, 1)), set(tag(339, 1))
    if sample_format != {1}:
        what = {2: "signed integers", 3: "floating point"}.get(max(sample_format), "no plain integers")
        raise _Refused(f"its pixels are {what}", "save it as unsigned 8 or 16 bit")
    if len(bits) != 1:
        raise _Refused("its channels differ in depth", "save it as unsigned 8 or 16 bit")
    if photometric == 0:
        raise _Refused("is stored inverted (white is zero)", "save it with black as zero")
    if (photometric, samples) not in ((1, 1), (2, 3), (2, 4), (3, 1)):
        what = {3: "a palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}.get(photometric, f"photometric {photometric}")
        raise _Refused(f"has {what} colours in {samples} channel(s)", "save it as grey or RGB")
    if samples == 4 and not set(tag(338, 0)) <= {1, 2}:
        raise _Refused("has a fourth channel of unknown meaning", "save it as grey or RGB")
    if samples > 1 and tag(284, 1) != (1,):
        raise _Refused("stores its channels one after the other", "save it with interleaved channels")
    places, lengths = (324, 325) if 324 in ifd else (273, 279)
    if not ifd.get(places) or len(tag(places, 0)) != len(tag(lengths, 0)):
        raise _damaged()
    if any(place + length > len(data) for place, length in zip(tag(places, 0), tag(lengths, 0), strict=True)):
        raise _damaged()
    (orientation,) = tag(_ORIENTATION_TAG, 1)
    return _Header("TIFF", width_px, height_px, samples, bits.pop(), orientation, palette=photometric == 3)


def _header_bmp(data: bytes) -> _Header:
    (pixels_at, info_size) = struct.unpack_from("<II", data, 10)
    if info_size < 40:
        raise _Refused("is a BMP of the OS/2 kind", "save it as PNG")
    width_px, height_px, _, depth, packing = struct.unpack_from("<iiHHI", data, 18)
    height_px = abs(height_px)
    if packing != 0 or depth not in (8, 24):
        raise _Refused(f"is a BMP of {depth} bits per pixel, packing {packing}", "save it as PNG")
    if width_px < 0 or pixels_at + (width_px * depth + 31) // 32 * 4 * height_px > len(data):
        raise _damaged()
    if depth == 24:
        return _Header("BMP", width_px, height_px, 3, 8)
    (used,) = struct.unpack_from("<I", data, 46)
    colours = data[14 + info_size : 14 + info_size + 4 * (used or 256)]
    grey = len(colours) == 4 * (used or 256) and all(
        colours[4 * value : 4 * value + 3] == bytes([value] * 3) for value in range(len(colours) // 4)
    )
    return _Header("BMP", width_px, height_px, 1, 8, palette=not grey)


_READERS = (
    (b"\x89PNG\r\n\x1a\n", _header_png),
    (b"\xff\xd8\xff", _header_jpeg),
    (b"II*\0", _header_tiff),
    (b"MM\0*", _header_tiff),
    (b"II+\0", _header_tiff),
    (b"MM\0+", _header_tiff),
    (b"BM", _header_bmp),
)


def _check_size(header: _Header, max_px: int, min_side_px: int) -> None:
    size = f"{header.width_px} x {header.height_px} px"
    if min(header.width_px, header.height_px) < 1:
        raise _damaged(size)
    if header.width_px * header.height_px > max_px:
        raise _Refused(f"its {size} are more than the {max_px} px allowed", "give a smaller picture")
    if min(header.width_px, header.height_px) < min_side_px:
        raise _Refused(f"its {size} are too small: no side may be below {min_side_px} px", "give a larger picture")


def _check_picture(header: _Header) -> None:
    if header.palette:
        raise _Refused("has palette colours", "save it as grey or RGB; a label image goes where labels are asked for")
    if header.bits not in (8, 16):
        raise _Refused(f"has {header.bits} bit per channel", "save it as unsigned 8 or 16 bit")
    if header.orientation != 1:
        raise _Refused(
            f"its pixels are stored turned (EXIF orientation {header.orientation})",
            "turn the pixels themselves and save it upright, without the orientation tag",
        )


def _check_labels(header: _Header) -> None:
    hint = "save labels as an 8-bit grey or palette PNG: 0 sound, 1..K types, 255 unknown"
    if header.kind == "JPEG":
        raise _Refused("JPEG compression changes label values", hint)
    if header.orientation != 1:
        raise _Refused("its pixels are stored turned (EXIF orientation)", hint)
    if header.palette and header.kind != "PNG":
        raise _Refused(f"is a {header.kind} with palette colours", hint)
    if not header.palette and (header.channels != 1 or header.bits != 8):
        what = f"{header.channels} channel(s) of {header.bits} bit"
        raise _Refused(f"a label image has one channel of 8 bit, this has {what}", hint)


def _decode(data: bytes, header: _Header) -> NDArray[Any]:
    """The pixels, in RGB order, opaque alpha dropped; refuses when decoder and header disagree."""
    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except (cv2.error, MemoryError):
        stored = None
    if stored is None:
        raise _damaged()
    # OpenCV has no grey with alpha: it gives B = G = R = grey, and alpha.
    decoded_channels = 4 if header.channels == 2 else header.channels
    shape = (header.height_px, header.width_px) + ((decoded_channels,) if decoded_channels > 1 else ())
    if stored.shape != shape or stored.dtype != np.dtype(f"uint{header.bits}"):
        raise _damaged(f"header says {shape} of {header.bits} bit, decoder {stored.shape} of {stored.dtype}")
    if decoded_channels == 4 and bool(np.any(stored[:, :, 3] != 2**header.bits - 1)):
        raise _Refused("is partly transparent", "save it without transparency")
    if header.channels == 1:
        return stored
    if header.channels == 2:
        return np.ascontiguousarray(stored[:, :, 0])
    return np.ascontiguousarray(stored[:, :, 2::-1])


def _decode_indices(data: bytes, header: _Header) -> NDArray[np.uint8]:
    """Palette indices of a PNG, of any depth; OpenCV would give colours."""
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            indices = np.array(image, dtype=np.uint8)
    except _PARSE_ERRORS:
        raise _damaged() from None
    if indices.shape != (header.height_px, header.width_px):
        raise _damaged()
    return indices


def dicom_troubles() -> tuple[type[Exception], ...]:
    """What pydicom raises for a file that is damaged, cut short or made to annoy; not the NotImplementedError of a
    compression that it cannot decode. Needs pydicom."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        InvalidDicomError, BytesLengthException, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
        AssertionError, EOFError, OSError, struct.error, zlib.error,
    )  # fmt: skip
