"""The pipeline against everything that can go wrong around it: one record a trigger, and no permit that should not be.

Engine, camera and gate are played here, because the point is the moment at which each of them fails.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_daemon import pipeline as module
from edge_daemon.errors import CameraError, EngineError, GrabTimeout, StorageError
from edge_daemon.golden import GoldenPart, Measured
from edge_daemon.inspection import Inspection, Seals, not_evaluable
from edge_daemon.judge import Verdict
from edge_daemon.memory import MemoryBank
from edge_daemon.metrics import Metrics
from edge_daemon.pipeline import Pipeline, final_verdict, gate_unknown
from edge_daemon.records import Frame, Outcome, Reason, Record, Segmentation
from edge_daemon.tickets import GateAnswer, Ticket, new_record_id, utc_now

PASSED = Verdict(Outcome.PASS, (), ())
GRANTED = GateAnswer(True, "", 1)


# ---------------------------------------------------------------- what the record says


def test_pass_is_pass_only_when_the_gate_opened() -> None:
    assert final_verdict(PASSED, GRANTED).outcome is Outcome.PASS


@pytest.mark.parametrize("answer", [None, GateAnswer(False, "LATE", 1), GateAnswer(False, "LINE_LOST", 1)])
def test_a_pass_the_gate_did_not_obey_is_not_evaluable_with_its_reason(answer: GateAnswer | None) -> None:
    verdict = final_verdict(PASSED, answer)
    assert verdict.outcome is Outcome.NOT_EVALUABLE
    assert verdict.result == "FAIL"
    assert verdict.reasons[0].code == (answer.reason if answer else "NO_ANSWER")


def test_only_a_lost_line_leaves_the_gate_unknown_and_says_so() -> None:
    lost = GateAnswer(False, "LINE_LOST", 1)
    assert gate_unknown(PASSED, lost)
    assert "not known" in final_verdict(PASSED, lost).reasons[0].text
    assert not gate_unknown(PASSED, GateAnswer(False, "LATE", 1))
    assert not gate_unknown(Verdict(Outcome.FAIL, (), ()), lost), "nobody asked for a permit"


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.NOT_EVALUABLE])
def test_nothing_turns_another_outcome_into_pass(outcome: Outcome) -> None:
    verdict = Verdict(outcome, (), ())
    assert final_verdict(verdict, GRANTED).outcome is outcome


def test_a_record_cannot_say_pass_without_the_outcome() -> None:
    with pytest.raises(ValueError, match="result PASS"):
        Record("r", 1, "s", "t", Outcome.FAIL, "PASS", {})
    assert not_evaluable("X", "y").result == "FAIL"


# ---------------------------------------------------------------- the threads


class PlayedEngine:
    name, backend = "played", "none"

    def __init__(self) -> None:
        self.bundle = SimpleNamespace(sha256="0" * 64, types=("crack",))
        self.closed = False

    def close(self) -> None:
        self.closed = True


class PlayedStation:
    """Answers PASS; ``react`` may raise, wait, or answer otherwise."""

    def __init__(self, name: str = "played") -> None:
        self.engine, self.name, self.references, self.seals = PlayedEngine(), name, {}, Seals("0" * 64)
        self.verdict = PASSED
        self.expired: Reason | None = None
        self.calibration, self.not_inspected, self.sensitivity, self.certificate = None, (), None, None
        self.golden: GoldenPart | None = None
        self.react: Callable[[np.ndarray], None] = lambda pixels: None

    def refusal(self, now_utc: str, max_age_s: float | None = None) -> Reason | None:
        return self.expired

    def look(self, pixels: np.ndarray) -> Segmentation:
        return self.inspect(pixels).segmentation

    def inspect(self, pixels: np.ndarray, lap: Callable[[str], None] = lambda _: None) -> Inspection:
        self.react(pixels)
        labels = np.zeros(pixels.shape[:2], np.uint8)
        return Inspection(Segmentation(labels, None, ("crack",)), labels, None, self.verdict)


class PlayedCamera:
    """Frames are shot by the test, or one a grab where ``always``."""

    identity = "played"

    def __init__(self, *, always: bool = True) -> None:
        self.discarded = self.opened_ns = 0
        self._always, self._shot, self._change = always, [], threading.Condition()
        self.grabs = 0

    def shoot(self, source: str) -> None:
        with self._change:
            self._shot.append(Frame(np.zeros((8, 8), np.uint8), 1, time.monotonic_ns(), utc_now(), source))
            self._change.notify_all()

    def grab(self, timeout_s: float, *, after_ns: int) -> Frame:
        self.grabs += 1
        deadline_s = time.monotonic() + timeout_s
        if self._always:
            self.shoot("played")
        with self._change:
            while self._change.wait_for(lambda: self._shot, max(0.0, deadline_s - time.monotonic())):
                frame = self._shot.pop(0)
                if frame.captured_ns > after_ns:
                    return frame
                self.discarded += 1
            raise GrabTimeout("no frame")

    def trouble(self) -> None:
        return None


class PlayedLine:
    """Grants every permit, and remembers what was asked and told; ``answer`` may say otherwise."""

    def __init__(self) -> None:
        self.permits: list[int] = []
        self.informed: list[tuple[int, str]] = []
        self.settled: list[str] = []
        self.answer: Callable[[Ticket], GateAnswer] = lambda ticket: GateAnswer(True, "", time.monotonic_ns())

    def permit(self, ticket: Ticket, note: Any) -> GateAnswer:
        self.permits.append(ticket.part_id)
        return self.answer(ticket)

    def inform(self, ticket: Ticket, note: Any) -> bool:
        self.informed.append((ticket.part_id, note.reason_code))
        return True


class Bench:
    """A pipeline with everything around it played, and a real memory bank."""

    def __init__(self, folder: Path, camera: PlayedCamera | None = None, **config: Any) -> None:
        self.bank, self.line, self.station = MemoryBank(folder / "memory.db"), PlayedLine(), PlayedStation()
        self.camera, self.metrics = camera or PlayedCamera(), Metrics("s", deadline_s=0.3)
        self.config = SimpleNamespace(
            station="s",
            recipe_number=config.get("recipe_number"),
            line=SimpleNamespace(options=SimpleNamespace(deadline_s=0.3, longest_held_s=0.5)),
            camera=SimpleNamespace(
                max_delay_s=0.2, max_early_s=0.0, options=SimpleNamespace(trigger=config.get("trigger", "software"))
            ),
            memory=SimpleNamespace(keep=config.get("keep", "none"), pictures=folder / "pictures"),
            mqtt=None,
            require_certificate=False,
            watch=SimpleNamespace(
                max_calibration_age_s=None,
                self_test_s=config.get("self_test_s", 60.0),
                golden_s=config.get("golden_s", 60.0),
            ),
        )
        self.pipeline = Pipeline(
            self.config, self.station, self.camera, self.bank, self.line, self.metrics,
            lambda ticket: self.line.settled.append(ticket.record_id),
        )  # fmt: skip

    def trigger(self, part_id: int = 1, recipe: int = 0) -> Ticket:
        now_ns = time.monotonic_ns()
        ticket = Ticket(new_record_id(), part_id, now_ns, now_ns + 300_000_000, utc_now(), recipe)
        self.pipeline.submit(ticket)
        self.bank.open_ticket(ticket, "s")
        return ticket

    def record(self, ticket: Ticket, timeout_s: float = 3.0) -> Any:
        assert eventually(lambda: self.bank.get(ticket.record_id) is not None, timeout_s), "no record"
        return self.bank.get(ticket.record_id)

    def counted(self, name: str) -> float:
        return sum(
            sample.value for family in self.metrics.registry.collect() for sample in family.samples
            if sample.name == name
        )  # fmt: skip


@contextmanager
def bench(folder: Path, camera: PlayedCamera | None = None, **config: Any) -> Iterator[Bench]:
    one = Bench(folder, camera, **config)
    one.pipeline.start()
    try:
        yield one
    finally:
        assert one.pipeline.stop(5.0)
        one.bank.close()


def eventually(condition: Callable[[], bool], timeout_s: float = 3.0) -> bool:
    until_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.005)
    return condition()


def test_a_part_judged_pass_gets_its_permit_after_its_draft_and_one_record(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        drafts = []
        one.line.answer = lambda ticket: drafts.extend(one.bank.unfinished_tickets()) or GRANTED
        record = one.record(one.trigger())
        assert (record.outcome, record.result) == (Outcome.PASS, "PASS")
        assert drafts[0].draft is not None, "no record, no permit"
        assert eventually(lambda: one.line.settled == [record.record_id])


def test_the_next_parts_picture_never_opens_the_gate_for_this_one(tmp_path: Path) -> None:
    """The camera misses the first part; the frame of the second comes within the first one's time."""
    with bench(tmp_path, PlayedCamera(always=False)) as one:
        first = one.trigger(1)
        time.sleep(0.05)
        second = one.trigger(2)
        time.sleep(0.005)
        one.camera.shoot("shows part 2")
        assert one.record(first).document["image"] == "shows part 2"
        assert one.record(first).reasons == ("FRAME_LOST",)
        assert one.record(second).reasons == ("GRAB_TIMEOUT",)
        assert one.line.permits == []
        assert (1, "FRAME_LOST") in one.line.informed


