"""Streaming prefill through captioner, windows and pipeline: the same words, sooner, and said how."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from app.captioner import Captioner, CaptionerSettings
from app.config import Config, override
from app.decoding.costs import Costs
from app.decoding.strategies import STRATEGIES
from app.pipeline import run_pipeline
from app.planning import measure_costs
from app.publishing.payloads import Origin, telemetry_payload
from app.sensors.contract import Events, Frame, Item, SourceInfo
from app.session import captioner_settings, make_windower
from app.telemetry.latency import latency_ms
from app.windower import Windower
from app.windows import Window
from models.bundle import VisionLanguageModel
from tests.app.test_pipeline import Memory, Sink

Pair = tuple[VisionLanguageModel, VisionLanguageModel]
MakeWindow = Callable[..., Window]
SECOND = 1_000_000
SETTINGS = CaptionerSettings(max_new_tokens=12, drafter_span_us=500_000, guard=False)


@pytest.fixture(scope="module")
def costs(tiny_pair: Pair) -> Costs:
    return measure_costs(*tiny_pair, SETTINGS)


@pytest.fixture
def captioner(tiny_pair: Pair, costs: Costs) -> Iterator[Captioner]:
    made = Captioner(*tiny_pair, SETTINGS, costs=costs)
    yield made
    made.close()


@pytest.fixture
def alone(tiny_pair: Pair, costs: Costs, captioner: Captioner) -> Iterator[Captioner]:
    """Without streaming; made after `captioner` and before either says anything: they share the models' caches."""
    made = Captioner(*tiny_pair, replace(SETTINGS, strategy="autoregressive", streaming=False), costs=costs)
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(tiny_pair: Pair, tiny_window: MakeWindow, costs: Costs) -> list[tuple[int, ...]]:
    """What the target alone says about windows 0 to 5, each prefilled as a whole."""
    alone = Captioner(*tiny_pair, replace(SETTINGS, strategy="autoregressive", streaming=False), costs=costs)
    try:
        return [alone.caption(tiny_window(number)).token_ids for number in range(6)]
    finally:
        alone.close()


def so_far(window: Window, frames: int, *, draft_due: bool = False) -> Window:
    return replace(window, frames=window.frames[:frames], partial=True, draft_due=draft_due)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_says_what_whole_window_prefill_says(
    tiny_pair: Pair, tiny_window: MakeWindow, costs: Costs, whole: list[tuple[int, ...]], strategy: str
) -> None:
    captioner = Captioner(*tiny_pair, replace(SETTINGS, strategy=strategy), costs=costs)
    try:
        for number, streamed in enumerate((7, 8, 0, 1)):
            window = tiny_window(number)
            for frames in range(1, streamed + 1):
                captioner.ahead(so_far(window, frames, draft_due=frames >= 6))
            caption = captioner.caption(window)
            assert caption.token_ids == whole[number]
            assert caption.stats.streamed_frames == streamed
            if strategy == "prefill_hiding" and streamed >= 7:
                assert caption.stats.placement == "lead"
    finally:
        captioner.close()


def test_windows_that_overlap_are_prefilled_anew(
    captioner: Captioner, alone: Captioner, tiny_window: MakeWindow
) -> None:
    one, other = tiny_window(1), tiny_window(2)
    later = replace(other, frames=(*one.frames[4:], *other.frames[:4]))  # half of the first window is in the second
    expected = [alone.caption(window).token_ids for window in (one, later)]
    captioner.ahead(so_far(one, 8))
    first = captioner.caption(one)
    captioner.ahead(so_far(later, 4))
    captioner.ahead(so_far(later, 7))
    assert [first.token_ids, captioner.caption(later).token_ids] == expected


def test_an_ask_between_two_frames_and_a_window_that_is_never_captioned_change_nothing(
    captioner: Captioner, tiny_window: MakeWindow, whole: list[tuple[int, ...]]
) -> None:
    usual = captioner.settings.question
    captioner.ahead(so_far(tiny_window(3), 4, draft_due=True))
    captioner.set_question("USER ?")
    captioner.caption(tiny_window(1))
    captioner.set_question(usual)
    captioner.ahead(so_far(tiny_window(3), 5, draft_due=True))
    assert captioner.caption(tiny_window(0)).token_ids == whole[0]  # window 3 was superseded
    captioner.ahead(so_far(tiny_window(3), 2))
    captioner.call_off()
    caption = captioner.caption(tiny_window(2), camera="rear")
    assert (caption.token_ids, caption.stats.streamed_frames) == (whole[2], 0)


