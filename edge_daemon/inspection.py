"""One frame in, one verdict out: the stages joined, the same for daemon, page, command line, replay and tests.

``prepare_station`` does everything that may touch files or take long, once; ``Station.inspect`` is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError, EdgeError, EngineError, RuleError
from .judge import Limits, Measurement, Rule, Scale, TypeVerdict, Value, Verdict, judge, limits_of, measure
from .judge.indications import Indication, find_indications
from .judge.verdict import Comparison
from .recipe import Recipe, ReferenceSet, references_sha256
from .records import UNKNOWN_LABEL, UNKNOWN_MESSAGE, UNKNOWN_TYPE, Outcome, Reason, Region, Segmentation
from .segment.protocol import Engine
from .segment.see import see

__all__ = ["Inspection", "Seals", "Station", "document_of", "not_evaluable", "prepare_station", "type_document"]

#: Scales nearer than this (relative) are one scale; above it the finer picture is area-averaged down.
_SAME_SCALE = 1e-6


@dataclass(frozen=True, slots=True)
class Seals:
    """SHA-256 of everything that decides a verdict, or None where it does not exist in this station."""

    engine: str
    calibration: str | None = None
    table: str | None = None
    references: str | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one frame led to. labels: uint8, the frame's own size (for the yellow picture and labels.png)."""

    segmentation: Segmentation
    labels: NDArray[np.uint8]
    measurement: Measurement | None
    verdict: Verdict


def _downscaled(pixels: NDArray[Any], scale: Scale, coarse_mm_per_px: float) -> tuple[NDArray[Any], Scale]:
    """The picture area-averaged to about ``coarse_mm_per_px``, and the exact scale that the whole-pixel size gives."""
    height, width = pixels.shape[:2]
    new_w = max(1, round(width * scale.x_mm_per_px / coarse_mm_per_px))
    new_h = max(1, round(height * scale.y_mm_per_px / coarse_mm_per_px))
    if (new_w, new_h) == (width, height):
        return pixels, scale
    sx, sy = scale.x_mm_per_px * width / new_w, scale.y_mm_per_px * height / new_h
    return (
        cv2.resize(pixels, (new_w, new_h), interpolation=cv2.INTER_AREA),
        Scale(sx, sy, scale.relative_u * min(sx, sy)),
    )


def _is_finer(scale: Scale, coarse_mm_per_px: float) -> bool:
    return min(scale.both) < coarse_mm_per_px * (1.0 - _SAME_SCALE)


@dataclass(frozen=True, slots=True)
class Station:
    """A recipe bound to an engine, with its limits measured: all that judging a frame needs.

    scale: None where nobody gave one; then nothing is measured. working_mm_per_px: the coarsest scale of part and
    references, at which both are looked at. levels: by type, the limits of every plate of its reference set.
    """

    engine: Engine
    scale: Scale | None
    rules: tuple[Rule, ...]
    limits: Mapping[str, Limits]
    levels: Mapping[str, Mapping[int, Limits]]
    references: Mapping[str, ReferenceSet]
    working_mm_per_px: float | None
    seals: Seals
    name: str = ""

    def inspect(self, pixels: NDArray[Any], lap: Callable[[str], None] = lambda _: None) -> Inspection:
        """Judge one frame: pixels uint8/uint16 (H, W) or RGB (H, W, 3). ``lap(stage)`` is called after each stage.

        Pure: no I/O, no clock. Trouble with the picture is an outcome; EngineError means the engine broke its promise.
        """
        size = pixels.shape[:2]
        scale, small = self.scale, pixels
        if scale is not None and self.working_mm_per_px is not None and _is_finer(scale, self.working_mm_per_px):
            small, scale = _downscaled(pixels, scale, self.working_mm_per_px)
        seen = see(self.engine, small, mm_per_px=() if scale is None else scale.both)
        lap("segment")
        return self._judged(seen, scale, size, lap)

    def inspect_labels(self, labels: NDArray[np.uint8]) -> Inspection:
        """Judge a label image (uint8 (H, W), labels of this engine, 255 unknown) in place of the engine's answer.

        Raises RuleError for a label that the engine does not have.
        """
        types = self.engine.bundle.types
        regions = []
        for label in (int(one) for one in np.unique(labels) if one):
            if label != UNKNOWN_LABEL and label > len(types):
                raise RuleError(
                    f"label {label} is none of {self.engine.name}", hint=f"1..{len(types)}, 255 for unknown"
                )
            known = label != UNKNOWN_LABEL
            name = types[label - 1] if known else UNKNOWN_TYPE
            _, found = find_indications(labels == label, None, (1.0, 1.0))
            regions += [
                (one.first_px[::-1], Region(0, label, name, known, 1.0, 1.0 if known else 0.0, name, one.bbox_px))
                for one in found
            ]
        ordered = [region for _, region in sorted(regions, key=lambda pair: pair[0])]
        numbered = tuple(replace(region, index=number) for number, region in enumerate(ordered, start=1))
        seen = Segmentation(labels, None, types, numbered)
        return self._judged(seen, self.scale, labels.shape, lambda _: None)

    def _judged(
        self, seen: Segmentation, scale: Scale | None, size: tuple[int, ...], lap: Callable[[str], None]
    ) -> Inspection:
        if scale is None:
            measured = None
            verdict = judge(Measurement({}, (size[1], size[0]), Scale(1.0, 1.0)), (), {}, refusals=seen.refusals)
        else:
            measured = _measured(seen, scale, self.rules)
            lap("measure")
            verdict = judge(measured, self.rules, self.limits, levels=self.levels, refusals=seen.refusals)
        lap("judge")
        labels = seen.labels
        if labels.shape != size:
            labels = cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
            labels.flags.writeable = False
        return Inspection(seen, labels, measured, verdict)


