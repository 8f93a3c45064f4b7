"""Commissioning: an engine learns one part under one camera from good frames alone.

    good frames -> screened -> simulated discontinuities on them -> fine-tuning, half of it plain simulation
                -> calibration, seed threshold and known scores on frames held out -> before/after -> sealed bundle

The base bundle is read and never touched: rolling back means naming it in the recipe again. Thresholds, figures and
pictures come from frames the network never learned from; they are few, so every figure stands beside its interval.

Not covered: parts that lie in several poses (commission each), real defects (the figures are of simulated ones on real
frames), and what most of the good frames have in common, defect or not: it is learned as normal.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, ImageError, MissingExtra, UsageError
from ..images import PICTURE_SUFFIXES, load_picture, make_folder, write_png_atomic
from ..segment.bundle import Bundle
from ..segment.prepare import prepare
from ..segment.protocol import Engine
from ..segment.see import coverage_from_logits, find_blobs, image_gate
from ..segment.tiling import run_tiled
from ..simulator import CASTING_TYPES
from .pictures import Pool, join_pools, prepare_picture, sample_batch
from .screening import Common, Suspect, learn_normal, screen
from .superimpose import Ground, planted

__all__ = [
    "LEAST_FRAMES",
    "LEAST_LEFT",
    "Frames",
    "Screened",
    "Tuning",
    "fine_tune",
    "load_frames",
    "marked",
    "need_torch",
    "own_batches",
    "screen_frames",
    "split",
]  # fmt: skip

#: Frames that are asked for, and that have to be left after screening.
LEAST_FRAMES, LEAST_LEFT = 20, 14
# More frames than this teach nothing more about one part, and take their time to compare.
_MOST_FRAMES = 48
_HELD_OUT = 1.0 / 3.0
# The pool of planted windows, and how many steps one of them lives between replacements.
_SLOTS, _STEPS_A_WINDOW, _WINDOW_PX = 96, 2, 320
# Plain simulation: pictures before the first step, and the seeds they come from.
_FIRST_SIMULATED, _SIMULATED_SEEDS = 150, (700_000, 1000, 90)
_AIMED = 0.65
_PLANES = ("grey", "local", "labels", "spots", "spot_count")

#: As ``fit.Batches``, named here so that loading frames does not load PyTorch.
Batches = Callable[[np.random.Generator, int, int, int], tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Frames:
    """Good frames as they came. pixels: uint8 or uint16 (H, W), all alike, voids as the engine expects them. sha256: of
    the files. left_out: more than can be used, by name."""

    names: tuple[str, ...]
    pixels: tuple[NDArray[Any], ...]
    sha256: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def only(self, indices: Sequence[int]) -> Frames:
        """Some of them, in that order."""
        return Frames(
            tuple(self.names[k] for k in indices), tuple(self.pixels[k] for k in indices),
            tuple(self.sha256[k] for k in indices), self.left_out,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Screened:
    """What screening left. good: frames to go on with. suspects: not learned, with their index in the frames that
    came; overruled: names that a person insisted on. common: what the engine sees in many frames. grounds: the good
    frames with their noise, ready to plant on."""

    good: Frames
    suspects: tuple[Suspect, ...]
    overruled: tuple[str, ...]
    common: tuple[Common, ...]
    grounds: tuple[Ground, ...]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to fine-tune. minutes: of it, or at most so many steps. share_own: of every batch, crops of the good frames;
    the rest is plain simulation (from so many pictures), without which other parts and imaging modes get worse."""

    seed: int = 0
    minutes: float = 9.0
    steps: int = 200_000
    learning_rate: float = 6e-4
    share_own: float = 0.5
    batch: int = 14
    crop_px: int = 144
    ema: float = 0.99
    pictures: int = 700
    device: str = "auto"
    threads: int = field(default_factory=lambda: max(1, min(8, os.cpu_count() or 1)))


# ---- frames ---------------------------------------------------------------------------------------------------------


