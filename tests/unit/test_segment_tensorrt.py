"""Plans, their cache, and the gate that decides whether one may serve; and the fake GPU that all this runs on.

TensorRT runs here on fake bindings, which refuse wrong use and run the network for real; no GPU takes part.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_daemon.errors import ConfigError, EngineError, IntegrityError
from edge_daemon.segment.bundle import Bundle
from edge_daemon.segment.onnx import OnnxEngine
from edge_daemon.segment.parity import ParityLimits, compare_engines, synthetic_probes
from edge_daemon.segment.plan_cache import PlanKey, sign_plan, store_parity
from edge_daemon.segment.protocol import Engine, Tensors
from edge_daemon.segment.registry import build, choose_backend, open_engine
from edge_daemon.segment.sealed import open_document, seal_document, sha256_hex
from edge_daemon.segment.see import see
from edge_daemon.segment.tensorrt import TensorRtEngine, build_plan, device_key
from edge_daemon.signing import Trust, make_key
from edge_daemon.testing.engine_contract import tiny_bundle, tiny_model, tiny_thresholds
from edge_daemon.testing.fake_tensorrt import FakeCudaError, FakeGpu, Misuse


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "engines" / "tiny")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# -- plans and their cache --------------------------------------------------------------------------------------------


def test_plan_is_built_with_the_fp16_flag_from_the_verified_bytes(bundle: Bundle, cache: Path) -> None:
    gpu = FakeGpu()
    (bundle.folder / "model.onnx").write_bytes(b"swapped after verification")
    key = build_plan(bundle, cache, bindings=gpu.bindings)
    plan = key.path(cache, bundle).read_bytes()
    header = json.loads(plan.split(b"\0")[1])
    assert header["flags"] == ["FP16"]  # and TF32 switched off
    assert header["typed"] is False
    assert header["profile"] == {"image": [[1, 2, 8, 8], [1, 2, 64, 64], [4, 2, 64, 64]]}
    assert plan.endswith(bundle.model_bytes)
    sidecar = open_document(key.path(cache, bundle).with_suffix(".json").read_bytes(), "")
    assert sidecar["plan_sha256"] == sha256_hex(plan)
    assert sidecar["parts"] == {
        "gpu": "Fake Orin", "compute_capability": "8.7", "tensorrt": "10.3.0", "driver": "12060",
        "onnx_sha256": bundle.model_sha256, "precision": "fp16",
        "shapes": [[1, 2, 8, 8], [1, 2, 64, 64], [4, 2, 64, 64]],
    }  # fmt: skip
    assert sidecar["parity"] is None
    gpu.assert_released()


def test_tensorrt_11_builds_strongly_typed_and_says_so(bundle: Bundle, cache: Path) -> None:
    gpu = FakeGpu(version="11.4.0")
    key, report = build(bundle, cache, bindings=gpu.bindings)
    assert key.precision == "onnx-types"
    header = json.loads(key.path(cache, bundle).read_bytes().split(b"\0")[1])
    assert (header["typed"], header["flags"]) == (True, [])
    assert "strongly typed" in json.loads(key.path(cache, bundle).with_suffix(".json").read_text())["note"]
    assert report.passed
    engine = open_engine(bundle, "tensorrt", cache_dir=cache, bindings=gpu.bindings)
    assert engine.backend == "tensorrt-onnx-types"
    engine.close()


def test_every_part_of_the_key_makes_another_plan(bundle: Bundle) -> None:
    key = device_key(bundle, FakeGpu().bindings)
    others = [
        replace(key, gpu="x"), replace(key, compute_capability="8.9"), replace(key, tensorrt="10.3.1"),
        replace(key, driver="12061"), replace(key, onnx_sha256="0" * 64), replace(key, precision="fp32"),
        replace(key, shapes=(key.shapes[0], key.shapes[1], (8, 2, 64, 64))),
    ]  # fmt: skip
    assert len({key.digest, *(other.digest for other in others)}) == 8
    assert device_key(bundle, FakeGpu().bindings).digest == key.digest


def test_a_plan_with_one_changed_byte_is_refused_before_tensorrt_sees_it(bundle: Bundle, cache: Path) -> None:
    gpu = FakeGpu()
    key, _ = build(bundle, cache, bindings=gpu.bindings)
    path = key.path(cache, bundle)
    good = path.read_bytes()
    gpu.deserialised.clear()
    for at in (0, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[at] ^= 1
        path.write_bytes(bytes(bad))
        for backend in ("tensorrt", "auto"):  # auto must not quietly pass over a plan that was tampered with
            with pytest.raises(IntegrityError, match="changed"):
                open_engine(bundle, backend, cache_dir=cache, bindings=gpu.bindings)
    assert gpu.deserialised == []
    path.write_bytes(good)
    open_engine(bundle, "tensorrt", cache_dir=cache, bindings=gpu.bindings).close()
    assert gpu.deserialised == [sha256_hex(good)]


def test_an_unsigned_plan_is_refused_before_tensorrt_sees_it(bundle: Bundle, cache: Path, tmp_path: Path) -> None:
    """Also one whose sidecar was sealed anew with the hash of another plan: that takes no key, a signature does."""
    gpu = FakeGpu()
    key, report = build(bundle, cache, bindings=gpu.bindings)
    assert report.passed
    private = tmp_path / "release.pem"
    trust = Trust((make_key(private),), required=True)
    seen = list(gpu.deserialised)

    def refused(match: str) -> None:
        with pytest.raises(IntegrityError, match=match):
            open_engine(bundle, "auto", cache_dir=cache, bindings=gpu.bindings, trust=trust)
        assert gpu.deserialised == seen

    refused("is not signed")
    sign_plan(cache, bundle, key, key_file=private, signed_by="Ada Example")
    open_engine(bundle, "auto", cache_dir=cache, bindings=gpu.bindings, trust=trust).close()
    seen = list(gpu.deserialised)
    path = key.path(cache, bundle)
    sidecar = path.with_suffix(".json")
    good_plan, good_sidecar = path.read_bytes(), sidecar.read_bytes()
    path.write_bytes(good_plan + b" ")
    document = open_document(good_sidecar, "") | {"plan_sha256": sha256_hex(good_plan + b" ")}
    sidecar.write_bytes(seal_document(document, ""))
    refused("changed after it was signed")


def test_a_changed_or_foreign_sidecar_is_refused(bundle: Bundle, cache: Path) -> None:
    gpu = FakeGpu()
    key, _ = build(bundle, cache, bindings=gpu.bindings)
    path = key.path(cache, bundle).with_suffix(".json")
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"passed": true', b'"passed": True'))
    with pytest.raises(IntegrityError, match="JSON"):
        open_engine(bundle, cache_dir=cache, bindings=gpu.bindings)
    path.write_bytes(good.replace(b'"unknowns": ', b'"unknowns": 1'))
    with pytest.raises(IntegrityError, match="changed"):
        open_engine(bundle, cache_dir=cache, bindings=gpu.bindings)
    document = open_document(good, "")
    for part, value in (("gpu", "Fake Thor"), ("tensorrt", "10.16.0"), ("onnx_sha256", "0" * 64)):
        foreign = {**document, "parts": {**document["parts"], part: value}}
        path.write_bytes(seal_document(foreign, ""))
        with pytest.raises(IntegrityError, match="another machine"):
            open_engine(bundle, cache_dir=cache, bindings=gpu.bindings)


@pytest.mark.parametrize(
    "other",
    [{"version": "10.16.0"}, {"driver": 12070}, {"name": "Fake Thor"}, {"compute_capability": (11, 0)}],
)
def test_a_plan_of_another_machine_is_not_found(bundle: Bundle, cache: Path, other: dict) -> None:
    build(bundle, cache, bindings=FakeGpu().bindings)
    gpu = FakeGpu(**other)
    assert choose_backend(bundle, cache_dir=cache, bindings=gpu.bindings).backend == "onnxruntime"
    with pytest.raises(EngineError, match="no plan for tiny") as caught:
        open_engine(bundle, "tensorrt", cache_dir=cache, bindings=gpu.bindings)
    assert caught.value.code == "NO_PLAN"
    assert "engine build" in caught.value.hint


def test_the_cache_may_not_lie_in_the_bundle(bundle: Bundle) -> None:
    gpu = FakeGpu()
    for folder in (bundle.folder, bundle.folder / "cache"):
        with pytest.raises(ConfigError, match="inside the bundle"):
            build_plan(bundle, folder, bindings=gpu.bindings)
    assert not list(bundle.folder.rglob("*.plan"))


def test_a_model_that_tensorrt_cannot_parse_is_refused_with_its_words(tmp_path: Path, cache: Path) -> None:
    broken = tiny_bundle(tmp_path / "b", model=tiny_model().replace(b"Identity", b"Identitx"))
    gpu = FakeGpu()
    with pytest.raises(EngineError, match="Identitx"):
        build_plan(broken, cache, bindings=gpu.bindings)
    gpu.assert_released()
    assert not cache.exists()


# -- parity gate ------------------------------------------------------------------------------------------------------


def test_a_built_plan_serves_only_after_the_parity_gate(bundle: Bundle, cache: Path) -> None:
    gpu = FakeGpu()
    build_plan(bundle, cache, bindings=gpu.bindings)
    with pytest.raises(EngineError, match="has not been through the parity gate"):
        TensorRtEngine(bundle, cache, bindings=gpu.bindings)
    with pytest.raises(EngineError, match="has not been through the parity gate"):
        open_engine(bundle, "tensorrt", cache_dir=cache, bindings=gpu.bindings)
    assert "parity" in choose_backend(bundle, cache_dir=cache, bindings=gpu.bindings).why
    _, report = build(bundle, cache, bindings=gpu.bindings)
    assert report.passed
    assert report.reasons == ()
    assert report.regions >= 4
    assert report.unknowns > 0
    assert 0 < report.max_coverage_diff < 0.02  # FP16 rounds, so a difference of exactly 0 would prove nothing ran
    engine = open_engine(bundle, cache_dir=cache, bindings=gpu.bindings)
    assert engine.backend == "tensorrt-fp16"
    engine.close()
    gpu.assert_released()


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (FakeGpu(logit_error=0.3), "coverage differs"),
        (FakeGpu(logit_error=-3.0), "intersection over union"),
        (FakeGpu(logit_error=-60.0), "regions instead of"),
        (FakeGpu(nan=True), "not finite"),
    ],
)
def test_a_plan_that_failed_the_gate_never_serves(bundle: Bundle, cache: Path, gpu: FakeGpu, said: str) -> None:
    _, report = build(bundle, cache, bindings=gpu.bindings)
    assert not report.passed
    assert said in "; ".join(report.reasons)
    choice = choose_backend(bundle, cache_dir=cache, bindings=gpu.bindings)
    assert choice.backend == "onnxruntime"
    assert "failed the parity gate" in choice.why
    with pytest.raises(EngineError, match="failed the parity gate"):
        open_engine(bundle, "tensorrt", cache_dir=cache, bindings=gpu.bindings)
    with pytest.raises(EngineError, match="failed the parity gate"):
        TensorRtEngine(bundle, cache, bindings=gpu.bindings)
    gpu.assert_released()


def test_a_bundle_sealed_again_needs_a_new_verdict(bundle: Bundle, cache: Path) -> None:
    """Same network, other thresholds: the plan is found, but it was approved with the old ones."""
    gpu = FakeGpu()
    build(bundle, cache, bindings=gpu.bindings)
    other = tiny_bundle(bundle.folder, thresholds=tiny_thresholds(seed=0.9))
    assert device_key(other, gpu.bindings) == device_key(bundle, gpu.bindings)
    with pytest.raises(EngineError, match="another version of the bundle"):
        open_engine(other, "tensorrt", cache_dir=cache, bindings=gpu.bindings)


def test_a_verdict_cannot_be_stored_for_a_plan_that_was_not_tested(bundle: Bundle, cache: Path) -> None:
    gpu = FakeGpu()
    key, report = build(bundle, cache, bindings=gpu.bindings)
    with pytest.raises(IntegrityError, match="another plan"):
        store_parity(cache, bundle, key, "0" * 64, report)


class Doctored:
    """An engine that answers like another one, but for a change to its tensors."""

    backend = "doctored"

    def __init__(self, engine: Engine, change) -> None:
        self.name, self.bundle, self._engine, self._change = engine.name, engine.bundle, engine, change

    def infer(self, batch: np.ndarray) -> Tensors:
        answer = self._engine.infer(batch)
        defect, types = answer.defect.copy(), answer.type.copy()
        self._change(defect, types)
        return Tensors(defect, types)

    def close(self) -> None:
        self._engine.close()


def _one_pixel(defect: np.ndarray, types: np.ndarray) -> None:
    defect[0, 0, 3, 3] = -defect[0, 0, 3, 3]


def _more_unknown(defect: np.ndarray, types: np.ndarray) -> None:
    types *= 0.02  # the same types win everywhere, by less


def _swap_types(defect: np.ndarray, types: np.ndarray) -> None:
    types[:, [0, 1]] = types[:, [1, 0]]


def _extra_region(defect: np.ndarray, types: np.ndarray) -> None:
    defect[0, 0, :8, :8] = -9.0
    defect[0, 0, 2:4, 2:4] = 9.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_one_pixel, "coverage differs"),
        (_more_unknown, "unknown regions instead of"),
        (_swap_types, "intersection over union"),
        (_extra_region, "regions instead of"),
    ],
)
def test_parity_finds_each_kind_of_difference(bundle: Bundle, change, said: str) -> None:
    reference = OnnxEngine(bundle)
    report = compare_engines(reference, Doctored(reference, change), synthetic_probes(bundle), ParityLimits())
    assert not report.passed
    assert said in "; ".join(report.reasons)


def test_parity_of_an_engine_with_itself_is_exact(bundle: Bundle) -> None:
    reference = OnnxEngine(bundle)
    strict = ParityLimits(max_coverage_diff=0.0, min_iou=1.0, max_disagreeing_pct=0.0)
    report = compare_engines(reference, OnnxEngine(bundle), synthetic_probes(bundle), strict)
    assert report.passed
    assert (report.max_coverage_diff, report.min_iou, report.disagreeing_pct) == (0.0, 1.0, 0.0)
    assert report.pictures == 3
    assert json.loads(json.dumps(report.to_json()))["limits"]["min_iou"] == 1.0


def test_parity_on_pictures_that_show_nothing_proves_nothing(bundle: Bundle) -> None:
    reference = OnnxEngine(bundle)
    dark = np.tile(np.linspace(10, 60, 64).astype(np.uint8), (64, 1))
    report = compare_engines(reference, reference, {"dark": dark}, ParityLimits())
    assert not report.passed
    assert report.regions == 0
    assert "saw no region" in report.reasons[0]


def test_parity_refuses_engines_of_different_bundles(bundle: Bundle, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", thresholds=tiny_thresholds(seed=0.9))
    with pytest.raises(EngineError, match="different bundles"):
        compare_engines(OnnxEngine(bundle), OnnxEngine(other), synthetic_probes(bundle), ParityLimits())


def test_probes_are_deterministic_and_reach_tiling_padding_and_both_bit_depths(bundle: Bundle) -> None:
    first, second = synthetic_probes(bundle), synthetic_probes(bundle)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    shapes = [pixels.shape for pixels in first.values()]
    assert shapes == [(64, 64), (37, 80), (8, 8)]
    assert {pixels.dtype for pixels in first.values()} == {np.dtype(np.uint8), np.dtype(np.uint16)}
    engine = OnnxEngine(bundle)
    assert [see(engine, pixels).refusals for pixels in first.values()] == [()] * 3


# -- the engine on the fake GPU ---------------------------------------------------------------------------------------


def test_tensorrt_sees_what_onnx_runtime_sees(bundle: Bundle, cache: Path) -> None:
    gpu = FakeGpu()
    build(bundle, cache, bindings=gpu.bindings)
    fast = open_engine(bundle, "tensorrt", cache_dir=cache, bindings=gpu.bindings)
    for pixels in synthetic_probes(bundle, sizes_px=((150, 170), (64, 200))).values():
        got, want = see(fast, pixels), see(OnnxEngine(bundle), pixels)
        assert np.mean(got.labels != want.labels) < 1e-3  # FP16 moves pixels that lie on a threshold
        assert [region.type for region in got.regions] == [region.type for region in want.regions]
        assert len(got.regions) >= 3
    fast.close()


def test_a_gpu_that_breaks_is_an_engine_error_and_close_still_works(
    bundle: Bundle, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpu = FakeGpu()
    build(bundle, cache, bindings=gpu.bindings)
    engine = TensorRtEngine(bundle, cache, bindings=gpu.bindings)
    tile = np.full((1, 2, 64, 64), 0.4, np.float32)
    engine.infer(tile)
    gpu.break_after = gpu.executions
    with pytest.raises(EngineError, match="illegal memory access") as caught:
        engine.infer(tile)
    assert caught.value.code == "CUDA"
    with caplog.at_level(logging.WARNING):
        engine.close()
        engine.close()
    assert len(caplog.records) == 1  # what cannot be released is said once
    assert "cannot be released" in caplog.text
    assert gpu.retained == 0
    assert gpu.contexts == []


def test_a_plan_that_tensorrt_refuses_leaves_nothing_behind(bundle: Bundle, cache: Path) -> None:
    gpu = FakeGpu()
    build(bundle, cache, bindings=gpu.bindings)
    gpu.version = "10.3.9"  # the libraries changed under the same reported version
    with pytest.raises(EngineError, match="refuses the plan"):
        TensorRtEngine(bundle, cache, bindings=gpu.bindings)
    gpu.assert_released()


def test_engine_works_from_another_thread_than_opened_it(bundle: Bundle, cache: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    gpu = FakeGpu()
    build(bundle, cache, bindings=gpu.bindings)
    engine = TensorRtEngine(bundle, cache, bindings=gpu.bindings)
    tiles = [np.full((1, 2, 64, 64), 0.3 + 0.05 * n, np.float32) for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(engine.infer, tiles))
    for n, answer in enumerate(answers):
        assert answer.defect[0, 0, 0, 0] == pytest.approx(60.0 * (0.3 + 0.05 * n - 0.5), abs=0.05)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(engine.close).result()
    gpu.assert_released()


PLANES = {"image": 2, "defect": 1, "type": 3}


class TestTheFakeItself:
    """A fake that forgives would prove nothing: each wrong use must be noticed."""

    @pytest.fixture
    def parts(self, bundle: Bundle, cache: Path) -> Iterator[tuple]:
        gpu = FakeGpu()
        key = build_plan(bundle, cache, bindings=gpu.bindings)
        trt, cuda = gpu.bindings.trt, gpu.bindings.cuda
        context = cuda.Device(0).retain_primary_context()
        context.push()
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        execution = runtime.deserialize_cuda_engine(key.path(cache, bundle).read_bytes()).create_execution_context()
        stream = cuda.Stream()
        host = {name: cuda.pagelocked_empty(64 * planes, np.float32) for name, planes in PLANES.items()}
        device = {name: cuda.mem_alloc(256 * planes) for name, planes in PLANES.items()}
        yield gpu, cuda, execution, stream, host, device
        context.pop()

    def run(self, parts: tuple, *, stream: bool = True) -> np.ndarray:
        _, cuda, execution, queue, host, device = parts
        for name, allocation in device.items():
            execution.set_tensor_address(name, int(allocation))
        execution.set_input_shape("image", (1, 2, 8, 8))
        host["image"][:] = 0.75
        cuda.memcpy_htod_async(device["image"], host["image"], queue)
        assert execution.execute_async_v3(queue.handle)
        cuda.memcpy_dtoh_async(host["defect"], device["defect"], queue)
        if stream:
            queue.synchronize()
        return host["defect"]

    def test_right_use_gives_the_answer(self, parts: tuple) -> None:
        assert self.run(parts) == pytest.approx(np.full(64, 15.0))

    def test_reading_before_the_stream_is_done_gives_nan(self, parts: tuple) -> None:
        assert np.isnan(self.run(parts, stream=False)).all()

    def test_device_memory_nobody_wrote_is_nan(self, parts: tuple) -> None:
        _, cuda, _, stream, host, device = parts
        cuda.memcpy_dtoh_async(host["defect"], device["defect"], stream)
        stream.synchronize()
        assert np.isnan(host["defect"]).all()

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda gpu, cuda, ex, stream, host, dev: cuda.memcpy_htod_async(
                dev["image"], np.zeros(128, np.float32), stream
            ),
            lambda gpu, cuda, ex, stream, host, dev: cuda.memcpy_htod_async(dev["defect"], host["image"], stream),
            lambda gpu, cuda, ex, stream, host, dev: cuda.memcpy_dtoh_async(host["type"][::2], dev["type"], stream),
            lambda gpu, cuda, ex, stream, host, dev: ex.execute_async_v3(stream.handle),
            lambda gpu, cuda, ex, stream, host, dev: ex.execute_async_v3(1),
            lambda gpu, cuda, ex, stream, host, dev: ex.set_input_shape("defect", (1, 1, 8, 8)),
            lambda gpu, cuda, ex, stream, host, dev: ex.set_tensor_address("image", dev["image"]),
            lambda gpu, cuda, ex, stream, host, dev: (dev["type"].free(), dev["type"].free()),
            lambda gpu, cuda, ex, stream, host, dev: gpu.assert_released(),
            lambda gpu, cuda, ex, stream, host, dev: gpu.bindings.trt.Runtime(None),
        ],
    )
    def test_wrong_use_is_refused(self, parts: tuple, wrong) -> None:
        with pytest.raises(Misuse):
            wrong(*parts)

    def test_freed_memory_under_an_address_is_refused(self, parts: tuple) -> None:
        gpu, *_, device = parts
        self.run(parts)
        address = int(device["type"])
        device["type"].free()
        with pytest.raises(Misuse, match="no live device memory"):
            gpu.at(address, 4)
        with pytest.raises(Misuse, match="no live device memory"):
            self.run(parts)

    def test_shape_outside_the_profile_is_answered_with_false(self, parts: tuple) -> None:
        execution = parts[2]
        assert execution.set_input_shape("image", (4, 2, 64, 64)) is True
        assert execution.set_input_shape("image", (5, 2, 64, 64)) is False

    def test_calls_without_a_context_are_refused(self) -> None:
        gpu = FakeGpu()
        with pytest.raises(Misuse, match="init"):
            gpu.bindings.cuda.Device(0)
        gpu.bindings.cuda.init()
        with pytest.raises(FakeCudaError):
            gpu.bindings.cuda.Device(1)
        for call in (gpu.bindings.cuda.Stream, lambda: gpu.bindings.cuda.mem_alloc(4)):
            with pytest.raises(Misuse, match="context"):
                call()


def test_plan_keys_are_values() -> None:
    shapes = ((1, 2, 8, 8), (1, 2, 64, 64), (4, 2, 64, 64))
    key = PlanKey("gpu", "8.7", "10.3.0", "12060", "0" * 64, "fp16", shapes)
    assert key == PlanKey(**{**key.parts(), "shapes": shapes})
    assert json.loads(json.dumps(key.parts()))["shapes"][2] == [4, 2, 64, 64]
