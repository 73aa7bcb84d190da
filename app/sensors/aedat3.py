"""AEDAT 3.1, as cAER and early DV write it: a text header, then packets of little-endian events of one type.

Read are polarity events (type 1) and frames (type 2); the other types are passed over. The origin is the upper left.
https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-3.1.html
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from app.sensors.aedat_header import davis_resolution, read_header
from app.sensors.contract import Events, SourceError
from app.sensors.file_source import CHUNK_EVENTS
from app.sensors.merging import LAST_EVENTS, RawFrame, end_of

PACKET = struct.Struct("<hhiiiiii")  # type, source, event size, time offset, time overflow, capacity, number, valid
POLARITY = np.dtype([("data", "<u4"), ("time", "<i4")])
FRAME = struct.Struct("<Iiiiiiiii")  # info, frame start and end, exposure start and end, width, height, x, y
POLARITY_TYPE, FRAME_TYPE, MAX_TYPE = 1, 2, 127
MAX_EVENT_BYTES = 64 << 20
MAX_SIDE = 1 << 13


@dataclass(frozen=True, slots=True)
class _Packet:
    kind: int
    at: int  # of its first event in the file
    event_size: int
    number: int
    overflow_us: int  # to add to its 31-bit times


class Aedat3:
    """One recording. An `EventFile`. Opening reads the packet headers and the events once. Raises SourceError."""

    def __init__(self, path: Path, resolution: tuple[int, int] | None = None) -> None:
        self._path = path
        self.notes: tuple[str, ...] = ()
        self.damage: str | None = None
        try:
            self._size = path.stat().st_size
            with path.open("rb") as file:
                header = read_header(file)
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: not a readable AEDAT recording: {error}") from error
        if header.version != "3.1":
            raise SourceError(f"{path}: AEDAT {header.version} is not supported; convert it to AEDAT 4 with DV")
        form = next((line for line in header.lines if line.startswith("Format:")), "Format: RAW")
        if "RAW" not in form.upper():
            raise SourceError(f"{path}: its data are compressed ({form}); convert it to AEDAT 4 with DV")
        self._data_at = header.size
        sources = [found[1].strip() for line in header.lines if (found := re.match(r"\s*Source \d+:(.*)", line))]
        self.camera = sources[0] if sources else ""
        try:
            highest = self._scan()
        except OSError as error:
            raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
        size = resolution or davis_resolution(self.camera)
        if size is None:
            size = highest
            self.notes += (f"its header names no known sensor; {size[0]} × {size[1]} holds all its events",)
        self.resolution = size

    def _packets(self, file: BinaryIO) -> Iterator[_Packet]:
        """Headers of the packets; a torn last packet is given with the events that are whole."""
        at = self._data_at
        while at < self._size:
            file.seek(at)
            head = file.read(PACKET.size)
            if len(head) < PACKET.size:
                self.damage = "truncated (it ends within a packet)"
                return
            kind, _, event_size, _, overflow, _, number, _ = PACKET.unpack(head)
            sane = 0 <= kind <= MAX_TYPE and 0 < event_size <= MAX_EVENT_BYTES and number >= 0 and overflow >= 0
            if not sane or (kind == POLARITY_TYPE and event_size != POLARITY.itemsize):
                self.damage = "damaged: what follows is no packet"
                return
            begin, at = at + PACKET.size, at + PACKET.size + event_size * number
            if at > self._size:
                self.damage = "truncated (it ends within a packet)"
                number = (self._size - begin) // event_size
            yield _Packet(kind, begin, event_size, number, overflow << 31)

    def _scan(self) -> tuple[int, int]:
        """Learn the time range and what streams there are; (width, height) that hold all events."""
        width = height = 1
        first_us = 0
        last = np.empty(0, np.int64)
        self.has_events = self.has_frames = False
        for run in self.events(0):
            first_us = first_us if self.has_events else int(run.t[0])
            self.has_events = True
            last = np.concatenate([last, run.t[-LAST_EVENTS:]])[-LAST_EVENTS:]
            width, height = max(width, int(run.x.max()) + 1), max(height, int(run.y.max()) + 1)
        start_us, end_us = (first_us, end_of(last)) if self.has_events else (0, 0)
        with self._path.open("rb") as file:
            for packet in self._packets(file):
                if packet.kind != FRAME_TYPE or packet.event_size < FRAME.size:
                    continue
                for index in range(packet.number):
                    if (t_us := self._frame_time(file, packet, index)) is not None:
                        start_us = min(start_us, t_us) if self.has_events or self.has_frames else t_us
                        end_us, self.has_frames = max(end_us, t_us + 1), True
        self.start_us, self.end_us = start_us, end_us
        return width, height

    def _frame_time(self, file: BinaryIO, packet: _Packet, index: int) -> int | None:
        """The middle of a valid frame's exposure."""
        file.seek(packet.at + index * packet.event_size)
        head = file.read(FRAME.size)
        info, start, _, exposed_from, exposed_to, *_ = FRAME.unpack(head)
        middle = (exposed_from + exposed_to) // 2 if 0 < exposed_from <= exposed_to else start
        return packet.overflow_us + middle if info & 1 else None

    def events(self, start_us: int) -> Iterator[Events]:
        with self._path.open("rb") as file:
            for packet in self._packets(file):
                if packet.kind != POLARITY_TYPE:
                    continue
                for first in range(0, packet.number, CHUNK_EVENTS):
                    file.seek(packet.at + first * POLARITY.itemsize)
                    count = min(CHUNK_EVENTS, packet.number - first)
                    events = np.frombuffer(file.read(count * POLARITY.itemsize), POLARITY)
                    events = events[events["data"] & 1 == 1]  # filters mark events invalid instead of removing them
                    if not len(events) or packet.overflow_us + int(events["time"][-1]) < start_us:
                        continue
                    data = events["data"].astype(np.uint32)
                    yield Events(
                        events["time"].astype(np.int64) + packet.overflow_us,
                        (data >> 17).astype(np.int16),
                        ((data >> 2) & 0x7FFF).astype(np.int16),
                        ((data >> 1) & 1).astype(np.uint8),
                    )

    def frames(self, start_us: int) -> Iterator[RawFrame]:
        with self._path.open("rb") as file:
            for packet in self._packets(file):
                if packet.kind != FRAME_TYPE or packet.event_size < FRAME.size:
                    continue
                for index in range(packet.number):
                    t_us = self._frame_time(file, packet, index)
                    if t_us is None or t_us < start_us:
                        continue
                    file.seek(packet.at + index * packet.event_size)
                    yield RawFrame(t_us, _image(file.read(packet.event_size)))

    def close(self) -> None:
        """Nothing is held open."""


def _image(data: bytes) -> np.typing.NDArray[np.uint8]:
    """uint8 [H, W] or [H, W, 3] of a frame event, whose pixels use all 16 bits. Raises ValueError."""
    info, *_, width, height, _, _ = FRAME.unpack_from(data)
    channels = (info >> 1) & 0b111
    if channels not in (1, 3, 4) or not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"a frame claims {width} × {height} pixels of {channels} channels")
    count = width * height * channels
    if FRAME.size + 2 * count > len(data):
        raise ValueError("a frame is larger than its event")
    pixels = (np.frombuffer(data, "<u2", count, FRAME.size) >> 8).astype(np.uint8)
    image = pixels.reshape(height, width, channels)
    return image[:, :, 0] if channels == 1 else np.ascontiguousarray(image[:, :, :3])
