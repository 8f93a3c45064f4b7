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
            mean = cv2.GaussianBlur(grey, (0, 0), local_sigma_px, borderType=cv2.BORDER_REFLECT_101)
            square = cv2.GaussianBlur(grey * grey, (0, 0), local_sigma_px, borderType=cv2.BORDER_REFLECT_101)
            spread = np.sqrt(np.maximum(square - mean * mean, 0.0)) + np.float32(_LOCAL_FLOOR)
            np.clip((grey - mean) / spread, -_LOCAL_CLIP, _LOCAL_CLIP, out=plane)
            np.divide(plane, _LOCAL_CLIP, out=plane)
        else:
            raise EngineError(f"engine wants an unknown view {view!r}", hint=f"this version knows {', '.join(VIEWS)}")
    return planes
