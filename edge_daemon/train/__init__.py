"""Simulate, fit, evaluate: how the shipped bundle was made, and how to make another. Needs the extra ``train``
(PyTorch, ONNX); nothing at run time imports this room.

>>> figures = evaluate(Path("engines/castings-xray"), range(900_000, 900_100))  # doctest: +SKIP
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtra, StorageError, UsageError
from ..simulator import CASTING_TYPES, PlacedDefect, Radiograph, simulate
from .pictures import IGNORED, scale_of, visible_labels

__all__ = ["evaluate", "fit", "fit_on", "reinforce_on", "simulate_to_folder"]


def simulate_to_folder(
    out: Path, n: int, seed: int = 0, *, workers: int = 1, progress: bool = False, **options: Any
) -> list[Path]:  # fmt: skip
    """Write ``n`` simulated radiographs with their truth into ``out`` and return the pictures' paths.

    Per picture, numbered by its seed: ``000007.png``; ``000007-labels.png`` (0 sound, k the k-th type);
    ``000007-ignored.png`` (255 where a discontinuity lies below the visible limit); ``000007.json`` (mm_per_px,
    polarity, how it was taken, and every discontinuity with its type, size, depth and whether it can be seen).
    options: as of ``simulator.simulate``; without mm_per_px the scale is drawn by the seed. Needs no extra. Raises
    UsageError for n < 1, a negative seed or an option that cannot be simulated, StorageError if a file cannot be
    written.
    """
    if n < 1 or seed < 0 or workers < 1:
        raise UsageError(f"{n} pictures from seed {seed} cannot be simulated", hint="n >= 1, seed >= 0, workers >= 1")
    paths = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        jobs = [(out, number, options) for number in range(seed, seed + n)]
        if workers == 1:
            paths = list(_counted(map(_write_picture, jobs), n, progress))
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                paths = list(_counted(pool.map(_write_picture, jobs, chunksize=4), n, progress))
    except OSError as error:
        raise StorageError(
            f"{error.filename or out}: {error.strerror}", hint="choose a folder with room that may be written to"
        ) from error
    return paths


def _counted(paths: Iterable[Path], n: int, show: bool) -> Iterator[Path]:
    for number, path in enumerate(paths, 1):
        if show:
            end = "" if number < n else "\n"
            print(f"\r{number} of {n}", end=end, file=sys.stderr, flush=True)  # noqa: T201
        yield path


def _write_picture(job: tuple[Path, int, dict[str, Any]]) -> Path:
    """Simulate one picture and write its four files; runs in a process of its own."""
    cv2.setNumThreads(1)
    out, seed, options = job
    if "mm_per_px" not in options:
        options = {**options, "mm_per_px": scale_of(seed)}
    picture = simulate(seed, **options)
    visible = visible_labels(picture)
    ignored = np.where(visible == IGNORED, 255, 0).astype(np.uint8)
    stem = f"{seed:06d}"
    for name, pixels in ((stem, picture.pixels), (f"{stem}-labels", picture.labels), (f"{stem}-ignored", ignored)):
        (out / f"{name}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    document = {
        "seed": seed, "mm_per_px": picture.mm_per_px, "polarity": options.get("polarity", "bright_void"),
        "simulated": {key: value for key, value in options.items() if key not in ("mm_per_px", "polarity")},
        "defects": [_described(defect, picture, visible) for defect in picture.defects],
    }  # fmt: skip
    (out / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return out / f"{stem}.png"


def _described(defect: PlacedDefect, picture: Radiograph, visible: NDArray[np.uint8]) -> dict[str, Any]:
    x, y, width, height = defect.bbox_px
    label = CASTING_TYPES.index(defect.type) + 1
    return {
        "type": defect.type, "label": label, "size_mm": round(defect.size_mm, 3), "depth_mm": round(defect.depth_mm, 4),
        "bbox_px": [x, y, width, height], "area_mm2": round(defect.area_mm2, 4),
        "visible": bool((visible[y : y + height, x : x + width] == label).any()),
        "peak_grey": round(float(np.abs(picture.signal[y : y + height, x : x + width]).max()), 2),
    }  # fmt: skip


def _need_torch() -> None:
    if find_spec("torch") is None or find_spec("onnx") is None:
        raise MissingExtra("training", "train")


def fit(
    out: Path, *, seed: int = 5, minutes: float = 90.0, pictures: int = 14_000, threads: int = 1, workers: int = 1,
    device: str = "auto", bundle: Path | None = None, progress: bool | None = None,
) -> Path:  # fmt: skip
    """Train on simulated radiographs and seal a bundle; returns its folder.

    out: for the pictures, checkpoint.pt, training.jsonl and training.png; a run that was cut off goes on from there.
    minutes: of training, without the first pictures before and the evaluation after it (some minutes each). bundle:
    where to, by default ``out/castings-xray``. Raises MissingExtra without PyTorch, UsageError for a checkpoint of
    another plan, too large a seed or a GPU that is not there.
    """
    _need_torch()
    from .fitting import Plan, fit_network, simulated_batches, validate, validation_pool
    from .sealing import write_bundle

    plan = Plan(seed=seed, minutes=minutes, pictures=pictures, threads=threads, workers=workers, device=device)
    batches, pool = simulated_batches(out, plan)
    try:
        watched = validation_pool()
        network = fit_network(out, plan, batches, look=lambda net: validate(net, watched), progress=progress)
    finally:
        pool.close()
    folder = bundle or out / "castings-xray"
    first = seed * 100_000
    write_bundle(
        network, folder,
        trained_on=f"simulated radiographs, edge_daemon.simulator, seeds {first}..{first + pictures - 1}",
    )  # fmt: skip
    return folder


def fit_on(
    on: Path, out: Path, *, name: str | None = None, split: str | None = None, test_split: str | None = None,
    left_out: Sequence[str] = (), licence: str = "", bundle_version: str = "0.1.0", seed: int = 4,
    minutes: float = 61.0, steps: int = 200_000, threads: int = 1, device: str = "auto", progress: bool | None = None,
) -> Path:  # fmt: skip
    """Train a surface engine on a site's own labelled pictures and seal it; returns the bundle's folder.

    It stops after so many minutes or steps, whichever comes first.

    See ``surface_fit.fit_surface``. Raises MissingExtra without PyTorch, UsageError for a folder or name that cannot be
    used.
    """
    _need_torch()
    from .fitting import Plan
    from .surface_fit import SURFACE_WIDTHS, fit_surface

    plan = Plan(seed=seed, minutes=minutes, steps=steps, crop_px=128, threads=threads, device=device,
                validate_minutes=max(0.5, min(5.0, minutes / 12)), widths=SURFACE_WIDTHS)  # fmt: skip
    chosen = name or re.sub(r"[^a-z0-9._-]+", "-", on.resolve().name.lower()).strip("-._")
    return fit_surface(on, out, name=chosen, split=split, test_split=test_split, left_out=left_out, plan=plan,
                       licence=licence, bundle_version=bundle_version, progress=progress)  # fmt: skip


def reinforce_on(
    base: Path, on: Path, export: Path, out: Path, *, types: Sequence[str], split: str | None = None,
    test_split: str | None = None, minutes: float = 10.0, seed: int = 0, threads: int = 1, device: str = "auto",
    promote: bool = False, progress: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a surface engine further on some of its types; see ``reinforce.reinforce`` for what comes back.

    promote: where no type lost, put it in the base's place; the report then says where the old one is (``previous``).
    """
    _need_torch()
    from . import reinforce as room
    from .fitting import Plan

    plan = Plan(seed=seed, minutes=minutes, crop_px=128, threads=threads, device=device,
                validate_minutes=max(0.5, min(5.0, minutes / 6)))  # fmt: skip
    report = room.reinforce(base, on, export, out, types=types, plan=plan, split=split, test_split=test_split,
                            progress=progress)  # fmt: skip
    if promote and report["promotable"]:
        report["previous"] = str(room.promote(Path(report["bundle"]), base))
    return report


def evaluate(bundle_folder: Path, seeds: Sequence[int], *, threads: int = 2) -> dict[str, Any]:
    """Figures of a sealed bundle on simulated pictures, one per seed: recall per type with its 95 % Clopper-Pearson
    interval, false regions per picture, overlaps, mean and worst type.

    Needs no extra: it runs the line's own engine. Raises UsageError without seeds or for seeds below 850,000, which
    training or tuning may have used; ConfigError and IntegrityError for a bundle that does not hold.
    """
    from .evaluation import evaluate_on

    return evaluate_on(bundle_folder, None, seeds, threads=threads)
