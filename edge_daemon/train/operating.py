"""Misses against false alarms: one network at every seed threshold at once, two networks at the same rate.

A visible indication is found at a seed threshold when a quarter of its visible pixels lie in regions that reach it; a
false alarm is a region that touches no truth. So every indication has one level at and below which it is found, every
false region one at and below which it is raised, and everything else is counting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..segment.bundle import Thresholds
from ..segment.prepare import prepare
from ..segment.protocol import Engine
from ..segment.see import coverage_from_logits
from ..segment.tiling import run_tiled
from ..simulator import CASTING_TYPES, Radiograph
from .calibrate import FOUND_SHARE, near_truth
from .figures import proportion
from .pictures import IGNORED, visible_labels
from .statistics import poisson_interval

__all__ = [
    "HIGHEST_SEED",
    "FalseLevel",
    "Levels",
    "Looked",
    "Sighting",
    "at_equal_alarms",
    "at_seed",
    "levels",
    "look_at",
    "seed_for",
]

#: As high as a seed threshold may be set.
HIGHEST_SEED = 0.999_999
_SIZES_PX = (6.0, 12.0, 24.0)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One visible indication. type: its name. diameter_px: of the circle of its visible area. level: the highest seed
    threshold at which it is found, 0 where it never is. picture: number of its picture."""

    type: str
    diameter_px: float
    level: float
    picture: int


@dataclass(frozen=True, slots=True)
class FalseLevel:
    """One region that touches no truth: its peak coverage, and the number of its picture."""

    level: float
    picture: int


