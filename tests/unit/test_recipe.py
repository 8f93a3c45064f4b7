"""Recipes and reference sets: what is wrong is named, what is sealed stays sealed."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from edge_daemon.errors import ConfigError, EdgeError, IntegrityError
from edge_daemon.judge import RuleKind
from edge_daemon.recipe import load_recipe
from edge_daemon.references import load_reference_set
from edge_daemon.references.making import make_set, planned_set
from edge_daemon.resources import data_folder

DEMO_SET = data_folder("references") / "demo" / "aluminum" / "6.35mm" / "gas_porosity_round"


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(files("edge_daemon.demo").joinpath("recipe.toml").read_text())
    return path


@pytest.fixture
def plates(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_SET, tmp_path / "plates"))


def test_the_demo_recipe_binds_type_level_and_reference(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    (rule,) = recipe.rules
    assert (rule.type, rule.kind, rule.level, rule.windows_mm) == (
        "gas_porosity_round", RuleKind.LEVEL, 5, (12.7, 25.4),
    )  # fmt: skip
    assert rule.advisory
    assert sorted(recipe.references["gas_porosity_round"].images) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert recipe.scale.both == (0.1, 0.1)


def test_others_makes_a_rule_for_every_further_type_of_the_engine(recipe_path: Path) -> None:
    rules = load_recipe(recipe_path).rules_for(["gas_porosity_round", "crack", "cold_shut"])
    assert [(rule.type, rule.kind) for rule in rules] == [
        ("gas_porosity_round", RuleKind.LEVEL),
        ("crack", RuleKind.NONE_PERMITTED),
        ("cold_shut", RuleKind.NONE_PERMITTED),
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('mm_per_px = "0.1 mm"', "mm_per_px = 0.1", "mm_per_px: length 0.1 has no unit"),
        ('mm_per_px = "0.1 mm"', "", "mm_per_px: is missing"),
        ("level = 5", "level = 9", "level: must be a whole number from 1 to 8"),
        ("level = 5", "", "level: is missing"),
        ('kind = "LEVEL"', 'kind = "LEVELS"', "did you mean 'LEVEL'"),
        ('type = "gas_porosity_round"', 'type = "gas_porosity"', "did you mean"),
        ('type = "gas_porosity_round"', 'type = "crack"', "shows gas_porosity_round"),
        ('metal = "aluminum"', 'metal = "steel"', "is of aluminum"),
        ("tolerance = 0.2", "tolerence = 0.2", "did you mean 'tolerance'"),
        ("reference = ", "reference = 'nowhere' #", "was not found"),
    ],
)
def test_a_wrong_recipe_is_refused_with_file_and_line(recipe_path: Path, old: str, new: str, expected: str) -> None:
    text = recipe_path.read_text()
    assert old in text
    recipe_path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe_path)
    assert str(recipe_path) in str(caught.value)
    assert expected in str(caught.value)


def test_a_second_rule_for_a_type_is_refused(recipe_path: Path) -> None:
    text = recipe_path.read_text()
    recipe_path.write_text(text + text[text.index("[[rule]]") :])
    with pytest.raises(ConfigError, match="has a rule already"):
        load_recipe(recipe_path)


def test_one_changed_byte_of_a_plate_breaks_the_seal(plates: Path) -> None:
    data = bytearray((plates / "3.png").read_bytes())
    data[-20] ^= 1
    (plates / "3.png").write_bytes(bytes(data))
    with pytest.raises(EdgeError) as caught:
        load_reference_set(plates)
    assert "3.png" in str(caught.value)
    assert caught.value.exit_code in (2, 4)


def test_another_picture_under_a_plates_name_breaks_the_seal(plates: Path) -> None:
    shutil.copyfile(plates / "4.png", plates / "3.png")
    with pytest.raises(IntegrityError, match=r"3\.png is not the sealed picture"):
        load_reference_set(plates)


def test_a_missing_and_an_unnamed_plate_are_refused(plates: Path) -> None:
    (plates / "8.png").rename(plates / "9.png")
    with pytest.raises(IntegrityError, match=r"9\.png is not named"):
        load_reference_set(plates)
    (plates / "9.png").unlink()
    with pytest.raises(IntegrityError, match=r"8\.png is missing"):
        load_reference_set(plates)


def test_a_set_without_scale_is_refused(plates: Path) -> None:
    manifest = json.loads((plates / "manifest.json").read_text())
    del manifest["mm_per_px"]
    (plates / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="no scale, no verdict"):
        load_reference_set(plates)


def test_the_shipped_demo_set_is_what_the_simulator_makes(tmp_path: Path) -> None:
    make_set(tmp_path / "again", planned_set("aluminum", 6.35, "gas_porosity_round"))
    again, shipped = load_reference_set(tmp_path / "again"), load_reference_set(DEMO_SET)
    for level, image in shipped.images.items():
        assert (image.pixels == again.images[level].pixels).all(), f"plate {level}"
