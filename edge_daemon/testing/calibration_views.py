"""Synthetic pictures of calibration targets, seen by a camera whose every number is known.

    python -m edge_daemon.testing.calibration_views FOLDER [--target EDC-14x10-10mm] [--seed 0]

writes eight views as PNG, to try ``edge-daemon calibrate`` without a camera; the last lies in the plane.

The camera is the same lens-and-plane model that calibration fits (``geometry.PlaneModel``), but the picture is made the
other way round: every sub-pixel of the frame is followed to the plane and looks up a finely drawn target there. Then
come uneven light, blur, noise and rounding to 8 or 16 bit. Not covered: depth of field, glare, print errors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..calibration.find import View
from ..calibration.geometry import Floats, PlaneModel, smooth_field
from ..calibration.targets import Target, parse_target
from ..images import make_folder, write_png_atomic

__all__ = ["Camera", "add_marker", "main", "point_view", "pose", "random_camera", "random_views", "render", "texture"]

_BLACK, _WHITE = 0.08, 0.82
_MARGIN = 1.0  # white paper around the pattern, in pitches


@dataclass(frozen=True, slots=True)
class Camera:
    """size_px: (width, height). lens: fx fy cx cy k1 k2 p1 p2 k3."""

    size_px: tuple[int, int]
    lens: tuple[float, ...]

    def seeing(self, pose_: Floats) -> PlaneModel:
        """The truth for a target in a pose (rx ry rz tx ty tz, mm): its plane starts at the target's first point."""
        return PlaneModel("pinhole", np.concatenate([self.lens, pose_]), np.zeros((15, 15)))


@lru_cache(maxsize=4)
def texture(target: Target) -> tuple[NDArray[np.float32], int]:
    """The target as (picture in [0, 1], px per pitch), with paper around it; edges of squares on whole pixels."""
    per_pitch = 200 if target.kind == "charuco" else 120
    edge = round(_MARGIN * per_pitch)
    if target.kind == "charuco":
        # 0.7 of 200 px is 140 px: 7 modules of 20 px, so that every edge is exact.
        inner = target.board().generateImage((target.columns * per_pitch, target.rows * per_pitch), marginSize=0)
        picture = inner.astype(np.float32) / np.float32(255)
    else:
        picture = np.ones((target.rows * per_pitch, target.columns * per_pitch), np.float32)
        ids = np.arange(target.count)
        grid = np.arange(per_pitch) - (per_pitch - 1) / 2.0
        distance = np.hypot(*np.meshgrid(grid, grid)).astype(np.float32)
        for (column, row), radius in zip(target.indices(ids), target.radii(ids), strict=True):
            cell = np.s_[row * per_pitch : (row + 1) * per_pitch, column * per_pitch : (column + 1) * per_pitch]
            picture[cell] = np.clip(distance - np.float32(radius * per_pitch) + 0.5, 0, 1)
    return cv2.copyMakeBorder(picture, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=1.0), per_pitch


def render(
    target: Target,
    pitch_mm: float,
    model: PlaneModel,
    size_px: tuple[int, int],
    rng: np.random.Generator,
    *,
    blur_px: float = 1.0,
    noise: float = 0.02,
    bits: int = 8,
    samples: int = 3,
) -> NDArray[Any]:
    """One picture, uint8 or uint16 (H, W). pitch_mm: the target's true pitch. noise: sd, share of full scale."""
    width, height = size_px
    picture, per_pitch = texture(target)
    field = smooth_field(model.to_plane, width, height, step=samples)
    # First point: the first inner corner, or the middle of the first dot; texture pixel centres are whole.
    first = (_MARGIN + (1.0 if target.kind == "charuco" else 0.5)) * per_pitch - 0.5
    maps = (field / pitch_mm * per_pitch + first).astype(np.float32)
    fine = cv2.remap(picture, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0.6)
    seen = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    light = 1.0 + 0.1 * np.linspace(-1, 1, width)[None] - 0.08 * np.linspace(-1, 1, height)[:, None] ** 2
    seen = (_BLACK + (_WHITE - _BLACK) * seen) * light.astype(np.float32)
    if blur_px > 0:
        seen = cv2.GaussianBlur(seen, (0, 0), blur_px)
    top = 2**bits - 1
    noisy = seen + noise * rng.standard_normal(seen.shape, np.float32)
    return np.asarray(np.rint(np.clip(noisy, 0, 1) * top).astype(np.uint8 if bits == 8 else np.uint16))


def pose(
    target: Target,
    pitch_mm: float,
    distance_mm: float,
    tilt_deg: tuple[float, float],
    spin_deg: float,
    shift_mm: tuple[float, float] = (0.0, 0.0),
) -> Floats:
    """Pose (rx ry rz tx ty tz) that puts the middle of a target before the camera, tilted about x and y, then spun."""
    ax, ay, az = np.radians([*tilt_deg, spin_deg])
    about_x = np.array([[1, 0, 0], [0, np.cos(ax), -np.sin(ax)], [0, np.sin(ax), np.cos(ax)]])
    about_y = np.array([[np.cos(ay), 0, np.sin(ay)], [0, 1, 0], [-np.sin(ay), 0, np.cos(ay)]])
    about_z = np.array([[np.cos(az), -np.sin(az), 0], [np.sin(az), np.cos(az), 0], [0, 0, 1]])
    turned = about_x @ about_y @ about_z
    columns, rows = target.points_shape
    middle = np.array([(columns - 1) / 2.0, (rows - 1) / 2.0, 0.0]) * pitch_mm
    vector, _ = cv2.Rodrigues(turned)
    place = np.array([*shift_mm, distance_mm]) - turned @ middle
    return np.concatenate([vector.ravel(), place])


