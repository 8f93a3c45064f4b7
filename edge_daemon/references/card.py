"""The printable card of a reference set: A4 landscape, every plate at the same scale and contrast, with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import floor, inf

import cv2
import numpy as np
from numpy.typing import NDArray

from .drawing import Align, PdfSheet, PngSheet, Sheet, wrapped
from .limits import SetLimits
from .sets import ReferenceSet

__all__ = ["CARD_MM", "card_pdf", "card_png"]

#: A4 landscape.
CARD_MM = (297.0, 210.0)

_MARGIN = 12.0
_BOTTOM = 8.0
_GAP = 5.0
_HEADING = 5.0
_INK, _SOFT, _RULE, _YELLOW, _STRIPE = (20, 20, 20), (105, 105, 105), (190, 190, 190), (255, 255, 0), (244, 244, 244)
_PLATES_TOP = 31.0
_TABLE_ROW = 4.4
_FOOT = 20.0

_TITLES = {
    "gas_hole": "Gas holes",
    "gas_porosity_round": "Gas porosity, round",
    "gas_porosity_elongated": "Gas porosity, elongated",
    "shrinkage_cavity": "Shrinkage, cavity",
    "shrinkage_sponge": "Shrinkage, sponge",
    "shrinkage_dendritic": "Shrinkage, dendritic",
    "shrinkage_filamentary": "Shrinkage, filamentary",
    "foreign_less_dense": "Foreign material, less dense",
    "foreign_more_dense": "Foreign material, more dense",
    "crack": "Cracks",
    "cold_shut": "Cold shuts",
}
_FRACTIONS = (2, 4, 8, 16, 32)


def card_pdf(
    found: ReferenceSet, measured: SetLimits | None, outlines: Mapping[int, NDArray[np.bool_]] | None = None
) -> bytes:
    """The card as one PDF page. measured: the table's values, None leaves the table away. outlines: bool (H, W) by
    level, drawn in yellow. The same card gives the same bytes. Raises MissingExtra without reportlab."""
    sheet = PdfSheet(*CARD_MM, f"Reference card {_title(found)} {found.name}")
    _draw(sheet, found, measured, outlines or {})
    return sheet.bytes()


def card_png(
    found: ReferenceSet, measured: SetLimits | None, outlines: Mapping[int, NDArray[np.bool_]] | None = None
) -> bytes:
    """The card as PNG, 254 dpi; as ``card_pdf``."""
    sheet = PngSheet(*CARD_MM, _title(found))
    _draw(sheet, found, measured, outlines or {})
    return sheet.bytes()


def _title(found: ReferenceSet) -> str:
    return _TITLES.get(found.discontinuity, found.discontinuity.replace("_", " ").capitalize())


def _inch(value_mm: float) -> str:
    """As a fraction where it is one of the workshop's, else to three digits."""
    inches = value_mm / 25.4
    for parts in _FRACTIONS:
        if abs(inches * parts - round(inches * parts)) < 1e-6 and round(inches * parts):
            whole, rest = divmod(Fraction(round(inches * parts), parts), 1)
            return " ".join(str(one) for one in (int(whole), rest) if one) + " in"
    return f"{inches:.3f} in"


