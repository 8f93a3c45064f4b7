"""Pictures with their truth: random castings for training, the demo's conveyor part, and graded reference plates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..records import read_only
from . import parts
from .castings import FAMILIES, UNSEEN_FAMILIES, random_casting
from .discontinuities import CASTING_TYPES, Piece, ball, draw, random_size_mm
from .physics import METALS, MODES, UNSEEN_MODES, Exposure, expose, random_exposure

__all__ = ["CONVEYOR_REFERENCE", "PlacedDefect", "PlannedDefect", "Radiograph", "Structure", "conveyor_part",
           "plate_area_pct", "plate_exposure", "reference_plate", "simulate"]  # fmt: skip

Structure = Literal["random", "casting", "plate", "housing", "block", "wheel", "arms", "tubes", "lattice", "pockets",
                    "valve_body", "gear"]  # fmt: skip

#: What the conveyor's parts are meant to be judged against: type and level of a reference plate.
CONVEYOR_REFERENCE = ("gas_porosity_round", 5)

# Metal thinner than this carries no discontinuity: it is outline, not wall.
_LEAST_WALL_MM = 0.6
# A picture of which more is black or burnt out is taken again, as an operator would, up to so many times.
_MOST_CLIPPED, _RETAKES = 0.5, 4
# A void may not reach through: its path stays below this share of the metal at every pixel.
_MOST_OF_WALL = 0.9


@dataclass(frozen=True, slots=True)
class PlannedDefect:
    """What to plant. size_mm: largest extent (of the field for porosity). depth_mm: largest path change along the ray;
    None draws one. at_px: (x, y) of its centre; None chooses a place in the metal."""

    type: str
    size_mm: float
    depth_mm: float | None = None
    at_px: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class PlacedDefect:
    """What was planted. depth_mm: largest path change really made, mm of aluminium. bbox_px: x, y, w, h of its label
    pixels. area_mm2: the pixels it added to its label, times the
    pixel area."""

    type: str
    size_mm: float
    depth_mm: float
    bbox_px: tuple[int, int, int, int]
    area_mm2: float


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One simulated picture and the truth about it; arrays are read-only.

    pixels: uint8 or uint16 (H, W), voids bright. labels: uint8 (H, W), 0 sound, k + 1 where ``CASTING_TYPES[k]`` casts
    its shadow. signal, noise: float32 (H, W) in grey levels of an 8-bit picture: the noise-free change made by the
    discontinuities and the standard deviation of the noise, which together say what can be seen at all; grain: how
    that noise is correlated, as in ``physics.Exposed``.
    """

    pixels: NDArray[Any]
    labels: NDArray[np.uint8]
    mm_per_px: float
    defects: tuple[PlacedDefect, ...]
    signal: NDArray[np.float32]
    noise: NDArray[np.float32]
    grain: tuple[float, float] = (0.0, 0.0)


