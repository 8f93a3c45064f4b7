"""The engines against their contract, which of them is opened, and what the command line prints.

TensorRT runs here on fake bindings, which refuse wrong use and run the network for real; no GPU takes part.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_daemon.errors import EngineError, IntegrityError, MissingExtra
from edge_daemon.segment.bundle import Bundle, seal
from edge_daemon.segment.onnx import OnnxEngine
from edge_daemon.segment.protocol import Engine, checked_tensors
from edge_daemon.segment.registry import bench, build, choose_backend, describe, list_bundles, open_engine, verify
from edge_daemon.segment.tensorrt import Bindings, TensorRtEngine, build_plan, load_bindings
from edge_daemon.testing.engine_contract import EngineContract, tiny_bundle, tiny_manifest, tiny_model, tiny_thresholds
from edge_daemon.testing.fake_tensorrt import FakeGpu


class TestOnnxContract(EngineContract):
    def open(self, bundle: Bundle, folder: Path) -> Engine:
        return OnnxEngine(bundle)


class TestOnnxContractTwoThreads(EngineContract):
    def open(self, bundle: Bundle, folder: Path) -> Engine:
        return OnnxEngine(bundle, threads=2, spin=True)


class TestTensorRtContract(EngineContract):
    tolerance = 2e-3  # FP16

    @pytest.fixture(autouse=True)
    def released(self) -> Iterator[None]:
        self.gpu = FakeGpu()
        yield
        self.gpu.assert_released()

    def open(self, bundle: Bundle, folder: Path) -> Engine:
        build_plan(bundle, folder, bindings=self.gpu.bindings)
        return TensorRtEngine(bundle, folder, bindings=self.gpu.bindings, candidate=True)


class TestTensorRt11Contract(TestTensorRtContract):
    tolerance = 1e-5  # no FP16 flag: the model's own types

    @pytest.fixture(autouse=True)
    def released(self) -> Iterator[None]:
        self.gpu = FakeGpu(version="11.4.0.106")
        yield
        self.gpu.assert_released()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "engines" / "tiny")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# -- ONNX Runtime -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"views": 1}, "'image'"),
        ({"type_levels": (0.5, 0.7)}, "'type'"),
    ],
)
def test_a_model_that_does_not_fit_its_manifest_is_refused(tmp_path: Path, model: dict, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        OnnxEngine(tiny_bundle(tmp_path, model=tiny_model(**model)))


@pytest.mark.parametrize(
    "changes",
    [
        {"output": {"defect": "logits", "type": "type"}},
        {"output": {"defect": "type", "type": "defect"}},
        {"input": {**tiny_manifest()["input"], "name": "picture"}},
        {"types": ["crack", "gas_hole"]},
    ],
)
def test_a_manifest_that_names_other_tensors_is_refused(tmp_path: Path, changes: dict) -> None:
    thresholds = tiny_thresholds(known_scores={})
    with pytest.raises(EngineError, match=r"manifest|shape"):
        OnnxEngine(tiny_bundle(tmp_path, manifest=tiny_manifest(**changes), thresholds=thresholds))


def test_a_model_that_no_runtime_knows_is_refused(tmp_path: Path) -> None:
    model = tiny_model().replace(b"Identity", b"Identitx")
    with pytest.raises(EngineError, match=r"model\.onnx cannot be loaded"):
        OnnxEngine(tiny_bundle(tmp_path, model=model))


def test_a_model_with_a_fixed_size_is_refused(tmp_path: Path) -> None:
    import onnx

    model = onnx.load_from_string(tiny_model())
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64
    with pytest.raises(EngineError, match="shape"):
        OnnxEngine(tiny_bundle(tmp_path, model=model.SerializeToString()))


def test_no_threads_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="0 engine threads"):
        OnnxEngine(bundle, threads=0)


def test_the_engine_runs_the_verified_bytes_not_the_file(bundle: Bundle) -> None:
    (bundle.folder / "model.onnx").write_bytes(b"swapped after verification")
    engine = OnnxEngine(bundle)
    assert engine.infer(np.full((1, 2, 8, 8), 0.75, np.float32)).defect[0, 0, 0, 0] == pytest.approx(15.0)


@pytest.mark.parametrize("what", ["shape", "dtype", "type shape"])
def test_an_answer_of_another_form_is_an_error(bundle: Bundle, what: str) -> None:
    batch = np.zeros((1, 2, 8, 8), np.float32)
    defect = np.zeros((1, 1, 8, 16 if what == "shape" else 8), np.float64 if what == "dtype" else np.float32)
    types = np.zeros((1, 2 if what == "type shape" else 3, 8, 8), np.float32)
    with pytest.raises(EngineError, match="manifest"):
        checked_tensors(bundle, batch, defect, types)


# -- which backend runs -----------------------------------------------------------------------------------------------


def test_auto_says_why_it_does_not_take_tensorrt(bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    gpu = FakeGpu()
    assert "no folder" in choose_backend(bundle).why
    assert "no plan" in choose_backend(bundle, cache_dir=cache, bindings=gpu.bindings).why
    absent = FakeGpu(absent=True)
    assert "no CUDA-capable device" in choose_backend(bundle, cache_dir=cache, bindings=absent.bindings).why
    with caplog.at_level(logging.INFO, "edge_daemon.segment.registry"):
        engine = open_engine(bundle, cache_dir=cache, bindings=gpu.bindings)
    assert engine.backend == "onnxruntime-cpu"
    assert "onnxruntime-cpu" in caplog.text
    assert "no plan" in caplog.text
    engine.close()


def test_asking_for_tensorrt_where_it_cannot_run_is_an_error_never_a_fallback(bundle: Bundle, cache: Path) -> None:
    with pytest.raises(EngineError, match="folder for its plans"):
        open_engine(bundle, "tensorrt")
    with pytest.raises(EngineError, match="no CUDA-capable device"):
        open_engine(bundle, "tensorrt", cache_dir=cache, bindings=FakeGpu(absent=True).bindings)
    with pytest.raises(EngineError, match="no CUDA-capable device"):
        build(bundle, cache, bindings=FakeGpu(absent=True).bindings)


def test_without_the_packages_auto_says_so_and_tensorrt_names_the_extra(
    bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)  # as if not installed, wherever this runs
    with pytest.raises(MissingExtra, match=r"edge-daemon\[jetson\]"):
        load_bindings()
    with pytest.raises(MissingExtra, match=r"edge-daemon\[jetson\]") as caught:
        open_engine(bundle, "tensorrt", cache_dir=cache)
    assert caught.value.exit_code == 3
    choice = choose_backend(bundle, "auto", cache_dir=cache)
    assert choice.backend == "onnxruntime"
    assert "not installed" in choice.why


def test_unknown_backends_are_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="openvino"):
        open_engine(bundle, "openvino")


def test_onnxruntime_by_name_never_looks_at_plans(bundle: Bundle, cache: Path) -> None:
    broken = Bindings(None, None)
    engine = open_engine(bundle, "onnxruntime", cache_dir=cache, bindings=broken)
    assert engine.backend == "onnxruntime-cpu"
    engine.close()


def test_an_engine_that_answers_nonsense_is_not_opened(tmp_path: Path) -> None:
    model = tiny_model(gain=math.inf)
    with pytest.raises(EngineError, match="finite"):
        open_engine(tiny_bundle(tmp_path, model=model))


# -- what the command line prints -------------------------------------------------------------------------------------


def test_list_shows_good_and_broken_bundles(bundle: Bundle, tmp_path: Path) -> None:
    root = bundle.folder.parent
    tiny_bundle(root / "broken")
    (root / "broken" / "card.md").write_text("changed")
    (root / "README.md").write_text("not a bundle")
    (root / "unsealed").mkdir()
    broken, good = list_bundles(root)
    assert (broken.folder.name, good.folder.name) == ("broken", "tiny")
    assert isinstance(broken.error, IntegrityError)
    assert broken.bundle is None
    assert good.error is None
    assert good.bundle is not None
    assert good.bundle.sha256 == bundle.sha256
    assert list_bundles(tmp_path / "nowhere") == []


def test_describe_is_json_and_says_what_is_never_unknown(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, thresholds=tiny_thresholds(known_scores={"crack": [0.1] * 30}))
    found = json.loads(json.dumps(describe(bundle)))
    assert found["sha256"] == bundle.sha256
    assert found["known_scores"] == {"gas_hole": 0, "shrinkage_cavity": 0, "crack": 30}
    assert found["never_unknown"] == ["gas_hole", "shrinkage_cavity"]
    assert found["certificate"] == {"parts": 0}


def test_verify_runs_the_whole_way(bundle: Bundle) -> None:
    found = json.loads(json.dumps(verify(bundle.folder, expect_sha256=bundle.sha256)))
    assert found["backend"] == "onnxruntime-cpu"
    assert len(found["probes"]) == 3
    assert sum(probe["regions"] for probe in found["probes"].values()) >= 4
    with pytest.raises(IntegrityError, match="pinned"):
        verify(bundle.folder, expect_sha256="0" * 64)
    (bundle.folder / "model.onnx").write_bytes(tiny_model(views=1))
    seal(bundle.folder, tiny_manifest())
    with pytest.raises(EngineError, match="'image'"):
        verify(bundle.folder)


def test_bench_adds_up(bundle: Bundle) -> None:
    engine = OnnxEngine(bundle)
    found = bench(engine, (96, 80), count=12)
    assert (found.backend, found.size_px, found.count) == ("onnxruntime-cpu", (96, 80), 12)
    assert 0 < found.infer_p50_ms < found.p50_ms <= found.p99_ms < 1000
    assert 0 < found.around_p50_ms < found.p50_ms
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        bench(engine, (64, 64), count=1)
