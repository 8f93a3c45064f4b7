"""From a label image and a scale to numbers in millimetres: the same code for part and reference, so biases cancel."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from ..errors import RuleError
from ..records import UNKNOWN_LABEL, UNKNOWN_TYPE
from .indications import Indication, Marks, find_marks, outline_mm, smallest_gap_mm
from .windows import RegionArea, WindowScan, window_side_px

__all__ = [
    "Measurement",
    "Scale",
    "TypeMeasurement",
    "Uncertainty",
    "Value",
    "WindowMeasurement",
    "area_uncertainty_mm2",
    "marked_pixels",
    "measure",
    "size_uncertainty_mm",
]


@dataclass(frozen=True, slots=True)
class Scale:
    """mm per px in x and y, and the standard uncertainty of that scale (k = 1, in mm per px, common to both axes)."""

    x_mm_per_px: float
    y_mm_per_px: float
    u_mm_per_px: float = 0.0

    def __post_init__(self) -> None:
        for value in (self.x_mm_per_px, self.y_mm_per_px):
            if not (np.isfinite(value) and 1e-6 <= value <= 1e3):
                raise RuleError(f"scale {value} mm per px is not plausible", hint="give mm per pixel, such as 0.1")
        if not (np.isfinite(self.u_mm_per_px) and 0 <= self.u_mm_per_px < min(self.x_mm_per_px, self.y_mm_per_px)):
            raise RuleError(
                f"uncertainty of scale {self.u_mm_per_px} mm per px is not plausible",
                hint="give the standard uncertainty (k = 1) in mm per pixel, from 0 to below the scale itself",
            )

    @property
    def both(self) -> tuple[float, float]:
        """(sx, sy) in mm per px."""
        return self.x_mm_per_px, self.y_mm_per_px

    @property
    def relative_u(self) -> float:
        """u_s / s, the larger of the two axes."""
        return self.u_mm_per_px / min(self.both)


@dataclass(frozen=True, slots=True)
class Value:
    """A measured value, its standard uncertainty (k = 1) and where it was found (top-left corner of the window).

    budget: what the uncertainty is made of, by name and as standard uncertainties of this value; u is their root sum of
    squares (GUM 5.1.2, independent contributions).
    """

    value: float
    u: float
    at_px: tuple[int, int]
    budget: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """What adds to the scale's uncertainty; all standard uncertainties (k = 1), all 0 where nothing is known.

    edge_mm: of an edge's place; edge_by_type_mm: where it is known by type, as in an engine's certificate.
    repeat_area_pct, repeat_length_mm: standard deviations over repeated frames of one golden part.
    """

    edge_mm: float = 0.0
    repeat_area_pct: float = 0.0
    repeat_length_mm: float = 0.0
    edge_by_type_mm: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = [(name, getattr(self, name)) for name in ("edge_mm", "repeat_area_pct", "repeat_length_mm")]
        for name, value in (*named, *self.edge_by_type_mm.items()):
            if not (np.isfinite(value) and value >= 0.0):
                raise RuleError(f"uncertainty {name} = {value}", hint="a standard uncertainty is 0 or more")

    def for_type(self, type_name: str) -> Uncertainty:
        """With the edge of this type."""
        edge_mm = self.edge_by_type_mm.get(type_name, self.edge_mm)
        return Uncertainty(edge_mm, self.repeat_area_pct, self.repeat_length_mm)


@dataclass(frozen=True, slots=True)
class WindowMeasurement:
    """The worst window of one side. side_px is nominal; true_mm is (w x sx, h x sy) of the window really used."""

    side_mm: float
    side_px: int
    true_mm: tuple[float, float]
    area_pct: Value
    count: Value


@dataclass(frozen=True, slots=True)
class TypeMeasurement:
    """All of one type on one image. max_size_mm.at_px is the corner of the largest indication's box; min_gap_mm is the
    smallest edge-to-edge distance between two counted indications: None where it was not asked for, infinite where
    there are not two."""

    type: str
    label: int
    indications: tuple[Indication, ...]
    windows: tuple[WindowMeasurement, ...]
    max_size_mm: Value
    area_mm2: Value
    min_gap_mm: Value | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Every type found on one image, by type name; a type that does not occur is not in it."""

    types: Mapping[str, TypeMeasurement]
    image_px: tuple[int, int]
    scale: Scale

    def of(self, type_name: str, windows_mm: Sequence[float]) -> TypeMeasurement:
        """The measurement of a type, or one of zeros (and no gap) where the type does not occur."""
        if type_name in self.types:
            return self.types[type_name]
        zero = Value(0.0, 0.0, (0, 0))
        none = Value(inf, 0.0, (0, 0))
        windows = tuple(
            WindowMeasurement(side, *_window_geometry(side, self.scale, self.image_px)[1:], zero, zero)
            for side in windows_mm
        )
        return TypeMeasurement(type_name, 0, (), windows, zero, zero, none)


