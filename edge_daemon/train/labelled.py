"""Pictures with their truth, out of a folder: what an engine is measured on, simulated or a site's own.

Seven forms are recognised by their files, one per folder (subfolders included); a folder that fits two or none is
refused. In every form the truth is a mask or boxes:

    simulated   000007.png, 000007-labels.png, 000007.json, perhaps 000007-ignored.png: what ``train simulate`` writes
    masks       <stem>-labels.png, <stem>-mask.png or <stem>_mask.png beside the picture, or images/ and masks/.
                Non-zero is defect; with a labels.json {"types": [...]} beside them or at the top the values are 1..K of
                it, 254 ignored, 255 a defect of unspecified type
    gdxray      ground_truth.txt in the folder of a series: number x1 x2 y1 y2; pictures named <series>_<number>
    yolo        <stem>.txt beside the picture, or images/ and labels/; classes.txt beside them or at the top
    voc         <stem>.xml beside the picture, or in annotations/ beside images/ or JPEGImages/
    coco        annotations.json, *_coco.json or *.coco.json; file names count from its folder or images/ in it
    table       images.csv (image, class, perhaps group and split) beside images/, with masks/<image>.png (non-zero is a
                defect of that class) or boxes.csv (image, class, xmin, ymin, xmax, ymax) or both; class free: sound.
                Pictures of one group are one part

A picture that no annotation mentions is **sound** where the form lists all defects of a series in one file (gdxray, and
coco for pictures it lists). Elsewhere a missing file may be a forgotten one, so the picture is left out and counted in
``notes``, unless ``missing="sound"``. Not covered: videos, DICOM, volumes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..images import load_labels, load_picture
from ..records import TYPE_IDS
from ..simulator import CASTING_TYPES
from .annotations import Annotation, Box, type_of, wrong
from .forms import FORMS, Item, index_folder, read_object, types_of
from .pictures import IGNORED, UNTYPED

__all__ = ["FORMS", "IGNORED", "UNTYPED", "Box", "Labelled", "LabelledFolder", "open_folder"]

_UNSPECIFIED = 255
_HALF = 0.5
_HALF_GREY = 127


@dataclass(frozen=True, slots=True)
class Labelled:
    """One picture with its truth: ``labels`` or ``boxes``, the other is None.

    name: path below the folder (or any name). series, part: pictures of one series, of one part. Pictures of one part
    are not independent draws. pixels: uint8 or uint16, (H, W) or RGB (H, W, 3), read-only. mm_per_px, polarity: None
    where unknown.
    labels: uint8 (H, W), 0 sound, k + 1 of ``types[k]``, UNTYPED, IGNORED (there, but below the visible limit).
    boxes: inside the picture, in px; beside ``labels`` only where someone drew both (form table), and then the mask is
    the truth. kind: class of the whole picture, where the form states one.
    """

    name: str
    series: str
    part: str
    pixels: NDArray[Any]
    mm_per_px: float | None
    polarity: str | None
    labels: NDArray[np.uint8] | None
    boxes: tuple[Box, ...] | None
    types: tuple[str, ...] = CASTING_TYPES
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """The labelled pictures below ``folder``, read one by one while iterating; may be iterated any number of times.

    form: one of FORMS. notes: what a reader of the figures has to know (left out, unknown class names).
    """

    folder: Path
    form: str
    notes: tuple[str, ...]
    mm_per_px: float | None
    _items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self._items)

    def kinds(self) -> set[str]:
        """The classes of its pictures, where the form states them (a table does)."""
        return {item.kind for item in self._items if item.kind is not None}

    def __iter__(self) -> Iterator[Labelled]:
        for item in self._items:
            yield self._read(item)

    def _read(self, item: Item) -> Labelled:
        picture = load_picture(item.picture)
        height, width = picture.pixels.shape[:2]
        mm_per_px, polarity, types = self.mm_per_px, None, CASTING_TYPES
        labels: NDArray[np.uint8] | None = None
        boxes: tuple[Box, ...] | None = None
        if item.annotation is not None:
            boxes = _boxes_px(item.picture, item.annotation, width, height)
        if item.annotation is not None and item.mask is None:
            pass
        elif item.mask is None:
            labels = np.zeros((height, width), np.uint8)
        else:
            values = _same_size(item.mask, load_labels(item.mask), picture.pixels)
            if item.kind is not None:
                known = type_of(item.kind)
                types = () if known is None else (known,)
                labels = np.where(values > _HALF_GREY, np.uint8(UNTYPED if known is None else 1), np.uint8(0))
            elif item.document is not None:
                mm_per_px, polarity, table = _simulated_document(item.document, self.mm_per_px)
                labels, types = _typed(item.mask, values, table), tuple(table.values())
            elif item.types is not None:
                types = types_of(item.types)
                labels = _typed(item.mask, values, dict(enumerate(types, 1)))
            else:
                labels = np.where(values > 0, np.uint8(UNTYPED), np.uint8(0))
            if item.ignored is not None:
                labels[_same_size(item.ignored, load_labels(item.ignored), picture.pixels) > 0] = IGNORED
        name = item.picture.relative_to(self.folder).as_posix()
        return Labelled(
            name, item.series, item.part, picture.pixels, mm_per_px, polarity, labels, boxes, types, item.kind
        )  # fmt: skip


def open_folder(
    folder: Path, *, mm_per_px: float | None = None, form: str | None = None,
    missing: Literal["leave_out", "sound"] = "leave_out", split: str | None = None,
) -> LabelledFolder:  # fmt: skip
    """The labelled pictures below ``folder``; annotation files are read and checked now, pixels later.

    mm_per_px: for pictures that state no scale of their own. form: one of FORMS where the files fit several.
    missing: what a picture without its own annotation file is (see the module). split: only these pictures of a table.
    A series is the subfolder (without images/), else the file name without its number. A ``parts.csv`` at the top
    (``picture,part`` with a header line) says which pictures show one part; without it a part is one picture, but in
    gdxray form one series, since its pictures are views of one casting.
    Raises UsageError (code LABELS) naming the file and line; ImageError while iterating.
    """
    if mm_per_px is not None and not (math.isfinite(mm_per_px) and mm_per_px > 0):
        raise wrong(str(folder), f"a scale of {mm_per_px} mm per px", "give a number above 0")
    if not folder.is_dir():
        raise wrong(str(folder), "is not a folder", "name a folder with pictures and their truth")
    chosen, items, notes = index_folder(folder, form, missing == "sound", split)
    return LabelledFolder(folder, chosen, notes, mm_per_px, items)


# ---- truth of one picture -------------------------------------------------------------------------------------------


def _same_size(path: Path, values: NDArray[np.uint8], pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if values.shape != pixels.shape[:2]:
        shapes = [f"{shape[1]} x {shape[0]}" for shape in (values.shape, pixels.shape)]
        raise wrong(str(path), f"is {shapes[0]} px, its picture {shapes[1]} px", "give the mask at the picture's size")
    return values


def _typed(path: Path, values: NDArray[np.uint8], table: Mapping[int, str]) -> NDArray[np.uint8]:
    """Values of a mask as labels: the n-th entry of the table becomes n, 254 stays ignored, 255 becomes untyped."""
    look_up = np.zeros(256, np.uint8)
    for label, value in enumerate(table, 1):
        look_up[value] = label
    look_up[IGNORED], look_up[_UNSPECIFIED] = IGNORED, UNTYPED
    labels = look_up[values]
    strange = np.unique(values[(labels == 0) & (values > 0)])
    if len(strange):
        raise wrong(
            str(path), f"holds the value {int(strange[0])}", f"known are 0, {', '.join(map(str, table))}, 254, 255"
        )
    return labels


def _simulated_document(path: Path, mm_per_px: float | None) -> tuple[float | None, str | None, dict[int, str]]:
    """(scale, polarity, label -> type) as ``train simulate`` wrote them."""
    document = read_object(path)
    scale = document.get("mm_per_px", mm_per_px)
    if scale is not None and not (isinstance(scale, int | float) and math.isfinite(scale) and scale > 0):
        raise wrong(str(path), f"mm_per_px is {scale!r}", "give a number above 0")
    table = dict(enumerate(CASTING_TYPES, 1))
    polarity, defects = document.get("polarity"), document.get("defects", [])
    if not isinstance(polarity, str | None) or not isinstance(defects, list):
        raise wrong(str(path), "polarity or defects are not what was simulated", "simulate the picture again")
    for defect in defects:
        name, label = (defect.get("type"), defect.get("label")) if isinstance(defect, dict) else (None, None)
        if name not in TYPE_IDS or not isinstance(label, int) or not 1 <= label < UNTYPED:
            raise wrong(str(path), f"a defect of type {name!r}, label {label!r}", f"known are {', '.join(TYPE_IDS)}")
        table[label] = name
    return scale, polarity, dict(sorted(table.items()))


def _boxes_px(path: Path, annotation: Annotation, width: int, height: int) -> tuple[Box, ...]:
    """Boxes in px, cut at the border. Less than half of a box inside the picture means that it belongs elsewhere."""
    if annotation.size_px is not None and annotation.size_px != (width, height):
        stated = "{} x {}".format(*annotation.size_px)
        raise wrong(
            str(path), f"is {width} x {height} px, its annotation says {stated} px", "annotate this very picture"
        )
    found = []
    for box in annotation.boxes:
        across, down = (width, height) if annotation.relative else (1.0, 1.0)
        left, top = box.x_px * across, box.y_px * down
        right, bottom = left + box.width_px * across, top + box.height_px * down
        area = (right - left) * (bottom - top)
        inside = max(0.0, min(right, width) - max(left, 0.0)), max(0.0, min(bottom, height) - max(top, 0.0))
        if inside[0] * inside[1] < _HALF * area:
            what = f"a box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) lies outside its {width} x {height} px"
            raise wrong(str(path), what, "correct the annotation, or the picture it belongs to")
        found.append(Box(max(left, 0.0), max(top, 0.0), *inside, box.type, box.ignored))
    return tuple(found)
