"""The guard drafts where it pays, stops where it does not, and tries again now and then."""

from __future__ import annotations

import pytest

from app.decoding.costs import expected_accepted
from app.decoding.guard import PROBE_EVERY, Acceptance, Guard
from app.decoding.strategies import make_strategy
from tests.app.decoding.toy import costs, make_engine, scene


@pytest.mark.parametrize(
    ("alpha", "c", "gamma"), [(0.7, 0.1, 4), (0.8, 0.1, 6), (0.8, 0.25, 3), (0.7, 0.25, 2), (0.9, 0.5, 3)]
)
def test_the_best_draft_length_is_that_of_the_published_formula(alpha: float, c: float, gamma: int) -> None:
    """facts: S = (1 − α^(γ+1)) / ((1 − α)(γc + 1)), verification for free."""
    assert costs(drafter_step=c, verify_row_ms=0.0).best_draft_length(alpha) == gamma


def test_a_drafter_as_slow_as_the_target_is_never_used() -> None:
    assert costs(drafter_step=1.0, verify_row_ms=0.0).best_draft_length(0.9) == 0


def test_expected_accepted_tokens_of_a_chain() -> None:
    assert expected_accepted(0.5, 3) == pytest.approx(0.5 + 0.25 + 0.125)
    assert expected_accepted(1.0, 7) == 7


def test_lead_is_preferred_when_a_draft_can_be_had_before_the_window_closes() -> None:
    guard = Guard(costs(), Acceptance(alpha=0.9))
    assert guard.choose(None, ahead=True) == "lead"
    assert guard.choose(None, ahead=False) == "serial"


def test_overlap_is_preferred_when_it_slows_nothing_down() -> None:
    guard = Guard(costs(overlap_target_ms=41.0, drafter_encode=8.0), Acceptance(alpha=0.9))
    assert guard.choose(None, ahead=False) == "overlap"


def test_a_drafter_that_never_agrees_is_left_alone_but_for_a_probe_now_and_then() -> None:
    engine = make_engine(drafter_seed=77, noise=0.0, guard=True, max_new_tokens=24, eos_bias=-9.0)
    schedule = make_strategy("prefill_hiding", engine)
    used = [schedule.run(scene(number))[1] is not None for number in range(60)]
    engine.close()
    assert any(used[:3])
    late = used[20:]
    assert 1 <= sum(late) <= len(late) // PROBE_EVERY + 1


def test_a_drafter_that_agrees_again_is_used_again() -> None:
    engine = make_engine(noise=0.0, vocabulary=28, guard=True, eos_bias=-9.0)
    engine.guard.acceptance.alpha, engine.guard.acceptance.weight = 0.0, 40.0
    schedule = make_strategy("prefill_hiding", engine)
    used = [schedule.run(scene(number))[1] is not None for number in range(12 * PROBE_EVERY)]
    engine.close()
    assert not any(used[: PROBE_EVERY - 1])
    assert all(used[-10:])
