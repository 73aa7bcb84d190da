"""Two models on one GPU, behind the contract: their passes take turns, or go in streams made for the chosen way."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.runtimes.contract import Floats, FreeRunning, GpuDecoder, Ints, Likeliest, Timed, WarmDecoder, WarmVision
from models.runtimes.fallback import FallbackDecoder, Ladder
from models.runtimes.nvidia import GpuError
from models.runtimes.sharing import SERIAL, STREAMS, Sharing, Turns

if TYPE_CHECKING:  # a bare machine that measures has no tokenizer
    from models.bundle import VisionLanguageModel


class GpuShare:
    """The way in which two decoders share the GPU at the moment; changed between two captions."""

    def __init__(self, drafter: WarmDecoder, target: WarmDecoder, ways: tuple[Sharing, ...]) -> None:
        """`ways`: what a calibration may choose from; none, once one of the two has left the GPU."""
        self._drafter, self._target, self.ways = drafter, target, ways
        self._turns = Turns()
        self._placed = STREAMS  # the way that the drafter's stream was made for
        self.way = SERIAL

    def use(self, way: Sharing) -> None:
        """Share in this way from now on. Raises GpuError, and then by turns, which needs nothing of the GPU."""
        self.way, wanted = SERIAL, STREAMS if way.by_turns else way
        if wanted != self._placed:
            if not isinstance(self._drafter, GpuDecoder):
                raise GpuError(f"gpu.sharing: {way}: the drafter's runtime keeps its stream; choose streams")
            self._drafter.place(wanted)
            self._placed = wanted
        self.way = way

    def begin_anew(self, *, shared: bool) -> None:
        """A model has another runtime, whose stream is a new one. `shared`: both still run on the GPU."""
        if self._placed != STREAMS and isinstance(self._drafter, GpuDecoder):
            with suppress(ModelError):  # by the drafter's new runtime, which keeps its stream
                self._drafter.place(STREAMS)  # it may be the target that fell
        self._placed, self.way = STREAMS, SERIAL if shared else STREAMS
        self.ways = self.ways if shared else ()

    def turn(self) -> AbstractContextManager[None]:
        """Around a pass."""
        return self._turns.turn() if self.way.by_turns else nullcontext()

    def parts(self, tokens: int) -> Iterator[slice]:
        """A pass of the target over so many rows, cut where the drafter may come between."""
        size = self.way.size if self.way.mode == "chunked" else tokens
        for begin in range(0, tokens, max(1, size)):
            yield slice(begin, min(begin + size, tokens))


class SharedVision:
    """A vision whose passes take turns, where the way wants it."""

    def __init__(self, inner: WarmVision, share: GpuShare) -> None:
        self._inner, self._share = inner, share

    def encode(self, pixels: Floats, threads: int) -> Floats:
        """Pixels [N, 3, H, W] to visual token embeddings [V, D]."""
        with self._share.turn():
            return self._inner.encode(pixels, threads)

    def warm_up(self, frames: int, image_size: int, threads: int) -> None:
        """Of the runtime."""
        with self._share.turn():
            self._inner.warm_up(frames, image_size, threads)

    def keep(self, threads: Collection[int]) -> None:
        """Of the runtime."""
        self._inner.keep(threads)


class SharedDecoder:
    """A decoder whose passes take turns, where the way wants it; the target's long ones part by part."""

    def __init__(self, inner: WarmDecoder, share: GpuShare, *, parted: bool) -> None:
        self.inner, self.share, self._parted = inner, share, parted
        self.s_max, self.width, self.vocabulary = inner.s_max, inner.width, inner.vocabulary

    def embed(self, ids: Ints) -> Floats:
        """Token ids [T] to embeddings [T, D]."""
        return self.inner.embed(ids)

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        """Causal pass; see the contract."""
        parts = list(self.share.parts(len(embeddings))) if self._parted else []
        if len(parts) < 2:
            with self.share.turn():
                return self.inner.forward(embeddings, length, rows, threads)
        asked = np.asarray(rows)
        logits: Floats = np.empty((len(asked), self.vocabulary), np.float32)
        for part in parts:
            inside = np.flatnonzero((asked >= part.start) & (asked < part.stop))
            with self.share.turn():
                logits[inside] = self.inner.forward(
                    embeddings[part], length + part.start, asked[inside] - part.start, threads
                )
        return logits

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        """Masked pass; see the contract."""
        with self.share.turn():
            return self.inner.forward_tree(embeddings, positions, mask, length, rows, threads)

    def greedy(self, first: int, length: int, count: int) -> Generator[Likeliest] | None:
        """A free run of the runtime; by turns it takes one for each token. See the contract."""
        inner = self.inner
        if not isinstance(inner, FreeRunning):
            return None
        if self.share.way.by_turns:
            return self._token_by_token(inner, first, length, count)
        return inner.greedy(first, length, count)

    def _token_by_token(self, inner: FreeRunning, first: int, length: int, count: int) -> Generator[Likeliest]:
        for k in range(count):
            with self.share.turn():
                made = inner.greedy(first, length + k, 1)
                if made is None:
                    return
                with closing(made):
                    each = next(made, None)
            if each is None:
                return
            first = each.token
            yield each

    def busy(self) -> list[tuple[int, int]]:
        """Of the runtime, where it can tell."""
        return self.inner.busy() if isinstance(self.inner, Timed) else []

    def compact(self, length: int, kept: Ints) -> None:
        """Move cache rows `length + kept` (ascending) to rows length, length + 1, …"""
        with self.share.turn():
            self.inner.compact(length, kept)

    def warm_up(self, tokens: int, rows: int, threads: int) -> None:
        """Of the runtime. Overwrites the cache."""
        with self.share.turn():
            self.inner.warm_up(tokens, rows, threads)

    def keep(self, threads: Collection[int]) -> None:
        """Of the runtime."""
        self.inner.keep(threads)


