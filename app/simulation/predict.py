"""From step times and captions to each strategy's predicted time to caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from app.decoding.guard import MARGIN
from app.simulation.clock import Process
from app.simulation.inputs import CaptionCase, StepTimes, agreement
from app.simulation.parallel import amusd, dsi, pearl, ssd, swiftspec
from app.simulation.schedules import Run, autoregressive, prefill_hiding, speculative

SCHEDULES: dict[str, Callable[[Run], Process]] = {
    schedule.__name__: schedule
    for schedule in (autoregressive, speculative, prefill_hiding, pearl, amusd, dsi, ssd, swiftspec)
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One strategy: p50 and p95 of the time to caption, unguarded, and whether the guard would let it run."""

    strategy: str
    placement: str | None
    p50_ms: float
    p95_ms: float
    alone_ms: float  # the target alone on the same captions, p50
    floor_ms: float  # the end of the target's prefill: no verified caption is sooner

    @property
    def pays(self) -> bool:
        return self.p50_ms * MARGIN < self.alone_ms

    @property
    def guarded_ms(self) -> float:
        """What a caption takes with the guard on: the target alone where the strategy does not pay."""
        return self.p50_ms if self.pays else self.alone_ms

    @property
    def eta(self) -> float | None:
        """η = (T_alone − T) ÷ (T_alone − T_prefill), guarded."""
        gain = self.alone_ms - self.floor_ms
        return (self.alone_ms - self.guarded_ms) / gain if gain > 0 else None


def times_to_caption(
    strategy: str, times: StepTimes, cases: Sequence[CaptionCase], devices: int = 1, placement: str = "serial"
) -> list[float]:
    """Simulated ms of each caption."""
    alpha = min(agreement(cases), 0.999)
    spent = []
    for case in cases:
        run = Run(times, case, alpha, devices, placement)
        spent.append(run.clock.run(SCHEDULES[strategy](run)))
    return spent


def predict(
    times: StepTimes,
    cases: Sequence[CaptionCase],
    devices: int = 1,
    strategies: Sequence[str] = tuple(SCHEDULES),
    placements: Sequence[str] = ("lead", "serial", "overlap"),
) -> list[Prediction]:
    """Every strategy on the same captions; `prefill_hiding` at the best of `placements`."""
    alone = float(np.median(times_to_caption("autoregressive", times, cases, devices)))
    floor = times.host_ms + times.target_encode_ms + times.target_prefill_ms
    predictions = []
    for strategy in strategies:
        results = []
        for placement in placements if strategy == "prefill_hiding" else (None,):
            spent = times_to_caption(strategy, times, cases, devices, placement or "serial")
            p50, p95 = np.percentile(spent, (50, 95)).tolist()
            results.append(Prediction(strategy, placement, p50, p95, alone, floor))
        predictions.append(min(results, key=lambda prediction: prediction.p50_ms))
    return predictions
