"""From the words of a table to its rows, with every rule a table has to keep.

A table decides over parts for years after somebody typed it, so nothing is repaired and nothing is guessed: each fault
is one ConfigError that names file, line and column and says what would be right.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from math import inf

from ..errors import ConfigError, UsageError
from ..units import length_mm as _length_mm
from .table import Interval, PlateSet, RuleRow
from .vocabulary import COLUMNS, CONFIDENCES, DISCONTINUITIES, METALS, PROCESSES, RowKind

__all__ = ["MAX_ROWS", "Heading", "RawRow", "interval_of", "read_rows", "refuse_cell", "seal_of", "warnings_of"]

MAX_ROWS = 20_000
_LONGEST_CELL = 2000
_MOST_WARNINGS = 100
# What a spreadsheet takes for the beginning of a formula, also in its full-width form.
_FORMULA_STARTS = tuple("=+-@\t\r＝＋－＠")
_ROW_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%")
_FORMULA = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?[dt]")
_PLAIN = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LIMITS = (RowKind.LEVEL, RowKind.SIZE_MM, RowKind.AREA_PCT, RowKind.UNLIMITED, RowKind.NOT_MEASURABLE)

# A table says the same few lengths again and again.
length_mm = lru_cache(maxsize=4096)(_length_mm)

#: A line number of the file and its cells by column.
RawRow = tuple[int, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Heading:
    """What rows are checked against: the standard's identity, grades (strictest first), zones and reference sets."""

    id: str
    edition: str
    grades: tuple[str, ...]
    zones: tuple[str, ...]
    sets: tuple[PlateSet, ...]


