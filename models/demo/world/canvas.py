"""Anti-aliased flat shapes on a small transparent image: what the sprites are painted with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Point = tuple[float, float]
Rgb = tuple[float, float, float]


class Canvas:
    """A premultiplied RGBA image [height, width, 4] in [0, 1]; shapes are given in units of `unit` pixels.

    The origin of the shapes' coordinates is the bottom centre, x to the right and y *upwards*: the
    point where the object touches the ground.
    """

    def __init__(self, unit: float, half_width: float, height: float, below: float, mirrored: bool = False) -> None:
        """Cover x in [-half_width, half_width] and y in [-below, height], all in units."""
        self.unit = unit
        self.width = int(np.ceil(2 * half_width * unit)) + 4
        self.height = int(np.ceil((height + below) * unit)) + 4
        self.origin_x = self.width / 2
        self.origin_y = self.height - 2 - below * unit
        self.pixels: Image = np.zeros((self.height, self.width, 4), np.float32)
        self._mirror = -1.0 if mirrored else 1.0

    def ellipse(self, centre: Point, radius_x: float, radius_y: float, colour: Rgb, alpha: float = 1.0) -> None:
        """A filled ellipse."""
        rows, columns, y, x = self._window([centre], max(radius_x, radius_y))
        ((centre_x, centre_y),) = self._to_pixels([centre])
        a, b = max(radius_x * self.unit, 0.5), max(radius_y * self.unit, 0.5)
        level = np.hypot((x - centre_x) / a, (y - centre_y) / b)
        self._blend(rows, columns, (level - 1) * min(a, b), colour, alpha)

    def disc(self, centre: Point, radius: float, colour: Rgb) -> None:
        """A filled circle."""
        self.ellipse(centre, radius, radius, colour)

    def ring(self, centre: Point, radius: float, thickness: float, colour: Rgb) -> None:
        """A circle's outline; `radius` is its outer edge."""
        rows, columns, y, x = self._window([centre], radius)
        ((centre_x, centre_y),) = self._to_pixels([centre])
        middle = (radius - thickness / 2) * self.unit
        distance = np.abs(np.hypot(x - centre_x, y - centre_y) - middle) - thickness * self.unit / 2
        self._blend(rows, columns, distance, colour, 1.0)

    def limb(self, start: Point, end: Point, thickness: float, colour: Rgb) -> None:
        """A thick line with round ends."""
        rows, columns, y, x = self._window([start, end], thickness)
        (x0, y0), (x1, y1) = self._to_pixels([start, end])
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-6), 0, 1)
        distance = np.hypot(x - x0 - along * dx, y - y0 - along * dy)
        self._blend(rows, columns, distance - thickness * self.unit / 2, colour, 1.0)

    def polygon(self, corners: Sequence[Point], colour: Rgb) -> None:
        """A filled convex polygon, corners in either order."""
        rows, columns, y, x = self._window(corners, 0.0)
        points = self._to_pixels(corners)
        following = [*points[1:], points[0]]
        area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, following, strict=True))
        turn = 1.0 if area > 0 else -1.0
        distance = np.full(np.broadcast_shapes(x.shape, y.shape), -np.inf, np.float32)
        for (x0, y0), (x1, y1) in zip(points, following, strict=True):
            length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-6)
            edge = turn * ((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / length
            np.maximum(distance, edge, out=distance)
        self._blend(rows, columns, distance, colour, 1.0)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Rgb) -> None:
        """A filled upright rectangle."""
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def _to_pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(self.origin_x + self._mirror * x * self.unit, self.origin_y - y * self.unit) for x, y in points]

    def _window(self, points: Sequence[Point], reach: float) -> tuple[slice, slice, Image, Image]:
        """The part of the image that a shape can touch, and its pixel centres as open grids."""
        pixels = self._to_pixels(points)
        margin = reach * self.unit + 1
        xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
        left, right = max(int(min(xs) - margin), 0), min(int(max(xs) + margin) + 1, self.width)
        top, bottom = max(int(min(ys) - margin), 0), min(int(max(ys) + margin) + 1, self.height)
        x = np.arange(left, max(right, left), dtype=np.float32)[None, :] + np.float32(0.5)
        y = np.arange(top, max(bottom, top), dtype=np.float32)[:, None] + np.float32(0.5)
        return slice(top, max(bottom, top)), slice(left, max(right, left)), y, x

    def _blend(self, rows: slice, columns: slice, distance: NDArray[np.floating], colour: Rgb, alpha: float) -> None:
        """Paint where the signed distance to the outline (pixels, negative inside) says so."""
        coverage = (np.clip(0.5 - distance, 0, 1) * alpha).astype(np.float32)[..., None]
        patch = self.pixels[rows, columns]
        patch *= 1 - coverage
        patch += coverage * np.array([*colour, 1.0], np.float32)
