"""Truths worked out by hand: sizes, areas, gaps, windows and uncertainties of pictures simple enough for a pencil."""

from __future__ import annotations

from math import hypot, inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_daemon.errors import RuleError
from edge_daemon.judge import Measurement, Scale, TypeMeasurement, Uncertainty, measure
from edge_daemon.judge.indications import outline_mm
from edge_daemon.judge.windows import window_side_px, worst_window

NAMES = ("crack", "gas_hole")
SCALE = Scale(0.1, 0.1)


def picture(*rows: str) -> NDArray[np.uint8]:
    """Labels from rows of digits; a dot is sound, ``?`` is unknown."""
    return np.array(
        [[{".": 0, "?": 255}.get(c) or int(c if c.isdigit() else 0) for c in row] for row in rows], np.uint8
    )


def crack(
    labels: NDArray[np.uint8], *sides_mm: float, coverage: NDArray[np.float32] | None = None, scale: Scale = SCALE
) -> TypeMeasurement:
    return measure(labels, coverage, NAMES, scale, {"crack": sides_mm}).of("crack", sides_mm)


def disc(radius_px: float, centre_px: tuple[float, float], side_px: int, parts: int = 32) -> NDArray[np.float32]:
    """Coverage of a disc: the share of parts x parts points of each pixel that lie in it (exact to about 1e-3 px)."""
    at = (np.arange(side_px * parts) + 0.5) / parts
    inside = (at[None] - centre_px[0]) ** 2 + (at[:, None] - centre_px[1]) ** 2 <= radius_px**2
    return inside.reshape(side_px, parts, side_px, parts).mean(axis=(1, 3)).astype(np.float32)


# --- size -------------------------------------------------------------------------------------------------------------


def test_one_pixel_of_a_tenth_of_a_millimetre_measures_its_diagonal() -> None:
    found = crack(picture("...", ".1.", "..."))
    assert found.max_size_mm.value == pytest.approx(0.1 * sqrt(2), abs=1e-12)
    assert round(found.max_size_mm.value, 4) == 0.1414
    assert found.max_size_mm.at_px == (1, 1)
    assert found.area_mm2.value == pytest.approx(0.01, abs=1e-15)


@pytest.mark.parametrize("side_px", [1, 2, 7, 40, 333])
def test_a_square_measures_root_two_times_its_side(side_px: int) -> None:
    labels = np.zeros((side_px + 5, side_px + 3), np.uint8)
    labels[2 : 2 + side_px, 1 : 1 + side_px] = 1
    assert crack(labels).max_size_mm.value == pytest.approx(sqrt(2) * side_px * 0.1, rel=1e-12)


@pytest.mark.parametrize(
    ("rows", "size_px"),
    [
        (("1111111",), hypot(7, 1)),
        (("1", "1", "1"), hypot(1, 3)),
        (("1....", ".1...", "..1..", "...1.", "....1"), hypot(5, 5)),
        (("1...1", "11111"), hypot(5, 2)),
        (("..1..", ".111.", "11111", ".111.", "..1.."), hypot(5, 1)),
        (("111", "1.1", "111"), hypot(3, 3)),  # a ring is as large as the disc it surrounds
        (("1..", "1..", "111"), hypot(3, 3)),
        ((".1..", "1..1", ".11."), hypot(4, 1)),
    ],
)
def test_caliper_distance_of_shapes_counted_by_hand(rows: tuple[str, ...], size_px: float) -> None:
    assert crack(picture(*rows)).max_size_mm.value == pytest.approx(0.1 * size_px, rel=1e-12)


def test_each_axis_has_its_own_scale() -> None:
    found = crack(picture("......", ".1111.", "......"), scale=Scale(0.5, 0.1))
    assert found.max_size_mm.value == pytest.approx(hypot(4 * 0.5, 0.1), rel=1e-12)
    assert found.area_mm2.value == pytest.approx(4 * 0.05, rel=1e-12)


