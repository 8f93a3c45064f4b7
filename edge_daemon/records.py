"""What travels along the line: Ticket -> Frame -> Segmentation -> Measurement -> Verdict -> Record.

(The Ticket and the gate's answer live in ``tickets.py``, which the small line process can import without NumPy.)

Frozen, slotted dataclasses without behaviour beyond their own consistency. Arrays are handed over read-only: the stage
that made an array is the last one that may write to it. Units stand in the names; ``u_`` or ``_u_`` is a standard
uncertainty (k = 1, GUM); ``_ns`` is CLOCK_MONOTONIC, which all processes of one Linux machine share and no clock
change moves; ``_utc`` is ISO 8601 wall time, for people only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TYPE_IDS",
    "UNKNOWN_LABEL",
    "UNKNOWN_MESSAGE",
    "UNKNOWN_TYPE",
    "Frame",
    "Outcome",
    "Reason",
    "Record",
    "Region",
    "Segmentation",
    "read_only",
]

UNKNOWN_LABEL = 255
UNKNOWN_TYPE = "unknown"
UNKNOWN_MESSAGE = "I was not trained on this type of defect"

#: Every type identifier an engine, a table or a recipe may use (the command-line contract).
TYPE_IDS: tuple[str, ...] = (
    # casting discontinuities in radiographs (names after ASTM E1316 / the E155 plates)
    "gas_hole", "gas_porosity_round", "gas_porosity_elongated",
    "shrinkage_cavity", "shrinkage_sponge", "shrinkage_dendritic", "shrinkage_filamentary",
    "foreign_less_dense", "foreign_more_dense", "crack", "cold_shut",
    # hot-rolled steel surface
    "crazing", "inclusion", "patches", "pitted_surface", "rolled_in_scale", "scratches",
    # magnetic tile
    "blowhole", "break", "fray", "uneven",
)  # fmt: skip


class Outcome(str, Enum):
    """What the judge found. On the wire only PASS is PASS; everything else rejects the part."""

    PASS = "PASS"
    INCONCLUSIVE = "INCONCLUSIVE"
    FAIL = "FAIL"
    NOT_EVALUABLE = "NOT_EVALUABLE"

    def __str__(self) -> str:
        return self.value

    @property
    def rank(self) -> int:
        """Order in which outcomes of types and zones combine: the largest rank wins (judging: NOT_EVALUABLE first)."""
        return _RANK[self]

    @property
    def result(self) -> str:
        """``PASS`` or ``FAIL``: the only two words the gate knows."""
        return "PASS" if self is Outcome.PASS else "FAIL"

    @staticmethod
    def worst(outcomes: list[Outcome]) -> Outcome:
        """The outcome of a part made of these; raises ValueError when there are none (nothing was judged)."""
        return max(outcomes, key=lambda outcome: outcome.rank)


_RANK = {Outcome.PASS: 0, Outcome.INCONCLUSIVE: 1, Outcome.FAIL: 2, Outcome.NOT_EVALUABLE: 3}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an outcome is what it is: a stable code in CAPITALS and one sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One exposure.

    pixels: (H, W) or (H, W, 3) in RGB order, uint8 or uint16, read-only.
    frame_id: the camera's own counter; lost_before: exposures missing between the previous frame and this one.
    captured_ns: when the exposure was received, CLOCK_MONOTONIC. source: which camera or file.
    """

    pixels: NDArray[Any]
    frame_id: int
    captured_ns: int
    captured_utc: str
    source: str
    lost_before: int = 0


@dataclass(frozen=True, slots=True)
class Region:
    """One connected marked region and what the engine thinks it is.

    label: the value of its pixels in ``Segmentation.labels``. index: its number, from 1, in row-major order of its
    first pixel. confidence: mean defect probability over the region. p_known: conformal p-value of "this is a type that
    I was trained on". nearest_type: the most likely trained type, also where ``known`` is False. runner_up: the next
    likely one that the engine claims to tell apart from it, "" where there is none. alike: the types, this one
    included, that the engine cannot tell apart from a single view; empty where it claims to.
    """

    index: int
    label: int
    type: str
    known: bool
    confidence: float
    p_known: float
    nearest_type: str
    bbox_px: tuple[int, int, int, int]
    runner_up: str = ""
    alike: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What the engine sees in one frame.

    labels: uint8 (H, W), 0 sound, 1..K the engine's types, 255 a defect of unknown type.
    coverage: float32 (H, W) in [0, 1], calibrated probability that the pixel is defect; None for a bare label image.
    type_names: name of label k at k - 1. regions: one per connected region, in row-major order of first pixel.
    refusals: why the picture may not be judged at all (image gate); empty when it may. blind: bool (H, W), where the
    picture is burnt out or black and no defect could be seen; None where nobody looked.
    """

    labels: NDArray[np.uint8]
    coverage: NDArray[np.float32] | None
    type_names: tuple[str, ...]
    regions: tuple[Region, ...] = ()
    refusals: tuple[Reason, ...] = ()
    blind: NDArray[np.bool_] | None = None

    def name_of(self, label: int) -> str:
        """Type identifier of a label value; ``unknown`` for 255."""
        if label != UNKNOWN_LABEL and not 1 <= label <= len(self.type_names):
            raise ValueError(f"label {label} has no name")
        return UNKNOWN_TYPE if label == UNKNOWN_LABEL else self.type_names[label - 1]


@dataclass(frozen=True, slots=True)
class Record:
    """The one stored answer to one trigger.

    document: the JSON object of the command-line contract, complete and self-contained; everything else here is what
    the memory bank indexes. ``gate`` is the final answer of the line, so ``result`` is PASS only if the gate opened.
    """

    record_id: str
    part_id: int | None
    station: str
    trigger_utc: str
    outcome: Outcome
    result: str
    document: dict[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        if self.result not in {"PASS", "FAIL"}:
            raise ValueError(f"record {self.record_id}: result {self.result!r}")
        if self.result == "PASS" and self.outcome is not Outcome.PASS:
            raise ValueError(f"record {self.record_id}: result PASS with outcome {self.outcome}")


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same array with its write flag cleared; what a stage hands over."""
    array.flags.writeable = False
    return array
