"""A window in, a verified caption out: looks after the pixels, the models, the plan and the strategy."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog
from platformdirs import user_cache_path

from app.decoding.costs import Costs
from app.decoding.drafting import Drafter
from app.decoding.engine import Engine, Job, Settings, Strategy
from app.decoding.guard import Guard
from app.decoding.model import overwritten
from app.decoding.sampling import GREEDY_SAMPLING, Sampling
from app.decoding.sources import SOURCES
from app.decoding.strategies import make_strategy
from app.decoding.survival import Acceptance
from app.decoding.transcript import Transcript
from app.pair import check_pair
from app.planning import generations, lead_ms, plan
from app.records import Caption, Token
from app.telemetry.device_spans import device_spans
from app.telemetry.spans import Span, SpanRecorder
from app.windows import Window, drafter_events
from models.bundle import VisionLanguageModel
from models.errors import ModelError
from models.prompts import QUESTION
from models.runtimes.contract import Floats, FreeRunning, Timed
from models.runtimes.shared import ladder_of, on_gpu, runtime_of, share_of

log = structlog.get_logger(__name__)

TREES = {"prefill_hiding": ("target",), "ssd": ("drafter",), "swiftspec": ("drafter", "target")}  # masked passes of


@dataclass(frozen=True, slots=True)
class CaptionerSettings:
    """How to caption; the configuration's `decoding` and `windows` sections in plain values."""

    strategy: str = "prefill_hiding"
    placement: str | None = None  # None: the plan's choice
    max_new_tokens: int = 64
    draft_tokens: int | None = None  # None: by measured acceptance
    guard: bool = True
    question: str = QUESTION
    frames: int = 8
    drafter_span_us: int = 50_000
    threads: tuple[tuple[str, int], ...] = ()  # (phase of Costs, threads) where it is not to be measured
    sampling: Sampling = GREEDY_SAMPLING
    sources: tuple[str, ...] = SOURCES
    prior_alpha: float = 0.8  # acceptance before anything was measured
    streaming: bool = True  # prefill frames before the window closes, where the target allows it


