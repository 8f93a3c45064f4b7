"""A standard as data, and the one question it answers: what does it ask of this part?

Pure: frozen values and functions of them. The answer is a ``Requirement`` (the row, its words, its source) or a
``Refusal`` (why there is none). There is no nearest plate, no default row and no guess: whatever is missing, ambiguous
or not entered is refused with its reason.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

from ..errors import RuleError
from ..judge import Rule, RuleKind
from ..records import TYPE_IDS, Reason
from .vocabulary import DISCONTINUITIES, PROCESSES, TABLE_WORDS, CombineRule, RowKind

__all__ = ["Interval", "Plate", "PlateSet", "Refusal", "Requirement", "RuleRow", "Standard", "same_person"]


def same_person(one: str, other: str) -> bool:
    """Whether two entered names are one person: upper and lower case, width and blanks do not make a second one."""

    def plain(name: str) -> str:
        return "".join(unicodedata.normalize("NFKC", name).casefold().split())

    return plain(one) == plain(other)


@dataclass(frozen=True, slots=True)
class Interval:
    """Thickness, half open: over_mm < t <= up_to_mm. The texts are the original words: ``1/2in`` beside 12.7.

    up_to_mm is ``inf`` for the word ``unlimited``.
    """

    over_mm: float
    up_to_mm: float
    over_text: str
    up_to_text: str

    def holds(self, thickness_mm: float) -> bool:
        """12.7 mm lies in (0, 1/2 in], 12.71 mm does not."""
        return self.over_mm < thickness_mm <= self.up_to_mm

    def within(self, other: Interval) -> bool:
        """Whether no thickness of this interval lies outside the other."""
        return other.over_mm <= self.over_mm and self.up_to_mm <= other.up_to_mm

    def __str__(self) -> str:
        low = f"over {_with_mm(self.over_text, self.over_mm)}"
        return low if self.up_to_mm == inf else f"{low} up to {_with_mm(self.up_to_text, self.up_to_mm)}"


def _with_mm(text: str, value_mm: float) -> str:
    plain = text.replace(" ", "")
    return plain if plain.endswith("mm") else f"{plain} ({value_mm:g} mm)"


@dataclass(frozen=True, slots=True)
class Plate:
    """One plate thickness of a reference set and the sections it is for. discontinuities: empty means all."""

    name: str
    thickness: Interval
    discontinuities: tuple[str, ...] = ()
    confidence: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class PlateSet:
    """A set of reference images, as the standard describes it; the images themselves are the user's.

    form: film or digital, and a film set is never for digital images. levels: plates are numbered 1..levels.
    unit_area_mm: width and height the pictures stand for, None where it is not known.
    """

    id: str
    edition: str
    form: str
    metals: tuple[str, ...]
    process: str
    energy: str
    levels: int
    unit_area_mm: tuple[float, float] | None
    plates: tuple[Plate, ...]
    confidence: str
    source: str
    remark: str = ""

    def plate(self, name: str) -> Plate | None:
        """The plate of that name."""
        return next((one for one in self.plates if one.name == name), None)


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One row of rules.csv, read. ``line`` is its line in the file; empty texts mean that the cell is empty.

    limit_mm with a size, limit_pct with an area, formula_factor where the limit is that factor times the thickness.
    seal_holds: the row still reads as it did when the second person verified it.
    """

    row: str
    line: int
    metal: str
    process: str
    grade: str
    discontinuity: str
    zone: str
    set: str
    thickness: Interval
    kind: RowKind
    level: int | None
    limit_mm: float | None
    limit_pct: float | None
    formula_factor: float | None
    tolerance: float
    guard: float
    windows_mm: tuple[float, ...]
    min_indication_mm: float
    compare_count: bool
    reference: str
    plate: str
    verbatim: str
    source: str
    locator: str
    confidence: str
    remark: str
    entered_by: str
    entered_on: str
    verified_by: str
    verified_on: str
    seal_holds: bool

    @property
    def verified(self) -> bool:
        """A second person compared the row with its source, and it has not been changed since."""
        two_people = bool(self.entered_by and self.verified_by) and not same_person(self.entered_by, self.verified_by)
        return two_people and bool(self.verified_on) and self.seal_holds

    def limit_at(self, thickness_mm: float) -> float | None:
        """The limit in mm or percent for a part of this thickness; None for a row without one."""
        if self.formula_factor is not None:
            return self.formula_factor * thickness_mm
        return self.limit_pct if self.limit_mm is None else self.limit_mm


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a standard gives no rule. row: the row that was found and cannot be used, if there was one.

    Codes: UNKNOWN_METAL, UNKNOWN_GRADE, UNKNOWN_DISCONTINUITY, UNKNOWN_PROCESS, UNKNOWN_ZONE, UNKNOWN_SET, NO_ROW,
    THICKNESS_OUTSIDE, KEY_NEEDED (``choices`` says which and what there is), NOT_ENTERED, NOT_MEASURABLE, UNVERIFIED.
    """

    standard: Standard
    code: str
    text: str
    row: RuleRow | None = None
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def reason(self) -> Reason:
        """For a verdict or a preflight line."""
        return Reason(self.code, f"{self.standard.id}: {self.text}")

    def rule(self, type_id: str) -> Rule:
        """A rule that makes the part NOT_EVALUABLE whether or not the type is found: nothing says what is allowed."""
        row_id = f"{self.standard.id}:{self.row.row}" if self.row else self.standard.id
        return Rule(type_id, RuleKind.UNKNOWN, verbatim=self.text, row_id=row_id, edition=self.standard.edition,
                    advisory=True)  # fmt: skip

    def document(self) -> dict[str, Any]:
        """What the command line prints."""
        return {
            **self.standard.heading(),
            "found": False,
            "reason": {"code": self.code, "text": self.text},
            "needed": {key: list(values) for key, values in self.choices.items()},
            "row": None if self.row is None else row_document(self.row),
        }


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a standard asks of one type in one part: the row that answers, and everything needed to trace it."""

    standard: Standard
    row: RuleRow
    thickness_mm: float

    @property
    def row_id(self) -> str:
        """``<standard>:<row>``."""
        return f"{self.standard.id}:{self.row.row}"

    @property
    def advisory(self) -> bool:
        """No second person has verified the row, or the standard is a demonstration."""
        return self.standard.licence == "demo" or not self.row.verified

    @property
    def plate_set(self) -> PlateSet | None:
        """The reference set that the row names."""
        return self.standard.plate_set(self.row.set)

    @property
    def plate(self) -> Plate | None:
        """The plate that the row names, with the thickness range it is for."""
        found = self.plate_set
        return None if found is None else found.plate(self.row.plate)

    @property
    def combine_rule(self) -> CombineRule:
        """How this standard combines types."""
        return self.standard.combine_rule

    @property
    def table_sha256(self) -> str:
        """Hash of the standard's two files, for the record."""
        return self.standard.sha256

    def rule(self, type_id: str | None = None) -> Rule:
        """The judge's rule. ``type_id`` says which of the product's types a word of the table's own stands for.

        Raises RuleError for such a word without it: no engine names it, so the rule would pass every part.
        """
        name = type_id or self.row.discontinuity
        if name not in TYPE_IDS:
            raise RuleError(
                f"{self.row_id}: no engine names {name!r} ({TABLE_WORDS.get(name, 'unknown word')})",
                hint="say which type of the product it is: rule(type_id='gas_hole')",
            )
        row = self.row
        return Rule(
            name,
            RuleKind(row.kind.value),
            level=row.level,
            limit=row.limit_at(self.thickness_mm),
            windows_mm=row.windows_mm,
            tolerance=row.tolerance,
            guard=row.guard,
            min_indication_mm=row.min_indication_mm,
            compare_count=row.compare_count,
            row_id=self.row_id,
            verbatim=row.verbatim,
            edition=self.standard.edition,
            advisory=self.advisory,
        )

    def document(self) -> dict[str, Any]:
        """What the command line prints."""
        plate, plates = self.plate, self.plate_set
        return {
            **self.standard.heading(),
            "found": True,
            "advisory": self.advisory,
            "row_id": self.row_id,
            "thickness_mm": self.thickness_mm,
            "limit": self.row.limit_at(self.thickness_mm),
            "plate": None
            if plate is None
            else {"name": plate.name, "for": str(plate.thickness), "for_mm": _range_mm(plate.thickness)},
            "set": None if plates is None else {"id": plates.id, "edition": plates.edition, "form": plates.form,
                                                "energy": plates.energy, "levels": plates.levels},
            "row": row_document(self.row),
        }  # fmt: skip


