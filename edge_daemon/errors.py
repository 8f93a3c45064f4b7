"""Every error this product raises on purpose, in one tree.

    EdgeError                     exit  what it says
    |-- UsageError                  2   the command line, a config, a recipe or an input picture is wrong
    |   |-- ConfigError             2   file, line, key, and what would be right
    |   |-- ImageError              2   this picture cannot be inspected, and why
    |   `-- RuleError               2   a rule, window or scale does not make sense
    |-- UnavailableError            3   a component cannot be reached
    |   |-- CameraError             3   no camera, camera lost, frame broken
    |   |   `-- GrabTimeout         3   no fresh frame within the time given
    |   |-- EngineError             3   the engine cannot run here, or answered nonsense
    |   |-- LineError               3   serial port or line process
    |   |-- OutputError             3   broker
    |   |-- StorageError            3   disk full, read-only, database locked
    |   `-- MissingExtra            3   an optional package is not installed; names the extra
    `-- IntegrityError              4   a seal, hash, licence or expiry does not hold

Expected trouble with a *part* is no exception: it is a ``Verdict`` with outcome NOT_EVALUABLE and its reasons.
An exception means that a promise was broken; it carries a ``code`` for machines and a ``hint`` that says how to put
it right. A traceback reaches a user only with ``--debug``.
"""

from __future__ import annotations

__all__ = [
    "CameraError",
    "ConfigError",
    "EdgeError",
    "EngineError",
    "GrabTimeout",
    "ImageError",
    "IntegrityError",
    "LineError",
    "MissingExtra",
    "OutputError",
    "RuleError",
    "StorageError",
    "UnavailableError",
    "UsageError",
]


class EdgeError(Exception):
    """Root of the tree.

    Parameters
    ----------
    message : one sentence: what is wrong, and where.
    code : stable identifier in CAPITALS for machines; defaults to the class's own.
    hint : one sentence: how to put it right.
    """

    exit_code = 70
    default_code = "BUG"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(EdgeError):
    """The caller asked for something that cannot be done as asked."""

    exit_code = 2
    default_code = "USAGE"


class ConfigError(UsageError):
    """A configuration or recipe file is wrong; the message names file, line and key."""

    default_code = "CONFIG"


class ImageError(UsageError):
    """A picture cannot be inspected; the message names the file and the property that stands in the way."""

    default_code = "IMAGE"


class RuleError(UsageError):
    """A rule, a window side or a scale does not make sense."""

    default_code = "RULE"


class UnavailableError(EdgeError):
    """A component that should be there is not."""

    exit_code = 3
    default_code = "UNAVAILABLE"


class CameraError(UnavailableError):
    """No camera, a lost camera, or a broken frame."""

    default_code = "CAMERA"


class GrabTimeout(CameraError):
    """No frame newer than asked for arrived in time. The camera may still be healthy."""

    default_code = "GRAB_TIMEOUT"


class EngineError(UnavailableError):
    """The engine cannot run on this machine, or its answer is not usable (NaN, wrong shape)."""

    default_code = "ENGINE"


class LineError(UnavailableError):
    """The serial port cannot be used, or the line process does not answer."""

    default_code = "LINE"


class OutputError(UnavailableError):
    """The broker cannot be reached or refuses."""

    default_code = "OUTPUT"


class StorageError(UnavailableError):
    """The memory bank cannot be written or read."""

    default_code = "STORAGE"


class MissingExtra(UnavailableError):
    """An optional package is needed; the hint names the extra that brings it."""

    default_code = "MISSING_EXTRA"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs a package that is not installed",
            hint=f"pip install 'edge-daemon[{extra}]'",
        )
        self.what = what
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.what, self.extra)


class IntegrityError(EdgeError):
    """Something that decides a verdict is not what it was sealed as."""

    exit_code = 4
    default_code = "INTEGRITY"
