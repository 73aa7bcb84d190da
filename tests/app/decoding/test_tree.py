"""Drafts merge into a prefix tree; one masked pass equals a pass a path, and leaves one path behind."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.model import CachedSequence
from app.decoding.tree import ROOT, TokenTree
from tests.app.decoding.toy import EOS, TARGET_PROMPT, ToyDecoder, ToyModel, ToyVision

CHAINS = st.lists(st.lists(st.integers(3, 6), max_size=6), max_size=6)


def grown(chains: list[list[int]], limit: int = 64) -> TokenTree:
    tree = TokenTree(limit)
    for chain in chains:
        tree.add_chain(chain)
    return tree


@settings(deadline=None)
@given(CHAINS)
def test_every_prefix_is_one_node(chains: list[list[int]]) -> None:
    tree = grown(chains)
    prefixes = {tuple(chain[: n + 1]) for chain in chains for n in range(len(chain))}
    paths = [tuple(tree.tokens[node] for node in tree.path(node)) for node in range(len(tree))]
    assert len(paths) == len(set(paths)) == len(prefixes)
    assert set(paths) == prefixes
    assert tree.depth == max(map(len, chains), default=0)
    assert tree.is_chain == (len(prefixes) == tree.depth)
    assert all(parent < node for node, parent in enumerate(tree.parents))


@settings(deadline=None)
@given(CHAINS, st.integers(0, 8))
def test_a_full_tree_takes_no_more(chains: list[list[int]], limit: int) -> None:
    tree, whole = grown(chains, limit), grown(chains)
    assert len(tree) <= limit
    assert tree.tokens == whole.tokens[: len(tree)]


@settings(deadline=None)
@given(CHAINS, st.integers(1, 4))
def test_a_node_sees_the_rows_before_the_tree_and_its_ancestors(chains: list[list[int]], before: int) -> None:
    tree = grown(chains)
    mask = tree.mask(before)
    assert np.array_equal(mask[:before], np.tri(before, before + len(tree), dtype=bool))
    for node in range(len(tree)):
        assert mask[before + node].nonzero()[0].tolist() == [
            *range(before),
            *(before + ancestor for ancestor in tree.path(node)),
        ]


def test_hidden_tokens_are_those_of_any_draft_that_cost_nothing() -> None:
    tree = TokenTree(8)
    tree.add_chain([3, 4, 5])
    tree.add_chain([3, 4, 6], hidden=3)
    assert [(token, hidden) for token, hidden in zip(tree.tokens, tree.hidden, strict=True)] == [
        (3, True),
        (4, True),
        (5, False),
        (6, True),
    ]
    assert [tree.tokens[node] for node in tree.first_chain(ROOT)] == [3, 4, 5]


@settings(deadline=None)
@given(CHAINS, st.integers(0, 5), st.data())
def test_one_masked_pass_equals_a_pass_a_path_and_any_path_can_be_kept(
    chains: list[list[int]], seed: int, data: st.DataObject
) -> None:
    """Truncation to every length of the kept path included: the rows left behind are those of a plain prefill."""
    tree = grown(chains)
    model = ToyModel(ToyVision(TARGET_PROMPT), ToyDecoder(seed, 28), EOS, 28)
    visual = model.vision.encode(np.array([2.0]), 1)
    sequence = CachedSequence(model)
    sequence.begin(TARGET_PROMPT, visual)
    logits = sequence.forward_tree(tree, 1)

    plain = CachedSequence(ToyModel(model.vision, ToyDecoder(seed, 28), EOS, 28))
    for node in range(-1, len(tree)):
        plain.begin(TARGET_PROMPT, visual)
        path = [tree.tokens[ancestor] for ancestor in tree.path(node)]
        assert np.array_equal(plain.forward(path, 1)[-1], logits[1 + node])

    kept = tree.path(data.draw(st.integers(-1, len(tree) - 1)))
    text = [tree.tokens[node] for node in kept]
    start = sequence.length
    sequence.advance_path(kept, (7,))
    assert sequence.length == start + len(kept)
    plain.begin(TARGET_PROMPT, visual)
    assert np.array_equal(sequence.forward((), 1)[0], plain.forward([*text, 7], 1)[-1])
    for length in range(len(kept), -1, -1):
        sequence.truncate(start + length)
        sequence.advance(0, (8,))
        plain.begin(TARGET_PROMPT, visual)
        assert np.array_equal(sequence.forward((), 1)[0], plain.forward([*text[:length], 8], 1)[-1])
