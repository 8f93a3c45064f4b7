"""Rules, limits and the decision.

A rule says what a table row asks of one type. The limits of a LEVEL rule are the worst-window values of its reference
image, measured by the same code as the part. With T = limit x (1 + tolerance) and U = 2u (k = 2):

    value + g U <= T  PASS        value - g U > T  FAIL        otherwise INCONCLUSIVE

ISO 14253-1:2017 (conformance with a guard band) and ILAC-G8:09/2019 4.2: g = 1 keeps the false-accept risk at the limit
below 2.5 %; g = 0 is simple acceptance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from math import erfc, inf, isfinite, isnan, sqrt

from ..errors import RuleError
from ..records import UNKNOWN_MESSAGE, UNKNOWN_TYPE, Outcome, Reason
from .measure import Measurement, TypeMeasurement, Value, WindowMeasurement

__all__ = [
    "CombineRule",
    "Comparison",
    "Limits",
    "Rule",
    "RuleKind",
    "TypeVerdict",
    "Verdict",
    "combined",
    "judge",
    "limits_of",
]

_COVERAGE_FACTOR = 2.0  # k of the expanded uncertainty U


class RuleKind(str, Enum):
    """What a table row says about one type."""

    LEVEL = "LEVEL"
    NONE_PERMITTED = "NONE_PERMITTED"
    NO_REFERENCE = "NO_REFERENCE"
    NOT_APPLICABLE = "NOT_APPLICABLE"
    SIZE_MM = "SIZE_MM"
    AREA_PCT = "AREA_PCT"
    UNLIMITED = "UNLIMITED"
    DRAWING = "DRAWING"
    UNKNOWN = "UNKNOWN"

    def __str__(self) -> str:
        return self.value


class CombineRule(str, Enum):
    """What several types on one part mean together. ANY_FAILS: a part fails when one of its types does. CO_MAX_FAILS:
    two or more types that are each at their greatest permitted level fail it as well (ASTM E802 8.4)."""

    ANY_FAILS = "ANY_FAILS"
    CO_MAX_FAILS = "CO_MAX_FAILS"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked of one type.

    level: 1..8, with LEVEL. limit: mm with SIZE_MM, percent with AREA_PCT. windows_mm: window sides to compare.
    tolerance: "much larger" as a fraction (0.2 = a fifth more than the reference). guard: the factor g.
    min_indication_mm: smaller indications are listed, not counted, in part and reference alike.
    compare_count, compare_spacing: whether the number of indications in a window, and the smallest gap between two of
    them, are metrics too.
    row_id, verbatim, edition: where the rule comes from, in its own words. advisory: not verified by a second person.
    """

    type: str
    kind: RuleKind
    level: int | None = None
    limit: float | None = None
    windows_mm: tuple[float, ...] = ()
    tolerance: float = 0.0
    guard: float = 1.0
    min_indication_mm: float = 0.0
    compare_count: bool = False
    compare_spacing: bool = False
    row_id: str = ""
    verbatim: str = ""
    edition: str = ""
    advisory: bool = False

    def __post_init__(self) -> None:
        where = f"rule for {self.type}"
        if self.kind is RuleKind.LEVEL and (self.level is None or not 1 <= self.level <= 8):
            raise RuleError(f"{where}: LEVEL needs a level from 1 to 8", hint="level = 3")
        if self.kind in (RuleKind.SIZE_MM, RuleKind.AREA_PCT) and (self.limit is None or not 0 <= self.limit < inf):
            raise RuleError(f"{where}: {self.kind} needs a limit that is not negative", hint='limit = "1.5 mm" or 0.5')
        if self.kind in (RuleKind.LEVEL, RuleKind.AREA_PCT) and not self.windows_mm:
            raise RuleError(f"{where}: {self.kind} needs at least one window", hint='windows = ["12.7 mm"]')
        if not all(0 < side < inf for side in self.windows_mm):
            raise RuleError(f"{where}: windows {self.windows_mm} mm", hint='windows = ["12.7 mm"]')
        if not 0 <= self.min_indication_mm < inf:
            raise RuleError(f"{where}: min_indication {self.min_indication_mm} mm", hint='min_indication = "0.4 mm"')
        if not 0 <= self.tolerance <= 10:
            raise RuleError(f"{where}: tolerance {self.tolerance} is outside 0..10", hint="0.2 means a fifth more")
        if not 0 <= self.guard <= 10:
            raise RuleError(f"{where}: guard {self.guard} is outside 0..10", hint="1 is the ISO 14253-1 guard band")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one type, before tolerance: per window side the area and the count, the largest size, the smallest
    gap. None: this plate sets no such limit (its value had to be bent too far to be monotone, or was not measured).

    dropped: the bent values by (metric, window side). A part within one of them is as good as a lower plate; a part
    beyond it is at best INCONCLUSIVE, for nothing says what this plate permits.
    """

    area_pct: Mapping[float, float | None]
    count: Mapping[float, float | None]
    max_size_mm: float | None
    min_gap_mm: float | None = None
    dropped: Mapping[tuple[str, float | None], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric against its limit.

    metric: ``area_pct``, ``count``, ``max_size_mm`` or ``min_gap_mm``; side_mm: the window, None for a size or a gap.
    ratio: value / limit (for a gap, where less is worse, limit / value), None where that divides by 0. permitted: the
    limit with its tolerance. p_conform: probability that the true value conforms (JCGM 106:2012 7.2, normal).
    decides: False for a metric that is shown but that the rule does not name. firm: False for a limit that this plate
    had to drop.
    """

    metric: str
    side_mm: float | None
    value: Value
    limit: float
    permitted: float
    ratio: float | None
    p_conform: float
    outcome: Outcome
    decides: bool = True
    firm: bool = True


