"""TensorRT through ``tensorrt`` and ``pycuda``: plans built on the device, pinned buffers, one stream.

    pinned host buffer --async copy--> device --execute_async_v3--> device --async copy--> pinned host buffer
                                       all on one stream; the host waits once, at the end

Written against the TensorRT 10 API (JetPack 6: 10.3, JetPack 7: 10.16). FP16 first. From TensorRT 11 on there are no
precision flags: the network is then built strongly typed, each tensor in the type the model gives it, and the backend
says ``tensorrt-onnx-types``. TF32 is switched off in both, so that "float32" means it.

Both binding modules are handed in, so that the same code runs against ``edge_daemon.testing.fake_tensorrt``. Not
covered: execution on a GPU has not been verified on hardware so far; the network definition has been compiled with
TensorRT-RTX's parser and builder, which run without one.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError, MissingExtra
from ..signing import Trust
from .bundle import Bundle
from .plan_cache import PlanKey, Shape, read_plan, write_plan
from .protocol import Tensors, check_batch, checked_tensors

__all__ = ["Bindings", "TensorRtEngine", "build_plan", "compile_network", "device_key", "load_bindings"]

_MAX_BATCH = 4
_WORKSPACE_BYTES = 1 << 30
_log = logging.getLogger(__name__)

_HINT = "see `edge-daemon check`; ONNX Runtime serves without a GPU"


@dataclass(frozen=True, slots=True)
class Bindings:
    """The two binding modules: ``tensorrt`` and ``pycuda.driver``, or their fakes. device: CUDA device number."""

    trt: Any
    cuda: Any
    device: int = 0


def load_bindings(device: int = 0) -> Bindings:
    """The installed packages. Raises MissingExtra (``jetson``) where one is missing or cannot load its libraries."""
    try:
        return Bindings(importlib.import_module("tensorrt"), importlib.import_module("pycuda.driver"), device)
    except (ImportError, OSError) as error:
        raise MissingExtra("TensorRT", "jetson") from error


def device_key(bundle: Bundle, bindings: Bindings) -> PlanKey:
    """The key of the plan that this machine needs for ``bundle``. Raises EngineError where there is no usable GPU."""
    with _cuda_errors(bindings, "the GPU cannot be asked what it is"):
        bindings.cuda.init()
        device = bindings.cuda.Device(bindings.device)
        major, minor = device.compute_capability()
        return PlanKey(
            gpu=device.name(),
            compute_capability=f"{major}.{minor}",
            tensorrt=bindings.trt.__version__,
            driver=str(bindings.cuda.get_driver_version()),
            onnx_sha256=bundle.model_sha256,
            precision=_precision(bindings.trt),
            shapes=_shapes(bundle),
        )


def build_plan(bundle: Bundle, cache_dir: Path, *, bindings: Bindings) -> PlanKey:
    """Build the plan for this machine and store it; it may not serve before the parity gate has passed it.

    Takes seconds to minutes. Raises EngineError (no GPU, model refused), ConfigError, StorageError.
    """
    key = device_key(bundle, bindings)
    with _primary_context(bindings), _cuda_errors(bindings, "the plan cannot be built"):
        plan = compile_network(bindings.trt, bundle)
    note = (
        "FP16 flag: TensorRT chose FP16 or FP32 per layer"
        if key.precision == "fp16"
        else "strongly typed: every tensor in the type the model gives it, no precision flag in this TensorRT"
    )
    write_plan(cache_dir, bundle, key, plan, note)
    return key


def compile_network(trt: Any, bundle: Bundle, *, configure: Callable[[Any], None] | None = None) -> bytes:
    """Parse the verified ONNX bytes and compile them to a plan.

    configure: called with the builder configuration before building, e.g. to name compute capabilities for
    TensorRT-RTX, whose builder needs no GPU. Raises EngineError with the parser's words.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    fp16 = _precision(trt) == "fp16"
    typed = 0 if fp16 else 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(bundle.model_bytes):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise EngineError(f"TensorRT cannot parse the model of {bundle.name}: {errors}", hint="export with opset 17")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)
    if fp16:
        config.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    profile.set_shape(bundle.input.name, *_shapes(bundle))
    config.add_optimization_profile(profile)
    if configure is not None:
        configure(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT cannot build the model of {bundle.name}", hint="its log on stderr says why")
    return bytes(plan)


def _precision(trt: Any) -> str:
    return "fp16" if hasattr(trt.BuilderFlag, "FP16") else "onnx-types"


def _shapes(bundle: Bundle) -> tuple[Shape, Shape, Shape]:
    """Smallest, tuned-for and largest input.

    Tuned for whole tiles. Smaller sides are allowed too, so that TensorRT is given exactly the tiles that ONNX Runtime
    is given, and a difference between the two is arithmetic and never padding.
    """
    spec = bundle.input
    channels, low_px, tile_px = len(spec.views), spec.multiple_of_px, spec.tile_px
    return (1, channels, low_px, low_px), (1, channels, tile_px, tile_px), (_MAX_BATCH, channels, tile_px, tile_px)


@contextmanager
def _cuda_errors(bindings: Bindings, what: str) -> Iterator[None]:
    """Errors of the CUDA bindings as EngineError."""
    try:
        yield
    except bindings.cuda.Error as error:
        raise EngineError(f"{what}: {error}", code="CUDA", hint=_HINT) from error


@contextmanager
def _primary_context(bindings: Bindings) -> Iterator[None]:
    """The device's primary context, current on this thread; TensorRT's own calls use the same one."""
    with _cuda_errors(bindings, "the GPU cannot be used"):
        bindings.cuda.init()
        context = bindings.cuda.Device(bindings.device).retain_primary_context()
        context.push()
    try:
        yield
    finally:
        context.pop()
        context.detach()


class TensorRtEngine:
    """A bundle on a GPU, from a plan that was built here and passed the parity gate.

    candidate: open a plan without a passed gate; only the gate itself does that. trust: whose signature it must carry.
    Buffers for the largest batch are taken once; ``infer`` allocates only what it hands over.
    Raises EngineError (no GPU; code NO_PLAN, PARITY or PLAN), IntegrityError (plan or sidecar changed; the plan is
    then never deserialised).
    """

    def __init__(
        self,
        bundle: Bundle,
        cache_dir: Path,
        *,
        bindings: Bindings,
        candidate: bool = False,
        trust: Trust | None = None,
    ) -> None:
        self._bundle = bundle
        self._bindings = bindings
        self._lock = threading.Lock()
        self._closed = True
        key = device_key(bundle, bindings)
        stored = read_plan(cache_dir, bundle, key, trust)
        obstacle = None if candidate else key.obstacle(cache_dir, bundle)
        if obstacle is not None:
            raise EngineError(obstacle, code="PARITY", hint="run `edge-daemon engine build` on this machine")
        self.backend = f"tensorrt-{key.precision}"
        self.plan_sha256 = stored.sha256
        self._host: dict[str, NDArray[np.float32]] = {}
        self._device: dict[str, Any] = {}
        self._runtime: Any = None
        self._engine: Any = None
        self._execution: Any = None
        self._stream: Any = None
        with _cuda_errors(bindings, "the GPU cannot be used"):
            self._context = bindings.cuda.Device(bindings.device).retain_primary_context()
        self._closed = False
        try:
            with self._current("the plan cannot be loaded"):
                self._load(stored.data)
        except EngineError:
            self.close()
            raise

    @property
    def name(self) -> str:
        return self._bundle.name

    @property
    def bundle(self) -> Bundle:
        return self._bundle

    def infer(self, batch: NDArray[np.float32]) -> Tensors:
        """See ``Engine.infer``. Batches larger than the plan's are run in pieces."""
        check_batch(self._bundle, batch)
        with self._lock:
            if self._closed:
                raise EngineError(f"engine {self.name} is closed", code="CLOSED", hint="open it again")
            with self._current(f"engine {self.name} failed"):
                parts = [self._run(batch[first : first + _MAX_BATCH]) for first in range(0, len(batch), _MAX_BATCH)]
        defect, types = (np.concatenate(column) for column in zip(*parts, strict=True))
        return checked_tensors(self._bundle, batch, defect, types)

    def close(self) -> None:
        """See ``Engine.close``."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                with self._current("the GPU cannot be released"):
                    if self._stream is not None:
                        self._stream.synchronize()
                    for allocation in self._device.values():
                        allocation.free()
                    # Whatever belongs to the context goes while it is current, TensorRT's objects inside out.
                    self._device.clear()
                    self._host.clear()
                    self._execution = self._engine = self._runtime = self._stream = None
            except EngineError as error:
                # Nothing hangs on it any more: every later call is refused, and the driver tidies up after the process.
                _log.warning("engine %s: %s", self.name, error)
            finally:
                self._context.detach()

    @contextmanager
    def _current(self, what: str) -> Iterator[None]:
        """This engine's CUDA context on the calling thread: contexts belong to threads, engines do not."""
        with _cuda_errors(self._bindings, what):
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()

    def _load(self, plan: bytes) -> None:
        trt, cuda, bundle = self._bindings.trt, self._bindings.cuda, self._bundle
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine = self._engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"TensorRT refuses the plan of {bundle.name}", code="PLAN", hint="build it again")
        channels = {
            bundle.input.name: len(bundle.input.views),
            bundle.defect_output: 1,
            bundle.type_output: bundle.type_planes,
        }
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        floats = all(engine.get_tensor_dtype(name) == trt.DataType.FLOAT for name in names)
        if sorted(names) != sorted(channels) or inputs != [bundle.input.name] or not floats:
            raise EngineError(
                f"the plan of {bundle.name} has tensors {sorted(names)}, not float32 {sorted(channels)}",
                code="PLAN",
                hint="the model does not fit its manifest; seal it again from the training output",
            )
        self._execution = engine.create_execution_context()
        if self._execution is None:
            raise EngineError(f"no memory to run the plan of {bundle.name}", code="PLAN", hint="free GPU memory")
        self._stream = cuda.Stream()
        for name, planes in channels.items():
            side_px = bundle.input.tile_px // (bundle.type_stride_px if name == bundle.type_output else 1)
            values = _MAX_BATCH * planes * side_px**2
            self._host[name] = cuda.pagelocked_empty(values, np.float32)
            self._device[name] = cuda.mem_alloc(values * np.dtype(np.float32).itemsize)
            self._done(self._execution.set_tensor_address(name, int(self._device[name])), f"address of '{name}'")

    def _run(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        cuda, bundle, stream, execution = self._bindings.cuda, self._bundle, self._stream, self._execution
        count, _, height, width = batch.shape
        source = self._host[bundle.input.name][: batch.size]
        source.reshape(batch.shape)[:] = batch
        self._done(execution.set_input_shape(bundle.input.name, batch.shape), f"shape {batch.shape}")
        cuda.memcpy_htod_async(self._device[bundle.input.name], source, stream)
        self._done(execution.execute_async_v3(stream.handle), "execution")
        answers = []
        for name, planes, stride in (
            (bundle.defect_output, 1, 1), (bundle.type_output, bundle.type_planes, bundle.type_stride_px)
        ):  # fmt: skip
            shape = (count, planes, height // stride, width // stride)
            target = self._host[name][: int(np.prod(shape))]
            cuda.memcpy_dtoh_async(target, self._device[name], stream)
            answers.append(target.reshape(shape))
        stream.synchronize()
        # Copied, because the next picture overwrites the pinned buffers.
        return answers[0].copy(), answers[1].copy()

    def _done(self, answer: bool, what: str) -> None:
        if not answer:
            raise EngineError(f"TensorRT refused the {what} for {self.name}", code="PLAN", hint="build the plan again")
