"""From pixels to labels: the one path every engine shares, in training, qualification and on the line.

    image gate -> views of the whole frame -> tiles -> engine -> coverage -> regions -> one type each, or unknown

Pure: no I/O, no clock, no state. The same frame and bundle give the same bits on the same machine and backend.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, ImageError
from ..records import UNKNOWN_LABEL, UNKNOWN_TYPE, Reason, Region, Segmentation, read_only
from .bundle import Bundle, Thresholds
from .prepare import prepare
from .protocol import Engine, Tensors
from .texture import TEXTURE_PLANES, describe, strangeness, weighed
from .tiling import run_tiled

__all__ = [
    "Blobs",
    "blind_pixels",
    "contrast_and_clipped_pct",
    "coverage_from_logits",
    "find_blobs",
    "image_gate",
    "known_p",
    "look",
    "name_regions",
    "named_blobs",
    "see",
    "segmentation_from_logits",
    "split_types",
]

_LOGIT_LIMIT = 80.0
_HISTOGRAM_BINS = 1024
_QUANTILE = 0.005
# Left-aligned 10, 12 and 14 bit data in 16 bit pixels saturate at 65472, 65520 and 65532, not at 65535.
_CLIPPED_FROM = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65472}


def see(
    engine: Engine, pixels: NDArray[Any], *, mm_per_px: Sequence[float] = (), polarity: str | None = None
) -> Segmentation:
    """What ``engine`` sees in one frame.

    pixels: uint8 or uint16, (H, W) or RGB (H, W, 3); not modified.
    mm_per_px, polarity: where known, checked against what the engine was qualified for (see ``image_gate``). A picture
    of the opposite polarity is turned round before it is shown to the network.

    A frame that fails the gate is not shown to the network: the answer then has ``refusals``, no region, labels of 0
    and no coverage. Labels of 0 there mean "nothing was looked at", so a caller judges only without refusals.
    Raises ImageError for pixels of another type or shape, EngineError if the answer is not finite.
    """
    check_pixels(pixels)
    bundle = engine.bundle
    refusals = image_gate(bundle, pixels, mm_per_px=mm_per_px, polarity=polarity)
    if refusals:
        labels = read_only(np.zeros(pixels.shape[:2], np.uint8))
        return Segmentation(labels, None, bundle.types, (), refusals)
    shown = pixels
    if polarity is not None and polarity != bundle.qualified.polarity:  # the gate let it through: the opposite one
        shown = np.iinfo(pixels.dtype).max - pixels
    return replace(look(engine, shown), blind=read_only(blind_pixels(pixels)))


def look(engine: Engine, pixels: NDArray[Any]) -> Segmentation:
    """As ``see``, for any picture, such as a plate: no gate keeps the network from looking, nothing is turned round."""
    bundle = engine.bundle
    planes = prepare(pixels, bundle.input.views, bundle.input.local_sigma_px)
    tensors = run_tiled(engine.infer, planes, bundle.input)
    return segmentation_from_logits(tensors, bundle.types, bundle.thresholds, bundle.groups)


def blind_pixels(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """bool (H, W): where at least half of the 5 x 5 pixels around are clipped, so that no defect could be seen."""
    clipped = _clipped(pixels)
    if not clipped.any():
        return np.zeros(clipped.shape, bool)
    around = cv2.boxFilter(clipped.view(np.uint8), cv2.CV_16S, (5, 5), normalize=False, borderType=cv2.BORDER_REFLECT)
    return np.asarray(around > 12, bool)


def segmentation_from_logits(
    tensors: Tensors, types: tuple[str, ...], thresholds: Thresholds, groups: Sequence[Sequence[str]] = ()
) -> Segmentation:
    """Labels, coverage and regions from the logits of one whole picture.

    Each 8-connected region gets exactly one type: the argmax of the coverage-weighted mean softmax over its pixels;
    unknown (label 255) if the conformal p-value of that type is below ``unknown_alpha``. Types that the engine cannot
    tell apart (``groups``) are weighed together first, and the likeliest member of the likeliest group gives the name.
    labels and coverage are read-only; coverage is the whole calibrated map, also outside the regions.
    Raises EngineError (code ANSWER) if a defect logit, or a type logit inside a region, is not finite.
    """
    coverage = coverage_from_logits(tensors.defect[0, 0], thresholds)
    blobs, names = named_blobs(coverage, tensors, types, thresholds, groups)
    label_of = np.zeros(len(blobs.type_share), np.uint8)
    regions: list[Region] = []
    boxes_px, confidence = blobs.bbox_px.tolist(), blobs.confidence.tolist()
    for number, (best, runner_up, score) in enumerate(names):
        nearest = types[best]
        p_known = known_p(score, thresholds.known_scores.get(nearest, ()))
        known = p_known >= thresholds.unknown_alpha
        own_seed = thresholds.type_seeds.get(nearest, 0.0)
        if not known:
            own_seed = thresholds.type_seeds.get(UNKNOWN_TYPE, own_seed)
        if blobs.peak[number] < own_seed:
            continue
        label = best + 1 if known else UNKNOWN_LABEL
        label_of[number] = label
        x, y, width, height = boxes_px[number]
        regions.append(
            Region(
                index=len(regions) + 1,
                label=label,
                type=nearest if known else UNKNOWN_TYPE,
                known=known,
                confidence=confidence[number],
                p_known=p_known,
                nearest_type=nearest,
                bbox_px=(x, y, width, height),
                runner_up="" if runner_up is None else types[runner_up],
                alike=next((tuple(group) for group in groups if nearest in group), ()),
            )
        )
    labels = np.zeros(coverage.shape, np.uint8)
    labels.reshape(-1)[blobs.pixels] = label_of[blobs.region_of_pixel]
    return Segmentation(read_only(labels), read_only(coverage), types, tuple(regions))


def named_blobs(
    coverage: NDArray[np.float32], tensors: Tensors, types: Sequence[str], thresholds: Thresholds,
    groups: Sequence[Sequence[str]] = (),
) -> tuple[Blobs, list[tuple[int, int | None, float]]]:  # fmt: skip
    """The regions of one whole picture, and for each what ``name_regions`` says. Where the thresholds hold a texture,
    these
    have a say in the name, and strangeness is that of the region's surroundings (``texture``)."""
    logits, texture = split_types(tensors.type[0], len(types))
    stride_px = tensors.type_stride_px
    blobs = find_blobs(coverage, logits, thresholds, stride_px)
    regions = len(blobs.type_share)
    if thresholds.texture is None or texture is None or not regions:
        return blobs, name_regions(blobs.type_share, types, groups)
    areas_px = np.bincount(blobs.region_of_pixel, minlength=regions).tolist()
    distances = thresholds.texture.squared_distances(describe(texture, blobs.bbox_px, areas_px, stride_px))
    names = name_regions(weighed(blobs.type_share[:, : len(types)], distances), types, groups)
    strange = strangeness(distances).tolist()
    return blobs, [(best, other, value) for (best, other, _), value in zip(names, strange, strict=True)]