@dataclass(frozen=True, slots=True)
class SharedPair:
    """Drafter and target that share a GPU, and how."""

    drafter: VisionLanguageModel
    target: VisionLanguageModel
    share: GpuShare


def share_gpu(drafter: VisionLanguageModel, target: VisionLanguageModel, ways: tuple[Sharing, ...]) -> SharedPair:
    """Both models behind one share; by turns until something else is chosen."""
    share = GpuShare(drafter.decoder, target.decoder, ways)
    return SharedPair(behind(share, drafter, parted=False), behind(share, target, parted=True), share)


def behind(share: GpuShare, model: VisionLanguageModel, *, parted: bool) -> VisionLanguageModel:
    """A model whose passes keep to a share: one of its two, or a further session of the target."""
    decoder = SharedDecoder(model.decoder, share, parted=parted)
    return replace(model, vision=SharedVision(model.vision, share), decoder=decoder)


def share_of(model: VisionLanguageModel) -> GpuShare | None:
    """How the model shares its GPU; None: it shares none."""
    return model.decoder.share if isinstance(model.decoder, SharedDecoder) else None


def ladder_of(model: VisionLanguageModel) -> Ladder | None:
    """The runtimes that the model may fall to; None: it runs on the CPU, for good."""
    decoder = model.decoder.inner if isinstance(model.decoder, SharedDecoder) else model.decoder
    return decoder.ladder if isinstance(decoder, FallbackDecoder) else None


def runtime_of(model: VisionLanguageModel) -> str:
    """What executes it now: it may have fallen from the one that it was loaded with."""
    ladder = ladder_of(model)
    return ladder.runtime if ladder else model.runtime


def device_of(model: VisionLanguageModel) -> str:
    """Where its passes run now: `cpu`, or `cuda:N`."""
    ladder = ladder_of(model)
    return f"cuda:{ladder.gpu or 0}" if ladder and on_gpu(model) else "cpu"


def on_gpu(model: VisionLanguageModel) -> bool:
    """Whether its passes run on a GPU now; those of a model that has no runtime left run nowhere."""
    ladder = ladder_of(model)
    if ladder is None or ladder.lost:
        return False
    return ladder.runtime in ("onnx-cuda", "onnx-tensorrt") or isinstance(ladder.parts[1], GpuDecoder)
