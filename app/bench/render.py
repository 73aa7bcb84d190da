"""Event rendering against a loop over the events, which is how the official code draws them."""

from __future__ import annotations

import time

import numpy as np

from app.decoding.calibration import median_ms
from models.event_frames import render

EVENTS, WIDTH, HEIGHT = 300_000, 346, 260


def measure() -> dict[str, float]:
    """`ms` for 300,000 events into five frames, and `ratio_to_loop`."""
    random = np.random.default_rng(0)
    x = random.integers(0, WIDTH, EVENTS).astype(np.int16)
    y = random.integers(0, HEIGHT, EVENTS).astype(np.int16)
    p = random.integers(0, 2, EVENTS).astype(np.uint8)
    ms = median_ms(lambda: render(x, y, p, slices=5, resolution=(WIDTH, HEIGHT)), 15)
    start = time.perf_counter()
    _loop(x, y, p)
    return {"ms": ms, "ratio_to_loop": (time.perf_counter() - start) * 1e3 / ms}


def _loop(x: np.ndarray, y: np.ndarray, p: np.ndarray) -> np.ndarray:
    frames = np.full((5, HEIGHT, WIDTH, 3), 255, np.uint8)
    for i in range(EVENTS):
        colour = (0, 0, 255) if p[i] == 0 else (255, 0, 0)
        frames[min(i // (EVENTS // 5), 4), y[i], x[i]] = colour
    return frames