def test_a_camera_on_a_wire_that_misses_one_part_is_in_step_again_two_parts_later(tmp_path: Path) -> None:
    """Parts closer than max_delay: without a stop each would be judged by its successor's frame, for ever."""
    with bench(tmp_path, PlayedCamera(always=False), trigger="hardware") as one:
        found = []
        for part_id in range(1, 6):
            ticket = one.trigger(part_id)
            time.sleep(0.005)
            if part_id != 1:
                one.camera.shoot(f"shows part {part_id}")
            found.append(ticket)
            time.sleep(0.1)
        records = [one.record(ticket) for ticket in found]
        assert [record.reasons for record in records[:2]] == [("FRAME_LOST",), ("FRAME_LOST",)]
        assert [record.result for record in records[2:]] == ["PASS"] * 3
        assert [record.document["image"] for record in records[2:]] == [f"shows part {n}" for n in (3, 4, 5)]


def run_of_parts(one: Bench, delays_s: list[float], interval_s: float = 0.1) -> list[Any]:
    """Parts at a constant interval, each exposed at its own time; its trigger comes so much later. Their records."""
    events = [(n * interval_s + 0.004, n, "frame") for n in range(len(delays_s))]
    events += [(n * interval_s + delay_s, n, "trigger") for n, delay_s in enumerate(delays_s) if delay_s < 1e3]
    tickets, start_s = {}, time.monotonic()
    for at_s, n, what in sorted(events):
        time.sleep(max(0.0, start_s + at_s - time.monotonic()))
        if what == "frame":
            one.camera.shoot(f"shows part {n}")
        else:
            tickets[n] = one.trigger(n)
    return [one.record(tickets[n]) if n in tickets else None for n in range(len(delays_s))]


