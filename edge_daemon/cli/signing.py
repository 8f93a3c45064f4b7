"""``keys``, ``command``, and what ``sign`` and ``verify`` of engines, tables and reference sets share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import add_common, emit

if TYPE_CHECKING:
    from ..signing import Signature, Trust


def register(commands: Any) -> None:
    """Add ``keys make|show``."""
    room = commands.add_parser(
        "keys",
        help="keys that sign engines, tables and reference sets: make, show",
        description="The private key stays with who releases engines and tables; devices get the line that is printed.",
        epilog="example: edge-daemon keys make --out release.pem",
    )
    verbs = room.add_subparsers(dest="verb", metavar="VERB", required=True)
    make = verbs.add_parser("make", help="a new private key, readable by its owner only; prints the public one",
                            epilog="example: edge-daemon keys make --out release.pem")  # fmt: skip
    make.add_argument("--out", type=Path, required=True, metavar="FILE")
    add_common(make)
    make.set_defaults(run=_make)
    show = verbs.add_parser("show", help="the public key of a private one, for [security] trusted_keys",
                            epilog="example: edge-daemon keys show release.pem")  # fmt: skip
    show.add_argument("file", type=Path)
    add_common(show)
    show.set_defaults(run=_show)

    command = commands.add_parser(
        "command",
        help="a signed command for a station that has [commands], to be published to its command topic",
        epilog="example: edge-daemon command pause --station cell-1 --key ann.pem --by 'Ann Example' --why repair"
        " |\n           mosquitto_pub -q 1 -t acme/york/casting/line1/xray/inspection/command -s",
    )
    command.add_argument("what", choices=["pause", "resume", "recipe"])
    command.add_argument("recipe", nargs="?", default="", help="with recipe: its file's name without .toml")
    command.add_argument("--station", required=True, metavar="NAME")
    add_signer(command)
    command.add_argument("--why", required=True, metavar="TEXT", help="stands in the audit trail")
    add_common(command)
    command.set_defaults(run=_command)


def _make(args: argparse.Namespace) -> int:
    from ..signing import make_key

    _print(args, args.out, make_key(args.out))
    return 0


def _show(args: argparse.Namespace) -> int:
    from ..signing import public_key_of

    _print(args, args.file, public_key_of(args.file))
    return 0


def _command(args: argparse.Namespace) -> int:
    from ..commands import make_command

    made = make_command(
        args.what, station=args.station, by=args.by, why=args.why, key_file=args.key, recipe=args.recipe
    )
    emit(text=made.decode())
    return 0


def _print(args: argparse.Namespace, path: Path, key: str) -> None:
    emit({"key": key, "file": str(path)}, key, as_json=args.json)


def add_signer(verb: argparse.ArgumentParser, *, needed: bool = True) -> None:
    """``--key`` and ``--by``."""
    verb.add_argument("--key", type=Path, required=needed, metavar="FILE", help="private key: edge-daemon keys make")
    verb.add_argument("--by", required=needed, metavar="NAME", help="who signs")


def add_sign(
    verbs: Any, argument: str, what: str, example: str, run: Callable[[argparse.Namespace], int], *, note: str = ""
) -> None:
    """The verb ``sign`` of a room: its one positional argument, what it signs, and what runs it."""
    sign = verbs.add_parser("sign", help=f"answer for {what} with a key that is not on the device{note}",
                            epilog=f"example: edge-daemon {example} --key release.pem --by 'Ada Example'")  # fmt: skip
    sign.add_argument(argument, metavar="NAME|FOLDER")
    add_signer(sign)
    add_common(sign)
    sign.set_defaults(run=run)


def add_trust(verb: argparse.ArgumentParser) -> None:
    """``--trusted-key`` and ``--config``: whose signature is asked for."""
    verb.add_argument("--trusted-key", action="append", default=[], metavar="KEY",
                      help="ed25519:...; what no such key signed is refused (may be repeated)")  # fmt: skip
    verb.add_argument("--config", type=Path, metavar="FILE", help="take the keys of its [security] trusted_keys")


def asked_trust(args: argparse.Namespace) -> Trust | None:
    """The keys of ``add_trust``, a signature by one of which is then required; None where none was named."""
    from ..config import load_config
    from ..signing import trust_of

    if not args.trusted_key and args.config is None:
        return None
    known = () if args.config is None else load_config(args.config).trust.keys
    return trust_of([*args.trusted_key, *known], required=True)


def signature_words(trust: Trust, kind: str, folder: Path, sha256: str) -> tuple[dict[str, str], str]:
    """The trusted signature as JSON and as words. Raises IntegrityError where there is none."""
    from ..signing import SIGNATURE

    found = trust.check(kind, folder / SIGNATURE, sha256)
    assert found is not None  # asked_trust requires one
    return _document(found), f"signed by {found.signed_by} on {found.signed_utc} with {found.key}"


def _document(signature: Signature) -> dict[str, str]:
    return {"key": signature.key, "signed_by": signature.signed_by, "signed_utc": signature.signed_utc,
            "sha256": signature.sha256}  # fmt: skip


def emit_signature(args: argparse.Namespace, kind: str, folder: Path, made: Signature) -> None:
    """What was signed, on stdout."""
    text = f"{folder}: signed by {made.signed_by} with {made.key}"
    emit({"kind": kind, "folder": str(folder), **_document(made)}, text, as_json=args.json)
