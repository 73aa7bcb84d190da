"""Both models by script and in virtual time: what they say, how long they take, and a record of who did what when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest

from app.decoding import parallel, verify_slots
from app.decoding.draft_loop import DraftLoop
from app.decoding.model import CachedSequence
from app.decoding.strategies import make_strategy
from app.decoding.transcript import Transcript
from app.decoding.verify_slots import Task
from models.runtimes.contract import Floats, Ints
from tests.app.decoding.toy import EOS, TARGET_PROMPT, ToyDecoder, ToyModel, ToyVision, make_engine, scene
from tests.app.decoding.virtual_time import VirtualTime

Text = tuple[int, ...]
Says = Callable[[Text], list[tuple[int, float]]]  # what may follow a text, the likeliest first

DRAFTER, TARGET = "D", "T"


class Times(NamedTuple):
    """Virtual milliseconds; no two sums of a few of them are equal."""

    target_prefill: float = 250.0
    target_step: float = 100.0
    drafter_prefill: float = 45.0
    drafter_step: float = 27.0


USUAL = Times()


class Event(NamedTuple):
    """`what` begins at `at`: a pass (`texts` whose next token it asks for), or a word between the two models."""

    at: float
    what: str
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Script:
    """The target says `truth`; the drafter says so too, but not at the places `wrong`, nor behind any other text."""

    truth: Text
    wrong: frozenset[int] = frozenset()
    times: Times = USUAL

    def target(self, text: Text) -> list[tuple[int, float]]:
        known = text == self.truth[: len(text)] and len(text) < len(self.truth)
        return [(self.truth[len(text)] if known else 20, 0.9)]

    def drafter(self, text: Text) -> list[tuple[int, float]]:
        """Where it is wrong, the truth is its second choice; how sure it is differs from text to text."""
        place = len(text)
        sure = 0.6 + 0.3 * ((7 * place + sum(text)) % 11) / 11
        if text != self.truth[:place] or place >= len(self.truth):
            return _ranked(10 + place % 5, 15 + place % 5, sure)
        right, other = self.truth[place], 21 + place % 4
        first, second = (other, right) if place in self.wrong else (right, other)
        return _ranked(first, second, sure)


def _ranked(first: int, second: int, sure: float) -> list[tuple[int, float]]:
    rest = 1 - sure
    likely = [(first, sure), (second, 0.75 * rest), (4, 0.2 * rest), (1, 0.05 * rest)]
    return likely + [(token, 1e-9) for token in range(28) if token not in (first, second, 4, 1)]


@dataclass
class ScriptedDecoder(ToyDecoder):
    """A toy decoder, strict about its cache, whose passes take virtual time and whose words are given."""

    says: Says = field(default=lambda text: [])
    clock: VirtualTime = field(default_factory=VirtualTime)
    record: Callable[[str, Sequence[Text]], None] = field(default=lambda what, texts: None)
    lane: str = TARGET
    prefill_ms: float = 0.0
    step_ms: float = 0.0

    def forward_tree(
        self, embeddings: Floats, positions: Ints, mask: Any, length: int, rows: Ints, threads: int
    ) -> Floats:
        self._asked: list[Text] = []
        logits = super().forward_tree(embeddings, positions, mask, length, rows, threads)
        self.record(self.lane, self._asked)
        self.clock.work(self.prefill_ms if (embeddings[:, 1] != 0).any() else self.step_ms)
        return logits

    def _logits(self, rows: Ints) -> Floats:
        super()._logits(rows)
        seen = self.cache[rows]
        visual = np.flatnonzero(seen[:, 1] != 0)
        text = tuple(seen[visual[-1] + 1 + int(seen[visual[0], 0]) :, 0].astype(int).tolist())
        self._asked.append(text)
        row = np.full(self.vocabulary, -20.0, np.float32)
        for token, probability in self.says(text):
            row[token] = np.log(probability)
        return row


class Stage:
    """An engine of scripted models on a virtual clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: Script, targets: int = 1, **settings: Any) -> None:
        self.clock = VirtualTime()
        self.events: list[Event] = []
        self.script = script
        monkeypatch.setattr(parallel, "Condition", self.clock.condition)
        monkeypatch.setattr(verify_slots, "ThreadPoolExecutor", self.clock.pool)
        _report(
            monkeypatch, DraftLoop, "roll_back", lambda loop, text, asked: asked and self.record("rolls back", [text])
        )
        _report(monkeypatch, Task, "cancel", lambda task, _: self.record("cancels", [task.text]))
        times = script.times
        costs = {"target_step": times.target_step, "drafter_step": times.drafter_step}
        self.engine = make_engine(vocabulary=28, eos_bias=0.0, **{"max_new_tokens": 40} | costs | settings)
        self.engine.worker.shutdown()
        self.engine.worker = self.clock.pool(thread_name_prefix="drafter")  # type: ignore[assignment]
        self.engine.drafter.model.decoder = self._decoder(DRAFTER, script.drafter)  # type: ignore[misc]
        self.engine.model.decoder = self._decoder(TARGET, script.target)  # type: ignore[misc]
        more = [
            ToyModel(ToyVision(TARGET_PROMPT), self._decoder(TARGET, script.target, 10.0 * n), EOS, 28)
            for n in range(1, targets)
        ]
        self.engine.targets = (self.engine.target, *map(CachedSequence, more))

    def _decoder(self, lane: str, says: Says, later: float = 0.0) -> ScriptedDecoder:
        times = self.script.times
        prefill, step = (
            (times.drafter_prefill, times.drafter_step)
            if lane == DRAFTER
            else (times.target_prefill, times.target_step)
        )
        return ScriptedDecoder(
            seed=0,
            vocabulary=28,
            says=says,
            clock=self.clock,
            record=self.record,
            lane=lane,
            prefill_ms=prefill + later,
            step_ms=step,
        )

    def record(self, what: str, texts: Sequence[Sequence[int]]) -> None:
        self.events.append(Event(round(self.clock.now, 3), what, tuple(sorted(map(tuple, texts)))))

    def caption(self, strategy: str) -> Transcript:
        return make_strategy(strategy, self.engine).run(scene(1))[0]


def _report(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, tell: Callable[..., object]) -> None:
    """Let `tell` know of each call: its object, first argument and result."""
    plain = getattr(owner, name)

    def call(self: Any, *args: Any) -> Any:
        result = plain(self, *args)
        tell(self, *(args or ()), result)
        return result

    monkeypatch.setattr(owner, name, call)
