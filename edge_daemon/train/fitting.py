"""Training: minutes on a CPU, less on a GPU. Resumable, seeded, with nothing but its folder as memory.

A run draws its batches from any source of crops, so that training from scratch, commissioning on a part's own frames
and reinforcing certain types are the same loop with another source and another start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as fn
from torch import nn

from ..errors import UsageError
from ..simulator import CASTING_TYPES
from .network import MULTIPLE_OF_PX, TYPE_STRIDE_PX, WIDTHS, CastingNet, like
from .pictures import IGNORED, TUNING_SEEDS_FROM, UNTYPED, GrowingPool, Pool, make_pool, sample_batch

__all__ = [
    "Batches",
    "Look",
    "Plan",
    "fit_network",
    "load_network",
    "loss_parts",
    "simulated_batches",
    "validate",
    "validation_pool",
]

_CHECKPOINT = "checkpoint.pt"
_LOG = "training.jsonl"
_PLOT = "training.png"

#: (rng, step, batch, crop_px) -> views float32 (batch, 2, crop, crop), labels uint8 (batch, crop, crop).
Batches = Callable[[np.random.Generator, int, int, int], tuple[Any, Any]]
#: A network -> {"validation": {"loss": ..., ...}} on pictures it does not learn from.
Look = Callable[[CastingNet], dict[str, Any]]

# Training starts when this many pictures are ready, and may then use one more per step.
_FIRST_PICTURES = 600
#: Seeds of the pictures a run is watched on: not trained on, and not the bundle's tuning either.
_VALIDATION_SEEDS = range(TUNING_SEEDS_FROM - 5_000, TUNING_SEEDS_FROM - 5_000 + 160)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train. minutes: stop after that much training, whatever the steps; the learning rate follows whichever of
    the two is further along. pictures: simulated ones to draw crops from, seeds seed * 100,000 onwards.
    validate_minutes: between two looks at pictures never trained on; patience: so many looks without a better one end
    the run early. device: ``auto`` takes a GPU if there is one. threads: of torch; workers: processes that simulate.
    widths: of the network."""

    seed: int = 0
    minutes: float = 60.0
    steps: int = 200_000
    pictures: int = 8000
    batch: int = 14
    crop_px: int = 144
    learning_rate: float = 3e-3
    ema: float = 0.998
    validate_minutes: float = 5.0
    patience: int = 10
    device: str = "auto"
    threads: int = 1
    workers: int = 1
    widths: tuple[int, ...] = WIDTHS


def loss_parts(defect: torch.Tensor, types: torch.Tensor, labels: torch.Tensor) -> Any:
    """(entropy, Dice, type) of a batch, as training weighs them; a NumPy array."""
    return _loss(defect, types, labels)[1].cpu().numpy()


