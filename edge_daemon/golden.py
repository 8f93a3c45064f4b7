"""The golden part: the stored frame of a real rejected part, which must be rejected again, as severely as before.

It says what no engine's own self-test can: that engine, calibration, measurement, references and table still lead to a
reject together. The picture's SHA-256 and what is expected stand in the recipe, as a person took them over from
``edge-daemon check``; nothing is learned by itself. Not covered: camera and light, which the stored frame does not use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .errors import ConfigError, EngineError, IntegrityError, UsageError
from .images import load_picture
from .judge import Verdict
from .records import Outcome
from .settings import Settings

__all__ = ["GoldenPart", "Measured", "read_golden", "rejected_for"]

METRICS = ("severity", "max_size_mm")


@dataclass(frozen=True, slots=True)
class Measured:
    """How severe a type is. metric: ``severity`` (level of the plates) or, where none was measured, ``max_size_mm``."""

    type: str
    metric: str
    value: float

    def __str__(self) -> str:
        return f"{self.type} {self.metric} {self.value:.4g}"

    @classmethod
    def parse(cls, text: str) -> Measured:
        """The reverse of ``str``. Raises UsageError."""
        words = text.split()
        try:
            if len(words) == 3 and words[1] in METRICS and 0 < float(words[2]) < 1e6:
                return cls(words[0], words[1], float(words[2]))
        except ValueError:
            pass
        raise UsageError(
            f"{text!r} is no measured severity", hint='"crack max_size_mm 12.4", as edge-daemon check says'
        )


@dataclass(frozen=True, slots=True)
class GoldenPart:
    """pixels: the frame as the camera delivers it, read-only. expect: None until a person has stated it. tolerance: how
    far the measured value may be from the expected one, as a share of that."""

    picture: Path
    sha256: str
    pixels: NDArray[Any] = field(compare=False, repr=False)
    expect: Measured | None
    tolerance: float

    def check(self, verdict: Verdict) -> Measured:
        """What was measured. Raises EngineError (GOLDEN_PART) when it is not what was expected, ConfigError when
        nothing says what is."""
        if verdict.outcome is not Outcome.FAIL:
            reasons = ", ".join(dict.fromkeys(reason.code for reason in verdict.reasons))
            said = f"{verdict.outcome}{f' ({reasons})' if reasons else ''}"
            raise self._error(f"the golden part is not rejected as a bad part: {said}")
        found = rejected_for(verdict)
        if self.expect is None:
            if not found:
                raise ConfigError(f"{self.picture}: no defect of a type was measured", hint="take another part")
            lines = f'expect = "{found[0]}", sha256 = "{self.sha256}"'
            raise ConfigError(
                f"{self.picture}: nothing says what this golden part must be rejected for",
                hint=f"if it is right, write in [golden] of the recipe: {lines}",
            )
        for one in found:
            if (one.type, one.metric) == (self.expect.type, self.expect.metric):
                if abs(one.value - self.expect.value) <= self.tolerance * self.expect.value:
                    return one
                raise self._error(f"the golden part measures {one}, expected {self.expect}")
        others = "; ".join(str(one) for one in found) or "no defect"
        raise self._error(f"the golden part is rejected for {others}, expected {self.expect}")

    def _error(self, text: str) -> EngineError:
        return EngineError(
            text, code="GOLDEN_PART", hint="something on the way from picture to verdict has changed; do not run"
        )


def rejected_for(verdict: Verdict) -> list[Measured]:
    """Every type that fails, the largest first."""
    failed = [one for one in verdict.types if one.outcome is Outcome.FAIL]
    failed.sort(key=lambda one: -one.measurement.max_size_mm.value)
    found = []
    for one in failed:
        metric, value = "severity", one.severity
        if value is None:
            metric, value = "max_size_mm", one.measurement.max_size_mm.value
        if value > 0:
            found.append(Measured(one.type, metric, value))
    return found


def read_golden(table: Settings | None) -> GoldenPart | None:
    """The recipe's ``[golden]``. Raises ConfigError, ImageError for a picture that cannot be read, and IntegrityError
    for one that is not the one that was taken over."""
    if table is None:
        return None
    path: Path = table.file("picture")
    stated: str | None = table.text("sha256", None)
    expect: str | None = table.text("expect", None)
    tolerance: float = table.number("tolerance", 0.05, low=0.0, high=0.5)
    if (stated is None) != (expect is None):
        raise table.error("sha256" if stated is None else "expect", "sha256 and expect go together")
    table.close()
    try:
        measured = None if expect is None else Measured.parse(expect)
    except UsageError as error:
        raise table.error("expect", error.message, error.hint) from None
    if not path.is_file():
        raise table.error("picture", f"{path} does not exist", hint="keep the frame.png of a part that was rejected")
    picture = load_picture(path)
    if stated is not None and stated != picture.sha256:
        raise IntegrityError(
            f"{path} is not the golden part that {table.path} was written for",
            hint="put the old picture back, or take the new one over with edge-daemon check",
        )
    return GoldenPart(path, picture.sha256, picture.pixels, measured, tolerance)