def _draw(
    sheet: Sheet, found: ReferenceSet, measured: SetLimits | None, outlines: Mapping[int, NDArray[np.bool_]]
) -> None:
    width, _ = CARD_MM
    _head(sheet, found)
    rows = _table_rows(measured) if measured is not None else []
    table_top = CARD_MM[1] - _BOTTOM - _FOOT - (len(rows) + 1.2) * _TABLE_ROW
    room = table_top - 3.0 if rows else CARD_MM[1] - _BOTTOM - _FOOT - 2.0
    columns = 4
    lines = -(-len(found.images) // columns)
    cell_w = (width - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    cell_h = (room - _PLATES_TOP - (lines - 1) * 2.0) / lines - _HEADING
    factor = _factor(found, cell_w, cell_h)
    size = found.size_px[0] * found.scale.x_mm_per_px * factor, found.size_px[1] * found.scale.y_mm_per_px * factor
    shown = _same_contrast(found)
    for index, level in enumerate(found.images):
        x = _MARGIN + (index % columns) * (width - 2 * _MARGIN - size[0]) / (columns - 1)
        y = _PLATES_TOP + (index // columns) * (size[1] + _HEADING + 2.0) + _HEADING
        sheet.text(x, y - 1.4, str(level), 12, bold=True)
        if measured is not None:
            side = measured.windows_mm[0]
            area = measured.levels[level].metrics[("area_pct", side)].raw
            sheet.text(x + size[0], y - 1.4, f"{_number(area)} % in {side:g} mm", 6.5, align="right", colour=_SOFT)
        sheet.picture(x, y, *size, shown[level])
        frame = [(x, y), (x + size[0], y), (x + size[0], y + size[1]), (x, y + size[1])]
        sheet.lines([frame], 0.15, _SOFT, closed=True)
        if level in outlines:
            _outline(sheet, outlines[level], (x, y), size)
    if measured is not None:
        _table(sheet, found, measured, rows, table_top)
    _foot(sheet, found, measured, factor, bool(outlines))


def _head(sheet: Sheet, found: ReferenceSet) -> None:
    right = CARD_MM[0] - _MARGIN
    sheet.text(_MARGIN, 12.0, "REFERENCE CARD", 7, bold=True, colour=_SOFT)
    sheet.text(_MARGIN, 20.0, _title(found), 18, bold=True)
    facts = [found.metal.capitalize()]
    if found.thickness_mm is not None:
        facts.append(f"{found.thickness_mm:g} mm ({_inch(found.thickness_mm)}) plate")
    width_mm = found.size_px[0] * found.scale.x_mm_per_px
    height_mm = found.size_px[1] * found.scale.y_mm_per_px
    facts.append(f"{width_mm:.4g} × {height_mm:.4g} mm shown")
    if found.form:
        facts.append(f"{found.form} reference")
    sheet.text(_MARGIN, 26.5, "  ·  ".join(facts), 9)
    sheet.text(right, 12.0, "SET AND EDITION", 7, bold=True, colour=_SOFT, align="right")
    sheet.text(right, 20.0, found.name, 14, bold=True, align="right")
    sheet.text(right, 26.5, found.edition or "no edition stated", 9, align="right")
    sheet.lines([[(_MARGIN, 29.5), (right, 29.5)]], 0.3, _INK)


def _factor(found: ReferenceSet, cell_w: float, cell_h: float) -> float:
    """Printed size over true size: whole numbers up, life size where it fits, else what fits."""
    width_mm = found.size_px[0] * found.scale.x_mm_per_px
    height_mm = found.size_px[1] * found.scale.y_mm_per_px
    most = min(cell_w / width_mm, cell_h / height_mm)
    return float(floor(most + 1e-9)) if most >= 1.0 - 1e-9 else most


def _same_contrast(found: ReferenceSet) -> dict[int, NDArray[np.uint8]]:
    """Every plate through one grey curve, black and white at the outer two thousandths of all of them together."""
    grey = {
        level: image.pixels if image.pixels.ndim == 2 else cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)
        for level, image in found.images.items()
    }
    pooled = np.concatenate([one[::2, ::2].ravel() for one in grey.values()])
    black, white = (float(one) for one in np.quantile(pooled, (0.001, 0.999)))
    # Never more than eightfold: the noise of sound metal is not to look like structure.
    least = float(np.iinfo(pooled.dtype).max) / 8
    if white - black < least:
        middle = (black + white) / 2
        black, white = middle - least / 2, middle + least / 2
    span = 255.0 / (white - black)
    return {
        level: np.clip((one.astype(np.float32) - np.float32(black)) * np.float32(span) + 0.5, 0, 255).astype(np.uint8)
        for level, one in grey.items()
    }


def _outline(sheet: Sheet, mask: NDArray[np.bool_], at: tuple[float, float], size: tuple[float, float]) -> None:
    """The outer edges of the marked pixels, not through their middles: traced on a threefold grid."""
    marked = np.kron(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    contours, _ = cv2.findContours(np.pad(marked, 1), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    height, width = mask.shape
    traced = []
    for contour in contours:
        points = (contour[:, 0, :].astype(np.float64) - 0.5) / (3.0 * np.array([width, height])) * np.array(size)
        if len(points) > 2:
            traced.append([(at[0] + float(x), at[1] + float(y)) for x, y in points])
    if traced:
        sheet.lines(traced, 0.12, _YELLOW, closed=True)


def _number(value: float) -> str:
    if value == inf:
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _table_rows(measured: SetLimits) -> list[tuple[str, tuple[str, float | None]]]:
    rows: list[tuple[str, tuple[str, float | None]]] = [
        (f"Area, worst {side:g} mm window, %", ("area_pct", side)) for side in measured.windows_mm
    ]
    rows.append(("Largest indication, mm", ("max_size_mm", None)))
    rows += [(f"Count, worst {side:g} mm window", ("count", side)) for side in measured.windows_mm]
    rows.append(("Smallest gap, mm", ("min_gap_mm", None)))
    return rows


def _table(
    sheet: Sheet, found: ReferenceSet, measured: SetLimits, rows: list[tuple[str, tuple[str, float | None]]], top: float
) -> None:
    right, label = CARD_MM[0] - _MARGIN, 68.0
    step = (right - _MARGIN - label) / len(found.images)

    def cell(index: int, y: float, words: str, bold: bool = False, align: Align = "right") -> None:
        sheet.text(_MARGIN + label + (index + 1) * step - 4.0, y, words, 7.5, bold=bold, align=align)

    y = top + _TABLE_ROW - 1.3
    sheet.text(_MARGIN + 1.0, y, "Level", 7.5, bold=True)
    for index, level in enumerate(found.images):
        cell(index, y, str(level), bold=True)
    sheet.lines([[(_MARGIN, top + _TABLE_ROW), (right, top + _TABLE_ROW)]], 0.2, _RULE)
    for number, (name, key) in enumerate(rows, start=1):
        if number % 2 == 0:
            sheet.box(_MARGIN, top + number * _TABLE_ROW, right - _MARGIN, _TABLE_ROW, _STRIPE)
        y = top + (number + 1) * _TABLE_ROW - 1.3
        sheet.text(_MARGIN + 1.0, y, name, 7.5)
        for index, level in enumerate(found.images):
            metric = measured.levels[level].metrics[key]
            words = f"{metric.raw:.0f}" if key[0] == "count" else _number(metric.raw)
            cell(index, y, words + ("*" if metric.value is None else ""))
    bottom = top + (len(rows) + 1) * _TABLE_ROW
    sheet.lines([[(_MARGIN, bottom), (right, bottom)]], 0.2, _RULE)


def _foot(sheet: Sheet, found: ReferenceSet, measured: SetLimits | None, factor: float, has_outlines: bool) -> None:
    top = CARD_MM[1] - _BOTTOM - _FOOT + 3.0
    _bar(sheet, top + 3.0, 20.0 * factor, 4, ("0", f"{20:g} mm"))
    _bar(sheet, top + 11.5, 25.4 * factor, 4, ("0", "1 in"))
    scale = (
        "Life size (1 : 1) at 100 % print" if factor == 1.0
        else f"Scale {factor:g} : 1 at 100 % print" if factor > 1.0
        else f"Scale 1 : {1 / factor:.2f} at 100 % print"
    )  # fmt: skip
    sheet.text(_MARGIN, top + 18.2, f"{scale}: check the bars.", 6, colour=_SOFT)
    x = _MARGIN + max(62.0, 25.4 * factor + 20.0)
    room = CARD_MM[0] - _MARGIN - x
    notes = []
    if measured is not None:
        by = "on the exact masks" if measured.source == "masks" else f"by {measured.source}"
        notes.append(f"Values: the worst window anywhere on the plate, measured {by}.")
        if any(one.dropped for one in measured.levels.values()):
            notes[-1] += " * out of order by more than a tenth: sets no limit at this level."
    notes.append(
        f"{found.scale.x_mm_per_px:.6g} mm per pixel (u = {found.scale.u_mm_per_px:.2g} mm). All plates in one"
        f" contrast, voids bright.{' Outlined in yellow: what was measured.' if has_outlines else ''}"
    )
    remark = str(found.document.get("remark", ""))
    notes.append(f"Licence: {found.licence or 'not stated'}. {remark[:1].upper()}{remark[1:]}")
    y = top + 2.0
    for note in notes:
        for words in wrapped(sheet, note, room, 6.5):
            sheet.text(x, y, words, 6.5, colour=_SOFT)
            y += 2.9
    sheet.text(x, top + 18.2, f"Seal (SHA-256 of the manifest): {found.sha256}", 6, colour=_SOFT)


def _bar(sheet: Sheet, y: float, length: float, parts: int, words: tuple[str, str]) -> None:
    """A scale bar, black and white in turn, its ends labelled."""
    for part in range(parts):
        x = _MARGIN + length * part / parts
        sheet.box(x, y - 1.2, length / parts, 1.4, _INK if part % 2 == 0 else (255, 255, 255))
    ends = [(_MARGIN, y - 1.2), (_MARGIN + length, y - 1.2), (_MARGIN + length, y + 0.2), (_MARGIN, y + 0.2)]
    sheet.lines([ends], 0.15, _INK, closed=True)
    sheet.text(_MARGIN, y + 3.4, words[0], 7)
    sheet.text(_MARGIN + length, y + 3.4, words[1], 7, align="centre")
