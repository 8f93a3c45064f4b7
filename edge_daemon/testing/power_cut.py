"""The memory bank, killed before every single system call that writes, truncates, syncs, renames or removes.

    python -m edge_daemon.testing.power_cut [--folder DIR] [--every 1] [--json]

A child process opens a bank, notes tickets, writes drafts and stores records with their messages, and says on a pipe
what has been acknowledged. strace ends it with SIGKILL on entering the n-th such call on the bank's files, for n = 1,
2, ... until the child comes through. After each cut the bank is opened again: its pages must be whole, its audit chain
unbroken, everything acknowledged there, a record and its message both there or neither, and storing the same records
once more must leave each of them once.

A killed process loses nothing that it has handed to the kernel, so this proves the order of the calls, not what a disk
does that loses what was not synced; SQLite's own tests are about that, and ``synchronous=FULL`` is what they need.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ..memory import MemoryBank
from ..records import Outcome, Record
from ..tickets import Ticket

__all__ = ["CALLS", "Cuts", "cut_everywhere"]

#: What SQLite and the bank change files with.
CALLS = ("fdatasync", "fsync", "ftruncate", "unlink", "rename", "write", "pwrite64")
RECORDS = 2


@dataclass(frozen=True, slots=True)
class Cuts:
    """What one walk over one kind of call found. cuts: kills; acknowledged: operations the child had told of."""

    call: str
    cuts: int
    acknowledged: int
    damaged: int
    lost: int
    torn: int
    doubled: int


def _record(number: int) -> tuple[Ticket, Record]:
    record_id = f"cut-{number}"
    utc = f"2026-01-01T00:00:0{number}.000Z"
    document = {"record_id": record_id, "part_id": number, "result": "PASS", "outcome": "PASS", "defects": []}
    ticket = Ticket(record_id, number, 1000 * number, 1000 * number + 500, utc)
    return ticket, Record(record_id, number, "cut", utc, Outcome.PASS, "PASS", document)


def _work(path: Path) -> None:
    """The child: every operation is told of once it is durable."""
    with MemoryBank(path) as bank:
        for number in range(1, RECORDS + 1):
            ticket, record = _record(number)
            bank.open_ticket(ticket, "cut")
            print(f"ticket {number}", flush=True)  # noqa: T201  # the protocol with the parent
            bank.intend(ticket, "cut", record.document)
            print(f"draft {number}", flush=True)  # noqa: T201
            bank.store(record, "cut/result", json.dumps(record.document).encode())
            print(f"record {number}", flush=True)  # noqa: T201


def _cut(path: Path, call: str, at: int) -> tuple[list[str], bool]:
    """Run the child until the ``at``-th ``call`` on the bank's files; what it told of, and whether it came through."""
    files = [word for name in ("", "-wal", "-shm", "-journal") for word in ("-P", f"{path}{name}")]
    inject = f"inject={call}:signal=KILL:when={at}"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", *files, "-e", inject,
         sys.executable, "-m", "edge_daemon.testing.power_cut", "--child", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, -9, 137):
        raise RuntimeError(f"the child failed by itself: {done.stderr[-500:]}")
    return done.stdout.split("\n")[:-1], done.returncode == 0


def _examine(path: Path, told: list[str]) -> Cuts:
    """The bank after one cut, and after the work was done again."""
    damaged = lost = torn = doubled = 0
    with MemoryBank(path) as bank:
        db = sqlite3.connect(path)
        damaged += db.execute("PRAGMA integrity_check").fetchone() != ("ok",)
        damaged += not bank.verify().ok
        drafts = {entry.record_id for entry in bank.unfinished_tickets() if entry.draft is not None}
        tickets = {entry.record_id for entry in bank.unfinished_tickets()}
        records = {number for (number,) in db.execute("SELECT part_id FROM records")}
        messages = {json.loads(payload)["part_id"] for (payload,) in db.execute("SELECT payload FROM outbox")}
        db.close()
        torn += len(records ^ messages)
        for line in told:
            what, number = line.split()
            record_id, stored = f"cut-{number}", int(number) in records
            if not {"ticket": stored or record_id in tickets, "draft": stored or record_id in drafts,
                    "record": stored}[what]:  # fmt: skip
                lost += 1
        for part_id in range(1, RECORDS + 1):
            ticket, record = _record(part_id)
            bank.open_ticket(ticket, "cut")
            bank.store(record, "cut/result", json.dumps(record.document).encode())
        doubled += len(bank.history(limit=100)) != RECORDS or bank.outbox_state()[0] != RECORDS
        damaged += not bank.verify().ok
    return Cuts("", 0, len(told), damaged, lost, torn, doubled)


def cut_everywhere(call: str, folder: Path, *, every: int = 1, fresh: bool = False) -> Cuts:
    """Cut at the first, the (1 + every)-th, ... of these calls. fresh: the bank's file is made by the child as well."""
    cuts = acknowledged = damaged = lost = torn = doubled = 0
    at = 1
    while True:
        place = Path(tempfile.mkdtemp(dir=folder))
        try:
            path = place / "memory.db"
            if not fresh:
                MemoryBank(path).close()
            told, through = _cut(path, call, at)
            found = _examine(path, told)
        finally:
            shutil.rmtree(place)
        damaged, lost = damaged + found.damaged, lost + found.lost
        torn, doubled = torn + found.torn, doubled + found.doubled
        if through:
            return Cuts(call, cuts, acknowledged, damaged, lost, torn, doubled)
        cuts, acknowledged, at = cuts + 1, acknowledged + len(told), at + every


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 nothing lost, 1 something was."""
    parser = argparse.ArgumentParser(prog="python -m edge_daemon.testing.power_cut", description=cut_everywhere.__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--every", type=int, default=1, help="only every n-th boundary")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child is not None:
        _work(given.child)
        return 0
    bad = 0
    for fresh in (False, True):
        for call in CALLS:
            found = cut_everywhere(call, given.folder, every=given.every, fresh=fresh)
            bad += found.damaged + found.lost + found.torn + found.doubled
            sentence = (
                f"{'new bank, ' if fresh else ''}{call}: {found.cuts} cuts, {found.acknowledged} operations told of, "
                f"damaged {found.damaged}, lost {found.lost}, torn {found.torn}, doubled {found.doubled}"
            )
            text = json.dumps({**asdict(found), "fresh": fresh}) if given.json else sentence
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
