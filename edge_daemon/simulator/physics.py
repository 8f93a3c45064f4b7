"""From millimetres of metal to grey levels: the imaging chain of a radiograph, one step after the other.

Beer-Lambert over a tube spectrum -> unsharpness of focal spot and detector, veiling glare, lag -> scatter -> flat
field, gain -> quanta and electronics -> dead pixels -> display window, curve, sharpening -> polarity, bits.
Bright means little metal (transmitted intensity, ``bright_void``) unless ``polarity`` says otherwise. Lengths in mm,
intensities relative to the open beam.

Not covered: magnification and distortion of the geometry (the picture lies in the plane of the part), scatter from
things outside the picture, diffraction mottle as such (a mottled thickness stands in for it).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .materials import METAL_MATERIAL, attenuation_per_mm, spectrum

__all__ = ["METALS", "MODES", "UNSEEN_MODES", "Exposed", "Exposure", "expose", "random_exposure", "transmission"]

#: The metals that can be shown, each as a usual casting alloy of ``materials.METAL_MATERIAL``.
METALS = tuple(sorted(METAL_MATERIAL))

# The transmission is a smooth function of one number, so it is tabulated once per spectrum; at 4 um the table's step
# is a twentieth of a grey level at the steepest place, and interpolated between for 16 bits.
_STEP_MM = 0.004
_MAX_MM = 240.0

Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Exposure:
    """How the picture is taken. Every effect beyond a plain digital detector is off by default.

    tube_kv: 50..300, to the nearest whole one. metal: what every path length is of.
    wall_mm, wall_grey: the metal thickness that is to come out at this share of full scale.
    scatter_ratio: scattered over primary intensity behind thick metal. scatter_sigma_px, blur_sigma_px: Gaussian.
    focal_blur_px: diameter of the focal spot's penumbra on the detector, f (M - 1) in px; taken as the Gaussian of
    equal variance, diameter / 4. glare_share, glare_sigma_px: veiling glare of an image intensifier.
    lag_share, lag_px: share of the frame before, in which the part lay (x, y) px elsewhere.
    quanta: absorbed quanta per pixel at full scale. correlated: share of the quantum noise that the scintillator blurs
    by noise_sigma_px. electronic, row_noise, column_noise: standard deviation as a share of full scale.
    fixed_pattern, blotches: standard deviation of the gain from pixel to pixel, and in soft patches.
    dead_share: share of pixels that are black, white or stuck, alone and in small clusters.
    vignetting: loss in the corner, 0..1, with its centre (x, y) as a share of the picture. iris: radius of the lit
    circle as a share of the longer side, None for none; black outside.
    window: what is shown as black and white, as shares of full scale. gamma: exponent of the display curve;
    log_curve: strength a of a curve log(1 + a x) / log(1 + a), 0 for none. levels: grey levels of a coarse converter,
    0 for none. sharpen, sharpen_sigma_px: unsharp mask. median_px: 0, 3 or 5. jpeg: quality, 0 for none (8 bit only).
    polarity: ``bright_void`` or ``dark_void``. bits: 8, 12 (in the upper bits of 16) or 16.
    """

    tube_kv: float = 100.0
    wall_mm: float = 6.0
    wall_grey: float = 0.58
    scatter_ratio: float = 0.3
    scatter_sigma_px: float = 40.0
    blur_sigma_px: float = 0.7
    focal_blur_px: float = 0.0
    glare_share: float = 0.0
    glare_sigma_px: float = 60.0
    lag_share: float = 0.0
    lag_px: tuple[float, float] = (0.0, 0.0)
    quanta: float = 20000.0
    correlated: float = 0.5
    noise_sigma_px: float = 0.7
    electronic: float = 0.002
    row_noise: float = 0.001
    column_noise: float = 0.0
    fixed_pattern: float = 0.0
    blotches: float = 0.0
    dead_share: float = 0.0
    vignetting: float = 0.05
    vignetting_at: tuple[float, float] = (0.5, 0.5)
    iris: float | None = None
    window: tuple[float, float] = (0.0, 1.0)
    gamma: float = 1.0
    log_curve: float = 0.0
    levels: int = 0
    sharpen: float = 0.0
    sharpen_sigma_px: float = 1.5
    median_px: int = 0
    jpeg: int = 0
    polarity: str = "bright_void"
    bits: int = 8
    metal: str = "aluminum"


@dataclass(frozen=True, slots=True)
class Exposed:
    """pixels: uint8 or uint16 (H, W). signal: float32 (H, W), the noise-free change that the discontinuities make;
    noise: float32 (H, W), standard deviation of the noise, rounding to bits included. Both in grey levels of an 8-bit
    picture; where a picture was sharpened or filtered the noise is measured in its surroundings, else by its law. What
    stands still from frame to frame (gain pattern, blotches, dead pixels) counts as structure, not as noise. grain:
    (share, sigma in px): this share of the noise's variance is white noise blurred by a Gaussian, the rest is white."""

    pixels: NDArray[Any]
    signal: Map
    noise: Map
    grain: tuple[float, float] = (0.0, 0.0)


