"""Every reachable state of gate, line process and register picture, against a PLC that knows only the wire.

    python -m edge_daemon.testing.model_check [--parts 2] [--states 2000000] [--json]

Breadth-first search over all interleavings of what may happen: triggers (part ids used again, also after a restart of
the PLC), the PLC's polls and acknowledgements, time passing with or without the process being run, permits (right, of
another part id, that are no PASS; early, late, doubled, out of order), declines, settled records, health and its lapse,
the daemon's death and return, the port lost and back, the line process killed or stopped cleanly, the PLC restarted.
The transition function is the product's own: ``LineProcess`` with its ``Gate`` and ``Registers``; only socket, port and
event loop are replaced. One step of time is one heartbeat. Two states are one where they differ by names of records,
numbers of parts, or by how long ago something ended.

Checked in every state, from a history kept beside and not from the gate:
- the PLC opens for a part only with that part's own PASS, given by the daemon that saw its trigger, while that daemon
  was attached and fit, before the deadline, with no fault since the trigger; and once;
- every ticket is answered exactly once, and never forgotten before;
- a permit is granted only where this history allows it.

Not covered: bytes and framing (the contract tests), parts in flight beyond ``parts``, and what the PLC does with the
gate. The search ends when nothing new is reachable; it is complete only if it says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from ..line.driver import LineEvent, Trigger, Wire
from ..line.gate import Gate
from ..line.options import LineOptions
from ..line.process import LineProcess
from ..line.registers import Registers
from ..line.wire import ResultNote
from ..tickets import GateAnswer, Ticket

_T = TypeVar("_T")

__all__ = ["Driver", "Outside", "Violation", "bare_line", "check", "main"]

STEP_NS = 100_000_000
_CAPACITY = 2
DEADLINE_STEPS = 2
LEASE_STEPS = 2
PLC_DEADLINE_STEPS = 3
PLC_BEAT_STEPS = 3
ENABLE, TRIGGER, ACK = 2, 4, 8
PASS, FAIL = ResultNote("PASS"), ResultNote("FAIL", "LIMIT_EXCEEDED")
_OPTIONS = LineOptions("modbus-server", "-", "-", DEADLINE_STEPS * 0.1, lease_s=LEASE_STEPS * 0.1, held_s=0.1)


class Violation(AssertionError):
    """An invariant is broken; the message says which, ``trace`` how one gets there."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.trace: tuple[str, ...] = ()


def bare_line(options: LineOptions, outside: Outside, driver: Driver, now_ns: int, capacity: int) -> LineProcess:
    """A line process without loop, socket and port: its callbacks are called by whoever plays them. ``_now`` is to be
    set."""
    line = LineProcess.__new__(LineProcess)
    line.__dict__.update(
        _options=options, _now=None, _loop=outside, _driver=driver, _port=outside, _server=outside, _kept=outside,
        _gate=Gate(round(options.deadline_s * 1e9), round(options.lease_s * 1e9), capacity=capacity),
        _adopted=set(), _never_shown=0, _stopping=False, _beat=False, _was_ready=False, _reasons=[],
        _plc_beat_ns=None, _plc_was_connected=False, _expiry=None, _expiry_ns=None, _timers=[], _full=False,
        _tick_ns=now_ns, _stale_until_ns=0, done=outside,
    )  # fmt: skip
    return line


# -- the world around the line process -------------------------------------------------------------------------------


class Driver:
    """A Modbus driver without frames: the register picture, read and written by the model's PLC."""

    poll_s: float | None = None
    protocol_errors = 0

    def __init__(self, registers: Registers | None = None, wired: bool = False) -> None:
        self.registers = Registers() if registers is None else registers
        self.wired = wired
        self.told: list[str] = []  # tickets that the line process called over

    def open(self, wire: Wire) -> None:
        self.close()
        self.wired = True

    def close(self) -> None:
        self.wired = False
        self.registers.clear()

    def received(self, data: bytes, now_ns: int) -> list[LineEvent]:
        return []

    def poll(self, now_ns: int) -> list[LineEvent]:
        return []

    def accepted(self, trigger: Trigger, ticket: Ticket) -> None:
        self.registers.accepted(ticket)

    def refused(self, trigger: Trigger) -> None:
        self.registers.refused(trigger.part_id)

    def permit(self, ticket: Ticket, note: ResultNote, now_ns: int) -> bool:
        return self.wired and self.registers.permit(ticket, note, now_ns)

    def inform(self, ticket: Ticket, note: ResultNote, now_ns: int) -> None:
        if self.wired:
            self.registers.inform(ticket, note, now_ns)

    def ended(self, ticket: Ticket) -> None:
        self.registers.ended(ticket)
        self.told.append(ticket.record_id)

    def take_never_shown(self, now_ns: int) -> list[Ticket]:
        return self.registers.take_never_shown(now_ns)

    def heartbeat(self, beat: bool, ready: bool, fault: bool) -> None:
        self.registers.heartbeat(beat, ready, fault)


