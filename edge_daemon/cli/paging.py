"""``station``: the page."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, MissingExtra, UsageError
from . import add_common, emit, whole

if TYPE_CHECKING:
    from ..station.options import StationOptions


def register(commands: Any) -> None:
    """Add ``station``."""
    station = commands.add_parser(
        "station",
        help="the page: inspect pictures, watch the line, look things up",
        description="Serve the page. On loopback it is opened with the address printed at start, which holds the key; "
        "on any other address it needs TLS and users.",
        epilog="example: edge-daemon station --config /etc/edge-daemon/line.toml --port 7860",
    )
    station.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (127.0.0.1)")
    station.add_argument("--port", type=whole(0, 65535), default=7860, metavar="N", help="7860; 0 takes a free one")
    station.add_argument("--data", type=Path, metavar="DIR", help="the page's own records, pictures and audit trail")
    line = station.add_argument_group("the line beside it")
    line.add_argument("--config", type=Path, metavar="line.toml", help="its memory bank, recipe, engine and /metrics")
    line.add_argument("--database", type=Path, metavar="FILE", help="its memory bank, where there is no --config")
    line.add_argument("--watch", metavar="URL", help="where /metrics and /readyz are: http://127.0.0.1:9464")
    offer = station.add_argument_group("what is offered")
    offer.add_argument(
        "--recipe", type=Path, action="append", default=[], metavar="FILE", help="a recipe; may be repeated"
    )
    offer.add_argument("--engine", action="append", default=[], metavar="E", help="only this engine; may be repeated")
    offer.add_argument("--backend", choices=["auto", "onnxruntime", "tensorrt"], help="of the engine (auto)")
    offer.add_argument("--threads", type=whole(1, 64), metavar="N", help="CPU threads of the engine (1)")
    offer.add_argument("--nice", type=whole(0, 19), metavar="N",
                       help="by how much the page is nicer than it was started (15 beside a line, else 0)")  # fmt: skip
    secure = station.add_argument_group("who may use it")
    secure.add_argument("--users", type=Path, metavar="FILE", help="file of users; without it there is one key")
    secure.add_argument("--tls-cert", type=Path, metavar="PEM")
    secure.add_argument("--tls-key", type=Path, metavar="PEM")
    secure.add_argument(
        "--token-file", type=Path, metavar="FILE", help="key that stays the same (at least 24 characters)"
    )
    secure.add_argument("--add-user", metavar="NAME", help="add a user to --users and stop; the password is asked for")
    secure.add_argument("--role", choices=["operator", "inspector", "administrator"], default="inspector")
    add_common(station)
    station.set_defaults(run=_station)


def _station(args: argparse.Namespace) -> int:
    if args.add_user is not None:
        return _add_user(args)
    try:
        from ..station.app import PageServer
    except ModuleNotFoundError as error:
        if error.name in ("starlette", "uvicorn", "anyio"):
            raise MissingExtra(f"the page ({error.name})", "station") from None
        raise
    from ..logs import start_logging

    start_logging()
    server = PageServer(_options(args))
    server.run(lambda url: emit({"url": url}, f"the page is at {url}", as_json=args.json))
    return 0


def _options(args: argparse.Namespace) -> StationOptions:
    from ..station.options import StationOptions, default_data_folder

    database, watch, recipes, backend, threads = (
        args.database,
        args.watch,
        list(args.recipe),
        args.backend,
        args.threads,
    )
    trust = None
    if args.config is not None:
        from ..config import load_config

        config = load_config(args.config)
        database = database or config.memory.database
        recipes.insert(0, config.recipe)
        backend = backend or config.engine.backend
        trust = config.trust
        if watch is None and config.watch.port:
            watch = f"http://{config.watch.host}:{config.watch.port}"
    if watch is not None and not watch.startswith(("http://", "https://")):
        raise UsageError(f"--watch {watch}: is no address", hint="http://127.0.0.1:9464")
    for path in recipes:
        if not path.is_file():
            raise UsageError(f"{path}: no such recipe", hint="--recipe FILE")
    beside_a_line = database is not None or watch is not None
    return StationOptions(
        data=args.data or default_data_folder(),
        host=args.host,
        port=args.port,
        database=database,
        watch_url=watch,
        recipes=tuple(dict.fromkeys(path.resolve() for path in recipes)),
        engines=tuple(args.engine),
        standards_base=Path.cwd(),
        users=args.users,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        token=_token(args.token_file),
        backend=backend or "auto",
        threads=threads or 1,
        trust=trust,
        niceness=args.nice if args.nice is not None else 15 if beside_a_line else 0,
    )


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text(encoding="ascii").strip()
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others may read it", hint=f"chmod 600 {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", hint="a file with one line") from None
    if len(token) < 24 or not token.isalnum():
        raise ConfigError(f"{path}: is no key", hint="at least 24 letters and digits: openssl rand -hex 16")
    return token


def _add_user(args: argparse.Namespace) -> int:
    from ..station.users import Users

    if args.users is None:
        raise UsageError("--add-user without --users", hint="--users FILE names the file of users")
    users = Users(args.users)
    if sys.stdin.isatty():
        password = getpass.getpass(f"password of {args.add_user}: ")
        if getpass.getpass("again: ") != password:
            raise UsageError("the two passwords differ", hint="try again")
    else:
        password = sys.stdin.readline().rstrip(os.linesep)
    user = users.add(args.add_user, args.role, password)
    emit(
        {"user": user.name, "role": user.role, "file": str(args.users)},
        f"{user.name} is {user.role}",
        as_json=args.json,
    )
    return 0
