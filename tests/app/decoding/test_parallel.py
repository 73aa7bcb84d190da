"""The two-worker schedules under stress: random delays, failures, cancellation. Nothing hangs, differs or is left."""

from __future__ import annotations

import functools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import structlog

from app.decoding import parallel, verify_slots
from app.decoding.engine import Engine
from app.decoding.model import CachedSequence
from app.decoding.sampling import GREEDY_SAMPLING, Sampling
from app.decoding.ssd import OutcomeCache
from app.decoding.strategies import make_strategy
from models.runtimes.contract import Floats
from tests.app.decoding.test_strategies import reference
from tests.app.decoding.toy import EOS, TARGET_PROMPT, ToyDecoder, ToyModel, ToyVision, make_engine, scene

SCHEDULES = ["pearl", "amusd", "dsi", "dsi-3", "ssd", "swiftspec"]
LONGEST = 12

schedules = pytest.mark.parametrize("schedule", SCHEDULES)
truth = functools.cache(lambda seed, number, sampling: reference(seed, [number], LONGEST, 0.8, sampling)[0])


class CalledOff(BaseException):
    """As an interrupt: no handler of errors stops it."""


def engine_of(schedule: str, **settings: Any) -> Engine:
    """`dsi-3` has three target sessions."""
    engine = make_engine(**{"max_new_tokens": LONGEST} | settings)
    plain = engine.model.decoder
    assert isinstance(plain, ToyDecoder)
    for _ in range(int(schedule.partition("-")[2] or 1) - 1):
        decoder = ToyDecoder(plain.seed, plain.vocabulary, plain.s_max, eos_bias=plain.eos_bias)
        model = ToyModel(ToyVision(TARGET_PROMPT), decoder, EOS, plain.vocabulary)
        engine.targets = (*engine.targets, CachedSequence(model))
    return engine


def say(schedule: str, engine: Engine, number: int) -> list[int]:
    return list(make_strategy(schedule.partition("-")[0], engine).run(scene(number))[0].tokens)


def before_each_pass(decoder: Any, act: Callable[[], None]) -> None:
    """Let a decoder do something before each of its passes."""
    plain = decoder.forward_tree

    def forward_tree(*args: Any) -> Floats:
        act()
        return plain(*args)  # type: ignore[no-any-return]

    decoder.forward_tree = forward_tree


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(5.0)  # one that is on its way out is not left behind
    assert not [thread.name for thread in left if thread.is_alive()]


@pytest.fixture
def failures() -> Iterator[list[Any]]:
    """What was logged: a drafter that fails softly would hide a mistake."""
    with structlog.testing.capture_logs() as logs:
        yield logs


def stress(schedule: str, captions: int, seed: int) -> None:
    """Each pass of each worker is delayed at random, and the interpreter switches threads as often as it can."""
    dice = random.Random(f"{schedule} {seed}")
    delay = lambda: time.sleep(dice.choice((0.0, 0.0, 1e-5, 2e-4)))  # noqa: E731
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for caption in range(captions):
            if caption % 10 == 0:
                sampling = dice.choice((GREEDY_SAMPLING, Sampling(1.0, 0.9, 1)))
                model = dice.randrange(5)
                engine = engine_of(
                    schedule,
                    seed=model,
                    noise=dice.choice((0.0, 0.4, 1.0)),
                    vocabulary=dice.choice((24, 28)),
                    draft_tokens=dice.choice((None, 1, 3, 20)),
                    drafter_step=dice.choice((0.1, 0.3)),
                    sampling=sampling,
                )
                for sequence in (engine.drafter.sequence, *engine.targets):
                    before_each_pass(sequence.model.decoder, delay)
            number = dice.randrange(6)
            assert say(schedule, engine, number) == truth(model, number, sampling)
            if caption % 10 == 9 or caption == captions - 1:
                engine.close()
    finally:
        sys.setswitchinterval(interval)


@schedules
def test_random_delays(schedule: str, failures: list[Any]) -> None:
    stress(schedule, captions=50, seed=0)
    assert not failures


@pytest.mark.slow
@schedules
def test_random_delays_for_long(schedule: str, failures: list[Any]) -> None:
    for seed in range(17):
        stress(schedule, captions=100, seed=seed + 1)
    assert not failures


@schedules
@pytest.mark.parametrize("error", [CalledOff, RuntimeError])
def test_a_caption_called_off_in_any_phase_leaves_both_models_reusable(schedule: str, error: type) -> None:
    """The target's n-th pass is interrupted, or its pixels cannot be had."""
    engine = engine_of(schedule, noise=0.3, vocabulary=28, draft_tokens=2)
    armed = [-1]

    def interrupt() -> None:
        armed[0] -= 1
        if armed[0] == 0:
            raise error("called off")

    for sequence in engine.targets:
        before_each_pass(sequence.model.decoder, interrupt)
    job = scene(1)
    job.target_pixels = interrupt  # type: ignore[assignment]
    armed[0] = 1
    with pytest.raises(error, match="called off"):
        make_strategy(schedule.partition("-")[0], engine).run(job)
    for phase in range(1, 6):
        armed[0] = phase
        try:
            said = say(schedule, engine, phase)
        except error:
            pass
        else:  # the caption ended first, or the verdict of that pass was not wanted any more
            assert said == truth(0, phase, GREEDY_SAMPLING)
        armed[0] = -1
        engine.worker.submit(lambda: None).result(5.0)  # the worker is idle
        assert not engine.sharing
        assert say(schedule, engine, phase) == truth(0, phase, GREEDY_SAMPLING)
    engine.close()


