"""Every sentence that a person reads, by key and language: English first, Hebrew second.

A catalogue is one JSON file of ``key: text`` under locale/. Texts hold ``{name}`` places. Words of an engine, a table
or a recipe (row texts, codes, file names) are never translated: they are quoted.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from ..errors import UsageError

__all__ = ["LANGUAGES", "Words"]

#: Language code -> its own name.
LANGUAGES = {"en": "English", "he": "עברית"}
_RIGHT_TO_LEFT = frozenset({"he"})
_HEBREW = re.compile("[\u0590-\u05ff]")


@cache
def _catalogue(language: str) -> dict[str, str]:
    text = (files("edge_daemon.station") / "locale" / f"{language}.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    return found


def _isolated(value: Any) -> Any:
    """Between U+2066 and U+2069: read from left to right whatever stands around it."""
    text = str(value)
    return f"\u2066{text}\u2069" if text and not _HEBREW.search(text) else value


class Words:
    """The sentences of one language: ``words("report.title")``. Raises UsageError for a language that is not there."""

    def __init__(self, language: str = "en") -> None:
        if language not in LANGUAGES:
            raise UsageError(f"there is no language {language!r}", hint="one of: " + ", ".join(LANGUAGES))
        self.language = language
        self._texts = _catalogue(language)

    @property
    def direction(self) -> str:
        """``ltr`` or ``rtl``, as HTML's ``dir``."""
        return "rtl" if self.language in _RIGHT_TO_LEFT else "ltr"

    def __call__(self, key: str, **values: Any) -> str:
        """The sentence, its places filled. Raises KeyError for a key that no catalogue has: a bug, found by tests.

        In a language that is read from right to left, a value in Latin letters or digits keeps its own order.
        """
        if self.direction == "rtl":
            values = {name: _isolated(value) for name, value in values.items()}
        return self._texts[key].format(**values) if values else self._texts[key]

    def known(self, key: str) -> bool:
        """Whether there is such a sentence."""
        return key in self._texts

    @staticmethod
    def of(text: str) -> str:
        """The language that somebody's words are in, by their letters."""
        return "he" if _HEBREW.search(text) else "en"

    def type_name(self, identifier: str) -> str:
        """A defect type by its name for people; a type that has none by its identifier."""
        return self._texts.get(f"type.{identifier}", identifier.replace("_", " "))

    def reason(self, code: str) -> str:
        """What a reason code means, in a few words; a code that has none by itself."""
        return self._texts.get(f"reason.{code}", code)
