"""Small recordings and sources for the sensor tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import numpy as np

from app.sensors.contract import Events, Frame, Item, RecordedSource, SourceInfo
from app.sensors.writer import write_recording

START_US = 1_700_000_000_000_000
SIZE = (32, 24)


def items(seconds: float, events: bool = True, frames: bool = True, grey: bool = False) -> Iterator[Item]:
    """10,000 events a second in runs of 20 ms, and a frame every 50 ms whose red tells its number."""
    rng = np.random.default_rng(1)
    for start in range(0, round(seconds * 1e6), 10_000):
        if frames and start % 50_000 == 0:
            image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
            image[:, :, 0] = start // 50_000
            yield Frame(START_US + start, np.repeat(image[:, :, :1], 3, axis=2) if grey else image, grey=grey)
        if events and start % 20_000 == 0:
            t = np.sort(rng.integers(start, start + 10_000, 200)) + START_US
            x, y = rng.integers(0, SIZE[0], 200), rng.integers(0, SIZE[1], 200)
            yield Events(t, x.astype(np.int16), y.astype(np.int16), rng.integers(0, 2, 200).astype(np.uint8))


def recording(path: Path, seconds: float = 1.0, events: bool = True, frames: bool = True, grey: bool = False) -> Path:
    write_recording(path, items(seconds, events, frames, grey), SIZE, "TEST_1")
    return path


class Listed:
    """A source of items that are known beforehand."""

    ended_early: str | None = None
    notes: tuple[str, ...] = ()
    dropped_events = 0

    def __init__(self, what: Sequence[Item], end_us: int) -> None:
        self._what = what
        self.info = SourceInfo("listed", SIZE, True, True, False, START_US, end_us)
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[Item]:
        for item in self._what:
            yield item

    async def close(self) -> None:
        self.closed = True


def read(source: RecordedSource) -> list[Item]:
    """Everything, checked to be in time order, and the source closed."""

    async def all_of_it() -> list[Item]:
        found = [item async for item in source]
        await source.close()
        return found

    found = asyncio.run(all_of_it())
    last_us = -1
    for item in found:
        assert first_us(item) >= last_us
        last_us = int(item.t[-1]) if isinstance(item, Events) else item.t_us
    return found


def first_us(item: Item) -> int:
    return int(item.t[0]) if isinstance(item, Events) else item.t_us


def events_of(found: Sequence[Item]) -> Events:
    runs = [item for item in found if isinstance(item, Events)]
    return Events(*(np.concatenate([getattr(run, column) for run in runs]) for column in ("t", "x", "y", "p")))


def frames_of(found: Sequence[Item]) -> list[Frame]:
    return [item for item in found if isinstance(item, Frame)]
