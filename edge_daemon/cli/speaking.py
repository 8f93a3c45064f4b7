"""``memory``: what people say about records and defects, what is like what, and who did what."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from . import emit
from .stores import add_verb, bank_of, user_name

if TYPE_CHECKING:
    from ..memory import Similar, StoredRecord

__all__ = ["register"]


def register(verbs: Any) -> None:
    """Add the verbs to ``memory``."""
    verb = add_verb(verbs, "feedback", _feedback, "say whether a record is right", more="RECORD --verdict confirm")
    verb.add_argument("record", metavar="RECORD", help="record id")
    verb.add_argument(
        "--verdict", choices=["confirm", "wrong_type", "missed", "false_call"], help="left out: what was said"
    )
    verb.add_argument(
        "--indication", type=int, metavar="N", help="place in the record's 'defects', from 0; else the part"
    )
    verb.add_argument("--type", metavar="TYPE", help="what it is, for wrong_type and missed")
    verb.add_argument("--mask", type=Path, metavar="PNG", help="corrected label image of the stored picture")
    verb.add_argument("--types", metavar="A,B", help="types of the label image's values 1, 2, ... (else the engine's)")
    verb.add_argument("--judge-by", type=Path, metavar="RECIPE", help="judge the part again with the label image")
    verb.add_argument("--why", default="", metavar="TEXT", help="needed for everything but confirm")
    verb.add_argument("--who", default=user_name(), metavar="NAME", help="(%(default)s)")
    verb = add_verb(verbs, "similar", _similar, "past indications like one of these", more="RECORD --indication 2")
    verb.add_argument("what", metavar="RECORD|IMAGE", help="record id, or a picture that is inspected first")
    verb.add_argument("--indication", type=int, metavar="N", help="place in 'defects', from 0 (the largest)")
    verb.add_argument("--type", metavar="TYPE", help="only indications of this type")
    verb.add_argument("--limit", type=int, default=10)
    verb.add_argument("--recipe", type=Path, metavar="FILE", help="for a picture: engine and scale")
    verb = add_verb(verbs, "patterns", _patterns, "what is known about types of defects", more="crack")
    verb.add_argument("type", nargs="?", metavar="TYPE", help="left out: all of them")
    verb.add_argument("--title", metavar="TEXT")
    verb.add_argument("--description", metavar="TEXT", help="own words in place of the shipped ones")
    verb.add_argument("--cause", action="append", metavar="TEXT", help="typical causes; give it once for each")
    verb.add_argument("--indicator", action="append", metavar="TEXT", help="indicators of severity; once for each")
    verb.add_argument("--reset", action="store_true", help="back to the shipped words")
    verb.add_argument("--language", choices=["en", "he"], default="en", help="of the shipped words (en)")
    verb.add_argument("--why", default="", metavar="TEXT", help="needed for a change")
    verb.add_argument("--who", default=user_name(), metavar="NAME", help="(%(default)s)")
    verb = add_verb(verbs, "sessions", _sessions, "runs of the daemon")
    verb.add_argument("--limit", type=int, default=20)
    verb = add_verb(verbs, "trail", _trail, "who changed what, when and why", more="--kind feedback")
    verb.add_argument("--kind", metavar="WORD", help="feedback, pattern, retention, session_started, ...")
    verb.add_argument("--limit", type=int, default=20)


# ---------------------------------------------------------------- feedback


def _feedback(args: argparse.Namespace) -> int:
    reading = args.verdict is None
    with bank_of(args, read_only=reading) as bank:
        if reading:
            for word in bank.feedback_of(args.record):
                emit(asdict(word), _word(word), as_json=args.json)
            return 0
        mask, rejudged = None, None
        types: list[str] = []
        if args.mask is not None:
            record = bank.get(args.record)
            if record is None:
                raise UsageError(f"there is no record {args.record}", code="NOT_FOUND")
            mask, types, rejudged = _drawn(args, record)
        elif args.judge_by is not None or args.types is not None:
            raise UsageError("--judge-by and --types go with --mask", hint="give the corrected label image")
        word = bank.feedback(
            args.record, args.verdict, who=args.who, why=args.why, position=args.indication, correct_type=args.type,
            mask=mask, mask_types=types, rejudged=rejudged,
        )  # fmt: skip
    emit(asdict(word), _word(word), as_json=args.json)
    return 0


def _word(word: Any) -> str:
    about = "the part" if word.position is None else f"indication {word.position}"
    named = f" -> {word.correct_type}" if word.correct_type else ""
    again = f"; judged again: {word.rejudged['outcome']}" if word.rejudged else ""
    old = "" if word.current else " (replaced by a later word)"
    return f"{word.at_utc} {word.who}: {about}: {word.verdict}{named} {word.why}{again}{old}"


def _drawn(args: argparse.Namespace, record: StoredRecord) -> tuple[Any, list[str], dict[str, Any] | None]:
    """(label image, types of its values, document of judging again with it)."""
    from ..images import load_labels
    from ..replay import rejudge

    mask = load_labels(args.mask)
    if args.judge_by is None:
        if args.types is None:
            raise UsageError("--mask needs --types or --judge-by", hint="--types crack,gas_hole: what 1, 2, ... mean")
        return mask, [name.strip() for name in args.types.split(",")], None
    station = _station(args.judge_by)
    try:
        types = list(station.engine.bundle.types)
        if args.types is not None and args.types.split(",") != types:
            raise UsageError("--types is not what the recipe's engine knows", hint=",".join(types))
        return mask, types, rejudge(station, record, mask)
    finally:
        station.engine.close()


def _station(recipe_path: Path) -> Any:
    from ..inspection import prepare_station
    from ..recipe import load_recipe
    from ..references import default_cache_folder
    from ..resources import engine_folder
    from ..segment.bundle import load
    from ..segment.registry import open_engine

    recipe = load_recipe(recipe_path)
    engine = open_engine(load(engine_folder(recipe.engine, recipe.engine_base)), "auto")
    return prepare_station(engine, recipe, cache=default_cache_folder())


# ---------------------------------------------------------------- similar


def _similar(args: argparse.Namespace) -> int:
    with bank_of(args, read_only=True) as bank:
        record = bank.get(args.what)
        options = {"limit": args.limit, "defect_type": args.type}
        if record is not None:
            defects = record.document.get("defects") or []
            position = _chosen(args, defects, "record")
            found = bank.similar(record.record_id, position, **options)
        elif Path(args.what).is_file():
            defects, document, contrasts = _inspected(args)
            position = _chosen(args, defects, "picture")
            found = bank.similar_to(defects[position], document, contrast=contrasts[position], **options)
        else:
            raise UsageError(f"{args.what} is neither a record of this bank nor a picture", code="NOT_FOUND")
    for one in found:
        emit(_similar_document(one), _similar_text(one), as_json=args.json)
    return 0


def _chosen(args: argparse.Namespace, defects: list[dict[str, Any]], what: str) -> int:
    if not defects:
        raise UsageError(f"this {what} has no indication", hint="name one that has")
    if args.indication is None:
        return max(range(len(defects)), key=lambda at: defects[at].get("area_mm2") or 0.0)
    if not 0 <= args.indication < len(defects):
        raise UsageError(f"this {what} has no indication {args.indication}", hint=f"it has {len(defects)}, from 0")
    position: int = args.indication
    return position


def _inspected(args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any], list[float | None]]:
    from ..images import load_picture
    from ..inspection import document_of
    from ..memory import contrasts_of

    if args.recipe is None:
        raise UsageError("a picture needs --recipe", hint="it says which engine looks, and at which scale")
    picture = load_picture(args.what)
    station = _station(args.recipe)
    try:
        inspection = station.inspect(picture.pixels)
        document = document_of(station, inspection, record_id="", image=args.what, image_sha256=picture.sha256)
    finally:
        station.engine.close()
    contrasts = contrasts_of(picture.pixels, inspection.labels, document["defects"])
    return document["defects"], document, contrasts or [None] * len(document["defects"])


def _similar_document(one: Similar) -> dict[str, Any]:
    record = one.record
    return {
        "distance": one.distance, "record_id": record.record_id, "trigger_utc": record.trigger_utc,
        "station": record.station, "recipe": record.recipe, "outcome": str(record.outcome),
        "advisory": record.advisory, "pictures": record.pictures, "indication": asdict(one.indication),
    }  # fmt: skip


def _similar_text(one: Similar) -> str:
    found = one.indication
    size = "" if found.feret_max_mm is None else f" {found.feret_max_mm:.2f} mm"
    name = found.type if found.known else f"unknown (nearest {found.nearest_type})"
    return (
        f"{one.distance:6.3f}  {name}{size} at {list(found.bbox_px)}  {one.record.trigger_utc} {one.record.outcome}"
        f" {one.record.record_id}"
    )


# ---------------------------------------------------------------- patterns, sessions, trail


def _patterns(args: argparse.Namespace) -> int:
    given = {"title": args.title, "description": args.description, "causes": args.cause, "severity": args.indicator}
    changing = args.reset or any(value is not None for value in given.values())
    if changing and args.type is None:
        raise UsageError("which type is to be changed?", hint="edge-daemon memory patterns TYPE --description ...")
    with bank_of(args, read_only=not changing) as bank:
        if changing:
            shown = [bank.edit_pattern(args.type, who=args.who, why=args.why, reset=args.reset,
                                       language=args.language, **given)]  # fmt: skip
        else:
            known = bank.patterns(language=args.language)
            if args.type is not None and args.type not in known:
                raise UsageError(f"{args.type!r} is no type of defect", hint="one of: " + ", ".join(known))
            shown = [known[args.type]] if args.type is not None else list(known.values())
    for one in shown:
        by = f"\n  edited by {one.edited_by} at {one.edited_utc}" if one.edited_by else ""
        lines = [f"{one.type}: {one.title}", f"  {one.description}"]
        lines += [f"  cause: {text}" for text in one.causes] + [f"  severity: {text}" for text in one.severity]
        emit(asdict(one), "\n".join(lines) + by, as_json=args.json)
    return 0


def _sessions(args: argparse.Namespace) -> int:
    with bank_of(args, read_only=True) as bank:
        for one in bank.sessions(limit=args.limit):
            ended = one.ended_utc or ("runs" if one.ended is None else "?")
            text = f"{one.number} {one.station} {one.started_utc} to {ended} ({one.ended or 'open'}): {one.recipe}"
            emit(asdict(one), f"{text} on {one.engine}, version {one.version}", as_json=args.json)
    return 0


def _trail(args: argparse.Namespace) -> int:
    with bank_of(args, read_only=True) as bank:
        for one in bank.notes(kind=args.kind, limit=args.limit):
            text = f"{one.number} {one.at_utc} {one.who}: {one.kind} {one.subject}: {one.why}"
            emit(asdict(one), text, as_json=args.json)
    return 0
