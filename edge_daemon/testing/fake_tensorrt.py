"""A machine with a GPU that is not there: fakes of ``tensorrt`` (10 or 11) and ``pycuda.driver``.

The fake runs the ONNX for real (through ONNX Runtime) inside ``execute_async_v3``, on simulated device memory, with the
promises that CUDA makes and no others: nothing queued on a stream happens before the stream is synchronised, device
and host memory are apart, host memory of asynchronous copies must be pinned, every call needs a current context.
Whatever breaks one of these rules on hardware (often without saying so) raises ``Misuse`` here, or leaves NaN in the
buffers. It proves right use of the bindings; it says nothing about speed or about a GPU's own arithmetic, of which it
imitates only the rounding to FP16 at input and output.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from ..segment.tensorrt import Bindings

__all__ = ["FakeGpu", "Misuse"]

_MAGIC = b"FAKE-PLAN\0"


class Misuse(AssertionError):
    """The bindings were used in a way that hardware does not forgive."""


class FakeCudaError(Exception):
    """``pycuda.driver.Error``."""


class FakeGpu:
    """One simulated machine. ``bindings`` is what the product is given instead of the real modules.

    version: of TensorRT; from 11 on there is no FP16 flag and networks are strongly typed.
    absent: no GPU driver. logit_error: added to every defect logit (a plan that computes something else).
    nan: answer NaN. break_after: executions after which every call fails with a CUDA error.
    deserialised: SHA-256 of every plan that was handed to TensorRT.
    """

    def __init__(
        self,
        *,
        version: str = "10.3.0",
        name: str = "Fake Orin",
        compute_capability: tuple[int, int] = (8, 7),
        driver: int = 12060,
        absent: bool = False,
        logit_error: float = 0.0,
        nan: bool = False,
        break_after: int | None = None,
    ) -> None:
        self.name, self.compute_capability, self.driver = name, compute_capability, driver
        self.version, self.absent = version, absent
        self.logit_error, self.nan, self.break_after = logit_error, nan, break_after
        self.executions = 0
        self.deserialised: list[str] = []
        self.retained = 0
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.pinned: list[NDArray[Any]] = []
        self.streams: dict[int, _Stream] = {}
        self.addresses = itertools.count(0x7F00_0000_0000, 1 << 32)
        self._current = threading.local()
        self._initialised = False
        self.bindings = Bindings(_trt_module(self), self._cuda_module())

    @property
    def strongly_typed_only(self) -> bool:
        return int(self.version.split(".")[0]) >= 11

    def assert_released(self) -> None:
        """Raise Misuse if device memory or a context is still held."""
        if self.memory or self.retained or self.contexts:
            raise Misuse(f"still held: {len(self.memory)} buffers, {self.retained} contexts")

    @property
    def contexts(self) -> list[_Context]:
        """The calling thread's stack of current contexts."""
        if not hasattr(self._current, "stack"):
            self._current.stack = []
        stack: list[_Context] = self._current.stack
        return stack

    def need_context(self) -> None:
        if not self.contexts:
            raise Misuse("no CUDA context is current on this thread")
        if self.break_after is not None and self.executions >= self.break_after:
            raise FakeCudaError("an illegal memory access was encountered")

    def _cuda_module(self) -> Any:
        return SimpleNamespace(
            Error=FakeCudaError,
            init=self._init,
            get_driver_version=lambda: self.driver,
            Device=lambda number: _Device(self, number),
            Stream=lambda: _Stream(self),
            pagelocked_empty=self._pagelocked_empty,
            mem_alloc=lambda size: _Allocation(self, size),
            memcpy_htod_async=self._copy_in,
            memcpy_dtoh_async=self._copy_out,
        )

    def _init(self) -> None:
        if self.absent:
            raise FakeCudaError("cuInit failed: no CUDA-capable device is detected")
        self._initialised = True

    def need_init(self) -> None:
        if not self._initialised:
            raise Misuse("cuda.init() was not called")

    def _pagelocked_empty(self, shape: int | tuple[int, ...], dtype: Any) -> NDArray[Any]:
        self.need_context()
        array = np.full(shape, np.nan, dtype)
        self.pinned.append(array)
        return array

    def _need_pinned(self, array: NDArray[Any]) -> None:
        if not array.flags.c_contiguous:
            raise Misuse("a copied buffer is not contiguous")
        if not any(np.shares_memory(array, page) for page in self.pinned):
            raise Misuse("an asynchronous copy needs page-locked host memory")

    def _copy_in(self, target: _Allocation, source: NDArray[Any], stream: _Stream) -> None:
        self.need_context()
        self._need_pinned(source)
        memory = self.at(int(target), source.nbytes)

        def copy() -> None:
            memory[:] = source.reshape(-1).view(np.uint8)

        stream.queue.append(copy)

    def _copy_out(self, target: NDArray[Any], source: _Allocation, stream: _Stream) -> None:
        self.need_context()
        self._need_pinned(target)
        memory = self.at(int(source), target.nbytes)
        target.fill(np.nan)  # whoever reads before the stream was synchronised reads this

        def copy() -> None:
            target.reshape(-1).view(np.uint8)[:] = memory

        stream.queue.append(copy)

    def at(self, address: int, size: int) -> NDArray[np.uint8]:
        """Live device memory of at least ``size`` bytes at ``address``."""
        memory = self.memory.get(address)
        if memory is None:
            raise Misuse(f"0x{address:x} is no live device memory")
        if size > memory.nbytes:
            raise Misuse(f"{size} bytes do not fit into the {memory.nbytes} at 0x{address:x}")
        return memory[:size]


