"""Recipes that lean on a standard's table, and parts with zones: from the file to the verdict."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from edge_daemon.errors import ConfigError
from edge_daemon.evidence import evidence
from edge_daemon.inspection import Station, document_of, prepare_station
from edge_daemon.judge import CombineRule, RuleKind, Scale
from edge_daemon.recipe import StandardUse, load_recipe, recipe_of_standard
from edge_daemon.records import Outcome
from edge_daemon.references import measure_limits
from edge_daemon.resources import data_folder, engine_folder
from edge_daemon.segment.bundle import load
from edge_daemon.segment.protocol import Engine
from edge_daemon.segment.registry import open_engine
from edge_daemon.simulator import conveyor_part
from edge_daemon.standards import find_standard, load_standard

DEMO = files("edge_daemon.demo").joinpath("recipe.toml").read_text()
BY_TABLE = """
name = "by-table"
engine = "castings-xray"
metal = "aluminum"
thickness = "1/4 in"
mm_per_px = "0.1 mm"
u_mm_per_px = "0.0005 mm"

[standard]
name = "house-demo"
grade = "C"
process = "casting"
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine(load(engine_folder("castings-xray")), "onnxruntime")


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_table_gives_every_type_its_row_and_its_reference(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, BY_TABLE))
    rules = {rule.type: rule for rule in recipe.rules}
    pores = rules["gas_porosity_round"]
    assert (pores.kind, pores.level, pores.row_id) == (
        RuleKind.LEVEL, 5, "house-demo:al-gas_porosity_round-c-6.35mm",
    )  # fmt: skip
    assert pores.advisory
    assert recipe.references["gas_porosity_round"].metal == "aluminum"
    assert rules["crack"].kind is RuleKind.NONE_PERMITTED
    assert rules["cold_shut"].kind is RuleKind.NONE_PERMITTED
    assert recipe.table_sha256 not in (recipe.sha256, recipe.standard and recipe.standard.sha256)


