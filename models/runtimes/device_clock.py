"""When a device was busy, on the host's monotonic clock: events in a stream around each pass, and one to map them by.

Host times of a pass begin before the device does and end after it; what overlaps on a GPU only the GPU knows. An event
is mapped by its distance to a reference event of the same stream, whose instant the host knows because the stream was
idle when it was recorded. Distances are float32 milliseconds and two clocks drift apart, so the reference is renewed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from models.runtimes.nvidia import GpuError

RENEWED_NS = 1_000_000_000  # age of a reference: two clocks may drift apart by some 50 µs a second
KEPT = 4096  # passes, for captions that are still to be made of them

Interval = tuple[int, int]  # monotonic nanoseconds


class Events(Protocol):
    """The events of one stream. All raise GpuError."""

    def record(self) -> Any:
        """An event behind all that is enqueued."""

    def wait(self, event: Any) -> None:
        """Until the device has come to it."""

    def elapsed_ms(self, first: Any, second: Any) -> float:
        """Between two events that the device has come to."""


class DeviceClock:
    """Busy intervals of one stream; without events (`None`) there are none. Used by the thread that enqueues."""

    def __init__(self, events: Events | None, now: Callable[[], int] = time.monotonic_ns) -> None:
        self._events, self._now = events, now
        self._reference: tuple[Any, int] | None = None
        self._busy: deque[Interval] = deque(maxlen=KEPT)

    def follow(self, events: Events | None) -> None:
        """The passes go in another stream from now on."""
        self._events, self._reference = events, None

    def begin(self) -> Any:
        """Before a pass on an idle stream."""
        if self._events is not None and (self._reference is None or self._now() - self._reference[1] > RENEWED_NS):
            self._renew()
        return self.mark()

    def mark(self) -> Any:
        """An event; None without a clock. A clock that fails is given up: it must not cost a caption."""
        try:
            return None if self._events is None else self._events.record()
        except GpuError:
            self._events = None
            return None

    def reached(self) -> Any:
        """`mark`, and wait until the device has come to it."""
        event = self.mark()
        if event is not None and self._events is not None:
            try:
                self._events.wait(event)
            except GpuError:
                self._events = None
        return event

    def between(self, begin: Any, end: Any) -> Interval | None:
        """Two events that the device has come to, on the host's clock; None where there is no clock."""
        if self._events is None or self._reference is None or begin is None or end is None:
            return None
        event, at_ns = self._reference
        try:
            start, stop = (at_ns + round(self._events.elapsed_ms(event, mark) * 1e6) for mark in (begin, end))
        except GpuError:
            self._events = None
            return None
        return start, stop

    def note(self, begin: Any, end: Any) -> None:
        """The device was busy between two events, and has come to both."""
        if interval := self.between(begin, end):
            self._busy.append(interval)

    @property
    def busy(self) -> list[Interval]:
        """The latest intervals, oldest first."""
        return list(self._busy)

    def _renew(self) -> None:
        """The stream is idle, so the event comes to pass between the two readings of the host's clock."""
        assert self._events is not None
        try:
            before = self._now()
            event = self._events.record()
            self._events.wait(event)
            self._reference = event, (before + self._now()) // 2
        except GpuError:
            self._events = None
