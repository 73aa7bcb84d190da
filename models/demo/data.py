"""Renders windows of the street to disk: uint8 pixels exactly as the run time preprocesses them, truth and positions.

A network learns from how many different things it sees, not from how long it sees each: the windows of a seed lie far
enough apart for new objects to have come. One .npz a seed, so that rendering resumes where it stopped and several
processes share it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.demo.recipe import IMAGE
from models.demo.world.captions import caption
from models.demo.world.dataset import FRAMES, frame_instants
from models.demo.world.events import Events, EventSimulator
from models.demo.world.geometry import CROP_LEFT, HEIGHT, WIDTH
from models.demo.world.observer import observe
from models.demo.world.scene import Scene
from models.demo.world.truth import ObjectBox, ObjectTruth, SceneTruth
from models.demo.world.vocabulary import COLOURS, DIRECTIONS, DISTANCES, KINDS, is_held_out
from models.event_frames import render
from models.preprocess import MEAN, STD, clip_pixels

Side = Literal["frames", "events"]  # the target's images of a window, or the drafter's

WINDOW_US, SPAN_US, FRAME_US = 1_000_000, 400_000, 100_000
FIRST_END_US, STRIDE_US, JITTER_US = 1_500_000, 3_500_000, 1_000_000
SENSOR_STEP_US, SETTLING_US = 20_000, 100_000
EVENT_FRAMES = 5
SLOTS = 2  # objects told of a window, nearest first
SEEN = 8  # numbers of an object in a frame
SPEEDS = ("fast", "slow", "standing")
NONE = len(DIRECTIONS)  # the direction of what stands
LEFT, RIGHT = DIRECTIONS.index("left"), DIRECTIONS.index("right")
LEAST_VISIBLE = 0.3


@dataclass(frozen=True)
class Street:
    """Windows of one or many seeds, as one side sees them.

    images: uint8 [W, t, S, S, 3] (8 frames, or 5 event frames); seen: float32 [W, t, 2, 8], the nearest objects of an
    image (kind, colour, facing, centre x, centre y, width, height, log scale; kind −1 for none; lengths in widths of
    the square); truth: int8 [W, 2, 5] (kind, colour, distance, direction, speed; kind −1 for none).
    """

    images: NDArray[np.uint8]
    seen: NDArray[np.float32]
    truth: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.truth)


def scene_truth(row: NDArray[np.int8]) -> SceneTruth:
    """A row [2, 5] of `Street.truth` as the world's own value."""
    return SceneTruth(
        tuple(
            ObjectTruth(
                KINDS[kind],
                COLOURS[colour],
                DISTANCES[distance],
                None if direction == NONE else DIRECTIONS[direction],
                SPEEDS[speed],  # type: ignore[arg-type]
            )
            for kind, colour, distance, direction, speed in row.tolist()
            if kind >= 0
        )
    )


def is_shown(row: NDArray[np.int8]) -> bool:
    """Whether training may show what a row of `Street.truth` tells: no combination that is kept from it."""
    things = scene_truth(row).objects
    return not any(is_held_out(thing.kind, thing.colour, thing.direction) for thing in things)


def caption_of(row: NDArray[np.int8]) -> str:
    """The true caption of a row of `Street.truth`."""
    return caption(scene_truth(row))