class _Bench:
    """A part being spoilt: metal, what is missing from it, and the labels."""

    def __init__(self, thickness_mm: NDArray[np.float32], mm_per_px: float) -> None:
        self.thickness_mm = thickness_mm
        self.size_px: tuple[int, int] = (thickness_mm.shape[0], thickness_mm.shape[1])
        self.mm_per_px = mm_per_px
        self.missing_mm = np.zeros_like(thickness_mm)
        self.labels = np.zeros(thickness_mm.shape, np.uint8)
        self.defects: list[PlacedDefect] = []
        self._inside_px: NDArray[np.float32] | None = None

    def inside_px(self, wall_mm: float) -> NDArray[np.float32]:
        """How far from air each pixel lies; 0 where there is no metal worth the name."""
        if self._inside_px is None:
            solid = (self.thickness_mm >= max(_LEAST_WALL_MM, 0.2 * wall_mm)).view(np.uint8)
            self._inside_px = np.asarray(cv2.distanceTransform(solid, cv2.DIST_L2, 3), np.float32)
        return self._inside_px

    def plant(self, type_id: str, size_mm: float, pieces: Sequence[Piece], at_px: tuple[int, int]) -> float:
        """Take the pieces out of the metal around ``at_px`` (x, y); returns the labelled area in mm2, 0 if none."""
        label = CASTING_TYPES.index(type_id) + 1
        height, width = self.size_px
        boxes: list[tuple[int, int, int, int]] = []
        depth, count = 0.0, 0
        for piece in pieces:
            top, left = at_px[1] + piece.y_px, at_px[0] + piece.x_px
            bottom, right = top + piece.path_mm.shape[0], left + piece.path_mm.shape[1]
            y0, x0, y1, x1 = max(top, 0), max(left, 0), min(bottom, height), min(right, width)
            if y0 >= y1 or x0 >= x1:
                continue
            inner = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            outer = np.s_[y0:y1, x0:x1]
            metal = self.thickness_mm[outer]
            solid = metal >= _LEAST_WALL_MM
            path = np.where(solid, piece.path_mm[inner], np.float32(0.0))
            mask = piece.mask[inner] & solid
            if not mask.any():
                continue
            missing = self.missing_mm[outer]
            np.minimum(missing + path, metal * np.float32(_MOST_OF_WALL), out=missing)
            # Overlapping pieces are one shadow.
            count += int((mask & (self.labels[outer] != label)).sum())
            self.labels[outer][mask] = label
            depth = max(depth, float(np.abs(path).max()))
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            boxes.append((x0 + int(columns[0]), y0 + int(rows[0]), x0 + int(columns[-1]) + 1, y0 + int(rows[-1]) + 1))
        if not boxes:
            return 0.0
        left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
        right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
        area = count * self.mm_per_px**2
        self.defects.append(PlacedDefect(type_id, size_mm, depth, (left, top, right - left, bottom - top), area))
        return area

    def take(self, rng: np.random.Generator, exposure: Exposure) -> Radiograph:
        exposed = expose(rng, self.thickness_mm, self.missing_mm, exposure)
        return Radiograph(read_only(exposed.pixels), read_only(self.labels), self.mm_per_px, tuple(self.defects),
                          read_only(exposed.signal), read_only(exposed.noise), exposed.grain)  # fmt: skip


def _check(size_px: tuple[int, int], mm_per_px: float) -> None:
    if min(size_px) < 16 or max(size_px) > 8192:
        raise UsageError(f"{size_px[0]} x {size_px[1]} px cannot be simulated", hint="16 to 8192 px a side")
    if not 0.01 <= mm_per_px <= 1.0:
        raise UsageError(f"a scale of {mm_per_px} mm/px cannot be simulated", hint="0.01 to 1 mm/px")