def _window_geometry(
    side_mm: float, scale: Scale, image_px: tuple[int, int]
) -> tuple[tuple[int, int], int, tuple[float, float]]:
    """((w, h) nominal px, reported side px, true mm of the clipped window)."""
    nominal = window_side_px(side_mm, scale.x_mm_per_px), window_side_px(side_mm, scale.y_mm_per_px)
    used = min(nominal[0], image_px[0]), min(nominal[1], image_px[1])
    return nominal, nominal[0], (used[0] * scale.x_mm_per_px, used[1] * scale.y_mm_per_px)


def _value(value: float, at_px: tuple[int, int], *terms: tuple[str, float]) -> Value:
    """A value with its budget; terms of 0 are left out."""
    budget = tuple((name, float(u)) for name, u in terms if u)
    return Value(value, float(np.sqrt(sum(u * u for _, u in budget))), at_px, budget)


def _area_value(
    value: float, unit_mm2: float, at_px: tuple[int, int], perimeter_mm: float, scale: Scale, u_edge_mm: float,
    repeat: float = 0.0,
) -> Value:  # fmt: skip
    """An area of ``value`` x ``unit_mm2``. u^2 = (2 A u_s/s)^2 + (perimeter x u_edge)^2 + u_rep^2: both axes share the
    scale's error, and an edge that lies too far out does so all around. Nothing there: nothing uncertain."""
    if not value:
        return Value(0.0, 0.0, at_px)
    return _value(
        value,
        at_px,
        ("scale", 2.0 * value * scale.relative_u),
        ("edge", perimeter_mm * u_edge_mm / unit_mm2),
        ("repeatability", repeat),
    )


def _length_value(value_mm: float, at_px: tuple[int, int], scale: Scale, uncertainty: Uncertainty) -> Value:
    """u^2 = (L u_s/s)^2 + 2 u_edge^2 + u_rep^2: two independent edges bound a length."""
    if not value_mm:
        return Value(0.0, 0.0, at_px)
    return _value(
        value_mm,
        at_px,
        ("scale", value_mm * scale.relative_u if value_mm < inf else 0.0),
        ("edge", sqrt(2.0) * uncertainty.edge_mm),
        ("repeatability", uncertainty.repeat_length_mm),
    )


