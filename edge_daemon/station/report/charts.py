"""Charts of a lot's report, as the few shapes of SVG that screen and paper both draw. Told apart without colour too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Bar", "Stack", "Whisker", "bars", "stacks", "whiskers"]

_INK, _SOFT, _RULE, _BAR, _LIMIT = "#14181f", "#55606e", "#d5dae0", "#2f5d8a", "#a81c1c"
#: Light to dark, so that a grey print keeps them apart: PASS, INCONCLUSIVE, FAIL, NOT_EVALUABLE.
_STACK = ("#cfe3d6", "#e3ab46", "#a81c1c", "#44505f")
_WIDTH = 720.0


@dataclass(frozen=True, slots=True)
class Bar:
    """label, value (a count), share: cumulated, 0 to 1."""

    label: str
    value: int
    share: float


@dataclass(frozen=True, slots=True)
class Stack:
    """One period: counts in the order of the legend."""

    label: str
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Whisker:
    """One period: 5 %, 50 % and 95 % quantile and largest of the ratios, None where there are none; beyond: how many
    are infinite."""

    label: str
    low: float | None
    middle: float | None
    high: float | None
    largest: float | None
    beyond: int


def _svg(height: float, title: str, shapes: Sequence[str]) -> Markup:
    body = "\n".join(shapes)
    head = f'<svg viewBox="0 0 {_WIDTH:g} {height:g}" xmlns="http://www.w3.org/2000/svg" role="img" direction="ltr">'
    return Markup(f"{head}<title>{escape(title)}</title>{body}</svg>")  # noqa: S704 - every text above is escaped


def _text(x: float, y: float, words: object, *, anchor: str = "start", size: float = 11, colour: str = _INK) -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}">'
            f"{escape(words)}</text>")  # fmt: skip


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width:g}"{dashed}/>')  # fmt: skip


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def bars(rows: Sequence[Bar]) -> Markup:
    """A Pareto: a bar a type, the most frequent first, with its count and the cumulated share."""
    step, left, right = 22.0, 190.0, 120.0
    most = max((one.value for one in rows), default=1)
    shapes = []
    for index, one in enumerate(rows):
        y = 6 + index * step
        width = (_WIDTH - left - right) * one.value / most
        shapes.append(_text(left - 8, y + 13, one.label, anchor="end"))
        shapes.append(_rect(left, y + 2, max(width, 1.0), step - 8, _BAR))
        shapes.append(_text(left + width + 6, y + 13, one.value))
        shapes.append(_text(_WIDTH - 2, y + 13, f"{100 * one.share:.0f} %", anchor="end", colour=_SOFT))
    return _svg(max(len(rows), 1) * step + 12, "Pareto", shapes)


def _labels(labels: Sequence[str], left: float, step: float, y: float) -> list[str]:
    """At most twelve of them, evenly."""
    every = max(1, math.ceil(len(labels) / 12))
    return [_text(left + (index + 0.5) * step, y, label, anchor="middle", size=9.5, colour=_SOFT)
            for index, label in enumerate(labels) if index % every == 0]  # fmt: skip


def stacks(rows: Sequence[Stack], names: Sequence[str]) -> Markup:
    """Outcomes over time: one stacked bar a period."""
    left, top, bottom, height = 48.0, 30.0, 28.0, 210.0
    most = max((sum(one.counts) for one in rows), default=1) or 1
    step = (_WIDTH - left - 8) / max(len(rows), 1)
    room = height - top - bottom
    shapes = []
    x = left
    for colour, name in zip(_STACK, names, strict=True):
        shapes += [_rect(x, 8, 11, 11, colour), _text(x + 16, 17.5, name)]
        x += 34 + 7.2 * len(name)
    for tick in _ticks(most):
        y = height - bottom - room * tick / most
        shapes += [
            _line(left, y, _WIDTH - 8, y, _RULE),
            _text(left - 6, y + 4, f"{tick:g}", anchor="end", colour=_SOFT),
        ]
    width = min(step * 0.8, 46.0)
    for index, one in enumerate(rows):
        y = height - bottom
        for colour, count in zip(_STACK, one.counts, strict=True):
            part = room * count / most
            y -= part
            if count:
                shapes.append(_rect(left + (index + 0.5) * step - width / 2, y, width, part, colour))
    shapes.append(_line(left, height - bottom, _WIDTH - 8, height - bottom, _INK))
    return _svg(height, "; ".join(names), shapes + _labels([one.label for one in rows], left, step, height - 10))


def _ticks(most: int) -> list[float]:
    size = 10 ** math.floor(math.log10(most))
    step = next(size * share for share in (0.2, 0.5, 1.0, 2.0, 5.0) if most / (size * share) <= 5)
    return [step * index for index in range(1, int(most / step) + 1) if step * index == int(step * index)]


def whiskers(rows: Sequence[Whisker], title: str) -> Markup:
    """How far from the limit over time: 5 % to 95 % of the parts as a line, their median as a bar, the worst as a dot.

    The scale is logarithmic from a hundredth of the limit to ten times of it; what lies beyond is drawn at its end, and
    a cross says that something was found of which nothing is permitted."""
    left, top, bottom, height = 48.0, 14.0, 28.0, 240.0
    step = (_WIDTH - left - 8) / max(len(rows), 1)
    room = height - top - bottom

    def at(ratio: float) -> float:
        share = (math.log10(min(max(ratio, 0.01), 10.0)) + 2.0) / 3.0
        return height - bottom - share * room

    shapes = []
    for tick in (0.01, 0.1, 1.0, 10.0):
        shapes += [_line(left, at(tick), _WIDTH - 8, at(tick), _RULE),
                   _text(left - 6, at(tick) + 4, f"{tick:g}", anchor="end", colour=_SOFT)]  # fmt: skip
    shapes.append(_line(left, at(1.0), _WIDTH - 8, at(1.0), _LIMIT, 1.6, "6 4"))
    for index, one in enumerate(rows):
        x = left + (index + 0.5) * step
        if one.low is not None and one.middle is not None and one.high is not None and one.largest is not None:
            shapes += [_line(x, at(one.low), x, at(one.high), _BAR, 3.0),
                       _line(x - 6, at(one.middle), x + 6, at(one.middle), _INK, 2.4),
                       f'<circle cx="{x:.1f}" cy="{at(one.largest):.1f}" r="2.6" fill="{_INK}"/>']  # fmt: skip
        if one.beyond:
            y = top + 6
            shapes += [_line(x - 4, y - 4, x + 4, y + 4, _LIMIT, 1.8), _line(x - 4, y + 4, x + 4, y - 4, _LIMIT, 1.8)]
    shapes.append(_line(left, height - bottom, _WIDTH - 8, height - bottom, _INK))
    return _svg(height, title, shapes + _labels([one.label for one in rows], left, step, height - 10))
