"""Dense supervision of a vision tower: what is seen in each frame and where, and how a window's objects move.

The heads exist only while training. Position is what makes motion easy: it is then a difference that is found at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.demo.data import SLOTS, SPEEDS
from models.demo.world.vocabulary import COLOURS, DIRECTIONS, KINDS

FRAME_SIZES = (1, len(KINDS), len(COLOURS), 4)  # presence, kind, colour, position
WINDOW_SIZES = (len(KINDS), len(COLOURS), 2, len(DIRECTIONS) + 1, len(SPEEDS))  # as in a row of Street.truth


class SightHeads(nn.Module):
    """Reads one feature vector a frame, and all of a window's together."""

    def __init__(self, width: int, frames: int, colour: bool) -> None:
        super().__init__()
        self.frame = nn.Linear(width, SLOTS * sum(FRAME_SIZES))
        self.window = nn.Sequential(
            nn.Linear(width * frames, 128), nn.GELU(), nn.Linear(128, SLOTS * sum(WINDOW_SIZES))
        )
        self.colour = 1.0 if colour else 0.0  # events do not show it

    def loss(self, features: Tensor, seen: Tensor, truth: Tensor) -> Tensor:
        """features [B, t, C]; seen [B, t, 2, 6] and truth [B, 2, 5] as in Street, of the same frames."""
        return self._frame_loss(features, seen) + self._window_loss(features, truth)

    def _frame_loss(self, features: Tensor, seen: Tensor) -> Tensor:
        said = self.frame(features).unflatten(-1, (SLOTS, -1))  # [B, t, 2, …]
        presence, kind, colour, position = said.split(FRAME_SIZES, -1)
        there = seen[..., 0] >= 0
        loss = functional.binary_cross_entropy_with_logits(presence[..., 0], there.float())
        loss = loss + functional.cross_entropy(kind[there], seen[..., 0][there].long())
        loss = loss + self.colour * functional.cross_entropy(colour[there], seen[..., 1][there].long())
        return loss + 10 * functional.smooth_l1_loss(position[there], seen[..., 2:][there], beta=0.1)

    def _window_loss(self, features: Tensor, truth: Tensor) -> Tensor:
        said = self.window(features.flatten(1)).unflatten(-1, (SLOTS, -1))  # [B, 2, …]
        there = truth[..., 0] >= 0
        weights = (1.0, self.colour, 1.0, 1.0, 1.0)
        losses = [
            weight * functional.cross_entropy(logits[there], truth[..., i][there].long())
            for i, (weight, logits) in enumerate(zip(weights, said.split(WINDOW_SIZES, -1), strict=True))
        ]
        return torch.stack(losses).sum() / 2
