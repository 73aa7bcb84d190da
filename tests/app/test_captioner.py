"""The captioner on a real pair: every strategy says what the target alone says, and says how it got there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.captioner import Captioner, CaptionerSettings
from app.decoding import plan_cache
from app.decoding.costs import Costs
from app.decoding.sampling import Sampling
from app.pair import check_pair
from app.planning import measure_costs
from app.windows import Window
from models.bundle import ModelError, VisionLanguageModel

Pair = tuple[VisionLanguageModel, VisionLanguageModel]
SETTINGS = CaptionerSettings(max_new_tokens=24, drafter_span_us=500_000, guard=False)
SCHEDULES = [("speculative", None)] + [("prefill_hiding", place) for place in ("lead", "serial", "overlap")]
SCHEDULES += [(name, "overlap") for name in ("pearl", "amusd", "dsi", "ssd", "swiftspec")]


@pytest.fixture(scope="module")
def costs(tiny_pair: Pair) -> Costs:
    return measure_costs(*tiny_pair, SETTINGS)


@pytest.fixture(scope="module")
def alone(tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs) -> list[tuple[int, ...]]:
    captioner = Captioner(*tiny_pair, replace(SETTINGS, strategy="autoregressive"), costs=costs)
    try:
        return [captioner.caption(tiny_window(number)).token_ids for number in range(12)]
    finally:
        captioner.close()


def test_the_target_alone_says_what_one_full_pass_over_its_text_says(
    tiny_pair: Pair, tiny_window: Callable[..., Window], alone: list[tuple[int, ...]]
) -> None:
    target = tiny_pair[1]
    prompt = target.prompt(SETTINGS.question)
    for number, tokens in enumerate(alone[:4]):
        pixels = target.pixels_from_frames([f.frame.image for f in tiny_window(number).frames])
        embed = target.decoder.embed
        rows = [embed(prompt.head), target.vision.encode(pixels, 1), embed(prompt.tail), embed(np.array(tokens))]
        text = np.concatenate(rows)
        wanted = np.arange(len(prompt) - 1, len(text), dtype=np.int64)
        picks = target.decoder.forward(text, 0, wanted, 1).argmax(-1)
        assert tuple(picks[: len(tokens)]) == tokens


@pytest.mark.parametrize(("strategy", "placement"), SCHEDULES)
def test_every_strategy_is_lossless(
    tiny_pair: Pair,
    tiny_window: Callable[..., Window],
    costs: Costs,
    alone: list[tuple[int, ...]],
    strategy: str,
    placement: str | None,
) -> None:
    settings = replace(SETTINGS, strategy=strategy, placement=placement)
    captioner = Captioner(*tiny_pair, settings, costs=costs)
    try:
        for number, expected in enumerate(alone):
            if captioner.drafts_ahead:
                captioner.draft_ahead(tiny_window(number, events=300))
            caption = captioner.caption(tiny_window(number))
            assert caption.token_ids == expected
            assert caption.stats.placement == placement
    finally:
        captioner.close()


@pytest.mark.parametrize(("strategy", "placement"), SCHEDULES)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 0.9, seed=4)], ids=["greedy", "sampled"])
def test_captions_that_come_back_are_proposed_as_trees_and_the_words_stay_the_targets(
    tiny_pair: Pair,
    tiny_window: Callable[..., Window],
    costs: Costs,
    strategy: str,
    placement: str | None,
    sampling: Sampling,
) -> None:
    """The same seed says the same in every strategy, and scenes that alternate make histories that branch."""
    numbers = [0, 1, 0, 0, 2, 1, 0]
    free = replace(costs, fused_tree_ms=0.0, verify_tree_ms=0.0)
    said, trees = {}, 0
    for name, place in (("autoregressive", None), (strategy, placement)):
        captioner = Captioner(
            *tiny_pair, replace(SETTINGS, strategy=name, placement=place, sampling=sampling), costs=free
        )
        try:
            captions = [captioner.caption(tiny_window(number)) for number in numbers]
        finally:
            captioner.close()
        said[name] = [caption.token_ids for caption in captions]
        trees = sum(caption.stats.num_draft_tokens > sum(caption.stats.drafted_per_position) for caption in captions)
        assert all(np.isfinite(caption.mean_logprob) for caption in captions)
    assert said[strategy] == said["autoregressive"]
    if strategy == "prefill_hiding":
        assert trees


def test_the_history_alone_needs_no_drafter(
    tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs, alone: list[tuple[int, ...]]
) -> None:
    captioner = Captioner(*tiny_pair, replace(SETTINGS, sources=("history",)), costs=costs)
    try:
        captions = [captioner.caption(tiny_window(number)) for number in (3, 3, 4)]
        other = captioner.caption(tiny_window(4), camera="another")
    finally:
        captioner.close()
    assert not captioner.drafts_ahead
    assert [caption.token_ids for caption in captions] == [alone[3], alone[3], alone[4]]
    assert not any(span.lane == "drafter" for caption in captions for span in caption.spans)
    assert captions[1].stats.num_spec_steps == 1  # the whole caption, in the pass that ended the prefill
    assert captions[1].stats.accepted_hidden_tokens >= len(alone[3]) - 1
    assert other.stats.num_draft_tokens == 0  # cameras do not hear each other


def test_a_caption_shows_its_draft_its_stages_and_where_each_token_came_from(
    tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs
) -> None:
    captioner = Captioner(*tiny_pair, replace(SETTINGS, placement="serial"), costs=costs)
    drafts: list[str] = []
    captioner.on_draft = lambda window, text: drafts.append(text)
    try:
        caption = captioner.caption(tiny_window(3))
    finally:
        captioner.close()
    assert drafts == [caption.draft_text]
    assert caption.text == captioner.target.tokenizer.decode(caption.token_ids).strip()
    assert [t.id for t in caption.tokens if t.origin != "rejected"] == list(caption.token_ids)
    stages = {(span.lane, span.name) for span in caption.spans}
    assert stages >= {("host", "preprocess"), ("drafter", "encode"), ("drafter", "prefill"), ("target", "prefill")}
    assert all(caption.started_ns <= span.start_ns <= span.end_ns <= caption.finished_ns for span in caption.spans)
    assert caption.mean_logprob < 0


def test_a_draft_ahead_of_another_window_is_not_used(
    tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs, alone: list[tuple[int, ...]]
) -> None:
    captioner = Captioner(*tiny_pair, replace(SETTINGS, placement="lead"), costs=costs)
    try:
        captioner.draft_ahead(tiny_window(7))
        caption = captioner.caption(tiny_window(2))
        captioner.draft_ahead(tiny_window(2), camera="front")
        of_another_camera = captioner.caption(tiny_window(2), camera="rear")
    finally:
        captioner.close()
    assert caption.token_ids == of_another_camera.token_ids == alone[2]
    assert caption.stats.placement != "lead"
    assert of_another_camera.stats.placement != "lead"


def test_a_schedule_put_in_place_of_another_drafts_ahead_where_it_is_told_to(tiny_pair: Pair, costs: Costs) -> None:
    captioner = Captioner(*tiny_pair, SETTINGS, costs=costs)
    assert captioner.drafts_ahead
    captioner.use("prefill_hiding", "serial")
    assert not captioner.drafts_ahead
    captioner.use("prefill_hiding", "lead")
    assert captioner.drafts_ahead
    captioner.close()


def test_overlap_shows_both_models_at_work_at_once(
    tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs
) -> None:
    """Hidden tokens are those drafted by the time the target's last chunk starts; the spans prove it."""
    captioner = Captioner(*tiny_pair, replace(SETTINGS, placement="overlap"), costs=costs)
    try:
        caption = captioner.caption(tiny_window(5))
    finally:
        captioner.close()
    prefill = [span for span in caption.spans if span.lane == "target" and span.name == "prefill"]
    assert len(prefill) == 2
    assert prefill[0].detail["tokens"] + prefill[1].detail["tokens"] >= len(captioner.prompts[1]) - 3  # type: ignore[operator]


