"""A live source whose faults a test can order, and the service around it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from app.captioner import Captioner, CaptionerSettings
from app.config import Config
from app.decoding.costs import Costs
from app.live.build import Start, build
from app.live.service import Service
from app.publishing.commands import Commander
from app.sensors.contract import Events, Frame, Item, SourceError, SourceInfo
from models.bundle import VisionLanguageModel

PERIOD_US = 50_000


@dataclass
class Switch:
    """What is wrong with a feed, for as long as a test says so."""

    events: bool = True
    frames: bool = True
    frozen: bool = False
    error: str | None = None  # raised by the next item, and by opening
    frame_clock_us: int | None = None  # of two devices: what the frames' clock is behind the events'
    frames_late_us: int = 0  # frames of another connection: how much longer they are under way than the events
    falling_behind: bool = False  # what comes is older and older
    sensor_clock_us: int = 0  # by how much the sensor's clock was set forward
    opened: int = 0


@dataclass
class Feed:
    """Real time, from the clock: an event batch and a small frame every 50 ms."""

    switch: Switch
    closed: bool = False

    def __post_init__(self) -> None:
        self._behind_us = 0
        one_clock = self.switch.frame_clock_us is None
        one_stream = not self.switch.frames_late_us
        self.info = SourceInfo("feed", (60, 40), True, True, True, one_clock=one_clock, one_stream=one_stream)
        if self.switch.error:
            raise SourceError(self.switch.error)
        self.switch.opened += 1

    async def __aiter__(self) -> AsyncIterator[Item]:
        random = np.random.default_rng(0)
        image = random.integers(0, 255, (40, 60, 3), np.uint8)
        while not self.closed:
            await asyncio.sleep(PERIOD_US / 1e6)
            if self.switch.error:
                raise SourceError(self.switch.error)
            if self.switch.frozen:
                continue
            self._behind_us += PERIOD_US * 4 // 5 if self.switch.falling_behind else 0
            t_us = time.monotonic_ns() // 1000 - self._behind_us + self.switch.sensor_clock_us
            if self.switch.frames:
                behind_us = 1 + (self.switch.frame_clock_us or 0) + self.switch.frames_late_us
                yield Frame(t_us - behind_us, image, time.monotonic_ns())
            if self.switch.events:
                times = np.linspace(t_us - PERIOD_US // 2, t_us, 20).astype(np.int64)
                x, y = random.integers(0, 40, (2, 20)).astype(np.int16)
                yield Events(times, x, y, random.integers(0, 2, 20).astype(np.uint8))

    async def close(self) -> None:
        self.closed = True


def configuration(folder: Path, url: str | None, **sections: Any) -> Config:
    """Windows of 400 ms, quick to call something stalled, everything in `folder`."""
    mqtt = {"enabled": url is not None, "outbox_file": str(folder / "outbox.db"), **sections.pop("mqtt", {})}
    service = {"stalled_after_s": 0.6, "frozen_after_s": 1.5, "port": None, **sections.pop("service", {})}
    return Config.model_validate(
        {
            "node": "robot",
            "windows": {"length_ms": 400, "hop_ms": 400},
            "decoding": {"max_new_tokens": 6},
            "mqtt": mqtt | ({"url": url} if url else {}),
            "service": service,
            "recording": {"folder": str(folder / "recordings"), "min_free_gb": 0.0},
            **sections,
        }
    )


def loader(pair: tuple[VisionLanguageModel, VisionLanguageModel], costs: Costs) -> Callable[[], Captioner]:
    """Makes captioners of the tiny pair, without calibrating each time."""
    settings = CaptionerSettings(max_new_tokens=6, drafter_span_us=100_000)
    return lambda: Captioner(*pair, settings, costs=costs)


@contextlib.asynccontextmanager
async def serving(
    config: Config, load: Callable[[], Captioner], registry: CollectorRegistry | None = None, **feeds: Switch
) -> AsyncIterator[tuple[Service, Commander | None]]:
    """The service, started; stopped after the block, every window then accounted for."""
    sources = {name: (lambda switch=switch: Feed(switch)) for name, switch in feeds.items()}
    service, commander = build(config, Start(sources=sources, load=load), registry or CollectorRegistry())
    orders = asyncio.create_task(commander.run()) if commander else None
    running = asyncio.create_task(service.run())
    try:
        await until(lambda: not service.health.starting or running.done())
        yield service, commander
    finally:
        service.stop("the test is over")
        await asyncio.gather(running, return_exceptions=True)
        if orders:
            orders.cancel()
            await asyncio.gather(orders, return_exceptions=True)
    for counts in service.counts.values():
        assert counts.arrived == counts.captioned + sum(counts.dropped.values())
    running.result()


async def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
