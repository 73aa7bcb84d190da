"""SSD: Speculative Speculative Decoding (Kumar, Dao, May, 2026, arXiv 2603.03251; the algorithm there: Saguaro).

    in parallel: T verifies the speculation s = d₁ … d_K, its outcome is v = (k accepted, token t* behind them)
                 D prepares for outcomes: for each k the F_k likeliest t*, and behind each K tokens: cache[v]
    v is in the cache (hit) ? s = cache[v], at no cost : D drafts s just in time

D expands all outcomes at once: one pass over s gives every t* (glue decode), then one masked pass a level. Early
outcomes get more fan-out (theorem: F_k is a geometric series, capped). While the target prefills, the only unknown
outcome is the first token: F first tokens, K deep.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.decoding.costs import MAX_DRAFT
from app.decoding.engine import Engine, Job
from app.decoding.parallel import PATIENCE_S, ParallelStrategy, drafts_per_pass
from app.decoding.transcript import Transcript
from app.decoding.tree import ROOT, TokenTree
from app.decoding.tree_drafting import TreeDrafting

NODES = 32  # tokens that the cache may hold: outcomes times their depth
MISS_EXPONENT = 1.0  # r: with fan-out F the true outcome is missed with a probability proportional to F^−r

Outcome = tuple[int, int]  # drafts accepted, and the target's token behind them


class Ssd(ParallelStrategy):
    """Speculates on what the verification will say, while it runs."""

    name = "ssd"

    def decode(self, transcript: Transcript, job: Job) -> None:
        engine = self.engine
        with OutcomeCache(engine, job, min(drafts_per_pass(engine), MAX_DRAFT)) as cache:
            engine.begin_target(job)
            engine.target_pass("prefill", (), transcript, job)
            accepted = 0
            while not transcript.finish_reason:
                text = list(transcript.tokens)
                speculation = cache.lookup(accepted, text[-1])
                hidden = len(speculation) if len(text) == 1 else 0
                if not speculation and engine.draft_limit(1, transcript):
                    speculation = cache.draft_just_in_time(text)
                speculation = speculation[: engine.draft_limit(len(speculation), transcript)]
                cache.prepare(text, speculation)
                stage = "verify" if speculation else "decode"
                engine.target_pass(stage, speculation, transcript, job, hidden=hidden)
                accepted = len(transcript.tokens) - len(text) - 1


class OutcomeCache(TreeDrafting):
    """The speculation cache, and the drafter that fills it beside the verification."""

    def __init__(self, engine: Engine, job: Job, depth: int) -> None:
        super().__init__(engine, job)
        self.depth = depth
        self._cache: dict[Outcome, list[int]] = {}
        self._request: tuple[list[int], list[int] | None] | None = ([], [])  # text; speculation, None: draft it now
        self._drafted: list[int] | None = None

    # The strategy's side

    def lookup(self, accepted: int, token: int) -> list[int]:
        """What is drafted for this outcome by now; empty: a miss."""
        with self.changed:
            return list(self._cache.get((accepted, token), ()))

    def prepare(self, text: Sequence[int], speculation: Sequence[int]) -> None:
        """Fill the cache for the outcomes of verifying `speculation` behind `text`."""
        self._ask(list(text), list(speculation))

    def draft_just_in_time(self, text: Sequence[int]) -> list[int]:
        """A speculation behind `text` while the target waits: a miss."""
        self._ask(list(text), None)
        self.until(lambda: self._drafted is not None)
        return self._drafted or []

    def _ask(self, text: list[int], speculation: list[int] | None) -> None:
        with self.changed:
            self._request, self._cache, self._drafted = (text, speculation), {}, None
            self.changed.notify_all()

    # The drafter's side

    def work(self) -> None:
        while request := self._next():
            text, speculation = request
            self.move_to(text)
            if speculation is None:
                self._draft(text)
            else:
                self._fill(speculation)

    def _next(self) -> tuple[list[int], list[int] | None] | None:
        """The next request; None when the caption is over."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or self._request, PATIENCE_S)
            request, self._request = self._request, None
            return None if self.stopped else request

    def _draft(self, text: list[int]) -> None:
        drafts: list[int] = []
        self.restart(text)  # the last token is pending again: its distribution is drafted from
        self.drafter.draft(drafts, self.depth, None, self.job.recorder)
        self.restart(text)
        with self.changed:
            self._drafted = drafts
            self.changed.notify_all()

    def _fill(self, speculation: list[int]) -> None:
        """Glue decode over the speculation, then all outcomes one level deeper a pass, until the verdict is there."""
        cache, drafter, place = self._cache, self.drafter, len(self.text)
        tree = TokenTree(len(speculation) + NODES)
        continued = [token for token in speculation if token != drafter.model.eos_id]
        chain = [ROOT, *tree.add_chain(continued)]
        logits = self.feed(tree)
        if logits is None:
            return
        tips: dict[Outcome, int] = {}
        fans = fan_out(self.engine.guard.alpha, len(continued), max(2, NODES // self.depth))
        likeliest = drafter.candidates(logits, range(place, place + len(chain)), max(fans) + 2)
        for accepted, (fan, likely) in enumerate(zip(fans, likeliest, strict=True)):
            known = (*speculation[accepted : accepted + 1], drafter.model.eos_id)
            for token in [token for token, _ in likely if token not in known][:fan]:
                child = tree.add(chain[accepted], token)
                if child is not None:
                    tips[accepted, token] = child
        for _ in range(self.depth):
            if self._request or self.stopped or not tips or (logits := self.feed(tree)) is None:
                return
            nodes = list(tips.values())
            tokens = drafter.picks(logits[1:][nodes], [place + tree.depths[node] + 1 for node in nodes])
            picks = dict(zip(tips, tokens, strict=True))
            with self.changed:
                for outcome, token in picks.items():
                    cache.setdefault(outcome, []).append(token)
                self.changed.notify_all()
            deeper = {v: tree.add(tips[v], token) for v, token in picks.items() if token != drafter.model.eos_id}
            tips = {v: node for v, node in deeper.items() if node is not None}


def fan_out(alpha: float, drafts: int, budget: int) -> list[int]:
    """F_k for k = 0 … drafts accepted, `budget` in all: F_k ∝ α^(k / (1 + r)), the last times (1 − α)^(−1 / (1 + r)).

    That makes the expected miss, Σ P(k accepted) · F_k^−r, the smallest: one more guess gains the same at every k.
    """
    share = 1.0 / (1.0 + MISS_EXPONENT)
    weights = [alpha ** (accepted * share) for accepted in range(drafts + 1)]
    weights[-1] *= (1.0 - alpha) ** -share if drafts else 1.0
    wanted = [budget * weight / sum(weights) for weight in weights]
    fans = [int(fan) for fan in wanted]
    for accepted in sorted(range(drafts + 1), key=lambda k: fans[k] - wanted[k])[: budget - sum(fans)]:
        fans[accepted] += 1
    return fans
