"""From pixels to labels, against brute force: naive flood fill, untiled networks, p-values by hand."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_daemon.errors import EngineError, ImageError
from edge_daemon.records import UNKNOWN_LABEL, Segmentation
from edge_daemon.segment.bundle import InputSpec, Thresholds
from edge_daemon.segment.onnx import OnnxEngine
from edge_daemon.segment.prepare import prepare
from edge_daemon.segment.protocol import Tensors
from edge_daemon.segment.see import (
    blind_pixels,
    contrast_and_clipped_pct,
    coverage_from_logits,
    find_blobs,
    known_p,
    name_regions,
    see,
    segmentation_from_logits,
)
from edge_daemon.segment.tiling import pad_to_multiple, run_tiled, split_axis
from edge_daemon.testing.engine_contract import TINY_LEVELS, tiny_bundle, tiny_manifest, tiny_model, tiny_thresholds

TYPES = ("gas_hole", "crack", "cold_shut")


def thresholds(**changes: object) -> Thresholds:
    values: dict = {
        "temperature": 1.0, "bias": 0.0, "seed": 0.8, "grow": 0.3, "min_region_px": 2, "unknown_alpha": 0.2,
        "known_scores": {"gas_hole": (0.1, 0.2, 0.3, 0.4, 0.5)}, "min_contrast": 0.0, "max_clipped_pct": 100.0,
    }  # fmt: skip
    return Thresholds(**(values | changes))


def tensors(defect: np.ndarray, types: np.ndarray) -> Tensors:
    return Tensors(defect.astype(np.float32)[None, None], types.astype(np.float32)[None])


def brute_force(defect: np.ndarray, types: np.ndarray, limits: Thresholds) -> tuple[np.ndarray, list[tuple]]:
    """The definition, pixel by pixel: labels, and per region (label, nearest, p, confidence, bbox)."""
    height, width = defect.shape
    coverage = [[1.0 / (1.0 + math.exp(-(float(z) / limits.temperature + limits.bias))) for z in row] for row in defect]
    labels = np.zeros((height, width), np.uint8)
    seen = np.zeros((height, width), bool)
    regions = []
    for y0 in range(height):
        for x0 in range(width):
            if seen[y0, x0] or coverage[y0][x0] < limits.grow:
                continue
            seen[y0, x0] = True
            queue, pixels = deque([(y0, x0)]), []
            while queue:
                y, x = queue.popleft()
                pixels.append((y, x))
                for j in range(max(0, y - 1), min(height, y + 2)):
                    for i in range(max(0, x - 1), min(width, x + 2)):
                        if not seen[j, i] and coverage[j][i] >= limits.grow:
                            seen[j, i] = True
                            queue.append((j, i))
            if len(pixels) < limits.min_region_px or all(coverage[y][x] < limits.seed for y, x in pixels):
                continue
            mean = np.zeros(len(types))
            for y, x in pixels:
                logits = types[:, y, x].astype(np.float64)
                softmax = np.exp(logits - logits.max())
                mean += coverage[y][x] * softmax / softmax.sum()
            mean /= sum(coverage[y][x] for y, x in pixels)
            best = int(mean.argmax())
            scores = limits.known_scores.get(TYPES[best], ())
            p = (1 + sum(score >= 1.0 - mean[best] for score in scores)) / (len(scores) + 1)
            label = best + 1 if p >= limits.unknown_alpha else UNKNOWN_LABEL
            ys, xs = [y for y, _ in pixels], [x for _, x in pixels]
            for y, x in pixels:
                labels[y, x] = label
            confidence = sum(coverage[y][x] for y, x in pixels) / len(pixels)
            box = (min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
            regions.append((label, TYPES[best], p, confidence, box))
    return labels, regions


# Logits on a grid, none of which lies on a threshold: exact ties are a matter of rounding, not of the definition.
LEVELS = np.array([-6.0, -1.5, -0.5, 0.5, 1.0, 2.5, 7.0])


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.int8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 6)),
    st.integers(1, 5),
    st.integers(0, 2**31),
)
def test_regions_and_labels_equal_brute_force(grid: np.ndarray, min_region_px: int, seed: int) -> None:
    defect = LEVELS[grid]
    types = np.random.default_rng(seed).normal(0, 1.5, (3, *grid.shape)).astype(np.float32)
    limits = thresholds(min_region_px=min_region_px, temperature=1.25, bias=0.1)
    found = segmentation_from_logits(tensors(defect, types), TYPES, limits)
    labels, regions = brute_force(defect, types, limits)
    assert np.array_equal(found.labels, labels)
    assert len(found.regions) == len(regions)
    for number, (region, (label, nearest, p, confidence, box)) in enumerate(zip(found.regions, regions, strict=True)):
        assert (region.index, region.label, region.nearest_type, region.bbox_px) == (number + 1, label, nearest, box)
        assert region.p_known == p
        assert region.known == (label != UNKNOWN_LABEL)
        assert region.type == (nearest if region.known else "unknown")
        assert region.confidence == pytest.approx(confidence, abs=1e-6)


def test_regions_are_numbered_by_their_first_pixel_not_by_their_box() -> None:
    """A region that starts further right in the same row comes second, even if its box starts further left."""
    picture = [".....#....#", "........##.", "########..."]
    defect = np.where(np.array([list(row) for row in picture]) == "#", 9.0, -9.0)
    found = segmentation_from_logits(tensors(defect, np.zeros((3, *defect.shape))), TYPES, thresholds(min_region_px=1))
    assert [region.bbox_px for region in found.regions] == [(5, 0, 1, 1), (0, 0, 11, 3)]


def test_hysteresis_joins_weak_pixels_to_a_seed_and_drops_weak_islands() -> None:
    defect = np.array([[9, 0, 0, -9, 0, 0, -9, 9, -9]], float)
    found = segmentation_from_logits(tensors(defect, np.zeros((3, 1, 9))), TYPES, thresholds(unknown_alpha=0.1))
    assert found.labels.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 0]]  # the single strong pixel is below min_region_px
    assert found.coverage is not None
    assert found.coverage[0, 4] == 0.5  # coverage is the whole map, also outside the regions
    assert found.coverage[0, 7] > 0.99


def test_one_region_one_type_weighted_by_coverage() -> None:
    """Two faint pixels of one type and a strong one of another: the strong one outweighs 1.0 against 2 x 0.31."""
    defect = np.array([[-0.8, 20.0, -0.8]])
    types = np.zeros((3, 1, 3))
    types[0, 0, [0, 2]] = 40.0
    types[1, 0, 1] = 40.0
    found = segmentation_from_logits(tensors(defect, types), TYPES, thresholds())
    assert found.labels.tolist() == [[2, 2, 2]]
    assert found.regions[0].nearest_type == "crack"


def test_conformal_p_by_hand() -> None:
    cal = (0.1, 0.2, 0.2, 0.4)
    assert known_p(0.05, cal) == 1.0
    assert known_p(0.2, cal) == 4 / 5
    assert known_p(0.3, cal) == 2 / 5
    assert known_p(0.4, cal) == 2 / 5
    assert known_p(0.41, cal) == 1 / 5
    assert known_p(0.99, ()) == 1.0


@pytest.mark.parametrize(("alpha", "known"), [(0.15, True), (1 / 6, True), (0.17, False)])
def test_unknown_if_p_is_below_alpha(alpha: float, known: bool) -> None:
    defect, types = np.full((4, 4), 9.0), np.zeros((3, 4, 4))
    types[0] = 0.1  # softmax 0.36: stranger than all five calibration scores, so p = 1/6
    found = segmentation_from_logits(tensors(defect, types), TYPES, thresholds(unknown_alpha=alpha))
    (region,) = found.regions
    assert region.p_known == 1 / 6
    assert region.known is known
    assert found.labels.max() == found.labels.min() == (1 if known else 255)
    assert region.type == ("gas_hole" if known else "unknown")
    assert region.nearest_type == "gas_hole"
    assert found.name_of(region.label) == region.type


def test_known_regions_are_called_unknown_at_most_alpha_of_the_time() -> None:
    """The guarantee, over many draws of calibration and test scores from one law: at most alpha, and near it."""
    random = np.random.default_rng(5)
    alpha, n = 0.1, 49
    unknown = [known_p(random.beta(1, 6), sorted(random.beta(1, 6, n))) < alpha for _ in range(20_000)]
    assert 0.07 < np.mean(unknown) < alpha + 3 * math.sqrt(alpha * (1 - alpha) / 20_000)


def test_coverage_is_the_calibrated_sigmoid_also_at_the_extremes() -> None:
    logits = np.array([[-3e38, -100, -1, 0, 1, 100, 3e38]], np.float32)
    coverage = coverage_from_logits(logits, thresholds(temperature=0.5, bias=-0.5))
    assert coverage.dtype == np.float32
    exact = [0.0, 0.0, 1 / (1 + math.exp(2.5)), 1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-1.5)), 1.0, 1.0]
    assert coverage[0] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_an_error_never_sound(bad: float) -> None:
    defect, types = np.full((8, 8), -9.0), np.zeros((3, 8, 8))
    defect[2:4, 2:4] = 9.0
    for spoilt in (defect, types[1]):
        kept, spoilt[2, 3] = spoilt[2, 3], bad
        with pytest.raises(EngineError, match="finite") as caught:
            segmentation_from_logits(tensors(defect, types), TYPES, thresholds())
        assert caught.value.code == "ANSWER"
        spoilt[2, 3] = kept
    assert len(segmentation_from_logits(tensors(defect, types), TYPES, thresholds()).regions) == 1


def test_what_is_handed_over_is_read_only_and_empty_pictures_are_sound() -> None:
    found = segmentation_from_logits(tensors(np.full((5, 7), -9.0), np.zeros((3, 5, 7))), TYPES, thresholds())
    assert found.regions == ()
    assert not found.labels.any()
    assert found.coverage is not None
    for array in (found.labels, found.coverage):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


# -- tiling -----------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.sampled_from([(64, 16), (64, 0), (64, 32), (32, 8), (16, 8)]))
def test_tiles_cover_every_pixel_with_weights_that_sum_to_one(blocks: int, shape: tuple[int, int]) -> None:
    tile_px, overlap_px = shape
    size_px = blocks * 8
    axis = split_axis(size_px, tile_px, overlap_px)
    assert axis.side_px == min(size_px, tile_px)
    assert all(start % 8 == 0 for start in axis.starts)
    total = np.zeros(size_px)
    for number, weight in enumerate(axis.weights):
        total[axis.window(number)] += weight
    assert np.abs(total - 1.0).max() < 1e-6
    assert axis.weights.min() >= 0.0
    steps = np.diff(axis.starts)
    assert (steps > 0).all()
    assert (steps <= tile_px - overlap_px).all()


def test_blending_leaves_out_the_cut_off_margin_of_a_tile() -> None:
    axis = split_axis(112, 64, 16)
    assert axis.starts == (0, 48)
    assert axis.weights[0, :52].tolist() == [1.0] * 52
    assert axis.weights[0, 60:].tolist() == [0.0] * 4
    assert axis.weights[1, :4].tolist() == [0.0] * 4
    assert axis.weights[1, 12:].tolist() == [1.0] * 52
    assert (np.diff(axis.weights[1, 3:13]) > 0).all()


SPEC = InputSpec("image", ("grey", "local"), 4.0, 64, 16, 8)


def blur_network(radius_px: int):
    """A network that looks ``radius_px`` around each pixel and takes zero outside its tile."""

    def infer(batch: np.ndarray) -> Tensors:
        assert max(batch.shape[2:]) <= SPEC.tile_px
        assert not batch.shape[2] % SPEC.multiple_of_px
        assert not batch.shape[3] % SPEC.multiple_of_px
        return compute(batch)

    def compute(batch: np.ndarray) -> Tensors:
        side = 2 * radius_px + 1
        mean = [cv2.blur(planes[0], (side, side), borderType=cv2.BORDER_CONSTANT) for planes in batch]
        defect = np.stack(mean)[:, None]
        return Tensors(defect, np.concatenate([2 * defect, defect - 1], axis=1))

    return infer, compute


@pytest.mark.parametrize("shape", [(64, 64), (40, 56), (65, 64), (150, 61), (131, 203), (64, 300)])
def test_tiled_equals_untiled_where_the_network_looks_less_far_than_the_margin(shape: tuple[int, int]) -> None:
    planes = np.random.default_rng(2).random((2, *shape), np.float32)
    infer, untiled = blur_network(4)
    found, again = run_tiled(infer, planes, SPEC), run_tiled(infer, planes, SPEC)
    assert np.array_equal(found.defect, again.defect)
    assert found.defect.shape == (1, 1, *shape)
    exact = untiled(pad_to_multiple(planes, 8)[None])
    assert np.abs(found.defect - exact.defect[:, :, : shape[0], : shape[1]]).max() < 1e-6
    assert np.abs(found.type - exact.type[:, :, : shape[0], : shape[1]]).max() < 1e-6


@pytest.mark.parametrize("shape", [(64, 64), (65, 64), (150, 61), (131, 203)])
def test_type_logits_of_a_coarser_grid_are_tiled_and_read_at_the_right_pixels(shape: tuple[int, int]) -> None:
    """The same answer at every pixel, given once for each 4 x 4 of them or once for each pixel."""
    planes = np.random.default_rng(4).random((2, *shape), np.float32)

    def compute(batch: np.ndarray) -> Tensors:
        cells = batch.reshape(len(batch), 2, batch.shape[2] // 4, 4, batch.shape[3] // 4, 4).mean(axis=(3, 5))
        return Tensors(batch[:, :1], 6.0 * cells, 4)

    found = run_tiled(compute, planes, SPEC)
    exact = compute(pad_to_multiple(planes, 8)[None])
    assert found.type_stride_px == 4
    assert found.type.shape[2:] == (-(-shape[0] // 4), -(-shape[1] // 4))
    # A cell that two tiles share is blended by the weights of its first pixel.
    assert np.abs(found.type - exact.type[:, :, : found.type.shape[2], : found.type.shape[3]]).max() < 1e-5
    coverage = cv2.GaussianBlur(planes[0], (0, 0), 1.5)
    cut = replace(thresholds(), seed=0.55, grow=0.52, min_region_px=1)
    fine = found.type.repeat(4, axis=2).repeat(4, axis=3)[:, :, : shape[0], : shape[1]]
    coarse_blobs = find_blobs(coverage, found.type[0], cut, 4)
    fine_blobs = find_blobs(coverage, fine[0], cut)
    assert len(fine_blobs.type_share) > 3
    assert np.array_equal(coarse_blobs.pixels, fine_blobs.pixels)
    assert np.allclose(coarse_blobs.type_share, fine_blobs.type_share)


def test_tiled_equals_untiled_in_the_interior_of_tiles_for_a_network_that_looks_further() -> None:
    planes = np.random.default_rng(3).random((2, 128, 128), np.float32)
    infer, untiled = blur_network(10)
    found = run_tiled(infer, planes, SPEC).defect[0, 0]
    exact = untiled(planes[None]).defect[0, 0]
    difference = np.abs(found - exact)
    edges = np.r_[48:64, 64:80]  # tiles are [0, 64), [48, 112), [64, 128)
    interior = np.setdiff1d(np.arange(128), np.r_[38:74, 54:90, 102:122])
    assert difference[np.ix_(interior, interior)].max() < 1e-6
    assert 1e-3 < difference[np.ix_(edges, edges)].max() < 0.2


def test_padding_reflects_and_leaves_the_picture_alone() -> None:
    planes = np.arange(2 * 9 * 11, dtype=np.float32).reshape(2, 9, 11)
    padded = pad_to_multiple(planes, 8)
    assert np.array_equal(padded, np.pad(planes, ((0, 0), (0, 7), (0, 5)), mode="reflect"))
    assert pad_to_multiple(padded, 8) is padded


# -- the whole path on a bundle with a known answer -------------------------------------------------------------------


def frame(height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    """Ground of grey 0.15 to 0.25 with squares at each type's level, one between types, a lone bright pixel."""
    grey = np.tile(np.linspace(0.15, 0.25, width), (height, 1))
    for number, level in enumerate((*TINY_LEVELS, 0.675)):
        grey[10 : 14 + number, 6 + 12 * number : 11 + 12 * number] = level
    grey[2, 2] = 0.9
    full_range = np.iinfo(dtype).max
    return np.rint(grey * full_range).astype(dtype)


