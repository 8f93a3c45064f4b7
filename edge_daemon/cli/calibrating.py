"""``calibrate``: print targets, and turn pictures of them into sealed calibrations."""

from __future__ import annotations

import argparse
import math
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from . import add_common, emit

if TYPE_CHECKING:
    from ..calibration import DriftLimits, Fiducial, Heading
    from ..calibration.scales import ScaleResult
    from ..images import Picture


def _numbers(count: int, what: str) -> Any:
    def convert(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count or not all(math.isfinite(one) for one in values):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return values

    return convert


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _grid(text: str) -> tuple[int, int]:
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 0 < len(part) < 4 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not columns x rows, such as 14x10")
    return int(parts[0]), int(parts[1])


def register(commands: Any) -> None:
    """Add ``calibrate target|board|dots|scale|wedge|check``."""
    calibrate = commands.add_parser(
        "calibrate",
        help="millimetres: print targets, calibrate lens, plane, scale and step wedge, check for drift",
        description="Turn pictures of a target, a gauge or a step wedge into a sealed calibration with an expiry.",
        epilog="example: edge-daemon calibrate board views/*.png --target EDC-14x10-10mm --pitch 9.98mm"
        " --pitch-u 0.01mm --out station1.json",
    )
    verbs = calibrate.add_subparsers(dest="verb", metavar="VERB", required=True)
    _register_target(verbs)
    for name, text in (
        ("board", "lens and plane from views of a ChArUco board (one view: plane only)"),
        ("dots", "lens and plane from views of a dot grid (one view: plane only)"),
    ):
        _register_views(verbs, name, text)
    _register_scale(verbs)
    _register_wedge(verbs)
    check = verbs.add_parser(
        "check",
        help="is a calibration whole and in date, and has the camera moved since?",
        epilog="example: edge-daemon calibrate check --calibration station1.json frame.png",
    )
    check.add_argument("--calibration", type=Path, required=True, metavar="FILE")
    check.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="frames of today, with the mark in view")
    add_common(check)
    check.set_defaults(run=_check)


def _register_target(verbs: Any) -> None:
    target = verbs.add_parser(
        "target",
        help="a target to print, as PDF (exact) or PNG",
        description="Print at 100 %, check the ruler, glue it flat, measure the pitch over many squares.",
        epilog="example: edge-daemon calibrate target charuco --pitch 10mm --size 14x10 --out board.pdf",
    )
    target.add_argument("kind", choices=["charuco", "dots", "marker"], help="marker: a mark that watches for drift")
    target.add_argument("--pitch", required=True, metavar="LENGTH", help="square, dot pitch, or the marker's side")
    target.add_argument("--size", type=_grid, metavar="CxR", help="squares or dots (default 14x10, dots 21x15)")
    target.add_argument("--number", type=int, default=0, help="number of the marker, 0 to 49")
    target.add_argument("--dpi", type=int, default=600, help="resolution of a PNG")
    target.add_argument("--out", type=Path, required=True, metavar="FILE.pdf|png")
    add_common(target)
    target.set_defaults(run=_target)


def _register_views(verbs: Any, name: str, text: str) -> None:
    views = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Five views or more, tilted 15 to 30 degrees every way and into the"
        " corners, and one in the plane of the parts.",
        epilog=f"example: edge-daemon calibrate {name} views/*.png --plane views/flat.png --pitch 9.98mm"
        f" --pitch-u 0.01mm --target {'EDC-14x10-10mm' if name == 'board' else 'EDD-21x15-8mm'} --out station1.json",
    )
    views.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    views.add_argument("--target", required=True, metavar="ID", help="printed on the target")
    views.add_argument("--pitch", required=True, metavar="LENGTH", help="pitch as measured on the print")
    views.add_argument("--pitch-y", metavar="LENGTH", help="pitch down the page, where it differs")
    views.add_argument("--pitch-u", required=True, metavar="LENGTH", help="its standard uncertainty (k = 1)")
    views.add_argument("--plane", type=Path, metavar="IMAGE", help="view in the plane of the parts (default: the last)")
    _add_file_options(views, fiducial=True)
    views.set_defaults(run=_views)


