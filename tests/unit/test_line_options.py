"""Options of the line process: from JSON, from flags, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from edge_daemon.errors import ConfigError
from edge_daemon.line.options import LineOptions

GOOD = LineOptions(driver="ascii", port="/dev/ttyUSB0", socket_path="/run/line.sock", deadline_s=0.3)


def test_file_and_flags_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "line.json"
    GOOD.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert LineOptions.load(path) == GOOD
    assert LineOptions.from_arguments(["--options", str(path)]) == GOOD
    flags = ["--driver", "ascii", "--port", "/dev/ttyUSB0", "--socket-path", "/run/line.sock", "--deadline-s", "0.3"]
    assert LineOptions.from_arguments(flags) == GOOD
    assert LineOptions.from_arguments([*flags, "--unit-id", "7"]) == replace(GOOD, unit_id=7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"driver": "profinet"}, "driver = 'profinet'"),
        ({"deadline_s": "0.3"}, "deadline_s = '0.3'"),
        ({"deadline_s": 0}, "between 0.01 and 60"),
        ({"deadline_s": float("nan")}, "deadline_s = nan"),
        ({"deadline_s": True}, "deadline_s = True"),
        ({"baudrate": 9600.5}, "baudrate = 9600.5"),
        ({"unit_id": 0}, "between 1 and 247"),
        ({"parity": "M"}, "N, E or O"),
        ({"heartbeat_s": 0.2}, "heartbeat_s = 0.2"),
        ({"lease_s": 0.15}, "at least twice heartbeat_s"),
        ({"port": ""}, "port = ''"),
        ({"socket_path": "/" + "x" * 107}, "at most 107 bytes"),
        ({"speed": 1}, "unknown key 'speed'"),
    ],
)
def test_wrong_values_name_key_and_remedy(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = tmp_path / "line.json"
    path.write_text(json.dumps({**asdict(GOOD), **change}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        LineOptions.load(path)
    assert str(path) in caught.value.message
    assert words in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "not JSON"), (b"[]", "not a JSON object"), (b"\xff", "not JSON"), (b"{}", "'driver' is missing")],
)
def test_broken_files(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "line.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        LineOptions.load(path)


def test_file_and_flags_together_or_no_file(tmp_path: Path) -> None:
    path = tmp_path / "line.json"
    with pytest.raises(ConfigError, match="No such file"):
        LineOptions.from_arguments(["--options", str(path)])
    GOOD.save(path)
    with pytest.raises(ConfigError, match="together with --port"):
        LineOptions.from_arguments(["--options", str(path), "--port", "x"])