def _measure_type(
    name: str,
    label: int,
    marks: Marks,
    coverage: NDArray[np.float32] | None,
    image_px: tuple[int, int],
    scale: Scale,
    windows_mm: Sequence[float],
    region: RegionArea | None,
    uncertainty: Uncertainty,
    spacing: bool,
) -> TypeMeasurement:
    counted = [one for one in marks.indications if one.counted]
    ys, xs = marks.ys, marks.xs
    if len(counted) < len(marks.indications):
        keep = np.zeros(len(marks.indications) + 1, bool)
        keep[[one.component for one in counted]] = True
        ys, xs = ys[keep[marks.owner]], xs[keep[marks.owner]]
    shares = None if coverage is None else coverage[ys, xs]
    covered = WindowScan(ys, xs, shares, image_px)
    core = np.ones(len(ys), bool) if shares is None or not (shares >= 0.5).any() else shares >= 0.5
    # A window [x, x + w) holds the pixel whose index is the floor of a centroid exactly when it holds the centroid.
    places = sorted((int(np.floor(one.centroid_px[1])), int(np.floor(one.centroid_px[0]))) for one in counted)
    centroids = np.array(places, np.intp).reshape(-1, 2)
    points = WindowScan(centroids[:, 0], centroids[:, 1], None, image_px)
    px_area_mm2 = scale.x_mm_per_px * scale.y_mm_per_px
    windows = []
    for side_mm in windows_mm:
        nominal, side_px, true_mm = _window_geometry(side_mm, scale, image_px)
        area = covered.worst(nominal, region=region, share=True)
        count = points.worst(nominal)
        x, y = area.at_px
        w, h = min(nominal[0], image_px[0]), min(nominal[1], image_px[1])
        window_mm2 = max(w * h if region is None else region.inside(x, y, w, h), 1) * px_area_mm2
        perimeter_mm = 0.0
        if uncertainty.edge_mm:
            inside = np.zeros((h, w), bool)
            here = (ys >= y) & (ys < y + h) & (xs >= x) & (xs < x + w) & core
            inside[ys[here] - y, xs[here] - x] = True
            perimeter_mm = outline_mm(inside, scale.both)
        unit_mm2 = window_mm2 / 100.0
        windows.append(
            WindowMeasurement(
                side_mm,
                side_px,
                true_mm,
                area_pct=_area_value(
                    100.0 * area.value,
                    unit_mm2,
                    area.at_px,
                    perimeter_mm,
                    scale,
                    uncertainty.edge_mm,
                    uncertainty.repeat_area_pct,
                ),
                count=Value(count.value, 0.0, count.at_px),
            )
        )
    largest = max(counted, key=lambda one: one.feret_max_mm, default=None)
    total_px = float(len(ys)) if shares is None else float(shares.sum(dtype=np.float64))
    perimeter_mm = sum(one.perimeter_mm for one in counted)
    return TypeMeasurement(
        type=name,
        label=label,
        indications=marks.indications,
        windows=tuple(windows),
        max_size_mm=_length_value(
            largest.feret_max_mm if largest else 0.0,
            (largest.bbox_px[0], largest.bbox_px[1]) if largest else (0, 0),
            scale,
            uncertainty,
        ),
        area_mm2=_area_value(total_px * px_area_mm2, 1.0, (0, 0), perimeter_mm, scale, uncertainty.edge_mm),
        min_gap_mm=_smallest_gap(marks, scale, uncertainty) if spacing else None,
    )


def area_uncertainty_mm2(one: Indication, scale: Scale, uncertainty: Uncertainty) -> float:
    """Standard uncertainty of one indication's area."""
    return _area_value(one.area_mm2, 1.0, (0, 0), one.perimeter_mm, scale, uncertainty.edge_mm).u


def size_uncertainty_mm(one: Indication, scale: Scale, uncertainty: Uncertainty) -> float:
    """Standard uncertainty of one indication's largest caliper distance."""
    return _length_value(one.feret_max_mm, (0, 0), scale, uncertainty).u


def _smallest_gap(marks: Marks, scale: Scale, uncertainty: Uncertainty) -> Value:
    gap_mm, number = smallest_gap_mm(marks, scale.both)
    at_px = marks.indications[number - 1].bbox_px[:2] if number else (0, 0)
    return _length_value(gap_mm, at_px, scale, uncertainty)


