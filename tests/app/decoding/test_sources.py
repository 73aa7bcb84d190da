"""Proposals of several sources become one tree of the nodes that are worth their rows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.costs import Curve, iid
from app.decoding.sources import CAMERAS, REMEMBERED, Histories, History, Proposal, merge
from app.decoding.tree import ROOT

CURVES = {"drafter": iid(0.9), "history": iid(0.5), "runner_up": iid(0.3)}
CHAINS = st.lists(st.integers(3, 5), max_size=10)


def curve(source: str) -> Curve:
    return CURVES[source]


def test_behind_no_text_the_last_two_captions_are_proposed() -> None:
    history = History()
    for caption in ([3, 4, 5, 2], [3, 7, 8, 2], [3, 4, 5, 2]):
        history.add(caption)
    assert history.propose([]) == [(3, 4, 5, 2), (3, 7, 8, 2)]
    assert history.propose([3, 7]) == [(8, 2)]
    assert history.propose([9, 9, 9]) == []


def test_a_run_of_tokens_goes_on_as_it_did_in_the_newest_caption_that_had_it() -> None:
    history = History()
    history.add([10, 11, 12, 13, 2])
    history.add([20, 11, 12, 14, 2])
    assert history.propose([30, 31, 11, 12]) == [(14, 2), (13, 2)]
    assert history.propose([30, 10, 11, 12]) == [(13, 2)]  # the longer run decides


def test_what_is_kept_is_bounded() -> None:
    history, histories = History(), Histories()
    for number in range(3 * REMEMBERED):
        history.add([100 + number, 200 + number, 2])
    assert history.propose([100, 200]) == []
    first = histories.of("camera 0")
    for number in range(CAMERAS + 1):
        histories.of(f"camera {number}")
    assert histories.of("camera 0") is not first


def test_cameras_do_not_hear_each_other() -> None:
    histories = Histories()
    histories.of("left").add([3, 4, 2])
    assert histories.of("right").propose([]) == []
    assert histories.of("left").propose([]) == [(3, 4, 2)]


def test_common_beginnings_are_one_and_the_likeliest_nodes_come_first() -> None:
    proposals = [Proposal("drafter", [3, 4, 5], 2), Proposal("history", [3, 6, 7], 3)]
    tree = merge(proposals, curve, lambda n: 0.0, 4)
    assert sorted(zip(tree.tokens, tree.parents, strict=True)) == [(3, ROOT), (4, 0), (5, 1), (6, 0)]
    assert tree.hidden[tree.tokens.index(5)] is False
    assert all(tree.hidden[node] for node, token in enumerate(tree.tokens) if token != 5)


def test_a_row_that_costs_more_than_its_token_may_save_is_left_out() -> None:
    assert merge([Proposal("drafter", [3] * 20)], curve, lambda n: 0.5, 64).tokens == [3] * 6  # 0.9^7 < 0.5


def test_a_tree_that_costs_more_than_its_branches_yield_is_the_best_chain() -> None:
    proposals = [Proposal("drafter", [3, 4, 5]), Proposal("history", [6, 7, 8])]
    assert merge(proposals, curve, lambda n: 0.0, 64, branching=2.0).tokens == [3, 4, 5]
    assert len(merge(proposals, curve, lambda n: 0.0, 64, branching=0.1)) == 6


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(CURVES)), CHAINS), max_size=4), st.integers(0, 12), st.floats(0, 1))
def test_every_path_is_the_beginning_of_a_proposal(
    proposed: list[tuple[str, list[int]]], limit: int, price: float
) -> None:
    """Whatever rows cost, rising or not, as measured prices may be."""
    proposals = [Proposal(source, tokens) for source, tokens in proposed]
    tree = merge(proposals, curve, lambda n: price * (0.1 if n % 3 else 1.0), limit)
    assert len(tree) <= limit
    for node in range(len(tree)):
        path = [tree.tokens[ancestor] for ancestor in tree.path(node)]
        assert any(path == tokens[: len(path)] for _, tokens in proposed)
