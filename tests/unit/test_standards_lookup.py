"""Lookup against a naive scan of the CSV, written from the text of the format and not from the code."""

from __future__ import annotations

import csv
import json
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_daemon.errors import RuleError
from edge_daemon.judge import RuleKind
from edge_daemon.records import TYPE_IDS
from edge_daemon.resources import data_folder
from edge_daemon.standards import Refusal, Requirement, Standard, load_standard

SHIPPED = data_folder("standards")
HOUSE = load_standard(SHIPPED / "house-demo")
HOUSE_CELLS = list(csv.DictReader((SHIPPED / "house-demo" / "rules.csv").read_text(encoding="utf-8").splitlines()))


def millimetres(text: str) -> Fraction | float:
    if text == "unlimited":
        return math.inf
    if text.endswith("mm"):
        return Fraction(text[:-2])
    assert text.endswith("in")
    return Fraction(text[:-2]) * Fraction("25.4")


def table(folder: Path, rows: str, *, toml: str = "") -> Standard:
    folder.mkdir(parents=True, exist_ok=True)
    heading = f'schema = 1\nid = "{folder.name}"\ntitle = "t"\npublisher = "p"\nedition = "1"\nstatus = "s"\n'
    heading += 'licence = "house"\ncombine_rule = "ANY_FAILS"\n'
    (folder / "standard.toml").write_text(heading + (toml or 'grades = "A, B"\n'), encoding="utf-8")
    (folder / "rules.csv").write_text(rows, encoding="utf-8")
    return load_standard(folder)


HEAD = "row,metal,process,grade,discontinuity,zone,set,t_min,t_max,kind,limit,verbatim,source,remark,formula\n"


@pytest.mark.parametrize(
    ("thickness_mm", "level", "plate"),
    [(0.001, 5, "1/4in"), (6.35, 5, "1/4in"), (12.7, 5, "1/4in"), (12.71, 4, "3/4in"), (50.8, 4, "3/4in")],
)
def test_the_plate_changes_just_above_half_an_inch(thickness_mm: float, level: int, plate: str) -> None:
    answer = HOUSE.lookup(metal="aluminum", thickness_mm=thickness_mm, grade="C", discontinuity="gas_porosity_round")
    assert isinstance(answer, Requirement)
    assert (answer.row.level, answer.row.plate) == (level, plate)
    assert answer.plate is not None
    assert answer.plate.thickness.holds(thickness_mm)
    assert answer.row.verbatim == str(level)


@pytest.mark.parametrize("thickness_mm", [0.0, -1.0, 50.81, 80.0, math.nan, math.inf])
def test_outside_the_table_there_is_no_nearest_plate(thickness_mm: float) -> None:
    answer = HOUSE.lookup(metal="aluminum", thickness_mm=thickness_mm, grade="C", discontinuity="gas_porosity_round")
    assert isinstance(answer, Refusal)
    assert answer.code == "THICKNESS_OUTSIDE"
    assert answer.choices["thickness"] == ("over 0mm up to 1/2in (12.7 mm)", "over 1/2in (12.7 mm) up to 2in (50.8 mm)")
    assert answer.rule("gas_porosity_round").kind is RuleKind.UNKNOWN


