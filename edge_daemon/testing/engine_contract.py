"""What every engine must hold to, as a test class, and small bundles with a known exact answer to hold it to.

    class TestMyEngine(EngineContract):
        def open(self, bundle: Bundle, folder: Path) -> Engine:
            return MyEngine(bundle)

Run by pytest; needs the ``onnx`` package (extra ``dev``).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..errors import EngineError
from ..segment.bundle import Bundle, load, seal
from ..segment.protocol import Engine

__all__ = ["EngineContract", "tiny_bundle", "tiny_manifest", "tiny_model", "tiny_thresholds", "write_tiny_files"]

TINY_TYPES = ("gas_hole", "shrinkage_cavity", "crack")
TINY_LEVELS = (0.6, 0.75, 0.9)


def tiny_model(
    *,
    views: int = 2,
    gain: float = 60.0,
    level: float = 0.5,
    blur_px: int = 1,
    type_levels: Sequence[float] = TINY_LEVELS,
    type_sharpness: float = 400.0,
    nan_where_black: bool = False,
) -> bytes:
    """An ONNX model (opset 17, free N, H and W) that can be worked out by hand from the first view, grey g:

    defect = gain * (mean of g over blur_px x blur_px, zeros outside, - level)
    type k = type_sharpness * (2 g c_k - c_k^2), c_k = type_levels[k]: softmax of -type_sharpness (g - c_k)^2
    nan_where_black: adds 0 * log(g) to the defect logit, which is NaN where g = 0.
    """
    box = np.zeros((1, views, blur_px, blur_px), np.float32)
    box[0, 0] = gain / blur_px**2
    centres = np.asarray(type_levels, np.float32)
    nearest = np.zeros((len(centres), views, 1, 1), np.float32)
    nearest[:, 0, 0, 0] = 2.0 * type_sharpness * centres
    weights = {
        "box": box,
        "box_bias": np.array([-gain * level], np.float32),
        "nearest": nearest,
        "nearest_bias": (-type_sharpness * centres**2).astype(np.float32),
    }
    pad = blur_px // 2
    nodes = [
        helper.make_node("Conv", ["image", "box", "box_bias"], ["plain"], pads=[pad] * 4),
        helper.make_node("Conv", ["image", "nearest", "nearest_bias"], ["type"]),
    ]
    if nan_where_black:
        pick = np.zeros((1, views, 1, 1), np.float32)
        pick[0, 0] = 1.0
        weights |= {"pick": pick, "zero": np.zeros((), np.float32)}
        nodes += [
            helper.make_node("Conv", ["image", "pick"], ["grey"]),
            helper.make_node("Log", ["grey"], ["log"]),
            helper.make_node("Mul", ["log", "zero"], ["nothing"]),
            helper.make_node("Add", ["plain", "nothing"], ["defect"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["plain"], ["defect"]))

    def tensor(name: str, channels: int) -> Any:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", channels, "H", "W"])

    graph = helper.make_graph(
        nodes,
        "tiny",
        [tensor("image", views)],
        [tensor("defect", 1), tensor("type", len(centres))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_thresholds(**changes: Any) -> dict[str, Any]:
    """A good thresholds.json as a dictionary, with ``changes``."""
    return {
        "temperature": 1.0,
        "bias": 0.0,
        "seed": 0.8,
        "grow": 0.3,
        "min_region_px": 2,
        "unknown_alpha": 0.1,
        "known_scores": {name: [round(0.002 * n, 3) for n in range(20)] for name in TINY_TYPES},
        "gate": {"min_contrast": 0.02, "max_clipped_pct": 50.0},
        **changes,
    }


def tiny_manifest(*, tile_px: int = 64, overlap_px: int = 16, **changes: Any) -> dict[str, Any]:
    """A good manifest before sealing, with ``changes``."""
    return {
        "schema": 1,
        "name": "tiny",
        "version": "1.0",
        "created_utc": "2026-01-31T08:15:30.250Z",
        "input": {
            "name": "image",
            "views": ["grey", "local"],
            "local_sigma_px": 4.0,
            "tile_px": tile_px,
            "overlap_px": overlap_px,
            "multiple_of_px": 8,
        },
        "output": {"defect": "defect", "type": "type"},
        "types": list(TINY_TYPES),
        "qualified": {"mm_per_px": [0.05, 0.5], "polarity": "bright_void", "bits": [8, 16]},
        "licence": "Apache-2.0",
        "trained_on": "nothing: its weights are written by hand",
        "software": "edge-daemon testing",
        **changes,
    }


def write_tiny_files(folder: Path, *, model: bytes, thresholds: Mapping[str, Any], types: Sequence[str]) -> None:
    """The five files of a bundle, ready to seal."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    (folder / "labels.json").write_text(json.dumps({"types": list(types)}))
    (folder / "thresholds.json").write_text(json.dumps(thresholds))
    (folder / "certificate.json").write_text(json.dumps({"parts": 0}))
    (folder / "card.md").write_text("# tiny\n\nFor tests only.\n")


