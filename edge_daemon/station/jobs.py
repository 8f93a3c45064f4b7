"""Pictures that wait to be inspected, and corrected label images that wait to be judged, one after the other, each
belonging to the session that sent it.

One worker thread: one picture at a time. Beside a line it gives way with the rest of the page. A job is known only
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgeError, UnavailableError, UsageError
from ..evidence import evidence
from ..images import highlight, write_bytes_atomic, write_png_atomic
from ..inspection import Inspection, Station, document_of, not_evaluable
from ..logs import log
from ..memory import StoredRecord, contrasts_of
from ..replay import rejudge
from ..tickets import new_record_id, utc_now
from .bank import Banks, station_of
from .choices import Choice, Choices
from .heat import heat_map
from .options import Limits
from .report.figures import encoded
from .uploads import Upload

__all__ = ["STAGES", "Correction", "Job", "Workbench", "step_back"]

#: In order; the judge's own stages lie between "prepare" and "draw".
STAGES = ("wait", "prepare", "rectify", "segment", "measure", "judge", "draw", "store", "done")
_KEPT_JOBS = 400
_KEPT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Correction:
    """What a person has drawn: ``mask`` uint8 (H, W) with values 1..K of ``types``. source: the bank of the record."""

    source: str
    record: StoredRecord
    verdict: str
    why: str
    mask: NDArray[np.uint8]
    types: tuple[str, ...]


@dataclass(slots=True)
class Job:
    """One picture on its way, or a stored one with a correction. session: key of the only session that may ask for it.
    choice: by what it is judged. source: the bank where ``record_id`` is. stage: of ``STAGES``, or ``failed`` with
    ``error`` (code, sentence, hint)."""

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
    source: str = "page"
    correction: Correction | None = None

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
    ) -> None:
        self._choices, self._banks, self._limits, self._kept = choices, banks, limits, kept
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
        return self._queued(job)

    def correct(self, correction: Correction, choice: Choice, *, session: str, user: str) -> Job:
        """Put a corrected label image in the queue: it is judged by ``choice`` and kept as feedback. Raises as
        ``submit`` does."""
        record = correction.record
        job = Job(secrets.token_urlsafe(18), session, user, None, choice, name=record.record_id,
                  bytes=9 * correction.mask.nbytes, source=correction.source, correction=correction)  # fmt: skip
        return self._queued(job)

    def _queued(self, job: Job) -> Job:
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
                # Pixels are not needed any more; the job is asked for a while yet.
                job.upload = job.correction = None

    @staticmethod
    def _fail(job: Job, error: EdgeError) -> None:
        job.error, job.stage = (error.code, error.message, error.hint), "failed"

    def _do(self, job: Job) -> None:
        if job.correction is not None:
            self._correct(job, job.correction)
            return
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
        document |= {"station": station_of(job.user), "trigger_utc": now_utc, "submitted_by": job.user,
                     "chosen": asdict(job.choice)}  # fmt: skip
        if job.again:
            document["again"] = job.again
        folder = self._banks.folder_for(record_id)
        _write_pictures(folder, station, pixels, inspection)
        job.stage = "store"
        seen = () if inspection is None else contrasts_of(pixels, inspection.labels, document["defects"])
        self._banks.keep(document, folder, seen or ())
        job.record_id = record_id
        self._kept(job)
        job.stage = "done"

    def _correct(self, job: Job, correction: Correction) -> None:
        """Judge a stored part with what a person has drawn, and keep both; the record stays as it is."""
        job.stage = "prepare"
        station = self._choices.station(job.choice)
        if tuple(station.engine.bundle.types) != correction.types:
            raise UsageError(
                "the engine of these rules knows other types than the label image",
                hint="judge by a recipe of the same engine, or keep the label image without judging",
            )
        job.stage = "judge"
        record = correction.record
        rejudged = rejudge(station, record, correction.mask)
        job.stage = "store"
        self._banks.writer(correction.source).feedback(
            record.record_id, correction.verdict, who=job.user, why=correction.why, mask=correction.mask,
            mask_types=correction.types, rejudged=rejudged,
        )  # fmt: skip
        job.record_id, job.stage = record.record_id, "done"


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


def step_back(steps: int) -> None:
    """This thread, and those that are started from it, give way to everything else; for the disk as well, because
    the kernel takes the priority of a thread's reading and writing from its niceness. steps: nicer by so many."""
    if steps > 0:
        with contextlib.suppress(OSError):
            now = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(19, now + steps))
            # What is left over, and not a small share: a page that waits costs nothing, a late permit costs a part.
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
