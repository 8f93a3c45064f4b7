"""Several types, several zones, spacing, dropped metrics, probabilities: each against the text, written out by hand."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_daemon.errors import RuleError
from edge_daemon.judge import (
    CombineRule,
    Limits,
    Rule,
    RuleKind,
    Scale,
    Uncertainty,
    Verdict,
    combined,
    judge,
    limits_of,
    measure,
    polygon_mask,
    zone_region,
)
from edge_daemon.judge.maps import curve_sides_mm, tile_map, window_curve
from edge_daemon.judge.verdict import decide_gap
from edge_daemon.records import Outcome, Reason

NAMES = ("gas_hole", "crack")
SCALE = Scale(0.1, 0.1)
SIDE_MM = 1.0


def rule(name: str = "gas_hole", level: int = 3, **options: object) -> Rule:
    return Rule(name, RuleKind.LEVEL, level, windows_mm=(SIDE_MM,), guard=0.0, **options)  # type: ignore[arg-type]


def limits(area_pct: float | None, size_mm: float | None = 9.0, gap_mm: float | None = None) -> Limits:
    return Limits({SIDE_MM: area_pct}, {SIDE_MM: 99.0}, size_mm, gap_mm)


def dots(*places: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> NDArray[np.uint8]:
    labels = np.zeros(size, np.uint8)
    for x, y, label in places:
        labels[y, x] = label
    return labels


# ---------------------------------------------------------------- spacing

GAP = rule(compare_spacing=True, tolerance=0.25)


@pytest.mark.parametrize(
    ("gap_mm", "limit_mm", "outcome"),
    [
        (inf, 1.0, Outcome.PASS),  # there are not two
        (inf, inf, Outcome.PASS),
        (5.0, inf, Outcome.FAIL),  # the reference never shows two: any pair is nearer
        (1.0, 1.0, Outcome.PASS),
        (0.8, 1.0, Outcome.PASS),  # exactly limit / (1 + tolerance)
        (0.79, 1.0, Outcome.FAIL),
    ],
)
def test_spacing_is_compared_the_other_way_round(gap_mm: float, limit_mm: float, outcome: Outcome) -> None:
    assert decide_gap(gap_mm, 0.0, limit_mm, GAP) is outcome


def test_spacing_has_its_guard_band() -> None:
    guarded = replace(GAP, guard=1.0)
    assert decide_gap(0.9, 0.06, 1.0, guarded) is Outcome.INCONCLUSIVE
    assert decide_gap(0.92, 0.06, 1.0, guarded) is Outcome.PASS
    assert decide_gap(0.67, 0.06, 1.0, guarded) is Outcome.FAIL


def test_two_close_pores_fail_where_the_reference_keeps_them_apart() -> None:
    apart, close = dots((5, 5, 1), (25, 5, 1)), dots((5, 5, 1), (8, 5, 1))
    reference = measure(apart, None, NAMES, SCALE, {"gas_hole": (SIDE_MM,)}, spacing=["gas_hole"])
    plate = replace(limits_of(reference.of("gas_hole", (SIDE_MM,))), area_pct={SIDE_MM: 50.0})
    for labels, outcome in ((apart, Outcome.PASS), (close, Outcome.FAIL)):
        part = measure(labels, None, NAMES, SCALE, {"gas_hole": (SIDE_MM,)}, spacing=["gas_hole"])
        verdict = judge(part, [GAP], {"gas_hole": plate})
        assert verdict.outcome is outcome
    (one,) = verdict.types
    assert one.governing is not None
    assert one.governing.metric == "min_gap_mm"
    assert one.governing.ratio == pytest.approx(1.9 / 0.2)


def test_spacing_that_was_not_measured_is_an_error_not_a_pass() -> None:
    part = measure(dots((5, 5, 1), (8, 5, 1)), None, NAMES, SCALE, {"gas_hole": (SIDE_MM,)})
    with pytest.raises(RuleError, match="gaps"):
        judge(part, [GAP], {"gas_hole": limits(50.0, gap_mm=1.0)})


# ---------------------------------------------------------------- dropped metrics


def test_a_metric_the_plate_dropped_is_not_compared_and_one_without_areas_decides_nothing() -> None:
    part = measure(dots((5, 5, 1)), None, NAMES, SCALE, {"gas_hole": (SIDE_MM,)})
    with pytest.raises(RuleError, match="size of the reference was not measured"):
        judge(part, [rule()], {"gas_hole": limits(50.0, None)})
    for labels in (dots((5, 5, 1)), dots()):
        part = measure(labels, None, NAMES, SCALE, {"gas_hole": (SIDE_MM,)})
        bent = judge(part, [rule()], {"gas_hole": limits(None)})
        assert bent.outcome is Outcome.NOT_EVALUABLE
        assert bent.reasons[0].code == "REFERENCE_BENT"


@pytest.mark.parametrize(("pixels", "outcome"), [(1, Outcome.PASS), (9, Outcome.INCONCLUSIVE)])
def test_beyond_a_dropped_limit_nothing_is_proven(pixels: int, outcome: Outcome) -> None:
    """The bent value of a lower plate still vouches for what lies below it; above it neither PASS nor FAIL."""
    part = measure(dots(*[(5 + i, 5, 1) for i in range(pixels)]), None, NAMES, SCALE, {"gas_hole": (SIDE_MM,)})
    plate = replace(limits(50.0, None), dropped={("max_size_mm", None): 0.5})
    verdict = judge(part, [rule()], {"gas_hole": plate})
    assert verdict.outcome is outcome
    if outcome is Outcome.INCONCLUSIVE:
        assert verdict.reasons[0].code == "REFERENCE_BENT"
    close = measure(dots((5, 5, 1), (8, 5, 1)), None, NAMES, SCALE, {"gas_hole": (SIDE_MM,)}, spacing=["gas_hole"])
    gaps = replace(limits(50.0), dropped={("min_gap_mm", None): 1.0})
    assert judge(close, [GAP], {"gas_hole": gaps}).outcome is Outcome.INCONCLUSIVE


# ---------------------------------------------------------------- several types

LEVELS = {level: limits(float(level)) for level in range(1, 9)}


@pytest.mark.parametrize(
    ("pores", "cracks", "outcome"),
    [
        (3, 3, Outcome.FAIL),  # both need level 3, which is the most that is permitted
        (3, 2, Outcome.PASS),
        (3, 0, Outcome.PASS),
        (2, 2, Outcome.PASS),
    ],
)
def test_two_types_at_their_greatest_level_fail_together(pores: int, cracks: int, outcome: Outcome) -> None:
    """1 % of a window is one pixel of 10 x 10: n pixels need level n."""
    places = [(5 + i, 5, 1) for i in range(pores)] + [(25 + i, 25, 2) for i in range(cracks)]
    part = measure(dots(*places), None, NAMES, SCALE, dict.fromkeys(NAMES, (SIDE_MM,)))
    rules = [rule("gas_hole"), rule("crack")]
    levels = dict.fromkeys(NAMES, LEVELS)
    plates = dict.fromkeys(NAMES, LEVELS[3])
    together = judge(part, rules, plates, levels=levels, combine=CombineRule.CO_MAX_FAILS)
    assert together.outcome is outcome
    assert ("CO_MAX" in [reason.code for reason in together.reasons]) == (outcome is Outcome.FAIL)
    assert judge(part, rules, plates, levels=levels).outcome is Outcome.PASS


def test_types_at_their_greatest_level_in_different_zones_fail_together_too() -> None:
    levels = dict.fromkeys(NAMES, LEVELS)
    verdicts = []
    for zone, name, label in (("a", "gas_hole", 1), ("b", "crack", 2)):
        part = measure(dots(*[(5 + i, 5, label) for i in range(3)]), None, NAMES, SCALE, {name: (SIDE_MM,)})
        verdicts.append(judge(part, [rule(name)], {name: LEVELS[3]}, levels=levels, zone=zone))
    assert combined(verdicts).outcome is Outcome.PASS
    together = combined(verdicts, CombineRule.CO_MAX_FAILS)
    assert together.outcome is Outcome.FAIL
    assert together.reasons[0].code == "CO_MAX"


def test_within_the_guard_band_two_types_may_be_at_their_greatest_level() -> None:
    """Two pixels each: level 2 exactly, and with U perhaps more: nobody can say that they are not both at 3."""
    places = [(5 + i, 5, 1) for i in range(2)] + [(25 + i, 25, 2) for i in range(2)]
    scale = Scale(0.1, 0.1, 0.0005)
    part = measure(dots(*places), None, NAMES, scale, dict.fromkeys(NAMES, (SIDE_MM,)))
    rules = [replace(rule(name), guard=1.0) for name in NAMES]
    verdict = judge(part, rules, dict.fromkeys(NAMES, LEVELS[3]), levels=dict.fromkeys(NAMES, LEVELS),
                    combine=CombineRule.CO_MAX_FAILS)  # fmt: skip
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert [reason.code for reason in verdict.reasons] == ["CO_MAX"]


# ---------------------------------------------------------------- probability and budget


@settings(max_examples=60, deadline=None)
@given(u_scale=st.floats(0, 0.01), u_edge=st.floats(0, 0.05), pores=st.integers(1, 9), limit=st.floats(0.5, 10))
def test_probability_and_budget_say_what_the_decision_says(
    u_scale: float, u_edge: float, pores: int, limit: float
) -> None:
    labels = dots(*[(5 + i, 5, 1) for i in range(pores)])
    scale = Scale(0.1, 0.1, u_scale)
    part = measure(labels, None, NAMES, scale, {"gas_hole": (SIDE_MM,)}, uncertainty=Uncertainty(u_edge, 0.1, 0.01))
    guarded = replace(rule(), guard=1.0)
    verdict = judge(part, [guarded], {"gas_hole": limits(limit)})
    for one in verdict.types[0].comparisons:
        assert one.value.u == pytest.approx(np.sqrt(sum(u * u for _, u in one.value.budget)))
        if one.value.u > 0:
            expected = NormalDist(one.value.value, one.value.u).cdf(one.permitted)
            assert one.p_conform == pytest.approx(expected, abs=1e-12)
        if one.outcome is Outcome.PASS:
            assert one.p_conform >= 0.977 or one.value.u == 0
        if one.outcome is Outcome.FAIL:
            assert one.p_conform <= 0.023
    area = verdict.types[0].comparisons[0].value
    terms = dict(area.budget)
    assert terms.get("scale", 0.0) == pytest.approx(2 * area.value * u_scale / 0.1)
    around_mm = part.types["gas_hole"].indications[0].perimeter_mm
    assert terms.get("edge", 0.0) == pytest.approx(100 * around_mm * u_edge / 1.0)
    assert terms["repeatability"] == pytest.approx(0.1)


# ---------------------------------------------------------------- zones


def naive_inside(polygon: list[tuple[float, float]], x: float, y: float) -> bool:
    """Even-odd rule for one point, by counting the edges that a ray to the right crosses."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            crossings += 1
    return crossings % 2 == 1