def test_a_chord_has_one_length_to_the_last_bit_whichever_way_round_it_lies() -> None:
    """Otherwise a part that equals its limit passes or fails by how it lies on the belt."""
    shape = picture("..1..", "1.1..", "1..11", ".1.1.", "111..")
    size = crack(shape).max_size_mm.value
    assert size == pytest.approx(0.1 * hypot(3, 5))
    for turned in (shape[:, ::-1], shape[::-1], shape.T, shape.T[::-1]):
        assert crack(turned.copy()).max_size_mm.value == size


@given(rows=st.integers(0, 40), columns=st.integers(0, 40), s=st.floats(0.01, 2.0), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_size_does_not_depend_on_where_it_lies_to_the_last_bit(rows: int, columns: int, s: float, seed: int) -> None:
    labels = (np.random.default_rng(seed).random((6, 7)) < 0.5).astype(np.uint8)
    labels[2, 3] = 1
    moved = np.pad(labels, ((rows, 0), (columns, 0)))
    size = crack(labels, scale=Scale(s, s)).max_size_mm.value
    assert crack(moved, scale=Scale(s, s)).max_size_mm.value == size
    assert crack(moved.T.copy(), scale=Scale(s, s)).max_size_mm.value == size


def test_touching_corners_are_one_indication_and_a_gap_of_one_pixel_is_two() -> None:
    assert len(crack(picture("1.", ".1")).indications) == 1
    assert len(crack(picture("1.1")).indications) == 2


def test_types_do_not_join() -> None:
    found = measure(picture("12", "21"), None, NAMES, SCALE, {}).types
    assert {name: len(one.indications) for name, one in found.items()} == {"crack": 1, "gas_hole": 1}


def test_indications_stand_in_the_order_of_their_first_pixel() -> None:
    found = crack(picture("...1....", "1.....1.", "..1....."))
    assert [one.first_px for one in found.indications] == [(3, 0), (0, 1), (6, 1), (2, 2)]


# --- area from coverage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius_px", [3.0, 4.2, 6.5, 12.0])
@pytest.mark.parametrize("centre_px", [(20.0, 20.0), (20.5, 20.5), (20.31, 19.77)])
def test_summed_coverage_gives_the_area_of_a_disc(radius_px: float, centre_px: tuple[float, float]) -> None:
    coverage = disc(radius_px, centre_px, 40)
    found = crack((coverage > 0).astype(np.uint8), coverage=coverage)
    assert found.area_mm2.value == pytest.approx(np.pi * (radius_px * 0.1) ** 2, rel=0.01)
    (one,) = found.indications
    assert one.area_mm2 == pytest.approx(found.area_mm2.value, rel=1e-12)


@pytest.mark.parametrize("radius_px", [3.0, 4.2, 6.5, 12.0])
@pytest.mark.parametrize("centre_px", [(20.0, 20.0), (20.5, 20.5), (20.31, 19.77)])
def test_contour_gives_the_diameter_of_a_disc_to_half_a_pixel(radius_px: float, centre_px: tuple[float, float]) -> None:
    coverage = disc(radius_px, centre_px, 40)
    diameter_mm = 2 * radius_px * 0.1
    soft = crack((coverage > 0).astype(np.uint8), coverage=coverage).max_size_mm.value
    hard = crack((coverage >= 0.5).astype(np.uint8)).max_size_mm.value
    assert soft == pytest.approx(diameter_mm, abs=0.05)
    assert diameter_mm < hard + 0.02 < diameter_mm + 0.16  # pixel corners: high, never low by more than a fifth of a px


@pytest.mark.parametrize("edge_px", [0.0, 0.1, 0.25, 0.5, 0.7, 0.95])
def test_contour_of_a_straight_edge_is_the_edge(edge_px: float) -> None:
    """A bar from 2.3 to 6.5 + edge_px px, each pixel covered as far as it lies in it."""
    ends = 2.3, 6.5 + edge_px
    coverage = np.array([[np.clip(min(x + 1, ends[1]) - max(x, ends[0]), 0, 1) for x in range(10)]], np.float32)
    labels = (coverage > 0).astype(np.uint8)
    found = crack(labels, coverage=coverage).max_size_mm.value
    assert found == pytest.approx(0.1 * (ends[1] - ends[0]), abs=1e-6)


def test_contour_lies_where_the_line_between_two_centres_crosses_one_half() -> None:
    coverage = np.array([[0.0, 0.25, 0.75, 1.0, 0.75, 0.0]], np.float32)
    labels = (coverage > 0.2).astype(np.uint8)
    # Left crossing at 1.5; the right edge covers a quarter of the way from 4 to 5; above and below is the border.
    right = 4 + 0.25
    assert crack(labels, coverage=coverage).max_size_mm.value == pytest.approx(0.1 * (right - 1.5), abs=1e-7)


def test_coverage_next_to_the_marked_pixels_shapes_the_contour_wherever_the_indication_lies() -> None:
    """The same soft-edged square, alone and with another one far away: its size is its own."""
    coverage = np.zeros((20, 20), np.float32)
    coverage[8:12, 8:12] = 0.45
    coverage[9:11, 9:11] = 0.9
    labels = (coverage > 0.5).astype(np.uint8)
    alone = crack(labels, coverage=coverage).indications
    labels[0, 0] = labels[19, 19] = 1
    coverage[0, 0] = coverage[19, 19] = 0.6
    among = crack(labels, coverage=coverage).indications
    assert len(alone) == 1
    assert among[1].bbox_px == alone[0].bbox_px == (9, 9, 2, 2)
    assert alone[0].feret_max_mm == among[1].feret_max_mm
    inner, outer = 0.4 / 0.6, 0.05 / 0.95
    reach_px = 1 + 2 * inner / (inner + outer)
    assert alone[0].feret_max_mm == pytest.approx(0.1 * hypot(1, reach_px), abs=1e-6)


def test_a_region_that_nowhere_reaches_one_half_is_as_large_as_its_pixels() -> None:
    coverage = np.full((1, 20), 0.4, np.float32)
    assert crack(np.ones((1, 20), np.uint8), coverage=coverage).max_size_mm.value == pytest.approx(0.1 * hypot(20, 1))


def test_one_likelier_pixel_does_not_make_a_long_faint_indication_short() -> None:
    """Nineteen marked pixels at 0.4 and one at 0.6 are still one indication two millimetres long."""
    coverage = np.full((1, 20), 0.4, np.float32)
    labels = np.ones((1, 20), np.uint8)
    coverage[0, 10] = 0.6
    assert crack(labels, coverage=coverage).max_size_mm.value >= 1.8


# --- gaps and edges ---------------------------------------------------------------------------------------------------


def gap_of(labels: NDArray[np.uint8], scale_mm: tuple[float, float]) -> float:
    found = measure(labels, None, NAMES, Scale(*scale_mm), {}, spacing=["crack"]).of("crack", ())
    assert found.min_gap_mm is not None
    return found.min_gap_mm.value


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (("1",), inf),
        ((".", "."), inf),
        (("1.1",), 0.1),
        (("1...1.1",), 0.1),
        (("1..", "...", "..1"), hypot(0.1, 0.2)),
        (("1....", ".....", ".....", "....1"), hypot(0.3, 0.4)),
        (("111111", "1....1", "1.11.1", "1....1", "111111"), 0.1),  # one inside the other
    ],
)
def test_gaps_between_edges_counted_by_hand(rows: tuple[str, ...], expected: float) -> None:
    # 0.1 mm across, 0.2 mm down where a row is crossed
    assert gap_of(picture(*rows), (0.1, 0.2)) == pytest.approx(expected, abs=1e-12)


