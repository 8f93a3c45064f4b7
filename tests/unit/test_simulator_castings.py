"""Random castings and the imaging chain's effects, each against what it is meant to do."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_daemon.errors import UsageError
from edge_daemon.simulator import FAMILIES, METALS, MODES, UNSEEN_FAMILIES, UNSEEN_MODES, Exposure, simulate
from edge_daemon.simulator.castings import random_casting
from edge_daemon.simulator.physics import expose, random_exposure

SIZE = (160, 200)
QUIET = Exposure(
    scatter_ratio=0.0, blur_sigma_px=0.3, quanta=1e12, electronic=0.0, row_noise=0.0, vignetting=0.0, bits=16
)


def flat(grey_steps: bool = False) -> np.ndarray:
    plate = np.full(SIZE, 6.0, np.float32)
    if grey_steps:
        plate[:, 100:] = 9.0
    return plate


def shown(exposure: Exposure, plate: np.ndarray, seed: int = 0) -> np.ndarray:
    full = 255.0 if exposure.bits == 8 else 65535.0
    return expose(np.random.default_rng(seed), plate, np.zeros_like(plate), exposure).pixels / full


@pytest.mark.parametrize("family", [*FAMILIES, *UNSEEN_FAMILIES])
def test_every_family_makes_metal_with_structure(family: str) -> None:
    """Thickness is finite and not negative, differs from seed to seed, repeats for a seed, and has edges in it."""
    maps = []
    for seed in range(6):
        part, wall = random_casting(np.random.default_rng(seed), (192, 192), 0.15, family)
        assert part.dtype == np.float32
        assert np.isfinite(part).all()
        assert part.min() >= 0.0
        assert 1.2 <= wall <= 45.0
        assert part.max() >= 0.2 * wall
        maps.append(part / wall)
    again, _ = random_casting(np.random.default_rng(0), (192, 192), 0.15, family)
    wall = random_casting(np.random.default_rng(0), (192, 192), 0.15, family)[1]
    assert np.array_equal(again / wall, maps[0])
    slopes = [float(np.hypot(*np.gradient(one)).max()) for one in maps]
    assert np.median(slopes) > 0.05
    assert max(float(np.abs(maps[0] - other).mean()) for other in maps[1:]) > 0.05


@pytest.mark.parametrize("mode", [*MODES, *UNSEEN_MODES])
@pytest.mark.parametrize("metal", METALS)
def test_every_mode_takes_a_picture_of_every_metal(mode: str, metal: str) -> None:
    picture = simulate(3, size_px=SIZE, structure="casting", mode=mode, metal=metal)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.std() > 1.0
    assert np.isfinite(picture.signal).all()
    assert picture.noise.min() > 0.0


def test_what_cannot_be_simulated_is_refused_by_name() -> None:
    for what, hint in (("structure", "wheel"), ("mode", "film"), ("metal", "steel")):
        with pytest.raises(UsageError, match="cheese") as error:
            simulate(1, size_px=SIZE, **{what: "cheese"})  # type: ignore[arg-type]
        assert hint in str(error.value.hint)


def test_a_burnt_out_picture_is_taken_again() -> None:
    """Of many pictures hardly any is mostly black or white."""
    clipped = [
        float(((one.pixels == 0) | (one.pixels >= 254)).mean())
        for one in (simulate(seed, size_px=(128, 128), structure="wheel") for seed in range(60))
    ]
    assert np.mean(np.array(clipped) > 0.5) <= 0.05


def test_dark_voids_are_the_negative_of_bright_ones() -> None:
    bright = simulate(21, size_px=SIZE, bits=16)
    dark = simulate(21, size_px=SIZE, bits=16, polarity="dark_void")
    assert np.abs(bright.pixels.astype(int) + dark.pixels.astype(int) - 65535).max() <= 1
    assert np.allclose(bright.signal, -dark.signal)
    assert np.array_equal(bright.labels, dark.labels)


def test_twelve_bits_lie_in_the_upper_bits_of_sixteen() -> None:
    picture = simulate(8, size_px=SIZE, bits=12)
    assert picture.pixels.dtype == np.uint16
    assert not (picture.pixels & 15).any()
    assert picture.pixels.max() <= 65520


def test_the_wall_comes_out_as_grey_as_asked_under_any_display() -> None:
    for change in ({}, {"gamma": 0.7}, {"log_curve": 30.0}, {"window": (0.2, 0.9)}, {"log_curve": 8.0, "gamma": 1.4}):
        grey = shown(Exposure(**{**vars_of(QUIET), **change}), flat())
        assert grey.mean() == pytest.approx(QUIET.wall_grey, abs=0.004), change


def vars_of(exposure: Exposure) -> dict:
    return {name: getattr(exposure, name) for name in exposure.__slots__}


def test_focal_spot_widens_an_edge_as_the_gaussian_of_its_variance() -> None:
    """The edge's derivative has the variance of the detector's blur plus (diameter / 4)^2."""

    def spread(exposure: Exposure) -> float:
        profile = np.diff(shown(exposure, flat(grey_steps=True))[80])
        weight = np.abs(profile[60:140])
        at = np.arange(weight.size)
        mean = (weight * at).sum() / weight.sum()
        return float((weight * (at - mean) ** 2).sum() / weight.sum())

    own = {**vars_of(QUIET), "blur_sigma_px": 1.0}
    wider = spread(Exposure(**{**own, "focal_blur_px": 8.0})) - spread(Exposure(**own))
    assert wider == pytest.approx((8.0 / 4.0) ** 2, rel=0.12)


def test_lag_shows_the_frame_before_where_the_part_was() -> None:
    plate = flat()
    plate[60:70, 90:100] = 3.0
    ghost = shown(Exposure(**{**vars_of(QUIET), "lag_share": 0.2, "lag_px": (30.0, 0.0)}), plate)
    base = shown(QUIET, flat())[0, 0]
    assert ghost[65, 125] - base == pytest.approx(0.2 * (shown(QUIET, plate)[65, 95] - base), rel=0.1)


def test_glare_lifts_what_is_dark_beside_what_is_bright() -> None:
    plate = np.full(SIZE, 0.5, np.float32)
    plate[70:90, 90:110] = 60.0
    dark = Exposure(**{**vars_of(QUIET), "wall_mm": 0.5})
    assert shown(Exposure(**{**vars_of(dark), "glare_share": 0.2}), plate)[80, 100] > shown(dark, plate)[80, 100] + 0.05


def test_flat_field_error_dead_pixels_iris_levels_and_columns() -> None:
    own = vars_of(QUIET)
    pattern = shown(Exposure(**{**own, "fixed_pattern": 0.02}), flat())
    assert pattern.std() / pattern.mean() == pytest.approx(0.02, rel=0.05)
    blotched = shown(Exposure(**{**own, "blotches": 0.03}), flat())
    assert blotched.std() > 0.005
    assert np.abs(np.diff(blotched, axis=1)).max() < 0.01  # soft
    dead = shown(Exposure(**{**own, "dead_share": 0.01}), flat())
    wrong = np.abs(dead - np.median(dead)) > 0.02
    assert 0.005 < wrong.mean() < 0.04
    seen = shown(Exposure(**{**own, "iris": 0.3}), flat())
    assert seen[0, 0] == 0.0
    assert seen[80, 100] > 0.4
    coarse = shown(Exposure(**{**own, "levels": 20, "vignetting": 0.3}), flat())
    assert len(np.unique(coarse)) <= 21
    columns = shown(Exposure(**{**own, "column_noise": 0.01}), flat())
    assert columns.std(axis=0).max() < 1e-4 < columns.mean(axis=0).std()


def test_sharpening_raises_noise_and_contrast_alike_and_says_so() -> None:
    plate, missing = flat(), np.zeros(SIZE, np.float32)
    missing[75:85, 95:105] = 0.4
    plain = Exposure(quanta=5000.0, bits=16, scatter_ratio=0.0, vignetting=0.0)
    sharp = Exposure(**{**vars_of(plain), "sharpen": 1.5, "sharpen_sigma_px": 6.0})
    soft, hard = (expose(np.random.default_rng(3), plate, missing, one) for one in (plain, sharp))
    assert np.abs(hard.signal).max() > 1.3 * np.abs(soft.signal).max()
    measured = hard.pixels[:60].astype(float).std() / 257.0
    assert hard.noise[:60].mean() == pytest.approx(measured, rel=0.1)
    assert hard.noise[:60].mean() > 1.5 * soft.noise[:60].mean()


def test_random_exposures_keep_to_their_mode() -> None:
    rng = np.random.default_rng(2)
    some = {mode: [random_exposure(rng, 8.0, mode) for _ in range(40)] for mode in (*MODES, *UNSEEN_MODES)}
    assert all(one.glare_share > 0 for one in some["intensifier"])
    assert any(one.iris is not None for one in some["intensifier"])
    assert all(one.vignetting <= 0.15 and one.iris is None for one in some["flat_panel"])
    assert all(one.log_curve > 0 and one.noise_sigma_px >= 1.5 for one in some["film"])
    thick = [random_exposure(rng, 30.0).tube_kv for _ in range(40)]
    thin = [random_exposure(rng, 2.0).tube_kv for _ in range(40)]
    assert np.mean(thick) > np.mean(thin) + 20


def test_a_ring_of_wide_noise_is_wide() -> None:
    """Film grain is correlated over its stated width: neighbours agree, pixels five apart do not."""
    film = Exposure(quanta=3000.0, correlated=1.0, noise_sigma_px=1.8, electronic=0.0, row_noise=0.0, scatter_ratio=0.0,
                    vignetting=0.0, bits=16)  # fmt: skip
    noise = shown(film, np.full((300, 300), 6.0, np.float32))
    noise = noise - cv2.GaussianBlur(noise, (0, 0), 20.0)

    def agreement(apart: int) -> float:
        return float(np.corrcoef(noise[:, :-apart].ravel(), noise[:, apart:].ravel())[0, 1])

    # white noise blurred by sigma correlates as exp(-d^2 / 4 sigma^2)
    assert agreement(1) == pytest.approx(np.exp(-1 / (4 * 1.8**2)), abs=0.03)
    assert agreement(5) == pytest.approx(np.exp(-25 / (4 * 1.8**2)), abs=0.04)
