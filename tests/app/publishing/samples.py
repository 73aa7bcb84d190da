"""Captions and drops as a captioner makes them, without one."""

from __future__ import annotations

import time

import numpy as np

from app.records import Caption, DecodingStats, Dropped
from app.sensors.contract import Events, Frame
from app.telemetry.spans import Span
from app.windows import Window, WindowFrame

MS = 1_000_000  # ns


def make_window(index: int = 0, closed_ns: int | None = None) -> Window:
    """One second: 100 events, three chosen frames (the third twice, for a missing one), one not chosen; one is grey."""
    start_us = 5_000_000 + index * 1_000_000
    closed_ns = time.monotonic_ns() if closed_ns is None else closed_ns
    image = np.zeros((2, 2, 3), np.uint8)
    frames = [Frame(start_us + i * 200_000, image, closed_ns - (1000 - i * 200) * MS, grey=i == 0) for i in range(4)]
    chosen = tuple(WindowFrame(frames[i], repeat) for i, repeat in ((0, False), (1, False), (2, False), (2, True)))
    t = np.linspace(start_us, start_us + 999_999, 100).astype(np.int64)
    events = Events(t, np.zeros(100, np.int16), np.zeros(100, np.int16), np.zeros(100, np.uint8))
    return Window(
        index,
        start_us,
        start_us + 1_000_000,
        events,
        chosen,
        (frames[3],),
        (4, 4),
        closed_ns,
        notes=("frames repeated",),
    )


def make_caption(index: int = 0, text: str = "a red ball rolls", closed_ns: int | None = None) -> Caption:
    window = make_window(index, closed_ns)
    at = window.closed_ns

    def span(name: str, lane: str, start_ms: int, end_ms: int, **detail: int | float | str) -> Span:
        return Span(name, lane, at + start_ms * MS, at + end_ms * MS, detail)

    spans = (
        span("preprocess", "host", 1, 3),
        span("encode", "drafter", 3, 5),
        span("prefill", "drafter", 5, 9),
        span("decode", "drafter", 9, 19),
        span("encode", "target", 4, 10),
        span("prefill", "target", 10, 14, tokens=64, first_frame=0, end_frame=2),
        span("prefill", "target", 14, 20, tokens=80, first_frame=2, end_frame=4),
        span("verify", "target", 20, 22, tokens=6),
        span("decode", "target", 22, 30),
    )
    stats = DecodingStats(
        strategy="prefill_hiding",
        placement="overlap",
        tokens=8,
        num_drafts=1,
        num_draft_tokens=6,
        num_accepted_draft_tokens=3,
        hidden_tokens=6,
        accepted_hidden_tokens=3,
        num_spec_steps=1,
        acceptance_histogram=(0, 0, 0, 1),
        alpha_trials=4,
        alpha_hits=3,
        content_trials=2,
        content_hits=1,
    )
    return Caption(
        window=window,
        text=text,
        token_ids=tuple(range(8)),
        tokens=(),
        finish_reason="stop",
        mean_logprob=-0.25,
        stats=stats,
        spans=spans,
        draft_text="a red ball",
        started_ns=at + 1 * MS,
        finished_ns=at + 30 * MS,
        prompt="What happens?",
        models={"drafter": "demo-eventgpt", "target": "demo-video-llava", "runtime": "onnx", "demo": True},
    )


def make_dropped(index: int = 0, reason: str = "superseded") -> Dropped:
    return Dropped(make_window(index), reason)
