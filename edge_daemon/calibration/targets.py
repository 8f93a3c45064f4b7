"""Targets to print: ChArUco board and dot grid, in exact millimetres.

A target is named by its identifier, which is printed on it and says all there is to know about it:

    EDC-14x10-10mm   ChArUco, 14 x 10 squares of nominally 10 mm, markers of 0.7 squares, dictionary 5X5_250 from 0
    EDD-21x15-8mm    dots, 21 x 15 at 8 mm, 0.5 pitches wide; three dots of 0.75 pitches say where up is

Printers scale: the *measured* pitch and its uncertainty are entered when calibrating, never the nominal one. Every
target carries a ruler for checking the print.
"""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..errors import UsageError
from ..units import length_mm
from .geometry import Floats

__all__ = ["Target", "marker_pdf", "parse_target", "target_pdf", "target_png"]

_ID = re.compile(r"ED([CD])-([0-9]{1,3})x([0-9]{1,3})-([0-9.]{1,8}mm)\Z")
_MARKER_SHARE = 0.7
_DOT_SHARE = 0.5
_MARK_SHARE = 0.75
_MARKER_MODULES = 7  # 5 x 5 bits and a border of one module
_MAX_MARKERS = 250
_RULER_MM = 100
_MARGIN_MM = 10.0
_FOOT_MM = 26.0
_MM_IN_POINTS = 72.0 / 25.4
#: Where the three large dots sit, in pitches from the middle dot: no turn or mirror image of it is the same.
_MARKS = ((0, 0), (2, 0), (0, 3))


