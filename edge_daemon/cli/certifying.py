"""``engine certify``: what may be promised of a bundle, from independent parts; printed, and sealed into it."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, UsageError
from . import add_common, emit, say

if TYPE_CHECKING:
    from ..segment.bundle import Bundle
    from ..train.labelled import Labelled


def register(verbs: Any) -> None:
    """Add ``certify`` to the verbs of ``engine``."""
    certify = verbs.add_parser(
        "certify",
        help="state what a bundle finds, with confidence, from independent parts",
        description="Look at a calibration set of independent parts that were never trained on and write the "
        "certificate: certificate.json, certificate.html and, with the extra 'station', certificate.pdf. With --seal "
        "it goes into the bundle, which is what max-recall mode and the drift alarm read. Exit code 1 where the "
        "bundle's own thresholds do not promise the recall asked for.",
        epilog="example: edge-daemon engine certify castings-xray --on calibration-parts/ --seal",
    )
    certify.add_argument("bundle", metavar="NAME|FOLDER")
    source = certify.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--on", type=Path, metavar="DIR", help="pictures with masks, and parts.csv where parts have several"
    )
    source.add_argument("--simulated", type=int, metavar="N", help="N simulated parts in place of real ones")
    certify.add_argument(
        "--line",
        default="mixture",
        choices=["mixture", "unseen", "conveyor"],
        help="where simulated parts come from: all that engines are trained on, geometry that is not, the demo's line",
    )
    certify.add_argument("--first-seed", type=int, default=950_000, metavar="S", help="of the simulated parts")
    certify.add_argument("--split", metavar="SPLIT", help="these pictures of a table only")
    certify.add_argument(
        "--masked-only", action="store_true", help="leave out pictures with boxes alone; the certificate says so"
    )
    certify.add_argument("--mm-per-px", type=float, metavar="X", help="for pictures that state no scale")
    certify.add_argument("--recall", type=float, default=0.995, help="of defective parts, to be promised (0.995)")
    certify.add_argument("--confidence", type=float, default=0.95, help="of every bound (0.95)")
    certify.add_argument("--pixel-miss", type=float, default=0.05, metavar="RATE", help="of pixels, to be held (0.05)")
    certify.add_argument("--out", type=Path, default=Path("certificate"), metavar="DIR", help="where the page goes")
    certify.add_argument("--seal", action="store_true", help="put the claims into the bundle and seal it again")
    certify.add_argument("--backend", default="onnxruntime", choices=["auto", "onnxruntime", "tensorrt"])
    certify.add_argument("--threads", type=int, default=2)
    add_common(certify)
    certify.set_defaults(run=_certify)


def _counted(pictures: Iterable[Labelled], total: int) -> Iterator[Labelled]:
    """The same, with progress on a terminal."""
    for number, one in enumerate(pictures, start=1):
        if sys.stderr.isatty():
            print(f"\r{number}/{total}", end="", file=sys.stderr, flush=True)  # noqa: T201
        yield one
    if sys.stderr.isatty():
        print(file=sys.stderr)  # noqa: T201


def _masked(pictures: Iterable[Labelled]) -> Iterator[Labelled]:
    """Those with masks. Raises UsageError if there is none."""
    left_out = taken = 0
    for one in pictures:
        if one.labels is None:
            left_out += 1
        else:
            taken += 1
            yield one
    say(f"edge-daemon engine: {left_out} pictures with boxes alone are left out")
    if not taken:
        raise UsageError(
            "not one picture with a mask", code="LABELS", hint="draw masks: a certificate bounds pixels too"
        )


def _unseen(bundle: Bundle, pictures: Iterable[Labelled]) -> Iterator[Labelled]:
    """Pictures that ``train simulate`` wrote, each checked by the seed in its name. Raises UsageError."""
    from ..train.certificate import check_seeds

    for one in pictures:
        number = re.search(r"(\d+)\Z", one.name.rsplit(".", 1)[0])
        if number is None:
            raise UsageError(f"{one.name}: a simulated picture without the seed in its name", hint="simulate it again")
        check_seeds(bundle, [int(number[1])])
        yield one


def _certify(args: argparse.Namespace) -> int:
    from ..images import make_folder, write_bytes_atomic
    from ..resources import engine_folder
    from ..segment.bundle import load
    from ..segment.registry import open_engine
    from ..segment.sealed import seal_document
    from ..train.certificate import certify, check_seeds, seal_claims
    from ..train.certificate_page import certificate_html
    from ..train.certificate_pdf import certificate_pdf
    from ..train.labelled import open_folder
    from ..train.observing import simulated_parts

    bundle = load(engine_folder(args.bundle))
    if args.simulated is not None:
        if args.simulated < 1:
            raise UsageError(f"--simulated {args.simulated}: no part to certify on")
        seeds = range(args.first_seed, args.first_seed + args.simulated)
        check_seeds(bundle, seeds)
        kind, name = "simulated", f"{args.line}, seeds {seeds[0]} to {seeds[-1]}"
        pictures: Iterable[Labelled] = simulated_parts(seeds, args.line)
        total = len(seeds)
    else:
        folder = open_folder(args.on, mm_per_px=args.mm_per_px, split=args.split)
        kind, name, pictures, total = "folder", args.on.resolve().name, folder, len(folder)
        if args.split is not None:
            name += f", split {args.split}"
        if args.masked_only:
            name, pictures = f"{name}, pictures with masks alone", _masked(folder)
        for note in folder.notes:
            say(f"edge-daemon engine: {note}")
        if folder.form == "simulated":
            kind, pictures = "simulated", _unseen(bundle, folder)
    make_folder(args.out)
    engine = open_engine(bundle, args.backend, threads=args.threads)
    try:
        claims = certify(
            engine, _counted(pictures, total), kind=kind, name=name, recall=args.recall, confidence=args.confidence,
            pixel_miss=args.pixel_miss,
        )  # fmt: skip
    finally:
        engine.close()
    write_bytes_atomic(args.out / "certificate.json", seal_document(claims, str(args.out / "certificate.json")))
    write_bytes_atomic(args.out / "certificate.html", certificate_html(claims).encode())
    pages = ["certificate.json", "certificate.html"]
    try:
        write_bytes_atomic(args.out / "certificate.pdf", certificate_pdf(claims))
        pages.append("certificate.pdf")
    except MissingExtra as error:
        say(f"edge-daemon engine: no certificate.pdf: {error}")
    document = {
        "bundle": bundle.name, "sentence": claims["sentence"], "promised": claims["part_recall"]["promised"],
        "part_recall": claims["part_recall"], "false_calls": claims["false_calls"], "too_small": claims["too_small"],
        "pages": [str(args.out / page) for page in pages], "sealed_sha256": None,
    }  # fmt: skip
    lines = [
        claims["sentence"],
        *(f"  {line}" for line in claims["too_small"]),
        f"written: {args.out}: {', '.join(pages)}",
    ]
    if args.seal:
        document["sealed_sha256"] = seal_claims(bundle.folder, claims)
        lines.append(f"sealed {bundle.folder}, now {document['sealed_sha256']}: renew every pin of the old hash")
    emit(document, "\n".join(lines), as_json=args.json)
    return 0 if document["promised"] else 1
