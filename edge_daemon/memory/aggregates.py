"""Statistics from what is counted while records are stored: by day, ISO week, line, recipe, engine or type.

They cover everything ever stored in this bank, also where retention has removed the records since: how many parts were
good in March does not change when March's records go. A day is a UTC day of the trigger.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from ..errors import UsageError
from .backend import Backend
from .finding import Wanted
from .rows import STATISTICS_BY, Statistic

__all__ = ["statistics"]

_SUMS = (
    "sum(parts), sum(passed), sum(pass_parts), sum(inconclusive), sum(fail), sum(not_evaluable), sum(advisory),"
    " sum(unknown_parts), sum(indications), sum(area_mm2), sum(confidence_sum), sum(confidence_n),"
    " sum(segment_ms_sum), sum(segment_ms_n), sum(confirmed), sum(wrong_type), sum(missed), sum(false_calls)"
)
_TYPE_SUMS = (
    "sum(parts), sum(passed), 0, 0, 0, 0, sum(advisory), 0, sum(indications), sum(area_mm2), sum(confidence_sum),"
    " sum(confidence_n), 0, 0, sum(confirmed), sum(wrong_type), sum(missed), sum(false_calls)"
)
_COLUMN = {"day": "day", "week": "day", "line": "station", "recipe": "recipe", "engine": "engine", "type": "type"}
_OUTCOMES = ("PASS", "INCONCLUSIVE", "FAIL", "NOT_EVALUABLE")


def statistics(
    db: Backend, by: str, *, since: str | None, until: str | None, recipe: str | None, station: str | None
) -> list[Statistic]:
    """One line a key, in the order of the keys; see MemoryBank.statistics."""
    if by not in STATISTICS_BY:
        raise UsageError(f"statistics by {by!r} are not known", hint="one of: " + ", ".join(STATISTICS_BY))
    wanted = Wanted(since=since, until=until)
    for name, value in (("since", since), ("until", until)):
        if value is not None and len(value.rstrip("Z")) > len("2026-01-31"):
            raise UsageError(f"{name}: {value!r} is finer than a day", hint="statistics are by UTC day: 2026-01-31")
    low, high = wanted.span()
    given = {"station": station, "recipe": recipe}
    clauses = ["day >= ?", "day <= ?", *(f"{name} = ?" for name, value in given.items() if value is not None)]
    if by == "type":
        # Rows of no station count all of them: a tenth of what there would be to add up.
        clauses.append("station = ''" if station is None and recipe is None else "station <> ''")
    conditions = " AND ".join(clauses)
    values = (low, high, *(value for value in given.values() if value is not None))
    table, sums = ("type_days", _TYPE_SUMS) if by == "type" else ("performance", _SUMS)
    column = _COLUMN[by]
    rows = db.query(f"SELECT {column}, {sums} FROM {table} WHERE {conditions} GROUP BY {column}", values)
    summed: dict[str, list[Any]] = {}
    for key, *figures in rows:
        name = _week(key) if by == "week" else key
        before = summed.setdefault(name, [0] * len(figures))
        summed[name] = [a + float(b) for a, b in zip(before, figures, strict=True)]
    return [_statistic(key, figures, typed=by == "type") for key, figures in sorted(summed.items())]


def _week(day: str) -> str:
    try:
        year, week, _ = date.fromisoformat(day).isocalendar()
    except ValueError:  # a trigger whose time is none is counted under what it says
        return day
    return f"{year}-W{week:02d}"


def _statistic(key: str, figures: list[Any], *, typed: bool) -> Statistic:
    (parts, passed, *outcomes, advisory, unknown, indications, area, confidence, confidence_n, ms, ms_n) = figures[:-4]
    outcomes_by_name = {} if typed else dict(zip(_OUTCOMES, map(int, outcomes), strict=True))
    return Statistic(
        key, int(parts), int(passed), int(parts - passed), outcomes_by_name, int(advisory), int(unknown),
        int(indications), float(area), float(confidence) / confidence_n if confidence_n else None,
        float(ms) / ms_n if ms_n else None, *(int(one) for one in figures[-4:]),
    )  # fmt: skip
