"""What is shipped: every table loads, and no remembered number is among them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edge_daemon.errors import ConfigError
from edge_daemon.judge import RuleKind
from edge_daemon.records import TYPE_IDS
from edge_daemon.resources import data_folder
from edge_daemon.standards import (
    CombineRule,
    RowKind,
    Standard,
    find_standard,
    list_standards,
    load_standard,
    missing_references,
)

SHIPPED = data_folder("standards")
NAMES = sorted(path.parent.name for path in SHIPPED.glob("*/standard.toml"))
HOUSE = load_standard(SHIPPED / "house-demo")
TEMPLATES = ("astm-b26", "astm-b108", "ams2175a", "mil-std-2175a")
LIMITS = {RowKind.LEVEL, RowKind.SIZE_MM, RowKind.AREA_PCT, RowKind.UNLIMITED}
NEVER = ("crack", "hot_tear", "cold_shut")


def every_row() -> list[tuple[Standard, str]]:
    return [(load_standard(SHIPPED / name), name) for name in NAMES]


def test_every_shipped_standard_loads_without_a_warning() -> None:
    assert {"house-demo", "asme-b16-34", "astm-a802", "en-10277", "astm-e802", *TEMPLATES} <= set(NAMES)
    for standard, name in every_row():
        assert (standard.id, standard.warnings) == (name, ())
        assert f"`{name}`" in (SHIPPED / "README.md").read_text(encoding="utf-8"), f"{name} is not in README.md"
    assert [one.folder.name for one in list_standards(Path("/nonexistent"))] == NAMES


def test_the_hash_covers_both_files() -> None:
    folder = SHIPPED / "house-demo"
    lines = "".join(
        f"{name}:{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n"
        for name in ("standard.toml", "rules.csv")
    )
    assert HOUSE.sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_no_number_of_a_real_standard_stands_on_memory() -> None:
    """Facts: only Table I-1 of B16.34 gives levels (2, 3, 2), each read in one source; the rest is NOT_ENTERED."""
    levels = set()
    for standard, name in every_row():
        for row in standard.rows if name != "house-demo" else ():
            assert row.confidence != "low"
            if row.kind in LIMITS:
                assert row.confidence in ("high", "medium"), row.row
                assert name == "asme-b16-34", f"{name} {row.row}"
                levels.add((row.discontinuity, row.level))
            if row.kind is RowKind.NONE_PERMITTED and row.confidence == "house":
                assert row.discontinuity in NEVER
                assert "rule of this table, not a quotation" in row.source
            assert row.verified_by == ""
    assert levels == {("gas_porosity", 2), ("sand_slag_inclusion", 3), ("shrinkage_linear", 2)}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_have_every_key_and_no_limit(name: str) -> None:
    standard = load_standard(SHIPPED / name)
    kinds = {row.kind for row in standard.rows}
    assert kinds == {RowKind.NOT_ENTERED, RowKind.NONE_PERMITTED}
    for row in standard.rows:
        assert (row.kind is RowKind.NONE_PERMITTED) == (row.discontinuity in NEVER)
        assert row.level is None
        assert row.limit_at(5.0) is None
    metals = {row.metal for row in standard.rows}
    assert metals == ({"aluminum"} if name.startswith("astm") else {"aluminum", "magnesium", "steel", "titanium"})
    for grade in "ABCD":
        at = {
            (row.discontinuity, row.plate)
            for row in standard.rows
            if row.metal == "aluminum" and row.grade == grade and row.set == "E155"
        }
        assert len(at) == 14, "seven types, two plates"


@pytest.mark.parametrize("metal", ["aluminum", "magnesium", "steel", "titanium"])
def test_the_house_standard_is_complete(metal: str) -> None:
    castings = TYPE_IDS[:11]
    plates = HOUSE.plate_set(f"demo-{metal}")
    assert plates is not None
    assert len(plates.plates) in (2, 3)
    for grade in "ABCD":
        for discontinuity in castings:
            for plate in plates.plates:
                answer = HOUSE.lookup(
                    metal=metal, thickness_mm=plate.thickness.up_to_mm, grade=grade, discontinuity=discontinuity,
                    process="casting",
                )  # fmt: skip
                rule = answer.rule(discontinuity)
                assert rule.kind in (RuleKind.LEVEL, RuleKind.NONE_PERMITTED)
                if discontinuity in ("crack", "cold_shut"):
                    assert rule.kind is RuleKind.NONE_PERMITTED
                if rule.kind is RuleKind.LEVEL:
                    assert rule.windows_mm == (12.7, 25.4)
                    assert answer.row.plate == plate.name
                    assert answer.row.reference.startswith(f"demo/{metal}/")
                    assert answer.row.reference.endswith(f"mm/{discontinuity}")


def test_the_house_standard_covers_every_surface_type() -> None:
    for grade in "ABCD":
        for discontinuity in (*TYPE_IDS[11:], "crack"):
            rule = HOUSE.lookup(
                metal="steel", thickness_mm=3.0, grade=grade, discontinuity=discontinuity, process="surface"
            ).rule(discontinuity)
            assert rule.kind in (RuleKind.NONE_PERMITTED, RuleKind.SIZE_MM, RuleKind.AREA_PCT)
    assert {row.discontinuity for row in HOUSE.rows} >= set(TYPE_IDS)


def test_the_house_standard_says_that_it_is_fiction() -> None:
    assert HOUSE.licence == "demo"
    assert "FICTIONAL" in HOUSE.title
    assert "fictional" in HOUSE.status
    assert all("fictional" in row.source for row in HOUSE.rows)


def test_every_house_reference_folder_says_the_rows_plate() -> None:
    for row in HOUSE.rows:
        if row.reference:
            plates = HOUSE.plate_set(row.set)
            assert plates is not None
            assert row.reference.split("/")[1:] == [
                row.metal, f"{_plate_mm(row.plate)}mm", row.discontinuity
            ]  # fmt: skip


def _plate_mm(plate: str) -> str:
    top, _, bottom = plate.removesuffix("in").partition("/")
    return f"{25.4 * int(top) / int(bottom or 1):g}"


def test_missing_references_are_named_only_when_asked(tmp_path: Path) -> None:
    missing = missing_references(HOUSE)
    assert "demo/aluminum/6.35mm/gas_porosity_round" not in missing
    folder = tmp_path / "site"
    folder.mkdir()
    toml = (SHIPPED / "house-demo" / "standard.toml").read_text(encoding="utf-8")
    (folder / "standard.toml").write_text(toml.replace('id = "house-demo"', 'id = "site"'), encoding="utf-8")
    rows = (SHIPPED / "house-demo" / "rules.csv").read_text(encoding="utf-8")
    (folder / "rules.csv").write_text(
        rows.replace("demo/titanium/6.35mm/gas_hole", "nowhere/gas_hole"), encoding="utf-8"
    )
    assert "nowhere/gas_hole" in missing_references(load_standard(folder))
    with pytest.raises(ConfigError, match=r"rules\.csv:\d+: reference: .* does not exist"):
        load_standard(folder, check_references=True)


def test_one_missing_plate_of_a_set_is_named(tmp_path: Path) -> None:
    reference = tmp_path / "mine" / "gas"
    reference.mkdir(parents=True)
    (reference / "manifest.json").write_text('{"files": {"3.tif": "0", "5": {"path": "elsewhere.dcm"}}}')
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "standard.toml").write_text(
        'schema = 1\nid = "site"\ntitle = "t"\npublisher = "p"\nedition = "1"\nstatus = "s"\nlicence = "house"\n'
        'combine_rule = "ANY_FAILS"\n'
    )
    row = "{0},steel,gas_hole,{1},{2},LEVEL,{3},3,s,12.7mm,mine/gas\n"
    head = "row,metal,discontinuity,t_min,t_max,kind,level,verbatim,source,windows,reference\n"
    (folder / "rules.csv").write_text(head + row.format("a", "0mm", "5mm", 3) + row.format("b", "5mm", "6mm", 4))
    assert missing_references(load_standard(folder), tmp_path) == ("mine/gas/4.png",)
    with pytest.raises(ConfigError, match=r"rules\.csv:3: reference: mine/gas/4\.png does not exist"):
        load_standard(folder, check_references=True, references_base=tmp_path)


def test_two_types_at_their_maximum_is_a_rule_of_e802_alone() -> None:
    assert {name for one, name in every_row() if one.combine_rule is CombineRule.CO_MAX_FAILS} == {"astm-e802"}


@pytest.mark.parametrize(
    ("name", "plate", "inside_mm", "outside_mm"),
    [
        ("E155", "1/4in", (0.1, 12.7), (0.0, 12.71)),
        ("E155", "3/4in", (12.71, 50.8), (12.7, 50.81)),
        ("E2869", "3/4in", (12.71, 50.8), (12.7, 50.81)),
        ("E1320", "1/4in", (1.0, 9.525), (9.526,)),
        ("E1320", "1/2in", (9.526, 15.875), (9.525, 15.876)),
        ("E1320", "3/4in", (15.876, 25.4), (15.875, 25.41)),
        ("E446-I", "volume I", (0.1, 50.8), (50.81,)),
        ("E186", "2 to 4.5in", (50.81, 114.3), (50.8, 114.31)),
        ("E280", "4.5 to 12in", (114.31, 304.8), (114.3, 304.81)),
    ],
)
def test_plates_and_their_ranges(
    name: str, plate: str, inside_mm: tuple[float, ...], outside_mm: tuple[float, ...]
) -> None:
    plates = load_standard(SHIPPED / "astm-reference-sets").plate_set(name)
    assert plates is not None
    found = plates.plate(plate)
    assert found is not None
    assert all(found.thickness.holds(value) for value in inside_mm)
    assert not any(found.thickness.holds(value) for value in outside_mm)


def test_a_site_folder_is_found_before_the_shipped_ones(tmp_path: Path) -> None:
    assert find_standard("house-demo", tmp_path) == (SHIPPED / "house-demo").resolve()
    mine = tmp_path / "standards" / "mine"
    mine.mkdir(parents=True)
    for name in ("standard.toml", "rules.csv"):
        text = (SHIPPED / "en-10277" / name).read_text(encoding="utf-8")
        (mine / name).write_text(text.replace('id = "en-10277"', 'id = "mine"'), encoding="utf-8")
    assert find_standard("mine", tmp_path) == mine
    assert find_standard(str(mine)) == mine
    assert "mine" in [one.folder.name for one in list_standards(tmp_path)]
