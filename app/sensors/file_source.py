"""What sources that read a file in this process share: seeking, merging, checking, and telling what was wrong.

A format supplies an `EventFile`; `FileSource` makes a `RecordedSource` of it, `describe` counts what it holds.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from app.sensors.contract import Events, Frame, Item, SourceError, SourceInfo
from app.sensors.events import batches, cut, select
from app.sensors.merging import BATCH_US, LONGEST_US, RawFrame, first_line, merged, sane
from app.sensors.recording import RecordingInfo

CHUNK_EVENTS = 1 << 16  # decoded at once: what bounds memory, and how long one call holds the interpreter
ITEMS_A_HOP = 16

T = TypeVar("T")


class EventFile(Protocol):
    """An open file of events, and of frames where it has them. The two streams are read independently."""

    camera: str
    resolution: tuple[int, int]  # (width, height)
    has_events: bool
    has_frames: bool
    start_us: int  # first and one past the last sensor time of the whole file
    end_us: int
    notes: tuple[str, ...]  # without the file's name
    damage: str | None  # why the end of the file is not what was recorded

    def events(self, start_us: int) -> Iterator[Events]:
        """Runs of ≤ CHUNK_EVENTS in file order; may begin before `start_us`. Raises OSError, ValueError, RuntimeError.

        An event that cannot be placed on the sensor has an x of -1; it is counted and dropped.
        """

    def frames(self, start_us: int) -> Iterator[RawFrame]:
        """Frames in file order; may begin before `start_us`. Raises OSError, ValueError, RuntimeError."""

    def close(self) -> None: ...


class Checked:
    """Both streams of a file merged over [start, end), holding only what such a sensor can have sent."""

    def __init__(self, file: EventFile, start_us: int, end_us: int) -> None:
        self._file, self._start_us, self._end_us = file, start_us, end_us
        self.dropped = 0  # outside the sensor or out of time order

    def __iter__(self) -> Iterator[Events | RawFrame]:
        """In sensor-time order; what damage hides is told in the file's `damage`."""
        events = self._guarded(self._events) if self._file.has_events else iter(())
        frames = self._guarded(self._frames) if self._file.has_frames else iter(())
        return merged(events, frames)

    def _guarded(self, stream: Callable[[], Iterator[T]]) -> Iterator[T]:
        try:
            yield from stream()
        except (OSError, ValueError, RuntimeError) as error:
            self._file.damage = f"damaged: {first_line(error)}"

    def _events(self) -> Iterator[Events]:
        last_us = self._file.start_us
        for run in self._file.events(self._start_us):
            good = sane(run, self._file.resolution, last_us, self._file.end_us)
            if not good.all():
                self.dropped += int(len(good) - np.count_nonzero(good))
                run = select(run, good)
            if not len(run):
                continue
            last_us = int(run.t[-1])
            kept = cut(run, self._start_us, self._end_us)
            if len(kept):
                yield from batches(kept, self._start_us, BATCH_US)
            if last_us >= self._end_us:
                return

    def _frames(self) -> Iterator[RawFrame]:
        last_us = self._start_us
        for frame in self._file.frames(self._start_us):
            if frame.t_us >= self._end_us:
                return
            if frame.t_us >= last_us and frame.image.size:
                last_us = frame.t_us
                yield frame


