"""Pastes sprites at any sub-pixel position and scale, and keeps the few that are in use."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.demo.world.actor import Actor, State
from models.demo.world.background import LUMA, Planes
from models.demo.world.geometry import ground_y
from models.demo.world.sprites import PHASES, UNIT_PX, Sprite, draw
from models.demo.world.vocabulary import Direction


@dataclass(frozen=True)
class Texture:
    """One painted phase as planes: premultiplied RGB + alpha [4, h, w] and luma + alpha [2, h, w]."""

    sprite: Sprite
    colour: Planes
    luma: Planes


class Wardrobe:
    """Textures by object, view and phase, painted when first needed and dropped with the object."""

    def __init__(self) -> None:
        self._textures: dict[int, dict[tuple[Direction, int], Texture]] = {}

    def texture(self, actor: Actor, state: State) -> Texture:
        """The texture for an object's present view and phase, at its largest scale."""
        phases = self._textures.setdefault(actor.number, {})
        key = (state.facing, int(state.turns * PHASES) % PHASES)
        if key not in phases:
            phases[key] = _paint(actor, *key)
        return phases[key]

    def keep_only(self, numbers: set[int]) -> None:
        """Forget every object that is not among these."""
        for number in self._textures.keys() - numbers:
            del self._textures[number]


def _paint(actor: Actor, facing: Direction, phase: int) -> Texture:
    sprite = draw(actor.kind, actor.colour, facing, phase, UNIT_PX[actor.kind] * actor.largest_scale)
    planes = np.ascontiguousarray(sprite.pixels.transpose(2, 0, 1))
    luma = np.tensordot(LUMA, planes[:3], axes=1)
    return Texture(sprite, planes, np.stack([luma, planes[3]]))


@dataclass(frozen=True)
class Placement:
    """Where a texture's top left corner lies in the picture, and its magnification."""

    left: float
    top: float
    zoom: float


def place(texture: Texture, actor: Actor, state: State, shift: tuple[float, float]) -> Placement:
    """Stand an object on the ground; shift: from street x and ground y to the picture (pixels)."""
    sprite = texture.sprite
    zoom = UNIT_PX[actor.kind] * state.scale / sprite.unit
    left = state.x + shift[0] - sprite.origin_x * zoom
    return Placement(left, ground_y(state.scale) + shift[1] - sprite.origin_y * zoom, zoom)


def paste(image: Planes, planes: Planes, placement: Placement) -> None:
    """Blend a texture's planes [C + 1, h, w] into an image [C, H, W] in place, bilinearly."""
    left, top, zoom = placement.left, placement.top, placement.zoom
    rows, row_index, row_weight = _sampling(top, zoom, planes.shape[1], image.shape[1])
    columns, column_index, column_weight = _sampling(left, zoom, planes.shape[2], image.shape[2])
    if row_index.size == 0 or column_index.size == 0:
        return
    tall = _between(planes, row_index, row_weight[:, None], axis=1)
    patch = _between(tall, column_index, column_weight, axis=2)
    target = image[:, rows, columns]
    target *= 1 - patch[-1]
    target += patch[:-1]


def _between(planes: Planes, index: NDArray[np.intp], weight: Planes, axis: int) -> Planes:
    """Linear interpolation between neighbours along an axis."""
    start, size = int(index[0]), index.size
    if index[-1] - start == size - 1:  # unmagnified: views instead of gathers
        ahead = (slice(None),) * axis
        first, second = planes[*ahead, start : start + size], planes[*ahead, start + 1 : start + 1 + size]
    else:
        first, second = planes.take(index, axis=axis), planes.take(index + 1, axis=axis)
    mixed: Planes = second - first
    mixed *= weight
    mixed += first
    return mixed


def _sampling(start: float, zoom: float, size: int, limit: int) -> tuple[slice, NDArray[np.intp], Planes]:
    """Which output pixels of one axis a texture of `size` covers, and where in it (index, weight) each one looks."""
    first = max(int(np.ceil(start + 0.5 * zoom - 0.5)), 0)
    last = min(int(np.floor(start + (size - 1.5) * zoom - 0.5)), limit - 1)
    position = (np.arange(first, max(last + 1, first)) + 0.5 - start) / zoom - 0.5
    index = np.clip(position.astype(np.intp), 0, size - 2)
    return slice(first, max(last + 1, first)), index, (position - index).astype(np.float32)
