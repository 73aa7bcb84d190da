"""Token trees: several drafts with their common beginnings merged, for one masked pass of the target.

As in SpecInfer (Miao et al., 2023): each node sees the text before the tree and its own ancestors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROOT = -1  # the verified text: the last row before the tree


class TokenTree:
    """Nodes in the order they were added, parents before children. `limit` bounds their number."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tokens: list[int] = []
        self.parents: list[int] = []  # node, or ROOT
        self.depths: list[int] = []  # 0: may follow the verified text
        self.hidden: list[bool] = []  # it cost the caption no time
        self.depth = 0  # tokens of the longest draft
        self._sees: list[int] = []  # bit n: itself or an ancestor of it is node n
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
            depth = 0 if parent == ROOT else self.depths[parent] + 1
            self.depths.append(depth)
            self.depth = max(self.depth, depth + 1)
            self.hidden.append(hidden)
            self._sees.append(1 << node if parent == ROOT else self._sees[parent] | 1 << node)
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
    def is_chain(self) -> bool:
        """One draft without branches: the causal form of the pass will do."""
        return self.depth == len(self.tokens)

    def mask(self, before: int = 0) -> NDArray[np.bool_]:
        """[before + N, before + N]: what each row sees of the pass; `before` rows of a chain lead to the root."""
        rows = [(1 << row + 1) - 1 for row in range(before)]
        rows += [sees << before | (1 << before) - 1 for sees in self._sees]
        size = -(-len(rows) // 8)  # bytes of a row, one bit a node
        bits = np.frombuffer(b"".join(row.to_bytes(size, "little") for row in rows), np.uint8).reshape(len(rows), size)
        return np.unpackbits(bits, axis=1, count=len(rows), bitorder="little").view(np.bool_)
