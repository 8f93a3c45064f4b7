"""The card of a surface engine: what it learned from, what it found on pictures it never saw, what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["surface_card"]


def surface_card(manifest: Mapping[str, Any], thresholds: Mapping[str, Any], certificate: Mapping[str, Any]) -> str:
    """Markdown. certificate: with the figures of ``figures.summarise`` in it."""
    kinds, inside, alpha = (
        certificate["picture_type"],
        certificate["coloured_inside_boxes"],
        thresholds["unknown_alpha"],
    )
    few = [name for name in manifest["types"] if len(thresholds["known_scores"].get(name, ())) < 1.0 / alpha]
    low, high = manifest["qualified"]["mm_per_px"]
    return f"""# {manifest["name"]} {manifest["version"]}

Outlines and names {len(manifest["types"])} types of surface defects in camera pictures, and marks what it was never
taught as unknown. A compact network ({certificate["parameters"]:,} values), trained from nothing.

## Input
8 or 16 bit, grey or colour (looked at in grey), {low:g} to {high:g} mm/px, sides of at least 24 px (larger than 512 px
is tiled). The pictures it learned from state no scale: **give your own**, and measure it on your own pictures
(`edge-daemon train evaluate {manifest["name"]} --on DIR`) before its word counts.

## Data and licence
{manifest["trained_on"]}. Learned from {certificate["learned_from"]["pictures"]} pictures of
{certificate["learned_from"]["parts"]} parts, thresholds from {certificate["tuned_on"]["pictures"]} of
{certificate["tuned_on"]["parts"]} others. Licence: {manifest["licence"]}.

Where only boxes were drawn, the visible elements inside them were outlined by their contrast before training; such
outlines are the engine's own, and nobody has confirmed them pixel by pixel.

## Figures
{certificate["what"]}: {certificate["pictures"]} pictures of {certificate["parts"]} parts. Intervals: 95 %,
Clopper-Pearson, one indication a part and type.

| type | recall, one a part | all indications | IoU (masks) | pictures with that type | known scores |
|---|---|---|---|---|---|
{_rows(manifest, thresholds, certificate)}

- type of the whole picture right: {_cell(kinds)}; worst {_worst(kinds["worst"])}
- mean IoU of the types with masks: {_number(certificate["type_iou_mean"])}; worst
  {_worst(certificate["type_iou_worst"])}; a type with boxes only has none, or 0 where
  a masked picture was given its name
- coloured pixels inside the drawn boxes, mean of classes: {_number(inside["mean"])}; worst {_worst(inside["worst"])}
- false regions: {certificate["false_regions_per_picture"]:.3f} a picture; regions called unknown:
  {_cell(certificate["regions_called_unknown"])}
- sound pictures with any mark: {_cell(certificate["sound_marked"])}

Training: {certificate["minutes"]:g} minutes, {certificate["steps"]} steps, seed {certificate["seed"]}.

## Unknown
A region is unknown when its conformal p-value is below {alpha:g}: of defects of known types about that share is called
unknown. That every stranger is noticed is *not* promised; how often it is, `python -m
edge_daemon.testing.stranger_study` measures by leaving out one type after the other.
Types with too few scores to ever be called unknown: {", ".join(few) or "none"}.

## Not covered
Other mills, cameras and lighting than those of the pictures; defects smaller than {thresholds["min_region_px"]} px;
scale (mm) before it is calibrated; colour.
"""


def _rows(manifest: Mapping[str, Any], thresholds: Mapping[str, Any], certificate: Mapping[str, Any]) -> str:
    right = certificate["picture_type"]["by_class"]
    lines = []
    for name in manifest["types"]:
        row = certificate["types"][name]
        lines.append(
            f"| {name} | {_cell(row['recall'])} | {_cell(row['found'])} | {_number(row['iou'])} "
            f"| {_number(right.get(name))} | {len(thresholds['known_scores'].get(name, ()))} |"
        )
    return "\n".join(lines)


def _cell(figures: Mapping[str, Any]) -> str:
    if not figures["n"]:
        return "none seen"
    share = f"{figures['k']}/{figures['n']} = {figures['value']:.3f}"
    return f"{share} ({figures['ci95'][0]:.3f} to {figures['ci95'][1]:.3f})" if "ci95" in figures else share


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _worst(worst: Any) -> str:
    return "none" if worst is None else f"{worst[1]:.3f} ({worst[0]})"