class Captioner:
    """Both models behind one strategy. `caption` and `draft_ahead` are called from one worker thread."""

    def __init__(
        self,
        drafter: VisionLanguageModel,
        target: VisionLanguageModel,
        settings: CaptionerSettings,
        *,
        costs: Costs | None = None,
        cache: Path | None = None,
        more_targets: Sequence[VisionLanguageModel] = (),
    ) -> None:
        """Calibrate (or take `costs`, or the calibration cached in folder `cache`) and make the strategy.

        more_targets: further sessions of the target, for strategy `dsi`.
        Raises ModelError when the two vocabularies are not shared or a prompt does not fit its model.
        """
        check_pair(drafter, target)
        self.drafter, self.target, self.settings = drafter, target, settings
        self.prompts = (drafter.prompt(settings.question), target.prompt(settings.question))
        for model, prompt in zip((drafter, target), self.prompts, strict=True):
            if len(prompt) + settings.max_new_tokens > model.decoder.s_max:
                raise ModelError(
                    f"{model.name}: a prompt of {len(prompt)} tokens and {settings.max_new_tokens} new ones do not fit "
                    f"its cache of {model.decoder.s_max} rows; shorten the question or decoding.max_new_tokens"
                )
        if settings.frames != target.frames:
            raise ModelError(
                f"{target.name}: looks at {target.frames} frames a window, windows.frames says {settings.frames}; "
                f"set it to {target.frames}"
            )
        self.calibration_cached = False
        self._cache = None if costs else cache or user_cache_path("event-captioner")  # None: the plan is the caller's
        self._more_targets = more_targets
        self._planned_for = self._generations
        self._planning: list[Span] = []  # a plan that was made anew, for the record of the next caption
        self.costs = costs or self._plan(self._cache or Path())
        acceptance = Acceptance(alpha=settings.prior_alpha)
        content = target.tokenizer.content
        self.engine = Engine(
            drafter,
            target,
            self.prompts,
            Guard(self.costs, acceptance, enabled=settings.guard),
            Settings(
                settings.max_new_tokens,
                lambda token: token < len(content) and bool(content[token]),
                settings.placement,
                settings.draft_tokens,
                settings.sampling,
                settings.sources,
            ),
            more_targets,
        )
        self._strategy: Strategy = make_strategy(settings.strategy, self.engine)
        self._warm_up(more_targets)
        self._ahead: tuple[str, int] | None = None  # camera and window whose draft was begun before it closed
        self._shown: tuple[str, int] | None = None  # whose draft went out before it closed; it may be begun anew
        self.on_draft: Callable[[Window, str], None] | None = None  # told of each draft before it is verified

    def use(self, strategy: str, placement: str | None = None) -> None:
        """Change the schedule between two captions; models, caches and what the guard has learnt stay."""
        self._strategy.abandon()
        self.engine.settings.placement = placement
        self.engine.guard.forget_times()
        self._strategy = make_strategy(strategy, self.engine)

    def set_question(self, question: str) -> None:
        """Put another question to both models from the next caption on.

        Raises ModelError when it does not fit their caches; then nothing has changed.
        """
        tokens = self.settings.max_new_tokens
        prompts = self.drafter.prompt(question, tokens), self.target.prompt(question, tokens)
        self._strategy.abandon()
        self._ahead = None
        self.prompts, self.settings = prompts, replace(self.settings, question=question)
        self.engine.target_prompt = prompts[1]
        self.engine.drafter = Drafter(self.drafter, prompts[0], self.engine.drafter_threads)

    @property
    def lead_ms(self) -> float:
        """How long before a window closes its draft should begin, to be ready then with a frame's prefill beside it."""
        frame_ms = self.costs.target_start_ms / self.target.frames if self.streams else 0.0
        return lead_ms(self.costs, self.engine.guard.acceptance.tokens) + frame_ms

    @property
    def drafts_ahead(self) -> bool:
        """Whether a partial window is of any use to this strategy."""
        return (
            self._strategy.name == "prefill_hiding"
            and self.engine.may_draft
            and self.engine.settings.placement in (None, "lead")
        )

    @property
    def streams(self) -> bool:
        """Whether frames are of any use before their window closes."""
        return self.settings.streaming and self.target.frames_alone

    def ahead(self, window: Window, camera: str = "", preempted: Callable[[], bool] = lambda: False) -> None:
        """Do what can be done of a window that has not closed: begin its draft, once that is due; prefill its frames.

        Between two frames it leaves when `preempted`: something else wants the target.
        """
        self._plan_anew_if_a_model_fell()
        if window.draft_due and self.drafts_ahead and self._ahead != (camera, window.index):
            self.draft_ahead(window, camera)
        if self.streams:
            frames = [chosen.frame for chosen in window.frames]
            self.engine.prefill_ahead(
                frames, lambda place: self.target.pixels_from_frames([frames[place].image]), preempted
            )

    def call_off(self) -> None:
        """Forget what was begun of a window that will not be captioned."""
        self._ahead = None
        self._strategy.abandon()

    def draft_ahead(self, window: Window, camera: str = "") -> None:
        """Start the draft of a window that has not closed yet (placement `lead`)."""
        self._ahead = camera, window.index
        self._strategy.draft_ahead(self._job(window, camera, SpanRecorder()))

    def caption(self, window: Window, camera: str = "") -> Caption:
        """The verified caption of a closed window. Raises ValueError for a window without frames.

        camera: whose earlier captions may propose this one.
        """
        if not window.frames:
            raise ValueError("a window without frames has no verified caption")
        started = time.monotonic_ns()
        self._plan_anew_if_a_model_fell()
        if self._ahead != (camera, window.index):
            self._strategy.abandon()
        self._ahead = None
        recorder = SpanRecorder()
        transcript, placement = self._strategy.run(self._job(window, camera, recorder))
        if self._shown == (camera, window.index):
            self._shown = None
        finished = time.monotonic_ns()
        return self._caption(window, transcript, placement, recorder, started, finished)

    @property
    def _generations(self) -> list[int]:
        return generations((self.drafter, self.target, *self._more_targets))

    def _plan(self, folder: Path) -> Costs:
        pair = self.drafter, self.target
        costs, self.calibration_cached = plan(pair, self.settings, len(self.prompts[1]), folder)
        return costs

    def _plan_anew_if_a_model_fell(self) -> None:
        """Placement, threads, draft length and sharing were measured with a runtime that is gone: do it again."""
        if self._cache is None or self._planned_for == self._generations:
            return
        self.call_off()
        begun = time.monotonic_ns()
        while self._planned_for != (now := self._generations):  # measuring may cost another runtime
            self._planned_for = now
            if share := share_of(self.target):
                share.begin_anew(shared=on_gpu(self.drafter) and on_gpu(self.target))
            try:
                self.costs = self._plan(self._cache)
                self._warm_up(self._more_targets)
            except ModelError as error:  # the old plan is better than no caption
                log.warning("not_planned_anew", reason=str(error))
                for ladder in filter(None, map(ladder_of, (self.drafter, self.target))):
                    ladder.planned = False
        self.engine.plan_anew(self.costs)
        self._planning.append(Span("calibrate", "host", begun, time.monotonic_ns(), {"sharing": self.costs.sharing}))
        log.info("planned_anew", sharing=self.costs.sharing, seconds=round(self._planning[-1].ms / 1e3, 1))

    def close(self) -> None:
        """End the drafter's worker thread."""
        self._strategy.abandon()
        self.engine.close()

    def _warm_up(self, more_targets: Sequence[VisionLanguageModel]) -> None:
        """Open and size every session that the plan may use, so that the first caption is as quick as the others."""
        costs = self.costs
        target_threads, drafter_threads = costs.overlap_threads
        target = costs.target_encode, costs.target_prefill, costs.target_step, target_threads
        drafter = costs.drafter_encode, costs.drafter_prefill, costs.drafter_step, drafter_threads
        models = [(self.drafter, self.prompts[0], *drafter), (self.target, self.prompts[1], *target)]
        models += [(model, self.prompts[1], *target) for model in more_targets]
        for model, prompt, encode, prefill, step, beside in models:
            overwritten(model)
            for encoding, prefilling, stepping in (
                (encode.threads, prefill.threads, step.threads),
                (beside, beside, beside),
            ):
                model.vision.warm_up(model.frames, model.image_size, encoding)
                model.decoder.warm_up(len(prompt), 1, prefilling)
                model.decoder.warm_up(1, 1, stepping)
                if model is self.drafter and isinstance(model.decoder, FreeRunning):
                    collections.deque(model.decoder.greedy(model.eos_id, 0, 3) or (), maxlen=0)
                if model.role in TREES.get(self._strategy.name, ()):
                    for threads in {prefilling, stepping}:
                        rows = np.zeros((2, model.decoder.width), np.float32)
                        model.decoder.forward_tree(rows, np.arange(2), np.tri(2, dtype=bool), 0, np.arange(2), threads)
        if self.streams:
            self.target.vision.warm_up(1, self.target.image_size, costs.target_encode.threads)
            rows_a_frame = self.target.visual_tokens // self.target.frames
            self.target.decoder.warm_up(rows_a_frame, 0, costs.target_prefill.threads)

    def _job(self, window: Window, camera: str, recorder: SpanRecorder) -> Job:
        frames = tuple(chosen.frame for chosen in window.frames)

        def target_pixels(first: int = 0) -> Floats:
            with recorder.span("preprocess", "host", model="target"):
                return self.target.pixels_from_frames([frame.image for frame in frames[first:]])

        def drafter_pixels() -> Floats:
            with recorder.span("preprocess", "host", model="drafter"):
                events = drafter_events(window, self.settings.drafter_span_us)
                return self.drafter.pixels_from_events(events.x, events.y, events.p, window.resolution)

        tell = self.on_draft

        def show_draft(tokens: Sequence[int]) -> None:
            if tell and self._shown != (camera, window.index):
                if window.partial:
                    self._shown = camera, window.index
                tell(window, self.target.tokenizer.decode(tokens).strip())

        stream = f"{camera}\n{self.settings.question}"
        return Job(target_pixels, drafter_pixels, recorder, show_draft, window.start_us, stream, frames)

    def _caption(
        self,
        window: Window,
        transcript: Transcript,
        placement: str | None,
        recorder: SpanRecorder,
        started: int,
        finished: int,
    ) -> Caption:
        tokenizer = self.target.tokenizer
        draft = transcript.first_draft
        logprobs, gaps = transcript.certainty(self.engine.sampler)
        return Caption(
            window=window,
            text=tokenizer.decode(transcript.tokens).strip(),
            token_ids=tuple(transcript.tokens),
            tokens=tuple(Token(token, tokenizer.piece(token), origin) for token, origin in transcript.display),
            finish_reason=transcript.finish_reason or "length",
            mean_logprob=float(logprobs.mean()),
            stats=replace(transcript.stats(self._strategy.name, placement), streamed_frames=self.engine.streamed),
            spans=tuple(sorted([*recorder.spans, *self._beside(recorder.spans)], key=lambda span: span.start_ns)),
            draft_text=tokenizer.decode(draft).strip() if draft else None,
            started_ns=started,
            finished_ns=finished,
            prompt=self.settings.question,
            gaps=tuple(gaps.tolist()),
            models={
                "drafter": self.drafter.name,
                "target": self.target.name,
                "runtime": runtime_of(self.target),
                "demo": self.drafter.demo or self.target.demo,
            },
        )

    def _beside(self, spans: Sequence[Span]) -> list[Span]:
        """When the GPU was busy with the stages of a caption, what a model had to give up, and a plan made anew."""
        planning, self._planning = self._planning, []
        lanes = [("drafter", self.drafter), ("target", self.target)]
        lanes += [(f"target {number}", model) for number, model in enumerate(self._more_targets, 2)]
        busy = [
            span
            for lane, model in lanes if isinstance(model.decoder, Timed)
            for span in device_spans(spans, lane, model.decoder.busy())
        ]  # fmt: skip
        return [*planning, *busy, *self._fallbacks()]

    def _fallbacks(self) -> list[Span]:
        """What any model had to give up since the last caption: a smaller part of a pass, another runtime."""
        return [
            Span("fallback", "host", one.start_ns, one.end_ns, {
                "model": model.role, "before": one.before, "after": one.after, "reason": one.reason,
            })
            for model in (self.drafter, self.target, *self._more_targets) if (ladder := ladder_of(model))
            for one in ladder.take_fallbacks()
        ]  # fmt: skip
