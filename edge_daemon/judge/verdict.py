"""Rules, limits and the decision.

A rule says what a table row asks of one type. The limits of a LEVEL rule are the worst-window values of its reference
image, measured by the same code as the part. With T = limit x (1 + tolerance) and U = 2u (k = 2):

    value + g U <= T  PASS        value - g U > T  FAIL        otherwise INCONCLUSIVE

ISO 14253-1:2017 (conformance with a guard band) and ILAC-G8:09/2019 4.2: g = 1 keeps the false-accept risk at the limit
below 2.5 %; g = 0 is simple acceptance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf, isfinite

from ..errors import RuleError
from ..records import UNKNOWN_MESSAGE, UNKNOWN_TYPE, Outcome, Reason
from .measure import Measurement, TypeMeasurement, Value, WindowMeasurement

__all__ = ["Comparison", "Limits", "Rule", "RuleKind", "TypeVerdict", "Verdict", "judge", "limits_of"]

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


@dataclass(frozen=True, slots=True)
class Rule:
    """What is asked of one type.

    level: 1..8, with LEVEL. limit: mm with SIZE_MM, percent with AREA_PCT. windows_mm: window sides to compare.
    tolerance: "much larger" as a fraction (0.2 = a fifth more than the reference). guard: the factor g.
    min_indication_mm: smaller indications are listed, not counted, in part and reference alike.
    compare_count: whether the number of indications in a window is a metric too.
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
    """The limits of one type, before tolerance: per window side the area and the count, and the largest size."""

    area_pct: Mapping[float, float]
    count: Mapping[float, float]
    max_size_mm: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric against its limit.

    metric: ``area_pct``, ``count`` or ``max_size_mm``; side_mm: the window, None for a size. ratio: value / limit,
    None where the limit is 0. decides: False for a metric that is shown but that the rule does not name.
    """

    metric: str
    side_mm: float | None
    value: Value
    limit: float | None
    ratio: float | None
    outcome: Outcome
    decides: bool = True


@dataclass(frozen=True, slots=True)
class TypeVerdict:
    """The verdict on one type. severity: interpolated level; severity_level: the smallest level the part would meet;
    both None where no graded reference was given, or where the part is worse than the worst plate."""

    type: str
    label: int
    rule: Rule
    outcome: Outcome
    reasons: tuple[Reason, ...]
    comparisons: tuple[Comparison, ...]
    measurement: TypeMeasurement
    severity: float | None = None
    severity_level: int | None = None

    @property
    def governing(self) -> Comparison | None:
        """The comparison nearest to, or farthest above, its limit."""
        ranked = sorted(
            (one for one in self.comparisons if one.decides and one.value.value > 0),
            key=lambda one: (one.outcome.rank, float("inf") if one.ratio is None else one.ratio),
        )
        return ranked[-1] if ranked else None


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


def _compare(
    metric: str, side_mm: float | None, value: Value, limit: float, rule: Rule, *, decides: bool = True
) -> Comparison:
    ratio = value.value / limit if limit > 0 else None
    return Comparison(metric, side_mm, value, limit, ratio, decide(value.value, value.u, limit, rule), decides)


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
    compared = []
    for window in _windows_of(found, rule):
        if window.side_mm not in limits.area_pct or (rule.compare_count and window.side_mm not in limits.count):
            raise RuleError(
                f"{rule.type}: the reference was not measured with a window of {window.side_mm:g} mm",
                hint="measure it with the windows of the rule",
            )
        compared.append(_compare("area_pct", window.side_mm, window.area_pct, limits.area_pct[window.side_mm], rule))
        if window.side_mm in limits.count:
            limit = limits.count[window.side_mm]
            compared.append(_compare("count", window.side_mm, window.count, limit, rule, decides=rule.compare_count))
    compared.append(_compare("max_size_mm", None, found.max_size_mm, limits.max_size_mm, rule))
    return tuple(compared)


def _severity(found: TypeMeasurement, rule: Rule, levels: Mapping[int, Limits]) -> tuple[float | None, int | None]:
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
    for index, probe in enumerate(_deciding_values(found, rule)):
        value, previous_limit, previous_level = probe, 0.0, 0
        ceiling = 0.0
        for level in ordered:
            ceiling = max(ceiling, _deciding_limits(levels[level], found, rule)[index])
            if value <= ceiling:
                span = ceiling - previous_limit
                share = (value - previous_limit) / span if span > 0 else 0.0
                worst = max(worst, previous_level + share * (level - previous_level))
                break
            previous_limit, previous_level = ceiling, level
        else:
            return None, None
    met = next((level for level in ordered if worst <= level), None)
    return worst, met


def _deciding_values(found: TypeMeasurement, rule: Rule) -> list[float]:
    values = [window.area_pct.value for window in found.windows]
    if rule.compare_count:
        values += [window.count.value for window in found.windows]
    return [*values, found.max_size_mm.value]


def _deciding_limits(limits: Limits, found: TypeMeasurement, rule: Rule) -> list[float]:
    sides = {window.side_mm for window in found.windows}
    if not sides <= set(limits.area_pct) or (rule.compare_count and not sides <= set(limits.count)):
        raise RuleError(f"{rule.type}: a level was not measured with the windows of the rule")
    values = [limits.area_pct[window.side_mm] for window in found.windows]
    if rule.compare_count:
        values += [limits.count[window.side_mm] for window in found.windows]
    return [*values, limits.max_size_mm]


def _type_verdict(
    found: TypeMeasurement, rule: Rule, limits: Limits | None, levels: Mapping[int, Limits]
) -> TypeVerdict:
    present = any(one.counted for one in found.indications)
    reasons: list[Reason] = []
    comparisons: tuple[Comparison, ...] = ()
    severity: float | None = None
    severity_level: int | None = None

    def refuse(code: str, text: str) -> Outcome:
        reasons.append(Reason(code, f"{rule.type}: {text}"))
        return Outcome.NOT_EVALUABLE

    dropped = any(not one.counted and one.feret_max_mm >= rule.min_indication_mm for one in found.indications)
    if dropped and rule.kind is not RuleKind.UNKNOWN and found.type != UNKNOWN_TYPE:
        raise RuleError(f"{rule.type}: measured with a larger cut-off than the rule's", hint="measure with the rule's")
    if found.type == UNKNOWN_TYPE and found.indications:
        # No rule can make an unknown type PASS; one that permits nothing at all still fails it.
        reasons.append(Reason("UNKNOWN_TYPE", UNKNOWN_MESSAGE))
        outcome = Outcome.INCONCLUSIVE
    elif rule.kind is RuleKind.UNKNOWN and found.type != UNKNOWN_TYPE:
        outcome = refuse("NO_RULE", "no rule says how much of it is allowed")
    elif not present:
        outcome = Outcome.PASS
        if rule.kind is RuleKind.LEVEL and limits is None:
            outcome = refuse("NO_REFERENCE", "the reference image was not measured")
        elif rule.kind is RuleKind.LEVEL and limits is not None:
            comparisons = _comparisons(found, limits, rule)
            severity, severity_level = _severity(found, rule, levels)
    elif rule.kind is RuleKind.NONE_PERMITTED:
        outcome = Outcome.FAIL
        reasons.append(Reason("NONE_PERMITTED", f"{rule.type} found; the rule permits none"))
    elif rule.kind is RuleKind.UNLIMITED:
        outcome = Outcome.PASS
    elif rule.kind is RuleKind.LEVEL:
        if limits is None:
            outcome = refuse("NO_REFERENCE", "the reference image was not measured")
        else:
            comparisons = _comparisons(found, limits, rule)
            severity, severity_level = _severity(found, rule, levels)
            outcome = Outcome.worst([one.outcome for one in comparisons if one.decides])
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
        outcome = refuse("NO_REFERENCE", "found, and the standard gives no reference image for it")
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
        rule.type, found.label, rule, outcome, tuple(reasons), comparisons, found, severity, severity_level
    )


_UNIT = {"area_pct": "%", "count": "", "max_size_mm": " mm"}


def _words(rule: Rule, one: Comparison) -> str:
    unit = _UNIT[one.metric]
    where = f" in a {one.side_mm:g} mm window" if one.side_mm is not None else ""
    limit = one.limit or 0.0
    return (
        f"{rule.type}: {one.metric} {one.value.value:.4g}{unit} (U {_COVERAGE_FACTOR * one.value.u:.2g}){where}"
        f" at {one.value.at_px[0]},{one.value.at_px[1]}; permitted {limit * (1 + rule.tolerance):.4g}{unit}"
    )


def _over_limit(rule: Rule, one: Comparison) -> Reason:
    return Reason("LIMIT_EXCEEDED", _words(rule, one))


def _near_limit(rule: Rule, one: Comparison) -> Reason:
    return Reason("GUARD_BAND", _words(rule, one) + "; the uncertainty does not let this be decided")


def judge(
    part: Measurement,
    rules: Sequence[Rule],
    limits: Mapping[str, Limits],
    *,
    levels: Mapping[str, Mapping[int, Limits]] | None = None,
    refusals: Sequence[Reason] = (),
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
    for one in sorted(verdicts, key=lambda verdict: -verdict.outcome.rank):
        reasons.extend(one.reasons)
    return Verdict(Outcome.worst(outcomes), tuple(reasons), tuple(verdicts), any(rule.advisory for rule in rules))
