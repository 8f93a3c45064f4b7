"""line.toml as a whole: every table's mistakes are named with file, line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_daemon.capture.options import BaslerOptions, FolderOptions
from edge_daemon.config import check_mqtt_files, load_config
from edge_daemon.errors import ConfigError

TEXT = """\
[station]
name = "cell-1"
recipe = "recipe.toml"

[camera]
kind = "basler"
serial = "123"
exposure = "2 ms"
trigger = "hardware"
max_early = "10 ms"

[line]
driver = "modbus-server"
port = "/dev/ttyUSB0"
deadline = "300 ms"

[mqtt]
host = "127.0.0.1"
topic_root = "a/b/c/d/e"

[memory]
database = "memory.db"
pictures = "pictures"
"""


def _load(tmp_path: Path, text: str):
    path = tmp_path / "line.toml"
    path.write_text(text)
    return load_config(path)


def test_a_whole_file_becomes_options_in_base_units(tmp_path: Path) -> None:
    config = _load(tmp_path, TEXT)
    assert isinstance(config.camera.options, BaslerOptions)
    assert config.camera.options.exposure_us == pytest.approx(2000.0)
    assert config.camera.max_early_s == pytest.approx(0.01)
    assert config.camera.frozen_after == 2
    assert config.line.options.deadline_s == pytest.approx(0.3)
    assert config.memory.database == tmp_path / "memory.db"
    assert config.mqtt is not None
    assert config.mqtt.version == 5
    assert (config.watch.host, config.watch.port) == ("127.0.0.1", 9464)
    assert len(config.sha256) == 64


def test_other_cameras_take_their_own_keys(tmp_path: Path) -> None:
    folder = 'kind = "folder"\nfolder = "in"\nsettle = "50 ms"\n'
    start, end = TEXT.index('kind = "basler"'), TEXT.index("[line]")
    config = _load(tmp_path, TEXT[:start] + folder + TEXT[end:])
    assert config.camera.options == FolderOptions(folder=tmp_path / "in", settle_s=0.05)
    video = 'kind = "video"\nsource = "rtsp://127.0.0.1/x"\nlatency = "300 ms"\n'
    config = _load(tmp_path, TEXT[:start] + video + TEXT[end:])
    assert config.camera.options.latency_s == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('exposure = "2 ms"', "exposure = 2000", 8, "has no unit"),
        ('serial = "123"', 'serail = "123"', 6, "serial"),
        ('kind = "basler"', 'kind = "bassler"', 6, "did you mean 'basler'"),
        ('deadline = "300 ms"', 'deadline = "300"', 15, "has no unit"),
        ('deadline = "300 ms"', 'deadline = "2 min"', 15, "outside"),
        ('trigger = "hardware"', 'trigger = "software"', 10, "not triggered by us"),
        ('max_early = "10 ms"', 'max_delay = "900 ms"', 10, "longer than the deadline"),
        ('max_early = "10 ms"', "frozen_after = 1", 10, "refuse every frame"),
        ('driver = "modbus-server"', 'driver = "modbus"', 13, "did you mean 'modbus-server'"),
        ('topic_root = "a/b/c/d/e"', 'topic_root = "a/b"', 19, "five names"),
        ('host = "127.0.0.1"', 'host = "broker.plant"', 18, "plain text"),
        ('database = "memory.db"', "", 21, "database: is missing"),
        ("[memory]\n", "[memry]\n", 1, "the table [memory] is missing"),
        ('pictures = "pictures"', 'pictures = "pictures"\nkeep = "some"', 24, "one of: not_pass, all, none"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, TEXT.replace(old, new))
    assert f"line.toml:{line}:" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ('username = "u"\npassword_file = "absent"', 21, "password_file: mqtt.password_file"),
        ('username = "u"\npassword_file = "."', 21, "Is a directory"),
        ('username = "u"\npassword_file = "open"', 21, "can be read by everybody"),
        ('ca_file = "absent"', 20, "No such file"),
        ('ca_file = "open"', 20, "cannot be used"),
        ('ca_file = "system"\ncert_file = "open"\nkey_file = "absent"', 22, "No such file"),
        ('ca_file = "system"\ncert_file = "open"\nkey_file = "open"', 22, "can be read by everybody"),
    ],
)
def test_a_secret_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, lines: str, line: int, words: str) -> None:
    (tmp_path / "open").write_text("secret\n")
    (tmp_path / "open").chmod(0o644)
    # Reading the file is not enough to fail: the line process does so too, and has no use for secrets.
    config = _load(tmp_path, TEXT.replace('topic_root = "a/b/c/d/e"', 'topic_root = "a/b/c/d/e"\n' + lines))
    with pytest.raises(ConfigError) as caught:
        check_mqtt_files(config)
    assert f"line.toml:{line}: [mqtt] " in str(caught.value)
    assert words in str(caught.value)
    assert caught.value.hint


def test_secrets_that_can_be_used_are_taken(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)
    lines = 'username = "u"\npassword_file = "password"\nca_file = "system"'
    config = _load(tmp_path, TEXT.replace('topic_root = "a/b/c/d/e"', 'topic_root = "a/b/c/d/e"\n' + lines))
    check_mqtt_files(config)
    assert config.mqtt is not None
    assert config.mqtt.ca_file == "system"
    assert config.mqtt.password() == "secret"
    check_mqtt_files(_load(tmp_path, TEXT[: TEXT.index("[mqtt]")] + TEXT[TEXT.index("[memory]") :]))


def test_the_other_drivers_have_their_own_keys(tmp_path: Path) -> None:
    other = 'driver = "discrete"\ntrigger_input = "dsr"\npulse = "80 ms"'
    options = _load(tmp_path, TEXT.replace('driver = "modbus-server"', other)).line.options
    assert (options.driver, options.trigger_input, options.pulse_s) == ("discrete", "dsr", pytest.approx(0.08))
    options = _load(
        tmp_path, TEXT.replace('driver = "modbus-server"', 'driver = "modbus-client"\nbase_address = 400')
    ).line.options
    assert (options.driver, options.base_address) == ("modbus-client", 400)
    with pytest.raises(ConfigError, match=r"recipe_number.*has no wire for it"):
        _load(
            tmp_path,
            TEXT.replace('"recipe.toml"', '"recipe.toml"\nrecipe_number = 3').replace("modbus-server", "discrete"),
        )
