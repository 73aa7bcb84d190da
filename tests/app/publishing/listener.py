"""A subscriber of its own, to see what a publisher really sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiomqtt
from paho.mqtt.subscribeoptions import SubscribeOptions


@dataclass(frozen=True)
class Heard:
    topic: str  # below the root
    payload: dict[str, Any] | None  # None: empty, or no JSON
    retain: bool
    qos: int
    properties: Any


class Listener:
    """Everything below `event-captioner/`, in order of arrival."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []

    def topics(self) -> list[str]:
        return [h.topic for h in self.heard]

    def of(self, leaf: str) -> list[Heard]:
        return [h for h in self.heard if h.topic.endswith(leaf)]

    async def until(self, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def listening(port: int) -> AsyncIterator[Listener]:
    """Connected to 127.0.0.1:`port`, retained messages first; the retain flag is shown as it was published."""
    listener = Listener()

    async def read(client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = None
            with contextlib.suppress(ValueError, RecursionError):  # hostile commands are heard, too
                payload = json.loads(message.payload)
            topic = message.topic.value.partition("/")[2]
            listener.heard.append(Heard(topic, payload, message.retain, message.qos, message.properties))

    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe("event-captioner/#", options=SubscribeOptions(qos=1, retainAsPublished=True))
        reader = asyncio.create_task(read(client))
        try:
            yield listener
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
