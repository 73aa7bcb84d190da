"""Writes the life of one object: it comes in from a side, does one or two things in view, and leaves."""

from dataclasses import dataclass
from math import log

import numpy as np

from models.demo.world.actor import Actor, Segment, advance
from models.demo.world.geometry import CROP_LEFT, CROP_RIGHT, WIDTH
from models.demo.world.sprites import UNIT_PX, extent
from models.demo.world.vocabulary import COLOURS, Colour, Direction, Distance, Kind, Mix, held_out_colour

FAST_PX_S, SLOW_PX_S = (95.0, 150.0), (26.0, 44.0)
FAST_GROWTH, SLOW_GROWTH = (0.42, 0.55), (0.17, 0.24)
_SCALES: dict[Distance, tuple[float, float]] = {"near": (0.70, 1.16), "far": (0.35, 0.60)}
_STRIDE: dict[Kind, float] = {"car": 0.66, "truck": 0.62, "pedestrian": 0.62, "cyclist": 1.32, "ball": 3.14, "dog": 0.8}
"""Units travelled in one turn of the wheels or one pair of steps."""

_MAINS: tuple[tuple[Direction | None, bool], ...] = (
    ("left", True), ("right", True), ("left", False), ("right", False),
    ("toward", True), ("away", True), ("toward", False), ("away", False), (None, False),
)  # fmt: skip
_FIRST = np.array([0.04, 0.04, 0.14, 0.14, 0.14, 0.14, 0.11, 0.11, 0.14])
_THEN = np.array([0.0, 0.0, 0.13, 0.13, 0.16, 0.16, 0.12, 0.12, 0.18])
_CENTRE = (CROP_LEFT + CROP_RIGHT) / 2


@dataclass(frozen=True)
class Role:
    """What is asked of an object: which kind, how far, and when its centre enters the crop."""

    number: int
    kind: Kind
    distance: Distance
    mix: Mix
    enters_us: int
    camera_x: float


@dataclass(frozen=True)
class Casting:
    """The object, and when its centre leaves the crop again."""

    actor: Actor
    leaves_us: int


class _Life:
    """Segments under construction; x in picture coordinates at the time of entry."""

    def __init__(self, kind: Kind, start_us: int, x: float, scale: float) -> None:
        self.kind = kind
        self.now_us, self.x, self.scale, self.turns = start_us, x, scale, 0.0
        self.segments: list[Segment] = []

    def move(self, direction: Direction | None, speed: float, seconds: float, fast: bool) -> None:
        """Go on in a direction at a speed (px/s sideways, 1/s in depth) for a time."""
        sideways = direction in ("left", "right")
        stride_px = _STRIDE[self.kind] * UNIT_PX[self.kind] * self.scale
        cadence = speed / stride_px if sideways else (1.7 if fast else 0.8)
        segment = Segment(
            start_us=self.now_us,
            x=self.x,
            scale=self.scale,
            velocity_px_s={"left": -speed, "right": speed}.get(direction or "", 0.0),
            growth_per_s={"toward": speed, "away": -speed}.get(direction or "", 0.0),
            facing=direction or self.segments[-1].facing,
            direction=direction,
            turns=self.turns,
            turns_per_s=cadence if direction else 0.0,
        )
        self.segments.append(segment)
        self.now_us += int(seconds * 1e6)
        state = advance(segment, self.now_us)
        self.x, self.scale, self.turns = state.x, state.scale, state.turns


