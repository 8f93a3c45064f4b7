"""The simulated noise against its own law: variance = share * signal / quanta + electronics, in levels of full scale,
plus 1/12 for the rounding to bits (EMVA 1288, photon transfer)."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_daemon.simulator.physics import Exposed, Exposure, expose

SIDE = 512
WALL_MM = 6.0
# No scatter, no vignetting, nothing that is not asked for: a flat of one known level.
QUIET = Exposure(
    wall_mm=WALL_MM, scatter_ratio=0.0, vignetting=0.0, correlated=0.0, electronic=0.0, row_noise=0.0, bits=16
)


def flat(exposure: Exposure, seed: int = 1) -> Exposed:
    thickness = np.full((SIDE, SIDE), WALL_MM, np.float32)
    return expose(np.random.default_rng(seed), thickness, np.zeros_like(thickness), exposure)


def share(exposed: Exposed) -> NDArray[np.float64]:
    """The pixels as shares of full scale."""
    return exposed.pixels.astype(np.float64) / np.iinfo(exposed.pixels.dtype).max


def line(exposure: Exposure) -> tuple[float, float]:
    """Slope and intercept of variance over mean, over flats of nine levels, each weighted by its own uncertainty."""
    points = []
    for number, grey in enumerate(np.linspace(0.08, 0.88, 9)):
        levels = share(flat(replace(exposure, wall_grey=float(grey)), seed=number))
        points.append((levels.mean(), levels.var()))
        assert levels.mean() == pytest.approx(grey, rel=0.003)
    mean, variance = np.array(points).T
    slope, intercept = np.polyfit(mean, variance, 1, w=1.0 / variance)
    return float(slope), float(intercept)


def spread_of_blur(sigma_px: float) -> float:
    """Standard deviation of white noise of one after the blur that the scintillator stands for."""
    kernel = cv2.getGaussianKernel(2 * round(6 * sigma_px) + 1, sigma_px)
    return float((kernel**2).sum())


@pytest.mark.parametrize("quanta", [800.0, 20_000.0])
def test_slope_is_one_over_the_quanta_and_intercept_the_electronics(quanta: float) -> None:
    electronic = float(np.sqrt(0.2 / quanta))
    slope, intercept = line(replace(QUIET, quanta=quanta, electronic=electronic))
    assert slope == pytest.approx(1.0 / quanta, rel=0.05)
    assert intercept == pytest.approx(electronic**2 + 1.0 / (12.0 * 65535.0**2), rel=0.05)


@pytest.mark.parametrize(("correlated", "sigma_px"), [(0.5, 0.7), (0.8, 1.2), (0.85, 0.5), (1.0, 0.9)])
def test_the_scintillator_lowers_the_slope_as_its_blur_does(correlated: float, sigma_px: float) -> None:
    """The quantum noise is a sharp and a blurred part that do not know of each other."""
    electronic = 0.002
    slope, intercept = line(
        replace(QUIET, quanta=20_000.0, correlated=correlated, noise_sigma_px=sigma_px, electronic=electronic)
    )
    part = (1.0 - correlated) ** 2 + (correlated * spread_of_blur(sigma_px)) ** 2
    assert slope == pytest.approx(part / 20_000.0, rel=0.05)
    assert intercept == pytest.approx(electronic**2, rel=0.05)


def test_rounding_to_eight_bits_adds_a_twelfth() -> None:
    """Eight bits, and electronics of three quarters of a grey level: a seventh of the intercept is the rounding."""
    electronic = 0.75 / 255.0
    slope, intercept = line(replace(QUIET, quanta=60_000.0, electronic=electronic, bits=8))
    assert slope == pytest.approx(1.0 / 60_000.0, rel=0.05)
    assert intercept * 255.0**2 == pytest.approx(0.75**2 + 1.0 / 12.0, rel=0.05)


@pytest.mark.parametrize(
    "exposure",
    [
        replace(QUIET, quanta=5_000.0, electronic=0.002),
        replace(QUIET, quanta=40_000.0, electronic=0.002, bits=8),
        replace(QUIET, quanta=400_000.0, electronic=0.003, bits=8),
        replace(QUIET, quanta=20_000.0, electronic=0.001, correlated=0.5),
        replace(QUIET, quanta=20_000.0, electronic=0.001, correlated=0.85, noise_sigma_px=0.5),
        replace(QUIET, quanta=20_000.0, electronic=0.001, correlated=0.8, noise_sigma_px=1.4, bits=8),
        replace(QUIET, quanta=20_000.0, row_noise=0.002, column_noise=0.001),
        replace(QUIET, quanta=20_000.0, gamma=1.4),
        replace(QUIET, quanta=20_000.0, gamma=0.7),
        replace(QUIET, quanta=20_000.0, log_curve=40.0),
        replace(QUIET, quanta=20_000.0, window=(0.1, 0.9), gamma=1.2, log_curve=10.0),
        replace(QUIET, quanta=20_000.0, electronic=0.002, polarity="dark_void"),
        replace(QUIET, quanta=20_000.0, electronic=0.002, bits=12),
        replace(QUIET, quanta=20_000.0, electronic=0.008, levels=100),
    ],
)
@pytest.mark.parametrize("grey", [0.25, 0.6])
def test_the_stated_noise_is_the_measured_one(exposure: Exposure, grey: float) -> None:
    """With at least two thirds of a level of noise: below that, rounding adds more or less than its twelfth, as the
    mean lies to the levels."""
    exposed = flat(replace(exposure, wall_grey=grey))
    assert exposed.noise.dtype == np.float32 and exposed.noise.shape == exposed.pixels.shape
    # Rows and columns are 512 draws each: the mean over four pictures pins their share of it down.
    measured = (
        np.sqrt(np.mean([share(flat(replace(exposure, wall_grey=grey), seed)).var() for seed in range(4)])) * 255.0
    )
    assert float(np.sqrt((exposed.noise.astype(np.float64) ** 2).mean())) == pytest.approx(measured, rel=0.05)


def test_the_stated_noise_follows_the_thickness() -> None:
    """On a wedge with scatter and vignetting: two exposures of the same part differ by sqrt(2) of the stated noise."""
    exposure = Exposure(wall_mm=WALL_MM, quanta=3_000.0, bits=16, scatter_ratio=0.4, vignetting=0.1, row_noise=0.0005)
    wedge = np.repeat(np.linspace(4.0, 40.0, SIDE, dtype=np.float32)[None, :], SIDE, axis=0)
    nothing = np.zeros_like(wedge)
    one, other = (expose(np.random.default_rng(seed), wedge, nothing, exposure) for seed in (1, 2))
    difference = (share(one) - share(other)) * 255.0 / np.sqrt(2.0)
    assert one.noise[0, 0] > 1.5 * one.noise[0, -1]
    for columns in np.array_split(np.arange(SIDE), 8):
        stated = np.sqrt((one.noise[:, columns].astype(np.float64) ** 2).mean())
        assert difference[:, columns].std() == pytest.approx(stated, rel=0.05)


def correlation(levels: NDArray[np.float64], y: int, x: int) -> float:
    """Of each pixel with the one y below and x to the right."""
    noise = levels - levels.mean()
    return float((noise[: SIDE - y, : SIDE - x] * noise[y:, x:]).mean() / noise.var())


def test_noise_is_white_without_a_scintillator() -> None:
    levels = share(flat(replace(QUIET, quanta=5_000.0, electronic=0.002)))
    for y, x in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (3, 3), (0, 64)):
        assert abs(correlation(levels, y, x)) < 5.0 / SIDE, (y, x)


@pytest.mark.parametrize("sigma_px", [0.7, 1.0, 1.5])
def test_correlation_length_is_the_stated_one(sigma_px: float) -> None:
    """White noise blurred by a Gaussian sigma is correlated as exp(-d^2 / 4 sigma^2)."""
    levels = share(flat(replace(QUIET, quanta=2_000.0, correlated=1.0, noise_sigma_px=sigma_px)))
    for y, x in ((0, 1), (1, 0), (1, 1)):
        found = np.sqrt(-(y * y + x * x) / (4.0 * np.log(correlation(levels, y, x))))
        assert found == pytest.approx(sigma_px, rel=0.05)
    assert abs(correlation(levels, 0, 16)) < 20.0 / SIDE


def test_row_noise_lies_in_the_rows_and_nowhere_else() -> None:
    exposure = replace(QUIET, quanta=50_000.0, row_noise=0.004, wall_grey=0.5)
    levels = np.concatenate([share(flat(exposure, seed)) for seed in range(4)])
    pixel_variance = 0.5 / 50_000.0
    rows = levels.mean(axis=1).var(ddof=1) - pixel_variance / SIDE
    assert np.sqrt(rows) == pytest.approx(0.004, rel=0.08)  # 2,048 rows: 1.6 % standard error
    assert (levels - levels.mean(axis=1, keepdims=True)).var() == pytest.approx(pixel_variance, rel=0.05)


def test_noise_comes_from_the_seed_alone() -> None:
    exposure = replace(QUIET, quanta=5_000.0)
    assert np.array_equal(flat(exposure, 7).pixels, flat(exposure, 7).pixels)
    one, other = share(flat(exposure, 7)), share(flat(exposure, 8))
    together = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    assert abs(together) < 5.0 / SIDE
