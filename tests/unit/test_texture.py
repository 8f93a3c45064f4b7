"""How strange surroundings look: the filter bank and the distance against their definitions, and what ``see`` says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_daemon.errors import ConfigError
from edge_daemon.records import UNKNOWN_LABEL, UNKNOWN_TYPE
from edge_daemon.segment.bundle import load, seal
from edge_daemon.segment.protocol import Tensors
from edge_daemon.segment.see import segmentation_from_logits, split_types
from edge_daemon.segment.texture import (
    GREY_SCALE,
    LEVELS,
    MARGIN_PX,
    SIZE,
    TEXTURE_PLANES,
    Texture,
    describe,
    strangeness,
    weighed,
)
from edge_daemon.testing.engine_contract import (
    TINY_TYPES,
    tiny_manifest,
    tiny_model,
    tiny_thresholds,
    write_tiny_files,
)


def by_hand(grey: np.ndarray, local: np.ndarray) -> np.ndarray:
    """The planes of the filter bank from its description, with OpenCV's own filters."""

    def halved(plane: np.ndarray) -> np.ndarray:
        return plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).mean(axis=(1, 3))

    half = [halved(grey), halved(local)]
    planes = [halved(one) for one in (*half, *(one * one for one in half))]
    level = grey * GREY_SCALE
    for number in range(LEVELS):
        padded = cv2.copyMakeBorder(level, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        x = cv2.Sobel(padded, cv2.CV_64F, 1, 0, ksize=3)[1:-1, 1:-1] / 8
        y = cv2.Sobel(padded, cv2.CV_64F, 0, 1, ksize=3)[1:-1, 1:-1] / 8
        ridge = cv2.Laplacian(padded, cv2.CV_64F, ksize=3)[1:-1, 1:-1] / 8
        for one in (x * x + y * y, x * x - y * y, 2 * x * y, np.maximum(ridge, 0) ** 2, np.maximum(-ridge, 0) ** 2):
            first = 1 if number == 0 else 0
            taken = one[first :: max(1, 4 >> number), first :: max(1, 4 >> number)]
            planes.append(taken.repeat(2, 0).repeat(2, 1) if 2**number > 4 else taken)
        level = halved(level)
    return np.stack(planes)


@pytest.mark.needs("torch")
def test_the_filter_bank_answers_as_defined() -> None:
    import torch

    from edge_daemon.train.network import FilterBank

    views = np.random.default_rng(0).random((2, 48, 80)).astype(np.float32)
    planes = FilterBank()(torch.from_numpy(views[None]))[0].numpy()
    wanted = by_hand(views[0].astype(np.float64), views[1].astype(np.float64))
    assert planes.shape == (TEXTURE_PLANES, 12, 20)
    assert np.allclose(planes, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_exported_network_answers_with_the_filter_bank_after_its_logits(tmp_path: Path) -> None:
    import onnxruntime
    import torch

    from edge_daemon.train.network import CastingNet, FilterBank, export_onnx

    torch.manual_seed(0)
    network = CastingNet(4, widths=(8, 8, 8, 8)).eval()
    export_onnx(network, tmp_path / "model.onnx", texture=True)
    views = np.random.default_rng(1).random((2, 2, 48, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    defect, types = session.run(None, {"image": views})
    with torch.no_grad():
        logits, bank = network(torch.from_numpy(views)), FilterBank()(torch.from_numpy(views)).numpy()
    assert np.allclose(defect, logits[0].numpy(), atol=1e-4)
    assert np.allclose(types[:, :4], logits[1].numpy(), atol=1e-4)
    assert np.allclose(types[:, 4:], bank, rtol=1e-4, atol=1e-3)


def test_a_description_is_of_the_box_and_its_margin_and_nothing_else() -> None:
    planes = np.random.default_rng(2).random((TEXTURE_PLANES, 50, 60)).astype(np.float32) + 0.5
    box = np.array([[80, 60, 20, 12]], np.int32)
    first = describe(planes, box, [100], 4)
    assert first.shape == (1, SIZE) and np.isfinite(first).all()
    inside = np.s_[:, (60 - MARGIN_PX) // 4 : -(-(72 + MARGIN_PX) // 4), (80 - MARGIN_PX) // 4 : (100 + MARGIN_PX) // 4]
    other = np.random.default_rng(3).random(planes.shape).astype(np.float32)
    other[inside] = planes[inside]
    assert np.array_equal(describe(other, box, [100], 4), first)
    mean = planes[inside].mean(axis=(1, 2), dtype=np.float64)
    assert first[0, 0] == pytest.approx(mean[0]) and first[0, 4] == pytest.approx(0.5 * np.log(mean[4] + 4.096e-4))
    assert first[0, -3:] == pytest.approx([np.log(100), np.log(21 / 13), 100 / 240])
    # A region in a corner, or as large as the picture, is described by what there is.
    for place in ((0, 0, 3, 3), (230, 190, 10, 10), (0, 0, 240, 200)):
        assert np.isfinite(describe(planes, np.array([place], np.int32), [5], 4)).all()
    assert np.isfinite(describe(0 * planes, box, [1], 4)).all()


def a_texture(types: int = 3) -> Texture:
    random = np.random.default_rng(4)
    whitening = np.stack(
        [np.linalg.inv(np.linalg.cholesky(np.cov(random.normal(size=(SIZE, 200))))) for _ in range(types)]
    )
    return Texture(random.normal(size=SIZE), random.uniform(0.5, 2, SIZE), random.normal(size=(types, SIZE)), whitening)


def strange(texture: Texture, descriptions: np.ndarray) -> np.ndarray:
    return strangeness(texture.squared_distances(descriptions))


def test_strangeness_is_the_mahalanobis_distance_to_the_nearest_type() -> None:
    from scipy.spatial.distance import mahalanobis

    texture = a_texture()
    described = texture.mean + texture.scale * np.random.default_rng(5).normal(size=(40, SIZE))
    for one, found in zip(described, strange(texture, described), strict=True):
        z = (one - texture.mean) / texture.scale
        nearest = min(mahalanobis(z, c, w.T @ w) ** 2 for c, w in zip(texture.centres, texture.whitening, strict=True))
        assert found == pytest.approx(nearest / (nearest + SIZE), rel=1e-9)
    assert strange(texture, np.empty((0, SIZE))).shape == (0,)
    # However far away, it stays a score below one that can be ordered.
    assert 0.9 < strange(texture, described + 1e9).max() < 1.0


@pytest.mark.needs("torch")
def test_what_looks_like_no_known_type_is_the_strangest() -> None:
    from edge_daemon.train.looks import fit_texture, texture_document

    random = np.random.default_rng(6)
    centres = 4.0 * random.normal(size=(3, SIZE))
    kinds = np.repeat([0, 1], 150)
    texture = fit_texture(centres[kinds] + random.normal(size=(300, SIZE)), kinds, 3)
    known = strange(texture, centres[kinds] + random.normal(size=(300, SIZE)))
    foreign = strange(texture, centres[2] + random.normal(size=(100, SIZE)))
    assert foreign.min() > known.max()
    document = texture_document(texture)
    assert np.allclose(document["whitening"], texture.whitening, rtol=1e-6)


def described_bundle(folder: Path, *, texture: object, answers: bool = True) -> None:
    thresholds = tiny_thresholds(texture=texture) if texture is not None else tiny_thresholds()
    write_tiny_files(folder, model=tiny_model(), thresholds=thresholds, types=TINY_TYPES)
    manifest = tiny_manifest()
    if answers:
        manifest["output"]["texture"] = True
    seal(folder, manifest)


def document_of(texture: Texture) -> dict[str, object]:
    return {key: getattr(texture, key).tolist() for key in ("mean", "scale", "centres", "whitening")}


def test_a_texture_is_read_from_the_bundle_and_nothing_half_of_it(tmp_path: Path) -> None:
    texture = a_texture(len(TINY_TYPES))
    described_bundle(tmp_path / "good", texture=document_of(texture))
    bundle = load(tmp_path / "good")
    assert bundle.thresholds.texture is not None and np.array_equal(bundle.thresholds.texture.mean, texture.mean)
    assert bundle.type_planes == len(TINY_TYPES) + TEXTURE_PLANES and bundle.logit_planes == len(TINY_TYPES)
    wrong = [
        {**document_of(texture), "mean": [0.0]},
        {**document_of(texture), "scale": [0.0] * SIZE},
        {**document_of(texture), "centres": [["x"] * SIZE] * len(TINY_TYPES)},
        {**document_of(texture), "whitening": document_of(a_texture(len(TINY_TYPES) + 1))["whitening"]},
        {key: value for key, value in document_of(texture).items() if key != "scale"},
        {**document_of(texture), "more": 1},
    ]
    for number, one in enumerate(wrong):
        with pytest.raises(ConfigError):
            described_bundle(tmp_path / f"wrong-{number}", texture=one)
    with pytest.raises(ConfigError, match="the network answers none"):
        described_bundle(tmp_path / "silent", texture=document_of(texture), answers=False)


def test_a_region_whose_surroundings_look_strange_is_unknown(tmp_path: Path) -> None:
    """Two regions of the same logits; one lies in a surface as known, the other in another."""
    random = np.random.default_rng(7)
    usual = random.uniform(0.4, 0.6, (TEXTURE_PLANES, 64, 64)).astype(np.float32)
    odd = usual.copy()
    odd[4:] *= 40.0
    boxes = np.array([[x, y, 16, 16] for x in range(40, 200, 8) for y in range(40, 200, 8)], np.int32)
    known = describe(usual, boxes, [256] * len(boxes), 4)
    scale = known.std(axis=0) + 1e-3
    texture = Texture(known.mean(axis=0), scale, np.zeros((3, SIZE)), np.tile(np.eye(SIZE), (3, 1, 1)))
    scores = tuple(sorted(strange(texture, known).tolist()))
    described_bundle(tmp_path / "b", texture=None)
    thresholds = replace(
        load(tmp_path / "b").thresholds, texture=texture, known_scores=dict.fromkeys(TINY_TYPES, scores),
        unknown_alpha=0.05,
    )  # fmt: skip
    defect = np.full((1, 1, 256, 256), -9.0, np.float32)
    defect[..., 100:116, 100:116] = 9.0
    logits = np.zeros((len(TINY_TYPES), 64, 64), np.float32)
    logits[1] = 5.0
    for planes, unknown in ((usual, False), (odd, True)):
        tensors = Tensors(defect, np.concatenate([logits, planes])[None], 4)
        found = segmentation_from_logits(tensors, TINY_TYPES, thresholds)
        (region,) = found.regions
        assert region.nearest_type == TINY_TYPES[1]
        assert (region.type == UNKNOWN_TYPE, region.label == UNKNOWN_LABEL) == (unknown, unknown)
    # Without a texture in the thresholds the planes are there and say nothing.
    plain = segmentation_from_logits(tensors, TINY_TYPES, replace(thresholds, texture=None))
    assert plain.regions[0].type == TINY_TYPES[1]
    assert split_types(logits, len(TINY_TYPES))[1] is None


def test_surroundings_have_a_say_in_the_name() -> None:
    share = np.array([[0.6, 0.4], [0.6, 0.4], [0.999, 0.001]])
    distances = np.array([[20.0, 20.0], [60.0, 20.0], [60.0, 30.0]])
    together = weighed(share, distances)
    assert together.argmax(axis=1).tolist() == [0, 1, 0]
    assert np.allclose(together.sum(axis=1), 1.0)
    assert np.isfinite(weighed(share, 1e6 * distances)).all()