def load_frames(folder: Path, bundle: Bundle, *, polarity: str | None = None, least: int = LEAST_FRAMES) -> Frames:
    """Every picture of ``folder``, in the order of their names.

    polarity: of the frames where it is not the bundle's; they are then turned round, as on the line. Raises UsageError
    for too few frames, frames that differ in size or depth, the same frame twice, or one that the image gate refuses;
    ImageError for a file that is no picture, or a colour one.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="give the folder that holds the good frames")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    if len(paths) < least:
        raise UsageError(
            f"{folder} holds {len(paths)} frames; commissioning needs at least {least} good ones",
            hint="save more frames of sound parts, each part once",
        )
    turn = polarity is not None and polarity != bundle.qualified.polarity
    pixels: list[NDArray[Any]] = []
    hashes: list[str] = []
    seen: dict[str, str] = {}
    for path in paths[:_MOST_FRAMES]:
        picture = load_picture(path)
        one = _grey(path, picture.pixels)
        if pixels and (one.shape != pixels[0].shape or one.dtype != pixels[0].dtype):
            raise UsageError(
                f"{path.name} is {_kind(one)}, {paths[0].name} is {_kind(pixels[0])}",
                hint="commission one part under one camera: frames of one size and depth",
            )
        reasons = image_gate(bundle, one)
        if reasons:
            raise UsageError(f"{path.name}: {reasons[0].text}", hint="take the frames as the line will take them")
        if picture.sha256 in seen:
            raise UsageError(f"{path.name} is {seen[picture.sha256]} once more", hint="give every frame once")
        seen[picture.sha256] = path.name
        pixels.append(np.asarray(np.iinfo(one.dtype).max - one) if turn else one)
        hashes.append(picture.sha256)
    names = tuple(path.name for path in paths)
    return Frames(names[: len(pixels)], tuple(pixels), tuple(hashes), names[len(pixels) :])


def _grey(path: Path, pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim == 2:
        return pixels
    if not (np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])):
        raise ImageError(f"picture {path}: is in colour", hint="commissioning takes grey radiographs")
    return np.ascontiguousarray(pixels[..., 0])


def _kind(pixels: NDArray[Any]) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]} px of {8 * pixels.dtype.itemsize} bit"


def screen_frames(
    frames: Frames, engine: Engine, *, keep: Sequence[str] = (), mm_per_px: float = 0.1, least_left: int = LEAST_LEFT,
    out: Path | None = None,
) -> Screened:  # fmt: skip
    """Find the frames that hold a defect by mistake, show them, and go on with the others.

    keep: names of frames that a person has looked at and found good. out: folder for a picture of each screened frame
    with the place framed in cyan. Raises UsageError for a name that is no frame, or when fewer than ``least_left``
    are left.
    """
    unknown = sorted(set(keep) - set(frames.names))
    if unknown:
        raise UsageError(f"there is no frame {unknown[0]!r} to keep", hint="names as they stand in the folder")
    normal = learn_normal(frames.pixels)
    seen = [marked(engine, pixels) for pixels in frames.pixels]
    found, common = screen(frames.pixels, normal, seen)
    suspects = tuple(one for one in found if frames.names[one.index] not in keep)
    overruled = tuple(frames.names[one.index] for one in found if frames.names[one.index] in keep)
    if out is not None:
        _show(frames, suspects, frames.pixels[normal.reference], common, out)
    bad = {one.index for one in suspects}
    left = [index for index in range(len(frames.names)) if index not in bad]
    if len(left) < least_left:
        raise UsageError(
            f"{len(suspects)} of {len(frames.names)} frames were screened out; {len(left)} are left and at least "
            f"{least_left} are needed",
            hint=f"look at them{f' in {out}' if out else ''}; add good frames, or keep the good ones with --keep NAME",
        )
    good = frames.only(left)
    sense = -1 if engine.bundle.qualified.polarity == "dark_void" else 1
    grounds = tuple(Ground(pixels, normal.noise_of(pixels), mm_per_px, sense) for pixels in good.pixels)
    return Screened(good, suspects, overruled, tuple(common), grounds)


def marked(engine: Engine, pixels: NDArray[Any]) -> NDArray[np.bool_]:
    """bool (H, W): the pixels that the engine marks by its own thresholds."""
    spec = engine.bundle.input
    tensors = run_tiled(engine.infer, prepare(pixels, spec.views, spec.local_sigma_px), spec)
    coverage = coverage_from_logits(tensors.defect[0, 0], engine.bundle.thresholds)
    blobs = find_blobs(coverage, tensors.type[0], engine.bundle.thresholds, tensors.type_stride_px)
    mask = np.zeros(coverage.shape, bool)
    mask.reshape(-1)[blobs.pixels] = True
    return mask


def _show(
    frames: Frames, suspects: Sequence[Suspect], reference: NDArray[Any], common: Sequence[Common], out: Path
) -> None:
    folder = make_folder(out)
    for old in folder.glob("*.png"):
        old.unlink()
    for one in suspects:
        boxes = [one.box_px] if one.box_px is not None else []
        write_png_atomic(folder / f"{Path(frames.names[one.index]).stem}.png", _framed(frames.pixels[one.index], boxes))
    if common:
        write_png_atomic(folder / "seen-in-many-frames.png", _framed(reference, [one.box_px for one in common]))


def _framed(pixels: NDArray[Any], boxes: Sequence[tuple[int, int, int, int]]) -> NDArray[Any]:
    shown = np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_GRAY2RGB))
    top = int(np.iinfo(pixels.dtype).max)
    for x, y, width, height in boxes:
        cv2.rectangle(shown, (x - 5, y - 5), (x + width + 4, y + height + 4), (0, top, top), 1)
    return shown


def split(frames: Frames, seed: int = 0) -> tuple[list[int], list[int]]:
    """(frames to learn from, frames held out), about two thirds and one third; by their content, not their order."""
    order = sorted(
        range(len(frames.names)), key=lambda k: hashlib.sha256(f"{seed} {frames.sha256[k]}".encode()).digest()
    )
    held = max(1, round(_HELD_OUT * len(order)))
    return sorted(order[held:]), sorted(order[:held])


# ---- fine-tuning ----------------------------------------------------------------------------------------------------


def need_torch() -> None:
    """Raise MissingExtra where PyTorch or ONNX is not installed."""
    if find_spec("torch") is None or find_spec("onnx") is None:
        raise MissingExtra("commissioning", "train")


class _Windows:
    """A pool of planted windows of the good frames that is renewed, one window every few steps.

    Which windows are in it depends on the step alone, so that a resumed run goes on as it would have.
    """

    def __init__(self, grounds: Sequence[Ground], seed: int) -> None:
        self._grounds, self._seed = grounds, seed
        side = min(_WINDOW_PX, *grounds[0].pixels.shape)
        self._side_px = side // 16 * 16
        self._made = 0
        self._pool: Pool | None = None

    def at(self, step: int) -> Pool:
        wanted = _SLOTS + step // _STEPS_A_WINDOW
        if self._pool is None or self._made > wanted or self._made < wanted - _SLOTS:
            numbers = sorted(range(wanted - _SLOTS, wanted), key=lambda number: number % _SLOTS)
            joined = join_pools([self._window(number) for number in numbers])
            self._pool = Pool(*(np.array(getattr(joined, name)) for name in _PLANES))
        else:
            for number in range(self._made, wanted):
                new = self._window(number)
                for name in _PLANES:
                    getattr(self._pool, name)[number % _SLOTS] = getattr(new, name)[0]
        self._made = wanted
        return self._pool

    def _window(self, number: int) -> Pool:
        key = (self._seed << 32) + number
        rng = np.random.default_rng([key, 31])
        ground = self._grounds[int(rng.integers(0, len(self._grounds)))]
        return prepare_picture(key, planted(key, ground, most=7, side_px=self._side_px), self._side_px)


def own_batches(grounds: Sequence[Ground], tuning: Tuning, simulated: Batches) -> Batches:
    """Batches of which ``tuning.share_own`` shows the good frames with simulated discontinuities, the rest what
    ``simulated`` gives."""
    windows = _Windows(grounds, tuning.seed) if grounds else None

    def draw(rng: np.random.Generator, step: int, batch: int, crop_px: int) -> tuple[Any, Any]:
        own = round(tuning.share_own * batch) if windows is not None else 0
        parts = [simulated(rng, step, batch - own, crop_px)] if own < batch else []
        if windows is not None and own:
            parts.append(sample_batch(rng, windows.at(step), own, crop_px, _AIMED))
        return tuple(np.concatenate(planes) for planes in zip(*parts, strict=True))  # type: ignore[return-value]

    return draw


def fine_tune(
    base: Bundle, grounds: Sequence[Ground], work: Path, tuning: Tuning, *, pool_folder: Path | None = None,
    progress: bool | None = None,
) -> Any:  # fmt: skip
    """A ``CastingNet`` that goes on from the bundle's network; resumes from ``work``.

    pool_folder: of the simulated pictures, by default ``work/pool``; several runs of one seed may share it.
    Without grounds it learns from plain simulation only, which is the control that commissioning has to beat.
    Raises MissingExtra without PyTorch, EngineError for a bundle that cannot be trained on.
    """
    need_torch()
    from .fitting import Plan, fit_network
    from .pictures import GrowingPool
    from .reopen import reopen

    start, length, several = _SIMULATED_SEEDS
    first = start + length * (tuning.seed % several)
    pool = GrowingPool(pool_folder or work / "pool", range(first, first + tuning.pictures))
    try:
        pool.first(_FIRST_SIMULATED)

        def simulated(rng: np.random.Generator, step: int, batch: int, crop_px: int) -> tuple[Any, Any]:
            return sample_batch(rng, pool.first(_FIRST_SIMULATED + step // 2), batch, crop_px)

        batches = own_batches(grounds, tuning, simulated)
        # The crop is a multiple of 16 and fits the windows of small frames.
        crop = tuning.crop_px if not grounds else min(tuning.crop_px, min(grounds[0].pixels.shape) // 16 * 16)
        views, _ = batches(np.random.default_rng([tuning.seed, 32]), 0, 64, crop)
        if base.types != CASTING_TYPES:
            raise EngineError(
                f"engine {base.name} is no engine for castings: commissioning plants casting discontinuities",
                hint="teach a surface from labelled pictures: `edge-daemon train fit --on DIR`",
            )
        network = reopen(base, views)
        plan = Plan(
            seed=tuning.seed, minutes=tuning.minutes, steps=tuning.steps, pictures=tuning.pictures,
            batch=tuning.batch, crop_px=crop, learning_rate=tuning.learning_rate, ema=tuning.ema,
            device=tuning.device, threads=tuning.threads,
        )  # fmt: skip
        return fit_network(work, plan, batches, start=network.state_dict(), progress=progress)
    finally:
        pool.close()