def crossings(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """How often lines through pixel centres enter or leave: rows, columns, falling and rising diagonals; by hand."""
    height, width = mask.shape
    lines: tuple[list[list[bool]], ...] = (
        [list(row) for row in mask],
        [list(column) for column in mask.T],
        [list(mask.diagonal(k)) for k in range(1 - height, width)],
        [list(mask[:, ::-1].diagonal(k)) for k in range(1 - height, width)],
    )
    counted = [
        sum(one != other for line in family for one, other in zip([False, *line], [*line, False], strict=True))
        for family in lines
    ]
    return counted[0], counted[1], counted[2], counted[3]


def crofton(mask: NDArray[np.bool_], sx: float, sy: float) -> float:
    """Half the integral over directions of crossings x distance of lines; each direction up to halfway to the next."""
    directions = [0.0, np.pi / 2, np.arctan2(sy, sx), np.pi - np.arctan2(sy, sx)]
    distances = [sy, sx, sx * sy / hypot(sx, sy), sx * sy / hypot(sx, sy)]
    order = sorted(range(4), key=lambda one: directions[one])
    total = 0.0
    for place, one in enumerate(order):
        before = directions[order[place - 1]] - (np.pi if place == 0 else 0.0)
        after = directions[order[(place + 1) % 4]] + (np.pi if place == 3 else 0.0)
        total += (after - before) / 2 * distances[one] * crossings(mask)[one] / 2
    return max(total, 2 * sqrt(np.pi * mask.sum() * sx * sy))


@pytest.mark.parametrize("rows", [("11", "11"), ("111", "1.1", "111"), ("1",), ("11111",), ("1..", ".1.", "..1")])
@pytest.mark.parametrize("scale_mm", [(0.1, 0.1), (0.1, 0.2), (0.3, 0.1)])
def test_outline_is_the_crossings_of_four_directions_counted_by_hand(
    rows: tuple[str, ...], scale_mm: tuple[float, float]
) -> None:
    mask = picture(*rows) == 1
    expected = crofton(mask, *scale_mm)
    assert outline_mm(mask, scale_mm) == pytest.approx(expected)
    found = measure(picture(*rows), None, NAMES, Scale(*scale_mm), {}).types["crack"].indications
    assert sum(one.perimeter_mm for one in found) >= expected - 1e-12
    if len(found) == 1:
        assert found[0].perimeter_mm == pytest.approx(expected)


@pytest.mark.parametrize("radius_px", [5.0, 9.3, 20.7])
def test_outline_of_a_disc_is_its_circumference(radius_px: float) -> None:
    y, x = np.mgrid[:60, :60]
    disc = np.hypot(x - 29.7, y - 30.2) <= radius_px
    assert outline_mm(disc, (1.0, 1.0)) == pytest.approx(2 * np.pi * radius_px, rel=0.03)


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side_mm", "mm_per_px", "side_px"),
    [
        (12.7, 0.1, 127),  # 126.99999999999999 in binary
        (0.3, 0.1, 3),  # 2.9999999999999996
        (25.4, 0.2, 127),
        (0.7, 0.1, 7),  # 6.999999999999999
        (50.8, 0.127, 400),
        (0.01, 0.1, 1),  # at least one
        (1.04, 0.1, 10),
        (1.06, 0.1, 11),
    ],
)
def test_window_side_is_rounded_to_whole_pixels(side_mm: float, mm_per_px: float, side_px: int) -> None:
    assert window_side_px(side_mm, mm_per_px) == side_px


