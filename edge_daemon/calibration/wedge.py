"""Grey value to thickness by a step wedge: a monotone curve with its uncertainty. Pure NumPy.

Physics: grey = offset + amplitude exp(-mu t), the offset holding scatter and dark level (monochromatic Beer-Lambert).
Where beam hardening makes the steps miss that curve, a monotone cubic through the steps takes over (Fritsch and
Carlson, SIAM J. Numer. Anal. 17 (1980) 238). Not covered: another material or energy than the wedge's, scatter that
depends on what lies beside, the heel effect.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, UsageError
from .geometry import Floats

__all__ = ["Step", "WedgeCurve", "find_steps", "fit_wedge", "measure_step"]

_LEAST_STEPS = 4
#: The physical curve is kept when steps left out are predicted within this share of the wedge's range.
_PHYSICS_SHARE = 0.02
_CLIPPED_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Step:
    """One step: thickness, mean grey value (of the type's full range 0..1), standard deviation of its pixels, pixels,
    region (x, y, w, h)."""

    thickness_mm: float
    grey: float
    sd: float
    pixels: int
    region_px: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class WedgeCurve:
    """Grey value to thickness within the range of the wedge; nothing outside it.

    model: "physics" (offset, amplitude, mu in numbers) or "interpolation". thickness_mm, grey: the steps, thickness
    rising. residual_mm: error at each inner step when predicted from the others. u_mm: standard uncertainty of a
    thickness read from a mean grey value without noise: residuals and the steps' own thickness.
    """

    model: str
    numbers: tuple[float, ...]
    thickness_mm: Floats
    grey: Floats
    residual_mm: Floats
    u_mm: float

    @property
    def range_mm(self) -> tuple[float, float]:
        """Thinnest and thickest step."""
        return float(self.thickness_mm[0]), float(self.thickness_mm[-1])

    def grey_at(self, thickness_mm: Floats) -> Floats:
        """Grey value (0..1) at a thickness; NaN outside the range."""
        t = np.asarray(thickness_mm, np.float64)
        if self.model == "physics":
            offset, amplitude, mu = self.numbers
            value = offset + amplitude * np.exp(-mu * t)
        else:
            value = _monotone_cubic(self.thickness_mm, self.grey, t)
        low, high = self.range_mm
        return np.asarray(np.where((t >= low - 1e-9) & (t <= high + 1e-9), value, np.nan), np.float64)

    def thickness(self, grey: NDArray[Any]) -> Floats:
        """Thickness in mm of grey values (0..1 of full range; uint8 and uint16 are scaled); NaN outside the range."""
        g = np.asarray(grey, np.float64)
        if np.issubdtype(grey.dtype, np.integer):
            g = g / np.iinfo(grey.dtype).max
        fine = np.linspace(*self.range_mm, 4001)
        values = self.grey_at(fine)
        rising = values[-1] > values[0]
        found = np.interp(g, values if rising else values[::-1], fine if rising else fine[::-1], np.nan, np.nan)
        return np.asarray(found, np.float64)

    def u_thickness_mm(self, thickness_mm: float, grey_sd: float = 0.0) -> float:
        """Standard uncertainty at a thickness when the grey value has ``grey_sd`` (0..1 of full range)."""
        low, high = self.range_mm
        half = (high - low) / 2000.0
        ends = np.clip([thickness_mm - half, thickness_mm + half], low, high)
        values = self.grey_at(ends)
        slope = float(abs(values[1] - values[0]) / (ends[1] - ends[0]))
        return float(np.hypot(self.u_mm, grey_sd / slope)) if slope > 0 else float("inf")


def _monotone_cubic(x: Floats, y: Floats, at: Floats) -> Floats:
    """Cubic Hermite interpolation whose slopes keep monotone data monotone."""
    step, secant = np.diff(x), np.diff(y) / np.diff(x)
    slope = np.empty_like(y)
    slope[1:-1] = (step[1:] * secant[:-1] + step[:-1] * secant[1:]) / (step[1:] + step[:-1])
    slope[0], slope[-1] = secant[0], secant[-1]
    for index in range(len(secant)):
        if secant[index] == 0.0:
            slope[index] = slope[index + 1] = 0.0
            continue
        a, b = slope[index] / secant[index], slope[index + 1] / secant[index]
        size = np.hypot(a, b)
        if size > 3.0:
            slope[index], slope[index + 1] = 3.0 * a / size * secant[index], 3.0 * b / size * secant[index]
    cell = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(step) - 1)
    h = step[cell]
    t = (at - x[cell]) / h
    return np.asarray(
        y[cell] * (1 + 2 * t) * (1 - t) ** 2
        + h * slope[cell] * t * (1 - t) ** 2
        + y[cell + 1] * t * t * (3 - 2 * t)
        + h * slope[cell + 1] * t * t * (t - 1),
        np.float64,
    )


def _gray(pixels: NDArray[Any], name: str) -> NDArray[Any]:
    if pixels.ndim != 2:
        raise ImageError(f"picture {name} has colours", hint="give the radiograph as grey picture")
    return pixels


def find_steps(pixels: NDArray[Any], count: int, name: str) -> list[tuple[int, int, int, int]]:
    """Regions (x, y, w, h) of ``count`` steps that fill the picture side by side, left to right or top to bottom.

    Exact least-squares division of the mean profile into flat pieces; the inner 60 % of each step is used. Crop the
    picture to the wedge first. Raises ImageError where the pieces are not clearly different.
    """
    grey = _gray(pixels, name).astype(np.float64)
    height, width = grey.shape
    across, down = np.median(grey, axis=0), np.median(grey, axis=1)
    horizontal = float(across.var()) >= float(down.var())
    profile = across if horizontal else down
    length = len(profile)
    if count < 2 or length < 8 * count:
        raise ImageError(f"picture {name}: {length} px are too few for {count} steps", hint="crop to the wedge, larger")
    thin = max(1, length // 600)
    small = profile[: length // thin * thin].reshape(-1, thin).mean(axis=1)
    cuts = [cut * thin for cut in _flat_pieces(small, count)] + [length]
    regions, means = [], []
    for begin, end in itertools.pairwise(cuts):
        inner, wide = begin + round(0.2 * (end - begin)), max(1, round(0.6 * (end - begin)))
        low, tall = round(0.2 * (height if horizontal else width)), round(0.6 * (height if horizontal else width))
        regions.append((inner, low, wide, tall) if horizontal else (low, inner, tall, wide))
        means.append(float(profile[inner : inner + wide].mean()))
    jumps = np.diff(means)
    scatter = float(np.median(np.abs(np.diff(profile))))
    if np.any(np.abs(jumps) < 4.0 * scatter) or not (np.all(jumps > 0) or np.all(jumps < 0)):
        raise ImageError(
            f"picture {name}: {count} steps that only rise or only fall were not found",
            code="NO_STEPS",
            hint="crop to the wedge with --area, check the number of --steps, or give each --region",
        )
    return regions


def _flat_pieces(profile: Floats, count: int) -> list[int]:
    """Where the best division into ``count`` constant pieces begins each piece (dynamic programming)."""
    length = len(profile)
    total, square = np.append(0.0, np.cumsum(profile)), np.append(0.0, np.cumsum(profile**2))
    least = max(2, length // (count * 6))
    starts = np.arange(length + 1)
    best = np.full((count + 1, length + 1), np.inf)
    source = np.zeros((count + 1, length + 1), np.int64)
    best[0, 0] = 0.0
    for piece in range(1, count + 1):
        for end in range(piece * least, length + 1):
            begin = starts[: end - least + 1]
            spread = square[end] - square[begin] - (total[end] - total[begin]) ** 2 / (end - begin)
            cost = best[piece - 1, begin] + spread
            source[piece, end] = int(np.argmin(cost))
            best[piece, end] = cost[source[piece, end]]
    cuts = [length]
    for piece in range(count, 0, -1):
        cuts.append(int(source[piece, cuts[-1]]))
    return cuts[::-1][:-1]


def measure_step(
    pixels: NDArray[Any], region_px: tuple[int, int, int, int], thickness_mm: float, name: str, white: int | None = None
) -> Step:
    """Mean grey of a step. Raises ImageError when it is clipped: more than 0.5 % of its pixels at either end.

    white: the detector's largest value where that is below the file type's (4095 in a 16-bit file).
    """
    grey = _gray(pixels, name)
    x, y, w, h = region_px
    if x < 0 or y < 0 or w < 3 or h < 3 or x + w > grey.shape[1] or y + h > grey.shape[0]:
        raise UsageError(
            f"picture {name}: region {x},{y},{w},{h} is not inside its {grey.shape[1]} x {grey.shape[0]} px"
        )
    cut = grey[y : y + h, x : x + w]
    full = int(np.iinfo(grey.dtype).max)
    top = white or full
    peak = int(grey.max())
    # A 10, 12 or 14-bit detector in a 16-bit file saturates below the type's end.
    if white is None and peak in (1023, 4095, 16383) and np.count_nonzero(grey == peak) > 0.005 * grey.size:
        top = peak
    clipped = float(np.count_nonzero((cut <= 0) | (cut >= top))) / cut.size
    if clipped > _CLIPPED_SHARE:
        raise ImageError(
            f"picture {name}: {100 * clipped:.1f} % of the step of {thickness_mm:g} mm is clipped",
            code="CLIPPED",
            hint="change exposure so that every step lies inside the detector's range, or leave that step out",
        )
    return Step(thickness_mm, float(cut.mean()) / full, float(cut.std(ddof=1)) / full, cut.size, region_px)


def fit_wedge(steps: Sequence[Step], thickness_u_mm: float = 0.0, model: str = "auto") -> WedgeCurve:
    """The curve through the steps. model: "physics", "interpolation", or "auto": physics where it predicts.

    Raises UsageError for too few steps, ImageError for steps that are not monotone beyond their noise.
    """
    if len(steps) < _LEAST_STEPS:
        raise UsageError(
            f"{len(steps)} steps are too few", hint=f"{_LEAST_STEPS} or more, over the thickness of the parts"
        )
    if not (np.isfinite(thickness_u_mm) and thickness_u_mm >= 0):
        raise UsageError(f"a thickness uncertainty of {thickness_u_mm:g} mm is not plausible")
    ordered = sorted(steps, key=lambda one: one.thickness_mm)
    t = np.array([one.thickness_mm for one in ordered])
    g = np.array([one.grey for one in ordered])
    if np.any(np.diff(t) <= 0) or not np.isfinite(t).all() or t[0] < 0:
        raise UsageError("two steps have the same thickness, or one is negative", hint="--steps 2mm,4mm,6mm,...")
    jumps = np.diff(g)
    if not (np.all(jumps > 0) or np.all(jumps < 0)):
        at = int(np.argmin(jumps * np.sign(g[-1] - g[0])))
        raise ImageError(
            f"the grey value does not only rise or only fall: {t[at]:g} mm to {t[at + 1]:g} mm turns back",
            code="NOT_MONOTONE",
            hint="check that --steps stand in the order of the picture, and the regions",
        )
    fitted = _physics(t, g)
    numbers: tuple[float, ...]
    residual = _left_out(t, g, physics=True) if fitted is not None else None
    share = np.inf if residual is None else float(np.sqrt(np.mean(residual**2))) / float(t[-1] - t[0])
    if model == "physics" and fitted is None:
        raise ImageError("no curve offset + amplitude exp(-mu t) fits the steps", hint="--model interpolation")
    if model == "physics" or (model == "auto" and share <= _PHYSICS_SHARE):
        assert fitted is not None and residual is not None
        kind, numbers = "physics", tuple(fitted)
    else:
        kind, numbers = "interpolation", ()
        residual = _left_out(t, g, physics=False)
    u = float(np.hypot(np.sqrt(np.mean(residual**2)), thickness_u_mm))
    return WedgeCurve(kind, numbers, t, g, residual, u)


def _physics(t: Floats, g: Floats) -> tuple[float, float, float] | None:
    """(offset, amplitude, mu) by least squares: linear in the first two, a search over the third."""

    def linear(mu: float) -> tuple[float, Floats]:
        design = np.column_stack([np.ones_like(t), np.exp(-mu * (t - t[0]))])
        found, *_ = np.linalg.lstsq(design, g, rcond=None)
        return float(((g - design @ found) ** 2).sum()), found

    span = float(t[-1] - t[0])
    trials = np.geomspace(0.01 / span, 30.0 / span, 120)
    best = int(np.argmin([linear(float(mu))[0] for mu in trials]))
    low, high = trials[max(best - 1, 0)], trials[min(best + 1, len(trials) - 1)]
    for _ in range(60):
        a, b = low + 0.382 * (high - low), low + 0.618 * (high - low)
        low, high = (low, b) if linear(float(a))[0] < linear(float(b))[0] else (a, high)
    mu = float(low + high) / 2.0
    offset, amplitude = (float(one) for one in linear(mu)[1])
    numbers = (offset, amplitude * float(np.exp(mu * t[0])), mu)
    return numbers if np.isfinite(numbers).all() and amplitude != 0.0 else None


def _left_out(t: Floats, g: Floats, *, physics: bool) -> Floats:
    """Error (mm) of each inner step when it is predicted from the others."""
    errors = []
    for index in range(1, len(t) - 1):
        keep = np.arange(len(t)) != index
        if physics and np.count_nonzero(keep) >= 4:
            numbers = _physics(t[keep], g[keep])
        else:
            numbers = _physics(t, g) if physics else None
        curve = WedgeCurve(
            "physics" if physics and numbers else "interpolation", numbers or (), t[keep], g[keep], np.zeros(0), 0.0
        )
        found = float(curve.thickness(np.array([g[index]]))[0])
        if not np.isfinite(found):  # just outside what the others span: the nearest end
            ends = curve.grey_at(np.array(curve.range_mm))
            found = curve.range_mm[int(np.argmin(np.abs(ends - g[index])))]
        errors.append(found - float(t[index]))
    return np.array(errors)
