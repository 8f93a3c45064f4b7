"""The audit chain: each row carries the SHA-256 of the row before, so that no row can change, go or come unseen.

The chain runs through two tables, ``records`` and ``audit``, in the order of ``number``. The link of a row is the
SHA-256 of canonical JSON (keys sorted, no blanks, UTF-8, numbers as Python writes them) of everything the row says,
its number and the link of the row before. A record's document enters by the SHA-256 of its own canonical JSON.

Retention takes records away and leaves a row ``removed`` in the chain: for each unbroken stretch its first and last
number, how many, and the links at both ends, so that the walk goes on over the gap and says who removed what and why.

Not covered: somebody who can write the file can also compute a whole new chain. Against that, note the end of the
chain elsewhere (it is logged with every session, and ``memory verify`` prints it) and hand it to
``memory verify --expect``. Feature vectors and contrasts are search aids and no evidence; they are not in the chain.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from ..errors import StorageError

__all__ = ["canonical_json", "document_sha256", "link", "packed", "record_fields", "unpacked"]

_LARGEST_DOCUMENT = 256 << 20


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: sorted keys, no blanks. Raises ValueError or TypeError for what is not JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)


def link(kind: str, number: int, previous: bytes, fields: Mapping[str, Any]) -> bytes:
    """SHA-256 (32 bytes) of one row of the chain."""
    text = canonical_json({"kind": kind, "number": number, "previous_sha256": previous.hex(), **fields})
    return hashlib.sha256(text.encode()).digest()


def record_fields(
    *, record_id: str, part_id: int | None, station: str, recipe: str, session: int | None, trigger_utc: str,
    outcome: str, result: str, advisory: int, reasons: str, types: str, indications: int, pictures: str | None,
    created_utc: str, document_sha256: str,
) -> dict[str, Any]:  # fmt: skip
    """What a record's link is computed from, as its columns hold it; the document by its ``document_sha256``."""
    return {
        "record_id": record_id, "part_id": part_id, "station": station, "recipe": recipe, "session": session,
        "trigger_utc": trigger_utc, "outcome": outcome, "result": result, "advisory": advisory, "reasons": reasons,
        "types": types, "indications": indications, "pictures": pictures, "created_utc": created_utc,
        "document_sha256": document_sha256,
    }  # fmt: skip


def document_sha256(document: str) -> str:
    """SHA-256 (hex) of a document's canonical JSON."""
    return hashlib.sha256(document.encode()).hexdigest()


def packed(document: str) -> bytes:
    """A document as it is stored. Level 1: a seventh of the size in a tenth of a millisecond."""
    return zlib.compress(document.encode(), 1)


def unpacked(stored: bytes) -> str:
    """The text of a stored document. Raises StorageError (CORRUPT) where it is none."""
    try:
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(stored, _LARGEST_DOCUMENT).decode()
        whole = unpacking.eof and not unpacking.unused_data
    except (zlib.error, UnicodeDecodeError):
        whole = False
    if not whole:
        raise StorageError(
            "a stored document cannot be read",
            code="CORRUPT",
            hint="'edge-daemon memory verify' names it; restore a copy of the bank",
        )
    return text
