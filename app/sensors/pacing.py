"""Real-time pacing: a wrapper that lets a recording arrive as its sensor would have sent it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from app.sensors.contract import Events, Item, RecordedSource, SourceError
from app.sensors.wrapping import Wrapper


class Paced(Wrapper):
    """Releases an item when its last sensor time is due: `speed` seconds of recording a second, None for no waiting.

    Every instant is computed from the first item's, so delays never add up: a consumer that fell behind gets the items
    it missed at once and is on time again. Stamps `Frame.arrived_ns` with the instant of release.
    """

    def __init__(self, source: RecordedSource, speed: float | None = 1.0) -> None:
        super().__init__(source)
        if speed is not None and not 0 < speed < float("inf"):
            raise SourceError(f"speed {speed}: must be above 0; `max` replays without waiting")
        self._speed = speed
        self._origin: tuple[int, int] | None = None  # sensor µs, monotonic ns

    def _due_ns(self, t_us: int) -> int | None:
        """The monotonic instant at which sensor time `t_us` is due; None before the first item and without pacing."""
        if self._origin is None or self._speed is None:
            return None
        sensor_us, monotonic_ns = self._origin
        return monotonic_ns + round((t_us - sensor_us) * 1000 / self._speed)

    def now_us(self) -> int | None:
        """The sensor time it is now by this clock (for `Windower.tick`); None before the first item, without pacing."""
        if self._origin is None or self._speed is None:
            return None
        sensor_us, monotonic_ns = self._origin
        return sensor_us + int((time.monotonic_ns() - monotonic_ns) * self._speed / 1000)

    async def __aiter__(self) -> AsyncIterator[Item]:
        async for item in self._source:
            first_us, last_us = (int(item.t[0]), int(item.t[-1])) if isinstance(item, Events) else (item.t_us,) * 2
            if self._origin is None:
                self._origin = first_us, time.monotonic_ns()
            due_ns = self._due_ns(last_us)
            # a late item still yields to the loop: no source may starve publishing
            wait_ns = 0 if due_ns is None else max(0, due_ns - time.monotonic_ns())
            await asyncio.sleep(wait_ns / 1e9)
            yield item if isinstance(item, Events) else replace(item, arrived_ns=time.monotonic_ns())
