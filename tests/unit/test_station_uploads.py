"""Whatever is sent: a picture, or one sentence that names the file as sent and no path of this machine."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_daemon.errors import ImageError
from edge_daemon.station.options import Limits
from edge_daemon.station.uploads import display_name, read_upload

LIMITS = Limits()
GREY = np.tile(np.linspace(20, 220, 64, dtype=np.uint8), (48, 1))


def png(pixels: np.ndarray = GREY) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1].tobytes())


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_saying(width: int, height: int, rows: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def dicom(pixels: np.ndarray | None = GREY, **tags: Any) -> bytes:
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    if pixels is not None:
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 8 * pixels.itemsize
        data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
        data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, data, enforce_file_format=True)
    return out.getvalue()


def saved(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(GREY).save(out, kind, **options)
    return out.getvalue()


def nan_tiff() -> bytes:
    out = io.BytesIO()
    pixels = GREY.astype(np.float32)
    pixels[0, 0] = np.nan
    Image.fromarray(pixels).save(out, "TIFF")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.png", png(), "PNG"), ("a16.png", png(GREY.astype(np.uint16) * 257), "PNG"),
        ("a.jpg", saved("JPEG", quality=95), "JPEG"), ("a.bmp", saved("BMP"), "BMP"), ("a.tif", saved("TIFF"), "TIFF"),
        ("a16.tif", bytes(cv2.imencode(".tiff", GREY.astype(np.uint16) * 257)[1].tobytes()), "TIFF"),
        ("a.dcm", dicom(), "DICOM"), ("a.dic", dicom(GREY.astype(np.uint16) * 16, BitsStored=12, HighBit=11), "DICOM"),
    ],
)  # fmt: skip
def test_every_kind_of_picture_is_taken(name: str, data: bytes, kind: str) -> None:
    upload = read_upload(data, name, LIMITS)
    assert (upload.kind, upload.name, upload.misnamed) == (kind, name, False)
    assert upload.picture.pixels.shape == GREY.shape
    if kind in ("PNG", "BMP"):
        factor = 257 if upload.picture.bits == 16 else 1
        assert (upload.picture.pixels == GREY.astype(int) * factor).all()


BAD: list[tuple[str, bytes, str]] = [
    ("empty.png", b"", "is empty"),
    ("cut.png", png()[:300], "damaged or cut short"),
    ("cut.jpg", saved("JPEG")[:400], "damaged or cut short"),
    ("cut.tif", saved("TIFF")[:500], "damaged or cut short"),
    ("flipped.png", png()[:60] + b"\xff" + png()[61:], "damaged or cut short"),
    ("bomb.png", png_saying(60_000, 60_000), "more than the 40000000 px allowed"),
    ("long.png", png_saying(65_535, 16, (b"\0" + b"\x40" * 65_535) * 16), "no side may exceed 20000 px"),
    ("tiny.png", png(GREY[:8, :8]), "too small"),
    ("text.png", b"<html><script>alert(1)</script></html>", "not a picture in a known format"),
    ("program.jpg", b"MZ\x90\0" + b"\0" * 200, "not a picture in a known format"),
    ("picture.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture in a known format"),
    ("zip.png", png() + b"PK\x03\x04" + b"x" * 50, "goes on behind the end"),
    ("page.jpg", saved("JPEG") + b"<html>", "goes on behind the end"),
    ("both.bmp", saved("BMP") + b"%PDF-1.7", "goes on behind the end"),
    ("two.dcm", b"II*\0" + b"\0" * 124 + b"DICM" + b"\0" * 64, "two kinds of file at once"),
    ("nan.tif", nan_tiff(), "floating point"),
    ("pages.tif", saved("TIFF", save_all=True, append_images=[Image.fromarray(GREY)]), "more than one page"),
    ("palette.png", b"", ""),
    ("turned.jpg", b"", ""),
    ("alpha.png", png(np.dstack([GREY, GREY, GREY, GREY])), "partly transparent"),
    ("report.dcm", dicom(None), "holds no pixels"),
    ("cut.dcm", dicom()[:600], ""),
    ("huge.dcm", dicom(Rows=50_000, Columns=50_000), "more than the 40000000 px allowed"),
    ("deflated.dcm", dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"), "deflated DICOM"),
    ("signed.dcm", dicom(PixelRepresentation=1), "pixels are signed"),
    ("frames.dcm", dicom(NumberOfFrames=3), "3 frames"),
]  # fmt: skip


def _made(name: str, data: bytes) -> bytes:
    if name == "palette.png":
        out = io.BytesIO()
        Image.fromarray(GREY).convert("P", palette=Image.Palette.ADAPTIVE).save(out, "PNG")
        return out.getvalue()
    if name == "turned.jpg":
        exif = Image.Exif()
        exif[274] = 6
        return saved("JPEG", exif=exif)
    return data


@pytest.mark.parametrize(("name", "data", "said"), BAD, ids=[name for name, _, _ in BAD])
def test_a_wrong_file_gets_one_sentence(name: str, data: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError) as caught:
        read_upload(_made(name, data), name, LIMITS)
    text = str(caught.value)
    assert name in text and said in text
    assert caught.value.hint, "and how to put it right"
    assert tempfile.gettempdir() not in text and "\n" not in text


def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read_upload(png(), "a.png", LIMITS)
    with pytest.raises(ImageError):
        read_upload(png()[:300], "a.png", LIMITS)
    assert list(tmp_path.iterdir()) == []


def test_a_bomb_is_refused_before_a_pixel_is_decoded() -> None:
    import tracemalloc

    bomb = png_saying(30_000, 30_000, b"\0" * 30_001 * 300)
    tracemalloc.start()
    with pytest.raises(ImageError, match="more than"):
        read_upload(bomb, "bomb.png", LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(bomb) + (8 << 20)


def test_the_content_counts_and_a_wrong_ending_is_noticed() -> None:
    upload = read_upload(png(), "part.jpg", LIMITS)
    assert upload.kind == "PNG" and upload.misnamed
    assert not read_upload(png(), "part", LIMITS).misnamed


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(ImageError, match="more than 0 MiB"):
        read_upload(png(), "a.png", Limits(upload_bytes=100))


@pytest.mark.parametrize(
    ("sent", "shown"),
    [("C:\\Users\\me\\part.png", "part.png"), ("../../etc/passwd", "passwd"), (None, "picture"), ("", "picture"),
     ("a\0b\n.png", "ab.png"), ("evil\u202egnp.exe", "evilgnp.exe"), ("x" * 500 + ".png", "x" * 116 + ".png")],
)  # fmt: skip
def test_a_name_is_for_people_only(sent: str | None, shown: str) -> None:
    assert display_name(sent) == shown
