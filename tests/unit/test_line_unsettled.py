"""The tickets that a clean stop leaves behind: the file, whole or set aside, and nothing in between."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_daemon.line.gate import ENDED_REASONS, Gate
from edge_daemon.line.unsettled import MAX_TICKET_BYTES, UnsettledFile, _checksum
from edge_daemon.tickets import GateAnswer, Ticket, new_record_id, utc_now

BOOT = "11111111-2222-3333-4444-555555555555"
PERMITTED = (Ticket("a", 7, 1000, 2000, "2026-01-01T00:00:00.000Z", 3), GateAnswer(True, "", 1500))
REJECTED = (Ticket("b", 8, 1100, 2100, "2026-01-01T00:00:00.100Z"), GateAnswer(False, "NO_DAEMON", 2100))


def file_in(folder: Path, boot_id: str = BOOT) -> UnsettledFile:
    return UnsettledFile(folder / "line.sock", boot_id)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    kept = file_in(tmp_path)
    assert kept.load() == []
    kept.save([PERMITTED, REJECTED])
    assert kept.path == tmp_path / "line.sock.unsettled.json"
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [kept.path.name]  # nothing half-written is left
    assert file_in(tmp_path).load() == [PERMITTED, REJECTED]
    assert file_in(tmp_path).load() == [PERMITTED, REJECTED]  # it stays until it is removed
    kept.save([REJECTED])
    assert file_in(tmp_path).load() == [REJECTED]
    kept.remove()
    kept.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_ticket_without_an_answer_was_ended_by_the_stop(tmp_path: Path) -> None:
    file_in(tmp_path).save([(PERMITTED[0], None)])
    assert file_in(tmp_path).load() == [(PERMITTED[0], GateAnswer(False, "STOPPING", 0))]


@pytest.mark.parametrize(("written", "read"), [(BOOT, "other"), ("", ""), (BOOT, ""), ("", BOOT)])
def test_after_a_reboot_the_times_mean_nothing(tmp_path: Path, written: str, read: str) -> None:
    file_in(tmp_path, written).save([PERMITTED, REJECTED])
    [(first, first_answer), (second, second_answer)] = file_in(tmp_path, read).load()
    assert first == Ticket("a", 7, 0, 0, PERMITTED[0].trigger_utc, 3)
    assert first_answer == GateAnswer(True, "", 0)  # what the gate did is true for ever
    assert (second.record_id, second.trigger_ns, second.deadline_ns) == ("b", 0, 0)
    assert second_answer == GateAnswer(False, "NO_DAEMON", 0)


def test_this_boot_has_a_name(tmp_path: Path) -> None:
    UnsettledFile(tmp_path / "line.sock").save([PERMITTED])
    assert UnsettledFile(tmp_path / "line.sock").load() == [PERMITTED]


def rewritten(folder: Path, **changes: Any) -> bytes:
    """A file whose checksum is right, but not what it says."""
    kept = file_in(folder)
    kept.save([PERMITTED, REJECTED])
    content = json.loads(kept.path.read_bytes())
    del content["crc32"]
    for key, value in changes.items():
        if key in content:
            content[key] = value
        else:
            part, _, name = key.partition("_")
            content["tickets"][0][part][name] = value
    return json.dumps({**content, "crc32": _checksum(content)}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "something else"},
        {"boot_id": 5},
        {"tickets": {}},
        {"tickets": [1]},
        {"ticket_record_id": "b"},
        {"ticket_record_id": ""},
        {"ticket_record_id": "x" * 65},
        {"ticket_part_id": 65_536},
        {"ticket_part_id": "7"},
        {"ticket_recipe": -1},
        {"ticket_trigger_ns": -1},
        {"ticket_deadline_ns": 2**63},
        {"ticket_deadline_ns": 1.5},
        {"ticket_trigger_utc": None},
        {"answer_permitted": 1},
        {"answer_permitted": False},
        {"answer_reason": "DEADLINE"},
    ],
)
def test_a_foreign_file_is_set_aside(tmp_path: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    data = rewritten(tmp_path, **changes)
    refused(tmp_path, data, caplog)


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"format": "edge-daemon unsettled tickets 1"}', b"9" * 5000],
)
def test_no_such_file_at_all_is_set_aside(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    refused(tmp_path, data, caplog)


def refused(folder: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    kept = file_in(folder)
    kept.path.write_bytes(data)
    with caplog.at_level(logging.ERROR):
        assert kept.load() == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert str(kept.path) in caplog.text
    assert not kept.path.exists()
    assert kept.path.with_name("line.sock.unsettled.json.bad").read_bytes() == data


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = file_in(tmp_path / "other")
    elsewhere.path.parent.mkdir()
    elsewhere.save([PERMITTED])
    kept = file_in(tmp_path)
    kept.path.symlink_to(elsewhere.path)
    assert kept.load() == []
    assert "are lost" in caplog.text
    kept.path.with_name(kept.path.name + ".part").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"):
        kept.save([REJECTED])
    assert not (tmp_path / "precious").exists()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_becomes_another_ticket(tmp_path: Path, data: st.DataObject) -> None:
    """Cut short, or up to three bytes changed: the same tickets or none."""
    kept = file_in(tmp_path)
    kept.save([PERMITTED, REJECTED])
    content = bytearray(kept.path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    kept.path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    assert kept.load() in ([], [PERMITTED, REJECTED])


def test_the_longest_ticket_is_within_the_limit(tmp_path: Path) -> None:
    kept = file_in(tmp_path)
    most = 2**63 - 1
    answer = GateAnswer(False, max(ENDED_REASONS, key=len), most)
    kept.save([(Ticket(new_record_id(), 65535, most, most, utc_now(), 65535), answer) for _ in range(100)])
    assert kept.path.stat().st_size < 100 * MAX_TICKET_BYTES
    assert len(kept.load()) == 100


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = file_in(tmp_path)
    kept.save([PERMITTED])

    def full(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        kept.save([REJECTED])
    assert file_in(tmp_path).load() == [PERMITTED]


def test_an_adopted_ticket_is_over(tmp_path: Path) -> None:
    gate = Gate(deadline_ns=100, lease_ns=50, capacity=1)
    gate.adopt(*PERMITTED)
    gate.adopt(*REJECTED)  # beyond the capacity: there is no other place for it
    gate.attach(0)
    gate.health(True, 0)
    assert gate.unsettled() == [PERMITTED, REJECTED]
    assert gate.take_ended() == []
    assert (gate.opened, gate.permitted, gate.open_count, gate.ended.total()) == (0, 0, 0, 0)
    assert gate.permit("a", 7, 1).reason == "DUPLICATE"
    assert gate.permit("b", 8, 1).reason == "RESTARTED"
    assert not gate.decline("a", 1)
    assert gate.open("c", 9, 0, "", 1) is None  # no room before the old ones have their records
    with pytest.raises(ValueError, match="used before"):
        gate.adopt(*PERMITTED)
    assert gate.settle("a", 2)
    assert gate.settle("b", 2)
    assert gate.unsettled() == []
    assert gate.open("c", 9, 0, "", 3) is not None
