"""Judge stored parts again: with another table, tolerance, guard or engine, or with the same to prove that they agree.

The stored frame passes through the same pure function as on the line, so the same frame, engine and recipe give the
same verdict to the last bit. A record whose frame was not kept cannot be judged again, and is counted as such.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EdgeError, UsageError
from .images import load_picture
from .inspection import Station, document_of
from .judge import Rule
from .memory import StoredRecord
from .recipe import Recipe
from .records import UNKNOWN_LABEL, Outcome

__all__ = ["Replayed", "changed_recipe", "rejudge", "replay"]

#: What the judge decided and measured; everything else in a record is circumstance.
_JUDGED_KEYS = ("defects", "types", "message", "advisory", "not_inspected", "working")

#: What kept a part from being judged, or made its frame doubtful: judging that frame again would prove nothing.
_CIRCUMSTANCES = frozenset(
    {
        "BUSY", "CAMERA", "GRAB_TIMEOUT", "FRAME_BROKEN", "FRAME_LOST", "FROZEN", "WRONG_SIZE", "LOST", "STOPPING",
        "RECIPE", "STORAGE", "INTERRUPTED", "BUG", "CALIBRATION_EXPIRED", "CALIBRATION_NOT_YET_VALID",
        "CERTIFICATE_WITHDRAWN",
    }
)  # fmt: skip


_IGNORED = 254  # in a corrected label image: there is something, and nobody can say what


@dataclass(frozen=True, slots=True)
class Replayed:
    """One record, judged again. before: what the judge said then, gate and deadline aside. after: None where it cannot
    be judged again, and ``why`` says the reason. identical: every measured value and outcome is the same to the last
    bit. document: the new one."""

    record: StoredRecord
    before: Outcome
    after: Outcome | None
    identical: bool
    why: str
    document: dict[str, Any] | None = None

    @property
    def changed(self) -> bool:
        """Whether the verdict is another one."""
        return self.after is not None and self.after is not self.before


def changed_recipe(recipe: Recipe, *, tolerance: float | None = None, guard: float | None = None) -> Recipe:
    """The recipe with another tolerance or guard in every rule. Raises RuleError for one out of range."""

    def changed(rule: Rule) -> Rule:
        return replace(
            rule,
            tolerance=rule.tolerance if tolerance is None else tolerance,
            guard=rule.guard if guard is None else guard,
        )

    zones = (replace(zone, rules=tuple(changed(rule) for rule in zone.rules)) for zone in recipe.zones)
    return replace(recipe, zones=tuple(zones))


def replay(station: Station, records: Iterable[StoredRecord]) -> Iterator[Replayed]:
    """Judge each record again, in the order given."""
    for record in records:
        yield _replayed(station, record)


def rejudge(station: Station, record: StoredRecord, labels: NDArray[np.uint8]) -> dict[str, Any]:
    """The document of judging a stored part again with labels that a person has corrected.

    labels: uint8 (H, W) of the size of the stored frame, values of this station's engine; 254, where nobody can say,
    is judged as a defect of unknown type. The record stays as it is, and nothing here opens a gate: that was then.
    Raises UsageError where the frame is not kept, the labels are not its size, the calibration had run out, or the part
    could not be judged then: a drawn label image does not sharpen a blurred picture or bring back a lost frame.
    """
    before = Outcome(record.document.get("judged", record.outcome))
    if before is Outcome.NOT_EVALUABLE:
        codes = ", ".join(reason["code"] for reason in record.document.get("reasons", ()))
        raise UsageError(
            f"record {record.record_id} could not be judged ({codes}), so it cannot be judged again",
            hint="feedback and label image can be kept without judging again",
        )
    frame = None if record.pictures is None else Path(record.pictures) / "frame.png"
    if frame is None or not frame.is_file():
        raise UsageError(f"the picture of record {record.record_id} is not kept", hint="[memory] keep says which are")
    expired = station.refusal(record.trigger_utc)
    if expired is not None:
        raise UsageError(expired.text, code=expired.code)
    picture = load_picture(frame)
    if labels.shape != picture.pixels.shape[:2]:
        (height, width), (of_height, of_width) = labels.shape, picture.pixels.shape[:2]
        raise UsageError(
            f"the corrected labels are {width} x {height} px, the stored picture {of_width} x {of_height} px",
            hint="correct the labels of this very picture",
        )
    judged = np.where(labels == _IGNORED, np.uint8(UNKNOWN_LABEL), labels)
    document = document_of(
        station, station.inspect_labels(judged), record_id=record.record_id, image=record.document.get("image"),
        image_sha256=picture.sha256,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(json.dumps(document))
    return found


def _replayed(station: Station, record: StoredRecord) -> Replayed:
    try:
        return _judged_again(station, record)
    except (EdgeError, KeyError, TypeError, ValueError) as error:
        # One record that cannot be read must not keep the others from being judged.
        return Replayed(record, record.outcome, None, False, f"cannot be judged again: {error}")


def _judged_again(station: Station, record: StoredRecord) -> Replayed:
    stored = record.document
    before = Outcome(stored.get("judged", stored["outcome"]))
    codes = {reason["code"] for reason in stored.get("reasons", ())}
    if before is Outcome.NOT_EVALUABLE and codes & _CIRCUMSTANCES:
        return Replayed(record, before, None, False, f"was not judged then: {', '.join(sorted(codes))}")
    expired = station.refusal(record.trigger_utc)
    if expired is not None:
        return Replayed(record, before, None, False, expired.text)
    frame = None if record.pictures is None else Path(record.pictures) / "frame.png"
    if frame is None or not frame.is_file():
        return Replayed(record, before, None, False, "its frame was not kept")
    inspection = station.inspect(load_picture(frame).pixels)
    document = document_of(
        station, inspection, record_id=record.record_id, image=stored.get("image"), image_sha256=None
    )
    document = json.loads(json.dumps(document))  # as it would have been stored
    after = inspection.verdict.outcome
    same = all(stored.get(key) == _as_known_then(document[key], stored.get(key)) for key in _JUDGED_KEYS)
    if stored["outcome"] == str(before):  # else the stored reasons are the gate's
        same = same and stored.get("reasons") == document["reasons"]
    return Replayed(record, before, after, after is before and same, _why(stored, document), document)


def _as_known_then(now: Any, then: Any) -> Any:
    """What was measured now, without the fields that records did not have yet when this one was written."""
    if isinstance(now, dict) and isinstance(then, dict):
        return {key: _as_known_then(value, then[key]) for key, value in now.items() if key in then}
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        return [_as_known_then(one, other) for one, other in zip(now, then, strict=True)]
    return now


def _why(stored: dict[str, Any], document: dict[str, Any]) -> str:
    """What is different: the reasons that decide now, and the seals that are not the same."""
    texts = [reason["text"] for reason in document["reasons"]]
    seals = {
        "engine": (stored.get("engine", {}).get("sha256"), document["engine"]["sha256"]),
        **{
            name: (stored.get(f"{name}_sha256"), document[f"{name}_sha256"])
            for name in ("table", "references", "calibration")
        },
    }
    others = [name for name, (then, now) in seals.items() if then != now]
    said = "; ".join(texts[:2]) or "nothing to object"
    return said + (f" [another {', '.join(others)}]" if others else "")