def _unprintable(character: str) -> bool:
    """Control and format characters: escapes, line breaks, direction marks. A no-break space is a blank like others."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def refuse_cell(where: str, column: str, text: str) -> None:
    """Raise ConfigError for a cell that a spreadsheet would run as a formula, or that holds unprintable characters."""
    if text.lstrip(" ").startswith(_FORMULA_STARTS):
        raise ConfigError(
            f"{where}: {column}: {text[:40]!r} begins like a spreadsheet formula",
            hint="a cell may not begin with = + - @, a tab or a carriage return",
        )
    if not text.isprintable() and (bad := next(filter(_unprintable, text), None)) is not None:
        raise ConfigError(f"{where}: {column}: unprintable character U+{ord(bad):04X}", hint="write one line of text")
    if len(text) > _LONGEST_CELL:
        raise ConfigError(f"{where}: {column}: longer than {_LONGEST_CELL} characters", hint="shorten the cell")


def seal_of(heading: Heading, cells: Mapping[str, str]) -> str:
    """What binds a verification to the row as it was: every other cell of the row, and the standard's id and edition.

    It shows a later change, not an attack: whoever can write the table can write a seal.
    """
    words = [heading.id, heading.edition, *(cells.get(column, "") for column in COLUMNS if column != "seal")]
    # The letter keeps a spreadsheet from reading twelve digits, or 12e34, as a number.
    return "s" + hashlib.sha256("\x1f".join(words).encode()).hexdigest()[:16]


def interval_of(over_text: str, up_to_text: str) -> Interval:
    """(over, up to] from words with units; ``unlimited`` is allowed at the top. Raises UsageError."""
    over_mm = length_mm(over_text)
    up_to_mm = inf if up_to_text == "unlimited" else length_mm(up_to_text)
    if not over_mm < up_to_mm:
        raise UsageError(
            f"thickness over {over_text} up to {up_to_text} holds nothing", hint="t_min must be less than t_max"
        )
    return Interval(over_mm, up_to_mm, over_text, up_to_text)


class _Cells:
    """One row being read: its cells, and where they stand."""

    def __init__(self, path: str, line: int, cells: Mapping[str, str]) -> None:
        self.path, self.line, self._cells = path, line, cells

    def __getitem__(self, column: str) -> str:
        return self._cells.get(column, "")

    def error(self, column: str, problem: str, hint: str = "") -> ConfigError:
        return ConfigError(f"{self.path}:{self.line}: {column}: {problem}", hint=hint)

    def needed(self, column: str, hint: str = "") -> str:
        text = self[column]
        if not text:
            raise self.error(column, "is empty", hint)
        return text

    def word(self, column: str, known: Sequence[str], *, empty: bool = False) -> str:
        text = self[column]
        if (not text and empty) or text in known:
            return text
        near = difflib.get_close_matches(text, known, 1)
        hint = (f"did you mean {near[0]!r}? " if near else "") + "one of: " + (", ".join(known) or "(none declared)")
        raise self.error(column, f"{text!r} is not known" if text else "is empty", hint)

    def length_mm(self, column: str, text: str) -> float:
        try:
            return length_mm(text)
        except UsageError as error:
            raise self.error(column, error.message, error.hint) from None

    def number(self, column: str, default: float) -> float:
        text = self[column]
        if not text:
            return default
        if not _PLAIN.fullmatch(text) or not float(text) <= 10:
            raise self.error(column, f"{text!r} is not a number from 0 to 10", "0.2 means a fifth")
        return float(text)

    def date(self, column: str) -> str:
        text = self[column]
        try:
            good = not text or (_DATE.fullmatch(text) is not None and bool(date.fromisoformat(text)))
        except ValueError:
            good = False
        if not good:
            raise self.error(column, f"{text!r} is not a date", "write it like 2026-01-31")
        return text

    def only_with(self, column: str, kind: RowKind, kinds: Sequence[RowKind]) -> None:
        if self[column] and kind not in kinds:
            raise self.error(column, f"{self[column]!r} stands beside {kind}", "empty the cell or correct the kind")


def _thickness(cells: _Cells) -> Interval:
    hint = "write it with its unit, like 1/4in or 12.7mm; from 0mm, up to unlimited"
    over, up_to = cells.needed("t_min", hint), cells.needed("t_max", hint)
    cells.length_mm("t_min", over)
    if up_to != "unlimited":
        cells.length_mm("t_max", up_to)
    try:
        return interval_of(over, up_to)
    except UsageError as error:
        raise cells.error("t_min", error.message, error.hint) from None


def _limits(cells: _Cells, kind: RowKind) -> tuple[float | None, float | None, float | None]:
    """(mm, percent, factor of thickness); at most one of them is a number."""
    text, formula = cells["limit"], cells["formula"]
    cells.only_with("limit", kind, (RowKind.SIZE_MM, RowKind.AREA_PCT, RowKind.NOT_MEASURABLE))
    cells.only_with("formula", kind, (RowKind.SIZE_MM, RowKind.NOT_MEASURABLE))
    if text and formula:
        raise cells.error("formula", "stands beside a limit", "give the limit or the formula")
    if formula:
        match = _FORMULA.fullmatch(formula)
        if match is None:
            raise cells.error("formula", f"{formula!r} is no formula of size", "write it like: 0.02 d")
        return None, None, float(Fraction(match.group(1)))
    if kind is RowKind.AREA_PCT:
        match = _PERCENT.fullmatch(text)
        if match is None or not float(match.group(1)) <= 100:
            raise cells.error("limit", f"{text!r} is no share of 0 to 100 %", "write it with its unit: 2.5 %")
        return None, float(match.group(1)), None
    if kind is RowKind.SIZE_MM or (text and not text.endswith("%")):
        return cells.length_mm("limit", cells.needed("limit", "write it with its unit: 1.5mm")), None, None
    return None, None, None


def _level(cells: _Cells, kind: RowKind, plates: PlateSet | None) -> int | None:
    text = cells["level"]
    cells.only_with("level", kind, (RowKind.LEVEL,))
    if kind is not RowKind.LEVEL:
        return None
    highest = 8 if plates is None else plates.levels
    if not re.fullmatch(r"[1-9]", text) or int(text) > highest:
        of_set = "" if plates is None else f" of {plates.id}"
        raise cells.error("level", f"{text!r} is no level{of_set}", f"a whole number from 1 to {highest}")
    return int(text)


def _reference(cells: _Cells, kind: RowKind) -> str:
    text = cells["reference"]
    if kind is RowKind.LEVEL and not text:
        raise cells.error("reference", "is empty", "the folder below references/ that holds 1.png to 8.png")
    if text and (text.startswith("/") or "\\" in text or any(part in ("", ".", "..") for part in text.split("/"))):
        raise cells.error("reference", f"{text!r} is no folder below references/", "set/metal/thickness/discontinuity")
    return text


def _plate(cells: _Cells, plates: PlateSet | None, thickness: Interval, discontinuity: str) -> str:
    text = cells["plate"]
    if not text:
        return ""
    if plates is None:
        raise cells.error("plate", f"{text!r} without a set", "name the reference set in the column set")
    plate = plates.plate(text)
    if plate is None:
        known = ", ".join(one.name for one in plates.plates) or "none"
        raise cells.error("plate", f"{plates.id} has no plate {text!r}", f"its plates: {known}")
    if not thickness.within(plate.thickness):
        raise cells.error("t_max", f"plate {text} of {plates.id} is for thickness {plate.thickness}, not {thickness}")
    if plate.discontinuities and discontinuity not in plate.discontinuities:
        raise cells.error("plate", f"plate {text} of {plates.id} does not show {discontinuity}",
                          f"it shows {', '.join(plate.discontinuities)}")  # fmt: skip
    return text


def _windows_mm(cells: _Cells, kind: RowKind) -> tuple[float, ...]:
    sides = tuple(cells.length_mm("windows", word) for word in cells["windows"].split())
    if not sides and kind in (RowKind.LEVEL, RowKind.AREA_PCT):
        raise cells.error("windows", "is empty", "window sides with units, like: 12.7mm 25.4mm")
    if any(side <= 0 for side in sides) or len(set(sides)) < len(sides):
        raise cells.error("windows", f"{cells['windows']!r}: every side once, and larger than 0", "12.7mm 25.4mm")
    return sides


def _read(cells: _Cells, heading: Heading) -> RuleRow:
    name = cells.needed("row", "every row has an id of its own")
    if not _ROW_ID.fullmatch(name):
        raise cells.error("row", f"{name!r} is no row id", "letters, digits, dot, dash and underscore")
    kind = RowKind(cells.word("kind", [str(one) for one in RowKind]))
    metal, discontinuity = cells.word("metal", METALS), cells.word("discontinuity", DISCONTINUITIES)
    set_name = cells.word("set", [one.id for one in heading.sets], empty=True)
    plates = next((one for one in heading.sets if one.id == set_name), None)
    if plates is not None and metal not in plates.metals:
        raise cells.error("set", f"{plates.id} is no set for {metal}", f"it is for {', '.join(plates.metals)}")
    thickness = _thickness(cells)
    limit_mm, limit_pct, formula_factor = _limits(cells, kind)
    confidence = cells.word("confidence", CONFIDENCES, empty=True)
    if confidence == "low" and kind in _LIMITS:
        raise cells.error("confidence", f"low is no ground for {kind}", "a remembered value is NOT_ENTERED")
    if kind not in (RowKind.NOT_ENTERED, RowKind.UNKNOWN):
        cells.needed("verbatim", "the words of the standard's own cell")
    if kind is RowKind.NOT_MEASURABLE:
        cells.needed("remark", "say why a picture cannot be held against it")
    entered_on, verified_on = cells.date("entered_on"), cells.date("verified_on")
    verified_by = cells["verified_by"]
    if bool(verified_by) != bool(verified_on):
        raise cells.error("verified_on" if verified_by else "verified_by", "is empty", "edge-daemon standards verify")
    if verified_on and verified_on < entered_on:
        raise cells.error("verified_on", f"{verified_on} is before the row was entered ({entered_on})")
    return RuleRow(
        row=name,
        line=cells.line,
        metal=metal,
        process=cells.word("process", PROCESSES, empty=True),
        grade=cells.word("grade", heading.grades, empty=not heading.grades),
        discontinuity=discontinuity,
        zone=cells.word("zone", heading.zones, empty=True),
        set=set_name,
        thickness=thickness,
        kind=kind,
        level=_level(cells, kind, plates),
        limit_mm=limit_mm,
        limit_pct=limit_pct,
        formula_factor=formula_factor,
        tolerance=cells.number("tolerance", 0.0),
        guard=cells.number("guard", 1.0),
        windows_mm=_windows_mm(cells, kind),
        min_indication_mm=cells.length_mm("min_indication", cells["min_indication"] or "0mm"),
        compare_count=cells.word("count", ("yes", "no"), empty=True) == "yes",
        reference=_reference(cells, kind),
        plate=_plate(cells, plates, thickness, discontinuity),
        verbatim=cells["verbatim"],
        source=cells.needed("source", "where the words come from: document and edition"),
        locator=cells["locator"],
        confidence=confidence,
        remark=cells["remark"],
        entered_by=cells["entered_by"],
        entered_on=entered_on,
        verified_by=verified_by,
        verified_on=verified_on,
        seal_holds=bool(cells["seal"])
        and cells["seal"] == seal_of(heading, {column: cells[column] for column in COLUMNS}),
    )


def _group_key(row: RuleRow) -> tuple[str, str, str]:
    return row.metal, row.grade, row.discontinuity


def _check_intervals(path: str, rows: Sequence[RuleRow]) -> None:
    """Within one key no thickness has two rows, and none between the first and the last has no row."""
    groups: dict[tuple[str, str, str], list[RuleRow]] = defaultdict(list)
    for row in rows:
        groups[_group_key(row)].append(row)
    for group in groups.values():
        for column in ("set", "process", "zone"):
            # A row for all zones beside a row for one zone would both answer.
            without = [one for one in group if not getattr(one, column)]
            if without and len(without) < len(group):
                raise ConfigError(
                    f"{path}:{without[0].line}: {column}: is empty, and other rows of {' '.join(_group_key(group[0]))}"
                    f" name one (line {next(one.line for one in group if getattr(one, column))})",
                    hint="give it in all rows of this metal, grade and discontinuity, or in none",
                )
    keys: dict[tuple[str, ...], list[RuleRow]] = defaultdict(list)
    for row in rows:
        keys[row.metal, row.grade, row.discontinuity, row.set, row.process, row.zone].append(row)
    for key, group in keys.items():
        group.sort(key=lambda one: (one.thickness.over_mm, one.thickness.up_to_mm))
        for before, after in pairwise(group):
            what = f"{' '.join(part for part in key if part)}: thickness {after.thickness}"
            if after.thickness.over_mm < before.thickness.up_to_mm:
                raise ConfigError(
                    f"{path}:{after.line}: t_min: {what} overlaps row {before.row} of line {before.line}"
                    f" ({before.thickness})",
                    hint="one thickness has one row: begin where the other ends",
                )
            if after.thickness.over_mm > before.thickness.up_to_mm:
                raise ConfigError(
                    f"{path}:{after.line}: t_min: {what} leaves a gap after row {before.row} of line {before.line}"
                    f" ({before.thickness})",
                    hint="begin where the other ends, or add a NOT_APPLICABLE row between them",
                )


def read_rows(path: str, raw_rows: Sequence[RawRow], heading: Heading) -> tuple[RuleRow, ...]:
    """The rows of a table, checked one by one and together. Raises ConfigError for the first fault."""
    rows: list[RuleRow] = []
    seen: dict[str, int] = {}
    for line, cells in raw_rows:
        row = _read(_Cells(path, line, cells), heading)
        if row.row in seen:
            raise ConfigError(
                f"{path}:{line}: row: {row.row!r} is the id of line {seen[row.row]} already",
                hint="every row has an id of its own",
            )
        seen[row.row] = line
        rows.append(row)
    _check_intervals(path, rows)
    return tuple(rows)


def _strictness(row: RuleRow) -> tuple[str, float, float] | None:
    """(what is compared, value, tolerance); None for a row that cannot be ordered. "" compares with everything."""
    if row.kind is RowKind.NONE_PERMITTED:
        return "", -inf, 0.0
    if row.kind is RowKind.UNLIMITED:
        return "", inf, 0.0
    if row.level is not None:
        return f"level {row.set} {row.reference}", row.level, row.tolerance
    if row.kind is RowKind.SIZE_MM and row.limit_mm is not None:
        return "mm", row.limit_mm * (1 + row.tolerance), 0.0
    if row.kind is RowKind.SIZE_MM and row.formula_factor is not None:
        return "formula", row.formula_factor * (1 + row.tolerance), 0.0
    if row.kind is RowKind.AREA_PCT and row.limit_pct is not None:
        return "%", row.limit_pct * (1 + row.tolerance), 0.0
    return None


def _laxer(one: RuleRow, other: RuleRow) -> bool:
    mine, its = _strictness(one), _strictness(other)
    if mine is None or its is None or (mine[0] and its[0] and mine[0] != its[0]):
        return False
    return mine[1:] > its[1:]


def _overlapping(one: Sequence[RuleRow], other: Sequence[RuleRow]) -> Iterator[tuple[RuleRow, RuleRow]]:
    """Pairs of rows that share a thickness; both sequences are sorted and without overlap."""
    i = j = 0
    while i < len(one) and j < len(other):
        first, second = one[i].thickness, other[j].thickness
        if max(first.over_mm, second.over_mm) < min(first.up_to_mm, second.up_to_mm):
            yield one[i], other[j]
        if first.up_to_mm <= second.up_to_mm:
            i += 1
        else:
            j += 1


def warnings_of(path: str, rows: Sequence[RuleRow], heading: Heading) -> tuple[str, ...]:
    """What is odd but not wrong: a stricter grade that allows more, a row changed after its verification."""
    found = [
        f"{path}:{row.line}: row {row.row} is not as {row.verified_by} verified it: verify it again"
        for row in rows
        if row.verified_by and not row.seal_holds
    ]
    by_key: dict[tuple[str, ...], dict[str, list[RuleRow]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda one: one.thickness.over_mm):
        by_key[(row.metal, row.discontinuity, row.set, row.process, row.zone)][row.grade].append(row)
    for grades in by_key.values():
        present = [grade for grade in heading.grades if grade in grades]
        for index, strict in enumerate(present):
            for loose in present[index + 1 :]:
                for one, other in _overlapping(grades[strict], grades[loose]):
                    if _laxer(one, other):
                        found.append(
                            f"{path}:{one.line}: {one.metal} {one.discontinuity}: grade {strict} (row {one.row}) allows"
                            f" more than grade {loose} (row {other.row})"
                        )
    more = len(found) - _MOST_WARNINGS
    return (*found[:_MOST_WARNINGS], f"and {more} more") if more > 0 else tuple(found)
