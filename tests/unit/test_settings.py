"""Strict TOML: every wrong value names file, line, table, key and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_daemon.errors import ConfigError
from edge_daemon.settings import Settings


def _load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "line.toml"
    path.write_text(text)
    return Settings.load(path)


def _message(call) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


def test_values_come_back_with_their_units_resolved(tmp_path: Path) -> None:
    settings = _load(
        tmp_path,
        'n = 3\nx = 2.5\nyes = true\nname = "a"\nwait = "250 ms"\nside = "1/2 in"\nsides = ["1 mm", "2 mm"]\n'
        'size = "5 MB"\nfile = "sub/x.db"\n',
    )
    assert settings.integer("n", low=0, high=5) == 3
    assert settings.number("x", low=0, high=5) == 2.5
    assert settings.flag("yes") is True
    assert settings.text("name") == "a"
    assert settings.duration_s("wait") == 0.25
    assert settings.length_mm("side") == 12.7
    assert settings.lengths_mm("sides") == (1.0, 2.0)
    assert settings.size_bytes("size") == 5_000_000
    assert settings.file("file") == (tmp_path / "sub" / "x.db").resolve()
    settings.close()


def test_a_default_is_used_only_where_the_key_is_absent(tmp_path: Path) -> None:
    settings = _load(tmp_path, "n = 3\n")
    assert settings.integer("n", 9, low=0, high=5) == 3
    assert settings.integer("m", 9, low=0, high=5) == 9


@pytest.mark.parametrize(
    ("line", "read", "expected"),
    [
        ("wait = 250", lambda s: s.duration_s("wait"), ("has no unit", "'300 ms'")),
        ('wait = "250 mm"', lambda s: s.duration_s("wait"), ("'mm' is not a unit of duration",)),
        ('side = "abc"', lambda s: s.length_mm("side"), ("'abc' is not a length",)),
        ('side = "0.1 mm"', lambda s: s.length_mm("side", low=1.0), ("outside 1 mm",)),
        ("n = 7", lambda s: s.integer("n", low=0, high=5), ("from 0 to 5", "7")),
        ("n = true", lambda s: s.integer("n", low=0, high=5), ("whole number",)),
        ("n = nan", lambda s: s.number("n", low=0, high=5), ("number from 0 to 5",)),
        ("name = 1", lambda s: s.text("name"), ("must be text",)),
        ('name = "asci"', lambda s: s.text("name", choices=("ascii", "modbus")), ("did you mean 'ascii'",)),
        ("yes = 1", lambda s: s.flag("yes"), ("true or false",)),
        ("sides = []", lambda s: s.lengths_mm("sides"), ("list of lengths",)),
    ],
)
def test_a_wrong_value_names_file_line_key_and_remedy(tmp_path: Path, line, read, expected) -> None:
    text = f"\n# comment\n[camera]\nother = 1\n\n{line}\n"
    table = _load(tmp_path, text).table("camera")
    assert table is not None
    message = _message(lambda: read(table))
    key = line.split(" ")[0]
    assert f"{tmp_path / 'line.toml'}:6: [camera] {key}" in message
    for part in expected:
        assert part in message


def test_a_missing_key_names_its_table(tmp_path: Path) -> None:
    table = _load(tmp_path, "a = 1\n[line]\nb = 2\n").table("line")
    assert table is not None
    assert ":2: [line] port: is missing" in _message(lambda: table.text("port"))


def test_an_unread_key_is_an_error_with_the_nearest_known_one(tmp_path: Path) -> None:
    settings = _load(tmp_path, "[line]\ndriver = 'x'\ndedline = '1 s'\n")
    table = settings.table("line")
    assert table is not None
    table.text("driver")
    table.duration_s("deadline", 1.0)
    message = _message(table.close)
    assert ":3: [line] dedline" in message
    assert "did you mean 'deadline'" in message


def test_the_line_of_the_right_table_in_an_array_is_named(tmp_path: Path) -> None:
    settings = _load(tmp_path, "[[rule]]\nlevel = 1\n\n[[rule]]\nlevel = 99\n")
    second = settings.tables("rule")[1]
    assert ":5: [rule] level" in _message(lambda: second.integer("level", low=1, high=8))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a = \n", "not valid TOML"),
        (b"a = '\xff'\n", "not UTF-8"),
        (b"[" * 100_000, "not valid TOML"),
        (b"#" * (5 * 1024 * 1024), "larger than 4 MiB"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_sentence(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "line.toml"
    path.write_bytes(content)
    assert expected in _message(lambda: Settings.load(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in _message(lambda: Settings.load(tmp_path / "absent.toml"))
