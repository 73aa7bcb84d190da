"""When the GPU itself was busy with a stage, by its own events: spans on lanes of their own, below those of the host.

A host's span holds what the host waited for, the other model's pass included. Only what the device tells shows how much
of two models' work really ran at once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter

from app.telemetry.spans import Span, overlap_ms

ON_DEVICE = " gpu"  # behind the name of a model's lane


def device_spans(spans: Sequence[Span], lane: str, busy: Sequence[tuple[int, int]]) -> list[Span]:
    """A device's busy intervals (monotonic ns, oldest first) as spans of the stages that the lane's host spans tell.

    An interval belongs to the stage that holds its middle; what is in none was done for another window.
    """
    stages = sorted((span for span in spans if span.lane == lane), key=lambda span: span.start_ns)
    starts = [span.start_ns for span in stages]
    found = []
    for start_ns, end_ns in busy[bisect_left(busy, starts[0], key=itemgetter(1)) :] if starts else ():
        middle = (start_ns + end_ns) // 2
        place = bisect_right(starts, middle) - 1
        if place >= 0 and middle <= stages[place].end_ns:
            found.append(Span(stages[place].name, lane + ON_DEVICE, start_ns, end_ns))
    return found


def device_overlap_ms(spans: Sequence[Span]) -> float | None:
    """Milliseconds in which the GPU was busy with both models at once; None where it did not tell of both."""
    lanes = {span.lane for span in spans}
    drafter, target = "drafter" + ON_DEVICE, "target" + ON_DEVICE
    return overlap_ms(list(spans), drafter, target) if {drafter, target} <= lanes else None
