"""Quantities with units: every unit, no bare number, and nothing but UsageError for anything else."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_daemon.errors import UsageError
from edge_daemon.units import duration_s, length_mm, rate_per_min, size_bytes

PARSERS: dict[str, Callable[[object], float]] = {
    "length": length_mm,
    "duration": duration_s,
    "rate": rate_per_min,
    "size": size_bytes,
}

UNITS: list[tuple[str, str, Fraction]] = [
    ("length", "mm", Fraction(1)),
    ("length", "um", Fraction(1, 1000)),
    ("length", "µm", Fraction(1, 1000)),
    ("length", "cm", Fraction(10)),
    ("length", "m", Fraction(1000)),
    ("length", "in", Fraction(127, 5)),
    ("length", '"', Fraction(127, 5)),
    ("duration", "us", Fraction(1, 1_000_000)),
    ("duration", "ms", Fraction(1, 1000)),
    ("duration", "s", Fraction(1)),
    ("duration", "min", Fraction(60)),
    ("duration", "h", Fraction(3600)),
    ("duration", "d", Fraction(86_400)),
    ("rate", "/min", Fraction(1)),
    ("rate", "ppm", Fraction(1)),
    ("rate", "/s", Fraction(60)),
    ("rate", "/h", Fraction(1, 60)),
    ("size", "B", Fraction(1)),
    ("size", "kB", Fraction(1000)),
    ("size", "MB", Fraction(1_000_000)),
    ("size", "GB", Fraction(1_000_000_000)),
    ("size", "KiB", Fraction(1024)),
    ("size", "MiB", Fraction(1024**2)),
    ("size", "GiB", Fraction(1024**3)),
]
_KINDS = sorted(PARSERS)


@pytest.mark.parametrize(("kind", "unit", "factor"), UNITS, ids=[f"{kind}-{unit}" for kind, unit, _ in UNITS])
@pytest.mark.parametrize("number", ["1", "0", "12", "6.35", ".5", "0.25", "3/4", "1 / 8", "007"])
@pytest.mark.parametrize("form", ["{number}{unit}", "{number} {unit}", "  {number}  {unit} "])
def test_every_unit_is_exact(kind: str, unit: str, factor: Fraction, number: str, form: str) -> None:
    exact = Fraction(number.replace(" ", "")) * factor
    expected = int(exact) if kind == "size" else float(exact)
    assert PARSERS[kind](form.format(number=number, unit=unit)) == expected


def test_hints_name_every_unit() -> None:
    for kind, parse in PARSERS.items():
        with pytest.raises(UsageError) as caught:
            parse("1 parsec")
        assert caught.value.code == "UNIT"
        assert kind in caught.value.message
        for other, unit, _ in UNITS:
            if other == kind:
                assert unit in caught.value.hint


def test_inches_are_exact_in_millimetres() -> None:
    assert length_mm("1/4in") == length_mm("0.25 in") == length_mm('.25"') == length_mm("6.35mm") == 6.35
    assert length_mm("1in") == 25.4
    assert length_mm("3/4 in") == 19.05
    assert length_mm("0.1mm") == 0.1


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("bare", ["6.35", "1/4", " 12 ", "0", 6.35, 6, 0, True, None, b"6mm", ["6mm"], Fraction(1, 4)])
def test_a_bare_number_is_refused(kind: str, bare: object) -> None:
    with pytest.raises(UsageError) as caught:
        PARSERS[kind](bare)
    assert caught.value.code == "UNIT"
    assert caught.value.exit_code == 2
    assert "write it like" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "mm", "-1mm", "+1mm", "1e3mm", "1,5mm", "1.mm", "..5mm", "1 1/4in", "1/0in", "0/0in", "1.5/4in",
        "1/4.5in", "1//4in", "1\t/\t4in x", "1 mm mm", "6.35 MM", "6.35 Mm", "nan mm", "inf mm", "0x10mm", "1_000mm",
        "１mm", "1mm\x00", "6.35mm;", "6.35 mm\n6.35 mm",
    ],
)  # fmt: skip
def test_what_is_no_plain_length_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        length_mm(text)
    assert caught.value.code == "UNIT"


@pytest.mark.parametrize(
    "text", ["1\t/\t4in", "1\u00a0/\u00a04in", "1 \n/ 4in"], ids=["tab", "no-break-space", "newline"]
)
def test_white_space_around_a_slash_is_read_or_refused(text: str) -> None:
    try:
        assert length_mm(text) == 6.35
    except UsageError as error:
        assert error.code == "UNIT"  # noqa: PT017


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "1/" + "9" * 5000, "0." + "9" * 5000, "9" * 5000 + "/3"])
def test_a_number_no_machine_can_hold_is_refused_or_read(kind: str, number: str) -> None:
    unit = next(unit for other, unit, _ in UNITS if other == kind)
    try:
        value = PARSERS[kind](number + unit)
    except UsageError as error:
        assert error.code == "UNIT"  # noqa: PT017
    else:
        assert 0 <= value < float("inf") or kind == "size"


def test_bytes_are_counted_exactly() -> None:
    assert size_bytes("9007199254740993 B") == 9_007_199_254_740_993
    assert isinstance(size_bytes("500 MB"), int)


@pytest.mark.parametrize("kind", _KINDS)
@given(text=st.one_of(st.text(), st.text("0123456789./ \t-+eE", max_size=12), st.none(), st.floats(), st.integers()))
@settings(deadline=None, max_examples=50)
def test_garbage_gives_a_usage_error_and_nothing_else(kind: str, text: object) -> None:
    with pytest.raises(UsageError) as caught:
        PARSERS[kind](text)
    assert caught.value.code == "UNIT"


@pytest.mark.parametrize("kind", _KINDS)
@given(
    number=st.from_regex(r"[0-9./ \t\n]{1,12}", fullmatch=True),
    unit=st.sampled_from([unit for _, unit, _ in UNITS] + ["", "furlong"]),
)
@settings(deadline=None, max_examples=100)
def test_almost_a_quantity_is_a_quantity_or_a_usage_error(kind: str, number: str, unit: str) -> None:
    try:
        value = PARSERS[kind](number + unit)
    except UsageError as error:
        assert error.code == "UNIT"  # noqa: PT017
    else:
        assert value >= 0


@given(numerator=st.integers(0, 10**6), denominator=st.integers(1, 10**4))
@settings(deadline=None, max_examples=100)
def test_fractions_of_an_inch_are_rounded_once(numerator: int, denominator: int) -> None:
    assert length_mm(f"{numerator}/{denominator}in") == float(Fraction(numerator * 127, denominator * 5))
