"""``standards``: acceptance tables: what they ask in their own words; one person imports, another verifies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from . import add_common, emit, say
from .signing import add_sign, add_trust, asked_trust, emit_signature, signature_words

if TYPE_CHECKING:
    from ..standards import Refusal, Requirement, RuleRow, Standard


def register(commands: Any) -> None:
    """Add ``standards list|show|lookup|import|verify|sign|signature``."""
    room = commands.add_parser(
        "standards",
        help="acceptance tables: list, show, lookup, import, verify, sign, signature",
        epilog="example: edge-daemon standards lookup --metal aluminum --thickness 1/4in --grade C"
        " --discontinuity gas_porosity_round",
    )
    verbs = room.add_subparsers(dest="verb", metavar="VERB", required=True)

    listing = verbs.add_parser("list", help="every standard of the site and of this installation",
                               epilog="example: edge-daemon standards list")  # fmt: skip
    add_common(listing)
    listing.set_defaults(run=_list)

    show = verbs.add_parser("show", help="one standard: its heading, reference sets, rows and warnings",
                            epilog="example: edge-daemon standards show house-demo --rows")  # fmt: skip
    show.add_argument("standard", metavar="NAME|FOLDER")
    show.add_argument("--rows", action="store_true", help="also print every row")
    add_common(show)
    show.set_defaults(run=_show)

    lookup = verbs.add_parser(
        "lookup",
        help="what a standard asks, or why it gives no answer; exit 1 where no row answers",
        epilog="example: edge-daemon standards lookup --metal aluminum --thickness 1/4in --grade C"
        " --discontinuity gas_porosity_round\nWithout --standard every standard is asked. A thickness without unit is"
        " refused.",
    )
    lookup.add_argument("--standard", metavar="NAME|FOLDER", help="ask only this one")
    lookup.add_argument("--metal", required=True)
    lookup.add_argument("--thickness", required=True, metavar="T", help="with its unit: 6.35mm, 1/4in")
    lookup.add_argument("--grade", help="as the standard calls it; leave it away where a standard has no grades")
    lookup.add_argument("--discontinuity", required=True, metavar="TYPE")
    lookup.add_argument("--process", help="how the part was made, where the rows depend on it")
    lookup.add_argument("--zone", help="which area of the part, where the rows depend on it")
    lookup.add_argument("--set", metavar="ID", help="which reference set, where a standard has rows for several")
    lookup.add_argument("--form", choices=["film", "digital"], help="of the images to be judged")
    lookup.add_argument("--energy", help="of the radiation, as the reference set calls it")
    lookup.add_argument("--require-verified", action="store_true", help="refuse rows without a second person")
    add_common(lookup)
    lookup.set_defaults(run=_lookup)

    importing = verbs.add_parser(
        "import",
        help="make a standard of a .csv or .xlsx table; the whole table or nothing",
        epilog="example: edge-daemon standards import table.csv --id acme-al-2 --by 'Ada Example' --edition 2026-01",
    )
    importing.add_argument("file", type=Path)
    importing.add_argument("--id", required=True, help="of the new standard, and name of its folder")
    importing.add_argument("--by", required=True, metavar="NAME", help="who entered the rows")
    importing.add_argument("--into", type=Path, default=Path("standards"), metavar="DIR", help="default: standards/")
    importing.add_argument("--replace", action="store_true", help="give an existing standard of the site these rows")
    importing.add_argument("--header", type=Path, metavar="FILE", help="its standard.toml; else the options below")
    importing.add_argument("--title")
    importing.add_argument("--publisher", default="this site")
    importing.add_argument("--edition", default="1")
    importing.add_argument("--licence", default="house", choices=["public", "licensed", "house", "demo"])
    importing.add_argument("--combine-rule", default="ANY_FAILS", choices=["ANY_FAILS", "CO_MAX_FAILS"])
    importing.add_argument("--grades", default="A,B,C,D", help="strictest first; '' for none; default: A,B,C,D")
    importing.add_argument("--zones", default="", help="names of zones the table uses, with commas")
    add_common(importing)
    importing.set_defaults(run=_import)

    verify = verbs.add_parser(
        "verify",
        help="a second person confirms that rows read as their source does",
        epilog="example: edge-daemon standards verify acme-al-2:r17 --by 'Grace Example'",
    )
    verify.add_argument("row", nargs="+", metavar="ROW", help="STANDARD:ROW, or the row alone with --standard")
    verify.add_argument("--by", required=True, metavar="NAME", help="who compared them with the source")
    verify.add_argument("--standard", metavar="NAME|FOLDER")
    add_common(verify)
    verify.set_defaults(run=_verify)

    add_sign(verbs, "standard", "a whole table", "standards sign acme-al-2", _sign, note="; again after every change")

    signature = verbs.add_parser(
        "signature",
        help="whether a trusted key has signed a table; exit 4 where none has",
        epilog="example: edge-daemon standards signature acme-al-2 --config line.toml",
    )
    signature.add_argument("standard", metavar="NAME|FOLDER")
    add_trust(signature)
    add_common(signature)
    signature.set_defaults(run=_signature)


def _counts(standard: Standard) -> dict[str, int]:
    from ..standards import RowKind

    return {
        "rows": len(standard.rows),
        "verified": sum(row.verified for row in standard.rows),
        "not_entered": sum(row.kind in (RowKind.NOT_ENTERED, RowKind.UNKNOWN) for row in standard.rows),
        "not_measurable": sum(row.kind is RowKind.NOT_MEASURABLE for row in standard.rows),
    }


def _summary(standard: Standard) -> tuple[dict[str, Any], str]:
    from ..standards import missing_references

    counts, missing = _counts(standard), missing_references(standard)
    text = f"{standard.id}: {standard.title}, edition {standard.edition} [{standard.licence}, {standard.status}] "
    text += ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items() if number)
    if missing:
        text += f", {len(missing)} references missing"
    if standard.warnings:
        text += f", {len(standard.warnings)} warnings"
    return {**standard.heading(), **counts, "missing_references": list(missing), "warnings": list(standard.warnings),
            "folder": standard.folder}, text  # fmt: skip


def _list(args: argparse.Namespace) -> int:
    from ..standards import list_standards

    worst = 0
    for one in list_standards():
        if one.standard is not None:
            document, text = _summary(one.standard)
            emit({"ok": True, **document}, text, as_json=args.json)
        elif one.error is not None:
            document = {"ok": False, "standard": one.folder.name, "error": str(one.error)}
            emit(document, f"{one.folder.name}: {one.error}", as_json=args.json)
            worst = max(worst, one.error.exit_code)
    return worst


def _show(args: argparse.Namespace) -> int:
    from ..standards import find_standard, load_standard
    from ..standards.table import row_document

    standard = load_standard(find_standard(args.standard))
    document, text = _summary(standard)
    sets = [
        {"id": one.id, "edition": one.edition, "form": one.form, "metals": list(one.metals), "process": one.process,
         "energy": one.energy, "levels": one.levels, "unit_area_mm": one.unit_area_mm, "confidence": one.confidence,
         "source": one.source, "remark": one.remark,
         "plates": [{"name": plate.name, "for": str(plate.thickness), "discontinuities": list(plate.discontinuities),
                     "confidence": plate.confidence, "remark": plate.remark} for plate in one.plates]}
        for one in standard.sets
    ]  # fmt: skip
    lines = [text]
    lines += [f"  {name}: {value}" for name, value in (
        ("publisher", standard.publisher), ("supersedes", standard.supersedes), ("remark", standard.remark),
        ("combine rule", str(standard.combine_rule)), ("grades, strictest first", ", ".join(standard.grades)),
        ("zones", ", ".join(standard.zones)), ("sha256", standard.sha256), ("folder", standard.folder),
    ) if value]  # fmt: skip
    for one in standard.sets:
        lines.append(f"  set {one.id} ({one.form}, {', '.join(one.metals)}, levels 1 to {one.levels})")
        lines += [f"    plate {plate.name}: {plate.thickness}" for plate in one.plates]
    lines += [f"  reference missing: {name}" for name in document["missing_references"]]
    lines += [f"  warning: {warning}" for warning in standard.warnings]
    full = {**document, "publisher": standard.publisher, "supersedes": standard.supersedes, "remark": standard.remark,
            "grades": list(standard.grades), "zones": list(standard.zones), "sets": sets}  # fmt: skip
    emit(full, "\n".join(lines), as_json=args.json)
    for row in standard.rows if args.rows else ():
        emit(row_document(row), f"  {_row_text(row)}", as_json=args.json)
    return 0


def _row_text(row: RuleRow) -> str:
    key = " ".join(word for word in (row.metal, row.process, row.grade, row.discontinuity, row.zone, row.set) if word)
    state = "verified" if row.verified else "not verified"
    said = f' "{row.verbatim}"' if row.verbatim else ""
    level = "" if row.level is None else f" {row.level}"
    return f"{row.row}: {key}, {row.thickness}: {row.kind}{level}{said} [{state}]"


def _answer_text(answer: Requirement | Refusal) -> str:
    from ..standards import Refusal

    standard = answer.standard
    head = f"{standard.id} [{standard.licence}, {standard.status}]"
    if isinstance(answer, Refusal):
        return f"{head}: {answer.code}: {answer.text}"
    row, plate = answer.row, answer.plate
    limit = row.limit_at(answer.thickness_mm)
    asked = "" if row.level is None else str(row.level)
    if limit is not None:
        asked = f"{limit:g} {'%' if row.limit_pct is not None else 'mm'}"
    key = f"{row.metal} {row.discontinuity}" + (f", grade {row.grade}" if row.grade else "")
    lines = [f"{head}: {key}, {answer.thickness_mm:g} mm: {row.kind} {asked}".rstrip()]
    where = f", {row.locator}" if row.locator else ""
    lines.append(f'  words      "{row.verbatim}" ({row.source}{where}; edition {standard.edition})')
    lines.append(f"  row        {answer.row_id}, for thickness {row.thickness}")
    if plate is not None:
        lines.append(f"  plate      {plate.name} of {row.set}, for thickness {plate.thickness}")
    if row.level is not None:
        lines.append(f"  reference  {row.reference}/{row.level}.png")
    if row.windows_mm:
        sides = ", ".join(f"{side:g} mm" for side in row.windows_mm)
        lines.append(f"  compared   in windows of {sides}; tolerance {row.tolerance:g}, guard {row.guard:g}")
    if row.remark:
        lines.append(f"  remark     {row.remark}")
    if answer.advisory:
        why = "a demonstration standard" if standard.licence == "demo" else "verified by no second person"
        lines.append(f"  ADVISORY   {why}")
    else:
        lines.append(f"  verified   entered by {row.entered_by} {row.entered_on}, verified by {row.verified_by}"
                     f" {row.verified_on}")  # fmt: skip
    return "\n".join(lines)


def _lookup(args: argparse.Namespace) -> int:
    from ..standards import Refusal, Requirement, find_standard, list_standards, load_standard
    from ..units import length_mm

    thickness_mm = length_mm(args.thickness)
    worst = 0
    if args.standard is not None:
        standards = [load_standard(find_standard(args.standard))]
    else:
        standards = []
        for one in list_standards():
            if one.standard is not None:
                standards.append(one.standard)
            elif one.error is not None:
                # The answer would be incomplete, and nobody would know.
                say(f"edge-daemon standards: {one.folder.name} is left out: {one.error}")
                worst = max(worst, one.error.exit_code)
    answers = [
        standard.lookup(
            metal=args.metal,
            thickness_mm=thickness_mm,
            grade=args.grade,
            discontinuity=args.discontinuity,
            process=args.process,
            zone=args.zone,
            reference_set=args.set,
            form=args.form,
            energy=args.energy,
            require_verified=args.require_verified,
        )
        for standard in standards
    ]
    answers.sort(key=lambda one: not isinstance(one, Requirement))
    # For people, the standards that do not speak of this metal at all share one line.
    silent = [one for one in answers if isinstance(one, Refusal) and one.code == "UNKNOWN_METAL" and len(answers) > 1]
    for answer in answers:
        if args.json or answer not in silent:
            emit(answer.document(), _answer_text(answer), as_json=args.json)
    if silent and not args.json:
        emit(text=f"no rows for {args.metal}: {', '.join(one.standard.id for one in silent)}")
    found = any(isinstance(answer, Requirement) for answer in answers)
    return worst or (0 if found else 1)


def _split(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _import(args: argparse.Namespace) -> int:
    from ..standards import NewHeading, import_table

    heading = NewHeading(
        title=args.title or "",
        publisher=args.publisher,
        edition=args.edition,
        licence=args.licence,
        combine_rule=args.combine_rule,
        grades=_split(args.grades),
        zones=_split(args.zones),
    )
    standard, dropped = import_table(
        args.file, args.id, by=args.by, into=args.into, heading=heading, header_file=args.header, replace=args.replace
    )
    document, text = _summary(standard)
    if dropped:
        text += f"\n  {dropped} verifications in the file were dropped: they belong to the table they were made in"
    for warning in standard.warnings:
        text += f"\n  warning: {warning}"
    text += (
        f"\n  every row is ADVISORY until a second person verifies it: edge-daemon standards verify {standard.id}:ROW"
    )
    emit({**document, "verifications_dropped": dropped}, text, as_json=args.json)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from ..standards import find_standard, verify_rows

    name, rows = args.standard, []
    for text in args.row:
        standard, colon, row = text.rpartition(":")
        if colon and name is not None and standard != Path(name).name:
            raise UsageError(f"{text!r} is of another standard than {name!r}", hint="leave one of them away")
        if not colon and name is None:
            raise UsageError(f"{text!r}: of which standard?", hint=f"STANDARD:{text}, or --standard FOLDER")
        name = name or standard
        rows.append(row)
    folder = find_standard(name)
    for verified in verify_rows(folder, rows, by=args.by):
        document = {"standard": folder.name, "row": verified.row, "verified_by": verified.verified_by,
                    "verified_on": verified.verified_on, "verified": verified.verified}  # fmt: skip
        text = f"{_row_text(verified)}\n  {verified.source} {verified.locator}".rstrip()
        emit(document, f"{text}\n  verified by {verified.verified_by} on {verified.verified_on}", as_json=args.json)
    return 0


def _sign(args: argparse.Namespace) -> int:
    from ..signing import SIGNATURE, sign
    from ..standards import find_standard, load_standard

    standard = load_standard(find_standard(args.standard))
    folder = Path(standard.folder)
    made = sign("standard", folder / SIGNATURE, standard.sha256, key_file=args.key, signed_by=args.by)
    emit_signature(args, "standard", folder, made)
    return 0


def _signature(args: argparse.Namespace) -> int:
    from ..standards import find_standard, load_standard

    trust = asked_trust(args)
    if trust is None:
        raise UsageError("trusted by whom?", hint="--trusted-key ed25519:... or --config line.toml")
    standard = load_standard(find_standard(args.standard), trust=trust)
    document, words = signature_words(trust, "standard", Path(standard.folder), standard.sha256)
    emit({"standard": standard.id, **document}, f"{standard.id}: {words}", as_json=args.json)
    return 0
