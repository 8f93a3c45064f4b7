"""A recipe: which engine looks, at which scale, and what the rules and references are for this part.

What is allowed comes from rules of the recipe's own, from a standard's table, or from both; and it may differ from one
zone of the part to another. Loading a recipe reads files; what it hands out is frozen and pure. Reference pictures pass
through the same engine and the same code as the part (``inspection.prepare_station``), so that biases cancel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .calibration import Calibration, load_calibration
from .errors import ConfigError, EdgeError
from .focus import read_focus
from .golden import GoldenPart, read_golden
from .judge import CombineRule, Rule, RuleKind, Scale, Uncertainty
from .judge.zones import is_simple
from .records import TYPE_IDS, UNKNOWN_TYPE
from .references import METALS, ReferenceSet, load_reference_set
from .resources import reference_folder
from .settings import Settings
from .signing import Trust
from .standards import Refusal, Standard, find_standard, load_standard
from .units import length_mm

__all__ = ["Recipe", "StandardUse", "Zone", "load_recipe", "recipe_of_standard"]


@dataclass(frozen=True, slots=True)
class StandardUse:
    """A standard's table, and what is asked of it besides metal, thickness and type. require_verified: rows that no
    second person has verified count as missing."""

    standard: Standard
    grade: str | None
    process: str | None = None
    form: str | None = None
    energy: str | None = None
    reference_set: str | None = None
    require_verified: bool = False


@dataclass(frozen=True, slots=True)
class Zone:
    """A part of the part with rules of its own. polygon_mm: its corners (x, y) from the picture's top-left corner;
    empty for what lies in no other zone. references: by type, for LEVEL rules. refusals: by type, why the table has no
    row. from_masks: types whose limits come from the set's exact masks, not from the engine. name: "" for the rest."""

    name: str
    polygon_mm: tuple[tuple[float, float], ...]
    rules: tuple[Rule, ...]
    references: Mapping[str, ReferenceSet]
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    from_masks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one kind of part is judged by. zones: the rest of the part is always the last one. others: the kind of rule
    for types without one. not_inspected: types of the table that no engine looks for, said so in every record.
    edge_stated: whether ``uncertainty`` states the edges itself. polarity: of the pictures, None where nobody said.
    max_recall: part recall that the engine's certificate must promise, None for the bundle's own thresholds.
    max_blind_pct: how much of the picture, or of a zone, may be burnt out or black, None for any. golden: a stored part
    that must be rejected, None for none. least_sharpness: of a frame, None for any. sha256: of the recipe file."""

    name: str
    path: Path
    engine: str
    engine_base: Path
    metal: str | None
    thickness_mm: float | None
    scale: Scale
    zones: tuple[Zone, ...]
    others: RuleKind | None
    sha256: str
    standard: Standard | None = None
    combine: CombineRule = CombineRule.ANY_FAILS
    uncertainty: Uncertainty | None = None
    not_inspected: tuple[str, ...] = ()
    calibration: Calibration | None = None
    edge_stated: bool = False
    polarity: str | None = None
    max_recall: float | None = None
    max_blind_pct: float | None = None
    golden: GoldenPart | None = None
    least_sharpness: float | None = None

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of the rest of the part; of all of it where there is no other zone."""
        return self.zones[-1].rules

    @property
    def references(self) -> Mapping[str, ReferenceSet]:
        """The reference sets of the rest of the part."""
        return self.zones[-1].references

    @property
    def table_sha256(self) -> str:
        """What decides: the recipe file, and the standard's table where there is one."""
        if self.standard is None or self.standard.sha256 == self.sha256:
            return self.sha256
        return hashlib.sha256(f"{self.sha256}\n{self.standard.sha256}\n".encode()).hexdigest()

    def rules_for(self, engine_types: Sequence[str], zone: Zone | None = None) -> tuple[Rule, ...]:
        """A zone's rules, and one for every further type this engine can name: the table's refusal, or ``others``."""
        zone = zone or self.zones[-1]
        named = {rule.type for rule in zone.rules}
        further = []
        for name in engine_types:
            if name in named:
                continue
            if name in zone.refusals:  # the table was asked and has no answer: no other rule may stand in for it
                further.append(zone.refusals[name].rule(name))
            elif self.others is not None:
                kind = self.others
                further.append(Rule(name, kind, verbatim=f'others = "{kind}"', row_id=f"{self.name}/others"))
        return zone.rules + tuple(further)


