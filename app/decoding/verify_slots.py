"""Verify slots: target sessions, each with a cache of its own, that run verify tasks side by side.

One session needs no thread of its own: its tasks run on the strategy's. A forward pass cannot be broken off, so a task
that is cancelled while it runs keeps its slot until the pass ends, and its verdict is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Condition
from typing import Self

import structlog

from app.decoding.engine import Engine, Job
from app.decoding.model import CachedSequence, common_prefix
from app.decoding.parallel import PATIENCE_S
from app.decoding.transcript import Transcript
from models.runtimes.contract import Floats

log = structlog.get_logger()


class Task:
    """One pass of a target: `text[:start]` is its context, `text[start:]` are the drafts that it judges."""

    def __init__(self, text: Sequence[int], start: int) -> None:
        self.text = list(text)
        self.start = start
        self.done = False
        self.cancelled = False
        self._logits: Floats | None = None  # [1 + drafts, V]
        self._error: BaseException | None = None

    def stands(self, accepted: Sequence[int]) -> bool:
        """Nothing it holds was rejected, and it still has something to say."""
        return self.text[: len(accepted)] == list(accepted)

    def decides(self, accepted: Sequence[int]) -> bool:
        """For a task that stands: its rows reach back to the end of the accepted text."""
        return self.start <= len(accepted)

    def cancel(self) -> None:
        """Its verdict is not wanted any more."""
        self.cancelled = True

    def run(self, compute: Callable[[Task], Floats]) -> None:
        """Compute the logits, unless it was cancelled first; an error is kept for whoever wants the verdict."""
        try:
            if not self.cancelled:
                self._logits = compute(self)
        except BaseException as error:
            self._error = error

    def verdict_from(self, place: int) -> tuple[list[int], Floats]:
        """The drafts from `place` on and the logits [1 + drafts, V] that judge them. Raises what the pass raised."""
        if self._error:
            raise self._error
        assert self._logits is not None
        return self.text[place:], self._logits[place - self.start :]


class Slot:
    """One target session; its cache follows the text of each task."""

    def __init__(self, sequence: CachedSequence, prompt_rows: int, lane: str) -> None:
        self.sequence = sequence
        self.lane = lane  # of its spans
        self.busy = False
        self._prompt_rows = prompt_rows
        self._fed: list[int] = []  # tokens behind the prompt whose rows are in the cache

    def forward(self, task: Task, threads: int) -> Floats:
        """Logits [1 + drafts, V] for the task; rows that its text shares with the cache are not computed again."""
        sequence, common = self.sequence, common_prefix(self._fed, task.text[: task.start - 1])
        sequence.truncate(self._prompt_rows + common)
        self._fed = task.text[:common]
        sequence.advance(0, task.text[common : task.start])
        logits = sequence.forward(task.text[task.start :], threads)
        sequence.advance(len(task.text) - task.start, ())
        self._fed = task.text
        return logits

    def shared_with(self, text: Sequence[int]) -> int:
        """How much of `text` its cache holds."""
        return common_prefix(self._fed, text)


class VerifySlots:
    """The target sessions of one caption; leaving the context cancels what is in flight and waits for it to end."""

    def __init__(self, engine: Engine, job: Job, changed: Condition) -> None:
        """`changed` is notified of every task that ends."""
        self.engine = engine
        self.job = job
        self._changed = changed
        rows = len(engine.target_prompt)
        lanes = ("target", *(f"target {number}" for number in range(2, len(engine.targets) + 1)))
        self._slots = [Slot(sequence, rows, lane) for sequence, lane in zip(engine.targets, lanes, strict=True)]
        self._pool: ThreadPoolExecutor | None = None
        self._futures: list[Future[None]] = []
        self._tasks: list[Task] = []

    def __len__(self) -> int:
        return len(self._slots)

    def __enter__(self) -> Self:
        if len(self) > 1:
            self._pool = ThreadPoolExecutor(len(self), thread_name_prefix="verify")
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        if self._pool:
            try:
                for future in self._futures:
                    future.result(PATIENCE_S)
            finally:
                self._pool.shutdown(wait=False)

    def cancel(self) -> None:
        """Call off whatever is in flight."""
        for task in self._tasks:
            if not (task.done or task.cancelled):
                task.cancel()

    @property
    def free(self) -> int:
        """Slots without a pass."""
        return sum(not slot.busy for slot in self._slots)

    def wait(self, reached: Callable[[], object]) -> None:
        """Until `reached`, which is called with the condition held. Raises TimeoutError when nothing happens."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(reached()), PATIENCE_S):
                raise TimeoutError(f"target: no pass ended within {PATIENCE_S:.0f} s; is its device hanging?")

    def prefill(self, transcript: Transcript) -> None:
        """Every session takes in the prompt; the first one says the first token, the others are free when they have."""
        pixels = self.job.target_pixels()
        for slot in self._slots[1:]:
            self._submit(slot, lambda slot=slot: self._prefill(slot, pixels))  # type: ignore[misc]
        self.engine.begin_target(replace(self.job, target_pixels=lambda first=0: pixels[first:]))
        self.engine.target_pass("prefill", (), transcript, self.job)

    def start(self, text: Sequence[int], start: int) -> Task:
        """Run a task on the free slot that holds most of its text already."""
        task = Task(text, start)
        slot = max((slot for slot in self._slots if not slot.busy), key=lambda slot: slot.shared_with(text))
        self._tasks.append(task)
        if self._pool:
            self._submit(slot, lambda: self._run(slot, task))
        else:
            self._run(slot, task)
        return task

    def _submit(self, slot: Slot, work: Callable[[], None]) -> None:
        assert self._pool is not None
        slot.busy = True
        self._futures.append(self._pool.submit(work))

    def _run(self, slot: Slot, task: Task) -> None:
        drafts, threads = len(task.text) - task.start, self.engine.target_threads("verify")
        with self.job.recorder.span("verify" if drafts else "decode", slot.lane, tokens=1 + drafts, drafts=drafts):
            task.run(lambda task: slot.forward(task, threads))
        with self._changed:
            slot.busy, task.done = False, True
            self._changed.notify_all()

    def _prefill(self, slot: Slot, pixels: Floats) -> None:
        """A session that fails here is not used for this caption: its slot stays busy."""
        engine, model, recorder = self.engine, slot.sequence.model, self.job.recorder
        try:
            with recorder.span("encode", slot.lane, frames=len(pixels)):
                visual = model.vision.encode(pixels, engine.target_threads("encode"))
            slot.sequence.begin(engine.target_prompt, visual)
            with recorder.span("prefill", slot.lane, tokens=len(slot.sequence.pending)):
                slot.sequence.feed(len(slot.sequence.pending), engine.target_threads("prefill"))
        except BaseException as error:  # as in `Task.run`: the pool's threads must end whatever happens
            log.warning("target_session_failed", session=slot.lane, error=f"{type(error).__name__}: {error}")
            return
        with self._changed:
            slot.busy = False
            self._changed.notify_all()
