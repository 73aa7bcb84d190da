"""The benchmark's own arithmetic, and its lanes on a tiny real pair."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from app.bench import quality, render
from app.bench.injected import InjectedDrafter
from app.bench.report import eta, strategy_figures
from app.bench.strategies import Lane, first_difference, run_lanes
from app.bench.windows import BenchWindow
from app.captioner import Captioner, CaptionerSettings, measure_costs
from app.decoding.costs import Costs
from app.decoding.strategies import make_strategy
from app.windows import Window
from models.bundle import VisionLanguageModel
from models.demo.world.truth import ObjectTruth, SceneTruth
from tests.app.decoding.toy import EOS, make_engine, scene

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


def test_every_lane_equals_the_target_alone_and_the_figures_are_json(
    tiny_pair: Pair, tiny_window: Callable[..., Window], costs: Costs
) -> None:
    lanes = [
        Lane("autoregressive", "autoregressive", None, costs),
        Lane("speculative", "speculative", None, costs),
        Lane("lead", "prefill_hiding", "lead", costs, guard=False),
        Lane("injected", "prefill_hiding", "lead", costs, injected_alpha=1.0),
    ]
    windows = [BenchWindow(tiny_window(n), tiny_window(n, events=300)) for n in range(3)]
    run_lanes(lanes, tiny_pair, SETTINGS, windows, lambda: None)
    figures = {lane.name: strategy_figures(lane, lanes[0]) for lane in lanes}
    assert all(row["lossless"] and row["windows"] == 3 for row in json.loads(json.dumps(figures)).values())
    assert figures["autoregressive"]["eta"] == pytest.approx(0.0)
    assert figures["injected"]["alpha_injected"] == 1.0
    assert figures["lead"]["placement"] == "lead"


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
    assert eta(lane, lane) == pytest.approx(0.0)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_an_injected_acceptance_rate_is_what_the_drafter_then_has(alpha: float) -> None:
    engine = make_engine(vocabulary=28, placement="serial", draft_tokens=8, eos_bias=-9.0)
    alone = make_strategy("autoregressive", engine)
    plain = engine.drafter
    engine.drafter = drafter = InjectedDrafter(plain.model, plain.prompt, plain.threads)
    drafter.alpha = alpha
    hiding = make_strategy("prefill_hiding", engine)
    hits = trials = 0
    for number in range(40):
        said = alone.run(scene(number))[0].tokens
        drafter.truth, drafter.seed = (*said, EOS), number
        transcript, _ = hiding.run(scene(number))
        assert transcript.tokens == said
        hits, trials = hits + transcript.num_accepted, trials + transcript.trials
    engine.close()
    assert hits / trials == pytest.approx(alpha, abs=0.08)


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
