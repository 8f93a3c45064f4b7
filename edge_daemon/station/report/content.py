"""From a stored record to what its report says, in one language: tables of texts, nothing measured anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ... import __version__
from ..reading import (
    Comparison,
    comparisons,
    file_name,
    found_count,
    metric_name,
    plain,
    record_sha256,
    recorded_utc,
    reference_name,
    rule_sentence,
    severity_text,
    to_pass,
    uncertain,
)
from ..words import Words
from .figures import Figure

__all__ = ["Budget", "Fact", "QuietRule", "TypeSection", "ValueRow", "report_content"]

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what it is. quoted: an identifier, read from left to right in every language."""

    name: str
    text: str
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class ValueRow:
    """One measured value with its limit, as texts; tone: pass, fail, inconclusive, quiet."""

    what: str
    measured: str
    limit: str
    permitted: str
    ratio: str
    p_conform: str
    finding: str
    tone: str
    at: str


@dataclass(frozen=True, slots=True)
class TypeSection:
    """One type that was found, compared or could not be decided."""

    name: str
    identifier: str
    zone: str | None
    outcome: str
    tone: str
    rule: str
    verbatim: str | None
    row: str
    advisory: bool
    reference: str | None
    severity: str | None
    count: int
    values: tuple[ValueRow, ...]


@dataclass(frozen=True, slots=True)
class QuietRule:
    """One rule and the types that were looked for under it and not found."""

    names: tuple[str, ...]
    zone: str | None
    rule: str
    verbatim: str | None
    row: str
    advisory: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """Where the uncertainty of one value comes from: parts (name, k = 1), the sum, the expanded uncertainty."""

    what: str
    parts: tuple[Fact, ...]
    u: str
    expanded: str


def tone(outcome: str) -> str:
    """The class of an outcome: pass, fail, inconclusive, not-evaluable."""
    return outcome.lower().replace("_", "-")


def report_content(document: Document, figures: Mapping[str, Figure], words: Words) -> dict[str, Any]:
    """Everything the report's template shows, by name."""
    shown, quiet = _type_sections(document, words)
    return {
        "document": document,
        "title": words("report.title"),
        "outcome": document["outcome"],
        "tone": tone(document["outcome"]),
        "verdict": words(f"outcome.{document['outcome']}"),
        "sentence": words(f"verdict.{document['outcome']}"),
        "advisory": bool(document["advisory"]),
        "notices": list(document.get("notices") or ()),
        "message": document["message"],
        "facts": _identification(document, words),
        "reasons": [Fact(words.reason(one["code"]), one["text"], quoted=True) for one in document["reasons"]],
        "needs": to_pass(document, words),
        "figures": figures,
        "figure_notes": {name: _figure_note(figure, words) for name, figure in figures.items()},
        "types": shown,
        "quiet_types": quiet,
        "defects": [_defect(number, one, document, words) for number, one in enumerate(document["defects"], start=1)],
        "budgets": _budgets(document, words),
        "calibration": _calibration(document, words),
        "engine": _engine(document, words),
        "certificate": (document["engine"].get("certificate") or {}).get("sentence"),
        "hashes": _hashes(document, words),
        "limitations": _limitations(document, figures, words),
        "foot": words("report.foot", record=document["record_id"], version=__version__),
    }


def _identification(document: Document, words: Words) -> list[Fact]:
    facts = [Fact(words("fact.record"), str(document["record_id"]), quoted=True)]
    if document.get("part_id") is not None:
        facts.append(Fact(words("fact.part"), str(document["part_id"]), quoted=True))
    if document.get("station"):
        facts.append(Fact(words("fact.station"), str(document["station"]), quoted=True))
    when = recorded_utc(document)
    name = words("fact.trigger" if document.get("trigger_utc") else "fact.inspected")
    facts.append(Fact(name, "–" if when is None else f"{when[:10]} {when[11:19]} UTC", quoted=True))
    facts.append(Fact(words("fact.picture"), file_name(document.get("image")), quoted=True))
    facts.append(Fact(words("fact.recipe"), str(document.get("recipe") or words("fact.no_recipe")), quoted=True))
    working = document.get("working")
    if working:
        width, height = working["size_px"]
        x, y = working["mm_per_px"]
        scale = f"{x:.6g}" if x == y else f"{x:.6g} × {y:.6g}"
        facts.append(Fact(words("fact.judged_at"), f"{width} × {height} px, {scale} mm/px", quoted=True))
        facts.append(Fact(words("fact.extent"), f"{width * x:.4g} × {height * y:.4g} mm", quoted=True))
    gate = document.get("gate")
    if gate:
        state = {True: "gate.open", False: "gate.closed", None: "gate.unknown"}[gate.get("permitted")]
        facts.append(Fact(words("fact.gate"), words(state, reason=gate.get("reason") or "")))
    return facts


