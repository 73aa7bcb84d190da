"""What each phase costs on this machine, and what a caption should cost by it (Leviathan et al., 2023, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_DRAFT = 64  # no plan asks for more drafts in one verify pass


def expected_accepted(alpha: float, drafts: int) -> float:
    """Expected accepted tokens of a chain of `drafts`: α + α² + … + αⁿ."""
    if alpha >= 1.0:
        return float(drafts)
    return alpha * (1.0 - alpha**drafts) / (1.0 - alpha)


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase at its best thread count."""

    ms: float
    threads: int
    one_thread_ms: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured costs in milliseconds; every phase at its own best thread count."""

    drafter_encode: Phase
    drafter_prefill: Phase
    drafter_step: Phase
    target_encode: Phase
    target_prefill: Phase
    target_step: Phase
    verify_row_ms: float  # what one more row costs a verify pass
    fused_row_ms: float  # what one more row costs the last prefill pass
    overlap_target_ms: float  # target encode + prefill on its share of the cores while the drafter runs on the rest
    overlap_alone_ms: float  # the same threads with the drafter still
    overlap_step_ms: float  # a drafter step meanwhile
    drafter_preprocess_ms: float = 0.0  # rendering a window's events and resizing the pictures
    overlap_threads: tuple[int, int] = (1, 1)  # (target, drafter) while both run
    verify_curve: dict[int, float] = field(default_factory=dict)  # rows -> ms

    @property
    def drafter_start_ms(self) -> float:
        return self.drafter_encode.ms + self.drafter_prefill.ms

    def draft_ms(self, tokens: float) -> float:
        """A whole draft of `tokens` tokens, from the events on."""
        return self.drafter_preprocess_ms + self.drafter_start_ms + tokens * self.drafter_step.ms

    @property
    def target_start_ms(self) -> float:
        return self.target_encode.ms + self.target_prefill.ms

    def verify_ms(self, rows: int) -> float:
        """A verify pass of `rows` rows; one row is a decode step."""
        return self.target_step.ms + (rows - 1) * self.verify_row_ms

    def speculative_token_ms(self, alpha: float, drafts: int) -> float:
        """Cost of a verified token in the decode phase when each pass carries `drafts` fresh drafts."""
        spent = drafts * self.drafter_step.ms + self.verify_ms(drafts + 1)
        return spent / (1.0 + expected_accepted(alpha, drafts))

    def best_draft_length(self, alpha: float) -> int:
        """The γ with the cheapest verified token; 0 when the target alone is cheaper (the guard)."""
        options: Sequence[int] = range(17)
        return min(options, key=lambda drafts: self.speculative_token_ms(alpha, drafts))

    def free_draft_length(self, alpha: float, limit: int) -> int:
        """How many drafts that cost nothing to make are worth their rows in the fused pass: αⁿ · step > row."""
        length = 0
        while length < min(limit, MAX_DRAFT) and alpha ** (length + 1) * self.target_step.ms > self.fused_row_ms:
            length += 1
        return length

    def decode_ms(self, alpha: float, tokens: float, drafter_started: bool) -> float:
        """The decode phase of `tokens` tokens, by whatever is cheapest."""
        gamma = self.best_draft_length(alpha) if drafter_started else 0
        return max(0.0, tokens) * self.speculative_token_ms(alpha, gamma)

    def autoregressive_ms(self, tokens: float) -> float:
        """Time to a caption of `tokens` tokens, end-of-sequence included, by the target alone."""
        return self.target_start_ms + (tokens - 1) * self.target_step.ms

    def speculative_ms(self, alpha: float, tokens: float) -> float:
        """The same by speculation after both prefills."""
        return self.target_start_ms + self.draft_ms(0) + self.decode_ms(alpha, tokens - 1, True)

    def hiding_ms(self, alpha: float, tokens: float, placement: str) -> float:
        """Time from the closed window to the caption by prefill hiding with the draft made at `placement`."""
        free = self.free_draft_length(alpha, int(tokens))
        if placement == "lead":
            drafts, before, prefill = free, 0.0, self.target_start_ms
        elif placement == "serial":
            drafts = self.serial_draft_length(alpha, int(tokens))
            before, prefill = self.draft_ms(drafts), self.target_start_ms
        else:
            started = self.drafter_preprocess_ms + self.drafter_start_ms
            ready = int(max(0.0, self.overlap_target_ms - started) / max(self.overlap_step_ms, 1e-6))
            drafts, before, prefill = min(free, ready), 0.0, self.overlap_target_ms
        left = tokens - 1 - expected_accepted(alpha, drafts)
        return before + prefill + drafts * self.fused_row_ms + self.decode_ms(alpha, left, True)

    def serial_draft_length(self, alpha: float, limit: int) -> int:
        """As `free_draft_length`, when each draft also costs its step."""
        length, cost = 0, self.fused_row_ms + self.drafter_step.ms
        while length < min(limit, MAX_DRAFT) and alpha ** (length + 1) * self.target_step.ms > cost:
            length += 1
        return length
