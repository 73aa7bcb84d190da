"""Stand-ins for the drafter: one of a set acceptance rate and cost, and one that proposes noise at the real cost.

Both implement the decoder contract, so every strategy and every draft source meets them as it meets a real model.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.decoding.costs import Costs, Phase
from models.bundle import VisionLanguageModel
from models.prompts import Prompt
from models.runtimes.contract import Floats, Ints

RANKED = 4  # places of the distribution that may hold the target's token
VISUAL = -1  # the id of a row that is no text


class ScriptedDecoder:
    """Knows what the target will say, and agrees with it at each position with probability α, independently.

    The target's token has rank r with probability α(1 − α)^r. A pass takes `step_ms` for one row, a prefill
    `prefill_ms`; it sleeps, so it takes time and no core, as a drafter on a device of its own would. Behind a text that
    the target would not say it proposes anything.
    """

    def __init__(self, plain: Any, prompt: Prompt, alpha: float, step_ms: float, prefill_ms: float) -> None:
        self.s_max, self.width, self.vocabulary = plain.s_max, plain.width, plain.vocabulary
        self.alpha, self.step_ms, self.prefill_ms = alpha, step_ms, prefill_ms
        self._prompt_rows = len(prompt)
        self._ids = np.full(self.s_max, VISUAL, np.int64)
        self._truth: tuple[int, ...] = ()
        self._window = 0
        sure = min(max(alpha, 0.05), 0.999)  # a distribution with an order, also where the true token has no place
        self._values = np.log([sure * (1 - sure) ** rank for rank in range(RANKED)])
        self._rest = float(np.log((1 - sure) ** RANKED / self.vocabulary))

    def tell(self, truth: Sequence[int], window: int) -> None:
        """What the target says of the next window, end-of-sequence included."""
        self._truth, self._window = tuple(truth), window

    def embed(self, ids: Ints) -> Floats:
        rows = np.zeros((len(ids), self.width), np.float32)
        rows[:, 0] = ids + 1.0  # 0 is a visual row
        return rows

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        count = len(embeddings)
        mask = np.tri(count, dtype=np.bool_)
        return self.forward_tree(embeddings, np.arange(length, length + count), mask, length, rows, threads)

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        end = length + len(embeddings)
        if end > self.s_max:
            raise ValueError(f"{end} rows exceed the cache of {self.s_max}")
        begin = time.perf_counter()
        self._ids[length:end] = embeddings[:, 0].astype(np.int64) - 1
        before = self._ids[self._prompt_rows : length].tolist()
        new = self._ids[max(length, self._prompt_rows) : end]
        seen = mask[:, len(embeddings) - len(new) :]
        logits = [self._row([*before, *new[seen[row]].tolist()]) for row in rows]
        cost = self.prefill_ms if length < self._prompt_rows else self.step_ms
        time.sleep(max(0.0, cost / 1e3 - (time.perf_counter() - begin)))
        return np.stack(logits) if logits else np.empty((0, self.vocabulary), np.float32)

    def _row(self, text: list[int]) -> Floats:
        place = len(text)
        random = np.random.default_rng([self._window, place])
        top = random.choice(self.vocabulary - 1, RANKED, replace=False)
        if tuple(text) == self._truth[:place] and place < len(self._truth):
            truth, rank = self._truth[place], int(random.geometric(self.alpha)) - 1 if self.alpha > 0 else RANKED
            top += top >= truth  # the others
            if rank < RANKED and truth < self.vocabulary:
                top[rank] = truth
        row = np.full(self.vocabulary, self._rest, np.float32)
        row[top] = self._values
        return row

    def compact(self, length: int, kept: Ints) -> None:
        self._ids[length : length + len(kept)] = self._ids[length + kept]

    def warm_up(self, tokens: int, rows: int, threads: int) -> None:
        """Nothing is loaded."""

    def keep(self, threads: Collection[int]) -> None:
        """Nothing is open."""


class _ScriptedVision:
    """Takes the real encoder's time."""

    def __init__(self, tokens: int, width: int, encode_ms: float) -> None:
        self._shape, self._ms = (tokens, width), encode_ms

    def encode(self, pixels: Floats, threads: int) -> Floats:
        time.sleep(self._ms / 1e3)
        return np.zeros(self._shape, np.float32)

    def warm_up(self, frames: int, image_size: int, threads: int) -> None:
        """Nothing is loaded."""

    def keep(self, threads: Collection[int]) -> None:
        """Nothing is open."""


def scripted(
    model: VisionLanguageModel, question: str, alpha: float, ratio: float, costs: Costs
) -> VisionLanguageModel:
    """`model` with acceptance α and a step of `ratio` target steps; its encoding and prefill cost what they cost."""
    prompt = model.prompt(question)
    step_ms = ratio * costs.target_step.ms
    decoder = ScriptedDecoder(model.decoder, prompt, alpha, step_ms, costs.drafter_prefill.ms)
    vision = _ScriptedVision(prompt.num_visual, decoder.width, costs.drafter_encode.ms)
    return replace(model, vision=vision, decoder=decoder)


def scripted_costs(costs: Costs, ratio: float) -> Costs:
    """The plan's costs with such a drafter: it takes no core from the target."""
    step = ratio * costs.target_step.ms
    return replace(
        costs,
        drafter_step=Phase(step, costs.drafter_step.threads, step),
        overlap_step_ms=step,
        overlap_target_ms=costs.target_start_ms,
        overlap_alone_ms=costs.target_start_ms,
        overlap_threads=(costs.target_prefill.threads, 1),
    )


class NoisyDecoder:
    """The real decoder at its real cost, whose distributions are each a near certainty of a uniformly random token."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self._random = np.random.default_rng(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        return self._noise(self._plain.forward(embeddings, length, rows, threads))

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        return self._noise(self._plain.forward_tree(embeddings, positions, mask, length, rows, threads))

    def _noise(self, logits: Floats) -> Floats:
        noise = self._random.standard_normal(logits.shape).astype(np.float32)
        if len(noise):
            noise[np.arange(len(noise)), self._random.integers(0, noise.shape[1], len(noise))] = 20.0
        return noise


def noisy(model: VisionLanguageModel) -> VisionLanguageModel:
    """`model` proposing uniformly random tokens: what the guard is for."""
    decoder: Any = NoisyDecoder(model.decoder)
    return replace(model, decoder=decoder)
