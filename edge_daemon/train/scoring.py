"""One picture, its truth and the line's answer: everything that can be counted. ``figures.py`` adds the counts up.

Definitions, for a truth given as a mask (T; L is the answer's label image, p its coverage):

* Ignored pixels (there, but below the visible limit) count neither as sound nor as defect.
* An **indication** is an 8-connected set of visible truth pixels of one type. It is **found** when at least a quarter
  of them are marked (FOUND_SHARE). The name **given** to it is the most frequent label among its marked pixels.
* A marked region is **false** when it touches no truth, visible or ignored, grown by 2 px.
* **Area**: of found indications with an equivalent radius of 3 px or more that stand alone: coverage summed over the
  marked regions that touch them, grown by 3 px; alone: nothing else, true or marked, lies in there or within 3 px.
* **Reliability**: over counted pixels, 15 bins of equal width of p; ``near`` are pixels within 8 px (square) of visible
  truth or with p > 0.01, because thousands of background pixels at p = 0 would make any network look calibrated.

For a truth given as boxes an indication is a box, its size the root of its area; it is found when a region hits it and
a region is false when it hits none (``detection.py``); the name given is that of the most confident region that hits.
There are no pixel figures. Pictures that the image gate refuses are named and not scored: the line rejects such parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..judge.indications import outline_mm
from ..records import TYPE_IDS, UNKNOWN_LABEL, UNKNOWN_TYPE, Segmentation
from ..segment.bundle import Bundle
from ..segment.protocol import Engine
from ..segment.see import see
from ..simulator import CASTING_TYPES, Radiograph
from .annotations import Box, type_of
from .calibrate import FOUND_SHARE, dilated
from .detection import Boxes, Detections, candidates, hits
from .labelled import IGNORED, UNTYPED, Labelled
from .pictures import draw_picture, visible_labels

__all__ = ["BINS", "Area", "Indication", "PictureScore", "names_of", "score_picture", "score_pictures", "simulated"]

#: Bins of equal width of the reliability table.
BINS = 15
_NEAR_PX, _NEAR_COVERAGE = 8, 0.01
_FALSE_WITHIN_PX = 2
_AREA_WITHIN_PX = 3
_AREA_FROM_RADIUS_PX = 3.0
_BLIND_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Indication:
    """One true defect. type: None where nobody stated it. given: the name the answer gave it, None if not found.
    diameter_px: of the disc of its area; of a box, the root of its area. bbox_px: x, y, width, height. blind: at least
    half of it lies where the picture is burnt out or black, which the line says instead of judging."""

    type: str | None
    diameter_px: float
    diameter_mm: float | None
    found: bool
    given: str | None
    bbox_px: tuple[float, float, float, float]
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Area:
    """A found indication that stands alone, in px. summed: coverage within 3 px of its regions. marked: in them, which
    is what the judge adds up."""

    type: str | None
    true_px: int
    summed_px: float
    marked_px: float


@dataclass(frozen=True, slots=True)
class PictureScore:
    """The counts of one picture; of a refused one only the first three fields and ``refusals`` mean something.

    sound: no truth at all, visible or not. false: (confidence, bbox_px) of false regions. regions: (known, unknown).
    pixels: counts (2, n) of (truth label * 256 + given label), labels as ``names_of`` numbers them; None for boxes.
    reliability: float64 (2, 3, BINS): all and near pixels; number, summed coverage, defect pixels; None for boxes.
    edge_px: per type, how far out its edges lie: (measured - true area) / true outline over found indications with
    nothing else true within 3 px, coverage counted where it is marked; negative: too far in.
    kind: where the whole picture is of one known class, that class and the type of most of its marked pixels ("unknown"
    among them; None without a mark). inside: that class, marked pixels inside its boxes, marked pixels; where boxes
    were drawn.
    """

    name: str
    series: str
    part: str
    refusals: tuple[str, ...] = ()
    sound: bool = False
    marked: bool = False
    indications: tuple[Indication, ...] = ()
    false: tuple[tuple[float, tuple[int, int, int, int]], ...] = ()
    regions: tuple[int, int] = (0, 0)
    pixels: NDArray[np.int64] | None = None
    reliability: NDArray[np.float64] | None = None
    around: tuple[float, int] = (0.0, 0)
    areas: tuple[Area, ...] = ()
    edge_px: dict[str, float] = field(default_factory=dict)
    detections: Detections | None = None
    kind: tuple[str, str | None] | None = None
    inside: tuple[str, int, int] | None = None


def names_of(bundle: Bundle) -> tuple[str, ...]:
    """Names of the labels 1, 2, ... that counts are kept under: the bundle's types, then every other known type."""
    return (*bundle.types, *(name for name in TYPE_IDS if name not in bundle.types))


