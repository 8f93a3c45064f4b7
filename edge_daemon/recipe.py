"""A recipe: which engine looks, at which scale, and what the rules and references are for this part.

Loading a recipe reads files; what it hands out is frozen and pure. Reference pictures pass through the same engine and
the same code as the part (``inspection.prepare_station``), so that biases cancel.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .errors import ConfigError, EdgeError, IntegrityError
from .images import load_picture
from .judge import Rule, RuleKind, Scale
from .records import TYPE_IDS, UNKNOWN_TYPE
from .resources import reference_folder
from .settings import Settings

__all__ = [
    "METALS",
    "Recipe",
    "ReferenceImage",
    "ReferenceSet",
    "load_recipe",
    "load_reference_set",
    "references_sha256",
]

METALS = ("aluminum", "magnesium", "steel", "titanium")


@dataclass(frozen=True, slots=True)
class ReferenceImage:
    """One plate: its level, picture (uint8/uint16, read-only) and the SHA-256 of its file."""

    level: int
    path: Path
    pixels: NDArray[Any] = field(repr=False)
    sha256: str


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """The graded plates of one discontinuity, all at one scale. sha256: of manifest.json, which names every file's."""

    folder: Path
    name: str
    discontinuity: str
    metal: str
    scale: Scale
    images: Mapping[int, ReferenceImage]
    sha256: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one kind of part is judged by. sha256: of the recipe file; references by type, for LEVEL rules."""

    name: str
    path: Path
    engine: str
    engine_base: Path
    metal: str | None
    thickness_mm: float | None
    scale: Scale
    rules: tuple[Rule, ...]
    others: RuleKind | None
    references: Mapping[str, ReferenceSet]
    sha256: str

    def rules_for(self, engine_types: Sequence[str]) -> tuple[Rule, ...]:
        """The recipe's rules, and its ``others`` rule for every further type this engine can name."""
        if self.others is None:
            return self.rules
        named = {rule.type for rule in self.rules}
        return self.rules + tuple(
            Rule(name, self.others, verbatim=f'others = "{self.others}"', row_id=f"{self.name}/others")
            for name in engine_types
            if name not in named
        )


