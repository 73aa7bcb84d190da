"""The study of streaming prefill: both ways caption every window, and the figures say whether they agree."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from app.bench import streaming
from app.bench.windows import BenchWindow
from app.captioner import CaptionerSettings
from app.planning import measure_costs
from app.windows import Window
from models.bundle import VisionLanguageModel

SETTINGS = CaptionerSettings(max_new_tokens=12, drafter_span_us=500_000, guard=False)


def test_both_ways_say_the_same_and_only_the_last_frame_is_left(
    tiny_pair: tuple[VisionLanguageModel, VisionLanguageModel], tiny_window: Callable[..., Window]
) -> None:
    windows = [BenchWindow(tiny_window(n), tiny_window(n, events=300)) for n in range(3)]
    costs = measure_costs(*tiny_pair, SETTINGS)
    found = streaming.measure(tiny_pair, SETTINGS, costs, windows)
    assert found is not None
    assert found == json.loads(json.dumps(found))
    assert (found["windows"], found["mismatches"], found["streamed_frames"]) == (3, 0, 7.0)
    assert found["ratio"] == pytest.approx(found["streaming_ms"]["p50"] / found["whole_ms"]["p50"])
    console = Console(file=io.StringIO(), width=100)
    console.print(streaming.streaming_table(found))
    assert "yes, " in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_target_that_attends_over_time_has_no_such_study(
    tiny_pair: tuple[VisionLanguageModel, VisionLanguageModel],
) -> None:
    original = replace(tiny_pair[1], manifest={**tiny_pair[1].manifest, "network": "llava"})
    costs = measure_costs(*tiny_pair, SETTINGS)
    assert streaming.measure((tiny_pair[0], original), SETTINGS, costs, []) is None
