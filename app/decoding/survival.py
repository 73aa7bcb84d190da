"""Running acceptance: how far the drafts of each source stand, learnt pass by pass and kept across windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from operator import mul

from app.decoding.costs import MAX_DRAFT, Curve

DECAY = 0.9  # a caption; ten windows ago counts a third
FORGET = 0.98  # a caption without a draft of the source: what it was worth is forgotten slowly, and tried again
POOLED, PLACED = 8.0, 4.0  # compared tokens that the prior stands for: of the source, of each place in its drafts
PRIORS = {"drafter": 0.8, "history": 0.7, "runner_up": 0.3}
MODEST = 0.3  # prior of any other source


class Survival:
    """P(the first n drafts all stand), n = 0 … MAX_DRAFT, as Kaplan and Meier (1958) estimate it, decayed.

    The product over places of "stands, given that those before it stood": tokens of a draft are not independent (what
    follows a wrong token is wrong), and of a draft cut short the rest is not known.
    """

    def __init__(self, alpha: float) -> None:
        self.prior = alpha
        self._hits, self._trials = [0.0] * MAX_DRAFT, [0.0] * MAX_DRAFT  # [n]: of the places n, from 0
        self._all_hits = self._all_trials = 0.0
        self._curve: list[float] | None = None
        self._heard = False  # in this caption

    def learn(self, stood: int, compared: int) -> None:
        """A draft's first `stood` tokens stood; `compared` is one more when the next was compared and refused."""
        if not compared:
            return
        self._hits[:stood] = [count + 1 for count in self._hits[:stood]]
        self._trials[:compared] = [count + 1 for count in self._trials[:compared]]
        self._all_hits += stood
        self._all_trials += compared
        self._curve, self._heard = None, True

    def fade(self) -> None:
        """A caption has ended."""
        decay = DECAY if self._heard else FORGET
        self._hits = [decay * count for count in self._hits]
        self._trials = [decay * count for count in self._trials]
        self._all_hits *= decay
        self._all_trials *= decay
        self._curve, self._heard = None, False

    @property
    def alpha(self) -> float:
        """Share of compared drafts that stood, whatever their place."""
        return (self._all_hits + POOLED * self.prior) / (self._all_trials + POOLED)

    @property
    def curve(self) -> Curve:
        if self._curve is None:
            prior = PLACED * self.alpha
            stands = [(hits + prior) / (trials + PLACED) for hits, trials in zip(self._hits, self._trials, strict=True)]
            self._curve = list(accumulate(stands, mul, initial=1.0))
        return self._curve


@dataclass(slots=True)
class Acceptance:
    """What is known of every source; `alpha` is the drafter's prior."""

    alpha: float = PRIORS["drafter"]
    tokens: float = 30.0  # running caption length, end-of-sequence included
    _sources: dict[tuple[str, bool], Survival] = field(default_factory=dict)

    def of(self, source: str, *, first: bool) -> Survival:
        """A source's drafts behind the prompt (`first`) or later in a caption."""
        key = source, first
        if key not in self._sources:
            prior = self.alpha if source == "drafter" else PRIORS.get(source, MODEST)
            self._sources[key] = Survival(prior)
        return self._sources[key]

    def end_caption(self, tokens: int) -> None:
        """A caption of so many tokens has ended."""
        self.tokens = DECAY * self.tokens + (1 - DECAY) * tokens
        for survival in self._sources.values():
            survival.fade()
        # Until it is heard of in the decode phase, the drafter is taken to be there as it is behind the prompt.
        self.of("drafter", first=False).prior = self.of("drafter", first=True).alpha
