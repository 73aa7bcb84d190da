"""The live view: what a caption looks like with and without colour, and the table at the end."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from rich.console import Console

from app.caption_block import BAR_CELLS, caption_block, timeline, words
from app.comparison import Comparison
from app.demo_view import DemoView
from app.records import Caption, DecodingStats, Dropped, Token
from app.report_table import report_json, report_table
from app.sensors.contract import Events, Frame
from app.telemetry.spans import Span
from app.telemetry.summary import Summary
from app.windows import Window, WindowFrame

MS = 1_000_000
CLOSE = 1_000 * MS
WORDS = (
    Token(1, "a", "accepted"),
    Token(2, " red", "rejected"),
    Token(3, " blue", "target"),
    Token(4, " car", "accepted"),
)


def caption(index: int = 0) -> Caption:
    nothing = Events(np.empty(0, np.int64), np.empty(0, np.int16), np.empty(0, np.int16), np.empty(0, np.uint8))
    frame = WindowFrame(Frame(0, np.zeros((2, 2, 3), np.uint8)))
    window = Window(index, index * 1_000_000, (index + 1) * 1_000_000, nothing, (frame,), (), (2, 2), CLOSE)
    spans = (
        Span("encode", "drafter", CLOSE - 10 * MS, CLOSE - 8 * MS),
        Span("decode", "drafter", CLOSE - 8 * MS, CLOSE - 4 * MS),
        Span("prefill", "target", CLOSE, CLOSE + 10 * MS),
        Span("decode", "target", CLOSE + 10 * MS, CLOSE + 12 * MS),
        Span("decode", "target", CLOSE + 12 * MS, CLOSE + 14 * MS),
    )
    stats = DecodingStats("prefill_hiding", "lead", 3, 1, 3, 2, 3, 2, 1, (0, 0, 1), 3, 2, 1, 0)
    return Caption(
        window, "a blue car", (1, 3, 4), WORDS, "stop", -0.1, stats, spans, "a red car", CLOSE, CLOSE + 14 * MS, "?"
    )


def test_words_by_origin() -> None:
    assert words(WORDS, "", colour=False).plain == "a [-red-] {+blue+} car"
    styled = words(WORDS, "", colour=True)
    assert styled.plain == "a red blue car"
    assert ["strike" in str(span.style) for span in styled.spans] == [False, True, False, False]


def test_bars_share_one_scale_and_mark_the_close() -> None:
    drafter, target = (bar.plain for bar in timeline(caption(), colour=False))
    assert len(drafter) == len(target) == BAR_CELLS + 1
    assert drafter.index("│") == target.index("│") == int(10 / 24 * BAR_CELLS)
    assert drafter.startswith("eeeeed")
    assert target.rstrip("d").endswith("p")
    assert target.count("d") == round(4 / 24 * BAR_CELLS)


def test_a_frame_prefilled_long_before_the_close_does_not_squeeze_what_came_after_it() -> None:
    made = caption()
    early = Span("prefill", "target", CLOSE - 900 * MS, CLOSE - 880 * MS)
    _, target = timeline(replace(made, spans=(early, *made.spans)), colour=False)
    assert target.plain.index("│") == int(28 / 42 * BAR_CELLS)


def test_the_block_tells_where_the_time_went() -> None:
    block = caption_block(caption(3), colour=False).plain
    assert "3.00-4.00 s" in block
    assert "verified +14 ms" in block
    assert "encode 2.0 · decode 4.0 ms" in block
    assert "prefill 10.0 · decode 4.0 ms" in block


def test_plain_output_is_whole_lines_without_escapes() -> None:
    out, summary = io.StringIO(), Summary()
    with DemoView(Console(file=out, width=80), summary) as view:
        for index in range(3):
            summary.add(caption(index))
            view.on_draft(caption(index).window, "a red car")
            view.on_caption(caption(index))
        view.on_dropped(Dropped(caption(3).window, "no_frames"))
    text = out.getvalue()
    assert "\x1b" not in text
    assert text.count("a [-red-] {+blue+} car") == 3
    assert "dropped: no_frames" in text


def test_a_terminal_gets_colours_and_a_footer() -> None:
    out, summary = io.StringIO(), Summary()
    with DemoView(Console(file=out, width=120, force_terminal=True), summary, (0, 2_000_000)) as view:
        view.on_draft(caption().window, "a red car")
        summary.add(caption())
        view.on_caption(caption())
    text = out.getvalue()
    assert "draft of window 0: a red car" in text
    assert "1 captions" in text
    assert "1 of 2 s" in text


def test_the_table_and_its_figures() -> None:
    summary = Summary()
    summary.add(caption())
    out = io.StringIO()
    Console(file=out, width=100).print(report_table(summary.report(), Comparison(summary.report(), 1, 1)))
    assert "0.667" in out.getvalue()
    assert "1 of 1" in out.getvalue()
    assert "target alone p50" in out.getvalue()
    assert report_json(summary.report())["latency_ms"]["sensor_to_caption"]["p50"] == 14.0
