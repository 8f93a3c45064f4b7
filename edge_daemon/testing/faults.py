"""The fault campaign: real daemon and line process, real broker, pseudo-terminals, SQLite, and everything that fails.

    python -m edge_daemon.testing.faults --out DIR [--faults 1000] [--parts 1000000] [--seconds 3600] [--seed N]
                                         [--only KIND ...] [--driver ascii] [--report]

A PLC triggers parts without a pause, every second one with a planted crack; one fault after another is brought about at
a random moment, held for a random time and taken away. What ends is started again at once, as systemd would. The PLC
knows the wire alone, the subscriber the broker alone; after each shift of some thirty faults their counts and the
memory bank are compared:

wrong passes      the PLC let a part through that had a planted crack, or that no PASS was recorded for (see below)
lost, doubled     records of acknowledged triggers that are missing, or there twice
messages          record ids that never reached the subscriber, or reached it with two contents; the same message twice
                  is what QoS 1 may do, and is counted apart
recovery          from the end of the fault to the last moment the PLC saw the device not Ready, and to the first sound
                  part let through whose trigger came after the end

A good part let through whose record could not say so, because daemon or line process died between permit and record
(LINE_LOST, INTERRUPTED), is counted as unproven, and a trigger lost with a killed line process before any daemon had
noted it as unnoted: WIRE.md says that both can be. ``--parts`` is the campaign on simulated time, ``fault_simulation``.

Every fault and shift is a line of DIR/faults.jsonl; a campaign that is started again goes on. ``--report`` prints the
table of what is there. Root is needed for the full disk (a tmpfs), gcc for the stepped clock.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ..errors import EdgeError
from ..images import write_png_atomic
from ..memory import MemoryBank
from ..resources import engine_folder
from ..simulator import conveyor_part
from .broker import Broker
from .fault_kinds import KINDS, Site
from .fault_report import report, totals
from .fault_simulation import simulate
from .rig import TOPIC_ROOT, Rig
from .virtual_plc import VirtualPlc

__all__ = ["main"]

RECOVER_S = 60.0
SHIFT_FAULTS = 30
SIMULATED_RUN = 10_000
_DRAIN_S = 60.0
_TMPFS_MB = 400


@dataclass(slots=True)
class Fault:
    """One injected fault, as it goes into the file."""

    kind: str
    held_s: float
    ready_s: float | None = None
    passed_s: float | None = None
    parts: int = 0
    wrong: int = 0
    missing: int = 0
    doubled: int = 0
    unproven: int = 0
    unnoted: int = 0
    first_part: int = field(default=0, repr=False)


class Subscriber:
    """Reads the results as a factory system would: a persistent session, QoS 1."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.contents: dict[str, Counter[str]] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)
        self._client.on_message = self._message
        self._client.on_connect = lambda client, *_: client.subscribe(f"{TOPIC_ROOT}/inspection/result", qos=1)
        self._client.reconnect_delay_set(min_delay=1, max_delay=1)
        keep = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho 2 has no annotation here
        keep.SessionExpiryInterval = 86_400
        self._client.connect(broker.host, broker.port, keepalive=5, clean_start=False, properties=keep)
        self._client.loop_start()

    def _message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        content = json.loads(message.payload)
        for changing in ("seq", "age_s"):  # made at each sending
            content.pop(changing, None)
        text = json.dumps(content, sort_keys=True)
        self.contents.setdefault(content["record_id"], Counter())[text] += 1

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Keeper:
    """Starts the daemon again whenever it has ended, as systemd would."""

    def __init__(self, rig: Rig) -> None:
        self._rig, self._stop = rig, threading.Event()
        self.starts = 0
        self.pid: int | None = None
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            if self._rig.daemon_has_ended():
                self.pid = None
                with contextlib.suppress(EdgeError, OSError):  # a fault is on: again
                    self.pid = self._rig.start_daemon(20.0)
                    self.starts += 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class Conveyor:
    """Triggers parts without a pause; odd parts are sound, even ones have a crack."""

    def __init__(self, plc: VirtualPlc, rate_per_min: float) -> None:
        self._plc, self._period_s = plc, 60 / rate_per_min
        self._stop = threading.Event()
        self.triggered: dict[int, float] = {}
        self.last = 0
        self._thread = threading.Thread(target=self._run, name="conveyor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            part_id = self._plc._next_part_id
            self.triggered[part_id] = time.monotonic()
            self.last = self._plc.trigger()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class Shift:
    """One station from start to comparison, and the faults that are brought about at it."""

    def __init__(self, folder: Path, dice: random.Random, driver: str, rate_per_min: float, deadline_s: float) -> None:
        self._dice, self._rate, self._plc_deadline_s = dice, rate_per_min, deadline_s + 0.15
        self._begun_s = time.monotonic()
        self._stack = contextlib.ExitStack()
        self.faults: list[Fault] = []
        self.decided: dict[int, tuple[bool, float]] = {}
        self.acknowledged: set[int] = set()
        with contextlib.ExitStack() as stack:
            on_tmpfs = _mount(folder, stack)
            broker = stack.enter_context(Broker(kind="mosquitto"))
            pictures: list[Path] = []
            for pixels in (conveyor_part(985_000, "sound").pixels, conveyor_part(985_001, "crack").pixels):
                pictures.append(folder / f"part{len(pictures)}.png")
                write_png_atomic(pictures[-1], pixels)
                height, width = pixels.shape[:2]
            recipe = files("edge_daemon.demo").joinpath("recipe.toml").read_text()
            bundle = Path(shutil.copytree(engine_folder("castings-xray"), folder / "engine"))
            recipe = recipe.replace('engine = "castings-xray"', f'engine = "{bundle}"')
            clock = _clock(folder)
            delay_s = min(0.5, 45 / rate_per_min, deadline_s)  # shorter than the time between two parts
            environment = {"EDGE_TEST_ENGINE_FAULT": str(folder / "engine-fault"), "OMP_NUM_THREADS": "1"}
            if clock is not None:
                environment |= {"LD_PRELOAD": str(folder / "clock_step.so"), "EDGE_TEST_CLOCK": str(clock)}
            self.rig = stack.enter_context(
                Rig(folder / "station", pictures, recipe=recipe, broker=broker, driver=driver, deadline_s=deadline_s,
                    plc_deadline_s=self._plc_deadline_s, module="edge_daemon.testing.faulty_daemon",
                    environment=environment,
                    settings={"camera": f'max_delay = "{1000 * delay_s:.0f} ms"\nwidth_px = {width}\n'
                                        f"height_px = {height}",
                              "memory": 'min_free = "1 MB"' if on_tmpfs else ""})
            )  # fmt: skip
            config = self.rig.config_path
            config.write_text(config.read_text().replace("frozen_after = 0", "frozen_after = 2").replace(
                'min_free = "50 MB"\n', "" if on_tmpfs else 'min_free = "50 MB"\n'))  # fmt: skip
            self.subscriber = Subscriber(broker, f"observer-{dice.randrange(1 << 30)}")
            stack.callback(self.subscriber.close)
            self.rig.start_daemon()
            self.keeper = Keeper(self.rig)
            stack.callback(self.keeper.close)
            self.plc = stack.enter_context(self.rig.plc(on_decided=self._note, first_part_id=1))
            self.site = Site(self.rig, self.plc, broker, dice, folder / "engine-fault", self.rig.folder / "recipe.toml",
                             bundle, on_tmpfs, clock, self._pid)  # fmt: skip
            self.conveyor = Conveyor(self.plc, rate_per_min)
            if not self.plc.wait_ready(60):
                raise TimeoutError(f"the station did not become ready: {self.rig.log()[-3:]}")
            self.conveyor.start()
            stack.callback(self.conveyor.close)
            self._stack = stack.pop_all()

    def _pid(self) -> int | None:
        process = self.rig._process
        return None if process is None or process.poll() is not None else process.pid

    def _note(self, part_id: int, let_through: bool) -> None:
        self.decided[part_id] = (let_through, time.monotonic())

    def inject(self, name: str) -> Fault:
        """One fault, and what it took to come back from it."""
        kind = KINDS[name]
        time.sleep(self._dice.uniform(0.0, 60 / self._rate))
        fault = Fault(name, self._dice.uniform(*kind.hold_s), first_part=self.conveyor.last + 1)
        with kind.act(self.site):
            time.sleep(fault.held_s)
        end_s = time.monotonic()
        unready_s = end_s
        while time.monotonic() < end_s + RECOVER_S:
            now_s = time.monotonic()
            if not self.plc.ready:
                unready_s = now_s
            passed = [at for part, (through, at) in list(self.decided.items())
                      if through and self.conveyor.triggered.get(part, 0.0) > end_s]  # fmt: skip
            if passed:
                fault.ready_s, fault.passed_s = unready_s - end_s, min(passed) - end_s
                break
            time.sleep(0.01)
        fault.parts = self.conveyor.last - fault.first_part + 1
        self.faults.append(fault)
        return fault

    def settle(self) -> dict[str, Any]:
        """End the shift: let everything come to rest, and compare what PLC, memory bank and subscriber saw."""
        self.conveyor.close()
        time.sleep(self._plc_deadline_s + 0.3)
        self._rest()
        with MemoryBank(self.rig.database, read_only=True) as bank:
            records: dict[int, list[Any]] = {}
            for one in bank.history(limit=1_000_000):
                records.setdefault(one.part_id or 0, []).append(one)
            pending = bank.outbox_state()[0]
            faulty = [fault.text for fault in bank.verify().faults]
        ids = {one.record_id for found in records.values() for one in found}
        seen = self.subscriber.contents
        summary: dict[str, Any] = {
            "triggers": len(self.conveyor.triggered), "records": len(ids), "pending": pending, "chain_faults": faulty,
            "let_through": sum(through for through, _ in self.decided.values()),
            "messages_lost": len(ids - seen.keys()), "messages_doubled": sum(len(found) > 1 for found in seen.values()),
            "messages_strange": len(seen.keys() - ids),
            "messages_repeated": sum(found.total() - 1 for found in seen.values()),
            "daemon_starts": self.keeper.starts + 1,
            "wrong": 0, "missing": 0, "doubled": 0, "unproven": 0, "unnoted": 0,
            "unacknowledged": self.plc.counts.unacknowledged, "late_ignored": self.plc.counts.late_ignored,
            "stale_ignored": self.plc.counts.stale_ignored, "notes": [],
            "seconds": round(time.monotonic() - self._begun_s),
            "reasons": dict(Counter(reason for found in records.values() for one in found for reason in one.reasons)),
        }  # fmt: skip
        for part_id in self.conveyor.triggered:
            self._judge(part_id, records.get(part_id, []), summary)
        return summary

    def _judge(self, part_id: int, found: list[Any], summary: dict[str, Any]) -> None:
        through = self.decided.get(part_id, (False, 0.0))[0]
        outcomes = [str(one.outcome) for one in found]
        reasons = {reason for one in found for reason in one.reasons}
        if len(found) > 1:
            what = "doubled"
        elif not found and part_id in self.plc.acknowledged:
            what = "unnoted" if KINDS[self._fault_of(part_id).kind].kills == "line" else "missing"
        elif through and (part_id % 2 == 0 or (outcomes != ["PASS"] and not reasons & {"LINE_LOST", "INTERRUPTED"})):
            what = "wrong"
        elif through and outcomes != ["PASS"]:
            what = "unproven"
        else:
            return
        summary[what] += 1
        fault = self._fault_of(part_id)
        setattr(fault, what, getattr(fault, what) + 1)
        summary["notes"].append(f"{what}: part {part_id}, {outcomes} {sorted(reasons)}, during {fault.kind}")

    def _fault_of(self, part_id: int) -> Fault:
        before = [fault for fault in self.faults if fault.first_part - 3 <= part_id]
        return before[-1] if before else self.faults[0]

    def _rest(self) -> None:
        """Until the daemon has nothing left to write or send."""
        until_s = time.monotonic() + _DRAIN_S
        while time.monotonic() < until_s:
            with contextlib.suppress(EdgeError, OSError), MemoryBank(self.rig.database, read_only=True) as bank:
                if not bank.outbox_state()[0] and not bank.unfinished_tickets() and self.rig.ready():
                    time.sleep(0.5)
                    return
            time.sleep(0.1)

    def close(self) -> None:
        """End everything that was started."""
        self._stack.close()


def _mount(folder: Path, stack: contextlib.ExitStack) -> bool:
    """A small file system of the station's own, where this process may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={_TMPFS_MB}m"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode:
        return False
    stack.callback(subprocess.run, ["umount", "-l", str(folder)], capture_output=True, check=False)
    return True


def _clock(folder: Path) -> Path | None:
    """The file with the wall clock's offset, obeyed through a preloaded library; None where it cannot be built."""
    if shutil.which("gcc") is None:
        return None
    source = files("edge_daemon.testing").joinpath("clock_step.c")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(folder / "clock_step.so"), str(source)]
    subprocess.run(command, check=True)
    path = folder / "clock"
    path.write_bytes(bytes(8))
    return path


