"""Commissioning: planted by exp(contrast), screened, refused where it must be, sealed without touching the base."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_daemon.cli import main
from edge_daemon.errors import EngineError, ImageError, UsageError
from edge_daemon.images import write_png_atomic
from edge_daemon.segment import bundle as bundles
from edge_daemon.simulator import CASTING_TYPES, PlannedDefect, Radiograph
from edge_daemon.simulator.discontinuities import Piece
from edge_daemon.simulator.lines import Line
from edge_daemon.train.commission import LEAST_FRAMES, Frames, Screened, load_frames, screen_frames, split
from edge_daemon.train.operating import FalseLevel, Levels, Sighting, at_equal_alarms, at_seed, seed_for
from edge_daemon.train.pictures import IGNORED, visible_labels
from edge_daemon.train.screening import learn_normal, screen
from edge_daemon.train.superimpose import CONTRAST, Ground, Shadow, draw_shadow, planted, saturated, superimpose

SIDE = 160


def _ground(level: int, dtype: type = np.uint16, side: int = 64) -> Ground:
    return Ground(np.full((side, side), level, dtype), np.ones((side, side), np.float32), 0.1)


def _square(contrast: float, kind: str = "gas_hole", sense: float = 1.0) -> Shadow:
    path = np.full((9, 9), sense, np.float32)
    return Shadow(kind, 9.0, (Piece(path, path != 0, -4, -4),), contrast, (32, 32))


# ---- superposition


@pytest.mark.parametrize("contrast", [0.015, 0.1, 0.6])
@pytest.mark.parametrize("sense", [1.0, -1.0])
def test_a_planted_shadow_multiplies_the_picture_by_exp_of_its_contrast(contrast: float, sense: float) -> None:
    kind = "gas_hole" if sense > 0 else "foreign_more_dense"
    picture = superimpose(np.random.default_rng(0), _ground(20000), [_square(contrast, kind, sense)])
    inside = picture.labels == CASTING_TYPES.index(kind) + 1
    assert inside.sum() == 81
    ratio = picture.pixels[inside] / 20000.0
    # Half a step of rounding and half of dither, times the factor, of 20,000.
    assert np.abs(ratio - math.exp(sense * contrast)).max() < 1e-4
    assert (picture.pixels[~inside] == 20000).all()
    assert np.allclose(picture.signal[inside], 20000 / 257 * (math.exp(sense * contrast) - 1), atol=1e-3)


def test_blur_spreads_the_shadow_and_keeps_its_sum_in_the_log_domain() -> None:
    sharp, soft = (
        superimpose(np.random.default_rng(0), _ground(20000), [_square(0.2)], blur_px=blur) for blur in (0.0, 1.5)
    )
    sums = [float(np.log(one.pixels / 20000.0).sum()) for one in (sharp, soft)]
    assert sums[0] == pytest.approx(81 * 0.2, rel=1e-3)
    assert sums[1] == pytest.approx(sums[0], rel=2e-3)
    assert (soft.pixels != 20000).sum() > (sharp.pixels != 20000).sum()


def test_nothing_is_planted_in_saturated_pixels() -> None:
    pixels = np.full((64, 64), 120, np.uint8)
    pixels[:, 32:] = 255
    picture = superimpose(np.random.default_rng(0), Ground(pixels, np.ones((64, 64), np.float32), 0.1), [_square(0.3)])
    assert (picture.pixels[:, 32:] == 255).all()
    assert not picture.labels[:, 32:].any()
    assert picture.labels[28:37, 28:32].all()
    assert not saturated(pixels)[:, :32].any()


def test_what_nobody_can_see_is_ignored_and_what_anybody_can_is_not() -> None:
    ground = _ground(120, np.uint8)
    strong, faint = (superimpose(np.random.default_rng(0), ground, [_square(c)]) for c in (0.2, 0.02))
    assert set(np.unique(visible_labels(strong))) == {0, 1}
    assert set(np.unique(visible_labels(faint))) == {0, IGNORED}


def test_voids_are_darker_where_the_engine_expects_them_darker() -> None:
    ground = Ground(np.full((64, 64), 20000, np.uint16), np.ones((64, 64), np.float32), 0.1, -1)
    assert superimpose(np.random.default_rng(0), ground, [_square(0.2)]).pixels[32, 32] < 17000


def test_drawn_shadows_are_of_every_type_and_within_the_stated_contrasts() -> None:
    shadows = [draw_shadow(np.random.default_rng(k), (0, 0)) for k in range(120)]
    assert {one.type for one in shadows} == set(CASTING_TYPES)
    for one in shadows:
        assert CONTRAST[0] <= one.contrast <= CONTRAST[1]
        deepest = max((piece.path_mm for piece in one.pieces), key=lambda path: float(np.abs(path).max()))
        assert float(np.abs(deepest).max()) == pytest.approx(1.0, abs=1e-5)
        assert (deepest.min() < 0) == (one.type == "foreign_more_dense")
    assert np.log([one.contrast for one in shadows]).std() > 0.8  # log-uniform over 3.7 is 1.06


def test_planted_pictures_are_the_same_for_the_same_seed_and_may_be_windows() -> None:
    frame = Line(3, "gear", "flat_panel", (SIDE, SIDE)).frame(0)
    ground = Ground(frame.pixels, frame.noise, 0.1)
    first, again, other = planted(4, ground), planted(4, ground), planted(5, ground)
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert planted(4, ground, side_px=96).pixels.shape == (96, 96)
    assert np.array_equal(frame.pixels[first.signal == 0], first.pixels[first.signal == 0])


# ---- screening


def _line_frames(line: Line, spoilt: dict[int, str]) -> list[Radiograph]:
    return [_spoilt(line, k, spoilt[k]) if k in spoilt else line.frame(k) for k in range(20)]


def _spoilt(line: Line, number: int, kind: str) -> Radiograph:
    """The frame with a discontinuity that is plainly visible: ever deeper until it changes 8 grey levels."""
    at = _metal(line)
    for depth_mm in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        frame = line.frame(number, [PlannedDefect(kind, 1.6, depth_mm, at)])
        if float(np.abs(frame.signal).max()) > 8.0:
            return frame
    raise AssertionError("this line shows no discontinuity at all")


def _screened(frames: list[Radiograph]) -> list[int]:
    pixels = [one.pixels for one in frames]
    suspects, _ = screen(pixels, learn_normal(pixels), [np.zeros(one.shape, bool) for one in pixels])
    return [one.index for one in suspects]


SPOILT = {4: "gas_hole", 13: "shrinkage_cavity"}


def _line(seed: int = 861_012, mode: str = "film") -> Line:
    return Line(seed, "gear", mode, (SIDE, SIDE))


def _metal(line: Line) -> tuple[int, int]:
    """(x, y) in the smoothest part of the picture, clear of its border."""
    pixels = line.frame(0).pixels.astype(np.float32)
    rough = np.hypot(cv2.Sobel(pixels, cv2.CV_32F, 1, 0), cv2.Sobel(pixels, cv2.CV_32F, 0, 1))
    rough = cv2.GaussianBlur(rough, (0, 0), 8)
    rough[(pixels > 250) | (pixels < 5)] = np.inf
    inner = rough[40:-40, 40:-40]
    y, x = np.unravel_index(int(inner.argmin()), inner.shape)
    return int(x) + 40, int(y) + 40


@pytest.mark.parametrize(("seed", "mode"), [(861_012, "film"), (861_036, "intensifier"), (861_031, "flat_panel")])
def test_frames_that_hold_a_defect_are_named_and_sound_ones_are_not(seed: int, mode: str) -> None:
    line = _line(seed, mode)
    assert _screened(_line_frames(line, {})) == []
    assert _screened(_line_frames(line, SPOILT)) == [4, 13]


def test_the_place_that_is_shown_is_the_place_of_the_defect() -> None:
    frames = _line_frames(_line(), {7: "gas_hole"})
    pixels = [one.pixels for one in frames]
    (suspect,), _ = screen(pixels, learn_normal(pixels), [np.zeros(one.shape, bool) for one in pixels])
    assert suspect.box_px is not None
    x, y, width, height = suspect.box_px
    left, top, wide, high = frames[7].defects[0].bbox_px
    assert x - 4 <= left + wide / 2 <= x + width + 4
    assert y - 4 <= top + high / 2 <= y + height + 4


def test_a_frame_of_another_part_does_not_fit() -> None:
    frames = _line_frames(_line(), {})
    frames[5] = Line(861_001, "valve_body", "film", (SIDE, SIDE)).frame(5)
    pixels = [one.pixels for one in frames]
    normal = learn_normal(pixels)
    assert [index for index, move in enumerate(normal.to_reference) if move is None] == [5]
    suspects, _ = screen(pixels, normal, [np.zeros(one.shape, bool) for one in pixels])
    assert [one.index for one in suspects] == [5]
    assert suspects[0].box_px is None


def test_an_odd_first_frame_does_not_make_all_others_odd() -> None:
    frames = _line_frames(_line(), {})
    pixels = [Line(861_001, "valve_body", "film", (SIDE, SIDE)).frame(5).pixels, *(one.pixels for one in frames[1:])]
    normal = learn_normal(pixels)
    assert [index for index, move in enumerate(normal.to_reference) if move is None] == [0]
    assert normal.reference != 0


def test_large_frames_are_compared_smaller_and_the_place_comes_out_in_their_own_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from edge_daemon.train import screening

    frames = _line_frames(_line(), {7: "gas_hole"})
    pixels = [one.pixels for one in frames]
    exact = learn_normal(pixels)
    monkeypatch.setattr(screening, "_LARGEST_PX", SIDE // 2)
    coarse = learn_normal(pixels)
    for fine, rough in zip(exact.to_reference, coarse.to_reference, strict=True):
        assert fine is not None
        assert rough is not None
        middle = np.array([SIDE / 2, SIDE / 2, 1.0])
        assert np.abs(fine @ middle - rough @ middle).max() < 0.6
    suspects, _ = screen(pixels, coarse, [np.zeros(one.shape, bool) for one in pixels])
    assert [one.index for one in suspects] == [7]
    assert suspects[0].box_px is not None
    x, y, width, height = suspects[0].box_px
    left, top, wide, high = frames[7].defects[0].bbox_px
    assert x - 6 <= left + wide / 2 <= x + width + 6
    assert y - 6 <= top + high / 2 <= y + height + 6


def test_a_wall_without_structure_fits_as_it_lies() -> None:
    rng = np.random.default_rng(1)
    pixels = [rng.normal(120.0, 2.0, (96, 96)).round().astype(np.uint8) for _ in range(20)]
    pixels[6][40:52, 40:52] += 12
    normal = learn_normal(pixels)
    assert all(move is not None for move in normal.to_reference)
    suspects, _ = screen(pixels, normal, [np.zeros((96, 96), bool)] * 20)
    assert [one.index for one in suspects] == [6]
    assert np.median(normal.noise_of(pixels[0])) == pytest.approx(2.0, rel=0.4)


def test_the_engine_is_a_second_witness_and_never_the_only_one() -> None:
    """What it sees in one frame counts only where the frame differs; what it sees in all frames is listed, not
    screened."""
    frames = _line_frames(_line(), {})
    pixels = [one.pixels for one in frames]
    one_frame = [np.zeros((SIDE, SIDE), bool) for _ in frames]
    one_frame[3][60:70, 60:70] = True
    suspects, common = screen(pixels, learn_normal(pixels), one_frame)
    assert (suspects, common) == ([], [])
    everywhere = [np.zeros((SIDE, SIDE), bool) for _ in frames]
    for mask in everywhere:
        mask[55:75, 55:75] = True
    suspects, common = screen(pixels, learn_normal(pixels), everywhere)
    assert suspects == []
    assert [one.frames for one in common] == [20]


def test_the_noise_of_the_frames_is_found_whatever_their_play() -> None:
    frames = _line_frames(_line(861_036, "intensifier"), {})
    normal = learn_normal([one.pixels for one in frames])
    ratio = np.median(normal.noise_of(frames[0].pixels)) / np.median(frames[0].noise)
    assert 0.7 < ratio < 1.5


# ---- operating points


def test_thresholds_count_misses_and_alarms() -> None:
    sightings = tuple(Sighting("crack" if k % 2 else "gas_hole", 4.0 + k, level, k) for k, level in
                      enumerate((0.0, 0.4, 0.7, 0.9)))  # fmt: skip
    levels = Levels(0.3, 10, sightings, tuple(FalseLevel(level, 0) for level in (0.35, 0.6, 0.8)))
    at = at_seed(levels, 0.5)
    assert (at["missed"]["k"], at["missed"]["n"]) == (2, 4)
    assert at["by_type"]["crack"]["k"] == 1
    assert at["by_size_px"]["under 6"]["n"] == 2
    assert at["false_alarms"]["n"] == 2
    equal = at_equal_alarms(levels, 0.1)
    assert equal["false_alarms"]["n"] == 1
    assert equal["missed"]["k"] == 2  # 0.0 and 0.4 stay below 0.6+
    assert at_equal_alarms(levels, 1.0)["seed"] == 0.3


def test_the_seed_threshold_lies_above_every_alarm_where_frames_are_few_and_extrapolates() -> None:
    """Peaks of an exponential tail with mean 1 in logits: the rate above the threshold is the one asked for."""
    rng = np.random.default_rng(3)
    pictures, rate = 48, 0.002
    reached = []
    for _ in range(60):
        logits = -1.0 + rng.exponential(1.0, 2 * pictures)
        levels = Levels(0.25, pictures, (), tuple(FalseLevel(1 / (1 + math.exp(-z)), 0) for z in logits))
        seed = seed_for(levels, rate)
        assert seed > max(one.level for one in levels.false)
        logit = math.log(seed / (1 - seed))
        reached.append(2.0 * math.exp(-(logit + 1.0)))  # expected alarms a picture beyond it
    assert np.median(reached) == pytest.approx(rate, rel=1.5)
    assert seed_for(Levels(0.4, 48, (), ()), 0.02) == 0.4
    many = Levels(0.3, 100, (), tuple(FalseLevel(0.31 + 0.005 * k, k) for k in range(100)))
    assert at_seed(many, seed_for(many, 0.05))["false_alarms"]["n"] == 5


# ---- the command


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed bundle of an untrained network of the kind that can be commissioned."""
    torch = pytest.importorskip("torch")
    from edge_daemon.train.commission_bundle import _write_json
    from edge_daemon.train.network import CastingNet, export_onnx

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base") / "castings-xray"
    folder.mkdir()
    export_onnx(CastingNet(len(CASTING_TYPES)), folder / "model.onnx")
    thresholds = {"temperature": 1.0, "bias": 0.0, "seed": 0.9, "grow": 0.5, "min_region_px": 4, "unknown_alpha": 0.01,
                  "known_scores": {}, "gate": {"min_contrast": 0.01, "max_clipped_pct": 80.0}}  # fmt: skip
    _write_json(folder / "labels.json", {"types": list(CASTING_TYPES)})
    _write_json(folder / "thresholds.json", thresholds)
    _write_json(folder / "certificate.json", {"status": "for a test"})
    (folder / "card.md").write_text("# for a test\n", encoding="utf-8")
    bundles.seal(folder, {
        "schema": 1, "name": "castings-xray", "version": "0.0.1", "created_utc": "2026-01-01T00:00:00Z",
        "input": {"name": "image", "views": ["grey", "local"], "local_sigma_px": 12.0, "tile_px": 512,
                  "overlap_px": 64, "multiple_of_px": 16},
        "output": {"defect": "defect", "type": "type", "type_stride_px": 4}, "types": list(CASTING_TYPES),
        "qualified": {"mm_per_px": [0.05, 0.5], "polarity": "bright_void", "bits": [8, 16]},
        "licence": "Apache-2.0", "trained_on": "nothing", "software": {"test": "1"},
    })  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames of a line, two of which hold a defect."""
    folder = tmp_path_factory.mktemp("lines") / "Gear No 7"
    folder.mkdir()
    for number, frame in enumerate(_line_frames(_line(), SPOILT)):
        write_png_atomic(folder / f"{number:02d}.png", frame.pixels)
    return folder


needs_torch = pytest.mark.needs("torch")
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@needs_torch
@quiet
def test_a_sealed_bundle_is_opened_for_training_and_answers_as_before(base: Path) -> None:
    """In evaluation to the last digits; in training nearly so, because its normalisation holds real statistics."""
    import torch

    from edge_daemon.train.reopen import reopen

    rng = np.random.default_rng(1)
    views = rng.random((12, 2, 64, 64), np.float32)
    bundle = bundles.load(base)
    network = reopen(bundle, views)
    with torch.no_grad():
        still = network(torch.from_numpy(views))[0]
        network.train()
        moving = network(torch.from_numpy(views))[0]
    assert torch.allclose(still, moving, atol=2e-2)
    with pytest.raises(EngineError, match="cannot train on"):
        reopen(bundle, views[:, :1])


@needs_torch
@quiet
def test_a_commissioning_from_start_to_verdict(
    base: Path, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two spoilt frames are shown and not learned; the bundle is sealed, loads and names its base; the base is as it
    was, and neither is overwritten."""
    from edge_daemon.train import commission_bundle

    for name, numbers in (("_CALIBRATION", 6), ("_KNOWN", 6), ("_TABLE", 8), ("_SHOWN", 1)):
        monkeypatch.setattr(commission_bundle, name, range(numbers))
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    out = tmp_path / "out"
    arguments = ["train", "commission", "--good", str(good), "--engine", str(base), "--out", str(out), "--minutes",
                 "0.03", "--pictures", "3", "--threads", "1", "--mm-per-px", "0.1"]  # fmt: skip
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    folder = Path(report["bundle"])
    assert folder == out / "castings-xray-gear-no-7"
    assert {one["frame"] for one in report["screened"]} >= {"04.png", "13.png"}
    assert {path.name for path in (out / "screened").glob("[0-9]*.png")} >= {"04.png", "13.png"}
    assert not {"04.png", "13.png"} & {*report["frames"]["learned"], *report["frames"]["held_out"]}
    assert not set(report["frames"]["learned"]) & set(report["frames"]["held_out"])
    for side in ("before", "after"):
        assert report[side]["planted_pictures"] == 8
        assert report[side]["missed"]["n"] == report["before"]["missed"]["n"] > 0
    sealed = bundles.load(folder, expect_sha256=report["sha256"])
    trained_on = sealed.manifest["trained_on"]
    assert trained_on["base"]["sha256"] == bundles.load(base).sha256
    assert trained_on["good_frames"] == len(trained_on["good_frames_sha256"]) == len(report["frames"]["learned"])
    assert sealed.thresholds.min_contrast == bundles.load(base).thresholds.min_contrast
    assert "Not learned" in (folder / "card.md").read_text(encoding="utf-8")
    assert len(list((out / "pictures").glob("before-after-*.png"))) == 1
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    assert main(arguments) == 2
    assert "already there" in capsys.readouterr().err


