"""``engine``: bundles and the engines built from them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import add_common, certifying, emit
from .signing import add_sign, add_signer, add_trust, asked_trust, emit_signature, signature_words

_DEFAULT_CACHE = Path("/var/cache/edge-daemon/engines")


def register(commands: Any) -> None:
    """Add ``engine list|info|build|verify|sign|bench|certify|rollback``."""
    engine = commands.add_parser(
        "engine",
        help="engine bundles: list, info, verify, sign, build (TensorRT, on the device), bench, certify",
        epilog="example: edge-daemon engine verify castings-xray",
    )
    verbs = engine.add_subparsers(dest="verb", metavar="VERB", required=True)

    listing = verbs.add_parser(
        "list", help="every bundle of this installation", epilog="example: edge-daemon engine list"
    )
    add_common(listing)
    listing.set_defaults(run=_list)

    for name, run, text in (
        ("info", _info, "the manifest, hashes and certificate of a bundle"),
        ("verify", _verify, "check a bundle from seal to answer"),
    ):
        verb = verbs.add_parser(name, help=text, epilog=f"example: edge-daemon engine {name} castings-xray")
        verb.add_argument("bundle", metavar="NAME|FOLDER")
        if name == "verify":
            add_trust(verb)
        add_common(verb)
        verb.set_defaults(run=run)

    add_sign(verbs, "bundle", "a bundle", "engine sign castings-xray", _sign)

    build = verbs.add_parser(
        "build",
        help="build the TensorRT engine for this device and hold it against ONNX Runtime",
        epilog="example: edge-daemon engine build castings-xray --probes good-frames/",
    )
    build.add_argument("bundle", metavar="NAME|FOLDER")
    build.add_argument("--cache", type=Path, default=_DEFAULT_CACHE, metavar="DIR")
    build.add_argument(
        "--probes", type=Path, metavar="DIR", help="pictures for the parity gate, besides synthetic ones"
    )
    add_signer(build, needed=False)
    add_common(build)
    build.set_defaults(run=_build)

    bench = verbs.add_parser("bench", help="time a bundle", epilog="example: edge-daemon engine bench castings-xray")
    bench.add_argument("bundle", metavar="NAME|FOLDER")
    bench.add_argument("--size-px", type=int, nargs=2, default=(512, 512), metavar=("W", "H"))
    bench.add_argument("--count", type=int, default=100, metavar="N")
    bench.add_argument("--threads", type=int, default=2)
    bench.add_argument("--backend", default="auto", choices=["auto", "onnxruntime", "tensorrt"])
    bench.add_argument("--cache", type=Path, default=_DEFAULT_CACHE, metavar="DIR")
    add_common(bench)
    bench.set_defaults(run=_bench)

    rollback = verbs.add_parser(
        "rollback", help="put back the bundle that was there before the last promotion",
        epilog="example: edge-daemon engine rollback steel-surface",
    )  # fmt: skip
    rollback.add_argument("bundle", metavar="NAME|FOLDER")
    add_common(rollback)
    rollback.set_defaults(run=_rollback)
    certifying.register(verbs)


def _list(args: argparse.Namespace) -> int:
    from ..resources import data_folder
    from ..segment.registry import list_bundles

    worst = 0
    for one in list_bundles(data_folder("engines")):
        if one.bundle is not None:
            document = {"name": one.bundle.name, "version": one.bundle.version, "sha256": one.bundle.sha256, "ok": True}
            emit(document, f"{one.bundle.name} {one.bundle.version} {one.bundle.sha256[:12]}", as_json=args.json)
        elif one.error is not None:
            document = {"name": one.folder.name, "ok": False, "error": str(one.error)}
            emit(document, f"{one.folder.name}: {one.error}", as_json=args.json)
            worst = max(worst, one.error.exit_code)
    return worst


def _info(args: argparse.Namespace) -> int:
    from ..resources import engine_folder
    from ..segment.bundle import load
    from ..segment.registry import describe

    document = describe(load(engine_folder(args.bundle)))
    emit(document, json.dumps(document, indent=1, ensure_ascii=False), as_json=args.json)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from ..resources import engine_folder
    from ..segment.registry import verify

    folder, trust = engine_folder(args.bundle), asked_trust(args)
    document = verify(folder, trust=trust)
    text = f"{document['name']} {document['version']}: seals hold, loads, answers finitely and twice the same"
    if trust is not None:
        signature, words = signature_words(trust, "engine", folder, document["sha256"])
        document, text = {**document, "signature": signature}, f"{text}; {words}"
    emit(document, text, as_json=args.json)
    return 0


def _sign(args: argparse.Namespace) -> int:
    from ..resources import engine_folder
    from ..segment.bundle import load
    from ..signing import SIGNATURE, sign

    bundle = load(engine_folder(args.bundle))
    made = sign("engine", bundle.folder / SIGNATURE, bundle.sha256, key_file=args.key, signed_by=args.by)
    emit_signature(args, "engine", bundle.folder, made)
    return 0


def _build(args: argparse.Namespace) -> int:
    from ..images import PICTURE_SUFFIXES, load_picture
    from ..resources import engine_folder
    from ..segment.bundle import load
    from ..segment.plan_cache import sign_plan
    from ..segment.registry import build

    pictures = {}
    if args.probes is not None:
        for path in sorted(args.probes.iterdir()):
            if path.suffix.lower() in PICTURE_SUFFIXES:
                pictures[path.name] = load_picture(path).pixels
    if (args.key is None) != (args.by is None):
        raise UsageError("--key and --by belong together", hint="give both to sign the plan, or neither")
    bundle = load(engine_folder(args.bundle))
    key, report = build(bundle, args.cache, pictures=pictures)
    if args.key is not None and report.passed:
        sign_plan(args.cache, bundle, key, key_file=args.key, signed_by=args.by)
    document = {"key": str(key), "passed": report.passed, "report": str(report)}
    emit(document, f"{'may serve' if report.passed else 'REFUSED'}: {report}", as_json=args.json)
    return 0 if report.passed else 1


def _rollback(args: argparse.Namespace) -> int:
    from ..resources import engine_folder
    from ..segment.bundle import load
    from ..segment.replacing import roll_back

    folder = engine_folder(args.bundle)
    rejected = roll_back(folder)
    bundle = load(folder)
    document = {"bundle": str(folder), "version": bundle.version, "sha256": bundle.sha256, "rejected": str(rejected)}
    emit(document, f"{folder} is {bundle.version} again; what was there is {rejected}", as_json=args.json)
    return 0


def _bench(args: argparse.Namespace) -> int:
    from ..resources import engine_folder
    from ..segment.bundle import load
    from ..segment.registry import bench, open_engine

    bundle = load(engine_folder(args.bundle))
    engine = open_engine(bundle, args.backend, threads=args.threads, cache_dir=args.cache)
    figures = bench(engine, tuple(args.size_px), args.count)
    document = {
        "engine": bundle.name,
        "sha256": bundle.sha256,
        "backend": figures.backend,
        "size_px": list(figures.size_px),
        "count": figures.count,
        "threads": args.threads,
        "p50_ms": figures.p50_ms,
        "p99_ms": figures.p99_ms,
        "infer_p50_ms": figures.infer_p50_ms,
        "infer_p99_ms": figures.infer_p99_ms,
    }
    text = (
        f"{bundle.name} on {figures.backend}, {args.threads} threads, {figures.size_px[0]} x {figures.size_px[1]} px,"
        f" {figures.count} runs: p50 {figures.p50_ms:.1f} ms, p99 {figures.p99_ms:.1f} ms"
        f" (network alone {figures.infer_p50_ms:.1f} / {figures.infer_p99_ms:.1f})"
    )
    emit(document, text, as_json=args.json)
    return 0
