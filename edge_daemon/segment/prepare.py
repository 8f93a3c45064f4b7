"""What the network is shown: the views of a frame, the same in training, qualification and on the line.

``grey``   the frame as it is, scaled to [0, 1] by its full range (255 or 65535), colour reduced by BT.601 luma.
``local``  local normalisation: (g - mean) / (std + eps) under a Gaussian window, clipped to ±4 and divided by 4.
           It shows a faint void beside a thick rib as plainly as one in a thin wall.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, ImageError

__all__ = ["VIEWS", "grey_from_pixels", "prepare"]

VIEWS = ("grey", "local")

# Standard deviations below this (in grey, 1.0 = full range) are noise floor, not structure.
_LOCAL_FLOOR = 0.01
_LOCAL_CLIP = 4.0
_SMALLER = 4


def grey_from_pixels(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Frame pixels, uint8 or uint16, (H, W) or RGB (H, W, 3), to float32 (H, W) in [0, 1]."""
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"pixels are {pixels.dtype}, not 8 or 16 bit", hint="convert to an unsigned integer picture")
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    full_range = 255.0 if pixels.dtype == np.uint8 else 65535.0
    grey: NDArray[np.float32] = np.multiply(pixels, np.float32(1.0 / full_range), dtype=np.float32)
    return grey


def prepare(pixels: NDArray[Any], views: Sequence[str] = VIEWS, local_sigma_px: float = 12.0) -> NDArray[np.float32]:
    """The views of one frame, stacked: float32 (len(views), H, W), contiguous.

    Computed on the whole frame before any tiling, so that a tile border changes nothing. Raises EngineError for a view
    this version does not know.
    """
    grey = grey_from_pixels(pixels)
    planes = np.empty((len(views), *grey.shape), np.float32)
    for plane, view in zip(planes, views, strict=True):
        if view == "grey":
            plane[:] = grey
        elif view == "local":
            _local(grey, local_sigma_px, plane)
        else:
            raise EngineError(f"engine wants an unknown view {view!r}", hint=f"this version knows {', '.join(VIEWS)}")
    return planes


def _local(grey: NDArray[np.float32], sigma_px: float, out: NDArray[np.float32]) -> None:
    """Local normalisation into ``out``. Mean and spread are smooth, so they are made at a quarter of the resolution."""
    height, width = grey.shape
    small = (-(-width // _SMALLER), -(-height // _SMALLER))
    # Padding to whole cells keeps the grid of cells where it is, whatever the size of the picture.
    bottom, right = small[1] * _SMALLER - height, small[0] * _SMALLER - width
    padded = grey
    if bottom or right:
        padded = np.asarray(cv2.copyMakeBorder(grey, 0, bottom, 0, right, cv2.BORDER_REPLICATE), np.float32)

    def smooth(plane: NDArray[np.float32]) -> NDArray[np.float32]:
        coarse = cv2.resize(plane, small, interpolation=cv2.INTER_AREA)
        smoothed = cv2.GaussianBlur(coarse, (0, 0), sigma_px / _SMALLER, borderType=cv2.BORDER_REFLECT_101)
        return np.asarray(smoothed, np.float32)

    mean, square = smooth(padded), smooth(padded * padded)
    spread = np.sqrt(np.maximum(square - mean * mean, 0.0)) + np.float32(_LOCAL_FLOOR)
    full = (small[0] * _SMALLER, small[1] * _SMALLER)
    centre = cv2.resize(mean, full, interpolation=cv2.INTER_LINEAR)[:height, :width]
    scale = cv2.resize(np.float32(1.0 / _LOCAL_CLIP) / spread, full, interpolation=cv2.INTER_LINEAR)[:height, :width]
    np.subtract(grey, centre, out=out)
    np.multiply(out, scale, out=out)
    np.clip(out, -1.0, 1.0, out=out)
