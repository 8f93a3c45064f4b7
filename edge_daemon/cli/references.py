"""``references``: the graded plates 1 to 8: list, show, make, import, verify, card."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EdgeError, UsageError
from . import add_common, emit
from .inspecting import choose_engine, not_negative
from .signing import add_sign, add_trust, asked_trust, emit_signature, signature_words

if TYPE_CHECKING:
    from ..references import ReferenceSet, SetLimits
    from ..segment.protocol import Engine

_EXAMPLE_SET = "demo/aluminum/6.35mm/gas_porosity_round"


def _positive(text: str) -> float:
    value = not_negative(text)
    if value <= 0.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def register(commands: Any) -> None:
    """Add ``references list|show|make|import|verify|sign|card``."""
    room = commands.add_parser(
        "references",
        help="reference sets 1 to 8",
        epilog=f"example: edge-daemon references verify {_EXAMPLE_SET}",
    )
    verbs = room.add_subparsers(dest="verb", metavar="VERB", required=True)

    listing = verbs.add_parser(
        "list", help="every set of this installation", epilog="example: edge-daemon references list"
    )
    listing.add_argument("--in", dest="root", type=Path, metavar="DIR", help="every set below this folder instead")
    add_common(listing)
    listing.set_defaults(run=_list)

    show = verbs.add_parser(
        "show",
        help="one set: what it is, and the limits that are measured on it",
        epilog=f"example: edge-daemon references show {_EXAMPLE_SET} --engine castings-xray",
    )
    _add_measuring(show)
    add_common(show)
    show.set_defaults(run=_show)

    verify = verbs.add_parser(
        "verify",
        help="hashes, completeness, scale, size, and severity that grows; changes nothing",
        description="Exit code 0: all is well. 4: a file is not the one that was sealed. 2: the set makes no sense.",
        epilog="example: edge-daemon references verify my-set/ --engine castings-xray",
    )
    _add_measuring(verify)
    add_trust(verify)
    add_common(verify)
    verify.set_defaults(run=_verify)

    add_sign(verbs, "set", "a set", f"references sign {_EXAMPLE_SET}", _sign)

    make = verbs.add_parser(
        "make",
        help="make demonstration sets with the simulator",
        description="One set into a new folder, or with --standard or --all every set that a demonstration standard"
        " names, each into its own folder below DIR. What is there and verifies is not made again.",
        epilog="example: edge-daemon references make --discontinuity gas_porosity_round --out my-set/\n"
        "         edge-daemon references make --standard house-demo --metal steel --out references/",
    )
    which = make.add_mutually_exclusive_group()
    which.add_argument("--standard", metavar="NAME|FOLDER", help="every set this standard names")
    which.add_argument("--all", action="store_true", help="the same as --standard house-demo")
    make.add_argument("--metal", help="default: aluminum; with --standard: only this metal")
    make.add_argument("--thickness", metavar="T", help="with its unit; default: 6.35mm; with --standard: only this one")
    make.add_argument("--discontinuity", metavar="TYPE", help="with --standard: only this type")
    make.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder; with --standard: the root")
    make.add_argument("--seed", type=int, default=0, help="another arrangement of the same grades")
    make.add_argument("--bits", type=int, choices=[8, 16], default=8, help="per pixel (default: 8)")
    add_common(make)
    make.set_defaults(run=_make)

    _register_import(verbs)

    card = verbs.add_parser(
        "card",
        help="the printable card of eight, A4 landscape",
        epilog=f"example: edge-daemon references card {_EXAMPLE_SET} --out card.pdf",
    )
    _add_measuring(card)
    card.add_argument("--out", type=Path, required=True, metavar="FILE", help=".pdf (extra station) or .png")
    card.add_argument("--outlines", action="store_true", help="outline what was measured in yellow")
    add_common(card)
    card.set_defaults(run=_card)


def _add_measuring(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("set", metavar="NAME|FOLDER")
    verb.add_argument("--engine", help="measure the plates with this engine (default: their exact masks, where known)")
    verb.add_argument("--backend", default="auto", choices=["auto", "onnxruntime", "tensorrt"])
    verb.add_argument("--window-mm", type=_positive, nargs="+", default=[12.7, 25.4], metavar="L")
    verb.add_argument("--cache", type=Path, metavar="DIR", help="of measured values (default: the user's cache folder)")


def _register_import(verbs: Any) -> None:
    verb = verbs.add_parser(
        "import",
        help="make a set of a site's own licensed plates; the pictures stay where they are",
        description="Writes only a manifest that names the pictures by path and SHA-256. Plates are PNG, TIFF or DICOM"
        " (extra dicom), called 1 to 8 or as --pattern says; masks 1.mask.png beside them come along.",
        epilog="example: edge-daemon references import /licensed/plates --set e155-al --metal aluminum"
        " --thickness 1/4in\n           --discontinuity gas_hole --mm-per-px 0.05 --mm-per-px-u 0.0002"
        " --polarity dark_void\n           --form digital --licence 'bought 2026, one site' --by 'Ada Example'"
        " --out site/e155-al/gas_hole",
    )
    verb.add_argument("source", type=Path, metavar="DIR", help="the folder with the plates")
    verb.add_argument("--set", required=True, metavar="NAME", help="what the set is called")
    verb.add_argument("--metal", required=True)
    verb.add_argument("--thickness", required=True, metavar="T", help="of the plate, with its unit")
    verb.add_argument("--discontinuity", required=True, metavar="TYPE")
    verb.add_argument("--licence", required=True, metavar="TEXT")
    verb.add_argument("--polarity", required=True, choices=["bright_void", "dark_void"], help="as displayed")
    verb.add_argument("--form", required=True, choices=["film", "digital"], help="digital: made as digital references")
    verb.add_argument("--edition", default="", metavar="TEXT")
    verb.add_argument("--by", required=True, metavar="NAME", help="who imports it")
    verb.add_argument("--mm-per-px", type=_positive, metavar="X", help="on the part (default: from DICOM tags)")
    verb.add_argument("--mm-per-px-u", type=not_negative, metavar="U", help="its standard uncertainty")
    verb.add_argument("--magnification", type=_positive, metavar="M", help="for DICOM spacing that is at the detector")
    verb.add_argument("--magnification-u", type=not_negative, metavar="U")
    verb.add_argument("--levels", type=int, default=8, metavar="N", help="how many plates the set has (default: 8)")
    verb.add_argument("--pattern", default="{n}", metavar="NAME", help="file name, {n} for the level, with any suffix")
    verb.add_argument("--bits", type=int, metavar="N", help="bits really used in 16-bit PNG or TIFF, such as 12")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder of the site")
    kept = verb.add_mutually_exclusive_group()
    kept.add_argument("--link", action="store_true", help="name the originals by path (the default)")
    kept.add_argument("--copy", action="store_true", help="copy the plates into DIR")
    add_common(verb)
    verb.set_defaults(run=_import)


# ---- what the verbs share ------------------------------------------------------------------------------------------


@contextmanager
def _engine(args: argparse.Namespace, *, needed: bool = False) -> Iterator[Engine | None]:
    """The engine that was named; with ``needed`` the only one there is."""
    from ..resources import engine_folder
    from ..segment.bundle import load
    from ..segment.registry import open_engine

    if args.engine is None and not needed:
        yield None
        return
    engine = open_engine(load(engine_folder(choose_engine(args.engine))), args.backend)
    try:
        yield engine
    finally:
        engine.close()


def _cache(args: argparse.Namespace) -> Path | None:
    from ..references import default_cache_folder

    return args.cache if args.cache is not None else default_cache_folder()


def _measured(args: argparse.Namespace, found: ReferenceSet, engine: Engine | None) -> SetLimits:
    from ..references import measure_limits

    return measure_limits(engine, found, windows_mm=args.window_mm, cache=_cache(args))


def _limits_document(measured: SetLimits) -> dict[str, Any]:
    levels = {}
    for level, one in measured.levels.items():
        entries = [
            {
                "metric": name,
                "side_mm": side,
                "limit": None if metric.value == float("inf") else metric.value,
                "raw": None if metric.raw == float("inf") else metric.raw,
                "bent": None if metric.bent == float("inf") else metric.bent,
                "dropped": metric.value is None,
            }
            for (name, side), metric in one.metrics.items()
        ]
        levels[str(level)] = {"usable": one.usable, "metrics": entries}
    return {"source": measured.source, "from_cache": measured.from_cache, "levels": levels,
            "remarks": list(measured.remarks)}  # fmt: skip


def _table(measured: SetLimits) -> str:
    """Limits as text: one column a plate. ``~`` bent a little, ``*`` dropped."""
    levels, width = measured.levels, max(24, len(measured.source) + 12)
    lines = [f"limits by {measured.source}".ljust(width) + "".join(f"{level:>8} " for level in levels).rstrip()]
    for name, side in next(iter(levels.values())).metrics:
        words = (name if side is None else f"{name} {side:g} mm").ljust(width)
        for one in levels.values():
            metric = one.metrics[(name, side)]
            mark = "*" if metric.value is None else "~" if metric.bent > 0 else " "
            shown = metric.raw if metric.value is None else metric.running
            words += ("-" if shown == float("inf") else f"{shown:.3g}").rjust(8) + mark
        lines.append(words.rstrip())
    return "\n".join(lines)


# ---- the verbs -----------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    from ..references import load_reference_set
    from ..resources import data_folder

    worst, root = 0, args.root or data_folder("references")
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder", hint="name a folder that holds reference sets")
    for manifest in sorted(root.rglob("manifest.json")):
        name = str(manifest.parent.relative_to(root))
        try:
            found = load_reference_set(manifest.parent)
        except EdgeError as error:
            emit({"set": name, "ok": False, "error": str(error)}, f"{name}: {error}", as_json=args.json)
            worst = max(worst, error.exit_code)
            continue
        levels = sorted(found.images)
        document = {"set": name, "ok": True, "levels": levels, "masks": found.has_masks, "sha256": found.sha256}
        emit(document, f"{name} levels {levels[0]}..{levels[-1]}" + (" with exact masks" if found.has_masks else ""),
             as_json=args.json)  # fmt: skip
    return worst


def _show(args: argparse.Namespace) -> int:
    from ..references import load_reference_set
    from ..resources import reference_folder

    found = load_reference_set(reference_folder(args.set))
    with _engine(args, needed=not found.has_masks) as engine:
        measured = _measured(args, found, engine)
    facts = {
        "set": found.name,
        "edition": found.edition or None,
        "form": found.form,
        "metal": found.metal,
        "thickness_mm": found.thickness_mm,
        "discontinuity": found.discontinuity,
        "levels": len(found.images),
        "size_px": list(found.size_px),
        "mm_per_px": list(found.scale.both),
        "u_mm_per_px": found.scale.u_mm_per_px,
        "masks": found.has_masks,
        "licence": found.licence,
        "folder": str(found.folder),
        "sha256": found.sha256,
    }
    lines = [f"{key.replace('_', ' ')}: {value}" for key, value in facts.items() if value is not None]
    lines += ["", _table(measured), *measured.remarks]
    emit({**facts, "limits": _limits_document(measured)}, "\n".join(lines), as_json=args.json)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from ..references.examining import examine
    from ..resources import reference_folder

    folder = reference_folder(args.set)
    trust, signed = asked_trust(args), ""
    if trust is not None:
        sha256 = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
        signed = f", {signature_words(trust, 'references', folder, sha256)[1]}"
    with _engine(args) as engine:
        found = examine(folder, engine=engine, windows_mm=tuple(args.window_mm), cache=_cache(args))
    document: dict[str, Any] = {
        "set": args.set,
        "ok": not found.problems,
        "problems": [{"code": one.code, "text": str(one), "exit_code": one.exit_code} for one in found.problems],
        "notes": list(found.notes),
    }
    lines = [f"{args.set}: {one} [{one.code}]" for one in found.problems]
    if found.found is not None:
        one = found.found
        document |= {"levels": sorted(one.images), "mm_per_px": one.scale.x_mm_per_px, "sha256": one.sha256}
        if not found.problems:
            grown = f", severity grows by {found.measured.source}" if found.measured is not None else ""
            lines.append(
                f"{args.set}: {len(one.images)} plates, seals hold, {one.scale.x_mm_per_px:g} mm per px{grown}{signed}"
            )
    lines += [f"note: {note}" for note in found.notes]
    emit(document, "\n".join(lines), as_json=args.json)
    return found.exit_code


def _sign(args: argparse.Namespace) -> int:
    from ..references import load_reference_set
    from ..resources import reference_folder
    from ..signing import SIGNATURE, sign

    found = load_reference_set(reference_folder(args.set))
    made = sign("references", found.folder / SIGNATURE, found.sha256, key_file=args.key, signed_by=args.by)
    emit_signature(args, "references", found.folder, made)
    return 0


def _make(args: argparse.Namespace) -> int:
    from ..references.making import make_set, make_sets, planned_set
    from ..units import length_mm

    thickness_mm = None if args.thickness is None else length_mm(args.thickness)
    if not (args.standard or args.all):
        if args.discontinuity is None:
            raise UsageError("what is to be made?", hint="--discontinuity TYPE, --standard NAME or --all")
        planned = planned_set(args.metal or "aluminum", 6.35 if thickness_mm is None else thickness_mm,
                              args.discontinuity, seed=args.seed, bits=args.bits)  # fmt: skip
        sha256 = make_set(args.out, planned)
        emit({"folder": str(args.out), "sha256": sha256}, f"eight plates in {args.out}", as_json=args.json)
        return 0
    names = _sets_of_standard(args.standard or "house-demo", args.metal, thickness_mm, args.discontinuity)
    for done, name in enumerate(make_sets(args.out, names, seed=args.seed, bits=args.bits), start=1):
        _progress(done, len(names), name)
        emit({"set": name, "folder": str(args.out / name)}, name, as_json=args.json)
    return 0


def _sets_of_standard(
    standard: str, metal: str | None, thickness_mm: float | None, discontinuity: str | None
) -> list[str]:
    """Every set that the LEVEL rows of a standard name, in the table's order, as far as asked for."""
    from ..standards import find_standard, load_standard
    from ..units import length_mm

    table = load_standard(find_standard(standard))
    names: list[str] = []
    for row in table.rows:
        name = row.reference
        if row.level is None or not name or name in names:
            continue
        if name.count("/") != 3:
            raise UsageError(f"{row.row}: reference {name!r} cannot be made", hint="<set>/<metal>/<thickness>/<type>")
        parts = name.split("/")
        as_thick = thickness_mm is None or abs(length_mm(parts[2]) - thickness_mm) < 1e-6
        if as_thick and metal in (None, parts[1]) and discontinuity in (None, parts[3]):
            names.append(name)
    if not names:
        raise UsageError(f"{standard} names no such reference set", hint="references list, standards show")
    return names


