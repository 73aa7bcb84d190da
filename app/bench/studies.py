"""What is compared with what: the lanes of each study, all against the same reference, the target alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from app.bench.figures import predicted_ms, strategy_figures
from app.bench.injected import noisy, scripted, scripted_costs
from app.bench.lanes import Lane, Pair, run_lanes
from app.bench.windows import BenchWindow
from app.captioner import CaptionerSettings
from app.decoding.costs import Costs, expected_accepted
from app.simulation.inputs import sample_cases

ALPHAS = (0.5, 0.7, 0.9)
RATIOS = (0.1, 0.5, 1.0)  # c: a drafter step ÷ a target step
INJECTED_WINDOWS = 6  # of each combination: their times vary little, the tokens being drawn
PLACEMENTS = ("lead", "serial", "overlap")
SOURCES = {"event drafter": ("drafter",), "history": ("history",), "both": ("drafter", "history")}


def strategy_lanes(strategies: Sequence[str], costs: Costs) -> list[Lane]:
    """Every strategy as a user has it; the reference first."""
    names = ["autoregressive", *(name for name in strategies if name != "autoregressive")]
    return [Lane(name, name, None, costs) for name in names]


def placement_lanes(costs: Costs) -> list[Lane]:
    """Prefill hiding with the draft where the plan would not make it."""
    return [Lane(f"prefill_hiding {place}", "prefill_hiding", place, costs, guard=False) for place in PLACEMENTS]


def single_thread_lanes(single: Costs) -> list[Lane]:
    """The target alone and prefill hiding with one thread a model."""
    return [Lane(f"{name}, 1 thread", name, None, single) for name in ("autoregressive", "prefill_hiding")]


def ablation_lanes(costs: Costs) -> list[Lane]:
    """What each draft source adds."""
    return [Lane(name, "prefill_hiding", None, costs, sources=sources) for name, sources in SOURCES.items()]


def guard_lanes(strategies: Sequence[str], models: Pair, costs: Costs) -> list[Lane]:
    """Every strategy with a drafter of noise."""
    drafter = noisy(models[0])
    return [
        Lane(f"{name}, noise", name, None, costs, sources=("drafter",), drafter=drafter)
        for name in strategies
        if name != "autoregressive"
    ]


def injected_rows(
    strategies: Sequence[str],
    models: Pair,
    settings: CaptionerSettings,
    costs: Costs,
    windows: Sequence[BenchWindow],
    progress: Callable[[], None],
) -> Iterator[dict[str, Any]]:
    """Every strategy, guard on, at each injected α and c: measured, by the formula, and by the cost model."""
    names = [name for name in strategies if name != "autoregressive"]
    for alpha in ALPHAS:
        for ratio in RATIOS:
            drafter = scripted(models[0], settings.question, alpha, ratio, costs)
            planned = scripted_costs(costs, ratio)
            alone = Lane("autoregressive", "autoregressive", None, costs)
            lanes = [
                Lane(name, name, None, planned, sources=("drafter",), drafter=drafter, prior_alpha=alpha)
                for name in names
            ]
            run_lanes([alone, *lanes], models, settings, windows[:INJECTED_WINDOWS], progress)
            yield from (_injected_row(lane, alone, alpha, ratio) for lane in lanes)


def _injected_row(lane: Lane, alone: Lane, alpha: float, ratio: float) -> dict[str, Any]:
    whole, floor = float(np.median(alone.ms)), float(np.median(alone.prefill_ms))
    speedup = formula_speedup(alpha, ratio)
    tokens = round(float(np.mean([len(caption.token_ids) + 1 for caption in alone.captions])))
    predicted = predicted_ms(lane, alone, sample_cases(alpha, tokens, 100), devices=2)
    figures = strategy_figures(lane, alone)
    return {
        "label": "injected",
        "strategy": lane.strategy,
        "alpha": alpha,
        "cost_ratio": ratio,
        "caption_ms": figures["caption_ms"]["p50"],
        "ratio": figures["ratio"],
        "formula_speedup": speedup,
        "formula_ratio": (floor + (whole - floor) / speedup) / whole,
        "predicted_ratio": predicted / whole,
        **{key: figures[key] for key in ("placement", "lossless", "ties", "windows")},
        "alpha_found": figures["alpha"],
    }


def formula_speedup(alpha: float, ratio: float) -> float:
    """Of the decode phase by chain speculation at the best γ: S = (1 − α^(γ+1)) ÷ ((1 − α)(γc + 1)), at least 1.

    Leviathan et al., 2023, theorem 3.8; γ = 0 is the target alone.
    """
    return max((1 + expected_accepted(alpha, gamma)) / (gamma * ratio + 1) for gamma in range(17))
