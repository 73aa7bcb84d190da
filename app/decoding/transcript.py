"""The verified text of one caption as it grows, with the statistics of how it grew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.decoding.acceptance import Verdict, logprobs, top_gaps
from app.decoding.sampling import GREEDY, Sampler
from app.decoding.tree import ROOT, TokenTree
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
    _kept: int = 0  # drafts of the last pass that are in the text

    @property
    def room(self) -> int:
        """Drafts worth verifying in the next pass: one place is for the bonus token."""
        return self.max_new_tokens - len(self.tokens) - 1

    def add(self, drafts: Sequence[int], verdict: Verdict, *, hidden: int = 0) -> None:
        """Append one verify pass: its accepted drafts, then the bonus token; what follows the end is cut.

        The first `hidden` drafts cost the caption no time.
        """
        stood = drafts[: verdict.accepted]
        self._add(stood, drafts[verdict.accepted :], verdict, drafts)
        self.hidden += min(hidden, len(drafts))
        self.accepted_hidden += min(hidden, self._kept)

    def add_tree(self, tree: TokenTree, path: Sequence[int], verdict: Verdict) -> None:
        """The same for a tree and the path through it that stands. Of what does not, the oldest branch is shown."""
        refused = tree.first_chain(path[-1] if path else ROOT)
        self._add([tree.tokens[node] for node in path], [tree.tokens[node] for node in refused], verdict, tree.tokens)
        self.hidden += sum(tree.hidden)
        self.accepted_hidden += sum(tree.hidden[node] for node in path[: self._kept])

    def count_foreseen(self, ahead: Sequence[int], *, hidden: bool = False) -> None:
        """Count a draft for the place of the last token that its pass did not carry: the target chose by itself.

        `ahead`: that draft and those behind it, which are still to be verified. As PEARL's pre-verification.
        """
        said = self.ended[-1]
        stands = ahead[0] == said
        self.first_draft = self.first_draft or tuple(ahead)
        self._count(1, ahead[:stands], not stands, said)
        self.hidden += hidden
        self.accepted_hidden += hidden and stands
        if self.finish_reason != "stop":
            self.display[-1:] = [(said, ACCEPTED)] if stands else [(ahead[0], REJECTED), (said, TARGET)]

    def _add(self, stood: Sequence[int], refused: Sequence[int], verdict: Verdict, drafts: Sequence[int]) -> None:
        """`refused`: the drafts that the target's own token stands in the place of."""
        self.steps += 1
        self._kept = 0
        for token in stood:
            if self.finish_reason:
                break
            self._append(token, ACCEPTED, verdict, self._kept)
            self._kept += 1
        if drafts:
            self.first_draft = self.first_draft or (*stood, *refused)
            self._count(len(drafts), stood[: self._kept], bool(refused) and not self.finish_reason, verdict.bonus)
        if not self.finish_reason:
            self.display += [(token, REJECTED) for token in refused]
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

    def _count(self, drafted: int, kept: Sequence[int], rejected: bool, bonus: int) -> None:
        self.num_drafts += 1
        self.num_draft_tokens += drafted
        self.num_accepted += len(kept)
        self.histogram += [0] * (len(kept) + 1 - len(self.histogram))
        self.histogram[len(kept)] += 1
        self.trials += len(kept) + rejected
        self.content_hits += sum(map(self.is_content, kept))
        self.content_trials += sum(map(self.is_content, kept)) + (rejected and self.is_content(bonus))

    @property
    def ended(self) -> list[int]:
        """The tokens and, where the target said so, end-of-sequence: one for each row of `decided`."""
        return [*self.tokens, self.eos_id] if self.finish_reason == "stop" else self.tokens

    def certainty(self, sampler: Sampler = GREEDY) -> tuple[Floats, Floats]:
        """Log-probability of each decided token, and by how many logits it was chosen before the runner-up.

        End-of-sequence included; once, when all is said. sampler: the one that chose.
        """
        logits = np.stack(self.decided)
        scores = np.stack([sampler.scores(row, place) for place, row in enumerate(logits)])
        return logprobs(logits, self.ended), top_gaps(scores)

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
