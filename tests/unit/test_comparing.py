"""``judge`` on label images: part against reference, with truths derived by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edge_daemon.comparing import judge_labels
from edge_daemon.judge import Scale

S = Scale(0.1, 0.1)


def _image(*blocks: tuple[int, int, int, int, int], shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    for label, x, y, w, h in blocks:
        labels[y : y + h, x : x + w] = label
    return labels


def test_the_same_image_passes_with_ratio_one() -> None:
    part = _image((1, 10, 10, 5, 5), (3, 40, 20, 2, 8))
    answer = judge_labels(part, S, part, S, windows_mm=(1.0, 3.0))
    assert answer["outcome"] == "PASS"
    assert [one["label"] for one in answer["types"]] == [1, 3]
    for one in answer["types"]:
        assert one["max_size_mm"]["ratio"] == pytest.approx(1.0)
        assert [window["side_px"] for window in one["windows"]] == [10, 30]


def test_one_concentrated_window_fails_although_the_total_is_smaller() -> None:
    reference = _image((1, 0, 0, 4, 4), (1, 40, 0, 4, 4), (1, 0, 40, 4, 4), (1, 40, 40, 4, 4))
    part = _image((1, 20, 20, 4, 4), (1, 25, 20, 4, 4))
    answer = judge_labels(part, S, reference, S, windows_mm=(1.0,))
    (one,) = answer["types"]
    assert answer["outcome"] == "FAIL"
    # Nine columns hold both blocks of the part: 32 of 100 pixels; the reference never shows more than one block.
    assert one["windows"][0]["area_pct"]["value"] == pytest.approx(32.0)
    assert one["windows"][0]["area_pct"]["limit"] == pytest.approx(16.0)
    assert one["windows"][0]["area_pct"]["at_px"] == [19, 14]


def test_a_type_absent_from_the_reference_fails_with_ratio_null() -> None:
    answer = judge_labels(_image((2, 5, 5, 1, 1)), S, _image((1, 5, 5, 3, 3)), S, windows_mm=(1.0,))
    by_label = {one["label"]: one for one in answer["types"]}
    assert answer["outcome"] == "FAIL"
    assert by_label[1]["outcome"] == "PASS"
    assert by_label[2]["outcome"] == "FAIL"
    assert by_label[2]["max_size_mm"] == {
        "value": pytest.approx(np.sqrt(2) / 10), "u": 0.0, "limit": 0.0, "ratio": None, "at_px": [5, 5],
        "permitted": 0.0, "p_conform": 0.0, "budget": {}, "outcome": "FAIL", "decides": True, "firm": True,
    }  # fmt: skip


@pytest.mark.parametrize("reference", [_image(), _image((255, 5, 5, 3, 3)), _image((1, 5, 5, 3, 3))])
def test_an_unknown_mark_is_never_pass_whatever_the_reference_shows(reference: np.ndarray) -> None:
    answer = judge_labels(_image((255, 5, 5, 1, 1)), S, reference, S, windows_mm=(1.0,))
    assert answer["outcome"] == "INCONCLUSIVE"
    assert answer["result"] == "FAIL"
    assert {one["label"] for one in answer["types"]} >= {255}
    assert any(reason["text"] == "I was not trained on this type of defect" for reason in answer["reasons"])


def test_nothing_against_nothing_passes() -> None:
    answer = judge_labels(_image(), S, _image(), S, windows_mm=(1.0,))
    assert (answer["result"], answer["types"]) == ("PASS", [])


def test_tolerance_and_uncertainty_decide_as_the_guard_band_says() -> None:
    part, reference = _image((1, 10, 10, 10, 11)), _image((1, 10, 10, 10, 10))
    assert judge_labels(part, S, reference, S, windows_mm=(3.0,), guard=0.0)["outcome"] == "FAIL"
    assert judge_labels(part, S, reference, S, windows_mm=(3.0,), guard=0.0, tolerance=0.2)["outcome"] == "PASS"
    unsure = Scale(0.1, 0.1, 0.005)  # 5 %: area U is 20 %, far more than the ten per cent between value and limit
    assert judge_labels(part, unsure, reference, S, windows_mm=(3.0,), guard=1.0)["outcome"] == "INCONCLUSIVE"


def test_a_finer_part_is_compared_at_the_reference_scale() -> None:
    coarse = _image((1, 4, 4, 3, 3), shape=(20, 20))
    fine = np.kron(coarse, np.ones((4, 4), np.uint8))
    answer = judge_labels(fine, Scale(0.1, 0.1), coarse, Scale(0.4, 0.4), windows_mm=(2.0,))
    (one,) = answer["types"]
    assert answer["outcome"] == "PASS"
    assert one["windows"][0]["area_pct"]["value"] == pytest.approx(100 * 9 / 25)
    assert one["max_size_mm"]["ratio"] == pytest.approx(1.0)
