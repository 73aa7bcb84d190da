"""The asyncio wiring: source → windows → captioner → sinks, in one task group, with nothing unbounded."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from app.captioner import Captioner
from app.records import Caption, Dropped
from app.sensors.contract import Source
from app.windower import Windower
from app.windows import Window

log = structlog.get_logger()

QUEUED_WINDOWS = 2  # closed windows of a recording that wait for the captioner; then reading waits; live keeps one
MAX_FAILURES = 3  # captions that may fail one after the other before the pipeline gives up


class PipelineError(RuntimeError):
    """Captioning itself keeps failing."""


class Sink(Protocol):
    """Takes what the pipeline makes; its methods run on the event loop and return at once."""

    def on_caption(self, caption: Caption) -> None: ...

    def on_dropped(self, dropped: Dropped) -> None: ...

    def on_draft(self, window: Window, text: str) -> None: ...


@dataclass(slots=True)
class PipelineReport:
    """What happened to the windows: arrived = captioned + dropped."""

    windows: int = 0
    captioned: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class _Inbox:
    """Closed windows that wait, and the newest partial one; the policy when they come faster than captions go."""

    def __init__(self, lossless: bool) -> None:
        self._lossless = lossless
        self._closed: deque[Window] = deque()
        self._partial: Window | None = None
        self._changed = asyncio.Condition()
        self._ended = False

    async def put(self, window: Window) -> Window | None:
        """Add a window; the one that was pushed out for it, if any."""
        async with self._changed:
            if window.partial:
                self._partial = window
                self._changed.notify_all()
                return None
            if self._lossless:
                await self._changed.wait_for(lambda: len(self._closed) < QUEUED_WINDOWS)
            self._closed.append(window)
            if self._partial and self._partial.index <= window.index:
                self._partial = None  # too late to draft ahead of it
            self._changed.notify_all()
            if not self._lossless and len(self._closed) > 1:
                return self._closed.popleft()
            return None

    @property
    def urgent(self) -> bool:
        """Whether a closed window waits."""
        return bool(self._closed)

    async def end(self) -> None:
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def get(self) -> Window | None:
        """The next closed window, else the partial one; None when nothing more will come."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._partial or self._ended)
            if self._closed:
                window = self._closed.popleft()
                self._changed.notify_all()
                return window
            partial, self._partial = self._partial, None
            return partial


async def run_pipeline(
    source: Source, windower: Windower, captioner: Captioner, sinks: Sequence[Sink], *, lossless: bool
) -> PipelineReport:
    """Caption every window of `source` until it ends (`lossless`), or always the newest one.

    Raises what the source raises, after the windows before it were captioned, and the third failure of the captioner
    in a row.
    """
    loop = asyncio.get_running_loop()
    inbox, report = _Inbox(lossless), PipelineReport()
    failure: list[Exception] = []

    def drop(window: Window, reason: str) -> None:
        report.dropped[reason.split(":")[0]] += 1
        for sink in sinks:
            sink.on_dropped(Dropped(window, reason))

    def show_draft(window: Window, text: str) -> None:
        loop.call_soon_threadsafe(_tell_draft, sinks, window, text)

    async def cut() -> None:
        try:
            async for item in source:
                for window in windower.push(item):
                    await offer(window)
        except Exception as error:
            failure.append(error)
        for window in windower.finish():
            await offer(window)
        await inbox.end()

    async def offer(window: Window) -> None:
        report.windows += not window.partial
        if not window.partial and not window.frames:
            drop(window, "no_frames")
        elif pushed_out := await inbox.put(window):
            drop(pushed_out, "superseded")

    async def caption() -> None:
        in_a_row = 0
        while window := await inbox.get():
            try:
                if window.partial:
                    await loop.run_in_executor(worker, captioner.ahead, window, "", lambda: inbox.urgent)
                    continue
                done = await loop.run_in_executor(worker, captioner.caption, window)
            except Exception as error:
                in_a_row += 1
                log.error("caption_failed", window=window.index, error=f"{type(error).__name__}: {error}")
                if not window.partial:
                    drop(window, f"failed: {error}")
                if in_a_row >= MAX_FAILURES:
                    raise PipelineError(f"{in_a_row} captions in a row failed, the last: {error}") from error
                continue
            in_a_row = 0
            report.captioned += 1
            for sink in sinks:
                sink.on_caption(done)

    captioner.on_draft = show_draft
    worker = ThreadPoolExecutor(1, thread_name_prefix="target")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(cut())
            tasks.create_task(caption())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        await asyncio.to_thread(worker.shutdown, wait=True, cancel_futures=True)
        await asyncio.to_thread(captioner.call_off)  # a draft of the next window, perhaps
        captioner.on_draft = None
        await source.close()
    if failure:
        raise failure[0]
    return report


def _tell_draft(sinks: Sequence[Sink], window: Window, text: str) -> None:
    for sink in sinks:
        sink.on_draft(window, text)
