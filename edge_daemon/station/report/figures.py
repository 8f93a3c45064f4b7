"""The pictures of a report: what the camera saw, the same in yellow, and a map that survives a grey printer.

Pictures are shown at most ``MOST_PX`` on their longer side. What is marked is never lost when a picture is made
smaller: a shown pixel is yellow where any pixel behind it is. 16-bit pictures are shown between their 0.5 % and 99.5 %
grey values; 8-bit pictures as they are.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...images import highlight

__all__ = ["MOST_PX", "Figure", "encoded", "figures_of", "shown_8bit"]

MOST_PX = 1400
_MOST_NUMBERS = 60
_INK = (20, 24, 31)

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture of a report as a PNG or JPEG file. stretched: grey values (low, high) shown as black and white."""

    name: str
    data: bytes
    media_type: str
    size_px: tuple[int, int]
    shown_px: tuple[int, int]
    stretched: tuple[int, int] | None = None

    @property
    def reduced(self) -> bool:
        """Whether fewer pixels are shown than the picture has."""
        return self.shown_px[0] < self.size_px[0]


def figures_of(
    pixels: NDArray[Any] | None,
    labels: NDArray[np.uint8] | None,
    document: Mapping[str, Any],
    drawn: Mapping[str, Picture] | None = None,
) -> dict[str, Figure]:
    """The figures that a record's pictures allow, by name: original, highlight, map, and those of ``evidence.py``.

    pixels: the frame as inspected, (H, W) or (H, W, 3), uint8 or uint16; labels: uint8 (H, W) of the same size; drawn:
    pictures by file name (``tiles.png``, ``comparison.png``, ``curve.png``). What is None is left out.
    """
    figures = {}
    if pixels is not None:
        shown, stretched = shown_8bit(pixels)
        small = _smaller(shown)
        figures["original"] = _photo("original", small, shown, stretched)
        # A picture that was refused unseen has no marks to show; an unmarked one would read as "nothing found".
        looked = document["outcome"] != "NOT_EVALUABLE" or document["defects"]
        if labels is not None and labels.shape == pixels.shape[:2] and looked:
            marks = _smaller_labels(labels, small.shape[:2])
            figures["highlight"] = _photo("highlight", np.asarray(highlight(small, marks)), shown, stretched)
            if document["defects"]:
                figures["map"] = _photo("map", _numbered(small, marks, shown.shape, document["defects"]), shown, None)
    for file, picture in (drawn or {}).items():
        name = file.rpartition("/")[2].removesuffix(".png")
        height, width = picture.shape[:2]
        figures[name] = Figure(name, encoded(picture, "PNG"), "image/png", (width, height), (width, height))
    return figures


def encoded(picture: NDArray[np.uint8], kind: str) -> bytes:
    """(H, W) or (H, W, 3) RGB uint8 as a PNG or JPEG file; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    if kind == "JPEG":
        # No subsampling of colours: yellow beside grey must not bleed.
        image.save(buffer, "JPEG", quality=92, subsampling=0, optimize=True)
    else:
        image.save(buffer, "PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def _photo(name: str, picture: Picture, whole: Picture, stretched: tuple[int, int] | None) -> Figure:
    size, shown = (whole.shape[1], whole.shape[0]), (picture.shape[1], picture.shape[0])
    return Figure(name, encoded(picture, "JPEG"), "image/jpeg", size, shown, stretched)


def shown_8bit(pixels: NDArray[Any]) -> tuple[Picture, tuple[int, int] | None]:
    """8 bits for the eye."""
    if pixels.dtype == np.uint8:
        return pixels, None
    low, high = (int(one) for one in np.quantile(pixels[::2, ::2], (0.005, 0.995)))
    high = max(high, low + 1)
    scaled = (np.clip(pixels, low, high).astype(np.float32) - low) * (255.0 / (high - low))
    return (scaled + 0.5).astype(np.uint8), (low, high)


def _smaller(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    if max(height, width) <= MOST_PX:
        return picture
    zoom = MOST_PX / max(height, width)
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)).astype(np.uint8)


def _smaller_labels(labels: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Each shown pixel takes a label where any pixel behind it has one."""
    height, width = size
    if labels.shape == (height, width):
        return labels
    small = np.zeros((height, width), np.uint8)
    ys, xs = np.nonzero(labels)
    small[ys * height // labels.shape[0], xs * width // labels.shape[1]] = labels[ys, xs]
    return small


def _numbered(
    picture: Picture, marks: NDArray[np.uint8], whole: Sequence[int], defects: Sequence[Mapping[str, Any]]
) -> Picture:
    """Marked pixels black on a faded picture, each indication with its number beside it: told apart without colour."""
    rgb = picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
    faded = (0.35 * rgb + 0.65 * 255).astype(np.uint8)
    zoom = max(1, round(900 / max(faded.shape[:2])))
    faded = np.kron(faded, np.ones((zoom, zoom, 1), np.uint8))
    big = np.kron(marks, np.ones((zoom, zoom), np.uint8))
    faded[big > 0] = _INK
    image = Image.fromarray(faded)
    draw = ImageDraw.Draw(image)
    across, down = image.width / whole[1], image.height / whole[0]
    font = ImageFont.load_default(max(18, round(image.width / 42)))
    taken: list[tuple[float, float, float, float]] = []
    for number, one in enumerate(defects[:_MOST_NUMBERS], start=1):
        x, y, w, h = one["bbox_px"]
        box = (x * across, y * down, (x + w) * across, (y + h) * down)
        place = _place(draw, font, str(number), box, image.size, taken)
        taken.append(place)
        draw.text((place[0] + 2, place[1]), str(number), font=font, fill=_INK, stroke_width=3, stroke_fill="white")
    return np.asarray(image)


def _place(
    draw: ImageDraw.ImageDraw, font: Any, words: str, box: tuple[float, float, float, float], size: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:  # fmt: skip
    """A free place for a number around its indication: right, left, below, above; the first where none is free."""
    left, top, right, bottom = draw.textbbox((0, 0), words, font=font)
    w, h = right - left + 4, bottom - top + 6
    middle_x, middle_y = (box[0] + box[2] - w) / 2, (box[1] + box[3] - h) / 2
    beside = [(box[2] + 3, middle_y), (box[0] - w - 3, middle_y), (middle_x, box[3] + 2), (middle_x, box[1] - h - 2)]
    places = beside + [(x, y) for x in (box[2] + 2, box[0] - w - 2) for y in (box[1] - h, box[3])]
    for x, y in places:
        inside = x >= 0 and y >= 0 and x + w <= size[0] and y + h <= size[1]
        if inside and not any(x < r and l < x + w and y < b and t < y + h for l, t, r, b in taken):  # noqa: E741
            return x, y, x + w, y + h
    x, y = min(max(places[0][0], 0), size[0] - w), min(max(places[0][1], 0), size[1] - h)
    return x, y, x + w, y + h