@lru_cache(maxsize=256)
def _curve(tube_kv: int, metal: str) -> Map:
    """Transmission of 0.._MAX_MM of a metal, weighted with the energy that a detector takes up."""
    energy, quanta = spectrum(tube_kv)
    weight = energy * quanta
    # Dense where the beam hardens fastest.
    coarse = _MAX_MM * np.linspace(0.0, 1.0, 2401) ** 2
    passed = np.exp(-np.outer(coarse, attenuation_per_mm(METAL_MATERIAL[metal], energy))) @ (weight / weight.sum())
    path = np.arange(0.0, _MAX_MM + 1.5 * _STEP_MM, _STEP_MM)
    return np.asarray(np.exp(np.interp(path, coarse, np.log(passed))), np.float32)


def transmission(path_mm: Map, tube_kv: float, metal: str = "aluminum") -> Map:
    """Share of the open beam behind ``path_mm`` of a metal (any shape; clipped to 0..240 mm): float32 in (0, 1].

    Energy-weighted: a detector that integrates energy. The spectrum is that of a tungsten anode behind the tube's own
    filter (``materials.spectrum``).
    """
    at = np.clip(path_mm, 0.0, _MAX_MM) * np.float32(1.0 / _STEP_MM)
    index = at.astype(np.int32)
    curve = _curve(round(tube_kv), metal)
    low = np.take(curve, index)
    return np.asarray(low + (np.take(curve, index + 1) - low) * (at - index), np.float32)


#: Kinds of picture to learn from, and one that no training picture is of.
MODES = ("flat_panel", "intensifier", "imaging_plate")
UNSEEN_MODES = ("film",)