@settings(max_examples=80, deadline=None)
@given(
    corners=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=3, max_size=6, unique=True),
    scale=st.sampled_from([Scale(1.0, 1.0), Scale(0.5, 0.25)]),
)
def test_a_polygon_holds_the_pixels_whose_centres_it_holds(corners: list[tuple[int, int]], scale: Scale) -> None:
    # Off the half pixels: no centre lies on an edge by chance.
    polygon = [((x + 0.123) * 0.95, (y + 0.057) * 0.95) for x, y in corners]
    mask = polygon_mask([(x * scale.x_mm_per_px, y * scale.y_mm_per_px) for x, y in polygon], scale, (30, 20))
    assert mask is not None
    expected = [[naive_inside(polygon, x + 0.5, y + 0.5) for x in range(30)] for y in range(20)]
    assert mask.tolist() == expected


def test_a_polygon_that_leaves_the_picture_was_not_wholly_seen() -> None:
    assert polygon_mask([(0, 0), (3.1, 0), (0, 2)], SCALE, (30, 20)) is None
    assert polygon_mask([(0, 0), (3.0, 0), (0, 2.0)], SCALE, (30, 20)) is not None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), density=st.sampled_from([0.05, 0.2, 0.5]))
def test_a_zone_takes_every_indication_that_touches_it_whole(seed: int, density: float) -> None:
    random = np.random.default_rng(seed)
    labels = np.where(random.random((12, 14)) < density, random.integers(1, 3, (12, 14)), 0).astype(np.uint8)
    inside = np.zeros((12, 14), bool)
    inside[3:9, 4:10] = True
    region = zone_region(labels, inside)
    expected = inside.copy()
    grown = True
    while grown:  # flood from inside over 8-connected pixels of one label, one ring at a time
        grown = False
        for y, x in zip(*np.nonzero(labels), strict=True):
            if expected[y, x]:
                continue
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    v, u = y + dy, x + dx
                    near = 0 <= v < 12 and 0 <= u < 14 and labels[v, u] == labels[y, x] and expected[v, u]
                    if near and not expected[y, x]:
                        expected[y, x] = grown = True
    # A sound pixel outside never belongs; a marked one only through its own indication.
    assert (region == expected).all()


