"""Records and what belongs to them as files for other programs: JSON, CSV, Parquet.

The form follows the name: ``.csv``, ``.parquet``, ``.json`` (one array), anything else JSON lines. Records in CSV and
Parquet are a row each with what the bank indexes; the whole document is in JSON, and a text column of Parquet.

    records      a row a record
    indications  a row an indication, with sizes, uncertainty, type and box
    feedback     a row a word of feedback
    performance  a row a day, line, recipe and engine, as statistics are made of
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import MissingExtra, UsageError
from .backend import Backend
from .finding import Wanted, numbers, stored_records

__all__ = ["TABLES", "export"]

_PAGE = 500

#: Columns of each table that can be exported, and their type in Parquet.
TABLES: Mapping[str, Mapping[str, str]] = {
    "records": {
        "number": "int64", "record_id": "string", "part_id": "int64", "station": "string", "trigger_utc": "string",
        "outcome": "string", "result": "string", "reasons": "string", "types": "string", "recipe": "string",
        "advisory": "bool", "indications": "int64", "created_utc": "string", "sha256": "string",
    },
    "indications": {
        "number": "int64", "position": "int64", "type": "string", "known": "bool", "nearest_type": "string",
        "confidence": "float64", "p_known": "float64", "area_mm2": "float64", "area_u_mm2": "float64",
        "feret_max_mm": "float64", "feret_u_mm": "float64", "coverage_pct": "float64", "contrast": "float64",
        "x_px": "int64", "y_px": "int64", "w_px": "int64", "h_px": "int64",
    },
    "feedback": {
        "number": "int64", "record_id": "string", "position": "int64", "verdict": "string", "correct_type": "string",
        "who": "string", "why": "string", "at_utc": "string", "mask_sha256": "string", "mask_types": "string",
        "rejudged": "string", "current": "bool",
    },
    "performance": {
        "day": "string", "station": "string", "recipe": "string", "engine": "string", "parts": "int64",
        "passed": "int64", "pass_parts": "int64", "inconclusive": "int64", "fail": "int64", "not_evaluable": "int64",
        "advisory": "int64", "unknown_parts": "int64", "indications": "int64", "area_mm2": "float64",
        "confidence_sum": "float64", "confidence_n": "int64", "segment_ms_sum": "float64", "segment_ms_n": "int64",
        "confirmed": "int64", "wrong_type": "int64", "missed": "int64", "false_calls": "int64",
    },
}  # fmt: skip


def export(db: Backend, target: Path, wanted: Wanted, table: str = "records") -> int:
    """Write a table to ``target``; how many rows. wanted: which records; feedback and performance know only its times,
    station and recipe. The file appears complete or not at all. Raises UsageError, MissingExtra (parquet)."""
    if table not in TABLES:
        raise UsageError(f"there is no table {table!r} to export", hint="one of: " + ", ".join(TABLES))
    if target.suffix.lower() == ".parquet":
        _parquet()
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}", code="EXPORT") from error
    try:
        with open(handle, "wb") as stream:
            written = _write(stream, target.suffix.lower(), table, _rows(db, wanted, table))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, target)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}", code="EXPORT") from error
    finally:
        Path(name).unlink(missing_ok=True)
    return written


def _parquet() -> Any:
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        raise MissingExtra("export to Parquet", "parquet") from None


# ---------------------------------------------------------------- what

_Pages = Iterator[list[dict[str, Any]]]


def _rows(db: Backend, wanted: Wanted, table: str) -> _Pages:
    """Rows as dicts, in pages: one long read would keep the write-ahead log from being emptied."""
    if table == "records":
        return _records(db, wanted)
    if table == "indications":
        return _indications(db, wanted)
    if table == "feedback":
        return _feedback(db, wanted)
    return _performance(db, wanted)


def _pages(db: Backend, wanted: Wanted) -> Iterator[list[int]]:
    after = 0
    while page := numbers(db, wanted, limit=_PAGE, after=after):
        yield page
        after = page[-1]


def _records(db: Backend, wanted: Wanted) -> _Pages:
    for page in _pages(db, wanted):
        yield [
            {**{name: getattr(one, name) for name in TABLES["records"]}, "reasons": "; ".join(one.reasons),
             "types": "; ".join(one.types), "outcome": str(one.outcome), "document": one.document}
            for one in stored_records(db, page)
        ]  # fmt: skip


def _indications(db: Backend, wanted: Wanted) -> _Pages:
    columns = TABLES["indications"]
    for page in _pages(db, wanted):
        marks = ", ".join("?" * len(page))
        rows = db.query(
            f"SELECT {', '.join(columns)} FROM detections WHERE number IN ({marks}) ORDER BY number, position",
            tuple(page),
        )
        yield [_dict(columns, row) for row in rows]


def _feedback(db: Backend, wanted: Wanted) -> _Pages:
    columns, (low, high) = TABLES["feedback"], wanted.span()
    after = 0
    while True:
        rows = db.query(
            f"SELECT {', '.join(columns)} FROM feedback WHERE number > ? AND at_utc >= ? AND at_utc <= ?"
            " ORDER BY number LIMIT ?",
            (after, low, high, _PAGE),
        )
        if not rows:
            return
        after = rows[-1][0]
        yield [_dict(columns, row) for row in rows]


def _performance(db: Backend, wanted: Wanted) -> _Pages:
    columns, (low, high) = TABLES["performance"], wanted.span()
    given = {"station": wanted.station, "recipe": wanted.recipe}
    only = "".join(f" AND {name} = ?" for name, value in given.items() if value is not None)
    rows = db.query(
        f"SELECT {', '.join(columns)} FROM performance WHERE day >= ? AND day <= ?{only}"
        " ORDER BY day, station, recipe, engine",
        (low, high, *(value for value in given.values() if value is not None)),
    )
    yield [_dict(columns, row) for row in rows]


def _dict(columns: Mapping[str, str], row: Sequence[Any]) -> dict[str, Any]:
    return {
        name: bool(value) if kind == "bool" and value is not None else value
        for (name, kind), value in zip(columns.items(), row, strict=True)
    }


# ---------------------------------------------------------------- how


class _Writer(Protocol):
    def page(self, rows: list[dict[str, Any]]) -> None: ...
    def close(self) -> None: ...


def _write(stream: IO[bytes], suffix: str, table: str, pages: _Pages) -> int:
    makers: dict[str, Callable[..., _Writer]] = {".csv": _Csv, ".parquet": _Parquet, ".json": _JsonArray}
    writer: _Writer = makers.get(suffix, _JsonLines)(stream, TABLES[table])
    written = 0
    for page in pages:
        writer.page(page)
        written += len(page)
    writer.close()
    return written


def _json(row: dict[str, Any]) -> bytes:
    # A record is its document; everything else in its row is taken from it.
    return json.dumps(row.get("document", row), ensure_ascii=False).encode()


class _JsonLines:
    def __init__(self, stream: IO[bytes], columns: Mapping[str, str]) -> None:
        self._stream = stream

    def page(self, rows: list[dict[str, Any]]) -> None:
        self._stream.writelines(_json(row) + b"\n" for row in rows)

    def close(self) -> None:
        """Nothing follows the last line."""


class _JsonArray:
    def __init__(self, stream: IO[bytes], columns: Mapping[str, str]) -> None:
        self._stream, self._before = stream, b"[\n"

    def page(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self._stream.write(self._before + _json(row))
            self._before = b",\n"

    def close(self) -> None:
        self._stream.write((self._before if self._before == b"[\n" else b"\n") + b"]\n")


class _Csv:
    def __init__(self, stream: IO[bytes], columns: Mapping[str, str]) -> None:
        self._stream, self._columns = stream, list(columns)
        self._line([*self._columns])

    def _line(self, cells: Sequence[Any]) -> None:
        text = _Text()
        csv.writer(text).writerow(cells)
        self._stream.write(text.text.encode())

    def page(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self._line([_cell(row[name]) for name in self._columns])

    def close(self) -> None:
        """Nothing follows the last line."""


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front: what people wrote is not run."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


class _Text:
    """Where csv.writer writes one line to."""

    text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)


class _Parquet:
    def __init__(self, stream: IO[bytes], columns: Mapping[str, str]) -> None:
        arrow = _parquet()
        kinds = {"string": arrow.string(), "bool": arrow.bool_(), "int64": arrow.int64(), "float64": arrow.float64()}
        self._documents = "outcome" in columns
        names = {**columns, **({"document": "string"} if self._documents else {})}
        self._arrow, self._schema = arrow, arrow.schema([(name, kinds[kind]) for name, kind in names.items()])
        self._writer = arrow.parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._held: list[dict[str, Any]] = []

    def page(self, rows: list[dict[str, Any]]) -> None:
        if self._documents:
            rows = [{**row, "document": json.dumps(row["document"], ensure_ascii=False)} for row in rows]
        self._held += rows
        if len(self._held) >= 20 * _PAGE:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(self._held, schema=self._schema))
        self._held = []

    def close(self) -> None:
        self._flush()
        self._writer.close()
