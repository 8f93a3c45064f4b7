"""Does the simulator's primary image agree with an independent ray tracer? A table over scenes, beams and metals.

    python -m edge_daemon.testing.gvxr_study [--quick] [--json] [--pictures DIR]

The same solids are given to gVirtualXRay as closed triangle meshes (a pore or a bore is an inner surface that is next
to nothing) and to the simulator as path lengths; parallel beam, primary image only, no noise, no scatter, no blur.
The quanta by energy are the same on both sides. Polychromatic rows go through the simulator's own ``transmission``.
Independent are geometry, interpolation and the sum over energies; the cross-sections are not: gVirtualXRay takes them
from xraylib, which carries the tabulation (Elam) that the simulator's table was made from.

Scenes:
    block     a 20 mm block with a step, a drafted rib, a through bore, a cross bore and ten ellipsoidal pores, paths in
              closed form (Mery 2021: 2 sqrt(D) / (d'Ad)), one ray through the middle of each pixel on both sides
    drawn     the simulator's own drawn pores (``discontinuities.ball``, averaged over each pixel) in a plate; the ray
              tracer's intensity averaged over 4 x 4 rays a pixel
    casting   a random casting of the simulator, its thickness map as a mesh

A pixel is left out of the compared ones where an outline (of a pore, a bore, the block) cuts it: there a mesh of plane
triangles and a mean of path lengths instead of a mean of intensities are no longer the same model. The share of them is
stated, and the largest difference over all pixels beside it. Needs gvxr and a software or hardware EGL driver.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeError, MissingExtra
from ..simulator.castings import random_casting
from ..simulator.discontinuities import ball
from ..simulator.materials import METAL_MATERIAL, attenuation_per_mm, material, spectrum
from ..simulator.parts import flat_plate
from ..simulator.physics import transmission

__all__ = ["Beam", "Row", "Scene", "main", "study"]

Floats = NDArray[np.float64]
#: Vertices (N, 3) in mm (x right, y down, z along the beam) and triangles (M, 3) of their indices, normals outward.
Mesh = tuple[Floats, NDArray[np.int64]]

_RAYS = 4
_MOST_HOLES = 16
_ROUND = 1024  # corners of a circle: at 5 mm radius the chord is 25 nm off


@dataclass(frozen=True, slots=True)
class Scene:
    """outer, inner: closed surfaces of the casting and of the holes in it. path_mm: float64 (H, W), the metal that the
    simulator says lies along each pixel's ray. cut: bool (H, W), pixels that an outline cuts. rays: side of the square
    of rays per pixel that the ray tracer averages."""

    name: str
    mm_per_px: float
    outer: Mesh
    inner: tuple[Mesh, ...]
    path_mm: Floats
    cut: NDArray[np.bool_]
    rays: int


@dataclass(frozen=True, slots=True)
class Beam:
    """energy_kev: of one line, or None. tube_kv: of a tube behind the simulator's filter, where there is no line."""

    energy_kev: float | None
    tube_kv: float | None

    def __str__(self) -> str:
        return f"{self.energy_kev:g} keV" if self.energy_kev is not None else f"{self.tube_kv:g} kV tube"

    def quanta(self) -> tuple[Floats, Floats]:
        """(energy_keV, weight), float64 (N,)."""
        if self.energy_kev is not None:
            return np.array([self.energy_kev]), np.ones(1)
        assert self.tube_kv is not None
        return spectrum(self.tube_kv)

    def passed(self, path_mm: Floats, metal: str) -> Floats:
        """What the simulator says comes through, as a share of the open beam's energy."""
        if self.energy_kev is not None:
            return np.asarray(np.exp(-attenuation_per_mm(METAL_MATERIAL[metal], self.energy_kev) * path_mm), np.float64)
        assert self.tube_kv is not None
        return transmission(path_mm.astype(np.float32), self.tube_kv, metal).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Row:
    """One scene under one beam. Differences are the simulator's image over the ray tracer's, minus one, in per cent:
    largest and root mean square over the compared pixels, largest over all. lowest: the smallest transmission."""

    scene: str
    metal: str
    beam: str
    largest_pct: float
    rms_pct: float
    all_largest_pct: float
    left_out_pct: float
    pixels: int
    lowest: float