class FileSource:
    """One pass over a file, as fast as it is consumed: events in batches of ≤ 5 ms and frames, in time order.

    `start_s` and `duration_s` count from the file's first sensor time. The reading is done in a worker thread, a few
    batches at a time. Raises SourceError (one line) when there is nothing to play.
    """

    def __init__(
        self, path: str | Path, file: EventFile, start_s: float = 0.0, duration_s: float | None = None
    ) -> None:
        self._path, self._file = Path(path), file
        try:
            self._check(start_s, duration_s)
        except SourceError:
            file.close()
            raise
        self.origin_us = file.start_us  # first sensor time of the whole file
        start_us = file.start_us + round(start_s * 1e6)
        end_us = file.end_us if duration_s is None else min(file.end_us, start_us + round(duration_s * 1e6))
        self._info = SourceInfo(
            name=file.camera or self._path.stem,
            resolution=file.resolution,
            has_events=file.has_events,
            has_frames=file.has_frames,
            live=False,
            start_us=start_us,
            end_us=end_us,
        )
        self._checked = Checked(file, start_us, end_us)
        self._items = iter(self._checked)
        self._lock = threading.Lock()  # a read that was abandoned may still be at work when the file is closed
        self._closed = False
        self._damage_known = file.damage  # of the end of the whole file
        self._count, self._last_us = 0, start_us
        self.ended_early: str | None = None

    def _check(self, start_s: float, duration_s: float | None) -> None:
        file, damage = self._file, f" ({self._file.damage})" if self._file.damage else ""
        if start_s < 0 or (duration_s is not None and duration_s <= 0):
            raise SourceError(f"{self._path}: the start must be ≥ 0 s and the duration > 0 s")
        if not file.has_events and not file.has_frames:
            raise SourceError(f"{self._path}: holds no events and no frames{damage}; there is nothing to caption")
        if not 0 < file.end_us - file.start_us <= LONGEST_US:
            raise SourceError(f"{self._path}: its timestamps are damaged; record or convert it again")
        length_s = (file.end_us - file.start_us) / 1e6
        if start_s >= length_s:
            raise SourceError(f"{self._path}: --start {start_s:g} s is past its end; it lasts {length_s:.3f} s{damage}")

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def dropped_events(self) -> int:
        return self._checked.dropped

    @property
    def notes(self) -> tuple[str, ...]:
        none = () if self._info.has_events else ("no events: the target captions alone",)
        return tuple(f"{self._path}: {note}" for note in (*self._file.notes, *none))

    def _pull(self) -> list[Events | RawFrame]:
        with self._lock:
            return [] if self._closed else list(islice(self._items, ITEMS_A_HOP))

    async def __aiter__(self) -> AsyncIterator[Item]:
        while not self._closed and (some := await asyncio.to_thread(self._pull)):
            for item in some:
                if self._closed:
                    return
                if isinstance(item, Events):
                    self._count, self._last_us = self._count + len(item), int(item.t[-1])
                    yield item
                else:
                    self._last_us = item.t_us
                    grey = item.image.ndim == 2
                    image = np.repeat(item.image[:, :, None], 3, axis=2) if grey else item.image
                    yield Frame(item.t_us, image, time.monotonic_ns(), grey)
        if self._file.damage and not self._closed and self._reached_the_tear():
            at_s = (self._last_us - self.origin_us) / 1e6
            told = f"{self._file.damage} at {at_s:.1f} s; {self._count:,} events before it were read"
            self.ended_early = f"{self._path}: {told}"

    def _reached_the_tear(self) -> bool:
        """A `duration_s` that ends before the damage was played in full."""
        return self._info.end_us == self._file.end_us or self._file.damage != self._damage_known

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            self._items = iter(())
            self._file.close()


def describe(path: str | Path, file: EventFile) -> RecordingInfo:
    """Read all of a file and count what it holds; closes it. Raises SourceError."""
    try:
        return _describe(path, file)
    finally:
        file.close()


def _describe(path: str | Path, file: EventFile) -> RecordingInfo:
    checked = Checked(file, file.start_us, file.end_us)
    events = frames = 0
    first_us: int | None = None
    last_us = file.start_us
    size: tuple[int, int] | None = None
    grey: bool | None = None
    for item in checked:
        if isinstance(item, Events):
            events += len(item)
            first_us = int(item.t[0]) if first_us is None else first_us
            last_us = int(item.t[-1])
        else:
            frames += 1
            size, grey = (item.image.shape[1], item.image.shape[0]), item.image.ndim == 2
    if not events and not frames:
        raise SourceError(f"{path}: holds no events and no frames; there is nothing in it")
    return RecordingInfo(
        path=str(path),
        camera=file.camera,
        streams=(*(("events",) if file.has_events else ()), *(("frames",) if file.has_frames else ())),
        resolution=file.resolution,
        start_us=file.start_us,
        end_us=file.end_us,
        events=events,
        frames=frames,
        imu=0,
        triggers=0,
        events_span_us=last_us - first_us + 1 if first_us is not None else 0,
        frame_size=size,
        grey=grey,
        damage=file.damage,
        dropped_events=checked.dropped,
    )


def chunks(events: Events) -> Iterator[Events]:
    for first in range(0, len(events), CHUNK_EVENTS):
        yield select(events, slice(first, first + CHUNK_EVENTS))