def simulate(
    seed: int, *, size_px: tuple[int, int] = (512, 512), mm_per_px: float = 0.1,
    defects: Sequence[PlannedDefect] | None = None, structure: Structure = "random", exposure: Exposure | None = None,
    mode: str | None = None, metal: str = "aluminum", bits: int = 8, polarity: str = "bright_void",
) -> Radiograph:  # fmt: skip
    """One radiograph, the same for the same arguments on the same NumPy and OpenCV.

    size_px: (height, width). defects: what to plant; None draws none to six of any type. structure: ``plate`` a flat
    plate, ``housing`` the conveyor's part in any pose, one of ``castings.FAMILIES`` or ``UNSEEN_FAMILIES``, ``casting``
    one of FAMILIES, ``random`` any but the unseen. mode, metal: of ``random_exposure``, and bits, polarity: where no
    exposure is given. Raises UsageError for a size, scale, structure, mode, metal or type that cannot be simulated.
    """
    _check(size_px, mm_per_px)
    _check_word("mode", mode, (None, *MODES, *UNSEEN_MODES))
    _check_word("metal", metal, METALS)
    _check_word("depth", bits, (8, 12, 16))
    _check_word("polarity", polarity, ("bright_void", "dark_void"))
    rng = np.random.default_rng(seed)
    if structure == "random":
        structures: tuple[Structure, ...] = ("casting", "plate", "housing")
        structure = structures[int(rng.choice(3, p=[0.84, 0.08, 0.08]))]
    if structure == "plate":
        wall = float(rng.uniform(4.0, 14.0))
        thickness = parts.flat_plate(size_px, wall)
    elif structure == "housing":
        wall = parts.HOUSING_WALL_MM
        thickness = _posed_housing(rng, size_px, mm_per_px)
    elif structure == "casting":
        thickness, wall = random_casting(rng, size_px, mm_per_px)
    elif structure in FAMILIES or structure in UNSEEN_FAMILIES:
        thickness, wall = random_casting(rng, size_px, mm_per_px, structure)
    else:
        known = ("random", "casting", "plate", "housing", *FAMILIES, *UNSEEN_FAMILIES)
        raise UsageError(f"no structure {structure!r} can be simulated", hint=", ".join(known))
    bench = _Bench(thickness, mm_per_px)
    if defects is None:
        _plant_at_random(rng, bench, wall)
    else:
        for planned in defects:
            at = planned.at_px or _some_metal(rng, bench, wall)
            if at is not None:
                _plant(rng, bench, planned, at)
    if exposure is not None:
        return bench.take(rng, exposure)
    for _ in range(_RETAKES):
        picture = bench.take(rng, replace(random_exposure(rng, wall, mode, metal), bits=bits, polarity=polarity))
        full = np.iinfo(picture.pixels.dtype).max
        if float(((picture.pixels == 0) | (picture.pixels >= full - full // 256)).mean()) <= _MOST_CLIPPED:
            break
    return picture


def _check_word(what: str, word: object, words: tuple[object, ...]) -> None:
    if word not in words:
        known = ", ".join(str(one) for one in words if one is not None)
        raise UsageError(f"a {what} of {word!r} cannot be simulated", hint=known)


def _some_metal(
    rng: np.random.Generator, bench: _Bench, wall_mm: float, clear_px: float = 0.0
) -> tuple[int, int] | None:  # fmt: skip
    """(x, y) of a pixel with metal behind it, ``clear_px`` away from air; None where there is no such place."""
    solid = np.flatnonzero(bench.inside_px(wall_mm) > clear_px)
    if not len(solid):
        return None
    place, width = int(solid[int(rng.integers(0, len(solid)))]), bench.size_px[1]
    return place % width, place // width


def _plant(rng: np.random.Generator, bench: _Bench, planned: PlannedDefect, at_px: tuple[int, int]) -> None:
    x, y = min(max(at_px[0], 0), bench.size_px[1] - 1), min(max(at_px[1], 0), bench.size_px[0] - 1)
    metal = float(bench.thickness_mm[y, x])
    depth = planned.depth_mm if planned.depth_mm is not None else random_size_mm(planned.type, rng)[1] * metal
    bench.plant(planned.type, planned.size_mm, draw(planned.type, rng, planned.size_mm, depth, bench.mm_per_px), at_px)


# Scales at which the discontinuities' own measures (pores of half a millimetre) fill a plausible number of pixels.
_DRAWN_AT_MM_PER_PX = (0.08, 0.24)
# Larger than this it is no single indication of a casting that fills the picture.
_MOST_PX = 130.0
_CLEAR_PX = 14.0
# Depth as a share of the metal: as often a thirtieth as a half.
_DEPTH_SHARE = (0.03, 0.7)


def _plant_at_random(rng: np.random.Generator, bench: _Bench, wall_mm: float) -> None:
    """None to six discontinuities of any type; half of them near the limit of visibility.

    Their shapes are drawn at a scale of their own and then belong to the picture's: what is a pore of half a
    millimetre in a small casting is one of two in a large one that is seen from afar.
    """
    for _ in range(int(rng.choice(7, p=[0.24, 0.24, 0.2, 0.14, 0.09, 0.05, 0.04]))):
        kind = CASTING_TYPES[int(rng.integers(0, len(CASTING_TYPES)))]
        size = random_size_mm(kind, rng)[0]
        drawn_at = max(float(np.exp(rng.uniform(*np.log(_DRAWN_AT_MM_PER_PX)))), size / _MOST_PX)
        # A discontinuity lies in the metal: what reaches out into air far beyond its middle is a broken edge.
        at = _some_metal(rng, bench, wall_mm, min(0.35 * size / drawn_at, _CLEAR_PX))
        if at is None:
            continue
        share = float(np.exp(rng.uniform(*np.log(_DEPTH_SHARE))))
        if kind == "foreign_more_dense":
            share *= 2.5
        larger = bench.mm_per_px / drawn_at
        pieces = draw(kind, rng, size, share * float(bench.thickness_mm[at[1], at[0]]) / larger, drawn_at)
        pieces = [replace(piece, path_mm=piece.path_mm * np.float32(larger)) for piece in pieces]
        bench.plant(kind, size * larger, pieces, at)


def _posed_housing(rng: np.random.Generator, size_px: tuple[int, int], mm_per_px: float) -> NDArray[np.float32]:
    """The conveyor's part in any pose, mostly near a quarter turn, and not quite in its own size."""
    # It fills the picture, whatever the scale.
    zoom = float(rng.uniform(0.8, 1.35)) * max(1.0, max(size_px) * mm_per_px / 60.0)
    shift = rng.uniform(-0.35, 0.35, 2) * max(0.0, 54.0 * zoom - 0.5 * max(size_px) * mm_per_px)
    if rng.random() < 0.7:
        turn = float(rng.choice([0, 90, 180, 270]) + rng.normal(0.0, 4.0))
    else:
        turn = float(rng.uniform(0, 360))
    return parts.housing(size_px, mm_per_px, shift_mm=(float(shift[0]), float(shift[1])), turn_deg=turn, zoom=zoom)


def conveyor_part(
    seed: int, kind: Literal["sound", "acceptable", "rejectable", "crack"], *, size_px: tuple[int, int] = (512, 512),
    mm_per_px: float = 0.1,
) -> Radiograph:  # fmt: skip
    """One housing as it comes down the conveyor: always the same design, small differences of pose and exposure.

    kind: ``sound`` nothing planted; ``acceptable`` 3 to 5 small, separate round pores in a loose group, well below the
    reference plate ``CONVEYOR_REFERENCE``; ``rejectable`` a field of round pores with at least three times the plate's
    worst 12.7 mm window; ``crack`` one crack of 8 to 15 mm. Everything lies in the 6 mm wall, clear of ribs and edges.
    """
    _check(size_px, mm_per_px)
    rng = np.random.default_rng(seed)
    shift = rng.uniform(-1.0, 1.0, 2)
    thickness = parts.housing(
        size_px, mm_per_px, shift_mm=(float(shift[0]), float(shift[1])), turn_deg=float(rng.uniform(-2.0, 2.0))
    )
    exposure = Exposure(
        tube_kv=85.0,
        wall_grey=float(rng.uniform(0.43, 0.47)),
        scatter_ratio=float(rng.uniform(0.15, 0.25)),
        quanta=float(rng.uniform(24000, 32000)),
        vignetting=0.05,
    )
    bench = _Bench(thickness, mm_per_px)
    if kind == "acceptable":
        _pores(rng, bench, number=int(rng.integers(3, 6)), diameter_mm=(0.52, 0.64), apart_mm=2.2, within_mm=13.0)
    elif kind == "rejectable":
        limit_mm2 = plate_area_pct(*CONVEYOR_REFERENCE) / 100 * _WINDOW_MM**2 * _WORST_OVER_MEAN
        number = round(3.6 * limit_mm2 / (np.pi / 4 * 1.1**2))
        _pores(rng, bench, number=number, diameter_mm=(1.0, 1.25), apart_mm=1.7, within_mm=11.0)
    elif kind == "crack":
        _conveyor_crack(rng, bench)
    elif kind != "sound":
        raise UsageError(f"no conveyor part of kind {kind!r}", hint="sound, acceptable, rejectable or crack")
    return bench.take(rng, exposure)


def _flat_wall(bench: _Bench, clear_mm: float) -> NDArray[np.int64]:
    """Flat indices of the pixels in the plain wall at least ``clear_mm`` from anything else, the picture's edge too."""
    flat = (np.abs(bench.thickness_mm - np.float32(parts.HOUSING_WALL_MM)) < 0.02).astype(np.uint8)
    flat[[0, -1]] = 0
    flat[:, [0, -1]] = 0
    away = cv2.distanceTransform(flat, cv2.DIST_L2, 3)
    places = np.flatnonzero(away > clear_mm / bench.mm_per_px)
    if not len(places):
        raise UsageError("no plain wall to plant a defect in is in sight", hint="show at least 30 mm of the part")
    return places


def _pores(
    rng: np.random.Generator, bench: _Bench, *, number: int, diameter_mm: tuple[float, float], apart_mm: float,
    within_mm: float,
) -> None:  # fmt: skip
    """Plant separate round pores in the plain wall, inside a square of ``within_mm``."""
    px, width = bench.mm_per_px, bench.size_px[1]
    places = _flat_wall(bench, 1.3)
    y, x = places // width, places % width
    # The square sits where the wall has most room: of eight candidates the one with most plain wall around it.
    half = within_mm / 2 / px
    best, chosen = -1, np.ones(len(places), bool)
    for first in rng.integers(0, len(places), 8).tolist():
        near = (np.abs(y - y[first]) <= half) & (np.abs(x - x[first]) <= half)
        if int(near.sum()) > best:
            best, chosen = int(near.sum()), near
    y, x = y[chosen], x[chosen]
    taken: list[tuple[int, int]] = []
    for _ in range(60 * number):
        if len(taken) == number:
            break
        pick = int(rng.integers(0, len(y)))
        here = (int(y[pick]), int(x[pick]))
        if all((here[0] - a) ** 2 + (here[1] - b) ** 2 >= (apart_mm / px) ** 2 for a, b in taken):
            taken.append(here)
    corner = (min(b for _, b in taken), min(a for a, _ in taken))
    pieces = []
    for a, b in taken:
        pore = float(rng.uniform(*diameter_mm))
        pieces.append(ball(rng, pore, pore * rng.uniform(0.92, 1.0), pore * 1.1, rng.uniform(0, np.pi), px,
                           a - corner[1], b - corner[0]))  # fmt: skip
    bench.plant("gas_porosity_round", within_mm, pieces, corner)


def _conveyor_crack(rng: np.random.Generator, bench: _Bench) -> None:
    """One crack that stays in the plain wall: drawn again until nearly all of its label lies there."""
    width = bench.size_px[1]
    places = _flat_wall(bench, 0.4)
    plain = np.zeros(bench.size_px, bool)
    plain.flat[places] = True
    best: tuple[float, float, list[Piece], tuple[int, int]] | None = None
    for _ in range(12):
        size = float(rng.uniform(8.0, 15.0))
        pieces = draw("crack", rng, size, float(rng.uniform(1.7, 2.4)), bench.mm_per_px)
        mask = pieces[0].mask
        for _ in range(6):
            place = int(places[int(rng.integers(0, len(places)))])
            at = (place % width, place // width)
            top, left = at[1] + pieces[0].y_px, at[0] + pieces[0].x_px
            inside = top >= 0 and left >= 0
            ground = plain[top : top + mask.shape[0], left : left + mask.shape[1]] if inside else plain[:0]
            share = float(ground[mask].mean()) if ground.shape == mask.shape else 0.0
            if best is None or share > best[0]:
                best = (share, size, pieces, at)
        if best is not None and best[0] >= 0.97:
            break
    assert best is not None
    bench.plant("crack", best[1], best[2], best[3])


_WINDOW_MM = 12.7
# The plates' pores lie at random; their worst 12.7 mm window holds up to this many times the mean of the whole plate.
_WORST_OVER_MEAN = 3.0

# Aggregate area of level 1 in per cent of the plate, and size in mm of a single discontinuity at levels 1 and 8.
_GRADES: dict[str, tuple[float, float, float]] = {
    "gas_hole": (0.20, 1.5, 6.0),
    "gas_porosity_round": (0.10, 0.45, 1.05),
    "gas_porosity_elongated": (0.10, 1.2, 3.0),
    "shrinkage_cavity": (0.20, 2.5, 12.0),
    "shrinkage_sponge": (0.25, 4.0, 14.0),
    "shrinkage_dendritic": (0.25, 4.0, 14.0),
    "shrinkage_filamentary": (0.20, 5.0, 16.0),
    "foreign_less_dense": (0.15, 1.2, 5.0),
    "foreign_more_dense": (0.10, 0.8, 3.5),
    "crack": (0.05, 4.0, 22.0),
    "cold_shut": (0.15, 6.0, 26.0),
}
_PER_LEVEL = 1.55


def plate_area_pct(type_id: str, level: int) -> float:
    """Aggregate area of a reference plate, per cent of its whole area: each level holds 1.55 times the one below."""
    if type_id not in _GRADES:
        raise UsageError(f"{type_id!r} is no casting discontinuity", hint=f"one of {', '.join(CASTING_TYPES)}")
    if not 1 <= level <= 8:
        raise UsageError(f"no severity level {level}", hint="levels run from 1 to 8")
    return float(_GRADES[type_id][0] * _PER_LEVEL ** (level - 1))


# Tube voltage for a plate: kV at a thickness in mm, and kV per mm more. Made up, within usual practice.
_PLATE_KV = {
    "aluminum": (90.0, 6.35, 2.0),
    "magnesium": (75.0, 6.35, 2.0),
    "titanium": (100.0, 6.35, 4.0),
    "steel": (140.0, 9.525, 5.0),
}
_PLATE_MM = (1.0, 40.0)


def plate_exposure(metal: str = "aluminum", thickness_mm: float = parts.PLATE_MM, bits: int = 8) -> Exposure:
    """The clean exposure of a reference plate: voltage by metal and thickness, the wall always at the same grey.

    Raises UsageError for another metal, a thickness outside 1..40 mm or a depth that is neither 8 nor 16 bits.
    """
    if metal not in METALS:
        raise UsageError(f"no plate of {metal!r} can be simulated", hint=", ".join(METALS))
    if not _PLATE_MM[0] <= thickness_mm <= _PLATE_MM[1]:
        raise UsageError(f"a plate of {thickness_mm:g} mm cannot be simulated", hint="1 to 40 mm")
    if bits not in (8, 16):
        raise UsageError(f"a picture of {bits} bits cannot be simulated", hint="8 or 16")
    kv, at_mm, per_mm = _PLATE_KV[metal]
    tube_kv = float(round(max(kv + per_mm * (thickness_mm - at_mm), 60.0)))
    return Exposure(
        tube_kv=tube_kv, wall_mm=thickness_mm, wall_grey=0.56, quanta=30000.0, vignetting=0.03, bits=bits, metal=metal
    )


def reference_plate(
    type: str, level: int, seed: int = 0, *, size_px: tuple[int, int] = (512, 512), mm_per_px: float = 0.1,  # noqa: A002
    metal: str = "aluminum", thickness_mm: float = parts.PLATE_MM, attempt: int = 0, bits: int = 8,
    largest_mm: float | None = None,
) -> Radiograph:  # fmt: skip
    """A flat plate that shows one type at one severity level, in a clean exposure (``plate_exposure``).

    Aggregate area follows ``plate_area_pct``; the size of the single discontinuity grows with the level as well, the
    depth of ragged ones with the thickness. These grades are made up for this product and belong to no standard.
    attempt: another arrangement of the same grade. largest_mm: size at level 8, None the type's own.
    Raises UsageError for another type, level, metal or thickness.
    """
    _check(size_px, mm_per_px)
    exposure = plate_exposure(metal, thickness_mm, bits)
    target_pct = plate_area_pct(type, level)
    smallest, largest = _GRADES[type][1], _GRADES[type][2] if largest_mm is None else largest_mm
    size = smallest * (largest / smallest) ** ((level - 1) / 7)
    key = [seed, CASTING_TYPES.index(type), level]
    if (metal, thickness_mm, attempt) != ("aluminum", parts.PLATE_MM, 0):
        key += [METALS.index(metal), round(thickness_mm * 1000), attempt]
    rng = np.random.default_rng(key)
    bench = _Bench(parts.flat_plate(size_px, thickness_mm), mm_per_px)
    plate_mm2 = size_px[0] * size_px[1] * mm_per_px**2
    target_mm2 = target_pct / 100 * plate_mm2
    margin = min(round(0.55 * size / mm_per_px) + 2, min(size_px) // 3)
    area, tries = 0.0, 0
    while area < target_mm2 and tries < 4000:
        tries += 1
        at = (int(rng.integers(margin, size_px[1] - margin)), int(rng.integers(margin, size_px[0] - margin)))
        # The last one is cut to what is still missing, so that the area meets the level closely.
        own = size * float(rng.uniform(0.85, 1.0))
        pieces = _graded(type, rng, own, mm_per_px, thickness_mm)
        bigger = sum(int(piece.mask.sum()) for piece in pieces) * mm_per_px**2
        if bigger > 1.6 * (target_mm2 - area) and tries % 8:
            continue
        if any(_touches(bench, piece, at, round(0.4 / mm_per_px)) for piece in pieces) and tries % 60:
            continue
        area += bench.plant(type, own, pieces, at)
    return bench.take(rng, exposure)


def _graded(
    type_id: str, rng: np.random.Generator, size_mm: float, mm_per_px: float, thickness_mm: float
) -> list[Piece]:
    """One discontinuity of a plate: a single pore for the porosities, else the type's own shape."""
    if type_id == "gas_porosity_round":
        return [ball(rng, size_mm, size_mm * rng.uniform(0.92, 1.0), size_mm * 1.1, rng.uniform(0, np.pi), mm_per_px)]
    if type_id == "gas_porosity_elongated":
        short = max(0.28, size_mm / 4.5)
        return [ball(rng, size_mm, short, short * 1.3, 0.6 + 0.25 * rng.standard_normal(), mm_per_px)]
    depth = thickness_mm * (0.9 if type_id == "foreign_more_dense" else 0.3)
    return draw(type_id, rng, size_mm, depth, mm_per_px)


def _touches(bench: _Bench, piece: Piece, at_px: tuple[int, int], gap_px: int) -> bool:
    top, left = at_px[1] + piece.y_px - gap_px, at_px[0] + piece.x_px - gap_px
    bottom = top + piece.path_mm.shape[0] + 2 * gap_px
    right = left + piece.path_mm.shape[1] + 2 * gap_px
    return bool(bench.labels[max(top, 0) : bottom, max(left, 0) : right].any())
