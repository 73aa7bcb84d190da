"""Dense supervision of a decoder half-way: how far each patch's thing has come, whose it is, what the window shows.

A decoder that learns from captions alone takes long to find out that motion is the difference of two patches' places:
one sentence a window says so. Here every patch of every image says it, in layers after which there is still time to
speak of it. The heads exist only while training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.demo.data import SLOTS
from models.demo.sight import EXACT, MOTION_WEIGHT, WINDOW_SIZES, owners

COMPARED = 4  # images of a window, evenly spaced, between which motion is told
MOVES = (3, 4, 7)  # numbers of a `seen` row that tell it: centre x and y, log scale


class MidwayHeads(nn.Module):
    """Reads a decoder's rows: of patches of one image, or of several in the order of time, and the last one before the
    caption."""

    def __init__(self, width: int, colour: bool, several: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.patch = nn.Linear(width, 1 + SLOTS + sum(WINDOW_SIZES))  # whose (0: nobody's), then what it is
        self.motion = nn.Linear(width, len(MOVES)) if several else None
        self.window = nn.Linear(width, SLOTS * sum(WINDOW_SIZES))
        self.weights = (1.0, 1.0 if colour else 0.0, 1.0, 2.0, 2.0)  # motion is what takes thought

    def loss(self, patches: Tensor, places: Tensor, last: Tensor, seen: Tensor, truth: Tensor) -> Tensor:
        """patches [B, i, n, D] at `places` [B, i, n, 2] (x, y) of images with `seen` [B, i, 2, 8]; the row before the
        caption, last [B, D]; truth [B, 2, 5]."""
        said = self.window(self.norm(last)).unflatten(-1, (SLOTS, -1))
        there = truth[..., 0] >= 0
        loss = self._attributes(said[there], truth[there])
        if self.motion:
            loss = loss + self._motion(self.motion, patches, places, seen)
        covered, owner = owners(places[:, -1], seen[:, -1])
        told: Tensor = self.patch(self.norm(patches[:, -1]))
        whose, attributes = told[..., : 1 + SLOTS], told[..., 1 + SLOTS :]
        slot, known = _told(seen[:, -1], truth)
        slot, known = slot.gather(1, owner), known.gather(1, owner) & covered  # [B, n]
        wanted = torch.where(known, slot + 1, 0)
        loss = loss + functional.cross_entropy(whose.flatten(0, 1), wanted.flatten())
        rows = truth.gather(1, slot[..., None].expand(-1, -1, truth.shape[-1]))  # [B, n, 5]
        return loss + self._attributes(attributes[known], rows[known])

    def _motion(self, told: nn.Linear, patches: Tensor, places: Tensor, seen: Tensor) -> Tensor:
        """How far the thing that a patch shows has moved and grown since the image before, of COMPARED images."""
        since = seen.shape[1] // COMPARED
        now, before = seen[:, since:].flatten(0, 1), seen[:, :-since].flatten(0, 1)  # [N, 2, 8]
        covered, owner = owners(places[:, since:].flatten(0, 1), now)  # [N, n]
        slot, known = _told(now, before)
        moved = (now - before.gather(1, slot[..., None].expand(-1, -1, now.shape[-1])))[..., MOVES]  # [N, 2, 3]
        known = known.gather(1, owner) & covered
        moved = moved.gather(1, owner[..., None].expand(-1, -1, len(MOVES)))
        said: Tensor = told(self.norm(patches[:, since:].flatten(0, 1)))
        if not known.any():
            return said.sum() * 0
        return MOTION_WEIGHT * functional.smooth_l1_loss(said[known], moved[known], beta=EXACT / 2)

    def _attributes(self, said: Tensor, rows: Tensor) -> Tensor:
        """Cross-entropy of logits [N, sum(WINDOW_SIZES)] with truth [N, 5], attribute by attribute."""
        logits = torch.split(said, list(WINDOW_SIZES), -1)
        losses = [
            weight * functional.cross_entropy(each, rows[:, i].long())
            for i, (weight, each) in enumerate(zip(self.weights, logits, strict=True))
        ]
        return torch.stack(losses).sum() if len(rows) else said.sum() * 0


def _told(seen: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Which object of `truth` (rows that begin with kind and colour, [B, 2, …]) each one `seen` [B, 2, 8] is, [B, 2],
    and whether it is there at all."""
    alike = (seen[:, :, None, :2] == truth[:, None, :, :2]).all(-1) & (seen[:, :, None, 0] >= 0)  # [B, seen, told]
    same = alike.diagonal(dim1=1, dim2=2)  # twins keep their order
    own = torch.arange(truth.shape[1], device=truth.device).expand(same.shape)
    return torch.where(same, own, alike.int().argmax(-1)), alike.any(-1)
