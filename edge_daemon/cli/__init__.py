"""The command line: a contract. Exit codes, JSON on stdout, everything else on stderr, never a traceback.

    0 done / PASS    1 done / not PASS    2 wrong use or bad input    3 a component is unavailable
    4 integrity (hash, seal, licence, expired)    70 a bug    130 interrupted

Each module of this room adds its commands with ``register(subparsers)``; a command is a function of the parsed
arguments that returns its exit code. Heavy imports happen inside the commands, so ``--help`` is immediate.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from .. import __version__
from ..errors import EdgeError

__all__ = ["build_parser", "emit", "main", "say"]

EXIT_INTERRUPTED = 130


def say(text: str) -> None:
    """One line for people, on stderr: stdout belongs to results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def emit(document: dict[str, Any] | None = None, text: str = "", *, as_json: bool = False) -> None:
    """One result on stdout: the JSON object on one line with ``--json``, otherwise the text."""
    print(json.dumps(document, ensure_ascii=False, allow_nan=False) if as_json else text, flush=True)  # noqa: T201


class _Parser(argparse.ArgumentParser):
    """argparse with our message form; wrong use is exit code 2 there as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> Any:
        say(f"{self.prog}: {message} (see {self.prog} --help)")
        sys.exit(2)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; tests walk it to compare it with the documentation."""
    from . import (
        calibrating,
        engines,
        inspecting,
        lines,
        paging,
        references,
        replaying,
        reporting,
        signing,
        standards,
        stores,
        training,
    )

    parser = _Parser(
        prog="edge-daemon",
        description="Edge inspection daemon for a conveyor: camera to gate, and no part passes without its own PASS.",
        epilog="example: edge-daemon demo --parts 30",
    )
    parser.add_argument("--version", action="version", version=f"edge-daemon {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    rooms = (
        lines,
        inspecting,
        replaying,
        reporting,
        standards,
        calibrating,
        references,
        engines,
        signing,
        stores,
        paging,
        training,
    )
    for room in rooms:
        room.register(commands)
    return parser


def whole(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number in this range."""

    def convert(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return convert


def add_common(parser: argparse.ArgumentParser, *, results: bool = True) -> None:
    """Options every command has."""
    if results:
        parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something goes wrong")


def run_command(command: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run one command; turn every error into one sentence and its documented exit code."""
    try:
        return command(args)
    except EdgeError as error:
        if getattr(args, "debug", False):
            traceback.print_exc()
        say(f"edge-daemon {args.command}: {error} [{error.code}]")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (head, grep -q): nothing to report, and nothing to report it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: a user sees a sentence, never a traceback
        if getattr(args, "debug", False):
            traceback.print_exc()
        say(f"edge-daemon {args.command}: this is a bug: {type(error).__name__}: {error} (run again with --debug)")
        return 70


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    args = build_parser().parse_args(argv)
    return run_command(args.run, args)
