"""Which files of a folder are pictures, which are their truth: the seven forms that ``labelled.py`` describes.

Only names and annotation texts are read here, no pixels.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..images import PICTURE_SUFFIXES
from ..records import TYPE_IDS
from ..segment.sealed import parse_json
from .annotations import (
    Annotation,
    Box,
    read_coco,
    read_gdxray,
    read_names,
    read_text,
    read_voc,
    read_yolo,
    type_of,
    wrong,
)

__all__ = ["FORMS", "Item", "index_folder", "read_object", "types_of"]

FORMS = ("simulated", "masks", "gdxray", "yolo", "voc", "coco", "table")
#: Classes of a table that say: nothing wrong here.
SOUND_CLASSES = ("free", "sound", "good", "ok", "none")

_MASK_ENDINGS = ("-labels", "-mask", "_mask")
_IMAGE_FOLDERS = ("images", "JPEGImages")
_MOST_TYPES = 252
_SERIES_OF = re.compile(r"(.+)[-_. ]\d+\Z")
_NUMBER_OF = re.compile(r"(?:.*_)?(\d+)\Z")


@dataclass(frozen=True, slots=True)
class Item:
    """One picture and where its truth lies: an annotation, a mask (with what belongs to it), or nothing: sound.

    kind: the class of the whole picture in a table, and then of its mask.
    """

    picture: Path
    series: str
    part: str
    annotation: Annotation | None = None
    mask: Path | None = None
    ignored: Path | None = None
    document: Path | None = None
    types: Path | None = None
    kind: str | None = None


def index_folder(
    folder: Path, form: str | None, sound: bool, split: str | None = None
) -> tuple[str, tuple[Item, ...], tuple[str, ...]]:  # fmt: skip
    """(form, pictures, notes) of what lies below ``folder``. sound: what a picture without its own annotation is.
    split: of a table, None takes all of it."""
    files = _files(folder)
    chosen = _choose(folder, _evidence(files), form)
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    if split is not None and chosen != "table":
        raise wrong(str(folder), f"a split {split!r} of the form {chosen}", "only images.csv of a table names splits")
    if chosen == "table":
        items, notes = _index_table(folder, files, pictures, split)
    else:
        items, notes = _INDEX[chosen](folder, files, pictures, sound)
    if not items:
        raise wrong(str(folder), "not one labelled picture", "see the forms that `train evaluate --help` lists")
    return chosen, tuple(_with_parts(folder, items)), tuple(notes)


def _files(folder: Path) -> list[Path]:
    """Every visible file below the folder, sorted. Links to folders are followed, but into no folder twice."""
    found: list[Path] = []
    entered: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(found)


# ---- which form -----------------------------------------------------------------------------------------------------


def _beside(picture: Path, folders: Mapping[str, str], suffixes: Sequence[str]) -> list[Path]:
    """Where an annotation of this picture may lie: beside it, or in the folder that stands beside images/."""
    places = [picture.parent]
    for level, part in enumerate(reversed(picture.parent.parts)):
        if part in folders:
            parts = list(picture.parent.parts)
            parts[-1 - level] = folders[part]
            places.append(Path(*parts))
            break
    return [place / f"{picture.stem}{suffix}" for place in places for suffix in suffixes]


def _mask_names(picture: Path) -> list[Path]:
    suffixes = sorted(PICTURE_SUFFIXES - {".jpg", ".jpeg"})
    ended = [f"{ending}{suffix}" for ending in _MASK_ENDINGS for suffix in suffixes]
    beside = _beside(picture, {}, ended)
    return (
        beside + _beside(picture, dict.fromkeys(_IMAGE_FOLDERS, "masks"), [*suffixes, *ended])[len(suffixes + ended) :]
    )


def _yolo_names(picture: Path) -> list[Path]:
    return _beside(picture, dict.fromkeys(_IMAGE_FOLDERS, "labels"), [".txt"])


def _voc_names(picture: Path) -> list[Path]:
    return [
        place for name in ("annotations", "Annotations")
        for place in _beside(picture, dict.fromkeys(_IMAGE_FOLDERS, name), [".xml"])
    ]  # fmt: skip


def _is_coco(path: Path) -> bool:
    return path.name == "annotations.json" or path.name.endswith(("_coco.json", ".coco.json"))


def _first(candidates: Sequence[Path], present: set[Path]) -> Path | None:
    return next((path for path in candidates if path in present), None)


def _evidence(files: Sequence[Path]) -> dict[str, Path]:
    """Form -> the first file that speaks for it."""
    present: set[Path] = set(files)
    found: dict[str, Path] = {}
    for path in files:
        if path.name == "ground_truth.txt":
            found.setdefault("gdxray", path)
        elif _is_coco(path):
            found.setdefault("coco", path)
        elif path.suffix.lower() in PICTURE_SUFFIXES:
            for form, names in (("masks", _mask_names), ("yolo", _yolo_names), ("voc", _voc_names)):
                annotation = _first(names(path), present)
                if annotation is not None and form == "masks" and _simulated_twin(path, annotation, present):
                    found.setdefault("simulated", annotation)
                elif annotation is not None:
                    found.setdefault(form, annotation)
    if any(path.name == "images.csv" for path in files):  # its masks are named by it
        return {"table": next(path for path in files if path.name == "images.csv")}
    if "simulated" in found:  # one of them without its .json is a fault of that picture, not another form
        found.pop("masks", None)
    return found


def _simulated_twin(picture: Path, mask: Path, present: set[Path]) -> bool:
    return mask.stem == f"{picture.stem}-labels" and picture.with_suffix(".json") in present


def _choose(folder: Path, evidence: Mapping[str, Path], form: str | None) -> str:
    if form is not None:
        if form not in FORMS:
            raise wrong(str(folder), f"unknown form {form!r}", f"one of {', '.join(FORMS)}")
        if form not in evidence:
            raise wrong(str(folder), f"nothing here is of the form {form}", "leave the form out, or name another")
        return form
    if not evidence:
        raise wrong(
            str(folder), "no truth was found",
            "masks (<stem>_mask.png, or images/ and masks/), ground_truth.txt, YOLO .txt, VOC .xml or annotations.json",
        )  # fmt: skip
    if len(evidence) > 1:
        shown = ", ".join(f"{name} ({path.relative_to(folder)})" for name, path in sorted(evidence.items()))
        raise wrong(str(folder), f"fits several forms: {shown}", "name one, or keep each form in its own folder")
    return next(iter(evidence))


# ---- the seven forms ------------------------------------------------------------------------------------------------

_Indexed = tuple[list[Item], list[str]]


def _series(folder: Path, picture: Path) -> str:
    """The subfolder without images/, else the file name without its number, else the folder's own name."""
    parts = [part for part in picture.parent.relative_to(folder).parts if part not in _IMAGE_FOLDERS]
    if parts:
        return "/".join(parts)
    match = _SERIES_OF.match(picture.stem)
    return match.group(1) if match else folder.resolve().name


