"""From a checkpoint to a sealed bundle: export, calibrate, evaluate, write the card, seal.

The bundle is sealed with provisional thresholds first, so that calibration and evaluation already run through the same
loader, engine and post-processing as the line; the last seal replaces the earlier ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..segment import bundle as bundles
from ..segment.onnx import OnnxEngine
from ..segment.prepare import VIEWS
from ..simulator import CASTING_TYPES, Radiograph
from .calibrate import Limits, calibrate
from .certify import evaluate_conveyor, machine
from .evaluation import SCENES
from .figures import summarise
from .network import MULTIPLE_OF_PX, TYPE_STRIDE_PX, CastingNet, export_onnx, parameter_count
from .pictures import (
    EVALUATION_SEEDS_FROM,
    LOCAL_SIGMA_PX,
    MM_PER_PX,
    TUNING_SEEDS_FROM,
    draw_picture,
    draw_sound,
)
from .scoring import PictureScore, score_pictures, simulated

__all__ = ["GROUPS", "Examination", "write_bundle"]

#: Types that one view does not tell apart: measured on tuning pictures, where the confusions between them outweighed
#: what was told apart. The line judges a mark of one of them by the rules of all.
GROUPS: tuple[tuple[str, ...], ...] = (
    ("gas_hole", "shrinkage_cavity", "foreign_less_dense"),
    ("shrinkage_dendritic", "shrinkage_filamentary"),
)

_SOFTWARE = ("torch", "onnx", "onnxruntime", "numpy")
_PROVISIONAL = {
    "temperature": 1.0, "bias": 0.0, "seed": 0.5, "grow": 0.5, "min_region_px": 1, "unknown_alpha": 0.01,
    "known_scores": {}, "gate": {"min_contrast": 0.0, "max_clipped_pct": 100.0},
}  # fmt: skip
_TUNING_PX = 384


@dataclass(frozen=True, slots=True)
class Examination:
    """How much is drawn for tuning and for the certificate. unseen: pictures in each of three families of seeds, of
    geometry that no training picture shows. first_seed: of all evaluation pictures; only a bundle that is going to be
    shipped is evaluated on the seeds from EVALUATION_SEEDS_FROM on, experiments use the ones before."""

    tuning: int = 500
    tuning_sound: int = 1200
    known: int = 2500
    mixture: int = 800
    unseen: int = 500
    sound: int = 2000
    conveyor: int = 200
    first_seed: int = EVALUATION_SEEDS_FROM
    workers: int = 2


_SHIPPED, _ALLOWED = Examination(), Limits()


def write_bundle(
    network: CastingNet, folder: Path, *, trained_on: str, bundle_version: str = "0.3.0",
    examination: Examination = _SHIPPED, limits: Limits = _ALLOWED,
    groups: Sequence[Sequence[str]] = GROUPS,
) -> dict[str, Any]:  # fmt: skip
    """Write and seal ``folder`` and return the certificate. Files of an older bundle there are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(network, folder / "model.onnx")
    _write_json(folder / "labels.json", {"types": list(CASTING_TYPES)})
    _write_json(folder / "thresholds.json", _PROVISIONAL)
    _write_json(folder / "certificate.json", {"status": "not evaluated yet"})
    (folder / "card.md").write_text("# Not evaluated yet\n", encoding="utf-8")
    manifest = _manifest(folder.name, bundle_version, trained_on, groups)
    bundles.seal(folder, manifest)

    tuning, sound, known = _tuning_seeds(examination)
    engine = OnnxEngine(bundles.load(folder), threads=2)
    thresholds = calibrate(
        engine, _pictures(tuning), (draw_sound(seed, _TUNING_PX) for seed in sound), _pictures(known),
        limits=limits, groups=groups,
    )  # fmt: skip
    engine.close()
    _write_json(folder / "thresholds.json", thresholds)
    bundles.seal(folder, manifest)

    certificate = _certificate(folder, network, examination)
    _write_json(folder / "certificate.json", certificate)
    (folder / "card.md").write_text(_card(manifest, thresholds, certificate), encoding="utf-8")
    bundles.seal(folder, manifest)
    return certificate


def _tuning_seeds(examination: Examination) -> tuple[range, range, range]:
    first = TUNING_SEEDS_FROM
    return (range(first, first + examination.tuning), range(first + 5_000, first + 5_000 + examination.tuning_sound),
            range(first + 10_000, first + 10_000 + examination.known))  # fmt: skip


