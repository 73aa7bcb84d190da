"""The event drafter: follows the verified text with its own cache, drafts ahead of it, can run free on a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from typing import NamedTuple

import numpy as np
import structlog

from app.decoding.model import CachedSequence, LanguageModel, common_prefix
from app.decoding.sampling import GREEDY, Sampler
from app.decoding.tree import TokenTree
from app.telemetry.spans import SpanRecorder
from models.prompts import Prompt
from models.runtimes.contract import Floats, FreeRunning, Likeliest

log = structlog.get_logger()

UNSURE = 0.5  # probability of a first token below which its runner-up is proposed as well

NO_TREE = TokenTree(0)

Worth = Callable[[int, float], bool]  # (tokens drafted so far, probability that the run stands) -> draft another one?


class PhaseThreads(NamedTuple):
    """Threads of each phase of one model."""

    encode: int
    prefill: int
    step: int


class Drafter:
    """Drafting by one model, greedy or with the target's own noise; used by one thread at a time."""

    def __init__(self, model: LanguageModel, prompt: Prompt, threads: PhaseThreads) -> None:
        self.model = model
        self.prompt = prompt
        self.threads = threads
        self.sequence = CachedSequence(model)
        self._prompt_rows = len(prompt.head_ids) + prompt.num_visual + len(prompt.tail_ids)
        self._fed: list[int] = []  # tokens behind the prompt whose rows are in the cache
        self._next: list[int] = []  # tokens behind those, still pending
        self._prompt_pending: Floats | None = None  # the prompt's embeddings until they are prefilled
        self._sampler = GREEDY
        self.runner_up: int | None = None  # the other first token of the last draft, where the first was unsure
        self._free = isinstance(model.decoder, FreeRunning)
        self._lost = False  # the target said an id that has no embedding here: no more drafts for this caption

    def begin(self, pixels: Floats, recorder: SpanRecorder, sampler: Sampler = GREEDY) -> None:
        """Encode pixels [N, 3, H, W] and make the prompt pending; it is prefilled by the first draft step.

        sampler: that of the caption, so that drafter and target choose with the same noise; not shared with a thread.
        """
        self._sampler = sampler
        with recorder.span("encode", "drafter"):
            visual = self.model.vision.encode(pixels, self.threads.encode)
        self.sequence.begin(self.prompt, visual)
        self._prompt_pending = self.sequence.pending
        self._fed, self._next, self._lost = [], [], False
        self.runner_up = None

    @property
    def lost(self) -> bool:
        """It has no more drafts for this caption."""
        return self._lost

    def sit_out(self) -> None:
        """No more drafts for this caption: it was called off, the drafter failed, or a probe has seen enough.

        The one thing that another thread may ask of it; the step it is in is the last.
        """
        self._lost = True

    @contextmanager
    def failing_softly(self) -> Iterator[None]:
        """A drafter that fails costs the caption its drafts, and is logged; the target goes on alone."""
        try:
            yield
        except Exception as error:
            log.warning("drafter_failed", error=f"{type(error).__name__}: {error}")
            self.sit_out()

    def synchronise(self, verified: Sequence[int]) -> None:
        """Roll back to where the verified text and this cache part ways, and make the rest of the text pending.

        The last verified token is always pending, so that the next step yields a distribution: after a full acceptance
        that is the bonus token, with the last draft before it, which was never fed.
        """
        if self._lost:
            return
        common = common_prefix(self._fed, verified[:-1])
        if any(not 0 <= token < self.model.vocabulary for token in verified[common:]):
            self._lost = True
            return
        if self._prompt_pending is None:
            self.sequence.truncate(self._prompt_rows + common)
        self._fed, self._next = list(verified[:common]), list(verified[common:])

    def draft(
        self,
        out: list[int],
        limit: int,
        worth: Worth | None,
        recorder: SpanRecorder,
        stop: threading.Event | None = None,
    ) -> None:
        """Append up to `limit` tokens to `out`, as they come; ends at end-of-sequence or when no more pay.

        worth: None where every token is wanted.
        """
        run = 1.0
        with closing(self._tokens(limit - len(out), recorder, sure=worth is None)) as tokens:
            while len(out) < limit and not self._lost and not (stop and stop.is_set()):
                if worth and not worth(len(out), run):
                    return
                following = next(tokens, None)
                if following is None:
                    return
                run *= following.probability
                out.append(following.token)
                if following.token == self.model.eos_id:
                    return

    def _tokens(self, count: int, recorder: SpanRecorder, *, sure: bool) -> Generator[Likeliest]:
        """Up to `count` tokens, each when it is asked for: on the device alone where it can, else pass by pass.

        sure: how likely each is does not matter, and may be given as 1.
        """
        self.runner_up, made = None, 0
        while made < count:
            if self._free and (came := (yield from self._run_free(count - made, recorder))):
                made += came
                continue
            logits = self._feed(NO_TREE, recorder)
            if logits is None:
                return
            row = logits[0]
            token = self._sampler.pick(row, len(self._fed))
            probability = 1.0 if sure else self._probability(row, token)
            if not made and probability < UNSURE:
                self.runner_up = self._second(row, token)
            made += 1
            self._next = [] if token == self.model.eos_id else [token]
            yield Likeliest(token, probability)

    def _run_free(self, count: int, recorder: SpanRecorder) -> Generator[Likeliest, None, int]:
        """Behind a single pending token, greedy: look-up and choice are the device's. How many tokens came."""
        made, model = 0, self.model
        single = len(self._next) == 1 and self._prompt_pending is None
        if not single or self._sampler.sampling.temperature or model.decoder.vocabulary != model.vocabulary:
            return made
        run = self.sequence.greedy(self._next[0], count)
        if run is None:
            return made
        with closing(run):
            while made < count:
                with recorder.span("decode", "drafter", tokens=1):
                    each = next(run, None)
                if each is None:
                    break
                made += 1
                self._fed += self._next
                self._next = [] if each.token == model.eos_id else [each.token]
                yield each
        return made

    def _probability(self, row: Floats, token: int) -> float:
        """How sure it is of its pick for the next position, from logits [vocabulary].

        Greedy: its probability. With noise: that of the same choice between the perturbed logits.
        """
        scores = self._sampler.scores(row, len(self._fed))
        return float(1.0 / np.exp(scores - scores[token]).sum())

    def picks(self, rows: Floats, places: Sequence[int]) -> list[int]:
        """The tokens for positions `places` of the caption, from logits [N, vocabulary]."""
        return self._sampler.picks(rows, places)

    def _second(self, row: Floats, first: int) -> int:
        """The likeliest token but one."""
        rest = self._sampler.scores(row, len(self._fed)).copy()
        rest[first] = -np.inf
        return int(rest.argmax())

    def candidates(self, rows: Floats, places: Sequence[int], count: int) -> list[list[tuple[int, float]]]:
        """For each position, from logits [N, vocabulary]: the `count` likeliest tokens, the likeliest first.

        Each with how likely it is to be the target's; those that cannot be are left out.
        """
        scores = self._sampler.all_scores(rows, places)
        count = min(count, scores.shape[1])
        ordered = np.partition(scores, (-count, -1))
        weights = np.exp(scores - ordered[:, -1:])
        # All that are equal to the least likely among them; outside of a narrow nucleus that is nearly everything.
        found = np.nonzero((scores >= ordered[:, -count, None]) & (weights > 0))
        shares = weights[found] / weights.sum(axis=1)[found[0]]
        likely: list[list[tuple[int, float]]] = [[] for _ in scores]
        for row, token, share in zip(*map(np.ndarray.tolist, (*found, shares)), strict=True):
            likely[row].append((token, share))
        return [sorted(one, key=lambda candidate: -candidate[1])[:count] for one in likely]

    def feed_tree(self, tree: TokenTree, recorder: SpanRecorder) -> Floats | None:
        """Feed what is pending and a tree behind it; logits [1 + len(tree), vocabulary], None when there are no more.

        The rows of the tree's nodes are not part of the text; the next pass overwrites them, unless `keep` did. The
        first row of logits is missing when nothing was pending: then the text's last row was fed before.
        """
        return None if self._lost else self._feed(tree, recorder)

    def keep(self, tree: TokenTree, path: Sequence[int]) -> None:
        """The verified text runs through these nodes of the last `feed_tree`: their rows move together."""
        self.sequence.advance_path(path, ())
        self._fed += [tree.tokens[node] for node in path]

    def _feed(self, tree: TokenTree, recorder: SpanRecorder) -> Floats | None:
        """`feed_tree` while there are more drafts; None when the cache is full."""
        sequence, prompt = self.sequence, self._prompt_pending
        sequence.following = self._next
        if prompt is not None:
            sequence.pending = prompt
        count = sequence.unfed + len(tree)
        if sequence.length + count > self.model.decoder.s_max:
            return None
        stage, threads = ("decode", self.threads.step) if prompt is None else ("prefill", self.threads.prefill)
        with recorder.span(stage, "drafter", tokens=count):
            logits = sequence.forward_tree(tree, threads)
        self._fed += self._next
        self._next, self._prompt_pending = [], None
        return logits[:, : self.model.vocabulary]


