"""Outlines from boxes: which pixels inside a drawn box are the defect that its author saw.

Nobody outlines ten thousand pits. What a box around a textured defect encloses are elements that differ from the
surface between and around them; here they are found by that difference, and training then learns what they have in
common (``surface_pictures``). A pixel is an element if it is darker (or brighter) than its surroundings by a multiple
of the surface's own spread; a threshold with hysteresis, so that a faint branch of a clear crack belongs to it.

Not covered: defects without elements, whose box is filled evenly (``fills``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .annotations import Box

__all__ = ["PRIORS", "Prior", "elements", "outline_boxes"]

Grey = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prior:
    """What the elements of a type look like. sense: -1 darker than the surface, +1 brighter. fine_px: sigma of the
    smoothing that takes the grain away; around_px: sigma of what counts as surroundings. clear, faint: in spreads of
    the surface, to start an element and to go on. least_px: smallest element."""

    sense: int
    fine_px: float
    around_px: float
    clear: float
    faint: float
    least_px: int


#: Of the types whose boxes enclose many elements. Any other type: ``_ANY``, whichever sense is the stronger.
PRIORS: dict[str, Prior] = {
    "crazing": Prior(-1, 1.0, 10.0, 1.9, 1.0, 10),
    "pitted_surface": Prior(-1, 0.9, 14.0, 1.9, 0.9, 5),
    "rolled_in_scale": Prior(-1, 1.2, 14.0, 1.7, 0.9, 12),
}
_ANY = Prior(-1, 1.2, 24.0, 1.6, 0.8, 16)
# A box holds something: where the surface is even, the clearest pixels of it are taken.
_LEAST_SHARE = 0.03


def elements(grey: Grey, prior: Prior) -> tuple[Grey, NDArray[np.bool_]]:
    """(how far each pixel differs in the prior's sense, in spreads of the surface; where elements are), (H, W).

    grey: float32 (H, W) in [0, 1]. The spread is the median absolute deviation around each pixel, so that the elements
    themselves hardly count.
    """
    fine = cv2.GaussianBlur(grey, (0, 0), prior.fine_px, borderType=cv2.BORDER_REFLECT)
    side = 2 * round(2.0 * prior.around_px) + 1
    padded = cv2.copyMakeBorder(fine, side // 2, side // 2, side // 2, side // 2, cv2.BORDER_REFLECT)
    levels = np.clip(padded * 255.0, 0, 255).astype(np.uint8)
    inner = np.s_[side // 2 : side // 2 + grey.shape[0], side // 2 : side // 2 + grey.shape[1]]
    median = cv2.GaussianBlur(cv2.medianBlur(levels, side).astype(np.float32), (0, 0), 2.0) / 255.0
    away = np.abs(padded - median)
    spread = cv2.medianBlur(np.clip(away * 1020.0, 0, 255).astype(np.uint8), side).astype(np.float32) / 1020.0
    spread = cv2.GaussianBlur(spread, (0, 0), 2.0) * 1.4826 + 0.006
    differs = np.asarray((prior.sense * (padded - median) / spread)[inner], np.float32)
    return differs, _hysteresis(differs, prior.clear, prior.faint, prior.least_px)


def _hysteresis(value: Grey, clear: float, faint: float, least_px: int) -> NDArray[np.bool_]:
    count, component, statistics, _ = cv2.connectedComponentsWithStats((value >= faint).view(np.uint8), connectivity=8)
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, np.asarray(component, np.intp).reshape(-1), value.reshape(-1))
    keep = (peak >= clear) & (statistics[:, cv2.CC_STAT_AREA] >= least_px)
    keep[0] = False
    return np.asarray(keep[component], bool)


def outline_boxes(grey: Grey, boxes: tuple[Box, ...], kind: str) -> NDArray[np.bool_]:
    """bool (H, W): the elements of ``kind`` inside its boxes. A box where none is clear keeps its clearest pixels."""
    found = np.zeros(grey.shape, bool)
    prior = PRIORS.get(kind, _ANY)
    differs, marked = elements(grey, prior)
    if kind not in PRIORS:
        other, others = elements(grey, Prior(1, *_rest(prior)))
        inside = _inside(grey.shape, boxes)
        if float(other[inside & others].sum()) > float(differs[inside & marked].sum()):
            differs, marked = other, others
    for box in boxes:
        window = np.s_[int(box.y_px) : int(np.ceil(box.y_px + box.height_px)),
                       int(box.x_px) : int(np.ceil(box.x_px + box.width_px))]  # fmt: skip
        own = marked[window]
        if not own.size:
            continue
        if float(own.mean()) < _LEAST_SHARE:
            own = own | (differs[window] >= np.quantile(differs[window], 1.0 - _LEAST_SHARE))
        found[window] |= own
    return found


def _rest(prior: Prior) -> tuple[Any, ...]:
    return prior.fine_px, prior.around_px, prior.clear, prior.faint, prior.least_px


def _inside(shape: tuple[int, ...], boxes: tuple[Box, ...]) -> NDArray[np.bool_]:
    """bool (H, W): in any of the boxes."""
    inside = np.zeros(shape, bool)
    for box in boxes:
        inside[int(box.y_px) : int(np.ceil(box.y_px + box.height_px)),
               int(box.x_px) : int(np.ceil(box.x_px + box.width_px))] = True  # fmt: skip
    return inside