def summary(found: Segmentation) -> list[tuple]:
    return [(region.type, region.nearest_type, region.bbox_px) for region in found.regions]


EXPECTED = [
    ("gas_hole", "gas_hole", (6, 10, 5, 4)),
    ("shrinkage_cavity", "shrinkage_cavity", (18, 10, 5, 5)),
    ("crack", "crack", (30, 10, 5, 6)),
    ("unknown", "gas_hole", (42, 10, 5, 7)),
]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("shape", [(40, 64), (33, 61), (150, 170)])
def test_a_picture_with_a_known_answer(tmp_path: Path, dtype: type, colour: bool, shape: tuple[int, int]) -> None:
    """Small, padded and tiled; 8 and 16 bit; grey and RGB: the same four regions, the last between two types."""
    engine = OnnxEngine(tiny_bundle(tmp_path / "b"))
    pixels = frame(*shape, dtype)
    if colour:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    kept = pixels.copy()
    pixels.flags.writeable = False
    found = see(engine, pixels)
    assert found.refusals == ()
    assert summary(found) == EXPECTED
    assert found.labels.shape == shape
    assert set(np.unique(found.labels)) == {0, 1, 2, 3, 255}
    for region in found.regions:
        x, y, w, h = region.bbox_px
        assert (found.labels[y : y + h, x : x + w] == region.label).all()
    assert found.regions[3].p_known == 1 / 21
    assert np.array_equal(pixels, kept)
    engine.close()


