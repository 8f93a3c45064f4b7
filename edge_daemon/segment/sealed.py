"""Sealed JSON: a document that notices when a single byte of it changes.

The document carries ``seal``, the SHA-256 of its own canonical form without that key, and must be stored in canonical
form. This finds accidents (a flipped bit, an edit by hand, half a copy). It is no signature: whoever can write the
file can seal it again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ConfigError, IntegrityError, StorageError

__all__ = ["open_document", "parse_json", "seal_document", "sha256_hex", "write_atomically"]


def sha256_hex(data: bytes) -> str:
    """SHA-256 as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice")
    return document


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def parse_json(data: bytes) -> Any:
    """Strict JSON: UTF-8, no duplicate keys, no NaN or Infinity. Raises ValueError."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _canonical(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def seal_document(document: Mapping[str, Any], where: str) -> bytes:
    """The canonical, sealed bytes of ``document``. Raises ConfigError when it is not plain JSON."""
    if "seal" in document:
        raise ConfigError(f"{where}: key 'seal' is written by sealing", hint="leave it out")
    try:
        body = _canonical(document)
        return _canonical({**parse_json(body), "seal": sha256_hex(body)})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: not plain JSON: {error}", hint="use strings, finite numbers, lists, objects"
        ) from None


def open_document(data: bytes, where: str) -> dict[str, Any]:
    """The document behind ``seal_document``'s bytes, without ``seal``. Raises IntegrityError naming ``where``."""
    hint = "restore the file from its original, or seal again after checking what changed"
    try:
        document = parse_json(data)
    except ValueError as error:
        raise IntegrityError(f"{where} is not the JSON it was sealed as: {error}", hint=hint) from None
    if not isinstance(document, dict) or "seal" not in document:
        raise IntegrityError(f"{where} carries no seal", hint=hint)
    body = {key: value for key, value in document.items() if key != "seal"}
    if document["seal"] != sha256_hex(_canonical(body)) or data != _canonical(document):
        raise IntegrityError(f"{where} was changed after it was sealed", hint=hint)
    return body


def write_atomically(path: Path, data: bytes) -> None:
    """Write and sync ``path`` so that a reader, or a restart, sees all of the old or all of the new content.

    Raises StorageError.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):  # tidying up only; the error that counts is raised below
            part.unlink()
        raise StorageError(
            f"{path} cannot be written: {error.strerror}", hint="free space or grant write access"
        ) from None
