"""Where a report's pictures come from: a folder of ``inspect --out``, or what the line kept beside a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ImageError, UsageError
from ...images import load_labels, load_picture

__all__ = ["StoredPictures", "record_of_folder", "stored_pictures"]

#: Pictures that ``evidence.py`` draws.
DRAWN = ("comparison.png", "tiles.png", "curve.png")


@dataclass(frozen=True, slots=True)
class StoredPictures:
    """What is left of a part's pictures; None or missing where it was not kept."""

    pixels: NDArray[Any] | None
    labels: NDArray[np.uint8] | None
    drawn: Mapping[str, NDArray[np.uint8]]


def record_of_folder(folder: Path) -> dict[str, Any]:
    """The record in a folder of ``inspect --out``. Raises UsageError where there is none, or none that can be read."""
    path = folder / "record.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no record.json", hint="name a folder written by inspect --out") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="inspect the picture again") from None
    if not isinstance(document, dict) or not isinstance(document.get("record_id"), str):
        raise UsageError(f"{path} is no record", hint="name a folder written by inspect --out")
    return document


def stored_pictures(folder: Path | None, document: Mapping[str, Any]) -> StoredPictures:
    """The pictures beside a record. The frame is ``frame.png`` in the folder, else the file that was inspected, taken
    only while it still has the hash that the record names: another picture is never shown for this part's."""
    if folder is None:
        return StoredPictures(None, None, {})
    pixels = _frame(folder / "frame.png", None)
    if pixels is None and document.get("image") and document.get("image_sha256"):
        pixels = _frame(Path(str(document["image"])), str(document["image_sha256"]))
    labels = None
    if (folder / "labels.png").is_file():
        labels = load_labels(folder / "labels.png")
    drawn = {name: load_picture(folder / name).pixels for name in DRAWN if (folder / name).is_file()}
    return StoredPictures(pixels, labels, drawn)


def _frame(path: Path, sha256: str | None) -> NDArray[Any] | None:
    if not path.is_file():
        return None
    try:
        picture = load_picture(path)
    except ImageError:
        if sha256 is None:
            raise
        return None  # the file that was inspected has been replaced by something else
    return picture.pixels if sha256 in (None, picture.sha256) else None
