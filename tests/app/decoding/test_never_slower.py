"""With the guard no drafter makes captions slower than the target alone, whatever it says and costs.

In virtual time: a pass takes what a cost model says and nothing else does, so that the figures are the decisions' own.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from app.decoding.costs import Costs, Phase
from app.decoding.engine import Engine, Settings
from app.decoding.guard import Guard
from app.decoding.strategies import make_strategy
from app.decoding.survival import Acceptance
from models.prompts import Prompt
from models.runtimes.contract import Floats, Ints
from tests.app.decoding.scripted import Script, Stage, Times
from tests.app.decoding.toy import DRAFTER_PROMPT, EOS, TARGET_PROMPT, ToyModel, ToyVision, costs, scene

VOCABULARY, LENGTH = 28, 24
CAPTION = (5, 7, 9, 3, 8, 6, 5, 9, 7, 3, 6, 8, 9, 5, 3, 7, EOS)
SCHEDULES = [("speculative", None), ("prefill_hiding", "lead"), ("prefill_hiding", "serial")]


@dataclass
class Clock:
    ns: int = 0

    def __call__(self) -> int:
        return self.ns

    def spend(self, ms: float) -> None:
        """The caption waits for its own thread alone: what the drafter does ahead of the window costs it nothing."""
        if threading.current_thread() is threading.main_thread():
            self.ns += round(ms * 1e6)


@dataclass
class TimedDecoder:
    """Says token `place` of the scene's caption whatever was said before; a drafter, with probability `alpha`."""

    prompt: Prompt
    clock: Clock
    real: Costs  # what passes take, whatever the guard was told
    alpha: float | None = None  # of a drafter
    sure: float = 9.0  # logit of what it says
    s_max: int = 128
    width: int = 2
    vocabulary: int = VOCABULARY
    scene: int = field(default=0, init=False)

    def embed(self, ids: Ints) -> Floats:
        return np.zeros((len(ids), 2), np.float32)

    def forward(self, embeddings: Floats, length: int, rows: Ints, threads: int) -> Floats:
        return self.forward_tree(embeddings, length + np.arange(len(embeddings)), np.empty(0, bool), length, rows, 1)

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: NDArray[np.bool_], length: int, rows: Ints, threads: int
    ) -> Floats:
        prompt_rows, count = len(self.prompt), len(embeddings)
        if length < prompt_rows:
            self.scene = int(embeddings[:, 1].max())
            fused = (length + count - prompt_rows) * self.real.fused_row_ms
            self.clock.spend(
                self.real.target_prefill.ms + fused if self.alpha is None else self.real.drafter_prefill.ms
            )
        else:
            self.clock.spend(self.real.verify_ms(count) if self.alpha is None else self.real.drafter_step.ms)
        logits = np.zeros((len(rows), VOCABULARY), np.float32)
        for row, place in enumerate(positions[rows] + 1 - prompt_rows):
            logits[row, self._say(int(place))] = self.sure
        return logits

    def _say(self, place: int) -> int:
        return _token(self.scene, place, self.alpha)

    def compact(self, length: int, kept: Ints) -> None: ...


@cache
def _token(scene: int, place: int, alpha: float | None) -> int:
    token = int(np.random.default_rng([scene, place]).integers(3, VOCABULARY))
    random = np.random.default_rng([7, scene, place])
    if alpha is None or random.random() < alpha:
        return token
    return 3 + (token - 3 + int(random.integers(1, VOCABULARY - 3))) % (VOCABULARY - 3)


@dataclass
class TimedVision(ToyVision):
    clock: Clock
    ms: float

    def encode(self, pixels: Floats, threads: int) -> Floats:
        self.clock.spend(self.ms)
        return super().encode(pixels, threads)


def times(
    strategy: str, placement: str | None, alpha: float, told: Costs, real: Costs, windows: int = 40, sure: float = 9.0
) -> NDArray[np.float64]:
    """Virtual milliseconds of each caption."""
    clock = Clock()
    models = [
        ToyModel(TimedVision(prompt, clock, encode.ms), decoder, EOS, VOCABULARY)  # type: ignore[arg-type]
        for prompt, encode, decoder in (
            (DRAFTER_PROMPT, real.drafter_encode, TimedDecoder(DRAFTER_PROMPT, clock, real, alpha, sure)),
            (TARGET_PROMPT, real.target_encode, TimedDecoder(TARGET_PROMPT, clock, real)),
        )
    ]
    settings = Settings(LENGTH, lambda token: False, placement, sources=("drafter",))
    engine = Engine(models[0], models[1], (DRAFTER_PROMPT, TARGET_PROMPT), Guard(told, Acceptance()), settings)
    engine.clock = clock
    schedule, took = make_strategy(strategy, engine), []
    try:
        for number in range(windows):
            if placement == "lead":
                schedule.draft_ahead(scene(number))
                engine.worker.submit(lambda: None).result()
            began = clock.ns
            schedule.run(scene(number))
            took.append((clock.ns - began) / 1e6)
    finally:
        engine.close()
    return np.array(took)


