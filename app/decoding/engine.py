"""What every strategy works with: both models with their caches, the drafter's worker, the costs and the guard."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from app.decoding.acceptance import Verdict, verify_chain, verify_tree
from app.decoding.costs import Costs
from app.decoding.drafting import Drafter, FreeRun, PhaseThreads, Worth
from app.decoding.guard import Guard
from app.decoding.model import CachedSequence, LanguageModel
from app.decoding.sampling import GREEDY_SAMPLING, Sampler, Sampling
from app.decoding.sources import SOURCES, Histories, Proposal
from app.decoding.streaming_prefill import StreamingPrefill
from app.decoding.transcript import Transcript
from app.decoding.tree import TokenTree
from app.telemetry.spans import SpanRecorder
from models.prompts import Prompt
from models.runtimes.contract import Floats


class TargetPixels(Protocol):
    """The pixels of a window's frames."""

    def __call__(self, first: int = 0) -> Floats:
        """[frames - first, 3, H, W]: from frame number `first` on."""


@dataclass(slots=True)
class Job:
    """One window to caption: what each model looks at, made when it is asked for, and where its spans go."""

    target_pixels: TargetPixels
    drafter_pixels: Callable[[], Floats]  # [slices, 3, H, W]
    recorder: SpanRecorder
    show_draft: Callable[[Sequence[int]], None] = lambda tokens: None  # the draft, before it is verified
    caption: int = 0  # names the caption, and with the seed keys the noise of its sampling
    stream: str = ""  # names the camera and what is asked of it: whose captions came before
    frames: Sequence[object] = ()  # what `target_pixels` shows, one a frame: known again by identity


@dataclass(slots=True)
class Settings:
    """What a caption may be: its length, and which drafts are forced (None: the guard's choice)."""

    max_new_tokens: int
    is_content: Callable[[int], bool]
    placement: str | None = None
    draft_tokens: int | None = None
    sampling: Sampling = GREEDY_SAMPLING
    sources: tuple[str, ...] = SOURCES


