"""Against a real mosquitto: births, wills, reconnects, order, and how every topic is delivered."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.publishing.dialer import Link, backoff_s
from app.publishing.errors import PublishError
from app.publishing.mqtt import Publisher
from app.publishing.outbox import Outbox
from app.publishing.state_payloads import StreamStatus
from tests.app.publishing.listener import listening
from tests.app.publishing.samples import make_caption, make_dropped, make_window
from tests.app.publishing.schema_check import validate
from tests.conftest import Mosquitto

ROOT = Path(__file__).parents[3]
BIRTH = ["robot/camera/front/status", "robot/info", "robot/status"]


def make_publisher(url: str, connect_timeout_s: float | None = None, **options: Any) -> Publisher:
    link = Link(connect_timeout_s=connect_timeout_s, max_backoff_s=0.2)
    publisher = Publisher(url, "robot", link=link, **options)
    publisher.set_info(
        version="0.1.0",
        models={"drafter": "d", "target": "t", "demo": True},
        runtimes=["onnx"],
        cameras={"front": {"resolution": [346, 260], "events": True, "frames": True, "live": True}},
        capabilities=["telemetry"],
    )
    publisher.set_camera_status("front", {"events": StreamStatus("online"), "frames": StreamStatus("online")})
    return publisher


@contextlib.asynccontextmanager
async def running(publisher: Publisher) -> AsyncIterator[None]:
    """Run it, connected; stop it after the block."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publisher.run())
        await asyncio.wait_for(publisher.connected.wait(), 10)
        yield
        publisher.stop()


