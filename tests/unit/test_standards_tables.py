"""Bad tables: each fault is one ConfigError that names file, line and column, and nothing changes on disk."""

from __future__ import annotations

import csv
import io
import re
import sys
import zipfile
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_daemon.errors import ConfigError, MissingExtra
from edge_daemon.standards import COLUMNS, Standard, import_table, load_standard

TOML = """schema = 1
id = "site"
title = "Table of the site"
publisher = "site"
edition = "1"
status = "test"
licence = "house"
combine_rule = "ANY_FAILS"
grades = "A, B, C, D"
zones = "rim, hub"

[[reference_set]]
id = "S5"
edition = "1"
form = "film"
metals = "aluminum, steel"
levels = 5
unit_area = ["2 in", "2 in"]

[[reference_set.plate]]
plate = "thin"
over = "0mm"
up_to = "1/2in"

[[reference_set.plate]]
plate = "gas only"
over = "0mm"
up_to = "2in"
discontinuities = "gas_hole"
"""

GOOD: dict[str, str] = {
    "row": "r1", "metal": "aluminum", "grade": "B", "discontinuity": "crack", "set": "S5", "t_min": "0mm",
    "t_max": "1/2in", "kind": "LEVEL", "level": "2", "windows": "12.7mm 25.4mm", "reference": "my/al/gas",
    "plate": "thin", "verbatim": "2", "source": "a document", "confidence": "high",
}  # fmt: skip