@schedules
def test_a_drafter_that_fails_costs_only_its_drafts(schedule: str, failures: list[Any]) -> None:
    for failing in range(1, 8):
        engine, left = engine_of(schedule, noise=0.3, vocabulary=28), [failing]

        def fail(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise RuntimeError("out of memory")

        before_each_pass(engine.drafter.model.decoder, fail)
        assert say(schedule, engine, 1) == truth(0, 1, GREEDY_SAMPLING)
        assert say(schedule, engine, 2) == truth(0, 2, GREEDY_SAMPLING)
        engine.close()
    assert {log["event"] for log in failures} == {"drafter_failed"}
    assert all(log["error"] == "RuntimeError: out of memory" for log in failures)


@schedules
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_drafter_whose_logits_are_no_numbers_costs_only_its_drafts(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "PATIENCE_S", 10.0)  # nobody waits for a draft that never comes
    engine = engine_of(schedule)
    decoder: Any = engine.drafter.model.decoder
    plain = decoder.forward_tree
    decoder.forward_tree = lambda *args: np.full_like(plain(*args), np.nan)
    assert say(schedule, engine, 1) == truth(0, 1, GREEDY_SAMPLING)
    engine.close()


@schedules
def test_events_that_cannot_be_rendered_cost_only_the_drafts(schedule: str) -> None:
    engine, job = engine_of(schedule), scene(3)

    def broken() -> Floats:
        raise OSError("no events")

    job.drafter_pixels = broken
    transcript, _ = make_strategy(schedule.partition("-")[0], engine).run(job)
    engine.close()
    assert list(transcript.tokens) == truth(0, 3, GREEDY_SAMPLING)
    assert not transcript.num_drafts


@schedules
def test_a_drafter_that_hangs_ends_the_caption_and_leaves_the_cores_to_the_target(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "PATIENCE_S", 0.05)
    engine, hangs = engine_of(schedule, draft_tokens=2), threading.Event()
    before_each_pass(engine.drafter.model.decoder, lambda: hangs.wait(30.0) and None)
    with pytest.raises(TimeoutError):
        say(schedule, engine, 1)
    assert not engine.sharing
    hangs.set()
    engine.worker.submit(lambda: None).result(5.0)
    monkeypatch.undo()
    assert say(schedule, engine, 1) == truth(0, 1, GREEDY_SAMPLING)
    engine.close()


def test_a_verify_task_goes_to_the_session_that_holds_most_of_its_beginning() -> None:
    engine = engine_of("dsi")
    slot = verify_slots.Slot(engine.target, 0, "target")
    slot._fed = [4, 5, 6, 7]
    assert slot.shared_with([4, 5, 9, 7]) == 2
    assert slot.shared_with([9, 5, 6, 7]) == 0
    engine.close()


def test_ssd_drafts_nothing_just_in_time_that_there_is_no_room_to_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutcomeCache, "lookup", lambda *_: [])
    asked = []
    monkeypatch.setattr(OutcomeCache, "draft_just_in_time", lambda _, text: asked.append(len(text)) or [])
    engine = engine_of("ssd", eos_bias=-9.0)
    assert len(say("ssd", engine, 1)) == LONGEST
    engine.close()
    assert asked == list(range(1, LONGEST - 1))  # the last token is the target's own


@schedules
def test_the_guard_leaves_the_drafter_alone_where_it_does_not_pay(schedule: str) -> None:
    engine, job = engine_of(schedule, guard=True, drafter_step=2.0), scene(1)
    transcript, placement = make_strategy(schedule.partition("-")[0], engine).run(job)
    engine.close()
    assert list(transcript.tokens) == truth(0, 1, GREEDY_SAMPLING)
    assert placement is None
    assert not [span for span in job.recorder.spans if span.lane == "drafter"]


@schedules
def test_drafts_made_during_the_prefill_are_hidden(schedule: str) -> None:
    """The target's prefill waits until enough is drafted; a drafter that is the target is always right."""
    engine = engine_of(schedule, noise=0.0, vocabulary=28, eos_bias=-9.0, draft_tokens=3)
    drafted, passes = threading.Event(), [0]

    def count() -> None:
        passes[0] += 1
        if passes[0] == 3:  # the prompt and two tokens
            drafted.set()

    before_each_pass(engine.drafter.model.decoder, count)
    prefills = iter([lambda: drafted.wait(10.0)])
    before_each_pass(engine.model.decoder, lambda: next(prefills, lambda: None)() and None)
    transcript, placement = make_strategy(schedule.partition("-")[0], engine).run(scene(1))
    engine.close()
    assert placement == "overlap"
    assert transcript.hidden >= transcript.accepted_hidden > 0
    assert np.sum(transcript.histogram) == transcript.num_drafts
