"""Reads one JSON object key by key, with bounds at the place of use; a key nobody reads is an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

__all__ = ["Reader"]


class Reader:
    """Typed look-ups in ``document``; every refusal is a ConfigError that names file, key and what is right."""

    def __init__(self, document: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.document = document
        self._where = where
        self._prefix = prefix
        self._read: set[str] = set()

    def wrong(self, key: str, value: object, wanted: str) -> ConfigError:
        """The error for a value of ``key`` that is not what is ``wanted``; the caller raises it."""
        return ConfigError(f"{self._where}: key '{self._prefix}{key}' is {value!r}", hint=f"give {wanted}")

    def any(self, key: str) -> Any:
        """The value as it is; it must be there and say something (not null, not empty)."""
        if key not in self.document:
            raise ConfigError(f"{self._where}: key '{self._prefix}{key}' is missing", hint="add it")
        self._read.add(key)
        value = self.document[key]
        if value in (None, "", [], {}):
            raise self.wrong(key, value, "a value")
        return value

    def text(self, key: str) -> str:
        value = self.any(key)
        if not isinstance(value, str):
            raise self.wrong(key, value, "a text")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number in [low, high]."""
        return self._number(key, self.any(key), low, high)

    def whole(self, key: str, low: int, high: int) -> int:
        """A whole number in [low, high], written without a decimal point."""
        value = self.any(key)
        if not isinstance(value, int):
            raise self.wrong(key, value, f"a whole number from {low} to {high}")
        return int(self._number(key, value, low, high))

    def numbers(self, key: str, low: float, high: float) -> list[float]:
        """A list, possibly empty, of finite numbers in [low, high]."""
        return [self._number(key, value, low, high) for value in self._list(key)]

    def texts(self, key: str) -> list[str]:
        """A list, possibly empty, of texts."""
        values = self._list(key)
        for value in values:
            if not isinstance(value, str):
                raise self.wrong(key, value, "a list of texts")
        return values

    def sub(self, key: str) -> Reader:
        """A reader for the object under ``key``; call its ``done`` too."""
        value = self.document.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object {...}")
        self._read.add(key)
        return Reader(value, self._where, f"{self._prefix}{key}.")

    def done(self) -> None:
        """Refuse keys that nothing read: they would look as if they did something."""
        for key in sorted(set(self.document) - self._read):
            raise ConfigError(
                f"{self._where}: unknown key '{self._prefix}{key}'", hint=f"known: {', '.join(sorted(self._read))}"
            )

    def _list(self, key: str) -> list[Any]:
        value = self.document.get(key)
        if not isinstance(value, list):
            raise self.wrong(key, value, "a list")
        self._read.add(key)
        return value

    def _number(self, key: str, value: object, low: float, high: float) -> float:
        # bool is an int in Python; NaN fails the comparison.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.wrong(key, value, f"a number from {low:g} to {high:g}")
        number = float(value)
        if not math.isfinite(number):
            raise self.wrong(key, value, "a finite number")
        return number
