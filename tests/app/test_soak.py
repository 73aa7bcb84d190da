"""What only a long run shows (`make soak`): resident memory stays what it is over a thousand windows of a loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bench.live import memory
from app.captioner import Captioner, CaptionerSettings
from app.commands.demo import CONFIG, RECORDING
from app.config import BUNDLED_PAIR, load_config, override
from app.session import load_captioner, make_windower
from app.windower import Windower
from models.bundle import VisionLanguageModel
from tests.app.sensors.samples import recording

WINDOWS = 1000
MOST_GROWTH = 0.05

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_demo_pair_does_not_grow() -> None:
    if not (RECORDING.exists() and (BUNDLED_PAIR / "target").exists()):
        pytest.skip("the demo pair or its recording is not in this checkout")
    config = override(load_config(CONFIG), replay={"speed": "max"})
    captioner = load_captioner(config)
    try:
        found = memory(captioner, RECORDING, lambda info, _: make_windower(config, captioner, info), WINDOWS)
    finally:
        captioner.close()
    assert found["windows"] == WINDOWS
    assert found["growth"] <= MOST_GROWTH, found


def test_a_tiny_pair_does_not_grow(tiny_pair: tuple[VisionLanguageModel, VisionLanguageModel], tmp_path: Path) -> None:
    """With little of their own, what the program around the models keeps would show; the recording is opened often."""
    captioner = Captioner(*tiny_pair, CaptionerSettings(max_new_tokens=8))
    try:
        found = memory(
            captioner,
            recording(tmp_path / "short.aedat4", 4.0),
            lambda info, lead_us: Windower(100_000, 100_000, lead_us=lead_us, resolution=info.resolution),
            WINDOWS,
        )
    finally:
        captioner.close()
    assert found["windows"] == WINDOWS
    assert found["growth"] <= MOST_GROWTH, found
