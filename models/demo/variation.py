"""Windows made into others that are as true: mirrored, moved, stopped, in other colours.

A window that stops differs from one that goes on in its motion alone, which a network otherwise guesses from the way
that a thing faces; other colours keep a kind from being known by the colour that it had on the streets of training.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from models.demo.data import LEFT, NONE, RIGHT, SPEEDS, is_shown
from models.demo.world.vocabulary import COLOURS

SHIFT = 6  # pixels by which a window is moved, any way
STOPPED = 0.12  # share of the windows: with those that stand anyway about as many as move slowly
DRIFT = 0.35  # pixels from image to image by which the robot may look round a stopped street
SHAKE = 0.25  # and shake

Squares = NDArray[np.uint8]  # [t, S, S, 3]: the images of a window
Seen = NDArray[np.float32]  # [t, 2, 8], as in Street
Truth = NDArray[np.int8]  # [2, 5]

_CHANNELS = tuple(COLOURS.index(name) for name in ("red", "green", "blue"))
_YELLOW = COLOURS.index("yellow")  # red and green


def mirrored(squares: Squares, seen: Seen, truth: Truth) -> tuple[Squares, Seen, Truth] | None:
    """The mirror image; None when that would show a combination kept from training."""
    truth, seen = truth.copy(), seen.copy()
    truth[:, 3] = _other_way(truth[:, 3])
    if not is_shown(truth):
        return None
    there = seen[..., 0] >= 0
    seen[..., 2] = np.where(there, _other_way(seen[..., 2]), seen[..., 2])
    seen[..., 3] = np.where(there, 1 - seen[..., 3], seen[..., 3])
    return squares[:, :, ::-1], seen, truth


def moved(squares: Squares, seen: Seen, rng: np.random.Generator) -> tuple[Squares, Seen]:
    """All images moved alike by up to SHIFT pixels, the edge repeated."""
    x, y = rng.integers(-SHIFT, SHIFT + 1, 2).tolist()
    side = squares.shape[1]
    wide = np.pad(squares, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    seen = seen.copy()
    seen[..., 3:5] += np.where(seen[..., :1] >= 0, np.array([x, y], np.float32) / side, 0)
    return wide[:, SHIFT - y : SHIFT - y + side, SHIFT - x : SHIFT - x + side], seen


def stopped(squares: Squares, seen: Seen, truth: Truth, rng: np.random.Generator) -> tuple[Squares, Seen, Truth]:
    """Everything as it is in the last image, from the first one or from the middle; the robot may still look round."""
    count, side = squares.shape[:2]
    first = int(rng.integers(2)) * (count // 2)
    squares, seen, truth = squares.copy(), seen.copy(), truth.copy()
    still = count - first
    offsets = (np.arange(still) - still + 1) * rng.uniform(-DRIFT, DRIFT) + rng.uniform(-SHAKE, SHAKE, still)
    squares[first:] = [_shifted(squares[-1], offset) for offset in offsets.tolist()]
    seen[first:] = seen[-1]
    seen[first:, :, 3] += np.where(seen[first:, :, 0] >= 0, (offsets / side)[:, None], 0)
    there = truth[:, 0] >= 0
    truth[:, 3], truth[:, 4] = np.where(there, [[NONE], [SPEEDS.index("standing")]], truth[:, 3:].T)
    return squares, seen, truth


def recoloured(
    squares: Squares, seen: Seen, truth: Truth, rng: np.random.Generator
) -> tuple[Squares, Seen, Truth] | None:
    """Channels exchanged, and with them red, green and blue. None where that would show a combination kept from
    training, or make of yellow what has no name here."""
    orders = list(permutations(range(3)))
    order = orders[int(rng.integers(1, len(orders)))]
    yellow = (truth[:, 1] == _YELLOW).any() or (seen[..., 1] == _YELLOW).any()
    if yellow and order[2] != 2:
        return None
    names = {_CHANNELS[old]: _CHANNELS[new] for new, old in enumerate(order)}  # channel `new` shows what `old` did
    truth, seen = truth.copy(), seen.copy()
    for colours in (truth[:, 1], seen[..., 1]):
        before = colours.copy()
        for old, new in names.items():
            colours[before == old] = new
    return (squares[..., list(order)], seen, truth) if is_shown(truth) else None


def _other_way(directions: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.where(directions == LEFT, RIGHT, np.where(directions == RIGHT, LEFT, directions))


def _shifted(image: Squares, by: float) -> Squares:
    """One image [S, S, 3] moved to the right by a fraction of pixels, its edge repeated."""
    places = np.clip(np.arange(image.shape[1]) - by, 0, image.shape[1] - 1)
    left = np.minimum(places.astype(np.int64), image.shape[1] - 2)
    share = (places - left)[None, :, None]
    blended: Squares = np.rint(image[:, left] * (1 - share) + image[:, left + 1] * share).astype(np.uint8)
    return blended
