"""The live service against a real mosquitto: every window accounted for, degraded rather than dead, a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.captioner import Captioner
from app.live.build import health_of
from app.live.metrics import ServiceMetrics
from app.live.service import DRAIN_S, FAREWELL_S, RECORDER_S, STOP_S, Service
from app.live.worker import ServiceError
from app.logs import set_up_logging
from app.records import Caption
from app.supervision.http import StatusServer
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
                service.captioning.paused(True)
                await until(lambda: service.publisher and service.publisher.unsent == 0 and not service.worker.busy_s)
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


def test_the_shares_of_a_clean_stop_are_five_seconds() -> None:
    assert STOP_S + RECORDER_S + DRAIN_S + FAREWELL_S <= 5.0


def test_the_newest_window_wins_and_two_cameras_share_the_model(load: Load, tmp_path: Path) -> None:
    async def scenario() -> Service:
        config = configuration(tmp_path, None, windows={"length_ms": 100, "hop_ms": 100})
        make = slowed(load, lambda: 0.15)
        async with serving(config, make, front=Switch(), rear=Switch()) as (service, _):
            await until(lambda: sum(c.captioned for c in service.counts.values()) >= 20)
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


def test_what_is_old_when_it_comes_is_not_published_as_new(load: Load, tmp_path: Path) -> None:
    async def scenario() -> Service:
        switch = Switch()
        config = configuration(tmp_path, None, service={"max_age_s": 1.0})
        async with serving(config, load, front=switch) as (service, _):
            await until(lambda: service.counts["front"].captioned >= 2)
            switch.falling_behind = True
            await until(lambda: service.counts["front"].dropped["stale"] >= 2)
        return service

    assert set(asyncio.run(scenario()).counts["front"].dropped) <= {"stale", "overtime", "superseded", "stopped"}


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
            await until(lambda: service.counts["front"].arrived > before and switch.opened == 1)

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
    assert gc.get_freeze_count(), "the collector does not look through the models while windows come"


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
    time.sleep(0.25)  # longer than late_after_s: what waited is late by now, on the quickest machine too
    captions = asyncio.run(second())
    old = [c for c in captions if c["session"] == before]
    assert [c["id"] for c in captions[: len(old)]] == [c["id"] for c in old], "what waited comes first"
    assert len(old) >= 5
    assert [c["window"]["index"] for c in old] == sorted(c["window"]["index"] for c in old)
    assert all(c["late"] for c in old)


def test_an_outbox_file_that_cannot_be_opened_is_told_and_costs_no_captions(
    mosquitto: Mosquitto, load: Load, tmp_path: Path
) -> None:
    async def scenario() -> None:
        config = configuration(tmp_path, mosquitto.url, mqtt={"outbox_file": str(tmp_path)})
        async with listening(mosquitto.port) as listener, serving(config, load, front=Switch()) as (service, _):
            await listener.until(lambda: len(listener.of("front/caption")) >= 2)
            reason = f"outbox: {tmp_path}: unable to open database file"
            await until(lambda: (service.health.state, service.health.reason) == ("degraded", reason))

    asyncio.run(scenario())


def test_systemd_hears_of_every_step_and_the_watchdog_of_progress_alone(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    heard: list[str] = []
    slow = [0.0]

    async def scenario(server: socket.socket) -> None:
        def listen() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    heard.append(server.recv(10_000).decode())

        asyncio.get_running_loop().add_reader(server.fileno(), listen)
        config = configuration(tmp_path, None, service={"stuck_after_s": 0.6, "max_age_s": 60.0})
        async with serving(config, slowed(load, lambda: slow[0]), front=Switch()) as (service, _):
            await until(lambda: "READY=1" in heard and "STATUS=online" in heard)
            await until(lambda: heard.count("WATCHDOG=1") >= 2)
            slow[0] = 1.1
            await until(lambda: any("STATUS=degraded: model: a caption has been running" in h for h in heard))
            slow[0], fed = 0.0, heard.count("WATCHDOG=1")
            await until(lambda: service.worker.busy_s == 0.0)
            assert heard.count("WATCHDOG=1") <= fed + 1, "not while it was stuck"
            await until(lambda: heard.count("WATCHDOG=1") > fed + 1)
            await until(lambda: heard[-1] == "STATUS=online" or "STATUS=online" in heard[-5:])

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server:
        server.bind(address)
        asyncio.run(scenario(server))
    assert heard[0].startswith("EXTEND_TIMEOUT_USEC=")
    assert "STOPPING=1" in heard


def test_no_secret_is_in_metrics_health_or_logs(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "correct-horse-battery"
    (tmp_path / "password").write_text(secret)
    mqtt = {"url": "mqtt://rover@127.0.0.1:9", "password_file": str(tmp_path / "password"), "plain_password": True}
    config = configuration(tmp_path, None, mqtt={**mqtt, "enabled": True})
    set_up_logging("debug", "json")

    async def scenario() -> str:
        registry = CollectorRegistry()
        async with serving(config, load, registry, front=Switch()) as (service, commander):
            ServiceMetrics(service, commander).register(registry)
            with StatusServer("127.0.0.1", 0, health_of(service), registry) as server:

                def fetch(path: str) -> str:
                    reply = urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}")
                    return str(reply.read().decode())

                await until(lambda: service.counts["front"].captioned >= 2)
                metrics = await asyncio.to_thread(fetch, "/metrics")
                assert 'event_captioner_windows_captioned_total{camera="front"}' in metrics
                assert 'event_captioner_sensor_to_caption_seconds_count{camera="front"}' in metrics
                return metrics + await asyncio.to_thread(fetch, "/healthz")

    served = asyncio.run(scenario())
    out, err = capfd.readouterr()
    assert "broker_lost" in err, "the log was looked at"
    for text in (served, out, err):
        assert secret not in text
