"""More training for certain types, from what people confirmed or corrected, without forgetting the rest.

    base bundle -> its network again -> short training: reinforced types more often, everything else rehearsed
                -> thresholds anew -> base and candidate on the same untouched pictures -> promoted, or refused

A candidate is promoted only if no type loses more than a point, whether found, outlined or named; else it stays where
it was made, with the table that says why. Promotion moves the base aside; ``engine rollback`` puts it back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..segment import bundle as bundles
from ..segment.bundle import Bundle
from ..segment.onnx import OnnxEngine
from ..segment.protocol import Engine
from ..segment.replacing import put_in_place
from ..segment.see import see
from .annotations import type_of
from .evaluation import evaluate_pictures
from .fitting import Plan, fit_network
from .labelled import Labelled, open_folder
from .reopen import reopen
from .surface_calibrate import SurfaceLimits
from .surface_fit import held_parts, look_at, seal_surface, some_of
from .surface_pictures import read_surfaces, surface_batch

__all__ = ["ALLOWED_LOSS", "compare", "next_version", "promote", "reinforce"]

#: What any type may lose of any figure, as a share.
ALLOWED_LOSS = 0.01
_TIMES = 3
_RATE = 1e-3
_CROPS = 48


def reinforce(
    base: Path, on: Path, export: Path, out: Path, *, types: Sequence[str], plan: Plan, split: str | None = None,
    test_split: str | None = None, progress: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train the surface engine ``base`` further on ``types`` and compare; returns the report.

    on: the labelled folder it was trained on, to rehearse and to re-measure. export: confirmed and corrected pictures
    (``memory export``), or any labelled folder. out: for the checkpoint, the candidate bundle and ``reinforced.json``.
    Keys of the report: ``bundle`` (of the candidate), ``base``, ``version``, ``promotable``, ``reasons``, ``table``
    (type -> figure -> [before, after]), ``differ`` (how far the two differ on these pictures). Raises UsageError for a
    type the engine does not know, an export without one of them, or pictures that it is measured on in the export.
    """
    bundle = bundles.load(base)
    strange = [name for name in types if name not in bundle.types]
    if strange or not types:
        raise UsageError(
            f"{bundle.name} does not know the type {', '.join(strange) or '(none given)'}",
            hint=f"it knows {', '.join(bundle.types)}; another type needs `train fit`",
        )
    taught = open_folder(on, split=split)
    every = read_surfaces(taught, bundle.types)
    new = read_surfaces(open_folder(export), bundle.types)
    held = held_parts(every)
    tested = [one for one in (open_folder(on, split=test_split) if test_split else taught)
              if test_split or one.part in held]  # fmt: skip
    _check_export(new, tested, types, bundle)
    learn = [one for one in every if one.part not in held] + new
    kept = [one for one in every if one.part in held]
    wanted = {bundle.types.index(name): _TIMES for name in types}

    def batches(rng: np.random.Generator, step: int, batch: int, crop_px: int) -> tuple[Any, Any]:
        return surface_batch(rng, learn, batch, crop_px, times=wanted)

    views = surface_batch(np.random.default_rng(0), learn, _CROPS, plan.crop_px, strangers=0.0)[0]
    network = reopen(bundle, views)
    plan = replace(plan, learning_rate=min(plan.learning_rate, _RATE), widths=network.widths)
    out.mkdir(parents=True, exist_ok=True)
    look = look_at(some_of(kept), len(bundle.types))
    network = fit_network(out, plan, batches, look=look, planes=bundle.logit_planes, start=network.state_dict(),
                          progress=progress)  # fmt: skip
    version = next_version(bundle.version)
    told = f"{bundle.manifest['trained_on']}; reinforced in {', '.join(types)} with {len(new)} confirmed pictures"
    candidate = out / bundle.name
    seal_surface(
        network, candidate, types=bundle.types, kept=kept, tested=tested, plan=plan, out=out, limits=SurfaceLimits(),
        manifest={**_carried(bundle), "version": version, "trained_on": told}, learned=learn, examined=bool(test_split),
    )  # fmt: skip
    report = {"bundle": str(candidate), "base": str(base), "version": version, "types": list(types),
              **_judge(bundle, bundles.load(candidate), tested, plan.threads)}  # fmt: skip
    (out / "reinforced.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _check_export(new: Sequence[Any], tested: Sequence[Labelled], types: Sequence[str], bundle: Bundle) -> None:
    shown = {one.kind for one in new}
    absent = [name for name in types if bundle.types.index(name) not in shown]
    if absent:
        raise UsageError(
            f"the export shows no {', '.join(absent)}", hint="confirm or correct pictures of that type first"
        )
    measured = {np.asarray(one.pixels).tobytes() for one in tested}
    twice = [one.name for one in new if _bytes_of(one) in measured]
    if twice:
        raise UsageError(
            f"{twice[0]} of the export is among the pictures it would be measured on",
            hint="keep the test pictures out of what is confirmed, or measure on others",
        )


def _bytes_of(one: Any) -> bytes:
    return bytes(one.pixels.tobytes())


def _carried(bundle: Bundle) -> dict[str, Any]:
    return {key: value for key, value in bundle.manifest.items() if key not in ("files", "seal", "created_utc")}


def next_version(version: str) -> str:
    """The last number of a version, one higher; a version that ends in no number gets one.

    >>> next_version("0.1.9"), next_version("beta")
    ('0.1.10', 'beta.1')
    """
    head, _, last = version.rpartition(".")
    return f"{head}.{int(last) + 1}" if last.isdigit() and head else f"{version}.1"


def compare(before: Mapping[str, Any], after: Mapping[str, Any], types: Sequence[str]) -> tuple[Any, list[str]]:
    """(table: type -> figure -> [before, after], reasons against promotion) of two documents of ``summarise``."""
    table: dict[str, dict[str, list[float]]] = {}
    reasons = []
    for name in types:
        figures = {
            "found": [one["types"][name]["found"]["value"] for one in (before, after)],
            "iou": [one["types"][name]["iou"] for one in (before, after)],
            "picture_type": [one["picture_type"]["by_class"].get(name) for one in (before, after)],
        }
        table[name] = {key: pair for key, pair in figures.items() if None not in pair}
        for key, (old, now) in table[name].items():
            if now < old - ALLOWED_LOSS:
                reasons.append(f"{name}: {key} falls from {old:.3f} to {now:.3f}")
    return table, reasons


def _judge(base: Bundle, candidate: Bundle, tested: Sequence[Labelled], threads: int) -> dict[str, Any]:
    engines = [OnnxEngine(one, threads=threads) for one in (base, candidate)]
    try:
        before, after = (evaluate_pictures(engine, tested, about={"on": "re-measured"}) for engine in engines)
        differ = _differ(engines[0], engines[1], tested)
    finally:
        for engine in engines:
            engine.close()
    shown = [name for name in base.types if any(type_of(one.kind or "") == name for one in tested)]
    table, reasons = compare(before, after, shown)
    return {"promotable": not reasons, "reasons": reasons, "table": table, "pictures": len(tested),
            "differ": differ}  # fmt: skip


def _differ(base: Engine, candidate: Engine, pictures: Sequence[Labelled]) -> dict[str, float]:
    """Pixels with another label, in percent; pictures of which one marks something and the other nothing."""
    other = total = changed = 0
    for one in pictures:
        labels = [see(engine, np.asarray(one.pixels)).labels for engine in (base, candidate)]
        other += int(np.count_nonzero(labels[0] != labels[1]))
        total += labels[0].size
        changed += bool(labels[0].any()) != bool(labels[1].any())
    return {"pixels_pct": round(100.0 * other / max(total, 1), 4), "pictures_marked_by_one_only": changed}


# ---- in place of the base, and back ---------------------------------------------------------------------------------


def promote(candidate: Path, base: Path) -> Path:
    """Put the candidate in the base's place; the base goes to ``<base>.previous``, which is returned.

    Raises UsageError unless ``reinforced.json`` beside the candidate says that it may be, IntegrityError for a bundle
    that does not hold, StorageError.
    """
    report = candidate.parent / "reinforced.json"
    try:
        document = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"{candidate} has no report beside it", hint="make it with `train fit --reinforce`") from None
    if not document.get("promotable"):
        reasons = "; ".join(document.get("reasons", ())) or "nobody compared it"
        raise UsageError(f"{candidate} is not promoted: {reasons}", hint="more pictures, more minutes, or leave it")
    return put_in_place(candidate, base)