def random_camera(rng: np.random.Generator, size_px: tuple[int, int] = (1280, 1024)) -> Camera:
    """An industrial camera: focal length 1.2 to 2.2 frame widths, modest barrel or pincushion, axis off the middle."""
    width, height = size_px
    focal = width * rng.uniform(1.2, 2.2)
    return Camera(
        size_px,
        (
            focal, focal * rng.normal(1.0, 5e-4), width / 2 + rng.normal(0, 12), height / 2 + rng.normal(0, 12),
            rng.uniform(-0.25, 0.15), rng.uniform(-0.1, 0.1), rng.normal(0, 5e-4), rng.normal(0, 5e-4), 0.0,
        ),
    )  # fmt: skip


def random_views(
    camera: Camera, target: Target, pitch_mm: float, rng: np.random.Generator, count: int = 8
) -> list[Floats]:
    """Poses as the procedure asks for: tilted every way, near and far, out over the corners; the last flat."""
    width, height = camera.size_px
    across, down = target.size_mm[0] * pitch_mm / target.pitch_mm, target.size_mm[1] * pitch_mm / target.pitch_mm
    fill = max(across / width, down / height) * camera.lens[0]  # distance at which the target fills the frame
    poses = []
    for index in range(count - 1):
        distance = fill * rng.uniform(0.85, 1.2)
        tilt = rng.uniform(15.0, 32.0)
        turn = 2.0 * np.pi * (index + rng.uniform(-0.2, 0.2)) / (count - 1)
        seen = np.array([width * distance / camera.lens[0], height * distance / camera.lens[1]])
        corner = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)][index % 4]) * seen * rng.uniform(0.05, 0.12)
        poses.append(
            pose(
                target,
                pitch_mm,
                distance,
                (tilt * np.cos(turn), tilt * np.sin(turn)),
                rng.uniform(-12, 12),
                (float(corner[0]), float(corner[1])),
            )
        )
    flat = (float(rng.normal(0, 1.5)), float(rng.normal(0, 1.5)))
    poses.append(pose(target, pitch_mm, fill * rng.uniform(0.97, 1.05), flat, rng.uniform(-5, 5)))
    return poses


def point_view(
    camera: Camera, target: Target, pitch_mm: float, pose_: Floats, rng: np.random.Generator, sd_px: float, name: str
) -> View:
    """A view without a picture: the true points inside the frame, each coordinate off by normal noise."""
    ids = np.arange(target.count)
    uv = camera.seeing(pose_).to_frame(target.points_mm(ids, (pitch_mm, pitch_mm)))
    width, height = camera.size_px
    inside = (uv > 8).all(axis=1) & (uv[:, 0] < width - 9) & (uv[:, 1] < height - 9)
    return View(name, name, camera.size_px, ids[inside], uv[inside] + rng.normal(0, sd_px, uv[inside].shape), 1.0)


def add_marker(pixels: NDArray[Any], number: int, corner_px: tuple[int, int], side_px: int) -> NDArray[Any]:
    """A copy of a frame with an ArUco marker (4X4_50) on a white card stuck into it."""
    out: NDArray[Any] = np.array(pixels)
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)
    top = np.iinfo(out.dtype).max
    marker = cv2.aruco.generateImageMarker(dictionary, number, side_px, borderBits=1)
    card = cv2.copyMakeBorder(
        marker, side_px // 5, side_px // 5, side_px // 5, side_px // 5, cv2.BORDER_CONSTANT, value=255
    )
    x, y = corner_px
    out[y : y + card.shape[0], x : x + card.shape[1]] = (card / 255.0 * 0.8 * top + 0.1 * top).astype(out.dtype)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Write views of a target, each with a marker in the corner that stays, and the camera's true numbers to stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--target", default="EDC-14x10-10mm")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    target = parse_target(args.target)
    camera = random_camera(rng)
    poses = random_views(camera, target, target.pitch_mm, rng, args.views)
    folder = make_folder(args.folder)
    for number, one in enumerate(poses, start=1):
        pixels = render(target, target.pitch_mm, camera.seeing(one), camera.size_px, rng)
        write_png_atomic(folder / f"view-{number}.png", pixels)
    station = np.clip(rng.normal(120, 5, camera.size_px[::-1]), 0, 255).astype(np.uint8)
    for number, corner in enumerate(((30, 30), (camera.size_px[0] - 150, camera.size_px[1] - 150))):
        station = add_marker(station, number, corner, 80)
    write_png_atomic(folder / "station.png", cv2.GaussianBlur(station, (0, 0), 0.9))
    middle = (np.array([camera.size_px]) - 1.0) / 2.0
    truth = camera.seeing(poses[-1]).mm_per_px(middle)[0]
    sys.stdout.write(f"{args.views} views in {folder}; true scale in the middle {truth:.7g} mm per px\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
