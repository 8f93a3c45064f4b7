"""From the part's plane to the frame and back: lens, pose, local scale. Pure NumPy in double precision.

Coordinates: a pixel's centre has whole numbers (OpenCV's convention), x to the right, y down. ``uv`` are frame pixels
(N, 2); ``xy`` are millimetres on the plane (N, 2).

Two kinds of model, both as a flat vector ``theta`` so that a covariance matrix goes with it:

    pinhole      fx fy cx cy  k1 k2 p1 p2 k3  rx ry rz  tx ty tz   (Brown-Conrady lens, pose of the plane: 15 numbers)
    homography   h11 h12 h13 h21 h22 h23 h31 h32                   (h33 = 1, no lens: 8 numbers)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PINHOLE_NAMES", "Floats", "PlaneModel", "distort", "homography_of", "rotation", "smooth_field", "undistort"]

Floats = NDArray[np.float64]

PINHOLE_NAMES = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "rx", "ry", "rz", "tx", "ty", "tz")
_NEWTON_STEPS = 12
#: A lens that does not come back to the same ray within this (in units of the focal length) is folded there.
_FOLDED = 1e-7


def rotation(vector: Floats) -> Floats:
    """Rotation matrix of a rotation vector (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turned: Floats = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
    return turned


def distort(lens: Floats, points: Floats) -> tuple[Floats, Floats]:
    """Brown-Conrady on normalised coordinates (N, 2): (distorted (N, 2), Jacobian (N, 2, 2)). lens: k1 k2 p1 p2 k3."""
    k1, k2, p1, p2, k3 = lens
    x, y = points[:, 0], points[:, 1]
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2.0 * (k1 + r2 * (2.0 * k2 + 3.0 * r2 * k3))  # d radial / d x = slope * x
    out = np.empty_like(points)
    out[:, 0] = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
    out[:, 1] = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y
    jacobian = np.empty((len(points), 2, 2))
    jacobian[:, 0, 0] = radial + slope * x * x + 2.0 * p1 * y + 6.0 * p2 * x
    jacobian[:, 0, 1] = jacobian[:, 1, 0] = slope * x * y + 2.0 * p1 * x + 2.0 * p2 * y
    jacobian[:, 1, 1] = radial + slope * y * y + 6.0 * p1 * y + 2.0 * p2 * x
    return out, jacobian


def undistort(lens: Floats, points: Floats) -> Floats:
    """The inverse of ``distort`` by Newton's method; NaN where the lens model folds and has no inverse."""
    if not np.any(lens):
        return np.asarray(points.copy(), np.float64)
    found: Floats = points.copy()
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in range(_NEWTON_STEPS):
            value, jacobian = distort(lens, found)
            error = points - value
            det = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] ** 2
            step = np.empty_like(found)
            step[:, 0] = (jacobian[:, 1, 1] * error[:, 0] - jacobian[:, 0, 1] * error[:, 1]) / det
            step[:, 1] = (jacobian[:, 0, 0] * error[:, 1] - jacobian[:, 1, 0] * error[:, 0]) / det
            found += step
            if float(np.nanmax(np.abs(step), initial=0.0)) < 1e-14:
                break
        value, jacobian = distort(lens, found)
        det = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] ** 2
        bad = ~((np.abs(value - points).max(axis=1) < _FOLDED) & (det > 0))
    found[bad] = np.nan
    return np.asarray(found, np.float64)


def homography_of(kind: str, theta: Floats) -> Floats:
    """3 x 3, plane mm -> normalised camera coordinates (pinhole) or frame pixels (homography)."""
    if kind == "homography":
        return np.append(theta, 1.0).reshape(3, 3)
    turned = rotation(theta[9:12])
    return np.column_stack([turned[:, 0], turned[:, 1], theta[12:15]])


