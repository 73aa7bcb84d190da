"""What a configuration becomes."""

from __future__ import annotations

from app.config import Config, override
from app.session import sensor_lead_us


def test_the_lead_is_wall_time_within_half_a_window_and_a_hop() -> None:
    config = Config()
    assert sensor_lead_us(config, 100.0) == 100_000
    assert sensor_lead_us(override(config, replay={"speed": 4.0}), 100.0) == 400_000
    assert sensor_lead_us(override(config, replay={"speed": 0.5}), 100.0) == 50_000
    assert sensor_lead_us(override(config, replay={"speed": "max"}), 100.0) == 0
    assert sensor_lead_us(override(config, decoding={"lead_ms": 30.0}), 100.0) == 30_000
    assert sensor_lead_us(config, 900.0) == 500_000
    assert sensor_lead_us(override(config, windows={"hop_ms": 200}), 900.0) == 199_999
