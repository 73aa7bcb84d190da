"""What becomes of every window: gate, scheduler, model, sinks; and the questions that are asked about now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.live.gate import StillGate
from app.live.scheduler import Counts, Scheduler, Turn
from app.live.worker import ModelWorker, ServiceError
from app.pipeline import Sink
from app.publishing.commands import CommandError
from app.publishing.state_payloads import Scene
from app.records import Caption, Dropped
from app.service_config import ServiceConfig
from app.supervision.health import Health
from app.windows import Window
from models.errors import ModelError


@dataclass(slots=True)
class Ask:
    """A question about one window, and where its answer goes."""

    camera: str
    window: Window
    question: str
    answer: asyncio.Future[Caption] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Captioning:
    """Takes the windows of all cameras and accounts for each; `sinks` and `gates` are by camera name."""

    def __init__(
        self,
        settings: ServiceConfig,
        worker: ModelWorker,
        sinks: Mapping[str, list[Sink]],
        health: Health,
        gates: Mapping[str, StillGate],
    ) -> None:
        self.counts = {name: Counts() for name in sinks}
        self.stopping = False  # nothing more is begun ahead of a window, no question is answered any more
        self.gates = gates  # of the cameras whose still scenes are left out
        self.on_scene: Callable[[str], None] = lambda camera: None  # told when a scene comes to rest, or wakes
        self._settings, self._worker, self._sinks, self._health = settings, worker, sinks, health
        self._last_caption: dict[str, int] = {}  # the window of the newest caption, by camera
        self._scheduler: Scheduler[Ask] = Scheduler(list(sinks))
        self._in_hand: Turn | None = None
        self._latest: dict[str, Window] = {}  # newest window with frames, by camera: what an `ask` is about
        self._arrived = asyncio.Event()  # set, and replaced, when a window with frames has come

    def scene(self, camera: str) -> Scene | None:
        """What the gate makes of a camera, where there is one."""
        if (gate := self.gates.get(camera)) is None:
            return None
        return Scene(gate.still, self._last_caption.get(camera), gate.skipped)

    def drop_waiting(self, reason: str) -> None:
        """Drop every window that waits."""
        for turn in self._scheduler.clear():
            self._drop(turn.camera, turn.window, reason)

    @property
    def in_hand(self) -> bool:
        """Whether a window is being captioned."""
        return self._in_hand is not None

    def end(self) -> None:
        """`run` is over: what was in hand came to nothing."""
        if self._in_hand is not None:
            self._drop(self._in_hand.camera, self._in_hand.window, "stopped")

    def paused(self, paused: bool) -> None:
        """Caption nothing until told otherwise."""
        self._health.pause(paused)
        if paused:
            self.drop_waiting("paused")
        else:
            for gate in self.gates.values():
                gate.forget()

    async def ask(self, question: str, camera: str | None) -> tuple[str, Window, Caption]:
        """One question about what is to be seen now: camera, window and answer. Raises CommandError."""
        if camera is not None and camera not in self.counts:
            raise CommandError(f"camera: there is no {camera!r:.70}; known: {', '.join(self.counts)}")
        try:
            async with asyncio.timeout(self._settings.stuck_after_s):
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
            asked = await self._worker.set_question(question)
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

    def on_window(self, camera: str, window: Window) -> None:
        """Take a window that a camera gave out."""
        gate = self.gates.get(camera)
        if window.partial:
            if not self._health.paused and not (gate and gate.closed):
                self._scheduler.offer(camera, window)
            return
        self.counts[camera].arrived += 1
        self._scheduler.over(camera)  # whatever becomes of it
        passes = gate is None or self._looked(gate, camera, window)  # at every window, also while paused
        if not window.frames:
            self._drop(camera, window, "no_frames")
            return
        self._latest[camera] = window
        self._arrived.set()
        self._arrived = asyncio.Event()
        if self._health.paused:
            self._drop(camera, window, "paused")
        elif not passes:
            self._drop(camera, window, "still")
        elif (pushed_out := self._scheduler.offer(camera, window)) is not None:
            self._drop(camera, pushed_out, "superseded")

    def _looked(self, gate: StillGate, camera: str, window: Window) -> bool:
        """Whether the gate lets a window through; a scene that comes to rest, or wakes, is told at once."""
        before, passes = gate.still, gate.passes(window)
        if gate.still != before:
            self.on_scene(camera)
        return passes

    async def run(self) -> None:
        """Caption for ever. Raises ServiceError."""
        while True:
            turn = await self._scheduler.next()
            if isinstance(turn, Ask):
                await self._answer(turn)
            elif turn.window.partial:
                await self._worker.ahead(turn.window, turn.camera, self._show_draft(turn.camera), self._preempted)
            elif self._too_old(turn.window):
                self._drop(turn.camera, turn.window, "stale")
            else:
                self._in_hand = turn
                await self._caption_one(turn.camera, turn.window)
                self._in_hand = None

    def _preempted(self) -> bool:
        """Whether work ahead of a window is to make way. Any thread may look."""
        return self._scheduler.urgent or self.stopping

    async def _caption_one(self, camera: str, window: Window) -> None:
        try:
            caption = await self._worker.caption(window, camera, self._show_draft(camera))
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
        self._last_caption[camera] = window.index
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
        if self.stopping:
            ask.answer.set_exception(CommandError("the service stops"))
            return
        try:
            caption = await self._worker.answer(ask.window, ask.question)
        except Exception as error:
            if not ask.answer.done():
                ask.answer.set_exception(CommandError(f"question: {error}"))
        else:
            if not ask.answer.done():
                ask.answer.set_result(caption)

    def _too_old(self, window: Window) -> bool:
        age_ms = (time.monotonic_ns() - window.closed_ns) / 1e6 + window.lag_ms
        return age_ms > self._settings.max_age_s * 1e3

    def _drop(self, camera: str, window: Window, reason: str) -> None:
        self.counts[camera].dropped[reason.partition(":")[0]] += 1
        for sink in self._sinks[camera]:
            sink.on_dropped(Dropped(window, reason))


def _tell_draft(sinks: list[Sink], window: Window, text: str) -> None:
    for sink in sinks:
        sink.on_draft(window, text)
