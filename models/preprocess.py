"""CLIP's preprocessing as the published processors do it: bicubic (Pillow) shortest edge, centre crop, normalise."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# A channel value is one of 256, so rescaling and normalising is a table look-up, [3, 256], rounded as published.
_GREY = (np.arange(256) / 255).astype(np.float32)
_TABLE = (_GREY - np.array(MEAN, np.float32)[:, None]) / np.array(STD, np.float32)[:, None]


def clip_pixels(images: Iterable[NDArray[np.uint8]], size: int) -> NDArray[np.float32]:
    """RGB images, each uint8 [H, W, 3], to pixels float32 [N, 3, size, size]. Raises ValueError for any other shape."""
    squares = np.stack([_square(image, size) for image in images])  # [N, S, S, 3]
    pixels = np.empty((len(squares), 3, size, size), np.float32)
    for channel, table in enumerate(_TABLE):
        np.take(table, squares[..., channel], out=pixels[:, channel], mode="clip")
    return pixels


def _square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Shortest edge to `size` (the longer one truncated to an integer), then the centre [size, size, 3]."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image: uint8 [height, width, 3] expected, not {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    short = min(height, width)
    width, height = int(size * width / short), int(size * height / short)
    picture = Image.fromarray(image)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))
