"""Commissioning a surface: an engine learns what this material looks like under this camera when it is sound.

    good pictures -> some held out -> strangers planted on the others -> fine-tuning -> calibration and one seed
                  threshold on the pictures held out -> before/after -> sealed bundle

Good pictures show no defect, so nothing new is learned about types: what is found on the new surface is marked, and is
of a known type only if its surroundings look like those the type was learned in (``segment.texture``). Pictures may
differ in size. The base is read and never touched.

Not covered: good pictures that hold a defect by mistake are not searched for; those marked before fine-tuning are
listed, strongest first, to be looked at.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..images import PICTURE_SUFFIXES, load_picture, make_folder, write_bytes_atomic
from ..segment import bundle as bundles
from ..segment.bundle import Bundle
from ..segment.onnx import OnnxEngine
from ..segment.prepare import grey_from_pixels
from ..segment.protocol import Engine
from ..segment.sealed import sha256_hex
from ..segment.see import image_gate
from .calibrate import dilated, fit_sigmoid, sigmoid
from .commission import LEAST_FRAMES, Tuning
from .figures import proportion
from .looks import ran, texture_document
from .pictures import IGNORED, UNTYPED
from .strangers import plant_stranger
from .surface_pictures import Surface, surface_batch

__all__ = ["SurfaceCommission", "commission_surface", "surface_table"]

_HELD_OUT = 1.0 / 3.0
_PLANTED = 120
_STRANGERS = 0.7
_CROP_PX = 128
_GROW = 0.4
_LEAST_PX = 12
_BINS = np.linspace(-24.0, 24.0, 2401)
_NEAR_PX = 8
# Another material is further away than another part of the same one.
_TIMES_RATE = 2.5
# A threshold from few pictures: half of what is asked, so that what is asked holds on others.
_MARGIN = 0.5
_HIGHEST = 1.0 - 1e-6
_LOOK_AT = 5


@dataclass(frozen=True, slots=True)
class SurfaceCommission:
    """What was asked. name: of the bundle. false_alarms: share of good pictures that may get any mark."""

    name: str
    false_alarms: float
    tuning: Tuning


def commission_surface(
    good: Path, base: Bundle, out: Path, asked: SurfaceCommission, *, progress: bool | None = None
) -> dict[str, Any]:
    """Commission ``base`` on the pictures in ``good``; returns the report with the bundle's folder. ``out/<name>`` must
    not exist. Raises UsageError for too few pictures, the same one twice, or one that the image gate refuses."""
    from .commission_bundle import draft_bundle
    from .fitting import Plan, fit_network
    from .reopen import reopen

    started = time.monotonic()
    pictures, hashes = _load(good, base)
    tuning = asked.tuning
    order = sorted(range(len(pictures)), key=lambda k: sha256_hex(f"{tuning.seed} {hashes[k]}".encode()))
    cut = max(1, round(_HELD_OUT * len(order)))
    held, learn = [pictures[k] for k in order[:cut]], [pictures[k] for k in order[cut:]]
    crop_px = min(_CROP_PX, min(min(one.labels.shape) for one in pictures) // 16 * 16)

    def batches(rng: np.random.Generator, step: int, batch: int, crop_px: int) -> tuple[Any, Any]:
        return surface_batch(rng, learn, batch, crop_px, strangers=_STRANGERS, local_sigma_px=base.input.local_sigma_px)

    network = reopen(base, batches(np.random.default_rng(tuning.seed), 0, 32, crop_px)[0])
    plan = Plan(
        seed=tuning.seed, minutes=tuning.minutes, steps=tuning.steps, batch=tuning.batch, crop_px=crop_px,
        learning_rate=_TIMES_RATE * tuning.learning_rate, ema=tuning.ema, device=tuning.device, threads=tuning.threads,
        widths=network.widths,
    )  # fmt: skip
    # Named by what it learns from, so that only the same run is gone on with.
    work = make_folder(out / "work" / sha256_hex("\n".join([base.sha256, *hashes, repr(plan)]).encode())[:16])
    network = fit_network(work, plan, batches, start=network.state_dict(), planes=base.logit_planes, progress=progress)
    told = {
        "base": {"name": base.name, "version": base.version, "sha256": base.sha256,
                 "trained_on": base.manifest["trained_on"]},
        "good_pictures": len(learn), "and": "strangers planted on them; no real defect was seen",
    }  # fmt: skip
    draft = out / "work" / asked.name
    manifest = draft_bundle(draft, base, network, asked.name, told)
    planted = [_planted(held, number) for number in range(_PLANTED)]
    old, new = OnnxEngine(base, threads=tuning.threads), OnnxEngine(bundles.load(draft), threads=tuning.threads)
    try:
        before, after = (_tuned(engine, held, planted, asked.false_alarms) for engine in (old, new))
    finally:
        old.close()
        new.close()
    report = {
        "what": "a surface engine commissioned for one material under one camera; what was found is of strangers "
        "planted on good pictures that were held out; no real defect was seen",
        "base": {"name": base.name, "sha256": base.sha256}, "minutes": round((time.monotonic() - started) / 60.0, 2),
        "pictures": {"given": len(pictures), "learned": len(learn), "held_out": len(held), "planted": len(planted)},
        "false_alarms_wanted": asked.false_alarms, "before": before.row, "after": after.row,
        "held_out": sorted(one.name for one in held),
        "look_at": [held[k].name for k in np.argsort(-before.strongest, kind="stable")[:_LOOK_AT].tolist()],
    }  # fmt: skip
    write_bytes_atomic(draft / "thresholds.json", _written(_thresholds(base, after)))
    write_bytes_atomic(draft / "certificate.json", _written(report))
    write_bytes_atomic(draft / "card.md", surface_table(asked.name, report).encode())
    sha256 = bundles.seal(draft, manifest)
    draft.rename(out / asked.name)
    shutil.rmtree(out / "work")
    report = {"bundle": str(out / asked.name), "sha256": sha256, **report}
    write_bytes_atomic(out / "report.json", _written(report))
    write_bytes_atomic(out / "report.md", surface_table(asked.name, report).encode())
    return report


def _written(document: Any) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


# ---- pictures -------------------------------------------------------------------------------------------------------


def _load(good: Path, base: Bundle) -> tuple[list[Surface], list[str]]:
    if not good.is_dir():
        raise UsageError(f"{good} is no folder", hint="give the folder that holds the good pictures")
    paths = sorted(path for path in good.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    if len(paths) < LEAST_FRAMES:
        raise UsageError(
            f"{good} holds {len(paths)} pictures; commissioning needs at least {LEAST_FRAMES} good ones",
            hint="save more pictures of sound surface, each place once",
        )
    found: list[Surface] = []
    names: dict[str, str] = {}
    for path in paths:
        picture = load_picture(path)
        reasons = image_gate(base, picture.pixels)
        if reasons:
            raise UsageError(f"{path.name}: {reasons[0].text}", hint="take the pictures as the line will take them")
        if picture.sha256 in names:
            raise UsageError(f"{path.name} is {names[picture.sha256]} once more", hint="give every picture once")
        names[picture.sha256] = path.name
        grey = grey_from_pixels(picture.pixels)
        found.append(Surface(path.name, path.name, grey, np.zeros(grey.shape, np.uint8), None, False))
    return found, list(names)


def _planted(pictures: Sequence[Surface], number: int) -> Surface:
    """One of the pictures with one to three strangers on it; the same every time."""
    rng = np.random.default_rng([number, 47])
    ground = pictures[number % len(pictures)]
    grey, labels = ground.grey.copy(), np.zeros(ground.labels.shape, np.uint8)
    free = np.ones(grey.shape, bool)
    for _ in range(int(rng.integers(1, 4))):
        donor = pictures[int(rng.integers(len(pictures)))].grey
        other = np.asarray(cv2.resize(donor, grey.shape[::-1]), np.float32)
        marked, faint = plant_stranger(rng, grey, free, other)
        labels[faint & (labels == 0)] = IGNORED
        labels[marked] = UNTYPED
    return replace(ground, grey=grey, labels=labels)


# ---- thresholds -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tuned:
    """Calibration and threshold of an engine on the pictures held out; seed, grow: logits. strongest: float (n,), of
    each good picture, the largest logit of a region."""

    temperature: float
    bias: float
    grow: float
    seed: float
    row: dict[str, Any]
    strongest: NDArray[np.float64]


def _tuned(engine: Engine, held: Sequence[Surface], planted: Sequence[Surface], false_alarms: float) -> _Tuned:
    temperature, bias = _calibrated(engine, planted)
    grow = (float(np.log(_GROW / (1.0 - _GROW))) - bias) * temperature
    looks = np.array([[_strongest(engine, look, grow) for look in _turned(one)] for one in held])
    allowed = int(_MARGIN * false_alarms * len(held))
    seed = max(grow, float(np.sort(looks.max(axis=1))[::-1][allowed]) + 1e-3)
    found = [_found(engine, one, grow, seed) for one in planted]
    clear = [one for one in found if one is not None]
    row = {
        "found": proportion(sum(clear), len(clear)),
        "good_pictures_marked": proportion(int((looks[:, 0] >= seed).sum()), len(held)),
        "seed": round(_coverage(seed, temperature, bias), 6),
    }
    return _Tuned(temperature, bias, grow, seed, row, looks[:, 0])


def _coverage(value: float, temperature: float, bias: float) -> float:
    return float(min(sigmoid(value / temperature + bias), _HIGHEST))


def _calibrated(engine: Engine, planted: Sequence[Surface]) -> tuple[float, float]:
    """Temperature and bias, from the pixels near what was planted."""
    pixels, defects = np.zeros(len(_BINS) - 1), np.zeros(len(_BINS) - 1)
    for one in planted:
        logits = np.clip(ran(engine, one.grey).defect[0, 0], _BINS[0], _BINS[-1] - 1e-3)
        near = (dilated(one.labels == UNTYPED, _NEAR_PX) | (logits > 0.0)) & (one.labels != IGNORED)
        pixels += np.histogram(logits[near], _BINS)[0]
        defects += np.histogram(logits[near & (one.labels == UNTYPED)], _BINS)[0]
    return fit_sigmoid(pixels, defects, (_BINS[:-1] + _BINS[1:]) / 2)


def _turned(one: Surface) -> Iterator[NDArray[np.float32]]:
    """A picture in its eight orientations: more looks at few pictures."""
    for turns in range(4):
        for grey in (one.grey, one.grey[:, ::-1]):
            yield np.ascontiguousarray(np.rot90(grey, turns))


def _regions(engine: Engine, grey: NDArray[np.float32], grow: float) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(component of each pixel, largest logit of each component); 0 and what is too small have none."""
    logits = ran(engine, grey).defect[0, 0]
    count, component, boxes, _ = cv2.connectedComponentsWithStats((logits >= grow).view(np.uint8), connectivity=8)
    peak = np.full(count, -np.inf, np.float32)
    np.maximum.at(peak, component.reshape(-1), logits.reshape(-1))
    peak[boxes[:, cv2.CC_STAT_AREA] < _LEAST_PX] = -np.inf
    peak[0] = -np.inf
    return np.asarray(component, np.int32), peak


