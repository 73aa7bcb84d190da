"""Refreshes the figures of docs/performance.md: the part between two marks is written anew from what commands measured.

event-captioner bench --peer transformers --json bench.json
event-captioner simulate --json > simulate.json
python -m app.bench.markdown docs/performance.md bench.json simulate.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

BEGIN, END = "<!-- figures: python -m app.bench.markdown -->", "<!-- end of figures -->"


def refresh(page: Path, bench: dict[str, Any], simulation: dict[str, Any] | None) -> None:
    """Replace what is between the marks of `page`. Raises ValueError when they are not there."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: no {BEGIN} … {END} to write the figures between")
    parts = [*_bench(bench), *(_validation(simulation["validation"]) if simulation else ())]
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}", encoding="utf-8")


def _bench(figures: dict[str, Any]) -> Iterator[str]:
    machine = figures["machine"]
    yield (
        f"{machine['processor']}, {machine['cores']} cores, ONNX Runtime {machine.get('onnxruntime')}, "
        f"{figures['windows']} windows, one run. Ratios are to `autoregressive` in this run."
    )
    rows = {
        **figures["strategies"],
        **{f"hiding by {name}": row for name, row in figures["ablation"].items()},
        **figures["placements"],
        **figures["one_thread"],
    }
    headings = (
        "strategy, placement, p50 ms, p95 ms, ÷ alone, ÷ floor, η, η predicted, α, drafts accepted, lossless, ties"
    )
    yield _table(headings.split(", "), [_strategy(name, row) for name, row in rows.items()])
    if history := figures.get("history"):
        yield "**The caption history**, `prefill_hiding` with all sources:"
        shown = [(name, str(row["windows"]), _number(row["floor_ratio"])) for name, row in history.items()]
        yield _table(("windows whose caption is", "windows", "time ÷ target prefill"), shown)
    guard = figures["guard"]
    yield "**The guard**, drafter of uniformly random tokens, time ÷ `autoregressive`:"
    shown = [
        (name, _number(row["first_10"], 3), _number(row["after_10"], 3)) for name, row in guard["strategies"].items()
    ]
    yield _table(("strategy", "first 10 windows", "after"), shown)
    if injected := figures.get("injected"):
        yield "**Injected acceptance**, time ÷ `autoregressive`, measured (cost model); the drafter takes no core:"
        yield _injected(injected)
    cost = figures["verify_cost"]
    yield f"**Verifying n tokens** ÷ one decode step ({cost['step_ms']:.2f} ms); the plan's knee: {cost['knee']} rows:"
    curves = [(form, *(_number(value) for value in cost[form].values())) for form in ("alone", "fused")]
    yield _table(("n", *map(str, cost["alone"])), curves)
    yield _table(("figure", "measured"), list(_rest(figures)))


def _strategy(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        row["placement"] or "–",
        _number(row["caption_ms"]["p50"], 1),
        _number(row["caption_ms"]["p95"], 1),
        *(_number(row[key]) for key in ("ratio", "floor_ratio", "eta", "eta_predicted")),
        _number(row["alpha"], 3),
        _number(row["draft_acceptance_rate"]),
        "yes" if row["lossless"] else f"**no: {row['mismatches']}**",
        str(row["ties"]),
    )


def _injected(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    shown = []
    for alpha, ratio in dict.fromkeys((row["alpha"], row["cost_ratio"]) for row in rows):
        here = {row["strategy"]: row for row in rows if (row["alpha"], row["cost_ratio"]) == (alpha, ratio)}
        cells = (f"{_number(here[name]['ratio'])} ({_number(here[name]['predicted_ratio'])})" for name in names)
        formula = _number(next(iter(here.values()))["formula_ratio"])
        shown.append((f"α {alpha}, c {ratio} injected", formula, *cells))
    return _table(("", "formula", *names), shown)


def _rest(figures: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, peer in figures["peers"].items():
        yield f"{name} `generate` ÷ `autoregressive`", _number(peer["autoregressive_ratio"])
        yield f"{name} `generate` ÷ `prefill_hiding`", _number(peer["ratio"])
        yield f"tokens identical to {name}", "yes" if peer["token_identical"] else f"no: {peer['mismatches']}"
    yield (
        "target prefill beside the running drafter ÷ alone, one thread a model",
        _number(figures["ratios"]["overlap/alone"]),
    )
    if streamed := figures["streaming_prefill"]:
        different = f", words differ {streamed['mismatches']} times" if streamed["mismatches"] else ""
        times = " to ".join(_number(streamed[f"{way}_ms"]["p50"], 1) for way in ("whole", "streaming"))
        yield (
            "streaming ÷ whole-window prefill, last frame to caption (p50 ms)",
            f"{_number(streamed['ratio'])} ({times}){different}",
        )
    yield "decode step ÷ (weight bytes ÷ memory bandwidth)", _number(figures["decode_step"]["ratio"])
    if python := figures["python_us"]:
        worst = max(python, key=lambda name: python[name])
        yield (
            f"Python beside a forward pass, µs: median of the strategies (most: {worst})",
            (f"{_number(median(python.values()), 0)} ({_number(python[worst], 0)})"),
        )
    if overhead := figures["overhead_ms"]:
        yield "everything but models, rendering and preprocessing, p50 ms", _number(overhead["p50"], 1)
    yield "300,000 events into five frames, ms", _number(figures["render"]["ms"], 1)
    if memory := figures["memory"]:
        yield f"growth of resident memory over {memory['windows']:.0f} windows", f"{memory['growth']:.1%}"


def _validation(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"**The cost model against this machine**, guard off, event drafter alone, {found['windows']} windows, "
        f"α {found['alpha']:.3f}, {found['when']}:"
    )
    rows = []
    for row in found["rows"]:
        times = _number(row["predicted_ms"], 1), _number(row["measured_ms"], 1)
        rows.append((row["strategy"], row["placement"] or "–", *times, f"{row['error']:+.0%}"))
    yield _table(("strategy", "placement", "predicted ms", "measured ms", "error"), rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    page, *found = map(Path, sys.argv[1:])
    read = [json.loads(path.read_text()) for path in found]
    refresh(page, read[0], read[1] if len(read) > 1 else None)
