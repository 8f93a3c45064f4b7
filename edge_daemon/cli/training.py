"""``train``: simulate, fit, evaluate. The extra ``train`` brings what fitting needs; nothing of it runs on the line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from . import add_common, emit

_FORM_NAMES = ("simulated", "masks", "gdxray", "yolo", "voc", "coco", "table")
_FORMS = """Forms of a labelled folder, found by its files:
  simulated  what `train simulate` writes
  masks      <stem>_mask.png (or -mask, -labels) beside the picture, or images/ and masks/; labels.json names types
  gdxray     ground_truth.txt in the folder of a series
  yolo       <stem>.txt beside the picture, or images/ and labels/; classes.txt names types
  voc        <stem>.xml
  coco       annotations.json or *_coco.json
  table      images.csv (image, class, group, split) beside images/, masks/ and boxes.csv"""


def register(commands: Any) -> None:
    """Add ``train simulate|fit|commission|evaluate``."""
    train = commands.add_parser(
        "train",
        help="simulate radiographs, fit an engine, evaluate it",
        epilog="example: edge-daemon train fit --out work/",
    )
    verbs = train.add_subparsers(dest="verb", metavar="VERB", required=True)

    _add_simulate(verbs)
    _add_fit(verbs)
    _add_commission(verbs)

    evaluate = verbs.add_parser(
        "evaluate",
        help="figures of a sealed bundle on any folder with masks or boxes, or on simulated pictures it never saw",
        description=_FORMS,
        epilog="example: edge-daemon train evaluate castings-xray --on my-labelled-parts/ --out report/",
    )
    evaluate.add_argument("bundle", metavar="NAME|FOLDER")
    evaluate.add_argument("--on", type=Path, metavar="DIR", help="labelled pictures; without it they are simulated")
    evaluate.add_argument("--count", type=int, default=100, metavar="N", help="of simulated pictures")
    evaluate.add_argument("--first-seed", type=int, default=900_000, help="of simulated pictures")
    evaluate.add_argument(
        "--scenes",
        choices=("mixture", "unseen", "sound"),
        default="mixture",
        help="simulated as in training, of geometry never trained on, or that without defects",
    )
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="figures.json, figures.md and the worst pictures")
    evaluate.add_argument("--mm-per-px", type=float, metavar="MM", help="scale of pictures that state none")
    evaluate.add_argument("--form", choices=_FORM_NAMES, help="where the files of the folder fit several forms")
    evaluate.add_argument("--split", metavar="NAME", help="only these pictures of a table")
    evaluate.add_argument(
        "--missing-is-sound", action="store_true", help="a picture without an annotation file is sound, not left out"
    )
    evaluate.add_argument("--threads", type=int, default=2)
    add_common(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_commission(verbs: Any) -> None:
    commission = verbs.add_parser(
        "commission",
        help="teach an engine one part from its good frames: screen, plant, fine-tune, set thresholds, seal",
        epilog="example: edge-daemon train commission --good good-frames/ --name gear --minutes 9",
    )
    commission.add_argument("--good", type=Path, required=True, metavar="DIR", help="20 or more defect-free pictures")
    commission.add_argument("--engine", default="castings-xray", metavar="NAME|FOLDER", help="base; it is not touched")
    commission.add_argument("--name", help="of the part; the bundle becomes <engine>-<name>; default: the folder's")
    commission.add_argument("--out", type=Path, metavar="DIR", help="default: commissioned/<engine>-<name>")
    commission.add_argument("--minutes", type=float, default=9.0, help="of fine-tuning; the rest takes a few more")
    commission.add_argument("--false-alarms", type=float, default=0.02, metavar="RATE", help="wanted per good picture")
    commission.add_argument("--mm-per-px", type=float, metavar="MM", help="scale of the frames, where known")
    commission.add_argument("--polarity", choices=["bright_void", "dark_void"], help="default: the engine's")
    commission.add_argument(
        "--keep", action="append", default=[], metavar="NAME", help="a frame that screening shows and you find good"
    )
    commission.add_argument("--replace", action="store_true", help="make a bundle anew that is already there")
    commission.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    commission.add_argument("--threads", type=int, help="default: one per core, at most 8")
    commission.add_argument("--pictures", type=int, default=700, help="simulated ones to train on beside the frames")
    commission.add_argument("--seed", type=int, default=0)
    add_common(commission)
    commission.set_defaults(run=_commission)


def _add_simulate(verbs: Any) -> None:
    simulate = verbs.add_parser("simulate", help="write simulated radiographs with their truth",
                                epilog="example: edge-daemon train simulate --out sim/ --count 20")  # fmt: skip
    simulate.add_argument("--out", type=Path, required=True, metavar="DIR")
    simulate.add_argument("--count", type=int, default=10, metavar="N")
    simulate.add_argument("--seed", type=int, default=0, help="of the first picture; each next one has the next seed")
    simulate.add_argument("--size-px", type=int, nargs=2, default=(512, 512), metavar=("W", "H"))
    simulate.add_argument("--mm-per-px", type=float, metavar="MM", help="by default 0.05 to 0.5, drawn by the seed")
    simulate.add_argument("--structure", default="random", help="random, casting, plate, housing, or a family of them")
    simulate.add_argument("--mode", help="flat_panel, intensifier, imaging_plate or film; by default drawn by the seed")
    simulate.add_argument("--metal", default="aluminum")
    simulate.add_argument("--polarity", default="bright_void", choices=["bright_void", "dark_void"])
    simulate.add_argument("--bits", type=int, default=8, choices=[8, 12, 16])
    simulate.add_argument("--sound", action="store_true", help="parts without any discontinuity")
    simulate.add_argument("--workers", type=int, default=1, help="processes")
    add_common(simulate)
    simulate.set_defaults(run=_simulate)


def _add_fit(verbs: Any) -> None:
    fit = verbs.add_parser("fit", help="train on simulated radiographs, or on your own pictures, and seal; resumes",
                           epilog="example: edge-daemon train fit --out work/ --minutes 70 --threads 2")  # fmt: skip
    fit.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="pictures, checkpoint, log, plot and bundle"
    )
    fit.add_argument("--on", type=Path, metavar="DIR",
                     help="learn a surface from these labelled pictures instead of simulated radiographs")  # fmt: skip
    fit.add_argument("--name", help="of the surface engine's bundle; default: the folder's name")
    fit.add_argument("--split", help="learn from these pictures of a table only")
    fit.add_argument("--test-split", help="examine on these; without it on parts held back from learning")
    fit.add_argument("--reinforce", metavar="TYPE,TYPE", help="train a surface engine further on these types")
    fit.add_argument("--base", metavar="NAME|FOLDER", help="the engine to reinforce; it was trained on --on")
    fit.add_argument("--from", dest="export", type=Path, metavar="DIR",
                     help="confirmed and corrected pictures to reinforce it with (`memory export`)")  # fmt: skip
    fit.add_argument("--promote", action="store_true",
                     help="put it in the base's place, if no type lost more than a point")  # fmt: skip
    fit.add_argument("--leave-out", action="append", default=[], metavar="TYPE",
                     help="do not learn this type: measures how the engine meets a stranger")  # fmt: skip
    fit.add_argument("--licence", default="", help="remark on the data for the card")
    fit.add_argument("--minutes", type=float, default=90.0, help="of training; on a GPU a tenth will do")
    fit.add_argument("--pictures", type=int, default=14_000, help="simulated ones")
    fit.add_argument("--seed", type=int, default=5)
    fit.add_argument("--threads", type=int, default=1, help="of PyTorch")
    fit.add_argument("--workers", type=int, default=1, help="processes that simulate while training goes on")
    fit.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add_common(fit)
    fit.set_defaults(run=_fit)


def _simulate(args: argparse.Namespace) -> int:
    from ..train import simulate_to_folder

    options = {"size_px": (args.size_px[1], args.size_px[0]), "structure": args.structure, "metal": args.metal,
               "polarity": args.polarity, "bits": args.bits}  # fmt: skip
    options |= {"mode": args.mode} if args.mode else {}
    options |= {"mm_per_px": args.mm_per_px} if args.mm_per_px is not None else {}
    options |= {"defects": ()} if args.sound else {}
    paths = simulate_to_folder(
        args.out, args.count, args.seed, workers=args.workers, progress=sys.stderr.isatty(), **options
    )
    emit({"folder": str(args.out), "pictures": len(paths)}, f"{len(paths)} pictures in {args.out}", as_json=args.json)
    return 0


def _fit(args: argparse.Namespace) -> int:
    from ..train import fit, fit_on

    if args.reinforce is not None:
        return _reinforce(args)
    if args.on is not None:
        folder = fit_on(
            args.on, args.out, name=args.name, split=args.split, test_split=args.test_split, left_out=args.leave_out,
            licence=args.licence, seed=args.seed, minutes=args.minutes, threads=args.threads, device=args.device,
        )  # fmt: skip
        emit({"bundle": str(folder)}, f"sealed {folder}", as_json=args.json)
        return 0
    folder = fit(args.out, seed=args.seed, minutes=args.minutes, pictures=args.pictures, threads=args.threads,
                 workers=args.workers, device=args.device)  # fmt: skip
    emit({"bundle": str(folder)}, f"sealed {folder}", as_json=args.json)
    return 0


def _reinforce(args: argparse.Namespace) -> int:
    from ..errors import UsageError
    from ..resources import engine_folder
    from ..train import reinforce_on

    missing = [flag for flag, value in (("--on", args.on), ("--base", args.base), ("--from", args.export)) if not value]
    if missing:
        raise UsageError(f"--reinforce needs {' and '.join(missing)}", hint="see `edge-daemon train fit --help`")
    report = reinforce_on(
        engine_folder(args.base), args.on, args.export, args.out, types=args.reinforce.split(","), split=args.split,
        test_split=args.test_split, minutes=args.minutes, seed=args.seed, threads=args.threads, device=args.device,
        promote=args.promote,
    )  # fmt: skip
    lines = [f"{name}: " + ", ".join(f"{key} {old:.3f} -> {now:.3f}" for key, (old, now) in row.items())
             for name, row in report["table"].items()]  # fmt: skip
    verdict = "may be promoted" if report["promotable"] else "not to be promoted: " + "; ".join(report["reasons"])
    if report.get("previous"):
        verdict = f"promoted; the engine before is {report['previous']}"
    emit(report, "\n".join([*lines, f"{report['bundle']} {report['version']}: {verdict}"]), as_json=args.json)
    return 0 if report["promotable"] else 1


def _commission(args: argparse.Namespace) -> int:
    from ..train.commission import Tuning
    from ..train.commission_bundle import commission
    from ..train.commission_card import table
    from ..train.surface_commission import surface_table

    threads = {} if args.threads is None else {"threads": args.threads}
    report = commission(
        args.good, engine=args.engine, out=args.out, name=args.name, false_alarms=args.false_alarms,
        mm_per_px=args.mm_per_px, polarity=args.polarity, keep=args.keep, replace_bundle=args.replace,
        tuning=Tuning(
            seed=args.seed, minutes=args.minutes, device=args.device, pictures=args.pictures, **threads
        ),
    )  # fmt: skip
    text = surface_table(Path(report["bundle"]).name, report) if "pictures" in report else table(report)
    emit(report, f"{text}\nsealed {report['bundle']}", as_json=args.json)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from ..resources import engine_folder
    from ..train.evaluation import evaluate_on, markdown

    figures = evaluate_on(
        engine_folder(args.bundle), args.on, range(args.first_seed, args.first_seed + args.count), out=args.out,
        scenes=args.scenes, mm_per_px=args.mm_per_px, form=args.form,
        missing="sound" if args.missing_is_sound else "leave_out", split=args.split, threads=args.threads,
    )  # fmt: skip
    emit(figures, markdown(figures), as_json=args.json)
    return 0
