"""Calibrations in files: sealed JSON with an expiry, made from pictures, read strictly.

    {"schema": 1, "kind": "plane" | "scale" | "wedge", "method", "made_utc", "expires_utc", "camera", "size_px": [w, h],
     "sources": [{"image", "sha256"}], "target": {"id", "pitch_mm": [x, y], "pitch_u_mm"} | null,
     "scale": {"mm_per_px": [x, y], "u_relative"}, "budget": [{"name", "u_relative", "source"}],
     "plane": {"model", "names", "numbers", "covariance", "grid": {...}, "field": {...}} | null,
     "residuals": {...} | null, "coverage": [[...]] | null, "fiducial": {...} | null, "drift_limits": {...},
     "notes": [...], "seal"}

A wedge has "curve" in place of scale, budget and plane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, IntegrityError, RuleError, UsageError
from ..segment.sealed import open_document, seal_document, sha256_hex, write_atomically
from .calibrated import BudgetItem, Calibration, fit_u_field, grid_for
from .drift import DriftLimits, Fiducial
from .fit import BoardFit
from .geometry import PINHOLE_NAMES
from .scales import ScaleResult
from .targets import Target
from .wedge import Step, WedgeCurve

__all__ = [
    "Heading",
    "expired_error",
    "load_calibration",
    "load_wedge",
    "plane_document",
    "save_document",
    "scale_document",
    "wedge_document",
]

_SCHEMA = 1
_MOST_BYTES = 16 << 20
_LONGEST_VALID = timedelta(days=3660)


class Heading:
    """What every calibration file starts with: when, how long, which camera, which pictures."""

    def __init__(
        self,
        sources: Sequence[tuple[str, str]],
        *,
        valid: timedelta,
        camera: str | None = None,
        now: datetime | None = None,
    ) -> None:
        if not timedelta(0) < valid <= _LONGEST_VALID:
            raise UsageError(f"valid for {valid.days} days is not plausible", hint="--valid 180d, ten years at most")
        made = (now or datetime.now(timezone.utc)).astimezone(timezone.utc)
        self.values: dict[str, Any] = {
            "schema": _SCHEMA,
            "made_utc": _iso(made),
            "expires_utc": _iso(made + valid),
            "camera": camera,
            "sources": [{"image": name, "sha256": sha256} for name, sha256 in sources],
        }


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def height_item(height_u_mm: float, distance_mm: float | None) -> list[BudgetItem]:
    """Budget item of a part that lies higher or lower than the plane: dS / S = dz / Z (camera or source to part)."""
    if height_u_mm == 0:
        return []
    if distance_mm is None or not distance_mm > 0:
        raise UsageError(
            "a height uncertainty needs the distance to the part", hint="--height-u 0.5mm --distance 400mm"
        )
    if not 0 <= height_u_mm < 0.2 * distance_mm:
        raise UsageError(f"u = {height_u_mm:g} mm of height at {distance_mm:g} mm is not plausible")
    return [BudgetItem("height", height_u_mm / distance_mm, f"u = {height_u_mm:g} mm at {distance_mm:.4g} mm")]


def _fiducial_values(fiducial: Fiducial | None, limits: DriftLimits) -> dict[str, Any]:
    values = None
    if fiducial is not None:
        values = {
            "kind": fiducial.kind,
            "numbers": list(fiducial.numbers),
            "points_px": fiducial.points.tolist(),
            "size_px": fiducial.size_px,
            "dark": fiducial.dark,
        }
    return {"fiducial": values, "drift_limits": asdict(limits)}


def _budget_values(items: Sequence[BudgetItem]) -> dict[str, Any]:
    return {"budget": [asdict(one) for one in items]}


def plane_document(
    fit: BoardFit,
    target: Target,
    pitch_mm: tuple[float, float],
    pitch_u_mm: float,
    heading: Heading,
    *,
    height_u_mm: float = 0.0,
    distance_mm: float | None = None,
    fiducial: Fiducial | None = None,
    limits: DriftLimits | None = None,
) -> dict[str, Any]:
    """The document of a board or dot calibration. The distance is the fit's own where none is given."""
    grid = grid_for(fit.model, fit.size_px)
    field = fit_u_field(fit.model, fit.size_px)
    pinhole = fit.model.kind == "pinhole"
    if distance_mm is None and pinhole:
        distance_mm = float(fit.model.theta[14])
    items = [
        BudgetItem("fit", float(field.max()), "covariance of lens and plane, largest over the frame"),
        BudgetItem("target_pitch", fit.u_pitch, f"measured pitch {pitch_mm[0]:g} mm, u = {pitch_u_mm:g} mm"),
        BudgetItem("model", fit.u_misfit, "what lens and plane leave unexplained in the plane view"),
        *height_item(height_u_mm, distance_mm),
    ]
    x, y = np.meshgrid(np.linspace(0, fit.size_px[0] - 1, 9), np.linspace(0, fit.size_px[1] - 1, 7))
    points = np.column_stack([x.ravel(), y.ravel()])
    notes = [] if pinhole else ["one view: the lens is taken as free of distortion; see the budget's item model"]
    return {
        **heading.values,
        "kind": "plane",
        "method": "board" if target.kind == "charuco" else "dots",
        "size_px": list(fit.size_px),
        "target": {"id": target.id, "pitch_mm": list(pitch_mm), "pitch_u_mm": pitch_u_mm},
        "scale": {
            "mm_per_px": [grid.mm_per_px, grid.mm_per_px],
            "u_relative": math.sqrt(sum(one.u_relative**2 for one in items)),
        },
        **_budget_values(items),
        "plane": {
            "model": fit.model.kind,
            "names": list(PINHOLE_NAMES) if pinhole else [f"h{n // 3 + 1}{n % 3 + 1}" for n in range(8)],
            "numbers": fit.model.theta.tolist(),
            "covariance": fit.model.covariance.tolist(),
            "grid": {
                "origin_mm": list(grid.origin_mm),
                "angle_rad": grid.angle_rad,
                "mm_per_px": grid.mm_per_px,
                "size_px": list(grid.size_px),
            },
            "field": {
                "x_px": x[0].tolist(),
                "y_px": y[:, 0].tolist(),
                "mm_per_px": fit.model.mm_per_px(points).reshape(x.shape).tolist(),
                "u_relative": fit.model.u_relative(points).reshape(x.shape).tolist(),
            },
        },
        "residuals": {
            "rms_px": fit.rms_px,
            "points": fit.points,
            "held_out_rms_px": fit.held_out_rms_px,
            "held_out_max_px": fit.held_out_max_px,
            "held_out_points": fit.held_out_points,
            "outliers": fit.outliers,
            "views": [asdict(one) for one in fit.views],
        },
        "coverage": fit.coverage.tolist(),
        **_fiducial_values(fiducial, limits or DriftLimits()),
        "notes": notes,
    }


