"""Two captioners that take turns on the same models: neither goes on from what the other left in a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.captioner import Captioner, CaptionerSettings
from app.decoding.costs import Costs
from app.decoding.model import CachedSequence
from app.planning import measure_costs
from app.windows import Window
from models.bundle import VisionLanguageModel

Pair = tuple[VisionLanguageModel, VisionLanguageModel]
SETTINGS = CaptionerSettings(max_new_tokens=16, drafter_span_us=500_000, guard=False)


@pytest.fixture(scope="module")
def costs(tiny_pair: Pair) -> Costs:
    return measure_costs(*tiny_pair, SETTINGS)


@pytest.fixture
def captioner(tiny_pair: Pair, costs: Costs) -> Captioner:
    return Captioner(*tiny_pair, SETTINGS, costs=costs)


def test_neither_takes_the_others_rows_for_its_prompts_head(
    tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs, captioner: Captioner
) -> None:
    said = [captioner.caption(tiny_window(number)).token_ids for number in range(3)]
    other = Captioner(*tiny_pair, replace(SETTINGS, strategy="speculative"), costs=costs)
    for model, sequence in zip(tiny_pair, (other.engine.drafter.sequence, other.engine.target), strict=True):
        sequence.open((model.bos_id, 7, 9, 11))  # another system sentence
        sequence.feed(4, 1)
    assert [captioner.caption(tiny_window(number)).token_ids for number in range(3)] == said
    assert [other.caption(tiny_window(number)).token_ids for number in range(3)] == said
    captioner.close()
    other.close()


def test_a_measurement_in_between_is_no_prompt_either(
    tiny_pair: Pair, tiny_window: Callable[..., Window], captioner: Captioner
) -> None:
    said = captioner.caption(tiny_window(0)).token_ids
    measure_costs(*tiny_pair, SETTINGS)
    assert captioner.caption(tiny_window(0)).token_ids == said
    captioner.close()


def test_frames_that_were_prefilled_ahead_are_gone_when_another_takes_the_cache(
    tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs, captioner: Captioner
) -> None:
    window = tiny_window(0)
    said = captioner.caption(window).token_ids
    partial = replace(window, frames=window.frames[:-1], partial=True)
    other = Captioner(*tiny_pair, SETTINGS, costs=costs)

    captioner.ahead(partial)
    assert captioner.caption(window).stats.streamed_frames == len(partial.frames)
    captioner.ahead(partial)
    other.caption(tiny_window(1))
    again = captioner.caption(window)
    assert again.token_ids == said
    assert again.stats.streamed_frames == 0
    captioner.close()
    other.close()


def test_a_head_stays_cached_while_nobody_else_has_the_cache(tiny_pair: Pair) -> None:
    target = tiny_pair[1]
    sequence, other = CachedSequence(target), CachedSequence(target)
    for _ in range(2):
        sequence.open((1, 2, 3))
        assert sequence.unfed == 3
        sequence.feed(3, 1)
        sequence.open((1, 2, 3))
        assert sequence.unfed == 0
        other.open((1, 2, 3))