def _register_scale(verbs: Any) -> None:
    scale = verbs.add_parser(
        "scale",
        help="mm per px from a known length, from pixel pitch and magnification (X-ray), or from DICOM tags",
        epilog="example: edge-daemon calibrate scale bar.png --length 50mm --length-u 0.01mm --from 100,400"
        " --to 612,402 --out xray.json",
    )
    scale.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="pictures, or one DICOM or DICONDE file")
    scale.add_argument("--length", metavar="LENGTH", help="known length between --from and --to")
    scale.add_argument("--length-u", metavar="LENGTH", help="its standard uncertainty (k = 1)")
    pair = _numbers(2, "x,y in px")
    scale.add_argument("--from", dest="starts", action="append", type=pair, default=[], metavar="X,Y",
                       help="near one face; once for all pictures, or once for each")  # fmt: skip
    scale.add_argument("--to", dest="ends", action="append", type=pair, default=[], metavar="X,Y")
    scale.add_argument("--no-refine", action="store_true", help="take the points as given; no search for edges")
    scale.add_argument("--point-u-px", type=_positive, default=0.5, metavar="U", help="with --no-refine: u of a point")
    scale.add_argument("--pixel-pitch", metavar="LENGTH", help="pixel pitch of the detector")
    scale.add_argument("--pixel-pitch-u", metavar="LENGTH", help="its standard uncertainty")
    scale.add_argument("--magnification", type=_positive, metavar="M", help="source-detector over source-part distance")
    scale.add_argument("--magnification-u", type=_positive, metavar="U", help="its standard uncertainty")
    scale.add_argument("--dicom", action="store_true", help="read the spacing from the file's tags (extra dicom)")
    _add_file_options(scale, fiducial=True)
    scale.set_defaults(run=_scale)


def _register_wedge(verbs: Any) -> None:
    wedge = verbs.add_parser(
        "wedge",
        help="grey value to thickness from a step wedge",
        epilog="example: edge-daemon calibrate wedge wedge.tif --steps 2mm,4mm,6mm,8mm,10mm --steps-u 0.02mm"
        " --out wedge.json",
    )
    wedge.add_argument("image", type=Path, metavar="IMAGE")
    wedge.add_argument("--steps", required=True, metavar="T,T,...", help="thicknesses, left to right or top to bottom")
    wedge.add_argument("--steps-u", default="0mm", metavar="LENGTH", help="standard uncertainty of a step's thickness")
    box = _numbers(4, "x,y,w,h in px")
    wedge.add_argument("--region", action="append", type=box, default=[], metavar="X,Y,W,H", help="once for each step")
    wedge.add_argument("--area", type=box, metavar="X,Y,W,H", help="where the wedge lies (default: the whole picture)")
    wedge.add_argument("--white", type=int, metavar="N", help="largest value of the detector, e.g. 4095")
    wedge.add_argument("--model", default="auto", choices=["auto", "physics", "interpolation"])
    _add_file_options(wedge, fiducial=False)
    wedge.set_defaults(run=_wedge)


def _add_file_options(parser: argparse.ArgumentParser, *, fiducial: bool) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    parser.add_argument("--valid", default="180d", metavar="TIME", help="how long it holds (default 180d)")
    parser.add_argument("--camera", metavar="ID", help="serial number of camera or detector")
    if fiducial:
        parser.add_argument("--height-u", default="0mm", metavar="LENGTH", help="standard uncertainty of part height")
        parser.add_argument("--distance", metavar="LENGTH", help="camera or source to part (default: from the fit)")
        parser.add_argument("--fiducial", type=Path, metavar="IMAGE", help="frame with the marks that stay in view")
        parser.add_argument("--fiducial-dot", action="append", type=_numbers(3, "x,y,diameter in px"), default=[],
                            metavar="X,Y,D", help="a round dot, twice or more; else all 4X4_50 markers")  # fmt: skip
        parser.add_argument("--drift-shift-px", type=_positive, default=3.0, metavar="N")
        parser.add_argument("--drift-scale-ppm", type=_positive, default=500.0, metavar="N")
        parser.add_argument("--drift-rotation-mrad", type=_positive, default=2.0, metavar="N")
    add_common(parser)


# ---- shared --------------------------------------------------------------------------------------------------------