def _item(folder: Path, picture: Path, **truth: Any) -> Item:
    return Item(picture, _series(folder, picture), picture.relative_to(folder).as_posix(), **truth)


def _left_out(count: int, sound: bool, what: str) -> list[str]:
    if not count:
        return []
    fate = "taken as sound" if sound else "left out"
    return [f"{count} pictures without {what}: {fate}"]


def _index_masks(folder: Path, files: Sequence[Path], pictures: Sequence[Path], sound: bool) -> _Indexed:
    present = set(files)
    mask_of = {picture: mask for picture in pictures if (mask := _first(_mask_names(picture), present)) is not None}
    picture_of: dict[Path, Path] = {}
    for picture, mask in mask_of.items():
        if picture_of.setdefault(mask, picture) != picture:
            raise _shared(mask, picture_of[mask], picture)
    items, bare = [], 0
    for picture in pictures:
        if picture in picture_of:
            continue
        mask = mask_of.get(picture)
        if mask is None:
            if picture.parent.name == "masks" or picture.stem.endswith(_MASK_ENDINGS):
                raise _orphan(picture)
            bare += 1
            items += [_item(folder, picture)] if sound else []
            continue
        types = _first([mask.parent / "labels.json", picture.parent / "labels.json", folder / "labels.json"], present)
        if types is not None:
            types_of(types)
        items.append(_item(folder, picture, mask=mask, types=types))
    return items, _left_out(bare, sound, "a mask")


