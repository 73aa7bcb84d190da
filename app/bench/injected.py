"""Injected acceptance: a drafter whose steps cost what they cost, and whose tokens agree as often as it is told to."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from app.decoding.drafting import Drafter, Worth
from app.telemetry.spans import SpanRecorder


class InjectedDrafter(Drafter):
    """Runs the real drafter's passes, then replaces each token: the target's own with probability α, else another."""

    alpha = 1.0
    truth: Sequence[int] = ()  # what the target says of this window, end-of-sequence included
    seed = 0

    def draft(
        self,
        out: list[int],
        limit: int,
        worth: Worth,
        recorder: SpanRecorder,
        stop: threading.Event | None = None,
    ) -> None:
        """As the real one; `worth` sees α itself as the confidence, as from a well calibrated drafter."""
        run = 1.0
        while len(out) < limit and worth(len(out), run) and not (stop and stop.is_set()):
            place = len(self._fed) + len(self._next)
            row = self._step(recorder)
            if row is None or place >= len(self.truth):
                return
            random = np.random.default_rng([self.seed, place])
            token = self.truth[place]
            if random.random() >= self.alpha:
                token = (token + int(random.integers(1, self.model.vocabulary))) % self.model.vocabulary
            run *= self.alpha
            out.append(token)
            if token == self.model.eos_id:
                return
            self._next = [token]
