"""The certificate: what it counts is what the line would mark; what it promises follows from the counts and no more."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_daemon import cli
from edge_daemon.errors import ConfigError, IntegrityError, MissingExtra, UsageError
from edge_daemon.segment.bundle import load
from edge_daemon.segment.claims import read_claims
from edge_daemon.segment.drift import STATISTICS
from edge_daemon.segment.onnx import OnnxEngine
from edge_daemon.segment.see import see
from edge_daemon.testing.engine_contract import TINY_TYPES, tiny_bundle, tiny_manifest
from edge_daemon.train import certificate as module
from edge_daemon.train.certificate import certify, check_seeds, seal_claims
from edge_daemon.train.certificate_page import certificate_html
from edge_daemon.train.certificate_pdf import certificate_pdf
from edge_daemon.train.labelled import Box, Labelled
from edge_daemon.train.observing import Grids, Observed, Part, Spot, grids_for, observe, picture_sha256
from edge_daemon.train.pictures import IGNORED
from edge_daemon.train.statistics import lower_bound

SIDE = 48


def grey_for(coverage: float) -> int:
    """The grey level that the tiny network gives this coverage, to 1/255: logit = 60 (g - 0.5)."""
    return round(255 * (0.5 + math.log(coverage / (1 - coverage)) / 60))


def labelled(
    name: str, blobs: list[tuple[int, int, int, float]], *, part: str | None = None, seed: int = 0
) -> Labelled:
    """blobs: x, y, side, coverage; negative coverage: marked in the picture and not in the truth."""
    rng = np.random.default_rng([seed, *name.encode()])
    pixels = rng.integers(20, 60, (SIDE, SIDE)).astype(np.uint8)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for x, y, side, coverage in blobs:
        pixels[y : y + side, x : x + side] = grey_for(abs(coverage))
        if coverage > 0:
            labels[y : y + side, x : x + side] = 1
    return Labelled(name, "series", part or name, pixels, 0.1, "bright_void", labels, None, TINY_TYPES)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[OnnxEngine]:
    opened = OnnxEngine(tiny_bundle(tmp_path / "tiny"), threads=1)
    yield opened
    opened.close()


def run(engine: Any, pictures: list[Labelled], **options: Any) -> dict[str, Any]:
    claims = certify(engine, pictures, kind="folder", name="parts", **options)
    return json.loads(json.dumps(claims, allow_nan=False))


# ---------------------------------------------------------------- what is counted


def test_what_is_counted_is_what_the_line_marks_at_every_threshold(engine: OnnxEngine) -> None:
    """Against ``see`` itself, opened again with each threshold of both grids."""
    rng = np.random.default_rng(3)
    pictures = []
    for number in range(6):
        blobs = [
            (int(x), int(y), int(rng.integers(2, 7)), float(rng.uniform(0.03, 0.995)) * rng.choice([1, 1, -1]))
            for x in (3, 19, 35)
            for y in (4, 28)
        ]
        pictures.append(labelled(f"p{number}", blobs))
    grids = grids_for(engine.bundle.thresholds)
    assert grids.points[grids.default] == engine.bundle.thresholds.seed
    assert min(grids.points) == engine.bundle.thresholds.grow
    observed = observe(engine, pictures, grids)
    for picture, part in zip(pictures, observed.parts, strict=True):
        assert picture.labels is not None
        count, spots = cv2.connectedComponents((picture.labels > 0).astype(np.uint8), connectivity=8)
        assert len(part.spots) == count - 1
        for kind, members in (
            ("points", [replace(engine.bundle.thresholds, seed=seed) for seed in grids.points]),
            ("chain", list(grids.chain)),
        ):
            for index, thresholds in enumerate(members):
                marked = _seen_with(engine, thresholds, picture) > 0
                shares = sorted(float(marked[spots == k].mean()) >= 0.25 for k in range(1, count))
                if kind == "points":
                    assert sorted(bool(spot.found[index]) for spot in part.spots) == shares
                    assert part.calls[index] == cv2.connectedComponents(marked.astype(np.uint8), connectivity=8)[0] - 1
                else:
                    assert sorted(bool(spot.found_chain[index]) for spot in part.spots) == shares
                    assert part.missed_px[index] == int(((picture.labels > 0) & ~marked).sum())
                    assert part.marked_px[index] == int(marked.sum())


def _seen_with(engine: OnnxEngine, thresholds: Any, picture: Labelled) -> np.ndarray:
    class Other:
        name, backend = engine.name, engine.backend
        bundle = replace(engine.bundle, thresholds=thresholds)
        infer = staticmethod(engine.infer)

        def close(self) -> None: ...

    return see(Other(), picture.pixels, mm_per_px=(0.1,)).labels


def test_a_part_is_missed_by_any_indication_and_unmarked_by_all(engine: OnnxEngine) -> None:
    both = labelled("both", [(4, 4, 5, 0.99), (30, 30, 5, 0.1)])
    good = labelled("good", [(4, 4, 5, 0.99), (30, 30, 5, 0.97)])
    none = labelled("none", [(4, 4, 5, 0.1)])
    claims = run(engine, [both, good, none])
    assert claims["part_recall"]["strict"] == {"n": 3, "missed": 2, "lower": pytest.approx(lower_bound(1, 3), abs=1e-6)}
    assert claims["part_recall"]["lenient"]["missed"] == 1


def test_pictures_of_one_part_are_one_draw(engine: OnnxEngine) -> None:
    pictures = [
        labelled("a1", [(4, 4, 5, 0.99)], part="a"), labelled("a2", [(4, 4, 5, 0.1)], part="a"),
        labelled("b1", [], part="b"), labelled("b2", [(10, 10, 4, -0.99)], part="b"),
        labelled("c1", [], part="c"), labelled("c2", [(10, 10, 4, 0.99)], part="c"),
    ]  # fmt: skip
    claims = run(engine, pictures)
    assert claims["calibration_set"] | {"sha256": ""} == {
        "kind": "folder", "name": "parts", "sha256": "", "pictures": 6, "parts": 3, "defective": 2, "sound": 1,
        "nothing_visible": 0, "refused_by_the_image_gate": 0,
    }  # fmt: skip
    assert claims["part_recall"]["strict"] | {"lower": 0} == {"n": 2, "missed": 1, "lower": 0}
    false = claims["false_calls"]
    assert (false["parts"], false["pictures"], false["calls"], false["per_image"][0]) == (1, 2, 1, 0.5)


def test_what_nobody_can_see_is_neither_sound_nor_missed(engine: OnnxEngine) -> None:
    hidden = labelled("hidden", [(4, 4, 5, 0.1)])
    labels = hidden.labels
    assert labels is not None
    labels[labels > 0] = IGNORED
    made = run(engine, [hidden, labelled("sound", [])])["calibration_set"]
    assert (made["defective"], made["sound"], made["nothing_visible"]) == (0, 1, 1)


def test_a_part_the_gate_refuses_is_no_miss_and_is_counted(engine: OnnxEngine) -> None:
    flat = replace(labelled("flat", [(4, 4, 5, 0.5)]), pixels=np.full((SIDE, SIDE), 127, np.uint8))
    claims = run(engine, [flat, labelled("good", [(4, 4, 5, 0.99)])])
    assert claims["calibration_set"]["refused_by_the_image_gate"] == 1
    assert claims["part_recall"]["strict"]["n"] == 1


# ---------------------------------------------------------------- what follows from the counts


def line(n: int, sound: int, *, seed: int = 1) -> list[Labelled]:
    """n defective parts, one indication each of coverage 0.05 to 0.999; sound parts with a false mark now and then."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(n):
        side = int(rng.integers(3, 14))
        coverage = 1 / (1 + math.exp(-(-1.2 + 0.6 * side + rng.normal() * 1.2)))
        parts.append(labelled(f"d{number}", [(5, 7, side, min(max(coverage, 0.02), 0.999))], seed=seed))
    for number in range(sound):
        false = [(5, 7, 4, -float(rng.uniform(0.35, 0.99)))] if rng.random() < 0.2 else []
        parts.append(labelled(f"s{number}", false, seed=seed))
    return parts


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    opened = OnnxEngine(tiny_bundle(tmp_path_factory.mktemp("b") / "tiny"), threads=1)
    found = run(opened, line(200, 120), recall=0.9)
    opened.close()
    return found


