"""The cost model against measurement: predicted and measured time to caption of each strategy, in one run.

The last validation is kept beside the calibration, so that a table about a device that we do not have can say how far
the model was off where it could be checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from app.bench.agreement import caption_cases
from app.bench.figures import most, run_times
from app.bench.lanes import Lane, Pair, run_lanes
from app.bench.windows import BenchWindow
from app.captioner import CaptionerSettings
from app.decoding.calibration import available_cores
from app.decoding.costs import Costs
from app.decoding.plan_cache import cache_key, installed, processor
from app.decoding.strategies import STRATEGIES
from app.simulation.inputs import CaptionCase, StepTimes, agreement
from app.simulation.predict import SCHEDULES, times_to_caption


@dataclass(frozen=True, slots=True)
class Checked:
    """One strategy, guard off: median ms to caption as predicted and as measured."""

    strategy: str
    placement: str | None
    predicted_ms: float
    measured_ms: float

    @property
    def error(self) -> float:
        """Relative: above 0, the model is too pessimistic."""
        return self.predicted_ms / self.measured_ms - 1


@dataclass(frozen=True, slots=True)
class Validation:
    """One run of it."""

    machine: str
    cores: int
    when: str  # ISO 8601, UTC
    windows: int
    alpha: float
    tokens: float  # of a caption, end-of-sequence included, mean
    step_times: StepTimes
    rows: tuple[Checked, ...]

    @property
    def worst(self) -> float:
        return max((abs(row.error) for row in self.rows), default=0.0)

    def error_of(self, strategy: str) -> float | None:
        return next((row.error for row in self.rows if row.strategy == strategy), None)

    def as_json(self) -> dict[str, Any]:
        rows = [asdict(row) | {"error": row.error} for row in self.rows]
        return asdict(self) | {"rows": rows, "worst_error": self.worst}


def validate(
    models: Pair,
    settings: CaptionerSettings,
    costs: Costs,
    windows: Sequence[BenchWindow],
    progress: Callable[[], None] = lambda: None,
) -> tuple[Validation, list[CaptionCase]]:
    """Run every strategy with the event drafter alone and no guard, and predict each from the same captions."""
    names = [name for name in SCHEDULES if name in STRATEGIES]
    lanes = [Lane(name, name, settings.placement, costs, guard=False, sources=("drafter",)) for name in names]
    run_lanes(lanes, models, settings, windows, progress)
    alone = lanes[0]
    seen = caption_cases(models[0], alone.captions, settings.drafter_span_us, costs.drafter_prefill.threads)
    cases = [replace(case, repeated=0) for case in seen]  # the history took no part
    times = run_times(costs, alone)
    rows = []
    for lane in lanes:
        placement = most(lane.placements)
        spent = times_to_caption(lane.strategy, times, cases, placement=placement or "serial")
        rows.append(Checked(lane.strategy, placement, float(np.median(spent)), float(np.median(lane.ms))))
    tokens = float(np.mean([len(case.ranks) for case in cases]))
    when = datetime.now(UTC).isoformat(timespec="seconds")
    found = Validation(processor(), available_cores(), when, len(windows), agreement(cases), tokens, times, tuple(rows))
    return found, cases


def cache_file(folder: Path, models: Pair) -> Path:
    """Where the last validation of this pair on this machine is kept."""
    versions = (found for name in ("onnxruntime", "torch") if (found := installed(name)))
    parts = (str(models[0].manifest), str(models[1].manifest), processor(), str(available_cores()), *versions)
    return folder / f"validation-{cache_key(*parts)}.json"


def save(path: Path, found: Validation) -> None:
    """Best effort: without it, the next table measures again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found.as_json(), indent=1))
    except OSError:
        return


def load(path: Path) -> Validation | None:
    """The last validation; None when there is none that can be read, or when it lacks a strategy that can be run."""
    try:
        raw = json.loads(path.read_text())
        del raw["worst_error"]
        for row in raw["rows"]:
            del row["error"]
        times = StepTimes(**raw.pop("step_times"))
        rows = tuple(Checked(**row) for row in raw.pop("rows"))
        found = Validation(**raw, step_times=times, rows=rows)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    missing = {name for name in SCHEDULES if name in STRATEGIES} - {row.strategy for row in found.rows}
    return None if missing else found
