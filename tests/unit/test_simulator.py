"""The simulator: physics against hand calculation, truth against pictures, the conveyor against its plates."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_daemon import simulator
from edge_daemon.errors import UsageError
from edge_daemon.records import TYPE_IDS
from edge_daemon.simulator import Exposure, PlannedDefect, conveyor_part, reference_plate, simulate
from edge_daemon.simulator.discontinuities import CASTING_TYPES, ball, draw
from edge_daemon.simulator.physics import expose, transmission

CLEAN = Exposure(
    scatter_ratio=0.0, blur_sigma_px=0.01, quanta=1e12, electronic=0.0, row_noise=0.0, vignetting=0.0, bits=16
)


def worst_window_mm2(labels: np.ndarray, label: int, mm_per_px: float, side_mm: float = 12.7) -> float:
    """Largest area of one label in any square window, straight from the definition."""
    side = round(side_mm / mm_per_px)
    total = cv2.integral((labels == label).astype(np.float64))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return float(sums.max()) * mm_per_px**2


def spots(labels: np.ndarray) -> int:
    return cv2.connectedComponents((labels > 0).astype(np.uint8), connectivity=8)[0] - 1


def test_all_names_are_there_and_the_types_are_the_contracts() -> None:
    assert all(hasattr(simulator, name) for name in simulator.__all__)
    assert list(CASTING_TYPES) == list(TYPE_IDS[:11])
    assert (CASTING_TYPES[0], CASTING_TYPES[-1]) == ("gas_hole", "cold_shut")


def test_transmission_follows_beer_lambert_and_hardens() -> None:
    """ln T falls with thickness, ever less steeply: attenuation at 100 keV (0.046/mm) and 30 keV (0.30/mm) bound it."""
    path = np.arange(0.0, 40.0, 1.0, np.float32)
    logs = np.log(transmission(path, 100.0))
    slopes = -np.diff(logs)
    assert logs[0] == pytest.approx(0.0, abs=1e-6)
    assert np.all(np.diff(slopes) < 0.0)
    assert 0.046 < slopes[-1] < slopes[0] < 0.30
    assert np.all(transmission(path[5:], 130.0) > transmission(path[5:], 70.0))


def test_contrast_of_a_void_is_that_of_the_missing_metal() -> None:
    """A flat void of 1 mm in 6 mm shows exactly the grey ratio T(5)/T(6)."""
    thickness = np.full((64, 64), 6.0, np.float32)
    missing = np.zeros_like(thickness)
    missing[20:40, 20:40] = 1.0
    pixels = expose(np.random.default_rng(0), thickness, missing, CLEAN).pixels.astype(float)
    expected = float(transmission(np.float32([5.0]), 100.0)[0] / transmission(np.float32([6.0]), 100.0)[0])
    assert pixels[30, 30] / pixels[5, 5] == pytest.approx(expected, rel=1e-3)
    assert pixels[5, 5] / 65535 == pytest.approx(CLEAN.wall_grey, rel=1e-3)


def test_stated_noise_is_the_noise_of_the_picture() -> None:
    thickness = np.full((400, 400), 8.0, np.float32)
    exposure = Exposure(quanta=6000.0, electronic=0.004, row_noise=0.0, scatter_ratio=0.0, vignetting=0.0, bits=16)
    exposed = expose(np.random.default_rng(1), thickness, np.zeros_like(thickness), exposure)
    measured = float(exposed.pixels.astype(float).std()) * 255.0 / 65535.0
    assert measured == pytest.approx(float(exposed.noise.mean()), rel=0.08)


@pytest.mark.parametrize("diameter_mm", [0.5, 1.0, 4.0])
def test_ball_has_the_volume_and_shadow_of_a_sphere(diameter_mm: float) -> None:
    """Volume pi d3 / 6 from the path lengths, area pi d2 / 4 from the mask (to the pixels it is made of)."""
    rng = np.random.default_rng(3)
    pieces = [ball(rng, diameter_mm, diameter_mm, diameter_mm, 0.0, 0.1) for _ in range(40)]
    volume = np.mean([piece.path_mm.sum() for piece in pieces]) * 0.01
    area = np.mean([piece.mask.sum() for piece in pieces]) * 0.01
    assert volume == pytest.approx(np.pi * diameter_mm**3 / 6, rel=0.02)
    assert area == pytest.approx(np.pi * diameter_mm**2 / 4, rel=0.25 * (0.5 / diameter_mm) + 0.02)


@pytest.mark.parametrize("type_id", CASTING_TYPES)
def test_every_type_is_drawn_where_and_as_large_as_planned(type_id: str) -> None:
    """The largest extent stays near the plan; bright types take metal away, the dense one adds; the label is theirs."""
    size_mm = 6.0
    picture = simulate(
        5, defects=[PlannedDefect(type_id, size_mm, 2.0, (256, 200))], structure="plate", exposure=Exposure(quanta=1e6)
    )
    label = CASTING_TYPES.index(type_id) + 1
    assert set(np.unique(picture.labels)) == {0, label}
    (placed,) = picture.defects
    x, y, width, height = placed.bbox_px
    rows, columns = np.nonzero(picture.labels)
    assert (columns.min(), rows.min()) == (x, y)
    assert (columns.max() + 1 - x, rows.max() + 1 - y) == (width, height)
    assert placed.area_mm2 == pytest.approx(len(rows) * 0.01, rel=0.25)
    # foreign grains may come several together
    reach = 5.0 if type_id == "foreign_more_dense" else 1.3
    assert 0.3 * size_mm < max(width, height) * 0.1 < reach * size_mm
    strongest = picture.signal.flat[int(np.abs(picture.signal).argmax())]
    assert (strongest < 0) == (type_id == "foreign_more_dense")
    assert abs(strongest) > 4.0
    inside = picture.pixels[picture.labels > 0].astype(float).mean()
    around = picture.pixels[cv2.dilate(picture.labels, np.ones((25, 25))) == 0].astype(float).mean()
    assert (inside < around) == (type_id == "foreign_more_dense")


def test_signal_lies_where_the_labels_are() -> None:
    """Outside the labels (grown by the blur) a picture's discontinuities change nothing."""
    for seed in range(12):
        picture = simulate(seed, size_px=(256, 256))
        far = cv2.dilate(picture.labels, np.ones((13, 13))) == 0
        strongest = float(np.abs(picture.signal).max())
        assert float(np.abs(picture.signal[far]).max(initial=0.0)) <= 0.12 * strongest + 1e-3


