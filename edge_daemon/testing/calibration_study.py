"""How true is a board calibration, and how honest its uncertainty? A table over many random cameras.

    python -m edge_daemon.testing.calibration_study [--runs 40] [--target EDC-14x10-10mm] [--views 8] [--seed 0]

Every run draws a camera, views as the procedure asks for, a true pitch that differs from the measured one by its
uncertainty, and pictures with noise and blur; then calibrates and compares with the truth. Scale errors are of lengths
on the plane, per million. Covered: the error is within k = 2 of the stated standard uncertainty, in a random direction
at random places of the frame (u_scale_at), and at the place where the stated uncertainty is largest (scale.u). Places
of one run err together, so the interval is taken over runs, by bootstrap.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import cv2
import numpy as np

from ..calibration import Calibration, Heading, find_target, fit_plane, parse_target, plane_document
from ..calibration.geometry import Floats, PlaneModel
from .calibration_views import random_camera, random_views, render

__all__ = ["Run", "main", "one_run"]


@dataclass(frozen=True, slots=True)
class Run:
    """One calibration against the truth. Errors in ppm: mean and largest over the area the target covered in the plane
    view and over the whole frame. covered: share of random places and directions within k = 2. worst_covered: whether
    the place of the largest stated u is, against the stated scale's u."""

    held_out_rms_px: float
    mean_ppm: float
    worst_inside_ppm: float
    worst_frame_ppm: float
    u_ppm: float
    u_largest_ppm: float
    covered: float
    worst_covered: bool


def length_errors(truth: PlaneModel, found: PlaneModel, uv: Floats, directions: Floats) -> Floats:
    """Relative error of a short length seen at uv (N, 2) in a direction on the plane (N,), as calibrated over true."""
    true, seen = truth.jacobian(uv), found.jacobian(uv)
    step = np.stack([np.cos(directions), np.sin(directions)], axis=1)[:, :, None]
    px = np.linalg.solve(true, step)
    return np.asarray(np.linalg.norm((seen @ px)[:, :, 0], axis=1) - 1.0, np.float64)


def one_run(
    seed: int,
    target_id: str = "EDC-14x10-10mm",
    views: int = 8,
    *,
    pitch_u_relative: float = 0.0,
    size_px: tuple[int, int] = (1280, 1024),
    blur_px: float = 1.0,
    noise: float = 0.02,
    bits: int = 8,
) -> Run:
    """Draw, render, calibrate, compare. The measured pitch is the nominal one; the true one is off by its u."""
    rng = np.random.default_rng([seed, 20])
    target = parse_target(target_id)
    measured = target.pitch_mm
    pitch = measured * (1.0 + pitch_u_relative * float(rng.standard_normal()))
    camera = random_camera(rng, size_px)
    poses = random_views(camera, target, pitch, rng, views)
    found = []
    for number, pose in enumerate(poses):
        pixels = render(target, pitch, camera.seeing(pose), size_px, rng, blur_px=blur_px, noise=noise, bits=bits)
        found.append(find_target(pixels, target, f"view {number}"))
    fit = fit_plane(found, target, (measured, measured), pitch_u_relative * measured)
    heading = Heading([(view.name, "") for view in found], valid=timedelta(days=180))
    document = plane_document(fit, target, (measured, measured), pitch_u_relative * measured, heading)
    calibration = Calibration.from_document(document, "")
    truth = camera.seeing(poses[-1])
    width, height = size_px
    x, y = np.meshgrid(np.linspace(0, width - 1, 17), np.linspace(0, height - 1, 13))
    uv = np.column_stack([x.ravel(), y.ravel()])
    error = fit.model.mm_per_px(uv) / truth.mm_per_px(uv) - 1.0
    hull = fit.plane_hull_px.astype(np.float32)
    inside = np.array([cv2.pointPolygonTest(hull, (float(a), float(b)), False) >= 0 for a, b in uv])
    places = rng.uniform((0, 0), (width - 1, height - 1), (200, 2))
    directions = rng.uniform(0, np.pi, 200)
    errors = length_errors(truth, fit.model, places, directions)
    back = np.asarray(_rectified(calibration, places))
    stated = np.array([calibration.u_scale_at(float(a), float(b)) for a, b in back])
    u_field = fit.model.u_relative(uv)
    at = uv[int(np.argmax(u_field))][None]
    angle = rng.uniform(0, np.pi, 1)
    worst = float(abs(length_errors(truth, fit.model, at, angle)[0]))
    return Run(
        fit.held_out_rms_px,
        1e6 * float(error.mean()),
        1e6 * float(np.abs(error[inside]).max()),
        1e6 * float(np.abs(error).max()),
        1e6 * float(np.mean(stated)),
        1e6 * calibration.scale.relative_u,
        float(np.mean(np.abs(errors) <= 2.0 * stated)),
        worst <= 2.0 * calibration.scale.relative_u,
    )


def _rectified(calibration: Calibration, uv: Floats) -> Floats:
    """Frame px to rectified px."""
    assert calibration.model is not None
    stored = calibration.document["plane"]["grid"]
    cos, sin = np.cos(stored["angle_rad"]), np.sin(stored["angle_rad"])
    relative = calibration.model.to_plane(uv) - np.asarray(stored["origin_mm"])
    return np.asarray(relative @ np.array([[cos, -sin], [sin, cos]]) / stored["mm_per_px"], np.float64)


def _bootstrap(values: Floats) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = rng.choice(values, (4000, len(values))).mean(axis=1)
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--target", default="EDC-14x10-10mm")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--pitch-u-ppm", type=float, default=0.0, help="standard uncertainty of the measured pitch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args(argv)
    work = partial(one_run, target_id=args.target, views=args.views, pitch_u_relative=1e-6 * args.pitch_u_ppm)
    with ProcessPoolExecutor(args.jobs) as pool:
        runs = list(pool.map(work, range(args.seed, args.seed + args.runs)))

    def row(name: str, values: Floats, unit: str) -> str:
        low, middle, high, top = np.percentile(values, (5, 50, 95, 100))
        return f"| {name} | {low:.4g} | {middle:.4g} | {high:.4g} | {top:.4g} | {unit} |"

    def of(name: str) -> Floats:
        return np.array([getattr(run, name) for run in runs], np.float64)

    lines = [
        f"{args.runs} runs, {args.target}, {args.views} views of 1280 x 1024 px, noise 2 %, blur 1 px,"
        f" u(pitch) {args.pitch_u_ppm:g} ppm",
        "",
        "| | 5 % | median | 95 % | worst | |",
        "|---|---|---|---|---|---|",
        row("held-out RMS", of("held_out_rms_px"), "px"),
        row("scale error, mean of the frame", np.abs(of("mean_ppm")), "ppm"),
        row("scale error, worst within the target's outline", of("worst_inside_ppm"), "ppm"),
        row("scale error, worst of the frame", of("worst_frame_ppm"), "ppm"),
        row("stated u, mean of the frame", of("u_ppm"), "ppm"),
        row("stated u of the scale", of("u_largest_ppm"), "ppm"),
        "",
    ]
    for name, where in (("covered", "any place"), ("worst_covered", "worst place")):
        low, high = _bootstrap(of(name))
        share = f"{100 * of(name).mean():.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f})"
        lines.append(f"covered at k = 2, {where}: {share}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