def test_operating_points_are_bounds_of_their_counts_in_sequence(claims: dict[str, Any]) -> None:
    points, smallest = claims["operating_points"], 1.0
    assert [one["seed"] for one in points] == sorted({one["seed"] for one in points})
    missed = [one["missed"] for one in points]
    assert missed == sorted(missed) and missed[0] < missed[-1]
    rates = [one["false_calls_per_image"][0] for one in points]
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1]
    for one in points:
        smallest = min(smallest, lower_bound(200 - one["missed"], 200))
        assert smallest - 1e-6 <= one["recall_lower"] <= smallest, "rounded down"
        low, high = one["false_calls_per_image"][1:]
        assert low <= one["false_calls_per_image"][0] <= high
    default = claims["default_point"]
    assert default in points and default["default"] and sum(one["default"] for one in points) == 1
    assert default["missed"] == claims["part_recall"]["strict"]["missed"]


def test_pixels_are_certified_with_the_marking_it_costs(claims: dict[str, Any]) -> None:
    pixels, both = claims["pixel_miss"], claims["combined"]
    assert pixels["point"]["mean_miss"] < pixels["alpha"] == 0.05
    assert pixels["p"] <= 0.05
    assert 0.9 <= pixels["point"]["over_marking"] <= 1.6
    other = pixels["hoeffding_bentkus_point"]
    assert other is None or other["mean_miss"] < 0.05
    assert both["point"]["grow"] <= pixels["point"]["grow"], "at half the risk"
    assert both["part_recall_lower"] >= 0.9


