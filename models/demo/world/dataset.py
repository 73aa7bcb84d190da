"""Windows for training and evaluation: frames, events, truth and object tracks, cut from a simulated street."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.demo.world.events import Events
from models.demo.world.simulator import Chunk, Simulator
from models.demo.world.truth import ObjectBox, SceneTruth
from models.demo.world.vocabulary import Mix

FRAMES = 8
TRACK_PERIOD_US = 50_000


@dataclass(frozen=True)
class Sample:
    """One window [start_us, end_us) as both models see it.

    frames: RGB uint8 [8, 260, 346, 3], taken at frames_us [8]; events: those of the drafter's span, the end of
    the window. tracks: the boxes (nearest first) at tracks_us [window / 50 ms + 1], for supervision by position.
    """

    start_us: int
    end_us: int
    frames: NDArray[np.uint8]
    frames_us: NDArray[np.int64]
    events: Events
    truth: SceneTruth
    tracks: tuple[tuple[ObjectBox, ...], ...]
    tracks_us: NDArray[np.int64]


def frame_instants(start_us: int, end_us: int, count: int = FRAMES) -> NDArray[np.int64]:
    """The middles of `count` equal parts of a window: where its frames should lie."""
    return start_us + (end_us - start_us) * (2 * np.arange(count, dtype=np.int64) + 1) // (2 * count)


def windows(
    seed: int,
    seconds: float,
    window_us: int = 1_000_000,
    hop_us: int = 500_000,
    drafter_span_us: int = 400_000,
    mix: Mix = "seen",
) -> Iterator[Sample]:
    """The windows of the first `seconds` of one seed's street; starts, ends and hops are multiples of 50 ms."""
    simulator = Simulator(seed, mix)
    recent: deque[Chunk] = deque()
    end_us = window_us
    while end_us <= seconds * 1e6:
        while not recent or recent[-1].end_us < end_us:
            recent.append(next(simulator))
        while recent[0].end_us <= end_us - window_us:
            recent.popleft()
        yield _cut(simulator, recent, end_us - window_us, end_us, drafter_span_us)
        end_us += hop_us


def _cut(simulator: Simulator, chunks: deque[Chunk], start_us: int, end_us: int, span_us: int) -> Sample:
    taken = [chunk.frame for chunk in chunks if chunk.frame is not None and start_us <= chunk.frame.t_us < end_us]
    times = np.array([frame.t_us for frame in taken], np.int64)
    nearest = np.abs(times[None, :] - frame_instants(start_us, end_us)[:, None]).argmin(axis=1)
    events = np.concatenate([chunk.events for chunk in chunks if end_us - span_us < chunk.end_us <= end_us])
    tracks_us = np.arange(start_us, end_us + 1, TRACK_PERIOD_US, dtype=np.int64)
    return Sample(
        start_us=start_us,
        end_us=end_us,
        frames=np.stack([taken[i].pixels for i in nearest]),
        frames_us=times[nearest],
        events=events[np.searchsorted(events["t"], end_us - span_us) :],
        truth=simulator.truth(start_us, end_us),
        tracks=tuple(simulator.boxes(int(t)) for t in tracks_us),
        tracks_us=tracks_us,
    )
