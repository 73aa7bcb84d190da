"""Writes what comes through standard input as AEDAT4, in a process of its own: dv-processing holds the GIL.

The file has its name from the beginning: what a power cut or a SIGKILL leaves behind replays up to the tear. The end
of standard input ends it properly.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import dv_processing as dv

from app.sensors.contract import Events, Frame, Item
from app.sensors.dv_data import dv_frame
from app.sensors.protocol import read_message, unpack_events, unpack_frame
from app.sensors.writer import event_store

WAIT_US = 2_000_000  # so long the size of the frames is waited for
LARGEST = (1 << 13, 1 << 13)  # declared after that: for dv-processing a stream's size is what its frames may not exceed


def items(pipe: BinaryIO) -> Iterator[Item]:
    """What comes through the pipe, to its end."""
    while (message := read_message(pipe))[0]:
        kind, payload = message
        yield unpack_events(payload) if kind == b"E" else unpack_frame(payload)


def record(path: str, name: str, resolution: tuple[int, int], source: Iterator[Item]) -> None:
    """Write events of a sensor of `resolution` (width, height) and frames no larger than the first; each stream comes
    in time order. Raises RuntimeError when the file cannot be written.
    """
    waiting: list[Item] = []
    writer: Any = None
    first_us: int | None = None
    for item in source:
        begin_us, end_us = (int(item.t[0]), int(item.t[-1])) if isinstance(item, Events) else (item.t_us, item.t_us)
        first_us = begin_us if first_us is None else first_us
        waiting.append(item)
        if writer is None and (isinstance(item, Frame) or end_us - first_us > WAIT_US):
            size = (item.image.shape[1], item.image.shape[0]) if isinstance(item, Frame) else LARGEST
            writer = _open(path, name, resolution, size)
        if writer is not None:
            for one in waiting:
                _write(writer, one)
            waiting.clear()
    if writer is None:
        writer = _open(path, name, resolution, resolution)
        for one in waiting:
            _write(writer, one)


def _open(path: str, name: str, resolution: tuple[int, int], frames: tuple[int, int]) -> Any:
    config = dv.io.MonoCameraWriter.Config(name, dv.CompressionType.LZ4)  # quick: it runs beside the models
    config.addEventStream(resolution)
    config.addFrameStream(frames, "frames")
    return dv.io.MonoCameraWriter(path, config)


def _write(writer: Any, item: Item) -> None:
    if isinstance(item, Events):
        writer.writeEvents(event_store(item))
    else:
        writer.writeFrame(dv_frame(item), streamName="frames")


def main(argv: list[str]) -> None:
    """`recorder PATH NAME WIDTH HEIGHT`"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us, by closing the pipe
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    path, name, width, height = argv
    record(path, name, (int(width), int(height)), items(sys.stdin.buffer))


if __name__ == "__main__":
    main(sys.argv[1:])
