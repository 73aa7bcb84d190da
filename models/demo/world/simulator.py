"""The robot's two sensors in the demo street: an endless iterator of event chunks and colour frames."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.demo.world.events import EventModel, Events, EventSimulator
from models.demo.world.observer import observe
from models.demo.world.scene import Scene
from models.demo.world.truth import ObjectBox, SceneTruth
from models.demo.world.vocabulary import Mix


@dataclass(frozen=True)
class Frame:
    """A colour frame: RGB uint8 [260, 346, 3] and when it was taken."""

    t_us: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Chunk:
    """What the sensors delivered in [start_us, end_us): sorted events, and the frame if one was taken."""

    start_us: int
    end_us: int
    events: Events
    frame: Frame | None


class Simulator:
    """An endless, seeded street in sensor time (integer microseconds from 0); the same seed gives the same bytes."""

    def __init__(
        self,
        seed: int,
        mix: Mix = "all",
        step_us: int = 10_000,
        frame_period_us: int = 100_000,
        model: EventModel | None = None,
    ) -> None:
        """mix: which combinations of kind, colour and direction appear; frame_period_us: a multiple of step_us."""
        if frame_period_us % step_us:
            raise ValueError(f"frame_period_us {frame_period_us} is not a multiple of step_us {step_us}")
        self.step_us, self.frame_period_us = step_us, frame_period_us
        self._scene = Scene(seed, mix)
        self._sensor = EventSimulator(np.random.default_rng((seed, 1)), model)
        self._sensor.step(-1, self._scene.luminance(0))
        self._now_us = 0

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        """Advance by one step."""
        start_us, self._now_us = self._now_us, self._now_us + self.step_us
        frame = None
        if start_us % self.frame_period_us == 0:
            frame = Frame(start_us, self._scene.frame(start_us))
            self._scene.forget_before(start_us)
        # Events of the half-open chunk: the model's step is (before, until].
        events = self._sensor.step(self._now_us - 1, self._scene.luminance(self._now_us))
        return Chunk(start_us, self._now_us, events, frame)

    def truth(self, start_us: int, end_us: int) -> SceneTruth:
        """What is true at the end of a window (its last 0.3 s); known from a minute back to any time ahead."""
        return observe(self._scene, start_us, end_us)

    def boxes(self, t_us: int) -> tuple[ObjectBox, ...]:
        """Where the objects are at a time, nearest first, in sensor pixels; some may be out of view."""
        return self._scene.boxes(t_us)