def _progress(number: int, of: int, what: str) -> None:
    if sys.stderr.isatty():
        filled = round(30 * number / of)
        bar = "#" * filled + "." * (30 - filled)
        end = "\n" if number == of else ""
        print(f"\r[{bar}] {number}/{of} {what[:60]:60}", end=end, file=sys.stderr, flush=True)  # noqa: T201


def _import(args: argparse.Namespace) -> int:
    from ..references.importing import ImportPlan, import_set
    from ..units import length_mm

    plan = ImportPlan(
        name=args.set,
        metal=args.metal,
        thickness_mm=length_mm(args.thickness),
        discontinuity=args.discontinuity,
        licence=args.licence,
        imported_by=args.by,
        polarity=args.polarity,
        mm_per_px=args.mm_per_px,
        u_mm_per_px=args.mm_per_px_u,
        magnification=args.magnification,
        magnification_u=args.magnification_u,
        levels=args.levels,
        pattern=args.pattern,
        form=args.form,
        edition=args.edition,
        bits_stored=args.bits,
        copy=args.copy,
    )
    found = import_set(args.source, args.out, plan)
    document = {
        "folder": str(args.out),
        "levels": sorted(found.images),
        "mm_per_px": list(found.scale.both),
        "u_mm_per_px": found.scale.u_mm_per_px,
        "scale_source": found.document["scale_source"],
        "sha256": found.sha256,
    }
    kept = "copied" if args.copy else "named where they are"
    emit(document, f"{args.out}: {len(found.images)} plates, {kept}, {found.scale.x_mm_per_px:g} mm per px"
         f" ({document['scale_source']})", as_json=args.json)  # fmt: skip
    return 0


