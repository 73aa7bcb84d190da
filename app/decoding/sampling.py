"""Sampling by position-keyed Gumbel noise: which token the target picks depends on seed, caption and position alone.

argmax over tokens of logit / T + g, with g Gumbel distributed, is a draw from softmax(logit / T) (Gumbel, 1954). Here g
is a function of (seed, caption, position, token), so a draft stands exactly when it is the target's own pick, whatever
was proposed, in whatever order and by whichever strategy; and a drafter that uses the same noise agrees more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.runtimes.contract import Floats

WORD = 2**64
BLOCK = 16  # positions whose noise is drawn at once
SMALLEST = 2.0**-64  # an exponential draw of 0 would be a token that always wins


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0  # the nucleus: the fewest most likely tokens that together have this probability
    seed: int = 0


class Sampler:
    """The choices of one caption. For one thread: the noise of a position is drawn when it is first asked for."""

    def __init__(self, sampling: Sampling, caption: int = 0) -> None:
        """caption: any number that names the caption; with the seed it keys the noise."""
        self.sampling = sampling
        self._noise: dict[int, Floats] = {}  # block of positions -> [BLOCK, V]
        if sampling.temperature:
            self._bits = np.random.Philox(key=[sampling.seed % WORD, caption % WORD])
            self._random = np.random.Generator(self._bits)
            self._state = self._bits.state

    def pick(self, row: Floats, place: int) -> int:
        """The token for position `place` of the caption, from logits [V]."""
        scores = self._perturbed(row, place)
        token = int(scores.argmax())
        if self.sampling.top_p < 1.0 and self.sampling.temperature:
            weights = self._weights(row)
            if weights[row > row[token]].sum() >= self.sampling.top_p * weights.sum():  # outside the nucleus
                token = int(self.scores(row, place).argmax())
        return token

    def picks(self, rows: Floats, places: Sequence[int]) -> list[int]:
        """`pick` for several positions, from logits [N, V]."""
        if not self.sampling.temperature:
            return rows.argmax(axis=1).tolist()  # type: ignore[no-any-return]
        return [self.pick(row, place) for row, place in zip(rows, places, strict=True)]

    def all_scores(self, rows: Floats, places: Sequence[int]) -> Floats:
        """`scores` [N, V] of several positions, from logits [N, V]."""
        if not self.sampling.temperature:
            return rows
        return np.stack([self.scores(row, place) for row, place in zip(rows, places, strict=True)])

    def scores(self, row: Floats, place: int) -> Floats:
        """What is compared, in units of logits: logit + T · g [V]; −inf outside the nucleus. `pick` is its argmax."""
        scores = self._perturbed(row, place)
        if self.sampling.top_p < 1.0 and self.sampling.temperature:
            weights, order = self._weights(row), np.argsort(-row)
            above = np.cumsum(weights[order]) - weights[order]
            last = order[np.flatnonzero(above < self.sampling.top_p * weights.sum())[-1]]
            scores = np.where(row < row[last], np.float32(-np.inf), scores)
        return scores

    def _perturbed(self, row: Floats, place: int) -> Floats:
        temperature = self.sampling.temperature
        return row + np.float32(temperature) * self._gumbel(place, len(row)) if temperature else row

    def _weights(self, row: Floats) -> Floats:
        """Unnormalised probabilities [V]."""
        return np.asarray(np.exp((row - row.max()) / np.float32(self.sampling.temperature)))

    def _gumbel(self, place: int, size: int) -> Floats:
        """Noise [size] of a position. Its head does not depend on `size`: vocabularies may differ in length."""
        block, row = divmod(place, BLOCK)
        noise = self._noise.get(block)
        if noise is None or noise.shape[1] < size:
            state = self._state  # Philox is counter-based: a block is a place in its sequence, at no cost to reach
            state["state"]["counter"][:] = (0, 0, 0, block)
            state["buffer_pos"], state["has_uint32"] = 4, 0
            self._bits.state = state
            drawn = np.maximum(self._random.standard_exponential((size, BLOCK)), SMALLEST)
            noise = self._noise[block] = np.ascontiguousarray(-np.log(drawn.T), np.float32)
        return noise[row, :size]


GREEDY_SAMPLING = Sampling()
GREEDY = Sampler(GREEDY_SAMPLING)
