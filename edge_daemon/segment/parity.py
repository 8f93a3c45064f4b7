"""The parity gate: may this engine stand in for the one the bundle was qualified with?

Both see the same pictures through the same pre- and post-processing. Compared is what verdicts are made of: labels,
coverage, the number of regions and the number of unknowns, the last two picture by picture. It shows that two engines
agree on these pictures; it says nothing about whether either is right, which is the certificate's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..records import Segmentation
from .bundle import Bundle
from .protocol import Engine
from .see import see

__all__ = ["ParityLimits", "ParityReport", "compare_engines", "synthetic_probes"]


@dataclass(frozen=True, slots=True)
class ParityLimits:
    """What two engines may differ by. The number of regions and of unknowns may not differ at all.

    max_coverage_diff: largest difference of any pixel's coverage. min_iou: intersection over union of each label,
    pooled over the pictures. max_disagreeing_pct: pixels with another label, of all pixels.
    """

    max_coverage_diff: float = 0.02
    min_iou: float = 0.98
    max_disagreeing_pct: float = 0.05


@dataclass(frozen=True, slots=True)
class ParityReport:
    """What the gate found. reasons: why it did not pass, a sentence each; empty if and only if ``passed``.

    regions, unknowns: of the reference, over all pictures. min_iou: 1.0 where neither engine marked anything.
    """

    passed: bool
    reasons: tuple[str, ...]
    reference: str
    candidate: str
    bundle_sha256: str
    pictures: int
    regions: int
    unknowns: int
    max_coverage_diff: float
    min_iou: float
    disagreeing_pct: float
    limits: ParityLimits

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, for the plan's sidecar."""
        return {**asdict(self), "reasons": list(self.reasons)}


def compare_engines(
    reference: Engine,
    candidate: Engine,
    pictures: Mapping[str, NDArray[Any]],
    limits: ParityLimits,
) -> ParityReport:
    """Hold ``candidate`` against ``reference`` on frames (name -> pixels).

    A candidate that answers nonsense (EngineError) on any picture has not passed; an error of the reference is raised.
    Pictures in which the reference sees no region at all prove nothing, so at least one region is needed in total.
    """
    if reference.bundle.sha256 != candidate.bundle.sha256:
        raise EngineError("the two engines run different bundles", hint="compare engines of one bundle")
    tally = _Tally()
    for name, pixels in pictures.items():
        want = see(reference, pixels)
        try:
            got = see(candidate, pixels)
        except EngineError as error:
            tally.reasons.append(f"{name}: {candidate.backend} failed: {error.message}")
            continue
        tally.add(name, want, got)
    return tally.report(reference, candidate, len(pictures), limits)


