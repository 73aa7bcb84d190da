"""Reads an AEDAT4 file through dv-processing in a process of its own and writes what it holds to a pipe.

Why a process: dv-processing is C++ that holds the GIL for whole calls, never returns from some damaged packets and may
crash on others. Here none of that reaches the event loop; an alarm ends the process when one call stalls, and the pipe
bounds memory.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import dv_processing as dv
import numpy as np

from app.sensors.aedat4 import NO_TABLE, copy_without_table, table_position
from app.sensors.contract import Events
from app.sensors.dv_data import events_of, exposure_of, image_of
from app.sensors.events import batches, cut, select
from app.sensors.merging import BATCH_US, LONGEST_US, RawFrame, first_line, merged, sane
from app.sensors.protocol import FRAME, HEADER

SEEK_STEP_US = 100_000  # one random access; doubled over empty stretches
SEEK_STEP_MAX_US = 2_000_000
MEMORY_BYTES = 6 << 30  # a damaged length must not take the machine down

T = TypeVar("T")


class Unreadable(Exception):
    """The file holds nothing that can be read; the text says why, without the file's name."""


def reason_of(error: BaseException) -> str:
    """dv-processing's errors carry C++ traces of many lines; the sentence in them that a person can use."""
    if "End-Of-File" in str(error):
        return "it ends before its first packet"
    return first_line(error).removeprefix("AEDAT4.0: ").rstrip(".")


class Reader:
    """One open recording: peeks at both streams, then yields events and frames in time order."""

    def __init__(self, path: Path, folder: Path, stall_s: float) -> None:
        """`folder` may take a copy for as long as it is opened. Raises Unreadable, RuntimeError, OSError."""
        self._path, self._folder, self._stall_s = path, folder, stall_s
        self.damage: str | None = None  # why the end of the recording is not what was recorded
        self.dropped = 0  # events that no sensor of this size could have sent at that time
        self._recording = self._open()
        self.streams = list(self._recording.getStreamNames())
        self.has_events = self._first("E")
        self.has_frames = self._first("F")
        first, last = (int(t) for t in self._recording.getTimeRange())
        if (self.has_events or self.has_frames) and not 0 <= last - first <= LONGEST_US:
            raise Unreadable("its timestamps are damaged")
        self.start_us, self.end_us = first, last + 1
        self.resolution = self._resolution()
        self._call(self._recording.resetSequentialRead)

    def _call(self, function: Callable[..., T], *args: Any, seconds: float | None = None) -> T:
        """A call into dv-processing; the alarm's default action ends this process even while C++ holds the GIL."""
        signal.setitimer(signal.ITIMER_REAL, seconds or self._stall_s)
        try:
            return function(*args)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _open(self) -> Any:
        scan_s = 3 * self._stall_s + self._path.stat().st_size / 20e6  # without a table dv reads every packet
        try:
            found = table_position(self._path)
            position = found[1] if found is not None else NO_TABLE
            if position == NO_TABLE:
                self.damage = "never closed (file table missing)"
            return self._call(dv.io.MonoCameraRecording, str(self._path), seconds=scan_s)
        except ValueError as error:
            raise Unreadable(str(error)) from error
        except RuntimeError as error:
            if self.damage is not None:  # it was opened without a table: there is no other way to read it
                raise Unreadable(reason_of(error)) from error
            reason = reason_of(error)
        self.damage = f"damaged: {reason}"
        if position >= self._path.stat().st_size or "not present" in reason:
            self.damage = "truncated (file table missing)"
        copy = self._folder / "recording.aedat4"
        copy_without_table(self._path, copy)
        try:
            return self._call(dv.io.MonoCameraRecording, str(copy), seconds=scan_s)
        except RuntimeError as error:
            raise Unreadable(reason) from error
        finally:
            copy.unlink()  # an open file outlives its name

    def _first(self, kind: str) -> bool:
        """Whether a stream holds anything: recorders declare streams that stay empty."""
        r = self._recording
        try:
            if kind == "E":
                return bool(r.isEventStreamAvailable() and self._call(r.getNextEventBatch) is not None)
            return bool(r.isFrameStreamAvailable() and self._call(r.getNextFrame) is not None)
        except RuntimeError as error:
            self.damage = f"damaged: {reason_of(error)}"
            return False

    def _resolution(self) -> tuple[int, int]:
        r = self._recording
        size = r.getEventResolution() if r.isEventStreamAvailable() else None
        if size is None and r.isFrameStreamAvailable():
            size = r.getFrameResolution()
        width, height = (int(side) for side in size) if size is not None else (0, 0)
        if (self.has_events or self.has_frames) and not (0 < width < 1 << 15 and 0 < height < 1 << 15):
            raise Unreadable(f"its resolution is damaged ({width} × {height})")
        return width, height

    def info(self) -> dict[str, Any]:
        return {
            "camera": str(self._recording.getCameraName()),
            "resolution": self.resolution,
            "has_events": self.has_events,
            "has_frames": self.has_frames,
            "start_us": self.start_us,
            "end_us": self.end_us,
            "streams": self.streams,
            "damage": self.damage,
        }

    def _stores(self, start_us: int, end_us: int) -> Iterator[Any]:
        """Event stores that cover [start_us, end_us), in order; sequential where nothing is skipped."""
        if start_us <= self.start_us:
            while (store := self._call(self._recording.getNextEventBatch)) is not None:
                yield store
                if len(store) and store.getHighestTime() >= end_us:
                    return
            return
        at, step = start_us, SEEK_STEP_US
        while at < end_us:
            store = self._call(self._recording.getEventsTimeRange, at, min(at + step, end_us))
            found = store is not None and len(store) > 0
            if found and step > SEEK_STEP_US:  # past an empty stretch: come back with a step that bounds memory
                at, step = store.getLowestTime(), SEEK_STEP_US
                continue
            if found:
                yield store
            at, step = at + step, SEEK_STEP_US if found else min(step * 2, SEEK_STEP_MAX_US)

    def _events(self, start_us: int, end_us: int) -> Iterator[Events]:
        """Batches of at most BATCH_US, of events a sensor of this size can have sent, time never running backwards."""
        last_us = self.start_us
        for store in self._stores(start_us, end_us):
            events = events_of(store)
            good = sane(events, self.resolution, last_us, self.end_us)
            if not good.all():
                self.dropped += int(len(good) - np.count_nonzero(good))
                events = select(events, good)
            if len(events):
                last_us = int(events.t[-1])
                yield from batches(cut(events, start_us, end_us), start_us, BATCH_US)

    def _frames(self, start_us: int, end_us: int) -> Iterator[RawFrame]:
        last_us = start_us
        while (frame := self._call(self._recording.getNextFrame)) is not None:
            if frame.timestamp >= end_us:
                return
            if frame.timestamp < last_us:
                continue
            last_us = int(frame.timestamp)
            image = image_of(frame)
            if image is not None:
                yield RawFrame(last_us, image, exposure_of(frame))

    def items(self, start_us: int, end_us: int) -> Iterator[Events | RawFrame]:
        """Events and frames of [start_us, end_us) in time order; what damage hides is told in `damage`."""
        events = self._guarded(self._events(start_us, end_us)) if self.has_events else iter(())
        frames = self._guarded(self._frames(start_us, end_us)) if self.has_frames else iter(())
        return merged(events, frames)

    def _guarded(self, stream: Iterator[T]) -> Iterator[T]:
        try:
            yield from stream
        except RuntimeError as error:
            self.damage = f"damaged: {reason_of(error)}"

    def describe(self) -> dict[str, Any]:
        """Counts of everything, by reading all of it."""
        r, counts, last = self._recording, {"events": 0, "frames": 0, "imu": 0, "triggers": 0}, self.start_us
        first: int | None = None
        grey: bool | None = None
        size: tuple[int, int] | None = None
        for item in self.items(self.start_us, self.end_us):
            if isinstance(item, Events):
                counts["events"] += len(item)
                first = int(item.t[0]) if first is None else first
                last = int(item.t[-1])
            else:
                counts["frames"] += 1
                grey, size = item.image.ndim == 2, (item.image.shape[1], item.image.shape[0])
        for name, available, read in (
            ("imu", r.isImuStreamAvailable, r.getNextImuBatch),
            ("triggers", r.isTriggerStreamAvailable, r.getNextTriggerBatch),
        ):
            try:
                while available() and (batch := self._call(read)) is not None:
                    counts[name] += len(batch)
            except RuntimeError as error:
                self.damage = self.damage or f"damaged: {reason_of(error)}"
        return self.info() | {
            "counts": counts,
            "grey": grey,
            "frame_size": size,
            "events_span_us": last - first + 1 if first is not None else 0,
            "dropped": self.dropped,
            "damage": self.damage,
        }


