"""Tables as files: rules.csv and workbooks in, rules.csv out. Only cells here; what they mean is ``checks.py``'s.

A table may come from anywhere, so its size is known before it is opened, and a workbook's unpacked size before it is
unpacked.
"""

from __future__ import annotations

import csv
import importlib
import io
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, cast

from ..errors import ConfigError, MissingExtra
from .checks import MAX_ROWS, RawRow, refuse_cell
from .vocabulary import COLUMNS, NEEDED_COLUMNS

__all__ = ["MAX_CSV_BYTES", "parse_csv", "read_file", "read_table", "write_csv"]

MAX_CSV_BYTES = 5 * 1000 * 1000
MAX_XLSX_BYTES = 20 * 1000 * 1000
MAX_UNPACKED_BYTES = 100 * 1000 * 1000
_MAX_PARTS = 1000
_MAX_COLUMNS = 64
# Everything openpyxl, zipfile and an XML parser (lxml, where it is there) are known to raise on a damaged workbook.
_DAMAGED = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, SyntaxError, KeyError, ValueError, TypeError, AttributeError,
    IndexError, OSError, EOFError, RuntimeError, AssertionError,
)  # fmt: skip


def read_file(path: Path, most_bytes: int) -> bytes:
    """The bytes of a regular file that is no larger than ``most_bytes``. Raises ConfigError."""
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file", hint="give the path of a file")
        size = path.stat().st_size
        if size > most_bytes:
            raise ConfigError(f"{path}: {size / 1e6:.1f} MB, and a table has at most {most_bytes / 1e6:g} MB")
        with path.open("rb") as file:
            raw = file.read(most_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > most_bytes:
        raise ConfigError(f"{path}: larger than {most_bytes / 1e6:g} MB")
    return raw


def _columns(path: str, line: int, names: Sequence[str]) -> list[str]:
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if len(names) == 1 and any(mark in names[0] for mark in (";", "\t", "|")):
        raise ConfigError(f"{path}:{line}: the columns are not separated by commas", hint="save it as comma-separated")
    for name in names:
        if name not in COLUMNS:
            refuse_cell(f"{path}:{line}", "heading", name)
            raise ConfigError(f"{path}:{line}: {name!r} is no column", hint="columns: " + ", ".join(COLUMNS))
        if names.count(name) > 1:
            raise ConfigError(f"{path}:{line}: {name}: stands there twice", hint="every column once")
    missing = [name for name in NEEDED_COLUMNS if name not in names]
    if missing:
        raise ConfigError(f"{path}:{line}: the column {missing[0]} is missing",
                          hint="needed: " + ", ".join(NEEDED_COLUMNS))  # fmt: skip
    return names


def _collect(path: str, records: Iterable[tuple[int, Sequence[str]]]) -> list[RawRow]:
    """Rows as mappings from the records of a sheet, the first of which is its heading. Empty lines are left out."""
    columns: list[str] | None = None
    rows: list[RawRow] = []
    for line, cells in records:
        if columns is None:
            columns = _columns(path, line, cells)
            continue
        if not any(cell.strip() for cell in cells):
            continue
        extra = next((cell for cell in cells[len(columns) :] if cell.strip()), None)
        if extra is not None or (len(cells) < len(columns)):
            raise ConfigError(
                f"{path}:{line}: {len(cells)} cells under {len(columns)} columns",
                hint="a comma inside a cell needs the cell in double quotes",
            )
        if len(rows) == MAX_ROWS:
            raise ConfigError(f"{path}:{line}: more than {MAX_ROWS} rows", hint="split the table into standards")
        for column, cell in zip(columns, cells, strict=False):
            refuse_cell(f"{path}:{line}", column, cell)
        rows.append((line, {column: cell.strip() for column, cell in zip(columns, cells, strict=False)}))
    if columns is None:
        raise ConfigError(f"{path}:1: empty", hint="the first line names the columns")
    return rows


def parse_csv(path: str, raw: bytes) -> list[RawRow]:
    """The rows of a comma-separated table in UTF-8, with their line numbers. Raises ConfigError."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 at byte {error.start}", hint="save it as CSV UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ConfigError(f"{path}:{line}: holds a NUL byte, so it is no text", hint="save it as CSV UTF-8")

    def records() -> Iterable[tuple[int, Sequence[str]]]:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        before = 0
        try:
            for cells in reader:
                yield before + 1, cells
                before = reader.line_num
        except csv.Error as error:
            raise ConfigError(f"{path}:{before + 1}: not valid CSV: {error}", hint="check the quotes") from None

    return _collect(path, records())


def _xlsx_cell(where: str, column: str, cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if cell.data_type == "f":
        raise ConfigError(f"{where}: {column}: is a formula", hint="paste values only: a table holds what it says")
    if cell.data_type == "e":
        raise ConfigError(f"{where}: {column}: is a spreadsheet error {value}", hint="correct the cell")
    if isinstance(value, bool):
        raise ConfigError(f"{where}: {column}: {value} is neither a word nor a number", hint="format it as text")
    if isinstance(value, datetime | date | time | timedelta):
        if isinstance(value, datetime) and column in ("entered_on", "verified_on"):
            return value.date().isoformat()
        raise ConfigError(
            f"{where}: {column}: the spreadsheet has made the date {value} of it",
            hint="format the column as text and type it again",
        )
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def _check_package(path: Path, raw: io.BytesIO) -> None:
    """Refuse what would unpack to too much, before anything is unpacked."""
    with zipfile.ZipFile(raw) as package:
        parts = package.infolist()
    unpacked = sum(part.file_size for part in parts)
    if len(parts) > _MAX_PARTS or unpacked > MAX_UNPACKED_BYTES:
        raise ConfigError(
            f"{path}: unpacks to {unpacked / 1e6:.0f} MB in {len(parts)} parts",
            hint=f"a workbook unpacks to at most {MAX_UNPACKED_BYTES / 1e6:g} MB; save the table as CSV",
        )


def _read_xlsx(path: Path) -> list[RawRow]:
    package = io.BytesIO(read_file(path, MAX_XLSX_BYTES))
    try:
        openpyxl = cast(Any, importlib.import_module("openpyxl"))
    except ImportError:
        raise MissingExtra("reading a workbook (.xlsx)", "tables") from None

    def records(sheet: Any) -> Iterable[tuple[int, Sequence[str]]]:
        names: list[str] = []
        for number, cells in enumerate(sheet.iter_rows(max_col=_MAX_COLUMNS), start=1):
            words = [
                _xlsx_cell(f"{path}:{number}", names[index] if index < len(names) else "heading", cell)
                for index, cell in enumerate(cells)
            ]
            names = names or [word.strip() for word in words]
            # A row of a workbook ends at its last used cell.
            yield number, words + [""] * (len([name for name in names if name]) - len(words))

    try:
        _check_package(path, package)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and validations, which a table does not need
            # Formulas are kept as formulas, so that they are seen and refused.
            book = openpyxl.load_workbook(package, read_only=True, data_only=False, keep_links=False)
            try:
                if "rules" not in book.sheetnames and len(book.sheetnames) != 1:
                    raise ConfigError(f"{path}: has the sheets {', '.join(book.sheetnames)}",
                                      hint="name the sheet with the table: rules")  # fmt: skip
                sheet = book["rules"] if "rules" in book.sheetnames else book.worksheets[0]
                sheet.reset_dimensions()
                return _collect(str(path), records(sheet))
            finally:
                book.close()
    except _DAMAGED as error:
        raise ConfigError(f"{path}: no readable workbook: {error}", hint="save it again as .xlsx, or as CSV") from None


def read_table(path: Path) -> list[RawRow]:
    """The rows of a .csv or .xlsx file. Raises ConfigError; MissingExtra where openpyxl is not installed."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return parse_csv(str(path), read_file(path, MAX_CSV_BYTES))
    if suffix == ".xlsx":
        return _read_xlsx(path)
    raise ConfigError(f"{path}: neither .csv nor .xlsx", hint="save the table as CSV UTF-8 or as .xlsx")


def write_csv(rows: Iterable[Mapping[str, str]]) -> bytes:
    """rules.csv in its one form: all columns in order, UTF-8 without byte-order mark, lines ended by a line feed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([cells.get(column, "") for column in COLUMNS] for cells in rows)
    return text.getvalue().encode()
