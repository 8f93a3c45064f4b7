"""A sheet of pictures that nobody chose: what was given, what was marked, what is true, and what was said.

Of each class those come on it whose names have the lowest hash, so that neither the best nor the worst can be picked,
and the same pictures come again with the next version of an engine.
"""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..records import UNKNOWN_TYPE, Segmentation
from .labelled import Labelled

__all__ = ["Sheet"]

_PICTURES = 24
_COLUMNS = 3
_SIDE_PX, _TEXT_PX, _GAP_PX = 240, 34, 8
_INK, _PAPER, _FAINT = (20, 20, 20), (255, 255, 255), (90, 90, 90)


class Sheet:
    """Collects thumbnails while pictures go by; holds at most 24 of each class."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[int, str, NDArray[np.uint8], str]]] = {}

    def look(self, picture: Labelled, answer: Segmentation, marked: NDArray[Any]) -> None:
        """One picture. marked: RGB, its size, the result yellow and the truth outlined."""
        kept = self._kept.setdefault(_class_of(picture), [])
        rank = -zlib.crc32(picture.name.encode("utf-8"))
        if len(kept) == _PICTURES and rank <= kept[0][0]:
            return
        pair = np.hstack([_thumbnail(np.asarray(picture.pixels)), _thumbnail(np.asarray(marked))])
        heapq.heappush(kept, (rank, picture.name, pair, said(answer)))
        if len(kept) > _PICTURES:
            heapq.heappop(kept)

    def draw(self) -> Image.Image | None:
        """The sheet: 24 pictures, of each class as many as the others as far as it goes; None if there were none."""
        ranked = {name: sorted(kept, key=lambda one: (-one[0], one[1])) for name, kept in sorted(self._kept.items())}
        chosen: list[tuple[str, str, NDArray[np.uint8], str]] = []
        for turn in range(_PICTURES):
            for name, kept in ranked.items():
                if turn < len(kept) and len(chosen) < _PICTURES:
                    chosen.append((name, *kept[turn][1:]))
        if not chosen:
            return None
        chosen.sort(key=lambda one: one[0])
        cell_x, cell_y = 2 * _SIDE_PX + _GAP_PX, _SIDE_PX + _TEXT_PX + _GAP_PX
        rows = -(-len(chosen) // _COLUMNS)
        page = Image.new("RGB", (_COLUMNS * cell_x + _GAP_PX, rows * cell_y + _GAP_PX), _PAPER)
        pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
        for number, (kind, name, pair, words) in enumerate(chosen):
            x, y = _GAP_PX + number % _COLUMNS * cell_x, _GAP_PX + number // _COLUMNS * cell_y
            page.paste(Image.fromarray(pair), (x, y))
            pen.text((x, y + _SIDE_PX + 2), f"{kind}  ({name})"[:76], _FAINT, font)
            pen.text((x, y + _SIDE_PX + 17), words[:76], _INK, font)
        return page


def said(answer: Segmentation) -> str:
    """In one line what the engine says: types with their number of regions, and of unknown ones the likest type."""
    if answer.refusals:
        return "refused: " + ", ".join(reason.code for reason in answer.refusals)
    counts = Counter(region.type for region in answer.regions)
    parts = [f"{name} {count}" for name, count in counts.most_common() if name != UNKNOWN_TYPE]
    unknown = [region for region in answer.regions if not region.known]
    if unknown:
        least = min(unknown, key=lambda region: region.p_known)
        parts.append(f"not trained on {len(unknown)} (nearest {least.nearest_type}, p {least.p_known:.3f})")
    return "; ".join(parts) or "nothing"


def _class_of(picture: Labelled) -> str:
    if picture.kind:
        return picture.kind
    if picture.labels is not None:
        values = np.unique(picture.labels)
        named = [name for value, name in enumerate(picture.types, 1) if value in values]
        return " + ".join(named) or ("sound" if not values.any() else "defect")
    names = sorted({box.type or "defect" for box in picture.boxes or ()})
    return " + ".join(names) or "sound"


def _thumbnail(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """RGB, at most 240 px each way, in the middle of a square; enlarged without smoothing."""
    eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    shown = eight if eight.ndim == 3 else np.repeat(eight[..., None], 3, axis=2)
    height, width = shown.shape[:2]
    scale = _SIDE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(shown, size, interpolation=cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA)
    square = np.full((_SIDE_PX, _SIDE_PX, 3), 255, np.uint8)
    top, left = (_SIDE_PX - small.shape[0]) // 2, (_SIDE_PX - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square
