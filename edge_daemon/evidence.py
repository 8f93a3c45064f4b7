"""Pictures that show why: the grid of ratios, part and reference side by side, the curve over the window side.

For ``inspect --out`` and for reports. What they show is computed with the judge's own functions; nothing here decides.
All pictures are 8-bit RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .images import highlight
from .inspection import Inspection, Station, reference_view
from .judge import Measurement, RuleKind, TypeVerdict, measure
from .judge.maps import curve_sides_mm, tile_map, window_curve
from .records import UNKNOWN_TYPE, Segmentation

__all__ = ["evidence"]

Picture = NDArray[np.uint8]

_INK, _PAPER, _GREY = (25, 30, 38), (255, 255, 255), (120, 128, 140)
_PART, _REFERENCE = (176, 58, 46), (31, 97, 141)
#: Ratio to the limit -> colour: below half, up to the limit, above it. Told apart without red and green as well.
_STEPS = ((0.5, (120, 170, 215)), (1.0, (240, 190, 90)), (float("inf"), (205, 70, 60)))
_PANE_PX = 420


@dataclass(frozen=True, slots=True)
class _View:
    """A picture as it was judged: 8-bit RGB, its segmentation and measurement."""

    picture: Picture
    seen: Segmentation
    measured: Measurement


def evidence(station: Station, inspection: Inspection, pixels: NDArray[Any]) -> dict[str, Picture]:
    """The pictures by file name; without a scale, or where nothing was compared, only those that make sense.

    pixels: the frame as it was inspected.
    """
    if inspection.measurement is None or inspection.segmentation.refusals:
        return {}
    if station.calibration is not None:
        pixels = station.calibration.rectify(pixels)
    part = _View(_grey8(pixels, inspection.segmentation.labels.shape), inspection.segmentation, inspection.measurement)
    pictures = {"tiles.png": _tiles(part, inspection.verdict.types)}
    governed = [
        one for one in inspection.verdict.types if one.rule.kind is RuleKind.LEVEL and one.governing is not None
    ]
    if governed:
        worst = max(governed, key=lambda one: (one.outcome.rank, _ratio(one)))
        reference = _reference(station, worst)
        if reference is not None:
            pictures["comparison.png"] = _comparison(part, reference, worst)
            pictures["curve.png"] = _curves(part, reference, worst)
    return pictures


def _ratio(one: TypeVerdict) -> float:
    governing = one.governing
    return float("inf") if governing is None or governing.ratio is None else governing.ratio


def _reference(station: Station, one: TypeVerdict) -> _View | None:
    found = station.reference_of(one)
    if found is None or one.rule.level is None:
        return None
    pixels, seen, scale = reference_view(station, found, one.rule.level)
    measured = measure(
        seen.labels, seen.coverage, seen.type_names, scale, {one.type: one.rule.windows_mm},
        min_indication_mm={one.type: one.rule.min_indication_mm}, alike=station.engine.bundle.groups,
    )  # fmt: skip
    return _View(_grey8(pixels, seen.labels.shape), seen, measured)


def _grey8(pixels: NDArray[Any], size: tuple[int, ...]) -> Picture:
    """For the eye: stretched between the 0.5 % and 99.5 % quantiles, at the size that was judged, as RGB."""
    small = (
        pixels
        if pixels.shape[:2] == tuple(size)
        else cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    )
    low, high = np.quantile(small, (0.005, 0.995))
    stretched = np.clip((small.astype(np.float32) - low) * (255.0 / max(high - low, 1e-6)), 0, 255).astype(np.uint8)
    rgb: Picture = stretched if stretched.ndim == 3 else np.repeat(stretched[:, :, None], 3, axis=2)
    return rgb


def _font(size_px: int) -> Any:
    return ImageFont.load_default(size_px)


def _canvas(width_px: int, height_px: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width_px, height_px), _PAPER)
    return image, ImageDraw.Draw(image)


# ---------------------------------------------------------------- the grid


def _tiles(part: _View, verdicts: tuple[TypeVerdict, ...]) -> Picture:
    """Per tile the largest ratio of any type to its permitted area, and where a type is found of which none is."""
    width = part.seen.labels.shape[1]
    zoom = min(max(1.0, 900.0 / width), max(1.0, 4000.0 / max(part.seen.labels.shape)))
    base = cv2.resize(part.picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    base = (0.55 * base + 0.45 * 255).astype(np.uint8)
    image = Image.fromarray(base)
    head, foot = 44, 78
    sheet, draw = _canvas(image.width, image.height + head + foot)
    compared = [one for one in verdicts if one.comparisons and one.rule.windows_mm]
    side_mm = min((side for one in compared for side in one.rule.windows_mm), default=_default_side_mm(part))
    overlay = Image.new("RGBA", image.size, (0, 0, 0, 0))
    shade = ImageDraw.Draw(overlay)
    ratios, forbidden, grid = _tile_ratios(part, verdicts, side_mm)
    for row in range(len(grid.ys_px) - 1):
        for column in range(len(grid.xs_px) - 1):
            box = [grid.xs_px[column] * zoom, grid.ys_px[row] * zoom,
                   grid.xs_px[column + 1] * zoom - 1, grid.ys_px[row + 1] * zoom - 1]  # fmt: skip
            ratio, none_permitted = ratios[row, column], forbidden[row, column]
            colour = _STEPS[-1][1] if none_permitted else next(c for bound, c in _STEPS if ratio <= bound)
            if ratio > 0 or none_permitted:
                shade.rectangle(box, fill=(*colour, 105))
                text = "none permitted" if none_permitted else f"{ratio:.2f}"
                size = 12 if none_permitted else 20
                if box[2] - box[0] > 40 and box[3] - box[1] > 24:
                    shade.text((box[0] + 5, box[1] + 3), text, font=_font(size), fill=(*_INK, 255))
            shade.rectangle(box, outline=(*_GREY, 90))
    image = Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")
    marked = _marked(np.asarray(image), part, zoom)
    sheet.paste(Image.fromarray(marked), (0, head))
    draw.text(
        (8, 10), f"Area of the worst type against what is permitted, tiles of {side_mm:g} mm", font=_font(19), fill=_INK
    )
    y = image.height + head + 14
    x = 8
    for (_bound, colour), text in zip(_STEPS, ("up to half", "up to the limit", "above"), strict=True):
        draw.rectangle([x, y, x + 22, y + 22], fill=colour)
        draw.text((x + 30, y), text, font=_font(17), fill=_INK)
        x += 175
    _scale_bar(draw, (image.width - 12, y + 16), zoom / part.measured.scale.x_mm_per_px)
    draw.text((8, y + 32), "The verdict looks at every position, not only at these.", font=_font(15), fill=_GREY)
    return np.asarray(sheet)


def _default_side_mm(part: _View) -> float:
    return min(part.measured.image_px) * min(part.measured.scale.both) / 4.0


def _tile_ratios(
    part: _View, verdicts: tuple[TypeVerdict, ...], side_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Any]:
    labels, coverage, scale = part.seen.labels, part.seen.coverage, part.measured.scale
    grid = tile_map(labels, coverage, 0, scale, side_mm)
    ratios, forbidden = np.zeros_like(grid.area_pct), np.zeros(grid.area_pct.shape, bool)
    for one in verdicts:
        found = part.measured.types.get(one.type)
        if found is None:
            continue
        area_pct = tile_map(labels, coverage, found.label, scale, side_mm).area_pct
        permitted = next(
            (c.permitted for c in one.comparisons if c.metric == "area_pct" and c.side_mm == side_mm),
            next((c.permitted for c in one.comparisons if c.metric == "area_pct"), None),
        )
        if permitted is not None and permitted > 0:
            ratios = np.maximum(ratios, area_pct / permitted)
        elif one.rule.kind in (RuleKind.NONE_PERMITTED, RuleKind.LEVEL) or one.type == UNKNOWN_TYPE:
            forbidden |= area_pct > 0
    return ratios, forbidden, grid


def _marked(picture: Picture, part: _View, zoom: float) -> Picture:
    size = picture.shape[1], picture.shape[0]
    labels = cv2.resize(part.seen.labels, size, interpolation=cv2.INTER_NEAREST)
    yellow: Picture = highlight(picture, labels.astype(np.uint8))
    return yellow


def _scale_bar(draw: ImageDraw.ImageDraw, right_px: tuple[int, int], px_per_mm: float) -> None:
    """A bar of 1, 2, 5, 10 ... mm that ends at ``right_px``."""
    length_mm = next((mm for mm in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if mm * px_per_mm >= 60), 100)
    x, y = right_px
    start = x - length_mm * px_per_mm
    draw.line([start, y, x, y], fill=_INK, width=3)
    for end in (start, x):
        draw.line([end, y - 5, end, y + 5], fill=_INK, width=2)
    draw.text((start, y - 24), f"{length_mm:g} mm", font=_font(14), fill=_INK)


# ---------------------------------------------------------------- side by side


def _crop(view: _View, at_px: tuple[int, int], side_px: int, around_px: int, pane_px: int) -> Image.Image:
    """The window in the middle of a pane of ``around_px`` image pixels, the same for both panes; defects yellow."""
    x0, y0 = at_px[0] + side_px // 2 - around_px // 2, at_px[1] + side_px // 2 - around_px // 2
    padded = cv2.copyMakeBorder(
        view.picture, around_px, around_px, around_px, around_px, cv2.BORDER_CONSTANT, value=_PAPER
    )
    labels = cv2.copyMakeBorder(view.seen.labels, around_px, around_px, around_px, around_px, cv2.BORDER_CONSTANT)
    cut = np.s_[y0 + around_px : y0 + 2 * around_px, x0 + around_px : x0 + 2 * around_px]
    zoom = pane_px / around_px
    picture = cv2.resize(padded[cut], (pane_px, pane_px), interpolation=cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA)
    marks = cv2.resize(labels[cut], (pane_px, pane_px), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    pane = Image.fromarray(highlight(picture, marks))
    left, top = (at_px[0] - x0) * zoom, (at_px[1] - y0) * zoom
    ImageDraw.Draw(pane).rectangle(
        [left, top, left + side_px * zoom, top + side_px * zoom], outline=(0, 200, 255), width=3
    )
    return pane


def _comparison(part: _View, reference: _View, one: TypeVerdict) -> Picture:
    """The governing window of the part beside the worst window of its reference, at one scale."""
    governing = one.governing
    side_mm = governing.side_mm if governing and governing.side_mm is not None else min(one.rule.windows_mm)
    own, theirs = (
        next(window for window in found.windows if window.side_mm == side_mm)
        for found in (one.measurement, reference.measured.of(one.type, one.rule.windows_mm))
    )
    around_px = max(8, int(1.6 * min(own.side_px, max(part.seen.labels.shape))))
    pane = _PANE_PX
    sheet, draw = _canvas(2 * pane + 36, pane + 190)
    for column, (view, window, name, colour) in enumerate(
        ((part, own, "part", _PART), (reference, theirs, f"reference, level {one.rule.level}", _REFERENCE))
    ):
        x = 12 + column * (pane + 12)
        draw.text((x, 10), name, font=_font(21), fill=colour)
        sheet.paste(_crop(view, window.area_pct.at_px, window.side_px, around_px, pane), (x, 42))
        found = view.measured.of(one.type, one.rule.windows_mm)
        draw.text(
            (x, pane + 52),
            f"worst {side_mm:g} mm window: {window.area_pct.value:.3g} % area, {window.count.value:g} indications\n"
            f"largest indication: {found.max_size_mm.value:.3g} mm",
            font=_font(16), fill=_INK, spacing=6,
        )  # fmt: skip
    said = f"{one.type}: {one.outcome}"
    if governing is not None and governing.ratio is not None:
        said += f", {governing.metric} is {governing.ratio:.2f} times the reference"
        said += f" (permitted {1 + one.rule.tolerance:g})"
    severity = "worse than the worst plate" if one.severity is None else f"measured severity {one.severity:.1f}"
    draw.text((12, pane + 112), said, font=_font(19), fill=_INK)
    draw.text((12, pane + 142), f"{severity}; row {one.rule.row_id} {one.rule.edition}", font=_font(16), fill=_GREY)
    _scale_bar(draw, (2 * pane + 24, pane + 176), pane / around_px / part.measured.scale.x_mm_per_px)
    return np.asarray(sheet)


# ---------------------------------------------------------------- the curve


def _curves(part: _View, reference: _View, one: TypeVerdict) -> Picture:
    """Worst-window area share over the window side, for part and reference."""
    label = part.seen.type_names.index(one.type) + 1
    shorter = tuple(min(a, b) for a, b in zip(part.measured.image_px, reference.measured.image_px, strict=True))
    sides = curve_sides_mm(part.measured.scale, (shorter[0], shorter[1]))
    lines = [
        (name, colour, window_curve(view.seen.labels, view.seen.coverage, label, view.measured.scale, sides))
        for name, colour, view in (("part", _PART, part), (f"reference {one.rule.level}", _REFERENCE, reference))
    ]
    width, height, left, top, right, bottom = 900, 520, 76, 56, 24, 64
    sheet, draw = _canvas(width, height)
    floor = 0.01
    highest = max(max(values) for _, _, values in lines) or 1.0
    ceiling = 10 ** np.ceil(np.log10(max(highest, 10 * floor)))

    def at(side_mm: float, pct: float) -> tuple[float, float]:
        across = np.log(side_mm / sides[0]) / np.log(sides[-1] / sides[0])
        up = np.log(max(pct, floor) / floor) / np.log(ceiling / floor)
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    for tick in (one_ for one_ in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if sides[0] <= one_ <= sides[-1]):
        x, _ = at(tick, ceiling)
        draw.line([x, top, x, height - bottom], fill=(228, 231, 235))
        draw.text((x - 8, height - bottom + 8), f"{tick:g}", font=_font(15), fill=_INK)
    tick = floor
    while tick <= ceiling * 1.001:
        _, y = at(sides[0], tick)
        draw.line([left, y, width - right, y], fill=(228, 231, 235))
        draw.text((10, y - 10), f"{tick:g} %", font=_font(15), fill=_INK)
        tick *= 10
    for side in one.rule.windows_mm:
        if sides[0] <= side <= sides[-1]:
            x, _ = at(side, ceiling)
            draw.line([x, top, x, height - bottom], fill=_GREY, width=2)
            draw.text((x + 4, top + 2), f"rule: {side:g} mm", font=_font(14), fill=_GREY)
    for name, colour, values in lines:
        points = [at(side, pct) for side, pct in zip(sides, values, strict=True)]
        draw.line(points, fill=colour, width=3, joint="curve")
        for x, y in points:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
        # The worst window only thins out as it grows: the lower left corner is free.
        legend_y = height - bottom - 64 + 24 * (colour == _REFERENCE)
        draw.line([left + 16, legend_y + 10, left + 46, legend_y + 10], fill=colour, width=3)
        draw.text((left + 54, legend_y), name, font=_font(17), fill=colour)
    draw.text((left, 14), f"{one.type}: worst-window area share over the window side", font=_font(19), fill=_INK)
    draw.text((width // 2 - 80, height - 30), "window side, mm", font=_font(16), fill=_INK)
    return np.asarray(sheet)
