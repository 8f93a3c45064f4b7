"""From counted pictures to the figures of an engine: one document, whatever the pictures were.

Proportions carry their number of trials. A 95 % interval (Clopper-Pearson) needs independent draws, and the pores of
one field, or the views of one part, are found or missed together; so for intervals **one indication a part** and type
(or size) counts, drawn at random but always the same one. Beside it stands the share of *all* indications.

Recall is of visible indications. mean: over types (sizes, series) with at least one. worst: the lowest of them, with
its number of trials, which may be small. mIoU: mean over the types that occur of intersection over union of that type's
pixels, over the whole set; background is no type; pixels of unstated type or ignored are left out. A type that does not
occur but is named has an IoU of 0 in its own row. Not covered: what pictures of another process would show.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..records import UNKNOWN_TYPE
from ..segment.bundle import Bundle
from .detection import average_precision, froc
from .labelled import IGNORED, UNTYPED
from .scoring import BINS, Area, Indication, PictureScore, names_of
from .statistics import clopper_pearson, poisson_interval

__all__ = ["UNTYPED_NAME", "proportion", "summarise"]

UNTYPED_NAME = "untyped"
_DIAMETERS_PX = (4.0, 6.0, 10.0, 16.0, 25.0, 40.0)
_DIAMETERS_MM = (0.3, 0.5, 0.8, 1.25, 2.0, 4.0)
_RESAMPLES = 2000
_FEW = 5
_MOST_SERIES = 200


def proportion(successes: int, trials: int) -> dict[str, Any]:
    """n, k, value (None without trials) and the 95 % Clopper-Pearson interval."""
    low, high = clopper_pearson(successes, trials)
    return {**_share(successes, trials), "ci95": [round(low, 4), round(high, 4)]}


def _share(successes: int, trials: int) -> dict[str, Any]:
    return {"n": trials, "k": successes, "value": round(successes / trials, 4) if trials else None}


def summarise(bundle: Bundle, scores: Iterable[PictureScore]) -> dict[str, Any]:
    """The figures of an engine on these pictures. Pixel figures are None where the truth was boxes only.

    Keys: as in ``figures.json`` that ``train evaluate --out`` writes; each is defined here, in ``scoring.py`` or in
    ``detection.py``. All of them are there whatever the truth was; what it cannot say is None.
    """
    everything = list(scores)
    kept = [one for one in everything if not one.refusals]
    refusals = Counter(code for one in everything for code in one.refusals)
    pixels = _pixels(bundle, kept)
    types = _by_type(bundle, kept, pixels)
    recalls = {name: row["recall"]["value"] for name, row in types.items() if row["recall"]["n"]}
    found = {name: row["found"]["value"] for name, row in types.items() if row["found"]["n"]}
    ious = {name: row["iou"] for name, row in types.items() if name in pixels["occurs"]}
    known, unknown = (sum(one.regions[index] for one in kept) for index in (0, 1))
    around = [one.around for one in kept if one.pixels is not None]
    return {
        "pictures": len(everything),
        "parts": len({one.part for one in everything}),
        "refused": len(everything) - len(kept),
        "refusals": dict(sorted(refusals.items())),
        "truth": {
            "masks": sum(one.pixels is not None for one in kept),
            "boxes": sum(one.pixels is None for one in kept),
        },
        "found": _share(sum(one.found for _, one in _all(kept)), sum(1 for _ in _all(kept))),
        "missed_where_blind": sum(one.blind and not one.found for _, one in _all(kept)),
        "found_mean": _mean(found),
        "found_worst": _worst(found),
        "recall_mean": _mean(recalls),
        "recall_worst": _worst(recalls),
        "type_iou_mean": _mean(ious),
        "type_iou_worst": _worst(ious),
        "defect_iou": pixels["defect_iou"],
        "dice_per_picture": pixels["dice_per_picture"],
        "summed_coverage_over_visible_area": _ratio(sum(a for a, _ in around), sum(b for _, b in around)),
        "false_regions_per_picture": round(sum(len(one.false) for one in kept) / max(len(kept), 1), 4),
        "false_regions": _false(kept),
        "pictures_with_false_region": proportion(sum(bool(one.false) for one in kept), len(kept)),
        "sound_marked": proportion(sum(one.sound and one.marked for one in kept), sum(one.sound for one in kept)),
        "regions_called_unknown": proportion(unknown, known + unknown),
        "types": types,
        "size_px": _by_size(kept, _DIAMETERS_PX, lambda one: one.diameter_px, "px"),
        "size_mm": _by_size(kept, _DIAMETERS_MM, lambda one: one.diameter_mm, "mm"),
        "naming": _naming(bundle, kept),
        "calibration": _calibration(kept),
        "area": _areas([area for one in kept for area in one.areas]),
        "edge_px": {name: _edges([one.edge_px[name] for one in kept if name in one.edge_px]) for name in bundle.types},
        "boxes": _boxes(kept),
        "picture_type": _picture_types(bundle, kept),
        "coloured_inside_boxes": _inside_boxes(kept),
        "series": _by_series(bundle, kept),
    }  # fmt: skip


def _mean(values: Mapping[str, float]) -> float | None:
    return round(float(np.mean(list(values.values()))), 4) if values else None


def _worst(values: Mapping[str, float]) -> tuple[str, float] | None:
    return min(values.items(), key=lambda item: item[1]) if values else None


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


# ---- found ----------------------------------------------------------------------------------------------------------


def _all(kept: Sequence[PictureScore]) -> Iterable[tuple[PictureScore, Indication]]:
    return ((one, indication) for one in kept for indication in one.indications)


def _drawn(kept: Sequence[PictureScore], stratum: Callable[[Indication], str | None]) -> dict[str, list[Indication]]:
    """Per stratum one indication a part, drawn by the hash of where it lies: at random, but the same every time."""
    best: dict[tuple[str, str], tuple[bytes, Indication]] = {}
    for one, indication in _all(kept):
        name = stratum(indication)
        if name is None:
            continue
        where = f"{name} {one.name} {indication.bbox_px}".encode()
        key = hashlib.blake2b(where, digest_size=8).digest()
        if (name, one.part) not in best or key < best[name, one.part][0]:
            best[name, one.part] = (key, indication)
    drawn: dict[str, list[Indication]] = {}
    for (name, _), (_, indication) in best.items():
        drawn.setdefault(name, []).append(indication)
    return drawn


def _type_name(indication: Indication) -> str:
    return indication.type or UNTYPED_NAME


def _by_type(bundle: Bundle, kept: Sequence[PictureScore], pixels: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    drawn = _drawn(kept, _type_name)
    every: dict[str, list[Indication]] = {}
    for _, indication in _all(kept):
        every.setdefault(_type_name(indication), []).append(indication)
    rows = {}
    for name in (*bundle.types, *sorted(set(every) - set(bundle.types))):
        one_a_part, rest = drawn.get(name, []), every.get(name, [])
        found = [one for one in one_a_part if one.found]
        named = [one for one in rest if one.found]
        rows[name] = {
            "recall": proportion(len(found), len(one_a_part)),
            "found": _share(len(named), len(rest)),
            "named_right": proportion(sum(_right(bundle, one) for one in found), len(found) * (name != UNTYPED_NAME)),
            "named_right_all": _share(sum(_right(bundle, one) for one in named), len(named) * (name != UNTYPED_NAME)),
            "iou": pixels["iou"].get(name),
        }
    return rows


def _by_size(
    kept: Sequence[PictureScore], edges: Sequence[float], size: Callable[[Indication], float | None], unit: str
) -> dict[str, Any] | None:
    """Recall by equivalent diameter; a size on an edge belongs to the larger bin. None where no size is known."""
    names = [f"< {edges[0]:g} {unit}", *(f"{a:g} to {b:g} {unit}" for a, b in pairwise(edges)),
             f">= {edges[-1]:g} {unit}"]  # fmt: skip

    def bin_of(indication: Indication) -> str | None:
        value = size(indication)
        return None if value is None else names[int(np.searchsorted(edges, value, side="right"))]

    counts = {name: [0, 0] for name in names}
    for _, indication in _all(kept):
        name = bin_of(indication)
        if name is not None:
            counts[name][0] += indication.found
            counts[name][1] += 1
    if not any(n for _, n in counts.values()):
        return None
    drawn = _drawn(kept, bin_of)
    rows = {
        name: {"recall": proportion(sum(one.found for one in drawn.get(name, [])), len(drawn.get(name, []))),
               "found": _share(*counts[name])}
        for name in names
    }  # fmt: skip
    values = {name: row["found"]["value"] for name, row in rows.items() if row["found"]["n"]}
    return {"bins": rows, "worst": _worst(values), "mean": _mean(values)}


def _false(kept: Sequence[PictureScore]) -> dict[str, Any]:
    """False regions a picture; interval: the wider ends of Garwood's exact one for a Poisson count and of a bootstrap
    over parts, since false alarms come in clusters and a Poisson count knows of none."""
    total, pictures = sum(len(one.false) for one in kept), len(kept)
    if not pictures:
        return {"n": 0, "pictures": 0, "per_picture": None, "ci95": None}
    low, high = poisson_interval(total, pictures)
    per_part: dict[str, list[int]] = {}
    for one in kept:
        entry = per_part.setdefault(one.part, [0, 0])
        entry[0] += len(one.false)
        entry[1] += 1
    kinds, times = np.unique(np.array(list(per_part.values())), axis=0, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(per_part), times / len(per_part), size=_RESAMPLES) @ kinds
    rates = draws[:, 0] / draws[:, 1]
    low, high = min(low, float(np.quantile(rates, 0.025))), max(high, float(np.quantile(rates, 0.975)))
    return {"n": total, "pictures": pictures, "per_picture": round(total / pictures, 4),
            "ci95": [round(low, 4), round(high, 4)]}  # fmt: skip


# ---- names ----------------------------------------------------------------------------------------------------------


def _right(bundle: Bundle, indication: Indication) -> bool:
    """The exact type; of a type the engine was never trained on, "unknown"."""
    wanted = indication.type if indication.type in bundle.types else UNKNOWN_TYPE
    return indication.type is not None and indication.given == wanted


def _naming(bundle: Bundle, kept: Sequence[PictureScore]) -> dict[str, Any]:
    """Of the found indications of stated type: named exactly, or by a type that the bundle says it cannot tell from
    it; and how often each type was given each name."""
    found = [one for _, one in _all(kept) if one.found and one.type is not None]
    exact: dict[str, list[bool]] = {}
    grouped: dict[str, list[bool]] = {}
    confusion: dict[str, Counter[str]] = {}
    for one in found:
        assert one.type is not None and one.given is not None
        right = _right(bundle, one)
        same = right or one.given in bundle.alike(one.type)
        exact.setdefault(one.type, []).append(right)
        grouped.setdefault(one.type, []).append(same)
        confusion.setdefault(one.type, Counter())[one.given] += 1
    figures: dict[str, Any] = {"groups": [list(group) for group in bundle.groups]}
    for key, rows in (("exact", exact), ("by_group", grouped)):
        values = {name: round(sum(row) / len(row), 4) for name, row in rows.items()}
        figures[key] = {**_share(sum(map(sum, rows.values())), len(found)), "mean_of_types": _mean(values),
                        "worst": _worst(values)}  # fmt: skip
    figures["confusion"] = {name: dict(confusion[name].most_common()) for name in sorted(confusion)}
    return figures


def _picture_types(bundle: Bundle, kept: Sequence[PictureScore]) -> dict[str, Any]:
    """Of pictures of one stated class: the type of most marked pixels is that class (of a class the engine was never
    trained on: unknown); a picture without a mark is wrong. marked: share of pictures with any mark, by class."""
    right: dict[str, list[bool]] = {}
    marked: dict[str, list[bool]] = {}
    for true, given in (one.kind for one in kept if one.kind is not None):
        wanted = true if true in bundle.types else UNKNOWN_TYPE
        right.setdefault(true, []).append(given == wanted)
        marked.setdefault(true, []).append(given is not None)
    values = {name: round(float(np.mean(row)), 4) for name, row in right.items()}
    return {
        **proportion(sum(map(sum, right.values())), sum(map(len, right.values()))), "by_class": values,
        "worst": _worst(values), "marked": {name: proportion(sum(row), len(row)) for name, row in marked.items()},
    }  # fmt: skip


def _inside_boxes(kept: Sequence[PictureScore]) -> dict[str, Any]:
    """Share of the marked pixels that lie inside a box, by class of the picture, where boxes were drawn."""
    sums: dict[str, list[int]] = {}
    for name, inside, marked in (one.inside for one in kept if one.inside is not None):
        entry = sums.setdefault(name, [0, 0])
        entry[0] += inside
        entry[1] += marked
    values = {name: round(inside / marked, 4) for name, (inside, marked) in sums.items() if marked}
    return {"by_class": values, "mean": _mean(values), "worst": _worst(values)}


# ---- pixels ---------------------------------------------------------------------------------------------------------


def _pixels(bundle: Bundle, kept: Sequence[PictureScore]) -> dict[str, Any]:
    masked = [one.pixels for one in kept if one.pixels is not None]
    empty: dict[str, Any] = {"iou": {}, "occurs": (), "defect_iou": None, "dice_per_picture": None}
    if not masked:
        return empty
    joint = np.zeros(256 * 256, np.int64)
    dice = []
    for code, count in masked:
        joint[code] += count
        both, seen, marked = _overlap(_square(code, count))
        if seen:
            dice.append(2.0 * both / (seen + marked))
    table = joint.reshape(256, 256)
    both, seen, marked = _overlap(table)
    typed = np.delete(table, [UNTYPED, IGNORED], axis=0)
    ious, occurs = {}, set()
    for label, name in enumerate(names_of(bundle)[: len(bundle.types)], 1):
        shared = int(table[label, label])
        either = int(table[label].sum()) + int(typed[:, label].sum()) - shared
        ious[name] = round(shared / either, 4) if either else None
        occurs |= {name} if table[label].any() else set()
    return {"iou": ious, "occurs": occurs, "defect_iou": _ratio(both, seen + marked - both),
            "dice_per_picture": round(float(np.mean(dice)), 4) if dice else None}  # fmt: skip


def _square(code: Any, count: Any) -> Any:
    table = np.zeros(256 * 256, np.int64)
    table[code] = count
    return table.reshape(256, 256)


def _overlap(table: Any) -> tuple[int, int, int]:
    """(true and marked, true, marked) pixels among those that count; background against background is not in it."""
    counted = np.delete(table, IGNORED, axis=0)
    return int(counted[1:, 1:].sum()), int(counted[1:].sum()), int(counted[:, 1:].sum())


def _calibration(kept: Sequence[PictureScore]) -> dict[str, Any] | None:
    """Expected calibration error: sum over bins of share of pixels x |mean coverage - share of defect pixels|; of all
    pixels, and of the near ones, with the table behind the latter."""
    tables = [one.reliability for one in kept if one.reliability is not None]
    if not tables:
        return None
    every, near = np.sum(tables, axis=0)
    figures: dict[str, Any] = {"bins": BINS}
    for key, (number, summed, defects) in (("all", every), ("near", near)):
        total = float(number.sum())
        figures[f"ece_{key}"] = round(float(np.abs(summed - defects).sum()) / total, 5) if total else None
        figures[f"pixels_{key}"] = int(total)
    figures["table_near"] = [
        {"coverage": [round(index / BINS, 4), round((index + 1) / BINS, 4)], "pixels": int(n),
         "mean_coverage": round(p / n, 4), "defect_share": round(y / n, 4)}
        for index, (n, p, y) in enumerate(near.T.tolist()) if n
    ]  # fmt: skip
    return figures


# ---- sizes ----------------------------------------------------------------------------------------------------------


def _areas(areas: Sequence[Area]) -> dict[str, Any]:
    """bias: mean of (measured - true) / true area, measured with coverage within 3 px; judged: the same with the marked
    pixels only; ci95 of the mean from its standard error; pooled: summed areas against summed areas. worst: the type
    with the largest mean bias, of those with five or more."""

    def row(some: Sequence[Area]) -> dict[str, Any]:
        if not some:
            return {"n": 0, "bias": None, "ci95": None, "judged": None, "pooled": None}
        bias = np.array([one.summed_px / one.true_px - 1.0 for one in some])
        judged = float(np.mean([one.marked_px / one.true_px - 1.0 for one in some]))
        error = 1.96 * float(bias.std(ddof=1)) / float(np.sqrt(len(bias))) if len(bias) >= _FEW else None
        mean = float(bias.mean())
        pooled = sum(one.summed_px for one in some) / sum(one.true_px for one in some) - 1.0
        return {"n": len(some), "bias": round(mean, 4), "judged": round(judged, 4), "pooled": round(pooled, 4),
                "ci95": None if error is None else [round(mean - error, 4), round(mean + error, 4)]}  # fmt: skip

    names = sorted({one.type or UNTYPED_NAME for one in areas})
    types = {name: row([one for one in areas if (one.type or UNTYPED_NAME) == name]) for name in names}
    biases = {name: figures["bias"] for name, figures in types.items() if figures["n"] >= _FEW}
    worst = max(biases.items(), key=lambda item: abs(item[1])) if biases else None
    return {**row(areas), "worst": worst, "types": types}


def _edges(errors_px: Sequence[float]) -> dict[str, Any]:
    """bias: cancels where a reference is measured by the same engine. std: between pictures, None below five."""
    few = len(errors_px) < _FEW
    return {
        "n": len(errors_px),
        "bias": None if few else round(float(np.mean(errors_px)), 4),
        "std": None if few else round(float(np.std(errors_px, ddof=1)), 4),
    }


# ---- boxes and series -----------------------------------------------------------------------------------------------


def _boxes(kept: Sequence[PictureScore]) -> dict[str, Any]:
    """Average precision and hits at a rate of false alarms; a mask counts by the boxes of its connected spots of any
    type, ignored ones excused."""
    pictures = [one.detections for one in kept if one.detections is not None]
    rows: dict[str, Any] = {"n": sum(len(one.truth) for one in pictures)}
    for key, iou in (("ap25", 0.25), ("ap50", 0.5)):
        value = average_precision(pictures, iou)
        rows[key] = None if value is None else round(value, 4)
    for key, rate in (("hit_at_1_false", 1.0), ("hit_at_quarter_false", 0.25)):
        rows[key] = _share(*froc(pictures, rate))
    return rows


def _by_series(bundle: Bundle, kept: Sequence[PictureScore]) -> dict[str, Any]:
    """The figures that differ most between series: mean over series and the worst of them, so that one large or easy
    series cannot hide the others."""
    series: dict[str, list[PictureScore]] = {}
    for one in kept:
        series.setdefault(one.series, []).append(one)
    rows: dict[str, dict[str, Any]] = {}
    for name, some in sorted(series.items()):
        boxes = _boxes(some)
        rows[name] = {
            "pictures": len(some),
            "indications": sum(len(one.indications) for one in some),
            "found": _share(sum(one.found for _, one in _all(some)), sum(1 for _ in _all(some)))["value"],
            "false_per_picture": round(sum(len(one.false) for one in some) / len(some), 4),
            "defect_iou": _pixels(bundle, some)["defect_iou"] if any(one.indications for one in some) else None,
            "ap25": boxes["ap25"], "ap50": boxes["ap50"],
            "hit_at_1_false": boxes["hit_at_1_false"]["value"],
            "hit_at_quarter_false": boxes["hit_at_quarter_false"]["value"],
        }  # fmt: skip
    figures: dict[str, Any] = {"n": len(rows), "mean": {}, "worst": {}}
    for key in ("found", "false_per_picture", "defect_iou", "ap25", "ap50", "hit_at_1_false", "hit_at_quarter_false"):
        values = {name: float(row[key]) for name, row in rows.items() if row[key] is not None}
        figures["mean"][key] = _mean(values)
        most = max(values.items(), key=lambda item: item[1]) if values else None
        figures["worst"][key] = most if key == "false_per_picture" else _worst(values)
    figures["each"] = rows if len(rows) <= _MOST_SERIES else None
    return figures