@given(
    metal=st.sampled_from(["aluminum", "magnesium", "steel", "titanium"]),
    grade=st.sampled_from("ABCD"),
    discontinuity=st.sampled_from([*TYPE_IDS, "hot_tear"]),
    process=st.sampled_from(["casting", "surface"]),
    thickness=st.one_of(
        st.fractions(0, 90, max_denominator=1000),
        st.sampled_from([Fraction(n, 8) * Fraction("25.4") for n in range(20)]),
        st.sampled_from([Fraction(n, 8) * Fraction("25.4") + Fraction(1, 10**6) for n in range(20)]),
    ),
)
def test_lookup_equals_a_naive_scan(
    metal: str, grade: str, discontinuity: str, process: str, thickness: Fraction
) -> None:
    expected = [
        cells
        for cells in HOUSE_CELLS
        if cells["metal"] == metal
        and cells["grade"] == grade
        and cells["discontinuity"] == discontinuity
        and cells["process"] in ("", process)
        and millimetres(cells["t_min"]) < thickness <= millimetres(cells["t_max"])
    ]
    assert len(expected) <= 1
    answer = HOUSE.lookup(
        metal=metal, thickness_mm=float(thickness), grade=grade, discontinuity=discontinuity, process=process
    )
    if not expected:
        assert isinstance(answer, Refusal)
        assert answer.code in ("NO_ROW", "THICKNESS_OUTSIDE")
        return
    assert isinstance(answer, Requirement)
    assert answer.row.row == expected[0]["row"]
    assert answer.row.verbatim == expected[0]["verbatim"]
    assert str(answer.row.kind) == expected[0]["kind"]
    assert answer.advisory, "a demonstration standard is always advisory"
    if discontinuity in TYPE_IDS:
        rule = answer.rule()
        assert (rule.type, rule.kind.value) == (discontinuity, expected[0]["kind"])
        assert rule.row_id == f"house-demo:{expected[0]['row']}"
        assert rule.edition == "DEMO 1 (fictional)"
        assert rule.advisory
        assert rule.level == (int(expected[0]["level"]) if expected[0]["level"] else None)
        limit = expected[0]["limit"]
        assert rule.limit == (float(limit.removesuffix("mm").removesuffix(" %")) if limit else None)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"metal": "lead"}, "UNKNOWN_METAL"),
        ({"metal": "cast_iron"}, "UNKNOWN_METAL"),
        ({"grade": "E"}, "UNKNOWN_GRADE"),
        ({"grade": "c"}, "UNKNOWN_GRADE"),
        ({"grade": None}, "KEY_NEEDED"),
        ({"discontinuity": "gas"}, "UNKNOWN_DISCONTINUITY"),
        ({"discontinuity": "unknown"}, "UNKNOWN_DISCONTINUITY"),
        ({"discontinuity": "crazing"}, "NO_ROW"),
        ({"process": "welding"}, "UNKNOWN_PROCESS"),
        ({"zone": "rim"}, "UNKNOWN_ZONE"),
        ({"form": "film"}, "UNKNOWN_SET"),
        ({"reference_set": "E155"}, "UNKNOWN_SET"),
        ({"require_verified": True}, "UNVERIFIED"),
    ],
)
def test_every_refusal_has_its_reason(change: dict[str, object], code: str) -> None:
    key: dict[str, object] = {
        "metal": "aluminum", "thickness_mm": 6.35, "grade": "C", "discontinuity": "gas_porosity_round"
    }  # fmt: skip
    answer = HOUSE.lookup(**{**key, **change})
    assert isinstance(answer, Refusal)
    assert answer.code == code
    assert answer.reason.code == code
    assert answer.text in answer.reason.text


def test_a_row_for_one_process_answers_only_who_names_it() -> None:
    silent = HOUSE.lookup(metal="steel", thickness_mm=6.0, grade="D", discontinuity="crack")
    assert isinstance(silent, Refusal)
    assert (silent.code, silent.choices) == ("KEY_NEEDED", {"process": ("casting", "surface")})
    thick = {"metal": "steel", "thickness_mm": 80.0, "grade": "D", "discontinuity": "crack"}
    assert isinstance(HOUSE.lookup(**thick, process="surface"), Requirement)
    casting = HOUSE.lookup(**thick, process="casting")
    assert isinstance(casting, Refusal)
    assert casting.code == "THICKNESS_OUTSIDE"
    rolled = HOUSE.lookup(**thick, process="hot_rolled")
    assert isinstance(rolled, Refusal)
    assert rolled.code == "NO_ROW"


def test_energy_and_form_are_asked_for_where_they_decide() -> None:
    valves = load_standard(SHIPPED / "asme-b16-34")
    key = {"metal": "steel", "thickness_mm": 25.0, "grade": None, "discontinuity": "gas_porosity"}
    answer = valves.lookup(**key)
    assert isinstance(answer, Refusal)
    assert answer.code == "KEY_NEEDED"
    assert answer.choices["energy"] == ("I", "II", "III")
    found = valves.lookup(**key, energy="II")
    assert isinstance(found, Requirement)
    assert (found.row.level, found.row.set, found.advisory) == (2, "E446-II", True)
    assert found.plate_set is not None
    assert found.plate_set.form == "film"
    digital = valves.lookup(**key, energy="II", form="digital")
    assert isinstance(digital, Refusal)
    assert digital.code == "UNKNOWN_SET"
    graded = valves.lookup(**{**key, "grade": "C"}, energy="II")
    assert isinstance(graded, Refusal)
    assert graded.code == "UNKNOWN_GRADE"

    aluminium = load_standard(SHIPPED / "astm-b26")
    either = aluminium.lookup(metal="aluminum", thickness_mm=6.0, grade="C", discontinuity="gas_hole")
    assert isinstance(either, Refusal)
    assert either.choices["form"] == ("film", "digital")


