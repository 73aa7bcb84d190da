"""Events and frames are turned, cropped and undistorted alike; a homography shows frames as the event camera sees."""

from __future__ import annotations

import numpy as np
import pytest

from app.sensors.contract import Events, SourceError
from app.sensors.spec import Intrinsics, ViewSpec
from app.sensors.view import EventView, FrameView

SIZE = (20, 12)
LENS = Intrinsics(12.0, 12.0, 10.0, 6.0, (-0.3, 0.05, 0.0, 0.0))


def one_everywhere() -> Events:
    """An event in every pixel, in the order of rows."""
    y, x = (axis.ravel().astype(np.int16) for axis in np.mgrid[0 : SIZE[1], 0 : SIZE[0]])
    return Events(np.arange(len(x), dtype=np.int64), x, y, np.ones(len(x), np.uint8))


def numbered() -> np.ndarray:
    """[H, W]: every pixel its number, in the order of rows."""
    return np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE[1], SIZE[0])


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [None, (3, 2, 10, 8)])
def test_events_go_where_the_pixels_of_frames_go(rotate: int, crop: tuple[int, int, int, int] | None) -> None:
    spec = ViewSpec(crop=crop, rotate=rotate)
    view, image = EventView("c", SIZE, spec), FrameView("c", SIZE, spec, 640)(numbered())
    moved = view(one_everywhere())
    assert image.shape == (view.size[1], view.size[0])
    assert len(moved) == image.size
    assert (image[moved.y, moved.x] == moved.t % 256).all()


def test_quarter_turns_are_clockwise() -> None:
    image = FrameView("c", SIZE, ViewSpec(rotate=90), 640)(numbered())
    assert image[0, -1] == 0  # the upper left corner is now the upper right one


def test_the_lens_moves_events_and_frames_alike() -> None:
    spec = ViewSpec(undistort=LENS)
    blob = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    blob[2, 3] = 255
    at_y, at_x = np.unravel_index(FrameView("c", SIZE, spec, 640)(blob).argmax(), blob.shape)
    spot = Events(np.zeros(1, np.int64), np.array([3], np.int16), np.array([2], np.int16), np.ones(1, np.uint8))
    moved = EventView("c", SIZE, spec)(spot)
    assert (abs(int(moved.x[0]) - at_x) <= 1, abs(int(moved.y[0]) - at_y) <= 1) == (True, True)
    assert (int(moved.x[0]), int(moved.y[0])) != (3, 2)


def test_what_leaves_the_picture_is_gone_and_nothing_else_is_touched() -> None:
    assert EventView("c", SIZE, ViewSpec())(one_everywhere()) is not None
    corner = EventView("c", SIZE, ViewSpec(crop=(0, 0, 2, 2)))(one_everywhere())
    assert corner.t.tolist() == [0, 1, 20, 21]
    assert (corner.x.dtype, corner.y.dtype, corner.p.dtype) == (np.int16, np.int16, np.uint8)


def test_an_event_that_no_such_sensor_can_have_sent_is_left_out() -> None:
    x, y = np.array([0, 20, -1], np.int16), np.array([0, 0, 12], np.int16)
    events = Events(np.arange(3, dtype=np.int64), x, y, np.ones(3, np.uint8))
    assert EventView("c", SIZE, ViewSpec(rotate=180))(events).t.tolist() == [0]


def test_a_homography_shows_the_frame_as_the_event_camera_sees_it() -> None:
    frame = np.zeros((96, 128, 3), np.uint8)
    frame[40:48, 64:72] = 255
    half = (
        (0.5, 0.0, -10.0),
        (0.0, 0.5, -6.0),
        (0.0, 0.0, 1.0),
    )  # pixel (64, 40) of the frame is (22, 14) of the events
    shown = FrameView("c", (128, 96), ViewSpec(), 640, half, (40, 24))(frame)
    assert shown.shape == (48, 80, 3)  # as fine as the frame is: two pixels for each of the event camera's
    rows, columns = np.nonzero(shown[:, :, 0] > 128)
    assert abs(rows.mean() / 2 - 15.75) < 1
    assert abs(columns.mean() / 2 - 23.75) < 1
    small = FrameView("c", (128, 96), ViewSpec(), 40, half, (40, 24))(frame)
    assert small.shape == (24, 40, 3)


def test_large_frames_are_made_smaller() -> None:
    assert FrameView("c", (1280, 720), ViewSpec(), 640)(np.zeros((720, 1280, 3), np.uint8)).shape == (360, 640, 3)


def test_a_homography_without_a_middle_is_one_line() -> None:
    away = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, -9.5))
    with pytest.raises(SourceError, match="c: its homography sends the middle of the picture to infinity"):
        FrameView("c", SIZE, ViewSpec(), 640, away, (40, 24))


def test_what_does_not_fit_is_one_line() -> None:
    for kind in (lambda spec: EventView("c", SIZE, spec), lambda spec: FrameView("c", SIZE, spec, 640)):
        with pytest.raises(SourceError, match=r"c: crop \[15, 0, 10, 5\] does not fit into its 20 × 12 pixels"):
            kind(ViewSpec(crop=(15, 0, 10, 5)))
    with pytest.raises(SourceError, match="its frames changed from 20 × 12 to 12 × 20"):
        FrameView("c", SIZE, ViewSpec(), 640)(np.zeros((20, 12), np.uint8))
