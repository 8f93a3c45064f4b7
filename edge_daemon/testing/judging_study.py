"""How well the judge measures and decides, on geometry whose truth is known. Prints a table; takes some minutes.

    python -m edge_daemon.testing.judging_study [--quick]

Four questions (design: judging):

* sizes      bias of the summed area and of the caliper distance of discs at random sub-pixel places, coverage given
* coverage   how often the true value lies inside value +- U, when scale and edges err as their uncertainties say
* levels     how often the measured severity level is the true one, judged from masks at the working scale
* accepts    how often a part just above its limit is let through with guard 1 (ISO 14253-1: below 2.5 %)

Truth is the geometry itself, in closed form, or drawn sixteen times finer; never the judge's own answer.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import hypot, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from ..judge import Limits, Measurement, Rule, RuleKind, Scale, Uncertainty, judge, limits_of, measure
from ..judge.verdict import decide
from ..records import Outcome

__all__ = ["Row", "accepts", "coverage_of_u", "levels", "sizes"]

_FINE = 16  # drawn so many times finer
_NAME = "gas_porosity_round"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. good: the figure is what was asked; low, high: 95 % interval where it is a share."""

    what: str
    n: int
    value: float
    unit: str
    asked: str
    good: bool
    low: float | None = None
    high: float | None = None


