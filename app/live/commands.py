"""What each command does to the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.live.service import Service
from app.publishing.commands import Ask, CommandError, Handler, Pause, Prompt, Record, Resume
from app.publishing.payloads import window_payload


def handlers(service: Service) -> dict[str, Handler]:
    """By command name; each raises CommandError for what it cannot do."""

    async def pause(command: Pause) -> Mapping[str, Any]:
        service.captioning.paused(True)
        return {"paused": True}

    async def resume(command: Resume) -> Mapping[str, Any]:
        service.captioning.paused(False)
        return {"paused": False}

    async def prompt(command: Prompt) -> Mapping[str, Any]:
        return {"question": await service.captioning.set_question(command.question)}

    async def ask(command: Ask) -> Mapping[str, Any]:
        camera, window, caption = await service.captioning.ask(command.question, command.camera)
        return {
            "question": command.question,
            "text": caption.text,
            "verified": True,
            "camera": camera,
            "window": window_payload(window),
            "total_ms": round((caption.finished_ns - caption.started_ns) / 1e6, 3),
        }

    async def record(command: Record) -> Mapping[str, Any]:
        if command.action == "start":
            return service.recorder.start(command.seconds)
        if command.seconds is not None:
            raise CommandError("seconds: goes with start, not with stop")
        return await service.recorder.stop()

    return {"pause": pause, "resume": resume, "prompt": prompt, "ask": ask, "record": record}
