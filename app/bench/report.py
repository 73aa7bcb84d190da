"""The tables for people: everything that the JSON holds and a person compares."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from app.bench.chart import terminal_chart
from app.bench.streaming import streaming_table

Rows = dict[str, dict[str, Any]]


def print_report(figures: dict[str, Any], console: Console) -> None:
    machine = figures["machine"]
    console.print(
        f"[bold]{machine['processor']}[/], {machine['cores']} cores, ONNX Runtime {machine.get('onnxruntime')}"
    )
    strategies: Rows = figures["strategies"]
    console.print(_strategies(figures))
    console.print(terminal_chart(strategies, floor_ms(strategies)))
    if figures["guard"]["strategies"]:
        console.print(_guard(figures["guard"]))
    if figures.get("injected"):
        console.print(_injected(figures["injected"]))
    if figures["streaming_prefill"]:
        console.print(streaming_table(figures["streaming_prefill"]))
    console.print(_verify_cost(figures["verify_cost"]))
    console.print(_rest(figures))


def floor_ms(strategies: Rows) -> float:
    """The end of the target's prefill, p50: no verified caption is sooner."""
    return float(strategies["autoregressive"]["prefill_ms"]["p50"])


def _strategies(figures: dict[str, Any]) -> Table:
    """One table: the strategies, and below them what prefill hiding is made of. Alone: `autoregressive`, this run."""
    table = Table(title=f"time to the verified caption, ms, {figures['windows']} windows")
    for heading in ("strategy", "placement"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        *("p50", "p95", "÷ alone", "÷ floor", "η", "η predicted"),
        *("α", "accepted ÷ drafted", "tokens a pass", "hidden, accepted", "lossless", "ties"),
    ):
        table.add_column(heading, justify="right")
    for name, row in figures["strategies"].items():
        _strategy_row(table, name, row)
    for section, of in (("ablation", "hiding by "), ("placements", ""), ("one_thread", "")):
        table.add_section()
        for name, row in figures[section].items():
            _strategy_row(table, of + name, row)
    if "history" in figures:
        table.caption = "; ".join(
            f"windows whose caption {'repeats' if name == 'repeated' else 'changes'}: {row['windows']}, prefill_hiding "
            f"÷ floor {_number(row['floor_ratio'], 2)}"
            for name, row in figures["history"].items()
        )
    return table


def _strategy_row(table: Table, name: str, row: dict[str, Any]) -> None:
    table.add_row(
        name,
        row["placement"] or "–",
        _number(row["caption_ms"]["p50"], 1),
        _number(row["caption_ms"]["p95"], 1),
        _number(row["ratio"], 2),
        _number(row["floor_ratio"], 2),
        _number(row["eta"], 2),
        _number(row["eta_predicted"], 2),
        _number(row["alpha"], 3),
        _number(row["draft_acceptance_rate"], 2),
        _number(row["mean_acceptance_length"], 2),
        _number(row["accepted_hidden_tokens_mean"], 1) if row["hidden_tokens_mean"] else "–",
        "yes" if row["lossless"] else f"NO: {row['mismatches']}",
        str(row["ties"]),
    )


def _guard(guard: dict[str, Any]) -> Table:
    table = Table(title="the guard: a drafter of uniformly random tokens, ÷ autoregressive at p50")
    for heading in ("strategy", "first 10 windows", "after"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right")
    for name, row in guard["strategies"].items():
        table.add_row(name, _number(row["first_10"], 3), _number(row["after_10"], 3))
    return table


def _injected(rows: list[dict[str, Any]]) -> Table:
    """A line each α and c; a cell: measured ÷ autoregressive (the cost model's prediction)."""
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    table = Table(
        title="injected acceptance: time ÷ autoregressive, measured (cost model); the drafter takes time, but no core"
    )
    for heading in ("α, c", "formula S", "formula ÷", *names):
        table.add_column(heading, justify="left" if heading == "α, c" else "right")
    for alpha, ratio in dict.fromkeys((row["alpha"], row["cost_ratio"]) for row in rows):
        here = {row["strategy"]: row for row in rows if (row["alpha"], row["cost_ratio"]) == (alpha, ratio)}
        first = next(iter(here.values()))
        table.add_row(
            f"{alpha}, {ratio} injected",
            _number(first["formula_speedup"], 2),
            _number(first["formula_ratio"], 2),
            *(f"{here[name]['ratio']:.2f} ({here[name]['predicted_ratio']:.2f})" for name in names),
        )
    return table


def _verify_cost(found: dict[str, Any]) -> Table:
    plan = f"the plan takes {found['knee']} rows for free"
    table = Table(title=f"verifying n tokens ÷ one decode step of {found['step_ms']:.2f} ms; {plan}")
    table.add_column("n")
    for rows in found["alone"]:
        table.add_column(str(rows), justify="right")
    table.add_row("alone", *(_number(value, 2) for value in found["alone"].values()))
    table.add_row("in the last prefill chunk", *(_number(value, 2) for value in found["fused"].values()))
    return table


def _rest(figures: dict[str, Any]) -> Table:
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
    for name, cost_us in figures["python_us"].items():
        small.add_row(f"Python beside a forward pass, {name}, µs", _number(cost_us, 0))
    if figures["overhead_ms"]:
        small.add_row("pipeline overhead p50 ms", _number(figures["overhead_ms"]["p50"], 2))
    small.add_row("render 300,000 events ms", _number(figures["render"]["ms"], 2))
    small.add_row("render, loop ÷ ours", _number(figures["render"]["ratio_to_loop"], 1))
    if figures["memory"]:
        small.add_row(
            f"memory growth over {figures['memory']['windows']:.0f} windows", f"{figures['memory']['growth']:.1%}"
        )
        small.add_row("peak resident MiB", _number(figures["memory"]["peak_mib"], 0))
    return small


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.{digits}f}"
