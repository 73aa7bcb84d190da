"""What a configuration becomes."""

from __future__ import annotations

import pytest

from app.config import BUNDLED_PAIR, Config, override
from app.session import load_more_targets, sensor_lead_us


def test_the_lead_is_wall_time_within_half_a_window_and_a_hop() -> None:
    config = Config()
    assert sensor_lead_us(config, 100.0) == 100_000
    assert sensor_lead_us(override(config, replay={"speed": 4.0}), 100.0) == 400_000
    assert sensor_lead_us(override(config, replay={"speed": 0.5}), 100.0) == 50_000
    assert sensor_lead_us(override(config, replay={"speed": "max"}), 100.0) == 0
    assert sensor_lead_us(override(config, decoding={"lead_ms": 30.0}), 100.0) == 30_000
    assert sensor_lead_us(config, 900.0) == 500_000
    assert sensor_lead_us(override(config, windows={"hop_ms": 200}), 900.0) == 199_999


@pytest.mark.parametrize(("strategy", "more"), [("dsi", 2), ("pearl", 0)])
def test_several_target_sessions_are_loaded_for_the_strategy_that_uses_them(strategy: str, more: int) -> None:
    if not (BUNDLED_PAIR / "target").exists():
        pytest.skip("the demo pair is not in this checkout")
    config = override(Config(), decoding={"strategy": strategy, "target_sessions": 3})
    assert len(load_more_targets(config)) == more
