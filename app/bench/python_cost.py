"""What our own code costs beside a forward pass: Python of a strategy, its masks, the binding of inputs and outputs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import get_ident
from typing import Any

import numpy as np
import onnxruntime as ort

from app.bench.windows import BenchWindow
from app.captioner import Captioner, CaptionerSettings
from app.decoding.costs import Costs
from app.decoding.engine import Job
from app.decoding.strategies import make_strategy
from app.telemetry.spans import SpanRecorder
from app.windows import Window, drafter_events
from models.bundle import VisionLanguageModel
from models.runtimes.contract import Floats

WARM_UP = 2  # captions, in which buffers are bound for the first time


def microseconds_a_pass(
    strategies: Sequence[str],
    models: tuple[VisionLanguageModel, VisionLanguageModel],
    settings: CaptionerSettings,
    costs: Costs,
    windows: Sequence[BenchWindow],
) -> dict[str, float]:
    """For each strategy, guard off: CPU time outside of ONNX Runtime ÷ forward passes, the median caption's.

    Counted on the thread of the caption and on the drafter's, preprocessing apart. Empty for another runtime.
    `costs` must plan one thread a session, or what a session does on its other threads is counted nowhere.
    """
    found = {}
    captioner = Captioner(*models, replace(settings, guard=False), costs=costs)
    try:
        for name in strategies:
            if costs_us := _captions(captioner, name, windows):
                found[name] = float(np.median(costs_us))
    finally:
        captioner.close()
    return found


def _captions(captioner: Captioner, name: str, windows: Sequence[BenchWindow]) -> list[float]:
    engine, found = captioner.engine, []
    strategy = make_strategy(name, engine)
    for number, window in enumerate(windows):
        job = _prepared(captioner, window.closed, number)
        drafter_thread = engine.worker.submit(get_ident).result()
        with _inside_the_runtime() as spent:
            before = engine.worker.submit(time.thread_time_ns).result() + time.thread_time_ns()
            strategy.run(job)
            after = time.thread_time_ns() + engine.worker.submit(time.thread_time_ns).result()
        inside = [spent.get(thread, (0, 0)) for thread in (get_ident(), drafter_thread)]
        if number >= WARM_UP and (passes := sum(count for _, count in inside)):
            found.append((after - before - sum(ns for ns, _ in inside)) / passes / 1e3)
    strategy.abandon()
    return found


def _prepared(captioner: Captioner, window: Window, number: int) -> Job:
    """The window with its pixels made already."""
    pixels = captioner.target.pixels_from_frames([chosen.frame.image for chosen in window.frames])
    events = drafter_events(window, captioner.settings.drafter_span_us)
    rendered = captioner.drafter.pixels_from_events(events.x, events.y, events.p, window.resolution)

    def target_pixels(first: int = 0) -> Floats:
        return pixels[first:]

    return Job(target_pixels, lambda: rendered, SpanRecorder(), caption=number)


@contextmanager
def _inside_the_runtime() -> Iterator[dict[int, tuple[int, int]]]:
    """CPU time inside ONNX Runtime and passes of a decoder, by thread, while this is open."""
    spent: dict[int, tuple[int, int]] = {}
    sessions = {"run": 0, "run_with_iobinding": 1}  # the towers use the first, the decoders the second
    originals = {name: getattr(ort.InferenceSession, name) for name in sessions}

    def timed(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time_ns()
            try:
                return originals[name](*args, **kwargs)
            finally:
                thread = get_ident()
                ns, count = spent.get(thread, (0, 0))
                spent[thread] = ns + time.thread_time_ns() - start, count + sessions[name]

        return call

    for name in sessions:
        setattr(ort.InferenceSession, name, timed(name))
    try:
        yield spent
    finally:
        for name, original in originals.items():
            setattr(ort.InferenceSession, name, original)
