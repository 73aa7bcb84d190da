"""The live service: every part supervised, every window accounted for, degraded rather than dead."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping

import structlog

from app.live.camera import Camera
from app.live.captioning import Captioning
from app.live.gate import StillGate
from app.live.recorder import Recorder
from app.live.worker import ModelWorker, ServiceError
from app.pipeline import Sink
from app.publishing.mqtt import Publisher
from app.publishing.payloads import wall_us
from app.publishing.state_payloads import StreamStatus
from app.publishing.store import Store
from app.service_config import ServiceConfig
from app.supervision import systemd
from app.supervision.budget import RestartBudget
from app.supervision.health import OK, Health
from app.windows import Window

OPEN_S = 10.0  # how long the start waits for sources before it says `degraded`
BEAT_S = 0.25  # between two looks at what cannot tell of itself
STATUS_S = 5.0  # between two camera statuses without a change, for their last data time
STOP_S, RECORDER_S, DRAIN_S, FAREWELL_S = 1.5, 1.0, 1.0, 1.5  # a clean stop's shares of five seconds

log = structlog.get_logger(__name__)


class Service:
    """Runs cameras, models and publisher until `stop`; `make_camera` and `sinks` are by camera name."""

    def __init__(
        self,
        settings: ServiceConfig,
        worker: ModelWorker,
        cameras: Mapping[str, Callable[[Callable[[str, Window], None]], Camera]],
        sinks: Mapping[str, list[Sink]],
        health: Health,
        publisher: Publisher | None,
        store: Store | None,
        recorder: Recorder,
        on_loaded: Callable[[], None],
        gates: Mapping[str, StillGate] | None = None,
    ) -> None:
        self.settings, self.worker, self.health = settings, worker, health
        self.publisher, self.store, self.recorder = publisher, store, recorder
        self.captioning = Captioning(settings, worker, sinks, health, gates or {})
        self.captioning.on_scene = self._tell_camera
        self.counts = self.captioning.counts  # what became of the windows, by camera
        self.cameras = {name: make(self.captioning.on_window) for name, make in cameras.items()}
        if publisher:
            publisher.clock_of = lambda name: self.cameras[name].clock
        self.publisher_budget = RestartBudget(settings.restarts)
        self.started_ns = time.monotonic_ns()
        self._on_loaded = on_loaded
        self._told: tuple[str, str | None] = ("starting", None)  # the publisher's first word
        self._stop = asyncio.Event()
        self._stop_reason = "stopped"

    def stop(self, reason: str) -> None:
        """End `run` cleanly, within five seconds."""
        self._stop_reason = reason
        systemd.notify("STOPPING=1")
        self.captioning.stopping = True
        self._stop.set()

    async def run(self) -> bool:
        """Until stopped; False when a caption did not end in time and its thread has to be abandoned.

        Raises ModelError when the models cannot be loaded, ServiceError when a part fails whatever is tried.
        """
        self.health.on_change = self._tell
        publishing = asyncio.create_task(self._publish()) if self.publisher else None
        sources: list[asyncio.Task[None]] = []
        parts: list[asyncio.Task[None]] = []
        try:
            await self._unless_stopped(self._start(sources))
            if not self._stop.is_set():
                parts += [asyncio.create_task(part()) for part in (self.captioning.run, self._watch)]
                watched = [*sources, *parts, *([publishing] if publishing else [])]
                stopping = asyncio.create_task(self._stop.wait())
                done, _ = await asyncio.wait((*watched, stopping), return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                for task in done:
                    task.result()
        except BaseException as error:
            self._stop_reason = f"failed: {error}"
            raise
        finally:
            clean = await self._end(sources, parts, publishing)
        return clean

    async def _start(self, sources: list[asyncio.Task[None]]) -> None:
        await self.worker.start()
        self._on_loaded()
        sources += [asyncio.create_task(camera.run()) for camera in self.cameras.values()]
        for camera in self.cameras.values():
            camera.on_state = self._tell_camera
            camera.on_item = self.recorder.item
        opened = asyncio.gather(*(camera.opened.wait() for camera in self.cameras.values()))
        try:
            await asyncio.wait_for(opened, OPEN_S)
        except TimeoutError:
            log.warning("sources_slow", waited_s=OPEN_S)
        self._on_loaded()  # now with what the sources say of themselves
        self.health.started()
        systemd.notify("READY=1")

    async def _unless_stopped(self, starting: Coroutine[None, None, None]) -> None:
        """Await the start, while systemd hears that it takes its time; a stop ends it."""
        task, stopping = asyncio.ensure_future(starting), asyncio.create_task(self._stop.wait())
        try:
            while not task.done() and not stopping.done():
                systemd.notify("EXTEND_TIMEOUT_USEC=30000000", "STATUS=loading the models")
                await asyncio.wait((task, stopping), timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            stopping.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _publish(self) -> None:
        """The publisher reconnects by itself; what it does not expect is tried again within the budget."""
        assert self.publisher is not None
        while not self._stop.is_set():
            try:
                await self.publisher.run()
                return
            except Exception as error:
                delay_s = self.publisher_budget.delay_s()
                log.exception("publisher_failed", retry_s=round(delay_s, 2))
                if self.publisher_budget.spent:
                    raise ServiceError(f"the publisher fails whatever is tried; the last time: {error}") from error
                await asyncio.sleep(delay_s)

    async def _watch(self) -> None:
        """What cannot tell of itself: a stuck model, a dead link, a failing disk; and feed systemd's watchdog."""
        every_s, fed_s, told_s = systemd.watchdog_s(), 0.0, time.monotonic()
        while True:
            now_s, busy_s, stuck_s = time.monotonic(), self.worker.busy_s, self.settings.stuck_after_s
            if busy_s > 2 * stuck_s:
                raise ServiceError(f"the model is stuck: a caption has been running for {busy_s:.0f} s")
            if busy_s > stuck_s:
                self.health.set("model", "stuck", f"a caption has been running for more than {stuck_s:g} s")
            elif every_s is not None and now_s - fed_s >= every_s / 2:
                systemd.notify("WATCHDOG=1")  # only here: while the model gets on with its work, and this loop runs
                fed_s = now_s
            if self.publisher:
                trouble = self.publisher.trouble
                bad = "refuses" if self.publisher.connected.is_set() else "unreachable"
                self.health.set("broker", bad if trouble else OK, trouble)
            if self.store:
                self.health.set("outbox", "not written" if self.store.failed else OK, self.store.failed)
            if now_s - told_s >= STATUS_S:
                told_s = now_s
                for name in self.cameras:
                    self._tell_camera(name)
            await asyncio.sleep(BEAT_S)

    def _tell(self) -> None:
        state, reason = self.health.state, self.health.reason
        if (state, reason) == self._told:
            return
        self._told = state, reason
        log.info("status", state=state, reason=reason)
        systemd.notify(f"STATUS={state}{f': {reason}' if reason else ''}")
        if self.publisher:
            self.publisher.set_status(state, reason)

    def _tell_camera(self, name: str) -> None:
        if self.publisher is None:
            return
        now_ns, now_us = time.monotonic_ns(), wall_us()

        def wall(last_ns: int | None) -> int | None:
            return None if last_ns is None else now_us - (now_ns - last_ns) // 1000

        streams = {
            stream: StreamStatus(s.state, s.last_us, wall(s.last_ns) if s.last_us is not None else None, s.reason)
            for stream, s in self.cameras[name].streams.items()
        }
        self.publisher.set_camera_status(name, streams, self.cameras[name].sync, self.captioning.scene(name))

    async def _end(
        self,
        sources: list[asyncio.Task[None]],
        parts: list[asyncio.Task[None]],
        publishing: asyncio.Task[None] | None,
    ) -> bool:
        """Stop the sources, finish what is in hand, send what waits, say goodbye; within five seconds."""
        self._stop.set()
        self.captioning.stopping = True
        self.health.stopping, self.health.on_change = True, lambda: None
        deadline = time.monotonic() + STOP_S
        await _cancel(sources, STOP_S)
        self.captioning.drop_waiting("stopped")
        while self.captioning.in_hand and not all(task.done() for task in parts) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await _cancel(parts)
        self.captioning.end()
        clean = await self.worker.close(max(0.1, deadline - time.monotonic()))
        await self.recorder.stop("the service stops", RECORDER_S)
        if self.publisher and publishing:
            await self._say_goodbye(self.publisher, publishing)
        if self.store:
            await asyncio.to_thread(self.store.close)
        return clean

    async def _say_goodbye(self, publisher: Publisher, publishing: asyncio.Task[None]) -> None:
        connected = publisher.connected.is_set() and not publishing.done()
        if connected and (unsent := await publisher.drain(DRAIN_S)):
            log.warning("messages_unsent", count=unsent, kept=self.store is not None)
        publisher.stop(self._stop_reason)
        await asyncio.wait((publishing,), timeout=FAREWELL_S)
        await _cancel([publishing])


async def _cancel(tasks: list[asyncio.Task[None]], timeout_s: float | None = None) -> None:
    for task in tasks:
        task.cancel()
    with contextlib.suppress(TimeoutError):  # what hangs must not keep the rest from ending well
        await asyncio.wait_for(asyncio.shield(asyncio.gather(*tasks, return_exceptions=True)), timeout_s)