def _pictures(seeds: range) -> Iterator[Radiograph]:
    return (draw_picture(seed, _TUNING_PX) for seed in seeds)


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=False) + "\n", encoding="utf-8")


def _manifest(name: str, bundle_version: str, trained_on: str, groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": name,
        "version": bundle_version,
        "created_utc": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "input": {"name": "image", "views": list(VIEWS), "local_sigma_px": LOCAL_SIGMA_PX, "tile_px": 512,
                  "overlap_px": 64, "multiple_of_px": MULTIPLE_OF_PX},
        "output": {"defect": "defect", "type": "type", "type_stride_px": TYPE_STRIDE_PX},
        "types": list(CASTING_TYPES),
        "groups": [list(group) for group in groups],
        "qualified": {"mm_per_px": list(MM_PER_PX), "polarity": "bright_void", "bits": [8, 16]},
        "licence": "Apache-2.0",
        "trained_on": trained_on,
        "software": {"edge_daemon": __version__, **{name: version(name) for name in _SOFTWARE}},
    }  # fmt: skip


# ---- the certificate ------------------------------------------------------------------------------------------------


def _scores(folder: Path, scenes: str, seeds: range) -> list[PictureScore]:
    """The counts of pictures of one kind; runs in a process of its own."""
    engine = OnnxEngine(bundles.load(folder), threads=1)
    try:
        return [score for _, _, score in score_pictures(engine, simulated(seeds, SCENES[scenes], scenes))]
    finally:
        engine.close()