def _new_file(path: Path) -> None:
    """Refused before the work: records name a calibration by its hash, so none is ever written over."""
    if path.exists():
        raise UsageError(f"{path} exists already", hint="name a new file")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder", hint="name a folder that exists")


def _progress(number: int, of: int, what: str) -> None:
    if of > 1 and sys.stderr.isatty():
        end = "\n" if number == of else ""
        print(f"\r{what} {number}/{of}", end=end, file=sys.stderr, flush=True)  # noqa: T201


def _heading(args: argparse.Namespace, sources: list[tuple[str, str]]) -> Heading:
    from ..calibration import Heading
    from ..units import duration_s

    return Heading(sources, valid=timedelta(seconds=duration_s(args.valid)), camera=args.camera)


def _fiducial(args: argparse.Namespace, size_px: tuple[int, int]) -> tuple[Fiducial | None, DriftLimits]:
    from ..calibration import DriftLimits, find_fiducial
    from ..images import load_picture

    limits = DriftLimits(args.drift_shift_px, args.drift_scale_ppm, args.drift_rotation_mrad)
    if args.fiducial is None:
        if args.fiducial_dot:
            raise UsageError("--fiducial-dot without --fiducial IMAGE", hint="name the frame the dots are in")
        return None, limits
    pixels = load_picture(args.fiducial).pixels
    if (pixels.shape[1], pixels.shape[0]) != size_px:
        raise UsageError(f"{args.fiducial} is {pixels.shape[1]} x {pixels.shape[0]} px, the views {size_px}")
    return find_fiducial(pixels, str(args.fiducial), args.fiducial_dot), limits


def _heights(args: argparse.Namespace) -> tuple[float, float | None]:
    """(standard uncertainty of the part's height, distance to it or None), mm."""
    from ..units import length_mm

    return length_mm(args.height_u), None if args.distance is None else length_mm(args.distance)


def _finish(args: argparse.Namespace, document: dict[str, Any], lines: list[str]) -> int:
    from ..calibration import load_calibration, load_wedge, save_document

    sha256 = save_document(args.out, document)
    # What was written is what a station will read: read it back before saying so.
    if document["kind"] == "wedge":
        load_wedge(args.out)
    else:
        load_calibration(args.out)
    shown = {key: document[key] for key in _SHOWN if document.get(key) is not None}
    lines = [f"{args.out}: {lines[0]}", *(f"  {line}" for line in lines[1:])]
    lines += [f"  note: {note}" for note in document.get("notes", ())]
    lines.append(f"  valid until {document['expires_utc']}, sha256 {sha256[:16]}")
    emit({"file": str(args.out), "sha256": sha256, **shown}, "\n".join(lines), as_json=args.json)
    return 0


_SHOWN = ("kind", "method", "camera", "size_px", "target", "scale", "budget", "residuals", "coverage", "curve",
          "steps", "fiducial", "drift_limits", "notes", "made_utc", "expires_utc")  # fmt: skip


def _scale_lines(document: dict[str, Any]) -> list[str]:
    x, y = document["scale"]["mm_per_px"]
    u = document["scale"]["u_relative"]
    scale = f"{x:.6g} mm per px" if x == y else f"{x:.6g} x {y:.6g} mm per px"
    return [
        f"{scale}, standard uncertainty {100 * u:.3g} % (U = {200 * u:.3g} % at k = 2)",
        *(f"{one['name']:>13} {100 * one['u_relative']:.4f} %  {one['source']}" for one in document["budget"]),
    ]


# ---- the verbs -----------------------------------------------------------------------------------------------------