class Engine:
    """Both models, loaded and prompted. A strategy runs on one thread; only the free run uses the drafter's worker."""

    def __init__(
        self,
        drafter: LanguageModel,
        target: LanguageModel,
        prompts: tuple[Prompt, Prompt],
        guard: Guard,
        settings: Settings,
        more_targets: Sequence[LanguageModel] = (),
    ) -> None:
        """`more_targets`: further sessions of the target, each with its own cache, for strategies that use several."""
        self.guard = guard
        self.settings = settings
        self.model = target
        self.target_prompt = prompts[1]
        self.target = CachedSequence(target)
        self.targets = (self.target, *map(CachedSequence, more_targets))
        self.streaming = StreamingPrefill(self.target)
        self.streamed = 0  # frames of the caption under way that were prefilled before it began
        self._saved_ms = 0.0  # what they would have cost it
        self.sharing = False  # both models run at once, each on its share of the cores
        self.sampler = Sampler(settings.sampling)  # of the caption that the target is at
        self.histories = Histories()
        self.history = self.histories.of("")  # of the stream that the target is at
        self.drafter = Drafter(drafter, prompts[0], self.drafter_threads)
        self.clock: Callable[[], int] = time.monotonic_ns  # by which the guard judges what captions and passes take
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="drafter")

    @property
    def drafter_threads(self) -> PhaseThreads:
        """The drafter's threads: all that help it while the target is still, or its share."""
        costs = self.guard.costs
        if self.sharing:
            return PhaseThreads(*[costs.overlap_threads[1]] * 3)
        return PhaseThreads(costs.drafter_encode.threads, costs.drafter_prefill.threads, costs.drafter_step.threads)

    def plan_anew(self, costs: Costs) -> None:
        """Costs that were measured since the last caption, in the models' own caches."""
        self.guard.take(costs)
        self.drafter.threads = self.drafter_threads
        for sequence in (*self.targets, self.drafter.sequence):
            sequence.forget()

    @property
    def may_draft(self) -> bool:
        """Whether the settings let the event drafter draft at all."""
        return "drafter" in self.settings.sources and self.settings.draft_tokens != 0

    def transcript(self) -> Transcript:
        settings = self.settings
        return Transcript(self.model.eos_id, settings.max_new_tokens, settings.is_content, started_ns=self.clock())

    def begin_drafter(self, job: Job) -> None:
        """Encode the events and make the drafter's prompt pending."""
        self.drafter.begin(job.drafter_pixels(), job.recorder, self._sampler(job))

    def free_run(
        self, job: Job, limit: int, worth: Worth, show: Callable[[Sequence[int]], None] | None = None
    ) -> FreeRun:
        """Start the drafter on its worker: events, prompt, then up to `limit` tokens; `show` is told of them all."""
        pixels, recorder = job.drafter_pixels, job.recorder
        return FreeRun(self.worker, self.drafter, pixels, limit, worth, recorder, self._sampler(job), show)

    def _sampler(self, job: Job) -> Sampler:
        """The caption's noise, for one of the two models: they may run at once."""
        return Sampler(self.settings.sampling, job.caption)

    def prefill_ahead(
        self, frames: Sequence[object], pixels: Callable[[int], Floats], preempted: Callable[[], bool]
    ) -> None:
        """Put the leading frames of a window that has not closed into the target's cache; see StreamingPrefill."""
        threads = self.target_threads("encode"), self.target_threads("prefill")
        self.streaming.extend(self.target_prompt, frames, pixels, threads, preempted)

    def begin_target(self, job: Job, threads: int | None = None) -> None:
        """Encode the frames that were not prefilled ahead, and make the rest of the target's prompt pending."""
        self.sampler, self.history = self._sampler(job), self.histories.of(job.stream)
        self.streamed = kept = self.streaming.kept(self.target_prompt, job.frames)
        self._saved_ms = (1.0 - self.unstreamed(job)) * self.guard.costs.target_start_ms
        visual: Floats = np.empty((0, self.model.decoder.width), np.float32)
        if not kept or kept < len(job.frames):
            pixels = job.target_pixels(kept) if kept else job.target_pixels()
            with job.recorder.span("encode", "target", frames=len(pixels), **self._places(job)):
                visual = self.model.vision.encode(pixels, threads or self.target_threads("encode"))
        job.recorder.spans += self.streaming.spans(kept)
        self.target.begin(self.target_prompt, visual, self.target_prompt.num_visual - len(visual) if kept else 0)

    def unstreamed(self, job: Job) -> float:
        """The share of the target's frames that is still to be encoded and prefilled."""
        kept = self.streaming.kept(self.target_prompt, job.frames)
        return 1.0 - kept / len(job.frames) if kept else 1.0

    def _places(self, job: Job) -> dict[str, int]:
        """Which frames a span of the target's prefill worked on, where some were prefilled ahead."""
        return {"first_frame": self.streamed, "end_frame": len(job.frames)} if self.streamed else {}

    def feed_target(self, count: int, job: Job, threads: int) -> None:
        """A prefill chunk of `count` rows."""
        if count > 0:
            with job.recorder.span("prefill", "target", tokens=count, **self._places(job)):
                self.target.feed(count, threads)

    def target_pass(
        self, stage: str, drafts: Sequence[int], transcript: Transcript, job: Job, *, hidden: int = 0
    ) -> None:
        """One forward pass of the target over what is pending and the drafts, and its verdict on them.

        stage: `prefill` (the last chunk, perhaps with drafts), `verify` or `decode`. `hidden` leading drafts cost the
        caption no time.
        """
        rows = self.target.unfed + len(drafts)
        places = self._places(job) if stage == "prefill" else {}
        with job.recorder.span(stage, "target", tokens=rows, drafts=len(drafts), **places):
            logits = self.target.forward(drafts, self.target_threads(stage))
        verdict = self.verify(drafts, logits, len(transcript.tokens))
        self.target.advance(verdict.accepted, (verdict.bonus,))
        transcript.add(drafts, verdict, hidden=hidden)
        self.learn(transcript)

    def verify(self, drafts: Sequence[int], logits: Floats, place: int) -> Verdict:
        """The target's verdict on a chain of drafts from position `place` of the caption on; logits [1 + drafts, V]."""
        return verify_chain(drafts, logits, self.sampler, place)

    def tree_pass(
        self,
        stage: str,
        tree: TokenTree,
        transcript: Transcript,
        job: Job,
        proposals: Sequence[Proposal] = (),
    ) -> list[int]:
        """As `target_pass` with a tree of drafts; the accepted path. The tree's nodes say which were hidden.

        proposals: what the tree was made from, where the guard is to learn about each source.
        """
        if stage == "prefill" and not tree.is_chain:  # the mask grows with the rows: only the prompt's tail is in it
            self.feed_target(self.rows_before_tail, job, self.target_threads(stage))
        rows = self.target.unfed + len(tree)
        places = self._places(job) if stage == "prefill" else {}
        with job.recorder.span(stage, "target", tokens=rows, drafts=len(tree), **places):
            logits = self.target.forward_tree(tree, self.target_threads(stage))
        path, verdict = verify_tree(tree, logits, self.sampler, len(transcript.tokens))
        self.target.advance_path(path, (verdict.bonus,))
        transcript.add_tree(tree, path, verdict, proposals)
        self.learn(transcript)
        return path

    @property
    def rows_before_tail(self) -> int:
        """Pending rows of the prompt before its constant tail."""
        return max(0, len(self.target.pending) - len(self.target_prompt.tail_ids))

    def learn(self, transcript: Transcript) -> None:
        """Let the guard know at once what became of drafts. Beside the target, a probe ends with the first refusal."""
        while transcript.judged:
            source, first, stood, compared = transcript.judged.pop()
            self.guard.acceptance.of(source, first=first).learn(stood, compared)
            if self.sharing and self.guard.probing and stood < compared:
                self.drafter.sit_out()

    def target_threads(self, stage: str) -> int:
        """The same for the target."""
        costs = self.guard.costs
        if self.sharing:
            return costs.overlap_threads[0]
        if stage == "encode":
            return costs.target_encode.threads
        return (costs.target_prefill if stage == "prefill" else costs.target_step).threads

    def draft_limit(self, wanted: int, transcript: Transcript) -> int:
        """`wanted` drafts, less what neither the caption nor the target's cache has room for."""
        return max(0, min(transcript.room, self.row_limit(wanted)))

    def row_limit(self, wanted: int) -> int:
        """`wanted` rows of drafts, less what the target's cache has no room for."""
        return max(0, min(wanted, self.model.decoder.s_max - self.target.length - self.target.unfed))

    def finish(self, transcript: Transcript, *, drafted: bool) -> None:
        """Learn from a finished caption: the guard, and the camera's history.

        The guard promises times of whole windows: what was prefilled ahead counts as if the caption had waited for it.
        """
        self.learn(transcript)
        elapsed_ms = (self.clock() - transcript.started_ns) / 1e6 + self._saved_ms
        self.guard.end_caption(len(transcript.decided), elapsed_ms, drafted=drafted)
        if "history" in self.settings.sources:
            self.history.add(transcript.ended)

    def close(self) -> None:
        self.worker.shutdown(wait=True, cancel_futures=True)


class Strategy(ABC):
    """A schedule for the two models: from a window's inputs to its verified caption."""

    name: str

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def draft_ahead(self, job: Job) -> None:  # noqa: B027 (most strategies draft nothing ahead)
        """The window has not closed yet: start its draft from what there is, if that is wanted."""

    @abstractmethod
    def run(self, job: Job) -> tuple[Transcript, str | None]:
        """Caption the closed window; its transcript, and the placement of the draft."""

    def abandon(self) -> None:  # noqa: B027
        """Drop a draft made ahead for a window that will not be captioned."""
