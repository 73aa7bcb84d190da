"""Writes AEDAT4 recordings through dv-processing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dv_processing as dv

from app.sensors.contract import Events, Frame, Item, SourceError
from app.sensors.dv_data import dv_frame

IMU_PERIOD_US = 5_000
LONGEST_GAP_US = 1_000_000


class _Imu:
    """An inertial sensor at rest, upright as a DAVIS346 sees itself: gravity is -1 g along y, nothing turns."""

    def __init__(self, writer: Any) -> None:
        self._writer, self._due_us = writer, -LONGEST_GAP_US

    def until(self, t_us: int) -> None:
        if not 0 <= t_us - self._due_us < LONGEST_GAP_US:  # the first time, or the recording skips
            self._due_us = t_us
        while self._due_us <= t_us:
            self._writer.writeImu(dv.IMU(self._due_us, 25.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
            self._due_us += IMU_PERIOD_US


def event_store(events: Events) -> Any:
    """Events as dv-processing wants them: one call each (0.4 µs), there is no other way in."""
    store = dv.EventStore()
    push = store.push_back
    columns = events.t.tolist(), events.x.tolist(), events.y.tolist(), events.p.astype(bool).tolist()
    for t, x, y, p in zip(*columns, strict=True):
        push(t, x, y, p)
    return store


def write_recording(
    path: str | Path, items: Iterable[Item], resolution: tuple[int, int], name: str, compress: bool = True
) -> tuple[int, int]:
    """Write events, frames and a resting IMU, and say how many events and frames; both are of `resolution` (w, h).

    `items` come in time order and may be a generator: they are written as they come. The file appears under its name
    only when it is complete. Raises SourceError when it cannot be written or the items run backwards.
    """
    path = Path(path)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise SourceError(f"{path}: cannot write there; {path.parent} is not a folder you may write to")
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.aedat4")  # dv-processing insists on the suffix
    config = dv.io.MonoCameraWriter.Config(name, dv.CompressionType.ZSTD if compress else dv.CompressionType.NONE)
    config.addEventStream(resolution)
    config.addFrameStream(resolution, "frames")
    config.addImuStream()
    events = frames = 0
    try:
        writer = dv.io.MonoCameraWriter(str(unfinished), config)
        imu = _Imu(writer)
        try:
            for item in items:
                if isinstance(item, Frame):
                    imu.until(item.t_us)
                    writer.writeFrame(dv_frame(item), streamName="frames")
                    frames += 1
                elif len(item):
                    imu.until(int(item.t[-1]))
                    writer.writeEvents(event_store(item))
                    events += len(item)
        finally:
            del imu, writer  # the writer closes its file when nothing refers to it
        os.replace(unfinished, path)
    except RuntimeError as error:
        raise SourceError(f"{path}: cannot be written: {str(error).strip().splitlines()[0]}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return events, frames
