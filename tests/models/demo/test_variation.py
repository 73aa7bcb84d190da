"""Windows made into others: pictures, places and captions change together, and nothing kept from training is shown."""

from __future__ import annotations

import numpy as np
import pytest

from models.demo.data import NONE, caption_of, is_shown, load, prepare, scene_truth
from models.demo.recipe import IMAGE
from models.demo.variation import DRIFT, SHAKE, SHIFT, mirrored, moved, recoloured, stopped
from models.demo.world.sprites import PAINT
from models.demo.world.vocabulary import COLOURS, DIRECTIONS, KINDS, held_out_colour


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    """[(squares, seen, truth)] of a street."""
    folder = tmp_path_factory.mktemp("street")
    prepare(folder, [3], 3, lambda: None)
    street = load(folder, [3], "frames")
    return [(street.images[i], street.seen[i], street.truth[i]) for i in range(len(street))]


@pytest.fixture
def window(windows):
    return windows[0]


def things(*rows):
    """Truth of (kind, colour, direction) by name, near and fast."""
    told = [[KINDS.index(kind), COLOURS.index(colour), 0, DIRECTIONS.index(way), 0] for kind, colour, way in rows]
    return np.array([*told, [-1] * 5][:2], np.int8)


def test_a_mirror_image_goes_the_other_way_and_faces_it(window):
    squares, seen, _ = window
    for colour in COLOURS:
        truth = things(("car", colour, "left"))
        found = mirrored(squares, seen, truth)
        if colour == held_out_colour("car", "right"):
            assert found is None
            continue
        images, places, told = found
        assert "to the right" in caption_of(told)
        np.testing.assert_array_equal(images, squares[:, :, ::-1])
        there = seen[..., 0] >= 0
        np.testing.assert_allclose(places[there][:, 3], 1 - seen[there][:, 3])
        turned = {
            DIRECTIONS.index("left"): DIRECTIONS.index("right"),
            DIRECTIONS.index("right"): DIRECTIONS.index("left"),
        }
        assert [turned.get(int(way), int(way)) for way in seen[there][:, 2]] == places[there][:, 2].tolist()
        np.testing.assert_array_equal(places[~there], seen[~there])


def test_a_moved_window_moves_its_places(window):
    squares, seen, _ = window
    inner = slice(SHIFT, IMAGE - SHIFT)
    there = seen[..., 0] >= 0
    for number in range(8):
        images, places = moved(squares, seen, np.random.default_rng(number))
        right, down = np.rint((places - seen)[there][0, 3:5] * IMAGE).astype(int).tolist()
        back = images[:, SHIFT + down : IMAGE - SHIFT + down, SHIFT + right : IMAGE - SHIFT + right]
        np.testing.assert_array_equal(back, squares[:, inner, inner])
        np.testing.assert_allclose((places - seen)[there][:, 3:5] * IMAGE, [[right, down]] * there.sum(), atol=1e-4)


def test_in_a_stopped_window_everything_stands_where_it_is_last(windows):
    for number, (squares, seen, truth) in enumerate(windows):
        images, places, told = stopped(squares, seen, truth, np.random.default_rng(number))
        there = truth[:, 0] >= 0
        assert [thing.speed for thing in scene_truth(told).objects] == ["standing"] * there.sum()
        assert (told[there, 3] == NONE).all()
        np.testing.assert_array_equal(told[:, :3], truth[:, :3])
        late = slice(len(squares) // 2, None)  # stopped by the middle at the latest
        np.testing.assert_array_equal(places[late, :, 0], np.broadcast_to(seen[-1, :, 0], places[late, :, 0].shape))
        reach = (DRIFT * len(squares) + SHAKE) / IMAGE
        assert np.abs(places[late, :, 3] - seen[-1, :, 3]).max() <= reach + 1e-6
        nearly = np.abs(images[late].astype(int) - squares[-1]).mean()
        assert nearly < np.abs(squares[0].astype(int) - squares[-1]).mean() + 12  # the same picture, a little aside


def test_a_look_round_moves_picture_and_places_alike(window):
    """Half a pixel to the right is the mean of two neighbours."""
    _, seen, truth = window
    stripes = np.zeros((8, IMAGE, IMAGE, 3), np.uint8)
    stripes[:, :, 48:] = 200
    images, places, _ = stopped(stripes, seen, truth, np.random.default_rng(1))
    there = seen[-1, :, 0] >= 0
    for image, row in zip(images[-2:], places[-2:], strict=True):
        offset = ((row - seen[-1])[there, 3] * IMAGE)[0]
        edge = IMAGE - image[10, :, 0].sum() / 200  # where the bright half begins, to a fraction of a pixel
        assert edge == pytest.approx(48 + offset, abs=0.02)


def test_other_colours_are_told_by_their_names(window):
    squares, seen, _ = window
    for number in range(40):
        rng = np.random.default_rng(number)
        painted = np.broadcast_to((255 * np.array(PAINT["red"])).astype(np.uint8), squares.shape)
        truth, rows = things(("dog", "red", "away")), seen.copy()
        rows[..., 1] = np.where(rows[..., 0] >= 0, COLOURS.index("red"), -1)
        found = recoloured(painted, rows, truth, rng)
        if found is None:
            continue
        images, places, told = found
        name = COLOURS[told[0, 1]]
        assert name in ("red", "green", "blue")
        assert is_shown(told)
        assert images[0, 0, 0].argmax() == ("red", "green", "blue").index(name)
        assert set(places[..., 1][places[..., 0] >= 0].tolist()) <= {COLOURS.index(name)}


def test_yellow_stays_yellow_and_what_is_kept_from_training_is_not_made(window):
    squares, seen, _ = window
    plain = seen.copy()
    plain[..., 1] = np.where(plain[..., 0] >= 0, COLOURS.index("white"), -1)
    for number in range(60):
        for kind in KINDS:
            for way in DIRECTIONS:
                truth = things((kind, "yellow", way), (kind, "red", way))
                found = recoloured(squares, plain, truth, np.random.default_rng(number))
                if found is not None:
                    assert COLOURS[found[2][0, 1]] == "yellow"
                    assert COLOURS[found[2][1, 1]] in ("red", "green")
                    assert is_shown(found[2])
