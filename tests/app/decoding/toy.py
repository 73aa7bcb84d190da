"""A language model small enough for thousands of property-test cases: its logits hang on every token in its cache.

It implements the decoder contract in NumPy and refuses what the contract forbids, so that a row that was not rolled
back, was fed twice or was never fed changes the text or raises.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.decoding.costs import Costs, Phase
from app.decoding.engine import Engine, Job, Settings
from app.decoding.guard import Guard
from app.decoding.sampling import GREEDY_SAMPLING, Sampling
from app.decoding.sources import SOURCES
from app.decoding.survival import Acceptance
from app.telemetry.spans import SpanRecorder
from models.prompts import Prompt
from models.runtimes.contract import Floats, Ints

EOS = 2
TARGET_PROMPT = Prompt((1, 5), 6, (7, 8, 9))
DRAFTER_PROMPT = Prompt((1, 6, 6), 2, (7,))


@dataclass
class ToyDecoder:
    """Logits [R, V] from a generator seeded with scene and every token behind it; `noise` makes a drafter differ."""

    seed: int
    vocabulary: int
    s_max: int = 128
    noise: float = 0.0
    eos_bias: float = 0.0
    width: int = 2
    rows_fed: int = 0
    cache: Floats = field(init=False)
    written_after: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.cache = np.full((self.s_max, 2), np.nan, np.float32)
        self.written_after = np.zeros(self.s_max, np.int64)

    def embed(self, ids: Ints) -> Floats:
        assert ((ids >= 0) & (ids < self.vocabulary)).all(), "an id without an embedding"
        return np.stack([ids.astype(np.float32), np.zeros(len(ids), np.float32)], axis=1)

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        count = len(embeddings)
        positions = np.arange(length, length + count)
        return self.forward_tree(embeddings, positions, np.tri(count, dtype=np.bool_), length, rows, threads)

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        count = len(embeddings)
        if length + count > self.s_max:
            raise ValueError("cache full")
        assert not np.isnan(self.cache[:length]).any(), "rows before `length` were never written"
        self.rows_fed += count
        self.cache[length : length + count] = embeddings
        self.cache[length + count :] = np.nan  # what was rolled back must not be read again
        logits = []
        for row in range(count):
            seen = np.concatenate([np.arange(length), length + np.flatnonzero(mask[row])])
            assert seen[-1] == length + row
            assert positions[row] == len(seen) - 1
            self.written_after[length + row] = self._behind(seen)
            if row in rows:
                logits.append(self._logits(seen))
        return np.stack(logits) if logits else np.empty((0, self.vocabulary), np.float32)

    def compact(self, length: int, kept: Ints) -> None:
        assert (np.diff(kept) > 0).all()
        for array in (self.cache, self.written_after):
            array[length : length + len(kept)] = array[length + kept]

    def _behind(self, seen: Ints) -> int:
        """A row's cache holds what it saw: a number for that, the same only for the same rows in the same order."""
        before = self.written_after[seen[-2]] if len(seen) > 1 else 0
        return hash((before, len(seen), *self.cache[seen[-1]].tolist()))

    def _logits(self, rows: Ints) -> Floats:
        for end in range(1, len(rows) + 1):
            assert self.written_after[rows[end - 1]] == self._behind(rows[:end]), "a row that saw another text"
        seen = self.cache[rows]
        visual = np.flatnonzero(seen[:, 1] != 0)
        scene = int(seen[visual[0], 1])
        tail = int(seen[visual[0], 0])
        text = seen[visual[-1] + 1 + tail :, 0].astype(int).tolist()
        logits = np.random.default_rng([self.seed, scene, len(text), *text]).normal(size=self.vocabulary)
        logits[EOS] += self.eos_bias
        if self.noise:
            logits += self.noise * np.random.default_rng([99, scene, len(text), *text]).normal(size=self.vocabulary)
        return np.asarray(logits, np.float32)


@dataclass
class ToyVision:
    """Visual rows that carry the scene and how many prompt tokens follow them."""

    prompt: Prompt

    def encode(self, pixels: Floats, threads: int) -> Floats:
        row = np.array([len(self.prompt.tail_ids), float(pixels[0])], np.float32)
        return np.repeat(row[None], self.prompt.num_visual, axis=0)


@dataclass
class ToyModel:
    vision: ToyVision
    decoder: ToyDecoder
    eos_id: int
    vocabulary: int


def costs(**changes: float) -> Costs:
    """Costs like those of a small pair: a drafter step is a tenth of a target step."""

    def phase(ms: float) -> Phase:
        return Phase(ms, 1, ms)

    values = {
        "drafter_encode": 2.0,
        "drafter_prefill": 2.0,
        "drafter_step": 0.1,
        "target_encode": 10.0,
        "target_prefill": 30.0,
        "target_step": 1.0,
        "verify_row_ms": 0.1,
        "fused_row_ms": 0.1,
        "overlap_target_ms": 60.0,
        "overlap_alone_ms": 58.0,
        "overlap_step_ms": 0.2,
    } | changes
    phases = {
        name: phase(values.pop(name)) for name in list(values) if name.split("_")[-1] in {"encode", "prefill", "step"}
    }
    return Costs(**phases, **values)  # type: ignore[arg-type]


def make_engine(
    *,
    seed: int = 0,
    noise: float = 1.0,
    drafter_seed: int | None = None,
    vocabulary: int = 24,
    target_rows: int = 28,
    max_new_tokens: int = 24,
    placement: str | None = None,
    draft_tokens: int | None = None,
    guard: bool = False,
    eos_bias: float = 0.8,
    s_max: int = 128,
    sampling: Sampling = GREEDY_SAMPLING,
    sources: tuple[str, ...] = SOURCES,
    **cost_changes: float,
) -> Engine:
    """A target with `target_rows` rows in its head and a drafter that knows the first `vocabulary` ids.

    noise 0 with the target's seed is the twin; a `drafter_seed` of its own makes an unrelated drafter.
    """
    target = ToyDecoder(seed, target_rows, s_max, eos_bias=eos_bias)
    unrelated = seed if drafter_seed is None else drafter_seed
    drafter = ToyDecoder(unrelated, target_rows, s_max, noise=noise, eos_bias=eos_bias)
    return Engine(
        ToyModel(ToyVision(DRAFTER_PROMPT), drafter, EOS, vocabulary),
        ToyModel(ToyVision(TARGET_PROMPT), target, EOS, target_rows),
        (DRAFTER_PROMPT, TARGET_PROMPT),
        Guard(costs(**cost_changes), Acceptance(), enabled=guard),
        Settings(max_new_tokens, lambda token: token % 2 == 0, placement, draft_tokens, sampling, sources),
    )


def scene(number: int) -> Job:
    """A window to caption; the same number is the same scene."""

    def pixels() -> NDArray[np.float32]:
        return np.array([number + 1], np.float32)

    return Job(pixels, pixels, SpanRecorder(), caption=number)
