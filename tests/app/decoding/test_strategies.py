"""Every strategy says, token for token, what the target alone says, whatever is drafted and whenever."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.engine import Engine, Strategy
from app.decoding.guard import Guard
from app.decoding.sampling import GREEDY_SAMPLING, Sampler, Sampling
from app.decoding.sources import SOURCES
from app.decoding.strategies import STRATEGIES, make_strategy
from app.decoding.transcript import Transcript
from tests.app.decoding.toy import EOS, make_engine, scene

SCHEDULES = [(name, None) for name in STRATEGIES if name != "prefill_hiding"] + [
    ("prefill_hiding", placement) for placement in ("lead", "serial", "overlap")
]
SAMPLINGS = st.one_of(
    st.just(Sampling()),
    st.builds(Sampling, st.sampled_from([0.5, 1.0]), st.sampled_from([0.5, 0.9, 1.0]), st.integers(0, 3)),
)


def caption(engine: Engine, strategy: Strategy, number: int, *, ahead: bool) -> Transcript:
    if ahead:
        strategy.draft_ahead(scene(number))
    return strategy.run(scene(number))[0]


def reference(
    seed: int, numbers: list[int], max_new_tokens: int, eos_bias: float, sampling: Sampling = GREEDY_SAMPLING
) -> list[list[int]]:
    """The target alone, each pass over the whole text from an empty cache, by none of the code under test."""
    engine = make_engine(seed=seed, max_new_tokens=max_new_tokens, eos_bias=eos_bias)
    engine.close()
    decoder, prompt, said = engine.model.decoder, engine.target_prompt, []
    for number in numbers:
        visual = engine.model.vision.encode(scene(number).target_pixels(), 1)
        sampler, tokens = Sampler(sampling, number), list[int]()
        while len(tokens) < max_new_tokens:
            text = decoder.embed(np.array([*prompt.tail_ids, *tokens], np.int64))
            rows = np.concatenate([decoder.embed(np.array(prompt.head_ids, np.int64)), visual, text])
            token = sampler.pick(decoder.forward(rows, 0, np.array([len(rows) - 1]), 1)[0], len(tokens))
            if token == EOS:
                break
            tokens.append(token)
        said.append(tokens)
    return said


@pytest.mark.parametrize(("strategy", "placement"), SCHEDULES)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 50),
    numbers=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    noise=st.sampled_from([0.0, 0.3, 1.0, 5.0]),
    draft_tokens=st.one_of(st.none(), st.integers(0, 40)),
    vocabulary=st.sampled_from([3, 12, 24, 28]),
    max_new_tokens=st.integers(1, 24),
    eos_bias=st.sampled_from([-9.0, 0.8, 2.5]),
    ahead=st.booleans(),
    guard=st.booleans(),
    sampling=SAMPLINGS,
    sources=st.sampled_from([SOURCES, SOURCES, ("drafter",), ("history",)]),
)
def test_lossless(
    strategy: str,
    placement: str | None,
    seed: int,
    numbers: list[int],
    noise: float,
    draft_tokens: int | None,
    vocabulary: int,
    max_new_tokens: int,
    eos_bias: float,
    ahead: bool,
    guard: bool,
    sampling: Sampling,
    sources: tuple[str, ...],
) -> None:
    """Any drafter, any draft length (none, longer than the caption), ids that the drafter does not know, any ending."""
    engine = make_engine(
        seed=seed,
        noise=noise,
        vocabulary=vocabulary,
        max_new_tokens=max_new_tokens,
        placement=placement,
        draft_tokens=draft_tokens,
        guard=guard,
        eos_bias=eos_bias,
        sampling=sampling,
        sources=sources,
    )
    try:
        schedule = make_strategy(strategy, engine)
        said = [list(caption(engine, schedule, number, ahead=ahead).tokens) for number in numbers]
    finally:
        engine.close()
    assert said == reference(seed, numbers, max_new_tokens, eos_bias, sampling)
    assert all(EOS not in tokens and len(tokens) <= max_new_tokens for tokens in said)


@pytest.mark.parametrize(("strategy", "placement"), SCHEDULES)
@pytest.mark.parametrize("forbidden", [{"sources": ("history",)}, {"draft_tokens": 0}], ids=["no source", "no drafts"])
def test_a_drafter_that_may_not_draft_is_not_even_started(
    strategy: str, placement: str | None, forbidden: dict[str, Any]
) -> None:
    engine = make_engine(placement=placement, **forbidden)
    schedule, job = make_strategy(strategy, engine), scene(1)
    schedule.draft_ahead(job)
    transcript, used = schedule.run(job)
    engine.close()
    assert list(transcript.tokens) == reference(0, [1], 24, 0.8)[0]
    assert used is None
    assert not [span for span in job.recorder.spans if span.lane == "drafter"]


class ForcedGuard(Guard):
    """Drafts as many tokens a pass as it is told."""

    def draft_length(self) -> int:
        return next(self.lengths)

    lengths: Iterator[int]


@pytest.mark.parametrize("strategy", ["speculative", "prefill_hiding"])
@settings(max_examples=30, deadline=None)
@given(
    st.one_of(st.just([4, 4, 2, 2, 1, 1]), st.lists(st.integers(0, 40), min_size=1, max_size=6)),
    st.integers(0, 20),
    st.sampled_from([0.0, 0.5]),
    SAMPLINGS,
)
def test_lossless_whatever_the_draft_lengths_one_after_the_other(
    strategy: str, lengths: list[int], seed: int, noise: float, sampling: Sampling
) -> None:
    engine = make_engine(seed=seed, noise=noise, vocabulary=28, sampling=sampling, placement="serial")
    guard = ForcedGuard(engine.guard.costs, engine.guard.acceptance, enabled=False)
    guard.lengths = itertools.cycle(lengths)
    engine.guard = guard
    try:
        said = [list(caption(engine, make_strategy(strategy, engine), n, ahead=False).tokens) for n in (0, 1, 0)]
    finally:
        engine.close()
    assert said == reference(seed, [0, 1, 0], 24, 0.8, sampling)


@pytest.mark.parametrize("s_max", [13, 14, 17, 24, 36])
def test_a_cache_that_is_nearly_full_cuts_drafts_and_not_the_caption(s_max: int) -> None:
    """The target's prompt takes 11 rows; s_max 13 leaves room for a caption of three tokens and no draft."""
    room = s_max - 11 + 1
    engine = make_engine(noise=0.0, s_max=s_max, max_new_tokens=room, draft_tokens=16, eos_bias=-9.0)
    schedule = make_strategy("prefill_hiding", engine)
    try:
        transcript = caption(engine, schedule, 1, ahead=False)
    finally:
        engine.close()
    assert transcript.finish_reason == "length"
    assert list(transcript.tokens) == reference(0, [1], room, -9.0)[0]