@given(pixels=st.integers(1, 5000), mm_per_px=st.floats(1e-4, 10.0))
@settings(deadline=None, max_examples=100)
def test_a_side_of_so_many_pixels_has_so_many_pixels(pixels: int, mm_per_px: float) -> None:
    assert window_side_px(pixels * mm_per_px, mm_per_px) == pixels


@pytest.mark.parametrize("side_mm", [0.0, -1.0, float("nan"), float("inf"), -float("inf")])
def test_a_window_without_a_length_is_refused(side_mm: float) -> None:
    with pytest.raises(RuleError) as caught:
        window_side_px(side_mm, 0.1)
    assert caught.value.hint


def test_a_window_too_large_for_any_number_is_a_rule_error() -> None:
    with pytest.raises(RuleError):
        window_side_px(1e308, 1e-6)


def test_a_cluster_on_the_border_of_two_tiles_is_seen_whole() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[18:22, 18:22] = 1  # on the corner of four tiles of 20 px: each tile would hold four of its sixteen pixels
    (window,) = crack(labels, 2.0).windows
    assert window.side_px == 20
    assert window.area_pct.value == pytest.approx(100 * 16 / 400)
    assert window.area_pct.at_px == (2, 2)  # the first position, by y and then x, that holds all of it


def test_ties_go_to_the_smallest_y_and_then_x() -> None:
    labels = picture("......1", ".......", "1......", "...1...")
    (window,) = crack(labels, 0.2).windows
    assert window.area_pct.at_px == (5, 0)
    assert window.count.at_px == (5, 0)


