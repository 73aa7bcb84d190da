"""Injected acceptance: a drafter whose steps cost what they cost, and whose tokens agree as often as it is told to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.decoding.drafting import Drafter
from models.runtimes.contract import Floats


class InjectedDrafter(Drafter):
    """Runs the real drafter's passes, then picks the target's own token with probability α, else another."""

    alpha = 1.0
    truth: Sequence[int] = ()  # what the target says of this window, end-of-sequence included
    seed = 0

    def pick(self, row: Floats, place: int) -> tuple[int, float]:
        """As from a well calibrated drafter, α itself is the probability."""
        random = np.random.default_rng([self.seed, place])
        token = self.truth[place] if place < len(self.truth) else self.model.eos_id
        if token >= self.model.vocabulary or random.random() >= self.alpha:
            token = (token + int(random.integers(1, self.model.vocabulary))) % self.model.vocabulary
        return token, self.alpha
