"""The certificate: what may be promised of an engine, from independent parts it was never trained on.

``certify`` looks at a calibration set once and returns the document that ``seal_claims`` puts under ``claims`` in the
bundle's certificate.json. Its keys:

    schema, certified_utc, machine, software, backend, bundle (name, version, hashes and thresholds certified)
    calibration_set    kind, name, pictures, parts by kind, sha256 over names, pixels and truths
    confidence, asked  of each one-sided bound by itself; recall and pixel miss rate that were asked for
    found              the rule by which an indication counts as found
    part_recall        strict (any visible indication unfound is a miss) and lenient (none found), n, missed, lower
    types, sizes       the same per type and size bin, one indication per part drawn at random
    pixel_miss         Learn-then-Test: thresholds, bound, empirical rate, over-marking; None where nothing holds
    combined           both at once, at half the risk each (Bonferroni)
    false_calls        on sound parts, with interval and ratio of variance to mean
    pod                per group of types that look alike and pooled: a50, a90, a90/95, or why not
    default_point, operating_points   what max-recall mode chooses from (``segment.claims``)
    drift              what frames looked like, for the alarm (``segment.drift``); None with drift_reason
    sentence, not_covered, too_small  the words that may be used

Every bound is marginal: over the draw of the calibration parts, for parts from the same process. None is for any single
part. Bounds per type, per size and per group hold one by one, not together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import ConfigError, IntegrityError, UsageError
from ..segment import bundle as bundles
from ..segment.bundle import Bundle
from ..segment.claims import CLAIMS_SCHEMA
from ..segment.drift import STATISTICS, DriftReference
from ..segment.protocol import Engine
from ..segment.sealed import write_atomically
from .certificate_words import not_covered, sentence, too_small
from .certify import machine
from .labelled import Labelled
from .observing import Grids, Observed, Part, grids_for, observe
from .pictures import EXPERIMENT_SEEDS_FROM
from .statistics import (
    Pod,
    certified_index,
    fixed_sequence,
    lower_bound,
    parts_needed,
    poisson_interval,
    probability_of_detection,
    upper_bound,
    wsr_p,
)

__all__ = ["GROUPS", "SIZE_EDGES_MM", "certify", "check_seeds", "check_trained_on", "seal_claims"]

#: Types that cannot be told apart in one view share a curve.
GROUPS = {
    "gas": ("gas_hole", "gas_porosity_round", "gas_porosity_elongated", "blowhole"),
    "shrinkage": ("shrinkage_cavity", "shrinkage_sponge", "shrinkage_dendritic", "shrinkage_filamentary"),
    "foreign": ("foreign_less_dense", "foreign_more_dense", "inclusion"),
    "linear": ("crack", "cold_shut", "scratches", "break"),
}
SIZE_EDGES_MM = (0.5, 1.0, 2.0, 4.0)
_DRAW_SEED = 20_250_101  # of the indication that stands for its part; fixed, so that a certificate can be repeated
_HASH = re.compile(r"\b[0-9a-f]{64}\b")
_SEED_RANGE = re.compile(r"\bseeds (\d+) ?(?:\.\.|-|to) ?(\d+)")


def check_seeds(bundle: Bundle, seeds: Sequence[int]) -> None:
    """Raise UsageError for simulated parts that training or tuning may have used."""
    if not len(seeds):
        raise UsageError("no part to certify on", hint="--simulated N with N >= 1")
    if min(seeds) < EXPERIMENT_SEEDS_FROM:
        raise UsageError(
            f"seed {min(seeds)} may have been trained or tuned on",
            hint=f"--first-seed {EXPERIMENT_SEEDS_FROM} or above",
        )
    for first, last in _SEED_RANGE.findall(json.dumps(bundle.manifest.get("trained_on"))):
        if min(seeds) <= int(last) and max(seeds) >= int(first):
            raise UsageError(
                f"{bundle.name} was trained on seeds {first} to {last}", hint="choose seeds it has never seen"
            )


def check_trained_on(bundle: Bundle, observed: Observed) -> None:
    """Raise IntegrityError where the manifest's ``trained_on`` holds the hash of a picture of the calibration set."""
    known = set(_HASH.findall(json.dumps(bundle.manifest.get("trained_on"))))
    both = sorted(known & observed.picture_hashes)
    if both:
        raise IntegrityError(
            f"{len(both)} pictures of the calibration set were trained on, the first {both[0][:12]}",
            hint="certify on independent parts that no training has seen",
        )


