"""The sections of the configuration that `run` and `record` read, besides `cameras`: service, commands, recording."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.config_section import Section

CommandName = Literal["pause", "resume", "prompt", "ask", "record"]
EVERY_COMMAND: tuple[CommandName, ...] = ("pause", "resume", "prompt", "ask", "record")


class ServiceConfig(Section):
    max_age_s: float = Field(
        default=2.0,
        gt=0,
        le=3600,
        title="Age budget",
        description="A window that waited longer is not captioned, a caption that took longer is not published; "
        "both are counted.",
    )
    stalled_after_s: float = Field(
        default=2.0,
        gt=0,
        le=3600,
        title="Stalled after",
        description="Without data for so long, a stream of events or frames is `stalled` and the status `degraded`.",
    )
    frozen_after_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        title="Frozen after",
        description="A source that gave nothing at all for so long is closed and opened again.",
    )
    stuck_after_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        title="Stuck after",
        description="A caption that takes longer means a stuck model: the status says so and the watchdog is not fed; "
        "after twice the time the program ends, to be started anew.",
    )
    restarts: int = Field(
        default=5,
        ge=1,
        le=1000,
        title="Restart budget",
        description="Restarts of one part in ten minutes. Over it, a source is tried once a minute; a model or "
        "publisher that fails more often ends the program, to be started anew.",
    )
    host: str = Field(
        default="127.0.0.1",
        title="Address",
        description="Where /healthz and /metrics are served. No password guards them: leave it on the loopback.",
    )
    port: int | None = Field(
        default=9464, ge=1, le=65535, title="Port", description="Of /healthz and /metrics; null: serve neither."
    )


class CommandsConfig(Section):
    allow: tuple[CommandName, ...] = Field(
        default=EVERY_COMMAND,
        strict=False,
        title="Allowed",
        description="Commands taken over MQTT; the others are refused. An empty list: none.",
    )


class RecordingConfig(Section):
    folder: str | None = Field(
        default=None,
        title="Folder",
        description="Where recordings go, relative to this file. Left out: `recordings` in the state directory.",
    )
    max_gb: float = Field(
        default=20.0,
        gt=0,
        le=100_000,
        title="Disk budget",
        description="Recording stops when the folder holds so much.",
    )
    min_free_gb: float = Field(
        default=2.0, ge=0, le=100_000, title="Free space", description="Recording stops when the disk has less left."
    )
    max_s: float = Field(
        default=3600.0, gt=0, le=86_400, title="Longest", description="A recording longer than this is ended."
    )
