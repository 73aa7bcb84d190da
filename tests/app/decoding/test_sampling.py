"""Sampled tokens follow the target's distribution, and hang on seed, caption and position alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.sampling import GREEDY, Sampler, Sampling

SAMPLINGS = st.builds(
    Sampling, st.sampled_from([0.3, 1.0, 3.0]), st.sampled_from([1e-6, 0.2, 0.7, 1.0]), st.integers(0, 2**63 - 1)
)


def row(seed: int, size: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, size).astype(np.float32)


@settings(deadline=None)
@given(SAMPLINGS, st.lists(st.integers(0, 99), min_size=1, max_size=8))
def test_a_pick_hangs_on_its_position_and_not_on_what_was_asked_before(sampling: Sampling, places: list[int]) -> None:
    one, other = Sampler(sampling, 3), Sampler(sampling, 3)
    forwards = {place: one.pick(row(place), place) for place in places}
    backwards = {place: other.pick(row(place), place) for place in reversed(places)}
    assert forwards == backwards
    assert forwards == {place: Sampler(sampling, 3).pick(row(place), place) for place in places}


@settings(deadline=None)
@given(SAMPLINGS, st.integers(0, 99), st.integers(0, 50))
def test_the_pick_is_the_best_score_and_lies_in_the_nucleus(sampling: Sampling, place: int, seed: int) -> None:
    logits, sampler = row(seed), Sampler(sampling)
    token = sampler.pick(logits, place)
    assert token == sampler.scores(logits, place).argmax()
    probabilities = np.exp((logits - logits.max()) / sampling.temperature)
    probabilities /= probabilities.sum()
    assert probabilities[logits > logits[token]].sum() < sampling.top_p + 1e-6


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(1, 40))
def test_a_smaller_vocabulary_hears_the_same_noise(place: int, size: int) -> None:
    sampling = Sampling(1.0, seed=5)
    small, large = Sampler(sampling), Sampler(sampling)
    silence = np.zeros(40, np.float32)
    assert np.array_equal(small.scores(silence[:size], place), large.scores(silence, place)[:size])
    assert np.array_equal(small.scores(silence, place), large.scores(silence, place))


def test_seed_caption_and_position_each_change_the_noise() -> None:
    silence = np.zeros(64, np.float32)
    noises = [
        Sampler(Sampling(1.0, seed=seed), caption).scores(silence, place).tobytes()
        for seed in (0, 1)
        for caption in (0, 1)
        for place in (0, 1)
    ]
    assert len(set(noises)) == 8


def test_temperature_zero_is_greedy_whatever_the_rest() -> None:
    sampler = Sampler(Sampling(0.0, 0.1, 7))
    assert all(sampler.pick(row(seed), 0) == row(seed).argmax() == GREEDY.pick(row(seed), 9) for seed in range(20))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9)])
def test_the_distribution_is_the_targets(temperature: float, top_p: float) -> None:
    """65,536 draws over a vocabulary of 32,768: total variation below 0.008.

    The logits behind the first 24 tokens are so low that they are never picked, so the noise is drawn for the head
    alone; that it is the same noise is what `test_a_smaller_vocabulary_hears_the_same_noise` says.
    """
    vocabulary, head, draws = 32_768, 24, 65_536
    logits = np.full(vocabulary, -1e9, np.float32)
    logits[:head] = np.random.default_rng(1).normal(0, 2.5, head)
    wanted = np.exp(logits.astype(np.float64) / temperature)
    order = np.argsort(-wanted)
    above = np.cumsum(wanted[order]) - wanted[order]
    wanted[order[above >= top_p * wanted.sum()]] = 0.0
    wanted /= wanted.sum()
    sampling = Sampling(temperature, top_p, seed=11)
    whole = Sampler(sampling, 1)
    counts = np.zeros(vocabulary)
    for caption in range(draws // 64):
        sampler = Sampler(sampling, caption)
        for place in range(64):
            counts[sampler.pick(logits[:head], place)] += 1
    assert 0.5 * np.abs(counts / draws - wanted).sum() < 0.008
    assert [whole.pick(logits, place) for place in range(64)] == [
        Sampler(sampling, 1).pick(logits[:head], place) for place in range(64)
    ]
