"""What one caption describes: a span of sensor time with its events and its frames."""

from __future__ import annotations

from dataclasses import dataclass

from app.sensors.contract import Events, Frame
from app.sensors.events import cut, last_us


@dataclass(frozen=True, slots=True)
class WindowFrame:
    """A frame chosen for a window; `repeat` when it stands in for a missing one."""

    frame: Frame
    repeat: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """The span of sensor time one caption describes, [start_us, end_us)."""

    index: int
    start_us: int
    end_us: int
    events: Events  # every event of the window (so far, when partial); `Runs` that are joined where they are used
    frames: tuple[WindowFrame, ...]  # the eight for the target, evenly spaced; empty when there are none
    unused_frames: tuple[Frame, ...]  # frames of the window that were not chosen
    resolution: tuple[int, int]
    closed_ns: int  # monotonic instant at which the window was complete
    partial: bool = False  # given out before it closed, with what there was of it
    draft_due: bool = True  # of a partial one: `lead` before its end, or later; its events are those until then
    notes: tuple[str, ...] = ()  # what a reader should know: "frames repeated", "shorter than configured", …
    dropped_events: int = 0  # events of the window that were let go for the limit, the oldest
    ends_ns: int = 0  # live, of a partial one: monotonic instant of its end, as the quickest arrivals have it
    lag_ms: float = 0.0  # live: from its end, as the quickest arrivals have it, until it closed: time lost on the way


def drafter_events(window: Window, span_us: int) -> Events:
    """The last `span_us` of what a window holds: before its end, or before its last event where it is partial."""
    if not len(window.events):
        return window.events
    end_us = last_us(window.events) + 1 if window.partial else window.end_us
    return cut(window.events, max(window.start_us, end_us - span_us), end_us)
