"""Simulate, fit, evaluate: how the shipped bundle was made, and how to make another. Needs the extra ``train``
(PyTorch, ONNX); nothing at run time imports this room.

>>> figures = evaluate(Path("engines/castings-xray"), range(900_000, 900_100))  # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2

from ..errors import MissingExtra, StorageError, UsageError
from ..simulator import CASTING_TYPES, simulate

__all__ = ["evaluate", "fit", "simulate_to_folder"]


def simulate_to_folder(out: Path, n: int, seed: int = 0) -> list[Path]:
    """Write ``n`` simulated radiographs of 512 x 512 px with their truth into ``out`` and return the pictures' paths.

    Per picture, numbered by its seed: ``000007.png`` (8 bit, voids bright), ``000007-labels.png`` (0 sound, k the k-th
    type) and ``000007.json`` (mm_per_px, defects). Needs no extra. Raises UsageError for n < 1 or a negative seed,
    StorageError if a file cannot be written.
    """
    if n < 1 or seed < 0:
        raise UsageError(f"{n} pictures from seed {seed} cannot be simulated", hint="n >= 1 and seed >= 0")
    paths = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for number in range(seed, seed + n):
            picture = simulate(number)
            stem = f"{number:06d}"
            for name, pixels in ((stem, picture.pixels), (f"{stem}-labels", picture.labels)):
                (out / f"{name}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
            defects = [
                {"type": d.type, "label": CASTING_TYPES.index(d.type) + 1, "size_mm": round(d.size_mm, 3),
                 "depth_mm": round(d.depth_mm, 3), "bbox_px": list(d.bbox_px), "area_mm2": round(d.area_mm2, 4)}
                for d in picture.defects
            ]  # fmt: skip
            document = {"seed": number, "mm_per_px": picture.mm_per_px, "polarity": "bright_void", "defects": defects}
            (out / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            paths.append(out / f"{stem}.png")
    except OSError as error:
        raise StorageError(
            f"{error.filename or out}: {error.strerror}", hint="choose a folder with room that may be written to"
        ) from error
    return paths


def _need_torch() -> None:
    if find_spec("torch") is None or find_spec("onnx") is None:
        raise MissingExtra("training", "train")


def fit(
    out: Path, *, seed: int = 1, minutes: float = 18.0, pictures: int = 2400, threads: int = 1,
    bundle: Path | None = None,
) -> Path:  # fmt: skip
    """Train on simulated radiographs and seal a bundle; returns its folder.

    out: for checkpoint.pt and training.jsonl; a run that was cut off goes on from there. minutes: of training, without
    simulation before and evaluation after it (a few minutes each). bundle: where to, by default ``out/castings-xray``.
    Raises MissingExtra without PyTorch, UsageError for a checkpoint of another plan or too large a seed.
    """
    _need_torch()
    from .fit import Plan, fit_network
    from .sealing import write_bundle

    plan = Plan(seed=seed, minutes=minutes, pictures=pictures, threads=threads)
    network = fit_network(out, plan)
    folder = bundle or out / "castings-xray"
    first = seed * pictures
    write_bundle(
        network, folder,
        trained_on=f"simulated radiographs, edge_daemon.simulator, seeds {first}..{first + pictures - 1}",
    )  # fmt: skip
    return folder


def evaluate(bundle_folder: Path, seeds: Sequence[int], *, threads: int = 2) -> dict[str, Any]:
    """Figures of a sealed bundle on simulated pictures, one per seed: recall per type with its 95 % Clopper-Pearson
    interval, false regions per picture, overlaps, mean and worst type.

    Needs no extra: it runs the line's own engine. Raises UsageError without seeds or for seeds below 850,000, which
    training or tuning may have used; ConfigError and IntegrityError for a bundle that does not hold.
    """
    from .certify import evaluate_bundle
    from .pictures import EXPERIMENT_SEEDS_FROM

    if not len(seeds) or min(seeds) < EXPERIMENT_SEEDS_FROM:
        raise UsageError(
            "these seeds may have been trained or tuned on", hint=f"choose seeds from {EXPERIMENT_SEEDS_FROM} on"
        )
    return evaluate_bundle(bundle_folder, seeds, threads=threads)
