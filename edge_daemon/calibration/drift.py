"""Has the camera moved since it was calibrated? A mark that stays in view, then and now. Pure NumPy/OpenCV.

Marks are ArUco markers of dictionary 4X4_50 (never those of the ChArUco board) or round dots, fixed to the machine, in
the plane of the parts or not: only their change counts. Not covered: a part that lies higher than it should, a change
of focus that leaves mark and scale alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, UsageError
from ..records import Reason
from .edges import fit_edge
from .find import dot_centroids, grey_float, grey_u8
from .geometry import Floats

__all__ = ["Drift", "DriftLimits", "Fiducial", "find_fiducial", "measure_drift"]

DICTIONARY = cv2.aruco.DICT_4X4_50
_MODULES = 6
_MIN_SIDE_PX = 24.0


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """From where on a calibration no longer holds: shift (px), change of scale (ppm), rotation (mrad)."""

    shift_px: float = 3.0
    scale_ppm: float = 500.0
    rotation_mrad: float = 2.0

    def __post_init__(self) -> None:
        for name, value in (("shift", self.shift_px), ("scale", self.scale_ppm), ("rotation", self.rotation_mrad)):
            if not (np.isfinite(value) and value > 0):
                raise UsageError(
                    f"drift limit of {name} {value:g} is not above 0", hint="such as 3 px, 500 ppm, 2 mrad"
                )


@dataclass(frozen=True, slots=True, eq=False)
class Fiducial:
    """Marks as they stood when calibrating. kind: "aruco" (points: 4 corners a marker) or "dots" (points: centres).

    numbers: marker or dot numbers. points: (N, 4, 2) or (N, 1, 2) frame px. size_px: mean side or diameter.
    """

    kind: str
    numbers: tuple[int, ...]
    points: Floats
    size_px: float
    dark: bool = True


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the marks have moved: at their middle, in scale and in rotation, and whether that is within the limits.

    found: False where no mark, or of dots not all, could be seen; then the rest is 0 and ``ok`` is False.
    """

    found: bool
    shift_px: float
    scale_ppm: float
    rotation_mrad: float
    ok: bool
    seen: int
    of: int

    @property
    def reason(self) -> Reason | None:
        """Why parts may not be judged any more, or None."""
        if not self.found:
            return Reason("FIDUCIAL_LOST", "the mark that watches the camera is not in view: clean it or uncover it")
        if self.ok:
            return None
        return Reason(
            "CALIBRATION_DRIFT",
            f"the camera has moved since it was calibrated: {self.shift_px:.2f} px, {self.scale_ppm:+.0f} ppm,"
            f" {self.rotation_mrad:+.2f} mrad; fix it and calibrate again",
        )


def _markers(grey: NDArray[np.float32], wanted: int | None = None) -> dict[int, Floats]:
    """Corners (4, 2) of every readable marker, by number, refined on its four sides; or of the one wanted.

    A single pass misses a marker in a few pictures of a hundred (it takes the card's outline for it): three differently
    smoothed pictures are looked at.
    """
    parameters = cv2.aruco.DetectorParameters()
    parameters.minMarkerPerimeterRate = 0.01
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(DICTIONARY), parameters)
    picture = grey_u8(grey)
    found: dict[int, Floats] = {}
    for blur_px in (1.2, 0.0, 2.0):
        quads, numbers, _ = detector.detectMarkers(cv2.GaussianBlur(picture, (0, 0), blur_px) if blur_px else picture)
        for quad, number in zip(quads, [] if numbers is None else numbers.ravel(), strict=True):
            if int(number) in found or (wanted is not None and int(number) != wanted):
                continue
            corners = _refined(grey, np.asarray(quad, np.float64).reshape(4, 2))
            if corners is not None:
                found[int(number)] = corners
        if wanted in found:
            break
    return found


def _refined(grey: NDArray[np.float32], quad: Floats) -> Floats | None:
    lines = []
    for index in range(4):
        a, b = quad[index], quad[(index + 1) % 4]
        side = float(np.linalg.norm(b - a))
        if side < _MIN_SIDE_PX:
            return None
        along = (b - a) / side
        # The black border is a sixth of the side: stay inside it, and away from the corners.
        reach = min(0.8 * side / _MODULES, 8.0)
        edge = fit_edge(grey, (a + b) / 2.0, np.array([along[1], -along[0]]), 0.5 * side - 1.2 * reach, reach)
        if edge is None:
            return None
        lines.append((edge.normal, float(edge.normal @ edge.point)))
    corners = []
    for index in range(4):
        (n1, d1), (n2, d2) = lines[index - 1], lines[index]
        corners.append(np.linalg.solve(np.stack([n1, n2]), np.array([d1, d2])))
    refined = np.array(corners)
    return refined if float(np.abs(refined - quad).max()) < 4.0 else None


