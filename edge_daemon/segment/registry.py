"""Which engines there are, which one runs, and how fast: what `edge-daemon engine` prints."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeError, EngineError, MissingExtra
from ..signing import Trust
from .bundle import MANIFEST, Bundle, load
from .onnx import OnnxEngine
from .parity import ParityLimits, ParityReport, compare_engines, synthetic_probes
from .plan_cache import PlanKey, store_parity
from .protocol import Engine, Tensors
from .see import see
from .tensorrt import Bindings, TensorRtEngine, build_plan, device_key, load_bindings

__all__ = [
    "BACKENDS",
    "Bench",
    "Choice",
    "Listing",
    "bench",
    "build",
    "choose_backend",
    "describe",
    "list_bundles",
    "open_engine",
    "verify",
    "warm_up",
]

BACKENDS = ("auto", "onnxruntime", "tensorrt")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which backend runs and why; ``why`` is one sentence for people."""

    backend: str
    why: str


@dataclass(frozen=True, slots=True)
class Listing:
    """One folder that looks like a bundle: the verified bundle, or what is wrong with it."""

    folder: Path
    bundle: Bundle | None
    error: EdgeError | None


@dataclass(frozen=True, slots=True)
class Bench:
    """Latency of ``see`` on one picture size, milliseconds: quantiles of the whole, and of the network alone."""

    backend: str
    size_px: tuple[int, int]
    count: int
    p50_ms: float
    p99_ms: float
    infer_p50_ms: float
    infer_p99_ms: float
    around_p50_ms: float


def list_bundles(root: Path) -> list[Listing]:
    """Every folder directly under ``root`` that holds a manifest, by name, verified; a broken one is listed too."""
    return [_list(manifest.parent) for manifest in sorted(root.glob(f"*/{MANIFEST}"))]


def _list(folder: Path) -> Listing:
    try:
        return Listing(folder, load(folder), None)
    except EdgeError as error:
        return Listing(folder, None, error)


def describe(bundle: Bundle) -> dict[str, Any]:
    """The bundle as plain JSON: the manifest, its hash, and per type how it can be told from the unknown."""
    thresholds = bundle.thresholds
    return {
        **bundle.manifest,
        "sha256": bundle.sha256,
        "folder": str(bundle.folder),
        "model_bytes": len(bundle.model_bytes),
        "known_scores": {name: len(thresholds.known_scores.get(name, ())) for name in bundle.types},
        "never_unknown": [name for name in bundle.types if not thresholds.can_be_unknown(name)],
        "certificate": dict(bundle.certificate),
    }


def choose_backend(
    bundle: Bundle, backend: str = "auto", *, cache_dir: Path | None = None, bindings: Bindings | None = None
) -> Choice:
    """What ``open_engine`` would run. ``auto`` takes TensorRT only where its packages, a GPU and a plan for exactly
    this machine and model that passed the parity gate are there, else ONNX Runtime, and says which was missing.

    Raises EngineError for an unknown backend; MissingExtra or EngineError where TensorRT was asked for by name and
    cannot run; IntegrityError for a plan that is not what was built, also in ``auto``: that is never passed over.
    """
    if backend not in BACKENDS:
        raise EngineError(f"unknown engine backend {backend!r}", hint=f"use one of {', '.join(BACKENDS)}")
    if backend == "onnxruntime":
        return Choice("onnxruntime", "asked for")
    if cache_dir is None:
        if backend == "tensorrt":
            raise EngineError("TensorRT needs a folder for its plans", hint="give cache_dir")
        return Choice("onnxruntime", "no folder for TensorRT plans is configured")
    try:
        key = device_key(bundle, bindings or load_bindings())
    except (MissingExtra, EngineError) as error:
        if backend == "tensorrt":
            raise
        return Choice("onnxruntime", error.message)
    obstacle = key.obstacle(cache_dir, bundle)
    if obstacle is None:
        return Choice("tensorrt", "a plan for this machine and model passed the parity gate")
    if backend == "tensorrt":
        raise EngineError(obstacle, code="NO_PLAN", hint="run `edge-daemon engine build` on this machine")
    return Choice("onnxruntime", obstacle)


def open_engine(
    bundle: Bundle,
    backend: str = "auto",
    *,
    threads: int = 1,
    cache_dir: Path | None = None,
    bindings: Bindings | None = None,
    trust: Trust | None = None,
) -> Engine:
    """A running engine for ``bundle``, warmed up. The backend that was chosen is logged and is ``engine.backend``.

    threads: of ONNX Runtime. cache_dir: where TensorRT plans lie. bindings: for tests; else the installed packages.
    trust: whose signature a TensorRT plan must carry before it is deserialised; the bundle's is ``load``'s.
    Raises as ``choose_backend``, and EngineError when the engine does not answer.
    """
    choice = choose_backend(bundle, backend, cache_dir=cache_dir, bindings=bindings)
    engine: Engine
    if choice.backend == "tensorrt":
        assert cache_dir is not None
        engine = TensorRtEngine(bundle, cache_dir, bindings=bindings or load_bindings(), trust=trust)
    else:
        engine = OnnxEngine(bundle, threads=threads)
    try:
        warm_up(engine)
    except EdgeError:
        engine.close()
        raise
    _log.info("engine %s runs on %s: %s", bundle.name, engine.backend, choice.why)
    return engine


