"""Start-up calibration: every phase at every thread count, so that the plan rests on numbers of this machine."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from app.decoding.costs import Costs, Phase
from app.decoding.model import LanguageModel, overwritten
from models.prompts import Prompt
from models.runtimes.contract import Floats, FreeRunning

VERIFY_ROWS = (2, 4, 8, 16, 32, 64)
FUSED_ROWS = (8, 32)
USUAL_ROWS = 32
RUN = 8  # drafted tokens, of a drafter whose device goes on by itself
TREE_ROWS = 8  # of the tree whose masked pass is compared with the causal one


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def thread_options(cores: int) -> list[int]:
    """1, 2, 4, … up to every core."""
    options = [1]
    while options[-1] * 2 < cores:
        options.append(options[-1] * 2)
    return options if cores == 1 else [*options, cores]


def median_ms(call: Callable[[], object], repeats: int = 7) -> float:
    """Median duration of `call` after one warm-up call."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


class _Probe:
    """The phases of one model as calls with a thread count."""

    def __init__(self, model: LanguageModel, prompt: Prompt, pixels: Floats) -> None:
        self.model, self.pixels = model, pixels
        self.head = len(prompt.head_ids)
        self.rows = prompt.num_visual + len(prompt.tail_ids)
        self.tail = len(prompt.tail_ids)
        self.room = min(64, model.decoder.s_max - self.head - self.rows)  # rows behind the prompt
        width = model.decoder.width
        self.embeddings = np.random.default_rng(0).standard_normal((self.rows + self.room, width), np.float32) * 0.02

    def encode(self, threads: int) -> None:
        self.model.vision.encode(self.pixels, threads)

    def prefill(self, threads: int, extra: int = 0) -> None:
        count = self.rows + extra
        rows = np.arange(self.rows - 1, count, dtype=np.int64)
        self.model.decoder.forward(self.embeddings[:count], self.head, rows, threads)

    def verify(self, threads: int, rows: int = 1) -> None:
        wanted = np.arange(rows, dtype=np.int64)
        self.model.decoder.forward(self.embeddings[:rows], self.head + self.rows, wanted, threads)

    def draft(self, threads: int) -> int:
        """Tokens as they are drafted, on the device alone where it can; how many."""
        decoder = self.model.decoder
        if self.room >= RUN and isinstance(decoder, FreeRunning):
            run = decoder.greedy(self.model.eos_id, self.head + self.rows, RUN)
            if run is not None:
                return sum(1 for _ in run)
        self.verify(threads)
        return 1

    def verify_tree(self, threads: int, rows: int) -> None:
        self._masked(self.head + self.rows, rows, rows, threads)

    def prefill_tree(self, threads: int, extra: int) -> None:
        """The prompt up to its tail, then the tail and a tree in the masked form."""
        before = self.rows - self.tail
        if before:
            self.model.decoder.forward(self.embeddings[:before], self.head, np.empty(0, np.int64), threads)
        self._masked(self.head + before, self.tail + extra, extra + 1, threads)

    def _masked(self, length: int, rows: int, wanted: int, threads: int) -> None:
        places, mask = np.arange(rows) + length, np.tri(rows, dtype=np.bool_)
        rows_wanted = np.arange(rows - wanted, rows)
        self.model.decoder.forward_tree(self.embeddings[:rows], places, mask, length, rows_wanted, threads)


