"""The seam between an engine and everything else: a batch of prepared tiles goes in, logits come out.

An engine knows nothing of pictures, thresholds, types by name or millimetres. What happens before and after
(``see.py``) is the same for every engine, so that two engines can differ by arithmetic only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from .bundle import Bundle

__all__ = ["Engine", "Tensors", "check_batch", "checked_tensors"]


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a network answers: logits, before any calibration.

    defect: float32 (N, 1, H, W), of "this pixel is defect". type: float32 (N, K, ceil(H / s), ceil(W / s)), one plane
    per type of the bundle in its order, perhaps one for strangers, perhaps those of the filter bank (``texture``, which
    are no logits), with s = type_stride_px: pixel (y, x) belongs to value (y // s, x // s); a logit means something
    only where there is a defect. Both finite and owned by the caller: the next
    ``infer`` does not write to them.
    """

    defect: NDArray[np.float32]
    type: NDArray[np.float32]
    type_stride_px: int = 1


class Engine(Protocol):
    """A network ready to run. Implementations pass ``edge_daemon.testing.engine_contract.EngineContract``.

    backend: what really runs, e.g. ``onnxruntime-cpu`` or ``tensorrt-fp16``; it goes into every record.
    """

    @property
    def name(self) -> str: ...

    @property
    def backend(self) -> str: ...

    @property
    def bundle(self) -> Bundle: ...

    def infer(self, batch: NDArray[np.float32]) -> Tensors:
        """Run the network.

        batch: float32 (N, C, H, W), C views as ``prepare`` makes them, H and W multiples of the bundle's
        ``multiple_of_px`` and at most ``tile_px``. May be called from any thread, one call at a time; the answer for
        one picture does not depend on the others in the batch beyond rounding. Blocks until done.
        Raises EngineError for a batch of another shape, an answer of another shape or one that is not finite, and
        after ``close``.
        """
        ...

    def close(self) -> None:
        """Release what the engine holds. Safe in any state, any number of times."""
        ...


def check_batch(bundle: Bundle, batch: NDArray[Any]) -> None:
    """Raise EngineError (code BATCH) unless ``batch`` is what ``Engine.infer`` promises to take."""
    spec = bundle.input
    if batch.dtype != np.float32 or batch.ndim != 4 or batch.shape[0] < 1 or batch.shape[1] != len(spec.views):
        raise EngineError(
            f"engine {bundle.name} was given {batch.dtype} {batch.shape}",
            code="BATCH",
            hint=f"it takes float32 (N, {len(spec.views)}, H, W)",
        )
    for side_px in batch.shape[2:]:
        if not 0 < side_px <= spec.tile_px or side_px % spec.multiple_of_px:
            raise EngineError(
                f"engine {bundle.name} was given a tile of {batch.shape[3]} x {batch.shape[2]} px",
                code="BATCH",
                hint=f"sides are multiples of {spec.multiple_of_px} px, at most {spec.tile_px} px",
            )


def checked_tensors(bundle: Bundle, batch: NDArray[Any], defect: NDArray[Any], types: NDArray[Any]) -> Tensors:
    """The answer as Tensors, or EngineError (code ANSWER) if its shape, type or any value is not usable.

    A NaN compares false with every threshold and would so read as "sound"; nothing past this line may hold one.
    """
    count, _, height, width = batch.shape
    stride = bundle.type_stride_px
    wanted = {
        "defect": (defect, (count, 1, height, width)),
        "type": (types, (count, bundle.type_planes, height // stride, width // stride)),
    }
    for what, (answer, shape) in wanted.items():
        if answer.dtype != np.float32 or answer.shape != shape:
            raise EngineError(
                f"engine {bundle.name} answered {what} as {answer.dtype} {answer.shape}, not float32 {shape}",
                code="ANSWER",
                hint="the model does not fit its manifest; seal the bundle again from the training output",
            )
        if not np.isfinite(answer).all():
            raise EngineError(
                f"engine {bundle.name} answered {what} with values that are not finite",
                code="ANSWER",
                hint="run `edge-daemon engine verify`; the model or its precision is broken",
            )
    return Tensors(defect, types, stride)
