"""Good frames of one part laid over each other: where they lie, and how bright they are.

Parts lie as a fixture lays them: a few pixels, a few degrees, a few per cent apart. What stays with the camera
(vignetting, blotches, an iris) must not hold the part in place, so the slow part of the pictures and what is black in
all of them do not count.

Sources: phase correlation to start from, then the enhanced correlation coefficient (Evangelidis and Psarakis, IEEE
TPAMI 30 (2008) 1858). Not covered: distortion, parts that turn over, several parts in one picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Map", "Move", "from_grid", "inverse", "laid_over", "lit_everywhere",
           "middle_of", "overlaid", "own_pixels", "to_grid", "warped"]  # fmt: skip

Map = NDArray[np.float32]
#: float32 (2, 3): moves a point (x, y) of a frame onto another.
Move = NDArray[np.float32]

# Registration runs on at most this many pixels a side; parts lie as alike as a fixture lays them.
_REGISTER_SIDE_PX = 512
_ECC = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-7)
# Below this correlation (after registration, of the pictures without grain and slow changes) a frame does not show the
# same part in the same pose.
_LEAST_CORRELATION = 0.55
# Softened pictures that differ by less than this share of full scale (standard deviation) show a plain wall.
_PLAIN = 0.006
# At or below this share of full scale a pixel is black; an iris is blurred over so many pixels.
_BLACK, _IRIS_PX = 5.0 / 255.0, 12
# How far a frame may be moved onto the first: stretch, degrees, share of the longer side.
_MOST_STRETCH, _MOST_TURN_DEG, _MOST_SHIFT = 0.05, 10.0, 0.25
# Greys at which the brightness of two frames is compared.
_CURVE_BINS = 24
_LEAST_PX_A_BIN = 50
_BORDER_PX = 12


def laid_over(greys: Sequence[Map], first: Map, lit: NDArray[np.uint8] | None) -> tuple[list[Move | None], list[float]]:
    """Movements onto ``first`` (None for what does not fit) and correlations: first onto itself, then onto the
    median of what fits it, which has less noise."""
    onto, starts = first, [np.eye(2, 3, dtype=np.float32)] * len(greys)
    for _ in range(2):
        found = [_register(grey, onto, lit, start) for grey, start in zip(greys, starts, strict=True)]
        starts = [move for move, _ in found]
        fitting = [move if correlation >= _LEAST_CORRELATION else None for move, correlation in found]
        if any(move is not None for move in fitting):
            onto = middle_of(overlaid(greys, fitting))
    return fitting, [correlation for _, correlation in found]


def lit_everywhere(greys: Sequence[Map]) -> NDArray[np.uint8] | None:
    """1 where frames may be compared: away from what is black in all of them, an iris or a frame, which does not move
    with the part and would hold it in place. None where that leaves too little."""
    black = np.mean([grey <= _BLACK for grey in greys], axis=0) > 0.9
    side = 2 * _IRIS_PX + 1
    lit = np.asarray(1 - cv2.dilate(black.astype(np.uint8), np.ones((side, side), np.uint8)), np.uint8)
    return lit if 1.0 > lit.mean() >= 0.25 else None


def _register(
    moving: Map, fixed: Map, lit: NDArray[np.uint8] | None, start: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """(2, 3) that moves a point of ``moving`` onto ``fixed``, near ``start`` or anywhere plausible, and how well they
    then agree: correlation, -1 to 1; 1 where there is nothing but an even wall to compare."""
    scale = min(1.0, _REGISTER_SIDE_PX / max(fixed.shape))
    small = [cv2.resize(one, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1.0 else one
             for one in (moving, fixed)]  # fmt: skip
    # Without their slow part: vignetting and blotches stay with the camera when the part moves.
    soft = [np.asarray(cv2.GaussianBlur(one, (0, 0), 1.0) - cv2.GaussianBlur(one, (0, 0), 10.0)) for one in small]
    window = cv2.createHanningWindow((soft[0].shape[1], soft[0].shape[0]), cv2.CV_32F)
    # phaseCorrelate multiplies its arguments by the window in place.
    (dx, dy), _ = cv2.phaseCorrelate(soft[1].copy(), soft[0].copy(), window)
    lit = np.ones(fixed.shape, np.uint8) if lit is None else lit
    mask = np.asarray(cv2.resize(lit, soft[0].shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    # ECC's matrix leads from the fixed picture to the moving one.
    near = inverse(start)
    near[:, 2] *= scale
    best = (_correlation(soft[0], soft[1], near, mask), near)
    for first in (near, np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])):
        warp = np.array(first, np.float32)
        try:
            _, moved = cv2.findTransformECC(soft[1], soft[0], warp, cv2.MOTION_AFFINE, _ECC, mask, 5)
        except cv2.error:  # it did not converge from here
            continue
        found = np.asarray(moved, np.float32)
        if not _plausible(found, max(small[1].shape)):
            continue
        agreement = _correlation(soft[0], soft[1], found, mask)
        if agreement > best[0]:
            best = (agreement, found)
        if agreement > 0.98:
            break
    if best[0] < _LEAST_CORRELATION and _plain(small[0] - small[1]):
        best = (1.0, near)
    matrix = best[1].copy()
    matrix[:, 2] /= scale
    return inverse(matrix), best[0]


def _plain(difference: Map) -> bool:
    """Whether two pictures hardly differ even as they lie: a wall without structure need not be registered."""
    slow = cv2.GaussianBlur(difference, (0, 0), 3.0)
    return float(np.std(slow)) <= _PLAIN


def _plausible(matrix: NDArray[np.float32], side_px: int) -> bool:
    """Whether a fixture could have let the part lie like this; else another part was bent until it fitted."""
    stretch = np.linalg.svd(matrix[:, :2].astype(np.float64), compute_uv=False)
    turn = abs(float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))))
    middle = matrix @ np.array([side_px / 2, side_px / 2, 1.0]) - side_px / 2
    return bool(
        abs(stretch - 1.0).max() <= _MOST_STRETCH
        and turn <= _MOST_TURN_DEG
        and np.abs(middle).max() <= _MOST_SHIFT * side_px
    )


def _correlation(moving: Map, fixed: Map, to_moving: NDArray[np.float32], mask: NDArray[np.uint8]) -> float:
    size = (fixed.shape[1], fixed.shape[0])
    moved = cv2.warpAffine(moving, to_moving, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                           borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    a, b = moved[mask > 0], fixed[mask > 0]
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(float(np.sqrt((a @ a) * (b @ b))), 1e-12))


def inverse(matrix: Move | None) -> NDArray[np.float32]:
    assert matrix is not None, "only frames that fit are moved"
    return np.asarray(cv2.invertAffineTransform(matrix), np.float32)


def warped(plane: Map, from_here: NDArray[np.float32]) -> Map:
    """The plane as seen from a frame whose points ``from_here`` moves onto it."""
    size = (plane.shape[1], plane.shape[0])
    return np.asarray(cv2.warpAffine(plane, from_here, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                                     borderMode=cv2.BORDER_REPLICATE), np.float32)  # fmt: skip


def own_pixels(shape: tuple[int, ...], moves: Sequence[Move | None]) -> NDArray[np.bool_]:
    """(n, H, W): where the moved frame has pixels of its own, clear of its border."""
    full = np.zeros(shape, np.float32)
    full[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX] = 1.0
    size = (shape[1], shape[0])
    return np.stack([
        cv2.warpAffine(full, inverse(move), size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP) > 0.99
        for move in moves
    ])  # fmt: skip


def overlaid(greys: Sequence[Map], moves: Sequence[Move | None]) -> Map:
    """The frames that fit, moved onto the first and brought to its brightness: float32 (n, H, W)."""
    moved = [warped(grey, inverse(move)) for grey, move in zip(greys, moves, strict=True) if move is not None]
    even = [moved[0], *(_as_bright_as(one, moved[0]) for one in moved[1:])]
    return np.stack(even)


def _as_bright_as(values: Map, wanted: Map) -> Map:
    """``values`` with the brightness of ``wanted``: the curve from one to the other, whatever display made them.

    Binned by grey, softened first, so that noise does not flatten the curve.
    """
    soft = [cv2.GaussianBlur(one, (0, 0), 2.0)[::2, ::2].reshape(-1) for one in (values, wanted)]
    edges = np.unique(np.quantile(soft[0], np.linspace(0.0, 1.0, _CURVE_BINS + 1)))
    place = np.clip(np.searchsorted(edges, soft[0], side="right") - 1, 0, max(len(edges) - 2, 0))
    at, to = [], []
    for one in range(max(len(edges) - 1, 1)):
        here = place == one
        if np.count_nonzero(here) >= _LEAST_PX_A_BIN:
            at.append(float(np.median(soft[0][here])))
            to.append(float(np.median(soft[1][here] - soft[0][here])))
    if not at:
        return values
    return np.asarray(values + np.interp(values, at, to).astype(np.float32), np.float32)


def middle_of(stack: Map) -> Map:
    """Pixel-wise median, a strip at a time: np.median copies what it sorts."""
    return np.concatenate([np.median(stack[:, row : row + 64], axis=0) for row in range(0, stack.shape[1], 64)])


def to_grid(move: NDArray[np.float32], factor: float, offset: float) -> NDArray[np.float32]:
    """A movement for points p as one for points s with p = factor s + offset."""
    at = np.full(2, offset)
    shift = (move[:, :2] @ at + move[:, 2] - at) / factor
    return np.asarray(np.column_stack([move[:, :2], shift]), np.float32)


def from_grid(move: NDArray[np.float32], factor: float, offset: float) -> NDArray[np.float32]:
    """The inverse of ``to_grid``."""
    at = np.full(2, offset)
    return np.asarray(np.column_stack([move[:, :2], factor * move[:, 2] + at - move[:, :2] @ at]), np.float32)