def test_a_row_whose_reference_set_is_not_here_cannot_pass_what_is_found(tmp_path: Path) -> None:
    """Titanium's sets are not shipped: its rows stay, without a reference to compare with."""
    recipe = load_recipe(written(tmp_path, BY_TABLE.replace('"aluminum"', '"titanium"')))
    graded = [rule for rule in recipe.rules if rule.type == "gas_hole"]
    assert [rule.kind for rule in graded] == [RuleKind.NO_REFERENCE]
    assert "gas_hole" not in recipe.references


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"house-demo"', '"no-such"', r"recipe\.toml:10: \[standard\] name"),
        ('thickness = "1/4 in"', "", "thickness: is needed to look up"),
        ('metal = "aluminum"', "", "metal: is needed to look up"),
        ('grade = "C"', 'grede = "C"', "grede: is not a known key"),
        ('process = "casting"', 'process = "casting"\n[[rule]]\ntype = "crack"\nkind = "UNLIMITED"',
         "crack has a row in house-demo already"),
        ('thickness = "1/4 in"', 'thickness = "1/4 in"\nothers = "UNLIMITED"', "others: does not go with .standard."),
        ('process = "casting"', 'process = "casting"\nform = "film"', "asks for film sets"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_table_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_recipe(written(tmp_path, BY_TABLE.replace(old, new)))


def test_outside_the_table_nothing_can_pass(tmp_path: Path, engine: Engine) -> None:
    """80 mm lies in no thickness range, and unverified rows count as missing where that is asked."""
    thick = BY_TABLE.replace('"1/4 in"', '"80 mm"')
    strict = BY_TABLE + "require_verified = true\n"
    sound = np.zeros((64, 64), np.uint8)
    for text, word in ((thick, "THICKNESS|Never the nearest|80 mm"), (strict, "verified")):
        station = prepare_station(engine, load_recipe(written(tmp_path, text)))
        verdict = station.inspect_labels(sound).verdict
        assert verdict.outcome is Outcome.NOT_EVALUABLE
        assert any(part in reason.text for reason in verdict.reasons for part in word.split("|"))


def test_the_command_line_s_table_is_the_recipe_s(tmp_path: Path, engine: Engine) -> None:
    use = StandardUse(load_standard(find_standard("house-demo")), "C", process="casting")
    scale = Scale(0.1, 0.1, 0.0005)
    asked = recipe_of_standard(
        use, metal="aluminum", thickness_mm=6.35, engine="castings-xray", engine_types=engine.bundle.types,
        scale=scale, base=tmp_path,
    )  # fmt: skip
    written_down = load_recipe(written(tmp_path, BY_TABLE))
    assert asked.rules == tuple(rule for rule in written_down.rules if rule.type in engine.bundle.types)
    pixels = conveyor_part(970_010, "rejectable").pixels
    one, two = (prepare_station(engine, recipe).inspect(pixels).verdict for recipe in (asked, written_down))
    assert one == two
    assert one.outcome is Outcome.FAIL
    assert one.advisory


def test_a_type_no_engine_looks_for_must_be_named(tmp_path: Path, engine: Engine) -> None:
    text = DEMO + '\n[[rule]]\ntype = "scratches"\nkind = "NONE_PERMITTED"\n'
    with pytest.raises(ConfigError, match="scratches"):
        prepare_station(engine, load_recipe(written(tmp_path, text)))
    named = 'not_inspected = ["scratches"]\n'
    with pytest.raises(ConfigError, match="has a rule and stands in not_inspected"):
        load_recipe(written(tmp_path, named + text))
    with pytest.raises(ConfigError, match="crack stands in not_inspected, but castings-xray looks for it"):
        prepare_station(engine, load_recipe(written(tmp_path, 'not_inspected = ["crack"]\n' + DEMO)))
    station = prepare_station(engine, load_recipe(written(tmp_path, named + DEMO)))
    inspection = station.inspect_labels(np.zeros((64, 64), np.uint8))
    document = document_of(station, inspection, record_id="r", image=None, image_sha256=None)
    assert document["not_inspected"] == ["scratches"]


# ---------------------------------------------------------------- zones

ZONES = (
    DEMO.split("[[rule]]")[0]
    + """
[uncertainty]
edge = "0 mm"

[[zone]]
name = "seal"
polygon = [["0 mm", "0 mm"], ["10 mm", "0 mm"], ["10 mm", "51.2 mm"], ["0 mm", "51.2 mm"]]

[[rule]]
type = "gas_porosity_round"
kind = "SIZE_MM"
limit = "2 mm"

[[rule]]
zone = "seal"
type = "gas_porosity_round"
kind = "SIZE_MM"
limit = "0.5 mm"
"""
)


@pytest.fixture
def zoned(tmp_path: Path, engine: Engine) -> Station:
    return prepare_station(engine, load_recipe(written(tmp_path, ZONES)))


def bar(first: int, last: int, label: int = 2) -> np.ndarray:
    labels = np.zeros((512, 512), np.uint8)
    labels[200, first : last + 1] = label
    return labels


@pytest.mark.parametrize(
    ("first", "last", "outcome", "zone"),
    [
        (10, 12, Outcome.PASS, ""),  # 0.3 mm in the seal
        (10, 19, Outcome.FAIL, "seal"),  # 1 mm in the seal
        (200, 209, Outcome.PASS, ""),  # 1 mm elsewhere
        (200, 229, Outcome.FAIL, ""),  # 3 mm elsewhere
        (98, 107, Outcome.FAIL, "seal"),  # 1 mm that only touches the seal: whole, never cut
    ],
)
def test_each_zone_has_its_own_limit(zoned: Station, first: int, last: int, outcome: Outcome, zone: str) -> None:
    verdict = zoned.inspect_labels(bar(first, last)).verdict
    assert verdict.outcome is outcome
    failed = {one.zone for one in verdict.types if one.outcome is Outcome.FAIL}
    assert (zone in failed) == (outcome is Outcome.FAIL)


def test_what_no_rule_of_a_zone_names_is_judged_by_the_others_rule_there_too(zoned: Station) -> None:
    crack = zoned.engine.bundle.types.index("crack") + 1
    for first in (10, 300):
        verdict = zoned.inspect_labels(bar(first, first + 9, crack)).verdict
        assert verdict.outcome is Outcome.FAIL
        assert verdict.reasons[0].code == "NONE_PERMITTED"


def test_a_zone_that_is_not_wholly_in_the_picture_was_not_inspected(zoned: Station) -> None:
    verdict = zoned.inspect_labels(np.zeros((300, 300), np.uint8)).verdict
    assert verdict.outcome is Outcome.NOT_EVALUABLE
    assert verdict.reasons[0].code == "ZONE_OUTSIDE"


def test_the_document_names_the_zone(zoned: Station) -> None:
    inspection = zoned.inspect_labels(bar(10, 19))
    document = document_of(zoned, inspection, record_id="r", image=None, image_sha256=None)
    pores = [one for one in document["types"] if one["type"] == "gas_porosity_round"]
    assert {(one["type"], one["zone"], one["outcome"]) for one in pores} == {
        ("gas_porosity_round", "seal", "FAIL"), ("gas_porosity_round", None, "PASS"),
    }  # fmt: skip
    assert [defect["feret_max_mm"] for defect in document["defects"]] == [pytest.approx(np.hypot(1.0, 0.1))]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('["10 mm", "51.2 mm"], ["0 mm", "51.2 mm"]]', '["10 mm"]]', "polygon: must be a list of at least 3 points"),
        ('zone = "seal"', 'zone = "sael"', "zone: 'sael' is not known"),
        ('["10 mm", "0 mm"]', '[10, "0 mm"]', "polygon: length 10 has no unit"),
    ],
)
def test_a_wrong_zone_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_recipe(written(tmp_path, ZONES.replace(old, new)))


