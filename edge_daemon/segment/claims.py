"""What a bundle's certificate promises, and the operating point that keeps a promise: max-recall mode.

``edge-daemon engine certify --seal`` writes ``claims`` into ``certificate.json``; this reads them back. Nothing here
computes a bound: the bounds were computed once, on independent parts, and are sealed with the bundle. A claim binds
the very model and thresholds it was made with; after any change of either it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .bundle import Bundle
from .protocol import Engine, Tensors

__all__ = ["CLAIMS_SCHEMA", "Claims", "OperatingPoint", "Sensitivity", "max_recall_engine", "read_claims"]

CLAIMS_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Thresholds, and what was certified for them on independent parts.

    parts, missed: defective parts, and those with any visible indication unfound. recall_lower: one-sided lower bound
    of the share found, by fixed-sequence testing from the most sensitive point on. false_calls: marked regions per
    sound picture with its two-sided 95 % interval, None where there was no sound part.
    """

    seed: float
    grow: float
    min_region_px: int
    parts: int
    missed: int
    recall_lower: float
    false_calls: tuple[float, float, float] | None

    def false_calls_text(self) -> str:
        """For people."""
        if self.false_calls is None:
            return "an unknown number of false calls a picture (no sound part was certified on)"
        rate, low, high = self.false_calls
        return f"{rate:.3g} false calls a picture ({low:.3g} to {high:.3g})"


@dataclass(frozen=True, slots=True)
class Claims:
    """The part of the claims that the line uses. points: from the most to the least sensitive. on: ``simulated`` or
    ``folder``. default: the operating point of the bundle's own thresholds. drift: document of the drift scores."""

    confidence: float
    on: str
    points: tuple[OperatingPoint, ...]
    default: OperatingPoint
    sentence: str
    drift: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Max-recall mode as it runs: what was asked, the point that keeps it, and the point it replaces."""

    asked: float
    confidence: float
    on: str
    point: OperatingPoint
    default: OperatingPoint

    def document(self) -> dict[str, Any]:
        """The record's ``sensitivity``."""
        return {
            "mode": "max-recall",
            "recall_asked": self.asked,
            "recall_lower": self.point.recall_lower,
            "confidence": self.confidence,
            "certified_on": self.on,
            "parts": self.point.parts,
            "missed": self.point.missed,
            "false_calls_per_image": None if self.point.false_calls is None else list(self.point.false_calls),
            "default_false_calls_per_image": None
            if self.default.false_calls is None
            else list(self.default.false_calls),
            "thresholds": {
                "seed": self.point.seed, "grow": self.point.grow, "min_region_px": self.point.min_region_px,
            },
        }  # fmt: skip

    def text(self) -> str:
        """One sentence for people: what it promises and what it costs."""
        where = " on simulated parts" if self.on == "simulated" else ""
        return (
            f"max-recall: at least {100 * self.point.recall_lower:.2f} % of defective parts with every visible "
            f"indication marked, certified{where} with {100 * self.confidence:g} % confidence ({self.point.missed} of "
            f"{self.point.parts} missed); it costs {self.point.false_calls_text()} in place of "
            f"{self.default.false_calls_text()} by default"
        )


