"""Whether a frame is as sharp as this part's frames were: fine against coarse gradients, where the part has its edges.

The ratio says nothing by itself, only beside that of sharp frames of the same part under the same camera: pictures of
different things differ more than a lens out of focus. So the limit is measured from such frames, and refused where
they could not be told from blurred ones. Not covered: a part of the frame alone that is out of focus, and what lies
outside the middle 1024 x 1024 px.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError
from .images import PICTURE_SUFFIXES, load_picture
from .records import Reason
from .settings import Settings

__all__ = ["focus_refusal", "limit_of", "read_focus", "sharpness"]

_SIDE_PX = 1024
_FINE_PX, _COARSE_PX = 0.8, 3.0  # sigma of the two scales
_EDGES = 0.1  # the share of the pixels, those with the largest coarse gradient, that is looked at
_LEAST_FRAMES = 5
_BLURS_PX = (0.7, 1.0, 1.5, 2.0, 3.0)
#: Mean squared gradient (Sobel / 8) of white noise of variance 1 at the two scales.
_NOISE_FINE, _NOISE_COARSE = 0.0730, 0.00090
_LAPLACIANS = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def _grey(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """The middle of the frame, float32 (H, W), in units of 8 bit."""
    height, width = pixels.shape[:2]
    top, left = max(0, height - _SIDE_PX) // 2, max(0, width - _SIDE_PX) // 2
    middle = pixels[top : top + _SIDE_PX, left : left + _SIDE_PX].astype(np.float32)
    grey = middle.mean(axis=2) if middle.ndim == 3 else middle
    return np.asarray(grey / 257 if pixels.dtype == np.uint16 else grey, np.float32)


def _noise(grey: NDArray[np.float32]) -> float:
    """Standard deviation of white noise; half of a rough texture counts as such."""
    return float(np.median(np.abs(cv2.filter2D(grey, cv2.CV_32F, _LAPLACIANS)))) / (0.6745 * 6)


def _slope2(grey: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    smooth = cv2.GaussianBlur(grey, (0, 0), sigma_px)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx, ksize=3, scale=1 / 8) for dx in (1, 0))
    return np.asarray(across * across + down * down, np.float32)


def sharpness(pixels: NDArray[Any]) -> float:
    """Fine over coarse gradients at the edges of a frame, uint8 or uint16 (H, W) or (H, W, 3); 0 where it has none."""
    grey = _grey(pixels)
    fine, coarse = _slope2(grey, _FINE_PX), _slope2(grey, _COARSE_PX)
    edges = coarse >= np.quantile(coarse, 1 - _EDGES)
    variance = _noise(grey) ** 2
    fine_2 = float(fine[edges].mean()) - _NOISE_FINE * variance
    coarse_2 = float(coarse[edges].mean()) - _NOISE_COARSE * variance
    return (max(fine_2, 0.0) / coarse_2) ** 0.5 if coarse_2 > 0 else 0.0


def focus_refusal(pixels: NDArray[Any], least: float | None) -> Reason | None:
    """Why this frame is too blurred to be judged; None where it is not, or nobody has set a limit."""
    if least is None:
        return None
    found = sharpness(pixels)
    if found >= least:
        return None
    return Reason("FOCUS", f"the frame is blurred: sharpness {found:.3f}, at least {least:g} is asked for")


def _blurred(pixels: NDArray[Any], sigma_px: float) -> NDArray[Any]:
    """As a lens out of focus would show it: the sensor's noise stays what it was."""
    grey = _grey(pixels)
    noise = np.random.default_rng(0).normal(0.0, _noise(grey), grey.shape)
    blurred = cv2.GaussianBlur(grey, (0, 0), sigma_px) + noise
    return np.asarray(np.clip(np.rint(blurred), 0, 255), np.uint8)


def limit_of(frames: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """The limit for a part of which these are sharp frames, and the blur (sigma, px) from which on a frame is below it.

    Raises ConfigError when the frames differ more than blur makes them differ.
    """
    sharp = min(sharpness(frame) for frame in frames)
    for sigma_px in _BLURS_PX:
        blurred = max(sharpness(_blurred(frame, sigma_px)) for frame in frames)
        if blurred < 0.95 * sharp:
            return (sharp + blurred) / 2, sigma_px
    raise ConfigError(
        f"a frame blurred by {_BLURS_PX[-1]:g} px cannot be told from the sharp ones: they differ too much",
        hint="leave [focus] out; it needs parts that look alike, such as one casting at one place",
    )


def read_focus(table: Settings | None) -> float | None:
    """The recipe's ``[focus]``: the least sharpness. Raises ConfigError, with the line to write, where none is stated
    but frames to measure it from are given."""
    if table is None:
        return None
    least: float | None = table.number("least", None, low=0.01, high=100.0)
    folder: Path | None = table.file("frames", None)
    table.close()
    if least is not None:
        return least
    if folder is None or not folder.is_dir():
        raise table.error("frames", "must be a folder of sharp frames of this part", hint='frames = "sharp", or least')
    paths = [one for one in sorted(folder.iterdir()) if one.suffix.lower() in PICTURE_SUFFIXES]
    if len(paths) < _LEAST_FRAMES:
        raise table.error("frames", f"{folder} holds {len(paths)} frames", hint=f"at least {_LEAST_FRAMES} parts")
    limit, sigma_px = limit_of([load_picture(path).pixels for path in paths])
    raise table.error(
        "least",
        f"is not stated; {len(paths)} frames say least = {limit:.3f}",
        hint=f"write that line; it refuses frames that are blurred by {sigma_px:g} px or more, and stay as noisy",
    )