def _through(matrix: Floats, points: Floats) -> Floats:
    wide = points @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(wide[:, :2] / wide[:, 2:], np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class PlaneModel:
    """Lens and plane with the covariance of their numbers.

    kind: "pinhole" or "homography". theta: its numbers (see the module). covariance: of theta, (n, n); rows and
    columns of numbers that were not fitted are zero.
    """

    kind: str
    theta: Floats
    covariance: Floats

    def to_frame(self, xy: Floats, theta: Floats | None = None) -> Floats:
        """Plane mm (N, 2) -> frame px (N, 2), with other numbers where ``theta`` is given."""
        theta = self.theta if theta is None else theta
        points = _through(homography_of(self.kind, theta), xy)
        if self.kind == "homography":
            return points
        return np.asarray(distort(theta[4:9], points)[0] * theta[:2] + theta[2:4], np.float64)

    def to_plane(self, uv: Floats, theta: Floats | None = None) -> Floats:
        """Frame px (N, 2) -> plane mm (N, 2); NaN where the lens model folds."""
        theta = self.theta if theta is None else theta
        inverse = np.asarray(np.linalg.inv(homography_of(self.kind, theta)), np.float64)
        if self.kind == "homography":
            return _through(inverse, uv)
        return _through(inverse, undistort(theta[4:9], (uv - theta[2:4]) / theta[:2]))

    def jacobian(self, uv: Floats, theta: Floats | None = None) -> Floats:
        """d(mm) / d(px), (N, 2, 2), by central differences over one pixel (error far below 1e-6 of it)."""
        half = np.array([[0.5, 0.0], [0.0, 0.5]])
        columns = [self.to_plane(uv + step, theta) - self.to_plane(uv - step, theta) for step in half]
        return np.stack(columns, axis=2)

    def mm_per_px(self, uv: Floats) -> Floats:
        """Local scale sqrt|det d(mm)/d(px)| at frame pixels (N, 2)."""
        return np.asarray(np.sqrt(np.abs(np.linalg.det(self.jacobian(uv)))), np.float64)

    def u_relative(self, uv: Floats) -> Floats:
        """Standard uncertainty of the local scale, relative, (N,): of a length in its worst direction.

        The covariance is carried through the strain that a change of each number causes (first order); directions
        0, 45, 90 and 135 degrees and the mean of both axes (area) are looked at.
        """
        base = np.linalg.inv(self.jacobian(uv))
        deviations = np.sqrt(np.diag(self.covariance))
        fitted = np.flatnonzero(deviations > 0)
        if not fitted.size:
            return np.zeros(len(uv))
        strains = np.empty((len(uv), 5, fitted.size))
        for column, index in enumerate(fitted):
            step = np.zeros_like(self.theta)
            step[index] = deviations[index]
            change = self.jacobian(uv, self.theta + step) - self.jacobian(uv, self.theta - step)
            strain = change @ base / 2.0
            xx, yy, xy = strain[:, 0, 0], strain[:, 1, 1], (strain[:, 0, 1] + strain[:, 1, 0]) / 2.0
            mean = (xx + yy) / 2.0
            strains[:, :, column] = np.stack([xx, yy, mean, mean + xy, mean - xy], axis=1)
        scaled = self.covariance[np.ix_(fitted, fitted)] / np.outer(deviations[fitted], deviations[fitted])
        variance = np.einsum("ndi,ij,ndj->nd", strains, scaled, strains)
        return np.asarray(np.sqrt(np.maximum(variance.max(axis=1), 0.0)), np.float64)


def smooth_field(
    function: Callable[[Floats], Floats], width: int, height: int, *, step: int = 1, degree: int = 18
) -> Floats:
    """A smooth function of the frame (N, 2) -> (N, 2) at every 1/step pixel: (2, height * step, width * step), float64.

    Evaluated exactly at Chebyshev nodes and interpolated by the polynomial through them: the maps of lenses and
    planes are smooth, so that 19 x 19 exact values give millions to far below a thousandth of a pixel.
    """
    nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    span_x, span_y = max(width, 2) / 2.0, max(height, 2) / 2.0
    grid_x, grid_y = np.meshgrid(nodes * span_x + span_x - 0.5, nodes * span_y + span_y - 0.5)
    values = function(np.column_stack([grid_x.ravel(), grid_y.ravel()]))
    to_coefficients = np.linalg.inv(np.polynomial.chebyshev.chebvander(nodes, degree))

    def base(count: int, span: float) -> Floats:
        places = (np.arange(count * step) + 0.5) / step - 0.5
        return np.asarray(np.polynomial.chebyshev.chebvander((places + 0.5 - span) / span, degree), np.float64)

    base_x, base_y = base(width, span_x), base(height, span_y)
    fields = []
    for axis in range(2):
        table = values[:, axis].reshape(degree + 1, degree + 1)
        fields.append(base_y @ (to_coefficients @ table @ to_coefficients.T) @ base_x.T)
    return np.stack(fields)
