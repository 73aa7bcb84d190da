"""What is true of a scene, as frozen values: the boxes of an instant and the attributes of a window."""

from dataclasses import dataclass

from models.demo.world.vocabulary import Colour, Direction, Distance, Kind, Speed


@dataclass(frozen=True)
class ObjectBox:
    """One object at one instant: its box in sensor pixels, and the share of it inside the crop and unhidden.

    `number` names the same object at other instants; `scale` is 1 / depth in units of the near distance.
    """

    number: int
    kind: Kind
    colour: Colour
    facing: Direction
    left: float
    top: float
    right: float
    bottom: float
    visible: float
    scale: float


@dataclass(frozen=True)
class ObjectTruth:
    """What a caption should say of one object; `direction` is None exactly when it stands."""

    kind: Kind
    colour: Colour
    distance: Distance
    direction: Direction | None
    speed: Speed


@dataclass(frozen=True)
class SceneTruth:
    """The most salient objects of a window (at most two), nearest first."""

    objects: tuple[ObjectTruth, ...]
