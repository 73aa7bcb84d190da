"""The load run on real processes: short here, half an hour in `make soak`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.config import load_config
from app.faults.load import LoadRun, LoadSettings, failures
from app.faults.rounds import FaultRunError
from tests.conftest import Mosquitto


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seconds", [6.0, pytest.param(1800.0, marks=pytest.mark.slow)])
def test_more_windows_than_captions_cost_nothing_but_windows(
    seconds: float, mosquitto: Mosquitto, tiny_config: Path
) -> None:
    mosquitto.stop()  # it is installed; the run has its own
    folder = tiny_config.parent / "run"
    folder.mkdir()
    found = LoadRun(load_config(tiny_config), folder, LoadSettings(seconds)).run(lambda text: None)
    print(json.dumps(found, indent=2))
    assert found["unaccounted"] == found["over_age"] == 0
    assert found["captioned"] > seconds
    assert found["dropped"]["superseded"] > found["captioned"]
    assert not any(cause.startswith("failed") for cause in found["dropped"])  # the others are a busy machine's
    first, second = found["by_camera"].values()
    assert abs(first - second) <= max(1, 0.1 * first)
    if seconds > 120:
        assert not failures(found)


@pytest.mark.timeout(0)
def test_events_over_every_limit_are_dropped_and_counted(mosquitto: Mosquitto, tiny_config: Path) -> None:
    mosquitto.stop()
    folder = tiny_config.parent / "run"
    folder.mkdir()
    tiny_config.write_text(tiny_config.read_text().replace("hop_ms: 200", "hop_ms: 200, max_events: 20000"))
    settings = LoadSettings(3.0, cameras=1, windows_per_s=2, captions_per_s=0, events_per_s=1_000_000)
    found = LoadRun(load_config(tiny_config), folder, settings).run(lambda text: None)
    assert found["events_over_limit"] > 0
    assert found["captioned"] > 0
    assert not found["unaccounted"]


@pytest.mark.timeout(0)
def test_a_network_source_says_how_long_a_caption_takes_from_sensor_to_subscriber(
    mosquitto: Mosquitto, tiny_config: Path
) -> None:
    pytest.importorskip("dv_processing", reason="the street is served by dv-processing")
    mosquitto.stop()
    folder = tiny_config.parent / "run"
    folder.mkdir()
    tiny_config.write_text(tiny_config.read_text() + "service: {max_age_s: 60}\n")
    settings = LoadSettings(6.0, cameras=1, windows_per_s=2, captions_per_s=0, network=True)
    found = LoadRun(load_config(tiny_config), folder, settings).run(lambda text: None)
    assert not found["unaccounted"]
    assert found["received"] == found["captioned"] > 0
    assert found["events_per_s"] > 0
    spread = found["sensor_to_publish_ms"]
    assert 0 < spread["p50"] <= spread["p95"] <= spread["max"]


def test_windows_too_long_to_be_configured_are_refused(mosquitto: Mosquitto, tiny_config: Path, tmp_path: Path) -> None:
    settings = LoadSettings(5.0, cameras=16, windows_per_s=0.1)
    with pytest.raises(FaultRunError, match="windows of 160 s, of each of 16 cameras"):
        LoadRun(load_config(tiny_config), tmp_path, settings)


def test_what_must_not_be_is_named() -> None:
    found = {"unaccounted": 0, "over_age": 2, "memory_growth": 0.06, "unfair": 0.1}
    assert failures(found) == ["over_age", "memory_growth"]
