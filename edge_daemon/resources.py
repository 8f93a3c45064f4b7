"""Where the data folders are: engines/, references/, standards/, calibration/, systemd/.

In a checkout they stand beside the package; a wheel carries them inside it as ``_shared/``. A name such as
``castings-xray`` is looked up there; anything with a slash, or that exists as given, is a path of the user's own.
"""

from __future__ import annotations

from pathlib import Path

from .errors import UsageError

__all__ = ["data_folder", "engine_folder", "reference_folder"]

_PACKAGE = Path(__file__).resolve().parent


def data_folder(kind: str) -> Path:
    """The folder ``engines``, ``references``, ``standards``, ``calibration`` or ``systemd`` of this installation."""
    packaged = _PACKAGE / "_shared" / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent / kind


def _find(kind: str, name: str, base: Path | None, what: str) -> Path:
    candidates = [Path(name)] if Path(name).is_absolute() else [(base or Path.cwd()) / name, data_folder(kind) / name]
    for candidate in candidates:
        if (candidate / "manifest.json").is_file():
            return candidate.resolve()
    raise UsageError(
        f"{what} {name!r} was not found",
        code="NOT_FOUND",
        hint="looked for manifest.json in " + " and ".join(str(candidate) for candidate in candidates),
    )


def engine_folder(name: str, base: Path | None = None) -> Path:
    """Folder of an engine bundle, by path (relative to ``base``) or by name. Raises UsageError (NOT_FOUND)."""
    return _find("engines", name, base, "engine bundle")


def reference_folder(name: str, base: Path | None = None) -> Path:
    """Folder of a reference set, e.g. ``demo/aluminum/6.35mm/gas_porosity_round``. Raises UsageError (NOT_FOUND)."""
    return _find("references", name, base, "reference set")
