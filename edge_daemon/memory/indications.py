"""From a record's document to the rows that are searched: its types, its indications, its figures.

A picture of dust may hold tens of thousands of indications; the document lists them all, and the bank makes rows of the
MOST_ROWS largest of them (unknown ones first), so that no picture can hold up the line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..records import TYPE_IDS, UNKNOWN_TYPE

__all__ = ["FEATURES", "MOST_ROWS", "Figures", "contrasts_of", "detection_rows", "features_of", "figures_of"]

#: Most indications of one record that become rows of their own.
MOST_ROWS = 256

_TYPES = (*TYPE_IDS, UNKNOWN_TYPE)
_TYPE_INDEX = {name: index for index, name in enumerate(_TYPES)}

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
    picture_mm2 = _picture_mm2(document)
    chosen: Sequence[int] = range(len(defects))
    if len(defects) > MOST_ROWS:
        ranked = sorted(chosen, key=lambda at: (defects[at].get("known", True), -_extent(defects[at])))
        chosen = sorted(ranked[:MOST_ROWS])
    rows = []
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
                None if area is None or not picture_mm2 else 100.0 * area / picture_mm2,
                contrast, *box, features_of(defect, document, contrast).tobytes(),
            )
        )  # fmt: skip
    return rows


def _extent(defect: Mapping[str, Any]) -> float:
    area = _number(defect.get("area_mm2"))
    if area is not None:
        return area
    _, _, width, height = defect.get("bbox_px") or (0, 0, 0, 0)
    return float(width * height)


def _picture_mm2(document: Mapping[str, Any]) -> float:
    working = document.get("working") or {}
    try:
        (width, height), (sx, sy) = working["size_px"], working["mm_per_px"]
        return float(width * sx * height * sy)
    except (KeyError, TypeError, ValueError):
        return 0.0


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
    vector = np.zeros(len(FEATURES), np.float64)
    area, feret = _number(defect.get("area_mm2")), _number(defect.get("feret_max_mm"))
    _, _, width, height = (max(1, int(side)) for side in defect.get("bbox_px") or (0, 0, 1, 1))
    if area and feret:
        vector[0] = 0.5 * math.log2(max(feret, 1e-4))
        vector[1] = 0.25 * math.log2(max(area, 1e-8))
        vector[2] = min(2.0, 0.5 * math.log2(max(1.0, math.pi / 4 * feret * feret / area)))
        pixel_mm2 = _pixel_mm2(document)
        vector[4] = min(1.5, area / (width * height * pixel_mm2)) if pixel_mm2 else 0.0
    vector[3] = max(-2.0, min(2.0, 0.5 * math.log2(width / height)))
    vector[5] = 2.0 * (contrast or 0.0)
    vector[6] = _number(defect.get("confidence")) or 0.0
    vector[7] = _number(defect.get("p_known")) or 0.0
    defects = document.get("defects") or (defect,)
    vector[8] = 0.2 * math.log2(max(1, len(defects)))
    whole = sum(_number(one.get("area_mm2")) or 0.0 for one in defects) if len(defects) <= MOST_ROWS else 0.0
    vector[9] = (area or 0.0) / whole if whole else 0.0
    vector[10:] = _TYPE_WEIGHT * _type_shares(defect)
    return vector.astype(np.float16)


def _pixel_mm2(document: Mapping[str, Any]) -> float:
    working = document.get("working") or {}
    try:
        sx, sy = working["mm_per_px"]
        return float(sx * sy)
    except (KeyError, TypeError, ValueError):
        return 0.0


def _type_shares(defect: Mapping[str, Any]) -> NDArray[np.float64]:
    shares = np.zeros(len(_TYPES))
    unknown = not defect.get("known", defect["type"] != UNKNOWN_TYPE)
    weights = {defect.get("nearest_type") or defect["type"]: 1.0}
    if defect.get("runner_up"):
        weights[defect["runner_up"]] = _RUNNER_UP
    for name in defect.get("alike") or ():
        weights.setdefault(name, _ALIKE)
    for name, weight in weights.items():
        if name in _TYPE_INDEX:
            shares[_TYPE_INDEX[name]] = weight
    total = shares.sum()
    if unknown:
        shares[_TYPE_INDEX[UNKNOWN_TYPE]] = total or 1.0
        total = shares.sum()
    return shares / total if total else shares


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
