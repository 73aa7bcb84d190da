"""One camera: its source, opened again whenever it ends, fails or freezes; its windows, closed on time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from app.live.alignment import Alignment
from app.live.arrival import ArrivalClock
from app.live.motion import match
from app.live.sensor_now import SensorNow
from app.publishing.payloads import Clock, wall_us
from app.publishing.state_payloads import Sync
from app.sensors.contract import CapturedSource, Events, Frame, Item, Source, SourceError, SourceInfo
from app.supervision.budget import RestartBudget
from app.supervision.health import OK, Health
from app.windower import Windower
from app.windows import Window

TICK_S = 0.02
QUIET_NS = 100_000_000  # when no item has come for so long, the clock closes windows; before, the items do
AWAY_NS = 50_000_000  # a busy machine let the loop sleep for so long
JUMP_US = 1_000_000  # a stream whose time falls back by more (or jumps ahead) has had its clock set: windows begin anew
MATCH_S = 1.0  # between two looks whether there is motion enough to compare the clocks of two devices
WALL_SET_US = 1_704_067_200_000_000  # 2024-01-01: a wall clock before that was never set since boot
QUICKEST_US = 10_000  # what the quickest batch may have been under way
LOST = ("late_events", "late_frames", "slow_frames", "excess_events", "empty_windows")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Stream:
    """One stream of a camera: when it gave data last."""

    state: str = "reconnecting"  # of state_payloads.STREAM_STATES
    reason: str | None = None
    last_us: int | None = None  # sensor time
    last_ns: int | None = None  # monotonic


class Camera:
    """Supervises one source; `run` never ends by itself.

    `open_source` may block and is called in a thread; it comes to an end soon when its event is set. `make_windower`
    takes the source's info and the index of the first window: indices go on where they were, because ids are made of
    them.
    """

    def __init__(
        self,
        name: str,
        open_source: Callable[[threading.Event], Source],
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
        self.sync: Sync | None = None  # frames' clock against events'; of one device, and before both were heard, None
        self.frames_without_clock = 0  # dropped: they came before the events whose clock they are put on
        self.on_item: Callable[[str, SourceInfo, Item], None] | None = None  # the recorder's
        self.on_state: Callable[[str], None] = lambda name: None
        self._open_source, self._make_windower, self._on_window = open_source, make_windower, on_window
        self._health = health
        self._stalled_s, self._frozen_s = stalled_after_s, frozen_after_s
        self._captured: CapturedSource | None = None  # the source, while it is open, if it is one of devices
        self._left_out = {"captured_events": 0, "captured_frames": 0}  # by captures that are over
        self._windower: Windower | None = None
        self._lost = dict.fromkeys(LOST, 0)  # by windowers that are gone
        self._next_index = 0
        self._now, self._arrival = SensorNow(), ArrivalClock()
        self._alignment: Alignment | None = None  # of a source of two devices
        self._last_ns = 0  # the newest item of any stream
        self._heard = asyncio.Event()

    @property
    def lost(self) -> dict[str, int]:
        """Events, frames and windows that came to nothing, by reason."""
        dropped = self._captured.dropped if self._captured else {}
        captured = {key: n + dropped.get(key.removeprefix("captured_"), 0) for key, n in self._left_out.items()}
        return self._windows_lost() | captured

    def _windows_lost(self) -> dict[str, int]:
        now = self._windower
        return {key: count + (getattr(now, key) if now else 0) for key, count in self._lost.items()}

    @property
    def clock(self) -> Clock:
        """The sensor's clock against the wall, now; nothing but what is published comes of the wall clock."""
        host_us, now_us = self._now.offset_us(), wall_us()
        if host_us is None or now_us < WALL_SET_US:
            return Clock()
        return Clock("sensor", now_us - time.monotonic_ns() // 1000 + host_us, QUICKEST_US)

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
            self._captured = source if isinstance(source, CapturedSource) else None
            return await self._read(source, source.info)
        except SourceError as error:
            return str(error)
        except Exception as error:  # a driver may raise anything; one camera must not end the others
            log.exception("source_failed", camera=self.name)
            return f"{type(error).__name__}: {error}"
        finally:
            if source is not None:
                lost, self._captured = self.lost, None
                self._left_out = {key: lost[key] for key in self._left_out}
                with contextlib.suppress(Exception):
                    await source.close()

    async def _open(self) -> Source:
        """In a thread. Cancelled meanwhile, it calls that off and closes what the thread may have opened."""
        called_off = threading.Event()
        opening = asyncio.ensure_future(asyncio.to_thread(self._open_source, called_off))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            called_off.set()
            with contextlib.suppress(SourceError):
                await (await opening).close()
            raise

    async def _read(self, source: Source, info: SourceInfo) -> str:
        self._begin(info)
        self._alignment, self.sync = None if info.one_clock else Alignment(info.resolution), None
        self._last_ns = time.monotonic_ns()
        for name, there in (("events", info.has_events), ("frames", info.has_frames)):
            self.streams[name].last_ns = self._last_ns if there else None
            self._tell(name, OK if there else "disabled", None if there else f"the source has no {name}")
        self.opened.set()
        log.info("source_opened", camera=self.name, source=info.name)
        reading = asyncio.create_task(self._items(source, info))
        watching = asyncio.create_task(self._watch(info))
        matching = [asyncio.create_task(self._match(self._alignment))] if self._alignment else []
        try:
            await asyncio.wait((reading, watching), return_when=asyncio.FIRST_COMPLETED)
            return watching.result() if watching.done() else reading.result()
        finally:
            for task in (reading, watching, *matching):
                task.cancel()
            await asyncio.gather(reading, watching, *matching, return_exceptions=True)
            self._end_windower()

    def _begin(self, info: SourceInfo) -> None:
        """Windows from here on have nothing to do with those before, but for their numbers."""
        self._end_windower()
        self._windower = self._make_windower(info, self._next_index)
        self._now, self._arrival = SensorNow(), ArrivalClock()
        for stream in self.streams.values():
            stream.last_us = None

    def _end_windower(self) -> None:
        if self._windower is None:
            return
        self._lost, self._next_index = self._windows_lost(), self._windower.next_index
        self._windower = None

    async def _items(self, source: Source, info: SourceInfo) -> str:
        async for item in source:
            if isinstance(item, Events) and not len(item):
                continue
            self._last_ns = time.monotonic_ns()
            aligned = self._on_event_clock(item, info)
            if aligned is None:
                self.frames_without_clock += 1
                continue
            t_us = int(aligned.t[-1]) if isinstance(aligned, Events) else aligned.t_us
            stream = self.streams["frames" if isinstance(aligned, Frame) else "events"]
            telling = isinstance(aligned, Events) or self._frames_tell_time(info)
            back = stream.last_us is not None and t_us < stream.last_us - JUMP_US
            if back or (telling and not self._arrival.observe(t_us, self._last_ns)):
                log.warning("sensor_clock_jumped", camera=self.name, was_us=stream.last_us, is_us=t_us)
                self._begin(info)
            if telling:
                self._now.observe(t_us, self._last_ns)
            stream.last_us, stream.last_ns = t_us, self._last_ns
            if self.on_item is not None:
                self.on_item(self.name, info, aligned)
            assert self._windower is not None
            self._give(self._windower.push(aligned))
        return f"the source ended: {getattr(source, 'ended_early', None) or 'no more data'}"

    def _frames_tell_time(self, info: SourceInfo) -> bool:
        """Frames that came another way may be long under way: they tell what time it is only without events."""
        if self._alignment is not None:
            return self._alignment.alone
        return info.one_stream or self.streams["events"].last_us is None

    def _on_event_clock(self, item: Item, info: SourceInfo) -> Item | None:
        """The item itself, or a frame of a second device with its time made that of the events; None: not yet."""
        if self._alignment is None:
            return item
        if isinstance(item, Frame):
            return self._alignment.frame(item, item.arrived_ns or self._last_ns)
        if self._alignment.events(item, self._last_ns):
            self._begin(info)
        return item

    async def _match(self, alignment: Alignment) -> None:
        """Now and then compare what both devices saw move; the sums are done in a thread."""
        while True:
            await asyncio.sleep(MATCH_S)
            if (motion := alignment.motion()) is not None:
                alignment.matched(motion, await asyncio.to_thread(match, motion))
            self.sync = alignment.sync

    async def _watch(self, info: SourceInfo) -> str:
        """Close windows on time, and tell a stalled stream from a frozen source; returns when it is frozen."""
        while True:
            slept_ns = time.monotonic_ns()
            await asyncio.sleep(TICK_S)
            if time.monotonic_ns() - slept_ns > AWAY_NS:
                await asyncio.sleep(TICK_S)  # the loop was away, not the data: they are read first
            at_ns, now_us = time.monotonic_ns(), self._now.now_us()
            events_ns = None if info.one_clock and info.one_stream else self.streams["events"].last_ns
            last_ns = self._last_ns if events_ns is None else events_ns  # frames of another device close nothing
            if at_ns - last_ns > QUIET_NS and now_us is not None and self._windower is not None:
                self._give(self._windower.tick(now_us - QUIET_NS // 1000))
            if at_ns - self._last_ns > self._frozen_s * 1e9:
                return f"frozen: nothing came for {self._frozen_s:g} s"
            trouble = self._captured.trouble if self._captured else {}
            for name, stream in self.streams.items():
                if stream.last_ns is None or stream.state == "disabled":
                    continue
                if name in trouble:
                    self._tell(name, "reconnecting", trouble[name])
                elif at_ns - stream.last_ns > self._stalled_s * 1e9:
                    self._tell(name, "stalled", f"no {name} for {self._stalled_s:g} s")
                else:
                    self._tell(name, OK)

    def _give(self, windows: list[Window]) -> None:
        line = self._arrival.line
        for window in windows:
            if line is not None:
                ends_us = line.host_us(window.end_us)
                lag_ms = 0.0 if window.partial else (window.closed_ns / 1000 - ends_us) / 1000
                window = replace(window, ends_ns=round(ends_us * 1000), lag_ms=round(max(0.0, lag_ms), 1))
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
