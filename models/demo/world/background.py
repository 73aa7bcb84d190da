"""A seeded street front as a periodic panorama: sky, buildings with windows, pavement and road."""

import numpy as np
from numpy.typing import NDArray

from models.demo.world.geometry import HEIGHT, WIDTH

Planes = NDArray[np.float32]

PERIOD = 768
"""Columns after which the street repeats."""

_BORDER = 4
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def smooth_noise(rng: np.random.Generator, rows: int, cell: int) -> Planes:
    """Low-frequency noise in [-1, 1], [rows, PERIOD], periodic in x, with blobs of `cell` pixels."""
    grid = rng.uniform(-1, 1, (rows // cell + 2, PERIOD // cell)).astype(np.float32)
    y = np.arange(rows, dtype=np.float32) / cell
    x = np.arange(PERIOD, dtype=np.float32) / cell
    i, j = y.astype(int), x.astype(int) % grid.shape[1]
    fy, fx = (y - i)[:, None], (x - x.astype(int))[None, :]
    following = (j + 1) % grid.shape[1]
    upper = grid[i][:, j] * (1 - fx) + grid[i][:, following] * fx
    lower = grid[i + 1][:, j] * (1 - fx) + grid[i + 1][:, following] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float32)


def _paint_buildings(rng: np.random.Generator, image: Planes, base: int) -> None:
    """House fronts of different height, tint and window grid, standing on row `base`."""
    left = 0
    while left < PERIOD:
        width = min(int(rng.integers(60, 130)), PERIOD - left)
        top = int(rng.integers(18, 62))
        wall = (rng.uniform(0.50, 0.68) + rng.uniform(-0.05, 0.05, 3)).astype(np.float32)
        image[:, top:base, left : left + width] = wall[:, None, None]
        image[:, top : top + 3, left : left + width] *= 0.85
        step_x, step_y = int(rng.integers(20, 28)), int(rng.integers(24, 32))
        glass = wall * np.array([0.74, 0.80, 0.86], np.float32)
        for x in range(left + 8, left + width - 14, step_x):
            for y in range(top + 10, base - 22, step_y):
                image[:, y : y + 14, x : x + 10] = glass[:, None, None]
        left += width


def panorama(rng: np.random.Generator) -> Planes:
    """RGB planes [3, HEIGHT + border, PERIOD + WIDTH + border] in [0, 1], ready for wrapped slicing."""
    rows = HEIGHT + 2 * _BORDER
    image = np.empty((3, rows, PERIOD), np.float32)
    sky = np.array([0.66, 0.78, 0.90], np.float32)
    image[:] = sky[:, None, None]
    base = 148 + _BORDER
    _paint_buildings(rng, image, base)
    image[:, base : base + 8] = np.float32(0.66)
    image[:, base + 8 : base + 11] = np.float32(0.50)
    road = (rng.uniform(0.50, 0.58) + np.array([0.0, 0.0, 0.015])).astype(np.float32)
    image[:, base + 11 :] = road[:, None, None]
    for x in range(0, PERIOD, 96):
        image[:, base + 52 : base + 56, x : x + 44] = np.float32(0.68)
    image *= 1 + 0.05 * smooth_noise(rng, rows, 32) + 0.03 * smooth_noise(rng, rows, 8)
    # One pass of smoothing: a lens is never sharper than a pixel, and hard edges would all fire at once.
    image = 0.5 * image + 0.25 * (np.roll(image, 1, 2) + np.roll(image, -1, 2))
    image[:, 1:-1] = 0.5 * image[:, 1:-1] + 0.25 * (image[:, :-2] + image[:, 2:])
    wrapped: Planes = np.concatenate([image, image[:, :, : WIDTH + 2]], axis=2)
    return np.clip(wrapped, 0.02, 1.0, out=wrapped)


def view(planes: Planes, x: float, y: float) -> Planes:
    """The camera's view [C, HEIGHT, WIDTH] of a panorama at a sub-pixel offset (x wraps, |y| < 3)."""
    x %= PERIOD
    y += _BORDER
    column, row = int(x), int(y)
    fx, fy = np.float32(x - column), np.float32(y - row)
    rows = planes[:, row : row + HEIGHT + 1, column : column + WIDTH + 1]
    tall: Planes = rows[:, 1:] - rows[:, :-1]
    tall *= fy
    tall += rows[:, :-1]
    wide: Planes = tall[:, :, 1:] - tall[:, :, :-1]
    wide *= fx
    wide += tall[:, :, :-1]
    return wide
