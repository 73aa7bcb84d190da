"""One recording from its file to everything that hears of its captions: put together from the configuration."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import structlog

from app.captioner import Captioner, CaptionerSettings
from app.config import Config
from app.decoding.sampling import Sampling
from app.pipeline import Sink, run_pipeline
from app.publishing.broker import read_password
from app.publishing.dialer import Link
from app.publishing.files import CaptionFile
from app.publishing.mqtt import Publisher
from app.publishing.outbox import Outbox
from app.publishing.payloads import Clock, Origin
from app.publishing.state_payloads import StreamStatus
from app.publishing.topics import replay_node
from app.sensors.contract import RecordedSource, SourceError, SourceInfo
from app.sinks import Counting, Outlet
from app.telemetry.summary import Summary
from app.telemetry.trace import TraceWriter
from app.windower import Windower
from models.bundle import VisionLanguageModel, load_first
from models.prompts import QUESTION
from models.runtimes.memory import PeakMemory
from models.runtimes.shared import behind, device_of, on_gpu, runtime_of, share_gpu, share_of

CONNECT_S = 0.0  # at a desk the broker is there or it is not: the first failure is told, none is waited out
DEMO_SPAN_MS, EVENTGPT_SPAN_MS = 400, 50  # of events: what each drafter was trained on
DRAIN_S = 10.0  # for what the broker has not acknowledged when the recording ends

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the captions go besides the screen."""

    mqtt: str | None = None  # the broker's URL
    captions: Path | None = None
    trace: Path | None = None


def load_pair(config: Config) -> tuple[VisionLanguageModel, VisionLanguageModel]:
    """Drafter and target; where both run on one GPU, they share it as configured. Raises ModelError."""
    path = config.model_path("drafter")
    device = config.models.device("drafter")
    drafter = load_first(path, "drafter", config.models.drafter.runtimes, _fell_back, device=device)
    target = load_target(config)
    if not on_gpu(drafter) or device_of(drafter) != device_of(target):
        return drafter, target
    memory = PeakMemory()
    memory.look()
    log.info("memory", **memory.figures)
    shared = share_gpu(drafter, target, config.gpu.ways)
    return shared.drafter, shared.target


def load_target(config: Config) -> VisionLanguageModel:
    """One session of the target. Raises ModelError."""
    path, device = config.model_path("target"), config.models.device("target")
    return load_first(path, "target", config.models.target.runtimes, _fell_back, device=device)


def _fell_back(runtime: str, following: str, reason: str) -> None:
    log.warning("runtime_fallback", runtime=runtime, instead=following, reason=reason)


def load_more_targets(config: Config) -> list[VisionLanguageModel]:
    """The further sessions that the strategy uses. Raises ModelError."""
    sessions = config.decoding.target_sessions if config.decoding.strategy == "dsi" else 1
    return [load_target(config) for _ in range(sessions - 1)]


def captioner_settings(config: Config, demo: bool) -> CaptionerSettings:
    """The sections `decoding` and `windows` as the captioner wants them; `demo`: the drafter is a demo model."""
    decoding = config.decoding
    return CaptionerSettings(
        strategy=decoding.strategy,
        placement=None if decoding.placement == "auto" else decoding.placement,
        max_new_tokens=decoding.max_new_tokens,
        draft_tokens=None if decoding.draft_tokens == "auto" else decoding.draft_tokens,
        guard=decoding.guard,
        question=decoding.question or QUESTION,
        frames=config.windows.frames,
        drafter_span_us=_drafter_span_ms(config, demo) * 1000,
        threads=_fixed_threads(config),
        sources=tuple(decoding.sources),
        sampling=Sampling(decoding.temperature, decoding.top_p, decoding.seed),
        streaming=decoding.prefill == "streaming",
    )


def _drafter_span_ms(config: Config, demo: bool) -> int:
    wanted = config.windows.drafter_span_ms
    if wanted == "auto":
        return min(DEMO_SPAN_MS if demo else EVENTGPT_SPAN_MS, config.windows.length_ms)
    return wanted


