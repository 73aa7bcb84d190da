"""Two devices, two clocks: the frames' sensor time made into the events', and how sure that is."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.live.arrival import ArrivalClock
from app.live.motion import BIN_US, CELLS, Cells, Motion, change_cells, event_cells, frame_brightness
from app.publishing.state_payloads import Sync
from app.sensors.contract import Events, Frame

BLOCK_US = 10_000_000  # of motion that is matched at a time
UNSEEN_US = 50_000  # how much longer than a batch of events a frame may be on its way, before motion tells
KEPT = 12 * BLOCK_US // (10 * BIN_US)  # bins of events
REORDERED = 25  # bins: a batch so little out of order is nothing new
REOPENED_US = 1_000_000  # one of two devices that was away so long may be back with another clock
WAIT_NS = 1_000_000_000  # for the first events; frames that come before them have no place
LAGS = 30  # matches remembered


class Alignment:
    """Learns the frames' clock on the go. Used from the event loop; `motion` and `matched` let a thread do the sums.

    Two measurements, each good at what the other cannot do:

    - When data arrive (`ArrivalClock`) tells the two rates, and so the drift, to a few ppm within a minute, whatever
      is in the picture. But a frame's exposure, readout and transport take constant milliseconds that no one-way
      delay can tell from an offset.
    - Where things move (`motion.match`) tells the offset itself, that constant included, to a few ms: the same edge
      makes events and a change between frames. It needs motion, and knows nothing while the scene is still.

    So the offset is the arrivals' less the median of what motion has found to be wrong with it.
    """

    def __init__(self, resolution: tuple[int, int]) -> None:
        self._resolution = resolution
        self._event_clock, self._frame_clock = ArrivalClock(REOPENED_US), ArrivalClock(REOPENED_US)
        self._lags: deque[float] = deque(maxlen=LAGS)
        self._cells: deque[tuple[int, Cells]] = deque()
        self._frames: deque[tuple[int, Cells]] = deque()  # middle of an exposure, and the change that led to it
        self._before: NDArray[np.float32] | None = None
        self._first_frame_ns: int | None = None
        self._period_us = 0.0
        self._last_us: int | None = None  # of the newest frame on its own clock
        self.alone = False  # no events came: the frames keep their own clock

    def events(self, events: Events, arrived_ns: int) -> bool:
        """Take a batch; True when the frames' times mean something else from now on, so that windows begin anew."""
        kept = self._event_clock.observe(int(events.t[-1]), arrived_ns)
        first, cells = event_cells(events, self._resolution)
        if self._cells and not -REORDERED < first - self._cells[-1][0] < KEPT:
            self._cells.clear()
        self._cells.append((first, cells))
        while first - self._cells[0][0] > KEPT:
            self._cells.popleft()
        was_alone, self.alone = self.alone, False
        return was_alone or not kept

    def frame(self, frame: Frame, arrived_ns: int) -> Frame | None:
        """The frame on the event clock; None while there is no event clock to put it on."""
        if not self._frame_clock.observe(frame.middle_us, arrived_ns):
            self._frames.clear()
            self._before = None
        if self._event_clock.line is None:
            self._first_frame_ns = self._first_frame_ns or arrived_ns
            self.alone = arrived_ns - self._first_frame_ns > WAIT_NS
            return frame if self.alone else None
        self._last_us = frame.middle_us
        brightness = frame_brightness(frame)
        change = change_cells(brightness if self._before is None else self._before, brightness)
        self._before = brightness
        self._frames.append((frame.middle_us, change))
        while self._frames[-1][0] - self._frames[0][0] > BLOCK_US:
            self._frames.popleft()
        return replace(frame, t_us=round(frame.t_us + self._offset_us(frame.middle_us)))

    @property
    def sync(self) -> Sync | None:
        """None before both devices were heard."""
        events, frames = self._event_clock.line, self._frame_clock.line
        if events is None or frames is None or self._last_us is None:
            return None
        arrival_us = 2 * (events.scatter + frames.scatter)
        return Sync(
            offset_us=round(self._offset_us(self._last_us)),
            uncertainty_us=round(self._lag_error_us() if self._lags else arrival_us + UNSEEN_US),
            drift_ppm=round(((1 + frames.slope) / (1 + events.slope) - 1) * 1e6, 2),
            drift_uncertainty_ppm=round((events.slope_error + frames.slope_error) * 1e6, 2),
            method="motion" if self._lags else "arrival",
        )

    def motion(self) -> Motion | None:
        """What `motion.match` wants, of the last ten seconds, taken out; None while there is less."""
        frames = [middle_us for middle_us, _ in self._frames]
        if len(frames) < 2 or frames[-1] - frames[0] < 0.8 * BLOCK_US or not self._cells:
            return None
        first = min(at for at, _ in self._cells)
        last = max(at + len(found) for at, found in self._cells)
        dense = np.zeros((last - first, CELLS), np.float32)
        for at, found in self._cells:
            dense[at - first : at - first + len(found)] += found
        middles = np.array([round(t_us + self._arrival_offset_us(t_us)) for t_us in frames], np.int64)
        changes = [change for _, change in self._frames][1:]
        self._frames.clear()
        return Motion(first, dense, middles, np.stack(changes))

    def matched(self, motion: Motion, lag_us: float | None) -> None:
        """What `match` made of it."""
        self._period_us = motion.period_us
        if lag_us is not None:
            self._lags.append(lag_us)

    def _offset_us(self, middle_us: int) -> float:
        return self._arrival_offset_us(middle_us) - (float(np.median(self._lags)) if self._lags else 0.0)

    def _arrival_offset_us(self, middle_us: int) -> float:
        """Event time less frame time, for two that arrive at once after the least delay of each."""
        events, frames = self._event_clock.line, self._frame_clock.line
        assert events is not None
        assert frames is not None
        return events.sensor_us(frames.host_us(middle_us)) - middle_us

    def _lag_error_us(self) -> float:
        """Two standard errors of the median; an eighth of a frame at least, a third while there are few matches."""
        if len(self._lags) < 3:
            return max(10_000.0, self._period_us / 3)
        middle = float(np.median(self._lags))
        spread = 1.48 * float(np.median(np.abs(np.array(self._lags) - middle)))
        return max(float(BIN_US), self._period_us / 8, 2.5 * spread / math.sqrt(len(self._lags)))
