"""One camera: its source, opened again whenever it ends, fails or freezes; its windows, closed on time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from app.sensors.contract import Events, Frame, Item, Source, SourceError, SourceInfo
from app.supervision.budget import RestartBudget
from app.supervision.health import OK, Health
from app.windows import Window, Windower

TICK_S = 0.02
QUIET_NS = 100_000_000  # when no item has come for so long, the clock closes windows; before, the items do
SPAN_NS = 5_000_000_000  # over which the least delay is looked for

log = structlog.get_logger(__name__)


class SensorNow:
    """The sensor time it is now, from the items that came with the least delay in the last five seconds.

    The least delay, because a batch that waited says that time is earlier than it is. Half of the span is forgotten at
    a time, so a clock that drifts is followed.
    """

    def __init__(self) -> None:
        self._halves: deque[tuple[int, int]] = deque(maxlen=2)  # (begun at, least of arrival - sensor time), ns

    def observe(self, t_us: int, arrived_ns: int) -> None:
        offset_ns = arrived_ns - t_us * 1000
        if not self._halves or arrived_ns - self._halves[-1][0] > SPAN_NS // 2:
            self._halves.append((arrived_ns, offset_ns))
        elif offset_ns < self._halves[-1][1]:
            self._halves[-1] = self._halves[-1][0], offset_ns

    def now_us(self) -> int | None:
        """None before the first item."""
        if not self._halves:
            return None
        return (time.monotonic_ns() - min(offset_ns for _, offset_ns in self._halves)) // 1000


@dataclass(slots=True)
class Stream:
    """One stream of a camera: when it gave data last."""

    state: str = "reconnecting"  # of payloads.STREAM_STATES
    reason: str | None = None
    last_us: int | None = None  # sensor time
    last_ns: int | None = None  # monotonic


class Camera:
    """Supervises one source; `run` never ends by itself.

    `open_source` may block and is called in a thread. `make_windower` takes the source's info and the index of the
    first window: indices go on where they were, because ids are made of them.
    """

    def __init__(
        self,
        name: str,
        open_source: Callable[[], Source],
        make_windower: Callable[[SourceInfo, int], Windower],
        on_window: Callable[[str, Window], None],
        health: Health,
        *,
        stalled_after_s: float,
        frozen_after_s: float,
        restarts: int,
    ) -> None:
        self.name = name
        self.budget = RestartBudget(restarts)
        self.streams = {"events": Stream(), "frames": Stream()}
        self.opened = asyncio.Event()  # the first attempt to open it is over, however it went
        self.info: SourceInfo | None = None
        self.lost = dict.fromkeys(("late_events", "late_frames", "excess_events", "empty_windows"), 0)
        self.on_item: Callable[[str, SourceInfo, Item], None] | None = None  # the recorder's
        self.on_state: Callable[[str], None] = lambda name: None
        self._open_source, self._make_windower, self._on_window = open_source, make_windower, on_window
        self._health = health
        self._stalled_s, self._frozen_s = stalled_after_s, frozen_after_s
        self._next_index = 0
        self._last_ns = 0  # the newest item of any stream
        self._heard = asyncio.Event()

    async def run(self) -> None:
        """Read the source for ever; raises nothing but a bug."""
        while True:
            reason = await self._once()
            delay_s = self.budget.delay_s()
            if self.budget.spent:
                reason = f"{reason}; {self.budget.most} restarts did not help, next try in {delay_s:.0f} s"
            log.warning("source_lost", camera=self.name, reason=reason, retry_s=round(delay_s, 2))
            for stream in self.streams:
                self._tell(stream, "reconnecting", reason)
            self.opened.set()
            await asyncio.sleep(delay_s)

    async def _once(self) -> str:
        """Open the source and read it to its end; why it ended."""
        source: Source | None = None
        try:
            source = await self._open()
            self.info = source.info
            return await self._read(source, source.info)
        except SourceError as error:
            return str(error)
        except Exception as error:  # a driver may raise anything; one camera must not end the others
            log.exception("source_failed", camera=self.name)
            return f"{type(error).__name__}: {error}"
        finally:
            if source is not None:
                with contextlib.suppress(Exception):
                    await source.close()

    async def _open(self) -> Source:
        """In a thread. Cancelled meanwhile, it waits for what the thread opens and closes that."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._open_source))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            with contextlib.suppress(SourceError):
                await (await opening).close()
            raise

    async def _read(self, source: Source, info: SourceInfo) -> str:
        windower, now = self._make_windower(info, self._next_index), SensorNow()
        self._last_ns = time.monotonic_ns()
        for name, there in (("events", info.has_events), ("frames", info.has_frames)):
            self.streams[name].last_ns = self._last_ns if there else None
            self._tell(name, OK if there else "disabled", None if there else f"the source has no {name}")
        self.opened.set()
        log.info("source_opened", camera=self.name, source=info.name)
        reading = asyncio.create_task(self._items(source, info, windower, now))
        watching = asyncio.create_task(self._watch(windower, now))
        try:
            await asyncio.wait((reading, watching), return_when=asyncio.FIRST_COMPLETED)
            return watching.result() if watching.done() else reading.result()
        finally:
            for task in (reading, watching):
                task.cancel()
            await asyncio.gather(reading, watching, return_exceptions=True)
            for key in self.lost:
                self.lost[key] += getattr(windower, key)
            self._next_index = windower.next_index

    async def _items(self, source: Source, info: SourceInfo, windower: Windower, now: SensorNow) -> str:
        async for item in source:
            t_us = int(item.t[-1]) if isinstance(item, Events) and len(item) else getattr(item, "t_us", None)
            if t_us is None:
                continue
            self._last_ns = time.monotonic_ns()
            now.observe(t_us, self._last_ns)
            stream = self.streams["frames" if isinstance(item, Frame) else "events"]
            stream.last_us, stream.last_ns = t_us, self._last_ns
            if self.on_item is not None:
                self.on_item(self.name, info, item)
            self._give(windower.push(item))
        return f"the source ended: {getattr(source, 'ended_early', None) or 'no more data'}"

    async def _watch(self, windower: Windower, now: SensorNow) -> str:
        """Close windows on time, and tell a stalled stream from a frozen source; returns when it is frozen."""
        while True:
            await asyncio.sleep(TICK_S)
            at_ns, now_us = time.monotonic_ns(), now.now_us()
            if at_ns - self._last_ns > QUIET_NS and now_us is not None:
                self._give(windower.tick(now_us - QUIET_NS // 1000))
            if at_ns - self._last_ns > self._frozen_s * 1e9:
                return f"frozen: nothing came for {self._frozen_s:g} s"
            for name, stream in self.streams.items():
                if stream.last_ns is None or stream.state == "disabled":
                    continue
                if at_ns - stream.last_ns > self._stalled_s * 1e9:
                    self._tell(name, "stalled", f"no {name} for {self._stalled_s:g} s")
                else:
                    self._tell(name, OK)

    def _give(self, windows: list[Window]) -> None:
        for window in windows:
            self._on_window(self.name, window)

    def _tell(self, name: str, state: str, reason: str | None = None) -> None:
        stream = self.streams[name]
        if (stream.state, stream.reason) == (state, reason):
            return
        stream.state, stream.reason = state, reason
        # what a camera never had is no fault of it: frames, though, the target cannot do without
        fine = state == OK or (state == "disabled" and name == "events")
        self._health.set(f"camera {self.name} {name}", OK if fine else state, None if fine else reason)
        self.on_state(self.name)