def read_claims(bundle: Bundle) -> Claims | None:
    """The claims of a bundle's certificate, None where it was never certified.

    Raises ConfigError for claims of another schema, claims that are broken, and claims made with another model or other
    thresholds than the bundle's own.
    """
    document = bundle.certificate.get("claims")
    if document is None:
        return None
    where = f"the certificate of {bundle.name}"
    again = "certify the bundle again: edge-daemon engine certify --seal"
    try:
        if document["schema"] != CLAIMS_SCHEMA:
            raise ConfigError(f"{where}: claims of schema {document['schema']}", hint=again)
        made_with = document["bundle"]
        if made_with["model_sha256"] != bundle.model_sha256:
            raise ConfigError(f"{where} was made with another model", hint=again)
        if made_with["thresholds_sha256"] != bundle.manifest["files"]["thresholds.json"]:
            raise ConfigError(f"{where} was made with other thresholds", hint=again)
        points = tuple(_point(one) for one in document["operating_points"])
        confidence = float(document["confidence"])
        _require(0.0 < confidence < 1.0, "confidence")
        _require(all(a.seed < b.seed for a, b in pairwise(points)), "order of the operating points")
        return Claims(
            confidence,
            str(document["calibration_set"]["kind"]),
            points,
            _point(document["default_point"]),
            str(document["sentence"]),
            document.get("drift"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: claims cannot be read: {error!r}", hint=again) from None


def _require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(what)


def _point(document: Mapping[str, Any]) -> OperatingPoint:
    calls = document["false_calls_per_image"]
    point = OperatingPoint(
        seed=float(document["seed"]),
        grow=float(document["grow"]),
        min_region_px=int(document["min_region_px"]),
        parts=int(document["parts"]),
        missed=int(document["missed"]),
        recall_lower=float(document["recall_lower"]),
        false_calls=None if calls is None else (float(calls[0]), float(calls[1]), float(calls[2])),
    )
    numbers = (point.seed, point.grow, point.recall_lower, *(point.false_calls or ()))
    _require(all(map(math.isfinite, numbers)), "an operating point")
    _require(0.0 < point.grow <= point.seed < 1.0 and point.min_region_px >= 1, "thresholds of an operating point")
    return point


def choose_point(claims: Claims, asked: float, name: str) -> OperatingPoint:
    """The point with the fewest false calls whose certified recall is at least ``asked``; of equals the most sensitive.

    Points count in the order they were tested in, from the most sensitive on, and none behind the first that fails.
    Raises ConfigError naming the best that can be promised: nothing weaker is ever taken in its place.
    """
    certified = []
    for point in claims.points:
        if point.recall_lower < asked:
            break
        certified.append(point)
    if not certified:
        best = claims.points[0] if claims.points else None
        promise = (
            "nothing"
            if best is None or best.recall_lower <= 0.0
            else f"at most {100 * best.recall_lower:.2f} % ({best.missed} of {best.parts} defective parts were missed)"
        )
        raise ConfigError(
            f"a recall of {100 * asked:g} % was asked for; the certificate of {name} can promise {promise}, with "
            f"{100 * claims.confidence:g} % confidence",
            hint="ask for less, or certify on more independent parts",
        )
    # Without a sound part the false calls are unknown; they only fall with the seed, so the last one has the fewest.
    return min(
        certified,
        key=lambda one: (one.false_calls[0] if one.false_calls is not None else -one.seed, one.seed),
    )


class _SensitiveEngine:
    """The same network under other thresholds; everything that looks through it, references too, sees alike."""

    def __init__(self, engine: Engine, bundle: Bundle) -> None:
        self._engine, self._bundle = engine, bundle

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def backend(self) -> str:
        return self._engine.backend

    @property
    def bundle(self) -> Bundle:
        """As sealed, hash and all, but for seed, grow, min_region_px and the seeds of single types."""
        return self._bundle

    def infer(self, batch: NDArray[np.float32]) -> Tensors:
        return self._engine.infer(batch)

    def close(self) -> None:
        self._engine.close()


def max_recall_engine(engine: Engine, asked: float) -> tuple[Engine, Sensitivity]:
    """``engine`` at the operating point whose certificate promises a part recall of at least ``asked``.

    asked: share of defective parts, 0 < asked < 1. The engine given is closed with the one returned. Raises ConfigError
    where the bundle was never certified, or its certificate cannot promise this much.
    """
    bundle = engine.bundle
    if not 0.0 < asked < 1.0:
        raise ConfigError(f"a recall of {asked} cannot be promised", hint="a share between 0 and 1, like 0.995")
    claims = read_claims(bundle)
    if claims is None:
        raise ConfigError(
            f"a recall of {100 * asked:g} % was asked for, but {bundle.name} was never certified",
            hint="edge-daemon engine certify BUNDLE --on DIR --seal, on independent parts of this line",
        )
    point = choose_point(claims, asked, bundle.name)
    # Seeds of single types would take back what the lower seed finds.
    thresholds = replace(
        bundle.thresholds, seed=point.seed, grow=point.grow, min_region_px=point.min_region_px,
        type_seeds=MappingProxyType({}),
    )  # fmt: skip
    sensitivity = Sensitivity(asked, claims.confidence, claims.on, point, claims.default)
    return _SensitiveEngine(engine, replace(bundle, thresholds=thresholds)), sensitivity
