"""From a site's labelled pictures to a sealed surface engine: split, learn, calibrate, examine, seal.

    labelled folder -> parts split in learn and hold -> crops, strangers planted -> network with a plane for strangers
                    -> thresholds on the held parts -> figures on what was never touched -> card -> seal

The split is by part (crops of one strip of steel, pictures of one tile, never stand on both sides) and by a hash of the
part's name, so that adding pictures moves hardly any of the old ones.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import UsageError
from ..records import TYPE_IDS
from ..segment import bundle as bundles
from ..segment.onnx import OnnxEngine
from ..segment.prepare import VIEWS, prepare
from .annotations import type_of
from .evaluation import evaluate_pictures
from .fitting import Plan, fit_network, loss_parts
from .labelled import Labelled, LabelledFolder, open_folder
from .network import MULTIPLE_OF_PX, TYPE_STRIDE_PX, CastingNet, export_onnx, parameter_count
from .pictures import IGNORED, LOCAL_SIGMA_PX
from .surface_calibrate import SurfaceLimits, calibrate_surface
from .surface_card import surface_card
from .surface_pictures import Surface, read_surfaces, surface_batch, without_types

__all__ = ["SURFACE_WIDTHS", "fit_surface", "held_parts", "look_at", "seal_surface", "some_of", "types_in"]

# Of the parts, this share teaches nothing: early stopping and thresholds come from it.
_HELD_SHARE = 0.2
# A type of few parts must not go without: at least so many of its parts are held, of every fourth one.
_HELD_LEAST = 3
_WATCHED = 120
#: A surface is seen from near and its pictures are small: a narrow network answers 200 x 200 px within 3 ms.
SURFACE_WIDTHS = (8, 16, 32, 64)
_LIMITS = SurfaceLimits()
_SOFTWARE = ("torch", "onnx", "onnxruntime", "numpy")
_PROVISIONAL = {
    "temperature": 1.0, "bias": 0.0, "seed": 0.5, "grow": 0.5, "min_region_px": 1, "unknown_alpha": 0.05,
    "known_scores": {}, "gate": {"min_contrast": 0.0, "max_clipped_pct": 100.0},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Qualification:
    """What the engine may be used for. mm_per_px: range of scales; pictures whose scale nobody stated qualify for
    scales that somebody who knows the pictures writes here."""

    mm_per_px: tuple[float, float] = (0.02, 2.0)
    bits: tuple[int, ...] = (8, 16)


def held_parts(pictures: Iterable[Surface]) -> frozenset[str]:
    """The parts that are kept from learning: a fifth by the hash of their name, and of each type (and of what is sound)
    at least a quarter of its parts or three, where it has three or more."""
    parts_of: dict[int | None, set[str]] = {}
    for one in pictures:
        parts_of.setdefault(one.kind, set()).add(one.part)

    def order(part: str) -> tuple[int, str]:
        return zlib.crc32(part.encode("utf-8")) % 1000, part

    found = {part for parts in parts_of.values() for part in parts if order(part)[0] < 1000 * _HELD_SHARE}
    for kind in sorted(parts_of, key=lambda kind: -1 if kind is None else kind):
        parts = sorted(parts_of[kind], key=order)
        least = min(_HELD_LEAST, max(1, len(parts) // 4)) if len(parts) >= _HELD_LEAST else 0
        missing = least - len(found.intersection(parts))
        found.update([part for part in parts if part not in found][: max(0, missing)])
    return frozenset(found)


def types_in(folder: LabelledFolder) -> tuple[str, ...]:
    """The types that its pictures show, in the product's order."""
    found = {type_of(kind) for kind in folder.kinds()}
    return tuple(name for name in TYPE_IDS if name in found)


