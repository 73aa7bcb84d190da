"""Sensor, host and wall clock kept apart: one that jumps touches nothing but what is told of it."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.captioner import Captioner
from app.live.metrics import ServiceMetrics
from app.live.service import Service
from app.windows import Window
from tests.app.live.feed import Switch, configuration, serving, until
from tests.app.publishing.listener import listening
from tests.app.publishing.schema_check import validate
from tests.conftest import Mosquitto

Load = Callable[[], Captioner]
HOP_US = 400_000


class Wall:
    """The wall clock of this process, which can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_ns, real_ns = 0, time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + self.by_ns)
        monkeypatch.setattr(time, "time", lambda: (real_ns() + self.by_ns) / 1e9)

    def set(self, to_s: float) -> None:
        self.by_ns += int(to_s * 1e9) - time.time_ns()


def noting(service: Service, windows: list[Window]) -> None:
    """Keep every window that closes from now on, without what it holds."""
    camera = service.cameras["front"]
    on_window = camera._on_window

    def note(name: str, window: Window) -> None:
        if not window.partial:
            windows.append(dataclasses.replace(window, frames=(), unused_frames=()))
        on_window(name, window)

    camera._on_window = note


def test_a_wall_clock_that_jumps_changes_no_window_and_no_latency(
    mosquitto: Mosquitto, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    windows: list[Window] = []

    async def scenario() -> tuple[list[dict[str, Any]], Service]:
        config = configuration(tmp_path, mosquitto.url, service={"max_age_s": 60.0})
        async with listening(mosquitto.port) as listener, serving(config, load, front=Switch()) as (service, _):

            def captions() -> list[dict[str, Any]]:
                return [h.payload for h in listener.of("front/caption") if h.payload]

            noting(service, windows)
            wall.set(0)  # 1970: not set since boot
            await listener.until(lambda: len(captions()) >= 2)
            unset = captions()[-1]
            wall.set(1_800_000_000)  # set at last, an hour wrong
            await listener.until(lambda: captions()[-1]["created_wall_us"] > 1_700_000_000_000_000)
            wall.set(1_799_996_400)  # and put right
            seen = len(captions())
            await listener.until(lambda: len(captions()) >= seen + 2)
            assert unset["clock"]["wall_offset_us"] is None
            assert service.health.state == "online", service.health.reason
            return captions(), service

    captions, service = asyncio.run(scenario())
    starts = [w.start_us for w in windows]
    assert [b - a for a, b in pairwise(starts)] == [HOP_US] * (len(starts) - 1)
    for window in windows:
        assert 0 <= window.closed_ns // 1000 - window.end_us < 60_000_000, "closed when its time had come"
    for caption in captions:
        validate(caption)
        assert 0 < caption["latency_ms"]["sensor_to_caption"] < 60_000
        assert not caption["late"]
    assert set(service.counts["front"].dropped) <= {"superseded", "stopped"}
    last = captions[-1]
    told_us = last["window"]["end_us"] + last["clock"]["wall_offset_us"]
    assert abs(last["created_wall_us"] - told_us) < 60_000_000


@pytest.mark.parametrize("by_us", [3_600_000_000, -3_600_000_000])
def test_a_sensor_clock_that_is_set_costs_a_window_not_the_camera(load: Load, tmp_path: Path, by_us: int) -> None:
    async def scenario() -> Service:
        switch = Switch(sensor_clock_us=7_200_000_000)
        async with serving(configuration(tmp_path, None), load, front=switch) as (service, _):
            await until(lambda: service.counts["front"].captioned >= 1)
            switch.sensor_clock_us += by_us
            captioned = service.counts["front"].captioned
            await until(lambda: service.counts["front"].captioned >= captioned + 3)
            assert service.health.state == "online"
            assert switch.opened == 1
        return service

    service = asyncio.run(scenario())
    assert set(service.counts["front"].dropped) <= {"superseded", "stopped", "no_frames"}


def test_frames_of_another_connection_may_be_longer_under_way_than_a_clock_jumps(load: Load, tmp_path: Path) -> None:
    windows = {"length_ms": 400, "hop_ms": 400, "frame_wait_ms": 2000}
    config = configuration(tmp_path, None, windows=windows, service={"max_age_s": 60.0})

    async def scenario() -> Service:
        async with serving(config, load, front=Switch(frames_late_us=1_500_000)) as (service, _):
            await until(lambda: service.counts["front"].captioned >= 2)
        return service

    service = asyncio.run(scenario())
    assert set(service.counts["front"].dropped) <= {"superseded", "stopped"}


def test_two_devices_become_one_camera_on_the_event_clock(mosquitto: Mosquitto, load: Load, tmp_path: Path) -> None:
    async def scenario() -> tuple[dict[str, Any], str]:
        switch = Switch(frame_clock_us=3_600_000_000)
        registry = CollectorRegistry()
        config = configuration(tmp_path, mosquitto.url)
        async with (
            listening(mosquitto.port) as listener,
            serving(config, load, front=switch) as (service, commander),
        ):
            ServiceMetrics(service, commander).register(registry)
            await until(lambda: service.counts["front"].captioned >= 2 and service.cameras["front"].sync)
            service.cameras["front"].on_state("front")

            def told() -> list[dict[str, Any]]:
                return [h.payload for h in listener.of("front/status") if h.payload and h.payload["sync"]]

            await listener.until(told)
            return told()[-1], generate_latest(registry).decode()

    status, metrics = asyncio.run(scenario())
    validate(status)
    sync = status["sync"]
    assert sync["method"] == "arrival"
    assert abs(sync["offset_us"] - 3_600_000_000) <= sync["uncertainty_us"]
    shown = re.search(r'event_captioner_clock_offset_seconds{camera="front"} (\S+)', metrics)
    assert shown is not None
    assert abs(float(shown[1]) - 3600) <= sync["uncertainty_us"] / 1e6
    assert 'event_captioner_clock_drift_uncertainty_ppm{camera="front"}' in metrics


def test_without_events_the_frames_keep_their_own_clock_until_events_come(load: Load, tmp_path: Path) -> None:
    async def scenario() -> None:
        switch = Switch(frame_clock_us=3_600_000_000, events=False)
        async with serving(configuration(tmp_path, None), load, front=switch) as (service, _):
            await until(lambda: service.counts["front"].captioned >= 1)
            switch.events = True
            captioned = service.counts["front"].captioned
            await until(lambda: service.counts["front"].captioned >= captioned + 3)
            assert service.cameras["front"].frames_without_clock > 0

    asyncio.run(scenario())
