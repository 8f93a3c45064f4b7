"""Every kind of fault of the campaign: how it is brought about at a real station, and how it is taken away again."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import UnavailableError
from .broker import Broker
from .rig import Rig
from .virtual_plc import VirtualPlc

__all__ = ["KINDS", "Kind", "Site"]


@dataclass(slots=True)
class Site:
    """One station under test. on_tmpfs: its folder is a small file system of its own. clock_file: the wall
    clock's offset for ``clock_step.c``; None where that cannot be built. engine_file: see ``faulty_daemon``."""

    rig: Rig
    plc: VirtualPlc
    broker: Broker
    dice: random.Random
    engine_file: Path
    recipe: Path
    bundle: Path
    on_tmpfs: bool
    clock_file: Path | None
    daemon_pid: Callable[[], int | None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault. act: a context that brings it about and takes it away. hold_s: how long it lasts, at random
    between the two. kills: what dies by it (``line``: triggers that no daemon had noted may lose their record, as
    WIRE.md says)."""

    act: Callable[[Site], contextlib.AbstractContextManager[None]]
    hold_s: tuple[float, float]
    kills: str = ""
    usable: Callable[[Site], bool] = lambda site: True


def _signal(pid: int | None, number: int) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _line_pid(site: Site) -> int | None:
    with contextlib.suppress(UnavailableError):
        return site.rig.line_pid()
    return None


def _camera(fault: str) -> Callable[[Site], contextlib.AbstractContextManager[None]]:
    @contextmanager
    def act(site: Site) -> Iterator[None]:
        site.rig.camera_fault(fault)
        try:
            yield
        finally:
            site.rig.camera_fault("")

    return act


@contextmanager
def _camera_unplugged(site: Site) -> Iterator[None]:
    here = site.rig.folder / "camera"
    away = here.with_name("camera-away")
    here.rename(away)
    try:
        yield
    finally:
        away.rename(here)


def _engine(fault: str) -> Callable[[Site], contextlib.AbstractContextManager[None]]:
    @contextmanager
    def act(site: Site) -> Iterator[None]:
        site.engine_file.write_text(fault)
        try:
            yield
        finally:
            site.engine_file.write_text("")

    return act


@contextmanager
def _file_broken(site: Site, path: Path, content: bytes) -> Iterator[None]:
    """A file of the station is replaced by a broken one and the daemon told to read it."""
    whole = path.read_bytes()
    path.write_bytes(content)
    _signal(site.daemon_pid(), signal.SIGHUP)
    try:
        yield
    finally:
        path.write_bytes(whole)
        _signal(site.daemon_pid(), signal.SIGHUP)


@contextmanager
def _bundle_corrupt(site: Site) -> Iterator[None]:
    model = site.bundle / "model.onnx"
    content = bytearray(model.read_bytes())
    content[site.dice.randrange(len(content))] ^= 1 << site.dice.randrange(8)
    with _file_broken(site, model, bytes(content)):
        yield


@contextmanager
def _recipe_broken(site: Site) -> Iterator[None]:
    text = site.recipe.read_text()
    broken = site.dice.choice([text[: len(text) // 2], text.replace("level = 5", "level = 50"), "", "\0\1\2",
                               text.replace("6.35 mm", "6.35")])  # fmt: skip
    with _file_broken(site, site.recipe, broken.encode()):
        yield


@contextmanager
def _config_broken(site: Site) -> Iterator[None]:
    text = site.rig.config_path.read_text()
    broken = site.dice.choice([text[: len(text) // 3], text.replace("[line]", "[lime]"), text + "\nwhat = 1\n"])
    with _file_broken(site, site.rig.config_path, broken.encode()):
        yield


@contextmanager
def _broker_down(site: Site) -> Iterator[None]:
    site.broker.stop()
    try:
        yield
    finally:
        site.broker.start()


@contextmanager
def _broker_refuses(site: Site) -> Iterator[None]:
    site.broker.stop()
    stranger = Broker(kind="mosquitto", port=site.broker.port, settings=("allow_anonymous false",))
    stranger.start()
    try:
        yield
    finally:
        stranger.close()
        site.broker.start()


@contextmanager
def _broker_slow(site: Site) -> Iterator[None]:
    _signal(site.broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(site.broker.pid, signal.SIGCONT)


@contextmanager
def _cable_pulled(site: Site) -> Iterator[None]:
    site.rig.wire.pull()
    try:
        yield
    finally:
        site.rig.wire.plug()


@contextmanager
def _garbage(site: Site) -> Iterator[None]:
    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(site.dice.uniform(0, 0.02)):
            data = site.dice.randbytes(site.dice.randrange(1, 40))
            if site.dice.random() < 0.3:
                data = b"$P,0001," + data
            site.rig.wire.inject(data, site.dice.choice(("device", "plc")))

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _plc_silent(site: Site) -> Iterator[None]:
    site.plc.silent = True
    try:
        yield
    finally:
        site.plc.silent = False


@contextmanager
def _disk_full(site: Site) -> Iterator[None]:
    ballast = site.rig.folder / "ballast"
    free = shutil.disk_usage(site.rig.folder).free
    with contextlib.suppress(OSError):  # full to the last byte, or nearly
        leave = site.dice.choice((0, 0, 100_000, 5_000_000))
        fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
        try:
            os.posix_fallocate(fd, 0, max(1, free - leave))
            while leave == 0:
                os.lseek(fd, 0, os.SEEK_END)
                os.write(fd, bytes(4096))
        finally:
            os.close(fd)
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def _limit(site: Site, which: int, value: int) -> Iterator[None]:
    pid = site.daemon_pid()
    if pid is None:
        yield
        return
    with contextlib.suppress(ProcessLookupError):
        before = resource.prlimit(pid, which)
        resource.prlimit(pid, which, (value, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, which, before)


def _disk_refuses(site: Site) -> contextlib.AbstractContextManager[None]:
    # What a read-only disk says (EROFS) cannot be had for files that are open; this refuses every write as well.
    return _limit(site, resource.RLIMIT_FSIZE, 0)


def _memory_refused(site: Site) -> contextlib.AbstractContextManager[None]:
    return _limit(site, resource.RLIMIT_AS, 1 << 20)


@contextmanager
def _database_locked(site: Site) -> Iterator[None]:
    other = sqlite3.connect(site.rig.database, isolation_level=None, timeout=5.0)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


@contextmanager
def _clock_stepped(site: Site) -> Iterator[None]:
    assert site.clock_file is not None
    with site.clock_file.open("r+b") as clock:  # in place: the processes have it mapped
        clock.write(struct.pack("=q", site.dice.choice((3600, -3600))))
    try:
        yield
    finally:
        with site.clock_file.open("r+b") as clock:
            clock.write(bytes(8))


def _stopped(which: Callable[[Site], int | None]) -> Callable[[Site], contextlib.AbstractContextManager[None]]:
    @contextmanager
    def act(site: Site) -> Iterator[None]:
        pid = which(site)
        _signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pid, signal.SIGCONT)

    return act


def _killed(*which: Callable[[Site], int | None]) -> Callable[[Site], contextlib.AbstractContextManager[None]]:
    @contextmanager
    def act(site: Site) -> Iterator[None]:
        for pid in [find(site) for find in which]:
            _signal(pid, signal.SIGKILL)
        yield

    return act


def _daemon(site: Site) -> int | None:
    return site.daemon_pid()


#: The list of the campaign, by the name that stands in its table.
KINDS: dict[str, Kind] = {
    "camera unplugged": Kind(_camera_unplugged, (0.2, 2.0)),
    "camera frozen": Kind(_camera("frozen"), (1.0, 2.5)),
    "camera silent": Kind(_camera("silent"), (0.5, 2.0)),
    "frame of wrong size": Kind(_camera("small"), (0.5, 2.0)),
    "frame broken": Kind(_camera("broken"), (0.5, 2.0)),
    "engine hangs": Kind(_engine("hang"), (0.3, 3.0)),
    "engine returns NaN": Kind(_engine("nan"), (0.5, 2.0)),
    "engine raises": Kind(_engine("raise"), (0.5, 2.0)),
    "bundle corrupt, reload": Kind(_bundle_corrupt, (0.5, 1.5)),
    "recipe broken, reload": Kind(_recipe_broken, (0.3, 1.0)),
    "config broken, reload": Kind(_config_broken, (0.3, 1.0)),
    "broker down": Kind(_broker_down, (0.3, 4.0)),
    "broker refuses login": Kind(_broker_refuses, (0.5, 3.0)),
    "broker slow": Kind(_broker_slow, (0.5, 4.0)),
    "cable pulled": Kind(_cable_pulled, (0.1, 1.5)),
    "garbage on the wire": Kind(_garbage, (0.3, 1.5)),
    "PLC silent": Kind(_plc_silent, (0.2, 1.5)),
    "disk full": Kind(_disk_full, (0.5, 3.0), usable=lambda site: site.on_tmpfs),
    "disk refuses writes": Kind(_disk_refuses, (0.3, 2.0)),
    "database locked": Kind(_database_locked, (0.3, 3.0)),
    "memory refused": Kind(_memory_refused, (0.1, 0.5)),
    "clock stepped 1 h": Kind(_clock_stepped, (0.5, 1.5), usable=lambda site: site.clock_file is not None),
    "daemon SIGKILL": Kind(_killed(_daemon), (0.0, 0.0)),
    "daemon SIGSTOP": Kind(_stopped(_daemon), (0.05, 2.0)),
    "line SIGKILL": Kind(_killed(_line_pid), (0.0, 0.0), kills="line"),
    "line SIGSTOP": Kind(_stopped(_line_pid), (0.05, 2.0)),
    "power cut (both SIGKILL)": Kind(_killed(_daemon, _line_pid), (0.0, 0.0), kills="line"),
}
