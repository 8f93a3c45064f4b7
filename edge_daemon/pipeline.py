"""The straight line of one part: Ticket -> Frame -> Inspection -> permit -> Record, in three threads.

    capture   takes each ticket at once and grabs its frame: a part must be seen at its own trigger
    judge     inspects; for PASS alone it makes the record durable and then asks for the permit
    store     writes record, message and pictures; the far side of the queue, which can hold nothing up

Each ticket that enters leaves as exactly one record, whatever happens on the way: every exception between ends as
NOT_EVALUABLE with its reason, and NOT_EVALUABLE never gets a permit.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .capture.protocol import Camera
from .config import DaemonConfig
from .errors import CameraError, EdgeError, GrabTimeout, StorageError
from .images import highlight, make_folder, write_png_atomic
from .inspection import Inspection, Station, document_of, not_evaluable
from .judge import Verdict
from .line.link import LineClient
from .line.wire import SEVERITY_NONE, ResultNote
from .logs import log
from .memory import MemoryBank
from .metrics import Metrics
from .publish import result_payload
from .records import UNKNOWN_LABEL, Frame, Outcome, Record
from .tickets import GateAnswer, Ticket, utc_now

__all__ = ["Part", "Pipeline", "final_verdict"]

_STORE_RETRY_S = 0.5
_JUDGE_BACKLOG = 8  # parts that may wait for the judge; more are BUSY


@dataclass(slots=True)
class Part:
    """One ticket on its way. ``verdict`` is the judge's, ``answer`` the gate's; ``ms`` the time each stage took."""

    ticket: Ticket
    frame: Frame | None = None
    station: Station | None = None
    inspection: Inspection | None = None
    verdict: Verdict | None = None
    answer: GateAnswer | None = None
    ms: dict[str, float] = field(default_factory=dict)


def final_verdict(verdict: Verdict, answer: GateAnswer | None) -> Verdict:
    """What the record says: PASS only if the gate opened; a PASS that came to nothing is NOT_EVALUABLE, with why."""
    if verdict.outcome is not Outcome.PASS or (answer is not None and answer.permitted):
        return verdict
    reason = answer.reason if answer is not None else "NO_ANSWER"
    return not_evaluable(reason, f"judged PASS, but the gate stayed closed: {reason}")


class Pipeline:
    """Three threads and the queues between them.

    ``station`` may be replaced while parts are on their way: a part keeps the one it was judged with. ``finished`` is
    called, in the store thread, with the ticket of each record that has become durable.
    """

    def __init__(
        self,
        config: DaemonConfig,
        station: Station,
        camera: Camera,
        bank: MemoryBank,
        line: LineClient,
        metrics: Metrics,
        finished: Callable[[Ticket], None],
    ) -> None:
        self.station = station
        self._config, self._camera, self._bank, self._line, self._metrics = config, camera, bank, line, metrics
        self._finished = finished
        self._tickets: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._frames: queue.Queue[Part | None] = queue.Queue(maxsize=_JUDGE_BACKLOG)
        self._done: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._judging_since_ns = 0
        self._under_way: dict[str, None] = {}
        self._unanswered: dict[str, Part] = {}
        self._unanswered_lock = threading.Lock()
        self._self_test = _SelfTest(config.watch.self_test_s)
        self._storage_trouble = ""
        self._threads = [
            threading.Thread(target=target, name=f"edge-{target.__name__.strip('_')}", daemon=True)
            for target in (self._capture, self._judge, self._store)
        ]

    def start(self) -> None:
        """Run the first self-test, then start the threads. Raises EngineError when the engine fails it."""
        self._self_test.run(self.station)
        for thread in self._threads:
            thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Hand over a fresh ticket. Never blocks."""
        self._under_way[ticket.record_id] = None
        self._tickets.put(ticket)

    def on_their_way(self) -> frozenset[str]:
        """Record ids of the tickets that have entered and have no durable record yet."""
        return frozenset(self._under_way.copy())

    def use_line(self, line: LineClient) -> None:
        """Speak to a new line process from now on."""
        self._line = line

    def ended(self, ticket: Ticket, answer: GateAnswer) -> None:
        """The line's final answer to a ticket. Needed only where ``permit`` came back without one."""
        with self._unanswered_lock:
            part = self._unanswered.pop(ticket.record_id, None)
        if part is not None:
            part.answer = answer
            self._done.put(part)

    def stop(self, timeout_s: float) -> bool:
        """Finish what is on its way, write its records, end the threads; False if one did not end in time."""
        self._stopping.set()
        until_s = time.monotonic() + timeout_s
        self._tickets.put(None)
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def troubles(self) -> list[str]:
        """Why the station must not be Ready, as far as this pipeline knows; empty when all is well. Never blocks."""
        troubles = []
        since_ns = self._judging_since_ns
        if since_ns and time.monotonic_ns() - since_ns > 1e9 * max(1.0, 2 * self._config.line.options.deadline_s):
            troubles.append("ENGINE_STALLED")
        troubles += [f"THREAD_DEAD:{thread.name}" for thread in self._threads if not thread.is_alive()]
        if self._self_test.trouble:
            troubles.append(self._self_test.trouble)
        if self._storage_trouble:
            troubles.append(self._storage_trouble)
        return troubles

    # ---------------------------------------------------------------- capture

    def _capture(self) -> None:
        while (ticket := self._tickets.get()) is not None:
            part = Part(ticket)
            started_ns = time.monotonic_ns()
            try:
                part.frame = self._frame_of(ticket, started_ns)
            except CameraError as error:
                part.verdict = not_evaluable(error.code, str(error))
            except Exception as error:  # noqa: BLE001 - whatever a camera library raises, the part needs its record
                log("capture_bug", f"{type(error).__name__}: {error}", level=40, error=error)
                part.verdict = not_evaluable("CAMERA", f"{type(error).__name__}: {error}")
            part.ms["capture"] = (time.monotonic_ns() - started_ns) / 1e6
            try:
                self._frames.put_nowait(part)
            except queue.Full:
                part.frame, part.verdict = None, not_evaluable("BUSY", "the judge was busy with earlier parts")
                # Permits come in the order of the triggers: a part that gets none must say so before the next asks.
                self._line.inform(ticket, _note(part, part.verdict))
                self._done.put(part)
        self._frames.put(None)

    def _frame_of(self, ticket: Ticket, now_ns: int) -> Frame:
        """The frame of this very trigger; CameraError with a code when there is none that surely is."""
        if self._stopping.is_set():
            raise CameraError("the daemon is stopping", code="STOPPING")
        latest_ns = min(ticket.trigger_ns + int(1e9 * self._config.camera.max_delay_s), ticket.deadline_ns)
        if now_ns >= latest_ns:
            raise CameraError("the camera was busy with earlier parts when this one came", code="BUSY")
        earliest_ns = ticket.trigger_ns - int(1e9 * self._config.camera.max_early_s)
        frame = self._camera.grab((latest_ns - now_ns) / 1e9, after_ns=earliest_ns)
        if frame.captured_ns > latest_ns:
            raise GrabTimeout("the frame came too late to be surely this part's")
        if frame.lost_before and getattr(self._config.camera.options, "trigger", "") == "hardware":
            raise CameraError(
                f"{frame.lost_before} exposures are missing before this frame, which may be another part's",
                code="FRAME_LOST",
            )
        return frame

    # ---------------------------------------------------------------- judge

    def _judge(self) -> None:
        while True:
            try:
                part = self._frames.get(timeout=0.2)
            except queue.Empty:
                self._self_test.run_if_due(self.station)
                continue
            if part is None:
                break
            self._judging_since_ns = time.monotonic_ns()
            try:
                self._decide(part)
            except Exception as error:  # noqa: BLE001 - a bug here is a reject and a record, never a silent part
                log("judge_bug", f"{type(error).__name__}: {error}", level=40, error=error)
                part.verdict = not_evaluable("BUG", f"{type(error).__name__}: {error}")
            finally:
                self._judging_since_ns = 0
                if part.ticket.record_id not in self._unanswered:
                    self._done.put(part)
            self._self_test.run_if_due(self.station)
        self._done.put(None)

    def _decide(self, part: Part) -> None:
        part.station = station = self.station
        started_ns = last_ns = time.monotonic_ns()
        part.ms["queue"] = (started_ns - part.ticket.trigger_ns) / 1e6 - part.ms["capture"]

        def lap(stage: str) -> None:
            nonlocal last_ns
            now_ns = time.monotonic_ns()
            part.ms[stage] = (now_ns - last_ns) / 1e6
            last_ns = now_ns

        if part.verdict is None and part.frame is not None:
            if started_ns >= part.ticket.deadline_ns:
                part.verdict = not_evaluable("BUSY", "the deadline had passed before the judge was free")
            else:
                try:
                    part.inspection = station.inspect(part.frame.pixels, lap)
                    part.verdict = part.inspection.verdict
                except EdgeError as error:
                    self._self_test.demand()
                    part.verdict = not_evaluable(error.code, str(error))
        verdict = part.verdict or not_evaluable("BUG", "no frame and no reason")
        part.verdict = verdict
        if verdict.outcome is Outcome.PASS and time.monotonic_ns() >= part.ticket.deadline_ns:
            part.answer = GateAnswer(False, "DEADLINE", time.monotonic_ns())
        elif verdict.outcome is Outcome.PASS:
            try:
                # The record is durable before the gate may open: no record, no permit.
                self._bank.intend(part.ticket, self._config.station, self._document(part, verdict))
            except StorageError as error:
                self._storage_trouble = error.code
                part.verdict = not_evaluable("STORAGE", str(error))
            else:
                lap("intend")
                answer = self._line.permit(part.ticket, _note(part, verdict))
                lap("permit")
                if answer.reason == "NO_ANSWER":
                    # The gate may or may not have opened; the line's TicketEnded says so, and the record waits for it.
                    with self._unanswered_lock:
                        self._unanswered[part.ticket.record_id] = part
                part.answer = answer
                return
        self._line.inform(part.ticket, _note(part, part.verdict))

    # ---------------------------------------------------------------- store

    def _store(self) -> None:
        while (part := self._done.get()) is not None:
            try:
                self._record(part)
            except Exception as error:  # noqa: BLE001 - the journal and the line still hold the ticket: nothing is lost
                log("store_bug", f"{type(error).__name__}: {error}", level=40, error=error,
                    record_id=part.ticket.record_id)  # fmt: skip
                self._storage_trouble = "STORE_BUG"

    def _record(self, part: Part) -> None:
        verdict = final_verdict(part.verdict or not_evaluable("BUG", "no verdict"), part.answer)
        document = self._document(part, verdict)
        pictures = self._keep_pictures(part, verdict)
        self.store_document(part.ticket, verdict.outcome, verdict.result, document, pictures)
        self._count(part, verdict)

    def store_document(
        self, ticket: Ticket, outcome: Outcome, result: str, document: dict[str, Any], pictures: Path | None = None
    ) -> None:
        """Make one record durable, trying until it is or the daemon stops; then tell the line to forget the ticket."""
        record = Record(
            ticket.record_id, ticket.part_id, self._config.station, ticket.trigger_utc, outcome, result, document
        )
        topic = None if self._config.mqtt is None else f"{self._config.mqtt.topic_root}/inspection/result"
        payload = None if topic is None else result_payload(record)
        while True:
            try:
                self._bank.store(record, topic, payload, pictures=None if pictures is None else str(pictures))
                break
            except StorageError as error:
                if not self._storage_trouble:
                    log("storage_lost", str(error), level=40, code=error.code)
                self._storage_trouble = error.code
                if self._stopping.wait(_STORE_RETRY_S):
                    # The journal or the line process still holds this ticket; the next start writes its record.
                    return
        if self._storage_trouble:
            log("storage_back", "records are written again")
            self._storage_trouble = ""
        self._under_way.pop(ticket.record_id, None)
        self._metrics.record_stored()
        self._finished(ticket)

    def _document(self, part: Part, verdict: Verdict) -> dict[str, Any]:
        """The record's document: that of ``inspect --json``, and what only the line knows."""
        document = document_of(
            part.station or self.station,
            part.inspection,
            record_id=part.ticket.record_id,
            image=part.frame.source if part.frame is not None else None,
            image_sha256=None,
            verdict=verdict,
            timings_ms={stage: round(ms, 3) for stage, ms in part.ms.items()},
        )
        document["part_id"] = part.ticket.part_id
        document["station"] = self._config.station
        document["trigger_utc"] = part.ticket.trigger_utc
        if part.verdict is not None:
            document["judged"] = str(part.verdict.outcome)
        if part.frame is not None:
            document["frame"] = {
                "frame_id": part.frame.frame_id,
                "captured_utc": part.frame.captured_utc,
                "delay_ms": round((part.frame.captured_ns - part.ticket.trigger_ns) / 1e6, 3),
            }
        if part.answer is not None:
            document["gate"] = {
                "permitted": part.answer.permitted,
                "reason": part.answer.reason,
                "decision_ms": round((part.answer.at_ns - part.ticket.trigger_ns) / 1e6, 3),
            }
        return document

    def _keep_pictures(self, part: Part, verdict: Verdict) -> Path | None:
        """Frame, labels and yellow picture of this part where the config keeps them; None when not, or not possible."""
        keep = self._config.memory.keep
        if part.frame is None or keep == "none" or (keep == "not_pass" and verdict.outcome is Outcome.PASS):
            return None
        folder = self._config.memory.pictures / utc_now()[:10] / part.ticket.record_id
        try:
            make_folder(folder)
            write_png_atomic(folder / "frame.png", part.frame.pixels)
            if part.inspection is not None:
                write_png_atomic(folder / "labels.png", part.inspection.labels)
                write_png_atomic(folder / "highlight.png", highlight(part.frame.pixels, part.inspection.labels))
        except StorageError as error:
            # The record matters more than its pictures; without space there is no Ready soon anyway.
            log("pictures_lost", str(error), level=30, record_id=part.ticket.record_id)
            return None
        return folder

    def _count(self, part: Part, verdict: Verdict) -> None:
        metrics = self._metrics
        metrics.part(str(verdict.outcome))
        if part.verdict is not None and part.verdict.outcome is Outcome.PASS and part.answer is not None:
            if part.answer.permitted:
                metrics.permitted((part.answer.at_ns - part.ticket.trigger_ns) / 1e9)
            else:
                metrics.permit_refused(part.answer.reason)
        if verdict.outcome is Outcome.NOT_EVALUABLE:
            metrics.failsafe_reject(verdict.reasons[0].code if verdict.reasons else "UNKNOWN")
        if part.inspection is not None and (part.inspection.labels == UNKNOWN_LABEL).any():
            metrics.unknown_type()
        for stage, ms in part.ms.items():
            metrics.stage(stage, ms / 1e3)


