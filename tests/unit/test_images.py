"""Pictures in and out of files. Truth is made by hand: arrays whose every value is known before they are stored."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_daemon import images
from edge_daemon.errors import ImageError, StorageError
from edge_daemon.images import highlight, load_labels, load_picture, write_bytes_atomic, write_png_atomic

GREY8 = (np.arange(20 * 30, dtype=np.uint32) % 256).astype(np.uint8).reshape(20, 30)
GREY16 = (np.arange(20 * 30, dtype=np.uint32) * 109).astype(np.uint16).reshape(20, 30)
RGB8 = np.stack([GREY8, 255 - GREY8, GREY8 // 2], axis=2)
RGB16 = np.stack([GREY16, 65535 - GREY16, GREY16 // 3], axis=2)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand, so that no library's reading of the format decides the truth."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _rows(array: np.ndarray) -> bytes:
    wire = array.astype(array.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in wire)


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes()


def _pillow(array: np.ndarray, path: Path, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize(("array", "colour", "bits"), [(GREY8, 0, 8), (GREY16, 0, 16), (RGB8, 2, 8), (RGB16, 2, 16)])
def test_png_gives_the_stored_values(tmp_path: Path, array: np.ndarray, colour: int, bits: int) -> None:
    path = tmp_path / "a.png"
    data = _png(30, 20, bits, colour, _rows(array))
    path.write_bytes(data)
    picture = load_picture(path)
    assert picture.pixels.dtype == array.dtype
    assert np.array_equal(picture.pixels, array)
    assert (picture.bits, picture.path) == (bits, path)
    assert picture.sha256 == hashlib.sha256(data).hexdigest()
    assert not picture.pixels.flags.writeable


@pytest.mark.parametrize("array", [GREY8, GREY16, RGB8, RGB16], ids=["grey8", "grey16", "rgb8", "rgb16"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_gives_the_stored_values(tmp_path: Path, array: np.ndarray, order: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(_tiff(array, order=order))
    picture = load_picture(path)
    assert picture.pixels.dtype == array.dtype
    assert np.array_equal(picture.pixels, array)


def _tiff(array: np.ndarray, *, order: str = "<", next_ifd: int = 0, **tags: int) -> bytes:
    """A one-strip TIFF by hand. ``tags`` overrides: t<number>=value."""
    height, width = array.shape[:2]
    samples = 1 if array.ndim == 2 else array.shape[2]
    pixels = array.astype(array.dtype.newbyteorder(order)).tobytes()
    fields = {
        256: width,
        257: height,
        258: array.dtype.itemsize * 8,
        259: 1,
        262: 1 if samples < 3 else 2,
        273: 8,
        277: samples,
        278: height,
        279: len(pixels),
        339: {"u": 1, "i": 2, "f": 3}[array.dtype.kind],
    }
    fields.update({int(name[1:]): value for name, value in tags.items()})
    ifd_at = 8 + len(pixels) + len(pixels) % 2
    after = ifd_at + 2 + 12 * len(fields) + 4
    entries, tail = b"", b""
    for number, value in sorted(fields.items()):
        count = samples if number in (258, 339) else 1
        if count > 2:  # does not fit into the entry
            entries += struct.pack(order + "HHII", number, 3, count, after + len(tail))
            tail += struct.pack(order + f"{count}H", *[value] * count)
        else:
            entries += struct.pack(order + "HHII", number, 4, 1, value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", ifd_at)
    ifd = struct.pack(order + "H", len(fields)) + entries + struct.pack(order + "I", next_ifd)
    return head + pixels + b"\0" * (len(pixels) % 2) + ifd + tail


@pytest.mark.parametrize("array", [GREY8, RGB8], ids=["grey", "rgb"])
def test_bmp_gives_the_stored_values(tmp_path: Path, array: np.ndarray) -> None:
    assert np.array_equal(load_picture(_pillow(array, tmp_path / "a.bmp")).pixels, array)


def test_grey_kept_as_rgb_jpeg_stays_rgb_with_equal_channels(tmp_path: Path) -> None:
    smooth = cv2.resize(np.array([[40, 200], [90, 10]], np.uint8), (64, 48), interpolation=cv2.INTER_LINEAR)
    grey = load_picture(_pillow(smooth, tmp_path / "grey.jpg", quality=95)).pixels
    rgb = load_picture(_pillow(np.dstack([smooth] * 3), tmp_path / "rgb.jpg", quality=95)).pixels
    assert grey.shape == (48, 64)
    assert rgb.shape == (48, 64, 3)
    assert all(np.array_equal(rgb[:, :, k], grey) for k in range(3))
    assert np.abs(grey.astype(int) - smooth).max() <= 4


def test_red_jpeg_is_red(tmp_path: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:] = (200, 30, 30)
    pixels = load_picture(_pillow(red, tmp_path / "a.jpg", quality=100, subsampling=0)).pixels
    assert np.abs(pixels.astype(int) - red).max() <= 2


@pytest.mark.parametrize(
    ("array", "colour", "bits", "expected"),
    [
        (np.dstack([GREY8, np.full_like(GREY8, 255)]), 4, 8, GREY8),
        (np.dstack([RGB8, np.full_like(GREY8, 255)]), 6, 8, RGB8),
        (np.dstack([RGB16, np.full_like(GREY16, 65535)]), 6, 16, RGB16),
    ],
)
def test_opaque_alpha_is_dropped(
    tmp_path: Path, array: np.ndarray, colour: int, bits: int, expected: np.ndarray
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png(30, 20, bits, colour, _rows(array)))
    assert np.array_equal(load_picture(path).pixels, expected)


def _see_through() -> np.ndarray:
    alpha = np.full_like(GREY8, 255)
    alpha[7, 11] = 254
    return np.dstack([RGB8, alpha])


def _jpeg(array: np.ndarray = RGB8, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG", **options)
    return out.getvalue()


def _cmyk() -> bytes:
    out = io.BytesIO()
    Image.fromarray(RGB8).convert("CMYK").save(out, "JPEG")
    return out.getvalue()


def _palette_bmp() -> bytes:
    out = io.BytesIO()
    Image.fromarray(RGB8).convert("P").save(out, "BMP")
    return out.getvalue()


def _two_pages() -> bytes:
    out = io.BytesIO()
    Image.fromarray(GREY8).save(out, "TIFF", save_all=True, append_images=[Image.fromarray(GREY8)])
    return out.getvalue()


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


GOOD_PNG = _png(30, 20, 8, 0, _rows(GREY8))
BOMB_PNG = _png(60_000, 60_000, 8, 0, b"")
APNG = _png(30, 20, 8, 0, _rows(GREY8), _chunk(b"acTL", struct.pack(">II", 2, 0)))

REFUSED = {
    "empty": (b"", "is empty"),
    "text": (b"not a picture at all, whatever its name", "not a picture in a known format"),
    "gif": (b"GIF89a" + bytes(40), "not a picture in a known format"),
    "png cut in half": (GOOD_PNG[: len(GOOD_PNG) // 2], "damaged or cut short"),
    "png without its end": (GOOD_PNG[:-12], "damaged or cut short"),
    "png with a flipped bit": (_flipped(GOOD_PNG, 60), "checksum of PNG chunk IDAT"),
    "png with too few rows": (_png(30, 20, 8, 0, _rows(GREY8[:10])), "damaged or cut short"),
    "png signature only": (GOOD_PNG[:8], "damaged or cut short"),
    "jpeg cut in half": (_jpeg()[: len(_jpeg()) // 2], "damaged or cut short"),
    "jpeg without its last bytes": (_jpeg()[:-3], "damaged or cut short"),
    "jpeg header only": (b"\xff\xd8\xff\xe0", "damaged or cut short"),
    "tiff cut": (_tiff(GREY8)[:300], "damaged or cut short"),
    "tiff strip beyond the end": (_tiff(GREY8, t279=10**6), "damaged or cut short"),
    "bmp cut": (cv2.imencode(".bmp", GREY8)[1].tobytes()[:-50], "damaged or cut short"),
    "png bomb": (BOMB_PNG, "60000 x 60000 px are more than the 200000000 px allowed"),
    "tiff bomb": (_tiff(GREY8, t256=60_000, t257=60_000), "60000 x 60000 px are more than"),
    "one pixel": (_png(1, 1, 8, 0, b"\0\7"), "1 x 1 px are too small"),
    "narrow": (_png(15, 40, 8, 0, (b"\0" + bytes(15)) * 40), "15 x 40 px are too small"),
    "no width": (_png(0, 20, 8, 0, bytes(20)), "damaged"),
    "float": (_tiff(GREY8.astype(np.float32)), "floating point"),
    "32-bit integers": (_tiff(GREY8.astype(np.uint32)), "32 bit per channel"),
    "signed integers": (_tiff(GREY8.astype(np.int16)), "signed integers"),
    "1 bit": (_png(32, 20, 1, 0, (b"\0" + bytes(4)) * 20), "1 bit per channel"),
    "palette": (_png(30, 20, 8, 3, _rows(GREY8), _chunk(b"PLTE", bytes(768))), "palette colours"),
    "palette bmp": (_palette_bmp(), "palette colours"),
    "transparent pixel": (_png(30, 20, 8, 6, _rows(_see_through())), "partly transparent"),
    "transparent colour": (_png(30, 20, 8, 0, _rows(GREY8), _chunk(b"tRNS", b"\0\7")), "transparent colour"),
    "jpeg turned": (_jpeg(exif=_exif(6)), "stored turned (EXIF orientation 6)"),
    "png turned": (_png(30, 20, 8, 0, _rows(GREY8), _chunk(b"eXIf", _exif(3)[6:])), "EXIF orientation 3"),
    "tiff turned": (_tiff(GREY8, t274=8), "EXIF orientation 8"),
    "cmyk": (_cmyk(), "CMYK colours"),
    "two pages": (_two_pages(), "more than one page"),
    "animation": (APNG, "is an animation"),
    "inverted tiff": (_tiff(GREY8, t262=0), "white is zero"),
    "ycbcr tiff": (_tiff(RGB8, t262=6), "YCbCr"),
    "planar tiff": (_tiff(RGB8, t284=2), "one after the other"),
    "two-channel tiff": (_tiff(np.dstack([GREY8, GREY8])), "2 channel(s)"),
    "fourth channel of unknown meaning": (_tiff(_see_through()), "fourth channel"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_inspected_is_refused_with_one_message(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data, text = REFUSED[name]
    path = tmp_path / "part-7.png"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        load_picture(path)
    assert str(path) in caught.value.message
    assert text in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2
    # libpng itself says a line where sound chunks hold too few rows; nothing else may speak.
    said = capfd.readouterr().err.splitlines()
    assert len(said) <= (name == "png with too few rows")


def test_upright_exif_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_jpeg(exif=_exif(1)))
    assert load_picture(path).pixels.shape == (20, 30, 3)


@pytest.mark.parametrize(("name", "text"), [("missing.png", "does not exist"), (".", "is a folder"), ("\0", "read")])
def test_no_file_to_read(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ImageError, match=text):
        load_picture(tmp_path / name)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        load_picture(tmp_path / "pipe.png")


def test_a_file_without_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(GOOD_PNG)
    path.chmod(0)
    code = (
        "import os, sys\n"
        "from edge_daemon.errors import ImageError\n"
        "from edge_daemon.images import load_picture\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: load_picture(sys.argv[1])\n"
        "except ImageError as error: print(error)\n"
    )
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents[:2]:
        folder.chmod(folder.stat().st_mode | 0o111)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "may not be read" in done.stdout


def test_a_bomb_is_refused_from_its_header_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    # 60000 x 60000 px that really are there: 3.6 GB of zeros deflate to a few megabytes; a prefix is enough here.
    path.write_bytes(_png(60_000, 60_000, 8, 0, bytes(50_000_000)))
    code = (
        "import resource, sys\n"
        "from edge_daemon.errors import ImageError\n"
        "from edge_daemon.images import load_picture\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: load_picture(sys.argv[1])\n"
        "except ImageError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert int(done.stdout) < 20_000  # KiB


def test_a_file_longer_than_any_accepted_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.bmp"
    with path.open("wb") as file:
        file.write(b"BM")
        file.truncate(80_000_000)  # sparse
    with pytest.raises(ImageError, match="80000000 bytes"):
        load_picture(path, max_px=1000)


def test_damage_anywhere_ends_in_a_picture_or_an_image_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    path = tmp_path / "fuzzed.png"
    refused = 0
    sources = (GOOD_PNG, _jpeg(exif=_exif(1)), _tiff(RGB16), cv2.imencode(".bmp", GREY8)[1].tobytes())
    for source in sources:
        for _ in range(150):
            data = bytearray(source)
            for at in rng.integers(0, len(data), 4):
                data[at] = rng.integers(0, 256)
            path.write_bytes(data)
            try:
                assert load_picture(path).pixels.ndim in (2, 3)
            except ImageError:
                refused += 1
    assert refused > 150  # every damaged PNG at the least


# ---- labels --------------------------------------------------------------------------------------------------------


def test_labels_keep_every_value(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.bmp"):
        labels = load_labels(_pillow(GREY8, tmp_path / name))
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, GREY8)
        assert not labels.flags.writeable


def test_one_pixel_of_label_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png(1, 1, 8, 0, b"\0\7"))
    assert load_labels(path).tolist() == [[7]]


@pytest.mark.parametrize(("bits", "row"), [(8, bytes([0, 2, 1, 3])), (2, bytes([0b00_10_01_11]))])
def test_palette_index_is_the_label(tmp_path: Path, bits: int, row: bytes) -> None:
    path = tmp_path / "a.png"
    palette = _chunk(b"PLTE", bytes([0, 0, 0, 9, 9, 9, 255, 0, 0, 0, 255, 0]))
    path.write_bytes(_png(4, 1, bits, 3, b"\0" + row, palette))
    assert load_labels(path).tolist() == [[0, 2, 1, 3]]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (_png(30, 20, 16, 0, _rows(GREY16)), "16 bit"),
        (_png(30, 20, 8, 2, _rows(RGB8)), "3 channel"),
        (_png(32, 20, 1, 0, (b"\0" + bytes(4)) * 20), "1 bit"),
        (_png(30, 20, 8, 4, _rows(np.dstack([GREY8, GREY8]))), "2 channel"),
        (_jpeg(GREY8), "JPEG"),
        (_palette_bmp(), "BMP with palette"),
        (_tiff(GREY8, t274=3), "turned"),
        (GOOD_PNG[:-20], "damaged"),
        (_tiff(GREY8.astype(np.float32)), "floating point"),
    ],
)
def test_other_label_images_are_refused(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "labels.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=text) as caught:
        load_labels(path)
    assert "label image" in caught.value.message
    assert caught.value.hint


# ---- the yellow picture --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pixels", "top"), [(GREY8, 255), (RGB8, 255), (GREY16, 65535), (RGB16, 65535)])
def test_highlight_is_yellow_where_labelled_and_identical_elsewhere(pixels: np.ndarray, top: int) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[3, 4], labels[5, 6:9], labels[19, 29] = 1, 255, 7
    before = pixels.copy()
    out = highlight(pixels, labels)
    assert out.dtype == pixels.dtype
    assert out.shape == (20, 30, 3)
    for y in range(20):
        for x in range(30):
            expected = [top, top, 0] if labels[y, x] else np.broadcast_to(pixels[y, x], 3).tolist()
            assert out[y, x].tolist() == expected
    assert np.array_equal(pixels, before)


def test_highlight_refuses_labels_of_another_size() -> None:
    with pytest.raises(ImageError, match="30 x 19 px do not belong to a picture of 30 x 20 px"):
        highlight(GREY8, np.zeros((19, 30), np.uint8))


# ---- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [GREY8, RGB8, GREY16, RGB16], ids=["grey8", "rgb8", "grey16", "rgb16"])
def test_png_round_trip_is_exact(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "out.png"
    write_png_atomic(path, array)
    assert np.array_equal(load_picture(path).pixels, array)
    assert os.listdir(tmp_path) == ["out.png"]


def test_png_of_colours_is_seen_alike_by_another_reader(tmp_path: Path) -> None:
    write_png_atomic(tmp_path / "out.png", RGB8)
    with Image.open(tmp_path / "out.png") as image:
        assert np.array_equal(np.asarray(image), RGB8)


@pytest.mark.parametrize("array", [GREY8.astype(np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_what_png_cannot_hold_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="PNG takes"):
        write_png_atomic(tmp_path / "out.png", array)
    assert os.listdir(tmp_path) == []


def test_written_file_obeys_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_bytes_atomic(tmp_path / "a.bin", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(images.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        write_bytes_atomic(path, b"new")
    assert caught.value.exit_code == 3
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_really_full_device_is_a_storage_error(tmp_path: Path) -> None:
    """A file size limit makes the kernel refuse the write, as a full disk does."""
    code = (
        "import resource, signal, sys\n"
        "from edge_daemon.errors import StorageError\n"
        "from edge_daemon.images import write_bytes_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_bytes_atomic(sys.argv[1], bytes(5000))\n"
        "except StorageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.bin")], capture_output=True, text=True, check=True
    )
    assert "cannot write" in done.stdout
    assert os.listdir(tmp_path) == []


def test_no_such_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory"):
        write_bytes_atomic(tmp_path / "nowhere" / "a.bin", b"x")


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes_atomic(tmp_path / "a.bin", b"x")
    assert os.listdir(tmp_path) == []