# ---------------------------------------------------------------------------------------------------- solids


def _closed(profile: Floats, corners: int = _ROUND) -> Mesh:
    """A solid of revolution about z from its profile (N, 2) of (radius, z), first and last point on the axis, z
    rising."""
    turn = 2 * np.pi * np.arange(corners) / corners
    radius, z = profile[1:-1, :1], np.repeat(profile[1:-1, 1:], corners, axis=1)
    rings = np.stack([radius * np.cos(turn), radius * np.sin(turn), z], axis=-1).reshape(-1, 3)
    vertices = np.vstack([rings, [[0.0, 0.0, profile[0, 1]], [0.0, 0.0, profile[-1, 1]]]])
    here = np.arange(corners)
    following = (here + 1) % corners
    ring = np.arange(len(profile) - 3)[:, None] * corners
    a, b = (ring + here).ravel(), (ring + following).ravel()
    c, d = a + corners, b + corners
    bottom, top, last = len(rings), len(rings) + 1, (len(profile) - 3) * corners
    triangles = [
        np.stack([a, b, d], 1),
        np.stack([a, d, c], 1),
        np.stack([np.full(corners, bottom), following, here], 1),
        np.stack([np.full(corners, top), last + here, last + following], 1),
    ]
    return vertices, np.concatenate(triangles).astype(np.int64)


def _ellipsoid(centre_mm: Floats, half_axes: Floats) -> Mesh:
    """half_axes: (3, 3), columns are the half axes as vectors in mm."""
    polar = np.linspace(np.pi, 0.0, 121)
    vertices, triangles = _closed(np.stack([np.sin(polar), np.cos(polar)], axis=1), 240)
    if np.linalg.det(half_axes) < 0:
        triangles = triangles[:, ::-1]
    return vertices @ half_axes.T + centre_mm, triangles


def _through_ellipsoid(centre_mm: Floats, half_axes: Floats, y: Floats, x: Floats) -> Floats:
    """Path of rays along z: 2 sqrt(D) / (d'Ad) with D = (p'Ad)^2 - d'Ad (p'Ap - 1)."""
    inverse = np.linalg.inv(half_axes)
    a = inverse.T @ inverse
    px, py = x - centre_mm[0], y - centre_mm[1]
    dad = a[2, 2]
    pad = a[0, 2] * px + a[1, 2] * py
    pap = a[0, 0] * px * px + 2 * a[0, 1] * px * py + a[1, 1] * py * py
    return np.asarray(2.0 * np.sqrt(np.maximum(pad * pad - dad * (pap - 1.0), 0.0)) / dad, np.float64)


def _extruded(outline: Floats, half_y_mm: float) -> Mesh:
    """A prism along y whose cross-section (N, 2) of (x, z) is the area under an upper line over z = 0, x rising."""
    count = len(outline)
    lower = np.stack([outline[:, 0], np.zeros(count)], axis=1)
    section = np.concatenate([lower, outline])
    front = np.stack([section[:, 0], np.full(2 * count, -half_y_mm), section[:, 1]], axis=1)
    vertices = np.concatenate([front, front * [1.0, -1.0, 1.0]])
    low, high, far = np.arange(count), np.arange(count) + count, 2 * count
    quads = [(low[i], low[i + 1], high[i + 1], high[i]) for i in range(count - 1)]  # the face at -y
    quads += [(q[3] + far, q[2] + far, q[1] + far, q[0] + far) for q in list(quads)]
    quads += [(low[i + 1], low[i], low[i] + far, low[i + 1] + far) for i in range(count - 1)]  # underside
    quads += [(high[i], high[i + 1], high[i + 1] + far, high[i] + far) for i in range(count - 1)]  # upper side
    quads += [(low[0], high[0], high[0] + far, low[0] + far)]
    quads += [(high[-1], low[-1], low[-1] + far, high[-1] + far)]
    triangles = [triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))]
    return vertices, np.array(triangles, np.int64)