def _strongest(engine: Engine, grey: NDArray[np.float32], grow: float) -> float:
    return float(max(_regions(engine, grey, grow)[1].max(), _BINS[0]))


def _found(engine: Engine, one: Surface, grow: float, seed: float) -> bool | None:
    """Whether a region touches what was planted; None if nothing was that could be seen."""
    truth = one.labels == UNTYPED
    if not truth.any():
        return None
    component, peak = _regions(engine, one.grey, grow)
    return bool((peak[component[truth]] >= seed).any())


def _thresholds(base: Bundle, tuned: _Tuned) -> dict[str, Any]:
    """The base's known scores and look of known types: what they say of the new surface is what is true of it."""
    temperature, bias = round(tuned.temperature, 5), round(tuned.bias, 5)
    seed = round(_coverage(tuned.seed, temperature, bias), 7)
    known = base.thresholds
    return {
        "temperature": temperature, "bias": bias, "seed": seed,
        "grow": min(round(_coverage(tuned.grow, temperature, bias), 7), seed), "min_region_px": _LEAST_PX,
        "unknown_alpha": known.unknown_alpha,
        "known_scores": {name: list(values) for name, values in known.known_scores.items()},
        **({"texture": texture_document(known.texture)} if known.texture is not None else {}),
        "gate": {"min_contrast": known.min_contrast, "max_clipped_pct": known.max_clipped_pct},
    }  # fmt: skip