def test_frames_leave_the_target_to_whatever_is_more_urgent(
    captioner: Captioner, tiny_window: MakeWindow, whole: list[tuple[int, ...]]
) -> None:
    looks = iter([False, False, True])
    window = tiny_window(4)
    captioner.ahead(so_far(window, 8), preempted=lambda: next(looks))
    caption = captioner.caption(window)
    assert (caption.token_ids, caption.stats.streamed_frames) == (whole[4], 2)


def test_telemetry_shows_each_frame_prefilled_before_the_window_closed(
    captioner: Captioner, tiny_window: MakeWindow
) -> None:
    window = tiny_window(5)
    for frames in range(1, 8):
        captioner.ahead(so_far(window, frames))
    now = time.monotonic_ns()
    frames = tuple(replace(chosen, frame=replace(chosen.frame, arrived_ns=now)) for chosen in window.frames[7:])
    window = replace(window, frames=(*window.frames[:7], *frames), closed_ns=now)
    caption = captioner.caption(window)
    payload = telemetry_payload(caption, Origin("robot", "front", "s"))
    assert payload["decoding"]["streamed_frames"] == 7
    ends = [frame["prefill"]["end_ms"] for frame in payload["frames"]]
    assert ends == sorted(ends)
    assert all(end < 0 for end in ends[:7])
    assert ends[7] > 0
    assert all(frame["encode"]["start_ms"] < frame["prefill"]["end_ms"] for frame in payload["frames"])
    since_last = latency_ms(caption)["last_frame_to_caption"]
    assert since_last is not None
    assert 0 < since_last <= (caption.finished_ns - now) / 1e6 + 0.001
    spans = [span for span in caption.spans if span.lane == "target" and span.name == "encode"]
    assert len(spans) == 8


def test_without_a_last_frames_arrival_nothing_is_said_of_the_time_since(
    captioner: Captioner, tiny_window: MakeWindow
) -> None:
    assert latency_ms(captioner.caption(tiny_window(0)))["last_frame_to_caption"] is None


def test_the_draft_made_ahead_is_shown_at_once_and_only_once(
    tiny_pair: Pair, tiny_window: MakeWindow, costs: Costs
) -> None:
    captioner = Captioner(*tiny_pair, replace(SETTINGS, sources=("drafter",)), costs=costs)
    shown: list[tuple[int, bool, str]] = []
    captioner.on_draft = lambda window, text: shown.append((window.index, window.partial, text))
    try:
        captioner.ahead(so_far(tiny_window(3), 7, draft_due=True))
        captioner.engine.worker.submit(lambda: None).result()  # the draft is made
        assert [(index, partial) for index, partial, _ in shown] == [(3, True)]
        captioner.caption(tiny_window(3))
        assert len(shown) == 1
        captioner.use("prefill_hiding", "serial")  # so that there is a draft, however busy the machine is
        captioner.caption(tiny_window(4))
        assert [(index, partial) for index, partial, _ in shown] == [(3, True), (4, False)]
        captioner.use("prefill_hiding")
        for _ in range(2):  # an answer in between has the draft begun anew
            captioner.ahead(so_far(tiny_window(5), 7, draft_due=True))
            captioner.engine.worker.submit(lambda: None).result()
            captioner.on_draft, tell = None, captioner.on_draft
            captioner.caption(tiny_window(4))
            captioner.on_draft = tell
        captioner.caption(tiny_window(5))
        assert [(index, partial) for index, partial, _ in shown[2:]] == [(5, True)]
    finally:
        captioner.close()


@pytest.mark.parametrize("reason", ["configured", "attention over time"])
def test_whole_window_prefill_is_what_remains(
    tiny_pair: Pair, tiny_window: MakeWindow, costs: Costs, whole: list[tuple[int, ...]], reason: str
) -> None:
    drafter, target = tiny_pair
    if reason == "configured":
        captioner = Captioner(drafter, target, replace(SETTINGS, streaming=False), costs=costs)
    else:
        original = replace(target, manifest={**target.manifest, "network": "llava"})
        assert not original.frames_alone
        captioner = Captioner(drafter, original, SETTINGS, costs=costs)
    try:
        captioner.ahead(so_far(tiny_window(0), 7))
        assert not captioner.streams
        caption = captioner.caption(tiny_window(0))
        assert caption.stats.streamed_frames == 0
        assert captioner.settings.streaming is (reason != "configured")
        if reason == "configured":
            assert caption.token_ids == whole[0]
    finally:
        captioner.close()


