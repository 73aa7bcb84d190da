"""Greedy verification accepts exactly what the target would have said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.decoding.acceptance import top_gaps, top_logprobs, verify_greedy


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 10_000))
def test_accepts_the_longest_prefix_that_the_target_picks(drafts: list[int], seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(len(drafts) + 1, 5)).astype(np.float32)
    verdict = verify_greedy(drafts, logits)
    picks = logits.argmax(-1).tolist()
    assert drafts[: verdict.accepted] == picks[: verdict.accepted]
    assert verdict.bonus == picks[verdict.accepted]
    assert verdict.accepted == len(drafts) or drafts[verdict.accepted] != picks[verdict.accepted]


def test_log_probabilities_and_gaps_are_those_of_the_picked_tokens() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], np.float32))
    assert np.exp(top_logprobs(logits)) == pytest.approx([0.7, 0.6], rel=1e-5)
    assert top_gaps(logits) == pytest.approx([np.log(0.7 / 0.2), np.log(0.6 / 0.3)], rel=1e-5)


def test_a_row_for_each_draft_and_one_more_is_demanded() -> None:
    with pytest.raises(ValueError, match="2 drafts need 3 rows"):
        verify_greedy([1, 2], np.zeros((2, 5), np.float32))
