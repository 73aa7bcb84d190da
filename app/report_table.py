"""The table that ends a demo or a replay, and the same figures for machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table

from app.comparison import Comparison
from app.telemetry.summary import Percentiles, Report

STAGE_NAMES = {
    "queue": "queue",
    "preprocess": "preprocess",
    "drafter_encode": "drafter encode",
    "drafter_prefill": "drafter prefill",
    "drafter_decode": "drafter decode",
    "target_encode": "target encode",
    "target_prefill": "target prefill",
    "verify": "verify",
    "target_decode": "target decode",
    "total": "total",
    "sensor_to_caption": "sensor to caption",
    "last_frame_to_caption": "last frame to caption",
}
LOST_NAMES = {
    "unusable_events": "events dropped: outside the sensor or out of order",
    "late_events": "events dropped: after their window",
    "late_frames": "frames dropped: after their window",
    "excess_events": "events dropped: over windows.max_events",
    "empty_windows": "windows skipped: nothing in them",
    "dropped_remainders": "ends shorter than half a window",
    "messages_full": "messages dropped: the outbox was full",
    "messages_expired": "messages dropped: too old",
}


def report_table(report: Report, comparison: Comparison | None = None) -> Group:
    """Two small tables; `comparison` is the target by itself on the same windows."""
    alone = comparison.alone.latency_ms if comparison else None
    return Group(_counts(report, comparison), _latencies(report.latency_ms, alone))


def report_json(report: Report, comparison: Comparison | None = None) -> dict[str, Any]:
    """The same figures as plain data."""
    return {**asdict(report), "comparison": asdict(comparison) if comparison else None}


def _counts(report: Report, comparison: Comparison | None) -> Table:
    table = Table(show_header=False, title="captions", title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    dropped = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
    table.add_row("captions", f"{report.captions} ({report.tokens} tokens)")
    table.add_row("windows dropped", dropped or "0")
    for name, count in report.lost.items():
        table.add_row(LOST_NAMES[name], f"{count:,}")
    table.add_row("α, all tokens", _rate(report.alpha))
    table.add_row("α, content words", _rate(report.alpha_content))
    table.add_row("draft acceptance rate", _rate(report.draft_acceptance_rate))
    table.add_row("mean acceptance length", _number(report.mean_acceptance_length))
    table.add_row("hidden tokens a caption", _number(report.hidden_tokens_mean))
    table.add_row("accepted hidden tokens a caption", _number(report.accepted_hidden_tokens_mean))
    if comparison:
        table.add_row("same words as the target alone", f"{comparison.identical} of {comparison.windows}")
    return table


def _latencies(own: Mapping[str, Percentiles], alone: Mapping[str, Percentiles] | None) -> Table:
    """Stages in ms; a stage that did not run is a dash."""
    table = Table(title="latency, ms", title_justify="left")
    table.add_column("stage")
    for column in ("p50", "p95"):
        table.add_column(column, justify="right")
    if alone is not None:
        table.add_column("target alone p50", justify="right")
        table.add_column("p95", justify="right")
    for key, name in STAGE_NAMES.items():
        if key not in own and (alone is None or key not in alone):
            continue
        cells = [*_pair(own.get(key)), *(_pair(alone.get(key)) if alone is not None else ())]
        table.add_row(
            name, *cells, style="bold" if key == "sensor_to_caption" else "", end_section=key == "target_decode"
        )
    return table


def _pair(percentiles: Percentiles | None) -> tuple[str, str]:
    return (f"{percentiles.p50:.1f}", f"{percentiles.p95:.1f}") if percentiles else ("-", "-")


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
