"""Quantities with units, as people write them in TOML and on the command line.

A bare number is refused: ``thickness = 6.35`` could be millimetres or a typing error in inches, and the table row it
leads to decides over a part. Inch values keep their original text beside the millimetres.

>>> length_mm("1/4in")
6.35
>>> duration_s("250 ms")
0.25
>>> rate_per_min("60/min")
60.0
"""

from __future__ import annotations

import re
from fractions import Fraction

from .errors import UsageError

__all__ = ["duration_s", "length_mm", "rate_per_min", "size_bytes"]

_LONGEST = 100  # no quantity a person writes is longer, and no float overflows below it
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+| */ *[0-9]+)?|\.[0-9]+)\s*([^\s0-9.][^\s]*)?\s*\Z")

# One inch is exactly 25.4 mm (international yard and pound agreement, 1959).
_LENGTH_MM = {
    "mm": Fraction(1),
    "um": Fraction(1, 1000),
    "µm": Fraction(1, 1000),
    "cm": Fraction(10),
    "m": Fraction(1000),
    "in": Fraction(254, 10),
    '"': Fraction(254, 10),
}
_DURATION_S = {"us": Fraction(1, 10**6), "ms": Fraction(1, 1000), "s": Fraction(1), "min": Fraction(60),
               "h": Fraction(3600), "d": Fraction(86400)}  # fmt: skip
_RATE_PER_MIN = {"/min": Fraction(1), "ppm": Fraction(1), "/s": Fraction(60), "/h": Fraction(1, 60)}
_SIZE_BYTES = {"B": Fraction(1), "kB": Fraction(1000), "MB": Fraction(10**6), "GB": Fraction(10**9),
               "KiB": Fraction(1024), "MiB": Fraction(2**20), "GiB": Fraction(2**30)}  # fmt: skip


def _parse(text: object, units: dict[str, Fraction], kind: str, example: str) -> Fraction:
    hint = f"write it like {example}; units: {', '.join(units)}"
    if not isinstance(text, str):
        raise UsageError(f"{kind} {text!r} has no unit", code="UNIT", hint=hint)
    if len(text) > _LONGEST:
        raise UsageError(f"{text[:20]!r}... is too long for a {kind}", code="UNIT", hint=hint)
    match = _QUANTITY.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not a {kind}", code="UNIT", hint=hint)
    number, unit = match.groups()
    if unit is None:
        raise UsageError(f"{kind} {text!r} has no unit", code="UNIT", hint=hint)
    if unit not in units:
        raise UsageError(f"{unit!r} is not a unit of {kind}", code="UNIT", hint=hint)
    try:
        value = Fraction(number.replace(" ", ""))
    except ZeroDivisionError:
        raise UsageError(f"{text!r} divides by zero", code="UNIT", hint=hint) from None
    return value * units[unit]


def length_mm(text: object) -> float:
    """Length in millimetres from text such as ``6.35mm``, ``1/4in`` or ``0.25 in``.

    Raises UsageError (code UNIT) for a bare number, an unknown unit or anything that is not a plain quantity.
    """
    return float(_parse(text, _LENGTH_MM, "length", "'6.35mm', '1/4in' or '0.25 in'"))


def duration_s(text: object) -> float:
    """Duration in seconds from text such as ``300 ms`` or ``2 s``. Raises UsageError (code UNIT)."""
    return float(_parse(text, _DURATION_S, "duration", "'300 ms' or '2 s'"))


def rate_per_min(text: object) -> float:
    """Rate in parts per minute from text such as ``60/min`` or ``5 /s``. Raises UsageError (code UNIT)."""
    return float(_parse(text, _RATE_PER_MIN, "rate", "'60/min' or '1 /s'"))


def size_bytes(text: object) -> int:
    """Size in bytes from text such as ``500 MB`` or ``2 GiB``. Raises UsageError (code UNIT)."""
    return int(_parse(text, _SIZE_BYTES, "size", "'500 MB' or '2 GiB'"))
