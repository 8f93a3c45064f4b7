"""From millimetres of metal to grey levels: the imaging chain of a digital detector, one step after the other.

Beer-Lambert over a tube spectrum -> scatter -> unsharpness -> quanta -> detector noise -> flat field, gain, gamma ->
bits. Bright means little metal (transmitted intensity, ``bright_void``). Lengths in mm, intensities relative to the
open beam.

Not covered: geometric magnification (the picture lies in the plane of the part), lag, dead pixels, diffraction mottle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["METALS", "Exposed", "Exposure", "expose", "random_exposure", "transmission"]

# Mass attenuation of the pure metals, cm2/g (NIST XCOM, total with coherent scattering), and their density in g/cm3.
# Alloys are not covered: a few per cent of copper in aluminium attenuate noticeably more.
_ENERGY_KEV = np.array([30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0, 200.0, 300.0, 400.0])
_METALS = {
    "aluminum": (2.70, np.array([1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378, 0.1223, 0.1042, 0.09276])),
    "magnesium": (1.74, np.array([0.9306, 0.4881, 0.3292, 0.2570, 0.1951, 0.1686, 0.1394, 0.1245, 0.1065, 0.09492])),
    "titanium": (4.54, np.array([4.972, 2.214, 1.213, 0.7661, 0.4052, 0.2721, 0.1649, 0.1314, 0.1043, 0.09081])),
    "steel": (7.874, np.array([8.176, 3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964, 0.1460, 0.1099, 0.09400])),
}

#: The metals that can be shown, each as the pure element (steel as iron).
METALS = tuple(sorted(_METALS))

# The transmission is a smooth function of one number, so it is tabulated once per spectrum; at 2 um the table's step
# is a fortieth of a grey level at the steepest place.
_STEP_MM = 0.002
_MAX_MM = 80.0


@dataclass(frozen=True, slots=True)
class Exposure:
    """How the picture is taken.

    tube_kv: 50..150, for steel up to 400. metal: what every path length is of.
    wall_mm, wall_grey: the metal thickness that is to come out at this share of full scale.
    scatter_ratio: scattered over primary intensity behind thick metal. scatter_sigma_px, blur_sigma_px: Gaussian.
    quanta: absorbed quanta per pixel at full scale. correlated: share of the quantum noise that the scintillator blurs.
    electronic, row_noise: standard deviation as a share of full scale. gamma: exponent of the display curve.
    vignetting: loss in the corner, 0..1, with its centre (x, y) as a share of the picture. bits: 8 or 16.
    """

    tube_kv: float = 100.0
    wall_mm: float = 6.0
    wall_grey: float = 0.58
    scatter_ratio: float = 0.3
    scatter_sigma_px: float = 40.0
    blur_sigma_px: float = 0.7
    quanta: float = 20000.0
    correlated: float = 0.5
    electronic: float = 0.002
    row_noise: float = 0.001
    gamma: float = 1.0
    vignetting: float = 0.05
    vignetting_at: tuple[float, float] = (0.5, 0.5)
    bits: int = 8
    metal: str = "aluminum"


@dataclass(frozen=True, slots=True)
class Exposed:
    """pixels: uint8 or uint16 (H, W). signal: float32 (H, W), the noise-free change that the discontinuities make;
    noise: float32 (H, W), standard deviation of the noise. Both in grey levels of an 8-bit picture."""

    pixels: NDArray[Any]
    signal: NDArray[np.float32]
    noise: NDArray[np.float32]


@lru_cache(maxsize=64)
def _curve(tube_kv: float, metal: str) -> NDArray[np.float32]:
    """Transmission of 0..80 mm of a metal, energy-weighted over a Kramers spectrum behind 2 mm Al of filter."""
    energy = np.arange(26.0, tube_kv, 2.0)
    mu_per_mm = _per_mm(energy, metal)
    # Kramers: quanta ~ kV/E - 1; an energy-integrating detector multiplies by E.
    weight = (tube_kv - energy) * np.exp(-_per_mm(energy, "aluminum") * 2.0)
    path = np.arange(0.0, _MAX_MM + _STEP_MM, _STEP_MM)
    coarse = np.linspace(0.0, _MAX_MM, 801)
    passed = np.exp(-np.outer(coarse, mu_per_mm)) @ (weight / weight.sum())
    return np.asarray(np.exp(np.interp(path, coarse, np.log(passed))), np.float32)


def _per_mm(energy_kev: NDArray[np.float64], metal: str) -> NDArray[np.float64]:
    """Linear attenuation, 1/mm. Between the tabulated energies both logarithms are interpolated."""
    density, mass_attenuation = _METALS[metal]
    logarithm = np.interp(np.log(energy_kev), np.log(_ENERGY_KEV), np.log(mass_attenuation))
    return np.asarray(np.exp(logarithm) * density / 10.0, np.float64)


def transmission(path_mm: NDArray[np.float32], tube_kv: float, metal: str = "aluminum") -> NDArray[np.float32]:
    """Share of the open beam behind ``path_mm`` of a metal (any shape; clipped to 0..80 mm): float32 in (0, 1]."""
    index = (np.clip(path_mm, 0.0, _MAX_MM) * np.float32(1.0 / _STEP_MM)).astype(np.int32)
    return np.asarray(np.take(_curve(round(tube_kv), metal), index), np.float32)


def random_exposure(rng: np.random.Generator, wall_mm: float) -> Exposure:
    """A plausible exposure of a part whose thin wall measures ``wall_mm``; the ranges the engine is qualified for."""
    return Exposure(
        tube_kv=float(round(rng.uniform(65, 130))),
        wall_mm=wall_mm,
        wall_grey=float(rng.uniform(0.38, 0.82)),
        scatter_ratio=float(rng.uniform(0.05, 0.9)),
        scatter_sigma_px=float(rng.uniform(20, 60)),
        blur_sigma_px=float(rng.uniform(0.45, 1.15)),
        quanta=float(np.exp(rng.uniform(np.log(4000), np.log(80000)))),
        correlated=float(rng.uniform(0.2, 0.8)),
        electronic=float(rng.uniform(0.0005, 0.005)),
        row_noise=float(rng.uniform(0.0, 0.0025)),
        gamma=float(rng.uniform(0.8, 1.25)),
        vignetting=float(rng.uniform(0.0, 0.18)),
        vignetting_at=(float(rng.uniform(0.35, 0.65)), float(rng.uniform(0.35, 0.65))),
    )


def expose(
    rng: np.random.Generator, thickness_mm: NDArray[np.float32], missing_mm: NDArray[np.float32], exposure: Exposure
) -> Exposed:
    """Take the picture.

    thickness_mm: (H, W) sound metal along each ray. missing_mm: (H, W) metal that the discontinuities take away along
    the ray, negative where they are denser than the casting (as equivalent casting metal).
    """
    height, width = thickness_mm.shape
    sound = transmission(thickness_mm, exposure.tube_kv, exposure.metal)
    primary = transmission(thickness_mm - missing_mm, exposure.tube_kv, exposure.metal)
    change = cv2.GaussianBlur(primary - sound, (0, 0), exposure.blur_sigma_px)
    primary = np.asarray(cv2.GaussianBlur(primary, (0, 0), exposure.blur_sigma_px), np.float32)
    intensity = primary + _scatter(primary, thickness_mm, exposure)

    wall = np.array([exposure.wall_mm], np.float32)
    wall_level = float(transmission(wall, exposure.tube_kv, exposure.metal)[0]) * (1.0 + exposure.scatter_ratio * 0.5)
    # The display curve is a power; the gain before it puts the wall where it was asked for.
    gain = exposure.wall_grey ** (1.0 / exposure.gamma) / wall_level
    field = _flat_field(height, width, exposure.vignetting, exposure.vignetting_at)
    linear = intensity * (field * np.float32(gain))

    pixels = _displayed(linear + _noise(rng, linear, exposure), exposure.gamma)
    # What the discontinuities change on the display, saturation included: in burnt-out air nothing is to be seen.
    signal = _displayed(linear, exposure.gamma) - _displayed(
        linear - change * (field * np.float32(gain)), exposure.gamma
    )
    slope = np.float32(1.0)
    if exposure.gamma != 1.0:
        slope = np.float32(exposure.gamma) * np.power(np.maximum(linear, 1e-3), np.float32(exposure.gamma - 1.0))
    scale = 255.0 if exposure.bits == 8 else 65535.0
    pixels = pixels * np.float32(scale) + np.float32(0.5)
    # Blurring white noise by sigma s multiplies its standard deviation by 1 / (2 s sqrt(pi)).
    share = (1.0 - exposure.correlated) ** 2 + (exposure.correlated / (2.0 * _NOISE_SIGMA_PX * np.sqrt(np.pi))) ** 2
    variance = linear * np.float32(share / exposure.quanta) + np.float32(exposure.electronic**2 + exposure.row_noise**2)
    spread = np.sqrt(variance) * slope * np.float32(255.0)
    signal *= np.float32(255.0)
    return Exposed(pixels.astype(np.uint8 if exposure.bits == 8 else np.uint16), signal, spread)


_NOISE_SIGMA_PX = 0.7


def _displayed(linear: NDArray[np.float32], gamma: float) -> NDArray[np.float32]:
    """The display curve, clipped to full scale."""
    shown = np.clip(linear, 0.0, 1.0)
    return np.asarray(shown if gamma == 1.0 else np.power(shown, np.float32(gamma)), np.float32)


def _scatter(
    primary: NDArray[np.float32], thickness_mm: NDArray[np.float32], exposure: Exposure
) -> NDArray[np.float32]:
    """Scattered intensity: the primary, blurred wide, times a ratio that rises with the metal it comes from."""
    height, width = primary.shape
    small = (max(1, width // 8), max(1, height // 8))
    ratio = np.float32(exposure.scatter_ratio) * (1.0 - np.exp(thickness_mm * np.float32(-1.0 / 9.0)))
    source = cv2.resize(primary * ratio, small, interpolation=cv2.INTER_AREA)
    source = cv2.GaussianBlur(source, (0, 0), exposure.scatter_sigma_px / 8.0, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _noise(rng: np.random.Generator, linear: NDArray[np.float32], exposure: Exposure) -> NDArray[np.float32]:
    """Quantum noise (part of it blurred by the scintillator), electronics and rows, as a share of full scale.

    At the thousands of quanta per pixel of a radiograph the Poisson law is a normal law.
    """
    height, width = linear.shape
    white = rng.standard_normal((height, width), np.float32)
    blurred = cv2.GaussianBlur(white, (0, 0), _NOISE_SIGMA_PX)
    quantum = blurred * np.float32(exposure.correlated)
    # Fresh white noise for the sharp share: a flipped copy is independent pixel by pixel and costs nothing.
    quantum += white[::-1, ::-1] * np.float32(1.0 - exposure.correlated)
    noise = quantum * np.sqrt(np.maximum(linear, 0.0) * np.float32(1.0 / exposure.quanta))
    noise += rng.standard_normal((height, width), np.float32) * np.float32(exposure.electronic)
    noise += rng.standard_normal((height, 1), np.float32) * np.float32(exposure.row_noise)
    return np.asarray(noise, np.float32)


@lru_cache(maxsize=8)
def _squares(height: int, width: int, at: tuple[float, float]) -> NDArray[np.float32]:
    y = (np.arange(height, dtype=np.float32)[:, None] / height - at[1]) ** 2
    x = (np.arange(width, dtype=np.float32)[None, :] / width - at[0]) ** 2
    return np.asarray(2.0 * (y + x), np.float32)


def _flat_field(height: int, width: int, loss: float, at: tuple[float, float]) -> NDArray[np.float32]:
    """Relative intensity of the open beam, 1 at its centre."""
    return np.asarray(1.0 - np.float32(loss) * _squares(height, width, at), np.float32)