def test_types_sizes_and_curves_use_one_indication_a_part(claims: dict[str, Any]) -> None:
    assert claims["types"] == {"gas_hole": claims["part_recall"]["strict"]}
    assert sum(one["n"] for one in claims["sizes"]) == 200
    pooled = claims["pod"]["pooled"]
    assert pooled["n"] == 200 and set(claims["pod"]) == {"pooled", "gas"}
    assert pooled["smallest_mm"] < pooled["a50_mm"] < pooled["a90_mm"] < pooled["a90_95_mm"] < pooled["largest_mm"]
    # A square of side s has its largest extent across, s times the root of two.
    assert pooled["largest_mm"] == pytest.approx(0.1 * 13 * math.sqrt(2), rel=1e-3)


def test_the_sentence_says_what_holds_and_never_more(claims: dict[str, Any]) -> None:
    strict = claims["part_recall"]["strict"]
    said = re.search(r"at most ([\d.]+) %", claims["sentence"])
    assert said is not None
    assert float(said[1]) / 100 >= 1 - strict["lower"] - 1e-9, "rounded up"
    assert f"n = {strict['n']}" in claims["sentence"]
    assert f"{strict['missed']} were missed in calibration" in claims["sentence"]
    assert f"a90/95 = {claims['pod']['pooled']['a90_95_mm']:.2f} mm" in claims["sentence"]
    assert "lapses when the drift alarm fires" in claims["sentence"]
    assert claims["drift"] is not None and set(claims["drift"]["figures"]) == set(STATISTICS)
    words = json.dumps(claims).lower()
    assert "guarantee" not in words and "100 %" not in words


def test_too_few_parts_are_told_so(engine: OnnxEngine) -> None:
    few = run(engine, line(12, 5, seed=2))
    text = " ".join(few["too_small"])
    assert "12 defective parts: a recall of 99.5 % cannot be promised with fewer than 598" in text
    assert "gas_hole 12" in text and "5 sound pictures" in text
    assert not few["part_recall"]["promised"]
    assert few["pod"]["pooled"]["reason"].startswith("not estimable: 12 independent flaws")
    assert few["drift"] is None and "too few to notice drift" in few["drift_reason"]
    assert "No drift alarm watches" in few["sentence"]
    nothing = run(engine, [labelled("s", [])])
    assert nothing["sentence"].startswith("Nothing may be claimed")
    assert nothing["operating_points"][0]["recall_lower"] == 0.0