def test_a_word_of_the_tables_own_gives_no_rule_until_a_person_says_which_type_it_is() -> None:
    valves = load_standard(SHIPPED / "asme-b16-34")
    found = valves.lookup(
        metal="steel", thickness_mm=25.0, grade=None, discontinuity="gas_porosity", reference_set="E446-I"
    )
    assert isinstance(found, Requirement)
    with pytest.raises(RuleError, match="no engine names 'gas_porosity'"):
        found.rule()
    rule = found.rule("gas_porosity_round")
    assert (rule.type, rule.kind, rule.level, rule.advisory) == ("gas_porosity_round", RuleKind.LEVEL, 2, True)


def test_not_entered_is_refused_like_a_missing_row() -> None:
    answer = load_standard(SHIPPED / "astm-b26").lookup(
        metal="aluminum", thickness_mm=6.35, grade="C", discontinuity="gas_porosity_round", form="film"
    )
    assert isinstance(answer, Refusal)
    assert answer.code == "NOT_ENTERED"
    assert answer.row is not None
    assert "a licensed copy of ASTM B26" in answer.text
    assert answer.rule("gas_porosity_round").kind is RuleKind.UNKNOWN


def test_a_depth_is_answered_with_its_words_and_why_a_picture_cannot_judge_it() -> None:
    bars = load_standard(SHIPPED / "en-10277")
    key = {"metal": "steel", "grade": "2", "discontinuity": "surface_discontinuity", "process": "bright_bar"}
    answer = bars.lookup(**key, thickness_mm=20.0)
    assert isinstance(answer, Refusal)
    assert answer.code == "NOT_MEASURABLE"
    assert '"0.02 d" (= 0.4 mm at 20 mm)' in answer.text
    assert "depth" in answer.text
    boundary = bars.lookup(**key, thickness_mm=15.0)
    assert isinstance(boundary, Refusal)
    assert boundary.row is not None
    assert boundary.row.limit_mm == 0.3


def test_a_formula_of_size_is_a_limit_at_the_parts_thickness(tmp_path: Path) -> None:
    standard = table(tmp_path / "f", HEAD + "r1,steel,,A,scratches,,,0mm,10mm,SIZE_MM,,0.1 t,house,,0.1 t\n")
    answer = standard.lookup(metal="steel", thickness_mm=8.0, grade="A", discontinuity="scratches")
    assert isinstance(answer, Requirement)
    assert answer.rule().limit == pytest.approx(0.8, abs=1e-12)


@st.composite
def _partitions(draw: st.DrawFn) -> list[list[int]]:
    """For two zones: the micrometre borders of touching thickness intervals."""
    return [sorted(draw(st.sets(st.integers(0, 50_000), min_size=2, max_size=6))) for _ in range(2)]


@given(borders=_partitions(), thickness_um=st.integers(0, 55_000))
def test_any_partition_answers_once_inside_and_never_outside(
    borders: list[list[int]], thickness_um: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = HEAD
    for zone, points in enumerate(borders):
        for index, (low, high) in enumerate(pairwise(points)):
            rows += f"z{zone}-{index},steel,,A,crack,z{zone},,{low}um,{high / 1000:.3f}mm,NONE_PERMITTED,,none,s,,\n"
    standard = table(tmp_path_factory.mktemp("p") / "p", rows, toml='grades = "A"\nzones = "z0, z1"\n')
    for zone, points in enumerate(borders):
        answer = standard.lookup(
            metal="steel", thickness_mm=thickness_um / 1000, grade="A", discontinuity="crack", zone=f"z{zone}"
        )
        inside = [i for i, (low, high) in enumerate(pairwise(points)) if low < thickness_um <= high]
        if inside:
            assert isinstance(answer, Requirement)
            assert answer.row.row == f"z{zone}-{inside[0]}"
        else:
            assert isinstance(answer, Refusal)
            assert answer.code == "THICKNESS_OUTSIDE"
    unzoned = standard.lookup(metal="steel", thickness_mm=1.0, grade="A", discontinuity="crack")
    assert isinstance(unzoned, Refusal)
    assert unzoned.code == "KEY_NEEDED"


def test_a_document_is_plain_json() -> None:
    for process in ("surface", "casting"):
        answer = HOUSE.lookup(metal="steel", thickness_mm=6, grade="D", discontinuity="crack", process=process)
        document = json.loads(json.dumps(answer.document(), allow_nan=False))
        assert document["found"] is True
        assert document["row"]["verbatim"] == "none"
        assert document["table_sha256"] == HOUSE.sha256
