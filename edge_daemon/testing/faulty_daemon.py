"""The daemon with an engine that can be made to fail: ``python -m edge_daemon.testing.faulty_daemon run --config F``.

The file that EDGE_TEST_ENGINE_FAULT names says how, at each run of ONNX Runtime: ``hang`` (until it says something
else), ``nan`` (every value), ``raise``; empty or absent: not at all. Everything else is the daemon as it is.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]

from ..cli import main

__all__ = ["spoil"]


def _asked(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def spoil(path: Path) -> None:
    """Make every session of this process obey the file."""
    real = onnxruntime.InferenceSession.run

    def run(session: Any, *arguments: Any, **options: Any) -> Any:
        while _asked(path) == "hang":
            time.sleep(0.02)
        fault = _asked(path)
        if fault == "raise":
            raise RuntimeError("the engine was made to fail")
        answers = real(session, *arguments, **options)
        return [np.full_like(one, np.nan) for one in answers] if fault == "nan" else answers

    onnxruntime.InferenceSession.run = run


if __name__ == "__main__":
    spoil(Path(os.environ["EDGE_TEST_ENGINE_FAULT"]))
    sys.exit(main())