def split_types(planes: NDArray[np.float32], types: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """(logits, responses of the filter bank or None) of the planes of a type output."""
    if len(planes) < types + TEXTURE_PLANES:
        return planes, None
    return planes[:-TEXTURE_PLANES], planes[-TEXTURE_PLANES:]


def name_regions(
    type_share: NDArray[np.float64], types: Sequence[str], groups: Sequence[Sequence[str]] = ()
) -> list[tuple[int, int | None, float]]:
    """Per region: index of its type, of the runner-up outside the type's group (None if there is no other), and how
    strange it is: the share of the strangers' plane where the engine has one, else 1 - share of its group.

    type_share: float64 (R, K) or (R, K + 1), rows sum to 1, as in ``Blobs``; the plane after the types is the
    strangers'. The first of equals wins.
    """
    strangers = type_share[:, len(types)] if type_share.shape[1] > len(types) else None
    type_share = type_share[:, : len(types)]
    group_of = np.arange(len(types))
    for group in groups:
        members = [types.index(name) for name in group]
        group_of[members] = min(members)
    together = np.zeros_like(type_share)
    for kind, first in enumerate(group_of.tolist()):
        together[:, first] += type_share[:, kind]
    answers = []
    for region, (own, group_share) in enumerate(zip(type_share, together, strict=True)):
        first = int(group_share.argmax())
        inside = group_of == first
        best = int(np.where(inside, own, -1.0).argmax())
        other = None if inside.all() else int(np.where(inside, -1.0, own).argmax())
        strange = 1.0 - float(group_share[first]) if strangers is None else float(strangers[region])
        answers.append((best, other, strange))
    return answers


def known_p(score: float, known_scores: Sequence[float]) -> float:
    """Conformal p-value of "this is a type I was trained on": (1 + #{known scores >= score}) / (n + 1).

    score: of ``name_regions``, larger is stranger. known_scores: ascending, of n known regions of that type. Regions
    exchangeable with those get p <= alpha with probability at most alpha; nothing is promised about catching every
    unknown. Without calibration scores p is 1.0: such a type never turns unknown (``Thresholds.can_be_unknown`` says
    which).
    Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World (2005), eq. 2.20.
    """
    at_least = len(known_scores) - bisect_left(known_scores, score)
    return (1 + at_least) / (len(known_scores) + 1)


def coverage_from_logits(defect: NDArray[np.float32], thresholds: Thresholds) -> NDArray[np.float32]:
    """Calibrated probability that the pixel is defect: sigmoid(logit / temperature + bias), float32, same shape.

    Raises EngineError (code ANSWER) unless every logit is finite.
    """
    if not np.isfinite(defect).all():
        raise EngineError(
            "the engine's defect logits are not all finite",
            code="ANSWER",
            hint="run `edge-daemon engine verify`; the model or its precision is broken",
        )
    with np.errstate(over="ignore"):  # a huge finite logit may overflow here; the clip brings it back
        value: NDArray[np.float32] = np.multiply(defect, np.float32(-1.0 / thresholds.temperature))
    value -= np.float32(thresholds.bias)
    np.clip(value, -_LOGIT_LIMIT, _LOGIT_LIMIT, out=value)
    np.exp(value, out=value)
    value += np.float32(1.0)
    np.reciprocal(value, out=value)
    return value


@dataclass(frozen=True, slots=True)
class Blobs:
    """The regions of a picture, in row-major order of their first pixel.

    pixels: int (P,) flat indices of all marked pixels, ascending; region_of_pixel: int (P,), index of its region.
    type_share: float64 (R, K), coverage-weighted mean softmax, rows sum to 1. confidence, peak: float64 (R,), mean and
    largest coverage. bbox_px: int (R, 4), x, y, width, height.
    """

    pixels: NDArray[np.intp]
    region_of_pixel: NDArray[np.intp]
    type_share: NDArray[np.float64]
    confidence: NDArray[np.float64]
    peak: NDArray[np.float64]
    bbox_px: NDArray[np.int32]


def find_blobs(
    coverage: NDArray[np.float32], types: NDArray[np.float32], thresholds: Thresholds, type_stride_px: int = 1
) -> Blobs:
    """Regions by hysteresis: 8-connected sets of pixels with coverage >= grow that hold one >= seed and at least
    ``min_region_px`` pixels.

    coverage (H, W), types (K, H / stride, W / stride) logits, see ``Tensors``. Training uses it for calibration scores:
    1 - type_share of the true type's prediction is exactly the score that ``segmentation_from_logits`` compares.
    """
    marked, component, first, boxes_px = _components(coverage, thresholds)
    order = np.argsort(first, kind="stable")[: np.count_nonzero(first < coverage.size)]
    rank = np.full(len(first), -1, np.intp)
    rank[order] = np.arange(len(order))
    region = rank[component]
    kept = region >= 0
    marked, region = marked[kept], region[kept]

    weight = coverage.reshape(-1)[marked]
    softmax = _softmax(types, marked, coverage.shape[1], type_stride_px)
    share = np.empty((len(order), len(types)))
    for plane, column in zip(softmax, share.T, strict=True):
        column[:] = np.bincount(region, plane * weight, minlength=len(order))
    share /= share.sum(axis=1, keepdims=True)
    confidence = np.bincount(region, weight, minlength=len(order)) / np.bincount(region, minlength=len(order))
    peak = np.zeros(len(order))
    np.maximum.at(peak, region, weight)
    return Blobs(marked, region, share, confidence, peak, boxes_px[order])


def _softmax(
    types: NDArray[np.float32], pixels: NDArray[np.intp], width: int, stride: int
) -> list[NDArray[np.float32]]:  # fmt: skip
    """Softmax over the types at some flat indices of a picture that wide, one array per type. Raises EngineError unless
    all are finite."""
    if types.flags.c_contiguous and stride == 1:
        planes = [plane.reshape(-1)[pixels] for plane in types]
    else:
        y, x = np.divmod(pixels, width)
        y, x = y // stride, x // stride
        planes = [plane[y, x] for plane in types]
    peak = planes[0].copy()
    for plane in planes:
        if not np.isfinite(plane).all():
            raise EngineError(
                "the engine's type logits are not all finite",
                code="ANSWER",
                hint="run `edge-daemon engine verify`; the model or its precision is broken",
            )
        np.maximum(peak, plane, out=peak)
    total = np.zeros_like(peak)
    with np.errstate(over="ignore"):  # the difference of two huge finite logits may overflow; exp(-inf) is 0
        for plane in planes:
            plane -= peak  # noqa: PLW2901 - in place
            np.exp(plane, out=plane)
            total += plane
    for plane in planes:
        plane /= total  # noqa: PLW2901 - in place
    return planes


def _components(
    coverage: NDArray[np.float32], thresholds: Thresholds
) -> tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.intp], NDArray[np.int32]]:
    """Flat indices of pixels >= grow, the component of each, and per component its first flat index (or
    ``coverage.size`` if it is dropped) and its box."""
    flat = coverage.reshape(-1)
    grown = coverage >= np.float32(thresholds.grow)
    # BBDT labels 8-connected pixels twice as fast as the default, to the same result.
    count, components, statistics, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        grown.view(np.uint8), 8, cv2.CV_32S, cv2.CCL_BBDT
    )
    marked = np.flatnonzero(grown)
    component = components.reshape(-1)[marked]
    keep = np.zeros(count, bool)
    keep[component[flat[marked] >= np.float32(thresholds.seed)]] = True
    keep &= statistics[:, cv2.CC_STAT_AREA] >= thresholds.min_region_px
    first = np.empty(count, np.intp)
    first[component[::-1]] = marked[::-1]  # the last assignment to an index wins: the smallest pixel
    first[~keep] = coverage.size
    return marked, component, first, statistics[:, :4]


