"""The decoder contract: one forward pass serves prefill, a prefill chunk, one-token decode and verification."""

from __future__ import annotations

from collections.abc import Collection, Generator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.runtimes.sharing import Sharing

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


class WarmVision(VisionRuntime, Protocol):
    """A vision runtime that can prepare itself."""

    def warm_up(self, frames: int, image_size: int, threads: int) -> None:
        """Load and allocate for N frames [3, S, S] on so many threads."""

    def keep(self, threads: Collection[int]) -> None:
        """Close what was opened for other thread counts."""


class WarmDecoder(DecoderRuntime, Protocol):
    """A decoder runtime that can prepare itself."""

    def warm_up(self, tokens: int, rows: int, threads: int) -> None:
        """Load and allocate for a pass over T tokens with R rows of logits. Overwrites the cache."""

    def keep(self, threads: Collection[int]) -> None:
        """Close what was opened for other thread counts."""


@runtime_checkable
class GpuDecoder(Protocol):
    """A decoder whose passes run in a stream of its own on a GPU."""

    def place(self, way: Sharing) -> None:
        """From now on in a stream for this way of sharing the GPU. Raises GpuError, and then nothing has changed."""


class Likeliest(NamedTuple):
    """The likeliest next token and its probability among all."""

    token: int
    probability: float


@runtime_checkable
class FreeRunning(Protocol):
    """A decoder that chooses the next token and looks up its embedding where it runs: its device needs no host."""

    def greedy(self, first: int, length: int, count: int) -> Generator[Likeliest] | None:
        """The likeliest token after `first`, after that one, …: `count` of them, read as the device makes them.

        `first` becomes cache row `length`, each token but the last the row behind it. A step or two run ahead of the
        reader; closing the generator ends them. Fewer than `count` come where the run must go on by single passes;
        None: by single passes from the first on. Raises ValueError when length + count exceeds s_max.
        """


@runtime_checkable
class Timed(Protocol):
    """A decoder whose device tells when it was busy, with the vision of its model if they share a stream."""

    def busy(self) -> list[tuple[int, int]]:
        """Begin and end of the latest passes on the device, in monotonic nanoseconds of the host, oldest first."""


def fitting(decoder: DecoderRuntime, embeddings: Floats, length: int) -> int:
    """How many rows embeddings [T, D] are; raises ValueError when they do not fit the cache after `length` others."""
    if not (length >= 0 and 0 < len(embeddings) <= decoder.s_max - length):
        raise ValueError(
            f"decoder: {len(embeddings)} rows after {length} do not fit a cache of {decoder.s_max}; "
            "export with a larger s_max or ask for fewer tokens"
        )
    return len(embeddings)
