"""One part on one conveyor: the same casting before the same camera, again and again.

What commissioning is tried on. Every frame shows the same metal, lying a little elsewhere and exposed a little
differently, with fresh noise; whatever is planted is missing from the metal of that one frame.

>>> line = Line(3, "gear", "film", size_px=(192, 192))
>>> line.frame(0).pixels.shape, line.frame(0).defects
((192, 192), ())
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .castings import FAMILIES, UNSEEN_FAMILIES, random_casting
from .physics import MODES, UNSEEN_MODES, Exposure, random_exposure
from .scenes import PlannedDefect, Radiograph, _Bench, _check, _plant, _plant_at_random, _some_metal

__all__ = ["Line"]

# How a conveyor and its tube repeat themselves: uniform, to either side.
_SHIFT_PX, _TURN_DEG, _ZOOM, _BRIGHTNESS = 4.0, 1.0, 0.005, 0.03
# Metal beyond the picture, so that a shifted and turned part does not end at its border.
_MARGIN_PX = 32
_MOST_TRIES = 12


class Line:
    """A casting in front of a camera. Deterministic: the same arguments give the same frames.

    seed: of the casting and its exposure. family: one of ``castings.FAMILIES`` or ``UNSEEN_FAMILIES``. mode: one of
    ``physics.MODES`` or ``UNSEEN_MODES``. exposure: instead of a random one of that mode. From frame to frame the part
    is shifted by up to 4 px, turned by 1 degree, scaled by 0.5 % and the wall's brightness changed by 3 %.
    Raises UsageError for a family, mode, size or scale that cannot be simulated.

    Not covered: what the detector leaves behind is drawn anew for each frame, as on film; on a digital detector dead
    pixels and the gain pattern would stay where they are.
    """

    def __init__(
        self, seed: int, family: str, mode: str, size_px: tuple[int, int] = (512, 512), mm_per_px: float = 0.1, *,
        metal: str = "aluminum", exposure: Exposure | None = None,
    ) -> None:  # fmt: skip
        _check(size_px, mm_per_px)
        if family not in FAMILIES and family not in UNSEEN_FAMILIES:
            raise UsageError(f"no family {family!r}", hint=", ".join((*FAMILIES, *UNSEEN_FAMILIES)))
        if mode not in MODES and mode not in UNSEEN_MODES:
            raise UsageError(f"no imaging mode {mode!r}", hint=", ".join((*MODES, *UNSEEN_MODES)))
        rng = np.random.default_rng([seed, 11])
        self.seed, self.family, self.mode, self.size_px, self.mm_per_px = seed, family, mode, size_px, mm_per_px
        larger = (size_px[0] + 2 * _MARGIN_PX, size_px[1] + 2 * _MARGIN_PX)
        self._thickness_mm, self._wall_mm = random_casting(rng, larger, mm_per_px, family)
        self.exposure = exposure or random_exposure(rng, self._wall_mm, mode, metal)

    def frame(
        self, index: int, defects: Sequence[PlannedDefect] | None = (), *, at_least: int = 0
    ) -> Radiograph:  # fmt: skip
        """Photograph number ``index`` (0 and up). defects: what to plant, in pixels of this frame; ``()`` nothing, None
        draws none to six of any type (``at_least`` of them, where there is metal to hold them). The pose, exposure and
        noise of a number do not depend on what is planted."""
        pose, noise, planting = (np.random.default_rng([self.seed, 12, index, k]) for k in range(3))
        bench = _Bench(self._posed(pose), self.mm_per_px)
        bright = self.exposure.wall_grey * float(pose.uniform(1.0 - _BRIGHTNESS, 1.0 + _BRIGHTNESS))
        if defects is None:
            for _ in range(_MOST_TRIES):
                _plant_at_random(planting, bench, self._wall_mm)
                if len(bench.defects) >= at_least:
                    break
        else:
            for planned in defects:
                at = planned.at_px or _some_metal(planting, bench, self._wall_mm)
                if at is not None:
                    _plant(planting, bench, planned, at)
        return bench.take(noise, replace(self.exposure, wall_grey=min(bright, 0.97)))

    def _posed(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """The metal behind each pixel, (H, W) mm."""
        height, width = self.size_px
        middle = ((width - 1) / 2 + _MARGIN_PX, (height - 1) / 2 + _MARGIN_PX)
        turn = float(rng.uniform(-_TURN_DEG, _TURN_DEG))
        zoom = float(rng.uniform(1.0 - _ZOOM, 1.0 + _ZOOM))
        matrix = np.asarray(cv2.getRotationMatrix2D(middle, turn, zoom), np.float64)
        matrix[:, 2] += rng.uniform(-_SHIFT_PX, _SHIFT_PX, 2) - _MARGIN_PX
        return np.asarray(
            cv2.warpAffine(self._thickness_mm, matrix, (width, height), flags=cv2.INTER_CUBIC,
                           borderMode=cv2.BORDER_REPLICATE).clip(0.0, None),
            np.float32,
        )  # fmt: skip
