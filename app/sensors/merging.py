"""What every reader of files shares: two streams merged in time, and events that no such sensor can have sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.sensors.contract import Events
from app.sensors.events import cut

BATCH_US = 5_000
LAST_EVENTS = 64  # those that tell where a recording ends
LONGEST_US = 366 * 86_400_000_000  # a longer time range is damage, not a recording


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A frame as stored or captured: sensor time in µs; uint8 [H, W] grey or [H, W, 3] RGB."""

    t_us: int
    image: NDArray[np.uint8]
    exposure_us: int = 0  # 0: unknown


def merged(events: Iterator[Events], frames: Iterator[RawFrame]) -> Iterator[Events | RawFrame]:
    """Both in sensor-time order; a run is cut where a frame falls into it."""
    run, frame = next(events, None), next(frames, None)
    while run is not None or frame is not None:
        if run is None or (frame is not None and frame.t_us <= run.t[0]):
            assert frame is not None
            yield frame
            frame = next(frames, None)
        elif frame is not None and frame.t_us <= run.t[-1]:
            yield cut(run, int(run.t[0]), frame.t_us)
            run = cut(run, frame.t_us, int(run.t[-1]) + 1)
        else:
            yield run
            run = next(events, None)


def sane(run: Events, resolution: tuple[int, int], last_us: int, end_us: int) -> NDArray[np.bool_]:
    """[N]: True for events on a sensor of (width, height), before `end_us`, whose time never falls below `last_us`
    or that of a sane one before."""
    width, height = resolution
    placed = (run.t < end_us) & (run.x >= 0) & (run.x < width) & (run.y >= 0) & (run.y < height)
    ordered: NDArray[np.bool_] = run.t >= np.maximum.accumulate(np.where(placed, run.t, last_us)).clip(last_us)
    return placed & ordered


def end_of(last: NDArray[np.int64]) -> int:
    """One past the time at which a recording ends whose last events have these times: a few of them may be damaged.

    The last one counts that is no earlier than most of them: what lies behind the end is left out as damage, and an
    event whose time fell far back must not take the recording with it.
    """
    return int(last[last >= np.sort(last)[(len(last) - 1) // 2]][-1]) + 1


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