def _fixed_threads(config: Config) -> tuple[tuple[str, int], ...]:
    """(phase of Costs, threads) of every phase whose thread count is configured."""
    given = {
        f"{role}_{'step' if phase == 'decode' else phase}": threads
        for role, model in (("drafter", config.models.drafter), ("target", config.models.target))
        for phase, threads in model.threads
    }
    return tuple((phase, threads) for phase, threads in given.items() if threads != "auto")


def load_captioner(config: Config) -> Captioner:
    """Both models with the calibration of this machine. Raises ModelError."""
    drafter, target = load_pair(config)
    settings = captioner_settings(config, drafter.demo)
    more, share = load_more_targets(config), share_of(target)
    if share:  # they run on the same GPU
        more = [behind(share, model, parted=True) for model in more]
    return Captioner(drafter, target, settings, more_targets=more)


def make_windower(config: Config, captioner: Captioner, info: SourceInfo, first_index: int = 0) -> Windower:
    """Cuts as configured; with partial windows where something is done before a window closes."""
    windows = config.windows
    return Windower(
        windows.length_ms * 1000,
        windows.hop_ms * 1000,
        windows.frames,
        sensor_lead_us(config, captioner.lead_ms) if captioner.drafts_ahead else 0,
        windows.max_events,
        resolution=info.resolution,
        first_index=first_index,
        frames_tell_time=info.one_clock and info.one_stream,
        frame_wait_us=windows.frame_wait_ms * 1000,
        stream=captioner.streams and config.replay.speed != "max",
    )


def sensor_lead_us(config: Config, auto_ms: float) -> int:
    """How much sensor time before a window's end it is given out in part, so that a draft has its lead of wall time.

    Less than a hop: else the window before would close, and be captioned, between the draft and its window. At most
    half a window: a draft of less would be of another scene. None at speed `max`, where no time passes to draft in.
    """
    speed, windows = config.replay.speed, config.windows
    if speed == "max":
        return 0
    lead_ms = auto_ms if config.decoding.lead_ms == "auto" else config.decoding.lead_ms
    return min(int(lead_ms * speed * 1000), windows.hop_ms * 1000 - 1, windows.length_ms * 500)


async def caption_recording(
    config: Config,
    source: RecordedSource,
    captioner: Captioner,
    outputs: Outputs,
    summary: Summary,
    sinks: Sequence[Sink],
) -> None:
    """Caption a recording to its end, hand every caption on and count everything, what is lost included.

    Raises SourceError after the last caption when the recording ended before its time, PublishError when the broker
    cannot be reached at the start or a file cannot be written.
    """
    camera = camera_name(source.info)
    publisher = _publisher(config, outputs.mqtt, camera, source.info, captioner) if outputs.mqtt else None
    origin = publisher.origin(camera) if publisher else _unpublished(config, camera)
    windower = make_windower(config, captioner, source.info)
    with _files(outputs, source.info) as (captions, trace):
        all_sinks: list[Sink] = [Outlet(origin, publisher, captions, trace), Counting(summary), *sinks]
        try:
            async with _publishing(publisher, camera, source.info):
                await run_pipeline(source, windower, captioner, all_sinks, lossless=config.replay.lossless)
        finally:
            summary.lose(_lost(source, windower, publisher))
    if source.ended_early:
        raise SourceError(source.ended_early)


def _lost(source: RecordedSource, windower: Windower, publisher: Publisher | None) -> dict[str, int]:
    """What did not become a caption or did not reach the broker, besides the windows that were dropped."""
    return {
        "unusable_events": source.dropped_events,
        "late_events": windower.late_events,
        "late_frames": windower.late_frames,
        "excess_events": windower.excess_events,
        "empty_windows": windower.empty_windows,
        "dropped_remainders": windower.dropped_remainders,
        **({f"messages_{reason}": n for reason, n in publisher.outbox.dropped.items()} if publisher else {}),
    }


