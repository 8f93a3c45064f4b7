"""Commissioning from start to verdict: from a folder of good frames to a sealed bundle with a before/after table."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..images import highlight, make_folder, write_bytes_atomic, write_png_atomic
from ..resources import engine_folder
from ..segment import bundle as bundles
from ..segment.bundle import Bundle, Thresholds
from ..segment.onnx import OnnxEngine
from ..segment.protocol import Engine
from ..segment.sealed import sha256_hex
from ..simulator import CASTING_TYPES, Radiograph
from .calibrate import Limits, calibrate, known_scores
from .certify import machine
from .commission import Frames, Screened, Tuning, fine_tune, load_frames, marked, need_torch, screen_frames, split
from .commission_card import card, table
from .evaluation import evaluate_pictures
from .operating import HIGHEST_SEED, Levels, at_seed, levels, look_at, seed_for
from .pictures import IGNORED, visible_labels
from .scoring import simulated as labelled
from .statistics import poisson_interval
from .superimpose import Ground, planted
from .surface_commission import SurfaceCommission, commission_surface

__all__ = ["as_thresholds", "commission", "draft_bundle", "line_thresholds", "planted_on", "turned_looks"]

# Numbers of the planted pictures on held-out frames: for calibration, for known scores, for the table, to look at.
_CALIBRATION, _KNOWN, _TABLE, _SHOWN = range(60), range(1000, 1240), range(2000, 2090), range(3000, 3006)
# What regions may be made of: grow thresholds as the network's own probability, least pixels.
_GROWS, _LEAST_PX = (0.25, 0.4, 0.6), (6, 12, 20, 32)
# Larger frames are looked at through windows of this side.
_LARGEST_PX = 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class _Made:
    """Everything that goes into the bundle's papers."""

    base: Bundle
    frames: Frames
    screened: Screened
    learned: Frames
    held_out: Frames
    tuning: Tuning
    thresholds: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    wanted_rate: float
    mm_per_px: float | None


