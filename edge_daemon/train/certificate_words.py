"""The words of the certificate: what may be claimed, what is not covered, and where the set is too small.

Bounds are rounded against the promise. Never "guarantees", never "100 %", never anything about the next single part.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .statistics import FLAWS_ASKED, parts_needed

__all__ = ["not_covered", "sentence", "too_small"]


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def sentence(claims: dict[str, Any]) -> str:
    strict, confidence = claims["part_recall"]["strict"], claims["confidence"]
    if not strict["n"]:
        return "Nothing may be claimed: the calibration set holds no part with a visible indication."
    simulated = claims["calibration_set"]["kind"] == "simulated"
    what = "parts (simulated by the product's own simulator)" if simulated else "parts"
    # Rounded up with the digits shown: the promise must not look better than it is.
    missed = float(np.ceil(1e4 * (1.0 - strict["lower"]) - 1e-6) / 1e4)
    pod = claims["pod"].get("pooled", {})
    sizes = (
        f"sizes below a90/95 = {pod['a90_95_mm']:.2f} mm"
        if pod.get("a90_95_mm")
        else "small sizes (no a90/95 could be stated)"
    )
    lapses = (
        "The claim lapses when the drift alarm fires."
        if claims["drift"] is not None
        else "No drift alarm watches over this claim: it lapses with any change of process or camera."
    )
    return (
        f"With {100 * confidence:g} % confidence over the draw of the n = {strict['n']:,} independent calibration "
        f"{what}, at most {_percent(missed)} of defective parts drawn from the same process, camera and labelling rule "
        f"are passed over (a visible indication left unmarked); {strict['missed']:,} were missed in calibration. "
        f"Not covered: new defect types, changed exposure, {sizes}. {lapses}"
    )


def not_covered(claims: dict[str, Any]) -> list[str]:
    pod = claims["pod"].get("pooled", {})
    lines = [
        "any single part: every bound is over the draw of parts, none is a promise for the next one",
        "types of defects that are not in the calibration set",
        "another process, part, camera, exposure, scale, polarity or labelling rule",
        "discontinuities below the visible limit, or that the labelling rule leaves out",
        "what the judge does with a marked indication: the claim is about marking",
    ]
    if pod.get("a90_95_mm"):
        lines.append(f"indications smaller than a90/95 = {pod['a90_95_mm']:.2f} mm")
    else:
        why = pod.get("bound_reason") or pod.get("reason") or "no scale was given"
        lines.append(f"small indications: a90/95 is {why}" if why.startswith("not") else f"small indications: {why}")
    if claims["calibration_set"]["kind"] == "simulated":
        lines.insert(0, "real radiographs: every part of this calibration set was simulated")
    if claims["drift"] is None:
        lines.append(f"drift: {claims['drift_reason']}")
    return lines


def too_small(claims: dict[str, Any]) -> list[str]:
    """Where the set cannot carry what a reader would like to read into it."""
    confidence, asked = claims["confidence"], claims["asked"]["recall"]
    recall, lines = claims["part_recall"], []
    n, needed = recall["strict"]["n"], recall["parts_needed_without_a_miss"]
    if n < needed:
        lines.append(
            f"{n} defective parts: a recall of {100 * asked:g} % cannot be promised with fewer than {needed:,}, even "
            f"without a miss"
        )
    elif not recall["promised"]:
        lines.append(
            f"{recall['strict']['missed']} of {n} parts missed: {100 * asked:g} % would need "
            f"{recall['parts_needed_with_as_many_misses']:,} parts with as many misses"
        )
    least = parts_needed(0.95, 0, confidence)
    few = [f"{name} {one['n']}" for name, one in claims["types"].items() if one["n"] < least]
    if few:
        lines.append(f"fewer than {least} parts, so not even 95 % recall can be shown: {', '.join(few)}")
    for group, curve in claims["pod"].items():
        if not curve["reason"] and curve["n"] < FLAWS_ASKED:
            lines.append(f"POD {group}: {curve['n']} flaws; MIL-HDBK-1823A asks for {FLAWS_ASKED}")
    if claims["pixel_miss"]["point"] is None:
        lines.append(f"no threshold holds a pixel miss rate of {100 * claims['asked']['pixel_miss']:g} %")
    if claims["false_calls"]["pictures"] < 60:
        lines.append(f"{claims['false_calls']['pictures']} sound pictures: the rate of false calls is hardly known")
    return lines
