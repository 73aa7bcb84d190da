"""Which frames of a window the target is given; and, while the window is open, which it will be given."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import pairwise, takewhile
from statistics import median

from app.sensors.contract import Frame
from app.windows import WindowFrame

INTERVALS = 8  # between the newest frames: their median is the period
FEWEST = 3  # of them, before a rate is known
MOST = 4096  # frames of a window; more, and their times are not worth reckoning with
EARLY = 0.15  # of a period by which a frame may come earlier than expected


def nearest(times: Sequence[float], start_us: int, end_us: int, count: int) -> list[int]:
    """For each of `count` places evenly spaced over [start, end): the index of the frame nearest to it.

    Place i stands for the instant start + (i + ½)·length/count; of two equally near frames the earlier one is taken.
    `times` are in order and not empty.
    """
    picks: list[int] = []
    for i in range(count):
        ideal_us = start_us + (2 * i + 1) * (end_us - start_us) / (2 * count)
        after = bisect_left(times, ideal_us)
        near = [j for j in (after - 1, after) if 0 <= j < len(times)]
        picks.append(min(near, key=lambda j: abs(times[j] - ideal_us)))
    return picks


def choose_frames(
    frames: Sequence[Frame], start_us: int, end_us: int, count: int
) -> tuple[tuple[WindowFrame, ...], tuple[Frame, ...]]:
    """`count` frames evenly spaced over [start, end), each the `nearest`, and those not chosen.

    A frame is taken again if need be, and then marked as a repeat. It stands at the middle of its exposure. `frames`
    is in time order; none give none.
    """
    if not frames:
        return (), ()
    picks = nearest([frame.middle_us for frame in frames], start_us, end_us, count)
    used = set(picks)
    return chosen_frames(frames, picks), tuple(frame for j, frame in enumerate(frames) if j not in used)


def chosen_frames(frames: Sequence[Frame], picks: Sequence[int]) -> tuple[WindowFrame, ...]:
    """The frames at `picks`; one that was picked before is a repeat."""
    return tuple(WindowFrame(frames[j], repeat=j in picks[:i]) for i, j in enumerate(picks))


class FrameForecast:
    """Tells a camera's frame rate from its frames, and from that what an open window will be given.

    It may be wrong, when frames are lost or their rate changes: the closed window has the last word.
    """

    def __init__(self) -> None:
        self._times: deque[int] = deque(maxlen=INTERVALS + 1)

    def observe(self, t_us: int) -> None:
        """A frame has come."""
        if not self._times or t_us > self._times[-1]:
            self._times.append(t_us)

    @property
    def period_us(self) -> float | None:
        """From a frame to the next; None while it is not known."""
        if len(self._times) <= FEWEST:
            return None
        return median(after - before for before, after in pairwise(self._times))

    def awaited(self, times: Sequence[int], start_us: int, end_us: int, count: int, by_us: int) -> bool:
        """Whether a window of these frames is to be given one that is still under way.

        `by_us`: an instant until which all frames must have come; a camera that gave none for longer gives none now.
        """
        period_us = self.period_us
        if period_us is None or end_us - start_us > MOST * period_us:
            return False
        next_us = self._times[-1] + (1 - EARLY) * period_us
        if next_us >= end_us or by_us > self._times[-1] + 2 * period_us:
            return False
        return len(self.settled(times, start_us, end_us, count)) < count

    def settled(self, times: Sequence[int], start_us: int, end_us: int, count: int) -> list[int]:
        """The frames of the leading places that no frame to come will take: as `nearest` finds them at the end.

        times: of the window's frames so far. Empty while the rate is not known, or is no camera's.
        """
        period_us = self.period_us
        if not times or period_us is None or end_us - start_us > MOST * period_us:
            return []
        expected: list[float] = []
        next_us = times[-1] + (1 - EARLY) * period_us
        while next_us < end_us:
            expected.append(next_us)
            next_us += period_us
        picks = nearest([*times, *expected], start_us, end_us, count)
        return list(takewhile(lambda pick: pick < len(times), picks))
