"""Where the points of a target are in a picture, to a few hundredths of a pixel. Pure NumPy/OpenCV.

OpenCV only says which corner is where to about a pixel. The place itself is fitted here: OpenCV's own ChArUco
refinement is offset by half a pixel in some releases (opencv/opencv#25539, mended by #28380), and a fit of the blurred
corner itself uses every pixel along both edges, says how blurred it is, and how well it fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .geometry import Floats
from .targets import Target

__all__ = ["View", "dot_centroids", "find_target", "grey_float", "grey_u8"]

#: A picture blurred by more than this share of a square (or dot pitch), or by this many pixels, is refused.
_MAX_BLUR_SHARE, _MAX_BLUR_PX = 0.1, 3.0
#: Longer edges would lower the noise, but a lens bends them: 0.25 of distortion moves a corner fitted over 20 px by
#: 0.007 px, which looks like 14 ppm of scale; over 11 px by 0.002 px.
_MAX_WINDOW_PX = 11
_MIN_WINDOW_PX = 4
_MIN_SQUARE_PX = 14.0
_MIN_DOT_PX = 6.0
_LEAST_POINTS = 12


@dataclass(frozen=True, slots=True)
class View:
    """The points of a target found in one picture.

    ids: (N,) int64, numbers of the target's points. uv: (N, 2) float64, frame px, pixel centres whole. blur_px:
    standard deviation of the blur (median over the points; 0 for dots). size_px: (width, height) of the picture.
    """

    name: str
    sha256: str
    size_px: tuple[int, int]
    ids: NDArray[np.int64]
    uv: Floats
    blur_px: float


def grey_float(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W) or RGB (H, W, 3), uint8 or uint16 -> float32 (H, W) in [0, 1] of the type's range."""
    grey = pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY))
    top = 255 if grey.dtype == np.uint8 else 65535
    return np.asarray(grey.astype(np.float32) / np.float32(top), np.float32)


