"""Standards as data: which row of which edition asks what of this part, in its own words, or why none does.

    vocabulary.py   the words a table may use                         pure
    table.py        Standard.lookup: a Requirement or a Refusal       pure
    checks.py       from the words of a table to its rows             pure
    sheets.py       CSV and workbooks
    loading.py      standards on disk: load, find, list
    editing.py      import by one person, verify by another

The format is described for people in standards/README.md.
"""

from .editing import NewHeading, import_table, verify_rows
from .loading import Listed, find_standard, list_standards, load_standard, missing_references, site_folder
from .table import Interval, Plate, PlateSet, Refusal, Requirement, RuleRow, Standard
from .vocabulary import COLUMNS, DISCONTINUITIES, METALS, PROCESSES, CombineRule, RowKind

__all__ = [
    "COLUMNS",
    "DISCONTINUITIES",
    "METALS",
    "PROCESSES",
    "CombineRule",
    "Interval",
    "Listed",
    "NewHeading",
    "Plate",
    "PlateSet",
    "Refusal",
    "Requirement",
    "RowKind",
    "RuleRow",
    "Standard",
    "find_standard",
    "import_table",
    "list_standards",
    "load_standard",
    "missing_references",
    "site_folder",
    "verify_rows",
]
