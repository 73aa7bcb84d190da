"""The event-rate gate: a scene in which nothing moves needs no new caption until the next heartbeat."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from app.gate_config import GateConfig
from app.live.motion import BIN_US, CELLS, LONGEST_US, event_cells
from app.windows import Window

FLOOR_NS = 300_000_000_000  # over which the least rate of a cell is its noise
LEARN_NS = 10_000_000_000  # before it is known well enough
LOUDER = 1.5  # times the threshold wakes a still scene; below the threshold, twice running, a moving one rests
SIGMAS = 5.0  # of the counting noise of so few events
SMOOTH = 0.2  # share of a new window in the rates whose least is the floor: chance alone is not the floor


class StillGate:
    """Of one camera. `passes` sees every closed window in order and says whether it is to be captioned.

    The picture is looked at in cells, each against its own noise floor, so that a small thing that moves is not lost in
    the noise of all the pixels, and a flickering lamp or a hot pixel is a floor of its own. A window without any event
    always passes: a dead sensor looks like a still scene. So does every one until there is a verified caption of a
    window as new as the last movement and as the last time that nobody looked: only what was said can go on being true.
    """

    def __init__(self, config: GateConfig) -> None:
        self._config = config
        self.still = False
        self.skipped = 0  # windows since the last caption
        self._captioned_ns: int | None = None
        self._span_us: tuple[int, int] | None = None  # start and end of the newest window
        self._next = 0  # the index after it
        self._since = 0  # a caption counts when its window is this one or a newer one
        self._began_ns: int | None = None
        self._resting = 0  # quiet windows in a row
        self._smooth: NDArray[np.float64] | None = None
        self._floors: list[tuple[int, NDArray[np.float64]]] = []  # (begun at, least rates [CELLS]): two halves

    @property
    def closed(self) -> bool:
        """Whether a window that is still open will most likely not be captioned."""
        return self.still and self._fresh(time.monotonic_ns())

    def captioned(self, index: int) -> None:
        """A verified caption of this window went out."""
        if index >= self._since:
            self._captioned_ns, self.skipped = time.monotonic_ns(), 0

    def forget(self) -> None:
        """The next window is captioned, whatever it shows: the question is another one, or the scene may be."""
        self._captioned_ns, self._since = None, self._next

    def passes(self, window: Window) -> bool:
        """Whether to caption it."""
        now_ns = window.closed_ns
        if self._span_us is None or not self._span_us[0] < window.start_us <= self._span_us[1]:
            self.forget()  # nobody looked for a while, or time means something else: the source was opened again
        self._look(window, now_ns)
        self._span_us, self._next = (window.start_us, window.end_us), window.index + 1
        if self.still and len(window.events) and self._fresh(now_ns):
            self.skipped += 1
            return False
        return True

    def _fresh(self, now_ns: int) -> bool:
        """Whether the last caption is younger than a heartbeat."""
        return self._captioned_ns is not None and now_ns - self._captioned_ns < self._config.heartbeat_s * 1e9

    def _look(self, window: Window, now_ns: int) -> None:
        self._began_ns = self._began_ns or now_ns
        seconds = min(window.end_us - window.start_us, LONGEST_US) / 1e6
        rates = event_cells(window.events, window.resolution, BIN_US)[1].sum(axis=0, dtype=np.float64) / seconds
        floor = self._floor(rates, now_ns)
        pixels = window.resolution[0] * window.resolution[1] / CELLS
        noise = np.minimum(floor, self._config.noise_hz * pixels)
        threshold = self._config.factor * noise + SIGMAS * np.sqrt((noise + 1) / seconds)
        learning = now_ns - self._began_ns < LEARN_NS or window.dropped_events > 0
        if learning or (rates > threshold * (LOUDER if self.still else 1)).any():
            self._resting, self.still = 0, False
            self._captioned_ns, self._since = None, window.index  # what was said of it before is over
        else:
            self._resting += 1
            self.still = self._resting >= 2

    def _floor(self, rates: NDArray[np.float64], now_ns: int) -> NDArray[np.float64]:
        """The least smoothed rate of every cell lately; half of the span is forgotten at a time."""
        self._smooth = rates if self._smooth is None else (1 - SMOOTH) * self._smooth + SMOOTH * rates
        rates = self._smooth
        if not self._floors or now_ns - self._floors[-1][0] > FLOOR_NS // 2:
            self._floors = [*self._floors[-1:], (now_ns, rates)]
        else:
            begun_ns, least = self._floors[-1]
            self._floors[-1] = begun_ns, np.minimum(least, rates)
        least_of_all: NDArray[np.float64] = np.min([least for _, least in self._floors], axis=0)
        return least_of_all
