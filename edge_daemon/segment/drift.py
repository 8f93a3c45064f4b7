"""When a certificate no longer speaks of this line: an alarm over frames that are not like those it was made from.

The certificate keeps, for some figures of a frame, where they lay on the sound parts it was made from. Each new frame
is ranked among those and all frames since; as long as frames are exchangeable (nothing has changed), its rank is
uniform and independent of the past. Martingales bet against that. By Ville's inequality one that starts at 1 reaches
1,000 with probability at most 0.1 %, over a run of any length.

    reference = DriftReference.from_document(bundle.certificate["claims"]["drift"])
    state = DriftState(reference, seed=1)
    state.update(frame_scores(pixels, coverage))  # -> ln of the martingale; state.alarmed

Pure state: no I/O, no clock. Not covered: a change none of the figures sees, a change that was there already when the
certificate was made, and slow wear that stays inside the spread from part to part.

Sources: Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005), chapter 7 (conformal p-values are
independent and uniform only when ranked among *all* earlier frames, with ties broken at random; power martingales);
Ville (1939).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

__all__ = ["ALARM_LN", "STATISTICS", "DriftReference", "DriftState", "frame_scores"]

#: The alarm: ln(1 / 0.001).
ALARM_LN = math.log(1000.0)

#: Figures of a frame, in the order of ``frame_scores``.
STATISTICS = ("level", "contrast", "noise", "detail", "suspicion")

# z-scores are counted in bins; a fixed grid keeps memory constant over any number of frames and the ranks exact, since
# frames in one bin are ties and ties are broken at random.
_LIMIT_Z, _PER_Z = 16, 64
_BINS = 2 * _LIMIT_Z * _PER_Z + 1
_LEAST_FRAMES = 100
# Bets: density e u^(e - 1) on the rank u (drift downwards) and on 1 - u (upwards).
_EXPONENTS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


def frame_scores(pixels: NDArray[Any], coverage: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """The figures of one frame, float64 (5,), all but the last as a share of the full range of its pixels.

    pixels: uint8 or uint16, (H, W) or RGB, as the camera gave them. coverage: float32 (H, W) in [0, 1] as the engine
    gave it, or None (then 0). level: median grey. contrast: 90 % minus 10 % quantile. noise: mean absolute response to
    the second difference mask of Immerkaer (1996), the strongest tenth left out. detail: the root of its mean square.
    suspicion: mean coverage of the pixels below 0.5, in logit.
    """
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    full = 255.0 if grey.dtype == np.uint8 else 65535.0
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(grey.astype(np.float32), cv2.CV_32F, mask))[1:-1:2, 1:-1:2]
    low, level, high = np.quantile(grey[::2, ::2], (0.1, 0.5, 0.9))
    noise = detail = 0.0
    if response.size:  # means, because quantiles of 8-bit pictures are whole numbers and hardly vary
        noise = float(response[response <= np.quantile(response, 0.9)].mean())
        detail = float(np.sqrt(np.mean(response * response)))
    suspicion = 0.0
    if coverage is not None:
        quiet = coverage[coverage < 0.5]
        mean = float(np.clip(quiet.mean(), 1e-6, 1.0 - 1e-6)) if quiet.size else 0.5
        suspicion = math.log(mean / (1.0 - mean))
    return np.array([level / full, (high - low) / full, noise / full, detail / full, suspicion])


@dataclass(frozen=True, slots=True)
class DriftReference:
    """What frames of the certificate looked like.

    names: of the figures. centre, scale: (J,) median and robust spread, from the first half of the frames; counts:
    int64 (J, bins) of the z-scores of the second half. Two halves, because ranks are fair only under a scale that none
    of the ranked frames had a say in.
    """

    names: tuple[str, ...]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def learn(cls, names: Sequence[str], scores: NDArray[Any]) -> DriftReference:
        """From the figures of independent frames, (n, J) in random order. Raises ConfigError for fewer than 100."""
        values = np.asarray(scores, np.float64)
        if values.ndim != 2 or values.shape[1] != len(names) or len(values) < _LEAST_FRAMES:
            raise ConfigError(
                f"{len(values)} frames of sound parts are too few to notice drift", hint=f"{_LEAST_FRAMES} or more"
            )
        if not np.isfinite(values).all():
            raise ConfigError("figures of a frame are not finite", hint="check the pictures")
        half = len(values) // 2
        centre = np.median(values[:half], axis=0)
        scale = 1.4826 * np.median(np.abs(values[:half] - centre), axis=0)
        # A figure that never varies (a synthetic picture): anything else is then many spreads away.
        scale = np.maximum(scale, 1e-6 * np.maximum(1.0, np.abs(centre)))
        counts = np.zeros((len(names), _BINS), np.int64)
        for row in values[half:]:
            counts[np.arange(len(names)), _bins((row - centre) / scale)] += 1
        return cls(tuple(names), centre, scale, counts)

    def document(self) -> dict[str, Any]:
        """Plain JSON for the certificate: per figure its centre, spread and sorted z-scores in 1/64."""
        return {
            "schema": 1,
            "alarm": "largest martingale of the figures reaches 1000 times their number (Ville: at most 0.1 % false)",
            "figures": {
                name: {
                    "centre": float(self.centre[j]),
                    "scale": float(self.scale[j]),
                    "sorted_z_64ths": np.repeat(np.arange(_BINS) - _LIMIT_Z * _PER_Z, self.counts[j]).tolist(),
                }
                for j, name in enumerate(self.names)
            },
        }

    @classmethod
    def from_document(cls, document: Any) -> DriftReference:
        """The inverse of ``document``. Raises ConfigError for anything else."""
        try:
            _require(document["schema"] == 1, "schema")
            figures: Mapping[str, Any] = document["figures"]
            names = tuple(figures)
            counts = np.zeros((len(names), _BINS), np.int64)
            for j, name in enumerate(names):
                at = np.asarray(figures[name]["sorted_z_64ths"], np.int64) + _LIMIT_Z * _PER_Z
                _require(at.ndim == 1 and at.size >= _LEAST_FRAMES // 2, f"too few scores of {name}")
                _require(int(at.min()) >= 0 and int(at.max()) < _BINS, f"scores of {name}")
                counts[j] = np.bincount(at, minlength=_BINS)
            centre = np.array([float(figures[name]["centre"]) for name in names])
            scale = np.array([float(figures[name]["scale"]) for name in names])
            _require(len(names) > 0 and bool(np.isfinite(centre).all()), "centre")
            _require(bool(np.isfinite(scale).all() and (scale > 0.0).all()), "scale")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the certificate's drift scores cannot be used: {error}", hint="certify the bundle again"
            ) from None
        return cls(names, centre, scale, counts)


def _require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(what)


def _bins(z: NDArray[np.float64]) -> NDArray[np.intp]:
    """Bin of each z-score; everything beyond the limits falls into the last one."""
    return np.asarray(np.rint(np.clip(z, -_LIMIT_Z, _LIMIT_Z) * _PER_Z) + _LIMIT_Z * _PER_Z, np.intp)


class DriftState:
    """The martingales of one line, frame after frame. One thread.

    Per figure an average over bets and over the frame at which the change begins, weighted 1/(n (n + 1)): a change
    after a million quiet frames costs ln(10^12) = 28 in place of 0. The largest figure counts, divided by their number
    (Bonferroni), because each figure's ranks are fair by themselves but not together.
    """

    def __init__(self, reference: DriftReference, *, seed: int = 0) -> None:
        self.reference = reference
        self.frames = 0
        self.alarmed = False
        self._counts = reference.counts.copy()
        self._total = reference.counts.sum(axis=1)
        self._columns = np.arange(_BINS)
        self._rng = np.random.default_rng(seed)  # breaks ties; any seed that does not know the frames will do
        bets = (len(reference.names), 2, len(_EXPONENTS))
        self._ln_started = np.full(bets, -np.inf)  # per bet: ln of the wealth of those that have begun
        self._log_martingale = 0.0
        self._largest = 0.0

    @property
    def log_martingale(self) -> float:
        """ln of the martingale now; it starts at 0 or below, and ``ALARM_LN`` is the alarm."""
        return self._log_martingale

    def update(self, scores: NDArray[Any]) -> float:
        """Take one frame's figures, (J,), and return ``log_martingale``; once ``alarmed``, always so.

        A figure that is not finite counts as the strangest there is: a frame that cannot be described is no evidence
        that nothing has changed.
        """
        values = np.asarray(scores, np.float64)
        z = np.where(np.isfinite(values), (values - self.reference.centre) / self.reference.scale, float(_LIMIT_Z))
        at = _bins(z)
        figures = np.arange(len(at))
        self._counts[figures, at] += 1
        self._total = self._total + 1
        above = (self._counts * (self._columns > at[:, None])).sum(axis=1)
        rank = (above + self._rng.random(len(at)) * self._counts[figures, at]) / self._total
        rank = np.clip(rank, 1e-12, 1.0 - 1e-12)
        sides = np.log(np.stack([rank, 1.0 - rank], axis=1))[:, :, None]
        gain = np.log(_EXPONENTS) + (_EXPONENTS - 1.0) * sides
        self.frames += 1
        n = self.frames
        self._ln_started = np.logaddexp(self._ln_started, -math.log(n) - math.log(n + 1)) + gain
        waiting = -math.log(n + 1)  # the weight of changes that begin later: 1/(n + 1), still worth 1 each
        mean = _ln_mean(self._ln_started.reshape(len(at), -1))
        each = np.logaddexp(mean, waiting)
        self._log_martingale = float(each.max()) - math.log(len(at))
        self._largest = max(self._largest, self._log_martingale)
        self.alarmed = self.alarmed or self._largest >= ALARM_LN
        return self._log_martingale


def _ln_mean(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln of the mean of exp, along the last axis."""
    top = logs.max(axis=-1, keepdims=True)
    return np.asarray(top[..., 0] + np.log(np.exp(logs - top).mean(axis=-1)))
