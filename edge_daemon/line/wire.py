"""What may stand on the wire: the note of a result, outcome and reason numbers, and the Modbus register map.

``WIRE.md`` is the same for PLC programmers; a test keeps the two equal. Rule of the whole wire: 0 is reject.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CLIENT_READS",
    "CLIENT_WRITES",
    "COILS",
    "DISCRETE_INPUTS",
    "HOLDING_REGISTERS",
    "INPUT_REGISTERS",
    "OUTCOMES",
    "REASONS",
    "REASON_OTHER",
    "SEVERITY_NONE",
    "ResultNote",
    "outcome_word",
    "reason_word",
    "severity_word",
]

#: Outcome on the wire. 0 = no result yet, and also what an outcome this version does not know becomes.
OUTCOMES: dict[str, int] = {"PASS": 1, "FAIL": 2, "INCONCLUSIVE": 3, "NOT_EVALUABLE": 4}

#: Reason codes with a number of their own; 0 = no reason. All others are REASON_OTHER; the record has the full text.
REASONS: dict[str, int] = {
    # the gate: why no permit was given although a trigger came
    "DEADLINE": 1,
    "NO_DAEMON": 2,
    "DAEMON_LOST": 3,
    "PORT_LOST": 4,
    "STOPPING": 5,
    "NOT_READY": 6,
    "OUT_OF_ORDER": 7,
    "WRONG_PART": 8,
    "AMBIGUOUS_PART": 9,
    "RESTARTED": 10,
    "NOT_PASS": 11,
    "NO_PASS": 12,
    "LINE_LOST": 13,
    "STALLED": 14,
    # the daemon
    "BUSY": 20,
    "CAMERA": 21,
    "GRAB_TIMEOUT": 22,
    "FRAME_BROKEN": 23,
    "FRAME_LOST": 24,
    "FROZEN": 25,
    "WRONG_SIZE": 26,
    "LOST": 27,
    "ENGINE": 28,
    "STORAGE": 29,
    "INTERRUPTED": 30,
    "RECIPE": 31,
    "BUG": 32,
    "SELF_TEST": 33,
    "GOLDEN_PART": 34,
    # the judge
    "LIMIT_EXCEEDED": 40,
    "UNKNOWN_TYPE": 41,
    "GUARD_BAND": 42,
    "NONE_PERMITTED": 43,
    "NOT_APPLICABLE": 44,
    "NO_RULE": 45,
    # the picture
    "IMAGE": 50,
    "GATE_SMALL": 51,
    "GATE_BITS": 52,
    "GATE_CONTRAST": 53,
    "GATE_CLIPPED": 54,
    "GATE_SCALE": 55,
    "GATE_POLARITY": 56,
    "FOCUS": 57,
}
REASON_OTHER = 999

#: Severity x 10 when none was measured.
SEVERITY_NONE = 0xFFFF

#: Device to PLC, bits: function code 2, and bit n of input register 0.
DISCRETE_INPUTS: dict[str, int] = {
    "Heartbeat": 0,
    "Ready": 1,
    "TriggerAck": 2,
    "Busy": 3,
    "ResultToggle": 4,
    "ResultValid": 5,
    "Pass": 6,
    "Reject": 7,
    "Unknown": 8,
    "Fault": 9,
}

#: Device to PLC, words: function code 4. One read of all six is one consistent picture.
INPUT_REGISTERS: dict[str, int] = {
    "Status": 0,
    "PartId": 1,
    "ResultPartId": 2,
    "Reason": 3,
    "Severity x 10": 4,
    "Outcome": 5,
}

#: PLC to device, bits: function codes 1, 5, 15, and bit n of holding register 0.
COILS: dict[str, int] = {"Heartbeat": 0, "TriggerEnable": 1, "Trigger": 2, "ResultAck": 3}

#: PLC to device, words: function codes 3, 6, 16, 22, 23.
HOLDING_REGISTERS: dict[str, int] = {"Control": 0, "PartId": 1, "Recipe": 2}

#: Driver modbus-client, words in the PLC's holding registers from the base address on: what the device writes (one
#: request, function code 16) and what it reads (function code 3).
CLIENT_WRITES: dict[str, int] = dict(INPUT_REGISTERS)
CLIENT_READS: dict[str, int] = {name: len(CLIENT_WRITES) + at for name, at in HOLDING_REGISTERS.items()}


@dataclass(frozen=True, slots=True)
class ResultNote:
    """What the PLC may show beside the verdict. Display only: nothing here opens the gate, and nothing but
    ``outcome == "PASS"`` without ``unknown`` may stand beside a permit.

    outcome: PASS, FAIL, INCONCLUSIVE or NOT_EVALUABLE. reason_code: stable code in CAPITALS or ``""``.
    severity_x10: measured severity level times ten, 0..65534, or SEVERITY_NONE. unknown: a defect of unknown type.
    """

    outcome: str
    reason_code: str = ""
    severity_x10: int = SEVERITY_NONE
    unknown: bool = False

    @property
    def is_pass(self) -> bool:
        """Whether a permit may carry this note."""
        return self.outcome == "PASS" and not self.unknown

    def without_pass(self) -> ResultNote:
        """The same, fit to stand beside a result that is no permit: PASS becomes NOT_EVALUABLE."""
        if self.outcome != "PASS":
            return self
        return ResultNote("NOT_EVALUABLE", self.reason_code or "NO_PASS", self.severity_x10, self.unknown)


def outcome_word(outcome: str) -> int:
    """Number of an outcome; 0 for one this version does not know."""
    return OUTCOMES.get(outcome, 0)


def reason_word(code: str) -> int:
    """Number of a reason code; 0 for none, REASON_OTHER for one without a number."""
    return REASONS.get(code, REASON_OTHER) if code else 0


def severity_word(severity_x10: int) -> int:
    """Severity x 10 as a word; values above the range are clamped, negative ones count as not measured."""
    return SEVERITY_NONE if severity_x10 < 0 or severity_x10 == SEVERITY_NONE else min(severity_x10, SEVERITY_NONE - 1)
