"""Events and frames on a pipe between two of our processes: messages of one kind byte, a uint32 length, the payload.

I  JSON: what the source is (first, once)             X  JSON {"error"}: it cannot be read (any further)
E  events: t int64[n], x int16[n], y int16[n], p uint8[n]
F  a frame: int64 t_us, uint32 exposure_us, height, width, channels, then uint8 [H, W, C], RGB or grey
D  JSON {"events", "frames"}: how many a live capture has left out so far
Z  JSON {"ended_early", "dropped"}: the end
"""

from __future__ import annotations

import struct
import time
from typing import BinaryIO

import numpy as np

from app.sensors.contract import Events, Frame, Item

HEADER = struct.Struct("<cI")
FRAME = struct.Struct("<qIIII")


def read_message(pipe: BinaryIO) -> tuple[bytes, bytes]:
    """The next message, blocking; kind b"" where the pipe ends or a message is torn."""
    header = pipe.read(HEADER.size)
    if len(header) < HEADER.size:
        return b"", b""
    kind, size = HEADER.unpack(header)
    payload = pipe.read(size)
    return (kind, payload) if len(payload) == size else (b"", b"")


def pack(item: Item) -> bytes:
    """A whole message, header included."""
    if isinstance(item, Events):
        parts = item.t.tobytes(), item.x.tobytes(), item.y.tobytes(), item.p.tobytes()
        return b"".join((HEADER.pack(b"E", 13 * len(item)), *parts))
    image = item.image[:, :, :1] if item.grey else item.image
    head = HEADER.pack(b"F", FRAME.size + image.size), FRAME.pack(item.t_us, item.exposure_us, *image.shape)
    return b"".join((*head, image.tobytes()))


def unpack_events(payload: bytes) -> Events:
    """The columns of one message; 13 bytes an event."""
    n = len(payload) // 13
    return Events(
        np.frombuffer(payload, np.int64, n, 0),
        np.frombuffer(payload, np.int16, n, 8 * n),
        np.frombuffer(payload, np.int16, n, 10 * n),
        np.frombuffer(payload, np.uint8, n, 12 * n),
    )


def unpack_frame(payload: bytes) -> Frame:
    """The image of one message, grey ones as three equal channels; it arrives now."""
    t_us, exposure_us, height, width, channels = FRAME.unpack_from(payload)
    image = np.frombuffer(payload, np.uint8, offset=FRAME.size).reshape(height, width, channels)
    grey = channels == 1
    if grey:
        image = np.repeat(image, 3, axis=2)
    return Frame(t_us, image, time.monotonic_ns(), grey, exposure_us)