_SAME_THICKNESS = 0.02  # 3/4 in and 19 mm are one plate


def _check_plate(table: Settings, reference: ReferenceSet, thickness_mm: float | None) -> None:
    """A plate stands for its own thickness, or for the range that the rule states; never for the nearest."""
    stated = table.lengths_mm("for_thickness", ())
    if stated and (len(stated) != 2 or stated[0] >= stated[1]):
        raise table.error("for_thickness", "must be two lengths, over and up to", hint='["0 mm", "12.7 mm"]')
    if thickness_mm is None or reference.thickness_mm is None:
        return
    if stated:
        if not stated[0] < thickness_mm <= stated[1]:
            raise table.error("for_thickness", f"does not hold the part's {thickness_mm:g} mm")
    elif abs(thickness_mm / reference.thickness_mm - 1.0) > _SAME_THICKNESS:
        raise table.error(
            "reference",
            f"is a plate of {reference.thickness_mm:g} mm, the part has {thickness_mm:g} mm",
            hint='never the nearest plate; for_thickness = ["0 mm", "12.7 mm"] states what the plate is for',
        )


def _rule(
    table: Settings, recipe: str, form: str, thickness_mm: float | None, trust: Trust | None
) -> tuple[Rule, ReferenceSet | None, bool]:
    type_name = table.text("type", choices=TYPE_IDS)
    kind = RuleKind(table.text("kind", choices=[one.value for one in RuleKind if one is not RuleKind.UNKNOWN]))
    level = table.integer("level", low=1, high=8) if kind is RuleKind.LEVEL else None
    limit = None
    if kind is RuleKind.SIZE_MM:
        limit = table.length_mm("limit")
    elif kind is RuleKind.AREA_PCT:
        limit = table.number("limit", low=0.0, high=100.0)
    rule_values = {
        "windows_mm": table.lengths_mm("windows", (), low=1e-3),
        "tolerance": table.number("tolerance", 0.0, low=0.0, high=10.0),
        "guard": table.number("guard", 1.0, low=0.0, high=10.0),
        "min_indication_mm": table.length_mm("min_indication", 0.0),
        "compare_count": table.flag("compare_count", False),
        "compare_spacing": table.flag("compare_spacing", False),
        "verbatim": table.text("verbatim", ""),
        "edition": table.text("edition", ""),
        "advisory": not table.flag("verified", True),
        "row_id": table.text("row_id", f"{recipe}/{type_name}"),
    }
    reference, masks = None, False
    if kind is RuleKind.LEVEL:
        masks = table.text("reference_from", "engine", choices=("engine", "masks")) == "masks"
        name = table.text("reference")
        try:
            reference = load_reference_set(reference_folder(name, table.path.parent), trust)
        except EdgeError as error:
            if error.code == "NOT_FOUND":
                raise table.error("reference", error.message, error.hint) from None
            raise
        if level not in reference.images:
            raise table.error("level", f"{reference.folder} has no plate {level}", hint="never the nearest plate")
        if masks and not reference.has_masks:
            raise table.error("reference_from", f"{reference.folder} has no exact masks", hint='"engine"')
        _check_plate(table, reference, thickness_mm)
        if _other_form(reference, form):
            raise table.error("reference", f"is a {reference.form} set, the pictures are {form}", hint=_FORM_HINT)
        if reference.discontinuity != type_name:
            raise table.error("reference", f"shows {reference.discontinuity}, the rule is for {type_name}")
    try:
        return Rule(type_name, kind, level, limit, **rule_values), reference, masks
    except EdgeError as error:
        raise table.error("type", error.message, error.hint) from None