class _Device:
    def __init__(self, gpu: FakeGpu, number: int) -> None:
        gpu.need_init()
        if number != 0:
            raise FakeCudaError("cuDeviceGet failed: invalid device ordinal")
        self._gpu = gpu

    def name(self) -> str:
        return self._gpu.name

    def compute_capability(self) -> tuple[int, int]:
        return self._gpu.compute_capability

    def retain_primary_context(self) -> _Context:
        self._gpu.retained += 1
        return _Context(self._gpu)


class _Context:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self._detached = False

    def push(self) -> None:
        if self._detached:
            raise Misuse("a detached context was made current")
        self._gpu.contexts.append(self)

    def pop(self) -> None:
        if not self._gpu.contexts or self._gpu.contexts.pop() is not self:
            raise Misuse("contexts were popped out of order")

    def detach(self) -> None:
        if self._detached or self in self._gpu.contexts:
            raise Misuse("a context was detached twice or while current")
        self._detached = True
        self._gpu.retained -= 1


class _Stream:
    def __init__(self, gpu: FakeGpu) -> None:
        gpu.need_context()
        self._gpu = gpu
        self.queue: list[Callable[[], None]] = []
        self.handle = next(gpu.addresses)
        gpu.streams[self.handle] = self

    def synchronize(self) -> None:
        self._gpu.need_context()
        work, self.queue = self.queue, []
        for step in work:
            step()


class _Allocation:
    def __init__(self, gpu: FakeGpu, size: int) -> None:
        gpu.need_context()
        self._gpu = gpu
        self._address = next(gpu.addresses)
        gpu.memory[self._address] = np.full(size, 0xFF, np.uint8)  # four of them are a float32 NaN

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        if not self._gpu.contexts:
            raise Misuse("device memory was freed without a current context")
        if any(stream.queue for stream in self._gpu.streams.values()):
            raise Misuse("device memory was freed while a stream still had work")
        if self._gpu.memory.pop(self._address, None) is None:
            raise Misuse("device memory was freed twice")


class _Mode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class _DataType(enum.Enum):
    FLOAT = 0
    HALF = 1


class _Flag10(enum.Enum):
    FP16 = 0
    TF32 = 7


class _Flag11(enum.Enum):
    TF32 = 7


class _NetworkFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class _Pool(enum.Enum):
    WORKSPACE = 0


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _Logger:
    ERROR, WARNING = 1, 2

    def __init__(self, severity: int) -> None:
        if severity not in (self.ERROR, self.WARNING):
            raise Misuse("unknown severity")


class _Network:
    def __init__(self, *, typed: bool) -> None:
        self.typed = typed
        self.model: bytes | None = None


class _Parser:
    def __init__(self, network: _Network, logger: _Logger) -> None:
        if not isinstance(logger, _Logger):
            raise Misuse("no logger")
        self._network = network
        self._errors: list[str] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, number: int) -> str:
        return self._errors[number]

    def parse(self, model: bytes) -> bool:
        try:
            _session(model)
        except Exception as error:
            if type(error).__module__.startswith("onnxruntime"):
                self._errors.append(str(error))
                return False
            raise
        self._network.model = model
        return True


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, low: tuple[int, ...], best: tuple[int, ...], high: tuple[int, ...]) -> None:
        if not all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)):
            raise Misuse("profile shapes are not min <= opt <= max")
        self.shapes[name] = [tuple(low), tuple(best), tuple(high)]


