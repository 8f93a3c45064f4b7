"""The heat map: how sure the engine was of defect at each pixel, over the picture. For the eye; nothing is decided."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .report.figures import shown_8bit

__all__ = ["heat_map"]

#: Probability -> colour, dark to light, in steps that stay apart in grey and for the colour-blind (after "inferno").
_STOPS = ((0.0, (0, 0, 0)), (0.25, (87, 16, 110)), (0.5, (188, 55, 84)), (0.75, (249, 142, 9)), (1.0, (252, 255, 164)))


def heat_map(pixels: NDArray[Any], coverage: NDArray[np.float32]) -> NDArray[np.uint8]:
    """RGB (H, W, 3) uint8 of the size of ``pixels`` (uint8 or uint16, grey or RGB).

    coverage: float32 (h, w) in [0, 1], the calibrated probability, enlarged where it was looked at in fewer pixels.
    Where it is 0 the picture stays grey; the surer the engine, the more of its colour shows.
    """
    grey, _ = shown_8bit(pixels)
    if grey.ndim == 3:
        grey = np.asarray(cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY)).astype(np.uint8)
    share: NDArray[Any] = coverage
    if coverage.shape != grey.shape:
        share = cv2.resize(coverage, (grey.shape[1], grey.shape[0]), interpolation=cv2.INTER_LINEAR)
    levels = np.clip(share * 255.0 + 0.5, 0, 255).astype(np.uint8)
    positions = np.linspace(0.0, 1.0, 256)
    table = np.stack(
        [np.interp(positions, [at for at, _ in _STOPS], [colour[one] for _, colour in _STOPS]) for one in range(3)], 1
    ).astype(np.float32)
    weight = np.minimum(1.0, positions * 2.0).astype(np.float32)  # from one half on the colour covers the picture
    dimmed = grey.astype(np.float32)[:, :, None] * 0.75
    strength = weight[levels][:, :, None]
    return np.asarray(dimmed * (1.0 - strength) + table[levels] * strength + 0.5).astype(np.uint8)
