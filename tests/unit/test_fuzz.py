"""Bytes from outside: whatever comes, only the product's own errors, and soon.

Short here (a few seconds a parser). Longer, and with other examples each time:

    make fuzz            # or FUZZ_EXAMPLES=100000 python -m pytest tests/unit/test_fuzz.py --timeout 86400
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_daemon.commands import read_command
from edge_daemon.config import load_config
from edge_daemon.errors import ConfigError, EdgeError, UsageError
from edge_daemon.images import load_labels, load_picture
from edge_daemon.line.ascii import TelegramReader
from edge_daemon.line.modbus import ModbusServerDriver
from edge_daemon.recipe import load_recipe
from edge_daemon.references import load_reference_set
from edge_daemon.references.pictures import load_plate
from edge_daemon.resources import data_folder
from edge_daemon.segment.onnx_bytes import NotOnnxError, external_tensors
from edge_daemon.segment.sealed import open_document
from edge_daemon.signing import read_signatures
from edge_daemon.sparkplug import Metric, decode, encode
from edge_daemon.standards import load_standard
from edge_daemon.testing.engine_contract import tiny_model
from edge_daemon.units import duration_s, length_mm, size_bytes

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
LONGEST_S = 5.0  # one input; a parser that hangs or grows without bound shows here, a slow machine does not


def fuzz(examples: int) -> Any:
    return settings(
        max_examples=EXAMPLES or examples, deadline=None, derandomize=not EXAMPLES, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


def changed(good: bytes) -> st.SearchStrategy[bytes]:
    """Nonsense, and well-formed input with pieces cut out, put in, doubled or overwritten."""

    def change(pieces: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(good)
        for at, drop, put in pieces:
            start = at % (len(data) + 1)
            data[start : start + drop] = put
        return bytes(data)

    piece = st.tuples(st.integers(0, 2**20), st.integers(0, 40), st.binary(max_size=12))
    return st.one_of(st.lists(piece, min_size=1, max_size=6).map(change), st.binary(max_size=200))


def text_changed(good: str) -> st.SearchStrategy[bytes]:
    """TOML or CSV with words of other types and odd letters in place of what stood there."""
    words = st.one_of(
        st.sampled_from(['""', "true", "-1", "1e999", "nan", "[]", "{}", "[[1]]", "1979-05-27", '"1e999 mm"', '"-5 s"',
                         '"../../x"', "=", "[", "]]", '"\\u0000"', "9" * 400, '"' + "a" * 3000 + '"', "é", "\x00"]),
        st.text(max_size=8),
    )  # fmt: skip

    def change(pieces: list[tuple[int, str, bool]]) -> bytes:
        lines = good.split("\n")
        for number, word, whole in pieces:
            at = number % len(lines)
            before, equals, _ = lines[at].partition("=")
            lines[at] = word if whole or not equals else f"{before}= {word}"
        return "\n".join(lines).encode("utf-8", "replace")

    return st.lists(st.tuples(st.integers(0, 200), words, st.booleans()), min_size=1, max_size=4).map(change)


def bounded(parse: Callable[[], object], *expected: type[Exception]) -> None:
    began_s, found = time.monotonic(), None
    try:
        parse()
    except (EdgeError, *expected) as error:
        found = error
    assert time.monotonic() - began_s < LONGEST_S
    if found is not None:
        assert str(found)
    if isinstance(found, EdgeError):
        assert found.code != "BUG" and found.exit_code in (2, 3, 4)
        assert len(found.message) < 5000


LINE = (Path(__file__).parents[2] / "README.md").read_text().split("```toml\n")[1].split("```")[0] + (
    '\n[security]\ntrusted_keys = ["ed25519:' + "A" * 43 + '="]\n[sparkplug]\ngroup = "g"\n'
    '[commands]\ntrusted_keys = ["ed25519:' + "A" * 43 + '="]\nwindow = "60 s"\n[[commands.recipe]]\nfile = "b.toml"\n'
)
RECIPE = (
    'name = "r"\nengine = "e"\nmetal = "aluminum"\nthickness = "6.35 mm"\nmm_per_px = "0.1 mm"\nothers = "UNLIMITED"\n'
    'polarity = "bright_void"\n[[zone]]\nname = "z"\npolygon = [["0 mm","0 mm"],["9 mm","0 mm"],["9 mm","9 mm"]]\n'
    '[[rule]]\ntype = "crack"\nkind = "SIZE_MM"\nlimit = "0.5 mm"\nzone = "z"\nwindows = ["12.7 mm"]\nguard = 1.0\n'
    '[uncertainty]\nedge = "0.02 mm"\n'
)


def test_the_unchanged_inputs_are_good(tmp_path: Path) -> None:
    """What the changes start from is accepted: they reach beyond the first line of each parser."""
    (tmp_path / "line.toml").write_text(LINE)
    assert load_config(tmp_path / "line.toml").commands is not None
    (tmp_path / "recipe.toml").write_text(RECIPE)
    assert load_recipe(tmp_path / "recipe.toml").zones[0].name == "z"


@pytest.mark.parametrize("word", ["\\u0000", "~nobody-of-this-name/x"])
def test_what_fuzzing_found_a_word_that_is_no_path(word: str, tmp_path: Path) -> None:
    (tmp_path / "line.toml").write_text(LINE.replace('recipe = "housing.toml"', f'recipe = "{word}"'))
    with pytest.raises(ConfigError, match=r"line\.toml:3: \[station\] recipe: .* is no path"):
        load_config(tmp_path / "line.toml")


@fuzz(60)
@given(data=st.one_of(text_changed(LINE), changed(LINE.encode())))
def test_line_toml(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "line.toml").write_bytes(data)
    bounded(lambda: load_config(tmp_path / "line.toml"))


@fuzz(60)
@given(data=st.one_of(text_changed(RECIPE), changed(RECIPE.encode())))
def test_recipes(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(data)
    bounded(lambda: load_recipe(tmp_path / "recipe.toml"))


@fuzz(30)
@given(data=st.data())
def test_tables(data: st.DataObject, tmp_path: Path) -> None:
    good, folder = data_folder("standards") / "house-demo", tmp_path / "house-demo"
    folder.mkdir(exist_ok=True)
    heading = (good / "standard.toml").read_text()
    rows = "\n".join((good / "rules.csv").read_text().split("\n")[:12])
    (folder / "standard.toml").write_text(heading)
    (folder / "rules.csv").write_text(rows)
    name, text = data.draw(st.sampled_from([("standard.toml", heading), ("rules.csv", rows)]))
    (folder / name).write_bytes(data.draw(st.one_of(text_changed(text), changed(text.encode()))))
    bounded(lambda: load_standard(folder))


MANIFEST = {
    "schema": 1, "set": "s", "metal": "aluminum", "thickness_mm": 6.35, "discontinuity": "crack", "mm_per_px": 0.1,
    "u_mm_per_px": 0.001, "licence": "l", "files": {"1.png": "0" * 64}, "levels": 1, "form": "film", "bits_stored": 8,
    "masks": {}, "metrics": {"1": {}},
}  # fmt: skip
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=5,
)


@fuzz(60)
@given(changes=st.dictionaries(st.sampled_from(sorted(MANIFEST)), JSON, max_size=3), raw=st.binary(max_size=60))
def test_manifests_of_references(changes: dict[str, Any], raw: bytes, tmp_path: Path) -> None:
    data = json.dumps({**MANIFEST, **changes}).encode() if changes else raw
    (tmp_path / "manifest.json").write_bytes(data)
    bounded(lambda: load_reference_set(tmp_path))


@fuzz(60)
@given(data=changed((data_folder("engines") / "castings-xray/manifest.json").read_bytes()))
def test_sealed_documents_and_signatures(data: bytes, tmp_path: Path) -> None:
    bounded(lambda: open_document(data, "manifest.json"))
    (tmp_path / "signature.json").write_bytes(data)
    bounded(lambda: read_signatures(tmp_path / "signature.json", "engine"))


@fuzz(80)
@given(data=changed(tiny_model()))
def test_onnx_models(data: bytes) -> None:
    bounded(lambda: external_tensors(data), NotOnnxError)


COMMAND = json.dumps(
    dict.fromkeys(("id", "station", "command", "recipe", "by", "why", "issued_utc", "key", "signature"), "x")
    | {"schema": 1, "id": "12345678", "command": "pause", "recipe": "", "issued_utc": "2026-01-31T08:15:30.250Z"}
).encode()


@fuzz(100)
@given(data=st.one_of(changed(COMMAND), JSON.map(lambda value: json.dumps(value).encode())))
def test_commands(data: bytes) -> None:
    bounded(lambda: read_command(data))


@fuzz(100)
@given(data=changed(encode([Metric("Node Control/Rebirth", 11, True, 5)], timestamp_ms=1, seq=None)))
def test_sparkplug_commands(data: bytes) -> None:
    bounded(lambda: decode(data))


@fuzz(100)
@given(pieces=st.lists(st.one_of(st.binary(max_size=300), st.just(b"\n"), st.just(b"$")), max_size=8))
def test_serial_telegrams(pieces: list[bytes]) -> None:
    reader = TelegramReader()
    for piece in pieces:
        bounded(lambda piece=piece: list(reader.feed(piece)))  # type: ignore[misc]


class Wire:
    """Where a driver's answers go."""

    def write(self, data: bytes) -> bool:
        return len(data) <= 256