# ---- papers ---------------------------------------------------------------------------------------------------------


def surface_table(name: str, report: dict[str, Any]) -> str:
    """The before/after table, as Markdown that reads as plain text too."""
    counts, before, after = report["pictures"], report["before"], report["after"]

    def cell(figures: dict[str, Any]) -> str:
        if not figures["n"]:
            return "none seen"
        low, high = figures["ci95"]
        return f"{figures['k']}/{figures['n']} = {100 * figures['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

    lines = [
        f"# {name}", "",
        f"{counts['given']} good pictures given, {counts['learned']} learned from, {counts['held_out']} held out; "
        f"{counts['planted']} pictures with strangers planted on those held out. Both engines at the threshold that "
        f"the same rule sets on them: at most {100 * report['false_alarms_wanted']:g} % of good pictures marked are "
        "wanted, half of that is allowed in eight orientations.", "",
        "| | before | after |", "|---|---|---|",
        f"| pictures with a planted stranger found | {cell(before['found'])} | {cell(after['found'])} |",
        f"| good pictures held out with a mark | {cell(before['good_pictures_marked'])} "
        f"| {cell(after['good_pictures_marked'])} |",
        f"| seed threshold | {before['seed']:g} | {after['seed']:g} |", "",
        "The threshold was set on these pictures: count marks on the line for a truer figure. A defect on this "
        "material gets the name of a known type only if its surroundings look like those that type was learned in; "
        "known types were not measured again.", "",
        f"Look at these, which the base marks most strongly: {', '.join(report['look_at'])}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