def test_a_folder_in_the_order_of_its_defects_gives_the_same_bounds(engine: OnnxEngine) -> None:
    """Betting looks at losses one after the other: sorted by hand, they would promise something else."""
    parts = line(90, 0, seed=5)
    by_size = sorted(parts, key=lambda one: int((one.labels > 0).sum()))  # type: ignore[operator]
    one, two = run(engine, parts), run(engine, by_size)
    assert one["part_recall"] == two["part_recall"]
    assert one["calibration_set"]["sha256"] != two["calibration_set"]["sha256"]
    assert (one["pixel_miss"]["point"] is None) == (two["pixel_miss"]["point"] is None)


def test_calls_that_come_in_bunches_widen_their_interval() -> None:
    def part(calls: int) -> Part:
        return Part("p", pictures=1, calls=np.array([calls]))

    even = module._false_calls([part(1) for _ in range(40)] + [part(0) for _ in range(40)], 0)
    bunched = module._false_calls([part(10) for _ in range(4)] + [part(0) for _ in range(76)], 0)
    assert even["per_image"][0] == bunched["per_image"][0] == 0.5
    assert bunched["dispersion"] > 5
    width = [one["per_image"][2] - one["per_image"][1] for one in (even, bunched)]
    assert width[1] > 2 * width[0]


def test_groups_have_curves_of_their_own(tmp_path: Path) -> None:
    """Parts made by hand: cracks are found from 2 mm on, pores from 0.5 mm on."""
    bundle = tiny_bundle(tmp_path / "tiny")
    rng = np.random.default_rng(0)

    def look(engine: Any, pictures: Any, grids: Grids) -> Observed:
        parts = []
        for number in range(300):
            spots = []
            for name, a50 in (("crack", 2.0), ("gas_hole", 0.5)):
                size_mm = float(np.exp(rng.uniform(math.log(0.1), math.log(10.0))))
                found = rng.random() < 1 / (1 + (a50 / size_mm) ** 4)
                every = np.full(len(grids.points), found)
                spots.append(Spot(name, size_mm, every, np.full(len(grids.chain), found)))
            ones = np.ones(len(grids.chain), np.int64)
            parts.append(
                Part(f"p{number}", 1, False, False, spots, np.zeros(len(grids.points), np.int64), 10, ones, ones)
            )
        return Observed(tuple(parts), 300, "0" * 64, True, frozenset())

    class Engine:
        backend = "played"

        def __init__(self) -> None:
            self.bundle = bundle

    made = certify(Engine(), [], kind="folder", name="x", look=look)  # type: ignore[arg-type]
    assert made["pod"]["linear"]["a50_mm"] == pytest.approx(2.0, rel=0.15)
    assert made["pod"]["gas"]["a50_mm"] == pytest.approx(0.5, rel=0.15)
    assert made["pod"]["pooled"]["n"] == 300 and made["pod"]["linear"]["n"] == 300
    page = certificate_html(json.loads(json.dumps(made)))
    assert page.count("<polyline") == 3


# ---------------------------------------------------------------- what is refused


def test_sets_that_are_no_independent_parts_are_refused(engine: OnnxEngine) -> None:
    one = labelled("a", [(4, 4, 5, 0.99)])
    with pytest.raises(UsageError, match="same picture as one of part a"):
        run(engine, [one, replace(one, name="b", part="b")])
    with pytest.raises(UsageError, match="boxes and no mask"):
        run(engine, [replace(one, labels=None, boxes=(Box(1, 1, 4, 4, None),))])
    for option in ({"recall": 1.0}, {"confidence": 0.0}, {"pixel_miss": 2.0}):
        with pytest.raises(UsageError, match="makes no sense"):
            run(engine, [one], **option)


