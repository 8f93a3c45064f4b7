"""Boxes out of annotation files: GDXray's ground_truth.txt, YOLO, Pascal VOC, COCO.

Text in, boxes out; which picture they belong to is ``labelled.py``'s business. A pixel (0, 0) covers [0, 1) x [0, 1).
A class whose name this product knows (spaces, hyphens and capitals do not matter) becomes that type; any other is a
defect of unspecified type. Malformed text is refused by file and line: a box that is guessed at makes a wrong figure.
Not read: polygons and run lengths (their boxes are), rotated boxes, key points.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..errors import UsageError
from ..records import TYPE_IDS
from ..segment.sealed import parse_json

__all__ = [
    "Annotation",
    "Box",
    "read_coco",
    "read_gdxray",
    "read_names",
    "read_text",
    "read_voc",
    "read_yolo",
    "type_of",
    "wrong",
]

_MAX_BYTES = 2**28
_GDXRAY_FIELDS = 5
_YOLO_FIELDS = 5


@dataclass(frozen=True, slots=True)
class Box:
    """A defect by its box: left and upper edge, width and height in px (floats). type: None where none is stated.

    ignored: marked "difficult" or "crowd"; neither finding nor missing it counts.
    """

    x_px: float
    y_px: float
    width_px: float
    height_px: float
    type: str | None = None
    ignored: bool = False


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a file says about one picture. size_px: (width, height) where stated. relative: the boxes are shares of the
    picture, not px."""

    boxes: tuple[Box, ...]
    size_px: tuple[int, int] | None = None
    relative: bool = False


def wrong(where: str, what: str, hint: str) -> UsageError:
    """The refusal of a labelled folder or one of its files (code LABELS); the caller raises it."""
    return UsageError(f"{where}: {what}", code="LABELS", hint=hint)


def type_of(name: str) -> str | None:
    """The type identifier a class name means, None where the product knows no such type.

    >>> type_of("Gas Hole"), type_of("weld spatter")
    ('gas_hole', None)
    """
    plain = re.sub(r"[\s\-_]+", "_", name.strip().lower())
    return plain if plain in TYPE_IDS else None


