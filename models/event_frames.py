"""Events to images, exactly as EventGPT's own rasteriser draws them (common/common.py: generate_event_image), vectorised.

A stream is cut into slices of equal event *count* (`total // slices`, the last takes the rest). Each slice is one RGB image:
white ground, an event with p == 0 paints (0, 0, 255), any other (255, 0, 0), and a later event overwrites an earlier one.
"""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.uint8]

# One pixel is painted with one 32-bit store. Written as bytes (R, G, B, unused), so it holds on either byte order.
_WHITE, _OFF, _ON = np.array([[255, 255, 255, 0], [0, 0, 255, 0], [255, 0, 0, 0]], np.uint8).view(np.uint32)[:, 0]


@overload
def render(
    x: ArrayLike, y: ArrayLike, p: ArrayLike, slices: int = ..., *, resolution: tuple[int, int]
) -> NDArray[np.uint8]: ...


@overload
def render(
    x: ArrayLike, y: ArrayLike, p: ArrayLike, slices: int = ..., resolution: None = ...
) -> list[NDArray[np.uint8]]: ...


def render(
    x: ArrayLike, y: ArrayLike, p: ArrayLike, slices: int = 5, resolution: tuple[int, int] | None = None
) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
    """Draw events in time order, pixel x, y and polarity p (all [N]), as `slices` images.

    With a resolution (width, height): uint8 [slices, height, width, 3]. With None, the official inference code's
    behaviour: a list of images, each as large as its slice's largest coordinates plus one. A slice without events is
    white (the official code raises for fewer than five events; a still scene must still give a window).

    Raises ValueError when the arrays differ in length or an event lies outside the resolution.
    """
    x, y, p = np.asarray(x), np.asarray(y), np.asarray(p)
    if not len(x) == len(y) == len(p):
        raise ValueError(f"events: x, y and p must have one length, not {len(x):,}, {len(y):,} and {len(p):,}")
    edges = [len(x) // slices * i for i in range(slices)] + [len(x)]
    if resolution is None:
        whole = _extent(x, y)
        parts = [(x[a:b], y[a:b], p[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
        sizes = [_extent(x, y) if len(x) else whole for x, y, _ in parts]
        return [_paint(*part, np.zeros(len(part[0]), np.intp), 1, size)[0] for part, size in zip(parts, sizes, strict=True)]
    width, height = resolution
    if len(x) and (x.min() < 0 or y.min() < 0 or x.max() >= width or y.max() >= height):
        raise ValueError(
            f"events: x {x.min()}…{x.max()}, y {y.min()}…{y.max()} do not fit the resolution {width}×{height}; "
            "give the sensor's own resolution"
        )
    starts = np.repeat(np.arange(slices) * (width * height), np.diff(edges))
    return _paint(x, y, p, starts, slices, resolution)


def _extent(x: NDArray[np.generic], y: NDArray[np.generic]) -> tuple[int, int]:
    return (int(x.max()) + 1, int(y.max()) + 1) if len(x) else (1, 1)


def _paint(
    x: NDArray[np.generic], y: NDArray[np.generic], p: NDArray[np.generic], starts: NDArray[np.intp], count: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """`count` images [count, H, W, 3]; `starts` is each event's offset to its image, in pixels."""
    width, height = size
    pixels = np.full(count * height * width, _WHITE, np.uint32)
    index = np.multiply(y, width, dtype=np.intp)
    index += x
    index += starts
    # NumPy's documented rule for a repeated index in an assignment is "the last value stays": the later event wins.
    pixels[index] = np.where(p == 0, _OFF, _ON)
    return np.ascontiguousarray(pixels.view(np.uint8).reshape(count, height, width, 4)[..., :3])
