"""Verification accepts exactly what the target would have said, in a chain and in a tree, greedy and sampled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.acceptance import logprobs, top_gaps, verify_chain, verify_tree
from app.decoding.sampling import GREEDY, Sampler, Sampling
from app.decoding.tree import TokenTree

SAMPLERS = st.builds(
    Sampler,
    st.builds(Sampling, st.sampled_from([0.0, 0.4, 1.0, 2.0]), st.sampled_from([0.3, 0.9, 1.0]), st.integers(0, 9)),
)
CHAINS = st.lists(st.lists(st.integers(0, 4), max_size=6), max_size=5)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 10_000), SAMPLERS, st.integers(0, 20))
def test_accepts_the_longest_prefix_that_the_target_picks(
    drafts: list[int], seed: int, sampler: Sampler, place: int
) -> None:
    logits = np.random.default_rng(seed).normal(size=(len(drafts) + 1, 5)).astype(np.float32)
    verdict = verify_chain(drafts, logits, sampler, place)
    picks = [sampler.pick(row, place + i) for i, row in enumerate(logits)]
    assert drafts[: verdict.accepted] == picks[: verdict.accepted]
    assert verdict.bonus == picks[verdict.accepted]
    assert verdict.accepted == len(drafts) or drafts[verdict.accepted] != picks[verdict.accepted]
    assert np.array_equal(verdict.logits, logits[: verdict.accepted + 1])


@settings(deadline=None)
@given(CHAINS, st.integers(0, 10_000), SAMPLERS, st.integers(0, 20))
def test_a_tree_accepts_what_the_best_of_its_chains_alone_would(
    chains: list[list[int]], seed: int, sampler: Sampler, place: int
) -> None:
    tree = TokenTree(64)
    nodes = [tree.add_chain(chain) for chain in chains]
    logits = np.random.default_rng(seed).normal(size=(len(tree) + 1, 5)).astype(np.float32)
    path, verdict = verify_tree(tree, logits, sampler, place)
    alone = [
        verify_chain(chain, logits[[0, *(1 + node for node in own)]], sampler, place)
        for chain, own in zip(chains, nodes, strict=True)
    ]
    best = max(alone, key=lambda verdict: verdict.accepted, default=verify_chain([], logits[:1], sampler, place))
    assert (verdict.accepted, verdict.bonus) == (best.accepted, best.bonus) == (len(path), verdict.bonus)
    assert np.array_equal(verdict.logits, best.logits)


def test_log_probabilities_and_gaps_are_those_of_the_picked_tokens() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], np.float32))
    assert np.exp(logprobs(logits, [0, 2])) == pytest.approx([0.7, 0.3], rel=1e-5)
    assert top_gaps(logits) == pytest.approx([np.log(0.7 / 0.2), np.log(0.6 / 0.3)], rel=1e-5)


def test_a_row_for_each_draft_and_one_more_is_demanded() -> None:
    tree = TokenTree(4)
    tree.add_chain([1, 2])
    with pytest.raises(ValueError, match="2 drafts need 3 rows"):
        verify_chain([1, 2], np.zeros((2, 5), np.float32), GREEDY)
    with pytest.raises(ValueError, match="tree of 2 needs 3 rows"):
        verify_tree(tree, np.zeros((2, 5), np.float32), GREEDY)
