"""From measured lanes to the figures (JSON) and the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from app.bench.strategies import TIE, Lane
from app.decoding.costs import Costs


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50 and p95; None when nothing was measured."""
    return {"p50": float(np.median(values)), "p95": float(np.percentile(values, 95))} if len(values) else None


def strategy_figures(lane: Lane, alone: Lane) -> dict[str, Any]:
    """What the JSON says of one lane; `alone` is the target by itself."""
    report = lane.summary().report()
    ties = [gap for _, gap in lane.mismatches if gap <= TIE]
    placements = [caption.stats.placement for caption in lane.captions]
    predicted = predicted_ms(lane, report.alpha)
    return {
        "caption_ms": percentiles(lane.ms),
        "prefill_ms": percentiles(lane.prefill_ms),
        "decode_step_ms": percentiles(lane.step_ms),
        "alpha": report.alpha,
        "alpha_content": report.alpha_content,
        "alpha_injected": lane.injected_alpha,
        "draft_acceptance_rate": report.draft_acceptance_rate,
        "mean_acceptance_length": report.mean_acceptance_length,
        "hidden_tokens_mean": report.hidden_tokens_mean,
        "accepted_hidden_tokens_mean": report.accepted_hidden_tokens_mean,
        "eta": eta(lane, alone),
        "eta_predicted": _eta(alone, predicted) if predicted is not None else None,
        "lossless": len(ties) == len(lane.mismatches) and len(ties) <= max(1, len(lane.captions) // 1000),
        "ties": len(ties),
        "tie_gaps": ties,
        "mismatches": len(lane.mismatches) - len(ties),
        "threads": threads(lane.costs),
        "placement": max(set(placements), key=placements.count) if placements else None,
        "windows": len(lane.captions),
    }


def eta(lane: Lane, alone: Lane) -> float | None:
    """Share of the attainable gain: (T_alone − T) ÷ (T_alone − T_prefill), at p50."""
    return _eta(alone, float(np.median(lane.ms)))


def _eta(alone: Lane, ms: float) -> float | None:
    whole, floor = float(np.median(alone.ms)), float(np.median(alone.prefill_ms))
    return (whole - ms) / (whole - floor) if whole > floor else None


def predicted_ms(lane: Lane, alpha: float | None) -> float | None:
    """What the cost model expects of a hiding lane at the α that it measured (preprocessing as measured)."""
    if lane.strategy != "prefill_hiding" or alpha is None:
        return None
    tokens = float(np.median([caption.stats.tokens + 1 for caption in lane.captions]))
    placements = [caption.stats.placement for caption in lane.captions if caption.stats.placement]
    placement = max(set(placements), key=placements.count) if placements else "serial"
    host = [sum(s.ms for s in c.spans if s.detail.get("model") == "target") for c in lane.captions]
    return lane.costs.hiding_ms(min(alpha, 0.999), tokens, placement) + float(np.median(host))


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


def print_report(figures: dict[str, Any], console: Console) -> None:
    """The table for people: everything that the JSON holds and a person compares."""
    machine = figures["machine"]
    console.print(
        f"[bold]{machine['processor']}[/], {machine['cores']} cores, ONNX Runtime {machine.get('onnxruntime')}"
    )
    console.print(_speed(figures))
    console.print(_acceptance(figures))
    small = Table(title="ratios and the rest", show_header=False)
    for name, value in figures["ratios"].items():
        small.add_row(name, _number(value, 3))
    for name, peer in figures["peers"].items():
        small.add_row(f"{name} generate, p50 ms ({peer['threads']} threads)", _number(peer["caption_ms"]["p50"], 1))
        small.add_row(f"{name} ÷ autoregressive", _number(peer["autoregressive_ratio"], 2))
        small.add_row(f"{name} ÷ prefill_hiding", _number(peer["ratio"], 2))
        small.add_row(f"tokens identical to {name}", "yes" if peer["token_identical"] else f"NO, {peer['mismatches']}")
    step = figures["decode_step"]
    small.add_row("decode step ÷ (weight bytes ÷ bandwidth)", _number(step["ratio"], 2))
    small.add_row("memory bandwidth GB/s", _number(step["bandwidth_gb_s"], 1))
    if figures["overhead_ms"]:
        small.add_row("pipeline overhead p50 ms", _number(figures["overhead_ms"]["p50"], 2))
    small.add_row("render 300,000 events ms", _number(figures["render"]["ms"], 2))
    small.add_row("render, loop ÷ ours", _number(figures["render"]["ratio_to_loop"], 1))
    if figures["memory"]:
        small.add_row(
            f"memory growth over {figures['memory']['windows']:.0f} windows", f"{figures['memory']['growth']:.1%}"
        )
        small.add_row("peak resident MiB", _number(figures["memory"]["peak_mib"], 0))
    console.print(small)


def _speed(figures: dict[str, Any]) -> Table:
    table = Table(title=f"time to the verified caption, ms, {figures['windows']} windows")
    for heading in ("strategy", "placement", "p50", "p95", "prefill p50", "step p50", "η", "η predicted", "lossless"):
        table.add_column(heading, justify="left" if heading in ("strategy", "placement") else "right")
    for name, row in figures["strategies"].items():
        ties = f" ({row['ties']} ties)" if row["ties"] else ""
        table.add_row(
            name,
            row["placement"] or "–",
            _number(row["caption_ms"]["p50"], 1),
            _number(row["caption_ms"]["p95"], 1),
            _number(row["prefill_ms"]["p50"], 1),
            _number((row["decode_step_ms"] or {}).get("p50"), 2),
            _number(row["eta"], 2),
            _number(row["eta_predicted"], 2),
            ("yes" if row["lossless"] else f"NO: {row['mismatches']}") + ties,
        )
    return table


def _acceptance(figures: dict[str, Any]) -> Table:
    table = Table(title="acceptance")
    for heading in ("strategy", "α", "α content", "rate", "tokens a pass", "hidden", "accepted hidden"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right")
    for name, row in figures["strategies"].items():
        if row["alpha"] is None:
            continue
        injected = f" ({row['alpha_injected']:.1f} injected)" if row["alpha_injected"] is not None else ""
        table.add_row(
            name,
            _number(row["alpha"], 3) + injected,
            _number(row["alpha_content"], 3),
            _number(row["draft_acceptance_rate"], 3),
            _number(row["mean_acceptance_length"], 2),
            _number(row["hidden_tokens_mean"], 1),
            _number(row["accepted_hidden_tokens_mean"], 1),
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
