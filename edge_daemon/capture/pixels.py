"""From a sensor's pixel formats (GenICam PFNC names) to the two that travel on the line: grey and RGB."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import CameraError

__all__ = ["SUPPORTED_FORMATS", "arrange", "channels_and_bits", "from_bgr"]

#: PFNC name -> (channels delivered, bits of the container). The older "Packed" names of RGB and BGR mean the same.
SUPPORTED_FORMATS: dict[str, tuple[int, int]] = {
    "Mono8": (1, 8),
    "Mono10": (1, 16),
    "Mono12": (1, 16),
    "Mono14": (1, 16),
    "Mono16": (1, 16),
    "RGB8": (3, 8),
    "BGR8": (3, 8),
    "BayerRG8": (1, 8),
    "BayerGR8": (1, 8),
    "BayerGB8": (1, 8),
    "BayerBG8": (1, 8),
}

# PFNC names a Bayer pattern by its first row, OpenCV's long names by the first two.
_DEMOSAIC = {
    "BayerRG8": cv2.COLOR_BayerRGGB2RGB,
    "BayerGR8": cv2.COLOR_BayerGRBG2RGB,
    "BayerGB8": cv2.COLOR_BayerGBRG2RGB,
    "BayerBG8": cv2.COLOR_BayerBGGR2RGB,
}


def channels_and_bits(pixel_format: str, camera: str) -> tuple[int, int]:
    """Channels as stored (a Bayer mosaic is one) and container bits; CameraError for a format that is not supported."""
    try:
        return SUPPORTED_FORMATS[pixel_format.removesuffix("Packed")]
    except KeyError:
        raise CameraError(
            f"camera {camera}: pixel format {pixel_format} is not supported",
            hint=f"set pixel_format to one of {', '.join(SUPPORTED_FORMATS)}",
        ) from None


def arrange(stored: NDArray[Any], pixel_format: str) -> NDArray[Any]:
    """A new array, grey (H, W) or RGB (H, W, 3), from pixels as stored in a supported format.

    stored: (H, W) or (H, W, 3), uint8 or uint16. Mono10 to Mono14 keep their values (the top bits stay zero). A Bayer
    mosaic is interpolated bilinearly.
    """
    name = pixel_format.removesuffix("Packed")
    if name == "BGR8":
        return np.ascontiguousarray(stored[:, :, ::-1])
    if name in _DEMOSAIC:
        return np.asarray(cv2.cvtColor(stored, _DEMOSAIC[name]))
    return np.array(stored)


def from_bgr(stored: NDArray[Any], *, grey: bool) -> NDArray[Any]:
    """A new array, RGB or (``grey``) one channel, from OpenCV's (H, W, 3) BGR; (H, W) stays as it is.

    Equal channels give exactly that value as grey; colours are weighted as in ITU-R BT.601.
    """
    if stored.ndim == 2:
        return np.array(stored)
    return np.asarray(cv2.cvtColor(stored, cv2.COLOR_BGR2GRAY if grey else cv2.COLOR_BGR2RGB))
