"""Looping: a recording again and again, on one sensor clock that never runs backwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from app.sensors.contract import Events, Item, RecordedSource, SourceError, SourceInfo
from app.sensors.events import shifted
from app.sensors.wrapping import Wrapper


class Looped(Wrapper):
    """Plays what `factory` opens `loops` times (0: for ever), each pass starting where the last one ended.

    A pass that ended early ends the loop's pass there; `ended_early` keeps telling so.
    """

    def __init__(self, factory: Callable[[], RecordedSource], loops: int = 0) -> None:
        super().__init__(factory())
        self._factory, self._loops = factory, loops
        self._first_info = self._source.info
        self._dropped = 0  # in the passes before this one
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
    def dropped_events(self) -> int:
        return self._dropped + self._source.dropped_events

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
            source = await self._open()
            self._dropped += self._source.dropped_events
            self._source = source
            shift_us = end_us - (self._source.info.start_us or 0)

    async def _open(self) -> RecordedSource:
        """The next pass. Cancelled meanwhile, it waits for what the thread opens and closes that."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._factory))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            with contextlib.suppress(SourceError):
                await (await opening).close()
            raise

    async def close(self) -> None:
        self._closed = True
        await super().close()