def _figure_note(figure: Figure, words: Words) -> str:
    notes = []
    if figure.reduced:
        notes.append(words("figure.reduced", shown=f"{figure.shown_px[0]} × {figure.shown_px[1]}",
                           whole=f"{figure.size_px[0]} × {figure.size_px[1]}"))  # fmt: skip
    if figure.stretched is not None:
        notes.append(words("figure.stretched", low=figure.stretched[0], high=figure.stretched[1]))
    return " ".join(notes)


def _type_sections(document: Document, words: Words) -> tuple[list[TypeSection], list[QuietRule]]:
    """(those that were found or not passed; by rule, those that were looked for and not found)."""
    shown: list[TypeSection] = []
    quiet: dict[tuple[Any, ...], list[str]] = {}
    for entry in document["types"]:
        one = _type_section(document, entry, words)
        if one.count or entry["outcome"] != "PASS":
            shown.append(one)
        else:
            quiet.setdefault((one.zone, one.rule, one.verbatim, one.row, one.advisory), []).append(one.name)
    shown.sort(key=lambda one: ("fail", "not-evaluable", "inconclusive", "pass").index(one.tone))
    return shown, [QuietRule(tuple(names), *rule) for rule, names in quiet.items()]


def _type_section(document: Document, entry: Document, words: Words) -> TypeSection:
    rule = entry["rule"]
    mm_per_px = (document.get("working") or {}).get("mm_per_px")
    row = " · ".join(str(one) for one in (rule["row_id"], rule["edition"]) if one)
    return TypeSection(
        name=words.type_name(entry["type"]),
        identifier=entry["type"],
        zone=entry.get("zone"),
        outcome=words(f"outcome.{entry['outcome']}"),
        tone=tone(entry["outcome"]),
        rule=rule_sentence(entry, words),
        verbatim=rule["verbatim"],
        row=row or "–",
        advisory=bool(rule.get("advisory")),
        reference=reference_name(entry.get("reference")),
        severity=severity_text(entry, words),
        count=found_count(document, entry),
        values=tuple(_value_row(one, mm_per_px, words) for one in comparisons(entry) if one.permitted is not None),
    )


def _value_row(one: Comparison, mm_per_px: Any, words: Words) -> ValueRow:
    if not one.decides:
        finding, look = words("finding.shown"), "quiet"
    elif not one.firm and one.outcome != "PASS":
        finding, look = words("finding.bent"), "inconclusive"
    else:
        finding = words(f"finding.{one.outcome}") if one.outcome else "–"
        look = tone(one.outcome) if one.outcome else "quiet"
    at = "–"
    if mm_per_px and one.value:
        at = f"{one.at_px[0] * mm_per_px[0]:.1f}, {one.at_px[1] * mm_per_px[1]:.1f}"
    return ValueRow(
        what=metric_name(one, words),
        measured=uncertain(one.value, one.u, one.unit),
        limit=plain(one.limit, one.unit),
        permitted=plain(one.permitted, one.unit),
        ratio="–" if one.ratio is None else f"{one.ratio:.2f}",
        p_conform="–" if one.p_conform is None else _probability(one.p_conform),
        finding=finding,
        tone=look,
        at=at,
    )


def _probability(share: float) -> str:
    if share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if share > 0.999 else f"{100 * share:.1f} %"