@dataclass(frozen=True, slots=True)
class Target:
    """What is printed. kind: "charuco" or "dots"; columns, rows: squares or dots; pitch_mm: nominal."""

    kind: str
    columns: int
    rows: int
    pitch_mm: float

    @property
    def id(self) -> str:
        """Identifier, as printed on the target."""
        return f"ED{'C' if self.kind == 'charuco' else 'D'}-{self.columns}x{self.rows}-{self.pitch_mm:g}mm"

    @property
    def points_shape(self) -> tuple[int, int]:
        """(columns, rows) of the points that are measured: inner corners or dots."""
        return (self.columns - 1, self.rows - 1) if self.kind == "charuco" else (self.columns, self.rows)

    @property
    def count(self) -> int:
        """How many points there are."""
        columns, rows = self.points_shape
        return columns * rows

    def indices(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """(column, row) of points, (N, 2)."""
        columns = self.points_shape[0]
        return np.column_stack([ids % columns, ids // columns])

    def points_mm(self, ids: NDArray[np.int64], pitch_mm: tuple[float, float]) -> Floats:
        """Where points are on the target, (N, 2) mm from its first point, with the measured pitch in x and y."""
        return np.asarray(self.indices(ids) * np.asarray(pitch_mm, np.float64), np.float64)

    @property
    def marks(self) -> tuple[int, ...]:
        """The three large dots: origin, two to its right, three below. They say where up is; none is measured."""
        if self.kind == "charuco":
            return ()
        column, row = self.columns // 2, self.rows // 2
        return tuple((row + y) * self.columns + column + x for x, y in _MARKS)

    def radii(self, ids: NDArray[np.int64]) -> Floats:
        """Radius of dots in pitches, (N,)."""
        return np.where(np.isin(ids, self.marks), _MARK_SHARE / 2.0, _DOT_SHARE / 2.0)

    def board(self) -> cv2.aruco.CharucoBoard:
        """OpenCV's object for the ChArUco board, in units of one square."""
        dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_250)
        return cv2.aruco.CharucoBoard((self.columns, self.rows), 1.0, _MARKER_SHARE, dictionary)

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of the pattern at nominal pitch."""
        return self.columns * self.pitch_mm, self.rows * self.pitch_mm

    @property
    def page_mm(self) -> tuple[float, float]:
        """Width and height of the page: pattern, margin, ruler and text."""
        width, height = self.size_mm
        return max(width, _RULER_MM + 10.0) + 2 * _MARGIN_MM, height + 2 * _MARGIN_MM + _FOOT_MM


def parse_target(text: str) -> Target:
    """The target of an identifier. Raises UsageError for one that cannot be printed or found."""
    match = _ID.match(text)
    if match is None:
        raise UsageError(
            f"target {text!r} is not an identifier", hint="it is printed on the target, such as EDC-14x10-10mm"
        )
    kind = "charuco" if match.group(1) == "C" else "dots"
    target = Target(kind, int(match.group(2)), int(match.group(3)), length_mm(match.group(4)))
    if not 0.1 <= target.pitch_mm <= 500.0:
        raise UsageError(f"target {text!r}: pitch {target.pitch_mm:g} mm", hint="from 0.1 mm to 500 mm")
    least = 5 if kind == "charuco" else 7
    if min(target.columns, target.rows) < least:
        raise UsageError(f"target {text!r} is too small", hint=f"at least {least} x {least}")
    if kind == "charuco" and target.columns * target.rows > 2 * _MAX_MARKERS:
        raise UsageError(f"target {text!r} needs more than {_MAX_MARKERS} markers", hint="fewer, larger squares")
    if kind == "dots" and target.columns * target.rows > 5000:
        raise UsageError(f"target {text!r} has more than 5000 dots", hint="fewer, larger dots")
    return target


@dataclass(frozen=True, slots=True)
class _Drawing:
    """Black shapes on white, in mm from the page's top left. bars: x, y, w, h. discs: x, y, radius. texts: x, y, size,
    words (x, y of the baseline's start, size of the capitals' box)."""

    page_mm: tuple[float, float]
    bars: list[tuple[float, float, float, float]]
    discs: list[tuple[float, float, float]]
    texts: list[tuple[float, float, float, str]]


def _draw(target: Target) -> _Drawing:
    drawing = _Drawing(target.page_mm, [], [], [])
    left, top, pitch = _MARGIN_MM, _MARGIN_MM, target.pitch_mm
    if target.kind == "charuco":
        board = target.board()
        dictionary = board.getDictionary()
        number = 0
        for row in range(target.rows):
            for column in range(target.columns):
                x, y = left + column * pitch, top + row * pitch
                if (row + column) % 2 == 0:
                    drawing.bars.append((x, y, pitch, pitch))
                    continue
                drawing.bars.extend(_marker(dictionary, number, x, y, pitch))
                number += 1
    else:
        ids = np.arange(target.count)
        for (column, row), radius in zip(target.indices(ids), target.radii(ids), strict=True):
            drawing.discs.append(
                (float(left + (column + 0.5) * pitch), float(top + (row + 0.5) * pitch), float(radius * pitch))
            )
    below = top + target.size_mm[1] + 8.0
    drawing.bars.append((left, below, float(_RULER_MM), 0.2))
    for tick in range(_RULER_MM + 1):
        length = 5.0 if tick % 10 == 0 else 3.5 if tick % 5 == 0 else 2.0
        drawing.bars.append((left + tick - 0.05, below, 0.1, length))
        if tick % 20 == 0:
            drawing.texts.append((left + tick - 1.5, below + 9.0, 3.0, str(tick)))
    drawing.texts.append((left, below + 14.0, 3.0, f"{target.id}   nominal pitch {pitch:g} mm   print at 100 %"))
    drawing.texts.append((left, below + 18.0, 3.0, "Check the ruler. Measure the pitch and enter what you measured."))
    return drawing


def _marker(
    dictionary: cv2.aruco.Dictionary, number: int, x: float, y: float, pitch: float
) -> list[tuple[float, float, float, float]]:
    """The black runs of one marker centred in the square at x, y."""
    picture = cv2.aruco.generateImageMarker(dictionary, number, _MARKER_MODULES, borderBits=1)
    module = _MARKER_SHARE * pitch / _MARKER_MODULES
    x, y = x + (1.0 - _MARKER_SHARE) / 2.0 * pitch, y + (1.0 - _MARKER_SHARE) / 2.0 * pitch
    bars = []
    for row in range(_MARKER_MODULES):
        black = np.flatnonzero(picture[row] == 0)
        runs = np.split(black, np.flatnonzero(np.diff(black) > 1) + 1)
        bars += [(x + run[0] * module, y + row * module, len(run) * module, module) for run in runs if run.size]
    return bars


def target_pdf(target: Target) -> bytes:
    """One PDF page of exactly the page's size; shapes as vectors, so exact at any printer's resolution."""
    return _pdf(_draw(target))


def marker_pdf(number: int, side_mm: float) -> bytes:
    """A mark that stays in view and shows whether the camera moved: ArUco 4X4_50, on a white card, as PDF.

    Raises UsageError for a number or side that cannot be printed.
    """
    if not 0 <= number < 50 or not 2.0 <= side_mm <= 200.0:
        raise UsageError(f"marker {number} of {side_mm:g} mm", hint="numbers 0 to 49, sides from 2 mm to 200 mm")
    picture = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50), number, 6)
    module, edge = side_mm / 6.0, max(side_mm / 4.0, 5.0)
    page = (side_mm + 2 * edge, side_mm + 2 * edge + 6.0)
    bars = [
        (edge + x * module, edge + y * module, module, module)
        for y, x in zip(*(part.tolist() for part in np.nonzero(picture == 0)), strict=True)
    ]
    words = [(edge, page[1] - 2.0, 2.5, f"4X4_50 no. {number}  {side_mm:g} mm")]
    return _pdf(_Drawing(page, bars, [], words))


def _pdf(drawing: _Drawing) -> bytes:
    width, height = (side * _MM_IN_POINTS for side in drawing.page_mm)
    # Millimetres from the top left; pattern bars that touch must not show a hair line: one path, filled once.
    lines = [f"{_MM_IN_POINTS:.9f} 0 0 {-_MM_IN_POINTS:.9f} 0 {height:.6f} cm", "0 g"]
    lines += [f"{x:.6f} {y:.6f} {w:.6f} {h:.6f} re" for x, y, w, h in drawing.bars]
    bend = 0.5522847498  # a quarter circle as a Bezier curve, radius true to 0.03 %
    for x, y, r in drawing.discs:
        c = bend * r
        lines.append(f"{x + r:.6f} {y:.6f} m")
        for (x1, y1), (x2, y2), (x3, y3) in (
            ((r, c), (c, r), (0, r)),
            ((-c, r), (-r, c), (-r, 0)),
            ((-r, -c), (-c, -r), (0, -r)),
            ((c, -r), (r, -c), (r, 0)),
        ):
            lines.append(f"{x + x1:.6f} {y + y1:.6f} {x + x2:.6f} {y + y2:.6f} {x + x3:.6f} {y + y3:.6f} c")
    lines.append("f")
    for x, y, size, words in drawing.texts:
        lines.append(f"BT /F1 {size:.3f} Tf 1 0 0 -1 {x:.4f} {y:.4f} Tm ({words}) Tj ET")
    stream = zlib.compress("\n".join(lines).encode("ascii"), 9)
    page = (
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:.4f} {height:.4f}] /Contents 4 0 R"
        " /Resources << /Font << /F1 5 0 R >> >> >>"
    )
    objects = [
        # PrintScaling None asks the viewer not to fit the page: the ruler tells whether it obeyed.
        b"<< /Type /Catalog /Pages 2 0 R /ViewerPreferences << /PrintScaling /None >> >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        page.encode("ascii"),
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out = bytearray(b"%PDF-1.6\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    xref = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, xref)
    return bytes(out)


def target_png(target: Target, dpi: int = 600) -> bytes:
    """The same page as an 8-bit grey PNG that states its resolution; edges fall on whole pixels (half a pixel off at
    most, 0.02 mm at 600 dpi): print the PDF where that matters."""
    drawing = _draw(target)
    per_mm = dpi / 25.4
    size = tuple(round(side * per_mm) for side in drawing.page_mm)
    if size[0] * size[1] > 400_000_000:
        raise UsageError(f"target {target.id} at {dpi} dpi has {size[0]} x {size[1]} px", hint="a lower --dpi, or PDF")
    image = Image.new("L", (size[0], size[1]), 255)
    pen = ImageDraw.Draw(image)
    for x, y, w, h in drawing.bars:
        edges = [round(value * per_mm) for value in (x, y, x + w, y + h)]
        pen.rectangle((edges[0], edges[1], max(edges[2] - 1, edges[0]), max(edges[3] - 1, edges[1])), fill=0)
    pixels = np.array(image)
    for x, y, r in drawing.discs:
        # A pixel's centre lies half a pixel from its edge; four binary digits of sub-pixel position.
        centre = (round((x * per_mm - 0.5) * 16), round((y * per_mm - 0.5) * 16))
        cv2.circle(pixels, centre, round(r * per_mm * 16), 0, -1, cv2.LINE_AA, 4)
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    for x, y, text_mm, words in drawing.texts:
        pen.text((x * per_mm, y * per_mm), words, fill=0, font_size=text_mm * per_mm, anchor="ls")
    stream = io.BytesIO()
    image.save(stream, "PNG", dpi=(dpi, dpi))
    return stream.getvalue()
