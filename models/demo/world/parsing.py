"""Reads attributes back out of a caption, in any wording and with mistakes, for the quality figures."""

import re
from typing import TypedDict

from models.demo.world.truth import SceneTruth
from models.demo.world.vocabulary import COLOURS, KINDS


class Attributes(TypedDict):
    """What a caption says of one object; None where it says nothing (and for the direction of one that stands)."""

    kind: str | None
    distance: str | None
    direction: str | None
    speed: str | None
    colour: str | None


_CLAUSE = re.compile(r"[.;]|, and | and |, while ")
_SIGNS: dict[str, dict[str, re.Pattern[str]]] = {
    "distance": {
        "near": re.compile(r"\b(close|nearby|just in front)\b"),
        "far": re.compile(r"\b(distance|far off|distant|long way off)\b"),
    },
    "direction": {
        "left": re.compile(r"\bleft(ward)?\b"),
        "right": re.compile(r"\bright(ward)?\b"),
        "toward": re.compile(r"\btoward\b"),
        "away": re.compile(r"\baway\b"),
    },
    "speed": {
        "fast": re.compile(r"\b(quickly|high speed|fast|quick)\b"),
        "slow": re.compile(r"\b(slowly|low speed|gently|slow)\b"),
        "standing": re.compile(r"\b(stands still|waiting|not moving|resting)\b"),
    },
}
_KIND = re.compile(rf"\b({'|'.join(KINDS)})\b")
_COLOUR = re.compile(rf"\b({'|'.join(COLOURS)})\b")


def attributes(truth: SceneTruth) -> list[Attributes]:
    """The truth in the form that `parse` returns."""
    return [
        Attributes(
            kind=thing.kind,
            distance=thing.distance,
            direction=thing.direction,
            speed=thing.speed,
            colour=thing.colour,
        )
        for thing in truth.objects
    ]


def parse(text: str) -> list[Attributes]:
    """The objects that a caption describes, in its order: `parse(caption(truth)) == attributes(truth)`."""
    things: list[Attributes] = []
    colours: list[str] = []
    for clause in _CLAUSE.split(text.lower()):
        kind = _KIND.search(clause)
        if kind is None:
            continue
        colour = _COLOUR.search(clause)
        if colour is not None:
            colours.append(colour[1])
            continue
        things.append(
            Attributes(
                kind=kind[1],
                distance=_sign("distance", clause),
                direction=_sign("direction", clause),
                speed=_sign("speed", clause),
                colour=None,
            )
        )
    for thing, said in zip(things, colours, strict=False):
        thing["colour"] = said
    return things


def _sign(attribute: str, clause: str) -> str | None:
    return next((value for value, sign in _SIGNS[attribute].items() if sign.search(clause)), None)
