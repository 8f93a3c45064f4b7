"""Changing a table: import by one person, verification by another. Whole or not at all, and never a shipped table.

Every change is made in a folder beside the standard, loaded there as it would be loaded later, and only then put in
place by one rename. Editors of one folder wait for each other.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ..errors import ConfigError, StorageError, UsageError
from ..resources import data_folder
from .checks import Heading, refuse_cell, seal_of
from .loading import _ID, HEADING_FILE, ROWS_FILE, load_standard
from .sheets import MAX_CSV_BYTES, parse_csv, read_file, read_table, write_csv
from .table import RuleRow, Standard, same_person
from .vocabulary import CombineRule, RowKind

__all__ = ["NewHeading", "import_table", "verify_rows"]

_LOCK_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class NewHeading:
    """What an imported table does not say itself. grades: strictest first."""

    title: str = ""
    publisher: str = "this site"
    edition: str = "1"
    licence: str = "house"
    status: str = "site table"
    combine_rule: str = str(CombineRule.ANY_FAILS)
    grades: tuple[str, ...] = ("A", "B", "C", "D")
    zones: tuple[str, ...] = ()

    def toml(self, standard_id: str) -> bytes:
        """standard.toml. JSON's strings are TOML's for printable text, and nothing else gets this far."""
        values: dict[str, str | int] = {
            "schema": 1,
            "id": standard_id,
            "title": self.title or standard_id,
            "publisher": self.publisher,
            "edition": self.edition,
            "status": self.status,
            "licence": self.licence,
            "combine_rule": self.combine_rule,
        }
        for key, words in (("grades", self.grades), ("zones", self.zones)):
            if words:
                values[key] = ", ".join(words)
        for key, value in values.items():
            refuse_cell("import", key, str(value))
        return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()).encode()


def _person(name: str) -> str:
    name = " ".join(name.split())
    refuse_cell("--by", "name", name)
    if not name or len(name) > 100 or not any(one.isalpha() for one in name):
        raise UsageError(f"{name!r} is no person's name", hint="--by 'Ada Example'")
    return name


def _refuse_shipped(folder: Path) -> None:
    shipped = data_folder("standards").resolve()
    if folder.resolve() == shipped or shipped in folder.resolve().parents:
        raise UsageError(
            f"{folder}: the shipped tables are sealed and stay as they are",
            code="SEALED",
            hint=f"copy one first: cp -r {shipped}/NAME standards/MY-NAME, with id = \"MY-NAME\" in its standard.toml,"
            " outside this installation",
        )  # fmt: skip


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One editor of this folder at a time. The lock is on the folder itself and leaves nothing behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StorageError(f"{folder}: somebody else is editing it", hint="try again") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, raw: bytes) -> None:
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _drafted(parent: Path, standard_id: str, heading: bytes, rows: bytes, shown_as: str) -> Iterator[Path]:
    """A draft of a standard beside its place, loaded and found right; it is gone afterwards unless moved away."""
    workshop = Path(tempfile.mkdtemp(prefix=".draft-", dir=parent))
    try:
        draft = workshop / standard_id
        draft.mkdir()
        _write(draft / HEADING_FILE, heading)
        _write(draft / ROWS_FILE, rows)
        try:
            load_standard(draft)
        except ConfigError as error:
            text = error.message.replace(str(draft / ROWS_FILE), shown_as).replace(f"{draft}/", "")
            raise ConfigError(text, hint=error.hint) from None
        _sync(draft)
        yield draft
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


@contextmanager
def _storage(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}", hint="check the folder's rights and space") from None


def import_table(
    file: Path,
    standard_id: str,
    *,
    by: str,
    into: Path,
    heading: NewHeading | None = None,
    header_file: Path | None = None,
    replace: bool = False,
    today: date | None = None,
) -> tuple[Standard, int]:
    """Make a new standard of a .csv or .xlsx file, or with ``replace`` give an existing one new rows.

    by: the person who entered it; every row is marked entered by them today, and verified by nobody. header_file: a
    standard.toml whose id is ``standard_id``; otherwise ``heading`` makes one. With ``replace`` the standard keeps its
    heading. Returns the standard and how many verifications the file claimed, all of which are dropped.

    Raises UsageError, ConfigError or StorageError, and then nothing has changed on disk.
    """
    person = _person(by)
    if not _ID.fullmatch(standard_id):
        raise UsageError(f"{standard_id!r} is no id", hint="lower-case letters, digits, dot and dash: acme-al-2")
    place = into / standard_id
    _refuse_shipped(into)
    if (data_folder("standards") / standard_id).exists():
        raise UsageError(f"{standard_id!r} is a shipped standard", code="SEALED", hint=f"--id my-{standard_id}")
    if replace and header_file is not None:
        raise UsageError("--replace keeps the standard's heading", hint="leave --header away, or edit standard.toml")
    raw_rows = read_table(file)
    if not raw_rows:
        raise ConfigError(f"{file}:1: no rows", hint="a standard without rows answers nothing")
    dropped = sum(bool(cells.get("verified_by")) for _, cells in raw_rows)
    entered = {"entered_by": person, "entered_on": (today or date.today()).isoformat()}
    cleared = {"verified_by": "", "verified_on": "", "seal": ""}
    cells = [{**cells, **entered, **cleared} for _, cells in raw_rows]
    lines = [line for line, _ in raw_rows]
    with _storage(str(into)):
        if not replace and place.exists():
            raise UsageError(f"{place} exists already", hint="another --id, or --replace to give it these rows")
        if replace and not (place / HEADING_FILE).is_file():
            raise UsageError(f"{place} is no standard yet", hint="leave --replace away")
        if replace:
            header = read_file(place / HEADING_FILE, MAX_CSV_BYTES)
        elif header_file is not None:
            header = read_file(header_file, MAX_CSV_BYTES)
        else:
            header = (heading or NewHeading()).toml(standard_id)
        made = [folder for folder in (into, *into.parents) if not folder.exists()]
        into.mkdir(parents=True, exist_ok=True)
        try:
            with _locked(place if replace else into):
                rows = _in_lines(lines, cells)
                with _drafted(into, standard_id, header, rows, str(file)) as draft:
                    # What is kept has no blank lines: those only stood in for the file's own line numbers.
                    _write(draft / ROWS_FILE, write_csv(cells))
                    if replace:
                        os.replace(draft / ROWS_FILE, place / ROWS_FILE)
                    else:
                        _move_new(draft, place)
                _sync(place)
                _sync(into)
        except BaseException:
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            raise
    return load_standard(place), dropped


def _move_new(draft: Path, place: Path) -> None:
    try:
        os.rename(draft, place)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise UsageError(f"{place} exists already", hint="name another --id") from None
        raise


def _in_lines(lines: Sequence[int], cells: Sequence[Mapping[str, str]]) -> bytes:
    """rules.csv with every row on the line it has in the imported file, so that an error names that line."""
    written = write_csv(cells).split(b"\n")
    out, at = [written[0]], 1
    for line, row in zip(lines, written[1:], strict=False):
        out.extend([b""] * max(0, line - at - 1))
        out.append(row)
        at = max(line, at + 1)
    return b"\n".join(out) + b"\n"


def _signed(heading: Heading, cells: Mapping[str, str], person: str, on: date) -> dict[str, str]:
    signed = {**cells, "verified_by": person, "verified_on": on.isoformat(), "seal": ""}
    return {**signed, "seal": seal_of(heading, signed)}


def verify_rows(folder: Path, names: Sequence[str], *, by: str, today: date | None = None) -> tuple[RuleRow, ...]:
    """A second person confirms that rows read as their source does. Returns the rows as they now stand.

    Raises UsageError for the person who entered a row, a row that nobody entered, one that is NOT_ENTERED or UNKNOWN,
    an unknown row, and a shipped table; ConfigError and StorageError as loading and writing do. Nothing has changed
    then: all the rows are verified, or none.
    """
    person = _person(by)
    _refuse_shipped(folder)
    with _storage(str(folder)), _locked(folder):
        standard = load_standard(folder)
        heading = Heading(standard.id, standard.edition, standard.grades, standard.zones, standard.sets)
        for name in names:
            row = standard.row(name)
            if row is None:
                raise UsageError(f"{standard.id} has no row {name!r}", hint=f"edge-daemon standards show {standard.id}")
            if row.kind in (RowKind.NOT_ENTERED, RowKind.UNKNOWN):
                raise UsageError(f"{name} reads {row.kind}: there is nothing to verify", hint="enter its value first")
            if not row.entered_by:
                raise UsageError(f"{name}: nobody stands as having entered it", hint="fill entered_by and entered_on")
            if same_person(row.entered_by, person):
                raise UsageError(f"{name}: {row.entered_by} entered it, so another person must verify it",
                                 hint="--by a second person")  # fmt: skip
        path = folder / ROWS_FILE
        raw_rows = parse_csv(str(path), read_file(path, MAX_CSV_BYTES))
        wanted, on = set(names), today or date.today()
        rows = [_signed(heading, one, person, on) if one["row"] in wanted else one for _, one in raw_rows]
        header = read_file(folder / HEADING_FILE, MAX_CSV_BYTES)
        with _drafted(folder.parent, standard.id, header, write_csv(rows), str(path)) as draft:
            os.replace(draft / ROWS_FILE, path)
        _sync(folder)
        changed = load_standard(folder)
    return tuple(row for row in changed.rows if row.row in wanted)