def test_a_window_larger_than_the_image_is_clipped_and_says_so() -> None:
    (window,) = crack(picture("1...", "...."), 1.0).windows
    assert window.side_px == 10
    assert window.true_mm == (4 * 0.1, 2 * 0.1)
    assert window.area_pct.value == pytest.approx(100 / 8)


def test_a_centroid_on_the_edge_of_a_window_belongs_to_the_window_that_begins_there() -> None:
    """Two pixels side by side have their centroid on the line between them: [x, x + w) counts it once, not twice."""
    (window,) = crack(picture(".11."), 0.1).windows
    assert (window.count.value, window.count.at_px) == (1.0, (2, 0))


def test_an_indication_counts_where_its_centroid_is_even_if_that_is_no_pixel_of_it() -> None:
    (window,) = crack(picture("11111", "1...1", "1...1", "1...1", "11111"), 0.1).windows
    assert (window.count.value, window.count.at_px) == (1.0, (2, 2))
    assert (window.area_pct.value, window.area_pct.at_px) == (100.0, (0, 0))


def test_percent_is_of_the_window_inside_the_part() -> None:
    labels = picture("1.....", "......")
    region = np.array([[True, True, False, False, False, False], [False] * 6])
    found = measure(labels, None, NAMES, SCALE, {"crack": (0.2,)}, region=region).types["crack"]
    assert found.windows[0].area_pct.value == pytest.approx(50.0)
    assert found.windows[0].area_pct.at_px == (0, 0)


def test_marks_outside_the_part_are_not_measured() -> None:
    labels = picture("1111", "....")
    region = np.array([[False, False, True, False], [True] * 4])
    found = measure(labels, None, NAMES, SCALE, {"crack": (0.1,)}, region=region).types["crack"]
    assert found.area_mm2.value == pytest.approx(0.01)
    assert found.max_size_mm.value == pytest.approx(0.1 * sqrt(2))
    assert found.windows[0].area_pct.at_px == (2, 0)


def test_small_indications_are_listed_and_not_counted() -> None:
    labels = picture("1...", "....", ".111", ".111")
    found = measure(labels, None, NAMES, SCALE, {"crack": (0.1,)}, min_indication_mm={"crack": 0.2}).types["crack"]
    assert [one.counted for one in found.indications] == [False, True]
    assert found.area_mm2.value == pytest.approx(0.06)
    assert found.windows[0].area_pct.at_px == (1, 2)
    assert found.windows[0].count.value == 1.0


