"""From a record's document to the rows that are searched: its types, its indications, its figures.

A picture of dust may hold tens of thousands of indications; the document lists them all, and the bank makes rows of the
MOST_ROWS largest of them (unknown ones first), so that no picture can hold up the line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records import TYPE_IDS, UNKNOWN_TYPE

__all__ = ["FEATURES", "MOST_ROWS", "Figures", "contrasts_of", "detection_rows", "features_of", "figures_of"]

#: Most indications of one record that become rows of their own.
MOST_ROWS = 256

_TYPES = (*TYPE_IDS, UNKNOWN_TYPE)

#: Components of a feature vector and what one unit of distance means; see ``features_of``.
FEATURES: tuple[str, ...] = (
    "size", "area", "elongation", "aspect", "fill", "contrast", "confidence", "p_known", "crowd", "share",
    *(f"type {name}" for name in _TYPES),
)  # fmt: skip

_TYPE_WEIGHT = 1.5
_RUNNER_UP, _ALIKE = 0.3, 0.2


def _number(value: Any) -> float | None:
    """A finite number of a document, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted of one record. areas_mm2, confidences, n: by type."""

    recipe: str
    engine: str
    advisory: bool
    reasons: tuple[str, ...]
    types: tuple[str, ...]
    indications: int
    by_type: Mapping[str, tuple[int, float, float, int]]
    segment_ms: float | None


def figures_of(document: Mapping[str, Any]) -> Figures:
    """The figures of a record's document; what is absent counts as nothing."""
    by_type: dict[str, tuple[int, float, float, int]] = {}
    defects = document.get("defects") or ()
    for defect in defects:
        n, area, confidence, confidence_n = by_type.get(defect["type"], (0, 0.0, 0.0, 0))
        sure = _number(defect.get("confidence"))
        by_type[defect["type"]] = (
            n + 1, area + (_number(defect.get("area_mm2")) or 0.0), confidence + (sure or 0.0),
            confidence_n + (sure is not None),
        )  # fmt: skip
    engine = document.get("engine") or {}
    return Figures(
        recipe=document.get("recipe") or "",
        engine=engine.get("sha256") or "",
        advisory=bool(document.get("advisory")),
        reasons=tuple(reason["code"] for reason in document.get("reasons") or ()),
        types=tuple(sorted(by_type)),
        indications=len(defects),
        by_type=by_type,
        segment_ms=_number((document.get("timings_ms") or {}).get("segment")),
    )


def detection_rows(document: Mapping[str, Any], contrasts: Sequence[float | None] = ()) -> list[tuple[Any, ...]]:
    """Rows of ``detections`` in the order of its columns, without the record's number. contrasts: by position, as far
    as known."""
    defects = document.get("defects") or ()
    if not defects:
        return []
    around = _around(document)
    chosen: Sequence[int] = range(len(defects))
    if len(defects) > MOST_ROWS:
        ranked = sorted(chosen, key=lambda at: (defects[at].get("known", True), -_extent(defects[at])))
        chosen = sorted(ranked[:MOST_ROWS])
    rows, vectors = [], []
    for position in chosen:
        defect = defects[position]
        area = _number(defect.get("area_mm2"))
        contrast = contrasts[position] if position < len(contrasts) else None
        box = [int(side) for side in defect.get("bbox_px") or (0, 0, 0, 0)]
        rows.append(
            (
                position, defect["type"], int(bool(defect.get("known", defect["type"] != UNKNOWN_TYPE))),
                defect.get("nearest_type") or defect["type"], _number(defect.get("confidence")),
                _number(defect.get("p_known")), area, _number(defect.get("area_u_mm2")),
                _number(defect.get("feret_max_mm")), _number(defect.get("feret_u_mm")),
                None if area is None or not around.picture_mm2 else 100.0 * area / around.picture_mm2,
                contrast, *box,
            )
        )  # fmt: skip
        vectors.append(_components(defect, around, contrast))
    features = np.array(vectors, np.float64).astype(np.float16)
    return [(*row, vector.tobytes()) for row, vector in zip(rows, features, strict=True)]


def _extent(defect: Mapping[str, Any]) -> float:
    area = _number(defect.get("area_mm2"))
    if area is not None:
        return area
    _, _, width, height = defect.get("bbox_px") or (0, 0, 0, 0)
    return float(width * height)


@dataclass(frozen=True, slots=True)
class _Around:
    """What is the same for every indication of a record; 0 where it is not known."""

    picture_mm2: float
    pixel_mm2: float
    marked_mm2: float
    crowd: float


