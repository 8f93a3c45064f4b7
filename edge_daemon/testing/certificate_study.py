"""Do the certificate's promises hold? Repeated calibrations on simulated lines whose truth is known in closed form.

    python -m edge_daemon.testing.certificate_study [--quick]

Four studies, each with a fixed seed, each figure with n and its own exact 95 % interval:

pod     Flaws of log-uniform size, 0.2 to 2.5 mm, hit with logit POD = b0 + b1 ln a, a50 = 0.6 mm and a90 = 1.2 mm: how
        often does the 95 % bound lie at or above the true a90?
recall  A line whose defective parts have a hardest indication with peak logit 6.5 + 1.35 T, T of Student's t with five
        degrees of freedom: heavy towards the invisible. A part is missed at seed threshold t when its peak lies below
        t, so the true miss rate is the distribution function. Calibrated on 1,549 parts by fixed-sequence testing from
        the most sensitive threshold up; violated when the threshold chosen has a true recall below what was promised.
pixels  The share of an indication's pixels that is missed: Beta distributed, its mean growing along the chain of
        thresholds, each part at the same quantile throughout. Learn-then-Test with the betting and the
        Hoeffding-Bentkus p-value at 5 %.
drift   A conformal martingale over exchangeable frames (false alarms), and over frames after a gain of 10 %.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..segment.drift import DriftReference, DriftState
from ..train.statistics import (
    certified_index,
    clopper_pearson,
    covers_a90,
    fit_hit_miss,
    fixed_sequence,
    lower_bound,
)

__all__ = ["Row", "drift_alarms", "pixel_violations", "pod_coverage", "recall_violations"]

_A50_MM, _A90_MM = 0.6, 1.2
_SIZES_MM = (0.2, 2.5)
_BATCH = 400
_CENTRE, _SPREAD = 6.5, 1.35


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: k of n, in per cent, with the interval of the proportion, and what was asked."""

    what: str
    k: int
    n: int
    asked: str
    good: bool
    note: str = ""

    @property
    def text(self) -> str:
        """As a row of a Markdown table."""
        low, high = clopper_pearson(self.k, self.n)
        cells = (self.what, str(self.n), f"{100 * self.k / self.n:.2f} %", f"{100 * low:.2f} to {100 * high:.2f} %",
                 self.asked, "yes" if self.good else "NO", self.note)  # fmt: skip
        return "| " + " | ".join(cells) + " |"


def pod_coverage(flaws: int, runs: int, *, firth: bool = True, seed: int = 1) -> tuple[int, int, int, int]:
    """(bounds at or above the true a90, data sets with a curve, the same two among bounds that may be stated).

    Out of ``runs`` data sets of ``flaws`` flaws. One without a curve (all hit, slope not positive, not converged) makes
    no promise. A bound above the largest flaw tried is not stated either (``Pod.bound_reason``).
    """
    slope = math.log(9.0) / math.log(_A90_MM / _A50_MM)
    counts = np.zeros(4, int)
    rng = np.random.default_rng([seed, flaws, firth])
    for start in range(0, runs, _BATCH):
        shape = (min(_BATCH, runs - start), flaws)
        x = rng.uniform(math.log(_SIZES_MM[0]), math.log(_SIZES_MM[1]), shape)
        y = (rng.random(shape) < 1.0 / (1.0 + np.exp(-slope * (x - math.log(_A50_MM))))).astype(np.float64)
        fit = fit_hit_miss(x, y, firth=firth)
        good = fit.converged & (fit.b1 > 0.0) & (y.min(axis=1) < y.max(axis=1))
        covered = covers_a90(_A90_MM, x, y, fit, firth=firth) & good
        stated = good & ~covers_a90(np.exp(x.max(axis=1)), x, y, fit, firth=firth)
        counts += [covered.sum(), good.sum(), (covered & stated).sum(), stated.sum()]
    covered_all, usable, covered_stated, stated_all = counts.tolist()
    return covered_all, usable, covered_stated, stated_all