def test_an_indication_of_exactly_the_cut_off_counts() -> None:
    (one,) = crack(picture("1")).indications
    for cut_off, counted in ((one.feret_max_mm, True), (np.nextafter(one.feret_max_mm, 1.0), False)):
        found = measure(picture("1"), None, NAMES, SCALE, {}, min_indication_mm={"crack": float(cut_off)})
        assert found.types["crack"].indications[0].counted is counted


def test_nothing_found_is_zero_everywhere() -> None:
    empty = np.zeros((5, 9), np.uint8)
    measured = measure(empty, None, NAMES, SCALE, {"crack": (0.3,)})
    assert dict(measured.types) == {}
    found = measured.of("crack", (0.3,))
    (window,) = found.windows
    assert (window.side_px, window.area_pct.value, window.count.value, found.max_size_mm.value) == (3, 0.0, 0.0, 0.0)
    assert worst_window(empty, (0, 0), (9, 5), (3, 3)).at_px == (0, 0)


def test_hatching_and_thousands_of_specks_are_measured_one_by_one() -> None:
    """Long thin indications whose boxes cover each other, and more specks than a loop over pictures could afford."""
    y, x = np.mgrid[:600, :600]
    hatched = crack(((x + y) % 12 == 0).astype(np.uint8))
    assert len(hatched.indications) == 100
    assert hatched.max_size_mm.value == pytest.approx(0.1 * hypot(600, 600), rel=0.02)
    specks = np.zeros((600, 600), np.uint8)
    specks[::4, ::4] = 1
    found = crack(specks, 1.0)
    assert len(found.indications) == 150 * 150
    assert {round(one.feret_max_mm, 9) for one in found.indications} == {round(0.1 * sqrt(2), 9)}
    assert found.windows[0].count.value == 9.0
    one_px_mm = 2 * sqrt(np.pi * 0.01)  # never less than a disc of the same area
    assert sum(one.perimeter_mm for one in found.indications) == pytest.approx(22_500 * one_px_mm)


def test_input_is_left_as_it_was() -> None:
    labels, coverage, region = picture("12", ".?"), np.full((2, 2), 0.7, np.float32), np.ones((2, 2), bool)
    for array in (labels, coverage, region):
        array.flags.writeable = False
    before = labels.copy()
    measure(labels, coverage, NAMES, SCALE, {"crack": (0.1,)}, region=region, uncertainty=Uncertainty(0.01))
    assert (labels == before).all()


# --- uncertainty ------------------------------------------------------------------------------------------------------


def block(u_edge_mm: float, scale: Scale, region: NDArray[np.bool_] | None = None) -> Measurement:
    labels = np.zeros((20, 20), np.uint8)
    labels[5:9, 5:11] = 1  # 4 x 6 px
    return measure(labels, None, NAMES, scale, {"crack": (1.0,)}, uncertainty=Uncertainty(u_edge_mm), region=region)


def test_uncertainty_of_an_area_and_a_length_from_scale_and_edge() -> None:
    found = block(0.02, Scale(0.1, 0.1, 0.001)).types["crack"]
    area_mm2, around_mm, length_mm = 24 * 0.01, crofton(np.ones((4, 6), bool), 0.1, 0.1), 0.1 * hypot(4, 6)
    u_area = hypot(2 * area_mm2 * 0.01, around_mm * 0.02)
    assert found.area_mm2.u == pytest.approx(u_area, rel=1e-12)
    assert found.max_size_mm.u == pytest.approx(hypot(length_mm * 0.01, sqrt(2) * 0.02), rel=1e-12)
    assert found.windows[0].area_pct.u == pytest.approx(100 * u_area / 1.0, rel=1e-12)  # the window holds 1 mm2


def test_uncertainty_of_a_share_is_of_the_same_area_as_the_share() -> None:
    """Of the first window only the 4 x 5 px of the block in it belong to the part: all of them are defect."""
    region = np.zeros((20, 20), bool)
    region[5:9, 5:11] = region[12:20, 12:20] = True
    share = block(0.02, SCALE, region).types["crack"].windows[0].area_pct
    assert (share.value, share.at_px) == (100.0, (0, 0))
    around_mm = crofton(np.ones((4, 5), bool), 0.1, 0.1)
    assert share.u == pytest.approx(100 * (around_mm * 0.02) / (20 * 0.01), rel=1e-12)


