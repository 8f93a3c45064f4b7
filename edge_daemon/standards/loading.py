"""Standards on disk: a folder with standard.toml (who says it, on which reference sets) and rules.csv (the rows)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, EdgeError, UsageError
from ..resources import data_folder, reference_folder
from ..settings import Settings
from ..signing import SIGNATURE, Trust
from .checks import Heading, interval_of, read_rows, refuse_cell, warnings_of
from .sheets import MAX_CSV_BYTES, parse_csv, read_file
from .table import Plate, PlateSet, Standard
from .vocabulary import CONFIDENCES, DISCONTINUITIES, FORMS, LICENCES, METALS, PROCESSES, CombineRule

__all__ = ["Listed", "find_standard", "list_standards", "load_standard", "missing_references", "site_folder"]

HEADING_FILE, ROWS_FILE = "standard.toml", "rules.csv"
_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,31}")
_MOST_WORDS = 32


@dataclass(frozen=True, slots=True)
class Listed:
    """One folder that looks like a standard: the standard, or why it cannot be used."""

    folder: Path
    standard: Standard | None
    error: EdgeError | None


def _text(settings: Settings, key: str, default: str | None = None) -> str:
    value = str(settings.text(key) if default is None else settings.text(key, default))
    try:
        refuse_cell("", "", value)
    except ConfigError as error:
        raise settings.error(key, error.message.lstrip(": "), error.hint) from None
    return value


def _words(settings: Settings, key: str) -> tuple[str, ...]:
    """Comma-separated words, each once: ``grades = "A, B, C, D"``; empty when the key is absent."""
    text = _text(settings, key, "")
    words = tuple(word.strip() for word in text.split(",")) if text else ()
    if len(words) > _MOST_WORDS or len(set(words)) < len(words) or not all(_WORD.fullmatch(word) for word in words):
        raise settings.error(key, f"{text!r} is no list of up to {_MOST_WORDS} different words", f'{key} = "A, B, C"')
    return words


def _known_words(settings: Settings, key: str, known: tuple[str, ...], *, needed: bool) -> tuple[str, ...]:
    words = _words(settings, key)
    unknown = [word for word in words if word not in known]
    if unknown or (needed and not words):
        raise settings.error(key, f"{unknown[0]!r} is not known" if unknown else "is missing", ", ".join(known))
    return words


def _plate(settings: Settings, plate_set: str) -> Plate:
    over, up_to = _text(settings, "over"), _text(settings, "up_to")
    try:
        thickness = interval_of(over, up_to)
    except UsageError as error:
        raise settings.error("over", f"{plate_set}: {error.message}", error.hint) from None
    plate = Plate(
        name=_text(settings, "plate"),
        thickness=thickness,
        discontinuities=_known_words(settings, "discontinuities", DISCONTINUITIES, needed=False),
        confidence=settings.text("confidence", "", choices=CONFIDENCES),
        remark=_text(settings, "remark", ""),
    )
    settings.close()
    return plate


def _plate_set(settings: Settings) -> PlateSet:
    name = _text(settings, "id")
    if not _WORD.fullmatch(name):
        raise settings.error("id", f"{name!r} is no id", "letters, digits, dot and dash")
    area = settings.lengths_mm("unit_area", None, low=1.0)
    if area is not None and len(area) != 2:
        raise settings.error("unit_area", "needs width and height", 'unit_area = ["2 in", "2 in"]')
    plates = tuple(_plate(one, name) for one in settings.tables("plate"))
    if len({one.name for one in plates}) < len(plates):
        raise settings.error("id", f"{name} has two plates of one name", "every plate has a name of its own")
    found = PlateSet(
        id=name,
        edition=_text(settings, "edition"),
        form=settings.text("form", choices=FORMS),
        metals=_known_words(settings, "metals", METALS, needed=True),
        process=settings.text("process", "", choices=PROCESSES),
        energy=_text(settings, "energy", ""),
        levels=settings.integer("levels", low=1, high=8),
        unit_area_mm=None if area is None else (area[0], area[1]),
        plates=plates,
        confidence=settings.text("confidence", "", choices=CONFIDENCES),
        source=_text(settings, "source", ""),
        remark=_text(settings, "remark", ""),
    )
    settings.close()
    return found


def load_standard(
    folder: Path, *, check_references: bool = False, references_base: Path | None = None, trust: Trust | None = None
) -> Standard:
    """Read and check one standard.

    Parameters
    ----------
    folder : holds standard.toml and rules.csv; its name is the standard's id.
    check_references : also refuse a LEVEL row whose reference plate does not exist.
    trust : whose signature over both files is asked for; IntegrityError as ``Trust.check``.
    references_base : where the ``reference`` column starts, before references/ of this installation.

    Raises ConfigError naming file, line and column for the first fault: an unknown word or key, a length without unit,
    a gap or an overlap in thickness, a level the set does not have, a cell that is a formula, a wrong encoding, ...
    """
    settings = Settings.load(folder / HEADING_FILE)
    rows_path = folder / ROWS_FILE
    raw = read_file(rows_path, MAX_CSV_BYTES)
    digest = hashlib.sha256()
    for name, sha256 in ((HEADING_FILE, settings.sha256), (ROWS_FILE, hashlib.sha256(raw).hexdigest())):
        digest.update(f"{name}:{sha256}\n".encode())
    if trust is not None:
        trust.check("standard", folder / SIGNATURE, digest.hexdigest())
    settings.integer("schema", low=1, high=1)
    standard_id = settings.text("id")
    if not _ID.fullmatch(standard_id) or standard_id != folder.resolve().name:
        raise settings.error("id", f"{standard_id!r} is not the name of its folder {folder.resolve().name!r}",
                             "lower-case letters, digits, dot and dash; folder and id are the same")  # fmt: skip
    sets = tuple(_plate_set(one) for one in settings.tables("reference_set"))
    if len({one.id for one in sets}) < len(sets):
        raise settings.error(None, "two reference sets have one id", "every reference set has an id of its own")
    heading = Heading(standard_id, _text(settings, "edition"), _words(settings, "grades"), _words(settings, "zones"),
                      sets)  # fmt: skip
    title, publisher = _text(settings, "title"), _text(settings, "publisher")
    status, supersedes = _text(settings, "status"), _text(settings, "supersedes", "")
    licence = settings.text("licence", choices=LICENCES)
    combine_rule = CombineRule(settings.text("combine_rule", choices=[str(one) for one in CombineRule]))
    remark = _text(settings, "remark", "")
    settings.close()

    rows = read_rows(str(rows_path), parse_csv(str(rows_path), raw), heading)
    standard = Standard(
        id=standard_id,
        title=title,
        publisher=publisher,
        edition=heading.edition,
        status=status,
        supersedes=supersedes,
        licence=licence,
        combine_rule=combine_rule,
        grades=heading.grades,
        zones=heading.zones,
        sets=sets,
        remark=remark,
        folder=str(folder.resolve()),
        sha256=digest.hexdigest(),
        rows=rows,
        warnings=warnings_of(str(rows_path), rows, heading),
    )
    if check_references:
        missing = missing_references(standard, references_base)
        if missing:
            name = missing[0]
            row = next(one for one in rows if one.level is not None and name in (one.reference, _picture(one.reference,
                       one.level)))  # fmt: skip
            raise ConfigError(
                f"{rows_path}:{row.line}: reference: {name} does not exist ({len(missing)} missing in all)",
                hint="edge-daemon references make or import brings a set",
            )
    return standard


def _picture(reference: str, level: int) -> str:
    return f"{reference}/{level}.png"


def missing_references(standard: Standard, base: Path | None = None) -> tuple[str, ...]:
    """Reference folders, and single plates in them, that LEVEL rows name and that are not there, in table order."""
    missing: dict[str, None] = {}
    folders: dict[str, Path | None] = {}
    for row in standard.rows:
        if row.level is None:
            continue
        if row.reference not in folders:
            try:
                folders[row.reference] = reference_folder(row.reference, base)
            except UsageError:
                folders[row.reference] = None
        found = folders[row.reference]
        if found is None:
            missing[row.reference] = None
        elif row.level not in _levels_of(found):
            missing[_picture(row.reference, row.level)] = None
    return tuple(missing)


def _levels_of(folder: Path) -> set[int]:
    """The levels that a set's manifest names; plates may be PNG, TIFF or DICOM, and lie elsewhere. Seals are not
    looked at: whoever uses the set does that."""
    try:
        document = json.loads((folder / "manifest.json").read_bytes())
        named = list(document.get("files", {}))
    except (OSError, ValueError, AttributeError, TypeError):
        return set()
    return {int(name[0]) for name in named if name[:1] in "12345678" and name[1:2] in ("", ".")}


def site_folder(base: Path | None = None) -> Path:
    """Where a site keeps its own standards: ``standards/`` below ``base``, or below the current folder."""
    return (base or Path.cwd()) / "standards"


def find_standard(name: str, base: Path | None = None) -> Path:
    """Folder of a standard: a path (relative to ``base``), a name in the site's ``standards/``, or a shipped one.

    Raises UsageError (NOT_FOUND).
    """
    candidates = [(base or Path.cwd()) / name, site_folder(base) / name, data_folder("standards") / name]
    if Path(name).is_absolute():
        candidates = candidates[:1]
    for candidate in candidates:
        if (candidate / HEADING_FILE).is_file():
            return candidate.resolve()
    raise UsageError(
        f"standard {name!r} was not found",
        code="NOT_FOUND",
        hint=f"looked for {HEADING_FILE} in " + " and ".join(str(one) for one in dict.fromkeys(candidates)),
    )


def list_standards(base: Path | None = None) -> tuple[Listed, ...]:
    """Every standard of the site (``standards/`` below ``base``) and of this installation, by id, broken ones too."""
    found: dict[Path, Listed] = {}
    for root in (site_folder(base), data_folder("standards")):
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if folder.resolve() in found or not (folder / HEADING_FILE).is_file():
                continue
            try:
                found[folder.resolve()] = Listed(folder, load_standard(folder), None)
            except EdgeError as error:
                found[folder.resolve()] = Listed(folder, None, error)
    return tuple(sorted(found.values(), key=lambda one: one.folder.name))
