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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .capture.options import FolderOptions
from .capture.protocol import Camera
from .config import DaemonConfig
from .errors import CameraError, EdgeError, GrabTimeout, StorageError
from .images import highlight, make_folder, write_png_atomic
from .inspection import Inspection, Station, document_of, not_evaluable
from .judge import Verdict
from .line.link import LineClient
from .line.wire import SEVERITY_NONE, ResultNote
from .logs import log
from .memory import MemoryBank, contrasts_of, size_of_pictures
from .metrics import Metrics
from .pairing import Pairing
from .publish import result_payload
from .records import UNKNOWN_LABEL, Frame, Outcome, Reason, Record
from .segment.claim_watch import ClaimWatch
from .self_test import GoldenCheck, SelfTest
from .tickets import GateAnswer, Ticket, utc_now

__all__ = ["Part", "Pipeline", "final_verdict", "gate_unknown"]

_STORE_RETRY_S = 0.5
_JUDGE_BACKLOG = 8  # parts that may wait for the judge; more are BUSY
_NOTHING = not_evaluable("BUG", "no verdict")


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
    if gate_unknown(verdict, answer):
        text = f"judged PASS, but the line process went away: it is not known whether the gate opened ({reason})"
    else:
        text = f"judged PASS, but the gate stayed closed: {reason}"
    return not_evaluable(reason, text)


def gate_unknown(verdict: Verdict, answer: GateAnswer | None) -> bool:
    """Whether nobody can say if the gate opened: a permit was asked for, and who had to answer is gone."""
    return verdict.outcome is Outcome.PASS and answer is not None and answer.reason == "LINE_LOST"


def _of_another_recipe(ticket: Ticket, serving: tuple[Station, int | None, int]) -> str:
    """Why this part must not be judged by what is served, ``""`` where it may."""
    _, wanted, since_ns = serving
    if wanted is not None and ticket.recipe != wanted:
        return f"the PLC asks for recipe {ticket.recipe}, this station serves {wanted}"
    if ticket.trigger_ns < since_ns:
        return "the part was triggered before the recipe was changed"
    return ""


