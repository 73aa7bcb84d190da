"""An event camera and an RGB camera that look at the same bar, each with its own clock and its own way to the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from app.sensors.contract import Events, Frame, Item

WIDTH, HEIGHT = 64, 48
EPOCH_US = 1_767_225_600_000_000
BOOT_US = 5_000_000_000
BATCH_US = 5_000
MS = 1_000


@dataclass(frozen=True)
class TwoDevices:
    """The frame clock is `offset_us` behind the events' at the start, and loses `drift_ppm` µs a second on it."""

    seed: int
    offset_us: int
    drift_ppm: float
    seconds: int
    moving: bool = True
    transport_us: int = 25_000  # of a frame at least: exposure, readout, USB
    fps: int = 30

    def offset_at_us(self, t_us: float) -> float:
        return self.offset_us + self.drift_ppm * 1e-6 * t_us

    def items(self) -> Iterator[tuple[int, Item]]:
        """(host arrival in monotonic ns, item) in order of arrival, each stream in order of its own time.

        A batch of events waits to be full, then for the USB scheduler; a frame comes `transport_us` and a Gamma
        distributed while later; now and then either is held up for tens of ms.
        """
        random = np.random.default_rng(self.seed)
        speed, place = self._path(random)
        arrivals = [*self._events(random, speed, place), *self._frames(random, place)]
        return iter(sorted(arrivals, key=lambda arrival: arrival[0]))

    def _path(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Speed (pixels a ms) and place (pixels) of the bar at every ms: a random walk that comes to rest by itself."""
        steps = self.seconds * 1000
        speed = np.zeros(steps)
        push = random.normal(0, 0.01, steps)
        for i in range(1, steps if self.moving else 0):
            speed[i] = 0.996 * speed[i - 1] + push[i]
        return speed, np.cumsum(speed)

    def _events(
        self, random: np.random.Generator, speed: np.ndarray, place: np.ndarray
    ) -> Iterator[tuple[int, Events]]:
        made = random.poisson(np.abs(speed) * 60)
        at_ms = np.repeat(np.arange(len(speed)), made)
        t = at_ms * MS + random.integers(0, MS, len(at_ms))
        x = place[at_ms] + random.normal(0, 1, len(at_ms))
        noise = random.integers(0, self.seconds * 1_000_000, self.seconds * 2_000)
        t, x = np.concatenate([t, noise]), np.concatenate([x, random.uniform(0, WIDTH, len(noise))])
        order = np.argsort(t)
        t, x = t[order], (x[order] % WIDTH).astype(np.int16)
        y = random.integers(0, HEIGHT, len(t)).astype(np.int16)
        last_us = 0.0
        for end_us in range(BATCH_US, self.seconds * 1_000_000, BATCH_US):
            a, b = np.searchsorted(t, (end_us - BATCH_US, end_us))
            last_us = max(last_us, end_us + 500 + random.exponential(1500) + _held_up(random))
            if b > a:
                run = Events(t[a:b] + EPOCH_US, x[a:b], y[a:b], np.zeros(b - a, np.uint8))
                yield _host_ns(last_us), run

    def _frames(self, random: np.random.Generator, place: np.ndarray) -> Iterator[tuple[int, Frame]]:
        columns, last_us, period_us = np.arange(WIDTH), 0.0, 1_000_000 / self.fps
        for number in range(1, self.seconds * self.fps):
            t_us = number * period_us + random.uniform(-200, 200)
            if (at := round(t_us / MS)) >= len(place):
                return
            apart = (columns - place[at] + WIDTH / 2) % WIDTH - WIDTH / 2
            row = 50 + 150 * np.exp(-(apart**2) / 8)
            image = np.broadcast_to(row[:, None], (HEIGHT, WIDTH, 3)) + random.normal(0, 2, (HEIGHT, WIDTH, 3))
            last_us = max(last_us, t_us + self.transport_us + random.gamma(2, 2000) + _held_up(random))
            stamp_us = EPOCH_US + round(t_us - self.offset_at_us(t_us))
            yield _host_ns(last_us), Frame(stamp_us, image.clip(0, 255).astype(np.uint8))


def _held_up(random: np.random.Generator) -> float:
    return float(random.exponential(30_000)) if random.random() < 0.01 else 0.0


def _host_ns(t_us: float) -> int:
    return int((BOOT_US + t_us) * 1000)
