"""From measured lanes to the figures of the JSON; nothing here measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from app.bench.lanes import TIE, Lane
from app.decoding.costs import Costs
from app.decoding.guard import MARGIN
from app.simulation.inputs import CaptionCase, StepTimes
from app.simulation.predict import times_to_caption

LEARNING = 10  # windows in which the guard may still be finding out


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50 and p95; None when nothing was measured."""
    return {"p50": float(np.median(values)), "p95": float(np.percentile(values, 95))} if len(values) else None


def strategy_figures(lane: Lane, alone: Lane, cases: Sequence[CaptionCase] = ()) -> dict[str, Any]:
    """One lane; `alone` is the target by itself on the same windows, `cases` what the cost model predicts from."""
    report = lane.summary().report()
    ties = [gap for _, gap in lane.mismatches if gap <= TIE]
    median, whole = float(np.median(lane.ms)), float(np.median(alone.ms[: len(lane.ms)]))
    floor = float(np.median(alone.prefill_ms[: len(lane.ms)]))
    predicted = predicted_ms(lane, alone, cases) if cases else None
    return {
        "caption_ms": percentiles(lane.ms),
        "prefill_ms": percentiles(lane.prefill_ms),
        "decode_step_ms": percentiles(lane.step_ms),
        "ratio": median / whole,
        "floor_ratio": median / floor,
        "eta": eta(median, whole, floor),
        "predicted_ms": predicted,
        "eta_predicted": eta(predicted, whole, floor) if predicted is not None else None,
        "alpha": report.alpha,
        "alpha_content": report.alpha_content,
        "draft_acceptance_rate": report.draft_acceptance_rate,
        "mean_acceptance_length": report.mean_acceptance_length,
        "acceptance_histogram": acceptance_histogram(lane),
        "hidden_tokens_mean": report.hidden_tokens_mean,
        "accepted_hidden_tokens_mean": report.accepted_hidden_tokens_mean,
        "lossless": len(ties) == len(lane.mismatches) and len(ties) <= max(1, len(lane.captions) // 1000),
        "ties": len(ties),
        "tie_gaps": ties,
        "mismatches": len(lane.mismatches) - len(ties),
        "threads": threads(lane.costs),
        "placement": most(lane.placements),
        "windows": len(lane.captions),
    }


def eta(ms: float, whole: float, floor: float) -> float | None:
    """Share of the attainable gain: (T_alone − T) ÷ (T_alone − T_prefill)."""
    return (whole - ms) / (whole - floor) if whole > floor else None


def acceptance_histogram(lane: Lane) -> list[int]:
    """[k]: verify passes that accepted k draft tokens, over all captions."""
    length = max((len(caption.stats.acceptance_histogram) for caption in lane.captions), default=0)
    total = np.zeros(length, np.int64)
    for caption in lane.captions:
        counts = caption.stats.acceptance_histogram
        total[: len(counts)] += np.asarray(counts, np.int64)
    return [int(count) for count in total]


def host_ms(alone: Lane) -> float:
    """What a caption waits for besides the target's passes, p50."""
    rest = [
        ms - sum(span.ms for span in caption.spans if span.lane == "target")
        for ms, caption in zip(alone.ms, alone.captions, strict=True)
    ]
    return float(np.median(rest))


def run_times(costs: Costs, alone: Lane) -> StepTimes:
    """Step times for the cost model: the target's as the lane `alone` had them, all others by the same drift.

    A calibration is made before the run, on a machine that was perhaps less busy, with caches that were warmer.
    """
    spans = {name: _pass_ms(alone, name) for name in ("encode", "prefill", "decode")}
    times = StepTimes.measured(costs, host_ms(alone))
    drift = spans["decode"] / times.target_step_ms, spans["prefill"] / times.target_prefill_ms
    return replace(
        times,
        target_encode_ms=spans["encode"],
        target_prefill_ms=spans["prefill"],
        target_step_ms=spans["decode"],
        verify_row_ms=times.verify_row_ms * drift[0],
        fused_row_ms=times.fused_row_ms * drift[1],
        drafter_preprocess_ms=times.drafter_preprocess_ms * drift[1],
        drafter_encode_ms=times.drafter_encode_ms * drift[1],
        drafter_prefill_ms=times.drafter_prefill_ms * drift[1],
        drafter_step_ms=times.drafter_step_ms * drift[0],
    )


def _pass_ms(alone: Lane, name: str) -> float:
    """A pass of the target: its mean in each caption, and of those the median."""
    of_caption = [[s.ms for s in c.spans if (s.lane, s.name) == ("target", name)] for c in alone.captions]
    return float(np.median([np.mean(ms) for ms in of_caption if ms]))


def predicted_ms(lane: Lane, alone: Lane, cases: Sequence[CaptionCase], devices: int = 1) -> float:
    """What the cost model expects of a lane on such captions; with the guard on, no more than the target alone."""
    times = run_times(lane.costs, alone)
    placement = most(lane.placements) or "serial"
    predicted = float(np.median(times_to_caption(lane.strategy, times, cases, devices, placement)))
    if lane.guard and lane.strategy != "autoregressive":
        target_alone = float(np.median(times_to_caption("autoregressive", times, cases, devices)))
        return predicted if predicted * MARGIN < target_alone else target_alone
    return predicted


def most(placements: Sequence[str | None]) -> str | None:
    """The commonest of the placements."""
    return max(set(placements), key=placements.count) if placements else None


def history_figures(lane: Lane, alone: Lane) -> dict[str, Any]:
    """Windows whose caption repeats the previous one's and windows whose caption changes: time ÷ target prefill."""
    groups: dict[str, list[int]] = {"repeated": [], "changed": []}
    for number, caption in enumerate(alone.captions):
        same = number > 0 and caption.token_ids == alone.captions[number - 1].token_ids
        groups["repeated" if same else "changed"].append(number)
    found: dict[str, Any] = {}
    for name, numbers in groups.items():
        ratios = [lane.ms[n] / alone.prefill_ms[n] for n in numbers]
        found[name] = {"windows": len(numbers), "floor_ratio": float(np.median(ratios)) if ratios else None}
    return found


def guard_figures(lanes: Sequence[Lane], alone: Lane) -> dict[str, Any]:
    """Each strategy with a drafter of noise ÷ autoregressive, on the first ten windows and after; and the worst."""
    strategies = {lane.strategy: _before_and_after(lane, alone) for lane in lanes}
    return {
        "drafter": "uniformly random tokens",
        **{
            when: max((ratio for row in strategies.values() if (ratio := row[when]) is not None), default=None)
            for when in ("first_10", "after_10")
        },
        "strategies": strategies,
    }


def _before_and_after(lane: Lane, alone: Lane) -> dict[str, float | None]:
    def ratio(part: slice) -> float | None:
        return float(np.median(lane.ms[part]) / np.median(alone.ms[part])) if lane.ms[part] else None

    return {"first_10": ratio(slice(0, LEARNING)), "after_10": ratio(slice(LEARNING, None))}


def threads(costs: Costs) -> dict[str, int]:
    """Threads of each phase, as the plan has them."""
    return {
        "drafter": costs.drafter_step.threads,
        "target_encode": costs.target_encode.threads,
        "target_prefill": costs.target_prefill.threads,
        "target_step": costs.target_step.threads,
        "overlap_target": costs.overlap_threads[0],
        "overlap_drafter": costs.overlap_threads[1],
    }
