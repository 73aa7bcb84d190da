"""Token trees: several drafts with their common beginnings merged, for one masked pass of the target.

As in SpecInfer (Miao et al., 2023): each node sees the text before the tree and its own ancestors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.runtimes.contract import Ints

ROOT = -1  # the verified text: the last row before the tree


class TokenTree:
    """Nodes in the order they were added, parents before children. `limit` bounds their number."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tokens: list[int] = []
        self.parents: list[int] = []  # node, or ROOT
        self.depths: list[int] = []  # 0: may follow the verified text
        self.hidden: list[bool] = []  # it cost the caption no time
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, parent: int, token: int, *, hidden: bool = False) -> int | None:
        """The node of `token` behind `parent`, which may be there already; None when the tree is full."""
        node = self._children.get((parent, token))
        if node is None:
            node = len(self.tokens)
            if node >= self.limit:
                return None
            self.tokens.append(token)
            self.parents.append(parent)
            self.depths.append(0 if parent == ROOT else self.depths[parent] + 1)
            self.hidden.append(hidden)
            self._children[parent, token] = node
        elif hidden:
            self.hidden[node] = True
        return node

    def add_chain(self, tokens: Sequence[int], parent: int = ROOT, *, hidden: int = 0) -> list[int]:
        """The nodes of a draft, as many as there is room for; its first `hidden` tokens cost the caption no time."""
        nodes: list[int] = []
        for place, token in enumerate(tokens):
            node = self.add(parent, token, hidden=place < hidden)
            if node is None:
                break
            nodes.append(node)
            parent = node
        return nodes

    def child(self, parent: int, token: int) -> int | None:
        """The node of `token` behind `parent`."""
        return self._children.get((parent, token))

    def path(self, node: int) -> list[int]:
        """The nodes from the root's child to `node`."""
        nodes: list[int] = []
        while node != ROOT:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def first_chain(self, node: int) -> list[int]:
        """From `node` down by the oldest children; empty at a leaf."""
        nodes: list[int] = []
        for child in range(node + 1, len(self.tokens)):
            if self.parents[child] == node:
                nodes.append(child)
                node = child
        return nodes

    @property
    def depth(self) -> int:
        """Tokens of the longest draft."""
        return 1 + max(self.depths, default=-1)

    @property
    def is_chain(self) -> bool:
        """One draft without branches: the causal form of the pass will do."""
        return self.depth == len(self.tokens)

    def positions(self) -> Ints:
        """[N]: a node's position, counted from the first row behind the verified text."""
        return np.asarray(self.depths, np.int64)

    def mask(self, before: int = 0) -> NDArray[np.bool_]:
        """[before + N, before + N]: what each row sees of the pass; `before` rows of a chain lead to the root."""
        rows = before + len(self.tokens)
        seen = np.zeros((rows, rows), np.bool_)
        seen[:before, :before] = np.tri(before, dtype=np.bool_)
        seen[before:, :before] = True
        for node, parent in enumerate(self.parents):
            row = before + node
            if parent != ROOT:
                seen[row, before:row] = seen[before + parent, before:row]
            seen[row, row] = True
        return seen