#: Where a pixel's ray passes through the cell of four corners of ``_terrain``, (y, x): inside a triangle, because a ray
#: tracer may count a ray through a shared corner twice or not at all.
_IN_CELL = (0.3, 0.6)


def _terrain(height_mm: Floats, mm_per_px: float) -> tuple[Mesh, Floats]:
    """The solid between z = 0 and a height map (H + 1, W + 1) whose samples are the corners of its triangles, and the
    height (H, W) that the rays meet. The rim is carried one cell outward, so that no ray meets a side wall."""
    y_share, x_share = _IN_CELL
    met = (1 - x_share) * height_mm[:-1, :-1] + (x_share - y_share) * height_mm[:-1, 1:] + y_share * height_mm[1:, 1:]
    padded = np.pad(height_mm, 1, mode="edge")
    rows, columns = padded.shape
    y = (np.arange(rows) - 1 - y_share - (rows - 4) / 2) * mm_per_px
    x = (np.arange(columns) - 1 - x_share - (columns - 4) / 2) * mm_per_px
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    upper = np.stack([grid_x, grid_y, padded], axis=-1).reshape(-1, 3)
    lower = upper * [1.0, 1.0, 0.0]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    top = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    rim = np.concatenate([index[0, :-1], index[:-1, -1], index[-1, :0:-1], index[:0:-1, 0]])
    after, far = np.roll(rim, -1), rows * columns
    wall = np.concatenate([np.stack([rim, after + far, after], 1), np.stack([rim, rim + far, after + far], 1)])
    triangles = np.concatenate([top, top[:, ::-1] + far, wall]).astype(np.int64)
    return (np.concatenate([upper, lower]), triangles), np.asarray(met, np.float64)


def _axes_mm(size_px: int, mm_per_px: float, rays: int = 1) -> tuple[Floats, Floats]:
    """(y, x) of the rays: pixel middles, or the middles of rays x rays parts of each pixel."""
    axis = (np.arange(size_px * rays) - (size_px * rays - 1) / 2) * (mm_per_px / rays)
    return np.asarray(axis[:, None], np.float64), np.asarray(axis[None, :], np.float64)