def certify(
    engine: Engine, pictures: Iterable[Labelled], *, kind: str, name: str, recall: float = 0.995,
    confidence: float = 0.95, pixel_miss: float = 0.05,
    look: Callable[[Engine, Iterable[Labelled], Grids], Observed] = observe,
) -> dict[str, Any]:  # fmt: skip
    """The claims of ``engine`` from a calibration set, as plain JSON (see the module).

    kind: ``simulated`` or ``folder``; name: of the folder or the seeds, for the page. recall, pixel_miss: what is asked
    of the parts and of the pixels; confidence: of each bound. Raises UsageError for shares outside (0, 1) and sets that
    are not independent parts with masks, IntegrityError for pictures that were trained on.
    """
    for what, value in (("recall", recall), ("confidence", confidence), ("pixel miss rate", pixel_miss)):
        if not 0.0 < value < 1.0:
            raise UsageError(f"a {what} of {value} makes no sense", hint="a share between 0 and 1")
    bundle, grids = engine.bundle, grids_for(engine.bundle.thresholds)
    observed = look(engine, pictures, grids)
    check_trained_on(bundle, observed)
    # The order of parts in a folder may follow their defects; bounds by betting need one that does not.
    rng = np.random.default_rng(_DRAW_SEED)
    parts = [observed.parts[k] for k in rng.permutation(len(observed.parts))]
    seen = [part for part in parts if not part.refused]
    defective = [part for part in seen if part.defective]
    sound = [part for part in seen if part.sound]
    points = _operating_points(bundle, grids, defective, sound, confidence)
    default = points[grids.default]
    pods, types, sizes = _drawn(defective, grids.default, confidence, np.random.default_rng([_DRAW_SEED, 1]))
    claims: dict[str, Any] = {
        "schema": CLAIMS_SCHEMA,
        "certified_utc": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "software": f"edge-daemon {__version__}",
        "backend": engine.backend,
        "bundle": {
            "name": bundle.name, "version": bundle.version, "model_sha256": bundle.model_sha256,
            "thresholds_sha256": bundle.manifest["files"]["thresholds.json"],
        },
        "calibration_set": {
            "kind": kind, "name": name, "sha256": observed.sha256, "pictures": observed.pictures,
            "parts": len(parts), "defective": len(defective), "sound": len(sound),
            "nothing_visible": len(seen) - len(defective) - len(sound),
            "refused_by_the_image_gate": len(parts) - len(seen),
        },
        "confidence": confidence,
        "asked": {"recall": recall, "pixel_miss": pixel_miss},
        "found": "at least a quarter of the indication's visible pixels are marked, under any name",
        "part_recall": _part_recall(defective, grids.default, recall, confidence),
        "types": types,
        "sizes": sizes if observed.scaled else [],
        "pixel_miss": _pixel_miss(defective, grids, pixel_miss, 1.0 - confidence),
        "combined": _combined(defective, grids, recall, pixel_miss, 1.0 - confidence),
        "false_calls": _false_calls(sound, grids.default),
        "pod": pods if observed.scaled else {},
        "default_point": default,
        "operating_points": points,
        **_drift(sound, rng),
    }  # fmt: skip
    claims["too_small"] = too_small(claims)
    claims["not_covered"] = not_covered(claims)
    claims["sentence"] = sentence(claims)
    return claims


# ---------------------------------------------------------------- counts and bounds


def _bounded(missed: int, n: int, confidence: float) -> dict[str, Any]:
    return {"n": n, "missed": missed, "lower": _down(lower_bound(n - missed, n, confidence))}


def _down(value: float) -> float:
    """Six digits, never in the promise's favour."""
    return float(np.floor(1e6 * value) / 1e6)


def _part_recall(defective: Sequence[Part], point: int, asked: float, confidence: float) -> dict[str, Any]:
    n = len(defective)
    strict = sum(bool(part.missed()[point]) for part in defective)
    lenient = sum(bool(part.unmarked()[point]) for part in defective)
    bounds = _bounded(strict, n, confidence)
    return {
        "strict": bounds,
        "lenient": _bounded(lenient, n, confidence),
        "asked": asked,
        "promised": bounds["lower"] >= asked,
        "parts_needed_without_a_miss": parts_needed(asked, 0, confidence),
        "parts_needed_with_as_many_misses": parts_needed(asked, strict, confidence),
    }