#: ASTM E155, E192, E2422, E2660 ...: a film set never for digital images, and the reverse.
_FORM_HINT = 'a set for the other form is never used; form = "film" says that scanned film is inspected'


def _other_form(reference: ReferenceSet, form: str) -> bool:
    return reference.form is not None and reference.form != form


def _from_standard(
    use: StandardUse,
    metal: str,
    thickness_mm: float,
    zone: str | None,
    base: Path,
    form: str,
    trust: Trust | None = None,
) -> tuple[dict[str, Rule], dict[str, ReferenceSet], dict[str, Refusal]]:
    """What a table says of every type there is: rules, the reference sets of its LEVEL rows, and refusals.

    A LEVEL row whose set is not on this device becomes NO_REFERENCE: such a type, once found, cannot be judged.
    """
    rules, references, refusals = {}, {}, {}
    zone = zone if zone in use.standard.zones else None
    for name in TYPE_IDS:
        answer = use.standard.lookup(
            metal=metal, thickness_mm=thickness_mm, grade=use.grade, discontinuity=name, process=use.process,
            zone=zone, reference_set=use.reference_set, form=use.form or form, energy=use.energy,
            require_verified=use.require_verified,
        )  # fmt: skip
        if isinstance(answer, Refusal):
            refusals[name] = answer
            continue
        rule = answer.rule(name)
        if rule.kind is RuleKind.LEVEL:
            reference = _reference_of(answer.row.reference, base, trust)
            if reference is None or rule.level not in reference.images:
                rule = replace(rule, kind=RuleKind.NO_REFERENCE, level=None)
            elif not _is_plate(answer.row.plate, reference):
                raise ConfigError(
                    f"{answer.row_id}: {reference.folder} is a plate of {reference.thickness_mm:g} mm,"
                    f" the row names {answer.row.plate}",
                    hint="correct the row's reference or plate",
                )
            elif _other_form(reference, form):
                raise ConfigError(f"{answer.row_id}: {reference.folder} is a {reference.form} set", hint=_FORM_HINT)
            elif reference.discontinuity != name or reference.metal != metal:
                raise ConfigError(
                    f"{answer.row_id}: {reference.folder} shows {reference.discontinuity} in {reference.metal}",
                    hint="correct the row's reference",
                )
            else:
                references[name] = reference
        rules[name] = rule
    return rules, references, refusals


def _is_plate(name: str | None, reference: ReferenceSet) -> bool:
    """Whether the set's thickness is that of the plate a row names (``1/4in``); a name without a length fits any."""
    if not name or reference.thickness_mm is None:
        return True
    try:
        plate_mm = length_mm(name)
    except EdgeError:
        return True
    return abs(plate_mm / reference.thickness_mm - 1.0) <= _SAME_THICKNESS


def _reference_of(name: str | None, base: Path, trust: Trust | None) -> ReferenceSet | None:
    if not name:
        return None
    try:
        folder = reference_folder(name, base)
    except EdgeError:
        return None
    return load_reference_set(folder, trust)


def _standard_use(table: Settings, base: Path, trust: Trust | None) -> StandardUse:
    name = table.text("name")
    try:
        standard = load_standard(find_standard(name, base), trust=trust)
    except EdgeError as error:
        if error.code == "NOT_FOUND":
            raise table.error("name", error.message, error.hint) from None
        raise
    use = StandardUse(
        standard,
        grade=table.text("grade", None),
        process=table.text("process", None),
        form=table.text("form", None, choices=("film", "digital")),
        energy=table.text("energy", None),
        reference_set=table.text("set", None),
        require_verified=table.flag("require_verified", False),
    )
    table.close()
    return use


def _uncertainty(settings: Settings) -> tuple[Uncertainty | None, bool]:
    """What [uncertainty] states, and whether that includes the edges; else those are the engine's certificate's."""
    table = settings.table("uncertainty", required=False)
    if table is None:
        return None, False
    edge_mm = table.length_mm("edge", None)
    found = Uncertainty(
        edge_mm=edge_mm or 0.0,
        repeat_area_pct=table.number("repeat_area_pct", 0.0, low=0.0, high=100.0),
        repeat_length_mm=table.length_mm("repeat_length", 0.0),
    )
    table.close()
    return found, edge_mm is not None


