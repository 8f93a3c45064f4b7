"""The embedded default: ONNX Runtime on the CPU.

Reproducible: one session, sequential execution, one picture at a time (so that the answer to a picture cannot depend on
its neighbours in the batch), and only intra-operator threads, whose partition is fixed by their number.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from ..errors import EngineError
from .bundle import Bundle
from .protocol import Tensors, check_batch, checked_tensors

__all__ = ["OnnxEngine"]

_FATAL_ONLY = 4


class OnnxEngine:
    """A bundle on ONNX Runtime.

    threads: workers per operator; 1 leaves the other cores to the rest of the daemon.
    spin: let idle workers spin for the next operator. Some percent faster, but it burns whole cores between parts and
    takes them from the line process; off unless measured to help on the machine at hand.
    Raises EngineError when the model cannot be loaded or does not fit the bundle's manifest.
    """

    backend = "onnxruntime-cpu"

    def __init__(self, bundle: Bundle, *, threads: int = 1, spin: bool = False) -> None:
        if threads < 1:
            raise EngineError(f"{threads} engine threads", hint="use at least 1")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        options.log_severity_level = _FATAL_ONLY  # failures arrive as exceptions; no second copy on stderr
        self._bundle = bundle
        self._lock = threading.Lock()
        try:
            self._session: Any = onnxruntime.InferenceSession(
                bundle.model_bytes, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the binding's exceptions share no base class; all end as one error
            raise EngineError(
                f"{bundle.folder / 'model.onnx'} cannot be loaded: {_first_line(error)}",
                hint="export with opset 17 and operators that ONNX Runtime knows",
            ) from error
        _check_signature(bundle, self._session)

    @property
    def name(self) -> str:
        return self._bundle.name

    @property
    def bundle(self) -> Bundle:
        return self._bundle

    def infer(self, batch: NDArray[np.float32]) -> Tensors:
        """See ``Engine.infer``."""
        check_batch(self._bundle, batch)
        outputs = [self._bundle.defect_output, self._bundle.type_output]
        with self._lock:
            if self._session is None:
                raise EngineError(f"engine {self.name} is closed", code="CLOSED", hint="open it again")
            try:
                answers = [self._session.run(outputs, {self._bundle.input.name: one[None]}) for one in batch]
            except Exception as error:
                raise EngineError(
                    f"engine {self.name} failed: {_first_line(error)}", hint="run `edge-daemon engine verify`"
                ) from error
        defect, types = (
            np.concatenate(parts) if len(answers) > 1 else parts[0] for parts in zip(*answers, strict=True)
        )
        return checked_tensors(self._bundle, batch, defect, types)

    def close(self) -> None:
        """See ``Engine.close``."""
        with self._lock:
            self._session = None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_signature(bundle: Bundle, session: Any) -> None:
    """Names, types and shapes of the model against the manifest; a free axis of the model fits any size."""
    spec = bundle.input
    tile = (None, None)  # any; a model with fixed sides could not take a picture smaller than a tile
    wanted = {
        "input": (session.get_inputs(), {spec.name: (None, len(spec.views), *tile)}),
        "output": (
            session.get_outputs(),
            {bundle.defect_output: (None, 1, *tile), bundle.type_output: (None, bundle.type_planes, *tile)},
        ),
    }
    hint = "the model does not fit its manifest; export with free N, H, W and seal again"
    for side, (tensors, shapes) in wanted.items():
        found = {tensor.name: tensor for tensor in tensors}
        if set(found) != set(shapes):
            raise EngineError(
                f"{bundle.folder / 'model.onnx'} has {side}s {sorted(found)}, the manifest {sorted(shapes)}", hint=hint
            )
        for name, shape in shapes.items():
            tensor = found[name]
            if tensor.type != "tensor(float)":
                raise EngineError(f"{side} '{name}' of engine {bundle.name} is {tensor.type}, not float32", hint=hint)
            if not _fits(tensor.shape, shape, strict=side == "input"):
                raise EngineError(
                    f"{side} '{name}' of engine {bundle.name} has shape {tensor.shape}, not "
                    f"{['any' if n is None else n for n in shape]}",
                    hint=hint,
                )


def _fits(found: list[int | str | None], wanted: tuple[int | None, ...], *, strict: bool) -> bool:
    """strict: an axis wanted free must be free, and one wanted fixed must be fixed. Outputs may be less well known."""
    if len(found) != len(wanted):
        return False
    for size, want in zip(found, wanted, strict=True):
        fixed = isinstance(size, int)
        if want is None:
            if fixed:
                return False
        elif (fixed or strict) and size != want:
            return False
    return True
