"""Drafters that run free on their device, in every strategy: the same words and drafts as token by token.

The drafter is the torch runtime's own decoder for a GPU, which runs here on the CPU as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import pytest

from app.captioner import Captioner, CaptionerSettings
from app.decoding.costs import Costs
from app.decoding.drafting import Drafter, PhaseThreads
from app.decoding.sampling import Sampler, Sampling
from app.gpu_checks.rig import HostEvents
from app.planning import measure_costs
from app.publishing.payloads import Clock, Origin, telemetry_payload
from app.telemetry.spans import SpanRecorder
from app.windows import Window
from models.bundle import VisionLanguageModel
from models.eventgpt import EventGPT
from models.runtimes.contract import Likeliest
from models.runtimes.torch_static import StaticTorchDecoder
from models.video_llava import VideoLlava
from tests.models.tiny import write_checkpoint

Pair = tuple[VisionLanguageModel, VisionLanguageModel]
SETTINGS = CaptionerSettings(max_new_tokens=24, drafter_span_us=500_000, guard=False)
SCHEDULES = [("speculative", None), *(("prefill_hiding", place) for place in ("lead", "serial", "overlap"))]
SCHEDULES += [(name, "overlap") for name in ("pearl", "amusd", "dsi", "ssd", "swiftspec")]


class Counting(StaticTorchDecoder):
    """Counts what it drafts by itself."""

    tokens = 0

    def greedy(self, first: int, length: int, count: int) -> Generator[Likeliest]:
        for each in super().greedy(first, length, count):
            self.tokens += 1
            yield each


@pytest.fixture(scope="module")
def pair(tiny_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The tiny pair, its drafter with weights and sizes as they are, on the torch runtime."""
    network = EventGPT.load(write_checkpoint(tmp_path_factory.mktemp("free") / "drafter", "drafter", 0))
    return replace(tiny_pair[0], decoder=Counting(network.decoder, tiny_pair[0].decoder.s_max)), tiny_pair[1]


@pytest.fixture(scope="module")
def costs(pair: Pair) -> Costs:
    return measure_costs(*pair, SETTINGS)


@pytest.mark.parametrize(("strategy", "placement"), SCHEDULES)
def test_every_strategy_says_what_the_target_alone_says(
    pair: Pair, tiny_window: Callable[..., Window], costs: Costs, strategy: str, placement: str | None
) -> None:
    said = {}
    drafter = pair[0].decoder
    assert isinstance(drafter, Counting)
    for name, place in (("autoregressive", None), (strategy, placement)):
        drafter.tokens = 0
        captioner = Captioner(*pair, replace(SETTINGS, strategy=name, placement=place), costs=costs)
        try:
            said[name] = []
            for number in range(4):
                if captioner.drafts_ahead:
                    captioner.draft_ahead(tiny_window(number, events=300))
                said[name].append(captioner.caption(tiny_window(number)).token_ids)
        finally:
            captioner.close()
    assert said[strategy] == said["autoregressive"]
    if strategy in ("speculative", "prefill_hiding", "ssd"):  # the others may be rolled back before their first
        assert drafter.tokens > 0


def drafted(model: VisionLanguageModel, pixels: np.ndarray, *, sampling: Sampling, free: bool) -> list[list[int]]:
    """A draft behind the prompt, one behind a text that parts from it, and one to the end of the cache."""
    drafter = Drafter(model, model.prompt(), PhaseThreads(1, 1, 1))
    if not free:
        drafter.sequence.greedy = lambda first, count: None  # type: ignore[method-assign]
    drafter.begin(pixels, SpanRecorder(), Sampler(sampling, 1))
    drafts = [list[int]() for _ in range(3)]
    drafter.draft(drafts[0], 9, lambda count, run: count < 7 or run > 0.9, SpanRecorder())
    drafter.synchronise([*drafts[0][:3], 11])
    drafter.draft(drafts[1], 5, lambda count, run: True, SpanRecorder())
    drafter.draft(drafts[2], 500, lambda count, run: True, recorder := SpanRecorder())
    assert {(span.name, span.lane) for span in recorder.spans} <= {("decode", "drafter")}
    return drafts


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 1.0, 3)], ids=["greedy", "sampled"])
def test_drafts_roll_backs_and_the_end_of_the_cache_are_the_same(pair: Pair, sampling: Sampling) -> None:
    decoder = pair[0].decoder
    assert isinstance(decoder, Counting)
    for seed in range(4):
        size = (pair[0].frames, 3, pair[0].image_size, pair[0].image_size)
        pixels = np.random.default_rng(seed).standard_normal(size, np.float32)
        expected = drafted(pair[0], pixels, sampling=sampling, free=False)
        decoder.tokens = 0
        assert drafted(pair[0], pixels, sampling=sampling, free=True) == expected
        assert (decoder.tokens > 0) == (sampling.temperature == 0)  # noise is the host's: then every token is a pass


def test_the_record_tells_when_the_device_was_busy_and_with_what(
    pair: Pair, tiny_window: Callable[..., Window], costs: Costs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = VideoLlava.load(write_checkpoint(tmp_path_factory.mktemp("timed") / "target", "target", 0))
    decoders = [pair[0].decoder, StaticTorchDecoder(network.decoder, pair[1].decoder.s_max)]
    models = [replace(model, decoder=decoder) for model, decoder in zip(pair, decoders, strict=True)]
    for decoder in decoders:
        assert isinstance(decoder, StaticTorchDecoder)
        decoder.clock.follow(HostEvents())
    captioner = Captioner(*models, replace(SETTINGS, placement="overlap"), costs=costs)
    try:
        captions = [captioner.caption(tiny_window(number)) for number in range(2)]
    finally:
        captioner.close()
    for caption in captions:
        for lane in ("drafter", "target"):
            host = [span for span in caption.spans if span.lane == lane and span.name != "encode"]
            device = [span for span in caption.spans if span.lane == f"{lane} gpu"]
            assert {span.name for span in device} == {span.name for span in host}
            assert sum(span.ms for span in device) <= sum(span.ms for span in host) + 1
        payload = telemetry_payload(caption, Origin("robot", "front", "0" * 12, Clock()))
        assert 0 <= payload["gpu_overlap_ms"] <= payload["overlap_ms"] + 1