def random_exposure(
    rng: np.random.Generator, wall_mm: float, mode: str | None = None, metal: str = "aluminum"
) -> Exposure:
    """A plausible exposure of a part whose thin wall measures ``wall_mm``, by one of MODES or UNSEEN_MODES.

    flat_panel: sharp, evenly lit, fine gain pattern. intensifier: vignetting, glare, lag, rows, coarse and clipped
    video levels. imaging_plate: blurred, blotched, logarithmic. film: a scanned film, logarithmic, coarse grain.
    """
    mode = mode or MODES[int(rng.choice(3, p=[0.4, 0.45, 0.15]))]

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def log(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    def sometimes(share: float, value: float) -> float:
        return value if rng.random() < share else 0.0

    kv = np.clip(uniform(50.0, 95.0) + uniform(0.8, 4.0) * wall_mm, 50.0, 220.0)
    if metal in ("steel", "titanium"):
        kv = np.clip(uniform(90.0, 140.0) + uniform(4.0, 9.0) * wall_mm, 90.0, 300.0)
    common: dict[str, Any] = {
        "tube_kv": float(round(kv)), "wall_mm": wall_mm, "metal": metal, "wall_grey": uniform(0.25, 0.86),
        "scatter_ratio": log(0.05, 1.6), "scatter_sigma_px": uniform(20, 70),
        "focal_blur_px": sometimes(0.5, uniform(0.5, 4.0)), "correlated": uniform(0.2, 0.85),
        "electronic": log(0.0004, 0.004), "vignetting_at": (uniform(0.3, 0.7), uniform(0.3, 0.7)),
        "sharpen": sometimes(0.2, log(0.3, 1.6)), "sharpen_sigma_px": log(0.8, 12.0),
        "median_px": int(rng.choice([0, 3, 5], p=[0.9, 0.08, 0.02])), "jpeg": int(sometimes(0.15, uniform(60, 95))),
    }  # fmt: skip
    low = sometimes(0.4, uniform(0.0, 0.2)) * common["wall_grey"]
    high = 1.0 if rng.random() < 0.5 else uniform(min(common["wall_grey"] + 0.15, 0.95), 1.0)
    if mode == "flat_panel":
        own: dict[str, Any] = {
            "quanta": log(5000, 120000), "blur_sigma_px": uniform(0.4, 1.2), "noise_sigma_px": uniform(0.5, 0.9),
            "row_noise": sometimes(0.5, log(0.0003, 0.003)), "column_noise": sometimes(0.4, log(0.0003, 0.003)),
            "fixed_pattern": sometimes(0.5, log(0.0005, 0.006)), "dead_share": sometimes(0.2, log(2e-6, 5e-5)),
            "vignetting": uniform(0.0, 0.15), "gamma": uniform(0.7, 1.4), "log_curve": sometimes(0.2, log(3.0, 60.0)),
        }  # fmt: skip
    elif mode == "intensifier":
        own = {
            "quanta": log(4000, 80000), "blur_sigma_px": uniform(0.7, 2.2), "noise_sigma_px": uniform(0.6, 1.5),
            "glare_share": uniform(0.03, 0.3), "glare_sigma_px": uniform(30, 120),
            "lag_share": sometimes(0.4, uniform(0.02, 0.3)), "lag_px": (uniform(-4, 4), uniform(-2, 2)),
            "row_noise": sometimes(0.8, log(0.0005, 0.004)), "column_noise": sometimes(0.1, log(0.0003, 0.002)),
            "blotches": sometimes(0.3, log(0.001, 0.01)), "dead_share": sometimes(0.2, log(2e-6, 3e-5)),
            "vignetting": uniform(0.05, 0.6), "iris": uniform(0.45, 0.75) if rng.random() < 0.3 else None,
            "gamma": uniform(0.6, 1.5), "levels": int(sometimes(0.3, log(64, 220))),
        }  # fmt: skip
    elif mode == "imaging_plate":
        own = {
            "quanta": log(4000, 40000), "blur_sigma_px": uniform(0.8, 1.6), "noise_sigma_px": uniform(0.8, 1.4),
            "row_noise": sometimes(0.3, log(0.0003, 0.002)), "column_noise": sometimes(0.5, log(0.0003, 0.003)),
            "blotches": log(0.001, 0.012), "dead_share": sometimes(0.3, log(2e-6, 8e-5)),
            "vignetting": uniform(0.0, 0.1), "log_curve": sometimes(0.7, log(3.0, 200.0)),
        }  # fmt: skip
    elif mode == "film":
        own = {
            "quanta": log(2500, 12000), "blur_sigma_px": uniform(0.5, 1.0), "noise_sigma_px": uniform(1.5, 2.2),
            "correlated": uniform(0.85, 1.0), "blotches": log(0.004, 0.02), "vignetting": uniform(0.0, 0.3),
            "log_curve": log(20.0, 400.0), "dead_share": sometimes(0.6, log(5e-6, 1e-4)), "gamma": uniform(1.2, 1.9),
        }  # fmt: skip
    else:
        raise UsageError(f"no imaging mode {mode!r}", hint=", ".join((*MODES, *UNSEEN_MODES)))
    return Exposure(**{**common, "window": (low, high), **own})


def expose(rng: np.random.Generator, thickness_mm: Map, missing_mm: Map, exposure: Exposure) -> Exposed:
    """Take the picture.

    thickness_mm: (H, W) sound metal along each ray. missing_mm: (H, W) metal that the discontinuities take away along
    the ray, negative where they are denser than the casting (as equivalent casting metal).
    """
    height, width = thickness_mm.shape
    sound = transmission(thickness_mm, exposure.tube_kv, exposure.metal)
    change = np.zeros_like(sound)
    if missing_mm.any():
        change = transmission(thickness_mm - missing_mm, exposure.tube_kv, exposure.metal) - sound
    intensity = _unsharp(sound, exposure)
    change = _unsharp(change, exposure) if change.any() else change
    intensity += change
    intensity += _scatter(intensity, thickness_mm, exposure)

    wall = np.array([exposure.wall_mm], np.float32)
    wall_level = float(transmission(wall, exposure.tube_kv, exposure.metal)[0]) * (1.0 + exposure.scatter_ratio * 0.5)
    # The window and the display curve come after the gain, which puts the wall where it was asked for.
    gain = np.float32(_before_display(exposure.wall_grey, exposure) / wall_level)
    field = _gain_field(rng, height, width, exposure) * gain
    linear = np.asarray(intensity * field, np.float32)
    change *= field

    noisy = linear + _noise(rng, linear, exposure)
    if exposure.dead_share:
        _dead_pixels(rng, noisy, exposure.dead_share)
    clean = _shown(linear, exposure)
    # What the discontinuities change on the display, saturation included: in burnt-out air nothing is to be seen.
    signal = (clean - _shown(linear - change, exposure)) * np.float32(255.0)
    shown = _shown(noisy, exposure)
    if exposure.sharpen or exposure.median_px:
        if exposure.median_px:
            shown = np.asarray(cv2.medianBlur(shown, exposure.median_px), np.float32)
        spread = cv2.GaussianBlur((shown - clean) ** 2, (0, 0), 6.0)
    else:
        spread = _noise_variance(linear, exposure) * _slope(linear, exposure) ** 2
    rounding = 1.0 / (12.0 * (2.0**exposure.bits - 1.0) ** 2)
    if exposure.levels:
        rounding = 1.0 / (12.0 * exposure.levels**2)
        shown = np.round(shown * np.float32(exposure.levels)) / np.float32(exposure.levels)
    noise = np.sqrt(spread + np.float32(rounding)) * np.float32(255.0)
    if exposure.polarity == "dark_void":
        shown, signal = 1.0 - shown, -signal
    return Exposed(_pixels(shown, exposure), np.asarray(signal, np.float32), np.asarray(noise, np.float32),
                   _grain(exposure))  # fmt: skip


def _pixels(shown: Map, exposure: Exposure) -> NDArray[Any]:
    levels = np.float32(2.0**exposure.bits - 1.0)
    rounded = np.asarray(shown * levels + np.float32(0.5), np.uint8 if exposure.bits == 8 else np.uint16)
    if exposure.bits == 8 and exposure.jpeg:
        data = cv2.imencode(".jpg", rounded, [cv2.IMWRITE_JPEG_QUALITY, exposure.jpeg])[1]
        rounded = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
    return np.asarray(np.left_shift(rounded, 4)) if exposure.bits == 12 else rounded


def _curved(windowed: Any, exposure: Exposure) -> Any:
    """The display curve on [0, 1]."""
    if exposure.log_curve:
        windowed = np.log1p(windowed * np.float32(exposure.log_curve)) * np.float32(1.0 / np.log1p(exposure.log_curve))
    return windowed if exposure.gamma == 1.0 else np.power(windowed, np.float32(exposure.gamma))


def _before_display(grey: float, exposure: Exposure) -> float:
    """The linear level that the display shows as ``grey``, in (0, 1)."""
    level = float(grey ** (1.0 / exposure.gamma))
    if exposure.log_curve:
        level = float(np.expm1(level * np.log1p(exposure.log_curve))) / exposure.log_curve
    low, high = exposure.window
    return low + level * (high - low)


def _shown(linear: Map, exposure: Exposure) -> Map:
    """From the linear level to the display, [0, 1]: the converter's range, window, curve, sharpening."""
    low, high = exposure.window
    shown = np.minimum(linear, np.float32(1.0)) if high == 1.0 else np.clip(linear, 0.0, 1.0)
    if (low, high) != (0.0, 1.0):
        shown = (shown - np.float32(low)) * np.float32(1.0 / (high - low))
    shown = np.asarray(_curved(np.clip(shown, 0.0, 1.0), exposure), np.float32)
    if exposure.sharpen:
        soft = cv2.GaussianBlur(shown, (0, 0), exposure.sharpen_sigma_px)
        shown = np.clip(shown + (shown - soft) * np.float32(exposure.sharpen), 0.0, 1.0)
    return np.asarray(shown, np.float32)


def _slope(linear: Map, exposure: Exposure) -> Map:
    """How steeply the display rises at each pixel, clipping left aside."""
    if exposure.gamma == 1.0 and not exposure.log_curve and exposure.window == (0.0, 1.0):
        return np.ones_like(linear)
    low, high = exposure.window
    at = np.clip((linear - np.float32(low)) * np.float32(1.0 / (high - low)), 0.002, 1.0)
    half = np.float32(0.001)
    rise = _curved(at + half, exposure) - _curved(at - half, exposure)
    return np.asarray(rise * np.float32(1.0 / (0.002 * (high - low))), np.float32)


def _unsharp(intensity: Map, exposure: Exposure) -> Map:
    """Penumbra of the focal spot, blur of the detector, veiling glare, and what lags behind from the frame before."""
    sigma = float(np.hypot(exposure.blur_sigma_px, exposure.focal_blur_px / 4.0))
    soft = np.asarray(cv2.GaussianBlur(intensity, (0, 0), sigma), np.float32)
    if exposure.glare_share:
        soft += np.float32(exposure.glare_share) * (_wide_blur(intensity, exposure.glare_sigma_px) - soft)
    if exposure.lag_share:
        shift = np.array([[1.0, 0.0, exposure.lag_px[0]], [0.0, 1.0, exposure.lag_px[1]]])
        before = cv2.warpAffine(soft, shift, (soft.shape[1], soft.shape[0]), borderMode=cv2.BORDER_REPLICATE)
        soft += np.float32(exposure.lag_share) * (before - soft)
    return soft


def _wide_blur(picture: Map, sigma_px: float) -> Map:
    """A Gaussian so wide that an eighth of the resolution is plenty."""
    height, width = picture.shape
    small = cv2.resize(picture, (max(1, width // 8), max(1, height // 8)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / 8.0, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _scatter(primary: Map, thickness_mm: Map, exposure: Exposure) -> Map:
    """Scattered intensity: the primary, blurred wide, times a ratio that rises with the metal it comes from."""
    ratio = np.float32(exposure.scatter_ratio) * (1.0 - np.exp(thickness_mm * np.float32(-1.0 / 9.0)))
    return _wide_blur(np.asarray(primary * ratio, np.float32), exposure.scatter_sigma_px)


def _quantum_share(exposure: Exposure) -> float:
    """Variance of the quantum noise after the scintillator, over that before it. Blurring white noise multiplies its
    variance by the kernel's sum of squares in each direction: 1 / (4 pi sigma^2) for a wide one."""
    return sum(_noise_shares(exposure))


def _noise_shares(exposure: Exposure) -> tuple[float, float]:
    """The variance of the sharp and of the blurred part of the quantum noise, over that before the scintillator."""
    sigma_px = exposure.noise_sigma_px
    kernel = cv2.getGaussianKernel(2 * round(6 * sigma_px) + 1, sigma_px)
    soft = exposure.correlated * float((kernel**2).sum())
    return float((1.0 - exposure.correlated) ** 2), float(soft**2)


def _grain(exposure: Exposure) -> tuple[float, float]:
    """See ``Exposed``. Electronics count as grain too: where they matter, the blur of the optics is theirs as well."""
    sharp, soft = _noise_shares(exposure)
    return soft / (sharp + soft), exposure.noise_sigma_px


def _noise_variance(linear: Map, exposure: Exposure) -> Map:
    """Law of the noise at each linear level, as a share of full scale squared."""
    constant = exposure.electronic**2 + exposure.row_noise**2 + exposure.column_noise**2
    share = np.float32(_quantum_share(exposure) / exposure.quanta)
    return np.asarray(np.maximum(linear, 0.0) * share + np.float32(constant), np.float32)


def _noise(rng: np.random.Generator, linear: Map, exposure: Exposure) -> Map:
    """Quantum noise (part of it blurred by the scintillator), electronics, rows and columns, as a share of full scale.

    At the thousands of quanta per pixel of a radiograph the Poisson law is a normal law.
    """
    height, width = linear.shape
    white = rng.standard_normal((height, width), np.float32)
    quantum = cv2.GaussianBlur(white, (0, 0), exposure.noise_sigma_px) * np.float32(exposure.correlated)
    # Fresh white noise for the sharp share: a flipped copy is independent pixel by pixel and costs nothing.
    quantum += white[::-1, ::-1] * np.float32(1.0 - exposure.correlated)
    noise = quantum * np.sqrt(np.maximum(linear, 0.0) * np.float32(1.0 / exposure.quanta))
    noise += rng.standard_normal((height, width), np.float32) * np.float32(exposure.electronic)
    noise += rng.standard_normal((height, 1), np.float32) * np.float32(exposure.row_noise)
    if exposure.column_noise:
        noise += rng.standard_normal((1, width), np.float32) * np.float32(exposure.column_noise)
    return np.asarray(noise, np.float32)


def _dead_pixels(rng: np.random.Generator, linear: Map, share: float) -> None:
    """Black, white and stuck pixels in place, mostly alone, two to four together now and then."""
    height, width = linear.shape
    for _ in range(int(rng.poisson(share * linear.size))):
        y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
        value = np.float32(rng.choice([0.0, 1.0, rng.random()]))
        linear[y, x] = value
        if rng.random() < 0.1:
            for _ in range(int(rng.integers(1, 4))):
                y = min(max(y + int(rng.integers(-1, 2)), 0), height - 1)
                x = min(max(x + int(rng.integers(-1, 2)), 0), width - 1)
                linear[y, x] = value


@lru_cache(maxsize=8)
def _squares(height: int, width: int, at: tuple[float, float]) -> Map:
    y = (np.arange(height, dtype=np.float32)[:, None] / height - at[1]) ** 2
    x = (np.arange(width, dtype=np.float32)[None, :] / width - at[0]) ** 2
    return np.asarray(2.0 * (y + x), np.float32)


def _gain_field(rng: np.random.Generator, height: int, width: int, exposure: Exposure) -> Map:
    """Relative gain at each pixel, 1 in the middle of the beam: vignetting, iris, and what the flat field left over."""
    squares = _squares(height, width, exposure.vignetting_at)
    field = np.maximum(1.0 - np.float32(exposure.vignetting) * squares, np.float32(0.02))
    if exposure.blotches:
        coarse = rng.standard_normal((max(3, height // 48), max(3, width // 48)), np.float32)
        soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        field *= 1.0 + np.float32(exposure.blotches) * soft
    if exposure.fixed_pattern:
        field *= 1.0 + np.float32(exposure.fixed_pattern) * rng.standard_normal((height, width), np.float32)
    if exposure.iris is not None:
        longer = max(height, width)
        away = np.sqrt(squares * np.float32(0.5))
        field *= np.clip((np.float32(exposure.iris) - away) * np.float32(longer / 6.0), 0.0, 1.0)
    return np.asarray(field, np.float32)
