"""The decoder contract: one forward pass serves prefill, a prefill chunk, one-token decode and verification."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class VisionRuntime(Protocol):
    """The visual side of a model: tower, projector and whatever pools."""

    def encode(self, pixels: Floats, threads: int) -> Floats:
        """Pixels [N, 3, H, W] to visual token embeddings [V, D]."""


class DecoderRuntime(Protocol):
    """One language model with one static cache [1, H, S_max, Dh] a layer, allocated once and updated in place.

    A row's position is its cache row. The caller owns the valid length: truncating is calling with a smaller `length`,
    and no call copies a cache.
    """

    s_max: int  # cache rows
    width: int  # D
    vocabulary: int  # V, rows of the head

    def embed(self, ids: Ints) -> Floats:
        """Token ids [T] to embeddings [T, D]."""

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        """Write T new rows after `length` valid ones; logits [R, V] of the asked `rows` (indices into T, may be empty).

        Raises ValueError when length + T exceeds s_max.
        """

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        """As `forward`, each new row at its own position [T], seeing what mask [T, T] allows and all `length` rows."""

    def compact(self, length: int, kept: Ints) -> None:
        """Move cache rows `length + kept` (ascending) to rows length, length + 1, …: keeping one path of a tree."""
