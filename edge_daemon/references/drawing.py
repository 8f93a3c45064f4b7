"""One drawing, as PDF or as PNG: a sheet in millimetres, origin at the upper left, y downwards.

A PDF holds text as text (fonts embedded, so it can be searched and copied), lines as lines and each picture at its own
resolution. A PNG has 10 pixels a millimetre. The PDF needs reportlab (extra ``station``); the PNG takes reportlab's
typeface where it is there, Pillow's own otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import MissingExtra

__all__ = ["PDF_PT_PER_MM", "Align", "PdfSheet", "PngSheet", "Sheet", "wrapped"]

PDF_PT_PER_MM = 72.0 / 25.4
_PX_PER_MM = 10
Colour = tuple[int, int, int]
Point = tuple[float, float]
Align = Literal["left", "centre", "right"]
_FACES = {False: ("Vera.ttf", "CardText"), True: ("VeraBd.ttf", "CardTextBold")}


class Sheet(Protocol):
    """What can be drawn. Lengths in mm, sizes of text in points, colours 0..255 RGB."""

    def text(
        self, x: float, y: float, words: str, size_pt: float, *, bold: bool = False, align: Align = "left",
        colour: Colour = (20, 20, 20),
    ) -> None:  # fmt: skip
        """Words on the base line ``y``."""
        ...

    def width(self, words: str, size_pt: float, *, bold: bool = False) -> float:
        """How wide words are, mm."""
        ...

    def lines(self, lines: Sequence[Sequence[Point]], width: float, colour: Colour, *, closed: bool = False) -> None:
        """Polylines."""
        ...

    def box(self, x: float, y: float, w: float, h: float, colour: Colour) -> None:
        """A filled rectangle."""
        ...

    def picture(self, x: float, y: float, w: float, h: float, pixels: NDArray[np.uint8]) -> None:
        """A grey picture, (H, W) uint8, stretched to w x h."""
        ...

    def bytes(self) -> bytes:
        """The finished file."""
        ...


def wrapped(sheet: Sheet, words: str, width_mm: float, size_pt: float) -> list[str]:
    """Words in lines of at most ``width_mm``; a single longer word stands alone."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and sheet.width(longer, size_pt) <= width_mm:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _reportlab(part: str = "") -> Any:
    """A module of reportlab, or None where it is not installed."""
    try:
        return import_module(f"reportlab{part}")
    except ImportError:
        return None


def _face_file(bold: bool) -> Path | None:
    """Reportlab's own TrueType file, None where reportlab is not installed."""
    package = _reportlab()
    if package is None:
        return None
    path = Path(str(package.__file__)).parent / "fonts" / _FACES[bold][0]
    return path if path.is_file() else None


class PdfSheet:
    """A page of PDF. The same drawing gives the same bytes. Raises MissingExtra without reportlab."""

    def __init__(self, width_mm: float, height_mm: float, title: str) -> None:
        pdfmetrics, ttfonts = _reportlab(".pdfbase.pdfmetrics"), _reportlab(".pdfbase.ttfonts")
        canvas = _reportlab(".pdfgen.canvas")
        if pdfmetrics is None or ttfonts is None or canvas is None:
            raise MissingExtra("drawing a PDF", "station")
        for bold, (_, name) in _FACES.items():
            path = _face_file(bold)
            if path is None:
                raise MissingExtra("the typeface of a PDF", "station")
            pdfmetrics.registerFont(ttfonts.TTFont(name, str(path)))
        self._metrics = pdfmetrics
        self._height = height_mm
        self._buffer = io.BytesIO()
        size = (width_mm * PDF_PT_PER_MM, height_mm * PDF_PT_PER_MM)
        # The first font would otherwise be Helvetica, which is not embedded.
        self._canvas: Any = canvas.Canvas(
            self._buffer, pagesize=size, invariant=1, pageCompression=1, initialFontName=_FACES[False][1]
        )
        self._canvas.setTitle(title)
        self._canvas.setCreator("edge-daemon")

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return x * PDF_PT_PER_MM, (self._height - y) * PDF_PT_PER_MM

    def text(
        self, x: float, y: float, words: str, size_pt: float, *, bold: bool = False, align: Align = "left",
        colour: Colour = (20, 20, 20),
    ) -> None:  # fmt: skip
        self._canvas.setFont(_FACES[bold][1], size_pt)
        self._canvas.setFillColorRGB(*(one / 255 for one in colour))
        draw = {"left": self._canvas.drawString, "centre": self._canvas.drawCentredString,
                "right": self._canvas.drawRightString}[align]  # fmt: skip
        draw(*self._at(x, y), words)

    def width(self, words: str, size_pt: float, *, bold: bool = False) -> float:
        return float(self._metrics.stringWidth(words, _FACES[bold][1], size_pt)) / PDF_PT_PER_MM

    def lines(self, lines: Sequence[Sequence[Point]], width: float, colour: Colour, *, closed: bool = False) -> None:
        self._canvas.setLineWidth(width * PDF_PT_PER_MM)
        self._canvas.setStrokeColorRGB(*(one / 255 for one in colour))
        path = self._canvas.beginPath()
        for points in lines:
            path.moveTo(*self._at(*points[0]))
            for point in points[1:]:
                path.lineTo(*self._at(*point))
            if closed:
                path.close()
        self._canvas.drawPath(path, stroke=1, fill=0)

    def box(self, x: float, y: float, w: float, h: float, colour: Colour) -> None:
        self._canvas.setFillColorRGB(*(one / 255 for one in colour))
        left, bottom = self._at(x, y + h)
        self._canvas.rect(left, bottom, w * PDF_PT_PER_MM, h * PDF_PT_PER_MM, stroke=0, fill=1)

    def picture(self, x: float, y: float, w: float, h: float, pixels: NDArray[np.uint8]) -> None:
        left, bottom = self._at(x, y + h)
        self._canvas.drawImage(
            _reportlab(".lib.utils").ImageReader(Image.fromarray(pixels)),
            left,
            bottom,
            w * PDF_PT_PER_MM,
            h * PDF_PT_PER_MM,
        )

    def bytes(self) -> bytes:
        self._canvas.showPage()
        self._canvas.save()
        return self._buffer.getvalue()


