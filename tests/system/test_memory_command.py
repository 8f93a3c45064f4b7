"""``edge-daemon memory``: every verb, with its JSON keys and exit codes."""

from __future__ import annotations

import csv
import json
import sqlite3
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_daemon.cli import main
from edge_daemon.images import load_labels, write_png_atomic
from edge_daemon.inspection import document_of, prepare_station
from edge_daemon.memory import MemoryBank
from edge_daemon.recipe import load_recipe
from edge_daemon.records import Outcome, Record
from edge_daemon.resources import engine_folder
from edge_daemon.segment.bundle import load
from edge_daemon.segment.registry import open_engine
from edge_daemon.simulator import conveyor_part
from edge_daemon.tickets import new_record_id

PLANTED = ("sound", "rejectable", "crack", "acceptable")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of four parts, judged by the real engine, with their pictures; made once and copied."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "recipe.toml").write_text(files("edge_daemon.demo").joinpath("recipe.toml").read_text())
    engine = open_engine(load(engine_folder("castings-xray")), "onnxruntime")
    station = prepare_station(engine, load_recipe(folder / "recipe.toml"))
    with MemoryBank(folder / "memory.db") as bank:
        for part_id, planted in enumerate(PLANTED, start=1):
            pixels = conveyor_part(985_200 + part_id, planted).pixels  # type: ignore[arg-type]
            inspection = station.inspect(pixels)
            record_id, outcome = new_record_id(), inspection.verdict.outcome
            document = document_of(station, inspection, record_id=record_id, image=None, image_sha256=None)
            pictures = folder / "pictures" / "2026-03-01" / record_id
            pictures.mkdir(parents=True)
            write_png_atomic(pictures / "frame.png", pixels)
            write_png_atomic(pictures / "labels.png", inspection.labels)
            utc = f"2026-03-0{part_id}T08:00:00.000Z"
            record = Record(record_id, part_id, "cell-1", utc, outcome, outcome.result, document)
            bank.store(record, pictures=str(pictures))
    engine.close()
    return folder


