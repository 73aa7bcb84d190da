"""Says what a caption should say: the state of the street at the end of a window, from its boxes over time."""

from collections.abc import Sequence
from itertools import pairwise
from math import log
from statistics import median

from models.demo.world.geometry import NEAR_SCALE
from models.demo.world.scene import Scene
from models.demo.world.truth import ObjectBox, ObjectTruth, SceneTruth
from models.demo.world.vocabulary import Direction, Distance, Speed

RECENT_US = 300_000
"""How far back from its end a window is judged: what both models can see, and what is still true when it is read."""

MOST_OBJECTS = 2
_SAMPLES = 8
_LEAST_VISIBLE = 0.4
_STILL_PX_S, _FAST_PX_S = 13.0, 67.0
_STILL_GROWTH, _FAST_GROWTH = 0.09, 0.34


def observe(scene: Scene, start_us: int, end_us: int) -> SceneTruth:
    """The at most two nearest objects that are more than 40 % visible, on average over the window's last 0.3 s."""
    start_us = max(start_us, end_us - RECENT_US)
    times = [start_us + (end_us - start_us) * i // (_SAMPLES - 1) for i in range(_SAMPLES)]
    histories: dict[int, list[tuple[int, ObjectBox]]] = {}
    for t_us in times:
        for box in scene.boxes(t_us):
            histories.setdefault(box.number, []).append((t_us, box))
    least = _LEAST_VISIBLE * _SAMPLES
    seen = [history for history in histories.values() if sum(box.visible for _, box in history) > least]
    seen.sort(key=lambda history: -sum(box.scale for _, box in history) / len(history))
    return SceneTruth(tuple(_describe(scene, history) for history in seen[:MOST_OBJECTS]))


def _describe(scene: Scene, history: Sequence[tuple[int, ObjectBox]]) -> ObjectTruth:
    """Medians, so that a window in which the motion changes tells the longer part and not a mean of both."""
    velocities, growths = [], []
    for (before_us, before), (after_us, after) in pairwise(history):
        seconds = (after_us - before_us) / 1e6
        moved = (after.left + after.right - before.left - before.right) / 2
        # The camera's own motion is no motion of the object.
        moved += scene.camera.pan(after_us) - scene.camera.pan(before_us)
        moved += scene.camera.vibration(after_us)[0] - scene.camera.vibration(before_us)[0]
        velocities.append(moved / seconds)
        growths.append(log(after.scale / before.scale) / seconds)
    direction, speed = _motion(median(velocities), median(growths))
    distance: Distance = "near" if median(box.scale for _, box in history) >= NEAR_SCALE else "far"
    box = history[-1][1]
    return ObjectTruth(box.kind, box.colour, distance, direction, speed)


def _motion(velocity: float, growth: float) -> tuple[Direction | None, Speed]:
    """Direction and speed from px/s sideways and 1/s in depth, whichever is further above its threshold."""
    if abs(velocity) / _STILL_PX_S >= abs(growth) / _STILL_GROWTH:
        if abs(velocity) < _STILL_PX_S:
            return None, "standing"
        return "right" if velocity > 0 else "left", "fast" if abs(velocity) >= _FAST_PX_S else "slow"
    if abs(growth) < _STILL_GROWTH:
        return None, "standing"
    return "toward" if growth > 0 else "away", "fast" if abs(growth) >= _FAST_GROWTH else "slow"
