"""What a soak says about growth: a leak is found, the saw teeth of retention are none, and too short is said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from edge_daemon.testing.soak_study import main, peak_slope

_TIMES_S = [5.0 * n for n in range(720)]
_ROUND_S = 300.0


def _teeth(leak_per_s: float = 0.0) -> list[float]:
    """A size that rises for a round of retention and falls, on top of a leak."""
    return [60e6 + 1e5 * (at_s % _ROUND_S) + leak_per_s * at_s for at_s in _TIMES_S]


def test_saw_teeth_are_no_trend() -> None:
    slope, low, high = peak_slope(_TIMES_S, _teeth(), _ROUND_S)
    assert low <= slope <= high
    assert abs(slope) < 1.0 and abs(low) < 1.0 and abs(high) < 1.0


@pytest.mark.parametrize("leak", [100.0, -100.0, 5000.0])
def test_a_leak_beneath_the_teeth_is_found(leak: float) -> None:
    slope, low, high = peak_slope(_TIMES_S, _teeth(leak), _ROUND_S)
    assert slope == pytest.approx(leak, rel=0.02)
    assert low - 1.0 <= leak <= high + 1.0 and (low > 0) == (high > 0) == (leak > 0)


def test_from_three_rounds_nothing_is_said() -> None:
    slope, low, high = peak_slope(_TIMES_S[:180], _teeth()[:180], _ROUND_S)
    assert math.isnan(slope) and (low, high) == (-math.inf, math.inf)


def _samples(folder: Path, cleaned_every: int) -> None:
    lines = []
    for n, at_s in enumerate(_TIMES_S):
        one = dict.fromkeys(("daemon_rss", "line_rss", "database", "pictures"), 1e6 * (100 + n % 60))
        one |= dict.fromkeys(("daemon_files", "daemon_threads", "line_files"), 17.0) | {"records": 10.0 * (n % 60)}
        lines.append(json.dumps({"at_s": at_s, "parts": 10 * n, **one, "cleaned": n // cleaned_every}))
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")


def test_the_table_leaves_the_warm_up_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _samples(tmp_path, 60)
    assert main(["--out", str(tmp_path), "--table"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("After a warm-up of 10 minutes, 0.83 h and 600 samples")
    assert "| daemon: open files | 17 | 17 | 17 | +0 (+0 to +0) | 0 |" in text
    assert "| pictures, MB | 159 | 159 | 159 |" in text


def test_a_run_without_two_rounds_of_retention_is_no_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _samples(tmp_path, 600)
    assert main(["--out", str(tmp_path), "--table"]) == 2
    assert "too short" in capsys.readouterr().err