def slowdown(
    strategy: str, placement: str | None, alpha: float, told: Costs, real: Costs, sure: float = 9.0
) -> tuple[float, float]:
    """Time to caption over that of the target alone: of the first ten windows, and of those after."""
    took = times(strategy, placement, alpha, told, real, sure=sure)
    alone = times("autoregressive", None, alpha, told, real, windows=1)[0]
    return float(took[:10].mean() / alone), float(took[10:].mean() / alone)


def pair(c: float, **changes: float) -> Costs:
    """Costs of which a drafter's step is `c` of a target's."""
    return costs(drafter_step=c, drafter_encode=4.0, drafter_prefill=4.0, **changes)


@pytest.mark.parametrize(("strategy", "placement"), SCHEDULES)
@pytest.mark.parametrize("sure", [9.0, 0.1], ids=["confident", "unsure"])
def test_a_drafter_of_noise(strategy: str, placement: str | None, sure: float) -> None:
    before, after = slowdown(strategy, placement, 0.0, pair(0.25), pair(0.25), sure)
    assert before < 1.15
    assert after < 1.05


@pytest.mark.parametrize(("strategy", "placement"), SCHEDULES)
@pytest.mark.parametrize("alpha", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("c", [0.1, 0.5, 1.0])
def test_a_drafter_of_any_acceptance_and_cost(strategy: str, placement: str | None, alpha: float, c: float) -> None:
    before, after = slowdown(strategy, placement, alpha, pair(c), pair(c))
    assert before < 1.15
    assert after < 1.02


@pytest.mark.parametrize(("strategy", "placement"), SCHEDULES)
def test_a_machine_on_which_drafting_costs_three_times_what_was_measured(strategy: str, placement: str | None) -> None:
    told, real = pair(0.1), pair(0.1)
    real = replace(real, drafter_step=Phase(0.9, 1, 0.9), drafter_prefill=Phase(12.0, 1, 12.0), fused_row_ms=0.5)
    before, after = slowdown(strategy, placement, 0.7, told, real)
    assert before < 1.15
    assert after < 1.05


def apart(monkeypatch: pytest.MonkeyPatch, strategy: str, script: Script, windows: int) -> NDArray[np.float64]:
    """Virtual milliseconds of each caption of a guarded schedule, each model on a device of its own."""
    t = script.times
    told = {"target_encode": 0.0, "drafter_encode": 0.0, "verify_row_ms": 0.0, "fused_row_ms": 0.0}
    told |= {"target_prefill": t.target_prefill, "drafter_prefill": t.drafter_prefill}
    told |= {"overlap_target_ms": t.target_prefill, "overlap_step_ms": t.drafter_step}
    stage, took = Stage(monkeypatch, script, guard=True, **told), []
    stage.engine.clock = lambda: round(stage.clock.now * 1e6)
    for _ in range(windows):
        began = stage.clock.now
        stage.caption(strategy)
        took.append(stage.clock.now - began)
    monkeypatch.undo()
    return np.array(took)


@pytest.mark.parametrize("strategy", ["pearl", "amusd", "dsi", "ssd", "swiftspec"])
@pytest.mark.parametrize("drafter_step", [27.0, 61.0, 131.0])
def test_both_models_at_once(strategy: str, drafter_step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drafter of noise costs next to nothing; one that is right and quicker than the target pays."""
    times = Times(drafter_step=drafter_step)
    alone = apart(monkeypatch, "autoregressive", Script(CAPTION, frozenset(), times), 1)[0]
    noise = apart(monkeypatch, strategy, Script(CAPTION, frozenset(range(20)), times), 40) / alone
    right = apart(monkeypatch, strategy, Script(CAPTION, frozenset(), times), 13) / alone
    assert noise[:10].mean() < 1.15
    assert noise[10:].mean() < 1.05
    assert right[10:].mean() < (0.9 if drafter_step < times.target_step else 1.02)


def test_it_pays_where_it_should() -> None:
    assert slowdown("prefill_hiding", "lead", 0.9, pair(0.1), pair(0.1))[1] < 0.8
