"""Which window is captioned next: an `ask` first, then the newest window of the camera that waited longest."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.windows import Window

MOST_ASKS = 4
OVERDUE_NS = 500_000_000  # a window that has not closed so long after its end: its camera may be gone

A = TypeVar("A")


@dataclass(slots=True)
class Counts:
    """What became of the windows of one camera. At the end, arrived = captioned + dropped."""

    arrived: int = 0
    captioned: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Turn:
    """A camera's window, closed or partial, whose turn it is."""

    camera: str
    window: Window


class Scheduler(Generic[A]):
    """Holds the newest closed window of each camera, its newest partial one, and a few asks. Used from one loop.

    A model has one cache: ahead of its end, only the window that ends first is worked on, until it has closed.
    """

    def __init__(self, cameras: list[str]) -> None:
        self._order: deque[str] = deque(cameras)  # the camera served longest ago is first
        self._closed: dict[str, Window] = {}
        self._partial: dict[str, Window] = {}
        self._open: dict[str, int] = {}  # when the window ends that each camera gave out in part, monotonic ns
        self._ahead: str | None = None  # the camera whose open window is in the caches
        self._asks: deque[A] = deque()
        self._changed = asyncio.Event()

    def offer(self, camera: str, window: Window) -> Window | None:
        """Add a window; the closed one that was pushed out for it, if any."""
        self._changed.set()
        if window.partial:
            self._partial[camera], self._open[camera] = window, window.ends_ns
            return None
        self.over(camera)
        pushed_out = self._closed.get(camera)
        self._closed[camera] = window
        return pushed_out

    def over(self, camera: str) -> None:
        """A camera's open window has closed, and need not be offered: nothing is worked on ahead of it any more."""
        self._partial.pop(camera, None)
        if self._open.pop(camera, None) is not None:
            self._changed.set()  # another camera's may be next

    def ask(self, ask: A) -> bool:
        """Add a question; False when too many wait already."""
        if len(self._asks) >= MOST_ASKS:
            return False
        self._asks.append(ask)
        self._changed.set()
        return True

    @property
    def urgent(self) -> bool:
        """Whether something waits that goes before windows that have not closed. Any thread may look."""
        return bool(self._asks or self._closed)

    async def next(self) -> A | Turn:
        """What is next, waiting for it if need be."""
        while (found := self._take()) is None:
            self._changed.clear()
            await self._changed.wait()
        return found

    def clear(self) -> list[Turn]:
        """Every window that waits and has closed, taken out; partial ones are forgotten, asks stay."""
        left = [Turn(camera, window) for camera, window in self._closed.items()]
        self._closed.clear()
        self._partial.clear()
        self._open.clear()
        return left

    def _take(self) -> A | Turn | None:
        if self._asks:
            return self._asks.popleft()
        for camera in self._order:
            if (window := self._closed.pop(camera, None)) is not None:
                self._order.remove(camera)
                self._order.append(camera)
                self._ahead = None  # the caches are the closed window's now
                return Turn(camera, window)
        first = self._ends_first()
        window = self._partial.pop(first, None) if first else None
        return Turn(first, window) if first and window else None

    def _ends_first(self) -> str | None:
        """The camera whose open window may be worked on; the same one until its window has closed, or should have."""
        overdue_ns = time.monotonic_ns() - OVERDUE_NS
        still_open = {camera: ends_ns for camera, ends_ns in self._open.items() if ends_ns > overdue_ns} or self._open
        if self._ahead not in still_open:
            by_end = sorted(self._order, key=lambda camera: still_open.get(camera, sys.maxsize))
            self._ahead = by_end[0] if still_open else None
        return self._ahead