class _Config:
    def __init__(self) -> None:
        self.flags = {"TF32"}
        self.profiles: list[_Profile] = []
        self.workspace_bytes = 0

    def set_flag(self, flag: enum.Enum) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: enum.Enum) -> None:
        self.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: _Pool, size: int) -> None:
        if pool is not _Pool.WORKSPACE:
            raise Misuse("unknown pool")
        self.workspace_bytes = size

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class _Builder:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def create_network(self, flags: int = 0) -> _Network:
        typed = bool(flags & 1 << int(_NetworkFlag.STRONGLY_TYPED))
        if self._gpu.strongly_typed_only and not typed:
            raise Misuse("this TensorRT builds strongly typed networks only")
        return _Network(typed=typed)

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        self._gpu.need_context()
        if network.model is None:
            raise Misuse("an empty network was built")
        if network.typed and "FP16" in config.flags:
            raise Misuse("a strongly typed network takes no precision flag")
        model = _session(network.model)
        if len(config.profiles) != 1 or set(config.profiles[0].shapes) != {
            tensor.name for tensor in model.get_inputs()
        }:
            return None  # as TensorRT: a free axis without a profile cannot be built
        header = {
            "version": self._gpu.version,
            "gpu": self._gpu.name,
            "flags": sorted(config.flags),
            "typed": network.typed,
            "profile": config.profiles[0].shapes,
        }
        return _MAGIC + json.dumps(header).encode() + b"\0" + network.model


class _Runtime:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        self._gpu.need_context()
        self._gpu.deserialised.append(hashlib.sha256(plan).hexdigest())
        if not plan.startswith(_MAGIC):
            raise Misuse("bytes that are no plan were handed to TensorRT: undefined behaviour")
        head, model = plan[len(_MAGIC) :].split(b"\0", 1)
        header = json.loads(head)
        if (header["version"], header["gpu"]) != (self._gpu.version, self._gpu.name):
            return None
        return _Engine(self._gpu, header, _session(model))


class _Engine:
    def __init__(self, gpu: FakeGpu, header: dict[str, Any], session: Any) -> None:
        self.gpu, self.header, self.session = gpu, header, session
        self.inputs = [tensor.name for tensor in session.get_inputs()]
        self.outputs = [tensor.name for tensor in session.get_outputs()]
        self.num_io_tensors = len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, number: int) -> str:
        name: str = (self.inputs + self.outputs)[number]
        return name

    def get_tensor_mode(self, name: str) -> _Mode:
        return _Mode.INPUT if name in self.inputs else _Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> _DataType:
        tensors = {tensor.name: tensor.type for tensor in (*self.session.get_inputs(), *self.session.get_outputs())}
        return _DataType.FLOAT if tensors[name] == "tensor(float)" else _DataType.HALF

    def create_execution_context(self) -> _Execution:
        self.gpu.need_context()
        return _Execution(self)


class _Execution:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name not in self._engine.inputs:
            raise Misuse(f"{name} is no input")
        low, _, high = self._engine.header["profile"][name]
        self._shapes[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        if not isinstance(address, int):
            raise Misuse("a tensor's address is an integer")
        if name not in self._engine.inputs + self._engine.outputs:
            return False
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, gpu = self._engine, self._engine.gpu
        gpu.need_context()
        stream = gpu.streams.get(stream_handle)
        if stream is None:
            raise Misuse("execute_async_v3 wants the handle of a live stream")
        if set(self._addresses) != set(engine.inputs + engine.outputs):
            raise Misuse("tensors without an address")
        if set(self._shapes) != set(engine.inputs):
            raise Misuse("an input without a shape")
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        gpu.executions += 1
        half = "FP16" in engine.header["flags"]

        def run() -> None:
            feeds = {}
            for name in engine.inputs:
                size = int(np.prod(shapes[name])) * 4
                values = gpu.at(addresses[name], size).view(np.float32).reshape(shapes[name])
                feeds[name] = values.astype(np.float16).astype(np.float32) if half else values.copy()
            for name, answer in zip(engine.outputs, engine.session.run(engine.outputs, feeds), strict=True):
                values = np.array(answer, np.float32)
                if name == "defect":
                    values += np.float32(gpu.logit_error)
                    values.reshape(-1)[:1] = np.nan if gpu.nan else values.reshape(-1)[:1]
                with np.errstate(over="ignore"):  # as on hardware: beyond 65504 FP16 is infinite
                    values = values.astype(np.float16).astype(np.float32) if half else values
                gpu.at(addresses[name], values.nbytes)[:] = values.reshape(-1).view(np.uint8)

        stream.queue.append(run)
        return True


def _trt_module(gpu: FakeGpu) -> Any:
    def builder(logger: _Logger) -> _Builder:
        if not isinstance(logger, _Logger):
            raise Misuse("no logger")
        return _Builder(gpu)

    def runtime(logger: _Logger) -> _Runtime:
        if not isinstance(logger, _Logger):
            raise Misuse("no logger")
        return _Runtime(gpu)

    return SimpleNamespace(
        __version__=gpu.version,
        Logger=_Logger,
        Builder=builder,
        Runtime=runtime,
        OnnxParser=_Parser,
        BuilderFlag=_Flag11 if gpu.strongly_typed_only else _Flag10,
        NetworkDefinitionCreationFlag=_NetworkFlag,
        MemoryPoolType=_Pool,
        TensorIOMode=_Mode,
        DataType=_DataType,
    )