def campaign(
    out: Path,
    faults: int,
    seconds: float,
    seed: int,
    only: list[str],
    driver: str,
    rate_per_min: float,
    deadline_s: float,
) -> None:
    """Bring about faults until there are ``faults`` in the file, or the time is over."""
    journal = out / "faults.jsonl"
    done = sum(1 for line in _lines(journal) if "kind" in line)
    until_s = time.monotonic() + seconds
    dice = random.Random(f"{seed} {done} {driver}")  # noqa: S311  # to be had again, not to be secret
    while done < faults and time.monotonic() < until_s:
        folder = Path(tempfile.mkdtemp(prefix="edge-faults-"))
        try:
            shift = Shift(folder, dice, driver, rate_per_min, deadline_s)
            try:
                names = [name for name in KINDS if (not only or name in only) and KINDS[name].usable(shift.site)]
                least = Counter(dict.fromkeys(names, 0))
                least.update(line["kind"] for line in _lines(journal) if line.get("kind") in names)
                for _ in range(min(SHIFT_FAULTS, faults - done)):
                    if time.monotonic() >= until_s:
                        break
                    name = dice.choice([one for one in names if least[one] == min(least.values())])
                    least[name] += 1
                    fault = shift.inject(name)
                    if fault.passed_s is None:
                        sys.stderr.write(f"not recovered: {name}: {shift.rig.log()[-5:]}\n")
                        break
                summary = shift.settle()
                with journal.open("a") as file:
                    for fault in shift.faults:
                        file.write(json.dumps(asdict(fault)) + "\n")
                    file.write(json.dumps({"shift": True, "driver": driver, "seed": seed, **summary}) + "\n")
                done += len(shift.faults)
                if summary["notes"] or summary["messages_lost"] or summary["messages_doubled"]:
                    sys.stderr.write(f"{summary['notes']} lost {summary['messages_lost']}\n")
                    keep = out / f"log-{int(time.time())}.txt"
                    shutil.copyfile(shift.rig.log_path, keep)
            finally:
                shift.close()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.write(f"{done} faults\n")


