"""From the bytes that somebody sent to a picture, or to one sentence that says why not.

Everything is checked before a pixel is decoded: kind, size, sides, what the header promises. What was sent is never
kept, served or named in a path: pixels are written anew. The name that came with it is shown, and nothing else.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import EdgeError, ImageError, MissingExtra
from ..images import Picture, dicom_troubles, load_picture
from ..references.pictures import load_plate
from .options import Limits

__all__ = ["Upload", "display_name", "read_upload"]

_KINDS = (
    ("PNG", b"\x89PNG\r\n\x1a\n", frozenset({".png"})),
    ("JPEG", b"\xff\xd8\xff", frozenset({".jpg", ".jpeg"})),
    ("TIFF", b"II*\0", frozenset({".tif", ".tiff"})),
    ("TIFF", b"MM\0*", frozenset({".tif", ".tiff"})),
    ("BigTIFF", b"II+\0", frozenset({".tif", ".tiff"})),
    ("BigTIFF", b"MM\0+", frozenset({".tif", ".tiff"})),
    ("BMP", b"BM", frozenset({".bmp"})),
)
_DICOM_SUFFIXES = frozenset({".dcm", ".dic", ".dicom"})
_ACCEPTED = "send a PNG, JPEG, TIFF, BMP or DICOM picture"
_DEFLATED, _META_BYTES = b"1.2.840.10008.1.2.1.99", 8192


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture that was sent. name: for people. kind: PNG, JPEG, TIFF, BMP or DICOM. misnamed: the name says another
    kind than the content, which counts."""

    picture: Picture
    name: str
    kind: str
    misnamed: bool


def display_name(sent: str | None) -> str:
    """The last part of a name as sent, printable, at most 120 characters; ``picture`` where nothing is left."""
    last = PurePosixPath((sent or "").replace("\\", "/")).name
    clean = "".join(
        one for one in last if one.isprintable() and one not in "\u2066\u2067\u2068\u2069\u202a\u202b\u202d\u202e"
    )
    return clean[-120:].strip() or "picture"


def read_upload(data: bytes, sent_name: str | None, limits: Limits) -> Upload:
    """Check and decode. Raises ImageError with the name as sent, never a path of this machine."""
    name = display_name(sent_name)
    if not data:
        raise ImageError(f"{name} is empty", hint="choose the file again")
    if len(data) > limits.upload_bytes:
        raise ImageError(f"{name} has more than {limits.upload_bytes >> 20} MiB", hint="send a smaller picture")
    dicom = data[128:132] == b"DICM"
    kind = next((kind for kind, magic, _ in _KINDS if data.startswith(magic)), None)
    if dicom and kind is not None:
        raise ImageError(f"{name} is two kinds of file at once ({kind} and DICOM)", hint="export the picture anew")
    if not dicom and kind is None:
        raise ImageError(f"{name} is not a picture in a known format", hint=_ACCEPTED)
    _refuse_baggage(data, kind, name)
    if dicom:
        _check_dicom(data, name, limits)
    picture = _decoded(data, name, limits, dicom=dicom)
    suffix = PurePosixPath(name).suffix.lower()
    endings = _DICOM_SUFFIXES if dicom else next(ends for one, _, ends in _KINDS if one == kind)
    return Upload(picture, name, "DICOM" if dicom else str(kind), bool(suffix) and suffix not in endings)


def _refuse_baggage(data: bytes, kind: str | None, name: str) -> None:
    """A file that goes on behind its own end is another kind of file as well."""
    body = data.rstrip(b"\0")
    behind = False
    if kind == "PNG":
        behind = len(body) > _png_end(data)
    elif kind == "JPEG":
        behind = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda") > 0 and not body.endswith(b"\xff\xd9")
    elif kind == "BMP":
        behind = len(data) > int.from_bytes(data[2:6], "little") > 0 and len(body) > int.from_bytes(data[2:6], "little")
    if behind:
        raise ImageError(f"{name} goes on behind the end of its picture", hint="save the picture anew, without extras")


def _png_end(data: bytes) -> int:
    """Where the IEND chunk ends; the whole length where chunks do not lead there (the reader says why)."""
    offset = 8
    while offset + 12 <= len(data):
        length, name = int.from_bytes(data[offset : offset + 4], "big"), data[offset + 4 : offset + 8]
        offset += 12 + length
        if name == b"IEND":
            return min(offset, len(data))
    return len(data)


def _decoded(data: bytes, name: str, limits: Limits, *, dicom: bool) -> Picture:
    """By way of a private file, which is gone when this returns."""
    handle, path = tempfile.mkstemp(prefix="edge-upload-")
    try:
        with open(handle, "wb") as file:
            file.write(data)
        picture = load_plate(Path(path)) if dicom else load_picture(path, max_px=limits.upload_px)
    except MissingExtra:
        raise
    except EdgeError as error:
        said = error.message.replace(path, name).removeprefix("picture ")
        raise ImageError(said, hint=re.sub(re.escape(path), name, error.hint)) from None
    finally:
        os.unlink(path)
    _check_sides(picture.pixels.shape[1], picture.pixels.shape[0], name, limits)
    return picture


def _check_sides(width_px: int, height_px: int, name: str, limits: Limits) -> None:
    size = f"{width_px} x {height_px} px"
    if width_px * height_px > limits.upload_px:
        raise ImageError(
            f"{name}: its {size} are more than the {limits.upload_px} px allowed", hint="send a smaller one"
        )
    if max(width_px, height_px) > limits.side_px:
        raise ImageError(f"{name}: its {size} are too long: no side may exceed {limits.side_px} px", hint="cut it")


def _check_dicom(data: bytes, name: str, limits: Limits) -> None:
    """Before anything is inflated or decoded: the promised size, and that there are pixels at all."""
    try:
        import pydicom
    except ImportError:
        raise MissingExtra(f"reading the DICOM file {name}", "station") from None
    trouble: tuple[type[Exception], ...] = (*dicom_troubles(), NotImplementedError, RecursionError)
    try:
        # A deflated file may inflate to any size: it is refused by its head alone, which is never deflated.
        if _DEFLATED in data[:_META_BYTES]:
            raise ImageError(f"{name}: is a deflated DICOM file", hint="export it uncompressed")
        tags = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        width_px, height_px = int(tags.get("Columns", 0) or 0), int(tags.get("Rows", 0) or 0)
        has_pixels = b"\xe0\x7f\x10\x00" in data or b"\x7f\xe0\x00\x10" in data
    except trouble as error:
        raise ImageError(f"{name}: is damaged or cut short ({type(error).__name__})", hint="export it again") from None
    if min(width_px, height_px) < 1 or not has_pixels:
        raise ImageError(f"{name}: holds no pixels", hint="export the image itself, not its report or directory")
    _check_sides(width_px, height_px, name, limits)