def check_pixels(pixels: NDArray[Any]) -> None:
    """Raise ImageError unless pixels are uint8 or uint16, (H, W) or (H, W, 3), and not empty."""
    if pixels.dtype not in _CLIPPED_FROM:
        raise ImageError(f"pixels are {pixels.dtype}, not 8 or 16 bit", hint="convert to an unsigned integer picture")
    if pixels.size == 0 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise ImageError(f"pixels have shape {pixels.shape}", hint="give (H, W) grey or (H, W, 3) RGB")


def contrast_and_clipped_pct(pixels: NDArray[Any]) -> tuple[float, float]:
    """Two figures of a frame: contrast in [0, 1] and clipped pixels in percent.

    contrast: difference of the 99.5 % and 0.5 % grey quantiles as a share of the full range, to 1/256 (8 bit) or
    1/1024 (16 bit). clipped: pixels that are black in all channels, or full in any.
    """
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    full_range = 256 if pixels.dtype == np.uint8 else 65536
    bins = min(full_range, _HISTOGRAM_BINS)
    cumulative = np.cumsum(cv2.calcHist([grey], [0], None, [bins], [0, full_range]).reshape(-1), dtype=np.float64)
    low, high = np.searchsorted(cumulative, [_QUANTILE * grey.size, (1.0 - _QUANTILE) * grey.size])
    return float(high - low) / (bins - 1), 100.0 * np.count_nonzero(_clipped(pixels)) / grey.size


