"""The verified text of one caption as it grows, with the statistics of how it grew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from app.decoding.acceptance import Verdict, logprobs, top_gaps
from app.decoding.model import common_prefix
from app.decoding.sampling import GREEDY, Sampler
from app.decoding.sources import Proposal
from app.decoding.tree import ROOT, TokenTree
from app.records import DecodingStats
from models.runtimes.contract import Floats

ACCEPTED, TARGET, REJECTED = "accepted", "target", "rejected"


class Judged(NamedTuple):
    """What became of one draft: its first `stood` tokens; `compared` counts the refused one, if one was."""

    source: str
    first: bool  # behind the prompt
    stood: int
    compared: int


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
    judged: list[Judged] = field(default_factory=list)  # what the passes said of each source, until it is learnt
    drafted_at: list[int] = field(default_factory=list)  # [n]: passes with a draft longer than n
    started_ns: int = 0  # on the engine's clock
    _kept: int = 0  # drafts of the last pass that are in the text

    @property
    def room(self) -> int:
        """Drafts worth verifying in the next pass: one place is for the bonus token."""
        return self.max_new_tokens - len(self.tokens) - 1

    def add(self, drafts: Sequence[int], verdict: Verdict, *, hidden: int = 0) -> None:
        """Append one verify pass: its accepted drafts, then the bonus token; what follows the end is cut.

        The first `hidden` drafts cost the caption no time.
        """
        first, stood = not self.tokens, drafts[: verdict.accepted]
        rejected = self._add(stood, drafts[verdict.accepted :], verdict, len(drafts), len(drafts))
        self.hidden += min(hidden, len(drafts))
        self.accepted_hidden += min(hidden, self._kept)
        if drafts:
            self.judged.append(Judged("drafter", first, self._kept, self._kept + rejected))

    def add_tree(
        self, tree: TokenTree, path: Sequence[int], verdict: Verdict, proposals: Sequence[Proposal] = ()
    ) -> None:
        """The same for a tree and the path through it that stands. Of what does not, the oldest branch is shown.

        proposals: what it was made from, where acceptance is to be told by source.
        """
        before, stood = len(self.tokens), [tree.tokens[node] for node in path]
        refused = [tree.tokens[node] for node in tree.first_chain(path[-1] if path else ROOT)]
        self._add(stood, refused, verdict, len(tree), tree.depth)
        self.hidden += sum(tree.hidden)
        self.accepted_hidden += sum(tree.hidden[node] for node in path[: self._kept])
        said = self.ended[before:]
        for source, tokens, _ in proposals:
            run = common_prefix(tokens, said)
            self.judged.append(Judged(source, not before, run, run + (run < min(len(tokens), len(said)))))

    def count_foreseen(self, ahead: Sequence[int], *, hidden: bool = False) -> None:
        """Count a draft for the place of the last token that its pass did not carry: the target chose by itself.

        `ahead`: that draft and those behind it, which are still to be verified. As PEARL's pre-verification.
        """
        said = self.ended[-1]
        stands = ahead[0] == said
        self.first_draft = self.first_draft or tuple(ahead)
        self._count(1, 1, ahead[:stands], not stands, said)
        self.hidden += hidden
        self.accepted_hidden += hidden and stands
        self.judged.append(Judged("drafter", len(self.ended) == 1, int(stands), 1))
        if self.finish_reason != "stop":
            self.display[-1:] = [(said, ACCEPTED)] if stands else [(ahead[0], REJECTED), (said, TARGET)]

    def _add(self, stood: Sequence[int], refused: Sequence[int], verdict: Verdict, drafted: int, depth: int) -> bool:
        """`refused`: the drafts in whose place the target's own token stands; whether it came to that."""
        self.steps += 1
        self._kept = 0
        for token in stood:
            if self.finish_reason:
                break
            self._append(token, ACCEPTED, verdict, self._kept)
            self._kept += 1
        rejected = bool(refused) and not self.finish_reason
        if drafted:
            self.first_draft = self.first_draft or (*stood, *refused)
            self._count(drafted, depth, stood[: self._kept], rejected, verdict.bonus)
        if not self.finish_reason:
            self.display += [(token, REJECTED) for token in refused]
            self._append(verdict.bonus, TARGET, verdict, verdict.accepted)
        return rejected

    def _append(self, token: int, origin: str, verdict: Verdict, row: int) -> None:
        self.decided.append(verdict.logits[row])
        if token == self.eos_id:
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        self.display.append((token, origin))
        if len(self.tokens) >= self.max_new_tokens:
            self.finish_reason = "length"

    def _count(self, drafted: int, depth: int, kept: Sequence[int], rejected: bool, bonus: int) -> None:
        self.num_drafts += 1
        self.num_draft_tokens += drafted
        self.num_accepted += len(kept)
        self.histogram += [0] * (len(kept) + 1 - len(self.histogram))
        self.histogram[len(kept)] += 1
        self.drafted_at += [0] * (depth - len(self.drafted_at))
        self.drafted_at[:depth] = [count + 1 for count in self.drafted_at[:depth]]
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
            drafted_per_position=tuple(self.drafted_at),
            alpha_trials=self.trials,
            alpha_hits=self.num_accepted,
            content_trials=self.content_trials,
            content_hits=self.content_hits,
        )
