"""Reading TOML strictly: every key is read with its bounds at the place of use, and a key nobody reads is an error.

A wrong value names file, line and key and says what would be right:

    line.toml:14: [camera] timeout: duration 500 has no unit (write it like '300 ms' or '2 s'; ...)
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from . import units
from .errors import ConfigError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Settings"]

_T = TypeVar("_T")
_MISSING: Any = object()
_MAX_FILE_BYTES = 4 * 1024 * 1024


def _line_of(text: str, section: Sequence[str | int], key: str | None) -> int:
    """Line number (from 1) of a key in a section, or of the section's header; 1 when it cannot be told."""
    header = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?\Z")
    wanted = ".".join(part for part in section if isinstance(part, str))
    nth = next((part for part in reversed(section) if isinstance(part, int)), 0)
    current, seen, fallback = "", -1 if wanted else 0, 1
    for number, line in enumerate(text.splitlines(), start=1):
        match = header.match(line)
        if match:
            current = ".".join(part.strip().strip("\"'") for part in match.group(1).split("."))
            if current == wanted:
                seen += 1
                fallback = number if seen == nth else fallback
            continue
        here = current == wanted and (seen == nth or not wanted)
        if here and key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*(=|\.)", line):
            return number
    return fallback


class Settings:
    """One table of a TOML file. Read every key you know, then call ``close``; whatever is left over is an error."""

    def __init__(
        self, path: Path, text: str, values: dict[str, Any], section: tuple[str | int, ...] = (), sha256: str = ""
    ) -> None:
        self.path, self.sha256, self.section = path, sha256, section
        self._text, self._values = text, values
        self._read: set[str] = set()

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Parse a file. Raises ConfigError for a missing, unreadable, oversized or malformed one."""
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise ConfigError(f"{path}: larger than 4 MiB, so it is no configuration")
            raw = path.read_bytes()
            text = raw.decode("utf-8")
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file", hint="give the path of a TOML file") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 at byte {error.start}", hint="save the file as UTF-8") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            values = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
        return cls(path, text, values, sha256=hashlib.sha256(raw).hexdigest())

    def _where(self, key: str | None) -> str:
        names = [str(part) for part in self.section if isinstance(part, str)]
        table = f" [{'.'.join(names)}]" if names else ""
        return f"{self.path}:{_line_of(self._text, self.section, key)}:{table}{f' {key}' if key else ''}"

    def error(self, key: str | None, problem: str, hint: str = "") -> ConfigError:
        """A ConfigError that names file, line, table and key."""
        return ConfigError(f"{self._where(key)}: {problem}", hint=hint)

    def _take(self, key: str, default: _T, convert: Callable[[Any], _T]) -> _T:
        self._read.add(key)
        if key not in self._values:
            if default is _MISSING:
                raise self.error(key, "is missing", hint=f"add {key} = ...")
            return default
        try:
            return convert(self._values[key])
        except ConfigError:
            raise
        except UsageError as error:
            raise self.error(key, error.message, error.hint) from None

    def keys(self) -> list[str]:
        """The keys that are present, longest first."""
        return sorted(self._values, key=len, reverse=True)

    def text(self, key: str, default: Any = _MISSING, *, choices: Sequence[str] = ()) -> Any:
        """A string, one of ``choices`` if given."""

        def convert(value: Any) -> str:
            if not isinstance(value, str) or not value:
                raise UsageError(f"must be text, not {value!r}", hint=f'{key} = "..."')
            if choices and value not in choices:
                near = difflib.get_close_matches(value, choices, 1)
                raise UsageError(
                    f"{value!r} is not known",
                    hint=(f"did you mean {near[0]!r}? " if near else "") + "one of: " + ", ".join(choices),
                )
            return value

        return self._take(key, default, convert)

    def texts(self, key: str, default: Any = _MISSING, *, choices: Sequence[str]) -> Any:
        """A list of strings, each one of ``choices``."""

        def convert(value: Any) -> tuple[str, ...]:
            if not isinstance(value, list) or not all(item in choices for item in value):
                raise UsageError(f"{value!r} is not a list of known words", hint="some of: " + ", ".join(choices))
            return tuple(value)

        return self._take(key, default, convert)

    def words(self, key: str, default: Any = _MISSING) -> Any:
        """A list of strings, none empty."""

        def convert(value: Any) -> tuple[str, ...]:
            if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
                raise UsageError("must be a list of texts", hint=f'{key} = ["..."]')
            return tuple(value)

        return self._take(key, default, convert)

    def integer(self, key: str, default: Any = _MISSING, *, low: int, high: int) -> Any:
        """A whole number from low to high."""

        def convert(value: Any) -> int:
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UsageError(f"must be a whole number from {low} to {high}, not {value!r}")
            return value

        return self._take(key, default, convert)

    def number(self, key: str, default: Any = _MISSING, *, low: float, high: float) -> Any:
        """A number without unit from low to high."""

        def convert(value: Any) -> float:
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UsageError(f"must be a number from {low:g} to {high:g}, not {value!r}")
            return float(value)

        return self._take(key, default, convert)

    def flag(self, key: str, default: Any = _MISSING) -> Any:
        """true or false."""

        def convert(value: Any) -> bool:
            if not isinstance(value, bool):
                raise UsageError(f"must be true or false, not {value!r}")
            return value

        return self._take(key, default, convert)

    def _bounded(self, read: Callable[[object], float], low: float, high: float, unit: str) -> Callable[[Any], float]:
        def convert(value: Any) -> float:
            quantity = read(value)
            if not low <= quantity <= high:
                raise UsageError(f"{value!r} is outside {low:g} {unit} to {high:g} {unit}")
            return quantity

        return convert

    def duration_s(self, key: str, default: Any = _MISSING, *, low: float = 0.0, high: float = 86400.0 * 3660) -> Any:
        """A duration such as "300 ms", in seconds."""
        return self._take(key, default, self._bounded(units.duration_s, low, high, "s"))

    def length_mm(self, key: str, default: Any = _MISSING, *, low: float = 0.0, high: float = 1e5) -> Any:
        """A length such as "12.7 mm" or "1/2 in", in millimetres."""
        return self._take(key, default, self._bounded(units.length_mm, low, high, "mm"))

    def lengths_mm(self, key: str, default: Any = _MISSING, *, low: float = 0.0, high: float = 1e5) -> Any:
        """A list of lengths, in millimetres."""
        one = self._bounded(units.length_mm, low, high, "mm")

        def convert(value: Any) -> tuple[float, ...]:
            if not isinstance(value, list) or not value:
                raise UsageError("must be a list of lengths", hint='["12.7 mm", "25.4 mm"]')
            return tuple(one(item) for item in value)

        return self._take(key, default, convert)

    def points_mm(self, key: str, *, least: int) -> Any:
        """A list of at least ``least`` points, each a pair of lengths, in millimetres."""
        one = self._bounded(units.length_mm, 0.0, 1e5, "mm")

        def convert(value: Any) -> tuple[tuple[float, float], ...]:
            pairs = isinstance(value, list) and all(isinstance(item, list) and len(item) == 2 for item in value)
            if not pairs or len(value) < least:
                raise UsageError(f"must be a list of at least {least} points", hint='[["0 mm", "0 mm"], ...]')
            return tuple((one(x), one(y)) for x, y in value)

        return self._take(key, _MISSING, convert)

    def size_bytes(self, key: str, default: Any = _MISSING) -> Any:
        """A size such as "5 GB", in bytes."""
        return self._take(key, default, units.size_bytes)

    def file(self, key: str, default: Any = _MISSING) -> Any:
        """A path; a relative one starts at the folder of the file it stands in."""

        def convert(value: Any) -> Path:
            if not isinstance(value, str) or not value:
                raise UsageError("must be a path", hint=f'{key} = "..."')
            try:
                return (self.path.parent / Path(value).expanduser()).resolve()
            except (ValueError, RuntimeError, OSError) as error:  # a NUL, nobody's home, a link to itself, too long
                raise UsageError(f"{value[:80]!r} is no path: {error}", hint=f'{key} = "..."') from None

        return self._take(key, default, convert)

    def credential(self, key: str, *words: str) -> str | None:
        """A path as ``file`` has it, or as it stands: one of ``words``, or ``credential:NAME``. None when absent."""
        text: str | None = self.text(key, None)
        if text is None or text in words or text.startswith("credential:"):
            return text
        return str(self.file(key))

    def table(self, key: str, *, required: bool = True) -> Settings | None:
        """The sub-table ``[key]``; None when absent and not required."""
        self._read.add(key)
        value = self._values.get(key, _MISSING)
        if value is _MISSING:
            if required:
                raise self.error(None, f"the table [{key}] is missing", hint=f"add [{key}]")
            return None
        if not isinstance(value, dict):
            raise self.error(key, "must be a table", hint=f"write [{key}]")
        return Settings(self.path, self._text, value, (*self.section, key), self.sha256)

    def tables(self, key: str) -> list[Settings]:
        """The array of tables ``[[key]]``, empty when absent."""
        self._read.add(key)
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "must be a list of tables", hint=f"write [[{key}]]")
        return [
            Settings(self.path, self._text, item, (*self.section, key, index), self.sha256)
            for index, item in enumerate(value)
        ]

    def close(self) -> None:
        """Raise ConfigError for the first key that nobody read, with the nearest known one."""
        for key in self._values:
            if key not in self._read:
                near = difflib.get_close_matches(key, sorted(self._read), 1)
                raise self.error(
                    key,
                    "is not a known key",
                    hint=(f"did you mean {near[0]!r}? " if near else "") + "known: " + ", ".join(sorted(self._read)),
                )
