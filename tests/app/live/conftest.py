"""The tiny pair as the service loads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.captioner import Captioner, CaptionerSettings
from app.planning import measure_costs
from models.bundle import VisionLanguageModel
from tests.app.live.feed import loader


@pytest.fixture(scope="session")
def load(tiny_pair: tuple[VisionLanguageModel, VisionLanguageModel]) -> Callable[[], Captioner]:
    settings = CaptionerSettings(max_new_tokens=6, drafter_span_us=100_000)
    return loader(tiny_pair, measure_costs(*tiny_pair, settings))
