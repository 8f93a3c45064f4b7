"""``train evaluate``: the figures of an engine on any labelled pictures, as one document, a table, and pictures.

The pictures are the worst misses and false alarms: what a site has to look at before it believes a table. Result yellow
on exactly the marked pixels, truth outlined around it in cyan, ignored truth in magenta.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..images import highlight, make_folder, write_bytes_atomic, write_png_atomic
from ..segment.bundle import load
from ..segment.onnx import OnnxEngine
from ..segment.protocol import Engine
from ..simulator import Radiograph
from .figures import summarise
from .labelled import IGNORED, Labelled, open_folder
from .pictures import EXPERIMENT_SEEDS_FROM, draw_examination, draw_picture
from .scoring import PictureScore, score_pictures, simulated
from .sheet import Sheet

__all__ = ["SCENES", "evaluate_on", "evaluate_pictures", "markdown", "outlined"]

_CYAN, _MAGENTA = (0, 1, 1), (1, 0, 1)
_PICTURES_EACH = 12

#: What may be simulated: the mixture of training, geometry that no training picture shows, and that without any defect.
SCENES: Mapping[str, Callable[[int], Radiograph]] = {
    "mixture": draw_picture,
    "unseen": draw_examination,
    "sound": partial(draw_examination, sound=True),
}


def evaluate_on(
    bundle_folder: Path, on: Path | None, seeds: Sequence[int] = (), *, out: Path | None = None,
    scenes: str = "mixture", mm_per_px: float | None = None, form: str | None = None,
    missing: Literal["leave_out", "sound"] = "leave_out", split: str | None = None, threads: int = 2,
) -> dict[str, Any]:  # fmt: skip
    """Figures of a sealed bundle on the labelled folder ``on`` (``open_folder`` explains mm_per_px, form, missing and
    split), or, where that is None, on one simulated picture per seed. scenes: one of SCENES.

    Raises UsageError without seeds or for seeds that training or tuning may have used, ConfigError and IntegrityError
    for a bundle that does not hold, and what ``open_folder`` and ``evaluate_pictures`` raise.
    """
    pictures: Iterable[Labelled]
    about: dict[str, Any]
    if on is not None:
        pictures = folder = open_folder(on, mm_per_px=mm_per_px, form=form, missing=missing, split=split)
        about = {"on": str(on), "form": folder.form, "split": split, "notes": list(folder.notes)}
    elif not len(seeds) or min(seeds) < EXPERIMENT_SEEDS_FROM:
        raise UsageError(
            "these seeds may have been trained or tuned on", hint=f"choose seeds from {EXPERIMENT_SEEDS_FROM} on"
        )
    else:
        pictures = simulated(seeds, SCENES[scenes], f"simulated {scenes}")
        about = {"on": f"simulated {scenes}, seeds {min(seeds)} to {max(seeds)}", "seeds": [min(seeds), max(seeds)]}
    engine = OnnxEngine(load(bundle_folder), threads=threads)
    try:
        return evaluate_pictures(engine, pictures, about=about, out=out)
    finally:
        engine.close()


def evaluate_pictures(
    engine: Engine, pictures: Iterable[Labelled], *, about: dict[str, Any], out: Path | None = None
) -> dict[str, Any]:
    """Score the pictures one by one and return their figures, with ``about`` (what they were) in front.

    out: folder for ``figures.json``, ``figures.md``, ``sheet.png`` (24 pictures that nobody chose, see ``sheet``) and
    ``worst/*.png`` (the largest missed indications, the most confident false alarms, twelve pictures each). Raises
    EngineError, ImageError, UsageError (a picture or its truth cannot be read), StorageError.
    """
    scores: list[PictureScore] = []
    gallery, sheet = _Gallery(), Sheet()
    for picture, answer, score in score_pictures(engine, pictures):
        scores.append(score)
        if out is not None:
            shown = outlined(picture, answer.labels)
            gallery.look(picture, shown, score)
            sheet.look(picture, answer, shown)
    bundle = engine.bundle
    engine_about = {"bundle": bundle.name, "version": bundle.version, "sha256": bundle.sha256,
                    "backend": engine.backend, "seed_threshold": bundle.thresholds.seed}  # fmt: skip
    figures = {**about, **engine_about, **summarise(bundle, scores)}
    if out is not None:
        worst = gallery.write(make_folder(out / "worst"))
        page = sheet.draw()
        if page is not None:
            write_png_atomic(out / "sheet.png", np.asarray(page))
        write_bytes_atomic(out / "figures.json", (json.dumps(figures, indent=1, allow_nan=False) + "\n").encode())
        write_bytes_atomic(out / "figures.md", (markdown(figures) + worst).encode("utf-8"))
    return figures


# ---- pictures -------------------------------------------------------------------------------------------------------


def outlined(picture: Labelled, labels: NDArray[np.uint8]) -> NDArray[Any]:
    """(H, W, 3) RGB of the picture's depth: marked pixels yellow, truth outlined just outside itself."""
    shown = highlight(picture.pixels, labels)
    top = np.iinfo(shown.dtype).max
    for colour, mask in zip((_MAGENTA, _CYAN), _truth_masks(picture), strict=True):
        ring = (cv2.dilate(mask, np.ones((3, 3), np.uint8)) > 0) & (mask == 0) & (labels == 0)
        shown[ring] = np.multiply(colour, top).astype(shown.dtype)
    return shown


def _truth_masks(picture: Labelled) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(ignored, counted) truth as uint8 masks; a box is filled."""
    if picture.labels is not None:
        ignored = (picture.labels == IGNORED).view(np.uint8)
        return ignored, ((picture.labels > 0) & (ignored == 0)).view(np.uint8)
    masks = [np.zeros(picture.pixels.shape[:2], np.uint8) for _ in range(2)]
    for box in picture.boxes or ():
        x, y = int(box.x_px), int(box.y_px)
        right, bottom = int(np.ceil(box.x_px + box.width_px)), int(np.ceil(box.y_px + box.height_px))
        masks[not box.ignored][y:bottom, x:right] = 1
    return masks[0], masks[1]


class _Gallery:
    """The worst pictures so far, with what makes them so; holds at most twelve of each kind."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[float, str, str, NDArray[Any]]]] = {"miss": [], "false": []}

    def look(self, picture: Labelled, shown: NDArray[Any], score: PictureScore) -> None:
        missed = [(one.diameter_px, f"{one.type or 'defect'}, {one.diameter_px:.1f} px, at {_place(one.bbox_px)}")
                  for one in score.indications if not one.found]  # fmt: skip
        false = [(confidence, f"confidence {confidence:.2f}, at {_place(box)}") for confidence, box in score.false]
        for kind, events in (("miss", missed), ("false", false)):
            kept = self._kept[kind]
            if not events or (len(kept) == _PICTURES_EACH and max(events)[0] <= kept[0][0]):
                continue
            worth, text = max(events)
            heapq.heappush(kept, (worth, picture.name, text, shown))
            if len(kept) > _PICTURES_EACH:
                heapq.heappop(kept)

    def write(self, folder: Path) -> str:
        """Write the pictures and return the Markdown list of them. Pictures of an earlier run are removed."""
        for old in folder.glob("*.png"):
            if re.match(r"(miss|false)-\d\d-", old.name):
                old.unlink()
        lines = []
        for kind, title in (("miss", "Largest misses"), ("false", "Most confident false alarms")):
            ranked = sorted(self._kept[kind], key=lambda one: (-one[0], one[1]))
            lines += [f"\n## {title}\n", *([] if ranked else ["None."])]
            for number, (_, name, text, pixels) in enumerate(ranked, 1):
                stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", name.rsplit(".", 1)[0])[-80:]
                path = folder / f"{kind}-{number:02d}-{stem}.png"
                write_png_atomic(path, pixels)
                lines.append(f"- `worst/{path.name}`: {name}, {text}")
        return "\n".join(lines) + "\n"


def _place(box: Sequence[float]) -> str:
    return f"x {box[0]:.0f}, y {box[1]:.0f}, {box[2]:.0f} x {box[3]:.0f} px"


# ---- table ----------------------------------------------------------------------------------------------------------


def markdown(figures: dict[str, Any]) -> str:
    """The figures as a page of Markdown that reads as plain text too."""
    lines = [f"# {figures['bundle']} {figures['version']} on {figures['on']}", ""]
    refused = ", ".join(f"{code} {count}" for code, count in figures["refusals"].items())
    lines += [
        f"{figures['pictures']} pictures of {figures['parts']} parts in {figures['series']['n']} series; "
        f"refused by the image gate: {figures['refused']}{f' ({refused})' if refused else ''}.",
        *[f"Note: {note}." for note in figures.get("notes", ())],
        "Found: at least a quarter of an indication's visible pixels marked"
        + (", or a region whose centre lies in the box or whose overlap with it is 0.25" if figures["truth"]["boxes"]
           else "") + ".",
        "Intervals: 95 %; one indication a part and type counts for them (Clopper-Pearson), all for the share.", "",
        "| figure | value |", "|---|---|",
        *(f"| {name} | {value} |" for name, value in _headline(figures)),
        "", "| type | found, all | found, one a part | named right | IoU | area bias (n) |", "|---" * 6 + "|",
    ]  # fmt: skip
    areas = figures["area"]["types"]
    for name, row in figures["types"].items():
        if not row["found"]["n"]:
            continue
        area = areas.get(name)
        size = "" if area is None else f"{_percent(area['bias'])} ({area['n']})"
        cells = (name, _cell(row["found"]), _cell(row["recall"]), _cell(row["named_right"]), _number(row["iou"]), size)
        lines.append("| " + " | ".join(cells) + " |")
    for key in ("size_px", "size_mm"):
        if figures[key] is not None:
            lines += ["", "| equivalent diameter | found, all | found, one a part |", "|---|---|---|"]
            lines += [
                f"| {name} | {_cell(row['found'])} | {_cell(row['recall'])} |"
                for name, row in figures[key]["bins"].items()
                if row["found"]["n"]
            ]
    if figures["naming"]["confusion"]:
        lines += ["", "| truly | called, of those found |", "|---|---|"]
        for name, given in figures["naming"]["confusion"].items():
            lines.append(f"| {name} | {', '.join(f'{other} {count}' for other, count in given.items())} |")
    if figures["series"]["n"] > 1:
        lines += _series_table(figures["series"])
    if figures["calibration"] is not None:
        lines += ["", "| coverage, near pixels | pixels | mean coverage | defect share |", "|---|---|---|---|"]
        for row in figures["calibration"]["table_near"]:
            low, high = row["coverage"]
            shares = f"{row['mean_coverage']:.3f} | {row['defect_share']:.3f}"
            lines.append(f"| {low:.2f} to {high:.2f} | {row['pixels']} | {shares} |")
    return "\n".join(lines) + "\n"


def _headline(figures: dict[str, Any]) -> list[tuple[str, str]]:
    false, boxes, naming = figures["false_regions"], figures["boxes"], figures["naming"]
    rows = [
        ("indications found", _cell(figures["found"])),
        ("missed where the picture is burnt out or black", str(figures["missed_where_blind"])),
        ("found, mean of types; worst", f"{_number(figures['found_mean'])}; {_worst(figures['found_worst'])}"),
    ]
    for key, unit in (("size_px", "px"), ("size_mm", "mm")):
        if figures[key] is not None:
            rows.append((f"found, worst size in {unit}", _worst(figures[key]["worst"])))
    interval = "" if false["ci95"] is None else " ({:.4f} to {:.4f})".format(*false["ci95"])
    rows += [
        ("false indications a picture", f"{_number(false['per_picture'], 4)}{interval}, {false['n']} in all"),
        ("sound pictures with any marked pixel", _cell(figures["sound_marked"])),
        ("regions called unknown", _cell(figures["regions_called_unknown"])),
        ("named exactly, of those found", f"{_cell(naming['exact'])}; worst type {_worst(naming['exact']['worst'])}"),
    ]
    kinds, inside = figures["picture_type"], figures["coloured_inside_boxes"]
    if kinds["n"]:
        rows.append(("type of the whole picture right", f"{_cell(kinds)}; worst {_worst(kinds['worst'])}"))
    if inside["by_class"]:
        rows.append(("coloured pixels inside the drawn boxes, mean of classes; worst",
                     f"{_number(inside['mean'])}; {_worst(inside['worst'])}"))  # fmt: skip
    if naming["groups"]:
        rows.append(("named within the group", f"{_cell(naming['by_group'])}; {_worst(naming['by_group']['worst'])}"))
    if figures["calibration"] is not None:
        calibration, area = figures["calibration"], figures["area"]
        rows += [
            ("mIoU of types (no background); worst",
             f"{_number(figures['type_iou_mean'])}; {_worst(figures['type_iou_worst'])}"),
            ("IoU, defect or not", _number(figures["defect_iou"])),
            ("Dice, mean of pictures with a defect", _number(figures["dice_per_picture"])),
            ("calibration error of coverage: all pixels; near ones",
             f"{_number(calibration['ece_all'], 5)}; {_number(calibration['ece_near'], 4)}"),
            ("area bias, radius from 3 px",
             f"{_percent(area['bias'])}, n {area['n']}; worst {_worst(area['worst'], percent=True)}"),
            ("area bias as judged (marked pixels only)", _percent(area["judged"])),
        ]  # fmt: skip
    rows += [
        ("AP of region boxes at IoU 0.25; 0.5", f"{_number(boxes['ap25'])}; {_number(boxes['ap50'])}"),
        ("boxes hit at 1 false alarm a picture", _cell(boxes["hit_at_1_false"])),
        ("boxes hit at 0.25 false alarms a picture", _cell(boxes["hit_at_quarter_false"])),
    ]
    return rows


def _series_table(series: dict[str, Any]) -> list[str]:
    keys = {"found": "found", "false_per_picture": "false a picture", "defect_iou": "IoU", "ap25": "AP 0.25",
            "ap50": "AP 0.5", "hit_at_1_false": "hit at 1", "hit_at_quarter_false": "hit at 0.25"}  # fmt: skip
    lines = ["", f"| series | pictures | {' | '.join(keys.values())} |", "|---" * (len(keys) + 2) + "|"]
    for name, row in (series["each"] or {}).items():
        lines.append(f"| {name} | {row['pictures']} | {' | '.join(_number(row[key]) for key in keys)} |")
    lines.append(f"| **mean of series** | | {' | '.join(_number(series['mean'][key]) for key in keys)} |")
    lines.append(f"| **worst** | | {' | '.join(_worst(series['worst'][key]) for key in keys)} |")
    return lines


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"


def _worst(worst: tuple[str, float] | None, *, percent: bool = False) -> str:
    if worst is None:
        return "-"
    return f"{_percent(worst[1]) if percent else _number(worst[1])} ({worst[0]})"


def _cell(figures: dict[str, Any]) -> str:
    if not figures["n"]:
        return "none"
    interval = "" if "ci95" not in figures else " ({:.3f} to {:.3f})".format(*figures["ci95"])
    return f"{figures['k']}/{figures['n']} = {figures['value']:.3f}{interval}"