def _measured(seen: Segmentation, scale: Scale, rules: Sequence[Rule]) -> Measurement:
    return measure(
        seen.labels,
        seen.coverage,
        seen.type_names,
        scale,
        {rule.type: rule.windows_mm for rule in rules},
        min_indication_mm={rule.type: rule.min_indication_mm for rule in rules},
    )


def _limits_of_set(engine: Engine, reference: ReferenceSet, rule: Rule, working_mm_per_px: float) -> dict[int, Limits]:
    """Measure every plate; make the limits monotone over the level (running maximum), as the definition asks."""
    limits: dict[int, Limits] = {}
    previous = Limits(dict.fromkeys(rule.windows_mm, 0.0), dict.fromkeys(rule.windows_mm, 0.0), 0.0)
    for level, image in reference.images.items():
        pixels, scale = image.pixels, reference.scale
        if _is_finer(scale, working_mm_per_px):
            pixels, scale = _downscaled(pixels, scale, working_mm_per_px)
        seen = see(engine, pixels, mm_per_px=scale.both)
        if seen.refusals:
            raise EngineError(f"{image.path}: {seen.refusals[0].text}", hint="the reference itself must be inspectable")
        own = limits_of(_measured(seen, scale, [rule]).of(rule.type, rule.windows_mm))
        previous = Limits(
            {side: max(previous.area_pct[side], own.area_pct[side]) for side in rule.windows_mm},
            {side: max(previous.count[side], own.count[side]) for side in rule.windows_mm},
            max(previous.max_size_mm, own.max_size_mm),
        )
        limits[level] = previous
    return limits


def prepare_station(
    engine: Engine, recipe: Recipe | None, *, scale: Scale | None = None, config: str | None = None
) -> Station:
    """Bind a recipe to an engine: measure its references with that very engine and collect the seals.

    Without a recipe the station only sees and, given a ``scale``, measures. Raises EngineError when a reference cannot
    be measured, ConfigError when a rule is for a type this engine cannot name.
    """
    if recipe is None:
        seals = Seals(engine.bundle.sha256, config=config)
        return Station(engine, scale, (), {}, {}, {}, None, seals)
    scale = scale or recipe.scale
    for rule in recipe.rules:
        if rule.type not in engine.bundle.types:
            # A rule nobody can apply would read as "checked" in every record.
            raise ConfigError(
                f"{recipe.path}: the rule for {rule.type} cannot be applied: {engine.name} does not know this type",
                hint=f"it knows {', '.join(engine.bundle.types)}; choose another engine or remove the rule",
            )
    rules = recipe.rules_for(engine.bundle.types)
    working = max([max(scale.both), *(max(one.scale.both) for one in recipe.references.values())])
    by_type = {rule.type: rule for rule in rules}
    levels = {
        name: _limits_of_set(engine, reference, by_type[name], working) for name, reference in recipe.references.items()
    }
    limits = {name: levels[name][level] for name in levels if (level := by_type[name].level) is not None}
    seals = Seals(
        engine.bundle.sha256,
        table=recipe.sha256,
        references=references_sha256(recipe.references),
        config=config or recipe.sha256,
    )
    return Station(engine, scale, rules, limits, levels, recipe.references, working, seals, recipe.name)


def _value(one: Value, limit: float | None, ratio: float | None) -> dict[str, Any]:
    return {"value": one.value, "u": one.u, "limit": limit, "ratio": ratio, "at_px": list(one.at_px)}


