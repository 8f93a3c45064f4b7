"""What people add: feedback that changes no record, their own words about defects, and a data set training can read."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_daemon.errors import StorageError, UsageError
from edge_daemon.images import load_labels, write_png_atomic
from edge_daemon.inspection import Station, document_of, prepare_station
from edge_daemon.memory import FEEDBACK_VERDICTS, MemoryBank, Policy, StoredRecord
from edge_daemon.recipe import load_recipe
from edge_daemon.records import TYPE_IDS, UNKNOWN_TYPE, Outcome, Record
from edge_daemon.replay import rejudge
from edge_daemon.resources import engine_folder
from edge_daemon.segment.bundle import load
from edge_daemon.segment.registry import open_engine
from edge_daemon.simulator import conveyor_part
from edge_daemon.station.words import Words
from edge_daemon.tickets import new_record_id
from edge_daemon.train.labelled import UNTYPED, open_folder

UTC = "2026-03-01T08:00:00.000Z"
SIZE = 48

#: Two squares of label 1 (crack), one of 3 (gas_hole), one unknown: (label, type, box).
MARKS = ((1, "crack", (2, 2, 6, 6)), (1, "crack", (20, 2, 8, 4)), (3, "gas_hole", (2, 30, 5, 5)),
         (255, "unknown", (30, 30, 7, 7)))  # fmt: skip


def stored(
    bank: MemoryBank, folder: Path | None, marks: Any = MARKS, part_id: int = 1, outcome: Outcome = Outcome.FAIL
) -> str:
    """Store a record with these marks, and its pictures where there is a folder."""
    record_id = new_record_id()
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for label, _, (x, y, w, h) in marks:
        labels[y : y + h, x : x + w] = label
    defects = [
        {"label": label, "type": name, "known": name != "unknown", "nearest_type": "crack", "confidence": 0.9,
         "bbox_px": list(box), "area_mm2": 0.1, "feret_max_mm": 0.5}
        for label, name, box in marks
    ]  # fmt: skip
    pictures = None
    if folder is not None:
        pictures = folder / record_id
        pictures.mkdir(parents=True)
        frame = np.random.default_rng(part_id).integers(0, 65535, (SIZE, SIZE), np.uint16)
        write_png_atomic(pictures / "frame.png", frame)
        write_png_atomic(pictures / "labels.png", labels)
    document = {"recipe": "housing", "reasons": [], "defects": defects, "engine": {"sha256": "e"}}
    record = Record(record_id, part_id, "cell,1", UTC, outcome, outcome.result, document)
    bank.store(record, pictures=None if pictures is None else str(pictures))
    return record_id


@pytest.fixture
def bank(tmp_path: Path) -> Any:
    with MemoryBank(tmp_path / "memory.db") as opened:
        yield opened


# ---------------------------------------------------------------- feedback


def test_feedback_changes_no_record(bank: MemoryBank) -> None:
    record_id = stored(bank, None)
    before = bank.get(record_id)
    word = bank.feedback(
        record_id, "wrong_type", who=" Ada ", why="it is a scratch", position=1, correct_type="scratches"
    )
    assert (word.who, word.why, word.position, word.correct_type, word.current) == (
        "Ada", "it is a scratch", 1, "scratches", True,
    )  # fmt: skip
    assert word.at_utc > "2026"
    assert bank.get(record_id) == before
    assert bank.feedback_of(record_id) == [word]
    assert bank.verify().ok


def test_the_latest_word_about_an_indication_counts(bank: MemoryBank) -> None:
    record_id = stored(bank, None)
    bank.feedback(record_id, "false_call", who="Ada", why="dust", position=0)
    bank.feedback(record_id, "confirm", who="Bo", position=0)
    bank.feedback(record_id, "confirm", who="Bo")
    assert [(one.verdict, one.position, one.current) for one in bank.feedback_of(record_id)] == [
        ("confirm", None, True), ("confirm", 0, True), ("false_call", 0, False),
    ]  # fmt: skip
    (day,) = bank.statistics("day")
    assert (day.confirmed, day.false_calls) == (2, 0)
    crack = next(one for one in bank.statistics("type") if one.key == "crack")
    assert (crack.confirmed, crack.false_calls, crack.indications) == (1, 0, 2)


def test_feedback_is_counted_by_type_and_day(bank: MemoryBank) -> None:
    record_id, clean = stored(bank, None), stored(bank, None, marks=(), outcome=Outcome.PASS)
    bank.feedback(record_id, "wrong_type", who="A", why="w", position=2, correct_type="crack")
    bank.feedback(clean, "missed", who="A", why="w", correct_type="cold_shut")
    (day,) = bank.statistics("day")
    assert (day.parts, day.wrong_type, day.missed, day.confirmed) == (2, 1, 1, 0)
    by_type = {one.key: one for one in bank.statistics("type")}
    assert by_type["gas_hole"].wrong_type == 1
    assert (by_type["cold_shut"].missed, by_type["cold_shut"].parts) == (1, 0)


@pytest.mark.parametrize(
    ("verdict", "given", "says"),
    [
        ("maybe", {}, "not known"),
        ("confirm", {"who": "  "}, "who is missing"),
        ("false_call", {"why": ""}, "why is missing"),
        ("confirm", {"position": 4}, "no indication 4"),
        ("confirm", {"position": -1}, "no indication -1"),
        ("missed", {"position": 0}, "none of the indications"),
        ("wrong_type", {"position": 0}, "right type"),
        ("wrong_type", {"correct_type": "fray"}, "right type"),
        ("wrong_type", {"position": 0, "correct_type": "crack"}, "already"),
        ("wrong_type", {"position": 0, "correct_type": "scratchs"}, "no type of defect"),
        ("false_call", {"position": 0, "correct_type": "fray"}, "has no right type"),
        ("confirm", {"mask": np.zeros((SIZE, SIZE), np.uint8)}, "does not confirm"),
        ("missed", {"mask": np.zeros((SIZE, 5), np.uint8)}, "px"),
        ("missed", {"mask": np.full((SIZE, SIZE), 3, np.uint8), "mask_types": ("crack",)}, "holds the value 3"),
        ("missed", {"mask": np.zeros((SIZE, SIZE)), "mask_types": ("crack",)}, "uint8"),
        ("missed", {"mask": np.zeros((SIZE, SIZE), np.uint8), "mask_types": ("hole",)}, "'hole'"),
        ("false_call", {"why": "x" * 5000}, "5000 characters"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    bank: MemoryBank, tmp_path: Path, verdict: str, given: dict[str, Any], says: str
) -> None:
    record_id = stored(bank, tmp_path / "pictures")
    with pytest.raises(UsageError, match=says):
        bank.feedback(record_id, verdict, **{"who": "Ada", "why": "w", **given})
    assert bank.feedback_of(record_id) == []
    assert bank.notes() == []
    assert set(FEEDBACK_VERDICTS) == {"confirm", "wrong_type", "missed", "false_call"}


def test_feedback_needs_a_record_and_a_picture(bank: MemoryBank) -> None:
    with pytest.raises(UsageError, match="no record nobody") as caught:
        bank.feedback("nobody", "confirm", who="Ada")
    assert caught.value.code == "NOT_FOUND"
    record_id = stored(bank, None)
    with pytest.raises(UsageError, match="not kept"):
        bank.feedback(record_id, "missed", who="A", why="w", mask=np.zeros((9, 9), np.uint8), mask_types=["crack"])


def test_a_label_image_comes_back_as_it_was_handed_in(bank: MemoryBank, tmp_path: Path) -> None:
    record_id = stored(bank, tmp_path / "pictures")
    mask = np.random.default_rng(0).choice(np.array([0, 1, 2, 254, 255], np.uint8), (SIZE, SIZE))
    word = bank.feedback(record_id, "missed", who="A", why="w", mask=mask, mask_types=["crack", "cold_shut"],
                         rejudged={"outcome": "FAIL"})  # fmt: skip
    assert np.array_equal(bank.mask(word.mask_sha256 or ""), mask)
    assert (word.mask_types, word.rejudged) == (("crack", "cold_shut"), {"outcome": "FAIL"})
    with pytest.raises(UsageError, match="no label image"):
        bank.mask("0" * 64)
    with bank._db.writing() as db:
        db.execute("UPDATE masks SET png = x'00'")
    with pytest.raises(StorageError):
        bank.mask(word.mask_sha256 or "")
    assert "label image" in bank.verify().faults[0].text


def test_retention_keeps_what_people_have_spoken_about(bank: MemoryBank, tmp_path: Path) -> None:
    spoken, silent = stored(bank, tmp_path / "pictures"), stored(bank, tmp_path / "pictures")
    bank.feedback(spoken, "confirm", who="Ada")
    done = bank.clean(Policy(most_bytes=1_000_000), who="test")
    assert (done.records, done.pictures) == (0, 0), "there is room"
    with bank._db.writing() as db:
        db.execute("UPDATE records SET created_utc = '2001'")
    done = bank.clean(Policy(records_days=1), who="test")
    assert done.records == 1
    assert bank.get(silent) is None
    left = bank.get(spoken)
    assert left is not None
    assert sorted(path.name for path in Path(left.pictures or "").iterdir()) == ["frame.png", "labels.png"]
    assert not (tmp_path / "pictures" / silent).exists()


# ---------------------------------------------------------------- patterns


@pytest.mark.parametrize("language", ["en", "he"])
def test_every_type_has_its_pattern(bank: MemoryBank, language: str) -> None:
    patterns = bank.patterns(language=language)
    assert set(patterns) == {*TYPE_IDS, UNKNOWN_TYPE}
    for pattern in patterns.values():
        assert len(pattern.description) > 45
        assert len(pattern.causes) >= 3
        assert len(pattern.severity) >= 3
        assert pattern.edited_by is None
    texts = [text for one in patterns.values() for text in (one.description, *one.causes, *one.severity)]
    assert len(set(texts)) == len(texts), "no sentence stands for two types"
    letters = [bool(re.search("[\u05d0-\u05ea]", text)) for text in texts]
    assert all(letters) if language == "he" else not any(letters)


def test_the_shipped_words_say_as_much_in_every_language(bank: MemoryBank) -> None:
    english, hebrew = bank.patterns(), bank.patterns(language="he")
    names = Words("he")
    for name, one in english.items():
        other = hebrew[name]
        assert (len(one.causes), len(one.severity)) == (len(other.causes), len(other.severity)), name
        assert name == "unknown" or other.title == names.type_name(name), "called as everywhere on the page"
    with pytest.raises(UsageError, match="no words in the language 'fr'"):
        bank.patterns(language="fr")


def test_own_words_are_shown_as_they_are_in_every_language(bank: MemoryBank) -> None:
    own = bank.edit_pattern("crack", who="Ada", why="our alloy", title="Hairline")
    assert bank.patterns(language="he")["crack"] == bank.patterns()["crack"] == own
    assert bank.patterns(language="he")["fray"].title == "פרימה"
    own = bank.edit_pattern("fray", who="Ada", why="our tiles", title="קצה מתפורר", language="he")
    assert own.causes == bank.patterns()["fray"].causes and "אריחים" in own.causes[2], "what was not given, in Hebrew"
    assert bank.verify().ok


def test_own_words_take_the_place_of_the_shipped_ones(bank: MemoryBank) -> None:
    shipped = bank.patterns()["crack"]
    own = bank.edit_pattern("crack", who="Ada", why="our alloy", causes=["quench too hard"])
    assert (own.causes, own.description, own.edited_by) == (("quench too hard",), shipped.description, "Ada")
    assert bank.patterns()["crack"] == own
    (note,) = bank.notes(kind="pattern")
    assert (note.subject, note.who, note.why, note.body["causes"]) == ("crack", "Ada", "our alloy", ["quench too hard"])
    bank.edit_pattern("crack", who="Bo", why="not so", reset=True)
    assert bank.patterns()["crack"] == shipped
    assert bank.verify().ok
    for bad, says in (({"title": " "}, "title is missing"), ({}, "nothing was changed")):
        with pytest.raises(UsageError, match=says):
            bank.edit_pattern("crack", who="Ada", why="w", **bad)
    with pytest.raises(UsageError, match="no type"):
        bank.edit_pattern("hole", who="Ada", why="w", title="t")


# ---------------------------------------------------------------- judging again


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Station:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(files("edge_daemon.demo").joinpath("recipe.toml").read_text())
    return prepare_station(open_engine(load(engine_folder("castings-xray")), "onnxruntime"), load_recipe(path))


def judged(station: Station, folder: Path, planted: Any) -> StoredRecord:
    """A record of the real engine with its pictures, as the line would have left it."""
    pixels = conveyor_part(985_100, planted).pixels
    inspection = station.inspect(pixels)
    document = document_of(station, inspection, record_id="r", image=None, image_sha256=None)
    write_png_atomic(folder / "frame.png", pixels)
    write_png_atomic(folder / "labels.png", inspection.labels)
    outcome = inspection.verdict.outcome
    return StoredRecord(1, "r", 7, "s", UTC, outcome, outcome.result, (), (), str(folder), UTC, document)


def test_a_missed_defect_that_somebody_draws_fails_the_part(tmp_path: Path, station: Station) -> None:
    record = judged(station, tmp_path, "sound")
    assert record.outcome is Outcome.PASS
    labels = load_labels(tmp_path / "labels.png")
    same = rejudge(station, record, labels)
    assert same["outcome"] == "PASS"
    drawn = labels.copy()
    drawn[200:206, 180:260] = 1 + station.engine.bundle.types.index("crack")
    again = rejudge(station, record, drawn)
    assert again["outcome"] == "FAIL"
    assert [one["type"] for one in again["defects"]] == ["crack"]
    drawn[200:206, 180:260] = 254
    assert rejudge(station, record, drawn)["outcome"] == "INCONCLUSIVE", "what nobody can name never passes"


def test_a_false_call_that_somebody_erases_passes_again(tmp_path: Path, station: Station) -> None:
    record = judged(station, tmp_path, "rejectable")
    assert record.outcome is Outcome.FAIL
    labels = np.zeros_like(load_labels(tmp_path / "labels.png"))
    assert rejudge(station, record, labels)["outcome"] == "PASS"


def test_what_cannot_be_judged_again_is_said(tmp_path: Path, station: Station) -> None:
    record = judged(station, tmp_path, "sound")
    labels = load_labels(tmp_path / "labels.png")
    with pytest.raises(UsageError, match="px"):
        rejudge(station, record, labels[:-1])
    blurred = {**record.document, "judged": "NOT_EVALUABLE", "reasons": [{"code": "BLURRED", "text": "t"}]}
    with pytest.raises(UsageError, match="BLURRED"):
        rejudge(station, StoredRecord(*list(_values(record))[:11], blurred), labels)
    (tmp_path / "frame.png").unlink()
    with pytest.raises(UsageError, match="not kept"):
        rejudge(station, record, labels)


def _values(record: StoredRecord) -> list[Any]:
    return [getattr(record, name) for name in asdict(record)]


# ---------------------------------------------------------------- the data set


def test_training_reads_what_people_said(bank: MemoryBank, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    as_is, sound, edited, drawn, nothing = (stored(bank, pictures, part_id=n) for n in range(1, 6))
    bank.feedback(as_is, "confirm", who="Ada")
    bank.feedback(sound, "false_call", who="Ada", why="a label on the part")
    bank.feedback(edited, "confirm", who="Ada")
    bank.feedback(edited, "false_call", who="Ada", why="dust", position=1)
    bank.feedback(edited, "wrong_type", who="Bo", why="cold", position=2, correct_type="cold_shut")
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[5:9, 5:40], mask[40:, 40:], mask[0, 0] = 2, 254, 255
    bank.feedback(drawn, "missed", who="Cy", why="a scratch", mask=mask, mask_types=["fray", "scratches"])

    made = bank.export_data_set(tmp_path / "set")
    assert (made.pictures, made.confirmed, made.edited, made.corrected) == (4, 1, 2, 1)
    assert made.left_out == ()

    folder = open_folder(tmp_path / "set")
    assert folder.form == "masks"
    assert folder.notes == ()
    found = {Path(one.name).stem: one for one in folder}
    assert set(found) == {as_is, sound, edited, drawn}
    assert nothing not in found
    value = {name: number for number, name in enumerate(found[as_is].types, start=1)}

    def names(record_id: str) -> dict[int, int]:
        labels = found[record_id].labels
        assert labels is not None
        return dict(zip(*(array.tolist() for array in np.unique(labels, return_counts=True)), strict=True))

    assert names(as_is) == {0: SIZE**2 - 142, value["crack"]: 36 + 32, value["gas_hole"]: 25, UNTYPED: 49}
    assert names(sound) == {0: SIZE**2}
    assert names(edited) == {0: SIZE**2 - 110, value["crack"]: 36, value["cold_shut"]: 25, UNTYPED: 49}
    assert names(drawn) == {0: SIZE**2 - 205, value["scratches"]: 140, UNTYPED: 1, 254: 64}
    frame = bank.get(drawn)
    assert frame is not None
    assert (tmp_path / "set" / "images" / f"{drawn}.png").read_bytes() == (
        Path(frame.pictures or "") / "frame.png"
    ).read_bytes(), "sixteen bits stay sixteen bits"
    assert found[drawn].part == "cell_1/2026-03-01/4"
    origin = json.loads((tmp_path / "set" / "origin.json").read_text())
    assert origin["chain"] == bank.head()
    assert {one["record_id"]: one["how"] for one in origin["records"]}[drawn] == "corrected"


def test_only_what_somebody_vouches_for_is_exported(bank: MemoryBank, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    missed, partly, late, gone, unclear, whole = (stored(bank, pictures, part_id=n) for n in range(1, 7))
    bank.feedback(missed, "missed", who="A", why="a hairline, not drawn")
    bank.feedback(partly, "confirm", who="A", position=0)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    bank.feedback(late, "missed", who="A", why="w", mask=mask, mask_types=["crack"])
    bank.feedback(late, "confirm", who="B", position=3)
    bank.feedback(gone, "confirm", who="A")
    for path in (pictures / gone).iterdir():
        path.unlink()
    bank.feedback(unclear, "confirm", who="A")
    bank.feedback(unclear, "false_call", who="A", why="w", position=0)
    labels = load_labels(pictures / unclear / "labels.png").copy()
    labels[:10, :10] = 0
    write_png_atomic(pictures / unclear / "labels.png", labels)
    for position in range(4):
        bank.feedback(whole, "confirm", who="A", position=position)
    made = bank.export_data_set(tmp_path / "set")
    assert made.pictures == 1
    why = dict(made.left_out)
    assert "nobody has drawn it" in why[missed]
    assert "nobody has said" in why[partly]
    assert "after the corrected" in why[late]
    assert "frame.png" in why[gone]
    assert "cannot be found again" in why[unclear]
    assert [Path(one.name).stem for one in open_folder(tmp_path / "set")] == [whole]


def test_a_data_set_appears_whole_or_not_at_all(bank: MemoryBank, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no record can be exported"):
        bank.export_data_set(tmp_path / "set")
    bank.feedback(stored(bank, tmp_path / "pictures"), "confirm", who="A")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        bank.export_data_set(tmp_path / "full")
    with pytest.raises(UsageError, match="cannot write"):
        bank.export_data_set(tmp_path / "no" / "set")
    with pytest.raises(UsageError, match="no record can be exported"):
        bank.export_data_set(tmp_path / "set", recipe="another")
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("memory")) == [
        "full",
        "pictures",
    ]