def _clipped(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """bool (H, W): black in all channels, or full in any."""
    channels = pixels if pixels.ndim == 2 else np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    return np.asarray((channels >= _CLIPPED_FROM[pixels.dtype]) | (channels == 0), np.bool_)


def image_gate(
    bundle: Bundle, pixels: NDArray[Any], *, mm_per_px: Sequence[float] = (), polarity: str | None = None
) -> tuple[Reason, ...]:
    """Why this frame lies outside what the bundle was qualified for; empty if it does not.

    GATE_SMALL, GATE_BITS, GATE_CONTRAST, GATE_CLIPPED; GATE_SCALE for any of ``mm_per_px`` (x and y) outside the
    range, GATE_POLARITY for a polarity that is neither the qualified one nor its opposite, which ``see`` turns round.
    Not covered yet: focus, and whether the stated polarity is the true one.
    """
    reasons = []
    smallest_px = bundle.input.smallest_px
    height, width = pixels.shape[:2]
    if min(height, width) < smallest_px:
        text = f"The picture is {width} x {height} px; this engine needs at least {smallest_px} px each way."
        reasons.append(Reason("GATE_SMALL", text))
    bits = 8 * pixels.dtype.itemsize
    if bits not in bundle.qualified.bits:
        reasons.append(
            Reason("GATE_BITS", f"The picture has {bits} bits a pixel; this engine was never tested on that.")
        )
    contrast, clipped_pct = contrast_and_clipped_pct(pixels)
    if contrast < bundle.thresholds.min_contrast:
        text = (
            f"The picture's contrast is {contrast:.3f}; below {bundle.thresholds.min_contrast:.3f} nothing can be seen."
        )
        reasons.append(Reason("GATE_CONTRAST", text))
    if clipped_pct > bundle.thresholds.max_clipped_pct:
        text = (
            f"{clipped_pct:.1f} % of the pixels are clipped; at most {bundle.thresholds.max_clipped_pct:.1f} % may be."
        )
        reasons.append(Reason("GATE_CLIPPED", text))
    low, high = bundle.qualified.mm_per_px
    if any(not low <= value <= high for value in mm_per_px):
        scale = " x ".join(f"{value:.4g}" for value in mm_per_px)
        text = f"The scale is {scale} mm/px; this engine was tested from {low:.4g} to {high:.4g} mm/px."
        reasons.append(Reason("GATE_SCALE", text))
    opposite = {"bright_void": "dark_void", "dark_void": "bright_void"}.get(bundle.qualified.polarity)
    if polarity is not None and polarity not in (bundle.qualified.polarity, opposite):
        text = f"The picture is {polarity}; this engine was trained on {bundle.qualified.polarity}."
        reasons.append(Reason("GATE_POLARITY", text))
    return tuple(reasons)
