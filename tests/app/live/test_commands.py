"""Commands to a running service over a real mosquitto, as a robot's own programs send them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from app.captioner import Captioner
from app.live.service import Service
from app.sensors.recording import describe
from tests.app.live.feed import Switch, configuration, serving, until
from tests.app.publishing.listener import Heard, Listener, listening
from tests.app.publishing.schema_check import validate
from tests.conftest import Mosquitto

Load = Callable[[], Captioner]
V5 = aiomqtt.ProtocolVersion.V5


class Operator:
    """Sends commands and waits for their answers."""

    def __init__(self, client: aiomqtt.Client, listener: Listener) -> None:
        self._client, self.listener = client, listener
        self._count = 0

    async def send(self, command: str, payload: bytes, **options: Any) -> None:
        await self._client.publish(f"event-captioner/robot/command/{command}", payload, qos=1, **options)

    async def order(self, command: str, **fields: Any) -> dict[str, Any]:
        """The answer's payload."""
        self._count += 1
        fields["id"] = f"order-{self._count}"
        await self.send(command, json.dumps(fields).encode())
        answer = await self.answer(command, fields["id"])
        assert answer.payload is not None
        return answer.payload

    async def answer(self, command: str, correlation: str | None) -> Heard:
        def found() -> list[Heard]:
            heard = self.listener.of(f"command/{command}/result")
            return [h for h in heard if isinstance(h.payload, dict) and h.payload.get("correlation") == correlation]

        await self.listener.until(found)
        validate(found()[-1].payload or {})
        assert not found()[-1].retain
        return found()[-1]


@contextlib.asynccontextmanager
async def operating(
    mosquitto: Mosquitto, load: Load, folder: Path, **sections: Any
) -> AsyncIterator[tuple[Operator, Service]]:
    config = configuration(folder, mosquitto.url, **sections)
    async with (
        listening(mosquitto.port) as listener,
        serving(config, load, front=Switch()) as (service, _),
        aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=V5) as client,
    ):
        await listener.until(lambda: listener.of("front/caption"))
        yield Operator(client, listener), service


def test_pause_resume_prompt_and_ask(mosquitto: Mosquitto, load: Load, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with operating(mosquitto, load, tmp_path) as (operator, service):
            assert (await operator.order("pause"))["result"] == {"paused": True}
            counts = service.counts["front"]
            await until(lambda: counts.dropped["paused"] >= 2)
            captioned = counts.captioned
            asked = await operator.order("ask", question="What is near?")
            assert asked["ok"], asked
            assert asked["result"]["camera"] == "front"
            assert asked["result"]["verified"]
            assert counts.captioned <= captioned + 1, "what was in hand when the order came"
            assert (await operator.order("resume"))["result"] == {"paused": False}

            assert (await operator.order("prompt", question="What is far?"))["result"] == {"question": "What is far?"}
            heard = operator.listener
            await heard.until(lambda: (heard.of("front/caption")[-1].payload or {})["prompt"] == "What is far?")
            usual = (await operator.order("prompt"))["result"]["question"]
            await heard.until(lambda: (heard.of("front/caption")[-1].payload or {})["prompt"] == usual)

            too_long = await operator.order("prompt", question="robot " * 300)
            assert not too_long["ok"]
            assert "question: " in too_long["error"]
            nowhere = await operator.order("ask", question="What?", camera="rear")
            assert nowhere["error"] == "camera: there is no 'rear'; known: front"

    asyncio.run(scenario())


def test_correlation_data_comes_back_and_old_orders_are_ignored(
    mosquitto: Mosquitto, load: Load, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=V5) as client:
            await client.publish("event-captioner/robot/command/pause", b'{"id": "old"}', qos=1, retain=True)
        async with operating(mosquitto, load, tmp_path) as (operator, service):
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = b"\x01\xff"
            await operator.send("resume", b"", properties=properties)
            answer = await operator.answer("resume", "01ff")
            assert answer.properties.CorrelationData == b"\x01\xff"
            await operator.send("pause", b'{"id": "kept"}', retain=True)  # retained while we are connected
            assert (await operator.order("resume"))["ok"]
            assert not service.health.paused
            assert not operator.listener.of("command/pause/result")

    asyncio.run(scenario())


def test_hostile_payloads_and_topics_do_no_harm(mosquitto: Mosquitto, load: Load, tmp_path: Path) -> None:
    async def scenario() -> None:
        sections = {"commands": {"allow": ["ask"]}}
        async with operating(mosquitto, load, tmp_path, **sections) as (operator, service):
            before = set(tmp_path.rglob("*"))
            names = ["ask", "pause", "record", "reboot", "é", "a b", "..", "$SYS", "x" * 300, "ask/result", "ask/x/y"]
            for name in names:
                for payload in (b"", b"{", b"\xff" * 50, b"[" * 900, b'{"question": 1}', b"7" * 20_000):
                    await operator.send(name, payload)
            asked = await operator.order("ask", question="What is near?")
            assert asked["ok"], asked
            for name in ("pause", "record", "reboot"):
                refused = [h.payload for h in operator.listener.of(f"command/{name}/result") if h.payload]
                assert len(refused) == 6, name
                assert not any(answer["ok"] for answer in refused)
            captioned = service.counts["front"].captioned
            await until(lambda: service.counts["front"].captioned > captioned)
            assert set(tmp_path.rglob("*")) == before
            assert not service.health.paused

    asyncio.run(scenario())


def test_a_recording_of_all_streams_with_the_captions_beside_it(
    mosquitto: Mosquitto, load: Load, tmp_path: Path
) -> None:
    async def scenario() -> tuple[dict[str, Any], int]:
        async with operating(mosquitto, load, tmp_path) as (operator, service):
            assert (await operator.order("record", action="start"))["result"]["recording"]
            assert "runs already" in (await operator.order("record", action="start"))["error"]
            await until(lambda: len(service.recorder.state()["files"]) == 2)
            captioned = service.counts["front"].captioned
            await until(lambda: service.counts["front"].captioned >= captioned + 3)
            return (await operator.order("record", action="stop"))["result"], captioned

    result, _ = asyncio.run(scenario())
    assert not result["recording"]
    recording, captions = (tmp_path / "recordings" / name for name in result["files"])
    assert recording.name.endswith("-front.aedat4")
    found = describe(recording)
    assert found.damage is None
    assert found.events > 100
    assert found.frames > 5
    assert found.frame_size == (60, 40)
    lines = [json.loads(line) for line in captions.read_text().splitlines()]
    assert len(lines) >= 2
    for line in lines:
        validate(line)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_gb": 1e-9}, "holds"), ({"min_free_gb": 99_999.0}, "recording.min_free_gb is 99999")],
)
def test_recording_keeps_to_its_disk_budget(limits: dict[str, float], reason: str, load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "older.aedat4").write_bytes(b"x" * 100)

    async def scenario() -> str:
        config = configuration(tmp_path, None)
        config = config.model_copy(update={"recording": config.recording.model_copy(update=limits)})
        async with serving(config, load, front=Switch()) as (service, _):
            with pytest.raises(Exception, match=reason) as refused:
                service.recorder.start()
            return str(refused.value)

    asyncio.run(scenario())


