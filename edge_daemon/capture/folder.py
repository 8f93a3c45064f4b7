"""Watched folder: every new picture file is one exposure.

When did a file arrive? The clock of the file system is the wall clock, which may be set at any moment; our own scans
are timed by the monotonic clock. A file first seen in a scan arrived after the scan before: that bounds its arrival
safely. Between the two bounds the file's ctime (last write or rename) decides, unless the wall clock was set in
between, in which case the earlier bound holds. So an old file is never taken for a fresh one, whatever the clock does.

Latency: poll interval (5 ms) + settle time (20 ms; 0 for writers that rename into the folder) + decoding (27 ms for a
5 megapixel PNG). Local file systems only: a file server stamps files with its own clock.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ..errors import CameraError, GrabTimeout, ImageError
from ..images import PICTURE_SUFFIXES, Picture, load_picture
from ..records import Frame, Reason
from ..tickets import utc_now
from .options import FolderOptions

__all__ = ["FolderCamera"]

_LOG = logging.getLogger("edge_daemon.capture")
#: Far coarser than the time stamps of any local file system: one kernel tick, which a loaded machine may get late.
_TICK_NS = 1_000_000_000
#: Difference between wall and monotonic clock beyond which the wall clock counts as set.
_CLOCK_STEP_NS = 20_000_000


@dataclass(slots=True)
class _Pending:
    """A new file that has not been handed out. stamp: (size, mtime_ns); unchanged_since_ns: when it took that stamp."""

    arrived_ns: int
    stamp: tuple[int, int]
    unchanged_since_ns: int
    fault: str = ""


class FolderCamera:
    """A Camera that reads picture files from a folder, in the order of their names.

    A file is known by name and inode: what was there at ``open`` is old for ever, also when it is written again in
    place; a writer that always uses one name must rename a new file onto it. Names that begin with a dot and names
    without a picture's ending are ignored. A file that cannot be read as a picture is taken for unfinished and waited
    for; the time-out then says what is wrong with it. ``frame_id`` counts the files handed out.
    """

    def __init__(self, options: FolderOptions) -> None:
        self._options = options
        self._identity = f"folder {options.folder}"
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._stop.set()
        self._known: set[tuple[str, int]] = set()
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._scanned_ns = 0
        self._opened_ns = 0
        self._folder_stamp = (0, 0)
        self._wall_offset_ns = 0
        self._frame_id = 0
        self._discarded = 0
        self._done: Path | None = None

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def discarded(self) -> int:
        return self._discarded

    @property
    def opened_ns(self) -> int:
        return self._opened_ns

    def open(self) -> None:
        with self._lock:
            if not self._stop.is_set():
                return
            self._scanned_ns = self._opened_ns = time.monotonic_ns()
            self._known = set(self._list("CAMERA"))
            self._pending = {}
            self._folder_stamp = (0, 0)
            self._wall_offset_ns = time.time_ns() - time.monotonic_ns()
            self._discarded = 0
            self._stop.clear()

    def close(self) -> None:
        self._stop.set()
        with self._lock:
            try:
                self._finish_last()
            except CameraError as error:
                _LOG.warning("%s", error)

    def trouble(self) -> Reason | None:
        if self._stop.is_set():
            return Reason("CLOSED", f"camera {self._identity} is not open")
        if not self._options.folder.is_dir():
            return Reason("LOST", f"camera {self._identity}: the folder is gone")
        return None

    def grab(self, timeout_s: float, *, after_ns: int) -> Frame:
        deadline_ns = time.monotonic_ns() + round(timeout_s * 1e9)
        with self._lock:
            self._finish_last()
            while True:
                if self._stop.is_set():
                    raise CameraError(f"camera {self._identity} is not open", code="CLOSED", hint="open it first")
                self._scan()
                self._discard_old(after_ns)
                frame = self._first_complete()
                if frame is not None:
                    return frame
                left_s = (deadline_ns - time.monotonic_ns()) / 1e9
                if left_s <= 0:
                    raise GrabTimeout(
                        f"camera {self._identity}: no new picture within {timeout_s * 1000:.0f} ms{self._unfinished()}",
                        hint="write complete PNG, JPEG, TIFF or BMP files, best by renaming them into the folder",
                    )
                self._stop.wait(min(left_s, self._options.poll_s))

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _list(self, code: str) -> list[tuple[str, int]]:
        """Name and inode of every picture file; what is gone is forgotten."""
        try:
            with os.scandir(self._options.folder) as entries:
                found = [
                    (entry.name, entry.inode())
                    for entry in entries
                    if not entry.name.startswith(".") and os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES
                ]
        except OSError as error:
            raise CameraError(
                f"camera {self._identity}: {error.strerror or error}",
                code=code,
                hint="give a folder that exists and may be read",
            ) from error
        present = set(found)
        self._known &= present
        self._pending = {key: value for key, value in self._pending.items() if key in present}
        return found

    def _scan(self) -> None:
        """Look for new files; work out when they arrived; note which have changed."""
        before_ns, self._scanned_ns = self._scanned_ns, time.monotonic_ns()
        found = self._list("LOST") if self._may_have_new(self._scanned_ns) else list(self._pending)
        now_ns = time.monotonic_ns()
        offset_ns = time.time_ns() - now_ns
        clock_was_set = abs(offset_ns - self._wall_offset_ns) > _CLOCK_STEP_NS
        self._wall_offset_ns = offset_ns
        for key in found:
            if key in self._known:
                continue
            try:
                status = (self._options.folder / key[0]).stat()
            except OSError:
                continue  # gone again; a later scan notices
            stamp = (status.st_size, status.st_mtime_ns)
            pending = self._pending.get(key)
            if pending is None:
                arrived_ns = before_ns if clock_was_set else max(before_ns, status.st_ctime_ns - offset_ns)
                self._pending[key] = _Pending(min(arrived_ns, now_ns), stamp, now_ns)
            elif pending.stamp != stamp:
                pending.stamp, pending.unchanged_since_ns = stamp, now_ns

    def _may_have_new(self, now_ns: int) -> bool:
        """Whether names may have come or gone: a folder with thousands of old files is not listed every 5 ms.

        The folder's own time stamp tells, once it has been the same for longer than a tick of its clock.
        """
        try:
            stamp_ns = self._options.folder.stat().st_mtime_ns
        except OSError:
            return True  # listing it says what is wrong
        seen_stamp_ns, since_ns = self._folder_stamp
        if stamp_ns != seen_stamp_ns:
            self._folder_stamp = (stamp_ns, now_ns)
            return True
        return now_ns - since_ns <= _TICK_NS

    def _discard_old(self, after_ns: int) -> None:
        for key in [key for key, pending in self._pending.items() if pending.arrived_ns <= after_ns]:
            del self._pending[key]
            self._known.add(key)
            self._discarded += 1

    def _first_complete(self) -> Frame | None:
        """The first new file by name, when it is complete; a later name never overtakes it."""
        if not self._pending:
            return None
        key = min(self._pending)
        pending = self._pending[key]
        path = self._options.folder / key[0]
        if time.monotonic_ns() - pending.unchanged_since_ns < self._options.settle_s * 1e9:
            return None
        try:
            picture = load_picture(path)
        except ImageError as error:
            pending.fault = error.message
            # Not decoded again and again: it must change, or rest once more.
            pending.unchanged_since_ns = time.monotonic_ns() + 20_000_000
            return None
        if not self._unchanged(path, pending):
            return None
        del self._pending[key]
        self._known.add(key)
        return self._frame(picture, pending)

    def _unchanged(self, path: Path, pending: _Pending) -> bool:
        """Whether the file is still what it was when it was last looked at: it was not written to while being read."""
        try:
            status = path.stat()
        except OSError:
            return False
        return pending.stamp == (status.st_size, status.st_mtime_ns)

    def _frame(self, picture: Picture, pending: _Pending) -> Frame:
        self._frame_id += 1
        self._done = picture.path
        return Frame(
            pixels=picture.pixels,
            frame_id=self._frame_id,
            captured_ns=pending.arrived_ns,
            captured_utc=utc_now(),
            source=str(picture.path),
        )

    def _finish_last(self) -> None:
        """Delete the file handed out last, if so asked: only now has its record had the time to be stored."""
        done, self._done = self._done, None
        if done is not None and self._options.after == "delete":
            self._delete(done)

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CameraError(
                f"camera {self._identity}: cannot delete {path}: {error.strerror or error}",
                code="LOST",
                hint="give this user the right to delete there, or set after = 'keep'",
            ) from error

    def _unfinished(self) -> str:
        return f"; {self._pending[min(self._pending)].fault or 'a file is unfinished'}" if self._pending else ""
