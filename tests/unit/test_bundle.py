"""The sealed bundle: what was verified is what runs, and one changed byte anywhere is found."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_daemon.errors import ConfigError, IntegrityError, StorageError
from edge_daemon.segment import bundle as bundles
from edge_daemon.segment.bundle import FILES, MANIFEST, load, seal
from edge_daemon.segment.onnx_bytes import NotOnnxError, external_tensors
from edge_daemon.segment.sealed import open_document, seal_document, sha256_hex, write_atomically
from edge_daemon.testing.engine_contract import (
    TINY_TYPES,
    tiny_bundle,
    tiny_manifest,
    tiny_model,
    tiny_thresholds,
    write_tiny_files,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_what_was_sealed_is_what_is_loaded(folder: Path) -> None:
    bundle = load(folder)
    assert bundle.name == "tiny"
    assert bundle.types == TINY_TYPES
    assert bundle.input.views == ("grey", "local")
    assert (bundle.input.tile_px, bundle.input.overlap_px, bundle.input.multiple_of_px) == (64, 16, 8)
    assert bundle.thresholds.seed == 0.8
    assert bundle.thresholds.known_scores["crack"][1] == 0.002
    assert bundle.qualified.mm_per_px == (0.05, 0.5)
    assert bundle.qualified.bits == (8, 16)
    assert bundle.model_bytes == (folder / "model.onnx").read_bytes()
    assert bundle.sha256 == sha256_hex((folder / MANIFEST).read_bytes())
    assert bundle.model_sha256 == sha256_hex(bundle.model_bytes)
    assert json.loads((folder / MANIFEST).read_text())["files"] == {
        name: sha256_hex((folder / name).read_bytes()) for name in FILES
    }


def test_seal_is_reproducible_and_returns_the_hash(folder: Path) -> None:
    before = (folder / MANIFEST).read_bytes()
    assert seal(folder, tiny_manifest()) == sha256_hex(before)
    assert (folder / MANIFEST).read_bytes() == before


def test_every_changed_byte_of_every_file_is_found(folder: Path) -> None:
    """All bytes of the manifest, some of each other file: flipped, the bundle is refused, and the file is named."""
    for name in (MANIFEST, *FILES):
        path = folder / name
        good = path.read_bytes()
        step = 1 if name == MANIFEST else max(1, len(good) // 40)
        for at in range(0, len(good), step):
            bad = bytearray(good)
            bad[at] ^= 0x20 if at % 2 else 0x01
            path.write_bytes(bytes(bad))
            with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
                load(folder)
        path.write_bytes(good)
    assert load(folder).name == "tiny"


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_truncated_appended_missing_and_linked_files_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    path = folder / name
    good = path.read_bytes()
    for bad in (good[:-1], good + b"\n", b""):
        path.write_bytes(bad)
        with pytest.raises(IntegrityError, match=name):
            load(folder)
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        load(folder)
    (tmp_path / "elsewhere").write_bytes(good)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match=name):
        load(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(IntegrityError, match=f"{name} is not a plain file"):
        load(folder)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(IntegrityError, match=f"{name} is not a plain file"):
        load(folder)


@pytest.mark.parametrize("extra", ["model.plan", ".hidden", "notes.txt"])
def test_extra_files_are_refused(folder: Path, extra: str) -> None:
    (folder / extra).write_bytes(b"x")
    with pytest.raises(IntegrityError, match=f"{extra} does not belong"):
        load(folder)
    with pytest.raises(IntegrityError, match=f"{extra} does not belong"):
        seal(folder, tiny_manifest())


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "sub/card.md", "model.plan"])
def test_listed_names_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    document = open_document((folder / MANIFEST).read_bytes(), "")
    document["files"][name] = sha256_hex(b"")
    (folder / MANIFEST).write_bytes(seal_document(document, ""))
    with pytest.raises(IntegrityError, match="lists"):
        load(folder)


def test_a_resealed_bundle_is_another_bundle_for_a_recipe_that_pins_it(folder: Path) -> None:
    pinned = load(folder).sha256
    assert load(folder, expect_sha256=pinned).sha256 == pinned
    (folder / "thresholds.json").write_text(json.dumps(tiny_thresholds(seed=0.9)))
    seal(folder, tiny_manifest())
    assert load(folder).thresholds.seed == 0.9
    with pytest.raises(IntegrityError, match="pinned"):
        load(folder, expect_sha256=pinned)


def test_the_bytes_that_were_hashed_are_the_bytes_handed_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model swapped right after hashing changes nothing: the file is opened exactly once."""
    good = (folder / "model.onnx").read_bytes()
    check = bundles._check_hashes

    def check_then_swap(*arguments: object) -> None:
        check(*arguments)  # type: ignore[arg-type]
        (folder / "model.onnx").write_bytes(tiny_model(gain=-60.0))

    monkeypatch.setattr(bundles, "_check_hashes", check_then_swap)
    assert load(folder).model_bytes == good