def _cut(inside: list[NDArray[np.bool_]], rays: int) -> NDArray[np.bool_]:
    """Pixels whose rays do not all agree about which of the solids they meet."""
    height, width = (side // rays for side in inside[0].shape)
    cut = np.zeros((height, width), bool)
    for each in inside:
        share = each.reshape(height, rays, width, rays).mean(axis=(1, 3))
        cut |= (share > 0.0) & (share < 1.0)
    return cut


# ---------------------------------------------------------------------------------------------------- scenes


def block(size_px: int = 400, seed: int = 4) -> Scene:
    """40 x 40 mm: step 8 to 20 mm, rib of 6 mm with draft, conical through bore, round cross bore, ten pores."""
    rng = np.random.default_rng(seed)
    half_y, mm_per_px = 20.0, 50.0 / size_px
    outline = np.array(
        [
            [-20.0, 8.0],
            [-15.0, 8.0],
            [-13.0, 20.0],
            [10.0, 20.0],
            [10.7, 26.0],
            [13.3, 26.0],
            [14.0, 20.0],
            [20.0, 20.0],
        ]
    )
    bore_at, bore_mm = np.array([-6.0, -11.0]), (3.15, 3.0)  # at the underside and at the upper side
    cross_at, cross_mm, cross_half = np.array([17.0, 9.0]), 1.8, 14.0
    pores: list[tuple[Floats, Floats]] = []
    while len(pores) < 10:
        turned, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        halves = rng.uniform(0.4, 3.2, 3)
        centre = np.array([*rng.uniform([-9.0, -16.0], [6.0, 16.0]), rng.uniform(6.0, 14.0)])
        reach = halves.max()
        clear = all(
            np.hypot(*(centre - other)[:2]) > reach + np.linalg.norm(axes, axis=0).max() for other, axes in pores
        )
        if clear and np.hypot(*(centre[:2] - bore_at)) > reach + bore_mm[0] + 0.5:
            pores.append((centre, turned * halves))

    def solids(y: Floats, x: Floats) -> tuple[Floats, list[Floats]]:
        inside = (np.abs(y) < half_y) & (np.abs(x) < 20.0)
        thickness = np.where(inside, np.interp(x, outline[:, 0], outline[:, 1]), 0.0)
        away = np.hypot(y - bore_at[1], x - bore_at[0])
        bore = 20.0 * np.clip((bore_mm[0] - away) / (bore_mm[0] - bore_mm[1]), 0.0, 1.0)
        across = np.sqrt(np.maximum(cross_mm**2 - (x - cross_at[0]) ** 2, 0.0))
        holes = [bore, 2.0 * across * (np.abs(y) < cross_half)]
        holes += [_through_ellipsoid(centre, axes, y, x) for centre, axes in pores]
        return thickness, holes

    bore_profile = np.array([[0.0, 0.0], [bore_mm[0], 0.0], [bore_mm[1], 20.0], [0.0, 20.0]])
    vertices, triangles = _closed(bore_profile)
    meshes = [(vertices + np.append(bore_at, 0.0), triangles)]
    vertices, triangles = _closed(
        np.array([[0.0, -cross_half], [cross_mm, -cross_half], [cross_mm, cross_half], [0.0, cross_half]])
    )
    # The solid of revolution lies down: its axis from z to y, x stays (a turn, so the triangles keep their sense).
    meshes.append(
        (vertices @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]) + [cross_at[0], 0.0, cross_at[1]], triangles)
    )
    meshes += [_ellipsoid(centre, axes) for centre, axes in pores]

    thickness, holes = solids(*_axes_mm(size_px, mm_per_px))
    fine_thickness, fine_holes = solids(*_axes_mm(size_px, mm_per_px, _RAYS))
    cut = _cut([fine_thickness > 0, *(hole > 0 for hole in fine_holes)], _RAYS)
    path = np.maximum(thickness - sum(holes), 0.0)
    return Scene("block", mm_per_px, _extruded(outline, half_y), tuple(meshes), path, cut, 1)


