"""The simulator's primary image against an independent ray tracer, on the same solids."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.needs("gvxr")
@pytest.mark.slow
def test_primary_image_agrees_with_an_independent_ray_tracer() -> None:
    """In a process of its own: the ray tracer keeps its OpenGL context and its scene as long as its process."""
    run = subprocess.run(
        [sys.executable, "-m", "edge_daemon.testing.gvxr_study", "--quick", "--json"],
        capture_output=True, text=True, check=False, timeout=58, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert {row["scene"] for row in rows} == {"block", "drawn", "casting"}
    assert {"60 keV", "120 kV tube", "200 kV tube"} == {row["beam"] for row in rows}
    for row in rows:
        assert row["largest_pct"] < 0.5, row
        assert row["rms_pct"] < 0.05, row
        # Little was left out, and what was left out is not far off either.
        assert row["left_out_pct"] < 5.0, row
        assert row["all_largest_pct"] < 2.0, row
        # There was something to compare, and metal in it.
        assert row["pixels"] > 20_000 and row["lowest"] < 0.8, row
