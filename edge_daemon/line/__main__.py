"""``python -m edge_daemon.line --options FILE``: the line process, as systemd or the daemon starts it."""

from __future__ import annotations

import logging
import sys

from ..errors import EdgeError
from ..logs import start_logging
from .options import LineOptions
from .process import run


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 told to stop, 2 wrong options, 3 another line process is there."""
    start_logging()
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        run(LineOptions.from_arguments(arguments))
    except EdgeError as error:
        sys.stderr.write(f"edge-daemon line: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
