"""The golden part at the real daemon: taken over by a person, judged by everything, and nothing passes without it."""

from __future__ import annotations

import re
import signal
from importlib.resources import files
from pathlib import Path

import pytest

from edge_daemon.check import _engine, _try
from edge_daemon.config import load_config
from edge_daemon.errors import UnavailableError
from edge_daemon.images import write_png_atomic
from edge_daemon.simulator import conveyor_part
from edge_daemon.testing.rig import Rig, eventually

RECIPE = files("edge_daemon.demo").joinpath("recipe.toml").read_text()


@pytest.mark.slow
def test_a_line_runs_only_while_its_golden_part_is_rejected_as_it_was(tmp_path: Path) -> None:
    sound, cracked = tmp_path / "sound.png", tmp_path / "golden.png"
    write_png_atomic(sound, conveyor_part(985_000, "sound").pixels)
    write_png_atomic(cracked, conveyor_part(985_001, "crack").pixels)
    table = f'\n[golden]\npicture = "{cracked}"\n'
    with Rig(tmp_path / "station", [sound], recipe=RECIPE + table, deadline_s=1.0, plc_deadline_s=1.2,
             settings={"watch": 'golden = "1 s"', "camera": 'max_delay = "400 ms"'}) as rig:  # fmt: skip
        recipe = rig.folder / "recipe.toml"
        # Nobody has said what is expected: the daemon does not start, and the check says which lines to write.
        with pytest.raises(UnavailableError, match="nothing says what this golden part must be rejected for"):
            rig.start_daemon()
        said = _try("recipe and engine", lambda: _engine(load_config(rig.config_path)))
        assert not said.ok
        found = re.search(r'expect = "(crack max_size_mm ([0-9.]+))", (sha256 = "[0-9a-f]{64}")', said.hint)
        assert found is not None
        expect, size_mm, sha256 = found[1], float(found[2]), found[3]

        # Taken over wrongly: it runs, and nothing passes.
        recipe.write_text(f'{RECIPE}{table}expect = "crack max_size_mm {size_mm / 2:.4g}"\n{sha256}\n')
        rig.start_daemon()
        assert eventually(lambda: bool(rig.events("golden_lost")))
        assert not rig.ready()
        assert rig.samples("edge_golden_part_held") == {'{station="demo"}': 0.0}
        with rig.plc() as plc:
            assert eventually(lambda: plc.heartbeat_age_s == float("inf"), 1.0)
            assert not plc.wait_decided(plc.trigger())

            # Put right, it is ready by itself; what lets the golden part through is not taken.
            recipe.write_text(f'{RECIPE}{table}expect = "{expect}"\n{sha256}\n')
            rig.signal_daemon(signal.SIGHUP)
            assert eventually(lambda: bool(rig.events("golden_back")))
            assert plc.wait_ready(10)
            assert plc.wait_decided(plc.trigger())
            assert rig.samples("edge_golden_part_held") == {'{station="demo"}': 1.0}
            assert rig.samples("edge_golden_part_measured")['{station="demo"}'] == pytest.approx(size_mm, rel=1e-3)
            lenient = RECIPE.replace('others = "NONE_PERMITTED"', 'others = "UNLIMITED"')
            recipe.write_text(f'{lenient}{table}expect = "{expect}"\n{sha256}\n')
            rig.signal_daemon(signal.SIGHUP)
            assert eventually(lambda: bool(rig.events("reload_refused")))
            assert "not rejected as a bad part: PASS" in rig.events("reload_refused")[0]["text"]
            assert plc.wait_decided(plc.trigger()), "the old recipe stays"
        assert len(rig.events("golden_lost")) == len(rig.events("golden_back")) == 1
        assert rig.stop_daemon() == 0
        recipe.write_text(f'{RECIPE}{table}expect = "{expect}"\n{sha256}\n')
        assert f"golden part rejected: {expect}" in _engine(load_config(rig.config_path))
