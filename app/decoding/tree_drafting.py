"""A drafter that drafts a tree behind the verified text, one masked pass a level, on its worker.

A pass feeds the whole tree, as the decoder contract has it. What the target accepts is kept by moving its cache rows
together, so no part of the text that ran through the tree is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.decoding.engine import Engine, Job
from app.decoding.parallel import Companion
from app.decoding.tree import ROOT, TokenTree
from models.runtimes.contract import Floats


class TreeDrafting(Companion):
    """The drafter's cache, which is the worker's alone: the text, and behind it the tree of the last pass."""

    def __init__(self, engine: Engine, job: Job) -> None:
        super().__init__(engine, job)
        self.text: list[int] = []
        self._fed = TokenTree(0)
        self._rows = 0  # nodes of it whose rows are in the cache: it may have grown since
        self._logits: Floats | None = None  # [1 + fed, vocabulary] of the last pass; None: the text is still pending

    def feed(self, tree: TokenTree) -> Floats | None:
        """Logits [1 + len(tree), vocabulary] behind the text and each node; None when the drafter has no more."""
        root = None if self._logits is None else self._logits[:1]
        if root is not None and not len(tree):
            return root
        logits = self.drafter.feed_tree(tree, self.job.recorder)
        if logits is None:
            return None
        self._fed, self._rows = tree, len(tree)
        self._logits = logits if root is None else np.concatenate([root, logits])
        return self._logits

    def move_to(self, text: Sequence[int]) -> int | None:
        """The verified text has grown: keep the rows of its path through the fed tree, go back to where it leaves it.

        Gives the node that is the new root (ROOT: the text is what it was), or None when it has left the tree.
        """
        path, node = list[int](), ROOT
        for token in text[len(self.text) :]:
            child = self._fed.child(node, token)
            if child is None or child >= self._rows:
                break
            path.append(child)
            node = child
        inside = len(self.text) + len(path) == len(text)
        if path:
            self.drafter.keep(self._fed, path)
        if inside:
            self._logits = None if self._logits is None else self._logits[[1 + node]]
        else:
            self.restart(text)
        self.text, self._fed, self._rows = list(text), TokenTree(0), 0
        return node if inside else None

    def restart(self, text: Sequence[int]) -> None:
        """Go back to where the cache parts from the text; the next pass feeds the rest of it."""
        self.drafter.synchronise(text)
        self._logits = None
