"""What the surroundings of known types look like: the cloud of descriptions of each, learned from marked regions.

The engine's own marks on truth are described, not the outlines people drew: that is what will be described on the line.
Each picture is looked at as it is and twice under other light, so that light alone makes nothing strange.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..segment.bundle import Thresholds
from ..segment.prepare import prepare
from ..segment.protocol import Engine, Tensors
from ..segment.see import coverage_from_logits, find_blobs, split_types
from ..segment.texture import SIZE, TEXTURE_KEYS, Texture, describe
from ..segment.tiling import run_tiled
from .surface_pictures import Surface

__all__ = ["fit_texture", "learn_texture", "ran", "texture_document"]

_ON_TRUTH = 0.3
_PER_PICTURE = 8
# Gain, exponent and offset vary by this much (offset in units of 0.4 of full scale).
_LIGHT = 0.12
_ALTERED = 2
# Added to the variance of every value, of which the mean over all types is 1; more where a type has few regions.
_RIDGE = 0.02
_RIDGE_OF_FEW = 0.3
_DIGITS = 7


def ran(engine: Engine, grey: NDArray[np.float32]) -> Tensors:
    """What the engine answers for a whole picture. grey: float32 (H, W) in [0, 1]."""
    spec = engine.bundle.input
    pixels = np.round(grey * 255.0).astype(np.uint8)
    return run_tiled(engine.infer, prepare(pixels, spec.views, spec.local_sigma_px), spec)


def learn_texture(engine: Engine, pictures: Iterable[Surface], thresholds: Thresholds) -> Texture | None:
    """The texture of the engine's types, from marks on truth; None if the network has no filter bank, or no mark was
    found. thresholds: what counts as a mark."""
    bundle = engine.bundle
    if not bundle.has_texture:
        return None
    rng = np.random.default_rng(0)
    descriptions: list[NDArray[np.float64]] = []
    kinds: list[int] = []
    for one in pictures:
        for grey in (one.grey, *(_relit(rng, one.grey) for _ in range(_ALTERED))):
            _collect(engine, grey, one.labels, thresholds, descriptions, kinds)
    return fit_texture(np.concatenate(descriptions), np.array(kinds), len(bundle.types)) if descriptions else None


def _relit(rng: np.random.Generator, grey: NDArray[np.float32]) -> NDArray[np.float32]:
    gain, power = 1.0 + rng.uniform(-_LIGHT, _LIGHT), float(np.exp(rng.uniform(-_LIGHT, _LIGHT)))
    middle = float(grey.mean())
    changed = (grey - middle) * gain + middle + 0.4 * rng.uniform(-_LIGHT, _LIGHT)
    return np.asarray(np.clip(changed, 0.0, 1.0) ** power, np.float32)


def _collect(
    engine: Engine, grey: NDArray[np.float32], labels: NDArray[np.uint8], thresholds: Thresholds,
    descriptions: list[NDArray[np.float64]], kinds: list[int],
) -> None:  # fmt: skip
    types = len(engine.bundle.types)
    tensors = ran(engine, grey)
    logits, texture = split_types(tensors.type[0], types)
    assert texture is not None
    coverage = coverage_from_logits(tensors.defect[0, 0], thresholds)
    blobs = find_blobs(coverage, logits, thresholds, tensors.type_stride_px)
    regions = len(blobs.type_share)
    if not regions:
        return
    size_px = np.bincount(blobs.region_of_pixel, minlength=regions)
    truth = labels.reshape(-1)[blobs.pixels]
    counted = np.stack([np.bincount(blobs.region_of_pixel, truth == k + 1, minlength=regions) for k in range(types)])
    on_truth = np.flatnonzero(counted.max(axis=0) >= _ON_TRUTH * size_px)
    largest = on_truth[np.argsort(-size_px[on_truth], kind="stable")][:_PER_PICTURE]
    if len(largest):
        boxes_px, areas_px = blobs.bbox_px[largest], size_px[largest].tolist()
        descriptions.append(describe(texture, boxes_px, areas_px, tensors.type_stride_px))
        kinds.extend(counted[:, largest].argmax(axis=0).tolist())


def fit_texture(descriptions: NDArray[np.float64], kinds: NDArray[np.int64], types: int) -> Texture:
    """descriptions: float64 (R, SIZE); kinds: int (R,), index of the type of each. A type of which there is none is
    taken for everything known together."""
    mean, scale = descriptions.mean(axis=0), descriptions.std(axis=0) + 1e-9
    z = np.clip((descriptions - mean) / scale, -5.0, 5.0)
    centres, whitening = np.zeros((types, SIZE)), np.tile(np.eye(SIZE), (types, 1, 1))
    for kind in range(types):
        own = z[kinds == kind]
        if len(own) < 2:
            continue
        ridge = max(_RIDGE, _RIDGE_OF_FEW * SIZE / len(own))
        centres[kind] = own.mean(axis=0)
        whitening[kind] = np.linalg.inv(np.linalg.cholesky(np.cov(own.T) + ridge * np.eye(SIZE)))
    return Texture(mean, scale, centres, whitening)


def texture_document(texture: Texture) -> dict[str, Any]:
    """As it stands in ``thresholds.json``."""

    def written(values: NDArray[np.float64]) -> Any:
        flat: Sequence[float] = [float(f"{value:.{_DIGITS}g}") for value in values.reshape(-1).tolist()]
        return np.array(flat).reshape(values.shape).tolist()

    return {key: written(getattr(texture, key)) for key in TEXTURE_KEYS}
