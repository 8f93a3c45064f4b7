"""From a checkpoint to a sealed bundle: export, calibrate, evaluate, write the card, seal.

The bundle is sealed with provisional thresholds first, so that calibration and evaluation already run through the same
loader, engine and post-processing as the line; the last seal replaces the earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..segment import bundle as bundles
from ..segment.onnx import OnnxEngine
from ..segment.prepare import VIEWS
from ..simulator import CASTING_TYPES
from .calibrate import calibrate
from .certify import evaluate_bundle, evaluate_conveyor, machine
from .network import MULTIPLE_OF_PX, CastingNet, export_onnx, parameter_count
from .pictures import EVALUATION_SEEDS_FROM, LOCAL_SIGMA_PX, MM_PER_PX, TUNING_SEEDS_FROM

__all__ = ["write_bundle"]

_SOFTWARE = ("torch", "onnx", "onnxruntime", "numpy")
_PROVISIONAL = {
    "temperature": 1.0, "bias": 0.0, "seed": 0.5, "grow": 0.5, "min_region_px": 1, "unknown_alpha": 0.01,
    "known_scores": {}, "gate": {"min_contrast": 0.0, "max_clipped_pct": 100.0},
}  # fmt: skip


def write_bundle(
    network: CastingNet, folder: Path, *, trained_on: str, bundle_version: str = "0.1.0", tuning_pictures: int = 400,
    evaluation_pictures: int = 800, conveyor_parts: int = 200, first_seed: int = EVALUATION_SEEDS_FROM,
) -> dict[str, Any]:  # fmt: skip
    """Write and seal ``folder`` and return the certificate. Files of an older bundle there are replaced.

    first_seed: of the evaluation pictures; the conveyor parts start 25,000 later. Only a bundle that is going to be
    shipped is evaluated on the seeds from EVALUATION_SEEDS_FROM on; experiments use the ones before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    export_onnx(network, folder / "model.onnx")
    _write_json(folder / "labels.json", {"types": list(CASTING_TYPES)})
    _write_json(folder / "thresholds.json", _PROVISIONAL)
    _write_json(folder / "certificate.json", {"status": "not evaluated yet"})
    (folder / "card.md").write_text("# Not evaluated yet\n", encoding="utf-8")
    manifest = _manifest(folder.name, bundle_version, trained_on)
    bundles.seal(folder, manifest)

    tuning = range(TUNING_SEEDS_FROM, TUNING_SEEDS_FROM + tuning_pictures)
    engine = OnnxEngine(bundles.load(folder), threads=2)
    known = range(TUNING_SEEDS_FROM + 10_000, TUNING_SEEDS_FROM + 10_000 + 4 * tuning_pictures)
    thresholds = calibrate(engine, tuning, known)
    engine.close()
    _write_json(folder / "thresholds.json", thresholds)
    bundles.seal(folder, manifest)

    certificate = _certificate(
        folder,
        network,
        tuning,
        known,
        range(first_seed, first_seed + evaluation_pictures),
        range(first_seed + 25_000, first_seed + 25_000 + conveyor_parts),
    )
    _write_json(folder / "certificate.json", certificate)
    (folder / "card.md").write_text(_card(manifest, thresholds, certificate), encoding="utf-8")
    bundles.seal(folder, manifest)
    return certificate


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=False) + "\n", encoding="utf-8")


def _manifest(name: str, bundle_version: str, trained_on: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": name,
        "version": bundle_version,
        "created_utc": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "input": {"name": "image", "views": list(VIEWS), "local_sigma_px": LOCAL_SIGMA_PX, "tile_px": 512,
                  "overlap_px": 64, "multiple_of_px": MULTIPLE_OF_PX},
        "output": {"defect": "defect", "type": "type"},
        "types": list(CASTING_TYPES),
        "qualified": {"mm_per_px": list(MM_PER_PX), "polarity": "bright_void", "bits": [8, 16]},
        "licence": "Apache-2.0",
        "trained_on": trained_on,
        "software": {"edge_daemon": __version__, **{name: version(name) for name in _SOFTWARE}},
    }  # fmt: skip


def _certificate(
    folder: Path,
    network: CastingNet,
    tuning: Sequence[int],
    known: Sequence[int],
    pictures: Sequence[int],
    parts: Sequence[int],
) -> dict[str, Any]:
    mixture = evaluate_bundle(folder, pictures)
    conveyor = evaluate_conveyor(folder, parts)
    edge_px = mixture.pop("edge_px")
    return {
        "what": "figures on simulated radiographs of the same simulator with seeds never trained or tuned on; "
        "no real radiograph was evaluated",
        "evaluated_utc": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "parameters": parameter_count(network),
        "tuning_seeds": {"thresholds": [min(tuning), max(tuning)], "known_scores": [min(known), max(known)]},
        "intervals": "Clopper-Pearson, 95 %, two-sided; indications: one per picture and type, drawn at random; "
        "pores_found of the conveyor counts every pore, which are not independent",
        "found": "at least a quarter of the indication's visible pixels marked; visible: integrated signal-to-noise "
        ">= 10 and change >= 4 of 255 grey levels",
        "edge": "(measured - true area) / true outline in px, per picture and type; bias: mean, std: spread",
        "edge_px": edge_px,
        "mixture": mixture,
        "conveyor": conveyor,
    }


