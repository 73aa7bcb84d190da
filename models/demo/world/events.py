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
    """The sensor's properties, about those of a DAVIS346."""

    threshold: float = 0.24
    mismatch: float = 0.03
    refractory_us: int = 800
    noise_hz: float = 0.06
    dark_level: float = 0.05
    """Luminance added before the logarithm: dark pixels are slow and insensitive."""


class EventSimulator:
    """Turns a sequence of luminance images [height, width] into events."""

    def __init__(self, rng: np.random.Generator, model: EventModel | None = None) -> None:
        self._rng = rng
        self._model = model or EventModel()
        self._time_us: int | None = None

    def step(self, t_us: int, luminance: NDArray[np.float32]) -> Events:
        """Events in (previous time, t_us]; none for the first image, which only sets the references."""
        level = np.log(luminance + np.float32(self._model.dark_level)).ravel()
        if self._time_us is None:
            self._start(t_us, level, luminance.shape[1])
            return np.zeros(0, EVENT_DTYPE)
        start_us, self._time_us = self._time_us, t_us
        signal = self._crossings(level, start_us, t_us)
        self._level = level
        return _sorted(np.concatenate([signal, self._background(start_us, t_us)]))

    def _start(self, t_us: int, level: NDArray[np.float32], width: int) -> None:
        model, size = self._model, level.size
        self._time_us, self._level, self._width = t_us, level, width
        spread = self._rng.normal(model.threshold, model.mismatch, size)
        self._thresholds = np.clip(spread, 0.5 * model.threshold, 2 * model.threshold).astype(np.float32)
        # Pixels have fired at different times before the recording: their references are not all fresh.
        stale = self._rng.uniform(-0.5, 0.5, size).astype(np.float32) if model.mismatch > 0 else np.float32(0)
        self._reference = level + stale * self._thresholds
        self._last_us = np.full(size, -(1 << 62), np.int64)

    def _crossings(self, level: NDArray[np.float32], start_us: int, end_us: int) -> Events:
        change = np.abs(level - self._reference)
        pixels = np.flatnonzero(change >= self._thresholds)
        thresholds, before, reference = self._thresholds[pixels], self._level[pixels], self._reference[pixels]
        # The small excess keeps rounding from losing a crossing that lies exactly on the end of the step.
        counts = np.floor(change[pixels] / thresholds + 1e-4).astype(np.int64)
        rising = level[pixels] > reference
        step = np.where(rising, thresholds, -thresholds)
        slope = (end_us - start_us) / (level[pixels] - before)
        self._reference[pixels] = reference + counts * step
        parts: list[Events] = []
        for crossing in range(1, int(counts.max(initial=0)) + 1):
            some = counts >= crossing
            index = pixels[some]
            ahead = reference[some] + crossing * step[some] - before[some]
            times = start_us + np.clip(np.rint(ahead * slope[some]), 1, end_us - start_us).astype(np.int64)
            ready = times - self._last_us[index] >= self._model.refractory_us
            index, times = index[ready], times[ready]
            self._last_us[index] = times
            parts.append(self._pack(index, times, rising[some][ready]))
        return np.concatenate(parts) if parts else np.zeros(0, EVENT_DTYPE)

    def _background(self, start_us: int, end_us: int) -> Events:
        """Noise: events of either polarity, anywhere, at a constant mean rate a pixel."""
        expected = self._model.noise_hz * self._level.size * (end_us - start_us) / 1e6
        count = int(self._rng.poisson(expected))
        index = self._rng.integers(0, self._level.size, count)
        times = self._rng.integers(start_us + 1, end_us + 1, count)
        return self._pack(index, times, self._rng.random(count) < 0.5)

    def _pack(self, index: NDArray[np.int64], times: NDArray[np.int64], rising: NDArray[np.bool_]) -> Events:
        events = np.empty(index.size, EVENT_DTYPE)
        events["y"], events["x"] = np.divmod(index, self._width)
        events["t"], events["p"] = times, rising
        return events


def _sorted(events: Events) -> Events:
    return events[np.argsort(events["t"], kind="stable")]