def _certificate(folder: Path, network: CastingNet, examination: Examination) -> dict[str, Any]:
    first, bundle = examination.first_seed, bundles.load(folder)
    mixture = range(first, first + examination.mixture)
    unseen = [range(first + k * 10_000, first + k * 10_000 + examination.unseen) for k in (1, 2, 3)]
    sound = range(first + 40_000, first + 40_000 + examination.sound)
    parts = range(first + 25_000, first + 25_000 + examination.conveyor)
    with ProcessPoolExecutor(examination.workers, mp_context=get_context("spawn")) as pool:
        halves = [sound[: len(sound) // 2], sound[len(sound) // 2 :]]
        of_sound = [pool.submit(_scores, folder, "sound", half) for half in halves]
        of_unseen = [pool.submit(_scores, folder, "unseen", seeds) for seeds in unseen]
        of_mixture = pool.submit(_scores, folder, "mixture", mixture)
        of_conveyor = pool.submit(evaluate_conveyor, folder, parts, threads=1)
        blocks = [future.result() for future in of_unseen]
        summary = {"seeds": [min(mixture), max(mixture)], **summarise(bundle, of_mixture.result())}
        quiet = summarise(bundle, [score for future in of_sound for score in future.result()])
        conveyor = of_conveyor.result()
    tuning, tuning_sound, known = _tuning_seeds(examination)
    return {
        "what": "figures on simulated radiographs of the same simulator with seeds never trained or tuned on; "
        "no real radiograph was evaluated",
        "evaluated_utc": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "parameters": parameter_count(network),
        "tuning_seeds": {"thresholds": [min(tuning), max(tuning)], "sound": [min(tuning_sound), max(tuning_sound)],
                         "known_scores": [min(known), max(known)]},
        "intervals": "Clopper-Pearson, 95 %, two-sided; recall: one indication per picture and type, drawn at random",
        "found": "at least a quarter of the indication's visible pixels marked; visible: integrated signal-to-noise "
        ">= 10 and change >= 4 of 255 grey levels",
        "edge": "(measured - true area) / true outline in px, per picture and type; bias: mean, std: spread",
        "edge_px": summary["edge_px"],
        "unseen": {
            "what": "geometry that no training picture shows (valve bodies, gears), three families of seeds",
            "seeds": [[min(seeds), max(seeds)] for seeds in unseen],
            "families": [_headline(summarise(bundle, block)) for block in blocks],
            **summarise(bundle, [score for block in blocks for score in block]),
        },
        "sound": {"seeds": [min(sound), max(sound)], "pictures": quiet["pictures"], "refused": quiet["refused"],
                  "marked": quiet["sound_marked"], "false_regions": quiet["false_regions"]},
        "mixture": summary,
        "conveyor": conveyor,
    }  # fmt: skip


def _headline(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "found": figures["found"],
        "found_worst": figures["found_worst"],
        "false_regions_per_picture": figures["false_regions_per_picture"],
        "type_iou_mean": figures["type_iou_mean"],
        "defect_iou": figures["defect_iou"],
        "named_by_group": figures["naming"]["by_group"],
    }


# ---- the card -------------------------------------------------------------------------------------------------------


def _card(manifest: Mapping[str, Any], thresholds: Mapping[str, Any], certificate: Mapping[str, Any]) -> str:
    unseen, mixture, conveyor = certificate["unseen"], certificate["mixture"], certificate["conveyor"]
    alpha = thresholds["unknown_alpha"]
    few = [name for name in manifest["types"] if len(thresholds["known_scores"].get(name, ())) < 1.0 / alpha]
    pores, ratio = conveyor["pores_found"], conveyor["area_ratio_min_median_max"]["rejectable"]
    low, high = manifest["qualified"]["mm_per_px"]
    groups = "; ".join(", ".join(group) for group in manifest["groups"]) or "none"
    first, last = unseen["seeds"][0][0], unseen["seeds"][-1][-1]
    return f"""# {manifest["name"]} {manifest["version"]}

Marks casting discontinuities in radiographs and names eleven types. A compact network ({certificate["parameters"]:,}
values) that was **trained and tested on simulated pictures only**: it has never seen a real radiograph. Commission it
on your own good parts (`edge-daemon train commission`) and measure it on your own labelled ones (`edge-daemon train
evaluate`) before its word counts.

## Input
8 or 16 bit, {low:g} to {high:g} mm/px, polarity `bright_void` (`dark_void`, where stated, is turned round), sides of at
least 24 px (larger than 512 px is tiled). Trained on 8 bit; 16 bit pictures are scaled to the same range. Burnt-out and
black places are not inspectable and are reported as such.

## Data and licence
{manifest["trained_on"]}.
Invented castings of six families, the demo's housing in any pose, and flat plates; flat panels, image intensifiers and
imaging plates; no picture, plate or table of any standard was used. Weights and data: {manifest["licence"]}.

## Types
{", ".join(manifest["types"])}.
Not told apart from a single view: {groups}. The line judges a mark of one of them by the rules of all of its group.

## Figures
### Geometry never trained on
{unseen["pictures"]} pictures of valve bodies and gears (families of shapes that no training picture shows), seeds
{first} to {last} in three families; 95 % Clopper-Pearson intervals in brackets.

{_type_table(unseen, thresholds)}

{_summary(unseen)}

Families of seeds, one by one:

{_family_lines(unseen["families"])}

{_size_table(unseen["size_px"])}

{certificate["sound"]["pictures"]} sound parts of the same geometry, seeds {certificate["sound"]["seeds"][0]} to
{certificate["sound"]["seeds"][1]}: pictures with any yellow pixel {_cell(certificate["sound"]["marked"])}.

### The mixture it was trained on, other seeds
{mixture["pictures"]} pictures, seeds {mixture["seeds"][0]} to {mixture["seeds"][1]}.

{_summary(mixture)}

### Edges
Where they lie, in pixels (negative: too far in); the bias cancels against references measured by this engine, the
spread is part of the uncertainty of every area and length:

{_edge_table(certificate["edge_px"])}

### The demo's conveyor
{conveyor["parts"]} parts, seeds {conveyor["seeds"][0]} to {conveyor["seeds"][1]}:

- sound parts without a region: {_cell(conveyor["sound_without_region"])}
- cracks found: {_cell(conveyor["cracks_found"])}, called crack: {_cell(conveyor["cracks_called_crack"])}
- pores found: acceptable parts {_cell(pores["acceptable"])}, rejectable parts {_cell(pores["rejectable"])}
- summed area of a rejectable field over the truth: {ratio[0]} to {ratio[2]}, median {ratio[1]}

Machine: {certificate["machine"]}.

## The commands
    edge-daemon train fit --out work/ --minutes 90 --seed 5      # the network, this card and its figures
    edge-daemon train evaluate castings-xray --scenes unseen --first-seed {first} --count {unseen["pictures"] // 3}
    edge-daemon train evaluate castings-xray --scenes sound --first-seed {certificate["sound"]["seeds"][0]} --count 2000
    edge-daemon engine certify castings-xray --simulated 800 --line conveyor --first-seed 970000 --seal

Minutes of training count on the machine they run on: another machine reaches other weights, and its own card says what
they can do.

## Unknown
A region is called unknown when its conformal p-value is below {alpha:g}: known types are called unknown about that
often. That every unknown defect is noticed is *not* promised.
Types with too few scores to ever be called unknown: {", ".join(few) or "none"}.

## Not covered
Real radiographs of any machine; other metals than aluminium alloys; welds and assemblies; magnification and distortion;
diffraction mottle; out-of-focus pictures (no focus gate); a stated polarity that is wrong; misruns, core shift, surface
faults; discontinuities below the visible limit (integrated signal-to-noise under 10, or under 4 of 255 grey levels).
"""


def _type_table(figures: Mapping[str, Any], thresholds: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {_cell(row['recall'])} | {_cell(row['named_right'])} | {_number(row['iou'])} "
        f"| {len(thresholds['known_scores'].get(name, ()))} |"
        for name, row in figures["types"].items()
    ]
    head = "| type | recall of visible indications | named exactly right, of those found | IoU | known scores |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _summary(figures: Mapping[str, Any]) -> str:
    naming, calibration, area = figures["naming"], figures["calibration"], figures["area"]
    return "\n".join([
        f"- visible indications found: {_cell(figures['found'])}; worst type {_worst(figures['found_worst'])}",
        f"- false regions: {figures['false_regions_per_picture']:.3f} a picture; pictures with any: "
        f"{_cell(figures['pictures_with_false_region'])}",
        f"- named right: {_naming(naming)}",
        f"- IoU of types: mean {_number(figures['type_iou_mean'])}, worst {_worst(figures['type_iou_worst'])}; "
        f"defect or not: {_number(figures['defect_iou'])}",
        f"- expected calibration error of coverage: {_calibration(calibration)}",
        f"- area of found indications that stand alone, radius from 3 px: {_area(area)}",
        f"- regions called unknown, known and false ones together: {_cell(figures['regions_called_unknown'])}",
        f"- refused by the image gate: {figures['refused']} of {figures['pictures']}",
    ])  # fmt: skip


def _naming(naming: Mapping[str, Any]) -> str:
    exact, group = naming["exact"], naming["by_group"]
    return (f"by group {_cell(group)}, worst type {_worst(group['worst'])}; exactly {_cell(exact)}, worst type "
            f"{_worst(exact['worst'])}")  # fmt: skip


def _calibration(calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return "not measured"
    return f"{calibration['ece_all']:.4f} of all pixels, {calibration['ece_near']:.4f} of those near defects or marks"


def _area(area: Mapping[str, Any]) -> str:
    if not area["n"]:
        return "none seen"
    low, high = area["ci95"] or (math.nan, math.nan)
    return (f"mean bias {100 * area['bias']:+.1f} % ({100 * low:+.1f} to {100 * high:+.1f}, n = {area['n']}), as the "
            f"judge adds it up {100 * area['judged']:+.1f} %, pooled {100 * area['pooled']:+.1f} %; worst type "
            f"{_worst(area['worst'])}")  # fmt: skip


def _family_lines(families: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(
        f"- {number}: found {_cell(one['found'])}, worst type {_worst(one['found_worst'])}, false regions "
        f"{one['false_regions_per_picture']:.3f} a picture, IoU of types {_number(one['type_iou_mean'])}"
        for number, one in enumerate(families, 1)
    )


def _size_table(sizes: Mapping[str, Any] | None) -> str:
    rows = [f"| {name} | {_cell(row['recall'])} |" for name, row in (sizes or {"bins": {}})["bins"].items()]
    return "\n".join(["| diameter of the disc of equal area | recall of visible indications |", "|---|---|", *rows])


def _edge_table(edges: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {one['n']} | {_number(one['bias'])} | {_number(one['std'])} |" for name, one in edges.items()]
    return "\n".join(["| type | pictures | bias | spread |", "|---|---|---|---|", *rows])


def _worst(worst: Sequence[Any] | None) -> str:
    return "none" if worst is None else f"{worst[1]:.3f} ({worst[0]})"


def _number(value: float | None) -> str:
    return "too few" if value is None else f"{value:.2f}"


def _cell(figures: Mapping[str, Any]) -> str:
    if not figures["n"]:
        return "none seen"
    share = f"{figures['k']}/{figures['n']} = {np.round(figures['value'], 3)}"
    # Indications of one picture are no independent draws: a share over all of them has no interval.
    return f"{share} ({figures['ci95'][0]:.3f} to {figures['ci95'][1]:.3f})" if "ci95" in figures else share
