"""Undistorting, cropping and turning, of events and of images alike; and frames seen from where the event camera is.

Pixels count from the middle of the upper left one, as OpenCV's do. Lens model: https://docs.opencv.org/4.x/d9/d0c/group__calib3d.html
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from app.sensors.contract import Events, SourceError
from app.sensors.events import select
from app.sensors.spec import Intrinsics, Size, ViewSpec

SMALLEST_SIDE = 16
NOWHERE = -1

Image = NDArray[np.uint8]


class EventView:
    """Where every pixel of the event sensor comes to lie: one look-up an event, whatever is asked for.

    `size` is what becomes of the sensor's. Raises SourceError for a crop outside it; `name` is the camera's.
    """

    def __init__(self, name: str, size: Size, view: ViewSpec) -> None:
        check_crop(name, view, size)
        self._sensor = size
        self.size = viewed_size(size, view)
        self._table = None if view == ViewSpec() else _table(size, view, self.size)

    def __call__(self, events: Events) -> Events:
        """Events of the sensor where they come to lie; those that fall outside are no longer there."""
        if self._table is None:
            return events
        width, height = self._sensor
        sent = (events.x >= 0) & (events.x < width) & (events.y >= 0) & (events.y < height)
        if not sent.all():  # a damaged packet: such an event has no place to be looked up
            events = select(events, sent)
        place = self._table[events.y, events.x]  # [N, 2]
        inside = place[:, 0] != NOWHERE
        if not inside.all():
            place, t, p = place[inside], events.t[inside], events.p[inside]
        else:
            t, p = events.t, events.p
        return Events(t, np.ascontiguousarray(place[:, 0]), np.ascontiguousarray(place[:, 1]), p)


class FrameView:
    """The same for images, then the homography, at most `max_side` pixels long or high in the end.

    With a homography (pixels of the viewed image to pixels of the viewed events) the image comes out as the event
    camera sees the scene: same field of view, as fine as the image was where it is finest in both. Raises SourceError
    for a crop outside the image.
    """

    def __init__(
        self,
        name: str,
        size: Size,
        view: ViewSpec,
        max_side: int,
        homography: tuple[tuple[float, float, float], ...] | None = None,
        event_size: Size | None = None,
    ) -> None:
        check_crop(name, view, size)
        self._name, self._input, self._view, self._max_side = name, size, view, max_side
        self._lens = _lens_maps(size, view.undistort) if view.undistort else None
        self._warp = None
        if homography is not None and event_size is not None:
            matrix = np.array(homography, np.float64)
            scale = _scale(name, matrix, viewed_size(size, view), event_size, max_side)
            half = (scale - 1) / 2
            grow = np.array([[scale, 0, half], [0, scale, half], [0, 0, 1]])
            out = tuple(max(SMALLEST_SIDE, round(side * scale)) for side in event_size)
            self._warp = grow @ matrix, out

    def __call__(self, image: Image) -> Image:
        """[H, W] or [H, W, 3] → [H', W'] or [H', W', 3]. Raises SourceError for an image of another size."""
        height, width = image.shape[:2]
        if (width, height) != self._input:
            before = f"{self._input[0]} × {self._input[1]}"
            raise SourceError(f"{self._name}: its frames changed from {before} to {width} × {height}")
        if self._lens is not None:
            image = cv2.remap(image, *self._lens, cv2.INTER_LINEAR)
        if self._view.crop:
            x, y, w, h = self._view.crop
            image = image[y : y + h, x : x + w]
        if self._view.rotate:
            image = np.rot90(image, -self._view.rotate // 90)
        if self._warp is not None:
            matrix, out = self._warp
            image = cv2.warpPerspective(np.ascontiguousarray(image), matrix, out, flags=cv2.INTER_LINEAR)
        longest = max(image.shape[:2])
        if longest > self._max_side:
            height, width = (max(1, round(side * self._max_side / longest)) for side in image.shape[:2])
            image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(image)


def viewed_size(size: Size, view: ViewSpec) -> Size:
    width, height = view.crop[2:] if view.crop else size
    return (height, width) if view.rotate in (90, 270) else (width, height)


def check_crop(name: str, view: ViewSpec, size: Size) -> None:
    if view.crop is None:
        return
    x, y, width, height = view.crop
    if x + width > size[0] or y + height > size[1]:
        raise SourceError(
            f"{name}: crop [{x}, {y}, {width}, {height}] does not fit into its {size[0]} × {size[1]} pixels; "
            "crop is x, y, width, height"
        )


def _matrix(lens: Intrinsics) -> NDArray[np.float64]:
    return np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])


def _lens_maps(size: Size, lens: Intrinsics) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    matrix, distortion = _matrix(lens), np.array(lens.distortion)
    maps: tuple[NDArray[np.float32], NDArray[np.float32]] = cv2.initUndistortRectifyMap(
        matrix, distortion, None, matrix, size, cv2.CV_32FC1
    )
    return maps


def _table(size: Size, view: ViewSpec, out: Size) -> NDArray[np.int16]:
    """int16 [H, W, 2]: x and y of every pixel of the sensor, NOWHERE for those that leave the picture."""
    width, height = size
    x, y = (axis.astype(np.float64) for axis in np.meshgrid(np.arange(width), np.arange(height)))
    if view.undistort:
        matrix = _matrix(view.undistort)
        points = np.stack([x, y], -1).reshape(-1, 1, 2)
        ideal = cv2.undistortPoints(points, matrix, np.array(view.undistort.distortion), None, None, matrix)
        x, y = np.rint(ideal.reshape(height, width, 2)).transpose(2, 0, 1)
    if view.crop:
        x, y = x - view.crop[0], y - view.crop[1]
    right, bottom = (side - 1 for side in (view.crop[2:] if view.crop else size))
    if view.rotate == 90:
        x, y = bottom - y, x
    elif view.rotate == 180:
        x, y = right - x, bottom - y
    elif view.rotate == 270:
        x, y = y, right - x
    table = np.stack([x, y], -1)
    outside = ((table < 0) | (table >= np.array(out))).any(-1) | ~np.isfinite(table).all(-1)
    table[outside] = NOWHERE
    return table.astype(np.int16)


def _scale(name: str, matrix: NDArray[np.float64], size: Size, event_size: Size, max_side: int) -> float:
    """Pixels of the image in one pixel of the event sensor, in the image's middle; bounded by `max_side`."""
    x, y = (size[0] - 1) / 2, (size[1] - 1) / 2
    u, v, w = matrix @ (x, y, 1)
    if abs(w) < 1e-9 * np.abs(matrix).max():
        raise SourceError(f"{name}: its homography sends the middle of the picture to infinity; measure it again")
    step_x, step_y = ((matrix[:2, i] * w - matrix[2, i] * np.array([u, v])) / w**2 for i in (0, 1))
    area = abs(step_x[0] * step_y[1] - step_x[1] * step_y[0])  # event pixels that one pixel of the image covers
    return float(min(max(area, 1e-12) ** -0.5, max_side / max(event_size)))