def _orphan(path: Path) -> UsageError:
    return wrong(str(path), "a mask without its picture", "put the picture beside it, under the same name")


def _shared(path: Path, first: Path, second: Path) -> UsageError:
    return wrong(str(path), f"belongs to {first.name} and {second.name}", "give each picture a file of its own")


def _index_simulated(folder: Path, files: Sequence[Path], pictures: Sequence[Path], sound: bool) -> _Indexed:
    present = set(files)
    items: list[Item] = []
    bare = every_visible = 0
    for picture in pictures:
        if picture.stem.endswith(("-labels", "-ignored")):
            if picture.with_stem(re.sub(r"-(labels|ignored)\Z", "", picture.stem)) not in present:
                raise _orphan(picture)
            continue
        mask, ignored = (picture.with_name(f"{picture.stem}-{what}.png") for what in ("labels", "ignored"))
        document = picture.with_suffix(".json")
        if mask not in present:
            bare += 1
            items += [_item(folder, picture)] if sound else []
            continue
        if document not in present:
            raise wrong(str(document), "is missing", "simulate the picture again: it states types and scale")
        every_visible += ignored not in present
        shown = ignored if ignored in present else None
        items.append(_item(folder, picture, mask=mask, ignored=shown, document=document))
    notes = _left_out(bare, sound, "labels")
    if every_visible:
        notes.append(f"{every_visible} pictures without -ignored.png: every discontinuity in them counts as visible")
    return items, notes


def _index_gdxray(folder: Path, files: Sequence[Path], pictures: Sequence[Path], sound: bool) -> _Indexed:
    items: list[Item] = []
    truths = {path.parent: read_gdxray(path) for path in files if path.name == "ground_truth.txt"}
    absent = bare = unnumbered = 0
    for parent, truth in truths.items():
        seen: dict[int, Path] = {}
        for picture in (path for path in pictures if path.parent == parent):
            match = _NUMBER_OF.match(picture.stem)
            if match is None:
                unnumbered += 1
                continue
            number = int(match.group(1))
            if number in seen:
                raise wrong(str(picture), f"has number {number}, as has {seen[number].name}", "number each once")
            seen[number] = picture
            series = _series(folder, picture)
            items.append(Item(picture, series, series, Annotation(truth.get(number, ()))))
        if truth and not set(truth) & set(seen):
            raise wrong(
                str(parent), "ground_truth.txt names no picture that is here", "name pictures <series>_0001.png"
            )
        absent += len(set(truth) - set(seen))
    for picture in (path for path in pictures if path.parent not in truths):
        bare += 1
        items += [_item(folder, picture, annotation=Annotation(()))] if sound else []
    notes = _left_out(bare, sound, "a ground_truth.txt in their folder")
    notes += [f"{absent} pictures that ground_truth.txt names are not here"] if absent else []
    notes += [f"{unnumbered} pictures without a number in their name: left out"] if unnumbered else []
    return items, notes


def _index_yolo(folder: Path, files: Sequence[Path], pictures: Sequence[Path], sound: bool) -> _Indexed:
    present = set(files)
    names_of: dict[Path, tuple[str, ...]] = {}

    def read(path: Path, picture: Path) -> Annotation:
        classes = _first([path.parent / "classes.txt", picture.parent / "classes.txt", folder / "classes.txt"], present)
        if classes is not None and classes not in names_of:
            names_of[classes] = read_names(classes)
        return read_yolo(path, None if classes is None else names_of[classes])

    items, notes = _index_single(folder, present, pictures, sound, _yolo_names, read)
    foreign = sorted({name for names in names_of.values() for name in names if type_of(name) is None})
    return items, notes + _foreign(foreign)


