"""``inspect`` and ``judge``: pictures and label images from files."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, IntegrityError, UsageError
from ..tickets import utc_now
from . import add_common, emit, say

if TYPE_CHECKING:
    from ..inspection import Inspection, Station
    from ..judge import Scale
    from ..recipe import Recipe
    from ..segment.bundle import Bundle
    from ..segment.protocol import Engine


_DEFAULT_ENGINE = "castings-xray"


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is negative or not a number")
    return value


def recall(text: str) -> float:
    """A part recall to be promised, between 0.5 and 1. Raises argparse.ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write --max-recall=0.995, or put it last") from None
    if not 0.5 <= value <= 0.99999:
        raise argparse.ArgumentTypeError(f"{text} is outside 0.5 to 0.99999")
    return value


def thickness_mm(text: str) -> float:
    """A thickness with its unit. Raises argparse.ArgumentTypeError."""
    from ..units import length_mm

    try:
        return length_mm(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def register(commands: Any) -> None:
    """Add ``inspect`` and ``judge``."""
    inspect = commands.add_parser(
        "inspect",
        help="segment, measure and judge pictures",
        description="Segment, measure and, with a recipe, judge pictures. Exit code 0 only when every part is PASS.",
        epilog="example: edge-daemon inspect part.png --recipe recipe.toml --out results/",
    )
    inspect.add_argument("images", nargs="+", metavar="IMAGE|DIR", help="pictures, or folders of pictures")
    inspect.add_argument("--recipe", type=Path, help="recipe (TOML): engine, scale, rules and references")
    table = inspect.add_argument_group("without a recipe: what a standard's table says")
    table.add_argument("--standard", metavar="S", help="name or folder of a standard (see: standards list)")
    table.add_argument("--metal", metavar="M")
    table.add_argument("--thickness", type=thickness_mm, metavar="T", help="with its unit: 6.35mm, 1/4in")
    table.add_argument("--grade", metavar="G")
    table.add_argument("--process", metavar="P", help="where rows differ by process")
    table.add_argument("--form", choices=["film", "digital"], help="which reference sets, where the table has both")
    table.add_argument("--energy", metavar="E", help="where rows differ by radiation energy")
    table.add_argument("--require-verified", action="store_true", help="rows nobody has verified count as missing")
    inspect.add_argument("--engine", help="engine bundle, by name or folder (default: the recipe's, or the only one)")
    inspect.add_argument("--backend", default="auto", choices=["auto", "onnxruntime", "tensorrt"])
    inspect.add_argument(
        "--mm-per-px", type=_positive, metavar="X", help="millimetres per pixel (overrides the recipe)"
    )
    inspect.add_argument("--mm-per-px-u", type=not_negative, default=None, metavar="U", help="its standard uncertainty")
    inspect.add_argument(
        "--max-recall", type=recall, nargs="?", const=0.995, metavar="RECALL",
        help="look as closely as the engine's certificate needs to promise this part recall (default 0.995)",
    )  # fmt: skip
    inspect.add_argument("--labels", type=Path, metavar="L.png", help="judge this label image instead of the engine's")
    inspect.add_argument(
        "--out", type=Path, metavar="DIR",
        help="write record.json, labels.png, highlight.png, tiles.png, report.html, report.pdf ... per image",
    )  # fmt: skip
    inspect.add_argument("--paper", choices=["a4", "letter"], default="a4", help="paper of report.pdf (a4)")
    inspect.add_argument("--language", choices=["en", "he"], default="en", help="language of the report (en)")
    inspect.add_argument("--exit-zero", action="store_true", help="exit 0 also when a part is not PASS")
    add_common(inspect)
    inspect.set_defaults(run=_inspect)

    judge = commands.add_parser(
        "judge",
        help="judge a label image against a reference label image",
        description="Compare two label images (0 sound, 1..254 types, 255 unknown) window by window.",
        epilog="example: edge-daemon judge part.png --against ref.png --mm-per-px 0.1 --window-mm 12.7 25.4 --json",
    )
    judge.add_argument("part", type=Path, metavar="PART.png")
    judge.add_argument("--against", type=Path, required=True, metavar="REF.png")
    judge.add_argument("--mm-per-px", type=_positive, required=True, metavar="X")
    judge.add_argument("--against-mm-per-px", type=_positive, metavar="Y", help="scale of the reference (default: X)")
    judge.add_argument("--window-mm", type=_positive, nargs="+", required=True, metavar="L")
    judge.add_argument("--tolerance", type=not_negative, default=0.0, metavar="t", help="0.2 permits a fifth more")
    judge.add_argument("--guard", type=not_negative, default=1.0, metavar="g", help="guard factor (1: ISO 14253-1)")
    judge.add_argument("--mm-per-px-u", type=not_negative, default=0.0, metavar="U")
    judge.add_argument("--exit-zero", action="store_true", help="exit 0 also when the part is not PASS")
    add_common(judge)
    judge.set_defaults(run=_judge)


def _pictures(names: list[str]) -> Iterator[Path]:
    """Files as given; folders by their pictures in name order. A folder without any is an error."""
    from ..images import PICTURE_SUFFIXES

    for name in names:
        path = Path(name)
        if not path.is_dir():
            yield path
            continue
        inside = sorted(one for one in path.iterdir() if one.suffix.lower() in PICTURE_SUFFIXES and one.is_file())
        if not inside:
            raise ImageError(f"{path}: no picture in this folder", hint="PNG, JPEG, TIFF or BMP")
        yield from inside


def choose_engine(name: str | None) -> str:
    """The engine named; else the only one installed, or that for castings, which the tables of standards speak of: a
    surface engine has to be named. Raises UsageError where nothing of that is there."""
    from ..resources import data_folder

    if name is not None:
        return name
    installed = sorted(path.parent.name for path in data_folder("engines").glob("*/manifest.json"))
    if _DEFAULT_ENGINE in installed:
        return _DEFAULT_ENGINE
    if len(installed) != 1:
        raise UsageError("no engine was named", hint="--engine " + "|".join(installed or ["FOLDER"]))
    return installed[0]


def open_station(args: argparse.Namespace) -> Station:
    """The station that the options of ``inspect`` ask for."""
    from ..inspection import prepare_station
    from ..judge import Scale
    from ..recipe import load_recipe
    from ..references import default_cache_folder
    from ..resources import engine_folder
    from ..segment.bundle import load
    from ..segment.registry import open_engine

    asked = {"--standard": args.standard, "--metal": args.metal, "--thickness": args.thickness, "--grade": args.grade,
             "--process": args.process, "--form": args.form, "--energy": args.energy,
             "--require-verified": args.require_verified or None}  # fmt: skip
    if args.recipe and any(value is not None for value in asked.values()):
        named = next(option for option, value in asked.items() if value is not None)
        raise UsageError(f"--recipe and {named} do not go together", hint="the recipe names its standard itself")
    recipe = load_recipe(args.recipe) if args.recipe else None
    if args.mm_per_px_u is not None and args.mm_per_px is None:
        raise UsageError("--mm-per-px-u without --mm-per-px", hint="give the scale and its uncertainty together")
    scale = None
    if args.mm_per_px:
        # Another scale without its own uncertainty is known as well, relatively, as the recipe's.
        kept = recipe.scale.relative_u * args.mm_per_px if recipe is not None else 0.0
        u_mm_per_px = kept if args.mm_per_px_u is None else args.mm_per_px_u
        scale = Scale(args.mm_per_px, args.mm_per_px, u_mm_per_px)
    if args.engine is None and recipe is not None:
        folder = engine_folder(recipe.engine, recipe.engine_base)
    else:
        folder = engine_folder(choose_engine(args.engine))
    bundle = load(folder)
    if any(value is not None for value in asked.values()):
        recipe = _recipe_of_standard(args, bundle, scale)
    engine: Engine = open_engine(bundle, args.backend)
    station = prepare_station(
        engine, recipe, scale=scale, cache=default_cache_folder(), max_recall=getattr(args, "max_recall", None)
    )
    if station.sensitivity is not None:
        say(f"edge-daemon inspect: {station.sensitivity.text()}")
    expired = station.refusal(utc_now())
    if expired is not None:
        raise IntegrityError(expired.text, code="EXPIRED", hint="take new pictures of the target and calibrate again")
    return station


def _recipe_of_standard(args: argparse.Namespace, bundle: Bundle, scale: Scale | None) -> Recipe:
    """The recipe that --standard, --metal, --thickness and --grade stand for."""
    from ..recipe import StandardUse, recipe_of_standard
    from ..standards import find_standard, load_standard

    for option, value in (("--standard", args.standard), ("--metal", args.metal), ("--thickness", args.thickness)):
        if value is None:
            raise UsageError(f"{option} is missing", hint="--standard, --metal and --thickness go together")
    if scale is None:
        raise UsageError("--mm-per-px is missing", hint="there is no default scale: no scale, no verdict")
    use = StandardUse(
        load_standard(find_standard(args.standard, Path.cwd())), args.grade, process=args.process, form=args.form,
        energy=args.energy, require_verified=args.require_verified,
    )  # fmt: skip
    return recipe_of_standard(
        use, metal=args.metal, thickness_mm=args.thickness, engine=str(bundle.folder), engine_types=bundle.types,
        scale=scale, base=Path.cwd(),
    )  # fmt: skip


class _Folders:
    """``<stem>``, and ``<stem>-2`` for the second input that shares it."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._seen: set[str] = set()

    def take(self, path: Path) -> Path:
        name, number = path.stem, 1
        while name in self._seen:
            number += 1
            name = f"{path.stem}-{number}"
        self._seen.add(name)
        return self._out / name


def _write(
    folder: Path, document: dict[str, Any], station: Station, pixels: Any, inspection: Inspection,
    args: argparse.Namespace,
) -> None:  # fmt: skip
    from ..evidence import evidence
    from ..images import highlight, make_folder, write_bytes_atomic, write_png_atomic
    from ..station.report import report_of
    from ..station.words import Words

    make_folder(folder)
    write_png_atomic(folder / "labels.png", inspection.labels)
    write_png_atomic(folder / "highlight.png", highlight(pixels, inspection.labels))
    drawn = evidence(station, inspection, pixels)
    for name, picture in drawn.items():
        write_png_atomic(folder / name, picture)
    report = report_of(document, pixels=pixels, labels=inspection.labels, drawn=drawn, words=Words(args.language))
    write_bytes_atomic(folder / "report.html", report.html().encode())
    write_bytes_atomic(folder / "report.pdf", report.pdf(args.paper))
    # Last, so that a record in a folder means that its pictures are there as well.
    text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)
    write_bytes_atomic(folder / "record.json", (text + "\n").encode())


def _summary(path: Path, document: dict[str, Any]) -> str:
    lines = [f"{path}: {document['outcome']}" + (" (ADVISORY)" if document["advisory"] else "")]
    lines += [f"  {reason['code']}: {reason['text']}" for reason in document["reasons"]]
    for defect in document["defects"]:
        size = f", {defect['feret_max_mm']:.2f} mm" if defect["feret_max_mm"] is not None else ""
        if defect["known"]:
            lines.append(f"  {defect['type']} at {defect['bbox_px']}{size}, confidence {defect['confidence']:.2f}")
        else:
            lines.append(
                f"  {document['message']} (nearest: {defect['nearest_type']}, p = {defect['p_known']:.3g})"
                f" at {defect['bbox_px']}{size}"
            )
    return "\n".join(lines)


def _inspect_one(args: argparse.Namespace, station: Station, path: Path, folders: _Folders | None) -> int:
    from ..images import load_labels, load_picture
    from ..inspection import document_of
    from ..tickets import new_record_id

    started_s = time.perf_counter()
    laps: dict[str, float] = {}

    def lap(stage: str) -> None:
        laps[stage] = 1000.0 * (time.perf_counter() - started_s) - sum(laps.values())

    picture = load_picture(path)
    lap("load")
    labels = load_labels(args.labels) if args.labels else None
    if labels is not None and labels.shape != picture.pixels.shape[:2]:
        raise UsageError(f"{args.labels} is {labels.shape[::-1]} px, {path} is {picture.pixels.shape[1::-1]}")
    inspection = station.inspect(picture.pixels, lap) if labels is None else station.inspect_labels(labels)
    document = document_of(
        station,
        inspection,
        record_id=new_record_id(),
        image=str(path),
        image_sha256=picture.sha256,
        timings_ms={stage: round(ms, 3) for stage, ms in laps.items()},
    )
    if folders is not None:
        _write(folders.take(path), document, station, picture.pixels, inspection, args)
    emit(document, _summary(path, document), as_json=args.json)
    return 0 if document["result"] == "PASS" or args.exit_zero else 1


def _inspect(args: argparse.Namespace) -> int:
    paths = list(_pictures(args.images))
    if args.labels and len(paths) != 1:
        raise UsageError("--labels goes with exactly one image")
    if args.labels and args.max_recall is not None:
        raise UsageError("--labels and --max-recall do not go together", hint="nobody looks when labels are given")
    station = open_station(args)
    folders = _Folders(args.out) if args.out else None
    worst = 0
    for number, path in enumerate(paths, start=1):
        if len(paths) > 1 and sys.stderr.isatty():
            print(f"\r{number}/{len(paths)}", end="", file=sys.stderr, flush=True)  # noqa: T201
        try:
            worst = max(worst, _inspect_one(args, station, path, folders))
        except ImageError as error:
            # One bad picture among many: say so, go on, and end with its exit code.
            if len(paths) == 1:
                raise
            say(f"edge-daemon inspect: {error} [{error.code}]")
            worst = max(worst, error.exit_code)
    return worst


def _judge(args: argparse.Namespace) -> int:
    from ..comparing import judge_labels
    from ..images import load_labels
    from ..judge import Scale

    scale = Scale(args.mm_per_px, args.mm_per_px, args.mm_per_px_u)
    against_mm = args.against_mm_per_px or args.mm_per_px
    reference_scale = Scale(against_mm, against_mm, 0.0)
    document = judge_labels(
        load_labels(args.part),
        scale,
        load_labels(args.against),
        reference_scale,
        windows_mm=tuple(args.window_mm),
        tolerance=args.tolerance,
        guard=args.guard,
    )
    lines = [document["outcome"]]
    for one in document["types"]:
        lines.append(f"  label {one['label']}: {one['outcome']}")
        lines += [f"    {reason['text']}" for reason in one["reasons"]]
    emit(document, "\n".join(lines), as_json=args.json)
    return 0 if document["result"] == "PASS" or args.exit_zero else 1


__all__ = ["choose_engine", "open_station", "register"]
