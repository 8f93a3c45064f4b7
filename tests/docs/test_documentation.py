"""What exists is documented, and what is documented exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from edge_daemon.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def _keys_read(path: Path) -> set[str]:
    """Every key that config.py asks a Settings table for: the first argument of its reading methods."""
    readers = {
        "text",
        "integer",
        "number",
        "flag",
        "duration_s",
        "length_mm",
        "lengths_mm",
        "size_bytes",
        "file",
        "words",
        "credential",
    }
    keys = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in readers
            and node.args
        ):
            argument = node.args[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                keys.add(argument.value)
    return keys


def test_every_key_of_line_toml_is_in_the_readme_and_no_other() -> None:
    section = README.split("## Every key of line.toml")[1].split("\n## ")[0]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")][2:]
    documented = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert documented == _keys_read(ROOT / "edge_daemon" / "config.py")


def test_the_readmes_toml_is_accepted(tmp_path: Path) -> None:
    from edge_daemon.config import load_config
    from edge_daemon.recipe import load_recipe

    blocks = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "line.toml").write_text(blocks[0])
    (tmp_path / "housing.toml").write_text(blocks[1])
    config = load_config(tmp_path / "line.toml")
    assert config.recipe == tmp_path / "housing.toml"
    assert load_recipe(config.recipe).name == "housing-a"
    # The third leans on a standard's table in place of the rules of the second.
    head = blocks[1].split("others =")[0]
    (tmp_path / "by-table.toml").write_text(head + blocks[2])
    by_table = load_recipe(tmp_path / "by-table.toml")
    assert by_table.standard is not None
    assert [zone.name for zone in by_table.zones] == ["seal", ""]
    assert by_table.uncertainty is not None


def test_every_command_in_the_readme_exists() -> None:
    from edge_daemon.cli import build_parser

    commands = build_parser()._subparsers._group_actions[0].choices
    named = set(re.findall(r"edge-daemon ([a-z]+)\b", README)) | set(
        re.findall(r"`([a-z]+)`", (ROOT / "CHANGELOG.md").read_text().split("- Commands ")[1].split("\n###")[0])
    )
    assert named <= set(commands)
    assert set(commands) <= named | {"help"}, "a command is missing from CHANGELOG.md"


def test_every_room_of_the_package_is_on_the_readmes_map() -> None:
    section = README.split("## Where everything is")[1].split("\n## ")[0]
    for path in sorted((ROOT / "edge_daemon").iterdir()):
        if path.name.startswith(("_", ".")) or path.suffix not in ("", ".py"):
            continue
        assert path.name in section, path.name


@pytest.mark.parametrize("name", ["README.md", "DECISIONS.md", "CHANGELOG.md", "THREATS.md"])
def test_every_local_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_every_file_that_the_page_refuses_is_in_its_documentation() -> None:
    """With the sentence that its sender reads: the names and the wanted words stand in the test that sends them."""
    source = (ROOT / "tests/unit/test_station_uploads.py").read_text(encoding="utf-8")
    cases = re.findall(r'^    \("([a-z]+\.[a-z]+)", .*, "([^"]*)"\),$', source.partition("BAD:")[2], re.MULTILINE)
    assert len(cases) > 20
    rows = (ROOT / "docs/page.md").read_text(encoding="utf-8").splitlines()
    for name, said in cases:
        (row,) = [one for one in rows if one.startswith(f"| {name} |")]
        assert said in row, name


def test_the_changelog_has_its_heading_in_every_release() -> None:
    for release in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]:
        assert "### Changes a verdict" in release


def test_no_machine_path_and_no_stray_name_stands_in_the_repository() -> None:
    import subprocess

    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of the repository's files")
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if not name or name == "tests/docs/test_documentation.py" or path.suffix in (".png", ".onnx"):
            continue
        text = path.read_text(errors="replace")
        for forbidden in ("/work" + "/main", "/tmp" + "/w/", "/root/" + ".pyenv"):
            assert forbidden not in text, f"{name}: {forbidden}"


def test_setup_cfg_lists_every_package() -> None:
    import configparser

    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "edge_daemon").rglob("__init__.py")}
    assert found == {name for name in listed if "_shared" not in name}


def test_pyproject_names_only_the_build_and_ruff() -> None:
    document = Settings.load(ROOT / "pyproject.toml")._values
    assert set(document) == {"build-system", "tool"}
    assert set(document["tool"]) == {"ruff"}
