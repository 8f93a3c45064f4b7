"""Straight edges to a few hundredths of a pixel: faces of a gauge, sides of a marker. Pure NumPy/OpenCV."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .geometry import Floats

__all__ = ["Edge", "find_step", "fit_edge"]

_STEP_PX = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Edge:
    """A straight edge: a point on it, its unit normal (2,), the scatter of single readings about it (rms, px), and
    the standard uncertainty of its position (px)."""

    point: Floats
    normal: Floats
    rms_px: float
    u_px: float


def _profiles(grey: NDArray[np.float32], centre: Floats, normal: Floats, offsets: Floats, places: Floats) -> Floats:
    """Grey values along the normal, one row per offset sideways (len(offsets), len(places)), bilinear."""
    along = np.array([-normal[1], normal[0]])
    spots = centre + offsets[:, None, None] * along + places[None, :, None] * normal
    maps = spots.astype(np.float32)
    return np.asarray(
        cv2.remap(grey, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float64
    )


def find_step(
    grey: NDArray[np.float32], centre: Floats, normal: Floats, half_px: float, search_px: float
) -> float | None:
    """Where along ``normal`` from ``centre`` the strongest edge lies, to about a pixel; None where there is none.

    half_px: half the length of edge that is averaged; search_px: how far to look to either side.
    """
    offsets = np.arange(-half_px, half_px + 0.5)
    places = np.arange(-search_px - 2.0, search_px + 2.0 + _STEP_PX, _STEP_PX)
    mean = _profiles(grey, centre, normal, offsets, places).mean(axis=0)
    smooth = cv2.GaussianBlur(mean[None], (0, 0), 1.0 / _STEP_PX)[0]
    slope = np.abs(np.gradient(smooth))
    slope[np.abs(places) > search_px] = 0.0
    best = int(np.argmax(slope))
    if slope[best] / _STEP_PX < 0.004 or slope[best] < 4.0 * float(np.median(slope)):
        return None
    return float(places[best])


def fit_edge(
    grey: NDArray[np.float32], centre: Floats, normal: Floats, half_px: float, reach_px: float, rounds: int = 3
) -> Edge | None:
    """The line through an edge near ``centre`` that runs about across ``normal``; None where it is no straight edge.

    half_px: half the length of the edge used. reach_px: how far to either side there is nothing but the two sides.
    Each reading is the place of a sharp step with the same plateaus and the same integral as the blurred one, which
    blur and pixel size do not move; the line is fitted to all of them, twice more around what was found.
    """
    point, direction = np.asarray(centre, np.float64), np.asarray(normal, np.float64)
    direction = direction / np.linalg.norm(direction)
    offsets = np.arange(-np.floor(half_px), np.floor(half_px) + 0.5)
    places = np.arange(-reach_px, reach_px + _STEP_PX / 2.0, _STEP_PX)
    side = max(1, len(places) // 5)
    height, width = grey.shape
    edge = None
    for _ in range(rounds):
        ends = point + np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) @ np.stack(
            [half_px * np.array([-direction[1], direction[0]]), reach_px * direction]
        )
        if ends.min() < 0 or (ends > (width - 1, height - 1)).any():
            return None
        values = _profiles(grey, point, direction, offsets, places)
        low, high = values[:, :side].mean(axis=1), values[:, -side:].mean(axis=1)
        contrast = float(np.median(high - low))
        steps = (high - low) * np.sign(contrast)
        good = steps > 0.4 * abs(contrast)
        if abs(contrast) < 0.03 or np.count_nonzero(good) < max(5, 0.6 * len(offsets)):
            return None
        levels = (values[good] - low[good, None]) / (high - low)[good, None]
        where = places[0] + ((1.0 - levels) * _STEP_PX).sum(axis=1) - _STEP_PX / 2.0
        across = offsets[good]
        keep = np.ones(len(where), bool)
        line = np.zeros(2)
        for _ in range(3):
            line = np.polynomial.polynomial.polyfit(across[keep], where[keep], 1)
            error = where - (line[0] + line[1] * across)
            scatter = max(1.4826 * float(np.median(np.abs(error[keep]))), 0.01)
            keep = np.abs(error) < 4.0 * scatter
            if np.count_nonzero(keep) < 5:
                return None
        rms = float(np.sqrt(np.mean(error[keep] ** 2)))
        along = np.array([-direction[1], direction[0]])
        point = point + line[0] * direction
        turned = along + line[1] * direction
        turned = turned / np.linalg.norm(turned)
        direction = np.array([turned[1], -turned[0]])
        # Neighbouring readings share pixels: a third of them counts.
        edge = Edge(point, direction, rms, rms / np.sqrt(max(np.count_nonzero(keep) / 3.0, 1.0)))
    return edge
