"""Options of the line process, as a frozen dataclass, a JSON file or command-line flags."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import ConfigError

__all__ = ["BEYOND_DEADLINE_S", "DRIVERS", "TRIGGER_INPUTS", "LineOptions"]

DRIVERS = ("ascii", "modbus-server", "modbus-client", "discrete")
TRIGGER_INPUTS = ("cts", "dsr")

#: sun_path of unix(7) holds 108 bytes with its terminating zero.
_MAX_SOCKET_PATH = 107
#: The PLC's own deadline is longer than ours by no more than this, and it may repeat a trigger until then.
BEYOND_DEADLINE_S = 0.5


@dataclass(frozen=True, slots=True)
class LineOptions:
    """Everything the line process needs.

    driver: one of DRIVERS. port: path of the serial device. socket_path: Unix-domain socket for the daemon, in a
    directory that only this user may write. deadline_s: from trigger to the last instant of a permit; set the PLC's
    own deadline longer by the wire time and one poll. heartbeat_s: half period of the heartbeat on the wire.
    lease_s: how long one health message of the daemon holds. plc_silence_s: the PLC counts as gone after this long
    without a heartbeat of its own. unit_id: Modbus address 1..247, ours (modbus-server) or
    the PLC's (modbus-client). base_address: of the PLC's first register (modbus-client). trigger_input: one of
    TRIGGER_INPUTS, and pulse_s: how long PASS is on (discrete). capacity: tickets kept without a durable record.
    held_s: how long the PLC may hold a trigger up that nobody takes, 0 for deadline_s + 0.5 s: for so long after the
    port was opened no trigger is known to be fresh, and none can pass.
    """

    driver: str
    port: str
    socket_path: str
    deadline_s: float
    baudrate: int = 115_200
    parity: str = "N"
    stopbits: int = 1
    unit_id: int = 1
    base_address: int = 0
    trigger_input: str = "cts"
    pulse_s: float = 0.05
    heartbeat_s: float = 0.1
    lease_s: float = 0.5
    plc_silence_s: float = 1.0
    capacity: int = 65_536
    held_s: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            kind = _TYPES[item.name]
            if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
                raise _wrong(item.name, value, f"a {_TYPE_NAMES[_TYPES[item.name]]}")
        if self.driver not in DRIVERS:
            raise _wrong("driver", self.driver, f"one of {', '.join(DRIVERS)}")
        if not self.port or "\0" in self.port:
            raise _wrong("port", self.port, "the path of a serial device")
        if not self.socket_path or "\0" in self.socket_path or len(self.socket_path.encode()) > _MAX_SOCKET_PATH:
            raise _wrong("socket_path", self.socket_path, f"a path of at most {_MAX_SOCKET_PATH} bytes")
        if self.parity not in ("N", "E", "O"):
            raise _wrong("parity", self.parity, "N, E or O")
        if self.trigger_input not in TRIGGER_INPUTS:
            raise _wrong("trigger_input", self.trigger_input, "cts or dsr")
        for name, low, high in _RANGES:
            if not low <= getattr(self, name) <= high:
                raise _wrong(name, getattr(self, name), f"between {low:g} and {high:g}")
        if self.lease_s < 2 * self.heartbeat_s:
            raise _wrong("lease_s", self.lease_s, f"at least twice heartbeat_s ({self.heartbeat_s:g})")

    @property
    def longest_held_s(self) -> float:
        """How long after its part a trigger may arrive. Beyond that the PLC itself has rejected the part."""
        return self.held_s or self.deadline_s + BEYOND_DEADLINE_S

    def to_json(self) -> str:
        """JSON object of every option."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def save(self, path: Path) -> None:
        """Write the JSON file, readable by this user only."""
        partial = path.with_name(path.name + ".part")
        partial.touch(mode=0o600)
        partial.write_text(self.to_json(), encoding="utf-8")
        partial.replace(path)

    @classmethod
    def from_mapping(cls, values: dict[str, Any], where: str) -> LineOptions:
        """From decoded JSON. Raises ConfigError naming ``where`` and the key for an unknown, missing or wrong one."""
        known = {item.name for item in fields(cls)}
        for key in values:
            if key not in known:
                raise ConfigError(f"{where}: unknown key {key!r}", hint=f"known keys: {', '.join(sorted(known))}")
        for item in fields(cls):
            if item.name not in values and item.default is MISSING:
                raise ConfigError(f"{where}: key {item.name!r} is missing", hint="it has no default")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None

    @classmethod
    def load(cls, path: Path) -> LineOptions:
        """From a JSON file. Raises ConfigError naming the file."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", hint="name an existing options file") from None
        except (ValueError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not JSON: {error}", hint="write one JSON object") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: not a JSON object", hint="write one JSON object")
        return cls.from_mapping(values, str(path))

    @classmethod
    def from_arguments(cls, arguments: Sequence[str] | None = None) -> LineOptions:
        """From ``--options FILE`` or one flag per option (``--deadline-s 0.3``)."""
        parser = argparse.ArgumentParser(
            prog="python -m edge_daemon.line",
            description="The line process: holds serial port and gate, and closes the gate unless the daemon is well.",
            epilog="example: python -m edge_daemon.line --options /run/edge-daemon/line.json",
        )
        parser.add_argument("--options", type=Path, metavar="FILE", help="JSON file with the options below")
        for item in fields(cls):
            parser.add_argument(f"--{item.name.replace('_', '-')}", dest=item.name, type=_TYPES[item.name])
        given = vars(parser.parse_args(arguments))
        path = given.pop("options")
        flags = {key: value for key, value in given.items() if value is not None}
        if path is None:
            return cls.from_mapping(flags, "command line")
        if flags:
            raise ConfigError(f"--options {path} together with --{next(iter(flags))}", hint="use one or the other")
        return cls.load(path)


_TYPES: dict[str, type] = {
    item.name: {"str": str, "float": float, "int": int}[str(item.type)] for item in fields(LineOptions)
}
_TYPE_NAMES: dict[type, str] = {str: "text", float: "number", int: "whole number"}
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("deadline_s", 0.01, 60),
    ("baudrate", 1200, 4_000_000),
    ("stopbits", 1, 2),
    ("unit_id", 1, 247),
    ("base_address", 0, 65_000),
    ("pulse_s", 0.01, 1),
    ("heartbeat_s", 0.02, 0.14),  # the PLC calls a heartbeat older than 300 ms dead: two changes must fit
    ("lease_s", 0.05, 5),
    ("plc_silence_s", 0.1, 60),
    ("capacity", 1, 1_000_000),
    ("held_s", 0, 60),
)


def _wrong(name: str, value: object, right: str) -> ConfigError:
    return ConfigError(f"option {name} = {value!r} is wrong", hint=f"it must be {right}")