def test_same_seed_same_picture_and_arrays_are_read_only() -> None:
    first, again, other = (
        simulate(11, size_px=(128, 160)),
        simulate(11, size_px=(128, 160)),
        simulate(12, size_px=(128, 160)),
    )
    assert first.pixels.dtype == np.uint8
    assert first.pixels.shape == first.labels.shape == (128, 160)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.labels, again.labels)
    assert first.defects == again.defects
    assert not np.array_equal(first.pixels, other.pixels)
    with pytest.raises(ValueError, match="read-only"):
        first.pixels[0, 0] = 1


def test_sixteen_bit_picture_shows_the_same() -> None:
    exposure = Exposure(bits=16)
    deep = simulate(4, structure="plate", exposure=exposure)
    plain = simulate(4, structure="plate", exposure=Exposure(bits=8))
    assert deep.pixels.dtype == np.uint16
    assert np.abs(deep.pixels / 257.0 - plain.pixels).max() <= 1.0


def test_conveyor_parts_are_what_they_are_called() -> None:
    """Areas by brute force against the reference plate, at the same window and scale."""
    limit = worst_window_mm2(reference_plate(*simulator.CONVEYOR_REFERENCE).labels, 2, 0.1)
    sound = [conveyor_part(seed, "sound") for seed in range(3)]
    assert all(not part.labels.any() and not part.defects for part in sound)
    for seed in range(12):
        light, heavy = conveyor_part(seed, "acceptable"), conveyor_part(seed, "rejectable")
        assert 3 <= spots(light.labels) <= 5
        assert 0 < worst_window_mm2(light.labels, 2, 0.1) <= 0.6 * limit
        assert worst_window_mm2(heavy.labels, 2, 0.1) >= 3.0 * limit
        crack = conveyor_part(seed, "crack")
        assert {defect.type for defect in crack.defects} == {"crack"}
        assert 8.0 <= crack.defects[0].size_mm <= 15.0
        for part in (light, heavy, crack):
            # Well visible: the strongest change is many times the noise beneath it.
            assert float((np.abs(part.signal) / part.noise).max()) > 7.0


def test_conveyor_shows_one_design_in_slightly_different_poses() -> None:
    first, second = conveyor_part(1, "sound").pixels, conveyor_part(2, "sound").pixels
    assert not np.array_equal(first, second)
    other = simulate(3, structure="casting").pixels
    small = [cv2.resize(p, (24, 24), interpolation=cv2.INTER_AREA).ravel() for p in (first, second, other)]
    assert np.corrcoef(small)[0, 1] > 0.7 > np.abs(np.corrcoef(small)[0, 2]) + 0.2
    # air may burn out, the part may not
    assert (first == 255).mean() < 0.25
    assert (cv2.erode((first >= 250).astype(np.uint8), np.ones((5, 5))) * (first < 200)).sum() == 0
    assert 90 < np.median(first) < 130


@pytest.mark.parametrize("type_id", CASTING_TYPES)
def test_reference_levels_grow(type_id: str) -> None:
    """Each level holds more area than the one below, near the area it is graded by, and only its own label."""
    label = CASTING_TYPES.index(type_id) + 1
    areas, sizes = [], []
    for level in (1, 3, 5, 7, 8):
        plate = reference_plate(type_id, level)
        assert set(np.unique(plate.labels)) == {0, label}
        areas.append(float((plate.labels > 0).mean()) * 100)
        sizes.append(max(defect.size_mm for defect in plate.defects))
        assert areas[-1] == pytest.approx(simulator.plate_area_pct(type_id, level), rel=0.8)
        assert areas[-1] >= 0.99 * simulator.plate_area_pct(type_id, level)
    assert areas == sorted(areas)
    assert sizes == sorted(sizes)


def test_reference_plate_is_always_the_same() -> None:
    one, same = reference_plate("crack", 3), reference_plate("crack", 3)
    assert np.array_equal(one.pixels, same.pixels)
    assert not np.array_equal(one.pixels, reference_plate("crack", 3, seed=1).pixels)


def test_what_cannot_be_simulated_is_refused_with_a_reason() -> None:
    with pytest.raises(UsageError, match="'rust' is no casting"):
        draw("rust", np.random.default_rng(0), 1.0, 1.0, 0.1)
    with pytest.raises(UsageError, match="levels run from 1 to 8"):
        reference_plate("crack", 9)
    with pytest.raises(UsageError, match="'crazing' is no casting"):
        reference_plate("crazing", 1)
    with pytest.raises(UsageError, match="sound, acceptable"):
        conveyor_part(0, "broken")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="16 to 8192"):
        simulate(0, size_px=(8, 512))
    with pytest.raises(UsageError, match="to 1 mm/px"):
        simulate(0, mm_per_px=0.0)
    with pytest.raises(UsageError, match="no plain wall"):
        conveyor_part(0, "crack", size_px=(64, 64), mm_per_px=0.02)
