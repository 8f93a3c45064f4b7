"""Max-recall mode: the fewest false calls that keep a certified promise; never something weaker; never unseen."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_daemon import cli
from edge_daemon.errors import ConfigError
from edge_daemon.inspection import document_of, prepare_station
from edge_daemon.judge import Scale
from edge_daemon.recipe import load_recipe
from edge_daemon.resources import engine_folder
from edge_daemon.segment.bundle import Bundle, load, seal
from edge_daemon.segment.claims import OperatingPoint, choose_point, max_recall_engine, read_claims
from edge_daemon.segment.onnx import OnnxEngine
from edge_daemon.testing.engine_contract import tiny_bundle
from edge_daemon.train.labelled import Labelled
from edge_daemon.train.observing import grids_for, observe

SHA = "0" * 64


def point(
    seed: float, lower: float, calls: float | None, *, grow: float = 0.3, default: bool = False
) -> dict[str, Any]:
    return {
        "seed": seed, "grow": grow, "min_region_px": 2, "parts": 2000, "missed": 1, "recall_lower": lower,
        "false_calls_per_image": None if calls is None else [calls, calls / 2, calls * 2], "default": default,
    }  # fmt: skip


POINTS = [point(0.3, 0.998, 0.5), point(0.5, 0.996, 0.2), point(0.7, 0.9951, 0.1), point(0.8, 0.98, 0.01, default=True)]


def with_claims(made: Bundle, points: list[dict[str, Any]] = POINTS, **changes: Any) -> Bundle:
    """The same bundle on disk, certified by hand."""
    claims = {
        "schema": 1, "confidence": 0.95, "calibration_set": {"kind": "simulated"}, "sentence": "With 95 % ...",
        "bundle": {
            "model_sha256": made.model_sha256, "thresholds_sha256": made.manifest["files"]["thresholds.json"],
        },
        "operating_points": points, "default_point": points[-1], "drift": None, **changes,
    }  # fmt: skip
    document = {**made.certificate, "claims": claims}
    (made.folder / "certificate.json").write_text(json.dumps(document))
    seal(made.folder, {key: value for key, value in made.manifest.items() if key != "files"})
    return load(made.folder)


@pytest.fixture
def certified(tmp_path: Path) -> Bundle:
    return with_claims(tiny_bundle(tmp_path / "tiny"))


def picture(coverages: list[float]) -> np.ndarray:
    """Blobs that the tiny network sees with these coverages, to 0.06 in logit."""
    pixels = np.random.default_rng(0).integers(20, 60, (48, 48)).astype(np.uint8)
    for number, coverage in enumerate(coverages):
        grey = round(255 * (0.5 + np.log(coverage / (1 - coverage)) / 60))
        pixels[6:11, 6 + 12 * number : 11 + 12 * number] = grey
    return pixels


# ---------------------------------------------------------------- the choice


def chosen(points: list[dict[str, Any]], asked: float, bundle: Bundle) -> OperatingPoint:
    claims = read_claims(with_claims(bundle, points))
    assert claims is not None
    return choose_point(claims, asked, "tiny")


def test_the_fewest_false_calls_that_keep_the_promise(certified: Bundle) -> None:
    assert chosen(POINTS, 0.995, certified).seed == 0.7
    assert chosen(POINTS, 0.996, certified).seed == 0.5
    assert chosen(POINTS, 0.98, certified).seed == 0.8
    # Merging regions can make a more sensitive point cheaper; of equals the more sensitive one is taken.
    odd = [point(0.3, 0.998, 0.1), point(0.5, 0.997, 0.3), point(0.7, 0.996, 0.1)]
    assert chosen(odd, 0.995, certified).seed == 0.3
    assert chosen([point(one["seed"], one["recall_lower"], None) for one in POINTS], 0.995, certified).seed == 0.7


def test_points_behind_the_first_failure_do_not_count(certified: Bundle) -> None:
    points = [point(0.3, 0.998, 0.5), point(0.5, 0.99, 0.2), point(0.7, 0.997, 0.1)]
    assert chosen(points, 0.995, certified).seed == 0.3


@pytest.mark.parametrize("asked", [0.9981, 0.9999])
def test_what_cannot_be_promised_is_refused_with_the_best_that_can(certified: Bundle, asked: float) -> None:
    engine = OnnxEngine(certified, threads=1)
    with pytest.raises(ConfigError, match=r"can promise at most 99\.80 % \(1 of 2000"):
        max_recall_engine(engine, asked)
    engine.close()


def test_a_bundle_without_claims_or_with_others_claims_is_refused(tmp_path: Path) -> None:
    plain = tiny_bundle(tmp_path / "plain")
    engine = OnnxEngine(plain, threads=1)
    with pytest.raises(ConfigError, match="was never certified"):
        max_recall_engine(engine, 0.9)
    engine.close()
    for name, changes, why in (
        ("a", {"schema": 2}, "schema 2"),
        ("b", {"bundle": {"model_sha256": SHA, "thresholds_sha256": SHA}}, "another model"),
        ("c", {"bundle": {"model_sha256": plain.model_sha256, "thresholds_sha256": SHA}}, "other thresholds"),
        ("d", {"operating_points": POINTS[::-1]}, "order of the operating points"),
        ("e", {"operating_points": [{**POINTS[0], "grow": 0.9}]}, "thresholds of an operating point"),
        ("f", {"operating_points": [{"seed": 0.5}]}, "cannot be read"),
        ("g", {"confidence": 1.5}, "confidence"),
        ("h", {"operating_points": []}, "can promise nothing"),
    ):
        broken = with_claims(tiny_bundle(tmp_path / name), **changes)
        with pytest.raises(ConfigError, match=why):
            max_recall_engine(OnnxEngine(broken, threads=1), 0.9)


# ---------------------------------------------------------------- the station


def test_the_station_marks_more_and_its_record_says_what_it_costs(certified: Bundle) -> None:
    pixels, scale = picture([0.9, 0.75, 0.55]), Scale(0.1, 0.1)
    engine = OnnxEngine(certified, threads=1)
    plain = prepare_station(engine, None, scale=scale)
    close = prepare_station(engine, None, scale=scale, max_recall=0.995)
    assert len(plain.inspect(pixels).segmentation.regions) == 1
    inspection = close.inspect(pixels)
    assert len(inspection.segmentation.regions) == 2, "0.75 reaches the seed of 0.7; 0.55 does not"
    document = document_of(close, inspection, record_id="r", image=None, image_sha256=None)
    assert document["sensitivity"] == {
        "mode": "max-recall", "recall_asked": 0.995, "recall_lower": 0.9951, "confidence": 0.95,
        "certified_on": "simulated", "parts": 2000, "missed": 1, "false_calls_per_image": [0.1, 0.05, 0.2],
        "default_false_calls_per_image": [0.01, 0.005, 0.02],
        "thresholds": {"seed": 0.7, "grow": 0.3, "min_region_px": 2},
    }  # fmt: skip
    json.dumps(document, allow_nan=False)
    assert document["engine"]["sha256"] == certified.sha256, "the same sealed bundle"
    assert close.seals.config not in (None, plain.seals.config), "and yet another station"
    other = prepare_station(engine, None, scale=scale, max_recall=0.996)
    assert other.seals.config != close.seals.config
    close.engine.close()


def test_seeds_of_single_types_do_not_take_back_what_max_recall_finds(tmp_path: Path) -> None:
    made = tiny_bundle(tmp_path / "tiny")
    document = json.loads((made.folder / "thresholds.json").read_text())
    document["type_seeds"] = dict.fromkeys((*made.types, "unknown"), 0.85)
    (made.folder / "thresholds.json").write_text(json.dumps(document))
    seal(made.folder, {key: value for key, value in made.manifest.items() if key != "files"})
    engine = OnnxEngine(with_claims(load(made.folder)), threads=1)
    pixels, scale = picture([0.9, 0.82, 0.75]), Scale(0.1, 0.1)
    assert len(prepare_station(engine, None, scale=scale).inspect(pixels).segmentation.regions) == 1
    assert len(prepare_station(engine, None, scale=scale, max_recall=0.995).inspect(pixels).segmentation.regions) == 3
    engine.close()


def test_a_certificate_of_the_default_counts_what_the_seeds_of_single_types_drop(tmp_path: Path) -> None:
    made = tiny_bundle(tmp_path / "tiny")
    pixels = picture([0.9, 0.82, 0.75])
    labels = np.zeros(pixels.shape, np.uint8)
    for number in range(3):
        labels[6:11, 6 + 12 * number : 11 + 12 * number] = 1
    part = Labelled("a", "s", "a", pixels, 0.1, "bright_void", labels, None, (made.types[0],))
    found = {}
    for seeds in ({}, dict.fromkeys((*made.types, "unknown"), 0.85)):
        thresholds = replace(made.thresholds, seed=0.7, type_seeds=seeds)
        engine = OnnxEngine(replace(made, thresholds=thresholds))
        grids = grids_for(thresholds)
        one = observe(engine, [part], grids).parts[0]
        found[bool(seeds)] = ([bool(spot.found[grids.default]) for spot in one.spots], int(one.calls[grids.default]))
        engine.close()
    assert found[False] == ([True, True, True], 3)
    assert sorted(found[True][0]) == [False, False, True] and found[True][1] == 1


def test_the_default_mode_stays_what_it_was_to_the_last_byte(tmp_path: Path, certified: Bundle) -> None:
    """Claims in the bundle change nothing until somebody asks for them; the record quotes them, that is all."""
    plain_bundle = tiny_bundle(tmp_path / "plain")
    documents = []
    for bundle in (plain_bundle, certified):
        engine = OnnxEngine(bundle, threads=1)
        station = prepare_station(engine, None, scale=Scale(0.1, 0.1))
        inspection = station.inspect(picture([0.9, 0.75]))
        document = document_of(station, inspection, record_id="r", image=None, image_sha256=None)
        assert station.sensitivity is None and "sensitivity" not in document
        claimed = document["engine"].pop("certificate")
        assert claimed == ({"sentence": "With 95 % ...", "on": "simulated"} if bundle is certified else None)
        document["engine"]["sha256"] = ""
        documents.append((json.dumps(document), inspection.labels.tobytes()))
        engine.close()
    assert documents[0] == documents[1]


DEMO = files("edge_daemon.demo").joinpath("recipe.toml").read_text(encoding="utf-8")


def test_a_recipe_can_ask_and_the_reload_finds_the_same_station(tmp_path: Path) -> None:
    shutil.copytree(engine_folder("castings-xray"), tmp_path / "engine")
    bundle = load(tmp_path / "engine")
    grow = bundle.thresholds.grow
    points = [point(0.5, 0.997, 0.2, grow=grow), point(bundle.thresholds.seed, 0.99, 0.01, grow=grow, default=True)]
    bundle = with_claims(bundle, points)
    text = DEMO.replace('engine = "castings-xray"', 'engine = "engine"\nmax_recall = 0.995')
    assert text != DEMO
    (tmp_path / "recipe.toml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.toml")
    assert recipe.max_recall == 0.995
    engine = OnnxEngine(bundle, threads=1)
    cache = tmp_path / "cache"
    station = prepare_station(engine, recipe, cache=cache)
    assert station.sensitivity is not None and station.sensitivity.point.seed == 0.5
    used = station.engine.bundle.thresholds
    assert used == replace(bundle.thresholds, seed=0.5, min_region_px=2, type_seeds=used.type_seeds)
    assert not used.type_seeds
    assert station.seals.config == recipe.sha256, "the file itself says it"
    plates = len(list(cache.glob("limits/*")))
    plain = prepare_station(engine, replace(recipe, max_recall=None), cache=cache)
    assert plain.sensitivity is None
    assert len(list(cache.glob("limits/*"))) == 2 * plates, (
        "references are looked at as closely as the part, cached or not"
    )
    same = prepare_station(engine, recipe, cache=cache, max_recall=0.995)
    assert same.seals == station.seals and same.levels == station.levels
    assert len(list(cache.glob("limits/*"))) == 2 * plates
    engine.close()


@pytest.mark.parametrize("value", ["1.0", "0.2", '"high"', "true"])
def test_a_recall_nobody_can_promise_is_an_error_of_the_recipe(tmp_path: Path, value: str) -> None:
    (tmp_path / "recipe.toml").write_text(f"max_recall = {value}\n{DEMO}")
    with pytest.raises(ConfigError, match=r"recipe\.toml:1: max_recall"):
        load_recipe(tmp_path / "recipe.toml")


# ---------------------------------------------------------------- the command


def test_inspect_says_what_it_costs_and_writes_it_down(
    tmp_path: Path, certified: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "part.png"), picture([0.9, 0.75]))
    asked = ["inspect", str(tmp_path / "part.png"), "--engine", str(certified.folder), "--mm-per-px", "0.1", "--json",
             "--exit-zero"]  # fmt: skip
    assert cli.main(asked) == 0
    plain = capsys.readouterr()
    assert "max-recall" not in plain.err and len(json.loads(plain.out)["defects"]) == 1
    for option in (["--max-recall"], ["--max-recall=0.995"], ["--max-recall", "0.995"]):
        assert cli.main([*asked, *option]) == 0
        close = capsys.readouterr()
        document = json.loads(close.out)
        assert len(document["defects"]) == 2 and document["sensitivity"]["recall_asked"] == 0.995
        assert "at least 99.51 % of defective parts" in close.err
        assert "0.1 false calls a picture (0.05 to 0.2) in place of 0.01" in close.err
        assert "simulated parts" in close.err
    assert cli.main([*asked, "--max-recall", "0.999"]) == 2
    assert "can promise at most 99.80 %" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "labels.png"), np.zeros((48, 48), np.uint8))
    assert cli.main([*asked, "--max-recall", "0.9", "--labels", str(tmp_path / "labels.png")]) == 2
    with pytest.raises(SystemExit):
        cli.main(["inspect", "--max-recall", "part.png"])
    assert "put it last" in capsys.readouterr().err
