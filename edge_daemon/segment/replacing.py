"""One sealed bundle in the place of another, and back.

The bundle before is kept beside as ``<name>.previous``. Every step is a rename inside one folder, so that under the
engine's name there is always a whole bundle or, between two renames, none; a start in that instant fails, and is
repeated.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import ConfigError, StorageError, UsageError
from .bundle import load

__all__ = ["put_in_place", "roll_back"]


def put_in_place(candidate: Path, base: Path) -> Path:
    """Copy ``candidate`` to where ``base`` is; returns where the base went.

    Raises ConfigError or IntegrityError for a bundle that does not hold, UsageError for one of another name,
    StorageError where the folder cannot be written; the base is then still in its place.
    """
    if load(candidate).name != load(base).name:
        raise UsageError(f"{candidate} is another engine than {base}", hint="install it in its own place")
    previous, fresh = _beside(base, "previous"), _beside(base, "new")
    try:
        _remove(fresh)
        shutil.copytree(candidate, fresh)
        load(fresh)
        _swap(base, previous, fresh)
    except OSError as error:
        raise StorageError(f"{base} cannot be replaced: {error.strerror}", hint="check space and rights") from None
    return previous


def roll_back(base: Path) -> Path:
    """Put ``<base>.previous`` back in its place; what was there goes to ``<base>.rejected``, which is returned.

    Raises ConfigError where there is none, IntegrityError where it does not hold, StorageError.
    """
    previous, rejected = _beside(base, "previous"), _beside(base, "rejected")
    if not previous.is_dir():
        raise ConfigError(f"{previous} is not there", hint="nothing was replaced here, or it was rolled back already")
    load(previous)
    try:
        _swap(base, rejected, previous)
    except OSError as error:
        raise StorageError(f"{base} cannot be rolled back: {error.strerror}", hint="check rights") from None
    return rejected


def _swap(base: Path, aside: Path, incoming: Path) -> None:
    """``incoming`` into the place of ``base``, which goes to ``aside``; where that fails it comes back."""
    _remove(aside)
    os.rename(base, aside)
    try:
        os.rename(incoming, base)
    except OSError:
        os.rename(aside, base)
        raise


def _beside(base: Path, what: str) -> Path:
    return base.with_name(f"{base.name}.{what}")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
