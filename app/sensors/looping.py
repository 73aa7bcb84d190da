"""Looping: a recording again and again, on one sensor clock that never runs backwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from app.sensors.contract import Events, Item, RecordedSource, SourceInfo
from app.sensors.events import shifted


class Looped:
    """Plays what `factory` opens `loops` times (0: for ever), each pass starting where the last one ended.

    A pass that ended early ends the loop's pass there; `ended_early` keeps telling so.
    """

    def __init__(self, factory: Callable[[], RecordedSource], loops: int = 0) -> None:
        self._factory, self._loops = factory, loops
        self._source = factory()
        self._first_info = self._source.info
        self._closed = False

    @property
    def info(self) -> SourceInfo:
        """Of the first pass, ending after the last one (None for ever)."""
        info = self._first_info
        if info.start_us is None or info.end_us is None:
            return info
        span_us = info.end_us - info.start_us
        return replace(info, end_us=info.start_us + self._loops * span_us if self._loops else None)

    @property
    def ended_early(self) -> str | None:
        return self._source.ended_early

    @property
    def notes(self) -> tuple[str, ...]:
        return self._source.notes

    async def __aiter__(self) -> AsyncIterator[Item]:
        shift_us, done = 0, 0
        while not self._closed:
            last_us = None
            async for item in self._source:
                if isinstance(item, Events):
                    item = shifted(item, shift_us) if shift_us else item
                    last_us = int(item.t[-1])
                else:
                    item = replace(item, t_us=item.t_us + shift_us)
                    last_us = item.t_us
                yield item
            done += 1
            if last_us is None or done == self._loops or self._closed:
                return  # an empty pass would loop without end
            info = self._source.info
            end_us = max(last_us + 1, (info.end_us or 0) + shift_us)
            await self._source.close()
            self._source = await asyncio.to_thread(self._factory)
            shift_us = end_us - (self._source.info.start_us or 0)

    async def close(self) -> None:
        self._closed = True
        await self._source.close()
