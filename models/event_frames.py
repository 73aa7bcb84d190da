"""Events to images, exactly as EventGPT's own rasteriser (`generate_event_image`) draws them, vectorised.

A stream is cut into slices of equal event *count* (`total // slices`, the last takes the rest). Each slice is one RGB
image: white ground; an event with p == 0 paints (0, 0, 255), any other (255, 0, 0); later events paint over earlier.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

Column = NDArray[Any]

# One pixel is painted with one 32-bit store. Written as bytes (R, G, B, unused), so it holds on either byte order.
_COLOURS = np.array([[255, 255, 255, 0], [0, 0, 255, 0], [255, 0, 0, 0]], np.uint8).view(np.uint32)[:, 0]
_WHITE, _OFF, _TO_ON = _COLOURS[0], _COLOURS[1], np.diff(_COLOURS)[1]  # off + (off to on) = on, modulo 2**32


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
    cuts = [len(x) // slices * i for i in range(slices)] + [len(x)]
    parts = [slice(first, last) for first, last in pairwise(cuts)]
    if resolution is None:
        return [_paint(x, y, p, [part], _extent(x[part], y[part]) or _extent(x, y) or (1, 1))[0] for part in parts]
    width, height = resolution
    if len(x) and (x.min() < 0 or y.min() < 0 or x.max() >= width or y.max() >= height):
        raise ValueError(
            f"events: x {x.min()}…{x.max()}, y {y.min()}…{y.max()} do not fit the resolution {width}×{height}; "
            "give the sensor's own resolution"
        )
    return _paint(x, y, p, parts, resolution)


def _extent(x: Column, y: Column) -> tuple[int, int] | None:
    return (int(x.max()) + 1, int(y.max()) + 1) if len(x) else None


def _paint(x: Column, y: Column, p: Column, parts: list[slice], size: tuple[int, int]) -> NDArray[np.uint8]:
    """One image for each part of the events: [len(parts), H, W, 3]."""
    width, height = size
    painted = np.full((len(parts), height * width), _WHITE, np.uint32)
    for image, part in zip(painted, parts, strict=True):
        pixels = np.multiply(y[part], width, dtype=np.int32)
        pixels += x[part].astype(np.int32, copy=False)
        # NumPy's documented rule for a repeated index in an assignment is "the last value stays": the later event wins.
        image[pixels] = _OFF + (p[part] != 0) * _TO_ON
    images = np.empty((len(parts), height, width, 3), np.uint8)
    channels = painted.view(np.uint8).reshape(len(parts), height, width, 4)
    for channel in range(3):  # four times faster than one strided copy of three bytes a pixel
        images[..., channel] = channels[..., channel]
    return images
