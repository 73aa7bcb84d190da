"""Streaming prefill in the live service: frames are taken in as they come, and an `ask` still goes first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from app.captioner import Captioner, CaptionerSettings
from app.live.build import Start, build
from app.live.scheduler import Scheduler, Turn
from app.live.service import Service
from app.live.worker import ModelWorker
from app.planning import measure_costs
from app.publishing.commands import CommandError
from app.records import Caption
from app.supervision.health import Health
from app.windows import Window
from models.bundle import VisionLanguageModel
from tests.app.live.feed import Feed, Switch, configuration, serving, until
from tests.app.live.test_service import payloads
from tests.app.publishing.listener import Listener, listening
from tests.app.publishing.schema_check import validate
from tests.conftest import Mosquitto

Pair = tuple[VisionLanguageModel, VisionLanguageModel]
SETTINGS = CaptionerSettings(max_new_tokens=6, drafter_span_us=100_000, guard=False)


def streamed(listener: Listener) -> list[dict[str, Any]]:
    """Telemetry of the captions whose frames came ahead."""
    records = payloads(listener.of("front/telemetry"))
    return [record for record in records if record["decoding"] and record["decoding"]["streamed_frames"]]


def test_frames_are_prefilled_and_the_draft_is_out_before_the_window_closes(
    mosquitto: Mosquitto, tiny_pair: Pair, tmp_path: Path
) -> None:
    costs = measure_costs(*tiny_pair, SETTINGS)

    async def scenario() -> Listener:
        config = configuration(tmp_path, mosquitto.url, mqtt={"draft_topic": True}, decoding={"lead_ms": 100.0})
        load = lambda: Captioner(*tiny_pair, SETTINGS, costs=costs)  # noqa: E731
        async with listening(mosquitto.port) as listener, serving(config, load, front=Switch()) as (service, _):
            await listener.until(lambda: len(listener.of("front/caption")) >= 3)
            await service.captioning.ask("USER ?", "front")
            so_far = len(listener.of("front/caption"))
            await listener.until(lambda: len(listener.of("front/caption")) >= so_far + 3 and streamed(listener)[-2:])
        return listener

    listener = asyncio.run(scenario())
    for payload in payloads(listener.heard):
        validate(payload)
    drafts = [payload["id"] for payload in payloads(listener.of("front/draft"))]
    assert len(set(drafts)) == len(drafts)
    assert set(drafts) & {payload["id"] for payload in payloads(listener.of("front/caption"))}
    frames = [frame for payload in streamed(listener) for frame in payload["frames"] if frame["prefill"]]
    assert any(frame["prefill"]["end_ms"] < 0 for frame in frames)


def test_work_ahead_of_a_window_makes_way_for_a_stop(
    tiny_window: Callable[..., Window], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        start = Start(sources={"front": lambda: Feed(Switch())})
        service, _ = build(configuration(tmp_path, None), start, CollectorRegistry())
        begun: asyncio.Future[Callable[[], bool]] = asyncio.get_running_loop().create_future()

        async def ahead(*given: Any) -> None:
            begun.set_result(given[-1])

        monkeypatch.setattr(service.worker, "ahead", ahead)
        service.captioning._scheduler.offer("front", replace(tiny_window(0), partial=True))
        captioning = asyncio.create_task(service.captioning.run())
        preempted = await begun
        assert not preempted()
        service.stop("the test is over")
        assert preempted()
        captioning.cancel()

    asyncio.run(scenario())


def test_what_waits_for_the_models_is_told_from_windows_that_are_open() -> None:
    async def scenario() -> list[bool]:
        scheduler: Scheduler[str] = Scheduler(["front", "rear"])
        seen = [scheduler.urgent]
        scheduler.ask("what?")
        seen.append(scheduler.urgent)
        await scheduler.next()
        return [*seen, scheduler.urgent]

    assert asyncio.run(scenario()) == [False, True, False]


def open_until(window: Window, ends_ms: int) -> Window:
    return replace(window, partial=True, ends_ns=time.monotonic_ns() + ends_ms * 1_000_000)


def test_of_several_cameras_the_window_that_ends_first_has_the_caches_until_it_closes(
    tiny_window: Callable[..., Window],
) -> None:
    async def scenario() -> list[str]:
        scheduler: Scheduler[str] = Scheduler(["front", "rear"])
        turns: list[str] = []

        async def take() -> None:
            turn = await asyncio.wait_for(scheduler.next(), 5.0)
            assert isinstance(turn, Turn)
            turns.append(f"{turn.camera} {'open' if turn.window.partial else 'closed'}")

        scheduler.offer("front", open_until(tiny_window(0), 900))
        scheduler.offer("rear", open_until(tiny_window(0), 500))
        await take()
        scheduler.offer("front", open_until(tiny_window(0), 400))  # its clock is known better now
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(scheduler.next(), 0.01)
        scheduler.offer("rear", open_until(tiny_window(0), 500))
        await take()
        scheduler.offer("rear", tiny_window(0))
        await take()
        await take()
        scheduler.offer("rear", open_until(tiny_window(1), -600))  # should have closed: its camera may be gone
        scheduler.offer("front", tiny_window(0))
        scheduler.offer("front", open_until(tiny_window(1), 900))
        await take()
        await take()
        return turns

    assert asyncio.run(scenario()) == [
        *("rear open", "rear open", "rear closed", "front open", "front closed", "front open"),
    ]


def waiting(folder: Path, *cameras: str) -> Service:
    """A service whose windows nobody takes."""
    sources = {name: (lambda: Feed(Switch())) for name in cameras}
    return build(configuration(folder, None), Start(sources=sources), CollectorRegistry())[0]


def test_a_window_that_comes_to_nothing_as_it_closes_is_not_worked_on(
    tiny_window: Callable[..., Window], tmp_path: Path
) -> None:
    async def scenario() -> str:
        captioning = waiting(tmp_path, "front", "rear").captioning
        captioning.on_window("front", open_until(tiny_window(0), 100))
        captioning.on_window("rear", open_until(tiny_window(0), 900))
        captioning.on_window("front", tiny_window(0, frames=0))
        turn = await asyncio.wait_for(captioning._scheduler.next(), 5.0)
        assert isinstance(turn, Turn)
        return turn.camera

    assert asyncio.run(scenario()) == "rear"


def test_a_question_that_waits_outlives_a_pause_and_is_told_of_a_stop(
    tiny_window: Callable[..., Window], tmp_path: Path
) -> None:
    async def scenario() -> None:
        captioning = waiting(tmp_path, "front").captioning
        captioning.on_window("front", replace(tiny_window(0), closed_ns=time.monotonic_ns()))
        asked = asyncio.create_task(captioning.ask("What is near?", None))
        await asyncio.sleep(0)
        captioning.paused(True)
        assert captioning.counts["front"].dropped == {"paused": 1}
        captioning.stopping = True
        running = asyncio.create_task(captioning.run())
        with pytest.raises(CommandError, match="the service stops"):
            await asyncio.wait_for(asked, 5.0)
        running.cancel()

    asyncio.run(scenario())


def test_two_cameras_are_streamed_in_turn_and_say_what_they_would_say_alone(tiny_pair: Pair, tmp_path: Path) -> None:
    costs = measure_costs(*tiny_pair, SETTINGS)
    said: dict[tuple[str, int], tuple[Window, Caption]] = {}

    def load() -> Captioner:
        captioner = Captioner(*tiny_pair, SETTINGS, costs=costs)
        made = captioner.caption

        def caption(window: Window, camera: str = "") -> Caption:
            said[camera, window.index] = window, made(window, camera)
            return said[camera, window.index][1]

        captioner.caption = caption  # type: ignore[method-assign]
        return captioner

    def streamed(camera: str) -> int:
        return sum(caption.stats.streamed_frames > 0 for (name, _), (_, caption) in said.items() if name == camera)

    async def scenario() -> None:
        config = configuration(tmp_path, None, decoding={"lead_ms": 100.0})
        async with serving(config, load, front=Switch(), rear=Switch()):
            await until(lambda: min(streamed("front"), streamed("rear")) >= 2)

    asyncio.run(scenario())
    alone = Captioner(*tiny_pair, replace(SETTINGS, strategy="autoregressive", streaming=False), costs=costs)
    for window, caption in said.values():
        assert caption.token_ids == alone.caption(window).token_ids
    alone.close()


def test_a_failure_ahead_of_a_window_costs_no_caption(tiny_pair: Pair, tiny_window: Callable[..., Window]) -> None:
    costs = measure_costs(*tiny_pair, SETTINGS)
    window = tiny_window(1)
    torn = replace(window.frames[1], frame=replace(window.frames[1].frame, image=np.zeros((0, 0, 3), np.uint8)))

    async def scenario() -> list[int]:
        worker = ModelWorker(lambda: Captioner(*tiny_pair, SETTINGS, costs=costs), Health(), 3)
        await worker.start()
        ahead = replace(window, frames=(window.frames[0], torn), partial=True, draft_due=False)
        await worker.ahead(ahead, "front", lambda window, text: None)
        caption = await worker.caption(window, "front", lambda window, text: None)
        await worker.close(5.0)
        return [caption.stats.streamed_frames, caption.stats.tokens]

    streamed, tokens = asyncio.run(scenario())
    assert streamed <= 1
    assert tokens