def type_document(verdict: TypeVerdict) -> dict[str, Any]:
    """The JSON object of one type's windows and largest size, with limits and ratios (the command-line contract)."""
    compared: dict[tuple[str, float | None], Comparison] = {
        (one.metric, one.side_mm): one for one in verdict.comparisons
    }

    def entry(metric: str, side_mm: float | None, value: Value) -> dict[str, Any]:
        one = compared.get((metric, side_mm))
        return _value(value, one.limit if one else None, one.ratio if one else None)

    found = verdict.measurement
    return {
        "label": found.label,
        "outcome": str(verdict.outcome),
        "windows": [
            {
                "side_mm": window.side_mm,
                "side_px": window.side_px,
                "true_mm": list(window.true_mm),
                "area_pct": entry("area_pct", window.side_mm, window.area_pct),
                "count": entry("count", window.side_mm, window.count),
            }
            for window in found.windows
        ],
        "max_size_mm": entry("max_size_mm", None, found.max_size_mm),
        "area_mm2": {"value": found.area_mm2.value, "u": found.area_mm2.u},
    }


def _defects(inspection: Inspection) -> list[dict[str, Any]]:
    """One object per marked region, measured where there is a scale."""
    measured = inspection.measurement
    indication_of: dict[int, Indication] = {}
    if measured is not None:
        for found in measured.types.values():
            ordered = [region for region in inspection.segmentation.regions if region.label == found.label]
            if len(ordered) != len(found.indications):
                raise EdgeError(f"{len(ordered)} regions but {len(found.indications)} indications of {found.type}")
            indication_of.update((region.index, one) for region, one in zip(ordered, found.indications, strict=True))
    documents = []
    for region in inspection.segmentation.regions:
        one = indication_of.get(region.index)
        u_rel = measured.scale.relative_u if measured is not None else 0.0
        documents.append(
            {
                "label": region.label,
                "type": region.type,
                "known": region.known,
                "confidence": region.confidence,
                "p_known": region.p_known,
                "nearest_type": region.nearest_type,
                "bbox_px": list(region.bbox_px),
                "area_mm2": one.area_mm2 if one else None,
                "area_u_mm2": 2.0 * one.area_mm2 * u_rel if one else None,
                "feret_max_mm": one.feret_max_mm if one else None,
                "feret_u_mm": one.feret_max_mm * u_rel if one else None,
            }
        )
    return documents


def document_of(
    station: Station,
    inspection: Inspection | None,
    *,
    record_id: str,
    image: str | None,
    image_sha256: str | None,
    verdict: Verdict | None = None,
    timings_ms: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The JSON object of ``inspect --json``: complete, self-contained, the same from daemon and command line.

    ``verdict`` replaces the inspection's own, where something behind the judge (deadline, lost camera) decided; it must
    be given when there is no inspection.
    """
    decided = verdict or (inspection.verdict if inspection is not None else None)
    if decided is None:
        raise EdgeError(f"record {record_id}: neither inspection nor verdict")
    unknown = inspection is not None and bool((inspection.labels == UNKNOWN_LABEL).any())
    types = []
    for one in inspection.verdict.types if inspection is not None and inspection.measurement is not None else ():
        reference = station.references.get(one.type)
        level = one.rule.level
        types.append(
            {
                "type": one.type,
                "rule": {
                    "kind": str(one.rule.kind),
                    "level": level,
                    "row_id": one.rule.row_id or None,
                    "verbatim": one.rule.verbatim or None,
                    "edition": one.rule.edition or None,
                    "tolerance": one.rule.tolerance,
                    "guard": one.rule.guard,
                },
                "reference": str(reference.images[level].path) if reference is not None and level else None,
                **type_document(one),
                "severity": one.severity,
                "severity_level": one.severity_level,
            }
        )
    return {
        "record_id": record_id,
        "image": image,
        "image_sha256": image_sha256,
        "recipe": station.name or None,
        "result": decided.result,
        "outcome": str(decided.outcome),
        "advisory": decided.advisory,
        "reasons": [{"code": reason.code, "text": reason.text} for reason in decided.reasons],
        "message": UNKNOWN_MESSAGE if unknown else None,
        "defects": _defects(inspection) if inspection is not None else [],
        "types": types,
        "engine": {
            "name": station.engine.name,
            "sha256": station.engine.bundle.sha256,
            "backend": station.engine.backend,
        },
        "calibration_sha256": station.seals.calibration,
        "table_sha256": station.seals.table,
        "references_sha256": station.seals.references,
        "config_sha256": station.seals.config,
        "timings_ms": dict(timings_ms or {}),
    }


def not_evaluable(code: str, text: str) -> Verdict:
    """A verdict for a part that was not judged, with the one reason why."""
    return Verdict(Outcome.NOT_EVALUABLE, (Reason(code, text),), ())
