"""Draft sources other than the event drafter, and how the proposals of all become one tree.

The caption history costs nothing: what this camera's last captions said, from where the text now stands (prompt look-up
decoding, Saxena, 2023, over recent outputs). In a still scene it is often the whole answer.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

from app.decoding.costs import Curve
from app.decoding.tree import ROOT, TokenTree

SOURCES = ("drafter", "history")
REMEMBERED = 8  # captions a camera
CAMERAS = 64  # with a history; the one that was silent longest goes first
CONTEXT = (3, 2)  # tokens behind which a recent caption is taken to go on as it did
BEFORE = -1  # stands for the prompt where a caption has fewer tokens than that


HISTORY = ("history", "history_before")  # the likelier way on, and the other one: each has its own acceptance


class Proposal(NamedTuple):
    """A draft of one source; its first `hidden` tokens cost the caption no time."""

    source: str
    tokens: Sequence[int]
    hidden: int = 0


class History:
    """The recent captions of one camera, by every short run of tokens in them."""

    def __init__(self) -> None:
        self._captions: deque[tuple[int, ...]] = deque(maxlen=REMEMBERED)
        self._places: dict[tuple[int, ...], list[tuple[int, ...]]] = {}  # run -> how it went on, the newest first

    def add(self, caption: Sequence[int]) -> None:
        """A verified caption, with end-of-sequence where the target said so."""
        said = tuple(caption)
        if self._captions and said == self._captions[-1]:
            return
        if said in self._captions:
            self._captions.remove(said)
        self._captions.append(said)
        self._places = {}
        for known in reversed(self._captions):
            padded = (BEFORE,) * max(CONTEXT) + known
            for place in range(len(known)):
                for length in CONTEXT:
                    end = place + max(CONTEXT)
                    ways = self._places.setdefault(padded[end - length : end], [])
                    if len(ways) < 2 and known[place:] not in ways:
                        ways.append(known[place:])

    def propose(self, verified: Sequence[int]) -> list[tuple[int, ...]]:
        """At most two ways on from the verified text, the likelier first: behind no text, the last two captions."""
        padded = [*[BEFORE] * max(CONTEXT), *verified[-max(CONTEXT) :]]
        for length in CONTEXT:
            if ways := self._places.get(tuple(padded[-length:])):
                return ways
        return []


class Histories:
    """A history for each camera."""

    def __init__(self) -> None:
        self._cameras: OrderedDict[str, History] = OrderedDict()

    def of(self, camera: str) -> History:
        history = self._cameras.setdefault(camera, History())
        self._cameras.move_to_end(camera)
        if len(self._cameras) > CAMERAS:
            self._cameras.popitem(last=False)
        return history


def merge(
    proposals: Sequence[Proposal],
    curve: Callable[[str], Curve],
    price: Callable[[int], float],
    limit: int,
    branching: float = 0.0,
) -> TokenTree:
    """The tree of at most `limit` nodes that are worth their rows, the likeliest first.

    curve(source): how far its drafts stand. price(n): of row n (0, 1, …) of drafts, in accepted tokens; a node is worth
    it when it stands with a higher probability. branching: what a tree costs more than a chain, in accepted tokens; the
    best chain is taken alone where the branches are expected to yield no more.
    """
    cut = [_worthwhile(proposal, curve(proposal.source), price(0)) for proposal in proposals]
    longest = max((proposal.tokens for proposal in cut), key=len, default=())
    whole = TokenTree(sum(len(proposal.tokens) for proposal in cut))
    chances: list[float] = []
    for source, tokens, hidden in cut:
        stands = curve(source)
        for n, node in enumerate(whole.add_chain(tokens, hidden=hidden), 1):
            if node == len(chances):
                chances.append(stands[n])
            elif stands[n] > chances[node]:
                chances[node] = stands[n]
    if len(whole) == len(longest):  # all agree: no branches to weigh
        return _part(whole, list(takewhile(lambda n: chances[n] > price(n), range(min(limit, len(whole))))), limit)
    _share(whole, chances)
    order = sorted(range(len(whole)), key=lambda node: -chances[node])  # stable: parents stay before children
    kept = [node for n, node in takewhile(lambda at: chances[at[1]] > price(at[0]), enumerate(order[:limit]))]
    run = dict.fromkeys([ROOT], 0.0)  # expected accepted tokens down to a node
    for node in kept:
        run[node] = run[whole.parents[node]] + chances[node]
    best = max(run, key=lambda node: run[node])
    if sum(chances[node] for node in kept) - run[best] <= branching:
        kept = whole.path(best)
    return _part(whole, sorted(kept), limit)


def _worthwhile(proposal: Proposal, stands: Curve, price: float) -> Proposal:
    """As much of a proposal as may be worth a row."""
    length = next((n for n, p in enumerate(stands[1:]) if p <= price), len(stands) - 1)
    return proposal._replace(tokens=proposal.tokens[:length])


def _share(tree: TokenTree, chances: list[float]) -> None:
    """Of the children of a node one can stand: where more was promised of them, each gets its share."""
    promised = dict.fromkeys(range(ROOT, len(tree)), 0.0)
    for node, parent in enumerate(tree.parents):
        promised[parent] += chances[node]
    for node, parent in enumerate(tree.parents):
        there = 1.0 if parent == ROOT else chances[parent]
        chances[node] = min(there, chances[node] * min(1.0, there / max(promised[parent], 1e-9)))


def _part(tree: TokenTree, kept: Sequence[int], limit: int) -> TokenTree:
    """The tree of some of its nodes, their parents among them."""
    part, places = TokenTree(limit), {ROOT: ROOT}
    for node in kept:
        place = part.add(places[tree.parents[node]], tree.tokens[node], hidden=tree.hidden[node])
        assert place is not None
        places[node] = place
    return part