def _target(args: argparse.Namespace) -> int:
    from ..calibration import Target, marker_pdf, parse_target, target_pdf, target_png
    from ..images import write_bytes_atomic
    from ..units import length_mm

    pitch_mm = length_mm(args.pitch)
    suffix = args.out.suffix.lower()
    if suffix not in (".pdf", ".png"):
        raise UsageError(f"{args.out}: neither .pdf nor .png", hint="--out board.pdf")
    if not 50 <= args.dpi <= 4800:
        raise UsageError(f"{args.dpi} dpi", hint="from 50 to 4800")
    if args.kind == "marker":
        if suffix != ".pdf":
            raise UsageError("a marker is written as PDF", hint="--out marker.pdf")
        write_bytes_atomic(args.out, marker_pdf(args.number, pitch_mm))
        emit({"file": str(args.out), "marker": args.number}, f"{args.out}: marker {args.number}", as_json=args.json)
        return 0
    columns, rows = args.size or ((14, 10) if args.kind == "charuco" else (21, 15))
    target = parse_target(Target(args.kind, columns, rows, pitch_mm).id)
    write_bytes_atomic(args.out, target_pdf(target) if suffix == ".pdf" else target_png(target, args.dpi))
    width, height = target.page_mm
    emit(
        {"file": str(args.out), "target": target.id, "pitch_mm": pitch_mm, "page_mm": [width, height]},
        f"{args.out}: target {target.id}, page {width:g} x {height:g} mm; print at 100 %, check the ruler",
        as_json=args.json,
    )
    return 0


def _load(paths: list[Path]) -> list[Picture]:
    from ..images import load_picture

    return [load_picture(path) for path in paths]


def _views(args: argparse.Namespace) -> int:
    from ..calibration import find_target, fit_plane, parse_target, plane_document
    from ..images import load_picture
    from ..units import length_mm

    _new_file(args.out)
    target = parse_target(args.target)
    if (target.kind == "charuco") != (args.verb == "board"):
        other = "board" if target.kind == "charuco" else "dots"
        raise UsageError(f"target {target.id} is not one for calibrate {args.verb}", hint=f"calibrate {other}")
    pitch_mm = length_mm(args.pitch), length_mm(args.pitch_y or args.pitch)
    pitch_u_mm = length_mm(args.pitch_u)
    plane = len(args.images) - 1
    if args.plane is not None:
        if args.plane not in args.images:
            raise UsageError(f"--plane {args.plane} is none of the images", hint="name it among them as well")
        plane = args.images.index(args.plane)
    views, size = [], (0, 0)
    for number, path in enumerate(args.images, start=1):
        picture = load_picture(path)
        here = (picture.pixels.shape[1], picture.pixels.shape[0])
        if size not in ((0, 0), here):
            # Said before the target is looked for: a stray picture is the likelier reason.
            raise UsageError(
                f"picture {path} has {here[0]} x {here[1]} px, {args.images[0]} has {size[0]} x {size[1]}",
                code="SIZE_MIX",
                hint="all views from one camera with one setting",
            )
        size = here
        views.append(find_target(picture.pixels, target, str(path), picture.sha256))
        _progress(number, len(args.images), "views")
    fit = fit_plane(views, target, pitch_mm, pitch_u_mm, plane=plane)
    fiducial, limits = _fiducial(args, size)
    heading = _heading(args, [(view.name, view.sha256) for view in views])
    height_u_mm, distance_mm = _heights(args)
    document = plane_document(
        fit,
        target,
        pitch_mm,
        pitch_u_mm,
        heading,
        fiducial=fiducial,
        limits=limits,
        height_u_mm=height_u_mm,
        distance_mm=distance_mm,
    )
    lines = _scale_lines(document)
    lines.append(
        f"held-out points: {fit.held_out_rms_px:.4f} px RMS of {fit.held_out_points}, worst {fit.held_out_max_px:.3f};"
        f" fitted: {fit.rms_px:.4f} px RMS of {fit.points}, {fit.outliers} left out"
    )
    lines += [
        f"{one.name}: {one.points} points, {one.rms_px:.4f} px, held out {one.held_out_rms_px:.4f} px,"
        f" tilt {one.tilt_deg:.0f} degrees{', the plane' * (number == plane)}"
        for number, one in enumerate(fit.views)
    ]
    lines += ["coverage (points a cell):", *(" ".join(f"{cell:5d}" for cell in row) for row in fit.coverage.tolist())]
    return _finish(args, document, lines)


