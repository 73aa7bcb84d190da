"""The service with the cameras of its configuration, served over the network: a lost one is told and taken up again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from app.captioner import Captioner
from app.live.build import Start, build
from app.live.camera import Camera
from app.sensors.contract import Source, SourceError
from app.supervision.health import Health
from app.windower import Windower
from tests.app.live.feed import configuration, until
from tests.app.sensors.serving import Server, free_port


def test_a_camera_that_is_lost_is_told_and_taken_up_again(load: Callable[[], Captioner], tmp_path: Path) -> None:
    events_port, frames_port = free_port(), free_port()
    cameras = {
        "front": {
            "source": "live",
            "event_camera": {"network": f"127.0.0.1:{events_port}"},
            "rgb_camera": {"network": f"127.0.0.1:{frames_port}"},
        }
    }
    servers = [Server(events_port), Server(free_port(), frames_port)]

    async def scenario() -> None:
        config = configuration(
            tmp_path, None, cameras=cameras, service={"stalled_after_s": 60.0, "frozen_after_s": 60.0}
        )
        service, _ = build(config, Start(load=load), CollectorRegistry())
        running = asyncio.create_task(service.run())
        counts = service.counts["front"]
        events = service.cameras["front"].streams["events"]
        try:
            await until(lambda: counts.captioned >= 2, 200)
            servers[0].kill()
            await until(lambda: events.state == "reconnecting", 200)
            assert f"127.0.0.1:{events_port}" in (events.reason or "")
            before = counts.captioned
            await until(lambda: counts.captioned >= before + 2, 200)  # the target captions alone
            servers.append(await asyncio.to_thread(Server, events_port))
            await until(lambda: events.state == "online", 200)
        finally:
            service.stop("the test is over")
            await running
        assert counts.arrived == counts.captioned + sum(counts.dropped.values())
        assert set(service.cameras["front"].lost) >= {"captured_events", "captured_frames"}

    try:
        asyncio.run(scenario())
    finally:
        for server in servers:
            server.kill()


def test_a_stop_calls_an_opening_off() -> None:
    begun, seen = threading.Event(), []

    def open_source(called_off: threading.Event) -> Source:
        begun.set()
        seen.append(called_off.wait(100))
        raise SourceError("called off")

    def no_windows(*_: object) -> Windower:
        raise AssertionError("nothing was opened")

    async def scenario() -> None:
        camera = Camera(
            "front", open_source, no_windows, no_windows, Health(), stalled_after_s=1, frozen_after_s=1, restarts=1
        )
        running = asyncio.create_task(camera.run())
        await asyncio.to_thread(begun.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(scenario())
    assert seen == [True]
