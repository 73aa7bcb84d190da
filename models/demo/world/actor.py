"""One object's life: a chain of segments with constant velocity, in street coordinates."""

from bisect import bisect_right
from dataclasses import dataclass
from math import exp

from models.demo.world.vocabulary import Colour, Direction, Kind


@dataclass(frozen=True)
class Segment:
    """Constant motion from `start_us` on; `direction` is None while standing."""

    start_us: int
    x: float
    scale: float
    velocity_px_s: float
    growth_per_s: float
    facing: Direction
    direction: Direction | None
    turns: float
    turns_per_s: float


@dataclass(frozen=True)
class State:
    """Where an object is and how it is drawn at one instant; `turns` drives legs and wheels."""

    x: float
    scale: float
    facing: Direction
    turns: float


@dataclass(frozen=True)
class Actor:
    """An object and its segments, the first of which starts at `start_us`."""

    number: int
    kind: Kind
    colour: Colour
    segments: tuple[Segment, ...]
    end_us: int

    @property
    def start_us(self) -> int:
        """When it exists first (still outside the picture)."""
        return self.segments[0].start_us

    @property
    def largest_scale(self) -> float:
        """The largest scale it ever has (scale is monotonic within a segment)."""
        instants = [segment.start_us for segment in self.segments] + [self.end_us]
        return max(self.at(t).scale for t in instants)

    def at(self, t_us: int) -> State:
        """Its state at a time of its life."""
        i = max(bisect_right(self.segments, t_us, key=lambda segment: segment.start_us) - 1, 0)
        return advance(self.segments[i], t_us)


def advance(segment: Segment, t_us: int) -> State:
    """The state that a segment reaches at a time."""
    seconds = (t_us - segment.start_us) / 1e6
    return State(
        x=segment.x + segment.velocity_px_s * seconds,
        scale=segment.scale * exp(segment.growth_per_s * seconds),
        facing=segment.facing,
        turns=segment.turns + segment.turns_per_s * seconds,
    )
