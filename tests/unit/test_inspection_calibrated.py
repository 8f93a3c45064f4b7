"""A station with a sealed calibration: rectified before it is looked at, brought back for the yellow picture."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from edge_daemon import inspection as module
from edge_daemon.calibration import Heading, load_calibration, save_document, scale_document, scale_from_pixel_pitch
from edge_daemon.cli import main
from edge_daemon.errors import ConfigError, ImageError, IntegrityError
from edge_daemon.images import write_png_atomic
from edge_daemon.inspection import Station, document_of, prepare_station
from edge_daemon.recipe import load_recipe
from edge_daemon.records import Outcome, Region, Segmentation
from edge_daemon.resources import data_folder, engine_folder
from edge_daemon.segment.bundle import load
from edge_daemon.segment.protocol import Engine
from edge_daemon.segment.registry import open_engine
from edge_daemon.simulator import conveyor_part

EXAMPLE = data_folder("calibration") / "example.json"
DEMO = files("edge_daemon.demo").joinpath("recipe.toml").read_text()
NOW = datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine(load(engine_folder("castings-xray")), "onnxruntime")


def recipe_with(folder: Path, calibration: Path) -> Path:
    lines = [line for line in DEMO.splitlines() if not line.startswith(("mm_per_px", "u_mm_per_px"))]
    path = folder / "recipe.toml"
    path.write_text(f'calibration = "{calibration}"\n' + "\n".join(lines))
    return path


def pitch_calibration(folder: Path, *, valid: timedelta = timedelta(days=90), made: datetime = NOW) -> Path:
    """0.125 mm at the detector, magnified 1.25 times: 0.1 mm on the part."""
    path = folder / "cal.json"
    reading = scale_from_pixel_pitch((0.125, 0.125), 1.25, 0.005)
    save_document(path, scale_document(reading, (512, 512), Heading((), valid=valid, now=made)))
    return path


def test_the_scale_and_its_uncertainty_come_from_the_sealed_file(tmp_path: Path, engine: Engine) -> None:
    path = pitch_calibration(tmp_path)
    station = prepare_station(engine, load_recipe(recipe_with(tmp_path, path)))
    assert station.scale is not None
    assert station.scale.both == pytest.approx((0.1, 0.1))
    assert station.scale.relative_u == pytest.approx(0.005 / 1.25, rel=0.05)
    pixels = conveyor_part(985_003, "rejectable").pixels
    inspection = station.inspect(pixels)
    assert inspection.verdict.outcome is Outcome.FAIL
    document = document_of(station, inspection, record_id="r", image=None, image_sha256=None)
    assert document["calibration_sha256"] == load_calibration(path).sha256
    assert document["calibration"]["u_relative"] == pytest.approx(station.scale.relative_u)
    json.dumps(document, allow_nan=False)


def test_a_frame_of_another_size_is_not_evaluable(tmp_path: Path, engine: Engine) -> None:
    station = prepare_station(engine, load_recipe(recipe_with(tmp_path, pitch_calibration(tmp_path))))
    verdict = station.inspect(np.zeros((480, 640), np.uint8)).verdict
    assert verdict.outcome is Outcome.NOT_EVALUABLE
    assert [reason.code for reason in verdict.reasons] == ["CALIBRATION_SIZE"]


def test_past_its_day_nothing_is_judged(tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    path = pitch_calibration(tmp_path, valid=timedelta(days=1), made=NOW - timedelta(days=2))
    recipe = recipe_with(tmp_path, path)
    station = prepare_station(engine, load_recipe(recipe))
    refusal = station.refusal(NOW.isoformat())
    assert refusal is not None
    assert refusal.code == "CALIBRATION_EXPIRED"
    picture = tmp_path / "part.png"
    write_png_atomic(picture, conveyor_part(985_000, "sound").pixels)
    assert main(["inspect", str(picture), "--recipe", str(recipe)]) == 4
    assert "EXPIRED" in capsys.readouterr().err


def test_a_site_may_allow_a_calibration_less_time_than_it_gives_itself(tmp_path: Path, engine: Engine) -> None:
    path = pitch_calibration(tmp_path, valid=timedelta(days=100), made=NOW - timedelta(days=2))
    station = prepare_station(engine, load_recipe(recipe_with(tmp_path, path)))
    assert station.calibration is not None
    assert station.calibration.age_s(NOW.isoformat()) == pytest.approx(2 * 86400, abs=2)
    assert station.refusal(NOW.isoformat(), 3 * 86400.0) is None
    refusal = station.refusal(NOW.isoformat(), 1.5 * 86400)
    assert refusal is not None
    assert refusal.code == "CALIBRATION_OLD"
    early = station.refusal((NOW - timedelta(days=9)).isoformat(), 1.5 * 86400)
    assert early is not None
    assert early.code == "CALIBRATION_NOT_YET_VALID"


def test_a_changed_byte_and_a_second_scale_are_refused(tmp_path: Path) -> None:
    path = pitch_calibration(tmp_path)
    recipe = recipe_with(tmp_path, path)
    recipe.write_text('mm_per_px = "0.1 mm"\n' + recipe.read_text())
    with pytest.raises(ConfigError, match="does not go with calibration"):
        load_recipe(recipe)
    path.write_text(path.read_text().replace("0.1", "0.2", 1))
    with pytest.raises(IntegrityError):
        load_recipe(recipe_with(tmp_path, path))


def test_a_camera_whose_marks_are_gone_has_no_millimetres(tmp_path: Path, engine: Engine) -> None:
    station = prepare_station(engine, load_recipe(recipe_with(tmp_path, EXAMPLE)))
    assert station.calibration is not None
    width, height = station.calibration.size_px
    verdict = station.inspect(np.full((height, width), 90, np.uint8)).verdict
    assert verdict.outcome is Outcome.NOT_EVALUABLE
    assert verdict.reasons[0].code == "FIDUCIAL_LOST"


def test_a_rectified_defect_is_brought_back_to_the_frames_own_pixels(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's answer is played: one block in the rectified picture. Its box and labels must agree in the frame."""
    station: Station = prepare_station(engine, load_recipe(recipe_with(tmp_path, EXAMPLE)))
    assert station.calibration is not None
    calibration = replace(station.calibration, fiducial=None)
    station = replace(station, calibration=calibration)
    assert calibration.kind == "plane"

    def see(_engine: Engine, pixels: np.ndarray, **options: object) -> Segmentation:
        labels = np.zeros(pixels.shape[:2], np.uint8)
        height, width = labels.shape
        box = (width // 3, height // 4, width // 20, height // 30)
        labels[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
        region = Region(1, 1, engine.bundle.types[0], True, 1.0, 1.0, engine.bundle.types[0], box)
        return Segmentation(labels, None, engine.bundle.types, (region,))

    monkeypatch.setattr(module, "see", see)
    frame = np.full((calibration.size_px[1], calibration.size_px[0]), 90, np.uint8)
    inspection = station.inspect(frame)
    assert inspection.labels.shape == frame.shape
    assert station.working_mm_per_px is not None
    document = document_of(station, inspection, record_id="r", image=None, image_sha256=None)
    (defect,) = document["defects"]
    x, y, w, h = defect["bbox_px"]
    ys, xs = np.nonzero(inspection.labels)
    assert len(ys)
    assert x - 2 <= xs.min()
    assert xs.max() < x + w + 2
    assert abs(xs.min() - x) <= 3
    assert abs(ys.min() - y) <= 3
    assert abs(xs.max() + 1 - x - w) <= 3
    assert abs(ys.max() + 1 - y - h) <= 3
    assert document["working"]["size_px"] == list(inspection.segmentation.labels.shape[::-1])


def test_labels_of_a_frame_are_measured_on_the_plane(tmp_path: Path, engine: Engine) -> None:
    """A corrected label image is one of the frame. Rectified labels there and back are themselves, but for the rim."""
    station: Station = prepare_station(engine, load_recipe(recipe_with(tmp_path, EXAMPLE)))
    calibration = station.calibration
    assert calibration is not None
    flat = np.zeros(calibration.rectified_size_px[::-1], np.uint8)
    height, width = flat.shape
    flat[height // 2 : height // 2 + 40, width // 2 : width // 2 + 60] = 2
    frame = calibration.labels_to_frame(flat, calibration.size_px[::-1])
    back = calibration.labels_from_frame(frame)
    assert set(np.unique(back)) == {0, 2}
    assert abs(int((back == 2).sum()) - 2400) < 100, "half a pixel of the rim"
    assert int(((back == 2) != (flat == 2)).sum()) < 210
    inspection = station.inspect_labels(frame)
    assert inspection.measurement is not None
    found = inspection.measurement.types[engine.bundle.types[1]]
    assert found.area_mm2.value == pytest.approx(2400 * calibration.scale.x_mm_per_px**2, rel=0.05)
    assert inspection.labels.shape == frame.shape
    single = np.zeros_like(frame)
    single[frame.shape[0] // 3, frame.shape[1] // 3] = 255
    assert (calibration.labels_from_frame(single) == 255).sum() >= 1, "no defect vanishes"
    with pytest.raises(ImageError):
        calibration.labels_from_frame(frame[:-1])
