"""Lens and plane from the points found in views: bundle adjustment, covariance, held-out residuals, refusals. Pure.

One view in five points is held out: never used in the fit, only to say honestly how well the fit predicts. The standard
uncertainty comes from the covariance of the fit scaled by its residuals, the target's pitch, what the model could not
follow, and height where it is stated. Not covered: print errors that vary over the target other than its pitch, a
target that is not flat, a camera that moved between the views.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeError, ImageError, UsageError
from .find import View
from .geometry import Floats, PlaneModel
from .targets import Target

__all__ = ["BoardFit", "ViewResidual", "fit_plane"]

#: What a lens fit needs. Tilt: angle between the target and the plane view's target.
LEAST_VIEWS = 5
LEAST_TILTED = 3
LEAST_TILT_DEG = 8.0
WIDEST_TILT_DEG = 15.0
LEAST_COVERAGE = 0.6
LEAST_PLANE_COVERAGE = 0.35
COVERAGE_GRID = (8, 6)
_SAME_VIEW_PX = 1.0
_MAX_RMS_PX = 1.0
_MAX_OUTLIERS = 0.05
_ROUNDS = 8
_INTRINSICS = 9
#: 99.9 % point of chi-square with 20 degrees of freedom (two cubic polynomials of 10 terms).
_CHI2_20_999 = 45.3


@dataclass(frozen=True, slots=True)
class ViewResidual:
    """How one view fits. held_out_rms_px: per coordinate, of points that the fit has not seen."""

    name: str
    points: int
    rms_px: float
    held_out_rms_px: float
    tilt_deg: float


@dataclass(frozen=True, slots=True, eq=False)
class BoardFit:
    """Lens and plane, and how well they are known.

    rms_px, held_out_rms_px, held_out_max_px: residuals per coordinate. coverage: points per cell of an 8 x 6 grid over
    the frame, all views. u_pitch, u_misfit: relative standard uncertainties of the scale. outliers: points left out.
    """

    model: PlaneModel
    size_px: tuple[int, int]
    rms_px: float
    held_out_rms_px: float
    held_out_max_px: float
    held_out_points: int
    points: int
    outliers: int
    views: tuple[ViewResidual, ...]
    coverage: NDArray[np.int64]
    plane_hull_px: Floats
    u_pitch: float
    u_misfit: float


def fit_plane(
    views: Sequence[View],
    target: Target,
    pitch_mm: tuple[float, float],
    pitch_u_mm: float,
    *,
    plane: int = -1,
) -> BoardFit:
    """Fit lens and plane to views of a target; ``plane`` is the view in which it lies where the parts will lie.

    With one view only the plane is fitted (a homography): the lens is taken as free of distortion, and what the
    residuals show of its distortion goes into the uncertainty. With more views the lens is fitted as well.

    pitch_mm: measured pitch in x and y; pitch_u_mm: its standard uncertainty. Raises UsageError or ImageError with what
    is missing: views, tilts, coverage; views of different sizes; the same view twice; a target that does not fit.
    """
    if not views:
        raise UsageError("no view to calibrate with", hint="give pictures of the target")
    for pitch in pitch_mm:
        if not (np.isfinite(pitch) and 0.5 < pitch / target.pitch_mm < 2.0):
            raise UsageError(
                f"a pitch of {pitch:g} mm does not belong to target {target.id}",
                hint="measure over many squares, divide by their number, and check the identifier",
            )
    if not (np.isfinite(pitch_u_mm) and 0 <= pitch_u_mm < 0.1 * min(pitch_mm)):
        raise UsageError(
            f"a pitch uncertainty of {pitch_u_mm:g} mm is not plausible", hint="from 0 to 10 % of the pitch"
        )
    _check_sizes(views)
    plane %= len(views)
    if len(views) > 1:
        _check_duplicates(views)
        if len(views) < LEAST_VIEWS:
            raise UsageError(
                f"{len(views)} views are too few to fit a lens",
                code="TOO_FEW_VIEWS",
                hint=f"take {LEAST_VIEWS} or more, tilted differently; or give the one view in the plane alone",
            )
    coverage = _coverage(views)
    _check_coverage(views, plane, coverage)
    held = [_held_out(view, number, target) for number, view in enumerate(views)]
    kept = [~one for one in held]
    solver = _Homography if len(views) == 1 else _Bundle
    fit = solver(views, target, pitch_mm, plane)
    outliers, settled, total = 0, False, sum(len(view.ids) for view in views)
    theta, covariance = fit.solve(kept)
    for _ in range(_ROUNDS):
        fit.correct_dots(theta)
        theta, covariance = fit.solve(kept)
        worst = _outliers(fit.residuals(theta), kept)
        fresh = sum(int(np.count_nonzero(one)) for one in worst)
        if not fresh and (target.kind == "charuco" or settled):
            break
        settled = not fresh
        outliers += fresh
        if outliers > _MAX_OUTLIERS * total:
            break
        kept = [keep & ~bad for keep, bad in zip(kept, worst, strict=True)]
    residuals = fit.residuals(theta)
    _check_residuals(views, residuals, kept, outliers, total)
    tilts = fit.tilts_deg(theta)
    if len(views) > 1:
        _check_tilts(tilts, plane)
    model = fit.plane_model(theta, covariance)
    out = np.concatenate([r[h] for r, h in zip(residuals, held, strict=True)])
    inside = np.concatenate([r[k] for r, k in zip(residuals, kept, strict=True)])
    size = views[plane].size_px
    return BoardFit(
        model=model,
        size_px=size,
        rms_px=_rms(inside),
        held_out_rms_px=_rms(out),
        held_out_max_px=float(np.linalg.norm(out, axis=1).max()),
        held_out_points=len(out),
        points=len(inside),
        outliers=outliers,
        views=tuple(
            ViewResidual(view.name, len(view.ids), _rms(r[k]), _rms(r[h]), tilt)
            for view, r, k, h, tilt in zip(views, residuals, kept, held, tilts, strict=True)
        ),
        coverage=coverage,
        plane_hull_px=np.asarray(cv2.convexHull(views[plane].uv.astype(np.float32))[:, 0], np.float64),
        u_pitch=pitch_u_mm / min(pitch_mm),
        u_misfit=_misfit(views[plane].uv[kept[plane]], residuals[plane][kept[plane]], size),
    )


def _rms(residuals: Floats) -> float:
    return float(np.sqrt(np.mean(residuals**2))) if residuals.size else 0.0


def _held_out(view: View, number: int, target: Target) -> NDArray[np.bool_]:
    """One point in five, spread evenly (a knight's move pattern), a different fifth in every view."""
    places = target.indices(view.ids)
    return np.asarray((places[:, 0] + 2 * places[:, 1] + number) % 5 == 0)


# ---- refusals ------------------------------------------------------------------------------------------------------


def _check_sizes(views: Sequence[View]) -> None:
    for view in views[1:]:
        if view.size_px != views[0].size_px:
            raise ImageError(
                f"picture {view.name} has {view.size_px[0]} x {view.size_px[1]} px, {views[0].name} has"
                f" {views[0].size_px[0]} x {views[0].size_px[1]}",
                code="SIZE_MIX",
                hint="all views from one camera with one setting",
            )


def _check_duplicates(views: Sequence[View]) -> None:
    for later, view in enumerate(views):
        for other in views[:later]:
            same = bool(view.sha256) and view.sha256 == other.sha256
            if not same:
                _, here, there = np.intersect1d(view.ids, other.ids, return_indices=True)
                if len(here) < 8:
                    continue
                same = float(np.linalg.norm(view.uv[here] - other.uv[there], axis=1).mean()) < _SAME_VIEW_PX
            if same:
                raise ImageError(
                    f"pictures {other.name} and {view.name} show the same view",
                    code="DUPLICATE_VIEW",
                    hint="leave one out and take another with the target moved or tilted: copies only feign certainty",
                )


def _coverage(views: Sequence[View]) -> NDArray[np.int64]:
    columns, rows = COVERAGE_GRID
    cells = np.zeros((rows, columns), np.int64)
    for view in views:
        width, height = view.size_px
        x = np.clip((view.uv[:, 0] + 0.5) * columns / width, 0, columns - 1).astype(np.int64)
        y = np.clip((view.uv[:, 1] + 0.5) * rows / height, 0, rows - 1).astype(np.int64)
        np.add.at(cells, (y, x), 1)
    return cells


def _check_coverage(views: Sequence[View], plane: int, coverage: NDArray[np.int64]) -> None:
    covered = float(np.count_nonzero(coverage)) / coverage.size
    if len(views) > 1 and covered < LEAST_COVERAGE:
        empty = ", ".join(_where_empty(coverage))
        raise ImageError(
            f"the views cover {100 * covered:.0f} % of the frame, {100 * LEAST_COVERAGE:.0f} % are needed;"
            f" nothing was seen {empty}",
            code="COVERAGE",
            hint="take further views with the target there",
        )
    width, height = views[plane].size_px
    hull = cv2.convexHull(views[plane].uv.astype(np.float32))
    share = float(cv2.contourArea(hull)) / (width * height)
    if share < LEAST_PLANE_COVERAGE:
        raise ImageError(
            f"picture {views[plane].name}: the target covers {100 * share:.0f} % of the frame,"
            f" the view in the plane needs {100 * LEAST_PLANE_COVERAGE:.0f} %",
            code="COVERAGE",
            hint="a larger target, one that is not cut off, or another view as --plane",
        )


def _where_empty(coverage: NDArray[np.int64]) -> list[str]:
    rows, columns = coverage.shape
    parts = {
        "top left": coverage[: rows // 2, : columns // 2],
        "top right": coverage[: rows // 2, columns // 2 :],
        "bottom left": coverage[rows // 2 :, : columns // 2],
        "bottom right": coverage[rows // 2 :, columns // 2 :],
    }
    empty = {name: np.count_nonzero(part == 0) / part.size for name, part in parts.items()}
    worst = max(empty.values())
    return [f"in much of the {name}" for name, share in empty.items() if share >= 0.75 * worst]


def _check_tilts(tilts: Sequence[float], plane: int) -> None:
    others = [tilt for number, tilt in enumerate(tilts) if number != plane]
    tilted = sum(tilt >= LEAST_TILT_DEG for tilt in others)
    if tilted < LEAST_TILTED or max(others) < WIDEST_TILT_DEG:
        raise ImageError(
            f"the views are tilted too little against the plane view: {tilted} by {LEAST_TILT_DEG:g} degrees or more,"
            f" the widest by {max(others):.0f}",
            code="TILT",
            hint=f"tilt the target by 15 to 30 degrees, each time another way, in {LEAST_TILTED} views or more: focal"
            " length and distance cannot be told apart otherwise",
        )


def _outliers(residuals: Sequence[Floats], kept: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
    """Fitted points further off than six robust standard deviations; the worst first, since they bend the fit."""
    sizes = np.concatenate([np.abs(r[k]).ravel() for r, k in zip(residuals, kept, strict=True)])
    limit = max(6.0 * 1.4826 * float(np.median(sizes)), 0.05, 0.4 * float(sizes.max()))
    return [k & (np.abs(r).max(axis=1) > limit) for r, k in zip(residuals, kept, strict=True)]


def _check_residuals(
    views: Sequence[View], residuals: Sequence[Floats], kept: Sequence[NDArray[np.bool_]], outliers: int, total: int
) -> None:
    rms = [_rms(r[k]) for r, k in zip(residuals, kept, strict=True)]
    worst = int(np.argmax(rms))
    if len(views) == 1 and rms[worst] > _MAX_RMS_PX:
        raise ImageError(
            f"picture {views[0].name}: a plane without lens is off by {rms[worst]:.2f} px RMS",
            code="MISFIT",
            hint=f"the lens distorts: calibrate it with {LEAST_VIEWS} views or more; or the target is not flat",
        )
    if rms[worst] > _MAX_RMS_PX or outliers > _MAX_OUTLIERS * total:
        raise ImageError(
            f"the views do not fit one camera and one flat target: {views[worst].name} is off by"
            f" {rms[worst]:.2f} px RMS, {outliers} of {total} points by far more than the rest",
            code="MISFIT",
            hint="keep the target flat, zoom and focus untouched, check the identifier; or leave that view out",
        )


def _misfit(uv: Floats, residuals: Floats, size_px: tuple[int, int]) -> float:
    """Relative scale error that the model leaves in the plane view, as a standard uncertainty; 0 where it is noise.

    A cubic polynomial is fitted to the residuals. Where that explains more than noise would (chi-square, 99.9 %), its
    largest strain over the frame is taken as the half width of a rectangular distribution (GUM 4.3.7).
    """
    if len(uv) < 30:
        return 0.0
    width, height = size_px

    def terms(points: Floats) -> tuple[Floats, Floats, Floats]:
        x, y = (2.0 * points[:, 0] / width - 1.0), (2.0 * points[:, 1] / height - 1.0)
        powers = [(i, j) for i in range(4) for j in range(4 - i)]
        value = np.column_stack([x**i * y**j for i, j in powers])
        along = np.column_stack([i * x ** max(i - 1, 0) * y**j for i, j in powers]) * (2.0 / width)
        down = np.column_stack([j * x**i * y ** max(j - 1, 0) for i, j in powers]) * (2.0 / height)
        return value, along, down

    design, _, _ = terms(uv)
    found, *_ = np.linalg.lstsq(design, residuals, rcond=None)
    left = residuals - design @ found
    variance = float((left**2).sum()) / max(2 * len(uv) - 20, 1)
    gain = float((residuals**2).sum() - (left**2).sum())
    if variance <= 0 or gain / variance < _CHI2_20_999:
        return 0.0
    grid_x, grid_y = np.meshgrid(np.linspace(0, width, 17), np.linspace(0, height, 13))
    _, along, down = terms(np.column_stack([grid_x.ravel(), grid_y.ravel()]))
    strains = np.column_stack([along @ found[:, 0], down @ found[:, 1], (along @ found[:, 0] + down @ found[:, 1]) / 2])
    return float(np.abs(strains).max() / np.sqrt(3.0))


# ---- the two fits --------------------------------------------------------------------------------------------------


def _solve_normal(jacobian: Floats, residual: Floats) -> tuple[Floats, Floats]:
    """(step, inverse of the normal matrix), with columns scaled to one. Raises LinAlgError where it is singular."""
    size = np.linalg.norm(jacobian, axis=0)
    if not np.all(size > 0):
        raise np.linalg.LinAlgError("a number has no influence")
    scaled = jacobian / size
    normal = scaled.T @ scaled
    if np.linalg.cond(normal) > 1e14:
        raise np.linalg.LinAlgError("ill-conditioned")
    inverse = np.linalg.inv(normal)
    return inverse @ (scaled.T @ residual) / size, inverse / np.outer(size, size)


class _Fit(ABC):
    """What both fits share: points on the target, points in the frame, and the correction of dots."""

    def __init__(self, views: Sequence[View], target: Target, pitch_mm: tuple[float, float], plane: int) -> None:
        self.views, self.plane, self.target = views, plane, target
        self.places = [target.points_mm(view.ids, pitch_mm) for view in views]
        self.radii = [target.radii(view.ids)[:, None] * np.asarray(pitch_mm) for view in views]
        self.uv = [view.uv for view in views]
        self.kind = "pinhole"

    @abstractmethod
    def view_theta(self, theta: Floats, number: int) -> Floats:
        """The numbers of ``PlaneModel`` for one view."""

    def correct_dots(self, theta: Floats) -> None:
        """Move measured dots from the centre of the dot's picture to the picture of the dot's centre.

        A circle seen at an angle is (nearly) an ellipse, whose centre is not the picture of the circle's centre. Both
        are computed with the present model, lens included: the centre of gravity of the projected outline.
        """
        if self.target.kind != "dots":
            return
        angles = np.linspace(0.0, 2.0 * np.pi, 48, endpoint=False)
        circle = np.column_stack([np.cos(angles), np.sin(angles)])
        for number, view in enumerate(self.views):
            model = PlaneModel(self.kind, self.view_theta(theta, number), np.zeros((0, 0)))
            places = self.places[number]
            outline = places[:, None, :] + circle[None] * self.radii[number][:, None, :]
            seen = model.to_frame(outline.reshape(-1, 2)).reshape(len(places), len(angles), 2)
            self.uv[number] = view.uv - (_centroids(seen) - model.to_frame(places))

    def residuals(self, theta: Floats) -> list[Floats]:
        """Measured minus predicted, px, per view."""
        return [
            self.uv[number] - PlaneModel(self.kind, self.view_theta(theta, number), np.zeros((0, 0))).to_frame(places)
            for number, places in enumerate(self.places)
        ]


def _centroids(outline: Floats) -> Floats:
    """Centres of gravity of closed polygons (N, P, 2)."""
    middle = outline.mean(axis=1, keepdims=True)
    a = outline - middle
    b = np.roll(a, -1, axis=1)
    cross = a[:, :, 0] * b[:, :, 1] - a[:, :, 1] * b[:, :, 0]
    moment = ((a + b) * cross[:, :, None]).sum(axis=1) / (3.0 * cross.sum(axis=1)[:, None])
    return np.asarray(middle[:, 0] + moment, np.float64)


class _Homography(_Fit):
    """One view: eight numbers from the plane to the frame, no lens."""

    def __init__(self, views: Sequence[View], target: Target, pitch_mm: tuple[float, float], plane: int) -> None:
        super().__init__(views, target, pitch_mm, plane)
        self.kind = "homography"

    def view_theta(self, theta: Floats, number: int) -> Floats:
        return theta

    def solve(self, kept: Sequence[NDArray[np.bool_]]) -> tuple[Floats, Floats]:
        xy, uv = self.places[0][kept[0]], self.uv[0][kept[0]]
        found, _ = cv2.findHomography(xy, uv, 0)
        if np.size(found) != 9:
            raise ImageError(f"picture {self.views[0].name}: its points lie on a line", hint="show the whole target")
        theta = np.asarray(found / found[2, 2], np.float64).ravel()[:8]
        inverse = np.zeros((8, 8))
        residual = np.zeros(0)
        for _ in range(4):
            matrix = np.append(theta, 1.0).reshape(3, 3)
            wide = np.column_stack([xy, np.ones(len(xy))])
            seen = wide @ matrix.T
            u, v = seen[:, 0] / seen[:, 2], seen[:, 1] / seen[:, 2]
            scaled = wide / seen[:, 2:]
            zero = np.zeros_like(scaled)
            rows_u = np.column_stack([scaled, zero, -u[:, None] * scaled[:, :2]])
            rows_v = np.column_stack([zero, scaled, -v[:, None] * scaled[:, :2]])
            residual = np.concatenate([uv[:, 0] - u, uv[:, 1] - v])
            step, inverse = _solve_normal(np.concatenate([rows_u, rows_v]), residual)
            theta = theta + step
        variance = float(residual @ residual) / max(len(residual) - 8, 1)
        return theta, inverse * variance

    def tilts_deg(self, theta: Floats) -> list[float]:
        return [0.0]

    def plane_model(self, theta: Floats, covariance: Floats) -> PlaneModel:
        return PlaneModel("homography", theta, covariance)


class _Bundle(_Fit):
    """Several views: one lens, one pose a view. theta: 9 numbers of the lens, then 6 a view."""

    start: Floats | None = None

    def view_theta(self, theta: Floats, number: int) -> Floats:
        at = _INTRINSICS + 6 * number
        return np.concatenate([theta[:_INTRINSICS], theta[at : at + 6]])

    def _initial(self, kept: Sequence[NDArray[np.bool_]]) -> Floats:
        size = self.views[0].size_px
        objects = [
            np.column_stack([places[keep], np.zeros(int(keep.sum()))]).astype(np.float32)
            for places, keep in zip(self.places, kept, strict=True)
        ]
        images = [uv[keep].astype(np.float32).reshape(-1, 1, 2) for uv, keep in zip(self.uv, kept, strict=True)]
        try:
            rms, matrix, lens, turns, shifts = cv2.calibrateCamera(
                objects, images, size, np.eye(3), np.zeros(5), flags=cv2.CALIB_FIX_K3
            )
        except cv2.error:
            raise _not_determined() from None
        lens = np.asarray(lens, np.float64).ravel()[:5]
        poses = [np.concatenate([t.ravel(), s.ravel()]) for t, s in zip(turns, shifts, strict=True)]
        theta = np.concatenate([[matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]], lens, *poses])
        if not np.isfinite(theta).all():
            raise _not_determined()
        if rms > 2.0 * _MAX_RMS_PX:
            # Too far from any camera for the steps that follow: say which view is the odd one.
            _check_residuals(self.views, self.residuals(theta), kept, 0, 1)
        return theta

    def _reaches_corners(self) -> bool:
        """Whether all four corner cells of the frame hold points: without them k3 is a guess."""
        cells = _coverage(self.views)
        return bool(min(cells[0, 0], cells[0, -1], cells[-1, 0], cells[-1, -1]) > 0)

    def solve(self, kept: Sequence[NDArray[np.bool_]]) -> tuple[Floats, Floats]:
        theta = self._initial(kept) if self.start is None else self.start.copy()
        theta[8] = 0.0
        theta, covariance = self._iterate(theta, kept, with_k3=False)
        if self._reaches_corners():
            # k3 stays only where it is significant: a number that is noise only widens the uncertainty.
            with_k3, wider = self._iterate(theta, kept, with_k3=True)
            if abs(with_k3[8]) > 4.0 * np.sqrt(wider[8, 8]):
                theta, covariance = with_k3, wider
        self.start = theta
        return theta, covariance

    def _iterate(self, theta: Floats, kept: Sequence[NDArray[np.bool_]], *, with_k3: bool) -> tuple[Floats, Floats]:
        """(theta, covariance) by Gauss-Newton steps to the end."""
        count = len(theta)
        fitted = np.array([n for n in range(count) if n != 8 or with_k3])
        covariance = np.zeros((count, count))
        for _ in range(12):
            jacobian, residual = self._linear(theta, kept)
            try:
                step, inverse = _solve_normal(jacobian[:, fitted], residual)
            except np.linalg.LinAlgError:
                raise _not_determined() from None
            theta = theta.copy()
            theta[fitted] += step
            variance = float(residual @ residual) / max(len(residual) - len(fitted), 1)
            covariance[np.ix_(fitted, fitted)] = inverse * variance
            if float(np.abs(step / np.sqrt(np.diag(inverse) * variance + 1e-300)).max()) < 1e-4:
                break
        if not (np.isfinite(theta).all() and theta[0] > 0 and theta[1] > 0):
            raise _not_determined()
        return theta, covariance

    def _linear(self, theta: Floats, kept: Sequence[NDArray[np.bool_]]) -> tuple[Floats, Floats]:
        """(Jacobian (2N, n), residual (2N,)) of all kept points, with OpenCV's analytic derivatives."""
        matrix = np.array([[theta[0], 0, theta[2]], [0, theta[1], theta[3]], [0, 0, 1.0]])
        blocks, residuals = [], []
        for number, (places, keep) in enumerate(zip(self.places, kept, strict=True)):
            at = _INTRINSICS + 6 * number
            points = np.column_stack([places[keep], np.zeros(int(keep.sum()))])
            seen, slope = cv2.projectPoints(points, theta[at : at + 3], theta[at + 3 : at + 6], matrix, theta[4:9])
            block = np.zeros((2 * len(points), len(theta)))
            block[:, :4] = slope[:, 6:10]
            block[:, 4:9] = slope[:, 10:15]
            block[:, at : at + 6] = slope[:, :6]
            blocks.append(block)
            residuals.append((self.uv[number][keep] - seen[:, 0]).ravel())
        return np.concatenate(blocks), np.concatenate(residuals)

    def tilts_deg(self, theta: Floats) -> list[float]:
        normals = []
        for number in range(len(self.views)):
            at = _INTRINSICS + 6 * number
            normals.append(cv2.Rodrigues(theta[at : at + 3])[0][:, 2])
        cosines = np.clip(np.array(normals) @ normals[self.plane], -1.0, 1.0)
        return [float(one) for one in np.degrees(np.arccos(cosines))]

    def plane_model(self, theta: Floats, covariance: Floats) -> PlaneModel:
        at = _INTRINSICS + 6 * self.plane
        chosen = np.r_[0:_INTRINSICS, at : at + 6]
        return PlaneModel("pinhole", theta[chosen], covariance[np.ix_(chosen, chosen)])


def _not_determined() -> EdgeError:
    return ImageError(
        "the views do not determine the lens",
        code="TILT",
        hint="tilt the target by 15 to 30 degrees, each time another way, and bring it into every corner of the frame",
    )