def load_recipe(path: Path, trust: Trust | None = None) -> Recipe:
    """Read a recipe (TOML). Raises ConfigError naming file, line and key; IntegrityError for a broken reference.

    trust: whose signature its table and reference sets must carry. The recipe itself is signed by nobody: it lies
    beside line.toml and is protected as that is.
    """
    settings = Settings.load(path)
    name = settings.text("name")
    engine = settings.text("engine")
    metal = settings.text("metal", None, choices=METALS)
    thickness_mm = settings.length_mm("thickness", None, low=1e-3)
    scale, calibration = _scale(settings)
    others = settings.text("others", None, choices=[str(RuleKind.NONE_PERMITTED), str(RuleKind.UNLIMITED)])
    polarity = settings.text("polarity", None, choices=("bright_void", "dark_void"))
    form = settings.text("form", "digital", choices=("film", "digital"))
    max_recall = settings.number("max_recall", None, low=0.5, high=0.99999)
    max_blind_pct = settings.number("max_blind_pct", None, low=0.0, high=100.0)
    golden = read_golden(settings.table("golden", required=False))
    least_sharpness = read_focus(settings.table("focus", required=False))
    standard_table = settings.table("standard", required=False)
    use = None if standard_table is None else _standard_use(standard_table, path.parent, trust)
    if use is not None and use.form is not None and use.form != form:
        raise settings.error("form", f"is {form}, but [standard] asks for {use.form} sets", hint=_FORM_HINT)
    if use is not None and (metal is None or thickness_mm is None):
        raise settings.error("metal" if metal is None else "thickness", "is needed to look up [standard]")
    if use is not None and others is not None:
        raise settings.error("others", f"does not go with [standard]: what {use.standard.id} does not say stays unsaid")
    combine = settings.text("combine", None, choices=[one.value for one in CombineRule])
    not_inspected = settings.texts("not_inspected", (), choices=TYPE_IDS)
    own: dict[str, list[tuple[Settings, Rule, ReferenceSet | None]]] = {"": []}
    from_masks: dict[str, set[str]] = {"": set()}
    polygons: dict[str, tuple[tuple[float, float], ...]] = {"": ()}
    grades: dict[str, str | None] = {"": use.grade if use is not None else None}
    for table in settings.tables("zone"):
        zone = table.text("name")
        if zone in polygons:
            raise table.error("name", f"there is a zone {zone} already")
        polygons[zone], own[zone] = table.points_mm("polygon", least=3), []
        if not is_simple(polygons[zone]):
            raise table.error("polygon", "crosses itself or has no area", hint="give its corners in order")
        grades[zone] = table.text("grade", grades[""]) if use is not None else None
        table.close()
    for table in settings.tables("rule"):
        rule, reference, masks = _rule(table, name, form, thickness_mm, trust)
        zone = table.text("zone", "", choices=[one for one in polygons if one])
        table.close()
        if rule.type == UNKNOWN_TYPE or any(rule.type == other.type for _, other, _ in own[zone]):
            raise table.error("type", f"{rule.type} has a rule already", hint="one rule a type and zone")
        if reference is not None and metal is not None and reference.metal != metal:
            raise table.error("reference", f"is of {reference.metal}, the part of {metal}")
        if rule.type in not_inspected:
            raise table.error("type", f"{rule.type} has a rule and stands in not_inspected", hint="one of both")
        own[zone].append((table, rule, reference))
        if masks:
            from_masks.setdefault(zone, set()).add(rule.type)
    stated, edge_stated = _uncertainty(settings)
    settings.close()
    zones = []
    for zone in [*(one for one in polygons if one), ""]:
        rules: dict[str, Rule] = {}
        references: dict[str, ReferenceSet] = {}
        refusals: dict[str, Refusal] = {}
        if use is not None and metal is not None and thickness_mm is not None:
            asked = replace(use, grade=grades[zone])
            rules, references, refusals = _from_standard(
                asked, metal, thickness_mm, zone or None, path.parent, form, trust
            )
        # A zone has the part's own rules, unless it has one of its own for the type.
        mine = {rule.type for _, rule, _ in own[zone]}
        inherited = [one for one in own[""] if zone and one[1].type not in mine]
        masks_of = set(from_masks.get(zone, set()))
        masks_of |= {rule.type for _, rule, _ in inherited} & from_masks[""]
        for table, rule, reference in [*inherited, *own[zone]]:
            if rule.type in rules:
                raise table.error("type", f"{rule.type} has a row in {use and use.standard.id} already", hint=(
                    "a rule of the recipe may fill a gap of the table, not replace a row of it"))  # fmt: skip
            rules[rule.type] = rule
            if reference is not None:
                references[rule.type] = reference
        left = (rule for rule in rules.values() if rule.type not in not_inspected)
        zones.append(Zone(zone, polygons[zone], tuple(left), references, refusals, frozenset(masks_of)))
    return Recipe(
        name=name,
        path=path,
        engine=engine,
        engine_base=path.parent,
        metal=metal,
        thickness_mm=thickness_mm,
        scale=scale,
        zones=tuple(zones),
        others=None if others is None else RuleKind(others),
        sha256=settings.sha256,
        standard=None if use is None else use.standard,
        combine=CombineRule(combine) if combine else _combine_of(use),
        uncertainty=stated,
        edge_stated=edge_stated,
        polarity=polarity,
        calibration=calibration,
        not_inspected=tuple(not_inspected),
        max_recall=max_recall,
        max_blind_pct=max_blind_pct,
        golden=golden,
        least_sharpness=least_sharpness,
    )


