"""The guard: running acceptance across windows, and whether drafting still pays."""

from __future__ import annotations

from dataclasses import dataclass

from app.decoding.costs import Costs

PROBE_EVERY = 16  # a switched-off drafter is tried again in one window of so many: under 1 % of the time
PROBE_DRAFT = 4
UNGUARDED_DRAFT = 4  # drafts a pass when the guard is off and no length pays
MARGIN = 1.02  # drafting must promise more than the noise of a measurement


@dataclass(slots=True)
class Acceptance:
    """Running α over the last few captions, with a prior that stands for `weight` compared tokens."""

    alpha: float = 0.8
    weight: float = 20.0
    decay: float = 0.9  # a caption ten windows ago counts a third
    tokens: float = 30.0  # running caption length, end-of-sequence included

    def update(self, hits: int, trials: int, tokens: int) -> None:
        """Count one caption: `hits` of `trials` compared draft tokens were the target's own."""
        self.tokens = 0.9 * self.tokens + 0.1 * tokens
        if trials:
            kept = self.weight * self.decay
            self.alpha = (self.alpha * kept + hits) / (kept + trials)
            self.weight = kept + trials


@dataclass(slots=True)
class Guard:
    """Decides, before each caption and each pass, whether the drafter is used; its state lives across windows."""

    costs: Costs
    acceptance: Acceptance
    enabled: bool = True
    probing: bool = False  # this caption uses the drafter only to see whether it agrees again
    _idle: int = 0  # captions since the drafter was last used

    @property
    def alpha(self) -> float:
        return min(self.acceptance.alpha, 0.999)

    def placements(self, ahead: bool) -> tuple[str, ...]:
        return ("lead", "serial", "overlap") if ahead else ("serial", "overlap")

    def choose(self, wanted: str | None, ahead: bool) -> str | None:
        """The placement for the next caption; None: the target alone. `wanted` fixes it unless it would lose.

        `ahead`: a draft made before the window closed can be had.
        """
        tokens = self.acceptance.tokens
        options = (wanted,) if wanted and (wanted != "lead" or ahead) else self.placements(ahead)
        best = min(options, key=lambda placement: self.costs.hiding_ms(self.alpha, tokens, placement))
        return best if self._pays(self.costs.hiding_ms(self.alpha, tokens, best)) else None

    def use_speculation(self) -> bool:
        """Whether vanilla speculation is worth starting the drafter for."""
        return self._pays(self.costs.speculative_ms(self.alpha, self.acceptance.tokens))

    def _pays(self, promised_ms: float) -> bool:
        alone_ms = self.costs.autoregressive_ms(self.acceptance.tokens)
        pays = not self.enabled or promised_ms * MARGIN < alone_ms
        self.probing = not pays and self._idle + 1 >= PROBE_EVERY
        return pays or self.probing

    def learn(self, hits: int, trials: int, tokens: int, *, drafted: bool) -> None:
        """One caption has ended: `hits` of `trials` compared drafts stood; `drafted`: the drafter was used for it."""
        self.acceptance.update(hits, trials, tokens)
        self._idle = 0 if drafted else self._idle + 1

    def draft_length(self) -> int:
        """Drafts for the next pass of the decode phase; 0: the target alone."""
        best = self.costs.best_draft_length(self.alpha)
        return best if best or self.enabled else UNGUARDED_DRAFT

    def worth_fused(self, drafted: int, run: float) -> bool:
        """Is one more free draft worth its row in the fused pass, after `drafted` that stand with probability `run`?"""
        return self._worth(drafted, run, self.costs.fused_row_ms)

    def worth_paid(self, drafted: int, run: float) -> bool:
        """The same for a draft whose step the caption waits for."""
        return self._worth(drafted, run, self.costs.drafter_step.ms + self.costs.verify_row_ms)

    def _worth(self, drafted: int, run: float, cost_ms: float) -> bool:
        if not self.enabled or (self.probing and drafted < PROBE_DRAFT):
            return True
        return run * self.alpha * self.costs.target_step.ms > cost_ms