def tiny_bundle(
    folder: Path,
    *,
    model: bytes | None = None,
    thresholds: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write, seal and load a bundle in ``folder``; what is not given is the tiny default."""
    manifest = manifest or tiny_manifest()
    write_tiny_files(
        folder, model=model or tiny_model(), thresholds=thresholds or tiny_thresholds(), types=manifest["types"]
    )
    seal(folder, manifest)
    return load(folder)


class EngineContract(ABC):
    """Subclass as ``Test...``, say how to open the engine, and pytest does the rest.

    tolerance: by how much logits of the same picture may differ between batches, and from the exact answer, as a
    share of the largest logit (FP16 has 11 bits: 1e-3).
    """

    tolerance = 1e-5

    @abstractmethod
    def open(self, bundle: Bundle, folder: Path) -> Engine:
        """The engine under test, for ``bundle``; ``folder`` is an empty place for whatever it needs."""

    def test_names_itself_and_its_bundle(self, tmp_path: Path) -> None:
        bundle, engine = self._start(tmp_path)
        assert engine.bundle is bundle
        assert engine.name == bundle.name
        assert engine.backend == engine.backend.lower()
        assert engine.backend.split("-")[0]
        engine.close()

    def test_shapes_dtype_and_exact_answer(self, tmp_path: Path) -> None:
        bundle, engine = self._start(tmp_path)
        for count, height, width in ((1, 64, 64), (2, 8, 64), (1, 64, 24)):
            batch = _batch(count, height, width)
            answer = engine.infer(batch)
            assert answer.defect.shape == (count, 1, height, width)
            assert answer.type.shape == (count, len(bundle.types), height, width)
            assert answer.defect.dtype == answer.type.dtype == np.float32
            self._close_to(answer.defect[:, 0], 60.0 * (batch[:, 0] - 0.5))
            for k, centre in enumerate(TINY_LEVELS):
                self._close_to(answer.type[:, k], 400.0 * (2 * batch[:, 0] * centre - centre**2))
        engine.close()

    def test_same_input_same_bits(self, tmp_path: Path) -> None:
        _, engine = self._start(tmp_path)
        batch = _batch(2, 64, 64)
        first = engine.infer(batch)
        kept = first.defect.copy()
        engine.infer(_batch(2, 64, 64, seed=9))
        assert np.array_equal(first.defect, kept), "a later answer was written over an earlier one"
        again = engine.infer(batch.copy())
        assert np.array_equal(first.defect, again.defect)
        assert np.array_equal(first.type, again.type)
        engine.close()

    def test_batch_equals_singles(self, tmp_path: Path) -> None:
        _, engine = self._start(tmp_path)
        batch = _batch(7, 32, 48)
        together = engine.infer(batch)
        for n in range(len(batch)):
            alone = engine.infer(batch[n : n + 1])
            self._close_to(together.defect[n], alone.defect[0])
            self._close_to(together.type[n], alone.type[0])
        engine.close()

    def test_does_not_change_its_input(self, tmp_path: Path) -> None:
        _, engine = self._start(tmp_path)
        batch = _batch(1, 64, 64)
        kept = batch.copy()
        batch.flags.writeable = False
        engine.infer(batch)
        assert np.array_equal(batch, kept)
        engine.close()

    def test_refuses_an_answer_that_is_not_finite(self, tmp_path: Path) -> None:
        _, engine = self._start(tmp_path, model=tiny_model(nan_where_black=True))
        good = _batch(2, 64, 64)
        assert np.isfinite(engine.infer(good).defect).all()
        bad = good.copy()
        bad[1, 0, 5, 7] = 0.0
        assert _refusal(lambda: engine.infer(bad)) == "ANSWER"
        assert np.isfinite(engine.infer(good).defect).all(), "one bad answer must not spoil the next"
        engine.close()

    def test_refuses_a_batch_of_another_shape(self, tmp_path: Path) -> None:
        _, engine = self._start(tmp_path)
        good = _batch(1, 64, 64)
        wrong: list[NDArray[Any]] = [
            good[0],
            good[:0],
            good[:, :1],
            good[:, :, :60],
            good.astype(np.float64),
            _batch(1, 72, 64),
        ]
        for batch in wrong:
            assert _refusal(lambda batch=batch: engine.infer(batch)) == "BATCH", batch.shape  # type: ignore[misc]
        engine.close()

    def test_close_is_final_and_idempotent(self, tmp_path: Path) -> None:
        _, engine = self._start(tmp_path)
        engine.infer(_batch(1, 64, 64))
        engine.close()
        engine.close()
        assert _refusal(lambda: engine.infer(_batch(1, 64, 64))) == "CLOSED"

    def _start(self, tmp_path: Path, model: bytes | None = None) -> tuple[Bundle, Engine]:
        bundle = tiny_bundle(tmp_path / "bundle", model=model)
        return bundle, self.open(bundle, tmp_path / "work")

    def _close_to(self, found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
        assert np.abs(found - wanted).max() <= self.tolerance * max(1.0, float(np.abs(wanted).max()))


def _batch(count: int, height: int, width: int, seed: int = 1) -> NDArray[np.float32]:
    """Tiles of two views in (0.1, 0.9)."""
    values = np.random.default_rng(seed).uniform(0.1, 0.9, (count, 2, height, width))
    return values.astype(np.float32)


def _refusal(call: Callable[[], object]) -> str:
    """The code of the EngineError that ``call`` raises, or what happened instead."""
    try:
        call()
    except EngineError as error:
        return error.code
    return "accepted"
