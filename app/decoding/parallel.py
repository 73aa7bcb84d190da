"""What the two-worker schedules share: the guard before each caption, and a job that runs beside the target.

The strategy's thread drives the target; a `Companion` runs on the drafter's worker until the strategy leaves its
context, however it leaves it. Both wait for each other on one condition, and no wait is without a bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition
from typing import Self

from app.decoding.autoregressive import decode_alone
from app.decoding.engine import Engine, Job, Strategy
from app.decoding.transcript import Transcript

PATIENCE_S = 60.0  # longer than any forward pass: whoever is silent for so long is not coming back


class ParallelStrategy(Strategy):
    """A schedule in which both models run at once; the guard decides before each caption whether it is used."""

    def run(self, job: Job) -> tuple[Transcript, str | None]:
        engine = self.engine
        transcript = engine.transcript()
        drafted = engine.may_draft and engine.guard.use_parallel(drafts_per_pass(engine))
        if drafted:
            self.decode(transcript, job)
        else:
            engine.begin_target(job)
            engine.target_pass("prefill", (), transcript, job)
            decode_alone(engine, transcript, job)
        engine.finish(transcript, drafted=drafted)
        return transcript, "overlap" if drafted else None

    @abstractmethod
    def decode(self, transcript: Transcript, job: Job) -> None:
        """The schedule itself: the whole caption, both prefills included."""


def drafts_per_pass(engine: Engine) -> int:
    """As many as are forced, or as many as the drafter makes within one pass of the target."""
    return engine.settings.draft_tokens or engine.guard.costs.drafts_per_pass


class Companion(ABC):
    """A job on the drafter's worker beside one caption; leaving its context ends it after the step it is in."""

    def __init__(self, engine: Engine, job: Job) -> None:
        self.engine = engine
        self.drafter = engine.drafter
        self.job = job
        self.changed = Condition()  # guards all state that both threads touch
        self.stopped = False
        self.ended = False
        self._future: Future[None] | None = None

    def __enter__(self) -> Self:
        self._share(True)
        self._future = self.engine.worker.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        assert self._future is not None
        try:
            self._future.result(PATIENCE_S)
        finally:
            self._share(False)

    def _share(self, sharing: bool) -> None:
        """Each model on its share of the cores; where each has a device of its own, the plan gives each all it has."""
        self.engine.sharing = sharing
        self.drafter.threads = self.engine.drafter_threads

    def _run(self) -> None:
        try:
            with self.drafter.failing_softly():
                if self.stopped:
                    self.drafter.sit_out()
                else:
                    self.engine.begin_drafter(self.job)
                    self.work()
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    @abstractmethod
    def work(self) -> None:
        """What it does once the drafter's prompt is pending; returns soon after `stopped` is set."""

    def until(self, reached: Callable[[], object]) -> None:
        """The strategy waits until `reached`, or until nothing more can come. Raises TimeoutError when nothing does.

        `reached` is called with the condition held.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: self.ended or bool(reached()), PATIENCE_S):
                raise TimeoutError(f"drafter: no step ended within {PATIENCE_S:.0f} s; is its device hanging?")
