"""Words on paper: runs of one typeface, broken into lines, in the order they are read, also from right to left."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Any

from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable

from .bidi import mirrored, visual_order

__all__ = ["Run", "Text", "register_fonts"]

Colour = tuple[float, float, float]

_FONTS = {
    False: ("EdgeText", "IBMPlexSansHebrew-Regular.ttf"),
    True: ("EdgeTextBold", "IBMPlexSansHebrew-SemiBold.ttf"),
}
_PIECES = re.compile(r"\n|[^\S\n\u00a0]+|(?:[^\s]|\u00a0)+")
_HEBREW = re.compile("[\u0590-\u05ff]")


def register_fonts() -> None:
    """Make the two typefaces known to reportlab; twice does no harm."""
    for name, file in _FONTS.values():
        if name not in pdfmetrics.getRegisteredFontNames():
            with as_file(files("edge_daemon.station") / "fonts" / file) as path:
                pdfmetrics.registerFont(TTFont(name, str(path)))


@dataclass(frozen=True, slots=True)
class Run:
    """Words of one look. isolated: an identifier or quotation, read from left to right whatever stands around it."""

    words: str
    size_pt: float
    bold: bool = False
    colour: Colour = (0.08, 0.09, 0.12)
    isolated: bool = False

    @property
    def font(self) -> str:
        """Its typeface as reportlab knows it."""
        return _FONTS[self.bold][0]

    def width(self, words: str) -> float:
        """Points that words of this look take."""
        return float(pdfmetrics.stringWidth(words, self.font, self.size_pt))


@dataclass(frozen=True, slots=True)
class _Piece:
    words: str
    run: Run

    @property
    def width(self) -> float:
        return self.run.width(self.words)

    @property
    def blank(self) -> bool:
        return self.words.isspace()


class Text(Flowable):  # type: ignore[misc]  # reportlab has no types
    """A paragraph. align: ``start``, ``end`` or ``centre``; right_to_left: direction of the paragraph.

    heading: it must not stand alone at the foot of a page. A word wider than the line (a hash, a path) is broken where
    the line ends.
    """

    def __init__(
        self, runs: Sequence[Run], *, align: str = "start", right_to_left: bool = False, leading: float = 1.32,
        before_pt: float = 0.0, after_pt: float = 0.0, heading: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self._runs = [run for run in runs if run.words]
        self._align, self._rtl, self._leading = align, right_to_left, leading
        self._before, self._after = before_pt, after_pt
        self.heading = heading
        self._lines: list[list[_Piece]] = []
        self._wrapped_for = -1.0

    def getSpaceBefore(self) -> float:  # noqa: N802 - reportlab's name
        return self._before

    def getSpaceAfter(self) -> float:  # noqa: N802 - reportlab's name
        return self._after

    def recolour(self, colour: Colour) -> None:
        """All of it in one colour."""
        self._runs = [Run(run.words, run.size_pt, run.bold, colour, run.isolated) for run in self._runs]
        self._wrapped_for = -1.0

    @property
    def natural_width(self) -> float:
        """Points it takes on one line."""
        return sum(run.width(run.words) for run in self._runs)

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:  # noqa: N803 - reportlab's names
        if self._wrapped_for != availWidth:
            self._lines, self._wrapped_for = self._broken(availWidth), availWidth
        self.width, self.height = availWidth, sum(self._step(line) for line in self._lines)
        return self.width, self.height

    def split(self, availWidth: float, availHeight: float) -> list[Flowable]:  # noqa: N803
        self.wrap(availWidth, availHeight)
        room, fit = availHeight, 0
        while fit < len(self._lines) and room >= self._step(self._lines[fit]):
            room -= self._step(self._lines[fit])
            fit += 1
        if fit == 0 or fit == len(self._lines) or len(self._lines) < 4:
            return []
        return [self._part(self._lines[:fit], first=True), self._part(self._lines[fit:], first=False)]

    def _part(self, lines: list[list[_Piece]], *, first: bool) -> Text:
        runs = [Run(p.words + (" " if p is line[-1] else ""), p.run.size_pt, p.run.bold, p.run.colour, p.run.isolated)
                for line in lines for p in line]  # fmt: skip
        return Text(
            runs, align=self._align, right_to_left=self._rtl, leading=self._leading,
            before_pt=self._before if first else 0.0, after_pt=0.0 if first else self._after,
        )  # fmt: skip

    def _step(self, line: list[_Piece]) -> float:
        sizes = [piece.run.size_pt for piece in line] or [self._runs[0].size_pt if self._runs else 8.0]
        return max(sizes) * self._leading

    def _broken(self, width: float) -> list[list[_Piece]]:
        lines: list[list[_Piece]] = [[]]
        used = 0.0
        for group in _groups(self._runs):
            if group[0].words == "\n":
                lines.append([])
                used = 0.0
                continue
            taken = sum(piece.width for piece in group)
            if group[0].blank:
                if lines[-1]:
                    lines[-1] += group
                    used += taken
                continue
            if used + taken > width + 0.01 and lines[-1]:
                lines.append([])
                used = 0.0
            if taken > width + 0.01:
                rest, used = self._chopped(group, width, lines)
                lines[-1] += rest
            else:
                lines[-1] += group
                used += taken
        for line in lines:
            while line and line[-1].blank:
                line.pop()
        return lines

    def _chopped(self, group: list[_Piece], width: float, lines: list[list[_Piece]]) -> tuple[list[_Piece], float]:
        """Fill lines with a word that is wider than one; what is left of it, and its width."""
        used = 0.0
        rest: list[_Piece] = []
        for piece in group:
            words = ""
            for character in piece.words:
                step = piece.run.width(character)
                if used + step > width and (words or rest):
                    lines[-1] += [*rest, _Piece(words, piece.run)]
                    lines.append([])
                    rest, words, used = [], "", 0.0
                words += character
                used += step
            rest.append(_Piece(words, piece.run))
        return rest, used

    def draw(self) -> None:
        top = self.height
        for line in self._lines:
            step = self._step(line)
            size = max((piece.run.size_pt for piece in line), default=8.0)
            top -= step
            self._draw_line(line, top + (step - size) / 2 + 0.16 * size)

    def _draw_line(self, line: list[_Piece], base: float) -> None:
        taken = sum(piece.width for piece in line)
        align = self._align
        if self._rtl:
            align = {"start": "end", "end": "start"}.get(align, align)
        x = {"start": 0.0, "end": self.width - taken, "centre": (self.width - taken) / 2}[align]
        for words, run in _segments(line, right_to_left=self._rtl):
            self.canv.setFont(run.font, run.size_pt)
            self.canv.setFillColorRGB(*run.colour)
            self.canv.drawString(x, base, words)
            x += run.width(words)


def _groups(runs: Sequence[Run]) -> list[list[_Piece]]:
    """Words and blanks in order; a word may be made of several runs, without a place to break between them."""
    groups: list[list[_Piece]] = []
    glued = False
    for run in runs:
        for match in _PIECES.finditer(run.words):
            piece = _Piece(match.group(), run)
            solid = not piece.blank
            if solid and glued and groups:
                groups[-1].append(piece)
            else:
                groups.append([piece])
            glued = solid
    return groups


def _segments(line: list[_Piece], *, right_to_left: bool) -> list[tuple[str, Run]]:
    """What is drawn from left to right, joined where the look is the same."""
    text = "".join(piece.words for piece in line)
    if not right_to_left and _HEBREW.search(text) is None:
        return [(piece.words.replace("\u00a0", " "), piece.run) for piece in line]
    run_of = [piece.run for piece in line for _ in piece.words]
    isolated = [run.isolated for run in run_of]
    segments: list[tuple[str, Run]] = []
    for index, backwards in visual_order(text, isolated, right_to_left=right_to_left):
        character: Any = mirrored(text[index]) if backwards else text[index]
        character = character.replace("\u00a0", " ")
        if segments and segments[-1][1] is run_of[index]:
            segments[-1] = (segments[-1][0] + character, run_of[index])
        else:
            segments.append((character, run_of[index]))
    return segments