def test_delivery_is_as_the_table_says(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        publisher = make_publisher(mosquitto.url, drafts=True)
        async with listening(mosquitto.port) as listener:
            async with running(publisher):
                publisher.publish_draft(make_window(), "a red", "front")
                returned = publisher.publish_caption(make_caption(), "front")
                publisher.publish_dropped(make_dropped(1), "front")
                assert await publisher.drain(5) == 0
            await listener.until(lambda: len(listener.of("/status")) == 3)

        camera = "robot/camera/front"
        sent = [(h.topic, h.retain, h.qos) for h in listener.heard]
        assert sent[:3] == [(topic, True, 1) for topic in BIRTH]
        assert sorted(sent[3:7]) == sorted(
            [
                (f"{camera}/draft", False, 0),
                (f"{camera}/caption", False, 1),
                (f"{camera}/caption/last", True, 1),
                (f"{camera}/telemetry", False, 0),
            ]
        )
        assert sent[7:] == [(f"{camera}/telemetry", False, 0), (f"{camera}/caption/last", True, 1), (BIRTH[2], True, 1)]

        for heard in listener.heard:
            if heard.payload is not None:
                validate(heard.payload)
                assert heard.properties.ContentType == "application/json"
        caption, last = (listener.of(leaf)[0] for leaf in ("/caption", "/caption/last"))
        assert caption.payload == last.payload == returned
        assert listener.of("/draft")[0].payload["id"] == returned["id"]  # type: ignore[index]
        assert 1 <= last.properties.MessageExpiryInterval <= 60
        assert listener.of("/caption/last")[-1].payload is None  # cleared by the stop
        assert [h.payload["state"] for h in listener.of("robot/status")] == ["online", "stopped"]  # type: ignore[index]

        record = listener.of("/telemetry")[0].payload
        assert record is not None
        publish = record["publish"]
        assert 0 <= publish["queued_ms"] <= publish["sent_ms"] < publish["acked_ms"]
        assert (publish["attempts"], publish["dropped"]) == (1, None)

    asyncio.run(scenario())


def test_captions_arrive_in_order_through_a_broker_restart(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker forgot everything: state first, then the birth, then what waited, in order."""
    monkeypatch.setattr("app.publishing.dialer.backoff_s", lambda *_: 1.0)  # the listener is to be there first

    async def scenario() -> None:
        publisher = make_publisher(mosquitto.url)
        async with running(publisher):
            async with listening(mosquitto.port) as before:
                for i in range(20):
                    publisher.publish_caption(make_caption(i), "front")
                assert await publisher.drain(5) == 0
                await before.until(lambda: len(before.of("/caption")) == 20)
            mosquitto.stop()
            async with asyncio.timeout(5):
                while publisher.connected.is_set():
                    await asyncio.sleep(0.01)
            for i in range(20, 40):
                publisher.publish_caption(make_caption(i), "front")
            assert publisher.unsent >= 40
            mosquitto.start()
            async with listening(mosquitto.port) as after:
                assert await publisher.drain(10) == 0
                await after.until(lambda: len(after.of("/caption")) == 20)
        assert [h.payload["seq"] for h in before.of("/caption")] == list(range(20))  # type: ignore[index]
        assert [h.payload["seq"] for h in after.of("/caption")] == list(range(20, 40))  # type: ignore[index]
        assert after.topics()[:4] == [BIRTH[0], "robot/camera/front/caption/last", *BIRTH[1:]]

    asyncio.run(scenario())


def test_retained_state_comes_again_after_a_restart(mosquitto: Mosquitto) -> None:
    """A broker without a disk forgets; a late joiner must find the state, and the birth came last."""

    async def scenario() -> None:
        publisher = make_publisher(mosquitto.url)
        async with running(publisher):
            publisher.publish_caption(make_caption(3), "front")
            assert await publisher.drain(5) == 0
            mosquitto.stop()
            mosquitto.start()
            async with listening(mosquitto.port) as listener:
                await listener.until(lambda: listener.of("robot/status"))
                last = listener.of("/caption/last")[0]
                assert last.payload["seq"] == 0  # type: ignore[index]
                assert set(listener.topics()) == {*BIRTH, "robot/camera/front/caption/last"}

    asyncio.run(scenario())


_CHILD = """
import asyncio, sys
from app.publishing.mqtt import Publisher
async def main():
    publisher = Publisher(sys.argv[1], "robot")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publisher.run())
        await publisher.connected.wait()
        print(publisher.session, flush=True)
asyncio.run(main())
"""


def test_a_killed_process_leaves_its_will(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        command = [sys.executable, "-c", _CHILD, mosquitto.url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
            async with listening(mosquitto.port) as listener:
                assert child.stdout is not None
                session = (await asyncio.to_thread(child.stdout.readline)).strip()
                os.kill(child.pid, signal.SIGKILL)
                await listener.until(lambda: len(listener.of("robot/status")) == 2)
        will = listener.of("robot/status")[-1]
        assert will.payload is not None
        validate(will.payload)
        assert (will.payload["state"], will.payload["session"], will.retain, will.qos) == ("offline", session, True, 1)

    asyncio.run(scenario())


def test_cancelled_is_a_clean_stop(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        publisher = make_publisher(mosquitto.url)
        async with listening(mosquitto.port) as listener:
            task = asyncio.create_task(publisher.run())
            await asyncio.wait_for(publisher.connected.wait(), 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await listener.until(lambda: len(listener.of("robot/status")) == 2)
            await asyncio.sleep(0.1)
        assert [h.payload["state"] for h in listener.of("robot/status")] == ["online", "stopped"]  # type: ignore[index]

    asyncio.run(scenario())


def test_cancelled_during_the_farewell_still_says_stopped(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        publisher = make_publisher(mosquitto.url)
        async with listening(mosquitto.port) as listener:
            task = asyncio.create_task(publisher.run())
            await asyncio.wait_for(publisher.connected.wait(), 5)
            publisher.publish_caption(make_caption(), "front")
            await publisher.drain(5)
            publisher.stop("enough")
            while publisher.connected.is_set():
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await listener.until(lambda: len(listener.of("robot/status")) == 2)
        assert listener.of("robot/status")[-1].payload["reason"] == "enough"  # type: ignore[index]

    asyncio.run(scenario())


def test_a_late_will_is_corrected(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        publisher = make_publisher(mosquitto.url)
        async with running(publisher), listening(mosquitto.port) as listener:
            await listener.until(lambda: listener.of("robot/status"))
            ghost = make_publisher(mosquitto.url)  # another session of the same node that ends
            async with running(ghost):
                pass
            await listener.until(lambda: listener.of("robot/status")[-1].payload["session"] == publisher.session)  # type: ignore[index]
            states = [(h.payload["session"], h.payload["state"]) for h in listener.of("robot/status")]  # type: ignore[index]
            assert states[-2:] == [(ghost.session, "stopped"), (publisher.session, "online")]

    asyncio.run(scenario())


def test_a_caption_does_not_wait_for_a_delayed_ack(mosquitto: Mosquitto) -> None:
    """What follows an unacknowledged QoS 0 record used to wait 40 ms (Nagle's algorithm against delayed ACKs)."""

    async def scenario() -> float:
        publisher = make_publisher(mosquitto.url)
        async with listening(mosquitto.port) as listener, running(publisher):
            for i in range(30):
                publisher.publish_caption(make_caption(i), "front")
            assert await publisher.drain(10) == 0
            await listener.until(lambda: len(listener.of("/telemetry")) == 30)
        ways = [h.payload["publish"] for h in listener.of("/telemetry") if h.payload]
        return sorted(w["acked_ms"] - w["sent_ms"] for w in ways)[15]

    assert asyncio.run(scenario()) < 25


def test_a_replay_has_its_own_node_and_retains_nothing(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        publisher = make_publisher(mosquitto.url, replay=True)
        async with listening(mosquitto.port) as listener:
            async with running(publisher):
                publisher.publish_caption(make_caption(), "front")
                assert await publisher.drain(5) == 0
            await listener.until(lambda: len(listener.of("t/status")) >= 2 and listener.of("robot/status")[-1])
        assert all(h.topic.startswith("replay-robot/") and not h.retain for h in listener.heard)
        assert listener.of("/caption")[0].payload["replay"] is True  # type: ignore[index]
        async with listening(mosquitto.port) as late:
            await asyncio.sleep(0.2)
        assert late.heard == []

    asyncio.run(scenario())


def test_an_older_caption_never_replaces_the_last(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        publisher = make_publisher(mosquitto.url)
        now = time.monotonic_ns()
        async with listening(mosquitto.port) as listener, running(publisher):
            publisher.publish_caption(make_caption(5, closed_ns=now), "front")
            publisher.publish_caption(make_caption(4, closed_ns=now - 1_000_000_000), "front")
            assert await publisher.drain(5) == 0
            await listener.until(lambda: len(listener.of("/caption")) == 2)
            await asyncio.sleep(0.05)
        indices = [h.payload["window"]["index"] for h in listener.of("/caption/last") if h.payload]
        assert indices == [5]

    asyncio.run(scenario())


def test_late_captions_say_so_and_a_full_outbox_drops_the_oldest(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        outbox = Outbox(max_messages=3, late_after_s=0.05)
        publisher = make_publisher(mosquitto.url, outbox=outbox)
        started = time.perf_counter()
        for i in range(50):
            publisher.publish_caption(make_caption(i), "front")
        assert time.perf_counter() - started < 1
        await asyncio.sleep(0.1)
        async with listening(mosquitto.port) as listener, running(publisher):
            assert await publisher.drain(5) == 0
            await listener.until(lambda: len(listener.of("/caption")) == 3)
        captions = [h.payload for h in listener.of("/caption")]
        assert [c["seq"] for c in captions if c] == [47, 48, 49]  # the gap shows the loss
        assert all(c["late"] for c in captions if c)
        assert outbox.dropped == {"full": 97}

    asyncio.run(scenario())


def test_an_absent_broker_is_one_line(mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    publisher = make_publisher(mosquitto.url, connect_timeout_s=0.3)
    with pytest.raises(PublishError) as caught:
        asyncio.run(asyncio.wait_for(publisher.run(), 5))
    assert str(caught.value) == (
        f"broker 127.0.0.1:{mosquitto.port}: no connection (Connection refused); "
        "start a broker there, name another with --mqtt URL, or run with --no-mqtt"
    )


def test_a_refusing_broker_is_one_line(refusing_mosquitto: Mosquitto) -> None:
    publisher = make_publisher(refusing_mosquitto.url, connect_timeout_s=5)
    with pytest.raises(PublishError, match=r"refused the connection \(Not authorized\); .*--no-mqtt"):
        asyncio.run(asyncio.wait_for(publisher.run(), 5))


def test_live_waits_for_a_broker_that_comes_later(mosquitto: Mosquitto) -> None:
    async def scenario() -> None:
        mosquitto.stop()
        publisher = make_publisher(mosquitto.url)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publisher.run())
            assert await publisher.drain(0.3) == 3  # the birth
            mosquitto.start()
            assert await publisher.drain(5) == 0
            publisher.stop()

    asyncio.run(scenario())


def test_a_broker_that_accepts_and_says_nothing_costs_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("REPLY_S", "V5_REPLY_S"):
        monkeypatch.setattr(f"app.publishing.dialer.{limit}", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        accepted: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(mute.accept()[0])

        threading.Thread(target=accept, daemon=True).start()

        async def scenario() -> int:
            publisher = make_publisher(f"mqtt://127.0.0.1:{mute.getsockname()[1]}")
            task = asyncio.create_task(publisher.run())
            while len(accepted) < 6:
                await asyncio.sleep(0.02)
            open_here = 0
            for server_side in accepted[:5]:
                server_side.settimeout(0.5)
                try:
                    while server_side.recv(1000):
                        pass
                except TimeoutError:
                    open_here += 1
            publisher.stop()
            await asyncio.wait_for(task, 5)
            return open_here

        assert asyncio.run(scenario()) == 0
        mute.shutdown(socket.SHUT_RDWR)
        for connection in accepted:
            connection.close()


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which try after a good connection each pause belongs to; the pauses are short, and any connection a good one."""
    made: list[int] = []

    def pause_s(attempt: int, longest_s: float) -> float:
        made.append(attempt)
        return 0.05

    monkeypatch.setattr("app.publishing.dialer.backoff_s", pause_s)
    monkeypatch.setattr("app.publishing.dialer.HELD_S", 0.0)
    return made


def test_a_host_that_stays_silent_is_tried_ever_more_rarely(tries: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("REPLY_S", "V5_REPLY_S"):
        monkeypatch.setattr(f"app.publishing.dialer.{limit}", 0.05)

    async def scenario(port: int) -> None:
        running = asyncio.create_task(make_publisher(f"mqtt://127.0.0.1:{port}").run())
        while len(tries) < 4:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0)) as mute:
        asyncio.run(scenario(mute.getsockname()[1]))
    assert tries[:4] == [0, 1, 2, 3]


def test_after_a_good_connection_the_next_try_comes_soon(mosquitto: Mosquitto, tries: list[int]) -> None:
    async def scenario() -> None:
        publisher = make_publisher(mosquitto.url)
        async with running(publisher):
            for lost in range(2):
                mosquitto.stop()
                while tries.count(0) <= lost or tries[-1] < 2:
                    await asyncio.sleep(0.01)
                mosquitto.start()
                await asyncio.wait_for(publisher.connected.wait(), 10)

    asyncio.run(scenario())
    assert tries.count(0) == 2
    assert all(later in (0, earlier + 1) for earlier, later in itertools.pairwise(tries))


def test_backoff_doubles_is_capped_and_jittered() -> None:
    assert all(0.25 <= backoff_s(0, 30) <= 0.5 for _ in range(50))
    assert all(15 <= backoff_s(1000, 30) <= 30 for _ in range(50))
    assert len({backoff_s(3, 30) for _ in range(10)}) > 1
