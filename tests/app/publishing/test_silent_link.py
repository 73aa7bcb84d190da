"""A link that goes dead without closing: the broker's word for us turns `offline` in time, and we come back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from app.faults.relay import Relay
from app.publishing.dialer import Link
from app.publishing.mqtt import Publisher
from tests.app.publishing.listener import Listener, listening
from tests.app.publishing.samples import make_caption
from tests.conftest import Mosquitto

KEEPALIVE_S = 6


@pytest.fixture
def wire(mosquitto: Mosquitto) -> Iterator[Relay]:
    relay = Relay(mosquitto.port)
    yield relay
    relay.close()


def states(listener: Listener) -> list[str]:
    return [h.payload["state"] for h in listener.of("robot/status") if h.payload]


def test_a_silent_link_is_offline_within_one_and_a_half_keepalives(mosquitto: Mosquitto, wire: Relay) -> None:
    async def scenario() -> list[str]:
        link = Link(keepalive_s=KEEPALIVE_S, max_backoff_s=0.5)
        publisher = Publisher(f"mqtt://127.0.0.1:{wire.port}", "robot", link=link)
        running = asyncio.create_task(publisher.run())
        async with listening(mosquitto.port) as listener:
            await listener.until(lambda: states(listener) == ["online"])
            wire.flowing.clear()
            publisher.publish_caption(make_caption(0), "front")
            await listener.until(lambda: states(listener)[-1] == "offline", timeout_s=1.5 * KEEPALIVE_S)
            while publisher.trouble is None:  # we know it, too: for systemd and /healthz
                await asyncio.sleep(0.05)
            publisher.publish_caption(make_caption(1), "front")
            wire.flowing.set()
            await listener.until(lambda: states(listener)[-1] == "online")
            await listener.until(lambda: len({h.payload["id"] for h in listener.of("front/caption") if h.payload}) == 2)
            await asyncio.sleep(0.2)  # whatever the dead connection still held is there by now
            assert states(listener)[-1] == "online", "a late will marks nobody offline who is there"
            publisher.stop()
            await running
            return [h.payload["id"] for h in listener.of("front/caption") if h.payload]

    ids = asyncio.run(scenario())
    assert sorted(set(ids), key=ids.index) == sorted(set(ids)), "in order, repeats under the same id"


def test_a_short_silence_loses_nothing_and_changes_nothing(mosquitto: Mosquitto, wire: Relay) -> None:
    async def scenario() -> None:
        publisher = Publisher(f"mqtt://127.0.0.1:{wire.port}", "robot", link=Link(keepalive_s=KEEPALIVE_S))
        running = asyncio.create_task(publisher.run())
        async with listening(mosquitto.port) as listener:
            await listener.until(lambda: states(listener) == ["online"])
            wire.flowing.clear()
            publisher.publish_caption(make_caption(0), "front")
            await asyncio.sleep(0.5)
            assert not listener.of("front/caption")
            wire.flowing.set()
            await listener.until(lambda: listener.of("front/caption"))
            assert states(listener) == ["online"]
            assert publisher.connections == 1
            publisher.stop()
            await running

    asyncio.run(scenario())