@dataclass(frozen=True, slots=True)
class TypeVerdict:
    """The verdict on one type. severity: interpolated level; severity_level: the smallest level the part would meet;
    both None where no graded reference was given, or where the part is worse than the worst plate. zone: of the part,
    "" for the part as a whole or the rest of it. severity_high: the severity with the guard band added to every value;
    None where even that, or the severity, is worse than the worst plate."""

    type: str
    label: int
    rule: Rule
    outcome: Outcome
    reasons: tuple[Reason, ...]
    comparisons: tuple[Comparison, ...]
    measurement: TypeMeasurement
    severity: float | None = None
    severity_level: int | None = None
    zone: str = ""
    severity_high: float | None = None

    @property
    def ranked(self) -> tuple[Comparison, ...]:
        """The comparisons that decide, the one nearest to or farthest above its limit first."""
        found = (one for one in self.comparisons if one.decides and 0 < one.value.value < inf)
        worst_first = sorted(found, key=lambda one: (one.outcome.rank, inf if one.ratio is None else one.ratio))
        return tuple(reversed(worst_first))

    @property
    def governing(self) -> Comparison | None:
        """The comparison nearest to, or farthest above, its limit."""
        return self.ranked[0] if self.ranked else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a part: the worst of all types, with every reason."""

    outcome: Outcome
    reasons: tuple[Reason, ...]
    types: tuple[TypeVerdict, ...]
    advisory: bool = False

    @property
    def result(self) -> str:
        """``PASS`` or ``FAIL`` on the wire."""
        return self.outcome.result


def limits_of(reference: TypeMeasurement) -> Limits:
    """The limits that a measured reference sets: its worst-window values and its largest indication."""
    return Limits(
        area_pct={one.side_mm: one.area_pct.value for one in reference.windows},
        count={one.side_mm: one.count.value for one in reference.windows},
        max_size_mm=reference.max_size_mm.value,
        min_gap_mm=None if reference.min_gap_mm is None else reference.min_gap_mm.value,
    )


def decide(value: float, u: float, limit: float, rule: Rule) -> Outcome:
    """ISO 14253-1 with guard factor g. With limit 0 nothing is permitted: any value above it fails whatever its U."""
    if not (isfinite(value) and isfinite(u) and isfinite(limit)):
        return Outcome.INCONCLUSIVE
    if limit <= 0.0 and value > 0.0:
        return Outcome.FAIL
    permitted = limit * (1.0 + rule.tolerance)
    guard_band = rule.guard * _COVERAGE_FACTOR * u
    if value + guard_band <= permitted:
        return Outcome.PASS
    if value - guard_band > permitted:
        return Outcome.FAIL
    return Outcome.INCONCLUSIVE


def decide_gap(gap_mm: float, u_mm: float, limit_mm: float, rule: Rule) -> Outcome:
    """The same where less is worse. Infinite: there are not two. A reference that shows no two of them permits none."""
    if isnan(gap_mm) or isnan(limit_mm) or not isfinite(u_mm):
        return Outcome.INCONCLUSIVE
    permitted_mm = limit_mm / (1.0 + rule.tolerance)
    guard_band_mm = rule.guard * _COVERAGE_FACTOR * u_mm
    if gap_mm == inf or gap_mm - guard_band_mm >= permitted_mm:
        return Outcome.PASS
    if gap_mm + guard_band_mm < permitted_mm:
        return Outcome.FAIL
    return Outcome.INCONCLUSIVE


def _probability(margin: float, u: float) -> float:
    """Phi(margin / u): the probability that the true value conforms."""
    if u <= 0.0 or not isfinite(margin):
        return 1.0 if margin >= 0.0 else 0.0
    return 0.5 * erfc(-margin / (u * sqrt(2.0)))


def _compare(
    metric: str, side_mm: float | None, value: Value, limit: float, rule: Rule, *, decides: bool = True
) -> Comparison:
    permitted = limit * (1.0 + rule.tolerance)
    return Comparison(
        metric, side_mm, value, limit, permitted,
        ratio=value.value / limit if limit > 0 else None,
        p_conform=_probability(permitted - value.value, value.u),
        outcome=decide(value.value, value.u, limit, rule),
        decides=decides,
    )  # fmt: skip


def _compare_gap(value: Value, limit_mm: float, rule: Rule) -> Comparison:
    permitted_mm = limit_mm / (1.0 + rule.tolerance)
    gap_mm = value.value
    return Comparison(
        "min_gap_mm", None, value, limit_mm, permitted_mm,
        ratio=limit_mm / gap_mm if gap_mm > 0 and limit_mm < inf else None,
        p_conform=1.0 if gap_mm == inf else _probability(gap_mm - permitted_mm, value.u),
        outcome=decide_gap(gap_mm, value.u, limit_mm, rule),
    )  # fmt: skip


def _windows_of(found: TypeMeasurement, rule: Rule) -> tuple[WindowMeasurement, ...]:
    """The windows that the rule names, in its order; RuleError where the part was not measured with one of them."""
    measured = {window.side_mm: window for window in found.windows}
    missing = [side for side in rule.windows_mm if side not in measured]
    if missing:
        raise RuleError(
            f"{rule.type}: the part was not measured with windows of {missing} mm",
            hint="measure it with the windows of the rule",
        )
    return tuple(measured[side] for side in rule.windows_mm)


def _comparisons(found: TypeMeasurement, limits: Limits, rule: Rule) -> tuple[Comparison, ...]:
    """Every metric for which this plate sets a limit."""
    compared = []
    for window in _windows_of(found, rule):
        side_mm = window.side_mm
        if side_mm not in limits.area_pct or (rule.compare_count and side_mm not in limits.count):
            raise RuleError(
                f"{rule.type}: the reference was not measured with a window of {side_mm:g} mm",
                hint="measure it with the windows of the rule",
            )
        area_pct, count = limits.area_pct[side_mm], limits.count.get(side_mm)
        if area_pct is not None:
            compared.append(_compare("area_pct", side_mm, window.area_pct, area_pct, rule))
        elif ("area_pct", side_mm) in limits.dropped:
            compared.append(_weak("area_pct", side_mm, window.area_pct, limits, rule))
        if count is not None:
            compared.append(_compare("count", side_mm, window.count, count, rule, decides=rule.compare_count))
        elif ("count", side_mm) in limits.dropped:
            compared.append(_weak("count", side_mm, window.count, limits, rule, decides=rule.compare_count))
    if limits.max_size_mm is not None:
        compared.append(_compare("max_size_mm", None, found.max_size_mm, limits.max_size_mm, rule))
    elif ("max_size_mm", None) in limits.dropped:
        compared.append(_weak("max_size_mm", None, found.max_size_mm, limits, rule))
    else:
        raise RuleError(f"{rule.type}: the size of the reference was not measured")
    if rule.compare_spacing:
        dropped = limits.dropped.get(("min_gap_mm", None))
        if found.min_gap_mm is None or (limits.min_gap_mm is None and dropped is None):
            raise RuleError(f"{rule.type}: the gaps were not measured", hint="measure part and reference with spacing")
        if limits.min_gap_mm is not None:
            compared.append(_compare_gap(found.min_gap_mm, limits.min_gap_mm, rule))
        elif dropped is not None:
            compared.append(_weakened(_compare_gap(found.min_gap_mm, dropped, rule)))
    return tuple(compared)


def _weak(
    metric: str, side_mm: float | None, value: Value, limits: Limits, rule: Rule, *, decides: bool = True
) -> Comparison:
    """Against a limit this plate had dropped."""
    return _weakened(_compare(metric, side_mm, value, limits.dropped[metric, side_mm], rule, decides=decides))


def _weakened(one: Comparison) -> Comparison:
    """Beyond a dropped limit nothing is proven, either way."""
    outcome = Outcome.INCONCLUSIVE if one.outcome is Outcome.FAIL else one.outcome
    return replace(one, outcome=outcome, firm=False)


def _severity(
    found: TypeMeasurement, rule: Rule, levels: Mapping[int, Limits], *, guarded: bool = False
) -> tuple[float | None, int | None]:
    """(interpolated, smallest level met) over the graded limits; (0.0, 1) for a part without the type.

    A level is met when every deciding value lies at or below that level's limit (tolerance and guard do not enter: this
    is a measurement, not a decision). Between the limits of neighbouring levels a value is interpolated linearly; the
    type's severity is that of its worst metric.
    """
    if not levels:
        return None, None
    ordered = sorted(levels)
    # Limits may only grow with the level (judging: running maximum).
    worst = 0.0
    for index, probe in enumerate(_deciding_values(found, rule, guarded)):
        value, previous_limit, previous_level = probe, 0.0, 0
        ceiling = 0.0
        for level in ordered:
            limit = _deciding_limits(levels[level], found, rule)[index]
            ceiling = ceiling if limit is None else max(ceiling, limit)
            if value <= ceiling:
                span = ceiling - previous_limit
                share = (value - previous_limit) / span if 0 < span < inf else 0.0
                worst = max(worst, previous_level + share * (level - previous_level))
                break
            previous_limit, previous_level = ceiling, level
        else:
            return None, None
    met = next((level for level in ordered if worst <= level), None)
    return worst, met


def _closeness(gap_mm: float | None) -> float | None:
    """A gap as a number that grows with severity: 1 / gap, 0 where there are not two indications."""
    return None if gap_mm is None else (1.0 / gap_mm if gap_mm > 0 else inf)


def _deciding_values(found: TypeMeasurement, rule: Rule, guarded: bool) -> list[float]:
    band = rule.guard * _COVERAGE_FACTOR if guarded else 0.0

    def high(value: Value) -> float:
        return value.value + band * value.u

    values = [high(window.area_pct) for window in found.windows]
    if rule.compare_count:
        values += [window.count.value for window in found.windows]
    if rule.compare_spacing and found.min_gap_mm is not None:
        values.append(_closeness(max(found.min_gap_mm.value - band * found.min_gap_mm.u, 0.0)) or 0.0)
    return [*values, high(found.max_size_mm)]


def _deciding_limits(limits: Limits, found: TypeMeasurement, rule: Rule) -> list[float | None]:
    sides = {window.side_mm for window in found.windows}
    if not sides <= set(limits.area_pct) or (rule.compare_count and not sides <= set(limits.count)):
        raise RuleError(f"{rule.type}: a level was not measured with the windows of the rule")
    values = [limits.area_pct[window.side_mm] for window in found.windows]
    if rule.compare_count:
        values += [limits.count[window.side_mm] for window in found.windows]
    if rule.compare_spacing and found.min_gap_mm is not None:
        values.append(_closeness(limits.min_gap_mm))
    return [*values, limits.max_size_mm]


def _type_verdict(
    found: TypeMeasurement, rule: Rule, limits: Limits | None, levels: Mapping[int, Limits]
) -> TypeVerdict:
    present = any(one.counted for one in found.indications)
    reasons: list[Reason] = []
    comparisons: tuple[Comparison, ...] = ()
    severity: float | None = None
    severity_level: int | None = None
    severity_high: float | None = None

    def refuse(code: str, text: str) -> Outcome:
        reasons.append(Reason(code, f"{rule.type}: {text}"))
        return Outcome.NOT_EVALUABLE

    def against(plate: Limits) -> Outcome:
        """Compare with the reference; a plate whose area says nothing decides nothing."""
        nonlocal comparisons, severity, severity_level, severity_high
        comparisons = _comparisons(found, plate, rule)
        severity, severity_level = _severity(found, rule, levels)
        severity_high, _ = _severity(found, rule, levels, guarded=True)
        if not any(one.metric == "area_pct" and one.firm for one in comparisons):
            return refuse("REFERENCE_BENT", "the areas of this plate are not in order with those of its neighbours")
        return Outcome.worst([one.outcome for one in comparisons if one.decides])

    dropped = any(not one.counted and one.feret_max_mm >= rule.min_indication_mm for one in found.indications)
    if dropped and rule.kind is not RuleKind.UNKNOWN and found.type != UNKNOWN_TYPE:
        raise RuleError(f"{rule.type}: measured with a larger cut-off than the rule's", hint="measure with the rule's")
    if found.type == UNKNOWN_TYPE and found.indications:
        # No rule can make an unknown type PASS; one that permits nothing at all still fails it.
        reasons.append(Reason("UNKNOWN_TYPE", UNKNOWN_MESSAGE))
        outcome = Outcome.INCONCLUSIVE
    elif rule.kind is RuleKind.UNKNOWN and found.type != UNKNOWN_TYPE:
        outcome = refuse("NO_RULE", rule.verbatim or "no rule says how much of it is allowed")
    elif not present:
        outcome = Outcome.PASS
        if rule.kind is RuleKind.LEVEL and limits is None:
            outcome = refuse("NO_REFERENCE", "the reference image was not measured")
        elif rule.kind is RuleKind.LEVEL and limits is not None:
            outcome = against(limits)
    elif rule.kind is RuleKind.NONE_PERMITTED:
        outcome = Outcome.FAIL
        reasons.append(Reason("NONE_PERMITTED", f"{rule.type} found; the rule permits none"))
    elif rule.kind is RuleKind.UNLIMITED:
        outcome = Outcome.PASS
    elif rule.kind is RuleKind.LEVEL:
        outcome = refuse("NO_REFERENCE", "the reference image was not measured") if limits is None else against(limits)
    elif rule.kind is RuleKind.SIZE_MM:
        comparisons = (_compare("max_size_mm", None, found.max_size_mm, rule.limit or 0.0, rule),)
        outcome = comparisons[0].outcome
    elif rule.kind is RuleKind.AREA_PCT:
        comparisons = tuple(
            _compare("area_pct", window.side_mm, window.area_pct, rule.limit or 0.0, rule)
            for window in _windows_of(found, rule)
        )
        outcome = Outcome.worst([one.outcome for one in comparisons])
    elif rule.kind is RuleKind.NO_REFERENCE:
        outcome = refuse("NO_REFERENCE", "found, and there is no reference image for it here")
    elif rule.kind is RuleKind.NOT_APPLICABLE:
        outcome = refuse("NOT_APPLICABLE", "found, although the standard calls it not applicable here")
    elif rule.kind is RuleKind.DRAWING:
        outcome = refuse("DRAWING", "found, and its limit stands on the drawing, which is not entered")
    else:
        outcome = refuse("NO_RULE", "found, and no rule says how much of it is allowed")
    if outcome is Outcome.FAIL and rule.kind is not RuleKind.NONE_PERMITTED:
        reasons.extend(_over_limit(rule, one) for one in comparisons if one.decides and one.outcome is Outcome.FAIL)
    elif outcome is Outcome.INCONCLUSIVE and found.type != UNKNOWN_TYPE:
        reasons.extend(_near_limit(rule, one) for one in comparisons if one.decides and one.outcome is outcome)
    return TypeVerdict(
        rule.type, found.label, rule, outcome, tuple(reasons), comparisons, found, severity, severity_level,
        severity_high=severity_high,
    )  # fmt: skip


_UNIT = {"area_pct": "%", "count": "", "max_size_mm": " mm", "min_gap_mm": " mm"}


def _words(rule: Rule, one: Comparison) -> str:
    unit = _UNIT[one.metric]
    where = f" in a {one.side_mm:g} mm window" if one.side_mm is not None else ""
    return (
        f"{rule.type}: {one.metric} {one.value.value:.4g}{unit} (U {_COVERAGE_FACTOR * one.value.u:.2g}){where}"
        f" at {one.value.at_px[0]},{one.value.at_px[1]}; permitted {one.permitted:.4g}{unit}"
    )


def _over_limit(rule: Rule, one: Comparison) -> Reason:
    return Reason("LIMIT_EXCEEDED", _words(rule, one))


def _near_limit(rule: Rule, one: Comparison) -> Reason:
    if not one.firm:
        return Reason("REFERENCE_BENT", _words(rule, one) + "; this plate is out of order there and decides nothing")
    return Reason("GUARD_BAND", _words(rule, one) + "; the uncertainty does not let this be decided")


def judge(
    part: Measurement,
    rules: Sequence[Rule],
    limits: Mapping[str, Limits],
    *,
    levels: Mapping[str, Mapping[int, Limits]] | None = None,
    refusals: Sequence[Reason] = (),
    combine: CombineRule = CombineRule.ANY_FAILS,
    zone: str = "",
) -> Verdict:
    """Judge a measured part.

    Parameters
    ----------
    part : what was measured.
    rules : one per type that a table row or recipe speaks of. A type that is found and has no rule makes the part
        NOT_EVALUABLE (missing row = UNKNOWN); one that has a rule and is not found is reported as PASS.
    limits : by type, for LEVEL rules.
    levels : by type, the limits of every level of the reference set, for the measured severity.
    refusals : reasons why this image may not be judged at all (gate, expired calibration, ...).
    combine : what several types mean together.
    zone : the name of the zone that was measured, for the reasons.

    Returns
    -------
    The worst outcome over all types: NOT_EVALUABLE > FAIL > INCONCLUSIVE > PASS. Without any rule: NOT_EVALUABLE.
    """
    by_type = {rule.type: rule for rule in rules}
    if len(by_type) != len(rules):
        raise RuleError("two rules for one type", hint="give each type one rule per zone")
    names = [*by_type, *(name for name in part.types if name not in by_type)]
    verdicts = []
    for name in names if not refusals else ():  # a refused image was not looked at: no type of it has a verdict
        rule = by_type.get(name) or Rule(name, RuleKind.UNKNOWN)
        found = part.of(name, rule.windows_mm)
        verdicts.append(_type_verdict(found, rule, limits.get(name), (levels or {}).get(name, {})))
    reasons = list(refusals)
    outcomes = [one.outcome for one in verdicts]
    if refusals:
        outcomes.append(Outcome.NOT_EVALUABLE)
    if not rules:
        outcomes.append(Outcome.NOT_EVALUABLE)
        reasons.append(Reason("NO_RULE", "no recipe and no standard was given, so nothing says what is allowed"))
    together = _together(verdicts) if combine is CombineRule.CO_MAX_FAILS else None
    if together is not None:
        outcomes.append(together[0])
        reasons.append(together[1])
    for one in sorted(verdicts, key=lambda verdict: -verdict.outcome.rank):
        reasons.extend(one.reasons)
    if zone:
        reasons = [replace(reason, text=f"zone {zone}: {reason.text}") for reason in reasons]
        verdicts = [replace(one, zone=zone) for one in verdicts]
    return Verdict(Outcome.worst(outcomes), tuple(reasons), tuple(verdicts), any(rule.advisory for rule in rules))


def combined(verdicts: Sequence[Verdict], combine: CombineRule = CombineRule.ANY_FAILS) -> Verdict:
    """The verdict of a part made of zones: the worst of them, with the reasons of the worst first; and what the types
    of all zones mean together."""
    types = tuple(one for verdict in verdicts for one in verdict.types)
    together = _together(types) if combine is CombineRule.CO_MAX_FAILS else None
    if together is not None:
        verdicts = [*verdicts, Verdict(together[0], (together[1],), ())]
    ordered = sorted(verdicts, key=lambda one: -one.outcome.rank)
    return Verdict(
        Outcome.worst([one.outcome for one in verdicts]),
        tuple(dict.fromkeys(reason for one in ordered for reason in one.reasons)),
        types,
        any(one.advisory for one in verdicts),
    )


def _together(verdicts: Sequence[TypeVerdict]) -> tuple[Outcome, Reason] | None:
    """ASTM E802 8.4: two or more types that are each at their greatest permitted level, wherever on the part.

    A type is there when it meets its own level and not the one below; within its guard band it may be, and one without
    graded plates counts as being there. FAIL where at least two are, INCONCLUSIVE where two may be.
    """
    surely, perhaps = set(), set()
    for one in verdicts:
        level = one.rule.level
        found = any(indication.counted for indication in one.measurement.indications)
        if one.rule.kind is not RuleKind.LEVEL or one.outcome is Outcome.NOT_EVALUABLE or not found:
            continue
        if level is None or one.severity is None or one.severity > level - 1:
            surely.add(one.type)
        if level is None or one.severity_high is None or one.severity_high > level - 1:
            perhaps.add(one.type)
    names, outcome = (surely, Outcome.FAIL) if len(surely) > 1 else (surely | perhaps, Outcome.INCONCLUSIVE)
    if len(names) < 2:
        return None
    sure = "" if outcome is Outcome.FAIL else "within its uncertainty "
    text = f"{', '.join(sorted(names))}: each {sure}at its greatest permitted level; together they are not permitted"
    return outcome, Reason("CO_MAX", text)