def scale_document(
    result: ScaleResult,
    size_px: tuple[int, int],
    heading: Heading,
    *,
    height_u_mm: float = 0.0,
    distance_mm: float | None = None,
    fiducial: Fiducial | None = None,
    limits: DriftLimits | None = None,
    residuals: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The document of a scale without a target."""
    items = [BudgetItem(*one) for one in result.budget] + height_item(height_u_mm, distance_mm)
    return {
        **heading.values,
        "kind": "scale",
        "method": result.method,
        "size_px": list(size_px),
        "target": None,
        "scale": {
            "mm_per_px": list(result.mm_per_px),
            "u_relative": math.sqrt(sum(one.u_relative**2 for one in items)),
        },
        **_budget_values(items),
        "plane": None,
        "residuals": residuals,
        "coverage": None,
        **_fiducial_values(fiducial, limits or DriftLimits()),
        "notes": list(result.notes),
    }


def wedge_document(
    curve: WedgeCurve, steps: Sequence[Step], size_px: tuple[int, int], heading: Heading
) -> dict[str, Any]:
    """The document of a step wedge."""
    return {
        **heading.values,
        "kind": "wedge",
        "method": "wedge",
        "size_px": list(size_px),
        "curve": {
            "model": curve.model,
            "numbers": list(curve.numbers),
            "thickness_mm": curve.thickness_mm.tolist(),
            "grey": curve.grey.tolist(),
            "residual_mm": curve.residual_mm.tolist(),
            "u_mm": curve.u_mm,
        },
        "steps": [asdict(one) for one in steps],
    }


def save_document(path: Path, document: dict[str, Any]) -> str:
    """Seal and write; returns the SHA-256 of the file, which a record carries. Raises StorageError."""
    data = seal_document(document, str(path))
    write_atomically(path, data)
    return sha256_hex(data)


def _open(path: Path) -> tuple[dict[str, Any], str]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: larger than {_MOST_BYTES >> 20} MiB, so it is no calibration")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such calibration", hint="edge-daemon calibrate makes one") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    document = open_document(data, str(path))
    if document.get("schema") != _SCHEMA or "kind" not in document:
        raise IntegrityError(f"{path} is no calibration of schema {_SCHEMA}", hint="calibrate again with this version")
    return document, sha256_hex(data)


def expired_error(path: Path, text: str) -> IntegrityError:
    """What an expired calibration means to the command line: exit code 4, code EXPIRED."""
    return IntegrityError(f"{path}: {text}", code="EXPIRED", hint="take new pictures and calibrate again")


def load_calibration(path: Path, *, now: datetime | None = None, allow_expired: bool = False) -> Calibration:
    """Read a sealed calibration of kind plane or scale.

    now: aware; the clock's where None. allow_expired: for a station that turns expiry into NOT_EVALUABLE itself
    (``Calibration.refusal``), and for replay. Raises ConfigError for a missing file, IntegrityError (exit code 4) for
    a changed byte, and with code EXPIRED for one past its day or made in the future.
    """
    document, sha256 = _open(path)
    if document["kind"] == "wedge":
        raise ConfigError(f"{path} is a step wedge, which gives no scale", hint="use calibrate board, dots or scale")
    try:
        calibration = Calibration.from_document(document, sha256)
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        RuleError,
        UsageError,
        np.linalg.LinAlgError,
    ) as error:
        raise IntegrityError(
            f"{path}: sealed, but not a usable calibration: {error}", hint="calibrate again with this version"
        ) from None
    reason = None if allow_expired else calibration.refusal(now or datetime.now(timezone.utc))
    if reason is not None:
        raise expired_error(path, reason.text)
    return calibration


def load_wedge(path: Path, *, now: datetime | None = None) -> WedgeCurve:
    """Read a sealed step wedge. Raises as ``load_calibration``."""
    document, _ = _open(path)
    if document["kind"] != "wedge":
        raise ConfigError(f"{path} is a {document['kind']} calibration, not a step wedge")
    try:
        values = document["curve"]
        curve = WedgeCurve(
            str(values["model"]),
            tuple(float(one) for one in values["numbers"]),
            np.array(values["thickness_mm"], np.float64),
            np.array(values["grey"], np.float64),
            np.array(values["residual_mm"], np.float64),
            float(values["u_mm"]),
        )
        expires = datetime.fromisoformat(str(document["expires_utc"]).replace("Z", "+00:00"))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path}: sealed, but not a usable step wedge: {error}") from None
    if (now or datetime.now(timezone.utc)) >= expires:
        raise expired_error(path, f"the step wedge expired at {document['expires_utc']}")
    return curve