def test_tiled_bundle_equals_untiled_bundle(tmp_path: Path) -> None:
    model = tiny_model(blur_px=5, level=0.55)
    small = OnnxEngine(tiny_bundle(tmp_path / "a", model=model))
    large = OnnxEngine(tiny_bundle(tmp_path / "b", model=model, manifest=tiny_manifest(tile_px=256)))
    pixels = np.random.default_rng(4).integers(40, 230, (180, 220), np.uint8)
    tiled, whole = see(small, pixels), see(large, pixels)
    assert tiled.coverage is not None
    assert whole.coverage is not None
    assert np.abs(tiled.coverage - whole.coverage).max() < 1e-4
    assert np.array_equal(tiled.labels, whole.labels)
    assert len(whole.regions) > 20


def test_views_are_computed_on_the_whole_picture_before_tiling(tmp_path: Path) -> None:
    """The local view at a tile's border is that of the picture: a model that answers it shows no seam."""
    bundle = tiny_bundle(tmp_path / "b")
    seen = np.zeros((2, 150, 170), np.float32)

    def infer(batch: np.ndarray) -> Tensors:
        return Tensors(batch[:, 1:2].copy(), np.repeat(batch[:, :1], 3, axis=1))

    pixels = frame(150, 170)
    answer = run_tiled(infer, prepare(pixels, bundle.input.views, bundle.input.local_sigma_px), bundle.input)
    seen[0], seen[1] = answer.type[0, 0], answer.defect[0, 0]
    assert np.abs(seen - prepare(pixels, ("grey", "local"), 4.0)).max() < 1e-6


