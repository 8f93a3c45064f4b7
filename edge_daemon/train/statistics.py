"""What may be promised from a count: exact bounds, tests that control a risk, and probability of detection.

NumPy and the standard library only. Everything here counts *independent* draws: parts, never tiles or rotations of one
part. Quantiles of the normal come from ``statistics.NormalDist`` (Wichura's AS 241, 16 digits); chi-square with one
degree of freedom is its square; binomial and Poisson tails are summed term by term and inverted by bisection, so there
is no approximation to be good or bad at small counts.

Sources: Clopper & Pearson, Biometrika 26 (1934) 404; Garwood, Biometrika 28 (1936) 437; Angelopoulos et al., Learn then
Test, arXiv 2110.01052; Waudby-Smith & Ramdas, JRSS B 86 (2024) 1 (betting); Bates et al., arXiv 2101.02703 (RCPS);
Firth, Biometrika 80 (1993) 27; ASTM E2862 and MIL-HDBK-1823A (hit/miss probability of detection).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LR_CRITICAL", "Pod", "PodFit", "certified_index", "clopper_pearson", "covers_a90", "fit_hit_miss",
    "fixed_sequence", "hoeffding_bentkus_p", "lower_bound", "normal_quantile", "parts_needed", "poisson_interval",
    "probability_of_detection", "upper_bound", "wsr_p",
]  # fmt: skip

_BISECTIONS = 60


# ---------------------------------------------------------------- quantiles and tails


def normal_quantile(p: float) -> float:
    """z with P(Z <= z) = p, 0 < p < 1."""
    return NormalDist().inv_cdf(p)


def chi2_1_quantile(p: float) -> float:
    """Quantile of chi-square with one degree of freedom: the square of a normal one."""
    return normal_quantile((1.0 + p) / 2.0) ** 2


#: 2 ln(likelihood ratio) below which a value of a90 lies inside a one-sided 95 % bound: chi2(1, 0.90) = 2.706.
LR_CRITICAL = chi2_1_quantile(0.90)


@lru_cache(maxsize=64)
def _log_binomials(n: int) -> NDArray[np.float64]:
    """ln of "n over i" for i = 0 .. n."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))])
    return np.asarray(logs[-1] - logs - logs[::-1])


def _sum_of_exp(logs: NDArray[np.float64]) -> float:
    top = float(logs.max())
    return min(1.0, math.exp(top) * float(np.exp(logs - top).sum()))