def test_missing_folder_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="file"):
        load(tmp_path / "file")


def _edit(document: dict, path: str, value: object) -> dict:
    *parents, last = path.split(".")
    target = document
    for key in parents:
        target = target[key]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return document


BAD_MANIFEST = [
    ("schema", 2), ("schema", "1"), ("schema", True), ("schema", KeyError), ("name", "../x"), ("name", "Tiny"),
    ("name", 3), ("version", ""), ("licence", KeyError), ("types", []), ("types", ["gas_hole", "gas_hole"]),
    ("types", ["gas_hole", "bubble"]), ("types", "crack"), ("types", [1]), ("input.name", None),
    ("input.views", ["grey", "depth"]), ("input.views", []), ("input.views", ["grey", "grey"]),
    ("input.local_sigma_px", 0), ("input.local_sigma_px", "12"), ("input.tile_px", 60), ("input.tile_px", 64.0),
    ("input.tile_px", 0), ("input.overlap_px", 4), ("input.overlap_px", 40), ("input.overlap_px", -8),
    ("input.multiple_of_px", 0), ("input.extra", 1), ("output.type", KeyError), ("qualified.mm_per_px", [0.5, 0.05]),
    ("qualified.mm_per_px", [0.1]), ("qualified.mm_per_px", [0, 1]), ("qualified.polarity", "bright"),
    ("qualified.bits", [12]), ("qualified.bits", []), ("qualified", None), ("input", [1]), ("surplus", 1),
    ("trained_on", KeyError), ("software", {}), ("files", {}), ("seal", "x"), ("licence", object()),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD_MANIFEST)
def test_bad_manifest_is_refused_before_anything_is_written(tmp_path: Path, key: str, value: object) -> None:
    write_tiny_files(tmp_path, model=tiny_model(), thresholds=tiny_thresholds(), types=TINY_TYPES)
    with pytest.raises(
        ConfigError, match=key.rpartition(".")[2] if value.__class__ is not object else "JSON"
    ) as caught:
        seal(tmp_path, _edit(tiny_manifest(), key, value))
    assert "manifest.json" in caught.value.message or "labels.json" in caught.value.message
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


BAD_THRESHOLDS = [
    ("temperature", 0), ("temperature", KeyError), ("bias", float("1e9")), ("seed", 1.0), ("seed", 0), ("grow", 0.9),
    ("grow", 0), ("min_region_px", 0), ("min_region_px", 2.5), ("unknown_alpha", 0), ("unknown_alpha", 1),
    ("known_scores", []), ("known_scores.crack", [0.2, 0.1]), ("known_scores.crack", [1.5]),
    ("known_scores.crack", ["0.1"]), ("known_scores.scratches", [0.1]), ("gate", None), ("gate.min_contrast", 2),
    ("gate.max_clipped_pct", -1), ("gate.focus", 1), ("threshold", 0.5), ("temperature", True),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD_THRESHOLDS)