# -- image gate -------------------------------------------------------------------------------------------------------


class Untouchable(OnnxEngine):
    def infer(self, batch: np.ndarray) -> Tensors:
        raise AssertionError("a refused picture was shown to the network")


def gated(**changes: object) -> dict:
    return tiny_thresholds(gate={"min_contrast": 0.1, "max_clipped_pct": 1.0, **changes})


@pytest.mark.parametrize(
    ("pixels", "arguments", "code"),
    [
        (np.full((1, 1), 9, np.uint8), {}, "GATE_SMALL"),
        (frame(40, 64)[:7], {}, "GATE_SMALL"),
        (np.full((64, 64), 128, np.uint8), {}, "GATE_CONTRAST"),
        (np.full((64, 64), 30000, np.uint16), {}, "GATE_CONTRAST"),
        (np.where(np.arange(64) < 2, 255, frame(64, 64)).astype(np.uint8), {}, "GATE_CLIPPED"),
        (np.where(np.arange(64) < 2, 0, frame(64, 64)).astype(np.uint8), {}, "GATE_CLIPPED"),
        (np.where(np.arange(64) < 2, 65520, frame(64, 64, np.uint16)).astype(np.uint16), {}, "GATE_CLIPPED"),
        (frame(64, 64), {"mm_per_px": (0.1, 0.51)}, "GATE_SCALE"),
        (frame(64, 64), {"mm_per_px": (0.049,)}, "GATE_SCALE"),
        (frame(64, 64), {"mm_per_px": (math.nan,)}, "GATE_SCALE"),
        (frame(64, 64), {"polarity": "none"}, "GATE_POLARITY"),
    ],
)
def test_gate_refuses_and_the_network_never_sees_it(
    tmp_path: Path, pixels: np.ndarray, arguments: dict, code: str
) -> None:
    found = see(Untouchable(tiny_bundle(tmp_path / "b", thresholds=gated())), pixels, **arguments)
    assert code in [reason.code for reason in found.refusals]
    assert all(reason.text.endswith(".") for reason in found.refusals)
    assert found.coverage is None
    assert found.regions == ()
    assert found.labels.shape == pixels.shape
    assert not found.labels.any()


