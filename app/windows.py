"""Cuts synchronised windows out of a stream of events and frames."""

from __future__ import annotations

from dataclasses import dataclass

from app.sensors.contract import Events, Frame


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
    events: Events  # every event of the window (so far, when partial)
    frames: tuple[WindowFrame, ...]  # the eight for the target, evenly spaced; empty when there are none
    unused_frames: tuple[Frame, ...]  # frames of the window that were not chosen
    resolution: tuple[int, int]
    closed_ns: int  # monotonic instant at which the window was complete
    partial: bool = False  # cut `lead` before the end, for a draft made ahead
    notes: tuple[str, ...] = ()  # what a reader should know: "frames repeated", "shorter than configured", …