def _alternately(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median duration of each call, taken in turn: a machine that drifts is fair to all."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, durations in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            durations.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(durations[1:]) for durations in times]


def _tree_costs_more(chain: Callable[[], object], tree: Callable[[], object], repeats: int) -> float:
    chain_ms, tree_ms = _alternately([chain, tree], repeats)
    return max(0.0, tree_ms - chain_ms)


def _slope(rows: Sequence[int], times: Sequence[float]) -> float:
    """Milliseconds a row, up to the longest of usual drafts."""
    last = max(n for n, count in enumerate(rows) if count <= USUAL_ROWS)
    return max(0.0, (times[last] - times[0]) / (rows[last] - rows[0])) if last else 0.0


def _best(call: Callable[[int], object], options: Sequence[int], repeats: int) -> Phase:
    times = {threads: median_ms(lambda n=threads: call(n), repeats) for threads in options}  # type: ignore[misc]
    best = min(times, key=lambda threads: times[threads])
    return Phase(times[best], best, times.get(1, times[best]))


def _a_token(run: Phase, tokens: int) -> Phase:
    """Of a phase that made so many."""
    return replace(run, ms=run.ms / max(1, tokens), one_thread_ms=run.one_thread_ms / max(1, tokens))


def calibrate(
    drafter: LanguageModel,
    target: LanguageModel,
    prompts: tuple[Prompt, Prompt],
    pixels: tuple[Floats, Floats],
    cores: int | None = None,
    fixed: Sequence[tuple[str, int]] = (),
) -> Costs:
    """Measure both models, about two seconds for a small pair; pixels as at run time, the caches are overwritten.

    `fixed`: (phase, threads) of phases whose thread count is not to be chosen, by their names in `Costs`.
    """
    options = thread_options(cores or available_cores())
    given = dict(fixed)

    def best(phase: str, call: Callable[[int], object], repeats: int) -> Phase:
        return _best(call, [given[phase]] if phase in given else options, repeats)

    d, t = _Probe(drafter, prompts[0], pixels[0]), _Probe(target, prompts[1], pixels[1])
    step = best("target_step", t.verify, 21)
    threads = step.threads
    curve = {rows: median_ms(lambda n=rows: t.verify(threads, n)) for rows in VERIFY_ROWS if rows <= t.room}  # type: ignore[misc]
    prefill = best("target_prefill", t.prefill, 5)
    verify_tree_ms = _tree_costs_more(
        lambda: t.verify(threads, min(TREE_ROWS, t.room)), lambda: t.verify_tree(threads, min(TREE_ROWS, t.room)), 9
    )
    fused_tree_ms = _tree_costs_more(
        lambda: t.prefill(prefill.threads, min(TREE_ROWS, t.room)),
        lambda: t.prefill_tree(prefill.threads, min(TREE_ROWS, t.room)),
        5,
    )
    fused_rows = (0, *(rows for rows in FUSED_ROWS if rows <= t.room))
    fused = _alternately([lambda n=rows: t.prefill(prefill.threads, n) for rows in fused_rows], 5)  # type: ignore[misc]
    shared = (max(1, options[-1] - 1), 1)
    alone, together, drafter_step = _overlap(d, t, shared)
    for model in (drafter, target):
        overwritten(model)
    return Costs(
        drafter_encode=best("drafter_encode", d.encode, 7),
        drafter_prefill=best("drafter_prefill", d.prefill, 7),
        drafter_step=_a_token(best("drafter_step", d.draft, 21), d.draft(1)),
        target_encode=best("target_encode", t.encode, 5),
        target_prefill=prefill,
        target_step=step,
        verify_row_ms=_slope((1, *curve), (step.ms, *curve.values())),
        fused_row_ms=_slope(fused_rows, fused),
        overlap_target_ms=together,
        overlap_alone_ms=alone,
        overlap_step_ms=drafter_step,
        overlap_threads=shared,
        verify_curve=curve,
        fused_curve=dict(zip(fused_rows, fused, strict=True)),
        verify_tree_ms=verify_tree_ms,
        fused_tree_ms=fused_tree_ms,
    )


def _overlap(d: _Probe, t: _Probe, shared: tuple[int, int]) -> tuple[float, float, float]:
    """Target encode + prefill alone and beside a running drafter, on the shared threads; a drafter step meanwhile."""

    def start() -> None:
        t.encode(shared[0])
        t.prefill(shared[0])

    alone = median_ms(start, 5)
    d.draft(shared[1])  # the session is loaded, or fails, here and not beside the target
    stop, steps = threading.Event(), []

    def run() -> None:
        while not stop.is_set():
            begin = time.perf_counter()
            made = d.draft(shared[1])
            steps.append((time.perf_counter() - begin) * 1e3 / max(1, made))

    worker = threading.Thread(target=run, name="calibration-drafter")
    worker.start()
    try:
        together = median_ms(start, 5)
    finally:
        stop.set()
        worker.join()
    return alone, together, statistics.median(steps)