def _card(manifest: dict[str, Any], thresholds: dict[str, Any], certificate: dict[str, Any]) -> str:
    mixture, conveyor = certificate["mixture"], certificate["conveyor"]
    rows = "\n".join(
        f"| {name} | {_cell(figures['recall'])} | {_cell(figures['named_right'])} | {figures['iou']:.2f} "
        f"| {len(thresholds['known_scores'].get(name, ()))} |"
        for name, figures in mixture["types"].items()
    )
    edges = "\n".join(
        f"| {name} | {one['n']} | {_number(one['bias'])} | {_number(one['std'])} |"
        for name, one in certificate["edge_px"].items()
    )
    alpha = thresholds["unknown_alpha"]
    few = [name for name in manifest["types"] if len(thresholds["known_scores"].get(name, ())) < 1.0 / alpha]
    never = ", ".join(few) if few else "none"
    recall_worst, iou_worst = mixture["recall_worst"], mixture["type_iou_worst"]
    pores, ratio = conveyor["pores_found"], conveyor["area_ratio_min_median_max"]["rejectable"]
    low, high = manifest["qualified"]["mm_per_px"]
    return f"""# {manifest["name"]} {manifest["version"]}

Marks casting discontinuities in radiographs of light-alloy castings in which voids are *brighter* than their
surroundings, and names one of eleven types. A first, small engine ({certificate["parameters"]:,} values) that makes the
line real; it was **trained and tested on simulated pictures only**. It has never seen a real radiograph: do not accept
real parts on its word.

## Input
8 or 16 bit, {low:g} to {high:g} mm/px, polarity `bright_void`, sides of at least 24 px (larger than 512 px is tiled).
Trained on 8 bit; 16 bit pictures are scaled to the same range.

## Data and licence
{manifest["trained_on"]}.
Invented castings, the demo's housing in any pose, and flat plates; no picture, plate or table of any standard was used.
Weights and data: {manifest["licence"]}.

## Types
{", ".join(manifest["types"])}.
None are grouped. From a single view some resemble each other (a lone pore and a small gas hole, filamentary and
dendritic shrinkage, a small cavity and a grain of less dense matter); the table says how often the name was right.

## Figures
{mixture["pictures"]} simulated pictures, seeds {mixture["seeds"][0]} to {mixture["seeds"][1]}, never trained or
tuned on. 95 % Clopper-Pearson intervals in brackets.

| type | recall of visible indications | named right, of those found | IoU of the type's pixels | known scores |
|---|---|---|---|---|
{rows}

- recall: mean of types {mixture["recall_mean"]:.3f}, worst {recall_worst[1]:.3f} ({recall_worst[0]})
- IoU of types: mean {mixture["type_iou_mean"]:.3f}, worst {iou_worst[1]:.3f} ({iou_worst[0]});
  defect or not: {mixture["defect_iou"]:.3f}
- false regions: {mixture["false_regions_per_picture"]:.3f} per picture; pictures with any:
  {_cell(mixture["pictures_with_false_region"])}
- regions called unknown, known and false ones together: {_cell(mixture["regions_called_unknown"])}
- coverage summed within 3 px of what is visible, over its area, missed ones included:
  {mixture["summed_coverage_over_visible_area"]:.3f}
- refused by the image gate: {mixture["refused"]} of {mixture["pictures"]}

Where the edges lie, in pixels (negative: too far in); the bias cancels against references measured by this engine, the
spread is part of the uncertainty of every area and length:

| type | pictures | bias | spread |
|---|---|---|---|
{edges}

The demo's conveyor parts, {conveyor["parts"]} of them, seeds {conveyor["seeds"][0]} to {conveyor["seeds"][1]}:

- sound parts without a region: {_cell(conveyor["sound_without_region"])}
- cracks found: {_cell(conveyor["cracks_found"])}, called crack: {_cell(conveyor["cracks_called_crack"])}
- pores found: acceptable parts {_cell(pores["acceptable"])}, rejectable parts {_cell(pores["rejectable"])}
- summed area of a rejectable field over the truth: {ratio[0]} to {ratio[2]}, median {ratio[1]}

Machine: {certificate["machine"]}.

## Unknown
A region is called unknown when its conformal p-value is below {alpha:g}: known types are called unknown about that
often. That every unknown defect is noticed is *not* promised.
Types with too few scores to ever be called unknown: {never}.

## Not covered
Real radiographs of any machine; dark-void polarity; other metals, welds and assemblies; geometric magnification, lag,
dead pixels, diffraction mottle; out-of-focus pictures (no focus gate yet); misruns, core shift, surface faults;
discontinuities below the visible limit (integrated signal-to-noise under 10, or under 4 of 255 grey levels).
"""


def _number(value: float | None) -> str:
    return "too few" if value is None else f"{value:.2f}"


def _cell(figures: dict[str, Any]) -> str:
    if not figures["n"]:
        return "none seen"
    low, high = figures["ci95"]
    return f"{figures['k']}/{figures['n']} = {np.round(figures['value'], 3)} ({low:.3f} to {high:.3f})"