NEVER = 1e9


@pytest.mark.parametrize(
    "delays_s",
    [
        [0, 0, 0.15, 0, 0, 0, 0, 0, 0, 0],  # alone
        [0, 0, 0.19, 0.16, 0.11, 0, 0, 0, 0, 0],  # and those behind it as well
        [0, 0, 0.35, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # overtaken by three
        [0, 0, NEVER, 0, 0, 0, 0, 0, 0, 0],  # lost
        [0, 0, *[0.15] * 4, 0, 0, 0, 0, 0, 0, 0],  # a wire that lags for a while
    ],
)
def test_a_late_trigger_never_passes_by_another_parts_frame(tmp_path: Path, delays_s: list[float]) -> None:
    with bench(tmp_path, PlayedCamera(always=False), trigger="hardware") as one:
        records = run_of_parts(one, delays_s)
        passed = {n: record.document["image"] for n, record in enumerate(records) if record and record.result == "PASS"}
        assert all(image == f"shows part {n}" for n, image in passed.items())
        assert {0, 1, len(delays_s) - 1} <= set(passed), "before, and again when it is over"
        refused = [record.reasons for record in records if record and record.result != "PASS"]
        assert set(refused) <= {("FRAME_LOST",), ("GRAB_TIMEOUT",)}
        assert eventually(lambda: "OUT_OF_STEP" not in one.pipeline.troubles())


def test_frames_that_nobody_asks_for_block_for_one_interval_and_no_longer(tmp_path: Path) -> None:
    with bench(tmp_path, PlayedCamera(always=False), trigger="hardware") as one:
        for _ in range(5):
            one.camera.shoot("a test shot")
        first = run_of_parts(one, [0.0])[0]
        assert first.reasons == ("FRAME_LOST",)
        assert one.pipeline.troubles() == ["OUT_OF_STEP"]
        assert eventually(lambda: one.pipeline.troubles() == [])
        assert [record.result for record in run_of_parts(one, [0.0, 0.0])] == ["PASS", "PASS"]


def test_the_frames_of_parts_that_were_refused_unseen_are_no_sign_of_a_late_trigger(tmp_path: Path) -> None:
    with bench(tmp_path, PlayedCamera(always=False), trigger="hardware", recipe_number=5) as one:
        for part_id, recipe, reason in [(1, 5, ()), (2, 6, ("RECIPE",)), (3, 6, ("RECIPE",)), (4, 5, ())]:
            ticket = one.trigger(part_id, recipe)
            time.sleep(0.004)
            one.camera.shoot(f"shows part {part_id}")
            time.sleep(0.02)
            assert one.record(ticket).reasons == reason


def test_nothing_passes_while_a_trigger_may_be_older_than_the_cameras_opening(tmp_path: Path) -> None:
    with bench(tmp_path, PlayedCamera(always=False), trigger="hardware") as one:
        one.camera.opened_ns = time.monotonic_ns()
        assert one.pipeline.troubles() == ["OUT_OF_STEP"]
        assert run_of_parts(one, [0.0])[0].reasons == ("FRAME_LOST",)
        assert eventually(lambda: one.pipeline.troubles() == [])
        assert run_of_parts(one, [0.0])[0].result == "PASS"


@pytest.mark.parametrize("daemon_was_away_for", [0, 2])
def test_frames_whose_triggers_no_daemon_took_are_no_sign_either(tmp_path: Path, daemon_was_away_for: int) -> None:
    with bench(tmp_path, PlayedCamera(always=False), trigger="hardware") as one:
        one.camera.opened_ns = time.monotonic_ns() - 2_000_000_000
        tickets = []
        for _ in range(2):
            now_ns = time.monotonic_ns()
            tickets.append(Ticket(new_record_id(), 9, now_ns, now_ns + 1, utc_now(), 0))
            one.camera.shoot("of a part that was refused meanwhile")
        one.pipeline.not_ours(tickets[:daemon_was_away_for])
        found = run_of_parts(one, [0.0])[0]
        assert (found.result == "PASS") == (daemon_was_away_for == 2)


def test_a_frame_before_the_next_trigger_is_this_parts(tmp_path: Path) -> None:
    with bench(tmp_path, PlayedCamera(always=False)) as one:
        one.station.react = lambda pixels: time.sleep(0.05)
        first = one.trigger(1)
        one.camera.shoot("shows part 1")
        time.sleep(0.01)
        one.trigger(2)
        assert one.record(first).result == "PASS"


def test_the_frame_of_a_camera_on_a_wire_may_come_before_the_telegram(tmp_path: Path) -> None:
    """With max_early the next part's frame may be older than its trigger by as much: then it counts as that part's."""
    with bench(tmp_path, PlayedCamera(always=False)) as one:
        one.config.camera.max_early_s = 0.04
        one.station.react = lambda pixels: time.sleep(0.06)
        first = one.trigger(1)
        time.sleep(0.05)
        one.camera.shoot("part 1 or part 2")
        time.sleep(0.01)
        one.trigger(2)
        assert one.record(first).reasons == ("FRAME_LOST",)


@pytest.mark.parametrize("permitted", [True, False])
def test_an_answer_that_comes_before_permit_gives_up_is_the_answer(tmp_path: Path, permitted: bool) -> None:
    with bench(tmp_path) as one:

        def answer(ticket: Ticket) -> GateAnswer:
            one.pipeline.ended(ticket, GateAnswer(permitted, "" if permitted else "DEADLINE", time.monotonic_ns()))
            return GateAnswer(False, "NO_ANSWER", time.monotonic_ns())

        one.line.answer = answer
        record = one.record(one.trigger())
        assert record.result == ("PASS" if permitted else "FAIL")
        assert record.document["gate"]["reason"] == ("" if permitted else "DEADLINE")
        assert not one.pipeline.on_their_way()


@pytest.mark.parametrize("permitted", [True, False])
def test_an_answer_that_comes_after_permit_gave_up_is_waited_for(tmp_path: Path, permitted: bool) -> None:
    with bench(tmp_path) as one:
        one.line.answer = lambda ticket: GateAnswer(False, "NO_ANSWER", time.monotonic_ns())
        ticket = one.trigger()
        assert eventually(lambda: bool(one.line.permits))
        time.sleep(0.1)
        assert one.bank.get(ticket.record_id) is None
        one.pipeline.ended(ticket, GateAnswer(permitted, "" if permitted else "DEADLINE", time.monotonic_ns()))
        assert one.record(ticket).result == ("PASS" if permitted else "FAIL")


def test_an_answer_that_comes_at_the_worst_moment_counts_once(tmp_path: Path) -> None:
    """Whatever the two threads do in between: one record, one count, and the gate's own answer."""
    with bench(tmp_path) as one:
        threads = []

        def answer(ticket: Ticket) -> GateAnswer:
            granted = GateAnswer(True, "", time.monotonic_ns())
            threads.append(threading.Thread(target=one.pipeline.ended, args=(ticket, granted)))
            threads[-1].start()
            return GateAnswer(False, "NO_ANSWER", time.monotonic_ns())

        one.line.answer = answer
        tickets = []
        for part_id in range(60):
            tickets.append(one.trigger(part_id))
            assert one.record(tickets[-1]).result == "PASS"
        for thread in threads:
            thread.join()
        assert eventually(lambda: one.counted("edge_parts_total") == 60)
        assert one.counted("edge_records_stored_total") == 60


def test_a_lost_line_leaves_the_gate_null_in_the_record(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        one.line.answer = lambda ticket: GateAnswer(False, "LINE_LOST", time.monotonic_ns())
        record = one.record(one.trigger())
        assert record.outcome is Outcome.NOT_EVALUABLE
        assert record.document["gate"]["permitted"] is None


def test_an_engine_that_hangs_in_its_self_test_is_noticed(tmp_path: Path) -> None:
    release = threading.Event()
    with bench(tmp_path, self_test_s=0.1) as one:
        try:
            one.station.react = lambda pixels: None if pixels.shape == (8, 8) else release.wait(20)
            assert eventually(lambda: "ENGINE_STALLED" in one.pipeline.troubles(), 4.0)
        finally:
            release.set()
        assert eventually(lambda: one.pipeline.troubles() == [])


def test_a_golden_part_that_is_not_rejected_is_trouble_until_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_daemon.self_test._RETRY_S", 0.05)
    caplog.set_level("INFO")
    judged: list[Any] = [EngineError("it passes", code="GOLDEN_PART")] * 3 + [Measured("crack", "severity", 6.4)]

    def check(verdict: Verdict) -> Measured:
        answer = judged.pop(0) if len(judged) > 1 else judged[0]
        if isinstance(answer, EngineError):
            raise answer
        return answer

    with bench(tmp_path) as one:
        one.pipeline.use_station(PlayedStation())  # none with that: nothing to check
        assert one.record(one.trigger()).result == "PASS"
        assert one.counted("edge_golden_part_held") == 0
        one.station = one.pipeline.station
        one.station.golden = SimpleNamespace(pixels=np.zeros((8, 8), np.uint8), expect=judged[-1], check=check)
        one.pipeline._golden._due_s = 0.0
        assert eventually(lambda: one.pipeline.troubles() == ["GOLDEN_PART"])
        assert one.record(one.trigger()).reasons == ("GOLDEN_PART",)
        assert eventually(lambda: one.pipeline.troubles() == [])
        assert one.record(one.trigger()).result == "PASS"
        assert (one.counted("edge_golden_part_held"), one.counted("edge_golden_part_measured")) == (1, 6.4)
        events = [getattr(record, "fields", {}).get("event", "") for record in caplog.records]
        assert [event for event in events if "golden" in event] == ["golden_lost", "golden_back"]
        judged[:] = [EngineError("it passes", code="GOLDEN_PART")]
        other = PlayedStation()
        other.golden = one.station.golden
        with pytest.raises(EngineError, match="it passes"):
            one.pipeline.use_station(other)
        assert one.pipeline.station is one.station, "a recipe that lets the golden part through is not taken"


@pytest.mark.parametrize("error", [EngineError("the engine answered NaN"), MemoryError("no room")])
def test_a_self_test_that_fails_is_trouble_until_it_passes(tmp_path: Path, error: Exception) -> None:
    with bench(tmp_path, self_test_s=0.1) as one:

        def fail(pixels: np.ndarray) -> None:
            raise error

        one.station.react = fail
        assert eventually(lambda: one.pipeline.troubles() == ["SELF_TEST_FAILED"])
        one.station.react = lambda pixels: None
        assert eventually(lambda: one.pipeline.troubles() == [])


def test_a_failed_start_can_be_stopped(tmp_path: Path) -> None:
    one = Bench(tmp_path)

    def fail(pixels: np.ndarray) -> None:
        raise EngineError("the engine answered NaN")

    one.station.react = fail
    with pytest.raises(EngineError, match="NaN"):
        one.pipeline.start()
    assert one.pipeline.stop(1.0)
    one.bank.close()


def test_a_bug_while_judging_rejects_informs_and_records(tmp_path: Path) -> None:
    with bench(tmp_path) as one:

        def fail(pixels: np.ndarray) -> None:
            if pixels.shape == (8, 8):
                raise ZeroDivisionError("oh")

        one.station.react = fail
        assert one.record(one.trigger(7)).reasons == ("BUG",)
        assert one.line.informed == [(7, "BUG")]
        one.station.react = lambda pixels: None
        assert one.record(one.trigger(8)).result == "PASS"


@pytest.mark.parametrize("outcome", [Outcome.PASS, Outcome.FAIL])
def test_a_bug_while_writing_the_document_still_leaves_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    """A PASS stays one, for the gate has opened; whatever else becomes NOT_EVALUABLE."""
    with bench(tmp_path) as one:
        one.station.verdict = Verdict(outcome, (), ())
        granted = threading.Event()
        real = module.document_of

        def document_of(station: Any, inspection: Any, **options: Any) -> Any:
            if inspection is not None and (granted.is_set() or outcome is not Outcome.PASS):
                raise TypeError("a number too many")
            return real(station, inspection, **options)

        monkeypatch.setattr(module, "document_of", document_of)
        one.line.answer = lambda ticket: granted.set() or GateAnswer(True, "", time.monotonic_ns())
        record = one.record(one.trigger())
        assert record.outcome is (Outcome.PASS if outcome is Outcome.PASS else Outcome.NOT_EVALUABLE)
        assert one.pipeline.troubles() == []


def test_pictures_that_cannot_be_written_cost_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*args: Any) -> None:
        raise ValueError("the encoder says no")

    monkeypatch.setattr(module, "write_png_atomic", write)
    with bench(tmp_path, keep="all") as one:
        record = one.record(one.trigger())
        assert (record.result, record.pictures) == ("PASS", None)


def test_a_record_waits_for_the_disk_and_comes_when_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(tmp_path) as one:
        one.station.verdict = Verdict(Outcome.FAIL, (), ())
        real, broken = one.bank.store, threading.Event()
        broken.set()

        def store(*args: Any, **options: Any) -> bool:
            if broken.is_set():
                raise StorageError("no space", code="FULL")
            return real(*args, **options)

        monkeypatch.setattr(one.bank, "store", store)
        ticket = one.trigger()
        assert eventually(lambda: "FULL" in one.pipeline.troubles())
        assert ticket.record_id in one.pipeline.on_their_way()
        broken.clear()
        assert one.record(ticket).result == "FAIL"
        assert eventually(lambda: one.pipeline.troubles() == [])


def test_no_draft_no_permit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(tmp_path) as one:

        def intend(*args: Any) -> bool:
            raise StorageError("no space", code="FULL")

        monkeypatch.setattr(one.bank, "intend", intend)
        assert one.record(one.trigger(3)).reasons == ("STORAGE",)
        assert one.line.permits == []
        assert one.line.informed == [(3, "STORAGE")]


def test_another_recipe_than_the_plc_asked_for_is_not_evaluable(tmp_path: Path) -> None:
    with bench(tmp_path, recipe_number=7) as one:
        assert one.record(one.trigger(1, recipe=7)).result == "PASS"
        assert one.record(one.trigger(2, recipe=8)).reasons == ("RECIPE",)
        assert one.line.permits == [1]
        assert one.camera.grabs == 1


def test_without_a_number_the_plcs_is_ignored(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        assert one.record(one.trigger(1, recipe=8)).result == "PASS"


def test_a_stopping_pipeline_finishes_what_it_has_and_refuses_what_comes(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        one.station.react = lambda pixels: time.sleep(0.1)
        before = one.trigger(1)
        time.sleep(0.03)
        one.pipeline.refuse()
        after = one.trigger(2)
        assert one.pipeline.wait_idle(3.0)
        assert one.record(before).result == "PASS"
        assert one.record(after).reasons == ("STOPPING",)


def test_the_camera_may_raise_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(tmp_path) as one:

        def grab(*args: Any, **options: Any) -> Frame:
            raise OSError("driver")

        monkeypatch.setattr(one.camera, "grab", grab)
        assert one.record(one.trigger(1)).reasons == ("CAMERA",)

        def lost(*args: Any, **options: Any) -> Frame:
            raise CameraError("gone", code="LOST")

        monkeypatch.setattr(one.camera, "grab", lost)
        assert one.record(one.trigger(2)).reasons == ("LOST",)


def test_a_new_station_serves_after_it_is_proven_and_the_old_engine_is_closed(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        bad, good = PlayedStation("bad"), PlayedStation("good")

        def fail(pixels: np.ndarray) -> None:
            raise EngineError("the engine answered NaN")

        bad.react = fail
        with pytest.raises(EngineError):
            one.pipeline.use_station(bad)
        assert one.pipeline.station is one.station
        one.pipeline.use_station(good)
        assert one.record(one.trigger()).document["recipe"] == "good"
        assert eventually(lambda: one.station.engine.closed)
        assert not good.engine.closed
        assert eventually(lambda: one.pipeline.troubles() == [])


def test_recovered_and_stored_records_are_counted_once(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        ticket = one.trigger()
        record = one.record(ticket)
        document = replace(record).document
        assert one.pipeline.store_document(ticket, Outcome.PASS, document) is False
        assert one.counted("edge_records_stored_total") == 1


def test_an_expired_calibration_judges_nothing_and_is_not_ready(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        assert one.record(one.trigger(1)).result == "PASS"
        one.station.expired = Reason("CALIBRATION_EXPIRED", "yesterday")
        assert "CALIBRATION_EXPIRED" in one.pipeline.troubles()
        assert one.record(one.trigger(2)).reasons == ("CALIBRATION_EXPIRED",)
        assert one.line.permits == [1]


# ---------------------------------------------------------------- the engine's certificate


class PlayedClaims:
    """Withdrawn with the second frame it sees."""

    def __init__(self) -> None:
        self.frames, self.reason = 0, None

    def look(self, pixels: np.ndarray, coverage: Any, now_utc: str) -> None:
        self.frames += 1
        if self.frames == 2:
            self.reason = Reason("CERTIFICATE_WITHDRAWN", "frames have drifted")

    def notice(self) -> Reason | None:
        return self.reason


def test_a_withdrawn_certificate_is_said_in_every_record_and_changes_no_verdict(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        one.pipeline.claims = PlayedClaims()
        said = [one.record(one.trigger(number)) for number in (1, 2, 3)]
        assert [record.result for record in said] == ["PASS", "PASS", "PASS"]
        notices = [record.document.get("notices") for record in said]
        assert notices[0] is None
        assert notices[1] == notices[2] == [{"code": "CERTIFICATE_WITHDRAWN", "text": "frames have drifted"}]
        assert one.pipeline.troubles() == []
        message = json.loads(module.result_payload(replace(said[2])))
        assert message["notices"] == notices[2]
        assert "notices" not in json.loads(module.result_payload(replace(said[0])))


def test_a_site_that_demands_a_certificate_judges_nothing_once_it_is_withdrawn(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        one.config.require_certificate = True
        one.pipeline.claims = PlayedClaims()
        assert one.record(one.trigger(1)).result == "PASS"
        assert one.pipeline.troubles() == []
        one.record(one.trigger(2))
        assert one.record(one.trigger(3)).reasons == ("CERTIFICATE_WITHDRAWN",)
        assert one.pipeline.troubles() == ["CERTIFICATE_WITHDRAWN"]
        assert one.line.permits == [1, 2]


def test_another_engine_brings_its_own_certificate_and_the_same_one_keeps_what_is_known(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        made: list[Any] = []
        one.pipeline._watch_claims = lambda station: made.append(station) or PlayedClaims()
        one.pipeline.claims = first = PlayedClaims()
        one.pipeline.use_station(PlayedStation("same engine"))
        assert one.pipeline.claims is first and made == []
        other = PlayedStation("other engine")
        other.seals = Seals("1" * 64)
        one.pipeline.use_station(other)
        assert made == [other] and one.pipeline.claims is not first