def _range_mm(interval: Interval) -> list[float | None]:
    return [interval.over_mm, None if interval.up_to_mm == inf else interval.up_to_mm]


def row_document(row: RuleRow) -> dict[str, Any]:
    """A row as a JSON object; an unlimited thickness is null."""
    return {
        "row": row.row,
        "metal": row.metal,
        "process": row.process,
        "grade": row.grade,
        "discontinuity": row.discontinuity,
        "zone": row.zone,
        "set": row.set,
        "thickness": str(row.thickness),
        "thickness_mm": _range_mm(row.thickness),
        "kind": str(row.kind),
        "level": row.level,
        "limit_mm": row.limit_mm,
        "limit_pct": row.limit_pct,
        "formula_factor": row.formula_factor,
        "tolerance": row.tolerance,
        "guard": row.guard,
        "windows_mm": list(row.windows_mm),
        "min_indication_mm": row.min_indication_mm,
        "compare_count": row.compare_count,
        "reference": row.reference,
        "plate": row.plate,
        "verbatim": row.verbatim,
        "source": row.source,
        "locator": row.locator,
        "confidence": row.confidence,
        "remark": row.remark,
        "entered_by": row.entered_by,
        "entered_on": row.entered_on,
        "verified_by": row.verified_by,
        "verified_on": row.verified_on,
        "verified": row.verified,
    }


