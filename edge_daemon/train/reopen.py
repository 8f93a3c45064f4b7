"""From a sealed bundle back to a network that can learn on.

A bundle holds no checkpoint: only the ONNX model, in which batch normalisation has been folded into the convolutions.
The folded weights are put back, and each normalisation is then set to the statistics of real activations in such a way
that it changes nothing: y = scale (x - mean) / sqrt(variance + eps) + shift with scale = sqrt(variance + eps) and
shift = mean + the folded bias. What comes out answers as the bundle does, and trains as a checkpoint would.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import EngineError
from ..segment.bundle import Bundle
from ..segment.texture import LEVELS
from .network import MULTIPLE_OF_PX, CastingNet

__all__ = ["reopen"]

# Folding and running in another order of sums moves a logit by about this much at most.
_AGREE = 2e-3
# The convolutions, in the order they run, that open a level: stem, then each halving behind a block of two.
_WIDTH_AT = (0, 1, 4, 7)


def reopen(bundle: Bundle, views: NDArray[np.float32]) -> CastingNet:
    """The bundle's network with trainable batch normalisation, in evaluation mode.

    views: float32 (N, V, H, W), typical pictures as the network is shown them, H and W multiples of 16; a few dozen
    crops. Raises EngineError for a bundle whose network is none of ``CastingNet``, or quantised.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(bundle.model_bytes)
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    # Equal tensors are written once and named again.
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    if bundle.has_texture:  # the filter bank's come last, and are not trained
        nodes = nodes[:-LEVELS]
    if len(bundle.input.views) != views.shape[1] or len(nodes) <= max(_WIDTH_AT):
        raise _foreign(bundle)
    widths = tuple(int(_tensor(bundle, weights, nodes[at].input[1]).shape[0]) for at in _WIDTH_AT)
    network = CastingNet(bundle.logit_planes, len(bundle.input.views), widths).eval()
    layers = _in_order(network)
    if len(layers) != len(nodes):
        raise _foreign(bundle)
    biases: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for (layer, norm), node in zip(layers, nodes, strict=True):
            weight, bias = (_tensor(bundle, weights, name) for name in (*node.input[1:], "")[:2])
            if weight.shape != layer.weight.shape:
                raise _foreign(bundle)
            layer.weight.copy_(weight)
            if norm is not None:
                biases[id(norm)] = bias
            elif layer.bias is not None:
                layer.bias.copy_(bias)
        _normalise(network, [norm for _, norm in layers if norm is not None], biases, torch.from_numpy(views))
        _check(bundle, network, views)
    return network


def _foreign(bundle: Bundle) -> EngineError:
    return EngineError(
        f"engine bundle {bundle.folder} holds a network that this version cannot train on",
        hint="commission from a bundle that `edge-daemon train fit` of this version sealed, in full precision",
    )


def _tensor(bundle: Bundle, weights: dict[str, Any], name: str) -> torch.Tensor:
    if name not in weights:
        raise _foreign(bundle)
    return torch.from_numpy(np.array(weights[name], np.float32))


def _in_order(network: CastingNet) -> list[tuple[Any, nn.BatchNorm2d | None]]:
    """Convolutions in the order they run, each with the batch normalisation that follows it."""
    order: list[tuple[Any, nn.BatchNorm2d | None]] = []

    def ran(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, nn.BatchNorm2d):
            order[-1] = (order[-1][0], module)
        else:
            order.append((module, None))

    hooks = [
        module.register_forward_hook(ran)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d))
    ]
    side = 4 * MULTIPLE_OF_PX
    with torch.no_grad():
        network(torch.zeros(1, network.views, side, side))
    for hook in hooks:
        hook.remove()
    return order


def _normalise(
    network: CastingNet, norms: list[nn.BatchNorm2d], biases: dict[int, torch.Tensor], views: torch.Tensor
) -> None:
    """Set every normalisation to the statistics of what reaches it, layer by layer in one pass."""

    def before(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), unbiased=False)
        # A channel that never moves would have nothing to be scaled by.
        variance = variance.clamp(min=1e-6)
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(torch.sqrt(variance + norm.eps))
        norm.bias.copy_(mean + biases[id(norm)])

    hooks = [norm.register_forward_pre_hook(before) for norm in norms]
    network(views)
    for hook in hooks:
        hook.remove()


def _check(bundle: Bundle, network: CastingNet, views: NDArray[np.float32]) -> None:
    """What was put back must answer as the sealed model does."""
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(bundle.model_bytes, providers=["CPUExecutionProvider"])
    sealed = session.run([bundle.defect_output, bundle.type_output], {bundle.input.name: views[:1]})
    sealed[1] = sealed[1][:, : bundle.logit_planes]
    here = [one.numpy() for one in network(torch.from_numpy(views[:1]))]
    for ours, theirs in zip(here, sealed, strict=True):
        allowed = _AGREE * max(1.0, float(np.abs(theirs).max()))
        if ours.shape != theirs.shape or float(np.abs(ours - theirs).max()) > allowed:
            raise _foreign(bundle)
