"""line.toml: one file, every key checked, frozen, hashed.

Only the recipe may change while the daemon runs (SIGHUP reads it again; the old one serves until the new one is
proven). Everything else needs a restart. The shortest useful file is in README.md; every key is listed there too, and
a test compares the list with this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .capture.options import TRIGGERS, AravisOptions, BaslerOptions, FolderOptions, VideoOptions
from .commands import CommandOptions, RecipeChoice
from .errors import UsageError
from .line.options import DRIVERS, TRIGGER_INPUTS, LineOptions
from .memory import Policy
from .publish import MqttOptions
from .settings import Settings
from .signing import Trust, trust_of
from .sparkplug_node import SparkplugOptions

__all__ = [
    "CameraConfig",
    "DaemonConfig",
    "EngineConfig",
    "LineConfig",
    "MemoryConfig",
    "WatchConfig",
    "check_mqtt_files",
    "load_config",
]

_T = TypeVar("_T")

CAMERA_KINDS = ("basler", "aravis", "video", "folder")
KEEP = ("not_pass", "all", "none")
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class CameraConfig:
    """max_delay_s: a frame that comes later than this after its trigger may show another part, so it is not judged.
    max_early_s: a camera triggered by wire may deliver its frame this long before the PLC's telegram reaches us.
    frozen_after: the frame that is the n-th identical one in a row is refused, 0 = never. size_px: expected size."""

    kind: str
    options: BaslerOptions | AravisOptions | VideoOptions | FolderOptions
    max_delay_s: float
    max_early_s: float
    frozen_after: int
    size_px: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """backend: auto, onnxruntime or tensorrt. cache: folder of the TensorRT engines built on this device."""

    backend: str
    threads: int
    cache: Path


@dataclass(frozen=True, slots=True)
class LineConfig:
    """spawn: start the line process when none answers on the socket (False where systemd runs it)."""

    options: LineOptions
    spawn: bool


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """database: SQLite file. pictures: folder. keep: whose pictures are stored. min_free_bytes: below it, not Ready.
    retention: what stays for how long, and how much."""

    database: Path
    pictures: Path
    keep: str
    min_free_bytes: int
    retention: Policy


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """Address of /metrics, /healthz and /readyz; port 0 takes a free one. self_test_s: interval of the engine's.
    golden_s: of the golden part's, where the recipe names one. max_calibration_age_s: an older one is not used,
    whatever its own day says. max_temperature_c: hotter is not Ready. None: no such limit. stop_when_slowed: nor is a
    device that slows itself down."""

    host: str
    port: int
    self_test_s: float
    golden_s: float
    max_calibration_age_s: float | None = None
    max_temperature_c: float | None = None
    stop_when_slowed: bool = False


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """Everything ``edge-daemon run`` needs. sha256: of the file as read. recipe_number: what the PLC calls this recipe;
    a part triggered with another number is not evaluable. None: the PLC's number is ignored. require_verified: this
    site judges by nothing that a second person has not verified. require_certificate: nor by an engine whose
    certificate is missing or withdrawn. trust: whose signatures bundles, tables and reference sets must carry.
    sparkplug, commands: None where nobody asked for them."""

    path: Path
    station: str
    recipe: Path
    recipe_number: int | None
    require_verified: bool
    require_certificate: bool
    camera: CameraConfig
    engine: EngineConfig
    line: LineConfig
    mqtt: MqttOptions | None
    memory: MemoryConfig
    watch: WatchConfig
    sha256: str
    trust: Trust
    sparkplug: SparkplugOptions | None = None
    commands: CommandOptions | None = None


def _camera_options(table: Settings, kind: str) -> BaslerOptions | AravisOptions | VideoOptions | FolderOptions:
    if kind == "folder":
        return FolderOptions(
            folder=table.file("folder"),
            after=table.text("after", "keep", choices=("keep", "delete")),
            settle_s=table.duration_s("settle", 0.02, high=60),
            poll_s=table.duration_s("poll", 0.005, low=0.001, high=10),
        )
    if kind == "video":
        return VideoOptions(
            source=table.text("source"),
            latency_s=table.duration_s("latency", 0.0, high=60),
            read_timeout_s=table.duration_s("read_timeout", 3.0, low=0.1, high=60),
            grey=table.flag("grey", False),
        )
    exposure_s = table.duration_s("exposure", None, low=1e-6, high=10)
    exposure_us = None if exposure_s is None else exposure_s * 1e6
    gain_db = table.number("gain_db", None, low=0, high=60)
    trigger = table.text("trigger", "software", choices=TRIGGERS)
    trigger_line = table.text("trigger_line", "Line1")
    pixel_format = table.text("pixel_format", None)
    buffer_count = table.integer("buffers", 5, low=2, high=50)
    if kind == "basler":
        return BaslerOptions(
            serial=table.text("serial", None),
            address=table.text("address", None),
            emulation_folder=table.file("emulation_folder", None),
            trigger=trigger,
            trigger_line=trigger_line,
            pixel_format=pixel_format,
            exposure_us=exposure_us,
            gain_db=gain_db,
            buffer_count=buffer_count,
        )
    return AravisOptions(
        address=table.text("address"),
        interface_address=table.text("interface_address", None),
        trigger=trigger,
        trigger_line=trigger_line,
        pixel_format=pixel_format,
        exposure_us=exposure_us,
        gain_db=gain_db,
        buffer_count=buffer_count,
        packet_timeout_ms=1000 * table.duration_s("packet_timeout", 0.02, low=0.001, high=1),
    )


def _camera(table: Settings, deadline_s: float) -> CameraConfig:
    kind = table.text("kind", choices=CAMERA_KINDS)
    width = table.integer("width_px", None, low=16, high=65536)
    height = table.integer("height_px", None, low=16, high=65536)
    if (width is None) != (height is None):
        raise table.error("width_px", "width_px and height_px go together")
    max_delay_s = table.duration_s("max_delay", min(0.2, deadline_s), low=0.001, high=60)
    if max_delay_s > deadline_s:
        raise table.error("max_delay", f"is longer than the deadline of {deadline_s:g} s")
    options = _checked(table, "kind", lambda: _camera_options(table, kind))
    max_early_s = table.duration_s("max_early", 0.0, high=1.0)
    if max_early_s and getattr(options, "trigger", "") == "software":
        raise table.error("max_early", "goes with a camera that is not triggered by us", hint='trigger = "hardware"')
    frozen_after = table.integer("frozen_after", 2, low=0, high=1000)
    if frozen_after == 1:
        raise table.error("frozen_after", "1 would refuse every frame", hint="2 or more, or 0 for never")
    return CameraConfig(
        kind=kind,
        options=options,
        max_delay_s=max_delay_s,
        max_early_s=max_early_s,
        frozen_after=frozen_after,
        size_px=None if width is None else (width, height),
    )


def _checked(table: Settings, key: str, make: Callable[[], _T]) -> _T:
    """Run a constructor whose own checks do not know the file; name file, line, table and the key it complains of."""
    try:
        return make()
    except UsageError as error:
        if error.message.startswith(str(table.path)):
            raise
        # "mqtt.ca_file ..." names its key; other constructors say it in words.
        said = re.match(r"\w+\.(\w+)", error.message)
        named = next((one for one in table.keys() if one in (said[1] if said else error.message.split("=")[0])), key)  # noqa: SIM118
        raise table.error(named, error.message, error.hint) from None


def _line(table: Settings) -> LineConfig:
    driver = table.text("driver", choices=DRIVERS)
    port = table.text("port")
    values = {
        "baudrate": table.integer("baudrate", 115_200, low=1200, high=4_000_000),
        "parity": table.text("parity", "N", choices=("N", "E", "O")),
        "stopbits": table.integer("stopbits", 1, low=1, high=2),
        "unit_id": table.integer("unit_id", 1, low=1, high=247),
        "base_address": table.integer("base_address", 0, low=0, high=65_000),
        "trigger_input": table.text("trigger_input", "cts", choices=TRIGGER_INPUTS),
        "pulse_s": table.duration_s("pulse", 0.05, low=0.01, high=1),
        "deadline_s": table.duration_s("deadline", low=0.01, high=60),
        "lease_s": table.duration_s("lease", 0.5, low=0.2, high=5),
        "socket_path": str(table.file("socket", Path("/run/edge-daemon/line.sock"))),
    }
    spawn = table.flag("spawn", True)
    options = _checked(table, "driver", lambda: LineOptions(driver=driver, port=port, **values))
    return LineConfig(options, spawn)


def _trust(settings: Settings) -> tuple[Trust, Settings | None]:
    table = settings.table("security", required=False)
    if table is None:
        return Trust(), None
    required = table.flag("production", False)
    keys = table.words("trusted_keys", ())
    return _checked(table, "trusted_keys" if keys else "production", lambda: trust_of(keys, required=required)), table


def _retention(table: Settings) -> Policy:
    records_s = table.duration_s("keep_records", None, low=_DAY_S)
    pictures_s = table.duration_s("keep_pictures", None, low=_DAY_S)
    if records_s is not None and pictures_s is not None and pictures_s > records_s:
        raise table.error("keep_pictures", "is longer than keep_records", "pictures go with their record")
    policy: Policy = _checked(
        table,
        "keep_size",
        lambda: Policy(
            None if records_s is None else records_s / _DAY_S,
            None if pictures_s is None else pictures_s / _DAY_S,
            table.size_bytes("keep_size", None),
        ),
    )
    return policy


def _mqtt(table: Settings, station: str) -> MqttOptions:
    values = {
        "host": table.text("host"),
        "port": table.integer("port", 1883, low=1, high=65535),
        "topic_root": table.text("topic_root"),
        "version": 5 if table.text("version", "5", choices=("5", "3.1.1")) == "5" else 311,
        "username": table.text("username", None),
        "password_file": table.credential("password_file"),
        "ca_file": table.credential("ca_file", "system"),
        "cert_file": table.credential("cert_file"),
        "key_file": table.credential("key_file"),
        "pins": table.words("pins", ()),
        "insecure": table.flag("insecure", False),
        "keepalive_s": int(table.duration_s("keepalive", 5.0, low=1, high=3600)),
        "client_id": table.text("client_id", f"edge-daemon-{station}"),
    }
    options: MqttOptions = _checked(table, "host", lambda: MqttOptions(**values))
    return options


def check_mqtt_files(config: DaemonConfig) -> None:
    """Try the broker's password file and certificates; ConfigError names file, line and key.

    No part of ``load_config``: the line process reads the same file and has no use for secrets.
    """
    table = Settings.load(config.path).table("mqtt", required=False)
    if config.mqtt is not None and table is not None:
        _checked(table, "host", config.mqtt.check_files)


def _sparkplug(table: Settings, station: str, memory: MemoryConfig) -> SparkplugOptions:
    values = {
        "group": table.text("group"),
        "node": table.text("node", station),
        "device": table.text("device", "inspection"),
    }
    state_file = memory.database.with_name(f"{memory.database.stem}-sparkplug.json")
    options: SparkplugOptions = _checked(table, "group", lambda: SparkplugOptions(**values, state_file=state_file))
    return options


def _commands(table: Settings, recipe_number: int | None) -> CommandOptions:
    keys = table.words("trusted_keys")
    trust: Trust = _checked(table, "trusted_keys", lambda: trust_of(keys, required=True))
    recipes: dict[str, RecipeChoice] = {}
    for one in table.tables("recipe"):
        path, number = one.file("file"), one.integer("number", None, low=0, high=0xFFFF)
        if path.stem in recipes:
            raise one.error("file", f"there is a recipe {path.stem} already", hint="the name of the file names it")
        if (number is None) != (recipe_number is None):
            raise one.error("number", "goes together with [station] recipe_number", hint="give both, or neither")
        recipes[path.stem] = RecipeChoice(path.stem, path, number)
        one.close()
    return CommandOptions(trust.keys, tuple(recipes.values()), table.duration_s("window", 60.0, low=5, high=600))


def load_config(path: Path) -> DaemonConfig:
    """Read line.toml. Raises ConfigError naming file, line, key and what would be right."""
    settings = Settings.load(path)
    station_table = settings.table("station")
    line_table = settings.table("line")
    camera_table = settings.table("camera")
    memory_table = settings.table("memory")
    assert station_table and line_table and camera_table and memory_table
    station = station_table.text("name")
    recipe = station_table.file("recipe")
    recipe_number = station_table.integer("recipe_number", None, low=0, high=0xFFFF)
    require_verified = station_table.flag("require_verified", False)
    require_certificate = station_table.flag("require_certificate", False)
    line = _line(line_table)
    if recipe_number is not None and line.options.driver == "discrete":
        raise station_table.error("recipe_number", "the driver discrete has no wire for it", hint="leave it out")
    camera = _camera(camera_table, line.options.deadline_s)
    engine_table = settings.table("engine", required=False) or Settings(path, "", {})
    engine = EngineConfig(
        backend=engine_table.text("backend", "auto", choices=("auto", "onnxruntime", "tensorrt")),
        threads=engine_table.integer("threads", 2, low=1, high=64),
        cache=engine_table.file("cache", Path("/var/cache/edge-daemon/engines")),
    )
    mqtt_table = settings.table("mqtt", required=False)
    mqtt = None if mqtt_table is None else _mqtt(mqtt_table, station)
    memory = MemoryConfig(
        database=memory_table.file("database"),
        pictures=memory_table.file("pictures"),
        keep=memory_table.text("keep", "not_pass", choices=KEEP),
        min_free_bytes=memory_table.size_bytes("min_free", 200_000_000),
        retention=_retention(memory_table),
    )
    sparkplug_table = settings.table("sparkplug", required=False)
    commands_table = settings.table("commands", required=False)
    for table in (sparkplug_table, commands_table):
        if table is not None and mqtt is None:
            raise table.error(None, "needs a broker", hint="add [mqtt]")
    sparkplug = None if sparkplug_table is None else _sparkplug(sparkplug_table, station, memory)
    commands = None if commands_table is None else _commands(commands_table, recipe_number)
    watch_table = settings.table("watch", required=False) or Settings(path, "", {})
    watch = WatchConfig(
        host=watch_table.text("host", "127.0.0.1"),
        port=watch_table.integer("port", 9464, low=0, high=65535),
        self_test_s=watch_table.duration_s("self_test", 60.0, low=1, high=86400),
        golden_s=watch_table.duration_s("golden", 900.0, low=1, high=86400),
        max_calibration_age_s=watch_table.duration_s("max_calibration_age", None, low=60),
        max_temperature_c=watch_table.number("max_temperature_c", None, low=20, high=120),
        stop_when_slowed=watch_table.flag("stop_when_slowed", False),
    )
    trust, security_table = _trust(settings)
    for table in (
        station_table,
        security_table,
        line_table,
        camera_table,
        engine_table,
        mqtt_table,
        sparkplug_table,
        commands_table,
        memory_table,
        watch_table,
        settings,
    ):
        if table is not None:
            table.close()
    return DaemonConfig(
        path,
        station,
        recipe,
        recipe_number,
        require_verified,
        require_certificate,
        camera,
        engine,
        line,
        mqtt,
        memory,
        watch,
        settings.sha256,
        trust,
        sparkplug,
        commands,
    )
