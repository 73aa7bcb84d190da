"""A linear layer with weights of 4 bits, a scale and a zero for 128 of a row, as PyTorch's own kernel takes them.

What TensorRT and ONNX Runtime do for an int4 drafter, where neither is there: `_weight_int4pack_mm` reads half a byte a
weight. It is made for few rows; larger passes take the weights as they were rounded, in 16 bits.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

GROUP, TILES = 128, 8
FEW_ROWS = 64


class Int4Linear(nn.Module):
    """Takes the place of a Linear without bias, whose weight [N, K] is rounded in place."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        rows, columns = self.weight.shape
        self.group = next(size for size in (GROUP, 64, 32) if columns % size == 0)
        with torch.no_grad():
            values, scales = rounded(self.weight, self.group)
            zeros = scales[..., 1:]
            back = (values.view(rows, -1, self.group).float() - 8) * scales[..., :1].float() + zeros.float()
            self.weight.copy_(back.view(rows, columns))
            tiles = next(count for count in (TILES, 4, 2) if columns % (16 * count) == 0)
            if self.weight.is_cuda:
                pairs = (values[:, ::2] << 4 | values[:, 1::2]).to(torch.uint8)
                self.packed = torch.ops.aten._convert_weight_to_int4pack(pairs, tiles)
            else:
                self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), tiles)
            self.scales = scales.transpose(0, 1).contiguous()  # [K / group, N, 2]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] to [..., N]."""
        flat = x.reshape(-1, x.shape[-1])
        if len(flat) > FEW_ROWS:
            return nn.functional.linear(x, self.weight)
        product = torch.ops.aten._weight_int4pack_mm if x.is_cuda else torch.ops.aten._weight_int4pack_mm_for_cpu
        found = cast(Tensor, product(flat, self.packed, self.group, self.scales))
        return found.reshape(*x.shape[:-1], -1)


def rounded(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Values 0 … 15 [N, K], and scale and zero of each group [N, K / group, 2]: weight ≈ (value − 8) · scale + zero."""
    rows, columns = weight.shape
    groups = weight.float().view(rows, columns // group, group)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=1e-6)
    values = ((groups - low) / scale).round().clamp(0, 15).to(torch.int32)
    return values.view(rows, columns), torch.cat([scale, low + 8 * scale], -1).to(weight.dtype)
