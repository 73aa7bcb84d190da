"""What time it is on a sensor's clock, between two items."""

from __future__ import annotations

import time
from collections import deque

SPAN_NS = 5_000_000_000  # over which the least delay is looked for


class SensorNow:
    """The sensor time it is now, from the items that came with the least delay in the last five seconds.

    The least delay, because a batch that waited says that time is earlier than it is. Half of the span is forgotten at
    a time, so a clock that drifts is followed.
    """

    def __init__(self) -> None:
        self._halves: deque[tuple[int, int]] = deque(maxlen=2)  # (begun at, least of arrival - sensor time), ns

    def observe(self, t_us: int, arrived_ns: int) -> None:
        offset_ns = arrived_ns - t_us * 1000
        if not self._halves or arrived_ns - self._halves[-1][0] > SPAN_NS // 2:
            self._halves.append((arrived_ns, offset_ns))
        elif offset_ns < self._halves[-1][1]:
            self._halves[-1] = self._halves[-1][0], offset_ns

    def offset_us(self) -> int | None:
        """Host-monotonic time less sensor time; None before the first item."""
        return min(offset_ns for _, offset_ns in self._halves) // 1000 if self._halves else None

    def now_us(self) -> int | None:
        """None before the first item."""
        offset_us = self.offset_us()
        return None if offset_us is None else time.monotonic_ns() // 1000 - offset_us