def warm_up(engine: Engine) -> None:
    """Run one whole tile, so that the first part does not pay for first-use allocations. Raises EngineError."""
    spec = engine.bundle.input
    engine.infer(np.full((1, len(spec.views), spec.tile_px, spec.tile_px), 0.5, np.float32))


def build(
    bundle: Bundle,
    cache_dir: Path,
    *,
    pictures: Mapping[str, NDArray[Any]] | None = None,
    limits: ParityLimits | None = None,
    threads: int = 1,
    bindings: Bindings | None = None,
) -> tuple[PlanKey, ParityReport]:
    """Build the TensorRT plan for this machine, hold it against ONNX Runtime, and store plan and verdict.

    pictures: frames (name -> pixels) for the parity gate besides the synthetic probes; real frames with defects are
    worth more. A plan that failed is kept with its report but will not serve.
    Raises MissingExtra, EngineError, ConfigError (cache inside the bundle), StorageError.
    """
    bindings = bindings or load_bindings()
    key = build_plan(bundle, cache_dir, bindings=bindings)
    probes = {**synthetic_probes(bundle), **(pictures or {})}
    reference = OnnxEngine(bundle, threads=threads)
    candidate = TensorRtEngine(bundle, cache_dir, bindings=bindings, candidate=True)
    try:
        report = compare_engines(reference, candidate, probes, limits or ParityLimits())
    finally:
        candidate.close()
        reference.close()
    store_parity(cache_dir, bundle, key, candidate.plan_sha256, report)
    return key, report


def verify(
    folder: Path, *, expect_sha256: str | None = None, threads: int = 1, trust: Trust | None = None
) -> dict[str, Any]:
    """Check a bundle from seal to answer: hashes, content, that the model loads and fits, answers finitely, and twice
    the same. Returns what was found, as plain JSON. Raises ConfigError, IntegrityError or EngineError."""
    bundle = load(folder, expect_sha256=expect_sha256, trust=trust)
    engine = OnnxEngine(bundle, threads=threads)
    try:
        found = {}
        for name, pixels in synthetic_probes(bundle).items():
            first, second = see(engine, pixels), see(engine, pixels)
            same = np.array_equal(first.labels, second.labels) and first.regions == second.regions
            if not same or not np.array_equal(first.coverage, second.coverage):  # type: ignore[arg-type]
                raise EngineError(f"engine {bundle.name} answers {name} differently each time", code="NOT_REPRODUCIBLE")
            found[name] = {"regions": len(first.regions), "refusals": [reason.code for reason in first.refusals]}
    finally:
        engine.close()
    return {**describe(bundle), "backend": engine.backend, "probes": found}


def bench(engine: Engine, size_px: tuple[int, int], count: int = 100) -> Bench:
    """Time ``see`` on a synthetic picture of (width, height) px, ``count`` times after three that do not count."""
    width, height = size_px
    pixels = next(iter(synthetic_probes(engine.bundle, sizes_px=((height, width),)).values()))
    timed = _TimedEngine(engine)
    whole_ms = []
    for _ in range(count + 3):
        start_ns = time.perf_counter_ns()
        see(timed, pixels)
        whole_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
        timed.pictures_ms.append(timed.picture_ms)
        timed.picture_ms = 0.0
    whole, infer = np.array(whole_ms[3:]), np.array(timed.pictures_ms[3:])
    return Bench(
        backend=engine.backend,
        size_px=size_px,
        count=count,
        p50_ms=float(np.quantile(whole, 0.5)),
        p99_ms=float(np.quantile(whole, 0.99)),
        infer_p50_ms=float(np.quantile(infer, 0.5)),
        infer_p99_ms=float(np.quantile(infer, 0.99)),
        around_p50_ms=float(np.quantile(whole - infer, 0.5)),
    )


class _TimedEngine:
    """An engine that adds up how long its network took for the picture at hand."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.backend, self.bundle = engine.name, engine.backend, engine.bundle
        self.picture_ms = 0.0
        self.pictures_ms: list[float] = []

    def infer(self, batch: NDArray[np.float32]) -> Tensors:
        start_ns = time.perf_counter_ns()
        try:
            return self._engine.infer(batch)
        finally:
            self.picture_ms += (time.perf_counter_ns() - start_ns) / 1e6

    def close(self) -> None:
        self._engine.close()