def fit_surface(
    on: Path, out: Path, *, name: str, split: str | None = None, test_split: str | None = None,
    left_out: Sequence[str] = (), plan: Plan, limits: SurfaceLimits = _LIMITS,
    qualification: Qualification | None = None, bundle_version: str = "0.1.0", strangers: float = 0.3,
    licence: str = "", progress: bool | None = None,
) -> Path:  # fmt: skip
    """Train on the labelled folder ``on`` and seal ``out/name``; returns its folder. Resumes what was cut off.

    split, test_split: of a table; the figures are of ``test_split``, or of the held parts where there is none, and the
    card says which. left_out: types that the engine must not learn, to measure how it meets a stranger. licence:
    remarks about the data for the card. Raises UsageError for a folder without a type the product knows, or with too
    little of it; MissingExtra is the caller's business.
    """
    folder = open_folder(on, split=split)
    types = tuple(kind for kind in types_in(folder) if kind not in left_out)
    if not types:
        raise UsageError(f"{on} shows no type that this product knows", hint="see `edge-daemon standards types`")
    every = read_surfaces(folder, (*types, *left_out))
    every = without_types(every, [len(types) + k for k in range(len(left_out))])
    held = held_parts(every)
    learn = [one for one in every if one.part not in held]
    kept = [one for one in every if one.part in held]
    short = [kind for index, kind in enumerate(types) if sum(one.kind == index for one in learn) < 2]
    if short or not kept:
        raise UsageError(
            f"{on}: too few pictures of {', '.join(short) or 'held parts'}",
            hint="label at least ten parts of each type",
        )
    out.mkdir(parents=True, exist_ok=True)

    def batches(rng: np.random.Generator, step: int, batch: int, crop_px: int) -> tuple[Any, Any]:
        return surface_batch(rng, learn, batch, crop_px, strangers=strangers, local_sigma_px=LOCAL_SIGMA_PX)

    network = fit_network(out, plan, batches, look=look_at(some_of(kept), len(types)), planes=len(types) + 1,
                          progress=progress)  # fmt: skip
    bundle = out / name
    manifest = _manifest(name, types, bundle_version, _told(on, folder, learn, left_out), licence,
                         qualification or Qualification())  # fmt: skip
    tested = list(open_folder(on, split=test_split) if test_split else (one for one in folder if one.part in held))
    seal_surface(
        network, bundle, types=types, kept=kept, plan=plan, out=out, limits=limits, manifest=manifest, learned=learn,
        tested=[one for one in tested if type_of(one.kind or "") not in left_out], examined=bool(test_split),
    )  # fmt: skip
    return bundle


def seal_surface(
    network: CastingNet, bundle: Path, *, types: Sequence[str], kept: Sequence[Surface], tested: Sequence[Labelled],
    learned: Sequence[Surface], plan: Plan, out: Path, limits: SurfaceLimits, manifest: Mapping[str, Any],
    examined: bool,
) -> None:  # fmt: skip
    """Calibrate on ``kept``, examine on ``tested``, write the card, seal. examined: nothing was tuned on ``tested``."""
    manifest = {**manifest, "created_utc": _now()}
    _write_provisional(bundle, network, types, manifest)
    engine = OnnxEngine(bundles.load(bundle), threads=plan.threads)
    thresholds = calibrate_surface(engine, kept, limits, learned)
    engine.close()
    _write_json(bundle / "thresholds.json", thresholds)
    bundles.seal(bundle, manifest)
    certificate = {
        "what": "figures on pictures never trained or tuned on" if examined else
        "figures on held parts: never trained on, but the thresholds were chosen on them",
        "evaluated_utc": _now(), "parameters": parameter_count(network),
        "learned_from": {"pictures": len(learned), "parts": len({one.part for one in learned})},
        "tuned_on": {"pictures": len(kept), "parts": len({one.part for one in kept})},
        "steps": int(_steps(out)), "minutes": plan.minutes, "seed": plan.seed,
        **_figures(bundle, tested, plan.threads),
    }  # fmt: skip
    _write_json(bundle / "certificate.json", certificate)
    (bundle / "card.md").write_text(surface_card(manifest, thresholds, certificate), encoding="utf-8")
    bundles.seal(bundle, manifest)


