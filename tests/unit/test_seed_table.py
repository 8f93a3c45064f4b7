"""Engines of several seeds side by side: the figures of their certificates, and only where they can be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_daemon.segment.bundle import seal
from edge_daemon.testing.engine_contract import tiny_bundle, tiny_manifest
from edge_daemon.testing.seed_table import main


def bundle(folder: Path, seed: int, iou: float, pictures: int = 40) -> Path:
    tiny_bundle(folder)
    types = json.loads((folder / "labels.json").read_text(encoding="utf-8"))["types"]
    certificate = {
        "what": "figures", "pictures": pictures, "parts": 20, "seed": seed, "steps": 100, "type_iou_mean": iou,
        "types": {types[0]: {"iou": iou, "found": {"value": 0.9}}, types[1]: {"iou": 0.0, "found": {"value": 1.0}}},
    }  # fmt: skip
    (folder / "certificate.json").write_text(json.dumps(certificate), encoding="utf-8")
    seal(folder, tiny_manifest())
    return folder


def test_mean_and_worst_of_each_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three = [bundle(tmp_path / str(seed), seed, iou) for seed, iou in ((1, 0.7), (2, 0.8), (3, 0.6))]
    assert main([str(one) for one in three]) == 0
    table = capsys.readouterr().out
    assert "40 pictures of 20 parts" in table
    assert "| figure | seed 1, 100 steps | seed 2, 100 steps | seed 3, 100 steps | mean | worst |" in table
    assert "| IoU, mean of types with masks | 0.700 | 0.800 | 0.600 | 0.700 | 0.600 |" in table
    assert sum("| 0.000 |" in line for line in table.splitlines()) == 0, "nobody drew masks of that type"


def test_figures_of_other_pictures_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = [bundle(tmp_path / "a", 1, 0.7), bundle(tmp_path / "b", 2, 0.7, pictures=41)]
    assert main([str(one) for one in two]) == 2
    assert "not measured on the same pictures" in capsys.readouterr().err
