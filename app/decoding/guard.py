"""The guard: whether drafting pays, by what phases cost, by how far drafts stand, and by what captions really took."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.decoding.costs import NEVER, Costs, Curve, accepted
from app.decoding.survival import Acceptance

PROBE_EVERY = 16  # a switched-off drafter is tried again in one window of so many
PROBE_DRAFT = 4
UNGUARDED_DRAFT = 4  # drafts a pass when the guard is off and no length pays
MARGIN = 1.01  # drafting must promise more than the noise of a measurement
CLOSE = 0.9  # of the time alone: where a promise is near enough to be wrong, the target alone is measured now and then


@dataclass(slots=True)
class Reality:
    """Running measured ÷ predicted time, of the last few; 1 before anything was measured."""

    ratio: float = 1.0
    _weight: float = 1.0

    def learn(self, measured_ms: float, predicted_ms: float) -> None:
        """A single one counts as at most four times too slow or too fast: another process had the machine."""
        self._weight = 0.8 * self._weight + 1.0
        self.ratio += (min(4.0, max(0.25, measured_ms / predicted_ms)) - self.ratio) / self._weight


@dataclass(slots=True)
class Guard:
    """Decides, before each caption and each pass, whether the drafter is used; its state lives across windows."""

    costs: Costs
    acceptance: Acceptance
    enabled: bool = True
    probing: bool = False  # this caption uses the drafter only to see whether it agrees again
    drafted: Reality = field(default_factory=Reality)  # captions with drafts
    alone: Reality = field(default_factory=Reality)  # captions without
    rounds: Reality = field(default_factory=Reality)  # of drafting and verifying, in the decode phase
    steps: Reality = field(default_factory=Reality)  # of the target alone, in the decode phase
    _promised_ms: float | None = None  # for the caption under way
    _promised_tokens: float = 1.0
    _since_drafted: int = 0  # captions
    _since_alone: int = 0

    def forget_times(self) -> None:
        """Another strategy: what captions took by the last one says nothing. What is known of drafts stays."""
        self.drafted, self.alone = Reality(), Reality()
        self._since_drafted = self._since_alone = 0

    def take(self, costs: Costs) -> None:
        """Phases cost something else from now on. What is known of drafts stays."""
        self.costs = costs
        self.forget_times()
        self.rounds, self.steps = Reality(), Reality()

    @property
    def alpha(self) -> float:
        """The drafter's share of compared drafts that stood, in the decode phase."""
        return min(self.acceptance.of("drafter", first=False).alpha, 0.999)

    @property
    def first(self) -> Curve:
        """Of the drafter, behind the prompt."""
        return self.acceptance.of("drafter", first=True).curve

    @property
    def later(self) -> Curve:
        """Of the drafter, in the decode phase."""
        return self.acceptance.of("drafter", first=False).curve

    # Before a caption

    def placements(self, ahead: bool) -> tuple[str, ...]:
        return ("lead", "serial", "overlap") if ahead else ("serial", "overlap")

    def choose(self, wanted: str | None, ahead: bool, history: bool = False) -> str | None:
        """The placement for the next caption; None: no event draft. `wanted` fixes it unless it would lose.

        `ahead`: a draft made before the window closed can be had. `history`: the caption history proposes as well.
        """
        options = (wanted,) if wanted and (wanted != "lead" or ahead) else self.placements(ahead)
        known = self.acceptance.of("history", first=True).curve if history else NEVER
        promises = {placement: self._hiding_ms(placement, known) for placement in options}
        best = min(options, key=lambda placement: promises[placement])
        return best if self._pays(promises[best], self._hiding_ms(None, known)) else None

    def _hiding_ms(self, placement: str | None, history: Curve) -> float:
        return self.costs.hiding_ms(self.first, self.acceptance.tokens, placement, self.later, history)

    def use_speculation(self) -> bool:
        """Whether speculation is worth starting the drafter for."""
        tokens = self.acceptance.tokens
        return self._pays(self.costs.speculative_ms(self.later, tokens), self.costs.autoregressive_ms(tokens))

    def use_parallel(self, drafts: int) -> bool:
        """Whether it is worth running both models at once, with so many drafts a pass."""
        tokens = self.acceptance.tokens
        return self._pays(self.costs.parallel_ms(self.later, tokens, drafts), self.costs.autoregressive_ms(tokens))

    def _pays(self, promised_ms: float, alone_ms: float) -> bool:
        """Is the promise, corrected by how such promises were kept, better than the target alone?"""
        promise, alone = promised_ms * self.drafted.ratio, alone_ms * self.alone.ratio
        pays = not self.enabled or promise * MARGIN < alone
        if pays and self.enabled and promise > CLOSE * alone and self._since_alone + 1 >= PROBE_EVERY:
            pays = False  # a promise so close is checked against the target alone now and then
        self.probing = not pays and self._since_drafted + 1 >= PROBE_EVERY
        use = pays or self.probing
        self._promised_ms, self._promised_tokens = promised_ms if use else alone_ms, self.acceptance.tokens
        return use

    # After it

    def end_caption(self, tokens: int, elapsed_ms: float, *, drafted: bool) -> None:
        """A caption of `tokens` tokens took so long; `drafted`: the drafter was used for it."""
        if self._promised_ms is not None:
            length = self.costs.autoregressive_ms(tokens) / self.costs.autoregressive_ms(self._promised_tokens)
            (self.drafted if drafted else self.alone).learn(elapsed_ms, self._promised_ms * length)
        self._promised_ms = None
        self.acceptance.end_caption(tokens)
        self._since_drafted = 0 if drafted else self._since_drafted + 1
        self._since_alone = self._since_alone + 1 if drafted else 0

    # In the decode phase

    def end_round(self, drafts: int, paid: int, elapsed_ms: float) -> None:
        """A pass that verified `drafts` drafts, `paid` of them made meanwhile by the drafter, took so long in all."""
        if paid:
            self.rounds.learn(elapsed_ms, paid * self.costs.drafter_step.ms + self.costs.verify_ms(drafts + 1))
        elif not drafts:
            self.steps.learn(elapsed_ms, self.costs.target_step.ms)

    def draft_length(self) -> int:
        """Drafts for the next pass of the decode phase; 0: the target alone."""
        best = self.costs.best_draft_length(self.later)
        if best and self.enabled and self.drafted_token_ms(best) * MARGIN >= self.alone_token_ms:
            return 0
        return best if best or self.enabled else UNGUARDED_DRAFT

    def drafted_token_ms(self, drafts: int) -> float:
        """A verified token, by so many of the drafter's drafts a pass, as passes really go."""
        return self.rounds.ratio * self.costs.speculative_token_ms(self.later, drafts)

    def known_token_ms(self, drafts: int) -> float:
        """A verified token, by so many drafts of the caption history a pass: they cost nothing but their rows."""
        curve = self.acceptance.of("history", first=False).curve
        return self.steps.ratio * self.costs.verify_ms(drafts + 1) / (1.0 + accepted(curve, drafts))

    @property
    def alone_token_ms(self) -> float:
        """A token of the target alone, as steps really go."""
        return self.steps.ratio * self.costs.target_step.ms

    def worth_fused(self, drafted: int, run: float) -> bool:
        """Is one more free draft worth its row in the fused pass, after `drafted` that stand with probability `run`?"""
        return self._worth(self.first, drafted, run, self.costs.fused_row_ms)

    def worth_serial(self, drafted: int, run: float) -> bool:
        """The same for a draft made before the target's prefill, whose step the caption waits for."""
        return self._worth(self.first, drafted, run, self.costs.drafter_step.ms + self.costs.fused_row_ms)

    def worth_paid(self, drafted: int, run: float) -> bool:
        """The same in the decode phase."""
        return self._worth(self.later, drafted, run, self.costs.drafter_step.ms + self.costs.verify_row_ms)

    def _worth(self, curve: Curve, drafted: int, run: float, cost_ms: float) -> bool:
        """`run` is the drafter's own opinion; how often drafts so long stood bounds it."""
        if not self.enabled or (self.probing and drafted < PROBE_DRAFT):
            return True
        if drafted + 1 >= len(curve):
            return False
        stands = min(curve[drafted + 1], run * curve[drafted + 1] / max(curve[drafted], 1e-9))
        return stands * self.costs.target_step.ms > cost_ms
