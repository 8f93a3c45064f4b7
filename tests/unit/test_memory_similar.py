"""Similar indications: exact nearest neighbours, whatever the cache looks like."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_daemon.errors import UsageError
from edge_daemon.memory import MemoryBank, Policy, contrasts_of
from edge_daemon.memory.indications import FEATURES, MOST_ROWS, detection_rows, features_of
from edge_daemon.records import Outcome, Record
from edge_daemon.tickets import new_record_id, utc_now

WORKING = {"size_px": [512, 512], "mm_per_px": [0.1, 0.1]}


def defect(type_: str = "crack", size_mm: float = 1.0, **other: Any) -> dict[str, Any]:
    return {
        "label": 1, "type": type_, "known": type_ != "unknown", "nearest_type": type_, "confidence": 0.9,
        "p_known": 0.5, "bbox_px": [5, 5, max(1, round(10 * size_mm)), 4], "area_mm2": 0.3 * size_mm,
        "area_u_mm2": 0.01, "feret_max_mm": size_mm, "feret_u_mm": 0.01, **other,
    }  # fmt: skip


def store(bank: MemoryBank, *defects: dict[str, Any], contrasts: tuple[float, ...] = ()) -> str:
    document = {"recipe": "r", "reasons": [], "defects": list(defects), "working": WORKING}
    record = Record(new_record_id(), 1, "cell-1", utc_now(), Outcome.FAIL, "FAIL", document)
    bank.store(record, contrasts=contrasts)
    return record.record_id


@pytest.fixture
def bank(tmp_path: Path) -> Any:
    with MemoryBank(tmp_path / "memory.db") as opened:
        yield opened


def random_defects(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    types = ("crack", "gas_hole", "cold_shut", "scratches", "unknown")
    return [
        defect(types[int(rng.integers(5))], float(np.exp(rng.normal())), confidence=float(rng.uniform()),
               runner_up=types[int(rng.integers(4))], alike=[])
        for _ in range(count)
    ]  # fmt: skip


def brute_force(bank: MemoryBank, record_id: str, position: int, limit: int) -> list[float]:
    """Distances from the vectors as they are stored, without any of the index."""
    rows = bank._db.query("SELECT number, position, features FROM detections")
    record = bank.get(record_id)
    assert record is not None
    vectors = {(number, at): np.frombuffer(raw, np.float16).astype(float) for number, at, raw in rows}
    wanted = vectors.pop((record.number, position))
    return sorted(float(np.linalg.norm(vector - wanted)) for vector in vectors.values())[:limit]


def test_the_nearest_are_exactly_the_nearest(bank: MemoryBank) -> None:
    ids = [store(bank, *random_defects(3, seed)) for seed in range(120)]
    for record_id, position in ((ids[0], 0), (ids[60], 2), (ids[119], 1)):
        found = bank.similar(record_id, position, limit=25)
        assert [one.distance for one in found] == pytest.approx(brute_force(bank, record_id, position, 25), abs=1e-9)
        assert all(one.record.number == one.indication.number for one in found)
        own = bank.get(record_id)
        assert own is not None
        assert (own.number, position) not in [(one.indication.number, one.indication.position) for one in found]


def test_what_is_alike_comes_before_what_is_not(bank: MemoryBank) -> None:
    asked = store(bank, defect("crack", 4.0), contrasts=(-0.2,))
    twin = store(bank, defect("crack", 4.1), contrasts=(-0.2,))
    faint = store(bank, defect("crack", 4.0), contrasts=(0.1,))
    small = store(bank, defect("crack", 1.2), contrasts=(-0.2,))
    other = store(bank, defect("gas_hole", 4.0), contrasts=(-0.2,))
    assert [one.record.record_id for one in bank.similar(asked)] == [twin, faint, small, other]
    assert [one.record.record_id for one in bank.similar(asked, defect_type="gas_hole")] == [other]
    assert bank.similar(asked, limit=0) == []
    new = bank.similar_to(defect("gas_hole", 3.9), {"defects": [], "working": WORKING}, contrast=-0.2, limit=1)
    assert new[0].record.record_id == other


def test_new_indications_are_found_and_removed_ones_are_not(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as then:
        then.setattr("edge_daemon.memory.journal.utc_now", lambda: "2001-01-01T00:00:00.000Z")
        old = [store(bank, *random_defects(4, seed)) for seed in range(30)]
    asked = store(bank, defect("crack", 2.0))
    near = store(bank, defect("crack", 2.0))
    assert bank.similar(asked, limit=1)[0].record.record_id == near
    later = store(bank, defect("crack", 2.0), defect("crack", 9.0))
    assert {one.record.record_id for one in bank.similar(asked, limit=2)} == {near, later}
    assert len(bank.similar(asked, limit=500)) == 124 - 1
    bank.clean(Policy(records_days=30), who="test")
    left = bank.similar(asked, limit=500)
    assert {one.record.record_id for one in left} == {near, later}
    assert not {one.record.record_id for one in left} & set(old)


@pytest.mark.parametrize("harm", ["gone", "cut short", "another bank's", "garbage", "empty"])
def test_the_cache_is_a_cache(bank: MemoryBank, tmp_path: Path, harm: str) -> None:
    ids = [store(bank, *random_defects(2, seed)) for seed in range(40)]
    cache = tmp_path / "memory.db-similar"
    expected = brute_force(bank, ids[7], 1, 10)
    bank.similar(ids[7], 1)
    assert cache.stat().st_size > 40 * 2 * 128
    if harm == "gone":
        cache.unlink()
    elif harm == "cut short":
        os.truncate(cache, cache.stat().st_size - 70)
    elif harm == "another bank's":
        with MemoryBank(tmp_path / "other.db") as other:
            other_id = store(other, *random_defects(5, 99))
            other.similar(other_id)
        (tmp_path / "other.db-similar").replace(cache)
    else:
        cache.write_bytes(b"\x17" * 50_000 * (harm == "garbage"))
    with MemoryBank(bank.path) as again:
        assert [one.distance for one in again.similar(ids[7], 1)] == pytest.approx(expected, abs=1e-9)


def test_a_reader_of_somebody_elses_bank_leaves_no_file(
    bank: MemoryBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [store(bank, *random_defects(2, seed)) for seed in range(40)]
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with MemoryBank(bank.path, read_only=True) as reader:
        found = reader.similar(ids[3], 0)
        assert [one.distance for one in found] == pytest.approx(brute_force(bank, ids[3], 0, 10), abs=1e-9)
        extra = store(bank, *random_defects(1, 0))
        assert reader.similar(extra, 0, limit=1)[0].distance == pytest.approx(brute_force(bank, extra, 0, 1)[0])
    assert not (tmp_path / "memory.db-similar").exists()


def test_what_is_not_there_is_named(bank: MemoryBank) -> None:
    record_id = store(bank, defect())
    with pytest.raises(UsageError, match="no record nobody"):
        bank.similar("nobody")
    with pytest.raises(UsageError, match="no indication 1"):
        bank.similar(record_id, 1)
    with pytest.raises(UsageError, match="scratchs"):
        bank.similar(record_id, defect_type="scratchs")


def test_a_picture_of_dust_makes_no_more_rows_than_the_line_can_bear() -> None:
    defects = [defect(size_mm=1 + n / 1000) for n in range(1000)]
    defects[3] = defect("unknown", 0.1)
    rows = detection_rows({"defects": defects, "working": WORKING})
    assert len(rows) == MOST_ROWS
    positions = [row[0] for row in rows]
    assert positions == sorted(positions)
    assert positions[0] == 3, "an unknown one is kept whatever its size"
    assert positions[1:] == list(range(1000 - MOST_ROWS + 1, 1000)), "then the largest"


def test_features_are_what_their_names_say() -> None:
    document = {"defects": [defect()], "working": WORKING}
    at = FEATURES.index
    one, two = (features_of(defect(size_mm=size), document) for size in (1.0, 2.0))
    assert two[at("size")] - one[at("size")] == pytest.approx(0.5), "half a unit per doubling"
    disc = features_of(defect(area_mm2=np.pi / 4, bbox_px=[0, 0, 10, 10]), document)
    assert disc[at("elongation")] == pytest.approx(0, abs=1e-3)
    assert disc[at("fill")] == pytest.approx(np.pi / 4, abs=1e-3)
    assert features_of(defect(bbox_px=[0, 0, 16, 4]), document)[at("aspect")] == 1.0
    assert features_of(defect(), document, -0.25)[at("contrast")] == -0.5
    crack, unknown = (features_of(defect(name), document) for name in ("crack", "unknown"))
    assert crack[at("type crack")] == 1.5
    assert unknown[at("type unknown")] == 1.5
    gas = features_of(defect("gas_hole"), document)
    assert np.linalg.norm(crack.astype(float) - gas.astype(float)) == pytest.approx(1.5 * 2**0.5, abs=1e-3)
    assert np.isfinite(features_of({"type": "crack", "bbox_px": [0, 0, 0, 0]}, {})).all()


@pytest.mark.parametrize(("depth", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_contrast_is_a_share_of_full_scale(depth: int, dtype: Any) -> None:
    full = 2**depth - 1
    pixels = np.full((60, 60), full // 2, dtype)
    labels = np.zeros((60, 60), np.uint8)
    pixels[20:30, 20:30], labels[20:30, 20:30] = full // 4, 3
    pixels[40:45, 40:45], labels[40:45, 40:45] = full, 1
    dark, bright, nothing = contrasts_of(
        pixels, labels,
        [{"label": 3, "bbox_px": [20, 20, 10, 10]}, {"label": 1, "bbox_px": [40, 40, 5, 5]},
         {"label": 7, "bbox_px": [0, 0, 3, 3]}],
    )  # fmt: skip
    assert dark == pytest.approx(-0.25, abs=0.01)
    assert bright == pytest.approx(0.5, abs=0.01)
    assert nothing is None
    colour = contrasts_of(np.repeat(pixels[:, :, None], 3, axis=2), labels, [{"label": 3, "bbox_px": [20, 20, 10, 10]}])
    assert colour == [pytest.approx(dark)]


def test_the_file_is_not_left_to_grow(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once most of its rows are of records long gone, it is made anew."""
    monkeypatch.setattr("edge_daemon.memory.similar._PAGE", 10)
    with monkeypatch.context() as then:
        then.setattr("edge_daemon.memory.journal.utc_now", lambda: "2001-01-01T00:00:00.000Z")
        for seed in range(20):
            store(bank, *random_defects(4, seed))
    asked = store(bank, defect())
    bank.similar(asked)
    before = (tmp_path / "memory.db-similar").stat().st_size
    bank.clean(Policy(records_days=30), who="test")
    assert sqlite3.connect(bank.path).execute("SELECT indications FROM chain").fetchone() == (1,)
    bank.similar(asked)
    assert (tmp_path / "memory.db-similar").stat().st_size < before / 10
