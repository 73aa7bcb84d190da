"""Whoever may publish on the broker may send anything: a few hundred malformed commands here, 10,000 in `make soak`."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from app.captioner import Captioner
from app.publishing.commands import KINDS, MOST_BYTES, parse
from tests.app.live.feed import Switch, configuration, serving, until
from tests.app.publishing.listener import listening
from tests.app.publishing.schema_check import validate
from tests.conftest import Mosquitto

V5 = aiomqtt.ProtocolVersion.V5
PATHS = ("../../etc/passwd", "/tmp/owned", "C:\\windows", "a/b", "..", "~", "x\0y", "$(touch owned)", "`id`", "%s%n")
ODD = (None, True, -1, 0, 1e308, 2**70, "", "\u202e", "ä" * 3000, [], {}, [[]], {"a": {"b": []}})
LEVELS = ("..", ".", "$SYS", "ask", "result", "é", "a b", "x" * 200, "\u202e", "0", "robot", "-", "%2e")


class Hostile:
    """Malformed commands without end, from a seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._made = (self._cut, self._noise, self._nested, self._wrong_field, self._wrong_type, self._too_long)

    def topic(self) -> str:
        """Below `command/`: a command's, another name, or several levels."""
        if self._chance.random() < 0.6:
            return self._chance.choice(list(KINDS))
        return "/".join(self._chance.choices(LEVELS, k=self._chance.randint(1, 3)))

    def payload(self) -> bytes:
        return self._chance.choice(self._made)()

    def _whole(self) -> dict[str, Any]:
        return {"question": "What is near?", "camera": "front", "action": "start", "seconds": 5, "id": "x"}

    def _cut(self) -> bytes:
        text = json.dumps(self._whole()).encode()
        return text[: self._chance.randint(1, len(text) - 1)]

    def _noise(self) -> bytes:
        return b"\xff" + self._chance.randbytes(self._chance.randint(1, 400))

    def _nested(self) -> bytes:
        depth = self._chance.randint(2, 3000)
        return b'{"question":' * depth if self._chance.random() < 0.5 else b"[" * depth

    def _wrong_field(self) -> bytes:
        name = self._chance.choice((*PATHS, "__class__", "folder", "path", "file", "url"))
        return json.dumps({name: self._chance.choice(PATHS)}).encode()

    def _wrong_type(self) -> bytes:
        fields = self._whole() | {key: self._chance.choice((*ODD, *PATHS)) for key in self._whole()}
        return json.dumps(fields | {"nonsense": 1}).encode()

    def _too_long(self) -> bytes:
        return b'{"question": "' + b"x" * self._chance.choice((MOST_BYTES, 60_000)) + b'"}'


def files(folder: Path) -> set[Path]:
    """Everything in it but what the outbox keeps for itself."""
    return {path for path in folder.rglob("*") if not path.name.startswith("outbox.db")}


@pytest.mark.timeout(0)
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_commands_are_refused_or_ignored_and_do_nothing(
    count: int, mosquitto: Mosquitto, load: Callable[[], Captioner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)  # what a relative name in a command would be relative to
    hostile = Hostile(count)

    async def scenario() -> list[dict[str, Any]]:
        config = configuration(tmp_path, mosquitto.url, service={"frozen_after_s": 60.0})
        async with (
            listening(mosquitto.port) as listener,
            serving(config, load, front=Switch()) as (service, commander),
            aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=V5) as client,
        ):
            assert commander is not None
            await until(lambda: service.publisher and service.publisher.connected.is_set())
            before, question = files(tmp_path), service.worker.captioner.settings.question
            sent = 0

            def settled() -> int:
                return commander.answered.total() + commander.ignored.total()

            while sent < count:
                name, payload = hostile.topic(), hostile.payload()
                await client.publish(f"event-captioner/robot/command/{name}", payload, qos=1)
                sent += "/" not in name  # deeper ones are nobody's topic: they do not even reach us
                if sent % 50 == 0:
                    await until(lambda due=sent: settled() >= due)
            await until(lambda: settled() >= count)
            assert settled() == count
            assert commander.answered["ok"] == 0, "not one of them was a command"
            await listener.until(lambda: len(listener.of("/result")) >= commander.answered["refused"])
            assert files(tmp_path) == before
            assert not service.health.paused
            assert not service.recorder.recording
            assert service.worker.captioner.settings.question == question
            captioned = service.counts["front"].captioned
            await until(lambda: service.counts["front"].captioned > captioned)
            await until(lambda: service.health.state == "online")
            return [h.payload for h in listener.of("/result") if isinstance(h.payload, dict) and "ok" in h.payload]

    refused = asyncio.run(scenario())
    assert refused
    for answer in refused:
        validate(answer)
        assert not answer["ok"]
        assert answer["error"]


def test_every_hostile_payload_is_one_line_of_refusal() -> None:
    hostile = Hostile(7)
    for _ in range(300):
        with pytest.raises(Exception, match=r"^[^\n]+$") as refused:
            parse(hostile.topic(), hostile.payload())
        assert type(refused.value).__name__ == "CommandError"
