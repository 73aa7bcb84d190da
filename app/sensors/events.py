"""Cutting and joining runs of events; a cut is a view and copies nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from app.sensors.contract import Events


class Runs(Events):
    """Runs that follow one another in time, as one: joined when a column is first asked for, by who asks.

    So it costs the event loop nothing to cut a window, however many events it holds. `len` and `cut` join nothing.
    """

    __slots__ = ("_runs",)

    def __init__(self, runs: Sequence[Events]) -> None:
        object.__setattr__(self, "_runs", tuple(run for run in runs if len(run)))

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    @property
    def runs(self) -> tuple[Events, ...]:
        found: tuple[Events, ...] = object.__getattribute__(self, "_runs")
        return found

    def joined(self) -> Events:
        """All in one piece, from now on."""
        if len(self.runs) != 1:
            object.__setattr__(self, "_runs", (join(self.runs),))
        return self.runs[0]

    @property
    def t(self) -> NDArray[np.int64]:
        return self.joined().t

    @property
    def x(self) -> NDArray[np.int16]:
        return self.joined().x

    @property
    def y(self) -> NDArray[np.int16]:
        return self.joined().y

    @property
    def p(self) -> NDArray[np.uint8]:
        return self.joined().p


def empty() -> Events:
    return Events(np.empty(0, np.int64), np.empty(0, np.int16), np.empty(0, np.int16), np.empty(0, np.uint8))


def select(events: Events, index: slice | NDArray[np.bool_]) -> Events:
    """The events at `index` (a slice or a mask [N])."""
    return Events(events.t[index], events.x[index], events.y[index], events.p[index])


def cut(events: Events, start_us: int, end_us: int) -> Events:
    """The events of [start_us, end_us); `events` must be in time order."""
    if isinstance(events, Runs):
        return Runs(within(events.runs, start_us, end_us))
    first, last = np.searchsorted(events.t, (start_us, end_us))
    return events if first == 0 and last == len(events) else select(events, slice(int(first), int(last)))


def within(runs: Sequence[Events], start_us: int, end_us: int) -> list[Events]:
    """What runs that follow one another in time, none of them empty, hold of [start_us, end_us)."""
    first = bisect_left(runs, start_us, key=lambda run: run.t[-1])
    last = bisect_left(runs, end_us, first, key=lambda run: run.t[0])
    found = list(islice(runs, first, last))
    if found:
        found[0] = cut(found[0], start_us, end_us)
        found[-1] = cut(found[-1], start_us, end_us)
    return found


def thinned(events: Events, step: int) -> Events:
    """Every `step`-th event, the first one included."""
    kept, ahead = [], 0  # events of the next run before the next one that is kept
    for run in events.runs if isinstance(events, Runs) else (events,):
        kept.append(select(run, slice(ahead, None, step)))
        ahead = (ahead - len(run)) % step
    return join(kept)


def last_us(events: Events) -> int:
    """The time of the last event; `events` must not be empty."""
    return int((events.runs[-1] if isinstance(events, Runs) else events).t[-1])


def in_order(events: Events) -> Events:
    """The events without those whose time runs backwards; the very same ones where none does."""
    ahead = events.t >= np.maximum.accumulate(events.t)
    return events if ahead.all() else select(events, ahead)


def join(runs: Sequence[Events]) -> Events:
    """Runs that follow one another in time as one."""
    runs = [run for run in runs if len(run)]
    if not runs:
        return empty()
    if len(runs) == 1:
        return runs[0]
    return Events(
        np.concatenate([r.t for r in runs]),
        np.concatenate([r.x for r in runs]),
        np.concatenate([r.y for r in runs]),
        np.concatenate([r.p for r in runs]),
    )


def batches(events: Events, origin_us: int, step_us: int) -> Iterator[Events]:
    """Cut at every multiple of `step_us` after `origin_us`; empty batches are left out.

    A fixed grid lets batches end where windows end, so that no window waits for the rest of a batch.
    """
    cell = (events.t - origin_us) // step_us
    bounds = [0, *(np.flatnonzero(np.diff(cell)) + 1).tolist(), len(events)]
    for first, last in pairwise(bounds):
        if last > first:
            yield select(events, slice(first, last))


def shifted(events: Events, by_us: int) -> Events:
    return Events(events.t + by_us, events.x, events.y, events.p)