class Pipeline:
    """Three threads and the queues between them.

    ``finished`` is called, in the thread that stores, with the ticket of each record that has become durable.
    ``watch_claims`` makes the keeper of a station's certificate; None: nobody watches.
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
        watch_claims: Callable[[Station], ClaimWatch] | None = None,
    ) -> None:
        self._serving = (station, config.recipe_number, 0)
        self._watch_claims = watch_claims
        self.claims = None if watch_claims is None else watch_claims(station)
        self._config, self._camera, self._bank, self._line, self._metrics = config, camera, bank, line, metrics
        self._finished = finished
        self._tickets: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._frames: queue.Queue[Part | None] = queue.Queue(maxsize=_JUDGE_BACKLOG)
        self._done: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self._refusing = threading.Event()
        self._stopping = threading.Event()
        self._judging_since_ns = 0
        options = config.camera.options
        one_a_trigger = isinstance(options, FolderOptions) or getattr(options, "trigger", "") == "hardware"
        self._pairing = Pairing(camera, config.line.options.longest_held_s) if one_a_trigger else None
        self._retired: queue.SimpleQueue[Station] = queue.SimpleQueue()
        self._state = threading.Lock()  # guards the four below
        self._under_way: dict[str, int | None] = {}  # record id -> when the next part's trigger came
        self._newest: str | None = None
        self._ended: dict[str, GateAnswer] = {}
        self._unanswered: dict[str, Part] = {}
        self._self_test = SelfTest(config.watch.self_test_s)
        self._golden = GoldenCheck(config.watch.golden_s)
        self._storage_trouble = ""
        self._threads = [
            threading.Thread(target=target, name=f"edge-{target.__name__.strip('_')}", daemon=True)
            for target in (self._capture, self._judge, self._store)
        ]

    @property
    def station(self) -> Station:
        """What the next part is judged by."""
        return self._serving[0]

    def start(self) -> None:
        """Run the first self-test, then start the threads. Raises EngineError when the engine fails it, ConfigError
        when nothing says what the golden part is expected to be; one that is not rejected is a trouble that may go."""
        self._self_test.run(self.station)
        if self.station.golden is not None and self.station.golden.expect is None:
            self._golden.run(self.station)
        self._check_golden(self.station)
        for thread in self._threads:
            thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Hand over a fresh ticket, in the order of the triggers. Never blocks."""
        with self._state:
            if self._newest in self._under_way:
                self._under_way[self._newest] = ticket.trigger_ns
            self._under_way[ticket.record_id], self._newest = None, ticket.record_id
        self._tickets.put(ticket)

    def not_ours(self, tickets: Sequence[Ticket]) -> None:
        """Tickets whose frame nobody asks the camera for (ended before this pipeline took any from this line process,
        or refused unseen): their frames are left over, and no sign of a trigger held up."""
        if self._pairing is not None:
            for ticket in tickets:
                self._pairing.not_grabbed(ticket.trigger_ns)

    def on_their_way(self) -> frozenset[str]:
        """Record ids of the tickets that have entered and have no durable record yet."""
        with self._state:
            return frozenset(self._under_way)

    def use_line(self, line: LineClient) -> None:
        """Speak to a new line process from now on."""
        self._line = line

    def use_station(
        self,
        station: Station,
        *,
        other_recipe: tuple[int | None] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        """Judge the next part with another recipe. A part keeps the station it was judged with; the engine before is
        closed by the thread that used it. Raises what the new engine's self-test raises; then nothing has changed.

        other_recipe: this is for another kind of part, and the PLC's number for it: parts triggered before are then not
        evaluable, for nobody can say which kind they are. before: the last thing done before the change; what it raises
        leaves all as it was.
        """
        SelfTest(self._config.watch.self_test_s).run(station)
        GoldenCheck(self._config.watch.golden_s).run(station)
        if self._watch_claims is not None and station.seals.engine != self.station.seals.engine:
            self.claims = self._watch_claims(station)  # the same bundle keeps what is known of it
        if before is not None:
            before()
        retired, number, since_ns = self._serving
        if other_recipe is not None:
            number, since_ns = other_recipe[0], time.monotonic_ns()
        self._serving = (station, number, since_ns)  # one assignment: no part sees half of it
        self._retired.put(retired)

    def ended(self, ticket: Ticket, answer: GateAnswer) -> None:
        """The line's final answer to a ticket. Needed only where ``permit`` came back, or comes back, without one."""
        with self._state:
            part = self._unanswered.pop(ticket.record_id, None)
            if part is None and ticket.record_id in self._under_way:
                self._ended[ticket.record_id] = answer
        if part is not None:
            part.answer = answer
            self._done.put(part)

    def refuse(self) -> None:
        """The daemon is stopping: parts that come from now on are not inspected. Those on their way are finished."""
        self._refusing.set()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no part is on its way; False when there still is one."""
        until_s = time.monotonic() + timeout_s
        while self.on_their_way() and time.monotonic() < until_s:
            time.sleep(0.01)
        return not self.on_their_way()

    def stop(self, timeout_s: float) -> bool:
        """End the threads, once their queues are empty; False if one did not end in time. Safe before ``start``."""
        self._refusing.set()
        self._stopping.set()
        until_s = time.monotonic() + timeout_s
        self._tickets.put(None)
        started = [thread for thread in self._threads if thread.ident is not None]
        for thread in started:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in started)

    def troubles(self) -> list[str]:
        """Why the station must not be Ready, as far as this pipeline knows; empty when all is well. Never blocks."""
        troubles = []
        since_ns = self._judging_since_ns
        if since_ns and time.monotonic_ns() - since_ns > 1e9 * max(1.0, 2 * self._config.line.options.deadline_s):
            troubles.append("ENGINE_STALLED")
        troubles += [f"THREAD_DEAD:{thread.name}" for thread in self._threads if not thread.is_alive()]
        if self._self_test.trouble:
            troubles.append(self._self_test.trouble)
        if self._golden.trouble:
            troubles.append(self._golden.trouble)
        if self._storage_trouble:
            troubles.append(self._storage_trouble)
        if self._pairing is not None and self._pairing.trouble():
            troubles.append("OUT_OF_STEP")
        expired = self._expired(self.station)
        if expired is not None:
            troubles.append(expired.code)
        barred = self._barred()
        if barred is not None:
            troubles.append(barred.code)
        return troubles

    def _expired(self, station: Station) -> Reason | None:
        return station.refusal(utc_now(), self._config.watch.max_calibration_age_s)

    def _withdrawn(self) -> Reason | None:
        return None if self.claims is None else self.claims.notice()

    def _barred(self) -> Reason | None:
        """Why nothing may be judged, at a site that demands a certificate, once it is withdrawn."""
        withdrawn = self._withdrawn()
        return withdrawn if withdrawn is not None and self._config.require_certificate else None

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
        if self._refusing.is_set():
            raise CameraError("the daemon is stopping", code="STOPPING")
        refused = _of_another_recipe(ticket, self._serving)
        pairing = self._pairing
        if refused:
            self.not_ours([ticket])
            raise CameraError(refused, code="RECIPE")
        latest_ns = min(ticket.trigger_ns + int(1e9 * self._config.camera.max_delay_s), ticket.deadline_ns)
        if now_ns >= latest_ns:
            self.not_ours([ticket])
            raise CameraError("the camera was busy with earlier parts when this one came", code="BUSY")
        earliest_ns = ticket.trigger_ns - int(1e9 * self._config.camera.max_early_s)
        if pairing is not None and pairing.frame_is_taken(earliest_ns):
            raise CameraError("the only frame since this trigger was taken for the part before", code="FRAME_LOST")
        captured_ns = None
        try:
            frame = self._camera.grab((latest_ns - now_ns) / 1e9, after_ns=earliest_ns)
            captured_ns = frame.captured_ns
        finally:
            if pairing is not None:
                pairing.grabbed(captured_ns)
        if frame.captured_ns > latest_ns:
            raise GrabTimeout("the frame came too late to be surely this part's")
        doubt = "" if pairing is None else pairing.trouble()
        if doubt:
            raise CameraError(doubt, code="FRAME_LOST")
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
                self._look_after_engine()
                continue
            if part is None:
                break
            parked = False
            self._judging_since_ns = time.monotonic_ns()
            try:
                parked = self._decide(part)
            except Exception as error:  # noqa: BLE001 - a bug here is a reject and a record, never a silent part
                log("judge_bug", f"{type(error).__name__}: {error}", level=40, error=error)
                if part.answer is None:
                    part.verdict = not_evaluable("BUG", f"{type(error).__name__}: {error}")
                    self._line.inform(part.ticket, _note(part, part.verdict))
            finally:
                self._judging_since_ns = 0
                if not parked:
                    self._done.put(part)
            self._look_after_engine()
        self._done.put(None)

    def _look_after_engine(self) -> None:
        """Between two parts: close engines nobody needs any more, and let the present one prove itself when due."""
        while not self._retired.empty():
            self._retired.get().engine.close()
        station = self.station
        if self._self_test.is_due(station):
            self._judging_since_ns = time.monotonic_ns()
            try:
                self._self_test.run_quietly(station)
            finally:
                self._judging_since_ns = 0
        if self._golden.is_due(station):
            self._judging_since_ns = time.monotonic_ns()
            try:
                self._check_golden(station)
            finally:
                self._judging_since_ns = 0

    def _check_golden(self, station: Station) -> None:
        self._golden.run_quietly(station)
        measured = self._golden.measured
        self._metrics.golden(self._golden.held, None if measured is None else measured.value)

    def _unfit(self) -> Reason | None:
        """Why no part may pass although it can be seen: the beat may not have told the gate yet."""
        if self._self_test.trouble:
            return Reason("SELF_TEST", f"the engine's self-test is not passed: {self._self_test.trouble}")
        if self._golden.trouble:
            return Reason(self._golden.trouble, "the golden part was not rejected as it must be")
        return None

    def _decide(self, part: Part) -> bool:
        """Judge one part and ask for its permit; True when its answer is still to come (``ended`` finishes it)."""
        serving = self._serving
        part.station = station = serving[0]
        started_ns = last_ns = time.monotonic_ns()
        part.ms["queue"] = (started_ns - part.ticket.trigger_ns) / 1e6 - part.ms["capture"]

        def lap(stage: str) -> None:
            nonlocal last_ns
            now_ns = time.monotonic_ns()
            part.ms[stage] = (now_ns - last_ns) / 1e6
            last_ns = now_ns

        if part.verdict is None and part.frame is not None:
            expired = self._expired(station) or self._barred() or self._unfit()
            another = _of_another_recipe(part.ticket, serving)
            if another:  # the recipe was changed between frame and judgement
                part.verdict = not_evaluable("RECIPE", another)
            elif expired is not None:
                part.verdict = not_evaluable(expired.code, expired.text)
            elif started_ns >= part.ticket.deadline_ns:
                part.verdict = not_evaluable("BUSY", "the deadline had passed before the judge was free")
            else:
                try:
                    part.inspection = station.inspect(part.frame.pixels, lap)
                    part.verdict = part.inspection.verdict
                except EdgeError as error:
                    self._self_test.demand()
                    part.verdict = not_evaluable(error.code, str(error))
        part.verdict = part.verdict or not_evaluable("BUG", "no frame and no reason")
        if part.verdict.outcome is Outcome.PASS and self._may_ask(part, lap):
            answer = self._line.permit(part.ticket, _note(part, part.verdict))
            lap("permit")
            if answer.reason == "NO_ANSWER":
                # The gate may or may not have opened; the line's TicketEnded says so, and the record waits for it.
                with self._state:
                    part.answer = self._ended.get(part.ticket.record_id)
                    if part.answer is None:
                        part.answer = answer
                        self._unanswered[part.ticket.record_id] = part
                        return True
            else:
                part.answer = answer
            return False
        self._line.inform(part.ticket, _note(part, part.verdict))
        return False

    def _may_ask(self, part: Part, lap: Callable[[str], None]) -> bool:
        """Whether a part judged PASS may ask for its permit; if not, its verdict or answer says why."""
        if time.monotonic_ns() >= part.ticket.deadline_ns:
            part.answer = GateAnswer(False, "DEADLINE", time.monotonic_ns())
            return False
        try:
            # The record is durable before the gate may open: no record, no permit.
            self._bank.intend(part.ticket, self._config.station, self._document(part, part.verdict or _NOTHING))
        except StorageError as error:
            self._storage_trouble = error.code
            part.verdict = not_evaluable("STORAGE", str(error))
            return False
        lap("intend")
        # As late as possible, so that a trigger that arrived meanwhile is known: a camera that missed this part's
        # exposure delivers the next part's, and that frame must not open the gate for this one.
        with self._state:
            next_trigger_ns = self._under_way.get(part.ticket.record_id)
        early_ns = int(1e9 * self._config.camera.max_early_s)
        if next_trigger_ns is not None and part.frame is not None:
            behind_ns = next_trigger_ns - early_ns - part.frame.captured_ns
            if behind_ns <= 0:
                part.verdict = not_evaluable(
                    "FRAME_LOST",
                    f"the frame came {-behind_ns / 1e6:.0f} ms after the next part's trigger and may show that part",
                )
                return False
        return True

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
        judged = part.verdict or _NOTHING
        verdict = final_verdict(judged, part.answer)
        self._look_for_drift(part)
        try:
            document = self._document(part, verdict)
        except Exception as error:  # noqa: BLE001 - a record with less in it is better than none
            log("document_bug", f"{type(error).__name__}: {error}", level=40, error=error,
                record_id=part.ticket.record_id)  # fmt: skip
            if verdict.outcome is not Outcome.PASS:  # what the gate did is true whatever happens to its description
                verdict = not_evaluable("BUG", f"{type(error).__name__}: {error}")
            part.inspection = part.frame = None
            document = self.bare_document(part.ticket, verdict)
            document["gate"] = _gate_document(part, judged)
        pictures = self._keep_pictures(part, verdict)
        contrasts = _contrasts(part, document)
        while True:
            try:
                stored = self.store_document(part.ticket, verdict.outcome, document, pictures, contrasts)
                break
            except StorageError as error:
                if not self._storage_trouble:
                    log("storage_lost", str(error), level=40, code=error.code)
                self._storage_trouble = error.code
                if self._stopping.wait(_STORE_RETRY_S):
                    # The journal or the line process still holds this ticket; the next start writes its record.
                    return
        if self._storage_trouble not in ("", "STORE_BUG"):
            log("storage_back", "records are written again")
            self._storage_trouble = ""
        if stored:
            self._count(part, verdict)

    def _look_for_drift(self, part: Part) -> None:
        """One more frame for the certificate's keeper; one judged by the engine before a reload says nothing of it."""
        station, inspection = part.station, part.inspection
        if self.claims is None or inspection is None or part.frame is None or station is None:
            return
        if station.seals.engine == self.station.seals.engine:
            self.claims.look(part.frame.pixels, inspection.segmentation.coverage, utc_now())

    def store_document(
        self,
        ticket: Ticket,
        outcome: Outcome,
        document: dict[str, Any],
        pictures: Path | None = None,
        contrasts: Sequence[float | None] = (),
    ) -> bool:
        """Make one record durable and tell the line to forget its ticket; False where it was durable before.

        Raises StorageError; then nothing has changed.
        """
        result = outcome.result
        record = Record(
            ticket.record_id, ticket.part_id, self._config.station, ticket.trigger_utc, outcome, result, document
        )
        topic = None if self._config.mqtt is None else f"{self._config.mqtt.topic_root}/inspection/result"
        payload = None if topic is None else result_payload(record)
        stored = self._bank.store(
            record,
            topic,
            payload,
            pictures=None if pictures is None else str(pictures),
            pictures_bytes=None if pictures is None else size_of_pictures(pictures),
            contrasts=contrasts,
        )
        with self._state:
            self._under_way.pop(ticket.record_id, None)
            self._ended.pop(ticket.record_id, None)
        if stored:
            self._metrics.record_stored()
        self._finished(ticket)
        return stored

    def bare_document(self, ticket: Ticket, verdict: Verdict) -> dict[str, Any]:
        """The document of a part of which nothing is known but its ticket."""
        document = document_of(
            self.station, None, record_id=ticket.record_id, image=None, image_sha256=None, verdict=verdict
        )
        document.update(part_id=ticket.part_id, station=self._config.station, trigger_utc=ticket.trigger_utc)
        return document

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
            document["gate"] = _gate_document(part, part.verdict or _NOTHING)
        withdrawn = self._withdrawn()
        if withdrawn is not None:  # only then, so that records of an undisturbed line stay what they were
            document["notices"] = [{"code": withdrawn.code, "text": withdrawn.text}]
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
        except Exception as error:  # noqa: BLE001 - the record matters more than its pictures, whatever ails them
            log("pictures_lost", f"{type(error).__name__}: {error}", level=30, record_id=part.ticket.record_id)
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


def _gate_document(part: Part, judged: Verdict) -> dict[str, Any] | None:
    """What the gate did; ``permitted`` is null where nobody can say."""
    answer = part.answer
    if answer is None:
        return None
    return {
        "permitted": None if gate_unknown(judged, answer) else answer.permitted,
        "reason": answer.reason,
        "decision_ms": round((answer.at_ns - part.ticket.trigger_ns) / 1e6, 3),
    }


def _contrasts(part: Part, document: dict[str, Any]) -> Sequence[float | None]:
    """A help for searching and no evidence: whatever ails it, the record is stored without."""
    if part.frame is None or part.inspection is None:
        return ()
    try:
        return contrasts_of(part.frame.pixels, part.inspection.labels, document["defects"])
    except Exception as error:  # noqa: BLE001 - see above
        log("contrast_bug", f"{type(error).__name__}: {error}", level=30, record_id=part.ticket.record_id)
        return ()


def _note(part: Part, verdict: Verdict) -> ResultNote:
    severities = [one.severity for one in verdict.types if one.severity is not None]
    if any(one.comparisons and one.severity is None and one.rule.level is not None for one in verdict.types):
        severities = []  # worse than the worst plate: no number says how much, and a smaller one would mislead
    unknown = part.inspection is not None and bool((part.inspection.labels == UNKNOWN_LABEL).any())
    return ResultNote(
        outcome=str(verdict.outcome),
        reason_code=verdict.reasons[0].code if verdict.reasons and verdict.outcome is not Outcome.PASS else "",
        severity_x10=round(10 * max(severities)) if severities else SEVERITY_NONE,
        unknown=unknown,
    )