def _simulate(journal: Path, parts: int, seconds: float) -> None:
    """Runs of SIMULATED_RUN parts, each with a seed of its own and a line in the file, until there are enough."""
    until_s = time.monotonic() + seconds
    done = list(_lines(journal))
    while sum(run["parts"] for run in done) < parts and time.monotonic() < until_s:
        done.append(simulate(min(SIMULATED_RUN, parts), seed=len(done) + 1))
        with journal.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")


def _lines(journal: Path) -> Iterator[dict[str, Any]]:
    if journal.exists():
        for line in journal.read_text().splitlines():
            yield json.loads(line)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 nothing wrong, 1 something was."""
    parser = argparse.ArgumentParser(prog="python -m edge_daemon.testing.faults", description="The fault campaign.")
    parser.add_argument("--out", type=Path, default=Path("fault-campaign"))
    parser.add_argument("--faults", type=int, default=0, help="faults at real processes")
    parser.add_argument("--parts", type=int, default=0, help="parts on simulated time")
    parser.add_argument("--seconds", type=float, default=3600.0, help="end each part of it after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], choices=sorted(KINDS), metavar="KIND")
    parser.add_argument("--driver", default="ascii", choices=("ascii", "modbus-server", "modbus-client"))
    parser.add_argument("--rate", type=float, default=150.0, help="parts per minute at the real station")
    parser.add_argument("--deadline", type=float, default=1.0, help="of the device, seconds; longer on a busy machine")
    parser.add_argument("--report", action="store_true", help="only print what is there")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.parts and not given.report:
        _simulate(given.out / "simulated.jsonl", given.parts, given.seconds)
    if given.faults and not given.report:
        campaign(given.out, given.faults, given.seconds, given.seed, given.only, given.driver, given.rate,
                 given.deadline)  # fmt: skip
    lines = list(_lines(given.out / "faults.jsonl"))
    text = report(given.out, lines)
    (given.out / "report.md").write_text(text)
    sys.stdout.write(text)
    return 1 if totals(given.out, lines)["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
