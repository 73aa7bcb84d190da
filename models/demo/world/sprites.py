"""How each kind looks: a side view that walks or rolls by phase, and views from the front and from behind.

One unit is the object's longest side view dimension; `extent` gives the part of it that a box encloses.
"""

from dataclasses import dataclass
from math import cos, pi, sin

from models.demo.world.canvas import Canvas, Image, Rgb
from models.demo.world.figures import draw_cyclist, draw_dog, draw_pedestrian
from models.demo.world.vehicles import draw_ball, draw_car, draw_truck
from models.demo.world.vocabulary import Colour, Direction, Kind

PAINT: dict[Colour, Rgb] = {
    "red": (0.82, 0.08, 0.08),
    "blue": (0.10, 0.22, 0.85),
    "green": (0.05, 0.47, 0.13),
    "yellow": (0.98, 0.84, 0.08),
    "white": (0.97, 0.97, 0.97),
    "black": (0.06, 0.06, 0.07),
}
UNIT_PX: dict[Kind, float] = {"car": 145, "truck": 152, "pedestrian": 140, "cyclist": 135, "ball": 98, "dog": 122}
"""Pixels of one unit at scale 1 (near)."""

PHASES = 16
_DRAW = {
    "car": draw_car,
    "truck": draw_truck,
    "pedestrian": draw_pedestrian,
    "cyclist": draw_cyclist,
    "ball": draw_ball,
    "dog": draw_dog,
}
_SIDE_EXTENT: dict[Kind, tuple[float, float]] = {
    "car": (1.0, 0.40),
    "truck": (1.0, 0.62),
    "pedestrian": (0.46, 1.0),
    "cyclist": (1.0, 0.98),
    "ball": (1.0, 1.0),
    "dog": (1.0, 0.72),
}
_FRONT_EXTENT: dict[Kind, tuple[float, float]] = {
    "car": (0.60, 0.46),
    "truck": (0.56, 0.74),
    "pedestrian": (0.42, 1.0),
    "cyclist": (0.44, 1.0),
    "ball": (1.0, 1.0),
    "dog": (0.38, 0.74),
}


def extent(kind: Kind, facing: Direction) -> tuple[float, float]:
    """Width and height of the object in units, seen as it faces."""
    return (_SIDE_EXTENT if facing in ("left", "right") else _FRONT_EXTENT)[kind]


@dataclass(frozen=True)
class Sprite:
    """A premultiplied RGBA texture [height, width, 4], where it touches the ground, and its pixels a unit."""

    pixels: Image
    origin_x: float
    origin_y: float
    unit: float


def draw(kind: Kind, colour: Colour, facing: Direction, phase: int, unit: float) -> Sprite:
    """Paint one phase (of `PHASES`) of an object at `unit` pixels a unit."""
    width, height = extent(kind, facing)
    canvas = Canvas(unit, width / 2 + 0.08, height + 0.06, below=0.06, mirrored=facing == "left")
    canvas.ellipse((0, 0.0), width * 0.5, 0.05, (0.0, 0.0, 0.0), alpha=0.45)
    angle = 2 * pi * phase / PHASES
    _DRAW[kind](canvas, PAINT[colour], facing, sin(angle), cos(angle))
    return Sprite(canvas.pixels, canvas.origin_x, canvas.origin_y, unit)
