"""The certificate as an A4 PDF, with the extra ``station``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from ..references.drawing import PdfSheet, wrapped
from .certificate_content import (
    INKS,
    PLOT_MM,
    SIGN,
    SOFT,
    TITLE,
    Table,
    curve_points,
    curves_of,
    facts,
    hashes,
    plain,
    plot_at,
    plot_lines,
    plot_words,
    range_mm,
    tables,
)

__all__ = ["certificate_pdf"]

_RULE, _STRIPE = (190, 190, 190), (244, 244, 244)
_A4_MM = (210.0, 297.0)
_MARGIN = 18.0
_FOOT_MM = 279.0


class _Pages(PdfSheet):
    """Pages that fill from the top; ``y`` is where the next thing goes."""

    def __init__(self, claims: dict[str, Any]) -> None:
        super().__init__(*_A4_MM, f"Certificate {claims['bundle']['name']} {claims['bundle']['version']}")
        self._claims, self._page = claims, 0
        self.y = 0.0
        self._open()

    def _open(self) -> None:
        self._page += 1
        bundle = self._claims["bundle"]
        right = _A4_MM[0] - _MARGIN
        foot = f"{bundle['name']} {bundle['version']} · model {bundle['model_sha256'][:16]} · "
        foot += str(self._claims["certified_utc"])
        self.text(_MARGIN, _A4_MM[1] - 10.0, foot, 6, colour=SOFT)
        self.text(right, _A4_MM[1] - 10.0, f"page {self._page}", 6, align="right", colour=SOFT)
        self.y = 18.0

    def room(self, height_mm: float) -> None:
        """Start a new page where less than this is left."""
        if self.y + height_mm > _FOOT_MM:
            self._canvas.showPage()
            self._open()

    def say(self, words: str, size_pt: float, *, bold: bool = False, indent: float = 0.0, soft: bool = False) -> None:
        """A paragraph."""
        step = size_pt * 0.47
        for line in _wrapped(self, words, _A4_MM[0] - 2 * _MARGIN - indent - 2.0, size_pt):
            self.room(step)
            self.y += step
            self.text(_MARGIN + indent, self.y, line, size_pt, bold=bold, colour=SOFT if soft else (20, 20, 20))

    def heading(self, words: str, keep_mm: float = 12.0) -> None:
        """A heading that stays with what follows."""
        self.room(keep_mm + 8.0)
        self.y += 3.5
        self.say(words, 9.5, bold=True)
        self.y += 1.2


def _wrapped(sheet: PdfSheet, words: str, width_mm: float, size_pt: float) -> list[str]:
    """As ``wrapped``, but a number keeps its unit."""
    kept = re.sub(r"(?<=[0-9]) (?=%|mm\b)", "\u2060", words)
    return [line.replace("\u2060", " ") for line in wrapped(sheet, kept, width_mm, size_pt)]


def certificate_pdf(claims: dict[str, Any]) -> bytes:
    """The page as an A4 PDF. The same claims give the same bytes. Raises MissingExtra without reportlab."""
    pages = _Pages(claims)
    pages.say("CERTIFICATE", 7, bold=True, soft=True)
    pages.y += 3.0
    pages.say(TITLE, 16, bold=True)
    pages.y += 0.8
    pages.say(f"{claims['bundle']['name']} {claims['bundle']['version']}", 9)
    pages.y += 2.0
    _line(pages, 0.4, (20, 20, 20))
    pages.y += 2.5
    _quote(pages, claims["sentence"])
    _pairs(pages, facts(claims), 7.5)
    if claims["too_small"]:
        pages.heading("Too small to say more")
        _bullets(pages, claims["too_small"])
    first, annex = tables(claims)
    for table in first:
        _table(pages, table)
    if curves_of(claims):
        _plot(pages, claims)
    pages.heading("Not covered")
    _bullets(pages, claims["not_covered"])
    for table in annex:
        _table(pages, table)
    pages.heading("Seals (SHA-256)")
    _pairs(pages, hashes(claims), 7.0)
    _signatures(pages)
    return pages.bytes()


def _line(pages: _Pages, width_mm: float, colour: tuple[int, int, int]) -> None:
    pages.lines([[(_MARGIN, pages.y), (_A4_MM[0] - _MARGIN, pages.y)]], width_mm, colour)


def _quote(pages: _Pages, words: str) -> None:
    room = _A4_MM[0] - 2 * _MARGIN
    lines = _wrapped(pages, words, room - 10.0, 9.5)
    pages.box(_MARGIN, pages.y, room, 4.6 * len(lines) + 4.0, _STRIPE)
    pages.box(_MARGIN, pages.y, 1.0, 4.6 * len(lines) + 4.0, (20, 20, 20))
    pages.y += 1.6
    for line in lines:
        pages.y += 4.6
        pages.text(_MARGIN + 4.0, pages.y - 0.6, line, 9.5)
    pages.y += 5.0


def _pairs(pages: _Pages, pairs: Sequence[tuple[str, str]], size_pt: float) -> None:
    for key, value in pairs:
        lines = _wrapped(pages, value, _A4_MM[0] - 2 * _MARGIN - 32.0, size_pt)
        for index, line in enumerate(lines):
            pages.room(3.7)
            pages.y += 3.7
            if index == 0:
                pages.text(_MARGIN, pages.y, key, size_pt, colour=SOFT)
            pages.text(_MARGIN + 30.0, pages.y, line, size_pt)


def _bullets(pages: _Pages, lines: Sequence[str]) -> None:
    for line in lines:
        pages.room(4.0)
        at = pages.y
        pages.say(line, 7.5, indent=4.0)
        if pages.y > at:
            pages.text(_MARGIN + 1.0, at + 7.5 * 0.47, "–", 7.5)
        pages.y += 0.4


def _table(pages: _Pages, table: Table) -> None:
    room, size_pt, step = _A4_MM[0] - 2 * _MARGIN, 7.2, 4.2
    pages.heading(table.title, step * (min(len(table.rows), 18) + 2))
    edges = [_MARGIN]
    for width in table.widths:
        edges.append(edges[-1] + width * room)

    def row(cells: Sequence[str], bold: bool) -> None:
        split = [
            _wrapped(pages, cell, (edges[at + 1] - edges[at]) - 2.0, size_pt) or [""] for at, cell in enumerate(cells)
        ]
        deep = max(map(len, split))
        pages.room(step * deep)
        for at, lines in enumerate(split):
            left = at == 0 or table.header[at] == "why not"
            for depth, line in enumerate(lines):
                x = edges[at] + 1.0 if left else edges[at + 1] - 1.0
                y = pages.y + step * (depth + 1) - 1.2
                pages.text(x, y, line, size_pt, bold=bold, align="left" if left else "right")
        pages.y += step * deep

    row(table.header, True)
    _line(pages, 0.25, (20, 20, 20))
    for index, cells in enumerate(table.rows):
        row(cells, index == table.marked)
        _line(pages, 0.08, _RULE)
    if table.note:
        pages.y += 0.6
        pages.say(table.note, 6.2, soft=True)


def _plot(pages: _Pages, claims: dict[str, Any]) -> None:
    curves = curves_of(claims)
    low_mm, high_mm = range_mm(curves)
    pages.room(PLOT_MM[1])
    pages.y += 2.0
    x0, y0 = _MARGIN, pages.y
    for x1, y1, x2, y2, colour, width_mm in plot_lines(low_mm, high_mm):
        pages.lines([[(x0 + x1, y0 + y1), (x0 + x2, y0 + y2)]], width_mm, colour)
    for x, y, words, anchor in plot_words(low_mm, high_mm, curves):
        pages.text(x0 + x, y0 + y, words, 6.5, align=anchor, colour=SOFT)
    for number, (group, one) in enumerate(curves):
        ink = INKS.get(group, SOFT)
        thick = 0.6 if group == "pooled" else 0.3
        line = [plot_at(x, p, low_mm, high_mm) for x, p in curve_points(one)]
        pages.lines([[(x0 + x, y0 + y) for x, y in line]], thick, ink)
        if one["a90_95_mm"] is not None:
            x, y = plot_at(math.log(one["a90_95_mm"]), 0.9, low_mm, high_mm)
            pages.box(x0 + x - 0.8, y0 + y - 0.8, 1.6, 1.6, ink)
        y = y0 + 8.0 + 4.0 * number
        pages.lines([[(x0 + 143.0, y - 0.9), (x0 + 149.0, y - 0.9)]], thick, ink)
        pages.text(x0 + 151.0, y, plain(group), 7)
    pages.y = y0 + PLOT_MM[1]


def _signatures(pages: _Pages) -> None:
    pages.room(26.0)
    pages.y += 20.0
    room = _A4_MM[0] - 2 * _MARGIN
    for at, (share, words) in enumerate(zip((0.42, 0.36, 0.22), SIGN, strict=True)):
        x = _MARGIN + room * (0.0, 0.42, 0.78)[at]
        pages.lines([[(x, pages.y), (x + room * share - 6.0, pages.y)]], 0.2, (20, 20, 20))
        pages.text(x, pages.y + 3.5, words, 6.5, colour=SOFT)
    pages.y += 5.0
