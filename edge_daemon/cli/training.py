"""``train``: simulate, fit, evaluate. The extra ``train`` brings what fitting needs; nothing of it runs on the line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import add_common, emit


def register(commands: Any) -> None:
    """Add ``train simulate|fit|evaluate``."""
    train = commands.add_parser(
        "train",
        help="simulate radiographs, fit an engine, evaluate it",
        epilog="example: edge-daemon train fit --out work/",
    )
    verbs = train.add_subparsers(dest="verb", metavar="VERB", required=True)

    simulate = verbs.add_parser("simulate", help="write simulated radiographs with their truth",
                                epilog="example: edge-daemon train simulate --out sim/ --count 20")  # fmt: skip
    simulate.add_argument("--out", type=Path, required=True, metavar="DIR")
    simulate.add_argument("--count", type=int, default=10, metavar="N")
    simulate.add_argument("--seed", type=int, default=0)
    add_common(simulate)
    simulate.set_defaults(run=_simulate)

    fit = verbs.add_parser("fit", help="train on simulated radiographs and seal a bundle; resumes",
                           epilog="example: edge-daemon train fit --out work/ --minutes 20")  # fmt: skip
    fit.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint, log and bundle")
    fit.add_argument("--minutes", type=float, default=18.0)
    fit.add_argument("--pictures", type=int, default=2400)
    fit.add_argument("--seed", type=int, default=1)
    fit.add_argument("--threads", type=int, default=1)
    add_common(fit)
    fit.set_defaults(run=_fit)

    evaluate = verbs.add_parser("evaluate", help="figures of a sealed bundle on simulated pictures it never saw",
                                epilog="example: edge-daemon train evaluate castings-xray --count 100")  # fmt: skip
    evaluate.add_argument("bundle", metavar="NAME|FOLDER")
    evaluate.add_argument("--count", type=int, default=100, metavar="N")
    evaluate.add_argument("--first-seed", type=int, default=900_000)
    add_common(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _simulate(args: argparse.Namespace) -> int:
    from ..train import simulate_to_folder

    paths = simulate_to_folder(args.out, args.count, args.seed)
    emit({"folder": str(args.out), "pictures": len(paths)}, f"{len(paths)} pictures in {args.out}", as_json=args.json)
    return 0


def _fit(args: argparse.Namespace) -> int:
    from ..train import fit

    folder = fit(args.out, seed=args.seed, minutes=args.minutes, pictures=args.pictures, threads=args.threads)
    emit({"bundle": str(folder)}, f"sealed {folder}", as_json=args.json)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from ..resources import engine_folder
    from ..train import evaluate

    figures = evaluate(engine_folder(args.bundle), range(args.first_seed, args.first_seed + args.count))
    emit(figures, json.dumps(figures, indent=1), as_json=args.json)
    return 0