class FreeRun:
    """A drafter that runs on its own worker until told to stop; starting, stopping and reading cost no model time."""

    def __init__(
        self,
        worker: ThreadPoolExecutor,
        drafter: Drafter,
        pixels: Callable[[], Floats],
        limit: int,
        worth: Worth,
        recorder: SpanRecorder,
        sampler: Sampler = GREEDY,
        show: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        """`show` is told of the finished draft, on the worker, unless the run was stopped before."""
        self.drafter = drafter
        self.shown = False  # known once the run was stopped
        self._show = show
        self._tokens: list[int] = []
        self._stop = threading.Event()
        self._started_ns = time.monotonic_ns()
        self.recorder = recorder
        self._job: Future[None] = worker.submit(self._run, pixels, limit, worth, sampler)

    def _run(self, pixels: Callable[[], Floats], limit: int, worth: Worth, sampler: Sampler) -> None:
        if self._stop.is_set():
            self.drafter.sit_out()
            return
        with self.drafter.failing_softly():
            self.drafter.begin(pixels(), self.recorder, sampler)
            self.drafter.draft(self._tokens, limit, worth, self.recorder, self._stop)
        if self._show and self._tokens and not self._stop.is_set():
            self.shown = True
            self._show(self._tokens)

    @property
    def elapsed_ms(self) -> float:
        """Since it was started."""
        return (time.monotonic_ns() - self._started_ns) / 1e6

    @property
    def drafted(self) -> int:
        """Tokens so far."""
        return len(self._tokens)

    def wait(self, timeout_ms: float) -> None:
        """Until it has drafted all it wants to, at most so long."""
        wait([self._job], timeout_ms / 1e3)

    @property
    def done(self) -> bool:
        return self._job.done()

    def stop(self) -> list[int]:
        """End the run after the step it is in, and give every token it drafted."""
        self._stop.set()
        self._job.result()
        return list(self._tokens)
