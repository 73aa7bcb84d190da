"""The guard drafts where it pays, stops where it does not, and tries again now and then."""

from __future__ import annotations

import pytest

from app.decoding.costs import MAX_DRAFT, NEVER, accepted, expected_accepted, iid
from app.decoding.guard import PROBE_EVERY, Guard, Reality
from app.decoding.rounds import merged
from app.decoding.sources import SOURCES, Proposal
from app.decoding.strategies import STRATEGIES, make_strategy
from app.decoding.survival import Acceptance
from tests.app.decoding.toy import costs, make_engine, scene

DRAFTER = ("drafter",)
# Both models at once pay, and so does making the draft first.
PAYS_AT_ONCE = {"overlap_target_ms": 47.0, "overlap_step_ms": 0.1, "verify_row_ms": 0.05}


@pytest.mark.parametrize(
    ("alpha", "c", "gamma"), [(0.7, 0.1, 4), (0.8, 0.1, 6), (0.8, 0.25, 3), (0.7, 0.25, 2), (0.9, 0.5, 3)]
)
def test_the_best_draft_length_is_that_of_the_published_formula(alpha: float, c: float, gamma: int) -> None:
    """facts: S = (1 − α^(γ+1)) / ((1 − α)(γc + 1)), verification for free."""
    assert costs(drafter_step=c, verify_row_ms=0.0).best_draft_length(iid(alpha)) == gamma


def test_a_drafter_as_slow_as_the_target_is_never_used() -> None:
    assert costs(drafter_step=1.0, verify_row_ms=0.0).best_draft_length(iid(0.9)) == 0


def test_expected_accepted_tokens_of_a_chain() -> None:
    assert expected_accepted(0.5, 3) == pytest.approx(0.5 + 0.25 + 0.125) == accepted(iid(0.5), 3)
    assert expected_accepted(1.0, 7) == 7 == accepted(iid(1.0), 7)


def test_a_verify_pass_costs_what_was_measured_and_the_knee_is_where_it_stops_being_free() -> None:
    flat = costs(verify_curve={2: 1.0, 8: 1.05, 16: 2.05})  # type: ignore[arg-type]
    assert [flat.verify_ms(rows) for rows in (1, 2, 8, 12, 16)] == pytest.approx([1.0, 1.0, 1.05, 1.55, 2.05])
    assert flat.verify_ms(26) == pytest.approx(2.05 + 10 * 0.1)
    assert flat.knee == 8
    assert flat.worth_verifying(iid(0.9), 40) == 22 - 1  # 0.9^22 < 0.1, the price of a row beyond the measured ones
    assert flat.worth_verifying(NEVER, 40) == 0


def test_a_source_that_knows_the_answer_makes_the_event_draft_not_worth_its_time() -> None:
    known = costs().hiding_ms(iid(0.9), 30, None, history=iid(1.0))
    assert known == pytest.approx(costs().target_start_ms + 30 * 0.1)
    assert costs().hiding_ms(iid(0.9), 30, "serial", history=iid(1.0)) > known
    assert costs().hiding_ms(iid(0.9), 30, "lead") < costs().hiding_ms(iid(0.9), 30, None)


def test_lead_is_preferred_when_a_draft_can_be_had_before_the_window_closes() -> None:
    guard = Guard(costs(), Acceptance(alpha=0.9))
    assert guard.choose(None, ahead=True) == "lead"
    assert guard.choose(None, ahead=False) == "serial"


def test_overlap_is_preferred_when_it_slows_nothing_down() -> None:
    guard = Guard(costs(overlap_target_ms=41.0, drafter_encode=8.0), Acceptance(alpha=0.9))
    assert guard.choose(None, ahead=False) == "overlap"


def test_both_models_at_once_pay_where_each_has_a_device_of_its_own_and_taking_turns_does_not() -> None:
    """PEARL's claim: drafting costs no time of its own. Half as slow as the target is too slow for taking turns."""
    apart = costs(drafter_step=0.5, verify_row_ms=0.0, drafter_prefill=5.0, overlap_target_ms=40.0, overlap_step_ms=0.5)
    guard = Guard(apart, Acceptance(alpha=0.7))
    assert not guard.use_speculation()
    assert guard.use_parallel(apart.drafts_per_pass)
    assert apart.parallel_ms(iid(1.0), 31, 2) == pytest.approx(40.0 + 30 * 1.0 / 2)
    assert apart.parallel_ms(NEVER, 31, 2) == pytest.approx(40.0 + 30 * 1.0)


def test_both_models_at_once_do_not_pay_where_they_hold_each_other_up_and_taking_turns_does() -> None:
    crowded = Guard(costs(overlap_target_ms=80.0, overlap_step_ms=0.3), Acceptance(alpha=0.8))
    assert crowded.use_speculation()
    assert not crowded.use_parallel(crowded.costs.drafts_per_pass)


def test_ssd_learns_the_acceptance_that_its_fan_out_follows() -> None:
    engine = make_engine(drafter_seed=77, noise=0.0, eos_bias=-9.0, draft_tokens=3)
    before = engine.guard.alpha
    make_strategy("ssd", engine).run(scene(1))
    engine.close()
    assert before == 0.8
    assert engine.guard.alpha < 0.6