def read_text(path: Path) -> str:
    """UTF-8 text (with or without byte order mark). Raises UsageError."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise wrong(str(path), f"longer than {_MAX_BYTES} bytes", "this is no annotation file")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise wrong(str(path), f"cannot be read: {error.strerror}", "check the path and the rights") from None
    except UnicodeDecodeError:
        raise wrong(str(path), "is not UTF-8 text", "save it as UTF-8") from None


def _box(where: str, left: float, top: float, width: float, height: float, kind: str | None, ignored: bool) -> Box:
    if not all(map(math.isfinite, (left, top, width, height))) or width <= 0 or height <= 0:
        raise wrong(
            where, f"a box of {width:g} x {height:g} at ({left:g}, {top:g})", "width and height must be above 0"
        )
    return Box(left, top, width, height, kind, ignored)


def _numbers(where: str, words: Sequence[str]) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise wrong(where, f"{' '.join(words)!r} are not numbers", "write numbers, one box a line") from None
    if not all(map(math.isfinite, values)):
        raise wrong(where, f"{' '.join(words)!r} are not all finite", "write finite numbers")
    return values


def read_gdxray(path: Path) -> dict[int, tuple[Box, ...]]:
    """``ground_truth.txt``: a line a defect, ``number x1 x2 y1 y2`` (the figures as floats; spaces, tabs or commas).

    Pixels count from 1 and both ends belong to the box, as in the set's own programs. Source: Mery et al., GDXray,
    J. Nondestruct. Eval. 34 (2015) 42. Returns image number -> boxes.
    """
    found: dict[int, list[Box]] = {}
    for line_number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        where = f"{path} line {line_number}"
        if len(words) != _GDXRAY_FIELDS:
            raise wrong(where, f"{len(words)} figures instead of 5", "write: number x1 x2 y1 y2")
        number, x1, x2, y1, y2 = _numbers(where, words)
        if number != int(number) or number < 0:
            raise wrong(where, f"picture number {words[0]}", "give a whole number")
        box = _box(where, x1 - 1.0, y1 - 1.0, x2 - x1 + 1.0, y2 - y1 + 1.0, None, False)
        found.setdefault(int(number), []).append(box)
    return {number: tuple(boxes) for number, boxes in found.items()}


def read_names(path: Path) -> tuple[str, ...]:
    """Class names, one a line, of a ``classes.txt``."""
    return tuple(line.strip() for line in read_text(path).splitlines() if line.strip())


def read_yolo(path: Path, names: tuple[str, ...] | None) -> Annotation:
    """``class cx cy w h``, a line a defect, as shares of the picture in [0, 1]. names: of the classes; None: untyped.

    An empty file says that the picture is sound.
    """
    boxes = []
    for line_number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{path} line {line_number}"
        if len(words) != _YOLO_FIELDS:
            raise wrong(where, f"{len(words)} figures instead of 5", "write: class cx cy w h; polygons are not read")
        number, cx, cy, width, height = _numbers(where, words)
        if number != int(number) or number < 0 or (names is not None and number >= len(names)):
            known = "0 or more" if names is None else f"0 to {len(names) - 1}, as classes.txt lists"
            raise wrong(where, f"class {words[0]}", f"a class is a whole number, {known}")
        if not all(0.0 <= value <= 1.0 for value in (cx, cy, width, height)):
            raise wrong(where, "figures outside 0 to 1", "give centre and size as shares of the picture")
        kind = None if names is None else type_of(names[int(number)])
        boxes.append(_box(where, cx - width / 2, cy - height / 2, width, height, kind, False))
    return Annotation(tuple(boxes), relative=True)


def read_voc(path: Path) -> Annotation:
    """Pascal VOC: ``annotation/object/bndbox``, xmin to xmax taken as edges in px. ``difficult`` objects are ignored.

    A document type or entity declaration is refused: it could make a small file expand without limit.
    """
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise wrong(str(path), "holds a document type declaration", "save it without <!DOCTYPE ...>")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - no declarations: see above
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise wrong(str(path), f"is not XML: {error}", "export it again") from None
    if root.tag != "annotation":
        raise wrong(str(path), f"begins with <{root.tag}>, not <annotation>", "give Pascal VOC annotations")

    def number(node: ElementTree.Element, name: str) -> float:
        value = (node.findtext(name) or "").strip()
        return _numbers(f"{path} <{name}>", [value])[0]

    size_px = None
    size = root.find("size")
    if size is not None and size.findtext("width") and size.findtext("height"):
        stated = (int(number(size, "width")), int(number(size, "height")))
        size_px = stated if min(stated) > 0 else None
    boxes = []
    for entry in root.iter("object"):
        frame = entry.find("bndbox")
        if frame is None:
            raise wrong(str(path), "an <object> without <bndbox>", "give each object its box")
        left, top, right, bottom = (number(frame, name) for name in ("xmin", "ymin", "xmax", "ymax"))
        ignored = (entry.findtext("difficult") or "0").strip() not in ("0", "")
        kind = type_of(entry.findtext("name") or "")
        boxes.append(_box(str(path), left, top, right - left, bottom - top, kind, ignored))
    return Annotation(tuple(boxes), size_px)


def read_coco(path: Path) -> dict[str, Annotation]:
    """COCO object detection: ``images``, ``annotations`` (bbox: x, y, width, height in px), ``categories``.

    Returns file_name -> annotation, also for pictures without any box: those are sound. ``iscrowd`` boxes are ignored.
    """
    try:
        document = parse_json(read_text(path).encode("utf-8"))
    except ValueError as error:
        raise wrong(str(path), f"is not JSON: {error}", "export it again") from None
    try:
        kinds = {entry["id"]: type_of(str(entry["name"])) for entry in document.get("categories", [])}
        files: dict[Any, str] = {}
        sizes: dict[Any, tuple[int, int] | None] = {}
        for entry in document["images"]:
            if entry["id"] in files or entry["file_name"] in files.values():
                raise wrong(str(path), f"image {entry['file_name']!r} is listed twice", "list each picture once")
            files[entry["id"]] = str(entry["file_name"])
            stated = entry.get("width"), entry.get("height")
            sizes[entry["id"]] = (int(stated[0]), int(stated[1])) if all(stated) else None
        boxes: dict[Any, list[Box]] = {identifier: [] for identifier in files}
        for entry in document["annotations"]:
            where = f"{path} annotation {json.dumps(entry.get('id'))}"
            if entry["image_id"] not in files:
                raise wrong(where, f"image_id {entry['image_id']!r} is not listed", "list the picture in 'images'")
            if entry["category_id"] not in kinds:
                raise wrong(where, f"category_id {entry['category_id']!r} is not listed", "add it to 'categories'")
            left, top, width, height = map(float, entry["bbox"])
            ignored = bool(entry.get("iscrowd", 0))
            kind = kinds[entry["category_id"]]
            boxes[entry["image_id"]].append(_box(where, left, top, width, height, kind, ignored))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong(
            str(path), f"is not a COCO file: {type(error).__name__} {error}",
            "needs 'images' (id, file_name), 'annotations' (image_id, category_id, bbox) and 'categories' (id, name)",
        ) from None  # fmt: skip
    return {files[identifier]: Annotation(tuple(found), sizes[identifier]) for identifier, found in boxes.items()}