def test_a_window_without_frames_is_refused(tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs) -> None:
    captioner = Captioner(*tiny_pair, SETTINGS, costs=costs)
    with pytest.raises(ValueError, match="without frames"):
        captioner.caption(tiny_window(0, frames=0))
    captioner.close()


def test_a_still_scene_has_a_caption(tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs) -> None:
    captioner = Captioner(*tiny_pair, replace(SETTINGS, placement="serial"), costs=costs)
    assert captioner.caption(tiny_window(0, events=0)).token_ids
    captioner.close()


def test_two_models_without_a_shared_vocabulary_are_refused(tiny_pair: Pair) -> None:
    drafter, target = tiny_pair
    with pytest.raises(ModelError, match="do not share a vocabulary"):
        check_pair(replace(drafter, eos_id=7), target)


def test_a_prompt_that_does_not_fit_is_refused(tiny_pair: Pair, costs: Costs) -> None:
    with pytest.raises(ModelError, match="cache of 160"):
        Captioner(*tiny_pair, replace(SETTINGS, max_new_tokens=150), costs=costs)


def test_the_calibration_is_kept_between_runs(tiny_pair: Pair, tmp_path: Path) -> None:
    first = Captioner(*tiny_pair, SETTINGS, cache=tmp_path)
    first.close()
    (file,) = tmp_path.iterdir()
    assert not first.calibration_cached
    assert plan_cache.load(file) == first.costs
    file.write_text("{torn")
    assert plan_cache.load(file) is None