def _defect(number: int, one: Document, document: Document, words: Words) -> dict[str, Any]:
    x, y, w, h = one["bbox_px"]
    name = words.type_name(one["type"])
    if not one["known"]:
        name = words("defect.unknown", nearest=words.type_name(one["nearest_type"]))
    return {
        "number": number,
        "name": name,
        "known": one["known"],
        "alike": ", ".join(words.type_name(other) for other in one.get("alike") or () if other != one["type"]),
        "size": uncertain(one["feret_max_mm"], one["feret_u_mm"] or 0.0, "mm"),
        "area": uncertain(one["area_mm2"], one["area_u_mm2"] or 0.0, "mm²"),
        "confidence": f"{one['confidence']:.2f}",
        "p_known": f"{one['p_known']:.2g}",
        "at": f"{x}, {y} · {w} × {h}",
    }


def _budgets(document: Document, words: Words) -> list[Budget]:
    """Of every value that decides and has an uncertainty."""
    found = []
    for entry in document["types"]:
        for one in comparisons(entry):
            if one.permitted is None or not one.decides or not one.budget or not one.value:
                continue
            parts = tuple(
                Fact(words(f"budget.{name}") if words.known(f"budget.{name}") else name, f"{u:.3g}\u00a0{one.unit}")
                for name, u in one.budget.items()
            )
            what = f"{words.type_name(entry['type'])}: {metric_name(one, words)}"
            found.append(Budget(what, parts, f"{one.u:.3g}\u00a0{one.unit}", f"{2 * one.u:.3g}\u00a0{one.unit}"))
    return found


def _calibration(document: Document, words: Words) -> dict[str, Any] | None:
    found = document.get("calibration")
    if not found:
        return None
    return {
        "facts": [
            Fact(words("calibration.target"), str(found["target_id"]), quoted=True),
            Fact(words("calibration.expires"), str(found["expires_utc"]), quoted=True),
            Fact(words("calibration.u"), f"{100 * found['u_relative']:.3g} %", quoted=True),
            Fact(words("calibration.expanded"), f"{100 * found['expanded_k2']:.3g} %", quoted=True),
        ],
        "items": [(one["name"], f"{100 * one['u_relative']:.3g} %", one["source"]) for one in found["items"]],
    }


def _engine(document: Document, words: Words) -> list[Fact]:
    engine = document["engine"]
    facts = [Fact(words("engine.name"), engine["name"], quoted=True)]
    facts.append(Fact(words("engine.backend"), engine["backend"], quoted=True))
    sensitivity = document.get("sensitivity")
    if sensitivity:
        facts.append(Fact(words("engine.sensitivity"), words(
            "engine.max_recall", asked=f"{100 * sensitivity['recall_asked']:g}",
            lower=f"{100 * sensitivity['recall_lower']:.2f}", confidence=f"{100 * sensitivity['confidence']:g}",
        )))  # fmt: skip
    return facts


def _hashes(document: Document, words: Words) -> list[Fact]:
    named = (
        ("hash.record", record_sha256(document)),
        ("hash.image", document.get("image_sha256")),
        ("hash.engine", document["engine"]["sha256"]),
        ("hash.calibration", document.get("calibration_sha256")),
        ("hash.table", document.get("table_sha256")),
        ("hash.references", document.get("references_sha256")),
        ("hash.config", document.get("config_sha256")),
    )
    return [Fact(words(key), str(value) if value else words("hash.none"), quoted=bool(value)) for key, value in named]


def _limitations(document: Document, figures: Mapping[str, Figure], words: Words) -> list[str]:
    certificate = document["engine"].get("certificate")
    said = [words("limit.marked")]
    if certificate is None:
        said.append(words("limit.no_certificate"))
    elif certificate.get("on") == "simulated":
        said.append(words("limit.simulated"))
    said.append(words("limit.projection"))
    if document.get("not_inspected"):
        names = ", ".join(words.type_name(one) for one in document["not_inspected"])
        said.append(words("limit.not_inspected", types=names))
    if document.get("blind_pct"):
        said.append(words("limit.blind", percent=f"{document['blind_pct']:.3g}"))
    if any(one.get("alike") for one in document["defects"]):
        said.append(words("limit.alike"))
    if document.get("working") and not document.get("calibration_sha256"):
        said.append(words("limit.stated_scale"))
    if "original" not in figures:
        said.append(words("limit.no_picture"))
    said.append(words("limit.gate" if document.get("gate") else "limit.record"))
    return said