def some_of(pictures: Sequence[Surface], most: int = _WATCHED) -> list[Surface]:
    """At most so many of them, each type equally often as far as it goes."""
    order = np.random.default_rng(0).permutation(len(pictures))
    kinds: dict[int | None, list[Surface]] = {}
    for index in order.tolist():
        kinds.setdefault(pictures[index].kind, []).append(pictures[index])
    share = max(1, most // max(len(kinds), 1))
    return [one for some in kinds.values() for one in some[:share]]


def look_at(pictures: Sequence[Surface], types: int) -> Callable[[CastingNet], dict[str, Any]]:
    """A ``Look`` at whole pictures: losses, mean over types of the overlap, pictures whose type came out right."""

    @torch.no_grad()
    def look(network: CastingNet) -> dict[str, Any]:
        device = next(network.parameters()).device
        training, parts = network.training, np.zeros(3)
        both, either, right = np.zeros(types), np.zeros(types), []
        network.eval()
        for one in pictures:
            views, labels = _padded(one)
            defect, kind = network(torch.from_numpy(views[None]).to(device))
            parts += loss_parts(defect, kind, torch.from_numpy(labels[None]).to(device))
            named = kind[0].argmax(0).cpu().numpy().repeat(TYPE_STRIDE_PX, 0).repeat(TYPE_STRIDE_PX, 1)
            given = np.where((defect[0, 0] > 0).cpu().numpy(), named + 1, 0)
            counts = labels != IGNORED
            for index in range(types):
                mine, true = (given == index + 1) & counts, labels == index + 1
                both[index] += np.count_nonzero(mine & true)
                either[index] += np.count_nonzero(mine | true)
            if one.kind is not None and (given > 0).any():
                right.append(
                    int(np.bincount(given[given > 0], minlength=types + 2)[1 : types + 1].argmax()) == one.kind
                )
        network.train(training)
        entropy, dice, kind_loss = (parts / max(len(pictures), 1)).tolist()
        overlap = both / np.maximum(either, 1)
        return {
            "validation": {
                "loss": round(10.0 * entropy + 0.5 * dice + 0.5 * kind_loss, 5), "entropy": round(entropy, 6),
                "dice": round(dice, 5), "type": round(kind_loss, 5), "iou": round(float(overlap.mean()), 4),
                "type_right": round(float(np.mean(right)) if right else 0.0, 4),
                "iou_by_type": overlap.round(4).tolist(),
            }
        }  # fmt: skip

    return look


def _padded(one: Surface) -> tuple[Any, Any]:
    views = prepare(one.pixels, VIEWS, LOCAL_SIGMA_PX)
    bottom, right = (-side % MULTIPLE_OF_PX for side in one.labels.shape)
    return (np.pad(views, ((0, 0), (0, bottom), (0, right)), "reflect"),
            np.pad(one.labels, ((0, bottom), (0, right)), constant_values=IGNORED))  # fmt: skip


def _write_provisional(
    bundle: Path, network: CastingNet, types: Sequence[str], manifest: Mapping[str, Any]
) -> None:  # fmt: skip
    bundle.mkdir(parents=True, exist_ok=True)
    export_onnx(network, bundle / "model.onnx", texture=bool(manifest["output"].get("texture")))
    _write_json(bundle / "labels.json", {"types": list(types)})
    _write_json(bundle / "thresholds.json", _PROVISIONAL)
    _write_json(bundle / "certificate.json", {"status": "not evaluated yet"})
    (bundle / "card.md").write_text("# Not evaluated yet\n", encoding="utf-8")
    bundles.seal(bundle, manifest)


def _figures(bundle: Path, pictures: Sequence[Labelled], threads: int) -> dict[str, Any]:
    engine = OnnxEngine(bundles.load(bundle), threads=threads)
    try:
        return evaluate_pictures(engine, pictures, about={})
    finally:
        engine.close()


def _told(on: Path, folder: LabelledFolder, learn: Sequence[Surface], left_out: Sequence[str]) -> str:
    parts = len({one.part for one in learn})
    weak = sum(one.weak for one in learn)
    text = (
        f"{len(learn)} labelled pictures of {parts} parts ({on.name}, form {folder.form}); {weak} of them by boxes only"
    )
    return text + (f"; without {', '.join(left_out)}" if left_out else "")


def _manifest(
    name: str, types: Sequence[str], bundle_version: str, trained_on: str, licence: str, qualification: Qualification
) -> dict[str, Any]:
    return {
        "schema": 1, "name": name, "version": bundle_version, "created_utc": _now(),
        "input": {"name": "image", "views": list(VIEWS), "local_sigma_px": LOCAL_SIGMA_PX, "tile_px": 512,
                  "overlap_px": 64, "multiple_of_px": MULTIPLE_OF_PX},
        "output": {"defect": "defect", "type": "type", "type_stride_px": TYPE_STRIDE_PX, "stranger": True,
                   "texture": True},
        "types": list(types),
        "qualified": {"mm_per_px": list(qualification.mm_per_px), "polarity": "none", "bits": list(qualification.bits)},
        "licence": licence or "none stated for the data", "trained_on": trained_on,
        "software": {"edge_daemon": __version__, **{package: version(package) for package in _SOFTWARE}},
    }  # fmt: skip


def _steps(out: Path) -> int:
    lines = (out / "training.jsonl").read_text(encoding="utf-8").splitlines()
    return max((int(json.loads(line)["step"]) for line in lines), default=0)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