class Outside:
    """Loop, timer, socket and file of the line process: they take everything, and remember what the daemon is told."""

    def __init__(self) -> None:
        self.answers: list[GateAnswer] = []
        self.connected = False
        self.saved: list[tuple[Ticket, GateAnswer | None]] = []

    def send(self, kind: str, **values: Any) -> None:
        if kind == "answer":
            answer = values["answer"]
            self.answers.append(GateAnswer(answer["permitted"], answer["reason"], 0))

    def call_later(self, *_: object) -> Outside:
        return self

    call_soon = call_at = call_later

    def cancel(self) -> None: ...
    def remove(self) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...
    def set_result(self, _: None) -> None: ...

    @property
    def path(self) -> Path:
        return Path("-")

    def save(self, tickets: list[tuple[Ticket, GateAnswer | None]]) -> None:
        self.saved = list(tickets)


@dataclass(slots=True)
class _Ghost:
    """What is true of one ticket, kept beside the gate. blessed: its own PASS came as it has to."""

    part: int  # which part of the PLC; names nothing else
    part_id: int
    born: int
    session: int  # 0: nobody was attached
    spoilt: bool = False
    blessed: bool = False
    answers: int = 0
    settled: bool = False


@dataclass(slots=True)
class _Plc:
    """The PLC's program, from WIRE.md. waiting: part -> (part id, record or "", when triggered)."""

    waiting: dict[int, tuple[int, str, int]] = field(default_factory=dict)
    control: int = 0
    shaking: int | None = None
    toggle: int | None = None
    beat: int | None = None
    beat_at: int | None = None


