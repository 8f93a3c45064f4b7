"""Laws that hold for every part, reference, scale and rule (design: judging, "Laws")."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_daemon.judge import (
    Limits,
    Measurement,
    Rule,
    RuleKind,
    Scale,
    Uncertainty,
    Verdict,
    judge,
    limits_of,
    measure,
)
from edge_daemon.judge.verdict import decide
from edge_daemon.records import Outcome, Reason

LAW = settings(deadline=None, max_examples=70, suppress_health_check=[HealthCheck.too_slow])
NAMES = ("crack", "gas_hole")
SIDE_MM = 0.5


def noise(seed: int, shape: tuple[int, int], density: float, labels: tuple[int, ...] = (1,)) -> NDArray[np.uint8]:
    random = np.random.default_rng(seed)
    return np.where(random.random(shape) < density, random.choice(np.array(labels, np.uint8), shape), 0).astype(
        np.uint8
    )


SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))
DENSITIES = st.sampled_from([0.0, 0.02, 0.1, 0.4])
SCALES = st.builds(
    lambda sx, ratio, u: Scale(sx, sx * ratio, u * min(sx, sx * ratio)),
    st.sampled_from([0.1, 0.07, 0.25]), st.sampled_from([1.0, 0.5, 1.7]), st.sampled_from([0.0, 0.002, 0.05]),
)  # fmt: skip
RULES = st.builds(
    lambda tolerance, guard, cut_off: Rule(
        "crack", RuleKind.LEVEL, level=3, windows_mm=(SIDE_MM, 1.3), tolerance=tolerance, guard=guard,
        min_indication_mm=cut_off,
    ),
    st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.0, 0.0, 0.3]),
)  # fmt: skip
EDGES = st.sampled_from([0.0, 0.005, 0.05])


def measured(
    labels: NDArray[np.uint8],
    rule: Rule,
    scale: Scale,
    *,
    coverage: NDArray[np.float32] | None = None,
    region: NDArray[np.bool_] | None = None,
    u_edge_mm: float = 0.0,
) -> Measurement:
    return measure(
        labels, coverage, NAMES, scale, dict.fromkeys((*NAMES, "unknown"), rule.windows_mm),
        region=region, uncertainty=Uncertainty(u_edge_mm), min_indication_mm={rule.type: rule.min_indication_mm},
    )  # fmt: skip


def compared(part: Measurement, reference: Measurement, rule: Rule) -> Verdict:
    return judge(part, [rule], {rule.type: limits_of(reference.of(rule.type, rule.windows_mm))})


def values_of(found: Measurement, rule: Rule) -> list[Any]:
    one = found.of(rule.type, rule.windows_mm)
    windows = [(w.side_mm, w.true_mm, w.area_pct.value, w.area_pct.u, w.count.value) for w in one.windows]
    return [windows, one.max_size_mm.value, one.max_size_mm.u, one.area_mm2.value, one.area_mm2.u]


# --- more defect ------------------------------------------------------------------------------------------------------


@LAW
@given(
    seeds=st.tuples(SEEDS, SEEDS, SEEDS), shape=SHAPES, density=DENSITIES, more=DENSITIES, scale=SCALES, rule=RULES,
    u_edge_mm=EDGES, with_region=st.booleans(),
)  # fmt: skip
def test_adding_defect_never_turns_fail_into_pass(
    seeds: tuple[int, int, int], shape: tuple[int, int], density: float, more: float, scale: Scale, rule: Rule,
    u_edge_mm: float, with_region: bool,
) -> None:  # fmt: skip
    part, reference = noise(seeds[0], shape, density), noise(seeds[1], shape, 0.1)
    worse = np.maximum(part, noise(seeds[2], shape, more))
    region = np.random.default_rng(seeds[2]).random(shape) < 0.8 if with_region else None
    assume(region is None or region.any())
    limits = measured(reference, rule, scale, region=region)
    before, after = (
        compared(measured(one, rule, scale, region=region, u_edge_mm=u_edge_mm), limits, rule) for one in (part, worse)
    )
    if before.outcome is Outcome.FAIL:
        assert after.outcome is not Outcome.PASS
    for was, now in zip(before.types[0].comparisons, after.types[0].comparisons, strict=True):
        if was.decides:
            assert now.value.value >= was.value.value * (1 - 1e-12)


@LAW
@given(seeds=st.tuples(SEEDS, SEEDS, SEEDS), shape=SHAPES, scale=SCALES, rule=RULES, u_edge_mm=EDGES)
def test_adding_coverage_never_turns_fail_into_pass(
    seeds: tuple[int, int, int], shape: tuple[int, int], scale: Scale, rule: Rule, u_edge_mm: float
) -> None:
    """More probability on the marked pixels, and more marked pixels, where marked means at least one half."""
    random = np.random.default_rng(seeds[0])
    coverage = (random.random(shape) * (random.random(shape) < 0.4)).astype(np.float32)
    worse = np.maximum(coverage, coverage + (1 - coverage) * (random.random(shape) < 0.1) * random.random(shape))
    worse = np.minimum(worse, 1.0).astype(np.float32)
    limits = measured(noise(seeds[1], shape, 0.1), rule, scale)
    before, after = (
        compared(measured((one >= 0.5).astype(np.uint8), rule, scale, coverage=one, u_edge_mm=u_edge_mm), limits, rule)
        for one in (coverage, worse)
    )
    if before.outcome is Outcome.FAIL:
        assert after.outcome is not Outcome.PASS


@LAW
@given(seeds=st.tuples(SEEDS, SEEDS), shape=SHAPES, rule=RULES, lowest=st.sampled_from([0.05, 0.2, 0.4]))
def test_likelier_marked_pixels_never_turn_fail_into_pass(
    seeds: tuple[int, int], shape: tuple[int, int], rule: Rule, lowest: float
) -> None:
    """Marked pixels may lie below one half (grown from a seed); making some of them likelier makes nothing better."""
    random = np.random.default_rng(seeds[0])
    labels = noise(seeds[1], shape, 0.4)
    coverage = np.where(labels == 1, lowest + (0.6 - lowest) * random.random(shape), 0.0).astype(np.float32)
    worse = np.where(random.random(shape) < 0.2, np.minimum(coverage * 2, 1), coverage).astype(np.float32)
    scale = Scale(0.1, 0.1)
    before = measured(labels, rule, scale, coverage=coverage).of("crack", rule.windows_mm)
    after = measured(labels, rule, scale, coverage=worse)
    # Within discretisation: what counted by its pixel corners may become a soft edge one pixel wide, at both ends.
    limit_mm = before.max_size_mm.value - 3 * 0.1 * 2**0.5 - 1e-6
    assume(limit_mm > 0)
    limits = Limits(dict.fromkeys(rule.windows_mm, 1000.0), {}, limit_mm)
    simple = replace(rule, tolerance=0.0, guard=0.0)
    assert judge(after, [simple], {"crack": limits}).outcome is Outcome.FAIL


# --- uncertainty, limits, guard ---------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.floats(0, 1e3), st.integers(0, 100).map(float))


@LAW
@given(value=NUMBERS, limit=NUMBERS, u=st.floats(0, 1e3), more=st.floats(0, 1e3), rule=RULES)
def test_larger_uncertainty_never_makes_a_pass(value: float, limit: float, u: float, more: float, rule: Rule) -> None:
    before, after = decide(value, u, limit, rule), decide(value, u + more, limit, rule)
    if before is not Outcome.PASS:
        assert after is not Outcome.PASS


@LAW
@given(seeds=st.tuples(SEEDS, SEEDS), shape=SHAPES, density=DENSITIES, scale=SCALES, rule=RULES, more=EDGES)
def test_larger_uncertainty_of_scale_or_edge_never_makes_a_pass(
    seeds: tuple[int, int], shape: tuple[int, int], density: float, scale: Scale, rule: Rule, more: float
) -> None:
    part, reference = noise(seeds[0], shape, density), measured(noise(seeds[1], shape, 0.1), rule, scale)
    vaguer = replace(scale, u_mm_per_px=scale.u_mm_per_px + 0.02 * min(scale.both))
    before = compared(measured(part, rule, scale), reference, rule).outcome
    for after in (
        compared(measured(part, rule, vaguer), reference, rule).outcome,
        compared(measured(part, rule, scale, u_edge_mm=more), reference, rule).outcome,
    ):
        if before is not Outcome.PASS:
            assert after is not Outcome.PASS


@LAW
@given(value=NUMBERS, limit=NUMBERS, less=st.floats(0, 1), u=st.floats(0, 10), rule=RULES)
def test_a_lower_limit_never_turns_fail_into_pass(
    value: float, limit: float, less: float, u: float, rule: Rule
) -> None:
    before, after = decide(value, u, limit, rule), decide(value, u, limit * less, rule)
    assert after.rank >= before.rank


@LAW
@given(value=NUMBERS, limit=st.floats(1e-6, 1e3), u=st.floats(0, 10), rule=RULES, guard=st.floats(0, 10))
def test_a_wider_guard_never_makes_a_pass_nor_a_narrower_one_an_undecided(
    value: float, limit: float, u: float, rule: Rule, guard: float
) -> None:
    simple = decide(value, u, limit, replace(rule, guard=0.0))
    guarded = decide(value, u, limit, replace(rule, guard=guard))
    assert simple in (Outcome.PASS, Outcome.FAIL)
    assert guarded in (simple, Outcome.INCONCLUSIVE)


@LAW
@given(value=NUMBERS, limit=NUMBERS, u=st.floats(0, 10), rule=RULES)
def test_decision_is_that_of_iso_14253_1(value: float, limit: float, u: float, rule: Rule) -> None:
    permitted, band = limit * (1 + rule.tolerance), rule.guard * 2 * u
    assume(limit > 0)
    expected = Outcome.INCONCLUSIVE
    if value + band <= permitted:
        expected = Outcome.PASS
    elif value - band > permitted:
        expected = Outcome.FAIL
    assert decide(value, u, limit, rule) is expected


@LAW
@given(
    level=st.integers(2, 8), seeds=st.tuples(SEEDS, SEEDS), shape=SHAPES, density=DENSITIES, scale=SCALES, rule=RULES,
    less=st.floats(0, 1), u_edge_mm=EDGES,
)  # fmt: skip
def test_a_lower_allowed_level_never_turns_fail_into_pass(
    level: int, seeds: tuple[int, int], shape: tuple[int, int], density: float, scale: Scale, rule: Rule, less: float,
    u_edge_mm: float,
) -> None:  # fmt: skip
    part = measured(noise(seeds[0], shape, density), rule, scale, u_edge_mm=u_edge_mm)
    upper = limits_of(measured(noise(seeds[1], shape, 0.2), rule, scale).of("crack", rule.windows_mm))
    lower = Limits(
        {side: value * less for side, value in upper.area_pct.items()},
        {side: value * less for side, value in upper.count.items()},
        upper.max_size_mm * less,
    )
    before = judge(part, [replace(rule, level=level)], {"crack": upper}).outcome
    after = judge(part, [replace(rule, level=level - 1)], {"crack": lower}).outcome
    assert after.rank >= before.rank


# --- where it lies and how it is sampled ------------------------------------------------------------------------------


@LAW
@given(
    seed=SEEDS, shape=st.tuples(st.integers(1, 12), st.integers(1, 12)), density=DENSITIES, scale=SCALES, rule=RULES,
    offsets=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), min_size=2, max_size=2),
)  # fmt: skip
def test_translation_changes_nothing(
    seed: int, shape: tuple[int, int], density: float, scale: Scale, rule: Rule, offsets: list[tuple[int, int]]
) -> None:
    pattern = noise(seed, shape, density)
    seen = []
    for dy, dx in offsets:
        labels = np.zeros((27, 27), np.uint8)
        labels[dy : dy + shape[0], dx : dx + shape[1]] = pattern
        found = measured(labels, rule, scale)
        one = found.of("crack", rule.windows_mm)
        places = [
            (
                x.first_px[0] - dx,
                x.first_px[1] - dy,
                x.bbox_px[0] - dx,
                x.bbox_px[1] - dy,
                x.bbox_px[2:],
                x.feret_max_mm,
            )
            for x in one.indications
        ]
        seen.append((values_of(found, rule), places))
    assert seen[0] == seen[1]


@LAW
@given(
    seed=SEEDS, shape=st.tuples(st.integers(1, 10), st.integers(1, 10)), scale=SCALES, rule=RULES,
    offsets=st.lists(st.tuples(st.integers(1, 16), st.integers(1, 16)), min_size=2, max_size=2),
)  # fmt: skip
def test_translation_of_coverage_changes_nothing(
    seed: int, shape: tuple[int, int], scale: Scale, rule: Rule, offsets: list[tuple[int, int]]
) -> None:
    random = np.random.default_rng(seed)
    pattern = (random.integers(0, 257, shape) / 256 * (random.random(shape) < 0.5)).astype(np.float32)
    seen = []
    for dy, dx in offsets:
        coverage = np.zeros((27, 27), np.float32)
        coverage[dy : dy + shape[0], dx : dx + shape[1]] = pattern
        seen.append(values_of(measured((coverage > 0.3).astype(np.uint8), rule, scale, coverage=coverage), rule))
    assert seen[0] == seen[1]


@LAW
@given(seed=SEEDS, shape=SHAPES, density=DENSITIES, rule=RULES, s=st.sampled_from([0.1, 0.07, 0.25]))
def test_mirror_images_and_quarter_turns_change_nothing(
    seed: int, shape: tuple[int, int], density: float, rule: Rule, s: float
) -> None:
    labels = noise(seed, shape, density)
    first = values_of(measured(labels, rule, Scale(s, s)), rule)
    for other in (labels[:, ::-1], labels[::-1]):
        turned = values_of(measured(other.copy(), rule, Scale(s, s)), rule)
        assert [w[2] for w in turned[0]] == [w[2] for w in first[0]]
        assert turned[1] == first[1]
    turned = values_of(measured(labels.T.copy(), rule, Scale(s, s)), rule)
    assert ([w[2] for w in turned[0]], turned[1]) == ([w[2] for w in first[0]], first[1])


@LAW
@given(
    seed=SEEDS, shape=st.tuples(st.integers(1, 10), st.integers(1, 10)), density=DENSITIES, factor=st.integers(1, 4),
    scale=SCALES, side=st.integers(1, 12),
)  # fmt: skip
def test_scaling_picture_and_millimetres_per_pixel_together_changes_nothing(
    seed: int, shape: tuple[int, int], density: float, factor: int, scale: Scale, side: int
) -> None:
    assume(scale.x_mm_per_px == scale.y_mm_per_px)  # the side is then a whole number of coarse pixels on both axes
    labels = noise(seed, shape, density)
    rule = Rule("crack", RuleKind.LEVEL, level=1, windows_mm=(side * scale.x_mm_per_px,))
    fine = Scale(scale.x_mm_per_px / factor, scale.y_mm_per_px / factor, scale.u_mm_per_px / factor)
    enlarged = np.kron(labels, np.ones((factor, factor), np.uint8))
    coarse, finer = (
        measured(one, rule, s).of("crack", rule.windows_mm) for one, s in ((labels, scale), (enlarged, fine))
    )
    assert finer.windows[0].area_pct.value == pytest.approx(coarse.windows[0].area_pct.value, rel=1e-9)
    assert finer.windows[0].true_mm == pytest.approx(coarse.windows[0].true_mm)
    assert finer.max_size_mm.value == pytest.approx(coarse.max_size_mm.value, rel=1e-9)
    assert finer.max_size_mm.u == pytest.approx(coarse.max_size_mm.u, rel=1e-9)
    assert finer.area_mm2.value == pytest.approx(coarse.area_mm2.value, rel=1e-9)
    assert len(finer.indications) == len(coarse.indications)


@LAW
@given(
    seed=SEEDS, shape=SHAPES, density=DENSITIES, scale=SCALES, rule=RULES, u_edge_mm=EDGES, soft=st.booleans(),
    compare_count=st.booleans(),
)  # fmt: skip
def test_a_reference_judged_against_itself_passes_and_against_a_lower_level_fails(
    seed: int, shape: tuple[int, int], density: float, scale: Scale, rule: Rule, u_edge_mm: float, soft: bool,
    compare_count: bool,
) -> None:  # fmt: skip
    plain = replace(rule, guard=0.0, tolerance=0.0, compare_count=compare_count)
    labels = noise(seed, shape, density)
    coverage = np.random.default_rng(seed).uniform(0.3, 1.0, shape).astype(np.float32) if soft else None
    reference = measured(labels, plain, scale, coverage=coverage, u_edge_mm=u_edge_mm)
    assert compared(reference, reference, plain).outcome is Outcome.PASS
    found = reference.of("crack", plain.windows_mm)
    if any(one.counted for one in found.indications):
        own = limits_of(found)
        for lower in (
            replace(own, max_size_mm=own.max_size_mm * 0.99),
            replace(own, area_pct={side: value * 0.99 for side, value in own.area_pct.items()}),
        ):
            assert judge(reference, [plain], {"crack": lower}).outcome is Outcome.FAIL


# --- what can never pass ----------------------------------------------------------------------------------------------

ANY_RULE = st.builds(
    lambda name, kind, guard: Rule(name, kind, level=1, limit=1e6, windows_mm=(SIDE_MM,), guard=guard),
    st.sampled_from([*NAMES, "unknown"]), st.sampled_from(list(RuleKind)), st.sampled_from([0.0, 1.0]),
)  # fmt: skip
GENEROUS = Limits({SIDE_MM: 100.0}, {SIDE_MM: 1e6}, 1e6)


@LAW
@given(
    seed=SEEDS, shape=SHAPES, density=DENSITIES, rules=st.lists(ANY_RULE, unique_by=lambda rule: rule.type),
    soft=st.booleans(), refused=st.booleans(),
)  # fmt: skip
def test_pass_needs_a_rule_for_everything_found_and_nothing_unknown(
    seed: int, shape: tuple[int, int], density: float, rules: list[Rule], soft: bool, refused: bool
) -> None:
    labels = noise(seed, shape, density, labels=(1, 2, 255))
    coverage = np.full(shape, 0.9, np.float32) if soft else None
    windows = dict.fromkeys((*NAMES, "unknown"), (SIDE_MM,))
    found = measure(labels, coverage, NAMES, Scale(0.1, 0.1), windows)
    refusals = [Reason("CALIBRATION_EXPIRED", "the calibration expired yesterday")] if refused else []
    verdict = judge(found, rules, dict.fromkeys(NAMES, GENEROUS), refusals=refusals)
    kinds = {rule.type: rule.kind for rule in rules}

    assert verdict.result == ("PASS" if verdict.outcome is Outcome.PASS else "FAIL")
    if "unknown" in found.types:
        assert verdict.outcome is not Outcome.PASS
        assert refused or any(reason.code == "UNKNOWN_TYPE" for reason in verdict.reasons)
    for name in NAMES:
        if name in found.types and kinds.get(name, RuleKind.UNKNOWN) is RuleKind.UNKNOWN:
            assert verdict.outcome is Outcome.NOT_EVALUABLE
            assert refused or any(reason.code == "NO_RULE" for reason in verdict.reasons)
        if name in found.types and kinds.get(name) is RuleKind.NONE_PERMITTED:
            assert verdict.outcome.rank >= Outcome.FAIL.rank
    if refused or not rules:
        assert verdict.outcome is Outcome.NOT_EVALUABLE
    if refused:
        assert refusals[0] in verdict.reasons
    if verdict.outcome is Outcome.PASS:
        assert verdict.reasons == ()
        assert set(found.types) <= {rule.type for rule in rules}
    else:
        assert verdict.reasons
    if rules and not refused:
        assert verdict.outcome is Outcome.worst([one.outcome for one in verdict.types])


@LAW
@given(outcomes=st.lists(st.sampled_from(list(Outcome)), min_size=1))
def test_the_worst_outcome_wins_in_the_order_of_the_design(outcomes: list[Outcome]) -> None:
    order = [Outcome.NOT_EVALUABLE, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS]
    assert Outcome.worst(outcomes) is next(one for one in order if one in outcomes)


def test_nothing_judged_is_no_outcome() -> None:
    with pytest.raises(ValueError, match="empty"):
        Outcome.worst([])
