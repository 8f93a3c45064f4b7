"""Rules and outcomes: every kind of rule, values exactly at the limit, what is missing, and the measured severity."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan, nextafter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_daemon.errors import RuleError
from edge_daemon.judge import (
    Limits,
    Measurement,
    Rule,
    RuleKind,
    Scale,
    TypeMeasurement,
    TypeVerdict,
    Value,
    WindowMeasurement,
    judge,
    limits_of,
    measure,
)
from edge_daemon.judge.verdict import decide
from edge_daemon.records import UNKNOWN_MESSAGE, Outcome, Reason

SIDE_MM = 0.5
SCALE = Scale(0.1, 0.1)
LEVEL = Rule("crack", RuleKind.LEVEL, level=3, windows_mm=(SIDE_MM,), guard=0.0)
WIDE = Limits({SIDE_MM: 100.0}, {SIDE_MM: 100.0}, 100.0)
SOUND: NDArray[np.uint8] = np.zeros((10, 10), np.uint8)


def marked(*labels: int) -> NDArray[np.uint8]:
    """A 10 x 10 picture with one pixel of each label on every second row."""
    picture = SOUND.copy()
    for row, label in enumerate(labels):
        picture[2 * row, 4] = label
    return picture


def found_in(labels: NDArray[np.uint8], **options: Any) -> Measurement:
    windows = dict.fromkeys(("crack", "gas_hole", "unknown"), (SIDE_MM,))
    return measure(labels, None, ("crack", "gas_hole"), SCALE, windows, **options)


def synthetic(
    area_pct: float = 0.0,
    count: float = 0.0,
    size_mm: float = 0.0,
    *,
    u: float = 0.0,
    sides: tuple[float, ...] = (SIDE_MM,),
) -> Measurement:
    """A measurement of one crack with given values, for arithmetic that no picture needs."""
    real = found_in(marked(1)).types["crack"]
    windows = tuple(
        WindowMeasurement(side, 5, (0.5, 0.5), Value(area_pct, u, (1, 2)), Value(count, 0.0, (3, 4))) for side in sides
    )
    one = TypeMeasurement("crack", 1, real.indications, windows, Value(size_mm, u, (5, 6)), real.area_mm2)
    return Measurement({"crack": one}, (10, 10), SCALE)


def only(verdict: Any) -> TypeVerdict:
    (one,) = verdict.types
    assert isinstance(one, TypeVerdict)
    return one


def codes(verdict: Any) -> list[str]:
    return [reason.code for reason in verdict.reasons]


# --- at the limit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "u", "limit", "tolerance", "guard", "expected"),
    [
        # Numbers that binary holds exactly, so "at the limit" means at the limit.
        (4.0, 0.0, 4.0, 0.0, 1.0, Outcome.PASS),
        (nextafter(4.0, inf), 0.0, 4.0, 0.0, 1.0, Outcome.FAIL),
        (3.0, 0.5, 4.0, 0.0, 1.0, Outcome.PASS),  # 3 + 1 = 4
        (nextafter(3.0, inf), 0.5, nextafter(4.0, 0), 0.0, 1.0, Outcome.INCONCLUSIVE),
        (4.0, 0.5, 4.0, 0.0, 1.0, Outcome.INCONCLUSIVE),
        (5.0, 0.5, 4.0, 0.0, 1.0, Outcome.INCONCLUSIVE),  # 5 - 1 = 4 is not above 4
        (5.25, 0.5, 4.0, 0.0, 1.0, Outcome.FAIL),
        (5.0, 0.5, 4.0, 0.25, 1.0, Outcome.INCONCLUSIVE),
        (4.0, 0.5, 4.0, 0.25, 1.0, Outcome.PASS),  # T = 5
        (6.25, 0.5, 4.0, 0.25, 1.0, Outcome.FAIL),
        (5.0, 0.5, 4.0, 0.25, 0.0, Outcome.PASS),  # simple acceptance
        (5.25, 0.5, 4.0, 0.25, 0.0, Outcome.FAIL),
        (3.0, 0.5, 4.0, 0.0, 2.0, Outcome.INCONCLUSIVE),
        (2.0, 0.5, 4.0, 0.0, 2.0, Outcome.PASS),
        (0.0, 0.0, 0.0, 0.0, 1.0, Outcome.PASS),
        (1e-300, 0.0, 0.0, 10.0, 0.0, Outcome.FAIL),
        (1.0, 100.0, 0.0, 10.0, 1.0, Outcome.FAIL),  # nothing is permitted, so no uncertainty excuses something
        (0.0, 1.0, 4.0, 0.0, 1.0, Outcome.PASS),
    ],
)
def test_decision_at_and_around_the_limit(
    value: float, u: float, limit: float, tolerance: float, guard: float, expected: Outcome
) -> None:
    assert decide(value, u, limit, replace(LEVEL, tolerance=tolerance, guard=guard)) is expected


@pytest.mark.parametrize("guard", [0.0, 1.0])
@pytest.mark.parametrize("limit", [0.0, 1.0])
@pytest.mark.parametrize(("value", "u"), [(nan, 0.0), (0.5, nan), (nan, nan), (inf, 0.0), (0.5, inf)])
def test_a_value_that_is_no_number_never_passes(value: float, u: float, limit: float, guard: float) -> None:
    assert decide(value, u, limit, replace(LEVEL, guard=guard)) is not Outcome.PASS


@pytest.mark.parametrize("limit", [nan, inf, -inf, -1.0])
def test_a_limit_that_is_no_number_never_passes(limit: float) -> None:
    assert decide(0.5, 0.0, limit, LEVEL) is not Outcome.PASS


def test_no_pixel_in_the_reference_means_limit_zero_ratio_none_and_fail() -> None:
    nothing = limits_of(found_in(SOUND).of("crack", (SIDE_MM,)))
    verdict = judge(found_in(marked(1)), [replace(LEVEL, tolerance=10.0, guard=10.0)], {"crack": nothing})
    assert verdict.outcome is Outcome.FAIL
    one = only(verdict)
    assert {c.metric for c in one.comparisons} == {"area_pct", "count", "max_size_mm"}
    assert [(c.limit, c.ratio) for c in one.comparisons] == [(0.0, None)] * 3
    assert one.governing is not None
    assert one.governing.ratio is None


def test_ratio_is_value_over_limit_before_tolerance() -> None:
    verdict = judge(
        synthetic(6.0, 3.0, 1.0),
        [replace(LEVEL, tolerance=1.0)],
        {"crack": Limits({SIDE_MM: 4.0}, {SIDE_MM: 2.0}, 8.0)},
    )
    assert [c.ratio for c in only(verdict).comparisons] == [1.5, 1.5, 0.125]
    assert [c.limit for c in only(verdict).comparisons] == [4.0, 2.0, 8.0]
    assert verdict.outcome is Outcome.PASS  # T is twice the limit


@pytest.mark.parametrize(
    ("values", "compare_count", "expected", "named"),
    [
        ((4.0, 2.0, 8.0), True, Outcome.PASS, []),
        ((4.5, 2.0, 8.0), False, Outcome.FAIL, ["area_pct"]),
        ((4.0, 2.0, 8.5), False, Outcome.FAIL, ["max_size_mm"]),
        ((4.0, 9.0, 8.0), False, Outcome.PASS, []),
        ((4.0, 9.0, 8.0), True, Outcome.FAIL, ["count"]),
        ((9.0, 9.0, 9.0), True, Outcome.FAIL, ["area_pct", "count", "max_size_mm"]),
    ],
)
def test_one_metric_beyond_its_limit_fails_the_part_and_is_named(
    values: tuple[float, float, float], compare_count: bool, expected: Outcome, named: list[str]
) -> None:
    limits = {"crack": Limits({SIDE_MM: 4.0}, {SIDE_MM: 2.0}, 8.0)}
    verdict = judge(synthetic(*values), [replace(LEVEL, compare_count=compare_count)], limits)
    assert verdict.outcome is expected
    assert [next(m for m in ("area_pct", "count", "max_size_mm") if m in r.text) for r in verdict.reasons] == named


def test_governing_is_the_metric_farthest_above_its_limit() -> None:
    limits = {"crack": Limits({SIDE_MM: 4.0}, {SIDE_MM: 1.0}, 8.0)}
    for values, metric in (
        ((8.0, 9.0, 9.0), "area_pct"),
        ((5.0, 9.0, 80.0), "max_size_mm"),
        ((1.0, 0.0, 4.0), "max_size_mm"),
    ):
        governing = only(judge(synthetic(*values), [LEVEL], limits)).governing
        assert governing is not None
        assert governing.metric == metric
    assert only(judge(found_in(SOUND), [LEVEL], limits)).governing is None


def test_every_window_side_is_compared() -> None:
    """A small window catches a concentrated defect, a large one spread porosity; either one fails the part."""
    rule = replace(LEVEL, windows_mm=(0.2, 1.0))
    windows = {"crack": rule.windows_mm}
    clustered, spread = SOUND.copy(), SOUND.copy()
    clustered[4:6, 4:6] = 1
    spread[::2, ::2] = 1
    reference = {"crack": limits_of(measure(clustered, None, ("crack",), SCALE, windows).types["crack"])}
    found = measure(spread, None, ("crack",), SCALE, windows)
    small, large = (c for c in only(judge(found, [rule], reference)).comparisons if c.metric == "area_pct")
    assert (small.outcome, large.outcome) == (Outcome.PASS, Outcome.FAIL)
    assert judge(found, [rule], reference).outcome is Outcome.FAIL


# --- kinds of rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "limit", "when_found", "code"),
    [
        (RuleKind.LEVEL, None, Outcome.PASS, None),
        (RuleKind.UNLIMITED, None, Outcome.PASS, None),
        (RuleKind.SIZE_MM, 0.15, Outcome.PASS, None),
        (RuleKind.SIZE_MM, 0.14, Outcome.FAIL, "LIMIT_EXCEEDED"),
        (RuleKind.SIZE_MM, 0.0, Outcome.FAIL, "LIMIT_EXCEEDED"),
        (RuleKind.AREA_PCT, 4.0, Outcome.PASS, None),
        (RuleKind.AREA_PCT, 3.99, Outcome.FAIL, "LIMIT_EXCEEDED"),
        (RuleKind.AREA_PCT, 0.0, Outcome.FAIL, "LIMIT_EXCEEDED"),
        (RuleKind.NONE_PERMITTED, None, Outcome.FAIL, "NONE_PERMITTED"),
        (RuleKind.NO_REFERENCE, None, Outcome.NOT_EVALUABLE, "NO_REFERENCE"),
        (RuleKind.NOT_APPLICABLE, None, Outcome.NOT_EVALUABLE, "NOT_APPLICABLE"),
        (RuleKind.DRAWING, None, Outcome.NOT_EVALUABLE, "DRAWING"),
        (RuleKind.UNKNOWN, None, Outcome.NOT_EVALUABLE, "NO_RULE"),
    ],
)
def test_every_kind_of_rule_on_one_pixel(
    kind: RuleKind, limit: float | None, when_found: Outcome, code: str | None
) -> None:
    rule = Rule("crack", kind, level=3, limit=limit, windows_mm=(SIDE_MM,), guard=0.0)
    verdict = judge(found_in(marked(1)), [rule], {"crack": WIDE})
    assert verdict.outcome is when_found
    assert codes(verdict) == ([] if code is None else [code])


@pytest.mark.parametrize("kind", [kind for kind in RuleKind if kind is not RuleKind.UNKNOWN])
def test_a_sound_part_passes_every_rule_that_exists(kind: RuleKind) -> None:
    rule = Rule("crack", kind, level=3, limit=0.0, windows_mm=(SIDE_MM,))
    verdict = judge(found_in(SOUND), [rule], {"crack": WIDE})
    assert (verdict.outcome, verdict.reasons, verdict.result) == (Outcome.PASS, (), "PASS")


def test_a_missing_row_is_not_evaluable_even_where_nothing_was_found() -> None:
    """No row, no verdict: nothing says that a part without this type would have been acceptable."""
    verdict = judge(found_in(SOUND), [LEVEL, Rule("gas_hole", RuleKind.UNKNOWN)], {"crack": WIDE})
    assert verdict.outcome is Outcome.NOT_EVALUABLE


def test_a_type_without_a_rule_never_passes_whatever_its_size() -> None:
    """A cut-off belongs to a rule; where there is no rule, nothing is too small to count."""
    found = found_in(marked(2), min_indication_mm={"gas_hole": 5.0})
    assert judge(found, [LEVEL], {"crack": WIDE}).outcome is Outcome.NOT_EVALUABLE


def test_level_without_a_measured_reference_is_not_evaluable() -> None:
    for labels in (marked(1), SOUND):
        verdict = judge(found_in(labels), [LEVEL], {})
        assert (verdict.outcome, codes(verdict)) == (Outcome.NOT_EVALUABLE, ["NO_REFERENCE"])


def test_without_any_rule_nothing_is_evaluable() -> None:
    for labels in (marked(1), SOUND):
        verdict = judge(found_in(labels), [], {})
        assert verdict.outcome is Outcome.NOT_EVALUABLE
        assert "NO_RULE" in codes(verdict)


def test_indications_below_the_cut_off_are_permitted_where_none_are() -> None:
    rule = Rule("crack", RuleKind.NONE_PERMITTED, min_indication_mm=0.2)
    labels = marked(1)
    assert judge(found_in(labels, min_indication_mm={"crack": 0.2}), [rule], {}).outcome is Outcome.PASS
    labels[0, 5] = 1  # two pixels: 0.2236 mm
    assert judge(found_in(labels, min_indication_mm={"crack": 0.2}), [rule], {}).outcome is Outcome.FAIL


# --- what was asked for and is not there ------------------------------------------------------------------------------


def refused_or_not_pass(part: Measurement, rule: Rule, limits: Limits) -> bool:
    try:
        return judge(part, [rule], {"crack": limits}).outcome is not Outcome.PASS
    except RuleError:
        return True


def test_a_window_the_rule_names_and_the_part_was_not_measured_with_never_passes() -> None:
    full = np.ones((10, 10), np.uint8)
    unmeasured = measure(full, None, ("crack",), SCALE, {})
    assert refused_or_not_pass(unmeasured, LEVEL, Limits({SIDE_MM: 1.0}, {SIDE_MM: 1.0}, 9.0))
    area_rule = Rule("crack", RuleKind.AREA_PCT, limit=50.0, windows_mm=(SIDE_MM,))
    assert refused_or_not_pass(unmeasured, area_rule, WIDE)
    two = replace(LEVEL, windows_mm=(SIDE_MM, 1.0))
    assert refused_or_not_pass(
        synthetic(1.0, 1.0, 1.0), two, Limits({SIDE_MM: 9.0, 1.0: 9.0}, {SIDE_MM: 9.0, 1.0: 9.0}, 9.0)
    )


def test_a_window_the_reference_was_not_measured_with_never_passes() -> None:
    assert refused_or_not_pass(synthetic(50.0, 1.0, 1.0), LEVEL, Limits({}, {}, 9.0))
    assert refused_or_not_pass(synthetic(50.0, 1.0, 1.0), LEVEL, Limits({0.7: 90.0}, {0.7: 90.0}, 9.0))
    counting = replace(LEVEL, compare_count=True)
    assert refused_or_not_pass(synthetic(1.0, 50.0, 1.0), counting, Limits({SIDE_MM: 9.0}, {}, 9.0))


def test_a_part_measured_with_another_cut_off_than_its_rule_never_passes_for_it() -> None:
    """The part drops what is smaller than 5 mm, the rule permits none at all: the judge can see that this is wrong."""
    found = found_in(marked(1), min_indication_mm={"crack": 5.0})
    assert refused_or_not_pass(found, Rule("crack", RuleKind.NONE_PERMITTED), WIDE)


# --- unknown ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(RuleKind))
def test_unknown_is_at_best_inconclusive_whatever_the_rule_says(kind: RuleKind) -> None:
    rule = Rule("unknown", kind, level=3, limit=1e6, windows_mm=(SIDE_MM,))
    verdict = judge(found_in(marked(255)), [rule], {"unknown": WIDE})
    assert verdict.outcome.rank >= Outcome.INCONCLUSIVE.rank
    assert Reason("UNKNOWN_TYPE", UNKNOWN_MESSAGE) in verdict.reasons


def test_unknown_without_a_rule_of_its_own_is_inconclusive_and_says_the_sentence() -> None:
    verdict = judge(found_in(marked(255)), [LEVEL], {"crack": WIDE})
    assert (verdict.outcome, verdict.result) == (Outcome.INCONCLUSIVE, "FAIL")
    assert verdict.reasons == (Reason("UNKNOWN_TYPE", "I was not trained on this type of defect"),)


def test_a_rule_about_unknown_does_not_make_a_sound_part_inconclusive() -> None:
    rules = [LEVEL, Rule("unknown", RuleKind.NONE_PERMITTED)]
    assert judge(found_in(SOUND), rules, {"crack": WIDE}).outcome is Outcome.PASS


def test_unknown_of_any_size_counts() -> None:
    found = found_in(marked(255), min_indication_mm={"unknown": 5.0})
    assert judge(found, [LEVEL], {"crack": WIDE}).outcome is Outcome.INCONCLUSIVE


# --- several types ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crack_kind", "gas_kind", "extra", "expected"),
    [
        (RuleKind.UNLIMITED, RuleKind.UNLIMITED, (), Outcome.PASS),
        (RuleKind.UNLIMITED, RuleKind.UNLIMITED, (255,), Outcome.INCONCLUSIVE),
        (RuleKind.UNLIMITED, RuleKind.NONE_PERMITTED, (255,), Outcome.FAIL),
        (RuleKind.DRAWING, RuleKind.NONE_PERMITTED, (255,), Outcome.NOT_EVALUABLE),
        (RuleKind.NONE_PERMITTED, RuleKind.UNLIMITED, (), Outcome.FAIL),
    ],
)
def test_part_is_the_worst_of_its_types_and_the_worst_reason_comes_first(
    crack_kind: RuleKind, gas_kind: RuleKind, extra: tuple[int, ...], expected: Outcome
) -> None:
    rules = [Rule("crack", crack_kind), Rule("gas_hole", gas_kind)]
    verdict = judge(found_in(marked(1, 2, *extra)), rules, {})
    assert verdict.outcome is expected
    ranks = {code: outcome.rank for outcome, code in (
        (Outcome.NOT_EVALUABLE, "DRAWING"), (Outcome.FAIL, "NONE_PERMITTED"), (Outcome.INCONCLUSIVE, "UNKNOWN_TYPE"),
    )}  # fmt: skip
    order = [ranks[code] for code in codes(verdict)]
    assert order == sorted(order, reverse=True)


def test_a_refused_image_is_not_evaluable_whatever_is_on_it() -> None:
    refusal = Reason("IMAGE_GATE", "the picture is clipped")
    for labels in (SOUND, marked(1)):
        verdict = judge(found_in(labels), [LEVEL], {"crack": WIDE}, refusals=[refusal])
        assert verdict.outcome is Outcome.NOT_EVALUABLE
        assert verdict.reasons[0] == refusal


def test_an_unverified_rule_makes_the_verdict_advisory() -> None:
    for advisory in (False, True):
        assert judge(found_in(SOUND), [replace(LEVEL, advisory=advisory)], {"crack": WIDE}).advisory is advisory


def test_undecided_says_by_how_much() -> None:
    verdict = judge(
        synthetic(4.0, 0.0, 1.0, u=0.5), [replace(LEVEL, guard=1.0)], {"crack": Limits({SIDE_MM: 4.0}, {}, 9.0)}
    )
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert codes(verdict) == ["GUARD_BAND"]
    for part in ("crack", "area_pct 4%", "U 1", "0.5 mm window", "at 1,2", "permitted 4%"):
        assert part in verdict.reasons[0].text


# --- measured severity ------------------------------------------------------------------------------------------------

LADDER = {1: Limits({SIDE_MM: 1.0}, {SIDE_MM: 1.0}, 2.0), 2: Limits({SIDE_MM: 3.0}, {SIDE_MM: 2.0}, 2.0),
          3: Limits({SIDE_MM: 4.0}, {SIDE_MM: 3.0}, 6.0), 5: Limits({SIDE_MM: 8.0}, {SIDE_MM: 9.0}, 10.0)}  # fmt: skip


@pytest.mark.parametrize(
    ("area_pct", "size_mm", "severity", "level"),
    [
        (0.5, 0.0, 0.5, 1),
        (1.0, 2.0, 1.0, 1),
        (2.0, 0.0, 1.5, 2),
        (3.0, 2.0, 2.0, 2),
        (3.0, 3.0, 2.25, 3),  # the size decides: between 2 mm (levels 1 and 2) and 6 mm (level 3)
        (4.0, 6.0, 3.0, 3),
        (6.0, 6.0, 4.0, 5),  # there is no level 4: halfway from 3 to 5
        (8.0, 1.0, 5.0, 5),
        (8.5, 1.0, None, None),
        (1.0, 10.5, None, None),
    ],
)
def test_severity_is_interpolated_between_the_levels(
    area_pct: float, size_mm: float, severity: float | None, level: int | None
) -> None:
    verdict = judge(synthetic(area_pct, 0.0, size_mm), [LEVEL], {"crack": LADDER[3]}, levels={"crack": LADDER})
    one = only(verdict)
    assert one.severity == (None if severity is None else pytest.approx(severity, abs=1e-12))
    assert one.severity_level == level


def test_severity_counts_only_where_the_rule_does() -> None:
    part = synthetic(0.5, 3.0, 0.0)
    for compare_count, expected in ((False, (0.5, 1)), (True, (3.0, 3))):
        rule = replace(LEVEL, compare_count=compare_count)
        one = only(judge(part, [rule], {"crack": LADDER[3]}, levels={"crack": LADDER}))
        assert (one.severity, one.severity_level) == expected


def test_severity_of_a_sound_part_is_zero_and_without_levels_there_is_none() -> None:
    one = only(judge(found_in(SOUND), [LEVEL], {"crack": WIDE}, levels={"crack": LADDER}))
    assert (one.severity, one.severity_level) == (0.0, 1)
    one = only(judge(found_in(marked(1)), [LEVEL], {"crack": WIDE}))
    assert (one.severity, one.severity_level) == (None, None)


def test_limits_only_grow_with_the_level() -> None:
    """A plate below its predecessor is lifted to it (running maximum): nothing meets level 1 and misses level 2."""
    bent = {1: Limits({SIDE_MM: 4.0}, {}, 9.0), 2: Limits({SIDE_MM: 3.0}, {}, 9.0), 3: Limits({SIDE_MM: 8.0}, {}, 9.0)}
    for area_pct, severity, level in ((4.0, 1.0, 1), (3.5, 0.875, 1), (6.0, 2.5, 3)):
        one = only(judge(synthetic(area_pct), [LEVEL], {"crack": WIDE}, levels={"crack": bent}))
        assert (one.severity, one.severity_level) == (pytest.approx(severity), level)


@given(area_pct=st.floats(0, 10), size_mm=st.floats(0, 12), more=st.floats(0, 3))
@settings(deadline=None, max_examples=100)
def test_severity_level_is_the_smallest_level_met_and_more_defect_is_no_less_severe(
    area_pct: float, size_mm: float, more: float
) -> None:
    def of(area: float) -> TypeVerdict:
        return only(judge(synthetic(area, 0.0, size_mm), [LEVEL], {"crack": LADDER[3]}, levels={"crack": LADDER}))

    one, worse = of(area_pct), of(area_pct + more)
    met = [n for n in LADDER if area_pct <= LADDER[n].area_pct[SIDE_MM] and size_mm <= LADDER[n].max_size_mm]
    assert one.severity_level == (min(met) if met else None)
    if one.severity is None:
        assert worse.severity is None
    elif worse.severity is not None:
        assert worse.severity >= one.severity - 1e-12


def test_a_level_measured_without_the_windows_of_the_rule_is_a_rule_error() -> None:
    with pytest.raises(RuleError):
        judge(synthetic(1.0), [LEVEL], {"crack": WIDE}, levels={"crack": {1: Limits({}, {}, 9.0)}})


# --- rules that make no sense -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (RuleKind.LEVEL, {"windows_mm": (1.0,)}),
        (RuleKind.LEVEL, {"level": 0, "windows_mm": (1.0,)}),
        (RuleKind.LEVEL, {"level": 9, "windows_mm": (1.0,)}),
        (RuleKind.LEVEL, {"level": 3}),
        (RuleKind.LEVEL, {"level": 3, "windows_mm": (0.0,)}),
        (RuleKind.LEVEL, {"level": 3, "windows_mm": (nan,)}),
        (RuleKind.SIZE_MM, {}),
        (RuleKind.SIZE_MM, {"limit": -0.1}),
        (RuleKind.SIZE_MM, {"limit": nan}),
        (RuleKind.SIZE_MM, {"limit": inf}),
        (RuleKind.AREA_PCT, {"limit": nan, "windows_mm": (1.0,)}),
        (RuleKind.AREA_PCT, {"limit": 1.0}),
        (RuleKind.AREA_PCT, {"windows_mm": (1.0,)}),
        (RuleKind.UNLIMITED, {"tolerance": -0.1}),
        (RuleKind.UNLIMITED, {"tolerance": nan}),
        (RuleKind.UNLIMITED, {"tolerance": 10.5}),
        (RuleKind.UNLIMITED, {"guard": -1.0}),
        (RuleKind.UNLIMITED, {"guard": nan}),
        (RuleKind.UNLIMITED, {"guard": inf}),
        (RuleKind.NONE_PERMITTED, {"min_indication_mm": nan}),
        (RuleKind.NONE_PERMITTED, {"min_indication_mm": inf}),
        (RuleKind.NONE_PERMITTED, {"min_indication_mm": -1.0}),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(kind: RuleKind, options: dict[str, Any]) -> None:
    with pytest.raises(RuleError) as caught:
        Rule("crack", kind, **options)
    assert "crack" in caught.value.message
    assert caught.value.hint


def test_two_rules_for_one_type_are_refused() -> None:
    with pytest.raises(RuleError):
        judge(found_in(SOUND), [LEVEL, replace(LEVEL, level=5)], {"crack": WIDE})
