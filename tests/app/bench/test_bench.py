"""The benchmark's own arithmetic, and its lanes on a tiny real pair."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from app.bench import quality, render
from app.bench.agreement import caption_cases
from app.bench.figures import eta, guard_figures, history_figures, strategy_figures
from app.bench.injected import scripted
from app.bench.lanes import Lane, first_difference, run_lanes
from app.bench.python_cost import microseconds_a_pass
from app.bench.studies import ablation_lanes, placement_lanes, strategy_lanes
from app.bench.windows import BenchWindow, make_windows, record_street
from app.captioner import Captioner, CaptionerSettings
from app.decoding.costs import Costs
from app.decoding.strategies import STRATEGIES
from app.planning import measure_costs
from app.records import Caption
from app.sensors.contract import SourceInfo
from app.windower import Windower
from app.windows import Window
from models.bundle import VisionLanguageModel
from models.demo.world.truth import ObjectTruth, SceneTruth

Pair = tuple[VisionLanguageModel, VisionLanguageModel]
SETTINGS = CaptionerSettings(max_new_tokens=16, drafter_span_us=500_000)


@pytest.fixture(scope="module")
def costs(tiny_pair: Pair) -> Costs:
    return measure_costs(*tiny_pair, SETTINGS)


@pytest.mark.parametrize(
    ("a", "b", "place"), [([1, 2], [1, 2], None), ([1, 2], [1, 3], 1), ([1], [1, 2], 1), ([], [], None), ([], [4], 0)]
)
def test_first_difference(a: list[int], b: list[int], place: int | None) -> None:
    assert first_difference(a, b) == place


@pytest.fixture(scope="module")
def bench_windows(tiny_window: Callable[..., Window]) -> list[BenchWindow]:
    return [BenchWindow(tiny_window(n), tiny_window(n, events=300)) for n in range(3)]


def test_every_strategy_and_source_equals_the_target_alone_and_the_figures_are_json(
    tiny_pair: Pair, bench_windows: list[BenchWindow], costs: Costs
) -> None:
    lanes = [
        *strategy_lanes(tuple(STRATEGIES), costs),
        *placement_lanes(costs),
        *ablation_lanes(costs),
    ]
    run_lanes(lanes, tiny_pair, SETTINGS, bench_windows, lambda: None)
    cases = caption_cases(tiny_pair[0], lanes[0].captions, SETTINGS.drafter_span_us, 1)
    figures = json.loads(json.dumps({lane.name: strategy_figures(lane, lanes[0], cases) for lane in lanes}))
    assert [lane.strategy for lane in lanes[: len(STRATEGIES)]] == list(STRATEGIES)
    assert all(row["lossless"] and row["windows"] == 3 and row["ties"] == 0 for row in figures.values())
    assert all(row["predicted_ms"] > 0 for row in figures.values())
    assert figures["autoregressive"]["eta"] == pytest.approx(0.0)
    assert figures["autoregressive"]["ratio"] == 1.0
    assert figures["prefill_hiding lead"]["placement"] == "lead"
    assert figures["history"]["placement"] is None


def test_a_caption_that_differs_beyond_a_tie_is_not_lossless(
    tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs
) -> None:
    lane = Lane("autoregressive", "autoregressive", None, costs)
    run_lanes([lane], tiny_pair, SETTINGS, [BenchWindow(tiny_window(1), None)], lambda: None)
    other = Lane("other", "autoregressive", None, costs, captions=lane.captions, mismatches=[(0, 0.5)])
    tie = Lane("tie", "autoregressive", None, costs, captions=lane.captions, mismatches=[(0, 5e-5)])
    assert not strategy_figures(other, lane)["lossless"]
    assert strategy_figures(tie, lane)["lossless"]
    assert strategy_figures(tie, lane)["ties"] == 1


def test_eta_is_the_share_of_what_can_be_gained() -> None:
    assert eta(80.0, 100.0, 60.0) == pytest.approx(0.5)
    assert eta(100.0, 100.0, 60.0) == 0.0
    assert eta(1.0, 60.0, 60.0) is None


def test_the_drafter_s_view_of_a_caption_is_its_rank_of_each_token(
    tiny_pair: Pair, bench_windows: list[BenchWindow], costs: Costs
) -> None:
    """A drafter that is told what the target says (α = 1) ranks every token first; one that never agrees, none."""
    alone = Lane("autoregressive", "autoregressive", None, costs)
    run_lanes([alone], tiny_pair, SETTINGS, bench_windows, lambda: None)
    for alpha in (1.0, 0.0):
        drafter = scripted(tiny_pair[0], SETTINGS.question, alpha, 0.1, costs)
        for number, caption in enumerate(alone.captions):
            said = (*caption.token_ids, drafter.eos_id)
            drafter.decoder.tell(said, number)  # type: ignore[attr-defined]
            (case,) = caption_cases(drafter, [caption], SETTINGS.drafter_span_us, 1)
            assert len(case.ranks) == len(said)
            assert case.repeated == 0
            if max(said) < drafter.vocabulary:  # an id of the target's own has no rank
                assert set(case.ranks) == {0} if alpha else min(case.ranks) > 0
    twice = caption_cases(tiny_pair[0], [alone.captions[0]] * 2, SETTINGS.drafter_span_us, 1)
    assert twice[1].repeated == len(twice[1].ranks)


def caption_of(caption: Caption, tokens: tuple[int, ...], ms: float) -> Caption:
    return replace(caption, token_ids=tokens, finished_ns=caption.started_ns + int(ms * 1e6))


def test_repeated_and_changed_captions_are_told_apart_and_the_guard_is_judged_before_and_after_ten(
    tiny_pair: Pair, bench_windows: list[BenchWindow], costs: Costs
) -> None:
    alone = Lane("autoregressive", "autoregressive", None, costs)
    run_lanes([alone], tiny_pair, SETTINGS, bench_windows[:1], lambda: None)
    one, floor = alone.captions[0], alone.prefill_ms[0]
    alone.captions = [caption_of(one, tokens, 2 * floor) for tokens in ((1,), (1,), (2,), (2,), (2,))]
    times = (1.5, 1.1, 1.6, 1.1, 1.1)
    hiding = Lane("h", "prefill_hiding", None, costs)
    hiding.captions = [caption_of(one, c.token_ids, t * floor) for c, t in zip(alone.captions, times, strict=True)]
    found = history_figures(hiding, alone)
    assert found["repeated"] == {"windows": 3, "floor_ratio": pytest.approx(1.1, rel=1e-3)}
    assert found["changed"] == {"windows": 2, "floor_ratio": pytest.approx(1.55, rel=1e-3)}

    alone.captions = [caption_of(one, (1,), 100.0)] * 12
    noise = Lane("n", "pearl", None, costs, captions=[caption_of(one, (1,), 110.0)] * 10)
    noise.captions += [caption_of(one, (1,), 102.0)] * 2
    guard = guard_figures([noise], alone)
    assert guard["first_10"] == pytest.approx(1.1)
    assert guard["after_10"] == pytest.approx(1.02)
    short = guard_figures([Lane("n", "pearl", None, costs, captions=noise.captions[:3])], alone)
    assert short["after_10"] is None


def test_a_run_on_windows_of_a_recording_takes_streets_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def windower(info: SourceInfo, lead_us: int) -> Windower:
        return Windower(1_000_000, 1_000_000, 8, lead_us, resolution=info.resolution)

    path = tmp_path / "two.aedat4"
    record_street(path, 1, 2.0)
    monkeypatch.setattr("app.bench.windows.SECONDS", 2.0)  # one window of a street is taken
    found = asyncio.run(make_windows(3, windower, 100_000, lambda n: None, path))
    assert [window.closed.index for window in found] == [0, 1, 0]
    assert all(window.partial is not None and window.partial.partial for window in found)


def test_the_loop_that_rendering_is_compared_with_draws_the_same() -> None:
    from app.bench.render import EVENTS, HEIGHT, WIDTH, _loop
    from models.event_frames import render as ours

    random = np.random.default_rng(1)
    x, y = random.integers(0, WIDTH, EVENTS).astype(np.int16), random.integers(0, HEIGHT, EVENTS).astype(np.int16)
    p = random.integers(0, 2, EVENTS).astype(np.uint8)
    assert np.array_equal(_loop(x, y, p), ours(x, y, p, slices=5, resolution=(WIDTH, HEIGHT)))
    assert set(render.measure()) == {"ms", "ratio_to_loop"}


def test_unseen_windows_hold_a_combination_that_training_never_saw() -> None:
    from models.demo.world.vocabulary import is_held_out

    (sample,) = quality.samples("unseen", 1, 400_000)
    assert any(is_held_out(thing.kind, thing.colour, thing.direction) for thing in sample.truth.objects)


def test_quality_of_a_pair_that_knows_nothing(tiny_pair: Pair, costs: Costs) -> None:
    settings = CaptionerSettings(strategy="autoregressive", max_new_tokens=16, drafter_span_us=400_000)
    captioner = Captioner(*tiny_pair, settings, costs=costs)
    try:
        seen = quality.measure(captioner, "seen", 4, lambda: None)
        unseen = quality.measure(captioner, "unseen", 1, lambda: None)
    finally:
        captioner.close()
    found = json.loads(json.dumps(quality.figures(seen, unseen)))
    assert found["windows"] == 4
    assert found["target"]["attributes"] == 0.0
    assert 0 <= found["alpha"] <= 1
    assert len(found["calibration"]) == 4


def test_the_truth_of_a_scene_without_objects_asks_for_nothing() -> None:
    nothing, something = quality.Quality(), quality.Quality()
    nothing.target.add("Nothing.", SceneTruth(()))
    something.target.add("A dog.", SceneTruth((ObjectTruth("dog", "red", "near", None, "standing"),)))
    assert nothing.target.share() is None
    assert something.target.by_attribute()["kind"] == 1.0


def test_our_own_code_costs_a_forward_pass_some_microseconds_and_leaves_the_runtime_as_it_was(
    tiny_pair: Pair, bench_windows: list[BenchWindow], costs: Costs
) -> None:
    session_run = ort.InferenceSession.run_with_iobinding
    found = microseconds_a_pass(("autoregressive", "pearl"), tiny_pair, SETTINGS, costs, bench_windows)
    assert set(found) == {"autoregressive", "pearl"}
    assert all(cost > 0 for cost in found.values())
    assert ort.InferenceSession.run_with_iobinding is session_run
