"""The verified text of one caption as it grows, with the statistics of how it grew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.decoding.acceptance import Verdict, top_gaps, top_logprobs
from app.records import DecodingStats
from models.runtimes.contract import Floats

ACCEPTED, TARGET, REJECTED = "accepted", "target", "rejected"


@dataclass(slots=True)
class Transcript:
    """Tokens that the target accepted or chose; ends with end-of-sequence (not kept) or at `max_new_tokens`."""

    eos_id: int
    max_new_tokens: int
    is_content: Callable[[int], bool]  # a token that the scene decides, for α over content words
    tokens: list[int] = field(default_factory=list)
    decided: list[Floats] = field(default_factory=list)  # [V]: the logits behind `tokens`, and behind end-of-sequence
    display: list[tuple[int, str]] = field(default_factory=list)  # (id, origin), rejected drafts where they fell
    finish_reason: str | None = None
    first_draft: tuple[int, ...] = ()
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted: int = 0
    steps: int = 0
    hidden: int = 0
    accepted_hidden: int = 0
    histogram: list[int] = field(default_factory=list)
    trials: int = 0
    content_trials: int = 0
    content_hits: int = 0

    @property
    def room(self) -> int:
        """Drafts worth verifying in the next pass: one place is for the bonus token."""
        return self.max_new_tokens - len(self.tokens) - 1

    def add(self, drafts: Sequence[int], verdict: Verdict, *, hidden: int = 0) -> None:
        """Append one verify pass: its accepted drafts, then the bonus token; what follows the end is cut.

        The first `hidden` drafts cost the caption no time.
        """
        self.steps += 1
        kept = 0
        for token in drafts[: verdict.accepted]:
            if self.finish_reason:
                break
            kept += 1
            self._append(token, ACCEPTED, verdict, kept - 1)
        if drafts:
            self._count(drafts, verdict, kept, hidden)
        if not self.finish_reason:
            if verdict.accepted < len(drafts):
                self.display += [(token, REJECTED) for token in drafts[verdict.accepted :]]
            self._append(verdict.bonus, TARGET, verdict, verdict.accepted)

    def _append(self, token: int, origin: str, verdict: Verdict, row: int) -> None:
        self.decided.append(verdict.logits[row])
        if token == self.eos_id:
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        self.display.append((token, origin))
        if len(self.tokens) >= self.max_new_tokens:
            self.finish_reason = "length"

    def _count(self, drafts: Sequence[int], verdict: Verdict, kept: int, hidden: int) -> None:
        self.first_draft = self.first_draft or tuple(drafts)
        self.num_drafts += 1
        self.num_draft_tokens += len(drafts)
        self.num_accepted += kept
        self.histogram += [0] * (kept + 1 - len(self.histogram))
        self.histogram[kept] += 1
        self.hidden += min(hidden, len(drafts))
        self.accepted_hidden += min(hidden, kept)
        rejected = verdict.accepted < len(drafts) and not self.finish_reason
        self.trials += kept + rejected
        self.content_hits += sum(map(self.is_content, drafts[:kept]))
        self.content_trials += sum(map(self.is_content, drafts[:kept])) + (rejected and self.is_content(verdict.bonus))

    def certainty(self) -> tuple[Floats, Floats]:
        """Log-probability and top-2 gap of each decided token, end-of-sequence included; once, when all is said."""
        logits = np.stack(self.decided)
        return top_logprobs(logits), top_gaps(logits)

    def stats(self, strategy: str, placement: str | None) -> DecodingStats:
        """The counters under the standard names."""
        return DecodingStats(
            strategy=strategy,
            placement=placement,
            tokens=len(self.tokens),
            num_drafts=self.num_drafts,
            num_draft_tokens=self.num_draft_tokens,
            num_accepted_draft_tokens=self.num_accepted,
            hidden_tokens=self.hidden,
            accepted_hidden_tokens=self.accepted_hidden,
            num_spec_steps=self.steps,
            acceptance_histogram=tuple(self.histogram),
            alpha_trials=self.trials,
            alpha_hits=self.num_accepted,
            content_trials=self.content_trials,
            content_hits=self.content_hits,
        )