def _manifest(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / "manifest.json"
    try:
        raw = path.read_bytes()
        document = json.loads(raw)
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read: {error.strerror}", hint="restore the reference set") from None
    except ValueError as error:
        raise IntegrityError(f"{path}: not valid JSON: {error}", hint="restore the reference set") from None
    if not isinstance(document, dict) or document.get("schema") != 1:
        raise IntegrityError(f"{path}: not a reference manifest of schema 1", hint="restore the reference set")
    return document, hashlib.sha256(raw).hexdigest()


def load_reference_set(folder: Path) -> ReferenceSet:
    """Read and verify a reference set.

    manifest.json: {"schema": 1, "set", "metal", "thickness_mm", "discontinuity", "mm_per_px", "u_mm_per_px", "licence",
    "files": {"1.png": sha256, ...}}. Every file named must exist with that hash. Raises IntegrityError (exit
    code 4) for a changed, missing or unnamed picture, ConfigError for a manifest that does not make sense.
    """
    document, sha256 = _manifest(folder)
    where = folder / "manifest.json"
    files = document.get("files")
    if not isinstance(files, dict) or not files:
        raise ConfigError(f"{where}: names no files", hint='"files": {"1.png": "<sha256>", ...}')
    unnamed = sorted(path.name for path in folder.glob("*.png") if path.name not in files)
    if unnamed:
        raise IntegrityError(f"{folder}: {unnamed[0]} is not named in the manifest", hint="restore the reference set")
    images = {}
    for name, expected in files.items():
        match = re.fullmatch(r"([1-8])\.png", name)
        if match is None:
            raise ConfigError(f"{where}: {name!r} is not a level", hint="plates are called 1.png to 8.png")
        if not (folder / name).is_file():
            raise IntegrityError(f"{folder / name} is missing", hint="restore the reference set")
        picture = load_picture(folder / name)
        if picture.sha256 != expected:
            raise IntegrityError(f"{folder / name} is not the sealed picture", hint="restore the reference set")
        images[int(match.group(1))] = ReferenceImage(int(match.group(1)), folder / name, picture.pixels, picture.sha256)
    shapes = {image.pixels.shape for image in images.values()}
    if len(shapes) > 1:
        raise ConfigError(f"{folder}: plates of different sizes {sorted(shapes)}", hint="one set has one size")
    try:
        scale_mm = float(document["mm_per_px"])
        scale = Scale(scale_mm, scale_mm, float(document.get("u_mm_per_px", 0.0)))
        name, metal, discontinuity = (str(document[key]) for key in ("set", "metal", "discontinuity"))
    except KeyError as error:
        raise ConfigError(f"{where}: {error.args[0]} is missing", hint="no scale, no verdict") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None
    if discontinuity not in TYPE_IDS or metal not in METALS:
        raise ConfigError(f"{where}: unknown discontinuity {discontinuity!r} or metal {metal!r}")
    return ReferenceSet(folder, name, discontinuity, metal, scale, dict(sorted(images.items())), sha256)


def _rule(table: Settings, recipe: str) -> tuple[Rule, ReferenceSet | None]:
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
        "verbatim": table.text("verbatim", ""),
        "edition": table.text("edition", ""),
        "advisory": not table.flag("verified", True),
        "row_id": table.text("row_id", f"{recipe}/{type_name}"),
    }
    reference = None
    if kind is RuleKind.LEVEL:
        name = table.text("reference")
        try:
            reference = load_reference_set(reference_folder(name, table.path.parent))
        except EdgeError as error:
            if error.code == "NOT_FOUND":
                raise table.error("reference", error.message, error.hint) from None
            raise
        if level not in reference.images:
            raise table.error("level", f"{reference.folder} has no plate {level}", hint="never the nearest plate")
        if reference.discontinuity != type_name:
            raise table.error("reference", f"shows {reference.discontinuity}, the rule is for {type_name}")
    table.close()
    try:
        return Rule(type_name, kind, level, limit, **rule_values), reference
    except EdgeError as error:
        raise table.error("type", error.message, error.hint) from None


def load_recipe(path: Path) -> Recipe:
    """Read a recipe (TOML). Raises ConfigError naming file, line and key; IntegrityError for a broken reference."""
    settings = Settings.load(path)
    name = settings.text("name")
    engine = settings.text("engine")
    metal = settings.text("metal", None, choices=METALS)
    thickness_mm = settings.length_mm("thickness", None, low=1e-3)
    mm_per_px = settings.length_mm("mm_per_px", low=1e-6)
    scale = Scale(mm_per_px, mm_per_px, settings.length_mm("u_mm_per_px", 0.0))
    others = settings.text("others", None, choices=[str(RuleKind.NONE_PERMITTED), str(RuleKind.UNLIMITED)])
    rules: list[Rule] = []
    references: dict[str, ReferenceSet] = {}
    for table in settings.tables("rule"):
        rule, reference = _rule(table, name)
        if rule.type == UNKNOWN_TYPE or any(rule.type == other.type for other in rules):
            raise table.error("type", f"{rule.type} has a rule already", hint="one rule a type")
        rules.append(rule)
        if reference is not None:
            if metal is not None and reference.metal != metal:
                raise table.error("reference", f"is of {reference.metal}, the part of {metal}")
            references[rule.type] = reference
    settings.close()
    return Recipe(
        name=name,
        path=path,
        engine=engine,
        engine_base=path.parent,
        metal=metal,
        thickness_mm=thickness_mm,
        scale=scale,
        rules=tuple(rules),
        others=None if others is None else RuleKind(others),
        references=references,
        sha256=settings.sha256,
    )


def references_sha256(references: Mapping[str, ReferenceSet]) -> str | None:
    """One hash over all reference sets of a recipe, by type name; None where there are none."""
    if not references:
        return None
    digest = hashlib.sha256()
    for type_name in sorted(references):
        digest.update(f"{type_name}:{references[type_name].sha256}\n".encode())
    return digest.hexdigest()
