"""Training on the CPU: minutes, not days. Resumable, seeded, and with nothing but the checkpoint as its memory."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as fn
from torch import nn

from ..errors import UsageError
from ..simulator import CASTING_TYPES
from .network import CastingNet
from .pictures import IGNORED, TUNING_SEEDS_FROM, Pool, make_pool, sample_batch

__all__ = ["Plan", "fit_network", "load_network"]

_CHECKPOINT = "checkpoint.pt"
_LOG = "training.jsonl"


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train. minutes: stop after that much training, whatever the steps; the learning rate follows whichever of
    the two is further along. seeds: of the pictures, first and number. threads: of torch."""

    seed: int = 0
    minutes: float = 18.0
    steps: int = 20000
    pictures: int = 2400
    batch: int = 12
    crop_px: int = 144
    learning_rate: float = 3e-3
    ema: float = 0.998
    bfloat16: bool = False
    threads: int = 1
    workers: int = 1


def _loss(defect: torch.Tensor, types: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy on defect or not stays dominant: soft Dice alone biases area. Types count on defect pixels only."""
    target = ((labels > 0) & (labels != IGNORED)).float()
    counted = (labels != IGNORED).float()
    logits = defect[:, 0]
    weight = counted * (1.0 + target)
    entropy = (fn.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum() / counted.sum()
    share = torch.sigmoid(logits) * counted
    overlap = 2.0 * (share * target).sum((1, 2)) + 20.0
    dice = 1.0 - (overlap / ((share + target).sum((1, 2)) + 20.0)).mean()
    kind = torch.where(target > 0, labels.long() - 1, torch.full_like(labels, -1, dtype=torch.long))
    # Without a defect pixel in the batch the mean would be 0 / 0.
    type_loss = fn.cross_entropy(types, kind, ignore_index=-1, reduction="sum") / target.sum().clamp(min=1.0)
    return 10.0 * entropy + 0.5 * dice + 0.5 * type_loss, torch.stack([entropy, dice, type_loss]).detach()


def fit_network(out: Path, plan: Plan, pool: Pool | None = None) -> CastingNet:
    """Train, or go on where ``out/checkpoint.pt`` stopped, and return the averaged network.

    Writes checkpoint.pt (every minute, replaced atomically) and training.jsonl into ``out``. Raises UsageError for a
    checkpoint of another plan.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    network = CastingNet(len(CASTING_TYPES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = CastingNet(len(CASTING_TYPES))
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=1e-3)
    step, spent_s = 0, 0.0
    checkpoint = out / _CHECKPOINT
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["plan"] != _identity(plan):
            raise UsageError(f"{checkpoint} belongs to another training plan", hint="choose an empty folder")
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent_s = state["step"], state["spent_s"]
    if pool is None:
        first = plan.seed * plan.pictures
        if first + plan.pictures > TUNING_SEEDS_FROM:
            raise UsageError("these training pictures would reach into the seeds kept for tuning", hint="smaller seed")
        pool = make_pool(range(first, first + plan.pictures), workers=plan.workers)
    started, saved = time.monotonic() - spent_s, time.monotonic()
    network.train()
    recent = np.zeros(3)
    with (out / _LOG).open("a", encoding="utf-8") as log:
        while True:
            spent_s = time.monotonic() - started
            done = max(step / plan.steps, spent_s / (60.0 * plan.minutes))
            if done >= 1.0:
                break
            # Seeded by the step, so that a resumed run draws what the uninterrupted one would have drawn.
            rng = np.random.default_rng([plan.seed, step])
            batch = sample_batch(rng, pool, plan.batch, plan.crop_px)
            recent += _train_step(network, optimizer, _rate(plan, done), batch, plan)
            _follow(average, network, min(plan.ema, (step + 1) / (step + 10)))
            step += 1
            if step % 100 == 0:
                means = (recent / 100).round(5).tolist()
                entry = {"step": step, "minutes": round(spent_s / 60, 2), "entropy_dice_type": means}
                log.write(json.dumps(entry) + "\n")
                log.flush()
                recent[:] = 0
            if time.monotonic() - saved > 60.0:
                _save(checkpoint, plan, network, average, optimizer, step, spent_s)
                saved = time.monotonic()
    _save(checkpoint, plan, network, average, optimizer, step, spent_s)
    return average.eval()


def _rate(plan: Plan, done: float) -> float:
    """Warm-up over the first twentieth of the run, then half a cosine to a hundredth."""
    cosine = 0.01 + 0.99 * 0.5 * (1.0 + float(np.cos(np.pi * done)))
    return plan.learning_rate * min(1.0, 0.1 + done / 0.05) * cosine


def _train_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, rate: float, batch: tuple[Any, Any], plan: Plan
) -> Any:
    for group in optimizer.param_groups:
        group["lr"] = rate
    views = torch.from_numpy(batch[0]).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(batch[1])
    with torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
        defect, types = network(views)
    loss, parts = _loss(defect.float(), types.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 2.0)
    optimizer.step()
    return parts.numpy()


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
    return {key: value for key, value in asdict(plan).items() if key not in ("threads", "workers", "minutes", "steps")}


def _save(
    path: Path, plan: Plan, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int,
    spent_s: float,
) -> None:  # fmt: skip
    state = {
        "plan": _identity(plan), "network": network.state_dict(), "average": average.state_dict(),
        "optimizer": optimizer.state_dict(), "step": step, "spent_s": spent_s,
    }  # fmt: skip
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_network(out: Path) -> CastingNet:
    """The averaged network of a checkpoint folder, ready to answer. Raises UsageError if there is none."""
    checkpoint = out / _CHECKPOINT
    if not checkpoint.exists():
        raise UsageError(f"no checkpoint in {out}", hint="run `edge-daemon train fit` first")
    network = CastingNet(len(CASTING_TYPES))
    network.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    return network.eval()
