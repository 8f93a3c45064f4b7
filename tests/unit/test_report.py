"""The report says what the record says: every word of it, the same on screen and paper, in either language."""

from __future__ import annotations

import copy
import io
import json
import re
import subprocess
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_daemon.errors import EdgeError, UsageError
from edge_daemon.evidence import evidence
from edge_daemon.inspection import Station, document_of, prepare_station
from edge_daemon.recipe import load_recipe
from edge_daemon.resources import engine_folder
from edge_daemon.segment.bundle import load
from edge_daemon.segment.registry import open_engine
from edge_daemon.simulator import conveyor_part
from edge_daemon.station.reading import governing_ratio, record_sha256, recorded_utc, to_pass, uncertain
from edge_daemon.station.report import Report, report_of
from edge_daemon.station.report.bidi import mirrored, visual_order
from edge_daemon.station.report.figures import MOST_PX, figures_of
from edge_daemon.station.report.markup import parse
from edge_daemon.station.words import LANGUAGES, Words

ID = "01a209b9-8a43-7b62-bd4f-f59662ce57a4"


@pytest.fixture(scope="module")
def station() -> Station:
    with as_file(files("edge_daemon.demo").joinpath("recipe.toml")) as path:
        recipe = load_recipe(path)
    return prepare_station(open_engine(load(engine_folder(recipe.engine)), "onnxruntime"), recipe)


@pytest.fixture(scope="module")
def failed(station: Station) -> dict[str, Any]:
    """A record with everything: what goes into ``report_of``."""
    pixels = conveyor_part(950_020, "rejectable").pixels
    inspection = station.inspect(pixels)
    document = document_of(station, inspection, record_id=ID, image="/cell/part.png", image_sha256="ab" * 32)
    return {"document": json.loads(json.dumps(document)), "pixels": pixels, "labels": inspection.labels,
            "drawn": evidence(station, inspection, pixels)}  # fmt: skip


def paper_words(pdf: bytes, tmp_path: Path) -> str:
    (tmp_path / "r.pdf").write_bytes(pdf)
    done = subprocess.run(["pdftotext", "-layout", tmp_path / "r.pdf", "-"], capture_output=True, text=True, check=True)
    return done.stdout


def changed(failed: dict[str, Any], **values: Any) -> dict[str, Any]:
    document = copy.deepcopy(failed["document"])
    document.update(values)
    return document


def test_the_report_shows_all_that_decided(failed: dict[str, Any]) -> None:
    html = report_of(**failed).html()
    document = failed["document"]
    words = parse(html).words()
    assert "FAIL · ADVISORY" in words
    assert "It must not be used to accept a part." in words
    for reason in document["reasons"]:
        assert reason["text"] in words
    rule = document["types"][0]["rule"]
    for said in (rule["verbatim"], rule["row_id"], document["engine"]["sha256"], document["references_sha256"],
                 document["config_sha256"], document["image_sha256"], document["engine"]["certificate"]["sentence"],
                 record_sha256(document), "Level III", "Uncertainty budget", "2026-11-23 18:44:44 UTC"):  # fmt: skip
        assert said in words
    assert len(re.findall(r"<img ", html)) == 6
    assert "/cell/" not in html, "folders of the machine stay out"


def test_the_same_record_gives_the_same_bytes(failed: dict[str, Any]) -> None:
    one, two = report_of(**failed), report_of(**copy.deepcopy(failed))
    assert one.html() == two.html()
    assert one.pdf() == two.pdf()
    assert one.pdf("letter") != one.pdf("a4")


@pytest.mark.needs("pdftotext")
def test_paper_says_every_word_that_the_screen_says(failed: dict[str, Any], tmp_path: Path) -> None:
    report = report_of(**failed)
    text = paper_words(report.pdf(), tmp_path)
    printed = re.sub(r"\s", "", text)
    body = parse(report.html()).find("body")
    assert body is not None
    for node in body.nodes:
        for word in node.words().split():
            assert word in printed, word


@pytest.mark.needs("pdftotext")
def test_the_page_has_its_size_and_every_page_its_number(failed: dict[str, Any], tmp_path: Path) -> None:
    for paper, size in (("a4", "595.276 x 841.89 pts (A4)"), ("letter", "612 x 792 pts (letter)")):
        pages = paper_words(report_of(**failed).pdf(paper), tmp_path).split("\f")[:-1]
        for number, text in enumerate(pages, start=1):
            assert f"{number}/{len(pages)}" in text.replace(" ", "")
        done = subprocess.run(["pdfinfo", tmp_path / "r.pdf"], capture_output=True, text=True, check=True)
        assert size in done.stdout
    with pytest.raises(UsageError):
        report_of(**failed).pdf("a5")


