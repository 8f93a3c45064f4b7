"""Import by one person, verification by another: whole or not at all, and never a shipped table."""

from __future__ import annotations

import fcntl
import os
import threading
from datetime import date
from pathlib import Path

import pytest

from edge_daemon.errors import ConfigError, StorageError, UsageError
from edge_daemon.resources import data_folder
from edge_daemon.standards import (
    NewHeading,
    Refusal,
    Requirement,
    Standard,
    editing,
    import_table,
    load_standard,
    verify_rows,
)

HEAD = "row,metal,grade,discontinuity,t_min,t_max,kind,limit,verbatim,source,verified_by,verified_on\n"
ROWS = (
    HEAD
    + "r1,steel,A,scratches,0mm,1/2in,SIZE_MM,2mm,two,doc,,\n"
    + "r2,steel,A,scratches,1/2in,1in,SIZE_MM,1mm,one,doc,Mallory,2020-01-01\n"
    + "r3,steel,B,scratches,0mm,1in,NOT_ENTERED,,,doc,,\n"
)
ON = date(2026, 2, 1)
KEY = {"metal": "steel", "thickness_mm": 6.0, "grade": "A", "discontinuity": "scratches"}


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.csv").write_text(ROWS)
    into = tmp_path / "standards"
    _, dropped = import_table(tmp_path / "t.csv", "mine", by=" Ada  Example ", into=into, today=ON)
    assert dropped == 1
    return into / "mine"


def requirement(standard: Standard, *, require_verified: bool = False) -> Requirement:
    answer = standard.lookup(**KEY, require_verified=require_verified)
    assert isinstance(answer, Requirement)
    return answer


def test_import_marks_who_entered_it_and_drops_every_verification(folder: Path) -> None:
    standard = load_standard(folder)
    assert {row.entered_by for row in standard.rows} == {"Ada Example"}
    assert {row.entered_on for row in standard.rows} == {"2026-02-01"}
    assert {row.verified_by for row in standard.rows} == {""}
    assert (standard.licence, standard.grades) == ("house", ("A", "B", "C", "D"))
    assert requirement(standard).advisory
    refused = standard.lookup(**KEY, require_verified=True)
    assert isinstance(refused, Refusal)
    assert refused.code == "UNVERIFIED"


def test_a_second_person_lifts_the_advisory_mark_of_her_row_alone(folder: Path) -> None:
    before = load_standard(folder)
    rows = verify_rows(folder, ["r1"], by="Grace", today=date(2026, 2, 2))
    assert [(row.row, row.verified_by, row.verified_on, row.verified) for row in rows] == [
        ("r1", "Grace", "2026-02-02", True)
    ]
    standard = load_standard(folder)
    assert not requirement(standard, require_verified=True).advisory
    assert not requirement(standard).rule().advisory
    assert standard.sha256 != before.sha256
    other = standard.lookup(**{**KEY, "thickness_mm": 20.0})
    assert isinstance(other, Requirement)
    assert other.advisory
    assert sorted(path.name for path in folder.parent.rglob("*")) == ["mine", "rules.csv", "standard.toml"]


@pytest.mark.parametrize("change", [(b"two", b"2"), (b"2mm", b"3mm"), (b"Grace", b"Eve"), (b"Ada Example", b"Bob"),
                                    (b"1/2in", b"12.7mm")])  # fmt: skip
def test_a_row_changed_after_its_verification_is_advisory_again(folder: Path, change: tuple[bytes, bytes]) -> None:
    verify_rows(folder, ["r1"], by="Grace", today=ON)
    path = folder / "rules.csv"
    path.write_bytes(path.read_bytes().replace(*change))
    standard = load_standard(folder)
    assert requirement(standard).advisory
    assert any("row r1 is not as" in warning for warning in standard.warnings)


def test_another_edition_or_another_standard_takes_no_verification_along(folder: Path, tmp_path: Path) -> None:
    verify_rows(folder, ["r1"], by="Grace", today=ON)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "rules.csv").write_bytes((folder / "rules.csv").read_bytes())
    toml = (folder / "standard.toml").read_text()
    (copy / "standard.toml").write_text(toml.replace('id = "mine"', 'id = "copy"'))
    assert requirement(load_standard(copy)).advisory
    (folder / "standard.toml").write_text(toml.replace('edition = "1"', 'edition = "2"'))
    assert requirement(load_standard(folder)).advisory


@pytest.mark.parametrize(
    ("rows", "by", "says"),
    [
        (["r1"], "Ada Example", "Ada Example entered it, so another person"),
        (["r1"], "  ada   EXAMPLE ", "another person"),
        (["r1"], "AdaExample", "another person"),
        (["r1"], "Ａda Example", "another person"),  # full-width A
        (["r3"], "Grace", "r3 reads NOT_ENTERED: there is nothing to verify"),
        (["r9"], "Grace", "mine has no row 'r9'"),
        (["r2", "r3"], "Grace", "NOT_ENTERED"),
        (["r1"], "   ", "is no person's name"),
        (["r1"], "42", "is no person's name"),
        (["r1"], "=Grace", "spreadsheet formula"),
        (["r1"], "Gra\x1bce", "unprintable"),
    ],
)
def test_what_cannot_be_verified_changes_nothing(folder: Path, rows: list[str], by: str, says: str) -> None:
    before = snapshot(folder.parent)
    with pytest.raises(UsageError, match=says):
        verify_rows(folder, rows, by=by, today=ON)
    assert snapshot(folder.parent) == before