def _crc(frame: bytes) -> bytes:
    return crc16_modbus(frame).to_bytes(2, "little")


def crc16_modbus(frame: bytes) -> int:
    value = 0xFFFF
    for byte in frame:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value


@fuzz(60)
@given(frames=st.lists(st.tuples(st.binary(max_size=30), st.booleans(), st.integers(0, 10**8)), max_size=8))
def test_modbus_frames(frames: list[tuple[bytes, bool, int]]) -> None:
    """Noise, and whole frames with a right check sum around any content; nothing asks for a gate to open."""
    driver, now_ns = ModbusServerDriver(unit_id=1), 0
    driver.open(Wire())
    for body, whole, pause_ns in frames:
        now_ns += pause_ns
        data = b"\x01" + body + _crc(b"\x01" + body) if whole else body
        events: list[Any] = []
        bounded(lambda data=data, events=events, at_ns=now_ns: events.extend(driver.received(data, at_ns)))  # type: ignore[misc]
        assert len(events) <= len(data) + 4


def _dicom() -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    tags = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    tags.Rows, tags.Columns, tags.SamplesPerPixel, tags.PixelRepresentation = 30, 40, 1, 0
    tags.BitsAllocated, tags.BitsStored, tags.HighBit, tags.PhotometricInterpretation = 16, 12, 11, "MONOCHROME2"
    tags.PixelData = (np.arange(1200, dtype=np.uint16) % 4096).tobytes()
    stream = io.BytesIO()
    tags.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