def test_uncertainty_and_combination_come_from_the_recipe(tmp_path: Path, engine: Engine) -> None:
    text = 'combine = "CO_MAX_FAILS"\n' + DEMO.split("[[rule]]")[0] + '[uncertainty]\nedge = "0.02 mm"\n'
    station = prepare_station(engine, load_recipe(written(tmp_path, text)))
    assert station.combine is CombineRule.CO_MAX_FAILS
    assert station.uncertainty.edge_mm == 0.02
    measured = station.inspect_labels(bar(10, 19)).measurement
    assert measured is not None
    assert dict(measured.types["gas_porosity_round"].max_size_mm.budget)["edge"] == pytest.approx(0.02 * 2**0.5)


# ---------------------------------------------------------------- evidence


def test_the_pictures_show_what_was_judged(tmp_path: Path, engine: Engine) -> None:
    station = prepare_station(engine, load_recipe(written(tmp_path, BY_TABLE)))
    pixels = conveyor_part(970_011, "rejectable").pixels
    inspection = station.inspect(pixels)
    pictures = evidence(station, inspection, pixels)
    assert set(pictures) == {"tiles.png", "comparison.png", "curve.png"}
    for picture in pictures.values():
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
    yellow = (pictures["comparison.png"] == (255, 255, 0)).all(axis=2)
    left, right = yellow[:, : yellow.shape[1] // 2], yellow[:, yellow.shape[1] // 2 :]
    assert left.sum() > right.sum() > 0, "the part shows more porosity than its reference"
    sound = conveyor_part(970_012, "sound").pixels
    assert set(evidence(station, station.inspect(sound), sound)) == {"tiles.png"}


# ---------------------------------------------------------------- reference sets of another kind


def film_copy(folder: Path) -> Path:
    source = data_folder("references") / "demo" / "aluminum" / "6.35mm" / "gas_porosity_round"
    copy = Path(shutil.copytree(source, folder / "film"))
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "form": "film"}))
    return copy