def _drawn(
    defective: Sequence[Part], point: int, confidence: float, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """(pod by group, recall by type, recall by size bin): of each part one indication, drawn at random, counts."""
    by_group: dict[str, list[tuple[float | None, bool]]] = {"pooled": []}
    by_type: dict[str, list[bool]] = {}
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    for part in defective:
        asked: dict[tuple[str, str], list[int]] = {("group", "pooled"): list(range(len(part.spots)))}
        for index, spot in enumerate(part.spots):
            asked.setdefault(("type", spot.type), []).append(index)
            asked.setdefault(("group", group_of.get(spot.type, "other")), []).append(index)
        for (what, key), indices in sorted(asked.items()):
            spot = part.spots[indices[int(rng.integers(len(indices)))]]
            found = bool(spot.found[point])
            if what == "type":
                by_type.setdefault(key, []).append(found)
            else:
                by_group.setdefault(key, []).append((spot.size_mm, found))
    types = {key: _bounded(found.count(False), len(found), confidence) for key, found in sorted(by_type.items())}
    sizes = []
    edges = (0.0, *SIZE_EDGES_MM, None)
    for low, high in pairwise(edges):
        inside = [
            found
            for size_mm, found in by_group["pooled"]
            if size_mm is not None and low is not None and size_mm >= low and (high is None or size_mm < high)
        ]
        bounds = _bounded(inside.count(False), len(inside), confidence)
        sizes.append({"from_mm": low, "to_mm": high, **bounds})
    pods = {}
    for group, drawn in by_group.items():
        known = [(size_mm, found) for size_mm, found in drawn if size_mm is not None]
        curve = probability_of_detection([size for size, _ in known], [found for _, found in known])
        pods[group] = _pod_document(curve)
    return pods, types, sizes


def _pod_document(curve: Pod) -> dict[str, Any]:
    def rounded(value: float | None, digits: int = 4) -> float | None:
        return None if value is None else round(value, digits)

    return {
        "method": f"logit in ln size, {curve.method}; a90/95 by likelihood ratio (2.706)",
        "n": curve.n, "hits": curve.hits, "smallest_mm": rounded(curve.smallest_mm),
        "largest_mm": rounded(curve.largest_mm), "b0": rounded(curve.b0, 6), "b1": rounded(curve.b1, 6),
        "a50_mm": rounded(curve.a50_mm), "a90_mm": rounded(curve.a90_mm),
        # Rounded up: a bound must not shrink.
        "a90_95_mm": None if curve.a90_95_mm is None else float(np.ceil(1e4 * curve.a90_95_mm) / 1e4),
        "reason": curve.reason, "bound_reason": curve.bound_reason,
    }  # fmt: skip


def _losses(defective: Sequence[Part]) -> Any:
    return np.stack([part.missed_px / part.visible_px for part in defective])


def _over_marking(defective: Sequence[Part], at: int) -> float:
    marked = sum(int(part.marked_px[at]) for part in defective)
    return round(marked / sum(part.visible_px for part in defective), 4)


def _at_chain(defective: Sequence[Part], grids: Grids, at: int) -> dict[str, Any]:
    thresholds, losses = grids.chain[at], _losses(defective)
    return {
        "seed": thresholds.seed, "grow": thresholds.grow, "min_region_px": thresholds.min_region_px,
        "mean_miss": round(float(losses[:, at].mean()), 6), "over_marking": _over_marking(defective, at),
    }  # fmt: skip


def _pixel_miss(defective: Sequence[Part], grids: Grids, alpha: float, delta: float) -> dict[str, Any]:
    document: dict[str, Any] = {
        "alpha": alpha, "confidence": 1.0 - delta, "n": len(defective), "method": "Learn-then-Test, betting (WSR)",
        "point": None, "p": None, "hoeffding_bentkus_point": None,
    }  # fmt: skip
    if not defective:
        return document
    losses = _losses(defective)
    for method, key in (("wsr", "point"), ("hb", "hoeffding_bentkus_point")):
        at = certified_index(losses, alpha, delta, method=method)
        if at >= 0:
            document[key] = _at_chain(defective, grids, at)
            if method == "wsr":
                document["p"] = round(float(wsr_p(losses[:, at : at + 1], alpha, delta)[0]), 6)
    return document


def _combined(defective: Sequence[Part], grids: Grids, recall: float, alpha: float, delta: float) -> dict[str, Any]:
    """The last member of the chain that holds part recall *and* pixel miss rate as asked, each tested at half the risk
    (Bonferroni), so that both hold together with the whole confidence; ``point`` None where none does."""
    document: dict[str, Any] = {
        "confidence": 1.0 - delta, "part_recall_asked": recall, "pixel_miss_at_most": alpha, "point": None,
        "part_recall_lower": None,
    }  # fmt: skip
    if not defective:
        return document
    n = len(defective)
    missed = np.sum([part.missed_chain() for part in defective], axis=0)
    bounds = np.minimum.accumulate([lower_bound(n - int(k), n, 1.0 - delta / 2.0) for k in missed])
    pixels = certified_index(_losses(defective), alpha, delta / 2.0)
    parts = fixed_sequence([0.0 if bound >= recall else 1.0 for bound in bounds.tolist()], 0.5)
    document["part_recall_lower"] = _down(float(bounds[max(pixels, 0)]))
    if min(pixels, parts) >= 0:
        at = min(pixels, parts)
        document["point"] = _at_chain(defective, grids, at)
        document["part_recall_lower"] = _down(float(bounds[at]))
    return document


def _false_calls(sound: Sequence[Part], point: int) -> dict[str, Any]:
    """Marked regions per sound picture. Where parts differ more than Poisson counts would (variance over mean above 1),
    count and pictures are both divided by that ratio before the interval is taken, which widens it."""
    pictures = sum(part.pictures for part in sound)
    calls = np.array([int(part.calls[point]) for part in sound], np.float64)
    total, with_any = int(calls.sum()), int((calls > 0).sum())
    if not pictures:
        return {"parts": 0, "pictures": 0, "calls": 0, "per_image": None, "dispersion": None, "parts_with_any": None}
    mean = total / len(sound)
    dispersion = float(calls.var(ddof=1) / mean) if total and len(sound) > 1 else 1.0
    wider = max(1.0, dispersion)
    low, high = poisson_interval(round(total / wider), pictures / wider)
    rate = total / pictures
    return {
        "parts": len(sound), "pictures": pictures, "calls": total,
        "per_image": [round(rate, 6), round(min(low, rate), 6), round(max(high, rate), 6)],
        "dispersion": round(dispersion, 3),
        "parts_with_any": {"n": len(sound), "k": with_any, "upper": round(upper_bound(with_any, len(sound)), 6)},
    }  # fmt: skip


def _operating_points(
    bundle: Bundle, grids: Grids, defective: Sequence[Part], sound: Sequence[Part], confidence: float
) -> list[dict[str, Any]]:
    """Each point's recall bound is the largest recall up to which fixed-sequence testing, from the most sensitive point
    on, still accepts it: the smallest Clopper-Pearson bound of all points up to it."""
    missed = np.zeros(len(grids.points), int)
    for part in defective:
        missed += part.missed()
    n, smallest, rows = len(defective), 1.0, []
    for index, seed in enumerate(grids.points):
        smallest = min(smallest, lower_bound(n - int(missed[index]), n, confidence))
        rows.append({
            "seed": seed, "grow": bundle.thresholds.grow, "min_region_px": bundle.thresholds.min_region_px,
            "parts": n, "missed": int(missed[index]), "recall_lower": _down(smallest),
            "false_calls_per_image": _false_calls(sound, index)["per_image"], "default": index == grids.default,
        })  # fmt: skip
    return rows


def _drift(sound: Sequence[Part], rng: np.random.Generator) -> dict[str, Any]:
    scores = [part.scores for part in sound if part.scores is not None]
    try:
        table = np.stack(scores) if scores else np.zeros((0, len(STATISTICS)))
        reference = DriftReference.learn(STATISTICS, table[rng.permutation(len(table))])
    except ConfigError as error:
        return {"drift": None, "drift_reason": f"the drift alarm is off: {error}"}
    return {"drift": reference.document(), "drift_reason": ""}


# ---------------------------------------------------------------- sealing


def seal_claims(folder: Path, claims: dict[str, Any]) -> str:
    """Put ``claims`` into the bundle's certificate.json, all its other keys kept, and seal the bundle again.

    Returns the bundle's new SHA-256: pins of the old one must be renewed. Raises IntegrityError where the bundle is not
    the one that was certified, StorageError where it cannot be written; then the old bundle is put back.
    """
    bundle = bundles.load(folder)
    certified = claims["bundle"]
    if (bundle.model_sha256, bundle.manifest["files"]["thresholds.json"]) != (
        certified["model_sha256"], certified["thresholds_sha256"],
    ):  # fmt: skip
        raise IntegrityError(f"{folder} is not the bundle that was certified", hint="certify this one")
    path = folder / "certificate.json"
    before = path.read_bytes()
    document = {**bundle.certificate, "claims": claims}
    manifest = {key: value for key, value in bundle.manifest.items() if key != "files"}
    write_atomically(path, (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    try:
        return bundles.seal(folder, manifest)
    except BaseException:
        write_atomically(path, before)
        raise
