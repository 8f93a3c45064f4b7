"""The engine must see the same thing in the same picture, again and again.

Picture: the first reference plate, else a fixed pattern. The answer of the first run after a start or a recipe change
is the expectation; engines are deterministic (same machine, same backend), so any difference is a fault.

And where the recipe names a golden part, all that stands behind the engine must reject it, again and again.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EngineError
from .golden import Measured
from .inspection import Station
from .logs import log

__all__ = ["GoldenCheck", "SelfTest"]

_RETRY_S = 5.0  # after a failure: no longer than this until the next try


class SelfTest:
    """The periodic self-test of whatever station serves. ``trouble``: why not Ready, "" when the last run was good."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._due_s = 0.0
        self._seen: tuple[Station, bytes] | None = None
        self.trouble = "SELF_TEST_PENDING"

    def demand(self) -> None:
        """Run at the next occasion: the engine has just broken its promise."""
        self._due_s, self.trouble = 0.0, "SELF_TEST_PENDING"

    def is_due(self, station: Station) -> bool:
        """Whether the interval has passed or the station has changed."""
        return time.monotonic() >= self._due_s or self._seen is None or self._seen[0] is not station

    def run_quietly(self, station: Station) -> None:
        """Run; a failure of whatever kind becomes ``trouble`` and is tried again soon."""
        try:
            self.run(station)
        except Exception as error:  # noqa: BLE001 - an engine that raises anything at all has failed its test
            if self.trouble != "SELF_TEST_FAILED":
                log("self_test_failed", f"{type(error).__name__}: {error}", level=40)
            self.trouble = "SELF_TEST_FAILED"
            self._due_s = time.monotonic() + min(self._every_s, _RETRY_S)

    def run(self, station: Station) -> None:
        """One self-test. Raises EngineError when the engine answers otherwise than before, and what it raises."""
        # Not ``inspect``: a plate is no frame of this camera, and refused unseen it would prove nothing.
        answer = station.look(_test_picture(station)).labels.tobytes()
        if self._seen is not None and self._seen[0] is station and self._seen[1] != answer:
            raise EngineError("the engine answers the same picture differently than before", code="SELF_TEST")
        if self.trouble == "SELF_TEST_FAILED":
            log("self_test_back", "the engine passes its self-test again")
        self._seen, self.trouble = (station, answer), ""
        self._due_s = time.monotonic() + self._every_s


class GoldenCheck:
    """The station's golden part through the whole judgement, now and then. ``trouble``: why not Ready, "" when all is
    well. ``measured``: what was found last, None where there is no golden part or it did not hold."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._due_s = 0.0
        self._checked: Station | None = None
        self.trouble = ""
        self.measured: Measured | None = None
        self.held: bool | None = None

    def is_due(self, station: Station) -> bool:
        """Whether the interval has passed or the station has changed."""
        return time.monotonic() >= self._due_s or self._checked is not station

    def run_quietly(self, station: Station) -> None:
        """Run; a failure of whatever kind becomes ``trouble`` and is tried again soon."""
        try:
            self.run(station)
        except Exception as error:  # noqa: BLE001 - whatever breaks on the way, the golden part was not rejected
            if not self.trouble:
                log("golden_lost", f"{type(error).__name__}: {error}", level=40)
            self._checked, self.trouble, self.measured, self.held = station, "GOLDEN_PART", None, False
            self._due_s = time.monotonic() + min(self._every_s, _RETRY_S)

    def run(self, station: Station) -> None:
        """One check. Raises EngineError (GOLDEN_PART) when the part is judged otherwise, ConfigError when nothing says
        what is expected, and what the judgement raises."""
        golden = station.golden
        found = None if golden is None else golden.check(station.inspect(golden.pixels).verdict)
        if self.trouble:
            log("golden_back", "the golden part is rejected as it must be" if found else "no golden part any more")
        self._checked, self.trouble, self.measured, self.held = station, "", found, None if found is None else True
        self._due_s = time.monotonic() + self._every_s


def _test_picture(station: Station) -> NDArray[Any]:
    for reference in station.references.values():
        plate: NDArray[Any] = next(iter(reference.images.values())).pixels
        return plate
    ramp = np.linspace(40, 200, 256, dtype=np.float32)
    pattern = ramp[None, :] + 20 * np.sin(np.arange(256, dtype=np.float32)[:, None] / 7)
    picture: NDArray[Any] = np.clip(pattern, 0, 255).astype(np.uint8)
    return picture
