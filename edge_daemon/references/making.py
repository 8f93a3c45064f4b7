"""Demonstration sets from the simulator: eight plates of one discontinuity with their exact masks, sealed. For trials
and for the demo; never an acceptance standard."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import EdgeError, StorageError, UsageError
from ..images import make_folder, write_bytes_atomic, write_png_atomic
from ..judge import Scale, measure
from ..simulator import CASTING_TYPES, Radiograph, plate_exposure, reference_plate
from .examining import WINDOWS_MM, metrics_document
from .limits import PlateValues, plate_values
from .sets import METALS, load_reference_set

__all__ = ["PlannedSet", "make_set", "make_sets", "planned_set"]

_MM_PER_PX = 0.1
_SIZE_PX = (512, 512)
_EDITION = "DEMO 1 (fictional)"
_ATTEMPTS, _ROUNDS = 60, 20
# Where the search begins: elsewhere than at 0, too many of these are lone threads, which nobody tells from cracks.
_FIRST_ROUND = {"shrinkage_filamentary": 4}

# From one level to the next: how much more of the worst windows, how much larger the largest may be. Above the most,
# one level would take the steps of the next two.
_AREA_STEP = (1.12, 2.1)
_SIZE_STEP = (1.03, 1.6)
# The largest grains of the simulator look like cavities: many smaller ones instead; mm at level 8.
_LARGEST_MM = {"foreign_less_dense": 2.8}
# Grains nearer than this are one to an engine, which makes the largest of a plate a matter of chance.
_LEAST_GAP_MM = {"foreign_more_dense": 0.35}
# Types that are separate bodies come closer with the level: mean distance to the nearest one, mm, at levels 1 and 8.
_SPACING_MM = {
    "gas_hole": (14.0, 7.0),
    "gas_porosity_round": (6.0, 2.3),
    "gas_porosity_elongated": (9.5, 3.1),
    "foreign_less_dense": (9.5, 4.5),
    "foreign_more_dense": (7.0, 2.6),
}


@dataclass(frozen=True, slots=True)
class PlannedSet:
    """What is to be made. Frozen and small: it travels to another process."""

    metal: str
    thickness_mm: float
    discontinuity: str
    seed: int = 0
    bits: int = 8

    @property
    def command(self) -> str:
        """How it is made again."""
        return (
            f"edge-daemon references make --metal {self.metal} --thickness {self.thickness_mm:g}mm"
            f" --discontinuity {self.discontinuity} --seed {self.seed}" + (" --bits 16" if self.bits == 16 else "")
        )


def planned_set(metal: str, thickness_mm: float, discontinuity: str, *, seed: int = 0, bits: int = 8) -> PlannedSet:
    """A set that the simulator can make, or UsageError."""
    if metal not in METALS:
        raise UsageError(f"no plates of {metal!r}", hint=", ".join(METALS))
    if discontinuity not in CASTING_TYPES:
        raise UsageError(f"{discontinuity!r} is no casting discontinuity", hint=", ".join(CASTING_TYPES))
    if seed < 0:
        raise UsageError(f"seed {seed} is negative", hint="0 or more")
    plate_exposure(metal, thickness_mm, bits)
    return PlannedSet(metal, thickness_mm, discontinuity, seed, bits)


def make_set(folder: Path, planned: PlannedSet) -> str:
    """Write 1.png to 8.png, their masks and manifest.json into ``folder``. Returns the set's SHA-256.

    The same bytes from the same release. The manifest comes last, so that a half-made set is no set and is made again;
    a set that is there and verifies is left as it is. Raises UsageError for a folder with another set, IntegrityError
    for one that is broken, StorageError.
    """
    if (folder / "manifest.json").exists():
        there = load_reference_set(folder)
        made_by = there.document.get("made_by")
        if made_by != planned.command:
            raise UsageError(f"{folder} holds another set: {made_by}", hint="name a new folder")
        return there.sha256
    own = {f"{level}{kind}.png" for level in range(1, 9) for kind in ("", ".mask")}
    strange = [path.name for path in folder.iterdir() if path.name not in own] if folder.is_dir() else []
    if strange:
        raise StorageError(f"{folder} is not empty: {strange[0]}", hint="name a new folder")
    plates = _graded_plates(planned)
    make_folder(folder)
    files, masks = {}, {}
    for level, (plate, _) in plates.items():
        path, mask_path = folder / f"{level}.png", folder / f"{level}.mask.png"
        write_png_atomic(path, plate.pixels)
        write_png_atomic(mask_path, np.where(plate.labels > 0, np.uint8(255), np.uint8(0)))
        files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        masks[mask_path.name] = hashlib.sha256(mask_path.read_bytes()).hexdigest()
    exposure = plate_exposure(planned.metal, planned.thickness_mm, planned.bits)
    manifest = {
        "schema": 1,
        "set": "demo",
        "edition": _EDITION,
        "metal": planned.metal,
        "thickness_mm": planned.thickness_mm,
        "discontinuity": planned.discontinuity,
        "levels": 8,
        "form": "digital",
        "polarity": "bright_void",
        "mm_per_px": _MM_PER_PX,
        "u_mm_per_px": 0.0,
        "unit_area_mm": [side * _MM_PER_PX for side in _SIZE_PX],
        "licence": "Apache-2.0",
        "made_by": planned.command,
        "software": f"edge_daemon {__version__}",
        "remark": (
            "simulated, for demonstration: no acceptance standard. Attenuation of pure"
            f" {'iron' if planned.metal == 'steel' else planned.metal} after NIST XCOM, {exposure.tube_kv:g} kV,"
            " 2 mm Al filter; alloying elements, geometry and film are not simulated"
        ),
        "files": files,
        "masks": masks,
        "metrics": {str(level): _metrics(grade) for level, (_, grade) in plates.items()},
    }
    raw = (json.dumps(manifest, indent=1) + "\n").encode()
    write_bytes_atomic(folder / "manifest.json", raw)
    return hashlib.sha256(raw).hexdigest()


def make_sets(root: Path, names: Iterable[str], *, seed: int = 0, bits: int = 8, workers: int = 2) -> Iterator[str]:
    """Make sets called ``<set>/<metal>/<thickness>/<discontinuity>`` below ``root``; each name as it is done.

    Raises UsageError for a name that says no such thing, before anything is made. What was made before an error stays
    and is not made again.
    """
    planned = {name: _named(name, seed, bits) for name in names}
    if workers < 2 or len(planned) < 2:
        for name, one in planned.items():
            make_set(root / name, one)
            yield name
        return
    # Spawned, not forked: OpenCV's and the runtime's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        pending = {pool.submit(make_set, root / name, one): name for name, one in planned.items()}
        try:
            for done in as_completed(pending):
                done.result()
                yield pending[done]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _named(name: str, seed: int, bits: int) -> PlannedSet:
    from ..units import length_mm

    parts = name.split("/")
    if len(parts) != 4 or any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"reference {name!r} cannot be made", hint="<set>/<metal>/<thickness>/<discontinuity>")
    if parts[0] != "demo":
        raise UsageError(
            f"reference {name!r} is not the simulator's to make", hint="a licensed set: edge-daemon references import"
        )
    return planned_set(parts[1], length_mm(parts[2]), parts[3], seed=seed, bits=bits)


def _metrics(grade: _Grade) -> dict[str, Any]:
    """What the manifest says of a plate, all from its exact mask."""
    document = {"aggregate_pct": float(f"{grade.whole_pct:.6g}"), **metrics_document(grade.values)}
    if grade.spacing_mm is not None:
        document["mean_spacing_mm"] = float(f"{grade.spacing_mm:.6g}")
    return document


# ---- grading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Grade:
    """A plate, measured on its exact mask. whole_pct: area of the whole plate; spacing_mm: mean distance to the nearest
    neighbour, for types that are separate bodies."""

    values: PlateValues
    whole_pct: float
    spacing_mm: float | None


def _graded_plates(planned: PlannedSet) -> dict[int, tuple[Radiograph, _Grade]]:
    """Eight plates, each strictly graver than the one below: worst windows, largest size and, for separate bodies,
    nearness. Arrangements of the same grade are tried in a fixed order until one is."""
    first = _FIRST_ROUND.get(planned.discontinuity, 0)
    for start in range(first, first + _ROUNDS):
        plates: dict[int, tuple[Radiograph, _Grade]] = {}
        below: _Grade | None = None
        for level in range(1, 9):
            for attempt in range(start * _ATTEMPTS, (start + 1) * _ATTEMPTS):
                plate = reference_plate(
                    planned.discontinuity, level, planned.seed, size_px=_SIZE_PX, mm_per_px=_MM_PER_PX,
                    metal=planned.metal, thickness_mm=planned.thickness_mm, attempt=attempt, bits=planned.bits,
                    largest_mm=_LARGEST_MM.get(planned.discontinuity),
                )  # fmt: skip
                grade = _next_grade(planned.discontinuity, level, plate, below)
                if grade is not None:
                    plates[level], below = (plate, grade), grade
                    break
            else:
                break
        if len(plates) == 8:
            return plates
    raise EdgeError(f"no eight graded plates were found for {planned.command}", hint="take another seed")


def _next_grade(type_id: str, level: int, plate: Radiograph, below: _Grade | None) -> _Grade | None:
    """The plate's grade, or None where it is not the next graver one, or already as grave as the one after.

    What costs least is looked at first: most arrangements are turned down.
    """
    whole_pct = 100.0 * float((plate.labels > 0).mean())
    if below is not None and whole_pct <= below.whole_pct:
        return None
    scale = Scale(plate.mm_per_px, plate.mm_per_px)
    found = measure(plate.labels, None, CASTING_TYPES, scale, {type_id: WINDOWS_MM}, spacing=[type_id])
    values = plate_values(found.of(type_id, WINDOWS_MM))
    if values.min_gap_mm < _LEAST_GAP_MM.get(type_id, 0.0):
        return None
    if below is not None:
        steps = [values.area_pct[side] / below.values.area_pct[side] for side in WINDOWS_MM]
        size = values.max_size_mm / below.values.max_size_mm
        if not all(_AREA_STEP[0] <= step <= _AREA_STEP[1] for step in steps):
            return None
        if not _SIZE_STEP[0] <= size <= _SIZE_STEP[1]:
            return None
    if type_id not in _SPACING_MM:
        return _Grade(values, whole_pct, None)
    spacing_mm = _mean_spacing_mm(plate)
    first, last = _SPACING_MM[type_id]
    # The last levels must still find room to be closer.
    if spacing_mm < 0.8 * first * (last / first) ** ((level - 1) / 7):
        return None
    if below is not None and below.spacing_mm is not None and spacing_mm >= below.spacing_mm:
        return None
    return _Grade(values, whole_pct, spacing_mm)


def _mean_spacing_mm(plate: Radiograph) -> float:
    """Mean over the indications of the distance to the nearest other one, between pixel centres."""
    count, components = cv2.connectedComponents((plate.labels > 0).astype(np.uint8), connectivity=8)
    if count < 3:
        return float("inf")
    marked = components > 0
    nearest: list[float] = []
    for number in range(1, count):
        own = components == number
        others: NDArray[np.uint8] = (~(marked & ~own)).astype(np.uint8)
        away = cv2.distanceTransform(others, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        nearest.append(float(away[own].min()))
    return float(np.mean(nearest)) * plate.mm_per_px
