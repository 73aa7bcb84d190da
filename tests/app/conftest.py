"""A tiny real pair (random weights, official layouts, ONNX Runtime) and windows for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.sensors.contract import Events, Frame
from app.windows import Window, WindowFrame
from models.bundle import VisionLanguageModel, load_model


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[VisionLanguageModel, VisionLanguageModel]:
    pytest.importorskip("torch", reason="writing the tiny pair needs torch")
    from tests.models.tiny import make_pair

    drafter, target = make_pair(Path(tmp_path_factory.mktemp("pair")), seed=1)
    return load_model(drafter, "drafter"), load_model(target, "target")


@pytest.fixture(scope="session")
def tiny_window() -> Callable[..., Window]:
    """Random frames and events, different for each number."""

    def make(number: int, *, frames: int = 8, events: int = 500, index: int | None = None) -> Window:
        random = np.random.default_rng(number)
        start_us = number * 1_000_000
        times = np.sort(random.integers(start_us, start_us + 1_000_000, events)).astype(np.int64)
        pixels = Events(
            times,
            random.integers(0, 60, events).astype(np.int16),
            random.integers(0, 40, events).astype(np.int16),
            random.integers(0, 2, events).astype(np.uint8),
        )
        pictures = [
            WindowFrame(Frame(start_us + i * 100_000, random.integers(0, 255, (40, 60, 3), np.uint8)))
            for i in range(frames)
        ]
        return Window(
            number if index is None else index, start_us, start_us + 1_000_000, pixels, tuple(pictures), (), (60, 40), 0
        )

    return make
