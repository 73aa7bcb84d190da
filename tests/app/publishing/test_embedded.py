"""The broker for the demo, found or started, and gone afterwards."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.publishing import embedded
from app.publishing.broker import parse_url
from app.publishing.dialer import Link
from app.publishing.embedded import answers, find_or_start_broker, free_port
from app.publishing.errors import PublishError
from app.publishing.mqtt import Publisher
from tests.app.publishing.samples import make_caption
from tests.conftest import Mosquitto


def absent() -> str:
    return f"mqtt://127.0.0.1:{free_port()}"


def test_a_broker_that_answers_is_used(mosquitto: Mosquitto) -> None:
    with find_or_start_broker(mosquitto.url) as found:
        assert (found.url, found.kind) == (mosquitto.url, "configured")
    assert answers(parse_url(mosquitto.url))


def test_a_broker_that_refuses_us_answers(refusing_mosquitto: Mosquitto) -> None:
    assert answers(parse_url(refusing_mosquitto.url))


def test_mosquitto_is_started_and_ended() -> None:
    if not (shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")):
        pytest.skip("mosquitto is not installed")
    with find_or_start_broker(absent()) as found:
        assert found.kind == "mosquitto"
        assert answers(parse_url(found.url))
    assert not answers(parse_url(found.url))


_PARENT = """
import sys, time
from app.publishing.embedded import find_or_start_broker
with find_or_start_broker(sys.argv[1]) as found:
    print(found.url, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_it_ends_with_a_killed_parent(tmp_path: Path) -> None:
    if not (shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")):
        pytest.skip("mosquitto is not installed")
    command = [sys.executable, "-c", _PARENT, absent()]
    env = {**os.environ, "TMPDIR": str(tmp_path)}  # where a killed parent leaves the broker's folder
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as parent:
        assert parent.stdout is not None
        broker = parse_url(parent.stdout.readline().strip())
        assert answers(broker)
        parent.kill()
    deadline = time.monotonic() + 5
    while answers(broker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not answers(broker)


def test_amqtt_takes_captions_where_no_mosquitto_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """amqtt speaks only MQTT 3.1.1: the publisher falls back."""
    if importlib.util.find_spec("amqtt") is None:
        pytest.skip("amqtt is not installed (extra `demo`)")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)

    async def publish(url: str) -> int:
        publisher = Publisher(url, "robot", replay=True, link=Link(connect_timeout_s=10))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publisher.run())
            for i in range(5):
                publisher.publish_caption(make_caption(i), "front")
            unsent = await publisher.drain(15)
            publisher.stop()
        return unsent

    with find_or_start_broker(absent()) as found:
        assert found.kind == "amqtt"
        assert asyncio.run(publish(found.url)) == 0
    assert not answers(parse_url(found.url))


def test_nothing_to_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PublishError, match="install mosquitto, or amqtt"), find_or_start_broker(absent()):
        pass


def test_a_broker_that_ends_at_once_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_mosquitto", lambda *_: ["false"])
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "mosquitto")
    with pytest.raises(PublishError, match="ended with code 1"), find_or_start_broker(absent()):
        pass
