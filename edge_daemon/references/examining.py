"""Everything that is wrong with a reference set, at once; nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, EdgeError
from ..segment.protocol import Engine
from .limits import BENT_MOST, PlateValues, SetLimits, measure_limits
from .sets import ReferenceSet, read_reference_set

__all__ = ["WINDOWS_MM", "Examination", "examine", "metrics_document"]

#: Where nobody names windows: half an inch and an inch.
WINDOWS_MM = (12.7, 25.4)


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found. found: the set, where it can be loaded. problems: each with its exit code, 4 for integrity and 2
    for a set that makes no sense. notes: what is worth knowing and no fault. measured: what severity was checked on."""

    found: ReferenceSet | None
    problems: tuple[EdgeError, ...]
    notes: tuple[str, ...]
    measured: SetLimits | None

    @property
    def exit_code(self) -> int:
        """0, or the gravest problem's."""
        return max((problem.exit_code for problem in self.problems), default=0)


def examine(
    folder: Path, *, engine: Engine | None = None, windows_mm: tuple[float, ...] = WINDOWS_MM, cache: Path | None = None
) -> Examination:
    """Check hashes, completeness, sizes and scale, and that severity grows from plate to plate.

    Severity, that is worst-window area and largest size, is measured on the exact masks where there are any, and by
    ``engine`` where one is given. What falls by more than a tenth below a lower plate is a problem, by less a note.
    """
    problems: list[EdgeError] = []
    found = read_reference_set(folder, problems.append)
    if found is None:
        return Examination(None, tuple(problems), (), None)
    problems += _doubles(found)
    notes: list[str] = []
    measured: SetLimits | None = None
    if found.has_masks:
        measured = measure_limits(None, found, windows_mm=windows_mm, cache=cache)
        problems += _stale_metrics(found, measured)
    elif any(image.mask is not None for image in found.images.values()):
        problems.append(ConfigError(f"{folder}: some plates have a mask and some have none", hint="all or none"))
    elif engine is None:
        notes.append("severity was not checked: the set has no exact masks; name an engine")
    for one in (measured, measure_limits(engine, found, windows_mm=windows_mm, cache=cache) if engine else None):
        if one is not None:
            falls, remarks = _falls(folder, one)
            problems, notes, measured = problems + falls, notes + remarks, one
    return Examination(found, tuple(problems), tuple(notes), measured)


def metrics_document(values: PlateValues) -> dict[str, Any]:
    """What a manifest says about a plate: numbers to six digits, window sides as text, no gap as null."""
    return {
        "area_pct": {f"{side:g}": _rounded(value) for side, value in values.area_pct.items()},
        "count": {f"{side:g}": int(value) for side, value in values.count.items()},
        "max_size_mm": _rounded(values.max_size_mm),
        "min_gap_mm": None if values.min_gap_mm == float("inf") else _rounded(values.min_gap_mm),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _doubles(found: ReferenceSet) -> list[EdgeError]:
    seen: dict[str, int] = {}
    problems: list[EdgeError] = []
    for level, image in found.images.items():
        if image.sha256 in seen:
            first = seen[image.sha256]
            problems.append(ConfigError(f"{image.path}: plate {level} is the same picture as plate {first}"))
        seen.setdefault(image.sha256, level)
    return problems


def _stale_metrics(found: ReferenceSet, measured: SetLimits) -> list[EdgeError]:
    """Numbers in the manifest that are not those of the masks beside them."""
    problems: list[EdgeError] = []
    for level, stated in found.metrics.items():
        if level not in measured.levels:
            problems.append(ConfigError(f"{found.folder}: metrics of plate {level}, which there is not"))
            continue
        now = measured.levels[level].metrics
        for (name, side), metric in now.items():
            said = stated.get(name) if side is None else (stated.get(name) or {}).get(f"{side:g}")
            if isinstance(said, (int, float)) and abs(said - metric.raw) > 1e-4 * max(abs(metric.raw), 1e-9):
                problems.append(
                    ConfigError(
                        f"{found.folder}: manifest says {name} {said:g} of plate {level}, its mask {metric.raw:g}",
                        hint="make or import the set again",
                    )
                )
    return problems


def _falls(folder: Path, measured: SetLimits) -> tuple[list[EdgeError], list[str]]:
    problems: list[EdgeError] = []
    notes: list[str] = []
    for one in measured.levels.values():
        for (name, side), metric in one.metrics.items():
            if metric.bent <= 0.0 or name not in ("area_pct", "max_size_mm"):
                continue
            what = name if side is None else f"{name} at {side:g} mm"
            text = (
                f"plate {one.level}: {what} is {metric.raw:.4g}, a lower plate has {metric.running:.4g}"
                f" (by {measured.source})"
            )
            if metric.bent > BENT_MOST:
                hint = "severity must grow with the level: are plates mixed up?"
                problems.append(ConfigError(f"{folder}: {text}", code="MONOTONE", hint=hint))
            else:
                notes.append(text)
    return problems, notes