def _index_voc(folder: Path, files: Sequence[Path], pictures: Sequence[Path], sound: bool) -> _Indexed:
    items, notes = _index_single(folder, set(files), pictures, sound, _voc_names, lambda path, _: read_voc(path))
    untyped = sum(box.type is None for item in items if item.annotation for box in item.annotation.boxes)
    return items, notes + ([f"{untyped} boxes of a class that is no known type: untyped"] if untyped else [])


def _index_single(
    folder: Path, present: set[Path], pictures: Sequence[Path], sound: bool,
    names: Callable[[Path], list[Path]], read: Callable[[Path, Path], Annotation],
) -> _Indexed:  # fmt: skip
    """Forms with one annotation file a picture."""
    items: list[Item] = []
    bare = 0
    owner: dict[Path, Path] = {}
    for picture in pictures:
        path = _first(names(picture), present)
        if path is None:
            bare += 1
            items += [_item(folder, picture, annotation=Annotation(()))] if sound else []
            continue
        if path in owner:
            raise _shared(path, owner[path], picture)
        owner[path] = picture
        items.append(_item(folder, picture, annotation=read(path, picture)))
    return items, _left_out(bare, sound, "an annotation file")


def _index_coco(folder: Path, files: Sequence[Path], pictures: Sequence[Path], sound: bool) -> _Indexed:
    present, listed = set(pictures), set()
    items: list[Item] = []
    untyped = 0
    for path in filter(_is_coco, files):
        for name, annotation in read_coco(path).items():
            picture = _first([path.parent / name, path.parent / "images" / name], present)
            if picture is None:
                raise wrong(str(path), f"lists {name!r}, which is not here", "copy the picture, or take it out")
            if picture in listed:
                raise wrong(str(path), f"lists {name!r}, as another file does", "list each picture once")
            listed.add(picture)
            untyped += sum(box.type is None for box in annotation.boxes)
            items.append(_item(folder, picture, annotation=annotation))
    items += [
        _item(folder, picture, annotation=Annotation(())) for picture in pictures if sound and picture not in listed
    ]
    notes = _left_out(len(present - listed), sound, "an entry in the COCO file")
    return items, notes + ([f"{untyped} boxes of a class that is no known type: untyped"] if untyped else [])


def _index_table(folder: Path, files: Sequence[Path], pictures: Sequence[Path], split: str | None) -> _Indexed:
    path = next(one for one in files if one.name == "images.csv")
    by_name = {(one.parent.name, one.stem): one for one in pictures if one.is_relative_to(path.parent)}
    boxes = _table_boxes(path.with_name("boxes.csv"))
    items: list[Item] = []
    seen: set[str] = set()
    bare = 0
    rows = _rows(path, ("image", "class"))
    splits = {row.get("split", "") for _, row in rows}
    if split is not None and split not in splits:
        raise wrong(str(path), f"no split {split!r}", f"it has {', '.join(sorted(splits - {''})) or 'none'}")
    for where, row in rows:
        name, kind = row["image"], row["class"]
        stem = Path(name).stem if Path(name).suffix.lower() in PICTURE_SUFFIXES else name
        if stem in seen:
            raise wrong(where, f"{name} a second time", "list each picture once")
        seen.add(stem)
        if split is not None and row.get("split") != split:
            continue
        picture = by_name.get(("images", stem)) or by_name.get((path.parent.name, stem))
        if picture is None:
            raise wrong(where, f"{name} is not here", "put it into images/")
        part = f"group {row['group']}" if row.get("group") else stem
        sound = kind.lower() in SOUND_CLASSES
        mask, own = by_name.get(("masks", stem)), boxes.get(stem)
        if not sound and mask is None and own is None:
            bare += 1
            continue
        annotation = None if own is None or sound else Annotation(tuple(own))
        items.append(Item(picture, kind, part, annotation, None if sound else mask, kind=kind))
    strange = sorted(set(boxes) - seen)
    if strange:
        raise wrong(str(path.with_name("boxes.csv")), f"{strange[0]} is not in images.csv", "list it there")
    foreign = sorted({item.kind for item in items if item.kind and type_of(item.kind) is None} - set(SOUND_CLASSES))
    return items, _left_out(bare, False, "a mask or a box") + _foreign(foreign)