def test_a_recording_ends_when_the_budget_is_reached(load: Load, tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configuration(tmp_path, None)
        config = config.model_copy(update={"recording": config.recording.model_copy(update={"max_gb": 1e-4})})
        async with serving(config, load, front=Switch()) as (service, _):
            service.recorder.start()
            await until(lambda: not service.recorder.recording)
            assert "the recording folder holds" in (service.health.reason or "")
            captioned = service.counts["front"].captioned
            await until(lambda: service.counts["front"].captioned > captioned), "captioning goes on"

    asyncio.run(scenario())


def test_a_full_disk_ends_a_recording_and_leaves_no_process(load: Load, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(configuration(tmp_path, None), load, front=Switch()) as (service, _):
            service.recorder.start()
            await until(lambda: service.recorder._tracks)
            (track,) = service.recorder._tracks.values()
            track.captions.close()
            track.captions = Path("/dev/full").open("w")  # noqa: SIM115 (the recorder closes it)
            await until(lambda: track.process.returncode is not None)
            assert not service.recorder.recording
            assert "captions cannot be written" in (service.health.reason or "")

    asyncio.run(scenario())


def test_a_recording_whose_folder_is_taken_away_ends(load: Load, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(configuration(tmp_path, None), load, front=Switch()) as (service, _):
            service.recorder.start()
            await until(lambda: service.recorder._tracks)
            shutil.rmtree(service.recorder.folder)
            await until(lambda: not service.recorder.recording)
            assert "cannot be looked at: No such file" in (service.health.reason or "")

    asyncio.run(scenario())


def test_a_recording_cut_by_a_power_loss_replays_up_to_the_tear(load: Load, tmp_path: Path) -> None:
    async def scenario() -> Path:
        async with serving(configuration(tmp_path, None), load, front=Switch()) as (service, _):
            service.recorder.start()
            await until(lambda: service.recorder.state()["bytes"] > 100_000)
            (track,) = service.recorder._tracks.values()
            track.process.kill()
            await until(lambda: not service.recorder.recording)
            assert "writing failed" in (service.health.reason or "")
        return track.path

    found = describe(asyncio.run(scenario()))
    assert found.damage is not None
    assert found.frames > 1
