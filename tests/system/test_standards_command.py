"""``edge-daemon standards`` as its users meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_daemon.resources import data_folder

KEY = ("--metal", "aluminum", "--grade", "C", "--discontinuity", "gas_porosity_round")


def standards(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_daemon", "standards", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=cwd, env=environment, check=False)


def documents(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("thickness", "code", "plate", "level"),
    [("1/4in", 0, "1/4in", 5), ("12.7mm", 0, "1/4in", 5), ("12.71mm", 0, "3/4in", 4), ("80mm", 1, None, None)],
)
def test_lookup_asks_every_standard(tmp_path: Path, thickness: str, code: int, plate: str | None, level: int) -> None:
    done = standards("lookup", *KEY, "--thickness", thickness, "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (code, "")
    answers = documents(done)
    assert len(answers) == len(list(data_folder("standards").glob("*/standard.toml")))
    found = [one for one in answers if one["found"]]
    assert [(one["standard"], one["plate"]["name"], one["row"]["level"]) for one in found] == (
        [("house-demo", plate, level)] if plate else []
    )
    assert all(one["advisory"] and one["licence"] == "demo" for one in found)
    refused = {one["standard"]: one["reason"]["code"] for one in answers if not one["found"]}
    assert refused["astm-b26"] == ("KEY_NEEDED" if plate else "THICKNESS_OUTSIDE")
    assert refused["mil-std-2175a"] == ("NOT_ENTERED" if plate else "THICKNESS_OUTSIDE")
    assert refused["asme-b16-34"] == "UNKNOWN_METAL"


def test_lookup_for_people_shows_words_source_and_mark(tmp_path: Path) -> None:
    done = standards("lookup", *KEY, "--thickness", "1/4in", cwd=tmp_path)
    first = done.stdout.split("\n\n")[0]
    for words in (
        "house-demo [demo, fictional, for demonstration only]: aluminum gas_porosity_round, grade C, 6.35 mm: LEVEL 5",
        'words      "5" (fictional demonstration table',
        "plate      1/4in of demo-aluminum, for thickness over 0mm up to 1/2in (12.7 mm)",
        "reference  demo/aluminum/6.35mm/gas_porosity_round/5.png",
        "windows of 12.7 mm, 25.4 mm; tolerance 0.2, guard 1",
        "ADVISORY   a demonstration standard",
    ):
        assert words in first
    assert "no rows for aluminum: asme-b16-34, astm-a802" in done.stdout.splitlines()[-1]
    outside = standards("lookup", *KEY, "--thickness", "80mm", "--standard", "house-demo", cwd=tmp_path)
    assert outside.returncode == 1
    assert outside.stdout.count("\n") == 1
    assert "THICKNESS_OUTSIDE: 80 mm lies in no thickness range" in outside.stdout
    assert "over 1/2in (12.7 mm) up to 2in (50.8 mm). Never the nearest plate" in outside.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((*KEY, "--thickness", "6.35"), 2, "has no unit"),
        ((*KEY, "--thickness", "6.35mm", "--standard", "nothing"), 2, "was not found"),
        ((*KEY, "--thickness", "6.35mm", "--form", "paper"), 2, "invalid choice"),
        ((*KEY,), 2, "--thickness"),
    ],
)
def test_wrong_use_of_lookup(tmp_path: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = standards("lookup", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_list_and_show(tmp_path: Path) -> None:
    listed = documents(standards("list", "--json", cwd=tmp_path))
    assert {"house-demo", "en-10277"} <= {one["standard"] for one in listed}
    assert all(one["ok"] for one in listed)
    house = next(one for one in listed if one["standard"] == "house-demo")
    assert house["rows"] > 300
    assert house["verified"] == 0
    assert "demo/aluminum/6.35mm/gas_porosity_round" not in house["missing_references"]
    shown = standards("show", "en-10277", "--rows", cwd=tmp_path)
    assert shown.returncode == 0
    assert 'surface_discontinuity, over 15mm up to 75mm: NOT_MEASURABLE "0.02 d" [not verified]' in shown.stdout
    head, *rows = documents(standards("show", "en-10277", "--rows", "--json", cwd=tmp_path))
    assert (head["standard"], len(rows)) == ("en-10277", 9)


def test_from_import_to_a_verified_row(tmp_path: Path) -> None:
    head = "row,metal,grade,discontinuity,t_min,t_max,kind,limit,verbatim,source\n"
    table = tmp_path / "table.csv"
    table.write_text(head + "r1,steel,A,scratches,0mm,1/2in,SIZE_MM,2mm,two millimetres,doc 7\n")
    made = standards("import", table, "--id", "mine", "--by", "Ada", "--edition", "2026-01", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    assert "ADVISORY until a second person verifies" in made.stdout
    ask = ("lookup", "--metal", "steel", "--grade", "A", "--discontinuity", "scratches", "--thickness", "6mm",
           "--standard", "mine", "--json")  # fmt: skip
    assert documents(standards(*ask, cwd=tmp_path))[0]["advisory"] is True
    assert standards(*ask, "--require-verified", cwd=tmp_path).returncode == 1

    same = standards("verify", "mine:r1", "--by", "ADA", cwd=tmp_path)
    assert (same.returncode, same.stdout) == (2, "")
    assert "another person must verify it" in same.stderr
    nowhere = standards("verify", "r1", "--by", "Grace", cwd=tmp_path)
    assert nowhere.returncode == 2
    assert "of which standard?" in nowhere.stderr
    done = standards("verify", "mine:r1", "--by", "Grace", cwd=tmp_path)
    assert done.returncode == 0
    assert '"two millimetres" [verified]' in done.stdout
    assert "doc 7" in done.stdout
    verified = standards(*ask, "--require-verified", cwd=tmp_path)
    assert verified.returncode == 0
    assert documents(verified)[0]["advisory"] is False

    table.write_text(head + "r1,steel,A,scratches,0mm,1/2in,SIZE_MM,2,two,doc\n")
    before = (tmp_path / "standards" / "mine" / "rules.csv").read_bytes()
    bad = standards("import", table, "--id", "mine", "--by", "Ada", "--replace", cwd=tmp_path)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "table.csv:2: limit: length '2' has no unit" in bad.stderr
    assert (tmp_path / "standards" / "mine" / "rules.csv").read_bytes() == before
    sealed = standards("verify", "asme-b16-34:st-e446-i-gas_porosity", "--by", "Grace", cwd=tmp_path)
    assert sealed.returncode == 2
    assert "cp -r" in sealed.stderr


def test_a_broken_table_is_never_left_out_silently(tmp_path: Path) -> None:
    broken = tmp_path / "standards" / "broken"
    broken.mkdir(parents=True)
    (broken / "standard.toml").write_text("schema = 2\n")
    done = standards("lookup", *KEY, "--thickness", "1/4in", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert "broken is left out" in done.stderr
    assert any(one["found"] for one in documents(done))
    listed = standards("list", "--json", cwd=tmp_path)
    assert listed.returncode == 2
    assert [one["standard"] for one in documents(listed) if not one["ok"]] == ["broken"]
