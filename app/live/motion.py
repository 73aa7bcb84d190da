"""Where something moves, seen by each of two cameras, and the lag at which both see the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from app.sensors.contract import Events, Frame
from app.sensors.events import thinned

COLUMNS, ROWS = 8, 6  # cells of the picture: coarse, so that two cameras need to be aligned only roughly
CELLS = COLUMNS * ROWS
BIN_US = 4_000
LONGEST_US = 1_000_000  # of a batch that is looked at, its end
MOST_EVENTS = 4096  # of a batch that are looked at, evenly spaced: enough for a rate, and bounded work
LAGS_US = np.arange(-60_000, 252_000, BIN_US)  # frames come late to the host, not early; a stamp may be either
APART_US = 60_000  # a peak further away than that, and than a frame, is another one
LEAST_PEAK = 0.25  # correlation
LEAST_LEAD = 0.03  # of the highest peak over another one
LEAST_FRAMES = 60

Cells = NDArray[np.float32]  # [..., CELLS]


def event_cells(events: Events, resolution: tuple[int, int], bin_us: int = BIN_US) -> tuple[int, Cells]:
    """Number of the first time bin, and the events of each bin and cell: float32 [bins, CELLS]. None give no bins."""
    if not len(events):
        return 0, np.zeros((0, CELLS), np.float32)
    step = max(1, -(-len(events) // MOST_EVENTS))
    looked_at = thinned(events, step)
    bins, x, y = looked_at.t // bin_us, looked_at.x.astype(np.int32), looked_at.y.astype(np.int32)
    near = bins > bins.max() - LONGEST_US // bin_us
    if not near.all():  # damaged times must not cost memory
        bins, x, y = bins[near], x[near], y[near]
    first = int(bins.min())
    width, height = resolution
    row = np.maximum(np.minimum(y * ROWS // height, ROWS - 1), 0)  # clip would take ten times as long
    column = np.maximum(np.minimum(x * COLUMNS // width, COLUMNS - 1), 0)
    count = int(bins.max()) - first + 1
    found = (
        np.bincount(((bins - first) * ROWS + row) * COLUMNS + column, minlength=count * CELLS).astype(np.float32) * step
    )
    return first, found.reshape(count, CELLS)


def frame_brightness(frame: Frame) -> NDArray[np.float32]:
    """The frame's log brightness, float32 [ROWS · 8, COLUMNS · 8]: what an event camera sees changes of."""
    colours = frame.image[_grid(*frame.image.shape[:2])].astype(np.float32)
    brightness: NDArray[np.float32] = np.log(colours[..., 0] + colours[..., 1] + colours[..., 2] + np.float32(24.0))
    return brightness


@lru_cache(4)
def _grid(height: int, width: int) -> tuple[NDArray[np.intp], ...]:
    """Rows and columns of the pixels that stand for all."""
    rows = np.linspace(0, height - 1, ROWS * 8).astype(np.intp)
    return np.ix_(rows, np.linspace(0, width - 1, COLUMNS * 8).astype(np.intp))


def change_cells(before: NDArray[np.float32], after: NDArray[np.float32]) -> Cells:
    """How much changed from one frame's brightness to the next one's, by cell: float32 [CELLS]."""
    change: Cells = np.abs(after - before).reshape(ROWS, 8, COLUMNS, 8).mean(axis=(1, 3)).reshape(CELLS)
    return change


@dataclass(frozen=True, slots=True)
class Motion:
    """What both cameras saw over the same seconds, on the event clock."""

    first_bin: int
    events: Cells  # [bins, CELLS]
    middles_us: NDArray[np.int64]  # [N]: of the frames' exposures
    changes: Cells  # [N - 1, CELLS]: from each frame to the next

    @property
    def period_us(self) -> float:
        """From one frame to the next, typically."""
        return float(np.median(np.diff(self.middles_us)))


def match(motion: Motion) -> float | None:
    """How much later (µs) the frames are stamped than the events of the same motion; None where nothing tells.

    The change from one frame to the next is made of the events between the middles of their exposures. So the events
    between the frames' times are counted cell by cell for every lag, and the lag with the highest correlation over
    cells and time wins, refined by a parabola. A scene in which nothing moves, or everything always in the same way,
    has no clear peak and gives None.
    """
    if len(motion.middles_us) < LEAST_FRAMES or len(motion.events) < 2:
        return None
    total = np.concatenate([np.zeros((1, CELLS)), np.cumsum(motion.events, axis=0, dtype=np.float64)])
    changes = _standard(np.sqrt(motion.changes.astype(np.float64)))
    scores = np.array([_score(total, motion, changes, int(lag)) for lag in LAGS_US])
    best = int(scores.argmax())
    others = scores[np.abs(LAGS_US - LAGS_US[best]) > max(APART_US, motion.period_us)]
    clear = scores[best] >= LEAST_PEAK and scores[best] - others.max(initial=-1.0) >= LEAST_LEAD
    if not clear or not 0 < best < len(scores) - 1:
        return None
    left, middle, right = scores[best - 1 : best + 2]
    shift = 0.5 * (left - right) / (left - 2 * middle + right)
    return float(LAGS_US[best] + shift * BIN_US)


def _score(total: NDArray[np.float64], motion: Motion, changes: NDArray[np.float64], lag_us: int) -> float:
    at = (motion.middles_us - lag_us) / BIN_US - motion.first_bin
    inside = (at >= 0) & (at <= len(total) - 1)
    at = at.clip(0, len(total) - 1.001)
    whole = at.astype(np.intp)
    part = (at - whole)[:, None]
    until = total[whole] * (1 - part) + total[whole + 1] * part
    seen = inside[1:] & inside[:-1]
    if np.count_nonzero(seen) < LEAST_FRAMES:
        return -1.0
    events = _standard(np.sqrt(np.diff(until, axis=0).clip(0)))
    a, b = events[seen].ravel(), changes[seen].ravel()
    both, alone = (a * b).sum(), (a * a).sum() * (b * b).sum()  # no BLAS: its threads would be in the models' way
    return float(both / np.sqrt(alone + 1e-12))


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each cell without its mean: what stays is what changes in time."""
    centred: NDArray[np.float64] = values - values.mean(axis=0)
    return centred
