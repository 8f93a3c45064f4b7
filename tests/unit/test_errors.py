"""The tree of errors: what its page says is what a caller gets."""

from __future__ import annotations

import pickle
import re

import pytest

from edge_daemon import errors
from edge_daemon.errors import EdgeError, IntegrityError, MissingExtra, UnavailableError, UsageError

CLASSES: dict[str, type[EdgeError]] = {name: getattr(errors, name) for name in errors.__all__}


def documented_tree() -> dict[str, tuple[str, int]]:
    """name -> (name of its parent, exit code) as drawn at the top of errors.py; EdgeError's own code stands at 70."""
    assert errors.__doc__ is not None
    parents: list[str] = []
    tree = {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([|` -]*)([A-Z]\w+)\s+(\d+|exit)\s", line)
        if match is None:
            continue
        branch, name, code = match.groups()
        depth = len(branch) // 4
        parents[depth:] = [name]
        tree[name] = (parents[depth - 1] if depth else "", 70 if code == "exit" else int(code))
    return tree


def test_the_drawing_shows_every_class_once_with_its_parent_and_exit_code() -> None:
    actual = {
        name: ("" if one is EdgeError else one.__bases__[0].__name__, one.exit_code) for name, one in CLASSES.items()
    }
    assert documented_tree() == actual


def test_all_names_every_error_of_the_module() -> None:
    defined = {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, Exception)}
    assert set(errors.__all__) == defined
    assert list(errors.__all__) == sorted(errors.__all__)


def test_exit_codes_are_those_of_the_command_line() -> None:
    codes = {EdgeError: 70, UsageError: 2, UnavailableError: 3, IntegrityError: 4}
    for one in CLASSES.values():
        family = next(parent for parent in one.__mro__ if parent in codes)
        assert one.exit_code == codes[family]


def test_default_codes_are_stable_capitals_and_different() -> None:
    codes = [one.default_code for one in CLASSES.values()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[A-Z][A-Z_]*", code) for code in codes)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"MissingExtra"}))
def test_message_code_and_hint_are_kept(name: str) -> None:
    plain = CLASSES[name]("the belt stands still")
    assert (plain.message, plain.code, plain.hint) == ("the belt stands still", CLASSES[name].default_code, "")
    assert str(plain) == "the belt stands still"
    full = CLASSES[name]("the belt stands still", code="BELT", hint="start it")
    assert (full.message, full.code, full.hint) == ("the belt stands still", "BELT", "start it")
    assert str(full) == "the belt stands still (start it)"
    with pytest.raises(EdgeError):
        raise full


def test_a_missing_extra_names_the_extra_that_brings_it() -> None:
    error = MissingExtra("the Basler camera", "basler")
    assert error.extra == "basler"
    assert "the Basler camera" in error.message
    assert error.hint == "pip install 'edge-daemon[basler]'"
    assert error.exit_code == 3


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_survives_the_way_between_processes(name: str) -> None:
    """concurrent.futures and multiprocessing hand errors over by pickle; one that cannot travel hides what happened."""
    one = MissingExtra("TensorRT", "jetson") if name == "MissingExtra" else CLASSES[name]("m", code="C", hint="h")
    there = pickle.loads(pickle.dumps(one))
    assert type(there) is type(one)
    assert (there.message, there.code, there.hint, str(there)) == (one.message, one.code, one.hint, str(one))
