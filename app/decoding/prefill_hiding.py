"""Prefill hiding: the draft is made while it costs nothing, and verified by the pass that ends the target's prefill."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.decoding.costs import MAX_DRAFT
from app.decoding.drafting import FreeRun, PhaseThreads
from app.decoding.engine import Engine, Job, Strategy
from app.decoding.rounds import decode_by_measure, known, merged
from app.decoding.sources import Proposal
from app.decoding.transcript import Transcript
from app.decoding.tree import ROOT


class PrefillHiding(Strategy):
    """(1) Draft where the plan says; (2) end the prefill with a pass that carries the drafts; (3) do what pays."""

    name = "prefill_hiding"

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._ahead: FreeRun | None = None

    def draft_ahead(self, job: Job) -> None:
        """`lead`: start the draft from the events so far, unless the guard expects no gain from it."""
        self.abandon()
        wanted = self.engine.settings.placement
        if wanted in (None, "lead") and self._placement("lead", ahead=True):
            self._ahead = self._free_run(job, self.engine.drafter_threads, job.show_draft)

    def abandon(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead:
            ahead.stop()

    def run(self, job: Job) -> tuple[Transcript, str | None]:
        engine, (ahead, self._ahead) = self.engine, (self._ahead, None)
        transcript = engine.transcript()
        placement = "lead" if ahead else self._placement(engine.settings.placement, ahead=False)

        drafts, hidden = list[int](), 0
        if ahead and not self._worth_prefilling_beside(ahead, job):
            drafts, hidden = self._take(ahead, job)
            engine.begin_target(job)
        elif ahead or placement == "overlap":
            drafts = self._prefill_beside(ahead or self._free_run(job, self._shared_drafter), job)
            hidden = len(drafts)
        else:
            if placement == "serial":
                drafts = self._draft_first(transcript, job)
            engine.begin_target(job)

        self._end_prefill(drafts, hidden, transcript, job, shown=ahead is not None and ahead.shown)
        engine.drafter.threads = engine.drafter_threads
        decode_by_measure(engine, transcript, job, drafter=placement is not None)
        engine.finish(transcript, drafted=placement is not None)
        return transcript, placement

    def _placement(self, wanted: str | None, *, ahead: bool) -> str | None:
        """Where the event drafter drafts; None: nowhere."""
        if not self.engine.may_draft:
            return None
        return self.engine.guard.choose(wanted, ahead, history="history" in self.engine.settings.sources)

    def _end_prefill(
        self, drafts: list[int], hidden: int, transcript: Transcript, job: Job, *, shown: bool = False
    ) -> None:
        """The last chunk of the prefill carries what all sources propose. `shown`: the draft went out already."""
        engine, drafter = self.engine, self.engine.drafter
        proposals = known(engine, transcript, hidden=True)
        if drafts:
            proposals.insert(0, Proposal("drafter", drafts, hidden))
            if drafter.runner_up is not None:
                proposals.insert(1, Proposal("runner_up", [drafter.runner_up], min(hidden, 1)))
        costs = engine.guard.costs
        tree = merged(engine, proposals, transcript, costs.fused_price, costs.fused_tree_ms)
        if tree and not shown:
            job.show_draft([tree.tokens[node] for node in tree.first_chain(ROOT)])
        engine.tree_pass("prefill", tree, transcript, job, proposals)

    def _worth_prefilling_beside(self, ahead: FreeRun, job: Job) -> bool:
        """A draft that is late: is waiting for it dearer than prefilling beside it on a part of the cores?"""
        if ahead.done:
            return False
        costs = self.engine.guard.costs
        left_ms = costs.draft_ms(self._expected_draft) - ahead.elapsed_ms
        return left_ms > self._beside_ms(job)

    @property
    def _expected_draft(self) -> int:
        """Tokens after which a free draft is expected to end."""
        guard = self.engine.guard
        return guard.costs.free_draft_length(guard.first, int(guard.acceptance.tokens))

    def _beside_ms(self, job: Job) -> float:
        """What is left of the target's prefill loses so much when the drafter runs beside it."""
        costs = self.engine.guard.costs
        return max(0.0, costs.overlap_target_ms - costs.target_start_ms) * self.engine.unstreamed(job)

    def _take(self, ahead: FreeRun, job: Job) -> tuple[list[int], int]:
        """The draft made ahead, waited for no longer than is worth it, and how much of it was there without waiting."""
        hidden = ahead.drafted
        ahead.wait(self._beside_ms(job))
        drafts = ahead.stop()
        job.recorder.spans += ahead.recorder.spans
        return drafts, hidden

    @property
    def _shared_drafter(self) -> PhaseThreads:
        return PhaseThreads(*[self.engine.guard.costs.overlap_threads[1]] * 3)

    def _limit(self, transcript: Transcript) -> int:
        wanted = self.engine.settings.draft_tokens
        return min(MAX_DRAFT if wanted is None else wanted, transcript.room)

    def _free_run(
        self, job: Job, threads: PhaseThreads, show: Callable[[Sequence[int]], None] | None = None
    ) -> FreeRun:
        engine = self.engine
        engine.drafter.threads = threads
        return engine.free_run(job, self._limit(engine.transcript()), engine.guard.worth_fused, show)

    def _draft_first(self, transcript: Transcript, job: Job) -> list[int]:
        """`serial`: the whole draft on all cores, before the target starts."""
        drafter, drafts = self.engine.drafter, list[int]()
        drafter.threads = self.engine.drafter_threads
        with drafter.failing_softly():
            self.engine.begin_drafter(job)
            drafter.draft(drafts, self._limit(transcript), self.engine.guard.worth_serial, job.recorder)
        return drafts

    def _prefill_beside(self, run: FreeRun, job: Job) -> list[int]:
        """Encode and prefill all but the prompt's tail while the drafter runs; what it has drafted by then."""
        engine, threads = self.engine, self.engine.guard.costs.overlap_threads[0]
        try:
            engine.begin_target(job, threads)
            engine.feed_target(engine.rows_before_tail, job, threads)
        finally:
            drafts = run.stop()
        if run.recorder is not job.recorder:
            job.recorder.spans += run.recorder.spans
        return drafts