def _scale(args: argparse.Namespace) -> int:
    from ..calibration import scale_document

    _new_file(args.out)
    ways = {
        "--length": args.length is not None,
        "--pixel-pitch": args.pixel_pitch is not None,
        "--dicom": args.dicom,
    }
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) != 1:
        raise UsageError(
            f"{' and '.join(chosen) or 'nothing'} given to take the scale from", hint=f"one of {', '.join(ways)}"
        )
    if not args.length and (args.starts or args.ends or args.length_u):
        raise UsageError("--from, --to and --length-u belong to --length", hint="--length 50mm --length-u 0.01mm")
    if args.length and (args.magnification or args.magnification_u):
        raise UsageError(
            "--magnification has no place beside --length",
            hint="a length read in the plane of the part is true as it is",
        )
    if args.dicom:
        result, size, sources, camera = _from_dicom(args)
        args.camera = args.camera or camera
        residuals = None
    else:
        pictures = _load(args.images)
        size = (pictures[0].pixels.shape[1], pictures[0].pixels.shape[0])
        for picture in pictures:
            if picture.pixels.shape[1::-1] != size:
                raise UsageError(
                    f"{picture.path} has not the {size[0]} x {size[1]} px of {pictures[0].path}", code="SIZE_MIX"
                )
        sources = [(str(picture.path), picture.sha256) for picture in pictures]
        result, residuals = _from_length(args, pictures) if args.length else (_from_pitch(args), None)
    fiducial, limits = _fiducial(args, size)
    height_u_mm, distance_mm = _heights(args)
    document = scale_document(
        result,
        size,
        _heading(args, sources),
        fiducial=fiducial,
        limits=limits,
        residuals=residuals,
        height_u_mm=height_u_mm,
        distance_mm=distance_mm,
    )
    return _finish(args, document, _scale_lines(document))


def _from_length(args: argparse.Namespace, pictures: list[Picture]) -> tuple[ScaleResult, dict[str, Any]]:
    from ..calibration import read_length, scale_from_length
    from ..units import length_mm

    if args.length_u is None:
        raise UsageError("--length-u is missing", hint="no uncertainty, no guard band: see the gauge's certificate")
    starts, ends = args.starts, args.ends
    if len(starts) != len(ends) or len(starts) not in (1, len(pictures)):
        raise UsageError(
            f"{len(starts)} --from and {len(ends)} --to for {len(pictures)} pictures",
            hint="give both once for all pictures, or both once for each",
        )
    if len(starts) == 1:
        starts, ends = starts * len(pictures), ends * len(pictures)
    readings = [
        read_length(
            picture.pixels, str(picture.path), start, end, refine=not args.no_refine, point_u_px=args.point_u_px
        )
        for picture, start, end in zip(pictures, starts, ends, strict=True)
    ]
    result = scale_from_length(readings, length_mm(args.length), length_mm(args.length_u))
    return result, {
        "readings": [
            {
                "image": one.name,
                "length_px": one.length_px,
                "u_px": one.u_px,
                "ends_px": [list(end) for end in one.ends_px],
            }
            for one in readings
        ]
    }


def _from_pitch(args: argparse.Namespace) -> ScaleResult:
    from ..calibration import scale_from_pixel_pitch
    from ..units import length_mm

    if args.magnification is None or args.magnification_u is None:
        raise UsageError(
            "--pixel-pitch needs --magnification and --magnification-u",
            hint="what counts is the size on the part: source-detector over source-part distance",
        )
    pitch = length_mm(args.pixel_pitch)
    pitch_u = length_mm(args.pixel_pitch_u or "0mm")
    return scale_from_pixel_pitch((pitch, pitch), args.magnification, args.magnification_u, pitch_u)


def _from_dicom(
    args: argparse.Namespace,
) -> tuple[ScaleResult, tuple[int, int], list[tuple[str, str]], str | None]:
    import hashlib

    from ..calibration import dicom_spacing, scale_from_pixel_pitch
    from ..units import length_mm

    if len(args.images) != 1:
        raise UsageError(f"--dicom with {len(args.images)} files", hint="one file: its tags hold the scale")
    path = args.images[0]
    found = dicom_spacing(path, magnification_known=args.magnification is not None)
    pitch_u = length_mm(args.pixel_pitch_u or "0mm")
    if found.at_part:
        if args.magnification is not None:
            raise UsageError(
                f"{path}: {found.tag} is on the part already", hint="leave --magnification out, or it counts twice"
            )
        if args.pixel_pitch_u is None:
            raise UsageError(f"{path}: {found.tag} states no uncertainty", hint="--pixel-pitch-u, from how it was made")
        magnification, magnification_u = 1.0, 0.0
    else:
        stated: float | None = args.magnification or found.magnification
        if stated is None:
            raise UsageError(
                f"{path}: {found.tag} is at the detector, and no tag gives the magnification",
                code="NO_SCALE",
                hint="--magnification and --magnification-u",
            )
        if args.magnification_u is None:
            raise UsageError(f"{path}: the magnification has no uncertainty", hint="--magnification-u 0.01")
        magnification, magnification_u = stated, float(args.magnification_u)
    result = scale_from_pixel_pitch(found.spacing_mm, magnification, magnification_u, pitch_u, f"dicom: {found.tag}")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return result, found.size_px, [(str(path), sha256)], found.camera