def grey_u8(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The picture stretched to 8 bit between its 0.1 and 99.9 percentile: for detection only, never for measuring."""
    low, high = (float(one) for one in np.percentile(grey[::3, ::3], (0.1, 99.9)))
    return np.asarray(np.clip((grey - low) * (255.0 / max(high - low, 1e-6)), 0, 255).astype(np.uint8), np.uint8)


def find_target(pixels: NDArray[Any], target: Target, name: str, sha256: str = "") -> View:
    """Find a target in a picture (uint8 or uint16, grey or RGB).

    Raises ImageError naming the picture: no target in it, too little of it, too blurred, too small, saturated.
    """
    grey = grey_float(pixels)
    size = (pixels.shape[1], pixels.shape[0])
    # A 12-bit camera in a 16-bit file, or little light: what counts is contrast against the picture's own white.
    white = max(float(np.percentile(grey[::3, ::3], 99.9)), 1e-3)
    grey = np.asarray(grey / np.float32(white), np.float32)
    find = _find_charuco if target.kind == "charuco" else _find_dots
    ids, uv, blur = find(grey, target, name)
    if len(ids) < _LEAST_POINTS:
        raise ImageError(
            f"picture {name}: only {len(ids)} of {target.count} points of target {target.id} can be measured",
            code="TARGET_CUT",
            hint="show more of the target: nothing may cover it, and the light must not saturate",
        )
    order = np.argsort(ids)
    return View(name, sha256, size, ids[order], uv[order], blur)


def _no_target(name: str, target: Target, why: str) -> ImageError:
    return ImageError(
        f"picture {name}: target {target.id} was not found: {why}",
        code="NO_TARGET",
        hint="show the whole target, evenly lit, sharp, not mirrored, and check the identifier printed on it",
    )


def _blurred(name: str, blur_px: float) -> ImageError:
    return ImageError(
        f"picture {name}: blurred (edges spread by {blur_px:.1f} px)",
        code="BLURRED",
        hint="focus, close the aperture, or hold the target still; then take it again",
    )


# ---- ChArUco -------------------------------------------------------------------------------------------------------


def _find_charuco(grey: NDArray[np.float32], target: Target, name: str) -> tuple[NDArray[np.int64], Floats, float]:
    picture = grey_u8(grey)
    parameters = cv2.aruco.DetectorParameters()
    # Frames reach 25 MP: windows of the adaptive threshold from fine to the size of a square.
    parameters.adaptiveThreshWinSizeMin, parameters.adaptiveThreshWinSizeMax = 5, 45
    parameters.adaptiveThreshWinSizeStep, parameters.minMarkerPerimeterRate = 10, 0.01
    detector = cv2.aruco.ArucoDetector(target.board().getDictionary(), parameters)
    corners, markers, _ = detector.detectMarkers(picture)
    if markers is None or len(markers) < 4:
        raise _no_markers(grey, target, name, 0 if markers is None else len(markers))
    quads = [np.asarray(quad, np.float64).reshape(4, 2) for quad in corners]
    start_ids, start_uv, axes = _corners_from_markers(target, quads, [int(one) for one in markers.ravel()])
    if not len(start_ids):
        raise _no_target(name, target, "its markers do not lie together as on this target")
    fit = _fit_corners(grey, start_uv, axes)
    square = float(np.median(np.linalg.norm(axes, axis=2)))
    seen = fit.ok
    if not seen.any():
        # Without one usable corner: blur and smallness are the usual causes, the fitted spread tells which.
        spread = float(np.median(fit.blur_px))
        if spread > min(_MAX_BLUR_PX, _MAX_BLUR_SHARE * square):
            raise _blurred(name, spread)
        if square < _MIN_SQUARE_PX:
            raise _no_target(
                name, target, f"its squares are only {square:.0f} px wide, {_MIN_SQUARE_PX:.0f} are needed"
            )
        raise _no_target(name, target, "no corner could be measured")
    blur = float(np.median(fit.blur_px[seen]))
    if blur > min(_MAX_BLUR_PX, _MAX_BLUR_SHARE * square):
        raise _blurred(name, blur)
    return start_ids[seen], fit.uv[seen], blur


def _no_markers(grey: NDArray[np.float32], target: Target, name: str, count: int) -> ImageError:
    """Why no target was found: nothing to see, blur, or simply another picture."""
    low, high = (float(one) for one in np.percentile(grey, (1, 99)))
    if high - low < 0.02:
        return _no_target(name, target, "the picture is all of one grey")
    # Steepest slope of a blurred edge: contrast / (blur sqrt(2 pi)); one pixel of it is our own smoothing.
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    slope = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=0.125))
    spread = (high - low) / (np.sqrt(2.0 * np.pi) * max(float(np.percentile(slope, 99.9)), 1e-6))
    if spread > _MAX_BLUR_PX:
        return _blurred(name, float(np.sqrt(spread**2 - 1.0)))
    return _no_target(name, target, f"{count or 'none'} of its markers can be read")


def _corners_from_markers(
    target: Target, quads: list[Floats], numbers: list[int]
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Inner corners next to readable markers: (ids (N,), place to about a pixel (N, 2), axes (N, 2, 2)).

    axes[n] holds, as rows, the steps in px of one square to the right and one square down on the target there.
    """
    board = target.board()
    places = np.asarray(board.getObjPoints(), np.float64)[:, :, :2]  # (M, 4, 2) in squares
    known = [(quad, n) for quad, n in zip(quads, numbers, strict=True) if n < len(places)]
    if len(known) < 4:
        return np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros((0, 2, 2))
    board_points = np.concatenate([places[n] for _, n in known])
    frame_points = np.concatenate([quad for quad, _ in known])
    # A marker misread somewhere must not bend the rest: one homography sorts it out, lens distortion allowed for.
    whole, _ = cv2.findHomography(board_points, frame_points, cv2.RANSAC, 0.25 * _median_side(known))
    if np.size(whole) != 9:
        return np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros((0, 2, 2))
    ids, uv, axes = [], [], []
    centres = np.array([places[n].mean(axis=0) for _, n in known])
    predicted = cv2.perspectiveTransform(board_points[:, None], whole)[:, 0]
    error = np.linalg.norm(predicted - frame_points, axis=1).reshape(-1, 4).max(axis=1)
    usable = error < 0.6 * _median_side(known)
    for number in range(target.count):
        column, row = number % (target.columns - 1), number // (target.columns - 1)
        place = np.array([column + 1.0, row + 1.0])
        distance = np.where(usable, np.abs(centres - place).max(axis=1), np.inf)
        if np.count_nonzero(distance < 1.0) < 1 or np.count_nonzero(distance < 2.1) < 3:
            continue
        near = np.argsort(distance, kind="stable")[:4]
        points = np.concatenate([places[known[n][1]] for n in near])
        local, _ = cv2.findHomography(points, np.concatenate([known[n][0] for n in near]), 0)
        if np.size(local) != 9:
            continue
        probes = place + np.array([[0, 0], [0.25, 0], [-0.25, 0], [0, 0.25], [0, -0.25]])
        there = cv2.perspectiveTransform(probes[:, None], local)[:, 0]
        ids.append(number)
        uv.append(there[0])
        axes.append([2.0 * (there[1] - there[2]), 2.0 * (there[3] - there[4])])
    return np.array(ids, np.int64), np.array(uv).reshape(-1, 2), np.array(axes).reshape(-1, 2, 2)


def _median_side(known: list[tuple[Floats, int]]) -> float:
    return float(np.median([np.linalg.norm(quad - np.roll(quad, 1, axis=0), axis=1).mean() for quad, _ in known]))


@dataclass(frozen=True, slots=True)
class _CornerFit:
    """uv (N, 2), blur_px (N,), ok (N,): which corners could be fitted well."""

    uv: Floats
    blur_px: Floats
    ok: NDArray[np.bool_]


def _erf(x: Floats, exp_x2: Floats) -> Floats:
    """Error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26); exp_x2 = exp(-x^2), at hand anyway."""
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(np.sign(x) * (1.0 - poly * exp_x2), np.float64)


def _fit_corners(grey: NDArray[np.float32], start: Floats, axes: Floats) -> _CornerFit:
    """Least-squares fit of a blurred saddle to every corner at once.

    Grey = m + gx dx + gy dy + h erf(s1) erf(s2), s = signed distance from each of the two edges over sqrt(2) times the
    blur: nine numbers a corner. Pixels that a marker could reach are left out; what remains is a cross along both
    edges, where all the information is.
    """
    count = len(start)
    lengths = np.linalg.norm(axes, axis=2)
    reach = int(np.clip(np.median(lengths) * 0.45, _MIN_WINDOW_PX, _MAX_WINDOW_PX))
    height, width = grey.shape
    whole = np.rint(start).astype(np.int64)
    inside = (whole >= reach).all(axis=1) & (whole[:, 0] < width - reach) & (whole[:, 1] < height - reach)
    inside &= lengths.min(axis=1) >= _MIN_SQUARE_PX
    offsets = np.arange(-reach, reach + 1)
    dy, dx = (part.ravel() for part in np.meshgrid(offsets, offsets, indexing="ij"))
    blur, uv, ok = np.full(count, np.inf), start.copy(), np.zeros(count, bool)
    if not inside.any():
        return _CornerFit(uv, blur, ok)
    chosen = np.flatnonzero(inside)
    base = whole[chosen]
    values = grey[base[:, 1, None] + dy, base[:, 0, None] + dx].astype(np.float64)
    # Board coordinates of each pixel, in squares from the corner.
    to_board = np.linalg.inv(axes[chosen].transpose(0, 2, 1))
    relative = np.stack([dx, dy])[None] + (base - start[chosen])[:, :, None]
    board = np.abs(to_board @ relative)
    shortest = lengths[chosen].min(axis=1)[:, None]
    margin = (1.0 - 0.7) / 2.0
    free = np.maximum(margin - 1.5 / shortest, 0.6 * margin)
    weight = ((board.min(axis=1) < free) & (board.max(axis=1) < 0.45)).astype(np.float64)
    theta = np.zeros((len(chosen), 9))
    theta[:, :2] = start[chosen] - base
    theta[:, 2] = np.arctan2(axes[chosen][:, 0, 1], axes[chosen][:, 0, 0])
    theta[:, 3] = np.arctan2(axes[chosen][:, 1, 1], axes[chosen][:, 1, 0])
    theta[:, 4] = 1.0
    theta[:, 5] = (values * weight).sum(axis=1) / weight.sum(axis=1)
    theta[:, 8] = np.sqrt((weight * (values - theta[:, 5:6]) ** 2).sum(axis=1) / weight.sum(axis=1))
    # The sign: which pair of quadrants is the bright one.
    quadrants = np.sign((to_board @ relative)[:, 0] * (to_board @ relative)[:, 1]) * weight
    bright = (quadrants * (values - theta[:, 5:6])).sum(axis=1)
    # s1 s2 with normals turned by +90 degrees from the axes has the opposite sign of the product of coordinates.
    theta[:, 8] *= -np.sign(bright)
    residual = np.zeros_like(values)
    for _ in range(14):
        step, residual = _corner_step(theta, values, weight, dx, dy, reach)
        theta += step
        theta[:, 4] = np.clip(theta[:, 4], 0.25, reach)
        if float(np.abs(step[:, :2]).max()) < 1e-5:
            break
    used = weight.sum(axis=1)
    noise = np.sqrt((residual**2).sum(axis=1) / np.maximum(used - 9, 1))
    moved = np.linalg.norm(theta[:, :2] - (start[chosen] - base), axis=1)
    contrast = np.abs(theta[:, 8])
    good = (
        np.isfinite(theta).all(axis=1)
        & (np.abs(step[:, :2]).max(axis=1) < 1e-3)
        & (moved < np.maximum(3.0, 0.12 * shortest[:, 0]))
        & (contrast > 0.03)
        & (noise < 0.3 * contrast)
        & (theta[:, 4] < 0.5 * reach)
        & (used > 40)
    )
    uv[chosen] = base + theta[:, :2]
    blur[chosen] = np.where(np.isfinite(theta[:, 4]), theta[:, 4], np.inf)
    ok[chosen] = good
    return _CornerFit(uv, blur, ok)


def _corner_step(
    theta: Floats, values: Floats, weight: Floats, dx: NDArray[np.int64], dy: NDArray[np.int64], reach: int
) -> tuple[Floats, Floats]:
    """One damped Gauss-Newton step for all corners: (step (N, 9), weighted residual (N, P))."""
    px, py = dx - theta[:, 0:1], dy - theta[:, 1:2]
    spread = np.sqrt(2.0) * theta[:, 4:5]
    parts = []
    for angle in (theta[:, 2:3], theta[:, 3:4]):
        cos, sin = np.cos(angle), np.sin(angle)
        s = (-sin * px + cos * py) / spread
        bell = np.exp(-s * s)
        parts.append((s, _erf(s, bell), 2.0 / np.sqrt(np.pi) * bell, cos, sin))
    (s1, e1, d1, c1, n1), (s2, e2, d2, c2, n2) = parts
    height = theta[:, 8:9]
    residual = (values - theta[:, 5:6] - (theta[:, 6:7] * px + theta[:, 7:8] * py) / reach - height * e1 * e2) * weight
    along1, along2 = height * d1 * e2, height * e1 * d2  # d model / d s1, d s2
    columns = [
        (along1 * n1 + along2 * n2) / spread - theta[:, 6:7] / reach,
        (-along1 * c1 - along2 * c2) / spread - theta[:, 7:8] / reach,
        along1 * (-c1 * px - n1 * py) / spread,
        along2 * (-c2 * px - n2 * py) / spread,
        -(along1 * s1 + along2 * s2) / theta[:, 4:5],
        np.ones_like(s1),
        px / reach,
        py / reach,
        e1 * e2,
    ]
    jacobian = np.stack(columns, axis=2) * weight[:, :, None]
    normal = jacobian.transpose(0, 2, 1) @ jacobian
    diagonal = np.einsum("nii->ni", normal)
    normal[:, np.arange(9), np.arange(9)] = diagonal * (1.0 + 1e-6) + 1e-9
    step = np.linalg.solve(normal, jacobian.transpose(0, 2, 1) @ residual[:, :, None])[:, :, 0]
    # A step of more than a pixel, half the blur or a tenth of a radian comes from far away: go part of it.
    limits = np.array([1.0, 1.0, 0.1, 0.1, 0.5, np.inf, np.inf, np.inf, np.inf])
    shrink = np.minimum(1.0, (limits / np.maximum(np.abs(step), 1e-12)).min(axis=1))
    return step * shrink[:, None], residual


# ---- dots ----------------------------------------------------------------------------------------------------------


def _find_dots(grey: NDArray[np.float32], target: Target, name: str) -> tuple[NDArray[np.int64], Floats, float]:
    centres, areas = _dark_blobs(grey)
    if len(centres) < _LEAST_POINTS:
        raise _no_target(name, target, f"{len(centres) or 'no'} round dark dots stand in it")
    cells = _lattice(centres)
    labelled = np.array(sorted(cells), np.int64)
    if len(labelled) < _LEAST_POINTS:
        raise _no_target(name, target, "its dots do not stand in rows and columns")
    places = np.array([cells[int(number)] for number in labelled])
    marks = [int(number) for number in labelled if _is_mark(int(number), cells, areas)]
    turned = _orientation(np.array([cells[number] for number in marks]).reshape(-1, 2))
    if turned is None:
        raise _no_target(name, target, f"{len(marks)} of its three large dots can be told; they say where up is")
    turn, origin = turned
    column, row = target.columns // 2, target.rows // 2
    on_target = (places - origin) @ turn.T + (column, row)
    fits = (on_target >= 0).all(axis=1) & (on_target[:, 0] < target.columns) & (on_target[:, 1] < target.rows)
    if np.count_nonzero(~fits) > 0.1 * len(fits):
        raise _no_target(name, target, f"{np.count_nonzero(~fits)} dots stand outside {target.columns} x {target.rows}")
    ids = (on_target[:, 1] * target.columns + on_target[:, 0])[fits]
    start = centres[labelled[fits]]
    diameter = 2.0 * np.sqrt(areas[labelled[fits]] / np.pi)
    if float(np.median(diameter)) < _MIN_DOT_PX:
        raise _no_target(
            name, target, f"its dots are only {np.median(diameter):.0f} px wide, {_MIN_DOT_PX:.0f} are needed"
        )
    uv, spread, good = dot_centroids(grey, start, diameter)
    if not good.any():
        raise _no_target(name, target, "no dot could be measured")
    blur = float(np.median(spread[good]))
    if blur > min(_MAX_BLUR_PX, 0.25 * float(np.median(diameter))):
        raise _blurred(name, blur)
    # The large dots have less white around them than their size asks for: they only say where up is.
    good &= ~np.isin(ids, target.marks)
    return ids[good], uv[good], blur


def _dark_blobs(grey: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Round dark regions that do not touch the border: (centres (N, 2) to a fraction of a pixel, areas (N,))."""
    picture = grey_u8(grey)
    side = max(15, int(min(picture.shape) / 8) | 1)
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
    local = cv2.blur(smooth, (side, side), borderType=cv2.BORDER_REPLICATE)
    mask = (smooth.astype(np.int16) < local.astype(np.int16) - 25).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    height, width = grey.shape
    centres, areas = [], []
    for contour in contours:
        x, y, w, h = cv2.boundingRect(contour)
        if (
            len(contour) < 8
            or x <= 1
            or y <= 1
            or x + w >= width - 1
            or y + h >= height - 1
            or max(w, h) > 4 * min(w, h)
        ):
            continue
        moments = cv2.moments(contour)
        area = moments["m00"]
        if area < 12:
            continue
        # An ellipse fills 4 pi sqrt(det of its second moments) of itself: 1 for any ellipse, less for other shapes.
        xx, yy, xy = (moments[key] / area for key in ("mu20", "mu02", "mu11"))
        if abs(area / (4.0 * np.pi * np.sqrt(max(xx * yy - xy * xy, 1e-9))) - 1.0) > 0.06:
            continue
        centres.append((moments["m10"] / area, moments["m01"] / area))
        areas.append(area + 0.5 * len(contour))  # the contour runs through pixel centres
    return np.array(centres, np.float64).reshape(-1, 2), np.array(areas, np.float64)


def _lattice(centres: Floats) -> dict[int, tuple[int, int]]:
    """Column and row (from an arbitrary dot, in an arbitrary of the four turns) of the largest connected grid."""
    best: dict[int, tuple[int, int]] = {}
    middle = np.argsort(np.linalg.norm(centres - np.median(centres, axis=0), axis=1), kind="stable")
    for seed in (int(one) for one in middle[:8]):
        found = _grow(centres, seed)
        if len(found) > len(best):
            best = found
        if len(best) > 0.7 * len(centres):
            break
    return best


def _grow(centres: Floats, seed: int) -> dict[int, tuple[int, int]]:
    distance = np.linalg.norm(centres - centres[seed], axis=1)
    near = np.argsort(distance, kind="stable")[1:9]
    if len(near) < 4:
        return {}
    first = centres[near[0]] - centres[seed]
    across = centres[near] - centres[seed]
    # The second axis: the nearest neighbour that lies sideways, to the right of the first (y down), so never mirrored.
    sine = (first[0] * across[:, 1] - first[1] * across[:, 0]) / (np.linalg.norm(first) * distance[near])
    side = np.flatnonzero(sine > 0.5)
    if not side.size:
        return {}
    second = across[side[0]]
    cells = {seed: (0, 0)}
    taken = {(0, 0): seed}
    bases = {seed: (first, second)}
    queue = [seed]
    while queue:
        here = queue.pop(0)
        column, row = cells[here]
        for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
            step = bases[here][axis] * sign
            cell = (column + sign * (axis == 0), row + sign * (axis == 1))
            if cell in taken:
                continue
            away = np.linalg.norm(centres - (centres[here] + step), axis=1)
            other = int(np.argmin(away))
            if other in cells or away[other] > 0.25 * np.linalg.norm(step):
                continue
            cells[other], taken[cell] = cell, other
            seen = (centres[other] - centres[here]) * sign
            base = list(bases[here])
            base[axis] = seen
            bases[other] = (base[0], base[1])
            queue.append(other)
    return cells


def _is_mark(number: int, cells: dict[int, tuple[int, int]], areas: Floats) -> bool:
    """Whether a dot is one of the large ones: 2.25 times the area of the usual dot near it."""
    column, row = cells[number]
    near = [areas[other] for other, (c, r) in cells.items() if abs(c - column) <= 2 and abs(r - row) <= 2]
    return bool(areas[number] > 1.55 * float(np.median(near)))


def _orientation(marks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """(turn (2, 2), cell of the origin) that brings the three large dots to (0, 0), (2, 0), (0, 3), or None."""
    if len(marks) != 3:
        return None
    for quarter in range(4):
        cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter]
        turn = np.array([[cos, -sin], [sin, cos]], np.int64)
        turned = marks @ turn.T
        for origin in range(3):
            seen = {(int(x), int(y)) for x, y in turned - turned[origin]}
            if seen == {(0, 0), (2, 0), (0, 3)}:
                return turn, np.asarray(marks[origin])
    return None


def dot_centroids(
    grey: NDArray[np.float32], start: Floats, diameter: Floats, *, dark: bool = True
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Centre of gravity of the darkness of round dots: (uv (N, 2), blur px (N,), good (N,)).

    The background is a plane fitted to a ring around each dot, so that uneven light does not shift it. Blur and pixel
    size do not move a centre of gravity. What it finds is the centre of the dot's *picture*, not the picture of its
    centre: the fit corrects that (see fit.py).
    """
    uv, blur, good = start.copy(), np.zeros(len(start)), np.zeros(len(start), bool)
    height, width = grey.shape
    for index in range(len(start)):
        reach = float(diameter[index]) / 2.0
        # The window holds an ellipse seen at 40 degrees and its blur; the ring behind it stays clear of the next dot.
        inner, outer = 1.15 * reach + 2.5, 1.4 * reach + 4.0
        total, shift = 0.0, np.inf
        for _ in range(10):
            cx, cy = uv[index]
            x0, y0 = int(np.floor(cx - outer)), int(np.floor(cy - outer))
            x1, y1 = int(np.ceil(cx + outer)) + 1, int(np.ceil(cy + outer)) + 1
            if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
                break
            cut = grey[y0:y1, x0:x1].astype(np.float64)
            yy, xx = np.mgrid[y0:y1, x0:x1].astype(np.float64)
            r = np.hypot(xx - cx, yy - cy)
            ring = (r > inner) & (r < outer)
            design = np.column_stack([np.ones(ring.sum()), xx[ring] - cx, yy[ring] - cy])
            plane, *_ = np.linalg.lstsq(design, cut[ring], rcond=None)
            paper = plane[0] + plane[1] * (xx - cx) + plane[2] * (yy - cy)
            # Light multiplies: as a share of the paper around it a dark dot weighs the same on both sides.
            depth = 1.0 - cut / np.maximum(paper, 1e-3) if dark else cut - paper
            # Pixels on the rim of the window count in part: a hard rim would pull the centre to whole pixels.
            window = np.clip(inner - r + 0.5, 0.0, 1.0)
            total = float((depth * window).sum())
            if total <= 0:
                break
            moved = np.array([(depth * window * xx).sum(), (depth * window * yy).sum()]) / total
            shift = float(np.linalg.norm(moved - uv[index]))
            if shift > reach:
                break
            uv[index] = moved
            if shift < 2e-3:
                break
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height or total <= 0 or shift > 0.02:
            continue
        core = depth[r < 0.4 * reach]
        contrast = float(np.median(core)) if core.size else 0.0
        noise = float(np.std(depth[ring]))
        # Steepest slope of a blurred edge: contrast / (blur sqrt(2 pi)).
        slope = np.hypot(*np.gradient(cv2.GaussianBlur(depth, (0, 0), 0.8)))
        steep = float(np.percentile(slope[window > 0], 95)) if (window > 0).any() else 0.0
        blur[index] = contrast / (steep * np.sqrt(2.0 * np.pi)) if steep > 0 else np.inf
        good[index] = contrast > 0.03 and noise < 0.3 * contrast and 0.3 < total / (contrast * np.pi * reach**2) < 2.0
    return uv, blur, good