def commission(
    good: Path, *, engine: str = "castings-xray", out: Path | None = None, name: str | None = None,
    false_alarms: float = 0.02, mm_per_px: float | None = None, polarity: str | None = None,
    keep: Sequence[str] = (), replace_bundle: bool = False, tuning: Tuning | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Commission ``engine`` for the part in the folder ``good`` and return what happened (also ``report.json``).

    out: for the bundle, ``screened/``, ``pictures/`` and, while it runs, ``work/`` (a run that was cut off goes on
    from there); by default ``commissioned/<name>``. name: of the part, by default the folder's; the bundle is called
    ``<engine>-<name>``. false_alarms: wanted at most per good picture. mm_per_px: of the frames, checked against the
    base's range. Raises what ``load_frames``, ``screen_frames`` and ``fine_tune`` raise, UsageError for a bundle that
    is already there.
    """
    need_torch()
    tuning = tuning or Tuning()
    started = time.monotonic()
    base = bundles.load(engine_folder(engine))
    bundle_name = f"{base.name}-{_slug(name if name is not None else good.resolve().name)}"
    if not _NAME.match(bundle_name):
        raise UsageError(f"no bundle can be called {bundle_name!r}", hint="a short --name of letters, digits and '-'")
    out = out if out is not None else Path("commissioned") / bundle_name
    folder = out / bundle_name
    _check_target(folder, base, replace_bundle)
    if base.types != CASTING_TYPES:
        if folder.exists():
            shutil.rmtree(folder)
        asked = SurfaceCommission(bundle_name, _share(false_alarms), tuning)
        return commission_surface(good, base, out, asked, progress=progress)
    if not 0.0 < false_alarms <= 1.0:
        raise UsageError(f"{false_alarms} false alarms a picture cannot be asked for", hint="more than 0, at most 1")
    low, high = base.qualified.mm_per_px
    if mm_per_px is not None and not low <= mm_per_px <= high:
        raise UsageError(
            f"{mm_per_px:g} mm/px is outside what {base.name} was made for",
            hint=f"{low:g} to {high:g} mm/px; scale the frames, or train a base for this scale",
        )
    frames = load_frames(good, base, polarity=polarity)
    make_folder(out)
    old = OnnxEngine(base, threads=tuning.threads)
    try:
        screened = screen_frames(frames, old, keep=keep, mm_per_px=mm_per_px or _some_scale(base), out=out / "screened")
        _say(progress, f"{len(screened.good.names)} of {len(frames.names)} frames are good; fine-tuning")
        learn, held = split(screened.good, tuning.seed)
        grounds = [screened.grounds[k] for k in held]
        # Named by what it learns from, so that only the same run is gone on with.
        work = out / "work" / _identity(base, screened.good.only(learn), tuning)
        network = fine_tune(base, [screened.grounds[k] for k in learn], work, tuning, progress=progress)
        _say(progress, "calibrating and measuring")
        draft = out / "work" / bundle_name
        trained_on = _trained_on(base, screened.good.only(learn), tuning)
        manifest = draft_bundle(draft, base, network, bundle_name, trained_on)
        with _opened(draft, tuning.threads) as new:
            document = line_thresholds(new, base, grounds, false_alarms, _KNOWN)
        _write_json(draft / "thresholds.json", document)
        bundles.seal(draft, manifest)
        with _opened(draft, tuning.threads) as new:
            retuned = as_thresholds(line_thresholds(old, base, grounds, false_alarms), base)
            before = {**_measured(old, retuned, grounds), "as_shipped": _measured(old, base.thresholds, grounds)}
            after = _measured(new, new.bundle.thresholds, grounds)
            figures = evaluate_pictures(
                new, labelled(_TABLE, lambda number: planted_on(grounds, number), "planted on held-out frames"),
                about={"on": "simulated discontinuities on held-out good frames"},
            )  # fmt: skip
            _pictures(old, new, grounds, out / "pictures")
        made = _Made(base, frames, screened, screened.good.only(learn), screened.good.only(held), tuning, document,
                     before, after, false_alarms, mm_per_px)  # fmt: skip
        report = _report(made, round((time.monotonic() - started) / 60.0, 2))
        certificate = {**report, "edge_px": figures.pop("edge_px"), "figures": figures}
        _write_json(draft / "certificate.json", certificate)
        write_bytes_atomic(draft / "card.md", card(bundle_name, report).encode("utf-8"))
        sha256 = bundles.seal(draft, manifest)
    finally:
        old.close()
    if folder.exists():
        shutil.rmtree(folder)
    draft.rename(folder)
    shutil.rmtree(out / "work")
    report = {"bundle": str(folder), "sha256": sha256, **report}
    write_bytes_atomic(out / "report.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    write_bytes_atomic(out / "report.md", table(report).encode("utf-8"))
    return report


def _share(false_alarms: float) -> float:
    if not 0.0 < false_alarms < 1.0:
        raise UsageError(f"{false_alarms} of the good pictures cannot be asked for", hint="between 0 and 1")
    return false_alarms


def _say(progress: bool | None, text: str) -> None:
    if sys.stderr.isatty() if progress is None else progress:
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _some_scale(base: Bundle) -> float:
    """Only shapes are planted, in pixels; a scale is needed where nobody stated one, and any in range will do."""
    low, high = base.qualified.mm_per_px
    return float(np.sqrt(low * high))


def _check_target(folder: Path, base: Bundle, may_replace: bool) -> None:
    if folder.resolve() == base.folder.resolve() or base.folder.resolve() in folder.resolve().parents:
        raise UsageError(f"{folder} is the base bundle itself", hint="the base is never touched; choose another --out")
    if folder.exists() and not may_replace:
        raise UsageError(f"{folder} is already there", hint="another --name, or --replace to make it anew")


# ---- thresholds -----------------------------------------------------------------------------------------------------


def planted_on(grounds: Sequence[Ground], number: int) -> Radiograph:
    """Planted picture ``number`` on one of the frames, or on a window of a large one; the same every time."""
    ground = grounds[number % len(grounds)]
    height, width = ground.pixels.shape
    window = min(height, width, _LARGEST_PX) if max(height, width) > _LARGEST_PX else None
    return planted(number, ground, most=6, side_px=window)


def turned_looks(grounds: Sequence[Ground]) -> Iterator[Radiograph]:
    """Every frame in its eight orientations, without a discontinuity: more looks at few frames, not more frames."""
    for ground in grounds:
        for turns in range(4):
            for mirror in (False, True):
                pixels = np.rot90(ground.pixels[:, ::-1] if mirror else ground.pixels, turns)
                yield _sound(Ground(np.ascontiguousarray(pixels), np.ones(pixels.shape, np.float32), ground.mm_per_px))


def _sound(ground: Ground) -> Radiograph:
    empty = np.zeros(ground.pixels.shape, np.uint8)
    return Radiograph(ground.pixels, empty, ground.mm_per_px, (), empty.astype(np.float32), ground.noise)


def line_thresholds(
    engine: Engine, base: Bundle, grounds: Sequence[Ground], false_alarms: float, known: Sequence[int] = ()
) -> dict[str, Any]:
    """thresholds.json for this line, from held-out frames.

    Calibration as ``calibrate`` finds it on planted and on sound frames. Of several grow thresholds and least regions
    the one that misses least of what is planted, each at the seed threshold that ``seed_for`` asks on all orientations
    of the sound frames: where dust and dead pixels look like pores, only size tells them apart. The image gate stays
    the base's. known: numbers of the planted pictures for the known scores.
    """
    pictures = [planted_on(grounds, number) for number in _CALIBRATION]
    limits = Limits(false_per_sound=false_alarms)
    document = calibrate(engine, pictures, turned_looks(grounds), (), limits=limits, groups=base.groups)
    thresholds = as_thresholds(document, base)
    spoilt, sound = look_at(engine, pictures), look_at(engine, turned_looks(grounds))
    best: tuple[float, Thresholds] | None = None
    for grow in _GROWS:
        for least_px in _LEAST_PX:
            tried = replace(thresholds, grow=_calibrated(grow, thresholds), min_region_px=least_px)
            seed = seed_for(levels(sound, tried), false_alarms)
            missed = at_seed(levels(spoilt, tried), seed)["missed"]["value"] or 0.0
            if best is None or missed < best[0]:
                best = (missed, replace(tried, seed=seed))
    assert best is not None
    thresholds = best[1]
    scores = known_scores(engine, (planted_on(grounds, number) for number in known), thresholds, base.groups)
    return {
        **document, "seed": thresholds.seed, "grow": thresholds.grow, "min_region_px": thresholds.min_region_px,
        "known_scores": scores,
        "gate": {"min_contrast": thresholds.min_contrast, "max_clipped_pct": thresholds.max_clipped_pct},
    }  # fmt: skip


def _calibrated(probability: float, thresholds: Thresholds) -> float:
    """The coverage of a pixel to which the network itself gives this probability."""
    logit = math.log(probability / (1.0 - probability))
    coverage = 1.0 / (1.0 + math.exp(-(logit / thresholds.temperature + thresholds.bias)))
    return float(min(max(coverage, 1e-6), HIGHEST_SEED))


def as_thresholds(document: dict[str, Any], base: Bundle) -> Thresholds:
    """A document of ``calibrate`` or ``line_thresholds`` as thresholds; image gate, alpha and known scores are the
    base's."""
    return replace(
        base.thresholds, temperature=document["temperature"], bias=document["bias"],
        seed=min(document["seed"], HIGHEST_SEED), grow=min(document["grow"], HIGHEST_SEED),
        min_region_px=document["min_region_px"],
    )  # fmt: skip


def _measured(engine: Engine, thresholds: Thresholds, grounds: Sequence[Ground]) -> dict[str, Any]:
    """Misses on planted held-out frames, false alarms on the same frames without any."""
    planted_looks = levels(look_at(engine, (planted_on(grounds, number) for number in _TABLE)), thresholds)
    sound = levels(look_at(engine, map(_sound, grounds)), thresholds)
    both = Levels(thresholds.grow, sound.pictures, planted_looks.sightings, sound.false)
    return {**at_seed(both, thresholds.seed), "planted_pictures": planted_looks.pictures}


# ---- papers ---------------------------------------------------------------------------------------------------------


def _trained_on(base: Bundle, learned: Frames, tuning: Tuning) -> dict[str, Any]:
    return {
        "base": {"name": base.name, "version": base.version, "sha256": base.sha256,
                 "trained_on": base.manifest["trained_on"]},
        "good_frames": len(learned.names),
        "good_frames_sha256": list(learned.sha256),
        "and": f"simulated radiographs, {100 * (1.0 - tuning.share_own):.0f} % of every batch",
        "tuning": _lasting(tuning),
    }  # fmt: skip


def _identity(base: Bundle, learned: Frames, tuning: Tuning) -> str:
    parts = [base.sha256, *learned.sha256, json.dumps(_lasting(tuning))]
    return sha256_hex("\n".join(parts).encode())[:16]


def _lasting(tuning: Tuning) -> dict[str, Any]:
    return {key: value for key, value in asdict(tuning).items() if key not in ("threads", "device")}


def draft_bundle(folder: Path, base: Bundle, network: Any, name: str, trained_on: Any) -> dict[str, Any]:
    """Seal a bundle of ``network`` that has the base's thresholds and no figures yet; returns its manifest, to be
    sealed again when it has."""
    from .network import export_onnx

    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest = {key: value for key, value in base.manifest.items() if key not in ("files", "seal")}
    manifest |= {"name": name, "created_utc": now, "trained_on": trained_on}
    if folder.exists():
        shutil.rmtree(folder)
    make_folder(folder)
    export_onnx(network, folder / "model.onnx", texture=base.has_texture)
    shutil.copyfile(base.folder / "labels.json", folder / "labels.json")
    _write_json(folder / "thresholds.json", {**_thresholds_document(base.thresholds), "known_scores": {}})
    _write_json(folder / "certificate.json", {"status": "not measured yet"})
    write_bytes_atomic(folder / "card.md", b"# Not measured yet\n")
    bundles.seal(folder, manifest)
    return manifest


def _thresholds_document(thresholds: Thresholds) -> dict[str, Any]:
    return {
        "temperature": thresholds.temperature, "bias": thresholds.bias, "seed": thresholds.seed,
        "grow": thresholds.grow, "min_region_px": thresholds.min_region_px, "unknown_alpha": thresholds.unknown_alpha,
        "known_scores": {name: list(values) for name, values in thresholds.known_scores.items()},
        "gate": {"min_contrast": thresholds.min_contrast, "max_clipped_pct": thresholds.max_clipped_pct},
    }  # fmt: skip


class _opened:  # noqa: N801 - a context manager that reads as a word
    """An engine on a sealed folder for as long as a ``with`` lasts."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._engine = OnnxEngine(bundles.load(folder), threads=threads)

    def __enter__(self) -> OnnxEngine:
        return self._engine

    def __exit__(self, *error: object) -> None:
        self._engine.close()


def _write_json(path: Path, document: dict[str, Any]) -> None:
    write_bytes_atomic(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def _report(made: _Made, minutes: float) -> dict[str, Any]:
    held = len(made.held_out.names)
    false = made.after["false_alarms"]["n"]
    return {
        "what": "an engine commissioned for one part under one camera; misses are of simulated discontinuities "
        "superimposed on good frames that were held out, by the visible limit (integrated signal-to-noise >= 10, "
        "change >= 4 of 255 grey levels); no real defect was seen",
        "evaluated_utc": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "minutes": minutes,
        "base": {"name": made.base.name, "sha256": made.base.sha256},
        "frames": {"given": len(made.frames.names), "learned": list(made.learned.names),
                   "held_out": list(made.held_out.names), "not_used": list(made.frames.left_out)},
        "screened": [
            {"frame": made.frames.names[one.index], "reason": one.reason, "strength": round(one.strength, 1),
             "box_px": None if one.box_px is None else list(one.box_px)}
            for one in made.screened.suspects
        ],
        "kept_by_a_person": list(made.screened.overruled),
        "seen_in_many_frames": [{"box_px": list(one.box_px), "frames": one.frames} for one in made.screened.common],
        "mm_per_px": made.mm_per_px,
        "false_alarms_wanted": made.wanted_rate,
        "false_alarms_upper95": round(poisson_interval(false, float(held), 0.90)[1], 4),
        "before": made.before,
        "after": made.after,
        "thresholds": {key: made.thresholds[key] for key in ("temperature", "bias", "seed", "grow", "min_region_px")},
    }  # fmt: skip


def _pictures(old: Engine, new: Engine, grounds: Sequence[Ground], out: Path) -> None:
    """Before and after, side by side: truth outlined in cyan (magenta: below the visible limit), result yellow."""
    folder = make_folder(out)
    for earlier in folder.glob("*.png"):
        earlier.unlink()
    for number in _SHOWN:
        picture = planted_on(grounds, number)
        halves = [_outlined(picture, marked(engine, picture.pixels)) for engine in (old, new)]
        gap = np.zeros((picture.pixels.shape[0], 8, 3), picture.pixels.dtype)
        write_png_atomic(folder / f"before-after-{number - _SHOWN[0] + 1}.png", np.hstack([halves[0], gap, halves[1]]))


def _outlined(picture: Radiograph, mask: NDArray[np.bool_]) -> NDArray[Any]:
    shown = highlight(picture.pixels, mask.view(np.uint8))
    top = np.iinfo(shown.dtype).max
    visible = visible_labels(picture)
    for colour, truth in (((top, 0, top), visible == IGNORED), ((0, top, top), (visible > 0) & (visible != IGNORED))):
        around = cv2.dilate(truth.view(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        shown[around & ~truth & ~mask] = colour
    return shown
