"""The draft tree that grows by probability, and the fan-out of the outcome cache: without any model."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.decoding.growing_tree import GrowingTree
from app.decoding.names import StrategyName
from app.decoding.ssd import fan_out
from app.decoding.strategies import STRATEGIES
from app.decoding.tree import ROOT
from tests.app.decoding.toy import EOS


def grown() -> GrowingTree:
    """5 (0.6) -> 7 (0.42) -> 9 (0.21), 8 (0.21); 5 -> 6 (0.12); 4 (0.3); end-of-sequence (0.1)."""
    tree = GrowingTree(8, EOS)
    tree.sprout(ROOT, [(5, 0.6), (4, 0.3), (EOS, 0.1)])
    (five,) = tree.take(1, 9)
    tree.sprout(five, [(7, 0.7), (6, 0.2)])
    (seven,) = tree.take(1, 9)
    tree.sprout(seven, [(9, 0.5), (8, 0.5)])
    return tree


def texts(tree: GrowingTree, count: int = 99, depth: int = 9) -> list[tuple[int, ...]]:
    best = tree.best(count, depth)
    return [tuple(best.tokens[node] for node in best.path(leaf)) for leaf in range(len(best))]


def test_the_likeliest_leaf_is_expanded_first() -> None:
    assert grown().nodes.tokens == [5, 7]


def test_the_best_subtree_holds_the_likeliest_drafts_with_their_parents() -> None:
    assert texts(grown(), 3) == [(5,), (5, 7), (4,)]
    assert texts(grown()) == [(5,), (5, 7), (4,), (5, 7, 9), (5, 7, 8), (5, 6), (EOS,)]


def test_no_draft_is_deeper_than_there_is_room() -> None:
    assert texts(grown(), depth=1) == [(5,), (4,), (EOS,)]
    assert grown().take(9, 1) == [2]  # only 4: what follows 5 is too deep


def test_end_of_sequence_is_proposed_and_never_expanded() -> None:
    tree = grown()
    while nodes := tree.take(4, 9):
        for node in nodes:
            tree.sprout(node, [])
    assert EOS not in tree.nodes.tokens
    assert (EOS,) in texts(tree)


def test_a_new_root_keeps_its_subtree_with_the_weights_seen_from_there() -> None:
    below = grown().below(0)
    assert texts(below) == [(7,), (7, 9), (7, 8), (6,)]
    assert below.rooted
    below.sprout(below.take(1, 9)[0], [(3, 0.9)])  # 9 or 8, at 0.35: 3 behind it is likelier than 6, at 0.2
    assert texts(below)[3] == (7, 9, 3)


def test_what_was_hidden_stays_hidden_behind_a_new_root() -> None:
    tree = grown()
    tree.hide()
    (nine,) = tree.take(1, 9)[:1] if tree.nodes.child(1, 9) is not None else tree.take(2, 9)[1:]
    tree.sprout(nine, [(3, 0.9)])
    best = tree.below(0).best(9, 9)
    assert [best.tokens[node] for node in range(len(best)) if not best.hidden[node]] == [3]


def test_the_tree_stops_growing_at_its_limit() -> None:
    tree = GrowingTree(2, EOS)
    tree.sprout(ROOT, [(5, 0.6), (4, 0.3), (6, 0.1)])
    assert len(tree.take(9, 9)) == 2
    assert tree.take(9, 9) == []


@given(st.floats(0.01, 0.99), st.integers(0, 16), st.integers(1, 40))
def test_early_positions_get_more_fan_out(alpha: float, drafts: int, budget: int) -> None:
    fans = fan_out(alpha, drafts, budget)
    assert len(fans) == drafts + 1
    assert sum(fans) == budget
    assert all(later <= earlier for earlier, later in pairwise(fans[:-1]))


def test_the_end_of_a_speculation_that_stands_gets_more_than_the_place_before_it() -> None:
    """All accepted needs no rejection there: the geometric series is capped by (1 − α)^(−1 / (1 + r))."""
    assert fan_out(0.9, 4, 20)[-1] > fan_out(0.9, 4, 20)[-2]
    assert fan_out(0.8, 0, 7) == [7]


def test_configuration_and_commands_offer_the_strategies_there_are() -> None:
    assert get_args(StrategyName) == tuple(STRATEGIES)
    assert all(name == strategy.name for name, strategy in STRATEGIES.items())  # type: ignore[attr-defined]


def test_every_strategy_can_be_configured(tmp_path: pytest.TempPathFactory) -> None:
    from app.config import Config, override

    for name in STRATEGIES:
        assert override(Config(), decoding={"strategy": name}).decoding.strategy == name
