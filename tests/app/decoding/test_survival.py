"""How far drafts stand is learnt place by place, from the passes that reached the place."""

from __future__ import annotations

import numpy as np
import pytest

from app.decoding.survival import Acceptance, Survival


def taught(survival: Survival, runs: list[int], drafted: int) -> Survival:
    for stood in runs:
        survival.learn(min(stood, drafted), min(stood + 1, drafted))
    return survival


def test_nothing_known_is_the_prior() -> None:
    assert Survival(0.5).curve[:4] == pytest.approx([1.0, 0.5, 0.25, 0.125])


def test_it_follows_drafts_whose_tokens_depend_on_each_other() -> None:
    """Half the drafts fail at once, the others stand to the end: no single α is that."""
    curve = taught(Survival(0.8), [0, 20] * 200, 20).curve
    assert curve[1] == pytest.approx(0.5, abs=0.02)
    assert curve[20] == pytest.approx(0.5, abs=0.04)


def test_a_draft_cut_short_says_nothing_of_what_was_not_drafted() -> None:
    short = taught(Survival(0.6), [4] * 400, 4).curve
    assert short[4] > 0.95
    assert short[5] / short[4] == pytest.approx(Survival(0.99).curve[1], abs=0.02)  # as the places before it


def test_independent_tokens_are_found_to_be_so() -> None:
    random = np.random.default_rng(0)
    curve = taught(Survival(0.9), (random.geometric(0.3, 3000) - 1).tolist(), 8).curve
    assert curve[:6] == pytest.approx([0.7**n for n in range(6)], abs=0.03)


def test_what_was_long_ago_counts_little() -> None:
    acceptance = Acceptance()
    taught(acceptance.of("drafter", first=True), [0] * 20, 8)
    low = acceptance.of("drafter", first=True).curve[1]
    for _ in range(30):
        taught(acceptance.of("drafter", first=True), [8], 8)
        acceptance.end_caption(30)
    assert low < 0.3
    assert acceptance.of("drafter", first=True).curve[1] > 0.9
    assert acceptance.of("history", first=True).curve[1] == acceptance.of("history", first=False).curve[1]