DICOM = _dicom()


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom warns of what it mends
@fuzz(40)
@given(data=st.one_of(changed(DICOM), changed(DICOM[:700]).map(lambda head: head + DICOM[700:])))
def test_dicom(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(data)
    bounded(lambda: load_plate(tmp_path / "x.dcm"))


@fuzz(100)
@given(text=st.one_of(st.text(max_size=20), st.from_regex(r"[-+0-9./eE]{0,12} ?(mm|in|s|ms|GB|d)?", fullmatch=True)))
def test_quantities(text: str) -> None:
    for read in (length_mm, duration_s, size_bytes):
        bounded(lambda read=read: read(text))  # type: ignore[misc]


def _pictures() -> dict[str, bytes]:
    made = {}
    pixels = np.arange(40 * 30, dtype=np.uint16).reshape(30, 40)
    for suffix, kind in (("png", "PNG"), ("tif", "TIFF"), ("bmp", "BMP"), ("jpg", "JPEG")):
        stream = io.BytesIO()
        source = pixels if kind in ("PNG", "TIFF") else (pixels % 256).astype(np.uint8)
        Image.fromarray(source).save(stream, kind)
        made[suffix] = stream.getvalue()
    return made


PICTURES = _pictures()


@fuzz(60)
@given(data=st.data())
def test_pictures_and_label_images(data: st.DataObject, tmp_path: Path) -> None:
    suffix = data.draw(st.sampled_from(sorted(PICTURES)))
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data.draw(changed(PICTURES[suffix])))
    bounded(lambda: load_picture(path))
    bounded(lambda: load_labels(path))


def test_a_good_picture_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(DICOM)
    assert load_plate(tmp_path / "x.dcm").pixels.shape == (30, 40)
    for suffix, data in PICTURES.items():
        (tmp_path / f"x.{suffix}").write_bytes(data)
        assert load_picture(tmp_path / f"x.{suffix}").pixels.shape == (30, 40)
    with pytest.raises(UsageError):
        load_picture(tmp_path / "none.png")
