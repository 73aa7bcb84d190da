"""The demo street: same seed same bytes, event physics, captions that read back, truth that fits the picture."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.demo.world.captions import WORDINGS, caption, wording_for
from models.demo.world.dataset import frame_instants, windows
from models.demo.world.events import EventModel, EventSimulator
from models.demo.world.geometry import HEIGHT, WIDTH
from models.demo.world.parsing import attributes, parse
from models.demo.world.scene import Scene
from models.demo.world.simulator import Chunk, Simulator
from models.demo.world.truth import ObjectTruth, SceneTruth
from models.demo.world.vocabulary import COLOURS, DIRECTIONS, DISTANCES, KINDS, is_held_out

_IDEAL = EventModel(threshold=0.2, mismatch=0.0, refractory_us=0, noise_hz=0.0, dark_level=0.0)

_moving = st.builds(
    ObjectTruth,
    kind=st.sampled_from(KINDS),
    colour=st.sampled_from(COLOURS),
    distance=st.sampled_from(DISTANCES),
    direction=st.sampled_from(DIRECTIONS),
    speed=st.sampled_from(["fast", "slow"]),
)
_standing = st.builds(
    ObjectTruth,
    kind=st.sampled_from(KINDS),
    colour=st.sampled_from(COLOURS),
    distance=st.sampled_from(DISTANCES),
    direction=st.none(),
    speed=st.just("standing"),
)
_scenes = st.lists(_moving | _standing, max_size=2).map(lambda things: SceneTruth(tuple(things)))


def _run(seed: int, steps: int) -> list[Chunk]:
    simulator = Simulator(seed)
    return [next(simulator) for _ in range(steps)]


def test_same_seed_same_bytes_whatever_is_asked_in_between() -> None:
    curious = Simulator(5)
    for end_us in (9_000_000, 3_000_000):
        curious.truth(end_us - 1_000_000, end_us)
    for once, again in zip(_run(5, 25), curious, strict=False):
        assert once.events.tobytes() == again.events.tobytes()
        assert (once.frame is None) == (again.frame is None)
        if once.frame and again.frame:
            assert once.frame.pixels.tobytes() == again.frame.pixels.tobytes()
    assert Simulator(5).truth(8_000_000, 9_000_000) == curious.truth(8_000_000, 9_000_000)


def test_different_seeds_differ() -> None:
    first, second = (_run(seed, 2)[1].events for seed in (1, 2))
    assert first.tobytes() != second.tobytes()


def test_chunks_hold_sorted_events_of_their_own_time_and_the_sensor() -> None:
    chunks = _run(3, 60)
    assert [chunk.start_us for chunk in chunks] == list(range(0, 600_000, 10_000))
    assert [chunk.frame.t_us for chunk in chunks if chunk.frame] == list(range(0, 600_000, 100_000))
    assert sum(len(chunk.events) for chunk in chunks) > 5_000
    for chunk in chunks:
        t = chunk.events["t"]
        assert (np.diff(t) >= 0).all()
        assert ((t >= chunk.start_us) & (t < chunk.end_us)).all()
        assert ((chunk.events["x"] >= 0) & (chunk.events["x"] < WIDTH)).all()
        assert ((chunk.events["y"] >= 0) & (chunk.events["y"] < HEIGHT)).all()
        assert (chunk.events["p"] <= 1).all()


@given(thresholds=st.integers(1, 12), rising=st.booleans())
@settings(max_examples=24, deadline=None)
def test_a_step_of_k_thresholds_gives_k_evenly_timed_events(thresholds: int, rising: bool) -> None:
    sensor = EventSimulator(np.random.default_rng(0), _IDEAL)
    sensor.step(0, _flat(1.0))
    # A hundredth more than k thresholds, so that rounding cannot decide about the last one.
    level = (1 if rising else -1) * 0.2 * (thresholds + 0.01)
    events = sensor.step(12_000, _flat(np.exp(level)))
    assert len(events) == 16 * thresholds
    assert (events["p"] == rising).all()
    expected = np.repeat(12_000 * np.arange(1, thresholds + 1) / (thresholds + 0.01), 16)
    assert np.abs(events["t"] - expected).max() <= 2
    assert len(sensor.step(24_000, _flat(np.exp(level)))) == 0


def test_small_changes_add_up_to_a_threshold() -> None:
    sensor = EventSimulator(np.random.default_rng(0), _IDEAL)
    counts = [len(sensor.step(1_000 * i, _flat(np.exp(0.09 * i)))) for i in range(6)]
    assert counts == [0, 0, 0, 16, 0, 16]


def test_refractory_pixels_keep_silent_but_follow_the_light() -> None:
    model = EventModel(threshold=0.2, mismatch=0.0, refractory_us=20_000, noise_hz=0.0, dark_level=0.0)
    sensor = EventSimulator(np.random.default_rng(0), model)
    sensor.step(0, _flat(1.0))
    assert len(sensor.step(10_000, _flat(np.exp(1.0)))) == 16
    assert len(sensor.step(40_000, _flat(np.exp(1.0)))) == 0


def test_noise_has_the_asked_rate() -> None:
    model = EventModel(noise_hz=2.0, mismatch=0.0)
    sensor = EventSimulator(np.random.default_rng(0), model)
    image = np.full((100, 100), 0.5, np.float32)
    sensor.step(0, image)
    assert len(sensor.step(1_000_000, image)) == pytest.approx(20_000, rel=0.05)


def _flat(value: float) -> NDArray[np.float32]:
    return np.full((4, 4), value, np.float32)


@given(truth=_scenes, wording=st.integers(0, len(WORDINGS) - 1))
@settings(max_examples=150, deadline=None)
def test_captions_read_back_in_every_wording(truth: SceneTruth, wording: int) -> None:
    assert parse(caption(truth, wording)) == attributes(truth)
    assert parse(caption(truth)) == attributes(truth)


@given(truth=_scenes)
@settings(max_examples=100, deadline=None)
def test_the_wording_depends_on_the_first_kind_and_distance_alone(truth: SceneTruth) -> None:
    if truth.objects:
        first = truth.objects[0]
        plain = ObjectTruth(first.kind, "red", first.distance, None, "standing")
        assert wording_for(truth) == wording_for(SceneTruth((plain,)))
    assert 0 <= wording_for(truth) < len(WORDINGS)


@given(
    text=st.text(max_size=200) | st.lists(st.sampled_from(caption(SceneTruth(())).split() + list(KINDS))).map(" ".join)
)
@settings(max_examples=100, deadline=None)
def test_parsing_takes_any_text(text: str) -> None:
    for thing in parse(text):
        assert thing["kind"] in KINDS


def test_captions_have_a_sensible_length_and_often_change() -> None:
    changed, lengths = [], []
    for seed in range(8):
        simulator = Simulator(seed)
        texts = [caption(simulator.truth(k * 1_000_000, (k + 1) * 1_000_000)) for k in range(20)]
        changed += [before != after for before, after in pairwise(texts)]
        lengths += [len(text.split()) for text in texts]
    assert np.mean(changed) >= 0.4
    assert min(lengths) >= 18
    assert np.quantile(lengths, 0.95) <= 40


def test_truth_directions_fit_the_pixels() -> None:
    checked = dict.fromkeys(DIRECTIONS, 0)
    right = dict.fromkeys(DIRECTIONS, 0)
    for seed in range(300, 318):
        scene, simulator = _SceneAndStage(seed), Simulator(seed)
        for end_us in range(1_000_000, 16_000_000, 500_000):
            truth = simulator.truth(end_us - 1_000_000, end_us)
            if truth != simulator.truth(end_us - 1_000_000, end_us - 150_000) or len(truth.objects) != 1:
                continue
            direction = truth.objects[0].direction
            before, after = scene.outline(end_us - 300_000), scene.outline(end_us)
            if direction is None or before is None or after is None:
                continue
            (x0, foot0), (x1, foot1) = before, after
            fits = {"left": x1 < x0, "right": x1 > x0, "toward": foot1 > foot0, "away": foot1 < foot0}
            checked[direction] += 1
            right[direction] += fits[direction]
    assert all(count >= 5 for count in checked.values()), checked
    assert all(right[direction] >= 0.95 * checked[direction] for direction in DIRECTIONS), (right, checked)


class _SceneAndStage:
    """A scene beside the same scene without objects: their difference shows where the objects are."""

    def __init__(self, seed: int) -> None:
        self._scene = Scene(seed)
        self._stage = Scene(seed)
        self._stage.traffic.at = lambda t_us: []  # type: ignore[method-assign]

    def outline(self, t_us: int) -> tuple[float, int] | None:
        """Centre column (in the street) and lowest row of the one object; None unless it is alone and whole."""
        boxes = self._scene.boxes(t_us)
        if len(boxes) != 1 or boxes[0].left < 0 or boxes[0].right > WIDTH or boxes[0].bottom > HEIGHT - 6:
            return None
        mask = np.abs(self._scene.luminance(t_us) - self._stage.luminance(t_us)) > 0.04
        rows, columns = np.nonzero(mask)
        assert boxes[0].left - 8 <= columns.min()
        assert columns.max() <= boxes[0].right + 8
        return float((columns.min() + columns.max()) / 2) + self._scene.camera.pan(t_us), int(rows.max())


def test_training_never_sees_held_out_combinations_and_the_unseen_mix_does() -> None:
    for mix, least, most in (("seen", 0.0, 0.0), ("unseen", 0.3, 1.0)):
        moving = []
        for seed in range(6):
            simulator = Simulator(seed, mix)  # type: ignore[arg-type]
            for k in range(20):
                things = simulator.truth(k * 1_000_000, (k + 1) * 1_000_000).objects
                moving += [is_held_out(o.kind, o.colour, o.direction) for o in things if o.direction]
        assert least <= np.mean(moving) <= most


def test_windows_are_cut_as_the_runtime_cuts_them() -> None:
    samples = list(windows(7, 2.0, hop_us=500_000, drafter_span_us=400_000))
    assert [sample.end_us for sample in samples] == [1_000_000, 1_500_000, 2_000_000]
    for sample in samples:
        assert sample.frames.shape == (8, HEIGHT, WIDTH, 3)
        assert sample.frames.dtype == np.uint8
        assert np.abs(sample.frames_us - frame_instants(sample.start_us, sample.end_us)).max() <= 50_000
        assert (np.diff(sample.frames_us) > 0).all()
        assert (sample.events["t"] >= sample.end_us - 400_000).all()
        assert (sample.events["t"] < sample.end_us).all()
        assert (np.diff(sample.events["t"]) >= 0).all()
        assert len(sample.tracks) == len(sample.tracks_us) == 21
        assert set(sample.frames_us) <= set(sample.tracks_us)


def test_nearest_comes_first_and_memory_does_not_grow() -> None:
    scene = Scene(11)
    for t_us in range(0, 160_000_000, 1_000_000):
        scales = [box.scale for box in scene.boxes(t_us)]
        assert scales == sorted(scales, reverse=True)
        scene.forget_before(t_us)
    assert sum(len(lane._actors) for lane in scene.traffic._lanes) < 60


def test_frame_period_must_be_whole_steps() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        Simulator(0, step_us=30_000)