def test_gate_lets_good_pictures_through_and_says_every_reason(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b", thresholds=gated())
    engine = OnnxEngine(bundle)
    good = frame(64, 64)
    assert see(engine, good, mm_per_px=(0.05, 0.5), polarity="bright_void").refusals == ()
    found = see(engine, np.zeros((4, 4), np.uint8), mm_per_px=(9.0,), polarity="none")
    assert [reason.code for reason in found.refusals] == [
        "GATE_SMALL", "GATE_CONTRAST", "GATE_CLIPPED", "GATE_SCALE", "GATE_POLARITY",
    ]  # fmt: skip


def test_gate_refuses_a_bit_depth_the_engine_was_never_tested_on(tmp_path: Path) -> None:
    qualified = {"mm_per_px": [0.05, 0.5], "polarity": "bright_void", "bits": [8]}
    engine = OnnxEngine(tiny_bundle(tmp_path / "b", manifest=tiny_manifest(qualified=qualified)))
    assert [reason.code for reason in see(engine, frame(64, 64, np.uint16)).refusals] == ["GATE_BITS"]
    assert see(engine, frame(64, 64)).refusals == ()


def test_contrast_and_clipping_by_hand() -> None:
    steps = np.repeat(np.arange(0, 250, 10, dtype=np.uint8), 40).reshape(25, 40)  # 25 greys, 4 % each, 0 .. 240
    assert contrast_and_clipped_pct(steps) == (240 / 255, 4.0)
    lone = np.full((100, 100), 100, np.uint8)
    lone[0, :49] = 200  # 0.49 % outliers do not make contrast
    assert contrast_and_clipped_pct(lone) == (0.0, 0.0)
    lone[0, :60] = 200
    assert contrast_and_clipped_pct(lone) == (100 / 255, 0.0)
    red = np.full((10, 10, 3), 100, np.uint8)
    red[0, :, 0] = 255  # one full channel is clipped, whatever the luma says
    red[1] = 0
    red[2, :, 0] = 0
    assert contrast_and_clipped_pct(red)[1] == 20.0


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((64, 64), np.float32), np.zeros((64, 64), np.int16), np.zeros((64, 64), bool),
        np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 1), np.uint8), np.zeros(64, np.uint8),
        np.zeros((0, 64), np.uint8), np.zeros((2, 64, 64, 3), np.uint8),
    ],
)  # fmt: skip
def test_pixels_of_another_kind_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match="pixels"):
        see(Untouchable(tiny_bundle(tmp_path / "b")), pixels)