def drawn(size_px: int = 256, across: int = 4, seed: int = 5) -> Scene:
    """A 20 mm plate with ``across`` by ``across`` pores as the simulator draws them: averaged over each pixel, each
    with its own middle."""
    rng = np.random.default_rng(seed)
    mm_per_px, thickness = 0.1, 20.0
    path = flat_plate((size_px, size_px), thickness).astype(np.float64)
    cell, meshes, inside = size_px // across, [], []
    fine_y, fine_x = _axes_mm(size_px, mm_per_px, _RAYS)
    for number in range(across * across):
        long, short, turn = rng.uniform(0.8, 3.6), rng.uniform(0.5, 1.0), rng.uniform(0, np.pi)
        short, depth = short * long, rng.uniform(0.5, 4.0)
        piece_seed = int(rng.integers(1 << 30))
        piece = ball(np.random.default_rng(piece_seed), long, short, depth, turn, mm_per_px)
        at_y = (number // across) * cell + cell // 2 + piece.y_px
        at_x = (number % across) * cell + cell // 2 + piece.x_px
        height, width = piece.path_mm.shape
        path[at_y : at_y + height, at_x : at_x + width] -= piece.path_mm
        # ball draws its middle's place inside the pixel first of all.
        offset = np.random.default_rng(piece_seed).uniform(-0.5, 0.5, 2)
        middle = np.array([at_x + (width - 1) / 2 + offset[1], at_y + (height - 1) / 2 + offset[0]])
        centre = np.array([*(middle - (size_px - 1) / 2) * mm_per_px, thickness / 2])
        cos, sin = np.cos(turn), np.sin(turn)
        axes = np.array(
            [[cos * long / 2, -sin * short / 2, 0], [sin * long / 2, cos * short / 2, 0], [0, 0, depth / 2]]
        )
        meshes.append(_ellipsoid(centre, axes))
        inside.append(_through_ellipsoid(centre, axes, fine_y, fine_x) > 0)
    half = size_px * mm_per_px / 2 + 1.0
    plate = _extruded(np.array([[-half, thickness], [half, thickness]]), half)
    return Scene("drawn", mm_per_px, plate, tuple(meshes), path, _cut(inside, _RAYS), _RAYS)


def casting(size_px: int = 384, seed: int = 6) -> Scene:
    """A random casting of the simulator; nothing is left out. A hundredth of a millimetre closes the mesh where the
    map is air."""
    mm_per_px = 0.1
    drawn_mm, _ = random_casting(np.random.default_rng(seed), (size_px + 1, size_px + 1), mm_per_px)
    mesh, path = _terrain(np.maximum(np.asarray(drawn_mm, np.float64), 0.01), mm_per_px)
    return Scene("casting", mm_per_px, mesh, (), path, np.zeros(path.shape, bool), 1)


# ---------------------------------------------------------------------------------------------------- ray tracer


def _open_gvxr() -> Any:
    """The library with its one off-screen window. It writes a log wherever it stands unless told otherwise."""
    try:
        gvxr: Any = import_module("gvxrPython3").gvxr
    except ImportError as error:
        raise MissingExtra("the comparison with gVirtualXRay", "simulator-check") from error
    gvxr.useLogFile(os.devnull)
    gvxr.createWindow(-1, 0, "EGL", 4, 5)
    return gvxr


def _traced(gvxr: Any, scene: Scene, beam: Beam, metal: str) -> Floats:
    """The ray tracer's primary image, as a share of the open beam's energy."""
    height, width = scene.path_mm.shape
    gvxr.removePolygonMeshesFromXRayRenderer()
    # Where source and detector stand, and the beam, before the meshes: an outer surface added earlier keeps the
    # attenuation that it had then.
    gvxr.setSourcePosition(0.0, 0.0, -500.0, "mm")
    gvxr.useParallelBeam()
    gvxr.setDetectorPosition(0.0, 0.0, 500.0, "mm")
    # Rows of its image rise with its up vector, columns fall with x.
    gvxr.setDetectorUpVector(0, 1, 0)
    gvxr.setDetectorNumberOfPixels(width, height)
    gvxr.setDetectorPixelSize(scene.mm_per_px, scene.mm_per_px, "mm")
    gvxr.resetBeamSpectrum()
    energies, weights = beam.quanta()
    for energy, weight in zip(energies.tolist(), weights.tolist(), strict=True):
        gvxr.addEnergyBinToSpectrumPerPixelAtSDD(energy, "keV", weight * 1e6)
    content = material(METAL_MATERIAL[metal])
    _add_mesh(gvxr, "casting", scene.outer, content.mass_pct, content.density_g_cm3)
    gvxr.addPolygonMeshAsOuterSurface("casting")
    # It goes on subtracting inner surfaces of a scene before, even removed ones, until their label is given anew.
    speck = _closed(np.array([[0.0, 0.0], [1e-3, 0.0], [1e-3, 1e-3], [0.0, 1e-3]]), 4)
    beside = (speck[0] + np.array([1e4, 0.0, 0.0]), speck[1])
    for number in range(_MOST_HOLES):
        mesh = scene.inner[number] if number < len(scene.inner) else beside
        _add_mesh(gvxr, f"hole-{number}", mesh, {"N": 100.0}, 1e-9)
        gvxr.addPolygonMeshAsInnerSurface(f"hole-{number}")
    total = np.zeros((height, width))
    for y, x in np.ndindex(scene.rays, scene.rays):
        aside = [(part + 0.5) / scene.rays * scene.mm_per_px - scene.mm_per_px / 2 for part in (x, y)]
        gvxr.setSourcePosition(*aside, -500.0, "mm")
        gvxr.setDetectorPosition(*aside, 500.0, "mm")
        total += np.asarray(gvxr.computeXRayImage(True), np.float64)
    opened = float(gvxr.getTotalEnergyWithDetectorResponse()) * scene.rays**2
    return np.asarray(total[:, ::-1] / opened, np.float64)


def _add_mesh(gvxr: Any, label: str, mesh: Mesh, mass_pct: dict[str, float], density_g_cm3: float) -> None:
    vertices, triangles = mesh
    gvxr.makeTriangularMesh(label, vertices.ravel().tolist(), triangles.ravel().tolist(), "mm")
    gvxr.setMixture(label, list(mass_pct), [pct / 100.0 for pct in mass_pct.values()])
    gvxr.setDensity(label, density_g_cm3, "g/cm3")


def study(*, quick: bool = False, pictures: Path | None = None) -> list[Row]:
    """The whole table. quick: smaller scenes under fewer beams. pictures: folder for each scene and its differences.

    Raises MissingExtra without gvxr.
    """
    gvxr = _open_gvxr()
    metals = (("magnesium", 80.0), ("titanium", 160.0), ("steel", 200.0))
    if quick:
        solid, scenes = block(256), (drawn(160, 3), casting(256))
        cases = [(solid, Beam(60.0, None), "aluminum"), (solid, Beam(None, 200.0), "steel")]
        cases += [(scene, Beam(None, 120.0), "aluminum") for scene in (solid, *scenes)]
    else:
        solid, scenes = block(), (drawn(), casting())
        beams = [Beam(line, None) for line in (40.0, 60.0, 80.0, 100.0, 160.0)]
        beams += [Beam(None, kv) for kv in (80.0, 120.0, 185.0)]
        cases = [(scene, beam, "aluminum") for scene in (solid, *scenes) for beam in beams]
        cases += [(solid, Beam(None, kv), metal) for metal, kv in metals]
    rows = []
    for scene, beam, metal in cases:
        traced = _traced(gvxr, scene, beam, metal)
        ours = beam.passed(scene.path_mm, metal)
        difference = (ours / traced - 1.0) * 100.0
        compared = difference[~scene.cut]
        rows.append(
            Row(
                scene.name, metal, str(beam), float(np.abs(compared).max()), float(np.sqrt((compared**2).mean())),
                float(np.abs(difference).max()), float(scene.cut.mean() * 100.0), difference.size, float(traced.min()),
            )
        )  # fmt: skip
        if pictures is not None:
            _write(pictures, f"{scene.name}-{metal}-{beam}".replace(" ", "_"), traced, ours, difference, scene.cut)
    return rows


def _write(folder: Path, name: str, traced: Floats, ours: Floats, difference: Floats, cut: NDArray[np.bool_]) -> None:
    """Ray tracer, simulator, difference (mid grey is none, full scale is 0.5 %), pixels left out; side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    bits = [np.sqrt(traced) * 255, np.sqrt(ours) * 255, 127.5 + difference * 255.0, cut * 255.0]
    cv2.imwrite(str(folder / f"{name}.png"), np.hstack([np.clip(each, 0, 255).astype(np.uint8) for each in bits]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_daemon.testing.gvxr_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="smaller scenes, fewer beams")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the differences")
    options = parser.parse_args(arguments)
    try:
        rows = study(quick=options.quick, pictures=options.pictures)
    except EdgeError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    if options.json:
        for row in rows:
            print(json.dumps(asdict(row)))  # noqa: T201
        return 0
    print("scene     metal      beam         largest %   rms %    all pixels %  left out %  lowest")  # noqa: T201
    for row in rows:
        print(  # noqa: T201
            f"{row.scene:9s} {row.metal:10s} {row.beam:11s} {row.largest_pct:9.4f} {row.rms_pct:9.4f}"
            f" {row.all_largest_pct:12.3f} {row.left_out_pct:11.2f} {row.lowest:9.5f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
