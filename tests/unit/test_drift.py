"""The drift alarm: false alarms as rare as promised, a gain of ten per cent found soon, a withdrawal that lasts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_daemon.errors import ConfigError
from edge_daemon.segment.claim_watch import WITHDRAWN, ClaimWatch, require_claims
from edge_daemon.segment.drift import ALARM_LN, STATISTICS, DriftReference, DriftState, frame_scores
from edge_daemon.testing.certificate_study import drift_alarms
from edge_daemon.testing.engine_contract import tiny_bundle


def scores(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, len(STATISTICS))) + shift


def test_alarm_is_at_one_in_a_thousand() -> None:
    assert pytest.approx(math.log(1000)) == ALARM_LN


def test_exchangeable_frames_raise_no_alarm() -> None:
    """20 runs of 500 frames; the study has 400 of 2,500 and 10 of 100,000."""
    alarms, _ = drift_alarms(20, 500)
    assert alarms == 0


def test_a_long_run_raises_no_alarm_either() -> None:
    alarms, _ = drift_alarms(1, 6000, seed=11)
    assert alarms == 0


def test_a_gain_of_ten_per_cent_is_found_within_500_frames() -> None:
    alarms, took = drift_alarms(40, 500, gain=1.1)
    assert alarms == 40
    assert max(took) <= 100


def test_a_change_after_many_quiet_frames_is_found_as_well() -> None:
    state = DriftState(DriftReference.learn(STATISTICS, scores(600, 0)), seed=1)
    for frame in scores(3000, 1):
        state.update(frame)
    assert not state.alarmed
    shifted = scores(200, 2, shift=1.5)
    for frame in shifted:
        state.update(frame)
    assert state.alarmed


def test_ranks_of_exchangeable_frames_are_fair() -> None:
    """The martingale itself, averaged over many short runs, stays at or below 1."""
    ends = []
    for run in range(150):
        state = DriftState(DriftReference.learn(("only",), scores(200, 10 + run)[:, :1]), seed=run)
        for frame in scores(8, 5000 + run)[:, :1]:
            state.update(frame)
        ends.append(math.exp(state.log_martingale))
    assert np.mean(ends) <= 1.0 + 3 * np.std(ends) / math.sqrt(len(ends))


def test_state_is_pure_and_an_alarm_stays() -> None:
    reference = DriftReference.learn(STATISTICS, scores(300, 3))
    before = reference.counts.copy()
    one, two = DriftState(reference, seed=5), DriftState(reference, seed=5)
    frames = scores(50, 4, shift=4.0)
    assert [one.update(f) for f in frames] == [two.update(f) for f in frames]
    assert np.array_equal(reference.counts, before)
    assert one.alarmed
    for frame in scores(200, 6):
        one.update(frame)
    assert one.alarmed


def test_figures_that_cannot_be_computed_are_strange() -> None:
    state = DriftState(DriftReference.learn(STATISTICS, scores(300, 3)), seed=5)
    for _ in range(20):
        state.update(np.full(len(STATISTICS), np.nan))
    assert state.alarmed


def test_reference_survives_json_and_broken_ones_are_refused() -> None:
    reference = DriftReference.learn(STATISTICS, scores(300, 3))
    document = json.loads(json.dumps(reference.document()))
    again = DriftReference.from_document(document)
    assert again.names == reference.names
    assert np.array_equal(again.counts, reference.counts)
    assert np.allclose(again.scale, reference.scale)
    assert all(sorted(one["sorted_z_64ths"]) == one["sorted_z_64ths"] for one in document["figures"].values())
    with pytest.raises(ConfigError, match="too few"):
        DriftReference.learn(STATISTICS, scores(99, 0))
    with pytest.raises(ConfigError, match="not finite"):
        DriftReference.learn(STATISTICS, np.full((200, 5), np.nan))
    for change in ({"schema": 2}, {"figures": {}}, {"figures": {"level": {"centre": 0.0, "scale": -1.0}}}):
        with pytest.raises(ConfigError, match="drift scores cannot be used"):
            DriftReference.from_document({**document, **change})
    document["figures"]["level"]["sorted_z_64ths"] = [99_999] * 200
    with pytest.raises(ConfigError, match="level"):
        DriftReference.from_document(document)


def test_figures_of_a_frame() -> None:
    rng = np.random.default_rng(0)
    frame = np.clip(rng.normal(120, 4, (128, 128)), 0, 255).astype(np.uint8)
    coverage = np.full((128, 128), 0.01, np.float32)
    level, contrast, noise, detail, suspicion = frame_scores(frame, coverage)
    assert level == pytest.approx(120 / 255, abs=0.01)
    assert contrast == pytest.approx(2 * 1.2816 * 4 / 255, rel=0.15)
    assert noise == pytest.approx(6 * 4 * 0.657 / 255, rel=0.1)  # the mask's norm is 6
    assert detail == pytest.approx(6 * 4 / 255, rel=0.05)
    assert suspicion == pytest.approx(math.log(0.01 / 0.99), rel=1e-3)
    wide = frame_scores(frame.astype(np.uint16) * 257, coverage)
    assert np.allclose(wide, frame_scores(frame, coverage), rtol=1e-4)
    assert frame_scores(np.repeat(frame[..., None], 3, axis=2), None)[0] == pytest.approx(level)


# ---------------------------------------------------------------- the keeper


def certified(bundle: Any, drift: Any, points: Sequence[Any] = ()) -> Any:
    claims = {
        "schema": 1, "confidence": 0.95, "calibration_set": {"kind": "folder"}, "sentence": "s", "drift": drift,
        "bundle": {
            "model_sha256": bundle.model_sha256, "thresholds_sha256": bundle.manifest["files"]["thresholds.json"],
        },
        "operating_points": list(points),
        "default_point": {"seed": 0.8, "grow": 0.3, "min_region_px": 2, "parts": 1, "missed": 0, "recall_lower": 0.1,
                          "false_calls_per_image": None},
    }  # fmt: skip
    return SimpleNamespace(name="tiny", sha256=bundle.sha256, model_sha256=bundle.model_sha256,
                           manifest=bundle.manifest, certificate={"claims": claims})  # fmt: skip


def pictures(n: int, gain: float, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        np.clip(gain * rng.normal(110 * (1 + 0.03 * rng.normal()), 4, (48, 48)), 0, 255).astype(np.uint8)
        for _ in range(n)
    ]


COVERAGE = np.full((48, 48), 0.01, np.float32)


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    table = np.stack([frame_scores(one, COVERAGE * (1 + 0.1 * rng.random())) for one in pictures(300, 1.0, seed=2)])
    return DriftReference.learn(STATISTICS, table).document()


def run(watch: ClaimWatch, frames: list[np.ndarray]) -> int | None:
    rng = np.random.default_rng(7)
    for number, frame in enumerate(frames, start=1):
        coverage = (COVERAGE * (1 + 0.1 * rng.random())).astype(np.float32)
        if watch.update(frame, coverage, "2026-01-31T08:15:30.250Z"):
            return number
    return None


def test_the_keeper_withdraws_and_a_restart_does_not_bring_it_back(tmp_path: Path, reference: dict[str, Any]) -> None:
    bundle = certified(tiny_bundle(tmp_path / "b"), reference)
    marker = tmp_path / "withdrawn.json"
    watch = ClaimWatch(bundle, marker)
    assert (watch.valid, watch.notice(), watch.why_off) == (True, None, "")
    assert run(watch, pictures(200, 1.0)) is None
    assert watch.valid and watch.log_martingale is not None and watch.log_martingale < ALARM_LN
    assert run(watch, pictures(500, 1.1)) is not None
    notice = watch.notice()
    assert watch.valid is False and notice is not None and notice.code == WITHDRAWN
    assert "2026-01-31" in notice.text
    again = ClaimWatch(bundle, marker)
    assert again.valid is False and again.notice() == notice
    other = certified(tiny_bundle(tmp_path / "b"), reference)
    other.sha256 = "f" * 64
    assert ClaimWatch(other, marker).valid is True, "another bundle was certified anew"


def test_a_marker_that_cannot_be_read_is_a_withdrawal(tmp_path: Path, reference: dict[str, Any]) -> None:
    marker = tmp_path / "withdrawn.json"
    marker.write_text("not JSON")
    watch = ClaimWatch(certified(tiny_bundle(tmp_path / "b"), reference), marker)
    assert watch.valid is False
    assert "cannot be told" in watch.notice().text


def test_trouble_with_a_frame_withdraws_and_raises_nothing(tmp_path: Path, reference: dict[str, Any]) -> None:
    watch = ClaimWatch(certified(tiny_bundle(tmp_path / "b"), reference), tmp_path / "withdrawn.json")
    watch.look(np.zeros((0, 0), np.uint8), COVERAGE, "now")
    assert watch.valid is False and "could not be computed" in watch.notice().text
    unkept = ClaimWatch(certified(tiny_bundle(tmp_path / "c"), reference), tmp_path / "no" / "folder.json")
    unkept.look(np.zeros((0, 0), np.uint8), COVERAGE, "now")
    assert unkept.valid is False


def test_without_claims_or_scores_it_is_off_and_says_so(tmp_path: Path, reference: dict[str, Any]) -> None:
    plain = tiny_bundle(tmp_path / "b")
    for bundle, why in (
        (plain, "never certified"),
        (certified(plain, None), "no drift scores"),
        (certified(plain, {"schema": 9}), "cannot be used"),
    ):
        watch = ClaimWatch(bundle)
        assert (watch.valid, watch.log_martingale, watch.notice()) == (None, None, None)
        assert why in watch.why_off
        assert not watch.update(pictures(1, 1.0)[0], COVERAGE, "now")
        with pytest.raises(ConfigError, match="require_certificate"):
            require_claims(bundle, "line.toml: [station]")
    require_claims(certified(plain, reference), "line.toml: [station]")


def test_frames_nobody_looked_at_say_nothing(tmp_path: Path, reference: dict[str, Any]) -> None:
    watch = ClaimWatch(certified(tiny_bundle(tmp_path / "b"), reference))
    before = watch.log_martingale
    watch.look(pictures(1, 3.0)[0], None, "now")
    assert watch.log_martingale == before
