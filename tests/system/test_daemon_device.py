"""A device that is too hot, at the real daemon: not Ready by itself, and back by itself."""

from __future__ import annotations

import threading
from functools import partial
from importlib.resources import files
from pathlib import Path

import pytest

from edge_daemon import daemon as module
from edge_daemon.config import load_config
from edge_daemon.daemon import Daemon
from edge_daemon.device import DeviceWatch
from edge_daemon.images import write_png_atomic
from edge_daemon.simulator import conveyor_part
from edge_daemon.testing.rig import Rig, eventually

RECIPE = files("edge_daemon.demo").joinpath("recipe.toml").read_text()


@pytest.mark.slow
def test_a_device_that_is_too_hot_lets_nothing_through_until_it_is_cool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("41000\n")
    monkeypatch.setattr(module, "DeviceWatch", partial(DeviceWatch, root=tmp_path / "sys"))
    monkeypatch.setattr(module, "_HOUSEKEEPING_S", 0.1)
    write_png_atomic(tmp_path / "0.png", conveyor_part(985_000, "sound").pixels)
    with Rig(tmp_path / "station", [tmp_path / "0.png"], recipe=RECIPE, deadline_s=1.0, plc_deadline_s=1.2,
             settings={"watch": "max_temperature_c = 70", "camera": 'max_delay = "400 ms"'}) as rig:  # fmt: skip
        daemon = Daemon(load_config(rig.config_path))
        thread = threading.Thread(target=daemon.run)
        thread.start()
        try:
            with rig.plc() as plc:
                assert plc.wait_ready(20)
                assert plc.wait_decided(plc.trigger())
                (zone / "temp").write_text("70500\n")
                assert eventually(lambda: daemon._ready_reasons == ["DEVICE_HOT"])
                assert eventually(lambda: not plc.ready)
                assert not plc.wait_decided(plc.trigger())
                (zone / "temp").write_text("66000\n")
                assert plc.wait_ready(10)
                assert plc.wait_decided(plc.trigger())
        finally:
            daemon.stop()
            thread.join(25)
        assert not thread.is_alive()
