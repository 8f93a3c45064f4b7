"""What a station holds after calibrating: scale with uncertainty, rectified pictures, drift, expiry. Pure once built.

The document (plain JSON values, see files.py) is the truth; this object is built from it alone, so a stored calibration
gives the bit-identical picture and scale years later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ImageError, UsageError
from ..judge import Scale
from ..records import Reason, read_only
from .drift import Drift, DriftLimits, Fiducial, measure_drift
from .geometry import Floats, PlaneModel, smooth_field

__all__ = ["BudgetItem", "Calibration", "PlaneGrid", "fit_u_field", "grid_for"]

#: A clock may be this far behind the one that stamped the calibration; more means that one of them is wrong.
_CLOCK_SLACK = timedelta(days=1)
_MOST_GROWTH = 4.0
_MOST_SIDE_PX = 32000
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class BudgetItem:
    """One item of the uncertainty of the scale: relative standard uncertainty (k = 1) and where it comes from."""

    name: str
    u_relative: float
    source: str


@dataclass(frozen=True, slots=True)
class PlaneGrid:
    """The rectified picture: pixel (i, j) lies at origin + R(angle) (i, j) mm_per_px on the plane."""

    origin_mm: tuple[float, float]
    angle_rad: float
    mm_per_px: float
    size_px: tuple[int, int]

    def to_plane(self, uv: Floats) -> Floats:
        """Rectified px (N, 2) -> plane mm (N, 2)."""
        return np.asarray(uv @ self._axes().T * self.mm_per_px + np.asarray(self.origin_mm), np.float64)

    def from_plane(self, xy: Floats) -> Floats:
        """Plane mm (N, 2) -> rectified px (N, 2)."""
        return np.asarray((xy - np.asarray(self.origin_mm)) @ self._axes() / self.mm_per_px, np.float64)

    def _axes(self) -> Floats:
        cos, sin = np.cos(self.angle_rad), np.sin(self.angle_rad)
        return np.array([[cos, -sin], [sin, cos]])


def grid_for(model: PlaneModel, size_px: tuple[int, int]) -> PlaneGrid:
    """A uniform grid that holds all of the frame, upright as the frame is, at the scale of the frame's middle.

    Nothing of the frame is cut away: a defect in a corner must be seen. What the frame does not show is outside the
    ``region``. Raises UsageError where the plane is so tilted, or the lens model so wild, that this makes no sense.
    """
    width, height = size_px
    middle = np.array([[(width - 1) / 2.0, (height - 1) / 2.0]])
    jacobian = model.jacobian(middle)[0]
    det = float(np.linalg.det(jacobian))
    if not np.isfinite(det) or det <= 0:
        raise UsageError("the target was seen mirrored or edge on", hint="image it without an odd number of mirrors")
    scale = math.sqrt(det)
    scale = round(scale, 3 - math.floor(math.log10(scale)))  # our own choice of grid, so a round number is exact
    u, _, vt = np.linalg.svd(jacobian)
    turned = u @ vt
    angle = float(np.arctan2(turned[1, 0], turned[0, 0]))
    columns, rows = np.linspace(-0.5, width - 0.5, 64), np.linspace(-0.5, height - 0.5, 64)
    x = np.concatenate([np.full(64, -0.5), np.full(64, width - 0.5), columns, columns])
    y = np.concatenate([rows, rows, np.full(64, -0.5), np.full(64, height - 0.5)])
    border = model.to_plane(np.column_stack([x, y]))
    inner_x, inner_y = np.meshgrid(np.linspace(-0.5, width - 0.5, 33), np.linspace(-0.5, height - 0.5, 33))
    inner = np.column_stack([inner_x.ravel(), inner_y.ravel()])
    if not (np.isfinite(border).all() and np.isfinite(model.to_plane(inner)).all()):
        raise UsageError(
            "the fitted lens folds over within the frame", hint="bring the target into every corner in some views"
        )
    local = model.mm_per_px(inner)
    if float(local.max()) > 2.0 * float(local.min()):
        raise UsageError(
            f"the scale varies from {local.min():.4g} to {local.max():.4g} mm per px over the frame",
            hint="mount the camera straighter above the plane",
        )
    frame = PlaneGrid((0.0, 0.0), angle, scale, (1, 1))
    placed = frame.from_plane(border)
    low, high = placed.min(axis=0), placed.max(axis=0)
    size = tuple(int(np.ceil(one)) for one in high - low)
    if size[0] * size[1] > _MOST_GROWTH * width * height or max(size) > _MOST_SIDE_PX:
        raise UsageError(
            f"the rectified picture would have {size[0]} x {size[1]} px", hint="mount the camera straighter"
        )
    # The first pixel's centre lies half a pixel inside the border.
    origin = frame.to_plane((low + 0.5)[None])[0]
    return PlaneGrid((float(origin[0]), float(origin[1])), angle, scale, (size[0], size[1]))


def _utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A calibration in use.

    kind: "plane" (lens and plane, pictures are rectified) or "scale" (pictures stay as they are). size_px: (width,
    height) of the frames it is for; rectified_size_px: of what ``rectify`` gives. scale: of the rectified picture, u
    the largest over the frame. sha256: seal of the file. document: everything else, as stored.
    """

    kind: str
    size_px: tuple[int, int]
    rectified_size_px: tuple[int, int]
    scale: Scale
    budget: tuple[BudgetItem, ...]
    camera: str | None
    target_id: str | None
    made_utc: str
    expires_utc: str
    sha256: str
    fiducial: Fiducial | None
    drift_limits: DriftLimits
    region: NDArray[np.bool_] | None
    model: PlaneModel | None
    document: Mapping[str, Any] = field(repr=False)
    _grid: PlaneGrid | None = field(repr=False)
    _maps: tuple[NDArray[np.int16], NDArray[np.uint16]] | None = field(repr=False)
    _back: NDArray[np.int16] | None = field(repr=False)
    _u_field: Floats | None = field(repr=False)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], sha256: str) -> Calibration:
        """Build from a document as files.py describes it. Raises KeyError, TypeError or ValueError when it is none,
        UsageError when its numbers make no sense."""
        size = (int(document["size_px"][0]), int(document["size_px"][1]))
        if not all(1 <= side <= _MOST_SIDE_PX for side in size):
            raise ValueError(f"size {size}")
        budget = tuple(
            BudgetItem(str(one["name"]), float(one["u_relative"]), str(one["source"])) for one in document["budget"]
        )
        if not budget or any(not (math.isfinite(one.u_relative) and one.u_relative >= 0) for one in budget):
            raise ValueError("budget")
        u_relative = math.sqrt(sum(one.u_relative**2 for one in budget))
        sx, sy = (float(one) for one in document["scale"]["mm_per_px"])
        for moment in ("made_utc", "expires_utc"):
            _utc(str(document[moment]))
        kind = str(document["kind"])
        grid = model = maps = back = region = u_field = None
        rectified = size
        if kind == "plane":
            plane = document["plane"]
            numbers = np.array(plane["numbers"], np.float64)
            covariance = np.array(plane["covariance"], np.float64)
            if plane["model"] not in ("pinhole", "homography") or covariance.shape != (len(numbers), len(numbers)):
                raise ValueError("plane")
            if len(numbers) != (15 if plane["model"] == "pinhole" else 8):
                raise ValueError("numbers")
            model = PlaneModel(str(plane["model"]), read_only(numbers), read_only(covariance))
            stored = plane["grid"]
            rectified = (int(stored["size_px"][0]), int(stored["size_px"][1]))
            grid = PlaneGrid(
                (float(stored["origin_mm"][0]), float(stored["origin_mm"][1])),
                float(stored["angle_rad"]), float(stored["mm_per_px"]), rectified,
            )  # fmt: skip
            if not (sx == sy == grid.mm_per_px and all(1 <= side <= _MOST_SIDE_PX for side in rectified)):
                raise ValueError("grid")
            maps, back, region = _maps(model, grid, size)
            u_field = fit_u_field(model, size)
        elif kind != "scale":
            raise ValueError(f"kind {kind}")
        fiducial = document.get("fiducial")
        return cls(
            kind=kind,
            size_px=size,
            rectified_size_px=rectified,
            scale=Scale(sx, sy, u_relative * min(sx, sy)),
            budget=budget,
            camera=document.get("camera"),
            target_id=(document.get("target") or {}).get("id"),
            made_utc=str(document["made_utc"]),
            expires_utc=str(document["expires_utc"]),
            sha256=sha256,
            fiducial=None
            if fiducial is None
            else Fiducial(
                str(fiducial["kind"]), tuple(int(one) for one in fiducial["numbers"]),
                read_only(np.array(fiducial["points_px"], np.float64)), float(fiducial["size_px"]),
                bool(fiducial["dark"]),
            ),
            drift_limits=DriftLimits(**{key: float(value) for key, value in document["drift_limits"].items()}),
            region=region,
            model=model,
            document=document,
            _grid=grid,
            _maps=maps,
            _back=back,
            _u_field=u_field,
        )  # fmt: skip

    # ---- time ------------------------------------------------------------------------------------------------------

    def age_s(self, now: datetime | str) -> float:
        """Seconds since it was made; negative where the clock says a time before that."""
        moment = _utc(now) if isinstance(now, str) else now
        return (moment - _utc(self.made_utc)).total_seconds()

    def refusal(self, now: datetime | str) -> Reason | None:
        """Why this calibration may not be used at ``now`` (aware datetime or ISO 8601), or None."""
        moment = _utc(now) if isinstance(now, str) else now
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        if moment >= _utc(self.expires_utc):
            return Reason("CALIBRATION_EXPIRED", f"the calibration expired at {self.expires_utc}: calibrate again")
        if moment < _utc(self.made_utc) - _CLOCK_SLACK:
            return Reason(
                "CALIBRATION_NOT_YET_VALID",
                f"the clock says {moment.isoformat(timespec='seconds')}, before the calibration was made"
                f" ({self.made_utc}): set the clock",
            )
        return None

    # ---- pictures --------------------------------------------------------------------------------------------------

    def check_frame(self, pixels: NDArray[Any]) -> None:
        """Raise ImageError (CALIBRATION_SIZE) for a frame of another size than the calibration is for."""
        size = (pixels.shape[1], pixels.shape[0])
        if size != self.size_px:
            raise ImageError(
                f"the frame has {size[0]} x {size[1]} px, the calibration is for {self.size_px[0]} x {self.size_px[1]}",
                code="CALIBRATION_SIZE",
                hint="the same camera, binning and region of interest as when calibrating, or calibrate again",
            )

    def rectify(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The frame as seen straight from above on a uniform grid of ``scale``; uint8 or uint16, grey or RGB.

        Bilinear, deterministic. Outside ``region`` the border is repeated. A scale-only calibration hands back the very
        same array. Raises ImageError for a frame of another size.
        """
        self.check_frame(pixels)
        if self._maps is None:
            return pixels
        seen = cv2.remap(pixels, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return read_only(np.asarray(seen))

    def labels_from_frame(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels of a frame, uint8 (H, W), as those of the rectified picture: the way of ``rectify``, unblended.

        Nearest neighbour; a labelled pixel that no rectified pixel falls on marks the one it lands on where that is
        unmarked, so that no defect vanishes. A scale-only calibration hands back the very same array. Raises ImageError
        for labels of another size.
        """
        self.check_frame(labels)
        if self.model is None or self._grid is None:
            return labels
        width, height = self.rectified_size_px
        out, taken = np.zeros((height, width), np.uint8), np.zeros(labels.shape, bool)
        for first in range(0, height, _ROWS_AT_ONCE):
            rows = np.arange(first, min(first + _ROWS_AT_ONCE, height))
            x, y = np.meshgrid(np.arange(width), rows)
            uv = np.column_stack([x.ravel(), y.ravel()]).astype(np.float64)
            at = np.rint(self.model.to_frame(self._grid.to_plane(uv))).astype(np.int64)
            inside = (at >= 0).all(axis=1) & (at[:, 0] < labels.shape[1]) & (at[:, 1] < labels.shape[0])
            at = at[inside]
            out[y.ravel()[inside], x.ravel()[inside]] = labels[at[:, 1], at[:, 0]]
            taken[at[:, 1], at[:, 0]] = True
        ys, xs = np.nonzero((labels > 0) & ~taken)
        if len(ys):
            points = self.model.to_plane(np.column_stack([xs, ys]).astype(np.float64))
            at = np.rint(self._grid.from_plane(points)).astype(np.int64)
            at = np.clip(at, 0, (width - 1, height - 1))
            free = out[at[:, 1], at[:, 0]] == 0
            out[at[free, 1], at[free, 0]] = labels[ys[free], xs[free]]
        return read_only(out)

    def labels_to_frame(self, labels: NDArray[np.uint8], frame_shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Labels of a rectified picture, uint8 (H, W), back on the frame's own pixels (for the yellow picture).

        Nearest neighbour; and a labelled pixel that no frame pixel falls on marks the one it comes from, so that no
        defect vanishes. frame_shape: (H, W) or (H, W, 3). Raises ImageError where sizes do not match.
        """
        if (frame_shape[1], frame_shape[0]) != self.size_px or labels.shape != self.rectified_size_px[::-1]:
            raise ImageError(
                f"labels of {labels.shape[1]} x {labels.shape[0]} px and a frame of {frame_shape[1]} x {frame_shape[0]}"
                f" are not those of the calibration ({self.rectified_size_px} and {self.size_px})",
                code="CALIBRATION_SIZE",
                hint="labels must be those of the rectified frame",
            )
        if self._back is None or self._grid is None or self.model is None:
            return labels
        out = np.asarray(
            cv2.remap(labels, self._back, np.zeros(0, np.uint16), cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE),
            np.uint8,
        )
        if labels.any():
            # (N, 1, 2) or (N, 2), by OpenCV's release; seven times as fast as NumPy's own.
            x, y = np.asarray(cv2.findNonZero(labels), np.int64).reshape(-1, 2).T
            uv = np.rint(self.model.to_frame(self._grid.to_plane(np.column_stack([x, y]).astype(np.float64))))
            at = uv.astype(np.int64)
            width, height = self.size_px
            inside = (at >= 0).all(axis=1) & (at[:, 0] < width) & (at[:, 1] < height)
            at, values = at[inside], labels[y, x][inside]
            lost = out[at[:, 1], at[:, 0]] == 0
            out[at[lost, 1], at[lost, 0]] = values[lost]
        return read_only(out)

    def to_frame_px(self, points: Floats) -> Floats:
        """Rectified px (N, 2) -> frame px (N, 2)."""
        if self.model is None or self._grid is None:
            return np.asarray(points, np.float64)
        return self.model.to_frame(self._grid.to_plane(np.asarray(points, np.float64)))

    # ---- numbers ---------------------------------------------------------------------------------------------------

    def u_scale_at(self, x: float, y: float) -> float:
        """Relative standard uncertainty of the scale at a rectified pixel; never above ``scale.relative_u``."""
        total = self.scale.relative_u
        if self._u_field is None or self._grid is None or self.model is None:
            return total
        uv = self.to_frame_px(np.array([[x, y]]))[0]
        rows, columns = self._u_field.shape
        fx = float(np.clip(uv[0] / max(self.size_px[0] - 1, 1) * (columns - 1), 0, columns - 1))
        fy = float(np.clip(uv[1] / max(self.size_px[1] - 1, 1) * (rows - 1), 0, rows - 1))
        i, j = min(int(fx), columns - 2), min(int(fy), rows - 2)
        a, b = fx - i, fy - j
        cell = self._u_field[j : j + 2, i : i + 2]
        local = float((1 - b) * ((1 - a) * cell[0, 0] + a * cell[0, 1]) + b * ((1 - a) * cell[1, 0] + a * cell[1, 1]))
        rest = sum(one.u_relative**2 for one in self.budget if one.name != "fit")
        return min(math.sqrt(local * local + rest), total)

    def drift(self, pixels: NDArray[Any]) -> Drift:
        """How far the marks have moved in this frame (not rectified). Raises UsageError without a mark, ImageError for
        a frame of another size."""
        if self.fiducial is None:
            raise UsageError(
                "this calibration has no mark to watch", code="NO_FIDUCIAL", hint="calibrate with --fiducial IMAGE"
            )
        self.check_frame(pixels)
        return measure_drift(pixels, self.fiducial, self.drift_limits)

    @property
    def budget_document(self) -> dict[str, Any]:
        """The itemised budget for a report: items, total and expanded uncertainty (k = 2), all relative."""
        total = math.sqrt(sum(one.u_relative**2 for one in self.budget))
        return {
            "items": [{"name": one.name, "u_relative": one.u_relative, "source": one.source} for one in self.budget],
            "u_relative": total,
            "expanded_k2": 2.0 * total,
        }

    def require_camera(self, camera: str | None) -> None:
        """Raise ConfigError where both sides name a camera and the names differ."""
        if camera and self.camera and camera != self.camera:
            raise ConfigError(
                f"the calibration is of camera {self.camera}, this is {camera}", hint="calibrate this camera"
            )


def fit_u_field(model: PlaneModel, size_px: tuple[int, int]) -> Floats:
    """Relative u of the fit on 13 x 17 points over the frame."""
    x, y = np.meshgrid(np.linspace(0, size_px[0] - 1, 17), np.linspace(0, size_px[1] - 1, 13))
    return read_only(model.u_relative(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape))


def _maps(
    model: PlaneModel, grid: PlaneGrid, size_px: tuple[int, int]
) -> tuple[tuple[NDArray[np.int16], NDArray[np.uint16]], NDArray[np.int16], NDArray[np.bool_]]:
    """(remap's fixed-point maps, (column, row) of the nearest rectified pixel for each frame pixel, region)."""
    width, height = size_px
    there = smooth_field(lambda uv: model.to_frame(grid.to_plane(uv)), *grid.size_px)
    region = (there[0] >= -0.5) & (there[0] <= width - 0.5) & (there[1] >= -0.5) & (there[1] <= height - 0.5)
    fixed = cv2.convertMaps(there[0].astype(np.float32), there[1].astype(np.float32), cv2.CV_16SC2)
    here = smooth_field(lambda uv: grid.from_plane(model.to_plane(uv)), width, height)
    columns = np.clip(np.rint(here[0]), 0, grid.size_px[0] - 1).astype(np.int16)
    rows = np.clip(np.rint(here[1]), 0, grid.size_px[1] - 1).astype(np.int16)
    maps = (read_only(np.asarray(fixed[0])), read_only(np.asarray(fixed[1])))
    return maps, read_only(np.stack([columns, rows], axis=2)), read_only(region)
