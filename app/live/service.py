"""The live service: every part supervised, every window accounted for, degraded rather than dead."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field

import structlog

from app.live.camera import Camera
from app.live.gate import StillGate
from app.live.recorder import Recorder
from app.live.scheduler import Counts, Scheduler, Turn
from app.live.worker import ModelWorker, ServiceError
from app.pipeline import Sink
from app.publishing.commands import CommandError
from app.publishing.mqtt import Publisher
from app.publishing.payloads import wall_us
from app.publishing.state_payloads import Scene, StreamStatus
from app.publishing.store import Store
from app.records import Caption, Dropped
from app.service_config import ServiceConfig
from app.supervision import systemd
from app.supervision.budget import RestartBudget
from app.supervision.health import OK, Health
from app.windows import Window
from models.errors import ModelError

OPEN_S = 10.0  # how long the start waits for sources before it says `degraded`
BEAT_S = 0.25  # between two looks at what cannot tell of itself
STATUS_S = 5.0  # between two camera statuses without a change, for their last data time
STOP_S, RECORDER_S, DRAIN_S, FAREWELL_S = 1.5, 1.0, 1.0, 1.5  # a clean stop's shares of five seconds

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Ask:
    """A question about one window, and where its answer goes."""

    camera: str
    window: Window
    question: str
    answer: asyncio.Future[Caption] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


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
        self.cameras = {name: make(self._on_window) for name, make in cameras.items()}
        self.counts = {name: Counts() for name in cameras}
        self.gates = gates or {}  # of the cameras whose still scenes are left out
        self.last_caption: dict[str, int] = {}  # the window of the newest caption, by camera
        if publisher:
            publisher.clock_of = lambda name: self.cameras[name].clock
        self.publisher_budget = RestartBudget(settings.restarts)
        self.started_ns = time.monotonic_ns()
        self._sinks, self._on_loaded = sinks, on_loaded
        self._scheduler: Scheduler[Ask] = Scheduler(list(cameras))
        self._in_hand: Turn | None = None
        self._latest: dict[str, Window] = {}  # newest window with frames, by camera: what an `ask` is about
        self._arrived = asyncio.Event()  # set, and replaced, when a window with frames has come
        self._told: tuple[str, str | None] = ("starting", None)  # the publisher's first word
        self._stop = asyncio.Event()
        self._stop_reason = "stopped"

    def stop(self, reason: str) -> None:
        """End `run` cleanly, within five seconds."""
        self._stop_reason = reason
        systemd.notify("STOPPING=1")
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
                parts += [asyncio.create_task(part()) for part in (self._caption, self._watch)]
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

    def paused(self, paused: bool) -> None:
        """Caption nothing until told otherwise."""
        self.health.pause(paused)
        if paused:
            for turn in self._scheduler.clear():
                self._drop(turn.camera, turn.window, "paused")
        else:
            for gate in self.gates.values():
                gate.forget()

    async def ask(self, question: str, camera: str | None) -> tuple[str, Window, Caption]:
        """One question about what is to be seen now: camera, window and answer. Raises CommandError."""
        if camera is not None and camera not in self.cameras:
            raise CommandError(f"camera: there is no {camera!r:.70}; known: {', '.join(self.cameras)}")
        try:
            async with asyncio.timeout(self.settings.stuck_after_s):
                name, window = await self._now(camera)
                ask = Ask(name, window, question)
                if not self._scheduler.ask(ask):
                    raise CommandError("busy: other questions wait already; try again")
                return name, window, await ask.answer
        except TimeoutError:
            raise CommandError("no answer in time: no frames came, or the model is busy; see the status") from None

    async def set_question(self, question: str | None) -> str:
        """Put another question about every window; None: the configured one. Raises CommandError if too long."""
        try:
            asked = await self.worker.set_question(question)
        except ModelError as error:
            raise CommandError(f"question: {error}") from None
        for gate in self.gates.values():
            gate.forget()
        return asked

    async def _now(self, camera: str | None) -> tuple[str, Window]:
        """The newest window with frames, not older than the age budget; waits for one."""
        while True:
            found = [(n, w) for n, w in self._latest.items() if camera in (None, n) and not self._too_old(w)]
            if found:
                return max(found, key=lambda pair: pair[1].closed_ns)
            await self._arrived.wait()

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

    def _on_window(self, camera: str, window: Window) -> None:
        gate = self.gates.get(camera)
        if window.partial:
            if not self.health.paused and not (gate and gate.closed):
                self._scheduler.offer(camera, window)
            return
        self.counts[camera].arrived += 1
        passes = gate is None or self._looked(gate, camera, window)  # at every window, also while paused
        if not window.frames:
            self._drop(camera, window, "no_frames")
            return
        self._latest[camera] = window
        self._arrived.set()
        self._arrived = asyncio.Event()
        if self.health.paused:
            self._drop(camera, window, "paused")
        elif not passes:
            self._drop(camera, window, "still")
        elif (pushed_out := self._scheduler.offer(camera, window)) is not None:
            self._drop(camera, pushed_out, "superseded")

    def _looked(self, gate: StillGate, camera: str, window: Window) -> bool:
        """Whether the gate lets a window through; a scene that comes to rest, or wakes, is told at once."""
        before, passes = gate.still, gate.passes(window)
        if gate.still != before:
            self._tell_camera(camera)
        return passes

    async def _caption(self) -> None:
        while True:
            turn = await self._scheduler.next()
            if isinstance(turn, Ask):
                await self._answer(turn)
            elif turn.window.partial:
                await self.worker.ahead(turn.window, turn.camera, self._show_draft(turn.camera), self._preempted)
            elif self._too_old(turn.window):
                self._drop(turn.camera, turn.window, "stale")
            else:
                self._in_hand = turn
                await self._caption_one(turn.camera, turn.window)
                self._in_hand = None

    def _preempted(self) -> bool:
        """Whether work ahead of a window is to make way. Any thread may look."""
        return self._scheduler.urgent or self._stop.is_set()

    async def _caption_one(self, camera: str, window: Window) -> None:
        try:
            caption = await self.worker.caption(window, camera, self._show_draft(camera))
        except ServiceError as error:
            self._in_hand = None
            self._drop(camera, window, f"failed: {error}")
            raise
        except Exception as error:
            self._drop(camera, window, f"failed: {error}")
            return
        if self._too_old(window):
            self._drop(camera, window, "overtime")
            return
        self.counts[camera].captioned += 1
        self.last_caption[camera] = window.index
        if gate := self.gates.get(camera):
            gate.captioned(window.index)
        for sink in self._sinks[camera]:
            sink.on_caption(caption)

    def _show_draft(self, camera: str) -> Callable[[Window, str], None]:
        """Takes a camera's drafts from any thread."""
        loop, sinks = asyncio.get_running_loop(), self._sinks[camera]

        def show_draft(window: Window, text: str) -> None:
            loop.call_soon_threadsafe(_tell_draft, sinks, window, text)

        return show_draft

    async def _answer(self, ask: Ask) -> None:
        if ask.answer.done():
            return  # who asked has given up
        try:
            caption = await self.worker.answer(ask.window, ask.question)
        except Exception as error:
            if not ask.answer.done():
                ask.answer.set_exception(CommandError(f"question: {error}"))
        else:
            if not ask.answer.done():
                ask.answer.set_result(caption)

    def _too_old(self, window: Window) -> bool:
        age_ms = (time.monotonic_ns() - window.closed_ns) / 1e6 + window.lag_ms
        return age_ms > self.settings.max_age_s * 1e3

    def _drop(self, camera: str, window: Window, reason: str) -> None:
        self.counts[camera].dropped[reason.partition(":")[0]] += 1
        for sink in self._sinks[camera]:
            sink.on_dropped(Dropped(window, reason))

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
                self.health.set("broker", "unreachable" if trouble else OK, trouble)
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
        self.publisher.set_camera_status(name, streams, self.cameras[name].sync, self._scene(name))

    def _scene(self, name: str) -> Scene | None:
        if (gate := self.gates.get(name)) is None:
            return None
        return Scene(gate.still, self.last_caption.get(name), gate.skipped)

    async def _end(
        self,
        sources: list[asyncio.Task[None]],
        parts: list[asyncio.Task[None]],
        publishing: asyncio.Task[None] | None,
    ) -> bool:
        """Stop the sources, finish what is in hand, send what waits, say goodbye; within five seconds."""
        self._stop.set()
        self.health.stopping, self.health.on_change = True, lambda: None
        deadline = time.monotonic() + STOP_S
        await _cancel(sources, STOP_S)
        for turn in self._scheduler.clear():
            self._drop(turn.camera, turn.window, "stopped")
        while self._in_hand is not None and not all(task.done() for task in parts) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await _cancel(parts)
        if self._in_hand is not None:
            self._drop(self._in_hand.camera, self._in_hand.window, "stopped")
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


def _tell_draft(sinks: list[Sink], window: Window, text: str) -> None:
    for sink in sinks:
        sink.on_draft(window, text)