def _loss(defect: torch.Tensor, types: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy on defect or not stays dominant: soft Dice alone biases area. Types count on defect pixels only,
    those of a large discontinuity less than those of a small one."""
    target = ((labels > 0) & (labels != IGNORED)).float()
    counted = (labels != IGNORED).float()
    logits = defect[:, 0]
    weight = counted * (1.0 + target)
    entropy = (fn.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum() / counted.sum()
    share = torch.sigmoid(logits) * counted
    overlap = 2.0 * (share * target).sum((1, 2)) + 20.0
    dice = 1.0 - (overlap / ((share + target).sum((1, 2)) + 20.0)).mean()
    # Only the defect pixels are gathered: they are a few per cent, and the softmax over the types is the costly part.
    own_px = target.sum((1, 2), keepdim=True).clamp(min=1.0)
    marked = target > 0
    importance = own_px.rsqrt().expand_as(target)[marked]
    n, y, x = torch.nonzero(marked, as_tuple=True)
    given = types.permute(0, 2, 3, 1)[n, y // TYPE_STRIDE_PX, x // TYPE_STRIDE_PX]
    # A defect of no type belongs to the last plane, which is there for it.
    kind = labels[marked].long() - 1
    kind = torch.where(kind == UNTYPED - 1, types.shape[1] - 1, kind)
    surprise = fn.cross_entropy(given, kind, reduction="none")
    # Without a defect pixel in the batch the mean would be 0 / 0.
    type_loss = (surprise * importance).sum() / importance.sum().clamp(min=1e-3)
    return 10.0 * entropy + 0.5 * dice + 0.5 * type_loss, torch.stack([entropy, dice, type_loss]).detach()


def simulated_batches(out: Path, plan: Plan) -> tuple[Batches, GrowingPool]:
    """Crops of simulated radiographs that are still being made while training has begun; close the pool afterwards.

    Raises UsageError for a seed whose pictures would reach into those kept for validation and tuning.
    """
    first = plan.seed * 100_000
    if first + plan.pictures > min(_VALIDATION_SEEDS):
        raise UsageError("these training pictures would reach into the seeds kept for tuning", hint="smaller seed")
    pool = GrowingPool(out / "pool", range(first, first + plan.pictures), workers=plan.workers)
    pool.first(_FIRST_PICTURES)

    def draw(rng: np.random.Generator, step: int, batch: int, crop_px: int) -> tuple[Any, Any]:
        return sample_batch(rng, pool.first(_FIRST_PICTURES + step), batch, crop_px)

    return draw, pool


def validation_pool() -> Pool:
    """Pictures to watch a run on."""
    return make_pool(_VALIDATION_SEEDS)


def fit_network(
    out: Path, plan: Plan, batches: Batches, *, look: Look | None = None,
    start: Mapping[str, torch.Tensor] | None = None, planes: int = len(CASTING_TYPES), progress: bool | None = None,
) -> CastingNet:  # fmt: skip
    """Train, or go on where ``out/checkpoint.pt`` stopped, and return the averaged network at its best.

    start: weights to begin with. look: at pictures to watch; without it the last state is returned. planes: of the type
    head. progress: a line on stderr; None shows it on a terminal. Writes checkpoint.pt (every minute, replaced
    atomically), training.jsonl and, where matplotlib is installed, training.png into ``out``. Raises UsageError for a
    checkpoint of another plan.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    device = _device(plan.device)
    run = _Run(plan, device, start, planes)
    checkpoint = out / _CHECKPOINT
    if checkpoint.exists():
        run.load(checkpoint)
    show = sys.stderr.isatty() if progress is None else progress
    started, saved, looked = time.monotonic() - run.spent_s, time.monotonic(), run.spent_s
    recent, counted = np.zeros(3), 0
    with (out / _LOG).open("a", encoding="utf-8") as log:
        while not run.stopped:
            run.spent_s = time.monotonic() - started
            done = max(run.step / plan.steps, run.spent_s / (60.0 * plan.minutes))
            if done >= 1.0:
                break
            # Seeded by the step, so that a resumed run draws what the uninterrupted one would have drawn.
            rng = np.random.default_rng([plan.seed, run.step])
            batch = batches(rng, run.step, plan.batch, plan.crop_px)
            recent += run.learn(_rate(plan, done), batch)
            counted += 1
            if run.step % 100 == 0:
                means = (recent / counted).round(5).tolist()
                _write(log, {"step": run.step, "minutes": round(run.spent_s / 60, 2), "entropy_dice_type": means})
                if show:
                    line = f"\r{100 * done:5.1f} %  step {run.step}  loss {means}"
                    print(line, end="", file=sys.stderr, flush=True)  # noqa: T201
                recent[:], counted = 0, 0
            if look is not None and run.spent_s - looked > 60.0 * plan.validate_minutes:
                looked = run.spent_s
                _write(log, {"step": run.step, "minutes": round(run.spent_s / 60, 2), **run.look(look)})
                _plot(out)
            if time.monotonic() - saved > 60.0:
                run.save(checkpoint)
                saved = time.monotonic()
        if look is not None:
            _write(log, {"step": run.step, "minutes": round(run.spent_s / 60, 2), **run.look(look)})
    if show:
        print(file=sys.stderr)  # noqa: T201
    run.save(checkpoint)
    _plot(out)
    return run.best()


def _write(log: Any, entry: dict[str, Any]) -> None:
    log.write(json.dumps(entry) + "\n")
    log.flush()


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UsageError(f"no device {name!r}", hint="auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("PyTorch sees no GPU here", hint="choose the device cpu")
    return torch.device(name)


class _Run:
    """The state of one training run: networks, optimizer, how far it is, and the best so far."""

    def __init__(
        self, plan: Plan, device: torch.device, start: Mapping[str, torch.Tensor] | None, planes: int
    ) -> None:  # fmt: skip
        self.plan, self.device, self.planes = plan, device, planes
        network = CastingNet(planes, widths=plan.widths)
        if start is not None:
            network.load_state_dict(dict(start))
        self.average = CastingNet(planes, widths=plan.widths).to(device)
        self.average.load_state_dict(network.state_dict())
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=plan.learning_rate, weight_decay=1e-3)
        self.step, self.spent_s, self.looks_without_better = 0, 0.0, 0
        self.best_loss = float("inf")
        self.best_state: dict[str, torch.Tensor] | None = None
        # A network that goes on from another one must not be dragged back to where it started.
        self._warm = start is not None

    @property
    def stopped(self) -> bool:
        return self.looks_without_better >= self.plan.patience

    def learn(self, rate: float, batch: tuple[Any, Any]) -> Any:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        views = torch.from_numpy(batch[0]).to(self.device).contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(batch[1]).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            defect, types = self.network(views)
        loss, parts = _loss(defect.float(), types.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimizer.step()
        keep = self.plan.ema if self._warm else min(self.plan.ema, (self.step + 1) / (self.step + 10))
        _follow(self.average, self.network, keep)
        self.step += 1
        return parts.cpu().numpy()

    def look(self, look: Look) -> dict[str, Any]:
        figures = look(self.average)
        loss = figures["validation"]["loss"]
        self.looks_without_better += 1
        if loss < self.best_loss:
            self.best_loss, self.looks_without_better = loss, 0
            self.best_state = {name: value.cpu().clone() for name, value in self.average.state_dict().items()}
        return figures

    def best(self) -> CastingNet:
        return like(self.best_state or {k: v.cpu() for k, v in self.average.state_dict().items()}).eval()

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location=self.device)
        if state["plan"] != _identity(self.plan):
            raise UsageError(f"{path} belongs to another training plan", hint="choose an empty folder")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent_s = state["step"], state["spent_s"]
        self.best_loss, self.best_state = state["best_loss"], state["best"]
        self.looks_without_better = state["looks_without_better"]

    def save(self, path: Path) -> None:
        state = {
            "plan": _identity(self.plan), "network": self.network.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step, "spent_s": self.spent_s,
            "best_loss": self.best_loss, "best": self.best_state, "looks_without_better": self.looks_without_better,
        }  # fmt: skip
        temporary = path.with_suffix(".part")
        torch.save(state, temporary)
        os.replace(temporary, path)


@torch.no_grad()
def validate(network: CastingNet, pool: Pool) -> dict[str, Any]:
    """A ``Look`` at a pool: losses, overlap of defect or not, share of defect pixels with the right type."""
    device = next(network.parameters()).device
    training, total, both, either, right, defects = network.training, np.zeros(3), 0, 0, 0, 0
    network.eval()
    side = pool.grey.shape[1] // MULTIPLE_OF_PX * MULTIPLE_OF_PX
    for grey, local, plane in zip(pool.grey, pool.local, pool.labels, strict=True):
        views = np.stack([grey[:side, :side] * np.float32(1.0 / 255.0), local[:side, :side].astype(np.float32)])
        labels = torch.from_numpy(plane[None, :side, :side].copy()).to(device)
        defect, types = network(torch.from_numpy(views[None]).to(device))
        total += _loss(defect, types, labels)[1].cpu().numpy()
        true = (labels > 0) & (labels != IGNORED)
        given = (defect[:, 0] > 0) & (labels != IGNORED)
        both += int((true & given).sum())
        either += int((true | given).sum())
        named = types.argmax(1).repeat_interleave(TYPE_STRIDE_PX, 1).repeat_interleave(TYPE_STRIDE_PX, 2) + 1
        right += int((named == labels)[true].sum())
        defects += int(true.sum())
    network.train(training)
    entropy, dice, kind = (total / len(pool.grey)).tolist()
    return {
        "validation": {
            "loss": round(10.0 * entropy + 0.5 * dice + 0.5 * kind, 5), "entropy": round(entropy, 6),
            "dice": round(dice, 5), "type": round(kind, 5), "iou": round(both / max(either, 1), 4),
            "type_right": round(right / max(defects, 1), 4),
        }
    }  # fmt: skip


def _rate(plan: Plan, done: float) -> float:
    """Warm-up over the first twentieth of the run, then half a cosine to a hundredth."""
    cosine = 0.01 + 0.99 * 0.5 * (1.0 + float(np.cos(np.pi * done)))
    return plan.learning_rate * min(1.0, 0.1 + done / 0.05) * cosine


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Exponential moving average of weights and batch statistics."""
    current = network.state_dict()
    for name, value in average.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(current[name], 1.0 - keep)
        else:
            value.copy_(current[name])


def _identity(plan: Plan) -> dict[str, Any]:
    """What must not change between a checkpoint and the run that goes on from it."""
    free = ("threads", "workers", "minutes", "steps", "device", "validate_minutes", "patience")
    kept = {key: value for key, value in asdict(plan).items() if key not in free}
    return {**kept, "widths": list(plan.widths)}


def load_network(out: Path) -> CastingNet:
    """The best averaged network of a checkpoint folder, ready to answer. Raises UsageError if there is none."""
    checkpoint = out / _CHECKPOINT
    if not checkpoint.exists():
        raise UsageError(f"no checkpoint in {out}", hint="run `edge-daemon train fit` first")
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    return like(state["best"] or state["average"]).eval()


def _plot(out: Path) -> None:
    """training.png: the losses against minutes. Left out where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    entries = [json.loads(line) for line in (out / _LOG).read_text(encoding="utf-8").splitlines()]
    steps = [entry for entry in entries if "entropy_dice_type" in entry]
    looks = [entry for entry in entries if "validation" in entry]
    figure = Figure(figsize=(9, 6), layout="constrained")
    for place, name in enumerate(("entropy", "dice", "type")):
        axis = figure.add_subplot(2, 2, place + 1)
        axis.plot(
            [e["minutes"] for e in steps], [e["entropy_dice_type"][place] for e in steps], lw=0.7, label="training"
        )
        axis.plot([e["minutes"] for e in looks], [e["validation"][name] for e in looks], "o-", label="never trained on")
        axis.set(title=f"loss: {name}", xlabel="minutes", yscale="log")
        axis.legend()
    axis = figure.add_subplot(2, 2, 4)
    for name in ("iou", "type_right"):
        axis.plot([e["minutes"] for e in looks], [e["validation"][name] for e in looks], "o-", label=name)
    axis.set(title="never trained on", xlabel="minutes", ylim=(0, 1))
    axis.legend()
    figure.savefig(out / _PLOT, dpi=100)