def simulated(
    seeds: Iterable[int], draw: Callable[[int], Radiograph] = draw_picture, series: str = "simulated"
) -> Iterator[Labelled]:
    """One labelled picture a seed, by default of the mixture that engines are trained on; each is a part of its own."""
    for seed in seeds:
        picture = draw(seed)
        yield Labelled(
            f"{seed:06d}", series, f"{seed:06d}", picture.pixels, picture.mm_per_px, "bright_void",
            visible_labels(picture), None, CASTING_TYPES,
        )  # fmt: skip


def score_pictures(
    engine: Engine, pictures: Iterable[Labelled]
) -> Iterator[tuple[Labelled, Segmentation, PictureScore]]:
    """Show each picture to the engine as the line does, and count. Raises EngineError if an answer is not finite."""
    for picture in pictures:
        scale = () if picture.mm_per_px is None else (picture.mm_per_px,)
        answer = see(engine, picture.pixels, mm_per_px=scale, polarity=picture.polarity)
        yield picture, answer, score_picture(engine.bundle, picture, answer)


def score_picture(bundle: Bundle, picture: Labelled, answer: Segmentation) -> PictureScore:
    """The counts of one picture, by the definitions at the top of this file."""
    if answer.refusals or answer.coverage is None:
        codes = tuple(reason.code for reason in answer.refusals)
        return PictureScore(picture.name, picture.series, picture.part, codes or ("NO_COVERAGE",))
    found, confidence = candidates(answer.coverage, bundle.thresholds)
    score = (
        _by_boxes(picture, answer, found, confidence)
        if picture.labels is None
        else _by_mask(bundle, picture, answer, found, confidence)
    )
    return replace(score, kind=_kind(bundle, picture, answer), inside=_coloured(picture, answer))


def _kind(bundle: Bundle, picture: Labelled, answer: Segmentation) -> tuple[str, str | None] | None:
    stated = None if picture.kind is None else type_of(picture.kind)
    if stated is None:
        return None
    marked = answer.labels[answer.labels > 0]
    if not marked.size:
        return stated, None
    most = int(np.bincount(marked).argmax())
    return stated, UNKNOWN_TYPE if most == UNKNOWN_LABEL else bundle.types[most - 1]


def _coloured(picture: Labelled, answer: Segmentation) -> tuple[str, int, int] | None:
    stated = None if picture.kind is None else type_of(picture.kind)
    if stated is None or not picture.boxes:
        return None
    inside = np.zeros(answer.labels.shape, bool)
    for box in picture.boxes:
        inside[_inside(box)] = True
    marked = answer.labels > 0
    return stated, int(np.count_nonzero(marked & inside)), int(np.count_nonzero(marked))


# ---- boxes ----------------------------------------------------------------------------------------------------------


def _frames(boxes: Sequence[Sequence[float]]) -> Boxes:
    return np.array(boxes, np.float64).reshape(-1, 4)


def _by_boxes(
    picture: Labelled, answer: Segmentation, found: Boxes, confidence: NDArray[np.float64]
) -> PictureScore:  # fmt: skip
    boxes = picture.boxes or ()
    drawn = [box for box in boxes if not box.ignored]
    frames = [
        _frames([(b.x_px, b.y_px, b.width_px, b.height_px) for b in boxes if b.ignored == flag]) for flag in (0, 1)
    ]
    regions = sorted(answer.regions, key=lambda region: -region.confidence)
    hit = hits(_frames([region.bbox_px for region in regions]), frames[0])
    excused = hits(_frames([region.bbox_px for region in regions]), frames[1])
    alone = ~(hit.any(axis=1) | excused.any(axis=1))
    indications = []
    for index, box in enumerate(drawn):
        by = np.flatnonzero(hit[:, index])
        side_px = float(np.sqrt(box.width_px * box.height_px))
        indications.append(
            Indication(
                box.type, side_px, None if picture.mm_per_px is None else side_px * picture.mm_per_px,
                len(by) > 0, regions[by[0]].type if len(by) else None,
                (box.x_px, box.y_px, box.width_px, box.height_px), _blind(answer, _inside(box)),
            )
        )  # fmt: skip
    false = [(regions[index].confidence, regions[index].bbox_px) for index in np.flatnonzero(alone).tolist()]
    known = sum(region.known for region in regions)
    return PictureScore(
        picture.name, picture.series, picture.part, sound=not boxes, marked=bool(regions),
        indications=tuple(indications), false=tuple(false), regions=(known, len(regions) - known),
        detections=Detections(found, confidence, *frames),
    )  # fmt: skip


