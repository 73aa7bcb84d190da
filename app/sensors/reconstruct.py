"""Grey frames rendered from events, for recordings that have none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.sensors.contract import Events, Frame, Item, RecordedSource, SourceInfo
from app.sensors.events import cut
from app.sensors.wrapping import Wrapper

FPS = 20.0
DECAY_US = 150_000  # an edge fades to 1/e in this time
LONGEST_GAP_US = 2_000_000  # without events for longer: no frames are rendered for the rest of the gap
MID_GREY = 127.5


class Reconstructed(Wrapper):
    """Adds a frame every 1/fps seconds: a leaky sum of polarities around mid grey, scaled by its own 99th percentile.

    It shows edges that moved, not intensities. The recording's own frames give way.
    """

    def __init__(self, source: RecordedSource, fps: float = FPS) -> None:
        super().__init__(source)
        self._period_us = round(1e6 / fps)
        width, height = source.info.resolution
        self._state = np.zeros((height, width), np.float32)  # leaky sum at _at_us
        self._at_us: int | None = None
        self._due_us: int | None = None  # when the next frame is

    @property
    def info(self) -> SourceInfo:
        return replace(self._source.info, has_frames=True)

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._source.notes, "frames are reconstructed from events: edges, not what a camera would have seen")

    def _add(self, events: Events) -> None:
        """Bring the sum to the run's last instant."""
        now_us = int(events.t[-1])
        height, width = self._state.shape
        self._state *= np.exp((self._at(now_us) - now_us) / DECAY_US)
        weights = np.exp((events.t - now_us) / DECAY_US) * np.where(events.p > 0, 1.0, -1.0)
        flat = events.y.astype(np.int64) * width + events.x
        self._state += np.bincount(flat, weights, height * width).reshape(height, width).astype(np.float32)
        self._at_us = now_us

    def _at(self, now_us: int) -> int:
        return now_us if self._at_us is None else self._at_us

    def _render(self, t_us: int) -> Frame:
        scale = float(np.percentile(np.abs(self._state[self._state != 0]), 99)) if self._state.any() else 1.0
        # fading to grey in a still scene is meant: below half an event's weight, noise would be blown up
        faded = self._state * np.float32(np.exp((self._at(t_us) - t_us) / DECAY_US))
        grey: NDArray[np.uint8] = np.clip(MID_GREY + faded * (MID_GREY / max(scale, 0.5)), 0, 255).astype(np.uint8)
        return Frame(t_us, np.repeat(grey[:, :, None], 3, axis=2), time.monotonic_ns(), grey=True)

    def _with_frames(self, item: Events) -> list[Item]:
        """The run, cut where frames are due, with those frames; a gap adds at most LONGEST_GAP_US of them."""
        made: list[Item] = []
        first_us, last_us = int(item.t[0]), int(item.t[-1])
        due_us = first_us + self._period_us if self._due_us is None else self._due_us
        if first_us - self._at(first_us) > LONGEST_GAP_US:
            while due_us <= self._at(first_us) + LONGEST_GAP_US:
                made.append(self._render(due_us))
                due_us += self._period_us
            due_us += -(-(first_us - due_us) // self._period_us) * self._period_us
        while due_us <= last_us:
            before = cut(item, int(item.t[0]), due_us)
            if len(before):
                self._add(before)
                made.append(before)
            made.append(self._render(due_us))
            item = cut(item, due_us, last_us + 1)
            due_us += self._period_us
        self._add(item)
        self._due_us = due_us
        return [*made, item]

    async def __aiter__(self) -> AsyncIterator[Item]:
        async for item in self._source:
            if isinstance(item, Events):
                for made in await asyncio.to_thread(self._with_frames, item):  # rendering takes milliseconds
                    yield made
