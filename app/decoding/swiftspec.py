"""SwiftSpec: asynchronous speculative decoding with parallel tree generation (Zhang et al., 2025, arXiv 2506.11309).

    D, always:   expand the w likeliest leaves of the draft tree in one pass
    T, always:   verify the B likeliest drafts, a subtree; tell D the accepted tokens and T's own
    D, told so, after the pass it is in:
      the tokens lead to a node of the tree: re-root there, its cache rows move together, its subtree lives on
      they leave the tree: restart behind the common prefix

The draft tree's growth is off the critical path: T waits for D only where the tree has nothing to verify.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.decoding.engine import Engine, Job
from app.decoding.growing_tree import GrowingTree
from app.decoding.parallel import PATIENCE_S, ParallelStrategy, drafts_per_pass
from app.decoding.sources import Proposal
from app.decoding.transcript import Transcript
from app.decoding.tree import ROOT, TokenTree
from app.decoding.tree_drafting import TreeDrafting

WIDTH = 4  # w: leaves that one pass of the drafter expands, and children that each of them gets
NODES = 32  # expanded nodes at most: a pass of the drafter feeds them all


class SwiftSpec(ParallelStrategy):
    """The drafter grows a tree while the target verifies the best part of it."""

    name = "swiftspec"

    def decode(self, transcript: Transcript, job: Job) -> None:
        engine = self.engine
        wanted = engine.settings.draft_tokens or max(drafts_per_pass(engine), engine.guard.costs.knee - 1)  # B
        with TreeGrower(engine, job) as grower:
            engine.begin_target(job)
            engine.target_pass("prefill", (), transcript, job)
            grower.end_prefill()
            while not transcript.finish_reason:
                grower.tell(transcript.tokens)
                subtree = grower.best(engine.draft_limit(wanted, transcript), transcript.room)
                if len(subtree):
                    likeliest = [subtree.tokens[node] for node in subtree.first_chain(ROOT)]
                    engine.tree_pass("verify", subtree, transcript, job, [Proposal("drafter", likeliest)])
                else:
                    engine.target_pass("decode", (), transcript, job)


class TreeGrower(TreeDrafting):
    """The draft side: one pass after the other, and a new root between two of them."""

    def __init__(self, engine: Engine, job: Job) -> None:
        super().__init__(engine, job)
        self._tree = self._new_tree()
        self._verified: list[int] | None = None  # told, not yet taken note of
        self._exhausted = False  # the drafter has no more for this text

    # The target's side

    def tell(self, verified: Sequence[int]) -> None:
        """The verified text has grown."""
        with self.changed:
            self._verified = list(verified)
            self.changed.notify_all()

    def end_prefill(self) -> None:
        """The target's prefill has ended: what is drafted by now cost the caption no time."""
        with self.changed:
            self._tree.hide()

    def best(self, count: int, depth: int) -> TokenTree:
        """The likeliest drafts behind the verified text; waits for the first of them."""
        if not count:
            return TokenTree(0)
        self.until(lambda: self._verified is None and (self._exhausted or len(self._tree)))
        with self.changed:
            return self._tree.best(count, depth) if self._verified is None else TokenTree(0)

    # The drafter's side

    def work(self) -> None:
        while (leaves := self._next()) is not None:
            nodes = self._tree.nodes
            logits = self.feed(nodes)
            with self.changed:
                if logits is None:
                    self._exhausted = True
                else:
                    places = [len(self.text) + (0 if node == ROOT else nodes.depths[node] + 1) for node in leaves]
                    likeliest = self.drafter.candidates(logits[[1 + node for node in leaves]], places, WIDTH)
                    for node, candidates in zip(leaves, likeliest, strict=True):
                        self._tree.sprout(node, candidates)
                self.changed.notify_all()

    def _next(self) -> list[int] | None:
        """Take note of a verdict, wait for something to expand; None when the caption is over."""
        with self.changed:
            while not self.stopped:
                if self._verified is not None:
                    self._re_root(self._verified)
                    self._verified = None
                    self.changed.notify_all()
                if not self._exhausted:
                    if not self._tree.rooted:
                        return [ROOT]
                    if leaves := self._tree.take(WIDTH, self.engine.settings.max_new_tokens - len(self.text) - 1):
                        return leaves
                    if not len(self._tree):  # the drafter proposes nothing behind this text: its logits are no numbers
                        self._exhausted = True
                        self.changed.notify_all()
                if not self.changed.wait(PATIENCE_S):
                    break
        return None

    def _re_root(self, verified: list[int]) -> None:
        root = self.move_to(verified)
        if root is None:
            self._tree = self._new_tree()
        elif root != ROOT:
            self._tree = self._tree.below(root)
        self._exhausted = False

    def _new_tree(self) -> GrowingTree:
        return GrowingTree(NODES, self.drafter.model.eos_id)