class World:
    """One state. Cloned for every step; ``key`` names it up to symmetry."""

    def __init__(self) -> None:
        self.now = 1
        self.parts = 0
        self.session = self.sessions = 0
        self.fit_until = 0
        self.ghosts: dict[str, _Ghost] = {}
        self.plc = _Plc()
        self.outside = Outside()
        self.line = self._new_line()

    def _new_line(self) -> LineProcess:
        return bare_line(_OPTIONS, self.outside, Driver(), self.now * STEP_NS, _CAPACITY)

    def clone(self) -> World:
        other = World.__new__(World)
        other.now, other.parts = self.now, self.parts
        other.session, other.sessions, other.fit_until = self.session, self.sessions, self.fit_until
        other.ghosts = {name: _copy(ghost) for name, ghost in self.ghosts.items()}
        other.plc = _copy(self.plc)
        other.plc.waiting = dict(self.plc.waiting)
        quiet = other.outside = Outside()
        quiet.connected = self.outside.connected
        line = other.line = LineProcess.__new__(LineProcess)
        line.__dict__.update(self.line.__dict__)
        driver = cast(Driver, self.line._driver)
        registers, gate = _copy(driver.registers), _copy(self.line._gate)
        registers._open, registers._waiting = set(registers._open), deque(registers._waiting)
        registers._never_shown = []
        gate._entries = {name: _copy(entry) for name, entry in gate._entries.items()}
        gate._open = {name: gate._entries[name] for name in gate._open}
        gate._news = list(gate._news)
        line.__dict__.update(
            _driver=Driver(registers, driver.wired), _gate=gate, _port=quiet, _server=quiet, _loop=quiet, _kept=quiet,
            _adopted=set(self.line._adopted), done=quiet,
        )  # fmt: skip
        other._set_clock()
        return other

    def _set_clock(self) -> None:
        now_ns = self.now * STEP_NS
        self.line.__dict__["_now"] = lambda: now_ns

    # -- what may happen ----------------------------------------------------------------------------------------------

    def steps(self, parts: int) -> Iterator[tuple[str, Callable[[World], None]]]:
        """Name and effect of everything that may happen next."""
        yield "time passes", World._pass_time
        yield "the process beats", World._beat
        if self.line._gate.open_count:
            yield "the deadline timer", World._expire
        if self.outside.connected:
            yield "the port is lost", lambda w: w._port(False)
            yield "the PLC polls", World._poll
            if not self.plc.control & TRIGGER and len(self.plc.waiting) < parts:
                used = {part_id for part_id, _, _ in self.plc.waiting.values()}
                for part_id in range(1, parts + 1):
                    if part_id not in used:
                        yield f"trigger of part {part_id}", partial(World._trigger, part_id=part_id)
        else:
            yield "the port is back", lambda w: w._port(True)
        yield "the PLC restarts", World._restart_plc
        yield "the line process is killed", lambda w: w._restart_line(clean=False)
        yield "the line process is restarted cleanly", lambda w: w._restart_line(clean=True)
        if not self.session:
            yield "a daemon attaches", World._attach
            return
        yield "the daemon dies", World._detach
        yield "fit", lambda w: w._health(True)
        yield "not fit", lambda w: w._health(False)
        for at, name in enumerate(self.line._gate._entries, 1):
            right = self.ghosts[name].part_id
            for what, part_id, note in (
                ("", right, PASS),
                (" as another part", right % 2 + 1, PASS),
                (" as a FAIL", right, FAIL),
            ):
                yield f"permit for ticket {at}{what}", partial(World._permit, name=name, part_id=part_id, note=note)
            yield f"decline of ticket {at}", partial(World._decline, name=name)
            yield f"ticket {at} is settled", partial(World._settle, name=name)

    def _pass_time(self) -> None:
        self.now += 1
        self._set_clock()
        for part, (_, _, born) in list(self.plc.waiting.items()):
            if self.now >= born + PLC_DEADLINE_STEPS:
                del self.plc.waiting[part]  # rejected: the gate is closed

    def _beat(self) -> None:
        self.line._tick()

    def _expire(self) -> None:
        self.line._expire()

    def _port(self, there: bool) -> None:
        self.outside.connected = there
        self.line._on_port(there)
        if there:  # a PLC that has noticed nothing: its words are as they were
            waiting = self.plc.waiting.get(self.plc.shaking or 0)
            self._write(self.plc.control | ENABLE, waiting[0] if waiting else 0)
        else:
            self._spoil()

    def _restart_plc(self) -> None:
        self.plc = _Plc()
        if self.outside.connected:
            self._write(ENABLE, 0)

    def _restart_line(self, *, clean: bool) -> None:
        if clean:
            self.line.stop()
            self._look()
        saved = self.outside.saved
        self.outside = Outside()
        self.session = 0
        self._spoil()
        for name, ghost in self.ghosts.items():
            if name not in {ticket.record_id for ticket, _ in saved}:
                ghost.answers, ghost.settled = 1, True  # its record comes from the daemon's journal
        self.line = self._new_line()
        self._set_clock()
        for ticket, answer in saved:
            # What the file makes of an answer that is missing is UnsettledFile's; the stop leaves none open.
            self.line._gate.adopt(ticket, answer or GateAnswer(False, "STOPPING", 0))
            self.line._adopted.add(ticket.record_id)

    def _attach(self) -> None:
        self.sessions += 1
        self.session = self.sessions
        self.fit_until = 0
        self.line._on_attach()

    def _detach(self) -> None:
        for ghost in self.ghosts.values():
            ghost.spoilt |= ghost.session == self.session
        self.session = 0
        self.line._on_detach()

    def _health(self, fit: bool) -> None:
        self.fit_until = self.now + LEASE_STEPS if fit else 0
        self.line._on_health(fit, [])

    def _permit(self, name: str, part_id: int, note: ResultNote) -> None:
        ghost = self.ghosts[name]
        older = [g for g in self.ghosts.values() if g.part < ghost.part and self._is_open(g)]
        right = (
            self._is_open(ghost)
            and ghost.session == self.session != 0
            and part_id == ghost.part_id
            and note.is_pass
            and self.now < self.fit_until
            and not any(g.session == self.session for g in older)
        )
        message = {"id": 1, "record_id": name, "part_id": part_id, "note": _note(note)}
        self.line._on_permit(message)
        granted = self.outside.answers[-1].permitted
        if granted and not right:
            raise Violation(f"a permit for {name} was granted that must not be")
        if granted and ghost.blessed:
            raise Violation(f"a second permit for {name} was granted")
        ghost.blessed |= granted
        if not granted and self._is_open(ghost):
            ghost.spoilt = True  # a permit that names an open ticket ends it
        self._look()

    def _is_open(self, ghost: _Ghost) -> bool:
        return not ghost.spoilt and not ghost.blessed and self.now < ghost.born + DEADLINE_STEPS

    def _decline(self, name: str) -> None:
        self.ghosts[name].spoilt |= not self.ghosts[name].blessed
        self.line._on_inform({"record_id": name, "note": _note(FAIL)})

    def _settle(self, name: str) -> None:
        self.line._on_settle(name)
        self.ghosts[name].settled = True
        self.ghosts[name].spoilt |= not self.ghosts[name].blessed

    def _spoil(self) -> None:
        for ghost in self.ghosts.values():
            ghost.spoilt |= not ghost.blessed

    # -- the PLC ------------------------------------------------------------------------------------------------------

    def _write(self, control: int, part_id: int, part: int = 0) -> None:
        """The PLC's words, and what the line process makes of them."""
        line, plc, now_ns = self.line, self.plc, self.now * STEP_NS
        plc.control = control
        registers = cast(Driver, line._driver).registers
        line._notice_stall(now_ns)
        registers.refresh(now_ns)
        events = registers.written(control, part_id, 0, now_ns)
        known = set(line._gate._entries)
        line._take(events, now_ns)
        found = [name for name in line._gate._entries if name not in known]
        if any(isinstance(event, Trigger) for event in events):
            twins = [ghost for name, ghost in self.ghosts.items() if ghost.part_id == part_id and self._is_open(ghost)]
            for twin in twins:
                twin.spoilt = True
            spoilt = bool(twins) or now_ns < line._stale_until_ns
            for name in found:
                self.ghosts[name] = _Ghost(part, part_id, self.now, self.session, spoilt)
                self.plc.waiting[part] = (part_id, name, self.now)

    def _trigger(self, part_id: int) -> None:
        self.parts += 1
        self.plc.waiting[self.parts] = (part_id, "", self.now)
        self.plc.shaking = self.parts
        self._write(ENABLE | TRIGGER, part_id, self.parts)

    def _poll(self) -> None:
        plc, now_ns = self.plc, self.now * STEP_NS
        registers = cast(Driver, self.line._driver).registers
        registers.refresh(now_ns)
        status, part_id, result_part_id, *_ = registers.input_words()
        registers.carried()
        bit = [status >> number & 1 for number in range(10)]
        if plc.beat is not None and bit[0] != plc.beat:
            plc.beat_at = self.now
        plc.beat = bit[0]
        control = plc.control
        if plc.shaking is not None:
            waiting = plc.waiting.get(plc.shaking)
            if waiting is None or (bit[2] and part_id == waiting[0]):
                control &= ~TRIGGER
                plc.shaking = None
        elif control & TRIGGER:
            control &= ~TRIGGER
        is_new = plc.toggle is not None and bit[4] != plc.toggle
        plc.toggle = bit[4]
        alive = plc.beat_at is not None and self.now - plc.beat_at < PLC_BEAT_STEPS
        if bit[5] and bit[6] and not bit[7] and is_new and alive:
            for part, (wanted, record, _) in list(plc.waiting.items()):
                if wanted == result_part_id:
                    self._open_gate(part, record)
        control = control | ACK if bit[5] else control & ~ACK
        if control != plc.control:
            self._write(control, 0)

    def _open_gate(self, part: int, record: str) -> None:
        ghost = self.ghosts.get(record)
        if ghost is None or ghost.part != part:
            raise Violation("the gate opened for a part that never had a ticket")
        if not ghost.blessed:
            raise Violation(f"the gate opened for {record} without its own PASS")
        if self.now >= self.plc.waiting[part][2] + PLC_DEADLINE_STEPS:
            raise Violation(f"the gate opened for {record} after the PLC's deadline")
        del self.plc.waiting[part]

    # -- what must hold -----------------------------------------------------------------------------------------------

    def settle_up(self) -> None:
        """After a step: check the answers, and let go of what no invariant asks for any more."""
        self._look()
        gate = self.line._gate
        pending = [ended.ticket.record_id for ended in gate._news]  # told at the next turn of the loop
        for name, ghost in list(self.ghosts.items()):
            if name not in gate._entries and not ghost.settled:
                raise Violation(f"ticket {name} was forgotten before its record was durable")
            answer = gate._entries[name].answer if name in gate._entries else None
            if ghost.answers + pending.count(name) > 1:
                raise Violation(f"ticket {name} was answered {ghost.answers} times")
            if name in gate._entries and (answer is not None) != (ghost.answers + pending.count(name) == 1):
                raise Violation(f"ticket {name} ended without an answer, or was answered while open")
            if answer is not None and answer.permitted and not ghost.blessed:
                raise Violation(f"ticket {name} ended permitted without a permit")
        shown = cast(Driver, self.line._driver).registers
        kept = {r.ticket.record_id for r in (shown._shown, *shown._waiting) if r is not None and r.permit}
        kept |= {record for _, record, _ in self.plc.waiting.values()} | gate._entries.keys()
        self.ghosts = {name: ghost for name, ghost in self.ghosts.items() if name in kept}

    def _look(self) -> None:
        """Count the answers that went out since the last look."""
        told = cast(Driver, self.line._driver).told
        while told:
            name = told.pop(0)
            if name in self.ghosts:
                self.ghosts[name].answers += 1

    def key(self) -> tuple[Any, ...]:
        """The state up to symmetry."""
        now, gate, plc = self.now, self.line._gate, self.plc
        registers = cast(Driver, self.line._driver).registers
        names: dict[str, int] = {}
        numbers: dict[int, int] = {0: 0}
        ids: dict[int, int] = {0: 0}

        def name(record: str) -> int:
            return -1 if not record else names.setdefault(record, len(names))

        def number(part_id: int) -> int:
            return numbers.setdefault(part_id, len(numbers))

        def part(which: int) -> int:
            return ids.setdefault(which, len(ids))

        def left(until_ns: int) -> int:
            return max(0, until_ns // STEP_NS - now)

        entries = tuple(
            (name(r), number(e.ticket.part_id), e.answer and e.answer.permitted,
             0 if e.answer is not None else left(e.ticket.deadline_ns),
             e.answer is None and e.session is not None and e.session == gate._session)
            for r, e in gate._entries.items()
        )  # fmt: skip
        waiting = tuple((part(k), number(p), name(r), now - b) for k, (p, r, b) in plc.waiting.items())
        results = tuple(
            (r.permit and name(r.ticket.record_id), number(r.ticket.part_id), r.permit and left(r.ticket.deadline_ns))
            for r in (registers._shown, *registers._waiting)
            if r is not None
        )
        ghosts = tuple(
            (name(r), part(g.part) if g.part in ids else -1, g.spoilt, g.blessed, g.answers, g.settled,
             self._is_open(g) and g.session == self.session, max(0, g.born + DEADLINE_STEPS - now))
            for r, g in self.ghosts.items()
        )  # fmt: skip
        line = self.line
        informs = registers._shown is not None and not registers._shown.permit
        age = None if plc.beat_at is None else min(PLC_BEAT_STEPS, now - plc.beat_at)
        # Toggle and beat count by their changes alone: what matters is whether the PLC has seen the present value.
        return (
            entries, waiting, results, ghosts, gate.ready(now * STEP_NS), left(gate.lease_until_ns or 0),
            bool(self.session), max(0, self.fit_until - now), self.outside.connected, registers._shown is None,
            bool(informs) and min(1, now - registers._shown_ns // STEP_NS),
            left(registers._blank_until_ns), registers.control, registers._trigger_known, registers._trigger_ack,
            number(registers._part_id), len(registers._open), plc.toggle is None, registers._toggle == plc.toggle,
            plc.control, None if plc.shaking is None else part(plc.shaking), plc.beat is None,
            registers._beat == plc.beat, age, line._beat == registers._beat,
            min(3, now - line._tick_ns // STEP_NS), left(line._stale_until_ns), len(line._adopted),
        )  # fmt: skip


def _copy(of: _T) -> _T:
    """A shallow copy of a slotted object, several times faster than dataclasses.replace."""
    kind = type(of)
    twin = kind.__new__(kind)
    for name in kind.__slots__:  # type: ignore[attr-defined]
        setattr(twin, name, getattr(of, name))
    return twin


def _note(note: ResultNote) -> dict[str, Any]:
    return {"outcome": note.outcome, "reason_code": note.reason_code, "severity_x10": 0, "unknown": note.unknown}


@dataclass(frozen=True, slots=True)
class Explored:
    """What a search found out. complete: nothing else is reachable. openings: transitions in which the gate opened."""

    states: int
    transitions: int
    depth: int
    complete: bool
    seconds: float
    openings: int


def check(
    parts: int = 2, limit_states: int = 2_000_000, limit_s: float = 3600.0, begin: Sequence[str] = ()
) -> Explored:
    """Search all states with at most ``parts`` parts waiting at the PLC, from a running station on.

    begin: steps to take first, by their names, to look deeper behind them. Raises Violation with the shortest trace.
    """
    logger = logging.getLogger("edge_daemon.line")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        return _search(parts, limit_states, limit_s, begin)
    finally:
        logger.setLevel(level)


def _search(parts: int, limit_states: int, limit_s: float, begin: Sequence[str]) -> Explored:
    gc.freeze()
    gc.disable()  # nothing here refers to itself, and a million small objects are looked through for nothing
    try:
        world = _running_station()
        for name in begin:
            world = world.clone()
            dict(world.steps(parts))[name](world)
            world.settle_up()
        return _breadth_first(world, parts, limit_states, limit_s)
    finally:
        gc.enable()
        gc.unfreeze()


def _running_station() -> World:
    """Where the search begins: a daemon is attached and fit, the PLC has seen the heartbeat change. What comes before
    is reachable from here as well: everything may be lost."""
    world = World().clone()
    world._port(True)
    world.line._stale_until_ns = 0  # it has been there for long enough
    world._attach()
    world._health(True)
    for _ in range(2):
        world._beat()
        world._poll()
    world.settle_up()
    return world


def _breadth_first(first: World, parts: int, limit_states: int, limit_s: float) -> Explored:
    started_s = time.monotonic()
    seen = {first.key()}
    came: list[tuple[int, str]] = [(-1, "start")]
    frontier: deque[tuple[World, int, int]] = deque([(first, 0, 0)])
    transitions = deepest = openings = 0
    while frontier and len(came) < limit_states and time.monotonic() - started_s < limit_s:
        world, index, depth = frontier.popleft()
        deepest = max(deepest, depth)
        for what, effect in world.steps(parts):
            after = world.clone()
            transitions += 1
            try:
                effect(after)
                after.settle_up()
            except Violation as broken:
                broken.trace = (*_trace(came, index), what)
                raise
            openings += _passed(world, after, what)
            key = after.key()
            if key not in seen:
                seen.add(key)
                came.append((index, what))
                frontier.append((after, len(came) - 1, depth + 1))
    return Explored(len(came), transitions, deepest, not frontier, time.monotonic() - started_s, openings)


def _passed(before: World, after: World, what: str) -> int:
    return len(before.plc.waiting) - len(after.plc.waiting) if what == "the PLC polls" else 0


def _trace(came: list[tuple[int, str]], index: int) -> list[str]:
    steps: list[str] = []
    while index > 0:
        index, what = came[index]
        steps.append(what)
    return steps[::-1]


def main(arguments: list[str] | None = None) -> int:
    """``python -m edge_daemon.testing.model_check``: exit code 0 all states hold, 1 one does not, 4 not complete."""
    parser = argparse.ArgumentParser(prog="python -m edge_daemon.testing.model_check", description=check.__doc__)
    parser.add_argument("--parts", type=int, default=2)
    parser.add_argument("--states", type=int, default=2_000_000, help="give up after so many")
    parser.add_argument("--seconds", type=float, default=3600.0, help="give up after so long")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    try:
        found = check(given.parts, given.states, given.seconds)
    except Violation as broken:
        steps = "".join(f"\n  {number:2}. {what}" for number, what in enumerate(broken.trace, 1))
        sys.stdout.write(f"VIOLATION: {broken}, after{steps}\n")
        return 1
    text = (
        f"{found.states} states, {found.transitions} transitions, depth {found.depth}, {found.seconds:.1f} s, the gate "
        f"opened in {found.openings} of them; {'complete' if found.complete else 'NOT complete'}: every invariant holds"
    )
    result = {
        "states": found.states, "transitions": found.transitions, "depth": found.depth, "complete": found.complete,
        "seconds": round(found.seconds, 1), "openings": found.openings, "parts": given.parts,
    }  # fmt: skip
    sys.stdout.write((json.dumps(result) if given.json else text) + "\n")
    return 0 if found.complete else 4


if __name__ == "__main__":
    sys.exit(main())
