"""The live service from its configuration."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from app.camera_config import CameraConfig, RgbCameraConfig
from app.captioner import Captioner
from app.config import Config, override
from app.live.camera import Camera
from app.live.commands import handlers
from app.live.gate import StillGate
from app.live.metrics import Latency, ServiceMetrics
from app.live.recorder import Recorder
from app.live.service import Service
from app.live.worker import ModelWorker
from app.pipeline import Sink
from app.publishing.broker import read_password, read_secret
from app.publishing.commands import Commander
from app.publishing.dialer import Link
from app.publishing.errors import PublishError
from app.publishing.mqtt import Publisher
from app.publishing.outbox import Outbox
from app.publishing.payloads import Clock, Origin
from app.publishing.store import Store
from app.sensors.contract import Source, SourceError, SourceInfo
from app.session import load_captioner, make_windower, our_version, told_of_models
from app.sinks import Outlet
from app.supervision.health import Health
from app.supervision.http import StatusServer
from app.supervision.systemd import state_folder
from app.windower import Windower
from app.windows import Window

SWITCH_S = 0.001  # until a thread that computes in Python makes way for the event loop; by default five times as long

Opener = Callable[[threading.Event], Source]

log = structlog.get_logger(__name__)


def open_camera(config: CameraConfig, called_off: threading.Event | None = None) -> Source:
    """What a camera section names, as a live source. Blocks, devices until `called_off` is set. Raises SourceError."""
    from app.sensors.pacing import Paced

    if config.source == "recording":
        from app.sensors.open import open_recording

        assert config.path is not None
        return open_recording(config.path, loop=0)
    if config.source == "live":
        from app.sensors.live import Live

        events, frames = config.event_camera, config.rgb_camera
        rgb = frames.spec(_camera_password(frames)) if frames else None
        return Live(events.spec() if events else None, rgb, called_off)
    from app.sensors.synthetic import Synthetic

    return Paced(Synthetic(config.seed))


def _camera_password(config: RgbCameraConfig) -> str | None:
    """Raises SourceError where it cannot be read."""
    if config.password_file is None:
        return None
    try:
        return read_secret("password", config.password_file)
    except PublishError as error:
        raise SourceError(f"camera {str(error).removeprefix('broker ')}") from None


@dataclass(frozen=True, slots=True)
class Start:
    """What a run begins with besides its configuration; tests and the fault run bring sources and models."""

    sources: Mapping[str, Callable[[], Source]] | None = None  # None: the configured cameras
    load: Callable[[], Captioner] | None = None  # None: the configured models
    record_s: float | None = None  # begin a recording at once, and stop after so many seconds
    publish: bool = True
    on_stop: Callable[[Service], None] = lambda service: None


async def run_service(config: Config, start: Start = Start()) -> bool:
    """Until SIGTERM or SIGINT; False when a thread had to be abandoned, so that the process should leave at once.

    Raises ModelError, PublishError, ServeError, ServiceError.
    """
    sys.setswitchinterval(SWITCH_S)
    config = override(config, replay={"speed": 1.0})  # a lead of wall time is one of sensor time
    with ExitStack() as stack:
        registry = CollectorRegistry()
        service, commander = build(config, start, registry)
        ServiceMetrics(service, commander).register(registry)
        if config.service.port is not None:
            health = health_of(service)
            stack.enter_context(StatusServer(config.service.host, config.service.port, health, registry))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.stop, f"{signal.Signals(number).name}")
        try:
            async with asyncio.TaskGroup() as tasks:
                extra = [tasks.create_task(commander.run())] if commander else []
                if start.record_s is not None:
                    extra.append(tasks.create_task(_record(service, start.record_s)))
                try:
                    return await service.run()
                finally:
                    for task in extra:
                        task.cancel()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            start.on_stop(service)


def build(config: Config, start: Start, registry: CollectorRegistry) -> tuple[Service, Commander | None]:
    """Every part, put together and not started. Raises PublishError."""
    health = Health()
    store = _store(config) if config.mqtt.enabled and start.publish else None
    publisher = _publisher(config, store) if config.mqtt.enabled and start.publish else None
    folder = Path(config.recording.folder) if config.recording.folder else state_folder() / "recordings"
    recorder = Recorder(folder, config.recording, health)
    worker = ModelWorker(start.load or (lambda: load_captioner(config)), health, config.service.restarts)
    named = (
        {name: _brought(opener) for name, opener in start.sources.items()}
        if start.sources
        else {name: _opener(camera) for name, camera in config.cameras.items()}
    )

    def windower(info: SourceInfo, first: int) -> Windower:
        return make_windower(config, worker.captioner, info, first_index=first)

    def camera(name: str, opener: Opener) -> Callable[[Callable[[str, Window], None]], Camera]:
        settings = config.service
        return lambda on_window: Camera(
            name,
            opener,
            windower,
            on_window,
            health,
            stalled_after_s=settings.stalled_after_s,
            frozen_after_s=settings.frozen_after_s,
            restarts=settings.restarts,
        )

    histogram = Latency.histogram(registry)
    sinks: dict[str, list[Sink]] = {}
    for name in named:
        origin = publisher.origin(name) if publisher else Origin(config.node, name, os.urandom(6).hex(), Clock())
        sinks[name] = [Outlet(origin, publisher, _Beside(recorder, name), None), Latency(registry, name, histogram)]
    service = Service(
        config.service,
        worker,
        {name: camera(name, opener) for name, opener in named.items()},
        sinks,
        health,
        publisher,
        store,
        recorder,
        lambda: _tell_info(config, publisher, service) if publisher else None,
        {name: StillGate(config.gate) for name in named} if config.gate.enabled else None,
    )
    if publisher is None:
        return service, None
    commander = Commander(publisher, handlers(service), config.commands.allow)
    publisher.on_command(commander.take)
    return service, commander


@dataclass(frozen=True, slots=True)
class _Beside:
    """Captions of one camera go beside its recording."""

    recorder: Recorder
    camera: str

    def write(self, payload: dict[str, Any]) -> None:
        self.recorder.write(self.camera, payload)


def _opener(camera: CameraConfig) -> Opener:
    return lambda called_off: open_camera(camera, called_off)


def _brought(open_source: Callable[[], Source]) -> Opener:
    return lambda called_off: open_source()


def _store(config: Config) -> Store:
    mqtt = config.mqtt
    return Store(mqtt.outbox_file or state_folder() / config.node / "outbox.db")


def _publisher(config: Config, store: Store | None) -> Publisher:
    mqtt = config.mqtt
    return Publisher(
        mqtt.url,
        config.node,
        root=config.root,
        status="starting",
        drafts=mqtt.draft_topic,
        outbox=Outbox(mqtt.outbox_size, mqtt.max_age_s, mqtt.late_after_s, store),
        link=Link(
            username=read_secret("user", mqtt.username_file) if mqtt.username_file else None,
            password=read_password(mqtt.password_env, mqtt.password_file),
            plain_password=mqtt.plain_password,
            keepalive_s=mqtt.keepalive_s,
            ca_file=mqtt.ca_file,
        ),
    )


def _tell_info(config: Config, publisher: Publisher, service: Service) -> None:
    publisher.set_info(
        version=our_version(),
        **told_of_models(service.worker.captioner),
        cameras={
            name: {
                "resolution": list(camera.info.resolution),
                "events": camera.info.has_events,
                "frames": camera.info.has_frames,
                "live": camera.info.live,
            }
            for name, camera in service.cameras.items()
            if camera.info is not None
        },
        capabilities=[
            "captions",
            "telemetry",
            *(["drafts"] if config.mqtt.draft_topic else []),
            *(f"command/{name}" for name in config.commands.allow),
        ],
    )


def health_of(service: Service) -> Callable[[], dict[str, Any]]:
    """What /healthz says: `ok` while captioning goes on, degraded or not."""

    def health() -> dict[str, Any]:
        found = service.health
        stuck = service.worker.busy_s > service.settings.stuck_after_s
        parts = {name: {"state": part.state, "reason": part.reason} for name, part in list(found.parts.items())}
        ok = not (found.starting or found.stopping or stuck)
        return {"ok": ok, "state": found.state, "reason": found.reason, "parts": parts}

    return health


async def _record(service: Service, seconds: float) -> None:
    """Record from the start on, and stop the service when the recording is over."""
    while service.health.starting:
        await asyncio.sleep(0.05)
    service.recorder.start(seconds)
    while service.recorder.recording:
        await asyncio.sleep(0.05)
    service.stop("the recording is over")
