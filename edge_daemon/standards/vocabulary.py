"""The words a table may use. An unknown word is refused: a misspelt metal must not become a row nobody finds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ..judge import CombineRule
from ..records import TYPE_IDS

__all__ = [
    "COLUMNS",
    "CONFIDENCES",
    "DISCONTINUITIES",
    "FORMS",
    "LICENCES",
    "METALS",
    "NEEDED_COLUMNS",
    "PROCESSES",
    "TABLE_WORDS",
    "CombineRule",
    "RowKind",
]

#: Metals a table may speak of; recipes and reference sets know the first four.
METALS: tuple[str, ...] = ("aluminum", "magnesium", "steel", "titanium", "cast_iron", "tin_bronze", "copper_alloy")

#: How the part was made, or ``surface``: a surface inspected as such.
PROCESSES: tuple[str, ...] = (
    "casting", "sand_casting", "permanent_mold_casting", "investment_casting", "die_casting",
    "hot_rolled", "bright_bar", "surface",
)  # fmt: skip

#: Names of real tables that no engine of this product gives. A row under such a word can be looked up; before it can
#: judge, a person has to say which of the product's types it is (``Requirement.rule(type_id=...)``).
TABLE_WORDS: Mapping[str, str] = {
    "hot_tear": "ASTM E192; E446 category E",
    "misrun": "ASTM E192",
    "core_shift": "ASTM E192, aluminium specifications",
    "mold_buckle": "ASTM E192",
    "mold_ridge": "ASTM E192",
    "excess_metal_in_cracked_core": "ASTM E192",
    "diffraction_pattern": "ASTM E192",
    "segregation": "aluminium specifications",
    "surface_irregularity": "aluminium specifications",
    "microshrinkage_feathery": "ASTM E155 and E2869, magnesium",
    "microshrinkage_sponge": "ASTM E155 and E2869, magnesium",
    "gas_holes_clustered": "ASTM E1320 and E2669, titanium",
    "gas_holes_scattered": "ASTM E1320 and E2669, titanium",
    "shrinkage_cavity_scattered": "ASTM E1320 and E2669, titanium",
    "shrinkage_centerline": "ASTM E1320, E2669, E802",
    "gas_porosity": "ASTM E446 category A",
    "sand_slag_inclusion": "ASTM E446 category B",
    "shrinkage_linear": "ASTM E446 category CA",
    "shrinkage_feathery": "ASTM E446 category CB",
    "shrinkage_combination": "ASTM E446 category CD",
    "metal_insert": "ASTM E446 category F; A802 feature F",
    "mottling": "ASTM E446 category G",
    "surface_texture": "ASTM A802 feature A",
    "nonmetallic_inclusion": "ASTM A802 feature B",
    "surface_gas_porosity": "ASTM A802 feature C",
    "solidification_discontinuity": "ASTM A802 feature D",
    "sand_expansion": "ASTM A802 feature E",
    "thermal_dressing": "ASTM A802 feature G",
    "mechanical_dressing": "ASTM A802 feature H",
    "weld": "ASTM A802 feature J",
    "surface_discontinuity": "EN 10277",
    "shell": "EN 10163-2",
    "seam": "EN 10163-2",
}

#: Every discontinuity a table may name: the product's own types first.
DISCONTINUITIES: tuple[str, ...] = (*TYPE_IDS, *TABLE_WORDS)

LICENCES: tuple[str, ...] = ("public", "licensed", "house", "demo")
FORMS: tuple[str, ...] = ("film", "digital")

#: high: read in two sources. medium: read in one. low: remembered; never a limit. house: a rule of the publisher's own.
CONFIDENCES: tuple[str, ...] = ("high", "medium", "low", "house", "demo")


class RowKind(str, Enum):
    """What a row says: the judge's rule kinds, and two words of the table itself, both refused like a missing row.

    NOT_ENTERED: the value must still be copied from a licensed standard. NOT_MEASURABLE: the value is entered, and a
    two-dimensional picture cannot be held against it (a depth, a three-dimensional comparator).
    """

    LEVEL = "LEVEL"
    NONE_PERMITTED = "NONE_PERMITTED"
    NO_REFERENCE = "NO_REFERENCE"
    NOT_APPLICABLE = "NOT_APPLICABLE"
    SIZE_MM = "SIZE_MM"
    AREA_PCT = "AREA_PCT"
    UNLIMITED = "UNLIMITED"
    DRAWING = "DRAWING"
    UNKNOWN = "UNKNOWN"
    NOT_ENTERED = "NOT_ENTERED"
    NOT_MEASURABLE = "NOT_MEASURABLE"

    def __str__(self) -> str:
        return self.value


#: The columns of rules.csv in the order they are written.
COLUMNS: tuple[str, ...] = (
    "row", "metal", "process", "grade", "discontinuity", "zone", "set", "t_min", "t_max",
    "kind", "level", "limit", "formula", "tolerance", "guard", "windows", "min_indication", "count",
    "reference", "plate", "verbatim", "source", "locator", "confidence", "remark",
    "entered_by", "entered_on", "verified_by", "verified_on", "seal",
)  # fmt: skip

#: Columns every table must have; a table without one of the others has it empty.
NEEDED_COLUMNS: tuple[str, ...] = ("row", "metal", "discontinuity", "t_min", "t_max", "kind", "verbatim", "source")