def find_fiducial(pixels: NDArray[Any], name: str, dots: Sequence[tuple[float, float, float]] = ()) -> Fiducial:
    """The marks in a picture: all markers in it, or the ``dots`` given by (x, y, diameter) in px, roughly.

    Raises ImageError where there is none; UsageError for a single dot (it shows no turn and no change of scale).
    """
    grey = grey_float(pixels)
    if dots:
        if len(dots) < 2:
            raise UsageError(
                "one dot shows neither rotation nor scale", hint="give two or more, far apart, or a marker"
            )
        start = np.array([(x, y) for x, y, _ in dots], np.float64)
        wide = np.array([size for _, _, size in dots], np.float64)
        x, y = np.clip(np.rint(start).astype(int), 0, (grey.shape[1] - 1, grey.shape[0] - 1)).T
        dark = bool(float(np.median(grey[y, x])) < float(np.median(grey)))
        uv, _, good = dot_centroids(grey, start, wide, dark=dark)
        if not good.all():
            at = start[int(np.argmin(good))]
            raise ImageError(
                f"picture {name}: no round dot at {at[0]:.0f}, {at[1]:.0f}",
                code="NO_FIDUCIAL",
                hint="give x,y,diameter in px of a dot on an even background",
            )
        return Fiducial("dots", tuple(range(len(uv))), uv[:, None], float(wide.mean()), dark)
    found = _markers(grey)
    if not found:
        raise ImageError(
            f"picture {name}: no marker of dictionary 4X4_50 in it",
            code="NO_FIDUCIAL",
            hint=f"fix a printed marker in view (calibrate target marker), sharp, {_MIN_SIDE_PX:.0f} px wide or more",
        )
    points = np.array([found[number] for number in sorted(found)])
    side = float(np.linalg.norm(points - np.roll(points, 1, axis=1), axis=2).mean())
    return Fiducial("aruco", tuple(sorted(found)), points, side)


def measure_drift(pixels: NDArray[Any], fiducial: Fiducial, limits: DriftLimits) -> Drift:
    """Compare the marks in a frame with where they stood; see Drift. Never raises for what the picture shows."""
    grey = grey_float(pixels)
    of = len(fiducial.numbers)
    then, now = [], []
    if fiducial.kind == "dots":
        start = fiducial.points[:, 0]
        for shift in _near_shifts(grey, fiducial):
            uv, _, good = dot_centroids(grey, start + shift, np.full(of, fiducial.size_px), dark=fiducial.dark)
            if good.all():
                then, now = [start], [uv]
                break
    else:
        reach = int(2.0 * fiducial.size_px) + 8
        for number, corners in zip(fiducial.numbers, fiducial.points, strict=True):
            low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - reach, 0)
            high = np.ceil(corners.max(axis=0)).astype(int) + reach
            cut = grey[low[1] : high[1], low[0] : high[0]]
            if min(cut.shape) < 16:
                continue
            found = _markers(np.ascontiguousarray(cut), number)
            if number in found:
                then.append(corners)
                now.append(found[number] + low)
    if not then:
        return Drift(False, 0.0, 0.0, 0.0, False, 0, of)
    seen = of if fiducial.kind == "dots" else len(then)
    before, after = np.concatenate(then), np.concatenate(now)
    middle, there = before.mean(axis=0), after.mean(axis=0)
    p, q = (before - middle) @ (1, 1j), (after - there) @ (1, 1j)
    turn = complex(np.vdot(p, q) / np.vdot(p, p))
    shift_px = float(np.linalg.norm(there - middle))
    scale_ppm, rotation_mrad = 1e6 * (abs(turn) - 1.0), 1e3 * float(np.angle(turn))
    ok = (
        shift_px <= limits.shift_px
        and abs(scale_ppm) <= limits.scale_ppm
        and abs(rotation_mrad) <= limits.rotation_mrad
    )
    return Drift(True, shift_px, scale_ppm, rotation_mrad, ok, seen, of)


def _near_shifts(grey: NDArray[np.float32], fiducial: Fiducial) -> list[Floats]:
    """Where the dots may stand now, likeliest first: unmoved, then where the first one's neighbourhood moved to."""
    start = fiducial.points[:, 0]
    reach = 2.0 * fiducial.size_px
    low = np.maximum(np.floor(start[0] - reach).astype(int), 0)
    cut = grey[low[1] : int(start[0, 1] + reach) + 1, low[0] : int(start[0, 0] + reach) + 1].astype(np.float64)
    shifts = [np.zeros(2)]
    if cut.size:
        paper = float(np.median(cut))
        depth = np.clip((paper - cut) if fiducial.dark else (cut - paper), 0.0, None)
        depth[depth < 0.5 * depth.max()] = 0.0
        if depth.sum() > 0:
            yy, xx = np.mgrid[0 : cut.shape[0], 0 : cut.shape[1]]
            seen = np.array([(depth * xx).sum(), (depth * yy).sum()]) / depth.sum() + low
            shifts.append(seen - start[0])
    return shifts
