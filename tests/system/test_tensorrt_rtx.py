"""Every network we ship passes NVIDIA's own parser and builder (TensorRT-RTX), which need no GPU.

It shows that the operators, shapes and types are ones TensorRT knows. It proves nothing about a Jetson: a TensorRT-RTX
plan is no TensorRT plan, its compute capabilities exclude SM87, and nothing is executed here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_daemon.errors import EngineError
from edge_daemon.segment.bundle import Bundle, load
from edge_daemon.segment.tensorrt import compile_network
from edge_daemon.testing.engine_contract import tiny_bundle, tiny_model

pytestmark = pytest.mark.needs("tensorrt_rtx")

ENGINES = Path(__file__).parents[2] / "engines"
SHIPPED = sorted(path.parent for path in ENGINES.glob("*/manifest.json"))


def _compile(bundle: Bundle) -> bytes:
    import tensorrt_rtx as trt

    def for_sm89(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)

    return compile_network(trt, bundle, configure=for_sm89)


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_every_shipped_engine_compiles(folder: Path) -> None:
    bundle = load(folder)
    assert len(_compile(bundle)) > 1000


@pytest.mark.parametrize("blur_px", [1, 5])
def test_a_tiny_network_compiles(tmp_path: Path, blur_px: int) -> None:
    plan = _compile(tiny_bundle(tmp_path, model=tiny_model(blur_px=blur_px, nan_where_black=blur_px == 5)))
    assert len(plan) > 1000


def test_an_operator_nobody_knows_is_refused_with_the_parsers_words(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, model=tiny_model().replace(b"Identity", b"Identitx"))
    with pytest.raises(EngineError, match="Identitx"):
        _compile(bundle)


def test_a_profile_for_another_input_is_refused(tmp_path: Path) -> None:
    """The optimisation profile is really read: for a model with other channels than the manifest nothing is built."""
    bundle = tiny_bundle(tmp_path, model=tiny_model(views=1))
    with pytest.raises(EngineError, match="cannot build"):
        _compile(bundle)
