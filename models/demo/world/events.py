"""The standard event camera model: log-intensity threshold crossings, as in ESIM and v2e.

Each pixel keeps a reference log intensity. Between two luminance images the log intensity is taken to
change linearly; whenever it has moved one contrast threshold away from the reference, the pixel emits an
event at the interpolated time and the reference moves by that threshold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EVENT_DTYPE = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.uint8)])
Events = np.ndarray[tuple[int], np.dtype[np.void]]
"""A structured array [n] of EVENT_DTYPE: pixel, microseconds, polarity 0 (darker) or 1 (brighter), sorted by t."""


@dataclass(frozen=True)
class EventModel:
    """The sensor's properties: a DAVIS346 with its biases set for few events, as a robot's small computer wants it."""

    threshold: float = 0.32
    mismatch: float = 0.03
    refractory_us: int = 15_000
    noise_hz: float = 0.06
    dark_level: float = 0.12
    """Luminance added before the logarithm: dark pixels are slow and insensitive."""


class EventSimulator:
    """Turns a sequence of luminance images [height, width] into events."""

    def __init__(self, rng: np.random.Generator, model: EventModel | None = None) -> None:
        self._rng = rng
        self._model = model or EventModel()
        self._time_us: int | None = None

    def step(self, t_us: int, luminance: NDArray[np.float32]) -> Events:
        """Events in (previous time, t_us]; none for the first image, which only sets the references."""
        light = luminance.ravel() + np.float32(self._model.dark_level)
        if self._time_us is None:
            self._start(t_us, light, luminance.shape[1])
            return np.zeros(0, EVENT_DTYPE)
        start_us, self._time_us = self._time_us, t_us
        keys = [*self._crossings(light, start_us, t_us), self._background(start_us, t_us)]
        self._light = light
        return self._unpack(np.sort(np.concatenate(keys)), start_us)

    def _start(self, t_us: int, light: NDArray[np.float32], width: int) -> None:
        model, size = self._model, light.size
        self._time_us, self._light, self._width = t_us, light, width
        self._pixel_bits = size.bit_length()
        spread = self._rng.normal(model.threshold, model.mismatch, size)
        self._thresholds = np.clip(spread, 0.5 * model.threshold, 2 * model.threshold).astype(np.float32)
        # Pixels have fired at different times before the recording: their references are not all fresh.
        stale = self._rng.uniform(-0.5, 0.5, size).astype(np.float32) if model.mismatch > 0 else np.float32(0)
        self._reference = np.log(light) + stale * self._thresholds
        self._last_us = np.full(size, -(1 << 62), np.int64)
        # The luminance in which a pixel keeps silent: comparing with it spares the logarithm of every pixel.
        self._silent_from, self._silent_to = np.empty(size, np.float32), np.empty(size, np.float32)
        self._refresh_bounds(np.arange(size))

    def _refresh_bounds(self, pixels: NDArray[np.int64]) -> None:
        reference, thresholds = self._reference[pixels], self._thresholds[pixels]
        self._silent_from[pixels] = np.exp(reference - thresholds)
        self._silent_to[pixels] = np.exp(reference + thresholds)

    def _crossings(self, light: NDArray[np.float32], start_us: int, end_us: int) -> list[NDArray[np.int64]]:
        """Keys of the events that brightness causes; moves the references."""
        pixels = np.flatnonzero((light <= self._silent_from) | (light >= self._silent_to))
        level, before = np.log(light[pixels]), np.log(self._light[pixels])
        thresholds, reference = self._thresholds[pixels], self._reference[pixels]
        # The small excess keeps rounding from losing a crossing that lies exactly on the end of the step.
        counts = (np.abs(level - reference) / thresholds + np.float32(1e-4)).astype(np.int64)
        rising = level > reference
        step = np.where(rising, thresholds, -thresholds)
        self._reference[pixels] = reference + counts * step
        self._refresh_bounds(pixels)
        duration_us = end_us - start_us
        moved = level - before
        moved[moved == 0] = np.inf  # only rounding can leave a crossing to a pixel that did not change
        us_per_level = duration_us / moved
        first_us, every_us = (reference - before) * us_per_level, step * us_per_level
        keys = []
        for crossing in range(1, int(counts.max(initial=0)) + 1):
            some = np.flatnonzero(counts >= crossing)
            offset_us = (first_us[some] + crossing * every_us[some]).clip(1, duration_us).astype(np.int64)
            index = pixels[some]
            ready = start_us + offset_us - self._last_us[index] >= self._model.refractory_us
            some, index, offset_us = some[ready], index[ready], offset_us[ready]
            self._last_us[index] = start_us + offset_us
            keys.append(self._pack(index, offset_us, rising[some]))
        return keys

    def _background(self, start_us: int, end_us: int) -> NDArray[np.int64]:
        """Keys of noise: events of either polarity, anywhere, at a constant mean rate a pixel."""
        expected = self._model.noise_hz * self._light.size * (end_us - start_us) / 1e6
        count = int(self._rng.poisson(expected))
        index = self._rng.integers(0, self._light.size, count)
        return self._pack(index, self._rng.integers(1, end_us - start_us + 1, count), self._rng.random(count) < 0.5)

    def _pack(
        self, index: NDArray[np.int64], offset_us: NDArray[np.int64], rising: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """One integer an event, time first, so that one plain sort orders them."""
        return ((offset_us << self._pixel_bits | index) << 1) | rising

    def _unpack(self, keys: NDArray[np.int64], start_us: int) -> Events:
        events = np.empty(keys.size, EVENT_DTYPE)
        index = (keys >> 1) & ((1 << self._pixel_bits) - 1)
        events["y"] = y = index // self._width
        events["x"] = index - y * self._width
        events["t"] = (keys >> (self._pixel_bits + 1)) + start_us
        events["p"] = keys & 1
        return events
