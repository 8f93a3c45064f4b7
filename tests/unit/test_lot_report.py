"""The report of a lot: counts that add up, the worst first, intervals that are right, the same bytes every time."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_daemon.station.report.lot import lot_part, lot_report, ppk, wilson
from edge_daemon.station.report.markup import parse


def value(amount: float, permitted: float | None, outcome: str, *, decides: bool = True) -> dict[str, Any]:
    return {"value": amount, "u": 0.01, "limit": permitted, "permitted": permitted, "ratio": None, "p_conform": 0.5,
            "at_px": [0, 0], "budget": {}, "outcome": outcome, "decides": decides, "firm": True}  # fmt: skip


def record(index: int, outcome: str = "PASS", ratio: float | None = 0.5, **more: Any) -> dict[str, Any]:
    """A record of one type whose governing value is ``ratio`` times what is permitted (2 %)."""
    entry = {
        "type": "gas_hole", "outcome": outcome, "zone": None,
        "rule": {"kind": "AREA_PCT", "level": None, "tolerance": 0.0, "guard": 1.0},
        "windows": [{"side_mm": 10.0, "area_pct": value(2.0 * (ratio or 0.0), 2.0, outcome),
                     "count": value(99.0, 1.0, outcome, decides=False)}],
        "max_size_mm": value(0.0, None, outcome), "min_gap_mm": None, "severity": None,
    }  # fmt: skip
    return {
        "record_id": f"01a209b9-8a43-7b62-bd4f-{index:012x}", "part_id": index, "outcome": outcome, "advisory": False,
        "trigger_utc": f"2026-11-{1 + index // 24 % 28:02d}T{index % 24:02d}:00:00.000Z",
        "reasons": [] if outcome == "PASS" else [{"code": "LIMIT_EXCEEDED", "text": "t"}],
        "defects": [{"type": "gas_hole"}], "types": [] if ratio is None else [entry], "recipe": "housing",
        "engine": {"name": "castings-xray", "sha256": "ab" * 32}, **more,
    }  # fmt: skip


def words_of(documents: list[dict[str, Any]]) -> str:
    return parse(lot_report(documents, name="L-17").html()).words()


def test_counts_and_share_add_up() -> None:
    documents = [record(i) for i in range(90)] + [record(i, "FAIL", 3.0) for i in range(90, 97)]
    documents += [record(97, "INCONCLUSIVE", 1.0), record(98, "NOT_EVALUABLE", None), record(99, "NOT_EVALUABLE", None)]
    words = words_of(documents)
    low, high = wilson(90, 100)
    assert "90 of 100 passed" in words and "10 rejected." in words
    assert f"90.0 % passed (95 % interval {100 * low:.1f} – {100 * high:.1f} %)" in words
    assert "Limit exceeded (2)" in words, "why parts were not judged"


def test_the_ratio_is_the_deciding_one_and_none_permitted_is_infinite() -> None:
    assert lot_part(record(1, ratio=0.7)).ratio == pytest.approx(0.7), "the count is larger, but decides nothing"
    forbidden = record(2, "FAIL")
    forbidden["types"][0]["rule"]["kind"] = "NONE_PERMITTED"
    assert lot_part(forbidden).ratio == math.inf
    assert lot_part(record(3, ratio=None)).ratio is None


def test_the_worst_parts_come_first_and_unjudged_ones_have_no_place_among_them() -> None:
    documents = [record(1), record(2, "FAIL", 1.5), record(3, "FAIL", 4.25), record(4, "INCONCLUSIVE", 9.0),
                 record(5, "NOT_EVALUABLE", None)]  # fmt: skip
    table = words_of(documents).split("Worst parts")[1].split("Over time")[0]
    assert table.index("4.25") < table.index("1.50") < table.index("9.00")
    assert "000000000005" not in table and "000000000001" not in table


def test_advisory_withdrawn_and_unknown_are_said_at_the_head() -> None:
    notice = [{"code": "CERTIFICATE_WITHDRAWN", "text": "t"}]
    documents = [record(1, advisory=True), record(2, notices=notice), record(3, defects=[{"type": "unknown"}])]
    words = words_of(documents)
    assert "1 of 3 results are advisory" in words
    assert "1 parts were judged after the engine's certificate had been withdrawn" in words
    assert "1 parts show a defect of a type the engine was not trained on" in words


def test_the_same_records_in_any_order_give_the_same_bytes() -> None:
    documents = [record(i, ratio=0.1 + i / 100) for i in range(50)]
    shuffled = documents[:]
    random.Random(4).shuffle(shuffled)
    one, two = lot_report(documents), lot_report(shuffled)
    assert one.html() == two.html()
    assert one.pdf("letter") == two.pdf("letter")
    assert lot_report([record(0), *documents[1:]]).html() != one.html()


@pytest.mark.parametrize(
    ("good", "of", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (8, 10, 0.4902, 0.9433)],
)
def test_wilsons_interval_against_published_values(good: int, of: int, low: float, high: float) -> None:
    assert wilson(good, of) == pytest.approx((low, high), abs=1e-4)


def test_ppk_by_quantiles_of_a_normal_process_is_its_distance_over_three_sigma() -> None:
    generator = random.Random(7)
    ratios = [generator.gauss(0.4, 0.1) for _ in range(60_000)]
    assert ppk(ratios) == pytest.approx((1.0 - 0.4) / 0.3, rel=0.05)
    assert ppk(ratios[:999]) is None, "too few for that quantile"
    assert ppk([0.5] * 2000) is None
    assert ppk([0.5] * 1500 + [math.inf] * 10) is None


def test_a_year_of_parts_makes_a_chart_of_few_periods() -> None:
    documents = [record(i, trigger_utc=f"2026-{1 + i % 12:02d}-{1 + i % 28:02d}T08:00:00.000Z") for i in range(400)]
    rows = parse(lot_report(documents).html()).words().split("95 % quantile")[1]
    assert rows.count("%") <= 3 * 60


def test_a_lot_of_a_folder_on_the_command_line(tmp_path: Path) -> None:
    import json

    for index in range(3):
        folder = tmp_path / "results" / f"part-{index}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(record(index)))
    command = [sys.executable, "-m", "edge_daemon", "report", "lot", tmp_path / "results", "--name", "../L 1",
               "--out", tmp_path / "out", "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["records"] == 3
    assert Path(said["pdf"]).parent == tmp_path / "out", "a name is no path"
    assert Path(said["pdf"]).read_bytes().startswith(b"%PDF")
    empty = subprocess.run([*command[:5], tmp_path, "--out", tmp_path], capture_output=True, text=True, check=False)
    assert empty.returncode == 2
    assert "no record in this lot" in empty.stderr