@pytest.fixture(params=SCHEDULES[1:], ids=lambda schedule: "-".join(filter(None, schedule)))
def drafting(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 0.9, 3)], ids=["greedy", "sampled"])
def test_a_drafter_that_is_the_target_is_always_accepted(drafting: tuple[str, str | None], sampling: Sampling) -> None:
    name, placement = drafting
    engine = make_engine(
        noise=0.0, vocabulary=28, placement=placement, draft_tokens=6, sampling=sampling, sources=("drafter",)
    )
    schedule = make_strategy(name, engine)
    for number in range(5):
        stats = caption(engine, schedule, number, ahead=placement == "lead").stats(name, placement)
        assert stats.alpha_trials == stats.alpha_hits
    engine.close()


def test_hidden_tokens_are_those_that_cost_the_caption_no_time() -> None:
    hidden = {}
    for placement in ("lead", "serial"):
        engine = make_engine(
            noise=0.0, vocabulary=28, placement=placement, draft_tokens=6, eos_bias=-9.0, fused_tree_ms=99.0
        )
        schedule = make_strategy("prefill_hiding", engine)
        job = scene(3)
        schedule.draft_ahead(job)
        engine.worker.submit(lambda: None).result()  # the draft is ready when the window closes
        transcript, _ = schedule.run(scene(3))
        hidden[placement] = transcript.hidden, transcript.accepted_hidden
        engine.close()
    assert hidden == {"lead": (6, 6), "serial": (0, 0)}


