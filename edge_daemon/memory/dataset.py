"""What people said about records, as a data set that training reads: pictures, exact masks, which part is which.

    images/<record>.png   the stored frame, byte for byte
    masks/<record>.png    0 sound, k the k-th type of labels.json, 254 cannot be said, 255 a defect of unknown type
    labels.json           {"types": [...]}: always every type identifier in the same order, so that sets can be joined
    parts.csv             picture,part: pictures of one part on one day are not independent
    origin.json           which records and words of feedback, and the end of the audit chain

A record is taken where somebody vouches for the whole picture: by a corrected label image; by a word on the part as a
whole (``confirm``: as it is; ``false_call``: nothing is there); or by a word on every single indication. Words on
single indications are applied to the stored labels: a wrong type is renamed, a false call erased. Left out, and said
why: a defect that was missed and not drawn, a word that came after the corrected label image, a picture that is not
kept, an indication that cannot be found again in the labels.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeError, UsageError
from ..images import load_labels, load_picture, write_bytes_atomic, write_png_atomic
from ..records import TYPE_IDS, UNKNOWN_LABEL
from .backend import Backend
from .finding import Wanted, stored_record
from .people import feedback_rows, mask_of
from .rows import Feedback, StoredRecord

__all__ = ["DataSet", "export_data_set"]

_VALUE_OF = {name: value for value, name in enumerate(TYPE_IDS, start=1)}
_IGNORED = 254
_ALIKE_BOX = 0.3  # least overlap of a box with its region in the labels, which may have been resized or rectified


@dataclass(frozen=True, slots=True)
class DataSet:
    """What was written. corrected: with a label image somebody drew; edited: stored labels with single words applied;
    confirmed: as stored. left_out: (record id, why)."""

    folder: Path
    pictures: int
    corrected: int
    edited: int
    confirmed: int
    left_out: tuple[tuple[str, str], ...]


class _LeftOut(Exception):
    """Why a record is no part of the data set."""


def export_data_set(db: Backend, folder: Path, wanted: Wanted) -> DataSet:
    """Write the data set into ``folder``, which must not exist or be empty: all of it or nothing.

    wanted: since and until of the feedback, station and recipe of the record. Raises UsageError where nothing can be
    exported, or the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already", hint="name a new folder")
    words = _words(db, wanted)
    try:
        work = Path(tempfile.mkdtemp(dir=folder.resolve().parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}", code="EXPORT") from None
    try:
        made = _write(db, work, words, wanted)
        if not made.pictures:
            reasons = "; ".join(f"{name}: {why}" for name, why in made.left_out[:3])
            raise UsageError(
                "no record can be exported" + (f" ({reasons})" if reasons else ""),
                code="EMPTY",
                hint="give feedback with a corrected label image, or confirm parts whose pictures are kept",
            )
        if folder.exists():
            folder.rmdir()
        work.chmod(0o755)
        work.rename(folder)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}", code="EXPORT") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return DataSet(folder, made.pictures, made.corrected, made.edited, made.confirmed, made.left_out)


def _words(db: Backend, wanted: Wanted) -> dict[str, list[Feedback]]:
    """Current words by record, the oldest first."""
    low, high = wanted.span()
    found: dict[str, list[Feedback]] = {}
    for word in reversed(feedback_rows(db, "current = 1 AND at_utc >= ? AND at_utc <= ?", (low, high), limit=2**31)):
        found.setdefault(word.record_id, []).append(word)
    return found


def _write(db: Backend, work: Path, words: Mapping[str, list[Feedback]], wanted: Wanted) -> DataSet:
    for name in ("images", "masks"):
        (work / name).mkdir()
    counts = {"corrected": 0, "edited": 0, "confirmed": 0}
    left_out, parts, origin = [], ["picture,part"], []
    for record_id, said in words.items():
        record = stored_record(db, record_id)
        if record is None or (wanted.station or record.station) != record.station:
            continue
        if (wanted.recipe or record.recipe) != record.recipe:
            continue
        try:
            frame, mask, how = _truth(db, record, said)
        except _LeftOut as why:
            left_out.append((record_id, str(why)))
            continue
        except EdgeError as error:
            left_out.append((record_id, error.message))
            continue
        write_bytes_atomic(work / "images" / f"{record_id}.png", frame)
        write_png_atomic(work / "masks" / f"{record_id}.png", mask)
        counts[how] += 1
        parts.append(f"images/{record_id}.png,{_part(record)}")
        numbers, who = [word.number for word in said], sorted({word.who for word in said})
        origin.append(
            {"record_id": record_id, "sha256": record.sha256, "how": how, "feedback": numbers, "who": who}
        )  # fmt: skip
    number, sha256 = db.query("SELECT number, sha256 FROM chain")[0]
    head = f"{number}:{bytes(sha256).hex()}"
    for name, text in (
        ("labels.json", json.dumps({"types": list(TYPE_IDS)})),
        ("parts.csv", "\n".join(parts)),
        ("origin.json", json.dumps({"chain": head, "records": origin, "left_out": left_out}, indent=1)),
    ):
        write_bytes_atomic(work / name, (text + "\n").encode())
    return DataSet(work, sum(counts.values()), **counts, left_out=tuple(left_out))


