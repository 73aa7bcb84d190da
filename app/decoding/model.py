"""One language model and its one cache: a sequence grows by verified tokens, and is truncated by setting a length."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import takewhile
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np

from app.decoding.tree import TokenTree
from models.prompts import Prompt
from models.runtimes.contract import DecoderRuntime, Floats, FreeRunning, Ints, Likeliest, VisionRuntime


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts share from their beginnings on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


class LanguageModel(Protocol):
    """What decoding needs of a model; `models.bundle.VisionLanguageModel` is one."""

    @property
    def vision(self) -> VisionRuntime: ...

    @property
    def decoder(self) -> DecoderRuntime: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def vocabulary(self) -> int:
        """Ids below it have an embedding."""


LOST = -2  # of `CachedSequence.begun`

# By the decoder's id: the sequence whose rows are in its cache. Two captioners may take turns on the same models.
_HOLDERS: WeakValueDictionary[int, CachedSequence] = WeakValueDictionary()


def overwritten(model: LanguageModel) -> None:
    """Say that the model's cache was written to by something else than a `CachedSequence`: a measurement, a warm-up."""
    _HOLDERS.pop(id(model.decoder), None)


class CachedSequence:
    """The rows of one sequence in a model's cache, and the rows that are still to be fed.

    `length` cache rows are valid; `pending` [P, D] are the embeddings that follow them, and `following` the tokens
    behind those. Every forward pass feeds both first, so prefill, decode and verification are one operation.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.length = 0
        self.pending: Floats = np.empty((0, model.decoder.width), np.float32)
        self.following: list[int] = []
        self._begun = 0  # sequences so far
        self._places: Ints = np.arange(model.decoder.s_max)
        self._head: tuple[int, ...] = ()  # of the current sequence
        self._cached_head: tuple[int, ...] = ()  # whose rows are in the cache

    @property
    def begun(self) -> int:
        """Tells whether the cache is still of the same sequence: their number so far, or that another has the cache."""
        return self._begun if _HOLDERS.get(id(self.model.decoder)) is self else LOST

    def begin(self, prompt: Prompt, visual: Floats, kept: int = 0) -> None:
        """Start a sequence with its prompt pending; the constant head (system sentence) stays cached between sequences.

        visual [prompt.num_visual - kept, D]: `kept` visual rows before them are in the cache already, behind the head.
        Raises ValueError when their number is not what the prompt says.
        """
        if kept + len(visual) != prompt.num_visual:
            raise ValueError(
                f"prompt wants {prompt.num_visual} visual tokens, the vision side gave {len(visual)} after {kept}"
            )
        if kept:
            self._begun += 1
            self.truncate(len(prompt.head_ids) + kept)
        else:
            self.open(prompt.head_ids)
        self.pending = np.concatenate([self.pending, visual, self._embed(prompt.tail_ids)])

    def open(self, head: tuple[int, ...]) -> None:
        """Start a sequence of which only the head is known yet; it is pending unless it is cached."""
        if self.begun == LOST:
            self._cached_head = ()
        _HOLDERS[id(self.model.decoder)] = self
        self._begun += 1
        self._head = head
        if head == self._cached_head:
            self.length, self.pending = len(head), self.pending[:0]
        else:
            self.length, self._cached_head = 0, ()
            self.pending = self._embed(head)
        self.following = []

    def forget(self) -> None:
        """Someone else has used the cache: nothing of it is valid any more."""
        self._begun += 1
        self._cached_head = ()
        self.truncate(0)

    def append(self, rows: Floats) -> None:
        """Put embeddings [T, D] behind what is pending."""
        self.pending = np.concatenate([self.pending, rows])

    def _embed(self, ids: Sequence[int]) -> Floats:
        return self.model.decoder.embed(np.array(ids, np.int64))

    @property
    def unfed(self) -> int:
        """Rows that the next pass feeds before its drafts."""
        return len(self.pending) + len(self.following)

    def feed(self, count: int, threads: int) -> None:
        """Prefill chunk: put the first `count` pending rows into the cache, asking for no logits."""
        if count:
            self.model.decoder.forward(self.pending[:count], self.length, np.empty(0, np.int64), threads)
            self._grow(count)
            self.pending = self.pending[count:]

    def forward(self, drafts: Sequence[int], threads: int) -> Floats:
        """Feed the pending rows and the drafts; logits [1 + len(drafts), V] after the last pending row and each draft.

        The pending rows become valid; the drafts are in the cache, yet not valid until `advance` accepts them. With
        nothing pending there is no first row of logits.
        """
        rows, count = self._rows(drafts)
        wanted = self._places[max(0, count - 1) : len(rows)]
        logits = self.model.decoder.forward(rows, self.length, wanted, threads)
        self._grow(count)
        self.pending, self.following = self.pending[:0], []
        return logits

    def forward_tree(self, tree: TokenTree, threads: int) -> Floats:
        """As `forward` with a tree of drafts; logits [1 + len(tree), V] after the last pending row and each node.

        A tree without branches takes the causal form, which is cheaper.
        """
        if tree.is_chain:
            return self.forward(tree.tokens, threads)
        rows, count = self._rows(tree.tokens)
        wanted = self._places[max(0, count - 1) : len(rows)]
        behind = self.length + count
        positions: Ints = np.array([*range(self.length, behind), *(behind + depth for depth in tree.depths)], np.int64)
        logits = self.model.decoder.forward_tree(rows, positions, tree.mask(count), self.length, wanted, threads)
        self._grow(count)
        self.pending, self.following = self.pending[:0], []
        return logits

    def greedy(self, first: int, count: int) -> Generator[Likeliest] | None:
        """A free run behind a text of which all but its last token `first` is fed; None: this runtime makes none.

        At most `count` tokens, no more than the cache has room for. With each that is read, the one before it is a
        valid row.
        """
        decoder = self.model.decoder
        count = min(count, decoder.s_max - self.length)
        if count < 1 or not isinstance(decoder, FreeRunning):
            return None
        made = decoder.greedy(first, self.length, count)
        return None if made is None else self._counted(made)

    def _counted(self, made: Generator[Likeliest]) -> Generator[Likeliest]:
        with closing(made):
            for each in made:
                self._grow(1)
                yield each

    def _rows(self, drafts: Sequence[int]) -> tuple[Floats, int]:
        """The embeddings [unfed + drafts, D] of a pass, and how many of them are no drafts."""
        rows, count = self.pending, self.unfed
        if self.following or drafts:
            tokens = self._embed([*self.following, *drafts])
            rows = np.concatenate([rows, tokens]) if len(rows) else tokens
        return rows, count

    def _grow(self, count: int) -> None:
        self.length += count
        if self.length >= len(self._head):
            self._cached_head = self._head

    def advance(self, accepted: int, following: Sequence[int]) -> None:
        """Keep the first `accepted` drafts of the last forward pass and put `following` ids behind them as pending."""
        self.length += accepted
        self.pending, self.following = self.pending[:0], list(following)

    def advance_path(self, path: Sequence[int], following: Sequence[int]) -> None:
        """`advance` after `forward_tree`: keep the rows of the accepted nodes, which move together."""
        if list(path) != list(range(len(path))):
            self.model.decoder.compact(self.length, np.array(path, np.int64))
        self.advance(len(path), following)

    def truncate(self, length: int) -> None:
        """Forget every cache row from `length` on (rollback); costs nothing."""
        if length > self.length:
            raise ValueError(f"cannot truncate {self.length} cache rows to {length}")
        self.length = length
        self.pending, self.following = self.pending[:0], []
