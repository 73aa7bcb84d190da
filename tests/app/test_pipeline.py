"""The pipeline: every window is captioned or dropped with a reason, nothing is unbounded, and errors come through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from app.captioner import Captioner, CaptionerSettings
from app.pipeline import run_pipeline
from app.planning import measure_costs
from app.records import Caption, Dropped
from app.sensors.contract import Events, Frame, Item, SourceError, SourceInfo
from app.windower import Windower
from app.windows import Window
from models.bundle import VisionLanguageModel

SECOND = 1_000_000


@dataclass
class Sink:
    captions: list[Caption] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    drafts: list[str] = field(default_factory=list)

    def on_caption(self, caption: Caption) -> None:
        self.captions.append(caption)

    def on_dropped(self, dropped: Dropped) -> None:
        self.dropped.append(dropped)

    def on_draft(self, window: Window, text: str) -> None:
        self.drafts.append(text)


@dataclass
class Memory:
    """A source that plays what it is given, as fast as it is read or with a pause before each item."""

    items: list[Item]
    pause_s: float = 0.0
    error: Exception | None = None
    closed: bool = False
    info: SourceInfo = field(default_factory=lambda: SourceInfo("memory", (60, 40), True, True, False))

    async def __aiter__(self) -> AsyncIterator[Item]:
        for item in self.items:
            await asyncio.sleep(self.pause_s)
            yield item
        if self.error:
            raise self.error

    async def close(self) -> None:
        self.closed = True


def stream(seconds: int, *, frames: bool = True) -> list[Item]:
    random = np.random.default_rng(0)
    items: list[Item] = []
    for tenth in range(seconds * 10):
        t_us = tenth * SECOND // 10
        if frames:
            items.append(Frame(t_us, random.integers(0, 255, (40, 60, 3), np.uint8)))
        times = np.sort(random.integers(t_us, t_us + SECOND // 10, 50)).astype(np.int64)
        x, y = random.integers(0, 60, 50).astype(np.int16), random.integers(0, 40, 50).astype(np.int16)
        items.append(Events(times, x, y, random.integers(0, 2, 50).astype(np.uint8)))
    return items


def windower(lead_us: int = 0) -> Windower:
    return Windower(SECOND, SECOND, 8, lead_us, resolution=(60, 40))


@pytest.fixture(scope="module")
def captioner(tiny_pair: tuple[VisionLanguageModel, VisionLanguageModel]) -> Iterator[Captioner]:
    settings = CaptionerSettings(max_new_tokens=12, drafter_span_us=SECOND // 2, guard=False)
    made = Captioner(*tiny_pair, settings, costs=measure_costs(*tiny_pair, settings))
    yield made
    made.close()


def run(source: Memory, captioner: Captioner, sink: Sink, *, lossless: bool = True, lead_us: int = 0) -> None:
    report = asyncio.run(run_pipeline(source, windower(lead_us), captioner, [sink], lossless=lossless))
    assert report.windows == len(sink.captions) + len(sink.dropped)
    assert report.captioned == len(sink.captions)
    assert source.closed


def test_a_recording_loses_no_window(captioner: Captioner) -> None:
    sink = Sink()
    run(Memory(stream(6)), captioner, sink)
    assert [caption.window.index for caption in sink.captions] == list(range(6))
    assert not sink.dropped


def test_live_the_newest_window_wins_and_the_others_are_counted(captioner: Captioner) -> None:
    slow = captioner.caption
    sink = Sink()

    def caption(window: Window) -> Caption:
        import time

        time.sleep(0.3)
        return slow(window)

    captioner.caption = caption  # type: ignore[method-assign]
    try:
        run(Memory(stream(12), pause_s=0.002), captioner, sink, lossless=False)
    finally:
        captioner.caption = slow  # type: ignore[method-assign]
    assert sink.captions[-1].window.index == 11
    assert {dropped.reason for dropped in sink.dropped} == {"superseded"}
    assert [c.window.index for c in sink.captions] == sorted(c.window.index for c in sink.captions)


def test_the_draft_is_made_before_the_window_closes_when_there_is_time(captioner: Captioner) -> None:
    sink = Sink()
    run(Memory(stream(4), pause_s=0.02), captioner, sink, lead_us=SECOND // 3)
    placements = [caption.stats.placement for caption in sink.captions]
    assert "lead" in placements
    assert all(drafts for drafts in sink.drafts)


def test_a_window_without_frames_is_dropped_and_says_so(captioner: Captioner) -> None:
    sink = Sink()
    run(Memory(stream(3, frames=False)), captioner, sink)
    assert [dropped.reason for dropped in sink.dropped] == ["no_frames"] * 3


def test_what_was_read_before_a_tear_is_captioned_and_the_error_is_raised(captioner: Captioner) -> None:
    sink = Sink()
    with pytest.raises(SourceError, match="torn"):
        run(Memory(stream(3), error=SourceError("memory: torn at 3.0 s")), captioner, sink)
    assert len(sink.captions) == 3


def test_one_failed_caption_is_a_dropped_window_and_three_in_a_row_end_the_run(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = captioner.caption

    def failing(bad: Callable[[int], bool]) -> Callable[[Window], Caption]:
        def caption(window: Window) -> Caption:
            if bad(window.index):
                raise RuntimeError("device lost")
            return healthy(window)

        return caption

    sink = Sink()
    monkeypatch.setattr(captioner, "caption", failing(lambda index: index == 1))
    run(Memory(stream(4)), captioner, sink)
    assert [dropped.reason for dropped in sink.dropped] == ["failed: device lost"]
    assert [caption.window.index for caption in sink.captions] == [0, 2, 3]

    sink = Sink()
    monkeypatch.setattr(captioner, "caption", failing(lambda index: True))
    source = Memory(stream(8))
    with pytest.raises(RuntimeError, match="device lost"):
        asyncio.run(run_pipeline(source, windower(), captioner, [sink], lossless=True))
    assert len(sink.dropped) == 3
    assert source.closed


def test_captions_do_not_depend_on_the_schedule_of_the_pipeline(captioner: Captioner) -> None:
    fast, paced = Sink(), Sink()
    run(Memory(stream(4)), captioner, fast)
    run(Memory(stream(4), pause_s=0.01), captioner, paced, lead_us=SECOND // 4)
    assert [c.token_ids for c in fast.captions] == [c.token_ids for c in paced.captions]
    assert replace(fast.captions[0].window, closed_ns=0).start_us == 0