def _part(record: StoredRecord) -> str:
    """Which part a picture shows: the PLC's number on one day. Too coarse rather than too fine: pictures that are taken
    for independent and are not would flatter every figure."""
    if record.part_id is None:
        return record.record_id
    return f"{record.station}/{record.trigger_utc[:10]}/{record.part_id}".replace(",", "_").replace("\n", "_")


def _truth(db: Backend, record: StoredRecord, said: list[Feedback]) -> tuple[bytes, NDArray[np.uint8], str]:
    """(bytes of the frame, mask in the data set's values, where the mask comes from)."""
    if record.pictures is None:
        raise _LeftOut("its picture is not kept")
    folder = Path(record.pictures)
    frame = load_picture(folder / "frame.png")
    drawn = [word for word in said if word.mask_sha256 is not None]
    if drawn:
        last = drawn[-1]
        if any(word.number > last.number for word in said):
            raise _LeftOut("something was said after the corrected label image")
        mask = _renumbered(mask_of(db, last.mask_sha256 or ""), dict(enumerate(last.mask_types, start=1)))
        how = "corrected"
    else:
        mask, how = _edited(record, folder, said)
    if mask.shape != frame.pixels.shape[:2]:
        raise _LeftOut("labels and picture differ in size")
    return (folder / "frame.png").read_bytes(), mask, how


def _edited(record: StoredRecord, folder: Path, said: list[Feedback]) -> tuple[NDArray[np.uint8], str]:
    """The stored labels, with what was said about single indications."""
    defects = record.document.get("defects") or []
    whole = next((word for word in said if word.position is None), None)
    single = {word.position: word for word in said if word.position is not None}
    if whole is not None and whole.verdict == "missed":
        raise _LeftOut("a defect was missed, and nobody has drawn it")
    if whole is None and len(single) < len(defects):
        raise _LeftOut("nobody has said anything about the part as a whole, or about each of its indications")
    labels = load_labels(folder / "labels.png")
    if whole is not None and whole.verdict == "false_call":
        return np.zeros_like(labels), "edited"
    named = {int(one["label"]): str(one["type"]) for one in defects}
    mask = _renumbered(labels, named)
    edited = False
    for position, word in single.items():
        if word.verdict in ("false_call", "wrong_type"):
            region = _region(labels, defects[position])
            mask[region] = 0 if word.verdict == "false_call" else _VALUE_OF[word.correct_type or ""]
            edited = True
    return mask, "edited" if edited else "confirmed"


def _renumbered(labels: NDArray[np.uint8], named: Mapping[int, str]) -> NDArray[np.uint8]:
    """Labels of one engine, or of one person, in the values of the data set."""
    look_up = np.zeros(256, np.uint8)
    look_up[UNKNOWN_LABEL], look_up[_IGNORED] = UNKNOWN_LABEL, _IGNORED
    for label, name in named.items():
        if label != UNKNOWN_LABEL:
            look_up[label] = _VALUE_OF.get(name, UNKNOWN_LABEL)
    found = set(np.unique(labels).tolist()) - {0, _IGNORED, UNKNOWN_LABEL} - set(named)
    if found:
        raise _LeftOut(f"its labels hold the value {min(found)}, which the record does not explain")
    return look_up[labels]


def _region(labels: NDArray[np.uint8], defect: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The pixels of one indication: the connected region of its label whose box is most like its own."""
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(
        (labels == defect["label"]).astype(np.uint8), connectivity=8
    )
    x, y, w, h = defect["bbox_px"]
    best, best_share = 0, _ALIKE_BOX
    for number in range(1, count):
        left, top, width, height, _ = (int(one) for one in stats[number])
        across = min(x + w, left + width) - max(x, left)
        down = min(y + h, top + height) - max(y, top)
        if across > 0 and down > 0:
            share = across * down / (w * h + width * height - across * down)
            if share > best_share:
                best, best_share = number, share
    if not best:
        raise _LeftOut(f"the indication at {list(defect['bbox_px'])} cannot be found again in its labels")
    return np.asarray(numbered == best)
