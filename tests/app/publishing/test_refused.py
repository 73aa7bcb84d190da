"""A broker that lets us in and then refuses something: counted, told, and no reason to stop the rest."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.publishing import topics
from app.publishing.outbox import Message, Outbox
from app.publishing.store import Store
from tests.app.publishing.listener import listening
from tests.app.publishing.samples import make_caption
from tests.app.publishing.schema_check import validate
from tests.app.publishing.test_mqtt import make_publisher, running
from tests.conftest import Mosquitto

BASE = "event-captioner/robot"
DYNAMIC_SECURITY = Path("/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so")

Start = Callable[[str], Mosquitto]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a mosquitto with lines of configuration for whom it lets do what."""
    if not (shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")):
        pytest.skip("mosquitto is not installed")
    started: list[Mosquitto] = []

    def make(extra: str) -> Mosquitto:
        broker = Mosquitto(tmp_path, f"allow_anonymous true\nuser root\n{extra}")  # root: to read what is in tmp_path
        broker.start()
        started.append(broker)
        return broker

    yield make
    for broker in started:
        broker.stop()


def test_refused_captions_are_counted_and_told_until_they_are_let_through(start: Start, tmp_path: Path) -> None:
    rules, birth = tmp_path / "rules", f"topic read #\ntopic write {BASE}/status\ntopic write {BASE}/info\n"
    rules.write_text(birth)
    broker = start(f"acl_file {rules}")
    store = Store(tmp_path / "outbox.db")
    outbox = Outbox(store=store)

    async def scenario() -> None:
        publisher = make_publisher(broker.url, outbox=outbox)
        async with listening(broker.port) as listener, running(publisher):
            publisher.publish_caption(make_caption(0), "front")
            message = Message(publisher.topics.caption("rear"), {"text": "?"}, topics.CAPTION)
            outbox.put_nowait(message)
            assert await publisher.drain(5) == 0
            assert (message.receipt.acked_ns, message.receipt.dropped) == (None, "refused")
            assert outbox.dropped == {"refused": 3}  # two captions and a camera's status
            what = f"refuses messages on {BASE}/camera/front/status and 2 more: Not authorized"
            assert publisher.trouble == what
            assert publisher.connected.is_set()

            rules.write_text(f"{birth}topic write {BASE}/camera/#\n")
            assert broker.process is not None
            broker.process.send_signal(signal.SIGHUP)
            while publisher.trouble is not None:
                publisher.publish_caption(make_caption(1), "front")
                outbox.put_nowait(Message(publisher.topics.caption("rear"), {"text": "?"}, topics.CAPTION))
                publisher.set_camera_status("front", {})
                assert await publisher.drain(5) == 0
                await asyncio.sleep(0.02)
            await listener.until(lambda: listener.of("front/caption") and listener.of("front/caption/last"))
            assert publisher.connections == 1

    asyncio.run(scenario())
    store.close()
    again = Store(tmp_path / "outbox.db")
    assert again.waiting == []
    again.close()


def test_the_telemetry_says_that_a_caption_was_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(f"topic read #\ntopic write {BASE}/camera/+/telemetry\n")
    broker = start(f"acl_file {tmp_path / 'rules'}")

    async def scenario() -> None:
        publisher = make_publisher(broker.url)
        async with listening(broker.port) as listener, running(publisher):
            publisher.publish_caption(make_caption(), "front")
            await listener.until(lambda: listener.of("/telemetry"))
        record = listener.of("/telemetry")[0].payload
        assert record is not None
        validate(record)
        assert (record["publish"]["acked_ms"], record["publish"]["dropped"]) == (None, "refused")

    asyncio.run(scenario())


def test_who_may_not_empty_the_last_caption_still_says_stopped(start: Start, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic readwrite #\n")
    broker = start(f"acl_file {rules}")

    async def scenario() -> None:
        publisher = make_publisher(broker.url)
        async with listening(broker.port) as listener:
            async with running(publisher):
                publisher.publish_caption(make_caption(), "front")
                assert await publisher.drain(5) == 0
                rules.write_text(f"topic read #\ntopic write {BASE}/status\n")
                assert broker.process is not None
                broker.process.send_signal(signal.SIGHUP)
                while publisher.trouble is None:
                    publisher.set_camera_status("front", {})
                    assert await publisher.drain(5) == 0
                    await asyncio.sleep(0.02)
            await listener.until(lambda: listener.of("robot/status")[-1].payload["state"] == "stopped")  # type: ignore[index]
            assert listener.of("caption/last")[-1].payload is not None

    asyncio.run(scenario())


@pytest.mark.skipif(not DYNAMIC_SECURITY.exists(), reason="needs mosquitto's dynamic security plugin")
def test_a_refused_subscription_is_told(start: Start, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    may = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    rules.write_text(json.dumps({"defaultACLAccess": may}))
    broker = start(f"plugin {DYNAMIC_SECURITY}\nplugin_opt_config_file {rules}")

    async def scenario() -> None:
        publisher = make_publisher(broker.url)
        publisher.on_command(lambda name, message: None)
        async with running(publisher):
            while publisher.trouble != f"refuses the subscription to {BASE}/status and 1 more: Not authorized":
                await asyncio.sleep(0.02)
            publisher.publish_caption(make_caption(), "front")
            assert await publisher.drain(5) == 0
            assert not publisher.outbox.dropped

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_what_json_cannot_say_costs_one_message(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        publisher = make_publisher(mosquitto.url)
        async with listening(mosquitto.port) as listener, running(publisher):
            for value in (float("nan"), 1.0):
                message = Message(publisher.topics.caption("front"), {"value": value}, topics.CAPTION)
                publisher.outbox.put_nowait(message)
            await listener.until(lambda: listener.of("/caption"))
        assert [h.payload for h in listener.of("/caption")] == [{"value": 1.0}]
        assert publisher.outbox.dropped == {"invalid": 1}
        assert publisher.connections == 1

    asyncio.run(scenario())