def test_everything_around_the_network_is_fast() -> None:
    """Post-processing of 512 x 512 with 60 regions: about 4 ms of one core's time. The bound is for what grows
    with the square of something; a slow or busy machine stays under it."""
    random = np.random.default_rng(7)
    defect = cv2.GaussianBlur(random.normal(0, 1, (512, 512)).astype(np.float32), (0, 0), 6.0) * 120 - 10
    types = random.normal(0, 1, (8, 512, 512)).astype(np.float32)
    answer = Tensors(defect[None, None], types[None])
    names = ("gas_hole", "crack", "cold_shut", "inclusion", "patches", "scratches", "fray", "uneven")
    times_ms = []
    for _ in range(15):
        start_ns = time.thread_time_ns()
        found = segmentation_from_logits(answer, names, thresholds())
        times_ms.append((time.thread_time_ns() - start_ns) / 1e6)
    assert len(found.regions) > 20
    assert min(times_ms) < 40.0


# -- polarity, blindness, types that look alike -----------------------------------------------------------------------


def test_a_picture_of_the_opposite_polarity_is_turned_round(tmp_path: Path) -> None:
    """A negative with its polarity stated gives what the positive gives; stated wrongly it does not."""
    engine = OnnxEngine(tiny_bundle(tmp_path / "b"))
    for pixels in (frame(64, 80), frame(64, 80).astype(np.uint16) * 257):
        negative = np.iinfo(pixels.dtype).max - pixels
        right = see(engine, pixels, polarity="bright_void")
        turned = see(engine, negative, polarity="dark_void")
        assert right.coverage is not None
        assert np.array_equal(turned.coverage, right.coverage)
        assert np.array_equal(turned.labels, right.labels)
        assert turned.regions == right.regions
        assert not np.array_equal(see(engine, negative, polarity="bright_void").coverage, right.coverage)