def _inside(box: Box) -> tuple[slice, slice]:
    """The pixels that a box touches."""
    right, bottom = (math.ceil(value) for value in (box.x_px + box.width_px, box.y_px + box.height_px))
    return np.s_[int(box.y_px) : bottom, int(box.x_px) : right]


def _blind(answer: Segmentation, where: Any) -> bool:
    return answer.blind is not None and bool(answer.blind[where].mean() >= _BLIND_SHARE)


# ---- masks ----------------------------------------------------------------------------------------------------------


def _by_mask(
    bundle: Bundle, picture: Labelled, answer: Segmentation, found: Boxes, confidence: NDArray[np.float64]
) -> PictureScore:  # fmt: skip
    assert picture.labels is not None and answer.coverage is not None
    names = names_of(bundle)
    look_up = np.arange(256, dtype=np.uint8)
    look_up[1 : len(picture.types) + 1] = [names.index(name) + 1 for name in picture.types]
    truth, labels, coverage = look_up[picture.labels], answer.labels, answer.coverage
    any_truth = truth > 0
    seen = any_truth & (truth != IGNORED)
    marked = labels > 0
    count, component, statistics = _spots(marked)
    view = _View(truth, any_truth, labels, coverage, component, statistics, names)
    indications, areas, edges = _indications(view, answer, picture.mm_per_px)
    here = np.flatnonzero(any_truth | marked)
    code = truth.reshape(-1)[here].astype(np.int64) * 256 + labels.reshape(-1)[here]
    around = dilated(seen, _AREA_WITHIN_PX) & (truth != IGNORED)
    known = sum(region.known for region in answer.regions)
    return PictureScore(
        picture.name, picture.series, picture.part,
        sound=not any_truth.any(), marked=count > 1, indications=tuple(indications),
        false=_false_regions(view), regions=(known, len(answer.regions) - known),
        pixels=np.stack(np.unique(code, return_counts=True)).astype(np.int64),
        reliability=_reliability(truth, seen, coverage),
        around=(float(coverage[around].sum(dtype=np.float64)), int(np.count_nonzero(seen))),
        areas=tuple(areas), edge_px=edges,
        detections=Detections(found, confidence, _boxes_of(seen), _boxes_of(any_truth & ~seen)),
    )  # fmt: skip


def _boxes_of(mask: NDArray[np.bool_]) -> Boxes:
    return _spots(mask)[2][1:, :4].astype(np.float64)