def _scale(settings: Settings) -> tuple[Scale, Calibration | None]:
    """From a sealed calibration, or as two numbers; there is no default."""
    path = settings.file("calibration", None)
    if path is None:
        mm_per_px = settings.length_mm("mm_per_px", low=1e-6)
        return Scale(mm_per_px, mm_per_px, settings.length_mm("u_mm_per_px", 0.0)), None
    for key in ("mm_per_px", "u_mm_per_px"):
        if settings.length_mm(key, None) is not None:
            raise settings.error(key, "does not go with calibration, which says it", hint="leave one of both out")
    # An expired one is no error here: the station that has it judges nothing (Station.refusal), and says why.
    calibration = load_calibration(path, allow_expired=True)
    return calibration.scale, calibration


def _combine_of(use: StandardUse | None) -> CombineRule:
    return CombineRule.ANY_FAILS if use is None else use.standard.combine_rule


def recipe_of_standard(
    use: StandardUse, *, metal: str, thickness_mm: float, engine: str, engine_types: Iterable[str], scale: Scale,
    base: Path, trust: Trust | None = None,
) -> Recipe:  # fmt: skip
    """The recipe that ``inspect --standard --metal --thickness --grade`` stands for: the table and nothing else.

    Types that the engine cannot name are left out, and named in every record (``not_inspected``). trust: whose
    signature its reference sets must carry; the table's was looked at when it was loaded.
    """
    known = set(engine_types)
    rules, references, refusals = _from_standard(use, metal, thickness_mm, None, base, use.form or "digital", trust)
    zone = Zone("", (), tuple(rule for name, rule in rules.items() if name in known),
                {name: one for name, one in references.items() if name in known}, refusals)  # fmt: skip
    grade = f" grade {use.grade}" if use.grade else ""
    return Recipe(
        name=f"{use.standard.id}{grade} {metal} {thickness_mm:g} mm",
        path=base,
        engine=engine,
        engine_base=base,
        metal=metal,
        thickness_mm=thickness_mm,
        scale=scale,
        zones=(zone,),
        others=None,
        sha256=use.standard.sha256,
        standard=use.standard,
        combine=_combine_of(use),
        not_inspected=tuple(name for name in rules if name not in known),
    )
