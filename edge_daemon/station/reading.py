"""What a stored record says, read for people. Nothing here decides: what was decided stands in the record.

A record is the JSON object of ``inspect --json`` (what the line adds to it included). Records of older releases lack
fields; what is not there is shown as not there, never guessed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any

from .words import Words

__all__ = [
    "Comparison",
    "comparisons",
    "file_name",
    "found_count",
    "governing_ratio",
    "record_sha256",
    "recorded_utc",
    "reference_name",
    "rule_sentence",
    "severity_text",
    "to_pass",
    "uncertain",
]

Document = Mapping[str, Any]

_COVERAGE_FACTOR = 2.0  # k of U, as the judge's
_UNITS = {"area_pct": "%", "count": "", "max_size_mm": "mm", "min_gap_mm": "mm"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measured value of one type against its limit, as recorded.

    metric: area_pct, count, max_size_mm, min_gap_mm. u: standard uncertainty (k = 1). outcome: None where nothing was
    compared, or an older record does not say. decides: False for a value that is shown but that the rule does not name.
    """

    metric: str
    side_mm: float | None
    value: float | None
    u: float
    limit: float | None
    permitted: float | None
    ratio: float | None
    p_conform: float | None
    at_px: tuple[int, int]
    budget: Mapping[str, float]
    outcome: str | None
    decides: bool
    firm: bool

    @property
    def unit(self) -> str:
        """The value's unit, "" for a number of things."""
        return _UNITS[self.metric]


def _comparison(metric: str, side_mm: float | None, one: Document) -> Comparison:
    x, y = one.get("at_px") or (0, 0)
    return Comparison(
        metric, side_mm, one["value"], float(one["u"]), one.get("limit"), one.get("permitted"), one.get("ratio"),
        one.get("p_conform"), (int(x), int(y)), one.get("budget") or {}, one.get("outcome"),
        bool(one.get("decides", True)), bool(one.get("firm", True)),
    )  # fmt: skip


def comparisons(entry: Document) -> Iterator[Comparison]:
    """Every value of one entry of the record's ``types``, windows first."""
    for window in entry["windows"]:
        for metric in ("area_pct", "count"):
            yield _comparison(metric, window["side_mm"], window[metric])
    yield _comparison("max_size_mm", None, entry["max_size_mm"])
    if entry.get("min_gap_mm") is not None:
        yield _comparison("min_gap_mm", None, entry["min_gap_mm"])


def uncertain(value: float | None, u: float, unit: str = "") -> str:
    """``5.8 ± 1.1 %``: the value and its expanded uncertainty (k = 2), rounded to two digits of the uncertainty."""
    if value is None:
        return "–"
    after = f"\u00a0{unit}" if unit else ""
    expanded = _COVERAGE_FACTOR * u
    if not expanded > 0.0:
        return f"{value:.4g}{after}"
    digits = max(0, 1 - math.floor(math.log10(expanded)))
    return f"{value:.{digits}f}\u00a0±\u00a0{expanded:.{digits}f}{after}"


def plain(value: float | None, unit: str = "") -> str:
    """A limit: four digits, or a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.4g}" + (f"\u00a0{unit}" if unit else "")


def found_count(document: Document, entry: Document) -> int:
    """Indications of the entry's type on the whole part."""
    return sum(one["type"] == entry["type"] for one in document["defects"])


def governing_ratio(document: Document) -> float | None:
    """The largest deciding ratio of the whole part to what is permitted (1 is the limit with its tolerance).

    None where nothing was compared; infinite where something was found of which nothing is permitted.
    """
    worst: float | None = None
    for entry in document["types"]:
        for one in comparisons(entry):
            ratio = _share(one)
            if ratio is not None and one.decides:
                worst = ratio if worst is None else max(worst, ratio)
        if entry["rule"]["kind"] == "NONE_PERMITTED" and entry["outcome"] == "FAIL":
            worst = math.inf
    return worst


def _share(one: Comparison) -> float | None:
    if one.value is None or one.permitted is None:
        return None
    if one.metric == "min_gap_mm":
        return one.permitted / one.value if one.value > 0 else math.inf
    if one.permitted > 0:
        return one.value / one.permitted
    return math.inf if one.value > 0 else 0.0


def rule_sentence(entry: Document, words: Words) -> str:
    """What the rule asks, in a sentence."""
    rule = entry["rule"]
    sentence = words(f"rule.{rule['kind']}", level=rule["level"], limit=_rule_limit(entry))
    extra = []
    if rule.get("tolerance"):
        extra.append(words("rule.tolerance", percent=f"{100 * rule['tolerance']:g}"))
    if rule["kind"] in ("LEVEL", "SIZE_MM", "AREA_PCT"):
        extra.append(words("rule.guard", guard=f"{rule['guard']:g}"))
    return "; ".join([sentence, *extra]) + "."