def binomial_at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) of Binomial(n, p)."""
    if k < 0:
        return 0.0
    if k >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    i = np.arange(k + 1, dtype=np.float64)
    return _sum_of_exp(_log_binomials(n)[: k + 1] + i * math.log(p) + (n - i) * math.log1p(-p))


def _poisson_at_most(k: int, mean: float) -> float:
    if k < 0:
        return 0.0
    if mean <= 0.0:
        return 1.0
    i = np.arange(k + 1, dtype=np.float64)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, k + 1, dtype=np.float64)))])
    return _sum_of_exp(i * math.log(mean) - log_factorials - mean)


# ---------------------------------------------------------------- bounds of proportions and counts


def _check_count(k: int, n: int, confidence: float) -> None:
    if n < 0 or not 0 <= k <= max(n, 0):
        raise ValueError(f"{k} of {n} is no count")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")


def upper_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper bound of a proportion, k of n seen; 1 without trials.

    The p with P(Binomial(n, p) <= k) = 1 - confidence, which is the beta quantile at (k + 1, n - k). It covers the true
    proportion with at least this confidence, whatever it is, if the n draws are independent.
    """
    _check_count(k, n, confidence)
    if k == n:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if binomial_at_most(k, n, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def lower_bound(k: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson lower bound of a proportion; 0 without trials. As ``upper_bound``."""
    _check_count(k, n, confidence)
    return 0.0 if n == 0 else 1.0 - upper_bound(n - k, n, confidence)


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a proportion (Clopper & Pearson, Biometrika 26 (1934) 404); (0, 1) without trials."""
    each_side = (1.0 + confidence) / 2.0
    return lower_bound(successes, trials, each_side), upper_bound(successes, trials, each_side)


def parts_needed(recall: float, misses: int, confidence: float = 0.95) -> int:
    """Fewest independent defective parts that promise ``recall`` when ``misses`` of them were missed."""
    if not (0.0 < recall < 1.0 and misses >= 0 and 0.0 < confidence < 1.0):
        raise ValueError(f"recall {recall}, {misses} misses, confidence {confidence}")
    low = misses
    high = misses + 1
    while binomial_at_most(misses, high, 1.0 - recall) > 1.0 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_at_most(misses, middle, 1.0 - recall) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def poisson_interval(count: int, exposure: float, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a rate: ``count`` events in ``exposure`` pictures (Garwood 1936); per picture.

    Exact where events come independently of each other. Several on one picture and none on the next make it too narrow;
    the caller looks at the ratio of variance to mean.
    """
    if count < 0 or exposure <= 0.0 or not 0.0 < confidence < 1.0:
        raise ValueError(f"{count} events in {exposure} pictures at confidence {confidence}")
    tail = (1.0 - confidence) / 2.0
    most = count + 12.0 * math.sqrt(count + 1.0) + 40.0

    def solve(k: int, level: float) -> float:
        low, high = 0.0, most
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2.0
            if _poisson_at_most(k, middle) > level:
                low = middle
            else:
                high = middle
        return (low + high) / 2.0

    lower = 0.0 if count == 0 else solve(count - 1, 1.0 - tail)
    return lower / exposure, solve(count, tail) / exposure


# ---------------------------------------------------------------- Learn then Test


def hoeffding_bentkus_p(risk: float, n: int, alpha: float) -> float:
    """p-value of "the true risk is above alpha" from the mean ``risk`` of n independent losses in [0, 1]:
    min(exp(-n h1(min(risk, alpha), alpha)), e P(Bin(n, alpha) <= ceil(n risk))) (Learn then Test, proposition 3)."""
    low = min(risk, alpha)
    divergence = (1.0 - low) * math.log((1.0 - low) / (1.0 - alpha))
    if low > 0.0:
        divergence += low * math.log(low / alpha)
    bentkus = math.e * binomial_at_most(math.ceil(n * risk - 1e-12), n, alpha)
    return min(1.0, math.exp(-n * divergence), bentkus)


def wsr_p(losses: NDArray[Any], alpha: float, delta: float) -> NDArray[np.float64]:
    """p-values of "the true risk is above alpha" by betting, one per column of ``losses``, float (n, T) in [0, 1].

    1 / max_t prod_{i <= t} (1 + nu_i (alpha - L_i)) with nu_i = min(1, sqrt(2 ln(1/delta) / (n sigma2_{i-1}))), where
    mu_i = (1/2 + sum L) / (i + 1) and sigma2_i = (1/4 + sum (L - mu)^2) / (i + 1) look at the past only. Valid for
    independent rows; the order of the rows must not depend on their losses. Uses variance: about half of what
    Hoeffding-Bentkus wastes comes back.
    """
    loss = np.asarray(losses, np.float64)
    if loss.ndim != 2 or len(loss) == 0 or loss.min() < 0.0 or loss.max() > 1.0:
        raise ValueError("losses must be (n, T) in [0, 1], n > 0")
    n = len(loss)
    number = np.arange(1, n + 1, dtype=np.float64)[:, None]
    mean = (0.5 + np.cumsum(loss, axis=0)) / (number + 1.0)
    variance = (0.25 + np.cumsum((loss - mean) ** 2, axis=0)) / (number + 1.0)
    before = np.vstack([np.full((1, loss.shape[1]), 0.25), variance[:-1]])
    bet = np.minimum(1.0, np.sqrt(2.0 * math.log(1.0 / delta) / (n * before)))
    capital = np.cumsum(np.log1p(bet * (alpha - loss)), axis=0)
    return np.asarray(np.exp(-np.maximum(capital.max(axis=0), 0.0)))


def fixed_sequence(p_values: Sequence[float], delta: float) -> int:
    """Index of the last hypothesis that is rejected, going on only while p <= delta; -1 when the first one fails.

    In an order fixed beforehand the chance of one false rejection or more is at most delta, however many there are.
    """
    last = -1
    for index, p in enumerate(p_values):
        if not p <= delta:
            break
        last = index
    return last


def certified_index(losses: NDArray[Any], alpha: float, delta: float, *, method: str = "wsr") -> int:
    """The least conservative column of ``losses``, float (n, T), the most conservative first, whose true risk is at
    most alpha with confidence 1 - delta; -1 when not even the first can be certified. method: ``wsr`` or ``hb``."""
    if method == "wsr":
        return fixed_sequence(wsr_p(losses, alpha, delta).tolist(), delta)
    if method != "hb":
        raise ValueError(f"method {method!r} is neither 'wsr' nor 'hb'")
    risks = np.asarray(losses, np.float64).mean(axis=0)
    return fixed_sequence([hoeffding_bentkus_p(float(risk), len(losses), alpha) for risk in risks], delta)


# ---------------------------------------------------------------- probability of detection, hit or miss

_STEPS = 200
_TOLERANCE = 1e-10
_LOGIT_90 = math.log(9.0)
#: Flaws below which MIL-HDBK-1823A would not call a hit/miss curve one.
FLAWS_ASKED = 60
_LEAST_FLAWS = 20
_LEAST_SPREAD = 1.5  # largest size over smallest


@dataclass(frozen=True, slots=True)
class PodFit:
    """Batches of logit POD = b0 + b1 ln a: arrays (R,). loglik: penalised for Firth. converged: bool (R,)."""

    b0: NDArray[np.float64]
    b1: NDArray[np.float64]
    loglik: NDArray[np.float64]
    converged: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pod:
    """A probability-of-detection curve over size in mm, or why there is none.

    reason: "" where a90 can be stated. a90_95_mm: one-sided 95 % upper bound of a90 by likelihood ratio, None where the
    data do not bound it within their own sizes (``bound_reason`` says why). Covers sampling of independent flaws from
    the same process only; not the choice of flaws, and no size outside smallest_mm to largest_mm.
    """

    method: str
    n: int
    hits: int
    smallest_mm: float | None
    largest_mm: float | None
    b0: float | None = None
    b1: float | None = None
    a50_mm: float | None = None
    a90_mm: float | None = None
    a90_95_mm: float | None = None
    reason: str = ""
    bound_reason: str = ""

    def at(self, size_mm: float) -> float | None:
        """POD at a size in mm; None without a curve."""
        if self.b0 is None or self.b1 is None:
            return None
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, self.b0 + self.b1 * math.log(size_mm)))))


def _likelihood(
    eta: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], firth: bool
) -> NDArray[np.float64]:
    """Log-likelihood along the last axis, plus 1/2 ln|I| for Firth."""
    small = np.exp(-np.abs(eta))
    value = np.asarray((y * eta - np.maximum(eta, 0.0) - np.log1p(small)).sum(axis=-1))
    if firth:
        w = small / (1.0 + small) ** 2  # p (1 - p)
        total, first, second = w.sum(axis=-1), (w * x).sum(axis=-1), (w * x * x).sum(axis=-1)
        value = value + 0.5 * np.log(np.maximum(total * second - first * first, 1e-300))
    return np.asarray(value)


def fit_hit_miss(ln_size: NDArray[Any], hits: NDArray[Any], *, firth: bool = True) -> PodFit:
    """Logistic regression of hits on ln size, for R data sets at once: ln_size, hits (0 or 1) of shape (R, n).

    Fisher scoring with halved steps. firth: score X'(y - p + h (1/2 - p)), h the leverages (Firth 1993), which
    maximises the likelihood times sqrt|I| and stays finite when hits and misses do not overlap; else maximum
    likelihood.
    """
    x_raw, y = np.atleast_2d(np.asarray(ln_size, np.float64)), np.atleast_2d(np.asarray(hits, np.float64))
    middle = x_raw.mean(axis=1, keepdims=True)
    x = x_raw - middle
    share = np.clip(y.mean(axis=1), 0.02, 0.98)
    b = np.stack([np.log(share / (1.0 - share)), np.zeros(len(x))], axis=1)
    value = _likelihood(b[:, :1] + b[:, 1:] * x, x, y, firth)
    converged = np.zeros(len(x), bool)
    for _ in range(_STEPS):
        eta = b[:, :1] + b[:, 1:] * x
        p = 1.0 / (1.0 + np.exp(-np.clip(eta, -700.0, 700.0)))
        w = p * (1.0 - p)
        total, first, second = w.sum(axis=1), (w * x).sum(axis=1), (w * x * x).sum(axis=1)
        det = np.maximum(total * second - first * first, 1e-300)
        residual = y - p
        if firth:
            leverage = w * (second[:, None] - 2.0 * first[:, None] * x + total[:, None] * x * x) / det[:, None]
            residual = residual + leverage * (0.5 - p)
        score0, score1 = residual.sum(axis=1), (residual * x).sum(axis=1)
        step = np.stack([second * score0 - first * score1, total * score1 - first * score0], axis=1) / det[:, None]
        largest = np.abs(step).max(axis=1)
        converged = largest < _TOLERANCE
        if converged.all():
            break
        step *= np.minimum(1.0, 3.0 / np.maximum(largest, 1e-300))[:, None]
        for _ in range(12):
            moved = b + step
            new = _likelihood(moved[:, :1] + moved[:, 1:] * x, x, y, firth)
            worse = new < value - 1e-12 * (1.0 + np.abs(value))
            if not worse.any():
                break
            step[worse] *= 0.5
        b, value = moved, new
    return PodFit(b[:, 0] - b[:, 1] * middle[:, 0], b[:, 1], value, converged)


def _best_through(
    ln_a90: NDArray[np.float64], ln_size: NDArray[np.float64], hits: NDArray[np.float64], firth: bool
) -> NDArray[np.float64]:
    """Largest (penalised) log-likelihood among the curves with POD(a90) = 0.9, for each of (R,) sizes."""
    turned = ln_size - ln_a90[:, None]
    centred = ln_size - ln_size.mean(axis=1, keepdims=True)

    def value(slope: NDArray[np.float64]) -> NDArray[np.float64]:
        return _likelihood(_LOGIT_90 + slope[:, None] * turned, centred, hits, firth)

    grid = np.concatenate([-np.geomspace(60.0, 0.05, 8), [0.0], np.geomspace(0.02, 60.0, 18)])
    values = np.stack([value(np.full(len(turned), slope)) for slope in grid])
    best = np.clip(values.argmax(axis=0), 1, len(grid) - 2)
    low, high = grid[best - 1], grid[best + 1]
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    inner, outer = high - ratio * (high - low), low + ratio * (high - low)
    f_inner, f_outer = value(inner), value(outer)
    for _ in range(30):
        left = f_inner > f_outer
        high, low = np.where(left, outer, high), np.where(left, low, inner)
        inner, outer = high - ratio * (high - low), low + ratio * (high - low)
        f_inner, f_outer = value(inner), value(outer)
    return np.asarray(np.maximum(f_inner, f_outer))


def covers_a90(
    a90_mm: float | NDArray[np.float64], ln_size: NDArray[Any], hits: NDArray[Any], fit: PodFit, *, firth: bool
) -> Any:
    """Whether a one-sided 95 % likelihood-ratio bound would lie at or above ``a90_mm``, one or (R,): bool (R,).

    So a known a90 can be tried against thousands of data sets without solving for any bound.
    """
    x, y = np.atleast_2d(np.asarray(ln_size, np.float64)), np.atleast_2d(np.asarray(hits, np.float64))
    asked = np.broadcast_to(np.log(np.asarray(a90_mm, np.float64)), (len(x),))
    deviance = 2.0 * (fit.loglik - _best_through(asked, x, y, firth))
    with np.errstate(divide="ignore", invalid="ignore"):
        below = (_LOGIT_90 - fit.b0) / fit.b1 >= asked
    return below | (deviance <= LR_CRITICAL)


def _bound(ln_a90: float, x: NDArray[np.float64], y: NDArray[np.float64], loglik: float, firth: bool) -> float | None:
    """ln of the largest size whose deviance is at most LR_CRITICAL, seen on ever finer grids; None if none ends it."""
    low, high = ln_a90, max(ln_a90, float(x.max())) + 3.0
    for _ in range(4):
        grid = np.linspace(low, high, 33)
        tiled = np.broadcast_to(x, (len(grid), len(x)))
        values = _best_through(grid, tiled, np.broadcast_to(y, tiled.shape), firth)
        inside = np.flatnonzero(2.0 * (loglik - values) <= LR_CRITICAL)
        last = int(inside[-1]) if len(inside) else 0
        if last == len(grid) - 1:
            return None
        low, high = float(grid[last]), float(grid[last + 1])
    return high


def probability_of_detection(sizes_mm: Sequence[float], hits: Sequence[bool], *, firth: bool = True) -> Pod:
    """The hit/miss curve of independent flaws, one per specimen, with its requirements checked.

    sizes_mm: positive. firth: recommended below 300 flaws, where maximum likelihood promises too much. Says "not
    estimable" with the reason where any of these fails: at least 20 flaws; hits and misses; sizes that spread by half
    or more; convergence; POD that grows with size; a90 inside the sizes that were tried.
    """
    size, hit = np.asarray(sizes_mm, np.float64), np.asarray(hits, bool)
    if size.shape != hit.shape or size.ndim != 1 or (size <= 0.0).any() or not np.isfinite(size).all():
        raise ValueError("sizes must be positive and as many as hits")
    method = "Firth" if firth else "maximum likelihood"
    n, k = len(size), int(hit.sum())
    low, high = (float(size.min()), float(size.max())) if n else (None, None)

    def none(reason: str, b0: float | None = None, b1: float | None = None) -> Pod:
        return Pod(method, n, k, low, high, b0, b1, reason=f"not estimable: {reason}")

    if n < _LEAST_FLAWS or low is None or high is None:
        return none(f"{n} independent flaws, at least {_LEAST_FLAWS} are needed")
    if k in (0, n):
        return none(f"all {n} flaws were {'missed' if k == 0 else 'hit'}")
    if high / low < _LEAST_SPREAD:
        return none(f"the sizes, {low:.3g} to {high:.3g} mm, do not spread")
    x, y = np.log(size), hit.astype(np.float64)
    if not firth and (x[hit].min() > x[~hit].max() or x[hit].max() < x[~hit].min()):
        return none("hits and misses do not overlap in size, so the likelihood has no maximum")
    fit = fit_hit_miss(x[None], y[None], firth=firth)
    b0, b1 = float(fit.b0[0]), float(fit.b1[0])
    if not fit.converged[0]:
        return none("the fit did not converge")
    if b1 <= 0.0:
        return none("detection does not grow with size", b0=b0, b1=b1)
    ln_a90 = (_LOGIT_90 - b0) / b1
    if not math.log(low) <= ln_a90 <= math.log(high):
        where = "below the smallest" if ln_a90 < math.log(low) else "above the largest"
        return none(f"a90 would lie {where} flaw tried, {low if ln_a90 < math.log(low) else high:.3g} mm", b0=b0, b1=b1)
    bound = _bound(ln_a90, x, y, float(fit.loglik[0]), firth)
    ln_a50 = -b0 / b1
    reason = ""
    if bound is None:
        reason = "not estimable: the flaws do not bound a90 from above"
    elif bound > math.log(high):
        reason = f"not estimable: the bound lies above the largest flaw tried, {high:.3g} mm"
    return Pod(
        method, n, k, low, high, b0, b1,
        a50_mm=math.exp(ln_a50) if ln_a50 >= math.log(low) else None,
        a90_mm=math.exp(ln_a90),
        a90_95_mm=None if reason or bound is None else math.exp(bound),
        bound_reason=reason,
    )  # fmt: skip