def test_pictures_that_were_trained_on_are_refused(tmp_path: Path) -> None:
    one = labelled("a", [(4, 4, 5, 0.99)])
    manifest = tiny_manifest(trained_on={"pictures_sha256": [picture_sha256(one.pixels)]})
    opened = OnnxEngine(tiny_bundle(tmp_path / "tiny", manifest=manifest), threads=1)
    with pytest.raises(IntegrityError, match="trained on"):
        run(opened, [one])
    run(opened, [labelled("b", [(4, 4, 5, 0.99)])])
    opened.close()


def test_seeds_that_may_have_been_trained_on_are_refused(tmp_path: Path) -> None:
    plain = tiny_bundle(tmp_path / "a")
    check_seeds(plain, range(850_000, 850_010))
    with pytest.raises(UsageError, match="849999"):
        check_seeds(plain, range(849_999, 850_010))
    with pytest.raises(UsageError, match="no part"):
        check_seeds(plain, [])
    manifest = tiny_manifest(trained_on="simulated radiographs, seeds 860000..869999")
    other = tiny_bundle(tmp_path / "b", manifest=manifest)
    check_seeds(other, range(870_000, 870_010))
    with pytest.raises(UsageError, match="860000 to 869999"):
        check_seeds(other, range(869_990, 870_010))


# ---------------------------------------------------------------- sealing


def test_sealing_keeps_everything_else_and_binds_the_claims(tmp_path: Path, claims: dict[str, Any]) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    (bundle.folder / "certificate.json").write_text(
        json.dumps({"edge_px": {"crack": {"bias": 0.1, "std": 0.2}}, "x": 1})
    )
    manifest = {key: value for key, value in bundle.manifest.items() if key != "files"}
    from edge_daemon.segment.bundle import seal

    seal(bundle.folder, manifest)
    sha256 = seal_claims(bundle.folder, claims)
    sealed = load(bundle.folder)
    assert sealed.sha256 == sha256 != bundle.sha256
    assert sealed.model_sha256 == claims["bundle"]["model_sha256"]
    assert sealed.edge_px("crack") == (0.1, 0.2) and sealed.certificate["x"] == 1
    assert dict(sealed.manifest) | {"files": 0} == dict(bundle.manifest) | {"files": 0}
    found = read_claims(sealed)
    assert found is not None and found.sentence == claims["sentence"]
    assert [one.missed for one in found.points] == [one["missed"] for one in claims["operating_points"]]


def test_claims_of_another_model_or_thresholds_are_not_sealed_nor_read(tmp_path: Path, claims: dict[str, Any]) -> None:
    from edge_daemon.testing.engine_contract import tiny_model, tiny_thresholds

    for name, options in (
        ("model", {"model": tiny_model(level=0.6)}),
        ("thresholds", {"thresholds": tiny_thresholds(seed=0.7)}),
    ):
        bundle = tiny_bundle(tmp_path / name, **options)
        before = (bundle.folder / "certificate.json").read_bytes()
        with pytest.raises(IntegrityError, match="not the bundle that was certified"):
            seal_claims(bundle.folder, claims)
        assert (bundle.folder / "certificate.json").read_bytes() == before
        forged = replace(bundle, certificate={"claims": claims})
        with pytest.raises(ConfigError, match=f"another model|other {name}"):
            read_claims(forged)


# ---------------------------------------------------------------- the page


