"""How an engine meets a type it was never taught: leave one type out, train, and look at that type's pictures.

    python -m edge_daemon.testing.stranger_study --on DIR --out WORK --steps 1500 [--strangers OTHER_DIR]

``DIR`` is a labelled table with the splits ``train`` and ``test`` (see ``edge-daemon train evaluate --help``). For each
of its types an engine is trained on the others; then, on the test split:

marked     pictures of the type left out that get a mark on their truth (mask, or box), and sound crops that get one:
           squares of 64 px without truth in pictures with masks; beside boxes lies much that nobody labelled, so those
           squares are counted for themselves
AUROC      region by region: strangeness of regions on the truth of the type left out, against regions on truth of known
           types; 0.5 is a coin. Beside the line's own score: max-logit, energy, kNN and ViM on the same regions
FPR        of strangers taken for known, where 95 % of the known are taken for known
unknown    share of strangers' regions, and of known ones, that the bundle's own threshold calls unknown
accuracy   type of the whole picture among known types, with and without the right to say "unknown"

Everything is written to ``WORK/strangers.json`` and printed as a table. A run that was cut off goes on, and types that
were examined before are not trained again; so several processes may share the work with ``--only``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..images import write_bytes_atomic
from ..segment.bundle import Bundle, load
from ..segment.onnx import OnnxEngine
from ..segment.prepare import VIEWS, prepare
from ..segment.see import coverage_from_logits, known_p, named_blobs, see, split_types
from ..segment.tiling import pad_to_multiple, run_tiled
from ..train import fit_on
from ..train.annotations import type_of
from ..train.figures import proportion
from ..train.fitting import load_network
from ..train.labelled import Labelled, open_folder
from ..train.network import CastingNet
from ..train.pictures import IGNORED, LOCAL_SIGMA_PX
from ..train.surface_calibrate import sound_crops
from ..train.surface_fit import types_in
from ..train.surface_pictures import Surface, read_surfaces

__all__ = ["auroc", "main"]

_ON_TRUTH = 0.3
_NEIGHBOURS = 10
_BANK = 3000
_VIM_KEPT = 0.9
# Steps end a run here, not minutes: a busy machine must not make a worse engine.
_HOURS = 600.0


@dataclass(frozen=True, slots=True)
class _Region:
    """A marked region on truth. logits: mean type logits; feature: mean of what the type head sees; scores by name."""

    logits: NDArray[np.float64]
    feature: NDArray[np.float64]
    strange: float
    unknown: bool
    picture: str


def auroc(known: NDArray[np.float64], strange: NDArray[np.float64]) -> float:
    """Probability that a stranger scores higher than a known one; ties count half."""
    values = np.concatenate([known, strange])
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]
    total = ranks[len(known) :].sum() - len(strange) * (len(strange) + 1) / 2
    return float(total / (len(known) * len(strange)))


class _Reader:
    """An engine and its network side by side: the line's regions, and the features behind them."""

    def __init__(self, folder: Path) -> None:
        self.bundle: Bundle = load(folder)
        self.engine = OnnxEngine(self.bundle)
        self._network: CastingNet = load_network(folder.parent)
        self._seen: dict[str, torch.Tensor] = {}
        self._network.type_head[0].register_forward_hook(lambda _m, _i, out: self._seen.update(feature=out))

    def head(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights and bias of the type logits."""
        weights = self._network.state_dict()
        weight, bias = (weights[f"type_head.1.{name}"].numpy().astype(np.float64) for name in ("weight", "bias"))
        return weight.reshape(len(weight), -1), bias

    @torch.no_grad()
    def regions(self, one: Surface) -> list[_Region]:
        """The marked regions of a picture that lie on truth."""
        bundle, thresholds = self.bundle, self.bundle.thresholds
        planes = prepare(one.pixels, VIEWS, LOCAL_SIGMA_PX)
        tensors = run_tiled(self.engine.infer, planes, bundle.input)
        coverage = coverage_from_logits(tensors.defect[0, 0], thresholds)
        blobs, names = named_blobs(coverage, tensors, bundle.types, thresholds)
        self._network(torch.from_numpy(pad_to_multiple(planes, bundle.input.multiple_of_px)[None]))
        feature = self._seen["feature"][0].numpy()
        stride, width = tensors.type_stride_px, one.labels.shape[1]
        logits, _ = split_types(tensors.type[0], len(bundle.types))
        found = []
        for number, (best, _, strange) in enumerate(names):
            name = bundle.types[best]
            unknown = known_p(strange, thresholds.known_scores.get(name, ())) < thresholds.unknown_alpha
            if blobs.peak[number] < thresholds.type_seeds.get("unknown" if unknown else name, 0.0):
                continue
            pixels = blobs.pixels[blobs.region_of_pixel == number]
            labels = one.labels.reshape(-1)[pixels]
            if ((labels > 0) & (labels != IGNORED)).mean() < _ON_TRUTH:
                continue
            y, x = np.divmod(pixels, width)
            found.append(_Region(
                logits[:, y // stride, x // stride].mean(axis=1).astype(np.float64),
                feature[:, y // stride, x // stride].mean(axis=1).astype(np.float64), strange, bool(unknown), one.name,
            ))  # fmt: skip
        return found


# ---- scores ---------------------------------------------------------------------------------------------------------


def _scores(bank: Sequence[_Region], regions: Sequence[_Region], reader: _Reader) -> dict[str, NDArray[np.float64]]:
    """The line's score and its rivals, larger is stranger."""
    known = len(reader.bundle.types)
    logits = np.stack([one.logits for one in regions])[:, :known]
    features = np.stack([one.feature for one in regions])
    stored = np.stack([one.feature for one in bank])
    bank_logits = np.stack([one.logits for one in bank])[:, :known]
    peak = logits.max(axis=1)
    energy = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
    scores = {"line": np.array([one.strange for one in regions]), "max-logit": -peak, "energy": -energy}
    unit = stored / np.maximum(np.linalg.norm(stored, axis=1, keepdims=True), 1e-9)
    mine = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    distances = np.sqrt(np.maximum(2.0 - 2.0 * mine @ unit.T, 0.0))
    scores["kNN"] = np.sort(distances, axis=1)[:, min(_NEIGHBOURS, len(bank)) - 1]
    # ViM (Wang et al. 2022): the residual outside the principal space of (feature - origin), weighed against energy.
    weight, bias = reader.head()
    origin = -np.linalg.pinv(weight[:known]) @ bias[:known]
    values, vectors = np.linalg.eigh(np.cov((stored - origin).T))
    order = np.argsort(values)[::-1]
    kept = int(np.searchsorted(np.cumsum(values[order]) / values.sum(), _VIM_KEPT)) + 1
    outside = vectors[:, order[min(kept, len(order) - 1) :]]
    residual = np.linalg.norm((features - origin) @ outside, axis=1)
    alpha = float(
        bank_logits.max(axis=1).mean() / max(np.linalg.norm((stored - origin) @ outside, axis=1).mean(), 1e-9)
    )
    scores["ViM"] = alpha * residual - energy
    return scores


def _fpr_at_95(known: NDArray[np.float64], strange: NDArray[np.float64]) -> float:
    """Strangers below the score that 95 % of the known stay below."""
    return float((strange <= np.quantile(known, 0.95)).mean())


# ---- one type left out ----------------------------------------------------------------------------------------------


def _examine(
    folder: Path, pictures: Sequence[Labelled], bank: Sequence[Labelled], left_out: str | None
) -> dict[str, Any]:
    reader = _Reader(folder)
    known_types = reader.bundle.types
    every = (*known_types, left_out) if left_out else known_types
    strangers = [one for one in pictures if type_of(one.kind or "") not in (*known_types, None)]
    known = [one for one in pictures if type_of(one.kind or "") in known_types]
    bank_regions = _all_regions(reader, read_surfaces(bank, known_types))[:_BANK]
    known_surfaces = read_surfaces(known, known_types)
    known_regions = _all_regions(reader, known_surfaces)
    foreign = tuple(sorted({kind for one in strangers if (kind := type_of(one.kind or "")) is not None}))
    strange_surfaces = read_surfaces(strangers, every if left_out else foreign)
    strange_regions = _all_regions(reader, strange_surfaces)
    hit = _marked_on_truth(reader, strange_surfaces)
    figures: dict[str, Any] = {
        "left_out": left_out or "", "sha256": reader.bundle.sha256,
        "pictures": {"known": len(known), "strangers": len(strangers)},
        "regions": {"known": len(known_regions), "strangers": len(strange_regions)},
        "strangers_marked": proportion(sum(hit), len(hit)),
        "sound_crops_marked": _sound_marked(reader, [one for one in known_surfaces if not one.weak]),
        "crops_outside_boxes_marked": _sound_marked(reader, [one for one in known_surfaces if one.weak]),
        "accuracy": _accuracy(reader, known),
    }  # fmt: skip
    if known_regions and strange_regions:
        a, b = (_scores(bank_regions, some, reader) for some in (known_regions, strange_regions))
        figures["auroc"] = {name: round(auroc(a[name], b[name]), 4) for name in a}
        figures["fpr_at_95"] = {name: round(_fpr_at_95(a[name], b[name]), 4) for name in a}
        for key, some in (("strangers_called_unknown", strange_regions), ("known_called_unknown", known_regions)):
            figures[key] = proportion(sum(one.unknown for one in some), len(some))
    reader.engine.close()
    return figures


def _all_regions(reader: _Reader, surfaces: Iterable[Surface]) -> list[_Region]:
    return [region for one in surfaces for region in reader.regions(one)]


def _marked_on_truth(reader: _Reader, surfaces: Sequence[Surface]) -> list[bool]:
    hits = []
    for one in surfaces:
        answer = see(reader.engine, one.pixels)
        hits.append(bool(((answer.labels > 0) & (one.labels > 0) & (one.labels != IGNORED)).any()))
    return hits


def _sound_marked(reader: _Reader, surfaces: Sequence[Surface]) -> dict[str, Any]:
    marked = total = 0
    for one in surfaces:
        windows = sound_crops(one.labels)
        if windows:
            answer = see(reader.engine, one.pixels)
            marked += sum(bool(answer.labels[window].any()) for window in windows)
            total += len(windows)
    return proportion(marked, total)


def _accuracy(reader: _Reader, pictures: Sequence[Labelled]) -> dict[str, Any]:
    """Whole pictures of known types: most marked pixels are of that type; when unknown is an answer, and when not."""
    strict, open_minded = [], []
    for one in pictures:
        answer = see(reader.engine, np.asarray(one.pixels))
        weight: dict[str, float] = {}
        nearest: dict[str, float] = {}
        for region in answer.regions:
            x, y, width, height = region.bbox_px
            size = float((answer.labels[y : y + height, x : x + width] == region.label).sum())
            weight[region.type] = weight.get(region.type, 0.0) + size
            nearest[region.nearest_type] = nearest.get(region.nearest_type, 0.0) + size
        wanted = type_of(one.kind or "")
        strict.append(bool(nearest) and max(nearest, key=nearest.__getitem__) == wanted)
        open_minded.append(bool(weight) and max(weight, key=weight.__getitem__) == wanted)
    return {
        "closed": proportion(sum(strict), len(strict)),
        "with_unknown": proportion(sum(open_minded), len(open_minded)),
    }


# ---- the study ------------------------------------------------------------------------------------------------------


def _split_hash(on: Path) -> str:
    return hashlib.sha256((on / "images.csv").read_bytes()).hexdigest()


def study(
    on: Path, out: Path, steps: int, seed: int, threads: int, others: Path | None, only: Sequence[str] = ()
) -> dict[str, Any]:  # fmt: skip
    """Train and examine; returns what ``strangers.json`` holds."""
    cv2.setNumThreads(1)
    test, train = list(open_folder(on, split="test")), list(open_folder(on, split="train"))
    types = [name for name in types_in(open_folder(on)) if not only or name in only]
    document: dict[str, Any] = {"on": on.name, "images_csv_sha256": _split_hash(on), "steps": steps, "seed": seed}
    runs = document["runs"] = []
    for left_out in types:
        examined = out / left_out / "examined.json"
        if examined.exists():
            runs.append(json.loads(examined.read_text(encoding="utf-8")))
            continue
        folder = fit_on(on, out / left_out, name="surface", split="train", test_split="test", left_out=[left_out],
                        minutes=_HOURS, steps=steps, seed=seed, threads=threads)  # fmt: skip
        bank = [one for one in train if type_of(one.kind or "") != left_out]
        runs.append(_examine(folder, test, bank, left_out))
        write_bytes_atomic(examined, (json.dumps(runs[-1]) + "\n").encode())
        print(json.dumps(runs[-1]), flush=True)  # noqa: T201
        write_bytes_atomic(out / "strangers.json", (json.dumps(document, indent=1) + "\n").encode())
    document["mean"], document["worst"] = _summary(runs)
    if others is not None:
        folder = fit_on(on, out / "all", name="surface", split="train", test_split="test", minutes=_HOURS, steps=steps,
                        seed=seed, threads=threads)  # fmt: skip
        document["others"] = _examine_others(folder, test, train, list(open_folder(others)))
    write_bytes_atomic(out / "strangers.json", (json.dumps(document, indent=1) + "\n").encode())
    return document


def _examine_others(
    folder: Path, test: Sequence[Labelled], train: Sequence[Labelled], others: Sequence[Labelled]
) -> dict[str, Any]:
    """Another material: its defects are strangers; its sound pictures count how many get a mark."""
    types = load(folder).types
    defective = [one for one in others if type_of(one.kind or "") is not None]
    sound = [
        one for one in others if type_of(one.kind or "") is None and one.labels is not None and not one.labels.any()
    ]
    known = [one for one in test if type_of(one.kind or "") in types]
    figures = _examine(folder, [*known, *defective], train, None)
    engine = OnnxEngine(load(folder))
    marked = sum(bool(see(engine, np.asarray(one.pixels)).labels.any()) for one in sound)
    engine.close()
    return {**figures, "sound_pictures_marked": proportion(marked, len(sound))}


def _summary(runs: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    def over(pick: Any) -> tuple[float, tuple[str, float], tuple[str, float]]:
        values = {run["left_out"]: float(pick(run)) for run in runs}
        low, high = (fn(values.items(), key=lambda item: item[1]) for fn in (min, max))
        return round(float(np.mean(list(values.values()))), 4), low, high

    rows = {f"auroc {name}": over(lambda run, name=name: run["auroc"][name]) for name in runs[0]["auroc"]}
    rows |= {
        "fpr_at_95 line": over(lambda run: run["fpr_at_95"]["line"]),
        "strangers_marked": over(lambda run: run["strangers_marked"]["value"]),
        "sound_crops_marked": over(lambda run: run["sound_crops_marked"]["value"] or 0.0),
        "strangers_called_unknown": over(lambda run: run["strangers_called_unknown"]["value"]),
        "known_called_unknown": over(lambda run: run["known_called_unknown"]["value"]),
        "accuracy_lost": over(
            lambda run: run["accuracy"]["closed"]["value"] - run["accuracy"]["with_unknown"]["value"]
        ),
    }
    higher_is_worse = ("fpr", "sound", "known_called", "accuracy_lost")
    worst = {name: row[2] if name.startswith(higher_is_worse) else row[1] for name, row in rows.items()}
    return {name: row[0] for name, row in rows.items()}, worst


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=1500, help="of training for each type left out")
    parser.add_argument("--only", action="append", default=[], metavar="TYPE", help="leave out these types only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--strangers", type=Path, metavar="DIR", help="another labelled folder, all of it strange")
    args = parser.parse_args(arguments)
    document = study(args.on, args.out, args.steps, args.seed, args.threads, args.strangers, args.only)
    width = max(map(len, document["mean"]))
    for name, value in document["mean"].items():
        worst = document["worst"][name]
        print(f"{name:{width}}  mean {value:.3f}  worst {worst[1]:.3f} ({worst[0]})")  # noqa: T201
    if "others" in document:
        print(json.dumps(document["others"], indent=1))  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
