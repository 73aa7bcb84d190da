"""The words of the demo world: what an object can be, and which combinations training never shows."""

from typing import Literal, get_args

Kind = Literal["car", "truck", "pedestrian", "cyclist", "ball", "dog"]
Colour = Literal["red", "blue", "green", "yellow", "white", "black"]
Distance = Literal["near", "far"]
Direction = Literal["left", "right", "toward", "away"]
Speed = Literal["fast", "slow", "standing"]
Mix = Literal["all", "seen", "unseen"]

KINDS: tuple[Kind, ...] = get_args(Kind)
COLOURS: tuple[Colour, ...] = get_args(Colour)
DISTANCES: tuple[Distance, ...] = get_args(Distance)
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def held_out_colour(kind: Kind, direction: Direction) -> Colour:
    """The one colour in which training never shows this kind moving in this direction."""
    return COLOURS[(KINDS.index(kind) + DIRECTIONS.index(direction)) % len(COLOURS)]


def is_held_out(kind: Kind, colour: Colour, direction: Direction | None) -> bool:
    """Whether the combination is kept from training (one in six of those that move, none that stand)."""
    return direction is not None and held_out_colour(kind, direction) == colour
