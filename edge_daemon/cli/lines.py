"""``demo``, ``run``, ``line`` and ``check``: the running station."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import StorageError, UsageError
from . import add_common, emit, whole


def register(commands: Any) -> None:
    """Add ``demo``, ``run``, ``line`` and ``check``."""
    demo = commands.add_parser(
        "demo",
        help="the whole line on this machine, with simulated castings",
        description="A simulated conveyor of aluminium castings: camera, engine, judge, PLC, broker, memory, page.",
        epilog="example: edge-daemon demo --parts 60 --rate 60/min",
    )
    demo.add_argument("--parts", type=whole(1, 1_000_000), default=60, metavar="N", help="how many parts (60)")
    demo.add_argument("--rate", default="60/min", metavar="PPM", help="parts a minute (60/min; 300 or 5/s work too)")
    demo.add_argument(
        "--driver", default="ascii", choices=["ascii", "modbus-server", "modbus-client"], help="how the PLC speaks"
    )
    demo.add_argument("--camera", default="auto", choices=["auto", "basler", "folder"],
                      help="Basler emulation where pypylon is installed, else a watched folder")  # fmt: skip
    demo.add_argument("--out", type=Path, default=Path("demo-output"), metavar="DIR", help="where pictures and logs go")
    demo.add_argument("--no-page", action="store_true", help="do not start the page")
    demo.add_argument(
        "--stay", action="store_true", help="keep line and page running after the last part, until Ctrl-C"
    )
    add_common(demo)
    demo.set_defaults(run=_demo)

    run = commands.add_parser(
        "run",
        help="the daemon",
        description="Run one station until it is told to stop. SIGHUP reads the recipe again.",
        epilog="example: edge-daemon run --config /etc/edge-daemon/line.toml",
    )
    run.add_argument("--config", type=Path, required=True, metavar="line.toml")
    add_common(run, results=False)
    run.set_defaults(run=_run)

    line = commands.add_parser(
        "line",
        help="the line process alone (the dead-man gate; systemd runs it as its own unit)",
        description="Read [line] of the config, then become the line process: it holds the serial port and the gate.",
        epilog="example: edge-daemon line --config /etc/edge-daemon/line.toml",
    )
    line.add_argument("--config", type=Path, required=True, metavar="line.toml")
    add_common(line, results=False)
    line.set_defaults(run=_line)

    check = commands.add_parser(
        "check",
        help="preflight: everything the station needs, a line each",
        description="Try everything the station needs and say what to do where something is missing.",
        epilog="example: edge-daemon check --config /etc/edge-daemon/line.toml",
    )
    check.add_argument("--config", type=Path, metavar="line.toml", help="without it, only this installation is checked")
    add_common(check)
    check.set_defaults(run=_check)


def _demo(args: argparse.Namespace) -> int:
    from .. import demo, units

    rate = f"{args.rate}/min" if args.rate.replace(".", "", 1).isdigit() else args.rate
    rate_per_min = units.rate_per_min(rate)
    if not 1 <= rate_per_min <= 3000:
        raise UsageError(f"--rate {args.rate} is outside 1 to 3000 parts a minute")
    report = demo.run(
        parts=args.parts,
        rate_per_min=rate_per_min,
        driver=args.driver,
        camera=args.camera,
        out=args.out,
        page=not args.no_page,
        stay=args.stay,
        show=lambda text: print(text, file=sys.stderr if args.json else sys.stdout, flush=True),
    )
    emit(report.document(), report.text(), as_json=args.json)
    return 0 if report.ok else 1


def _run(args: argparse.Namespace) -> int:
    from ..config import check_mqtt_files, load_config
    from ..daemon import Daemon
    from ..logs import start_logging

    start_logging()
    config = load_config(args.config)
    check_mqtt_files(config)
    return Daemon(config).run()


def _line(args: argparse.Namespace) -> int:
    from ..config import load_config

    options = load_config(args.config).line.options
    path = Path(options.socket_path + ".json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        options.save(path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}", hint="is [line] socket in a folder of ours?"
        ) from None
    # A fresh interpreter: the line process must not carry NumPy, OpenCV and what else the config needed to be read.
    os.execv(sys.executable, [sys.executable, "-m", "edge_daemon.line", "--options", str(path)])


def _check(args: argparse.Namespace) -> int:
    from ..check import run_checks

    # Looking at pictures takes all cores, and a line may be running beside it.
    os.nice(19)
    worst = 0
    for finding in run_checks(args.config):
        text = f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}: {finding.text}"
        if finding.hint and not finding.ok:
            text += f"\n     {finding.hint}"
        emit(
            {"what": finding.what, "ok": finding.ok, "text": finding.text, "hint": finding.hint},
            text,
            as_json=args.json,
        )
        worst = max(worst, finding.exit_code)
    return worst