def camera_name(info: SourceInfo) -> str:
    """The source's name as one level of a topic."""
    return "".join("-" if c in "/+#" or not c.isprintable() else c for c in info.name) or "camera"


def _unpublished(config: Config, camera: str) -> Origin:
    """Whose words captions are that go to files alone."""
    return Origin(replay_node(config.node), camera, uuid.uuid4().hex[:12], Clock("recording"), replay=True)


def _publisher(config: Config, url: str, camera: str, info: SourceInfo, captioner: Captioner) -> Publisher:
    mqtt = config.mqtt
    publisher = Publisher(
        url,
        config.node,
        root=config.root,
        replay=True,
        retain=mqtt.retain_in_replay,
        drafts=mqtt.draft_topic,
        outbox=Outbox(mqtt.outbox_size, mqtt.max_age_s, mqtt.late_after_s),
        link=Link(
            password=read_password(mqtt.password_env, mqtt.password_file),
            ca_file=mqtt.ca_file,
            connect_timeout_s=CONNECT_S,
        ),
    )
    publisher.set_info(
        version=our_version(),
        **told_of_models(captioner),
        cameras={
            camera: {
                "resolution": list(info.resolution),
                "events": info.has_events,
                "frames": info.has_frames,
                "live": info.live,
            }
        },
        capabilities=["captions", "telemetry", *(["drafts"] if mqtt.draft_topic else [])],
    )
    return publisher


def told_of_models(captioner: Captioner) -> dict[str, Any]:
    """What topic `info` says of both models: names, devices and runtimes, as they are now."""
    drafter, target = captioner.drafter, captioner.target
    return {
        "models": {
            "drafter": drafter.name,
            "target": target.name,
            "demo": drafter.demo or target.demo,
            "drafter_device": device_of(drafter),
            "target_device": device_of(target),
        },
        "runtimes": sorted({runtime_of(drafter), runtime_of(target)}),
    }


@asynccontextmanager
async def _publishing(publisher: Publisher | None, camera: str, info: SourceInfo) -> AsyncIterator[None]:
    """Connected from beginning to end; at the end what waits is sent, unless we were interrupted."""
    if publisher is None:
        yield
        return
    publisher.set_camera_status(camera, _streams(info, "online"))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(publisher.run())
        try:
            await publisher.connected.wait()  # a broker that is not there is told before the first caption
            yield
        except asyncio.CancelledError:
            publisher.stop("interrupted")
            raise
        except BaseException:
            await _finish(publisher, camera, info, "failed")
            raise
        await _finish(publisher, camera, info, "the recording has ended")
        await running


async def _finish(publisher: Publisher, camera: str, info: SourceInfo, reason: str) -> None:
    publisher.set_camera_status(camera, _streams(info, "ended"))
    if unsent := await publisher.drain(DRAIN_S):
        log.warning("messages_unsent", count=unsent, broker=str(publisher.topics.base))
    publisher.stop(reason)


def _streams(info: SourceInfo, state: str) -> dict[str, StreamStatus]:
    last_us = info.end_us if state == "ended" else None
    there = {"events": info.has_events, "frames": info.has_frames}
    return {name: StreamStatus(state, last_us) for name, has in there.items() if has}


@contextmanager
def _files(outputs: Outputs, info: SourceInfo) -> Iterator[tuple[CaptionFile | None, TraceWriter | None]]:
    with ExitStack() as stack:
        captions = CaptionFile(outputs.captions, info.start_us or 0) if outputs.captions else None
        trace = TraceWriter(outputs.trace) if outputs.trace else None
        for file in (captions, trace):
            if file:
                stack.enter_context(file)
        yield captions, trace


def our_version() -> str:
    """Of the installed package; `unknown` when the commands run from a plain folder."""
    try:
        return version("event-captioner")
    except PackageNotFoundError:
        return "unknown"
