"""Prefill hiding: the draft is made while it costs nothing, and verified by the pass that ends the target's prefill."""

from __future__ import annotations

from app.decoding.autoregressive import decode_alone
from app.decoding.drafting import FreeRun, PhaseThreads
from app.decoding.engine import Engine, Job
from app.decoding.speculative import decode_speculatively
from app.decoding.transcript import Transcript


class PrefillHiding:
    """(1) Draft where the plan says; (2) end the prefill with a pass that carries the drafts; (3) do what pays."""

    name = "prefill_hiding"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._ahead: FreeRun | None = None

    def draft_ahead(self, job: Job) -> None:
        """`lead`: start the draft from the events so far, unless the guard expects no gain from it."""
        self.abandon()
        wanted = self.engine.settings.placement
        if wanted in (None, "lead") and self.engine.guard.choose("lead", ahead=True):
            self._ahead = self._free_run(job, self.engine.drafter_threads)

    def abandon(self) -> None:
        if self._ahead:
            self._ahead.stop()
            self._ahead = None

    def run(self, job: Job) -> tuple[Transcript, str | None]:
        engine = self.engine
        transcript = engine.transcript()
        ahead, self._ahead = self._ahead, None
        if ahead:
            placement: str | None = "lead"
            self._await_if_sooner(ahead)
        else:
            placement = engine.guard.choose(engine.settings.placement, ahead=False)

        if placement == "serial":
            drafts = self._draft_first(transcript, job)
            engine.begin_target(job)
        elif placement is None:
            drafts = []
            engine.begin_target(job)
        else:
            drafts = self._prefill_beside(
                ahead or self._free_run(job, PhaseThreads(*[self._shared_threads[1]] * 3)), job
            )

        hidden = placement in ("lead", "overlap")
        drafts = drafts[: engine.draft_limit(len(drafts), transcript)]
        if drafts:
            job.show_draft(drafts)
        engine.target_pass("prefill", drafts, transcript, job, hidden=hidden)
        if placement is None:
            decode_alone(engine, transcript, job)
        else:
            engine.drafter.threads = engine.drafter_threads
            decode_speculatively(engine, transcript, job)
        engine.finish(transcript)
        return transcript, placement

    def _await_if_sooner(self, ahead: FreeRun) -> None:
        """A draft that is late: wait for it when that costs less than prefilling beside it on a part of the cores."""
        costs = self.engine.guard.costs
        expected = costs.draft_ms(self.engine.guard.acceptance.tokens)
        if ahead.elapsed_ms + costs.overlap_target_ms - costs.target_start_ms > expected:
            ahead.wait()

    @property
    def _shared_threads(self) -> tuple[int, int]:
        return self.engine.guard.costs.overlap_threads

    def _limit(self, transcript: Transcript) -> int:
        wanted = self.engine.settings.draft_tokens
        return transcript.room if wanted is None else min(wanted, transcript.room)

    def _free_run(self, job: Job, threads: PhaseThreads) -> FreeRun:
        engine = self.engine
        engine.drafter.threads = threads
        limit = self._limit(engine.transcript())
        return FreeRun(engine.worker, engine.drafter, job.drafter_pixels, limit, engine.guard.worth_fused, job.recorder)

    def _draft_first(self, transcript: Transcript, job: Job) -> list[int]:
        """`serial`: the whole draft on all cores, before the target starts."""
        drafter, drafts = self.engine.drafter, list[int]()
        drafter.threads = self.engine.drafter_threads
        drafter.begin(job.drafter_pixels(), job.recorder)
        drafter.draft(drafts, self._limit(transcript), self.engine.guard.worth_paid, job.recorder)
        return drafts

    def _prefill_beside(self, run: FreeRun, job: Job) -> list[int]:
        """Encode and prefill all but the prompt's tail while the drafter runs; what it has drafted by then.

        A run that has ended already leaves all cores to the target, and nothing to wait for: one pass does it all.
        """
        engine = self.engine
        try:
            if run.done:
                engine.begin_target(job)
            else:
                threads = self._shared_threads[0]
                engine.begin_target(job, threads)
                engine.feed_target(len(engine.target.pending) - len(engine.target_prompt.tail_ids), job, threads)
        finally:
            drafts = run.stop()
        if run.recorder is not job.recorder:
            job.recorder.spans += run.recorder.spans
        return drafts
