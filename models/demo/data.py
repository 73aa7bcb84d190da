"""Renders the street once to disk: uint8 pixels exactly as the run time preprocesses them, with truth and positions.

One .npz a seed, so that rendering resumes where it stopped and several processes share it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.demo.recipe import IMAGE
from models.demo.world.captions import caption
from models.demo.world.dataset import frame_instants, windows
from models.demo.world.geometry import CROP_LEFT, HEIGHT, WIDTH
from models.demo.world.observer import observe
from models.demo.world.scene import Scene
from models.demo.world.truth import ObjectBox, ObjectTruth, SceneTruth
from models.demo.world.vocabulary import COLOURS, DIRECTIONS, DISTANCES, KINDS, is_held_out
from models.event_frames import render
from models.preprocess import MEAN, STD, clip_pixels

WINDOW_US, HOP_US, SPAN_US, FRAME_US = 1_000_000, 250_000, 400_000, 100_000
SLOTS = 2  # objects told of a window, nearest first
SPEEDS = ("fast", "slow", "standing")
NONE = len(DIRECTIONS)  # the direction of what stands
LEFT, RIGHT = DIRECTIONS.index("left"), DIRECTIONS.index("right")
LEAST_VISIBLE = 0.3


@dataclass(frozen=True)
class Street:
    """Windows of one or many seeds.

    frames: uint8 [F, S, S, 3], each stored once; index: int32 [W, 8], the frames of a window; seen: float32 [F, 2, 6],
    the nearest objects of a frame (kind, colour, centre x, centre y, width, log scale; kind −1 for none); truth: int8
    [W, 2, 5] (kind, colour, distance, direction, speed; kind −1 for none). With events also their images, uint8
    [W, 5, S, S, 3], and event_seen: float32 [W, 5, 2, 6]; without, those two have W = 0.
    """

    frames: NDArray[np.uint8]
    index: NDArray[np.int32]
    seen: NDArray[np.float32]
    truth: NDArray[np.int8]
    events: NDArray[np.uint8]
    event_seen: NDArray[np.float32]

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


def mirrored(row: NDArray[np.int8]) -> NDArray[np.int8] | None:
    """The truth of the mirror image; None when that would show a combination kept from training."""
    row = row.copy()
    direction = row[:, 3]
    row[:, 3] = np.where(direction == LEFT, RIGHT, np.where(direction == RIGHT, LEFT, direction))
    scene = scene_truth(row)
    return None if any(is_held_out(thing.kind, thing.colour, thing.direction) for thing in scene.objects) else row


def caption_of(row: NDArray[np.int8]) -> str:
    """The true caption of a row of `Street.truth`."""
    return caption(scene_truth(row))


def pixels_of(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stored squares [N, S, S, 3] to the pixels [N, 3, S, S] that `clip_pixels` gave."""
    scaled = (squares.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def prepare(folder: Path, seeds: Sequence[int], seconds: float, events: bool, done: Callable[[], None]) -> None:
    """Render the seeds that are not in the folder yet, on all cores at low priority; `done` is called for each."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [seed for seed in seeds if not (folder / f"{seed}.npz").exists()]
    for _ in range(len(seeds) - len(missing)):
        done()
    cores = max(1, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(cores, get_context("spawn"), initializer=_background) as pool:
        for _ in pool.map(partial(_render_seed, folder, seconds, events), missing):
            done()


def load(folder: Path, seeds: Sequence[int]) -> Street:
    """Every window of the given seeds, joined."""
    parts = []
    for seed in seeds:
        with np.load(folder / f"{seed}.npz") as stored:
            parts.append(Street(**{field.name: stored[field.name] for field in fields(Street)}))
    starts = np.cumsum([0] + [len(part.frames) for part in parts[:-1]])
    joined: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Street)
    }
    joined["index"] = np.concatenate([part.index + start for part, start in zip(parts, starts, strict=True)])
    return Street(**joined)


def _background() -> None:
    os.nice(10)


def _render_seed(folder: Path, seconds: float, events: bool, seed: int) -> None:
    street = _with_events(seed, seconds) if events else _frames_alone(seed, seconds)
    partial_file = folder / f"{seed}.partial.npz"
    np.savez(partial_file, **{field.name: getattr(street, field.name) for field in fields(Street)})
    partial_file.rename(folder / f"{seed}.npz")


def _frames_alone(seed: int, seconds: float) -> Street:
    """The target's side: no event is simulated, which is ten times cheaper."""
    scene = Scene(seed, "seen")
    times = np.arange(0, int(seconds * 1e6), FRAME_US, dtype=np.int64)
    frames: list[NDArray[np.uint8]] = []
    seen, index, truth = [], [], []
    for t_us in times.tolist():
        frames.append(_squares([scene.frame(t_us)])[0])
        seen.append(_seen(scene.boxes(t_us)))
    for end_us in range(WINDOW_US, int(seconds * 1e6) + 1, HOP_US):
        start_us = end_us - WINDOW_US
        inside = np.flatnonzero((times >= start_us) & (times < end_us))
        nearest = np.abs(times[inside][None] - frame_instants(start_us, end_us)[:, None]).argmin(1)
        index.append(inside[nearest])
        truth.append(_truth(observe(scene, start_us, end_us)))
    nothing = np.empty((0, 5, IMAGE, IMAGE, 3), np.uint8), np.empty((0, 5, SLOTS, 6), np.float32)
    return Street(np.stack(frames), np.array(index, np.int32), np.stack(seen), np.stack(truth), *nothing)


def _with_events(seed: int, seconds: float) -> Street:
    """Both sides of the same windows."""
    place: dict[int, int] = {}  # frame time to its place in `frames`
    frames: list[NDArray[np.uint8]] = []
    seen, index, truth, events, event_seen = [], [], [], [], []
    for sample in windows(seed, seconds, WINDOW_US, HOP_US, SPAN_US):
        boxes = dict(zip(sample.tracks_us.tolist(), sample.tracks, strict=True))
        for t_us, image in zip(sample.frames_us.tolist(), sample.frames, strict=True):
            if t_us not in place:
                place[t_us] = len(frames)
                frames.append(_squares([image])[0])
                seen.append(_seen(boxes[t_us]))
        index.append([place[t_us] for t_us in sample.frames_us.tolist()])
        truth.append(_truth(sample.truth))
        stream = sample.events
        images = render(stream["x"], stream["y"], stream["p"], resolution=(WIDTH, HEIGHT))
        events.append(_squares(list(images)))
        middles = [(2 * i + 1) * len(stream) // 10 for i in range(5)]
        instants = stream["t"][middles] if len(stream) else np.full(5, sample.end_us)
        nearest = np.abs(sample.tracks_us[None] - np.asarray(instants, np.int64)[:, None]).argmin(1)
        event_seen.append(np.stack([_seen(sample.tracks[i]) for i in nearest]))
    return Street(
        np.stack(frames),
        np.array(index, np.int32),
        np.stack(seen),
        np.stack(truth),
        np.stack(events),
        np.stack(event_seen),
    )


def _squares(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What `clip_pixels` made of each image, before its normalisation: uint8 [N, S, S, 3], exactly invertible."""
    pixels = clip_pixels(images, IMAGE).transpose(0, 2, 3, 1)
    return np.rint((pixels * np.array(STD, np.float32) + np.array(MEAN, np.float32)) * 255).astype(np.uint8)


def _seen(boxes: Sequence[ObjectBox]) -> NDArray[np.float32]:
    """The nearest visible objects of an instant, [2, 6]; lengths in widths of the square crop (HEIGHT pixels)."""
    rows = np.full((SLOTS, 6), -1, np.float32)
    visible = [box for box in boxes if box.visible > LEAST_VISIBLE]
    for row, box in zip(rows, visible, strict=False):
        row[0], row[1] = KINDS.index(box.kind), COLOURS.index(box.colour)
        row[2] = ((box.left + box.right) / 2 - CROP_LEFT) / HEIGHT
        row[3] = (box.top + box.bottom) / 2 / HEIGHT
        row[4] = (box.right - box.left) / HEIGHT
        row[5] = np.log(box.scale)
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