def test_burnt_out_and_black_places_are_named_blind(tmp_path: Path) -> None:
    """By brute force: at least 13 of the 25 pixels around are clipped; a lone clipped pixel is not."""
    pixels = frame(40, 50)
    pixels[5:15, 5:20], pixels[25:33, 30:44], pixels[20, 5] = 255, 0, 255
    clipped = (pixels == 255) | (pixels == 0)
    padded = np.pad(clipped, 2, mode="symmetric")
    expected = np.array([[padded[y : y + 5, x : x + 5].sum() >= 13 for x in range(50)] for y in range(40)])
    assert np.array_equal(blind_pixels(pixels), expected)
    assert expected[10, 10]
    assert not expected[20, 5]
    colour = np.repeat(pixels[:, :, None], 3, axis=2)
    colour[30, 35] = (0, 0, 1)  # black in two channels only
    assert blind_pixels(colour)[28, 33]
    seen = see(OnnxEngine(tiny_bundle(tmp_path / "b")), np.clip(pixels, 1, 255))
    assert seen.blind is not None
    assert seen.blind[10, 10]
    assert not seen.blind.flags.writeable


def test_types_that_look_alike_are_weighed_together() -> None:
    """0.3 + 0.3 of a group beat 0.4 outside it; the better member names the region, the other is no runner-up."""
    share = np.array([[0.3, 0.4, 0.3], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]])
    alone = name_regions(share, TYPES)
    assert [(best, runner) for best, runner, _ in alone] == [(1, 0), (1, 0), (0, 2)]
    assert [strange for _, _, strange in alone] == pytest.approx([0.6, 0.2, 0.5])
    group = (TYPES[0], TYPES[2])
    grouped = name_regions(share, TYPES, (group,))
    assert [(best, runner) for best, runner, _ in grouped] == [(0, 1), (1, 0), (0, 1)]
    assert [strange for _, _, strange in grouped] == pytest.approx([0.4, 0.2, 0.2])
    assert name_regions(share[:1], TYPES, (TYPES,))[0][1] is None


def test_a_region_says_what_it_cannot_be_told_from() -> None:
    defect = np.full((6, 6), 9.0)
    types = np.zeros((3, 6, 6))
    types[1] = 0.4
    plain = segmentation_from_logits(tensors(defect, types), TYPES, thresholds(unknown_alpha=0.001))
    grouped = segmentation_from_logits(
        tensors(defect, types), TYPES, thresholds(unknown_alpha=0.001), ((TYPES[0], TYPES[2]),)
    )
    assert (plain.regions[0].type, plain.regions[0].runner_up, plain.regions[0].alike) == (TYPES[1], TYPES[0], ())
    assert (grouped.regions[0].type, grouped.regions[0].runner_up) == (TYPES[0], TYPES[1])
    assert grouped.regions[0].alike == (TYPES[0], TYPES[2])
