"""Writes what is true of a scene in one of several wordings: what events show first, colours last."""

from dataclasses import dataclass

from models.demo.world.truth import ObjectTruth, SceneTruth
from models.demo.world.vocabulary import Direction, Distance, Kind, Speed

EMPTY = "The street in front of the robot is empty. Nothing moves, and there is nobody to be seen anywhere on the road."
_LIVING = ("pedestrian", "cyclist", "dog")
_ROLLING = ("car", "truck", "ball")
_VERBS: dict[Kind, tuple[str, str]] = {
    "car": ("drives", "driving"),
    "truck": ("drives", "driving"),
    "pedestrian": ("walks", "walking"),
    "cyclist": ("rides", "riding"),
    "ball": ("rolls", "rolling"),
    "dog": ("runs", "running"),
}


@dataclass(frozen=True)
class Wording:
    """The phrases of one manner of speaking; braces are filled per object."""

    moving: str
    standing: str
    joint: str
    alone: str
    painted: str
    dressed: str
    colour_joint: str
    near: str
    far: str
    fast: str
    slow: str
    left: str
    right: str
    toward: str
    away: str

    def distance(self, distance: Distance) -> str:
        """The phrase for near or far."""
        return {"near": self.near, "far": self.far}[distance]

    def speed(self, speed: Speed) -> str:
        """The phrase for fast or slow; standing has sentences of its own."""
        return {"fast": self.fast, "slow": self.slow, "standing": ""}[speed]

    def direction(self, direction: Direction | None) -> str:
        """The phrase for where it goes."""
        phrases = {"left": self.left, "right": self.right, "toward": self.toward, "away": self.away}
        return phrases[direction] if direction else ""


WORDINGS: tuple[Wording, ...] = (
    Wording(
        moving="{article} {kind} {verb} {speed} {direction}, {distance}",
        standing="{article} {kind} stands still, {distance}",
        joint=", and ",
        alone="Nothing else is to be seen on the street.",
        painted="the {kind} is {colour}",
        dressed="the {kind} wears {colour}",
        colour_joint="; ",
        near="close by",
        far="in the distance",
        fast="quickly",
        slow="slowly",
        left="to the left",
        right="to the right",
        toward="toward us",
        away="away from us",
    ),
    Wording(
        moving="{distance}, {article} {kind} heads {direction} {speed}",
        standing="{distance}, {article} {kind} is waiting",
        joint=", while ",
        alone="There is nothing else on the road right ahead.",
        painted="the {kind} is painted {colour}",
        dressed="the {kind} is clad in {colour}",
        colour_joint=", and ",
        near="just in front",
        far="far off",
        fast="at high speed",
        slow="at low speed",
        left="to the left",
        right="to the right",
        toward="toward the robot",
        away="away from the robot",
    ),
    Wording(
        moving="{article} {distance} {kind} is {gerund} {speed} {direction}",
        standing="{article} {distance} {kind} is not moving at all",
        joint=", and ",
        alone="It has the whole street to itself at the moment.",
        painted="the {kind} is coloured {colour}",
        dressed="the {kind} is dressed in {colour}",
        colour_joint=", and ",
        near="nearby",
        far="distant",
        fast="fast",
        slow="gently",
        left="to the left",
        right="to the right",
        toward="up toward the camera",
        away="away from the camera",
    ),
    Wording(
        moving="{article} {kind} {distance} is {gerund} {direction} at {speed}",
        standing="{article} {kind} {distance} is resting where it is",
        joint=", and ",
        alone="No other thing can be seen in this street now.",
        painted="the {kind} has {colour} paint",
        dressed="the {kind} has {colour} clothes",
        colour_joint=" and ",
        near="close to us",
        far="a long way off",
        fast="a quick pace",
        slow="a slow pace",
        left="leftward",
        right="rightward",
        toward="toward us",
        away="away from us",
    ),
)


def wording_for(truth: SceneTruth) -> int:
    """The wording that the demo's captions use: decided by the first object's kind and distance, which events show."""
    if not truth.objects:
        return 0
    first = truth.objects[0]
    return (0 if first.kind in _ROLLING else 2) + (0 if first.distance == "near" else 1)


def caption(truth: SceneTruth, wording: int | None = None) -> str:
    """Two or three sentences of about twenty to thirty-five words; by default in the scene's own wording."""
    if not truth.objects:
        return EMPTY
    words = WORDINGS[wording_for(truth) if wording is None else wording]
    kinds = [thing.kind for thing in truth.objects]
    repeated = [kind in kinds[:i] for i, kind in enumerate(kinds)]
    pairs = list(zip(truth.objects, repeated, strict=True))
    sentences = [words.joint.join(_motion(words, thing, again) for thing, again in pairs) + "."]
    if len(pairs) == 1:
        sentences.append(words.alone)
    sentences.append(words.colour_joint.join(_colour(words, thing, again) for thing, again in pairs) + ".")
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _motion(words: Wording, thing: ObjectTruth, again: bool) -> str:
    verb, gerund = _VERBS[thing.kind]
    template = words.moving if thing.direction else words.standing
    return template.format(
        article="another" if again else "a",
        kind=thing.kind,
        verb=verb,
        gerund=gerund,
        distance=words.distance(thing.distance),
        speed=words.speed(thing.speed),
        direction=words.direction(thing.direction),
    )


def _colour(words: Wording, thing: ObjectTruth, again: bool) -> str:
    template = words.dressed if thing.kind in _LIVING else words.painted
    return template.format(kind=f"other {thing.kind}" if again else thing.kind, colour=thing.colour)
