"""Speed of the judge on a full frame, and of a straightforward NumPy version of the same definition beside it.

`make bench` runs these and keeps the table; the ordinary test run only checks that both agree.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from edge_daemon.judge import Scale, measure
from edge_daemon.judge.measure import marked_pixels
from edge_daemon.judge.windows import WindowScan, window_side_px

WIDTH, HEIGHT, SHARE = 2448, 2048, 0.02
NAMES = ("gas_hole", "gas_porosity_round", "crack")
SIDES_MM = (3.2, 6.4, 12.7, 25.4)
SCALE = Scale(0.1, 0.1)


@pytest.fixture(scope="module")
def labels() -> NDArray[np.uint8]:
    """Ellipses of three types over 2 % of a 5 megapixel frame."""
    random = np.random.default_rng(1)
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    while (picture > 0).mean() < SHARE:
        radius = random.lognormal(2.0, 0.6)
        centre = int(random.integers(0, WIDTH)), int(random.integers(0, HEIGHT))
        axes = max(1, int(radius)), max(1, int(radius * random.uniform(0.5, 1)))
        cv2.ellipse(picture, centre, axes, random.uniform(0, 180), 0, 360, int(random.integers(1, 4)), -1)
    return picture


def every_position(labels: NDArray[np.uint8]) -> dict[tuple[str, float], tuple[float, tuple[int, int]]]:
    """The judge's own scan: area of the worst window, by type and side."""
    found = {}
    at, values = marked_pixels(labels)
    for label, name in enumerate(NAMES, start=1):
        ys, xs = np.divmod(at[values == label], labels.shape[1])
        scan = WindowScan(ys, xs, None, (labels.shape[1], labels.shape[0]))
        for side_mm in SIDES_MM:
            side = window_side_px(side_mm, 0.1)
            worst = scan.worst((side, side))
            found[name, side_mm] = worst.value, worst.at_px
    return found


def straightforward(labels: NDArray[np.uint8]) -> dict[tuple[str, float], tuple[float, tuple[int, int]]]:
    """Sums of all windows by sliding views, rows first; no integral image, no bound."""
    found = {}
    for label, name in enumerate(NAMES, start=1):
        mask = (labels == label).astype(np.int32)
        for side_mm in SIDES_MM:
            side = round(side_mm / 0.1)
            rows = sliding_window_view(mask, side, axis=1).sum(axis=2, dtype=np.int32)
            sums = sliding_window_view(rows, side, axis=0).sum(axis=2, dtype=np.int32)
            y, x = divmod(int(sums.argmax()), sums.shape[1])
            found[name, side_mm] = float(sums[y, x]), (x, y)
    return found


def test_worst_windows_of_a_frame(benchmark: BenchmarkFixture, labels: NDArray[np.uint8]) -> None:
    found = benchmark(every_position, labels)
    assert len(found) == len(NAMES) * len(SIDES_MM)


def test_whole_measurement_of_a_frame(benchmark: BenchmarkFixture, labels: NDArray[np.uint8]) -> None:
    windows = dict.fromkeys(NAMES, SIDES_MM)
    measured = benchmark(lambda: measure(labels, None, NAMES, SCALE, windows))
    for (name, side_mm), (value, at_px) in every_position(labels).items():
        (one,) = (window for window in measured.types[name].windows if window.side_mm == side_mm)
        assert one.area_pct.at_px == at_px
        assert one.area_pct.value == pytest.approx(100 * value / one.side_px**2)


@pytest.mark.timeout(600)
def test_straightforward_version(
    request: pytest.FixtureRequest, benchmark: BenchmarkFixture, labels: NDArray[np.uint8]
) -> None:
    options = request.config.getoption
    if options("benchmark_disable") and not options("benchmark_enable"):
        crop = np.ascontiguousarray(labels[:400, :500])  # the whole frame takes some time
        assert benchmark(straightforward, crop) == every_position(crop)
        return
    found = benchmark.pedantic(straightforward, args=(labels,), rounds=1, iterations=1)
    assert found == every_position(labels)
