"""A memory bank killed in front of system calls of its commits loses nothing; ``power_cut`` walks over all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_daemon.memory import MemoryBank
from edge_daemon.testing import power_cut
from edge_daemon.testing.power_cut import cut_everywhere

pytestmark = [pytest.mark.needs("strace"), pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize(("call", "every"), [("fdatasync", 2), ("ftruncate", 1), ("pwrite64", 16)])
def test_killed_in_front_of_a_call(tmp_path: Path, call: str, every: int) -> None:
    found = cut_everywhere(call, tmp_path, every=every)
    assert found.cuts >= 1
    assert (found.damaged, found.lost, found.torn, found.doubled) == (0, 0, 0, 0)


def test_an_acknowledgement_before_the_commit_is_found(tmp_path: Path) -> None:
    """The walk can fail: what was told of and is not there counts as lost."""
    path = tmp_path / "memory.db"
    MemoryBank(path).close()
    told, through = power_cut._cut(path, "fdatasync", 2)
    assert not through
    assert power_cut._examine(path, [*told, "record 2"]).lost == 1
