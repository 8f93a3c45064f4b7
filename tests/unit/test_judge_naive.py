"""The judge against a second judge, written from the definitions with loops and fractions and nothing else.

Every window position by a double loop, components by flood fill, the largest caliper distance over all pairs of pixel
corners (or of 0.5-crossings), centroids and areas as fractions. Values must agree to 1e-9, positions and ties exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import fsum, hypot, inf
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_daemon.judge import Rule, RuleKind, Scale, judge, limits_of, measure
from edge_daemon.judge.indications import find_indications, find_marks, smallest_gap_mm
from edge_daemon.records import Outcome

QUICK = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])

Point = tuple[int, int]  # (y, x)


# --- the second judge -------------------------------------------------------------------------------------------------


def naive_components(mask: NDArray[np.bool_]) -> list[list[Point]]:
    """8-connected components by flood fill, in the order of their first pixel, row by row."""
    height, width = mask.shape
    seen: set[Point] = set()
    components = []
    for y in range(height):
        for x in range(width):
            if not mask[y, x] or (y, x) in seen:
                continue
            seen.add((y, x))
            stack, own = [(y, x)], []
            while stack:
                cy, cx = stack.pop()
                own.append((cy, cx))
                for ny in range(max(cy - 1, 0), min(cy + 2, height)):
                    for nx in range(max(cx - 1, 0), min(cx + 2, width)):
                        if mask[ny, nx] and (ny, nx) not in seen:
                            seen.add((ny, nx))
                            stack.append((ny, nx))
            components.append(sorted(own))
    return components


def naive_largest_distance(points: list[tuple[float, float]], scale_mm: tuple[float, float]) -> float:
    """Largest distance over all pairs of (y, x) points in px."""
    sx, sy = scale_mm
    ys = np.array([y for y, _ in points])
    xs = np.array([x for _, x in points])
    squares = ((ys[:, None] - ys) * sy) ** 2 + ((xs[:, None] - xs) * sx) ** 2
    return float(squares.max() ** 0.5)


def naive_corner_feret(own: list[Point], scale_mm: tuple[float, float]) -> float:
    corners = {(y + dy, x + dx) for y, x in own for dy in (0, 1) for dx in (0, 1)}
    return naive_largest_distance(sorted(corners), scale_mm)


def naive_contour_points(own: list[Point], coverage: NDArray[Any]) -> list[tuple[float, float]]:
    """Where the line from a pixel centre of the indication to a 4-neighbour crosses 0.5; beyond the image it is 0.

    A straight edge at e along the pixels leaves 0.5 + e and 0 (e up to a half), or 1 and e - 0.5: with the odds of the
    distances from one half, u : (1 - u) and v : (1 - v), the way is divided at e in both cases.
    """
    height, width = coverage.shape
    points, mine = [], set(own)
    for y, x in own:
        here = float(coverage[y, x])
        if here < 0.5:
            continue
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            ny, nx = y + dy, x + dx
            there = float(coverage[ny, nx]) if 0 <= ny < height and 0 <= nx < width else 0.0
            if there >= 0.5 and (ny, nx) not in mine:
                points.append((y + 0.5 * dy, x + 0.5 * dx))  # something else begins at the pixel's edge
            if there < 0.5:
                inner, outer = (here - 0.5) / (1.5 - here), (0.5 - there) / (0.5 + there)
                share = inner / (inner + outer)
                points.append((y + share * dy, x + share * dx))
    return points


def naive_feret(own: list[Point], coverage: NDArray[Any] | None, scale_mm: tuple[float, float]) -> float:
    if coverage is not None:
        points = naive_contour_points(own, coverage)
        if points:
            return naive_largest_distance(points, scale_mm)
    return naive_corner_feret(own, scale_mm)


@dataclass(frozen=True)
class NaiveWindow:
    side_px: tuple[int, int]
    area_share: Fraction | float
    area_at: tuple[int, int]
    count: int
    count_at: tuple[int, int]


def naive_side_px(side_mm: float, mm_per_px: float, image_px: int) -> int:
    return min(max(1, round(side_mm / mm_per_px)), image_px)


def naive_window(
    labels: NDArray[np.uint8],
    label: int,
    coverage: NDArray[Any] | None,
    scale_mm: tuple[float, float],
    side_mm: float,
    region: NDArray[np.bool_] | None = None,
    min_indication_mm: float = 0.0,
) -> NaiveWindow:
    """Every position of the window, one after the other; the first of the largest stays."""
    height, width = labels.shape
    inside = np.ones(labels.shape, bool) if region is None else region
    components = naive_components((labels == label) & inside)
    counted = [own for own in components if naive_feret(own, coverage, scale_mm) >= min_indication_mm]
    pixels = np.zeros(labels.shape, bool)
    for own in counted:
        for y, x in own:
            pixels[y, x] = True
    centroids = [
        (
            Fraction(sum(2 * y + 1 for y, _ in own), 2 * len(own)),
            Fraction(sum(2 * x + 1 for _, x in own), 2 * len(own)),
        )
        for own in counted
    ]
    w = naive_side_px(side_mm, scale_mm[0], width)
    h = naive_side_px(side_mm, scale_mm[1], height)
    best_area: Fraction | float = Fraction(0)
    best_count, area_at, count_at = 0, (0, 0), (0, 0)
    for y in range(height - h + 1):
        for x in range(width - w + 1):
            cut = np.s_[y : y + h, x : x + w]
            area_px = int(inside[cut].sum())
            if area_px:
                if coverage is None:
                    share: Fraction | float = Fraction(int(pixels[cut].sum()), area_px)
                else:
                    share = fsum(coverage[cut][pixels[cut]].tolist()) / area_px
                if share > best_area:
                    best_area, area_at = share, (x, y)
            count = sum(y <= cy < y + h and x <= cx < x + w for cy, cx in centroids)
            if count > best_count:
                best_count, count_at = count, (x, y)
    return NaiveWindow((w, h), best_area, area_at, best_count, count_at)


def naive_gaps(components: list[list[Point]], scale_mm: tuple[float, float]) -> list[float]:
    """Smallest distance between the squares of any two pixels of different components."""
    sx, sy = scale_mm
    gaps = []
    for number, own in enumerate(components):
        best = inf
        for other_number, other in enumerate(components):
            if other_number != number:
                for y, x in own:
                    for oy, ox in other:
                        best = min(best, hypot(max(abs(x - ox) - 1, 0) * sx, max(abs(y - oy) - 1, 0) * sy))
        gaps.append(best)
    return gaps


# --- what is drawn ----------------------------------------------------------------------------------------------------

SHAPES = st.one_of(
    st.tuples(st.just(1), st.integers(1, 24)),
    st.tuples(st.integers(1, 24), st.just(1)),
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
)
SCALES = st.sampled_from([(0.1, 0.1), (0.05, 0.2), (0.3, 0.1), (1.0, 1.0), (0.127, 0.127), (1 / 3, 0.07)])
# The side in multiples of the coarser scale: less than half a pixel up to larger than any image drawn here.
SIDES = st.one_of(st.integers(1, 30).map(float), st.floats(0.01, 30, allow_subnormal=False))


@st.composite
def label_images(
    draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, int]] = SHAPES, labels: tuple[int, ...] = (1, 2, 255)
) -> NDArray[np.uint8]:
    """From a few marked pixels (which shrink well) to noise and blobs of any density."""
    height, width = draw(shapes)
    image = np.zeros((height, width), np.uint8)
    if draw(st.booleans()):
        marks = st.tuples(st.integers(0, height - 1), st.integers(0, width - 1), st.sampled_from(labels))
        for y, x, label in draw(st.lists(marks, max_size=12)):
            image[y, x] = label
        return image
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.02, 0.1, 0.3, 0.6, 1.0]))
    grain = draw(st.sampled_from([1, 2, 4]))
    coarse = random.random((-(-height // grain), -(-width // grain))) < density
    chosen = random.choice(np.array(labels, np.uint8), coarse.shape)
    image[:] = np.kron(np.where(coarse, chosen, 0), np.ones((grain, grain)))[:height, :width]
    return image


@st.composite
def covered_images(draw: st.DrawFn, lowest: float = 0.5) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """One type; marked pixels have a coverage from the lowest up, unmarked ones less than 0.5."""
    steps = draw(st.sampled_from([4, 256, 1000]))
    labels = draw(label_images(labels=(1,)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    marked = random.integers(int(steps * lowest), steps, labels.shape, endpoint=True)
    unmarked = random.integers(0, steps // 2, labels.shape) * draw(st.booleans())
    return labels, (np.where(labels == 1, marked, unmarked) / steps).astype(np.float32)


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    kind = draw(st.sampled_from(["none", "noise", "box"]))
    if kind == "none":
        return None
    region = np.zeros(shape, bool)
    if kind == "noise":
        random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        region = random.random(shape) < draw(st.sampled_from([0.3, 0.8]))
    else:
        y, x = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
        region[y : draw(st.integers(y + 1, shape[0])), x : draw(st.integers(x + 1, shape[1]))] = True
    assume(region.any())
    return region


NAMES = ("crack", "gas_hole")
_NAME = {1: "crack", 2: "gas_hole", 255: "unknown"}


# --- agreement --------------------------------------------------------------------------------------------------------


@QUICK
@given(labels=label_images(), scale_mm=SCALES, cut_off=st.sampled_from([0.0, 0.15, 0.3, 1.0]))
def test_indications_agree_with_flood_fill(
    labels: NDArray[np.uint8], scale_mm: tuple[float, float], cut_off: float
) -> None:
    cut_offs = dict.fromkeys(_NAME.values(), cut_off)
    found = measure(labels, None, NAMES, Scale(*scale_mm), {}, min_indication_mm=cut_offs).types
    assert set(found) == {_NAME[int(label)] for label in np.unique(labels) if label}
    for label, name in _NAME.items():
        expected = naive_components(labels == label)
        if name not in found:
            assert expected == []
            continue
        one = found[name]
        assert one.label == label
        assert len(one.indications) == len(expected)
        sizes = []
        for indication, own in zip(one.indications, expected, strict=True):
            ys, xs = [y for y, _ in own], [x for _, x in own]
            assert indication.bbox_px == (min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
            assert indication.centroid_px[0] == pytest.approx(sum(xs) / len(xs) + 0.5, abs=1e-9)
            assert indication.centroid_px[1] == pytest.approx(sum(ys) / len(ys) + 0.5, abs=1e-9)
            assert indication.area_mm2 == pytest.approx(len(own) * scale_mm[0] * scale_mm[1], abs=1e-9)
            feret = naive_corner_feret(own, scale_mm)
            assert indication.feret_max_mm == pytest.approx(feret, abs=1e-9)
            if abs(feret - cut_off) > 1e-9:
                assert indication.counted == (feret >= cut_off)
            if indication.counted:
                sizes.append(feret)
        assert one.max_size_mm.value == pytest.approx(max(sizes, default=0.0), abs=1e-9)
        total = sum(x.area_mm2 for x in one.indications if x.counted)
        assert one.area_mm2.value == pytest.approx(total, abs=1e-9)


@QUICK
@given(labels=label_images(labels=(1,)), scale_mm=SCALES)
def test_largest_indication_is_named_by_its_corner_and_ties_go_to_the_top(
    labels: NDArray[np.uint8], scale_mm: tuple[float, float]
) -> None:
    components = naive_components(labels == 1)
    assume(components)
    found = measure(labels, None, NAMES, Scale(*scale_mm), {}).types["crack"]
    sizes = [naive_corner_feret(own, scale_mm) for own in components]
    first = next(own for own, size in zip(components, sizes, strict=True) if size >= max(sizes) - 1e-12)
    assert found.max_size_mm.at_px == (min(x for _, x in first), first[0][0])


@QUICK
@given(data=st.data(), labels=label_images(), scale_mm=SCALES, sides=st.lists(SIDES, min_size=1, max_size=2))
def test_windows_agree_with_every_position(
    data: st.DataObject, labels: NDArray[np.uint8], scale_mm: tuple[float, float], sides: list[float]
) -> None:
    region = data.draw(regions(labels.shape))
    cut_off = data.draw(st.sampled_from([0.0, 0.0, 0.2, 0.5]))
    sides_mm = tuple(side * max(scale_mm) for side in sides)
    found = measure(
        labels, None, NAMES, Scale(*scale_mm), dict.fromkeys(_NAME.values(), sides_mm),
        region=region, min_indication_mm=dict.fromkeys(_NAME.values(), cut_off),
    )  # fmt: skip
    for label, name in _NAME.items():
        one = found.of(name, sides_mm)
        assert [window.side_mm for window in one.windows] == list(sides_mm)
        for window, side_mm in zip(one.windows, sides_mm, strict=True):
            expected = naive_window(labels, label, None, scale_mm, side_mm, region, cut_off)
            assert window.side_px == max(1, round(side_mm / scale_mm[0]))
            assert window.true_mm == (expected.side_px[0] * scale_mm[0], expected.side_px[1] * scale_mm[1])
            assert window.area_pct.value == pytest.approx(float(100 * expected.area_share), abs=1e-9)
            assert window.area_pct.at_px == expected.area_at
            assert window.count.value == expected.count
            assert window.count.at_px == expected.count_at


@QUICK
@given(data=st.data(), covered=covered_images(), scale_mm=SCALES, side=SIDES, cut_off=st.sampled_from([0.0, 0.1, 0.4]))
def test_coverage_agrees_with_every_position(
    data: st.DataObject,
    covered: tuple[NDArray[np.uint8], NDArray[np.float32]],
    scale_mm: tuple[float, float],
    side: float,
    cut_off: float,
) -> None:
    labels, coverage = covered
    assume(labels.any())
    region = data.draw(regions(labels.shape)) if cut_off == 0.0 else None  # what a region cuts off has another contour
    side_mm = side * max(scale_mm)
    one = measure(
        labels, coverage, NAMES, Scale(*scale_mm), {"crack": (side_mm,)},
        region=region, min_indication_mm={"crack": cut_off},
    ).of("crack", (side_mm,))  # fmt: skip
    components = naive_components(labels == 1)
    if region is None:
        sizes = [naive_feret(own, coverage, scale_mm) for own in components]
        assume(all(abs(size - cut_off) > 1e-5 for size in sizes))
        for indication, own in zip(one.indications, components, strict=True):
            area_px = fsum(float(coverage[pixel]) for pixel in own)
            assert indication.area_mm2 == pytest.approx(area_px * scale_mm[0] * scale_mm[1], abs=1e-9)
    expected = naive_window(labels, 1, coverage, scale_mm, side_mm, region, cut_off)
    (window,) = one.windows
    assert window.area_pct.value == pytest.approx(100 * float(expected.area_share), abs=1e-9)
    assert window.area_pct.at_px == expected.area_at
    assert (window.count.value, window.count.at_px) == (expected.count, expected.count_at)


@QUICK
@given(covered=covered_images(lowest=0.2), scale_mm=SCALES, side=SIDES)
def test_coverage_below_one_half_is_summed_as_it_is(
    covered: tuple[NDArray[np.uint8], NDArray[np.float32]], scale_mm: tuple[float, float], side: float
) -> None:
    labels, coverage = covered
    side_mm = side * max(scale_mm)
    one = measure(labels, coverage, NAMES, Scale(*scale_mm), {"crack": (side_mm,)}).of("crack", (side_mm,))
    expected = naive_window(labels, 1, coverage, scale_mm, side_mm)
    (window,) = one.windows
    assert window.area_pct.value == pytest.approx(100 * float(expected.area_share), abs=1e-9)
    assert window.area_pct.at_px == expected.area_at


@QUICK
@given(covered=covered_images(), faint=st.booleans(), scale_mm=SCALES)
def test_contour_agrees_with_every_crossing(
    covered: tuple[NDArray[np.uint8], NDArray[np.float32]], faint: bool, scale_mm: tuple[float, float]
) -> None:
    """faint: nothing reaches one half, so there is no contour and the pixel corners stand for it."""
    labels, coverage = covered
    if faint:
        coverage = coverage * np.float32(0.4)
    components = naive_components(labels == 1)
    assume(components)
    found = measure(labels, coverage, NAMES, Scale(*scale_mm), {}).types["crack"].indications
    for indication, own in zip(found, components, strict=True):
        assert indication.feret_max_mm == pytest.approx(naive_feret(own, coverage, scale_mm), abs=1e-9)


@QUICK
@given(labels=label_images(labels=(1,), shapes=st.tuples(st.integers(1, 12), st.integers(1, 12))), scale_mm=SCALES)
def test_gaps_agree_with_every_pair_of_pixels(labels: NDArray[np.uint8], scale_mm: tuple[float, float]) -> None:
    ys, xs = np.nonzero(labels == 1)
    gap_mm, number = smallest_gap_mm(find_marks(ys, xs, labels.shape[::-1], None, scale_mm), scale_mm)
    expected = naive_gaps(naive_components(labels == 1), scale_mm)
    assert gap_mm == pytest.approx(min(expected, default=np.inf), abs=1e-9)
    assert number == 0 if len(expected) < 2 else expected[number - 1] == pytest.approx(gap_mm, abs=1e-9)


@settings(QUICK, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1), shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    waves=st.integers(1, 9), scale_mm=SCALES,
)  # fmt: skip
def test_size_of_large_shapes_agrees_with_every_pair_of_outer_corners(
    seed: int, shape: tuple[int, int], waves: int, scale_mm: tuple[float, float]
) -> None:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    field = sum(np.sin(7 * a * x + 7 * b * y + c) for a, b, c in random.normal(size=(waves, 3)))
    labels = (field > 0.3).astype(np.uint8)
    assume(labels.any())
    components, found = find_indications(labels == 1, None, scale_mm)
    for one in found:
        corners: list[tuple[float, float]] = []
        for row in range(one.bbox_px[1], one.bbox_px[1] + one.bbox_px[3]):
            xs = np.flatnonzero(components[row] == one.component)  # a corner between two of its row is never farthest
            corners += [(row + dy, column) for dy in (0, 1) for column in (int(xs[0]), int(xs[-1]) + 1)]
        assert one.feret_max_mm == pytest.approx(naive_largest_distance(corners, scale_mm), abs=1e-9)


# --- part against reference, from label images to an outcome ----------------------------------------------------------


@QUICK
@given(
    part=label_images(labels=(1,)),
    reference=label_images(labels=(1,)),
    scale_mm=SCALES,
    side=SIDES,
    tolerance=st.sampled_from([0.0, 0.25, 1.0]),
    cut_off=st.sampled_from([0.0, 0.2]),
    compare_count=st.booleans(),
)
def test_outcome_agrees_with_the_definition(
    part: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    scale_mm: tuple[float, float],
    side: float,
    tolerance: float,
    cut_off: float,
    compare_count: bool,
) -> None:
    side_mm = side * max(scale_mm)
    scale, windows, cut_offs = Scale(*scale_mm), {"crack": (side_mm,)}, {"crack": cut_off}
    rule = Rule(
        "crack", RuleKind.LEVEL, level=1, windows_mm=(side_mm,), tolerance=tolerance, guard=0.0,
        min_indication_mm=cut_off, compare_count=compare_count,
    )  # fmt: skip
    measured = measure(part, None, NAMES, scale, windows, min_indication_mm=cut_offs)
    limits = limits_of(
        measure(reference, None, NAMES, scale, windows, min_indication_mm=cut_offs).of("crack", (side_mm,))
    )
    verdict = judge(measured, [rule], {"crack": limits})

    def worst(image: NDArray[np.uint8]) -> tuple[float, int, float]:
        window = naive_window(image, 1, None, scale_mm, side_mm, None, cut_off)
        sizes = [naive_corner_feret(own, scale_mm) for own in naive_components(image == 1)]
        return float(window.area_share), window.count, max((s for s in sizes if s >= cut_off), default=0.0)

    expected = Outcome.PASS
    for index, (value, limit) in enumerate(zip(worst(part), worst(reference), strict=True)):
        if index == 1 and not compare_count:
            continue
        permitted = limit * (1 + tolerance)
        assume(value == permitted or abs(value - permitted) > 1e-9)
        if value > permitted:
            expected = Outcome.FAIL
    assert verdict.outcome is expected
    assert verdict.result == str(expected)
