"""The event-rate gate: what moves is captioned at once, what rests only at the heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.captioner import Captioner
from app.gate_config import GateConfig
from app.live import gate as gates
from app.live.gate import StillGate
from app.live.service import Service
from app.sensors.contract import Events
from app.windows import Window
from tests.app.live.feed import Switch, configuration, serving, until
from tests.app.publishing.listener import listening
from tests.app.publishing.schema_check import validate
from tests.conftest import Mosquitto

WIDTH, HEIGHT = 346, 260
SECOND_NS = 1_000_000_000


def window(second: int, noise_hz: float, thing: int = 0, dropped: int = 0, seed: int = 0) -> Window:
    """A second of background noise (events a pixel), and of `thing` events of something small that moves."""
    random = np.random.default_rng((second, seed))
    noise = random.poisson(noise_hz * WIDTH * HEIGHT)
    x = np.concatenate([random.integers(0, WIDTH, noise), random.integers(60, 80, thing)]).astype(np.int16)
    y = np.concatenate([random.integers(0, HEIGHT, noise), random.integers(100, 120, thing)]).astype(np.int16)
    t = np.sort(random.integers(second * 1_000_000, (second + 1) * 1_000_000, len(x)))
    events = Events(t, x, y, np.zeros(len(x), np.uint8))
    start_us = second * 1_000_000
    closed_ns = (second + 1) * SECOND_NS
    return Window(
        second, start_us, start_us + 1_000_000, events, (), (), (WIDTH, HEIGHT), closed_ns, dropped_events=dropped
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """[monotonic ns], which the gate takes for now."""
    now = [0]
    monkeypatch.setattr(gates.time, "monotonic_ns", lambda: now[0])
    return now


def through(gate: StillGate, clock: list[int], windows: list[Window]) -> list[bool]:
    """Which windows pass, each captioned at once when it does."""
    passed = []
    for w in windows:
        clock[0] = w.closed_ns
        passed.append(gate.passes(w))
        if passed[-1]:
            gate.captioned(w.index)
    return passed


@pytest.mark.parametrize("noise_hz", [0.002, 0.05, 0.3])
def test_a_still_scene_is_captioned_at_the_heartbeat_alone(noise_hz: float, clock: list[int]) -> None:
    gate = StillGate(GateConfig(enabled=True, heartbeat_s=10.0))
    passed = through(gate, clock, [window(s, noise_hz) for s in range(75)])
    assert all(passed[:10]), "the noise is not known yet"
    assert sum(passed[15:75]) == 6, passed
    assert gate.still


def test_a_small_thing_that_moves_wakes_it_at_once_and_two_quiet_windows_end_that(clock: list[int]) -> None:
    gate = StillGate(GateConfig(enabled=True, heartbeat_s=60.0))
    through(gate, clock, [window(s, 0.05) for s in range(30)])
    passed = through(gate, clock, [window(30 + s, 0.05, thing=1000) for s in range(5)])
    assert all(passed), "1,000 events where 4,500 are noise"
    assert through(gate, clock, [window(35 + s, 0.05) for s in range(4)]) == [True, False, False, False]


def test_a_rate_about_the_threshold_does_not_flap(clock: list[int]) -> None:
    gate = StillGate(GateConfig(enabled=True, heartbeat_s=600.0))
    through(gate, clock, [window(s, 0.05) for s in range(30)])
    states = []
    for s in range(40):
        through(gate, clock, [window(30 + s, 0.05, thing=180 if s % 2 else 140)])
        states.append(gate.still)
    assert sum(a != b for a, b in pairwise(states)) <= 1


def test_a_scene_that_never_rests_is_never_still(clock: list[int]) -> None:
    gate = StillGate(GateConfig(enabled=True))
    assert all(through(gate, clock, [window(s, 2.0) for s in range(40)]))


def test_no_events_at_all_or_too_many_are_no_still_scene(clock: list[int]) -> None:
    gate = StillGate(GateConfig(enabled=True, heartbeat_s=60.0))
    through(gate, clock, [window(s, 0.05) for s in range(30)])
    assert through(gate, clock, [window(30, 0.0), window(31, 0.05, dropped=5)]) == [True, True]


def test_another_question_is_asked_of_a_still_scene_at_once(clock: list[int]) -> None:
    gate = StillGate(GateConfig(enabled=True, heartbeat_s=60.0))
    through(gate, clock, [window(s, 0.05) for s in range(30)])
    gate.forget()
    assert through(gate, clock, [window(30, 0.05), window(31, 0.05)]) == [True, False]


def test_it_closes_only_on_a_scene_that_was_captioned_since_it_moved(clock: list[int]) -> None:
    gate = StillGate(GateConfig(enabled=True, heartbeat_s=60.0))
    through(gate, clock, [window(s, 0.05) for s in range(30)])
    for moving in (window(30, 0.05, thing=1000), window(31, 0.05, thing=1000)):
        assert gate.passes(moving)  # and neither caption comes to anything
    assert [gate.passes(window(s, 0.05)) for s in range(32, 36)] == [True] * 4
    gate.captioned(30)  # late, and of a scene that still moved
    assert gate.passes(window(36, 0.05))
    gate.captioned(35)
    assert not gate.passes(window(37, 0.05))


def test_time_that_nobody_looked_at_may_have_changed_the_scene(clock: list[int]) -> None:
    gate = StillGate(GateConfig(enabled=True, heartbeat_s=60.0))
    through(gate, clock, [window(s, 0.05) for s in range(30)])
    assert through(gate, clock, [window(s, 0.05) for s in (30, 35, 36)]) == [False, True, False]


def test_the_status_names_the_caption_that_goes_on_being_true(
    mosquitto: Mosquitto, load: Callable[[], Captioner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "LEARN_NS", 0)

    async def scenario() -> tuple[list[dict[str, Any]], list[dict[str, Any]], Service]:
        config = configuration(tmp_path, mosquitto.url, gate={"enabled": True, "heartbeat_s": 3.0})
        async with listening(mosquitto.port) as listener, serving(config, load, front=Switch()) as (service, _):
            counts = service.counts["front"]
            await until(lambda: counts.dropped["still"] >= 3)
            service.cameras["front"].on_state("front")  # as it is told every few seconds
            captioned = counts.captioned
            await until(lambda: counts.captioned > captioned)  # the heartbeat
            await until(lambda: service.captioning.gates["front"].closed)
            service.captioning.paused(True)
            service.captioning.paused(False)
            assert not service.captioning.gates["front"].closed, "the scene may have changed"

            def told(leaf: str) -> list[dict[str, Any]]:
                return [h.payload for h in listener.of(leaf) if h.payload]

            await listener.until(lambda: any(s["scene"]["skipped"] for s in told("front/status")))
            await listener.until(lambda: len(told("front/caption")) >= counts.captioned)
            return told("front/status"), told("front/caption"), service

    statuses, captions, service = asyncio.run(scenario())
    for status in statuses:
        validate(status)
    still = next(s["scene"] for s in statuses if s["scene"]["skipped"])
    assert still["still"]
    assert still["caption"] in {c["id"] for c in captions}
    assert set(service.counts["front"].dropped) <= {"still", "superseded", "stopped"}
