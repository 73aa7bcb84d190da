"""DSI: Distributed Speculative Inference (Timor et al., 2024, arXiv 2405.14105), Algorithm 1 with a lookahead.

    the drafter never waits
    one task always runs on the bare accepted prefix: it yields the next token whatever the drafts are worth
    every k drafts: a verify task on a free target, over the accepted prefix and all drafts so far
    the task that decides the next token has ended: accept what stands and the target's own token
      a draft was rejected: cancel every task that holds it, the drafter goes on from the accepted text

A task that is running already when its predecessor accepts is the next one to decide: verification is pipelined over
`SP` targets ("speculation parallelism"). With k ≥ T_target / (SP · T_draft) (equation 1) no block waits for a target.
One device has one target session, SP = 1: the same policy with one slot.
"""

from __future__ import annotations

import math

from app.decoding.costs import MAX_DRAFT
from app.decoding.draft_loop import DraftLoop
from app.decoding.engine import Job
from app.decoding.parallel import ParallelStrategy
from app.decoding.transcript import Transcript
from app.decoding.verify_slots import Task, VerifySlots


class Dsi(ParallelStrategy):
    """A drafter that is never blocked, and a pipeline of verify tasks that can be cancelled."""

    name = "dsi"

    def decode(self, transcript: Transcript, job: Job) -> None:
        engine = self.engine
        longest = min(engine.settings.max_new_tokens - 1, engine.model.decoder.s_max - len(engine.target_prompt))
        drafter = DraftLoop(engine, job, length=longest)
        with VerifySlots(engine, job, drafter.changed) as slots, drafter:
            slots.prefill(transcript)
            drafter.end_prefill()
            drafter.count_foreseen((), transcript)
            pipeline = Pipeline(drafter, slots, self.lookahead(len(slots)))
            while not transcript.finish_reason:
                accepted = list(transcript.tokens)
                pipeline.cancel_what_was_rejected(accepted)
                pipeline.start_tasks()
                if task := pipeline.next_decision():
                    drafts, logits = task.verdict_from(len(accepted))
                    verdict = engine.verify(drafts, logits, len(accepted))
                    transcript.add(drafts, verdict, hidden=drafter.hidden(accepted))
                    drafter.count_foreseen(task.text, transcript)
                    engine.learn(transcript)
            slots.cancel()

    def lookahead(self, targets: int) -> int:
        """k, the drafts of a verify task: as few as keep no block waiting for a target (equation 1)."""
        costs, forced = self.engine.guard.costs, self.engine.settings.draft_tokens
        return forced or max(1, min(MAX_DRAFT, math.ceil(costs.target_step.ms / (targets * costs.drafter_step.ms))))


class Pipeline:
    """The verify tasks in flight behind the accepted text, each over one block of `lookahead` drafts."""

    def __init__(self, drafter: DraftLoop, slots: VerifySlots, lookahead: int) -> None:
        self.drafter = drafter
        self.slots = slots
        self.lookahead = lookahead
        self.accepted: list[int] = []
        self.tasks: list[Task] = []
        self.restart = 0  # where the drafter last began: its blocks are counted from there

    def cancel_what_was_rejected(self, accepted: list[int]) -> None:
        """The drafter goes back where it parts from the accepted text; tasks that hold another text are called off."""
        self.accepted = accepted
        if self.drafter.roll_back(accepted):
            self.restart = len(accepted)
        for task in self.tasks:
            if not task.stands(accepted):
                task.cancel()
        self.tasks = [task for task in self.tasks if not task.cancelled]

    def start_tasks(self) -> None:
        """On every free target, as far as there is something to verify, and no verdict that has to be heard first."""
        while self.slots.free and not self._decided() and (following := self._next_task()):
            self.tasks.append(self.slots.start(*following))

    def next_decision(self) -> Task | None:
        """Wait until a task has ended that says what follows the accepted text (give it), or another can be started."""
        self.slots.wait(lambda: self._decided() or (self.slots.free and self._next_task()))
        task = self._decided()
        if task:
            self.tasks.remove(task)
        return task

    def _decided(self) -> Task | None:
        ended = [task for task in self.tasks if task.done and task.decides(self.accepted)]
        return max(ended, key=lambda task: len(task.text), default=None)

    def _next_task(self) -> tuple[list[int], int] | None:
        """Text of the task to start now, and from where on it judges; None when there is nothing to start.

        The next whole block that no task holds, or all of them for the last free target; the bare accepted prefix when
        nothing in flight decides the next token.
        """
        text = self.accepted + self.drafter.drafts(self.accepted)
        held = max([len(self.accepted), *(len(task.text) for task in self.tasks)])
        whole = len(text) if self.drafter.at_end else self._block_end(len(text))
        if whole > held:
            end = whole if self.slots.free == 1 else min(whole, self._block_end(held) + self.lookahead)
            return text[:end], held
        if any(task.decides(self.accepted) for task in self.tasks):
            return None
        return self.accepted, len(self.accepted)

    def _block_end(self, length: int) -> int:
        """Of the last block within `length`."""
        return length - (length - self.restart) % self.lookahead
