"""What an engine leaves unmarked on a calibration set, part by part and threshold by threshold: the certificate's data.

Every picture passes through the line's own path (``see``); its coverage map is then cut by the line's own hysteresis
(``find_blobs``) at each threshold of two grids fixed beforehand:

    points   seed from the bundle's grow threshold up, grow and least size as in the bundle: the operating points. Only
             which regions are kept changes, never where their edges lie, so the certified edges stay true.
    chain    seed and grow together, from nearly everything marked to little: for the share of pixels that is missed.

An indication is an 8-connected visible spot of the truth; it is found when a quarter of its pixels are marked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..judge.indications import find_indications
from ..records import Segmentation
from ..segment.bundle import Thresholds
from ..segment.drift import frame_scores
from ..segment.protocol import Engine
from ..segment.see import find_blobs, see
from ..simulator import Radiograph, conveyor_part
from .calibrate import FOUND_SHARE, logit, sigmoid
from .labelled import UNTYPED, Labelled
from .pictures import IGNORED, draw_examination, draw_picture, visible_labels

__all__ = ["Grids", "Observed", "Part", "Spot", "grids_for", "observe", "picture_sha256", "simulated_parts"]

_POINTS = 16
_CHAIN = 24


@dataclass(frozen=True, slots=True)
class Grids:
    """points: seed thresholds, ascending, the bundle's own among them at ``default``. chain: thresholds, ascending."""

    points: tuple[float, ...]
    default: int
    chain: tuple[Thresholds, ...]


@dataclass(frozen=True, slots=True)
class Spot:
    """One visible indication. size_mm: largest extent (Feret), None without a scale. found: bool (P,) by point;
    found_chain: bool (C,)."""

    type: str
    size_mm: float | None
    found: NDArray[np.bool_]
    found_chain: NDArray[np.bool_]


@dataclass(slots=True)
class Part:
    """One independent part, summed over its pictures.

    refused: the image gate refused one of them, so the part is rejected unseen. hidden: something is there that nobody
    can see. calls: int (P,) marked regions; they are false calls where the part is sound. visible_px, missed_px (C,),
    marked_px (C,): pixels of visible indications, those unmarked, and all marked ones that count. scores: of its first
    picture, for the drift alarm.
    """

    name: str
    pictures: int = 0
    refused: bool = False
    hidden: bool = False
    spots: list[Spot] = field(default_factory=list)
    calls: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    visible_px: int = 0
    missed_px: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    marked_px: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    scores: NDArray[np.float64] | None = None

    @property
    def defective(self) -> bool:
        """Whether a visible indication is in it."""
        return bool(self.spots)

    @property
    def sound(self) -> bool:
        """Whether nothing at all is in it."""
        return not self.spots and not self.hidden

    def missed(self) -> NDArray[np.bool_]:
        """bool (P,): any visible indication unfound, the strict reading."""
        return np.asarray(~np.stack([spot.found for spot in self.spots]).all(axis=0))

    def missed_chain(self) -> NDArray[np.bool_]:
        """bool (C,): as ``missed``, by member of the chain."""
        return np.asarray(~np.stack([spot.found_chain for spot in self.spots]).all(axis=0))

    def unmarked(self) -> NDArray[np.bool_]:
        """bool (P,): no visible indication found at all, the lenient reading."""
        return np.asarray(~np.stack([spot.found for spot in self.spots]).any(axis=0))


@dataclass(frozen=True, slots=True)
class Observed:
    """All parts, in the order they were read. sha256: over names, pixels and truths. scaled: every picture had a scale.
    picture_hashes: ``picture_sha256`` of each picture."""

    parts: tuple[Part, ...]
    pictures: int
    sha256: str
    scaled: bool
    picture_hashes: frozenset[str]


def grids_for(thresholds: Thresholds) -> Grids:
    """The grids of a bundle: fixed by its thresholds alone, before any calibration picture is seen."""
    low, high = logit(thresholds.grow), logit(max(0.995, thresholds.seed))
    spaced = [round(sigmoid(value), 6) for value in np.linspace(low, high, _POINTS).tolist()]
    # The first must not fall below grow by rounding.
    seeds = sorted({thresholds.grow, thresholds.seed, *(one for one in spaced if one > thresholds.grow)})
    chain = []
    for value in np.linspace(logit(0.01), logit(0.6), _CHAIN).tolist():
        grow = round(sigmoid(value), 6)
        seed = min(max(grow, round(sigmoid(value + 1.0), 6)), 0.999)
        chain.append(replace(thresholds, seed=seed, grow=grow))
    return Grids(tuple(seeds), seeds.index(thresholds.seed), tuple(chain))


