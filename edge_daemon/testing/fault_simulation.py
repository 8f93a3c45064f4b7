"""A million parts on simulated time: the real line process, gate and register picture, and faults at random.

1,200 parts a minute, a deadline of 300 ms, so that six parts are under way at once. Nothing waits: time goes in steps
of 5 ms. The PLC polls, acknowledges and decides by WIRE.md alone; every tenth part has a defect. The daemon is played:
it takes 20 to 320 ms, answers right, late, twice, for another part, dies and comes back, and knows which records it
has stored. What is compared at the end: let through against what the daemon said and what was planted; records against
triggers that had their ticket. Real processes, wires and disks are ``faults``.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from ..line.options import LineOptions
from ..line.process import LineProcess
from ..line.wire import ResultNote
from ..tickets import Ticket
from .model_check import Driver, Outside, bare_line

__all__ = ["simulate"]

MS = 1_000_000
STEP_NS = 5 * MS
PERIOD_NS = 50 * MS  # 1,200 a minute
PLC_DEADLINE_NS = 350 * MS
BEAT_NS = 100 * MS
_OPTIONS = LineOptions("modbus-server", "-", "-", 0.3)
_ENABLE, _TRIGGER, _ACK = 2, 4, 8
_PASS, _FAIL = ResultNote("PASS"), ResultNote("FAIL", "LIMIT_EXCEEDED")


class _Socket(Outside):
    """What the line process tells the daemon."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **values: Any) -> None:
        self.told.append((kind, values))


@dataclass(slots=True)
class _Waiting:
    part: int
    part_id: int
    deadline_ns: int
    record: str = ""


