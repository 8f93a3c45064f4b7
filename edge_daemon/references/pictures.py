"""A plate's file as the engine expects it: uint8 or uint16 over the full range, voids bright, DICOM included.

PNG, TIFF, JPEG and BMP are read by ``images.load_picture`` and so as strictly as a part. A DICOM or DICONDE file (extra
``dicom``) is accepted with one grey frame of unsigned pixels; its stored values are spread over the full range of its
depth, and MONOCHROME1 (white is zero) is turned round, so that polarity speaks of the picture as it is displayed. Not
covered: display curves (VOI LUT, windowing) are not applied, and a film's optical density is taken as it was scanned.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, MissingExtra
from ..images import Picture, dicom_troubles, load_picture
from ..records import read_only

__all__ = ["POLARITIES", "is_dicom", "load_mask", "load_plate"]

#: As the picture is displayed. Engines look at bright voids; dark ones are inverted when they are read.
POLARITIES = ("bright_void", "dark_void")

_MAX_BYTES = 2**30


def is_dicom(path: Path) -> bool:
    """Whether the file says that it is DICOM (``DICM`` behind a preamble of 128 bytes); an unreadable one is not."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def load_plate(path: Path, *, polarity: str = "bright_void", bits_stored: int | None = None) -> Picture:
    """Read a plate: the Picture's pixels are as the engine expects them, its sha256 is that of the file's bytes.

    bits_stored: meaningful bits of a 16-bit PNG or TIFF that holds less (12-bit data in 16 bit); DICOM says it itself.
    Raises ImageError naming the file and what stands in the way, MissingExtra for DICOM without pydicom.
    """
    picture = _load_dicom(path) if is_dicom(path) else load_picture(path)
    pixels = picture.pixels
    if bits_stored is not None and bits_stored < picture.bits and not is_dicom(path):
        pixels = _full_range(path, pixels, bits_stored)
    if polarity == "dark_void":
        pixels = np.asarray(np.iinfo(pixels.dtype).max - pixels, pixels.dtype)
    if pixels is picture.pixels:
        return picture
    return Picture(read_only(pixels), picture.sha256, picture.bits, path)


def load_mask(path: Path) -> tuple[NDArray[np.bool_], str]:
    """An exact mask: bool (H, W), read-only, and the SHA-256 of its file. An 8-bit grey picture of only 0 and 255."""
    picture = load_picture(path)
    if picture.pixels.ndim != 2 or picture.bits != 8 or not np.isin(picture.pixels, (0, 255)).all():
        raise ImageError(f"mask {path}: has other values than 0 and 255", hint="save it as 8-bit grey: 255 is defect")
    return read_only(picture.pixels == 255), picture.sha256


def _full_range(path: Path, pixels: NDArray[Any], bits_stored: int) -> NDArray[Any]:
    """Values of ``bits_stored`` bits spread over the whole range of their type, order and ends kept."""
    top, most = 2**bits_stored - 1, int(np.iinfo(pixels.dtype).max)
    if int(pixels.max()) > top:
        raise ImageError(
            f"picture {path}: value {int(pixels.max())} does not fit into {bits_stored} bits",
            hint="state the bits that the pixels really use",
        )
    return np.asarray((pixels.astype(np.uint32) * most + top // 2) // top, pixels.dtype)


def _load_dicom(path: Path) -> Picture:
    try:
        import pydicom
    except ImportError:
        raise MissingExtra(f"reading the DICOM file {path}", "dicom") from None
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ImageError(f"picture {path}: its {path.stat().st_size} bytes are too many", hint="give one frame")
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"picture {path} cannot be read: {error.strerror or error}", hint="check the path") from None
    try:
        tags = pydicom.dcmread(io.BytesIO(data))
        samples, frames = int(tags.get("SamplesPerPixel", 1)), int(tags.get("NumberOfFrames", 1) or 1)
        signed, stored = int(tags.get("PixelRepresentation", 0)), int(tags.get("BitsStored", 0))
        photometric = str(tags.get("PhotometricInterpretation", ""))
        slope = float(tags.get("RescaleSlope", 1) or 1)
        has_lut = "ModalityLUTSequence" in tags
        wrong = (
            f"it has {samples} channels" if samples != 1
            else f"it has {frames} frames" if frames != 1
            else "its pixels are signed" if signed
            else f"it is stored as {photometric or 'nothing known'}" if photometric not in _MONOCHROME
            else f"its pixels have {stored} bits" if not 8 <= stored <= 16
            else "its values mean something else by a modality table" if has_lut or slope <= 0
            else ""
        )  # fmt: skip
        if wrong:
            raise ImageError(f"picture {path}: {wrong}", hint="export one grey frame of 8 to 16 bit, unsigned")
        pixels = np.ascontiguousarray(tags.pixel_array)
    except dicom_troubles() as error:
        raise ImageError(f"picture {path}: is damaged or cut short: {error}", hint="export the file again") from None
    except (NotImplementedError, RuntimeError) as error:
        # pydicom names the decoders that it lacks for a compressed file.
        raise ImageError(f"picture {path}: cannot be decoded: {error}", hint="export it uncompressed") from None
    if pixels.ndim != 2 or min(pixels.shape) < 16:
        raise ImageError(f"picture {path}: its {pixels.shape} pixels are no picture", hint="export one grey frame")
    pixels = _full_range(path, pixels.astype(np.uint8 if stored == 8 else np.uint16), stored)
    if photometric == "MONOCHROME1":
        pixels = np.asarray(np.iinfo(pixels.dtype).max - pixels, pixels.dtype)
    return Picture(read_only(pixels), hashlib.sha256(data).hexdigest(), 8 if stored == 8 else 16, path)


_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
