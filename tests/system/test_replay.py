"""Parts judged by the real daemon, judged again: the same to the last bit, or another verdict with its reason."""

from __future__ import annotations

import json
import time
from importlib.resources import files
from pathlib import Path

import pytest

from edge_daemon.cli import main
from edge_daemon.images import write_png_atomic
from edge_daemon.memory import MemoryBank
from edge_daemon.simulator import conveyor_part
from edge_daemon.testing.rig import Rig

RECIPE = files("edge_daemon.demo").joinpath("recipe.toml").read_text()
PLANTED = ("sound", "crack", "acceptable", "rejectable")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a station that has judged four parts and kept every picture."""
    folder = tmp_path_factory.mktemp("station")
    frames = []
    for number, planted in enumerate(PLANTED):
        frames.append(folder / f"{number}.png")
        write_png_atomic(frames[-1], conveyor_part(985_000 + number, planted).pixels)
    with Rig(folder / "s", frames, recipe=RECIPE, deadline_s=2.5, plc_deadline_s=2.8,
             settings={"camera": 'max_delay = "2400 ms"', "memory": 'keep = "all"'}) as rig:  # fmt: skip
        rig.start_daemon()
        with rig.plc() as plc:
            assert plc.wait_ready(15)
            for _ in PLANTED:
                plc.wait_decided(plc.trigger(), 5)
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            with MemoryBank(rig.database, read_only=True) as bank:
                if bank.counts().records == len(PLANTED):
                    break
            time.sleep(0.05)
        assert rig.stop_daemon() == 0
    return folder / "s"


def replayed(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[int, dict], str]:
    code = main(["replay", *options, "--json"])
    output = capsys.readouterr()
    lines = [json.loads(line) for line in output.out.splitlines()]
    return code, {line["part_id"]: line for line in lines}, output.err


def test_the_same_recipe_and_engine_give_the_same_bits(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, parts, said = replayed(capsys, "--config", str(judged / "line.toml"), "--all")
    assert code == 0
    assert [parts[number]["before"] for number in (1, 2, 3, 4)] == ["PASS", "FAIL", "PASS", "FAIL"]
    assert all(part["identical"] and part["before"] == part["after"] for part in parts.values())
    assert "4 identical to the last bit" in said


def test_a_larger_tolerance_changes_exactly_the_part_over_the_limit(
    judged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, parts, _ = replayed(capsys, "--config", str(judged / "line.toml"), "--tolerance", "9")
    assert code == 1
    assert {number: (part["before"], part["after"]) for number, part in parts.items()} == {4: ("FAIL", "PASS")}


def test_another_recipe_changes_what_it_forbids_and_says_why(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = tmp_path / "strict.toml"
    strict.write_text(RECIPE.split("[[rule]]")[0])  # nothing at all is permitted
    before = (judged / "memory.db").read_bytes()
    code, parts, _ = replayed(capsys, "--database", str(judged / "memory.db"), "--recipe", str(strict), "--exit-zero")
    assert code == 0
    assert list(parts) == [3]
    assert "permits none" in parts[3]["why"]
    assert "another table" in parts[3]["why"]
    assert (judged / "memory.db").read_bytes() == before, "replay only reads"


def test_a_record_without_its_frame_is_counted_not_guessed(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with MemoryBank(judged / "memory.db", read_only=True) as bank:
        folder = next(Path(one.pictures or "") for one in bank.history() if one.part_id == 2)
    hidden = folder / "frame.png"
    hidden.rename(tmp_path / "frame.png")
    try:
        code, parts, said = replayed(capsys, "--config", str(judged / "line.toml"), "--all")
    finally:
        (tmp_path / "frame.png").rename(hidden)
    assert code == 0
    assert parts[2]["after"] is None
    assert parts[2]["why"] == "its frame was not kept"
    assert "1 not judged again" in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "no memory bank, or no recipe"),
        (("--database", "nothing.db", "--recipe", "nothing.toml"), "no such memory bank"),
    ],
)
def test_what_is_missing_is_named(options: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *options]) == 2
    assert expected in capsys.readouterr().err