@dataclass(slots=True)
class _Sim:
    dice: random.Random
    now_ns: int = 1_000 * MS
    socket: _Socket = field(default_factory=_Socket)
    line: LineProcess = field(init=False)
    # the PLC
    waiting: dict[int, _Waiting] = field(default_factory=dict)  # by part id
    queue: deque[_Waiting] = field(default_factory=deque)
    shaking: _Waiting | None = None
    control: int = _ENABLE
    toggle: int | None = None
    beat: int | None = None
    beat_ns: int = 0
    let_through: list[tuple[int, str]] = field(default_factory=list)
    part: int = 0
    # the daemon
    attached: bool = False
    jobs: list[tuple[int, Ticket]] = field(default_factory=list)
    stored: Counter[str] = field(default_factory=Counter)
    noted: set[str] = field(default_factory=set)
    said_pass: set[str] = field(default_factory=set)
    truth: dict[str, bool] = field(default_factory=dict)  # record -> sound
    tickets: dict[str, int] = field(default_factory=dict)  # record -> part
    lost_with_line: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    until: dict[str, int] = field(default_factory=dict)  # fault -> its end

    def sound(self, part: int) -> bool:
        return part % 10 != 0

    # -- the line process ---------------------------------------------------------------------------------------------

    def new_line(self) -> None:
        self.socket = _Socket()
        self.line = bare_line(_OPTIONS, self.socket, Driver(), self.now_ns, 65_536)
        self.line.__dict__["_now"] = lambda: self.now_ns
        self.attached = False
        self.jobs.clear()

    def port(self, there: bool) -> None:
        self.socket.connected = there
        self.line._on_port(there)

    def kill_line(self) -> None:
        for record in list(self.line._gate._entries):
            if not self.stored[record]:
                if record in self.noted:
                    self.store(record)  # from the daemon's journal
                else:
                    self.lost_with_line.add(record)
        self.new_line()
        self.until["port away"] = self.now_ns + 100 * MS

    # -- the daemon ---------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        self.attached = True
        self.line._on_attach()
        for kind, values in self.socket.told:
            if kind == "unsettled":
                record = values["ticket"]["record_id"]
                self.noted.add(record)
                if values["answer"] is not None:
                    self.store(record)
        self.socket.told.clear()

    def detach(self) -> None:
        self.attached = False
        self.jobs.clear()
        self.line._on_detach()
        self.socket.told.clear()

    def store(self, record: str) -> None:
        if not self.stored[record]:  # the bank's primary key
            self.stored[record] += 1
        self.line._on_settle(record)

    def hear(self) -> None:
        while self.socket.told:
            kind, values = self.socket.told.pop(0)
            if kind == "opened":
                ticket = Ticket(**values["ticket"])
                self.noted.add(ticket.record_id)
                self.jobs.append((self.now_ns + self.dice.choice((20, 60, 80, 100, 120, 150, 200, 320)) * MS, ticket))
            elif kind == "ended":
                self.store(values["ticket"]["record_id"])

    def work(self) -> None:
        while self.jobs and self.jobs[0][0] <= self.now_ns:
            _, ticket = self.jobs.pop(0)
            self.answer(ticket)
            self.hear()

    def answer(self, ticket: Ticket) -> None:
        record, sound = ticket.record_id, self.truth[ticket.record_id]
        if not sound:
            self.line._on_inform({"record_id": record, "note": _note(_FAIL)})
            if self.dice.random() < 0.02:
                self.permit(record, ticket.part_id, _PASS, right=False)  # a PASS after the FAIL
            return
        stray = self.dice.random()
        if stray < 0.002 and self.jobs:
            other = self.jobs[-1][1]  # out of its turn, and for another part
            self.permit(other.record_id, ticket.part_id, _PASS, right=False)
        elif stray < 0.004:
            self.permit("nobody", ticket.part_id, _PASS, right=False)
        elif stray < 0.006:
            self.permit(record, ticket.part_id, _FAIL, right=False)
        self.permit(record, ticket.part_id, _PASS, right=True)
        if stray > 0.99:
            self.permit(record, ticket.part_id, _PASS, right=True)

    def permit(self, record: str, part_id: int, note: ResultNote, *, right: bool) -> None:
        if right and self.now_ns < self.until.get("deadline of " + record, 1 << 62):
            self.said_pass.add(record)
        self.line._on_permit({"id": 0, "record_id": record, "part_id": part_id, "note": _note(note)})
        self.counts["permits"] += 1

    # -- the PLC ------------------------------------------------------------------------------------------------------

    def next_part(self) -> None:
        self.part += 1
        part_id = self.part & 0xFFFF
        one = _Waiting(self.part, part_id, self.now_ns + PLC_DEADLINE_NS)
        self.waiting[part_id] = one
        self.queue.append(one)

    def write(self) -> None:
        registers = self.line._driver.registers  # type: ignore[attr-defined]
        part_id = self.shaking.part_id if self.shaking else 0
        before = set(self.line._gate._entries) if self.control & _TRIGGER else set()
        self.line._notice_stall(self.now_ns)
        registers.refresh(self.now_ns)
        self.line._take(registers.written(self.control, part_id, 0, self.now_ns), self.now_ns)
        if self.control & _TRIGGER and self.shaking is not None:
            for record in self.line._gate._entries.keys() - before:
                self.shaking.record = record
                self.tickets[record] = self.shaking.part
                self.truth[record] = self.sound(self.shaking.part)

    def poll(self) -> None:
        registers = self.line._driver.registers  # type: ignore[attr-defined]
        if self.shaking is None and not self.control & _TRIGGER:
            while self.queue and self.queue[0].part_id not in self.waiting:
                self.queue.popleft()
            if self.queue:
                self.shaking = self.queue.popleft()
                self.control |= _TRIGGER
                self.write()
        registers.refresh(self.now_ns)
        status, part_id, result_part_id, *_ = registers.input_words()
        registers.carried()
        bit = [status >> number & 1 for number in range(10)]
        if self.beat is not None and bit[0] != self.beat:
            self.beat_ns = self.now_ns
        self.beat = bit[0]
        if self.shaking is not None and (
            (bit[2] and part_id == self.shaking.part_id) or self.shaking.part_id not in self.waiting
        ):
            self.shaking = None
        control = self.control & ~(_TRIGGER if self.shaking is None else 0)
        is_new = self.toggle is not None and bit[4] != self.toggle
        self.toggle = bit[4]
        waiting = self.waiting.get(result_part_id)
        if (
            bit[5] and bit[6] and not bit[7] and is_new and waiting is not None
            and self.now_ns - self.beat_ns < 300 * MS and self.now_ns < waiting.deadline_ns
        ):  # fmt: skip
            self.let_through.append((waiting.part, waiting.record))
            del self.waiting[result_part_id]
        control = control | _ACK if bit[5] else control & ~_ACK
        if control != self.control:
            self.control = control
            self.write()

    def restart_plc(self) -> None:
        self.waiting.clear()
        self.queue.clear()
        self.shaking, self.toggle, self.beat, self.beat_ns = None, None, None, 0
        self.control = _ENABLE
        if self.socket.connected:
            self.write()

    # -- time ---------------------------------------------------------------------------------------------------------

    def step(self, steps: int) -> None:
        self.now_ns += STEP_NS
        for name in [name for name, end_ns in self.until.items() if self.now_ns >= end_ns]:
            del self.until[name]
            if name == "port away":
                self.port(True)
            elif name == "daemon away":
                self.attach()
        for part_id in [p for p, one in self.waiting.items() if self.now_ns >= one.deadline_ns]:
            del self.waiting[part_id]
        if steps % (PERIOD_NS // STEP_NS) == 0:
            self.next_part()
        if "line stopped" in self.until:
            return
        if steps % (BEAT_NS // STEP_NS) == 0:
            self.line._tick()
        deadline_ns = self.line._gate.next_deadline_ns
        if deadline_ns is not None and self.now_ns >= deadline_ns:
            self.line._expire()
        if self.attached and "daemon stopped" not in self.until:
            self.hear()
            if steps % (BEAT_NS // STEP_NS) == 0:
                self.line._on_health("unfit" not in self.until, [])
            self.work()
        elif not self.attached:
            self.socket.told.clear()
            if "daemon away" not in self.until:
                self.until["daemon away"] = self.now_ns + 300 * MS
        if self.socket.connected and "PLC silent" not in self.until:
            self.poll()

    def fault(self) -> str:
        name = self.dice.choice(("daemon killed", "daemon stopped", "line killed", "line stopped", "cable pulled",
                                 "PLC silent", "PLC restarted", "unfit", "both killed"))  # fmt: skip
        end_ns = self.now_ns + self.dice.randrange(20, 1500) * MS
        if name in ("daemon killed", "both killed") and self.attached:
            self.detach()
            self.until["daemon away"] = end_ns
        if name in ("line killed", "both killed"):
            self.kill_line()
        elif name == "cable pulled" and self.socket.connected:
            self.port(False)
            self.until["port away"] = end_ns
        elif name == "PLC restarted":
            self.restart_plc()
        elif name in ("daemon stopped", "line stopped", "PLC silent", "unfit"):
            self.until[name] = end_ns
        return name


def _note(note: ResultNote) -> dict[str, Any]:
    return {"outcome": note.outcome, "reason_code": note.reason_code, "severity_x10": 0, "unknown": note.unknown}


def simulate(parts: int, seed: int, parts_a_fault: float = 200.0) -> dict[str, Any]:
    """Run ``parts`` parts, a fault every ``parts_a_fault`` of them on the average; the counts of the comparison."""
    logger = logging.getLogger("edge_daemon.line")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    started_s = time.monotonic()
    sim = _Sim(random.Random(seed))  # noqa: S311  # to be had again, not to be secret
    sim.new_line()
    sim.port(True)
    sim.attach()
    faults: Counter[str] = Counter()
    steps = 0
    try:
        while sim.part < parts:
            sim.step(steps)
            steps += 1
            if sim.dice.random() < STEP_NS / PERIOD_NS / parts_a_fault:
                faults[sim.fault()] += 1
        for _ in range(1000):  # everything comes back, and every ticket to its record
            steps = steps // 10 * 10 + 1 if steps % 10 == 0 else steps
            sim.step(steps)
            steps += 1
    finally:
        logger.setLevel(level)
    wrong = [
        (part, record)
        for part, record in sim.let_through
        if not sim.sound(part) or record not in sim.said_pass or sim.tickets.get(record) != part
    ]
    twice = Counter(part for part, _ in sim.let_through)
    return {
        "parts": sim.part, "simulated_hours": round(sim.now_ns / 3.6e12, 2), "seed": seed,
        "seconds": round(time.monotonic() - started_s), "tickets": len(sim.tickets),
        "let_through": len(sim.let_through), "permits": sim.counts["permits"],
        "wrong": len(wrong) + sum(count > 1 for count in twice.values()),
        "missing": sum(not sim.stored[record] and record not in sim.lost_with_line for record in sim.tickets),
        "doubled": sum(count > 1 for count in sim.stored.values()),
        "lost_with_a_killed_line_process": len(sim.lost_with_line), "faults": dict(faults),
    }  # fmt: skip
