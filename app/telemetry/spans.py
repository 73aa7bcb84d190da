"""Spans: what ran, on which lane, from when to when, on the monotonic clock. Durations alone cannot show overlap."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """One stage: lane is `drafter`, `target`, `host` or a sensor's name; start and end are monotonic nanoseconds."""

    name: str
    lane: str
    start_ns: int
    end_ns: int
    detail: dict[str, int | float | str] = field(default_factory=dict)

    @property
    def ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


class SpanRecorder:
    """Collects the spans of one window; list.append is atomic, so both workers write without a lock."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    @contextmanager
    def span(self, name: str, lane: str, **detail: int | float | str) -> Iterator[None]:
        start = time.monotonic_ns()
        try:
            yield
        finally:
            self.spans.append(Span(name, lane, start, time.monotonic_ns(), detail))


def overlap_ms(spans: list[Span], first: str = "drafter", second: str = "target") -> float:
    """Milliseconds during which a span of both lanes was running (spans of one lane do not nest)."""
    a, b = (sorted((s.start_ns, s.end_ns) for s in spans if s.lane == lane) for lane in (first, second))
    total = i = j = 0
    while i < len(a) and j < len(b):
        total += max(0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1
    return total / 1e6
