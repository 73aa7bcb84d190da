"""Streaming prefill against whole-window prefill: from the last frame to the verified caption, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from rich.table import Table

from app.bench.figures import percentiles
from app.bench.lanes import TIE, Pair, first_difference
from app.bench.windows import BenchWindow
from app.captioner import Captioner, CaptionerSettings
from app.decoding.costs import Costs
from app.records import Caption
from app.sensors.events import empty


def measure(
    models: Pair,
    settings: CaptionerSettings,
    costs: Costs,
    windows: Sequence[BenchWindow],
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Caption every window twice, by turns; the window closes with its last frame, the hardest case for streaming.

    All frames but the last come before, and the draft has its lead, as a live camera would let it. None where the
    target cannot prefill frames one by one.
    """
    if not models[1].frames_alone:
        return None
    with ExitStack() as stack:
        made = []
        for streaming in (False, True):
            made.append(Captioner(*models, replace(settings, streaming=streaming), costs=costs))
            stack.callback(made[-1].close)
        for captioner in made:
            for window in windows[:2]:  # to be warm
                _caption(captioner, window)
        captions: tuple[list[Caption], list[Caption]] = ([], [])
        for number, window in enumerate(windows):
            for which in (0, 1) if number % 2 else (1, 0):
                captions[which].append(_caption(made[which], window))
                progress()
    return _figures(*captions)


def _caption(captioner: Captioner, window: BenchWindow) -> Caption:
    closed = window.closed
    if captioner.streams:
        for count in range(1, len(closed.frames)):
            early = replace(closed, frames=closed.frames[:count], events=empty(), partial=True, draft_due=False)
            captioner.ahead(early)
    if window.partial and captioner.drafts_ahead:
        captioner.draft_ahead(window.partial)
        time.sleep(captioner.lead_ms / 1e3)
    return captioner.caption(closed)


def _figures(whole: Sequence[Caption], streaming: Sequence[Caption]) -> dict[str, Any]:
    ms = [[(c.finished_ns - c.started_ns) / 1e6 for c in captions] for captions in (whole, streaming)]
    different = [
        one.gaps[place]
        for one, other in zip(whole, streaming, strict=True)
        if (place := first_difference(one.token_ids, other.token_ids)) is not None
    ]
    return {
        "windows": len(whole),
        "whole_ms": percentiles(ms[0]),
        "streaming_ms": percentiles(ms[1]),
        "ratio": float(np.median(ms[1]) / np.median(ms[0])),
        "streamed_frames": float(np.mean([c.stats.streamed_frames for c in streaming])),
        "mismatches": sum(gap > TIE for gap in different),
        "ties": sum(gap <= TIE for gap in different),
    }


def streaming_table(found: dict[str, Any]) -> Table:
    """The study as a table of one row a way of prefilling."""
    title = f"from the last frame to the verified caption, ms, {found['windows']} windows"
    table = Table(title=title)
    for heading in ("prefill", "p50", "p95", "÷ whole", "same words"):
        table.add_column(heading, justify="left" if heading == "prefill" else "right")
    same = f"NO: {found['mismatches']}" if found["mismatches"] else f"yes, {found['ties']} ties"
    rows = (("whole", "whole_ms", "1.00", ""), ("streaming", "streaming_ms", f"{found['ratio']:.2f}", same))
    for name, key, ratio, words in rows:
        table.add_row(name, f"{found[key]['p50']:.1f}", f"{found[key]['p95']:.1f}", ratio, words)
    return table