def test_without_scale_or_edge_uncertainty_there_is_none() -> None:
    found = block(0.0, SCALE).types["crack"]
    assert (found.area_mm2.u, found.max_size_mm.u, found.windows[0].area_pct.u) == (0.0, 0.0, 0.0)


# --- what does not make sense is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan"), float("inf"), 1e-9, 1e9])
@pytest.mark.parametrize("axis", [0, 1])
def test_an_implausible_scale_is_refused(bad: float, axis: int) -> None:
    with pytest.raises(RuleError) as caught:
        Scale(*((bad, 0.1) if axis == 0 else (0.1, bad)))
    assert caught.value.hint


@pytest.mark.parametrize("bad", [-0.001, 0.1, float("nan"), float("inf")])
def test_an_implausible_uncertainty_of_scale_is_refused(bad: float) -> None:
    with pytest.raises(RuleError):
        Scale(0.1, 0.2, bad)


@pytest.mark.parametrize(
    ("labels", "coverage", "region"),
    [
        (np.zeros((0, 4), np.uint8), None, None),
        (np.zeros((4, 4, 3), np.uint8), None, None),
        (np.zeros((4, 4), np.int32), None, None),
        (np.full((4, 4), 3, np.uint8), None, None),
        (np.ones((4, 4), np.uint8), np.zeros((4, 5), np.float32), None),
        (np.ones((4, 4), np.uint8), np.full((4, 4), np.nan, np.float32), None),
        (np.ones((4, 4), np.uint8), np.full((4, 4), 1.01, np.float32), None),
        (np.ones((4, 4), np.uint8), np.full((4, 4), -0.01, np.float32), None),
        (np.ones((4, 4), np.uint8), None, np.ones((5, 4), bool)),
        (np.ones((4, 4), np.uint8), None, np.full((4, 4), 255, np.uint8)),  # would divide every share by 255
        (np.ones((4, 4), np.uint8), None, np.zeros((4, 4), bool)),  # nothing left to inspect is not a sound part
    ],
    ids=["empty", "colour", "int32", "no-name", "coverage-shape", "nan", "above-1", "below-0", "region-shape",
         "region-bytes", "region-empty"],
)  # fmt: skip
def test_input_that_cannot_be_measured_is_refused(
    labels: NDArray[np.uint8], coverage: NDArray[np.float32] | None, region: NDArray[np.bool_] | None
) -> None:
    with pytest.raises(RuleError):
        measure(labels, coverage, NAMES, SCALE, {"crack": (0.2,)}, region=region)


def test_two_labels_of_one_name_are_refused_or_both_measured() -> None:
    """One may not hide the other: five pixels of label 1 under the one pixel of label 2 with the same name."""
    labels = picture("11111", ".....", "....2")
    try:
        found = measure(labels, None, ("crack", "crack"), SCALE, {})
    except RuleError:
        return
    assert found.types["crack"].area_mm2.value == pytest.approx(6 * 0.01)


@pytest.mark.parametrize("bad", [float("nan"), -1.0, float("inf")])
def test_a_cut_off_that_would_drop_everything_is_refused(bad: float) -> None:
    with pytest.raises(RuleError):
        measure(picture("1"), None, NAMES, SCALE, {}, min_indication_mm={"crack": bad})


@pytest.mark.parametrize("bad", [float("nan"), -0.01, float("inf")])
def test_an_implausible_uncertainty_of_an_edge_is_refused(bad: float) -> None:
    with pytest.raises(RuleError):
        measure(picture("1"), None, NAMES, SCALE, {}, uncertainty=Uncertainty(bad))