def street(seconds: int, frames_a_second: int, rng: int = 0) -> list[Item]:
    random = np.random.default_rng(rng)
    items: list[Item] = [
        Frame(int((n + 0.4) * SECOND / frames_a_second), random.integers(0, 255, (40, 60, 3), np.uint8))
        for n in range(seconds * frames_a_second)
    ]
    for n in range(seconds * 20):
        times = np.sort(random.integers(n * SECOND // 20, (n + 1) * SECOND // 20, 30)).astype(np.int64)
        x, y = random.integers(0, 40, (2, 30)).astype(np.int16)
        items.append(Events(times, x, y, random.integers(0, 2, 30).astype(np.uint8)))
    return sorted(items, key=lambda item: item.t_us if isinstance(item, Frame) else int(item.t[-1]))


def windower(stream: bool, hop_us: int = SECOND, lead_us: int = SECOND // 10) -> Windower:
    return Windower(SECOND, hop_us, 8, lead_us, resolution=(60, 40), stream=stream)


@pytest.mark.parametrize("rate", [4, 10, 30])
@pytest.mark.parametrize("hop_us", [SECOND, SECOND // 2])
def test_frames_come_ahead_of_their_window_in_its_order(rate: int, hop_us: int) -> None:
    cutter, given, drafts = windower(True, hop_us), dict[int, Window](), dict[int, Window]()
    closed = 0
    for item in street(4, rate):
        for window in cutter.push(item):
            if window.partial:
                if window.index in given:
                    assert len(window.frames) >= len(given[window.index].frames)
                given[window.index] = window
                if window.draft_due:
                    events = drafts.setdefault(window.index, window).events
                    assert events is window.events  # the draft's events are cut once
                continue
            closed += 1
            ahead = given.get(window.index)
            if window.start_us >= SECOND or rate > 4:
                assert ahead is not None
                assert drafts[window.index].start_us == window.start_us
                assert len(ahead.frames) >= 7
                pairs = zip(ahead.frames, window.frames, strict=False)
                assert all(one.frame is other.frame and one.repeat == other.repeat for one, other in pairs)
    assert closed >= 3


def test_a_lost_frame_makes_the_forecast_wrong_and_the_caption_none_the_less_right(
    captioner: Captioner, alone: Captioner
) -> None:
    lost = 2_840_000  # expected to be taken when the one before it came
    cutter, right = windower(True), 0
    for item in (item for item in street(4, 10) if not (isinstance(item, Frame) and lost <= item.t_us < 3 * SECOND)):
        for window in cutter.push(item):
            if window.partial:
                captioner.ahead(window)
            else:
                caption = captioner.caption(window)
                assert caption.token_ids == alone.caption(window).token_ids
                right += caption.stats.streamed_frames == 8
    assert right < 3


def test_the_pipeline_streams_a_source_in_real_time_and_says_the_same(captioner: Captioner) -> None:
    said = []
    for stream in (False, True):
        sink = Sink()
        source = Memory(street(4, 10), pause_s=0.01)
        asyncio.run(run_pipeline(source, windower(stream), captioner, [sink], lossless=True))
        said.append([caption.token_ids for caption in sink.captions])
        streamed = [caption.stats.streamed_frames for caption in sink.captions]
        assert (max(streamed) > 0) is stream
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("sections", "streams"),
    [
        ({}, True),
        ({"decoding": {"prefill": "whole"}}, False),
        ({"replay": {"speed": "max"}}, False),  # no time passes in which anything could be done ahead
    ],
)
def test_frames_are_streamed_where_there_is_time(
    tiny_pair: Pair, costs: Costs, sections: dict[str, dict[str, str]], streams: bool
) -> None:
    config = override(Config(), **sections)
    captioner = Captioner(*tiny_pair, captioner_settings(config, demo=True), costs=costs)
    try:
        cutter = make_windower(config, captioner, SourceInfo("camera", (60, 40), True, True, True))
        partial = [window for item in street(2, 10) for window in cutter.push(item) if window.partial]
    finally:
        captioner.close()
    assert any(window.frames for window in partial) is streams
