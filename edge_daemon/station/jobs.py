"""Pictures that wait to be inspected, one after the other, each belonging to the session that sent it.

One worker thread, nicer than the rest where a line runs on the same machine: the line comes first. A job is known only
to its session; its record is known afterwards to the user who submitted it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeError, UnavailableError
from ..evidence import evidence
from ..images import highlight, write_bytes_atomic, write_png_atomic
from ..inspection import Inspection, Station, document_of, not_evaluable
from ..logs import log
from ..tickets import new_record_id, utc_now
from .bank import Banks
from .choices import Choice, Choices
from .heat import heat_map
from .options import Limits
from .report.figures import encoded
from .uploads import Upload

__all__ = ["STAGES", "Job", "Workbench"]

#: In order; the judge's own stages lie between "prepare" and "draw".
STAGES = ("wait", "prepare", "rectify", "segment", "measure", "judge", "draw", "store", "done")
_KEPT_JOBS = 400
_KEPT_S = 3600.0


@dataclass(slots=True)
class Job:
    """One picture on its way. session: key of the only session that may ask for it. stage: of ``STAGES``, or
    ``failed`` with ``error`` (code, sentence, hint)."""

    id: str
    session: str
    user: str
    upload: Upload | None
    choice: Choice
    again: str = ""
    stage: str = "wait"
    error: tuple[str, str, str] | None = None
    record_id: str = ""
    made_s: float = field(default_factory=time.monotonic)
    name: str = ""
    bytes: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.stage in ("done", "failed")


class Workbench:
    """The queue and its worker. ``kept`` is called with each job whose record is stored."""

    def __init__(
        self,
        choices: Choices,
        banks: Banks,
        limits: Limits,
        kept: Callable[[Job], None] = lambda _: None,
        *,
        niceness: int = 0,
    ) -> None:
        self._choices, self._banks, self._limits, self._kept = choices, banks, limits, kept
        self._niceness = niceness
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="inspect", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Finish the job on the bench and end; those that wait are dropped, which only their pages notice."""
        with self._lock:
            for job in self._jobs.values():
                if job.stage == "wait":
                    self._fail(
                        job, UnavailableError("the page is being stopped", code="STOPPING", hint="send it again")
                    )
        self._waiting.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def submit(self, upload: Upload, choice: Choice, *, session: str, user: str, again: str = "") -> Job:
        """Put a picture in the queue. again: id of the record whose stored frame it is. Raises UnavailableError (BUSY)
        where too much is waiting already."""
        job = Job(secrets.token_urlsafe(18), session, user, upload, choice, again, name=upload.name,
                  bytes=upload.picture.pixels.nbytes)  # fmt: skip
        with self._lock:
            waiting = [one for one in self._jobs.values() if not one.over]
            pending = sum(one.bytes for one in waiting)
            if len(waiting) >= self._limits.pending_jobs or pending + job.bytes > self._limits.pending_bytes:
                raise UnavailableError(
                    f"{len(waiting)} pictures are waiting already", code="BUSY", hint="try again in a minute"
                )
            self._jobs[job.id] = job
            self._forget_old()
        self._waiting.put(job)
        return job

    def get(self, job_id: str, session: str) -> Job | None:
        """A job of this session; None for another's, and for one that is forgotten."""
        with self._lock:
            job = self._jobs.get(job_id)
            return job if job is not None and secrets.compare_digest(job.session, session) else None

    def ahead_of(self, job: Job) -> int:
        """How many are to be done before it."""
        with self._lock:
            waiting = [one for one in self._jobs.values() if not one.over]
        return next((index for index, one in enumerate(waiting) if one is job), 0)

    def pending(self) -> int:
        """How many are not over."""
        with self._lock:
            return sum(not one.over for one in self._jobs.values())

    def _forget_old(self) -> None:
        now_s = time.monotonic()
        for key, one in list(self._jobs.items()):
            if one.over and (len(self._jobs) > _KEPT_JOBS or now_s - one.made_s > _KEPT_S):
                del self._jobs[key]

    # ---------------------------------------------------------------- the worker

    def _work(self) -> None:
        _step_back(self._niceness)
        while (job := self._waiting.get()) is not None:
            if job.over:
                continue
            try:
                self._do(job)
            except EdgeError as error:
                self._fail(job, error)
            except Exception as error:  # noqa: BLE001 - one bad picture must not stop the others; the user is told
                log("page_bug", f"{type(error).__name__}: {error}", level=40, error=error)
                self._fail(job, EdgeError(f"this is a fault in the program: {type(error).__name__}"))
            finally:
                job.upload = None  # its pixels are not needed any more, the job is asked for a while yet

    @staticmethod
    def _fail(job: Job, error: EdgeError) -> None:
        job.error, job.stage = (error.code, error.message, error.hint), "failed"

    def _do(self, job: Job) -> None:
        if job.upload is None:
            return
        started_s = time.perf_counter()
        laps: dict[str, float] = {}

        def lap(stage: str) -> None:
            laps[stage] = 1000.0 * (time.perf_counter() - started_s) - sum(laps.values())
            job.stage = STAGES[STAGES.index(stage) + 1]

        job.stage = "prepare"
        station = self._choices.station(job.choice)
        lap("prepare")
        if station.calibration is None:
            job.stage = "segment"
        pixels = job.upload.picture.pixels
        now_utc = utc_now()
        expired = station.refusal(now_utc)
        inspection = None if expired is not None else station.inspect(pixels, lap)
        job.stage = "draw"
        record_id = new_record_id()
        document = document_of(
            station, inspection, record_id=record_id, image=job.upload.name, image_sha256=job.upload.picture.sha256,
            verdict=None if expired is None else not_evaluable(expired.code, expired.text),
            timings_ms={stage: round(ms, 3) for stage, ms in laps.items()},
        )  # fmt: skip
        document |= {"station": "page", "trigger_utc": now_utc, "submitted_by": job.user}
        if job.again:
            document["again"] = job.again
        folder = self._banks.folder_for(record_id)
        _write_pictures(folder, station, pixels, inspection)
        job.stage = "store"
        self._banks.keep(document, folder)
        job.record_id = record_id
        self._kept(job)
        job.stage = "done"


def _write_pictures(folder: Path, station: Station, pixels: NDArray[Any], inspection: Inspection | None) -> None:
    write_png_atomic(folder / "frame.png", pixels)
    if inspection is None:
        return
    write_png_atomic(folder / "labels.png", inspection.labels)
    write_png_atomic(folder / "highlight.png", highlight(pixels, inspection.labels))
    for name, picture in evidence(station, inspection, pixels).items():
        write_png_atomic(folder / name, picture)
    coverage = inspection.segmentation.coverage
    on_plane = station.calibration is not None and station.calibration.kind == "plane"
    if coverage is not None and not on_plane:  # a rectified picture's map does not lie on the frame
        heat = heat_map(pixels, np.asarray(coverage, np.float32))
        write_bytes_atomic(folder / "heat.jpg", encoded(heat, "JPEG"))


def _step_back(niceness: int) -> None:
    """This thread, and those that the engine starts from it, give way to everything else."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
