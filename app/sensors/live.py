"""Live cameras as a source: an event camera, an RGB camera, or one of each; each is read by a capture process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import structlog

from app.sensors.capture import Capture, opened
from app.sensors.contract import Item, SourceError, SourceInfo
from app.sensors.spec import CameraSpec, EventCameraSpec, RgbCameraSpec
from app.supervision.budget import RestartBudget

QUEUED_ITEMS = 64  # between both pipes and whoever reads; the rest waits in the capture processes
PART_RESTARTS = 5
SILENT_S = 10.0  # so long one of two cameras may give nothing; of a single one, the service sees it
TELL_DROPS_S = 10.0

log = structlog.get_logger(__name__)


class Live:
    """One or two cameras as one source.

    With two, one may be lost and the other goes on, while the lost one is tried again: without events the target
    captions alone. `trouble` says what is wrong with a lost one. The source ends, with SourceError, when no camera is
    left, or when one came back as something else. Frames of a device with a clock of its own are told by
    `info.one_clock`. Opening blocks, until another thread sets `called_off` at the latest. Raises SourceError when
    nothing can be opened.
    """

    def __init__(
        self,
        events: EventCameraSpec | None = None,
        frames: RgbCameraSpec | None = None,
        called_off: threading.Event | None = None,
    ) -> None:
        self._called_off = called_off
        self._trouble: dict[str, str] = {}
        self._parts: dict[str, Capture] = {}
        self._specs: dict[str, CameraSpec] = {}
        if events is not None:
            self._specs["events"] = events if frames is None else replace(events, frames=False)
            self._try("events")
        if frames is not None:
            size = self._parts["events"].hello.size if "events" in self._parts else None
            self._specs["frames"] = replace(frames, event_size=size)
            self._try("frames")
        if not self._parts:
            raise SourceError("; ".join(self._trouble.values()))
        self._known = {role: part.hello for role, part in self._parts.items()}
        self._dropped = {"events": 0, "frames": 0}  # by captures that are over
        self._told_drops_s = -TELL_DROPS_S
        hellos = list(self._known.values())
        self.info = SourceInfo(
            name=hellos[0].name,
            resolution=hellos[0].size,
            has_events="events" in self._specs,
            has_frames="frames" in self._specs or hellos[0].frames,
            live=True,
            one_clock=len({hello.clock for hello in hellos}) == 1,
            one_stream=len(self._specs) == 1,
        )

    def _try(self, role: str) -> None:
        try:
            self._parts[role] = Capture(self._specs[role], called_off=self._called_off)
        except SourceError as error:
            self._trouble[role] = str(error)

    @property
    def trouble(self) -> dict[str, str]:
        return self._trouble

    @property
    def dropped(self) -> dict[str, int]:
        """Events and frames left out so far: the reader was too slow, or no such sensor can have sent them."""
        return {
            what: count + sum(part.dropped[what] for part in self._parts.values())
            for what, count in self._dropped.items()
        }

    async def __aiter__(self) -> AsyncIterator[Item]:
        queue: asyncio.Queue[Item | BaseException] = asyncio.Queue(QUEUED_ITEMS)
        keepers = [asyncio.create_task(self._keep(role, queue)) for role in self._specs]
        try:
            while True:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    async def _keep(self, role: str, queue: asyncio.Queue[Item | BaseException]) -> None:
        """Pass on one camera's items; when it is lost, open it again for as long as there is another."""
        budget = RestartBudget(PART_RESTARTS)
        try:
            while True:
                if (part := self._parts.get(role)) is not None:
                    await self._pass_on(role, part, queue)
                if not self._parts:
                    raise SourceError("; ".join(self._trouble.values()))
                await asyncio.sleep(budget.delay_s())
                await self._reopen(role)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            await queue.put(error)

    async def _pass_on(self, role: str, part: Capture, queue: asyncio.Queue[Item | BaseException]) -> None:
        """Until the camera is lost, or silent while there should be two."""
        limit_s = SILENT_S if len(self._specs) > 1 else None
        try:
            async with aclosing(part.items()) as items:
                while True:
                    async with asyncio.timeout(limit_s):
                        item = await anext(items)
                    await queue.put(item)
                    self._tell_drops()
        except (SourceError, TimeoutError) as error:
            reason = str(error) or f"{part.hello.name}: nothing came for {SILENT_S:g} s"
            self._trouble[role] = reason
            log.warning("camera_lost", part=role, reason=reason)
        self._parts.pop(role, None)
        for what, count in part.dropped.items():
            self._dropped[what] += count
        await asyncio.to_thread(part.close)

    async def _reopen(self, role: str) -> None:
        """Try once. Raises SourceError when it is there, and not as what it was."""
        try:
            part = await opened(self._specs[role])
        except SourceError as error:
            self._trouble[role] = str(error)
            return
        if part.hello != self._known.get(role):
            await asyncio.to_thread(part.close)
            raise SourceError(f"{part.hello.name} is there now: both cameras are opened anew")
        self._parts[role] = part
        self._trouble.pop(role, None)
        log.info("camera_back", part=role, camera=part.hello.name)

    def _tell_drops(self) -> None:
        dropped = self.dropped
        if any(dropped.values()) and time.monotonic() - self._told_drops_s > TELL_DROPS_S:
            self._told_drops_s = time.monotonic()
            log.warning("capture_dropped", camera=self.info.name, **dropped)

    async def close(self) -> None:
        parts = list(self._parts.values())
        self._parts.clear()
        await asyncio.gather(*(asyncio.to_thread(part.close) for part in parts))