def picture_sha256(pixels: NDArray[np.generic]) -> str:
    """SHA-256 of a picture's content: type, shape and pixels, however the file was packed."""
    digest = hashlib.sha256(f"{pixels.dtype.str} {pixels.shape}\n".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def _conveyor(seed: int) -> Radiograph:
    kinds: tuple[Literal["sound", "acceptable", "rejectable", "crack"], ...]
    kinds = ("sound", "acceptable", "rejectable", "crack")
    return conveyor_part(seed, kinds[seed % len(kinds)])


#: Simulated lines that parts may come from: everything that is trained on, geometry that is not, the demo's conveyor.
LINES: Mapping[str, Callable[[int], Radiograph]] = {
    "mixture": draw_picture, "unseen": draw_examination, "conveyor": _conveyor,
}  # fmt: skip


def simulated_parts(seeds: Iterable[int], line: str = "mixture") -> Iterator[Labelled]:
    """One simulated part per seed from one of LINES, with what is visible in it."""
    for seed in seeds:
        picture = LINES[line](seed)
        name = f"seed {seed}"
        labels = visible_labels(picture)
        yield Labelled(name, "simulated", name, picture.pixels, picture.mm_per_px, "bright_void", labels, None)


def observe(engine: Engine, pictures: Iterable[Labelled], grids: Grids) -> Observed:
    """Look at every picture once. Raises UsageError for a picture without a mask (code LABELS), and for one that two
    parts share, which then are not independent."""
    parts: dict[tuple[str, str], Part] = {}
    owner: dict[str, tuple[str, str]] = {}
    digest = hashlib.sha256()
    count, scaled = 0, True
    for one in pictures:
        if one.labels is None:
            raise UsageError(
                f"{one.name} has boxes and no mask", code="LABELS",
                hint="a certificate bounds pixels too: give masks, or --masked-only; `train evaluate` takes boxes",
            )  # fmt: skip
        key, content = (one.series, one.part), picture_sha256(one.pixels)
        if owner.setdefault(content, key) != key:
            raise UsageError(
                f"{one.name} is the same picture as one of part {owner[content][1]}", code="LABELS",
                hint="independent parts: each picture once, or say in parts.csv that they are one part",
            )  # fmt: skip
        digest.update(f"{one.name}\n{one.part}\n{content}\n{picture_sha256(one.labels)}\n".encode())
        count, scaled = count + 1, scaled and one.mm_per_px is not None
        if key not in parts:
            empty = np.zeros(len(grids.chain), np.int64)
            parts[key] = Part(one.part, calls=np.zeros(len(grids.points), np.int64), missed_px=empty,
                              marked_px=empty.copy())  # fmt: skip
        _look(engine, one, grids, parts[key])
    return Observed(tuple(parts.values()), count, digest.hexdigest(), scaled, frozenset(owner))


def _look(engine: Engine, one: Labelled, grids: Grids, part: Part) -> None:
    scale = () if one.mm_per_px is None else (one.mm_per_px,)
    answer = see(engine, one.pixels, mm_per_px=scale, polarity=one.polarity)
    labels = one.labels
    assert labels is not None
    part.pictures += 1
    visible = (labels > 0) & (labels != IGNORED)
    part.hidden |= bool((labels == IGNORED).any())
    if answer.refusals or answer.coverage is None:
        # Rejected unseen, which is no miss; the truth still says what kind of part it is.
        part.refused = True
        every = np.ones((len(grids.points) + len(grids.chain), int(visible.sum())), bool)
        part.spots += _spots(one, visible, every, len(grids.points))
        return
    if part.scores is None:
        part.scores = frame_scores(one.pixels, answer.coverage)
    # Regions grown from grow alone: at any higher seed exactly those stay whose largest coverage reaches it.
    own = engine.bundle.thresholds
    pixels, region, peak = _cut(answer, replace(own, seed=own.grow))
    seeds = np.array(grids.points, np.float32)
    reach = np.zeros(labels.size, np.float32)
    reach[pixels] = peak[region]
    part.calls += (peak[None, :] >= seeds[:, None]).sum(axis=1)
    counts, inside = (labels != IGNORED).reshape(-1), visible.reshape(-1)
    marked_there = [reach[inside] >= seed for seed in seeds]
    if own.type_seeds:  # the line drops what stays below the seed of its own type; at other points they do not apply
        marked_there[grids.default] = answer.labels.reshape(-1)[inside] > 0
        part.calls[grids.default] += len(answer.regions) - int((peak >= seeds[grids.default]).sum())
    part.visible_px += int(visible.sum())
    for index, thresholds in enumerate(grids.chain):
        marked = np.zeros(labels.size, bool)
        marked[_cut(answer, thresholds)[0]] = True
        part.missed_px[index] += int((inside & ~marked).sum())
        part.marked_px[index] += int((marked & counts).sum())
        marked_there.append(marked[inside])
    part.spots += _spots(one, visible, np.stack(marked_there), len(grids.points))


def _cut(
    answer: Segmentation, thresholds: Thresholds
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Marked pixels (flat), the region of each, and the largest coverage of each region: at ``thresholds``."""
    coverage = answer.coverage
    assert coverage is not None
    types = np.zeros((1, *coverage.shape), np.float32)  # which type it is makes no difference to what is marked
    blobs = find_blobs(coverage, types, thresholds)
    peak = np.zeros(len(blobs.type_share), np.float32)
    np.maximum.at(peak, blobs.region_of_pixel, coverage.reshape(-1)[blobs.pixels])
    return blobs.pixels, blobs.region_of_pixel, peak


def _spots(one: Labelled, visible: NDArray[np.bool_], marked: NDArray[np.bool_], points: int) -> list[Spot]:
    """The indications of one picture. marked: bool (P + C, M), of the visible pixels in row-major order."""
    if not visible.any() or one.labels is None:
        return []
    mm_per_px = one.mm_per_px or 1.0
    components, indications = find_indications(visible, None, (mm_per_px, mm_per_px))
    owner, label = components[visible], one.labels[visible]
    spots = []
    for indication in indications:
        own = owner == indication.component
        found = marked[:, own].mean(axis=1) >= FOUND_SHARE
        most = int(np.bincount(label[own]).argmax())
        name = "untyped" if most == UNTYPED or most > len(one.types) else one.types[most - 1]
        size_mm = None if one.mm_per_px is None else indication.feret_max_mm
        spots.append(Spot(name, size_mm, found[:points], found[points:]))
    return spots
