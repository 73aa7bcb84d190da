"""The demo street as a sensor: events and colour frames, from a seed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import numpy as np

from app.sensors.contract import Events, Frame, Item, SourceInfo
from models.demo.world.geometry import HEIGHT, WIDTH
from models.demo.world.simulator import Simulator

START_US = 1_767_225_600_000_000  # 2026-01-01 00:00 UTC: recordings carry time since the Unix epoch
RESOLUTION = (WIDTH, HEIGHT)


def synthetic_items(seed: int, seconds: float | None) -> Iterator[Item]:
    """What the two sensors give in order, for `seconds` of sensor time (None: for ever); same seed, same items."""
    end_us = None if seconds is None else round(seconds * 1e6)
    for chunk in Simulator(seed):
        if end_us is not None and chunk.start_us >= end_us:
            return
        if chunk.frame is not None:
            yield Frame(chunk.frame.t_us + START_US, chunk.frame.pixels, time.monotonic_ns())
        found = chunk.events if end_us is None else chunk.events[chunk.events["t"] < end_us]
        if len(found):
            x, y, p = (np.ascontiguousarray(found[column]) for column in ("x", "y", "p"))
            yield Events(found["t"] + START_US, x, y, p)


class Synthetic:
    """A live source that needs no hardware. It runs as fast as it is read: wrap it in `Paced` for real time."""

    ended_early: str | None = None
    notes: tuple[str, ...] = ()
    dropped_events = 0

    def __init__(self, seed: int = 0, seconds: float | None = None) -> None:
        self._items = synthetic_items(seed, seconds)
        end_us = None if seconds is None else START_US + round(seconds * 1e6)
        self._info = SourceInfo(f"SYNTHETIC_{seed}", RESOLUTION, True, True, True, START_US, end_us)
        self._closed = False

    @property
    def info(self) -> SourceInfo:
        return self._info

    async def __aiter__(self) -> AsyncIterator[Item]:
        while not self._closed and (item := await asyncio.to_thread(next, self._items, None)) is not None:
            yield item

    async def close(self) -> None:
        self._closed = True