def test_zones_combine_to_the_worst_with_their_reasons() -> None:
    verdicts = [
        Verdict(Outcome.PASS, (), ()),
        Verdict(Outcome.FAIL, (Reason("LIMIT_EXCEEDED", "zone a: x"),), (), True),
        Verdict(Outcome.INCONCLUSIVE, (Reason("GUARD_BAND", "y"),), ()),
    ]
    one = combined(verdicts)
    assert one.outcome is Outcome.FAIL
    assert [reason.code for reason in one.reasons] == ["LIMIT_EXCEEDED", "GUARD_BAND"]
    assert one.advisory


# ---------------------------------------------------------------- maps for people


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)), seed=st.integers(0, 2**32 - 1),
    side_px=st.integers(1, 40), soft=st.booleans(),
)  # fmt: skip
def test_tiles_agree_with_counting_each(shape: tuple[int, int], seed: int, side_px: int, soft: bool) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random(shape) < 0.3).astype(np.uint8)
    coverage = random.random(shape).astype(np.float32) if soft else None
    grid = tile_map(labels, coverage, 1, SCALE, side_px * 0.1)
    values = labels * (1.0 if coverage is None else coverage.astype(float))
    for row, y in enumerate(range(0, shape[0], side_px)):
        for column, x in enumerate(range(0, shape[1], side_px)):
            tile = values[y : y + side_px, x : x + side_px]
            assert grid.area_pct[row, column] == pytest.approx(100 * tile.mean(), abs=1e-9)
    assert grid.area_pct.size == (row + 1) * (column + 1)


def test_the_curve_is_the_worst_window_of_each_side() -> None:
    labels = dots(*[(x, y, 1) for x in range(5, 9) for y in range(5, 9)])
    sides = curve_sides_mm(SCALE, (40, 40), 8)
    assert sides[0] == pytest.approx(0.2)
    assert sides[-1] == pytest.approx(4.0)
    measured = measure(labels, None, NAMES, SCALE, {"gas_hole": sides}).types["gas_hole"].windows
    assert window_curve(labels, None, 1, SCALE, sides) == tuple(one.area_pct.value for one in measured)
    assert measured[0].area_pct.value == 100.0
    assert measured[-1].area_pct.value == pytest.approx(1.0)
