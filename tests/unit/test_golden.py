"""The golden part: what is expected is stated by a person, and anything else is trouble."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_daemon.errors import ConfigError, EdgeError, EngineError, IntegrityError, UsageError
from edge_daemon.golden import GoldenPart, Measured, read_golden
from edge_daemon.images import load_picture, write_png_atomic
from edge_daemon.judge import Verdict
from edge_daemon.records import Outcome, Reason
from edge_daemon.settings import Settings


def verdict(*types: tuple[str, Outcome, float | None, float], outcome: Outcome = Outcome.FAIL) -> Verdict:
    found = tuple(
        SimpleNamespace(type=name, outcome=one, severity=severity,
                        measurement=SimpleNamespace(max_size_mm=SimpleNamespace(value=size_mm)))
        for name, one, severity, size_mm in types
    )  # fmt: skip
    return Verdict(outcome, (Reason("LIMIT_EXCEEDED", "x"),) if outcome is Outcome.FAIL else (), found)  # type: ignore[arg-type]


def golden(expect: str | None, tolerance: float = 0.05) -> GoldenPart:
    one = None if expect is None else Measured.parse(expect)
    return GoldenPart(Path("golden.png"), "ab" * 32, np.zeros((4, 4), np.uint8), one, tolerance)


CRACKED = verdict(("crack", Outcome.FAIL, None, 12.4), ("gas_holes", Outcome.FAIL, 6.4, 3.0),
                  ("inclusion", Outcome.PASS, 1.0, 20.0))  # fmt: skip


@pytest.mark.parametrize(
    "expect",
    ["crack max_size_mm 12.4", "crack max_size_mm 12.9", "crack max_size_mm 12", "gas_holes severity 6.4"],
)
def test_it_holds_when_it_is_rejected_as_severely_as_before(expect: str) -> None:
    assert golden(expect).check(CRACKED).type == expect.split(maxsplit=1)[0]


@pytest.mark.parametrize(
    ("expect", "seen", "said"),
    [
        ("crack max_size_mm 12.4", verdict(outcome=Outcome.PASS), "not rejected as a bad part: PASS"),
        ("crack max_size_mm 12.4", verdict(outcome=Outcome.NOT_EVALUABLE), "not rejected as a bad part: NOT_EVAL"),
        ("crack max_size_mm 12.4", verdict(outcome=Outcome.INCONCLUSIVE), "not rejected as a bad part: INCONC"),
        ("crack max_size_mm 11.5", CRACKED, "measures crack max_size_mm 12.4, expected crack max_size_mm 11.5"),
        ("crack max_size_mm 13.2", CRACKED, "measures crack"),
        ("gas_holes max_size_mm 3", CRACKED, "is rejected for crack max_size_mm 12.4; gas_holes severity 6.4"),
        ("inclusion severity 1", CRACKED, "expected inclusion"),
        ("crack max_size_mm 12.4", verdict(("crack", Outcome.FAIL, None, 0.0)), "no defect"),
        ("crack max_size_mm 12.4", verdict(("crack", Outcome.FAIL, None, float("nan"))), "no defect"),
    ],
)
def test_it_does_not_hold(expect: str, seen: Verdict, said: str) -> None:
    with pytest.raises(EngineError, match=said) as caught:
        golden(expect).check(seen)
    assert caught.value.code == "GOLDEN_PART"


def test_nothing_is_expected_before_a_person_has_stated_it() -> None:
    with pytest.raises(ConfigError, match="nothing says") as caught:
        golden(None).check(CRACKED)
    assert 'expect = "crack max_size_mm 12.4", sha256 = "abab' in caught.value.hint
    with pytest.raises(ConfigError, match="no defect of a type"):
        golden(None).check(verdict())


@pytest.mark.parametrize("text", ["", "crack 12", "crack size 12", "crack severity x", "crack severity 0", "a b c d",
                                  "crack severity nan", "crack severity inf"])  # fmt: skip
def test_what_is_no_severity(text: str) -> None:
    with pytest.raises(UsageError, match="no measured severity"):
        Measured.parse(text)


def _read(folder: Path, **lines: Any) -> GoldenPart | None:
    path = folder / "recipe.toml"
    path.write_text("[golden]\n" + "".join(f"{key} = {value!r}\n" for key, value in lines.items()))
    return read_golden(Settings.load(path).table("golden"))


def test_the_table_of_the_recipe(tmp_path: Path) -> None:
    assert read_golden(None) is None
    write_png_atomic(tmp_path / "golden.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    sha256 = load_picture(tmp_path / "golden.png").sha256
    fresh = _read(tmp_path, picture="golden.png")
    assert fresh is not None
    assert (fresh.expect, fresh.sha256, fresh.tolerance) == (None, sha256, 0.05)
    taken = _read(tmp_path, picture="golden.png", expect="crack severity 6.4", sha256=sha256, tolerance=0.1)
    assert taken is not None
    assert (taken.expect, taken.tolerance) == (Measured("crack", "severity", 6.4), 0.1)


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        ({"picture": "none.png"}, ConfigError, "picture: .*does not exist"),
        ({"picture": "golden.png", "expect": "crack severity 6.4"}, ConfigError, "go together"),
        ({"picture": "golden.png", "expect": "crack", "sha256": "0" * 64}, ConfigError, "expect: .*no measured"),
        ({"picture": "golden.png", "expect": "crack severity 6", "sha256": "0" * 64}, IntegrityError, "is not the"),
        ({"picture": "golden.png", "tolerance": 2.0}, ConfigError, "tolerance"),
        ({"picture": "golden.png", "every": "1 min"}, ConfigError, "not a known key"),
    ],
)
def test_what_is_wrong_in_the_table_is_named(
    tmp_path: Path, lines: dict[str, Any], kind: type[EdgeError], said: str
) -> None:
    write_png_atomic(tmp_path / "golden.png", np.zeros((16, 16), np.uint8))
    with pytest.raises(kind, match=said):
        _read(tmp_path, **lines)
