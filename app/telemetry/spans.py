"""Spans: what ran, on which lane, from when to when, on the monotonic clock. Durations alone cannot show overlap."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

Detail = Mapping[str, int | float | str]
NO_DETAIL: Detail = MappingProxyType({})


class Span(NamedTuple):
    """One stage: lane is `drafter`, `target`, `host` or a sensor's name; start and end are monotonic nanoseconds."""

    name: str
    lane: str
    start_ns: int
    end_ns: int
    detail: Detail = NO_DETAIL

    @property
    def ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


class SpanRecorder:
    """Collects the spans of one window; list.append is atomic, so both workers write without a lock."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def span(self, name: str, lane: str, **detail: int | float | str) -> Running:
        """Around a stage, with what it worked on."""
        return Running(self, name, lane, detail)


class Running:
    """A stage that is recorded when it ends. (A generator as context manager takes four times as long.)"""

    __slots__ = ("_detail", "_lane", "_name", "_recorder", "_start_ns")

    def __init__(self, recorder: SpanRecorder, name: str, lane: str, detail: Detail) -> None:
        self._recorder, self._name, self._lane, self._detail = recorder, name, lane, detail

    def __enter__(self) -> None:
        self._start_ns = time.monotonic_ns()

    def __exit__(self, *_: object) -> None:
        self._recorder.spans.append(Span(self._name, self._lane, self._start_ns, time.monotonic_ns(), self._detail))


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
