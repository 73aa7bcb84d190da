"""A draft tree that grows where its text is likeliest: SwiftSpec's draft side, without the models.

A node's weight is the probability, by the drafter, of the text down to it. `nodes` have been or are being expanded;
leaves are proposed children that are not yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from app.decoding.tree import ROOT, TokenTree

Edge = tuple[int, int]  # parent node, token


class GrowingTree:
    """`limit` bounds the expanded nodes."""

    def __init__(self, limit: int, eos_id: int) -> None:
        self.nodes = TokenTree(limit)
        self.rooted = False  # the root has been expanded
        self._eos_id = eos_id  # ends a text: never expanded
        self._weights: list[float] = []  # of the nodes
        self._leaves: dict[Edge, float] = {}
        self._open: list[tuple[float, int, Edge]] = []  # heap of those that can be expanded: −weight, order, edge
        self._proposed = 0
        self._hidden: set[Edge] = set()  # drafts that cost the caption no time

    def __len__(self) -> int:
        """Drafts in it."""
        return len(self.nodes) + len(self._leaves)

    def take(self, width: int, depth: int) -> list[int]:
        """Move the likeliest leaves, at most `width`, above `depth`, to the nodes: they are to be expanded now.

        What lies deeper is not asked for again below this root.
        """
        taken: list[int] = []
        while self._open and len(taken) < width and len(self.nodes) < self.nodes.limit:
            _, _, edge = heappop(self._open)
            if self._depth(edge) < depth:
                taken.append(self._expand(edge, self._leaves.pop(edge)))
        return taken

    def sprout(self, node: int, candidates: Iterable[tuple[int, float]]) -> None:
        """The drafter has said what may follow a node (or ROOT): tokens, each with its probability."""
        weight = 1.0
        if node == ROOT:
            self.rooted = True
        else:
            weight = self._weights[node]
        for token, probability in candidates:
            self._propose(node, token, weight * probability)

    def hide(self) -> None:
        """What is drafted by now cost the caption no time."""
        self._hidden = {*self._edges(), *self._leaves}

    def best(self, count: int, depth: int) -> TokenTree:
        """The likeliest `count` drafts above `depth`, as a tree: a parent is never less likely than its child."""
        weights = dict(zip(self._edges(), self._weights, strict=True)) | self._leaves
        shallow = [edge for edge in weights if self._depth(edge) < depth]
        tree, places = TokenTree(count), {ROOT: ROOT}
        for parent, token in sorted(shallow, key=lambda edge: (-weights[edge], self._depth(edge)))[:count]:
            place = tree.add(places[parent], token, hidden=(parent, token) in self._hidden)
            node = self.nodes.child(parent, token)
            if place is not None and node is not None:
                places[node] = place
        return tree

    def below(self, root: int) -> GrowingTree:
        """Re-rooted at one of the nodes: what is below it, with weights as seen from there."""
        tree, places = GrowingTree(self.nodes.limit, self._eos_id), {root: ROOT}
        tree.rooted = True
        scale = self._weights[root]
        for node, (parent, token) in enumerate(self._edges()):
            if parent in places:
                places[node] = tree._expand((places[parent], token), self._weights[node] / scale)
        for (parent, token), weight in self._leaves.items():
            if parent in places:
                tree._propose(places[parent], token, weight / scale)
        tree._hidden = {(places[parent], token) for parent, token in self._hidden if parent in places}
        return tree

    def _propose(self, parent: int, token: int, weight: float) -> None:
        self._leaves[parent, token] = weight
        if token != self._eos_id:
            self._proposed += 1
            heappush(self._open, (-weight, self._proposed, (parent, token)))

    def _expand(self, edge: Edge, weight: float) -> int:
        node = self.nodes.add(*edge)
        assert node is not None, "within the limit"
        self._weights.append(weight)
        return node

    def _edges(self) -> Iterable[Edge]:
        return zip(self.nodes.parents, self.nodes.tokens, strict=True)

    def _depth(self, edge: Edge) -> int:
        """0: may follow the text."""
        return 0 if edge[0] == ROOT else self.nodes.depths[edge[0]] + 1
