"""What a source is: sensor time is integer microseconds on the sensor's own clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class SourceError(Exception):
    """A source cannot be opened or read: one line that says what, where and what to do."""


@dataclass(frozen=True, slots=True)
class Events:
    """A run of events in time order: t int64 µs, x and y int16 pixels, p uint8 in {0, 1}; all of one length."""

    t: NDArray[np.int64]
    x: NDArray[np.int16]
    y: NDArray[np.int16]
    p: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.t)


@dataclass(frozen=True, slots=True)
class Frame:
    """One RGB image: uint8 [H, W, 3], its sensor time, and when it reached this process (monotonic ns).

    `t_us` is the start of its exposure where `exposure_us` is known, else whatever instant the camera names.
    """

    t_us: int
    image: NDArray[np.uint8]
    arrived_ns: int = 0
    grey: bool = False  # the sensor gave one channel; it was repeated three times
    exposure_us: int = 0  # how long it gathered light; 0: unknown

    @property
    def middle_us(self) -> int:
        """The instant it shows: the middle of its exposure."""
        return self.t_us + self.exposure_us // 2


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source knows of itself before it runs."""

    name: str
    resolution: tuple[int, int]  # (width, height) of the event sensor
    has_events: bool
    has_frames: bool
    live: bool
    start_us: int | None = None  # recordings: first and one past the last sensor time
    end_us: int | None = None
    one_clock: bool = True  # False: the frames come from a second device, in order, each with its own clock's time
    one_stream: bool = True  # False: events and frames are each in order, and may overtake one another


Item = Events | Frame


class Source(Protocol):
    """Yields events and frames in sensor-time order (small batches, ≤ 20 ms each), until the stream ends."""

    @property
    def info(self) -> SourceInfo: ...

    def __aiter__(self) -> AsyncIterator[Item]: ...

    async def close(self) -> None:
        """Release the device or file; a closed source may not be iterated again."""


@runtime_checkable
class CapturedSource(Source, Protocol):
    """A source that reads devices and goes on without one of them."""

    @property
    def trouble(self) -> Mapping[str, str]:
        """`events` or `frames` → why there are none, while it is so."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """`events` and `frames` that it left out so far: out of order, or not read in time."""


class RecordedSource(Source, Protocol):
    """A source that replays something finite and can say what was wrong or missing with it."""

    @property
    def ended_early(self) -> str | None:
        """Why the stream ended before the recording's intended end; None while it runs and after a clean end."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know: "no events: the target captions alone", …; some are only known at the end."""

    @property
    def dropped_events(self) -> int:
        """Events that were not played: outside the sensor or out of time order. Known at the end."""