def test_bad_thresholds_are_refused(tmp_path: Path, key: str, value: object) -> None:
    write_tiny_files(tmp_path, model=tiny_model(), thresholds=_edit(tiny_thresholds(), key, value), types=TINY_TYPES)
    with pytest.raises(ConfigError, match=r"thresholds\.json.*" + key.rpartition(".")[2]):
        seal(tmp_path, tiny_manifest())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("labels.json", b'{"types": ["crack"]}', "labels.json"),
        ("labels.json", b"[]", "not a JSON object"),
        ("thresholds.json", b'{"seed": NaN}', "not JSON"),
        ("thresholds.json", b'{"seed": 0.5, "seed": 0.6}', "twice"),
        ("certificate.json", b"{", "certificate.json is not JSON"),
        ("certificate.json", b"\xff", "certificate.json is not JSON"),
        ("certificate.json", b"[" * 100_000, "certificate.json is not JSON"),
        ("card.md", b"  \n", "card.md is empty"),
        ("card.md", b"\xff\xfe", "not UTF-8"),
        ("model.onnx", b"", "no ONNX model"),
        ("model.onnx", b"\x00" * 64, "no ONNX model"),
        ("model.onnx", b"PK\x03\x04 not a model", "no ONNX model"),
    ],
)
def test_bad_content_is_refused_by_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    write_tiny_files(tmp_path, model=tiny_model(), thresholds=tiny_thresholds(), types=TINY_TYPES)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        seal(tmp_path, tiny_manifest())
    assert not (tmp_path / MANIFEST).exists()


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    """ONNX Runtime would read them from the working directory: bytes that nobody hashed."""
    model = onnx.load_from_string(tiny_model())
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    outside = (tmp_path / "m.onnx").read_bytes()
    assert set(external_tensors(outside)) == {"box", "box_bias", "nearest", "nearest_bias"}
    write_tiny_files(tmp_path / "b", model=outside, thresholds=tiny_thresholds(), types=TINY_TYPES)
    with pytest.raises(IntegrityError, match="another file"):
        seal(tmp_path / "b", tiny_manifest())


def test_external_weights_are_found_in_subgraphs_attributes_and_functions() -> None:
    def outside(name: str) -> onnx.TensorProto:
        tensor = numpy_helper.from_array(np.ones(2, np.float32), name)
        onnx.external_data_helper.set_external_data(tensor, location="w.bin")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        return tensor

    inner = helper.make_graph([], "inner", [], [], [outside("in_subgraph")])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=helper.make_graph([], "e", [], []))
    constant = helper.make_node("Constant", [], ["z"], value=outside("in_attribute"))
    body = helper.make_node("Constant", [], ["o"], value=outside("in_function"))
    function = helper.make_function("d", "f", [], ["o"], [body], [helper.make_opsetid("", 17)])
    model = helper.make_model(helper.make_graph([branch, constant], "g", [], []), functions=[function])
    model.graph.sparse_initializer.add().values.CopyFrom(outside("in_sparse"))
    assert set(external_tensors(model.SerializeToString())) == {
        "in_subgraph", "in_attribute", "in_function", "in_sparse",
    }  # fmt: skip
    assert external_tensors(tiny_model()) == []


def test_no_prefix_of_a_model_is_taken_for_a_model_with_other_weights() -> None:
    """Truncated anywhere, the bytes are refused as no model or found self-contained; the walk never fails otherwise."""
    model = tiny_model()
    outcomes = set()
    for length in range(len(model)):
        try:
            outcomes.add(len(external_tensors(model[:length])))
        except NotOnnxError:
            outcomes.add(-1)
    assert outcomes == {-1, 0}


def test_a_changed_seal_document_is_found_also_in_its_white_space() -> None:
    data = seal_document({"b": 1.5, "a": ["µ"]}, "x")
    assert open_document(data, "x") == {"a": ["µ"], "b": 1.5}
    for bad in (data.replace(b"  ", b" "), data + b" ", data.replace(b"1.5", b"1.50"), b"[]", b"{}", b"\xff"):
        with pytest.raises(IntegrityError, match="x"):
            open_document(bad, "x")


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_atomically(path, b"old")
    (tmp_path / ".manifest.json.part").mkdir()  # the new content cannot be written
    with pytest.raises(StorageError, match=r"manifest\.json"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_can_be_unknown_says_which_types_never_are(tmp_path: Path) -> None:
    scores = {"gas_hole": [0.1] * 8, "shrinkage_cavity": [0.1] * 9, "crack": [0.1] * 10}
    bundle = tiny_bundle(tmp_path, thresholds=tiny_thresholds(unknown_alpha=0.1, known_scores=scores))
    assert [bundle.thresholds.can_be_unknown(name) for name in TINY_TYPES] == [False, False, True]


def test_a_copied_bundle_is_the_same_bundle(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert load(tmp_path / "copy").sha256 == load(folder).sha256
