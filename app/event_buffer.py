"""The events of the windows that are still open: kept as they came, bounded, and cut without a copy."""

from __future__ import annotations

from collections import deque

from app.sensors.contract import Events
from app.sensors.events import Runs, cut, in_order, select, within


class EventBuffer:
    """Runs of events in time order, at most `most` events after `limit`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._runs: deque[Events] = deque()  # none of them empty
        self.count = 0
        self.last_us: int | None = None  # of the newest event there ever was
        self.late = 0  # dropped: they ran backwards, or their windows had closed

    def __len__(self) -> int:
        return len(self._runs)

    def keep(self, events: Events, from_us: int) -> None:
        """Keep what is in order and not before `from_us`; the rest is counted as late."""
        floor_us = from_us if self.last_us is None else max(self.last_us, from_us)
        kept = in_order(events)
        kept = cut(kept, floor_us, int(kept.t[-1]) + 1)
        self.late += len(events) - len(kept)
        if len(kept):
            self.last_us = int(kept.t[-1])
            self._runs.append(kept)
            self.count += len(kept)

    def limit(self) -> list[Events]:
        """Let the oldest events over the limit go; they, in order."""
        gone: list[Events] = []
        while (over := self.count - self._most) > 0:
            run = self._runs.popleft()
            if len(run) > over:
                self._runs.appendleft(select(run, slice(over, None)))
                run = select(run, slice(over))
            self.count -= len(run)
            gone.append(run)
        return gone

    def between(self, start_us: int, end_us: int) -> Runs:
        """The events of [start_us, end_us); nothing is copied."""
        return Runs(within(self._runs, start_us, end_us))

    def first_us(self, from_us: int) -> int | None:
        """The time of the first event at or after `from_us`; None where there is none."""
        for run in self._runs:
            if run.t[-1] >= from_us:
                return int(cut(run, from_us, int(run.t[-1]) + 1).t[0])
        return None

    def forget(self, before_us: int) -> None:
        """Let go of what is before `before_us`: it must not count against the limit any more."""
        while self._runs and self._runs[0].t[-1] < before_us:
            self.count -= len(self._runs.popleft())
        if self._runs:
            run = self._runs[0]
            self._runs[0] = cut(run, before_us, int(run.t[-1]) + 1)
            self.count -= len(run) - len(self._runs[0])

    def clear(self) -> None:
        self._runs.clear()
        self.count = 0
