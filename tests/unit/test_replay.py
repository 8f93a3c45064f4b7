"""Records that must not be judged again say why, and none of them stops the others."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from edge_daemon.images import write_png_atomic
from edge_daemon.inspection import Station, document_of, prepare_station
from edge_daemon.memory import StoredRecord
from edge_daemon.recipe import load_recipe
from edge_daemon.records import Outcome
from edge_daemon.replay import replay
from edge_daemon.resources import engine_folder
from edge_daemon.segment.bundle import load
from edge_daemon.segment.registry import open_engine
from edge_daemon.simulator import conveyor_part


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Station:
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(files("edge_daemon.demo").joinpath("recipe.toml").read_text())
    return prepare_station(open_engine(load(engine_folder("castings-xray")), "onnxruntime"), load_recipe(path))


def record(folder: Path, document: dict[str, Any]) -> StoredRecord:
    return StoredRecord(
        1, "r", 7, "s", "2026-01-31T08:00:00.000Z", Outcome.NOT_EVALUABLE, "FAIL", (), (), str(folder), "", document
    )


@pytest.mark.parametrize("code", ["FRAME_LOST", "CALIBRATION_EXPIRED", "BUSY", "RECIPE"])
def test_a_part_that_was_not_judged_is_not_judged_now(tmp_path: Path, station: Station, code: str) -> None:
    """Its frame may show another part; a PASS for it would prove nothing."""
    write_png_atomic(tmp_path / "frame.png", conveyor_part(985_000, "sound").pixels)
    document = {"judged": "NOT_EVALUABLE", "outcome": "NOT_EVALUABLE", "reasons": [{"code": code, "text": "t"}]}
    (one,) = replay(station, [record(tmp_path, document)])
    assert one.after is None
    assert not one.changed
    assert code in one.why


def test_a_record_that_makes_no_sense_stops_nothing(tmp_path: Path, station: Station) -> None:
    write_png_atomic(tmp_path / "frame.png", conveyor_part(985_000, "sound").pixels)
    good = {"judged": "FAIL", "outcome": "FAIL", "reasons": []}
    one, two, three = replay(
        station, [record(tmp_path, {}), record(tmp_path, {"outcome": "MAYBE"}), record(tmp_path, good)]
    )
    assert one.after is two.after is None
    assert (three.before, three.after) == (Outcome.FAIL, Outcome.PASS)


def test_a_record_from_before_a_field_existed_is_still_identical(tmp_path: Path, station: Station) -> None:
    pixels = conveyor_part(985_001, "acceptable").pixels
    write_png_atomic(tmp_path / "frame.png", pixels)
    document = document_of(station, station.inspect(pixels), record_id="r", image=None, image_sha256=None)
    older = json.loads(json.dumps(document))
    for one in older["types"]:
        del one["severity_high"], one["rule"]["advisory"]
    (same,) = replay(station, [record(tmp_path, older)])
    assert same.identical
    older["types"][0]["windows"][0]["area_pct"]["value"] *= 1.0001
    (other,) = replay(station, [record(tmp_path, older)])
    assert not other.identical
