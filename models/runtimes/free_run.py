"""A greedy run on a device that never waits for the host: a few steps are always under way ahead of the reader."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Protocol

from models.runtimes.contract import Likeliest

AHEAD = 2  # steps under way: one that the device is in, and one behind it; all that a run which is ended wastes


class Mark(Protocol):
    """A place in the order of a device's work."""

    def wait(self) -> None:
        """Until the device has come to it."""


def run_ahead(enqueue: Callable[[int], Mark], read: Callable[[int], Likeliest], count: int) -> Generator[Likeliest]:
    """`count` steps, each enqueued while the one before it runs, and read when it is done.

    Closing the iterator waits for the steps under way: nothing that they write is touched before.
    """
    under_way: deque[Mark] = deque()
    try:
        for k in range(count):
            while len(under_way) < min(AHEAD, count - k):
                under_way.append(enqueue(k + len(under_way)))
            under_way.popleft().wait()
            yield read(k)
    finally:
        for mark in under_way:
            mark.wait()