def as_csv(*rows: dict[str, str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def standard_of(folder: Path, *rows: dict[str, str], toml: str = TOML, raw: bytes | None = None) -> Standard:
    place = folder / "site"
    place.mkdir(exist_ok=True)
    (place / "standard.toml").write_text(toml, encoding="utf-8")
    (place / "rules.csv").write_bytes(as_csv(*rows).encode() if raw is None else raw)
    return load_standard(place)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with one good site standard, into which everything bad is then tried."""
    (tmp_path / "site.toml").write_text(TOML, encoding="utf-8")
    (tmp_path / "good.csv").write_text(as_csv(GOOD), encoding="utf-8")
    into = tmp_path / "standards"
    import_table(tmp_path / "good.csv", "site", by="Ada", into=into, header_file=tmp_path / "site.toml")
    return into


def refuses(site: Path, file: Path, match: str) -> None:
    """Neither a new standard nor a replacement is made of it, and not one byte is different."""
    before = snapshot(site)
    with pytest.raises(ConfigError, match=match):
        import_table(file, "site", by="Ada", into=site, replace=True)
    header = site.parent / "other.toml"
    header.write_text(TOML.replace('"site"', '"other"', 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=match):
        import_table(file, "other", by="Ada", into=site, header_file=header)
    fresh = site.parent / "fresh" / "folder"
    header.write_text(TOML, encoding="utf-8")
    with pytest.raises(ConfigError, match=match):
        import_table(file, "site", by="Ada", into=fresh, header_file=header)
    assert snapshot(site) == before
    assert not fresh.exists()
    assert not fresh.parent.exists()


def test_the_good_table_is_good(site: Path) -> None:
    standard = load_standard(site / "site")
    assert [(one.row, one.level, one.entered_by) for one in standard.rows] == [("r1", 2, "Ada")]
    assert sorted(snapshot(site)) == ["site", "site/rules.csv", "site/standard.toml"]


@pytest.mark.parametrize(
    ("change", "column", "says"),
    [
        ({"row": ""}, "row", "is empty"),
        ({"row": "two words"}, "row", "no row id"),
        ({"metal": "aluminium"}, "metal", "did you mean 'aluminum'"),
        ({"metal": "magnesium"}, "set", "S5 is no set for magnesium"),
        ({"grade": "E"}, "grade", "'E' is not known"),
        ({"grade": ""}, "grade", "is empty"),
        ({"discontinuity": "gas_holes"}, "discontinuity", "did you mean 'gas_hole"),
        ({"process": "castnig"}, "process", "did you mean 'casting'"),
        ({"zone": "edge"}, "zone", "one of: rim, hub"),
        ({"set": "E155"}, "set", "one of: S5"),
        ({"kind": "LEVLE"}, "kind", "did you mean 'LEVEL'"),
        ({"kind": ""}, "kind", "is empty"),
        ({"t_min": "0"}, "t_min", "has no unit"),
        ({"t_max": "12.7"}, "t_max", "has no unit"),
        ({"t_max": "12.7 inches"}, "t_max", "is not a unit of length"),
        ({"t_max": ""}, "t_max", "is empty"),
        ({"t_max": "0mm"}, "t_min", "holds nothing"),
        ({"t_min": "unlimited"}, "t_min", "is not a length"),
        ({"t_max": "1in"}, "t_max", "plate thin of S5 is for thickness over 0mm up to 1/2in"),
        ({"level": ""}, "level", "a whole number from 1 to 5"),
        ({"level": "0"}, "level", "a whole number from 1 to 5"),
        ({"level": "6"}, "level", "'6' is no level of S5"),
        ({"level": "2.5"}, "level", "is no level of S5"),
        ({"level": "none"}, "level", "is no level of S5"),
        ({"set": "", "plate": "", "level": "9"}, "level", "a whole number from 1 to 8"),
        ({"windows": ""}, "windows", "is empty"),
        ({"windows": "12.7 25.4"}, "windows", "has no unit"),
        ({"windows": "12.7mm 1/2in"}, "windows", "every side once"),
        ({"windows": "0mm"}, "windows", "larger than 0"),
        ({"reference": ""}, "reference", "is empty"),
        ({"reference": "../../etc"}, "reference", "no folder below references/"),
        ({"reference": "/etc"}, "reference", "no folder below references/"),
        ({"plate": "thick"}, "plate", "S5 has no plate 'thick'"),
        ({"plate": "gas only"}, "plate", "does not show crack"),
        ({"set": ""}, "plate", "without a set"),
        ({"verbatim": ""}, "verbatim", "is empty"),
        ({"source": ""}, "source", "is empty"),
        ({"confidence": "sure"}, "confidence", "is not known"),
        ({"confidence": "low"}, "confidence", "a remembered value is NOT_ENTERED"),
        ({"tolerance": "20%"}, "tolerance", "not a number from 0 to 10"),
        ({"guard": "11"}, "guard", "not a number from 0 to 10"),
        ({"guard": "nan"}, "guard", "not a number"),
        ({"count": "maybe"}, "count", "one of: yes, no"),
        ({"min_indication": "0.4"}, "min_indication", "has no unit"),
        ({"limit": "2mm"}, "limit", "stands beside LEVEL"),
        ({"formula": "0.1 t"}, "formula", "stands beside LEVEL"),
        ({"kind": "NONE_PERMITTED"}, "level", "stands beside NONE_PERMITTED"),
        ({"kind": "NOT_ENTERED"}, "level", "stands beside NOT_ENTERED"),
        ({"kind": "SIZE_MM", "level": ""}, "limit", "is empty"),
        ({"kind": "SIZE_MM", "level": "", "limit": "3"}, "limit", "has no unit"),
        ({"kind": "SIZE_MM", "level": "", "limit": "3 %"}, "limit", "is not a unit of length"),
        ({"kind": "SIZE_MM", "level": "", "limit": "3mm", "formula": "0.1 t"}, "formula", "stands beside a limit"),
        ({"kind": "SIZE_MM", "level": "", "formula": "t/10"}, "formula", "is no formula of size"),
        ({"kind": "AREA_PCT", "level": "", "limit": "3"}, "limit", "write it with its unit"),
        ({"kind": "AREA_PCT", "level": "", "limit": "101 %"}, "limit", "is no share"),
        ({"kind": "AREA_PCT", "level": "", "limit": "1 %", "windows": ""}, "windows", "is empty"),
        ({"kind": "NOT_MEASURABLE", "level": ""}, "remark", "say why"),
        ({"entered_on": "31.01.2026"}, "entered_on", "write it like 2026-01-31"),
        ({"verified_by": "Grace", "verified_on": "2026-02-30"}, "verified_on", "is not a date"),
        ({"verified_by": "Grace"}, "verified_on", "is empty"),
        ({"entered_on": "2026-02-02", "verified_by": "G", "verified_on": "2026-02-01"}, "verified_on", "is before"),
        ({"remark": "x" * 2001}, "remark", "longer than 2000"),
        ({"remark": "two\nlines"}, "remark", r"unprintable character U\+000A"),
        ({"remark": "red \x1b[31m"}, "remark", r"unprintable character U\+001B"),
        ({"remark": "right to left \u202e"}, "remark", r"unprintable character U\+202E"),
    ],
)  # fmt: skip
def test_each_bad_cell_is_named(tmp_path: Path, change: dict[str, str], column: str, says: str) -> None:
    good = {**GOOD, "row": "r0", "grade": "C"}
    with pytest.raises(ConfigError, match=rf"rules\.csv:3: {column}: ") as caught:
        standard_of(tmp_path, good, {**GOOD, **change})
    assert re.search(says, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝", "  ="])
@pytest.mark.parametrize("column", ["remark", "verbatim", "row", "entered_by"])
def test_a_formula_in_a_cell_is_refused(site: Path, start: str, column: str) -> None:
    bad = site.parent / "bad.csv"
    bad.write_bytes(as_csv({**GOOD, column: f'{start}cmd|"/c calc"!A0'}).encode())
    refuses(site, bad, rf"bad\.csv:2: {column}: .*begins like a spreadsheet formula")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"row": "a", "t_max": "1/4in"}, {"row": "b", "t_min": "6mm"}], ":3: t_min: .*overlaps row a of line 2"),
        ([{"row": "a"}, {"row": "b"}], ":3: t_min: .*overlaps row a of line 2"),
        ([{"row": "b", "t_min": "1/8in"}, {"row": "a", "t_max": "1/4in"}], ":2: t_min: .*overlaps row a of line 3"),
        ([{"row": "a", "t_max": "1/4in"}, {"row": "b", "t_min": "6.36mm"}], ":3: t_min: .*leaves a gap after row a"),
        ([{"row": "a"}, {"row": "a", "grade": "C"}], ":3: row: 'a' is the id of line 2 already"),
        ([{"row": "a"}, {"row": "b", "zone": "rim"}], ":2: zone: is empty, and other rows .*line 3"),
        ([{"row": "a"}, {"row": "b", "set": "", "plate": ""}], ":3: set: is empty"),
    ],
)
def test_overlap_gap_and_doubled_rows(site: Path, rows: list[dict[str, str]], says: str) -> None:
    bad = site.parent / "bad.csv"
    bad.write_text(as_csv(*({**GOOD, **row} for row in rows)), encoding="utf-8")
    refuses(site, bad, rf"bad\.csv{says}")


def test_touching_ranges_in_different_units_neither_overlap_nor_gap(tmp_path: Path) -> None:
    rows = [{**GOOD, "row": "a", "t_max": "1/4in"}, {**GOOD, "row": "b", "t_min": "6.35mm", "t_max": "12.7mm"}]
    assert len(standard_of(tmp_path, *rows).rows) == 2


@given(
    points=st.lists(st.integers(0, 40), min_size=4, max_size=8),
    zones=st.lists(st.sampled_from(["rim", "hub"]), min_size=4, max_size=4),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_intervals_are_accepted_exactly_when_no_thickness_is_missing_or_doubled(
    tmp_path: Path, points: list[int], zones: list[str]
) -> None:
    """Brute force: every tenth of a millimetre between the least and the largest border has exactly one row."""
    pairs = [(low, high) for low, high in zip(points[::2], points[1::2], strict=False) if low < high]
    used = [(zone, low, high) for zone, (low, high) in zip(zones, pairs, strict=False)]
    right = True
    for zone in ("rim", "hub"):
        mine = [(low, high) for name, low, high in used if name == zone]
        for tenth in range(401):
            thickness_mm = tenth / 10
            if mine and min(low for low, _ in mine) < thickness_mm <= max(high for _, high in mine):
                right &= sum(low < thickness_mm <= high for low, high in mine) == 1
    rows = [
        {**GOOD, "row": f"r{index}", "zone": zone, "t_min": f"{low}mm", "t_max": f"{high}mm", "set": "", "plate": ""}
        for index, (zone, low, high) in enumerate(used)
    ]
    if right:
        assert len(standard_of(tmp_path, *rows).rows) == len(used)
    else:
        with pytest.raises(ConfigError, match=r"overlaps|gap"):
            standard_of(tmp_path, *rows)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (as_csv(GOOD).encode("utf-16"), r":1: not UTF-8"),
        (as_csv({**GOOD, "remark": "Prüfung"}).encode("latin-1"), r":2: not UTF-8 at byte \d+"),
        (as_csv({**GOOD, "remark": "a"}).encode().replace(b",a,", b",\0,"), r":2: holds a NUL byte"),
        (b"", r":1: empty"),
        (as_csv().encode(), r":1: no rows"),
        (as_csv(GOOD).replace(",", ";").encode(), r":1: the columns are not separated by commas"),
        (as_csv(GOOD).replace("verbatim", "words").encode(), r":1: 'words' is no column"),
        (as_csv(GOOD).replace("locator", "remark").encode(), r":1: remark: stands there twice"),
        (b"row,metal\nr1,steel\n", r":1: the column discontinuity is missing"),
        (as_csv(GOOD).encode() + b"r2,steel\n", r":3: 2 cells under 30 columns"),
        (as_csv(GOOD).encode() + b"," * 29 + b",more\n", r":3: 31 cells under 30 columns"),
        (as_csv(GOOD).encode() + b'"r2\n', r":3: not valid CSV"),
        (as_csv(GOOD).encode() + b"\n" * 3 + as_csv({**GOOD, "kind": "X", "row": "r2"}).encode().split(b"\n")[1],
         r":6: kind: 'X' is not known"),
        (b"x" * 5_000_001, r"5\.0 MB, and a table has at most 5 MB"),
        (as_csv(*({**GOOD, "row": str(n), "t_min": f"{n}um", "t_max": f"{n + 1}um"} for n in range(20_001))).encode(),
         r":20002: more than 20000 rows"),
        (b"PK\x03\x04", r"unprintable character U\+0003"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_whole(site: Path, raw: bytes, says: str) -> None:
    bad = site.parent / "bad.csv"
    bad.write_bytes(raw)
    refuses(site, bad, rf"bad\.csv.*({says})")


def test_twenty_thousand_rows_are_read(site: Path) -> None:
    file = site.parent / "many.csv"
    rows = ({**GOOD, "row": str(n), "t_min": f"{n / 2}um", "t_max": f"{(n + 1) / 2}um"} for n in range(20_000))
    file.write_text(as_csv(*rows), encoding="utf-8")
    standard, _ = import_table(file, "site", by="Ada", into=site, replace=True)
    assert len(standard.rows) == 20_000


def test_a_byte_order_mark_is_no_fault(site: Path) -> None:
    file = site.parent / "bom.csv"
    file.write_bytes(b"\xef\xbb\xbf" + as_csv({**GOOD, "level": "3"}).replace("\n", "\r\n").encode())
    standard, _ = import_table(file, "site", by="Ada", into=site, replace=True)
    assert standard.rows[0].level == 3
    assert b"\r" not in (site / "site" / "rules.csv").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('id = "site"', 'id = "Site"', " id: 'Site' is not the name"),
        ('id = "site"', 'id = "other"', " id: 'other' is not the name of its folder"),
        ('licence = "house"', 'licence = "free"', "licence: 'free' is not known"),
        ('"ANY_FAILS"', '"SOME_FAIL"', "combine_rule: 'SOME_FAIL' is not known"),
        ('grades = "A, B, C, D"', 'grades = "A, B, A"', "grades: 'A, B, A' is no list"),
        ('levels = 5', 'levels = 9', r"\[reference_set\] levels: must be a whole number from 1 to 8"),
        ('form = "film"', 'form = "paper"', "form: 'paper' is not known"),
        ('metals = "aluminum, steel"', 'metals = "aluminum, wood"', "metals: 'wood' is not known"),
        ('up_to = "1/2in"', 'up_to = "0.5"', "has no unit"),
        ('up_to = "1/2in"', 'up_to = "0mm"', "holds nothing"),
        ('plate = "gas only"', 'plate = "thin"', "two plates of one name"),
        ('discontinuities = "gas_hole"', 'discontinuities = "gas"', "discontinuities: 'gas' is not known"),
        ('unit_area = ["2 in", "2 in"]', 'unit_area = [2, 2]', "has no unit"),
        ('status = "test"', 'status = "test"\nstate = 1', "state: is not a known key"),
        ('title = "Table of the site"', r'title = "\u001b[31m"', "title: unprintable character"),
        ('title = "Table of the site"', 'title = "=1+1"', "title: .*spreadsheet formula"),
    ],
)  # fmt: skip
def test_a_bad_heading_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in TOML
    with pytest.raises(ConfigError, match=rf"standard\.toml:\d+:.*{says}"):
        standard_of(tmp_path, GOOD, toml=TOML.replace(old, new, 1))


@pytest.mark.parametrize(
    ("strict", "loose", "warns"),
    [
        ({"level": "3"}, {"level": "2"}, True),
        ({"level": "2"}, {"level": "2"}, False),
        ({"level": "2", "tolerance": "0.2"}, {"level": "2"}, True),
        ({"level": "2"}, {"kind": "NONE_PERMITTED", "level": ""}, True),
        ({"kind": "NONE_PERMITTED", "level": ""}, {"level": "1"}, False),
        ({"kind": "UNLIMITED", "level": ""}, {"level": "5"}, True),
        ({"kind": "SIZE_MM", "level": "", "limit": "2mm"}, {"kind": "SIZE_MM", "level": "", "limit": "1mm"}, True),
        ({"kind": "AREA_PCT", "level": "", "limit": "1 %"}, {"kind": "AREA_PCT", "level": "", "limit": "2 %"}, False),
        ({"kind": "SIZE_MM", "level": "", "limit": "2mm"}, {"level": "1"}, False),
        ({"kind": "NOT_ENTERED", "level": ""}, {"level": "1"}, False),
        ({"level": "3", "t_max": "1/4in"}, {"level": "2", "t_min": "1/4in"}, False),
    ],
)
def test_a_stricter_grade_that_allows_more_is_a_warning(
    tmp_path: Path, strict: dict[str, str], loose: dict[str, str], warns: bool
) -> None:
    standard = standard_of(tmp_path, {**GOOD, **strict}, {**GOOD, "row": "r2", "grade": "D", **loose})
    assert bool(standard.warnings) == warns
    if warns:
        assert "grade B (row r1) allows more than grade D (row r2)" in standard.warnings[0]


# ---------------------------------------------------------------------------------------------------- workbooks


def workbook(path: Path, *rows: dict[str, Any], sheets: tuple[str, ...] = ("rules",), head: Any = COLUMNS) -> Path:
    book = openpyxl.Workbook()
    book.active.title = sheets[0]
    for name in sheets[1:]:
        book.create_sheet(name)
    sheet = book[sheets[0]]
    sheet.append(list(head))
    for row in rows:
        sheet.append([row.get(column) for column in COLUMNS])
    book.save(path)
    return path


def test_a_workbook_is_the_same_table(site: Path) -> None:
    file = workbook(site.parent / "t.xlsx", {**GOOD, "level": 4, "tolerance": 0.25, "entered_on": datetime(2020, 1, 1)},
                    sheets=("rules", "notes"))  # fmt: skip
    standard, _ = import_table(file, "site", by="Ada", into=site, replace=True)
    row = standard.rows[0]
    assert (row.level, row.tolerance, row.thickness.up_to_text) == (4, 0.25, "1/2in")
    assert row.entered_on != "2020-01-01"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"remark": "=1+1"}, ":2: remark: is a formula"),
        ({"level": "=SUM(A1:A2)"}, ":2: level: is a formula"),
        ({"remark": "+1"}, ":2: remark: .*spreadsheet formula"),
        ({"t_max": datetime(2026, 2, 1)}, ":2: t_max: the spreadsheet has made the date"),
        ({"t_max": 12.7}, ":2: t_max: .*has no unit"),
        ({"count": True}, ":2: count: True is neither"),
        ({"kind": "#REF!"}, ":2: kind: is a spreadsheet error|kind: '#REF!' is not known"),
        ({"metal": "tin"}, ":2: metal: 'tin' is not known"),
    ],
)
def test_bad_cells_of_a_workbook(site: Path, change: dict[str, Any], says: str) -> None:
    refuses(site, workbook(site.parent / "t.xlsx", {**GOOD, **change}), rf"t\.xlsx{says}")


def test_a_workbook_needs_one_sheet_of_rules(site: Path) -> None:
    refuses(site, workbook(site.parent / "t.xlsx", GOOD, sheets=("one", "two")), "name the sheet with the table: rules")
    refuses(site, workbook(site.parent / "h.xlsx", GOOD, head=("a", "b")), r"h\.xlsx:1: 'a' is no column")


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(workbook(path, GOOD), "a", zipfile.ZIP_DEFLATED) as package:
        package.writestr("xl/media/zeros.bin", bytes(101_000_000))


def _big(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(200_000_000)


def _many(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as package:
        for number in range(1001):
            package.writestr(str(number), b"")


def _entities(path: Path) -> None:
    lol = "".join(f'<!ENTITY l{n} "{"&l" + str(n - 1) + ";" if n else "lol"}{"&l" + str(n - 1) + ";" if n else ""}">'
                  for n in range(40))  # fmt: skip
    source = path.with_suffix(".tmp")
    workbook(source.with_suffix(".source.xlsx"), GOOD)
    with zipfile.ZipFile(source.with_suffix(".source.xlsx")) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            body = good.read(name)
            if name == "xl/workbook.xml":
                body = f"<!DOCTYPE x [{lol}]><x>&l39;</x>".encode()
            bad.writestr(name, body)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_big, r"200\.0 MB, and a table has at most 20 MB"),
        (_bomb, r"unpacks to 101 MB"),
        (_many, r"1001 parts"),
        (_entities, r"no readable workbook"),
        (lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0" * 100), r"no readable workbook"),
        (lambda path: path.write_bytes(b""), r"no readable workbook"),
        (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)), r"no readable workbook"),
    ],
)
def test_workbooks_that_are_none(
    site: Path, make: Callable[[Path], object], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = site.parent / "bad.xlsx"
    make(file)
    if "MB" in says or "parts" in says:

        def unpacked(*_: object, **__: object) -> None:
            pytest.fail("it was unpacked")

        monkeypatch.setattr(zipfile.ZipFile, "open", unpacked)
    refuses(site, file, rf"bad\.xlsx: .*{says}")


@cache
def a_workbook() -> bytes:
    """The same bytes at every call: a workbook holds the time at which it was made."""
    with TemporaryDirectory() as folder:
        return workbook(Path(folder) / "g.xlsx", GOOD).read_bytes()


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_workbook_is_refused_or_read_but_never_half_read(tmp_path: Path, data: st.DataObject) -> None:
    good = a_workbook()
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = bytearray(good)
    damaged[at] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del damaged[at:]
    (tmp_path / "bad.xlsx").write_bytes(damaged)
    (tmp_path / "site.toml").write_text(TOML, encoding="utf-8")
    into = tmp_path / "standards"
    try:
        standard, _ = import_table(
            tmp_path / "bad.xlsx", "site", by="Ada", into=into, header_file=tmp_path / "site.toml"
        )
    except ConfigError:
        assert not into.exists()
    else:
        assert standard.rows[0].level == 2
        for path in sorted(into.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        into.rmdir()


@given(
    at=st.floats(0, 1),
    junk=st.one_of(st.binary(max_size=12), st.text(max_size=8).map(str.encode)),
    cut=st.integers(0, 30),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_a_csv_is_a_config_error_or_a_table(tmp_path: Path, at: float, junk: bytes, cut: int) -> None:
    good = as_csv(GOOD, {**GOOD, "row": "r2", "grade": "C"}).encode()
    place = int(at * len(good))
    damaged = good[:place] + junk + good[place + cut :]
    said, kinds = "rules.csv", set()
    try:
        kinds = {row.kind.value for row in standard_of(tmp_path, raw=damaged).rows}
    except ConfigError as error:
        said = str(error)
    assert "rules.csv" in said
    assert kinds <= {"LEVEL"}


def test_without_openpyxl_the_extra_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workbook(site.parent / "t.xlsx", GOOD)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingExtra, match=r"edge-daemon\[tables\]"):
        import_table(file, "site", by="Ada", into=site, replace=True)


def test_another_suffix_is_refused(site: Path) -> None:
    (site.parent / "t.ods").write_bytes(b"x")
    refuses(site, site.parent / "t.ods", "neither .csv nor .xlsx")
    refuses(site, site.parent / "none.csv", "no such file")
    refuses(site, site.parent / "none.xlsx", "no such file")