def _rule_limit(entry: Document) -> str:
    """The limit of a rule in absolute numbers; it stands with what was compared with it."""
    kind = entry["rule"]["kind"]
    metric = {"SIZE_MM": "max_size_mm", "AREA_PCT": "area_pct"}.get(kind)
    found = next((one for one in comparisons(entry) if one.metric == metric and one.limit is not None), None)
    return "" if found is None else plain(found.limit, found.unit)


def severity_text(entry: Document, words: Words) -> str | None:
    """The measured severity with its upper bound; None where the rule has no graded reference."""
    if entry["rule"]["kind"] != "LEVEL" or not any(one.limit is not None for one in comparisons(entry)):
        return None
    if entry["severity"] is None:
        return words("severity.worse")
    high = entry.get("severity_high")
    text = words("severity.value", value=f"{entry['severity']:.1f}", level=entry["severity_level"])
    if "severity_high" not in entry:
        return text
    return f"{text} {words('severity.high', value=f'{high:.1f}') if high is not None else words('severity.high_worse')}"


def to_pass(document: Document, words: Words) -> list[str]:
    """What would have to be smaller (or farther apart) for the part to pass; empty for one that passes."""
    if document["outcome"] == "PASS":
        return []
    needs: list[str] = []
    for entry in document["types"]:
        name = words.type_name(entry["type"])
        if entry["outcome"] in ("PASS", "NOT_EVALUABLE"):
            continue
        if entry["type"] == "unknown":
            needs.append(words("need.unknown"))
        elif entry["rule"]["kind"] == "NONE_PERMITTED":
            needs.append(words("need.none", type=name, count=found_count(document, entry)))
        else:
            needs += [_need(one, name, entry["rule"]["guard"], words) for one in comparisons(entry)
                      if one.decides and one.outcome in ("FAIL", "INCONCLUSIVE")]  # fmt: skip
    if any(reason["code"] == "CO_MAX" for reason in document["reasons"]):
        needs.append(words("need.co_max"))
    if document["outcome"] == "NOT_EVALUABLE":
        needs.append(words("need.not_evaluable"))
    return needs


def _need(one: Comparison, name: str, guard: float, words: Words) -> str:
    what = metric_name(one, words)
    measured, permitted = uncertain(one.value, one.u, one.unit), plain(one.permitted, one.unit)
    if not one.firm:
        return words("need.bent", type=name, what=what, measured=measured)
    band = guard * _COVERAGE_FACTOR * one.u
    if one.metric == "min_gap_mm":
        return words("need.gap", type=name, what=what, measured=measured, permitted=permitted,
                     needed=plain((one.permitted or 0.0) + band, one.unit))  # fmt: skip
    needed = (one.permitted or 0.0) - band
    if needed <= 0.0:
        return words("need.impossible", type=name, what=what, measured=measured, permitted=permitted,
                     band=plain(band, one.unit))  # fmt: skip
    return words("need.smaller", type=name, what=what, measured=measured, permitted=permitted,
                 needed=plain(needed, one.unit))  # fmt: skip


def metric_name(one: Comparison, words: Words) -> str:
    """``area in the worst 12.7 mm window``."""
    side = "" if one.side_mm is None else f"{one.side_mm:g}"
    return words(f"metric.{one.metric}", side=side)


def recorded_utc(document: Document) -> str | None:
    """When the part was triggered; for a picture from a file, when it was inspected (the record id knows)."""
    stated = document.get("trigger_utc")
    if stated:
        return str(stated)
    digits = str(document["record_id"]).replace("-", "")
    if len(digits) != 32 or digits[12] != "7":
        return None
    try:
        moment = datetime.fromtimestamp(int(digits[:12], 16) / 1000.0, timezone.utc)
    except (ValueError, OverflowError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def record_sha256(document: Document) -> str:
    """Hash of the record's canonical form (keys sorted, no blanks, UTF-8): says which record a page was made from."""
    canonical = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_name(path: str | None) -> str:
    """The last part of a path, whatever machine it is from."""
    return "–" if not path else PurePosixPath(str(path).replace("\\", "/")).name


def reference_name(path: str | None) -> str | None:
    """``demo/aluminum/6.35mm/gas_porosity_round/5.png``: a reference picture without the folders of the machine."""
    if not path:
        return None
    parts = PurePosixPath(str(path).replace("\\", "/")).parts
    start = next((index + 1 for index in range(len(parts) - 1, -1, -1) if parts[index] == "references"), None)
    return "/".join(parts[start:] if start is not None else parts[-5:])
