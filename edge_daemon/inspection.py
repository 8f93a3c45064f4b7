"""One frame in, one verdict out: the stages joined, the same for daemon, page, command line, replay and tests.

``prepare_station`` does everything that may touch files or take long, once; ``Station.inspect`` is pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot, isfinite
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .calibration import Calibration
from .errors import ConfigError, EdgeError, ImageError, RuleError
from .focus import focus_refusal
from .golden import GoldenPart
from .judge import (
    CombineRule,
    Limits,
    Measurement,
    Rule,
    RuleKind,
    Scale,
    TypeVerdict,
    Uncertainty,
    Value,
    Verdict,
    combined,
    judge,
    measure,
    polygon_mask,
    zone_region,
)
from .judge.indications import Indication, find_indications
from .judge.measure import area_uncertainty_mm2, size_uncertainty_mm
from .judge.verdict import Comparison
from .recipe import Recipe, Zone
from .records import UNKNOWN_LABEL, UNKNOWN_MESSAGE, UNKNOWN_TYPE, Outcome, Reason, Region, Segmentation
from .references import ReferenceSet, measure_limits, references_sha256
from .references.limits import downscaled, is_finer
from .segment.claims import Claims, Sensitivity, max_recall_engine, read_claims
from .segment.protocol import Engine
from .segment.see import look, see

__all__ = [
    "Inspection",
    "Seals",
    "Station",
    "StationZone",
    "document_of",
    "not_evaluable",
    "prepare_station",
    "type_document",
]


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


@dataclass(frozen=True, slots=True)
class StationZone:
    """A zone of the part with its rules and measured limits. polygon_mm: corners (x, y) from the top-left corner."""

    name: str
    polygon_mm: tuple[tuple[float, float], ...]
    rules: tuple[Rule, ...]
    limits: Mapping[str, Limits]
    levels: Mapping[str, Mapping[int, Limits]]


@dataclass(frozen=True, slots=True)
class Station:
    """A recipe bound to an engine, with its limits measured: all that judging a frame needs.

    scale: None where nobody gave one; then nothing is measured. working_mm_per_px: the coarsest scale of part and
    references, at which both are looked at. levels: by type, the limits of every plate of its reference set. rules,
    limits, levels: of the part, or of what lies in none of its ``zones``. not_inspected: types of the standard's table
    that this engine does not look for. sensitivity: the operating point of max-recall mode, None by default.
    max_blind_pct: more burnt-out or black pixels than that, in the picture or in a zone, and it is not judged.
    certificate: the claims of the engine's certificate, None where it was never certified. golden: the stored part that
    this station must reject, None where the recipe names none.
    least_sharpness: a frame below it is not judged (``focus``).
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
    zones: tuple[StationZone, ...] = ()
    combine: CombineRule = CombineRule.ANY_FAILS
    uncertainty: Uncertainty = field(default_factory=Uncertainty)
    not_inspected: tuple[str, ...] = ()
    zone_references: Mapping[str, Mapping[str, ReferenceSet]] = field(default_factory=dict)
    calibration: Calibration | None = None
    polarity: str | None = None
    sensitivity: Sensitivity | None = None
    max_blind_pct: float | None = None
    certificate: Claims | None = None
    golden: GoldenPart | None = None
    least_sharpness: float | None = None

    def inspect(self, pixels: NDArray[Any], lap: Callable[[str], None] = lambda _: None) -> Inspection:
        """Judge one frame: pixels uint8/uint16 (H, W) or RGB (H, W, 3). ``lap(stage)`` is called after each stage.

        Pure: no I/O, no clock. Trouble with the picture is an outcome; EngineError means the engine broke its promise.
        """
        picture, region = pixels, None
        refusal = focus_refusal(pixels, self.least_sharpness)
        if refusal is None and self.calibration is not None:
            refusal = _calibration_refusal(self.calibration, pixels)
        if refusal is not None:
            nothing = np.zeros(pixels.shape[:2], np.uint8)
            seen = Segmentation(nothing, None, self.engine.bundle.types, (), (refusal,))
            return self._judged(seen, self.scale, pixels.shape[:2], lap)
        if self.calibration is not None:
            picture, region = self.calibration.rectify(pixels), self.calibration.region
            lap("rectify")
        scale, small = self.scale, picture
        if scale is not None and self.working_mm_per_px is not None and is_finer(scale, self.working_mm_per_px):
            small, scale = downscaled(picture, scale, self.working_mm_per_px)
        if region is not None and region.shape != small.shape[:2]:
            size = small.shape[1], small.shape[0]
            region = cv2.resize(region.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        seen = see(self.engine, small, mm_per_px=() if scale is None else scale.both, polarity=self.polarity)
        lap("segment")
        inspection = self._judged(seen, scale, picture.shape[:2], lap, region)
        if self.calibration is None or self.calibration.kind == "scale":
            return inspection
        labels = self.calibration.labels_to_frame(inspection.labels, pixels.shape)
        return replace(inspection, labels=labels)

    def look(self, pixels: NDArray[Any]) -> Segmentation:
        """What the engine sees in any picture, such as a plate: nothing is judged, no gate keeps it from looking."""
        return look(self.engine, pixels)

    def inspect_labels(self, labels: NDArray[np.uint8]) -> Inspection:
        """Judge a label image (uint8 (H, W), labels of this engine, 255 unknown) in place of the engine's answer.

        Under a calibration of a plane the labels are those of the frame, and are rectified as the frame would be.
        Raises RuleError for a label that the engine does not have, ImageError for another size than the calibration's.
        """
        frame_shape, region = labels.shape, None
        if self.calibration is not None:
            self.calibration.check_frame(labels)
            labels, region = self.calibration.labels_from_frame(labels), self.calibration.region
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
        inspection = self._judged(seen, self.scale, labels.shape, lambda _: None, region)
        if self.calibration is None or self.calibration.kind == "scale":
            return inspection
        return replace(inspection, labels=self.calibration.labels_to_frame(inspection.labels, frame_shape))

    def refusal(self, now_utc: str, max_age_s: float | None = None) -> Reason | None:
        """Why this station may judge nothing at ``now_utc`` (ISO 8601): its calibration has run out, or is older than
        ``max_age_s``."""
        if self.calibration is None:
            return None
        age_s = self.calibration.age_s(now_utc)
        if max_age_s is not None and age_s > max_age_s:
            text = f"the calibration is {age_s / 86400:.1f} days old, at most {max_age_s / 86400:.1f} are allowed"
            return Reason("CALIBRATION_OLD", f"{text}: calibrate again")
        return self.calibration.refusal(now_utc)

    def _judged(
        self,
        seen: Segmentation,
        scale: Scale | None,
        size: tuple[int, ...],
        lap: Callable[[str], None],
        region: NDArray[np.bool_] | None = None,
    ) -> Inspection:
        """region: what the frame really shows of the working picture; marks outside are not judged."""
        refusals = seen.refusals if self.zones else (*seen.refusals, *self._too_blind(seen, region, "the picture"))
        if scale is None:
            measured = None
            verdict = judge(Measurement({}, (size[1], size[0]), Scale(1.0, 1.0)), (), {}, refusals=refusals)
        elif not self.zones:
            alike = self.engine.bundle.groups
            measured = judged = _measured(seen, scale, self.rules, self.uncertainty)
            if region is not None or alike:
                judged = _measured(seen, scale, self.rules, self.uncertainty, region, alike=alike)
            lap("measure")
            verdict = judge(
                judged, self.rules, self.limits, levels=self.levels, refusals=refusals, combine=self.combine
            )
        else:
            measured = _measured(seen, scale, (), self.uncertainty)
            verdict = combined(self._zone_verdicts(seen, scale, region), self.combine)
        lap("judge")
        labels = seen.labels
        if labels.shape != size:
            labels = cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
            labels.flags.writeable = False
        return Inspection(seen, labels, measured, verdict)

    def _too_blind(self, seen: Segmentation, inside: NDArray[np.bool_] | None, what: str) -> tuple[Reason, ...]:
        """Why nothing can be said about a place: too much of it is burnt out or black."""
        blind_pct = _blind_pct(seen, inside)
        if self.max_blind_pct is None or blind_pct is None or blind_pct <= self.max_blind_pct:
            return ()
        text = f"{blind_pct:.1f} % of {what} is burnt out or black; at most {self.max_blind_pct:g} % may be."
        return (Reason("BLIND", text),)

    def reference_of(self, verdict: TypeVerdict) -> ReferenceSet | None:
        """The reference set that this type of this zone was compared with."""
        return self.zone_references.get(verdict.zone, self.references).get(verdict.type)

    def _zone_verdicts(self, seen: Segmentation, scale: Scale, shown: NDArray[np.bool_] | None) -> list[Verdict]:
        """Every zone, and the rest of the part under the rules without a zone."""
        height, width = seen.labels.shape
        if seen.refusals:
            return [Verdict(Outcome.NOT_EVALUABLE, seen.refusals, ())]
        rest = np.ones((height, width), bool) if shown is None else shown.copy()
        verdicts = []
        everything = StationZone("", (), self.rules, self.limits, self.levels)
        for zone in (*self.zones, everything):
            inside = polygon_mask(zone.polygon_mm, scale, (width, height)) if zone.name else rest
            if inside is None or not inside.any() or (shown is not None and (inside & ~shown).any()):
                if zone.name:
                    verdicts.append(not_evaluable("ZONE_OUTSIDE", f"zone {zone.name} is not wholly in the picture"))
                continue
            rest = rest & ~inside if zone.name else rest
            blind = self._too_blind(seen, inside, f"zone {zone.name}") if zone.name else ()
            measured = _measured(
                seen, scale, zone.rules, self.uncertainty, zone_region(seen.labels, inside), least_share=0.5,
                alike=self.engine.bundle.groups,
            )  # fmt: skip
            verdicts.append(
                judge(
                    measured,
                    zone.rules,
                    zone.limits,
                    levels=zone.levels,
                    refusals=(*seen.refusals, *blind),
                    combine=self.combine,
                    zone=zone.name,
                )
            )
        return verdicts


def _blind_pct(seen: Segmentation, inside: NDArray[np.bool_] | None = None) -> float | None:
    """Share of the working picture, or of a part of it, where no defect could be seen; None where nobody looked."""
    if seen.blind is None:
        return None
    return 100.0 * float((seen.blind if inside is None else seen.blind[inside]).mean())


def _calibration_refusal(calibration: Calibration, pixels: NDArray[Any]) -> Reason | None:
    """A frame of another size, or a camera that has moved: its millimetres mean nothing."""
    try:
        calibration.check_frame(pixels)
    except ImageError as error:
        return Reason(error.code, str(error))
    return None if calibration.fiducial is None else calibration.drift(pixels).reason


def _measured(
    seen: Segmentation,
    scale: Scale,
    rules: Sequence[Rule],
    uncertainty: Uncertainty,
    region: NDArray[np.bool_] | None = None,
    least_share: float = 0.0,
    alike: Sequence[Sequence[str]] = (),
) -> Measurement:
    return measure(
        seen.labels,
        seen.coverage,
        seen.type_names,
        scale,
        {rule.type: rule.windows_mm for rule in rules},
        region=region,
        min_indication_mm={rule.type: rule.min_indication_mm for rule in rules},
        uncertainty=uncertainty,
        spacing=[rule.type for rule in rules if rule.compare_spacing],
        least_share=least_share,
        alike=alike,
    )


def reference_view(station: Station, reference: ReferenceSet, level: int) -> tuple[NDArray[Any], Segmentation, Scale]:
    """A plate as the station's engine sees it, at the scale at which part and plate are compared. For pictures."""
    pixels, scale = reference.images[level].pixels, reference.scale
    if station.working_mm_per_px is not None and is_finer(scale, station.working_mm_per_px):
        pixels, scale = downscaled(pixels, scale, station.working_mm_per_px)
    return pixels, see(station.engine, pixels, mm_per_px=scale.both, polarity=reference.polarity), scale


def prepare_station(
    engine: Engine,
    recipe: Recipe | None,
    *,
    scale: Scale | None = None,
    config: str | None = None,
    cache: Path | None = None,
    max_recall: float | None = None,
) -> Station:
    """Bind a recipe to an engine: measure its references with that very engine and collect the seals.

    Without a recipe the station only sees and, given a ``scale``, measures. cache: folder for the references' measured
    values, None to measure them now. max_recall: the part recall that the engine's certificate must promise, in place
    of the recipe's. Raises EngineError when a reference cannot be measured, ConfigError when a rule is for a type this
    engine cannot name, or its certificate cannot promise that recall.
    """
    config = config or (None if recipe is None else recipe.sha256)
    stated = None if recipe is None else recipe.max_recall
    asked = stated if max_recall is None else max_recall
    sensitivity = None
    if asked is not None:
        engine, sensitivity = max_recall_engine(engine, asked)
        if asked != stated:  # said outside the recipe: the seal must tell this station from one without it
            config = hashlib.sha256(f"{config}\nmax_recall={asked!r}\n".encode()).hexdigest()
    certificate = _readable_claims(engine)
    if recipe is None:
        seals = Seals(engine.bundle.sha256, config=config)
        return Station(engine, scale, (), {}, {}, {}, None, seals, sensitivity=sensitivity, certificate=certificate)
    calibration = recipe.calibration if scale is None else None
    scale = scale or recipe.scale
    for rule in (rule for zone in recipe.zones for rule in zone.rules):
        if rule.type not in engine.bundle.types:
            # A rule nobody can apply would read as "checked" in every record.
            raise ConfigError(
                f"{recipe.path}: the rule for {rule.type} cannot be applied: {engine.name} does not know this type",
                hint=f"it knows {', '.join(engine.bundle.types)}; choose another engine, remove the rule, or say "
                f'not_inspected = ["{rule.type}"]',
            )
    sets = [(zone.name, name, one) for zone in recipe.zones for name, one in zone.references.items()]
    working = max([max(scale.both), *(max(one.scale.both) for _, _, one in sets)])
    zones = [_station_zone(engine, recipe, zone, working, cache) for zone in recipe.zones]
    seals = Seals(
        engine.bundle.sha256,
        calibration=None if calibration is None else calibration.sha256,
        table=recipe.table_sha256,
        references=references_sha256({f"{zone}/{name}" if zone else name: one for zone, name, one in sets}),
        config=config,
    )
    uncertainty = recipe.uncertainty or Uncertainty()
    if not recipe.edge_stated:
        masks = {name for zone in recipe.zones for name in zone.from_masks}
        certified = _certified(engine, zones, masks, max(*scale.both, working))
        uncertainty = replace(uncertainty, edge_by_type_mm=certified)
    for name in recipe.not_inspected:
        if name in engine.bundle.types:
            raise ConfigError(
                f"{recipe.path}: {name} stands in not_inspected, but {engine.name} looks for it",
                hint="take it out: what is seen is judged",
            )
    return Station(
        engine,
        scale,
        zones[-1].rules,
        zones[-1].limits,
        zones[-1].levels,
        recipe.references,
        working,
        seals,
        recipe.name,
        zones=tuple(zones[:-1]),
        combine=recipe.combine,
        uncertainty=uncertainty,
        not_inspected=_not_inspected(engine, recipe),
        calibration=calibration,
        polarity=recipe.polarity,
        sensitivity=sensitivity,
        max_blind_pct=recipe.max_blind_pct,
        zone_references={zone.name: zone.references for zone in recipe.zones},
        certificate=certificate,
        golden=recipe.golden,
        least_sharpness=recipe.least_sharpness,
    )


def _readable_claims(engine: Engine) -> Claims | None:
    """What the engine's certificate promises; claims that cannot be read, or are another model's, promise nothing."""
    try:
        return read_claims(engine.bundle)
    except ConfigError:
        return None


def _not_inspected(engine: Engine, recipe: Recipe) -> tuple[str, ...]:
    """What the recipe says, and every word of its table this engine has no eye for: a PASS does not speak of it."""
    words = () if recipe.standard is None or recipe.metal is None else recipe.standard.discontinuities(recipe.metal)
    return tuple(dict.fromkeys((*recipe.not_inspected, *(one for one in words if one not in engine.bundle.types))))


def _certified(
    engine: Engine, zones: Sequence[StationZone], from_masks: Collection[str], mm_per_px: float
) -> Mapping[str, float]:
    """The engine's certificate of its edges at this scale. A reference measured by the same engine cancels their bias;
    a limit in absolute numbers does not, so there the bias counts as uncertainty as well."""
    absolute = {
        rule.type
        for zone in zones
        for rule in zone.rules
        if rule.kind in (RuleKind.SIZE_MM, RuleKind.AREA_PCT) or rule.type in from_masks
    }
    edges = {}
    for name in engine.bundle.types:
        certified = engine.bundle.edge_px(name)
        if certified is not None:
            bias, spread = certified
            edges[name] = mm_per_px * (hypot(bias, spread) if name in absolute else spread)
    return edges


def _station_zone(
    engine: Engine, recipe: Recipe, zone: Zone, working_mm_per_px: float, cache: Path | None
) -> StationZone:
    rules = recipe.rules_for(engine.bundle.types, zone)
    levels: dict[str, Mapping[int, Limits]] = {}
    limits: dict[str, Limits] = {}
    for rule in rules:
        reference = zone.references.get(rule.type)
        if reference is None or rule.level is None:
            continue
        looks = None if rule.type in zone.from_masks else engine
        measured = measure_limits(
            looks, reference, windows_mm=rule.windows_mm, min_indication_mm=rule.min_indication_mm,
            working_mm_per_px=working_mm_per_px, cache=cache,
        )  # fmt: skip
        levels[rule.type] = measured.limits()
        limits[rule.type] = levels[rule.type][rule.level]
    return StationZone(zone.name, zone.polygon_mm, rules, limits, levels)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _finite(value: float | None) -> float | None:
    """JSON knows no infinity: no gap, and no limit, are null."""
    return value if value is not None and isfinite(value) else None


def _value(value: Value, one: Comparison | None) -> dict[str, Any]:
    return {
        "value": _finite(value.value),
        "u": value.u,
        "limit": _finite(one.limit) if one else None,
        "permitted": _finite(one.permitted) if one else None,
        "ratio": _finite(one.ratio) if one else None,
        "p_conform": one.p_conform if one else None,
        "at_px": list(value.at_px),
        "budget": dict(value.budget),
        **({"outcome": str(one.outcome), "decides": one.decides, "firm": one.firm} if one else {}),
    }


def type_document(verdict: TypeVerdict) -> dict[str, Any]:
    """The JSON object of one type's windows and largest size, with limits and ratios (the command-line contract)."""
    compared: dict[tuple[str, float | None], Comparison] = {
        (one.metric, one.side_mm): one for one in verdict.comparisons
    }

    def entry(metric: str, side_mm: float | None, value: Value) -> dict[str, Any]:
        return _value(value, compared.get((metric, side_mm)))

    found = verdict.measurement
    return {
        "label": found.label,
        "zone": verdict.zone or None,
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
        "min_gap_mm": None if found.min_gap_mm is None else entry("min_gap_mm", None, found.min_gap_mm),
        "governing": [
            {"metric": one.metric, "side_mm": one.side_mm, "at_px": list(one.value.at_px), "ratio": _finite(one.ratio)}
            for one in verdict.ranked[:2]  # and the runner-up
        ],
        "area_mm2": {"value": found.area_mm2.value, "u": found.area_mm2.u},
    }


def _defects(station: Station, inspection: Inspection) -> list[dict[str, Any]]:
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
        documents.append(
            {
                "label": region.label,
                "type": region.type,
                "known": region.known,
                "confidence": region.confidence,
                "p_known": region.p_known,
                "nearest_type": region.nearest_type,
                "runner_up": region.runner_up or None,
                "alike": list(region.alike),
                "bbox_px": _frame_box(station, inspection, region.bbox_px),
                "area_mm2": one.area_mm2 if one else None,
                "area_u_mm2": area_uncertainty_mm2(one, measured.scale, station.uncertainty.for_type(region.type))
                if one and measured
                else None,
                "feret_max_mm": one.feret_max_mm if one else None,
                "feret_u_mm": size_uncertainty_mm(one, measured.scale, station.uncertainty.for_type(region.type))
                if one and measured
                else None,
            }
        )
    return documents


def _working(inspection: Inspection | None) -> dict[str, Any] | None:
    """The picture that was measured: every ``at_px`` and ``side_px`` counts its pixels."""
    if inspection is None or inspection.measurement is None:
        return None
    height, width = inspection.segmentation.labels.shape
    return {"size_px": [width, height], "mm_per_px": list(inspection.measurement.scale.both)}


def _frame_box(station: Station, inspection: Inspection, box_px: tuple[int, int, int, int]) -> list[int]:
    """A box [x, y, w, h] of the working picture on the frame's own pixels."""
    worked, frame = inspection.segmentation.labels.shape, inspection.labels.shape
    plane = station.calibration if station.calibration is not None and station.calibration.kind == "plane" else None
    whole = frame if plane is None else plane.rectified_size_px[::-1]
    if plane is None and worked == frame:
        return list(box_px)
    x, y, w, h = box_px
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]], np.float64)
    corners *= (whole[1] / worked[1], whole[0] / worked[0])
    if plane is not None:  # whose coordinates count from the middle of a pixel
        corners = plane.to_frame_px(corners - 0.5) + 0.5
    low = np.clip(np.floor(corners.min(axis=0)), 0, (frame[1] - 1, frame[0] - 1)).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)), low + 1, (frame[1], frame[0])).astype(int)
    return [int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])]


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
        reference = station.reference_of(one)
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
                    "advisory": one.rule.advisory,
                },
                "reference": str(reference.images[level].path) if reference is not None and level else None,
                **type_document(one),
                "severity": one.severity,
                "severity_level": one.severity_level,
                "severity_high": one.severity_high,
            }
        )
    # Only in max-recall mode, so that a record of the default mode stays what it was to the last byte.
    sensitivity = {} if station.sensitivity is None else {"sensitivity": station.sensitivity.document()}
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
        "defects": _defects(station, inspection) if inspection is not None else [],
        "types": types,
        "not_inspected": list(station.not_inspected),
        "blind_pct": None if inspection is None else _rounded(_blind_pct(inspection.segmentation)),
        **sensitivity,
        "working": _working(inspection),
        "calibration": None
        if station.calibration is None
        else {
            "target_id": station.calibration.target_id,
            "expires_utc": station.calibration.expires_utc,
            **station.calibration.budget_document,
        },
        "engine": {
            "name": station.engine.name,
            "sha256": station.engine.bundle.sha256,
            "backend": station.engine.backend,
            "certificate": None
            if station.certificate is None
            else {"sentence": station.certificate.sentence, "on": station.certificate.on},
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
