"""Candidates for the nodes of a tree: the likeliest tokens of a position, told apart by rank and then by id."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.drafting import Drafter
from app.decoding.sampling import GREEDY, Sampler, Sampling
from models.runtimes.contract import Floats
from tests.app.decoding.toy import make_engine

SAMPLERS = st.builds(
    Sampler, st.builds(Sampling, st.sampled_from([0.0, 0.7]), st.sampled_from([1e-6, 0.5, 1.0]), st.integers(0, 9))
)


@pytest.fixture(scope="module")
def drafter() -> Drafter:
    engine = make_engine()
    engine.close()
    return engine.drafter


def one_by_one(sampler: Sampler, row: Floats, place: int, count: int) -> list[int]:
    """Sorted by score: the tokens that are possible at all, no more than `count`."""
    scores = sampler.scores(row, place)
    order = sorted(range(len(row)), key=lambda token: (-scores[token], token))
    return [token for token in order if np.exp(scores[token] - scores.max()) > 0][:count]


@settings(deadline=None)
@given(SAMPLERS, st.integers(0, 999), st.integers(1, 9), st.integers(2, 12))
def test_they_are_the_likeliest_of_each_position_equal_ones_by_their_id(
    drafter: Drafter, sampler: Sampler, seed: int, count: int, vocabulary: int
) -> None:
    drafter._sampler = sampler
    rows = np.random.default_rng(seed).integers(-3, 4, (3, vocabulary)).astype(np.float32)  # many are equal
    rows[0, 0], places = -np.inf, range(5, 8)
    found = drafter.candidates(rows, places, count)
    assert [[token for token, _ in one] for one in found] == [
        one_by_one(sampler, row, place, count) for row, place in zip(rows, places, strict=True)
    ]
    assert [one[0][0] for one in found] == sampler.picks(rows, places)
    assert all(0 < share <= 1 for one in found for _, share in one)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_of_logits_that_are_no_numbers_there_are_none(drafter: Drafter, value: float) -> None:
    drafter._sampler = GREEDY
    assert drafter.candidates(np.full((2, 8), value, np.float32), range(2), 3) == [[], []]
