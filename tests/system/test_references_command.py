"""``edge-daemon references`` as its users meet it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_daemon.cli import main
from edge_daemon.references import load_reference_set
from edge_daemon.resources import data_folder

DEMO = data_folder("references") / "demo" / "aluminum" / "6.35mm" / "gas_porosity_round"
NAME = "demo/aluminum/6.35mm/gas_porosity_round"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    """(exit code, documents, stderr) of one call with --json."""
    code = main(["references", *map(str, arguments), "--json"])
    done = capsys.readouterr()
    return code, [json.loads(line) for line in done.out.splitlines()], done.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """(exit code, the one line on stderr)."""
    code, documents, err = run(capsys, *arguments)
    assert documents == []
    assert err.count("\n") == 1, err
    return code, err


PLAN = (
    "--set", "site", "--metal", "aluminum", "--thickness", "1/4in", "--discontinuity", "gas_porosity_round",
    "--licence", "bought, one site", "--polarity", "dark_void", "--form", "digital", "--by", "Ada Example",
)  # fmt: skip
SCALE = ("--mm-per-px", "0.1", "--mm-per-px-u", "0.0005")


@pytest.fixture
def licensed(tmp_path: Path) -> Path:
    """Eight 16-bit TIFF plates with dark voids."""
    folder = tmp_path / "licensed"
    folder.mkdir()
    for level in range(1, 9):
        bright = cv2.imread(str(DEMO / f"{level}.png"), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(folder / f"{level}.tif"), (65535 - bright.astype(np.uint16) * 257).astype(np.uint16))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_list_and_verify_find_the_shipped_sets_whole(capsys: pytest.CaptureFixture[str]) -> None:
    code, found, _ = run(capsys, "list")
    assert code == 0 and NAME in [one["set"] for one in found]
    assert all(one["ok"] and one["levels"] == [1, 2, 3, 4, 5, 6, 7, 8] and one["masks"] for one in found)
    code, (document,), _ = run(capsys, "verify", NAME)
    assert (code, document["ok"], document["problems"]) == (0, True, [])


def test_verify_names_each_problem_and_changes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "set"))
    shutil.copyfile(folder / "4.png", folder / "3.png")
    (folder / "notes.png").write_bytes(b"")
    before = files(folder)
    code, (document,), _ = run(capsys, "verify", folder)
    assert code == 4 and not document["ok"]
    assert [one["exit_code"] for one in document["problems"]] == [4, 4]
    assert main(["references", "verify", str(folder)]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("[INTEGRITY]" in line for line in lines)
    assert files(folder) == before


def test_show_gives_the_engines_limits_and_the_second_time_from_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    code, (first,), _ = run(capsys, "show", NAME, "--engine", "castings-xray")
    assert code == 0
    _, (second,), _ = run(capsys, "show", NAME, "--engine", "castings-xray")
    assert (first["limits"].pop("from_cache"), second["limits"].pop("from_cache")) == (0, 8)
    assert first == second
    areas = [
        entry["limit"]
        for level in first["limits"]["levels"].values()
        for entry in level["metrics"]
        if (entry["metric"], entry["side_mm"]) == ("area_pct", 12.7)
    ]
    # a plate's value that would have to be bent by more than a tenth is dropped, the others rise
    kept = [area for area in areas if area is not None]
    assert kept == sorted(kept)
    assert len(areas) == 8
    assert len(kept) >= 6
    assert main(["references", "show", NAME]) == 0
    text = capsys.readouterr().out
    assert "limits by masks" in text and "dropped" in text


def test_import_names_the_originals_and_reads_them_bright(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, licensed: Path
) -> None:
    before = files(licensed)
    code, (document,), _ = run(capsys, "import", licensed, *PLAN, *SCALE, "--out", tmp_path / "site")
    assert code == 0 and document["levels"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["manifest.json"]
    assert files(licensed) == before
    found = load_reference_set(tmp_path / "site")
    shipped = load_reference_set(DEMO)
    for level, image in found.images.items():
        assert (image.pixels == shipped.images[level].pixels.astype(np.uint16) * 257).all()
        assert image.path == licensed / f"{level}.tif"
    assert (found.scale.x_mm_per_px, found.scale.u_mm_per_px, found.licence) == (0.1, 0.0005, "bought, one site")
    assert (found.document["imported_by"], found.thickness_mm, found.form) == ("Ada Example", 6.35, "digital")
    code, (document,), _ = run(capsys, "verify", tmp_path / "site", "--engine", "castings-xray")
    assert (code, document["problems"]) == (0, [])
    data = bytearray((licensed / "6.tif").read_bytes())
    data[-1] ^= 1
    (licensed / "6.tif").write_bytes(bytes(data))
    code, (document,), _ = run(capsys, "verify", tmp_path / "site")
    assert code == 4 and "6.tif is not the sealed picture" in document["problems"][0]["text"]


def test_import_with_copy_stands_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path, licensed: Path) -> None:
    assert run(capsys, "import", licensed, *PLAN, *SCALE, "--copy", "--out", tmp_path / "site")[0] == 0
    shutil.rmtree(licensed)
    assert run(capsys, "verify", tmp_path / "site")[0] == 0
    assert sorted(path.name for path in (tmp_path / "site").glob("*.tif"))[0] == "1.tif"


@pytest.mark.parametrize(
    ("spoil", "options", "expected"),
    [
        ("rm 3.tif", SCALE, "plate 3 of 8 is missing"),
        ("rm 6.tif 7.tif 8.tif", (*SCALE, "--levels", "4"), "5.tif is plate 5 of a set of 4"),
        ("mv 3.tif 9.tif", SCALE, "9.tif is plate 9 of a set of 8"),
        ("cp 3.tif 3.png", SCALE, "both 3.png and 3.tif are plate 3"),
        ("true", (), "does not say its scale"),
        ("true", ("--mm-per-px", "0.1"), "a scale and its uncertainty belong together"),
        ("truncate -s 1000 4.tif", SCALE, "4.tif"),
        ("true", (*SCALE, "--bits", "12"), "does not fit into 12 bits"),
        ("true", (*SCALE, "--pattern", "plate"), "pattern 'plate'"),
        ("true", (*SCALE, "--metal", "wood"), "metal 'wood' is unknown"),
        ("true", (*SCALE, "--licence", " "), "--licence is empty"),
    ],
)
def test_a_bad_import_says_what_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    licensed: Path,
    spoil: str,
    options: tuple[str, ...],
    expected: str,
) -> None:
    subprocess.run(["sh", "-c", spoil], cwd=licensed, check=True)
    before = files(licensed)
    code, err = refused(capsys, "import", licensed, *PLAN, *options, "--out", tmp_path / "site")
    assert code == 2 and expected in err
    assert not (tmp_path / "site").exists()
    assert files(licensed) == before


def test_plates_of_two_sizes_are_not_imported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, licensed: Path
) -> None:
    cv2.imwrite(str(licensed / "2.tif"), np.full((512, 500), 9000, np.uint16))
    code, err = refused(capsys, "import", licensed, *PLAN, *SCALE, "--out", tmp_path / "site")
    assert code == 2 and "plates of different sizes" in err


def test_licensed_plates_never_enter_a_repository(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, licensed: Path
) -> None:
    inside = data_folder("references") / "never"
    code, err = refused(capsys, "import", licensed, *PLAN, *SCALE, "--out", inside)
    assert code == 2 and "belongs to this installation" in err and not inside.exists()
    (tmp_path / "work" / ".git").mkdir(parents=True)
    code, err = refused(capsys, "import", licensed, *PLAN, *SCALE, "--copy", "--out", tmp_path / "work" / "site")
    assert code == 2 and "lies in the repository" in err
    assert run(capsys, "import", licensed, *PLAN, *SCALE, "--out", tmp_path / "work" / "site")[0] == 0


def dicom(path: Path, stored: np.ndarray[Any, Any], *, photometric: str = "MONOCHROME2", **tags: Any) -> None:
    """A 12-bit DICOM file."""
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom: pip install 'edge-daemon[dicom]'")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = pydicom.uid.generate_uid()
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PhotometricInterpretation = photometric
    for key, value in tags.items():
        setattr(data, key, value)
    data.PixelData = stored.astype("<u2").tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


SPACING = {"ImagerPixelSpacing": [0.125, 0.125], "EstimatedRadiographicMagnificationFactor": "1.25"}
FROM_TAGS = ("--mm-per-px-u", "0.0004")


def dicom_plates(folder: Path, **tags: Any) -> Path:
    folder.mkdir()
    for level in range(1, 9):
        bright = cv2.imread(str(DEMO / f"{level}.png"), cv2.IMREAD_UNCHANGED)
        # Dark voids stored bright: MONOCHROME1 shows the largest value black.
        dicom(folder / f"{level}.dcm", bright.astype(np.uint16) * 16, photometric="MONOCHROME1", **tags)
    return folder


def test_dicom_plates_bring_their_scale(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = dicom_plates(tmp_path / "plates", **SPACING)
    code, (document,), _ = run(capsys, "import", source, *PLAN, *FROM_TAGS, "--out", tmp_path / "site")
    assert code == 0
    assert document["mm_per_px"] == [0.1, 0.1]  # at the detector 0.125, divided by the magnification
    assert document["scale_source"].startswith("ImagerPixelSpacing / magnification 1.25")
    found = load_reference_set(tmp_path / "site")
    stored = cv2.imread(str(DEMO / "8.png"), cv2.IMREAD_UNCHANGED).astype(np.uint32) * 16
    # Twelve bits over the whole range, turned round twice: once by the photometric interpretation, once by polarity.
    assert (found.images[8].pixels == (stored * 65535 + 2047) // 4095).all()
    code, (document,), _ = run(capsys, "verify", tmp_path / "site", "--engine", "castings-xray")
    assert (code, document["problems"]) == (0, [])


@pytest.mark.parametrize(
    ("tags", "options", "expected"),
    [
        ({}, FROM_TAGS, "no pixel spacing"),
        ({"ImagerPixelSpacing": [0.125, 0.125]}, FROM_TAGS, "no tag says the magnification"),
        ({"PixelSpacing": [0.1, 0.1]}, FROM_TAGS, "PixelSpacing alone"),
        (SPACING, (), "no tag says how uncertain"),
        ({**SPACING, "PixelRepresentation": 1}, FROM_TAGS, "its pixels are signed"),
        ({**SPACING, "RescaleSlope": "-1", "RescaleIntercept": "0"}, FROM_TAGS, "modality table"),
    ],
)
def test_dicom_without_what_is_needed_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tags: dict[str, Any], options: tuple[str, ...], expected: str
) -> None:  # fmt: skip
    source = dicom_plates(tmp_path / "plates", **tags)
    code, err = refused(capsys, "import", source, *PLAN, *options, "--out", tmp_path / "site")
    assert code == 2 and expected in err
    assert not (tmp_path / "site").exists()


def test_without_pydicom_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dicom_plates(tmp_path / "plates", **SPACING)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    code, err = refused(capsys, "import", source, *PLAN, *FROM_TAGS, "--out", tmp_path / "site")
    assert code == 3 and "edge-daemon[dicom]" in err


def test_make_makes_what_a_standard_names_and_only_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    which = ("--standard", "house-demo", "--metal", "steel", "--discontinuity", "shrinkage_cavity")
    code, made, _ = run(capsys, "make", *which, "--out", tmp_path)
    assert code == 0
    assert sorted(one["set"] for one in made) == [
        "demo/steel/25.4mm/shrinkage_cavity", "demo/steel/9.525mm/shrinkage_cavity",
    ]  # fmt: skip
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(times) == 32
    assert run(capsys, "make", *which, "--out", tmp_path)[0] == 0
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert run(capsys, "verify", tmp_path / "demo/steel/25.4mm/shrinkage_cavity")[0] == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "what is to be made?"),
        (("--discontinuity", "scratches"), "no casting discontinuity"),
        (("--discontinuity", "crack", "--thickness", "6.35"), "has no unit"),
        (("--discontinuity", "crack", "--metal", "copper"), "no plates of 'copper'"),
        (("--discontinuity", "crack", "--seed", "-1"), "seed -1 is negative"),
        (("--standard", "house-demo", "--metal", "copper"), "names no such reference set"),
    ],
)
def test_what_cannot_be_made_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...], expected: str
) -> None:
    code, err = refused(capsys, "make", *options, "--out", tmp_path / "new")
    assert code == 2 and expected in err
    assert not (tmp_path / "new").exists()


def test_the_card_is_one_a4_page_with_text_that_can_be_selected(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("reportlab", reason="needs the extra station: pip install 'edge-daemon[station]'")
    if shutil.which("pdftotext") is None:
        pytest.skip("needs pdftotext: apt-get install poppler-utils")
    card = tmp_path / "card.pdf"
    assert run(capsys, "card", NAME, "--outlines", "--out", card)[0] == 0
    info = subprocess.run(["pdfinfo", card], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Pages:\s+1\n", info) and "841.89 x 595.28" in info.replace("595.276", "595.28")
    text = subprocess.run(["pdftotext", "-layout", card, "-"], capture_output=True, text=True, check=True).stdout
    found = load_reference_set(DEMO)
    for words in (
        "Gas porosity, round", "Aluminum", "6.35 mm (1/4 in) plate", "DEMO 1 (fictional)", "Apache-2.0", "20 mm",
        "1 in", "Life size (1 : 1)", found.sha256,
    ):  # fmt: skip
        assert words in text
    row = next(line for line in text.splitlines() if line.startswith("Area, worst 12.7 mm"))
    stated = [f"{found.metrics[level]['area_pct']['12.7']:.2f}" for level in range(1, 9)]
    assert row.split("%")[1].split() == stated
    fonts = subprocess.run(["pdffonts", card], capture_output=True, text=True, check=True).stdout.splitlines()[2:]
    assert fonts and all(line.split()[-5] == "yes" for line in fonts), "a font is not embedded"
    first = card.read_bytes()
    assert run(capsys, "card", NAME, "--outlines", "--out", card)[0] == 0
    assert card.read_bytes() == first


def test_the_card_as_png_shows_every_plate_in_its_own_pixels(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    card = tmp_path / "card.png"
    assert run(capsys, "card", NAME, "--out", card)[0] == 0
    page = cv2.imread(str(card))
    assert page.shape == (2100, 2970, 3)
    grey = load_reference_set(DEMO).images[8].pixels.astype(np.float32)
    match = cv2.matchTemplate(page[:, :, 0].astype(np.float32), grey[100:400, 100:400], cv2.TM_CCOEFF_NORMED)
    assert match.max() > 0.99, "plate 8 is not on the card pixel by pixel"
    plain = page.copy()
    assert run(capsys, "card", NAME, "--outlines", "--out", card)[0] == 0
    changed = (cv2.imread(str(card)) != plain).any(axis=2)
    yellow = cv2.imread(str(card))[changed]
    assert 2000 < changed.sum() < 200_000
    assert (yellow[:, 2] >= yellow[:, 0]).mean() > 0.8


def test_a_card_belongs_outside_the_set_and_has_a_known_form(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "set"))
    for out, expected in ((folder / "card.png", "lies in the set itself"), (tmp_path / "card.svg", ".pdf or .png")):
        code, err = refused(capsys, "card", folder, "--out", out)
        assert code == 2 and expected in err and not out.exists()


def test_without_reportlab_a_pdf_names_the_extra_and_a_png_is_still_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "reportlab"] or ["reportlab"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "reportlab", None)
    code, err = refused(capsys, "card", NAME, "--out", tmp_path / "card.pdf")
    assert code == 3 and "edge-daemon[station]" in err
    assert run(capsys, "card", NAME, "--out", tmp_path / "card.png")[0] == 0
    assert cv2.imread(str(tmp_path / "card.png")).shape == (2100, 2970, 3)