def _interval(k: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, p = 1.959964, k / n
    centre, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def disc_coverage(size_px: tuple[int, int], x: float, y: float, radius_px: float) -> NDArray[np.float32]:
    """Share of each pixel that a disc covers; float32 (H, W). The centre of pixel (0, 0) is (0.5, 0.5)."""
    width, height = size_px
    fine_x = (np.arange(width * _FINE) + 0.5) / _FINE - x
    fine_y = (np.arange(height * _FINE) + 0.5) / _FINE - y
    inside = fine_x[None, :] ** 2 + fine_y[:, None] ** 2 <= radius_px**2
    share: NDArray[np.float32] = inside.reshape(height, _FINE, width, _FINE).mean(axis=(1, 3), dtype=np.float32)
    return share


def _capsule_coverage(
    size_px: tuple[int, int], start: Sequence[float], end: Sequence[float], radius_px: float
) -> NDArray[np.float32]:
    """The same for all points within ``radius_px`` of a line: its caliper distance is the line's length + 2 radii."""
    width, height = size_px
    x = (np.arange(width * _FINE) + 0.5)[None, :] / _FINE - start[0]
    y = (np.arange(height * _FINE) + 0.5)[:, None] / _FINE - start[1]
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    inside = (x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius_px**2
    share: NDArray[np.float32] = inside.reshape(height, _FINE, width, _FINE).mean(axis=(1, 3), dtype=np.float32)
    return share


def _labels(coverage: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (coverage > 0).astype(np.uint8)


def sizes(n: int = 400, seed: int = 1) -> list[Row]:
    """Bias of area and caliper distance over radius."""
    random = np.random.default_rng(seed)
    rows = []
    for radius in (1.5, 2.0, 3.0, 5.0, 8.0, 15.0):
        areas, ferets, counted = [], [], []
        side = int(2 * radius + 8)
        for _ in range(n):
            x, y = side / 2 + random.uniform(-0.5, 0.5, 2)
            coverage = disc_coverage((side, side), x, y, radius)
            (one,) = measure(_labels(coverage), coverage, (_NAME,), Scale(1.0, 1.0), {}).types[_NAME].indications
            areas.append(one.area_mm2 / (pi * radius**2) - 1)
            ferets.append(one.feret_max_mm - 2 * radius)
            counted.append(float((coverage >= 0.5).sum()) / (pi * radius**2) - 1)
        bias, asked = 100 * float(np.mean(areas)), 1.0 if radius >= 3 else 3.0
        rows.append(Row(f"area bias, radius {radius:g} px", n, bias, "%", f"within {asked:g} %", abs(bias) <= asked))
        if radius >= 5:
            rms = float(np.sqrt(np.mean(np.square(ferets))))
            rows.append(Row(f"caliper distance RMS, radius {radius:g} px", n, rms, "px", "<= 0.10 px", rms <= 0.10))
    errors = []
    for _ in range(n):
        length, thick, turn = random.uniform(8, 24), random.uniform(1.5, 3.0), random.uniform(0, pi)
        side = int(length + 2 * thick + 12)
        middle, way = side / 2 + random.uniform(-0.5, 0.5, 2), length / 2 * np.array([np.cos(turn), np.sin(turn)])
        coverage = _capsule_coverage((side, side), tuple(middle - way), tuple(middle + way), thick)
        found = measure(_labels(coverage), coverage, (_NAME,), Scale(1.0, 1.0), {}).types[_NAME]
        errors.append(found.max_size_mm.value - length - 2 * thick)
    rows.append(Row("caliper bias, ends of radius 1.5 to 3 px", n, float(np.mean(errors)), "px", "shown", True))
    return rows


def coverage_of_u(n: int = 10_000, seed: int = 2) -> list[Row]:
    """How often the truth lies inside value +- U: areas of discs, lengths of capsules."""
    random = np.random.default_rng(seed)
    u_scale, u_edge_px = 0.004, 0.08
    inside = {"area": 0, "length": 0}
    for _ in range(n):
        true_scale = 0.1
        scale = Scale(true_scale * (1 + u_scale * random.normal()), true_scale, 0.0)
        scale = Scale(scale.x_mm_per_px, scale.x_mm_per_px, true_scale * u_scale)
        uncertainty = Uncertainty(edge_mm=u_edge_px * true_scale)
        # An edge that is drawn too far out is so all around.
        radius = random.uniform(2.0, 8.0)
        side = int(2 * radius + 10)
        x, y = side / 2 + random.uniform(-0.5, 0.5, 2)
        coverage = disc_coverage((side, side), x, y, radius + u_edge_px * random.normal())
        found = measure(_labels(coverage), coverage, (_NAME,), scale, {}, uncertainty=uncertainty).types[_NAME]
        truth = pi * (radius * true_scale) ** 2
        inside["area"] += abs(found.area_mm2.value - truth) <= 2 * found.area_mm2.u
        # The two ends of a length err on their own.
        length, thick, turn = random.uniform(8, 24), random.uniform(5.0, 8.0), random.uniform(0, pi)
        side = int(length + 2 * thick + 12)
        middle = side / 2 + random.uniform(-0.5, 0.5, 2)
        ends = [length / 2 + u_edge_px * random.normal() for _ in range(2)]
        direction = np.array([np.cos(turn), np.sin(turn)])
        start, end = middle - ends[0] * direction, middle + ends[1] * direction
        coverage = _capsule_coverage((side, side), tuple(start), tuple(end), thick)
        found = measure(_labels(coverage), coverage, (_NAME,), scale, {}, uncertainty=uncertainty).types[_NAME]
        truth = (length + 2 * thick) * true_scale
        inside["length"] += abs(found.max_size_mm.value - truth) <= 2 * found.max_size_mm.u
    rows = []
    for what, k in inside.items():
        low, high = _interval(k, n)
        share = 100 * k / n
        rows.append(Row(f"true {what} inside value +- U (k = 2)", n, share, "%", "95 +- 1 %", 94 <= share <= 96,
                        100 * low, 100 * high))  # fmt: skip
    return rows


Disc = tuple[float, float, float]  # x, y, radius in mm


def _plate(random: np.random.Generator, count: int, radius_mm: tuple[float, float], extent_mm: float) -> list[Disc]:
    """Discs that do not touch."""
    discs: list[Disc] = []
    while len(discs) < count:
        radius = random.uniform(*radius_mm)
        x, y = random.uniform(radius + 0.3, extent_mm - radius - 0.3, 2)
        if all(hypot(x - a, y - b) > radius + c + 0.3 for a, b, c in discs):
            discs.append((x, y, radius))
    return discs


def _mask(discs: Sequence[Disc], extent_mm: float, mm_per_px: float) -> NDArray[np.uint8]:
    """The exact mask: 1 where a pixel's centre lies in a disc."""
    side = round(extent_mm / mm_per_px)
    centres = (np.arange(side) + 0.5) * mm_per_px
    labels = np.zeros((side, side), np.uint8)
    for x, y, radius in discs:
        near_x = np.flatnonzero(np.abs(centres - x) <= radius)
        near_y = np.flatnonzero(np.abs(centres - y) <= radius)
        inside = (centres[near_x] - x)[None, :] ** 2 + (centres[near_y] - y)[:, None] ** 2 <= radius**2
        labels[np.ix_(near_y, near_x)] |= inside.astype(np.uint8)
    return labels


_EXTENT_MM, _SIDES_MM, _PX_MM, _FINER = 25.6, (6.4, 12.8), 0.1, 10


def _graded(random: np.random.Generator, strength: float) -> list[Disc]:
    """Porosity that grows with ``strength`` (a level, or anything between two) in number and size: 1.15 times the size
    and 1.3 times the number a level, so 1.7 times the area."""
    radius = 0.30 * 1.15 ** (strength - 1.0)
    return _plate(random, round(4 * 1.3 ** (strength - 1.0)), (0.85 * radius, radius), _EXTENT_MM)


def _averaged(mask: NDArray[np.uint8], times: int) -> NDArray[np.float32]:
    """A finer mask area-averaged down to the working scale: the share of each pixel that is defect."""
    side = mask.shape[0] // times
    share: NDArray[np.float32] = mask.reshape(side, times, side, times).mean(axis=(1, 3), dtype=np.float32)
    return share


def _measured(discs: Sequence[Disc]) -> Measurement:
    """The true mask, ten times finer, averaged down and measured."""
    coverage = _averaged(_mask(discs, _EXTENT_MM, _PX_MM / _FINER), _FINER)
    return measure(_labels(coverage), coverage, (_NAME,), Scale(_PX_MM, _PX_MM), {_NAME: _SIDES_MM})


def _running(plates: Sequence[Limits]) -> dict[int, Limits]:
    levels: dict[int, Limits] = {}
    area, size = dict.fromkeys(_SIDES_MM, 0.0), 0.0
    for level, one in enumerate(plates, start=1):
        area = {side: max(area[side], one.area_pct[side] or 0.0) for side in _SIDES_MM}
        size = max(size, one.max_size_mm or 0.0)
        levels[level] = Limits(area, dict.fromkeys(_SIDES_MM, 1e9), size)
    return levels


def _true_limits(discs: Sequence[Disc]) -> Limits:
    """Areas over every position of a window on the ten times finer mask; the size in closed form."""
    fine = Scale(_PX_MM / _FINER, _PX_MM / _FINER)
    found = measure(_mask(discs, _EXTENT_MM, _PX_MM / _FINER), None, (_NAME,), fine, {_NAME: _SIDES_MM})
    areas = limits_of(found.of(_NAME, _SIDES_MM)).area_pct
    return Limits(areas, dict.fromkeys(_SIDES_MM, 0.0), 2 * max(radius for _, _, radius in discs))


def levels(n: int = 1000, seed: int = 3) -> list[Row]:
    """Parts of every strength between the levels, against plates of the same kind: is the level found the true one?"""
    random = np.random.default_rng(seed)
    plates = [_graded(random, level) for level in range(1, 9)]
    true_levels = _running([_true_limits(discs) for discs in plates])
    seen_levels = _running([limits_of(_measured(discs).of(_NAME, _SIDES_MM)) for discs in plates])
    rule = Rule(_NAME, RuleKind.LEVEL, 8, windows_mm=_SIDES_MM)
    same = near = total = 0
    while total < n:
        discs = _graded(random, random.uniform(1.0, 7.5))
        truth = _true_limits(discs)
        true_level = next(
            (
                level
                for level, one in true_levels.items()
                if (truth.max_size_mm or 0) <= (one.max_size_mm or 0)
                and all((truth.area_pct[side] or 0) <= (one.area_pct[side] or 0) for side in _SIDES_MM)
            ),
            9,
        )
        if true_level == 9:
            continue
        total += 1
        verdict = judge(_measured(discs), [rule], {_NAME: seen_levels[8]}, levels={_NAME: seen_levels})
        found = verdict.types[0].severity_level or 9
        same += found == true_level
        near += abs(found - true_level) <= 1
    rows = []
    for what, k, least in (("measured level is the true one", same, 95.0), ("within one level", near, 99.9)):
        low, high = _interval(k, n)
        rows.append(Row(what, n, 100 * k / n, "%", f">= {least:g} %", 100 * k / n >= least, 100 * low, 100 * high))
    return rows


def accepts(n: int = 20_000, seed: int = 4) -> list[Row]:
    """Parts whose true area is just above what is permitted, measured with errors as stated: how many PASS?"""
    random = np.random.default_rng(seed)
    u_scale, u_edge_px, px_mm, side = 0.004, 0.06, 0.1, 64
    window_mm = side * px_mm
    passed = {0.0: 0, 1.0: 0}
    for _ in range(n):
        discs = [(14.0 + 18 * i + random.uniform(-1, 1), 32 + random.uniform(-14, 14), random.uniform(2.5, 6.0))
                 for i in range(3)]  # fmt: skip
        true_pct = 100 * sum(pi * radius**2 for _, _, radius in discs) / side**2
        limit = true_pct / (1 + 1e-6)  # the part is a millionth above
        error_px = u_edge_px * random.normal()
        coverage = np.zeros((side, side), np.float32)
        for x, y, radius in discs:
            coverage = np.maximum(coverage, _patch(side, x, y, radius + error_px))
        # A scale that is thought too large makes every area too large against a window that is given in mm.
        thought = 1 + u_scale * random.normal()
        scale = Scale(px_mm * thought, px_mm * thought, px_mm * u_scale)
        part = measure(_labels(coverage), coverage, (_NAME,), scale, {}, uncertainty=Uncertainty(u_edge_px * px_mm))
        area = part.types[_NAME].area_mm2
        to_pct = 100.0 / window_mm**2
        for guard in passed:
            rule = Rule(_NAME, RuleKind.AREA_PCT, limit=limit, windows_mm=(window_mm,), guard=guard)
            passed[guard] += decide(area.value * to_pct, area.u * to_pct, limit, rule) is Outcome.PASS
    rows = []
    for guard, k in passed.items():
        low, high = _interval(k, n)
        asked, most = ("about half", 55.0) if guard == 0 else ("<= 2.5 %", 2.5)
        rows.append(Row(f"false accepts at the limit, guard {guard:g}", n, 100 * k / n, "%", asked,
                        100 * k / n <= most, 100 * low, 100 * high))  # fmt: skip
    return rows


def _patch(side: int, x: float, y: float, radius: float) -> NDArray[np.float32]:
    """A disc in a picture of ``side``, drawn finely only where it lies."""
    left, top = int(x - radius) - 2, int(y - radius) - 2
    box = int(2 * radius) + 6
    picture = np.zeros((side + 2 * box, side + 2 * box), np.float32)
    picture[top + box : top + 2 * box, left + box : left + 2 * box] = disc_coverage(
        (box, box), x - left, y - top, radius
    )
    return picture[box:-box, box:-box]


def _rows(quick: bool) -> Iterator[Row]:
    scale = 20 if quick else 1
    yield from sizes(400 // (4 if quick else 1))
    yield from coverage_of_u(10_000 // scale)
    yield from levels(1000 // scale)
    yield from accepts(20_000 // scale)


def main() -> int:
    """Print the table as Markdown; 1 where a figure is not what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the parts")
    args = parser.parse_args()
    out = [f"On {platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}.", "",
           "| what | n | value | 95 % interval | asked | |", "|---|---|---|---|---|---|"]  # fmt: skip
    say = sys.stdout.write
    say("\n".join(out) + "\n")
    good = True
    for row in _rows(args.quick):
        interval = "" if row.low is None else f"{row.low:.2f} to {row.high:.2f} {row.unit}"
        cells = (row.what, str(row.n), f"{row.value:.3g} {row.unit}", interval, row.asked, "yes" if row.good else "NO")
        say("| " + " | ".join(cells) + " |\n")
        sys.stdout.flush()
        good &= row.good
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
