"""What is measured on the plates of a set, and the limits that follow: monotone over the level, cached.

A plate passes through the same engine and the same code as the part, at the same mm per px, so that biases cancel; its
exact mask may stand in for the engine. Over the levels the values are made monotone by a running maximum. A metric that
had to be bent by more than a tenth is dropped for that plate: its limit is None. A plate that lost all its areas is not
usable, and a part to be judged by it is not evaluable.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from math import inf, isfinite
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import ConfigError, EngineError, StorageError
from ..images import make_folder, write_bytes_atomic
from ..judge import Limits, Scale, TypeMeasurement, measure
from ..segment.protocol import Engine
from ..segment.see import see
from .sets import ReferenceImage, ReferenceSet

__all__ = [
    "BENT_MOST",
    "LevelLimits",
    "Metric",
    "PlateValues",
    "SetLimits",
    "bent_limits",
    "default_cache_folder",
    "downscaled",
    "is_finer",
    "measure_limits",
    "plate_values",
]

_log = logging.getLogger(__name__)

#: A metric bent by more than this share of what was measured is dropped for that plate.
BENT_MOST = 0.10
#: Scales nearer than this (relative) are one scale; above it the finer picture is area-averaged down.
_SAME_SCALE = 1e-6
_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class PlateValues:
    """What was measured on one plate: per window side the worst area in per cent and the largest count, the largest
    indication, and the smallest gap between two (infinite where there are not two)."""

    area_pct: Mapping[float, float]
    count: Mapping[float, float]
    max_size_mm: float
    min_gap_mm: float

    def metrics(self) -> dict[tuple[str, float | None], float]:
        """Every value by (metric, window side)."""
        return {
            **{("area_pct", side): value for side, value in self.area_pct.items()},
            **{("count", side): value for side, value in self.count.items()},
            ("max_size_mm", None): self.max_size_mm,
            ("min_gap_mm", None): self.min_gap_mm,
        }


@dataclass(frozen=True, slots=True)
class Metric:
    """One limit of one plate.

    raw: as measured. running: the largest of this and all lower levels (of a gap: the smallest). bent: by which share
    it had to be changed, infinite where raw is 0 and running is not. value: running, or None where it is dropped.
    """

    raw: float
    running: float
    bent: float

    @property
    def value(self) -> float | None:
        return None if self.bent > BENT_MOST else self.running


@dataclass(frozen=True, slots=True)
class LevelLimits:
    """The limits of one plate, by (metric, window side): ``area_pct``, ``count``, ``max_size_mm``, ``min_gap_mm``."""

    level: int
    metrics: Mapping[tuple[str, float | None], Metric]

    @property
    def usable(self) -> bool:
        """Whether at least one area is left to judge by; otherwise the outcome is NOT_EVALUABLE."""
        return any(metric.value is not None for (name, _), metric in self.metrics.items() if name == "area_pct")

    @property
    def dropped(self) -> tuple[tuple[str, float | None], ...]:
        """The metrics this plate sets no limit for."""
        return tuple(key for key, metric in self.metrics.items() if metric.value is None)

    @property
    def limits(self) -> Limits:
        """As the judge takes them; None for a dropped metric."""

        def of(name: str) -> dict[float, float | None]:
            return {side: one.value for (key, side), one in self.metrics.items() if key == name and side is not None}

        return Limits(
            area_pct=of("area_pct"),
            count=of("count"),
            max_size_mm=self.metrics[("max_size_mm", None)].value,
            min_gap_mm=self.metrics[("min_gap_mm", None)].value,
            dropped={key: one.running for key, one in self.metrics.items() if one.value is None},
        )


@dataclass(frozen=True, slots=True)
class SetLimits:
    """The limits of a whole set. source: ``masks``, or name and backend of the engine. from_cache: how many plates were
    not measured anew."""

    levels: Mapping[int, LevelLimits]
    source: str
    windows_mm: tuple[float, ...]
    from_cache: int = 0

    def limits(self) -> dict[int, Limits]:
        """By level, as the judge takes them."""
        return {level: one.limits for level, one in self.levels.items()}

    @property
    def remarks(self) -> tuple[str, ...]:
        """One sentence for each metric that had to be bent at all, the dropped ones saying so."""
        found = []
        for one in self.levels.values():
            for (name, side), metric in one.metrics.items():
                if metric.bent > 0.0:
                    where = name if side is None else f"{name} at {side:g} mm"
                    share = f"by {100 * metric.bent:.0f} %" if metric.bent < inf else "from nothing"
                    what = "dropped" if metric.value is None else "raised to the level below"
                    if name == "min_gap_mm" and metric.value is not None:
                        what = "lowered to the level below"
                    found.append(f"plate {one.level}: {where} had to be bent {share}: {what}")
            if not one.usable:
                found.append(f"plate {one.level}: no area is left to judge by: NOT_EVALUABLE")
        return tuple(found)


def bent_limits(measured: Mapping[int, PlateValues]) -> dict[int, LevelLimits]:
    """Make measured values monotone over the level, as judging.md's reference section asks. Pure.

    Areas, counts and sizes may only grow with the level, gaps only shrink. A gap is bent by the share that the limit
    moved; where a lower level showed two indications and this one does not, it is bent without end and dropped.
    """
    running: dict[tuple[str, float | None], float] = {}
    levels = {}
    for level in sorted(measured):
        metrics = {}
        for key, raw in measured[level].metrics().items():
            gap = key[0] == "min_gap_mm"
            before = running.get(key, inf if gap else 0.0)
            running[key] = min(before, raw) if gap else max(before, raw)
            small, large = (running[key], raw) if gap else (raw, running[key])
            bent = 0.0 if small == large else (large / small - 1.0 if small > 0.0 else inf)
            metrics[key] = Metric(raw, running[key], bent)
        levels[level] = LevelLimits(level, metrics)
    return levels


def plate_values(found: TypeMeasurement) -> PlateValues:
    """The worst-window values of one measured type. ``measure`` must have been asked for its spacing."""
    return PlateValues(
        area_pct={one.side_mm: one.area_pct.value for one in found.windows},
        count={one.side_mm: one.count.value for one in found.windows},
        max_size_mm=found.max_size_mm.value,
        min_gap_mm=inf if found.min_gap_mm is None else found.min_gap_mm.value,
    )


def measure_limits(
    engine: Engine | None,
    reference: ReferenceSet,
    *,
    windows_mm: Sequence[float],
    min_indication_mm: float = 0.0,
    working_mm_per_px: float | None = None,
    cache: Path | None = None,
) -> SetLimits:
    """Measure every plate and make the limits monotone.

    Parameters
    ----------
    engine : what looks at the plates; None takes the set's exact masks.
    windows_mm, min_indication_mm : the rule's.
    working_mm_per_px : the coarsest scale of part and references; a finer plate is area-averaged down to it.
    cache : folder for measured values (``default_cache_folder``); None measures always. A folder that cannot be used is
        no error: then every plate is measured.

    Raises EngineError when a plate cannot be inspected by this engine, ConfigError for masks that are not there.
    """
    if engine is None and not reference.has_masks:
        raise ConfigError(f"{reference.folder}: has no exact masks", hint="let an engine measure this set")
    windows = tuple(float(side) for side in windows_mm)
    store = None if cache is None else _Store(cache)
    measured, hits = {}, 0
    for level, image in reference.images.items():
        key = _key(engine, reference, image, windows, min_indication_mm, working_mm_per_px)
        values = None if store is None else store.get(key)
        if values is None:
            values = _measure_plate(engine, reference, image, windows, min_indication_mm, working_mm_per_px)
            if store is not None:
                store.put(key, values)
        else:
            hits += 1
        measured[level] = values
    source = "masks" if engine is None else f"{engine.name} ({engine.backend})"
    return SetLimits(bent_limits(measured), source, windows, hits)


def is_finer(scale: Scale, coarse_mm_per_px: float) -> bool:
    """Whether a picture at ``scale`` has to be averaged down to be looked at like one of ``coarse_mm_per_px``."""
    return min(scale.both) < coarse_mm_per_px * (1.0 - _SAME_SCALE)


def downscaled(pixels: NDArray[Any], scale: Scale, coarse_mm_per_px: float) -> tuple[NDArray[Any], Scale]:
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


def _measure_plate(
    engine: Engine | None, reference: ReferenceSet, image: ReferenceImage, windows_mm: tuple[float, ...],
    min_indication_mm: float, working_mm_per_px: float | None,
) -> PlateValues:  # fmt: skip
    name, scale = reference.discontinuity, reference.scale
    coarse = working_mm_per_px if working_mm_per_px is not None and is_finer(scale, working_mm_per_px) else None
    coverage: NDArray[np.float32] | None
    types: tuple[str, ...]
    alike: tuple[tuple[str, ...], ...] = ()
    if engine is None:
        labels, coverage, types = reference.labels(image.level), None, (name,)
        if coarse is not None:
            averaged, scale = downscaled(labels.astype(np.float32), scale, coarse)
            # Pixels that are mostly sound are left out: rather a smaller limit than a larger one.
            coverage = np.clip(averaged, 0.0, 1.0)
            labels = (coverage >= 0.5).astype(np.uint8)
    else:
        pixels = image.pixels
        if coarse is not None:
            pixels, scale = downscaled(pixels, scale, coarse)
        seen = see(engine, pixels, mm_per_px=scale.both, polarity=reference.polarity)
        alike = engine.bundle.groups
        if seen.refusals:
            raise EngineError(f"{image.path}: {seen.refusals[0].text}", hint="the reference itself must be inspectable")
        labels, coverage, types = seen.labels, seen.coverage, seen.type_names
    found = measure(
        labels,
        coverage,
        types,
        scale,
        {name: windows_mm},
        min_indication_mm={name: min_indication_mm},
        spacing=[name],
        alike=alike,
    )
    return plate_values(found.of(name, windows_mm))


# ---- the cache -----------------------------------------------------------------------------------------------------


def default_cache_folder() -> Path | None:
    """``$XDG_CACHE_HOME/edge-daemon``, or ``~/.cache/edge-daemon``; None where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base and Path(base).is_absolute():
        return Path(base) / "edge-daemon"
    try:
        return Path.home() / ".cache" / "edge-daemon"
    except RuntimeError:
        return None