class TestPage:
    def test_html_needs_nothing_else_and_says_everything(self, claims: dict[str, Any]) -> None:
        page = certificate_html(claims)
        assert not re.search(r"(?:src|href)\s*=|https?:|@import|url\(|<script", page)
        text = re.sub(r"<[^>]+>", " ", page)
        for words in (
            claims["sentence"], "Level III", "Signature", "Not covered", claims["bundle"]["model_sha256"],
            claims["calibration_set"]["sha256"], claims["machine"], claims["certified_utc"], "a90/95",
            *claims["not_covered"], *claims["too_small"],
        ):  # fmt: skip
            assert words in text, words
        assert "<svg" in page and "<polyline" in page
        assert "100 %" not in text and "100.00 %" not in text and "guarantee" not in text.lower()

    def test_names_from_outside_cannot_write_the_page(self, claims: dict[str, Any]) -> None:
        evil = {**claims, "calibration_set": {**claims["calibration_set"], "name": "<script>alert(1)</script>"}}
        assert "<script" not in certificate_html(evil)

    def test_pdf_has_the_same_words_and_the_same_bytes_twice(self, claims: dict[str, Any]) -> None:
        pytest.importorskip("reportlab")
        pdf = certificate_pdf(claims)
        assert pdf.startswith(b"%PDF") and pdf == certificate_pdf(claims)
        assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") == 2

    def test_without_reportlab_the_extra_is_named(
        self, claims: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from edge_daemon.references import drawing

        monkeypatch.setattr(drawing, "_reportlab", lambda part="": None)
        with pytest.raises(MissingExtra, match=r"edge-daemon\[station\]"):
            certificate_pdf(claims)


# ---------------------------------------------------------------- the command


def write_folder(folder: Path, parts: list[Labelled]) -> None:
    folder.mkdir()
    (folder / "labels.json").write_text(json.dumps({"types": list(TINY_TYPES)}))
    for one in parts:
        cv2.imwrite(str(folder / f"{one.name}.png"), one.pixels)
        cv2.imwrite(str(folder / f"{one.name}-mask.png"), one.labels)


def test_the_command_writes_the_page_seals_and_answers_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    write_folder(tmp_path / "parts", line(40, 30))
    asked = ["engine", "certify", str(bundle.folder), "--on", str(tmp_path / "parts"), "--mm-per-px", "0.1", "--out",
             str(tmp_path / "out"), "--json", "--threads", "1"]  # fmt: skip
    assert cli.main([*asked, "--recall", "0.5"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["promised"] and document["sealed_sha256"] is None
    assert load(bundle.folder).sha256 == bundle.sha256
    assert cli.main([*asked, "--recall", "0.995", "--seal"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert load(bundle.folder).sha256 == document["sealed_sha256"]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"certificate.json", "certificate.html"}
    assert document["sentence"] in (tmp_path / "out" / "certificate.html").read_text(encoding="utf-8")


def test_the_command_refuses_what_may_have_been_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["engine", "certify", str(bundle.folder), "--simulated", "2", "--first-seed", "5", *out]) == 2
    assert "may have been trained or tuned on" in capsys.readouterr().err
    assert cli.main(["engine", "certify", str(bundle.folder), "--simulated", "0", *out]) == 2
    assert not (tmp_path / "out").exists()
    assert cli.main(["train", "simulate", "--out", str(tmp_path / "sim"), "--count", "1", "--seed", "7"]) == 0
    capsys.readouterr()
    assert cli.main(["engine", "certify", str(bundle.folder), "--on", str(tmp_path / "sim"), *out]) == 2
    assert "seed 7 may have been trained or tuned on" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["engine", "certify", str(bundle.folder), *out])


def test_pictures_with_boxes_alone_are_left_out_only_when_that_is_asked_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    folder = tmp_path / "mixed"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows, boxes = ["image,class,group,split"], ["image,class,xmin,ymin,xmax,ymax"]
    for one in line(12, 0):
        cv2.imwrite(str(folder / "images" / f"{one.name}.png"), one.pixels)
        cv2.imwrite(str(folder / "masks" / f"{one.name}.png"), np.where(one.labels > 0, 255, 0))
        rows.append(f"{one.name},crack,,test")
    other = line(13, 0)[-1]
    cv2.imwrite(str(folder / "images" / "boxed.png"), other.pixels)
    rows.append("boxed,crack,,test")
    boxes.append("boxed,crack,4,4,12,12")
    (folder / "images.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n", encoding="utf-8")
    asked = ["engine", "certify", str(bundle.folder), "--on", str(folder), "--split", "test", "--mm-per-px", "0.1",
             "--recall", "0.5", "--out", str(tmp_path / "out"), "--json", "--threads", "1"]  # fmt: skip
    assert cli.main(asked) == 2
    assert "boxes and no mask" in capsys.readouterr().err
    assert cli.main([*asked, "--masked-only"]) in (0, 1)
    said = capsys.readouterr()
    assert "1 pictures with boxes alone are left out" in said.err
    claims = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert "split test, pictures with masks alone" in json.dumps(claims)