def main(argv: list[str]) -> None:
    """`reader FD PATH FOLDER STALL_S describe` or `… START_S DURATION_S` (negative: to the end)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    pipe = os.fdopen(int(argv[0]), "wb")

    def send(kind: bytes, *parts: bytes) -> None:
        pipe.write(HEADER.pack(kind, sum(len(part) for part in parts)))
        for part in parts:
            pipe.write(part)
        pipe.flush()

    def send_json(kind: bytes, value: dict[str, Any]) -> None:
        send(kind, json.dumps(value).encode())

    try:
        reader = Reader(Path(argv[1]), Path(argv[2]), float(argv[3]))
        if argv[4] == "describe":
            send_json(b"I", reader.describe())
            return
        start_us = reader.start_us + round(float(argv[4]) * 1e6)
        duration_us = round(float(argv[5]) * 1e6)
        end_us = reader.end_us if duration_us < 0 else min(reader.end_us, start_us + duration_us)
        send_json(b"I", reader.info())
        for item in reader.items(start_us, end_us):
            if isinstance(item, Events):
                send(b"E", item.t.tobytes(), item.x.tobytes(), item.y.tobytes(), item.p.tobytes())
            else:
                image = item.image
                channels = image.shape[2] if image.ndim == 3 else 1
                send(b"F", FRAME.pack(item.t_us, item.exposure_us, *image.shape[:2], channels), image.tobytes())
        send_json(b"Z", {"ended_early": reader.damage, "dropped": reader.dropped})
    except BrokenPipeError:
        os._exit(0)  # nobody listens any more
    except Unreadable as error:
        send_json(b"X", {"error": str(error)})
    except Exception as error:
        send_json(b"X", {"error": reason_of(error)})


if __name__ == "__main__":
    main(sys.argv[1:])