def pixels_of(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stored squares [N, S, S, 3] to the pixels [N, 3, S, S] that `clip_pixels` gave."""
    scaled = (squares.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def prepare(folder: Path, seeds: Sequence[int], windows: int, done: Callable[[], None]) -> None:
    """Render the seeds that are not in the folder yet, on all cores at low priority; `done` is called for each."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not (folder / f"{seed}.npz").exists()]
    for _ in range(len(seeds) - len(missing)):
        done()
    cores = max(1, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(cores, get_context("spawn"), initializer=_background) as pool:
        for _ in pool.map(partial(_render_seed, folder, windows), missing):
            done()


def load(folder: Path, seeds: Sequence[int], side: Side) -> Street:
    """Every window of the given seeds, one side of them."""
    with np.load(folder / f"{seeds[0]}.npz") as first:
        each, shape, seen_shape = len(first["truth"]), first[side].shape[1:], first[f"{side}_seen"].shape[1:]
    images = np.empty((each * len(seeds), *shape), np.uint8)  # filled in place: joining would need it twice
    seen = np.empty((each * len(seeds), *seen_shape), np.float32)
    truth = np.empty((each * len(seeds), SLOTS, 5), np.int8)
    for i, seed in enumerate(seeds):
        part = slice(i * each, (i + 1) * each)
        with np.load(folder / f"{seed}.npz") as stored:
            images[part], seen[part], truth[part] = stored[side], stored[f"{side}_seen"], stored["truth"]
    return Street(images, seen, truth)


def _background() -> None:
    os.nice(10)


def _render_seed(folder: Path, windows: int, seed: int) -> None:
    scene, rng = Scene(seed, "seen"), np.random.default_rng((seed, 2))
    rows: dict[str, list[NDArray[Any]]] = {}
    for end_us in _ends(rng, windows):
        scene.forget_before(end_us - WINDOW_US)
        for name, value in _window(scene, rng, end_us):
            rows.setdefault(name, []).append(value)
    partial_file = folder / f"{seed}.partial.npz"
    columns: dict[str, Any] = {name: np.stack(values) for name, values in rows.items()}
    np.savez(partial_file, **columns)
    partial_file.rename(folder / f"{seed}.npz")


def _ends(rng: np.random.Generator, windows: int) -> list[int]:
    """When the windows of a street end: no two show the same moment, few the same object."""
    return [FIRST_END_US + i * STRIDE_US + int(rng.integers(JITTER_US)) for i in range(windows)]


def _window(scene: Scene, rng: np.random.Generator, end_us: int) -> Iterator[tuple[str, NDArray[np.generic]]]:
    start_us = end_us - WINDOW_US
    times = np.arange(start_us + int(rng.integers(FRAME_US)), end_us, FRAME_US)
    instants = times[np.abs(times[None] - frame_instants(start_us, end_us)[:, None]).argmin(1)].tolist()
    assert len(instants) == FRAMES
    yield "frames", _squares([scene.frame(t_us) for t_us in instants])
    yield "frames_seen", np.stack([_seen(scene.boxes(t_us)) for t_us in instants])
    events = _events(scene, rng, end_us)
    yield "events", _squares(list(render(events["x"], events["y"], events["p"], resolution=(WIDTH, HEIGHT))))
    middles = [(2 * i + 1) * len(events) // (2 * EVENT_FRAMES) for i in range(EVENT_FRAMES)]
    yield "events_seen", np.stack([_seen(scene.boxes(int(t_us))) for t_us in events["t"][middles]])
    yield "truth", _truth(observe(scene, start_us, end_us))


def _events(scene: Scene, rng: np.random.Generator, end_us: int) -> Events:
    """The drafter's span of events, in coarser steps than a recording's, which interpolated timestamps hardly show."""
    start_us = end_us - SPAN_US
    sensor = EventSimulator(rng)
    steps = range(start_us - SETTLING_US, end_us + 1, SENSOR_STEP_US)
    events = np.concatenate([sensor.step(t_us, scene.luminance(t_us)) for t_us in steps])
    recent: Events = events[np.searchsorted(events["t"], start_us) :]
    return recent


def _squares(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What `clip_pixels` made of each image, before its normalisation: uint8 [N, S, S, 3], exactly invertible."""
    pixels = clip_pixels(images, IMAGE).transpose(0, 2, 3, 1)
    return np.rint((pixels * np.array(STD, np.float32) + np.array(MEAN, np.float32)) * 255).astype(np.uint8)


def _seen(boxes: Sequence[ObjectBox]) -> NDArray[np.float32]:
    """The nearest visible objects of an instant, [2, 8]; lengths in widths of the square crop (HEIGHT pixels)."""
    rows = np.full((SLOTS, SEEN), -1, np.float32)
    visible = [box for box in boxes if box.visible > LEAST_VISIBLE]
    for row, box in zip(rows, visible, strict=False):
        row[:3] = KINDS.index(box.kind), COLOURS.index(box.colour), DIRECTIONS.index(box.facing)
        row[3] = ((box.left + box.right) / 2 - CROP_LEFT) / HEIGHT
        row[4] = (box.top + box.bottom) / 2 / HEIGHT
        row[5:] = (box.right - box.left) / HEIGHT, (box.bottom - box.top) / HEIGHT, np.log(box.scale)
    return rows


def _truth(scene: SceneTruth) -> NDArray[np.int8]:
    rows = np.full((SLOTS, 5), -1, np.int8)
    for row, thing in zip(rows, scene.objects, strict=False):
        direction = NONE if thing.direction is None else DIRECTIONS.index(thing.direction)
        row[:] = (
            KINDS.index(thing.kind),
            COLOURS.index(thing.colour),
            DISTANCES.index(thing.distance),
            direction,
            SPEEDS.index(thing.speed),
        )
    return rows
