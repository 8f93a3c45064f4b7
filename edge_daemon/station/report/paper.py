"""A report's HTML on paper: A4 or Letter as PDF, without a browser. The same HTML gives the same bytes.

The HTML decides what is said and in which order; this decides only how it looks on a page. Looks go by class:

    band       a box with a bar at its side, its tone one of ``_TONES``
    pair       its figures stand side by side
    facts      table: names soft, values plain          grid   table with a ruled head; ``num`` aligns a cell
    sign       lines to sign on                          keep   stays on one page
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from reportlab import rl_config
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    KeepTogether,
    PageTemplate,
    Spacer,
    Table,
)

from .drawn import Drawn
from .markup import INLINE, Node, parse
from .text import Run, Text, register_fonts

__all__ = ["PAPERS", "pdf_of"]

_MM = 72.0 / 25.4
#: Width and height in points.
PAPERS: Mapping[str, tuple[float, float]] = {"a4": (210.0 * _MM, 297.0 * _MM), "letter": (612.0, 792.0)}
_MARGIN, _TOP, _FOOT = 16.0 * _MM, 14.0 * _MM, 17.0 * _MM

Colour = tuple[float, float, float]


def _rgb(code: str) -> Colour:
    return int(code[:2], 16) / 255, int(code[2:4], 16) / 255, int(code[4:], 16) / 255


_INK, _SOFT, _RULE, _TINT = _rgb("14181f"), _rgb("55606e"), _rgb("c4cad2"), _rgb("f3f5f7")
_TONES: Mapping[str, Colour] = {
    "pass": _rgb("0b6b3a"), "fail": _rgb("a81c1c"), "inconclusive": _rgb("8a5a00"), "not-evaluable": _rgb("44505f"),
    "warn": _rgb("8a5a00"), "quiet": _SOFT,
}  # fmt: skip
_BODY_PT = 8.6
_LEAST_UNDER_HEADING = 30.0 * _MM


def pdf_of(html: str, pictures: Mapping[str, bytes], *, paper: str = "a4", title: str = "") -> bytes:
    """The report as PDF. pictures: PNG or JPEG files by the ``src`` under which the HTML names them. paper: a4, letter.

    Raises EdgeError for HTML that cannot be printed, KeyError for a paper or picture that is not there.
    """
    register_fonts()
    root = parse(html)
    size = PAPERS[paper]
    writer = _Writer(pictures, right_to_left=root.attributes.get("dir") == "rtl")
    body = root.find("body") or root
    foot = next((one for one in body.nodes if one.tag == "footer"), None)
    width = size[0] - 2 * _MARGIN
    story = _headed([flowable for one in body.nodes if one.tag != "footer" for flowable in writer.block(one, width)])
    buffer = io.BytesIO()
    document = BaseDocTemplate(buffer, pagesize=size, invariant=1, title=title, creator="edge-daemon", author="")
    frame = Frame(_MARGIN, _FOOT, width, size[1] - _TOP - _FOOT, leftPadding=0, rightPadding=0, topPadding=0,
                  bottomPadding=0)  # fmt: skip
    document.addPageTemplates([PageTemplate("page", [frame])])
    with _raw_bytes():
        document.build(story, canvasmaker=_numbered(foot.words() if foot else "", root, writer.right_to_left))
    return buffer.getvalue()


#: The setting belongs to the whole process: one report at a time may change it.
_SETTINGS_LOCK = threading.Lock()


@contextmanager
def _raw_bytes() -> Iterator[None]:
    """Pictures as bytes, not as text of base 85, which reportlab encodes character by character in Python."""
    with _SETTINGS_LOCK:
        before, rl_config.useA85 = rl_config.useA85, 0
        try:
            yield
        finally:
            rl_config.useA85 = before


def _numbered(foot: str, root: Node, right_to_left: bool) -> type[Canvas]:
    """A canvas that writes the foot of every page once it knows how many there are."""

    class Numbered(Canvas):  # type: ignore[misc]  # reportlab has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "initialFontName": "EdgeText"})
            self._pages: list[dict[str, Any]] = []
            self.setCatalogEntry("Lang", root.attributes.get("lang", "en"))

        def showPage(self) -> None:  # noqa: N802 - reportlab's name
            self._pages.append(dict(self.__dict__))
            self._startPage()

        def save(self) -> None:
            for number, page in enumerate(self._pages, start=1):
                self.__dict__.update(page)
                self._foot(number)
                super().showPage()
            super().save()

        def _foot(self, number: int) -> None:
            width = self._pagesize[0] - 2 * _MARGIN
            self.setStrokeColorRGB(*_RULE)
            self.setLineWidth(0.5)
            self.line(_MARGIN, _FOOT - 9, _MARGIN + width, _FOOT - 9)
            for words, align, isolated in ((foot, "start", False), (f"{number} / {len(self._pages)}", "end", True)):
                runs = _with_isolates(Run(words, 6.8, colour=_SOFT, isolated=isolated))
                text = Text(runs, align=align, right_to_left=right_to_left)
                text.wrap(width, 20)
                text.drawOn(self, _MARGIN, _FOOT - 20)

    return Numbered


class _Writer:
    """From elements to what reportlab lays out."""

    def __init__(self, pictures: Mapping[str, bytes], *, right_to_left: bool) -> None:
        self._pictures, self.right_to_left = pictures, right_to_left

    def block(self, node: Node, width: float) -> list[Flowable]:
        """What an element becomes in a column of ``width`` points."""
        make = getattr(self, f"_{node.tag}", None)
        if make is not None:
            return list(make(node, width))
        if node.classes & {"band"}:
            return [self._band(node, width)]
        if node.classes & {"pair"}:
            return [self._pair(node, width)] if any(True for _ in node.nodes) else []
        if node.classes & {"sign"}:
            return [self._sign(node, width)]
        inside = [flowable for one in node.nodes for flowable in self.block(one, width)]
        return [_kept(inside)] if "keep" in node.classes else inside

    def _h1(self, node: Node, width: float) -> list[Flowable]:
        return [self._text(node, 17.0, bold=True, after=1.5 * _MM)]

    def _h2(self, node: Node, width: float) -> list[Flowable]:
        return [self._text(node, 11.2, bold=True, before=4.2 * _MM, after=1.2 * _MM, keep=True)]

    def _h3(self, node: Node, width: float) -> list[Flowable]:
        return [self._text(node, 9.2, bold=True, before=2.8 * _MM, after=0.8 * _MM, keep=True)]

    def _p(self, node: Node, width: float) -> list[Flowable]:
        if "word" in node.classes:
            return [self._text(node, 25.0, bold=True, after=0.8 * _MM)]
        if "kicker" in node.classes:
            return [self._text(node, 7.2, colour=_SOFT, after=0.6 * _MM)]
        if "lead" in node.classes:
            return [self._text(node, 10.0, after=1.2 * _MM)]
        soft = "note" in node.classes
        return [self._text(node, 7.4 if soft else _BODY_PT, colour=_SOFT if soft else _INK, after=1.2 * _MM)]

    def _ul(self, node: Node, width: float) -> list[Flowable]:
        return [_Listed(self._text(one, _BODY_PT), self.right_to_left) for one in node.nodes] + [Spacer(1, 1.2 * _MM)]

    def _svg(self, node: Node, width: float) -> list[Flowable]:
        return [Drawn(node, width)]

    def _img(self, node: Node, width: float) -> list[Flowable]:
        return [_Picture(self._pictures[node.attributes["src"]], width)]

    def _figure(self, node: Node, width: float) -> list[Flowable]:
        return [_kept(self._figure_parts(node, width))]

    def _figure_parts(self, node: Node, width: float) -> list[Flowable]:
        share = float(node.attributes.get("data-width", "100")) / 100.0
        parts: list[Flowable] = []
        for one in node.nodes:
            if one.tag == "figcaption":
                parts.append(self._text(one, 7.4, colour=_SOFT, before=0.8 * _MM, after=2.0 * _MM))
            else:
                parts += self.block(one, width * share)
        return parts

    def _text(
        self, node: Node, size_pt: float, *, bold: bool = False, colour: Colour = _INK, align: str = "start",
        before: float = 0.0, after: float = 0.0, keep: bool = False,
    ) -> Text:  # fmt: skip
        runs = self._runs(node, Run("", size_pt, bold, colour))
        return Text(runs, align=align, right_to_left=self.right_to_left, before_pt=before, after_pt=after,
                    heading=keep)  # fmt: skip

    def _runs(self, node: Node, look: Run) -> list[Run]:
        """Its words with the looks of the elements inside; blanks as HTML shows them."""
        runs: list[Run] = []
        self._collect(node, look, runs)
        tidy: list[Run] = []
        for run in runs:
            words = run.words
            ends_blank = not tidy or tidy[-1].words.endswith((" ", "\n"))
            if ends_blank:
                words = words.lstrip(" ")
            if words:
                tidy.append(Run(words, run.size_pt, run.bold, run.colour, run.isolated))
        return tidy

    def _collect(self, node: Node, look: Run, runs: list[Run]) -> None:
        for one in node.children:
            if isinstance(one, str):
                runs += _with_isolates(Run(_collapsed(one), look.size_pt, look.bold, look.colour, look.isolated))
            elif one.tag == "br":
                runs.append(Run("\n", look.size_pt))
            elif one.tag in INLINE:
                self._collect(one, _inner(one, look), runs)

    def _band(self, node: Node, width: float) -> Flowable:
        tone = next((colour for name, colour in _TONES.items() if name in node.classes), _TONES["quiet"])
        inside = [flowable for one in node.nodes for flowable in self.block(one, width - 20)]
        if isinstance(inside[0], Text) and "word" in next(iter(node.nodes)).classes and "quiet" not in node.classes:
            inside[0].recolour(tone)
        side = -1 if self.right_to_left else 0
        table = Table([[inside]], colWidths=[width], spaceAfter=2.6 * _MM)
        line = "LINEAFTER" if side else "LINEBEFORE"
        table.setStyle([
            ("BACKGROUND", (0, 0), (-1, -1), _TINT), (line, (0, 0), (0, -1), 4.0, tone, "butt"),
            ("LEFTPADDING", (0, 0), (-1, -1), 11), ("RIGHTPADDING", (0, 0), (-1, -1), 9),
            ("TOPPADDING", (0, 0), (-1, -1), 6), ("BOTTOMPADDING", (0, 0), (-1, -1), 6),
        ])  # fmt: skip
        return table

    def _pair(self, node: Node, width: float) -> Flowable:
        figures = list(node.nodes)
        gap = 4.0 * _MM
        columns = max(2, len(figures))  # a single one is not blown up to the whole width
        each = (width - gap * (columns - 1)) / columns
        cells: list[Any] = [self._figure_parts(one, each) for one in figures]
        if self.right_to_left:
            cells.reverse()
        widths = [each + (gap if index < len(cells) - 1 else 0) for index in range(len(cells))]
        table = Table([cells], colWidths=widths, hAlign="RIGHT" if self.right_to_left else "LEFT")
        table.setStyle([("LEFTPADDING", (0, 0), (-1, -1), 0), ("RIGHTPADDING", (0, 0), (-1, -1), 0),
                        ("TOPPADDING", (0, 0), (-1, -1), 0), ("BOTTOMPADDING", (0, 0), (-1, -1), 0),
                        ("VALIGN", (0, 0), (-1, -1), "TOP")])  # fmt: skip
        if len(cells) > 1:  # a caption is as wide as its picture, on either side of the page
            table.setStyle([("RIGHTPADDING", (0, 0), (-2, -1), gap)])
        return table

    def _sign(self, node: Node, width: float) -> Flowable:
        """Columns with a line above each caption."""
        captions: list[Any] = [self._text(one, 7.4, colour=_SOFT) for one in node.nodes]
        if self.right_to_left:
            captions.reverse()
        gap = 5.0 * _MM
        each = (width - gap * (len(captions) - 1)) / len(captions)
        cells: list[Any] = [captions[0]]
        widths = [each]
        for caption in captions[1:]:
            cells += ["", caption]
            widths += [gap, each]
        table = Table([[""] * len(cells), cells], colWidths=widths, rowHeights=[11 * _MM, None])
        table.setStyle([("LINEABOVE", (index, 1), (index, 1), 0.7, _INK) for index in range(0, len(cells), 2)]
                       + [("RIGHTPADDING", (0, 0), (-1, -1), 0), ("LEFTPADDING", (0, 0), (-1, -1), 0)])  # fmt: skip
        return table

    def _table(self, node: Node, width: float) -> list[Flowable]:
        heads = [row for part in node.nodes if part.tag == "thead" for row in part.nodes]
        rows = heads + [row for part in node.nodes if part.tag == "tbody" for row in part.nodes]
        if not rows:
            return []
        columns = sum(_span(cell) for cell in rows[0].nodes)
        widths = _widths(node, columns, width)
        facts, pad = "facts" in node.classes, 2.6
        grid: list[list[Any]] = []
        style: list[Any] = [
            ("LEFTPADDING", (0, 0), (-1, -1), 3), ("RIGHTPADDING", (0, 0), (-1, -1), 3),
            ("TOPPADDING", (0, 0), (-1, -1), pad), ("BOTTOMPADDING", (0, 0), (-1, -1), pad),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LINEBELOW", (0, 0), (-1, -1), 0.4, _RULE),
        ]  # fmt: skip
        if heads:
            style += [("LINEBELOW", (0, len(heads) - 1), (-1, len(heads) - 1), 0.9, _INK)]
        for y, row in enumerate(rows):
            cells: list[Any] = []
            for cell in row.nodes:
                span = _span(cell)
                inside = self._cell(
                    cell, sum(widths[len(cells) : len(cells) + span]) - 6, head=y < len(heads), facts=facts
                )
                if span > 1:
                    style.append(("SPAN", (len(cells), y), (len(cells) + span - 1, y)))
                cells += [inside] + [""] * (span - 1)
            if "tint" in row.classes:
                style.append(("BACKGROUND", (0, y), (-1, y), _TINT))
            grid.append(cells)
        if self.right_to_left:
            grid = [_reversed(row) for row in grid]
            widths = widths[::-1]
            style = [_mirrored_span(one, columns) for one in style]
        table = Table(grid, colWidths=widths, repeatRows=len(heads), spaceAfter=2.0 * _MM)
        table.setStyle(style)
        return [table]

    def _cell(self, cell: Node, width: float, *, head: bool, facts: bool) -> Any:
        soft = facts and cell.tag == "th"
        look = {"size_pt": 7.2 if head or soft else 7.8, "colour": _SOFT if head or soft else _INK,
                "bold": not soft and not head and cell.tag == "th"}  # fmt: skip
        align = "end" if "num" in cell.classes else "start"
        if any(one.tag not in INLINE for one in cell.nodes):
            return [flowable for one in cell.nodes for flowable in self.block(one, width)]
        return self._text(cell, align=align, **look)  # type: ignore[arg-type]


def _kept(flowables: list[Flowable]) -> Flowable:
    """On one page where they fit on one. Nested groups are one group: reportlab cannot measure a group in a group."""
    flat: list[Flowable] = []
    for one in flowables:
        flat += one._content if isinstance(one, KeepTogether) else [one]
    return KeepTogether(flat)


def _headed(story: list[Flowable]) -> list[Flowable]:
    """Headings stay with what follows them: with a kept group wholly, with a table by its first rows."""
    tidy: list[Flowable] = []
    waiting: list[Flowable] = []
    for one in story:
        if isinstance(one, Text) and one.heading:
            waiting.append(one)
        elif waiting and isinstance(one, KeepTogether):
            tidy.append(_kept([*waiting, one]))
            waiting = []
        elif waiting:
            tidy += [CondPageBreak(_LEAST_UNDER_HEADING), *waiting, one]
            waiting = []
        else:
            tidy.append(one)
    return tidy + waiting


#: U+2066 to U+2069: a value with an order of its own inside a sentence of the other direction.
_ISOLATE = re.compile("(\u2066[^\u2069]*\u2069)")


def _with_isolates(run: Run) -> list[Run]:
    """A run in pieces, its isolated values marked as such."""
    return [Run(part.strip("\u2066\u2069"), run.size_pt, run.bold, run.colour,
                run.isolated or part.startswith("\u2066")) for part in _ISOLATE.split(run.words)]  # fmt: skip


def _collapsed(words: str) -> str:
    """Blanks as HTML shows them: any number of them is one. A no-break space stays."""
    out = "".join(" " if one in " \t\r\n\f" else one for one in words)
    while "  " in out:
        out = out.replace("  ", " ")
    return out


def _inner(node: Node, look: Run) -> Run:
    bold = look.bold or node.tag in ("b", "strong")
    size = look.size_pt * (0.87 if node.tag in ("small", "code") else 1.0)
    colour = _SOFT if node.tag == "small" or "soft" in node.classes else look.colour
    for name, tone in _TONES.items():
        if f"is-{name}" in node.classes:
            colour, bold = tone, True
    isolated = look.isolated or node.tag == "code" or node.attributes.get("dir") == "ltr"
    return Run("", size, bold, colour, isolated)


def _span(cell: Node) -> int:
    return int(cell.attributes.get("colspan", "1"))


def _widths(node: Node, columns: int, width: float) -> list[float]:
    """From <col width="20%">; what has none shares the rest."""
    group = next((one for one in node.nodes if one.tag == "colgroup"), None)
    given = [one.attributes.get("width", "").rstrip("%") for one in group.nodes] if group else []
    shares = [float(one) / 100 if one else None for one in given] + [None] * (columns - len(given))
    rest = max(0.0, 1.0 - sum(one for one in shares if one is not None))
    open_columns = sum(one is None for one in shares) or 1
    return [width * (one if one is not None else rest / open_columns) for one in shares]


def _reversed(row: list[Any]) -> list[Any]:
    """Cells from right to left; a cell that spans several stays before the empty ones that follow it."""
    cells: list[list[Any]] = []
    for one in row:
        if one == "" and cells:
            cells[-1].append(one)
        else:
            cells.append([one])
    return [one for group in reversed(cells) for one in group]


def _mirrored_span(command: Any, columns: int) -> Any:
    if command[0] != "SPAN":
        return command
    (left, top), (right, bottom) = command[1:]
    return ("SPAN", (columns - 1 - right, top), (columns - 1 - left, bottom))


class _Picture(Flowable):  # type: ignore[misc]  # reportlab has no types
    """A picture at the width of its column, at most 190 mm high, with a hairline around it."""

    def __init__(self, data: bytes, width: float) -> None:
        super().__init__()
        self._reader = ImageReader(io.BytesIO(data))
        across, down = self._reader.getSize()
        self.width = min(width, 190.0 * _MM * across / down)
        self.height = self.width * down / across

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:  # noqa: N803 - reportlab's names
        return self.width, self.height

    def draw(self) -> None:
        self.canv.drawImage(self._reader, 0, 0, self.width, self.height)
        self.canv.setStrokeColorRGB(*_RULE)
        self.canv.setLineWidth(0.4)
        self.canv.rect(0, 0, self.width, self.height)


class _Listed(Flowable):  # type: ignore[misc]  # reportlab has no types
    """One item of a list, with its mark."""

    def __init__(self, text: Text, right_to_left: bool) -> None:
        super().__init__()
        self._text, self._rtl = text, right_to_left

    def wrap(self, availWidth: float, availHeight: float) -> tuple[float, float]:  # noqa: N803 - reportlab's names
        _, height = self._text.wrap(availWidth - 11, availHeight)
        self.width, self.height = availWidth, height + 1.5
        return self.width, self.height

    def draw(self) -> None:
        self._text.drawOn(self.canv, 0 if self._rtl else 11, 0)
        self.canv.setFillColorRGB(*_SOFT)
        self.canv.circle(self.width - 4 if self._rtl else 4, self.height - 7.2, 1.3, stroke=0, fill=1)
