"""Streaming prefill fills the target's cache with what whole-window prefill would, whatever comes in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from app.decoding.model import CachedSequence
from app.decoding.streaming_prefill import StreamingPrefill
from models.bundle import VisionLanguageModel
from models.prompts import Prompt
from models.runtimes.contract import Floats

FRAMES = 8
BOUND = 1e-5  # of the largest logit, as for the contract's own chunks

Scene = tuple[list[object], Floats]  # what names each frame, pixels [frames, 3, S, S]


class Rig:
    """The target of the tiny pair and one streaming prefill into its cache."""

    def __init__(self, target: VisionLanguageModel) -> None:
        self.target = target
        self.prompt: Prompt = target.prompt()
        self.sequence = CachedSequence(target)
        self.streaming = StreamingPrefill(self.sequence)
        self.encoded: list[int] = []

    def scene(self, seed: int) -> Scene:
        random = np.random.default_rng(seed)
        images = [random.integers(0, 255, (40, 60, 3), np.uint8) for _ in range(FRAMES)]
        return [object() for _ in images], self.target.pixels_from_frames(images)

    def stream(
        self, scene: Scene, count: int, preempted: Callable[[], bool] = lambda: False, prompt: Prompt | None = None
    ) -> None:
        names, pixels = scene

        def shown(place: int) -> Floats:
            self.encoded.append(place)
            return pixels[place : place + 1]

        self.streaming.extend(prompt or self.prompt, names[:count], shown, (1, 1), preempted)

    def finish(self, scene: Scene, drafts: Sequence[int] = ()) -> tuple[int, Floats]:
        """Frames that were there, and the logits [1 + drafts, V] of the pass that ends the prefill."""
        names, pixels = scene
        kept = self.streaming.kept(self.prompt, names)
        rows = self.prompt.num_visual // FRAMES
        visual = self.target.vision.encode(pixels[kept:], 1) if kept < FRAMES else np.empty((0, 32), np.float32)
        self.sequence.begin(self.prompt, visual, kept * rows)
        return kept, self.sequence.forward(drafts, 1)

    def whole(self, scene: Scene, drafts: Sequence[int] = ()) -> Floats:
        sequence = CachedSequence(self.target)
        sequence.begin(self.prompt, self.target.vision.encode(scene[1], 1))
        return sequence.forward(drafts, 1)


@pytest.fixture
def rig(tiny_pair: tuple[VisionLanguageModel, VisionLanguageModel]) -> Rig:
    return Rig(tiny_pair[1])


def close(logits: Floats, expected: Floats) -> bool:
    return bool(np.abs(logits - expected).max() <= BOUND * np.abs(expected).max())


@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_the_logits_are_those_of_whole_window_prefill(rig: Rig, count: int) -> None:
    scene, drafts = rig.scene(1), (5, 9, 11)
    for frames in range(1, count + 1):
        rig.stream(scene, frames)
    assert rig.encoded == list(range(count))
    kept, logits = rig.finish(scene, drafts)
    assert kept == count
    assert close(logits, rig.whole(scene, drafts))


def test_the_first_chunk_holds_the_prompts_head_and_each_chunk_says_its_frame(rig: Rig) -> None:
    rig.stream(rig.scene(1), 2)
    rows = rig.prompt.num_visual // FRAMES
    first, second = (span for span in rig.streaming.spans(2) if span.name == "prefill")
    assert first.detail == {"tokens": len(rig.prompt.head_ids) + rows, "first_frame": 0, "end_frame": 1}
    assert second.detail == {"tokens": rows, "first_frame": 1, "end_frame": 2}


def parting(scene: Scene, other: Scene, frames: int) -> Scene:
    """The first `frames` of one scene, then those of the other."""
    return [*scene[0][:frames], *other[0][frames:]], np.concatenate([scene[1][:frames], other[1][frames:]])


def test_frames_that_the_window_was_not_given_are_truncated(rig: Rig) -> None:
    scene = rig.scene(1)
    mixed = parting(scene, rig.scene(2), 3)
    rig.stream(scene, 6)
    kept, logits = rig.finish(mixed)
    assert kept == 3
    assert close(logits, rig.whole(mixed))


def test_another_forecast_goes_on_behind_what_stands(rig: Rig) -> None:
    scene = rig.scene(1)
    mixed = parting(scene, rig.scene(2), 3)
    rig.stream(scene, 5)
    rig.stream(mixed, 7)
    assert rig.encoded == [0, 1, 2, 3, 4, 3, 4, 5, 6]
    kept, logits = rig.finish(mixed)
    assert kept == 7
    assert close(logits, rig.whole(mixed))


def test_a_cancelled_window_leaves_the_cache_clean(rig: Rig) -> None:
    rig.stream(rig.scene(1), 5)
    other = rig.scene(2)
    kept, logits = rig.finish(other)
    assert kept == 0
    assert close(logits, rig.whole(other))


def test_another_sequence_in_between_makes_it_start_anew(rig: Rig) -> None:
    scene, other = rig.scene(1), rig.scene(2)
    rig.stream(scene, 4)
    rig.finish(other)  # an `ask`, or another camera's window
    assert rig.streaming.kept(rig.prompt, scene[0]) == 0
    rig.stream(scene, 5)
    kept, logits = rig.finish(scene)
    assert (kept, rig.encoded) == (5, [*range(4), *range(5)])
    assert close(logits, rig.whole(scene))


def test_it_leaves_between_two_frames_when_something_else_wants_the_target(rig: Rig) -> None:
    scene = rig.scene(1)
    rig.stream(scene, 6, preempted=lambda: len(rig.encoded) == 2)
    assert rig.encoded == [0, 1]
    rig.stream(scene, 7)
    kept, logits = rig.finish(scene)
    assert kept == 7
    assert close(logits, rig.whole(scene))


def test_a_frame_that_fails_costs_what_was_prefilled_and_no_caption(rig: Rig) -> None:
    scene = rig.scene(1)
    rig.stream(scene, 3)

    def broken(place: int) -> Floats:
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        rig.streaming.extend(rig.prompt, scene[0], broken, (1, 1), lambda: False)
    kept, logits = rig.finish(scene)
    assert kept == 0
    assert close(logits, rig.whole(scene))


def test_a_prompt_with_another_head_starts_anew(rig: Rig) -> None:
    scene = rig.scene(1)
    rig.stream(scene, 3)
    other = Prompt((1, 7, 8), rig.prompt.num_visual, rig.prompt.tail_ids)
    assert rig.streaming.kept(other, scene[0]) == 0
    rig.stream(scene, 2, prompt=other)
    assert rig.streaming.kept(other, scene[0]) == 2
    assert close(rig.finish(scene)[1], rig.whole(scene))