@pytest.mark.parametrize(
    ("outcome", "advisory", "shown"),
    [("PASS", True, "PASS · ADVISORY"), ("PASS", False, "PASS"), ("INCONCLUSIVE", True, "INCONCLUSIVE · ADVISORY"),
     ("NOT_EVALUABLE", False, "NOT EVALUABLE")],
)  # fmt: skip
def test_the_verdict_stands_in_large(failed: dict[str, Any], outcome: str, advisory: bool, shown: str) -> None:
    html = report_of(changed(failed, outcome=outcome, advisory=advisory)).html()
    found = re.search(r'<p class="word">(.*?)</p>', html)
    assert found is not None and found.group(1) == shown
    assert ("must not be used to accept" in html) is advisory


def test_unknown_types_and_withdrawn_certificates_are_never_hidden(failed: dict[str, Any]) -> None:
    document = changed(
        failed,
        message="I was not trained on this type of defect",
        notices=[{"code": "CERTIFICATE_WITHDRAWN", "text": "the claims are withdrawn since 2026-11-20"}],
        not_inspected=["hot_tear"],
        blind_pct=3.2,
    )
    document["defects"][0].update(known=False, nearest_type="crack")
    document["engine"]["certificate"] = None
    words = parse(report_of(document).html()).words()
    for said in ("I was not trained on this type of defect", "the claims are withdrawn since 2026-11-20", "hot tear",
                 "Not trained on this type; nearest known: Crack", "3.2 % of the picture is burnt out",
                 "This engine was never certified", "The picture was not kept"):  # fmt: skip
        assert said in words


def test_the_gate_is_part_of_a_line_record(failed: dict[str, Any]) -> None:
    document = changed(failed, part_id=7, station="cell-1", trigger_utc="2026-11-23T10:00:00.250Z",
                       gate={"permitted": None, "reason": "LINE_LOST", "decision_ms": 12.0})  # fmt: skip
    words = parse(report_of(document).html()).words()
    assert "not known: the line process went away (LINE_LOST)" in words
    assert "cell-1" in words and "2026-11-23 10:00:00 UTC" in words


def test_an_older_record_without_newer_fields_still_makes_a_report(failed: dict[str, Any]) -> None:
    document = changed(failed)
    for entry in document["types"]:
        del entry["severity_high"], entry["rule"]["advisory"]
        for window in entry["windows"]:
            for value in (window["area_pct"], window["count"]):
                for name in ("outcome", "decides", "firm"):
                    value.pop(name, None)
    del document["engine"]["certificate"]
    assert report_of(document).pdf().startswith(b"%PDF")


def test_what_would_have_to_be_smaller_is_the_permitted_value_less_its_uncertainty(failed: dict[str, Any]) -> None:
    words = Words()
    needs = to_pass(failed["document"], words)
    area = failed["document"]["types"][0]["windows"][0]["area_pct"]
    needed = area["permitted"] - 2 * area["u"]
    assert f"at most {needed:.4g}\u00a0%" in needs[0]
    assert len(needs) == 3, "the count is shown, but decides nothing"
    assert to_pass(changed(failed, outcome="PASS"), words) == []
    wide = changed(failed)
    wide["types"][0]["windows"][0]["area_pct"]["u"] = 5.0
    assert "a finer or better calibrated picture" in to_pass(wide, words)[0]


def test_the_governing_ratio_is_that_of_the_permitted_value(failed: dict[str, Any]) -> None:
    area = failed["document"]["types"][0]["windows"][0]["area_pct"]
    assert governing_ratio(failed["document"]) == pytest.approx(area["value"] / area["permitted"])


@pytest.mark.parametrize(
    ("value", "u", "unit", "text"),
    [(5.8296, 0.55, "%", "5.8 ± 1.1 %"), (1.2603, 0.0336, "mm", "1.260 ± 0.067 mm"), (11.0, 0.0, "", "11"),
     (None, 0.0, "mm", "–"), (1234.0, 60.0, "mm", "1234 ± 120 mm"), (0.0004, 0.00002, "mm", "0.000400 ± 0.000040 mm")],
)  # fmt: skip
def test_values_are_rounded_to_their_uncertainty(value: float | None, u: float, unit: str, text: str) -> None:
    assert uncertain(value, u, unit).replace("\u00a0", " ") == text