def test_a_film_set_never_judges_a_digital_picture(tmp_path: Path) -> None:
    text = DEMO.replace('"demo/aluminum/6.35mm/gas_porosity_round"', f'"{film_copy(tmp_path)}"')
    with pytest.raises(ConfigError, match="is a film set, the pictures are digital"):
        load_recipe(written(tmp_path, text))
    assert load_recipe(written(tmp_path, 'form = "film"\n' + text)).references


def test_the_exact_masks_may_stand_in_for_the_engine(tmp_path: Path, engine: Engine) -> None:
    by_masks = DEMO.replace("level = 5", 'level = 5\nreference_from = "masks"')
    looked, exact = (
        prepare_station(engine, load_recipe(written(tmp_path, text))).limits["gas_porosity_round"]
        for text in (DEMO, by_masks)
    )
    reference = load_recipe(written(tmp_path, DEMO)).references["gas_porosity_round"]
    direct = measure_limits(None, reference, windows_mm=(12.7, 25.4)).limits()[5]
    assert exact.area_pct == direct.area_pct
    assert exact != looked


# ---------------------------------------------------------------- what must not loosen anything


def test_a_zone_has_the_parts_own_rules_unless_it_has_its_own(tmp_path: Path, engine: Engine) -> None:
    text = ZONES.replace("others =", "#").replace(
        "[[zone]]", '[[rule]]\ntype = "crack"\nkind = "NONE_PERMITTED"\n\n[[zone]]', 1
    )
    text = 'others = "UNLIMITED"\n' + text
    station = prepare_station(engine, load_recipe(written(tmp_path, text)))
    crack = engine.bundle.types.index("crack") + 1
    for first in (10, 300):
        assert station.inspect_labels(bar(first, first + 9, crack)).verdict.outcome is Outcome.FAIL
    assert station.inspect_labels(bar(10, 19)).verdict.outcome is Outcome.FAIL, "0.5 mm, the zone's own"
    assert station.inspect_labels(bar(300, 309)).verdict.outcome is Outcome.PASS


def test_a_pore_across_a_zones_border_is_no_window_full_of_defect(tmp_path: Path, engine: Engine) -> None:
    """Windows that hold hardly anything of the zone say nothing about it."""
    text = ZONES.split("[[rule]]")[0] + (
        '[[rule]]\ntype = "gas_porosity_round"\nkind = "AREA_PCT"\nlimit = 1.0\nwindows = ["5 mm"]\nguard = 0.0\n'
    )
    station = prepare_station(engine, load_recipe(written(tmp_path, text)))
    verdict = station.inspect_labels(bar(98, 101)).verdict
    assert verdict.outcome is Outcome.PASS
    for one in verdict.types:
        assert all(window.area_pct.value < 0.5 for window in one.measurement.windows)


def test_a_plate_is_for_its_own_thickness_or_the_range_that_is_stated(tmp_path: Path) -> None:
    thick = DEMO.replace('thickness = "6.35 mm"', 'thickness = "19.05 mm"')
    assert thick != DEMO
    with pytest.raises(ConfigError, match=r"is a plate of 6\.35 mm, the part has 19\.05 mm"):
        load_recipe(written(tmp_path, thick))
    stated = thick.replace("level = 5", 'level = 5\nfor_thickness = ["0 mm", "12.7 mm"]')
    with pytest.raises(ConfigError, match=r"does not hold the part's 19\.05 mm"):
        load_recipe(written(tmp_path, stated))
    assert load_recipe(written(tmp_path, stated.replace('"19.05 mm"', '"12.7 mm"'))).references