def test_a_row_verified_by_who_entered_it_is_advisory_even_if_the_file_says_so(folder: Path) -> None:
    verify_rows(folder, ["r1"], by="Grace", today=ON)
    path = folder / "rules.csv"
    path.write_bytes(path.read_bytes().replace(b"Grace", b"ADA EXAMPLE"))
    assert requirement(load_standard(folder)).advisory


def test_shipped_tables_are_sealed(tmp_path: Path) -> None:
    shipped = data_folder("standards")
    before = snapshot(shipped)
    (tmp_path / "t.csv").write_text(ROWS)
    with pytest.raises(UsageError, match="sealed") as caught:
        verify_rows(shipped / "asme-b16-34", ["st-e446-i-gas_porosity"], by="Grace")
    assert "cp -r" in caught.value.hint
    for into in (shipped, shipped / "en-10277"):
        with pytest.raises(UsageError, match="sealed"):
            import_table(tmp_path / "t.csv", "mine", by="Ada", into=into)
    link = tmp_path / "link"
    link.symlink_to(shipped)
    with pytest.raises(UsageError, match="sealed"):
        import_table(tmp_path / "t.csv", "mine", by="Ada", into=link)
    with pytest.raises(UsageError, match="is a shipped standard"):
        import_table(tmp_path / "t.csv", "house-demo", by="Ada", into=tmp_path / "s")
    assert snapshot(shipped) == before
    assert not (tmp_path / "s").exists()


def test_import_takes_no_place_that_is_taken(folder: Path, tmp_path: Path) -> None:
    before = snapshot(folder.parent)
    with pytest.raises(UsageError, match="exists already"):
        import_table(tmp_path / "t.csv", "mine", by="Ada", into=folder.parent)
    with pytest.raises(UsageError, match="is no standard yet"):
        import_table(tmp_path / "t.csv", "yours", by="Ada", into=folder.parent, replace=True)
    for name in ("../up", "Upper", "", "a/b", ".hidden"):
        with pytest.raises(UsageError, match="is no id"):
            import_table(tmp_path / "t.csv", name, by="Ada", into=folder.parent)
    assert snapshot(folder.parent) == before


def test_replace_keeps_the_heading_and_lapses_every_verification(folder: Path, tmp_path: Path) -> None:
    verify_rows(folder, ["r1"], by="Grace", today=ON)
    heading = (folder / "standard.toml").read_bytes()
    (tmp_path / "new.csv").write_text(ROWS.replace("2mm,two", "3mm,three"))
    standard, _ = import_table(tmp_path / "new.csv", "mine", by="Bob", into=folder.parent, replace=True)
    assert (folder / "standard.toml").read_bytes() == heading
    assert requirement(standard).rule().limit == 3.0
    assert requirement(standard).advisory
    with pytest.raises(UsageError, match="keeps the standard's heading"):
        import_table(
            tmp_path / "new.csv", "mine", by="Bob", into=folder.parent, replace=True, header_file=tmp_path / "x.toml"
        )


def test_a_heading_of_options_is_checked_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(ROWS)
    heading = NewHeading(
        title='Über "alles"', publisher="Gießerei", edition="2026-02", grades=("A", "B"), zones=("rim",)
    )
    standard, _ = import_table(tmp_path / "t.csv", "mine", by="Ada", into=tmp_path / "s", heading=heading)
    assert (standard.title, standard.publisher, standard.zones) == ('Über "alles"', "Gießerei", ("rim",))
    for bad in (
        NewHeading(title="=1"),
        NewHeading(grades=("A", "A")),
        NewHeading(grades=("B",)),
        NewHeading(licence="x"),
    ):
        with pytest.raises(ConfigError):
            import_table(tmp_path / "t.csv", "other", by="Ada", into=tmp_path / "s", heading=bad)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["mine"]


def test_a_full_disk_leaves_the_old_table(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(folder.parent)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def replaced() -> None:
        import_table(tmp_path / "t.csv", "mine", by="Bob", into=folder.parent, replace=True)

    def new() -> None:
        import_table(tmp_path / "t.csv", "second", by="Bob", into=folder.parent)

    def verified() -> None:
        verify_rows(folder, ["r1"], by="Grace")

    for name, change in (("fsync", replaced), ("replace", replaced), ("fsync", verified), ("replace", verified),
                         ("fsync", new), ("rename", new)):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(StorageError, match="No space left"):
                change()
        assert snapshot(folder.parent) == before, (name, change)


def test_who_comes_second_waits_and_then_gives_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "_LOCK_WAIT_S", 0.1)
    before = snapshot(folder.parent)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="somebody else is editing"):
            verify_rows(folder, ["r1"], by="Grace")
        assert snapshot(folder.parent) == before
    finally:
        os.close(descriptor)
    verify_rows(folder, ["r1"], by="Grace")


def test_many_people_at_once_lose_no_verification(tmp_path: Path) -> None:
    names = [f"r{number}" for number in range(12)]
    rows = "".join(f"{name},steel,A,scratches,{n}mm,{n + 1}mm,SIZE_MM,2mm,two,doc,,\n" for n, name in enumerate(names))
    (tmp_path / "t.csv").write_text(HEAD + rows)
    import_table(tmp_path / "t.csv", "mine", by="Ada", into=tmp_path / "s")
    folder = tmp_path / "s" / "mine"
    people = [threading.Thread(target=verify_rows, args=(folder, [name]), kwargs={"by": f"P {name}"}) for name in names]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert {row.row: row.verified_by for row in load_standard(folder).rows} == {name: f"P {name}" for name in names}
    assert all(row.verified for row in load_standard(folder).rows)
