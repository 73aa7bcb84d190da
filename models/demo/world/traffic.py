"""Who is in the street when: two independent lanes of objects, written as far ahead as anyone asks."""

import numpy as np

from models.demo.world.actor import Actor
from models.demo.world.camera import Camera
from models.demo.world.casting import Role, cast
from models.demo.world.vocabulary import KINDS, Distance, Mix

_MEMORY_US = 60_000_000


class Traffic:
    """The objects of an endless street; the same seed gives the same street however it is queried."""

    def __init__(self, rng: np.random.Generator, camera: Camera, mix: Mix) -> None:
        main, side = rng.spawn(2)
        self._camera = camera
        self._lanes = (_Lane(main, camera, mix, busy=True), _Lane(side, camera, mix, busy=False))

    def at(self, t_us: int) -> list[Actor]:
        """The objects that exist at a time, farthest first (the order in which they are painted)."""
        present = [actor for lane in self._lanes for actor in lane.until(t_us) if actor.start_us <= t_us < actor.end_us]
        return sorted(present, key=lambda actor: (actor.at(t_us).scale, actor.number))

    def forget_before(self, t_us: int) -> None:
        """Drop what ended long (a minute) before a time, so that an endless run does not grow."""
        self._camera.forget_before(t_us - _MEMORY_US)
        for lane in self._lanes:
            lane.forget_before(t_us - _MEMORY_US)


class _Lane:
    """A queue of objects, each entering about when the one before it leaves."""

    def __init__(self, rng: np.random.Generator, camera: Camera, mix: Mix, busy: bool) -> None:
        self._rng, self._camera, self._mix, self._busy = rng, camera, mix, busy
        self._actors: list[Actor] = []
        self._count = 0
        # The first object of the busy lane is already there when the recording starts.
        self._next_us = int(rng.uniform(-2.5e6, -0.5e6)) if busy else int(rng.uniform(-1e6, 5e6))

    def until(self, t_us: int) -> list[Actor]:
        while self._next_us < t_us + 15_000_000:
            self._add()
        return self._actors

    def forget_before(self, t_us: int) -> None:
        self._actors = [actor for actor in self._actors if actor.end_us >= t_us]

    def _add(self) -> None:
        rng = self._rng
        far: Distance = "far"
        # The side lane is mostly far, the busy one mostly near: one passes behind the other.
        distance: Distance = "near" if rng.random() < (0.65 if self._busy else 0.25) else far
        role = Role(
            number=2 * self._count + (0 if self._busy else 1),
            kind=KINDS[int(rng.integers(len(KINDS)))],
            distance=distance,
            mix=self._mix,
            enters_us=self._next_us,
            camera_x=self._camera.pan(max(self._next_us, 0)),
        )
        casting = cast(rng, role)
        self._actors.append(casting.actor)
        self._count += 1
        self._next_us = casting.leaves_us + self._pause_us()

    def _pause_us(self) -> int:
        if not self._busy:
            return int(self._rng.uniform(4e6, 14e6))
        return int(self._rng.uniform(0.9e6, 1.8e6) if self._rng.random() < 0.12 else self._rng.uniform(-0.4e6, 0.2e6))