def _frames(count: int) -> Frames:
    return Frames(
        tuple(f"{k:02d}.png" for k in range(count)), tuple(np.zeros((32, 32), np.uint8) for _ in range(count)),
        tuple(f"{k:064x}" for k in range(count)),
    )  # fmt: skip


def test_the_split_is_a_third_and_depends_on_content_only() -> None:
    frames = _frames(20)
    learn, held = split(frames)
    assert sorted(learn + held) == list(range(20))
    assert len(held) == 7
    turned = frames.only(list(reversed(range(20))))
    names = {frames.names[k] for k in held}
    assert {turned.names[k] for k in split(turned)[1]} == names


class TestRefusals:
    """Each names the frame and what to do."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rng = np.random.default_rng(0)
        for number in range(LEAST_FRAMES):
            write_png_atomic(tmp_path / f"{number:02d}.png", rng.integers(20, 220, (48, 48)).astype(np.uint8))
        return tmp_path

    @needs_torch
    def test_too_few(self, folder: Path, base: Path) -> None:
        (folder / "07.png").unlink()
        with pytest.raises(UsageError, match=r"19 frames; commissioning needs at least 20"):
            load_frames(folder, bundles.load(base))

    @needs_torch
    def test_another_size(self, folder: Path, base: Path) -> None:
        write_png_atomic(folder / "07.png", np.random.default_rng(1).integers(20, 220, (48, 40)).astype(np.uint8))
        with pytest.raises(UsageError, match=r"07\.png is 40 x 48 px of 8 bit, 00\.png is 48 x 48 px of 8 bit"):
            load_frames(folder, bundles.load(base))

    @needs_torch
    def test_the_same_frame_twice(self, folder: Path, base: Path) -> None:
        (folder / "07.png").write_bytes((folder / "03.png").read_bytes())
        with pytest.raises(UsageError, match=r"07\.png is 03\.png once more"):
            load_frames(folder, bundles.load(base))

    @needs_torch
    def test_a_colour_picture(self, folder: Path, base: Path) -> None:
        write_png_atomic(folder / "07.png", np.random.default_rng(1).integers(20, 220, (48, 48, 3)).astype(np.uint8))
        with pytest.raises(ImageError, match=r"07\.png: is in colour"):
            load_frames(folder, bundles.load(base))

    @needs_torch
    def test_nothing_to_be_seen(self, folder: Path, base: Path) -> None:
        write_png_atomic(folder / "07.png", np.full((48, 48), 90, np.uint8))
        with pytest.raises(UsageError, match=r"07\.png: The picture's contrast"):
            load_frames(folder, bundles.load(base))

    @needs_torch
    def test_the_other_polarity_is_turned_round(self, folder: Path, base: Path) -> None:
        bundle = bundles.load(base)
        as_is, turned = (load_frames(folder, bundle, polarity=p).pixels[0] for p in ("bright_void", "dark_void"))
        assert np.array_equal(as_is, 255 - turned)

    @needs_torch
    def test_too_few_left_or_a_name_that_is_none(self, base: Path, good: Path, tmp_path: Path) -> None:
        from edge_daemon.segment.onnx import OnnxEngine

        engine = OnnxEngine(bundles.load(base))
        frames = load_frames(good, engine.bundle)
        with pytest.raises(UsageError, match=r"2 of 20 frames were screened out; 18 are left and at least 19"):
            screen_frames(frames, engine, least_left=19, out=tmp_path)
        assert sorted(path.name for path in tmp_path.glob("[0-9]*.png")) == ["04.png", "13.png"]
        with pytest.raises(UsageError, match=r"no frame 'x\.png' to keep"):
            screen_frames(frames, engine, keep=["x.png"])
        kept: Screened = screen_frames(frames, engine, keep=["04.png"])
        assert kept.overruled == ("04.png",)
        assert "04.png" in kept.good.names
        assert "13.png" not in kept.good.names
        engine.close()
