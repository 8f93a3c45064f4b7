"""How hot this device is, and whether it slows itself down; read from the kernel's files, of any Linux machine.

Temperature: the hottest of the thermal zones and, where there is none, of the hardware monitors. Slowed down: a
processor that the kernel cools by its clock, the firmware of a Raspberry Pi (heat or too low a voltage), the
over-current events of a Jetson, the throttle counters of x86. A machine that tells none of this is never slowed down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .logs import log

__all__ = ["DeviceState", "DeviceWatch", "read_device"]

_SANE_C = (-60.0, 150.0)  # a switched-off zone answers -256 C, a broken sensor anything
_COOLER_C = 3.0  # so much below the limit it must be before it counts as cool again
#: Bits of the Raspberry Pi's firmware that are true now; those from 16 on only say that it was so once.
_FIRMWARE_BITS = {0: "too low a voltage", 1: "clock capped", 2: "throttled", 3: "temperature limit"}


@dataclass(frozen=True, slots=True)
class DeviceState:
    """temperature_c: None where no sensor answers; sensor: the hottest one's name. slowed: why, by what is true now.
    events: counters of slowing down; each rise is one."""

    temperature_c: float | None
    sensor: str
    slowed: tuple[str, ...]
    events: tuple[tuple[str, int], ...]


def read_device(root: Path = Path("/sys")) -> DeviceState:
    """One look. root: where the kernel's files are. Raises nothing; what cannot be read is left out."""
    sensors = list(_zones(root)) or list(_monitors(root))
    hottest = max(sensors, default=None)
    return DeviceState(
        None if hottest is None else hottest[0],
        "" if hottest is None else hottest[1],
        tuple(_slowed(root)),
        tuple(_events(root)),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # a zone that is switched off, a counter that is root's
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _found(root: Path, pattern: str) -> list[Path]:
    try:
        return sorted(root.glob(pattern))
    except OSError:
        return []


def _celsius(path: Path, name: str) -> Iterator[tuple[float, str]]:
    milli = _number(path)
    if milli is not None and _SANE_C[0] <= milli / 1000 <= _SANE_C[1]:
        yield milli / 1000, name


def _zones(root: Path) -> Iterator[tuple[float, str]]:
    for zone in _found(root, "class/thermal/thermal_zone*"):
        yield from _celsius(zone / "temp", _text(zone / "type") or zone.name)


def _monitors(root: Path) -> Iterator[tuple[float, str]]:
    for one in _found(root, "class/hwmon/hwmon*/temp*_input"):
        yield from _celsius(one, _text(one.parent / "name") or one.parent.name)


def _slowed(root: Path) -> Iterator[str]:
    for device in _found(root, "class/thermal/cooling_device*"):
        kind = _text(device / "type")
        if ("cpufreq" in kind or "devfreq" in kind or kind == "Processor") and (_number(device / "cur_state") or 0) > 0:
            yield f"{kind} is cooled by its clock"
    for path in _found(root, "devices/platform/soc/*firmware/get_throttled"):
        try:
            bits = int(_text(path), 16)
        except ValueError:
            continue
        yield from (f"firmware: {text}" for bit, text in _FIRMWARE_BITS.items() if bits >> bit & 1)


def _events(root: Path) -> Iterator[tuple[str, int]]:
    patterns = ("class/hwmon/hwmon*/oc*_event_cnt", "devices/system/cpu/cpu*/thermal_throttle/package_throttle_count")
    for pattern in patterns:
        for path in _found(root, pattern):
            count = _number(path)
            if count is not None:
                yield str(path.relative_to(root)), count


class DeviceWatch:
    """Looks again and again. ``trouble``: why not Ready, "" when all is well. One thread.

    limit_c: hotter is not Ready, None for no limit; with a limit a device without a sensor is not Ready either.
    stop_when_slowed: whether a device that slows itself down is not Ready; it is logged in any case.
    """

    def __init__(self, limit_c: float | None, *, stop_when_slowed: bool, root: Path = Path("/sys")) -> None:
        self._limit_c, self._stop_when_slowed, self._root = limit_c, stop_when_slowed, root
        self._events: dict[str, int] = {}
        self._hot = ""
        self._slow: tuple[str, ...] = ()

    @property
    def slowed(self) -> bool:
        """Whether the device slowed itself down at, or just before, the last look."""
        return bool(self._slow)

    @property
    def trouble(self) -> str:
        return self._hot or ("DEVICE_SLOWED" if self._slow and self._stop_when_slowed else "")

    def look(self) -> DeviceState:
        """One look; logs what has begun and what is over."""
        state = read_device(self._root)
        self._judge_heat(state)
        risen = [name for name, count in state.events if count > self._events.get(name, count)]
        self._events = dict(state.events)
        slow = (*state.slowed, *(f"{name} has counted another event" for name in risen))
        if slow and not self._slow:
            log("device_slowed", f"this device slows itself down: {'; '.join(slow)}", level=30)
        elif self._slow and not slow:
            log("device_unslowed", "this device runs at its full speed again")
        self._slow = slow
        return state

    def _judge_heat(self, state: DeviceState) -> None:
        if self._limit_c is None:
            return
        hot, before = "", self._hot
        if state.temperature_c is None:
            hot = "TEMPERATURE_UNKNOWN"
        elif state.temperature_c > self._limit_c - (_COOLER_C if before == "DEVICE_HOT" else 0.0):
            hot = "DEVICE_HOT"
        if hot and hot != before:
            said = "no sensor answers" if state.temperature_c is None else f"{state.sensor} {state.temperature_c:.0f} C"
            log("device_hot", f"{said}; at most {self._limit_c:g} C is allowed", level=40, code=hot)
        elif before and not hot:
            log("device_cool", f"{state.sensor} {state.temperature_c:.0f} C: within the limit again")
        self._hot = hot