@lru_cache(maxsize=1)
def _code_version() -> str:
    """Hash of the code between a plate's file and its values, and of the libraries that calculate for it."""
    digest = hashlib.sha256(__version__.encode())
    sources = [*_PACKAGE.glob("judge/*.py"), *_PACKAGE.glob("segment/*.py"), *_PACKAGE.glob("references/*.py")]
    for path in [*sorted(sources), _PACKAGE / "images.py"]:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    for library in ("numpy", "opencv-python-headless", "onnxruntime"):
        try:
            digest.update(f"{library} {version(library)}".encode())
        except PackageNotFoundError:
            digest.update(f"{library} by other means".encode())
    return digest.hexdigest()


def _key(
    engine: Engine | None, reference: ReferenceSet, image: ReferenceImage, windows_mm: tuple[float, ...],
    min_indication_mm: float, working_mm_per_px: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Everything that the values of a plate depend on."""
    if engine is None:
        looked_by: dict[str, Any] = {"mask": image.mask_sha256}
    else:
        thresholds = engine.bundle.thresholds
        looked_by = {
            "image": image.sha256,
            "polarity": reference.polarity,
            "bits_stored": reference.document.get("bits_stored"),
            "engine": engine.bundle.sha256,
            "thresholds": hashlib.sha256(repr(thresholds).encode()).hexdigest(),
            "backend": engine.backend,
        }
    return {
        **looked_by,
        "code": _code_version(),
        "type": reference.discontinuity,
        "mm_per_px": list(reference.scale.both),
        "working_mm_per_px": working_mm_per_px,
        "windows_mm": list(windows_mm),
        "min_indication_mm": min_indication_mm,
    }


class _Store:
    """Measured values in small files, one a plate. Limits decide over parts: an entry is believed only if it is whole,
    for exactly this key, and in a folder that belongs to this user and that nobody else may write to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "limits"
        self._usable = True

    def get(self, key: Mapping[str, Any]) -> PlateValues | None:
        path = self._path(key)
        try:
            for one in (self._folder, path):
                status = one.lstat()
                if status.st_uid != os.geteuid() or status.st_mode & 0o022 or stat.S_ISLNK(status.st_mode):
                    return None
            entry = json.loads(path.read_bytes())
            if entry["key"] != key or entry["sha256"] != _seal(key, entry["values"]):
                return None
            return _values(entry["values"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # An entry that cannot be read is an entry that is not there: the plate is measured.
            return None

    def put(self, key: Mapping[str, Any], values: PlateValues) -> None:
        if not self._usable:
            return
        document = _document(values)
        entry = {"key": key, "values": document, "sha256": _seal(key, document)}
        try:
            make_folder(self._folder.parent)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path = self._path(key)
            write_bytes_atomic(path, json.dumps(entry, allow_nan=False).encode())
            path.chmod(0o600)
        except (StorageError, OSError) as error:
            self._usable = False
            _log.info("measured limits are not cached: %s", error)

    def _path(self, key: Mapping[str, Any]) -> Path:
        return self._folder / (hashlib.sha256(_canonical(key)).hexdigest() + ".json")


def _canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, allow_nan=False).encode()


def _seal(key: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical([key, values])).hexdigest()


def _document(values: PlateValues) -> dict[str, Any]:
    """As JSON: floats to their last bit, window sides as pairs, an infinite gap as null."""
    return {
        "area_pct": [[side, value] for side, value in values.area_pct.items()],
        "count": [[side, value] for side, value in values.count.items()],
        "max_size_mm": values.max_size_mm,
        "min_gap_mm": values.min_gap_mm if isfinite(values.min_gap_mm) else None,
    }


def _values(document: Mapping[str, Any]) -> PlateValues:
    gap = document["min_gap_mm"]
    return PlateValues(
        area_pct={float(side): float(value) for side, value in document["area_pct"]},
        count={float(side): float(value) for side, value in document["count"]},
        max_size_mm=float(document["max_size_mm"]),
        min_gap_mm=inf if gap is None else float(gap),
    )