def _spots(mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.int32], NDArray[np.int32]]:
    """8-connected sets: how many with the background, the number of each pixel, (x, y, width, height, area) of each."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    numbers = np.zeros(mask.shape, np.int32)
    if not width:
        return 1, numbers, np.zeros((1, 5), np.int32)
    inside = np.s_[y : y + height, x : x + width]
    # BBDT labels twice as fast as the default, to the same result; most masks fill a small part of the picture.
    cut = np.ascontiguousarray(mask[inside]).view(np.uint8)
    found: Any = cv2.connectedComponentsWithStatsWithAlgorithm(cut, 8, cv2.CV_32S, cv2.CCL_BBDT)
    numbers[inside] = found[1]
    return found[0], numbers, found[2] + np.array([x, y, 0, 0, 0], np.int32)


def _false_regions(view: _View) -> tuple[tuple[float, tuple[int, int, int, int]], ...]:
    """(mean coverage, bbox_px) of every marked region that touches no truth."""
    count = len(view.regions)
    touching = np.zeros(count, bool)
    if view.any_truth.any():
        touching[view.component[dilated(view.any_truth, _FALSE_WITHIN_PX)]] = True
    if count == 1 or touching[1:].all():
        return ()
    marked = view.component.reshape(-1)
    at = np.flatnonzero(marked)
    summed = np.bincount(marked[at], view.coverage.reshape(-1)[at], minlength=count)
    found = []
    for number in (np.flatnonzero(~touching[1:]) + 1).tolist():
        x, y, width, height, area = view.regions[number].tolist()
        found.append((float(summed[number]) / area, (x, y, width, height)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _View:
    """The arrays of one picture: truth and given labels, coverage, number of the marked region of each pixel. regions:
    (x, y, width, height, area) of each number, whole picture."""

    truth: NDArray[np.uint8]
    any_truth: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    coverage: NDArray[np.float32]
    component: NDArray[np.int32]
    regions: NDArray[np.int32]
    names: tuple[str, ...]

    def cut(self, window: tuple[slice, slice]) -> _View:
        arrays: list[Any] = [
            a[window] for a in (self.truth, self.any_truth, self.labels, self.coverage, self.component)
        ]
        truth, any_truth, labels, coverage, component = arrays
        return _View(truth, any_truth, labels, coverage, component, self.regions, self.names)


def _window(box: Sequence[int], shape: tuple[int, ...], by_px: int) -> tuple[slice, slice]:
    x, y, width, height = box
    return (
        slice(max(y - by_px, 0), min(y + height + by_px, shape[0])),
        slice(max(x - by_px, 0), min(x + width + by_px, shape[1])),
    )


def _indications(
    view: _View, answer: Segmentation, mm_per_px: float | None
) -> tuple[list[Indication], list[Area], dict[str, float]]:  # fmt: skip
    indications, areas = [], []
    outlines: dict[str, list[float]] = {}
    present = np.flatnonzero(np.bincount(view.truth.reshape(-1), minlength=256))
    for label in (value for value in present.tolist() if value not in (0, IGNORED)):
        kind = None if label == UNTYPED else view.names[label - 1]
        _, spots, statistics = _spots(view.truth == label)
        for number, (*box, area_px) in enumerate(statistics[1:].tolist(), 1):
            window = _window(box, spots.shape, _AREA_WITHIN_PX)
            near = view.cut(window)
            spot = spots[window] == number
            given = near.labels[spot]
            count = int(np.count_nonzero(given))
            found = count >= FOUND_SHARE * area_px
            name = _name(view.names, int(np.bincount(given[given > 0]).argmax())) if found else None
            diameter_px = 2.0 * float(np.sqrt(area_px / np.pi))
            diameter_mm = None if mm_per_px is None else diameter_px * mm_per_px
            x, y, width, height = map(float, box)
            blind = answer.blind is not None and bool(answer.blind[window][spot].mean() >= _BLIND_SHARE)
            indications.append(Indication(kind, diameter_px, diameter_mm, found, name, (x, y, width, height), blind))
            if not found:
                continue
            within = dilated(spot, _AREA_WITHIN_PX)
            if kind is not None and not (near.any_truth & within & ~spot).any():
                surplus = float(near.coverage[within & (near.labels > 0)].sum()) - area_px
                sums = outlines.setdefault(kind, [0.0, 0.0])
                sums[0] += surplus
                sums[1] += outline_mm(spot, (1.0, 1.0))
            if diameter_px >= 2.0 * _AREA_FROM_RADIUS_PX:
                areas += _area(view, spots, number, box, kind, area_px)
    return indications, areas, {kind: surplus / outline for kind, (surplus, outline) in outlines.items()}


def _name(names: tuple[str, ...], label: int) -> str:
    return UNKNOWN_TYPE if label == UNKNOWN_LABEL else names[label - 1]


def _area(
    view: _View, spots: NDArray[np.int32], number: int, box: Sequence[int], kind: str | None, area_px: int
) -> list[Area]:
    """The area of one found indication, or nothing where it does not stand alone."""
    inner = _window(box, spots.shape, 0)
    under = view.component[inner][spots[inner] == number]
    regions = np.unique(under[under > 0])
    boxes = np.vstack([view.regions[regions, :4], box[:4]])
    left, top = boxes[:, :2].min(axis=0).tolist()
    right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(axis=0).tolist()
    window = _window((left, top, right - left, bottom - top), spots.shape, _AREA_WITHIN_PX)
    near, spot = view.cut(window), spots[window] == number
    own = np.isin(near.component, regions)
    reach = dilated(own, _AREA_WITHIN_PX)
    alone = dilated(own | spot, _AREA_WITHIN_PX)
    if (near.any_truth & alone & ~spot).any() or ((near.component > 0) & alone & ~own).any():
        return []
    summed, marked = (float(near.coverage[where].sum(dtype=np.float64)) for where in (reach, own))
    return [Area(kind, area_px, summed, marked)]


def _reliability(
    truth: NDArray[np.uint8], seen: NDArray[np.bool_], coverage: NDArray[np.float32]
) -> NDArray[np.float64]:
    table = np.zeros((2, 3, BINS))
    counted = truth != IGNORED
    near = coverage > np.float32(_NEAR_COVERAGE)
    if seen.any():
        near |= dilated(seen, _NEAR_PX)
    here = np.flatnonzero(near & counted)
    value, defect = coverage.reshape(-1)[here], seen.reshape(-1)[here]
    cell = np.minimum((value * np.float32(BINS)).astype(np.intp), BINS - 1)
    for row, weights in enumerate((None, value, defect)):
        table[1, row] = np.bincount(cell, weights, minlength=BINS)
    # What is not near has p <= 0.01 and no defect: all of it lies in the first bin.
    table[0] = table[1]
    far = counted & ~near
    table[0, 0, 0] += np.count_nonzero(far)
    table[0, 1, 0] += cv2.sumElems(cv2.bitwise_and(coverage, coverage, mask=far.view(np.uint8)))[0]
    return table