def _note(part: Part, verdict: Verdict) -> ResultNote:
    severities = [one.severity for one in verdict.types if one.severity is not None]
    unknown = part.inspection is not None and bool((part.inspection.labels == UNKNOWN_LABEL).any())
    return ResultNote(
        outcome=str(verdict.outcome),
        reason_code=verdict.reasons[0].code if verdict.reasons and verdict.outcome is not Outcome.PASS else "",
        severity_x10=round(10 * max(severities)) if severities else SEVERITY_NONE,
        unknown=unknown,
    )


class _SelfTest:
    """The engine must see the same thing in the same picture, again and again.

    Picture: the first reference plate, else a fixed pattern. The answer of the first run after a start or a recipe
    change is the expectation; engines are deterministic (same machine, same backend), so any difference is a fault.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._due_s = 0.0
        self._seen: tuple[Station, bytes] | None = None
        self.trouble = "SELF_TEST_PENDING"

    def demand(self) -> None:
        """Run at the next occasion: the engine has just broken its promise."""
        self._due_s, self.trouble = 0.0, "SELF_TEST_PENDING"

    def run_if_due(self, station: Station) -> None:
        """Run when the interval has passed or the station has changed; a failure becomes ``trouble``."""
        if time.monotonic() < self._due_s and self._seen is not None and self._seen[0] is station:
            return
        try:
            self.run(station)
        except EdgeError as error:
            if self.trouble != "SELF_TEST_FAILED":
                log("self_test_failed", str(error), level=40)
            self.trouble = "SELF_TEST_FAILED"
            self._due_s = time.monotonic() + min(self._every_s, 5.0)

    def run(self, station: Station) -> None:
        """One self-test. Raises EdgeError when the engine fails or answers otherwise than before."""
        answer = station.inspect(_test_picture(station)).labels.tobytes()
        if self._seen is not None and self._seen[0] is station and self._seen[1] != answer:
            raise EdgeError("the engine answers the same picture differently than before", code="SELF_TEST")
        if self.trouble == "SELF_TEST_FAILED":
            log("self_test_back", "the engine passes its self-test again")
        self._seen, self.trouble = (station, answer), ""
        self._due_s = time.monotonic() + self._every_s


def _test_picture(station: Station) -> NDArray[Any]:
    for reference in station.references.values():
        plate: NDArray[Any] = next(iter(reference.images.values())).pixels
        return plate
    ramp = np.linspace(40, 200, 256, dtype=np.float32)
    pattern = ramp[None, :] + 20 * np.sin(np.arange(256, dtype=np.float32)[:, None] / 7)
    picture: NDArray[Any] = np.clip(pattern, 0, 255).astype(np.uint8)
    return picture