def _card(args: argparse.Namespace) -> int:
    from ..images import write_bytes_atomic
    from ..references import load_reference_set
    from ..references.card import card_pdf, card_png
    from ..resources import reference_folder

    suffix = args.out.suffix.lower()
    if suffix not in (".pdf", ".png"):
        raise UsageError(f"{args.out}: a card is .pdf or .png", hint="--out card.pdf")
    folder = reference_folder(args.set)
    if args.out.resolve().parent == folder:
        raise UsageError(f"{args.out} lies in the set itself", hint="a set holds only what its manifest names")
    found = load_reference_set(folder)
    with _engine(args, needed=not found.has_masks) as engine:
        measured = _measured(args, found, engine)
        outlines = _outlines(found, engine) if args.outlines else None
    card = (card_pdf if suffix == ".pdf" else card_png)(found, measured, outlines)
    write_bytes_atomic(args.out, card)
    emit({"file": str(args.out), "sha256": found.sha256, "limits": _limits_document(measured)},
         f"{args.out}: {found.discontinuity} 1 to {len(found.images)}, measured by {measured.source}",
         as_json=args.json)  # fmt: skip
    return 0


def _outlines(found: ReferenceSet, engine: Engine | None) -> dict[int, Any]:
    """What was measured, by level: the masks, or the set's type as the engine sees it."""
    from ..segment.see import see

    if engine is None:
        return {level: image.mask for level, image in found.images.items()}
    if found.discontinuity not in engine.bundle.types:
        return {}
    label = engine.bundle.types.index(found.discontinuity) + 1
    return {
        level: see(engine, image.pixels, mm_per_px=found.scale.both).labels == label
        for level, image in found.images.items()
    }