def test_a_stated_repeatability_leaves_the_certified_edges(tmp_path: Path, engine: Engine) -> None:
    text = DEMO.split("[[rule]]")[0] + '[uncertainty]\nrepeat_length = "0.01 mm"\n'
    station = prepare_station(engine, load_recipe(written(tmp_path, text)))
    assert station.uncertainty.repeat_length_mm == 0.01
    certified = engine.bundle.edge_px("gas_porosity_round")
    assert certified is not None
    assert station.uncertainty.for_type("gas_porosity_round").edge_mm == pytest.approx(0.1 * certified[1])


def test_limits_from_masks_do_not_cancel_the_engines_bias(tmp_path: Path, engine: Engine) -> None:
    by_masks = DEMO.replace("level = 5", 'level = 5\nreference_from = "masks"')
    station = prepare_station(engine, load_recipe(written(tmp_path, by_masks)))
    bias, spread = engine.bundle.edge_px("gas_porosity_round") or (0.0, 0.0)
    assert station.uncertainty.for_type("gas_porosity_round").edge_mm == pytest.approx(0.1 * np.hypot(bias, spread))


def test_the_opposite_polarity_is_turned_round(tmp_path: Path, engine: Engine) -> None:
    """A negative under a recipe that says so is judged as its positive; the plates keep their own polarity."""
    pixels = conveyor_part(970_013, "rejectable").pixels
    plain = prepare_station(engine, load_recipe(written(tmp_path, DEMO)))
    station = prepare_station(engine, load_recipe(written(tmp_path, 'polarity = "dark_void"\n' + DEMO)))
    positive, negative = plain.inspect(pixels), station.inspect(255 - pixels)
    assert np.array_equal(negative.labels, positive.labels)
    assert negative.verdict.outcome is positive.verdict.outcome is Outcome.FAIL
    assert negative.verdict.types[0].comparisons == positive.verdict.types[0].comparisons


def test_what_looks_alike_is_judged_by_the_rule_for_the_others_too(tmp_path: Path, engine: Engine) -> None:
    """A gas hole that its own rule allows may be a cavity, of which the recipe permits none."""
    assert "shrinkage_cavity" in engine.bundle.alike("gas_hole")
    head = ZONES.split("[[zone]]")[0].split("[[rule]]")[0]
    hole = '[[rule]]\ntype = "gas_hole"\nkind = "SIZE_MM"\nlimit = "2 mm"\n'
    cavity = hole.replace("gas_hole", "shrinkage_cavity") + hole.replace("gas_hole", "foreign_less_dense")
    outcomes = []
    for text in (head + hole, head + hole + cavity):
        station = prepare_station(engine, load_recipe(written(tmp_path, text)))
        outcomes.append(station.inspect_labels(bar(200, 205, 1)).verdict.outcome)
    assert outcomes == [Outcome.FAIL, Outcome.PASS]


@pytest.mark.parametrize(
    "corners",
    [
        '[["0 mm", "0 mm"], ["10 mm", "10 mm"], ["10 mm", "0 mm"], ["0 mm", "10 mm"]]',
        '[["0 mm", "0 mm"], ["10 mm", "0 mm"], ["20 mm", "0 mm"]]',
    ],
)
def test_a_polygon_that_crosses_itself_or_has_no_area_is_refused(tmp_path: Path, corners: str) -> None:
    head, tail = ZONES.split("polygon = ")
    text = head + "polygon = " + corners + "\n" + tail.split("\n", 1)[1]
    with pytest.raises(ConfigError, match="polygon: crosses itself or has no area"):
        load_recipe(written(tmp_path, text))


def test_a_record_names_every_word_of_the_table_that_nobody_looked_for(tmp_path: Path, engine: Engine) -> None:
    """The table forbids hot tears; no engine of ours sees them, so a PASS does not speak of them."""
    station = prepare_station(engine, load_recipe(written(tmp_path, BY_TABLE)))
    assert "hot_tear" in station.not_inspected
    assert not set(station.not_inspected) & set(engine.bundle.types)