def test_a_probe_is_short_and_does_not_make_the_history_try_what_has_not_stood() -> None:
    engine = make_engine(guard=True)
    history = engine.guard.acceptance.of("history", first=True)
    drafter = engine.guard.acceptance.of("drafter", first=True)
    for _ in range(30):
        history.learn(0, 1)
        drafter.learn(0, 1)
    engine.guard.probing = True
    proposals = [Proposal("drafter", [5, 6, 7, 8]), Proposal("history", [9] * 20)]
    tree = merged(engine, proposals, engine.transcript(), lambda _: 0.3, 0.0)
    engine.close()
    assert tree.tokens == [5, 6, 7, 8]


def run(engine, strategy: str, windows: int, scenes: int = 10_000) -> list[bool]:  # type: ignore[no-untyped-def]
    """Whether the drafter was used for each window. The toy's own times are not those of its costs: none is learnt."""
    guard = engine.guard
    guard.drafted, guard.alone, guard.rounds, guard.steps = (Reality(_weight=1e30) for _ in range(4))
    schedule = make_strategy(strategy, engine)
    used = []
    for number in range(windows):
        job = scene(number % scenes)
        schedule.run(job)
        used.append(any(span.lane == "drafter" for span in job.recorder.spans))
    return used


# DSI's drafts come in time only where the target takes some: see test_never_slower.
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("autoregressive", "dsi")])
def test_a_drafter_that_never_agrees_is_left_alone_but_for_a_probe_now_and_then(strategy: str) -> None:
    engine = make_engine(drafter_seed=77, noise=0.0, guard=True, eos_bias=-9.0, sources=DRAFTER, **PAYS_AT_ONCE)
    used = run(engine, strategy, 60)
    engine.close()
    assert any(used[:3])
    late = used[20:]
    assert 1 <= sum(late) <= 2 * (len(late) // PROBE_EVERY + 1)  # a caption in which nothing was compared is no probe


def test_a_drafter_that_agrees_again_is_used_again() -> None:
    engine = make_engine(noise=0.0, vocabulary=28, guard=True, eos_bias=-9.0, sources=DRAFTER)
    for _ in range(20):
        engine.guard.acceptance.of("drafter", first=True).learn(0, 1)
        engine.guard.acceptance.of("drafter", first=False).learn(0, 1)
        engine.guard.acceptance.end_caption(25)
    used = run(engine, "prefill_hiding", 6 * PROBE_EVERY)
    engine.close()
    assert not any(used[: PROBE_EVERY - 1])
    assert all(used[-10:])


def test_in_a_still_scene_the_history_takes_over_and_the_drafter_rests() -> None:
    engine = make_engine(noise=0.6, guard=True, eos_bias=-9.0, placement="serial", sources=SOURCES)
    used = run(engine, "prefill_hiding", 24, scenes=1)
    engine.close()
    assert used[0]
    assert sum(used[8:]) <= 2


def told(guard: Guard, promised: float, alone: float, took: float, windows: int = 1) -> list[bool]:
    """What the guard decides when drafting is promised to cost `promised`, and takes `took`; alone takes `alone`."""
    decided = []
    for _ in range(windows):
        decided.append(use := guard._pays(promised, alone))
        guard.end_caption(30, took if use else alone, drafted=use)
    return decided


def test_a_promise_that_is_not_kept_is_not_believed() -> None:
    """The model says 10 % are to be won, the clock says 10 % are lost: after a few windows the target goes alone."""
    guard = Guard(costs(), Acceptance())
    decided = told(guard, 90.0, 100.0, 110.0, 60)
    assert decided[0]
    assert sum(decided[4:]) <= len(decided[4:]) // PROBE_EVERY + 1


def test_a_promise_that_is_kept_is_believed_on_a_machine_that_is_slower_than_when_it_was_measured() -> None:
    guard = Guard(costs(), Acceptance())
    decided = []
    for _ in range(40):
        decided.append(use := guard._pays(60.0, 100.0))
        guard.end_caption(30, 90.0 if use else 150.0, drafted=use)
    assert sum(decided) >= 36


def test_a_close_promise_is_checked_against_the_target_alone_now_and_then() -> None:
    assert told(Guard(costs(), Acceptance()), 95.0, 100.0, 95.0, 40).count(False) == 40 // PROBE_EVERY


def test_one_stalled_caption_does_not_decide() -> None:
    reality = Reality()
    for _ in range(8):
        reality.learn(100.0, 100.0)
    reality.learn(10_000.0, 100.0)
    assert reality.ratio < 1.7


def test_drafts_of_the_decode_phase_stop_when_they_take_longer_than_they_should() -> None:
    guard = Guard(costs(drafter_step=0.3), Acceptance())
    assert guard.draft_length() > 0
    for _ in range(6):
        guard.end_round(4, 4, 3.0 * (4 * 0.3 + guard.costs.verify_ms(5)))
    assert guard.draft_length() == 0


def test_the_curve_has_a_value_for_every_draft_that_a_plan_may_ask_for() -> None:
    guard = Guard(costs(), Acceptance(alpha=0.99))
    assert len(guard.first) == MAX_DRAFT + 1
    assert not guard.worth_fused(MAX_DRAFT, 1.0)
