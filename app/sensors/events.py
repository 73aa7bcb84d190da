"""Cutting and joining runs of events; a cut is a view and copies nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from app.sensors.contract import Events


def empty() -> Events:
    return Events(np.empty(0, np.int64), np.empty(0, np.int16), np.empty(0, np.int16), np.empty(0, np.uint8))


def select(events: Events, index: slice | NDArray[np.bool_]) -> Events:
    """The events at `index` (a slice or a mask [N])."""
    return Events(events.t[index], events.x[index], events.y[index], events.p[index])


def cut(events: Events, start_us: int, end_us: int) -> Events:
    """The events of [start_us, end_us); `events` must be in time order."""
    first, last = np.searchsorted(events.t, (start_us, end_us))
    return events if first == 0 and last == len(events) else select(events, slice(int(first), int(last)))


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
