"""A model that outlives its GPU's memory: smaller parts of a pass first, then the next runtime, in mid-caption too.

The rows that a decoder was fed stay known on the host, so another runtime can be given them and go on where the last
one ended. What happened is kept for the telemetry record of the caption that it happened to.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.runtimes.contract import Floats, FreeRunning, GpuDecoder, Ints, Likeliest, Timed, WarmDecoder, WarmVision
from models.runtimes.devices import ON_GPU, need_gpu, use_gpu
from models.runtimes.nvidia import GpuError, OutOfGpuMemory
from models.runtimes.sharing import Sharing

LEAST_PART = 64  # rows of a pass, below which smaller parts save no memory worth having


@dataclass(frozen=True, slots=True)
class Fallback:
    """One step down: from what to what, why, and when (monotonic nanoseconds)."""

    before: str  # a runtime, or "parts of 2048"
    after: str
    reason: str
    start_ns: int
    end_ns: int


class Load(Protocol):
    """Loads both parts of a model with a runtime. Raises ModelError."""

    def __call__(self, runtime: str) -> tuple[WarmVision, WarmDecoder]: ...


class Ladder:
    """The runtimes of one model in the order of preference, and the one that it stands on."""

    def __init__(
        self, load: Load, runtimes: Sequence[str], told: Callable[[str, str, str], None], gpu: int | None = None
    ) -> None:
        """Load with the first that can; `told` (runtime, the next, why) hears of each that cannot, now and later.

        gpu: the number of the GPU to run on; None: CUDA's first one. Raises what the last one raises.
        """
        self.gpu = gpu
        self._load, self._runtimes, self._told = load, tuple(runtimes), told
        self.fallbacks: list[Fallback] = []  # that nobody has taken yet
        self.generation = 0  # how often it was loaded: each starts with an empty cache
        self.planned = False  # whether the plan's threads were measured with the runtime that it stands on
        self._parts: tuple[WarmVision, WarmDecoder] | None = None
        self._at = -1
        self._climb_down(None)

    @property
    def runtime(self) -> str:
        return self._runtimes[self._at]

    @property
    def fell(self) -> bool:
        """Whether it stands lower than it was asked to."""
        return self._at > 0

    @property
    def parts(self) -> tuple[WarmVision, WarmDecoder]:
        if self._parts is None:
            raise ModelError(f"{self._runtimes[-1]}: no runtime is left; give the model less to hold, or another GPU")
        if self.gpu is not None and self.runtime in ON_GPU:
            use_gpu(self.gpu, self.runtime)  # the other model's may have been this thread's
        return self._parts

    @property
    def lost(self) -> bool:
        """Whether no runtime is left."""
        return self._parts is None

    def step_down(self, error: ModelError) -> None:
        """Give up the runtime for the next one. Raises the error where there is none."""
        if self._at + 1 >= len(self._runtimes):
            raise error
        self._parts = None  # its memory is wanted, and the error holds on to whoever raised it
        error.__traceback__ = error.__context__ = error.__cause__ = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        self._climb_down(error)

    def shrink(self, before: int, after: int, error: ModelError) -> None:
        """Note that passes go in smaller parts from now on."""
        now = time.monotonic_ns()
        self._note(f"parts of {before}", f"parts of {after}", str(error), now)

    def take_fallbacks(self) -> list[Fallback]:
        """What has happened since this was asked last."""
        taken, self.fallbacks = self.fallbacks, []
        return taken

    def _climb_down(self, error: ModelError | None) -> None:
        begin = time.monotonic_ns()
        while True:
            before, self._at = self._at, self._at + 1
            if error is not None:
                self._note(self._runtimes[before], self.runtime, str(error), begin)
            try:
                if self.gpu is not None and self.runtime in ON_GPU:
                    need_gpu(self.gpu, self.runtime)
                    use_gpu(self.gpu, self.runtime)
                self._parts = self._load(self.runtime)
            except ModelError as refused:
                if self._at + 1 >= len(self._runtimes):
                    raise
                error = refused
            else:
                self.generation, self.planned = self.generation + 1, False
                return

    def _note(self, before: str, after: str, reason: str, begin: int) -> None:
        self._told(before, after, reason)
        self.fallbacks.append(Fallback(before, after, reason, begin, time.monotonic_ns()))


class FallbackVision:
    """The vision of whatever runtime the ladder stands on."""

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder

    def encode(self, pixels: Floats, threads: int) -> Floats:
        """Pixels [N, 3, H, W] to visual token embeddings [V, D]."""
        while True:
            try:
                return self._ladder.parts[0].encode(pixels, _threads(self._ladder, threads))
            except OutOfGpuMemory as error:
                self._ladder.step_down(error)

    def warm_up(self, frames: int, image_size: int, threads: int) -> None:
        """One pass of this shape."""
        self.encode(np.zeros((frames, 3, image_size, image_size), np.float32), threads)

    def keep(self, threads: Collection[int]) -> None:
        """Of the runtime."""
        self._ladder.parts[0].keep(threads)


class FallbackDecoder:
    """The decoder of whatever runtime the ladder stands on, and all rows that are in its cache."""

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder
        inner = ladder.parts[1]
        self.s_max, self.width, self.vocabulary = inner.s_max, inner.width, inner.vocabulary
        self._rows: Floats = np.zeros((self.s_max, self.width), np.float32)
        self._part = self.s_max  # rows of a pass at most
        self._generation = ladder.generation  # of the runtime whose cache holds the rows

    def embed(self, ids: Ints) -> Floats:
        """Token ids [T] to embeddings [T, D]."""
        return self._inner.embed(ids)

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        """Causal pass; see the contract."""
        self._remember(embeddings, length)
        while True:
            try:
                self._catch_up(length, threads)
                return self._in_parts(embeddings, length, np.asarray(rows), threads)
            except OutOfGpuMemory as error:
                largest = min(self._part, max(len(embeddings), length if self._behind else 0))
                if largest > LEAST_PART:
                    self._part = max(LEAST_PART, largest // 2)
                    self.ladder.shrink(largest, self._part, error)
                else:
                    self._step_down(error)

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        """Masked pass; see the contract. It is small: where it does not fit, the next runtime takes it."""
        self._remember(embeddings, length)
        while True:
            try:
                self._catch_up(length, threads)
                return self._inner.forward_tree(
                    embeddings, positions, mask, length, rows, _threads(self.ladder, threads)
                )
            except OutOfGpuMemory as error:
                self._step_down(error)

    def greedy(self, first: int, length: int, count: int) -> Generator[Likeliest] | None:
        """A free run where the runtime makes one; it ends early where the next runtime must go on. See the contract."""
        inner = self._inner
        if self._behind or not isinstance(inner, FreeRunning):
            return None
        try:
            made = inner.greedy(first, length, count)
        except OutOfGpuMemory as error:
            del inner  # its memory is wanted
            self._step_down(error)
            return None
        return None if made is None else self._remembered(made, first, length)

    def _remembered(self, made: Generator[Likeliest], first: int, length: int) -> Generator[Likeliest]:
        fed = []  # tokens whose rows are in the cache
        try:
            with closing(made):
                for each in made:
                    fed.append(first)
                    first = each.token
                    yield each
        except OutOfGpuMemory as error:
            self._step_down(error)
        finally:
            if fed:
                self._remember(self.embed(np.asarray(fed, np.int64)), length)

    def busy(self) -> list[tuple[int, int]]:
        """Of the runtime, where it can tell."""
        inner = None if self.ladder.lost else self._inner
        return inner.busy() if isinstance(inner, Timed) else []

    def compact(self, length: int, kept: Ints) -> None:
        """Move cache rows `length + kept` (ascending) to rows length, length + 1, …"""
        self._rows[length : length + len(kept)] = self._rows[length + np.asarray(kept)]
        if not self._behind:  # else the rows are fed anew before the next pass
            self._inner.compact(length, kept)

    def warm_up(self, tokens: int, rows: int, threads: int) -> None:
        """Two passes over T rows: the second is the one that a CUDA graph is made of. Overwrites the cache."""
        for _ in range(2):
            self.forward(np.zeros((tokens, self.width), np.float32), 0, np.arange(tokens - rows, tokens), threads)

    def keep(self, threads: Collection[int]) -> None:
        """Of the runtime."""
        self._inner.keep(threads)

    def place(self, way: Sharing) -> None:
        """Of the runtime. Raises GpuError, also for a runtime that is not on a GPU."""
        if not isinstance(self._inner, GpuDecoder):
            raise GpuError(f"gpu.sharing: {way}: runtime {self.ladder.runtime} keeps the stream that it has")
        self._inner.place(way)

    @property
    def _inner(self) -> WarmDecoder:
        return self.ladder.parts[1]

    @property
    def _behind(self) -> bool:
        """Whether another runtime has come since the last pass, whose cache is empty."""
        return self._generation != self.ladder.generation

    def _remember(self, embeddings: Floats, length: int) -> None:
        if not (length >= 0 and 0 < len(embeddings) <= self.s_max - length):
            raise ValueError(
                f"decoder: {len(embeddings)} rows after {length} do not fit a cache of {self.s_max}; "
                "export with a larger s_max or ask for fewer tokens"
            )
        self._rows[length : length + len(embeddings)] = embeddings

    def _catch_up(self, length: int, threads: int) -> None:
        """Feed the valid rows to a runtime that has not seen them."""
        if self._behind:
            if length:
                self._in_parts(self._rows[:length], 0, np.arange(0), threads)
            self._generation = self.ladder.generation

    def _in_parts(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        threads = _threads(self.ladder, threads)
        if len(embeddings) <= self._part:
            return self._inner.forward(embeddings, length, rows, threads)
        logits: Floats = np.empty((len(rows), self.vocabulary), np.float32)
        for begin in range(0, len(embeddings), self._part):
            part = embeddings[begin : begin + self._part]
            inside = np.flatnonzero((rows >= begin) & (rows < begin + len(part)))
            logits[inside] = self._inner.forward(part, length + begin, rows[inside] - begin, threads)
        return logits

    def _step_down(self, error: OutOfGpuMemory) -> None:
        self.ladder.step_down(error)
        self._part = self.s_max


def _threads(ladder: Ladder, threads: int) -> int:
    """As asked for; by a plan that knows the first runtime alone, one below it, on the CPU, takes every core."""
    return len(os.sched_getaffinity(0)) if ladder.fell and not ladder.planned else threads
