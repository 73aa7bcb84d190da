"""What the cost model is given: step times of both models, and how far the drafter agrees in each caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from app.decoding.costs import Costs
from app.simulation.clock import Slowdown

TYPICAL_ROWS = 8  # of a verify pass, by which a row's cost is taken: the curve is not straight
RANKS = 8  # a token that the drafter ranks lower is in no tree that it draws


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Milliseconds of each phase, alone on its device at its best thread count."""

    host_ms: float  # the target's preprocessing and whatever else a caption waits for that is no model
    target_encode_ms: float
    target_prefill_ms: float
    target_step_ms: float
    verify_row_ms: float  # of each row of a verify pass after `free_rows`
    fused_row_ms: float  # of each draft in the prefill's last chunk
    drafter_preprocess_ms: float
    drafter_encode_ms: float
    drafter_prefill_ms: float
    drafter_step_ms: float
    target_prefill_slow: float = 1.0  # times slower beside a drafter that drafts on the same device
    drafter_step_slow: float = 1.0  # a draft step beside the target's prefill
    steps_slow: float = 2.0  # a step of either beside a step of the other: both want the same memory or cores
    free_rows: int = 1  # rows that a verify pass carries for the price of a step

    @property
    def cost_ratio(self) -> float:
        """c: a drafter step ÷ a target step."""
        return self.drafter_step_ms / self.target_step_ms

    @property
    def drafter_start_ms(self) -> float:
        return self.drafter_preprocess_ms + self.drafter_encode_ms + self.drafter_prefill_ms

    def verify_ms(self, rows: int) -> float:
        """A pass of the target over so many rows; one row is a decode step."""
        return self.target_step_ms + max(0, rows - self.free_rows) * self.verify_row_ms

    @property
    def slowdown(self) -> Slowdown:
        """What passes at once on one device cost each other."""
        return {
            ("target", "prefill", "prefill"): 2.0,
            ("drafter", "prefill", "prefill"): 2.0,
            ("target", "prefill", "step"): self.target_prefill_slow,
            ("drafter", "step", "prefill"): self.drafter_step_slow,
            ("target", "step", "step"): self.steps_slow,
            ("drafter", "step", "step"): self.steps_slow,
            ("drafter", "prefill", "step"): self.target_prefill_slow,
            ("target", "step", "prefill"): self.drafter_step_slow,
        }

    @classmethod
    def measured(cls, costs: Costs, host_ms: float) -> StepTimes:
        """This machine's, from its calibration; `host_ms` as a bench measured it."""
        crowding = costs.overlap_target_ms / costs.overlap_alone_ms  # caches and memory, the threads being the same
        alone = costs.target_encode.ms + costs.target_prefill.ms
        return cls(
            host_ms=host_ms,
            target_encode_ms=costs.target_encode.ms,
            target_prefill_ms=costs.target_prefill.ms,
            target_step_ms=costs.target_step.ms,
            verify_row_ms=max(0.0, (costs.verify_ms(TYPICAL_ROWS) - costs.target_step.ms) / (TYPICAL_ROWS - 1)),
            fused_row_ms=costs.fused_row_ms,
            drafter_preprocess_ms=costs.drafter_preprocess_ms,
            drafter_encode_ms=costs.drafter_encode.ms,
            drafter_prefill_ms=costs.drafter_prefill.ms,
            drafter_step_ms=costs.drafter_step.ms,
            target_prefill_slow=max(1.0, costs.overlap_target_ms / alone),
            drafter_step_slow=max(1.0, costs.overlap_step_ms / costs.drafter_step.ms),
            steps_slow=max(1.0, crowding * costs.target_step.one_thread_ms / costs.target_step.ms),
        )

    @classmethod
    def given(cls, values: Any, where: str) -> StepTimes:
        """From a JSON object. Raises SimulationError, one line, for what is missing, unknown or not a time."""
        names = set(cls.__dataclass_fields__)
        if not isinstance(values, dict):
            raise SimulationError(f"{where}: not a JSON object of step times; `simulate --json` prints one")
        if unknown := sorted(set(values) - names):
            raise SimulationError(f"{where}: unknown key {unknown[0]}; known are {', '.join(sorted(names))}")
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e7:
                raise SimulationError(f"{where}: {name}: {value!r} is not a number of at least 0")
            if name in _POSITIVE and value == 0:
                raise SimulationError(f"{where}: {name}: must be above 0")
            if name.endswith("_slow") and value < 1:
                raise SimulationError(f"{where}: {name}: {value} is below 1; nothing gets faster beside another model")
        try:
            return cls(**values)
        except TypeError as error:
            raise SimulationError(f"{where}: {str(error).partition('() ')[2]}; `simulate --json` prints all") from None

    def as_json(self) -> dict[str, float]:
        return asdict(self)


_POSITIVE = ("target_step_ms", "drafter_step_ms", "target_prefill_ms")


class SimulationError(Exception):
    """Inputs of the cost model that cannot be used."""


@dataclass(frozen=True, slots=True)
class CaptionCase:
    """One caption as the cost model sees it.

    ranks: at each position, end-of-sequence the last, the target's token's place in the drafter's distribution after
    the target's own text (0: the drafter agrees). repeated: leading tokens shared with this camera's previous caption.
    """

    ranks: tuple[int, ...]
    repeated: int = 0

    def run(self, place: int, limit: int) -> int:
        """Drafts of a chain from `place` on that the target will accept, at most `limit`."""
        accepted = 0
        while accepted < limit and place + accepted < len(self.ranks) and self.ranks[place + accepted] == 0:
            accepted += 1
        return accepted


def agreement(cases: Sequence[CaptionCase]) -> float:
    """α: the share of positions at which the drafter agrees."""
    return float(np.mean([rank == 0 for case in cases for rank in case.ranks]))


def sample_cases(alpha: float, tokens: int, count: int, repeat: float = 0.0, seed: int = 0) -> list[CaptionCase]:
    """Captions of `tokens` tokens, end-of-sequence included, that a share `repeat` of has from the previous window.

    Agreement is independent from token to token (Leviathan et al., 2023, section 3.1); ranks are geometric, P(rank = r)
    = α(1 − α)^r, so a drafter that errs has the right token next in line as often as it is right at all.
    """
    random = np.random.default_rng(seed)
    ranks = np.minimum(random.geometric(min(max(alpha, 1e-6), 1.0), (count, tokens)) - 1, RANKS)
    whole = random.random(count) < repeat
    return [CaptionCase(tuple(row.tolist()), tokens * int(same)) for row, same in zip(ranks, whole, strict=True)]