@dataclass(frozen=True, slots=True)
class Standard:
    """One standard: its heading, the reference sets it speaks of, and its rows.

    grades: strictest first. sha256: over standard.toml and rules.csv. warnings: what is odd but not wrong.
    """

    id: str
    title: str
    publisher: str
    edition: str
    status: str
    supersedes: str
    licence: str
    combine_rule: CombineRule
    grades: tuple[str, ...]
    zones: tuple[str, ...]
    sets: tuple[PlateSet, ...]
    remark: str
    folder: str
    sha256: str
    rows: tuple[RuleRow, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def plate_set(self, name: str) -> PlateSet | None:
        """The reference set of that id."""
        return next((one for one in self.sets if one.id == name), None)

    def row(self, name: str) -> RuleRow | None:
        """The row of that id."""
        return next((one for one in self.rows if one.row == name), None)

    def discontinuities(self, metal: str) -> tuple[str, ...]:
        """Every discontinuity the table has rows for in this metal, in the table's order."""
        return tuple(dict.fromkeys(one.discontinuity for one in self.rows if one.metal == metal))

    def heading(self) -> dict[str, Any]:
        """Who says it: for every answer on the command line."""
        return {
            "standard": self.id,
            "title": self.title,
            "edition": self.edition,
            "status": self.status,
            "licence": self.licence,
            "combine_rule": str(self.combine_rule),
            "table_sha256": self.sha256,
        }

    def lookup(
        self,
        *,
        metal: str,
        thickness_mm: float,
        grade: str | None,
        discontinuity: str,
        process: str | None = None,
        zone: str | None = None,
        reference_set: str | None = None,
        form: str | None = None,
        energy: str | None = None,
        require_verified: bool = False,
    ) -> Requirement | Refusal:
        """The one row for this key, or the reason why there is none.

        grade: None for a standard without grades. process, zone: a row that names one answers only who names the same;
        a row that names none answers all. reference_set, form (film, digital), energy: narrow the reference sets where
        a standard has rows for several. require_verified: refuse what no second person has verified.
        """
        refuse = _Refuse(self)
        if discontinuity not in DISCONTINUITIES:
            return refuse("UNKNOWN_DISCONTINUITY", f"{discontinuity!r} is no discontinuity this product knows")
        metals = tuple(dict.fromkeys(one.metal for one in self.rows))
        if metal not in metals:
            return refuse("UNKNOWN_METAL", f"has no rows for {metal!r}; it has {_list(metals)}", metal=metals)
        if grade is None and self.grades:
            return refuse("KEY_NEEDED", f"say the grade: {_list(self.grades)}", grade=self.grades)
        if grade is not None and grade not in self.grades:
            known = f"it has {_list(self.grades)}" if self.grades else "it has no grades, so leave the grade away"
            return refuse("UNKNOWN_GRADE", f"knows no grade {grade!r}; {known}", grade=self.grades)
        rows = [
            one
            for one in self.rows
            if one.metal == metal and one.grade == (grade or "") and one.discontinuity == discontinuity
        ]
        what = f"{discontinuity} in {metal}" + (f", grade {grade}" if grade else "")
        if not rows:
            others = self.discontinuities(metal)
            return refuse("NO_ROW", f"has no row for {what}; rows of this metal: {_list(others)}", discontinuity=others)

        if zone is not None and zone not in self.zones:
            return refuse("UNKNOWN_ZONE", f"knows no zone {zone!r}; it has {_list(self.zones)}", zone=self.zones)
        if process is not None and process not in PROCESSES:
            return refuse("UNKNOWN_PROCESS", f"{process!r} is no process: {_list(PROCESSES)}", process=PROCESSES)
        for key, asked in (("process", process), ("zone", zone)):
            named = tuple(dict.fromkeys(name for one in rows if (name := self._facet(one, key))))
            if asked is None and named:
                return refuse("KEY_NEEDED", f"the rows for {what} depend on the {key}: say which of {_list(named)}",
                              **{key: named})  # fmt: skip
            rows = [one for one in rows if self._facet(one, key) in ("", asked or "")]
            if not rows:
                text = f"has no row for {what} with {key} {asked!r}; it has {_list(named)}"
                return refuse("NO_ROW", text, **{key: named})
        wanted = {"set": reference_set, "form": form, "energy": energy}
        if any(value is not None for value in wanted.values()):
            kept = [one for one in rows if not one.set or self._set_matches(one.set, wanted)]
            if not kept:
                there = tuple(dict.fromkeys(one.set for one in rows))
                asked_for = ", ".join(f"{key} {value!r}" for key, value in wanted.items() if value is not None)
                return refuse("UNKNOWN_SET", f"has no row for {what} with {asked_for}; its sets are {_list(there)}",
                              set=there)  # fmt: skip
            rows = kept

        at = [one for one in rows if one.thickness.holds(thickness_mm)] if isfinite(thickness_mm) else []
        if not at:
            there = tuple(dict.fromkeys(str(one.thickness) for one in sorted(rows, key=lambda r: r.thickness.over_mm)))
            text = f"{thickness_mm:g} mm lies in no thickness range for {what}; there is: {_list(there, '; ')}"
            return refuse("THICKNESS_OUTSIDE", text + ". Never the nearest plate", thickness=there)
        if len(at) > 1:
            choices = self._what_differs(at)
            needed = "; ".join(f"{key}: {_list(values)}" for key, values in choices.items())
            return refuse("KEY_NEEDED", f"{len(at)} rows answer for {what}: say which {needed}", **choices)
        return self._answer(at[0], thickness_mm, require_verified)

    def _facet(self, row: RuleRow, key: str) -> str:
        """The zone of a row; its process, which may stand in its reference set; empty where it is for all."""
        if key == "zone":
            return row.zone
        found = self.plate_set(row.set)
        return row.process or ("" if found is None else found.process)

    def _set_matches(self, name: str, wanted: Mapping[str, str | None]) -> bool:
        found = self.plate_set(name)
        if found is None:
            return False
        has = {"set": found.id, "form": found.form, "energy": found.energy}
        return all(value is None or value == has[key] for key, value in wanted.items())

    def _what_differs(self, rows: list[RuleRow]) -> dict[str, tuple[str, ...]]:
        sets = [found for one in rows if (found := self.plate_set(one.set)) is not None]
        differing = {}
        for key, values in (
            ("form", [one.form for one in sets]),
            ("energy", [one.energy for one in sets]),
            ("set", [one.id for one in sets]),
        ):
            if len(set(values)) > 1:
                differing[key] = tuple(dict.fromkeys(value or "(none)" for value in values))
        return differing

    def _answer(self, row: RuleRow, thickness_mm: float, require_verified: bool) -> Requirement | Refusal:
        refuse = _Refuse(self, row)
        if row.kind in (RowKind.NOT_ENTERED, RowKind.UNKNOWN):
            text = f"row {row.row} reads {row.kind}: its value must be copied from {row.source}"
            return refuse("NOT_ENTERED", f"{text}, and a second person must verify it")
        if row.kind is RowKind.NOT_MEASURABLE:
            limit = row.limit_at(thickness_mm)
            at = "" if row.formula_factor is None else f" (= {limit:g} mm at {thickness_mm:g} mm)"
            return refuse("NOT_MEASURABLE", f'row {row.row} says "{row.verbatim}"{at}; {row.remark}')
        if require_verified and (self.licence == "demo" or not row.verified):
            why = "is of a demonstration standard" if self.licence == "demo" else "was verified by no second person"
            return refuse("UNVERIFIED", f"row {row.row} {why}, and only verified rows may be used here")
        return Requirement(self, row, thickness_mm)


class _Refuse:
    """Makes refusals of one standard; every further keyword is a key and what there is to choose from."""

    def __init__(self, standard: Standard, row: RuleRow | None = None) -> None:
        self._standard, self._row = standard, row

    def __call__(self, code: str, text: str, **choices: tuple[str, ...]) -> Refusal:
        return Refusal(self._standard, code, text, self._row, choices)


def _list(names: tuple[str, ...], separator: str = ", ") -> str:
    return separator.join(name or "(none)" for name in names) if names else "none"
