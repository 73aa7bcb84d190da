"""Event frames: the official images, and a per-event loop."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.event_frames import render

GOLDEN = Path(__file__).parents[3] / "shared/golden/eventgpt"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is absent")


@golden
@pytest.mark.parametrize("name", ["sparse", "overlap"])
def test_equals_the_official_frames(name: str) -> None:
    events, frames = np.load(GOLDEN / f"events/{name}.npz"), np.load(GOLDEN / f"frames_{name}.npz")
    rendered = render(events["x"], events["y"], events["p"])
    assert [image.shape[:2] for image in rendered] == [tuple(size) for size in frames["sizes_hw"]]
    for i, image in enumerate(rendered):
        np.testing.assert_array_equal(image, frames[f"frame{i}"])


def by_loop(x: list[int], y: list[int], p: list[int], slices: int, width: int, height: int) -> np.ndarray:
    images = np.full((slices, height, width, 3), 255, np.uint8)
    for i in range(len(x)):
        which = min(i // (len(x) // slices), slices - 1) if len(x) >= slices else slices - 1
        images[which, y[i], x[i]] = (0, 0, 255) if p[i] == 0 else (255, 0, 0)
    return images


@given(
    events=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 6), st.integers(0, 2)), max_size=120),
    slices=st.integers(1, 6),
)
def test_equals_a_loop_over_events(events: list[tuple[int, int, int]], slices: int) -> None:
    x, y, p = ([e[k] for e in events] for k in range(3))
    rendered = render(np.array(x, np.int16), np.array(y, np.int16), np.array(p, np.uint8), slices, resolution=(9, 7))
    np.testing.assert_array_equal(rendered, by_loop(x, y, p, slices, 9, 7))


def test_many_events_on_one_pixel_leave_the_last() -> None:
    """The rule that NumPy documents for repeated indices, on more events than any blocking inside NumPy."""
    p = np.zeros(500_000, np.uint8)
    p[99_999::100_000] = 1  # the last of each slice
    zeros = np.zeros(len(p), np.int16)
    assert render(zeros, zeros, p, resolution=(1, 1)).tolist() == [[[[255, 0, 0]]]] * 5


def test_a_still_scene_is_white() -> None:
    none = np.zeros(0, np.int16)
    assert render(none, none, none, resolution=(4, 3)).shape == (5, 3, 4, 3)
    assert (render(none, none, none, resolution=(4, 3)) == 255).all()
    assert [image.shape for image in render(none, none, none)] == [(1, 1, 3)] * 5
    assert [image.shape for image in render([4], [2], [1])] == [(3, 5, 3)] * 5


def test_events_outside_the_sensor_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x 0…9, y 0…0 do not fit the resolution 9×7"):
        render([0, 9], [0, 0], [1, 1], resolution=(9, 7))
    with pytest.raises(ValueError, match="x, y and p must have one length, not 2, 1 and 2"):
        render([0, 1], [0], [1, 1], resolution=(9, 7))
