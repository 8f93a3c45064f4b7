"""Does anything grow? The whole line for an hour or more, with retention at work: memory, files, threads, disk.

    python -m edge_daemon.testing.soak_study --out DIR --minutes 60 --rate 120 --keep-size "60 MB"

Real are daemon, line process, mosquitto, serial protocol over a pseudo-terminal and the memory bank; the belt is the
demo's, the camera a folder. Every few seconds the two processes are asked for their memory (RSS), open files and
threads, and the bank for its size. ``DIR/samples.jsonl`` holds every sample, the table is printed.

What is told apart: a level (the highest value of a third of the time after the warm-up) and a slope (of the
highest values of each round of retention, so that its saw teeth are no trend, with a 95 % interval by bootstrap).
The last column is the upper end of that interval times 24 hours: an extrapolation, and it says so. The warm-up is the
time until retention has removed something for the second time, because until then everything rightly grows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .. import units
from ..errors import EdgeError, UnavailableError
from ..images import make_folder, write_png_atomic
from ..memory import MemoryBank
from ..simulator import conveyor_part
from .broker import Broker
from .rig import Rig
from .virtual_plc import PlcCounts, VirtualPlc

__all__ = ["main", "peak_slope"]

_PARTS: tuple[Literal["sound", "acceptable", "rejectable", "crack"], ...] = (
    "sound", "acceptable", "sound", "rejectable", "sound", "crack",
)  # fmt: skip
_FIRST_SEED = 955_000
_SAMPLE_S = 5.0
_ROUNDS = 2000
#: name in a sample -> how it is called, and how many of its units make the one that is shown.
_SHOWN = {
    "daemon_rss": ("daemon: memory, MB", 1e6), "daemon_files": ("daemon: open files", 1.0),
    "daemon_threads": ("daemon: threads", 1.0), "line_rss": ("line process: memory, MB", 1e6),
    "line_files": ("line process: open files", 1.0), "database": ("database with its log, MB", 1e6),
    "pictures": ("pictures, MB", 1e6), "records": ("records in the bank", 1.0),
}  # fmt: skip


def peak_slope(times_s: Sequence[float], values: Sequence[float], block_s: float) -> tuple[float, float, float]:
    """Slope per second of the straight line through the highest value of each block of ``block_s``, and its 95 %
    interval: (slope, low, high).

    Peaks, because retention lets a size rise and fall within a block. Least squares; bootstrapped over blocks. With
    fewer than four blocks nothing can be said: (nan, -inf, inf).
    """
    peaks: dict[int, tuple[float, float]] = {}
    for at_s, value in zip(times_s, values, strict=True):
        block = int((at_s - times_s[0]) // block_s)
        if block not in peaks or value > peaks[block][1]:
            peaks[block] = (at_s, value)
    if len(peaks) < 4:
        return float("nan"), -float("inf"), float("inf")
    points = np.array([peaks[block] for block in sorted(peaks)])
    drawn = np.random.default_rng(1).integers(0, len(points), (_ROUNDS, len(points)))
    drawn = drawn[drawn.min(axis=1) < drawn.max(axis=1)]  # a line needs two places
    low, high = np.quantile(_slopes(points[drawn]), (0.025, 0.975))
    return float(_slopes(points[None])[0]), float(low), float(high)


def _slopes(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """points: (lines, points of each, time and value)."""
    t, v = points.transpose(2, 0, 1)
    t = t - t.mean(axis=1, keepdims=True)
    return np.asarray((t * (v - v.mean(axis=1, keepdims=True))).sum(axis=1) / (t * t).sum(axis=1))


# ---- looking --------------------------------------------------------------------------------------------------------


def _process(pid: int) -> tuple[int, int, int]:
    """(resident bytes, open files, threads) of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir(f"/proc/{pid}/fd")),
        len(os.listdir(f"/proc/{pid}/task")),
    )


def _bank(database: Path) -> tuple[int, int, int]:
    """(bytes of the database and its log, bytes of pictures, records)."""
    size = 0
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            size += database.with_name(database.name + suffix).stat().st_size
    with MemoryBank(database, read_only=True) as bank:
        stats = bank.stats()
    return size, stats.pictures_bytes, stats.counts.records


def _sample(rig: Rig, daemon_pid: int, line_pid: int, plc: VirtualPlc, began_s: float) -> dict[str, float]:
    daemon, line, bank = _process(daemon_pid), _process(line_pid), _bank(rig.database)
    return {
        "at_s": round(time.monotonic() - began_s, 2), "parts": plc.counts.triggers, "daemon_rss": daemon[0],
        "daemon_files": daemon[1], "daemon_threads": daemon[2], "line_rss": line[0], "line_files": line[1],
        "database": bank[0], "pictures": bank[1], "records": bank[2], "cleaned": len(rig.events("retention")),
    }  # fmt: skip