class PngSheet:
    """A white page of 10 pixels a millimetre."""

    def __init__(self, width_mm: float, height_mm: float, title: str) -> None:
        self._image = Image.new("RGB", (round(width_mm * _PX_PER_MM), round(height_mm * _PX_PER_MM)), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._title = title
        self._fonts: dict[tuple[float, bool], Any] = {}

    def _font(self, size_pt: float, bold: bool) -> Any:
        key = (size_pt, bold)
        if key not in self._fonts:
            size_px = size_pt / PDF_PT_PER_MM * _PX_PER_MM
            path = _face_file(bold)
            self._fonts[key] = (
                ImageFont.truetype(str(path), size_px) if path is not None else ImageFont.load_default(size_px)
            )
        return self._fonts[key]

    def text(
        self, x: float, y: float, words: str, size_pt: float, *, bold: bool = False, align: Align = "left",
        colour: Colour = (20, 20, 20),
    ) -> None:  # fmt: skip
        anchor = {"left": "ls", "centre": "ms", "right": "rs"}[align]
        self._draw.text(
            (x * _PX_PER_MM, y * _PX_PER_MM), words, fill=colour, font=self._font(size_pt, bold), anchor=anchor
        )

    def width(self, words: str, size_pt: float, *, bold: bool = False) -> float:
        return float(self._font(size_pt, bold).getlength(words)) / _PX_PER_MM

    def lines(self, lines: Sequence[Sequence[Point]], width: float, colour: Colour, *, closed: bool = False) -> None:
        # Drawn on a grid of 16ths of a pixel with soft edges: an outline of small defects keeps its place.
        grids = [np.round(np.array(points) * _PX_PER_MM * 16).astype(np.int32) for points in lines]
        array = np.array(self._image)
        cv2.polylines(array, grids, closed, colour, max(1, round(width * _PX_PER_MM)), cv2.LINE_AA, 4)
        self._image.paste(Image.fromarray(array))

    def box(self, x: float, y: float, w: float, h: float, colour: Colour) -> None:
        left, top, right, bottom = (round(one * _PX_PER_MM) for one in (x, y, x + w, y + h))
        self._draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)

    def picture(self, x: float, y: float, w: float, h: float, pixels: NDArray[np.uint8]) -> None:
        size = (round(w * _PX_PER_MM), round(h * _PX_PER_MM))
        image = Image.fromarray(pixels)
        if image.size != size:
            smaller = size[0] < image.size[0]
            image = image.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)
        self._image.paste(image.convert("RGB"), (round(x * _PX_PER_MM), round(y * _PX_PER_MM)))

    def bytes(self) -> bytes:
        buffer = io.BytesIO()
        self._image.save(buffer, "PNG", dpi=(25.4 * _PX_PER_MM, 25.4 * _PX_PER_MM))
        return buffer.getvalue()