def _wedge(args: argparse.Namespace) -> int:
    from ..calibration import find_steps, fit_wedge, measure_step, wedge_document
    from ..images import load_picture
    from ..units import length_mm

    _new_file(args.out)
    thicknesses = [length_mm(part) for part in args.steps.split(",")]
    picture = load_picture(args.image)
    pixels, name = picture.pixels, str(args.image)
    if args.region:
        if args.area is not None:
            raise UsageError("--area and --region", hint="one or the other")
        if len(args.region) != len(thicknesses):
            raise UsageError(f"{len(args.region)} --region for {len(thicknesses)} --steps", hint="one for each step")
        regions = [tuple(round(one) for one in region) for region in args.region]
    else:
        x, y, w, h = (round(one) for one in args.area or (0, 0, pixels.shape[1], pixels.shape[0]))
        if x < 0 or y < 0 or w < 8 or h < 8 or x + w > pixels.shape[1] or y + h > pixels.shape[0]:
            raise UsageError(f"--area {x},{y},{w},{h} is not inside {name}")
        found = find_steps(pixels[y : y + h, x : x + w], len(thicknesses), name)
        regions = [(a + x, b + y, c, d) for a, b, c, d in found]
    steps = [
        measure_step(pixels, (region[0], region[1], region[2], region[3]), thickness, name, args.white)
        for region, thickness in zip(regions, thicknesses, strict=True)
    ]
    curve = fit_wedge(steps, length_mm(args.steps_u), args.model)
    size = (pixels.shape[1], pixels.shape[0])
    document = wedge_document(curve, steps, size, _heading(args, [(name, picture.sha256)]))
    low, high = curve.range_mm
    lines = [f"{curve.model}, {low:g} mm to {high:g} mm, standard uncertainty {curve.u_mm:.3g} mm"]
    if curve.model == "physics":
        lines.append("grey = {:.5g} + {:.5g} exp(-{:.5g} t / mm)".format(*curve.numbers))
    lines += [f"{one.thickness_mm:g} mm: grey {one.grey:.5f}, sd {one.sd:.5f}" for one in steps]
    return _finish(args, document, lines)


def _check(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ..calibration import load_calibration

    calibration = load_calibration(args.calibration)
    scale = calibration.scale
    document: dict[str, Any] = {
        "calibration": str(args.calibration),
        "sha256": calibration.sha256,
        "kind": calibration.kind,
        "camera": calibration.camera,
        "size_px": list(calibration.size_px),
        "mm_per_px": list(scale.both),
        "budget": calibration.budget_document,
        "expires_utc": calibration.expires_utc,
        "watches_drift": calibration.fiducial is not None,
    }
    text = (
        f"{args.calibration}: whole and in date until {calibration.expires_utc}; {scale.x_mm_per_px:.6g} mm per px,"
        f" u = {100 * scale.relative_u:.3g} %"
    )
    emit(document, text, as_json=args.json)
    worst = 0
    for picture in _load(args.images):
        drift = calibration.drift(picture.pixels)
        reason = drift.reason
        text = f"{picture.path}: " + (
            f"{drift.shift_px:.2f} px, {drift.scale_ppm:+.0f} ppm, {drift.rotation_mrad:+.2f} mrad: holds"
            if reason is None
            else f"{reason.code}: {reason.text}"
        )
        values = {"image": str(picture.path), **asdict(drift), "reason": None if reason is None else reason.code}
        emit(values, text, as_json=args.json)
        worst = max(worst, 0 if drift.ok else 1)
    return worst


__all__ = ["register"]