def test_the_time_of_a_picture_from_a_file_is_in_its_record_id() -> None:
    assert recorded_utc({"record_id": ID}) == "2026-11-23T18:44:44.227Z"
    assert recorded_utc({"record_id": "r"}) is None


# ---------------------------------------------------------------- pictures


def test_a_smaller_picture_loses_no_mark() -> None:
    pixels = np.full((3000, 4000), 9000, np.uint16)
    labels = np.zeros((3000, 4000), np.uint8)
    labels[17, 33] = labels[2999, 3999] = 1
    figures = figures_of(pixels, labels, {"outcome": "FAIL", "defects": []})
    assert figures["original"].shown_px == (MOST_PX, 1050)
    assert figures["original"].reduced
    from PIL import Image

    shown = np.asarray(Image.open(io.BytesIO(figures["highlight"].data))).astype(int)
    yellow = (shown[:, :, 0] > 120) & (shown[:, :, 1] > 120) & (shown[:, :, 2] < 110)
    assert yellow[5, 11] and yellow[1049, 1399]


def test_a_picture_that_was_refused_unseen_is_not_shown_as_unmarked() -> None:
    blank = np.zeros((64, 64), np.uint8)
    assert set(figures_of(blank, blank, {"outcome": "NOT_EVALUABLE", "defects": []})) == {"original"}


def test_a_template_cannot_lose_a_word_on_its_way_to_paper() -> None:
    with pytest.raises(EdgeError, match="marquee"):
        parse("<html><body><marquee>12 %</marquee></body></html>")
    with pytest.raises(EdgeError, match="closes"):
        parse("<html><body><p>12 %</b></body></html>")


# ---------------------------------------------------------------- languages


def test_every_sentence_is_there_in_every_language_with_the_same_places() -> None:
    catalogues = {
        code: json.loads((files("edge_daemon.station") / "locale" / f"{code}.json").read_text(encoding="utf-8"))
        for code in LANGUAGES
    }
    english = catalogues["en"]
    for code, texts in catalogues.items():
        assert set(texts) == set(english), code
        for key, text in texts.items():
            assert set(re.findall(r"{(\w+)}", text)) == set(re.findall(r"{(\w+)}", english[key])), f"{code} {key}"
    with pytest.raises(UsageError):
        Words("xx")


def test_the_hebrew_report_reads_from_right_to_left_and_keeps_quantities_whole(failed: dict[str, Any]) -> None:
    report = report_of(**failed, words=Words("he"))
    html = report.html()
    assert '<html lang="he" dir="rtl">' in html
    assert "נכשל (FAIL) · לידיעה בלבד (ADVISORY)" in html
    assert re.search("\u2066\\d+\\.\\d\u00a0±\u00a0\\d+\\.\\d\u00a0%\u2069", html)
    assert failed["document"]["types"][0]["rule"]["verbatim"] in html, "a row keeps its own words"
    assert report.pdf().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("שלום mm 12.7", "mm 12.7 םולש"),
        ("חלון של 12.7 מ״מ", "מ״מ 12.7 לש ןולח"),
        ("סוג (gas_hole) נמצא", "אצמנ (gas_hole) גוס"),
        ("גבול 5.8 %", "% 5.8 לובג"),
    ],
)
def test_lines_of_two_directions_are_in_the_order_of_the_unicode_algorithm(text: str, shown: str) -> None:
    order = visual_order(text, [False] * len(text), right_to_left=True)
    assert "".join(mirrored(text[index]) if backwards else text[index] for index, backwards in order) == shown


def test_a_quotation_keeps_its_own_order_in_a_hebrew_line() -> None:
    text = "שורה [a] 1 - 2"
    quoted = [index >= 5 for index in range(len(text))]
    order = visual_order(text, quoted, right_to_left=True)
    assert "".join(text[index] for index, _ in order) == "[a] 1 - 2 הרוש"


def test_a_report_is_what_its_parts_are(failed: dict[str, Any]) -> None:
    report = report_of(**failed)
    assert isinstance(report, Report)
    assert report.title == f"Inspection report {ID}"
