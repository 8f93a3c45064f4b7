"""The report of a lot: how many of what, which types, the worst parts, and how far from the limit over time.

Everything comes from the stored records; each is read once and only a few words of it are kept.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from ... import __version__
from ..reading import governing_ratio, record_sha256, recorded_utc
from ..words import Words
from . import Report
from .charts import Bar, Stack, Whisker, bars, stacks, whiskers
from .content import Fact, tone

__all__ = ["LotPart", "lot_part", "lot_report", "ppk", "wilson"]

_OUTCOMES = ("PASS", "INCONCLUSIVE", "FAIL", "NOT_EVALUABLE")
_WORST = 20
_MOST_PERIODS = 40
_LEAST_FOR_PPK = 1000


@dataclass(frozen=True, slots=True)
class LotPart:
    """What a lot's report keeps of one record. ratio: the governing value over what is permitted (1 is the limit),
    infinite where something was found of which nothing is permitted, None where nothing was compared."""

    record_id: str
    part_id: int | None
    when: datetime | None
    outcome: str
    advisory: bool
    reasons: tuple[str, ...]
    types: tuple[str, ...]
    ratio: float | None
    recipe: str
    engine: str
    withdrawn: bool
    sha256: str


def lot_part(document: Mapping[str, Any]) -> LotPart:
    """The few words of a record."""
    stamp = recorded_utc(document)
    return LotPart(
        record_id=document["record_id"],
        part_id=document.get("part_id"),
        when=None if stamp is None else datetime.fromisoformat(stamp.replace("Z", "+00:00")),
        outcome=document["outcome"],
        advisory=bool(document["advisory"]),
        reasons=tuple(dict.fromkeys(one["code"] for one in document["reasons"])),
        types=tuple(sorted({one["type"] for one in document["defects"]})),
        ratio=governing_ratio(document),
        recipe=str(document.get("recipe") or ""),
        engine=f"{document['engine']['name']} {document['engine']['sha256'][:16]}",
        withdrawn=any(one["code"] == "CERTIFICATE_WITHDRAWN" for one in document.get("notices") or ()),
        sha256=record_sha256(document),
    )


def wilson(good: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson's score), 0 <= low <= high <= 1."""
    if of == 0:
        return 0.0, 1.0
    z, share = 1.959963984540054, good / of
    middle = share + z * z / (2 * of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    low, high = (middle - half) / (1 + z * z / of), (middle + half) / (1 + z * z / of)
    return (0.0 if good == 0 else low), (1.0 if good == of else high)


def ppk(ratios: Sequence[float]) -> float | None:
    """Process performance against the one upper limit 1, by quantiles (ISO 22514-2): (1 - X50) / (X99.865 - X50).

    None below 1,000 values, where that quantile is a guess, and where the values do not spread or are not finite there.
    """
    if len(ratios) < _LEAST_FOR_PPK:
        return None
    middle, far = _quantile(ratios, 0.5), _quantile(ratios, 0.99865)
    return None if not math.isfinite(far) or far <= middle else (1.0 - middle) / (far - middle)


def _quantile(values: Sequence[float], share: float) -> float:
    """The value that at least ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def lot_report(documents: Iterable[Mapping[str, Any]], *, name: str = "", words: Words | None = None) -> Report:
    """The report of these records, in any order. name: of the lot, for its head. The same records, the same bytes."""
    spoken = words or Words()
    earliest = datetime.min.replace(tzinfo=timezone.utc)
    parts = sorted((lot_part(one) for one in documents), key=lambda one: (one.when or earliest, one.record_id))
    title = spoken("lot.title")
    content = {"title": title, **_content(parts, name, spoken)}
    return Report("lot.html", content, {}, spoken, f"{title} {name}".strip())


def _content(parts: Sequence[LotPart], name: str, words: Words) -> dict[str, Any]:
    counts = Counter(one.outcome for one in parts)
    passed = counts["PASS"]
    low, high = wilson(passed, len(parts))
    ratios = [one.ratio for one in parts if one.ratio is not None]
    performance = ppk(ratios)
    whens = [one.when for one in parts if one.when is not None]
    digest = hashlib.sha256("\n".join(one.sha256 for one in parts).encode()).hexdigest()
    periods = _periods(parts)
    recipes, engines = sorted({one.recipe for one in parts if one.recipe}), sorted({one.engine for one in parts})
    types = _pareto(parts, words)
    unjudged = Counter(code for one in parts if one.outcome == "NOT_EVALUABLE" for code in one.reasons)
    heights = [Stack(label, tuple(sum(one.outcome == kind for one in group) for kind in _OUTCOMES))
               for label, group in periods]  # fmt: skip
    return {
        "name": name,
        "count": len(parts),
        "passed": passed,
        "rejected": len(parts) - passed,
        "share": "–" if not parts else f"{100 * passed / len(parts):.1f} %",
        "share_interval": f"{100 * low:.1f} – {100 * high:.1f} %",
        "outcomes": [(words(f"outcome.{one}"), tone(one), counts[one], _percent(counts[one], len(parts)))
                     for one in _OUTCOMES],
        "advisory": sum(one.advisory for one in parts),
        "withdrawn": sum(one.withdrawn for one in parts),
        "unknown": sum("unknown" in one.types for one in parts),
        "facts": [
            Fact(words("lot.first"), _moment(min(whens, default=None)), quoted=True),
            Fact(words("lot.last"), _moment(max(whens, default=None)), quoted=True),
            Fact(words("fact.recipe"), ", ".join(recipes) or "–", quoted=True),
            Fact(words("engine.name"), ", ".join(engines) or "–", quoted=True),
            Fact(words("lot.records"), digest, quoted=True),
        ],
        "pareto": types,
        "pareto_chart": bars([Bar(label, value, share) for label, value, share in types]),
        "unjudged": unjudged.most_common(),
        "worst": [_worst_row(one, words) for one in _worst(parts)],
        "periods": [_period_row(label, group) for label, group in periods],
        "trend_chart": whiskers([_whisker(label, group) for label, group in periods], words("lot.over_time")),
        "outcome_chart": stacks(heights, tuple(words(f"outcome.{one}") for one in _OUTCOMES)),
        "ppk": "–" if performance is None else f"{performance:.2f}",
        "ppk_note": words("lot.ppk_known" if performance is not None else "lot.ppk_unknown", count=len(ratios)),
        "foot": words("lot.foot", count=len(parts), digest=digest[:16], version=__version__),
    }  # fmt: skip


def _percent(count: int, of: int) -> str:
    return "–" if of == 0 else f"{100 * count / of:.1f} %"


def _moment(when: datetime | None) -> str:
    return "–" if when is None else when.strftime("%Y-%m-%d %H:%M:%S UTC")


def _pareto(parts: Sequence[LotPart], words: Words) -> list[tuple[str, int, float]]:
    """(type, parts that show it, cumulated share of all such findings), the most frequent first."""
    found = Counter(name for one in parts for name in one.types)
    total, running, rows = sum(found.values()), 0, []
    for identifier, count in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        running += count
        rows.append((words.type_name(identifier), count, running / total))
    return rows


def _worst(parts: Sequence[LotPart]) -> list[LotPart]:
    """Those that did not pass, the farthest above their limit first; parts that were not judged have no place here."""
    judged = [one for one in parts if one.outcome in ("FAIL", "INCONCLUSIVE")]
    rank = {"FAIL": 1, "INCONCLUSIVE": 0}
    judged.sort(key=lambda one: (-rank[one.outcome], -(one.ratio if one.ratio is not None else -1.0), one.record_id))
    return judged[:_WORST]


def _worst_row(one: LotPart, words: Words) -> dict[str, Any]:
    return {
        "part": "–" if one.part_id is None else str(one.part_id),
        "record": one.record_id,
        "when": _moment(one.when),
        "outcome": words(f"outcome.{one.outcome}"),
        "tone": tone(one.outcome),
        "ratio": _ratio_text(one.ratio),
        "types": ", ".join(words.type_name(name) for name in one.types),
    }


def _ratio_text(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return "∞" if math.isinf(ratio) else f"{ratio:.2f}"


# ---------------------------------------------------------------- over time


def _periods(parts: Sequence[LotPart]) -> list[tuple[str, list[LotPart]]]:
    """Parts by the shortest of ten minutes, hour, day, week, 30 days that gives at most forty periods."""
    timed = [(one.when, one) for one in parts if one.when is not None]
    if not timed:
        return []
    first, last = timed[0][0], timed[-1][0]
    steps = (timedelta(minutes=10), timedelta(hours=1), timedelta(days=1), timedelta(weeks=1), timedelta(days=30))
    step = next((one for one in steps if (last - first) / one < _MOST_PERIODS), timedelta(days=365))
    epoch = datetime(2001, 1, 1, tzinfo=timezone.utc)  # a Monday
    groups: dict[int, list[LotPart]] = {}
    for when, one in timed:
        groups.setdefault((when - epoch) // step, []).append(one)
    shape = "%H:%M" if step < timedelta(hours=1) else "%d %H:00" if step < timedelta(days=1) else "%Y-%m-%d"
    return [((epoch + number * step).strftime(shape), group) for number, group in sorted(groups.items())]


def _finite(group: Sequence[LotPart]) -> list[float]:
    return [one.ratio for one in group if one.ratio is not None and math.isfinite(one.ratio)]


def _whisker(label: str, group: Sequence[LotPart]) -> Whisker:
    ratios = _finite(group)
    beyond = sum(one.ratio is not None and math.isinf(one.ratio) for one in group)
    if not ratios:
        return Whisker(label, None, None, None, None, beyond)
    return Whisker(label, _quantile(ratios, 0.05), _quantile(ratios, 0.5), _quantile(ratios, 0.95), max(ratios), beyond)


def _period_row(label: str, group: Sequence[LotPart]) -> dict[str, Any]:
    good = sum(one.outcome == "PASS" for one in group)
    low, high = wilson(good, len(group))
    ratios = [one.ratio for one in group if one.ratio is not None]
    return {
        "label": label,
        "count": len(group),
        "share": _percent(good, len(group)),
        "interval": f"{100 * low:.0f} – {100 * high:.0f} %",
        "median": _ratio_text(_quantile(ratios, 0.5) if ratios else None),
        "high": _ratio_text(_quantile(ratios, 0.95) if ratios else None),
    }