@dataclass(frozen=True, slots=True)
class Levels:
    """A set of pictures seen by one network, ready for any seed threshold from ``grow`` up."""

    grow: float
    pictures: int
    sightings: tuple[Sighting, ...]
    false: tuple[FalseLevel, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """What one network makes of one picture, before any threshold. logits: float16 (H, W). visible: uint8 (H, W), see
    ``visible_labels``. near: bool (H, W), on or beside any truth."""

    logits: NDArray[np.float16]
    visible: NDArray[np.uint8]
    near: NDArray[np.bool_]


def look_at(engine: Engine, pictures: Iterable[Radiograph]) -> list[Looked]:
    """Show each picture to the engine as the line does; about 4 bytes a pixel are kept."""
    spec = engine.bundle.input
    looked = []
    for picture in pictures:
        tensors = run_tiled(engine.infer, prepare(picture.pixels, spec.views, spec.local_sigma_px), spec)
        looked.append(Looked(tensors.defect[0, 0].astype(np.float16), visible_labels(picture), near_truth(picture)))
    return looked


def levels(looked: Sequence[Looked], thresholds: Thresholds) -> Levels:
    """``thresholds`` gives calibration, grow and the smallest region; its seed threshold does not matter."""
    sightings: list[Sighting] = []
    false: list[FalseLevel] = []
    for number, one in enumerate(looked):
        coverage = coverage_from_logits(one.logits.astype(np.float32), thresholds)
        _count(one, coverage, thresholds, number, sightings, false)
    return Levels(thresholds.grow, len(looked), tuple(sightings), tuple(false))


def _count(
    one: Looked, coverage: Any, thresholds: Thresholds, number: int,
    sightings: list[Sighting], false: list[FalseLevel],
) -> None:  # fmt: skip
    grown = (coverage >= np.float32(thresholds.grow)).astype(np.uint8)
    count, components, figures, _ = cv2.connectedComponentsWithStats(grown, connectivity=8)
    flat = components.reshape(-1)
    peak = np.zeros(count, np.float32)
    np.maximum.at(peak, flat, coverage.reshape(-1))
    peak[figures[:, cv2.CC_STAT_AREA] < thresholds.min_region_px] = 0.0
    peak[0] = 0.0
    near = np.bincount(flat[one.near.reshape(-1)], minlength=count) > 0
    false += [FalseLevel(float(value), number) for value in peak[~near] if value > 0.0]
    visible = one.visible
    seen = (visible > 0) & (visible != IGNORED)
    spots, spot_map = cv2.connectedComponents(seen.astype(np.uint8), connectivity=8)
    at = np.flatnonzero(seen)
    spot_of = spot_map.reshape(-1)[at]
    for spot in range(1, spots):
        own = at[spot_of == spot]
        values = np.sort(peak[flat[own]])[::-1]
        # Found while a quarter of the pixels lie in regions at least this high.
        level = float(values[max(math.ceil(FOUND_SHARE * len(own)) - 1, 0)])
        kind = CASTING_TYPES[int(np.bincount(visible.reshape(-1)[own]).argmax()) - 1]
        sightings.append(Sighting(kind, 2.0 * math.sqrt(len(own) / math.pi), level, number))


def seed_for(seen: Levels, rate: float) -> float:
    """Lowest seed threshold at which false alarms stay under ``rate`` a picture, and above all that were seen where the
    pictures are too few to show such a rate.

    With n pictures and rate n < 1, none at all may be raised; how much higher the next one might reach is
    extrapolated: above a level the peaks' logits thin out exponentially, with the mean excess of the strongest of them
    (Pickands 1975, shape 0). Between grow and 0.999999.
    """
    strength = np.sort([_logit(one.level) for one in seen.false])[::-1]
    wanted = rate * seen.pictures
    if len(strength) <= wanted:
        return seen.grow
    allowed = math.floor(wanted + 1e-9)
    threshold = strength[allowed] + 1e-3
    top = min(len(strength), 12)
    if wanted < 1.0 and top >= 4:
        base = strength[top - 1]
        excess = float(np.mean(strength[: top - 1] - base))
        threshold = max(threshold, base + excess * math.log(top / max(wanted, 1e-6)))
    value = 1.0 / (1.0 + math.exp(-min(threshold, 40.0)))
    return float(min(max(math.ceil(value * 1e7) / 1e7, seen.grow), HIGHEST_SEED))


def _logit(value: float) -> float:
    inside = min(max(value, 1e-9), 1.0 - 1e-9)
    return math.log(inside / (1.0 - inside))


def at_seed(seen: Levels, seed: float) -> dict[str, Any]:
    """Misses and false alarms at one seed threshold: with 95 % intervals, by type and by size.

    Of every picture and type one indication counts, drawn at random but the same every time: the pores of one field are
    found or missed together.
    """
    drawn = _drawn(seen.sightings)
    false = sum(one.level >= seed for one in seen.false)
    low, high = poisson_interval(false, float(seen.pictures))
    return {
        "seed": round(seed, 7),
        "missed": _missed(drawn, seed),
        "by_type": _grouped(drawn, seed, lambda one: one.type),
        "by_size_px": _grouped(drawn, seed, _size_class),
        "false_alarms": {
            "n": false, "pictures": seen.pictures, "per_picture": round(false / seen.pictures, 4),
            "ci95": [round(low, 4), round(high, 4)],
        },
    }  # fmt: skip


def at_equal_alarms(seen: Levels, per_picture: float) -> dict[str, Any]:
    """``at_seed`` at the lowest threshold with at most this many false alarms a picture, measured on these pictures."""
    strength = np.sort([one.level for one in seen.false])[::-1]
    allowed = math.floor(per_picture * seen.pictures + 1e-9)
    if len(strength) <= allowed:
        return at_seed(seen, seen.grow)
    return at_seed(seen, float(np.nextafter(np.float32(strength[allowed]), np.float32(2.0))))


def _drawn(sightings: Sequence[Sighting]) -> list[Sighting]:
    rng = np.random.default_rng(0)
    together: dict[tuple[int, str], list[Sighting]] = {}
    for one in sightings:
        together.setdefault((one.picture, one.type), []).append(one)
    # The draw must not depend on the network: sightings come in the order of the truth.
    return [members[int(rng.integers(0, len(members)))] for members in together.values()]


def _missed(sightings: Sequence[Sighting], seed: float) -> dict[str, Any]:
    return proportion(sum(one.level < seed for one in sightings), len(sightings))


def _size_class(one: Sighting) -> str:
    for bound in _SIZES_PX:
        if one.diameter_px < bound:
            return f"under {bound:g}"
    return f"{_SIZES_PX[-1]:g} and more"


def _grouped(sightings: Sequence[Sighting], seed: float, key: Callable[[Sighting], str]) -> dict[str, Any]:
    names = sorted({key(one) for one in sightings}, key=lambda name: (len(name), name))
    return {name: _missed([one for one in sightings if key(one) == name], seed) for name in names}
