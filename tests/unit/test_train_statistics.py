"""Bounds against SciPy and statsmodels, and promises against simulated truth: what is promised is what comes true."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from edge_daemon.testing.certificate_study import pixel_violations, pod_coverage, recall_violations, true_miss_rate
from edge_daemon.train import certify
from edge_daemon.train.statistics import (
    LR_CRITICAL,
    certified_index,
    clopper_pearson,
    covers_a90,
    fit_hit_miss,
    fixed_sequence,
    hoeffding_bentkus_p,
    lower_bound,
    parts_needed,
    poisson_interval,
    probability_of_detection,
    upper_bound,
    wsr_p,
)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 598), (3, 1549), (25, 50), (997, 1000), (400, 10_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_bounds_of_a_proportion_are_beta_quantiles(k: int, n: int, confidence: float) -> None:
    assert upper_bound(k, n, confidence) == pytest.approx(stats.beta.ppf(confidence, k + 1, n - k), abs=1e-11)
    below = 0.0 if k == 0 else stats.beta.ppf(1 - confidence, k, n - k + 1)
    assert lower_bound(k, n, confidence) == pytest.approx(below, abs=1e-11)
    both = clopper_pearson(k, n, confidence)
    tail = (1 + confidence) / 2
    assert both == (lower_bound(k, n, tail), upper_bound(k, n, tail))


def test_bounds_at_the_ends_and_wrong_counts() -> None:
    assert (upper_bound(7, 7), lower_bound(0, 7)) == (1.0, 0.0)
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert certify.clopper_pearson is clopper_pearson
    for k, n, confidence in ((5, 4, 0.95), (-1, 4, 0.95), (1, 4, 1.0)):
        with pytest.raises(ValueError, match=r"count|confidence"):
            upper_bound(k, n, confidence)


@pytest.mark.parametrize(
    ("recall", "parts"),
    [
        (0.90, (29, 46, 61, 76)), (0.95, (59, 93, 124, 153)), (0.99, (299, 473, 628, 773)),
        (0.995, (598, 947, 1258, 1549)), (0.999, (2995, 4742, 6294, 7752)),
    ],
)  # fmt: skip
def test_parts_needed_with_0_to_3_misses(recall: float, parts: tuple[int, ...]) -> None:
    for misses, needed in enumerate(parts):
        assert parts_needed(recall, misses) == needed
        assert lower_bound(needed - misses, needed) >= recall > lower_bound(needed - 1 - misses, needed - 1)


@pytest.mark.parametrize("count", [0, 1, 7, 400, 4000])
def test_poisson_interval_is_chi_square(count: int) -> None:
    low, high = poisson_interval(count, 10.0)
    assert low == pytest.approx(0.0 if count == 0 else stats.chi2.ppf(0.025, 2 * count) / 20, rel=1e-9)
    assert high == pytest.approx(stats.chi2.ppf(0.975, 2 * count + 2) / 20, rel=1e-9)


def test_critical_value_of_the_likelihood_ratio() -> None:
    assert pytest.approx(stats.chi2.ppf(0.90, 1), rel=1e-12) == LR_CRITICAL
    assert round(LR_CRITICAL, 3) == 2.706


# ---------------------------------------------------------------- Learn then Test


def test_wsr_is_the_formula_term_by_term() -> None:
    losses = np.random.default_rng(0).beta(1, 12, (40, 2))
    for column, p in enumerate(wsr_p(losses, 0.1, 0.05)):
        capital, largest, seen = 1.0, 1.0, []
        mean_sum, square = 0.0, 0.0
        for i, loss in enumerate(losses[:, column].tolist(), start=1):
            variance = (0.25 + square) / i
            capital *= 1 + min(1.0, math.sqrt(2 * math.log(1 / 0.05) / (40 * variance))) * (0.1 - loss)
            largest = max(largest, capital)
            mean_sum += loss
            seen.append(loss)
            square += (loss - (0.5 + mean_sum) / (i + 1)) ** 2
        assert p == pytest.approx(1 / largest, rel=1e-10)


def test_hoeffding_bentkus_by_hand() -> None:
    n, alpha, risk = 300, 0.05, 0.02
    h1 = risk * math.log(risk / alpha) + (1 - risk) * math.log((1 - risk) / (1 - alpha))
    assert hoeffding_bentkus_p(risk, n, alpha) == pytest.approx(
        min(math.exp(-n * h1), math.e * stats.binom.cdf(6, n, alpha)), rel=1e-10
    )
    assert hoeffding_bentkus_p(0.2, n, alpha) == 1.0


def test_p_values_are_small_only_when_the_risk_is() -> None:
    """At a true risk of exactly alpha a p-value is at most 5 % in at most 5 % of draws."""
    rng = np.random.default_rng(1)
    losses = (rng.random((400, 3000)) < 0.05) * 1.0
    assert (wsr_p(losses, 0.05, 0.05) <= 0.05).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3000)
    assert wsr_p(np.zeros((400, 1)), 0.05, 0.05)[0] < 0.001


def test_the_sequence_stops_at_its_first_failure() -> None:
    assert fixed_sequence([0.01, 0.04, 0.2, 0.0], 0.05) == 1
    assert fixed_sequence([0.06, 0.0], 0.05) == -1
    assert fixed_sequence([float("nan"), 0.0], 0.05) == -1
    losses = np.repeat([[0.0, 0.0, 0.5, 0.0]], 300, axis=0)
    assert certified_index(losses, 0.05, 0.05) == 1
    assert certified_index(losses, 0.05, 0.05, method="hb") == 1
    with pytest.raises(ValueError, match="method"):
        certified_index(losses, 0.05, 0.05, method="crc")
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        wsr_p(np.array([[1.5]]), 0.05, 0.05)


# ---------------------------------------------------------------- probability of detection


def flaws(n: int, seed: int, b0: float = 2.0, b1: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(math.log(0.2), math.log(2.5), n)
    return x, (rng.random(n) < 1 / (1 + np.exp(-(b0 + b1 * x)))).astype(float)


@pytest.mark.parametrize(("n", "seed"), [(60, 0), (120, 1), (300, 2), (2000, 3)])
def test_maximum_likelihood_is_statsmodels(n: int, seed: int) -> None:
    x, y = flaws(n, seed)
    found = fit_hit_miss(x[None], y[None], firth=False)
    expected = sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial()).fit(tol=1e-12)
    assert found.converged[0]
    assert [found.b0[0], found.b1[0]] == pytest.approx(list(expected.params), abs=1e-6)
    assert found.loglik[0] == pytest.approx(expected.llf, abs=1e-8)


def test_firth_maximises_the_penalised_likelihood_and_does_not_depend_on_the_unit() -> None:
    x, y = flaws(60, 4)
    design = sm.add_constant(x)

    def penalised(b: np.ndarray) -> float:
        eta = design @ b
        p = 1 / (1 + np.exp(-eta))
        information = design.T @ (design * (p * (1 - p))[:, None])
        return float(y @ eta - np.logaddexp(0, eta).sum() + 0.5 * np.linalg.slogdet(information)[1])

    fit = fit_hit_miss(x[None], y[None])
    best = np.array([fit.b0[0], fit.b1[0]])
    assert fit.loglik[0] == pytest.approx(penalised(best), abs=1e-9)
    for move in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3), (1e-3, -1e-3)):
        assert penalised(best + move) < penalised(best)
    inches = fit_hit_miss(x[None] - math.log(25.4), y[None])
    assert inches.b1[0] == pytest.approx(fit.b1[0], abs=1e-8)


def test_the_bound_is_where_the_deviance_reaches_its_critical_value() -> None:
    x, y = flaws(150, 5)
    for firth in (True, False):
        pod = probability_of_detection(np.exp(x).tolist(), y.astype(bool).tolist(), firth=firth)
        assert pod.a50_mm is not None and pod.a90_mm is not None and pod.a90_95_mm is not None
        assert pod.a50_mm < pod.a90_mm < pod.a90_95_mm
        assert pod.at(pod.a90_mm) == pytest.approx(0.9, abs=1e-12)
        assert pod.at(pod.a50_mm) == pytest.approx(0.5, abs=1e-12)
        fit = fit_hit_miss(x[None], y[None], firth=firth)
        assert covers_a90(0.999 * pod.a90_95_mm, x, y, fit, firth=firth)[0]
        assert not covers_a90(1.001 * pod.a90_95_mm, x, y, fit, firth=firth)[0]
    # By hand for maximum likelihood: the best curve through (a, 0.9) is a logistic regression without its constant.
    t = x - math.log(pod.a90_95_mm)
    through = sm.GLM(y, t[:, None], family=sm.families.Binomial(), offset=np.full(len(t), math.log(9))).fit()
    assert 2 * (fit.loglik[0] - through.llf) == pytest.approx(LR_CRITICAL, abs=2e-3)


def test_a_curve_that_does_not_exist_says_why() -> None:
    def why(sizes: list[float], hits: list[bool], *, firth: bool = True) -> str:
        pod = probability_of_detection(sizes, hits, firth=firth)
        assert pod.a90_mm is None and pod.a90_95_mm is None and pod.reason.startswith("not estimable: ")
        return pod.reason

    ramp = np.geomspace(0.2, 2.0, 40).tolist()
    assert "at least 20" in why(ramp[:10], [False] * 5 + [True] * 5)
    assert "all 40 flaws were hit" in why(ramp, [True] * 40)
    assert "all 40 flaws were missed" in why(ramp, [False] * 40)
    assert "do not spread" in why(np.linspace(1.0, 1.2, 40).tolist(), [False, True] * 20)
    assert "do not overlap" in why(ramp, [False] * 20 + [True] * 20, firth=False)
    assert "does not grow" in why(ramp, [True] * 20 + [False] * 20)
    assert "above the largest" in why(ramp, ([False] * 3 + [True] * 2) * 8)
    longer = np.geomspace(0.2, 2.0, 60).tolist()
    assert "below the smallest" in why(longer, [index not in (15, 28) for index in range(60)])
    assert probability_of_detection([], []).reason.startswith("not estimable: 0 independent flaws")
    with pytest.raises(ValueError, match="positive"):
        probability_of_detection([0.0], [True])


def test_separated_flaws_are_finite_with_firth() -> None:
    sizes = np.geomspace(0.2, 2.0, 40).tolist()
    pod = probability_of_detection(sizes, [False] * 20 + [True] * 20)
    assert pod.reason == ""
    assert sizes[19] < pod.a90_mm < pod.a90_95_mm < sizes[-1]


# ---------------------------------------------------------------- promises against truth


@pytest.mark.parametrize("n", [60, 120, 300])
def test_the_a90_95_bound_covers_as_often_as_it_says(n: int) -> None:
    """800 data sets each: the standard error is 0.7 points; the study has 4,000."""
    covered, usable, kept, stated = pod_coverage(n, 800)
    assert usable >= 792
    assert 0.93 <= covered / usable <= 0.98
    assert kept / stated >= 0.93, "bounds that may be stated, within the sizes tried"


def test_the_recall_promised_is_broken_in_at_most_one_calibration_of_twenty() -> None:
    violated, promised = recall_violations(200)
    assert promised == 200
    assert violated <= 10
    # The truth of the simulated line itself, against twenty thousand fresh parts.
    peaks = 6.5 + 1.35 * np.random.default_rng(9).standard_t(5, 20_000)
    for logit in (-1.0, 1.0, 3.0):
        k, p = int((peaks < logit).sum()), float(true_miss_rate(np.array([logit]))[0])
        assert stats.binomtest(k, 20_000, p).pvalue > 0.001


def test_a_line_with_too_few_parts_is_promised_nothing() -> None:
    assert recall_violations(20, parts=597) == (0, 0)


@pytest.mark.parametrize("method", ["wsr", "hb"])
def test_the_pixel_miss_rate_is_broken_in_at_most_one_calibration_of_twenty(method: str) -> None:
    violated, rate = pixel_violations(200, method=method)
    assert violated <= 10
    assert (0.036 if method == "wsr" else 0.028) <= rate <= 0.05, "and it is not merely cautious"
