"""Surfaces: outlines out of boxes, strangers, and the crops that an engine learns from."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_daemon.cli import main
from edge_daemon.errors import IntegrityError, UsageError
from edge_daemon.images import load_picture
from edge_daemon.records import UNKNOWN_LABEL
from edge_daemon.resources import engine_folder
from edge_daemon.segment.bundle import Bundle, load, seal
from edge_daemon.segment.onnx import OnnxEngine
from edge_daemon.segment.prepare import prepare
from edge_daemon.segment.protocol import Tensors
from edge_daemon.segment.replacing import put_in_place, roll_back
from edge_daemon.segment.see import name_regions, see, segmentation_from_logits
from edge_daemon.testing.engine_contract import tiny_manifest, tiny_model, tiny_thresholds, write_tiny_files
from edge_daemon.train.annotations import Box
from edge_daemon.train.labelled import Labelled
from edge_daemon.train.outlines import PRIORS, outline_boxes
from edge_daemon.train.pictures import IGNORED, UNTYPED
from edge_daemon.train.reinforce import compare, next_version, promote
from edge_daemon.train.strangers import plant_stranger
from edge_daemon.train.surface_calibrate import SurfaceLimits, calibrate_surface, sound_crops
from edge_daemon.train.surface_pictures import Surface, read_surfaces, surface_batch, without_types

TYPES = ("pitted_surface", "scratches", "patches")


def pitted(seed: int, side_px: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """(grey in [0, 1] with dark pits on a shaded, grainy surface; where they are)."""
    rng = np.random.default_rng(seed)
    pits = np.zeros((side_px, side_px), np.uint8)
    for y, x in rng.integers(10, side_px - 10, (30, 2)).tolist():
        cv2.circle(pits, (x, y), int(rng.integers(2, 5)), 1, -1)
    shade = np.linspace(0.4, 0.7, side_px, dtype=np.float32)[None, :]
    grain = rng.normal(0.0, 0.02, (side_px, side_px)).astype(np.float32)
    grey = shade + grain - 0.12 * cv2.GaussianBlur(pits.astype(np.float32), (0, 0), 0.7)
    return np.clip(grey, 0, 1).astype(np.float32), pits > 0


def labelled(name: str, kind: str, grey: np.ndarray, *, labels: np.ndarray | None = None,
             boxes: tuple[Box, ...] | None = None, part: str = "p") -> Labelled:  # fmt: skip
    pixels = np.round(grey * 255).astype(np.uint8)
    types = (kind,) if labels is not None else ()
    return Labelled(name, kind, part, pixels, None, None, labels, boxes, types, kind)


@pytest.mark.parametrize("seed", range(4))
def test_outlines_inside_a_box_are_the_pits_and_nothing_lies_outside(seed: int) -> None:
    grey, pits = pitted(seed)
    box = Box(20, 30, 100, 110, "pitted_surface")
    found = outline_boxes(grey, (box,), "pitted_surface")
    inside = np.zeros(grey.shape, bool)
    inside[30:140, 20:120] = True
    assert not (found & ~inside).any()
    truth = pits & inside
    assert (found & truth).sum() / (found | truth).sum() > 0.6
    assert PRIORS["pitted_surface"].sense == -1


def test_a_box_is_never_left_empty_and_bright_elements_of_other_types_are_found() -> None:
    grey = np.full((80, 80), 0.5, np.float32) + np.random.default_rng(0).normal(0, 0.01, (80, 80)).astype(np.float32)
    assert outline_boxes(grey, (Box(10, 10, 40, 40, "crazing"),), "crazing")[10:50, 10:50].mean() >= 0.02
    grey[20:60, 38:42] += 0.3
    found = outline_boxes(grey, (Box(30, 15, 20, 50, "scratches"),), "scratches")
    assert found[22:58, 38:42].mean() > 0.9
    assert found[:, :34].sum() == 0


def test_what_a_mask_does_not_show_and_what_is_of_another_class_counts_as_nothing() -> None:
    grey, _ = pitted(1)
    mask = np.zeros(grey.shape, np.uint8)
    mask[50:60, 50:60] = 1
    boxes = (Box(48, 48, 14, 14, "scratches"), Box(100, 100, 20, 20, "scratches"), Box(10, 10, 20, 20, "patches"))
    one = read_surfaces([labelled("a", "scratches", grey, labels=mask, boxes=boxes)], TYPES)[0]
    assert not one.weak
    assert one.kind == 1
    assert (one.labels[50:60, 50:60] == 2).all()
    assert (one.labels[48:50, 48:62] == 0).all()
    assert (one.labels[100:120, 100:120] == IGNORED).all()
    assert (one.labels[10:30, 10:30] == IGNORED).all()
    drawn = (Box(0, 0, 90, 90, "pitted_surface"), Box(100, 100, 50, 50, "patches"))
    weak = read_surfaces([labelled("b", "pitted_surface", grey, boxes=drawn)], TYPES)[0]
    assert weak.weak
    assert set(np.unique(weak.labels[:90, :90])) == {0, 1}
    assert (weak.labels[100:150, 100:150] == IGNORED).all()
    left = without_types([one, weak], [1])
    assert [picture.name for picture in left] == ["b"]


def test_a_stranger_changes_sound_surface_only_and_says_where() -> None:
    grey, _ = pitted(2)
    other, _ = pitted(3)
    free = np.zeros(grey.shape, bool)
    free[40:, 30:] = True
    planted = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        changed = grey.copy()
        where, faint = plant_stranger(rng, changed, free, other)
        assert not (where & faint).any()
        assert np.array_equal(changed[~free], grey[~free])
        assert not (where & ~free).any()
        assert changed.min() >= 0.0 and changed.max() <= 1.0
        if where.any():
            planted += 1
            assert np.abs(changed - grey)[where].mean() > 3 * np.abs(changed - grey)[~where].mean()
        assert np.abs(changed - grey)[~where & ~faint].max() < 0.06
    assert planted > 20
    nowhere = plant_stranger(np.random.default_rng(0), grey.copy(), np.zeros(grey.shape, bool), other)
    assert not any(one.any() for one in nowhere)


def test_crops_show_what_the_line_would_see_and_every_type_equally_often() -> None:
    pictures = []
    for seed in range(6):
        grey, pits = pitted(seed)
        pictures.append(labelled(f"p{seed}", "pitted_surface", grey, labels=pits.astype(np.uint8)))
    grey, _ = pitted(9)
    streak = np.zeros(grey.shape, np.uint8)
    streak[20:140, 78:82] = 1
    pictures.append(labelled("s", "scratches", np.where(streak > 0, 0.95, grey).astype(np.float32), labels=streak))
    surfaces = read_surfaces(pictures, TYPES)
    views, labels = surface_batch(np.random.default_rng(1), surfaces, 60, 64, strangers=0.5, aimed=1.0)
    assert views.shape == (60, 2, 64, 64) and labels.shape == (60, 64, 64)
    shown = [set(np.unique(one).tolist()) - {0, IGNORED, UNTYPED} for one in labels]
    share = sum(found == {2} for found in shown) / sum(bool(found) for found in shown)
    assert 0.3 < share < 0.7  # one picture of seven, one type of two
    assert 0.2 < np.mean([UNTYPED in one for one in labels]) < 0.7
    again = surface_batch(np.random.default_rng(1), surfaces, 60, 64, strangers=0.5, aimed=1.0)
    assert np.array_equal(views, again[0]) and np.array_equal(labels, again[1])
    # The local view of a crop is that of its surroundings, not of the crop alone.
    whole = prepare(np.round(views[0, 0] * 255).astype(np.uint8), ("grey", "local"))
    assert np.allclose(whole[0], views[0, 0], atol=1e-6)
    assert np.abs(whole[1] - views[0, 1])[20:44, 20:44].mean() < 0.1


# ---- thresholds, and the whole way to a bundle ----------------------------------------------------------------------


class Teller:
    """An engine that answers with logits written down beforehand, by the mean of the picture it is shown."""

    def __init__(self, bundle: Bundle, answers: dict[float, tuple[np.ndarray, np.ndarray]]) -> None:
        self.bundle, self._answers = bundle, answers

    def infer(self, batch: np.ndarray) -> Tensors:
        key = min(self._answers, key=lambda mean: abs(mean - float(batch[0, 0].mean())))
        defect, types = self._answers[key]
        return Tensors(defect[None, None], types[None])


def told(kind: int, spot: tuple[slice, slice], height: float, noise: tuple[slice, slice] | None = None,
         noise_height: float = 0.0) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    defect = np.full((128, 128), -8.0, np.float32)
    types = np.zeros((len(TYPES) + 1, 128, 128), np.float32)
    defect[spot] = height
    types[kind][spot] = 6.0
    if noise is not None:
        defect[noise] = noise_height
        types[kind][noise] = 6.0
    return defect, types


def test_each_type_gets_the_seed_that_keeps_sound_surface_clean(tmp_path: Path) -> None:
    """Type 0 is told at logit 3 and cries wolf at 1; type 1 is told at logit 1 and never wrong: one seed cannot do."""
    spot, wolf = np.s_[10:30, 10:30], np.s_[70:90, 80:100]
    surfaces, answers = [], {}
    for number in range(24):
        kind = number % 2
        grey = np.full((128, 128), 0.2 + 0.02 * number, np.float32)
        labels = np.zeros((128, 128), np.uint8)
        labels[spot] = kind + 1
        surfaces.append(Surface(f"{number}", f"part {number}", grey, labels, kind, False))
        answers[float(np.round(grey * 255).mean() / 255)] = (
            told(0, spot, 3.0, wolf, 1.0) if kind == 0 else told(1, spot, 1.0)
        )
    bundle = tiny_surface_bundle(tmp_path)
    document = calibrate_surface(Teller(bundle, answers), surfaces, SurfaceLimits(sound_marked=0.02), surfaces)
    seeds, temperature, bias = document["type_seeds"], document["temperature"], document["bias"]
    told_at = {height: 1.0 / (1.0 + np.exp(-(height / temperature + bias))) for height in (1.0, 3.0)}
    assert told_at[1.0] < seeds["pitted_surface"] <= told_at[3.0]
    assert seeds["scratches"] <= told_at[1.0]
    assert document["seed"] <= min(seeds.values())
    assert document["known_scores"]["pitted_surface"] and document["known_scores"]["scratches"]
    assert not sound_crops(np.full((128, 128), IGNORED, np.uint8))
    assert len(sound_crops(np.zeros((130, 200), np.uint8))) == 6


def tiny_surface_bundle(folder: Path) -> Bundle:
    manifest = tiny_manifest(types=list(TYPES), tile_px=128)
    manifest["input"]["multiple_of_px"] = 8
    write_tiny_files(folder, model=tiny_model(), thresholds=tiny_thresholds(known_scores={}), types=TYPES)
    manifest["output"]["stranger"] = True
    seal(folder, manifest)
    return load(folder)


def test_a_type_below_its_own_seed_is_no_region_and_a_stranger_has_its_own(tmp_path: Path) -> None:
    bundle = tiny_surface_bundle(tmp_path)
    seeds = {"pitted_surface": 0.9, "scratches": 0.6, "unknown": 0.7}
    known = {name: tuple(n / 100 for n in range(30)) for name in TYPES}
    thresholds = replace(bundle.thresholds, temperature=1.0, bias=0.0, seed=0.55, grow=0.5, min_region_px=4,
                         unknown_alpha=0.05, known_scores=known, type_seeds=seeds)  # fmt: skip
    for kind, peak, label in ((0, 2.0, 0), (0, 2.5, 1), (1, 0.5, 2), (1, 0.3, 0), (3, 0.8, 0), (3, 1.0, UNKNOWN_LABEL)):
        defect, types = told(kind, np.s_[10:30, 10:30], peak)
        found = segmentation_from_logits(Tensors(defect[None, None], types[None]), TYPES, thresholds)
        assert found.labels[20, 20] == label
        assert len(found.regions) == (label > 0)
        assert [region.index for region in found.regions] == list(range(1, len(found.regions) + 1))
    assert found.regions[0].type == "unknown" and found.regions[0].nearest_type in TYPES


def test_the_plane_of_strangers_is_no_type(tmp_path: Path) -> None:
    """Its share is how strange a region is; the name comes from the types alone."""
    share = np.array([[0.3, 0.1, 0.1, 0.5], [0.05, 0.9, 0.04, 0.01]])
    assert name_regions(share, TYPES) == [(0, 1, 0.5), (1, 0, 0.01)]
    without = name_regions(share[:, :3] / share[:, :3].sum(axis=1, keepdims=True), TYPES)
    assert without[0][2] == pytest.approx(0.4)


def write_table(folder: Path, parts: int) -> None:
    """A labelled table: pits by boxes, scratches by masks, and a sound picture now and then."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows, boxes = ["image,class,group,split"], ["image,class,xmin,ymin,xmax,ymax"]
    for number in range(parts):
        grey, _ = pitted(number, 96)
        other, pits = pitted(number + 1000, 96)
        plain = other + 0.12 * cv2.GaussianBlur(pits.astype(np.float32), (0, 0), 0.7)
        name, split = f"p{number}", "test" if number % 3 == 0 else "train"
        if number % 5 == 4:
            picture, kind = plain, "free"
        elif number % 2:
            picture, kind = plain.copy(), "scratches"
            x = 20 + 5 * (number % 11)
            picture[10:86, x : x + 4] += 0.25
            mask = np.zeros((96, 96), np.uint8)
            mask[10:86, x : x + 4] = 255
            cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
        else:
            picture, kind = grey, "pitted_surface"
            boxes.append(f"{name},pitted_surface,2,2,94,94")
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8))
        rows.append(f"{name},{kind},{number},{split}")
    (folder / "images.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n", encoding="utf-8")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch: its older exporter is the one that fits
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra train")
def test_a_labelled_table_becomes_a_sealed_engine_that_finds_its_own_types(tmp_path: Path, capsys: Any) -> None:
    write_table(tmp_path / "data", 40)
    arguments = ["train", "fit", "--on", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--name", "my-steel",
                 "--split", "train", "--test-split", "test", "--minutes", "0.1", "--seed", "3", "--json",
                 "--licence", "our own"]  # fmt: skip
    assert main(arguments) == 0
    folder = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["bundle"])
    bundle = load(folder)
    assert bundle.name == "my-steel" and bundle.types == ("pitted_surface", "scratches") and bundle.stranger
    assert bundle.manifest["licence"] == "our own"
    assert set(bundle.thresholds.type_seeds) == {*bundle.types, "unknown"}
    certificate = bundle.certificate
    assert (
        certificate["pictures"] == 14 and certificate["learned_from"]["parts"] + certificate["tuned_on"]["parts"] == 26
    )
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert "Not covered" in card and "our own" in card and str(tmp_path) not in card
    assert main(["train", "evaluate", str(folder), "--on", str(tmp_path / "data"), "--split", "test", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["pictures"] == 14
    assert figures["picture_type"]["n"] == 11
    assert figures["found"]["n"] > 0


def test_a_folder_without_a_known_type_is_refused(tmp_path: Path, capsys: Any) -> None:
    write_table(tmp_path / "data", 6)
    text = (tmp_path / "data" / "images.csv").read_text(encoding="utf-8")
    (tmp_path / "data" / "images.csv").write_text(text.replace("scratches", "dent").replace("pitted_surface", "dull"))
    assert main(["train", "fit", "--on", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    assert "no type that this product knows" in capsys.readouterr().err


# ---- reinforce, promote, roll back ----------------------------------------------------------------------------------


def test_a_loss_of_more_than_a_point_in_anything_speaks_against_promotion() -> None:
    def figures(found: float, iou: float | None, kind: float) -> dict[str, Any]:
        return {
            "types": {"crack": {"found": {"value": found}, "iou": iou}},
            "picture_type": {"by_class": {"crack": kind}},
        }

    before = figures(0.90, 0.70, 0.95)
    assert compare(before, figures(0.895, 0.80, 0.941), ["crack"])[1] == []
    for after, what in ((figures(0.88, 0.9, 1.0), "found"), (figures(1.0, 0.68, 1.0), "iou"),
                        (figures(1.0, 0.9, 0.93), "picture_type")):  # fmt: skip
        table, reasons = compare(before, after, ["crack"])
        assert len(reasons) == 1 and what in reasons[0]
        assert set(table["crack"]) == {"found", "iou", "picture_type"}
    assert compare(figures(0.9, None, 0.9), figures(0.9, None, 0.9), ["crack"])[0]["crack"].keys() == {
        "found",
        "picture_type",
    }
    assert [next_version(one) for one in ("0.1.0", "2.9", "beta")] == ["0.1.1", "2.10", "beta.1"]


def test_promotion_replaces_the_bundle_as_a_whole_and_rolling_back_restores_it(tmp_path: Path, capsys: Any) -> None:
    base, candidate = (
        tiny_surface_bundle(tmp_path / "engines" / "tiny"),
        tiny_surface_bundle(tmp_path / "work" / "tiny"),
    )
    manifest = {key: value for key, value in candidate.manifest.items() if key not in ("files", "seal")}
    seal(candidate.folder, {**manifest, "version": "1.1"})
    with pytest.raises(UsageError, match="no report"):
        promote(candidate.folder, base.folder)
    report = candidate.folder.parent / "reinforced.json"
    report.write_text(json.dumps({"promotable": False, "reasons": ["crack: iou falls from 0.9 to 0.8"]}))
    with pytest.raises(UsageError, match="crack: iou falls"):
        promote(candidate.folder, base.folder)
    assert load(base.folder).sha256 == base.sha256
    report.write_text(json.dumps({"promotable": True, "reasons": []}))
    previous = promote(candidate.folder, base.folder)
    assert load(base.folder).version == "1.1" and load(previous).sha256 == base.sha256
    assert main(["engine", "rollback", str(base.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == base.sha256
    assert load(base.folder.with_name("tiny.rejected")).version == "1.1"
    assert main(["engine", "rollback", str(base.folder)]) == 2
    assert "nothing was replaced here" in capsys.readouterr().err
    previous = put_in_place(candidate.folder, base.folder)
    (previous / "model.onnx").write_bytes(b"changed")
    with pytest.raises(IntegrityError):
        roll_back(base.folder)
    assert load(base.folder).version == "1.1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch: its older exporter is the one that fits
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra train")
def test_reinforcing_starts_from_the_sealed_engine_and_re_measures_it(tmp_path: Path, capsys: Any) -> None:
    data, export = tmp_path / "data", tmp_path / "export"
    write_table(data, 24)
    common = ["train", "fit", "--on", str(data), "--split", "train", "--test-split", "test", "--seed", "3", "--json"]
    assert main([*common, "--out", str(tmp_path / "out"), "--name", "my-steel", "--minutes", "0.04"]) == 0
    base = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["bundle"])
    further = [*common, "--out", str(tmp_path / "more"), "--base", str(base), "--minutes", "0.02", "--reinforce"]
    assert main([*further, "scratches"]) == 2
    assert "--from" in capsys.readouterr().err
    (export / "images").mkdir(parents=True)
    (export / "masks").mkdir()
    (export / "labels.json").write_text(json.dumps({"types": ["scratches"]}))
    for number in range(2):
        grey, _ = pitted(number + 500, 96)
        grey[5:90, 40:44] = 0.95
        mask = np.zeros((96, 96), np.uint8)
        mask[5:90, 40:44] = 1
        cv2.imwrite(str(export / "images" / f"e{number}.png"), np.round(grey * 255).astype(np.uint8))
        cv2.imwrite(str(export / "masks" / f"e{number}.png"), mask)
    assert main([*further, "pitted_surface", "--from", str(export)]) == 2
    assert "the export shows no pitted_surface" in capsys.readouterr().err
    assert main([*further, "crack", "--from", str(export)]) == 2
    assert "does not know the type crack" in capsys.readouterr().err
    assert main([*further, "scratches", "--from", str(export)]) in (0, 1)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["version"] == "0.1.1" and report["promotable"] is (not report["reasons"])
    candidate = load(Path(report["bundle"]))
    assert candidate.version == "0.1.1" and candidate.types == load(base).types
    assert "reinforced in scratches with 2 confirmed pictures" in candidate.manifest["trained_on"]
    assert set(report["table"]) == {"pitted_surface", "scratches"}
    assert load(base).version == "0.1.0", "not promoted without being asked"


# ---- commissioning --------------------------------------------------------------------------------------------------


def good_pictures(folder: Path, number: int, side_px: int = 112) -> Path:
    folder.mkdir()
    random = np.random.default_rng(9)
    for k in range(number):
        fine = cv2.GaussianBlur(random.normal(0, 1, (side_px + k % 3, side_px)).astype(np.float32), (0, 0), 1.2)
        picture = np.clip(0.45 + 0.08 * fine, 0, 1)
        cv2.imwrite(str(folder / f"good-{k:02d}.png"), np.round(255 * picture).astype(np.uint8))
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch: its older exporter is the one that fits
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra train")
def test_a_surface_is_commissioned_from_good_pictures_alone(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_daemon.train.surface_commission._PLANTED", 30)
    good = good_pictures(tmp_path / "good", 24)
    base = engine_folder("steel-surface")
    arguments = ["train", "commission", "--good", str(good), "--engine", "steel-surface", "--name", "brushed",
                 "--out", str(tmp_path / "out"), "--minutes", "0.05", "--threads", "1",
                 "--false-alarms", "0.02"]  # fmt: skip
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    bundle = load(Path(report["bundle"]))
    assert bundle.name == "steel-surface-brushed" and bundle.types == load(base).types
    assert bundle.has_texture and bundle.thresholds.texture is not None
    assert bundle.thresholds.known_scores == load(base).thresholds.known_scores
    assert not bundle.thresholds.type_seeds
    assert report["pictures"] == {"given": 24, "learned": 16, "held_out": 8, "planted": 30}
    assert report["after"]["good_pictures_marked"]["k"] == 0, "half of 2 % of 8 pictures is none"
    assert 0 < report["after"]["found"]["n"] <= 30 and len(report["look_at"]) == 5
    # What the line sees is what was measured: not one of the good pictures held out is marked.
    engine = OnnxEngine(bundle, threads=1)
    marked = {path.name for path in good.iterdir() if see(engine, load_picture(path).pixels).labels.any()}
    engine.close()
    assert len(marked) <= 16 and report["after"]["seed"] == pytest.approx(bundle.thresholds.seed, abs=1e-5)
    assert {path.name for path in good.iterdir()} - marked >= set(report["held_out"])
    card = (bundle.folder / "card.md").read_text(encoding="utf-8")
    assert "24 good pictures given" in card and str(tmp_path) not in card
    assert main(arguments) == 2, "never over a bundle that is there"
    assert "already there" in capsys.readouterr().err
    for path in sorted(good.iterdir())[:5]:
        path.unlink()
    assert main([*arguments, "--replace"]) == 2
    assert "19 pictures; commissioning needs at least 20" in capsys.readouterr().err
    (good / "twice.png").write_bytes((good / "good-10.png").read_bytes())
    assert main([*arguments, "--replace"]) == 2
    assert "good-10.png once more" in capsys.readouterr().err


@pytest.mark.needs("torch")
def test_a_type_of_few_parts_has_some_of_them_held_and_large_sets_follow_the_hash_alone() -> None:
    from edge_daemon.train.surface_fit import held_parts

    def pictures(kind: int | None, parts: list[str]) -> list[Surface]:
        plane, sound = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8)
        return [Surface(f"{part}.png", part, plane, sound, kind, False) for part in parts for _ in range(2)]

    many = pictures(0, [f"strip {n}" for n in range(400)])
    by_hash = held_parts(many)
    assert 0.15 < len(by_hash) / 400 < 0.25
    few = pictures(1, ["a", "b", "c"]) + pictures(2, [f"t{n}" for n in range(8)]) + pictures(None, ["s", "t"])
    both = held_parts(many + few)
    assert both >= by_hash, "another type moves nothing"
    assert len(both & {"a", "b", "c"}) >= 1
    assert len({"a", "b", "c"} - both) >= 1
    assert len(both & {f"t{n}" for n in range(8)}) >= 2
    assert held_parts(few[:6]) == held_parts(few[:6][::-1])