def test_one_pass_ends_the_prefill_and_verifies_the_draft() -> None:
    engine = make_engine(
        noise=0.0, vocabulary=28, placement="serial", draft_tokens=23, eos_bias=-9.0, fused_tree_ms=99.0
    )
    schedule, job = make_strategy("prefill_hiding", engine), scene(1)
    transcript, placement = schedule.run(job)
    engine.close()
    passes = [(span.name, span.detail.get("drafts")) for span in job.recorder.spans if span.lane == "target"]
    assert placement == "serial"
    assert passes == [("encode", None), ("prefill", 23)]
    assert (len(transcript.tokens), transcript.steps) == (24, 1)


def test_the_constant_head_of_a_prompt_is_prefilled_once() -> None:
    engine = make_engine(max_new_tokens=1)
    schedule = make_strategy("autoregressive", engine)
    fed = []
    for number in range(3):
        schedule.run(scene(number))
        fed.append(engine.model.decoder.rows_fed)  # type: ignore[attr-defined]
    engine.close()
    assert [b - a for a, b in itertools.pairwise(fed)] == [9, 9]
    assert fed[0] == 11


def test_a_draft_abandoned_in_the_middle_leaves_both_models_reusable() -> None:
    engine = make_engine(placement="lead", noise=0.5)
    schedule = make_strategy("prefill_hiding", engine)
    for number in range(20):
        schedule.draft_ahead(scene(number + 100))
        schedule.abandon()
        assert (
            list(caption(engine, schedule, number, ahead=number % 2 == 0).tokens) == reference(0, [number], 24, 0.8)[0]
        )
    engine.close()
    assert not any(thread.name.startswith("drafter") for thread in threading.enumerate())


def test_an_error_in_the_target_ends_the_free_run_and_is_raised() -> None:
    engine = make_engine(placement="overlap")
    schedule, job = make_strategy("prefill_hiding", engine), scene(1)

    def broken() -> None:
        raise RuntimeError("camera gone")

    job.target_pixels = broken  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="camera gone"):
        schedule.run(job)
    assert list(schedule.run(scene(2))[0].tokens) == reference(0, [2], 24, 0.8)[0]
    engine.close()


def test_the_statistics_add_up(drafting: tuple[str, str | None]) -> None:
    name, placement = drafting
    engine = make_engine(noise=0.6, placement=placement, draft_tokens=5)
    schedule = make_strategy(name, engine)
    for number in range(10):
        transcript = caption(engine, schedule, number, ahead=False)
        stats = transcript.stats(name, placement)
        assert sum(stats.acceptance_histogram) == stats.num_drafts
        assert sum(k * n for k, n in enumerate(stats.acceptance_histogram)) == stats.num_accepted_draft_tokens
        assert stats.alpha_hits <= stats.alpha_trials <= stats.num_draft_tokens
        assert stats.content_hits <= stats.content_trials <= stats.alpha_trials
        shown = [token for token, origin in transcript.display if origin != "rejected"]
        assert shown == transcript.tokens
        assert len(transcript.certainty()[0]) == len(transcript.tokens) + (transcript.finish_reason == "stop")
    engine.close()


def test_an_unknown_strategy_is_named_with_those_there_are() -> None:
    engine = make_engine()
    with pytest.raises(ValueError, match="'magic' is not one of autoregressive, speculative, prefill_hiding"):
        make_strategy("magic", engine)
    engine.close()
