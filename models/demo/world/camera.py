"""The robot's own motion: slow pans with rests, and the small vibration of something that drives."""

from math import pi, sin

import numpy as np


class Camera:
    """Where the camera looks at a time, in pixels of the panorama; queried for any time, in any order."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._starts_us = [0]
        self._offsets = [float(rng.uniform(0, 700))]
        self._velocities = [self._next_velocity()]
        self._jitter = rng.uniform([0.40, 0.30, 3.0, 4.0], [0.65, 0.5, 5.0, 6.5])
        self._light = rng.uniform([0.03, 8.0, 0.0], [0.08, 15.0, 2 * pi])

    def pan(self, t_us: int) -> float:
        """The horizontal offset without the vibration, pixels."""
        while self._starts_us[-1] + 8_000_000 < t_us + 20_000_000:
            self._extend()
        i = int(np.searchsorted(self._starts_us, t_us, side="right")) - 1
        i = max(i, 0)
        return self._offsets[i] + self._velocities[i] * (t_us - self._starts_us[i]) / 1e6

    def vibration(self, t_us: int) -> tuple[float, float]:
        """Horizontal and vertical shake, pixels (under one)."""
        amplitude_x, amplitude_y, hertz_x, hertz_y = self._jitter
        turn = 2 * pi * t_us / 1e6
        return float(amplitude_x * sin(hertz_x * turn)), float(amplitude_y * sin(hertz_y * turn + 1.0))

    def light(self, t_us: int) -> float:
        """The scene's brightness as a factor around 1: clouds pass slowly."""
        swing, period_s, start = self._light
        return float(1 + swing * sin(2 * pi * t_us / 1e6 / period_s + start))

    def forget_before(self, t_us: int) -> None:
        """Drop the path before a time; the times after it stay as they are."""
        while len(self._starts_us) > 1 and self._starts_us[1] < t_us:
            for column in (self._starts_us, self._offsets, self._velocities):
                column.pop(0)

    def _next_velocity(self) -> float:
        return 0.0 if self._rng.random() < 0.4 else float(self._rng.choice([-1, 1]) * self._rng.uniform(3, 8))

    def _extend(self) -> None:
        duration_us = int(self._rng.uniform(2e6, 5e6))
        self._offsets.append(self._offsets[-1] + self._velocities[-1] * duration_us / 1e6)
        self._starts_us.append(self._starts_us[-1] + duration_us)
        self._velocities.append(self._next_velocity())
