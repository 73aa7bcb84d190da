"""The cost model against sums that can be done by hand, and against what must hold of every strategy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.decoding.costs import expected_accepted
from app.simulation.inputs import CaptionCase, SimulationError, StepTimes, agreement, sample_cases
from app.simulation.parallel import best_part
from app.simulation.predict import SCHEDULES, predict, times_to_caption
from app.simulation.schedules import Run
from tests.app.decoding.toy import costs

TIMES = StepTimes(
    host_ms=1.0,
    target_encode_ms=9.0,
    target_prefill_ms=30.0,
    target_step_ms=2.0,
    verify_row_ms=0.1,
    fused_row_ms=0.1,
    drafter_preprocess_ms=1.0,
    drafter_encode_ms=2.0,
    drafter_prefill_ms=3.0,
    drafter_step_ms=0.5,
)
PREFILL = 40.0
ALL_AGREE = CaptionCase((0,) * 21)
NONE_AGREES = CaptionCase((8,) * 21)


def ms(strategy: str, case: CaptionCase = ALL_AGREE, times: StepTimes = TIMES, **more: object) -> float:
    return times_to_caption(strategy, times, [case], **more)[0]  # type: ignore[arg-type]


def test_the_eight_strategies_have_a_schedule() -> None:
    names = "autoregressive speculative prefill_hiding pearl amusd dsi ssd swiftspec"
    assert list(SCHEDULES) == names.split()


def test_autoregressive_is_a_prefill_and_a_step_a_token() -> None:
    assert ms("autoregressive") == pytest.approx(PREFILL + 20 * 2.0)


def test_hiding_with_a_whole_draft_made_ahead_takes_the_prefill_and_its_rows() -> None:
    assert ms("prefill_hiding", placement="lead") == pytest.approx(PREFILL + 21 * 0.1)


def test_hiding_in_series_also_waits_for_the_draft() -> None:
    drafts = 21
    waited = 6.0 + (drafts - 1) * 0.5  # the drafter's prefill yields the first draft
    assert ms("prefill_hiding", placement="serial") == pytest.approx(PREFILL + waited + drafts * 0.1)


def test_a_repeated_caption_is_there_when_the_prefill_ends_whatever_the_drafter_says() -> None:
    repeated = replace(NONE_AGREES, repeated=21)
    assert ms("prefill_hiding", repeated, placement="lead") == pytest.approx(PREFILL + 21 * 0.1)


def test_speculation_at_full_agreement_is_both_prefills_and_rounds_of_draft_and_verify() -> None:
    gamma, left, rounds = 16, 20, 0.0
    while left > 0:
        drafts = min(gamma, left)
        rounds += drafts * 0.5 + 2.0 + drafts * 0.1
        left -= drafts + 1
    assert ms("speculative") == pytest.approx(PREFILL + 6.0 + rounds)


def test_vanilla_speculation_earns_what_the_formula_says() -> None:
    """Leviathan et al., 2023, theorem 3.8, with free rows: (1 − α^(γ+1)) ÷ ((1 − α)(γc + 1)) in the decode phase."""
    times = replace(TIMES, verify_row_ms=0.0)
    cases = sample_cases(0.7, 400, 20)
    speedup = max((1 + expected_accepted(agreement(cases), n)) / (n * 0.25 + 1) for n in range(17))
    spent = np.mean(times_to_caption("speculative", times, cases)) - PREFILL - 6.0
    assert 399 * 2.0 / spent == pytest.approx(speedup, rel=0.04)


def test_pearl_hides_every_draft_behind_a_verify_pass_on_a_second_device() -> None:
    """γ = 4; the first block is ready before the prefill ends, then a pass of 4 rows decides 4 tokens."""
    assert ms("pearl", devices=2) == pytest.approx(PREFILL + 5 * (2.0 + 0.3))


def test_pearl_without_agreement_is_the_target_alone_on_a_second_device() -> None:
    assert ms("pearl", NONE_AGREES, devices=2) == pytest.approx(PREFILL + 20 * 2.0)


def test_dsi_is_never_slower_than_the_target_alone_with_a_device_for_the_drafter() -> None:
    """Timor et al., 2024, theorem 1: one task always runs on the bare accepted prefix."""
    for case in (NONE_AGREES, *sample_cases(0.5, 30, 20)):
        alone = ms("autoregressive", case, replace(TIMES, verify_row_ms=0.0))
        assert ms("dsi", case, replace(TIMES, verify_row_ms=0.0), devices=3) <= alone + 2.0 + 1e-6


def test_more_targets_help_dsi() -> None:
    cases = sample_cases(0.9, 40, 20)
    two, four = (np.mean(times_to_caption("dsi", TIMES, cases, devices)) for devices in (2, 4))
    assert four < two


def test_a_prepared_outcome_spares_ssd_its_drafting() -> None:
    """Rows being free, the drafter prepares the next draft beside each verify pass: it is never waited for again."""
    times = replace(TIMES, verify_row_ms=0.0, drafter_step_ms=0.4)  # a pass over the draft and 4 levels of outcomes
    assert ms("ssd", times=times, devices=2) == pytest.approx(PREFILL + 4 * 2.0)  # 20 tokens: 5 drafts and one more


def test_the_best_part_of_a_tree_is_a_chain_while_the_drafter_is_sure_and_broad_when_it_is_not() -> None:
    assert best_part(0.95, depth=8, budget=6) == (6, [0] * 8)
    chain, siblings = best_part(0.4, depth=8, budget=6)
    assert chain < 6
    assert siblings[0] > 0
    assert chain + sum(siblings) == 6


@pytest.mark.parametrize("strategy", SCHEDULES)
@pytest.mark.parametrize("devices", [1, 2, 3])
def test_nothing_is_sooner_than_the_prefill_and_agreement_never_hurts(strategy: str, devices: int) -> None:
    sure, unsure = (np.mean(times_to_caption(strategy, TIMES, sample_cases(a, 30, 20), devices)) for a in (0.95, 0.3))
    assert PREFILL <= sure <= unsure + 1e-9


@pytest.mark.parametrize("strategy", SCHEDULES)
@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_the_shortest_captions_end(strategy: str, tokens: int) -> None:
    for ranks in ((0,) * tokens, (8,) * tokens, (1,) * tokens):
        assert ms(strategy, CaptionCase(ranks)) >= PREFILL - 1e-9


def test_the_guard_takes_the_target_alone_where_a_strategy_does_not_pay() -> None:
    by_name = {p.strategy: p for p in predict(replace(TIMES, drafter_step_ms=2.0), sample_cases(0.3, 30, 20))}
    pearl = by_name["pearl"]
    assert not pearl.pays
    assert pearl.guarded_ms == pearl.alone_ms < pearl.p50_ms
    assert pearl.eta == pytest.approx(0.0)


def test_hiding_is_predicted_at_its_best_placement() -> None:
    (hiding,) = predict(TIMES, sample_cases(0.9, 30, 20), strategies=("prefill_hiding",))
    assert hiding.placement == "lead"
    assert hiding.eta is not None
    assert 0.5 < hiding.eta < 1.0


def test_sampled_captions_agree_as_often_as_asked_and_are_the_same_each_time() -> None:
    cases = sample_cases(0.7, 30, 400, repeat=0.25)
    assert agreement(cases) == pytest.approx(0.7, abs=0.02)
    assert np.mean([case.repeated == 30 for case in cases]) == pytest.approx(0.25, abs=0.05)
    assert cases == sample_cases(0.7, 30, 400, repeat=0.25)
    assert agreement(sample_cases(1.0, 5, 5)) == 1.0
    assert agreement(sample_cases(0.0, 5, 50)) < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_step_ms": 0}, "target_step_ms: must be above 0"),
        ({"target_step_ms": "2"}, "target_step_ms: '2' is not a number"),
        ({"steps_slow": 0.5}, "steps_slow: 0.5 is below 1"),
        ({"speed": 3}, "unknown key speed"),
    ],
)
def test_step_times_that_cannot_be_are_refused_by_name(change: dict[str, object], message: str) -> None:
    assert StepTimes.given(TIMES.as_json(), "f.json") == TIMES
    with pytest.raises(SimulationError, match=r"f\.json: " + message):
        StepTimes.given(TIMES.as_json() | change, "f.json")


def test_missing_step_times_are_named() -> None:
    with pytest.raises(SimulationError, match="missing 9 required"):
        StepTimes.given({"host_ms": 1.0}, "f.json")
    with pytest.raises(SimulationError, match="not a JSON object"):
        StepTimes.given([1.0], "f.json")


def test_what_the_schedules_draft_a_pass_is_what_the_engine_drafts() -> None:
    """However quick the drafter is: the simulated clock and the engine have the same bounds."""
    for step in (0.01, 0.04, 0.3, 2.0):
        told = costs(drafter_step=step)
        assert Run(StepTimes.measured(told, 0.0), CaptionCase((0,)), 0.8).drafts_per_pass == told.drafts_per_pass
