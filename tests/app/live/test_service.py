"""The live service against a real mosquitto: every window accounted for, degraded rather than dead, a clean end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.captioner import Captioner
from app.live.service import Service
from app.live.worker import ServiceError
from app.records import Caption
from app.windows import Window
from tests.app.live.feed import Switch, configuration, serving, until
from tests.app.publishing.listener import Heard, Listener, listening
from tests.app.publishing.schema_check import validate
from tests.conftest import Mosquitto

Load = Callable[[], Captioner]


def payloads(heard: list[Heard]) -> list[dict[str, Any]]:
    return [h.payload for h in heard if h.payload is not None]


def slowed(load: Load, seconds: Callable[[], float]) -> Load:
    """The same captioner, each caption longer."""

    def make() -> Captioner:
        captioner = load()
        healthy = captioner.caption

        def caption(window: Window, camera: str = "") -> Caption:
            time.sleep(seconds())
            return healthy(window, camera)

        captioner.caption = caption  # type: ignore[method-assign]
        return captioner

    return make


def test_live_windows_become_captions_on_the_broker(mosquitto: Mosquitto, load: Load, tmp_path: Path) -> None:
    async def scenario() -> tuple[Listener, Service]:
        async with listening(mosquitto.port) as listener:
            async with serving(configuration(tmp_path, mosquitto.url), load, front=Switch()) as (service, _):
                await listener.until(lambda: len(listener.of("front/caption")) >= 4)
            await listener.until(lambda: payloads(listener.of("robot/status"))[-1]["state"] == "stopped")
        return listener, service

    listener, service = asyncio.run(scenario())
    for payload in payloads(listener.heard):
        validate(payload)
    captions = payloads(listener.of("front/caption"))
    assert [c["seq"] for c in captions] == list(range(len(captions)))
    assert len({c["id"] for c in captions}) == len(captions) == service.counts["front"].captioned
    assert not any(c["replay"] or c["late"] for c in captions)
    assert listener.of("caption/last")[-1].payload is None
    states = [p["state"] for p in payloads(listener.of("robot/status"))]
    assert states[0] == "starting"
    assert "online" in states
    assert payloads(listener.of("robot/info"))[-1]["cameras"]["front"]["live"]


def test_the_newest_window_wins_and_two_cameras_share_the_model(load: Load, tmp_path: Path) -> None:
    async def scenario() -> Service:
        config = configuration(tmp_path, None, windows={"length_ms": 60, "hop_ms": 60})
        make = slowed(load, lambda: 0.05)
        async with serving(config, make, front=Switch(), rear=Switch()) as (service, _):
            await until(lambda: sum(c.captioned for c in service.counts.values()) >= 30)
        return service

    service = asyncio.run(scenario())
    front, rear = service.counts["front"], service.counts["rear"]
    assert abs(front.captioned - rear.captioned) <= 2
    assert front.dropped["superseded"] > 0
    assert rear.dropped["superseded"] > 0
    assert set(front.dropped) <= {"superseded", "stopped"}


def test_a_caption_over_its_age_budget_is_not_published(load: Load, tmp_path: Path) -> None:
    async def scenario() -> Service:
        config = configuration(tmp_path, None, service={"max_age_s": 0.05})
        async with serving(config, slowed(load, lambda: 0.1), front=Switch()) as (service, _):
            await until(lambda: service.counts["front"].dropped["overtime"] >= 2)
        return service

    assert asyncio.run(scenario()).counts["front"].captioned == 0


def test_without_events_the_target_captions_alone_and_without_frames_nothing_goes_out(
    mosquitto: Mosquitto, load: Load, tmp_path: Path
) -> None:
    async def scenario() -> None:
        switch = Switch()
        config = configuration(tmp_path, mosquitto.url, service={"frozen_after_s": 60.0})
        async with listening(mosquitto.port) as listener, serving(config, load, front=switch) as (service, _):

            def status() -> dict[str, Any]:
                return payloads(listener.of("robot/status"))[-1]

            await listener.until(lambda: len(listener.of("front/caption")) >= 1)
            switch.events = False
            await listener.until(lambda: status()["state"] == "degraded")
            assert "camera front events: no events for" in status()["reason"]
            so_far = len(listener.of("front/caption"))
            await listener.until(lambda: len(listener.of("front/caption")) >= so_far + 3)
            assert payloads(listener.of("front/caption"))[-1]["window"]["events"] == 0
            assert payloads(listener.of("front/status"))[-1]["streams"]["events"]["state"] == "stalled"

            switch.events, switch.frames = True, False
            await listener.until(lambda: "camera front frames: no frames for" in (status()["reason"] or ""))
            so_far = service.counts["front"].captioned
            dropped = service.counts["front"].dropped["no_frames"]
            await until(lambda: service.counts["front"].dropped["no_frames"] >= dropped + 3)
            assert service.counts["front"].captioned == so_far

            switch.frames = True
            await listener.until(lambda: status() == status() | {"state": "online", "reason": None})
            await until(lambda: service.counts["front"].captioned > so_far)

    asyncio.run(scenario())


def test_a_window_closes_on_time_without_a_later_item(load: Load, tmp_path: Path) -> None:
    async def scenario() -> None:
        switch = Switch()
        async with serving(configuration(tmp_path, None), load, front=switch) as (service, _):
            await until(lambda: service.counts["front"].arrived >= 2)
            switch.frozen = True
            before = service.counts["front"].arrived
            await until(lambda: service.counts["front"].arrived > before, 0.6)  # frozen is told after 0.9 s

    asyncio.run(scenario())


def test_a_source_that_freezes_or_fails_is_opened_again_and_ids_go_on(
    mosquitto: Mosquitto, load: Load, tmp_path: Path
) -> None:
    async def scenario() -> Listener:
        switch = Switch()
        config = configuration(tmp_path, mosquitto.url)
        async with listening(mosquitto.port) as listener, serving(config, load, front=switch) as (service, _):
            for number, fault in enumerate(("frozen", "unplugged"), start=1):
                await until(lambda: service.health.state == "online")
                done = service.counts["front"].captioned
                await until(lambda: service.counts["front"].captioned > done + 1)  # noqa: B023
                if fault == "frozen":
                    switch.frozen = True
                    await until(lambda: "frozen" in (service.health.reason or ""))
                else:
                    switch.error = "feed: unplugged"
                    await until(lambda: "feed: unplugged" in (service.health.reason or ""))
                switch.frozen, switch.error = False, None
                await until(lambda: switch.opened == number + 1)  # noqa: B023
            done = service.counts["front"].captioned
            await until(lambda: service.counts["front"].captioned > done + 1)
        return listener

    listener = asyncio.run(scenario())
    captions = payloads(listener.of("front/caption"))
    assert len({c["id"] for c in captions}) == len(captions)
    streams = [p["streams"]["frames"]["state"] for p in payloads(listener.of("front/status"))]
    assert "reconnecting" in streams


def test_a_source_that_is_not_there_at_the_start_is_degraded_and_found_later(load: Load, tmp_path: Path) -> None:
    async def scenario() -> None:
        switch = Switch(error="no camera")
        async with serving(configuration(tmp_path, None), load, front=switch) as (service, _):
            assert service.health.state == "degraded"
            assert "no camera" in (service.health.reason or "")
            switch.error = None
            await until(lambda: service.counts["front"].captioned >= 1)
            assert service.health.state == "online"

    asyncio.run(scenario())


def test_a_failing_model_costs_windows_then_is_loaded_anew(load: Load, tmp_path: Path) -> None:
    made: list[Captioner] = []

    def make() -> Captioner:
        captioner = load()
        if not made:

            def caption(window: Window, camera: str = "") -> Caption:
                raise RuntimeError("device lost")

            captioner.caption = caption  # type: ignore[method-assign]
        made.append(captioner)
        return captioner

    async def scenario() -> Service:
        async with serving(configuration(tmp_path, None), make, front=Switch()) as (service, _):
            await until(lambda: "device lost" in (service.health.reason or ""))
            await until(lambda: service.counts["front"].captioned >= 1)
            assert service.health.state == "online"
        return service

    service = asyncio.run(scenario())
    assert len(made) == 2
    assert service.counts["front"].dropped["failed"] == 3
    assert service.worker.budget.total == 1


def test_a_model_that_always_fails_ends_the_service(load: Load, tmp_path: Path) -> None:
    def make() -> Captioner:
        captioner = load()

        def caption(window: Window, camera: str = "") -> Caption:
            raise RuntimeError("device lost")

        captioner.caption = caption  # type: ignore[method-assign]
        return captioner

    async def until_it_ends() -> None:
        config = configuration(tmp_path, None, service={"restarts": 1})
        async with serving(config, make, front=Switch()) as (service, _):
            await until(lambda: service.worker.budget.spent)

    with pytest.raises(ServiceError, match="the models fail whatever is tried; the last time: device lost"):
        asyncio.run(until_it_ends())


def test_a_stuck_model_is_told_and_ends_the_service(load: Load, tmp_path: Path) -> None:
    seen: list[str | None] = []

    async def scenario() -> None:
        config = configuration(tmp_path, None, service={"stuck_after_s": 0.5})
        async with serving(config, slowed(load, lambda: 2.5), front=Switch()) as (service, _):
            await until(lambda: "more than 0.5 s" in (service.health.reason or ""))
            seen.append(service.health.reason)
            await until(lambda: service.health.stopping)

    with pytest.raises(ServiceError, match="the model is stuck"):
        asyncio.run(scenario())
    assert seen == ["model: a caption has been running for more than 0.5 s"]


def test_captions_made_while_the_broker_is_away_arrive_in_order_after_a_restart_of_both(
    mosquitto: Mosquitto, load: Load, tmp_path: Path
) -> None:
    async def first() -> str:
        mosquitto.stop()
        async with serving(configuration(tmp_path, mosquitto.url), load, front=Switch()) as (service, _):
            await until(lambda: service.counts["front"].captioned >= 5)
            assert "broker: " in (service.health.reason or "")
        assert service.publisher is not None
        return service.publisher.session

    async def second() -> list[dict[str, Any]]:
        mosquitto.start()
        config = configuration(tmp_path, mosquitto.url, mqtt={"late_after_s": 0.2})
        async with listening(mosquitto.port) as listener, serving(config, load, front=Switch()) as (service, _):
            await until(lambda: service.counts["front"].captioned >= 1)
            await listener.until(lambda: len(listener.of("front/caption")) >= 6)
        return payloads(listener.of("front/caption"))

    before = asyncio.run(first())
    captions = asyncio.run(second())
    old = [c for c in captions if c["session"] == before]
    assert [c["id"] for c in captions[: len(old)]] == [c["id"] for c in old], "what waited comes first"
    assert len(old) >= 5
    assert [c["window"]["index"] for c in old] == sorted(c["window"]["index"] for c in old)
    assert all(c["late"] for c in old)
