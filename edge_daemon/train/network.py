"""The network: a small residual U-shape at half resolution, and its way into ONNX.

A 6 x 6 convolution of stride 2 (the same as pixel-unshuffle by 2 and a 3 x 3, without moving the pixels first), three
halvings, plain 3 x 3 convolutions and ReLU, pixel-shuffle back to full resolution: operators that every ONNX run-time
and TensorRT 10 take, nothing that depends on the picture's size. Batch normalisation is folded into the convolutions
on export.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as fn
from torch import nn

from ..segment.texture import GREY_SCALE, LEVELS

__all__ = [
    "MULTIPLE_OF_PX",
    "TYPE_STRIDE_PX",
    "WIDTHS",
    "CastingNet",
    "FilterBank",
    "export_onnx",
    "like",
    "parameter_count",
]

#: Height and width must be multiples of this: the stem and three more halvings.
MULTIPLE_OF_PX = 16
#: The type logits have one value for a square of so many pixels a side.
TYPE_STRIDE_PX = 4
#: Channels at a half, a quarter, an eighth and a sixteenth of the resolution.
WIDTHS = (8, 16, 48, 96)

# Sigmoid(-4) is about the share of defect pixels in a batch, so training starts from the prior.
_PRIOR_LOGIT = -4.0


def _conv(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(channels, channels, dilation)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(self.first(x)))


def _halve(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 2, stride=2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class CastingNet(nn.Module):
    """(N, 2, H, W) views to defect logits (N, 1, H, W) and type logits (N, types, H / 4, W / 4).

    The type logits stay at a quarter of the resolution: a type is a matter of context, an outline is not. The last
    block of the deepest level is dilated: a pixel sees about 100 pixels around itself. Widths that are multiples of 8
    (16 where it matters) run half as fast again on a CPU as others of the same cost on paper.
    """

    def __init__(self, types: int, views: int = 2, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.views, self.widths = views, tuple(widths)
        a, b, c, d = widths
        self.stem = nn.Sequential(
            nn.Conv2d(views, a, 6, stride=2, padding=2, bias=False), nn.BatchNorm2d(a), nn.ReLU(inplace=True)
        )
        self.down_b = _halve(a, b)
        self.level_b = _Residual(b)
        self.down_c = _halve(b, c)
        self.level_c = _Residual(c)
        self.down_d = _halve(c, d)
        self.level_d = nn.Sequential(_Residual(d), _Residual(d, dilation=2))
        self.up_c = nn.ConvTranspose2d(d, c, 2, stride=2)
        self.join_c = _Residual(c)
        self.up_b = nn.ConvTranspose2d(c, b, 2, stride=2)
        self.join_b = _Residual(b)
        self.up_a = nn.ConvTranspose2d(b, a, 2, stride=2)
        self.join_a = _conv(a, a)
        self.defect_head = nn.Conv2d(a, 4, 3, padding=1)
        self.shuffle_out = nn.PixelShuffle(2)
        self.type_head = nn.Sequential(_conv(b, b), nn.Conv2d(b, types, 1))
        assert self.defect_head.bias is not None
        nn.init.constant_(self.defect_head.bias, _PRIOR_LOGIT)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = self.stem(image)
        b = self.level_b(self.down_b(a))
        c = self.level_c(self.down_c(b))
        d = self.level_d(self.down_d(c))
        c = self.join_c(c + self.up_c(d))
        b = self.join_b(b + self.up_b(c))
        a = self.join_a(a + self.up_a(b))
        return self.shuffle_out(self.defect_head(a)), self.type_head(b)


def like(weights: Mapping[str, torch.Tensor]) -> CastingNet:
    """A network of the shape that these weights have, holding them."""
    widths = [int(weights[f"{name}.0.weight"].shape[0]) for name in ("stem", "down_b", "down_c", "down_d")]
    types, views = int(weights["type_head.1.bias"].numel()), int(weights["stem.0.weight"].shape[1])
    network = CastingNet(types, views, tuple(widths))
    network.load_state_dict(dict(weights))
    return network


def parameter_count(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


class FilterBank(nn.Module):
    """(N, 2, H, W) views, grey and local, to (N, TEXTURE_PLANES, H / 4, W / 4): see ``segment.texture``. Nothing in it
    is trained. Gradients are Sobel's and the Laplacian has its diagonals; beyond the border the picture goes on as it
    ends. The finer scales are sampled once in a square of 4 px: a mean of squares over a region needs no more."""

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        laplace = torch.tensor([[2.0, 0.0, 2.0], [0.0, -8.0, 0.0], [2.0, 0.0, 2.0]])
        self.kernels = nn.Parameter(torch.stack([across, across.T, laplace])[:, None] / 8.0, requires_grad=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        half = fn.avg_pool2d(image[:, :2], 2)
        planes = [fn.avg_pool2d(torch.cat([half, half * half], dim=1), TYPE_STRIDE_PX // 2)]
        level = image[:, :1] * GREY_SCALE
        for number in range(LEVELS):
            stride = max(1, TYPE_STRIDE_PX >> number)
            # In every fourth place a kernel of three reaches over no border.
            response = fn.conv2d(level if stride == TYPE_STRIDE_PX else _wider(level), self.kernels, stride=stride)
            x, y, ridge = response[:, :1], response[:, 1:2], response[:, 2:]
            xx, yy = x * x, y * y
            part = torch.cat(
                [xx + yy, xx - yy, 2.0 * x * y, torch.relu(ridge).square(), torch.relu(-ridge).square()], dim=1
            )
            if 2**number > TYPE_STRIDE_PX:
                part = fn.interpolate(part, scale_factor=2**number / TYPE_STRIDE_PX, mode="nearest")
            planes.append(part)
            level = half[:, :1] * GREY_SCALE if number == 0 else fn.avg_pool2d(level, 2)
        return torch.cat(planes, dim=1)


def _wider(plane: torch.Tensor) -> torch.Tensor:
    """With its outermost pixels once more around it; in operators that export without shape arithmetic."""
    tall = torch.cat([plane[:, :, :1], plane, plane[:, :, -1:]], dim=2)
    return torch.cat([tall[:, :, :, :1], tall, tall[:, :, :, -1:]], dim=3)


class _WithTexture(nn.Module):
    """A network whose type output is followed by the planes of the filter bank."""

    def __init__(self, network: CastingNet) -> None:
        super().__init__()
        self.network, self.bank = network, FilterBank()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        defect, types = self.network(image)
        return defect, torch.cat([types, self.bank(image)], dim=1)


def export_onnx(network: CastingNet, path: Path, *, texture: bool = False) -> None:
    """Write one self-contained ONNX file (opset 17): ``image`` float32 (N, C, H, W) to ``defect`` and ``type`` logits,
    N, H and W free. The network is not modified. texture: with the filter bank's planes after the type logits."""
    import onnx

    views = network.views
    still: nn.Module = copy.deepcopy(network).eval().cpu().float()
    if texture:
        still = _WithTexture(still).eval()  # type: ignore[arg-type]
    example = torch.zeros(1, views, 4 * MULTIPLE_OF_PX, 4 * MULTIPLE_OF_PX)
    free = {0: "N", 2: "H", 3: "W"}
    torch.onnx.export(
        still, (example,), str(path), opset_version=17, dynamo=False, do_constant_folding=True,
        input_names=["image"], output_names=["defect", "type"],
        dynamic_axes={"image": free, "defect": free, "type": free},
    )  # fmt: skip
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    model.producer_name, model.doc_string = "edge_daemon.train", ""
    onnx.save(model, str(path))