def marked_pixels(labels: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Flat index and label of every marked pixel, row by row. Eight sound pixels are passed over in one step."""
    flat = np.ascontiguousarray(labels).ravel()
    whole = len(flat) // 8 * 8
    words = np.flatnonzero(flat[:whole].view(np.uint64))
    near = (words[:, None] * 8 + np.arange(8)).ravel()
    near = np.concatenate([near, np.arange(whole, len(flat))])
    values = flat[near]
    marked = values != 0
    return near[marked], values[marked]


def _names(
    present: Sequence[int], type_names: Sequence[str], wanted: Collection[str], alike: Sequence[Sequence[str]]
) -> Iterator[tuple[str, int, list[int]]]:
    """(name, its label, labels that count as it) of every type to measure, in the order of the labels."""
    labels_of = {name: label for label, name in enumerate(type_names, start=1)}
    for name, label in (*labels_of.items(), (UNKNOWN_TYPE, UNKNOWN_LABEL)):
        together = [label]
        if name in wanted:
            group = next((group for group in alike if name in group), ())
            together += [labels_of[other] for other in group if other != name and other in labels_of]
        if any(one in present for one in together):
            yield name, label, together


def measure(
    labels: NDArray[np.uint8],
    coverage: NDArray[np.float32] | None,
    type_names: Sequence[str],
    scale: Scale,
    windows_mm: Mapping[str, Sequence[float]],
    *,
    region: NDArray[np.bool_] | None = None,
    min_indication_mm: Mapping[str, float] | None = None,
    uncertainty: Uncertainty = Uncertainty(),
    spacing: Collection[str] = (),
    least_share: float = 0.0,
    alike: Sequence[Sequence[str]] = (),
) -> Measurement:
    """Measure everything that is marked.

    Parameters
    ----------
    labels : uint8 (H, W): 0 sound, k the type ``type_names[k - 1]``, 255 a defect of unknown type.
    coverage : float32 (H, W) in [0, 1], or None: then every labelled pixel counts in full.
    type_names : identifiers of labels 1..K.
    scale : mm per px with its uncertainty.
    windows_mm : window sides per type name; a type that is not in it is measured without windows.
    region : bool (H, W), what belongs to the part; marks outside it are not measured. None = everything.
    min_indication_mm : cut-off per type; smaller indications are listed, not counted.
    uncertainty : what adds to the scale's uncertainty.
    spacing : the types whose smallest gap is wanted.
    least_share : windows of which less belongs to ``region`` are left out, unless none has as much.
    alike : groups of types that cannot be told apart. A mark of one of them may be any of them, so each type of
        ``windows_mm`` is measured over the marks of its whole group, also where none bears its own name.

    Raises RuleError for a label without a name, a shape that does not match, or coverage outside [0, 1].
    Does not cover: a scale that varies over the image, tilt, temperature.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8 or labels.size == 0:
        raise RuleError(f"labels must be a uint8 image, got {labels.dtype} {labels.shape}")
    for name, array in (("coverage", coverage), ("region", region)):
        if array is not None and array.shape != labels.shape:
            raise RuleError(f"{name} is {array.shape}, labels are {labels.shape}", hint="both must be the same image")
    if coverage is not None and not (np.isfinite(coverage).all() and coverage.min() >= 0.0 and coverage.max() <= 1.0):
        raise RuleError("coverage must lie in [0, 1]")
    if len(set(type_names)) < len(type_names) or UNKNOWN_TYPE in type_names:
        raise RuleError("two labels have the same name", hint=f"each label its own name; {UNKNOWN_TYPE} is label 255")
    for what, value in (min_indication_mm or {}).items():
        if not (np.isfinite(value) and value >= 0.0):
            raise RuleError(f"{what}: {value} mm is not a length", hint="give a length from 0 mm up")
    if region is not None:
        if region.dtype != np.bool_ or not region.any():
            raise RuleError("region must be a bool image with at least one pixel of the part")
        labels = np.where(region, labels, 0).astype(np.uint8)
    height, width = labels.shape
    area = None if region is None else RegionArea(region, least_share)
    at, values = marked_pixels(labels)
    types = {}
    present = np.flatnonzero(np.bincount(values, minlength=1)).tolist()
    for label in present:
        if label != UNKNOWN_LABEL and label > len(type_names):
            raise RuleError(
                f"label {label} has no name", hint=f"labels are 1..{len(type_names)}, or {UNKNOWN_LABEL} for unknown"
            )
    for name, label, together in _names(present, type_names, windows_mm, alike):
        ys, xs = np.divmod(at[np.isin(values, together)], width)
        marks = find_marks(
            ys, xs, (width, height), coverage, scale.both, min_indication_mm=(min_indication_mm or {}).get(name, 0.0)
        )
        sides_mm = windows_mm.get(name, ())
        types[name] = _measure_type(
            name,
            label,
            marks,
            coverage,
            (width, height),
            scale,
            sides_mm,
            area,
            uncertainty.for_type(name),
            name in spacing,
        )
    return Measurement(types, (width, height), scale)