def _t5_at_most(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distribution function of Student's t with five degrees of freedom, in closed form."""
    angle = np.arctan(t / math.sqrt(5.0))
    inner = angle + np.sin(angle) * (np.cos(angle) + (2.0 / 3.0) * np.cos(angle) ** 3)
    return np.asarray(0.5 + inner / math.pi)


def true_miss_rate(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the simulated line: share of defective parts whose hardest indication peaks below ``logit``."""
    return _t5_at_most((logit - _CENTRE) / _SPREAD)


def recall_violations(
    runs: int, *, parts: int = 1549, recall: float = 0.995, confidence: float = 0.95, seed: int = 2
) -> tuple[int, int]:
    """(calibrations whose chosen threshold has a true recall below ``recall``, calibrations that promised at all)."""
    rng = np.random.default_rng([seed, parts])
    grid = np.linspace(-6.0, 6.0, 121)
    truth = true_miss_rate(grid)
    # With this many misses or more, nothing is promised; the bound of a count is always the same.
    most = max((k for k in range(parts) if lower_bound(parts - k, parts, confidence) >= recall), default=-1)
    violated = promised = 0
    for _ in range(runs):
        peaks = _CENTRE + _SPREAD * rng.standard_t(5, parts)
        misses = np.searchsorted(np.sort(peaks), grid, side="left")
        chosen = fixed_sequence(np.where(misses <= most, 0.0, 1.0).tolist(), 1.0 - confidence)
        promised += chosen >= 0
        violated += chosen >= 0 and bool(truth[chosen] > 1.0 - recall)
    return violated, promised


def pixel_violations(
    runs: int, *, parts: int = 840, alpha: float = 0.05, delta: float = 0.05, method: str = "wsr", seed: int = 3
) -> tuple[int, float]:
    """(calibrations whose chosen point has a true mean miss rate above alpha, mean true rate at the chosen points).

    Losses of a part are Beta(m s, (1 - m) s), s = 3, with m from 0.2 % to 20 % along 60 points: parts of very different
    difficulty, the same part hard at every threshold.
    """
    rng = np.random.default_rng([seed, parts])
    means = np.geomspace(0.002, 0.2, 60)
    rank = np.linspace(0.0005, 0.9995, 1000)
    quantiles = np.stack([np.quantile(rng.beta(3.0 * m, 3.0 * (1.0 - m), 200_000), rank) for m in means], axis=1)
    truth = quantiles.mean(axis=0)  # of the line as simulated: one of the thousand quantiles, each as likely
    violated, rates = 0, []
    for _ in range(runs):
        losses = quantiles[rng.integers(0, len(rank), parts)]
        chosen = certified_index(losses, alpha, delta, method=method)
        if chosen >= 0:
            violated += bool(truth[chosen] > alpha)
            rates.append(float(truth[chosen]))
    return violated, float(np.mean(rates)) if rates else math.nan


def drift_alarms(
    runs: int, frames: int, *, gain: float = 1.0, calibration: int = 600, seed: int = 4
) -> tuple[int, list[int]]:
    """(runs that raised the alarm, frames it took in each of those) on a line whose frames have four statistics.

    Level 0.55 with 3 % from part to part, contrast 0.30 with 5 %, noise 0.006 with 6 %, detail 0.02 with 8 %; contrast
    and detail follow the level. ``gain`` multiplies level, contrast, noise and detail alike from the first frame on.
    """
    rng = np.random.default_rng([seed, frames, round(1000 * gain)])

    def draw(n: int, factor: float) -> NDArray[np.float64]:
        common = rng.normal(size=n)
        spread, typical = np.array([0.03, 0.05, 0.06, 0.08]), np.array([0.55, 0.30, 0.006, 0.02])
        own = rng.normal(size=(n, 4)) * np.array([0.0, 0.8, 1.0, 0.8])
        shared = np.array([1.0, 0.6, 0.0, 0.6])
        return np.asarray(factor * typical * (1.0 + spread * (own + common[:, None] * shared)))

    alarms, took = 0, []
    for run in range(runs):
        reference = DriftReference.learn(("level", "contrast", "noise", "detail"), draw(calibration, 1.0))
        state = DriftState(reference, seed=run)
        for number, frame in enumerate(draw(frames, gain), start=1):
            state.update(frame)
            if state.alarmed:
                alarms += 1
                took.append(number)
                break
    return alarms, took


def _rows(quick: bool) -> Iterator[Row]:
    runs = 400 if quick else 4000
    for firth in (True, False):
        name = "Firth" if firth else "maximum likelihood, for comparison"
        for flaws in (60, 120, 300):
            covered, usable, kept, stated = pod_coverage(flaws, runs, firth=firth)
            share = covered / usable
            yield Row(f"a90/95 at or above the true a90, {flaws} flaws, {name}", covered, usable,
                      "93 to 98 %" if firth else "-", not firth or 0.93 <= share <= 0.98,
                      f"{runs - stated} of {runs} not stated; of those stated {100 * kept / stated:.1f} %")  # fmt: skip
    for repeats in (200, 400 if quick else 5000):
        violated, promised = recall_violations(repeats)
        yield Row(f"recall 99.5 % at 95 % broken, {repeats} calibrations of 1,549 parts", violated, repeats, "<= 5 %",
                  violated <= 0.05 * repeats, f"{promised} promised")  # fmt: skip
    for method in ("wsr", "hb"):
        for repeats in (200, 400 if quick else 2000):
            violated, rate = pixel_violations(repeats, method=method)
            yield Row(f"pixel miss rate 5 % at 95 % broken, {method}, {repeats} calibrations of 840 parts", violated,
                      repeats, "<= 5 %", violated <= 0.05 * repeats, f"mean true rate {100 * rate:.2f} %")  # fmt: skip
    for total, frames in ((20, 2_000),) if quick else ((400, 2_500), (10, 100_000)):
        alarms, _ = drift_alarms(total, frames)
        low, _ = clopper_pearson(alarms, total)
        yield Row(f"false drift alarms in runs of {frames:,} frames", alarms, total, "<= 0.1 %", low <= 0.001)
    total = 20 if quick else 200
    alarms, took = drift_alarms(total, 500, gain=1.1)
    yield Row("gain + 10 % found within 500 frames", alarms, total, "all", alarms == total,
              f"median after {np.median(took):.0f}, latest {max(took)}" if took else "")  # fmt: skip


def main() -> int:
    """Print the table as Markdown; 1 where a figure is not what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    args = parser.parse_args()
    say = sys.stdout.write
    say(f"On {platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}.\n\n")
    say("| what | n | share | 95 % interval | asked | | |\n|---|---|---|---|---|---|---|\n")
    good = True
    for row in _rows(args.quick):
        say(row.text + "\n")
        sys.stdout.flush()
        good &= row.good
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
