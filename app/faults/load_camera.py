"""A camera that gives as much as it is told to, as a capture process: `app.sensors.capture.Capture` reads it.

What it gives is made before it begins: it costs little more than the copying, and leaves the cores to what is measured.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator

import numpy as np

from app.sensors.capture import Capture
from app.sensors.capture_process import Outgoing, send_json, write_on
from app.sensors.contract import Events, Item, SourceInfo
from app.sensors.device import HOST_CLOCK
from app.sensors.merging import BATCH_US, RawFrame
from app.sensors.spec import EventCameraSpec, from_json

WIDTH, HEIGHT = 346, 260
FRAME_US = 33_000
LOST_US = 200_000
BATCHES, IMAGES = 16, 4  # different ones, given in turn
MODULE = "app.faults.load_camera"


def main(argv: list[str]) -> None:
    """`load_camera FD`; the `device` of the specification on standard input is the events a second."""
    pipe = os.fdopen(int(argv[0]), "wb")
    spec = from_json(sys.stdin.readline())
    rate = int(str(spec.device))
    chance = np.random.default_rng(0)
    runs = [_run(chance, max(1, rate * BATCH_US // 1_000_000)) for _ in range(BATCHES)]
    images = chance.integers(0, 255, (IMAGES, HEIGHT, WIDTH, 3), np.uint8)
    send_json(
        pipe,
        b"I",
        {"name": "LOAD", "clock": HOST_CLOCK, "size": (WIDTH, HEIGHT), "events": True, "frames": True},
    )
    outgoing = Outgoing()
    threading.Thread(target=write_on, args=(outgoing, pipe), daemon=True).start()
    number, start_us = 0, time.monotonic_ns() // 1000
    next_frame_us = start_us
    while True:
        now_us = time.monotonic_ns() // 1000
        if now_us - start_us > LOST_US:  # a sensor does not fall behind: what nobody fetched in time is gone
            start_us = next_frame_us = now_us
        end_us = start_us + BATCH_US
        time.sleep(max(0, end_us - time.monotonic_ns() // 1000) / 1e6)
        run = runs[number % BATCHES]
        if end_us > next_frame_us:
            outgoing.put(RawFrame(start_us, images[number % IMAGES]))
            next_frame_us += FRAME_US
        outgoing.put(Events(run.t + start_us, run.x, run.y, run.p))
        number, start_us = number + 1, end_us


def _run(chance: np.random.Generator, count: int) -> Events:
    t = np.sort(chance.integers(0, BATCH_US, count))
    x, y = chance.integers(0, WIDTH, count, np.int16), chance.integers(0, HEIGHT, count, np.int16)
    return Events(t, x, y, chance.integers(0, 2, count, np.uint8))


class LoadSource:
    """The source in the service; it reads the pipe as every live camera does. Raises SourceError."""

    def __init__(self, events_per_s: int) -> None:
        self._capture = Capture(EventCameraSpec(device=str(events_per_s)), MODULE)
        self.info = SourceInfo("LOAD", (WIDTH, HEIGHT), True, True, True)
        self.trouble: dict[str, str] = {}

    @property
    def dropped(self) -> dict[str, int]:
        """What the capture process let go, because it was not read in time."""
        return self._capture.dropped

    def __aiter__(self) -> AsyncIterator[Item]:
        return self._capture.items()

    async def close(self) -> None:
        await asyncio.to_thread(self._capture.close)


if __name__ == "__main__":
    main(sys.argv[1:])
