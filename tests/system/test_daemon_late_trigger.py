"""A trigger that the wire or the PLC holds up, at the real daemon: no part passes by another part's frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from edge_daemon.images import write_png_atomic
from edge_daemon.memory import MemoryBank
from edge_daemon.simulator import conveyor_part
from edge_daemon.testing.rig import Rig
from edge_daemon.testing.virtual_plc import VirtualPlc

RECIPE = files("edge_daemon.demo").joinpath("recipe.toml").read_text()
INTERVAL_S = 0.4
CRACKED = {2, 14}
#: Each cracked part's trigger comes after the frame of the part behind it, whose own trigger comes later still: the
#: frame after that one, of a sound part, is the only one that part 2 could be given, and nothing shows it in time.
HELD_UP_S = {2: 0.7, 3: 0.55, 4: 0.35, 5: 0.1, 14: 0.7, 15: 0.55, 16: 0.35, 17: 0.1}
PARTS = 24


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    frames = []
    for part_id in range(1, PARTS + 1):
        frames.append(tmp_path / f"{part_id:02d}.png")
        write_png_atomic(
            frames[-1], conveyor_part(985_000 + part_id, "crack" if part_id in CRACKED else "sound").pixels
        )
    with Rig(tmp_path / "station", frames, recipe=RECIPE, deadline_s=1.5, plc_deadline_s=1.9,
             settings={"camera": 'max_delay = "200 ms"'}) as one:  # fmt: skip
        yield one


def run(rig: Rig, plc: VirtualPlc) -> None:
    """Each part is exposed at its time; its trigger goes out as late as the table says."""
    timers, start_s = [], time.monotonic()
    for part_id in range(1, PARTS + 1):
        time.sleep(max(0.0, start_s + part_id * INTERVAL_S - time.monotonic()))
        rig._exposer.trigger(part_id)
        timers.append(threading.Timer(HELD_UP_S.get(part_id, 0.0), plc.trigger, (part_id,)))
        timers[-1].start()
    for timer in timers:
        timer.join()
    time.sleep(2.0)  # the last deadline


@pytest.mark.slow
def test_a_withheld_trigger_lets_no_bad_part_through_and_the_line_is_soon_in_step_again(rig: Rig) -> None:
    rig.start_daemon()
    with rig.plc(on_trigger=None) as plc:
        assert plc.wait_ready(20)
        run(rig, plc)
        counts = plc.counts
    assert rig.stop_daemon() == 0
    assert not CRACKED & set(counts.let_through)
    with MemoryBank(rig.database, read_only=True) as bank:
        records = {record.part_id: record for record in bank.history(limit=100)}
    assert len(records) == PARTS
    assert not CRACKED & {part_id for part_id, record in records.items() if record.result == "PASS"}
    assert records[2].reasons == records[14].reasons == ("FRAME_LOST",)
    assert 1 in counts.let_through
    assert {12, 13} & set(counts.let_through), "in step again before the second time"
    assert {PARTS - 1, PARTS} & set(counts.let_through)
    assert len(rig.events("out_of_step")) == len(rig.events("in_step")) == 2