def cast(rng: np.random.Generator, role: Role) -> Casting:
    """Write a life that fits the role: entry, one or two things done in view, exit."""
    first, fast = _MAINS[int(rng.choice(len(_MAINS), p=_FIRST / _FIRST.sum()))]
    low, high = _SCALES[role.distance]
    scale = {"toward": low, "away": high}.get(first or "", float(rng.uniform(low + 0.25 * (high - low), high)))
    come: Direction = first if first in ("left", "right") else ("left", "right")[int(rng.integers(2))]
    sign = 1 if come == "right" else -1
    half = _half_width(role.kind, scale)
    edge, outside = (CROP_LEFT, -half - 8) if sign > 0 else (CROP_RIGHT, WIDTH + half + 8)
    crawls = first in ("left", "right") and not fast and rng.random() < 0.5
    speed = _speed(rng, come, fast=not crawls)
    life = _Life(role.kind, role.enters_us - int(abs(edge - outside) / speed * 1e6), outside, scale)
    leave = come
    if first == come and fast:
        life.move(come, speed, (abs(edge - outside) + CROP_RIGHT - CROP_LEFT) / speed, fast=True)
    else:
        goal = _CENTRE - sign * rng.uniform(0, 50) if not crawls else edge + sign * rng.uniform(60, 110)
        life.move(come, speed, abs(goal - outside) / speed, fast=not crawls)
        if not crawls:
            _act(rng, life, first, fast, role.distance)
        if rng.random() < 0.6:
            then, then_fast = _MAINS[int(rng.choice(len(_MAINS), p=_THEN / _THEN.sum()))]
            _act(rng, life, then, then_fast, role.distance)
        leave = ("left", "right")[int(rng.integers(2))]
        life.move(leave, _speed(rng, leave, fast=True), 0.0, fast=True)
    leaves_us, end_us = _exit(life)
    actor = _finish(rng, role, life, end_us, first or come)
    return Casting(actor, leaves_us)


def _half_width(kind: Kind, scale: float) -> float:
    return 0.5 * extent(kind, "right")[0] * UNIT_PX[kind] * scale


def _speed(rng: np.random.Generator, direction: Direction | None, fast: bool) -> float:
    if direction in ("toward", "away"):
        return float(rng.uniform(*(FAST_GROWTH if fast else SLOW_GROWTH)))
    return float(rng.uniform(*(FAST_PX_S if fast else SLOW_PX_S)))


def _act(rng: np.random.Generator, life: _Life, direction: Direction | None, fast: bool, distance: Distance) -> None:
    """Do one thing in view without leaving the crop or the distance class."""
    seconds = float(rng.uniform(1.5, 2.8))
    speed = _speed(rng, direction, fast)
    low, high = _SCALES[distance]
    if direction in ("toward", "away"):
        room = {"toward": log(high / life.scale), "away": log(life.scale / low)}
        if room[direction] < 0.6 * speed:
            direction = "away" if direction == "toward" else "toward"
        seconds = min(seconds, max(room[direction], 0.2) / speed)
    elif direction in ("left", "right"):
        room_px = {"left": life.x - CROP_LEFT - 25, "right": CROP_RIGHT - 25 - life.x}
        if room_px[direction] < speed:
            direction = "left" if direction == "right" else "right"
        seconds = min(seconds, room_px[direction] / speed)
    life.move(direction, speed, seconds, fast)


def _exit(life: _Life) -> tuple[int, int]:
    """When the last segment's centre leaves the crop, and when the object is gone for good."""
    last = life.segments[-1]
    velocity = last.velocity_px_s
    crop_edge, far_edge = (CROP_RIGHT, WIDTH) if velocity > 0 else (CROP_LEFT, 0)
    gone = far_edge + np.sign(velocity) * (_half_width(life.kind, last.scale) + 60)
    leaves = last.start_us + int((crop_edge - last.x) / velocity * 1e6)
    return leaves, last.start_us + int((gone - last.x) / velocity * 1e6)


def _finish(rng: np.random.Generator, role: Role, life: _Life, end_us: int, main: Direction) -> Actor:
    directions = {segment.direction for segment in life.segments if segment.direction}
    held_out = {held_out_colour(role.kind, direction) for direction in directions}
    choices: dict[Mix, list[Colour]] = {
        "all": list(COLOURS),
        "seen": [colour for colour in COLOURS if colour not in held_out],
        "unseen": [held_out_colour(role.kind, main)],
    }
    allowed = choices[role.mix]
    colour = allowed[int(rng.integers(len(allowed)))]
    segments = tuple(_shift(segment, role.camera_x) for segment in life.segments)
    return Actor(role.number, role.kind, colour, segments, end_us)


def _shift(segment: Segment, camera_x: float) -> Segment:
    """From picture to street coordinates."""
    fields = {**segment.__dict__, "x": segment.x + camera_x}
    return Segment(**fields)
