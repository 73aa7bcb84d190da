"""Dense supervision of a vision tower: what each patch shows, what each image shows and where, and how things move.

The heads exist only while training. Every patch is a lesson of its own, which is why a tower learns from thousands of
windows what it would otherwise need millions for; and position is what makes motion easy: it is then a difference.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.demo.data import SLOTS, SPEEDS
from models.demo.world.vocabulary import COLOURS, DIRECTIONS, KINDS

NAMED = (len(KINDS), len(COLOURS), len(DIRECTIONS))  # what the first three numbers of a `seen` row name
PLACED = 5  # the others: centre x, centre y, width, height, log scale
IMAGE_SIZES = (1, *NAMED, PLACED)  # presence first
PATCH_SIZES = (1 + len(KINDS), *NAMED[1:], PLACED)  # kind 0: nothing
WINDOW_SIZES = (len(KINDS), len(COLOURS), 2, len(DIRECTIONS) + 1, len(SPEEDS))  # as in a row of Street.truth

POSITION_WEIGHT = 10.0
MOTION_WEIGHT = 20.0
PATCH_WEIGHT = 2.0
EXACT = 0.02  # widths of the square: an error below it counts by its square, one above it by its size


class SightHeads(nn.Module):
    """Reads the patches of an image, one vector of it, and that vector of all of a window's images together."""

    def __init__(self, patch_width: int, width: int, images: int, grid: int, colour: bool) -> None:
        super().__init__()
        self.patch = nn.Linear(patch_width, sum(PATCH_SIZES))
        self.image = nn.Linear(width, SLOTS * sum(IMAGE_SIZES))
        self.window = nn.Sequential(
            nn.Linear(width * images, 128), nn.GELU(), nn.Linear(128, SLOTS * sum(WINDOW_SIZES))
        )
        self.colour = 1.0 if colour else 0.0  # events do not show it
        middles = (torch.arange(grid) + 0.5) / grid
        places = torch.stack([middles.repeat(grid), middles.repeat_interleave(grid)], -1)  # [grid², 2] as x, y
        self.register_buffer("places", places, persistent=False)
        self.places: Tensor

    def loss(self, patches: Tensor, features: Tensor, seen: Tensor, truth: Tensor) -> Tensor:
        """patches [B, t, grid², C], features [B, t, D]; seen [B, t, 2, 8] and truth [B, 2, 5] as in Street."""
        dense = self._patch_loss(patches, seen)
        return PATCH_WEIGHT * dense + self._image_loss(features, seen) + self._window_loss(features, truth)

    def _patch_loss(self, patches: Tensor, seen: Tensor) -> Tensor:
        """Each patch names what covers its middle, the nearest first, and points to that object's centre."""
        covered, owner = (part.reshape(*seen.shape[:2], -1) for part in owners(self.places, seen.flatten(0, 1)))
        told = seen.gather(2, owner[..., None].expand(-1, -1, -1, seen.shape[-1]))  # [B, t, grid², 8]
        kind, colour, facing, position = self.patch(patches).split(PATCH_SIZES, -1)
        wanted = torch.where(covered, told[..., 0] + 1, 0.0).long()
        loss = functional.cross_entropy(kind.flatten(0, 2), wanted.flatten())
        loss = loss + 0.5 * functional.cross_entropy(facing[covered], told[..., 2][covered].long())
        loss = loss + 0.5 * self.colour * functional.cross_entropy(colour[covered], told[..., 1][covered].long())
        position = torch.cat([position[..., :2] + self.places, position[..., 2:]], -1)
        wide = functional.smooth_l1_loss(position[covered], told[covered][:, 3:], beta=EXACT)
        return loss + 0.5 * POSITION_WEIGHT * wide + 0.5 * MOTION_WEIGHT * _patch_motion(position, covered, owner, seen)

    def _image_loss(self, features: Tensor, seen: Tensor) -> Tensor:
        said = self.image(features).unflatten(-1, (SLOTS, -1))  # [B, t, 2, …]
        presence, kind, colour, facing, position = said.split(IMAGE_SIZES, -1)
        there = seen[..., 0] >= 0
        loss = functional.binary_cross_entropy_with_logits(presence[..., 0], there.float())
        for weight, logits, i in ((1.0, kind, 0), (self.colour, colour, 1), (1.0, facing, 2)):
            loss = loss + weight * functional.cross_entropy(logits[there], seen[..., i][there].long())
        loss = loss + POSITION_WEIGHT * functional.smooth_l1_loss(position[there], seen[..., 3:][there], beta=EXACT)
        return loss + MOTION_WEIGHT * _motion_loss(position, seen)

    def _window_loss(self, features: Tensor, truth: Tensor) -> Tensor:
        said = self.window(features.flatten(1)).unflatten(-1, (SLOTS, -1))  # [B, 2, …]
        there = truth[..., 0] >= 0
        weights = (1.0, self.colour, 1.0, 1.0, 1.0)
        losses = [
            weight * functional.cross_entropy(logits[there], truth[..., i][there].long())
            for i, (weight, logits) in enumerate(zip(weights, said.split(WINDOW_SIZES, -1), strict=True))
        ]
        return torch.stack(losses).sum() / 2


def owners(places: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Whether an object of `seen` [N, 2, 8] covers each place (x, y), and which, the nearest first: [N, n].

    places: [n, 2], or [N, n, 2].
    """
    x, y = (places[..., i] if places.ndim == 2 else places[:, None, :, i] for i in (0, 1))
    slots = seen[:, :, None]  # [N, 2, 1, 8]
    inside = (
        ((x - slots[..., 3]).abs() <= slots[..., 5] / 2)
        & ((y - slots[..., 4]).abs() <= slots[..., 6] / 2)
        & (slots[..., 0] >= 0)
    )  # [N, 2, n]
    return inside.any(1), inside.float().argmax(1)  # the first slot that covers it


def _patch_motion(position: Tensor, covered: Tensor, owner: Tensor, seen: Tensor) -> Tensor:
    """The same from each object's patches, which `position` [B, t, grid², 5] together, by the mean."""
    own = (torch.stack([owner == slot for slot in range(SLOTS)], 2) & covered[:, :, None]).float()  # [B, t, 2, grid²]
    count = own.sum(-1, keepdim=True)
    return _motion_loss(own @ position / count.clamp(min=1), seen, count[..., 0] > 0)


def _motion_loss(position: Tensor, seen: Tensor, among: Tensor | None = None) -> Tensor:
    """How far an object moved and grew between any two images: an error that both share does no harm.

    position [B, t, 2, 5], seen [B, t, 2, 8]; `among` [B, t, 2]: where there is a position at all.
    """
    there = seen[..., 0] >= 0 if among is None else (seen[..., 0] >= 0) & among
    same = there[:, :, None] & there[:, None] & (seen[:, :, None, :, :2] == seen[:, None, :, :, :2]).all(-1)
    said, true = (each[:, :, None] - each[:, None] for each in (position, seen[..., 3:]))  # [B, t, t, 2, 5]
    return functional.smooth_l1_loss(said[same], true[same], beta=EXACT / 2)
