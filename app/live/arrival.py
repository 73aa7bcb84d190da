"""A sensor's clock against the host's monotonic clock, from nothing but when its data arrive."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

CELL_US = 1_000_000  # of one point of the envelope: the least delay of so much host time
SPAN_US = 300_000_000  # looked at; longer, and a drift that changes with temperature is no line any more
LEAST_US = 15_000_000  # of observation before a rate is believed; until then both clocks run alike
JUMP_US = 1_000_000  # a delay that falls, or a time that falls back, so far at once is another clock


@dataclass(frozen=True, slots=True)
class Line:
    """Host time = sensor time + base + slope · (sensor time - origin), all in µs; `slope` is 0 for equal clocks.

    The line is that of the quickest arrivals, so it holds the least transport delay as well. `scatter` is how far the
    points of the envelope lie above it, typically; `slope_error` what that is worth for the slope.
    """

    origin: int
    base: float
    slope: float
    scatter: float
    slope_error: float

    def host_us(self, t_us: int) -> float:
        return t_us + self.base + self.slope * (t_us - self.origin)

    def sensor_us(self, host_us: float) -> float:
        return self.origin + (host_us - self.base - self.origin) / (1 + self.slope)


class ArrivalClock:
    """The lower envelope of arrival delay against sensor time, over the last five minutes.

    Data arrive late, never early: delay = offset + drift · t + transport + jitter with jitter ≥ 0, so offset and drift
    are those of the line below all points that lies closest to them (Moon, Skelly, Towsley, "Estimation and removal of
    clock skew from network delay measurements", INFOCOM 1999). Minimising the sum of distances, that line is the edge
    of the lower convex hull above the mean of the times. A least-squares line would follow every queue; this one needs
    a quick arrival now and then, and nothing of the jitter's form.

    `gap_us`: after so long without data the device may have been opened anew, and its clock with it: all begins again.
    """

    def __init__(self, gap_us: int | None = None) -> None:
        self._gap_us = gap_us
        self._heard_us = 0  # host time of the newest data
        self._points: deque[tuple[int, int]] = deque()  # (sensor time, least delay) of a cell of host time, µs
        self._cell: int | None = None
        self._line: Line | None = None

    def observe(self, t_us: int, arrived_ns: int) -> bool:
        """Data of sensor time `t_us` came; False when this shows that the clock was set anew, and all begins again."""
        host_us = arrived_ns // 1000
        delay = host_us - t_us
        last_us, least = self._points[-1] if self._points else (t_us, delay)
        jumped = delay < least - JUMP_US or t_us < last_us - JUMP_US
        if jumped or (self._gap_us is not None and host_us - self._heard_us > self._gap_us):
            self._points.clear()
        self._heard_us = host_us
        cell = host_us // CELL_US
        if cell != self._cell or not self._points:
            self._points.append((t_us, delay))
            while host_us - (self._points[0][0] + self._points[0][1]) > SPAN_US:
                self._points.popleft()
            self._cell, self._line = cell, None
        elif delay < self._points[-1][1]:
            self._points[-1] = t_us, delay
            self._line = None
        return not jumped

    @property
    def line(self) -> Line | None:
        """The envelope now; None before the first observation."""
        if self._line is None and self._points:
            self._line = _fit(list(self._points))
        return self._line


def _fit(points: list[tuple[int, int]]) -> Line:
    """The line below `points` (time, delay) with the least sum of distances; level while they span too little."""
    origin, level = points[0][0], points[0][1]
    local = [(t - origin, delay - level) for t, delay in points]  # small numbers: floats stay exact to the µs
    span = local[-1][0]
    if span < LEAST_US:
        base, slope = float(min(delay for _, delay in local[-10:])), 0.0
    else:
        mean = sum(t for t, _ in local) / len(local)
        (t0, d0), (t1, d1) = next(((a, b) for a, b in pairwise(_lower_hull(local)) if b[0] >= mean))
        slope = (d1 - d0) / (t1 - t0)
        base = d0 - slope * t0
    above = sorted(delay - base - slope * t for t, delay in local)
    scatter = max(above[len(above) // 2], 1.0)
    error = 2 * scatter / span if span >= LEAST_US else 200e-6  # two quartz crystals hardly differ by more
    return Line(origin, level + base, slope, scatter, error)


def _lower_hull(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of points in order of their first coordinate, strictly rising (Andrew's monotone chain)."""
    hull: list[tuple[int, int]] = []
    for t, d in points:
        if hull and t <= hull[-1][0]:
            continue
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (t - hull[-2][0]) >= (d - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((t, d))
    return hull