class Bank:
    """One bank of a test's own, and the command line on it."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self._capsys = path, capsys
        with MemoryBank(path, read_only=True) as bank:
            self.ids = [one.record_id for one in reversed(bank.history())]

    def run(self, verb: str, *arguments: object, code: int = 0, as_json: bool = True) -> Any:
        """The JSON objects on stdout, or with as_json=False stdout; on another exit code than 0 stderr."""
        words = ["memory", verb, *map(str, arguments), "--database", str(self.path), *["--json"] * as_json]
        assert main(words) == code, self._capsys.readouterr()
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        if code in (2, 3, 70):
            return err
        return [json.loads(line) for line in out.splitlines()] if as_json else out


@pytest.fixture
def bank(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bank:
    path = tmp_path / "memory.db"
    source, target = sqlite3.connect(made / "memory.db"), sqlite3.connect(path)
    source.backup(target)
    # Pictures of this test's own, so that retention may delete them.
    for number, pictures in target.execute("SELECT number, pictures FROM records").fetchall():
        own = tmp_path / "pictures" / Path(pictures).name
        own.mkdir(parents=True)
        for file in Path(pictures).iterdir():
            (own / file.name).write_bytes(file.read_bytes())
        assert number
    source.close()
    target.close()
    return Bank(path, capsys)


def test_history_finds_by_every_condition(bank: Bank) -> None:
    everything = bank.run("history")
    assert [one["record_id"] for one in everything] == list(reversed(bank.ids))
    assert {"number", "record_id", "outcome", "defects", "types", "engine"} <= set(everything[0])
    assert [one["outcome"] for one in bank.run("history", "--outcome", "PASS")] == ["PASS", "PASS"]
    assert [one["record_id"] for one in bank.run("history", "--type", "crack")] == [bank.ids[2]]
    assert [one["record_id"] for one in bank.run("history", "--since", "2026-03-02", "--until", "2026-03-03")] == [
        bank.ids[2], bank.ids[1],
    ]  # fmt: skip
    assert bank.run("history", "--recipe", "no such") == bank.run("history", "--station", "no such") == []
    assert [one["record_id"] for one in bank.run("history", "--part", 4)] == [bank.ids[3]]
    page = bank.run("history", "--limit", 2)
    rest = bank.run("history", "--limit", 2, "--before", page[-1]["number"])
    assert [one["record_id"] for one in page + rest] == list(reversed(bank.ids))
    assert "PASS" in bank.run("history", as_json=False)
    assert "did you mean 'scratches'" in bank.run("history", "--type", "scratchs", code=2)
    assert "is no time" in bank.run("history", "--since", "yesterday", code=2)


def test_totals_and_statistics(bank: Bank) -> None:
    (totals,) = bank.run("stats")
    assert totals["counts"]["records"] == 4
    assert {"path", "schema_version", "size_bytes", "free_bytes", "first_utc", "last_utc", "oldest_age_s"} <= set(
        totals
    )
    days = bank.run("stats", "--by", "day")
    assert [(one["key"], one["parts"], one["passed"]) for one in days] == [
        ("2026-03-01", 1, 1), ("2026-03-02", 1, 0), ("2026-03-03", 1, 0), ("2026-03-04", 1, 1),
    ]  # fmt: skip
    assert [one["key"] for one in bank.run("stats", "--by", "week")] == ["2026-W09", "2026-W10"]
    (line,) = bank.run("stats", "--by", "line", "--since", "2026-03-02")
    assert (line["key"], line["parts"], line["rejected"]) == ("cell-1", 3, 2)
    assert line["mean_confidence"] > 0.3
    assert "crack" in [one["key"] for one in bank.run("stats", "--by", "type")]
    assert "cell-1" in bank.run("stats", "--by", "line", as_json=False)
    assert "--by" in bank.run("stats", "--since", "2026", code=2)
    assert "finer than a day" in bank.run("stats", "--by", "day", "--since", "2026-03-01T08", code=2)


def test_feedback_with_a_drawn_mask_is_judged_again(bank: Bank, made: Path, tmp_path: Path) -> None:
    sound = bank.ids[0]
    with MemoryBank(bank.path, read_only=True) as opened:
        before = opened.get(sound)
    assert before is not None
    labels = np.array(load_labels(Path(before.pictures or "") / "labels.png"))
    types = load(engine_folder("castings-xray")).types
    labels[200:206, 150:260] = 1 + types.index("crack")
    write_png_atomic(tmp_path / "drawn.png", labels)
    said = ("--verdict", "missed", "--type", "crack", "--why", "seen by eye", "--who", "Ada")
    drawn = ("--mask", tmp_path / "drawn.png", "--judge-by", made / "recipe.toml")
    (word,) = bank.run("feedback", sound, *said, *drawn)
    assert word["rejudged"]["outcome"] == "FAIL"
    assert (word["who"], word["verdict"], word["mask_types"]) == ("Ada", "missed", list(types))
    with MemoryBank(bank.path, read_only=True) as opened:
        assert opened.get(sound) == before, "the record is what it was"
    assert bank.run("feedback", sound) == [word]
    assert "judged again: FAIL" in bank.run("feedback", sound, as_json=False)

    (made_set,) = bank.run("export", tmp_path / "set", "--data-set")
    assert (made_set["pictures"], made_set["corrected"]) == (1, 1)
    assert (tmp_path / "set" / "masks" / f"{sound}.png").is_file()
    (trail,) = bank.run("trail", "--kind", "feedback")
    assert (trail["subject"], trail["who"], trail["why"]) == (sound, "Ada", "seen by eye")
    assert "Ada" in bank.run("trail", as_json=False)


def test_feedback_that_makes_no_sense_is_refused(bank: Bank, tmp_path: Path) -> None:
    write_png_atomic(tmp_path / "mask.png", np.zeros((512, 512), np.uint8))
    refused = {
        ("nobody", "--verdict", "confirm"): "no record nobody",
        (bank.ids[1], "--verdict", "false_call"): "why is missing",
        (bank.ids[1], "--verdict", "missed", "--why", "w", "--mask", tmp_path / "mask.png"): "--types",
        (bank.ids[1], "--verdict", "confirm", "--types", "crack"): "go with --mask",
        (bank.ids[1], "--verdict", "missed", "--why", "w", "--mask", tmp_path / "no.png", "--types", "crack"): "no.png",
    }
    for arguments, says in refused.items():
        assert says in bank.run("feedback", *arguments, code=2), arguments
    assert bank.run("trail") == []


def test_similar_to_a_record_and_to_a_picture(bank: Bank, made: Path) -> None:
    with MemoryBank(bank.path, read_only=True) as opened:
        record = opened.get(bank.ids[1])
    assert record is not None
    found = bank.run("similar", bank.ids[1], "--limit", 3)
    assert len(found) == 3
    assert [one["distance"] for one in found] == sorted(one["distance"] for one in found)
    assert {"record_id", "trigger_utc", "outcome", "pictures", "indication"} <= set(found[0])
    frame = Path(record.pictures or "") / "frame.png"
    areas = [one["area_mm2"] for one in record.document["defects"]]
    (same,) = bank.run("similar", frame, "--recipe", made / "recipe.toml", "--limit", 1)
    assert same["record_id"] == bank.ids[1], "the picture of a stored part is like itself"
    assert same["indication"]["position"] == areas.index(max(areas))
    assert "mm at" in bank.run("similar", bank.ids[1], as_json=False)
    assert "has no indication" in bank.run("similar", bank.ids[0], code=2)
    assert "no indication 99" in bank.run("similar", bank.ids[1], "--indication", 99, code=2)
    assert "needs --recipe" in bank.run("similar", frame, code=2)
    assert "neither a record" in bank.run("similar", "nobody", code=2)


def test_export_in_every_form(bank: Bank, tmp_path: Path) -> None:
    forms = {}
    for name in ("all.jsonl", "all.json", "all.csv", "all.parquet"):
        (done,) = bank.run("export", tmp_path / name)
        assert done == {"file": str(tmp_path / name), "records": 4}
        forms[name] = tmp_path / name
    lines = [json.loads(line) for line in forms["all.jsonl"].read_text().splitlines()]
    assert lines == json.loads(forms["all.json"].read_text())
    assert [one["record_id"] for one in lines] == bank.ids
    with forms["all.csv"].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(forms["all.parquet"])
    assert [row["record_id"] for row in rows] == table["record_id"].to_pylist() == bank.ids
    assert [json.loads(text) for text in table["document"].to_pylist()] == lines
    bank.run("export", tmp_path / "marks.parquet", "--table", "indications")
    marks = pyarrow.parquet.read_table(tmp_path / "marks.parquet")
    assert marks.num_rows == sum(len(one["defects"]) for one in lines)
    assert marks["area_mm2"].to_pylist()[0] == lines[1]["defects"][0]["area_mm2"]
    bank.run("feedback", bank.ids[1], "--verdict", "confirm", "--who", "Ada")
    for table_name, rows_there in (("feedback", 1), ("performance", 4)):
        for suffix in ("csv", "json", "parquet"):
            (done,) = bank.run("export", tmp_path / f"{table_name}.{suffix}", "--table", table_name)
            assert done["records"] == rows_there
    (word,) = json.loads((tmp_path / "feedback.json").read_text())
    assert (word["verdict"], word["who"], word["current"]) == ("confirm", "Ada", True)
    (done,) = bank.run("export", tmp_path / "none.json", "--since", "2999")
    assert (done["records"], json.loads((tmp_path / "none.json").read_text())) == (0, [])


def test_parquet_without_its_package_says_which_extra(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("edge_daemon.memory.exporting.import_module", absent)
    said = bank.run("export", tmp_path / "all.parquet", code=3)
    assert "edge-daemon[parquet]" in said
    assert not (tmp_path / "all.parquet").exists()


def test_clean_says_first_and_does_then(bank: Bank, tmp_path: Path) -> None:
    (would,) = bank.run("clean", "--keep-days", 1, "--dry-run")
    assert (would["records"], would["pictures"], would["dry_run"]) == (0, 0, True), "they were stored just now"
    with sqlite3.connect(bank.path) as db:
        db.execute("UPDATE records SET created_utc = '2026-03-01T00:00:00.000Z' WHERE number < 3")
        for name in bank.ids[:2]:
            db.execute("UPDATE records SET pictures = ? WHERE record_id = ?", (str(tmp_path / "pictures" / name), name))
    db.close()
    (would,) = bank.run("clean", "--keep-days", 30, "--dry-run")
    assert (would["records"], would["pictures"]) == (2, 2)
    assert len(bank.run("history")) == 4
    (pictures,) = bank.run("clean", "--keep-pictures-days", 30, "--who", "Ada", "--why", "full")
    assert (pictures["records"], pictures["pictures"]) == (0, 2)
    assert pictures["pictures_bytes"] > 10_000
    assert not (tmp_path / "pictures" / bank.ids[0]).exists()
    (done,) = bank.run("clean", "--keep-days", 30)
    assert (done["records"], done["pictures"]) == (2, 0)
    assert [one["record_id"] for one in bank.run("history")] == [bank.ids[3], bank.ids[2]]
    assert "nothing says what is to stay" in bank.run("clean", code=2)
    assert "1 or more days" in bank.run("clean", "--keep-days", 0, code=2)
    (removed,) = bank.run("cleanup", "--days", 30)
    assert removed == {"records": 0, "picture_folders": 0}


def test_verify_answers_by_its_exit_code(bank: Bank) -> None:
    (good,) = bank.run("verify")
    assert (good["ok"], good["records"], good["faults"]) == (True, 4, [])
    assert "nothing was changed" in bank.run("verify", "--quick", "--expect", good["head"], as_json=False)
    db = sqlite3.connect(bank.path)
    db.execute("UPDATE records SET outcome = 'PASS', result = 'PASS' WHERE number = 2")
    db.commit()
    db.close()
    (bad,) = bank.run("verify", code=4)
    assert [(one["number"], one["what"]) for one in bad["faults"]] == [(2, "changed")]
    assert "changed at row 2" in bank.run("verify", code=4, as_json=False)
    assert "no end of a chain" in bank.run("verify", "--expect", "2", code=2)


def test_patterns_are_shown_and_edited(bank: Bank) -> None:
    assert len(bank.run("patterns")) == 22
    (own,) = bank.run("patterns", "crack", "--cause", "quench", "--cause", "jig", "--who", "Ada", "--why", "seen often")
    assert (own["causes"], own["edited_by"]) == (["quench", "jig"], "Ada")
    assert bank.run("patterns", "crack") == [own]
    assert "edited by Ada" in bank.run("patterns", "crack", as_json=False)
    (back,) = bank.run("patterns", "crack", "--reset", "--who", "Bo", "--why", "no")
    assert back["edited_by"] is None
    assert "why is missing" in bank.run("patterns", "crack", "--title", "t", code=2)
    assert "no type of defect" in bank.run("patterns", "hole", code=2)
    assert "which type" in bank.run("patterns", "--title", "t", code=2)


def test_init_upgrade_and_sessions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new.db"
    assert main(["memory", "init", "--database", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"database": str(path)}
    assert main(["memory", "upgrade", "--database", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema_version"] == 2
    with MemoryBank(path) as bank:
        facts = {
            "station": "s",
            "version": "1",
            "recipe": "r",
            "engine": "e",
            "engine_sha256": "a",
            "config_sha256": "b",
        }
        lost = bank.begin_session(**facts)
        number = bank.begin_session(**facts)
        bank.store(Record(new_record_id(), 1, "s", "2026-03-01T08:00:00.000Z", Outcome.FAIL, "FAIL", {}))
        assert bank.history()[0].session == number
        assert bank.end_session() == bank.head()
        assert [(one.number, one.ended) for one in bank.sessions()] == [(number, "stopped"), (lost, "lost")]
        assert bank.verify().ok
    assert main(["memory", "sessions", "--database", str(path)]) == 0
    assert "lost" in capsys.readouterr().out
    assert main(["memory", "history", "--database", str(tmp_path / "no.db")]) == 2
    assert "no such memory bank" in capsys.readouterr().err