def _rows(path: Path, needed: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """(where, cells by column) of every line of a CSV with a header."""
    lines = list(csv.reader(read_text(path).splitlines()))
    header = [cell.strip() for cell in lines[0]] if lines else []
    missing = [name for name in needed if name not in header]
    if missing or len(set(header)) != len(header):
        raise wrong(f"{path} line 1", f"no column {missing[0]!r}" if missing else "a column twice", ",".join(needed))
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header) or not all(cells[header.index(name)].strip() for name in needed):
            raise wrong(f"{path} line {number}", repr(",".join(cells)), f"write {','.join(header)}")
        rows.append((f"{path} line {number}", {name: cell.strip() for name, cell in zip(header, cells, strict=True)}))
    return rows


def _table_boxes(path: Path) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    if not path.is_file():
        return found
    edges = ("xmin", "ymin", "xmax", "ymax")
    for where, row in _rows(path, ("image", "class", *edges)):
        try:
            left, top, right, bottom = (float(row[edge]) for edge in edges)
        except ValueError:
            raise wrong(where, "an edge that is no number", "write pixels") from None
        if not (0 <= left < right < float("inf") and 0 <= top < bottom < float("inf")):
            raise wrong(
                where, f"a box from {left:g}, {top:g} to {right:g}, {bottom:g}", "write xmin < xmax, ymin < ymax"
            )
        box = Box(left, top, right - left, bottom - top, type_of(row["class"]))
        found.setdefault(Path(row["image"]).stem, []).append(box)
    return found


def _foreign(names: Sequence[str]) -> list[str]:
    return [f"classes that are no known type, their boxes untyped: {', '.join(names)}"] if names else []


_INDEX: Mapping[str, Callable[[Path, Sequence[Path], Sequence[Path], bool], _Indexed]] = {
    "simulated": _index_simulated, "masks": _index_masks, "gdxray": _index_gdxray, "yolo": _index_yolo,
    "voc": _index_voc, "coco": _index_coco,
}  # fmt: skip


def _with_parts(folder: Path, items: Sequence[Item]) -> list[Item]:
    path = folder / "parts.csv"
    if not path.is_file():
        return list(items)
    part_of: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines()[1:], 2):
        cells = [cell.strip() for cell in line.split(",")]
        if not line.strip():
            continue
        if len(cells) != 2 or not all(cells) or cells[0] in part_of:
            raise wrong(f"{path} line {number}", repr(line), "write picture,part, each picture once")
        part_of[cells[0]] = cells[1]
    found = []
    for item in items:
        name = item.picture.relative_to(folder).as_posix()
        part = part_of.get(name) or part_of.get(item.picture.name) or part_of.get(item.picture.stem)
        if part is None:
            raise wrong(str(path), f"says nothing about {name}", "give every picture its part")
        found.append(replace(item, part=part))
    return found


# ---- small documents ---------------------------------------------------------------------------------------------


def read_object(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(read_text(path).encode("utf-8"))
    except ValueError as error:
        raise wrong(str(path), f"is not JSON: {error}", "write it again") from None
    if not isinstance(document, dict):
        raise wrong(str(path), "is not a JSON object", "write {...}")
    return document


def types_of(path: Path) -> tuple[str, ...]:
    types = read_object(path).get("types")
    if not isinstance(types, list) or not types or len(set(map(str, types))) != len(types) or len(types) > _MOST_TYPES:
        raise wrong(str(path), "no list of different 'types'", 'write {"types": ["crack", ...]}')
    for name in types:
        if name not in TYPE_IDS:
            raise wrong(str(path), f"unknown type {name!r}", f"known are {', '.join(TYPE_IDS)}")
    return tuple(types)
