"""Temperature and slowing down, from trees as a Raspberry Pi, a Jetson and a PC have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_daemon.device import DeviceWatch, read_device


def tree(root: Path, **files: object) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


PI = {
    "class/thermal/thermal_zone0/type": "cpu-thermal",
    "class/thermal/thermal_zone0/temp": 61200,
    "class/thermal/cooling_device0/type": "pwm-fan",
    "class/thermal/cooling_device0/cur_state": 4,
    "devices/platform/soc/soc:firmware/get_throttled": "50000",
}
JETSON = {
    "class/thermal/thermal_zone0/type": "cpu-thermal",
    "class/thermal/thermal_zone0/temp": 48500,
    "class/thermal/thermal_zone1/type": "gpu-thermal",
    "class/thermal/thermal_zone1/temp": 52250,
    "class/thermal/thermal_zone2/type": "cv0-thermal",
    "class/thermal/thermal_zone2/temp": -256000,
    "class/thermal/thermal_zone3/type": "broken",
    "class/thermal/thermal_zone3/temp": "",
    "class/hwmon/hwmon3/oc3_event_cnt": 17,
}
PC = {
    "class/hwmon/hwmon0/name": "coretemp",
    "class/hwmon/hwmon0/temp1_input": 44000,
    "class/hwmon/hwmon0/temp2_input": 47000,
    "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": 3,
}


@pytest.mark.parametrize(
    ("files", "celsius", "sensor"), [(PI, 61.2, "cpu-thermal"), (JETSON, 52.25, "gpu-thermal"), (PC, 47.0, "coretemp")]
)
def test_the_hottest_sensor_that_makes_sense(
    tmp_path: Path, files: dict[str, object], celsius: float, sensor: str
) -> None:
    state = read_device(tree(tmp_path, **files))
    assert (state.temperature_c, state.sensor, state.slowed) == (celsius, sensor, ())


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    state = read_device(tmp_path)
    assert (state.temperature_c, state.sensor, state.slowed, state.events) == (None, "", (), ())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"devices/platform/soc/soc:firmware/get_throttled": "50005"}, ["too low a voltage", "throttled"]),
        ({"devices/platform/soc/soc:firmware/get_throttled": "0x8"}, ["temperature limit"]),
        (
            {"class/thermal/cooling_device1/type": "cpufreq-cpu0", "class/thermal/cooling_device1/cur_state": 2},
            ["clock"],
        ),
        ({"class/thermal/cooling_device1/type": "Processor", "class/thermal/cooling_device1/cur_state": 1}, ["clock"]),
    ],
)
def test_slowed_down_now(tmp_path: Path, files: dict[str, object], said: list[str]) -> None:
    found = read_device(tree(tmp_path, **{**PI, **files})).slowed
    assert len(found) == len(said)
    assert all(word in text for word, text in zip(said, found, strict=True))


@pytest.mark.parametrize("files", [JETSON, PC])
def test_a_counter_that_rises_is_an_event_and_its_first_reading_is_none(
    tmp_path: Path, files: dict[str, object]
) -> None:
    tree(tmp_path, **files)
    watch = DeviceWatch(None, stop_when_slowed=True, root=tmp_path)
    counter = next(name for name in files if "count" in name or "cnt" in name)
    seen = []
    for count in (17, 17, 18, 18, 3):  # and begins anew
        tree(tmp_path, **{counter: count})
        watch.look()
        seen.append(watch.trouble)
    assert seen == ["", "", "DEVICE_SLOWED", "", ""]


def test_too_hot_is_said_once_and_is_over_only_well_below_the_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    watch = DeviceWatch(80.0, stop_when_slowed=False, root=tmp_path)
    tree(tmp_path, **PI)
    seen = []
    for celsius in (79.9, 80.1, 85.0, 79.0, 78.0, 76.9, 79.9):
        tree(tmp_path, **{"class/thermal/thermal_zone0/temp": round(1000 * celsius)})
        watch.look()
        seen.append(watch.trouble)
    assert seen == ["", *["DEVICE_HOT"] * 4, "", ""]
    events = [getattr(record, "fields", {}).get("event") for record in caplog.records]
    assert events == ["device_hot", "device_cool"]


def test_with_a_limit_a_sensor_that_is_gone_is_trouble(tmp_path: Path) -> None:
    watch = DeviceWatch(80.0, stop_when_slowed=False, root=tmp_path)
    watch.look()
    assert watch.trouble == "TEMPERATURE_UNKNOWN"
    tree(tmp_path, **PI)
    watch.look()
    assert watch.trouble == ""
    unlimited = DeviceWatch(None, stop_when_slowed=False, root=tmp_path / "nothing")
    unlimited.look()
    assert unlimited.trouble == ""


def test_slowing_down_stops_the_line_only_where_that_was_asked_for(tmp_path: Path) -> None:
    tree(tmp_path, **{**PI, "devices/platform/soc/soc:firmware/get_throttled": "4"})
    for stop, trouble in ((True, "DEVICE_SLOWED"), (False, "")):
        watch = DeviceWatch(None, stop_when_slowed=stop, root=tmp_path)
        watch.look()
        assert (watch.slowed, watch.trouble) == (True, trouble)