class _Tally:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.regions = self.unknowns = self.pixels = self.disagreeing = 0
        self.max_coverage_diff = 0.0
        self.both = np.zeros(256, np.int64)
        self.either = np.zeros(256, np.int64)

    def add(self, name: str, want: Segmentation, got: Segmentation) -> None:
        unknown = [sum(not region.known for region in seen.regions) for seen in (want, got)]
        self.regions += len(want.regions)
        self.unknowns += unknown[0]
        if len(want.regions) != len(got.regions):
            self.reasons.append(f"{name}: {len(got.regions)} regions instead of {len(want.regions)}")
        if unknown[0] != unknown[1]:
            self.reasons.append(f"{name}: {unknown[1]} unknown regions instead of {unknown[0]}")
        if want.coverage is not None and got.coverage is not None:
            self.max_coverage_diff = max(self.max_coverage_diff, float(np.abs(want.coverage - got.coverage).max()))
        same = want.labels == got.labels
        self.pixels += same.size
        self.disagreeing += same.size - int(np.count_nonzero(same))
        in_both = np.bincount(want.labels[same], minlength=256)
        self.both += in_both
        self.either += np.bincount(want.labels.ravel(), minlength=256) + np.bincount(got.labels.ravel(), minlength=256)
        self.either -= in_both

    def report(self, reference: Engine, candidate: Engine, pictures: int, limits: ParityLimits) -> ParityReport:
        reasons = list(self.reasons)
        marked = np.flatnonzero(self.either[1:]) + 1
        iou = {int(label): float(self.both[label] / self.either[label]) for label in marked}
        disagreeing_pct = 100.0 * self.disagreeing / max(self.pixels, 1)
        if not self.regions:
            reasons.append(f"{reference.backend} saw no region in {pictures} pictures; give frames with defects")
        if self.max_coverage_diff > limits.max_coverage_diff:
            reasons.append(f"coverage differs by {self.max_coverage_diff:.4f}, more than {limits.max_coverage_diff}")
        reasons += [
            f"label {label}: intersection over union {value:.4f}, less than {limits.min_iou}"
            for label, value in iou.items()
            if value < limits.min_iou
        ]
        if disagreeing_pct > limits.max_disagreeing_pct:
            reasons.append(f"{disagreeing_pct:.4f} % of the pixels differ, more than {limits.max_disagreeing_pct} %")
        return ParityReport(
            passed=not reasons,
            reasons=tuple(reasons),
            reference=reference.backend,
            candidate=candidate.backend,
            bundle_sha256=candidate.bundle.sha256,
            pictures=pictures,
            regions=self.regions,
            unknowns=self.unknowns,
            max_coverage_diff=self.max_coverage_diff,
            min_iou=min(iou.values(), default=1.0),
            disagreeing_pct=disagreeing_pct,
            limits=limits,
        )


def synthetic_probes(bundle: Bundle, sizes_px: Sequence[tuple[int, int]] = ()) -> dict[str, NDArray[Any]]:
    """Deterministic frames (name -> pixels) with soft spots, streaks and steps of both signs over a shaded ground.

    sizes_px: (height, width) of each; by default one tile, one that needs tiling on one axis, and the smallest the
    engine takes. Bit depths alternate over those the bundle was qualified for.
    """
    spec = bundle.input
    small = spec.smallest_px
    if not sizes_px:
        sizes_px = (
            (spec.tile_px, spec.tile_px),
            (max(small, spec.tile_px // 2 + 5), spec.tile_px * 5 // 4),
            (small, small),
        )
    probes: dict[str, NDArray[Any]] = {}
    for number, (height, width) in enumerate(sizes_px):
        bits = bundle.qualified.bits[number % len(bundle.qualified.bits)]
        grey = _probe(max(height, small), max(width, small), np.random.default_rng(1000 + number))
        full_range = 2**bits - 1
        frame = np.rint(grey * full_range).astype(np.uint8 if bits == 8 else np.uint16)
        probes[f"probe-{number}-{width}x{height}-{bits}bit"] = frame
    return probes


def _probe(height: int, width: int, random: np.random.Generator) -> NDArray[np.float32]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    grey = 0.35 + 0.15 * x / width + 0.1 * np.sin(y * (6.0 / height))
    grey[:, width * 3 // 5 : width * 4 // 5] -= 0.12  # a rib
    for _ in range(6 + height * width // 8000):
        cx, cy = random.uniform(0, width), random.uniform(0, height)
        long_px, angle = random.uniform(1.0, 9.0), random.uniform(0, np.pi)
        short_px = long_px * random.uniform(0.2, 1.0) + 0.5
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        spot = np.exp(-0.5 * ((u / long_px) ** 2 + (v / short_px) ** 2) ** 2)
        grey += random.choice([-0.3, -0.15, 0.1, 0.2, 0.35, 0.5]) * spot
    noise = cv2.GaussianBlur(random.normal(0.0, 0.02, grey.shape).astype(np.float32), (0, 0), 0.7)
    probe: NDArray[np.float32] = np.clip(grey + noise, 0.004, 0.996).astype(np.float32)
    return probe