def _soak(out: Path, *, minutes: float, rate: float, keep: str, driver: str) -> tuple[str, bool]:
    """Run it: (one sentence about the parts, whether no bad one passed and nothing stayed undelivered)."""
    pictures = make_folder(out / "frames")
    frames = [pictures / f"{number:03d}.png" for number in range(len(_PARTS))]
    for number, path in enumerate(frames):
        write_png_atomic(path, conveyor_part(_FIRST_SEED + number, _PARTS[number]).pixels)
    recipe = files("edge_daemon.demo").joinpath("recipe.toml").read_text(encoding="utf-8")
    stop = threading.Event()
    counted: list[PlcCounts] = []
    with (
        Broker() as broker,
        Rig(out / "line", frames, recipe=recipe, broker=broker, driver=driver, deadline_s=2.0, plc_deadline_s=2.1,
            settings={"memory": f'keep_size = "{keep}"'}) as rig,
        (out / "samples.jsonl").open("w", encoding="utf-8") as kept,
    ):  # fmt: skip
        daemon_pid = rig.start_daemon()
        with rig.plc() as plc:
            if not plc.wait_ready(30.0):
                raise UnavailableError("the device did not become Ready", hint=f"see {rig.log_path}")
            parts = int(minutes * rate)
            belt = threading.Thread(target=lambda: counted.append(plc.run(parts, rate, stop=stop)), name="belt")
            began_s, line_pid = time.monotonic(), rig.line_pid()
            belt.start()
            try:
                while belt.is_alive():
                    kept.write(json.dumps(_sample(rig, daemon_pid, line_pid, plc, began_s)) + "\n")
                    kept.flush()
                    belt.join(_SAMPLE_S)
            finally:
                stop.set()
                belt.join()
            counts = counted[0]
        code = rig.stop_daemon()
        with MemoryBank(rig.database, read_only=True) as bank:
            pending = bank.counts().pending
            newest = bank.history(limit=100)
    sound = {number for number, kind in enumerate(_PARTS) if kind in ("sound", "acceptable")}
    wrong = sum((part_id - 1) % len(_PARTS) not in sound for part_id in counts.let_through)
    wrong += sum(one.result == "PASS" and ((one.part_id or 1) - 1) % len(_PARTS) not in sound for one in newest)
    missed = sum((part_id - 1) % len(_PARTS) in sound for part_id in counts.rejected)
    words = (
        f"{counts.triggers} parts in {minutes:g} minutes, {len(counts.let_through)} let through, wrong passes {wrong}, "
        f"good parts rejected {missed}, late or stale permits {counts.late_ignored + counts.stale_ignored}, messages "
        f"not delivered {pending}, the daemon's exit code {code}."
    )
    return words, wrong == 0 and pending == 0 and code == 0


# ---- the table ------------------------------------------------------------------------------------------------------


def _table(samples: Sequence[dict[str, float]], block_s: float) -> str:
    """Markdown. Raises UnavailableError where retention has not come round twice."""
    warm = next((n for n, one in enumerate(samples) if one["cleaned"] >= 2), None)
    if warm is None or len(samples) - warm < 12:
        raise UnavailableError(
            "the run was too short: retention did not come round twice", hint="more --minutes, or less --keep-size"
        )
    used = samples[warm:]
    times_s = [one["at_s"] for one in used]
    hours = (times_s[-1] - times_s[0]) / 3600.0
    text = f"After a warm-up of {times_s[0] / 60:.0f} minutes, {hours:.2f} h and {len(used)} samples:\n\n"
    text += (
        "| what | highest, first third | second | last | slope an hour, 95 % | at most more in 24 h, extrapolated |\n"
    )
    text += "|---|---|---|---|---|---|\n"
    thirds = [used[len(used) * n // 3 : len(used) * (n + 1) // 3] for n in range(3)]
    for name, (words, unit) in _SHOWN.items():
        peaks = " | ".join(f"{max(one[name] for one in some) / unit:.4g}" for some in thirds)
        values = [one[name] / unit for one in used]
        middle, low, high = (3600.0 * one for one in peak_slope(times_s, values, block_s))
        text += f"| {words} | {peaks} | {middle:+.3g} ({low:+.3g} to {high:+.3g}) | {24.0 * max(high, 0.0):.3g} |\n"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Soak, print, and end with 1 if a part was answered wrongly."""
    parser = argparse.ArgumentParser(prog="python -m edge_daemon.testing.soak_study", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", default="120/min", metavar="RATE", help="parts, such as 120/min")
    parser.add_argument("--keep-size", default="60 MB", metavar="SIZE", help="what retention leaves")
    parser.add_argument("--driver", default="ascii", choices=["ascii", "modbus-server", "modbus-client"])
    parser.add_argument("--block", type=float, default=300.0, metavar="S", help="one round of retention")
    parser.add_argument("--table", action="store_true", help="no run: the table of samples that are there")
    args = parser.parse_args(argv)
    try:
        right = True
        if not args.table:
            words, right = _soak(
                make_folder(args.out.resolve()), minutes=args.minutes, rate=units.rate_per_min(args.rate),
                keep=args.keep_size, driver=args.driver,
            )  # fmt: skip
            sys.stdout.write(f"{words}\n\n")
        lines = (args.out / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        sys.stdout.write(_table([json.loads(line) for line in lines], args.block))
    except EdgeError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