def _around(document: Mapping[str, Any]) -> _Around:
    working = document.get("working") or {}
    try:
        (width, height), (sx, sy) = working["size_px"], working["mm_per_px"]
        pixel_mm2 = float(sx * sy)
        picture_mm2 = width * height * pixel_mm2
    except (KeyError, TypeError, ValueError):
        pixel_mm2 = picture_mm2 = 0.0
    defects = document.get("defects") or ()
    marked_mm2 = sum(_number(one.get("area_mm2")) or 0.0 for one in defects)
    return _Around(picture_mm2, pixel_mm2, marked_mm2, 0.2 * math.log2(max(1, len(defects))))


def features_of(
    defect: Mapping[str, Any], document: Mapping[str, Any], contrast: float | None = None
) -> NDArray[np.float16]:
    """What an indication is like: float16 (len(FEATURES),), to be compared by Euclidean distance.

    size, area : binary logarithm of the largest size in mm and of the square root of the area in mm; half a unit per
        doubling. Without a scale both are 0, so that shape and type decide.
    elongation, aspect, fill : how far from a disc (0) to a thread, wide (above 0) or high, and how much of its box it
        takes. contrast : -2 to 2, brighter or darker than around it; 0 also where nobody looked.
    confidence, p_known : in [0, 1]. crowd : how many others the record lists (logarithm). share : part of the record's
        marked area that is this one.
    type ... : a distribution over the types: the nearest trained type, its runner-up, those it is alike to, and
        ``unknown``. Two indications of different, undoubted types are 2.1 apart by this alone.

    All of it comes from the record but the contrast. Not covered: texture, and where on the part it lies.
    """
    return np.array(_components(defect, _around(document), contrast), np.float64).astype(np.float16)


def _components(defect: Mapping[str, Any], around: _Around, contrast: float | None) -> tuple[float, ...]:
    area, feret = _number(defect.get("area_mm2")), _number(defect.get("feret_max_mm"))
    _, _, width, height = defect.get("bbox_px") or (0, 0, 1, 1)
    width, height = max(1, int(width)), max(1, int(height))
    size = root = elongation = fill = 0.0
    if area and feret:
        size, root = 0.5 * math.log2(max(feret, 1e-4)), 0.25 * math.log2(max(area, 1e-8))
        elongation = min(2.0, 0.5 * math.log2(max(1.0, math.pi / 4 * feret * feret / area)))
        fill = min(1.5, area / (width * height * around.pixel_mm2)) if around.pixel_mm2 else 0.0
    aspect = max(-2.0, min(2.0, 0.5 * math.log2(width / height)))
    share = (area or 0.0) / around.marked_mm2 if around.marked_mm2 else 0.0
    shares = _type_shares(
        defect.get("nearest_type") or defect["type"], defect.get("runner_up") or "", tuple(defect.get("alike") or ()),
        bool(defect.get("known", defect["type"] != UNKNOWN_TYPE)),
    )  # fmt: skip
    return (
        size, root, elongation, aspect, fill, 2.0 * (contrast or 0.0), _number(defect.get("confidence")) or 0.0,
        _number(defect.get("p_known")) or 0.0, around.crowd, share, *shares,
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _type_shares(nearest: str, runner_up: str, alike: tuple[str, ...], known: bool) -> tuple[float, ...]:
    """A distribution over the types, by what the engine says of one indication."""
    weights = {nearest: 1.0}
    if runner_up:
        weights[runner_up] = _RUNNER_UP
    for name in alike:
        weights.setdefault(name, _ALIKE)
    shares = [weights.get(name, 0.0) for name in _TYPES]
    if not known:
        shares[-1] = sum(shares[:-1]) or 1.0
    total = sum(shares)
    return tuple(_TYPE_WEIGHT * share / total if total else 0.0 for share in shares)


def contrasts_of(
    pixels: NDArray[Any], labels: NDArray[np.uint8], defects: Sequence[Mapping[str, Any]]
) -> list[float | None]:
    """How much brighter than its surroundings each indication is, as a share of full scale, in [-1, 1].

    pixels: (H, W) or (H, W, 3), uint8 or uint16; labels: uint8 (H, W), both of the frame; defects: as in a document.
    The surroundings are the unmarked pixels of its box, made larger by a half and four pixels. None where nothing of
    it or nothing around it is there, and beyond MOST_ROWS indications, since those are no rows of their own.
    """
    if len(defects) > MOST_ROWS:
        return []
    full = float(np.iinfo(pixels.dtype).max)
    found: list[float | None] = []
    for defect in defects:
        x, y, width, height = defect["bbox_px"]
        dx, dy = width // 4 + 4, height // 4 + 4
        cut = np.s_[max(0, y - dy) : y + height + dy, max(0, x - dx) : x + width + dx]
        marks, grey = labels[cut], pixels[cut]
        grey = grey.mean(axis=2) if grey.ndim == 3 else grey
        inside, around = grey[marks == defect["label"]], grey[marks == 0]
        if inside.size and around.size:
            found.append(round((float(inside.mean()) - float(around.mean())) / full, 6))
        else:
            found.append(None)
    return found
